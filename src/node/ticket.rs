//! Where an answer goes: to a thread that waits, to a function, or to many who asked whether their sessions live.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Done;
use crate::base::sync::Mutex;
use crate::base::{Error, Result, SessionId};

/// How often a waiting caller looks at what its own caller wants it to look at (signals).
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Where one answer goes. One that is dropped without an answer says so: a panic must not leave anybody waiting.
pub(super) struct Ticket(Option<Owner>);

enum Owner {
    /// A thread that waits for it.
    Parked(Arc<Slot>),
    /// A function.
    Call(Done<Vec<u8>>),
    /// Functions that want to know whether a session lives. The answer names those that do not, 8 bytes each.
    Beats(Vec<(SessionId, Done<()>)>),
}

impl Ticket {
    pub fn parked(slot: Arc<Slot>) -> Self {
        Self(Some(Owner::Parked(slot)))
    }

    pub fn call(done: Done<Vec<u8>>) -> Self {
        Self(Some(Owner::Call(done)))
    }

    pub fn beats(beats: Vec<(SessionId, Done<()>)>) -> Self {
        Self(Some(Owner::Beats(beats)))
    }

    pub fn answer(mut self, answer: Result<Vec<u8>>) {
        self.give(answer);
    }

    fn give(&mut self, answer: Result<Vec<u8>>) {
        match self.0.take() {
            Some(Owner::Parked(slot)) => slot.fill(answer),
            Some(Owner::Call(done)) => guarded(|| done(answer)),
            Some(Owner::Beats(beats)) => {
                for (session, done) in beats {
                    guarded(|| done(lives(session, &answer)));
                }
            }
            None => {}
        }
    }

    pub fn belongs_to(&self, slot: &Arc<Slot>) -> bool {
        matches!(&self.0, Some(Owner::Parked(other)) if Arc::ptr_eq(other, slot))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give(Err(Error::Unknown("the node lost track of the request".into())));
    }
}

fn guarded(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        log::error!("a callback for an answer panicked");
    }
}

fn lives(session: SessionId, answer: &Result<Vec<u8>>) -> Result<()> {
    let expired = answer.as_ref().map_err(Error::clone)?;
    match expired.chunks_exact(8).any(|id| id == session.0.to_le_bytes()) {
        true => Err(Error::SessionExpired),
        false => Ok(()),
    }
}

/// The place where one caller finds its answer.
pub(super) struct Slot {
    answer: Mutex<Option<Result<Vec<u8>>>>,
    owner: Thread,
}

impl Slot {
    /// A slot for the calling thread.
    pub fn new() -> Arc<Slot> {
        Arc::new(Slot { answer: Mutex::new(None), owner: std::thread::current() })
    }

    pub fn fill(&self, answer: Result<Vec<u8>>) {
        *self.answer.lock() = Some(answer);
        self.owner.unpark();
    }

    pub fn take(&self) -> Option<Result<Vec<u8>>> {
        self.answer.lock().take()
    }

    pub fn is_filled(&self) -> bool {
        self.answer.lock().is_some()
    }

    /// Waits for the answer. `Ok(None)`: the deadline passed. An error is that of `check`.
    pub fn wait(
        &self,
        deadline: Option<Instant>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Result<Vec<u8>>>> {
        loop {
            if let Some(answer) = self.take() {
                return Ok(Some(answer));
            }
            let left = deadline.map_or(CHECK_EVERY, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(self.take());
            }
            std::thread::park_timeout(left.min(CHECK_EVERY));
            if !self.is_filled() {
                check()?;
            }
        }
    }
}
