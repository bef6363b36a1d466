//! Where one job may stand, and how it gets from there to somewhere else.

use super::batch::BatchAt;
use super::object::{Part, What};
use super::Known;
use crate::history::{Answer, End, Finished, NewJob};
use crate::model::Lease;

/// The code for a job that is not in memory.
const UNKNOWN: u8 = 2;

/// Where the job stands, or the batch, if that is what has the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Absent,
    /// It was there.
    Deleted,
    Awaiting,
    Scheduled,
    Enqueued,
    Held {
        session: u64,
        token: u64,
    },
    /// By a claim that nobody heard of again.
    HeldBySomebody,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
    /// Cancelled for a parent: it waits again if that is requeued.
    GivenUp,
    Batch(BatchAt),
}

use At::*;

/// Since when a job stands in line: index, and position in the batch. Nothing: not known.
pub type Since = Option<(u64, usize)>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    pub at: At,
    pub attempt: u64,
    pub crashes: u64,
    pub told_to_stop: bool,
    pub since: Since,
    /// Claims without an answer that took it.
    pub taken: usize,
    /// Loose parts that have happened and may not happen again.
    pub used: Vec<usize>,
}

/// What may happen unseen between two steps.
pub struct Gap<'a> {
    pub known: &'a Known,
    pub spec: Option<&'a NewJob>,
    pub behind: u64,
    pub before: u64,
    /// Whether the next step is a read, which shows what the entry at its own index did.
    pub reads: bool,
}

impl Gap<'_> {
    /// Unseen: with its batch, or for another job with its key.
    fn may_be_cancelled(&self) -> bool {
        let replaced = |spec: &NewJob| spec.unique.as_ref().is_some_and(|key| self.known.replaced.contains(key));
        self.is_in_a_cancelled_batch() || self.spec.is_some_and(replaced)
    }

    fn is_in_a_cancelled_batch(&self) -> bool {
        self.known.cancels_batches && self.spec.is_some_and(|spec| spec.batch.is_some())
    }
}

impl State {
    fn is(&self, at: At) -> Self {
        Self { at, since: None, ..self.clone() }
    }

    /// What nodes do by themselves, and claims that nobody heard of again.
    pub fn unseen(&self, gap: &Gap<'_>) -> Vec<State> {
        let mut reached = Vec::new();
        match self.at {
            Batch(batch) => return batch.unseen(gap.known).map(|next| self.is(Batch(next))).collect(),
            Awaiting => {
                let delayed = gap.spec.is_some_and(|spec| spec.delay > 0);
                reached.extend([self.is(if delayed { Scheduled } else { Enqueued }), self.is(GivenUp)]);
            }
            GivenUp => {
                reached.push(State { attempt: 0, crashes: 0, told_to_stop: false, ..self.is(Awaiting) });
            }
            _ => {}
        }
        if matches!(self.at, Awaiting | Scheduled | Retrying | Enqueued) && gap.may_be_cancelled() {
            reached.push(self.is(Cancelled));
        }
        if matches!(self.at, Held { .. } | HeldBySomebody) && gap.is_in_a_cancelled_batch() && !self.told_to_stop {
            reached.push(State { told_to_stop: true, ..self.clone() });
        }
        if matches!(self.at, Scheduled | Retrying) {
            reached.push(self.is(Enqueued));
        }
        if matches!(self.at, Scheduled | Retrying | Enqueued) && gap.spec.is_some_and(|spec| spec.expires) {
            reached.push(self.is(Cancelled));
        }
        match self.at {
            Held { session, .. } => {
                let alive = gap.known.alive.get(&session).copied().unwrap_or(0);
                if alive.saturating_add(1) < gap.before.saturating_add(gap.reads.into()) {
                    reached.push(self.crashed(gap.spec));
                    reached.extend(gap.known.closed.contains(&session).then(|| self.released()));
                }
            }
            HeldBySomebody => {
                reached.push(self.crashed(gap.spec));
                reached.extend((!gap.known.closed.is_empty()).then(|| self.released()));
            }
            Enqueued => {
                let open = gap.known.claims.iter().filter(|(behind, _)| *behind < gap.before);
                let (count, now) =
                    open.fold((0, false), |(count, now), (_, before)| (count + 1, now || *before > gap.behind));
                if now && self.taken < count {
                    reached.push(State { taken: self.taken + 1, attempt: self.attempt + 1, ..self.is(HeldBySomebody) });
                }
            }
            _ => {}
        }
        reached
    }

    fn crashed(&self, spec: Option<&NewJob>) -> State {
        let (most, delay) = spec.map_or((u64::MAX, 0), |spec| (spec.max_crashes, spec.crash_delay));
        let next = State { attempt: self.attempt - 1, crashes: self.crashes + 1, ..self.clone() };
        match (next.crashes >= most, self.told_to_stop) {
            (true, _) => next.is(Failed),
            (_, true) => next.is(Cancelled),
            _ => next.is(if delay > 0 { Retrying } else { Enqueued }),
        }
    }

    fn released(&self) -> State {
        let next = State { attempt: self.attempt - 1, ..self.clone() };
        next.is(if self.told_to_stop { Cancelled } else { Enqueued })
    }

    /// The state after a part, if what was said about it is true here.
    pub fn after(&self, part: &Part<'_>, spec: Option<&NewJob>) -> Option<State> {
        let since =
            part.of.index.filter(|_| part.of.answer != Answer::SessionExpired).map(|index| (index, part.position));
        let (mut next, code) = match part.what {
            What::Enqueue(job, code @ Some(2)) if job.unique.is_some() && self.is_absent() => ((2, self.clone()), code),
            What::Enqueue(job, Some(3)) if job.unique.is_some() => (self.enqueued(job), Some(0)),
            What::Enqueue(job, code) => (self.enqueued(job), code),
            What::Claim(session, lease) => return self.claimed(session, lease),
            What::Finish(result, code) => (self.finished(result, spec), code),
            What::Cancel(code) => (self.cancelled(), code),
            What::Requeue(Some(5)) => {
                let held = spec.is_some_and(|spec| spec.unique.is_some()) && self.is_final();
                return held.then(|| self.clone());
            }
            What::Requeue(code) => (self.requeued(spec), code),
            What::Delete(code) => (self.deleted(), code),
            What::OpenBatch(inside, code) => (self.batch(|at| BatchAt::opened(at, inside)), code),
            What::SealBatch(code) => (self.batch(BatchAt::sealed), code),
            What::CancelBatch(code) => (self.batch(BatchAt::cancelled), code),
            What::Takes(takes) => return self.takes(takes).then(|| self.clone()),
            What::Is(known) => return self.is_known(known).then(|| self.clone()),
            What::Read(state) => return (state == self.name()).then(|| self.clone()),
            What::Gone(gone) => return (!self.is_held_by(gone)).then(|| self.clone()),
            What::Closed(gone) if self.is_held_by(gone) => return Some(self.released()),
            What::Expired(gone) if self.is_held_by(gone) => return Some(self.crashed(spec)),
            What::Closed(_) | What::Expired(_) => return Some(self.clone()),
        };
        if next.1.at == Enqueued && self.at != Enqueued {
            next.1.since = since;
        }
        if code == Some(UNKNOWN) && self.is_final() {
            return Some(self.clone()); // It left memory for the archive.
        }
        (code.is_none() || code == Some(next.0)).then_some(next.1)
    }

    fn is_final(&self) -> bool {
        matches!(self.at, Succeeded | Failed | Cancelled | GivenUp)
    }

    fn is_absent(&self) -> bool {
        matches!(self.at, Absent | Deleted)
    }

    fn is_held_by(&self, session: u64) -> bool {
        matches!(self.at, Held { session: holder, .. } if holder == session)
    }

    fn name(&self) -> Option<&'static str> {
        Some(match self.at {
            Absent | Deleted => return None,
            Awaiting => "awaiting",
            Batch(batch) => batch.name(),
            Scheduled => "scheduled",
            Enqueued => "enqueued",
            Held { .. } | HeldBySomebody => "processing",
            Retrying => "retrying",
            Succeeded => "succeeded",
            Failed => "failed",
            Cancelled | GivenUp => "cancelled",
        })
    }

    fn enqueued(&self, job: &NewJob) -> (u8, State) {
        match self.at {
            Absent | Deleted if !job.parents.is_empty() => (0, self.is(Awaiting)),
            Absent | Deleted => (0, self.is(if job.delay > 0 { Scheduled } else { Enqueued })),
            _ => (1, self.clone()),
        }
    }

    fn claimed(&self, session: u64, lease: &Lease) -> Option<State> {
        let counted = (lease.attempt, lease.crashes) == (self.attempt + 1, self.crashes);
        let next = State { attempt: lease.attempt, ..self.is(Held { session, token: lease.token }) };
        (self.at == Enqueued && counted).then_some(next)
    }

    fn finished(&self, result: &Finished, spec: Option<&NewJob>) -> (u8, State) {
        match self.at {
            Absent | Deleted => return (2, self.clone()),
            Held { token, .. } if token == result.token => {}
            _ => return (1, self.clone()),
        }
        let later = |state: At| if result.delay > 0 { state } else { Enqueued };
        let next = match result.end {
            End::Succeeded => self.is(Succeeded),
            End::Failed => self.is(Failed),
            End::Cancelled => self.is(Cancelled),
            End::Crashed => self.crashed(spec),
            End::Release => self.released(),
            End::Retry if spec.is_some_and(|spec| self.attempt >= spec.max_attempts) => self.is(Failed),
            End::Snooze | End::Retry if self.told_to_stop => self.is(Cancelled),
            End::Snooze => self.is(later(Scheduled)),
            End::Retry => self.is(later(Retrying)),
        };
        let given_back = u64::from(result.end == End::Snooze);
        (0, State { attempt: next.attempt - given_back, ..next })
    }

    fn cancelled(&self) -> (u8, State) {
        match self.at {
            Absent | Deleted | Batch(_) => (2, self.clone()),
            Awaiting | Scheduled | Enqueued | Retrying => (0, self.is(Cancelled)),
            Held { .. } | HeldBySomebody => (1, State { told_to_stop: true, ..self.clone() }),
            Succeeded | Failed | Cancelled | GivenUp => (3, self.clone()),
        }
    }

    /// In spite of parents that it was cancelled for; for those that have not ended it waits again. As nobody is told which
    /// these are, it waits, and may be let go at once.
    fn requeued(&self, spec: Option<&NewJob>) -> (u8, State) {
        match self.at {
            Absent | Deleted | Batch(_) => (2, self.clone()),
            Scheduled | Retrying => (0, self.is(Enqueued)),
            Awaiting | Enqueued | Held { .. } | HeldBySomebody => (3, self.clone()),
            Succeeded | Failed | Cancelled | GivenUp => {
                let waits = spec.is_some_and(|spec| !spec.parents.is_empty());
                let next = self.is(if waits { Awaiting } else { Enqueued });
                (0, State { attempt: 0, crashes: 0, told_to_stop: false, ..next })
            }
        }
    }

    fn deleted(&self) -> (u8, State) {
        match self.at {
            Absent | Deleted | Batch(_) => (2, self.clone()),
            Held { .. } | HeldBySomebody => (4, self.clone()),
            _ => (0, self.is(Deleted)),
        }
    }

    /// What a verb does to a batch; nothing is there before it is opened.
    fn batch(&self, verb: impl Fn(Option<BatchAt>) -> (u8, Option<BatchAt>)) -> (u8, State) {
        let before = if let Batch(batch) = self.at { Some(batch) } else { None };
        let (code, after) = verb(before);
        (code, after.map_or_else(|| self.clone(), |after| self.is(Batch(after))))
    }

    fn takes(&self, takes: bool) -> bool {
        matches!(self.at, Batch(batch) if batch.is_over_or_cancelled() != takes)
    }

    /// One that left memory for the archive may be known or not.
    fn is_known(&self, known: bool) -> bool {
        self.is_final() || matches!(self.at, Absent | Deleted) != known
    }
}
