//! A damaged log: what the report says, and what a salvage keeps. The files as they were are always kept.

use std::path::PathBuf;
use std::sync::Arc;

use raftwork::base::Error;
use raftwork::disk::{Disk, FakeDisk, Identity};
use raftwork::wal::{inspect_on, salvage_on, segment, Mark, WalEntry};

use crate::crash::workload::{dir, disk, open};
use crate::storage::{entry, identity, state};

/// A log of three segments with one entry a group.
fn log() -> (FakeDisk, Vec<WalEntry>) {
    let source = disk(1);
    let (mut wal, _) = open(&source, &identity(), true).expect("it opens");
    identity().store(&source, &dir()).expect("room");
    let entries: Vec<_> = (1..=14).map(|index| entry(index, 1, 600)).collect();
    for entry in &entries {
        wal.append(state(1, entry.index - 1), std::slice::from_ref(entry)).expect("room");
    }
    (source, entries)
}

fn segments(disk: &FakeDisk) -> Vec<PathBuf> {
    let dir = dir().join("wal");
    disk.list(&dir).expect("a list").iter().map(|name| dir.join(name)).collect()
}

/// Damages one byte of the group that holds this entry, and returns the file.
fn damage(disk: &FakeDisk, index: u64) -> PathBuf {
    let data = entry(index, 1, 600).data;
    for path in segments(disk) {
        let mut bytes = disk.content(&path).expect("it is listed");
        if let Some(at) = bytes.windows(data.len()).position(|window| window == &data[..]) {
            bytes[at + 300] ^= 0x10;
            disk.put(&path, &bytes);
            return path;
        }
    }
    panic!("entry {index} is not in the log");
}

#[test]
fn a_healthy_log_is_described_and_salvage_leaves_it_alone() {
    let (disk, entries) = log();
    let before: Vec<_> = segments(&disk).iter().map(|path| disk.content(path)).collect();
    let report = inspect_on(&disk, &dir()).expect("it can be read");
    assert!(report.is_healthy());
    assert_eq!((report.first_index, report.last_index, report.segments.len()), (1, entries.len() as u64, 3));
    assert_eq!(report.segments.iter().map(|segment| segment.groups).sum::<u64>(), entries.len() as u64);
    let salvaged = salvage_on(Arc::new(disk.clone()), &dir(), None).expect("nothing to do");
    assert!(salvaged.set_aside.is_empty() && !salvaged.begun_anew);
    let after: Vec<_> = segments(&disk).iter().map(|path| disk.content(path)).collect();
    assert!(before == after, "neither may change the log");
}

#[test]
fn d4_damage_is_named_and_a_salvage_keeps_what_lies_before_it() {
    let (source, entries) = log();
    for damaged in 1..entries.len() as u64 {
        let disk = source.fork();
        let path = damage(&disk, damaged);
        let content = disk.content(&path);
        let Err(Error::Corrupt { path: named, offset, message }) = open(&disk, &identity(), false).map(|_| ()) else {
            panic!("entry {damaged}: the damage was not found");
        };
        assert_eq!(PathBuf::from(named), path);
        assert!(message.contains("raftwork doctor /data"), "{message}");
        let report = inspect_on(&disk, &dir()).expect("it can be read");
        assert!(!report.is_healthy());
        assert_eq!(report.damage.as_ref().map(|damage| damage.offset), Some(offset));
        assert_eq!(report.salvage_keeps_upto, damaged - 1);

        let salvaged = salvage_on(Arc::new(disk.clone()), &dir(), None).expect("room");
        assert!(salvaged.report.is_healthy() && !salvaged.begun_anew, "{:?}", salvaged.report);
        let aside = salvaged.set_aside.iter().find(|(from, _)| *from == path).expect("the damaged file is set aside");
        assert!(disk.content(&aside.1) == content, "as it was");
        disk.power_cut(damaged);
        let (_, recovered) = open(&disk, &identity(), false).expect("it opens again");
        assert_eq!(recovered.entries, entries[..damaged as usize - 1]);
    }
}

#[test]
fn a_cut_at_every_step_of_a_salvage_leaves_what_can_be_salvaged_again() {
    let (source, entries) = log();
    damage(&source, 7);
    let whole = source.fork();
    salvage_on(Arc::new(whole.clone()), &dir(), None).expect("room");
    for step in source.steps() + 1..=whole.steps() {
        for seed in 0..4 {
            let cut = source.fork();
            cut.cut_at_step(step);
            salvage_on(Arc::new(cut.clone()), &dir(), None).expect_err("the power went");
            cut.power_cut(seed);
            let salvaged = salvage_on(Arc::new(cut.clone()), &dir(), None).expect("room");
            assert!(!salvaged.begun_anew, "step {step} seed {seed}");
            let (_, recovered) = open(&cut, &identity(), false).expect("it opens");
            assert_eq!(recovered.entries, entries[..6], "step {step} seed {seed}");
        }
    }
}

#[test]
fn a_log_without_any_good_file_begins_anew_behind_the_snapshot() {
    let (disk, _) = log();
    let first = segments(&disk).remove(0);
    let mut bytes = disk.content(&first).expect("it is listed");
    bytes[20] ^= 1;
    disk.put(&first, &bytes);
    let snapshot = Mark { index: 9, term: 1 };
    let salvaged = salvage_on(Arc::new(disk.clone()), &dir(), Some(snapshot)).expect("room");
    assert!(salvaged.begun_anew);
    assert_eq!(salvaged.set_aside.len(), 3);
    let (mut wal, recovered) = open(&disk, &identity(), false).expect("it opens");
    assert_eq!((recovered.previous_index, recovered.previous_term, recovered.last_index()), (9, 1, 9));
    assert_eq!(recovered.hard_state.commit, 9);
    wal.append(None, &[entry(10, 1, 5)]).expect("it goes on");
}

#[test]
fn a_missing_log_is_reported_and_begins_anew_on_request_only() {
    let disk = disk(2);
    assert!(salvage_on(Arc::new(disk.clone()), &dir(), None).is_err(), "nothing is known of whose log it would be");
    identity().store(&disk, &dir()).expect("room");
    assert!(matches!(open(&disk, &identity(), false), Err(Error::Corrupt { .. })));
    assert!(salvage_on(Arc::new(disk.clone()), &dir(), None).expect("room").begun_anew);
    let owner = Identity::load(&disk, &dir()).expect("it is whole").expect("it is there");
    let (_, recovered) = open(&disk, &owner, false).expect("it opens");
    assert_eq!(recovered.last_index(), 0);
}

#[test]
fn a_short_file_keeps_its_readable_groups() {
    let (disk, entries) = log();
    let last = segments(&disk).pop().expect("three files");
    let bytes = disk.content(&last).expect("it is listed");
    disk.put(&last, &bytes[..segment::HEADER_BYTES + 1_500]);
    assert!(matches!(open(&disk, &identity(), false), Err(Error::Corrupt { .. })));
    salvage_on(Arc::new(disk.clone()), &dir(), None).expect("room");
    let (_, recovered) = open(&disk, &identity(), false).expect("it opens");
    // Five groups of 704 bytes fit into one file, so the last has four; two of them were left.
    assert_eq!(recovered.entries, entries[..12]);
}

#[test]
fn d4_a_file_of_another_history_is_not_taken_for_the_next() {
    let (own, _) = log();
    let other = disk(1);
    let (mut wal, _) = open(&other, &identity(), true).expect("it opens");
    for index in 1..=14 {
        let changed: Vec<u8> = entry(index, 1, 600).data.iter().map(|byte| !byte).collect();
        let changed = WalEntry { data: changed.into(), ..entry(index, 1, 600) };
        wal.append(state(1, index - 1), &[changed]).expect("room");
    }
    let last = segments(&own).pop().expect("three files");
    assert_eq!(segments(&own), segments(&other));
    own.put(&last, &other.content(&last).expect("it is listed"));
    let refused = open(&own, &identity(), false).map(|_| ());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}
