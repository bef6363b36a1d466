//! One group: what one write and one sync make durable together. It begins at a multiple of 8 bytes.
//!
//! | offset | bytes | field                                                                        |
//! |--------|-------|------------------------------------------------------------------------------|
//! | 0      | 4     | crc32c over the segment's salt and bytes 4..48                               |
//! | 4      | 4     | bytes of the body, without padding                                           |
//! | 8      | 8     | sequence of the group: one more than the one before, across segments         |
//! | 16     | 8     | index of the first entry; 0 if there is none                                 |
//! | 24     | 8     | index of the last entry; 0 if there is none                                  |
//! | 32     | 8     | term of the last entry; 0 if there is none                                   |
//! | 40     | 4     | crc32c over the body, seeded with this field of the group before             |
//! | 44     | 4     | flags: 1 hard state, 2 configuration, 8 mark, 16 restart, 1<<31 always set    |
//! | 48     | n     | body, then zeros up to a multiple of 8                                       |
//!
//! The body holds what the flags announce, in this order: hard state (term, vote, commit: 24 bytes), configuration (u32
//! length and bytes), mark (index, term: 16 bytes); then the entries:
//!
//! | offset | bytes | field                          |
//! |--------|-------|--------------------------------|
//! | 0      | 4     | bytes of the data              |
//! | 4      | 1     | kind                           |
//! | 5      | 1     | flags, 0                       |
//! | 6      | 2     | bytes of the context           |
//! | 8      | 8     | term                           |
//! | 16     | 8     | index                          |
//! | 24     | n     | context, then data             |
//!
//! Invariants
//! * All numbers are little-endian. The last flag is always set, so that both ends of a header are not zero: a torn write
//!   that lost one sector of a header can be told from a header with a damaged bit.
//! * The header has its own checksum, so that a group can be recognised even where everything before it is damaged. The
//!   salt keeps bytes of another file, or of an earlier use of this one, from being taken for a group.

use bytes::Bytes;

use super::segment::COUNTER_MAX;
use super::{Group, HardState, Mark, WalEntry};
use crate::base::checksum::{crc32c, crc32c_append};

/// Bytes of a group's header.
pub const HEADER_BYTES: usize = 48;
/// Groups begin at multiples of this.
pub const ALIGNMENT: usize = 8;
/// Bytes of an entry besides its context and data.
pub const ENTRY_BYTES: usize = 24;
/// Largest context of one entry: its length has two bytes.
pub const CONTEXT_BYTES_MAX: usize = u16::MAX as usize;

const HARD_STATE: u32 = 1;
const CONF_STATE: u32 = 2;
const MARK: u32 = 8;
const RESTART: u32 = 16;
const ALWAYS: u32 = 1 << 31;
const KNOWN: u32 = HARD_STATE | CONF_STATE | MARK | RESTART | ALWAYS;

/// A header whose checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub body_bytes: usize,
    pub sequence: u64,
    pub first_index: u64,
    pub last_index: u64,
    pub term: u64,
    pub body_crc: u32,
    flags: u32,
}

/// A group read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupContent {
    pub hard_state: Option<HardState>,
    pub conf_state: Option<Bytes>,
    pub mark: Option<Mark>,
    pub restart: bool,
    pub entries: Vec<WalEntry>,
}

/// Bytes that a group takes in the file.
pub fn group_bytes(group: &Group<'_>) -> usize {
    let state = if group.hard_state.is_some() { 24 } else { 0 };
    let conf = group.conf_state.map_or(0, |bytes| 4 + bytes.len());
    let mark = if group.mark.is_some() { 16 } else { 0 };
    padded(HEADER_BYTES + state + conf + mark + group.entries.iter().map(entry_bytes).sum::<usize>())
}

/// Bytes that an entry takes in the body of a group.
pub fn entry_bytes(entry: &WalEntry) -> usize {
    ENTRY_BYTES + entry.context.len() + entry.data.len()
}

/// The next multiple of 8.
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Appends an encoded group to the buffer and returns the checksum of its body, which seeds the next one.
pub fn encode(out: &mut Vec<u8>, salt: u64, sequence: u64, chain: u32, group: &Group<'_>) -> u32 {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let flags = encode_body(out, group);
    let body_bytes = out.len() - start - HEADER_BYTES;
    let body_crc = crc32c_append(chain, &out[start + HEADER_BYTES..]);
    out.resize(start + padded(HEADER_BYTES + body_bytes), 0);

    let (first, last) = (group.entries.first(), group.entries.last());
    let header = &mut out[start..start + HEADER_BYTES];
    let length = u32::try_from(body_bytes).expect("the log splits groups long before 4 GiB");
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&first.map_or(0, |entry| entry.index).to_le_bytes());
    header[24..32].copy_from_slice(&last.map_or(0, |entry| entry.index).to_le_bytes());
    header[32..40].copy_from_slice(&last.map_or(0, |entry| entry.term).to_le_bytes());
    header[40..44].copy_from_slice(&body_crc.to_le_bytes());
    header[44..48].copy_from_slice(&flags.to_le_bytes());
    seal_header(header, salt);
    body_crc
}

fn encode_body(out: &mut Vec<u8>, group: &Group<'_>) -> u32 {
    let mut flags = ALWAYS;
    if let Some(state) = group.hard_state {
        flags |= HARD_STATE;
        for number in [state.term, state.vote, state.commit] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    if let Some(bytes) = group.conf_state {
        flags |= CONF_STATE;
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    if let Some(mark) = group.mark {
        flags |= MARK;
        out.extend_from_slice(&mark.index.to_le_bytes());
        out.extend_from_slice(&mark.term.to_le_bytes());
        flags |= if group.restart { RESTART } else { 0 };
    }
    for entry in group.entries {
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&[entry.kind, 0]);
        out.extend_from_slice(&(entry.context.len() as u16).to_le_bytes());
        out.extend_from_slice(&entry.term.to_le_bytes());
        out.extend_from_slice(&entry.index.to_le_bytes());
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
    }
    flags
}

/// Writes the checksum of a header under this salt. Also used to move a group to a file with another salt.
pub fn seal_header(header: &mut [u8], salt: u64) {
    let checksum = header_crc(header, salt);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn header_crc(header: &[u8], salt: u64) -> u32 {
    crc32c_append(crc32c(&salt.to_le_bytes()), &header[4..HEADER_BYTES])
}

impl GroupHeader {
    /// Reads the header at the start of these bytes; nothing if its checksum is wrong under this salt.
    pub fn decode(bytes: &[u8], salt: u64) -> Option<GroupHeader> {
        let header = bytes.get(..HEADER_BYTES)?;
        let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let flags = half(44);
        // The cheap test first: the search for groups behind damage asks this at every multiple of 8.
        if flags & ALWAYS == 0 || header_crc(header, salt) != half(0) {
            return None;
        }
        let (first_index, last_index) = (word(16), word(24));
        Some(GroupHeader {
            body_bytes: half(4) as usize,
            sequence: word(8),
            first_index,
            last_index,
            term: word(32),
            body_crc: half(40),
            flags,
        })
    }

    /// The length of the body of a group that is known to be valid.
    pub fn body_length(group: &[u8]) -> usize {
        u32::from_le_bytes(group[4..8].try_into().expect("four bytes")) as usize
    }

    /// Bytes of the whole group in the file.
    pub fn group_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.body_bytes)
    }

    /// Whether these bytes are the body that was written, given the body checksum of the group before.
    pub fn matches(&self, body: &[u8], chain: u32) -> bool {
        crc32c_append(chain, body) == self.body_crc
    }

    /// Reads a body whose checksum was right. An error means that a program wrote something else than this one would.
    pub fn content(&self, body: &Bytes) -> Result<GroupContent, &'static str> {
        if self.flags & !KNOWN != 0 {
            return Err("the group has flags that this version does not know");
        }
        let mut cursor = Cursor { bytes: body, position: 0 };
        let mut content = GroupContent::default();
        if self.flags & HARD_STATE != 0 {
            content.hard_state = Some(HardState { term: cursor.u64()?, vote: cursor.u64()?, commit: cursor.u64()? });
        }
        if self.flags & CONF_STATE != 0 {
            let length = cursor.u32()? as usize;
            content.conf_state = Some(cursor.take(length)?);
        }
        if self.flags & MARK != 0 {
            content.mark = Some(Mark { index: cursor.u64()?, term: cursor.u64()? });
        }
        content.restart = self.flags & RESTART != 0;
        if content.restart && content.mark.is_none() {
            return Err("the group begins the log anew without saying where");
        }
        while cursor.position < body.len() {
            content.entries.push(cursor.entry()?);
        }
        self.check(&content)?;
        Ok(content)
    }

    fn check(&self, content: &GroupContent) -> Result<(), &'static str> {
        let ends = match (content.entries.first(), content.entries.last()) {
            (Some(first), Some(last)) => (first.index, last.index, last.term),
            _ => (0, 0, 0),
        };
        if ends != (self.first_index, self.last_index, self.term) {
            return Err("the header of the group does not describe its entries");
        }
        let largest = self.last_index.max(content.mark.map_or(0, |mark| mark.index)).max(content.commit());
        if largest > COUNTER_MAX {
            return Err("the group has an index that no log has");
        }
        let mut pairs = content.entries.windows(2);
        if pairs.any(|pair| pair[0].index.checked_add(1) != Some(pair[1].index) || pair[0].term > pair[1].term) {
            return Err("the entries of the group are out of order");
        }
        Ok(())
    }
}

impl GroupContent {
    fn commit(&self) -> u64 {
        self.hard_state.map_or(0, |state| state.commit)
    }
}

/// Reads a body without copying its entries.
struct Cursor<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl Cursor<'_> {
    fn take(&mut self, length: usize) -> Result<Bytes, &'static str> {
        if length > self.bytes.len() - self.position {
            return Err("the body of the group ends too early");
        }
        self.position += length;
        Ok(self.bytes.slice(self.position - length..self.position))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let end = self.position.checked_add(N).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the body of the group ends too early")?;
        let array = self.bytes[self.position..end].try_into().expect("the slice has this length");
        self.position = end;
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    fn entry(&mut self) -> Result<WalEntry, &'static str> {
        let data_bytes = self.u32()? as usize;
        let [kind, flags] = self.array()?;
        if flags != 0 {
            return Err("an entry has flags that this version does not know");
        }
        let context_bytes = u16::from_le_bytes(self.array()?) as usize;
        let (term, index) = (self.u64()?, self.u64()?);
        let context = self.take(context_bytes)?;
        let data = self.take(data_bytes)?;
        Ok(WalEntry { term, index, kind, data, context })
    }
}
