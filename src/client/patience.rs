//! Waiting for one answer: how long, and what to look at meanwhile.

use crate::attach::Done;
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A waiting main thread of Python looks this often whether someone pressed Ctrl-C.
pub const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long a caller is willing to wait.
pub struct Patience<'a> {
    pub deadline: Option<Instant>,
    /// Called about every [`CHECK_EVERY`] while waiting; its error ends the wait.
    pub check: Option<&'a mut dyn FnMut() -> Result<()>>,
}

impl Patience<'_> {
    pub fn forever() -> Self {
        Self { deadline: None, check: None }
    }

    /// A timeout too long for the clock means for ever.
    pub fn after(timeout: Option<Duration>) -> Self {
        Self { deadline: timeout.and_then(|span| Instant::now().checked_add(span)), check: None }
    }

    pub fn check(&mut self) -> Result<()> {
        match &mut self.check {
            Some(check) => check(),
            None => Ok(()),
        }
    }

    /// Whether the deadline has come.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits on a condition variable for a while: until notified, or the next check is due, or the deadline.
    ///
    /// False: the deadline has come. The lock is free while `check` runs, as that may need a lock of Python's.
    pub fn wait<T>(&mut self, changed: &Condvar, guard: &mut MutexGuard<'_, T>) -> Result<bool> {
        let slice = self.check.is_some().then(|| Instant::now() + CHECK_EVERY);
        let end = match (slice, self.deadline) {
            (Some(slice), Some(deadline)) => Some(slice.min(deadline)),
            (one, other) => one.or(other),
        };
        let Some(end) = end else {
            changed.wait(guard);
            return Ok(true);
        };
        if changed.wait_until(guard, end).timed_out() {
            MutexGuard::unlocked(guard, || self.check())?;
        }
        Ok(!self.is_over())
    }
}

/// Holds one answer that another thread will bring.
pub struct Slot<T> {
    inside: Arc<Inside<T>>,
}

struct Inside<T> {
    answer: Mutex<Option<Result<T>>>,
    filled: Condvar,
}

impl<T: Send + 'static> Slot<T> {
    pub fn new() -> Self {
        Self { inside: Arc::new(Inside { answer: Mutex::new(None), filled: Condvar::new() }) }
    }

    /// What fills the slot.
    pub fn filler(&self) -> Done<T> {
        let inside = self.inside.clone();
        Box::new(move |answer| {
            *inside.answer.lock() = Some(answer);
            inside.filled.notify_one();
        })
    }

    /// Waits for the answer; `TimedOut` at the deadline.
    pub fn wait(&self, patience: &mut Patience<'_>) -> Result<T> {
        let mut answer = self.inside.answer.lock();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            if !patience.wait(&self.inside.filled, &mut answer)? && answer.is_none() {
                return Err(Error::TimedOut("no answer within the time given".into()));
            }
        }
    }
}

impl<T: Send + 'static> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}
