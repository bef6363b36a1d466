//! The reference model: the rules about jobs once more, written apart from `src/machine` and as plainly as they can be
//! said. Every job is found by looking at all of them; nothing is kept that follows from something else.
//!
//! It knows what the simulated clients ask for, and what nodes ask for by themselves.

use std::collections::BTreeMap;

use raftwork::base::JobId;
use raftwork::machine::settled_max;

use crate::wire::{Command, End, Limit, Own, Spec};

mod flows;
mod limits;
mod operators;
mod restore;
mod schedules;
mod unique;
pub use limits::Rate;
pub use schedules::Schedule;
use unique::REPLACE;

/// One job handed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub job: JobId,
    pub token: u64,
    pub attempt: u64,
    pub crashes: u64,
    /// Results of parents that it uses, by the place of the parent.
    pub outputs: Vec<(u64, Option<Vec<u8>>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Session(u64),
    Codes(Vec<u8>),
    Leases(Vec<Lease>),
    Items(u64),
    Nothing,
    Refused(&'static str),
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Awaiting,
    Scheduled,
    Enqueued,
    Processing { session: u64, token: u64 },
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
}

use State::*;

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            Awaiting => "awaiting",
            Scheduled => "scheduled",
            Enqueued => "enqueued",
            Processing { .. } => "processing",
            Retrying => "retrying",
            Succeeded => "succeeded",
            Failed => "failed",
            Cancelled => "cancelled",
        }
    }

    fn waits(&self) -> bool {
        matches!(self, Scheduled | Enqueued | Retrying)
    }

    pub fn is_final(&self) -> bool {
        matches!(self, Succeeded | Failed | Cancelled)
    }
}

#[derive(Clone, Debug)]
pub struct Job {
    pub spec: Spec,
    pub state: State,
    /// When it is due, if it waits for its time.
    due: u64,
    /// Waiting, it is cancelled at this time.
    deadline: Option<u64>,
    /// Counts all moves of all jobs: who moved earlier stands before.
    moved: u64,
    pub attempt: u64,
    pub crashes: u64,
    pub generation: u64,
    told_to_stop: bool,
    /// Its number among the jobs that finished.
    ordinal: u64,
    limits: Vec<Limit>,
    unique: Option<String>,
    flow: Option<flows::Flow>,
    result: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    acked: u64,
    replies: BTreeMap<u64, (u64, Reply)>,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub name: String,
    pub expires: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<JobId, Job>,
    /// By their secrets.
    pub tokens: BTreeMap<String, Token>,
    pub schedules: BTreeMap<String, Schedule>,
    /// The schedule and slot of each job that ever came from one.
    pub recurrences: BTreeMap<JobId, (String, Option<u64>)>,
    /// The greatest generation of a schedule that is gone.
    retired: u64,
    /// How many jobs of a key may run at once, and the starts of others.
    concurrency: BTreeMap<String, u64>,
    rates: BTreeMap<String, Rate>,
    /// The last start of a job of each key that takes turns, counted with the moves.
    turns: BTreeMap<String, u64>,
    /// How many jobs of a queue may run at once.
    queue_limits: BTreeMap<String, u64>,
    /// Who has a unique key with a window, and until when.
    windows: BTreeMap<String, (JobId, u64)>,
    flows: flows::Flows,
    /// The feature level: whether a command that raises it is refused.
    level: u64,
    sessions: BTreeMap<u64, Session>,
    clock: u64,
    moves: u64,
    token: u64,
    ordinal: u64,
}

/// Items of one tick or eviction, at most.
const ITEMS_MAX: u64 = 1_000;

/// What makes a request one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    pub session: u64,
    pub sequence: u64,
    pub acked: u64,
}

impl Model {
    /// Applies an entry and tells the index and the reply of its answer: those of the first time, if it is a repetition.
    pub fn apply(&mut self, index: u64, now: u64, head: Head, command: &Command) -> (u64, Reply) {
        self.clock = self.clock.max(now);
        if head.session > 0 {
            let Some(session) = self.sessions.get_mut(&head.session) else {
                return (index, Reply::Refused("session_expired"));
            };
            session.acked = session.acked.max(head.acked);
            if head.sequence <= session.acked {
                return (index, Reply::Refused("stale_sequence"));
            }
            if let Some(first) = session.replies.get(&head.sequence) {
                return first.clone();
            }
        }
        let reply = (index, self.verb(index, command));
        if !matches!(reply.1, Reply::Refused(_)) && !matches!(command, Command::Tick(_)) {
            self.settle(settled_max() as u64);
        }
        if let Some(session) = self.sessions.get_mut(&head.session) {
            session.replies.insert(head.sequence, reply.clone());
        }
        reply
    }

    fn verb(&mut self, index: u64, command: &Command) -> Reply {
        match command {
            Command::Open { .. } => {
                self.sessions.insert(index, Session::default());
                Reply::Session(index)
            }
            Command::Close(session) => self.end_session(*session, &End::Release),
            Command::Expire(session) => self.end_session(*session, &End::Crashed("lost".into())),
            Command::Enqueue { specs, jobs } => match self.conflicts(specs, jobs).or_else(|| self.refuses(jobs)) {
                Some(refusal) => Reply::Refused(refusal),
                None => Reply::Codes(self.enqueue(specs, jobs)),
            },
            Command::Claim { session, queues, functions, max, .. } => {
                if !self.sessions.contains_key(session) {
                    return Reply::Refused("session_expired");
                }
                self.expire();
                let queues: Vec<&str> = queues.iter().map(|(name, _)| name.as_str()).collect();
                let next = |_| self.lease(index, *session, &queues, functions);
                Reply::Leases((0..*max).map_while(next).collect())
            }
            Command::Finish(results) => {
                Reply::Codes(results.iter().map(|(id, token, end)| self.finish(*id, *token, end)).collect())
            }
            Command::Cancel { ids, .. } => Reply::Codes(ids.iter().map(|id| self.cancel(*id)).collect()),
            Command::Requeue(ids) => Reply::Codes(ids.iter().map(|id| self.requeue(*id)).collect()),
            Command::Delete(ids) => Reply::Codes(ids.iter().map(|id| self.delete(*id)).collect()),
            Command::Restore(records) => Reply::Codes(records.iter().map(|record| self.restore(record)).collect()),
            Command::Batch(batch) => self.batch(batch),
            Command::Move(ids, queue) => Reply::Codes(ids.iter().map(|id| self.put_queue(*id, queue)).collect()),
            Command::SetPriority(ids, priority) => {
                Reply::Codes(ids.iter().map(|id| self.put_priority(*id, *priority)).collect())
            }
            Command::Tick(items) => Reply::Items(self.tick((*items).min(ITEMS_MAX))),
            Command::Evict(ordinal) => {
                let leaves = |job: &Job| job.state.is_final() && job.ordinal <= *ordinal;
                let leaving = self.jobs.iter().filter(|(_, job)| leaves(job)).map(|(id, job)| (job.ordinal, *id));
                // The oldest first. No job here has so many parents that it counts for two items.
                let leaving: BTreeMap<u64, JobId> = leaving.collect();
                let gone = leaving.into_values().take(ITEMS_MAX as usize);
                Reply::Items(gone.filter_map(|id| self.jobs.remove(&id)).count() as u64)
            }
            Command::Own(Own::PutToken { name, secret, expires, overlap, .. }) => {
                self.put_token(secret, Token { name: name.clone(), expires: *expires }, *overlap)
            }
            Command::Own(Own::RevokeToken { which, .. }) => {
                let before = self.tokens.len();
                self.tokens.retain(|secret, token| token.name != *which && crate::tokens::id(secret) != *which);
                Reply::Items((before - self.tokens.len()) as u64)
            }
            Command::Own(Own::SetLevel(level)) if *level < self.level => Reply::Refused("feature_level"),
            Command::Own(Own::SetLevel(level)) => {
                self.level = *level;
                Reply::Nothing
            }
            // About the cluster itself, not about jobs.
            Command::Own(_) => Reply::Nothing,
            Command::Recur(recur) => self.recur(recur),
            Command::LimitQueue(queue, limit) => {
                self.queue_limits.remove(queue);
                self.queue_limits.extend(limit.map(|limit| (queue.clone(), limit)));
                Reply::Nothing
            }
            // Told by `locks` apart.
            Command::Lock(..) | Command::Acquire(..) | Command::Unlock(..) | Command::GiveUp(_) => Reply::Nothing,
            other => panic!("the model does not know {other:?}"),
        }
    }

    fn tick(&mut self, items: u64) -> u64 {
        let mut done = self.settle(items.min(settled_max() as u64));
        for one in [Self::expire_one, Self::promote_one, Self::forget_batch, Self::wake_one, Self::forget_window] {
            done += (done..items).take_while(|_| one(self)).count() as u64;
        }
        done + self.settle((items - done).min(settled_max() as u64))
    }

    fn put_token(&mut self, secret: &str, token: Token, overlap: Option<u64>) -> Reply {
        let clock = self.clock;
        self.tokens.retain(|_, token| token.expires.is_none_or(|expires| expires > clock));
        let mut ended = 0;
        if let Some(end) = overlap.map(|overlap| clock + overlap) {
            let lasts = |other: &&mut Token| other.name == token.name && other.expires.is_none_or(|at| at > end);
            for older in self.tokens.values_mut().filter(lasts) {
                (older.expires, ended) = (Some(end), ended + 1);
            }
        }
        self.tokens.insert(secret.to_owned(), token);
        Reply::Items(ended)
    }

    fn enqueue(&mut self, specs: &[Spec], jobs: &[crate::wire::Job]) -> Vec<u8> {
        let mut holders = BTreeMap::new();
        let mut codes = Vec::with_capacity(jobs.len());
        self.flows.fill(jobs);
        for job in jobs {
            let spec = &specs[job.spec as usize];
            let holder =
                job.unique.as_ref().filter(|_| !self.jobs.contains_key(&job.id)).and_then(|key| self.holder(key));
            let waits = |state: &State| state.waits() || *state == Awaiting;
            codes.push(match holder {
                None => self.create(spec, job, &holders),
                Some(holder)
                    if spec.unique_mode == REPLACE && self.jobs.get(&holder).is_some_and(|job| waits(&job.state)) =>
                {
                    self.move_to(holder, Cancelled);
                    self.create(spec, job, &holders);
                    3
                }
                Some(holder) => {
                    holders.insert(job.id, holder);
                    2
                }
            });
        }
        for batch in std::mem::take(&mut self.flows.filling) {
            self.change(batch, |_| ());
        }
        codes
    }

    /// `holders`: jobs of the same command that were not stored, and who has their keys.
    fn create(&mut self, spec: &Spec, new: &crate::wire::Job, holders: &BTreeMap<JobId, JobId>) -> u8 {
        if self.jobs.contains_key(&new.id) {
            return 1;
        }
        let flow = self.join(new, holders);
        let awaits = flow.as_ref().is_some_and(|flow| !flow.edges.is_empty());
        let batch = flow.as_ref().and_then(|flow| flow.batch);
        let due = new.run_at.unwrap_or(self.clock + new.delay).max(self.clock);
        let later = if due > self.clock { Scheduled } else { Enqueued };
        let job = Job {
            spec: spec.clone(),
            state: if awaits { Awaiting } else { later },
            due,
            deadline: spec.expires.filter(|_| !awaits).map(|span| due + span),
            moved: self.next_move(),
            attempt: 0,
            crashes: 0,
            generation: 0,
            told_to_stop: false,
            ordinal: 0,
            limits: new.limits.clone(),
            unique: new.unique.clone(),
            flow,
            result: None,
        };
        self.jobs.insert(new.id, job);
        self.open_window(new.id);
        self.hold(new.id, true);
        batch.into_iter().for_each(|batch| self.change(batch, |_| ()));
        self.catch_up(new.id);
        0
    }

    fn next_move(&mut self) -> u64 {
        self.moves += 1;
        self.moves
    }

    fn move_to(&mut self, id: JobId, state: State) {
        let moved = self.next_move();
        self.ordinal += u64::from(state.is_final());
        let (ends, job) = (state.is_final(), self.jobs.get_mut(&id).expect("whoever moves a job has looked for it"));
        let (waited, again) = (job.state == Awaiting, job.state.is_final());
        (job.state, job.moved, job.ordinal) = (state, moved, self.ordinal);
        if again {
            self.hold(id, false);
        }
        if ends {
            self.let_go(id);
        }
        if ends && waited && self.jobs[&id].flow.as_ref().is_some_and(|flow| flow.count(flows::Standing::Unmet) == 0) {
            self.void(id, flows::Standing::Open); // It was not cancelled for a parent, so none brings it back.
        }
        if ends != again {
            self.turned(id);
        }
    }

    /// The first job of the first queue that has one: by priority, then by whose turn it is, then by who waits longest.
    fn lease(&mut self, index: u64, session: u64, queues: &[&str], functions: &[String]) -> Option<Lease> {
        let place = |job: &Job| {
            let queue = queues.iter().position(|queue| **queue == job.spec.queue)?;
            let place = (queue, -job.spec.priority, self.turn(job), job.moved);
            functions.contains(&job.spec.function).then_some(place)
        };
        let open: Vec<&str> = queues.iter().copied().filter(|queue| self.queue_has_room(queue)).collect();
        let waiting = self.jobs.iter().filter(|(_, job)| job.state == Enqueued && open.contains(&&*job.spec.queue));
        let waiting = waiting.filter(|(_, job)| !self.is_held_back(job));
        let ready = waiting.filter_map(|(id, job)| Some((place(job)?, *id)));
        let id = ready.min()?.1;
        self.token = (self.token + 1).max(index);
        let token = self.token;
        self.move_to(id, Processing { session, token });
        self.starts(id);
        let job = self.jobs.get_mut(&id)?;
        job.attempt += 1;
        let outputs = job.flow.as_ref().map_or(Vec::new(), |flow| flow.outputs.clone());
        Some(Lease { job: id, token, attempt: job.attempt, crashes: job.crashes, outputs })
    }

    fn finish(&mut self, id: JobId, token: u64, end: &End) -> u8 {
        match self.jobs.get(&id).map(|job| &job.state) {
            None => 2,
            Some(Processing { token: held, .. }) if *held == token => {
                self.end_run(id, end);
                0
            }
            Some(_) => 1,
        }
    }

    fn end_run(&mut self, id: JobId, end: &End) {
        let clock = self.clock;
        let job = self.jobs.get_mut(&id).expect("whoever ends a run has looked for its job");
        if matches!(end, End::Snooze(..) | End::Release | End::Crashed(_)) {
            job.attempt -= 1; // Nothing was tried.
        }
        let later = |delay: u64, state: State| if delay > 0 { state } else { Enqueued };
        let next = match end {
            End::Succeeded(_) => Succeeded,
            End::Failed(_) => Failed,
            End::Cancelled(_) => Cancelled,
            End::Release => Enqueued,
            End::Snooze(delay, _) => later(*delay, Scheduled),
            End::Retry(..) if job.attempt >= job.spec.max_attempts => Failed,
            End::Retry(delay, _) => later(*delay, Retrying),
            End::Crashed(_) => {
                job.crashes += 1;
                if job.crashes >= job.spec.max_crashes {
                    Failed
                } else {
                    later(job.spec.crash_delay, Retrying)
                }
            }
        };
        if let End::Succeeded(result) = end {
            job.result = result.clone();
        }
        job.due = clock
            + match end {
                End::Snooze(delay, _) | End::Retry(delay, _) => *delay,
                _ => job.spec.crash_delay,
            };
        let next = if job.told_to_stop && next.waits() { Cancelled } else { next };
        self.move_to(id, next);
    }

    fn end_session(&mut self, session: u64, end: &End) -> Reply {
        if self.sessions.remove(&session).is_none() {
            return Reply::Refused("session_expired");
        }
        let token = |job: &Job| match job.state {
            Processing { session: holder, token } if holder == session => Some(token),
            _ => None,
        };
        let held: BTreeMap<u64, JobId> = self.jobs.iter().filter_map(|(id, job)| Some((token(job)?, *id))).collect();
        held.into_values().for_each(|id| self.end_run(id, end));
        Reply::Nothing
    }

    fn expire(&mut self) {
        while self.expire_one() {}
    }

    fn expire_one(&mut self) -> bool {
        let late = self.jobs.iter().filter(|(_, job)| job.state.waits());
        let late = late.filter_map(|(id, job)| Some((job.deadline?, *id))).min();
        let Some((_, id)) = late.filter(|(deadline, _)| *deadline <= self.clock) else { return false };
        self.move_to(id, Cancelled);
        true
    }

    fn promote_one(&mut self) -> bool {
        let waiting = self.jobs.iter().filter(|(_, job)| matches!(job.state, Scheduled | Retrying));
        let first = waiting.map(|(id, job)| (job.due, job.moved, *id)).min();
        let Some((_, _, id)) = first.filter(|(due, _, _)| *due <= self.clock) else { return false };
        self.move_to(id, Enqueued);
        true
    }
}
