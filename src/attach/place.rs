//! The socket in a data directory: its address, who may use it, and whether the other side still lives.

use crate::base::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{pidfd_open, PidfdFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the socket in the data directory.
pub const FILE_NAME: &str = "socket";
/// A longer address does not fit into a socket address.
const PATH_BYTES_MAX: usize = 100;

/// The address of the socket. A path that is too long is reached through an open directory instead.
pub struct Address {
    pub path: PathBuf,
    /// Keeps the short path valid.
    _dir: Option<OwnedFd>,
}

impl Address {
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
            return Ok(Self { path, _dir: None });
        }
        let opened = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::disk("open", dir.display(), &error.into()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{FILE_NAME}", opened.as_raw_fd()));
        Ok(Self { path, _dir: Some(opened) })
    }
}

/// The process at the other end, as the kernel knows it.
pub struct Other {
    pub pid: i32,
    /// Becomes readable when the process ends. An inherited copy of its socket may outlive it, this does not.
    life: Option<OwnedFd>,
}

impl Other {
    /// Refuses a process of another user, root excepted.
    pub fn of(stream: impl AsFd) -> Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(stream)
            .map_err(|error| Error::disk("ask for the owner of", "the socket", &error.into()))?;
        let own = rustix::process::geteuid();
        check_user(credentials.uid.as_raw(), own.as_raw())?;
        let life = match pidfd_open(credentials.pid, PidfdFlags::empty()) {
            Ok(life) => Some(life),
            // A child of the dead process still holds its socket.
            Err(rustix::io::Errno::SRCH) => return Err(Error::Closed),
            // Without pidfds (an old kernel) the end of the stream must do.
            Err(_) => None,
        };
        Ok(Self { pid: credentials.pid.as_raw_nonzero().get(), life })
    }

    /// Waits until there is something to read. False: the process has ended and left nothing, or the time is over.
    pub fn wait_readable(&self, stream: impl AsFd, timeout: Option<Duration>) -> Result<bool> {
        let timeout =
            timeout.map(|span| Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() });
        let mut fds = vec![PollFd::new(&stream, PollFlags::IN)];
        fds.extend(self.life.as_ref().map(|life| PollFd::new(life, PollFlags::IN)));
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => return Ok(!fds[0].revents().is_empty()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::disk("poll", "the socket", &error.into())),
            }
        }
    }
}

fn check_user(theirs: u32, own: u32) -> Result<()> {
    if theirs == own || theirs == 0 {
        return Ok(());
    }
    Err(Error::Foreign(format!(
        "the process at the other end belongs to user {theirs}, this one to {own}; run both as one user"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_are_let_in() {
        assert!(check_user(1000, 1000).is_ok());
        assert!(check_user(0, 1000).is_ok());
        assert!(check_user(1001, 1000).is_err());
        assert!(check_user(1000, 0).is_err(), "root does not trust others");
    }
}
