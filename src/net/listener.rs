//! Accepts connections from other machines, within budgets.
//!
//! What holds
//! * Each connection has a thread of its own, which first does the handshake and reads the first frame, both under a deadline,
//!   and then serves it. So nobody waits for a slow other.
//! * Whoever has not got so far is a stranger. Strangers are few, in all and by address; where there is no place the oldest
//!   that had its chance makes room. So a flood takes no more than these places, and a later honest one gets one soon.
//! * Where a certificate does not say who it is, a first frame says nothing: whoever serves such connections says when they
//!   have shown who they are, see `Listener::of_strangers`.
//! * Memory is taken for what has arrived, and of a stranger nothing longer than the first frame is read.
//! * Whoever is known keeps its place by words: one that says nothing for minutes gives it back.

use super::inherited::Noted;
use super::outgoing::EndOnDrop;
use super::packet::Frame;
use super::seldom::Seldom;
use super::socket::Socket;
use super::{Address, Admit, Certified, Frames, Outgoing, Security, Stream};
use crate::base::sync::Mutex;
use crate::base::{limits, Error, Result};
use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that the system holds until they are accepted.
const BACKLOG: i32 = 4_096;
/// A pause when the system has no socket or thread for one more.
pub const SHORT_OF_MEANS: Timespec = Timespec { tv_sec: 0, tv_nsec: limits::ACCEPT_PAUSE_MS as i64 * 1_000_000 };

/// How to listen. `new` gives the budgets of `base::limits`.
pub struct ListenerConfig {
    /// For log lines.
    pub name: &'static str,
    pub address: Address,
    pub security: Security,
    /// Whom TLS lets in.
    pub admit: Admit,
    pub connections_max: usize,
    pub strangers_max: usize,
    pub strangers_per_address_max: usize,
    /// A stranger younger than this does not make room for another.
    pub chance: Duration,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From then to the end of the first frame.
    pub first_frame: Duration,
    /// A connection whose machine confirms nothing for so long ends.
    pub silence: Duration,
    /// One over which nothing comes for so long ends, however alive its machine is, unless `Stream::set_idle` says otherwise.
    pub idle: Duration,
    /// Bytes that may wait for a slow reader.
    pub waiting_bytes_max: usize,
}

impl ListenerConfig {
    pub fn new(name: &'static str, address: Address, security: Security, admit: Admit) -> Self {
        Self {
            name,
            address,
            security,
            admit,
            connections_max: limits::CONNECTIONS_MAX,
            strangers_max: limits::STRANGERS_MAX,
            strangers_per_address_max: limits::STRANGERS_PER_ADDRESS_MAX,
            chance: Duration::from_millis(limits::STRANGER_CHANCE_MS),
            handshake: Duration::from_millis(limits::HANDSHAKE_MS),
            first_frame: Duration::from_millis(limits::FIRST_FRAME_MS),
            silence: Duration::from_millis(limits::SILENCE_MS),
            idle: Duration::from_millis(limits::IDLE_MS),
            waiting_bytes_max: limits::WAITING_BYTES_MAX,
        }
    }
}

/// A connection that has said its first frame.
pub struct Accepted {
    pub stream: Arc<Stream>,
    pub outgoing: Arc<Outgoing>,
    /// What follows the first frame, up to the largest frame from now on.
    pub frames: Frames,
    pub hello: Frame,
    /// Whom the certificate names. Nothing without TLS, and for strangers where they are let in.
    pub identity: Option<Certified>,
    /// Whether the connection is protected by TLS.
    pub protected: bool,
    pub peer: SocketAddr,
    stranger: Option<Known>,
}

impl Accepted {
    /// It has shown who it is, and counts as a stranger no more.
    ///
    /// # Errors
    /// `Closed`: it made room for another meanwhile, or the listener ends.
    pub fn admit(&self) -> Result<()> {
        self.stranger.as_ref().map_or(Ok(()), Known::become_known)
    }
}

/// The place of a stranger that may become known.
struct Known {
    shared: Arc<Shared>,
    number: u64,
    socket: Arc<Socket>,
}

/// How a listener fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that are served.
    pub served: usize,
    /// Connections that have not said their first frame yet.
    pub strangers: usize,
    /// Connections that ended before they were served, since the start.
    pub refused: u64,
    /// Why they did, in one word each.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// Why the last of them did.
    pub last_refusal: Option<String>,
}

/// Listens until it is ended or dropped.
pub struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

type Serve = dyn Fn(Accepted) + Send + Sync;

struct Shared {
    config: ListenerConfig,
    serve: Box<Serve>,
    /// A first frame is enough to be known.
    admits: bool,
    closing: AtomicBool,
    stop: OwnedFd,
    guests: Mutex<Guests>,
    complaints: Seldom,
}

/// Everybody who is connected, by number, oldest first.
#[derive(Default)]
struct Guests {
    last: u64,
    strangers: BTreeMap<u64, Stranger>,
    served: BTreeMap<u64, Arc<Socket>>,
    refused_by: BTreeMap<&'static str, u64>,
    last_refusal: Option<String>,
}

struct Stranger {
    socket: Arc<Socket>,
    address: IpAddr,
    since: Instant,
}

impl Listener {
    /// Listens. `serve` runs on the thread of each connection and owns it until it returns.
    pub fn start(config: ListenerConfig, serve: impl Fn(Accepted) + Send + Sync + 'static) -> Result<Self> {
        Self::serving(config, true, Box::new(serve))
    }

    /// As `start`, but whoever comes is a stranger, with a stranger's place, until `serve` calls `Accepted::admit`.
    pub fn of_strangers(config: ListenerConfig, serve: impl Fn(Accepted) + Send + Sync + 'static) -> Result<Self> {
        Self::serving(config, false, Box::new(serve))
    }

    fn serving(config: ListenerConfig, admits: bool, serve: Box<Serve>) -> Result<Self> {
        let resolved = config.address.resolve()?;
        config.security.check(&resolved, &config.address)?;
        let failed = |error: std::io::Error| Error::disk("listen at", &config.address, &error);
        let listener = TcpListener::bind(&resolved[..]).map_err(failed)?;
        // The library's queue is short: in a flood it would be full, and an honest one try again only after a second.
        rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let shared = Arc::new(Shared {
            config,
            serve,
            admits,
            closing: AtomicBool::new(false),
            stop,
            guests: Mutex::default(),
            complaints: Seldom::new(10, Duration::from_secs(60)),
        });
        let accepting = shared.clone();
        let noted = Noted::of(&listener);
        let thread = std::thread::Builder::new()
            .name("raftwork-accept".into())
            .spawn(move || {
                accepting.accept(&listener);
                drop(noted);
            })
            .map_err(|error| Error::disk("start a thread", "raftwork-accept", &error))?;
        Ok(Self { shared, address, accepting: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was found if any would do.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn tally(&self) -> Tally {
        let guests = self.shared.guests.lock();
        Tally {
            served: guests.served.len(),
            strangers: guests.strangers.len(),
            refused: guests.refused_by.values().sum(),
            refused_by: guests.refused_by.clone(),
            last_refusal: guests.last_refusal.clone(),
        }
    }

    /// Gives the port free and cuts every connection. Does not wait for `serve` to return from those that it serves.
    pub fn end(&self) {
        self.shared.closing.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.accepting.lock().take() {
            let _ = thread.join();
        }
        let guests = self.shared.guests.lock();
        guests.strangers.values().for_each(|stranger| stranger.socket.shut_down());
        guests.served.values().for_each(|socket| socket.shut_down());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut fds = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        while !self.closing.load(Ordering::Acquire) {
            let accepted = match poll(&mut fds, None) {
                Ok(_) => listener.accept(),
                Err(error) => Err(error.into()),
            };
            let done = accepted.and_then(|(socket, peer)| self.let_in(socket, peer));
            match done.map_err(|error| (error.kind(), error)) {
                Ok(()) | Err((std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted, _)) => {}
                Err((_, error)) => {
                    self.complaints
                        .warn(format_args!("{}: a connection could not be accepted: {error}", self.config.name));
                    // Too many open files, most of all. What is lacking comes back when others end.
                    let _ = poll(&mut fds[..1], Some(&SHORT_OF_MEANS));
                }
            }
        }
    }

    /// Finds a place, and starts the thread of a connection. An error is one of this machine, not of the connection.
    fn let_in(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
        // The other side may have gone already.
        let Ok(socket) = Socket::tcp(socket, self.config.silence) else { return Ok(()) };
        let socket = Arc::new(socket);
        let Some(number) = self.place(&socket, peer) else { return Ok(()) };
        let place = Place { shared: self.clone(), number };
        std::thread::Builder::new().name("raftwork-peer".into()).spawn(move || place.serve(socket, peer))?;
        Ok(())
    }

    fn place(&self, socket: &Arc<Socket>, peer: SocketAddr) -> Option<u64> {
        let mut guests = self.guests.lock();
        let address = peer.ip().to_canonical();
        let full = |guests: &mut Guests| {
            if guests.served.len() >= self.config.connections_max {
                return Some("too many connections");
            }
            let same = guests.strangers.values().filter(|stranger| stranger.address == address).count();
            if same >= self.config.strangers_per_address_max {
                return (!guests.make_room(self.config.chance, |stranger| stranger.address == address))
                    .then_some("too many unfinished connections of one address");
            }
            let all = guests.strangers.len();
            (all >= self.config.strangers_max && !guests.make_room(self.config.chance, |_| true))
                .then_some("too many unfinished connections")
        };
        if let Some(why) = full(&mut guests) {
            guests.refuse("full", why.to_owned());
            drop(guests);
            self.complaints.warn(format_args!("{}: {peer} was refused: {why}", self.config.name));
            return None;
        }
        guests.last += 1;
        let number = guests.last;
        guests.strangers.insert(number, Stranger { socket: socket.clone(), address, since: Instant::now() });
        Some(number)
    }
}

impl Guests {
    /// Sends the oldest of these strangers away, if it had its chance.
    fn make_room(&mut self, chance: Duration, of: impl Fn(&Stranger) -> bool) -> bool {
        let oldest = self.strangers.iter().find(|(_, stranger)| of(stranger));
        let Some((&number, stranger)) = oldest.filter(|(_, stranger)| stranger.since.elapsed() >= chance) else {
            return false;
        };
        stranger.socket.shut_down();
        self.strangers.remove(&number);
        true
    }

    fn refuse(&mut self, reason: &'static str, why: String) {
        *self.refused_by.entry(reason).or_default() += 1;
        self.last_refusal = Some(why);
    }
}

/// Why a connection was not let in, in one word.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Overloaded(_) => "full",
        Error::TimedOut(_) => "slow",
        Error::Foreign(_) => "identity",
        Error::Invalid(_) => "protocol",
        Error::Closed => "closed",
        _ => "other",
    }
}

/// The place of one connection. Given back when its thread ends, also by a panic.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Place {
    fn serve(self, socket: Arc<Socket>, peer: SocketAddr) {
        let (shared, name) = (&self.shared, self.shared.config.name);
        match self.greet(&socket, peer) {
            Ok(accepted) => {
                let _ending = EndOnDrop(accepted.outgoing.clone());
                (shared.serve)(accepted);
            }
            Err(_) if shared.closing.load(Ordering::Acquire) => {}
            Err(error) => {
                let mut guests = shared.guests.lock();
                // What its thread saw is not why: its socket was shut for it.
                let evicted = !guests.strangers.contains_key(&self.number);
                let error = if evicted { Error::Overloaded("it made room for a newer one".into()) } else { error };
                guests.refuse(reason(&error), error.to_string());
                drop(guests);
                shared.complaints.warn(format_args!("{name}: {peer} was not let in: {error}"));
            }
        }
        socket.shut_down();
    }

    /// From a stranger to somebody known.
    fn greet(&self, socket: &Arc<Socket>, peer: SocketAddr) -> Result<Accepted> {
        let config = &self.shared.config;
        let (stream, identity) =
            config.security.accept(socket.clone(), config.admit, Instant::now() + config.handshake)?;
        stream.set_deadline(Some(Instant::now() + config.first_frame))?;
        let mut frames = Frames::with_limit(limits::FIRST_FRAME_BYTES_MAX);
        let hello = loop {
            if let Some(frame) = frames.take()? {
                break frame;
            }
            if !frames.fill(&mut &stream)? {
                return Err(Error::Closed);
            }
        };
        frames.raise_limit(limits::FRAME_BYTES_MAX);
        stream.set_deadline(None)?;
        stream.set_idle(Some(config.idle))?;
        let stream = Arc::new(stream);
        let mut stranger = Some(Known { shared: self.shared.clone(), number: self.number, socket: socket.clone() });
        if self.shared.admits {
            stranger.take().map_or(Ok(()), |stranger| stranger.become_known())?;
        }
        let outgoing = Outgoing::start(stream.clone(), config.waiting_bytes_max)?;
        let protected = matches!(config.security, Security::Tls(_));
        Ok(Accepted { stream, outgoing, frames, hello, identity, protected, peer, stranger })
    }
}

impl Known {
    fn become_known(&self) -> Result<()> {
        let mut guests = self.shared.guests.lock();
        if guests.strangers.remove(&self.number).is_none() || self.shared.closing.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if guests.served.len() >= self.shared.config.connections_max {
            return Err(Error::Overloaded(format!("{} connections are served", guests.served.len())));
        }
        guests.served.insert(self.number, self.socket.clone());
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.shared.guests.lock();
        guests.strangers.remove(&self.number);
        guests.served.remove(&self.number);
    }
}
