//! Pack files: chunks one behind the other, only ever appended to. The index says which of them are still valid.
//!
//! Head of a file, 64 bytes:
//!
//! | offset | bytes | field                                         |
//! |--------|-------|-----------------------------------------------|
//! | 0      | 8     | `RWPACK\0\0`                                  |
//! | 8      | 4     | format, little-endian, 1                      |
//! | 12     | 4     | number of this pack                           |
//! | 16     | 16    | cluster id                                    |
//! | 32     | 8     | group id                                      |
//! | 40     | 20    | zero                                          |
//! | 60     | 4     | crc32c of the 60 bytes before                 |
//!
//! Then frames: length of the body (4), crc32c over pack number, offset and body (4), body.
//!
//! Invariants
//! * A frame is synced before the index names it, and its file goes only after the index durably forgot it.
//! * The checksum covers the place, so a frame that was moved or is stale is refused.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::checksum::{crc32c, crc32c_append};
use crate::base::sync::Mutex;
use crate::base::{ClusterId, Error, GroupId, Result};

/// Where a new pack is begun. Small enough that space comes back in small steps, large enough to keep few files.
pub(super) const PACK_BYTES: u64 = 16 << 20;
const HEAD_BYTES: usize = 64;
const FRAME_HEAD_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"RWPACK\0\0";
const FORMAT: u32 = 1;

/// Where one frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub pack: u32,
    pub offset: u64,
    /// Bytes of the body.
    pub length: u32,
}

impl Location {
    /// Bytes that the frame takes in its pack.
    pub fn frame_bytes(&self) -> u64 {
        u64::from(self.length) + FRAME_HEAD_BYTES as u64
    }
}

fn pack_path(dir: &Path, pack: u32) -> PathBuf {
    dir.join(format!("pack-{pack:08}"))
}

fn frame_crc(pack: u32, offset: u64, body: &[u8]) -> u32 {
    crc32c_append(crc32c_append(crc32c(&pack.to_le_bytes()), &offset.to_le_bytes()), body)
}

fn head(pack: u32, cluster: ClusterId, group: GroupId) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12..16].copy_from_slice(&pack.to_le_bytes());
    head[16..32].copy_from_slice(&cluster.0);
    head[32..40].copy_from_slice(&group.0.to_le_bytes());
    let crc = crc32c(&head[..60]);
    head[60..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Numbers and bytes of the packs in a directory, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<(u32, u64)>> {
    let failed = |error: std::io::Error| Error::disk("list", dir.display(), &error);
    let mut packs = Vec::new();
    for item in std::fs::read_dir(dir).map_err(failed)? {
        let item = item.map_err(failed)?;
        let number = item.file_name().to_str().and_then(|name| name.strip_prefix("pack-")?.parse().ok());
        if let Some(number) = number {
            packs.push((number, item.metadata().map_err(failed)?.len()));
        }
    }
    packs.sort_unstable();
    Ok(packs)
}

/// Removes a pack. Its open readers finish what they read.
pub(super) fn remove(dir: &Path, pack: u32) -> Result<()> {
    let path = pack_path(dir, pack);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::disk("remove", path.display(), &error))
        }
        _ => Ok(()),
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(|error| Error::disk("sync", dir.display(), &error))
}

/// Reads frames; remembers the file it read last, as scans stay in one for long.
pub(super) struct PackReader {
    dir: PathBuf,
    last: Mutex<Option<(u32, Arc<File>)>>,
}

impl PackReader {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), last: Mutex::new(None) }
    }

    /// The body at this place. `None`: the file is gone, so the place is out of date or the pack was lost.
    pub fn read(&self, at: Location) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(at.pack)? else { return Ok(None) };
        let path = pack_path(&self.dir, at.pack);
        let bad = |message: &str| Error::Corrupt {
            path: path.display().to_string(),
            offset: at.offset,
            message: message.to_owned(),
        };
        let end = file.metadata().map_err(|error| Error::disk("stat", path.display(), &error))?.len();
        if at.offset.saturating_add(at.frame_bytes()) > end {
            return Err(bad("the file ends before the chunk"));
        }
        let mut frame = vec![0; FRAME_HEAD_BYTES + at.length as usize];
        file.read_exact_at(&mut frame, at.offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => bad("the file ends within the chunk"),
            _ => Error::disk("read", path.display(), &error),
        })?;
        let body = frame.split_off(FRAME_HEAD_BYTES);
        let mut expected = at.length.to_le_bytes().to_vec();
        expected.extend_from_slice(&frame_crc(at.pack, at.offset, &body).to_le_bytes());
        if frame != expected {
            return Err(bad("the checksum does not match"));
        }
        Ok(Some(body))
    }

    fn file(&self, pack: u32) -> Result<Option<Arc<File>>> {
        let mut last = self.last.lock();
        if let Some((number, file)) = &*last {
            if *number == pack {
                return Ok(Some(file.clone()));
            }
        }
        let path = pack_path(&self.dir, pack);
        match File::open(&path) {
            Ok(file) => {
                let file = Arc::new(file);
                *last = Some((pack, file.clone()));
                Ok(Some(file))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("open", path.display(), &error)),
        }
    }

    /// Lets go of the file that was read last, so that a removed pack gives its space back.
    pub fn forget(&self) {
        *self.last.lock() = None;
    }
}

/// Appends frames to the newest pack.
pub(super) struct PackWriter {
    dir: PathBuf,
    cluster: ClusterId,
    group: GroupId,
    newest: u32,
    open: Option<(File, u64)>,
}

impl PackWriter {
    /// Goes on behind the newest pack's last byte: what no index names there is dead space.
    pub fn new(dir: &Path, cluster: ClusterId, group: GroupId, newest: u32) -> Self {
        Self { dir: dir.to_owned(), cluster, group, newest, open: None }
    }

    /// The pack that is still written; it is never removed.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    /// Writes the bodies and syncs them. After an error nothing of them counts.
    pub fn append(&mut self, bodies: &[Vec<u8>]) -> Result<Vec<Location>> {
        let (pack, start) = self.ready()?;
        let path = pack_path(&self.dir, pack);
        let (mut buffer, mut places) = (Vec::new(), Vec::with_capacity(bodies.len()));
        for body in bodies {
            let offset = start + buffer.len() as u64;
            places.push(Location { pack, offset, length: body.len() as u32 });
            buffer.extend_from_slice(&(body.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&frame_crc(pack, offset, body).to_le_bytes());
            buffer.extend_from_slice(body);
        }
        let (file, length) = self.open.as_mut().expect("ready() opened a pack");
        let written = file.write_all_at(&buffer, start).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What was written in part is cut off; if that fails too, it stays as dead space of a pack that is left.
            let _ = file.set_len(start);
            self.open = None;
            self.newest += 1;
            return Err(Error::disk("write", path.display(), &error));
        }
        *length = start + buffer.len() as u64;
        Ok(places)
    }

    /// The pack to write to and its length; begins a new one when the newest is full or missing.
    fn ready(&mut self) -> Result<(u32, u64)> {
        if self.open.is_none() && self.newest > 0 {
            let path = pack_path(&self.dir, self.newest);
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let length = file.metadata().map_err(|error| Error::disk("stat", path.display(), &error))?.len();
                self.open = (length >= HEAD_BYTES as u64).then_some((file, length));
            }
        }
        if let Some((_, length)) = self.open.as_ref().filter(|(_, length)| *length < PACK_BYTES) {
            return Ok((self.newest, *length));
        }
        self.begin(self.newest + 1)?;
        Ok((self.newest, HEAD_BYTES as u64))
    }

    fn begin(&mut self, pack: u32) -> Result<()> {
        let path = pack_path(&self.dir, pack);
        let failed = |error: std::io::Error| Error::disk("create", path.display(), &error);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        file.write_all_at(&head(pack, self.cluster, self.group), 0).map_err(failed)?;
        sync_directory(&self.dir)?;
        self.newest = pack;
        self.open = Some((file, HEAD_BYTES as u64));
        Ok(())
    }
}

/// Whether the head of a pack is whole and of this cluster and group.
pub(super) fn check_head(dir: &Path, pack: u32, cluster: ClusterId, group: GroupId) -> Result<()> {
    let path = pack_path(dir, pack);
    let mut found = [0; HEAD_BYTES];
    let file = File::open(&path).map_err(|error| Error::disk("open", path.display(), &error))?;
    if file.read_exact_at(&mut found, 0).is_ok() && found == head(pack, cluster, group) {
        return Ok(());
    }
    Err(Error::Corrupt {
        path: path.display().to_string(),
        offset: 0,
        message: "the head of the pack is damaged or of another cluster".to_owned(),
    })
}
