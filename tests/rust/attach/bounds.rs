//! Clients that flood their node: what one connection may have at a time, and how much one name may say in a second.

use super::{ask, attach, beat, enqueue, greeting, is_hung_up_on, open_session, watch, WAIT};
use raftwork::attach::backend::Check;
use raftwork::attach::message::{decode_reply, Greeting};
use raftwork::attach::remote::{Question, Remote, FAR_GREETING_WAIT};
use raftwork::attach::server::Server;
use raftwork::attach::wire::{encode, Kind};
use raftwork::attach::{Ask, Backend, Done, View, WaitId, WatchEvent, WatchId, Watcher};
use raftwork::base::{limits, Error, JobId, LogIndex, Result, SessionId};
use raftwork::client::memory::Memory;
use raftwork::net::{Address, Admit, Frames, ListenerConfig, Role, Secret, Security};
use raftwork::node::access::Principal;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use crate::ports::free_addresses;

/// Requests a second of one client.
const RATE: u64 = 1_000;

/// A state in memory that can keep its answers back, and knows any token for one client's until all are revoked.
pub struct Held {
    memory: Arc<Memory>,
    /// Answers that are kept back, while there are any.
    kept: Mutex<Option<Vec<Done<Vec<u8>>>>>,
    pub revoked: AtomicBool,
    /// How often somebody showed a token.
    pub shown: AtomicUsize,
}

impl Held {
    fn keep(&self, done: Done<Vec<u8>>) -> Option<Done<Vec<u8>>> {
        match &mut *self.kept.lock().unwrap() {
            Some(kept) => {
                kept.push(done);
                None
            }
            None => Some(done),
        }
    }

    fn release(&self) {
        let kept = self.kept.lock().unwrap().take();
        kept.into_iter().flatten().for_each(|done| done(Ok(vec![0xc0])));
    }
}

impl Backend for Held {
    fn submit(&self, request: Vec<u8>, deadline: Option<Instant>, check: Check<'_>) -> Result<Vec<u8>> {
        self.memory.submit(request, deadline, check)
    }
    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        self.memory.start(request, done);
    }
    fn view(&self, view: View, done: Done<Vec<u8>>) {
        self.keep(done).into_iter().for_each(|done| self.memory.view(view.clone(), done));
    }
    fn order(&self, _actor: &str, _order: Vec<u8>, done: Done<Vec<u8>>) {
        self.keep(done).into_iter().for_each(|done| done(Ok(vec![0xc0])));
    }
    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId {
        self.memory.wait_finished(job, done)
    }
    fn forget_wait(&self, wait: WaitId) {
        self.memory.forget_wait(wait);
    }
    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        self.memory.watch(session, sink)
    }
    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        self.memory.arm(watch, queues, functions)
    }
    fn disarm(&self, watch: WatchId) {
        self.memory.disarm(watch);
    }
    fn unwatch(&self, watch: WatchId) {
        self.memory.unwatch(watch);
    }
    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>) {
        self.memory.told_lines(watch, ask, answer);
    }
    fn heartbeat(&self, session: SessionId, done: Done<()>) {
        self.memory.heartbeat(session, done);
    }
    fn hold(&self, session: SessionId) {
        self.memory.hold(session);
    }
    fn release_hold(&self, session: SessionId) {
        self.memory.release_hold(session);
    }
    fn lapse(&self, session: SessionId) {
        self.memory.lapse(session);
    }
    fn is_local(&self) -> bool {
        true
    }
    fn health(&self) -> Result<Vec<u8>> {
        self.memory.health()
    }
    fn fresh(&self, done: Done<LogIndex>) {
        self.memory.fresh(done);
    }
    fn principal(&self, _digest: &[u8; 32]) -> Option<Principal> {
        self.shown.fetch_add(1, Ordering::SeqCst);
        let known = !self.revoked.load(Ordering::SeqCst);
        known.then(|| Principal::certified(&Role::client("flood").unwrap()))
    }
}

pub struct Owner {
    dir: TempDir,
    pub held: Arc<Held>,
    pub server: Server,
}

pub fn owner() -> Owner {
    let dir = tempfile::tempdir().unwrap();
    let held = Arc::new(Held {
        memory: Memory::open(true).unwrap(),
        kept: Mutex::new(None),
        revoked: AtomicBool::new(false),
        shown: AtomicUsize::new(0),
    });
    let server = Server::start(dir.path(), held.clone(), greeting()).unwrap();
    Owner { dir, held, server }
}

impl Owner {
    /// Serves a client over the network too, who is held to the rate.
    pub fn listen(&self) -> Address {
        self.listen_with(Security::Plain)
    }

    pub fn listen_with(&self, security: Security) -> Address {
        let address = free_addresses(1).remove(0);
        let config = ListenerConfig::new("the test", address.clone(), security, Admit::ANYBODY);
        self.server.listen(config, RATE).unwrap();
        address
    }
}

fn far(address: &Address) -> Arc<Remote> {
    let hello = Greeting { token: Some(Secret::create().unwrap()), ..greeting() };
    Remote::connect_far(address, &Security::Plain, hello, FAR_GREETING_WAIT, || ()).unwrap()
}

/// Asks what costs nothing.
fn level() -> View {
    View::of_any(&[0x91, 10])
}

#[test]
fn a4_questions_and_orders_without_an_answer_are_bounded_for_each_connection() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    let order = |done| Question::Order(vec![0x91, 1], done);
    for (most, question) in [
        (limits::ATTACHED_REQUESTS_MAX, Box::new(|done| Question::View(level(), done)) as Box<dyn Fn(_) -> Question>),
        (limits::ORDERS_MAX, Box::new(order)),
    ] {
        *owner.held.kept.lock().unwrap() = Some(Vec::new());
        for _ in 0..most {
            remote.ask(question(Box::new(drop)));
        }
        let refused = ask(&remote, &question);
        assert!(matches!(&refused, Err(Error::Overloaded(why)) if why.contains(&most.to_string())), "{refused:?}");
        owner.held.release();
        ask(&remote, &question).expect("there is room again");
    }
}

#[test]
fn a4_watches_of_one_connection_are_bounded_and_the_one_too_many_is_told() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    let session = open_session(&remote);
    let mut watches: Vec<_> = (0..limits::WATCHES_MAX).map(|_| watch(&remote, session)).collect();
    let (_, refused) = watch(&remote, session);
    assert_eq!(refused.recv_timeout(WAIT), Ok(WatchEvent::Refused));
    let (one, _) = watches.pop().unwrap();
    remote.unwatch(one);
    let (again, events) = watch(&remote, session);
    remote.arm(again, &["q"], &["f"]);
    beat(&remote, session).unwrap(); // What was sent before it has arrived.
    enqueue(&remote, JobId([1; 16]));
    assert_eq!(events.recv_timeout(WAIT), Ok(WatchEvent::Ready), "there is room again");
}

#[test]
fn a4_what_a_connection_waits_for_is_bounded_and_the_watch_too_many_is_told() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    let session = open_session(&remote);
    let names: Vec<String> = (0..20_000).map(|number| format!("{number:0>255}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let watches: Vec<_> = (0..4).map(|_| watch(&remote, session)).collect();
    watches.iter().for_each(|(watch, _)| remote.arm(*watch, &["q"], &names));
    assert_eq!(watches[3].1.recv_timeout(WAIT), Ok(WatchEvent::Refused));
    assert!(watches[..3].iter().all(|(_, events)| events.try_recv().is_err()));
}

#[test]
fn a4_a_number_of_a_watch_or_of_a_wait_is_good_once() {
    let owner = owner();
    let hello = encode(Kind::Hello, 0, &greeting().encode()).unwrap();
    for (kind, payload) in [(Kind::Watch, &[7, 0, 0, 0, 0, 0, 0, 0][..]), (Kind::Wait, &[7; 16])] {
        let frame = encode(kind, 3, payload).unwrap();
        let (remote, _ended) = attach(owner.dir.path());
        enqueue(&remote, JobId([7; 16]));
        is_hung_up_on(owner.dir.path(), &[&hello[..], &frame, &frame].concat());
    }
}

#[test]
fn a4_a_flood_of_signs_of_life_is_refused_and_those_of_a_worker_are_not() {
    let owner = owner();
    let address = owner.listen();
    let (flood, worker) = (far(&address), far(&address));
    let session = open_session(&worker);
    beat(&worker, session).unwrap();
    let (send, answers) = channel();
    let (count, began) = (20 * RATE as usize, Instant::now());
    for _ in 0..count {
        let send = send.clone();
        // A session that there is not, so that it is nobody's own.
        flood.ask(Question::Heartbeat(SessionId(999), Box::new(move |lives| drop(send.send(lives)))));
    }
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let (mut refused, mut heard) = (0, 0);
    while heard < count {
        assert!(began.elapsed() < 3 * WAIT, "{heard} of {count} are answered");
        // Of the same name, whose rate is spent; it says so more often than it should.
        if beat(&worker, session).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        for answer in answers.try_iter() {
            heard += 1;
            refused += usize::from(matches!(answer, Err(Error::Overloaded(why)) if why.contains("client_rate")));
        }
    }
    let most = RATE as f64 * (2.0 + began.elapsed().as_secs_f64()) + 1.0;
    assert!((count - refused) as f64 <= most, "{refused} of {count} refused in {:?}", began.elapsed());
    assert!(longest.as_millis() < limits::SESSION_TTL_MS.into(), "its session would have lapsed: {longest:?}");
}

#[test]
fn a4_who_says_too_much_that_nobody_answers_is_heard_later_and_loses_nothing() {
    let owner = owner();
    let address = owner.listen();
    let mut stream = TcpStream::connect(address.to_string()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let hello = Greeting { token: Some(Secret::create().unwrap()), ..greeting() };
    stream.write_all(&encode(Kind::Hello, 0, &hello.encode()).unwrap()).unwrap();
    let said: Vec<u8> = (0..4 * RATE).flat_map(|_| encode(Kind::Disarm, 1, &[]).unwrap()).collect();
    let began = Instant::now();
    let question = encode(Kind::View, 2, &level().encode()).unwrap();
    let before = encode(Kind::View, 3, &level().encode()).unwrap();
    stream.write_all(&[&before[..], &said, &question].concat()).unwrap();
    // Others are heard at once meanwhile, and so is what it asked before.
    let other = open_session(&attach(owner.dir.path()).0);
    assert!(other.0 > 0);
    let mut frames = Frames::new();
    let mut next = || {
        let mut socket = &stream;
        loop {
            match frames.take().unwrap() {
                Some(frame) => return frame,
                None => assert!(frames.fill(&mut socket).unwrap(), "it ended"),
            }
        }
    };
    assert_eq!(next().kind, Kind::Welcome as u8);
    assert_eq!(next().id, 3);
    let answer = next();
    assert_eq!(answer.id, 2);
    decode_reply(&answer.payload).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1_500), "heard after {:?}", began.elapsed());
}
