//! One connected stream of bytes: over a Unix socket, over TCP, or over TLS on TCP.
//!
//! What holds
//! * One thread reads; any thread sends, through [`Outgoing`](super::Outgoing).
//! * A TLS session cannot be split in two halves, so it stands behind a lock. Nobody waits for the network under it: the
//!   reading thread takes ciphertext off the socket first and hands it over then; senders only turn bytes into ciphertext.
//! * The end of the other side's process reads as the end of the stream, with and without TLS: frames tell by themselves
//!   whether they are whole.
//! * A TLS session is over with its certificates, see `validity`: nothing that arrives later is read, and a read that waits
//!   ends.
//! * Where that is wanted, a read that waits for too long ends too, see `set_idle`.

use super::judge;
use super::packet::failed;
use super::socket::Socket;
use super::validity::Validity;
use crate::base::sync::Mutex;
use crate::base::Result;
use rustls::pki_types::UnixTime;
use rustls::Connection;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ciphertext taken off the socket at once: as much as a reader of plaintext asks for.
const RECEIVE_BYTES: usize = 64 << 10;
/// The system takes no time of zero for one.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// One connected stream.
pub struct Stream {
    socket: Arc<Socket>,
    session: Option<Session>,
    /// How long a read may wait while there is no deadline, if there is a bound.
    idle: Mutex<Option<Duration>>,
}

/// A TLS session whose handshake is over.
struct Session {
    validity: Validity,
    connection: Mutex<Connection>,
    /// Used by the reading thread alone.
    received: Mutex<Ciphertext>,
}

/// Taken off the socket and not yet handed to the session: `bytes[start..end]`.
struct Ciphertext {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Stream {
    pub fn unix(socket: UnixStream) -> Self {
        Self::plain(Arc::new(Socket::unix(socket)))
    }

    pub(super) fn plain(socket: Arc<Socket>) -> Self {
        Self { socket, session: None, idle: Mutex::new(None) }
    }

    /// TLS, after the handshake.
    pub(super) fn tls(socket: Arc<Socket>, mut connection: Connection, validity: Validity) -> Self {
        // What is written is taken out at once, under the same lock.
        connection.set_buffer_limit(None);
        let received = Ciphertext { bytes: vec![0; RECEIVE_BYTES].into(), start: 0, end: 0 };
        let (connection, received) = (Mutex::new(connection), Mutex::new(received));
        Self { socket, session: Some(Session { validity, connection, received }), idle: Mutex::new(None) }
    }

    /// Whatever is read and written from now on must be over then, or fails with `TimedOut`. Nothing: no such end.
    pub fn set_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.socket.set_deadline(deadline)?;
        self.begin_wait()
    }

    /// From now on a read to which nothing comes for so long fails with `TimedOut`. Nothing: it may wait for ever. While there
    /// is a deadline, that counts.
    pub fn set_idle(&self, idle: Option<Duration>) -> Result<()> {
        *self.idle.lock() = idle;
        self.begin_wait()
    }

    fn begin_wait(&self) -> Result<()> {
        if self.socket.has_deadline() {
            return Ok(());
        }
        self.limit_wait(*self.idle.lock()).map_err(|error| failed("set a time-out of", error))
    }

    /// Has the next read that waits return after so long, or when it is time to look at the certificates.
    fn limit_wait(&self, left: Option<Duration>) -> std::io::Result<()> {
        let look = self.session.as_ref().map(|session| session.validity.next_look(UnixTime::now()));
        let span = look.into_iter().chain(left).min();
        self.socket.set_read_timeout(span.map(|span| span.max(WAIT_MIN)))
    }

    /// A read of the socket waited in vain, in a read of the stream that began then. False: that has waited for too long.
    fn wait_on(&self, since: Instant) -> std::io::Result<bool> {
        let left = self.idle.lock().map(|idle| idle.saturating_sub(since.elapsed()));
        self.limit_wait(left)?;
        Ok(left.is_none_or(|left| !left.is_zero()))
    }

    /// Writes all of it on this thread. Only before there is an `Outgoing`: it would come between its frames.
    pub fn write_first(&self, bytes: Vec<u8>) -> Result<()> {
        self.seal(bytes).and_then(|bytes| self.write_sealed(&bytes)).map_err(|error| failed("write to", error))
    }

    /// Ends both directions. Whoever reads or writes returns.
    pub fn shut_down(&self) {
        self.socket.shut_down();
    }

    /// What goes over the wire for these bytes. Must be sent in the order of the calls.
    pub(super) fn seal(&self, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let Some(session) = &self.session else { return Ok(bytes) };
        let mut connection = session.connection.lock();
        connection.writer().write_all(&bytes)?;
        drain(&mut connection, bytes.len())
    }

    /// What tells the other side that the end is meant.
    pub(super) fn seal_end(&self) -> Vec<u8> {
        let Some(session) = &self.session else { return Vec::new() };
        let mut connection = session.connection.lock();
        connection.send_close_notify();
        drain(&mut connection, 0).unwrap_or_default()
    }

    /// Sends what fits without waiting.
    pub(super) fn send_sealed(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        self.socket.send_ready(bytes)
    }

    /// Sends all of it, and waits for that.
    pub(super) fn write_sealed(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&*self.socket).write_all(bytes)
    }
}

/// Takes the ciphertext out of a session.
fn drain(connection: &mut Connection, expected: usize) -> std::io::Result<Vec<u8>> {
    // A record of 16 KiB grows by 22 bytes.
    let mut sealed = Vec::with_capacity(expected + expected / 512 + 64);
    while connection.wants_write() {
        connection.write_tls(&mut sealed)?;
    }
    Ok(sealed)
}

impl Session {
    /// Whether the certificates are good still.
    fn check(&self) -> std::io::Result<()> {
        self.validity.trouble(UnixTime::now()).map_or(Ok(()), |trouble| Err(std::io::Error::other(trouble)))
    }

    /// Plaintext of what has arrived, of all its records: what came together is worked on together. `WouldBlock`: none yet.
    fn open(&self, received: &mut Ciphertext, plain: &mut [u8]) -> std::io::Result<usize> {
        let mut connection = self.connection.lock();
        let mut opened = 0;
        loop {
            match connection.reader().read(&mut plain[opened..]) {
                Ok(0) => return Ok(opened),
                Ok(count) => {
                    opened += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && received.start < received.end => {}
                Err(_) if opened > 0 => return Ok(opened),
                Err(error) => return Err(error),
            }
            let mut left = &received.bytes[received.start..received.end];
            connection.read_tls(&mut left)?;
            received.start = received.end - left.len();
            connection.process_new_packets().map_err(|error| std::io::Error::other(judge::explain(&error)))?;
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, plain: &mut [u8]) -> std::io::Result<usize> {
        let Some(session) = &self.session else { return (&*self.socket).read(plain) };
        let (since, mut received) = (Instant::now(), session.received.lock());
        loop {
            session.check()?;
            match session.open(&mut received, plain) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            (received.start, received.end) = (0, 0);
            match (&*self.socket).read(&mut received.bytes) {
                Ok(count @ 1..) => received.end = count,
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && !self.socket.has_deadline()
                        && self.wait_on(since)? => {}
                // Perhaps the other side was the first to look.
                ended => return session.check().and(ended),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
