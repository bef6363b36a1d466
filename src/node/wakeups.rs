//! Who is told what: watchers of work and leases, and waiters for finished jobs.
//!
//! What holds
//! * No lost wake-up: `arm` looks at the state under the registry's lock, and a turn dispatches under the same lock after
//!   it applied. Either `arm` sees the job or the dispatch sees the armed watcher.
//! * When n jobs of a queue become ready, the n watchers that were armed first and could claim them get `Ready`; of
//!   watchers that ask for different things, n of each kind, as only the claim decides who gets what.
//! * A watcher that was woken and ends, or whose session ends, passes its wake-up on.
//! * Nothing is called under a lock of this module.
//!
//! In a group of several, watchers are woken earlier than that: see `hints`.

mod hints;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lines;
use super::Done;
use crate::base::planted::{has, Bug};
use crate::base::sync::{Mutex, RwLock};
use crate::base::{Error, JobId, LeaseToken, LogIndex, SessionId};
use crate::machine::{Effects, Machine};

/// One registered watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// One registered wait for a finished job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(pub u64);

/// What a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A claim could give something now, or as soon as an entry is applied that is on its way: a claim that is made now stands
    /// behind it in the log. Comes once for each `arm`.
    Ready,
    /// Someone asked to cancel a job that this session runs.
    Cancel(JobId, LeaseToken),
    /// This session no longer has this job: stop it, its result would be refused.
    Lost(JobId, LeaseToken),
    /// A lock went to this number of the session, which waited for it.
    Granted(u64, LeaseToken),
    /// Somebody wants log lines of a job that this session runs.
    Lines(lines::Ask),
    /// The session ended; all its leases are gone.
    SessionClosed,
    /// The node tells this watcher nothing: its process has as many watches, or waits for as much, as it may.
    Refused,
    /// The node stopped or was closed.
    NodeClosed,
}

/// The receiving end. Called on the driving thread: short, never blocking, never waiting for the node.
pub trait Watcher: Send + Sync {
    fn event(&self, event: WatchEvent);
}

type Calls = Vec<(Arc<dyn Watcher>, WatchEvent)>;

/// What a watcher could claim. Watchers that ask for the same share one, so that the state is asked once for all.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask {
    queues: Vec<String>,
    functions: Vec<String>,
}

impl Ask {
    fn is_ready(&self, machine: &Machine) -> bool {
        let queues: Vec<&str> = self.queues.iter().map(String::as_str).collect();
        let functions: Vec<&str> = self.functions.iter().map(String::as_str).collect();
        machine.ready(&queues, &functions)
    }

    fn takes(&self, queue: &str, function: &str) -> bool {
        self.asks_for(queue) && self.functions.iter().any(|name| name == function)
    }

    fn asks_for(&self, queue: &str) -> bool {
        self.queues.iter().any(|name| name == queue)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Idle,
    /// Waits, since this number of arming.
    Armed(u64),
    /// Was told to claim, and has not armed since.
    Woken,
}

struct Watch {
    session: SessionId,
    sink: Arc<dyn Watcher>,
    ask: Option<Arc<Ask>>,
    standing: Standing,
}

#[derive(Default)]
struct Registry {
    next: u64,
    watches: BTreeMap<WatchId, Watch>,
    /// Armed watchers, oldest first.
    armed: BTreeMap<u64, WatchId>,
    of_session: BTreeMap<SessionId, Vec<WatchId>>,
    asks: BTreeSet<Arc<Ask>>,
    /// Watchers that were woken ahead of time.
    hints: hints::Hints,
    waits: BTreeMap<JobId, Vec<(WaitId, Done<()>)>>,
    waiting: BTreeMap<WaitId, JobId>,
    /// Somebody waits for a job that the state does not know: it came as a whole from another member, or history is not whole.
    sought: bool,
    stopped: Option<Error>,
}

/// Everybody who is told something when the state changes.
pub struct Wakeups {
    machine: Arc<RwLock<Machine>>,
    /// There is an archive, which tells what became of a job that left memory.
    history: bool,
    registry: Mutex<Registry>,
}

impl Wakeups {
    pub fn new(machine: Arc<RwLock<Machine>>, history: bool) -> Self {
        Self { machine, history, registry: Mutex::default() }
    }

    pub fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        let mut registry = self.registry.lock();
        let id = WatchId(registry.number());
        if registry.stopped.is_some() {
            drop(registry);
            sink.event(WatchEvent::NodeClosed);
            return id;
        }
        registry.watches.insert(id, Watch { session, sink, ask: None, standing: Standing::Idle });
        registry.of_session.entry(session).or_default().push(id);
        id
    }

    /// True: a claim could give something now. False: `Ready` will come when one could.
    pub fn arm(&self, id: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        let mut registry = self.registry.lock();
        registry.disarm(id);
        let Some(ask) = registry.intern(id, queues, functions) else { return false };
        let ready = ask.is_ready(&self.machine.read());
        let standing = if ready { Standing::Woken } else { Standing::Armed(registry.number()) };
        if let Standing::Armed(number) = standing {
            registry.armed.insert(number, id);
        }
        if let Some(watch) = registry.watches.get_mut(&id) {
            watch.standing = standing;
        }
        ready
    }

    pub fn disarm(&self, id: WatchId) {
        let mut registry = self.registry.lock();
        let calls = registry.pass_on(&[id], &self.machine);
        drop(registry);
        call(calls);
    }

    pub fn unwatch(&self, id: WatchId) {
        let mut registry = self.registry.lock();
        let calls = registry.pass_on(&[id], &self.machine);
        if let Some(watch) = registry.watches.remove(&id) {
            registry.forget_ask(watch.ask);
            let of_session = registry.of_session.entry(watch.session).or_default();
            of_session.retain(|other| *other != id);
            if of_session.is_empty() {
                registry.of_session.remove(&watch.session);
            }
        }
        drop(registry);
        call(calls);
    }

    /// Tells this event to whoever watches this session here. False: nobody does.
    pub fn push(&self, session: SessionId, event: WatchEvent) -> bool {
        let mut calls = Calls::new();
        self.registry.lock().tell(session, event, &mut calls);
        let found = !calls.is_empty();
        call(calls);
        found
    }

    /// Which session a watch is of.
    pub fn session_of(&self, id: WatchId) -> Option<SessionId> {
        self.registry.lock().watches.get(&id).map(|watch| watch.session)
    }

    /// Tells everybody what a turn did. Called after it was applied.
    pub fn dispatch(&self, effects: Effects) {
        let nothing = effects.ready.is_empty()
            && effects.finished.is_empty()
            && effects.cancels.is_empty()
            && effects.lost.is_empty()
            && effects.granted.is_empty()
            && effects.closed.is_empty();
        if nothing {
            return;
        }
        let mut registry = self.registry.lock();
        let finished = registry.take_waits(&effects.finished);
        let mut calls = Calls::new();
        for (session, job, token) in effects.cancels {
            registry.tell(session, WatchEvent::Cancel(job, token), &mut calls);
        }
        for (session, job, token) in effects.lost {
            registry.tell(session, WatchEvent::Lost(job, token), &mut calls);
        }
        for (session, number, token) in effects.granted {
            registry.tell(session, WatchEvent::Granted(number, token), &mut calls);
        }
        for session in effects.closed {
            registry.tell(session, WatchEvent::SessionClosed, &mut calls);
            let ended = registry.of_session.get(&session).cloned().unwrap_or_default();
            calls.extend(registry.pass_on(&ended, &self.machine));
        }
        if !registry.armed.is_empty() {
            let machine = self.machine.read();
            let hinted = registry.take_hinted(&effects.ready);
            for (queue, jobs) in merged(effects.ready) {
                registry.wake_for(&queue, jobs, &hinted, &machine, &mut calls);
            }
        }
        drop(registry);
        call(calls);
        self.answer(finished);
    }

    /// The whole state was replaced: whoever waits is looked at again, and every watcher looks for work itself. Sessions
    /// that are gone are found at their next sign of life. A job that the state does not know has ended and left memory, or
    /// was deleted: only history tells, see `sought`.
    pub fn restored(&self) {
        let mut registry = self.registry.lock();
        let machine = self.machine.read();
        registry.sought = self.history && registry.waits.keys().any(|id| machine.is_over(*id).is_none());
        let over = |id: &JobId| machine.is_over(*id).unwrap_or(!self.history);
        let over: Vec<JobId> = registry.waits.keys().copied().filter(over).collect();
        drop(machine);
        let finished = registry.take_waits(&over);
        registry.armed.clear();
        registry.hints.clear();
        let mut calls = Calls::new();
        for watch in registry.watches.values_mut() {
            // One that asks for no work waits for locks, and looks for those.
            if watch.ask.is_some() {
                watch.standing = Standing::Woken;
            }
            calls.push((watch.sink.clone(), WatchEvent::Ready));
        }
        drop(registry);
        call(calls);
        self.answer(finished);
    }

    /// Tells everybody that nothing more will come.
    pub fn stop(&self, why: &Error) {
        let mut registry = self.registry.lock();
        registry.stopped = Some(why.clone());
        registry.armed.clear();
        let watches = std::mem::take(&mut registry.watches);
        registry.of_session.clear();
        registry.asks.clear();
        registry.hints.clear();
        registry.waiting.clear();
        let waits = std::mem::take(&mut registry.waits);
        drop(registry);
        call(watches.into_values().map(|watch| (watch.sink, WatchEvent::NodeClosed)).collect());
        for (_, done) in waits.into_values().flatten() {
            done(Err(why.clone()));
        }
    }

    /// Watchers, those of them that are armed, and waits.
    pub fn figures(&self) -> (usize, usize, usize) {
        let registry = self.registry.lock();
        (registry.watches.len(), registry.armed.len(), registry.waiting.len())
    }
}

impl Registry {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The shared form of what a watcher asks for; nothing if there is no such watcher.
    fn intern(&mut self, id: WatchId, queues: &[&str], functions: &[&str]) -> Option<Arc<Ask>> {
        let watch = self.watches.get_mut(&id)?;
        if let Some(ask) = &watch.ask {
            if ask.queues == queues && ask.functions == functions {
                return Some(ask.clone());
            }
        }
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let ask = Ask { queues: owned(queues), functions: owned(functions) };
        let ask = self.asks.get(&ask).cloned().unwrap_or_else(|| Arc::new(ask));
        self.asks.insert(ask.clone());
        let before = watch.ask.replace(ask.clone());
        self.forget_ask(before);
        Some(ask)
    }

    fn forget_ask(&mut self, ask: Option<Arc<Ask>>) {
        // Two are left: the set's and this one.
        if let Some(ask) = ask.filter(|ask| Arc::strong_count(ask) <= 2) {
            self.asks.remove(&ask);
        }
    }

    /// Takes the watcher out of the line. True: it had been woken and did not come back since.
    fn disarm(&mut self, id: WatchId) -> bool {
        let Some(watch) = self.watches.get_mut(&id) else { return false };
        let standing = std::mem::replace(&mut watch.standing, Standing::Idle);
        if !has(Bug::HintStays) {
            self.hints.remove(&id);
        }
        if let Standing::Armed(number) = standing {
            self.armed.remove(&number);
        }
        standing == Standing::Woken
    }

    /// Disarms watchers and gives the wake-ups that they will not use to others.
    fn pass_on(&mut self, ids: &[WatchId], machine: &RwLock<Machine>) -> Calls {
        let mut calls = Calls::new();
        let unused = ids.iter().filter(|id| self.disarm(**id)).count();
        if unused > 0 && !self.armed.is_empty() {
            let machine = machine.read();
            self.wake(|ask| if ask.is_ready(&machine) { unused } else { 0 }, &mut calls);
        }
        calls
    }

    /// A queue got so many ready jobs: wakes as many watchers of each kind that could claim now, those included that were told
    /// of these jobs ahead.
    fn wake_for(
        &mut self,
        queue: &str,
        jobs: usize,
        hinted: &[(Arc<Ask>, Arc<str>)],
        machine: &Machine,
        calls: &mut Calls,
    ) {
        let told = |ask: &Arc<Ask>| hinted.iter().filter(|(of, at)| Arc::ptr_eq(of, ask) && **at == *queue).count();
        let count = |ask: &Arc<Ask>| match ask.asks_for(queue) && ask.is_ready(machine) {
            true => jobs.saturating_sub(told(ask)),
            false => 0,
        };
        self.wake(count, calls);
    }

    /// Wakes the oldest armed watchers of each kind, `count` of those that ask for this. Gives whom.
    fn wake(&mut self, count: impl Fn(&Arc<Ask>) -> usize, calls: &mut Calls) -> Vec<WatchId> {
        let mut left: Vec<(Arc<Ask>, usize)> = Vec::new();
        let mut woken = Vec::new();
        for (number, id) in &self.armed {
            let Some((watch, ask)) = self.watches.get(id).and_then(|watch| Some((watch, watch.ask.as_ref()?))) else {
                continue;
            };
            let place = left.iter().position(|(other, _)| Arc::ptr_eq(other, ask)).unwrap_or_else(|| {
                left.push((ask.clone(), count(ask)));
                left.len() - 1
            });
            if left[place].1 > 0 {
                left[place].1 -= 1;
                woken.push((*number, *id));
                calls.push((watch.sink.clone(), WatchEvent::Ready));
            }
            if left.len() == self.asks.len() && left.iter().all(|(_, left)| *left == 0) {
                break;
            }
        }
        for (number, id) in &woken {
            self.armed.remove(number);
            if let Some(watch) = self.watches.get_mut(id) {
                watch.standing = Standing::Woken;
            }
        }
        woken.into_iter().map(|(_, id)| id).collect()
    }

    fn tell(&self, session: SessionId, event: WatchEvent, calls: &mut Calls) {
        let ids = self.of_session.get(&session).into_iter().flatten();
        calls.extend(ids.filter_map(|id| Some((self.watches.get(id)?.sink.clone(), event))));
    }
}

/// One count for each queue: the entries of a turn each bring their own.
fn merged(ready: Vec<(LogIndex, Box<str>, usize)>) -> BTreeMap<Box<str>, usize> {
    let mut counts = BTreeMap::new();
    for (_, queue, jobs) in ready {
        *counts.entry(queue).or_insert(0) += jobs;
    }
    counts
}

fn call(calls: Calls) {
    for (sink, event) in calls {
        sink.event(event);
    }
}
