//! Makes a backup on the node, piece by piece: each piece is made when it is asked for, so a slow reader costs nothing
//! but an open file.

use std::sync::Arc;

use super::{block_crc, head, Manifest, BLOCK_HEAD_BYTES, END, HEAD_BYTES, HISTORY, MANIFEST, SNAPSHOT};
use crate::archive::Archive;
use crate::base::codec::Writer;
use crate::base::{limits, Error, JobId, Result};
use crate::disk::File;

enum Part {
    Manifest,
    Snapshot,
    History { before: Option<JobId> },
    End,
    Nothing,
}

/// A backup on its way.
pub struct Maker {
    manifest: Manifest,
    snapshot: Arc<dyn File>,
    part: Part,
    /// Bytes of the snapshot that are in it already.
    offset: u64,
    checksum: u32,
    blocks: u64,
    records: u64,
    /// The newest piece and its number, in case its answer was lost.
    newest: (u64, Vec<u8>),
}

impl Maker {
    /// `snapshot` stays readable when its name goes.
    pub fn new(manifest: Manifest, snapshot: Arc<dyn File>) -> Self {
        let newest = (0, Vec::new());
        Self { manifest, snapshot, part: Part::Manifest, offset: 0, checksum: 0, blocks: 0, records: 0, newest }
    }

    /// The piece with this number, from 1 on; empty behind the last. Only the next one can be had, and the newest again.
    ///
    /// # Errors
    /// `Invalid`: another number. Others: the snapshot or the archive cannot be read.
    pub fn piece(&mut self, number: u64, archive: Option<&Archive>) -> Result<&[u8]> {
        if number == self.newest.0 + 1 {
            let piece = self.next_piece(archive)?;
            self.newest = (number, piece);
        }
        if number == 0 || number != self.newest.0 {
            return Err(Error::Invalid(format!("piece {number} is asked for, {} came last", self.newest.0)));
        }
        Ok(&self.newest.1)
    }

    fn next_piece(&mut self, archive: Option<&Archive>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match self.part {
            Part::Manifest => {
                out.extend_from_slice(&head());
                self.checksum = u32::from_le_bytes(out[HEAD_BYTES - 4..].try_into().expect("four bytes"));
                self.block(&mut out, MANIFEST, &self.manifest.encode());
                self.part = Part::Snapshot;
            }
            Part::Snapshot => self.snapshot_piece(&mut out)?,
            Part::History { before } => self.history_piece(&mut out, before, archive)?,
            Part::End => {
                let counts = [self.blocks, self.offset, self.records];
                let payload: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
                self.block(&mut out, END, &payload);
                self.part = Part::Nothing;
            }
            Part::Nothing => {}
        }
        Ok(out)
    }

    fn snapshot_piece(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let left = self.manifest.snapshot_bytes - self.offset;
        let mut bytes = vec![0; left.min(limits::BACKUP_BLOCK_BYTES as u64) as usize];
        if self.snapshot.read_at(self.offset, &mut bytes)? < bytes.len() {
            return Err(Error::Invalid("the snapshot became shorter while it was read".into()));
        }
        self.block(out, SNAPSHOT, &bytes);
        self.offset += bytes.len() as u64;
        if self.offset == self.manifest.snapshot_bytes {
            self.part = if self.manifest.history { Part::History { before: None } } else { Part::End };
        }
        Ok(())
    }

    fn history_piece(&mut self, out: &mut Vec<u8>, before: Option<JobId>, archive: Option<&Archive>) -> Result<()> {
        let archive = archive.ok_or_else(|| Error::NotCommitted("the archive was closed meanwhile".into()))?;
        let part = archive.part(before, limits::BACKUP_BLOCK_BYTES)?;
        if part.count > 0 {
            let mut payload = Writer::with_capacity(part.items.len() + 5);
            payload.array(part.count).raw(&part.items);
            self.block(out, HISTORY, &lz4_flex::block::compress_prepend_size(payload.as_bytes()));
            self.records += part.count as u64;
        }
        self.part = match part.next {
            Some(next) => Part::History { before: Some(next) },
            None => Part::End,
        };
        if out.is_empty() {
            // An empty piece means that nothing follows.
            let end = self.next_piece(Some(archive))?;
            out.extend_from_slice(&end);
        }
        Ok(())
    }

    fn block(&mut self, out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
        self.checksum = block_crc(self.checksum, kind, payload);
        out.reserve(BLOCK_HEAD_BYTES + payload.len());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(payload);
        self.blocks += 1;
    }
}
