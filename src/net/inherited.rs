//! Sockets that a forked child inherits. As long as it holds them, the other side does not see that its parent has died; so
//! the child lets go of them.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};

static OPEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The numbers of the sockets that are open. Nothing if another thread was about to add one at the moment of the fork.
pub fn open_sockets() -> Vec<RawFd> {
    OPEN.try_lock().map(|open| open.iter().copied().collect()).unwrap_or_default()
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
