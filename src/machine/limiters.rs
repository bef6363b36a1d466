//! Limiters: how many jobs of one key run, or have started lately, and whether one more may (J13); or whose turn it is (J8).
//!
//! A limiter is there while a job that is not final has its key, or while it remembers starts. Its numbers are those of the
//! newest job that was enqueued with it. Jobs wait behind its gates, see `gates`; nothing is ever reserved for a job that
//! waits, so one that no worker takes, for its queue is paused or its function is not known, holds up nobody.
//!
//! * Concurrency: a run counts from the claim to its end, however it ends. Room is open at once.
//! * Rates: a claim is a start, also of a retry, and none is given back. A rate without room closes, and a `Tick` opens it
//!   when cluster time has come to the next start. A claim never opens one: what is open is the same on all members.
//! * Keys that take turns are always open, and a claim renews the turn. Nothing of it is left when the last job has gone:
//!   whoever begins to wait later has a greater place than every turn before.
//! * Whenever more room is there than before, every queue in which jobs of the key wait is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bucket::Bucket;
use super::decode::{number, Place as _, Result};
use super::job::State;
use super::limit::{Kind, Limit, Limits};
use super::load::COUNTER_MAX;
use super::outcome::Refusal;
use super::queues::rank;
use super::table::Slot;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, Millis};

/// A limiter with a gate, without its key and its starts.
const WEIGHT_BASE: u64 = 500;
/// Jobs that are counted to tell the place of one.
const PLACES_MAX: usize = 1_000;
/// One time with starts.
const WEIGHT_START: u64 = 16;

/// What an image holds of a limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub limit: Limit,
    pub bucket: Bucket,
    /// A rate without room, until a tick opens it.
    closed: bool,
    /// When a tick looks at it: to open it, or to forget it.
    wake: Option<Millis>,
}

#[derive(Debug)]
pub(super) struct Limiter {
    pub kept: Arc<Kept>,
    /// Jobs that are not final, of these those that run, and how many wait in each queue. Follows from the jobs.
    jobs: u64,
    pub running: u64,
    waiting: BTreeMap<u32, u64>,
    /// Its gates, by number.
    pub gates: BTreeSet<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Limiters {
    /// By kind and key.
    numbers: [BTreeMap<Arc<str>, u32>; Kind::ALL.len()],
    items: Vec<Option<Limiter>>,
    free: Vec<u32>,
    /// Those that a tick looks at, by time and then in an order that is the same on all members.
    wakes: BTreeSet<(Millis, Kind, Arc<str>)>,
}

impl Kept {
    fn new(limit: Limit) -> Self {
        Kept { bucket: Bucket::full(limit.kind), limit, closed: false, wake: None }
    }

    fn weight(&self) -> u64 {
        let starts = if self.limit.kind == Kind::Sliding { self.limit.n * WEIGHT_START } else { 0 };
        WEIGHT_BASE + 2 * self.limit.key.len() as u64 + starts
    }

    /// `[LIMIT, closed, wake, BUCKET]`: a record of an image.
    pub fn encode(&self, writer: &mut Writer) {
        writer.array(4);
        self.limit.encode(writer);
        writer.bool(self.closed).option(self.wake, |writer, wake| {
            writer.u64(wake.0);
        });
        self.bucket.encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(4, "a limiter")?;
        let limit = Limit::decode(reader)?;
        Ok(Kept {
            closed: reader.bool().at("closed")?,
            wake: reader.option(|reader| reader.u64()).at("wake")?.map(Millis),
            bucket: Bucket::decode(reader, limit.kind).at("bucket")?,
            limit,
        })
    }
}

impl Limiter {
    /// The place in the order of waiting that its first job has at least.
    pub fn turn(&self) -> u64 {
        match self.kept.bucket {
            Bucket::Turn(turn) => turn,
            _ => 0,
        }
    }

    /// Whether one more job may start.
    pub fn open(&self) -> bool {
        match self.kept.limit.kind {
            Kind::Concurrency => self.running < self.kept.limit.n + u64::from(has(Bug::LimitOneMore)),
            _ => !self.kept.closed,
        }
    }

    /// How many may start now.
    fn room(&self, now: Millis) -> u64 {
        match self.kept.limit.kind {
            Kind::Concurrency => self.kept.limit.n.saturating_sub(self.running),
            _ if self.kept.closed => 0,
            _ => self.kept.bucket.room(&self.kept.limit, now),
        }
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.values().sum()
    }

    pub fn begin_wait(&mut self, queue: u32) {
        *self.waiting.entry(queue).or_default() += 1;
    }

    pub fn end_wait(&mut self, queue: u32) {
        let Some(count) = self.waiting.get_mut(&queue) else { return };
        *count -= 1;
        if *count == 0 {
            self.waiting.remove(&queue);
        }
    }
}

impl Limiters {
    pub fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    pub fn get(&self, number: u32) -> &Limiter {
        self.items[number as usize].as_ref().expect("a limiter that is there")
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Limiter {
        self.items[number as usize].as_mut().expect("a limiter that is there")
    }

    pub fn number_of(&self, kind: Kind, key: &str) -> Option<u32> {
        self.numbers[kind as usize].get(key).copied()
    }

    /// What an image shares, by kind and key.
    pub fn capture(&self) -> Vec<Arc<Kept>> {
        self.numbers.iter().flat_map(BTreeMap::values).map(|number| self.get(*number).kept.clone()).collect()
    }

    /// Whether there are keys that take turns.
    pub fn take_turns(&self) -> bool {
        !self.numbers[Kind::Fair as usize].is_empty()
    }

    /// When a tick has work.
    pub fn next_wake(&self) -> Option<Millis> {
        self.wakes.first().map(|(at, ..)| *at)
    }

    fn insert(&mut self, kept: Kept) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() as u32 - 1
        });
        let (kind, key) = (kept.limit.kind, kept.limit.key.clone());
        self.numbers[kind as usize].insert(key.clone(), number);
        self.wakes.extend(kept.wake.map(|wake| (wake, kind, key)));
        let (kept, gates) = (Arc::new(kept), BTreeSet::new());
        self.items[number as usize] = Some(Limiter { kept, jobs: 0, running: 0, waiting: BTreeMap::new(), gates });
        number
    }

    fn remove(&mut self, number: u32) {
        self.set_wake(number, None);
        let gone = self.items[number as usize].take().expect("a limiter that is there");
        self.numbers[gone.kept.limit.kind as usize].remove(&gone.kept.limit.key);
        self.free.push(number);
    }

    fn edit(&mut self, number: u32, change: impl FnOnce(&mut Kept)) {
        change(Arc::make_mut(&mut self.get_mut(number).kept));
    }

    fn set_wake(&mut self, number: u32, wake: Option<Millis>) {
        let kept = self.get(number).kept.clone();
        if kept.wake == wake {
            return;
        }
        let entry = |at| (at, kept.limit.kind, kept.limit.key.clone());
        kept.wake.map(|at| self.wakes.remove(&entry(at)));
        self.wakes.extend(wake.map(entry));
        drop(kept);
        self.edit(number, |kept| kept.wake = wake);
    }

    #[cfg(any(debug_assertions, feature = "sim"))] // For the recount of tests.
    pub fn counts(&self) -> impl Iterator<Item = (&Kept, u64, u64, &BTreeMap<u32, u64>)> {
        let numbers = self.numbers.iter().flat_map(BTreeMap::values).map(|number| self.get(*number));
        numbers.map(|limiter| (&*limiter.kept, limiter.jobs, limiter.running, &limiter.waiting))
    }
}

impl Machine {
    /// The limiters of a job that is not final, by number.
    pub(super) fn limiters_of(&self, slot: Slot) -> Vec<u32> {
        let limits = self.table.get(slot).limits().map_or(&[][..], |limits| limits);
        limits.iter().filter_map(|limit| self.limiters.number_of(limit.kind, &limit.key)).collect()
    }

    /// Whether a limit without room holds a job back.
    pub(super) fn held_back(&self, slot: Slot) -> bool {
        self.limiters_of(slot).into_iter().any(|number| !self.limiters.get(number).open())
    }

    /// Refuses jobs that may need more limiters than there is room for.
    pub(super) fn room_for_limits<'a>(
        &self,
        jobs: impl Iterator<Item = &'a Limits>,
    ) -> std::result::Result<(), Refusal> {
        let unknown = |limit: &&Limit| self.limiters.number_of(limit.kind, &limit.key).is_none();
        let new = jobs.flat_map(|limits| limits.iter()).filter(unknown).count();
        if new > 0 && self.limiters.len() + new > limits::LIMITERS_MAX {
            return Err(Refusal::overloaded(format!("{} keys of limits are in use", self.limiters.len())));
        }
        Ok(())
    }

    /// A job is there that is not final. If it is the newest one, its numbers are those of its limiters from now on.
    pub(super) fn hold_limits(&mut self, slot: Slot, newest: bool) {
        let Some(limits) = self.table.get(slot).limits().cloned() else { return };
        for limit in limits.iter() {
            let number = match self.limiters.number_of(limit.kind, &limit.key) {
                Some(number) => number,
                None => self.add_limiter(Kept::new(limit.clone())),
            };
            self.limiters.get_mut(number).jobs += 1;
            if newest && self.limiters.get(number).kept.limit != *limit {
                self.tune_limiter(number, limit);
            }
        }
    }

    /// It is final now, or about to go.
    pub(super) fn release_limits(&mut self, slot: Slot) {
        for number in self.limiters_of(slot) {
            self.limiters.get_mut(number).jobs -= 1;
            self.settle(number);
        }
    }

    fn add_limiter(&mut self, kept: Kept) -> u32 {
        self.bytes += kept.weight();
        self.limiters.insert(kept)
    }

    fn tune_limiter(&mut self, number: u32, limit: &Limit) {
        let (now, before) = (self.clock, self.limiters.get(number).room(self.clock));
        let weight = self.limiters.get(number).kept.weight();
        self.limiters.edit(number, |kept| {
            kept.bucket.tune(&kept.limit, limit, now);
            kept.limit = Limit { key: kept.limit.key.clone(), ..limit.clone() };
        });
        self.bytes = self.bytes - weight + self.limiters.get(number).kept.weight();
        if limit.kind.is_rate() {
            self.judge(number);
        }
        if !has(Bug::TunedStays) {
            self.refresh_all(number);
        }
        self.tell_room(number, before);
    }

    /// A run begins to count.
    pub(super) fn count_run(&mut self, slot: Slot) {
        for number in self.limiters_of(slot) {
            let limiter = self.limiters.get_mut(number);
            limiter.running += 1;
            if limiter.kept.limit.kind == Kind::Concurrency && !limiter.open() {
                self.refresh_all(number);
            }
        }
    }

    /// A run ended.
    pub(super) fn uncount_run(&mut self, slot: Slot) {
        for number in self.limiters_of(slot) {
            let limiter = self.limiters.get_mut(number);
            let before = limiter.room(self.clock);
            limiter.running -= 1;
            if limiter.kept.limit.kind == Kind::Concurrency {
                if before == 0 && !has(Bug::LimitStaysFull) {
                    self.refresh_all(number);
                }
                self.tell_room(number, before);
            }
        }
    }

    /// A claimed job uses a start of each of its rates, and the turn of its key.
    pub(super) fn count_start(&mut self, slot: Slot) {
        for number in self.limiters_of(slot) {
            match self.limiters.get(number).kept.limit.kind {
                Kind::Concurrency => {}
                Kind::Fair => self.use_turn(number),
                Kind::Bucket | Kind::Sliding | Kind::Fixed => self.use_rate(number),
            }
        }
    }

    fn use_rate(&mut self, number: u32) {
        let now = self.clock;
        self.limiters.edit(number, |kept| kept.bucket.take(&kept.limit, now));
        self.judge(number);
        match self.limiters.get(number).open() {
            false => self.refresh_all(number),
            // Room comes with time alone, so whoever waits is told of what is left now.
            true => self.tell_room(number, 0),
        }
    }

    /// The others of its key stand behind all who wait by now.
    fn use_turn(&mut self, number: u32) {
        if has(Bug::TurnKept) {
            return;
        }
        self.order += 1;
        let turn = self.order;
        self.limiters.edit(number, |kept| kept.bucket = Bucket::Turn(turn));
        self.refresh_all(number);
    }

    /// Closes or opens a rate by what is in its bucket now.
    fn judge(&mut self, number: u32) {
        let Kept { limit, bucket, .. } = &*self.limiters.get(number).kept;
        let closed = bucket.room(limit, self.clock) == 0;
        let wake = closed.then(|| rounded(bucket.next(limit, self.clock)));
        self.limiters.edit(number, |kept| kept.closed = closed);
        self.limiters.set_wake(number, wake);
        self.settle(number);
    }

    /// Forgets a limiter that no job has once nobody could tell, and says when to look again.
    fn settle(&mut self, number: u32) {
        let limiter = self.limiters.get(number);
        if limiter.jobs > 0 || limiter.kept.closed {
            return;
        }
        let full = limiter.kept.bucket.full_at(&limiter.kept.limit);
        if full > self.clock && !has(Bug::RateForgotten) {
            return self.limiters.set_wake(number, Some(rounded(full)));
        }
        self.bytes -= limiter.kept.weight();
        self.limiters.remove(number);
    }

    /// More may start than before: tells every queue in which jobs wait for it.
    fn tell_room(&mut self, number: u32, before: u64) {
        let limiter = self.limiters.get(number);
        let more = limiter.room(self.clock).saturating_sub(before);
        let waiting: Vec<(u32, u64)> = limiter.waiting.iter().map(|(queue, jobs)| (*queue, *jobs)).collect();
        for (queue, jobs) in waiting {
            self.announce(queue, jobs.min(more) as usize);
        }
    }

    /// Opens rates whose next start has come, and forgets those that nobody needs. Part of `Tick`.
    pub(super) fn wake_limiters(&mut self, items_max: usize) -> usize {
        for done in 0..items_max {
            let due = self.limiters.wakes.first().filter(|(at, ..)| *at <= self.clock);
            let number = due.and_then(|(_, kind, key)| self.limiters.number_of(*kind, key));
            let Some(number) = number else { return done };
            self.limiters.set_wake(number, None);
            if !self.limiters.get(number).kept.closed {
                self.settle(number);
                continue;
            }
            let waits = self.limiters.get(number).jobs > 0;
            self.judge(number);
            if waits {
                self.refresh_all(number);
                self.tell_room(number, 0);
            }
        }
        items_max
    }

    /// One limiter out of an image. Those of jobs are there, as far as the jobs know them.
    pub(super) fn load_limiter(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let kept = Kept::decode(reader)?;
        let rate = kept.limit.kind.is_rate();
        if (kept.closed && kept.wake.is_none()) || (!rate && (kept.closed || kept.wake.is_some())) {
            return Err(Error::Invalid(format!("limiter {}: when it opens", kept.limit.key)));
        }
        // Else a later start could give it an earlier turn.
        if matches!(kept.bucket, Bucket::Turn(turn) if turn > self.order) {
            return Err(Error::Invalid(format!("limiter {}: its turn", kept.limit.key)));
        }
        let Some(number) = self.limiters.number_of(kept.limit.kind, &kept.limit.key) else {
            // Without a job it is there for what it remembers, and goes when that is over.
            if kept.wake.is_none() {
                return Err(Error::Invalid(format!("limiter {}: nobody needs it", kept.limit.key)));
            }
            self.add_limiter(kept);
            return Ok(());
        };
        self.bytes = self.bytes - self.limiters.get(number).kept.weight() + kept.weight();
        self.limiters.set_wake(number, kept.wake);
        self.limiters.get_mut(number).kept = Arc::new(kept);
        self.refresh_all(number);
        Ok(())
    }

    /// `[id]` gives `[[LIMIT, running, waiting, open], ...]` and the place of the job behind its last gate, see `view`.
    pub(super) fn limit_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let mut w = Writer::new();
        let limited = |slot: &Slot| {
            let job = self.table.get(*slot);
            job.limits().is_some() && !job.state.is_final()
        };
        let Some(slot) = self.table.find(reader.id()?).filter(limited) else {
            w.nil();
            return Ok(w.into_bytes());
        };
        let numbers = self.limiters_of(slot);
        w.array(2).array(numbers.len());
        for number in numbers {
            let limiter = self.limiters.get(number);
            w.array(4);
            limiter.kept.limit.encode(&mut w);
            w.u64(limiter.running).u64(limiter.waiting()).bool(limiter.open());
        }
        w.option(self.place(slot), |w, place| {
            w.u64(place);
        });
        Ok(w.into_bytes())
    }

    /// The place of a job that waits behind others of its key, from 1 on; none beyond the first thousand.
    fn place(&self, slot: Slot) -> Option<u64> {
        let job = self.table.get(slot);
        let waits = job.state == State::Enqueued;
        let before = self.gates.before(slot, rank(self.home(job.spec).priority, job.order), PLACES_MAX);
        (waits && before < PLACES_MAX).then_some(before as u64 + 1)
    }

    /// The first record of an image: `[count, [[queue, limit]]]`.
    pub(super) fn load_limiters_head(&mut self, reader: &mut Reader<'_>) -> Result<u64> {
        reader.array_of(2, "the count of limiters")?;
        // More than may come with new jobs: one that is requeued, or waits again for a parent, has its limiter in any case.
        let count = number(reader, COUNTER_MAX)?;
        for _ in 0..reader.array()? {
            reader.array_of(2, "the limit of a queue")?;
            let queue = number(reader, self.queues.count().saturating_sub(1) as u64).at("queue")? as u32;
            let limit = number(reader, limits::LIMIT_MAX).at("limit")?;
            if limit == 0 || self.queues.get_mut(queue).limit.replace(limit).is_some() {
                return Err(Error::Invalid("the limit of a queue twice, or zero".into()));
            }
        }
        Ok(count)
    }
}

/// Up to a multiple of the pace at which rates open.
fn rounded(at: Millis) -> Millis {
    Millis(at.0.div_ceil(limits::RATE_OPENS_MS).saturating_mul(limits::RATE_OPENS_MS))
}
