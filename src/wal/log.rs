//! The open log.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::active::{install, Active, Failure};
use super::frame;
use super::open::Home;
use super::segment::{self, SegmentHeader};
use super::spare::SpareMaker;
use super::{Group, HardState, Mark, WalEntry};
use crate::base::planted::{has, Bug};
use crate::base::{Error, Result};
use crate::disk::Identity;

/// Log bytes between two remembered positions; `bytes_since` is exact to this.
const MILESTONE_BYTES: u64 = 64 << 10;
/// The write-ahead log of one Raft group. One thread owns it; `SpareMaker` may run on another.
#[derive(Debug)]
pub struct Wal {
    pub(super) home: Home,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) active: Active,
    /// State as of the last group.
    pub(super) tip: Tip,
    /// Bytes of all groups ever counted by this handle, and how many of them were in files given up.
    pub(super) written_bytes: u64,
    pub(super) dropped_bytes: u64,
    pub(super) milestones: VecDeque<(u64, u64)>,
    /// Reused for every group.
    pub(super) buffer: Vec<u8>,
    pub(super) poisoned: Option<String>,
}

/// A file that takes no more groups.
#[derive(Debug)]
pub struct Sealed {
    pub path: PathBuf,
    pub max_index: u64,
    pub group_bytes: u64,
}

/// The state of the log behind its last group.
#[derive(Clone, Debug, Default)]
pub struct Tip {
    pub next_group: u64,
    pub chain: u32,
    pub last_index: u64,
    pub last_term: u64,
    pub hard_state: HardState,
    pub conf_state: Bytes,
    pub mark: Mark,
    pub suspect_upto: u64,
}

impl Wal {
    /// Appends entries and hard state; they survive a power cut when this returns. See `append_group`.
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[WalEntry]) -> Result<()> {
        self.append_group(&Group { hard_state, entries, ..Group::default() })
    }

    /// Appends one group: one write and one sync. Entries beyond `group_bytes_max` make several groups, in order, the
    /// hard state's commit and vote taking effect with the last.
    ///
    /// # Errors
    /// `DiskFull`: nothing, or only the first entries of a very large append, is in the log; the log goes on, and the
    /// same append may be repeated. `Invalid`: the entries do not continue the log; nothing was written. Any other
    /// error: the log is poisoned, and nobody may be told that the entries are durable, nor that they are not.
    pub fn append_group(&mut self, group: &Group<'_>) -> Result<()> {
        self.check_alive()?;
        self.check(group)?;
        let mut entries = group.entries;
        let (mut mark, mut restart) = (group.mark, group.restart);
        loop {
            let count = self.leading_entries(entries);
            let (now, later) = entries.split_at(count);
            if later.is_empty() {
                return self.write_group(&Group { entries: now, mark, restart, ..*group });
            }
            // A crash between the parts must not find a commit that points behind the log.
            let commit = self.tip.hard_state.commit;
            let hard_state = group.hard_state.map(|state| HardState { commit, ..state });
            self.write_group(&Group { hard_state, conf_state: None, mark, restart, entries: now })?;
            (entries, mark, restart) = (later, None, false);
        }
    }

    /// Makes sure that groups of so many bytes have a place in the current file, beginning the next one if need be.
    /// `DiskFull` comes here, while the caller can still refuse what it would write; the log is as it was then.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.check_alive()?;
        if self.active.position + bytes > self.active.bytes {
            self.rotate(bytes)?;
        }
        Ok(())
    }

    /// Says that a snapshot at this position is durable, so that a log that ends before it continues behind it.
    pub fn mark(&mut self, mark: Mark) -> Result<()> {
        self.append_group(&Group { mark: Some(mark), ..Group::default() })
    }

    /// Gives up whole files of which no entry has this index or a later one. `SpareMaker::work` removes them.
    ///
    /// Keep what the *older* of the two snapshots needs: the log must reach back to it if the newer is damaged.
    pub fn drop_before(&mut self, index: u64) -> Result<()> {
        self.check_alive()?;
        while self.sealed.front().is_some_and(|sealed| sealed.max_index < index) {
            let sealed = self.sealed.pop_front().expect("there is a first");
            self.dropped_bytes += sealed.group_bytes;
            self.home.pool.doom([sealed.path]);
        }
        while self.milestones.front().is_some_and(|(_, bytes)| *bytes < self.dropped_bytes) {
            self.milestones.pop_front();
        }
        Ok(())
    }

    /// Bytes of log that hold entries behind this index, rounded up to 64 KiB.
    pub fn bytes_since(&self, index: u64) -> u64 {
        let behind = self.milestones.partition_point(|(milestone, _)| *milestone <= index);
        let before = behind.checked_sub(1).map_or(self.dropped_bytes, |position| self.milestones[position].1);
        self.written_bytes - before.max(self.dropped_bytes)
    }

    /// Bytes of log in the files that are kept.
    pub fn bytes(&self) -> u64 {
        self.written_bytes - self.dropped_bytes
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.tip.last_index
    }

    /// The hard state last appended.
    pub fn hard_state(&self) -> HardState {
        self.tip.hard_state
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// Does the slow work beside the log.
    pub fn spare(&self) -> SpareMaker {
        SpareMaker::new(self.home.pool.clone())
    }

    /// Whether `SpareMaker::work` has something to do.
    pub fn wants_work(&self) -> bool {
        self.home.pool.wants_work()
    }

    /// Whether the disk had no room for the next file when it was last to be made.
    pub fn lacks_spare(&self) -> bool {
        self.home.pool.lacks_spare()
    }

    /// Why the log takes nothing any more, if so.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    fn check_alive(&mut self) -> Result<()> {
        if self.poisoned.is_none() {
            self.poisoned = self.home.pool.failure();
        }
        match &self.poisoned {
            Some(cause) => Err(Error::Poisoned(cause.clone())),
            None => Ok(()),
        }
    }

    /// Refuses what recovery would refuse to read. The Raft engine never asks for it; better to stop here than there.
    fn check(&self, group: &Group<'_>) -> Result<()> {
        let invalid = |what: &str| Err(Error::Invalid(format!("cannot append to the log: {what}")));
        let marked = group.mark.map_or(0, |mark| mark.index);
        let mut last = if group.restart { marked } else { self.tip.last_index.max(marked) };
        if let Some(first) = group.entries.first() {
            if first.index == 0 || first.index > last + 1 {
                return invalid(&format!("entry {} does not follow entry {last}", first.index));
            }
            if first.index <= self.tip.hard_state.commit {
                return invalid(&format!("entry {} is already committed", first.index));
            }
            last = first.index - 1 + group.entries.len() as u64;
        }
        let mut pairs = group.entries.windows(2);
        if pairs.any(|pair| pair[0].index + 1 != pair[1].index || pair[0].term > pair[1].term) {
            return invalid("the entries are out of order");
        }
        if group.entries.iter().any(|entry| entry.context.len() > frame::CONTEXT_BYTES_MAX) {
            return invalid("the context of an entry is too long");
        }
        if group.conf_state.is_some_and(|bytes| bytes.len() > segment::CONF_BYTES_MAX) {
            return invalid("the configuration is too long");
        }
        let commit = group.hard_state.unwrap_or(self.tip.hard_state).commit;
        if commit > last {
            return invalid(&format!("commit {commit} lies behind the last entry {last}"));
        }
        Ok(())
    }

    /// How many of these entries go into one group: at least one, if there are any.
    fn leading_entries(&self, entries: &[WalEntry]) -> usize {
        let mut bytes = 0;
        for (position, entry) in entries.iter().enumerate() {
            bytes += frame::entry_bytes(entry);
            if bytes > self.home.config.group_bytes_max && position > 0 {
                return position;
            }
        }
        entries.len()
    }

    fn write_group(&mut self, group: &Group<'_>) -> Result<()> {
        let bytes = frame::group_bytes(group) as u64;
        if bytes == frame::HEADER_BYTES as u64 {
            return Ok(()); // Nothing to make durable.
        }
        if self.active.position + bytes > self.active.bytes {
            self.rotate(bytes)?;
        }
        let active = &mut self.active;
        self.buffer.clear();
        let chain = frame::encode(&mut self.buffer, active.salt, self.tip.next_group, self.tip.chain, group);
        let end = active.position + bytes;
        self.buffer.resize((end.max(active.dirty_upto) - active.position) as usize, 0);
        if let Err(error) = active.file.write_at(active.position, &self.buffer) {
            if matches!(error, Error::DiskFull(_)) {
                // Only a copy-on-write file system gets here. Nothing was synced, so the place is simply written again.
                active.dirty_upto = active.position + self.buffer.len() as u64;
                return Err(error);
            }
            return Err(self.poison_with_file(error));
        }
        if !has(Bug::AnswerBeforeSync) {
            let again = |error| if has(Bug::SyncRetried) { active.file.sync_data() } else { Err(error) };
            if let Err(error) = active.file.sync_data().or_else(again) {
                return Err(self.poison_with_file(error));
            }
        }
        (active.position, active.dirty_upto) = (end, end);
        self.advance(group, bytes, chain);
        Ok(())
    }

    /// Takes over the state of a group that is durable now.
    fn advance(&mut self, group: &Group<'_>, bytes: u64, chain: u32) {
        let tip = &mut self.tip;
        (tip.next_group, tip.chain) = (tip.next_group + 1, chain);
        if let Some(mark) = group.mark {
            tip.mark = mark;
            if group.restart || mark.index > tip.last_index {
                (tip.last_index, tip.last_term) = (mark.index, mark.term);
            }
        }
        if let Some(last) = group.entries.last() {
            (tip.last_index, tip.last_term) = (last.index, last.term);
            self.active.max_index = self.active.max_index.max(last.index);
        }
        tip.hard_state = group.hard_state.unwrap_or(tip.hard_state);
        if let Some(bytes) = group.conf_state {
            tip.conf_state = Bytes::copy_from_slice(bytes);
        }
        if tip.last_index >= tip.suspect_upto {
            tip.suspect_upto = 0;
        }
        self.written_bytes += bytes;
        let (last_index, written) = (tip.last_index, self.written_bytes);
        remember(&mut self.milestones, last_index, written);
    }

    fn rotate(&mut self, group_bytes: u64) -> Result<()> {
        let needed = segment::HEADER_BYTES as u64 + group_bytes;
        let mut header = self.tip.header(&self.home.identity);
        header.sequence = self.active.sequence + 1;
        match install(&self.home, header, &[], needed) {
            Ok(next) => {
                let old = std::mem::replace(&mut self.active, next);
                self.sealed.push_back(Sealed {
                    path: old.path,
                    max_index: old.max_index,
                    group_bytes: old.position - segment::HEADER_BYTES as u64,
                });
                Ok(())
            }
            Err(Failure { error, clean: true }) => Err(error),
            Err(Failure { error, clean: false }) => Err(self.poison(error)),
        }
    }

    /// As `poison`, after a call for the current file. That was made under another name, which the error has.
    fn poison_with_file(&mut self, error: Error) -> Error {
        let named = match error {
            Error::Disk { operation, message, .. } => {
                Error::Disk { operation, path: self.active.path.display().to_string(), message }
            }
            other => other,
        };
        self.poison(named)
    }

    /// Stops the log for good. A full disk is named differently from here on: it cannot be resumed.
    fn poison(&mut self, error: Error) -> Error {
        log::error!("the log stops: {error}");
        self.poisoned = Some(error.to_string());
        match error {
            Error::DiskFull(message) => {
                Error::Disk { operation: "sync", path: self.active.path.display().to_string(), message }
            }
            other => other,
        }
    }
}

impl Tip {
    /// A header for the file that follows; its sequence, salt and size are filled in later.
    pub fn header(&self, identity: &Identity) -> SegmentHeader {
        SegmentHeader {
            cluster: identity.cluster,
            group: identity.group,
            node: identity.node,
            sequence: 0,
            salt: 0,
            first_group: self.next_group,
            chain: self.chain,
            segment_bytes: 0,
            first_index: self.last_index + 1,
            previous_term: self.last_term,
            hard_state: self.hard_state,
            suspect_upto: if has(Bug::SuspicionForgotten) { 0 } else { self.suspect_upto },
            mark: self.mark,
            conf_state: self.conf_state.clone(),
        }
    }
}

/// Remembers how many bytes the log had at an index, now and then. A replaced suffix takes its milestones with it.
pub fn remember(milestones: &mut VecDeque<(u64, u64)>, index: u64, bytes: u64) {
    while milestones.back().is_some_and(|(later, _)| *later > index) {
        milestones.pop_back();
    }
    if milestones.back().is_none_or(|(_, before)| bytes - before >= MILESTONE_BYTES) {
        milestones.push_back((index, bytes));
    }
}
