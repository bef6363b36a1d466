//! Connections between processes. Knows nothing of jobs or consensus: bytes in frames, from whom, and how many at most.
//!
//! ```text
//! packet     one frame
//! versions   which version of a conversation both sides speak
//! socket     a Unix or TCP socket whose calls end at a deadline
//! inherited  sockets that a forked child lets go of
//! stream     a connected stream: Unix, TCP, or TLS on TCP
//! outgoing   sending without being blocked by a slow reader
//! address    host:port
//! names      what a host's name stands for, within a time
//! security   plain or TLS, and where plain is allowed
//! tls        handshakes; certificates that are read again when their files change
//! credentials what is in these files
//! certified  whom a certificate names: cluster and role
//! judge      which certificates are let in
//! validity   until when they are
//! pki        a cluster's own authority: makes certificates
//! private    files that are their owner's alone
//! invitation one line of text to join a cluster with
//! token      the secret that a client shows
//! listener   accepts connections, within budgets
//! dialer     keeps one connection up
//! web        answers probes and metrics over HTTP
//! seldom     log lines that a stranger could make many of
//! ```

pub mod address;
pub mod certified;
mod credentials;
pub mod dialer;
mod inherited;
pub mod invitation;
mod judge;
pub mod listener;
mod names;
mod outgoing;
pub mod packet;
pub mod pki;
mod private;
pub mod security;
mod seldom;
mod socket;
mod stream;
pub mod tls;
pub mod token;
mod validity;
pub mod versions;
pub mod web;

pub use address::Address;
pub use certified::{Certified, Role};
pub use dialer::{Change, Dialer, DialerConfig};
pub use inherited::{held_over_a_fork, open_sockets};
pub use invitation::Invitation;
pub use listener::{Accepted, Listener, ListenerConfig, Tally, SHORT_OF_MEANS};
pub use outgoing::{together, Outgoing};
pub use packet::{Frame, Frames};
pub use pki::{Authority, Lifetime};
pub use security::{connect, Admit, Security};
pub use seldom::Seldom;
pub use stream::Stream;
pub use tls::{Fingerprint, Tls};
pub use token::Secret;
pub use versions::Versions;

use crate::base::{Error, Result};

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // So few bytes come at once or not at all.
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()))
        .map_err(|error| Error::disk("ask for", "random bytes", &error.into()))?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
