//! The disk as the log and the snapshots see it: a few calls, each with a stated promise about a power cut.
//!
//! Everything that must survive goes through this trait, so that tests can put a `FakeDisk` in its place: one that loses
//! exactly what was not promised, at every call.
//!
//! What a power cut may take
//! * Bytes of a file, in sectors of 512 bytes and in any order, unless `File::sync_data` returned after they were written.
//! * The length of a file, unless `File::sync` returned after it changed.
//! * A name made, moved or removed in a directory, each alone and in any order, unless `Disk::sync_dir` on that directory
//!   returned afterwards. Syncing a file does not save its name.
//!
//! A call that fails promises nothing about what it was asked to do; it leaves everything else as it was. Nobody may
//! retry a failed sync: the system may have dropped the pages and would then report success (promise D3).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::base::Result;

pub mod differs;
#[cfg(feature = "sim")]
pub mod fake;
pub mod founding;
pub mod gone;
pub mod identity;
pub mod lock;
pub mod origin;
pub mod quarantine;
mod real;

#[cfg(feature = "sim")]
pub use fake::FakeDisk;
pub use founding::Founding;
pub use identity::Identity;
pub use lock::Lock;
pub use origin::Origin;
pub use real::{check_not_shared, RealDisk};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// Directories and names. Paths are absolute or relative to the working directory; directories are not followed upwards.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens an existing file; nothing if there is no such file.
    fn open(&self, path: &Path, access: Access) -> Result<Option<Arc<dyn File>>>;

    /// Makes an empty file for reading and writing, readable by its owner only. Empties a file that is there already.
    /// The name survives a power cut after `sync_dir`.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>>;

    /// Moves a name within one file system and replaces what has the new name. After a power cut there is the old state
    /// or the new one, never neither; the new one for certain after `sync_dir` on both directories.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a name; no error if there is none. It may come back after a power cut until `sync_dir` returned.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Names of the files in a directory, sorted; none if the directory does not exist. Directories are left out.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Makes a directory (not its parents), open to its owner only; no error if it exists. `sync_dir` on the parent
    /// makes it survive.
    fn make_dir(&self, dir: &Path) -> Result<()>;

    /// Makes every name made, moved or removed in this directory before the call survive a power cut.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Bytes that the file system can still take from us.
    fn free_bytes(&self, dir: &Path) -> Result<u64>;

    /// A number that nobody can guess, for salts.
    fn random(&self) -> u64;
}

/// One open file. The handle stays valid when the name is moved or removed.
pub trait File: Send + Sync + fmt::Debug {
    fn len(&self) -> Result<u64>;

    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the buffer from this offset and returns how much there was; less than asked only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Writes all of the bytes, in several calls of the system if it takes fewer at once. Survives after `sync_data`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes the bytes written so far survive a power cut, and the length if they lie beyond the old one.
    fn sync_data(&self) -> Result<()>;

    /// As `sync_data`, and everything else about the file.
    fn sync(&self) -> Result<()>;
}

/// Bytes that are written at once when a file is filled with zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes zeros over a range. Real zeros, not a reservation: the first write to a merely reserved block changes the file
/// system's journal too, and the sync after it takes twice as long.
pub fn write_zeros(file: &dyn File, mut offset: u64, end: u64) -> Result<()> {
    while offset < end {
        let length = (end - offset).min(ZEROS.len() as u64);
        file.write_at(offset, &ZEROS[..length as usize])?;
        offset += length;
    }
    Ok(())
}

/// Reads a whole file of at most `bytes_max`; nothing if there is no such file. A longer file is cut to `bytes_max + 1`,
/// so that the caller sees that it is too long.
pub fn read_file(disk: &dyn Disk, path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>> {
    let Some(file) = disk.open(path, Access::Read)? else { return Ok(None) };
    let length = file.len()?.min(bytes_max as u64 + 1) as usize;
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Replaces a small file as one step that survives a power cut: either the old bytes are there or the new ones.
pub fn replace_file(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let unfinished = dir.join(format!("{name}.tmp"));
    let file = disk.create(&unfinished)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&unfinished, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// Makes a directory whose name survives a power cut.
pub fn ensure_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.make_dir(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent),
        _ => disk.sync_dir(Path::new(".")),
    }
}
