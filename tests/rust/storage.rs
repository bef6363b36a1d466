//! What the log and the snapshots do when nothing fails. The tests of failures are in `crash`, `disk_faults`, `flips`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raftwork::base::{ClusterId, Error, GroupId, Millis, NodeId, SessionId};
use raftwork::disk::{Disk, Identity, Lock, RealDisk};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};
use raftwork::wal::{Group, HardState, Mark, Recovered, Wal, WalConfig, WalEntry};

pub fn identity() -> Identity {
    Identity { cluster: ClusterId([7; 16]), group: GroupId(1), node: NodeId(3), created: Millis(1_000) }
}

pub fn entry(index: u64, term: u64, bytes: usize) -> WalEntry {
    let data = (0..bytes).map(|position| (index as usize * 31 + position) as u8).collect::<Vec<_>>();
    WalEntry { term, index, kind: (index % 3) as u8, data: data.into(), context: Bytes::from_static(b"ctx") }
}

pub fn state(term: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term, vote: 3, commit })
}

pub fn small() -> WalConfig {
    WalConfig { segment_bytes: 16 << 10, group_bytes_max: 4 << 10, create: true }
}

fn open(dir: &Path) -> (Wal, Recovered) {
    Wal::open(Arc::new(RealDisk), dir, &identity(), small()).expect("the log opens")
}

#[test]
fn a_log_gives_back_what_was_appended_over_many_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, recovered) = open(dir.path());
    assert!(recovered.created);
    for index in 1..=200 {
        wal.append(state(2, index - 1), &[entry(index, 2, 500)]).expect("room");
        if index % 7 == 0 {
            wal.spare().work().expect("a spare");
        }
    }
    let bytes = wal.bytes();
    drop(wal);
    for _ in 0..3 {
        let (wal, recovered) = open(dir.path());
        let wanted: Vec<WalEntry> = (1..=200).map(|index| entry(index, 2, 500)).collect();
        assert_eq!(recovered.entries, wanted);
        assert_eq!(recovered.hard_state, HardState { term: 2, vote: 3, commit: 199 });
        assert_eq!((recovered.previous_index, recovered.cut_bytes, recovered.suspect_upto), (0, 0, None));
        assert_eq!((wal.bytes(), wal.last_index()), (bytes, 200));
    }
}

#[test]
fn a_suffix_is_replaced_and_committed_entries_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    let first: Vec<_> = (1..=10).map(|index| entry(index, 1, 10)).collect();
    wal.append(state(1, 4), &first).expect("room");
    let second: Vec<_> = (6..=7).map(|index| entry(index, 2, 20)).collect();
    wal.append(state(2, 4), &second).expect("room");
    for bad in [vec![entry(4, 3, 1)], vec![entry(9, 3, 1)], vec![entry(8, 3, 1), entry(10, 3, 1)]] {
        assert!(matches!(wal.append(None, &bad), Err(Error::Invalid(_))));
    }
    assert!(matches!(wal.append(state(2, 8), &[]), Err(Error::Invalid(_))));
    drop(wal);
    let (_, recovered) = open(dir.path());
    let wanted: Vec<_> = first[..5].iter().chain(&second).cloned().collect();
    assert_eq!(recovered.entries, wanted);
}

#[test]
fn old_segments_go_and_the_rest_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    for index in 1..=100 {
        wal.append(state(1, index), &[entry(index, 1, 1000)]).expect("room");
    }
    let before = wal.bytes();
    wal.drop_before(60).expect("alive");
    while wal.spare().work().expect("work") {}
    assert!(wal.bytes() < before / 2 + (16 << 10));
    assert!(wal.bytes_since(99) <= wal.bytes_since(60));
    assert!(wal.bytes_since(60) >= 40_000);
    drop(wal);
    let (_, recovered) = open(dir.path());
    assert!(recovered.previous_index > 40 && recovered.previous_index < 60);
    assert_eq!(recovered.previous_term, 1);
    assert_eq!(recovered.last_index(), 100);
    assert_eq!(recovered.entries[0], entry(recovered.previous_index + 1, 1, 1000));
}

#[test]
fn a_log_continues_behind_a_snapshot_that_is_ahead_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    wal.append(state(1, 0), &[entry(1, 1, 10)]).expect("room");
    wal.mark(Mark { index: 500, term: 4 }).expect("room");
    let group = Group { hard_state: state(4, 500), conf_state: Some(b"members"), ..Group::default() };
    wal.append_group(&group).expect("room");
    wal.append(state(5, 500), &[entry(501, 5, 10)]).expect("room");
    drop(wal);
    let (_, recovered) = open(dir.path());
    assert_eq!((recovered.previous_index, recovered.previous_term), (500, 4));
    assert_eq!(recovered.entries, vec![entry(501, 5, 10)]);
    assert_eq!(&recovered.conf_state[..], b"members");
    assert_eq!(recovered.mark, Some(Mark { index: 500, term: 4 }));
}

#[test]
fn a_log_begins_anew_behind_a_snapshot_of_another_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    let entries: Vec<_> = (1..=9).map(|index| entry(index, 1, 10)).collect();
    wal.append(state(1, 2), &entries).expect("room");
    // Entries 6 to 9 were never committed: the others went on without them, and may have other ones there.
    let mark = Some(Mark { index: 5, term: 3 });
    let group = Group { hard_state: state(3, 5), mark, restart: true, ..Group::default() };
    wal.append_group(&group).expect("room");
    assert_eq!(wal.last_index(), 5);
    drop(wal);
    let (_, recovered) = open(dir.path());
    assert_eq!((recovered.previous_index, recovered.previous_term), (5, 3));
    assert_eq!(recovered.entries, vec![], "what the log held is gone, also behind the snapshot");
}

#[test]
fn a_missing_log_is_a_loss_and_another_ones_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let existing = WalConfig { create: false, ..small() };
    let missing = Wal::open(Arc::new(RealDisk), dir.path(), &identity(), existing.clone());
    assert!(matches!(missing, Err(Error::Corrupt { .. })), "D5: no beginning with an empty log");
    let (mut wal, _) = open(dir.path());
    wal.append(None, &[entry(1, 1, 1)]).expect("room");
    drop(wal);
    let other = Identity { cluster: ClusterId([8; 16]), ..identity() };
    for create in [true, false] {
        let config = WalConfig { create, ..small() };
        assert!(matches!(Wal::open(Arc::new(RealDisk), dir.path(), &other, config), Err(Error::Foreign(_))));
    }
}

#[test]
fn an_unfinished_beginning_by_another_identity_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let other = Identity { cluster: ClusterId([8; 16]), ..identity() };
    let (_, recovered) = Wal::open(Arc::new(RealDisk), dir.path(), &other, small()).expect("a new log");
    assert!(recovered.created);
}

#[test]
fn identities_are_stored_once_and_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(Identity::load(&RealDisk, dir.path()), Ok(None));
    identity().store(&RealDisk, dir.path()).expect("room");
    assert_eq!(Identity::load(&RealDisk, dir.path()), Ok(Some(identity())));
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = Lock::take(dir.path()).expect("nobody has it");
    match Lock::take(dir.path()) {
        Err(Error::Busy { holder, .. }) => assert_eq!(holder, format!("process {}", std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(lock);
    Lock::take(dir.path()).expect("it was given back");
}

#[test]
fn a_lock_names_the_sessions_of_a_holder_that_died_and_of_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("LOCK");
    let Identity { cluster, group, .. } = identity();
    let sessions = [SessionId(7), SessionId(1 << 60)];
    let lock = Lock::take(dir.path()).expect("nobody has it");
    assert_eq!(lock.orphans(cluster, group), []);
    lock.tell(cluster, group, &[SessionId(3)]);
    lock.tell(cluster, group, &sessions);
    let told = std::fs::read(&path).expect("it is there");
    drop(lock);
    // What a holder leaves that gives the lock back itself: nothing.
    assert_eq!(Lock::take(dir.path()).expect("it was given back").orphans(cluster, group), []);
    // What one leaves that is killed: all of it, also for the next if this one dies before it has told anything.
    std::fs::write(&path, &told).expect("room");
    for _ in 0..2 {
        let next = Lock::take(dir.path()).expect("free");
        assert_eq!(next.orphans(cluster, group), sessions);
        assert_eq!(next.orphans(ClusterId([8; 16]), group), [], "another cluster's");
        assert_eq!(next.orphans(cluster, GroupId(9)), [], "another group's");
    }
    let next = Lock::take(dir.path()).expect("free");
    next.tell(cluster, group, &[]);
    let none = std::fs::read(&path).expect("it is there");
    drop(next);
    std::fs::write(&path, &none).expect("room");
    assert_eq!(Lock::take(dir.path()).expect("free").orphans(cluster, group), [], "it held none");
    // A damaged line names nobody.
    let second = told.iter().position(|byte| *byte == b'\n').expect("two lines") + 1;
    for bit in second * 8..told.len() * 8 {
        let mut bad = told.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).expect("room");
        let found = Lock::take(dir.path()).expect("free").orphans(cluster, group);
        assert!(found.is_empty(), "bit {bit}: {found:?}");
    }
    for length in 0..told.len() {
        std::fs::write(&path, &told[..length]).expect("room");
        assert_eq!(Lock::take(dir.path()).expect("free").orphans(cluster, group), [], "{length} bytes");
    }
}

#[test]
fn snapshots_come_back_and_two_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SnapshotStore::open(Arc::new(RealDisk), dir.path(), &identity()).expect("it opens");
    assert_eq!((store.latest(), store.log_needed_from()), (None, 1));
    for index in [10, 20, 30] {
        let meta = SnapshotMeta { index, term: 2, voters: vec![1, 2], learners: vec![9], ..SnapshotMeta::default() };
        let mut writer = store.begin(meta).expect("room");
        for part in 0..5u8 {
            writer.chunk(part, &vec![index as u8; 100_000]).expect("room");
            writer.chunk(part, &[part, 1, 2]).expect("room");
        }
        writer.finish().expect("room");
    }
    let store = SnapshotStore::open(Arc::new(RealDisk), dir.path(), &identity()).expect("it opens");
    let latest = store.latest().expect("three were taken");
    assert_eq!((latest.index, store.log_needed_from(), store.damaged().len()), (30, 21, 0));
    let mut seen = Vec::new();
    store
        .read(&latest, &mut |section, bytes| {
            seen.push((section, bytes.to_vec()));
            Ok(())
        })
        .expect("it is whole");
    assert_eq!(seen.len(), 10);
    assert_eq!(seen[8], (4, vec![30; 100_000]));
    assert_eq!(RealDisk.list(&dir.path().join("snap")).expect("a list").len(), 2);
}
