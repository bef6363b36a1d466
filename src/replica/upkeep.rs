//! Keeping the log short: when a snapshot is due, what it captures, and what may go once it is on disk.
//!
//! The owner calls `capture_due` after a turn, writes the capture on another thread with `Capture::write`, and brings the
//! result back with `captured`. The log keeps everything behind the *older* of the two snapshots on disk, so that a
//! damaged newest one costs nothing.

use std::sync::Arc;

use super::{Replica, ReplicaConfig};
use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, Result};
use crate::consensus::{ConfState, SnapshotMetadata};
use crate::machine::Image;
use crate::snapshot::{SnapshotMeta, SnapshotStore};

/// How much larger the state may be than the log before the next snapshot: half of it is rewritten for nothing otherwise.
const STATE_SHARE: u64 = 2;

/// What the replica knows about its snapshots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upkeep {
    /// Index of the newest snapshot on disk.
    pub newest: LogIndex,
    /// Bytes of the state in the newest snapshot, not compressed.
    pub state_bytes: u64,
    /// A capture is being written.
    pub running: bool,
    pub(super) snapshot_bytes: u64,
    pub(super) log_bytes_max: u64,
    pub(super) log_bytes_for_peers: usize,
}

impl Upkeep {
    pub(super) fn new(config: &ReplicaConfig, newest: LogIndex) -> Self {
        Self {
            newest,
            snapshot_bytes: config.snapshot_bytes,
            log_bytes_max: config.log_bytes_max,
            log_bytes_for_peers: config.log_bytes_for_peers,
            ..Self::default()
        }
    }

    /// Bytes of log that make a snapshot due.
    fn due_at(&self) -> u64 {
        // Never beyond half of the bound: the other half is room for writers while the snapshot is being written.
        self.snapshot_bytes.max(self.state_bytes / STATE_SHARE).min(self.log_bytes_max / 2)
    }
}

/// The whole state at one index, cheap to take; written by another thread.
pub struct Capture {
    pub meta: SnapshotMeta,
    image: Image,
    store: Arc<SnapshotStore>,
}

impl Capture {
    /// Writes the snapshot. It survives a power cut when this returns. Gives the bytes of the state. Calls `between` after
    /// each chunk: a large state takes seconds, and the thread that writes it has other duties.
    pub fn write(&self, between: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        let mut writer = self.store.begin(self.meta.clone())?;
        let mut bytes = 0;
        self.image.write(&mut |section, chunk| {
            between()?;
            bytes += chunk.len() as u64;
            writer.chunk(section, chunk)
        })?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// How writing a capture ended.
#[derive(Debug)]
pub struct SnapshotWritten {
    pub meta: SnapshotMeta,
    /// Bytes of the state, not compressed.
    pub state_bytes: Result<u64>,
}

impl<T> Replica<T> {
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// Bytes of log behind the newest snapshot.
    pub fn log_bytes(&self) -> u64 {
        self.wal.bytes_since(self.upkeep.newest.0)
    }

    /// Whether writers may go on; otherwise they wait for the snapshot.
    pub fn has_room(&self) -> bool {
        self.log_bytes() < self.upkeep.log_bytes_max
    }

    /// A capture of the state, if a snapshot is due (or wanted) and none is being written.
    pub fn capture_due(&mut self, wanted: bool) -> Option<Capture> {
        let due = wanted || self.log_bytes() >= self.upkeep.due_at() || self.core.log().wants_snapshot();
        if !due || self.upkeep.running || self.applied.index <= self.upkeep.newest || self.failed.is_some() {
            return None;
        }
        self.upkeep.running = true;
        let image = self.machine.read().capture();
        let meta = SnapshotMeta {
            index: self.applied.index.0,
            term: self.applied.term.0,
            now: image.clock(),
            state_version: image.state_version(),
            ..named(&self.members)
        };
        Some(Capture { meta, image, store: self.snapshots.clone() })
    }

    /// The capture is on disk, or the disk was full: then the log stays as it is, and the snapshot is due again. Any other
    /// failure is the end (D3).
    pub fn captured(&mut self, written: SnapshotWritten) -> Result<()> {
        self.check_alive()?;
        self.upkeep.running = false;
        if written.meta.index <= self.upkeep.newest.0 {
            return Ok(()); // Meanwhile the state of another member was installed, and it is newer.
        }
        self.upkeep.state_bytes = match written.state_bytes {
            Ok(bytes) => bytes,
            Err(Error::DiskFull(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.upkeep.newest = LogIndex(written.meta.index);
        self.core.log_mut().set_snapshot(metadata(&written.meta));
        // A member that was away for a while finds what it missed here, and needs no snapshot.
        let kept = if self.alone() { 0 } else { self.upkeep.log_bytes_for_peers };
        self.core.log_mut().compact(self.upkeep.newest, kept);
        self.wal.drop_before(self.snapshots.log_needed_from())
    }
}

/// The members as a snapshot names them. Sorted, as raft-rs gives them in the order of a hash.
fn named(members: &ConfState) -> SnapshotMeta {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    SnapshotMeta {
        voters: sorted(&members.voters),
        learners: if has(Bug::ForgetLearners) { Vec::new() } else { sorted(&members.learners) },
        voters_outgoing: sorted(&members.voters_outgoing),
        learners_next: sorted(&members.learners_next),
        auto_leave: members.auto_leave,
        ..SnapshotMeta::default()
    }
}

/// What raft-rs must know about a snapshot: the members are those at its index, not the present ones.
pub(super) fn metadata(meta: &SnapshotMeta) -> SnapshotMetadata {
    let mut members = ConfState { auto_leave: meta.auto_leave, ..ConfState::default() };
    members.set_voters(meta.voters.clone());
    members.set_learners(meta.learners.clone());
    members.set_voters_outgoing(meta.voters_outgoing.clone());
    members.set_learners_next(meta.learners_next.clone());
    let mut metadata = SnapshotMetadata::default();
    metadata.set_conf_state(members);
    metadata.index = meta.index;
    metadata.term = meta.term;
    metadata
}
