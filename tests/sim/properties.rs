//! The checker against the model: whatever the model did is accepted, and nothing that was spoilt afterwards.

use std::collections::BTreeMap;

use raftwork::base::JobId;

use crate::history::{self, Act, Answer, Consistency, Operation, NEVER};
use crate::linear;
use crate::model::{Head, Model, Reply};
use crate::random::Random;
use crate::record;
use crate::wire::flows::Batch;
use crate::wire::{Command, End, Job, Limit, Spec};

const HISTORIES: u64 = 400;

/// Parents, batch, unique key and limits.
type Ties = (Vec<(JobId, u64, bool)>, Option<JobId>, Option<String>, Vec<Limit>);

/// One process of a made-up history.
#[derive(Default)]
struct Process {
    free: u64,
    session: Option<u64>,
    held: Vec<(JobId, u64)>,
}

/// Makes histories that are legal by the way they are made: a model applies each request between its beginning and its end.
struct Maker {
    random: Random,
    model: Model,
    index: u64,
    time: u64,
    jobs: Vec<JobId>,
    processes: Vec<Process>,
    operations: Vec<Operation>,
    /// Jobs wait for each other, share keys and belong to batches.
    spans: bool,
    batches: Vec<JobId>,
    /// Per mille of requests whose fate the history does not know.
    unknown: u64,
}

impl Maker {
    fn history(seed: u64) -> Vec<Operation> {
        let mut random = Random::new(seed);
        let unknown = *random.pick(&[0, 0, 100, 300]);
        let processes = (0..random.between(2, 5)).map(|_| Process::default()).collect();
        let (model, index, time) = (Model::default(), 1, 1_000);
        let (jobs, operations) = (Vec::new(), Vec::new());
        let (spans, batches) = (random.chance(500), Vec::new());
        let mut maker = Maker { random, model, index, time, jobs, processes, operations, spans, batches, unknown };
        for _ in 0..maker.random.between(10, 120) {
            maker.step();
        }
        maker.time += 1_000;
        let all = maker.jobs.iter().chain(&maker.batches).copied().collect();
        maker.read(999, all, Consistency::Linearizable);
        maker.operations
    }

    fn step(&mut self) {
        self.time += self.random.between(1, 12);
        let process = self.random.below(self.processes.len() as u64) as usize;
        if self.processes[process].free >= self.time {
            return;
        }
        match self.random.below(20) {
            0 => self.by_itself(Command::Tick(100)),
            1 => {
                // The leader ends a session that it did not hear of.
                let Some(session) = self.processes[process].session else { return };
                self.by_itself(Command::Expire(session));
            }
            2..=4 if !self.jobs.is_empty() => {
                let job = *self.random.pick(&self.jobs);
                self.read(process, vec![job], Consistency::Session);
            }
            _ => {
                let command = self.command(process);
                self.ask(process, command);
            }
        }
    }

    fn by_itself(&mut self, command: Command) {
        self.index += 1;
        self.model.apply(self.index, self.time, Head::default(), &command);
    }

    fn read(&mut self, process: usize, jobs: Vec<JobId>, consistency: Consistency) {
        let batches = self.model.batches();
        let job = |id: &JobId| self.model.jobs.get(id).map(|job| job.state.name().to_owned());
        let state = |id: &JobId| job(id).or_else(|| batches.get(id).cloned());
        let answer = Answer::States(jobs.iter().map(state).collect());
        let act = Act::Read { jobs, consistency };
        self.note(process, act, Some(self.index), answer);
    }

    fn command(&mut self, process: usize) -> Command {
        let Some(session) = self.processes[process].session else {
            return Command::Open { ttl: 1, kind: "worker".into(), host: "h".into() };
        };
        let held = self.processes[process].held.clone();
        if self.spans && self.random.chance(120) {
            return self.batch();
        }
        match self.random.below(10) {
            0..=2 => self.enqueue(),
            3..=4 => Command::Claim {
                session,
                queues: vec![("default".into(), 1)],
                strict: true,
                functions: vec!["f".into()],
                max: self.random.between(1, 3),
            },
            5 if !self.jobs.is_empty() => {
                Command::Cancel { ids: vec![*self.random.pick(&self.jobs)], reason: String::new() }
            }
            6 if !self.jobs.is_empty() => Command::Requeue(vec![*self.random.pick(&self.jobs)]),
            _ if !held.is_empty() => {
                let (id, token) = *self.random.pick(&held);
                let end = match self.random.below(6) {
                    0 => End::Retry(self.random.below(20), "e".into()),
                    1 => End::Snooze(self.random.below(20), String::new()),
                    2 => End::Release,
                    3 => End::Crashed("e".into()),
                    _ => End::Succeeded(None),
                };
                Command::Finish(vec![(id, token, end)])
            }
            _ => self.enqueue(),
        }
    }

    fn enqueue(&mut self) -> Command {
        let jobs = (0..self.random.between(1, 3)).map(|_| {
            let id = crate::wire::id(&format!("j{}", self.jobs.len()));
            self.jobs.push(id);
            let (parents, batch, unique, limits) = self.ties();
            let ties = Job { parents, batch, unique, limits, ..Job::default() };
            Job { id, delay: if self.random.chance(200) { self.random.between(1, 50) } else { 0 }, ..ties }
        });
        let jobs = jobs.collect();
        let priority = self.random.below(2) as i64;
        let expires = self.random.chance(100).then_some(60);
        let unique_mode = self.random.below(2);
        Command::Enqueue { specs: vec![Spec { priority, expires, unique_mode, ..Spec::default() }], jobs }
    }

    /// What ties the newest job to others.
    fn ties(&mut self) -> Ties {
        if !self.spans {
            return Ties::default();
        }
        let mut parents = BTreeMap::new();
        for _ in 0..self.random.below(3) {
            let from = if self.random.chance(200) { &self.batches } else { &self.jobs[..self.jobs.len() - 1] };
            if !from.is_empty() {
                let parent = *self.random.pick(from);
                parents.insert(parent, self.random.below(3));
            }
        }
        let parents = parents.into_iter().map(|(parent, on)| (parent, on, false)).collect();
        let batch = (!self.batches.is_empty() && self.random.chance(300)).then(|| *self.random.pick(&self.batches));
        let unique = self.random.chance(150).then(|| format!("u{}", self.random.below(2)));
        (parents, batch, unique, self.limits())
    }

    /// At most one limit: of those that run, of those that start, or a key that takes turns.
    fn limits(&mut self) -> Vec<Limit> {
        if !self.random.chance(400) {
            return Vec::new();
        }
        let (key, n) = (format!("k{}", self.random.below(2)), self.random.between(1, 2));
        vec![match self.random.below(8) {
            0 => Limit { kind: 2, key, n, window: 30, burst: 0 },
            1 | 2 => Limit::fair(key),
            _ => Limit { kind: 0, key, n, window: 0, burst: 0 },
        }]
    }

    fn batch(&mut self) -> Command {
        let any = |maker: &mut Self| maker.random.pick(&maker.batches.clone()).to_owned();
        match self.random.below(5) {
            0 | 1 if !self.batches.is_empty() => Command::Batch(Batch::Seal(any(self))),
            2 if !self.batches.is_empty() => Command::Batch(Batch::Cancel(any(self), String::new())),
            3 if !self.jobs.is_empty() => Command::Delete(vec![*self.random.pick(&self.jobs)]),
            _ => {
                let outer = (!self.batches.is_empty() && self.random.chance(300)).then(|| any(self));
                let id = crate::wire::id(&format!("b{}", self.batches.len()));
                self.batches.push(id);
                Command::Batch(Batch::Open(id, "m".into(), outer))
            }
        }
    }

    /// Applies a request, or does not, and tells the truth about it, or nothing.
    fn ask(&mut self, process: usize, command: Command) {
        let act = record::act(&command).expect("a history knows it");
        let fate = self.random.below(1_000);
        if fate < self.unknown / 3 {
            let answer = if self.random.chance(500) { Answer::Unknown } else { Answer::NotCommitted };
            return self.note(process, act, None, answer);
        }
        self.index += self.random.between(1, 3);
        let (index, reply) = self.model.apply(self.index, self.time, Head::default(), &command);
        if fate < self.unknown {
            return self.note(process, act, None, Answer::Unknown);
        }
        let it = &mut self.processes[process];
        match &reply {
            Reply::Session(session) => it.session = Some(*session),
            Reply::Refused("session_expired") => it.session = None,
            Reply::Leases(leases) => it.held.extend(leases.iter().map(|lease| (lease.job, lease.token))),
            _ => {}
        }
        self.note(process, act, Some(index), record::answer(&reply));
    }

    /// It began some time ago, unless its process was busy, and its answer comes some time later.
    fn note(&mut self, process: usize, act: Act, index: Option<u64>, answer: Answer) {
        let free = self.processes.get(process).map_or(0, |it| it.free);
        let began = (self.time - self.random.below(40)).max(free + 1);
        let ended = self.time + self.random.below(40);
        if let Some(it) = self.processes.get_mut(process) {
            it.free = ended;
        }
        let ended = if answer == Answer::Unknown { NEVER } else { ended };
        self.operations.push(Operation { process: process as u64, began, ended, request: None, act, index, answer });
    }
}

#[test]
fn what_a_model_did_is_accepted() {
    let (mut operations, mut jobs, mut unknown) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let history = Maker::history(seed);
        let summary =
            linear::check(&history).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{}", history::print(&history)));
        operations += summary.operations;
        jobs += summary.jobs;
        unknown += summary.unknown;
    }
    println!("{HISTORIES} histories, {operations} operations on {jobs} jobs, {unknown} without an answer");
}

/// Spoils a history; nothing if there is nothing in it that could be spoilt like this.
type Spoil = fn(Vec<Operation>, &mut Random) -> Option<Vec<Operation>>;

const SPOILS: [(&str, Spoil); 9] = [
    ("an answer behind one that came before it began", late),
    ("an index that another request has", twice),
    ("a lease given twice", double_lease),
    ("a job that ended in another way", other_end),
    ("an end that was taken and is said to be late", lost_lease),
    ("a job that nobody enqueued", forget_enqueue),
    ("a refusal that was none", false_refusal),
    ("one attempt too many", miscount),
    ("a claim that gave less than it did", forget_lease),
];

#[test]
fn what_was_spoilt_is_refused() {
    for (title, spoil) in SPOILS {
        let mut spoilt = 0;
        for seed in 0..HISTORIES {
            if let Some(history) = spoil(Maker::history(seed), &mut Random::new(seed)) {
                spoilt += 1;
                let verdict = linear::check(&history);
                assert!(verdict.is_err(), "seed {seed}: {title} was accepted\n{}", history::print(&history));
            }
        }
        assert!(spoilt >= 20, "{title}: only {spoilt} histories could be spoilt");
        println!("{title}: {spoilt} histories");
    }
}

/// The positions of operations like this, in some order.
fn some(history: &[Operation], random: &mut Random, like: impl Fn(&Operation) -> bool) -> Option<usize> {
    let found: Vec<usize> = (0..history.len()).filter(|at| like(&history[*at])).collect();
    (!found.is_empty()).then(|| *random.pick(&found))
}

fn jobs_of(operation: &Operation) -> Vec<JobId> {
    match &operation.act {
        Act::Enqueue(jobs) => jobs.iter().map(|job| job.id).collect(),
        Act::Finish(results) => results.iter().map(|result| result.job).collect(),
        Act::Cancel(jobs) | Act::Requeue(jobs) | Act::Delete(jobs) => jobs.clone(),
        _ => Vec::new(),
    }
}

/// Whether the history tells the fate of all that may have touched a job.
fn is_plain(history: &[Operation], job: JobId) -> bool {
    let vague = |operation: &&Operation| matches!(operation.answer, Answer::Unknown | Answer::SessionExpired);
    let touches =
        |operation: &Operation| matches!(operation.act, Act::Claim { .. }) || jobs_of(operation).contains(&job);
    !history.iter().filter(vague).any(touches)
}

/// How a job ended, as the last read of all tells.
fn end_of(history: &[Operation], job: JobId) -> Option<&str> {
    let Operation { act: Act::Read { jobs, .. }, answer: Answer::States(states), .. } = history.last()? else {
        return None;
    };
    states[jobs.iter().position(|other| *other == job)?].as_deref()
}

fn late(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let last = history.iter().filter_map(|operation| operation.index).max()?;
    let newest = history.iter().filter(|operation| operation.act.is_write() && operation.index.is_some());
    let newest = newest.map(|operation| operation.began).max()?;
    let is_early = |operation: &Operation| operation.index.is_some() && operation.ended < newest;
    let at = some(&history, random, is_early)?;
    history[at].index = Some(last + 1);
    Some(history)
}

fn twice(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let is_written = |operation: &Operation| operation.index.is_some() && operation.act.is_write();
    let (one, other) = (some(&history, random, is_written)?, some(&history, random, is_written)?);
    history[one].index = history[other].index;
    (one != other).then_some(history)
}

fn double_lease(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let gave = |operation: &Operation| matches!(&operation.answer, Answer::Leases(leases) if !leases.is_empty());
    let mut again = history[some(&history, random, gave)?].clone();
    let last = history.last()?;
    (again.process, again.began, again.ended) = (998, last.ended + 1, last.ended + 2);
    again.index = last.index.map(|index| index + 10);
    history.push(again);
    Some(history)
}

fn other_end(mut history: Vec<Operation>, _: &mut Random) -> Option<Vec<Operation>> {
    let Act::Read { jobs, .. } = history.last()?.act.clone() else { return None };
    let wrong = |job: &JobId| end_of(&history, *job) == Some("succeeded") && is_plain(&history, *job);
    let at = jobs.iter().position(wrong)?;
    let Answer::States(states) = &mut history.last_mut()?.answer else { return None };
    states[at] = Some("cancelled".into());
    Some(history)
}

fn lost_lease(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let taken = |operation: &Operation| match &operation.act {
        Act::Finish(results) => {
            let done = results[0].end == history::End::Succeeded && operation.answer == Answer::Codes(vec![0]);
            let job = results[0].job;
            let ends =
                history.iter().filter(|other| matches!(other.act, Act::Finish(_)) && jobs_of(other).contains(&job));
            done && is_plain(&history, job) && end_of(&history, job) == Some("succeeded") && ends.count() == 1
        }
        _ => false,
    };
    let at = some(&history, random, taken)?;
    history[at].answer = Answer::Codes(vec![1]);
    Some(history)
}

fn enqueue_of_a_seen_job(history: &[Operation], random: &mut Random) -> Option<usize> {
    some(history, random, |operation| {
        let made = matches!(operation.act, Act::Enqueue(_)) && operation.index.is_some();
        made && jobs_of(operation).iter().any(|job| end_of(history, *job).is_some())
    })
}

fn forget_enqueue(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let at = enqueue_of_a_seen_job(&history, random)?;
    history.remove(at);
    Some(history)
}

fn false_refusal(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let at = enqueue_of_a_seen_job(&history, random)?;
    (history[at].answer, history[at].index) = (Answer::NotCommitted, None);
    Some(history)
}

fn miscount(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let gave = |operation: &Operation| match &operation.answer {
        Answer::Leases(leases) => leases.first().is_some_and(|lease| is_plain(&history, lease.job)),
        _ => false,
    };
    let at = some(&history, random, gave)?;
    let Answer::Leases(leases) = &mut history[at].answer else { return None };
    leases[0].attempt += 1;
    Some(history)
}

fn forget_lease(mut history: Vec<Operation>, random: &mut Random) -> Option<Vec<Operation>> {
    let ended = |token: u64| {
        history.iter().any(|operation| match &operation.act {
            Act::Finish(results) => results[0].token == token && operation.answer == Answer::Codes(vec![0]),
            _ => false,
        })
    };
    let gave = |operation: &Operation| match &operation.answer {
        Answer::Leases(leases) => leases.first().is_some_and(|lease| ended(lease.token)),
        _ => false,
    };
    let at = some(&history, random, gave)?;
    let Answer::Leases(leases) = &mut history[at].answer else { return None };
    leases.remove(0);
    Some(history)
}
