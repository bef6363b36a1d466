//! The state machine once more, as simply as it can be said: one list of jobs, searched from the front for everything.
//! Written from the promises, not from the code that it is compared with.

use crate::wire::{Command, End, Job, Limit, Reply, Spec};
use raftwork::base::codec::Writer;
use raftwork::base::JobId;
use raftwork::machine::Mode;

pub use limits::ModelRate;
pub use locks::ModelLock;
pub use schedules::ModelSchedule;

use errors::ModelErrors;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelJob {
    pub id: JobId,
    pub spec: Spec,
    pub args: Vec<u8>,
    pub state: &'static str,
    pub attempt: u64,
    pub crashes: u64,
    pub generation: u64,
    pub created: u64,
    pub due: Option<u64>,
    pub enqueued: Option<u64>,
    pub started: Option<u64>,
    pub finished: Option<u64>,
    pub expires: Option<u64>,
    pub unique: Option<String>,
    /// Place in the order of beginning to wait, of finishing, or the token of the lease.
    pub place: u64,
    pub session: u64,
    pub cancel_requested: bool,
    pub result: Option<Vec<u8>>,
    pub error: Option<String>,
    pub reason: Option<String>,
    pub progress: Option<Vec<u8>>,
    pub saved: Option<Vec<u8>>,
    pub runs: Vec<(u64, &'static str, Option<String>)>,
    /// The schedule that it comes from, and the slot.
    pub schedule: Option<(String, Option<u64>)>,
    pub limits: Vec<Limit>,
}

impl ModelJob {
    pub fn is_final(&self) -> bool {
        matches!(self.state, "succeeded" | "failed" | "cancelled")
    }

    pub fn waits(&self) -> bool {
        matches!(self.state, "scheduled" | "enqueued" | "retrying")
    }
}

#[derive(Default)]
pub struct ModelSession {
    pub id: u64,
    acked: u64,
    replies: Vec<(u64, u64, Reply)>,
    credits: Vec<(String, i64)>,
}

/// What the last command did.
#[derive(Debug, Default, PartialEq)]
pub struct Happened {
    pub ready: Vec<(String, usize)>,
    pub finished: Vec<JobId>,
    pub cancels: Vec<(u64, JobId, u64)>,
    pub lost: Vec<(u64, JobId, u64)>,
    pub granted: Vec<(u64, u64, u64)>,
    pub closed: Vec<u64>,
}

#[derive(Default)]
pub struct Model {
    index: u64,
    pub now: u64,
    token: u64,
    line: u64,
    pub ordinal: u64,
    pub jobs: Vec<ModelJob>,
    pub sessions: Vec<ModelSession>,
    /// Queues that were paused, with the end of the pause.
    pub pauses: Vec<(String, Option<u64>)>,
    pub windows: Vec<(String, JobId, u64)>,
    pub locks: Vec<ModelLock>,
    pub schedules: Vec<ModelSchedule>,
    errors: Vec<ModelErrors>,
    /// The limits of keys as the newest job said them, and the starts of those that are rates.
    pub limits: Vec<Limit>,
    pub rates: Vec<ModelRate>,
    /// Every start of a job whose key takes turns: the key, and the place in the order of waiting.
    turns: Vec<(String, u64)>,
    pub queue_limits: Vec<(String, u64)>,
    /// The greatest generation of a schedule that is gone.
    retired: u64,
    /// What `Restore` may bring back, by the record's bytes.
    pub records: Vec<(Vec<u8>, ModelJob)>,
    pub created: u64,
    pub deleted: u64,
    /// By final state.
    pub archived: Vec<(&'static str, u64)>,
    pub happened: Happened,
}

fn refused(code: &str) -> Reply {
    Err((code.into(), String::new(), Vec::new()))
}

fn number(value: u64) -> Reply {
    let mut w = Writer::new();
    w.u64(value);
    Ok(w.into_bytes())
}

fn codes(codes: &[u64]) -> Reply {
    let mut w = Writer::new();
    w.array(codes.len());
    for code in codes {
        w.u64(*code);
    }
    Ok(w.into_bytes())
}

impl Model {
    /// Index and content of the answer.
    pub fn apply(&mut self, now: u64, envelope: (u64, u64, u64), command: &Command) -> (u64, Reply) {
        self.index += 1;
        self.now = self.now.max(now);
        self.happened = Happened::default();
        let (session, sequence, acked) = envelope;
        if session == 0 {
            return (self.index, self.verb(command));
        }
        let Some(position) = self.sessions.iter().position(|open| open.id == session) else {
            return (self.index, refused("session_expired"));
        };
        let open = &mut self.sessions[position];
        open.acked = open.acked.max(acked);
        open.replies.retain(|(kept, _, _)| *kept > open.acked);
        if sequence <= open.acked {
            return (self.index, refused("stale_sequence"));
        }
        if let Some((_, index, reply)) = open.replies.iter().find(|(kept, _, _)| *kept == sequence) {
            return (*index, reply.clone());
        }
        let reply = match command {
            Command::Lock(number, name, waits) => self.acquire((session, *number), name, Mode::Lock, *waits),
            Command::Acquire(number, name, mode, waits) => self.acquire((session, *number), name, *mode, *waits),
            Command::Unlock(name, token) => self.unlock(session, name, *token),
            Command::GiveUp(number) => self.give_up((session, *number)),
            _ => self.verb(command),
        };
        if let Some(open) = self.sessions.iter_mut().find(|open| open.id == session) {
            open.replies.push((sequence, self.index, reply.clone()));
        }
        (self.index, reply)
    }

    fn verb(&mut self, command: &Command) -> Reply {
        match command {
            Command::Open { .. } => {
                self.sessions.push(ModelSession { id: self.index, ..Default::default() });
                number(self.index)
            }
            Command::Close(session) => self.end_session(*session, "released"),
            Command::Expire(session) => self.end_session(*session, "lost"),
            Command::Enqueue { specs, jobs } => self.enqueue(specs, jobs),
            Command::Claim { session, queues, strict, functions, max } => {
                self.claim(*session, queues, *strict, functions, *max)
            }
            Command::Finish(results) => {
                let one = |(id, token, end): &(JobId, u64, End)| self.finish(*id, *token, end);
                codes(&results.iter().map(one).collect::<Vec<_>>())
            }
            Command::Progress(notes) => codes(&notes.iter().map(|note| self.progress(note)).collect::<Vec<_>>()),
            Command::Cancel { ids, reason } => {
                codes(&ids.iter().map(|id| self.cancel(*id, reason)).collect::<Vec<_>>())
            }
            Command::Requeue(ids) => codes(&ids.iter().map(|id| self.requeue(*id)).collect::<Vec<_>>()),
            Command::Delete(ids) => codes(&ids.iter().map(|id| self.delete(*id)).collect::<Vec<_>>()),
            Command::Pause { queue, until, .. } => {
                self.pauses.retain(|(paused, _)| paused != queue);
                self.pauses.push((queue.clone(), *until));
                Ok(vec![0xc0])
            }
            Command::Resume(queue) => {
                self.end_pause(queue);
                Ok(vec![0xc0])
            }
            Command::Tick(items) => self.tick(*items),
            Command::Evict(ordinal) => self.evict(*ordinal),
            Command::Unlock(name, token) => self.unlock(0, name, *token),
            Command::Recur(recur) => self.recur(recur),
            Command::LimitQueue(queue, limit) => self.limit_queue(queue, *limit),
            Command::Move(ids, queue) => codes(&ids.iter().map(|id| self.move_job(*id, queue)).collect::<Vec<_>>()),
            Command::SetPriority(ids, priority) => {
                codes(&ids.iter().map(|id| self.set_priority(*id, *priority)).collect::<Vec<_>>())
            }
            Command::Lock(..) | Command::Acquire(..) | Command::GiveUp(_) => panic!("{command:?} needs a session"),
            Command::Own(own) => panic!("{own:?} is about the cluster, the model about jobs"),
            Command::Batch(batch) => panic!("{batch:?}: flows have a model of their own"),
            Command::Restore(records) => codes(&records.iter().map(|record| self.restore(record)).collect::<Vec<_>>()),
        }
    }

    fn position(&self, id: JobId) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }

    fn paused(&self, queue: &str) -> bool {
        self.pauses.iter().any(|(paused, _)| paused == queue)
    }

    fn make_ready(&mut self, position: usize) {
        let was_final = self.jobs[position].is_final();
        self.leave(position);
        if was_final {
            self.hold(position, false);
        }
        self.line += 1;
        let (now, line) = (self.now, self.line);
        let job = &mut self.jobs[position];
        (job.state, job.due, job.enqueued, job.finished, job.place) = ("enqueued", None, Some(now), None, line);
        if !self.held_back(&self.jobs[position]) {
            let queue = self.jobs[position].spec.queue.clone();
            self.announce(&queue, 1);
        }
    }

    fn announce(&mut self, queue: &str, jobs: usize) {
        if self.paused(queue) || self.queue_room(queue) == 0 || jobs == 0 {
            return;
        }
        match self.happened.ready.iter_mut().find(|(name, _)| name == queue) {
            Some((_, sum)) => *sum += jobs,
            None => self.happened.ready.push((queue.into(), jobs)),
        }
    }

    fn make_wait(&mut self, position: usize, state: &'static str, delay: u64) {
        if delay == 0 {
            return self.make_ready(position);
        }
        self.leave(position);
        self.line += 1;
        let (due, line) = (self.now + delay, self.line);
        let job = &mut self.jobs[position];
        (job.state, job.due, job.place) = (state, Some(due), line);
    }

    fn make_final(&mut self, position: usize, state: &'static str) {
        self.leave(position);
        self.ordinal += 1;
        let (now, ordinal) = (self.now, self.ordinal);
        let job = &mut self.jobs[position];
        (job.state, job.due, job.finished, job.place) = (state, None, Some(now), ordinal);
        self.happened.finished.push(job.id);
        let limits = job.limits.clone();
        self.settle(&limits);
    }

    /// Who holds a unique key.
    fn holder(&self, key: &str) -> Option<JobId> {
        let holds =
            |job: &&ModelJob| !job.is_final() && job.spec.unique_window.is_none() && job.unique.as_deref() == Some(key);
        let live = self.jobs.iter().find(holds).map(|job| job.id);
        let window = self.windows.iter().find(|(held, _, until)| held == key && *until > self.now);
        live.or(window.map(|(_, id, _)| *id))
    }

    fn open_window(&mut self, position: usize) {
        let job = &self.jobs[position];
        let (Some(key), Some(span)) = (&job.unique, job.spec.unique_window) else { return };
        let window = (key.clone(), job.id, self.now + span);
        self.windows.retain(|(held, _, _)| *held != window.0);
        self.windows.push(window);
    }

    fn enqueue(&mut self, specs: &[Spec], jobs: &[Job]) -> Reply {
        for (position, job) in jobs.iter().enumerate() {
            let Some(key) = job.unique.as_ref().filter(|_| specs[job.spec as usize].unique_mode == 2) else { continue };
            let earlier = &jobs[..position];
            let new = |other: &&Job| self.position(other.id).is_none();
            let asked = earlier.iter().filter(new).any(|other| other.unique.as_ref() == Some(key));
            if self.position(job.id).is_none() && (asked || self.holder(key).is_some()) {
                return refused("conflict");
            }
        }
        let mut exceptions = Vec::new();
        for (position, job) in jobs.iter().enumerate() {
            let exception = self.enqueue_one(&specs[job.spec as usize], job);
            exceptions.extend(exception.map(|(code, id)| (position as u64, code, id)));
        }
        let mut w = Writer::new();
        if exceptions.is_empty() {
            w.nil();
        } else {
            w.array(exceptions.len());
        }
        for (position, code, id) in exceptions {
            w.array(3).u64(position).u64(code).id(id);
        }
        Ok(w.into_bytes())
    }

    fn enqueue_one(&mut self, spec: &Spec, new: &Job) -> Option<(u64, JobId)> {
        if self.position(new.id).is_some() {
            return Some((1, new.id));
        }
        let holder = new.unique.as_ref().and_then(|key| self.holder(key));
        if let Some(holder) = holder {
            match self.position(holder).filter(|position| spec.unique_mode == 1 && self.jobs[*position].waits()) {
                None => return Some((2, holder)),
                Some(position) => {
                    self.jobs[position].reason = Some(format!("replaced by {}", new.id));
                    self.make_final(position, "cancelled");
                }
            }
        }
        let due = new.run_at.unwrap_or(self.now + new.delay).max(self.now);
        self.created += 1;
        self.jobs.push(ModelJob {
            id: new.id,
            spec: spec.clone(),
            args: new.args.clone(),
            created: self.now,
            expires: spec.expires.map(|span| due + span),
            unique: new.unique.clone(),
            limits: new.limits.clone(),
            ..Default::default()
        });
        let position = self.jobs.len() - 1;
        self.hold(position, true);
        self.make_wait(position, "scheduled", due - self.now);
        self.open_window(position);
        holder.map(|holder| (3, holder))
    }

    fn claim(&mut self, session: u64, queues: &[(String, u64)], strict: bool, functions: &[String], max: u64) -> Reply {
        let Some(open) = self.sessions.iter().find(|open| open.id == session) else {
            return refused("session_expired");
        };
        let mut credits = open.credits.clone();
        self.expire(1_000);
        let mut names: Vec<(String, u64)> = Vec::new();
        for (name, weight) in queues {
            if !self.paused(name) && !names.iter().any(|(other, _)| other == name) {
                names.push((name.clone(), *weight));
            }
        }
        let mut given = Vec::new();
        while (given.len() as u64) < max {
            let with_work: Vec<&(String, u64)> =
                names.iter().filter(|(name, _)| self.best(name, functions).is_some()).collect();
            let Some(name) = choose(&with_work, strict, &mut credits) else { break };
            let position = self.best(&name, functions).expect("the queue has work");
            self.token = (self.token + 1).max(self.index);
            let (now, token) = (self.now, self.token);
            let job = &mut self.jobs[position];
            (job.state, job.started, job.place, job.session) = ("processing", Some(now), token, session);
            job.attempt += 1;
            job.reason = None;
            self.start(position);
            given.push(position);
        }
        if !strict && !given.is_empty() {
            credits.retain(|(name, credit)| *credit != 0 && names.iter().any(|(other, _)| other == name));
            let open = self.sessions.iter_mut().find(|open| open.id == session).expect("it is open");
            open.credits = credits;
        }
        let mut w = Writer::new();
        w.array(given.len());
        for position in given {
            write_claimed(&self.jobs[position], &mut w);
        }
        Ok(w.into_bytes())
    }

    /// The job that a queue gives next.
    fn best(&self, queue: &str, functions: &[String]) -> Option<usize> {
        let fits = |job: &ModelJob| {
            job.state == "enqueued"
                && job.spec.queue == queue
                && functions.contains(&job.spec.function)
                && !self.held_back(job)
        };
        if self.queue_room(queue) == 0 {
            return None;
        }
        let fitting = self.jobs.iter().enumerate().filter(|(_, job)| fits(job));
        let first = fitting.min_by_key(|(_, job)| (-job.spec.priority, self.turn(job), job.place));
        first.map(|(position, _)| position)
    }
}

fn choose(with_work: &[&(String, u64)], strict: bool, credits: &mut Vec<(String, i64)>) -> Option<String> {
    if strict {
        return with_work.first().map(|(name, _)| name.clone());
    }
    let mut best: Option<(&String, i64)> = None;
    for (name, weight) in with_work {
        if !credits.iter().any(|(other, _)| other == name) {
            credits.push((name.clone(), 0));
        }
        let credit = &mut credits.iter_mut().find(|(other, _)| other == name).expect("just added").1;
        *credit += (*weight).max(1) as i64;
        if best.is_none_or(|(_, most)| *credit > most) {
            best = Some((name, *credit));
        }
    }
    let best = best?.0.clone();
    let sum: i64 = with_work.iter().map(|(_, weight)| (*weight).max(1) as i64).sum();
    credits.iter_mut().find(|(other, _)| *other == best).expect("it was added").1 -= sum;
    Some(best)
}

fn write_claimed(job: &ModelJob, w: &mut Writer) {
    let spec = &job.spec;
    w.array(17 + usize::from(job.schedule.is_some()))
        .id(job.id)
        .u64(job.place)
        .str(&spec.function)
        .str(&spec.queue)
        .bin(&job.args)
        .u64(job.attempt);
    w.u64(job.crashes).i64(spec.priority).u64(job.created).u64(job.enqueued.unwrap_or(0));
    w.u64(job.started.unwrap_or(0)).option(spec.timeout, |w, span| {
        w.u64(span);
    });
    w.u64(spec.max_attempts).u64(spec.max_crashes).array(spec.tags.len());
    for tag in &spec.tags {
        w.str(tag);
    }
    w.bin(&spec.meta).option(job.saved.as_ref(), |w, saved| {
        w.bin(saved);
    });
    if let Some((name, slot)) = &job.schedule {
        w.map(1).u64(3).array(2).str(name).option(*slot, |w, slot| {
            w.u64(slot);
        });
    }
}

mod endings;
mod errors;
mod limits;
mod locks;
mod schedules;
