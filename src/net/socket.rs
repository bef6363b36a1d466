//! A connected socket of either kind. With a deadline, every call on it fails with `TimedOut` once that has passed, however
//! busily the other side sends a byte now and then.

use crate::base::sync::Mutex;
use rustix::net::{send, sockopt, SendFlags};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::inherited::Noted;
use super::packet::failed;
use crate::base::Result;

/// What a side that refused another goes on reading, so that its last words arrive before the connection is reset.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub struct Socket {
    /// Dropped first.
    _noted: Noted,
    kind: Kind,
    deadline: Mutex<Option<Instant>>,
}

enum Kind {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub fn unix(socket: UnixStream) -> Self {
        Self { _noted: Noted::of(&socket), kind: Kind::Unix(socket), deadline: Mutex::new(None) }
    }

    /// Small frames leave at once, and a peer whose machine confirms nothing for `silence` counts as gone, whether bytes are
    /// under way to it or not.
    pub fn tcp(socket: TcpStream, silence: Duration) -> std::io::Result<Self> {
        socket.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        // The kernel counts idle time in whole seconds.
        let second = Duration::from_secs(1);
        sockopt::set_tcp_keepidle(&socket, (silence / 2).max(second))?;
        sockopt::set_tcp_keepintvl(&socket, second)?;
        sockopt::set_tcp_user_timeout(&socket, silence.as_millis().try_into().unwrap_or(u32::MAX))?;
        Ok(Self { _noted: Noted::of(&socket), kind: Kind::Tcp(socket), deadline: Mutex::new(None) })
    }

    /// Every later call ends until then. Nothing: it may last for ever.
    pub fn set_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        *self.deadline.lock() = deadline;
        self.set_timeout(None).map_err(|error| failed("set a time-out of", error))
    }

    pub fn has_deadline(&self) -> bool {
        self.deadline.lock().is_some()
    }

    /// A read fails with `WouldBlock` after so long. A deadline takes that back.
    pub fn set_read_timeout(&self, span: Option<Duration>) -> std::io::Result<()> {
        match &self.kind {
            Kind::Unix(socket) => socket.set_read_timeout(span),
            Kind::Tcp(socket) => socket.set_read_timeout(span),
        }
    }

    fn set_timeout(&self, span: Option<Duration>) -> std::io::Result<()> {
        self.set_read_timeout(span)?;
        match &self.kind {
            Kind::Unix(socket) => socket.set_write_timeout(span),
            Kind::Tcp(socket) => socket.set_write_timeout(span),
        }
    }

    /// Gives the next call what is left of the time.
    fn begin(&self) -> std::io::Result<()> {
        let Some(deadline) = *self.deadline.lock() else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.set_timeout(Some(left))
    }

    /// Sends what fits without waiting.
    pub fn send_ready(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    }

    /// Ends both directions. Whoever reads or writes returns.
    pub fn shut_down(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        // Fails only if the other side has gone already.
        let _ = match &self.kind {
            Kind::Unix(socket) => socket.shutdown(how),
            Kind::Tcp(socket) => socket.shutdown(how),
        };
    }

    /// Ends the own direction and waits a little until the other side has ended too: closing a socket with unread bytes in
    /// it resets the connection, and a reset may overtake or destroy what the other side has not read yet.
    pub fn part(&self) {
        self.shut(Shutdown::Write);
        *self.deadline.lock() = Some(Instant::now() + LAST_WORDS);
        let mut rest = [0; 1024];
        while matches!((&*self).read(&mut rest), Ok(1..)) {}
        self.shut_down();
    }
}

impl Read for &Socket {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.begin()?;
        match &self.kind {
            Kind::Unix(socket) => (&*socket).read(bytes),
            Kind::Tcp(socket) => (&*socket).read(bytes),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.begin()?;
        match &self.kind {
            Kind::Unix(socket) => (&*socket).write(bytes),
            Kind::Tcp(socket) => (&*socket).write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> std::io::Result<usize> {
        self.begin()?;
        match &self.kind {
            Kind::Unix(socket) => (&*socket).write_vectored(pieces),
            Kind::Tcp(socket) => (&*socket).write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(socket) => socket.as_fd(),
            Kind::Tcp(socket) => socket.as_fd(),
        }
    }
}
