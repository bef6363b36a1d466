//! One owner for each data directory: an exclusive lock on its file `LOCK`, which the system gives back when the owner
//! ends in whatever way. The file names the holder's process for the error message; the lock itself decides.
//!
//! The lock belongs to the open file, and a forked child shares it. The child would then keep the directory locked after
//! its parent died, so whoever runs in a freshly forked child calls `release_in_forked_child`: closing the child's copy
//! leaves the parent's lock as it is. (A `fcntl` lock is not shared with children, but it is lost as soon as anything in
//! this process opens and closes the file, a backup for example; that is worse.)

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::base::{Error, Result};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "LOCK";

/// The open files of the locks that this process holds, so that a forked child can close its copies.
static HELD: Mutex<Held> = Mutex::new(Held { next: 0, files: Vec::new() });

struct Held {
    next: u64,
    files: Vec<(u64, fs::File)>,
}

/// The right to use a data directory, until dropped.
#[derive(Debug)]
pub struct Lock {
    key: u64,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock without waiting. `Error::Busy` names the holder if somebody has it.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(FILE_NAME);
        let opened = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| Error::disk("open", path.display(), &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&path, &mut file)),
            Err(error) => return Err(Error::disk("lock", path.display(), &error.into())),
        }
        // A hint for people only: on a full disk the lock must still be taken, and the holder stays unnamed.
        let _ = write_holder(&mut file);
        let mut held = HELD.lock();
        held.next += 1;
        let key = held.next;
        held.files.push((key, file));
        Ok(Lock { key, path })
    }

    /// Who holds the lock of a directory, if anybody. Takes nothing: it looks for an instant, and makes no file.
    pub fn holder(dir: &Path) -> Result<Option<String>> {
        let path = dir.join(FILE_NAME);
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::disk("open", path.display(), &error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Ok(Some(read_holder(&mut file))),
            Err(error) => Err(Error::disk("lock", path.display(), &error.into())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        HELD.lock().files.retain(|(key, _)| *key != self.key);
    }
}

/// Gives up the copies of this process's locks in a child that was just forked. Of no effect on the parent's.
pub fn release_in_forked_child() {
    // Another thread of the parent may have held the mutex at the fork; its owner does not exist here.
    if let Some(mut held) = HELD.try_lock() {
        held.files.clear();
    }
}

fn write_holder(file: &mut fs::File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn busy(path: &Path, file: &mut fs::File) -> Error {
    Error::Busy { path: path.display().to_string(), holder: read_holder(file) }
}

fn read_holder(file: &mut fs::File) -> String {
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
