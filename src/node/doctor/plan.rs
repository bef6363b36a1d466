//! What a salvage would do, decided before anything is changed.
//!
//! | whole snapshot | the log that is left                  | the next start has                    | asks for more  |
//! |----------------|---------------------------------------|---------------------------------------|----------------|
//! | at n           | reaches from n or before to n or more | the snapshot and that log             |                |
//! | at n           | ends before n, or nothing is left     | the snapshot                          |                |
//! | at n           | begins behind n + 1                   | the snapshot                          | `accept_loss`  |
//! | none           | begins at the first entry             | that log, replayed from nothing       |                |
//! | none           | begins later, or nothing is left      | nothing but the archive               | `accept_loss`  |
//!
//! All of this is for a directory that names no member but its own. One of several is refused: see `doctor`.
//!
//! A log that is given up is begun anew at an index that was never used, behind a new snapshot: an index or a fencing token
//! that was given once is not given again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::codec::Writer;
use crate::base::{Error, LogIndex, Result};
use crate::disk::{quarantine, Disk, Identity};
use crate::machine::Machine;
use crate::replica::{self, FIRST};
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::wal::{self, Mark};

use super::findings::Findings;

/// What a salvage would do.
#[derive(Debug)]
pub struct Plan {
    /// What would be gone, in words that follow "loses".
    pub loses: Option<String>,
    /// More than what lies behind a damaged place would be gone: somebody must agree to that.
    pub gives_up_state: bool,
    /// No snapshot says who the members are, not even in its header. If there are others, this must not be done.
    pub members_unknown: bool,
    /// What the next start has, in words.
    keeps: String,
    identity: Identity,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The log is cut before its damage, if it has any. `replayed`: behind a new snapshot of the empty state.
    Cut { base: Option<Mark>, replayed: bool },
    /// The log is given up and begins anew here, behind the state of the newest whole snapshot or the empty one.
    Anew { from_base: bool, at: Mark },
}

/// What of the log opens once its damaged part is set aside.
struct Left {
    previous: u64,
    last: u64,
}

impl Plan {
    /// What a salvage of this directory would do; nothing if it starts as it is.
    ///
    /// # Errors
    /// If it is not known whose the directory is, or it is from a newer version; `Member` if it is one member of several.
    pub fn of(findings: &Findings) -> Result<Option<Plan>> {
        if findings.check_start().is_ok() {
            return Ok(None);
        }
        let identity = findings.owned()?;
        if let Some(way_out) = findings.way_out() {
            return Err(Error::Member(way_out.join(";\n  ")));
        }
        let log = findings.log.as_ref().map_err(Clone::clone)?;
        let (left, base) = (left_of(log), findings.base());
        let known = log.last_index;
        let behind = |index: u64| match known > index {
            true => format!("every write behind log entry {index} (known: up to entry {known})"),
            false => format!("every write behind log entry {index}, if there were any"),
        };
        let cut = |last: u64| (!log.is_healthy()).then(|| behind(last));
        let members_unknown = findings.snapshots.iter().all(|snapshot| snapshot.header.is_none());
        let plan =
            |way, loses, gives_up_state, keeps| Plan { loses, gives_up_state, members_unknown, keeps, identity, way };
        Ok(Some(match (base, left) {
            (Some(base), Some(left)) if left.previous <= base.index && base.index <= left.last => {
                let mark = Some(Mark { index: base.index, term: base.term });
                let keeps = format!("the snapshot at entry {} and the log up to entry {}", base.index, left.last);
                plan(Way::Cut { base: mark, replayed: false }, cut(left.last), false, keeps)
            }
            (Some(base), left) => {
                let gap = left.is_some_and(|left| left.previous > base.index);
                let keeps = format!("the snapshot at entry {}", base.index);
                plan(anew(findings, log, Some(base)), Some(behind(base.index)), gap, keeps)
            }
            (None, Some(left)) if left.previous <= FIRST.index => {
                let keeps = format!("the log from its beginning up to entry {}, replayed", left.last.max(FIRST.index));
                plan(Way::Cut { base: Some(FIRST), replayed: true }, cut(left.last), false, keeps)
            }
            (None, left) => {
                let loses = Some(whole_state(findings, known, left.as_ref()));
                plan(anew(findings, log, None), loses, true, "the archive of finished jobs, if there is one".to_owned())
            }
        }))
    }

    /// Does it, and returns where each file went.
    pub fn carry_out(self, disk: Arc<dyn Disk>, dir: &Path, findings: &Findings) -> Result<Vec<(PathBuf, PathBuf)>> {
        if let Some(loses) = &self.loses {
            quarantine::note_loss(&*disk, dir, loses)?;
        }
        let mut moved = Vec::new();
        let mut set_aside = |path: &Path| -> Result<()> {
            moved.push((path.to_owned(), quarantine::set_aside(&*disk, dir, path)?));
            Ok(())
        };
        let base = findings.snapshots.iter().position(|snapshot| snapshot.is_whole());
        let salvaged = match self.way {
            Way::Cut { base: mark, replayed } => {
                if replayed {
                    findings.snapshots.iter().try_for_each(|snapshot| set_aside(&snapshot.path))?;
                    replica::write_state(
                        disk.clone(),
                        dir,
                        &self.identity,
                        &Machine::new(),
                        FIRST,
                        &[self.identity.node],
                    )?;
                }
                wal::salvage_on(disk, dir, mark)?
            }
            Way::Anew { from_base, at } => {
                for (position, snapshot) in findings.snapshots.iter().enumerate() {
                    if Some(position) != base {
                        set_aside(&snapshot.path)?;
                    }
                }
                let mut machine = match from_base {
                    true => replica::load_snapshot(&SnapshotStore::open(disk.clone(), dir, &self.identity)?, dir)?.1,
                    false => Machine::new(),
                };
                let archived = findings.archive.as_ref().map_or(0, |archive| archive.watermark);
                machine.skip_to(LogIndex(at.index), archived);
                replica::write_state(disk.clone(), dir, &self.identity, &machine, at, &[self.identity.node])?;
                if let Some(base) = base {
                    set_aside(&findings.snapshots[base].path)?;
                }
                wal::begin_anew_on(disk, dir, at)?
            }
        };
        moved.extend(salvaged.set_aside);
        Ok(moved)
    }

    /// Appends the plan as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(4);
        out.str("keeps").str(&self.keeps);
        out.str("loses").option(self.loses.as_ref(), |out, loses| {
            out.str(loses);
        });
        out.str("needs_accept_loss").bool(self.gives_up_state);
        out.str("members_unknown").bool(self.members_unknown);
    }
}

fn left_of(log: &wal::Report) -> Option<Left> {
    if let Some(recovered) = &log.recovered {
        let previous = recovered.previous_index;
        return Some(Left { previous, last: log.last_index.max(previous) });
    }
    let some = log.first_index > 0 && log.salvage_keeps_upto >= log.first_index;
    some.then(|| Left { previous: log.first_index - 1, last: log.salvage_keeps_upto })
}

/// A place in the log that was never used.
fn anew(findings: &Findings, log: &wal::Report, base: Option<&SnapshotMeta>) -> Way {
    let snapshots = findings.snapshots.iter();
    let index = snapshots.clone().map(|snapshot| snapshot.index).fold(log.last_index, u64::max) + 1;
    let terms = snapshots.map(|snapshot| snapshot.term).chain(log.segments.iter().map(|segment| segment.term));
    Way::Anew { from_base: base.is_some(), at: Mark { index, term: terms.fold(FIRST.term, u64::max) } }
}

fn whole_state(findings: &Findings, known: u64, left: Option<&Left>) -> String {
    let why = match left {
        Some(left) => format!("no snapshot can be read, and the log begins at entry {} only", left.previous + 1),
        None => "neither a snapshot nor the log can be read".to_owned(),
    };
    let archived = findings.archive.as_ref().map_or(0, |archive| archive.records);
    format!(
        "the whole state up to entry {known} ({why}): every job that is not finished or not archived yet, every unique \
         key, pause, session and total. {archived} finished jobs in the archive stay"
    )
}
