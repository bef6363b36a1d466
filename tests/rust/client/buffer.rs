//! What a worker claims ahead, in which order, and what it gives back.

use bytes::Bytes;
use proptest::prelude::*;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{limits, JobId};
use raftwork::client::buffer::{Buffer, Hunt, Item, AHEAD_JOBS_MAX, STALE};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::requests::job;

/// The outcome "release".
const RELEASE: u64 = 4;

/// A claimed job as the machine hands it out, as far as a buffer looks.
fn claimed(number: u64) -> Bytes {
    let mut out = Writer::new();
    out.array(3).id(job(number)).u64(number).u64(0);
    out.into_bytes().into()
}

/// The job and the token that a claim, a result or a note begins with.
pub fn parts(bytes: &[u8]) -> (JobId, u64) {
    let mut reader = Reader::new(bytes);
    reader.array().unwrap();
    (reader.id().unwrap(), reader.u64().unwrap())
}

/// What a result says; nothing for a note.
fn outcome(item: &Item) -> Option<u64> {
    let mut reader = Reader::new(&item.bytes);
    reader.array().unwrap();
    reader.id().unwrap();
    reader.u64().unwrap();
    reader.u64().ok()
}

/// A result without a value.
pub fn done(bytes: &[u8]) -> Item {
    let (id, token) = parts(bytes);
    let mut out = Writer::new();
    out.array(4).id(id).u64(token).u64(0).nil();
    Item::parse(out.into_bytes().into()).unwrap()
}

pub fn note(bytes: &[u8], state: &[u8]) -> Item {
    let (id, token) = parts(bytes);
    let mut out = Writer::new();
    out.array(4).id(id).u64(token).nil().bin(state);
    Item::parse(out.into_bytes().into()).unwrap()
}

#[derive(Clone, Debug)]
enum Doing {
    Wait(usize),
    Want(usize),
    Take,
    Finish(usize),
    Note(usize),
    /// So many jobs, of those asked for.
    Answer(usize),
    Refused,
    FinishAnswered(bool),
    Pause,
    Resume,
    Step(u64),
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        2 => (0usize..9).prop_map(Doing::Wait),
        1 => (0usize..9).prop_map(Doing::Want),
        6 => Just(Doing::Take),
        5 => (0usize..9).prop_map(Doing::Finish),
        2 => (0usize..9).prop_map(Doing::Note),
        5 => (0usize..600).prop_map(Doing::Answer),
        1 => Just(Doing::Refused),
        4 => any::<bool>().prop_map(Doing::FinishAnswered),
        1 => Just(Doing::Pause),
        1 => Just(Doing::Resume),
        8 => prop_oneof![Just(0u64), 1u64..3_000].prop_map(Doing::Step),
    ]
}

/// A buffer, and what must be true of it.
struct Bench {
    buffer: Buffer,
    now: Instant,
    ahead_max: usize,
    /// Jobs handed out by the machine so far, numbered from 1.
    made: u64,
    finished_since_claim: usize,
    taken: Vec<Bytes>,
    last_taken: u64,
    released: BTreeSet<JobId>,
    /// Numbers of the results in the order in which they were left, and of those sent.
    left: Vec<JobId>,
    sent: Vec<JobId>,
    notes_left: usize,
    notes_sent: usize,
    under_way: Vec<Vec<Item>>,
}

impl Bench {
    fn new(prefetch: usize) -> Self {
        let now = Instant::now();
        Self {
            buffer: Buffer::new(prefetch, now),
            now,
            ahead_max: if prefetch == 0 { 0 } else { prefetch.max(AHEAD_JOBS_MAX) },
            made: 0,
            finished_since_claim: 0,
            taken: Vec::new(),
            last_taken: 0,
            released: BTreeSet::new(),
            left: Vec::new(),
            sent: Vec::new(),
            notes_left: 0,
            notes_sent: 0,
            under_way: Vec::new(),
        }
    }

    fn step(&mut self) {
        let needed = self.buffer.waiters.max(self.buffer.demand);
        let allowed = needed + self.ahead_max.min(4 * self.finished_since_claim);
        let (paused, hunt) = (self.buffer.paused, self.buffer.hunt);
        let step = self.buffer.step(self.now);
        if step.claim > 0 {
            assert!(!paused, "a paused fetcher claims nothing");
            assert_eq!(hunt, Hunt::Hungry, "one claim at a time");
            assert!(step.claim + self.buffer.ready.len() <= allowed, "{} asked, {allowed} allowed", step.claim);
            assert!(step.claim <= limits::BATCH_JOBS_MAX);
            self.finished_since_claim = 0;
        }
        for items in [&step.notes, &step.results] {
            let bytes: usize = items.iter().map(|item| item.bytes.len()).sum();
            assert!(items.len() <= limits::BATCH_JOBS_MAX && bytes < limits::COMMAND_BYTES_MAX, "one command");
        }
        self.notes_sent += step.notes.len();
        if !step.results.is_empty() {
            assert_eq!(self.notes_sent, self.notes_left, "a note of a job goes before its result");
        }
        for item in &step.results {
            if outcome(item) == Some(RELEASE) {
                assert!(self.released.insert(item.job), "{} is given back twice", item.job);
            } else {
                self.sent.push(item.job);
            }
        }
        self.under_way.extend([step.notes, step.results].into_iter().filter(|items| !items.is_empty()));
        assert_eq!(self.buffer.finishes_under_way, self.under_way.len());
    }

    fn answer(&mut self, jobs: usize) {
        let Hunt::Claiming(asked) = self.buffer.hunt else { return };
        let jobs = jobs.min(asked);
        let numbers = self.made + 1..self.made + 1 + jobs as u64;
        self.made += jobs as u64;
        self.buffer.claimed(numbers.map(claimed).collect(), self.now);
        if self.buffer.paused {
            assert!(self.buffer.ready.is_empty(), "what comes during a pause goes back");
        }
    }

    fn take(&mut self) {
        if let Some(one) = self.buffer.take(self.now) {
            let (_, number) = parts(&one);
            assert!(number > self.last_taken, "in the order in which they were claimed");
            self.last_taken = number;
            self.taken.push(one);
        }
    }

    fn finish(&mut self, pick: usize) {
        if !self.taken.is_empty() {
            let one = self.taken.remove(pick % self.taken.len());
            self.left.push(parts(&one).0);
            self.buffer.finish(done(&one), self.now);
            self.finished_since_claim += 1;
        }
    }

    fn note(&mut self, pick: usize) {
        if !self.taken.is_empty() {
            let one = &self.taken[pick % self.taken.len()];
            self.buffer.note(note(one, b"state"), self.now);
            self.notes_left += 1;
        }
    }

    /// The answer to the oldest command with results or notes. `through` false: it was not stored, and comes back.
    fn finish_answered(&mut self, through: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let items = self.under_way.remove(0);
        self.buffer.finishes_under_way -= 1;
        if through {
            return;
        }
        if items.iter().all(|item| outcome(item).is_none()) {
            self.notes_sent -= items.len();
            self.buffer.push_back_notes(items, self.now);
            return;
        }
        let ids: BTreeSet<JobId> = items.iter().map(|item| item.job).collect();
        self.released.retain(|id| !ids.contains(id));
        self.sent.retain(|id| !ids.contains(id));
        self.buffer.push_back(items, self.now);
    }
}

proptest! {
    #[test]
    fn a_buffer_claims_no_more_than_allowed_and_loses_nothing(
        prefetch in prop_oneof![Just(0usize), Just(1usize), Just(400usize)],
        doings in prop::collection::vec(doing(), 1..200),
    ) {
        let mut bench = Bench::new(prefetch);
        for doing in doings {
            match doing {
                Doing::Wait(threads) => bench.buffer.waiters = threads,
                Doing::Want(jobs) => bench.buffer.demand = jobs,
                Doing::Take => bench.take(),
                Doing::Finish(pick) => bench.finish(pick),
                Doing::Note(pick) => bench.note(pick),
                Doing::Answer(jobs) => bench.answer(jobs),
                Doing::Refused => {
                    if let Hunt::Claiming(_) = bench.buffer.hunt {
                        bench.buffer.claimed(Vec::new(), bench.now);
                        bench.buffer.hunt = Hunt::Hungry;
                        bench.buffer.hold_until = Some(bench.now + Duration::from_millis(50));
                    }
                }
                Doing::FinishAnswered(through) => bench.finish_answered(through),
                Doing::Pause => {
                    bench.buffer.paused = true;
                    bench.buffer.give_back(bench.now);
                    prop_assert!(bench.buffer.ready.is_empty());
                }
                Doing::Resume => {
                    bench.buffer.paused = false;
                    if !matches!(bench.buffer.hunt, Hunt::Claiming(_)) {
                        bench.buffer.hunt = Hunt::Hungry;
                    }
                }
                Doing::Step(later) => {
                    bench.now += Duration::from_millis(later);
                    bench.step();
                }
            }
        }
        // The stop: nothing more is claimed, what nobody took goes back, what runs is reported.
        bench.buffer.paused = true;
        bench.buffer.give_back(bench.now);
        bench.answer(3);
        while !bench.taken.is_empty() {
            bench.finish(0);
        }
        for _ in 0..1_000 {
            bench.now += Duration::from_millis(100);
            bench.step();
            bench.finish_answered(true);
        }
        prop_assert!(bench.buffer.is_flushed());
        prop_assert_eq!(bench.notes_sent, bench.notes_left);
        let mut ended: Vec<JobId> = bench.sent.iter().chain(&bench.released).copied().collect();
        ended.sort_unstable();
        let all: Vec<JobId> = (1..=bench.made).map(job).collect();
        prop_assert_eq!(ended, all, "each job was reported once or given back once");
    }
}

#[test]
fn jobs_that_nobody_takes_are_given_back_after_a_while() {
    let mut bench = Bench::new(1);
    bench.buffer.waiters = 3;
    bench.step();
    bench.answer(3);
    bench.take();
    bench.now += STALE - Duration::from_millis(1);
    bench.step();
    assert_eq!(bench.buffer.ready.len(), 2);
    bench.now += Duration::from_millis(1);
    bench.step();
    assert_eq!(bench.released, BTreeSet::from([job(2), job(3)]));
}

#[test]
fn a_worker_of_slow_jobs_claims_only_what_a_thread_waits_for() {
    let mut bench = Bench::new(1);
    bench.buffer.waiters = 2;
    for _ in 0..20 {
        bench.step();
        bench.answer(600);
        assert!(bench.buffer.ready.len() <= 2, "{} at hand", bench.buffer.ready.len());
        bench.take();
        bench.take();
        bench.now += Duration::from_secs(1);
        bench.finish(0);
        bench.finish(0);
    }
    let quick = &mut Bench::new(1);
    quick.buffer.waiters = 2;
    let mut most = 0;
    for _ in 0..200 {
        quick.step();
        quick.answer(600);
        most = most.max(quick.buffer.ready.len());
        quick.take();
        quick.now += Duration::from_micros(100);
        quick.finish(0);
        quick.finish_answered(true);
    }
    assert!(most > 20, "one of short jobs has many at hand, not {most}");
}
