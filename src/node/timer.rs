//! The one thread that waits for a time: when the machine has timed work it proposes a `Tick`, when a session lapsed its
//! end; both only while this node leads. It sleeps until the earlier of the two and is woken when something earlier comes up; it never polls.

use std::sync::Arc;
use std::time::Duration;

use super::ticket::Ticket;
use super::{own_request, Done, Shared};
use crate::base::codec::Writer;
use crate::base::sync::{Condvar, Mutex};
use crate::base::{limits, Millis, SessionId, Term};
use crate::replica::entry;

/// After a proposal of ours was refused (a full disk, a full inbox): how long until the next.
const RETRY: Duration = Duration::from_millis(100);
/// Longest sleep: a backstop for clocks that are not told when they move.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct State {
    /// When the machine has timed work, in cluster time.
    due: Option<Millis>,
    /// A `Tick` is on its way.
    ticking: bool,
    /// A proposal of ours was refused.
    refused: bool,
    /// Something changed that the sleeper does not know of.
    woken: bool,
    /// The sleeper sleeps.
    sleeping: bool,
    /// The due time that the sleeper sleeps until.
    sleeps_until: Option<Millis>,
    /// This node leads: only a leader proposes.
    leads: Option<Term>,
    stopped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Timer {
    state: Mutex<State>,
    wake: Condvar,
}

impl Timer {
    /// A turn was applied: the machine's next time, and whether sessions came or went.
    pub fn due(&self, due: Option<Millis>, sessions: bool) {
        let mut state = self.state.lock();
        state.due = due;
        let earlier = due.is_some_and(|due| state.sleeps_until.is_none_or(|until| due < until));
        if sessions || (earlier && !state.ticking) {
            self.notify(&mut state);
        }
    }

    /// This node leads from now on, or no longer.
    pub fn leads(&self, leads: Option<Term>) {
        let mut state = self.state.lock();
        (state.leads, state.ticking) = (leads, false);
        self.notify(&mut state);
    }

    /// Looks at the clock again.
    pub fn wake(&self) {
        self.notify(&mut self.state.lock());
    }

    /// Whether the sleeper saw everything there is and waits for time to pass.
    pub fn rests(&self) -> bool {
        let state = self.state.lock();
        state.sleeping && !state.woken && !state.ticking && !state.refused
    }

    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        self.notify(&mut state);
    }

    fn notify(&self, state: &mut State) {
        state.woken = true;
        self.wake.notify_one();
    }

    fn ticked(&self, accepted: bool) {
        let mut state = self.state.lock();
        state.ticking = false;
        state.refused |= !accepted;
        self.notify(&mut state);
    }

    fn refuse(&self) {
        let mut state = self.state.lock();
        state.refused = true;
        self.notify(&mut state);
    }

    /// Sleeps until woken or for this long. False: it is over.
    fn sleep(&self, tick_at: Option<Millis>, duration: Duration) -> bool {
        let mut state = self.state.lock();
        (state.sleeps_until, state.sleeping) = (tick_at, true);
        if !state.woken && !state.stopped {
            self.wake.wait_for(&mut state, duration);
        }
        if std::mem::take(&mut state.refused) && !state.stopped {
            // Whatever refused us needs time, not another request at once.
            self.wake.wait_for(&mut state, RETRY);
        }
        (state.woken, state.sleeping) = (false, false);
        !state.stopped
    }
}

impl Shared {
    /// The life of the timer thread.
    pub(super) fn timer_loop(self: &Arc<Self>) {
        loop {
            let leads = self.timer.state.lock().leads;
            let tick_at = leads.and_then(|_| self.tick_if_due());
            let lapse_in = leads.and_then(|term| self.end_lapsed_sessions(term));
            let tick_in = tick_at.map(|due| due.since(self.now()));
            let next = [tick_in, lapse_in].into_iter().flatten().min();
            let duration = next.map_or(SLEEP_MAX, |span| Duration::from_millis(span.0).min(SLEEP_MAX));
            if !self.timer.sleep(tick_at, duration) {
                return;
            }
        }
    }

    /// Proposes a `Tick` if the machine has timed work now. Gives the time of the next one, unless a `Tick` is on its way.
    fn tick_if_due(self: &Arc<Self>) -> Option<Millis> {
        let now = self.now();
        {
            let mut state = self.timer.state.lock();
            let due = state.due.filter(|_| !state.ticking)?;
            if due > now {
                return Some(due);
            }
            state.ticking = true;
        }
        let mut command = Writer::new();
        command.array(2).u64(13).u64(limits::UPKEEP_ITEMS_MAX as u64);
        let shared = Arc::downgrade(self);
        self.propose(&command, move |answer| {
            if let Some(shared) = shared.upgrade() {
                shared.timer.ticked(answer.is_ok());
            }
        });
        None
    }

    /// Proposes the end of silent sessions, as the leader of this term. Gives the span until the next one could be silent
    /// for too long.
    fn end_lapsed_sessions(self: &Arc<Self>, term: Term) -> Option<Millis> {
        let now = self.config.clock.monotonic();
        let (gone, next) = self.sessions.lock().lapsed(now);
        for session in gone {
            self.start_in(term, &own_request(&end_of(session)), self.when_ended(session, || ()));
        }
        next.map(|next| next.since(now))
    }

    /// Proposes the end of a session that is marked as ending.
    pub(super) fn expire(self: &Arc<Self>, session: SessionId) {
        self.expire_and(session, || ());
    }

    /// As `expire`; `answered` runs when it is in effect, or refused and to be tried again.
    pub(super) fn expire_and(self: &Arc<Self>, session: SessionId, answered: impl FnOnce() + Send + 'static) {
        self.start(&own_request(&end_of(session)), self.when_ended(session, answered));
    }

    /// As `start`, for what this node found out as the leader of a term: nobody else is asked to do it.
    fn start_in(&self, term: Term, request: &[u8], done: Done<Vec<u8>>) {
        if let Err((ticket, error)) = self.inbox.queue(entry::frame_in(request, term), Ticket::call(done)) {
            ticket.answer(Err(error));
        }
        self.inbox.call(false);
    }

    fn when_ended(self: &Arc<Self>, session: SessionId, answered: impl FnOnce() + Send + 'static) -> Done<Vec<u8>> {
        let shared = Arc::downgrade(self);
        Box::new(move |answer| {
            if let (Err(_), Some(shared)) = (answer, shared.upgrade()) {
                shared.sessions.lock().end_failed(session);
                shared.timer.refuse();
            }
            answered();
        })
    }
}

/// The command `ExpireSession`.
fn end_of(session: SessionId) -> Writer {
    let mut command = Writer::new();
    command.array(2).u64(3).u64(session.0);
    command
}
