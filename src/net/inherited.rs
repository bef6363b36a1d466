//! Sockets that a forked child inherits. As long as it holds them, the other side does not see that its parent has died; so
//! the child lets go of them.

use crate::base::sync::Mutex;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};

static OPEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The numbers of the sockets that are open.
pub fn open_sockets() -> Vec<RawFd> {
    OPEN.lock().iter().copied().collect()
}

/// To be held while this process forks, as no thread is there in the child to give it back.
pub fn held_over_a_fork() -> impl Sized {
    (OPEN.lock(), super::names::held_over_a_fork())
}

/// An open socket. To be dropped before it is closed, as its number is another's then.
#[derive(Debug)]
pub struct Noted(RawFd);

impl Noted {
    pub fn of(socket: &impl AsFd) -> Self {
        let number = socket.as_fd().as_raw_fd();
        OPEN.lock().insert(number);
        Self(number)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        OPEN.lock().remove(&self.0);
    }
}
