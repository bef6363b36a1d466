//! One owner for each data directory: an exclusive lock on its file `LOCK`, which the system gives back when the owner
//! ends in whatever way. The lock itself decides; the file says two things about the holder, as lines of text:
//!
//! ```text
//! 4711                                               its process, for the error message
//! raftwork-lock 1 CLUSTER GROUP 12,15 1a2b3c4d       the sessions of that process (or -), crc32c of the line before it
//! ```
//!
//! Whoever gives the lock back by itself takes the second line out first. So whoever takes the lock and finds it knows
//! that the process is dead: only its end gives a lock back without that, and the sessions are dead with it. (Process
//! numbers prove nothing: containers that share a directory count them apart.) If the line cannot be taken out, the lock
//! is kept until the process ends. Nothing here is synced: after a power cut every process is dead, whatever the line
//! says, and a line that did not get there costs the patience of a time to live.
//!
//! The lock belongs to the open file, and a forked child shares it. The child would then keep the directory locked after
//! its parent died, so whoever runs in a freshly forked child calls `release_in_forked_child`: closing the child's copy
//! leaves the parent's lock as it is. (A `fcntl` lock is not shared with children, but it is lost as soon as anything in
//! this process opens and closes the file, a backup for example; that is worse.)

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::sync::Mutex;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::base::checksum::crc32c;
use crate::base::{ClusterId, Error, GroupId, Result, SessionId};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "LOCK";
/// First words of the second line: what it is, and the version of its format.
const HEAD: &str = "raftwork-lock 1";
/// Sessions that are named at most; others wait for the end of their time.
const SESSIONS_MAX: usize = 1_000;
/// More than the longest file that is written.
const BYTES_MAX: usize = 64 << 10;

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
    /// The second line as the last holder left it.
    left: Option<String>,
    /// The second line is ours, or was.
    told: AtomicBool,
}

impl Lock {
    /// Takes the lock without waiting. `Error::Busy` names the holder if somebody has it.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(FILE_NAME);
        let opened = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|error| Error::disk("open", path.display(), &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&path, &file)),
            Err(error) => return Err(Error::disk("lock", path.display(), &error.into())),
        }
        let left =
            read(&file).split_once('\n').and_then(|(_, rest)| rest.split_once('\n')).map(|(line, _)| line.to_owned());
        // A hint for people only: on a full disk the lock must still be taken, and the holder stays unnamed. What the last
        // holder left stays until `tell`: this one may die before it has seen to it.
        let _ = write(&file, left.as_deref());
        let mut held = HELD.lock();
        held.next += 1;
        let key = held.next;
        held.files.push((key, file));
        Ok(Lock { key, path, left, told: AtomicBool::new(false) })
    }

    /// Who holds the lock of a directory, if anybody. Takes nothing: it looks for an instant, and makes no file.
    pub fn holder(dir: &Path) -> Result<Option<String>> {
        let path = dir.join(FILE_NAME);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::disk("open", path.display(), &error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Ok(Some(read_holder(&file))),
            Err(error) => Err(Error::disk("lock", path.display(), &error.into())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sessions of the last holder's process, if that has died as the holder, in this cluster and group.
    pub fn orphans(&self, cluster: ClusterId, group: GroupId) -> Vec<SessionId> {
        let sessions = self.left.as_deref().and_then(|line| sessions_in(line, cluster, group));
        sessions.unwrap_or_default()
    }

    /// Says which sessions end with this process, in place of all that was said before. A hint: failing is no harm.
    pub fn tell(&self, cluster: ClusterId, group: GroupId, sessions: &[SessionId]) {
        self.told.store(true, Ordering::Release);
        let held = HELD.lock();
        if let Some(file) = held.file(self.key) {
            // A half-written line does not match its checksum.
            if let Err(error) = write(file, Some(&line_of(cluster, group, sessions))) {
                log::warn!("{} does not name its sessions: {error}", self.path.display());
            }
        }
    }
}

impl Held {
    fn file(&self, key: u64) -> Option<&fs::File> {
        self.files.iter().find(|(other, _)| *other == key).map(|(_, file)| file)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut held = HELD.lock();
        if self.told.load(Ordering::Acquire) {
            if let Some(Err(error)) = held.file(self.key).map(|file| file.set_len(0)) {
                // The next holder would take the sessions of a living process for dead.
                return log::error!("{} stays locked until this process ends: {error}", self.path.display());
            }
        }
        held.files.retain(|(key, _)| *key != self.key);
    }
}

/// Gives up the copies of this process's locks in a child that was just forked. Of no effect on the parent's.
pub fn release_in_forked_child() {
    HELD.lock().files.clear();
}

/// To be held while this process forks, as no thread is there in the child to give it back.
pub fn held_over_a_fork() -> impl Sized {
    HELD.lock()
}

fn write(file: &fs::File, line: Option<&str>) -> std::io::Result<()> {
    let mut text = format!("{}\n", std::process::id());
    if let Some(line) = line {
        text.push_str(line);
        text.push('\n');
    }
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// What the file says, as far as it can be read.
fn read(file: &fs::File) -> String {
    let mut bytes = vec![0; BYTES_MAX];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

fn line_of(cluster: ClusterId, group: GroupId, sessions: &[SessionId]) -> String {
    let numbers: Vec<String> = sessions.iter().take(SESSIONS_MAX).map(|session| session.0.to_string()).collect();
    let numbers = if numbers.is_empty() { "-".to_owned() } else { numbers.join(",") };
    let line = format!("{HEAD} {cluster} {group} {numbers}");
    format!("{line} {:08x}", crc32c(line.as_bytes()))
}

fn sessions_in(line: &str, cluster: ClusterId, group: GroupId) -> Option<Vec<SessionId>> {
    let (line, checksum) = line.rsplit_once(' ')?;
    if checksum != format!("{:08x}", crc32c(line.as_bytes())) {
        return None;
    }
    let numbers = line.strip_prefix(&format!("{HEAD} {cluster} {group} "))?;
    numbers.split(',').map(|number| number.parse().ok().map(SessionId)).collect()
}

fn busy(path: &Path, file: &fs::File) -> Error {
    Error::Busy { path: path.display().to_string(), holder: read_holder(file) }
}

fn read_holder(file: &fs::File) -> String {
    match read(file).lines().next().map(str::parse::<u32>) {
        Some(Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
