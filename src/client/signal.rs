//! A file descriptor that an event loop can watch: readable while a condition holds.

use crate::base::{Error, Result};
use rustix::event::{eventfd, EventfdFlags};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// An eventfd and the condition that it shows. Costs nothing until somebody asks for the descriptor.
///
/// `set` is called under the lock that guards the condition, so two calls never cross.
pub struct Signal {
    fd: OwnedFd,
    watched: AtomicBool,
    raised: AtomicBool,
}

impl Signal {
    pub fn new() -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::disk("create", "an eventfd", &error.into()))?;
        Ok(Self { fd, watched: AtomicBool::new(false), raised: AtomicBool::new(false) })
    }

    /// From now on `set` has an effect.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn set(&self, holds: bool) {
        if !self.watched.load(Ordering::Relaxed) || self.raised.swap(holds, Ordering::Relaxed) == holds {
            return;
        }
        // Neither call can fail here: the count is 0 or 1, and the descriptor is ours.
        if holds {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        }
    }
}
