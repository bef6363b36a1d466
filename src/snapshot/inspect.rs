//! What the snapshots of a data directory look like from outside. Changes nothing.

use std::path::{Path, PathBuf};

use super::file::FileReader;
use super::{check, names, SnapshotMeta, DIR_NAME};
use crate::base::codec::Writer;
use crate::base::{ClusterId, Error, GroupId, Result};
use crate::disk::{Access, Disk};

/// One snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    pub path: PathBuf,
    pub bytes: u64,
    /// Index and term in its name.
    pub index: u64,
    pub term: u64,
    /// Whose it is; nothing if its header cannot be read.
    pub owner: Option<(ClusterId, GroupId)>,
    /// What it holds; nothing if it must not be used.
    pub meta: Option<SnapshotMeta>,
    /// What its header says, also if what is behind that is damaged.
    pub header: Option<SnapshotMeta>,
    /// Where and why it must not be used.
    pub damage: Option<(u64, String)>,
}

/// Reads every snapshot of the data directory `dir` in full, newest first. One that vanishes meanwhile is left out: the
/// node that owns the directory replaced it.
pub fn inspect_on(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotReport>> {
    let snap_dir = dir.join(DIR_NAME);
    let mut reports = Vec::new();
    for (name, index) in names(disk, &snap_dir)? {
        let term = name.trim_end_matches(".rws").rsplit_once('-').and_then(|(_, term)| term.parse().ok());
        let path = snap_dir.join(name);
        let Some(file) = disk.open(&path, Access::Read)? else { continue };
        let header = FileReader::new(&path, &*file)?.header().ok();
        let owner = header.as_ref().map(|header| (header.cluster, header.group));
        let report = SnapshotReport {
            bytes: file.len()?,
            index,
            term: term.unwrap_or_default(),
            owner,
            meta: None,
            header: header.map(|header| header.meta),
            damage: None,
            path: path.clone(),
        };
        let checked = check(disk, &path, index, None, true);
        if checked.is_err() && disk.open(&path, Access::Read)?.is_none() {
            continue;
        }
        reports.push(match checked {
            Ok(meta) => SnapshotReport { meta: Some(meta), ..report },
            Err(Error::Corrupt { offset, message, .. }) => SnapshotReport { damage: Some((offset, message)), ..report },
            Err(Error::Foreign(message)) => SnapshotReport { damage: Some((0, message)), ..report },
            Err(other) => return Err(other),
        });
    }
    Ok(reports)
}

/// What the newest snapshot says in its header, of those whose header is whole. Reads no state, so it is cheap.
pub fn newest_header_on(disk: &dyn Disk, dir: &Path) -> Result<Option<SnapshotMeta>> {
    let snap_dir = dir.join(DIR_NAME);
    for (name, _) in names(disk, &snap_dir)? {
        let path = snap_dir.join(name);
        let Some(file) = disk.open(&path, Access::Read)? else { continue };
        if let Ok(header) = FileReader::new(&path, &*file)?.header() {
            return Ok(Some(header.meta));
        }
    }
    Ok(None)
}

impl SnapshotReport {
    /// Whether every checksum of it is right.
    pub fn is_whole(&self) -> bool {
        self.meta.is_some()
    }

    /// Appends the report as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(6);
        out.str("file").str(&self.path.display().to_string());
        out.str("index").u64(self.index);
        out.str("term").u64(self.term);
        out.str("bytes").u64(self.bytes);
        out.str("whole").bool(self.is_whole());
        out.str("damage").option(self.damage.as_ref(), |out, (offset, message)| {
            out.map(2).str("offset").u64(*offset).str("message").str(message);
        });
    }
}
