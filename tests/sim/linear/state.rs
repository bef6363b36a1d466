//! Where one job may stand, and how it gets from there to somewhere else.

use super::object::{Part, What};
use super::Known;
use crate::history::{Answer, End, Finished, NewJob};
use crate::model::Lease;

/// The code for a job that is not in memory.
const UNKNOWN: u8 = 2;

/// Where the job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Absent,
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
}

impl State {
    fn is(&self, at: At) -> Self {
        Self { at, since: None, ..self.clone() }
    }

    /// What nodes do by themselves, and claims that nobody heard of again.
    pub fn unseen(&self, gap: &Gap<'_>) -> Vec<State> {
        let mut reached = Vec::new();
        if matches!(self.at, Scheduled | Retrying) {
            reached.push(self.is(Enqueued));
        }
        if matches!(self.at, Scheduled | Retrying | Enqueued) && gap.spec.is_some_and(|spec| spec.expires) {
            reached.push(self.is(Cancelled));
        }
        match self.at {
            Held { session, .. } => {
                let alive = gap.known.alive.get(&session).copied().unwrap_or(0);
                if alive.saturating_add(1) < gap.before {
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
            What::Enqueue(job, code) => (self.enqueued(job), code),
            What::Claim(session, lease) => return self.claimed(session, lease),
            What::Finish(result, code) => (self.finished(result, spec), code),
            What::Cancel(code) => (self.cancelled(), code),
            What::Requeue(code) => (self.requeued(), code),
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
        matches!(self.at, Succeeded | Failed | Cancelled)
    }

    fn is_held_by(&self, session: u64) -> bool {
        matches!(self.at, Held { session: holder, .. } if holder == session)
    }

    fn name(&self) -> Option<&'static str> {
        Some(match self.at {
            Absent => return None,
            Scheduled => "scheduled",
            Enqueued => "enqueued",
            Held { .. } | HeldBySomebody => "processing",
            Retrying => "retrying",
            Succeeded => "succeeded",
            Failed => "failed",
            Cancelled => "cancelled",
        })
    }

    fn enqueued(&self, job: &NewJob) -> (u8, State) {
        match self.at {
            Absent => (0, self.is(if job.delay > 0 { Scheduled } else { Enqueued })),
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
            Absent => return (2, self.clone()),
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
            Absent => (2, self.clone()),
            Scheduled | Enqueued | Retrying => (0, self.is(Cancelled)),
            Held { .. } | HeldBySomebody => (1, State { told_to_stop: true, ..self.clone() }),
            Succeeded | Failed | Cancelled => (3, self.clone()),
        }
    }

    fn requeued(&self) -> (u8, State) {
        match self.at {
            Absent => (2, self.clone()),
            Scheduled | Retrying => (0, self.is(Enqueued)),
            Enqueued | Held { .. } | HeldBySomebody => (3, self.clone()),
            Succeeded | Failed | Cancelled => {
                (0, State { attempt: 0, crashes: 0, told_to_stop: false, ..self.is(Enqueued) })
            }
        }
    }
}
