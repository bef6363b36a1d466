//! What clients asked and were told, and the log that the nodes applied, written down outside of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::codec::Reader;
use raftwork::base::JobId;
use raftwork::machine::Machine;

use crate::clients::Asked;
use crate::flows;
use crate::history::{self, Act, Answer, Consistency, Finished, NewJob, Operation, NEVER};
use crate::model::{Lease, Reply};
use crate::wire::flows::Batch;
use crate::wire::schedules::Recur;
use crate::wire::{self, Command, End, Job, Own, Spec};
use crate::Micros;

/// An answer as a client got it.
#[derive(Debug)]
pub struct Told {
    pub request: Vec<u8>,
    pub index: u64,
    pub reply: Reply,
}

/// What became of a request.
pub enum Fate<'a> {
    /// Applied at this index, with this payload.
    Done(u64, &'a [u8]),
    /// The session had ended at this index.
    SessionExpired(u64),
    /// Refused at this index, for this reason.
    Refused(u64, &'static str),
    /// Nothing was applied, and it is not sent again.
    NotCommitted,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Record {
    pub now: Micros,
    pub operations: Vec<Operation>,
    pub told: Vec<Told>,
    /// Requests by their bytes.
    pub sent: BTreeMap<Vec<u8>, Command>,
    /// Requests that must never be in the log (D2).
    pub refused: BTreeSet<Vec<u8>>,
    /// Jobs and batches that somebody asked for, and whether there are batches among them.
    jobs: Vec<JobId>,
    batches: bool,
    /// Jobs that somebody asked to move in line, and queues that somebody asked to limit.
    moved: BTreeSet<JobId>,
    limited: BTreeSet<String>,
}

/// Processes of a history that are nodes, and those that are clients which read beside their requests.
const NODES: u64 = 1_000;
const READERS: u64 = 2_000;

impl Record {
    /// A client is about to send a request for the first time.
    pub fn asks(&mut self, request: &[u8], command: &Command) {
        if let Command::Enqueue { jobs, .. } = command {
            self.jobs.extend(jobs.iter().map(|job| job.id));
        }
        if let Command::Batch(Batch::Open(id, ..)) = command {
            self.jobs.push(*id);
            self.batches = true;
        }
        if let Command::Move(ids, _) | Command::SetPriority(ids, _) = command {
            self.moved.extend(ids);
        }
        if let Command::LimitQueue(queue, _) = command {
            self.limited.insert(queue.clone());
        }
        // A sequence that was refused is used again.
        self.refused.remove(request);
        self.sent.insert(request.to_owned(), command.clone());
    }

    pub fn learns(&mut self, process: usize, asked: &Asked, fate: &Fate<'_>) {
        self.tells(asked, fate);
        let Some(act) = act(&asked.command) else { return };
        let (ended, index, answer) = match fate {
            Fate::Done(index, payload) => (self.now, Some(*index), answer(&reply(&asked.command, payload))),
            Fate::SessionExpired(index) => (self.now, Some(*index), Answer::SessionExpired),
            Fate::Refused(index, code) => (self.now, Some(*index), Answer::Refused((*code).into())),
            Fate::NotCommitted => (self.now, None, Answer::NotCommitted),
            Fate::Unknown => (NEVER, None, Answer::Unknown),
        };
        let operation = Operation {
            process: process as u64,
            began: asked.began,
            ended,
            request: asked.request,
            act,
            index,
            answer,
        };
        // Without a session, each attempt may have had an effect of its own.
        let again = if asked.request.is_none() { asked.attempts.saturating_sub(1) } else { 0 };
        for _ in 0..again {
            self.operations.push(Operation { ended: NEVER, index: None, answer: Answer::Unknown, ..operation.clone() });
        }
        self.operations.push(operation);
    }

    /// What the log must show of it.
    fn tells(&mut self, asked: &Asked, fate: &Fate<'_>) {
        let (index, reply) = match fate {
            Fate::Done(index, payload) => (*index, reply(&asked.command, payload)),
            Fate::SessionExpired(index) => (*index, Reply::Refused("session_expired")),
            Fate::Refused(index, code) => (*index, Reply::Refused(code)),
            Fate::NotCommitted if asked.request.is_some() => {
                self.refused.insert(asked.bytes.clone());
                return;
            }
            Fate::NotCommitted | Fate::Unknown => return,
        };
        self.told.push(Told { request: asked.bytes.clone(), index, reply });
    }

    /// Writes into the history what moves a job in line, and that a queue may hold it back, as a rate may.
    pub fn marks_changes(&mut self) {
        let enqueued = self.operations.iter_mut().filter_map(|operation| match &mut operation.act {
            Act::Enqueue(jobs) => Some(jobs),
            _ => None,
        });
        for job in enqueued.flatten() {
            job.moves = self.moved.contains(&job.id);
            let key = format!("queue {}", job.queue);
            let limited = self.limited.contains(&job.queue);
            job.limits.extend(limited.then_some(history::Limit { rate: true, key, n: 1 }));
        }
    }

    /// Looks at one job of a node, as of the newest entry that it applied.
    pub fn glimpses(&mut self, node: usize, number: u64, machine: &Machine) {
        self.looks(NODES + node as u64, self.now, Consistency::Local, number, machine);
    }

    /// A client's read of the newest state, begun some time ago, sees this.
    pub fn reads_one(&mut self, client: usize, began: Micros, number: u64, machine: &Machine) {
        self.looks(READERS + client as u64, began, Consistency::Linearizable, number, machine);
    }

    fn looks(&mut self, process: u64, began: Micros, consistency: Consistency, number: u64, machine: &Machine) {
        if !self.jobs.is_empty() {
            let job = self.jobs[number as usize % self.jobs.len()];
            self.reads(process, began, vec![job], consistency, machine);
        }
    }

    /// Looks at all jobs of a node that has caught up.
    pub fn reads_all(&mut self, node: usize, machine: &Machine) {
        self.now += 2;
        self.reads(NODES + node as u64, self.now, self.jobs.clone(), Consistency::Linearizable, machine);
    }

    fn reads(&mut self, process: u64, began: Micros, jobs: Vec<JobId>, consistency: Consistency, machine: &Machine) {
        let batches = if self.batches { flows::batches(machine) } else { BTreeMap::new() };
        // Of those that are in the archive, nobody knows here in which state they were.
        let jobs: Vec<JobId> = match machine.evicted_upto() {
            0 => jobs,
            _ => jobs.into_iter().filter(|id| machine.job(*id).is_some() || batches.contains_key(id)).collect(),
        };
        let job = |id: &JobId| machine.job(*id).map(|(job, _)| job.state.name().to_owned());
        let state = |id: &JobId| job(id).or_else(|| batches.get(id).cloned());
        let answer = Answer::States(jobs.iter().map(state).collect());
        let (act, index) = (Act::Read { jobs, consistency }, Some(machine.applied().0));
        self.operations.push(Operation { process, began, ended: self.now, request: None, act, index, answer });
    }
}

/// A command as a history writes it; nothing if histories do not know it.
pub fn act(command: &Command) -> Option<Act> {
    Some(match command {
        Command::Open { .. } => Act::Open,
        Command::Close(session) => Act::Close(*session),
        Command::Expire(session) => Act::Expire(*session),
        Command::Enqueue { specs, jobs } => {
            Act::Enqueue(jobs.iter().map(|job| new_job(job, &specs[job.spec as usize])).collect())
        }
        Command::Claim { session, queues, max, .. } => {
            let queues = queues.iter().map(|(name, _)| name.clone()).collect();
            Act::Claim { session: *session, queues, max: *max }
        }
        Command::Finish(results) => Act::Finish(results.iter().map(finished).collect()),
        Command::Cancel { ids, .. } => Act::Cancel(ids.clone()),
        Command::Requeue(ids) => Act::Requeue(ids.clone()),
        Command::Delete(ids) => Act::Delete(ids.clone()),
        Command::Batch(Batch::Open(id, _, outer)) => Act::OpenBatch(*id, *outer),
        Command::Batch(Batch::Seal(id)) => Act::SealBatch(*id),
        Command::Batch(Batch::Cancel(id, _)) => Act::CancelBatch(*id),
        _ => return None,
    })
}

fn new_job(job: &Job, spec: &Spec) -> NewJob {
    NewJob {
        id: job.id,
        delay: job.delay,
        queue: spec.queue.clone(),
        priority: spec.priority,
        max_attempts: spec.max_attempts,
        max_crashes: spec.max_crashes,
        crash_delay: spec.crash_delay,
        expires: spec.expires.is_some(),
        parents: job.parents.iter().map(|(parent, on, _)| (*parent, *on)).collect(),
        batch: job.batch,
        unique: job.unique.clone(),
        replaces: spec.unique_mode == 1,
        limits: job.limits.iter().map(limit).collect(),
        moves: false,
    }
}

fn limit(limit: &wire::Limit) -> history::Limit {
    history::Limit { rate: limit.is_rate(), key: limit.key.clone(), n: limit.n }
}

fn finished((job, token, end): &(JobId, u64, End)) -> Finished {
    let (end, delay) = match end {
        End::Succeeded(_) => (history::End::Succeeded, 0),
        End::Retry(delay, _) => (history::End::Retry, *delay),
        End::Failed(_) => (history::End::Failed, 0),
        End::Snooze(delay, _) => (history::End::Snooze, *delay),
        End::Release => (history::End::Release, 0),
        End::Cancelled(_) => (history::End::Cancelled, 0),
        End::Crashed(_) => (history::End::Crashed, 0),
    };
    Finished { job: *job, token: *token, end, delay }
}

/// The payload of an answer.
pub fn reply(command: &Command, payload: &[u8]) -> Reply {
    let mut reader = Reader::new(payload);
    match command {
        Command::Open { .. } => Reply::Session(reader.u64().expect("a session")),
        Command::Enqueue { jobs, .. } => {
            let mut codes = vec![0; jobs.len()];
            let exceptions = reader.option(|reader| reader.array()).expect("exceptions, or nil").unwrap_or(0);
            for _ in 0..exceptions {
                reader.array_of(3, "an exception").expect("an exception");
                let position = reader.u64().expect("a position") as usize;
                codes[position] = reader.u64().expect("a code") as u8;
                reader.id().expect("an id");
            }
            Reply::Codes(codes)
        }
        Command::Claim { .. } => {
            let lease = |job: wire::claims::Claimed| Lease {
                job: job.id,
                token: job.token,
                attempt: job.attempt,
                crashes: job.crashes,
                outputs: job.outputs,
            };
            Reply::Leases(wire::claimed(payload).into_iter().map(lease).collect())
        }
        Command::Finish(_)
        | Command::Cancel { .. }
        | Command::Requeue(_)
        | Command::Delete(_)
        | Command::Move(..)
        | Command::SetPriority(..) => {
            let codes = reader.array().expect("one code for each item");
            Reply::Codes((0..codes).map(|_| reader.u64().expect("a code") as u8).collect())
        }
        Command::Recur(Recur::Fire(..)) => {
            reader.array_of(2, "what a firing did").expect("two items");
            let first = reader.u64().expect("a code") as u8;
            let jobs = reader.array().expect("codes");
            let jobs = (0..jobs).map(|_| reader.u64().expect("a code") as u8);
            Reply::Codes([first].into_iter().chain(jobs).collect())
        }
        Command::Recur(_) | Command::Batch(_) => Reply::Codes(vec![reader.u64().expect("a code") as u8]),
        Command::Own(Own::PutToken { .. } | Own::RevokeToken { .. }) => Reply::Items(reader.u64().expect("a number")),
        _ => Reply::Nothing,
    }
}

pub fn answer(reply: &Reply) -> Answer {
    match reply {
        Reply::Session(session) => Answer::Session(*session),
        Reply::Codes(codes) => Answer::Codes(codes.clone()),
        Reply::Leases(leases) => Answer::Leases(leases.clone()),
        Reply::Items(_) | Reply::Nothing => Answer::Done,
        Reply::Refused("session_expired") => Answer::SessionExpired,
        Reply::Refused(code) => Answer::Refused((*code).into()),
    }
}
