//! What a log looks like from outside: for people, and for `salvage` to know what it may keep. Changes nothing.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{self, GroupContent, GroupHeader};
use super::recover::{self, Replay, Walk};
use super::segment::{self, SegmentHeader};
use super::{Recovered, DIR_NAME};
use crate::base::codec::Writer;
use crate::base::{ClusterId, Error, GroupId, NodeId, Result};
use crate::disk::{Access, Disk, File};

/// Bytes read at once where a part of a file may be unreadable.
const CAREFUL_BYTES: usize = 4096;
/// No file of a log is larger: a group that needs more than a segment has one of its own size.
const SEGMENT_BYTES_READ: usize = 1 << 30;

/// A log as it lies on the disk.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The log's own directory.
    pub dir: PathBuf,
    pub segments: Vec<SegmentReport>,
    /// Why the log cannot be opened. Nothing if it can.
    pub damage: Option<Damage>,
    /// What opening it would give, its entries left out. Nothing if it cannot be opened or there is no log.
    pub recovered: Option<Recovered>,
    /// First and last index that can be read; 0 if there are no entries.
    pub first_index: u64,
    pub last_index: u64,
    /// What `salvage` would set aside; empty if there is nothing to salvage.
    pub salvage_loses: Vec<PathBuf>,
    /// Last index that `salvage` would keep; 0 if none.
    pub salvage_keeps_upto: u64,
}

/// One file of the log.
#[derive(Clone, Debug, Default)]
pub struct SegmentReport {
    pub name: String,
    pub bytes: u64,
    pub group_bytes: u64,
    pub groups: u64,
    /// Indexes of its entries; 0 if it has none.
    pub first_index: u64,
    pub last_index: u64,
    /// Highest term in it.
    pub term: u64,
    /// Whose it is; nothing if its header cannot be read.
    pub owner: Option<(ClusterId, GroupId, NodeId)>,
    /// A later file took its place; it goes at the next start.
    pub replaced: bool,
    /// Why its header cannot be read.
    pub error: Option<String>,
}

/// Where answered data is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub message: String,
}

/// What opening the log of the data directory `dir` would give; nothing if there is none. Changes nothing.
///
/// # Errors
/// As `Wal::open`.
pub fn read_on(disk: &dyn Disk, dir: &Path) -> Result<Option<Recovered>> {
    Ok(recover::scan(disk, &dir.join(DIR_NAME), None)?.map(|scan| scan.recovered))
}

/// What lies before the damage of a log, for whoever must go on with that: what `Wal::open` would give of it, with everything
/// behind as `suspect_upto`. Nothing if that is nothing. Changes nothing.
pub fn before_damage_on(disk: &dyn Disk, dir: &Path) -> Result<Option<Recovered>> {
    let mut known = 0;
    visit_on(disk, dir, &mut |group| known = group.entries.last().map_or(known, |last| known.max(last.index)))?;
    let dir = dir.join(DIR_NAME);
    let mut headers = Vec::new();
    for (sequence, name) in recover::segment_names(disk, &dir)? {
        let path = dir.join(name);
        match recover::read_header(disk, &path, sequence, None) {
            Ok(header) => headers.push((path, header)),
            Err(Error::Corrupt { .. }) => break,
            Err(other) => return Err(other),
        }
    }
    let (headers, _) = recover::without_replaced(headers);
    let Some((_, first)) = headers.first() else { return Ok(None) };
    let mut replay = Replay::new(first);
    for (position, (path, header)) in headers.iter().enumerate() {
        let bytes = Bytes::from(careful(disk, path, header)?);
        let next = headers.get(position + 1).map(|(_, next)| next);
        let walk = recover::walk(&bytes, header, next.map(|next| next.first_group));
        let whole = walk.groups.iter().all(|(offset, group)| {
            let content = group.content(&recover::body_of(&bytes, *offset, group));
            content.and_then(|content| replay.apply(content)).is_ok()
        });
        let last = replay.recovered.last_index();
        let goes_on = |next: &SegmentHeader| {
            (next.first_group, next.chain, next.first_index) == (walk.next_group, walk.chain, last + 1)
        };
        if !whole || !next.is_some_and(goes_on) {
            break;
        }
    }
    let mut log = replay.recovered;
    log.hard_state.commit = log.hard_state.commit.min(log.last_index());
    log.suspect_upto = Some(known.max(log.last_index() + 1));
    Ok(Some(log))
}

/// Shows every group of the log that can be read, also behind damage: evidence of what was written, and no state. A group
/// counts if its header is whole and its body makes sense, whatever stands before it.
pub fn visit_on(disk: &dyn Disk, dir: &Path, see: &mut dyn FnMut(GroupContent)) -> Result<()> {
    let dir = dir.join(DIR_NAME);
    for (_, name) in recover::segment_names(disk, &dir)? {
        let Some(file) = disk.open(&dir.join(name), Access::Read)? else { continue };
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(SEGMENT_BYTES_READ);
        let bytes = Bytes::from(pieces(&*file, length));
        // Also of a header that is damaged elsewhere.
        let Some(salt) = segment::salt_in(&bytes) else { continue };
        let mut at = segment::HEADER_BYTES;
        while at + frame::HEADER_BYTES <= bytes.len() {
            let group = GroupHeader::decode(&bytes[at..], salt).filter(|group| group.group_bytes() <= bytes.len() - at);
            if let Some(Ok(content)) = group.as_ref().map(|group| group.content(&recover::body_of(&bytes, at, group))) {
                see(content);
            }
            at += group.map_or(frame::ALIGNMENT, |group| group.group_bytes());
        }
    }
    Ok(())
}

/// Reads the log of the data directory `dir`.
///
/// # Errors
/// Only if the directory itself cannot be read, or the log is from a newer version. Damage is in the report.
pub fn inspect_on(disk: &dyn Disk, dir: &Path) -> Result<Report> {
    let dir = dir.join(DIR_NAME);
    let mut report = Report { dir: dir.clone(), ..Report::default() };
    let mut newest_first_group = u64::MAX;
    for (sequence, name) in recover::segment_names(disk, &dir)?.into_iter().rev() {
        let path = dir.join(&name);
        let segment = match recover::read_header(disk, &path, sequence, None) {
            Ok(header) => {
                let replaced = header.first_group >= newest_first_group;
                newest_first_group = newest_first_group.min(header.first_group);
                describe(name, replaced, &header, &recover::walk(&careful(disk, &path, &header)?, &header, None))
            }
            Err(Error::Corrupt { message, .. }) => {
                SegmentReport { name, error: Some(message), ..SegmentReport::default() }
            }
            Err(other) => return Err(other),
        };
        report.segments.insert(0, segment);
    }
    let live = report.segments.iter().filter(|segment| !segment.replaced && segment.first_index > 0);
    report.first_index = live.clone().map(|segment| segment.first_index).min().unwrap_or(0);
    report.last_index = live.map(|segment| segment.last_index).max().unwrap_or(0);
    match recover::scan(disk, &dir, None) {
        Ok(scan) => {
            report.recovered = scan.map(|scan| Recovered { entries: Vec::new(), ..scan.recovered });
        }
        Err(Error::Corrupt { path, offset, message }) => {
            let damage = Damage { path: path.into(), offset, message };
            let cut = cut_at(disk, &dir, &damage)?;
            report.salvage_loses.clone_from(&cut.set_aside);
            report.salvage_keeps_upto = cut.kept_upto(&report);
            report.damage = Some(damage);
        }
        Err(other) => return Err(other),
    }
    Ok(report)
}

fn describe(name: String, replaced: bool, header: &SegmentHeader, walk: &Walk) -> SegmentReport {
    let indexes = |pick: fn(&GroupHeader) -> u64| walk.groups.iter().map(move |(_, group)| pick(group));
    SegmentReport {
        name,
        bytes: header.segment_bytes,
        group_bytes: (walk.end - segment::HEADER_BYTES) as u64,
        groups: walk.groups.len() as u64,
        first_index: indexes(|group| group.first_index).filter(|index| *index > 0).min().unwrap_or(0),
        last_index: indexes(|group| group.last_index).max().unwrap_or(0),
        term: indexes(|group| group.term).max().unwrap_or(0).max(header.hard_state.term),
        owner: Some((header.cluster, header.group, header.node)),
        replaced,
        error: None,
    }
}

/// What is before a place of damage, and what is not.
pub struct Cut {
    /// Files that come before the damaged one.
    pub before: Vec<PathBuf>,
    /// The damaged file and those behind it, in order.
    pub set_aside: Vec<PathBuf>,
    /// The header and the good groups of the damaged file, if its header can be read and there are any.
    pub kept: Option<(SegmentHeader, Vec<u8>)>,
    kept_index: u64,
}

impl Cut {
    fn kept_upto(&self, report: &Report) -> u64 {
        let before =
            report.segments.iter().filter(|segment| self.before.iter().any(|path| path.ends_with(&segment.name)));
        before.map(|segment| segment.last_index).max().unwrap_or(0).max(self.kept_index)
    }
}

/// Divides a log at a place of damage.
pub fn cut_at(disk: &dyn Disk, dir: &Path, damage: &Damage) -> Result<Cut> {
    let mut cut = Cut { before: Vec::new(), set_aside: Vec::new(), kept: None, kept_index: 0 };
    for (sequence, name) in recover::segment_names(disk, dir)? {
        let path = dir.join(name);
        // Names sort by sequence. Only they are compared: a path in an error has gone through a text.
        let order = path.file_name().cmp(&damage.path.file_name());
        if order == Ordering::Less {
            cut.before.push(path);
            continue;
        }
        let damaged = order == Ordering::Equal;
        cut.set_aside.push(path.clone());
        // Damage within the header means that nothing behind it can be trusted.
        if !damaged || damage.offset < segment::HEADER_BYTES as u64 {
            continue;
        }
        let Ok(header) = recover::read_header(disk, &path, sequence, None) else { continue };
        let mut bytes = careful(disk, &path, &header)?;
        let walk = recover::walk(&bytes, &header, None);
        let ends = walk.groups.iter().map(|(offset, group)| (offset + group.group_bytes(), group.last_index));
        let good: Vec<(usize, u64)> = ends.take_while(|(end, _)| *end as u64 <= damage.offset).collect();
        cut.kept_index = good.iter().map(|(_, index)| *index).max().unwrap_or(0);
        bytes.truncate(good.last().map_or(segment::HEADER_BYTES, |(end, _)| *end));
        cut.kept = Some((header, bytes.split_off(segment::HEADER_BYTES)));
    }
    Ok(cut)
}

/// Reads a whole segment, with zeros where it is too short or cannot be read.
fn careful(disk: &dyn Disk, path: &Path, header: &SegmentHeader) -> Result<Vec<u8>> {
    if let Ok(bytes) = recover::read_segment(disk, path, header) {
        return Ok(bytes);
    }
    let Some(file) = disk.open(path, Access::Read)? else { return Ok(vec![0; segment::HEADER_BYTES]) };
    let length =
        file.len()?.clamp(segment::HEADER_BYTES as u64, header.segment_bytes.max(segment::HEADER_BYTES as u64));
    Ok(pieces(&*file, length as usize))
}

/// Reads so many bytes, with zeros where that cannot be done.
fn pieces(file: &dyn File, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (position, part) in bytes.chunks_mut(CAREFUL_BYTES).enumerate() {
        if file.read_at((position * CAREFUL_BYTES) as u64, part).is_err() {
            part.fill(0);
        }
    }
    bytes
}

impl Report {
    /// Whether the log can be opened as it is.
    pub fn is_healthy(&self) -> bool {
        self.damage.is_none()
    }

    /// Appends the report as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(8);
        out.str("directory").str(&self.dir.display().to_string());
        out.str("healthy").bool(self.is_healthy());
        out.str("first_index").u64(self.first_index);
        out.str("last_index").u64(self.last_index);
        out.str("damage").option(self.damage.as_ref(), |out, damage| {
            out.map(3);
            out.str("file").str(&damage.path.display().to_string());
            out.str("offset").u64(damage.offset);
            out.str("message").str(&damage.message);
        });
        out.str("opens_with").option(self.recovered.as_ref(), |out, recovered| {
            out.map(5);
            out.str("term").u64(recovered.hard_state.term);
            out.str("commit").u64(recovered.hard_state.commit);
            out.str("previous_index").u64(recovered.previous_index);
            out.str("cut_bytes").u64(recovered.cut_bytes);
            out.str("suspect_upto").option(recovered.suspect_upto, |out, index| {
                out.u64(index);
            });
        });
        out.str("salvage").option(self.damage.as_ref(), |out, _| {
            out.map(2);
            out.str("keeps_upto").u64(self.salvage_keeps_upto);
            out.str("sets_aside").array(self.salvage_loses.len());
            self.salvage_loses.iter().for_each(|path| {
                out.str(&path.display().to_string());
            });
        });
        out.str("segments").array(self.segments.len());
        self.segments.iter().for_each(|segment| segment.write(out));
    }
}

impl SegmentReport {
    fn write(&self, out: &mut Writer) {
        out.map(8);
        out.str("file").str(&self.name);
        out.str("bytes").u64(self.bytes);
        out.str("group_bytes").u64(self.group_bytes);
        out.str("groups").u64(self.groups);
        out.str("first_index").u64(self.first_index);
        out.str("last_index").u64(self.last_index);
        out.str("replaced").bool(self.replaced);
        out.str("error").option(self.error.as_ref(), |out, error| {
            out.str(error);
        });
    }
}
