//! The election clock, and what is tried again at each of its ticks. Only a node that is one of several has it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::Chore;
use super::{ClusterConfig, Done, Shared};
use crate::base::codec::Reader;
use crate::base::sync::{Condvar, Mutex};
use crate::base::{Error, Millis, Result};

/// Ticks that count after a pause of the process: fewer than make an election, as the leader's words wait to be read.
const TICKS_MAX: u32 = 15;

/// Ticks without a leader after which this node counts as cut off: longer than an election. After as many without room on its
/// disk its clients are better off elsewhere, too.
const CUT_OFF_TICKS: u32 = 60;

/// A request to be asked again, and who waits for it.
type Again = (Vec<u8>, Done<Vec<u8>>);

#[derive(Default)]
pub(super) struct Ticks {
    stopped: Mutex<bool>,
    wake: Condvar,
    again: Mutex<Vec<Again>>,
    cut_off: AtomicBool,
    /// A thread looks for the other members.
    pub seeking: AtomicBool,
}

impl Ticks {
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }

    /// Waits for the next tick. False: it is over.
    fn wait(&self, until: Instant) -> bool {
        let mut stopped = self.stopped.lock();
        while !*stopped && !self.wake.wait_until(&mut stopped, until).timed_out() {}
        !*stopped
    }

    /// Waits so long, or less if the node closes.
    pub fn pause(&self, span: Duration) {
        self.wait(Instant::now() + span);
    }

    /// Waits so long. False: the node closes.
    pub fn sleep(&self, span: Duration) -> bool {
        self.wait(Instant::now() + span)
    }

    /// At the next tick this is asked again, if there is one.
    pub fn ask_again(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        let stopped = self.stopped.lock();
        if *stopped {
            drop(stopped);
            return done(Err(Error::Closed));
        }
        self.again.lock().push((request, done));
    }

    /// Whether no leader was known for so long that an election should have been over.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    pub fn take_again(&self) -> Vec<Again> {
        std::mem::take(&mut *self.again.lock())
    }
}

impl Shared {
    /// One tick. An election begins 20 to 40 of them after the last word of a leader.
    pub(super) fn tick(&self) -> Duration {
        self.config.cluster.as_ref().map_or(Duration::from_millis(50), ClusterConfig::tick)
    }

    /// The life of the thread that ticks.
    pub(super) fn tick_loop(self: &Arc<Self>) {
        let (clock, tick) = (self.config.clock.clone(), self.tick());
        let (mut leaderless, mut known) = (0, BTreeMap::new());
        let (mut ticked, mut at) = (clock.monotonic(), Instant::now() + tick);
        while self.ticks.wait(at) {
            let passed = clock.monotonic().since(ticked).0 / tick.as_millis() as u64;
            ticked = ticked.plus(Millis(passed * tick.as_millis() as u64));
            at = Instant::now() + tick;
            if passed > 0 {
                self.inbox.tick(passed.min(TICKS_MAX.into()) as u32, TICKS_MAX);
            }
            if let Some(cluster) = &self.config.cluster {
                self.follow_members(cluster, &mut known);
            }
            self.keep_fresh();
            // In doubt it answers nothing either, nor while its disk has no room for what the leader sends; another member may.
            let stalled = self.figures.lock().stalled;
            let serves = self.leader.lock().is_some() && !self.in_doubt.load(Ordering::Acquire) && !stalled;
            leaderless = if serves { 0 } else { leaderless + 1 };
            if let Some(cluster) = self.config.cluster.as_ref().filter(|_| !stalled) {
                self.seek_members(cluster, leaderless);
            }
            self.ticks.cut_off.store(leaderless >= CUT_OFF_TICKS && !stalled, Ordering::Relaxed);
            let cut_off = self.when_cut_off.lock().clone().filter(|_| leaderless == CUT_OFF_TICKS);
            if let Some(tell) = cut_off {
                tell();
            }
            let dropped = self.post.as_ref().map(|post| post.take_dropped()).unwrap_or_default();
            dropped.into_iter().for_each(|member| self.inbox.chore(Chore::Unreachable(member)));
            for (request, done) in self.ticks.take_again() {
                match self.bring_back_again(&request) {
                    Ok(()) => self.start(&request, done),
                    Err(error) => done(Err(error)),
                }
            }
        }
    }

    /// Whether a request with this answer may be asked again, in the same words, without its caller: the leader changed,
    /// or could not be found. `Unknown` only where a repetition gives the first answer (L5).
    pub(super) fn may_repeat(&self, request: &[u8], error: &Error) -> bool {
        if self.config.cluster.is_none() || self.inbox.stopped().is_some() {
            return false;
        }
        match error {
            Error::NotCommitted(_) => true,
            Error::Unknown(_) => in_session(request).unwrap_or(false),
            _ => false,
        }
    }
}

/// Whether a request has a session and a place in it.
fn in_session(request: &[u8]) -> Result<bool> {
    let mut reader = Reader::new(request);
    reader.array()?;
    Ok(reader.u64()? > 0 && reader.u64()? > 0)
}
