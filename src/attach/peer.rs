//! The owner's side of one attached process: reads its frames, sends its answers and events.
//!
//! When the process ends, so do its sessions: the leases that it holds are crashed at once, not after their time to live.

use super::backend::{Backend, Done, View, WatchEvent, Watcher};
use super::door;
use super::message::{self, Greeting};
use super::place::Other;
use super::quota::{Quota, Quotas};
use super::registered::{Registered, Unanswered};
use super::wire::{self, Kind};
use crate::base::codec::Reader;
use crate::base::sync::Mutex;
use crate::base::{limits, Error, Result, SessionId};
use crate::net::{Accepted, Frame, Frames, Outgoing, Stream};
use crate::node::access::{Capability, Principal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Between two looks whether a client that says too much may say more.
const HELD_BACK: Duration = Duration::from_millis(20);
/// Operations that only the node itself may write, whoever asks: expire, tick, evict, restore, and what is about the cluster:
/// members, digests, feature level, tokens, invitations and notes.
const OWN_OPERATIONS: [u64; 13] = [3, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24];

/// One attached process.
pub struct Peer {
    backend: Arc<dyn Backend>,
    outgoing: Arc<Outgoing>,
    /// The owner closes: errors are not answers any more, the next owner gives them.
    closing: Arc<AtomicBool>,
    /// Who it is, once that is known.
    principal: OnceLock<Principal>,
    /// What it may ask for in a second, if there is a bound.
    quota: OnceLock<Arc<Quota>>,
    /// It said too much, which was told.
    held_back: AtomicBool,
    requests: Unanswered,
    questions: Unanswered,
    orders: Unanswered,
    registered: Mutex<Registered>,
}

impl Peer {
    pub fn new(backend: Arc<dyn Backend>, outgoing: Arc<Outgoing>, closing: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            backend,
            outgoing,
            closing,
            principal: OnceLock::new(),
            quota: OnceLock::new(),
            held_back: AtomicBool::new(false),
            requests: Unanswered::default(),
            questions: Unanswered::default(),
            orders: Unanswered::default(),
            registered: Mutex::default(),
        })
    }

    /// Who it is. Nobody before its first words.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.get()
    }

    /// Ends the connection; the reading thread cleans up.
    pub fn end(&self) {
        self.outgoing.end();
    }

    /// The life of a connection over the socket of the directory.
    pub fn serve(self: &Arc<Self>, stream: &Stream, own: &Greeting) {
        let mut frames = Frames::new();
        let greeted = Other::of(stream).and_then(|other| {
            let theirs = self::hello(&next(&mut frames, stream, &other)?.ok_or(Error::Closed)?)?;
            // Its user was checked.
            self.welcome(&theirs, own, Principal::trusted("local")).map(|()| other)
        });
        self.serve_greeted(greeted, stream, frames);
    }

    /// The life of a connection over the network, whose first frame was read.
    pub fn serve_far(self: &Arc<Self>, accepted: Accepted, own: &Greeting, quotas: &Quotas) {
        if accepted.protected && matches!(Kind::of(&accepted.hello), Ok(Kind::Enroll)) {
            return self.enroll(&accepted);
        }
        let greeted = self::hello(&accepted.hello).and_then(|theirs| {
            let principal = door::identify(&*self.backend, &accepted, &theirs)?;
            accepted.admit()?;
            if !principal.is_trusted() {
                // Greeted once.
                let _ = self.quota.set(quotas.of(principal.name()));
            }
            self.welcome(&theirs, own, principal)?;
            Ok(match accepted.peer.ip().to_canonical().is_loopback() {
                true => Other::far_on_this_machine(theirs.pid),
                false => Other::far(),
            })
        });
        let Accepted { stream, frames, .. } = accepted;
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

    /// The life of a connection that asks for a certificate.
    fn enroll(&self, accepted: &Accepted) {
        match self.backend.enroll(&accepted.hello.payload) {
            Ok(answer) => self.say(Kind::Enrolled, 0, &answer),
            Err(error) => {
                log::warn!("{} was not given a certificate: {error}", accepted.peer);
                self.say(Kind::Refused, 0, &message::encode_error(&error));
            }
        }
        self.outgoing.end();
    }

    fn welcome(&self, theirs: &Greeting, own: &Greeting, principal: Principal) -> Result<()> {
        theirs.check(own)?;
        // Greeted once.
        let _ = self.principal.set(principal);
        let own = Greeting { leader: self.backend.leader_address(), ..own.clone() };
        self.say(Kind::Welcome, 0, &own.encode());
        Ok(())
    }

    fn read(self: &Arc<Self>, stream: &Stream, mut frames: Frames, other: &Other) -> Result<()> {
        let called = CallOnDrop(&*self.backend);
        loop {
            while let Some(frame) = frames.take()? {
                self.handle(frame)?;
            }
            called.0.call();
            if !more(&mut frames, stream, other)? {
                return Ok(());
            }
        }
    }

    fn handle(self: &Arc<Self>, frame: Frame) -> Result<()> {
        let kind = Kind::of(&frame)?;
        let (id, payload) = (frame.id, frame.payload);
        self.hold_back(kind, payload.len())?;
        if let Err(refused) = self.admit(kind, &payload) {
            self.reply(id, Err(refused));
            return Ok(());
        }
        match kind {
            Kind::Submit => self.submit(id, payload),
            Kind::View => self.view(id, &payload),
            Kind::Health => self.reply(id, self.backend.health()),
            Kind::Metrics => self.reply(id, self.backend.metrics()),
            Kind::Fresh => self.fresh(id),
            Kind::Order => self.order(id, payload)?,
            Kind::Wait => self.wait(id, &payload)?,
            Kind::ForgetWait => {
                let wait = self.registered.lock().end_wait(id);
                if let Some(wait) = wait {
                    self.backend.forget_wait(wait);
                }
            }
            Kind::Watch => self.watch(id, &payload)?,
            Kind::Unwatch => {
                let watch = self.registered.lock().end_watch(id);
                if let Some(watch) = watch {
                    self.backend.unwatch(watch);
                }
            }
            Kind::Arm => self.arm(id, &payload)?,
            Kind::Disarm => {
                let watch = self.registered.lock().watch_of(id);
                if let Some(watch) = watch {
                    self.backend.disarm(watch);
                }
            }
            Kind::Lines => {
                let watch = self.registered.lock().watch_of(id);
                if let Some(watch) = watch {
                    let (ask, answer) = message::decode_lines(&payload)?;
                    self.backend.told_lines(watch, ask, answer);
                }
            }
            Kind::Heartbeat => {
                let session = message::decode_session(&payload)?;
                let peer = self.clone();
                let done = move |lives: Result<()>| {
                    if lives.is_ok() {
                        peer.registered.lock().lives(session, Instant::now());
                    }
                    peer.reply(id, lives.map(|()| Vec::new()));
                };
                self.backend.heartbeat(session, Box::new(done));
            }
            kind => return Err(Error::Invalid(format!("{kind:?} from an attached process"))),
        }
        Ok(())
    }

    fn view(self: &Arc<Self>, id: u64, payload: &[u8]) {
        let view = View::decode(payload);
        match view
            .and_then(|view| self.questions.begin("unanswered questions", limits::ATTACHED_REQUESTS_MAX).map(|()| view))
        {
            Ok(view) => self.backend.view(view, self.answering(id, |peer| &peer.questions)),
            Err(error) => self.reply(id, Err(error)),
        }
    }

    fn fresh(self: &Arc<Self>, id: u64) {
        match self.questions.begin("unanswered questions", limits::ATTACHED_REQUESTS_MAX) {
            Ok(()) => {
                let answer = self.answering(id, |peer| &peer.questions);
                self.backend.fresh(Box::new(move |done| answer(done.map(|upto| upto.0.to_le_bytes().to_vec()))));
            }
            Err(error) => self.reply(id, Err(error)),
        }
    }

    fn order(self: &Arc<Self>, id: u64, order: Vec<u8>) -> Result<()> {
        match self.orders.begin("unanswered orders", limits::ORDERS_MAX) {
            Ok(()) => self.backend.order(self.who()?.name(), order, self.answering(id, |peer| &peer.orders)),
            Err(error) => self.reply(id, Err(error)),
        }
        Ok(())
    }

    /// Answers, and counts one less of these without an answer.
    fn answering(self: &Arc<Self>, id: u64, of: fn(&Self) -> &Unanswered) -> Done<Vec<u8>> {
        let peer = self.clone();
        Box::new(move |answer| {
            of(&peer).end();
            peer.reply(id, answer);
        })
    }

    /// Hears what nobody answers no faster than this client may say it: what it says beyond waits in the socket.
    fn hold_back(&self, kind: Kind, bytes: usize) -> Result<()> {
        let Some(quota) = self.quota.get().filter(|_| door::is_heard(kind)) else { return Ok(()) };
        if quota.pay_to_say(bytes).is_ok() {
            return Ok(());
        }
        if !self.held_back.swap(true, Ordering::Relaxed) {
            let (name, rate) = (self.who()?.name(), quota.said_rate());
            log::warn!("{name} says more than {rate} things a second (client_rate), and is heard so much later");
        }
        // What it asked for before does not wait with it.
        self.backend.call();
        while quota.pay_to_say(bytes).is_err() {
            if self.outgoing.wait_ended(HELD_BACK) {
                return Err(Error::Closed);
            }
        }
        Ok(())
    }

    /// Refuses a frame that this client may not send, or not now.
    fn admit(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        if let Some(quota) = self.quota.get().filter(|_| door::is_answered(kind)) {
            quota.pay(payload.len())?;
        }
        if let Some(capability) = door::needed(kind, payload) {
            self.who()?.must(&capability)?;
        }
        match (kind, message::decode_session(payload)) {
            (Kind::Heartbeat, Ok(session)) => self.admit_beat(session),
            _ => Ok(()),
        }
    }

    fn admit_beat(&self, session: SessionId) -> Result<()> {
        if let Some(quota) = self.quota.get() {
            let free = self.registered.lock().beats_freely(session, Instant::now());
            if !free {
                quota.pay_to_say(0)?;
            }
        }
        self.backend.check_session(self.who()?, session)
    }

    fn submit(self: &Arc<Self>, id: u64, request: Vec<u8>) {
        match operation(&request) {
            Ok(operation) if OWN_OPERATIONS.contains(&operation) => {
                return self.reply(id, Err(Error::Invalid(format!("operation {operation} is the node's own"))));
            }
            Ok(_) => {}
            Err(error) => return self.reply(id, Err(error)),
        }
        let request = match self.who().and_then(|who| self.backend.authorize(who, request)) {
            Ok(request) => request,
            Err(error) => return self.reply(id, Err(error)),
        };
        match self.requests.begin("unanswered requests", limits::ATTACHED_REQUESTS_MAX) {
            Ok(()) => self.backend.queue(request, self.answering(id, |peer| &peer.requests)),
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// Who is at the other end. Frames are only handled after the greeting.
    fn who(&self) -> Result<&Principal> {
        self.principal.get().ok_or_else(|| Error::Invalid("a frame before the greeting".into()))
    }

    fn wait(self: &Arc<Self>, id: u64, payload: &[u8]) -> Result<()> {
        let job = message::decode_job(payload)?;
        let registered = self.registered.lock().wait(id);
        if !self.told(id, registered)? {
            return Ok(());
        }
        let peer = self.clone();
        let done = move |end: Result<()>| {
            peer.registered.lock().end_wait(id);
            peer.reply(id, end.map(|()| Vec::new()));
        };
        let wait = self.backend.wait_finished(job, Box::new(done));
        self.registered.lock().named(id, wait);
        Ok(())
    }

    /// Whether it may. What it has too much of, it is told by the number of what it asked; any other error ends the connection.
    fn told(&self, id: u64, may: Result<()>) -> Result<bool> {
        match may {
            Ok(()) => Ok(true),
            Err(error @ Error::Overloaded(_)) => {
                self.reply(id, Err(error));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn watch(self: &Arc<Self>, id: u64, payload: &[u8]) -> Result<()> {
        let session = message::decode_session(payload)?;
        self.backend.check_session(self.who()?, session)?;
        let room = self.registered.lock().check_watch(id);
        if !self.told(id, room)? {
            return Ok(());
        }
        let sink = Arc::new(Sink { peer: Arc::downgrade(self), id });
        let watch = self.backend.watch(session, sink);
        self.registered.lock().watch(id, watch);
        Ok(())
    }

    fn arm(&self, id: u64, payload: &[u8]) -> Result<()> {
        let (queues, functions) = message::decode_ask(payload)?;
        // Its claim will be told why.
        let who = self.who()?;
        if queues.iter().any(|queue| who.must(&Capability::Work((*queue).into())).is_err()) {
            return Ok(());
        }
        let asked = self.registered.lock().ask(id, &queues, &functions);
        let watch = match asked {
            Ok(watch) => watch,
            Err(error) => return self.told(id, Err(error)).map(drop),
        };
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
        let registered = std::mem::take(&mut *self.registered.lock());
        let (sessions, watches, waits) = registered.into_parts();
        watches.into_iter().for_each(|watch| self.backend.unwatch(watch));
        waits.into_iter().for_each(|wait| self.backend.forget_wait(wait));
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

/// What was queued is worked on, also when the connection ends by what came behind it.
struct CallOnDrop<'a>(&'a dyn Backend);

impl Drop for CallOnDrop<'_> {
    fn drop(&mut self) {
        self.0.call();
    }
}

/// The next frame; nothing at the end of the stream, or of the process at its other end.
fn next(frames: &mut Frames, stream: &Stream, other: &Other) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(Some(frame));
        }
        if !more(frames, stream, other)? {
            return Ok(None);
        }
    }
}

/// Waits for more bytes. False: it is over.
fn more(frames: &mut Frames, mut stream: &Stream, other: &Other) -> Result<bool> {
    Ok(other.wait_readable(stream, None)? && frames.fill(&mut stream)?)
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
