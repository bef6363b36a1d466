//! The file that takes the next group, and how it comes to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, GroupHeader};
use super::open::Home;
use super::segment::{self, SegmentHeader};
use super::spare::{zero_file, Spare};
use crate::base::Error;
use crate::disk::{Disk, File};

/// Segment files are a multiple of this, so that no two share a block.
pub const BLOCK_BYTES: usize = 4096;

/// The file that takes the next group.
#[derive(Debug)]
pub struct Active {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub sequence: u64,
    pub salt: u64,
    pub bytes: u64,
    pub position: u64,
    /// End of what a failed write may have left behind `position`; written over with zeros together with the next group.
    pub dirty_upto: u64,
    pub max_index: u64,
}

/// Why a new segment could not be put in place, and whether the log is still as it was.
pub struct Failure {
    pub error: Error,
    pub clean: bool,
}

/// Makes a segment with this header and these groups (written under another salt) and gives it its name. All or nothing:
/// before the name is there the log is as it was.
pub fn install(
    home: &Home,
    mut header: SegmentHeader,
    groups: &[u8],
    bytes_min: u64,
) -> std::result::Result<Active, Failure> {
    let Home { disk, pool, config, .. } = home;
    let disk = &**disk;
    let before = |error: Error| Failure { clean: matches!(error, Error::DiskFull(_)), error };
    let used = (segment::HEADER_BYTES + groups.len()) as u64;
    let bytes_min = bytes_min.max(used);
    let (path, file, bytes) = match pool.take(bytes_min) {
        Some(Spare { path, file, bytes }) => (path, file, bytes),
        None => {
            let bytes = bytes_min.max(config.segment_bytes as u64).next_multiple_of(BLOCK_BYTES as u64);
            let path = pool.dir().join("next.tmp");
            let made = zero_file(disk, &path, bytes);
            (path.clone(), made.map_err(|error| discard(disk, &path, before(error)))?, bytes)
        }
    };
    (header.salt, header.segment_bytes) = (disk.random(), bytes);
    let mut start = header.encode();
    start.extend_from_slice(groups);
    reseal(&mut start[segment::HEADER_BYTES..], header.salt);
    let name = pool.dir().join(segment::file_name(header.sequence));
    let written = file.write_at(0, &start).and_then(|()| file.sync()).and_then(|()| disk.rename(&path, &name));
    written.map_err(|error| discard(disk, &path, before(error)))?;
    disk.sync_dir(pool.dir()).map_err(|error| Failure { error, clean: false })?;
    Ok(Active {
        path: name,
        file,
        sequence: header.sequence,
        salt: header.salt,
        bytes,
        position: used,
        dirty_upto: used,
        max_index: 0,
    })
}

/// Gives back the room of an unfinished file. If that fails too, the next start does it.
fn discard(disk: &dyn Disk, path: &Path, failure: Failure) -> Failure {
    let _ = disk.remove(path);
    failure
}

/// Moves valid groups under another salt. Their bodies and the chain over them stay as they are.
fn reseal(mut groups: &mut [u8], salt: u64) {
    while !groups.is_empty() {
        let length = GroupHeader::body_length(groups);
        let (group, rest) = groups.split_at_mut(frame::padded(frame::HEADER_BYTES + length));
        frame::seal_header(group, salt);
        groups = rest;
    }
}
