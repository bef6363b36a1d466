//! The file `GONE` in a data directory: its member is none any more, in words. Written when the member hears of it, so that
//! it does not come back as if nothing had happened when those who told it are out of reach.

use std::path::Path;

use super::{read_file, replace_file, Disk};
use crate::base::{Error, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "GONE";
const BYTES_MAX: usize = 4 << 10;

/// Writes it down. Survives a power cut when this returns.
pub fn note(disk: &dyn Disk, dir: &Path, why: &str) -> Result<()> {
    replace_file(disk, dir, FILE_NAME, format!("{why}\n").as_bytes())
}

/// Refuses a directory whose member is gone, with the words of those who told it.
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let Some(bytes) = read_file(disk, &dir.join(FILE_NAME), BYTES_MAX)? else { return Ok(()) };
    Err(Error::Foreign(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}
