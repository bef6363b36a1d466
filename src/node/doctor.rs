//! A data directory looked at without running it, and its salvage: for people, on request.
//!
//! ```text
//! findings  what is there, part by part, and whether it can start together
//! plan      what a salvage would keep, what it would give up, and doing it
//! ```
//!
//! What holds
//! * Looking changes nothing, and may be done while a node runs: what cannot be read safely then is left out.
//! * A salvage needs the directory's lock. It never deletes: what it takes away goes to `quarantine/`, and what it gives up
//!   is written down there first, so that doctor and health go on saying it.
//! * One member of several is not salvaged, whatever is damaged: it would forget what it voted and answered, and lead a group
//!   of its own beside that of the others, from whom it gets everything as a new member.
//! * A power cut at any step leaves a directory that starts, or that can be salvaged again.

mod findings;
mod plan;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::codec::Writer;
use crate::base::{Error, Result};
use crate::disk::{Disk, Lock, RealDisk};

use findings::Findings;
use plan::Plan;

/// Said where nothing tells whether there are other members.
const UNKNOWN: &str =
    "Nothing that can be read says whether there are other members of a cluster; if there are, do not do this, \
                       but set the directory aside and have it replaced: raftwork cluster replace. ";

/// What is in a data directory, as a MessagePack map: `healthy`, `problems`, `losses`, `owner`, `identity`, `snapshots`,
/// `log`, `start`, `archive` and more. Of one member of several, `others` names the others, and `way_out` says what to do if it
/// does not start, as it is not salvaged.
pub fn inspect(dir: &Path) -> Result<Vec<u8>> {
    let mut out = Writer::new();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let findings = Findings::of(&disk, dir, Lock::holder(dir)?)?;
    findings.write(&mut out, Plan::of(&findings).ok().flatten().as_ref());
    Ok(out.into_bytes())
}

/// Makes a damaged directory start again with what is left, as a MessagePack map. Does nothing if it starts as it is.
///
/// # Errors
/// `Busy` while a node runs; `Foreign` if it is not known whose the directory is; `Corrupt` if the state itself would be
/// lost and `accept_loss` does not agree to that; `Member` if it is one member of several, with what to do instead. Nothing
/// was changed then.
pub fn salvage(dir: &Path, accept_loss: bool) -> Result<Vec<u8>> {
    let _lock = Lock::take(dir)?;
    salvage_on(Arc::new(RealDisk), dir, accept_loss)
}

/// As `salvage`, on another disk than this machine's; the caller sees to it that nobody uses the directory.
pub fn salvage_on(disk: Arc<dyn Disk>, dir: &Path, accept_loss: bool) -> Result<Vec<u8>> {
    let findings = Findings::of(&disk, dir, None)?;
    let mut moved = Vec::new();
    if let Some(plan) = Plan::of(&findings)? {
        if plan.gives_up_state && !accept_loss {
            return Err(Error::Corrupt {
                path: dir.display().to_string(),
                offset: 0,
                message: format!(
                    "a salvage would lose {}. {}Nothing was changed; to accept that: raftwork doctor {} --salvage \
                     --accept-loss",
                    plan.loses.as_deref().unwrap_or_default(),
                    if plan.members_unknown { UNKNOWN } else { "" },
                    dir.display()
                ),
            });
        }
        moved = plan.carry_out(disk.clone(), dir, &findings)?;
    }
    let after = Findings::of(&disk, dir, None)?;
    after.check_start()?;
    Ok(answer(&moved, &after))
}

fn answer(moved: &[(PathBuf, PathBuf)], after: &Findings) -> Vec<u8> {
    let mut out = Writer::new();
    out.map(2);
    out.str("set_aside").array(moved.len());
    for (from, to) in moved {
        out.map(2);
        out.str("from").str(&from.display().to_string());
        out.str("to").str(&to.display().to_string());
    }
    out.str("data");
    after.write(&mut out, None);
    out.into_bytes()
}
