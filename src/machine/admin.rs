//! What people and programs ask for beside the normal course: cancel, requeue, delete, pause, resume, restore.

use std::sync::Arc;

use super::command::Command;
use super::decode::{name, reason, Place as _, Result};
use super::flows::Standing;
use super::job::State;
use super::limit::of_queue;
use super::outcome::{self, code, Outcome, Refusal};
use super::queues::Pause;
use super::stored::Archived;
use super::table::Slot;
use super::tally::Tally;
use super::Machine;
use crate::base::codec::Reader;
use crate::base::{limits, JobId, Millis};

/// `PauseQueue`, behind its number.
pub(super) fn pause<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>> {
    Ok(Command::PauseQueue {
        queue: name(reader).at("queue")?,
        until: reader.option(|reader| reader.u64()).at("until_ms")?.map(Millis),
        reason: reason(reader)?,
    })
}

/// `LimitQueue`, behind its number.
pub(super) fn limit<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>> {
    Ok(Command::LimitQueue { queue: name(reader).at("queue")?, limit: reader.option(of_queue).at("limit")? })
}

impl Machine {
    pub(super) fn cancel(&mut self, ids: &[JobId], reason: &str) -> Outcome {
        let reason: Option<Arc<str>> = (!reason.is_empty()).then(|| reason.into());
        outcome::codes(self.each(ids, |machine, slot| machine.cancel_one(slot, reason.clone())))
    }

    pub(super) fn cancel_one(&mut self, slot: Slot, reason: Option<Arc<str>>) -> u8 {
        let job = self.table.get(slot);
        if job.state.is_final() {
            return code::NOTHING_TO_DO;
        }
        let told = job.session().zip(job.token()).map(|(session, token)| (session, job.id, token));
        self.effects.cancels.extend(told);
        let running = job.state == State::Processing;
        self.edit(slot, |job| {
            job.cancel_requested |= running;
            job.rare_mut().reason = reason;
        });
        if running {
            return code::TOLD;
        }
        self.move_to(slot, State::Cancelled, self.clock);
        code::DONE
    }

    pub(super) fn requeue(&mut self, ids: &[JobId]) -> Outcome {
        outcome::codes(self.each(ids, |machine, slot| {
            let job = machine.table.get(slot);
            match job.state {
                State::Enqueued | State::Processing | State::Awaiting => return code::NOTHING_TO_DO,
                State::Scheduled | State::Retrying => {}
                State::Succeeded | State::Failed | State::Cancelled => {
                    if machine.other_holder(slot).is_some() {
                        return code::CONFLICT;
                    }
                    // Whoever asks for a job itself does so in spite of the parents that it was cancelled for.
                    machine.void_edges(slot, Standing::Unmet);
                    machine.begin_again(slot);
                }
            }
            let waits = machine.table.get(slot).flow().is_some_and(|flow| flow.open > 0);
            machine.move_to(slot, if waits { State::Awaiting } else { State::Enqueued }, machine.clock);
            code::DONE
        }))
    }

    /// The other job that holds the unique key of this one.
    pub(super) fn other_holder(&self, slot: Slot) -> Option<JobId> {
        let job = self.table.get(slot);
        job.unique().and_then(|key| self.unique.holder(key, self.clock)).filter(|holder| *holder != job.id)
    }

    /// A new generation of a final job (J4): as if nothing was spent. What a failed run saved is kept for the next. It has
    /// its unique key again.
    pub(super) fn begin_again(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let expires = self.specs.get(job.spec).spec.expires.map(|span| self.clock.plus(span));
        let expires = expires.filter(|_| job.flow().is_none_or(|flow| flow.open == 0));
        let held = job.unique().is_some_and(|key| self.unique.holder(key, self.clock).is_some());
        self.edit(slot, |job| {
            job.generation = job.generation.saturating_add(1);
            (job.attempt, job.crashes, job.cancel_requested) = (0, 0, false);
            if job.rare.is_some() || expires.is_some() {
                let rare = job.rare_mut();
                (rare.result, rare.error, rare.reason, rare.progress) = (None, None, None, None);
                rare.expires = expires;
            }
        });
        if !held {
            self.take_unique(slot);
        }
    }

    pub(super) fn delete(&mut self, ids: &[JobId]) -> Outcome {
        // Any archive may have those that are not in memory, also one that was not asked.
        let archived = ids.iter().filter(|id| self.table.find(**id).is_none()).copied();
        self.effects.deleted.extend(archived);
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
            match was_final {
                // Whoever waits for it must learn that it is gone; the archive, if it has it.
                false => machine.effects.finished.push(job.id),
                true => machine.effects.deleted.push(job.id),
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

    /// Bounds how many jobs of a queue run at once, or no more. Those that run go on.
    pub(super) fn limit_queue(&mut self, queue: &str, limit: Option<u64>) -> Outcome {
        if self.queues.number_of(queue).is_none() && self.queues.count() >= limits::QUEUES_MAX {
            return Err(Refusal::overloaded(format!("more than {} queues", limits::QUEUES_MAX)));
        }
        let number = self.queues.number(&queue.into());
        let before = self.queues.get(number).room();
        self.queues.get_mut(number).limit = limit;
        let more = self.queues.get(number).room().saturating_sub(before);
        self.tell_queue_room(number, more);
        outcome::nil()
    }

    /// More jobs of a queue with a limit may run than before.
    pub(super) fn tell_queue_room(&mut self, number: u32, more: u64) {
        let limited = self.queues.get(number).limit.is_some() || more > 1;
        if limited && !self.queues.get(number).lines.is_empty() {
            self.announce(number, more.min(self.may_start(number)) as usize);
        }
    }

    /// Jobs of a queue that wait for a worker alone.
    fn may_start(&self, number: u32) -> u64 {
        self.queues.get(number).tally.count(State::Enqueued).saturating_sub(self.gates.held_in(number))
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
        self.announce(number, self.may_start(number) as usize);
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
            self.note_away(&job, false);
            let slot = self.add(job, Tally::restore);
            self.rejoin(slot);
            codes.push(code::DONE);
        }
        outcome::codes(codes.into_iter())
    }
}
