//! A full disk: what the log has no room for is refused, and a leader lets somebody lead who has room.
//!
//! ```text
//! leader whose log lacks room                     another voter
//! refuses what it has no room for
//! for some ticks ── a transfer, as any other ───> has room, or does not know better: it is elected
//!                <── Refused, LEADERSHIP ──────── has none: the next one is asked
//! ```
//!
//! What holds
//! * It is only tried where the voters that were heard lately and did not refuse are a majority without this member: else
//!   nothing could be written under them either, and a leader that answers with `DiskFull` is better than none.
//! * Where all are full, leadership comes to rest: who found that its log lacks room takes over from nobody before there is
//!   some, and who was refused tries again after pauses that double up to a bound.
//! * A member that waits for room for entries that are in consensus already (`is_stalled`) says nothing of Raft. As a follower it
//!   counts as silent, so it is not asked; as a leader it is replaced by an election. Its entries are as those of a leader that
//!   was cut off: the next one commits those that it has, and who waits learns which they are from the log.

use std::collections::BTreeMap;

use super::wire::Note;
use super::{Replica, Turn};
use crate::base::{Error, NodeId, Result};
use crate::consensus::{Role, ELECTION_TICKS};

/// Bytes of a group besides the data of its entries, at most: its head, the hard state and the alignment.
const GROUP_HEAD_BYTES: usize = 4096;
/// Bytes of an entry besides its data, at most.
const ENTRY_HEAD_BYTES: usize = 64;
/// Ticks that a leader lacks room before it asks somebody else to lead: a disk may be full for a moment.
const PATIENCE_TICKS: u64 = ELECTION_TICKS as u64 / 2;
/// Ticks between two tries, at most.
const PAUSE_TICKS_MAX: u64 = 10 * ELECTION_TICKS as u64;
/// Ticks for which a member that refused is not asked again.
const REFUSAL_TICKS: u64 = ELECTION_TICKS as u64;

/// In a `Refused`, in the place of the number of a forward: it is leadership that is refused. No forward has this number, so
/// members of earlier versions know nothing that is meant by it.
pub(super) const LEADERSHIP: u64 = 0;

/// What is known of room for logs, here and elsewhere.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes that the log had no room for when proposals were refused.
    lacking: Option<u64>,
    /// Ticks that this leader has lacked room, since the last try if there was one.
    waited: u64,
    /// How many there are before the next try.
    pause: u64,
    /// Who refused to lead for lack of room, and at which tick.
    refused: BTreeMap<NodeId, u64>,
}

impl Room {
    pub fn new() -> Self {
        Self { lacking: None, waited: 0, pause: PATIENCE_TICKS, refused: BTreeMap::new() }
    }

    /// One tick passed. Whether somebody else is to be asked to lead.
    fn tick(&mut self, leads: bool) -> bool {
        if self.lacking.is_none() {
            // Room that comes and goes must not begin with short pauses again each time.
            (self.waited, self.pause) = (0, PATIENCE_TICKS.max(self.pause - 1));
            return false;
        }
        self.waited = if leads { self.waited + 1 } else { 0 };
        let due = self.waited >= self.pause;
        if due {
            (self.waited, self.pause) = (0, PAUSE_TICKS_MAX.min(2 * self.pause));
        }
        due
    }
}

impl<T> Replica<T> {
    /// Makes sure that the log has a file with room for entries of so many bytes, while they can still be refused.
    pub(super) fn reserve(&mut self, bytes: usize, entries: usize) -> Result<()> {
        let bytes = (bytes + entries * ENTRY_HEAD_BYTES + GROUP_HEAD_BYTES) as u64;
        let outcome = self.wal.reserve(bytes);
        if matches!(outcome, Err(Error::DiskFull(_))) {
            // Smaller ones may still find a place. That does not end it: `seek_room` does.
            self.room.lacking = Some(bytes);
        }
        outcome
    }

    /// Whether the disk is full: a write waits for room, or one was refused and there is still none for it.
    pub fn is_full(&self) -> bool {
        self.is_stalled() || self.room.lacking.is_some()
    }

    /// Looks again for the room that was lacking when entries were refused, so that it shows when there is some, although
    /// nobody writes.
    pub fn seek_room(&mut self) -> Result<()> {
        let Some(bytes) = self.room.lacking else { return Ok(()) };
        self.check_alive()?;
        match self.wal.reserve(bytes) {
            Err(Error::DiskFull(_)) => {}
            outcome => {
                self.room.lacking = None;
                outcome?;
            }
        }
        Ok(())
    }

    /// One tick passed. A leader whose log has lacked room for a while lets somebody lead who has some.
    pub(super) fn mind_room(&mut self, turn: &mut Turn<T>) -> Result<()> {
        let leads = self.role() == Role::Leader && !self.is_stalled();
        if !self.room.tick(leads) {
            return Ok(());
        }
        let outcome = self.seek_room();
        self.or_fail(outcome, turn)?;
        self.yield_to_roomy(turn)
    }

    fn yield_to_roomy(&mut self, turn: &mut Turn<T>) -> Result<()> {
        let successor = self.roomy_successor().filter(|_| self.room.lacking.is_some());
        let Some(next) = successor else { return Ok(()) };
        log::warn!("the disk is full: member {next} is asked to lead");
        self.transfer(next, turn)
    }

    /// Who can take over from a leader without room, if that helps.
    fn roomy_successor(&self) -> Option<NodeId> {
        let roomy = |node: &NodeId| self.is_alive(*node) && !self.has_refused(*node);
        let others: Vec<NodeId> = self.others().into_iter().filter(roomy).collect();
        self.best_successor().ok().filter(|_| self.core.is_majority(&others))
    }

    /// Whether this member would not take over a moment ago.
    pub(super) fn has_refused(&self, node: NodeId) -> bool {
        self.room.refused.get(&node).is_some_and(|at| self.watch.ticks - at < REFUSAL_TICKS)
    }

    /// A leader asks this member to take over. Whether it does; if not, it says so.
    pub(super) fn takes_over(&mut self, from: NodeId) -> Result<bool> {
        self.seek_room()?;
        let full = self.is_full() || self.wal.lacks_spare();
        if full {
            let why = Error::DiskFull("the log of this member lacks room, so it does not take over".into());
            self.tell(from, Note::Refused { number: LEADERSHIP, why });
        }
        Ok(!full)
    }

    /// A member does not take over, as its log lacks room too. If it was asked to, somebody else is.
    pub(super) fn hear_full(&mut self, from: NodeId, turn: &mut Turn<T>) -> Result<()> {
        if self.role() != Role::Leader {
            return Ok(());
        }
        let now = self.watch.ticks;
        self.room.refused.retain(|_, at| now - *at < REFUSAL_TICKS);
        self.room.refused.insert(from, now);
        if !self.core.end_transfer(from) {
            return Ok(());
        }
        log::warn!("member {from} does not take over: its disk is full");
        match self.room.lacking {
            Some(_) => self.yield_to_roomy(turn),
            None => self.hand_over(turn),
        }
    }
}
