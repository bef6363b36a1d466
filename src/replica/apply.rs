//! Committed entries into the state machine, answers out.

use super::{entry, Position, Replica, Turn};
use crate::base::planted::{has, look_for_trip, Bug};
use crate::base::{LogIndex, Result, Term};
use crate::consensus::{Entry, EntryType};
use crate::machine::Machine;

/// Operations after which the set of open sessions may differ.
const SESSION_OPERATIONS: std::ops::RangeInclusive<u64> = 1..=3;

/// Bytes of applied entries that stay in memory while nobody else needs them: raft-rs asks about the newest only.
const CACHE_BYTES_ALONE: usize = 64 << 10;

impl<T> Replica<T> {
    /// Applies entries that are committed and on our own disk. Readers of the machine wait until all are applied.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, turn: &mut Turn<T>) -> Result<()> {
        let (shared, began) = (self.machine.clone(), (turn.clock)());
        let mut machine = shared.write();
        let mut sessions_changed = false;
        for entry in entries {
            let at = Position { index: LogIndex(entry.index), term: Term(entry.term) };
            assert_eq!(at.index.0, self.applied.index.0 + 1, "entries are applied in order, without gaps");
            let mut answer = None;
            if entry.get_entry_type() != EntryType::EntryNormal {
                // Also when it is empty: that is how a joint configuration ends.
                self.apply_change(&entry, turn)?;
            } else if !entry.data.is_empty() {
                let (now, request) = entry::split(&entry.data)?;
                look_for_trip(request);
                let operation = entry::operation(request);
                sessions_changed |= operation.is_some_and(|operation| SESSION_OPERATIONS.contains(&operation));
                answer = Some(machine.apply(at.index, now, request, &mut turn.effects)?);
                self.stamped = self.stamped.max(now);
            }
            self.tickets.applied(at, answer, &mut turn.answers);
            if at.term > self.applied.term && !has(Bug::PlacedWithoutTerm) {
                // The log goes on in a new term, so what older leaders placed behind here is gone for good.
                self.tickets.overruled(at, &mut turn.answers);
            }
            self.applied = at;
            turn.applied += 1;
            self.answer_change(&entry, turn);
        }
        if let Some(differs) = turn.effects.differs.take() {
            self.begin_doubt(differs, turn);
        }
        self.report(&machine, sessions_changed, turn);
        turn.applying += (turn.clock)().saturating_sub(began);
        if self.alone() {
            self.core.log_mut().compact(self.applied.index, CACHE_BYTES_ALONE);
        }
        Ok(())
    }

    fn report(&self, machine: &Machine, sessions_changed: bool, turn: &mut Turn<T>) {
        turn.next_due = machine.next_due();
        if sessions_changed {
            turn.sessions = Some(machine.sessions().collect());
        }
    }

    /// Whether no other member could ask for entries.
    pub(super) fn alone(&self) -> bool {
        let others = [&self.members.learners, &self.members.voters_outgoing];
        self.members.voters == [self.identity.node.0] && others.iter().all(|list| list.is_empty())
    }
}
