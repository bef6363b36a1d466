//! Requests on their way to whoever drives, and the one role of driving.
//!
//! Invariants
//! * The role is held by one thread at most: a caller, or the core thread. Who finds it free takes it under the lock.
//! * Whenever there is work and no thread holds the role, it was just given to the core thread; so nothing waits for ever.
//! * Each request is answered exactly once, by the thread that took it out.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Done;
use crate::base::{limits, Error, Result};
use crate::replica::{Proposal, SnapshotWritten};

/// How often a waiting caller looks at what its own caller wants it to look at (signals).
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Where one answer goes. One that is dropped without an answer says so: a panic must not leave anybody waiting.
pub(super) struct Ticket(Option<Owner>);

enum Owner {
    /// A thread that waits for it.
    Parked(Arc<Slot>),
    /// A function.
    Call(Done<Vec<u8>>),
}

impl Ticket {
    pub fn parked(slot: Arc<Slot>) -> Self {
        Self(Some(Owner::Parked(slot)))
    }

    pub fn call(done: Done<Vec<u8>>) -> Self {
        Self(Some(Owner::Call(done)))
    }

    pub fn answer(mut self, answer: Result<Vec<u8>>) {
        self.give(answer);
    }

    fn give(&mut self, answer: Result<Vec<u8>>) {
        match self.0.take() {
            Some(Owner::Parked(slot)) => slot.fill(answer),
            Some(Owner::Call(done)) => {
                let outcome = catch_unwind(AssertUnwindSafe(|| done(answer)));
                if outcome.is_err() {
                    log::error!("a callback for an answer panicked");
                }
            }
            None => {}
        }
    }

    fn belongs_to(&self, slot: &Arc<Slot>) -> bool {
        matches!(&self.0, Some(Owner::Parked(other)) if Arc::ptr_eq(other, slot))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give(Err(Error::Unknown("the node lost track of the request".into())));
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

    fn fill(&self, answer: Result<Vec<u8>>) {
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

/// Something for the driver besides requests.
pub(super) enum Chore {
    /// The maintenance thread finished, or failed, a snapshot.
    Captured(SnapshotWritten),
    /// Someone wants a snapshot now; told when it is on disk, or why not.
    Capture(Done<()>),
    /// Something that stopped the driver may be over: look again.
    Retry,
}

/// Work for one turn.
#[derive(Default)]
pub(super) struct Batch {
    pub proposals: Vec<Proposal<Ticket>>,
    pub chores: Vec<Chore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Nobody,
    Caller,
    Core,
}

/// Bounded. See the module for what holds.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Callers wait here for room.
    room: Condvar,
    /// The core thread waits here for the role, and `close` for the end of it.
    role: Condvar,
    requests_max: usize,
    bytes_max: usize,
}

struct State {
    requests: VecDeque<Proposal<Ticket>>,
    bytes: usize,
    chores: Vec<Chore>,
    driver: Driver,
    /// Requests must wait: the log is full until a snapshot is done, or the disk is. Chores still run.
    held: bool,
    waiting_for_room: usize,
    /// Why nothing is accepted any more.
    stopped: Option<Error>,
    core_ends: bool,
}

/// What a caller is to do after its request was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Drive,
    Wait,
}

impl Inbox {
    pub fn new(requests_max: usize, bytes_max: usize) -> Self {
        let state = State {
            requests: VecDeque::new(),
            bytes: 0,
            chores: Vec::new(),
            driver: Driver::Nobody,
            held: false,
            waiting_for_room: 0,
            stopped: None,
            core_ends: false,
        };
        Self { state: Mutex::new(state), room: Condvar::new(), role: Condvar::new(), requests_max, bytes_max }
    }

    /// Accepts a request of a caller that will wait, and gives it the role if that is free. Waits for room until the
    /// deadline.
    pub fn submit(
        &self,
        entry: Vec<u8>,
        slot: &Arc<Slot>,
        deadline: Option<Instant>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Next> {
        let mut state = self.state.lock();
        while !self.has_room(&state, entry.len())? {
            let left = deadline.map_or(CHECK_EVERY, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(full(&state));
            }
            state.waiting_for_room += 1;
            let timed_out = self.room.wait_for(&mut state, left.min(CHECK_EVERY)).timed_out();
            state.waiting_for_room -= 1;
            if timed_out {
                MutexGuard::unlocked(&mut state, &mut *check)?;
            }
        }
        push(&mut state, Proposal { entry, ticket: Ticket::parked(slot.clone()) });
        if state.driver != Driver::Nobody || state.held {
            return Ok(Next::Wait);
        }
        state.driver = Driver::Caller;
        Ok(Next::Drive)
    }

    /// Accepts a request without waiting; the core thread drives if nobody does. A refused ticket comes back.
    pub fn start(&self, entry: Vec<u8>, ticket: Ticket) -> std::result::Result<(), (Ticket, Error)> {
        let mut state = self.state.lock();
        match self.has_room(&state, entry.len()) {
            Ok(true) => {}
            Ok(false) => return Err((ticket, full(&state))),
            Err(error) => return Err((ticket, error)),
        }
        push(&mut state, Proposal { entry, ticket });
        if !state.held {
            self.call_core(&mut state);
        }
        Ok(())
    }

    /// Takes a request back that nobody took out yet. False: it may be on its way into the log.
    pub fn withdraw(&self, slot: &Arc<Slot>) -> bool {
        let mut state = self.state.lock();
        let mine = state.requests.iter().position(|proposal| proposal.ticket.belongs_to(slot));
        let Some(place) = mine else { return false };
        if let Some(proposal) = state.requests.remove(place) {
            state.bytes -= proposal.entry.len();
        }
        true
    }

    pub fn chore(&self, chore: Chore) {
        let mut state = self.state.lock();
        state.chores.push(chore);
        self.call_core(&mut state);
    }

    fn has_room(&self, state: &State, bytes: usize) -> Result<bool> {
        if let Some(error) = &state.stopped {
            return Err(error.clone());
        }
        // One request always fits into an empty inbox, whatever its size.
        let fits = state.bytes + bytes <= self.bytes_max && state.requests.len() < self.requests_max;
        Ok(fits || state.requests.is_empty())
    }

    fn call_core(&self, state: &mut State) {
        if state.driver == Driver::Nobody {
            state.driver = Driver::Core;
            self.role.notify_all();
        }
    }

    /// The next group, for the thread that holds the role: at most `GROUP_BYTES_MAX`, but one request at least.
    pub fn take(&self) -> Batch {
        let mut state = self.state.lock();
        let mut batch = Batch { chores: std::mem::take(&mut state.chores), ..Batch::default() };
        if state.held {
            return batch;
        }
        if state.bytes <= limits::GROUP_BYTES_MAX {
            state.bytes = 0;
            batch.proposals = Vec::from(std::mem::take(&mut state.requests));
        } else {
            let mut bytes = 0;
            while let Some(next) = state.requests.front() {
                if bytes > 0 && bytes + next.entry.len() > limits::GROUP_BYTES_MAX {
                    break;
                }
                bytes += next.entry.len();
                batch.proposals.extend(state.requests.pop_front());
            }
            state.bytes -= bytes;
        }
        if state.waiting_for_room > 0 {
            self.room.notify_all();
        }
        batch
    }

    /// Whether requests must wait; for the thread that holds the role.
    pub fn hold_requests(&self, held: bool) {
        self.state.lock().held = held;
    }

    /// The thread that holds the role asks whether to go on. `wants`: it does, while there is work. Otherwise it leaves,
    /// and work that is there goes to the core thread.
    pub fn stay(&self, wants: bool) -> bool {
        let mut state = self.state.lock();
        let work = !state.chores.is_empty() || (!state.requests.is_empty() && !state.held);
        if work && wants {
            return true;
        }
        state.driver = Driver::Nobody;
        if work {
            self.call_core(&mut state);
        } else if state.stopped.is_some() {
            self.role.notify_all();
        }
        false
    }

    /// The core thread waits for the role. False: it is to end.
    pub fn wait_for_role(&self) -> bool {
        let mut state = self.state.lock();
        while state.driver != Driver::Core && !state.core_ends {
            self.role.wait(&mut state);
        }
        state.driver == Driver::Core
    }

    /// Accepts nothing more.
    pub fn stop(&self, why: Error) {
        let mut state = self.state.lock();
        state.stopped.get_or_insert(why);
        self.room.notify_all();
    }

    /// Accepts nothing more, and gives back what nobody took out.
    pub fn stop_and_drain(&self, why: Error) -> Batch {
        let mut state = self.state.lock();
        // The later cause is the stronger one: a node that fails while it closes has failed.
        state.stopped = Some(why);
        state.bytes = 0;
        self.room.notify_all();
        Batch { proposals: Vec::from(std::mem::take(&mut state.requests)), chores: std::mem::take(&mut state.chores) }
    }

    /// Waits until nothing is left to do. False: the deadline passed.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        let busy = |state: &State| state.driver != Driver::Nobody || !(state.requests.is_empty() || state.held);
        while busy(&state) {
            if self.role.wait_until(&mut state, deadline).timed_out() {
                return !busy(&state);
            }
        }
        true
    }

    pub fn end_core(&self) {
        self.state.lock().core_ends = true;
        self.role.notify_all();
    }

    /// Requests and bytes that wait, and why nothing is accepted.
    pub fn figures(&self) -> (usize, usize, Option<Error>) {
        let state = self.state.lock();
        (state.requests.len(), state.bytes, state.stopped.clone())
    }

    pub fn stopped(&self) -> Option<Error> {
        self.state.lock().stopped.clone()
    }
}

fn push(state: &mut State, proposal: Proposal<Ticket>) {
    state.bytes += proposal.entry.len();
    state.requests.push_back(proposal);
}

fn full(state: &State) -> Error {
    Error::Overloaded(format!("{} requests ({} bytes) wait to be written", state.requests.len(), state.bytes))
}
