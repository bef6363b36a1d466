//! The part of the log that raft-rs asks about, in memory: entries since the last compaction, and what lies before.
//!
//! Invariants
//! * Entries are consecutive, the first one right behind `before`.
//! * Every entry in here is also in the write-ahead log, or in the write that is on its way there.
//! * raft-rs gets no error but `Compacted`, `Unavailable` and `SnapshotTemporarilyUnavailable`; others make it panic.

use std::cell::Cell;
use std::collections::VecDeque;

use crate::base::{LogIndex, Term};
use crate::consensus::{
    Entry, GetEntriesContext, HardState, LogStore, RaftError, RaftState, Snapshot, SnapshotMetadata, Storage,
    StorageError,
};

type RaftResult<T> = std::result::Result<T, RaftError>;

/// A position of the log: an index and the term of the entry there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub index: LogIndex,
    pub term: Term,
}

/// Answers raft-rs from memory, so that no turn ever reads the disk.
#[derive(Debug, Default)]
pub struct LogCache {
    before: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// What raft-rs starts from; it keeps its own afterwards.
    start: RaftState,
    /// The newest snapshot that is on disk.
    snapshot: SnapshotMetadata,
    /// A member needs a snapshot, and the newest one does not name it: it would refuse that.
    wanted: Cell<bool>,
}

impl LogCache {
    /// A log that continues a snapshot with the members it names.
    pub fn new(snapshot: SnapshotMetadata, hard_state: HardState) -> Self {
        let start = RaftState::new(hard_state, snapshot.get_conf_state().clone());
        let before = Position { index: LogIndex(snapshot.index), term: Term(snapshot.term) };
        Self { before, start, snapshot, ..Self::default() }
    }

    pub fn last(&self) -> Position {
        self.entries
            .back()
            .map_or(self.before, |entry| Position { index: LogIndex(entry.index), term: Term(entry.term) })
    }

    /// Bytes of the entries held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn snapshot_meta(&self) -> &SnapshotMetadata {
        &self.snapshot
    }

    /// A newer snapshot is on disk.
    pub fn set_snapshot(&mut self, snapshot: SnapshotMetadata) {
        self.snapshot = snapshot;
        self.wanted.set(false);
    }

    /// Whether a member waits for a snapshot that is newer than the newest.
    pub fn wants_snapshot(&self) -> bool {
        self.wanted.get()
    }

    /// Forgets the oldest entries until at most `bytes_max` are left, none behind `upto`.
    pub fn compact(&mut self, upto: LogIndex, bytes_max: usize) {
        while self.bytes > bytes_max && self.entries.front().is_some_and(|entry| entry.index <= upto.0) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry_bytes(&entry);
                self.before = Position { index: LogIndex(entry.index), term: Term(entry.term) };
            }
        }
    }

    /// Entries from an index on, as far as they are still in memory.
    pub fn entries(&self, from: LogIndex) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.place(from.0).unwrap_or(0).min(self.entries.len())..)
    }

    /// Place of an index in `entries`.
    fn place(&self, index: u64) -> Option<usize> {
        index.checked_sub(self.before.index.0 + 1).map(|place| place as usize)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + std::mem::size_of::<Entry>()
}

impl LogStore for LogCache {
    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let place = self.place(first.index).expect("raft never replaces entries that are compacted");
        assert!(place <= self.entries.len(), "entry {} would leave a gap behind {:?}", first.index, self.last());
        for replaced in self.entries.drain(place..) {
            self.bytes -= entry_bytes(&replaced);
        }
        for entry in entries {
            self.bytes += entry_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    fn restore(&mut self, snapshot: &SnapshotMetadata) {
        self.entries.clear();
        self.bytes = 0;
        self.before = Position { index: LogIndex(snapshot.index), term: Term(snapshot.term) };
        self.snapshot = snapshot.clone();
    }
}

impl Storage for LogCache {
    fn initial_state(&self) -> RaftResult<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> RaftResult<Vec<Entry>> {
        let Some(start) = self.place(low) else { return Err(StorageError::Compacted.into()) };
        let Some(end) = self.place(high).filter(|end| *end <= self.entries.len() && start <= *end) else {
            return Err(StorageError::Unavailable.into());
        };
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut found = Vec::new();
        for entry in self.entries.range(start..end) {
            bytes += entry_bytes(entry) as u64;
            // At least one entry, however large: raft-rs would wait for ever on an empty answer.
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> RaftResult<u64> {
        if index == self.before.index.0 {
            return Ok(self.before.term.0);
        }
        let Some(place) = self.place(index) else { return Err(StorageError::Compacted.into()) };
        self.entries.get(place).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> RaftResult<u64> {
        Ok(self.before.index.0 + 1)
    }

    fn last_index(&self) -> RaftResult<u64> {
        Ok(self.last().index.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> RaftResult<Snapshot> {
        let members = self.snapshot.get_conf_state();
        let lists = [&members.voters, &members.learners, &members.voters_outgoing];
        if !lists.into_iter().flatten().any(|member| *member == to) {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        if self.snapshot.index < request_index || self.snapshot.index < self.before.index.0 {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        // The state itself travels beside Raft, in chunks; the message only says which one it is.
        snapshot.set_metadata(self.snapshot.clone());
        Ok(snapshot)
    }
}
