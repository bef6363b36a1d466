//! One file of the log, `w-<sequence>.seg`: a header of 4096 bytes, then groups, then zeros to the end.
//!
//! | offset | bytes | field                                                                            |
//! |--------|-------|----------------------------------------------------------------------------------|
//! | 0      | 8     | magic `RWWAL01\0`                                                                |
//! | 8      | 4     | format version, 1                                                                |
//! | 12     | 4     | flags, 0                                                                         |
//! | 16     | 16    | cluster id                                                                       |
//! | 32     | 8     | group id                                                                         |
//! | 40     | 8     | node id                                                                          |
//! | 48     | 8     | sequence of the segment, as in its name                                          |
//! | 56     | 8     | salt: random for each file, part of the checksum of each group                   |
//! | 64     | 8     | sequence of the first group in this file                                         |
//! | 72     | 4     | checksum of the body of the group before it                                      |
//! | 76     | 4     | zero                                                                             |
//! | 80     | 8     | bytes of the file                                                                |
//! | 88     | 8     | index that the next entry had when the file was made                             |
//! | 96     | 8     | term of the entry before that; 0 if there was none                               |
//! | 104    | 24    | hard state when the file was made: term, vote, commit                            |
//! | 128    | 8     | suspect index: a group that may have been acknowledged was cut up to it; or 0    |
//! | 136    | 16    | last mark when the file was made: index, term                                    |
//! | 152    | 4     | bytes of the configuration                                                       |
//! | 156    | n     | configuration when the file was made, then zeros                                 |
//! | 4092   | 4     | crc32c over the 4092 bytes before                                                |
//!
//! Invariants
//! * A file gets its name only after its whole length and its header are on disk. So a short file or a bad header is
//!   damage, never the trace of a power cut.
//! * The header repeats the state of the log, so that all older files can go.
//! * A file whose first group is not later than that of an older file replaces the older file. This is how the last
//!   segment is written anew when the log is opened: the old file stays valid until the new one has its name.
//! * Magic, version and checksum keep their places in every version.

use std::path::Path;

use bytes::Bytes;

use super::{HardState, Mark};
use crate::base::checksum::crc32c;
use crate::base::{ClusterId, Error, GroupId, NodeId, Result};
use crate::disk::Identity;

/// Bytes of a segment's header; the first group follows.
pub const HEADER_BYTES: usize = 4096;
/// Largest configuration that fits into the header.
pub const CONF_BYTES_MAX: usize = CRC_AT - CONF_AT;

/// Largest index and sequence. A million a second would take 146,000 years to get there.
pub const COUNTER_MAX: u64 = 1 << 62;

const MAGIC: &[u8; 8] = b"RWWAL01\0";
const VERSION: u32 = 1;
const CONF_AT: usize = 156;
const CRC_AT: usize = HEADER_BYTES - 4;

/// The state of the log at the start of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub cluster: ClusterId,
    pub group: GroupId,
    pub node: NodeId,
    pub sequence: u64,
    pub salt: u64,
    pub first_group: u64,
    pub chain: u32,
    pub segment_bytes: u64,
    pub first_index: u64,
    pub previous_term: u64,
    pub hard_state: HardState,
    pub suspect_upto: u64,
    pub mark: Mark,
    pub conf_state: Bytes,
}

/// The salt in the header at the front of a file, wherever else that is damaged; nothing if the file is shorter.
pub fn salt_in(bytes: &[u8]) -> Option<u64> {
    bytes.get(..HEADER_BYTES).map(|header| u64::from_le_bytes(header[56..64].try_into().expect("eight bytes")))
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        for number in [self.group.0, self.node.0, self.sequence, self.salt, self.first_group, u64::from(self.chain)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let HardState { term, vote, commit } = self.hard_state;
        for number in [self.segment_bytes, self.first_index, self.previous_term, term, vote, commit] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.suspect_upto, self.mark.index, self.mark.term] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        assert!(self.conf_state.len() <= CONF_BYTES_MAX, "append refuses a larger configuration");
        out.extend_from_slice(&(self.conf_state.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.conf_state);
        out.resize(CRC_AT, 0);
        let checksum = crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header that nobody has checked. `path` is for the error.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<SegmentHeader> {
        let corrupt = |message: &str| damaged(path, 0, message);
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(corrupt("the file is shorter than the header of a segment"));
        };
        let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if crc32c(&header[..CRC_AT]) != half(CRC_AT) || &header[..8] != MAGIC {
            return Err(corrupt("the header of the segment does not match its checksum"));
        }
        if half(8) != VERSION {
            return Err(Error::Foreign(format!(
                "{} has format version {}, this program knows {VERSION}; use a newer raftwork",
                path.display(),
                half(8)
            )));
        }
        let conf_bytes = half(152) as usize;
        if half(12) != 0 || half(76) != 0 || conf_bytes > CONF_BYTES_MAX {
            return Err(corrupt("the header of the segment has fields that this version does not know"));
        }
        // Counters that a log never reaches; below them, no sum in the reader can overflow.
        let counters = [word(48), word(64), word(88), word(120), word(128), word(136)];
        if word(64) == 0 || word(88) == 0 || counters.iter().any(|counter| *counter > COUNTER_MAX) {
            return Err(corrupt("the header of the segment has numbers that no log has"));
        }
        Ok(SegmentHeader {
            cluster: ClusterId::from_slice(&header[16..32]).expect("sixteen bytes"),
            group: GroupId(word(32)),
            node: NodeId(word(40)),
            sequence: word(48),
            salt: word(56),
            first_group: word(64),
            chain: half(72),
            segment_bytes: word(80),
            first_index: word(88),
            previous_term: word(96),
            hard_state: HardState { term: word(104), vote: word(112), commit: word(120) },
            suspect_upto: word(128),
            mark: Mark { index: word(136), term: word(144) },
            conf_state: Bytes::copy_from_slice(&header[CONF_AT..CONF_AT + conf_bytes]),
        })
    }

    /// Refuses the log of another cluster, group or node.
    pub fn check_owner(&self, path: &Path, identity: &Identity) -> Result<()> {
        if (self.cluster, self.group, self.node) == (identity.cluster, identity.group, identity.node) {
            return Ok(());
        }
        Err(Error::Foreign(format!(
            "{} belongs to cluster {}, group {}, node {}; this directory to cluster {}, group {}, node {}; put the right \
             file back",
            path.display(),
            self.cluster,
            self.group,
            self.node,
            identity.cluster,
            identity.group,
            identity.node
        )))
    }
}

/// Name of the segment with this sequence.
pub fn file_name(sequence: u64) -> String {
    format!("w-{sequence:016x}.seg")
}

/// The sequence in the name of a segment; nothing if it is no such name.
pub fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("w-")?.strip_suffix(".seg")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

/// Stored data is not what was written: where, what, and what to do.
pub fn damaged(path: &Path, offset: u64, message: &str) -> Error {
    let dir = path.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    Error::Corrupt {
        path: path.display().to_string(),
        offset,
        message: format!("{message}; nothing was changed, run `raftwork doctor {}`", dir.display()),
    }
}
