//! One file that holds the whole state of a cluster as of one index, and its history: what `raftwork cluster backup`
//! writes, `verify` reads and `restore` begins a new cluster from.
//!
//! ```text
//! make   on the node: the file in pieces, one after the other, each when it is asked for
//! read   everywhere else: the file checked in full, then its parts
//! ```
//!
//! Head
//!
//! | offset | bytes | field                                  |
//! |--------|-------|----------------------------------------|
//! | 0      | 8     | magic `RWBACKUP`                       |
//! | 8      | 4     | format version, 1                      |
//! | 12     | 4     | crc32c of the 12 bytes before          |
//!
//! Then blocks: u32 bytes of the payload, u32 crc32c over the block before it (its own checksum; of the first block: that
//! of the head), kind, length and payload, u8 kind, payload.
//!
//! | kind | payload                                                                                          |
//! |------|--------------------------------------------------------------------------------------------------|
//! | 1    | manifest: once, first; a MessagePack map, see `Manifest`                                         |
//! | 2    | bytes of a snapshot's file, in their order; see `snapshot::file`                                 |
//! | 3    | finished jobs, newest id first: LZ4 block behind a u32 of its unpacked length, an array of `[id, record]` |
//! | 4    | end: once, last; u64 blocks before it, u64 bytes of the snapshot, u64 finished jobs              |
//!
//! Invariants
//! * Each checksum covers the one before it, so a block that was taken out, doubled, moved or changed is found, and the
//!   end tells a file that was cut. Nothing follows the end.
//! * A length is checked against its bound before anything is allocated.

mod make;
mod read;

use crate::base::checksum::{crc32c, crc32c_append};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, ClusterId, Error, GroupId, Millis, NodeId, Result};

pub use make::Maker;
pub use read::{Backup, ADVICE};

const MAGIC: &[u8; 8] = b"RWBACKUP";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const BLOCK_HEAD_BYTES: usize = 9;
const MANIFEST: u8 = 1;
const SNAPSHOT: u8 = 2;
const HISTORY: u8 = 3;
const END: u8 = 4;
const END_BYTES: usize = 24;

/// What a backup is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub cluster: ClusterId,
    pub group: GroupId,
    /// The member that made it.
    pub node: NodeId,
    /// The state is as of this entry, which has this term.
    pub index: u64,
    pub term: u64,
    /// Cluster time at that entry.
    pub clock: Millis,
    /// When the backup was begun, by the clock of the member that made it.
    pub made: Millis,
    /// Bytes of the snapshot's file.
    pub snapshot_bytes: u64,
    /// Whether finished jobs of the archive are in it.
    pub history: bool,
    /// The version of raftwork that made it.
    pub program: String,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.write(&mut out);
        out.into_bytes()
    }

    /// Appends it as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(10);
        out.str("cluster").str(&self.cluster.to_string()).str("group").u64(self.group.0);
        out.str("node").u64(self.node.0).str("index").u64(self.index).str("term").u64(self.term);
        out.str("clock_ms").u64(self.clock.0).str("made_ms").u64(self.made.0);
        out.str("snapshot_bytes").u64(self.snapshot_bytes).str("history").bool(self.history);
        out.str("program").str(&self.program);
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut reader, mut manifest) = (Reader::new(bytes), Manifest::default());
        for _ in 0..reader.map()? {
            match reader.str()? {
                "cluster" => {
                    let wrong = || Error::Invalid("a cluster id that is none".into());
                    manifest.cluster = ClusterId::parse(reader.str()?).ok_or_else(wrong)?;
                }
                "group" => manifest.group = GroupId(reader.u64()?),
                "node" => manifest.node = NodeId(reader.u64()?),
                "index" => manifest.index = reader.u64()?,
                "term" => manifest.term = reader.u64()?,
                "clock_ms" => manifest.clock = Millis(reader.u64()?),
                "made_ms" => manifest.made = Millis(reader.u64()?),
                "snapshot_bytes" => manifest.snapshot_bytes = reader.u64()?,
                "history" => manifest.history = reader.bool()?,
                "program" => manifest.program = reader.str()?.to_owned(),
                // A later version may say more in the same format.
                _ => drop(reader.raw()?),
            }
        }
        reader.end()?;
        Ok(manifest)
    }
}

fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c(&head[..12]);
    head[12..].copy_from_slice(&checksum.to_le_bytes());
    head
}

/// The checksum of a block. `before`: that of the block before it.
fn block_crc(before: u32, kind: u8, payload: &[u8]) -> u32 {
    let mut head = [0; 9];
    head[..4].copy_from_slice(&before.to_le_bytes());
    head[4] = kind;
    head[5..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    crc32c_append(crc32c(&head), payload)
}

/// Largest payload: a piece of the snapshot, or finished jobs of which the last may be as large as a job can be.
const PAYLOAD_BYTES_MAX: usize = limits::BACKUP_BLOCK_BYTES + limits::FRAME_BYTES_MAX / 2;
