//! A backup, looked at and made into a new cluster.

use std::fs;
use std::path::Path;

use super::{build, check_unfinished, is_ready, take_place, Beginning, NEW_DIR};
use crate::backup::Backup;
use crate::base::codec::Writer;
use crate::base::time::SystemClock;
use crate::base::{Clock, ClusterId, Error, Result};
use crate::disk::{ensure_dir, lock, Identity, Lock, Origin, RealDisk};
use crate::machine::{record, Machine};

/// Names that do not make a directory used: they are there without any data.
const HARMLESS: [&str; 3] = [NEW_DIR, lock::FILE_NAME, "lost+found"];

/// Reads a backup in full and says what it holds, as a MessagePack map.
///
/// # Errors
/// `Corrupt`: it is damaged. `Foreign`: it is no backup, or one of a newer version. `Invalid`: there is no such file.
pub fn verify(file: &Path) -> Result<Vec<u8>> {
    let backup = Backup::open(&RealDisk, file)?;
    let (_, machine) = backup.machine()?;
    // Each record must be one, as a restore reads them all.
    backup.history(&mut |_, bytes| record::JobRecord::decode(bytes).map(drop))?;
    let mut out = Writer::new();
    out.map(7).str("file").str(&file.display().to_string()).str("bytes").u64(backup.bytes);
    out.str("manifest");
    backup.manifest.write(&mut out);
    out.str("jobs").u64(machine.len() as u64).str("history").u64(backup.records);
    out.str("sessions").u64(machine.sessions().count() as u64);
    out.str("digest").str(&format!("{:016x}", machine.digest()));
    Ok(out.into_bytes())
}

/// Makes a new cluster of one member from a backup, in a directory that is new or empty. `cluster`: the id that it gets;
/// nothing: one that nobody has. Answers with a MessagePack map.
///
/// # Errors
/// As `verify`; `Foreign`: the directory is in use already. `Busy`: a process runs on it. Nothing was changed then.
pub fn restore(file: &Path, dir: &Path, cluster: Option<ClusterId>) -> Result<Vec<u8>> {
    let backup = Backup::open(&RealDisk, file)?;
    let (meta, machine) = backup.machine()?;
    if cluster == Some(backup.manifest.cluster) {
        return Err(Error::Invalid(format!(
            "{} is the id of the cluster that the backup is of; a restored one must have another",
            backup.manifest.cluster
        )));
    }
    check_empty(dir)?;
    ensure_dir(&RealDisk, dir)?;
    let _lock = Lock::take(dir)?;
    if !is_ready(dir) {
        let now = SystemClock.wall();
        let manifest = &backup.manifest;
        let origin = Origin {
            recovered: false,
            at: now,
            cluster: manifest.cluster,
            group: manifest.group,
            node: manifest.node,
            index: meta.index,
            term: meta.term,
            source: fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()).display().to_string(),
            given_up: Vec::new(),
        };
        let beginning = Beginning { machine, cluster, now, origin };
        build(dir, beginning, &mut |visit| backup.history(&mut |id, record| visit(id, record)))?;
    }
    take_place(dir)?;
    answer(dir)
}

/// Refuses a directory that holds anything but what an interrupted restore left.
fn check_empty(dir: &Path) -> Result<()> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|error| Error::disk("list", dir.display(), &error))?,
    };
    if check_unfinished(dir).is_err() {
        return Ok(());
    }
    for entry in listed {
        let name = entry.map_err(|error| Error::disk("list", dir.display(), &error))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            return Err(Error::Foreign(format!(
                "{} is not empty (it holds {}); a restore begins in a new directory",
                dir.display(),
                name.to_string_lossy()
            )));
        }
    }
    Ok(())
}

/// What a directory begins with now.
pub(super) fn answer(dir: &Path) -> Result<Vec<u8>> {
    let gone = || Error::Foreign(format!("{} holds no cluster after all", dir.display()));
    let identity = Identity::load(&RealDisk, dir)?.ok_or_else(gone)?;
    let (origin, state) = (Origin::load(&RealDisk, dir)?.ok_or_else(gone)?, super::recover::state(dir)?);
    let mut out = Writer::new();
    out.map(6).str("directory").str(&dir.display().to_string());
    out.str("cluster").str(&identity.cluster.to_string()).str("node").str(&identity.node.to_string());
    out.str("index").u64(state.last.index).str("jobs").u64(jobs(&state.machine)).str("origin");
    origin.write(&mut out);
    Ok(out.into_bytes())
}

fn jobs(machine: &Machine) -> u64 {
    machine.len() as u64
}
