//! Random commands against a naive model: every answer, every effect and the whole state after each command are equal.
//! A twin that was never reloaded, and the machine that was replaced by its own image now and then, stay equal (L6).

mod limits;
mod model;
mod schedules;

use limits::limits;
use model::{Happened, Model, ModelJob};
use proptest::prelude::*;
use schedules::{fires, recur, Fires};

use crate::wire::{self, Command, End, Job, Limit, Note, Spec};
use raftwork::base::codec::Writer;
use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::job::State;
use raftwork::machine::specs::Spec as MachineSpec;
use raftwork::machine::{self, Effects, Job as MachineJob, Loader, Machine, Mode};

const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const QUEUES: [&str; 3] = ["default", "mail", "reports"];
const FUNCTIONS: [&str; 2] = ["f", "g"];
const LOCKS: [&str; 3] = ["one", "two", "three"];

/// One step of a run. Sessions, tokens and records are picked when it is taken, from what there is then.
#[derive(Clone, Debug)]
struct Act {
    /// Milliseconds since the last step; a clock may also go back.
    later: i64,
    envelope: Envelope,
    what: What,
}

#[derive(Clone, Debug)]
enum Envelope {
    None,
    /// A new sequence of a session, acknowledging all but so many.
    New(usize, u64),
    /// A sequence of a session, counted back from the newest.
    Again(usize, u64),
}

#[derive(Clone, Debug)]
enum What {
    Plain(Command),
    Close(usize),
    Expire(usize),
    Claim {
        session: usize,
        queues: Vec<(usize, u64)>,
        strict: bool,
        functions: Vec<usize>,
        max: u64,
    },
    Finish(Vec<(usize, Token, End)>),
    Progress(usize, Token, Option<u8>, Option<u8>),
    Lock(u64, (usize, Mode), bool),
    /// The lock, which of its holders, its token, and whether that one says so.
    Unlock(usize, usize, Token, bool),
    Fires(Fires),
    Evict(u64),
    Restore(Vec<usize>),
    Reload,
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Right,
    Older,
    Any(u64),
}

fn ids() -> impl Strategy<Value = Vec<JobId>> {
    prop::collection::vec(0..IDS.len(), 1..4)
        .prop_map(|picks| picks.into_iter().map(|pick| wire::id(IDS[pick])).collect())
}

fn maybe(range: std::ops::Range<u64>) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 1 => range.prop_map(Some)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let names = (0..FUNCTIONS.len(), 0..QUEUES.len(), -1i64..2);
    let bounds = (1u64..4, 0u64..4, prop_oneof![Just(0u64), Just(5)]);
    (names, bounds, (0u64..3, maybe(1..12), maybe(1..30))).prop_map(|(names, bounds, unique)| Spec {
        function: FUNCTIONS[names.0].into(),
        queue: QUEUES[names.1].into(),
        priority: names.2,
        max_attempts: bounds.0,
        max_crashes: bounds.1,
        crash_delay: bounds.2,
        unique_mode: unique.0,
        unique_window: unique.1,
        expires: unique.2,
        tags: vec!["x".into()],
        ..Spec::default()
    })
}

fn enqueue() -> impl Strategy<Value = What> {
    let job = (
        0u64..2,
        prop_oneof![2 => Just(0u64), 1 => 1u64..20],
        maybe(990..1_100),
        prop::option::of(0u64..2),
        0usize..40,
        limits(),
    );
    let ids = prop::sample::subsequence(IDS.to_vec(), 1..4).prop_shuffle();
    (prop::collection::vec(spec(), 2), ids, prop::collection::vec(job, 4)).prop_map(|(specs, ids, jobs)| {
        let jobs = ids.into_iter().zip(jobs).map(|(id, (spec, delay, run_at, unique, args, limits))| Job {
            id: wire::id(id),
            spec,
            args: vec![7; args],
            delay,
            run_at,
            unique: unique.map(|key| format!("key{key}")),
            limits,
            ..Job::default()
        });
        What::Plain(Command::Enqueue { specs, jobs: jobs.collect() })
    })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => prop::option::of(Just(vec![1, 2])).prop_map(End::Succeeded),
        3 => (prop_oneof![Just(0u64), 1u64..20]).prop_map(|delay| End::Retry(delay, "Boom#0123".into())),
        1 => prop_oneof![Just("Useless"), Just("Boom#0123"), Just("Boom#4567")].prop_map(|error| End::Failed(error.into())),
        1 => (prop_oneof![Just(0u64), 1u64..20], prop_oneof![Just(""), Just("not yet")])
            .prop_map(|(delay, reason)| End::Snooze(delay, reason.into())),
        1 => Just(End::Release),
        1 => prop_oneof![Just(""), Just("why not")].prop_map(|reason| End::Cancelled(reason.into())),
        1 => Just(End::Crashed("Killed".into())),
    ]
}

fn token() -> impl Strategy<Value = Token> {
    prop_oneof![8 => Just(Token::Right), 1 => Just(Token::Older), 1 => (0u64..40).prop_map(Token::Any)]
}

/// Each name is mostly asked for as one kind.
fn lock() -> impl Strategy<Value = (usize, Mode)> {
    let any = [Mode::Lock, Mode::Permit(1), Mode::Permit(3), Mode::Read, Mode::Write];
    prop_oneof![
        2 => Just((0, Mode::Lock)),
        3 => Just((1, Mode::Permit(2))),
        3 => Just((2, Mode::Read)),
        2 => Just((2, Mode::Write)),
        1 => (0..LOCKS.len(), prop::sample::select(any.to_vec())),
    ]
}

fn claim() -> impl Strategy<Value = What> {
    let queues = prop::collection::vec((0..QUEUES.len(), 0u64..4), 1..4);
    let functions = prop::collection::vec(0..FUNCTIONS.len(), 1..3);
    (0usize..4, queues, any::<bool>(), functions, 0u64..4)
        .prop_map(|(session, queues, strict, functions, max)| What::Claim { session, queues, strict, functions, max })
}

fn what() -> impl Strategy<Value = What> {
    let open = Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() };
    let queue = || (0..QUEUES.len()).prop_map(|pick| QUEUES[pick].to_owned());
    let reason = prop_oneof![Just(String::new()), Just("stop".to_owned())];
    let pause = |(queue, until)| What::Plain(Command::Pause { queue, until, reason: "x".into() });
    prop_oneof![
        2 => Just(What::Plain(open)),
        1 => (0usize..4).prop_map(What::Close),
        1 => (0usize..4).prop_map(What::Expire),
        8 => enqueue(),
        8 => claim(),
        8 => prop::collection::vec((0..IDS.len(), token(), end()), 1..4).prop_map(What::Finish),
        1 => (0..IDS.len(), token(), any::<Option<u8>>(), any::<Option<u8>>())
            .prop_map(|(id, token, note, state)| What::Progress(id, token, note, state)),
        2 => (ids(), reason).prop_map(|(ids, reason)| What::Plain(Command::Cancel { ids, reason })),
        2 => ids().prop_map(|ids| What::Plain(Command::Requeue(ids))),
        1 => ids().prop_map(|ids| What::Plain(Command::Delete(ids))),
        2 => (ids(), queue()).prop_map(|(ids, queue)| What::Plain(Command::Move(ids, queue))),
        2 => (ids(), -1i64..2).prop_map(|(ids, priority)| What::Plain(Command::SetPriority(ids, priority))),
        1 => (queue(), maybe(1_000..1_200)).prop_map(pause),
        1 => queue().prop_map(|queue| What::Plain(Command::Resume(queue))),
        1 => (queue(), prop_oneof![1 => Just(None), 2 => (1u64..4).prop_map(Some)])
            .prop_map(|(queue, limit)| What::Plain(Command::LimitQueue(queue, limit))),
        6 => prop_oneof![1 => 0u64..3, 2 => Just(1_000u64)].prop_map(|items| What::Plain(Command::Tick(items))),
        9 => (0u64..4, lock(), prop::bool::weighted(0.8))
            .prop_map(|(number, lock, waits)| What::Lock(number, lock, waits)),
        6 => (0..LOCKS.len(), 0usize..3, token(), prop::bool::weighted(0.8))
            .prop_map(|(name, holder, token, own)| What::Unlock(name, holder, token, own)),
        1 => (0u64..3).prop_map(|number| What::Plain(Command::GiveUp(number))),
        3 => recur().prop_map(|recur| What::Plain(Command::Recur(recur))),
        6 => fires().prop_map(What::Fires),
        1 => (0u64..12).prop_map(What::Evict),
        1 => prop::collection::vec(0usize..8, 1..3).prop_map(What::Restore),
        1 => Just(What::Reload),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let later = prop_oneof![4 => Just(0i64), 4 => 1i64..12, 1 => -20i64..0];
    let envelope = prop_oneof![
        4 => Just(Envelope::None),
        3 => (0usize..3, 0u64..3).prop_map(|(session, keep)| Envelope::New(session, keep)),
        1 => (0usize..3, 0u64..3).prop_map(|(session, back)| Envelope::Again(session, back)),
    ];
    (later, envelope, what()).prop_map(|(later, envelope, what)| Act { later, envelope, what })
}

/// The machine, its twin and the model, side by side.
#[derive(Default)]
struct Run {
    index: u64,
    now: u64,
    machine: Machine,
    twin: Machine,
    model: Model,
    sequences: Vec<(u64, u64)>,
}

impl Run {
    fn take(&mut self, act: &Act) -> Result<(), TestCaseError> {
        self.now = self.now.saturating_add_signed(act.later);
        let Some(command) = self.resolve(&act.what) else { return self.reload() };
        let envelope = self.envelope(&self.sender(act));
        if envelope.0 == 0 && matches!(command, Command::Lock(..) | Command::Acquire(..) | Command::GiveUp(_)) {
            return Ok(()); // The door refuses it: only a session can own a lock.
        }
        let request = wire::request(envelope.0, envelope.1, envelope.2, &command);
        prop_assert!(machine::check(&request).is_ok());
        self.index += 1;
        let mut effects = Effects::default();
        let reply = self.machine.apply(LogIndex(self.index), Millis(self.now), &request, &mut effects);
        let reply = reply.expect("the operation is known");
        let mut others = Effects::default();
        let twin = self.twin.apply(LogIndex(self.index), Millis(self.now), &request, &mut others);
        prop_assert_eq!(Ok(&reply), twin.as_ref());
        prop_assert_eq!(&effects, &others);
        let (index, found) = wire::reply(&reply);
        let (model_index, expected) = self.model.apply(self.now, envelope, &command);
        let words = |reply: wire::Reply| reply.map_err(|(code, _, _)| code);
        prop_assert_eq!((index, words(found)), (model_index, words(expected)), "{:?}", command);
        self.model.happened.ready.sort();
        prop_assert_eq!(&happened(&effects), &self.model.happened);
        self.compare()
    }

    /// The command of a step; `None` to reload the machine.
    fn resolve(&self, what: &What) -> Option<Command> {
        let session = |pick: &usize| self.model.sessions.get(*pick).map_or(9_999, |session| session.id);
        Some(match what {
            What::Plain(command) => command.clone(),
            What::Close(pick) => Command::Close(session(pick)),
            What::Expire(pick) => Command::Expire(session(pick)),
            What::Claim { session: pick, queues, strict, functions, max } => Command::Claim {
                session: session(pick),
                queues: queues.iter().map(|(pick, weight)| (QUEUES[*pick].into(), *weight)).collect(),
                strict: *strict,
                functions: functions.iter().map(|pick| FUNCTIONS[*pick].into()).collect(),
                max: *max,
            },
            What::Finish(results) => {
                let result =
                    |(id, token, end): &(usize, Token, End)| (wire::id(IDS[*id]), self.token(*id, *token), end.clone());
                Command::Finish(results.iter().map(result).collect())
            }
            What::Progress(id, token, note, state) => Command::Progress(vec![Note {
                id: wire::id(IDS[*id]),
                token: self.token(*id, *token),
                progress: note.map(|note| vec![note]),
                state: state.map(|state| vec![state]),
            }]),
            What::Lock(number, (name, Mode::Lock), waits) => Command::Lock(*number, LOCKS[*name].into(), *waits),
            What::Lock(number, (name, mode), waits) => Command::Acquire(*number, LOCKS[*name].into(), *mode, *waits),
            What::Unlock(name, holder, token, _) => {
                let right = self.holder(*name, *holder).map_or(0, |(_, token)| token);
                Command::Unlock(LOCKS[*name].into(), pick_token(right, *token))
            }
            What::Fires(fires) => Command::Recur(self.resolve_fires(fires)),
            What::Evict(back) => Command::Evict(self.model.ordinal.saturating_sub(*back)),
            What::Restore(picks) => {
                let records = &self.model.records;
                let record = |pick: &usize| records.get(*pick % records.len().max(1)).map(|(bytes, _)| bytes.clone());
                let mut records: Vec<Vec<u8>> = picks.iter().filter_map(record).collect();
                records.dedup();
                Command::Restore(records)
            }
            What::Reload => return None,
        })
    }

    fn token(&self, id: usize, token: Token) -> u64 {
        let right = self.model.jobs.iter().find(|job| job.id == wire::id(IDS[id])).map_or(0, |job| job.place);
        pick_token(right, token)
    }

    /// The session and the token of one holder of a lock.
    fn holder(&self, name: usize, pick: usize) -> Option<(u64, u64)> {
        let lock = self.model.locks.iter().find(|lock| lock.name == LOCKS[name])?;
        let (owner, _, token, _) = lock.holders[pick % lock.holders.len()];
        Some((owner.0, token))
    }

    /// Whoever frees a lock is mostly its holder.
    fn sender(&self, act: &Act) -> Envelope {
        let What::Unlock(name, pick, _, true) = act.what else { return act.envelope.clone() };
        let holder = self.holder(name, pick).map_or(0, |(session, _)| session);
        let position = self.model.sessions.iter().position(|session| session.id == holder);
        position.map_or(act.envelope.clone(), |position| Envelope::New(position, 0))
    }

    fn envelope(&mut self, envelope: &Envelope) -> (u64, u64, u64) {
        let (pick, keep, again) = match envelope {
            Envelope::None => return (0, 0, 0),
            Envelope::New(pick, keep) => (*pick, *keep, 0),
            Envelope::Again(pick, back) => (*pick, 9, 1 + *back),
        };
        let Some(session) = self.model.sessions.get(pick).map(|session| session.id) else { return (0, 0, 0) };
        let position = self.sequences.iter().position(|(known, _)| *known == session).unwrap_or_else(|| {
            self.sequences.push((session, 0));
            self.sequences.len() - 1
        });
        let newest = &mut self.sequences[position].1;
        if again > 0 {
            return (session, newest.saturating_sub(again - 1).max(1), 0);
        }
        *newest += 1;
        (session, *newest, (*newest - 1).saturating_sub(keep))
    }

    fn reload(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.machine.audit(), Ok(()));
        let mut loader = Loader::new();
        let written = self.machine.capture().write(&mut |section, bytes| loader.section(section, bytes));
        prop_assert_eq!(written, Ok(()));
        self.machine = loader.finish().expect("an image can be loaded");
        prop_assert_eq!(self.machine.digest(), self.twin.digest());
        Ok(())
    }

    /// The whole state, job by job, and the sums (J1, J12).
    fn compare(&mut self) -> Result<(), TestCaseError> {
        for name in IDS {
            let id = wire::id(name);
            let model = self.model.jobs.iter().find(|job| job.id == id).cloned();
            let found = self.machine.job(id).map(|(job, spec)| as_model(job, spec));
            prop_assert_eq!(found, model, "job {}", name);
        }
        let tally = self.machine.tally();
        let sums = (tally.created, tally.deleted, tally.archived_sum());
        prop_assert_eq!(
            sums,
            (self.model.created, self.model.deleted, self.model.archived.iter().map(|(_, jobs)| jobs).sum())
        );
        for state in State::ALL {
            let count = self.model.jobs.iter().filter(|job| job.state == state.name()).count();
            prop_assert_eq!(tally.count(state), count as u64, "{}", state.name());
        }
        prop_assert!(tally.holds());
        prop_assert_eq!(self.machine.next_due().map(|at| at.0), self.model.next_due());
        prop_assert_eq!(self.machine.view(&[0x93, 30, 0xc0, 9]), Ok(self.model.lock_page()));
        prop_assert_eq!(self.machine.view(&[0x93, 60, 0xc0, 99]), Ok(self.model.holder_page()));
        prop_assert_eq!(self.machine.view(&[0x93, 31, 0xc0, 9]), Ok(self.model.schedule_page()));
        prop_assert_eq!(self.machine.view(&[0x92, 33, 9]), Ok(self.model.due_page(0)));
        for (before, (slot, name)) in self.model.due_places().iter().enumerate() {
            let mut question = Writer::new();
            question.array(3).u64(33).u64(9).array(2).u64(*slot).str(name);
            prop_assert_eq!(self.machine.view(question.as_bytes()), Ok(self.model.due_page(before + 1)));
        }
        prop_assert_eq!(self.machine.view(&[0x92, 70, 99]), Ok(self.model.error_page()));
        for (queue, function) in QUEUES.iter().flat_map(|queue| FUNCTIONS.map(|function| (*queue, function))) {
            let mut question = Writer::new();
            question.array(3).u64(8).array(1).str(queue).array(1).str(function);
            let mut claimable = Writer::new();
            claimable.u64(self.model.claimable(queue, function));
            let answer = self.machine.view(question.as_bytes());
            prop_assert_eq!(answer, Ok(claimable.into_bytes()), "{} in {}", function, queue);
        }
        let finished = self.machine.finished(0, 100, usize::MAX);
        let ordinals: Vec<_> = finished.iter().map(|(ordinal, id, _)| (*ordinal, *id)).collect();
        prop_assert_eq!(ordinals, self.model.finished());
        for (_, id, record) in finished {
            let job = self.model.jobs.iter().find(|job| job.id == id).expect("a finished job is there");
            if !self.model.records.iter().any(|(known, _)| *known == record) {
                self.model.records.push((record, job.clone()));
            }
        }
        Ok(())
    }
}

fn pick_token(right: u64, token: Token) -> u64 {
    match token {
        Token::Right => right,
        Token::Older => right.saturating_sub(1),
        Token::Any(token) => token,
    }
}

fn happened(effects: &Effects) -> Happened {
    // In an order that does not depend on which queue was used first.
    let mut ready: Vec<_> = effects.ready.iter().map(|(_, queue, jobs)| (queue.to_string(), *jobs)).collect();
    ready.sort();
    Happened {
        ready,
        finished: effects.finished.clone(),
        cancels: effects.cancels.iter().map(|(session, id, token)| (session.0, *id, token.0)).collect(),
        lost: effects.lost.iter().map(|(session, id, token)| (session.0, *id, token.0)).collect(),
        granted: effects.granted.iter().map(|(session, number, token)| (session.0, *number, token.0)).collect(),
        closed: effects.closed.iter().map(|session| session.0).collect(),
    }
}

/// A job of the machine in the words of the model.
fn as_model(job: &MachineJob, spec: &MachineSpec) -> ModelJob {
    let rare = job.rare.as_deref().cloned().unwrap_or_default();
    let kind = |error: &[u8]| {
        let [kind, _, traceback] = machine::record::error_parts(error)?;
        let fingerprint = traceback.rsplit_once("Fingerprint: ").map(|(_, last)| last.trim_end());
        Some(fingerprint.map_or(kind.to_owned(), |fingerprint| format!("{kind}#{fingerprint}")))
    };
    let run = |run: &machine::job::Run| (run.attempt.into(), run.ending.name(), run.error.as_deref().and_then(kind));
    ModelJob {
        id: job.id,
        spec: Spec {
            function: spec.function.to_string(),
            queue: spec.queue.to_string(),
            priority: spec.priority,
            max_attempts: spec.max_attempts,
            max_crashes: spec.max_crashes,
            timeout: spec.timeout.map(|span| span.0),
            keep_result: spec.keep_result.0,
            keep_failed: spec.keep_failed.0,
            tags: spec.tags.iter().map(|tag| tag.to_string()).collect(),
            unique_mode: spec.unique_mode as u64,
            unique_window: spec.unique_window.map(|span| span.0),
            expires: spec.expires.map(|span| span.0),
            crash_delay: spec.crash_delay.0,
            meta: spec.meta.to_vec(),
        },
        args: job.args.to_vec(),
        state: job.state.name(),
        attempt: job.attempt.into(),
        crashes: job.crashes.into(),
        generation: job.generation.into(),
        created: job.created.0,
        due: job.due().map(|at| at.0),
        enqueued: job.enqueued().map(|at| at.0),
        started: job.started().map(|at| at.0),
        finished: job.finished().map(|at| at.0),
        expires: job.expires().map(|at| at.0),
        unique: job.unique().map(|key| key.to_string()),
        place: job.order,
        session: rare.session.0,
        cancel_requested: job.cancel_requested,
        result: rare.result.map(|result| result.to_vec()),
        error: rare.error.as_deref().and_then(kind),
        reason: rare.reason.map(|reason| reason.to_string()),
        progress: rare.progress.map(|progress| progress.to_vec()),
        saved: rare.saved.map(|saved| saved.to_vec()),
        runs: rare.history.iter().map(run).collect(),
        schedule: job.recurrence().map(|from| (from.schedule.to_string(), from.slot.map(|slot| slot.0))),
        limits: job.limits().map_or(Vec::new(), |limits| limits.iter().map(as_limit).collect()),
    }
}

fn as_limit(limit: &machine::limit::Limit) -> Limit {
    let (key, window) = (limit.key.to_string(), limit.window.0);
    Limit { kind: limit.kind as u64, key, n: limit.n, window, burst: limit.burst }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..ProptestConfig::default() })]

    /// J1 to J5, J7 to J10, J12, J13, C1, C4, K1, K2, K3, L4, L5, L6, T1.
    #[test]
    fn machine_does_what_the_model_does(acts in prop::collection::vec(act(), 1..80)) {
        let (machine, twin) = (Machine::newest(), Machine::newest());
        let mut run = Run { now: 1_000, machine, twin, ..Run::default() };
        for act in &acts {
            run.take(act)?;
        }
        prop_assert_eq!(run.machine.audit(), Ok(()));
        prop_assert_eq!(run.machine.digest(), run.twin.digest());
    }
}
