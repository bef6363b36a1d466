//! A chunk: records of neighbouring ids, compressed together. It is the unit that is read, written and replaced.
//!
//! Before compression (LZ4 block, its length in front):
//!
//! | offset    | bytes | field                                                             |
//! |-----------|-------|-------------------------------------------------------------------|
//! | 0         | 4     | number of records n, little-endian                                |
//! | 4         | 28 n  | for each: id (16), keep until in ms (8), length of the record (4) |
//! | 4 + 28 n  |       | the records, back to back                                         |
//!
//! Invariants
//! * Ids strictly increase, so one record is found by bisection without looking at the others.

use bytes::Bytes;

use crate::base::{Error, JobId, Result};

/// Bytes of records that one chunk aims at. Larger compresses better; smaller reads and replaces faster.
pub(super) const CHUNK_RAW_BYTES: usize = 64 << 10;
/// Records of one chunk at most, so that tiny records do not make one step of upkeep large.
pub(super) const CHUNK_RECORDS_MAX: usize = 1_024;
/// Largest chunk that is read back: one record of the largest size and a full chunk beside it.
const CHUNK_RAW_BYTES_MAX: usize = 16 << 20;
const ITEM_BYTES: usize = 28;

/// One record of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: JobId,
    pub keep_until_ms: u64,
    pub record: Bytes,
}

impl Entry {
    pub fn bytes(&self) -> usize {
        ITEM_BYTES + self.record.len()
    }
}

/// The compressed bytes of these entries, which must be in order of their ids.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    debug_assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id), "a chunk is sorted by id");
    let mut raw = Vec::with_capacity(4 + entries.iter().map(Entry::bytes).sum::<usize>());
    raw.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        raw.extend_from_slice(&entry.id.0);
        raw.extend_from_slice(&entry.keep_until_ms.to_le_bytes());
        raw.extend_from_slice(&(entry.record.len() as u32).to_le_bytes());
    }
    for entry in entries {
        raw.extend_from_slice(&entry.record);
    }
    lz4_flex::compress_prepend_size(&raw)
}

/// A chunk that was read and checked.
pub(super) struct Chunk {
    raw: Bytes,
    /// Where each record starts; one more than there are records.
    starts: Vec<usize>,
}

fn bad(message: impl Into<String>) -> Error {
    Error::Corrupt { path: String::new(), offset: 0, message: message.into() }
}

impl Chunk {
    pub fn decode(compressed: &[u8]) -> Result<Chunk> {
        let length = compressed.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        if length.is_none_or(|length| length > CHUNK_RAW_BYTES_MAX) {
            return Err(bad("a chunk without a plausible length"));
        }
        let raw = lz4_flex::decompress_size_prepended(compressed).map_err(|error| bad(error.to_string()))?;
        let count = raw.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
        let heads_end = count.checked_mul(ITEM_BYTES).map_or(usize::MAX, |bytes| bytes.saturating_add(4));
        let heads = raw.get(4..heads_end).ok_or_else(|| bad("a chunk shorter than its list of records"))?;
        let mut starts = Vec::with_capacity(count + 1);
        let mut start = heads_end;
        starts.push(start);
        for head in heads.chunks_exact(ITEM_BYTES) {
            start += u32::from_le_bytes([head[24], head[25], head[26], head[27]]) as usize;
            starts.push(start);
        }
        if start != raw.len() {
            return Err(bad("the records of a chunk do not fill it"));
        }
        Ok(Chunk { raw: raw.into(), starts })
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn id(&self, position: usize) -> JobId {
        let head = 4 + position * ITEM_BYTES;
        JobId::from_slice(&self.raw[head..head + 16]).unwrap_or_default()
    }

    pub fn record(&self, position: usize) -> &[u8] {
        &self.raw[self.starts[position]..self.starts[position + 1]]
    }

    pub fn get(&self, id: JobId) -> Option<&[u8]> {
        let position = self.lower_bound(id);
        (position < self.len() && self.id(position) == id).then(|| self.record(position))
    }

    /// How many records have a smaller id.
    pub fn lower_bound(&self, id: JobId) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.id(middle) < id {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// All records, sharing the memory of the chunk.
    pub fn entries(&self) -> Vec<Entry> {
        (0..self.len())
            .map(|position| {
                let keep = 4 + position * ITEM_BYTES + 16;
                let keep_until_ms = self.raw[keep..keep + 8].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
                let record = self.raw.slice(self.starts[position]..self.starts[position + 1]);
                Entry { id: self.id(position), keep_until_ms, record }
            })
            .collect()
    }
}

/// Cuts sorted entries into chunks: full ones with a short last one where ids still grow (`at_end`), else even ones, so
/// that a chunk split in the middle leaves room on both sides.
pub(super) fn split(entries: Vec<Entry>, at_end: bool) -> Vec<Vec<Entry>> {
    let total: usize = entries.iter().map(Entry::bytes).sum();
    let chunks = total.div_ceil(CHUNK_RAW_BYTES).max(entries.len().div_ceil(CHUNK_RECORDS_MAX)).max(1);
    let (bytes_aim, records_aim) = match at_end {
        true => (CHUNK_RAW_BYTES, CHUNK_RECORDS_MAX),
        false => (total.div_ceil(chunks), entries.len().div_ceil(chunks).max(1)),
    };
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let full = bytes + entry.bytes() > bytes_aim.max(1) || part.len() >= records_aim;
        if full && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += entry.bytes();
        part.push(entry);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8, bytes: usize) -> Entry {
        Entry { id: JobId([number; 16]), keep_until_ms: number.into(), record: vec![number; bytes].into() }
    }

    #[test]
    fn chunk_round_trips_and_finds() {
        let entries: Vec<_> = [1, 4, 9].map(|number| entry(number, number as usize * 10)).into();
        let chunk = Chunk::decode(&encode(&entries)).unwrap();
        assert_eq!(chunk.entries(), entries);
        assert_eq!(chunk.get(JobId([4; 16])), Some(&[4; 40][..]));
        assert_eq!(chunk.get(JobId([5; 16])), None);
        assert_eq!(chunk.get(JobId([10; 16])), None);
        assert_eq!(chunk.lower_bound(JobId([5; 16])), 2);
    }

    #[test]
    fn every_cut_and_flip_of_a_chunk_is_refused_or_read() {
        let bytes = encode(&[entry(1, 30), entry(2, 50)]);
        for cut in 0..bytes.len() {
            assert!(Chunk::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                if let Ok(chunk) = Chunk::decode(&damaged) {
                    chunk.entries();
                }
            }
        }
    }

    #[test]
    fn split_loses_nothing_and_keeps_to_its_size() {
        for at_end in [false, true] {
            let entries: Vec<_> = (0..200).map(|number| entry(number, 1_000)).collect();
            let parts = split(entries.clone(), at_end);
            assert!(parts.iter().all(|part| part.iter().map(Entry::bytes).sum::<usize>() <= CHUNK_RAW_BYTES));
            assert_eq!(parts.concat(), entries);
        }
        assert_eq!(split(vec![entry(1, 200_000), entry(2, 10)], true).len(), 2);
    }
}
