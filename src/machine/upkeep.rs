//! What the leader's timer asks for, at most so many items a command: `Tick` and `Evict`.

use super::flows::settled_max;
use super::job::State;
use super::outcome::{self, Outcome};
use super::record::JobRecord;
use super::table::Slot;
use super::Machine;
use crate::base::codec::Writer;
use crate::base::planted::{has, Bug};
use crate::base::{limits, JobId, Millis};

impl Machine {
    /// Settles who is left, cancels what expired, enqueues what is due, ends pauses, opens rates, and forgets batches and unique
    /// windows that are over.
    pub(super) fn tick(&mut self, items_max: usize) -> Outcome {
        let items_max = items_max.min(limits::UPKEEP_ITEMS_MAX);
        if has(Bug::ExpireByLogTime) {
            let old = self.sessions.values().find(|session| session.opened.plus(session.ttl) < self.clock);
            let old = old.map(|session| session.id);
            old.map(|session| self.end_session(session, false));
        }
        let mut done = self.work_off(items_max.min(settled_max()));
        done += self.expire(items_max - done);
        done += self.promote(items_max - done);
        done += self.end_pauses(items_max - done);
        done += self.forget_batches(items_max - done);
        done += self.wake_limiters(items_max - done);
        while done < items_max && self.unique.forget_ended(self.clock) {
            done += 1;
        }
        done += self.work_off((items_max - done).min(settled_max()));
        outcome::number(done as u64)
    }

    /// When `Tick` has work; `None` if never.
    pub fn next_due(&self) -> Option<Millis> {
        if !self.flows.todo.is_empty() {
            return Some(self.clock);
        }
        let due = self.due.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.deadlines.first_key_value().map(|((at, _), _)| *at);
        let pause = self.pauses.first().map(|(at, _)| *at);
        // Nothing is done for a schedule, but time has to come to its slot: it goes on with commands only.
        let slot = self.schedules.next_after(self.clock);
        let batch = self.flows.over.first().map(|(at, _)| at.plus(Millis(limits::BATCH_KEEP_MS)));
        let (unique, limiter) = (self.unique.next_end(), self.limiters.next_wake());
        let next = [due, deadline, pause, unique, slot, batch, limiter].into_iter().flatten().min();
        next.filter(|at| *at < Millis::MAX)
    }

    /// Cancels jobs that still wait at their deadline to start. A claim does it too, so none is handed out late.
    pub(super) fn expire(&mut self, items_max: usize) -> usize {
        for done in 0..items_max {
            if !self.has_expired() {
                return done;
            }
            let Some((_, slot)) = self.deadlines.first_key_value() else { return done };
            let slot = *slot;
            let home = self.home(self.table.get(slot).spec);
            self.edit(slot, |job| job.rare_mut().reason = Some("expired".into()));
            self.tallies(home, |tally| tally.expired += 1);
            self.move_to(slot, State::Cancelled, self.clock);
        }
        items_max
    }

    pub(super) fn has_expired(&self) -> bool {
        self.deadlines.first_key_value().is_some_and(|((at, _), _)| *at <= self.clock)
    }

    /// Enqueues jobs that are due (J9), those that were due first before the others.
    fn promote(&mut self, items_max: usize) -> usize {
        for done in 0..items_max {
            let early = Millis(if has(Bug::EarlyPromotion) { 20 } else { 0 });
            let due = self.due.first_key_value().filter(|((at, _), _)| *at <= self.clock.plus(early));
            let Some((_, slot)) = due else { return done };
            self.move_to(*slot, State::Enqueued, self.clock);
        }
        items_max
    }

    fn end_pauses(&mut self, items_max: usize) -> usize {
        for done in 0..items_max {
            let over = self.pauses.first().filter(|(at, _)| *at <= self.clock);
            let Some((_, number)) = over.copied() else { return done };
            self.end_pause(number);
            self.announce_waiting(number);
        }
        items_max
    }

    /// Forgets finished jobs up to an ordinal: the archive has them, or nobody wants them.
    pub(super) fn evict(&mut self, ordinal: u64) -> Outcome {
        let (mut done, mut items) = (0, 0); // A job with many edges counts for several items.
        while items < limits::UPKEEP_ITEMS_MAX {
            let first = self.finished.first_key_value().map(|(ordinal, slot)| (*ordinal, *slot));
            let Some((_, slot)) = first.filter(|(first, _)| *first <= ordinal) else { break };
            items += self.items_of(slot);
            self.remove(slot, true);
            done += 1;
        }
        let left = self.finished.first_key_value().map_or(self.ordinal, |(first, _)| first - 1);
        self.evicted = self.evicted.max(ordinal.min(left));
        outcome::number(done)
    }

    /// Finished jobs after an ordinal, oldest first, as records for the archive: at most so many, and no more once they have
    /// this many bytes together. The caller holds the machine's lock, so neither may be large.
    pub fn finished(&self, after: u64, jobs_max: usize, bytes_max: usize) -> Vec<(u64, JobId, Vec<u8>)> {
        let Some(from) = after.checked_add(1) else { return Vec::new() };
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (ordinal, slot) in self.finished.range(from..).take(jobs_max) {
            let record = self.record(*ordinal, *slot);
            bytes += record.2.len();
            records.push(record);
            if bytes >= bytes_max {
                break;
            }
        }
        records
    }

    fn record(&self, ordinal: u64, slot: Slot) -> (u64, JobId, Vec<u8>) {
        let job = self.table.get(slot);
        let (mut flow, mut children) = (Writer::new(), Writer::new());
        let mut record = JobRecord::of(&self.specs.get(job.spec).spec, job);
        record.flow = job.flow().map(|known| {
            known.encode(&mut flow);
            flow.as_bytes()
        });
        for child in self.cancelled_for(job.id) {
            children.raw(&child.0);
        }
        record.children = children.as_bytes();
        (ordinal, job.id, record.encode())
    }

    /// The newest finish ordinal that was given.
    pub fn finished_upto(&self) -> u64 {
        self.ordinal
    }

    /// No job with a finish ordinal up to this one is in memory.
    pub fn evicted_upto(&self) -> u64 {
        self.evicted
    }
}
