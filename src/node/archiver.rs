//! Moves finished jobs out of memory: archive first, then `Evict` through the log, on a thread of its own.
//!
//! What holds
//! * A job leaves memory only after its record is on disk in the archive; in between it is in both.
//! * Each member keeps its own archive, and only the leader evicts: a while after it archived, so that the others have too.
//!   One that was away fetches what it lacks from them, see `elsewhere`. One whose archive stopped does not go on leading.
//! * A job that was deleted leaves the archive of every member that applies the deletion.
//! * The archive never slows the log down: it reads small batches under the machine's lock and writes them outside.
//! * Moving and expiring take turns for as long as either has something to do. A turn of expiry removes more records than
//!   a turn of moving adds, so history does not grow without bound however fast jobs finish.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::elsewhere::Lacking;
use super::inbox::Chore;
use super::{memory, Shared};
use crate::archive::Archive;
use crate::base::codec::Writer;
use crate::base::limits::{ARCHIVE_BATCH_BYTES, ARCHIVE_BATCH_JOBS, ARCHIVE_EXPIRE_RECORDS, ARCHIVE_ROUND_JOBS};
use crate::base::sync::{Condvar, Mutex};
use crate::base::{Error, JobId, Result};

/// How long the first finished job waits for others.
const ROUND_WAIT: Duration = Duration::from_millis(500);
/// How long to wait once nothing is due any more.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Between two times that a node without an archive lets another one lead: whoever came to lead may have none either.
const STAND_ASIDE_EVERY: Duration = Duration::from_secs(60);
/// Evicted jobs after which the freed memory goes back to the system, when the pump pauses.
const TRIM_JOBS: u64 = 20_000;

/// Between the leader's archiving of a job and its eviction, if there are other members: they archive for themselves.
const EVICT_AFTER: Duration = Duration::from_secs(3);

/// How often it goes back once nothing is due: the first time may be too early, as sled tidies up for some seconds.
const TRIMS_AFTERWARDS: u8 = 2;

#[derive(Debug, Default)]
struct State {
    finished: usize,
    since: Option<Instant>,
    /// Jobs that were deleted after they were final: the archive may have them, and nobody is shown them any more.
    deleted: BTreeSet<JobId>,
    /// Those of them that are being taken out.
    leaving: BTreeSet<JobId>,
    /// When what was archived.
    ripening: VecDeque<(Instant, u64)>,
    stopped: bool,
}

impl State {
    fn is_worth_a_round(&self) -> bool {
        self.finished >= ARCHIVE_ROUND_JOBS || self.since.is_some_and(|since| since.elapsed() >= ROUND_WAIT)
    }
}

#[derive(Debug, Default)]
pub(super) struct Archiver {
    state: Mutex<State>,
    wake: Condvar,
    /// Held while what was deleted is taken out of the archive.
    deleting: Mutex<()>,
    /// Some other member could not be asked for what this archive lacks.
    pub fetch_failed: AtomicBool,
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
        if before == 0 || (before < ARCHIVE_ROUND_JOBS && state.finished >= ARCHIVE_ROUND_JOBS) {
            self.wake.notify_one();
        }
    }

    /// These jobs are gone, wherever they were asked to go.
    pub fn deleted(&self, jobs: Vec<JobId>) {
        if !jobs.is_empty() {
            self.state.lock().deleted.extend(jobs);
            self.wake.notify_one();
        }
    }

    /// Takes out of the archive what was deleted up to now. After an error it is still to be taken out.
    pub fn take_out_deleted(&self, archive: &Archive) -> Result<()> {
        let _alone = self.deleting.lock();
        let mut state = self.state.lock();
        state.leaving = std::mem::take(&mut state.deleted);
        let leaving: Vec<JobId> = state.leaving.iter().copied().collect();
        drop(state);
        let outcome = archive.delete(&leaving);
        let mut state = self.state.lock();
        state.leaving.clear();
        if outcome.is_err() {
            state.deleted.extend(leaving);
        }
        outcome.map(drop)
    }

    /// Whether this job was deleted, though the archive may still have it.
    pub fn is_deleted(&self, id: JobId) -> bool {
        let state = self.state.lock();
        state.deleted.contains(&id) || state.leaving.contains(&id)
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
            if state.is_worth_a_round() || !state.deleted.is_empty() || Instant::now() >= until {
                return true;
            }
            self.wake.wait_until(&mut state, until);
        }
    }

    /// Whether a round is worth it; counting begins anew if so.
    fn take_round(&self) -> bool {
        let mut state = self.state.lock();
        let worth = state.is_worth_a_round();
        if worth {
            (state.finished, state.since) = (0, None);
        }
        worth
    }

    /// What was archived `EVICT_AFTER` ago, given what is archived now.
    fn ripe(&self, watermark: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.ripening.back().is_none_or(|(_, last)| *last < watermark) {
            state.ripening.push_back((now, watermark));
        }
        let mut ripe = None;
        while state.ripening.front().is_some_and(|(since, _)| now - *since >= EVICT_AFTER) {
            ripe = state.ripening.pop_front().map(|(_, watermark)| watermark);
        }
        ripe
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
        // At once: much may have become due while no node ran.
        let mut expire_at = Instant::now();
        let (mut evicted, mut trims_left, mut lacking) = (0, 0, Lacking::default());
        // What was archived, but not evicted before the last stop.
        let mut round = self.evict_ripe(archive);
        loop {
            if archive.is_stopped() {
                return self.stand_aside();
            }
            match round {
                Ok(jobs) => {
                    evicted += jobs;
                    trims_left = if jobs > 0 { TRIMS_AFTERWARDS } else { trims_left };
                }
                Err(Error::Closed | Error::Poisoned(_)) => return,
                Err(error) => {
                    log::warn!("finished jobs stay in memory for now: {error}");
                    self.archiver.pause();
                    self.archiver.finished(1);
                }
            }
            if evicted >= TRIM_JOBS {
                memory::give_back();
                evicted = 0;
            }
            if let Err(error) = self.archiver.take_out_deleted(archive) {
                log::warn!("deleted jobs stay in the archive for now: {error}");
                self.archiver.pause();
            }
            if self.archiver.is_stopped() {
                return;
            }
            if !self.fetch_some(archive, &mut lacking) && !self.archiver.wait(expire_at) {
                return;
            }
            let mut moving = self.archiver.take_round();
            if !moving && trims_left > 0 {
                // Nothing finished for a while: what the last ones left goes back.
                memory::give_back();
                trims_left -= 1;
            }
            let moves = || {
                moving = moving || self.archiver.take_round();
                let moved = if moving { self.move_some(archive)? } else { None };
                moving = moved.is_some();
                Ok(moved)
            };
            round = take_turns(moves, || self.expire_some(archive, &mut expire_at), || self.archiver.is_stopped());
            // Among several, what was archived in earlier rounds is ripe by now.
            round = round.and_then(|moved| Ok(moved + self.evict_ripe(archive)?));
            if let Err(error) = self.settle_waits(archive) {
                log::warn!("whoever waits for a job that left memory waits on: {error}");
            }
        }
    }

    /// Nothing more goes into this archive. Whoever leads lets jobs leave the memory of all by what its own archive has, so
    /// another member is to lead, if one can.
    fn stand_aside(&self) {
        let mut next = Instant::now();
        while self.post.is_some() && !self.archiver.is_stopped() {
            if self.leads.lock().is_some() && Instant::now() >= next {
                log::warn!("the archive of this node stopped: another member is asked to lead");
                self.inbox.chore(Chore::HandOver);
                next = Instant::now() + STAND_ASIDE_EVERY;
            }
            self.archiver.pause();
        }
    }

    /// Archives and evicts about as many jobs as are worth a round. Gives how many left memory; `None`: none is left.
    fn move_some(self: &Arc<Self>, archive: &Archive) -> Result<Option<u64>> {
        let (mut archived, mut evicted) = (0, 0);
        while archived < ARCHIVE_ROUND_JOBS && !self.archiver.is_stopped() {
            let moved = self.move_batch(archive)?;
            if moved == 0 {
                break;
            }
            archived += moved;
            evicted += self.evict_ripe(archive)?;
        }
        Ok((archived > 0).then_some(evicted))
    }

    /// Archives the finished jobs that come next; gives how many.
    pub(super) fn move_batch(&self, archive: &Archive) -> Result<usize> {
        let after = archive.watermark();
        let machine = self.machine.read();
        // What left memory and what is left of one state: an eviction that is applied in between would be seen by neither.
        let (evicted, batch) =
            (machine.evicted_upto(), machine.finished(after, ARCHIVE_BATCH_JOBS, ARCHIVE_BATCH_BYTES));
        drop(machine);
        let after = self.note_missing(archive, after, evicted)?;
        if !batch.is_empty() {
            archive.put(after, &batch)?;
        }
        Ok(batch.len())
    }

    /// Removes some of the records whose time is over, if it is time to look for them. False: nothing more is due.
    fn expire_some(&self, archive: &Archive, expire_at: &mut Instant) -> bool {
        if Instant::now() < *expire_at {
            return false;
        }
        // The time of the log where there is one of others: a clock that was wrong at the start must not remove history (T1).
        let now = if self.post.is_some() { self.machine.read().clock() } else { self.now() };
        let expired = archive.expire(now, ARCHIVE_EXPIRE_RECORDS);
        let more = expired.inspect_err(|error| log::warn!("no history is removed for now: {error}"));
        let more = more.is_ok_and(|expired| expired.more);
        if !more {
            *expire_at = Instant::now() + EXPIRE_EVERY;
        }
        more
    }

    /// Lets those jobs leave memory that all members have archived by now, if this is the one to decide.
    fn evict_ripe(self: &Arc<Self>, archive: &Archive) -> Result<u64> {
        let watermark = archive.watermark();
        if self.post.is_none() {
            return self.evict(watermark);
        }
        let ripe = self.archiver.ripe(watermark);
        match ripe.filter(|_| self.leads.lock().is_some()) {
            Some(ripe) => self.evict(ripe),
            None => Ok(0),
        }
    }

    /// Lets finished jobs up to this ordinal leave memory.
    pub(super) fn evict(self: &Arc<Self>, ordinal: u64) -> Result<u64> {
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

/// Moves finished jobs and expires records by turns until neither has anything left or it is over. Gives how many jobs left
/// memory. When moving fails, expiry goes on: on a full disk it is what makes room.
fn take_turns(
    mut moves: impl FnMut() -> Result<Option<u64>>,
    mut expire: impl FnMut() -> bool,
    stopped: impl Fn() -> bool,
) -> Result<u64> {
    let mut evicted = Ok(0);
    let (mut moving, mut expiring) = (true, true);
    while (moving || expiring) && !stopped() {
        if let Ok(jobs) = &mut evicted {
            match moves() {
                Ok(moved) => {
                    moving = moved.is_some();
                    *jobs += moved.unwrap_or(0);
                }
                Err(error @ (Error::Closed | Error::Poisoned(_))) => return Err(error),
                Err(error) => (moving, evicted) = (false, Err(error)),
            }
        }
        expiring = expire();
    }
    evicted
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::archive;
    use crate::base::Millis;
    use crate::machine::record;
    use crate::node::group_of_one;

    #[test]
    fn what_left_memory_between_two_batches_is_missed_before_what_follows_is_archived() {
        let dir = tempfile::tempdir().expect("a directory");
        // Without an archive of its own: the turns of this one are taken here.
        let node = group_of_one::open_with(dir.path(), false);
        let ids: Vec<JobId> = (1..=1_200u128).map(|number| JobId(number.to_be_bytes())).collect();
        for ids in ids.chunks(400) {
            let jobs: Vec<_> = ids.iter().map(|id| (*id, None, None)).collect();
            for request in [group_of_one::enqueue_all(&jobs), group_of_one::cancel(ids)] {
                node.submit(request, None).expect("it is written");
            }
        }
        let options = archive::Options {
            path: dir.path().join("archive"),
            cluster: node.shared.identity.cluster,
            group: node.shared.identity.group,
            evicted_upto: 0,
            now: Millis(0),
            keep_until: record::keep_until_ms,
            labels: record::labels,
        };
        let archive = Archive::open(options).expect("it opens");
        assert_eq!(node.shared.move_batch(&archive), Ok(500));
        node.shared.evict(1_100).expect("it is written");
        assert_eq!(node.shared.move_batch(&archive), Ok(100));
        let health = archive.health();
        assert_eq!((health.watermark, health.records), (1_200, 600));
        assert_eq!(health.lost.map(|lost| lost.upto), Some(1_100), "600 others are lacking");
        node.close().expect("it closes");
    }

    /// The turns that were taken, by letter, with work for so many turns of each.
    fn turns(to_move: u32, to_expire: u32, turns_max: usize) -> String {
        let (turns, move_left, expire_left) = (RefCell::new(String::new()), Cell::new(to_move), Cell::new(to_expire));
        let take = |letter, left: &Cell<u32>| {
            let has = left.get() > 0;
            if has {
                turns.borrow_mut().push(letter);
                left.set(left.get() - 1);
            }
            has
        };
        let moves = || Ok(take('m', &move_left).then_some(10));
        let jobs = take_turns(moves, || take('e', &expire_left), || turns.borrow().len() >= turns_max).unwrap();
        let turns = turns.into_inner();
        assert_eq!(jobs, 10 * turns.matches('m').count() as u64);
        turns
    }

    #[test]
    fn moving_and_expiring_take_turns_until_neither_has_work() {
        assert_eq!(turns(3, 0, 99), "mmm");
        assert_eq!(turns(0, 5, 99), "eeeee", "expiry goes on while something is due");
        assert_eq!(turns(2, 5, 99), "memeeee");
        assert_eq!(turns(u32::MAX, u32::MAX, 8), "memememe", "neither starves the other");
    }

    #[test]
    fn what_cannot_be_moved_does_not_keep_expiry_from_making_room() {
        let mut due = 4;
        let expire = || {
            due -= 1;
            due > 0
        };
        let full = || Err(Error::DiskFull("test".into()));
        assert_eq!(take_turns(full, expire, || false), Err(Error::DiskFull("test".into())));
        assert_eq!(due, 0);
        assert_eq!(take_turns(|| Err(Error::Closed), || panic!("the node is closed"), || false), Err(Error::Closed));
    }
}
