//! One life of a data directory, recorded: what was asked, what was answered, and so what must be found again.

use std::path::PathBuf;
use std::sync::Arc;

use raftwork::base::{ClusterId, Error, Millis, Result};
use raftwork::disk::{FakeDisk, Identity};
use raftwork::snapshot::{SnapshotMeta, SnapshotStore};
use raftwork::wal::{HardState, Recovered, Wal, WalConfig, WalEntry};

use crate::storage::{entry, identity};

/// Steps of the workload. Enough for several rotations, snapshots and dropped segments.
const ROUNDS: u64 = 64;

/// The log as its owner knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub hard_state: HardState,
    /// All entries from index 1 on.
    pub entries: Vec<WalEntry>,
}

/// What was answered, and what was asked last without an answer.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub log: Log,
    pub log_asked: Option<Log>,
    pub snapshot: Option<SnapshotMeta>,
    pub snapshot_asked: Option<SnapshotMeta>,
    pub identity_answered: bool,
    /// How often a full disk was answered and the same thing then done again.
    pub resumed: u64,
}

pub fn dir() -> PathBuf {
    PathBuf::from("/data")
}

pub fn disk(seed: u64) -> FakeDisk {
    FakeDisk::new(seed, &[&dir()])
}

fn config(create: bool) -> WalConfig {
    WalConfig { segment_bytes: 8 << 10, group_bytes_max: 1 << 20, create }
}

/// Runs the whole workload, or up to the first failure that is not a full disk.
pub fn run(disk: &FakeDisk, model: &mut Model) -> Result<()> {
    let (mut wal, _) = open(disk, &identity(), true)?;
    identity().store(disk, &dir())?;
    model.identity_answered = true;
    let mut store = SnapshotStore::open(Arc::new(disk.clone()), &dir(), &identity())?;
    for round in 1..=ROUNDS {
        let next = next_log(&model.log, round);
        append(disk, &mut wal, model, next)?;
        if round % 5 == 0 {
            resume(disk, &mut model.resumed, || wal.spare().work().map(|_| ()))?;
        }
        if round % 14 == 0 {
            snapshot(disk, &store, model)?;
            wal.drop_before(store.log_needed_from())?;
            resume(disk, &mut model.resumed, || wal.spare().work().map(|_| ()))?;
        }
        if round % 25 == 0 {
            drop((wal, store));
            disk.process_ends();
            let mut again = None;
            resume(disk, &mut model.resumed, || {
                again = Some(open(disk, &identity(), false)?.0);
                Ok(())
            })?;
            wal = again.expect("it was opened");
            store = SnapshotStore::open(Arc::new(disk.clone()), &dir(), &identity())?;
        }
    }
    Ok(())
}

/// What the log becomes in this round: new entries of several sizes, a replaced suffix, a vote, an entry larger than a
/// segment.
fn next_log(log: &Log, round: u64) -> Log {
    let mut next = log.clone();
    let term = 1 + round / 20;
    next.hard_state = HardState { term, vote: 1 + round / 13, ..log.hard_state };
    if round.is_multiple_of(13) {
        return next;
    }
    if round.is_multiple_of(11) {
        next.entries.pop(); // The last one is never committed yet, see below.
    }
    let last = next.entries.len() as u64;
    let (count, bytes) = if round == 40 { (1, 9_000) } else { (1 + round % 3, (round as usize * 137) % 900) };
    next.entries.extend((last + 1..=last + count).map(|index| entry(index, term, bytes)));
    next.hard_state.commit = (next.entries.len() as u64 - 1).max(log.hard_state.commit);
    next
}

fn append(disk: &FakeDisk, wal: &mut Wal, model: &mut Model, next: Log) -> Result<()> {
    let same = model.log.entries.iter().zip(&next.entries).take_while(|(left, right)| left == right).count();
    model.log_asked = Some(next.clone());
    resume(disk, &mut model.resumed, || wal.append(Some(next.hard_state), &next.entries[same..]))?;
    model.log = next;
    model.log_asked = None;
    Ok(())
}

fn snapshot(disk: &FakeDisk, store: &SnapshotStore, model: &mut Model) -> Result<()> {
    let index = model.log.hard_state.commit;
    let term = model.log.entries[index as usize - 1].term;
    let meta = SnapshotMeta { index, term, voters: vec![3], now: Millis(index * 10), ..SnapshotMeta::default() };
    model.snapshot_asked = Some(meta.clone());
    resume(disk, &mut model.resumed, || {
        let mut writer = store.begin(meta.clone())?;
        for (section, bytes) in content(&meta) {
            writer.chunk(section, &bytes)?;
        }
        writer.finish().map(|_| ())
    })?;
    model.snapshot = Some(meta);
    model.snapshot_asked = None;
    Ok(())
}

/// Does something, and does it again if the disk was full: A3, a full disk is no reason to stop for good.
fn resume(disk: &FakeDisk, resumed: &mut u64, mut act: impl FnMut() -> Result<()>) -> Result<()> {
    match act() {
        Err(Error::DiskFull(_)) => {
            disk.heal();
            *resumed += 1;
            act()
        }
        other => other,
    }
}

fn content(meta: &SnapshotMeta) -> Vec<(u8, Vec<u8>)> {
    (0..4).map(|section| (section, vec![(meta.index % 251) as u8 + section; 700])).collect()
}

pub fn open(disk: &FakeDisk, identity: &Identity, create: bool) -> Result<(Wal, Recovered)> {
    Wal::open(Arc::new(disk.clone()), &dir(), identity, config(create))
}

/// Opens what a failure left and checks it against the model. Everything is opened three times: recovery repeats itself,
/// also if the power goes right after it. The context names the failure.
pub fn verify(disk: &FakeDisk, model: &Model, context: &str) {
    disk.heal();
    let loaded = Identity::load(disk, &dir()).unwrap_or_else(|error| panic!("{context}: identity: {error}"));
    let Some(loaded) = loaded else {
        assert!(!model.identity_answered, "{context}: the identity is lost");
        let other = Identity { cluster: ClusterId([9; 16]), ..identity() };
        let begun = open(disk, &other, true);
        assert!(matches!(begun, Ok((_, recovered)) if recovered.created), "{context}: the beginning is stuck");
        return;
    };
    assert_eq!(loaded, identity(), "{context}");
    let first = verify_log(disk, model, context);
    disk.process_ends();
    assert_eq!(verify_log(disk, model, context), Recovered { cut_bytes: 0, ..first.clone() }, "{context}: second");
    disk.power_cut(first.last_index());
    assert_eq!(verify_log(disk, model, context), Recovered { cut_bytes: 0, ..first.clone() }, "{context}: third");
    verify_snapshots(disk, model, &first, context);
    verify_continues(disk, &first, context);
}

fn verify_log(disk: &FakeDisk, model: &Model, context: &str) -> Recovered {
    let (_, recovered) = open(disk, &identity(), false).unwrap_or_else(|error| panic!("{context}: D1, D4: {error}"));
    let asked = model.log_asked.as_ref().is_some_and(|log| agrees(&recovered, log));
    assert!(asked || agrees(&recovered, &model.log), "{context}: D1: an answered group is lost or changed");
    let unanswered = model.log_asked.is_some();
    assert!(unanswered || recovered.suspect_upto.is_none(), "{context}: suspicion without a group in flight");
    recovered
}

fn agrees(recovered: &Recovered, log: &Log) -> bool {
    let skipped = recovered.previous_index as usize;
    skipped <= log.entries.len()
        && recovered.hard_state == log.hard_state
        && recovered.entries[..] == log.entries[skipped..]
}

fn verify_snapshots(disk: &FakeDisk, model: &Model, recovered: &Recovered, context: &str) {
    let opened = SnapshotStore::open(Arc::new(disk.clone()), &dir(), &identity());
    let store = opened.unwrap_or_else(|error| panic!("{context}: snapshots: {error}"));
    let latest = store.latest();
    let asked = model.snapshot_asked.is_some() && latest == model.snapshot_asked;
    assert!(asked || latest == model.snapshot, "{context}: {latest:?} instead of {:?}", model.snapshot);
    assert!(store.damaged().is_empty(), "{context}: a power cut damaged a snapshot");
    assert!(recovered.previous_index < store.log_needed_from(), "{context}: the log does not reach the snapshots");
    if let Some(meta) = latest {
        let mut found = Vec::new();
        let read = store.read(&meta, &mut |section, bytes| {
            found.push((section, bytes.to_vec()));
            Ok(())
        });
        assert_eq!((read, found), (Ok(()), content(&meta)), "{context}");
    }
}

fn verify_continues(disk: &FakeDisk, recovered: &Recovered, context: &str) {
    let last = recovered.last_index();
    let more = entry(last + 1, recovered.hard_state.term, 50);
    {
        let (mut wal, _) = open(disk, &identity(), false).unwrap_or_else(|error| panic!("{context}: {error}"));
        wal.append(None, std::slice::from_ref(&more)).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    disk.power_cut(last);
    let (_, after) = open(disk, &identity(), false).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(after.entries.last(), Some(&more), "{context}: D1: what was appended after the recovery is lost");
    assert_eq!(after.last_index(), last + 1, "{context}");
}
