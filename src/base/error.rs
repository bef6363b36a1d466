//! What can go wrong below the state machine: each variant is a different thing that the caller can do.
//!
//! A refusal of the state machine (`LeaseLost`, `Conflict`, ...) is not an error but an answer, see `machine::outcome`.

use std::fmt;

use super::Millis;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request could not be understood. Nothing was sent. The caller's mistake.
    Invalid(String),
    /// The write is definitely not and will never be applied; it may be sent again.
    NotCommitted(String),
    /// The write may or may not be applied; sending it again under the same session and sequence is safe.
    Unknown(String),
    /// Queues are full. Nothing was accepted; try again later.
    Overloaded(String),
    /// The time that the caller gave ran out before an answer came. For a write: `Unknown`.
    TimedOut(String),
    /// The state at hand can be so old (nothing: nobody knows), and the caller allows only so much.
    TooStale { age: Option<Millis>, most: Millis },
    /// The disk has no room. Nothing was lost; the node resumes when there is room.
    DiskFull(String),
    /// An operation of the disk failed: what, on which path, the system's words. A failed write or sync poisons the node.
    Disk { operation: &'static str, path: String, message: String },
    /// Stored data is not what was written. `hint` is the command that shows it.
    Corrupt { path: String, offset: u64, message: String },
    /// Another process owns the data directory.
    Busy { path: String, holder: String },
    /// The data directory belongs to another cluster, or to a newer version, or others may write to it.
    Foreign(String),
    /// The data directory is that of one member of a cluster, and this is asked of it as if it were alone. Nothing was done.
    Member(String),
    /// Whoever asked may not do that: who, as the cluster knows it, and the capability that is lacking. Nothing was done.
    Denied { principal: String, capability: String },
    /// The cluster does not know who asks. Nothing was done.
    Unauthenticated(String),
    /// Nobody knows the job that was asked about: never enqueued, deleted, or past its retention.
    NotFound(String),
    /// This node stopped after an earlier failure; the text is the cause.
    Poisoned(String),
    /// The state of this member is not that of a majority of the others, so it stopped for good (L6).
    Differs(String),
    /// The node failed in the same way again and again: to open its directory once more does not mend that.
    CrashLoop(String),
    /// This node, or this client, was closed.
    Closed,
    /// The session ended (not heard of for its time to live, or closed). Its leases are gone.
    SessionExpired,
    /// The calling process is a forked child of the one that opened this.
    Forked,
}

impl Error {
    /// A failed call of the operating system, with the path it was for.
    pub fn disk(operation: &'static str, path: impl fmt::Display, error: &std::io::Error) -> Error {
        if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return Error::DiskFull(format!("{operation} {path}: {error}"));
        }
        Error::Disk { operation, path: path.to_string(), message: error.to_string() }
    }

    /// Whether a write that failed with this error is known to have had no effect.
    pub fn is_definite(&self) -> bool {
        matches!(
            self,
            Error::Invalid(_)
                | Error::NotCommitted(_)
                | Error::Overloaded(_)
                | Error::DiskFull(_)
                | Error::Member(_)
                | Error::Denied { .. }
                | Error::Unauthenticated(_)
                | Error::Forked
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(what) => write!(f, "invalid request: {what}"),
            Error::NotCommitted(why) => write!(f, "not committed: {why}"),
            Error::Unknown(why) => write!(f, "outcome unknown: {why}"),
            Error::Overloaded(what) => write!(f, "overloaded: {what}"),
            Error::TimedOut(what) => write!(f, "timed out: {what}"),
            Error::TooStale { age: Some(age), most } => {
                write!(f, "too stale: the answer can be {} ms old, and may be {} ms", age.0, most.0)
            }
            Error::TooStale { age: None, most } => {
                write!(f, "too stale: it is not known how old the answer is, and it may be {} ms", most.0)
            }
            Error::DiskFull(what) => write!(f, "disk full: {what}"),
            Error::Disk { operation, path, message } => write!(f, "{operation} failed on {path}: {message}"),
            Error::Corrupt { path, offset, message } => {
                write!(f, "corrupt data in {path} at byte {offset}: {message}")
            }
            Error::Busy { path, holder } => write!(f, "{path} is in use by {holder}"),
            Error::Foreign(what) | Error::Member(what) => write!(f, "refused: {what}"),
            Error::Denied { principal, capability } => {
                write!(f, "access denied: {principal} lacks the capability {capability}")
            }
            Error::Unauthenticated(why) => write!(f, "access denied: {why}"),
            Error::NotFound(what) => write!(f, "not found: {what}"),
            Error::Poisoned(cause) => write!(f, "the node stopped: {cause}"),
            Error::Differs(what) | Error::CrashLoop(what) => f.write_str(what),
            Error::Closed => write!(f, "closed"),
            Error::SessionExpired => write!(f, "the session expired"),
            Error::Forked => write!(f, "used in a forked child of the process that opened it"),
        }
    }
}

impl std::error::Error for Error {}
