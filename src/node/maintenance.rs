//! The slow work on files beside the log, on a thread of its own: writing snapshots, zeroing the next segment, removing
//! old ones.

use std::time::{Duration, Instant};

use super::inbox::Chore;
use super::Shared;
use crate::base::sync::{Condvar, Mutex};
use crate::base::{Error, Pace};
use crate::replica::{Capture, SnapshotWritten};
use crate::wal::SpareMaker;

/// After a full disk: how long until the next try.
const RETRY: Duration = Duration::from_millis(200);
/// How long writing one snapshot rests at most in all, so that one of a large state is done before the log is full.
const RESTS_MAX: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    capture: Option<Capture>,
    clean: bool,
    /// The driver waits for room on the disk.
    retry: bool,
    stopped: bool,
}

#[derive(Default)]
pub(super) struct Maintenance {
    state: Mutex<State>,
    wake: Condvar,
}

impl Maintenance {
    /// Writes a snapshot; the driver hears of it as a chore.
    pub fn write(&self, capture: Capture) {
        self.state.lock().capture = Some(capture);
        self.wake.notify_one();
    }

    /// The log has files to make or to remove.
    pub fn clean(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.clean, true) {
            self.wake.notify_one();
        }
    }

    /// Wakes the driver in a while.
    pub fn retry_later(&self) {
        self.state.lock().retry = true;
        self.wake.notify_one();
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_one();
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits a moment, or less if the node closes.
    fn pause(&self) {
        let mut state = self.state.lock();
        if !state.stopped {
            self.wake.wait_for(&mut state, RETRY);
        }
    }

    /// Rests for this long, or until the node closes or the log has files to make: its user looks after them next.
    fn rest(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.stopped && !state.clean {
            self.wake.wait_for(&mut state, time);
        }
        state.clean = false;
    }

    /// The next duty; nothing when it is over.
    fn next(&self) -> Option<State> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if state.capture.is_some() || state.clean || state.retry {
                return Some(std::mem::take(&mut state));
            }
            self.wake.wait(&mut state);
        }
    }
}

impl Shared {
    /// The life of the maintenance thread.
    pub(super) fn maintenance_loop(&self, files: &SpareMaker) {
        while let Some(duties) = self.maintenance.next() {
            if duties.clean {
                self.clean(files);
            }
            if let Some(capture) = duties.capture {
                self.write_snapshot(&capture, files);
            }
            if duties.retry {
                self.maintenance.pause();
                self.inbox.chore(Chore::Retry);
            }
        }
    }

    fn clean(&self, files: &SpareMaker) {
        match files.work() {
            Ok(_) => {}
            Err(Error::DiskFull(_)) => {
                // The log asks again at the next turn, and makes its file itself if it needs one before.
                self.maintenance.pause();
            }
            Err(error) => {
                log::error!("making room for the log failed: {error}");
                // The log knows, and stops at its next write; this makes it now.
                self.inbox.chore(Chore::Retry);
            }
        }
    }

    fn write_snapshot(&self, capture: &Capture, files: &SpareMaker) {
        let began = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, RESTS_MAX);
        let state_bytes = capture.write(&mut || {
            // Nobody waits for it, unless the log has little room left.
            let hurries = self.figures.lock().log_bytes_open > self.config.log_bytes_max / 4 * 3;
            let rest = pace.rest(began.elapsed());
            if !hurries && !rest.is_zero() {
                self.maintenance.rest(rest);
            }
            if self.maintenance.is_stopped() {
                return Err(Error::DiskFull("the node closes before the snapshot is done".into()));
            }
            // A large snapshot takes longer than filling a segment; writers must not wait for both.
            let _ = files.work();
            Ok(())
        });
        if let Err(error) = &state_bytes {
            log::warn!("the snapshot at {} was not written: {error}", capture.meta.index);
            self.maintenance.pause();
        }
        self.inbox.chore(Chore::Captured(SnapshotWritten { meta: capture.meta.clone(), state_bytes }));
    }
}
