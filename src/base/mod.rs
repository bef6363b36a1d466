//! The words that every other module uses. Depends on nothing in this crate.

pub mod checksum;
pub mod codec;
pub mod error;
pub mod ids;
pub mod limits;
pub mod pace;
pub mod planted;
pub mod sync;
pub mod time;

pub use error::{Error, Result};
pub use ids::{ClusterId, GroupId, JobId, LeaseToken, LogIndex, NodeId, SessionId, Term};
pub use pace::Pace;
pub use time::{Clock, Millis};

/// The release of raftwork that this is.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
