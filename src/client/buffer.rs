//! What a fetcher holds, and what it should do next: jobs claimed ahead, results not sent yet. No threads, no clock.
//!
//! How much is claimed ahead follows from how long jobs run: as many as are likely to start within [`AHEAD`], never
//! more than four times what finished since the last claim. So a worker of slow jobs takes only what a thread waits for, and
//! a worker of very short ones has hundreds at hand. What lies here for [`STALE`] while nobody takes it is given back.

use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, LeaseToken, Result};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::request::op;

/// Claimed jobs should start within this.
pub const AHEAD: Duration = Duration::from_millis(20);
/// Jobs claimed ahead, unless the option `prefetch` asks for more.
pub const AHEAD_JOBS_MAX: usize = 256;
/// Runs that the mean time of a run is taken over, at least.
const RUNS_REMEMBERED: u32 = 64;
/// A result waits this long for others to share its commit, unless the worker is idle.
pub const LINGER: Duration = Duration::from_millis(1);
/// Claimed jobs that nobody takes go back after this.
pub const STALE: Duration = Duration::from_secs(1);
/// Results that do not wait for others any more.
const BATCH_RESULTS: usize = 64;
/// Results in one command, and their bytes.
const BATCH_RESULTS_MAX: usize = limits::BATCH_JOBS_MAX / 2;
const BATCH_BYTES_MAX: usize = limits::COMMAND_BYTES_MAX / 2;
/// Results waiting to be sent; beyond it `finish` waits.
const RESULTS_MAX: usize = 4_096;
const RESULTS_BYTES_MAX: usize = 16 << 20;
/// Commands with results that are under way at the same time.
const FINISHES_MAX: usize = 2;
/// The outcome "release": back into the queue, no attempt spent.
const RELEASE: u64 = 4;
/// The outcome "snooze".
const SNOOZE: u64 = 3;

const _: () = assert!(BATCH_BYTES_MAX + limits::RESULT_BYTES_MAX + limits::ERROR_BYTES_MAX < limits::COMMAND_BYTES_MAX);

/// A result or a note on its way: MessagePack that begins with the job and its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub job: JobId,
    pub token: LeaseToken,
    pub bytes: Bytes,
}

impl Item {
    /// Refuses what the machine would refuse as a whole command, so that one bad result does not spoil its neighbours.
    pub fn parse(bytes: Bytes) -> Result<Item> {
        if bytes.len() > limits::RESULT_BYTES_MAX + limits::STATE_BYTES_MAX + limits::ERROR_BYTES_MAX {
            return Err(Error::Invalid(format!("a result of {} bytes", bytes.len())));
        }
        let mut reader = Reader::new(&bytes);
        if reader.array()? < 3 {
            return Err(Error::Invalid("a result needs a job, a token and an outcome".into()));
        }
        let (job, token) = (reader.id()?, LeaseToken(reader.u64()?));
        Ok(Item { job, token, bytes })
    }

    /// A snooze without the reason that it has, for a cluster whose members do not all know of reasons. `None`: it has
    /// none, or is something else.
    pub fn without_reason(&self) -> Option<Item> {
        let mut reader = Reader::new(&self.bytes);
        let items = reader.array().ok()?;
        let (job, token) = (reader.id().ok()?, reader.u64().ok()?);
        let (outcome, delay_ms) = (reader.u64().ok()?, reader.u64().ok()?);
        if (items, outcome) != (5, SNOOZE) {
            return None;
        }
        let mut out = Writer::new();
        out.array(4).id(job).u64(token).u64(SNOOZE).u64(delay_ms);
        Some(Item { bytes: out.into_bytes().into(), ..self.clone() })
    }

    fn release(claimed: &Bytes) -> Result<Item> {
        let mut reader = Reader::new(claimed);
        reader.array()?;
        let (job, token) = (reader.id()?, LeaseToken(reader.u64()?));
        let mut out = Writer::new();
        out.array(3).id(job).u64(token.0).u64(RELEASE);
        Ok(Item { job, token, bytes: out.into_bytes().into() })
    }
}

/// Where the search for work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hunt {
    /// A claim may give something.
    Hungry,
    /// A claim for this many is under way.
    Claiming(usize),
    /// The last claim gave less than asked: ask to be told, then wait.
    Exhausted,
    /// We will be told.
    Armed,
}

/// Commands to send now, and when to look again.
#[derive(Debug, Default)]
pub struct Step {
    pub notes: Vec<Item>,
    pub results: Vec<Item>,
    pub claim: usize,
    pub arm: bool,
    pub look_again: Option<Instant>,
}

impl Step {
    pub fn is_something(&self) -> bool {
        self.claim > 0 || self.arm || !self.results.is_empty() || !self.notes.is_empty()
    }

    fn look_at(&mut self, at: Instant) {
        self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What a fetcher holds.
#[derive(Debug)]
pub struct Buffer {
    pub ready: VecDeque<Bytes>,
    pub hunt: Hunt,
    pub paused: bool,
    /// Threads inside `next`.
    pub waiters: usize,
    /// Jobs that a caller who does not wait would have taken.
    pub demand: usize,
    pub finishes_under_way: usize,
    results: VecDeque<Item>,
    results_bytes: usize,
    notes: VecDeque<Item>,
    notes_bytes: usize,
    oldest_result: Option<Instant>,
    /// Until then nothing is sent: the last attempt did not get through.
    pub hold_until: Option<Instant>,
    pub flush: bool,
    ahead_max: usize,
    running: usize,
    finished_since_claim: usize,
    /// How long jobs run: the sum over some recent ones, their number, and when the number of running jobs last changed.
    busy: Duration,
    runs: u32,
    changed: Instant,
    last_taken: Instant,
}

impl Buffer {
    /// `prefetch` 0: only what a thread waits for.
    pub fn new(prefetch: usize, now: Instant) -> Self {
        Self {
            ready: VecDeque::new(),
            hunt: Hunt::Hungry,
            paused: false,
            waiters: 0,
            demand: 0,
            finishes_under_way: 0,
            results: VecDeque::new(),
            results_bytes: 0,
            notes: VecDeque::new(),
            notes_bytes: 0,
            oldest_result: None,
            hold_until: None,
            flush: false,
            ahead_max: if prefetch == 0 { 0 } else { prefetch.max(AHEAD_JOBS_MAX) },
            running: 0,
            finished_since_claim: 0,
            busy: Duration::ZERO,
            runs: 0,
            changed: now,
            last_taken: now,
        }
    }

    /// Hands a claimed job to a thread.
    pub fn take(&mut self, now: Instant) -> Option<Bytes> {
        let job = self.ready.pop_front()?;
        self.busy = self.busy_until(now);
        self.changed = now;
        self.running += 1;
        self.demand = self.demand.saturating_sub(1);
        self.last_taken = now;
        Some(job)
    }

    pub fn finish(&mut self, result: Item, now: Instant) {
        self.busy = self.busy_until(now);
        self.changed = now;
        self.runs += 1;
        self.running = self.running.saturating_sub(1);
        self.finished_since_claim += 1;
        self.push(result, now);
    }

    pub fn note(&mut self, note: Item, now: Instant) {
        self.oldest_result.get_or_insert(now);
        self.notes_bytes += note.bytes.len();
        self.notes.push_back(note);
    }

    fn push(&mut self, result: Item, now: Instant) {
        self.oldest_result.get_or_insert(now);
        self.results_bytes += result.bytes.len();
        self.results.push_back(result);
    }

    /// Results that did not get through go back to the front.
    pub fn push_back(&mut self, results: Vec<Item>, now: Instant) {
        self.oldest_result.get_or_insert(now);
        self.results_bytes += bytes_of(&results);
        results.into_iter().rev().for_each(|result| self.results.push_front(result));
    }

    /// Notes that did not get through, which are older than those that wait.
    pub fn push_back_notes(&mut self, notes: Vec<Item>, now: Instant) {
        self.oldest_result.get_or_insert(now);
        self.notes_bytes += bytes_of(&notes);
        notes.into_iter().rev().for_each(|note| self.notes.push_front(note));
    }

    /// Whether `finish` must wait before it may add one.
    pub fn is_full(&self) -> bool {
        self.results.len() + self.notes.len() >= RESULTS_MAX
            || self.results_bytes + self.notes_bytes >= RESULTS_BYTES_MAX
    }

    /// Whether everything handed in has been answered.
    pub fn is_flushed(&self) -> bool {
        self.results.is_empty() && self.notes.is_empty() && self.finishes_under_way == 0
    }

    /// Jobs that came from a claim which asked for some.
    pub fn claimed(&mut self, jobs: Vec<Bytes>, now: Instant) {
        let Hunt::Claiming(asked) = self.hunt else { return };
        self.hunt = if jobs.len() < asked { Hunt::Exhausted } else { Hunt::Hungry };
        self.last_taken = now;
        self.ready.extend(jobs);
        if self.paused {
            self.give_back(now);
        }
    }

    /// Gives back what nobody has taken. Jobs that cannot be read stay leased until the session ends.
    pub fn give_back(&mut self, now: Instant) {
        for job in std::mem::take(&mut self.ready) {
            if let Ok(result) = Item::release(&job) {
                self.push(result, now);
            }
        }
        self.flush = true;
    }

    /// Drops everything: the leases are lost.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.results.clear();
        self.notes.clear();
        (self.results_bytes, self.notes_bytes, self.oldest_result) = (0, 0, None);
    }

    /// Whether a thread that just took a job or left a result should wake up the pump.
    pub fn needs_pump(&self, now: Instant) -> bool {
        let batch = self.results.len() >= BATCH_RESULTS && self.finishes_under_way == 0;
        batch || (self.hunt == Hunt::Hungry && self.wanted(now) > 0)
    }

    /// When the results that linger are to be sent.
    pub fn due(&self) -> Option<Instant> {
        self.oldest_result.filter(|_| self.finishes_under_way < FINISHES_MAX).map(|oldest| oldest + LINGER)
    }

    /// What to send now. The caller sends it; the buffer takes it as sent.
    pub fn step(&mut self, now: Instant) -> Step {
        let mut step = Step::default();
        if self.hold_until.is_some_and(|until| now < until) {
            step.look_again = self.hold_until;
            return step;
        }
        self.hold_until = None;
        if !self.ready.is_empty() && now >= self.last_taken + STALE {
            self.give_back(now);
        }
        self.step_claim(now, &mut step);
        self.step_results(now, &mut step);
        if !self.ready.is_empty() {
            step.look_at(self.last_taken + STALE);
        }
        if self.finishes_under_way > 0 {
            // More results are about to come: looking by ourselves is cheaper than being woken up for the first.
            step.look_at(now + LINGER);
        }
        step
    }

    fn step_claim(&mut self, now: Instant, step: &mut Step) {
        if self.paused || self.is_full() {
            return;
        }
        let wanted = self.wanted(now);
        match self.hunt {
            Hunt::Hungry if wanted > 0 => {
                step.claim = wanted;
                self.hunt = Hunt::Claiming(wanted);
                self.finished_since_claim = 0;
                if self.runs >= RUNS_REMEMBERED {
                    (self.busy, self.runs) = (self.busy / 2, self.runs / 2);
                }
            }
            Hunt::Exhausted => {
                step.arm = true;
                self.hunt = Hunt::Armed;
            }
            _ => {}
        }
    }

    fn step_results(&mut self, now: Instant, step: &mut Step) {
        let Some(oldest) = self.oldest_result else { return };
        let idle = self.running == 0 || (self.waiters > 0 && self.ready.is_empty());
        let due = oldest + LINGER;
        let batch = self.results.len() >= BATCH_RESULTS;
        if self.finishes_under_way >= FINISHES_MAX {
            return; // An answer is on its way and wakes us up.
        }
        if !(batch || idle || self.flush || step.claim > 0 || now >= due) {
            step.look_at(due);
            return;
        }
        step.notes = take_batch(&mut self.notes, &mut self.notes_bytes);
        if self.notes.is_empty() {
            // Not before: a note that arrives behind the result of its job changes nothing any more.
            step.results = take_batch(&mut self.results, &mut self.results_bytes);
        }
        self.finishes_under_way += usize::from(!step.results.is_empty()) + usize::from(!step.notes.is_empty());
        if self.results.is_empty() && self.notes.is_empty() {
            (self.oldest_result, self.flush) = (None, false);
        } else {
            step.look_at(now);
        }
    }

    /// How many jobs to ask for now.
    fn wanted(&self, now: Instant) -> usize {
        let needed = self.waiters.max(self.demand);
        let ahead = self.ahead(now);
        // A claim for a few when the buffer is nearly full would cost as much as one for many.
        if self.ready.len() > needed + ahead / 2 || (self.ready.len() >= needed && ahead == 0) {
            return 0;
        }
        (needed + ahead).saturating_sub(self.ready.len()).min(limits::BATCH_JOBS_MAX / 2)
    }

    /// The time that all runs took, those under way included.
    fn busy_until(&self, now: Instant) -> Duration {
        self.busy + now.saturating_duration_since(self.changed) * self.running as u32
    }

    /// How many jobs are likely to start within [`AHEAD`]. How long a claim takes plays no part: a slow disk must not
    /// make for small claims, which would make it slower.
    fn ahead(&self, now: Instant) -> usize {
        if self.runs == 0 {
            return 0;
        }
        let run = (self.busy_until(now) / self.runs).max(Duration::from_micros(1));
        let threads = (self.running + self.waiters.max(self.demand)).max(1);
        let soon = threads as u128 * AHEAD.as_nanos() / run.as_nanos();
        (soon as usize).min(self.finished_since_claim * 4).min(self.ahead_max)
    }
}

fn bytes_of(items: &[Item]) -> usize {
    items.iter().map(|item| item.bytes.len()).sum()
}

/// The oldest of these, as many as fit one command.
fn take_batch(items: &mut VecDeque<Item>, items_bytes: &mut usize) -> Vec<Item> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(item) = items.front() {
        bytes += item.bytes.len();
        if batch.len() >= BATCH_RESULTS_MAX || bytes > BATCH_BYTES_MAX + limits::RESULT_BYTES_MAX {
            break;
        }
        *items_bytes -= item.bytes.len();
        batch.extend(items.pop_front());
    }
    batch
}

/// `[op, items]`, for `Finish` and `Progress`.
pub fn command_of(operation: u64, items: &[Item]) -> Vec<u8> {
    debug_assert!(operation == op::FINISH || operation == op::PROGRESS);
    let mut out = Writer::with_capacity(bytes_of(items) + 16);
    out.array(2).u64(operation).array(items.len());
    for item in items {
        out.raw(&item.bytes);
    }
    out.into_bytes()
}
