//! Clients that enqueue and cancel, and workers that claim and finish, each with one request under way. They repeat what
//! was not answered in the same words, at another node.

use raftwork::base::{Error, JobId, Result};

use crate::checkers::Ledger;
use crate::flows::{self, Flowing};
use crate::limits::Limited;
use crate::locks::Locker;
use crate::random::Random;
use crate::record::Fate;
use crate::schedules::Scheduler;
use crate::tokens::Keeper;
use crate::waiting::Waiting;
use crate::wire::schedules::Recur;
use crate::wire::{self, Command, End, Job, Own, Spec};
use crate::Micros;

pub const TTL_MS: u64 = 3_000;
/// Without an answer for so long, the request is sent again.
pub const PATIENCE: Micros = 700_000;

/// One request under way.
#[derive(Clone, Debug)]
pub struct Asked {
    pub number: u64,
    pub bytes: Vec<u8>,
    pub command: Command,
    /// Session and sequence.
    pub request: Option<(u64, u64)>,
    pub began: Micros,
    pub sent_at: Micros,
    pub attempts: u32,
    /// Attempts that had no effect for certain.
    pub refusals: u32,
    /// Whether any attempt may have had an effect.
    pub unknown: bool,
}

#[derive(Debug)]
pub struct Client {
    pub number: usize,
    pub works: bool,
    pub session: Option<u64>,
    sequence: u64,
    acked: u64,
    requests: u64,
    jobs_made: u64,
    /// Jobs whose fate this client may change.
    mine: Vec<JobId>,
    /// Jobs that this worker holds.
    held: Vec<(JobId, u64)>,
    /// Jobs that it held not long ago.
    stale: Vec<(JobId, u64)>,
    pub asked: Option<Asked>,
    /// Where it sends: the node that it believes to lead.
    pub node: usize,
    pub quiet: bool,
    /// It tries what the next version can do.
    pub curious: bool,
    pub asleep_until: Micros,
    /// When the newest sign of life was sent that the leader took in.
    pub heard_at: Micros,
    /// A client that takes locks does nothing else.
    pub locks: Option<Locker>,
    /// A client that puts and fires schedules does nothing else.
    pub schedules: Option<Scheduler>,
    /// A client whose jobs have limits does nothing else.
    pub limits: Option<Limited>,
    /// A client whose jobs wait for each other does nothing else.
    pub flows: Option<Flowing>,
    /// It hands out tokens besides.
    pub tokens: Option<Keeper>,
    /// A worker that claims only when it was told of work, or has not looked yet.
    pub waiting: Option<Waiting>,
}

impl Client {
    pub fn new(number: usize, works: bool) -> Self {
        Self {
            number,
            works,
            session: None,
            sequence: 0,
            acked: 0,
            requests: 0,
            jobs_made: 0,
            mine: Vec::new(),
            held: Vec::new(),
            stale: Vec::new(),
            asked: None,
            node: 0,
            quiet: false,
            curious: false,
            asleep_until: 0,
            heard_at: 0,
            locks: None,
            schedules: None,
            limits: None,
            flows: None,
            tokens: None,
            waiting: None,
        }
    }

    /// The next request, if none is under way. Nothing: there is nothing to do.
    pub fn ask(&mut self, now: Micros, random: &mut Random, ledger: &mut Ledger) -> bool {
        if self.asked.is_some() {
            return false;
        }
        let Some(command) = self.next_command(now, random, ledger) else { return false };
        let session = match command {
            // The level is raised by a node, which has no session.
            Command::Open { .. } | Command::Own(Own::SetLevel(_)) => 0,
            // A program that knows only the token: its session does not protect the job from it.
            Command::Finish(_) if random.chance(500) => 0,
            // The slot alone protects it from being done twice.
            Command::Recur(Recur::Fire(..)) if random.chance(300) => 0,
            _ => self.session.unwrap_or(0),
        };
        if session > 0 {
            self.sequence += 1;
        }
        let sequence = if session > 0 { self.sequence } else { 0 };
        let bytes = wire::request(session, sequence, if session > 0 { self.acked } else { 0 }, &command);
        self.requests += 1;
        self.asked = Some(Asked {
            number: self.requests,
            bytes,
            command,
            request: (session > 0).then_some((session, sequence)),
            began: now,
            sent_at: now,
            attempts: 0,
            refusals: 0,
            unknown: false,
        });
        true
    }

    fn next_command(&mut self, now: Micros, random: &mut Random, ledger: &mut Ledger) -> Option<Command> {
        if self.session.is_some() && self.locks.as_mut().is_some_and(|locks| locks.dies(random)) {
            self.session = None;
        }
        if self.session.is_none() {
            let kind = if self.works { "worker" } else { "client" };
            return Some(Command::Open { ttl: TTL_MS, kind: kind.into(), host: format!("host-{}", self.number) });
        }
        if let (Some(locks), Some(session)) = (&mut self.locks, self.session) {
            return if self.quiet { None } else { locks.next(session, random, &mut ledger.locks) };
        }
        if let Some(scheduler) = &mut self.schedules {
            return if self.quiet { None } else { scheduler.next(random, &mut ledger.schedules) };
        }
        if let Some(limited) = &mut self.limits {
            return if self.quiet { None } else { limited.next(random, &mut ledger.limits) };
        }
        if let Some(flowing) = &mut self.flows {
            return flowing.next(self.quiet, random, &mut ledger.flows);
        }
        if let (Some(waiting), Some(session)) = (&mut self.waiting, self.session) {
            let claim = waiting.claim(session, self.held.len());
            return claim.or_else(|| (!self.held.is_empty()).then(|| self.finish(random)));
        }
        if self.works {
            return Some(self.next_work(random));
        }
        if self.quiet {
            return None;
        }
        if self.curious && random.chance(30) {
            return Some(Command::Own(Own::Future));
        }
        let order = |keeper: &mut Keeper| keeper.next(self.number, now, random, &mut ledger.tokens);
        if let Some(order) = self.tokens.as_mut().and_then(order) {
            return Some(order);
        }
        if random.chance(120) && !self.mine.is_empty() {
            let ids = vec![*random.pick(&self.mine)];
            return Some(match random.below(3) {
                0 => Command::Cancel { ids, reason: "simulated".into() },
                _ => Command::Requeue(ids),
            });
        }
        Some(self.enqueue(random))
    }

    fn enqueue(&mut self, random: &mut Random) -> Command {
        let count = random.between(1, 3);
        let jobs = (0..count).map(|_| {
            self.jobs_made += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(self.number as u64 + 1).to_be_bytes());
            id[8..].copy_from_slice(&self.jobs_made.to_be_bytes());
            let delay = if random.chance(200) { random.between(1, 2_000) } else { 0 };
            Job { id: JobId(id), args: vec![7; random.below(200) as usize], delay, ..Job::default() }
        });
        let jobs: Vec<Job> = jobs.collect();
        self.mine = jobs.iter().map(|job| job.id).chain(self.mine.iter().copied()).take(50).collect();
        let enough = if random.chance(100) { 2 } else { 1_000 };
        let spec = Spec {
            queue: if random.chance(250) { "other" } else { "default" }.into(),
            priority: i64::from(random.chance(200)),
            max_crashes: enough,
            max_attempts: enough,
            expires: random.chance(50).then(|| random.between(100, 2_000)),
            crash_delay: if random.chance(200) { 50 } else { 0 },
            ..Spec::default()
        };
        Command::Enqueue { specs: vec![spec], jobs }
    }

    fn next_work(&mut self, random: &mut Random) -> Command {
        if self.held.is_empty() || (self.held.len() < 3 && random.chance(300)) {
            return Command::Claim {
                session: self.session.expect("checked by the caller"),
                queues: if random.chance(300) { vec![other()] } else { vec![("default".into(), 1), other()] },
                strict: true,
                functions: vec!["f".into()],
                max: random.between(1, 3),
            };
        }
        self.finish(random)
    }

    /// Says how a run ended: of the job that it holds longest, as a rule.
    fn finish(&mut self, random: &mut Random) -> Command {
        if random.chance(80) && !self.stale.is_empty() {
            // A zombie: it does not know that its time is over.
            let (id, token) = *random.pick(&self.stale);
            return Command::Finish(vec![(id, token, End::Succeeded(None))]);
        }
        let (id, token) = self.held.remove(0);
        self.stale.insert(0, (id, token));
        self.stale.truncate(20);
        let end = match random.below(10) {
            0 => End::Retry(random.between(1, 1_000), "Broken".into()),
            1 => End::Snooze(random.between(1, 1_000), String::new()),
            2 => End::Release,
            _ => End::Succeeded(Some(vec![1])),
        };
        Command::Finish(vec![(id, token, end)])
    }

    /// Takes an answer. True: the client may go on.
    pub fn hear(
        &mut self,
        number: u64,
        answer: &Result<Vec<u8>>,
        nodes: usize,
        now: Micros,
        ledger: &mut Ledger,
    ) -> bool {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.number == number) else { return false };
        match answer {
            Ok(reply) => {
                let asked = self.asked.take().expect("checked above");
                self.acked = if asked.request.is_some() { self.sequence } else { self.acked };
                self.take_reply(&asked, reply, now, ledger);
            }
            Err(error) => {
                asked.unknown |= !error.is_definite();
                asked.refusals += u32::from(error.is_definite());
                if let Error::NotCommitted(_) = error {
                    self.node = (self.node + 1) % nodes;
                }
                // Now and then it gives up after a refusal that it may trust: then the request must never take effect.
                let never = !asked.unknown && asked.refusals == asked.attempts;
                let at_the_door = matches!(error, Error::Invalid(_));
                assert!(!at_the_door || matches!(asked.command, Command::Own(_)), "{:?}: {error}", asked.command);
                if at_the_door && asked.unknown {
                    self.asked = None; // It does not wait until somebody raises the level.
                } else if error.is_definite() && never && (at_the_door || asked.number % 4 == 0) {
                    let asked = self.asked.take().expect("checked above");
                    self.sequence -= u64::from(asked.request.is_some()); // Never used.
                    ledger.refused(&asked.command);
                    ledger.record.learns(self.number, &asked, &Fate::NotCommitted);
                    self.locks.iter_mut().for_each(Locker::never);
                    if matches!(asked.command, Command::Claim { .. }) {
                        self.waiting.iter_mut().for_each(Waiting::looks_again);
                    }
                    if let Command::Finish(results) = asked.command {
                        self.held.extend(results.into_iter().map(|(id, token, _)| (id, token)));
                    }
                }
            }
        }
        true
    }

    fn take_reply(&mut self, asked: &Asked, reply: &[u8], now: Micros, ledger: &mut Ledger) {
        let (index, outcome) = wire::reply(reply);
        match outcome {
            Ok(payload) => {
                ledger.answered(index, &asked.command, &payload);
                ledger.record.learns(self.number, asked, &Fate::Done(index, &payload));
                if let (Some(locks), Some((session, _))) = (&mut self.locks, asked.request) {
                    locks.answered(session, index, &asked.command, &payload, &mut ledger.locks);
                }
                if let Some(scheduler) = &mut self.schedules {
                    scheduler.answered(index, &asked.command, &payload, &mut ledger.schedules);
                }
                if let Some(keeper) = &mut self.tokens {
                    keeper.answered(index, &asked.command, &mut ledger.tokens);
                }
                if let Some(flowing) = &mut self.flows {
                    flowing.answered(&asked.command, &mut ledger.flows);
                }
                match &asked.command {
                    Command::Open { .. } => {
                        (self.session, self.sequence, self.acked) = (Some(index), 0, 0);
                        self.heard_at = asked.began; // An earlier attempt may have opened it.
                    }
                    Command::Claim { max, .. } => {
                        let jobs = wire::claimed(&payload);
                        self.waiting.iter_mut().for_each(|waiting| waiting.claimed(jobs.len() as u64, *max));
                        self.held.extend(jobs.into_iter().map(|job| (job.id, job.token)));
                    }
                    _ => {}
                }
            }
            Err((code, message, _)) if code == "session_expired" => {
                log(&message);
                ledger.record.learns(self.number, asked, &Fate::SessionExpired(index));
                let silence = now - self.heard_at;
                // The clock of the leader may run one percent too fast.
                assert!(silence >= TTL_MS * 990, "K3: client {}: expired after {silence} us", self.number);
                self.session = None;
                self.held.clear();
                self.waiting.iter_mut().for_each(Waiting::looks_again);
                self.locks.iter_mut().for_each(Locker::lost);
                self.schedules.iter_mut().for_each(|scheduler| scheduler.lost(index));
            }
            Err((code, ..)) if code == "lease_lost" && self.locks.is_some() => {
                self.locks.iter_mut().for_each(|locks| locks.refused(&asked.command));
            }
            Err((code, ..)) if self.flows.is_some() && flows::refusal(&code).is_some() => {
                ledger.flows.refuses();
                let code = flows::refusal(&code).expect("looked at just now");
                ledger.record.learns(self.number, asked, &Fate::Refused(index, code));
            }
            Err((code, ..)) if code == "feature_level" && matches!(asked.command, Command::Own(Own::SetLevel(_))) => {}
            Err((code, message, _)) => panic!("client {}: {code}: {message}", self.number),
        }
    }

    /// The leader took in a sign of life, or knows of no such session.
    pub fn heard(&mut self, sent: Micros, lives: bool) {
        if lives {
            self.heard_at = self.heard_at.max(sent);
        }
    }

    /// Where signs of life go: somewhere else when they did not arrive for a while.
    pub fn node_for_beats(&mut self, now: Micros, nodes: usize) -> usize {
        if now.saturating_sub(self.heard_at) > TTL_MS * 1_000 / 2 {
            self.node = (self.node + 1) % nodes;
        }
        self.node % nodes
    }

    /// Sends the same again somewhere else.
    pub fn lose_patience(&mut self, nodes: usize, random: &mut Random) {
        if let Some(asked) = &mut self.asked {
            asked.unknown = true;
            self.node = random.below(nodes as u64) as usize;
        }
    }
}

fn other() -> (String, u64) {
    ("other".into(), 1)
}

fn log(message: &str) {
    if std::env::var_os("RAFTWORK_SIM_TRACE").is_some() {
        eprintln!("client: {message}");
    }
}
