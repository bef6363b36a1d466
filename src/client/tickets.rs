//! Calls that do not wait: each has a ticket, and whoever drives an event loop collects the answers.

use super::request::Failure;
use super::signal::Signal;
use crate::attach::WaitId;
use crate::base::sync::Mutex;
use crate::base::{JobId, Result};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Arc;

/// What came of one ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer to a command.
    Reply(std::result::Result<Vec<u8>, Failure>),
    /// This job is final, or nobody can tell.
    Finished(JobId, Result<()>),
}

/// Open tickets and the answers nobody has collected yet.
pub struct Tickets {
    state: Mutex<State>,
    signal: Signal,
}

#[derive(Default)]
struct State {
    last: u64,
    /// Open tickets; those of `start_wait` with the wait behind them.
    open: BTreeMap<u64, Option<WaitId>>,
    outcomes: Vec<(u64, Outcome)>,
}

impl Tickets {
    pub fn new() -> Result<Arc<Self>> {
        let signal = Signal::new()?;
        signal.watch();
        Ok(Arc::new(Self { state: Mutex::new(State::default()), signal }))
    }

    pub fn issue(&self) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let ticket = state.last;
        state.open.insert(ticket, None);
        ticket
    }

    /// Tickets without an answer.
    pub fn open(&self) -> usize {
        self.state.lock().open.len()
    }

    /// Remembers what to forget when the ticket is cancelled. The answer may have come already.
    pub fn waits_on(&self, ticket: u64, wait: WaitId) {
        if let Some(entry) = self.state.lock().open.get_mut(&ticket) {
            *entry = Some(wait);
        }
    }

    /// Brings the answer. A cancelled ticket drops it.
    pub fn settle(&self, ticket: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.open.remove(&ticket).is_some() {
            state.outcomes.push((ticket, outcome));
            self.signal.set(true);
        }
    }

    /// Nobody wants this answer any more. Gives the wait that stands behind it.
    pub fn cancel(&self, ticket: u64) -> Option<WaitId> {
        let mut state = self.state.lock();
        state.outcomes.retain(|(settled, _)| *settled != ticket);
        state.open.remove(&ticket).flatten()
    }

    /// The answers that came since the last call.
    pub fn drain(&self) -> Vec<(u64, Outcome)> {
        let mut state = self.state.lock();
        self.signal.set(false);
        std::mem::take(&mut state.outcomes)
    }

    /// Readable while there are answers to drain.
    pub fn fd(&self) -> RawFd {
        self.signal.fd()
    }
}
