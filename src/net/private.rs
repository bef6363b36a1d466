//! Files that are their owner's alone.

use crate::base::{Error, Result};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A directory that others cannot look into.
pub struct Dir(File);

impl Dir {
    /// Makes it if it is missing, and refuses one that is open to others.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::disk("open the directory", path.display(), &error);
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Err(_) => {}
            Ok(()) => {
                let parent = path.canonicalize().map_err(failed)?;
                if let Some(parent) = parent.parent() {
                    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
                }
            }
        }
        let dir = File::open(path).map_err(failed)?;
        let mode = dir.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Invalid(format!(
                "{} is open to others (mode {mode:04o}), and private keys are to be written there; run `chmod 700 {}`, or \
                 choose another directory",
                path.display(),
                path.display()
            )));
        }
        Ok(Self(dir))
    }
}

/// Writes a file in this directory: whole and on disk when this returns, or not there.
pub fn write_private(dir: &Dir, path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::disk("write", path.display(), &error);
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    // Left by a process that was killed meanwhile.
    let _ = std::fs::remove_file(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    rename_private(dir, new, path)
}

/// Gives a file in this directory another name, also after a power cut when this returns.
pub fn rename_private(dir: &Dir, from: &Path, to: &Path) -> Result<()> {
    let renamed = std::fs::rename(from, to).and_then(|()| dir.0.sync_all());
    renamed.map_err(|error| Error::disk("write", to.display(), &error))
}
