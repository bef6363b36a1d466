//! Snapshots of the state machine, so that the log can be cut. The store keeps two: if the newer is damaged, the older
//! and the log behind it give the same state.
//!
//! A snapshot is written beside the others, synced, read back, and only then given its name; from then on it counts.
//!
//! Invariants
//! * `latest` was read in full when the store was opened or when it was written, and every checksum was right (D4).
//! * A damaged snapshot is never used and never removed: it goes to the quarantine directory when its turn comes. If none
//!   that is whole is left, opening fails; there is no silent beginning with an empty state.
//! * The log must be kept from `log_needed_from` on, so that falling back always works.
//!
//! The format is described byte by byte in `file`, and in `docs/internals/snapshot.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::{Error, Millis, Result};
use crate::disk::{ensure_dir, quarantine, Access, Disk, File, Identity};

pub mod file;
mod inspect;
mod transfer;

pub use inspect::{inspect_on, newest_header_on, SnapshotReport};

use file::{damaged, FileReader, FileWriter, Header};

/// Name of the snapshots' directory inside the data directory.
pub const DIR_NAME: &str = "snap";
/// Snapshots that are kept.
const KEPT: usize = 2;

/// What a snapshot contains: the state as of `index`, and who the members were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
    /// The members at `index`. The last three tell of a joint configuration that was not left yet.
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that stay as learners.
    pub learners_next: Vec<u64>,
    pub auto_leave: bool,
    /// Cluster time as of `index`.
    pub now: Millis,
    /// Version of the records inside; the state machine decides what it can read.
    pub state_version: u32,
}

/// A snapshot that must not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    pub path: PathBuf,
    /// Index in its name.
    pub index: u64,
    pub error: Error,
}

/// The snapshots of a data directory. May be shared between threads; one snapshot is written at a time.
#[derive(Debug)]
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Newest first. Only the first was certainly read; the second is when it becomes the first.
    whole: Vec<(PathBuf, SnapshotMeta)>,
    damaged: Vec<DamagedSnapshot>,
    writing: bool,
}

impl SnapshotStore {
    /// Opens the snapshots of the data directory `dir` (their files are in `dir/snap`) and checks the newest in full.
    ///
    /// If it is damaged, the older one takes its place and `damaged` tells; the log must then reach back to it, which the
    /// caller checks against `Recovered::previous_index`.
    ///
    /// # Errors
    /// `Corrupt` if there are snapshots and none is whole, `Foreign` if they are another cluster's.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, identity: &Identity) -> Result<SnapshotStore> {
        let snap_dir = dir.join(DIR_NAME);
        ensure_dir(&*disk, &snap_dir)?;
        let known = Self::find(&*disk, &snap_dir, identity)?;
        remove_unfinished(&*disk, &snap_dir)?;
        Ok(SnapshotStore { disk, dir: dir.to_owned(), identity: *identity, known: Mutex::new(known) })
    }

    fn find(disk: &dyn Disk, snap_dir: &Path, identity: &Identity) -> Result<Known> {
        let mut known = Known::default();
        for (name, index) in names(disk, snap_dir)? {
            let path = snap_dir.join(name);
            let newest = known.whole.is_empty();
            match check(disk, &path, index, Some(identity), newest) {
                Ok(meta) => known.whole.push((path, meta)),
                Err(error @ Error::Corrupt { .. }) => {
                    log::error!("a snapshot is damaged and not used: {error}");
                    known.damaged.push(DamagedSnapshot { path, index, error });
                }
                Err(other) => return Err(other),
            }
        }
        if let (true, Some(first)) = (known.whole.is_empty(), known.damaged.first()) {
            return Err(first.error.clone());
        }
        Ok(known)
    }

    /// As `open`, of a directory that nobody runs on; changes nothing in it, and must not be written to.
    pub fn look(disk: Arc<dyn Disk>, dir: &Path, identity: &Identity) -> Result<SnapshotStore> {
        let known = Self::find(&*disk, &dir.join(DIR_NAME), identity)?;
        Ok(SnapshotStore { disk, dir: dir.to_owned(), identity: *identity, known: Mutex::new(known) })
    }

    /// The newest whole snapshot; nothing if none was ever taken.
    pub fn latest(&self) -> Option<SnapshotMeta> {
        self.known.lock().whole.first().map(|(_, meta)| meta.clone())
    }

    /// Bytes of its file; 0 without one.
    pub fn latest_bytes(&self) -> u64 {
        let Some((path, _)) = self.known.lock().whole.first().cloned() else { return 0 };
        let opened = self.disk.open(&path, Access::Read).ok().flatten();
        opened.and_then(|file| file.len().ok()).unwrap_or_default()
    }

    /// Snapshots found damaged when the store was opened, newest first.
    pub fn damaged(&self) -> Vec<DamagedSnapshot> {
        self.known.lock().damaged.clone()
    }

    /// The first log index that must be kept: the one behind the oldest snapshot that may be needed. Give it to
    /// `Wal::drop_before`. 1 as long as there is only one, since the log alone then stands in for it.
    pub fn log_needed_from(&self) -> u64 {
        let known = self.known.lock();
        if known.whole.len() < KEPT {
            return 1;
        }
        known.whole.last().map_or(1, |(_, meta)| meta.index + 1)
    }

    /// Begins a snapshot. It counts when `SnapshotWriter::finish` returned; if the writer is dropped before, it is gone.
    pub fn begin(&self, meta: SnapshotMeta) -> Result<SnapshotWriter<'_>> {
        let mut known = self.known.lock();
        if known.writing {
            return Err(Error::Overloaded("a snapshot is being written already".to_owned()));
        }
        if known.whole.first().is_some_and(|(_, latest)| latest.index >= meta.index) {
            return Err(Error::Invalid(format!("there is a snapshot at index {} or later already", meta.index)));
        }
        let header = Header {
            cluster: self.identity.cluster,
            group: self.identity.group,
            salt: self.disk.random(),
            meta: meta.clone(),
        };
        let unfinished = self.dir.join(DIR_NAME).join(format!("{}.tmp", file_name(&meta)));
        let file = FileWriter::new(self.disk.create(&unfinished)?, &header)?;
        known.writing = true;
        Ok(SnapshotWriter { store: self, file, meta, unfinished })
    }

    /// Reads a snapshot of this store and hands on its chunks in order, each checked before it is handed on. Use what the
    /// sink got only if this returns without an error: the footer comes last.
    pub fn read(&self, meta: &SnapshotMeta, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let path = self.dir.join(DIR_NAME).join(file_name(meta));
        let opened = self.disk.open(&path, Access::Read)?;
        let file = opened.ok_or_else(|| damaged(&path, 0, "the snapshot vanished"))?;
        let mut reader = FileReader::new(&path, &*file)?;
        let header = reader.header()?;
        if &header.meta != meta {
            return Err(damaged(&path, 0, "the file holds another snapshot"));
        }
        reader.chunks(header.salt, true, sink)
    }

    /// The file of a snapshot of this store, for reading. It stays readable when newer ones take its place.
    ///
    /// # Errors
    /// `Corrupt` if it is gone already.
    pub fn open_file(&self, meta: &SnapshotMeta) -> Result<Arc<dyn File>> {
        let path = self.dir.join(DIR_NAME).join(file_name(meta));
        let opened = self.disk.open(&path, Access::Read)?;
        opened.ok_or_else(|| damaged(&path, 0, "the snapshot was replaced by newer ones"))
    }

    /// Puts a finished file in place and lets go of what it makes needless.
    fn accept(&self, unfinished: &Path, meta: &SnapshotMeta) -> Result<()> {
        let snap_dir = self.dir.join(DIR_NAME);
        let path = snap_dir.join(file_name(meta));
        check(&*self.disk, unfinished, meta.index, Some(&self.identity), true)?;
        self.make_room(&path)?;
        self.disk.rename(unfinished, &path)?;
        self.disk.sync_dir(&snap_dir)?;
        let (surplus, broken) = {
            let mut known = self.known.lock();
            known.whole.insert(0, (path, meta.clone()));
            let kept = known.whole.len().min(KEPT);
            let surplus = known.whole.split_off(kept);
            let broken = if kept == KEPT { std::mem::take(&mut known.damaged) } else { Vec::new() };
            (surplus, broken)
        };
        for (path, _) in &surplus {
            self.disk.remove(path)?;
        }
        for snapshot in &broken {
            quarantine::set_aside(&*self.disk, &self.dir, &snapshot.path)?;
        }
        if surplus.is_empty() && broken.is_empty() {
            return Ok(());
        }
        self.disk.sync_dir(&snap_dir)
    }

    /// A damaged file goes before a whole one takes its name: the state may have come no further since it was taken.
    fn make_room(&self, path: &Path) -> Result<()> {
        if self.known.lock().damaged.iter().any(|damaged| damaged.path == path) {
            quarantine::set_aside(&*self.disk, &self.dir, path)?;
            self.known.lock().damaged.retain(|damaged| damaged.path != path);
        }
        Ok(())
    }
}

/// One snapshot on its way to the disk.
#[derive(Debug)]
pub struct SnapshotWriter<'a> {
    store: &'a SnapshotStore,
    file: FileWriter,
    meta: SnapshotMeta,
    unfinished: PathBuf,
}

impl SnapshotWriter<'_> {
    /// Writes one chunk of 1 byte to `CHUNK_BYTES_MAX` bytes. `section` comes back when it is read.
    pub fn chunk(&mut self, section: u8, payload: &[u8]) -> Result<()> {
        self.file.chunk(section, payload)
    }

    /// Makes the snapshot durable and the latest one, and removes the third newest.
    pub fn finish(mut self) -> Result<SnapshotMeta> {
        self.file.finish()?;
        self.store.accept(&self.unfinished, &self.meta)?;
        Ok(self.meta.clone())
    }
}

impl Drop for SnapshotWriter<'_> {
    fn drop(&mut self) {
        // Nothing if it was renamed; else only room that the next start would give back.
        let _ = self.store.disk.remove(&self.unfinished);
        self.store.known.lock().writing = false;
    }
}

fn file_name(meta: &SnapshotMeta) -> String {
    format!("c-{:020}-{}.rws", meta.index, meta.term)
}

/// Names of the snapshots in a directory with their index, newest first.
fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<(String, u64)>> {
    let parse = |name: &str| -> Option<(u64, u64)> {
        let (index, term) = name.strip_prefix("c-")?.strip_suffix(".rws")?.split_once('-')?;
        Some((index.parse().ok()?, term.parse().ok()?))
    };
    let mut found: Vec<_> = disk.list(dir)?.into_iter().filter_map(|name| Some((parse(&name)?, name))).collect();
    found.sort_unstable_by(|left, right| right.cmp(left));
    Ok(found.into_iter().map(|((index, _), name)| (name, index)).collect())
}

/// Reads a file as far as needed to trust it: the header only, or everything.
fn check(disk: &dyn Disk, path: &Path, index: u64, identity: Option<&Identity>, in_full: bool) -> Result<SnapshotMeta> {
    let opened = disk.open(path, Access::Read)?;
    let file = opened.ok_or_else(|| damaged(path, 0, "the snapshot vanished"))?;
    let mut reader = FileReader::new(path, &*file)?;
    let header = reader.header()?;
    if header.meta.index != index {
        return Err(damaged(path, 40, "the file has the name of another snapshot"));
    }
    if let Some(owner) = identity {
        if (header.cluster, header.group) != (owner.cluster, owner.group) {
            return Err(Error::Foreign(format!(
                "{} belongs to cluster {}, group {}; this directory to cluster {}, group {}; put the right file back",
                path.display(),
                header.cluster,
                header.group,
                owner.cluster,
                owner.group
            )));
        }
    }
    if in_full {
        reader.chunks(header.salt, false, &mut |_, _| Ok(()))?;
    }
    Ok(header.meta)
}

fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for name in disk.list(dir)? {
        if name.ends_with(".tmp") {
            disk.remove(&dir.join(name))?;
        }
    }
    Ok(())
}
