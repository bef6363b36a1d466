//! Plain or TLS, and where plain is allowed.

use super::address::is_loopback;
use super::socket::Socket;
use super::{Address, Certified, Role, Stream, Tls};
use crate::base::{limits, Error, Result};
use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How bytes are protected on their way.
#[derive(Clone)]
pub enum Security {
    /// Not at all, and only between processes of this machine: any other address is refused.
    Plain,
    /// Not at all, to any address. The caller has made sure that somebody wants it so.
    Insecure,
    /// TLS 1.3. Nodes have certificates, and so have clients, unless they show a token.
    Tls(Arc<Tls>),
}

/// Who is let in by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admit {
    pub nodes: bool,
    pub clients: bool,
    /// Also whoever has no certificate: one that joins. The server decides by its first frame.
    pub strangers: bool,
}

impl Admit {
    pub const NODES: Admit = Admit { nodes: true, clients: false, strangers: false };
    pub const ALL: Admit = Admit { nodes: true, clients: true, strangers: false };
    /// Also whoever shows a token, or an invitation, in its first frame.
    pub const ANYBODY: Admit = Admit { nodes: true, clients: true, strangers: true };

    pub(super) fn lets_in(&self, role: &Role) -> bool {
        match role {
            Role::Node => self.nodes,
            Role::Client(_) => self.clients,
        }
    }
}

impl fmt::Display for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.nodes, self.clients) {
            (true, true) => "nodes and clients",
            (true, false) => "nodes",
            (false, true) => "clients",
            (false, false) => "nobody",
        })
    }
}

impl Security {
    /// Refuses what would be open to other machines without protection.
    pub(super) fn check(&self, resolved: &[SocketAddr], shown: &Address) -> Result<()> {
        match self {
            Security::Plain if !resolved.iter().all(is_loopback) => Err(Error::Invalid(format!(
                "{shown} is not on this machine alone, and without TLS whoever reaches it can read and run jobs; give \
                 certificates (tls_ca, tls_certificate, tls_key), or use a loopback address such as 127.0.0.1"
            ))),
            _ => Ok(()),
        }
    }

    /// The side that connected: ends with a stream to somebody known.
    pub(super) fn begin(&self, socket: Arc<Socket>, deadline: Instant) -> Result<(Stream, Option<Certified>)> {
        socket.set_deadline(Some(deadline))?;
        match self {
            Security::Tls(tls) => tls.connect(socket).map(|(stream, certified)| (stream, Some(certified))),
            _ => Ok((Stream::plain(socket), None)),
        }
    }

    /// The side that accepted.
    pub(super) fn accept(
        &self,
        socket: Arc<Socket>,
        admit: Admit,
        deadline: Instant,
    ) -> Result<(Stream, Option<Certified>)> {
        socket.set_deadline(Some(deadline))?;
        match self {
            Security::Tls(tls) => tls.accept(socket, admit),
            _ => Ok((Stream::plain(socket), None)),
        }
    }
}

/// Connects, and knows who is on the other side when it returns. The stream keeps the deadline until another one is set.
pub fn connect(address: &Address, security: &Security, deadline: Instant) -> Result<(Stream, Option<Certified>)> {
    let silence = Duration::from_millis(limits::SILENCE_MS);
    security.begin(dial(address, security, deadline, silence)?, deadline)
}

/// A connected socket to the first of its addresses that answers.
pub(super) fn dial(
    address: &Address,
    security: &Security,
    deadline: Instant,
    silence: Duration,
) -> Result<Arc<Socket>> {
    if address.port() == 0 {
        return Err(Error::Invalid(format!(
            "address {address}: port 0 is for listening; name the port that is listened at"
        )));
    }
    let resolved = address.resolve_until(deadline)?;
    security.check(&resolved, address)?;
    let mut failure = ErrorKind::TimedOut.into();
    for one in &resolved {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(one, left.min(Duration::from_millis(limits::CONNECT_MS))) {
            // Where nobody listens, a socket may by chance connect with itself: its own port was the one it asked for.
            Ok(socket) if socket.local_addr().ok() == socket.peer_addr().ok() => {
                failure = ErrorKind::ConnectionRefused.into();
            }
            Ok(socket) => match Socket::tcp(socket, silence) {
                Ok(socket) => return Ok(Arc::new(socket)),
                Err(error) => failure = error,
            },
            Err(error) => failure = error,
        }
    }
    Err(Error::disk("connect to", address, &failure))
}
