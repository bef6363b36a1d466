//! Reads a log as a crash left it and decides what each irregularity means. Changes nothing; `log` acts on the verdict.
//!
//! | first invalid group                                              | meaning                       | verdict            |
//! |------------------------------------------------------------------|-------------------------------|--------------------|
//! | none: only zeros follow                                          | the log ended here            | clean              |
//! | at the end, its header cut by a sector boundary or missing       | torn write, never answered    | cut                |
//! | at the end, its header whole but its body bad, or its header     | torn, or damage to the last   | cut, and remember  |
//! | damaged within a sector                                          | group: cannot be told apart   | `suspect_upto`     |
//! | before any valid group with a higher sequence, here or in a      | damage to answered data       | refuse             |
//! | later file                                                       |                               |                    |
//! | before the header of the same group, further behind              | the disk put it there         | refuse             |
//! | unreadable sector, short file, bad header of a file              | the same                      | refuse             |
//!
//! The content of a group plays no part in the verdict: payloads may hold zeros, or look like anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, GroupContent, GroupHeader};
use super::segment::{self, damaged, SegmentHeader, COUNTER_MAX};
use super::{Recovered, WalEntry};
use crate::base::planted::{has, Bug};
use crate::base::{Error, Result};
use crate::disk::{Access, Disk, File, Identity};

/// Bytes of one sector: a disk writes each whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// One file of the log that still counts.
#[derive(Clone, Debug)]
pub struct Live {
    pub path: PathBuf,
    pub header: SegmentHeader,
    /// Highest index of any entry in it, also of those that a later group replaced.
    pub max_index: u64,
    pub group_bytes: u64,
}

/// A log that may be opened.
#[derive(Debug)]
pub struct Scan {
    pub live: Vec<Live>,
    /// Files that a later one replaced.
    pub replaced: Vec<PathBuf>,
    pub highest_sequence: u64,
    /// The valid groups of the last file.
    pub tail: Bytes,
    pub next_group: u64,
    pub chain: u32,
    pub last_term: u64,
    pub recovered: Recovered,
}

/// Reads the log in this directory; nothing if there are no files. `identity`, if given, must own them.
pub fn scan(disk: &dyn Disk, dir: &Path, identity: Option<&Identity>) -> Result<Option<Scan>> {
    let headers = read_headers(disk, dir, identity)?;
    let Some(highest_sequence) = headers.last().map(|(_, header)| header.sequence) else { return Ok(None) };
    let (headers, replaced) = without_replaced(headers);
    let mut replay = Replay::new(&headers[0].1);
    let mut live: Vec<Live> = Vec::with_capacity(headers.len());
    let (mut next_group, mut chain, mut tail) = (0, 0, Bytes::new());
    for (position, (path, header)) in headers.iter().enumerate() {
        if position > 0 && header.first_index != replay.recovered.last_index() + 1 {
            return Err(damaged(path, 88, "the file does not begin where the one before it ends"));
        }
        let next = headers.get(position + 1).map(|(_, next)| next);
        let mut bytes = read_segment(disk, path, header)?;
        let walk = walk(&bytes, header, next.map(|next| next.first_group));
        match next {
            Some(next) => check_joint(path, &walk, next)?,
            None => replay.judge_tail(path, &bytes, header, &walk)?,
        }
        bytes.truncate(walk.end);
        bytes.shrink_to_fit();
        let bytes = Bytes::from(bytes);
        let mut max_index = 0;
        for (offset, group) in &walk.groups {
            let refuse = |message: &str| damaged(path, *offset as u64, message);
            replay.apply(group.content(&body_of(&bytes, *offset, group)).map_err(refuse)?).map_err(refuse)?;
            max_index = max_index.max(group.last_index);
        }
        let group_bytes = (walk.end - segment::HEADER_BYTES) as u64;
        live.push(Live { path: path.clone(), header: header.clone(), max_index, group_bytes });
        (next_group, chain) = (walk.next_group, walk.chain);
        tail = bytes.slice(segment::HEADER_BYTES..);
    }
    let last = live.last().expect("there is at least one file");
    let (recovered, last_term) = replay.finish(last)?;
    Ok(Some(Scan { live, replaced, highest_sequence, tail, next_group, chain, last_term, recovered }))
}

/// The body of a group at this offset of a file.
pub fn body_of(bytes: &Bytes, offset: usize, group: &GroupHeader) -> Bytes {
    let start = offset + frame::HEADER_BYTES;
    bytes.slice(start..start + group.body_bytes)
}

/// Names of the segments in a directory with their sequences, in order.
pub fn segment_names(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, String)>> {
    let names = disk.list(dir)?;
    let mut found: Vec<_> = names.into_iter().filter_map(|name| Some((segment::parse_name(&name)?, name))).collect();
    found.sort_unstable();
    Ok(found)
}

fn read_headers(disk: &dyn Disk, dir: &Path, identity: Option<&Identity>) -> Result<Vec<(PathBuf, SegmentHeader)>> {
    let mut headers = Vec::new();
    for (sequence, name) in segment_names(disk, dir)? {
        let path = dir.join(name);
        headers.push((path.clone(), read_header(disk, &path, sequence, identity)?));
    }
    Ok(headers)
}

/// Reads and checks the header of one segment file.
pub fn read_header(disk: &dyn Disk, path: &Path, sequence: u64, identity: Option<&Identity>) -> Result<SegmentHeader> {
    let file = open(disk, path)?;
    let mut bytes = vec![0; segment::HEADER_BYTES];
    let read = file.read_at(0, &mut bytes).map_err(|error| unreadable(path, 0, error))?;
    let header = SegmentHeader::decode(path, &bytes[..read])?;
    if let Some(identity) = identity {
        header.check_owner(path, identity)?;
    }
    if header.sequence != sequence {
        return Err(damaged(path, 48, "the file has the name of another"));
    }
    Ok(header)
}

/// The files that count, and those that a later file replaced because it begins at the same group or before.
pub fn without_replaced(headers: Vec<(PathBuf, SegmentHeader)>) -> (Vec<(PathBuf, SegmentHeader)>, Vec<PathBuf>) {
    let mut live: Vec<(PathBuf, SegmentHeader)> = Vec::with_capacity(headers.len());
    let mut replaced = Vec::new();
    for (path, header) in headers {
        while live.last().is_some_and(|(_, earlier)| earlier.first_group >= header.first_group) {
            replaced.extend(live.pop().map(|(path, _)| path));
        }
        live.push((path, header));
    }
    (live, replaced)
}

/// Reads a whole segment file, whose length its header knows.
pub fn read_segment(disk: &dyn Disk, path: &Path, header: &SegmentHeader) -> Result<Vec<u8>> {
    let file = open(disk, path)?;
    let length = file.len()?;
    if length != header.segment_bytes || length < segment::HEADER_BYTES as u64 {
        let message = format!("the file has {length} bytes, it was made with {}", header.segment_bytes);
        return Err(damaged(path, length, &message));
    }
    let mut bytes = vec![0; length as usize];
    let mut offset = 0;
    for part in bytes.chunks_mut(READ_BYTES) {
        let read = file.read_at(offset, part).map_err(|error| unreadable(path, offset, error))?;
        if read != part.len() {
            return Err(damaged(path, offset + read as u64, "the file became shorter while it was read"));
        }
        offset += read as u64;
    }
    Ok(bytes)
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>> {
    disk.open(path, Access::Read)?.ok_or_else(|| damaged(path, 0, "the file vanished"))
}

/// A sector that cannot be read is damage, not a passing trouble: what it held may have been answered.
fn unreadable(path: &Path, offset: u64, error: Error) -> Error {
    match error {
        Error::Disk { message, .. } => damaged(path, offset, &format!("cannot be read: {message}")),
        other => other,
    }
}

/// The valid groups at the start of a segment.
#[derive(Debug)]
pub struct Walk {
    pub groups: Vec<(usize, GroupHeader)>,
    /// Offset behind the last valid group.
    pub end: usize,
    /// Sequence that the next group has.
    pub next_group: u64,
    /// Checksum of the last body, which seeds the next.
    pub chain: u32,
}

/// Follows the chain of groups through a file up to the first that is not valid, or up to (without) group `stop`.
pub fn walk(bytes: &[u8], header: &SegmentHeader, stop: Option<u64>) -> Walk {
    let mut walk =
        Walk { groups: Vec::new(), end: segment::HEADER_BYTES, next_group: header.first_group, chain: header.chain };
    while stop != Some(walk.next_group) {
        let Some(group) = GroupHeader::decode(&bytes[walk.end..], header.salt) else { break };
        let body_at = walk.end + frame::HEADER_BYTES;
        let fits = group.group_bytes() <= bytes.len() - walk.end;
        if group.sequence != walk.next_group || !fits {
            break;
        }
        let whole = group.matches(&bytes[body_at..body_at + group.body_bytes], walk.chain);
        if !whole && !has(Bug::NoBodyChecksum) {
            break;
        }
        walk.groups.push((walk.end, group));
        walk.end += group.group_bytes();
        walk.next_group += 1;
        walk.chain = group.body_crc;
    }
    walk
}

/// A file that has a successor must reach it: the successor was made after all of its groups were synced.
fn check_joint(path: &Path, walk: &Walk, next: &SegmentHeader) -> Result<()> {
    if walk.next_group == next.first_group && walk.chain == next.chain {
        return Ok(());
    }
    let message = format!("group {} is damaged or missing, and later groups exist", walk.next_group);
    Err(damaged(path, walk.end as u64, &message))
}

/// What lies behind the last valid group of the last file.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// Zeros only.
    Clean,
    /// A write that was cut short.
    Torn { bytes: u64 },
    /// Perhaps a write that was cut short, perhaps the last answered group. `upto` is its last index if known, else 0.
    Suspect { bytes: u64, upto: u64 },
    /// A group follows what is not valid: a later one, or the missing one in another place.
    Damaged { later_group: u64, later_offset: usize },
}

/// Judges the end of the last file.
pub fn judge(bytes: &[u8], salt: u64, walk: &Walk) -> Tail {
    let rest = &bytes[walk.end..];
    let Some(last_used) = rest.iter().rposition(|byte| *byte != 0) else { return Tail::Clean };
    let cut = last_used as u64 + 1;
    let first = GroupHeader::decode(rest, salt);
    if let Some(other) = first.filter(|group| group.sequence != walk.next_group) {
        return Tail::Damaged { later_group: other.sequence, later_offset: walk.end };
    }
    for offset in (frame::ALIGNMENT..=last_used).step_by(frame::ALIGNMENT) {
        let later = GroupHeader::decode(&rest[offset..], salt);
        // The group that is missing, in another place: the disk put it there, which no torn write does.
        if let Some(later) = later.filter(|group| group.sequence >= walk.next_group) {
            return Tail::Damaged { later_group: later.sequence, later_offset: walk.end + offset };
        }
    }
    match first {
        Some(group) => Tail::Suspect { bytes: cut, upto: group.last_index },
        None if is_torn(bytes, walk.end) => Tail::Torn { bytes: cut },
        None => Tail::Suspect { bytes: cut, upto: 0 },
    }
}

/// Whether a bad header can come from a write that lost a sector: then the part of the header in that sector is all zero.
/// No part of a valid header is, as its length and its flags are never zero.
fn is_torn(bytes: &[u8], start: usize) -> bool {
    let end = (start + frame::HEADER_BYTES).min(bytes.len());
    let boundary = end.min((start / SECTOR_BYTES + 1) * SECTOR_BYTES);
    let empty = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    empty(&bytes[start..boundary]) || (boundary < end && empty(&bytes[boundary..end]))
}

/// Applies groups in order.
pub struct Replay {
    pub recovered: Recovered,
    suspect_upto: u64,
}

impl Replay {
    pub fn new(first: &SegmentHeader) -> Replay {
        let recovered = Recovered {
            hard_state: first.hard_state,
            conf_state: first.conf_state.clone(),
            previous_index: first.first_index - 1,
            previous_term: first.previous_term,
            mark: (first.mark.index > 0).then_some(first.mark),
            ..Recovered::default()
        };
        Replay { recovered, suspect_upto: 0 }
    }

    fn judge_tail(&mut self, path: &Path, bytes: &[u8], header: &SegmentHeader, walk: &Walk) -> Result<()> {
        match judge(bytes, header.salt, walk) {
            Tail::Clean => {}
            Tail::Torn { bytes } => self.recovered.cut_bytes = bytes,
            Tail::Suspect { bytes, upto } => {
                self.recovered.cut_bytes = bytes;
                // At least one index: a group without entries may have carried a vote. And none that no log reaches: the
                // body of this group is bad, so nothing vouches for the sense of its header.
                self.suspect_upto = upto.clamp(1, COUNTER_MAX);
            }
            Tail::Damaged { .. } if has(Bug::CutInTheMiddle) => self.recovered.cut_bytes = 1,
            Tail::Damaged { later_group, later_offset } => {
                let message = if later_group == walk.next_group {
                    format!("group {later_group} is missing here, and lies at byte {later_offset}")
                } else {
                    let missing = walk.next_group;
                    format!("group {missing} is damaged, and group {later_group} follows it at byte {later_offset}")
                };
                return Err(damaged(path, walk.end as u64, &message));
            }
        }
        Ok(())
    }

    pub fn apply(&mut self, content: GroupContent) -> std::result::Result<(), &'static str> {
        let log = &mut self.recovered;
        if let Some(mark) = content.mark {
            if content.restart || mark.index > log.last_index() {
                log.entries.clear();
                (log.previous_index, log.previous_term) = (mark.index, mark.term);
            }
            log.mark = Some(mark);
        }
        if let Some(first) = content.entries.first() {
            truncate(log, first)?;
        }
        log.entries.extend(content.entries);
        log.hard_state = content.hard_state.unwrap_or(log.hard_state);
        log.conf_state = content.conf_state.unwrap_or(std::mem::take(&mut log.conf_state));
        if log.hard_state.commit > log.last_index() {
            return Err("the hard state is committed beyond the last entry");
        }
        Ok(())
    }

    fn finish(mut self, last: &Live) -> Result<(Recovered, u64)> {
        let log = &mut self.recovered;
        let last_index = log.last_index();
        if log.hard_state.commit > last_index {
            return Err(damaged(&last.path, 104, "the hard state is committed beyond the last entry"));
        }
        if self.suspect_upto > 0 {
            self.suspect_upto = self.suspect_upto.max(last_index + 1);
        }
        let suspect = self.suspect_upto.max(last.header.suspect_upto);
        log.suspect_upto = (suspect > last_index).then_some(suspect);
        let last_term = log.entries.last().map_or(log.previous_term, |entry| entry.term);
        Ok((self.recovered, last_term))
    }
}

/// Makes room for entries that begin at `first`: what the log has from there on is replaced.
fn truncate(log: &mut Recovered, first: &WalEntry) -> std::result::Result<(), &'static str> {
    if first.index == 0 || first.index > log.last_index() + 1 {
        return Err("entries are missing before this group");
    }
    if first.index <= log.previous_index {
        log.entries.clear();
        (log.previous_index, log.previous_term) = (first.index - 1, 0);
    }
    if has(Bug::RecoverReplaced) && log.entries.last().is_some_and(|last| last.index > first.index) {
        return Ok(());
    }
    log.entries.truncate((first.index - 1 - log.previous_index) as usize);
    let before = log.entries.last().map_or(log.previous_term, |entry| entry.term);
    if before > first.term {
        return Err("the term of an entry is lower than that of the one before");
    }
    Ok(())
}
