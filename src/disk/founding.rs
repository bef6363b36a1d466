//! The file `FOUNDING` in a data directory: its member is one of the first of a list, and so many of the list must vote
//! before it answers anything. It is written before there is data, and goes when they vote: one that was stopped meanwhile
//! does not forget on how many disks an answer must be. A text of two words: `begins` or `joins`, and the number of voters.

use std::path::Path;

use super::{read_file, replace_file, Disk};
use crate::base::{Error, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "FOUNDING";
const BYTES_MAX: usize = 64;

/// What a member waits for before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// It began the group; else it joined one that is about to begin.
    pub begins: bool,
    pub voters: usize,
}

impl Founding {
    /// Reads the file of a data directory; nothing if it has none.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        let Some(bytes) = read_file(disk, &path, BYTES_MAX)? else { return Ok(None) };
        let founding = std::str::from_utf8(&bytes).ok().and_then(Self::parse);
        founding.map(Some).ok_or_else(|| Error::Corrupt {
            path: path.display().to_string(),
            offset: 0,
            message: "it does not say how many members must vote; remove it if the cluster has answered anything"
                .into(),
        })
    }

    /// Writes the file. It survives a power cut when this returns.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let word = if self.begins { "begins" } else { "joins" };
        replace_file(disk, dir, FILE_NAME, format!("{word} {}\n", self.voters).as_bytes())
    }

    /// Removes the file, if there is one. It stays away after a power cut when this returns.
    pub fn remove(disk: &dyn Disk, dir: &Path) -> Result<()> {
        disk.remove(&dir.join(FILE_NAME))?;
        disk.sync_dir(dir)
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, voters) = text.strip_suffix('\n')?.split_once(' ')?;
        let begins = match word {
            "begins" => true,
            "joins" => false,
            _ => return None,
        };
        Some(Self { begins, voters: voters.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn what_is_waited_for_comes_back_and_goes_and_anything_else_is_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let load = || Founding::load(&RealDisk, dir.path());
        assert_eq!(load(), Ok(None));
        for founding in [Founding { begins: true, voters: 2 }, Founding { begins: false, voters: 3 }] {
            founding.store(&RealDisk, dir.path()).expect("it is written");
            assert_eq!(load(), Ok(Some(founding)));
        }
        for damaged in ["", "begins", "begins 2", "begins two\n", "ends 2\n", "joins 2 \n"] {
            std::fs::write(dir.path().join(FILE_NAME), damaged).expect("it is written");
            assert!(matches!(load(), Err(Error::Corrupt { .. })), "{damaged:?}");
        }
        Founding::remove(&RealDisk, dir.path()).expect("it goes");
        Founding::remove(&RealDisk, dir.path()).expect("it is gone already");
        assert_eq!(load(), Ok(None));
    }
}
