//! A new cluster from the state of another: `restore` from a backup, `recover` from the one member that is left.
//!
//! ```text
//! restore   a backup into an empty directory
//! recover   a stopped member's directory, when the majority of its cluster is lost
//! ```
//!
//! What holds
//! * Everything new is made below `begins/` in the directory; `begins/READY` says that it is whole. Only then it takes its
//!   place, and what was there goes to the quarantine directory. A power cut at any step leaves the directory as it was,
//!   or one that the same command finishes; no node opens it in between.
//! * The new cluster has a new id, so nobody who knows the one before takes this for it, and the log begins where the one
//!   before cannot have come (K2), see `machine::anew`.
//! * Where the state came from is written down in `ORIGIN`.

mod recover;
mod restore;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::open::ARCHIVE_DIR;
use crate::archive::{self, Archive};
use crate::base::{ClusterId, Error, GroupId, JobId, Millis, NodeId, Result};
use crate::disk::{
    self, ensure_dir, identity, origin, quarantine, replace_file, Disk, Founding, Identity, Origin, RealDisk,
};
use crate::machine::{record, Machine};
use crate::replica;
use crate::snapshot;
use crate::wal::{self, Group, HardState, Mark, Wal, WalConfig};

pub(super) use recover::RECOVERY;
pub use recover::{recover, survey};
pub use restore::{restore, verify};

/// Where the new data lie until they are whole.
const NEW_DIR: &str = "begins";
/// The file in it that says so.
const READY: &str = "READY";
/// The parts of a data directory. The identity goes first and comes last: without it nothing opens.
const PARTS: [&str; 5] = [ARCHIVE_DIR, snapshot::DIR_NAME, wal::DIR_NAME, origin::FILE_NAME, identity::FILE_NAME];
/// Bytes of finished jobs that go into the archive at once.
const BATCH_BYTES: usize = 1 << 20;

/// Finished jobs, given one after the other.
type History<'a> = &'a mut dyn FnMut(&mut dyn FnMut(JobId, &[u8]) -> Result<()>) -> Result<()>;

/// What a new cluster begins with.
struct Beginning {
    machine: Machine,
    cluster: Option<ClusterId>,
    now: Millis,
    origin: Origin,
}

/// Refuses a directory in which a restore or a recovery was begun and not finished.
pub(super) fn check_unfinished(dir: &Path) -> Result<()> {
    let new = dir.join(NEW_DIR);
    let known = dir.join(identity::FILE_NAME).exists();
    if !new.exists() || (known && !new.join(READY).exists()) {
        return Ok(());
    }
    Err(Error::Foreign(format!(
        "a restore or a recovery of {} was interrupted; run the same command again, it finishes what it began",
        dir.display()
    )))
}

/// Whether a finished beginning only has to take its place.
fn is_ready(dir: &Path) -> bool {
    dir.join(NEW_DIR).join(READY).exists()
}

/// Makes everything below `begins/`.
fn build(dir: &Path, beginning: Beginning, history: History<'_>) -> Result<()> {
    let Beginning { mut machine, cluster, now, origin } = beginning;
    let new = dir.join(NEW_DIR);
    remove_tree(&new)?;
    ensure_dir(&RealDisk, &new)?;
    let at = Mark { index: machine.begin_anew()?.0, term: origin.term };
    let identity = Identity {
        cluster: cluster.unwrap_or_else(draw_cluster),
        group: GroupId(1),
        node: NodeId(RealDisk.random().max(1)),
        created: now,
    };
    build_archive(&new, &identity, &machine, now, history)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    replica::write_state(disk.clone(), &new, &identity, &machine, at, &[identity.node])?;
    let config = WalConfig { create: true, ..WalConfig::default() };
    let (mut log, _) = Wal::open(disk, &new, &identity, config)?;
    let hard_state = HardState { term: at.term, vote: 0, commit: at.index };
    log.append_group(&Group { hard_state: Some(hard_state), mark: Some(at), restart: true, ..Group::default() })?;
    drop(log);
    origin.store(&RealDisk, &new)?;
    identity.store(&RealDisk, &new)?;
    replace_file(&RealDisk, &new, READY, b"whole\n")
}

fn build_archive(new: &Path, identity: &Identity, machine: &Machine, now: Millis, history: History<'_>) -> Result<()> {
    let archive = Archive::open(archive::Options {
        path: new.join(ARCHIVE_DIR),
        cluster: identity.cluster,
        group: identity.group,
        evicted_upto: 0,
        now,
        keep_until: record::keep_until_ms,
        labels: record::labels,
    })?;
    // What left memory is in the history or was not wanted there; what is in memory is archived again.
    let watermark = machine.evicted_upto();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    history(&mut |id, record| {
        // It finished after the state was taken: here it waits, and runs again.
        let waits = machine.job(id).is_some_and(|(job, _)| !job.state.is_final());
        if waits || record::JobRecord::decode(record)?.finished_ms.is_some_and(|at| at > machine.clock().0) {
            return Ok(());
        }
        batch.push((id, record.to_vec()));
        bytes += record.len();
        if bytes >= BATCH_BYTES {
            archive.import(&batch, watermark)?;
            batch.clear();
            bytes = 0;
        }
        Ok(())
    })?;
    archive.import(&batch, watermark)
}

/// Puts what was built in its place. Goes on where an earlier attempt ended.
fn take_place(dir: &Path) -> Result<()> {
    let new = dir.join(NEW_DIR);
    let aside = dir.join(quarantine::DIR_NAME).join("before");
    for part in PARTS.iter().rev().filter(|part| new.join(part).exists()) {
        if dir.join(part).exists() {
            ensure_dir(&RealDisk, &dir.join(quarantine::DIR_NAME))?;
            ensure_dir(&RealDisk, &aside)?;
            set_aside(&dir.join(part), &aside, part)?;
        }
    }
    sync(dir)?;
    for part in PARTS.iter().filter(|part| new.join(part).exists()) {
        RealDisk.rename(&new.join(part), &dir.join(part))?;
    }
    // The new cluster is whole: it waits for nobody.
    Founding::remove(&RealDisk, dir)?;
    RealDisk.remove(&new.join(READY))?;
    remove_tree(&new)?;
    sync(dir)
}

fn set_aside(from: &Path, aside: &Path, part: &str) -> Result<()> {
    let names = (1..).map(|number| if number == 1 { part.to_owned() } else { format!("{part}.{number}") });
    let free = names.map(|name| aside.join(name)).find(|path| !path.exists());
    RealDisk.rename(from, &free.expect("some number is free"))?;
    sync(aside)
}

fn sync(dir: &Path) -> Result<()> {
    disk::Disk::sync_dir(&RealDisk, dir)
}

fn draw_cluster() -> ClusterId {
    let (high, low) = (RealDisk.random(), RealDisk.random());
    ClusterId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::disk("remove", dir.display(), &error)),
        _ => Ok(()),
    }
}
