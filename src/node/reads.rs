//! Reads of the applied state: what an answer must have, and how old it can be.
//!
//! ```text
//! local          whatever is here, unless it can be older than the caller allows
//! session        at least what the caller was told before, by whichever member (L2)
//! linearizable   `fresh` first, then a read with at least the index that it gave (L1)
//! ```
//!
//! What holds
//! * The age of an answer counts from when this node began the newest question that a majority then confirmed (ReadIndex)
//!   and that its state has caught up with, on its own boot-time clock. What was answered anywhere before that moment is in
//!   the state, so the age is never told too small: not by a node that was paused and finds old heartbeats in its sockets, not
//!   by one that is cut off, not by a leader that has been deposed and does not know it (L3).
//! * It is read before the state, and the clock after it.
//! * A node that is the whole group is never behind.
//! * While the state may not be that of the others (`replica::doubt`), nothing is answered from it (L6).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use super::lines::Ask;
use super::open::spawn;
use super::ticket::Ticket;
use super::{Done, Node, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::Mutex;
use crate::base::{Error, LogIndex, Millis, Result};
use crate::replica::doubtful;

/// The node asks for itself when its state may be older than this: often enough for the default bound of local reads, and
/// seldom enough to cost nothing.
const CONFIRM_EVERY: Millis = Millis(500);

/// A question about the state, and what its answer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The state has the log up to here at least; else the node catches up first.
    pub upto: LogIndex,
    /// How old the answer may be; older is `TooStale`. Nothing: its age is told, whatever it is.
    pub staleness_max: Option<Millis>,
    /// See `machine::view`.
    pub question: Vec<u8>,
}

impl View {
    /// A question that any state will do for.
    pub fn of_any(question: &[u8]) -> Self {
        Self { upto: LogIndex(0), staleness_max: None, question: question.to_vec() }
    }

    /// `[upto, staleness_max or nil, question]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.question.len() + 20);
        out.array(3).u64(self.upto.0).option(self.staleness_max, |out, most| {
            out.u64(most.0);
        });
        out.raw(&self.question);
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        reader.array_of(3, "a question about the state")?;
        let upto = LogIndex(reader.u64()?);
        let staleness_max = reader.option(|reader| reader.u64().map(Millis))?;
        let question = reader.raw()?.to_vec();
        reader.end()?;
        Ok(Self { upto, staleness_max, question })
    }
}

/// When the state was last known to be whole.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// On the clock of the node; 0: never since it was opened.
    confirmed_ms: AtomicU64,
    /// The node asks for itself at the moment.
    asking: AtomicBool,
}

impl Freshness {
    /// Whatever was answered before this moment is in the state.
    fn confirm(&self, asked_at: Millis) {
        self.confirmed_ms.fetch_max(asked_at.0.max(1), Ordering::AcqRel);
    }

    fn confirmed(&self) -> Option<Millis> {
        Some(Millis(self.confirmed_ms.load(Ordering::Acquire))).filter(|at| at.0 > 0)
    }
}

impl Node {
    /// Answers a question: `[as_of_index, staleness_ms or nil, payload]`; nil: it is not known how old it is. `done` is
    /// called on this thread, unless the state lacks what the question says it must have, or the worker of a running job
    /// must be asked for it.
    pub fn view(&self, view: View, done: Done<Vec<u8>>) {
        match Ask::of(&view.question) {
            Ok(None) => {}
            Ok(Some(ask)) => return self.lines(ask, done),
            Err(error) => return done(Err(error)),
        }
        if self.is_alone() || self.shared.applied() >= view.upto {
            return done(self.shared.answer(&view));
        }
        // Rare: another member, or this directory's last owner, told the caller more than is applied here so far.
        let shared = self.shared.clone();
        self.fresh(Box::new(move |fresh| {
            let answer = move |shared: &Shared| {
                fresh?;
                if shared.applied() < view.upto {
                    return Err(Error::Foreign(format!(
                        "this process was told of entry {}, and the log ends before it: the cluster was restored or \
                         recovered from an older state; start the process again to work with that",
                        view.upto
                    )));
                }
                shared.answer(&view)
            };
            // A search takes longer than the thread that drives may be held up.
            let done = Arc::new(Mutex::new(Some(done)));
            let theirs = done.clone();
            let tell = |waiting: &Mutex<Option<Done<Vec<u8>>>>, answer| {
                if let Some(done) = waiting.lock().take() {
                    done(answer);
                }
            };
            if let Err(error) = spawn("raftwork-view", move || tell(&theirs, answer(&shared))) {
                tell(&done, Err(error));
            }
        }));
    }

    /// Calls `done` as soon as the state of this node has everything that was answered anywhere before the call, with the
    /// index of that state.
    pub fn fresh(&self, done: Done<LogIndex>) {
        self.shared.fresh(done);
    }

    /// How old the state can be at most. Nothing: no majority has confirmed it since the node was opened.
    pub fn staleness(&self) -> Option<Millis> {
        self.shared.staleness()
    }
}

impl Shared {
    fn applied(&self) -> LogIndex {
        self.machine.read().applied()
    }

    pub(super) fn fresh(self: &Arc<Self>, done: Done<LogIndex>) {
        if self.post.is_none() {
            return done(self.check_running().map(|()| self.applied()));
        }
        // Before the question is put: the clock may stand still, or run on, as long as it likes from here.
        let (shared, asked_at) = (self.clone(), self.config.clock.monotonic());
        let answer = move |answer: Result<Vec<u8>>| {
            done(answer.map(|_| {
                shared.freshness.confirm(asked_at);
                shared.applied()
            }));
        };
        self.inbox.read(Ticket::call(Box::new(answer)));
    }

    /// A tick passed: asks again when the last confirmation is old.
    pub(super) fn keep_fresh(self: &Arc<Self>) {
        let old = self.staleness().is_none_or(|age| age >= CONFIRM_EVERY);
        if !old || self.leader.lock().is_none() || self.freshness.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(self);
        self.fresh(Box::new(move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.freshness.asking.store(false, Ordering::Release);
            }
        }));
    }

    pub(super) fn staleness(&self) -> Option<Millis> {
        self.age_since(self.freshness.confirmed())
    }

    /// The clock tells whole milliseconds, so one more may have passed.
    fn age_since(&self, confirmed: Option<Millis>) -> Option<Millis> {
        match &self.post {
            None => Some(Millis(0)),
            Some(_) => confirmed.map(|at| self.config.clock.monotonic().since(at).plus(Millis(1))),
        }
    }

    /// Refuses to answer from a state that may not be that of the others (L6).
    fn check_trusted(&self) -> Result<()> {
        if !self.in_doubt.load(Ordering::Acquire) {
            return Ok(());
        }
        let at = self.figures.lock().doubts.unwrap_or_default();
        Err(Error::NotCommitted(doubtful(at)))
    }

    fn answer(&self, view: &View) -> Result<Vec<u8>> {
        self.check_running()?;
        self.check_trusted()?;
        let confirmed = self.freshness.confirmed();
        check_age(self.age_since(confirmed), view.staleness_max)?;
        let (index, payload) = self.ask(&view.question)?;
        let age = self.age_since(confirmed);
        check_age(age, view.staleness_max)?;
        let mut wrapped = Writer::with_capacity(payload.len() + 20);
        wrapped.array(3).u64(index.0).option(age, |out, age| {
            out.u64(age.0);
        });
        wrapped.raw(&payload);
        Ok(wrapped.into_bytes())
    }
}

/// Refuses an answer that can be older than the caller allows.
pub fn check_age(age: Option<Millis>, most: Option<Millis>) -> Result<()> {
    match (age, most) {
        (_, None) => Ok(()),
        (Some(age), Some(most)) if age <= most => Ok(()),
        (age, Some(most)) => Err(Error::TooStale { age, most }),
    }
}
