//! A snapshot on its way to another member: the bytes of its file, in pieces. A transfer that broke off goes on where it
//! was.
//!
//! ```text
//! sender     piece(meta, offset) ───────────────> receiver   take_piece: r-...tmp, grows
//!                                                            last piece: synced, checked in full, renamed to r-...rws
//!                                                            install: renamed to c-...rws, from then on it counts
//! ```
//!
//! A received snapshot counts only after the log says that it begins anew behind it (`Group::restart`): a crash in
//! between would else leave a snapshot that the log does not reach, which is also what a lost log looks like. `settle`
//! finishes at the next start what the log has announced, and removes the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::SYNC_BYTES;
use super::{check, damaged, file_name, SnapshotMeta, SnapshotStore, DIR_NAME};
use crate::base::planted::{has, Bug};
use crate::base::{Error, Result};
use crate::disk::{Access, File};

impl SnapshotStore {
    /// Bytes of a snapshot's file from an offset on, and whether nothing follows them.
    ///
    /// # Errors
    /// `Corrupt` if the file is gone: two newer ones came meanwhile. Begin again with `latest`.
    pub fn piece(&self, meta: &SnapshotMeta, offset: u64, bytes_max: usize) -> Result<(Vec<u8>, bool)> {
        let path = self.dir.join(DIR_NAME).join(file_name(meta));
        let opened = self.disk.open(&path, Access::Read)?;
        let file = opened.ok_or_else(|| damaged(&path, offset, "the snapshot was replaced by newer ones"))?;
        let length = file.len()?;
        let mut bytes = vec![0; (length.saturating_sub(offset) as usize).min(bytes_max)];
        let read = file.read_at(offset, &mut bytes)?;
        bytes.truncate(read);
        Ok((bytes, offset + read as u64 >= length))
    }

    /// How many bytes of this snapshot are here already: where its sender goes on.
    pub fn received_bytes(&self, index: u64, term: u64) -> Result<u64> {
        match self.disk.open(&self.unfinished(index, term), Access::Read)? {
            Some(file) => file.len(),
            None => Ok(0),
        }
    }

    /// Whether this snapshot is here in full and waits for `install`.
    pub fn is_received(&self, index: u64, term: u64) -> Result<bool> {
        Ok(self.disk.open(&self.received(index, term), Access::Read)?.is_some())
    }

    /// Takes bytes from another member. True: it is here in full, synced and every checksum right.
    ///
    /// # Errors
    /// `Invalid`: the bytes do not continue what is here. `Corrupt`, `Foreign`: the whole was not a snapshot of this group;
    /// it is gone, and the sender must begin again, as after a sync that failed.
    pub fn take_piece(&self, index: u64, term: u64, offset: u64, bytes: &[u8], last: bool) -> Result<bool> {
        let path = self.unfinished(index, term);
        let file = self.unfinished_file(&path, offset)?;
        file.write_at(offset, bytes)?;
        if !last {
            if offset / SYNC_BYTES < (offset + bytes.len() as u64) / SYNC_BYTES {
                self.synced(&path, file.sync_data())?;
            }
            return Ok(false);
        }
        if !has(Bug::ReceivedNotSynced) {
            self.synced(&path, file.sync())?;
        }
        if let Err(error) = check(&*self.disk, &path, index, Some(&self.identity), true) {
            self.disk.remove(&path)?;
            return Err(error);
        }
        self.disk.rename(&path, &self.received(index, term))?;
        self.disk.sync_dir(&self.dir.join(DIR_NAME))?;
        Ok(true)
    }

    /// After a sync that failed the bytes may be gone, whatever the next one says (D3): the sender must begin again.
    fn synced(&self, path: &Path, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            self.disk.remove(path)?;
        }
        outcome
    }

    fn unfinished_file(&self, path: &Path, offset: u64) -> Result<Arc<dyn File>> {
        if offset == 0 {
            return self.disk.create(path);
        }
        let here = self.disk.open(path, Access::ReadWrite)?;
        let length = here.as_ref().map_or(Ok(0), |file| file.len())?;
        here.filter(|_| length == offset).ok_or_else(|| {
            Error::Invalid(format!("bytes of a snapshot from {offset} on do not continue the {length} that are here"))
        })
    }

    /// Makes a received snapshot the latest one. Call it when the log says that it begins anew behind it.
    pub fn install(&self, index: u64, term: u64) -> Result<SnapshotMeta> {
        let meta = check(&*self.disk, &self.received(index, term), index, Some(&self.identity), false)?;
        self.accept(&self.received(index, term), &meta)?;
        Ok(meta)
    }

    /// At the start: finishes the installation that the log has announced, and removes what else was on its way.
    pub fn settle(&self, announced: Option<(u64, u64)>) -> Result<()> {
        if let Some((index, term)) = announced {
            if self.latest().is_none_or(|latest| latest.index < index) && self.is_received(index, term)? {
                self.install(index, term)?;
            }
        }
        let snap_dir = self.dir.join(DIR_NAME);
        for name in self.disk.list(&snap_dir)?.iter().filter(|name| name.starts_with("r-")) {
            self.disk.remove(&snap_dir.join(name))?;
        }
        Ok(())
    }

    fn received(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(DIR_NAME).join(format!("r-{index:020}-{term}.rws"))
    }

    fn unfinished(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(DIR_NAME).join(format!("r-{index:020}-{term}.tmp"))
    }
}
