//! What goes into the log and what comes back: the envelope of a request, and the meaning of a reply.

use crate::base::codec::{Reader, Writer};
use crate::base::{Error, LogIndex, Result, SessionId};
use std::fmt;

/// Operations that this layer writes itself or must recognise.
pub mod op {
    pub const OPEN_SESSION: u64 = 1;
    pub const CLOSE_SESSION: u64 = 2;
    pub const EXPIRE_SESSION: u64 = 3;
    pub const ENQUEUE: u64 = 4;
    pub const CLAIM: u64 = 5;
    pub const FINISH: u64 = 6;
    pub const PROGRESS: u64 = 7;
    pub const TICK: u64 = 13;
    pub const EVICT: u64 = 14;
}

/// Why a call of a client did not give an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request did not get through, or nobody knows whether it did.
    Error(Error),
    /// The state machine said no, and changed nothing. `details` is MessagePack.
    Refused { code: String, message: String, details: Vec<u8> },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => error.fmt(f),
            Failure::Refused { code, message, .. } => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Failure {}

/// `[session, sequence, acked_up_to, command]`.
pub fn envelope(session: SessionId, sequence: u64, acked_up_to: u64, command: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(command.len() + 28);
    out.array(4).u64(session.0).u64(sequence).u64(acked_up_to).raw(command);
    out.into_bytes()
}

/// The first item of a command.
pub fn operation(command: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(command);
    if reader.array()? == 0 {
        return Err(Error::Invalid("a command without an operation".into()));
    }
    reader.u64()
}

/// The index of a reply `[status, index, payload]`, whatever it says.
pub fn index_of(reply: &[u8]) -> Option<LogIndex> {
    let mut reader = Reader::new(reply);
    reader.array_of(3, "a reply").ok()?;
    reader.u64().ok()?;
    reader.u64().ok().map(LogIndex)
}

/// A reply `[status, index, payload]` that says yes, taken apart: the index and the payload.
pub fn accepted(reply: &[u8]) -> std::result::Result<(u64, &[u8]), Failure> {
    let mut reader = Reader::new(reply);
    reader.array_of(3, "a reply")?;
    let status = reader.u64()?;
    let index = reader.u64()?;
    if status == 0 {
        return Ok((index, reader.raw()?));
    }
    reader.array_of(3, "a refusal")?;
    let (code, message) = (reader.str()?.to_owned(), reader.str()?.to_owned());
    let details = reader.raw()?.to_vec();
    Err(match code.as_str() {
        "session_expired" => Failure::Error(Error::SessionExpired),
        "overloaded" => Failure::Error(Error::Overloaded(message)),
        "invalid" => Failure::Error(Error::Invalid(message)),
        // The answer was given before and forgotten: it may have been yes or no.
        "stale_sequence" => Failure::Error(Error::Unknown(message)),
        _ => Failure::Refused { code, message, details },
    })
}
