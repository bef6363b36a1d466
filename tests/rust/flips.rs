//! D4: every single bit of a small log, snapshot and identity flipped, every truncation. Each is detected, or harmless, or
//! costs the last group and says so (`suspect_upto`): that one case cannot be told from a torn write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftwork::base::{Error, Result};
use raftwork::disk::fake::{Fault, Op, SECTOR_BYTES};
use raftwork::disk::{Disk, FakeDisk, Identity};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};
use raftwork::wal::{segment, Recovered, WalEntry};

use crate::crash::workload::{dir, disk, open};
use crate::storage::{entry, identity, state};

/// A log as files, and what it holds.
struct Small {
    files: BTreeMap<PathBuf, Vec<u8>>,
    entries: Vec<WalEntry>,
    /// Entries in the last group.
    last_group: usize,
}

/// A log of two segments, the last of them with several groups. `shift` moves the last group against the sectors.
fn small_log(shift: usize) -> Small {
    let source = disk(shift as u64);
    let (mut wal, _) = open(&source, &identity(), true).expect("it opens");
    let mut entries = Vec::new();
    let groups = [vec![3_900], vec![40, 50], vec![1], vec![60 + 8 * shift], vec![80, 0, 33]];
    for group in &groups {
        let first = entries.len() as u64 + 1;
        let new: Vec<_> = (first..).zip(group).map(|(index, bytes)| entry(index, 2, *bytes)).collect();
        wal.append(state(2, first - 1), &new).expect("room");
        entries.extend(new);
    }
    let files = files_of(&source, "wal");
    assert_eq!(files.len(), 2);
    Small { files, entries, last_group: 3 }
}

fn files_of(disk: &FakeDisk, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = dir().join(name);
    let names = disk.list(&dir).expect("a list");
    names.iter().map(|name| (dir.join(name), disk.content(&dir.join(name)).expect("it is listed"))).collect()
}

/// A disk with these files, one of them changed.
fn disk_with(files: &BTreeMap<PathBuf, Vec<u8>>, changed: &Path, bytes: &[u8]) -> FakeDisk {
    let disk = FakeDisk::new(1, &[&dir().join("wal"), &dir().join("snap")]);
    for (path, content) in files {
        disk.put(path, if path == changed { bytes } else { content });
    }
    disk
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Detected,
    Harmless,
    LastGroupLost,
}

fn judge(small: &Small, opened: Result<Recovered>, context: &str) -> Verdict {
    let kept = small.entries.len() - small.last_group;
    match opened {
        Err(Error::Corrupt { message, .. }) => {
            assert!(message.contains("raftwork doctor /data"), "{context}: {message}");
            Verdict::Detected
        }
        Ok(found) if found.entries == small.entries => Verdict::Harmless,
        Ok(found) if found.entries == small.entries[..kept] => {
            assert!(found.suspect_upto > Some(kept as u64), "{context}: lost in silence");
            assert!(found.cut_bytes > 0, "{context}");
            Verdict::LastGroupLost
        }
        other => panic!("{context}: {other:?}"),
    }
}

fn flip_each_bit(small: &Small, path: &Path, range: std::ops::Range<usize>) -> Vec<(usize, Verdict)> {
    let mut bytes = small.files[path].clone();
    let mut verdicts = Vec::new();
    for position in range {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            let opened = open(&disk_with(&small.files, path, &bytes), &identity(), false);
            let context = format!("{} byte {position} bit {bit}", path.display());
            verdicts.push((position, judge(small, opened.map(|(_, recovered)| recovered), &context)));
            bytes[position] ^= 1 << bit;
        }
    }
    verdicts
}

/// Where the last group begins and ends.
fn last_group(small: &Small) -> (PathBuf, usize, usize) {
    let (path, bytes) = small.files.last_key_value().expect("there are files");
    let mut start = segment::HEADER_BYTES;
    loop {
        let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().expect("four bytes")) as usize;
        let end = (start + 48 + length).next_multiple_of(8);
        if bytes[end..end + 8] == [0; 8] {
            return (path.clone(), start, end);
        }
        start = end;
    }
}

#[test]
fn d4_every_bit_of_a_log_is_guarded() {
    let small = small_log(0);
    let (last_path, start, end) = last_group(&small);
    for (path, bytes) in &small.files {
        let last = *path == last_path;
        // Most of the zeros behind the end are all alike.
        let range = 0..if last { end + 600 } else { bytes.len() };
        for (position, verdict) in flip_each_bit(&small, path, range) {
            let within_last = last && (start..end).contains(&position);
            match verdict {
                Verdict::LastGroupLost => assert!(within_last, "{} byte {position}", path.display()),
                Verdict::Harmless if position < segment::HEADER_BYTES => {
                    panic!("a flip in a header passed: {position}")
                }
                _ => {}
            }
        }
    }
}

#[test]
fn d4_a_flip_in_the_last_group_is_told_wherever_the_sectors_lie() {
    let mut split = 0;
    for shift in (0..SECTOR_BYTES / 8).step_by(3) {
        let small = small_log(shift);
        let (path, start, end) = last_group(&small);
        split += usize::from(start / SECTOR_BYTES != (start + 47) / SECTOR_BYTES);
        for (position, verdict) in flip_each_bit(&small, &path, start..start + 48) {
            assert_eq!(verdict, Verdict::LastGroupLost, "shift {shift} byte {position} of {start}..{end}");
        }
    }
    assert!(split >= 2, "only {split} headers lay across two sectors");
}

/// A disk that puts the newest write so many sectors further behind in the same file.
#[test]
fn d4_a_last_group_that_lies_further_behind_is_detected() {
    for shift in (0..SECTOR_BYTES / 8).step_by(3) {
        let small = small_log(shift);
        let (path, start, end) = last_group(&small);
        let sectors = start / SECTOR_BYTES * SECTOR_BYTES..end.next_multiple_of(SECTOR_BYTES);
        for by in 1..4 {
            let mut bytes = small.files[&path].clone();
            let place = sectors.start + by * SECTOR_BYTES;
            let written = bytes[sectors.clone()].to_vec();
            bytes[start..end].fill(0);
            bytes[place..place + written.len()].copy_from_slice(&written);
            let opened = open(&disk_with(&small.files, &path, &bytes), &identity(), false);
            let context = format!("shift {shift}, {by} sectors");
            let verdict = judge(&small, opened.map(|(_, recovered)| recovered), &context);
            assert_eq!(verdict, Verdict::Detected, "{context}");
        }
    }
}

#[test]
fn d4_every_truncation_of_a_log_is_detected() {
    let small = small_log(0);
    for (path, bytes) in &small.files {
        for length in 0..bytes.len() {
            let opened = open(&disk_with(&small.files, path, &bytes[..length]), &identity(), false);
            let verdict = judge(&small, opened.map(|(_, recovered)| recovered), &format!("cut to {length}"));
            assert_eq!(verdict, Verdict::Detected, "{} cut to {length}", path.display());
        }
    }
}

#[test]
fn d4_a_lost_sector_before_the_last_group_is_detected() {
    let small = small_log(0);
    let (last_path, start, _) = last_group(&small);
    for (path, bytes) in &small.files {
        let end = if *path == last_path { start } else { 4096 + 3_900 };
        for sector in (0..end / SECTOR_BYTES).map(|sector| sector * SECTOR_BYTES) {
            let mut bytes = bytes.clone();
            bytes[sector..sector + SECTOR_BYTES].fill(0);
            if bytes == small.files[path] {
                continue; // The padding of the header.
            }
            let opened = open(&disk_with(&small.files, path, &bytes), &identity(), false);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{} sector at {sector}", path.display());
        }
    }
}

/// A log of four groups of 168 bytes, the second of this kind. The same seed gives the same salt.
fn history(kind: u8) -> BTreeMap<PathBuf, Vec<u8>> {
    let source = disk(7);
    let (mut wal, _) = open(&source, &identity(), true).expect("it opens");
    for index in 1..=4 {
        let kind = if index == 2 { kind } else { 1 };
        wal.append(None, &[WalEntry { kind, ..entry(index, 1, 90) }]).expect("room");
    }
    files_of(&source, "wal")
}

#[test]
fn d4_a_valid_group_of_another_history_breaks_the_chain() {
    let (ours, other) = (history(10), history(11));
    let path = ours.keys().next().expect("there is one");
    let group = segment::HEADER_BYTES + 168..segment::HEADER_BYTES + 2 * 168;
    let mut mixed = ours[path].clone();
    assert!(mixed[..group.start] == other[path][..group.start], "both histories begin alike");
    mixed[group.clone()].copy_from_slice(&other[path][group]);
    let opened = open(&disk_with(&ours, path, &mixed), &identity(), false);
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "a lost write showed an older group");
}

#[test]
fn d4_an_unreadable_sector_and_a_missing_file_are_damage() {
    let small = small_log(0);
    let none = Path::new("none");
    for read in 1..=4 {
        let failing = disk_with(&small.files, none, &[]);
        failing.fail(Op::Read, read, Fault::Eio, false);
        let opened = open(&failing, &identity(), false);
        assert!(matches!(&opened, Err(Error::Corrupt { message, .. }) if message.contains("read")), "{opened:?}");
    }
    let first = small.files.keys().next().expect("there are files");
    let without = disk_with(&small.files, none, &[]);
    let third = dir().join("wal").join(segment::file_name(3));
    without.rename(&dir().join("wal").join(segment::file_name(2)), &third).expect("it is there");
    assert!(matches!(open(&without, &identity(), false), Err(Error::Corrupt { .. })), "a file under another name");
    let without = disk_with(&small.files, none, &[]);
    without.remove(first).expect("it is there");
    let (_, recovered) = open(&without, &identity(), false).expect("the first files of a log may go");
    assert_eq!(recovered.previous_index, 1, "but the log says that it begins later");
}

fn snapshots() -> (BTreeMap<PathBuf, Vec<u8>>, SnapshotMeta, SnapshotMeta) {
    let source = disk(3);
    let store = SnapshotStore::open(Arc::new(source.clone()), &dir(), &identity()).expect("it opens");
    let mut metas = Vec::new();
    for index in [5u64, 9] {
        let meta = SnapshotMeta {
            index,
            term: 2,
            voters: vec![3],
            learners: vec![4],
            voters_outgoing: vec![3, 5],
            learners_next: vec![5],
            auto_leave: index == 9,
            ..SnapshotMeta::default()
        };
        let mut writer = store.begin(meta.clone()).expect("room");
        writer.chunk(1, &[index as u8; 300]).expect("room");
        writer.chunk(2, &(0..120u8).map(|number| number.wrapping_mul(7)).collect::<Vec<u8>>()).expect("room");
        writer.chunk(2, b"end").expect("room");
        metas.push(writer.finish().expect("room"));
    }
    (files_of(&source, "snap"), metas.remove(0), metas.remove(0))
}

/// The newest is damaged: the older one must take its place, and be whole.
fn falls_back(files: &BTreeMap<PathBuf, Vec<u8>>, older: &SnapshotMeta, bytes: &[u8], context: &str) {
    let newest = files.keys().next_back().expect("there are two");
    let damaged = disk_with(files, newest, bytes);
    let store =
        SnapshotStore::open(Arc::new(damaged), &dir(), &identity()).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(store.latest().as_ref(), Some(older), "{context}");
    assert_eq!(store.damaged().len(), 1, "{context}");
    assert_eq!(store.log_needed_from(), 1, "{context}: nothing may be cut before there are two again");
    store.read(older, &mut |_, _| Ok(())).unwrap_or_else(|error| panic!("{context}: {error}"));
}

#[test]
fn d4_every_bit_and_every_truncation_of_a_snapshot_is_detected() {
    let (files, older, _) = snapshots();
    let mut bytes = files.values().next_back().expect("there are two").clone();
    for position in 0..bytes.len() {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            falls_back(&files, &older, &bytes, &format!("byte {position} bit {bit}"));
            bytes[position] ^= 1 << bit;
        }
    }
    for length in 0..bytes.len() {
        falls_back(&files, &older, &bytes[..length], &format!("cut to {length}"));
    }
    bytes.push(0);
    falls_back(&files, &older, &bytes, "a byte more");
}

#[test]
fn a_snapshot_of_a_newer_version_is_refused_and_not_taken_for_damage() {
    let (mut files, ..) = snapshots();
    let newest = files.keys().next_back().expect("there are two").clone();
    let bytes = files.get_mut(&newest).expect("it is there");
    bytes[8] = 3;
    let first = 80 + 2 * 8; // One voter and one learner.
    let checksum = raftwork::base::checksum::crc32c(&bytes[..first]);
    bytes[first..first + 4].copy_from_slice(&checksum.to_le_bytes());
    let newer = disk_with(&files, &newest, &files[&newest]);
    let opened = SnapshotStore::open(Arc::new(newer), &dir(), &identity());
    assert!(matches!(&opened, Err(Error::Foreign(text)) if text.contains("version 3")), "{opened:?}");
}

#[test]
fn d4_without_a_whole_snapshot_the_store_does_not_open() {
    let (mut files, ..) = snapshots();
    let newest = files.keys().next_back().expect("there are two").clone();
    files.retain(|path, _| *path == newest);
    let damaged = disk_with(&files, &newest, &files[&newest][..50]);
    let opened = SnapshotStore::open(Arc::new(damaged), &dir(), &identity());
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "P36: never the empty state");
}

#[test]
fn a_damaged_snapshot_is_set_aside_when_two_whole_ones_are_there_again() {
    let (files, ..) = snapshots();
    let newest = files.keys().next_back().expect("there are two").clone();
    let damaged = disk_with(&files, &newest, &files[&newest][..50]);
    let store = SnapshotStore::open(Arc::new(damaged.clone()), &dir(), &identity()).expect("the older one is whole");
    let meta = SnapshotMeta { index: 12, term: 3, ..SnapshotMeta::default() };
    let mut writer = store.begin(meta).expect("room");
    writer.chunk(1, b"x").expect("room");
    writer.finish().expect("room");
    assert_eq!((files_of(&damaged, "snap").len(), store.damaged().len(), store.log_needed_from()), (2, 0, 6));
    assert_eq!(files_of(&damaged, "quarantine").len(), 1);
}

#[test]
fn a_whole_snapshot_takes_the_name_of_a_damaged_one_and_stays() {
    let (files, _, newer) = snapshots();
    let newest = files.keys().next_back().expect("there are two").clone();
    let damaged = disk_with(&files, &newest, &files[&newest][..50]);
    let store = SnapshotStore::open(Arc::new(damaged.clone()), &dir(), &identity()).expect("the older one is whole");
    let mut writer = store.begin(newer.clone()).expect("room");
    writer.chunk(1, b"x").expect("room");
    writer.finish().expect("room");
    assert_eq!((store.latest().as_ref(), store.damaged().len()), (Some(&newer), 0));
    store.read(&newer, &mut |_, _| Ok(())).expect("it is whole");
    let set_aside: Vec<Vec<u8>> = files_of(&damaged, "quarantine").into_values().collect();
    assert_eq!(set_aside, [&files[&newest][..50]]);
}

#[test]
fn d4_every_bit_and_every_truncation_of_the_identity_is_detected() {
    let source = disk(4);
    identity().store(&source, &dir()).expect("room");
    let path = dir().join("IDENTITY");
    let mut bytes = source.content(&path).expect("it is there");
    let load = |bytes: &[u8]| {
        source.put(&path, bytes);
        Identity::load(&source, &dir())
    };
    for position in 0..bytes.len() {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            let loaded = load(&bytes);
            assert!(matches!(loaded, Err(Error::Corrupt { .. } | Error::Foreign(_))), "byte {position}: {loaded:?}");
            bytes[position] ^= 1 << bit;
        }
    }
    for length in 0..bytes.len() {
        let loaded = load(&bytes[..length]);
        assert!(matches!(loaded, Err(Error::Corrupt { .. } | Error::Foreign(_))), "cut to {length}: {loaded:?}");
    }
    assert_eq!(load(&bytes), Ok(Some(identity())));
}
