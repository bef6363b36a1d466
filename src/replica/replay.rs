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
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::wal::{self, HardState, Mark, Recovered};

/// What a stopped member has.
#[derive(Debug)]
pub struct Survivor {
    pub identity: Identity,
    pub machine: Machine,
    /// The last entry of its log.
    pub last: Mark,
    /// Whom its snapshot names as voters and learners, itself included.
    pub members: Vec<NodeId>,
    /// Its log is damaged, or was at its end: answered writes up to here may be missing.
    pub suspect_upto: Option<u64>,
}

/// What of a damaged log counts: what lies before the damage, or nothing if the newest snapshot has more.
fn before_damage(disk: &dyn Disk, dir: &Path, newest: Option<&SnapshotMeta>) -> Result<Recovered> {
    let log = wal::before_damage_on(disk, dir)?.unwrap_or_default();
    let Some(meta) = newest.filter(|meta| !(log.previous_index..=log.last_index()).contains(&meta.index)) else {
        return Ok(log);
    };
    let known = log.suspect_upto.unwrap_or_default().max(log.last_index());
    Ok(Recovered {
        hard_state: HardState { term: log.hard_state.term.max(meta.term), vote: 0, commit: meta.index },
        previous_index: meta.index,
        previous_term: meta.term,
        mark: Some(Mark { index: meta.index, term: meta.term }),
        suspect_upto: Some(known.max(meta.index + 1)),
        ..Recovered::default()
    })
}

/// Reads the directory; changes nothing in it. Of a log that is damaged what lies before the damage counts.
///
/// # Errors
/// `Foreign`: no member's directory. `Corrupt`: no snapshot is whole, or it does not fit the log. `Invalid`: it never got a state.
pub fn survivor(disk: Arc<dyn Disk>, dir: &Path) -> Result<Survivor> {
    let none = || Error::Foreign(format!("{} is no data directory: it has no IDENTITY", dir.display()));
    let identity = Identity::load(&*disk, dir)?.ok_or_else(none)?;
    let snapshots = SnapshotStore::look(disk.clone(), dir, &identity)?;
    let log = match wal::read_on(&*disk, dir) {
        Err(Error::Corrupt { .. }) => before_damage(&*disk, dir, snapshots.latest().as_ref())?,
        read => read?.ok_or_else(|| corrupt(dir, "the log is missing"))?,
    };
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
