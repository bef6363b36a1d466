//! Other processes on this machine: they reach the owner of the directory over a Unix socket.
//!
//! ```text
//! backend   what a client needs of whoever holds the state
//! wire      what a frame is for
//! message   what frames say
//! place     the socket in a directory, and who is at its other end
//! quota     how much one client may ask for in a second
//! server    the owner's side: lets processes in
//! door      who is let in, and what each frame needs
//! registered  what one connection may have at a time
//! peer      the owner's side of one attached process
//! remote    the attached side
//! silence   whether the owner hangs
//! ```

pub mod backend;
mod door;
pub mod message;
mod peer;
pub mod place;
mod quota;
mod registered;
pub mod remote;
pub mod server;
mod silence;
pub mod wire;

pub use backend::{Ask, Backend, Check, Done, View, WaitId, WatchEvent, WatchId, Watcher};
