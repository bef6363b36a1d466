//! The state of a stopped member, read without running it: the newest whole snapshot and every entry of its log behind
//! it, also those that are not known to be committed. For the one who must go on without the others.

use std::path::Path;
use std::sync::Arc;

use super::entry;
use super::open::{check, corrupt, entries_behind, joins, load_snapshot};
use crate::base::{Error, LogIndex, NodeId, Result};
use crate::consensus::EntryType;
use crate::disk::{Disk, Identity};
use crate::machine::{Effects, Machine};
use crate::snapshot::SnapshotStore;
use crate::wal::{self, Mark};

/// What a stopped member has.
#[derive(Debug)]
pub struct Survivor {
    pub identity: Identity,
    pub machine: Machine,
    /// The last entry of its log.
    pub last: Mark,
    /// Whom its snapshot names as voters and learners, itself included.
    pub members: Vec<NodeId>,
    /// The end of its log was damaged: answered writes up to here may be missing.
    pub suspect_upto: Option<u64>,
}

/// Reads the directory; changes nothing in it.
///
/// # Errors
/// `Foreign`: no member's directory. `Corrupt`: it cannot start as it is. `Invalid`: it never got a state.
pub fn survivor(disk: Arc<dyn Disk>, dir: &Path) -> Result<Survivor> {
    let none = || Error::Foreign(format!("{} is no data directory: it has no IDENTITY", dir.display()));
    let identity = Identity::load(&*disk, dir)?.ok_or_else(none)?;
    let log = wal::read_on(&*disk, dir)?.ok_or_else(|| corrupt(dir, "the log is missing"))?;
    let snapshots = SnapshotStore::look(disk, dir, &identity)?;
    if joins(&log, snapshots.latest().as_ref()) {
        return Err(Error::Invalid(format!("the node in {} never got a state: it was joining", dir.display())));
    }
    let (meta, mut machine) = load_snapshot(&snapshots, dir)?;
    check(dir, &identity, &meta, &log)?;
    let suspect_upto = log.suspect_upto;
    let mut last = Mark { index: meta.index, term: meta.term };
    for entry in entries_behind(dir, meta.index, log)? {
        if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            let (now, request) = entry::split(&entry.data)?;
            machine.apply(LogIndex(entry.index), now, request, &mut Effects::default())?;
        }
        last = Mark { index: entry.index, term: entry.term };
    }
    let lists = [&meta.voters, &meta.learners, &meta.voters_outgoing, &meta.learners_next];
    let mut members: Vec<NodeId> = lists.into_iter().flatten().copied().map(NodeId).collect();
    members.sort_unstable();
    members.dedup();
    Ok(Survivor { identity, machine, last, members, suspect_upto })
}
