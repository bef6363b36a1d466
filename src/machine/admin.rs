//! What people and programs ask for beside the normal course: cancel, requeue, delete, pause, resume, restore.

use std::sync::Arc;

use super::job::State;
use super::outcome::{self, code, Outcome, Refusal};
use super::queues::Pause;
use super::stored::Archived;
use super::table::Slot;
use super::tally::Tally;
use super::Machine;
use crate::base::{limits, JobId, Millis};

impl Machine {
    pub(super) fn cancel(&mut self, ids: &[JobId], reason: &str) -> Outcome {
        let reason: Option<Arc<str>> = (!reason.is_empty()).then(|| reason.into());
        outcome::codes(self.each(ids, |machine, slot| {
            let job = machine.table.get(slot);
            if job.state.is_final() {
                return code::NOTHING_TO_DO;
            }
            machine
                .effects
                .cancels
                .extend(job.session().zip(job.token()).map(|(session, token)| (session, job.id, token)));
            let running = job.state == State::Processing;
            machine.edit(slot, |job| {
                job.cancel_requested |= running;
                job.rare_mut().reason = reason.clone();
            });
            if running {
                return code::TOLD;
            }
            machine.move_to(slot, State::Cancelled, machine.clock);
            code::DONE
        }))
    }

    pub(super) fn requeue(&mut self, ids: &[JobId]) -> Outcome {
        outcome::codes(self.each(ids, |machine, slot| {
            let job = machine.table.get(slot);
            match job.state {
                State::Enqueued | State::Processing | State::Awaiting => return code::NOTHING_TO_DO,
                State::Scheduled | State::Retrying => {}
                State::Succeeded | State::Failed | State::Cancelled => {
                    let holder = job.unique().and_then(|key| machine.unique.holder(key, machine.clock));
                    if holder.is_some_and(|holder| holder != job.id) {
                        return code::CONFLICT;
                    }
                    let held = holder.is_some();
                    machine.begin_again(slot);
                    if !held {
                        machine.take_unique(slot);
                    }
                }
            }
            machine.move_to(slot, State::Enqueued, machine.clock);
            code::DONE
        }))
    }

    /// A new generation of a final job (J4): as if nothing was spent. What a failed run saved is kept for the next.
    fn begin_again(&mut self, slot: Slot) {
        let expires = self.specs.get(self.table.get(slot).spec).spec.expires.map(|span| self.clock.plus(span));
        self.edit(slot, |job| {
            job.generation = job.generation.saturating_add(1);
            (job.attempt, job.crashes, job.cancel_requested) = (0, 0, false);
            if job.rare.is_some() || expires.is_some() {
                let rare = job.rare_mut();
                (rare.result, rare.error, rare.reason, rare.progress) = (None, None, None, None);
                rare.expires = expires;
            }
        });
    }

    pub(super) fn delete(&mut self, ids: &[JobId]) -> Outcome {
        outcome::codes(self.each(ids, |machine, slot| {
            let job = machine.table.get(slot);
            if job.state == State::Processing {
                return code::PROCESSING;
            }
            let was_final = job.state.is_final();
            let job = machine.remove(slot, false);
            if let Some(key) = job.unique() {
                machine.unique.release_window(key, job.id);
            }
            if !was_final {
                machine.effects.finished.push(job.id); // Whoever waits for it must learn that it is gone.
            }
            code::DONE
        }))
    }

    /// One code for each id; `UNKNOWN` for those that are not in memory.
    fn each<'a>(
        &'a mut self,
        ids: &'a [JobId],
        act: impl Fn(&mut Machine, Slot) -> u8 + 'a,
    ) -> impl ExactSizeIterator<Item = u8> + 'a {
        ids.iter().map(move |id| match self.table.find(*id) {
            Some(slot) => act(self, slot),
            None => code::UNKNOWN,
        })
    }

    pub(super) fn pause_queue(&mut self, queue: &str, until: Option<Millis>, reason: &str) -> Outcome {
        if self.queues.number_of(queue).is_none() && self.queues.count() >= limits::QUEUES_MAX {
            return Err(Refusal::overloaded(format!("more than {} queues", limits::QUEUES_MAX)));
        }
        let number = self.queues.number(&queue.into());
        self.end_pause(number);
        self.queues.get_mut(number).pause = Some(Pause { until, reason: reason.into() });
        self.pauses.extend(until.map(|until| (until, number)));
        outcome::nil()
    }

    pub(super) fn resume_queue(&mut self, queue: &str) -> Outcome {
        if let Some(number) = self.queues.number_of(queue) {
            if self.end_pause(number) {
                self.announce_waiting(number);
            }
        }
        outcome::nil()
    }

    /// Ends the pause of a queue, if there is one.
    pub(super) fn end_pause(&mut self, number: u32) -> bool {
        let Some(pause) = self.queues.get_mut(number).pause.take() else { return false };
        if let Some(until) = pause.until {
            self.pauses.remove(&(until, number));
        }
        true
    }

    /// A queue goes on after a pause: what waits in it is ready now.
    pub(super) fn announce_waiting(&mut self, number: u32) {
        let waiting = self.queues.get(number).tally.count(State::Enqueued);
        self.announce(number, waiting as usize);
    }

    /// Puts records from the archive back, so that verbs reach them again. They do not take their unique keys: they are
    /// final.
    pub(super) fn restore(&mut self, records: Vec<Archived>) -> Outcome {
        self.room(records.len())?;
        let mut forms = self.forms(records.iter().map(|record| &record.spec))?;
        let mut codes = Vec::with_capacity(records.len());
        for (Archived { spec, mut job }, form) in records.into_iter().zip(&mut forms) {
            if self.table.find(job.id).is_some() {
                codes.push(code::PRESENT);
                continue;
            }
            job.spec = self.intern(&spec, form);
            self.add(job, Tally::restore);
            codes.push(code::DONE);
        }
        outcome::codes(codes.into_iter())
    }
}
