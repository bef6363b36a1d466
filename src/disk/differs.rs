//! The file `DIFFERS` in a data directory: the state in it is not that of a majority of the members, in words (L6). Written
//! before its node stops, so that nobody serves that state again. Everything else is left as it is, as evidence.

use std::path::Path;

use super::{read_file, replace_file, Disk};
use crate::base::{Error, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "DIFFERS";
const BYTES_MAX: usize = 4 << 10;

/// Writes it down. Survives a power cut when this returns.
pub fn note(disk: &dyn Disk, dir: &Path, what: &str) -> Result<()> {
    replace_file(disk, dir, FILE_NAME, format!("{what}\n").as_bytes())
}

/// What was written down, if anything was.
pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<String>> {
    let bytes = read_file(disk, &dir.join(FILE_NAME), BYTES_MAX)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

/// Refuses a directory whose state differs, with the words of the node that stopped.
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<()> {
    load(disk, dir)?.map_or(Ok(()), |what| Err(Error::Differs(what)))
}
