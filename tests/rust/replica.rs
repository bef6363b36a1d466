//! A replica over the fake disk: what was answered survives, what was refused never happens, whatever the disk does.

mod full;
mod salvage;
mod starts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftwork::base::{Error, JobId, Millis, Result};
use raftwork::disk::fake::{Fault, Op};
use raftwork::disk::{Disk, FakeDisk};
use raftwork::machine::Bounds;
use raftwork::replica::{entry, Proposal, Replica, ReplicaConfig, SnapshotWritten, Turn};

use crate::requests::{enqueue, job};

const DIR: &str = "/disk/node";
const ROUNDS: u64 = 24;
const JOBS_A_ROUND: u64 = 3;
/// Rounds between two snapshots.
const SNAPSHOT_EVERY: u64 = 7;

fn disk(seed: u64) -> FakeDisk {
    FakeDisk::new(seed, &[Path::new("/disk")])
}

fn config(disk: &FakeDisk) -> ReplicaConfig {
    ReplicaConfig {
        disk: Arc::new(disk.clone()),
        dir: PathBuf::from(DIR),
        segment_bytes: 16 << 10,
        snapshot_bytes: 1 << 30,
        log_bytes_max: 2 << 30,
        log_bytes_for_peers: 0,
        bounds: Bounds::default(),
        now: Millis(1_000),
        newcomer: None,
        alone: true,
    }
}

fn open(disk: &FakeDisk) -> Result<Replica<JobId>> {
    Replica::open(&config(disk), Box::new(|_| {})).map(|(replica, _)| replica)
}

/// What a client knows about the jobs it sent.
#[derive(Clone, Debug, Default)]
struct Ledger {
    answered: BTreeSet<JobId>,
    refused: BTreeSet<JobId>,
}

/// Sends jobs in one turn and notes the answers, also when the turn fails.
fn send(replica: &mut Replica<JobId>, now: u64, ids: &[JobId], ledger: &mut Ledger) -> Result<()> {
    let proposals = ids.iter().map(|id| Proposal { entry: entry::frame(&enqueue(*id, 300)), ticket: *id }).collect();
    let mut turn = Turn::default();
    let outcome = replica.turn(Millis(now), proposals, &mut turn);
    assert_eq!(turn.answers.len(), ids.len(), "everyone is answered: {:?}", turn.answers);
    for (id, answer) in turn.answers {
        match answer {
            Ok(_) => assert!(ledger.answered.insert(id)),
            Err(error) if error.is_definite() => assert!(ledger.refused.insert(id)),
            Err(Error::Unknown(_)) => {}
            Err(other) => panic!("{other:?} does not say what became of the write"),
        }
    }
    outcome
}

fn snapshot(replica: &mut Replica<JobId>) -> Result<()> {
    let Some(capture) = replica.capture_due(true) else { return Ok(()) };
    let state_bytes = capture.write(&mut || Ok(()));
    replica.captured(SnapshotWritten { meta: capture.meta.clone(), state_bytes })
}

/// A life of a replica: jobs, snapshots, new segments. Ends with the first error.
fn run(disk: &FakeDisk, ledger: &mut Ledger) -> Result<Replica<JobId>> {
    let mut replica = open(disk)?;
    for round in 0..ROUNDS {
        let ids: Vec<JobId> = (0..JOBS_A_ROUND).map(|number| job(round * JOBS_A_ROUND + number)).collect();
        send(&mut replica, 2_000 + round, &ids, ledger)?;
        if round % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1 {
            snapshot(&mut replica)?;
        }
        replica.wal().spare().work()?;
    }
    Ok(replica)
}

fn check_ledger(replica: &Replica<JobId>, ledger: &Ledger, when: &str) {
    let machine = replica.machine().read();
    for id in &ledger.answered {
        assert!(machine.job(*id).is_some(), "{when}: job {id} was answered and is lost (D1)");
    }
    for id in &ledger.refused {
        assert!(machine.job(*id).is_none(), "{when}: job {id} was refused and is there (D2)");
    }
}

/// Opens what is left, compares it with the ledger, and goes on working.
fn verify(disk: &FakeDisk, ledger: &Ledger, when: &str) {
    let mut replica = open(disk).unwrap_or_else(|error| panic!("{when}: {error}"));
    check_ledger(&replica, ledger, when);
    let mut after = ledger.clone();
    let term = replica.term();
    send(&mut replica, 9_000, &[job(900_000)], &mut after).unwrap_or_else(|error| panic!("{when}: {error}"));
    drop(replica);
    let again = open(disk).unwrap_or_else(|error| panic!("{when}, opened again: {error}"));
    check_ledger(&again, &after, when);
    assert!(again.term() > term, "{when}: a term is led once");
}

fn digest(replica: &Replica<JobId>) -> u64 {
    replica.machine().read().digest()
}

fn whole_run() -> (FakeDisk, Ledger) {
    let (whole, mut ledger) = (disk(1), Ledger::default());
    run(&whole, &mut ledger).expect("nothing fails");
    assert_eq!(ledger.answered.len() as u64, ROUNDS * JOBS_A_ROUND);
    (whole, ledger)
}

#[test]
fn d1_answers_survive_a_power_cut_at_every_step() {
    let steps = whole_run().0.steps();
    assert!(steps > 100, "the run shrank to {steps} steps");
    for step in 1..=steps {
        let (cut, mut ledger) = (disk(1), Ledger::default());
        cut.cut_at_step(step);
        assert!(run(&cut, &mut ledger).is_err(), "the power went at step {step}");
        for seed in 0..3 {
            let after = cut.fork();
            after.power_cut(seed);
            verify(&after, &ledger, &format!("cut at step {step} of {steps}, seed {seed}"));
        }
    }
}

#[test]
fn d1_a_killed_process_loses_nothing() {
    let steps = whole_run().0.steps();
    for step in 1..=steps {
        let (killed, mut ledger) = (disk(1), Ledger::default());
        killed.cut_at_step(step);
        assert!(run(&killed, &mut ledger).is_err());
        killed.switch_on();
        verify(&killed, &ledger, &format!("killed at step {step}"));
    }
}

#[test]
fn d3_every_failing_sync_and_write_stops_the_replica_and_loses_nothing() {
    let whole = whole_run().0;
    for op in [Op::Sync, Op::Write, Op::SyncDir, Op::Rename, Op::Create] {
        for number in 1..=whole.count(op) {
            let (failing, mut ledger) = (disk(1), Ledger::default());
            failing.fail(op, number, Fault::Eio, false);
            let when = format!("{op:?} {number} failed");
            // A failing removal of a needless file is no failure of the run; these are.
            let error = run(&failing, &mut ledger).err().unwrap_or_else(|| panic!("{when}: nobody noticed"));
            assert!(!matches!(error, Error::DiskFull(_)), "{when}");
            for cut in [false, true] {
                let after = failing.fork();
                after.heal();
                if cut {
                    after.power_cut(number);
                } else {
                    after.process_ends();
                }
                verify(&after, &ledger, &when);
            }
        }
    }
}

/// After a failed sync the page cache shows a group that the disk lacks, and a later sync does not bring it back: what is
/// appended behind it would be answered, and a power cut would leave a hole before it.
#[test]
fn d3_what_a_failed_sync_lost_is_written_again_before_anything_follows_it() {
    let whole = whole_run().0;
    let mut shown = 0;
    for number in 1..=whole.count(Op::Sync) {
        let (failing, mut ledger) = (disk(1), Ledger::default());
        failing.fail(Op::Sync, number, Fault::Eio, false);
        run(&failing, &mut ledger).err().expect("the failed sync is noticed");
        let unanswered = job(ledger.answered.len() as u64);
        failing.process_ends();
        let when = format!("sync {number} failed, opened again");
        let mut replica = open(&failing).unwrap_or_else(|error| panic!("{when}: {error}"));
        shown += usize::from(replica.machine().read().job(unanswered).is_some());
        for round in 0..3 {
            send(&mut replica, 9_000, &[job(900_000 + round)], &mut ledger).unwrap();
        }
        let before = digest(&replica);
        drop(replica);
        for seed in 0..4 {
            let (cut, when) = (failing.fork(), format!("{when}, then the power went, seed {seed}"));
            cut.power_cut(seed);
            let again = open(&cut).unwrap_or_else(|error| panic!("{when}: {error}"));
            check_ledger(&again, &ledger, &when);
            assert_eq!(digest(&again), before, "{when}: what was seen is gone");
        }
    }
    assert!(shown > 10, "the cache showed a lost group only {shown} times");
}

#[test]
fn d3_a_stopped_replica_takes_nothing_more() {
    let (failing, mut ledger) = (disk(1), Ledger::default());
    let mut replica = open(&failing).unwrap();
    send(&mut replica, 2_000, &[job(1)], &mut ledger).unwrap();
    failing.fail(Op::Sync, failing.count(Op::Sync) + 1, Fault::Eio, false);
    send(&mut replica, 2_001, &[job(2)], &mut ledger).unwrap_err();
    // The disk is well again, but what the page cache says is not to be believed.
    let later = send(&mut replica, 2_002, &[job(3)], &mut ledger);
    assert!(matches!(later, Err(Error::Poisoned(_))), "{later:?}");
    assert!(ledger.refused.contains(&job(3)) && !ledger.refused.contains(&job(2)));
    drop(replica);
    failing.power_cut(3);
    verify(&failing, &ledger, "after the failed sync");
}

#[test]
fn a_full_disk_refuses_before_the_log_and_resumes() {
    let whole = whole_run().0;
    for number in 1..=whole.count(Op::Create) {
        let (full, mut ledger) = (disk(1), Ledger::default());
        full.fail(Op::Create, number, Fault::Enospc, true);
        let Ok(mut replica) = open(&full) else {
            full.heal();
            verify(&full, &ledger, &format!("making the directory, creation {number}"));
            continue;
        };
        let mut ids = (0..).map(|round| [job(round * 2), job(round * 2 + 1)]);
        while ledger.refused.is_empty() {
            assert!(ledger.answered.len() < 1_000, "creation {number}: no file was needed in all that time");
            send(&mut replica, 2_000, &ids.next().unwrap(), &mut ledger).unwrap();
            // A spare that cannot be made is tried again.
            let _ = replica.wal().spare().work();
        }
        full.heal();
        let before = ledger.answered.len();
        for ids in ids.by_ref().take(30) {
            send(&mut replica, 2_001, &ids, &mut ledger).unwrap();
        }
        assert_eq!(ledger.answered.len(), before + 60, "writes go on when there is room");
        check_ledger(&replica, &ledger, "while it runs");
        drop(replica);
        full.power_cut(number);
        verify(&full, &ledger, &format!("creation {number}"));
    }
}

#[test]
fn a_reopened_replica_has_the_same_state() {
    let (whole, _) = whole_run();
    let before = digest(&open(&whole).unwrap());
    let mut replica = open(&whole).unwrap();
    assert_eq!(digest(&replica), before, "replayed from the last snapshot");
    snapshot(&mut replica).unwrap();
    drop(replica);
    assert_eq!(digest(&open(&whole).unwrap()), before, "loaded from a new one");
    whole.power_cut(7);
    assert_eq!(digest(&open(&whole).unwrap()), before, "after a power cut");
}

#[test]
fn a_damaged_snapshot_costs_nothing_while_the_older_one_is_whole() {
    let (whole, ledger) = whole_run();
    let before = digest(&open(&whole).unwrap());
    let snap = Path::new(DIR).join("snap");
    let names = whole.list(&snap).unwrap();
    let newest = snap.join(names.last().unwrap());
    let mut bytes = whole.content(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    whole.put(&newest, &bytes);
    assert_eq!(digest(&open(&whole).unwrap()), before);
    verify(&whole, &ledger, "with the older snapshot");
}

#[test]
fn what_is_missing_is_named_and_never_begun_anew() {
    let (whole, _) = whole_run();
    let without = |part: &str| {
        let disk = whole.fork();
        for name in disk.list(&Path::new(DIR).join(part)).unwrap() {
            disk.remove(&Path::new(DIR).join(part).join(name)).unwrap();
        }
        open(&disk).err().unwrap_or_else(|| panic!("opened without {part}"))
    };
    assert!(matches!(without("wal"), Error::Corrupt { .. }));
    assert!(matches!(without("snap"), Error::Corrupt { .. }));
    let nameless = whole.fork();
    nameless.remove(&Path::new(DIR).join("IDENTITY")).unwrap();
    assert!(matches!(open(&nameless), Err(Error::Foreign(_))));
}

#[test]
fn stamps_never_go_back_also_over_a_restart() {
    let (disk, mut ledger) = (disk(1), Ledger::default());
    let mut replica = open(&disk).unwrap();
    for (now, stamp, id) in [(5_000, 5_000, 1), (4_000, 5_000, 2), (6_000, 6_000, 3)] {
        send(&mut replica, now, &[job(id)], &mut ledger).unwrap();
        assert_eq!(replica.machine().read().clock(), Millis(stamp));
    }
    drop(replica);
    let mut replica = open(&disk).unwrap();
    assert_eq!(replica.stamped(), Millis(6_000));
    send(&mut replica, 10, &[job(4)], &mut ledger).unwrap();
    assert_eq!(replica.machine().read().clock(), Millis(6_000));
}

#[test]
fn snapshots_bound_the_log() {
    let (disk, mut ledger) = (disk(1), Ledger::default());
    let config = ReplicaConfig { snapshot_bytes: 128 << 10, log_bytes_max: 512 << 10, ..config(&disk) };
    let (mut replica, _) = Replica::open(&config, Box::new(|_| {})).unwrap();
    let (mut snapshots, mut highest) = (0, 0);
    for round in 0..600u64 {
        let ids: Vec<JobId> = (0..10).map(|number| job(round * 10 + number)).collect();
        send(&mut replica, 2_000, &ids, &mut ledger).unwrap();
        if let Some(capture) = replica.capture_due(false) {
            let state_bytes = capture.write(&mut || Ok(()));
            replica.captured(SnapshotWritten { meta: capture.meta.clone(), state_bytes }).unwrap();
            snapshots += 1;
        }
        replica.wal().spare().work().unwrap();
        highest = highest.max(replica.wal().bytes());
        assert!(replica.has_room());
    }
    assert!(snapshots >= 5, "{snapshots} snapshots for about 2.5 MB of log");
    assert!(highest <= 2 * (512 << 10), "{highest} bytes of log");
}
