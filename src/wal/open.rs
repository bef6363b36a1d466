//! Opening a log: begin one, or continue one that was read.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::active::{install, Active, BLOCK_BYTES};
use super::log::{remember, Sealed, Tip, Wal};
use super::recover::{self, Live, Scan};
use super::segment::{self, SegmentHeader};
use super::spare::Pool;
use super::{Recovered, WalConfig, DIR_NAME};
use crate::base::planted::{has, Bug};
use crate::base::Result;
use crate::disk::{ensure_dir, quarantine, Disk, Identity};

/// Where a log lives, and whose it is.
#[derive(Debug)]
pub struct Home {
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    pub identity: Identity,
    pub config: WalConfig,
    pub pool: Arc<Pool>,
}

impl Wal {
    /// Opens the log of the data directory `dir` (its files are in `dir/wal`) and returns what it holds.
    ///
    /// Everything returned is durable: the last file is written anew and synced first. With `config.create`, a log that
    /// does not exist is begun; store the directory's `IDENTITY` after that, not before.
    ///
    /// # Errors
    /// `Corrupt` if answered data is damaged or the log is missing, `Foreign` if it is another's or from a newer version,
    /// `DiskFull` or `Disk` if the system refused. Nothing of the log is changed then.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, identity: &Identity, config: WalConfig) -> Result<(Wal, Recovered)> {
        Self::open_if(disk, dir, identity, config, &|_| Ok(()))
    }

    /// As `open`, unless `check` refuses what was read. Nothing of the log is changed then.
    pub fn open_if(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        config: WalConfig,
        check: &dyn Fn(&Recovered) -> Result<()>,
    ) -> Result<(Wal, Recovered)> {
        let wal_dir = dir.join(DIR_NAME);
        if config.create {
            ensure_dir(&*disk, &wal_dir)?;
            clear_unused(&*disk, &wal_dir, identity)?;
        }
        let scan = recover::scan(&*disk, &wal_dir, Some(identity))?;
        if scan.is_none() && !config.create {
            return Err(segment::damaged(&wal_dir.join("w-*.seg"), 0, "the log is missing"));
        }
        scan.as_ref().map_or(Ok(()), |scan| check(&scan.recovered))?;
        let segment_bytes = config.segment_bytes.max(2 * BLOCK_BYTES).next_multiple_of(BLOCK_BYTES);
        let pool = Arc::new(Pool::new(disk.clone(), wal_dir, segment_bytes as u64));
        pool.adopt()?;
        let config = WalConfig { segment_bytes, ..config };
        let home = Home { disk, dir: dir.to_owned(), identity: *identity, config, pool };
        match scan {
            Some(scan) => reopen(home, scan),
            None => begin(home),
        }
    }
}

/// Begins a log where there is none.
fn begin(home: Home) -> Result<(Wal, Recovered)> {
    let tip = Tip { next_group: 1, ..Tip::default() };
    let header = SegmentHeader { sequence: 1, ..tip.header(&home.identity) };
    let active = install(&home, header, &[], 0).map_err(|failure| failure.error)?;
    Ok((assemble(home, active, tip), Recovered { created: true, ..Recovered::default() }))
}

/// Continues a log that was read: writes its last file anew, then removes what that replaced.
fn reopen(home: Home, mut scan: Scan) -> Result<(Wal, Recovered)> {
    let last = scan.live.pop().expect("a scan has at least one file");
    let recovered = scan.recovered;
    let tip = Tip {
        next_group: scan.next_group,
        chain: scan.chain,
        last_index: recovered.last_index(),
        last_term: scan.last_term,
        hard_state: recovered.hard_state,
        conf_state: recovered.conf_state.clone(),
        mark: recovered.mark.unwrap_or_default(),
        suspect_upto: recovered.suspect_upto.unwrap_or(0),
    };
    let kept = if has(Bug::SuspicionForgotten) { 0 } else { tip.suspect_upto };
    let header = SegmentHeader { sequence: scan.highest_sequence + 1, suspect_upto: kept, ..last.header.clone() };
    let mut active = install(&home, header, &scan.tail, 0).map_err(|failure| failure.error)?;
    active.max_index = last.max_index;
    let newly_suspect = recovered.suspect_upto.is_some() && recovered.cut_bytes > 0;
    retire(&home, &last, &scan.replaced, newly_suspect)?;
    if recovered.cut_bytes > 0 {
        log::warn!("{}: {} bytes of an unfinished group were cut", last.path.display(), recovered.cut_bytes);
    }
    if let Some(upto) = recovered.suspect_upto {
        log::error!("{}: an answered group up to entry {upto} may be lost; see `raftwork doctor`", last.path.display());
    }
    let mut wal = assemble(home, active, tip);
    wal.count(scan.live, last.group_bytes);
    Ok((wal, recovered))
}

fn assemble(home: Home, active: Active, tip: Tip) -> Wal {
    Wal {
        home,
        sealed: VecDeque::new(),
        active,
        tip,
        written_bytes: 0,
        dropped_bytes: 0,
        milestones: VecDeque::new(),
        buffer: Vec::new(),
        poisoned: None,
    }
}

impl Wal {
    /// Counts the files that were there at the start.
    fn count(&mut self, sealed: Vec<Live>, active_bytes: u64) {
        for live in sealed {
            self.written_bytes += live.group_bytes;
            remember(&mut self.milestones, live.max_index, self.written_bytes);
            self.sealed.push_back(Sealed { path: live.path, max_index: live.max_index, group_bytes: live.group_bytes });
        }
        self.written_bytes += active_bytes;
        remember(&mut self.milestones, self.tip.last_index, self.written_bytes);
    }
}

/// Removes the files that a new one replaced. A file whose end is suspect is set aside instead: its owner may want to
/// look at it.
fn retire(home: &Home, last: &Live, replaced: &[PathBuf], suspect: bool) -> Result<()> {
    let (disk, dir) = (&*home.disk, &home.dir);
    let wal_dir = dir.join(DIR_NAME);
    for path in replaced {
        disk.remove(path)?;
        disk.sync_dir(&wal_dir)?;
    }
    if suspect {
        quarantine::set_aside(disk, dir, &last.path)?;
        return Ok(());
    }
    disk.remove(&last.path)?;
    disk.sync_dir(&wal_dir)
}

/// Removes the empty log of an attempt to make this directory that did not get as far as its `IDENTITY`.
fn clear_unused(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<()> {
    let names = recover::segment_names(disk, dir)?;
    let [(sequence, name)] = &names[..] else { return Ok(()) };
    let path = dir.join(name);
    let header = recover::read_header(disk, &path, *sequence, None)?;
    if header.check_owner(&path, identity).is_ok() || header.first_group != 1 {
        return Ok(());
    }
    let bytes = recover::read_segment(disk, &path, &header)?;
    if bytes[segment::HEADER_BYTES..].iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    disk.remove(&path)?;
    disk.sync_dir(dir)
}
