//! An owner that misbehaves on request: refuses, loses an answer, keeps it back. It checks each request.

use raftwork::attach::backend::Check;
use raftwork::attach::{Ask, Backend, Done, View, WaitId, WatchId, Watcher};
use raftwork::base::codec::Reader;
use raftwork::base::sync::Mutex;
use raftwork::base::time::SystemClock;
use raftwork::base::{limits, Error, JobId, LogIndex, Millis, Result, SessionId};
use raftwork::client::memory::Memory;
use raftwork::client::patience::{Patience, Slot};
use raftwork::client::request::{accepted, operation};
use raftwork::client::session::{Identity, Session};
use raftwork::node::repeated;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// What becomes of one request.
pub enum Act {
    /// It is not applied, and this is said.
    Refuse(Error),
    /// It is applied, and this is said instead of the answer.
    Lose(Error),
    /// It is applied, and nothing is said until `release`.
    Keep,
    /// Nothing is done until `release`, which applies it.
    Delay,
}

/// A request with a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub session: SessionId,
    pub sequence: u64,
    pub acked: u64,
    pub command: Vec<u8>,
}

type Held = Box<dyn FnOnce() + Send>;

/// An owner of a state.
pub struct Spy {
    inner: Arc<dyn Backend>,
    /// Acts for the next requests with these operations, each taken once.
    script: Mutex<VecDeque<(u64, Act)>>,
    sent: Mutex<Vec<Sent>>,
    /// By session, the sequences that were not answered yet.
    open: Arc<Mutex<BTreeMap<SessionId, BTreeSet<u64>>>>,
    held: Mutex<Vec<Held>>,
    /// For each accepted command, at which index it was applied.
    applied: Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<u64>>>>,
    /// How often the state has changed hands.
    owners: AtomicU64,
    /// So many signs of life are refused before one is taken, and how many came.
    pub deaf_to: AtomicU64,
    pub beats: AtomicU64,
    me: Weak<Spy>,
}

impl Spy {
    /// Over a state in memory, whose clock stands still.
    pub fn new() -> Arc<Self> {
        Self::over(Memory::open(true).unwrap())
    }

    pub fn over(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            inner,
            script: Mutex::default(),
            sent: Mutex::default(),
            open: Arc::default(),
            held: Mutex::default(),
            applied: Arc::default(),
            owners: AtomicU64::new(0),
            deaf_to: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            me: me.clone(),
        })
    }

    /// The next request with this operation meets this act.
    pub fn next(&self, operation: u64, act: Act) {
        self.script.lock().push_back((operation, act));
    }

    /// Lets go of one held request; false if there is none. `pick` chooses which.
    pub fn release(&self, pick: usize) -> bool {
        let mut held = self.held.lock();
        if held.is_empty() {
            return false;
        }
        let pick = pick % held.len();
        let one = held.swap_remove(pick);
        drop(held);
        one();
        true
    }

    /// Waits until so many requests are held.
    pub fn until_held(&self, count: usize) {
        let latest = Instant::now() + super::WAIT;
        while self.held.lock().len() < count {
            assert!(Instant::now() < latest, "{count} requests are held");
            std::thread::yield_now();
        }
    }

    /// The caller of every unanswered request has given up.
    pub fn callers_gave_up(&self) {
        self.open.lock().clear();
    }

    /// The state changes hands: what is held was asked of the last owner, and is asked again of the next.
    pub fn next_owner(&self) {
        self.owners.fetch_add(1, Ordering::SeqCst);
    }

    /// Requests with a number and this operation, in the order in which they came.
    pub fn sent(&self, of: u64) -> Vec<Sent> {
        let sent = self.sent.lock();
        sent.iter().filter(|sent| operation(&sent.command) == Ok(of)).cloned().collect()
    }

    /// How often a command took effect.
    pub fn applied(&self, command: &[u8]) -> usize {
        self.applied.lock().get(command).map_or(0, BTreeSet::len)
    }

    pub fn session(self: &Arc<Self>, kind: &str, reopens: bool) -> Arc<Session> {
        let identity =
            Identity { kind: kind.into(), ttl: Millis(60_000), host: "here".into(), pid: 1, labels: Vec::new() };
        Session::new(self.clone(), Arc::new(SystemClock), identity, reopens, Arc::default())
    }

    /// Sends commands that stay unanswered until no more fit, and one that has to wait: the channel of its answer.
    pub fn fill_the_window(&self, session: &Arc<Session>) -> Receiver<Result<Vec<u8>>> {
        for number in 0..limits::REPLIES_MAX as u64 / 2 {
            self.next(super::PAUSE, Act::Delay);
            session.start(super::pause(1_000_000 + number), Box::new(drop));
        }
        let waits = super::start(session, super::pause(0));
        assert_eq!(self.applied(&super::pause(0)), 0);
        waits
    }

    /// Notes a request, and checks what must hold for all of them.
    fn look_at(&self, request: &[u8]) -> (Sent, Option<Act>) {
        let mut reader = Reader::new(request);
        reader.array_of(4, "a request").unwrap();
        let (session, sequence, acked) =
            (SessionId(reader.u64().unwrap()), reader.u64().unwrap(), reader.u64().unwrap());
        let sent = Sent { session, sequence, acked, command: reader.raw().unwrap().to_vec() };
        if session != SessionId(0) {
            let mut all = self.sent.lock();
            let same = all.iter().find(|other| (other.session, other.sequence) == (session, sequence));
            assert!(same.is_none(), "sequence {sequence} of {session:?} is used again");
            let mut open = self.open.lock();
            let open = open.entry(session).or_default();
            open.insert(sequence);
            assert!(open.first().is_none_or(|&oldest| acked < oldest), "{acked} acknowledges what nobody answered");
            all.push(sent.clone());
        }
        let operation = operation(&sent.command).unwrap();
        let mut script = self.script.lock();
        let place = script.iter().position(|(of, _)| *of == operation);
        (sent, place.and_then(|place| script.remove(place)).map(|(_, act)| act))
    }

    fn apply(&self, request: Vec<u8>, command: &[u8], answer: Done<Vec<u8>>) {
        let applied = self.applied.clone();
        let command = command.to_vec();
        self.inner.start(
            request,
            Box::new(move |reply| {
                if let Ok(Ok((index, _))) = reply.as_ref().map(|reply| accepted(reply)) {
                    applied.lock().entry(command).or_default().insert(index);
                }
                answer(reply);
            }),
        );
    }
}

impl Backend for Spy {
    fn submit(&self, request: Vec<u8>, deadline: Option<Instant>, check: Check<'_>) -> Result<Vec<u8>> {
        let slot = Slot::new();
        self.start(request, slot.filler());
        slot.wait(&mut Patience { deadline, check: Some(check) })
    }

    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        let (sent, act) = self.look_at(&request);
        let (open, session, sequence) = (self.open.clone(), sent.session, sent.sequence);
        let answer: Done<Vec<u8>> = Box::new(move |reply| {
            open.lock().get_mut(&session).map(|open| open.remove(&sequence));
            done(reply);
        });
        let command = sent.command;
        match act {
            None => self.apply(request, &command, answer),
            Some(Act::Refuse(error)) => answer(Err(error)),
            Some(Act::Lose(error)) => self.apply(request, &command, Box::new(move |_| answer(Err(error)))),
            Some(Act::Keep) => {
                let me = self.me.clone();
                let keep = move |reply| {
                    if let Some(spy) = me.upgrade() {
                        spy.held.lock().push(Box::new(move || answer(reply)));
                    }
                };
                self.apply(request, &command, Box::new(keep));
            }
            Some(Act::Delay) => {
                let me = self.me.upgrade().unwrap();
                let owner = self.owners.load(Ordering::SeqCst);
                self.held.lock().push(Box::new(move || {
                    let same = me.owners.load(Ordering::SeqCst) == owner;
                    let again: Done<Vec<u8>> =
                        Box::new(move |reply| answer(if same { reply } else { repeated(reply) }));
                    me.apply(request, &command, again);
                }));
            }
        }
    }

    fn view(&self, view: View, done: Done<Vec<u8>>) {
        self.inner.view(view, done);
    }

    fn fresh(&self, done: Done<LogIndex>) {
        self.inner.fresh(done);
    }

    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId {
        self.inner.wait_finished(job, done)
    }

    fn forget_wait(&self, wait: WaitId) {
        self.inner.forget_wait(wait);
    }

    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        self.inner.watch(session, sink)
    }

    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        self.inner.arm(watch, queues, functions)
    }

    fn disarm(&self, watch: WatchId) {
        self.inner.disarm(watch);
    }

    fn unwatch(&self, watch: WatchId) {
        self.inner.unwatch(watch);
    }

    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>) {
        self.inner.told_lines(watch, ask, answer);
    }

    fn heartbeat(&self, session: SessionId, done: Done<()>) {
        if self.beats.fetch_add(1, Ordering::Relaxed) < self.deaf_to.load(Ordering::Relaxed) {
            return done(Err(Error::NotCommitted("no leader is known".into())));
        }
        self.inner.heartbeat(session, done);
    }

    fn hold(&self, session: SessionId) {
        self.inner.hold(session);
    }

    fn release_hold(&self, session: SessionId) {
        self.inner.release_hold(session);
    }

    fn lapse(&self, session: SessionId) {
        self.inner.lapse(session);
    }

    fn is_local(&self) -> bool {
        true
    }

    fn health(&self) -> Result<Vec<u8>> {
        self.inner.health()
    }
}
