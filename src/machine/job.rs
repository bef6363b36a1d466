//! One job: its states, the table of legal transitions, and its record in memory.
//!
//! Invariants
//! * A state changes only along [`TRANSITIONS`] (J5). A job leaves a final state only by an explicit requeue, which
//!   counts `generation` up (J4).
//! * `at` and `order` mean what the state says, see [`Job`]; whoever changes the state sets both.
//! * A waiting job that has only arguments is one slot of 96 bytes: everything rarer is behind one pointer.

use std::sync::Arc;

use super::blob::Blob;
use super::flows::Flow;
use super::limit::{Limit, Limits};
use super::recurring::Recurrence;
use crate::base::{JobId, LeaseToken, Millis, SessionId};

/// Where a job stands. The numbers are its codes on the wire and in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Its parents have not ended, see `flows`.
    Awaiting = 0,
    /// Not due.
    Scheduled = 1,
    /// A worker may take it.
    Enqueued = 2,
    /// A worker holds its lease.
    Processing = 3,
    /// Failed or crashed at least once, due later.
    Retrying = 4,
    Succeeded = 5,
    /// Attempts or crashes are used up, or the worker said that trying again is useless.
    Failed = 6,
    Cancelled = 7,
}

use State::*;

/// Every transition that may happen (J5). Creation (to awaiting, scheduled or enqueued), deletion (from any state but
/// processing) and eviction to the archive (from a final state) begin and end a job, and are not listed.
pub const TRANSITIONS: &[(State, State, &str)] = &[
    (Awaiting, Scheduled, "its parents ended as asked, and it has a delay"),
    (Awaiting, Enqueued, "its parents ended as asked"),
    (Awaiting, Cancelled, "a parent ended otherwise, cancelled or replaced"),
    (Cancelled, Awaiting, "the parent that it was cancelled for was requeued: a new generation"),
    (Scheduled, Enqueued, "due, or requeued before it was"),
    (Scheduled, Cancelled, "cancelled, replaced or expired"),
    (Enqueued, Processing, "claimed"),
    (Enqueued, Cancelled, "cancelled, replaced or expired"),
    (Processing, Succeeded, "finished"),
    (Processing, Failed, "no attempt or crash left, or finally failed"),
    (Processing, Cancelled, "stopped by its worker after a request to cancel"),
    (Processing, Retrying, "failed or crashed, due later"),
    (Processing, Scheduled, "snoozed"),
    (Processing, Enqueued, "released, or due again at once"),
    (Retrying, Enqueued, "due, or requeued before it was"),
    (Retrying, Cancelled, "cancelled, replaced or expired"),
    (Succeeded, Enqueued, "requeued: a new generation"),
    (Failed, Enqueued, "requeued: a new generation"),
    (Cancelled, Enqueued, "requeued: a new generation"),
];

/// Whether the table has this edge.
pub fn allowed(from: State, to: State) -> bool {
    TRANSITIONS.iter().any(|edge| edge.0 == from && edge.1 == to)
}

impl State {
    pub const ALL: [State; 8] = [Awaiting, Scheduled, Enqueued, Processing, Retrying, Succeeded, Failed, Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            Awaiting => "awaiting",
            Scheduled => "scheduled",
            Enqueued => "enqueued",
            Processing => "processing",
            Retrying => "retrying",
            Succeeded => "succeeded",
            Failed => "failed",
            Cancelled => "cancelled",
        }
    }

    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u64) -> Option<State> {
        State::ALL.get(usize::try_from(code).ok()?).copied()
    }

    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    /// How something ended, in a sentence about it.
    pub(super) fn past(self) -> &'static str {
        match self {
            Cancelled => "was cancelled",
            other => other.name(),
        }
    }

    pub fn is_final(self) -> bool {
        matches!(self, Succeeded | Failed | Cancelled)
    }

    /// Waits for its time or for a worker.
    pub fn is_waiting(self) -> bool {
        matches!(self, Scheduled | Enqueued | Retrying)
    }
}

/// How one run of a job ended. The numbers are the outcomes of `Finish`; the last is given by the machine alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    Succeeded = 0,
    Retried = 1,
    Failed = 2,
    Snoozed = 3,
    Released = 4,
    Cancelled = 5,
    Crashed = 6,
    /// The session that held the lease ended without a word.
    Lost = 7,
}

impl Ending {
    pub const ALL: [Ending; 8] = [
        Ending::Succeeded,
        Ending::Retried,
        Ending::Failed,
        Ending::Snoozed,
        Ending::Released,
        Ending::Cancelled,
        Ending::Crashed,
        Ending::Lost,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Ending::Succeeded => "succeeded",
            Ending::Retried => "retried",
            Ending::Failed => "failed",
            Ending::Snoozed => "snoozed",
            Ending::Released => "released",
            Ending::Cancelled => "cancelled",
            Ending::Crashed => "crashed",
            Ending::Lost => "lost",
        }
    }

    pub fn from_code(code: u64) -> Option<Ending> {
        Ending::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// One run that ended, as the history of its job remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub attempt: u32,
    pub ending: Ending,
    pub started: Millis,
    pub ended: Millis,
    /// MessagePack `[type, message, traceback]`, kept for the newest `ATTEMPTS_KEPT_MAX` runs.
    pub error: Option<Arc<[u8]>>,
}

/// A job as the table stores it.
///
/// | state                | `at`                | `order`                                    |
/// |----------------------|---------------------|--------------------------------------------|
/// | awaiting             | since when it waits | breaks no ties, is unique                  |
/// | scheduled, retrying  | when it is due      | breaks ties between equal times            |
/// | enqueued             | when it became so   | place in the line of its priority (J8)     |
/// | processing           | when it was claimed | fencing token of the lease (J2)            |
/// | a final one          | when it finished    | finish ordinal, in the order of finishing  |
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub args: Blob,
    pub created: Millis,
    pub at: Millis,
    pub order: u64,
    /// Which interned specification.
    pub spec: u32,
    /// Attempts begun and not given back: the first run is attempt 1.
    pub attempt: u32,
    pub crashes: u32,
    pub generation: u32,
    pub state: State,
    /// The worker that runs it was told to stop.
    pub cancel_requested: bool,
    pub rare: Option<Arc<Rare>>,
}

const _: () = assert!(std::mem::size_of::<Option<Job>>() <= 96);

/// What a waiting job usually does not have. Zero and `None` mean that there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rare {
    pub unique: Option<Arc<str>>,
    /// Deadline to start: a job that still waits then is cancelled.
    pub expires: Option<Millis>,
    pub session: SessionId,
    /// When it last became enqueued and was last claimed.
    pub enqueued: Millis,
    pub started: Millis,
    pub result: Option<Blob>,
    /// Of the newest run that had one: MessagePack `[type, message, traceback]`.
    pub error: Option<Arc<[u8]>>,
    /// Why it was cancelled, failed without an error of its own, or waits after a snooze.
    pub reason: Option<Arc<str>>,
    pub progress: Option<Arc<[u8]>>,
    /// What the job saved for its next attempt.
    pub saved: Option<Arc<[u8]>>,
    pub history: Vec<Run>,
    pub recurrence: Option<Arc<Recurrence>>,
    pub flow: Option<Arc<Flow>>,
    pub limits: Option<Limits>,
}

impl Job {
    /// The rare part, to change it; made when there is none.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        Arc::make_mut(self.rare.get_or_insert_with(Default::default))
    }

    /// The token that finish and progress must show; `None` unless a worker holds the job.
    pub fn token(&self) -> Option<LeaseToken> {
        (self.state == Processing).then_some(LeaseToken(self.order))
    }

    /// Who holds the lease.
    pub fn session(&self) -> Option<SessionId> {
        if self.state != Processing {
            return None;
        }
        self.rare.as_ref().map(|rare| rare.session)
    }

    /// When it is due, while it waits for that.
    pub fn due(&self) -> Option<Millis> {
        matches!(self.state, Scheduled | Retrying).then_some(self.at)
    }

    /// When it last became ready for a worker.
    pub fn enqueued(&self) -> Option<Millis> {
        if self.state == Enqueued {
            return Some(self.at);
        }
        self.rare.as_ref().map(|rare| rare.enqueued).filter(|at| *at != Millis(0))
    }

    /// When its newest run began.
    pub fn started(&self) -> Option<Millis> {
        if self.state == Processing {
            return Some(self.at);
        }
        self.rare.as_ref().map(|rare| rare.started).filter(|at| *at != Millis(0))
    }

    pub fn finished(&self) -> Option<Millis> {
        self.state.is_final().then_some(self.at)
    }

    pub fn unique(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.unique.as_ref()
    }

    pub fn expires(&self) -> Option<Millis> {
        self.rare.as_ref()?.expires
    }

    /// The schedule that it comes from.
    pub fn recurrence(&self) -> Option<&Recurrence> {
        self.rare.as_ref()?.recurrence.as_deref()
    }

    /// Its parents and its batch.
    pub fn flow(&self) -> Option<&Flow> {
        self.rare.as_ref()?.flow.as_deref()
    }

    /// The same, to change it.
    pub(super) fn flow_mut(&mut self) -> Option<&mut Flow> {
        self.flow()?;
        self.rare_mut().flow.as_mut().map(Arc::make_mut)
    }

    /// Whether its edges are as its state says: only a job that waits for parents, or was cancelled for one, has any that
    /// stand.
    pub(super) fn is_in_place(&self) -> bool {
        let (open, unmet) = self.flow().map_or((0, 0), |flow| (flow.open, flow.unmet));
        match self.state {
            Awaiting => open > 0 && unmet == 0,
            Cancelled => unmet > 0 || open == 0,
            _ => open + unmet == 0,
        }
    }

    /// How many jobs of its keys may run at once, or start in a time.
    pub fn limits(&self) -> Option<&Limits> {
        self.rare.as_ref()?.limits.as_ref()
    }

    /// Estimate of the bytes that this job takes, its place in the indexes included. The same on every node.
    pub fn weight(&self) -> u64 {
        let rare = self.rare.as_ref().map_or(0, |rare| rare.weight());
        (WEIGHT_BASE + self.args.heap_len() + rare) as u64
    }
}

/// A slot, its entry in the id index and its entry in one ordered index.
const WEIGHT_BASE: usize = 150;
/// Header and rounding of one allocation.
const WEIGHT_ALLOCATION: usize = 24;
/// The rare part without its recurrence, its flow and its limits. A number, as members of the version before count it, which had none: they compare
/// their sums.
const WEIGHT_RARE: usize = 168;
const _: () = assert!(std::mem::size_of::<Rare>() == WEIGHT_RARE + 24);
/// A recurrence. Its name is that of the schedule.
const WEIGHT_RECURRENCE: usize = 8 + 32 + WEIGHT_ALLOCATION;
/// The list of limits.
const WEIGHT_LIMITS: usize = 8 + 24 + WEIGHT_ALLOCATION;

impl Rare {
    fn weight(&self) -> usize {
        fn of(bytes: Option<usize>) -> usize {
            bytes.map_or(0, |length| length + WEIGHT_ALLOCATION)
        }
        let history: usize = self.history.iter().map(|run| 48 + of(run.error.as_ref().map(|error| error.len()))).sum();
        WEIGHT_RARE
            + WEIGHT_ALLOCATION
            + self.recurrence.as_ref().map_or(0, |_| WEIGHT_RECURRENCE)
            + self.flow.as_ref().map_or(0, |flow| flow.weight())
            + self.limits.as_ref().map_or(0, |all| WEIGHT_LIMITS + all.iter().map(Limit::weight).sum::<usize>())
            + of(self.unique.as_ref().map(|key| key.len() * 2))
            + self.result.as_ref().map_or(0, Blob::heap_len)
            + of(self.reason.as_ref().map(|reason| reason.len()))
            + of(self.progress.as_ref().map(|progress| progress.len()))
            + of(self.saved.as_ref().map(|saved| saved.len()))
            + history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j5_no_transition_is_listed_twice_and_finals_leave_only_by_requeue() {
        for (position, edge) in TRANSITIONS.iter().enumerate() {
            assert!(!TRANSITIONS[..position].iter().any(|other| other.0 == edge.0 && other.1 == edge.1));
            assert!(!edge.0.is_final() || matches!(edge.1, Enqueued | Awaiting), "{edge:?}");
            assert_ne!(edge.0, edge.1);
        }
    }

    #[test]
    fn states_and_endings_survive_their_codes_and_names() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code() as u64), Some(state));
            assert_eq!(State::from_name(state.name()), Some(state));
        }
        for ending in Ending::ALL {
            assert_eq!(Ending::from_code(ending as u64), Some(ending));
        }
        assert_eq!(State::from_code(8), None);
    }
}
