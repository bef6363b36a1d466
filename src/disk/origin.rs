//! What a data directory came from, if it did not begin empty: the file `ORIGIN`, written when a backup was restored into
//! it or when a member of a cluster without a majority was made the only one. It stays for good.
//!
//! | offset | bytes | field                                            |
//! |--------|-------|--------------------------------------------------|
//! | 0      | 8     | magic `RWORIGIN`                                 |
//! | 8      | 4     | format version, 1                                |
//! | 12     | 4     | crc32c over the version and everything behind    |
//! | 16     | n     | MessagePack: `[kind, at, cluster, group, node, index, term, source, [given up...]]` |

use std::path::Path;

use super::{read_file, replace_file, Disk};
use crate::base::checksum::{crc32c, crc32c_append};
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, GroupId, Millis, NodeId, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "ORIGIN";
const MAGIC: &[u8; 8] = b"RWORIGIN";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const BYTES_MAX: usize = 64 << 10;

/// How a cluster began from another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A recovery: the cluster before is given up and must not go on. Else a restored backup.
    pub recovered: bool,
    /// When, by the wall clock.
    pub at: Millis,
    /// The cluster before, the member whose state it was, and the last entry of its log that counts.
    pub cluster: ClusterId,
    pub group: GroupId,
    pub node: NodeId,
    pub index: u64,
    pub term: u64,
    /// The file or the directory.
    pub source: String,
    /// Members that were given up, in words.
    pub given_up: Vec<String>,
}

impl Origin {
    /// Reads the file of a data directory; nothing if it has none.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Origin>> {
        let path = dir.join(FILE_NAME);
        let Some(bytes) = read_file(disk, &path, BYTES_MAX)? else { return Ok(None) };
        let corrupt = |message: &str| Error::Corrupt {
            path: path.display().to_string(),
            offset: 0,
            message: format!("{message}; nothing depends on this file, move it away to go on without it"),
        };
        if bytes.len() < HEAD_BYTES || &bytes[..8] != MAGIC {
            return Err(corrupt("the head does not match"));
        }
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if crc32c_append(crc32c(&bytes[8..12]), &bytes[HEAD_BYTES..]) != half(12) {
            return Err(corrupt("the checksum does not match"));
        }
        if half(8) != VERSION {
            return Err(Error::Foreign(format!(
                "{} has format version {}, this program knows {VERSION}; use a newer raftwork",
                path.display(),
                half(8)
            )));
        }
        Self::decode(&bytes[HEAD_BYTES..]).map(Some).map_err(|error| corrupt(&error.to_string()))
    }

    /// Writes the file. It survives a power cut when this returns.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let mut body = Writer::new();
        body.array(9).bool(self.recovered).u64(self.at.0).bin(&self.cluster.0).u64(self.group.0).u64(self.node.0);
        body.u64(self.index).u64(self.term).str(&self.source).array(self.given_up.len());
        self.given_up.iter().for_each(|member| {
            body.str(member);
        });
        let version = VERSION.to_le_bytes();
        let checksum = crc32c_append(crc32c(&version), body.as_bytes());
        let bytes = [&MAGIC[..], &version, &checksum.to_le_bytes(), body.as_bytes()].concat();
        replace_file(disk, dir, FILE_NAME, &bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Origin> {
        let mut reader = Reader::new(bytes);
        reader.array_of(9, "an origin")?;
        let (recovered, at) = (reader.bool()?, Millis(reader.u64()?));
        let cluster = ClusterId::from_slice(reader.bin()?).ok_or_else(|| Error::Invalid("a cluster id".into()))?;
        let (group, node) = (GroupId(reader.u64()?), NodeId(reader.u64()?));
        let (index, term, source) = (reader.u64()?, reader.u64()?, reader.str()?.to_owned());
        let given_up = (0..reader.array()?).map(|_| Ok(reader.str()?.to_owned())).collect::<Result<_>>()?;
        reader.end()?;
        Ok(Origin { recovered, at, cluster, group, node, index, term, source, given_up })
    }

    /// Appends it as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(8).str("kind").str(if self.recovered { "recovered" } else { "restored" }).str("at_ms").u64(self.at.0);
        out.str("cluster").str(&self.cluster.to_string()).str("node").str(&self.node.to_string());
        out.str("index").u64(self.index).str("term").u64(self.term).str("source").str(&self.source);
        out.str("given_up").array(self.given_up.len());
        self.given_up.iter().for_each(|member| {
            out.str(member);
        });
    }
}
