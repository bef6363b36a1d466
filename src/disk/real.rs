//! The operating system's files. The standard library already opens everything close-on-exec, repeats interrupted calls
//! and uses the strongest sync of each system (`F_FULLFSYNC` on macOS), so there is little to add.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, Disk, File};
use crate::base::{Error, Result};

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Option<Arc<dyn File>>> {
        match fs::OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path) {
            Ok(file) => Ok(Some(Arc::new(RealFile { file, path: path.to_owned() }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", path, &error)),
        }
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        let opened = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = opened.map_err(|error| failed("create", path, &error))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| failed("rename", from, &error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", dir, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", dir, &error))?;
            let kind = entry.file_type().map_err(|error| failed("list", dir, &error))?;
            if kind.is_dir() {
                continue;
            }
            // None of our names is anything but ASCII; whatever else lies there is not ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(error) => Err(failed("make directory", dir, &error)),
            Ok(()) => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let opened = fs::File::open(dir).map_err(|error| failed("open", dir, &error))?;
        opened.sync_all().map_err(|error| failed("sync", dir, &error))
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let figures = rustix::fs::statvfs(dir).map_err(|error| failed("statvfs", dir, &error.into()))?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn random(&self) -> u64 {
        // The standard library seeds these hashers from the system's random source.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(0);
        hasher.finish()
    }
}

impl File for RealFile {
    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|error| failed("stat", &self.path, &error))?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", &self.path, &error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| failed("write", &self.path, &error))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| failed("sync", &self.path, &error))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed("sync", &self.path, &error))
    }
}

/// Refuses a directory that other users may write to: they could put their own jobs and history into it.
///
/// # Errors
/// `Foreign`: its group or everybody may write to it. `Disk`: it cannot be looked at.
pub fn check_not_shared(dir: &Path) -> Result<()> {
    let mode = fs::metadata(dir).map_err(|error| failed("stat", dir, &error))?.mode() & 0o7777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::Foreign(format!(
        "{} can be written by others (mode {mode:04o}), and whoever writes to it can have any registered function run; run \
         `chmod go-w {}`, or name another directory",
        dir.display(),
        dir.display()
    )))
}

fn failed(operation: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::disk(operation, path.display(), error)
}
