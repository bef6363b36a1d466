//! The socket in a data directory: its address, who may use it, and whether the other side still lives.

use crate::base::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
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

/// After the end of a connection over the network: how long its process may take to end as well.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// The process at the other end, as the kernel knows it, if it is on this machine.
pub struct Other {
    /// Over the socket of the directory, and not over the network.
    near: bool,
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
        Ok(Self { near: true, life })
    }

    /// A process at the other end of a network connection, on another machine.
    pub fn far() -> Self {
        Self { near: false, life: None }
    }

    /// A process of this machine that says that it has this number, at the other end of a network connection.
    pub fn far_on_this_machine(pid: u64) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self { near: false, life: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) }
    }

    pub fn is_near(&self) -> bool {
        self.near
    }

    /// Whether the process is known to be gone, now that its connection has ended. Over the network a living process may
    /// have gone to another node, with its sessions.
    pub fn has_ended(&self) -> bool {
        let Some(life) = &self.life else { return self.near };
        if self.near {
            return true;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: LAST_BREATH.subsec_nanos().into() };
        poll(&mut [PollFd::new(life, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// Waits until there is something to read. False: the process has ended and left nothing, or the time is over.
    pub fn wait_readable(&self, stream: impl AsFd, timeout: Option<Duration>) -> Result<bool> {
        if !self.near {
            return Ok(true); // The stream itself waits: what it holds decrypted no poll would show.
        }
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
