//! U4: files written by each version open for ever. `golden/v1` and `golden/v2` (a log and a snapshot file) and
//! `golden/node-v1` and later (whole data directories with a state of that version) are never written again: a change that needs new
//! golden files needs a new directory beside the old. `RAFTWORK_GOLDEN=directory` and `RAFTWORK_GOLDEN_NODE` write one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftwork::base::{ClusterId, GroupId, LogIndex, Millis, NodeId};
use raftwork::disk::{Identity, RealDisk};
use raftwork::machine::{Bounds, Effects, Machine, Mode};
use raftwork::replica::{entry as framed, Proposal, Replica, ReplicaConfig, SnapshotWritten, Turn};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};
use raftwork::wal::{inspect_on, Group, HardState, Mark, Wal, WalConfig, WalEntry};

use crate::storage::entry;
use crate::wire::flows::Batch;
use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{self, id, Command, End, Job, Limit, Own, Spec};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rust/golden").join(name)
}

/// Opening a directory writes into it, so a copy is opened.
fn copy(name: &str, to: &Path) {
    for part in ["wal", "snap"] {
        fs::create_dir(to.join(part)).expect("a directory");
        for file in fs::read_dir(golden(name).join(part)).expect("it is committed") {
            let file = file.expect("it is committed");
            fs::copy(file.path(), to.join(part).join(file.file_name())).expect("room");
        }
    }
    fs::copy(golden(name).join("IDENTITY"), to.join("IDENTITY")).expect("room");
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(*b"golden cluster 1"),
        group: GroupId(1),
        node: NodeId(42),
        created: Millis(1_700_000_000_000),
    }
}

fn entries() -> Vec<WalEntry> {
    (1..=30).map(|index| entry(index, 1 + index / 10, 150 + 13 * (index as usize % 7))).collect()
}

/// What the snapshot of this version says: version 2 names every member of a joint configuration.
fn meta(version: u32) -> SnapshotMeta {
    let plain = SnapshotMeta {
        index: 20,
        term: 3,
        voters: vec![42, 43],
        learners: vec![44],
        now: Millis(1_700_000_000_123),
        state_version: 1,
        ..SnapshotMeta::default()
    };
    match version {
        1 => plain,
        _ => SnapshotMeta { voters_outgoing: vec![42, 45], learners_next: vec![45], auto_leave: true, ..plain },
    }
}

fn chunks() -> Vec<(u8, Vec<u8>)> {
    let mixed = (0..200u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![(1, vec![7; 400]), (2, mixed), (255, b"the end".to_vec())]
}

/// How the files were made. Kept because it documents them; a test checks that it still makes the same content.
fn write(dir: &Path) {
    let config = WalConfig { segment_bytes: 8 << 10, group_bytes_max: 1 << 20, create: true };
    let (mut wal, _) = Wal::open(Arc::new(RealDisk), dir, &identity(), config).expect("a new log");
    identity().store(&RealDisk, dir).expect("room");
    for pair in entries().chunks(2) {
        let hard_state = HardState { term: pair[0].term, vote: 42, commit: pair[0].index - 1 };
        let conf_state = (pair[0].index == 11).then_some(&b"configuration"[..]);
        let mark = (pair[0].index == 23).then_some(Mark { index: 20, term: 3 });
        let group = Group { hard_state: Some(hard_state), conf_state, mark, entries: pair, ..Group::default() };
        wal.append_group(&group).expect("room");
    }
    let store = SnapshotStore::open(Arc::new(RealDisk), dir, &identity()).expect("no snapshots");
    let mut writer = store.begin(meta(2)).expect("room");
    for (section, bytes) in chunks() {
        writer.chunk(section, &bytes).expect("room");
    }
    writer.finish().expect("room");
}

fn check(dir: &Path, version: u32) {
    assert!(inspect_on(&raftwork::disk::RealDisk, dir).expect("it can be read").is_healthy());
    assert_eq!(Identity::load(&RealDisk, dir), Ok(Some(identity())));
    let (wal, recovered) =
        Wal::open(Arc::new(RealDisk), dir, &identity(), WalConfig::default()).expect("an old log opens");
    assert_eq!(recovered.entries, entries());
    assert_eq!(recovered.hard_state, HardState { term: 3, vote: 42, commit: 28 });
    assert_eq!(&recovered.conf_state[..], b"configuration");
    assert_eq!(recovered.mark, Some(Mark { index: 20, term: 3 }));
    assert_eq!((recovered.cut_bytes, recovered.suspect_upto, recovered.previous_index), (0, None, 0));
    drop(wal);
    let store = SnapshotStore::open(Arc::new(RealDisk), dir, &identity()).expect("an old snapshot is whole");
    assert_eq!(store.latest(), Some(meta(version)));
    let mut found = Vec::new();
    let read = store.read(&meta(version), &mut |section, bytes| {
        found.push((section, bytes.to_vec()));
        Ok(())
    });
    assert_eq!((read, found), (Ok(()), chunks()));
}

#[test]
fn u4_the_log_and_the_snapshot_of_every_version_open() {
    for (version, name) in [(1, "v1"), (2, "v2")] {
        let dir = tempfile::tempdir().expect("a directory");
        copy(name, dir.path());
        check(dir.path(), version);
    }
}

#[test]
fn u4_this_version_writes_what_the_golden_files_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path());
    if let Some(kept) = std::env::var_os("RAFTWORK_GOLDEN") {
        write(Path::new(&kept)); // A new directory, to be committed once.
    }
    assert!(
        fs::read(dir.path().join("IDENTITY")).expect("it was stored")
            == fs::read(golden("v2").join("IDENTITY")).expect("it is committed")
    );
    check(dir.path(), 2);
}

/// What a node was asked that has a state of this version: something in every table of the state.
fn commands(version: u32) -> Vec<(u64, u64, Command)> {
    let mut commands = commands_of_jobs();
    if version >= 3 {
        let mut before = [commands_of_access(), commands_of_locks()].concat();
        if version >= 4 {
            before.extend(commands_of_schedules());
        }
        if version >= 5 {
            before.extend(commands_of_shared_locks());
            before.extend(commands_of_flows());
        }
        if version >= 6 {
            before.extend(commands_of_errors(3 + before.len() as u64));
        }
        // A session has the index of its entry, and a lease at least that of its own.
        let by = before.len() as u64;
        for (session, _, command) in &mut commands {
            *session += by * u64::from(*session > 0);
            match command {
                Command::Claim { session, .. } => *session += by,
                Command::Finish(results) => results.iter_mut().for_each(|(_, token, _)| *token += by),
                _ => {}
            }
        }
        commands.splice(0..0, before);
    }
    commands
}

fn commands_of_access() -> Vec<(u64, u64, Command)> {
    let (actor, expires) = ("ann".to_owned(), 1_800_000_000_000);
    let token = Own::PutToken {
        actor: actor.clone(),
        name: "mail".into(),
        secret: "one".into(),
        can: vec!["enqueue:mail".into(), "read".into()],
        expires: Some(expires),
        overlap: None,
    };
    let invitation = Own::PutInvitation { actor, secret: "door".into(), role: "node".into(), expires };
    [Own::SetLevel(2), token, invitation].map(|own| (0, 0, Command::Own(own))).into()
}

/// After those of access: one session holds a lock, another waits for it.
fn commands_of_locks() -> Vec<(u64, u64, Command)> {
    let open = || (0, 0, Command::Open { ttl: 60_000, kind: "client".into(), host: "box".into() });
    let lock = |session| (session, 1, Command::Lock(1, "report".into(), true));
    vec![open(), open(), lock(6), lock(7)]
}

/// After those of locks: a schedule that fired, one that is paused, one that is gone, and their jobs.
fn commands_of_schedules() -> Vec<(u64, u64, Command)> {
    let put = |name: &str, generation: Option<u64>| {
        Recur::Put(Box::new(Put {
            name: name.into(),
            generation,
            source: if generation.is_some() { "code" } else { "api" }.into(),
            spec: Spec { queue: "recurring".into(), ..Spec::default() },
            args: vec![7; 40],
            overlap: 1,
            definition: b"0 9 * * *".to_vec(),
            next: Some(1_700_000_000_000),
            limits: Vec::new(),
        }))
    };
    let (slot, next) = (1_700_000_000_000, Some(1_700_086_400_000));
    let at = At { name: "report".into(), generation: 1, slot, next };
    let recurs = [
        put("report", None),
        put("sync", Some(9)),
        put("gone", Some(4)),
        Recur::Fire(at, vec![(id("first"), slot, None), (id("second"), slot + 1, None)]),
        Recur::Pause("sync".into(), Some("golden".into())),
        Recur::Trigger("sync".into(), id("by hand"), None),
        Recur::Delete("gone".into()),
    ];
    let level = [(0, 0, Command::Own(Own::SetLevel(3)))];
    level.into_iter().chain(recurs.map(|recur| (0, 0, Command::Recur(recur)))).collect()
}

/// After those of schedules: two permits of a semaphore are held and a third is waited for; a writer waits for a reader.
fn commands_of_shared_locks() -> Vec<(u64, u64, Command)> {
    let acquire =
        |session, number, name: &str, mode| (session, number, Command::Acquire(number, name.into(), mode, true));
    vec![
        (0, 0, Command::Own(Own::SetLevel(4))),
        acquire(6, 2, "gpu", Mode::Permit(2)),
        acquire(7, 2, "gpu", Mode::Permit(2)),
        acquire(6, 3, "gpu", Mode::Permit(2)),
        acquire(6, 4, "map", Mode::Read),
        acquire(7, 3, "map", Mode::Write),
    ]
}

/// After those of shared locks: batches, one of them finished, children that wait, and one that was cancelled for its parent; limits.
fn commands_of_flows() -> Vec<(u64, u64, Command)> {
    let job = |name: &str, parents: &[&str], batch: Option<&str>| Job {
        id: id(name),
        parents: parents.iter().map(|parent| (id(parent), 0, true)).collect(),
        batch: batch.map(id),
        ..Job::default()
    };
    let spec = Spec { queue: "flows".into(), ..Spec::default() };
    let limit = |kind, key: &str| Limit { kind, key: key.into(), n: 1, window: 60_000, burst: 1 };
    let limits = vec![limit(0, "tenant"), limit(1, "calls")];
    let jobs = vec![
        job("parent", &[], None),
        job("gone", &[], None),
        job("waits", &["parent", "outer"], None),
        job("lost", &["gone", "parent"], None),
        job("member", &[], Some("inner")),
        Job { limits: limits.clone(), ..job("limited", &[], None) },
        Job { limits, ..job("held back", &["parent"], None) },
    ];
    vec![
        (0, 0, Command::Batch(Batch::Open(id("outer"), "month-end".into(), None))),
        (0, 0, Command::Batch(Batch::Open(id("inner"), "tenants".into(), Some(id("outer"))))),
        (0, 0, Command::Batch(Batch::Open(id("over"), "nobody".into(), None))),
        (0, 0, Command::Batch(Batch::Seal(id("over")))),
        (0, 0, Command::Enqueue { specs: vec![spec], jobs }),
        (0, 0, Command::Batch(Batch::Seal(id("outer")))),
        (0, 0, Command::Cancel { ids: vec![id("gone")], reason: "golden".into() }),
    ]
}

/// After those of flows, from this index on: a job that failed for good.
fn commands_of_errors(index: u64) -> Vec<(u64, u64, Command)> {
    let spec = Spec { queue: "errors".into(), ..Spec::default() };
    let claim = Command::Claim {
        session: 6,
        queues: vec![("errors".into(), 1)],
        strict: false,
        functions: vec!["f".into()],
        max: 1,
    };
    // The token of a lease is the index of its entry.
    let failed = (id("mistake"), index + 2, End::Failed("ValueError#0123456789abcdef".into()));
    vec![
        (0, 0, Command::Own(Own::SetLevel(5))),
        (0, 0, Command::Enqueue { specs: vec![spec], jobs: vec![Job { id: id("mistake"), ..Job::default() }] }),
        (6, 5, claim),
        (6, 6, Command::Finish(vec![failed])),
    ]
}

fn commands_of_jobs() -> Vec<(u64, u64, Command)> {
    let named = |names: &[&str], delay, unique: Option<&str>| {
        let unique = unique.map(str::to_owned);
        names
            .iter()
            .map(|name| Job { id: id(name), args: vec![7; 40], delay, unique: unique.clone(), ..Job::default() })
            .collect()
    };
    let windowed = Spec { unique_window: Some(3_600_000), queue: "mail".into(), ..Spec::default() };
    let claim = |session| Command::Claim {
        session,
        queues: vec![("default".into(), 1)],
        strict: false,
        functions: vec!["f".into()],
        max: 2,
    };
    vec![
        (0, 0, Command::Open { ttl: 60_000, kind: "worker".into(), host: "box".into() }),
        (0, 0, Command::Enqueue { specs: vec![Spec::default()], jobs: named(&["a", "b", "c"], 0, None) }),
        (0, 0, Command::Enqueue { specs: vec![windowed], jobs: named(&["once"], 0, Some("key")) }),
        (0, 0, Command::Enqueue { specs: vec![Spec::default()], jobs: named(&["later"], 9_000_000, None) }),
        (3, 1, claim(3)),
        (3, 2, Command::Finish(vec![(id("a"), 7, End::Succeeded(Some(vec![1])))])),
        (0, 0, Command::Pause { queue: "mail".into(), until: None, reason: "golden".into() }),
        (0, 0, Command::Cancel { ids: vec![id("c")], reason: "golden".into() }),
        (0, 0, Command::Evict(1)),
    ]
}

fn node_config(dir: &Path) -> ReplicaConfig {
    ReplicaConfig {
        disk: Arc::new(RealDisk),
        dir: dir.to_owned(),
        segment_bytes: 8 << 10,
        snapshot_bytes: 1 << 30,
        log_bytes_max: 2 << 30,
        log_bytes_for_peers: 0,
        bounds: Bounds::default(),
        now: Millis(1_700_000_000_000),
        newcomer: None,
        alone: true,
    }
}

/// A data directory with all but three of the commands in a snapshot, and those in the log.
fn write_node(dir: &Path) {
    let commands = commands(6);
    let captured = commands.len() as u64 - 4;
    let (mut replica, _) = Replica::<u64>::open(&node_config(dir), Box::new(|_| {})).expect("a new directory");
    for (number, (session, sequence, command)) in (0..).zip(commands) {
        let entry = framed::frame(&wire::request(session, sequence, 0, &command));
        let mut turn = Turn::default();
        let proposals = vec![Proposal { entry, ticket: number }];
        replica.turn(Millis(1_700_000_000_000 + number), proposals, &mut turn).expect("room");
        assert!(turn.answers.iter().all(|(_, answer)| answer.is_ok()), "{:?}", turn.answers);
        if number == captured {
            let capture = replica.capture_due(true).expect("one is wanted");
            let state_bytes = capture.write(&mut || Ok(()));
            replica.captured(SnapshotWritten { meta: capture.meta.clone(), state_bytes }).expect("room");
        }
    }
    replica.flush().expect("room");
}

/// The same commands in memory, with the state that follows from them.
fn expected(version: u32) -> Machine {
    let mut machine = Machine::new();
    for (number, (session, sequence, command)) in (0..).zip(commands(version)) {
        let (index, now) = (LogIndex(3 + number), Millis(1_700_000_000_000 + number));
        let request = wire::request(session, sequence, 0, &command);
        machine.apply(index, now, &request, &mut Effects::default()).expect("a known operation");
    }
    machine
}

fn check_node(dir: &Path, version: u32) {
    let (replica, opened) = Replica::<u64>::open(&node_config(dir), Box::new(|_| {})).expect("an old directory opens");
    assert_eq!((opened.cut_bytes, opened.replayed), (0, 4), "three commands and the first entry of the new term");
    let (machine, expected) = (replica.machine().read(), expected(version));
    machine.audit().expect("everything follows from the records");
    assert_eq!(machine.digest(), expected.digest());
    assert_eq!(machine.view(&[0x91, 1]), expected.view(&[0x91, 1]));
    let finished = match version {
        ..=4 => 2,
        5 => 4,
        _ => 5,
    };
    assert_eq!((machine.finished_upto(), machine.evicted_upto()), (finished, 1));
    let holders = machine.view(&[0x93, 60, 0xc0, 10]).expect("a question");
    let rows = match version {
        1 | 2 => 0x90,
        3 | 4 => 0x91,
        _ => 0x94,
    };
    assert_eq!(holders[1], rows, "rows");
    let locks = machine.view(&[0x93, 30, 0xc0, 10]).expect("a question");
    // One row whose last number says who waits, and no page after it; or no rows.
    assert!(locks.ends_with(if version < 3 { &[0x90, 0xc0] } else { &[1, 0xc0] }), "{locks:x?}");
    let schedules = machine.view(&[0x93, 31, 0xc0, 10]).expect("a question");
    assert_eq!(schedules[0], if version < 4 { 0x90 } else { 0x92 }, "rows");
    let batches = machine.view(&[0x93, 40, 0xc0, 10]).expect("a question");
    assert_eq!(batches[0], if version < 5 { 0x90 } else { 0x93 }, "rows");
    let errors = machine.view(&[0x92, 70, 10]).expect("a question");
    assert_eq!(errors[..3], if version < 6 { [0x92, 0, 0x90] } else { [0x92, 1, 0x91] }, "how many, and rows");
}

#[test]
fn u4_a_data_directory_of_every_version_opens_with_the_same_state() {
    for (version, name) in
        [(1, "node-v1"), (2, "node-v2"), (3, "node-v3"), (4, "node-v4"), (5, "node-v5"), (6, "node-v6")]
    {
        let dir = tempfile::tempdir().expect("a directory");
        copy(name, dir.path());
        check_node(dir.path(), version);
    }
}

#[test]
fn u3_a_state_is_written_as_the_version_before_until_the_level_is_raised() {
    let mut machine = expected(2);
    assert_eq!(machine.capture().state_version(), 2);
    for (level, version) in [(2, 3), (3, 4), (4, 5), (5, 6)] {
        let request = wire::request(0, 0, 0, &Command::Own(Own::SetLevel(level)));
        machine.apply(LogIndex(97 + level), Millis(0), &request, &mut Effects::default()).expect("a known operation");
        assert_eq!(machine.capture().state_version(), version);
    }
}

#[test]
fn u4_a_data_directory_of_this_version_opens_with_the_same_state() {
    let dir = tempfile::tempdir().expect("a directory");
    write_node(dir.path());
    if let Some(kept) = std::env::var_os("RAFTWORK_GOLDEN_NODE") {
        write_node(Path::new(&kept)); // A new directory, to be committed once.
    }
    check_node(dir.path(), 6);
}
