//! The slow work on files, done beside the log: filling the next segment with zeros, removing old ones.
//!
//! Without it a rotation would wait for the whole file to be zeroed, and a removal of 32 MiB stalls some file systems for
//! milliseconds. A spare gets its name only after its zeros are on disk, so one found at start-up is whole or damaged,
//! and reading it tells which.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::{Error, Result};
use crate::disk::{write_zeros, Access, Disk, File};

/// Zeros that are synced at once. The syncs of the log wait behind them, so a whole segment would hold up writers for tens of
/// milliseconds.
const SYNC_BYTES: u64 = 1 << 20;

/// A file of zeros, ready to become a segment.
#[derive(Debug)]
pub struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub bytes: u64,
}

/// What the log and its maker share.
#[derive(Debug)]
pub struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    spare_bytes: u64,
    state: Mutex<State>,
    /// Held through a whole round of work, so that two callers do not make two spares.
    working: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    ready: Option<Spare>,
    /// The last one could not be made: the disk is full.
    lacking: bool,
    next_number: u64,
    /// Files that are no longer needed, oldest first.
    doomed: VecDeque<PathBuf>,
    /// A sync failed here: the log must stop too (D3).
    failed: Option<String>,
}

/// Does the slow work. Give it to a maintenance thread; call `work` when `Wal::wants_work` says so, or now and then.
#[derive(Clone, Debug)]
pub struct SpareMaker {
    pool: Arc<Pool>,
}

impl SpareMaker {
    pub(super) fn new(pool: Arc<Pool>) -> SpareMaker {
        SpareMaker { pool }
    }

    /// Removes segments that the log gave up, then makes a spare if none is ready. Returns whether there was anything to
    /// do. `Error::DiskFull` is harmless: try again later, the log makes its segment itself if it needs one before. After
    /// any other failed write or sync the log is poisoned.
    pub fn work(&self) -> Result<bool> {
        let pool = &self.pool;
        let _working = pool.working.lock();
        let mut done = false;
        while let Some(path) = pool.first_doomed() {
            pool.disk.remove(&path)?;
            // One sync for each, oldest first: a cut between two unsynced removals could leave a hole in the log.
            pool.disk.sync_dir(&pool.dir).map_err(|error| pool.fail(error))?;
            pool.state.lock().doomed.pop_front();
            done = true;
        }
        if pool.state.lock().ready.is_none() {
            let made = pool.make();
            pool.state.lock().lacking = matches!(made, Err(Error::DiskFull(_)));
            let spare = made.map_err(|error| pool.fail(error))?;
            pool.state.lock().ready = Some(spare);
            done = true;
        }
        Ok(done)
    }
}

impl Pool {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, spare_bytes: u64) -> Pool {
        Pool { disk, dir, spare_bytes, state: Mutex::default(), working: Mutex::new(()) }
    }

    /// Clears the directory of what earlier processes left: unfinished files go, one whole spare is taken over.
    pub fn adopt(&self) -> Result<()> {
        for name in self.disk.list(&self.dir)? {
            let path = self.dir.join(&name);
            let number = name.strip_prefix("spare-").and_then(|rest| rest.strip_suffix(".seg")?.parse::<u64>().ok());
            let Some(number) = number else {
                if name.ends_with(".tmp") {
                    self.disk.remove(&path)?;
                }
                continue;
            };
            let vacant = self.state.lock().ready.is_none();
            let spare = if vacant { self.whole_spare(&path)? } else { None };
            if spare.is_none() {
                self.disk.remove(&path)?;
            }
            let mut state = self.state.lock();
            state.next_number = state.next_number.max(number.saturating_add(1));
            state.ready = state.ready.take().or(spare);
        }
        Ok(())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn take(&self, bytes_min: u64) -> Option<Spare> {
        let mut state = self.state.lock();
        let fits = state.ready.as_ref().is_some_and(|spare| spare.bytes >= bytes_min);
        if fits {
            state.ready.take()
        } else {
            None
        }
    }

    pub fn doom(&self, paths: impl IntoIterator<Item = PathBuf>) {
        self.state.lock().doomed.extend(paths);
    }

    pub fn wants_work(&self) -> bool {
        let state = self.state.lock();
        state.ready.is_none() || !state.doomed.is_empty()
    }

    pub fn lacks_spare(&self) -> bool {
        self.state.lock().lacking
    }

    pub fn failure(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    fn first_doomed(&self) -> Option<PathBuf> {
        self.state.lock().doomed.front().cloned()
    }

    fn fail(&self, error: Error) -> Error {
        if !matches!(error, Error::DiskFull(_)) {
            self.state.lock().failed = Some(error.to_string());
        }
        error
    }

    fn make(&self) -> Result<Spare> {
        let number = {
            let mut state = self.state.lock();
            state.next_number += 1;
            state.next_number
        };
        let unfinished = self.dir.join(format!("spare-{number}.tmp"));
        let path = self.dir.join(format!("spare-{number}.seg"));
        let made = self.disk.create(&unfinished).and_then(|file| {
            let mut filled = 0;
            while filled < self.spare_bytes {
                let end = self.spare_bytes.min(filled + SYNC_BYTES);
                write_zeros(&*file, filled, end)?;
                file.sync()?;
                filled = end;
            }
            self.disk.rename(&unfinished, &path)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                self.disk.sync_dir(&self.dir)?;
                Ok(Spare { path, file, bytes: self.spare_bytes })
            }
            Err(error) => {
                // What is left over only takes room; the next start removes it if this does not.
                let _ = self.disk.remove(&unfinished);
                Err(error)
            }
        }
    }

    /// The spare in this file, if it has the right length and nothing but zeros: a crash may have left groups in it.
    fn whole_spare(&self, path: &Path) -> Result<Option<Spare>> {
        let Some(file) = self.disk.open(path, Access::ReadWrite)? else { return Ok(None) };
        if file.len()? != self.spare_bytes {
            return Ok(None);
        }
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < self.spare_bytes {
            // One that cannot be read is of no use, and no loss.
            let Ok(read) = file.read_at(offset, &mut buffer) else { return Ok(None) };
            if read == 0 || buffer[..read].iter().any(|byte| *byte != 0) {
                return Ok(None);
            }
            offset += read as u64;
        }
        Ok(Some(Spare { path: path.to_owned(), file, bytes: self.spare_bytes }))
    }
}

/// Makes a file of zeros; not synced yet.
pub fn zero_file(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<Arc<dyn File>> {
    let file = disk.create(path)?;
    write_zeros(&*file, 0, bytes)?;
    Ok(file)
}
