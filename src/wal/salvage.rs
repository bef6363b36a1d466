//! Keeps what lies before the damage of a log and sets the rest aside, on explicit request only: what is set aside was
//! answered, and its loss is final once the node runs again. Nothing is deleted; the files as they were go to the
//! quarantine directory.
//!
//! The order lets a power cut at any moment leave a log that opens with the kept part, or that can be salvaged again:
//! files behind the damaged one go first, from the last; then the good groups of the damaged file are written anew, under
//! a name that replaces it; then the damaged file goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::active::install;
use super::inspect::{cut_at, inspect_on, Damage, Report};
use super::open::Home;
use super::recover;
use super::segment::SegmentHeader;
use super::spare::Pool;
use super::{HardState, Mark, WalConfig, DIR_NAME, QUARANTINE_DIR_NAME};
use crate::base::codec::Writer;
use crate::base::{Error, Result};
use crate::disk::{ensure_dir, Disk, Identity, Lock, RealDisk};

/// What a salvage did.
#[derive(Clone, Debug, Default)]
pub struct Salvaged {
    /// Where each file went.
    pub set_aside: Vec<(PathBuf, PathBuf)>,
    /// Nothing could be kept: the log begins anew behind the snapshot.
    pub begun_anew: bool,
    /// The log as it is now.
    pub report: Report,
}

/// Salvages the log of a data directory on this machine. Takes the directory's lock, so no node may run on it.
pub fn salvage(dir: &Path, snapshot: Option<Mark>) -> Result<Salvaged> {
    let _lock = Lock::take(dir)?;
    salvage_on(Arc::new(RealDisk), dir, snapshot)
}

/// Salvages the log of the data directory `dir`. `snapshot` is the latest whole snapshot: where the log begins if nothing
/// of it can be kept. Does nothing if the log opens as it is.
pub fn salvage_on(disk: Arc<dyn Disk>, dir: &Path, snapshot: Option<Mark>) -> Result<Salvaged> {
    let wal_dir = dir.join(DIR_NAME);
    ensure_dir(&*disk, &wal_dir)?;
    let mut salvaged = Salvaged::default();
    // Each round sets at least one file aside, so this ends.
    while let Some(damage) = damage(&*disk, &wal_dir)? {
        let cut = cut_at(&*disk, &wal_dir, &damage)?;
        let Some((first, later)) = cut.set_aside.split_first() else {
            return Err(Error::Invalid(format!("{} is not a file of this log", damage.path.display())));
        };
        for path in later.iter().rev() {
            set_aside(&*disk, dir, path, &mut salvaged)?;
        }
        if let Some((header, groups)) = cut.kept {
            replace(disk.clone(), dir, header, &groups)?;
        }
        set_aside(&*disk, dir, first, &mut salvaged)?;
    }
    if recover::segment_names(&*disk, &wal_dir)?.is_empty() {
        begin_anew(disk.clone(), dir, snapshot.unwrap_or_default())?;
        salvaged.begun_anew = true;
    }
    salvaged.report = inspect_on(&*disk, dir)?;
    Ok(salvaged)
}

fn damage(disk: &dyn Disk, wal_dir: &Path) -> Result<Option<Damage>> {
    match recover::scan(disk, wal_dir, None) {
        Ok(_) => Ok(None),
        Err(Error::Corrupt { path, offset, message }) => Ok(Some(Damage { path: path.into(), offset, message })),
        Err(other) => Err(other),
    }
}

/// Moves a file into the quarantine, under a name that is free there.
fn set_aside(disk: &dyn Disk, dir: &Path, path: &Path, salvaged: &mut Salvaged) -> Result<()> {
    let quarantine = dir.join(QUARANTINE_DIR_NAME);
    ensure_dir(disk, &quarantine)?;
    let taken = disk.list(&quarantine)?;
    let name = path.file_name().and_then(|name| name.to_str()).expect("names of segments are ASCII");
    let free = (0u64..).map(|number| if number == 0 { name.to_owned() } else { format!("{name}.{number}") });
    let free = free.into_iter().find(|name| !taken.contains(name)).expect("there are more numbers than files");
    let target = quarantine.join(free);
    disk.rename(path, &target)?;
    disk.sync_dir(&quarantine)?;
    disk.sync_dir(&dir.join(DIR_NAME))?;
    salvaged.set_aside.push((path.to_owned(), target));
    Ok(())
}

/// Writes the good groups of a damaged file into a new one, which replaces it by beginning at the same group.
fn replace(disk: Arc<dyn Disk>, dir: &Path, header: SegmentHeader, groups: &[u8]) -> Result<()> {
    let home = home(disk, dir, &header, header.segment_bytes);
    let header = SegmentHeader { sequence: header.sequence + 1, ..header };
    install(&home, header, groups, 0).map(|_| ()).map_err(|failure| failure.error)
}

fn begin_anew(disk: Arc<dyn Disk>, dir: &Path, snapshot: Mark) -> Result<()> {
    let identity = Identity::load(&*disk, dir)?.ok_or_else(|| {
        Error::Invalid(format!("{} has neither a log nor an identity: there is nothing to salvage", dir.display()))
    })?;
    let header = SegmentHeader {
        cluster: identity.cluster,
        group: identity.group,
        node: identity.node,
        sequence: 1,
        salt: 0,
        first_group: 1,
        chain: 0,
        segment_bytes: 0,
        first_index: snapshot.index + 1,
        previous_term: snapshot.term,
        hard_state: HardState { term: snapshot.term, vote: 0, commit: snapshot.index },
        suspect_upto: 0,
        mark: snapshot,
        conf_state: Bytes::new(),
    };
    let home = home(disk, dir, &header, WalConfig::default().segment_bytes as u64);
    install(&home, header, &[], 0).map(|_| ()).map_err(|failure| failure.error)
}

fn home(disk: Arc<dyn Disk>, dir: &Path, header: &SegmentHeader, segment_bytes: u64) -> Home {
    let SegmentHeader { cluster, group, node, .. } = *header;
    let config = WalConfig { segment_bytes: segment_bytes as usize, ..WalConfig::default() };
    // A pool of its own, without spares: nothing that lies in the directory is touched.
    let pool = Arc::new(Pool::new(disk.clone(), dir.join(DIR_NAME), segment_bytes));
    let identity = Identity { cluster, group, node, created: Default::default() };
    Home { disk, dir: dir.to_owned(), identity, config, pool }
}

impl Salvaged {
    /// Appends what was done as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        out.map(3);
        out.str("set_aside").array(self.set_aside.len());
        for (from, to) in &self.set_aside {
            out.map(2);
            out.str("from").str(&from.display().to_string());
            out.str("to").str(&to.display().to_string());
        }
        out.str("begun_anew").bool(self.begun_anew);
        out.str("log");
        self.report.write(out);
    }
}
