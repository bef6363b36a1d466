//! The owner's side of one attached process: reads its frames, sends its answers and events.
//!
//! When the process ends, so do its sessions: the leases that it holds are crashed at once, not after their time to live.

use super::backend::{Backend, WaitId, WatchEvent, WatchId, Watcher};
use super::message::{self, Greeting};
use super::place::Other;
use super::wire::{self, Kind};
use crate::base::codec::Reader;
use crate::base::{limits, Error, Result, SessionId};
use crate::net::{Accepted, Certified, Frame, Frames, Outgoing, Role, Stream};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Watches, and waits, of one process.
const REGISTERED_MAX: usize = limits::INBOX_REQUESTS_MAX;
/// Operations that only the node itself may write: expire, tick, evict, and what is about the cluster: members, digests,
/// feature level.
const OWN_OPERATIONS: [u64; 7] = [3, 13, 14, 16, 17, 18, 19];

/// The client whose certificate lets it change the cluster.
const OPERATOR: &str = "admin";

/// One attached process.
pub struct Peer {
    backend: Arc<dyn Backend>,
    outgoing: Arc<Outgoing>,
    /// The owner closes: errors are not answers any more, the next owner gives them.
    closing: Arc<AtomicBool>,
    /// Whether it may change the cluster.
    gives_orders: bool,
    requests: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: BTreeSet<SessionId>,
    watches: BTreeMap<u64, WatchId>,
    /// Nothing until the backend has named the wait.
    waits: BTreeMap<u64, Option<WaitId>>,
}

impl Peer {
    /// `identity`: whom its certificate names, if it has one.
    pub fn new(
        backend: Arc<dyn Backend>,
        outgoing: Arc<Outgoing>,
        closing: Arc<AtomicBool>,
        identity: Option<&Certified>,
    ) -> Arc<Self> {
        let gives_orders = identity.is_none_or(|identity| match &identity.role {
            Role::Node => true,
            Role::Client(name) => name == OPERATOR,
        });
        let (requests, state) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { backend, outgoing, closing, gives_orders, requests, state })
    }

    /// Ends the connection; the reading thread cleans up.
    pub fn end(&self) {
        self.outgoing.end();
    }

    /// The life of a connection over the socket of the directory.
    pub fn serve(self: &Arc<Self>, stream: &Stream, own: &Greeting) {
        let mut frames = Frames::new();
        let greeted = Other::of(stream).and_then(|other| {
            let hello = next(&mut frames, stream, &other)?.ok_or(Error::Closed)?;
            self.welcome(&hello, own).map(|_| other)
        });
        self.serve_greeted(greeted, stream, frames);
    }

    /// The life of a connection over the network, whose first frame was read.
    pub fn serve_far(self: &Arc<Self>, accepted: Accepted, own: &Greeting) {
        let Accepted { stream, frames, hello, peer, .. } = accepted;
        let greeted = self.welcome(&hello, own).map(|theirs| match peer.ip().to_canonical().is_loopback() {
            true => Other::far_on_this_machine(theirs.pid),
            false => Other::far(),
        });
        self.serve_greeted(greeted, &stream, frames);
    }

    fn serve_greeted(self: &Arc<Self>, greeted: Result<Other>, stream: &Stream, frames: Frames) {
        let ended = match greeted {
            Ok(other) => self.read(stream, frames, &other).map(|()| other.has_ended()).inspect_err(|_| {
                self.outgoing.end();
            }),
            Err(error) => {
                self.say(Kind::Refused, 0, &message::encode_error(&error));
                Err(error)
            }
        };
        self.outgoing.end();
        self.clean_up(*ended.as_ref().unwrap_or(&false));
        if let Err(error) = ended {
            log::warn!("an attached process was cut off: {error}");
        }
    }

    fn welcome(&self, hello: &Frame, own: &Greeting) -> Result<Greeting> {
        let theirs = self::hello(hello)?;
        theirs.check(own)?;
        let own = Greeting { leader: self.backend.leader_address(), ..own.clone() };
        self.say(Kind::Welcome, 0, &own.encode());
        Ok(theirs)
    }

    fn read(self: &Arc<Self>, stream: &Stream, mut frames: Frames, other: &Other) -> Result<()> {
        while let Some(frame) = next(&mut frames, stream, other)? {
            self.handle(frame)?;
        }
        Ok(())
    }

    fn handle(self: &Arc<Self>, frame: Frame) -> Result<()> {
        let kind = Kind::of(&frame)?;
        let (id, payload) = (frame.id, frame.payload);
        match kind {
            Kind::Submit => self.submit(id, payload),
            Kind::View => self.reply(id, self.backend.view(&payload)),
            Kind::Health => self.reply(id, self.backend.health()),
            Kind::Fresh => {
                let peer = self.clone();
                self.backend.fresh(Box::new(move |done| peer.reply(id, done.map(|()| Vec::new()))));
            }
            Kind::Order => self.order(id, payload),
            Kind::Wait => self.wait(id, &payload)?,
            Kind::ForgetWait => {
                let wait = self.state.lock().waits.remove(&id).flatten();
                if let Some(wait) = wait {
                    self.backend.forget_wait(wait);
                }
            }
            Kind::Watch => self.watch(id, &payload)?,
            Kind::Unwatch => {
                let watch = self.state.lock().watches.remove(&id);
                if let Some(watch) = watch {
                    self.backend.unwatch(watch);
                }
            }
            Kind::Arm => self.arm(id, &payload)?,
            Kind::Disarm => {
                let watch = self.state.lock().watches.get(&id).copied();
                if let Some(watch) = watch {
                    self.backend.disarm(watch);
                }
            }
            Kind::Heartbeat => {
                let session = message::decode_session(&payload)?;
                let peer = self.clone();
                let done = move |lives: Result<()>| {
                    if lives.is_ok() {
                        peer.state.lock().sessions.insert(session);
                    }
                    peer.reply(id, lives.map(|()| Vec::new()));
                };
                self.backend.heartbeat(session, Box::new(done));
            }
            kind => return Err(Error::Invalid(format!("{kind:?} from an attached process"))),
        }
        Ok(())
    }

    fn submit(self: &Arc<Self>, id: u64, request: Vec<u8>) {
        match operation(&request) {
            Ok(operation) if OWN_OPERATIONS.contains(&operation) => {
                return self.reply(id, Err(Error::Invalid(format!("operation {operation} is the node's own"))));
            }
            Ok(_) => {}
            Err(error) => return self.reply(id, Err(error)),
        }
        if self.requests.fetch_add(1, Ordering::Relaxed) >= limits::ATTACHED_REQUESTS_MAX {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            let error = format!("{} requests of this process are unanswered", limits::ATTACHED_REQUESTS_MAX);
            return self.reply(id, Err(Error::Overloaded(error)));
        }
        let peer = self.clone();
        let done = move |answer| {
            peer.requests.fetch_sub(1, Ordering::Relaxed);
            peer.reply(id, answer);
        };
        self.backend.start(request, Box::new(done));
    }

    fn order(self: &Arc<Self>, id: u64, order: Vec<u8>) {
        if !self.gives_orders {
            let why = "this certificate is a client's; orders to the cluster need one of a node, or of client/admin";
            return self.reply(id, Err(Error::Foreign(why.into())));
        }
        let peer = self.clone();
        self.backend.order(order, Box::new(move |answer| peer.reply(id, answer)));
    }

    fn wait(self: &Arc<Self>, id: u64, payload: &[u8]) -> Result<()> {
        let job = message::decode_job(payload)?;
        let mut state = self.state.lock();
        if state.waits.len() >= REGISTERED_MAX {
            drop(state);
            self.reply(id, Err(Error::Overloaded(format!("{REGISTERED_MAX} waits of this process"))));
            return Ok(());
        }
        state.waits.insert(id, None);
        drop(state);
        let peer = self.clone();
        let done = move |end: Result<()>| {
            peer.state.lock().waits.remove(&id);
            peer.reply(id, end.map(|()| Vec::new()));
        };
        let wait = self.backend.wait_finished(job, Box::new(done));
        if let Some(entry) = self.state.lock().waits.get_mut(&id) {
            *entry = Some(wait);
        }
        Ok(())
    }

    fn watch(self: &Arc<Self>, id: u64, payload: &[u8]) -> Result<()> {
        let session = message::decode_session(payload)?;
        if self.state.lock().watches.len() >= REGISTERED_MAX {
            return Err(Error::Overloaded(format!("{REGISTERED_MAX} watches of one process")));
        }
        let sink = Arc::new(Sink { peer: Arc::downgrade(self), id });
        let watch = self.backend.watch(session, sink);
        self.state.lock().watches.insert(id, watch);
        Ok(())
    }

    fn arm(&self, id: u64, payload: &[u8]) -> Result<()> {
        let (queues, functions) = message::decode_ask(payload)?;
        let watch = self.state.lock().watches.get(&id).copied();
        if watch.is_some_and(|watch| self.backend.arm(watch, &queues, &functions)) {
            self.say(Kind::Event, id, &message::encode_event(WatchEvent::Ready));
        }
        Ok(())
    }

    /// An answer. The end of this owner is none: the process asks the next one.
    fn reply(&self, id: u64, answer: Result<Vec<u8>>) {
        match &answer {
            Err(Error::Closed | Error::Poisoned(_)) => self.outgoing.end(),
            Err(_) if self.closing.load(Ordering::Acquire) || self.backend.lets_repeat() => self.outgoing.end(),
            _ => self.say(Kind::Reply, id, &message::encode_reply(&answer)),
        }
    }

    fn say(&self, kind: Kind, id: u64, payload: &[u8]) {
        match wire::encode(kind, id, payload) {
            Ok(frame) => self.outgoing.send(frame),
            Err(error) => {
                let error = message::encode_reply(&Err(error));
                let frame = wire::encode(Kind::Reply, id, &error).expect("an error fits a frame");
                self.outgoing.send(frame);
            }
        }
    }

    /// `ended`: so has the process, and with it its sessions.
    fn clean_up(&self, ended: bool) {
        let State { sessions, watches, waits } = std::mem::take(&mut *self.state.lock());
        watches.into_values().for_each(|watch| self.backend.unwatch(watch));
        waits.into_values().flatten().for_each(|wait| self.backend.forget_wait(wait));
        if ended && !self.closing.load(Ordering::Acquire) {
            sessions.into_iter().for_each(|session| self.backend.lapse(session));
        }
    }
}

/// Sends the events of one watch.
struct Sink {
    peer: Weak<Peer>,
    id: u64,
}

impl Watcher for Sink {
    fn event(&self, event: WatchEvent) {
        if let Some(peer) = self.peer.upgrade() {
            peer.say(Kind::Event, self.id, &message::encode_event(event));
        }
    }
}

/// The next frame; nothing at the end of the stream, or of the process at its other end.
fn next(frames: &mut Frames, mut stream: &Stream, other: &Other) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(Some(frame));
        }
        if !other.wait_readable(stream, None)? || !frames.fill(&mut stream)? {
            return Ok(None);
        }
    }
}

fn hello(frame: &Frame) -> Result<Greeting> {
    match Kind::of(frame)? {
        Kind::Hello => Greeting::decode(&frame.payload),
        kind => Err(Error::Invalid(format!("{kind:?} before any greeting"))),
    }
}

/// The operation inside a request `[session, sequence, acked, [operation, ...]]`.
fn operation(request: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(request);
    reader.array_of(4, "a request")?;
    for _ in 0..3 {
        reader.u64()?;
    }
    reader.array()?;
    reader.u64()
}
