//! The only place where jobs come, change state and go: each move keeps the record, the indexes, the figures and the
//! unique keys together.
//!
//! Indexes follow from the records alone, which is why an image holds none of them:
//!
//! | state               | is found in                                                   |
//! |---------------------|---------------------------------------------------------------|
//! | awaiting            | the edges to its parents, see `flows`                          |
//! | scheduled, retrying | `due` by time; `deadlines` if it expires                       |
//! | enqueued            | the line of its queue and function, or with limits `gates`, which show in the line what may start; `deadlines` if it expires |
//! | processing          | `leases` by session and token                                 |
//! | a final one         | `finished` by ordinal                                         |

use super::flows::{Standing, Word};
use super::job::{allowed, Job, State};
use super::queues::rank;
use super::table::Slot;
use super::tally::Tally;
use super::{outcome::Refusal, Machine};
use crate::base::planted::{has, Bug};
use crate::base::{limits, LeaseToken, Millis, SessionId};

/// Where a job belongs, read from its specification.
#[derive(Clone, Copy)]
pub(super) struct Home {
    pub queue: u32,
    pub function: u32,
    pub priority: i64,
}

impl Machine {
    pub(super) fn home(&self, spec: u32) -> Home {
        let entry = self.specs.get(spec);
        Home { queue: entry.queue, function: entry.function, priority: entry.spec.priority }
    }

    /// Stores a job that is not in memory. `order` is given here; everything else is in the record. `count` tells the
    /// figures whether the job is new or came back.
    pub(super) fn add(&mut self, mut job: Job, count: fn(&mut Tally, State)) -> Slot {
        job.order = self.next_order(job.state);
        let (home, state) = (self.home(job.spec), job.state);
        self.specs.hold(job.spec);
        self.bytes += job.weight();
        let slot = self.table.insert(job);
        self.tallies(home, |tally| count(tally, state));
        if !state.is_final() {
            self.hold_limits(slot, true);
        }
        let free = self.link(slot, home) && self.link_edges(slot);
        debug_assert!(free, "a number is given once");
        if state == State::Enqueued && !self.held_back(slot) {
            self.announce(home.queue, 1);
        }
        slot
    }

    /// Changes the state along the table of transitions. `at` is when it is due for a job that will wait, else now.
    pub(super) fn move_to(&mut self, slot: Slot, to: State, at: Millis) {
        let job = self.table.get(slot);
        let (from, home) = (job.state, self.home(job.spec));
        debug_assert!(allowed(from, to), "{} to {} is not in the table", from.name(), to.name());
        if !allowed(from, to) {
            return;
        }
        self.unlink(slot, home);
        let order = self.next_order(to);
        self.edit(slot, |job| {
            match from {
                State::Enqueued => {
                    let at = job.at;
                    job.rare_mut().enqueued = at;
                }
                State::Processing => {
                    let at = job.at;
                    let rare = job.rare_mut();
                    (rare.started, rare.session) = (at, SessionId(0));
                }
                _ => {}
            }
            job.state = to;
            job.at = at;
            job.order = order;
        });
        if !(has(Bug::TallyDrift) && to == State::Scheduled) {
            self.tallies(home, |tally| tally.shift(from, to));
        }
        if from == State::Processing {
            self.tell_queue_room(home.queue, 1);
        }
        if from.is_final() {
            self.hold_limits(slot, false);
        }
        let free = self.link(slot, home);
        debug_assert!(free, "a number is given once");
        match to {
            State::Enqueued if self.held_back(slot) => {}
            State::Enqueued => self.announce(home.queue, 1),
            _ if to.is_final() => {
                self.release_unique(slot);
                self.release_limits(slot);
                self.effects.finished.push(self.table.get(slot).id);
            }
            _ => {}
        }
        if from == State::Awaiting && self.table.get(slot).flow().is_some_and(|flow| to.is_final() && flow.unmet == 0) {
            self.void_edges(slot, Standing::Open);
        }
        if from.is_final() != to.is_final() {
            self.turned(slot, from, to);
        }
    }

    /// Gives a job that waits another specification, with the same function. It keeps its place in the order of waiting.
    pub(super) fn give_spec(&mut self, slot: Slot, spec: u32) {
        let job = self.table.get(slot);
        let (before, from, to, state) = (job.spec, self.home(job.spec), self.home(spec), job.state);
        self.unlink(slot, from);
        self.specs.hold(spec);
        self.edit(slot, |job| job.spec = spec);
        self.specs.release(before);
        if from.queue != to.queue {
            self.queues.get_mut(from.queue).tally.delete(state);
            self.queues.get_mut(to.queue).tally.enter(state);
        }
        let free = self.link(slot, to);
        debug_assert!(free, "a place in the order of waiting is given once");
        if state == State::Enqueued && from.queue != to.queue && !self.held_back(slot) {
            self.announce(to.queue, 1);
        }
    }

    /// Takes a job out of memory: into the archive if it is final and `archive` says so, else for good.
    pub(super) fn remove(&mut self, slot: Slot, archive: bool) -> Job {
        let job = self.table.get(slot);
        let (home, state) = (self.home(job.spec), job.state);
        self.unlink(slot, home);
        self.unlink_edges(slot);
        if !state.is_final() {
            self.release_unique(slot);
            self.release_limits(slot);
        }
        let job = self.table.remove(slot);
        if !state.is_final() {
            self.tell_children(job.id, Word::Ended(None, None));
            job.flow().and_then(|flow| flow.batch).into_iter().for_each(|batch| self.member_gone(batch));
        }
        if archive {
            self.note_away(&job, true);
        }
        self.bytes -= job.weight();
        self.tallies(home, |tally| if archive { tally.archive(state) } else { tally.delete(state) });
        self.specs.release(job.spec);
        job
    }

    /// The record of a final job says more than when it ended: it goes into the archive once more.
    pub(super) fn archive_anew(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let (state, before) = (job.state, job.order);
        if state.is_final() && self.finished.remove(&before).is_some() {
            let order = self.next_order(state);
            self.edit(slot, |job| job.order = order);
            self.finished.insert(order, slot);
        }
    }

    /// Changes a record without changing its state, and keeps the estimate of memory right.
    pub(super) fn edit(&mut self, slot: Slot, change: impl FnOnce(&mut Job)) {
        let job = self.table.get_mut(slot);
        let before = job.weight();
        change(job);
        self.bytes = self.bytes - before + job.weight();
    }

    /// The figures of the machine, of the queue and of the function.
    pub(super) fn tallies(&mut self, home: Home, change: impl Fn(&mut Tally)) {
        change(&mut self.tally);
        change(&mut self.queues.get_mut(home.queue).tally);
        change(&mut self.functions.get_mut(home.function).tally);
    }

    /// Puts a job into the indexes of its state. `false` if its place there is taken, which only a bad image can do.
    pub(super) fn link(&mut self, slot: Slot, home: Home) -> bool {
        let job = self.table.get(slot);
        let (id, at, order, state) = (job.id, job.at, job.order, job.state);
        let (session, expires, limited) = (job.session(), job.expires(), job.limits().is_some());
        let free = match state {
            State::Awaiting => true,
            State::Scheduled | State::Retrying => self.due.insert((at, order), slot).is_none(),
            State::Enqueued => {
                let rank = rank(home.priority, order);
                match limited {
                    true => self.stand(slot, rank, (home.queue, home.function)),
                    false => self.queues.get_mut(home.queue).push(home.function, rank, slot),
                }
            }
            State::Processing => {
                self.count_run(slot);
                let session = session.unwrap_or_default();
                self.leases.entry(session).or_default().insert(LeaseToken(order), slot).is_none()
            }
            State::Succeeded | State::Failed | State::Cancelled => self.finished.insert(order, slot).is_none(),
        };
        if let Some(expires) = expires.filter(|_| state.is_waiting()) {
            self.deadlines.insert((expires, id), slot);
        }
        if let Some(from) = self.table.get(slot).recurrence() {
            self.schedules.enter(&from.schedule, state);
        }
        if let Some(batch) = self.table.get(slot).flow().and_then(|flow| flow.batch).filter(|_| !state.is_final()) {
            self.flows.members.insert((batch, id), slot);
        }
        free
    }

    fn unlink(&mut self, slot: Slot, home: Home) {
        let job = self.table.get(slot);
        let (id, at, order, state) = (job.id, job.at, job.order, job.state);
        let (session, expires, limited) = (job.session(), job.expires(), job.limits().is_some());
        match state {
            State::Awaiting => {}
            State::Scheduled | State::Retrying => {
                self.due.remove(&(at, order));
            }
            State::Enqueued if limited => {
                self.step_out(slot, rank(home.priority, order), (home.queue, home.function));
            }
            State::Enqueued => self.queues.get_mut(home.queue).take(home.function, rank(home.priority, order)),
            State::Processing => {
                self.uncount_run(slot);
                let session = session.unwrap_or_default();
                if let Some(held) = self.leases.get_mut(&session) {
                    held.remove(&LeaseToken(order));
                    if held.is_empty() {
                        self.leases.remove(&session);
                    }
                }
            }
            State::Succeeded | State::Failed | State::Cancelled => {
                self.finished.remove(&order);
            }
        }
        if let Some(expires) = expires.filter(|_| state.is_waiting()) {
            self.deadlines.remove(&(expires, id));
        }
        if let Some(from) = self.table.get(slot).recurrence() {
            self.schedules.leave(&from.schedule, state);
        }
        if let Some(batch) = self.table.get(slot).flow().and_then(|flow| flow.batch).filter(|_| !state.is_final()) {
            self.flows.members.remove(&(batch, id));
        }
    }

    /// A fencing token greater than every one before, and never behind the log: it stays so when state is lost (K2).
    pub(super) fn next_token(&mut self) -> LeaseToken {
        let next = self.token + u64::from(!has(Bug::TokenReused));
        self.token = next.max(self.applied.0);
        LeaseToken(self.token)
    }

    /// The next number of the kind that a state needs: token, ordinal or place in line.
    fn next_order(&mut self, state: State) -> u64 {
        if state == State::Processing {
            return self.next_token().0;
        }
        if state.is_final() {
            self.ordinal += 1;
            return self.ordinal;
        }
        self.order += 1;
        self.order
    }

    /// Notes that a queue got ready jobs, for the effects.
    pub(super) fn announce(&mut self, queue: u32, jobs: usize) {
        let to = self.queues.get(queue);
        if to.pause.is_some() || to.room() == 0 || jobs == 0 {
            return;
        }
        match self.fresh.iter_mut().find(|(number, _)| *number == queue) {
            Some((_, sum)) => *sum += jobs,
            None => self.fresh.push((queue, jobs)),
        }
    }

    /// Whether so many more jobs may come in.
    pub(super) fn room(&self, jobs: usize) -> Result<(), Refusal> {
        if self.table.len() + jobs > limits::JOBS_MAX {
            return Err(Refusal::overloaded(format!("{} jobs are in memory", self.table.len())));
        }
        if self.bytes > limits::MACHINE_BYTES_MAX {
            return Err(Refusal::overloaded(format!("jobs take {} bytes of memory", self.bytes)));
        }
        Ok(())
    }
}
