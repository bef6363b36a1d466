//! Other processes on this machine: they reach the owner of the directory over a Unix socket.
//!
//! ```text
//! backend   what a client needs of whoever holds the state
//! wire      what a frame is for
//! message   what frames say
//! place     the socket in a directory, and who is at its other end
//! server    the owner's side: lets processes in
//! peer      the owner's side of one attached process
//! remote    the attached side
//! ```

pub mod backend;
pub mod message;
mod peer;
pub mod place;
pub mod remote;
pub mod server;
pub mod wire;

pub use backend::{Backend, Check, Done, WaitId, WatchEvent, WatchId, Watcher};
