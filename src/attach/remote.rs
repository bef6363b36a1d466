//! The attached side: asks the owner of the directory, and keeps every question until it is answered.
//!
//! When the connection ends, the unanswered questions stay: `orphans` hands them to whoever finds the next owner, which
//! is asked the same again. Writes carry their session and sequence, so the new owner gives the first answer.
//!
//! A node on another machine may hang while its kernel keeps the connection up: `mind_silence` ends it then.

use super::backend::{Ask, Done, View, WatchEvent, Watcher};
use super::message::{self, Greeting};
use super::place::{Address, Other};
use super::silence::{Silence, Step, QUIET};
use super::wire::{self, Kind};
use crate::base::codec::Writer;
use crate::base::sync::Mutex;
use crate::base::{limits, ClusterId, Error, JobId, LogIndex, Result, SessionId};
use crate::net::{self, Frame, Frames, Outgoing, Security, Stream};
use crate::node::repeated;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A living owner answers the first words at once: they do not wait for its disk.
const GREETING_WAIT: Duration = Duration::from_secs(2);
/// The same over the network: name, connection, handshake and greeting.
pub const FAR_GREETING_WAIT: Duration = Duration::from_secs(5);

/// A question that costs a node nothing: its feature level.
const VIEW_LEVEL: u64 = 10;

/// Numbers of questions and watches are not used again, also not at the next owner.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A question without an answer.
pub enum Question {
    Submit(Vec<u8>, Done<Vec<u8>>),
    View(View, Done<Vec<u8>>),
    Health(Done<Vec<u8>>),
    Metrics(Done<Vec<u8>>),
    Wait(JobId, Done<()>),
    Heartbeat(SessionId, Done<()>),
    Fresh(Done<LogIndex>),
    Order(Vec<u8>, Done<Vec<u8>>),
}

impl Question {
    fn frame(&self, id: u64) -> Result<Vec<u8>> {
        match self {
            Question::Submit(request, _) => wire::encode(Kind::Submit, id, request),
            Question::View(view, _) => wire::encode(Kind::View, id, &view.encode()),
            Question::Health(_) => wire::encode(Kind::Health, id, &[]),
            Question::Metrics(_) => wire::encode(Kind::Metrics, id, &[]),
            Question::Wait(job, _) => wire::encode(Kind::Wait, id, &job.0),
            Question::Heartbeat(session, _) => wire::encode(Kind::Heartbeat, id, &session.0.to_le_bytes()),
            Question::Fresh(_) => wire::encode(Kind::Fresh, id, &[]),
            Question::Order(order, _) => wire::encode(Kind::Order, id, order),
        }
    }

    /// The same question, asked of an owner that did not answer: a write may be applied, so no later owner's refusal may
    /// say that it is not.
    pub fn asked_before(self) -> Self {
        let Question::Submit(request, done) = self else { return self };
        Question::Submit(request, Box::new(move |answer| done(repeated(answer))))
    }

    pub fn answer(self, answer: Result<Vec<u8>>) {
        match self {
            Question::Submit(_, done) | Question::View(_, done) | Question::Order(_, done) => done(answer),
            Question::Health(done) | Question::Metrics(done) => done(answer),
            Question::Wait(_, done) | Question::Heartbeat(_, done) => done(answer.map(drop)),
            Question::Fresh(done) => done(answer.and_then(|upto| message::decode_index(&upto))),
        }
    }
}

/// A connection to the owner.
pub struct Remote {
    outgoing: Arc<Outgoing>,
    /// The owner as it introduced itself.
    pub owner: Greeting,
    /// The cluster in its certificate, if it showed one.
    certified: Option<ClusterId>,
    state: Mutex<State>,
}

struct State {
    questions: BTreeMap<u64, Question>,
    watches: BTreeMap<u64, Arc<dyn Watcher>>,
    ended: bool,
    /// It has asked for log lines, so it knows what is sent then.
    asks_for_lines: bool,
    silence: Silence,
}

impl Remote {
    /// Connects and greets. `ended` runs once on the reading thread when the connection is over.
    pub fn connect(dir: &Path, own: Greeting, ended: impl FnOnce() + Send + 'static) -> Result<Arc<Self>> {
        let address = Address::of(dir)?;
        let failed = |error: std::io::Error| Error::disk("connect to", address.path.display(), &error);
        let stream = UnixStream::connect(&address.path).map_err(failed)?;
        let other = Other::of(&stream)?;
        let stream = Stream::unix(stream);
        stream.set_deadline(Some(Instant::now() + GREETING_WAIT))?;
        Self::over(stream, other, own, None, ended)
    }

    /// As `connect`, to a node over the network.
    pub fn connect_far(
        address: &net::Address,
        security: &Security,
        own: Greeting,
        patience: Duration,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Self>> {
        let (stream, certified) = net::connect(address, security, Instant::now() + patience)?;
        Self::over(stream, Other::far(), own, certified.map(|certified| certified.cluster), ended)
    }

    /// The greeting on a stream that has a deadline, and what follows it.
    fn over(
        stream: Stream,
        other: Other,
        own: Greeting,
        certified: Option<ClusterId>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Self>> {
        let stream = Arc::new(stream);
        let mut frames = Frames::new();
        let owner = greet(&stream, &other, &mut frames, own)?;
        stream.set_deadline(None)?;
        let outgoing = Outgoing::start(stream.clone(), limits::WAITING_BYTES_MAX)?;
        let (questions, watches) = (BTreeMap::new(), BTreeMap::new());
        let asks_for_lines = false;
        let silence = Silence::new(Instant::now());
        let state = State { questions, watches, ended: false, asks_for_lines, silence };
        let remote = Arc::new(Self { outgoing, owner, certified, state: Mutex::new(state) });
        let reading = remote.clone();
        std::thread::Builder::new()
            .name("raftwork-read".into())
            .spawn(move || {
                reading.read(&stream, &other, frames);
                reading.end();
                drop(reading);
                ended();
            })
            .map_err(|error| Error::disk("start a thread", "raftwork-read", &error))?;
        Ok(remote)
    }

    /// The cluster that the owner is of: what its certificate says, or else what it says itself.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.certified.or(self.owner.cluster)
    }

    /// Asks. After the end of the connection the question waits to be an orphan.
    pub fn ask(&self, question: Question) -> u64 {
        // The system is called after the lock is given back: other threads ask meanwhile, and answers arrive.
        net::together(|| self.ask_in_order(question))
    }

    fn ask_in_order(&self, question: Question) -> u64 {
        let mut state = self.state.lock();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let frame = match question.frame(id) {
            Ok(frame) => frame,
            Err(error) => {
                drop(state);
                question.answer(Err(error));
                return id;
            }
        };
        let now = Instant::now();
        if state.questions.is_empty() {
            state.silence.asked(now);
        }
        state.questions.insert(id, question);
        state.silence.said(now, frame.len());
        if !state.ended {
            // Queued under the lock, so that questions arrive in the order of their numbers.
            self.outgoing.send(frame);
        }
        id
    }

    pub fn forget_wait(&self, id: u64) {
        if self.state.lock().questions.remove(&id).is_some() {
            self.say(Kind::ForgetWait, id, &[]);
        }
    }

    pub fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> u64 {
        let mut state = self.state.lock();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        state.watches.insert(id, sink);
        drop(state);
        self.say(Kind::Watch, id, &session.0.to_le_bytes());
        id
    }

    pub fn arm(&self, watch: u64, queues: &[&str], functions: &[&str]) {
        self.say(Kind::Arm, watch, &message::encode_ask(queues, functions));
    }

    pub fn disarm(&self, watch: u64) {
        self.say(Kind::Disarm, watch, &[]);
    }

    /// Answers an ask of this owner. One that did not ask may be of a version that does not know the answer.
    pub fn told_lines(&self, watch: u64, ask: Ask, answer: &[u8]) {
        if self.state.lock().asks_for_lines {
            self.say(Kind::Lines, watch, &message::encode_lines(ask, answer));
        }
    }

    pub fn unwatch(&self, watch: u64) {
        self.state.lock().watches.remove(&watch);
        self.say(Kind::Unwatch, watch, &[]);
    }

    /// Ends the connection.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.outgoing.end();
    }

    /// Ends the connection if somebody waits for something and the node says nothing at all, not even when it is asked what
    /// costs it nothing. Tells when to look again. Never blocks.
    pub fn mind_silence(&self) -> Duration {
        let mut state = self.state.lock();
        if state.ended {
            return QUIET;
        }
        let (waits, watches) = (!state.questions.is_empty(), !state.watches.is_empty());
        let step = state.silence.look(Instant::now(), waits, watches);
        drop(state);
        match step {
            Step::Wait(left) => left,
            Step::Knock(left) => {
                let mut question = Writer::new();
                question.array(1).u64(VIEW_LEVEL);
                self.ask(Question::View(View::of_any(question.as_bytes()), Box::new(drop)));
                left
            }
            Step::Leave => {
                log::warn!("a node says nothing any more, so another is asked");
                self.end();
                QUIET
            }
        }
    }

    pub fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Keeps a question for whoever takes the orphans.
    pub fn keep(&self, question: Question) {
        self.state.lock().questions.insert(NEXT.fetch_add(1, Ordering::Relaxed), question);
    }

    /// The questions without an answer, oldest first.
    pub fn orphans(&self) -> Vec<Question> {
        std::mem::take(&mut self.state.lock().questions).into_values().map(Question::asked_before).collect()
    }

    fn say(&self, kind: Kind, id: u64, payload: &[u8]) {
        if let Ok(frame) = wire::encode(kind, id, payload) {
            self.outgoing.send(frame);
        }
    }

    fn read(&self, stream: &Stream, other: &Other, mut frames: Frames) {
        loop {
            let mut arrived = Vec::new();
            let damage = loop {
                match frames.take() {
                    Ok(Some(frame)) => arrived.push(frame),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if !self.take_in(arrived) {
                return;
            }
            if let Some(error) = damage {
                return log::warn!("the owner of the directory sent {error}");
            }
            match other.wait_readable(stream, None).and_then(|more| Ok(more && frames.fill(&mut &*stream)?)) {
                Ok(true) => self.hear(), // A part of a frame, too: a large one takes its time.
                // Of a certificate: what is connected again may be refused for the same reason.
                Err(error @ Error::Foreign(_)) => return log::warn!("the connection to a node ended: {error}"),
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Hands out what arrived together. False: a frame that no owner sends.
    fn take_in(&self, arrived: Vec<Frame>) -> bool {
        if arrived.is_empty() {
            return true;
        }
        // Whoever gets one of several answers asks the next question at once: those leave in one piece.
        let _held = if arrived.len() > 1 { self.outgoing.hold() } else { None };
        for frame in arrived {
            match Kind::of(&frame) {
                Ok(Kind::Reply) => self.answered(frame.id, &frame.payload),
                Ok(Kind::Event) => self.told(frame.id, &frame.payload),
                _ => return false,
            }
        }
        true
    }

    fn hear(&self) {
        self.state.lock().silence.heard(Instant::now());
    }

    fn answered(&self, id: u64, payload: &[u8]) {
        let mut state = self.state.lock();
        let (question, refused) = (state.questions.remove(&id), state.watches.remove(&id));
        drop(state);
        if let Some(question) = question {
            question.answer(message::decode_reply(payload));
        }
        // A watch gets no answer but that it may not be.
        if let (Some(sink), Err(error)) = (refused, message::decode_reply(payload)) {
            log::error!("a node does not tell this process when there is work: {error}");
            sink.event(WatchEvent::Refused);
        }
    }

    fn told(&self, id: u64, payload: &[u8]) {
        let sink = self.state.lock().watches.get(&id).cloned();
        // The end of the owner's node is not the end of the state: the connection ends too, and another takes over.
        if let (Some(sink), Ok(event)) = (sink, message::decode_event(payload)) {
            if matches!(event, WatchEvent::Lines(_)) {
                self.state.lock().asks_for_lines = true;
            }
            if event != WatchEvent::NodeClosed {
                sink.event(event);
            }
        }
    }
}

fn greet(mut stream: &Stream, other: &Other, frames: &mut Frames, own: Greeting) -> Result<Greeting> {
    stream.write_first(wire::encode(Kind::Hello, 0, &own.encode())?)?;
    loop {
        if let Some(frame) = frames.take()? {
            return match Kind::of(&frame)? {
                Kind::Welcome => {
                    let owner = Greeting::decode(&frame.payload)?;
                    own.check(&owner).map(|()| owner)
                }
                Kind::Refused => Err(message::decode_error(&frame.payload)),
                kind => Err(Error::Invalid(format!("{kind:?} in place of a welcome"))),
            };
        }
        if !other.wait_readable(stream, Some(GREETING_WAIT))? || !frames.fill(&mut stream)? {
            return Err(Error::Closed);
        }
    }
}
