//! Moves finished jobs out of memory: archive first, then `Evict` through the log, on a thread of its own.
//!
//! What holds
//! * A job leaves memory only after its record is on disk in the archive; in between it is in both.
//! * The archive never slows the log down: it reads small batches under the machine's lock and writes them outside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{memory, Shared};
use crate::archive::Archive;
use crate::base::codec::Writer;
use crate::base::{Error, Result};

/// Finished jobs that are worth a round at once: fewer wait a little, because a round costs syncs.
const ROUND_JOBS: usize = 1_000;
/// How long the first finished job waits for others.
const ROUND_WAIT: Duration = Duration::from_millis(500);
/// Jobs read under the machine's lock at once, about half a millisecond.
const BATCH_JOBS: usize = 500;
/// How often records whose time is over are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Records removed at once.
const EXPIRE_RECORDS: usize = 2_000;
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Evicted jobs after which the freed memory goes back to the system, when the pump pauses.
const TRIM_JOBS: u64 = 20_000;

#[derive(Debug, Default)]
struct State {
    finished: usize,
    since: Option<Instant>,
    stopped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Archiver {
    state: Mutex<State>,
    wake: Condvar,
}

impl Archiver {
    /// So many more jobs are final.
    pub fn finished(&self, jobs: usize) {
        if jobs == 0 {
            return;
        }
        let mut state = self.state.lock();
        let before = state.finished;
        state.finished += jobs;
        state.since.get_or_insert_with(Instant::now);
        if before == 0 || (before < ROUND_JOBS && state.finished >= ROUND_JOBS) {
            self.wake.notify_one();
        }
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_one();
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until a round is worth it or until the given time. False: it is over.
    fn wait(&self, latest: Instant) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            let until = state.since.map_or(latest, |since| latest.min(since + ROUND_WAIT));
            if state.finished >= ROUND_JOBS || Instant::now() >= until {
                (state.finished, state.since) = (0, None);
                return true;
            }
            self.wake.wait_until(&mut state, until);
        }
    }

    /// Waits a moment, or less if the node closes.
    fn pause(&self) {
        let mut state = self.state.lock();
        let until = Instant::now() + RETRY;
        while !state.stopped && !self.wake.wait_until(&mut state, until).timed_out() {}
    }
}

impl Shared {
    /// The life of the archive thread.
    pub(super) fn archive_loop(self: &Arc<Self>, archive: &Archive) {
        let mut expire_at = Instant::now() + EXPIRE_EVERY;
        let mut evicted = 0;
        // What was archived, but not evicted before the last stop.
        let mut round = self.evict(archive.watermark());
        loop {
            match round {
                Ok(jobs) => evicted += jobs,
                Err(Error::Closed | Error::Poisoned(_)) => return,
                Err(error) => {
                    log::warn!("finished jobs stay in memory for now: {error}");
                    self.archiver.pause();
                }
            }
            if evicted >= TRIM_JOBS {
                memory::give_back();
                evicted = 0;
            }
            if !self.archiver.wait(expire_at) {
                return;
            }
            round = self.pump(archive);
            if Instant::now() >= expire_at {
                let more = archive.expire(self.now(), EXPIRE_RECORDS).is_ok_and(|expired| expired.more);
                expire_at = Instant::now() + if more { ROUND_WAIT } else { EXPIRE_EVERY };
            }
        }
    }

    /// Archives and evicts until no finished job is left. Gives how many left memory.
    fn pump(self: &Arc<Self>, archive: &Archive) -> Result<u64> {
        let mut evicted = 0;
        while !self.archiver.is_stopped() {
            let batch = self.machine.read().finished(archive.watermark(), BATCH_JOBS);
            if batch.is_empty() {
                break;
            }
            let watermark = archive.put(&batch)?;
            evicted += self.evict(watermark)?;
        }
        Ok(evicted)
    }

    /// Lets finished jobs up to this ordinal leave memory.
    fn evict(self: &Arc<Self>, ordinal: u64) -> Result<u64> {
        let mut evicted = 0;
        loop {
            let before = self.machine.read().evicted_upto();
            if before >= ordinal {
                return Ok(evicted);
            }
            let mut command = Writer::new();
            command.array(2).u64(14).u64(ordinal);
            self.submit(&super::own_request(&command), None, &mut || Ok(()))?;
            let after = self.machine.read().evicted_upto();
            if after == before {
                return Ok(evicted);
            }
            evicted += after - before;
        }
    }
}
