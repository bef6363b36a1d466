//! What a fetcher shares between its threads: the buffer, the pump that empties and fills it, the answers that come back.

use super::buffer::{command_of, Buffer, Hunt, Item, Step};
use super::fetcher::{Event, Wish};
use super::patience::Patience;
use super::request::{accepted, op, Failure};
use super::session::Session;
use super::signal::Signal;
use crate::attach::{Ask, Backend, WatchEvent, WatchId, Watcher};
use crate::base::codec::Reader;
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{limits, Error, JobId, LeaseToken, Result, SessionId};
use crate::node::lines::Standing;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Events that wait for `events`; beyond it the oldest go.
const EVENTS_MAX: usize = 65_536;
/// Pause before results that did not get through are sent again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What the threads of a fetcher share.
pub struct Shared {
    pub backend: Arc<dyn Backend>,
    pub session: Arc<Session>,
    pub id: SessionId,
    pub wish: Wish,
    pub state: Mutex<State>,
    /// A job is ready, or the end has come.
    pub ready: Condvar,
    /// Something for `events`.
    pub told: Condvar,
    /// Results were answered.
    pub flushed: Condvar,
    /// The pump should look.
    pub pump: Condvar,
    pub signal: Signal,
}

pub struct State {
    pub buffer: Buffer,
    pub events: VecDeque<Event>,
    /// For log lines, that are not answered yet.
    pub asks: Vec<Ask>,
    pub watch: Option<WatchId>,
    pub ended: Option<Error>,
    pub pump: Pump,
}

/// What the pump thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pump {
    /// It will look again before it sleeps.
    Running,
    Sleeping(Option<Instant>),
}

impl Shared {
    pub fn try_next(self: &Arc<Self>, result: Option<Item>) -> Result<Option<Bytes>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        self.fence_if_lapsed(&mut state);
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        if let Some(result) = result {
            state.buffer.finish(result, now);
        }
        let job = state.buffer.take(now);
        self.nudge_if_needed(&state, now);
        if state.buffer.ready.is_empty() {
            self.signal.set(false);
        }
        Ok(job)
    }

    pub fn wait_for_job(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        patience: &mut Patience<'_>,
    ) -> Result<Option<Bytes>> {
        loop {
            self.fence_if_lapsed(state);
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let now = Instant::now();
            if let Some(job) = state.buffer.take(now) {
                self.nudge_if_needed(state, now);
                if state.buffer.ready.is_empty() {
                    self.signal.set(false);
                }
                return Ok(Some(job));
            }
            if state.buffer.paused {
                return Ok(None);
            }
            // Sending from here saves waking up the pump.
            let step = state.buffer.step(now);
            if step.is_something() {
                MutexGuard::unlocked(state, || self.send(step));
                continue; // Anything may have come meanwhile, the end too, and nobody would wake us for it again.
            }
            if !patience.wait(&self.ready, state)? && state.buffer.ready.is_empty() {
                return Ok(None);
            }
        }
    }

    pub fn take_into(&self, jobs: &mut Vec<Bytes>, max: usize) -> Result<()> {
        let now = Instant::now();
        let mut state = self.state.lock();
        self.fence_if_lapsed(&mut state);
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        while jobs.len() < max {
            let Some(job) = state.buffer.take(now) else { break };
            jobs.push(job);
        }
        // Whoever does not wait still wants them.
        state.buffer.demand = max - jobs.len();
        self.nudge_if_needed(&state, now);
        if state.buffer.ready.is_empty() {
            self.signal.set(false);
        }
        Ok(())
    }

    pub fn lock_with_room(&self, patience: &mut Patience<'_>) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        loop {
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            if !state.buffer.is_full() {
                return Ok(state);
            }
            if !patience.wait(&self.flushed, &mut state)? {
                return Err(Error::Overloaded("too many results wait to be stored".into()));
            }
        }
    }

    pub fn nudge(&self, state: &State) {
        if state.pump != Pump::Running {
            self.pump.notify_one();
        }
    }

    pub fn nudge_if_needed(&self, state: &State, now: Instant) {
        let Pump::Sleeping(until) = state.pump else { return };
        let due = state.buffer.due();
        let sooner = due.is_some() && until.is_none_or(|until| due < Some(until));
        if sooner || state.buffer.needs_pump(now) {
            self.pump.notify_one();
        }
    }

    pub fn run_pump(self: Arc<Self>) {
        let mut state = self.state.lock();
        while state.ended.is_none() {
            let step = state.buffer.step(Instant::now());
            if step.is_something() {
                MutexGuard::unlocked(&mut state, || self.send(step));
                continue;
            }
            state.pump = Pump::Sleeping(step.look_again);
            match step.look_again {
                Some(at) => {
                    self.pump.wait_until(&mut state, at);
                }
                None => self.pump.wait(&mut state),
            }
            state.pump = Pump::Running;
        }
    }

    /// Sends what a step asks for: notes before results, and a claim behind them in the same go.
    pub fn send(self: &Arc<Self>, step: Step) {
        if !step.notes.is_empty() {
            self.send_items(op::PROGRESS, step.notes);
        }
        if !step.results.is_empty() {
            self.send_items(op::FINISH, step.results);
        }
        if step.claim > 0 {
            let shared = self.clone();
            let done = Box::new(move |reply| shared.claimed(reply));
            self.session.start(self.wish.claim(self.id, step.claim), done);
        }
        if step.arm {
            self.arm();
        }
    }

    pub fn send_items(self: &Arc<Self>, operation: u64, items: Vec<Item>) {
        let shared = self.clone();
        let command = command_of(operation, &items);
        self.session.start(command, Box::new(move |reply| shared.answered(operation, items, reply)));
    }

    pub fn arm(self: &Arc<Self>) {
        let Some(watch) = self.state.lock().watch else { return };
        let queues: Vec<&str> = self.wish.queues.iter().map(|(name, _)| name.as_str()).collect();
        let functions: Vec<&str> = self.wish.functions.iter().map(String::as_str).collect();
        if self.backend.arm(watch, &queues, &functions) {
            let mut state = self.state.lock();
            if state.buffer.hunt == Hunt::Armed {
                state.buffer.hunt = Hunt::Hungry;
                self.nudge(&state);
            }
        }
    }

    pub fn claimed(self: &Arc<Self>, reply: Result<Vec<u8>>) {
        let now = Instant::now();
        let outcome = reply.and_then(jobs_in);
        let mut state = self.state.lock();
        match outcome {
            Ok(jobs) => {
                let wake = jobs.len().min(state.buffer.waiters);
                state.buffer.claimed(jobs, now);
                self.signal.set(!state.buffer.ready.is_empty() || state.ended.is_some());
                let again = state.buffer.hunt == Hunt::Exhausted || state.buffer.needs_pump(now) || state.buffer.paused;
                if again {
                    self.nudge(&state);
                }
                drop(state);
                (0..wake).for_each(|_| {
                    self.ready.notify_one();
                });
            }
            // It may have been applied. Nobody would run those jobs, and a session that lives keeps its leases: so this
            // one is over, and the worker closes it and opens another.
            Err(Error::Unknown(_) | Error::TimedOut(_)) => self.end_locked(&mut state, Error::SessionExpired),
            Err(error) => {
                state.buffer.claimed(Vec::new(), now);
                state.buffer.hunt = Hunt::Hungry;
                self.not_through(&mut state, error, now);
            }
        }
    }

    pub fn answered(self: &Arc<Self>, operation: u64, items: Vec<Item>, reply: Result<Vec<u8>>) {
        let now = Instant::now();
        let codes = reply.and_then(|reply| codes_in(&reply));
        let mut state = self.state.lock();
        state.buffer.finishes_under_way -= 1;
        match codes {
            Ok(codes) => {
                for (item, code) in items.iter().zip(codes) {
                    if code != 0 {
                        self.tell(&mut state, Event::Lost(item.job, item.token));
                    }
                }
            }
            Err(Error::Invalid(_))
                if operation == op::FINISH && items.iter().any(|item| item.without_reason().is_some()) =>
            {
                // A reason for waiting is not worth the session and all that it runs.
                let plain = items.into_iter().map(|item| item.without_reason().unwrap_or(item)).collect();
                state.buffer.push_back(plain, now);
                self.nudge(&state);
            }
            Err(error) => {
                if is_worth_another_try(&error) {
                    let buffer = &mut state.buffer;
                    match operation {
                        op::FINISH => buffer.push_back(items, now),
                        _ => buffer.push_back_notes(items, now),
                    }
                }
                self.not_through(&mut state, error, now);
            }
        }
        let due = state.buffer.due().is_some_and(|due| due <= now);
        if due || state.buffer.flush || state.buffer.needs_pump(now) {
            self.nudge(&state);
        }
        drop(state);
        self.flushed.notify_all();
    }

    pub fn not_through(self: &Arc<Self>, state: &mut State, error: Error, now: Instant) {
        if is_worth_another_try(&error) {
            state.buffer.hold_until = Some(now + RETRY_AFTER);
            self.nudge(state);
        } else {
            self.end_locked(state, error);
        }
    }

    pub fn tell(&self, state: &mut State, event: Event) {
        if state.events.len() == EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back(event);
        self.told.notify_all();
    }

    /// Notes an ask for log lines. However many ask for those of one job, the worker is told once.
    fn asked(&self, state: &mut State, ask: Ask) {
        if state.ended.is_some() || state.asks.contains(&ask) {
            return;
        }
        if state.asks.len() >= limits::LINES_UNTOLD_MAX {
            state.asks.remove(0); // Whoever asked has long given up.
        }
        let known = state.asks.iter().any(|other| (other.job, other.token) == (ask.job, ask.token));
        state.asks.push(ask);
        if !known {
            self.tell(state, Event::Lines(ask.job, ask.token));
        }
    }

    pub fn tell_lines(&self, job: JobId, token: LeaseToken, lines: Option<(u64, Vec<String>)>) {
        let mut state = self.state.lock();
        let Some(watch) = state.watch else { return };
        let all = std::mem::take(&mut state.asks);
        let (answered, left) = all.into_iter().partition(|ask| (ask.job, ask.token) == (job, token));
        state.asks = left;
        drop(state);
        let answered: Vec<Ask> = answered;
        for ask in answered {
            let answer = match &lines {
                Some((first, lines)) => ask.told(*first, lines),
                None => ask.none(Standing::NotRunning, ""),
            };
            self.backend.told_lines(watch, ask, answer);
        }
    }

    pub fn fence_if_lapsed(&self, state: &mut State) {
        if state.ended.is_none() && self.session.is_lapsed() {
            self.end_locked(state, Error::SessionExpired);
        }
    }

    /// The end, and why. Gives the earlier end if there was one.
    pub fn end(&self, error: Error) -> Option<Error> {
        let mut state = self.state.lock();
        let already = state.ended.clone();
        self.end_locked(&mut state, error);
        let watch = state.watch.take();
        drop(state);
        if let Some(watch) = watch {
            self.backend.unwatch(watch);
        }
        already
    }

    pub fn end_locked(&self, state: &mut State, error: Error) {
        if state.ended.is_some() {
            return;
        }
        if error == Error::SessionExpired {
            self.tell(state, Event::SessionLost);
        }
        state.buffer.clear();
        state.ended = Some(error);
        self.signal.set(true);
        for changed in [&self.ready, &self.told, &self.flushed, &self.pump] {
            changed.notify_all();
        }
    }
}

/// Receives the events of the session, without keeping the fetcher alive.
pub struct Sink {
    pub shared: Weak<Shared>,
}

impl Watcher for Sink {
    fn event(&self, event: WatchEvent) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.state.lock();
        match event {
            WatchEvent::Ready => {
                if state.buffer.hunt == Hunt::Armed {
                    state.buffer.hunt = Hunt::Hungry;
                }
                // Claiming from here saves waking up the pump.
                let step = state.buffer.step(Instant::now());
                let (passed_on, watch) = (step.claim == 0 && state.buffer.hunt == Hunt::Hungry, state.watch);
                drop(state);
                shared.send(step);
                if let Some(watch) = watch.filter(|_| passed_on) {
                    // Nobody here wants a job now; the next watcher may.
                    shared.backend.disarm(watch);
                }
            }
            WatchEvent::Cancel(job, token) => shared.tell(&mut state, Event::Cancel(job, token)),
            WatchEvent::Lost(job, token) => shared.tell(&mut state, Event::Lost(job, token)),
            WatchEvent::Lines(ask) => shared.asked(&mut state, ask),
            WatchEvent::SessionClosed => shared.end_locked(&mut state, Error::SessionExpired),
            WatchEvent::NodeClosed => shared.end_locked(&mut state, Error::Closed),
            WatchEvent::Refused => {
                let why = "this process has more workers, or waits for more queues and tasks, than its node allows one";
                shared.end_locked(&mut state, Error::Overloaded(why.into()));
            }
            WatchEvent::Granted(..) => {}
        }
    }
}

/// Another try may get through: nothing was applied, or applying it again changes nothing.
fn is_worth_another_try(error: &Error) -> bool {
    matches!(
        error,
        Error::NotCommitted(_) | Error::Overloaded(_) | Error::DiskFull(_) | Error::Unknown(_) | Error::TimedOut(_)
    )
}

fn jobs_in(reply: Vec<u8>) -> Result<Vec<Bytes>> {
    let reply = Bytes::from(reply);
    let (_, payload) = accepted(&reply).map_err(error_of)?;
    let mut reader = Reader::new(payload);
    (0..reader.array()?).map(|_| Ok(reply.slice_ref(reader.raw()?))).collect()
}

fn codes_in(reply: &[u8]) -> Result<Vec<u64>> {
    let (_, payload) = accepted(reply).map_err(error_of)?;
    let mut reader = Reader::new(payload);
    (0..reader.array()?).map(|_| reader.u64()).collect()
}

fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Error(error) => error,
        Failure::Refused { code, message, .. } => Error::Invalid(format!("{code}: {message}")),
    }
}
