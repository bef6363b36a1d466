//! Bytes that nobody meant, for the two decoders of the machine: requests and images. Seeded, so a failure repeats.
//!
//! Whatever comes in: no panic; what the door lets through is never answered with `invalid`; what it refuses changes
//! nothing but the index; an image that loads gives a machine whose parts agree and that goes on working.
//! `RAFTWORK_FUZZ_ROUNDS` runs longer.

use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{self, Command, End, Job, Limit, Note, Own, Spec};
use raftwork::base::{LogIndex, Millis};
use raftwork::machine::{self, Effects, Loader, Machine, Mode};

/// Xorshift: numbers from one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    /// Changes a few bytes: other bits, other values, bytes gone, doubled or new, or the end cut off.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes[at] = [0x00, 0x7f, 0x80, 0xc0, 0xc4, 0xcf, 0xd9, 0xdc, 0xdd, 0xdf, 0xff][self.below(11)],
                3 => {
                    bytes.remove(at);
                }
                4 => bytes.insert(at, self.below(256) as u8),
                5 => bytes.truncate(at),
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        bytes
    }
}

fn rounds(default: usize) -> usize {
    std::env::var("RAFTWORK_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// One request of each verb, which leave a machine with a job in most states.
fn corpus() -> Vec<Vec<u8>> {
    let spec = |mode| Spec {
        tags: vec!["tag".into()],
        unique_mode: mode,
        unique_window: Some(1_000),
        expires: Some(5_000),
        timeout: Some(60_000),
        meta: vec![0x80],
        ..Spec::default()
    };
    let job = |name: &str, spec, delay, unique: Option<&str>| Job {
        id: wire::id(name),
        spec,
        args: vec![0x92, 0x90, 0x80],
        delay,
        run_at: None,
        unique: unique.map(Into::into),
        ..Job::default()
    };
    let enqueued = vec![
        job("a", 0, 0, Some("key")),
        job("b", 1, 0, None),
        job("c", 0, 100, None),
        job("d", 1, 0, Some("other")),
        job("e", 1, 0, None),
        job("f", 1, 0, None),
    ];
    let commands = [
        Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() },
        Command::Enqueue { specs: vec![spec(0), Spec::default()], jobs: enqueued },
        Command::Claim {
            session: 1,
            queues: vec![("default".into(), 3), ("mail".into(), 1)],
            strict: false,
            functions: vec!["f".into(), "g".into()],
            max: 4,
        },
        Command::Progress(vec![Note { id: wire::id("a"), token: 3, progress: Some(vec![1]), state: Some(vec![2]) }]),
        Command::Finish(vec![
            (wire::id("a"), 3, End::Succeeded(Some(vec![1; 40]))),
            (wire::id("b"), 4, End::Retry(10, "Boom".into())),
            (wire::id("d"), 5, End::Failed("Useless".into())),
        ]),
        Command::Cancel { ids: vec![wire::id("e"), wire::id("nobody")], reason: "stop".into() },
        Command::Requeue(vec![wire::id("d")]),
        Command::Pause { queue: "mail".into(), until: Some(9_000), reason: "deploy".into() },
        Command::Tick(1_000),
        Command::Resume("mail".into()),
        Command::Delete(vec![wire::id("c")]),
        Command::Pause { queue: "mail".into(), until: Some(9_000), reason: "deploy".into() },
        Command::Own(Own::PutMember { node: 1 << 63, name: "a".into(), raft: "a:1".into(), client: "a:2".into() }),
        Command::Own(Own::PutMember { node: 7, name: "b".into(), raft: "b:1".into(), client: String::new() }),
        Command::Own(Own::DropMember(7)),
        Command::Own(Own::Digest { index: 1, digest: 2 }),
        Command::Own(Own::SetLevel(2)),
    ];
    // The token is the index of the entry.
    let token = commands.len() as u64 + 1;
    let sequenced =
        |(position, command): (usize, Command)| wire::request(u64::from(position > 0), position as u64, 0, &command);
    let later = access().into_iter().chain(schedules()).chain(shared_locks()).chain(limits());
    commands.into_iter().chain(locks(token)).chain(later).enumerate().map(sequenced).collect()
}

/// Commands about locks, the first of which gets this token.
fn locks(token: u64) -> [Command; 7] {
    [
        Command::Lock(1, "lock".into(), true),
        Command::Lock(2, "lock".into(), true),
        Command::Lock(3, "lock".into(), false),
        Command::Lock(4, "lock".into(), true),
        Command::GiveUp(2),
        Command::Unlock("lock".into(), token),
        Command::Lock(5, "other".into(), false),
    ]
}

/// A semaphore whose third owner waits, and a writer that waits for readers.
fn shared_locks() -> [Command; 7] {
    [
        Command::Own(Own::SetLevel(4)),
        Command::Acquire(6, "semaphore".into(), Mode::Permit(2), true),
        Command::Acquire(7, "semaphore".into(), Mode::Permit(2), true),
        Command::Acquire(8, "semaphore".into(), Mode::Permit(2), true),
        Command::Acquire(9, "map".into(), Mode::Read, true),
        Command::Acquire(10, "map".into(), Mode::Read, false),
        Command::Acquire(11, "map".into(), Mode::Write, true),
    ]
}

/// Something in every table of who may do what.
fn access() -> [Command; 7] {
    [
        Command::Own(Own::PutToken {
            actor: "ann".into(),
            name: "mail".into(),
            secret: "one".into(),
            can: vec!["read".into(), "enqueue:mail".into()],
            expires: Some(9_000),
            overlap: Some(5),
        }),
        Command::Own(Own::RevokeToken { actor: "ann".into(), which: "mail".into() }),
        Command::Own(Own::PutInvitation {
            actor: "ann".into(),
            secret: "door".into(),
            role: "node".into(),
            expires: 9_000,
        }),
        Command::Own(Own::UseInvitation { actor: "joiner".into(), secret: "door".into() }),
        Command::Own(Own::Note { actor: "ann".into(), what: "member.remove".into(), about: "7".into() }),
        Command::Own(Own::PutToken {
            actor: "ann".into(),
            name: "all".into(),
            secret: "two".into(),
            can: vec!["admin".into()],
            expires: None,
            overlap: None,
        }),
        Command::Own(Own::PutInvitation {
            actor: "ann".into(),
            secret: "desk".into(),
            role: "client/a".into(),
            expires: 9_000,
        }),
    ]
}

/// Schedules, one of them paused, and jobs that come from them.
fn schedules() -> Vec<Command> {
    let put = |name: &str, overlap| {
        Recur::Put(Box::new(Put {
            name: name.into(),
            generation: (overlap > 1).then_some(7),
            source: if overlap > 1 { "code" } else { "api" }.into(),
            spec: Spec { queue: "mail".into(), expires: Some(5_000), ..Spec::default() },
            args: vec![0x92, 0x90, 0x80],
            overlap,
            definition: b"0 9 * * *".to_vec(),
            next: Some(1_000),
            limits: if overlap > 2 { vec![limit(0, "key"), limit(3, "key")] } else { Vec::new() },
        }))
    };
    let at = |name: &str, generation, slot| At { name: name.into(), generation, slot, next: Some(slot + 500) };
    let recurs = [
        put("daily", 1),
        put("hourly", 2),
        put("weekly", 3),
        Recur::Fire(at("daily", 1, 1_000), vec![(wire::id("g"), 1_000, None), (wire::id("h"), 1_100, Some(3_000))]),
        Recur::Fire(at("weekly", 7, 1_000), vec![(wire::id("i"), 1_000, None), (wire::id("j"), 1_100, None)]),
        Recur::Move(at("hourly", 7, 1_000)),
        Recur::Pause("hourly".into(), Some("holidays".into())),
        Recur::Trigger("hourly".into(), wire::id("k"), None),
        Recur::Trigger("hourly".into(), wire::id("l"), Some(900)),
        Recur::Delete("weekly".into()),
        Recur::Pause("daily".into(), None),
    ];
    let level = [Command::Own(Own::SetLevel(4))];
    level.into_iter().chain(recurs.into_iter().map(Command::Recur)).collect()
}

fn limit(kind: u64, key: &str) -> Limit {
    Limit { kind, key: key.into(), n: 1, window: 1_000, burst: 2 }
}

/// Jobs behind a limit of each kind, of which one runs, a queue with a limit, and keys that take turns.
fn limits() -> Vec<Command> {
    let all: Vec<Limit> = (0..4).map(|kind| limit(kind, "customer")).collect();
    let job = |name: &str| Job { id: wire::id(name), limits: all.clone(), ..Job::default() };
    let spec = Spec { queue: "limited".into(), ..Spec::default() };
    let fair = Spec { queue: "fair".into(), ..Spec::default() };
    let turn = |name: &str| Job { id: wire::id(name), limits: vec![Limit::fair("customer")], ..Job::default() };
    vec![
        Command::Enqueue { specs: vec![spec], jobs: ["l", "m", "n"].map(job).into() },
        Command::LimitQueue("limited".into(), Some(5)),
        Command::Claim {
            session: 1,
            queues: vec![("limited".into(), 1)],
            strict: true,
            functions: vec!["f".into()],
            max: 9,
        },
        Command::Move(vec![wire::id("l"), wire::id("m")], "elsewhere".into()),
        Command::SetPriority(vec![wire::id("m"), wire::id("n")], -7),
        Command::Own(Own::SetLevel(5)),
        Command::Enqueue { specs: vec![fair], jobs: ["o", "p", "q"].map(turn).into() },
        Command::Claim {
            session: 1,
            queues: vec![("fair".into(), 1)],
            strict: true,
            functions: vec!["f".into()],
            max: 1,
        },
    ]
}

/// What ends the life of a machine; kept apart so that the others find something to do.
fn endings(machine: &Machine) -> Vec<Vec<u8>> {
    let records = machine.finished(0, 10, usize::MAX).into_iter().map(|(_, _, record)| record).collect();
    let commands = [Command::Restore(records), Command::Evict(1), Command::Close(1), Command::Expire(1)];
    commands.iter().map(|command| wire::request(0, 0, 0, command)).collect()
}

fn started() -> Machine {
    let mut machine = Machine::new();
    for (position, request) in corpus().iter().enumerate() {
        assert!(machine::check(request).is_ok());
        let index = LogIndex(position as u64 + 1);
        let reply = machine.apply(index, Millis(1_000), request, &mut Effects::default()).expect("a known operation");
        assert!(wire::reply(&reply).1.is_ok(), "request {position}");
    }
    machine
}

#[test]
fn mutated_requests_are_refused_whole_or_applied_whole() {
    let mut random = Random(0x5eed_0001);
    let mut machine = started();
    let mut requests = corpus();
    requests.extend(endings(&machine));
    let (mut passed, mut refused) = (0, 0);
    for round in 0..rounds(30_000) {
        if round % 500 == 0 {
            assert_eq!(machine.audit(), Ok(()), "round {round}");
            machine = started();
        }
        let pick = random.below(requests.len());
        let request = random.mutate(&requests[pick]);
        let before = if round % 16 == 0 { Some(digest_of_jobs(&machine)) } else { None };
        let index = LogIndex(machine.applied().0 + 1);
        let checked = machine::check(&request);
        let mut effects = Effects::default();
        let reply = machine.apply(index, Millis(1_000), &request, &mut effects);
        let invalid = match reply {
            Err(_) => true,
            Ok(reply) => matches!(wire::reply(&reply).1, Err((code, _, _)) if code == "invalid"),
        };
        assert_eq!(checked.is_err(), invalid, "round {round}: {request:02x?}");
        if invalid {
            refused += 1;
            assert_eq!(effects, Effects::default(), "round {round}");
            assert!(before.is_none_or(|before| before == digest_of_jobs(&machine)), "round {round}");
        } else {
            passed += 1;
        }
    }
    assert!(passed > 100 && refused > 100, "{passed} passed, {refused} refused");
}

/// Ordinal, id and record of finished jobs.
type Finished = Vec<(u64, raftwork::base::JobId, Vec<u8>)>;

/// What a refused request must leave as it is: the finished records and the sums.
fn digest_of_jobs(machine: &Machine) -> (usize, u64, u64, Finished) {
    (machine.len(), machine.bytes(), machine.tally().created, machine.finished(0, 100, usize::MAX))
}

#[test]
fn mutated_images_are_refused_or_give_a_machine_that_works() {
    let mut random = Random(0x5eed_0002);
    let machine = started();
    let mut chunks: Vec<(u8, Vec<u8>)> = Vec::new();
    let written = machine.capture().write(&mut |section, bytes| {
        chunks.push((section, bytes.to_vec()));
        Ok(())
    });
    assert_eq!(written, Ok(()));
    let mut requests = corpus();
    requests.extend(endings(&machine));
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..rounds(20_000) {
        let mut bent = chunks.clone();
        let pick = random.below(bent.len());
        bent[pick].1 = random.mutate(&bent[pick].1);
        let mut loader = Loader::new();
        let taken = bent.iter().try_for_each(|(section, bytes)| loader.section(*section, bytes));
        let Ok(mut machine) = taken.and_then(|()| loader.finish()) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        assert_eq!(machine.audit(), Ok(()), "round {round}");
        for request in &requests {
            let index = LogIndex(machine.applied().0.saturating_add(1));
            let reply = machine.apply(index, Millis(2_000), request, &mut Effects::default());
            assert!(reply.is_ok(), "round {round}");
        }
    }
    assert!(loaded > 100 && refused > 100, "{loaded} loaded, {refused} refused");
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let machine = started();
    let mut whole: Vec<(u8, Vec<u8>)> = Vec::new();
    let written = machine.capture().write(&mut |section, bytes| {
        whole.push((section, bytes.to_vec()));
        Ok(())
    });
    assert_eq!(written, Ok(()));
    for last in 0..whole.len() {
        for length in 0..whole[last].1.len() {
            let mut loader = Loader::new();
            let before = whole[..last].iter().try_for_each(|(section, bytes)| loader.section(*section, bytes));
            let cut = before.and_then(|()| loader.section(whole[last].0, &whole[last].1[..length]));
            assert!(cut.and_then(|()| loader.finish()).is_err(), "section {} cut at {length}", whole[last].0);
        }
    }
}

#[test]
fn an_image_may_be_cut_into_any_chunks() {
    let machine = started();
    let mut random = Random(0x5eed_0003);
    for _ in 0..50 {
        let mut loader = Loader::new();
        let written = machine.capture().write(&mut |section, mut bytes| {
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(1 + random.below(bytes.len()));
                loader.section(section, now)?;
                bytes = later;
            }
            Ok(())
        });
        assert_eq!(written, Ok(()));
        assert_eq!(loader.finish().expect("a whole image").digest(), machine.digest());
    }
}
