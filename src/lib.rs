//! raftwork: background jobs on an embedded Raft log. The map of this crate, in reading order, lowest layer first.
//!
//! ```text
//! py            the Python module: bytes in, bytes out (feature `python`)
//! client        one process's connection: session, sequence, take-over, prefetch
//! attach        other processes on this machine, over a Unix socket
//! node          threads, inbox, real clock
//! replica       one node without threads, driven by turns
//! backup
//! wal  snapshot
//! disk  machine  net  consensus  archive
//! base          ids, time, errors, codec, limits
//! ```

#![deny(unsafe_code)]

pub mod archive;
pub mod attach;
pub mod backup;
pub mod base;
pub mod client;
pub mod consensus;
pub mod disk;
pub mod machine;
pub mod net;
pub mod node;
#[cfg(feature = "python")]
mod py;
pub mod replica;
pub mod snapshot;
pub mod wal;
