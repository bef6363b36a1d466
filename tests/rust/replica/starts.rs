//! D4: a start that something prevents names it.

use std::path::Path;
use std::sync::Arc;

use raftwork::base::Error;
use raftwork::disk::fake::{Fault, Op};
use raftwork::disk::{Disk, FakeDisk, Identity};
use raftwork::machine::Machine;
use raftwork::replica::write_state;
use raftwork::snapshot::SnapshotStore;
use raftwork::wal::{Group, HardState, Mark, Wal, WalConfig};

use super::{disk, open, DIR};

const INSTALLED: Mark = Mark { index: 100, term: 7 };

/// Damages the newest write of the log, as a power cut does.
fn tear(disk: &FakeDisk) {
    let log = Path::new(DIR).join("wal");
    let names = disk.list(&log).expect("the log can be listed");
    let newest = log.join(names.iter().rev().find(|name| name.starts_with("w-")).expect("a segment"));
    let bytes = disk.content(&newest).expect("it is there");
    disk.flip(&newest, bytes.iter().rposition(|byte| *byte != 0).expect("something was written"), 1);
}

/// A member that got its state from another one: its log begins behind the newest snapshot, and the older one is of no use.
fn installed() -> FakeDisk {
    let disk = disk(3);
    drop(open(&disk).expect("a new directory"));
    let (dir, shared) = (Path::new(DIR), Arc::new(disk.clone()));
    let identity = Identity::load(&disk, dir).expect("it can be read").expect("it is there");
    write_state(shared.clone(), dir, &identity, &Machine::new(), INSTALLED, &[identity.node]).expect("a snapshot");
    let (mut wal, _) = Wal::open(shared.clone(), dir, &identity, WalConfig::default()).expect("a log");
    let hard_state = HardState { term: INSTALLED.term, vote: 0, commit: INSTALLED.index };
    wal.append_group(&Group { hard_state: Some(hard_state), mark: Some(INSTALLED), restart: true, ..Group::default() })
        .expect("room");
    let snapshots = SnapshotStore::open(shared, dir, &identity).expect("snapshots");
    wal.drop_before(snapshots.log_needed_from()).expect("the old log goes");
    disk
}

#[test]
fn d4_a_start_that_a_failed_read_prevents_names_that_read() {
    let whole = installed();
    let before = whole.count(Op::Read);
    open(&whole.fork()).expect("nothing fails");
    let mut refused = 0;
    for number in 1..=30 {
        let failing = whole.fork();
        failing.fail(Op::Read, before + number, Fault::Eio, false);
        if let Err(error) = open(&failing).map(drop) {
            refused += 1;
            assert!(error.to_string().contains("os error 5"), "read {number}: {error}");
            open(&failing).unwrap_or_else(|error| panic!("the next start after read {number}: {error}"));
        }
    }
    assert!(refused > 2, "only {refused} reads prevented the start");
}

#[test]
fn d4_a_start_that_a_damaged_snapshot_prevents_names_its_file_and_place() {
    let damaged = installed();
    let newest = Path::new(DIR).join("snap").join("c-00000000000000000100-7.rws");
    let bytes = damaged.content(&newest).expect("it is there").len();
    damaged.flip(&newest, bytes / 2, 3);
    let Err(error) = open(&damaged).map(drop) else { panic!("it started") };
    let Error::Corrupt { path, message, .. } = &error else { panic!("{error}") };
    assert_eq!(Path::new(path), newest);
    assert!(message.contains("the newest whole snapshot is at 1"), "{message}");
    assert!(damaged.list(&Path::new(DIR).join("snap")).expect("it can be listed").len() > 1, "nothing was removed");
}

#[test]
fn d4_a_log_that_begins_behind_the_snapshot_is_refused_also_when_its_end_is_torn() {
    let disk = installed();
    // It leads, so that the newest write is another one than that of the snapshot's place.
    drop(open(&disk).expect("it is whole"));
    let newest = Path::new(DIR).join("snap").join("c-00000000000000000100-7.rws");
    let bytes = disk.content(&newest).expect("it is there").len();
    disk.flip(&newest, bytes / 2, 3);
    tear(&disk);
    let Err(error) = open(&disk).map(drop) else { panic!("it started from the older snapshot") };
    assert!(matches!(&error, Error::Corrupt { .. }), "{error}");
}
