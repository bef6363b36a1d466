//! The bytes of one log entry.
//!
//! | offset | bytes | field                                                     |
//! |--------|-------|-----------------------------------------------------------|
//! | 0      | 1     | format, 1                                                 |
//! | 1      | 8     | the leader's stamp: milliseconds since 1970, little-endian|
//! | 9      | n     | the request, as it was submitted                          |
//!
//! An entry without any bytes is the one that each new leader begins with; it carries no request.

use crate::base::codec::Reader;
use crate::base::{Error, Millis, Result, Term};

const FORMAT: u8 = 1;
/// Bytes before the request.
pub const HEAD_BYTES: usize = 9;

/// An entry for this request, not stamped yet. Made by the caller, so that the driving thread only writes the stamp.
pub fn frame(request: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + request.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(request);
    bytes
}

/// As `frame`, for what a leader found out by itself, such as that a session is silent: it counts only if this member
/// still leads in that term when it is proposed, and no other leader is asked to do it.
pub fn frame_in(request: &[u8], term: Term) -> Vec<u8> {
    let mut bytes = frame(request);
    bytes[1..HEAD_BYTES].copy_from_slice(&term.0.to_le_bytes());
    bytes
}

/// The term of `frame_in`; nothing for other entries. Only before the stamp is written.
pub fn only_in(entry: &[u8]) -> Option<Term> {
    let place = entry.get(1..HEAD_BYTES)?.try_into().ok()?;
    Some(Term(u64::from_le_bytes(place))).filter(|term| term.0 > 0)
}

/// Writes the stamp into an entry made by `frame`.
pub fn stamp(entry: &mut [u8], now: Millis) {
    entry[1..HEAD_BYTES].copy_from_slice(&now.0.to_le_bytes());
}

/// The stamp and the request of an entry.
pub fn split(entry: &[u8]) -> Result<(Millis, &[u8])> {
    let Some((head, request)) = entry.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Error::Poisoned(format!("a log entry of {} bytes has no room for its head", entry.len())));
    };
    if head[0] != FORMAT {
        return Err(Error::Poisoned(format!(
            "a log entry has format {}, this version knows {FORMAT}; use a newer raftwork",
            head[0]
        )));
    }
    let now = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
    Ok((Millis(now), request))
}

/// The operation of a request, if its beginning can be read.
pub fn operation(request: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(request);
    reader.array().ok()?;
    for _ in 0..3 {
        reader.u64().ok()?;
    }
    reader.array().ok()?;
    reader.u64().ok()
}
