//! One snapshot file, `c-<index>-<term>.rws`: a header, chunks, a footer.
//!
//! Header
//!
//! | offset | bytes | field                                                        |
//! |--------|-------|--------------------------------------------------------------|
//! | 0      | 8     | magic `RWSNAP1\0`                                            |
//! | 8      | 4     | format version, 2                                            |
//! | 12     | 4     | flags, 0                                                     |
//! | 16     | 16    | cluster id                                                   |
//! | 32     | 8     | group id                                                     |
//! | 40     | 8     | index of the last entry contained                            |
//! | 48     | 8     | term of that entry                                           |
//! | 56     | 8     | cluster time at that entry, milliseconds                     |
//! | 64     | 8     | salt: random for each file, part of the checksum of a chunk  |
//! | 72     | 4     | version of the state machine's records                       |
//! | 76     | 2     | number of voters                                             |
//! | 78     | 2     | number of learners                                           |
//! | 80     | 8 n   | node ids: voters, then learners                              |
//! | ..     | 4     | crc32c over the header before                                |
//! | ..     | 2     | number of outgoing voters, if the configuration is joint     |
//! | ..     | 2     | number of voters that become learners when it ends           |
//! | ..     | 4     | flags: 1 it ends by itself                                   |
//! | ..     | 8 n   | node ids: outgoing voters, then next learners                |
//! | ..     | 4     | crc32c over the second part, continuing the one before       |
//!
//! Version 1 has no second part. Up to the first checksum every version is alike, so that an older program can tell a
//! newer file from a damaged one.
//!
//! Chunk: u32 bytes of the payload (never 0), u32 crc32c over salt, length, section, codec and payload, u8 section, u8
//! codec (0 as it is, 1 LZ4 block behind a u32 of its unpacked length), payload. Unpacked it has at most 256 KiB.
//!
//! Footer, where the next chunk would be: u32 zero, u32 crc32c over salt and the 40 bytes that follow, u64 number of
//! chunks, u64 unpacked bytes, 16 bytes of a hash over the checksums of all chunks in order, 8 bytes magic `RWSNEND\0`.
//! Nothing follows.
//!
//! Invariants
//! * The salt ties every chunk to its file, the hash ties it to its place: a chunk taken out, doubled, moved or brought in
//!   from another file is found.
//! * A length is checked against the bound before anything is allocated.

use std::path::Path;
use std::sync::Arc;

use super::SnapshotMeta;
use crate::base::checksum::{crc32c, crc32c_append};
use crate::base::limits::CHUNK_BYTES_MAX;
use crate::base::planted::{has, Bug};
use crate::base::{ClusterId, Error, GroupId, Millis, Result};
use crate::disk::File;

const MAGIC: &[u8; 8] = b"RWSNAP1\0";
const END_MAGIC: &[u8; 8] = b"RWSNEND\0";
const VERSION: u32 = 2;
/// The oldest version that is still read.
const VERSION_MIN: u32 = 1;
const FIXED_BYTES: usize = 80;
/// Where the lengths of the first two lists stand.
const LENGTHS_AT: usize = 76;
/// The second part without its ids and its checksum.
const SECOND_BYTES: usize = 8;
/// Ids in all lists together.
const MEMBERS_MAX: usize = 1024;
const HEADER_BYTES_MAX: usize = FIXED_BYTES + SECOND_BYTES + 8 * MEMBERS_MAX + 2 * 4;
/// Flag of the second part.
const AUTO_LEAVE: u32 = 1;
const CHUNK_HEADER_BYTES: usize = 10;
const FOOTER_BYTES: usize = 48;
/// A packed chunk with its own unpacked length; LZ4 that does not shrink is not kept.
const PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES_MAX + 4;
const RAW: u8 = 0;
const LZ4: u8 = 1;
/// Bytes read or written at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes written between two syncs. The log's own syncs wait behind them, and so do clients.
pub const SYNC_BYTES: u64 = 1 << 20;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub cluster: ClusterId,
    pub group: GroupId,
    pub salt: u64,
    pub meta: SnapshotMeta,
}

impl Header {
    pub fn encode(&self) -> Result<Vec<u8>> {
        let meta = &self.meta;
        let lists = [&meta.voters, &meta.learners, &meta.voters_outgoing, &meta.learners_next];
        let [voters, learners, outgoing, next] = lists.map(Vec::len);
        if voters + learners + outgoing + next > MEMBERS_MAX {
            return Err(Error::Invalid(format!("a snapshot has at most {MEMBERS_MAX} members")));
        }
        let mut out = Vec::with_capacity(HEADER_BYTES_MAX);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        for number in [self.group.0, meta.index, meta.term, meta.now.0, self.salt] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&meta.state_version.to_le_bytes());
        put_lengths(&mut out, [voters, learners]);
        put_ids(&mut out, [&meta.voters, &meta.learners]);
        let first = crc32c(&out);
        out.extend_from_slice(&first.to_le_bytes());
        let second = out.len();
        put_lengths(&mut out, [outgoing, next]);
        out.extend_from_slice(&(u32::from(meta.auto_leave) * AUTO_LEAVE).to_le_bytes());
        put_ids(&mut out, [&meta.voters_outgoing, &meta.learners_next]);
        let checksum = crc32c_append(first, &out[second..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        Ok(out)
    }

    /// Reads a header and returns it with its length.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<(Header, usize)> {
        let corrupt = || damaged(path, 0, "the header does not match its checksum");
        let fixed = bytes.get(..FIXED_BYTES).ok_or_else(corrupt)?;
        let (voters, learners, end) = ids(bytes, LENGTHS_AT, FIXED_BYTES, 0).ok_or_else(corrupt)?;
        let checksum = half(bytes, end).ok_or_else(corrupt)?;
        if crc32c(&bytes[..end]) != checksum || &bytes[..8] != MAGIC {
            return Err(corrupt());
        }
        let word = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let (version, flags) = (half(fixed, 8).unwrap_or_default(), half(fixed, 12));
        if !(VERSION_MIN..=VERSION).contains(&version) || flags != Some(0) {
            return Err(Error::Foreign(format!(
                "{} has format version {version}, this program knows {VERSION}; use a newer raftwork",
                path.display()
            )));
        }
        let meta = SnapshotMeta {
            index: word(40),
            term: word(48),
            now: Millis(word(56)),
            state_version: half(fixed, 72).unwrap_or_default(),
            voters,
            learners,
            ..SnapshotMeta::default()
        };
        let cluster = ClusterId::from_slice(&fixed[16..32]).expect("sixteen bytes");
        let mut header = Header { cluster, group: GroupId(word(32)), salt: word(64), meta };
        if version == 1 {
            return Ok((header, end + 4));
        }
        let end = header.decode_second(bytes, end + 4, checksum).ok_or_else(corrupt)?;
        Ok((header, end))
    }

    /// Reads the part behind the first checksum and tells where it ends.
    fn decode_second(&mut self, bytes: &[u8], start: usize, first: u32) -> Option<usize> {
        let meta = &mut self.meta;
        let flags = half(bytes, start + 4)?;
        let before = meta.voters.len() + meta.learners.len();
        let (outgoing, next, end) = ids(bytes, start, start + SECOND_BYTES, before)?;
        if crc32c_append(first, &bytes[start..end]) != half(bytes, end)? || flags & !AUTO_LEAVE != 0 {
            return None;
        }
        (meta.voters_outgoing, meta.learners_next, meta.auto_leave) = (outgoing, next, flags == AUTO_LEAVE);
        Some(end + 4)
    }
}

fn put_lengths(out: &mut Vec<u8>, lengths: [usize; 2]) {
    lengths.iter().for_each(|length| out.extend_from_slice(&(*length as u16).to_le_bytes()));
}

fn put_ids(out: &mut Vec<u8>, lists: [&Vec<u64>; 2]) {
    lists.into_iter().flatten().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

/// Reads two lists that begin at `start`, with their lengths at `lengths_at`, and tells where they end. Other lists have
/// `before` ids already.
fn ids(bytes: &[u8], lengths_at: usize, start: usize, before: usize) -> Option<(Vec<u64>, Vec<u64>, usize)> {
    let lengths = half(bytes, lengths_at)?;
    let (first, second) = ((lengths & 0xffff) as usize, (lengths >> 16) as usize);
    if before + first + second > MEMBERS_MAX {
        return None;
    }
    let end = start + 8 * (first + second);
    let read = |part: &[u8]| part.chunks(8).map(|id| u64::from_le_bytes(id.try_into().expect("eight bytes"))).collect();
    let (left, right) = bytes.get(start..end)?.split_at(8 * first);
    Some((read(left), read(right), end))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Hash over the checksums of all chunks: FNV-1a with 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u128);

impl Hash {
    const EMPTY: Hash = Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    fn add(&mut self, checksum: u32) {
        for byte in checksum.to_le_bytes() {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Hash::PRIME);
        }
    }
}

/// Writes a file from front to back.
#[derive(Debug)]
pub struct FileWriter {
    file: Arc<dyn File>,
    salt: u64,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    chunks: u64,
    bytes: u64,
    hash: Hash,
}

impl FileWriter {
    pub fn new(file: Arc<dyn File>, header: &Header) -> Result<FileWriter> {
        let buffer = header.encode()?;
        Ok(FileWriter {
            file,
            salt: header.salt,
            buffer,
            written: 0,
            synced: 0,
            chunks: 0,
            bytes: 0,
            hash: Hash::EMPTY,
        })
    }

    /// Writes one chunk, packed if that makes it smaller.
    pub fn chunk(&mut self, section: u8, payload: &[u8]) -> Result<()> {
        if payload.is_empty() || payload.len() > CHUNK_BYTES_MAX {
            return Err(Error::Invalid(format!("a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {}", payload.len())));
        }
        let packed = lz4_flex::block::compress_prepend_size(payload);
        let (codec, stored) = if packed.len() < payload.len() { (LZ4, &packed[..]) } else { (RAW, payload) };
        let checksum = chunk_crc(self.salt, section, codec, stored);
        self.buffer.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.buffer.extend_from_slice(&[section, codec]);
        self.buffer.extend_from_slice(stored);
        self.chunks += 1;
        self.bytes += payload.len() as u64;
        self.hash.add(checksum);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the footer and syncs the file.
    pub fn finish(&mut self) -> Result<()> {
        let mut rest = Vec::with_capacity(FOOTER_BYTES);
        rest.extend_from_slice(&self.chunks.to_le_bytes());
        rest.extend_from_slice(&self.bytes.to_le_bytes());
        rest.extend_from_slice(&self.hash.0.to_le_bytes());
        rest.extend_from_slice(END_MAGIC);
        self.buffer.extend_from_slice(&0u32.to_le_bytes());
        self.buffer.extend_from_slice(&crc32c_append(crc32c(&self.salt.to_le_bytes()), &rest).to_le_bytes());
        self.buffer.extend_from_slice(&rest);
        self.flush()?;
        if has(Bug::SnapshotNotSynced) {
            return Ok(());
        }
        self.file.sync()
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

fn chunk_crc(salt: u64, section: u8, codec: u8, stored: &[u8]) -> u32 {
    let mut head = [0; 14];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..12].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[12..].copy_from_slice(&[section, codec]);
    crc32c_append(crc32c(&head), stored)
}

/// Reads and checks a file from front to back.
pub struct FileReader<'a> {
    path: &'a Path,
    file: &'a dyn File,
    length: u64,
    offset: u64,
    buffer: Vec<u8>,
    start: usize,
}

impl<'a> FileReader<'a> {
    pub fn new(path: &'a Path, file: &'a dyn File) -> Result<FileReader<'a>> {
        let length = file.len()?;
        Ok(FileReader { path, file, length, offset: 0, buffer: Vec::new(), start: 0 })
    }

    pub fn header(&mut self) -> Result<Header> {
        let path = self.path;
        let (header, used) = Header::decode(path, self.peek(HEADER_BYTES_MAX)?)?;
        self.skip(used);
        Ok(header)
    }

    /// Hands on every chunk, unpacked if `unpack`, else as an empty slice; the footer must confirm them at the end.
    pub fn chunks(&mut self, salt: u64, unpack: bool, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let (mut chunks, mut bytes, mut hash) = (0u64, 0u64, Hash::EMPTY);
        loop {
            let at = self.offset;
            let path = self.path;
            let corrupt = |message: &str| damaged(path, at, message);
            let head = self.peek(CHUNK_HEADER_BYTES)?;
            if head.len() < CHUNK_HEADER_BYTES {
                return Err(corrupt("the file ends without its footer"));
            }
            let stored = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
            let checksum = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
            let (section, codec) = (head[8], head[9]);
            if stored == 0 {
                return self.footer(salt, chunks, bytes, hash);
            }
            if stored > PAYLOAD_BYTES_MAX {
                return Err(corrupt("a chunk is longer than a chunk can be"));
            }
            let chunk = self.peek(CHUNK_HEADER_BYTES + stored)?;
            let payload = chunk.get(CHUNK_HEADER_BYTES..).filter(|payload| payload.len() == stored);
            let payload = payload.ok_or_else(|| corrupt("the file ends within a chunk"))?;
            if chunk_crc(salt, section, codec, payload) != checksum && !has(Bug::NoChunkChecksum) {
                return Err(corrupt("a chunk does not match its checksum"));
            }
            bytes += hand_on(section, codec, payload, unpack, sink, &corrupt)?;
            chunks += 1;
            hash.add(checksum);
            self.skip(CHUNK_HEADER_BYTES + stored);
        }
    }

    fn footer(&mut self, salt: u64, chunks: u64, bytes: u64, hash: Hash) -> Result<()> {
        let (path, at, length) = (self.path, self.offset, self.length);
        let corrupt = |message: &str| Err(damaged(path, at, message));
        let footer = self.peek(FOOTER_BYTES)?;
        if footer.len() < FOOTER_BYTES || at + FOOTER_BYTES as u64 != length {
            return corrupt("the file does not end with its footer");
        }
        let checksum = u32::from_le_bytes(footer[4..8].try_into().expect("four bytes"));
        if crc32c_append(crc32c(&salt.to_le_bytes()), &footer[8..]) != checksum || &footer[40..] != END_MAGIC {
            return corrupt("the footer does not match its checksum");
        }
        if footer[8..16] != chunks.to_le_bytes()
            || footer[16..24] != bytes.to_le_bytes()
            || footer[24..40] != hash.0.to_le_bytes()
        {
            return corrupt("the chunks are not those that the footer confirms");
        }
        Ok(())
    }

    /// The next bytes, at most this many; fewer only at the end of the file.
    fn peek(&mut self, bytes: usize) -> Result<&[u8]> {
        if self.buffer.len() - self.start < bytes {
            self.buffer.drain(..self.start);
            self.start = 0;
            let kept = self.buffer.len();
            let from = self.offset + kept as u64;
            let left = self.length.saturating_sub(from) as usize;
            self.buffer.resize(kept + BUFFER_BYTES.max(bytes).min(left), 0);
            let read = self.file.read_at(from, &mut self.buffer[kept..]).map_err(|error| match error {
                Error::Disk { message, .. } => damaged(self.path, from, &format!("cannot be read: {message}")),
                other => other,
            })?;
            self.buffer.truncate(kept + read);
        }
        let end = self.buffer.len().min(self.start + bytes);
        Ok(&self.buffer[self.start..end])
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }
}

/// Gives the unpacked chunk to the sink and returns its length.
fn hand_on(
    section: u8,
    codec: u8,
    payload: &[u8],
    unpack: bool,
    sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>,
    corrupt: &dyn Fn(&str) -> Error,
) -> Result<u64> {
    let length = match codec {
        RAW => payload.len(),
        LZ4 if payload.len() >= 4 => u32::from_le_bytes(payload[..4].try_into().expect("four bytes")) as usize,
        _ => return Err(corrupt("a chunk has a codec that this version does not know")),
    };
    if length > CHUNK_BYTES_MAX {
        return Err(corrupt("a chunk unpacks to more than a chunk can have"));
    }
    if !unpack {
        sink(section, &[])?;
    } else if codec == RAW {
        sink(section, payload)?;
    } else {
        let unpacked = lz4_flex::block::decompress(&payload[4..], length)
            .map_err(|error| corrupt(&format!("a chunk cannot be unpacked: {error}")))?;
        if unpacked.len() != length {
            return Err(corrupt("a chunk does not unpack to its length"));
        }
        sink(section, &unpacked)?;
    }
    Ok(length as u64)
}

/// Stored data is not what was written.
pub fn damaged(path: &Path, offset: u64, message: &str) -> Error {
    let dir = path.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    Error::Corrupt {
        path: path.display().to_string(),
        offset,
        message: format!("{message}; nothing was changed, run `raftwork doctor {}`", dir.display()),
    }
}
