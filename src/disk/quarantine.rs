//! The directory `quarantine` inside a data directory: damaged files that recovery or a salvage set aside, as they were,
//! and the file `LOST`, which says in words what a salvage gave up. Nothing here is ever removed or replaced by us, and
//! nothing is needed: a person looks at it and removes it.
//!
//! `LOST` is text, one line for each loss. It is written before anything is set aside, so that a power cut in the middle
//! of a salvage cannot leave a loss that nobody was told of.

use std::path::{Path, PathBuf};

use super::{ensure_dir, read_file, replace_file, Disk};
use crate::base::Result;

/// Name of the directory inside the data directory.
pub const DIR_NAME: &str = "quarantine";
/// Name of the file in it that says what was lost.
pub const LOST_FILE_NAME: &str = "LOST";
/// Bytes of that file that are read.
const LOST_BYTES_MAX: usize = 64 << 10;

/// Moves a file of the data directory `dir` into its quarantine, under a name that is free there, and returns the name.
/// Survives a power cut when this returns.
pub fn set_aside(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<PathBuf> {
    let quarantine = dir.join(DIR_NAME);
    ensure_dir(disk, &quarantine)?;
    let taken = disk.list(&quarantine)?;
    let name = path.file_name().and_then(|name| name.to_str()).expect("names of our files are ASCII");
    let mut free = name.to_owned();
    let mut number = 0u64;
    while taken.contains(&free) {
        number += 1;
        free = format!("{name}.{number}");
    }
    let target = quarantine.join(free);
    disk.rename(path, &target)?;
    disk.sync_dir(&quarantine)?;
    if let Some(parent) = path.parent() {
        disk.sync_dir(parent)?;
    }
    Ok(target)
}

/// Writes down that something is given up, unless the same was written down already. Survives a power cut when this
/// returns.
pub fn note_loss(disk: &dyn Disk, dir: &Path, loss: &str) -> Result<()> {
    let mut lines = losses(disk, dir)?;
    let line = loss.replace('\n', " ");
    if lines.contains(&line) {
        return Ok(());
    }
    lines.push(line);
    let quarantine = dir.join(DIR_NAME);
    ensure_dir(disk, &quarantine)?;
    replace_file(disk, &quarantine, LOST_FILE_NAME, (lines.join("\n") + "\n").as_bytes())
}

/// What salvages of this data directory gave up, oldest first.
pub fn losses(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    let bytes = read_file(disk, &dir.join(DIR_NAME).join(LOST_FILE_NAME), LOST_BYTES_MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Names of the files that were set aside.
pub fn files(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    let mut names = disk.list(&dir.join(DIR_NAME))?;
    names.retain(|name| name != LOST_FILE_NAME && !name.ends_with(".tmp"));
    Ok(names)
}
