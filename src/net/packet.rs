//! One frame between two processes, over any kind of stream. All numbers little-endian.
//!
//! | offset | bytes | field                                                                            |
//! |--------|-------|----------------------------------------------------------------------------------|
//! | 0      | 4     | length of everything behind these four bytes; 16 to the limit of the reader      |
//! | 4      | 4     | crc32c over the bytes from offset 8 to the end                                   |
//! | 8      | 1     | kind: what it means is the business of whoever speaks                            |
//! | 9      | 1     | flags, 0                                                                         |
//! | 10     | 2     | version of this format, [`VERSION`]                                              |
//! | 12     | 8     | id, chosen by the asking side; the answer carries the same                       |
//! | 20     | n     | payload                                                                          |
//!
//! Invariants
//! * The length is checked before anything is allocated for it, and room grows by what has arrived.
//! * A frame that is too short, too long, of another version or with a wrong checksum ends the connection: after it nothing
//!   on the stream can be trusted.
//! * The first frame of each side has version 1 in every release, see `versions`. Another version of the frame can be spoken
//!   only behind it, by those who agreed on a version of the conversation that has it.

use crate::base::{checksum, limits, Error, Result};
use std::io::{ErrorKind, Read};

/// Version of the frame.
pub const VERSION: u16 = 1;
/// Bytes before the payload, the length included.
pub const HEADER_BYTES: usize = 20;
/// Bytes that the length field counts when there is no payload.
const LENGTH_MIN: usize = HEADER_BYTES - 4;

/// One frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub id: u64,
    pub payload: Vec<u8>,
}

/// The bytes of one frame. A payload that is too long is the caller's mistake and is refused here, not by the peer.
pub fn encode(kind: u8, id: u64, payload: &[u8]) -> Result<Vec<u8>> {
    let length = LENGTH_MIN + payload.len();
    if length > limits::FRAME_BYTES_MAX {
        return Err(Error::Invalid(format!("{} bytes do not fit one frame", payload.len())));
    }
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.push(kind);
    bytes.push(0);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(payload);
    let sum = checksum::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Takes frames off a stream of bytes that nobody has checked.
#[derive(Debug)]
pub struct Frames {
    /// Received and not yet taken: `bytes[start..end]`. The rest is room.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Largest length field that is accepted.
    limit: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self::with_limit(limits::FRAME_BYTES_MAX)
    }
}

impl Frames {
    /// Room for one read. Grows by what has arrived, never by what a length field announces.
    const STEP: usize = 64 << 10;

    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses longer frames than this, and takes no more memory than for one of them: for a peer that has not shown yet
    /// who it is.
    pub fn with_limit(limit: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, limit }
    }

    /// From now on longer frames are accepted: the peer is known.
    pub fn raise_limit(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// The next whole frame among the bytes received so far.
    pub fn take(&mut self) -> Result<Option<Frame>> {
        let left = &self.bytes[self.start..self.end];
        if left.len() < 4 {
            return Ok(None);
        }
        let length = u32::from_le_bytes(array(left, 0)) as usize;
        if !(LENGTH_MIN..=self.limit).contains(&length) {
            return Err(Error::Invalid(match left {
                // The beginning of a TLS record: a handshake or an alert.
                [0x15 | 0x16, 3, ..] => {
                    "the other side speaks TLS, and this side does not; give it certificates too".into()
                }
                _ => format!("a frame of {length} bytes where at most {} are allowed", self.limit),
            }));
        }
        if left.len() < 4 + length {
            return Ok(None);
        }
        let frame = decode(&left[..4 + length])?;
        self.start += 4 + length;
        Ok(Some(frame))
    }

    /// Reads once from the stream. False at its end.
    pub fn fill(&mut self, stream: &mut impl Read) -> Result<bool> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let step = Self::STEP.min(self.limit + 4);
        if self.bytes.len() < self.end + step {
            self.bytes.resize(self.end + step, 0);
        } else if self.bytes.len() > 16 * Self::STEP && self.end < Self::STEP {
            self.bytes.truncate(2 * Self::STEP);
            self.bytes.shrink_to_fit();
        }
        loop {
            match stream.read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // What a process leaves that was killed with something unread: an end like any other.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(failed("read", error)),
            }
        }
    }
}

/// What a failed call on a stream means.
pub(super) fn failed(operation: &'static str, error: std::io::Error) -> Error {
    match error.kind() {
        // What a socket with a time-out says.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::TimedOut("the other side was silent for too long".into()),
        _ => error.downcast().unwrap_or_else(|error| Error::disk(operation, "the socket", &error)),
    }
}

fn decode(bytes: &[u8]) -> Result<Frame> {
    if checksum::crc32c(&bytes[8..]) != u32::from_le_bytes(array(bytes, 4)) {
        return Err(Error::Invalid("a frame with a wrong checksum".into()));
    }
    let version = u16::from_le_bytes(array(bytes, 10));
    if version != VERSION {
        return Err(Error::Invalid(format!("a frame of version {version}, this is version {VERSION}")));
    }
    Ok(Frame { kind: bytes[8], id: u64::from_le_bytes(array(bytes, 12)), payload: bytes[HEADER_BYTES..].to_vec() })
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the caller checked the length")
}
