//! One connection to another process that is kept up: when it ends, it is made again, until somebody ends it.
//!
//! What holds
//! * Whoever sends never waits: a frame goes out, waits in a bounded queue, or is dropped and the sender told so.
//! * The name is looked up at each try, as machines move. Pauses between tries double up to a second and vary, so that many
//!   do not come back at the same moment.
//! * A peer that vanished without a word is noticed: the system ends a connection on which nothing is confirmed.
//! * A refused certificate is no passing fault: the next try waits longer. So does one after a welcome that was refused as
//!   `Foreign`, but not one after a connection whose certificate expired: there may be a new one by now. The log says the
//!   same reason once a minute.
//! * A panic in one of the functions ends the connection for good, and says so.

use super::outgoing::EndOnDrop;
use super::packet::Frame;
use super::security::dial;
use super::seldom::Seldom;
use super::socket::Socket;
use super::{Address, Certified, Frames, Outgoing, Security, Stream};
use crate::base::sync::{Condvar, Mutex};
use crate::base::{limits, Error, Result};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The same reason is told again after so long.
const COMPLAINTS_APART: Duration = Duration::from_secs(60);
/// A connection that was up for so long did not fail at once again: the pauses begin anew.
const STEADY: Duration = Duration::from_millis(limits::RECONNECT_MS_MAX);

/// What happened to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The other side's welcome was accepted: frames are sent from now on.
    Up,
    /// The connection ended, or a try to make it failed. Another try follows.
    Down(Error),
}

/// Whether whoever a certificate names is the one to talk to.
pub type Accept = dyn Fn(&Certified) -> Result<()> + Send + Sync;

/// Whether the answer to a first frame is a welcome.
pub type Welcome = dyn Fn(&Frame) -> Result<()> + Send + Sync;

/// Whom to connect to, and what to say. The functions run on the dialer's thread, one at a time; `changed(Up)` comes before
/// the first frame is received.
pub struct DialerConfig {
    /// For log lines: who is on the other side.
    pub name: String,
    pub address: Address,
    pub security: Security,
    /// Asked before anything is said, if there is a certificate.
    pub accept: Box<Accept>,
    /// The first frame of a connection.
    pub hello: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
    pub welcome: Box<Welcome>,
    pub changed: Box<dyn Fn(Change) + Send + Sync>,
    pub received: Box<dyn Fn(Frame) + Send + Sync>,
    /// From the start of a try to the welcome.
    pub patience: Duration,
    /// A peer whose machine confirms nothing for so long has vanished.
    pub silence: Duration,
    /// Bytes that may wait to be sent.
    pub waiting_bytes_max: usize,
}

impl DialerConfig {
    /// With the bounds of `base::limits`, and functions that do nothing.
    pub fn new(name: impl Into<String>, address: Address, security: Security) -> Self {
        Self {
            name: name.into(),
            address,
            security,
            accept: Box::new(|_| Ok(())),
            hello: Box::new(Vec::new),
            welcome: Box::new(|_| Ok(())),
            changed: Box::new(drop),
            received: Box::new(drop),
            patience: Duration::from_millis(limits::HANDSHAKE_MS + limits::FIRST_FRAME_MS),
            silence: Duration::from_millis(limits::SILENCE_MS),
            waiting_bytes_max: limits::MEMBER_BYTES_MAX,
        }
    }
}

/// Keeps a connection up until it is ended or dropped.
pub struct Dialer(Arc<Shared>);

struct Shared {
    config: DialerConfig,
    state: Mutex<State>,
    /// The address changed, or it is over.
    changed: Condvar,
}

struct State {
    address: Address,
    /// Of the present try or connection.
    socket: Option<Arc<Socket>>,
    /// While the connection is up.
    outgoing: Option<Arc<Outgoing>>,
    /// The present try or connection is to another address than it should be.
    moved: bool,
    ended: bool,
}

impl Dialer {
    pub fn start(config: DialerConfig) -> Result<Arc<Self>> {
        let address = config.address.clone();
        let state = State { address, socket: None, outgoing: None, moved: false, ended: false };
        let shared = Arc::new(Shared { config, state: Mutex::new(state), changed: Condvar::new() });
        let dialing = shared.clone();
        std::thread::Builder::new()
            .name("raftwork-dial".into())
            .spawn(move || dialing.run())
            .map_err(|error| Error::disk("start a thread", "raftwork-dial", &error))?;
        Ok(Arc::new(Self(shared)))
    }

    /// Sends one frame, or queues it. False: it is dropped, as there is no connection or the queue is full. Never blocks.
    pub fn send(&self, frame: Vec<u8>) -> bool {
        let outgoing = self.0.state.lock().outgoing.clone();
        outgoing.is_some_and(|outgoing| outgoing.offer(frame))
    }

    /// Whether the connection is up.
    pub fn is_up(&self) -> bool {
        self.0.state.lock().outgoing.is_some()
    }

    /// From now on the other side is there. A connection to another address ends.
    pub fn set_address(&self, address: Address) {
        let mut state = self.0.state.lock();
        if state.address != address {
            state.address = address;
            state.moved = true;
            state.cut();
            self.0.changed.notify_all();
        }
    }

    /// Ends the connection for good. Does not wait for a function that runs.
    pub fn end(&self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        state.cut();
        self.0.changed.notify_all();
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn cut(&mut self) {
        if let Some(outgoing) = self.outgoing.take() {
            outgoing.end();
        }
        if let Some(socket) = self.socket.take() {
            socket.shut_down();
        }
    }
}

impl Shared {
    /// The dialer's thread.
    fn run(&self) {
        if catch_unwind(AssertUnwindSafe(|| self.keep_up())).is_err() {
            let mut state = self.state.lock();
            state.ended = true;
            state.cut();
            drop(state);
            log::error!("{}: a panic ended the connection for good", self.config.name);
            let why = Error::Poisoned("a panic on the thread of a connection".into());
            // Perhaps it is what panicked.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.config.changed)(Change::Down(why))));
        }
    }

    fn keep_up(&self) {
        let mut pause = Pause::new();
        let (mut last, mut complaints) = (None, Seldom::new(1, COMPLAINTS_APART));
        while !self.state.lock().ended {
            let (error, refused) = match self.establish() {
                Ok(link) => {
                    let since = Instant::now();
                    let error = self.read(link);
                    if since.elapsed() >= STEADY {
                        pause = Pause::new();
                    }
                    (error, false)
                }
                Err(error @ Error::Foreign(_)) => (error, true),
                Err(error) => (error, false),
            };
            let mut state = self.state.lock();
            state.cut();
            if state.ended {
                return;
            }
            drop(state);
            if last.as_ref() != Some(&error) {
                complaints = Seldom::new(1, COMPLAINTS_APART);
            }
            complaints.warn(format_args!("{}: no connection: {error}", self.config.name));
            let span = pause.next(refused);
            last = Some(error.clone());
            (self.config.changed)(Change::Down(error));
            self.wait(span);
        }
    }

    /// Waits, unless there is a new address to try or nothing more to do.
    fn wait(&self, span: Duration) {
        let until = Instant::now() + span;
        let mut state = self.state.lock();
        while !state.ended && !std::mem::take(&mut state.moved) {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// One try.
    fn establish(&self) -> Result<Link> {
        let config = &self.config;
        let deadline = Instant::now() + config.patience;
        let address = {
            let mut state = self.state.lock();
            state.moved = false;
            state.address.clone()
        };
        let socket = dial(&address, &config.security, deadline, config.silence)?;
        self.keep(|state| state.socket = Some(socket.clone()))?;
        let (stream, certified) = config.security.begin(socket, deadline)?;
        certified.as_ref().map_or(Ok(()), &config.accept)?;
        let written = stream.write_first((config.hello)());
        let mut frames = Frames::new();
        let heard = next(&mut frames, &stream);
        // Whoever refused the certificate may have gone before the hello could leave, and its reason is still there.
        if !matches!(heard, Err(Error::Foreign(_))) {
            written?;
        }
        let welcome = heard?.ok_or_else(|| Error::Disk {
            operation: "connect to",
            path: address.to_string(),
            message: "the other side ended the connection before it let this one in; its log says why".into(),
        })?;
        (config.welcome)(&welcome)?;
        stream.set_deadline(None)?;
        let stream = Arc::new(stream);
        let outgoing = Outgoing::start(stream.clone(), config.waiting_bytes_max)?;
        let link = Link { stream, frames, outgoing: EndOnDrop(outgoing.clone()) };
        self.keep(|state| state.outgoing = Some(outgoing))?;
        log::info!("{}: connected to {address}", config.name);
        Ok(link)
    }

    /// The life of a connection. Returns why it ended.
    fn read(&self, mut link: Link) -> Error {
        (self.config.changed)(Change::Up);
        loop {
            match next(&mut link.frames, &link.stream) {
                Ok(Some(frame)) => (self.config.received)(frame),
                // Where both halves see a failure, the sending one may take the system's word for it.
                Ok(None) => return link.outgoing.0.failure().unwrap_or(Error::Closed),
                Err(error) => return error,
            }
        }
    }

    /// Notes what belongs to the present try, unless that is not wanted any more.
    fn keep(&self, note: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.moved {
            return Err(Error::Closed);
        }
        note(&mut state);
        Ok(())
    }
}

/// A connection that is up.
struct Link {
    stream: Arc<Stream>,
    frames: Frames,
    outgoing: EndOnDrop,
}

fn next(frames: &mut Frames, mut stream: &Stream) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(Some(frame));
        }
        if !frames.fill(&mut stream)? {
            return Ok(None);
        }
    }
}

/// The pauses between tries.
struct Pause(u64);

impl Pause {
    fn new() -> Self {
        Self(limits::RECONNECT_MS_MIN)
    }

    /// Between a half and the whole of a span that doubles.
    fn next(&mut self, refused: bool) -> Duration {
        let span = if refused { limits::CERTIFICATE_PAUSE_MS } else { self.0 };
        self.0 = (self.0 * 2).min(limits::RECONNECT_MS_MAX);
        // Without random bytes it is the shortest pause.
        let random = super::random().map_or(0, u64::from_le_bytes);
        Duration::from_millis(span / 2 + random % (span / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_vary() {
        let mut pause = Pause::new();
        let mut seen = Vec::new();
        for whole in [20, 40, 80, 160, 320, 640, 1000, 1000, 1000] {
            let span = pause.next(false).as_millis() as u64;
            assert!((whole / 2..=whole).contains(&span), "{span} is not between a half and the whole of {whole}");
            seen.push(span);
        }
        assert!(seen[6] != seen[7] || seen[7] != seen[8], "{seen:?}");
    }

    #[test]
    fn a_refused_certificate_is_not_tried_hot() {
        let mut pause = Pause::new();
        assert!(pause.next(true) >= Duration::from_millis(2_500));
        assert!(pause.next(false) <= Duration::from_millis(40), "the next reason is another");
    }
}
