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
use super::{HardState, Mark, WalConfig, DIR_NAME};
use crate::base::codec::Writer;
use crate::base::{Error, Result};
use crate::disk::{ensure_dir, quarantine, Disk, Identity};

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

/// Salvages the log of the data directory `dir`. `snapshot` is the latest whole snapshot: where the log begins if nothing
/// of it can be kept. Does nothing if the log opens as it is.
pub fn salvage_on(disk: Arc<dyn Disk>, dir: &Path, snapshot: Option<Mark>) -> Result<Salvaged> {
    let wal_dir = dir.join(DIR_NAME);
    ensure_dir(&*disk, &wal_dir)?;
    let mut salvaged = Salvaged::default();
    let before = inspect_on(&*disk, dir)?;
    let known_upto = before.last_index;
    // Each round sets at least one file aside, so this ends.
    while let Some(damage) = damage(&*disk, &wal_dir)? {
        let cut = cut_at(&*disk, &wal_dir, &damage)?;
        let Some((first, later)) = cut.set_aside.split_first() else {
            return Err(Error::Invalid(format!("{} is not a file of this log", damage.path.display())));
        };
        for path in later.iter().rev() {
            salvaged.set_aside(&*disk, dir, path)?;
        }
        if let Some((header, groups)) = cut.kept {
            // It opens with less than was answered, and says so until it has come that far again.
            let suspect_upto = header.suspect_upto.max(known_upto);
            replace(disk.clone(), dir, SegmentHeader { suspect_upto, ..header }, &groups)?;
        }
        salvaged.set_aside(&*disk, dir, first)?;
    }
    if recover::segment_names(&*disk, &wal_dir)?.is_empty() {
        begin_anew(disk.clone(), dir, snapshot.unwrap_or_default(), &before)?;
        salvaged.begun_anew = true;
    }
    salvaged.report = inspect_on(&*disk, dir)?;
    Ok(salvaged)
}

/// Sets the whole log aside, from its last file, and begins it anew behind a snapshot at `snapshot`.
pub fn begin_anew_on(disk: Arc<dyn Disk>, dir: &Path, snapshot: Mark) -> Result<Salvaged> {
    let wal_dir = dir.join(DIR_NAME);
    ensure_dir(&*disk, &wal_dir)?;
    let before = inspect_on(&*disk, dir)?;
    let mut salvaged = Salvaged { begun_anew: true, ..Salvaged::default() };
    for (_, name) in recover::segment_names(&*disk, &wal_dir)?.into_iter().rev() {
        salvaged.set_aside(&*disk, dir, &wal_dir.join(name))?;
    }
    begin_anew(disk.clone(), dir, snapshot, &before)?;
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

/// Writes the good groups of a damaged file into a new one, which replaces it by beginning at the same group.
fn replace(disk: Arc<dyn Disk>, dir: &Path, header: SegmentHeader, groups: &[u8]) -> Result<()> {
    let home = home(disk, dir, &header, header.segment_bytes);
    let header = SegmentHeader { sequence: header.sequence + 1, ..header };
    install(&home, header, groups, 0).map(|_| ()).map_err(|failure| failure.error)
}

/// `before`: the log that was, whose files tell how large one is.
fn begin_anew(disk: Arc<dyn Disk>, dir: &Path, snapshot: Mark, before: &Report) -> Result<()> {
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
    let segment_bytes = before.segments.iter().map(|segment| segment.bytes).rfind(|bytes| *bytes > 0);
    let home = home(disk, dir, &header, segment_bytes.unwrap_or(WalConfig::default().segment_bytes as u64));
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
    fn set_aside(&mut self, disk: &dyn Disk, dir: &Path, path: &Path) -> Result<()> {
        let target = quarantine::set_aside(disk, dir, path)?;
        self.set_aside.push((path.to_owned(), target));
        Ok(())
    }

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
