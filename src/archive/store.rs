//! Index and packs together: the part that reads, shared by all threads.
//!
//! Invariants
//! * Chunks divide the ids: a chunk holds ids from its key up to the next chunk's key, and none lies elsewhere.
//! * A reader never waits for a writer. It may find that a pack went away under it, and then looks at the index again.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::Chunk;
use super::index::{chunk_key, ChunkPlace, Index, OpenIndex, META_KEY};
use super::pack::{self, PackReader};
use super::Options;
use crate::base::codec::{Reader, Writer};
use crate::base::sync::Mutex;
use crate::base::{ClusterId, Error, GroupId, JobId, Millis, Result};

/// Format of the whole directory.
const FORMAT: u64 = 1;
/// How often a reader looks again when the pack it was sent to is gone.
const LOOKS_MAX: usize = 5;

/// History that is gone for good, and why: shown in health until someone deletes the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub reason: String,
    pub at: Millis,
    /// Jobs that finished up to this ordinal are concerned.
    pub upto: u64,
}

/// What the index says of the archive as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub cluster: ClusterId,
    pub group: GroupId,
    pub watermark: u64,
    pub records: u64,
    pub lost: Option<Lost>,
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(6).u64(FORMAT).bin(&self.cluster.0).u64(self.group.0).u64(self.watermark).u64(self.records);
        w.option(self.lost.as_ref(), |w, lost| {
            w.array(3).str(&lost.reason).u64(lost.at.0).u64(lost.upto);
        });
        w.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Meta> {
        let mut r = Reader::new(bytes);
        r.array_of(6, "the meta record")?;
        match r.u64()? {
            FORMAT => (),
            other => {
                return Err(Error::Foreign(format!("the archive has format {other}, this version knows {FORMAT}")))
            }
        }
        let cluster = ClusterId::from_slice(r.bin()?).ok_or_else(|| Error::Invalid("a cluster id".to_owned()))?;
        let (group, watermark, records) = (GroupId(r.u64()?), r.u64()?, r.u64()?);
        let lost = r.option(|r| {
            r.array_of(3, "lost history")?;
            Ok(Lost { reason: r.str()?.to_owned(), at: Millis(r.u64()?), upto: r.u64()? })
        })?;
        Ok(Meta { cluster, group, watermark, records, lost })
    }
}

/// A damaged chunk, or another failure.
#[derive(Debug)]
pub(super) enum Fault {
    /// One chunk cannot be read; the rest of the archive is fine.
    Chunk {
        low: JobId,
        place: ChunkPlace,
        message: String,
    },
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

pub(super) struct Store {
    pub dir: PathBuf,
    pub index: Box<dyn Index>,
    pub packs: PackReader,
    /// Bytes of all packs, for the statistics.
    pub pack_bytes: AtomicU64,
    pub watermark: AtomicU64,
    pub records: AtomicU64,
    /// History that is gone, for the statistics.
    pub lost: Mutex<Option<Lost>>,
}

fn damaged(dir: &Path, message: impl Into<String>) -> Error {
    Error::Corrupt { path: dir.display().to_string(), offset: 0, message: message.into() }
}

impl Store {
    /// Opens or makes the archive in this directory and checks what can be checked without reading all of it.
    pub fn open(options: &Options, open_index: OpenIndex) -> Result<(Store, Meta)> {
        let dir = &options.path;
        let index_dir = dir.join("index");
        let failed = |error: std::io::Error| Error::disk("create", dir.display(), &error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&index_dir).map_err(failed)?;
        // Its files have the modes that the index gives them; the way to them is its owner's alone.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let index = open_index(&index_dir)?;
        pack::sync_directory(dir)?;
        dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), pack::sync_directory)?;
        let packs = pack::list(dir)?;
        let meta = match index.get(META_KEY)? {
            Some(bytes) => Meta::decode(&bytes).map_err(|error| match error {
                Error::Invalid(what) => damaged(dir, format!("its meta record is damaged: {what}")),
                other => other,
            })?,
            None if packs.is_empty() && index.first_from(&[])?.is_none() => {
                Meta { cluster: options.cluster, group: options.group, watermark: 0, records: 0, lost: None }
            }
            None => return Err(damaged(dir, "its meta record is missing")),
        };
        if (meta.cluster, meta.group) != (options.cluster, options.group) {
            return Err(damaged(dir, format!("it belongs to cluster {}, group {}", meta.cluster, meta.group)));
        }
        let store = Store {
            dir: dir.clone(),
            index,
            packs: PackReader::new(dir),
            pack_bytes: AtomicU64::new(0),
            watermark: AtomicU64::new(meta.watermark),
            records: AtomicU64::new(meta.records),
            lost: Mutex::new(meta.lost.clone()),
        };
        Ok((store, meta))
    }

    /// The chunk that would hold this id: the last one that begins at or before it.
    pub fn covering(&self, id: JobId) -> Result<Option<(JobId, ChunkPlace)>> {
        let Some((key, value)) = self.index.last_upto(&chunk_key(id))? else { return Ok(None) };
        self.read_place(&key, &value)
    }

    /// The first chunk that begins at or after this id.
    pub fn following(&self, id: JobId) -> Result<Option<(JobId, ChunkPlace)>> {
        let Some((key, value)) = self.index.first_from(&chunk_key(id))? else { return Ok(None) };
        self.read_place(&key, &value)
    }

    fn read_place(&self, key: &[u8], value: &[u8]) -> Result<Option<(JobId, ChunkPlace)>> {
        match key.strip_prefix(b"c") {
            Some(low) => {
                let low = JobId::from_slice(low).ok_or_else(|| damaged(&self.dir, "a chunk's key is damaged"))?;
                Ok(Some((low, ChunkPlace::decode(value)?)))
            }
            None => Ok(None),
        }
    }

    /// Reads the chunk at this place; `None` if its pack is gone.
    pub fn read(&self, low: JobId, place: ChunkPlace) -> std::result::Result<Option<Chunk>, Fault> {
        let checked = self.packs.read(place.at).and_then(|body| body.as_deref().map(Chunk::decode).transpose());
        match checked {
            Err(Error::Corrupt { message, .. }) => {
                let message = format!("pack {} at byte {}: {message}", place.at.pack, place.at.offset);
                Err(Fault::Chunk { low, place, message })
            }
            other => Ok(other?),
        }
    }

    /// The chunk that covers an id, with its lowest id, read and checked.
    pub fn load_covering(&self, id: JobId) -> std::result::Result<Option<(JobId, ChunkPlace, Chunk)>, Fault> {
        for _ in 0..LOOKS_MAX {
            let Some((low, place)) = self.covering(id)? else { return Ok(None) };
            if let Some(chunk) = self.read(low, place)? {
                return Ok(Some((low, place, chunk)));
            }
            if self.covering(id)? == Some((low, place)) {
                let message = format!("pack {} is missing", place.at.pack);
                return Err(Fault::Chunk { low, place, message });
            }
        }
        Err(Error::Overloaded("the archive changes faster than it can be read".to_owned()).into())
    }

    pub fn stats_bytes(&self) -> u64 {
        self.pack_bytes.load(Ordering::Relaxed) + self.index.bytes_on_disk()
    }
}
