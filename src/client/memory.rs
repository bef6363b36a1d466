//! The state machine alone, in memory: the storage `memory://`. Nothing is written, everything else is the same.
//!
//! A request is applied under one mutex by the thread that brings it; what it causes is told after the mutex is free.
//! Time comes from the system, with a thread that wakes up when the machine has something due, or from a clock that the
//! caller moves: then `advance` stops at every moment at which something is due.

use crate::attach::backend::Check;
use crate::attach::{Ask, Backend, Done, View, WaitId, WatchEvent, WatchId, Watcher};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::{Condvar, Mutex};
use crate::base::time::SystemClock;
use crate::base::{limits, Clock, Error, JobId, LogIndex, Millis, Result, SessionId};
use crate::machine::{self, Effects, Machine};
use crate::node::lines::{Asks, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::{self, accepted, op};

/// Where a manual clock starts: a fixed moment, so that tests repeat exactly. 2026-01-01T00:00:00Z.
const MANUAL_START: Millis = Millis(1_767_225_600_000);
/// Finished jobs that are kept. There is no archive behind memory: the oldest are forgotten.
const FINISHED_KEPT_MAX: u64 = 100_000;

/// A state machine in this process.
pub struct Memory {
    state: Mutex<State>,
    /// The machine has something due earlier than before, or the memory was closed.
    due: Condvar,
    manual: bool,
    lines: Arc<Asks>,
}

struct State {
    machine: Machine,
    index: u64,
    /// The time of a manual clock.
    now: Millis,
    closed: bool,
    next_id: u64,
    watches: BTreeMap<WatchId, Watch>,
    waits: BTreeMap<JobId, Vec<(WaitId, Done<()>)>>,
}

struct Watch {
    session: SessionId,
    sink: Arc<dyn Watcher>,
    armed: Option<(Vec<String>, Vec<String>)>,
}

/// What an applied request caused, to be told when no lock is held.
#[derive(Default)]
struct News {
    events: Vec<(Arc<dyn Watcher>, WatchEvent)>,
    finished: Vec<Done<()>>,
}

impl News {
    fn join(&mut self, other: News) {
        self.events.extend(other.events);
        self.finished.extend(other.finished);
    }

    fn tell(self, end: Result<()>) {
        self.events.into_iter().for_each(|(sink, event)| sink.event(event));
        self.finished.into_iter().for_each(|done| done(end.clone()));
    }
}

impl Memory {
    /// An empty state. `manual`: time stands still until `advance`.
    pub fn open(manual: bool) -> Result<Arc<Self>> {
        let state = State {
            machine: Machine::newest(),
            index: 0,
            now: MANUAL_START,
            closed: false,
            next_id: 1,
            watches: BTreeMap::new(),
            waits: BTreeMap::new(),
        };
        let memory = Arc::new(Self { state: Mutex::new(state), due: Condvar::new(), manual, lines: Arc::default() });
        if !manual {
            let weak = Arc::downgrade(&memory);
            std::thread::Builder::new()
                .name("raftwork-timer".into())
                .spawn(move || {
                    while let Some(memory) = weak.upgrade() {
                        if !memory.wait_and_tick() {
                            return;
                        }
                    }
                })
                .map_err(|error| Error::disk("start a thread", "raftwork-timer", &error))?;
        }
        Ok(memory)
    }

    /// Moves a manual clock, stopping wherever something is due.
    pub fn advance(&self, span: Millis) -> Result<()> {
        if !self.manual {
            return Err(Error::Invalid("only a manual clock can be moved".into()));
        }
        let end = self.state.lock().now.plus(span);
        loop {
            let mut state = self.state.lock();
            match state.machine.next_due() {
                Some(due) if due <= end => {
                    state.now = state.now.max(due);
                    let news = state.tick(due)?;
                    drop(state);
                    news.tell(Ok(()));
                }
                _ => {
                    state.now = state.now.max(end);
                    return Ok(());
                }
            }
        }
    }

    /// Accepts nothing more; whoever waits is told.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let events = state.watches.values().map(|watch| (watch.sink.clone(), WatchEvent::NodeClosed)).collect();
        let finished = std::mem::take(&mut state.waits).into_values().flatten().map(|(_, done)| done).collect();
        let news = News { events, finished };
        drop(state);
        self.due.notify_all();
        self.lines.stop();
        news.tell(Err(Error::Closed));
    }

    fn lines(&self, ask: Ask, done: Done<Vec<u8>>) {
        let state = self.state.lock();
        let watches = state.watches.values().filter(|watch| watch.session == ask.session);
        let sinks: Vec<Arc<dyn Watcher>> = watches.map(|watch| watch.sink.clone()).collect();
        drop(state);
        self.lines.begin(ask, done, move |asks| {
            let push = || {
                sinks.iter().for_each(|sink| sink.event(WatchEvent::Lines(ask)));
                !sinks.is_empty()
            };
            Ok(asks.ask_worker(ask, push)?.unwrap_or_else(|| ask.none(Standing::NotConnected, "")))
        });
    }

    fn now(&self, state: &State) -> Millis {
        if self.manual {
            state.now
        } else {
            SystemClock.wall()
        }
    }

    fn apply(&self, request: &[u8]) -> Result<Vec<u8>> {
        machine::check(request)?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let due_before = state.machine.next_due();
        let now = self.now(&state);
        let mut news = News::default();
        let reply = state.apply(now, request, &mut news)?;
        state.forget_oldest(now)?;
        while state.machine.is_behind() {
            // Nobody ticks while a manual clock stands still.
            news.join(state.tick(now)?);
        }
        let due = state.machine.next_due();
        let sooner = due.is_some() && due_before.is_none_or(|before| due < Some(before));
        drop(state);
        if sooner {
            self.due.notify_all();
        }
        news.tell(Ok(()));
        Ok(reply)
    }

    /// One round of the timer thread: false when it is to end. Never waits long, so that a dropped memory is noticed.
    fn wait_and_tick(&self) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let now = SystemClock.wall();
        let wait = state.machine.next_due().map_or(Duration::MAX, |due| Duration::from_millis(due.since(now).0));
        if !wait.is_zero() {
            self.due.wait_until(&mut state, Instant::now() + wait.min(Duration::from_secs(1)));
            return true;
        }
        let news = state.tick(now);
        drop(state);
        match news {
            Ok(news) => news.tell(Ok(())),
            Err(_) => return false,
        }
        true
    }
}

impl State {
    fn apply(&mut self, now: Millis, request: &[u8], news: &mut News) -> Result<Vec<u8>> {
        let mut effects = Effects::default();
        self.index += 1;
        let reply = self.machine.apply(LogIndex(self.index), now, request, &mut effects)?;
        self.collect(effects, news);
        Ok(reply)
    }

    /// Promotes and expires what is due, in bounded steps.
    fn tick(&mut self, now: Millis) -> Result<News> {
        let mut command = Writer::new();
        command.array(2).u64(op::TICK).u64(limits::UPKEEP_ITEMS_MAX as u64);
        let request = request::envelope(SessionId(0), 0, 0, command.as_bytes());
        let mut news = News::default();
        loop {
            let reply = self.apply(now, &request, &mut news)?;
            let done = accepted(&reply).ok().and_then(|(_, payload)| Reader::new(payload).u64().ok());
            if done.unwrap_or(0) < limits::UPKEEP_ITEMS_MAX as u64 {
                return Ok(news);
            }
        }
    }

    fn forget_oldest(&mut self, now: Millis) -> Result<()> {
        let (finished, evicted) = (self.machine.finished_upto(), self.machine.evicted_upto());
        if finished - evicted < FINISHED_KEPT_MAX + limits::UPKEEP_ITEMS_MAX as u64 {
            return Ok(());
        }
        let mut command = Writer::new();
        command.array(2).u64(op::EVICT).u64(finished - FINISHED_KEPT_MAX);
        let request = request::envelope(SessionId(0), 0, 0, command.as_bytes());
        self.apply(now, &request, &mut News::default()).map(|_| ())
    }

    fn collect(&mut self, effects: Effects, news: &mut News) {
        for id in &effects.finished {
            news.finished.extend(self.waits.remove(id).into_iter().flatten().map(|(_, done)| done));
        }
        for watch in self.watches.values_mut() {
            let own = |of: &SessionId| *of == watch.session;
            let cancels = effects.cancels.iter().filter(|(of, ..)| own(of));
            news.events.extend(cancels.map(|(_, job, token)| (watch.sink.clone(), WatchEvent::Cancel(*job, *token))));
            let lost = effects.lost.iter().filter(|(of, ..)| own(of));
            news.events.extend(lost.map(|(_, job, token)| (watch.sink.clone(), WatchEvent::Lost(*job, *token))));
            let granted = effects.granted.iter().filter(|(of, ..)| own(of));
            let granted = granted.map(|(_, number, token)| WatchEvent::Granted(*number, *token));
            news.events.extend(granted.map(|event| (watch.sink.clone(), event)));
            if effects.closed.iter().any(own) {
                news.events.push((watch.sink.clone(), WatchEvent::SessionClosed));
            }
        }
        let queues: BTreeSet<&str> = effects.ready.iter().map(|(_, queue, _)| &**queue).collect();
        for watch in self.watches.values_mut() {
            let Some((of, functions)) = &watch.armed else { continue };
            if of.iter().any(|queue| queues.contains(queue.as_str())) && is_ready(&self.machine, of, functions) {
                watch.armed = None;
                news.events.push((watch.sink.clone(), WatchEvent::Ready));
            }
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn is_ready(machine: &Machine, queues: &[String], functions: &[String]) -> bool {
    let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
    let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
    machine.ready(&queues, &functions)
}

impl Backend for Memory {
    fn submit(&self, request: Vec<u8>, _deadline: Option<Instant>, _check: Check<'_>) -> Result<Vec<u8>> {
        self.apply(&request)
    }

    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        done(self.apply(&request));
    }

    fn view(&self, view: View, done: Done<Vec<u8>>) {
        match Ask::of(&view.question) {
            Ok(None) => {}
            Ok(Some(ask)) => return self.lines(ask, done),
            Err(error) => return done(Err(error)),
        }
        let (index, answer) = {
            let state = self.state.lock();
            (state.index, state.machine.view(&view.question))
        };
        done(answer.map(|payload| {
            let mut out = Writer::with_capacity(payload.len() + 12);
            // Nobody else can change it, so it is never old.
            out.array(3).u64(index).u64(0).raw(&payload);
            out.into_bytes()
        }));
    }

    fn fresh(&self, done: Done<LogIndex>) {
        done(Ok(LogIndex(self.state.lock().index)));
    }

    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId {
        let mut state = self.state.lock();
        let id = WaitId(state.id());
        if state.closed {
            drop(state);
            done(Err(Error::Closed));
        } else if is_open(&state.machine, job) {
            state.waits.entry(job).or_default().push((id, done));
        } else {
            let known = state.machine.is_over(job).is_some();
            drop(state);
            done(if known { Ok(()) } else { Err(Error::NotFound(format!("no job has the id {job}"))) });
        }
        id
    }

    fn forget_wait(&self, wait: WaitId) {
        self.state.lock().waits.retain(|_, waiters| {
            waiters.retain(|(id, _)| *id != wait);
            !waiters.is_empty()
        });
    }

    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        let mut state = self.state.lock();
        let id = WatchId(state.id());
        state.watches.insert(id, Watch { session, sink, armed: None });
        id
    }

    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        let mut state = self.state.lock();
        if state.machine.ready(queues, functions) {
            return true;
        }
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        if let Some(watch) = state.watches.get_mut(&watch) {
            watch.armed = Some((owned(queues), owned(functions)));
        }
        false
    }

    fn disarm(&self, watch: WatchId) {
        if let Some(watch) = self.state.lock().watches.get_mut(&watch) {
            watch.armed = None;
        }
    }

    fn unwatch(&self, watch: WatchId) {
        self.state.lock().watches.remove(&watch);
    }

    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>) {
        let of = self.state.lock().watches.get(&watch).map(|watch| watch.session);
        if of == Some(ask.session) {
            self.lines.told(ask, &answer);
        }
    }

    fn heartbeat(&self, session: SessionId, done: Done<()>) {
        let known = self.state.lock().machine.sessions().any(|(id, _)| id == session);
        done(if known { Ok(()) } else { Err(Error::SessionExpired) });
    }

    fn hold(&self, _session: SessionId) {}

    fn release_hold(&self, _session: SessionId) {}

    fn lapse(&self, session: SessionId) {
        let mut command = Writer::new();
        command.array(2).u64(op::EXPIRE_SESSION).u64(session.0);
        // A session that has ended already needs no end.
        let _ = self.apply(&request::envelope(SessionId(0), 0, 0, command.as_bytes()));
    }

    fn is_local(&self) -> bool {
        true
    }

    fn health(&self) -> Result<Vec<u8>> {
        let state = self.state.lock();
        let mut out = Writer::new();
        out.map(3).str("role").str("memory").str("index").u64(state.index).str("jobs").u64(state.machine.len() as u64);
        Ok(out.into_bytes())
    }
}

/// Whether this job or batch is known and not over: whoever waits for it has to wait.
fn is_open(machine: &Machine, job: JobId) -> bool {
    machine.is_over(job) == Some(false)
}
