//! What several members need besides a log: messages as bytes, and snapshots that travel in pieces.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use raftwork::base::{ClusterId, Error, GroupId, LogIndex, Millis, NodeId, SessionId, Term};
use raftwork::consensus::{ConfState, Entry, EntryType, Message, MessageType, Placed, SnapshotMetadata};
use raftwork::disk::fake::{Fault, Op};
use raftwork::disk::{ensure_dir, FakeDisk, Identity};
use raftwork::replica::{Letter, Note, Word};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};

const DIR: &str = "/disk/node";

fn entry(index: u64, kind: EntryType, data: &'static [u8]) -> Entry {
    let mut entry = Entry { index, term: 3, data: Bytes::from_static(data), ..Entry::default() };
    entry.set_entry_type(kind);
    entry
}

fn snapshot_message() -> Message {
    let mut members = ConfState { auto_leave: true, ..ConfState::default() };
    members.voters = vec![1, 2, 3];
    members.learners = vec![9];
    members.voters_outgoing = vec![1, 2];
    let mut metadata = SnapshotMetadata { index: 40, term: 5, ..SnapshotMetadata::default() };
    metadata.set_conf_state(members);
    let mut message = Message { to: 2, from: 1, term: 6, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    *message.mut_snapshot().mut_metadata() = metadata;
    message
}

fn append_message() -> Message {
    let mut message = Message { to: 3, from: 1, term: 7, log_term: 3, index: 10, commit: 9, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.priority = -5;
    message.context = Bytes::from_static(b"context");
    let entries = vec![
        entry(11, EntryType::EntryNormal, b"first"),
        entry(12, EntryType::EntryConfChangeV2, b""),
        entry(13, EntryType::EntryNormal, &[0; 300]),
    ];
    message.set_entries(entries.into());
    message
}

#[test]
fn messages_come_back_as_they_were_sent() {
    let mut refusal = Message { reject: true, reject_hint: 8, request_snapshot: 4, ..Message::default() };
    refusal.set_msg_type(MessageType::MsgAppendResponse);
    let raft = [snapshot_message(), append_message(), refusal, Message::default()].map(Letter::Raft);
    let (to, from) = (NodeId(1), NodeId(2));
    let end = (Term(3), LogIndex(4));
    let placed = Placed { first: LogIndex(9), term: Term(3) };
    let notes = [
        Note::AskLog(end),
        Note::Log { term: Term(7), end },
        Note::Forward { number: 5, entries: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")] },
        Note::Placed { number: 5, placed },
        Note::Refused { number: 5, why: Error::DiskFull("full".into()) },
        Note::Beat { number: 6, sessions: vec![SessionId(1), SessionId(2)] },
        Note::Beaten { number: 6, expired: vec![SessionId(2)] },
        Note::Word(Word::AskMember { at: LogIndex(u64::MAX) }),
        Note::Word(Word::NotMember { at: LogIndex(u64::MAX) }),
        Note::Word(Word::Digest { index: LogIndex(64), mark: Some(u64::MAX), asks: true }),
        Note::Word(Word::Digest { index: LogIndex(64), mark: None, asks: false }),
    ];
    for letter in raft.into_iter().chain(notes.map(|note| Letter::Note { to, from, note })) {
        let bytes = Bytes::from(letter.encode());
        assert_eq!(Letter::decode(&bytes).unwrap(), letter);
        // The last three have no length of their own: the frame's is theirs.
        if matches!(letter, Letter::Note { note: Note::Refused { .. } | Note::Beat { .. } | Note::Beaten { .. }, .. }) {
            continue;
        }
        for length in 0..bytes.len() {
            assert!(matches!(Letter::decode(&bytes.slice(..length)), Err(Error::Invalid(_))), "cut to {length} bytes");
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert!(Letter::decode(&longer).is_err());
    }
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(change in 0usize..400, value in any::<u8>()) {
        let mut bytes = Letter::Raft(append_message()).encode();
        let place = change % bytes.len();
        bytes[place] = value;
        if let Ok(letter) = Letter::decode(&Bytes::from(bytes)) {
            prop_assert_eq!(Letter::decode(&Bytes::from(letter.encode())).unwrap(), letter);
        }
    }
}

fn store(disk: &FakeDisk, node: u64) -> SnapshotStore {
    let dir = Path::new(DIR);
    ensure_dir(disk, dir).unwrap();
    let identity = Identity { cluster: ClusterId([7; 16]), group: GroupId(1), node: NodeId(node), created: Millis(1) };
    SnapshotStore::open(Arc::new(disk.clone()), dir, &identity).unwrap()
}

fn disk() -> FakeDisk {
    FakeDisk::new(3, &[Path::new("/disk")])
}

/// A store with a snapshot of some kilobytes at index 40, term 5.
fn sender(disk: &FakeDisk) -> (SnapshotStore, SnapshotMeta) {
    let store = store(disk, 1);
    let meta = SnapshotMeta { index: 40, term: 5, voters: vec![1, 2], ..SnapshotMeta::default() };
    let mut writer = store.begin(meta.clone()).unwrap();
    // Bytes that do not compress.
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let chunk: Vec<u8> = (0..5_000).map(|_| noise()).collect();
    writer.chunk(1, &chunk).unwrap();
    writer.finish().unwrap();
    (store, meta)
}

/// Sends all pieces from an offset on, until `stop` pieces were sent. True: all is there.
fn send(from: &SnapshotStore, meta: &SnapshotMeta, to: &SnapshotStore, mut offset: u64, stop: usize) -> bool {
    for _ in 0..stop {
        let (bytes, last) = from.piece(meta, offset, 600).unwrap();
        if to.take_piece(meta.index, meta.term, offset, &bytes, last).unwrap() {
            return true;
        }
        offset += bytes.len() as u64;
    }
    false
}

#[test]
fn a_large_snapshot_is_synced_while_it_is_received() {
    let disk = disk();
    let to = store(&disk, 2);
    let (piece, before) = (vec![7; 256 << 10], disk.count(Op::Sync));
    for number in 0..10 {
        assert!(!to.take_piece(40, 5, number * piece.len() as u64, &piece, false).unwrap());
        // The log's own syncs never wait behind more than a mebibyte.
        assert_eq!(disk.count(Op::Sync) - before, (number + 1) / 4);
    }
}

#[test]
fn d3_what_was_received_before_a_sync_failed_is_received_again() {
    let disk = disk();
    let to = store(&disk, 2);
    let piece = vec![7; 1 << 20];
    assert!(!to.take_piece(40, 5, 0, &piece, false).unwrap());
    disk.fail(Op::Sync, disk.count(Op::Sync) + 1, Fault::Eio, false);
    to.take_piece(40, 5, piece.len() as u64, &piece, false).expect_err("the sync fails");
    assert_eq!(to.received_bytes(40, 5).unwrap(), 0, "the system may have dropped any of it");
    assert!(!to.take_piece(40, 5, 0, &piece, false).unwrap());
}

#[test]
fn a_snapshot_travels_in_pieces_and_goes_on_where_it_broke_off() {
    let (from_disk, to_disk) = (disk(), disk());
    let ((from, meta), to) = (sender(&from_disk), store(&to_disk, 2));
    assert!(!send(&from, &meta, &to, 0, 3));
    assert_eq!(to.received_bytes(40, 5).unwrap(), 1_800);
    let gap = to.take_piece(40, 5, 2_400, b"beyond the end", false);
    assert!(matches!(gap, Err(Error::Invalid(_))), "{gap:?}");
    assert!(send(&from, &meta, &to, 1_800, 100));
    assert!(to.is_received(40, 5).unwrap() && to.latest().is_none(), "it counts when it is installed");
    assert_eq!(to.install(40, 5).unwrap(), meta);
    assert_eq!(to.latest(), Some(meta.clone()));
    to.read(&meta, &mut |_, _| Ok(())).unwrap();
}

#[test]
fn d4_a_damaged_piece_is_found_and_the_snapshot_begun_again() {
    let (from_disk, to_disk) = (disk(), disk());
    let ((from, meta), to) = (sender(&from_disk), store(&to_disk, 2));
    send(&from, &meta, &to, 0, 3);
    let (mut bytes, last) = from.piece(&meta, 1_800, 100_000).unwrap();
    assert!(last);
    bytes[100] ^= 1;
    let refused = to.take_piece(40, 5, 1_800, &bytes, last);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(to.received_bytes(40, 5).unwrap(), 0);
    assert!(send(&from, &meta, &to, 0, 100));
}

#[test]
fn d1_a_received_snapshot_counts_after_a_crash_only_if_the_log_announced_it() {
    for announced in [false, true] {
        let (from_disk, to_disk) = (disk(), disk());
        let ((from, meta), to) = (sender(&from_disk), store(&to_disk, 2));
        assert!(send(&from, &meta, &to, 0, 100));
        drop(to);
        to_disk.power_cut(1);
        let to = store(&to_disk, 2);
        to.settle(announced.then_some((40, 5))).unwrap();
        assert_eq!(to.latest(), announced.then_some(meta));
        assert!(!to.is_received(40, 5).unwrap(), "nothing is left over");
    }
}

#[test]
fn a_snapshot_of_another_cluster_is_refused() {
    let (from_disk, to_disk) = (disk(), disk());
    let (from, meta) = sender(&from_disk);
    ensure_dir(&to_disk, Path::new(DIR)).unwrap();
    let other = Identity { cluster: ClusterId([8; 16]), group: GroupId(1), node: NodeId(2), created: Millis(1) };
    let to = SnapshotStore::open(Arc::new(to_disk.clone()), Path::new(DIR), &other).unwrap();
    let (bytes, last) = from.piece(&meta, 0, 100_000).unwrap();
    let refused = to.take_piece(40, 5, 0, &bytes, last);
    assert!(matches!(refused, Err(Error::Foreign(_))), "{refused:?}");
}
