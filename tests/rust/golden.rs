//! U4: files written by each released version open for ever. `golden/v1` was written by the first one and is never written
//! again: a change that needs new golden files needs a new directory beside the old.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftwork::base::{ClusterId, GroupId, Millis, NodeId};
use raftwork::disk::{Identity, RealDisk};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};
use raftwork::wal::{inspect_on, Group, HardState, Mark, Wal, WalConfig, WalEntry};

use crate::storage::entry;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rust/golden/v1")
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(*b"golden cluster 1"),
        group: GroupId(1),
        node: NodeId(42),
        created: Millis(1_700_000_000_000),
    }
}

fn entries() -> Vec<WalEntry> {
    (1..=30).map(|index| entry(index, 1 + index / 10, 150 + 13 * (index as usize % 7))).collect()
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        index: 20,
        term: 3,
        voters: vec![42, 43],
        learners: vec![44],
        now: Millis(1_700_000_000_123),
        state_version: 1,
    }
}

fn chunks() -> Vec<(u8, Vec<u8>)> {
    let mixed = (0..200u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![(1, vec![7; 400]), (2, mixed), (255, b"the end".to_vec())]
}

/// How the files were made. Kept because it documents them; a test checks that it still makes the same content.
fn write(dir: &Path) {
    let config = WalConfig { segment_bytes: 8 << 10, group_bytes_max: 1 << 20, create: true };
    let (mut wal, _) = Wal::open(Arc::new(RealDisk), dir, &identity(), config).expect("a new log");
    identity().store(&RealDisk, dir).expect("room");
    for pair in entries().chunks(2) {
        let hard_state = HardState { term: pair[0].term, vote: 42, commit: pair[0].index - 1 };
        let conf_state = (pair[0].index == 11).then_some(&b"configuration"[..]);
        let mark = (pair[0].index == 23).then_some(Mark { index: 20, term: 3 });
        let group = Group { hard_state: Some(hard_state), conf_state, mark, entries: pair, ..Group::default() };
        wal.append_group(&group).expect("room");
    }
    let store = SnapshotStore::open(Arc::new(RealDisk), dir, &identity()).expect("no snapshots");
    let mut writer = store.begin(meta()).expect("room");
    for (section, bytes) in chunks() {
        writer.chunk(section, &bytes).expect("room");
    }
    writer.finish().expect("room");
}

fn check(dir: &Path) {
    assert!(inspect_on(&raftwork::disk::RealDisk, dir).expect("it can be read").is_healthy());
    assert_eq!(Identity::load(&RealDisk, dir), Ok(Some(identity())));
    let (wal, recovered) =
        Wal::open(Arc::new(RealDisk), dir, &identity(), WalConfig::default()).expect("an old log opens");
    assert_eq!(recovered.entries, entries());
    assert_eq!(recovered.hard_state, HardState { term: 3, vote: 42, commit: 28 });
    assert_eq!(&recovered.conf_state[..], b"configuration");
    assert_eq!(recovered.mark, Some(Mark { index: 20, term: 3 }));
    assert_eq!((recovered.cut_bytes, recovered.suspect_upto, recovered.previous_index), (0, None, 0));
    drop(wal);
    let store = SnapshotStore::open(Arc::new(RealDisk), dir, &identity()).expect("an old snapshot is whole");
    assert_eq!(store.latest(), Some(meta()));
    let mut found = Vec::new();
    let read = store.read(&meta(), &mut |section, bytes| {
        found.push((section, bytes.to_vec()));
        Ok(())
    });
    assert_eq!((read, found), (Ok(()), chunks()));
}

#[test]
fn u4_the_log_and_the_snapshot_of_version_1_open() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["wal", "snap"] {
        fs::create_dir(dir.path().join(name)).expect("a directory");
        for file in fs::read_dir(golden().join(name)).expect("it is committed") {
            let file = file.expect("it is committed");
            fs::copy(file.path(), dir.path().join(name).join(file.file_name())).expect("room");
        }
    }
    fs::copy(golden().join("IDENTITY"), dir.path().join("IDENTITY")).expect("room");
    check(dir.path());
}

#[test]
fn u4_this_version_writes_what_the_golden_files_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path());
    assert!(
        fs::read(dir.path().join("IDENTITY")).expect("it was stored")
            == fs::read(golden().join("IDENTITY")).expect("it is committed")
    );
    check(dir.path());
}
