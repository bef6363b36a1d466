//! Requests, letters of other members and chores on their way to whoever drives, and the one role of driving.
//!
//! Invariants
//! * The role is held by one thread at most: a caller, or the core thread. Who finds it free takes it under the lock.
//! * Whenever there is work that somebody waits for and no thread holds the role, it was just given to the core thread, or
//!   is as soon as `call` follows; so nothing waits for ever.
//! * Each request is answered exactly once, by the thread that took it out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ticket::{Slot, Ticket, CHECK_EVERY};
use super::Done;
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{limits, Error, NodeId, Result, SessionId};
use crate::replica::{Letter, MemberChange, Proposal, SnapshotWritten};

/// Something for the driver besides requests.
pub(super) enum Chore {
    /// The maintenance thread finished, or failed, a snapshot.
    Captured(SnapshotWritten),
    /// Someone wants a snapshot now; told when it is on disk, or why not.
    Capture(Done<()>),
    /// Something that stopped the driver may be over: look again.
    Retry,
    /// The last messages to this member did not arrive.
    Unreachable(NodeId),
    /// The process of this member is known to be gone.
    Gone(NodeId),
    /// The snapshot that was announced to this member is there, or will not get there.
    SnapshotSent { to: NodeId, arrived: bool },
    /// The cluster of this node was given up and goes on as another one; in words.
    GivenUp(String),
    /// Let another member lead, the one that has most of the log.
    HandOver,
    /// Change who is a member; also against the odds.
    ChangeMembers { change: MemberChange, forced: bool, ticket: Ticket },
}

/// Work for one turn.
#[derive(Default)]
pub(super) struct Batch {
    pub proposals: Vec<Proposal<Ticket>>,
    pub chores: Vec<Chore>,
    /// Of other members, each one's in its order.
    pub letters: Vec<Letter>,
    /// Ticks of the election clock that passed.
    pub ticks: u32,
    /// Who wants to read what was answered anywhere before.
    pub reads: Vec<Ticket>,
    /// Sessions that are said to live.
    pub beats: Vec<(SessionId, Done<()>)>,
    pub since: Option<Instant>, // When the oldest of the proposals came.
}

impl Batch {
    /// Answers work that was never begun.
    pub fn refuse(self, why: &Error) {
        for proposal in self.proposals {
            proposal.ticket.answer(Err(Error::NotCommitted(why.to_string())));
        }
        for chore in self.chores {
            match chore {
                Chore::Capture(done) => done(Err(why.clone())),
                Chore::ChangeMembers { ticket, .. } => ticket.answer(Err(Error::NotCommitted(why.to_string()))),
                _ => {}
            }
        }
        for ticket in self.reads {
            ticket.answer(Err(why.clone()));
        }
        Ticket::beats(self.beats).answer(Err(why.clone()));
    }
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
    since: Option<Instant>, // When the oldest request came, or the last group was taken and left some.
    /// Everything but requests.
    others: Batch,
    /// Somebody waits for what is in `others`. If not, it is taken along by the next turn, at the next tick if not before.
    pressing: bool,
    letter_bytes: usize,
    driver: Driver,
    /// Requests must wait: the log is full until a snapshot is done, or the disk is, or nobody leads. Others still run.
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
            since: None,
            others: Batch::default(),
            pressing: false,
            letter_bytes: 0,
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

    /// Accepts a request without waiting. `call` must follow. A refused ticket comes back.
    pub fn queue(&self, entry: Vec<u8>, ticket: Ticket) -> std::result::Result<(), (Ticket, Error)> {
        let mut state = self.state.lock();
        match self.has_room(&state, entry.len()) {
            Ok(true) => {}
            Ok(false) => return Err((ticket, full(&state))),
            Err(error) => return Err((ticket, error)),
        }
        push(&mut state, Proposal { entry, ticket });
        Ok(())
    }

    /// If requests wait and nobody drives, the calling thread gets the role, if it `wants` it, else the core thread.
    pub fn call(&self, wants: bool) -> Next {
        let mut state = self.state.lock();
        if state.held || state.requests.is_empty() || state.driver != Driver::Nobody {
            return Next::Wait;
        }
        if wants {
            state.driver = Driver::Caller;
            return Next::Drive;
        }
        self.call_core(&mut state);
        Next::Wait
    }

    /// Takes a request back that nobody took out yet. False: it may be on its way into the log.
    pub fn withdraw(&self, slot: &Arc<Slot>) -> bool {
        let mut state = self.state.lock();
        let mine = state.requests.iter().position(|proposal| proposal.ticket.belongs_to(slot));
        let Some(place) = mine else { return false };
        if let Some(proposal) = state.requests.remove(place) {
            state.bytes -= proposal.entry.len();
        }
        state.since = state.since.filter(|_| !state.requests.is_empty());
        true
    }

    pub fn chore(&self, chore: Chore) {
        self.other(|others| others.chores.push(chore));
    }

    /// So many ticks of the election clock passed. After a pause of the process at most `ticks_max` count: what others sent
    /// meanwhile is to be heard first.
    pub fn tick(&self, ticks: u32, ticks_max: u32) {
        self.other(|others| others.ticks = (others.ticks + ticks).min(ticks_max));
    }

    /// Somebody wants to read what was answered anywhere before now.
    pub fn read(&self, ticket: Ticket) {
        self.other(|others| others.reads.push(ticket));
    }

    /// This session lives. It waits for the next turn, at the latest that of the next tick: so the signs of life of many
    /// sessions share a round of questions to a majority.
    pub fn beat(&self, session: SessionId, done: Done<()>) {
        self.add(|others| others.beats.push((session, done)));
    }

    fn other(&self, add: impl FnOnce(&mut Batch)) {
        if let Some(mut state) = self.add(add) {
            state.pressing = true;
            self.call_core(&mut state);
        }
    }

    /// Nothing once nothing is accepted any more: then it was refused.
    fn add(&self, add: impl FnOnce(&mut Batch)) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        if let Some(why) = state.stopped.clone() {
            drop(state);
            let mut refused = Batch::default();
            add(&mut refused);
            refused.refuse(&why);
            return None;
        }
        add(&mut state.others);
        Some(state)
    }

    /// Takes in letters of another member, of so many bytes, from the thread that read them; it gets the role if that is
    /// free and the letters are `pressing`. Waits while too many are there already, so that a member's connection fills up
    /// and not the memory.
    pub fn letters(&self, letters: Vec<Letter>, bytes: usize, pressing: bool) -> Next {
        let mut state = self.state.lock();
        while state.letter_bytes > self.bytes_max && state.pressing && state.stopped.is_none() {
            state.waiting_for_room += 1;
            self.room.wait_for(&mut state, CHECK_EVERY);
            state.waiting_for_room -= 1;
        }
        if state.stopped.is_some() {
            return Next::Wait;
        }
        state.others.letters.extend(letters);
        state.letter_bytes += bytes;
        state.pressing |= pressing;
        if !state.pressing || state.driver != Driver::Nobody {
            return Next::Wait;
        }
        state.driver = Driver::Caller;
        Next::Drive
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
        let mut batch = std::mem::take(&mut state.others);
        (state.pressing, state.letter_bytes) = (false, 0);
        if state.held {
            if state.waiting_for_room > 0 {
                self.room.notify_all();
            }
            return batch;
        }
        batch.since = state.since.take();
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
            state.since = Some(Instant::now());
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
        let work = state.pressing || (!state.requests.is_empty() && !state.held);
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
        state.letter_bytes = 0;
        let others = std::mem::take(&mut state.others);
        Batch { proposals: Vec::from(std::mem::take(&mut state.requests)), ..others }
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

    /// How long the oldest request waits at most.
    pub fn age(&self) -> Duration {
        self.state.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn stopped(&self) -> Option<Error> {
        self.state.lock().stopped.clone()
    }
}

fn push(state: &mut State, proposal: Proposal<Ticket>) {
    state.since.get_or_insert_with(Instant::now); // One look at the clock for each group.
    state.bytes += proposal.entry.len();
    state.requests.push_back(proposal);
}

fn full(state: &State) -> Error {
    Error::Overloaded(format!("{} requests ({} bytes) wait to be written", state.requests.len(), state.bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_comes_after_the_end_is_answered_at_once() {
        let inbox = Inbox::new(9, 999);
        inbox.stop_and_drain(Error::Closed);
        let (send, receive) = channel();
        let done = || -> Done<()> {
            let send = send.clone();
            Box::new(move |end| drop(send.send(end.map(|()| Vec::new()))))
        };
        let ticket = || {
            let send = send.clone();
            Ticket::call(Box::new(move |end| drop(send.send(end))))
        };
        inbox.chore(Chore::Capture(done()));
        let change = MemberChange::Remove(NodeId(3));
        inbox.chore(Chore::ChangeMembers { change, forced: false, ticket: ticket() });
        inbox.read(ticket());
        inbox.beat(SessionId(7), done());
        let refusal = Error::NotCommitted(Error::Closed.to_string());
        let expected = [Error::Closed, refusal, Error::Closed, Error::Closed].map(Err);
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), expected);
    }
}
