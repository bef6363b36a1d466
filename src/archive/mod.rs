//! The archive: finished jobs, moved out of memory so that history is bounded by the disk.
//!
//! ```text
//! archive/
//!   index/            sled: which chunk holds which ids, when it ends, how far we came
//!   pack-00000001     chunks of about 200 records, compressed, appended
//! archive.quarantine-1/   an archive that could not be read; kept for a person to look at
//! ```
//!
//! Why not all in sled: it keeps whole pages of values in memory (see `index.rs`), and the archive exists to free memory.
//!
//! What callers may rely on
//! * All of it is derived from applied entries. Losing it loses history, never work; the state machine never reads it.
//! * `put` returns when the records are on disk. `watermark` is the highest finish ordinal that is; jobs up to it may
//!   leave memory. Always continue from `watermark()`: it goes back when an archive had to be begun anew.
//! * Damage never stops the node. A damaged chunk is dropped; a damaged index puts the whole directory into quarantine
//!   and begins an empty one. Both are told by `health` until the archive is deleted.
//! * Readers do not wait for writers. Every scan and every step of upkeep is bounded.

mod chunk;
pub mod index;
mod inspect;
mod pack;
mod query;
mod store;
mod unlike;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::base::codec;
use crate::base::sync::{Mutex, RwLock};
use crate::base::{limits, ClusterId, Error, GroupId, JobId, Millis, Result};
use index::OpenIndex;
use store::{Fault, Store};
use writer::Writer;

pub use inspect::{inspect, Report};
pub use query::{Part, Scan, Scanned, Step};
pub use store::Lost;
pub use unlike::{Range, Stamp, RANGES_MAX};

/// When a record may be forgotten, in milliseconds since the epoch; 0 = it is not stored at all.
pub type KeepUntil = fn(&[u8]) -> Result<u64>;
/// A few bits that say what a record is about, see [`Scan::wanted`].
pub type Labels = fn(&[u8]) -> u64;

/// Quarantined directories that are kept; older ones are removed.
const QUARANTINES_MAX: usize = 2;
/// Damaged chunks that one call drops before it gives up.
const DROPS_MAX: usize = 1_000;

/// What an archive must be told.
#[derive(Clone)]
pub struct Options {
    pub path: PathBuf,
    pub cluster: ClusterId,
    pub group: GroupId,
    /// Up to here jobs have left the memory of the state machine: what the archive lacks of them is lost.
    pub evicted_upto: u64,
    pub now: Millis,
    pub keep_until: KeepUntil,
    pub labels: Labels,
}

/// What `expire` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub removed: u64,
    /// The bound was reached; call again soon.
    pub more: bool,
}

/// How large the archive is and how well it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub records: u64,
    pub bytes: u64,
    pub watermark: u64,
    /// History that is gone.
    pub lost: Option<Lost>,
    /// Nothing can be archived for this reason, so finished jobs stay in memory.
    pub stopped: Option<String>,
}

/// Finished jobs on disk. All methods may be called from any thread.
pub struct Archive {
    options: Options,
    open_index: OpenIndex,
    store: RwLock<Option<Arc<Store>>>,
    writer: Mutex<Option<Writer>>,
    stopped: Mutex<Option<String>>,
}

impl Archive {
    /// Opens or makes the archive. What cannot be read is put aside; an error means that the disk refuses.
    pub fn open(options: Options) -> Result<Archive> {
        Self::open_with(options, Arc::new(index::open_sled))
    }

    /// As `open`, with another index.
    pub fn open_with(options: Options, open_index: OpenIndex) -> Result<Archive> {
        let archive = Archive {
            options,
            open_index,
            store: RwLock::new(None),
            writer: Mutex::new(None),
            stopped: Mutex::new(None),
        };
        let existed = archive.options.path.exists();
        archive.with_writer(|_| Ok(()))?;
        archive.check_evicted(existed)?;
        Ok(archive)
    }

    /// Stores finished jobs `(finish ordinal, id, record)` and returns the new watermark when they are on disk. A record
    /// that is there already is replaced. Cheapest with a few hundred and more at once.
    ///
    /// They must be all that there are behind `after`. Ordinals have gaps, as jobs are requeued and deleted, so this alone
    /// tells whether some are skipped: an archive that does not reach `after` refuses them (`Invalid`).
    pub fn put(&self, after: u64, batch: &[(u64, JobId, Vec<u8>)]) -> Result<u64> {
        self.with_writer(|writer| writer.put(after, batch))
    }

    /// Takes finished jobs of another archive into this new one, whatever their ordinals were; `watermark` says how far
    /// all of them came.
    pub fn import(&self, batch: &[(JobId, Vec<u8>)], watermark: u64) -> Result<()> {
        self.with_writer(|writer| writer.import(batch, watermark))
    }

    /// Writes down that finished jobs up to this ordinal will not come by themselves, unless they are here: then the archive
    /// goes on behind them.
    pub fn lose(&self, reason: &str, at: Millis, upto: u64) -> Result<()> {
        self.with_writer(|writer| writer.lose(Lost { reason: reason.to_owned(), at, upto }))
    }

    /// What was lost was found elsewhere, and is here now. Not what was lost meanwhile.
    pub fn found(&self, lost: &Lost) -> Result<()> {
        self.with_writer(|writer| writer.clear_lost(lost))
    }

    /// Whether it can be read: on a full disk it is closed until there is room.
    pub fn is_open(&self) -> bool {
        self.store.read().is_some()
    }

    /// Whether it can be read, and nothing is lost.
    pub fn is_whole(&self) -> bool {
        self.store.read().as_ref().is_some_and(|store| store.lost.lock().is_none())
    }

    /// The highest finish ordinal on disk.
    pub fn watermark(&self) -> u64 {
        self.store.read().as_ref().map_or(0, |store| store.watermark.load(Ordering::Acquire))
    }

    /// The record of a job.
    pub fn get(&self, id: JobId) -> Result<Option<Vec<u8>>> {
        let found = self.read(|store| store.load_covering(id))?.flatten();
        Ok(found.and_then(|(_, _, chunk)| chunk.get(id).map(<[u8]>::to_vec)))
    }

    /// Shows records to `visit`, newest id first, until it stops, the bound is reached, or nothing is left.
    pub fn scan(&self, scan: &Scan, visit: &mut dyn FnMut(JobId, &[u8]) -> Step) -> Result<Scanned> {
        let mut done = Scanned::default();
        match self.read(|store| query::scan(store, scan, &mut done, visit))? {
            Some(()) => Ok(done),
            None => Ok(Scanned { complete: true, next: None, ..done }),
        }
    }

    /// Writes out finished jobs below this id, newest first, until they have so many bytes, the last one whole.
    pub fn part(&self, before: Option<JobId>, bytes_max: usize) -> Result<Part> {
        let (mut items, mut count) = (codec::Writer::new(), 0);
        let scan = Scan { before, wanted: Vec::new(), records_max: usize::MAX };
        let scanned = self.scan(&scan, &mut |id, record| {
            items.array(2).id(id).bin(record);
            count += 1;
            let full = items.len() >= bytes_max || count == limits::ITEMS_MAX;
            if full {
                Step::Stop
            } else {
                Step::Next
            }
        })?;
        Ok(Part { count, items: items.into_bytes(), next: scanned.next })
    }

    /// Removes records whose time is over and gives their space back, about `records_max` of them.
    pub fn expire(&self, now: Millis, records_max: usize) -> Result<Expired> {
        self.with_writer(|writer| {
            let expired = writer.expire(now, records_max)?;
            let more = writer.reclaim()?;
            Ok(Expired { more: expired.more || more, ..expired })
        })
    }

    /// Removes these jobs; answers how many there were.
    pub fn delete(&self, ids: &[JobId]) -> Result<u64> {
        self.with_writer(|writer| writer.delete(ids))
    }

    /// Never waits for a writer, and so not for the disk.
    pub fn health(&self) -> Health {
        let stopped = self.stopped.lock().clone();
        match self.store.read().as_ref() {
            Some(store) => Health {
                records: store.records.load(Ordering::Acquire),
                bytes: store.stats_bytes(),
                watermark: store.watermark.load(Ordering::Acquire),
                lost: store.lost.lock().clone(),
                stopped,
            },
            None => Health { stopped, ..Health::default() },
        }
    }

    /// Whether it takes nothing any more, for the reason in `health`.
    pub fn is_stopped(&self) -> bool {
        self.stopped.lock().is_some()
    }

    /// Called once when the whole log is applied: an archive that is ahead of it belongs to another past (a restored
    /// data directory) and would never take the jobs that finish next.
    pub fn reconcile(&self, finished_upto: u64) -> Result<()> {
        let watermark = self.watermark();
        if watermark <= finished_upto {
            return Ok(());
        }
        let reason = format!("it knows {watermark} finished jobs, the log {finished_upto}: the log was restored");
        self.quarantine(&mut self.writer.lock(), &reason)
    }

    fn check_evicted(&self, existed: bool) -> Result<()> {
        let evicted_upto = self.options.evicted_upto;
        self.with_writer(|writer| {
            let watermark = writer.meta().watermark;
            if watermark >= evicted_upto {
                return Ok(());
            }
            let reason = match (&writer.meta().lost, existed) {
                (Some(lost), _) => lost.reason.clone(),
                (None, true) => format!("the archive ends at finished job {watermark}, {evicted_upto} had left memory"),
                (None, false) => "the archive's directory was missing at start".to_owned(),
            };
            log::warn!("history is lost up to finished job {evicted_upto}: {reason}");
            writer.set_lost(Lost { reason, at: self.options.now, upto: evicted_upto }, evicted_upto)
        })
    }

    /// Runs a change. Damage is handled here and only here.
    fn with_writer<T>(&self, mut change: impl FnMut(&mut Writer) -> std::result::Result<T, Fault>) -> Result<T> {
        let mut slot = self.writer.lock();
        if let Some(reason) = &*self.stopped.lock() {
            return Err(Error::Poisoned(reason.clone()));
        }
        if slot.is_none() {
            self.open_store(&mut slot)?;
        }
        for _ in 0..DROPS_MAX {
            let writer = slot.as_mut().expect("open_store fills the slot");
            let error = match change(writer) {
                Ok(value) => return Ok(value),
                Err(Fault::Chunk { low, place, message }) => match self.drop_chunk(writer, low, place, &message) {
                    Ok(()) => continue,
                    Err(Fault::Chunk { message, .. }) => Error::Poisoned(message),
                    Err(Fault::Other(error)) => error,
                },
                Err(Fault::Other(error)) => error,
            };
            return Err(self.failed(&mut slot, error));
        }
        Err(Error::Overloaded("the archive has too many damaged chunks; call again".to_owned()))
    }

    fn drop_chunk(
        &self,
        writer: &mut Writer,
        low: JobId,
        place: index::ChunkPlace,
        message: &str,
    ) -> std::result::Result<(), Fault> {
        let reason = format!("a chunk of {} finished jobs is damaged and was dropped: {message}", place.records);
        log::error!("archive: {reason}");
        let upto = writer.meta().watermark;
        writer.drop_chunk(low, place, Lost { reason, at: self.options.now, upto })
    }

    /// What an error means for the archive as a whole.
    fn failed(&self, slot: &mut Option<Writer>, error: Error) -> Error {
        match &error {
            Error::Corrupt { .. } => {
                if let Err(worse) = self.quarantine(slot, &error.to_string()) {
                    return worse;
                }
            }
            // Nothing is lost; sled must be opened again before it goes on. The next call does.
            Error::DiskFull(_) => self.close(slot),
            // What a failed write or sync left behind is unknown, and asking again may be answered from memory.
            Error::Disk { .. } => *self.stopped.lock() = Some(error.to_string()),
            _ => (),
        }
        error
    }

    fn close(&self, slot: &mut Option<Writer>) {
        *slot = None;
        *self.store.write() = None;
    }

    fn open_store(&self, slot: &mut Option<Writer>) -> Result<()> {
        match self.try_open() {
            Ok((store, writer)) => {
                *self.store.write() = Some(store);
                *slot = Some(writer);
                Ok(())
            }
            Err(error @ (Error::DiskFull(_) | Error::Busy { .. } | Error::Foreign(_))) => Err(error),
            Err(error) => self.quarantine(slot, &error.to_string()),
        }
    }

    fn try_open(&self) -> Result<(Arc<Store>, Writer)> {
        let (store, meta) = Store::open(&self.options, self.open_index.clone())?;
        let store = Arc::new(store);
        let writer = Writer::open(store.clone(), meta, &self.options)?;
        Ok((store, writer))
    }

    /// Puts the directory aside and begins an empty one that says so.
    fn quarantine(&self, slot: &mut Option<Writer>, reason: &str) -> Result<()> {
        let upto = self.watermark().max(self.options.evicted_upto);
        self.close(slot);
        let path = &self.options.path;
        let aside = next_quarantine(path)?;
        std::fs::rename(path, &aside).map_err(|error| Error::disk("rename", path.display(), &error))?;
        log::error!("archive: put aside as {}: {reason}", aside.display());
        let (store, mut writer) = self.try_open()?;
        if upto > 0 {
            let reason = format!("the archive was put aside as {}: {reason}", aside.display());
            // The watermark stays 0: what is still in memory is archived again.
            let told = writer.set_lost(Lost { reason, at: self.options.now, upto }, 0);
            told.map_err(|fault| match fault {
                Fault::Other(error) => error,
                Fault::Chunk { message, .. } => Error::Poisoned(message),
            })?;
        }
        *self.store.write() = Some(store);
        *slot = Some(writer);
        Ok(())
    }

    /// Runs a read. `None`: the archive had to be put aside, so there is nothing to find.
    fn read<T>(&self, mut read: impl FnMut(&Store) -> std::result::Result<T, Fault>) -> Result<Option<T>> {
        for _ in 0..DROPS_MAX {
            let Some(store) = self.store.read().clone() else { return Ok(None) };
            match read(&store) {
                Ok(value) => return Ok(Some(value)),
                Err(Fault::Chunk { low, place, message }) => {
                    drop(store);
                    self.with_writer(|writer| self.drop_chunk(writer, low, place, &message))?;
                }
                Err(Fault::Other(error @ Error::Corrupt { .. })) => {
                    let mut slot = self.writer.lock();
                    let current = self.store.read().as_ref().is_some_and(|now| Arc::ptr_eq(now, &store));
                    drop(store);
                    if current {
                        self.quarantine(&mut slot, &error.to_string())?;
                    }
                    return Ok(None);
                }
                Err(Fault::Other(error)) => return Err(error),
            }
        }
        Err(Error::Overloaded("the archive has too many damaged chunks; call again".to_owned()))
    }
}

/// A free name beside the archive; removes the oldest quarantined directories beyond the bound.
fn next_quarantine(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("archive").to_owned() + ".quarantine-";
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let listed = std::fs::read_dir(parent).map_err(|error| Error::disk("list", parent.display(), &error))?;
    let mut numbers: Vec<u64> =
        listed.filter_map(|item| item.ok()?.file_name().to_str()?.strip_prefix(&name)?.parse().ok()).collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last + 1);
    for number in numbers.iter().rev().skip(QUARANTINES_MAX - 1) {
        let _ = std::fs::remove_dir_all(parent.join(format!("{name}{number}")));
    }
    Ok(parent.join(format!("{name}{next}")))
}
