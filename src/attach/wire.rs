//! One frame between a process and the owner of its directory, over a Unix socket. All numbers little-endian.
//!
//! | offset | bytes | field                                                                    |
//! |--------|-------|--------------------------------------------------------------------------|
//! | 0      | 4     | length of everything behind these four bytes; 16 to `FRAME_BYTES_MAX`    |
//! | 4      | 4     | crc32c over the bytes from offset 8 to the end                           |
//! | 8      | 1     | kind, see [`Kind`]                                                       |
//! | 9      | 1     | flags, 0                                                                 |
//! | 10     | 2     | version of this format, [`VERSION`]                                      |
//! | 12     | 8     | request id, chosen by the asking side; the answer carries the same       |
//! | 20     | n     | payload                                                                  |
//!
//! Invariants
//! * The length is checked before anything is allocated for it.
//! * A frame that is too short, too long, of another version, of an unknown kind or with a wrong checksum ends the
//!   connection: after it nothing on the stream can be trusted.
//! * The first frame is `Hello`, the second `Welcome` (or `Refused`); both carry the magic, the cluster and the group.

use crate::base::{checksum, limits, Error, Result};
use std::io::{ErrorKind, Read};

/// Version of the frame and of the messages in it.
pub const VERSION: u16 = 1;
/// First bytes of the payload of `Hello` and `Welcome`.
pub const MAGIC: &[u8; 8] = b"RAFTWORK";
/// Bytes before the payload, the length included.
pub const HEADER_BYTES: usize = 20;
/// Bytes that the length field counts when there is no payload.
const LENGTH_MIN: usize = HEADER_BYTES - 4;

/// What a frame says. Numbers below 64 go to the owner, from 64 on they come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who asks: magic, cluster, group, process. Answer: `Welcome` or `Refused`.
    Hello = 1,
    /// A request for the log. Answer: `Reply`.
    Submit = 2,
    /// A question about the state. Answer: `Reply`.
    View = 3,
    /// Tell me when this job is final. Answer: `Reply` without bytes, whenever that is.
    Wait = 4,
    /// Forget the `Wait` with this request id. No answer.
    ForgetWait = 5,
    /// This connection wants the events of a session; the request id names the watch. Answer: `Event` frames.
    Watch = 6,
    /// No more events for this watch. No answer.
    Unwatch = 7,
    /// Tell this watch once when a claim of these queues and functions could succeed. Answer: an `Event`,
    /// sooner or later.
    Arm = 8,
    /// The session lives, and belongs to this connection. Answer: `Reply` without bytes.
    Heartbeat = 9,
    /// Answer: `Reply` with the health of the node.
    Health = 10,
    /// Takes `Arm` back. No answer.
    Disarm = 11,
    /// Answer to anything: status 0 and bytes, or an error.
    Reply = 64,
    /// The connection is open: magic, cluster, group, process of the owner.
    Welcome = 65,
    /// The connection is not accepted; an error. The stream ends.
    Refused = 66,
    /// Something happened to a watched session.
    Event = 67,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        let owner = [Hello, Submit, View, Wait, ForgetWait, Watch, Unwatch, Arm, Heartbeat, Health, Disarm];
        let attached = [Reply, Welcome, Refused, Event];
        owner.into_iter().chain(attached).find(|kind| *kind as u8 == byte)
    }
}

/// One frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub id: u64,
    pub payload: Vec<u8>,
}

/// The bytes of one frame. A payload that is too long is the caller's mistake and is refused here, not by the peer.
pub fn encode(kind: Kind, id: u64, payload: &[u8]) -> Result<Vec<u8>> {
    let length = LENGTH_MIN + payload.len();
    if length > limits::FRAME_BYTES_MAX {
        return Err(Error::Invalid(format!("{} bytes do not fit one frame", payload.len())));
    }
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.push(kind as u8);
    bytes.push(0);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(payload);
    let sum = checksum::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Takes frames off a stream of bytes that nobody has checked.
#[derive(Debug, Default)]
pub struct Frames {
    /// Received and not yet taken: `bytes[start..end]`. The rest is room.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Frames {
    /// Room for one read. Grows by what has arrived, never by what a length field announces.
    const STEP: usize = 64 << 10;

    pub fn new() -> Self {
        Self::default()
    }

    /// The next whole frame among the bytes received so far.
    pub fn take(&mut self) -> Result<Option<Frame>> {
        let left = &self.bytes[self.start..self.end];
        if left.len() < 4 {
            return Ok(None);
        }
        let length = u32::from_le_bytes(array(left, 0)) as usize;
        if !(LENGTH_MIN..=limits::FRAME_BYTES_MAX).contains(&length) {
            return Err(Error::Invalid(format!("a frame of {length} bytes")));
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
        if self.bytes.len() < self.end + Self::STEP {
            self.bytes.resize(self.end + Self::STEP, 0);
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
                Err(error) => return Err(Error::disk("read", "the socket", &error)),
            }
        }
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
    let kind = Kind::from_byte(bytes[8]).ok_or_else(|| Error::Invalid(format!("a frame of kind {}", bytes[8])))?;
    Ok(Frame { kind, id: u64::from_le_bytes(array(bytes, 12)), payload: bytes[HEADER_BYTES..].to_vec() })
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the caller checked the length")
}
