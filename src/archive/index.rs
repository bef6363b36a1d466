//! The index of the archive: a small ordered map on disk that says where each chunk lies and when it ends.
//!
//! It is a trait so that the storage engine below can be replaced, and can be made to fail in tests. Keys:
//!
//! | key                                    | value                                                 |
//! |----------------------------------------|-------------------------------------------------------|
//! | `c`, lowest id of the chunk (16)       | [`ChunkPlace`]                                        |
//! | `e`, moment in ms big-endian (8), id   | nothing: the chunk at this id has something to expire |
//! | `m`                                    | the meta record                                       |
//! | `u`, pack number big-endian (4)        | bytes of the pack that are in use (8, little-endian)  |
//!
//! Values are below 100 bytes: sled keeps whole pages in memory while it reads and writes, so its memory follows the
//! size of the values. Measured: 100 MB of records as values of 1 KiB leave 76 MB resident after they were read.

use std::fs::File;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::pack::{sync_directory, Location};
use crate::base::{Error, JobId, Result};

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map that keeps what was synced. A damaged one answers `Error::Corrupt` and never panics.
pub trait Index: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first pair whose key is not below this one.
    fn first_from(&self, key: &[u8]) -> Result<Option<Pair>>;
    /// The last pair whose key is not above this one.
    fn last_upto(&self, key: &[u8]) -> Result<Option<Pair>>;
    /// Sets and removes, all or nothing. Later changes of a key win.
    fn apply(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()>;
    /// Returns when everything applied is on disk.
    fn sync(&self) -> Result<()>;
    fn bytes_on_disk(&self) -> u64;
}

/// Opens an index in a directory.
pub type OpenIndex = std::sync::Arc<dyn Fn(&Path) -> Result<Box<dyn Index>> + Send + Sync>;

/// Memory for pages; the index of a million records is about one mebibyte.
const CACHE_BYTES: u64 = 4 << 20;
/// sled's unit of writing and of space that comes back. Its buffers are of this size.
const SEGMENT_BYTES: usize = 256 << 10;
/// How the name of a snapshot of sled ends before it is whole.
const UNFINISHED: &str = "generating";
/// Times 20 ms.
const LOCK_TRIES: usize = 100;

/// sled behind `Index`. Every call is guarded: sled asserts where it finds damage.
struct SledIndex {
    /// Taken in `drop` only.
    db: Option<sled::Db>,
    path: PathBuf,
    /// Our own handle of sled's file: its flush does not reach the disk's own cache.
    file: File,
}

/// The process that used sled first. Its threads serve every index of the process, and a forked child has none of them:
/// there sled would wait for ever.
static SLED_PROCESS: OnceLock<u32> = OnceLock::new();

/// Opens sled in this directory. `Forked` in a child of a process that used it.
pub fn open_sled(path: &Path) -> Result<Box<dyn Index>> {
    if *SLED_PROCESS.get_or_init(std::process::id) != std::process::id() {
        return Err(Error::Forked);
    }
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(500));
    remove_unfinished(path)?;
    let db = Some(open_unlocked(path, &config)?);
    sync_files(path)?;
    let file_path = path.join("db");
    let file = File::open(&file_path).map_err(|error| Error::disk("open", file_path.display(), &error))?;
    Ok(Box::new(SledIndex { db, path: path.to_owned(), file }))
}

/// sled writes its snapshot while it opens, under a name of its own until it is whole. If it was killed then, or the disk was full,
/// the next opening takes what is there for the newest snapshot, and so the index for damaged.
fn remove_unfinished(path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::disk("remove an unfinished file", path.display(), &error);
    if !path.is_dir() {
        return Ok(());
    }
    for item in std::fs::read_dir(path).map_err(failed)? {
        let item = item.map_err(failed)?.path();
        if item.extension().is_some_and(|ending| ending == UNFINISHED) {
            std::fs::remove_file(&item).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes what opening wrote durable: sled replaces its snapshot then, without syncing the directory.
fn sync_files(path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::disk("sync", path.display(), &error);
    for item in std::fs::read_dir(path).map_err(failed)? {
        let item = item.map_err(failed)?.path();
        if item.is_file() {
            File::open(&item).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    sync_directory(path)
}

/// Opens it as soon as the last user before us let go of it: a reader may hold it a moment longer than the writer.
fn open_unlocked(path: &Path, config: &sled::Config) -> Result<sled::Db> {
    for _ in 0..LOCK_TRIES {
        match guarded(path, || config.open()) {
            Err(Error::Disk { message, .. }) if message.contains("could not acquire lock") => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            other => return other,
        }
    }
    Err(Error::Busy { path: path.display().to_string(), holder: "another process".to_owned() })
}

fn guarded<T>(path: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    let corrupt = |message: String| Error::Corrupt { path: path.display().to_string(), offset: 0, message };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => Err(corrupt(error.to_string())),
            _ => Err(Error::disk("use the index", path.display(), &error)),
        },
        Ok(Err(error)) => Err(corrupt(error.to_string())),
        Err(panic) => Err(corrupt(format!("sled stopped: {}", panic_words(&*panic)))),
    }
}

/// What a panic said.
pub(super) fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}

fn owned(pair: (sled::IVec, sled::IVec)) -> Pair {
    (pair.0.to_vec(), pair.1.to_vec())
}

impl SledIndex {
    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("the database is taken in drop only")
    }
}

impl Drop for SledIndex {
    /// Closing a damaged database writes, and may assert like every other call.
    fn drop(&mut self) {
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        guarded(&self.path, || Ok(self.db().get(key)?.map(|value| value.to_vec())))
    }

    fn first_from(&self, key: &[u8]) -> Result<Option<Pair>> {
        guarded(&self.path, || Ok(self.db().range(key..).next().transpose()?.map(owned)))
    }

    fn last_upto(&self, key: &[u8]) -> Result<Option<Pair>> {
        guarded(&self.path, || Ok(self.db().range(..=key).next_back().transpose()?.map(owned)))
    }

    fn apply(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        guarded(&self.path, || self.db().apply_batch(batch))
    }

    fn sync(&self) -> Result<()> {
        guarded(&self.path, || self.db().flush())?;
        self.file.sync_all().map_err(|error| Error::disk("sync", self.path.display(), &error))
    }

    fn bytes_on_disk(&self) -> u64 {
        guarded(&self.path, || self.db().size_on_disk()).unwrap_or(0)
    }
}

/// What the index knows of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkPlace {
    pub at: Location,
    pub records: u32,
    /// Bytes before compression.
    pub raw_bytes: u32,
    pub keep_first_ms: u64,
    pub keep_last_ms: u64,
    /// Union of the labels of its records: a query skips a chunk that lacks one.
    pub labels: u64,
}

impl ChunkPlace {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48);
        for number in [self.at.pack, self.at.length, self.records, self.raw_bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.at.offset, self.keep_first_ms, self.keep_last_ms, self.labels] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<ChunkPlace> {
        if bytes.len() != 48 {
            let message = format!("a chunk's place of {} bytes", bytes.len());
            return Err(Error::Corrupt { path: "index".to_owned(), offset: 0, message });
        }
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(short(at)) | u64::from(short(at + 4)) << 32;
        Ok(ChunkPlace {
            at: Location { pack: short(0), length: short(4), offset: long(16) },
            records: short(8),
            raw_bytes: short(12),
            keep_first_ms: long(24),
            keep_last_ms: long(32),
            labels: long(40),
        })
    }

    /// The key under which this chunk waits for its first record to end. Moments are rounded up to a minute, so that
    /// the records of a busy minute go in one step.
    pub fn expiry_key(&self, low: JobId) -> Vec<u8> {
        let minute = self.keep_first_ms.div_ceil(60_000).saturating_mul(60_000);
        let mut key = vec![b'e'];
        key.extend_from_slice(&minute.to_be_bytes());
        key.extend_from_slice(&low.0);
        key
    }
}

/// Moment and chunk of an expiry key.
pub(super) fn read_expiry_key(key: &[u8]) -> Option<(u64, JobId)> {
    let rest = key.strip_prefix(b"e")?;
    let moment = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    Some((moment, JobId::from_slice(&rest[8..])?))
}

pub(super) const META_KEY: &[u8] = b"m";

pub(super) fn chunk_key(low: JobId) -> Vec<u8> {
    [b"c", &low.0[..]].concat()
}

/// The packs that an index names.
pub(super) fn packs_named(index: &dyn Index) -> Result<Vec<u32>> {
    let (mut packs, mut from) = (Vec::new(), use_key(0));
    while let Some((key, _)) = index.first_from(&from)?.filter(|(key, _)| key[0] == b'u') {
        let number = key[1..].first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        packs.push(number);
        from = use_key(number.saturating_add(1));
    }
    Ok(packs)
}

pub(super) fn use_key(pack: u32) -> Vec<u8> {
    [b"u", &pack.to_be_bytes()[..]].concat()
}
