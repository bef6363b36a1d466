//! Reads a backup: all of it once, to know that it is whole; then its parts, each checked again as it is read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    block_crc, head, Manifest, BLOCK_HEAD_BYTES, END, END_BYTES, HEAD_BYTES, HISTORY, MAGIC, MANIFEST,
    PAYLOAD_BYTES_MAX, SNAPSHOT, VERSION,
};
use crate::base::checksum::crc32c;
use crate::base::codec::Reader;
use crate::base::sync::Mutex;
use crate::base::{Error, JobId, Result};
use crate::disk::{Access, Disk, File};
use crate::machine::{Loader, Machine};
use crate::snapshot::file::FileReader;
use crate::snapshot::SnapshotMeta;

/// The last words about anything that is wrong in a backup.
pub const ADVICE: &str = "this backup cannot be used, take another one";

/// Where a block lies in the file, and what it continues.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Of the payload.
    offset: u64,
    length: u32,
    before: u32,
    checksum: u32,
    kind: u8,
}

/// A backup that is whole.
#[derive(Clone)]
pub struct Backup {
    path: PathBuf,
    file: Arc<dyn File>,
    pub manifest: Manifest,
    pub bytes: u64,
    /// Finished jobs in it.
    pub records: u64,
    blocks: Vec<Block>,
}

impl Backup {
    /// Opens a backup and reads it from front to back.
    ///
    /// # Errors
    /// `Corrupt`: it is not what was written. `Foreign`: no backup, or of a newer version. `NotFound`: no such file.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Backup> {
        let opened = disk.open(path, Access::Read)?;
        let file = opened.ok_or_else(|| Error::Invalid(format!("there is no file {}", path.display())))?;
        let bytes = file.len()?;
        let mut checksum = check_head(path, &*file)?;
        let mut backup = Backup {
            path: path.to_owned(),
            file,
            manifest: Manifest::default(),
            bytes,
            records: 0,
            blocks: Vec::new(),
        };
        let mut offset = HEAD_BYTES as u64;
        while offset < bytes {
            let (block, payload) = backup.next_block(offset, checksum)?;
            backup.take_in(&block, &payload)?;
            checksum = block.checksum;
            offset = block.offset + u64::from(block.length);
            backup.blocks.push(block);
        }
        match backup.blocks.last() {
            Some(block) if block.kind == END => Ok(backup),
            _ => Err(backup.damaged(bytes, "the file ends without its end")),
        }
    }

    /// The state in it.
    pub fn machine(&self) -> Result<(SnapshotMeta, Machine)> {
        let part = Part::of(self);
        let mut reader = FileReader::new(&self.path, &part)?;
        let again = |error| match error {
            Error::Corrupt { offset, message, .. } => self.damaged(offset, &format!("in its snapshot: {message}")),
            other => other,
        };
        let header = reader.header().map_err(again)?;
        let (index, term) = (self.manifest.index, self.manifest.term);
        if (header.meta.index, header.meta.term, header.cluster) != (index, term, self.manifest.cluster) {
            return Err(self.damaged(0, "its snapshot is not the one that the manifest names"));
        }
        let mut loader = Loader::new();
        reader.chunks(header.salt, true, &mut |section, chunk| loader.section(section, chunk)).map_err(again)?;
        Ok((header.meta, loader.finish().map_err(again)?))
    }

    /// Hands on every finished job, newest id first.
    pub fn history(&self, visit: &mut dyn FnMut(JobId, &[u8]) -> Result<()>) -> Result<()> {
        for block in self.blocks.iter().filter(|block| block.kind == HISTORY) {
            let payload = self.read_again(block)?;
            self.each_record(block, &payload, visit)?;
        }
        Ok(())
    }

    fn each_record(
        &self,
        block: &Block,
        payload: &[u8],
        visit: &mut dyn FnMut(JobId, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let wrong = |what: &str| self.damaged(block.offset, what);
        let length = payload.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
        if length > PAYLOAD_BYTES_MAX {
            return Err(wrong("finished jobs unpack to more than they can have"));
        }
        let unpacked = lz4_flex::block::decompress_size_prepended(payload)
            .map_err(|error| wrong(&format!("finished jobs cannot be unpacked: {error}")))?;
        let mut reader = Reader::new(&unpacked);
        let count = reader.array().map_err(|error| wrong(&error.to_string()))?;
        for _ in 0..count {
            let mut next = || -> Result<(JobId, &[u8])> {
                reader.array_of(2, "a finished job")?;
                Ok((reader.id()?, reader.bin()?))
            };
            let (id, record) = next().map_err(|error| wrong(&error.to_string()))?;
            visit(id, record)?;
        }
        reader.end().map_err(|error| wrong(&error.to_string()))?;
        Ok(count as u64)
    }

    fn next_block(&self, at: u64, before: u32) -> Result<(Block, Vec<u8>)> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        if self.read(at, &mut head)? < head.len() {
            return Err(self.damaged(at, "the file ends within a block"));
        }
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let checksum = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
        if length as usize > PAYLOAD_BYTES_MAX {
            return Err(self.damaged(at, "a block is longer than a block can be"));
        }
        let block = Block { offset: at + BLOCK_HEAD_BYTES as u64, length, before, checksum, kind: head[8] };
        Ok((block, self.read_again(&block)?))
    }

    fn read_again(&self, block: &Block) -> Result<Vec<u8>> {
        let mut payload = vec![0; block.length as usize];
        if self.read(block.offset, &mut payload)? < payload.len() {
            return Err(self.damaged(block.offset, "the file ends within a block"));
        }
        if block_crc(block.before, block.kind, &payload) != block.checksum {
            return Err(self.damaged(block.offset, "a block does not match its checksum"));
        }
        Ok(payload)
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read_at(at, buffer).map_err(|error| match error {
            Error::Disk { message, .. } => self.damaged(at, &format!("cannot be read: {message}")),
            other => other,
        })
    }

    /// What a block adds to what is known, and whether it may stand here.
    fn take_in(&mut self, block: &Block, payload: &[u8]) -> Result<()> {
        let first = self.blocks.is_empty();
        let ended = self.blocks.last().is_some_and(|last| last.kind == END);
        let history = self.blocks.last().is_some_and(|last| last.kind == HISTORY);
        match block.kind {
            MANIFEST if first => {
                let manifest = Manifest::decode(payload);
                self.manifest = manifest.map_err(|error| self.damaged(block.offset, &error.to_string()))?;
            }
            SNAPSHOT if !first && !ended && !history => {}
            HISTORY if !first && !ended => self.records += self.each_record(block, payload, &mut |_, _| Ok(()))?,
            END if !first && !ended && payload.len() == END_BYTES => {
                let counts = [self.blocks.len() as u64, self.snapshot_bytes(), self.records];
                let told: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
                if payload != told || self.snapshot_bytes() != self.manifest.snapshot_bytes {
                    return Err(self.damaged(block.offset, "the blocks are not those that the end confirms"));
                }
            }
            _ => return Err(self.damaged(block.offset, "a block that does not belong here")),
        }
        Ok(())
    }

    fn snapshot_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.kind == SNAPSHOT)
    }

    fn snapshot_bytes(&self) -> u64 {
        self.snapshot_blocks().map(|block| u64::from(block.length)).sum()
    }

    fn damaged(&self, offset: u64, message: &str) -> Error {
        damaged(&self.path, offset, message)
    }
}

fn damaged(path: &Path, offset: u64, message: &str) -> Error {
    Error::Corrupt { path: path.display().to_string(), offset, message: format!("{message}; {ADVICE}") }
}

/// Checks the head and gives its checksum.
fn check_head(path: &Path, file: &dyn File) -> Result<u32> {
    let mut found = [0; HEAD_BYTES];
    let read = file.read_at(0, &mut found)?;
    if read < HEAD_BYTES || &found[..8] != MAGIC {
        let near = found.iter().zip(MAGIC).filter(|(found, magic)| found == magic).count();
        // A flipped bit must not make a backup pass for a file of another kind.
        return match near >= MAGIC.len() / 2 {
            true => Err(damaged(path, 0, "the head is not that of a whole backup")),
            false => Err(Error::Foreign(format!("{} is not a backup of raftwork", path.display()))),
        };
    }
    let checksum = u32::from_le_bytes(found[12..].try_into().expect("four bytes"));
    if crc32c(&found[..12]) != checksum {
        return Err(damaged(path, 8, "the head does not match its checksum"));
    }
    let version = u32::from_le_bytes(found[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(Error::Foreign(format!(
            "{} has format version {version}, this program knows {VERSION}; use a newer raftwork",
            path.display()
        )));
    }
    debug_assert_eq!(found, head());
    Ok(checksum)
}

/// The snapshot inside a backup, as the file that it was.
struct Part<'a> {
    backup: &'a Backup,
    /// Where each of its blocks begins in the snapshot.
    starts: Vec<(u64, Block)>,
    length: u64,
    /// The block that was read last, and where it begins.
    cached: Mutex<(u64, Vec<u8>)>,
}

impl<'a> Part<'a> {
    fn of(backup: &'a Backup) -> Self {
        let (mut starts, mut length) = (Vec::new(), 0);
        for block in backup.snapshot_blocks() {
            starts.push((length, *block));
            length += u64::from(block.length);
        }
        Self { backup, starts, length, cached: Mutex::new((0, Vec::new())) }
    }
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the snapshot in {}", self.backup.path.display())
    }
}

impl File for Part<'_> {
    fn len(&self) -> Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut cached = self.cached.lock();
        let mut done = 0;
        while done < buffer.len() && offset + (done as u64) < self.length {
            let at = offset + done as u64;
            if at < cached.0 || at >= cached.0 + cached.1.len() as u64 {
                let place = self.starts.partition_point(|(start, _)| *start <= at) - 1;
                let (start, block) = &self.starts[place];
                *cached = (*start, self.backup.read_again(block)?);
            }
            let bytes = &cached.1[(at - cached.0) as usize..];
            let taken = bytes.len().min(buffer.len() - done);
            buffer[done..done + taken].copy_from_slice(&bytes[..taken]);
            done += taken;
        }
        Ok(done)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Invalid("a backup is only read".into()))
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
