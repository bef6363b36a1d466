//! One group to the disk: entries and hard state in one write and one sync.

use super::Replica;
use crate::base::planted::{has, Bug};
use crate::base::{Error, Result};
use crate::consensus::{Entry, EntryType, Write};
use crate::wal::{HardState, WalEntry};

/// Who hears of the entries that this member takes into its log, one write at a time, just before they are synced. They follow
/// one another, and take the place of whatever the log had from the index of the first one on. Nobody knows yet whether they will
/// be committed. It must not block.
pub type Herald = Box<dyn FnMut(&[Entry]) + Send>;

impl<T> Replica<T> {
    /// From now on `herald` hears of entries.
    pub fn announce_to(&mut self, herald: Herald) {
        self.herald = Some(herald);
    }

    pub(super) fn announce(&mut self, entries: &[Entry]) {
        if let Some(herald) = self.herald.as_mut().filter(|_| !entries.is_empty()) {
            herald(entries);
        }
    }

    /// Writes what must be durable. A mere move of the commit index waits for the next group: after a crash it is found
    /// again by leading, and nothing that was answered depends on it.
    /// Gives the write back if the disk has no room for it; nothing of it is in the log then.
    pub(super) fn persist(&mut self, write: Write) -> Result<Option<Write>> {
        if let Some(state) = &write.hard_state {
            self.hard_state = Some(HardState { term: state.term, vote: state.vote, commit: state.commit });
        }
        if let Some(state) = self.hard_state.as_mut().filter(|_| has(Bug::ForgetVote)) {
            state.vote = 0;
        }
        let is_empty = self.hard_state.is_none() && write.entries.is_empty();
        if !write.sync || is_empty {
            return Ok(None);
        }
        let entries: Vec<WalEntry> = write.entries.iter().map(stored).collect();
        match self.wal.append(self.hard_state, &entries) {
            Ok(()) => self.hard_state = None,
            // Room was reserved, but a file system that copies on write can still refuse.
            Err(Error::DiskFull(_)) => return Ok(Some(write)),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Writes the commit index that no group carried yet, so that a clean restart replays without an election's help.
    pub fn flush(&mut self) -> Result<()> {
        self.check_alive()?;
        if self.hard_state.is_none() {
            return Ok(());
        }
        self.persist(Write { sync: true, ..Write::default() }).map(drop)
    }
}

fn stored(entry: &Entry) -> WalEntry {
    WalEntry {
        term: entry.term,
        index: entry.index,
        kind: kind(entry.get_entry_type()),
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

pub(super) fn kind(entry_type: EntryType) -> u8 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// The other way; nothing if the kind is from the future.
pub(super) fn kind_of(number: u8) -> Option<EntryType> {
    match number {
        0 => Some(EntryType::EntryNormal),
        1 => Some(EntryType::EntryConfChange),
        2 => Some(EntryType::EntryConfChangeV2),
        _ => None,
    }
}

/// The entry as consensus knows it; nothing if its kind is from the future.
pub(super) fn restored(stored: WalEntry) -> Option<Entry> {
    let entry_type = kind_of(stored.kind)?;
    let mut entry = Entry {
        term: stored.term,
        index: stored.index,
        data: stored.data,
        context: stored.context,
        ..Entry::default()
    };
    entry.set_entry_type(entry_type);
    Some(entry)
}
