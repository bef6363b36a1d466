//! Who a data directory belongs to. Written once, as the last step of making the directory: where the file `IDENTITY`
//! is, a log must be too, and its absence is a loss, not a beginning (promise D5).
//!
//! | offset | bytes | field                                   |
//! |--------|-------|-----------------------------------------|
//! | 0      | 8     | magic `RWIDENT\0`                       |
//! | 8      | 4     | format version, 1                       |
//! | 12     | 4     | flags, 0                                |
//! | 16     | 16    | cluster id                              |
//! | 32     | 8     | group id                                |
//! | 40     | 8     | node id                                 |
//! | 48     | 8     | created, milliseconds since 1970        |
//! | 56     | 4     | zero                                    |
//! | 60     | 4     | crc32c of the 60 bytes before           |
//!
//! The magic, the version and the checksum keep their places in every version.

use std::path::Path;

use super::{read_file, replace_file, Disk};
use crate::base::checksum::crc32c;
use crate::base::{ClusterId, Error, GroupId, Millis, NodeId, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"RWIDENT\0";
const VERSION: u32 = 1;
const BYTES: usize = 64;

/// The cluster, the group and the member whose data lie in a directory. Every file in it repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub group: GroupId,
    pub node: NodeId,
    pub created: Millis,
}

impl Identity {
    /// Reads the identity of a data directory; nothing if it has none yet.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>> {
        let path = dir.join(FILE_NAME);
        let Some(bytes) = read_file(disk, &path, BYTES)? else { return Ok(None) };
        decode(&path, &bytes).map(Some)
    }

    /// Writes the identity of a new data directory. It survives a power cut when this returns.
    ///
    /// Call it after the log was made (`Wal::open` with `create`), never before: the file says "there is a log here".
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        replace_file(disk, dir, FILE_NAME, &self.encode())
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster.0);
        bytes[32..40].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.created.0.to_le_bytes());
        let checksum = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Identity> {
    let corrupt = |offset: u64, message: &str| Error::Corrupt {
        path: path.display().to_string(),
        offset,
        message: format!("{message}; put the file back from a backup, it never changes"),
    };
    if bytes.len() >= 8 && &bytes[..8] != MAGIC {
        return Err(Error::Foreign(format!(
            "{} is not an identity file of raftwork; use another directory",
            path.display()
        )));
    }
    if bytes.len() != BYTES {
        return Err(corrupt(bytes.len().min(BYTES) as u64, &format!("the file must have {BYTES} bytes")));
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if crc32c(&bytes[..60]) != half(60) {
        return Err(corrupt(0, "the checksum does not match"));
    }
    if half(8) != VERSION {
        return Err(Error::Foreign(format!(
            "{} has format version {}, this program knows {VERSION}; use a newer raftwork",
            path.display(),
            half(8)
        )));
    }
    Ok(Identity {
        cluster: ClusterId::from_slice(&bytes[16..32]).expect("sixteen bytes"),
        group: GroupId(word(32)),
        node: NodeId(word(40)),
        created: Millis(word(48)),
    })
}
