//! What a node says that wants to join, see `joining`.

use super::hello::{Runs, VERSIONS};
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, NodeId, Result};
use crate::net::Versions;

/// What this node says: its record, `[node, name, raft address, client address]`, and what it runs and speaks.
pub(super) fn encode(record: &[u8]) -> Vec<u8> {
    let (runs, mut wish) = (Runs::own(), Writer::new());
    // The record is an array of four: its head is one byte.
    wish.array(8).raw(&record[1..]).u64(runs.level).str(&runs.release);
    wish.u64(VERSIONS.oldest.into()).u64(VERSIONS.newest.into());
    wish.into_bytes()
}

/// What a node says that wants to join.
pub(super) struct Wish<'a> {
    pub node: NodeId,
    pub raft: &'a str,
    /// `[node, name, raft address, client address]`.
    pub record: Vec<u8>,
    runs: Runs,
    speaks: Versions,
}

impl<'a> Wish<'a> {
    pub fn read(wish: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(wish);
        if reader.array()? < 8 {
            return Err(Error::Invalid("a wish to join has 8 items or more".into()));
        }
        let (node, name) = (NodeId(reader.u64()?), reader.str()?);
        let (raft, client) = (reader.str()?, reader.str()?);
        let mut record = Writer::new();
        record.array(4).u64(node.0).str(name).str(raft).str(client);
        let runs = Runs { level: reader.u64()?, release: reader.str()?.to_owned() };
        let version = |number: u64| u16::try_from(number).map_err(|_| Error::Invalid("no version is so high".into()));
        let speaks = Versions { oldest: version(reader.u64()?)?, newest: version(reader.u64()?)? };
        Ok(Self { node, raft, record: record.into_bytes(), runs, speaks })
    }

    /// Refuses a node that the others could not talk to, or that would stop at what they know.
    pub fn check(&self, level: u64) -> Result<()> {
        VERSIONS.agree(self.speaks, &self.runs.release)?;
        if self.runs.level >= level {
            return Ok(());
        }
        Err(Error::Foreign(format!(
            "this node runs raftwork {}, which knows feature level {}, and the cluster is at level {level}: start it with the \
             release that the members run, see `raftwork cluster members`",
            self.runs.release, self.runs.level
        )))
    }
}
