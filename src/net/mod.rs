//! Connections between processes. Knows nothing of jobs or consensus: bytes in frames, from whom, and how many at most.
//!
//! ```text
//! packet     one frame
//! socket     a Unix or TCP socket whose calls end at a deadline
//! stream     a connected stream: Unix, TCP, or TLS on TCP
//! outgoing   sending without being blocked by a slow reader
//! address    host:port
//! security   plain or TLS, and where plain is allowed
//! tls        handshakes; certificates that are read again when their files change
//! credentials what is in these files
//! certified  whom a certificate names: cluster and role
//! judge      which certificates are let in
//! listener   accepts connections, within budgets
//! dialer     keeps one connection up
//! seldom     log lines that a stranger could make many of
//! ```

pub mod address;
pub mod certified;
mod credentials;
pub mod dialer;
mod judge;
pub mod listener;
mod outgoing;
pub mod packet;
pub mod security;
mod seldom;
mod socket;
mod stream;
pub mod tls;

pub use address::Address;
pub use certified::{Certified, Role};
pub use dialer::{Change, Dialer, DialerConfig};
pub use listener::{Accepted, Listener, ListenerConfig};
pub use outgoing::Outgoing;
pub use packet::{Frame, Frames};
pub use security::{connect, Admit, Security};
pub use stream::Stream;
pub use tls::Tls;
