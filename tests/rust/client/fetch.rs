//! The worker's side: what is claimed ahead, in which order, and what is given back; notes and results on their way.

use bytes::Bytes;
use proptest::prelude::*;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{limits, Error, JobId};
use raftwork::client::buffer::{Buffer, Hunt, Item, AHEAD_JOBS_MAX, STALE};
use raftwork::client::fetcher::{Event, Fetcher, Wish};
use raftwork::client::request::op;
use raftwork::client::{Client, Options};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::spy::{Act, Spy};
use super::{config, enqueue, patience};
use crate::requests::job;
use crate::wire::{Command, End};

/// The outcome "release".
const RELEASE: u64 = 4;

/// A claimed job as the machine hands it out, as far as a buffer looks.
fn claimed(number: u64) -> Bytes {
    let mut out = Writer::new();
    out.array(3).id(job(number)).u64(number).u64(0);
    out.into_bytes().into()
}

/// The job and the token that a claim, a result or a note begins with.
fn parts(bytes: &[u8]) -> (JobId, u64) {
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
fn done(bytes: &[u8]) -> Item {
    let (id, token) = parts(bytes);
    let mut out = Writer::new();
    out.array(4).id(id).u64(token).u64(0).nil();
    Item::parse(out.into_bytes().into()).unwrap()
}

fn note(bytes: &[u8], state: &[u8]) -> Item {
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

/// A client that owns a directory.
fn owner() -> (TempDir, Arc<Client>) {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(config(dir.path()), Options::default(), &mut patience()).unwrap();
    (dir, client)
}

fn wish() -> Wish {
    Wish { queues: vec![("default".into(), 1)], strict: false, functions: vec!["f".into()], prefetch: 1 }
}

fn fetcher(client: &Client) -> Arc<Fetcher> {
    client.fetcher(wish(), Vec::new(), &mut patience()).unwrap()
}

/// What waits and what is leased, by the node's own counts.
fn counts(client: &Client) -> (u64, u64) {
    let mut question = Writer::new();
    question.array(1).u64(1);
    let answer = client.view(question.as_bytes()).unwrap();
    let mut reader = Reader::new(&answer);
    reader.array_of(3, "a view").unwrap();
    reader.u64().unwrap();
    reader.raw().unwrap();
    let map = reader.rest();
    (crate::requests::field_number(map, "enqueued"), crate::requests::field_number(map, "processing"))
}

#[test]
fn a_fetcher_keeps_the_order_and_a_stop_gives_back_what_was_claimed_ahead() {
    let (_dir, client) = owner();
    let ids: Vec<JobId> = (1..=400).map(job).collect();
    client.submit(&enqueue(&ids), &mut patience()).unwrap();
    let first = fetcher(&client);
    let mut ran = Vec::new();
    let mut next = first.next(&mut patience()).unwrap().unwrap();
    for _ in 0..150 {
        ran.push(parts(&next).0);
        let more = first.finish_and_try_next(done(&next)).unwrap();
        next = more.unwrap_or_else(|| first.next(&mut patience()).unwrap().unwrap());
    }
    assert_eq!(ran, ids[..150], "J8");
    // One job still runs: it stays leased, all others are free for the next worker.
    first.pause();
    assert!(first.flush(&mut patience()).unwrap());
    assert_eq!(counts(&client), (249, 1));
    assert_eq!(first.try_next().unwrap(), None);
    first.finish(done(&next), &mut patience()).unwrap();
    ran.push(parts(&next).0);
    first.resume();
    ran.extend((0..20).map(|_| {
        let one = first.next(&mut patience()).unwrap().unwrap();
        first.finish(done(&one), &mut patience()).unwrap();
        parts(&one).0
    }));
    first.close(&mut patience()).unwrap();
    assert_eq!(counts(&client), (229, 0), "what was reported is stored, the rest is given back");
    let second = fetcher(&client);
    while ran.len() < ids.len() {
        let one = second.next(&mut patience()).unwrap().unwrap();
        ran.push(parts(&one).0);
        second.finish(done(&one), &mut patience()).unwrap();
    }
    second.close(&mut patience()).unwrap();
    ran.sort_unstable();
    assert_eq!(ran, ids, "each ran once");
    assert_eq!(counts(&client), (0, 0));
    client.close(&mut patience()).unwrap();
}

/// A fetcher over a spy, and one job that it runs.
fn spied() -> (Arc<Spy>, Arc<Fetcher>, Bytes) {
    let spy = Spy::new();
    spy.session("client", true).submit(&enqueue(&[job(1)]), &mut patience()).unwrap();
    let fetcher = Fetcher::open(spy.clone(), spy.session("worker", false), wish(), &mut patience()).unwrap();
    let one = fetcher.next(&mut patience()).unwrap().unwrap();
    (spy, fetcher, one)
}

#[test]
fn a_note_that_did_not_get_through_is_sent_again_before_flush_returns() {
    for error in [Error::NotCommitted("no".into()), Error::Overloaded("no".into()), Error::DiskFull("no".into())] {
        let (spy, fetcher, one) = spied();
        spy.next(op::PROGRESS, Act::Refuse(error));
        fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
        assert!(fetcher.flush(&mut patience()).unwrap());
        let sent = spy.sent(op::PROGRESS);
        assert_eq!(sent.len(), 2);
        assert_eq!(spy.applied(&sent[1].command), 1, "what is flushed is stored");
        fetcher.close(&mut patience()).unwrap();
    }
}

/// U3: members of an older version refuse reasons. That must not cost the session, and all that it runs.
#[test]
fn u3_a_snooze_whose_reason_is_refused_is_sent_without_it() {
    let (spy, fetcher, one) = spied();
    let snooze = |reason: Option<&str>| {
        let (id, token) = parts(&one);
        let mut out = Writer::new();
        out.array(4 + usize::from(reason.is_some())).id(id).u64(token).u64(3).u64(60_000);
        reason.map(|reason| out.str(reason));
        Item::parse(out.into_bytes().into()).unwrap()
    };
    spy.next(op::FINISH, Act::Refuse(Error::Invalid("feature_level: this needs feature level 4".into())));
    fetcher.finish(snooze(Some("waits for the bank")), &mut patience()).unwrap();
    assert!(fetcher.flush(&mut patience()).unwrap());
    let sent = spy.sent(op::FINISH);
    assert_eq!((sent.len(), spy.applied(&sent[1].command)), (2, 1));
    assert!(sent[1].command.ends_with(&snooze(None).bytes));
    // What is refused for another cause ends it as before.
    spy.next(op::FINISH, Act::Refuse(Error::Invalid("something else".into())));
    fetcher.finish(done(&one), &mut patience()).unwrap();
    assert!(fetcher.flush(&mut patience()).is_err());
}

#[test]
fn a_flush_after_the_end_of_the_session_does_not_say_yes() {
    let (spy, fetcher, one) = spied();
    spy.next(op::PROGRESS, Act::Refuse(Error::SessionExpired));
    fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
    assert_eq!(fetcher.flush(&mut patience()), Err(Error::SessionExpired));
    assert_eq!(fetcher.events(&mut patience()).unwrap(), [Event::SessionLost]);
    fetcher.close(&mut patience()).unwrap();
}

/// Also of an end that is no loss of the session, and of one that came before. Nobody is to ask in a circle.
#[test]
fn whoever_waits_for_events_is_told_of_the_end() {
    let (spy, fetcher, one) = spied();
    let waits = fetcher.clone();
    let waiting = std::thread::spawn(move || waits.events(&mut patience()));
    let denied = Error::Denied { principal: "ann".into(), capability: "work:mail".into() };
    spy.next(op::FINISH, Act::Refuse(denied.clone()));
    fetcher.finish(done(&one), &mut patience()).unwrap();
    assert_eq!(waiting.join().unwrap(), Err(denied.clone()));
    assert_eq!(fetcher.events(&mut patience()), Err(denied));
    fetcher.close(&mut patience()).unwrap();
}

/// A command has a bound, in items and in bytes. One that is too large is refused, which would end the session.
#[test]
fn many_and_large_notes_are_sent_in_several_commands() {
    for (count, bytes) in [(limits::BATCH_JOBS_MAX * 2 + 1, 1), (200, limits::STATE_BYTES_MAX)] {
        let (spy, fetcher, one) = spied();
        spy.next(op::PROGRESS, Act::Keep);
        fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
        spy.until_held(1);
        for _ in 0..count {
            fetcher.progress(note(&one, &vec![0; bytes]), &mut patience()).unwrap();
        }
        fetcher.finish(done(&one), &mut patience()).unwrap();
        spy.release(0);
        assert_eq!(fetcher.flush(&mut patience()), Ok(true), "{count} notes of {bytes} bytes");
        assert_eq!(fetcher.events(&mut patience_now()).unwrap(), [], "no lease was lost");
        let sent = spy.sent(op::PROGRESS);
        assert!(sent.len() > 2);
        assert_eq!(spy.sent(op::FINISH).len(), 1);
        fetcher.close(&mut patience()).unwrap();
    }
}

fn patience_now() -> raftwork::client::patience::Patience<'static> {
    raftwork::client::patience::Patience::after(Some(Duration::ZERO))
}

/// The answer to a claim is lost, so nobody knows what this session holds. A lease that nobody knows would live for ever.
#[test]
fn jobs_of_a_claim_whose_answer_is_unknown_do_not_stay_leased() {
    let spy = Spy::new();
    let client = spy.session("client", true);
    client.submit(&enqueue(&[job(1)]), &mut patience()).unwrap();
    spy.next(op::CLAIM, Act::Lose(Error::Unknown("the node lost track".into())));
    let session = spy.session("worker", false);
    let id = session.id(&mut patience()).unwrap();
    let first = Fetcher::open(spy.clone(), session, wish(), &mut patience()).unwrap();
    assert_eq!(first.next(&mut patience()), Err(Error::SessionExpired));
    assert_eq!(first.events(&mut patience()).unwrap(), [Event::SessionLost]);
    first.close(&mut patience()).unwrap();
    let again = Fetcher::open(spy.clone(), spy.session("worker", false), wish(), &mut patience()).unwrap();
    let one = again.next(&mut patience()).unwrap().expect("the job is free for another session");
    let report = Command::Finish(vec![(parts(&one).0, parts(&one).1, End::Succeeded(None))]);
    client.submit(&report.encode(), &mut patience()).unwrap();
    assert_ne!(again.session(), id);
}
