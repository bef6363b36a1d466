//! The deterministic simulator: whole clusters with clients and workers in one thread, from one seed.
//!
//! `cargo test --features sim --test sim` runs `RAFTWORK_SIM_SEEDS` seeds on all cores. A failure prints its seed;
//! `RAFTWORK_SIM_SEED=n` runs that one again, in the same way, event by event; `RAFTWORK_SIM_TRACE=1` shows the faults.

extern crate _core as raftwork;

mod checkers;
mod clients;
mod cluster;
mod faults;
mod fleet;
mod flows;
mod history;
mod json;
mod limits;
mod linear;
mod locks;
mod losses;
mod membership;
mod model;
mod network;
mod node;
mod operator;
mod planted;
mod properties;
mod random;
mod record;
mod replay;
mod rest;
mod schedules;
mod slow;
mod storms;
mod tokens;
mod traffic;
mod transfers;
mod verdicts;
mod versions;
mod waiting;
#[path = "../rust/wire.rs"]
#[allow(dead_code, reason = "the scripts of the state machine use more of it")]
mod wire;

use cluster::Cluster;
use raftwork::machine::LEVEL;
use random::Random;

/// How many seeds run unless somebody says otherwise, and the events that so many must come to.
const SEEDS: u64 = 2_000;
const EVENTS_MIN: u64 = 100_000_000;

/// Microseconds since the simulation began.
pub type Micros = u64;

const SECOND: Micros = 1_000_000;
/// How long things go wrong, and how long they may take to come to rest afterwards.
const TROUBLE: Micros = 20 * SECOND;
const REST: Micros = 240 * SECOND;

/// What one run did, to see that it did something.
#[derive(Debug, Default)]
struct Outcome {
    /// Events: what was taken from the queue, each tick, turn, arrival, request, fault.
    events: u64,
    /// Entries that a node applied, and calls of the fake disks. Not counted as events.
    applied: u64,
    disk_calls: u64,
    answers: u64,
    reads: u64,
    acknowledged: usize,
    terms: usize,
    snapshots_installed: u64,
    /// What the fault generator wrote down: faults, their ends, and what followed.
    notes: usize,
    /// Changes of the members that came into force.
    changes: u64,
    /// Clusters whose feature level was raised.
    raised: u64,
    /// Tokens that were taken back.
    revoked: u64,
    /// Of all events: see `Cluster::hash`.
    hash: u64,
}

impl Outcome {
    fn add(&mut self, other: &Outcome) {
        self.events += other.events;
        self.applied += other.applied;
        self.disk_calls += other.disk_calls;
        self.answers += other.answers;
        self.reads += other.reads;
        self.acknowledged += other.acknowledged;
        self.terms += other.terms;
        self.snapshots_installed += other.snapshots_installed;
        self.notes += other.notes;
        self.changes += other.changes;
        self.raised += other.raised;
        self.revoked += other.revoked;
        self.hash ^= other.hash;
    }
}

fn run(seed: u64) -> Outcome {
    raftwork::machine::be_newer(false);
    let mut random = Random::new(seed ^ 0xabcd);
    let nodes = *random.pick(&[1, 3, 3, 3, 5, 5]);
    let (clients, workers) = (random.between(1, 3) as usize, random.between(1, 3) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, workers);
    rest::after_trouble(&mut cluster, |_| true);
    Outcome {
        events: cluster.steps,
        applied: cluster.log.applied,
        disk_calls: cluster.nodes.iter().map(|node| node.disk.calls()).sum(),
        answers: cluster.ledger.answers,
        reads: cluster.ledger.reads,
        acknowledged: cluster.ledger.acknowledged(),
        terms: cluster.history.terms_led(),
        snapshots_installed: cluster.snapshots_installed,
        notes: cluster.notes.len(),
        changes: cluster.log.changes(),
        raised: u64::from(cluster.log.level() > LEVEL),
        revoked: cluster.ledger.tokens.revoked(),
        hash: cluster.hash,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

#[test]
fn nothing_that_was_promised_breaks() {
    if let Some(seed) = number("RAFTWORK_SIM_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let first = number("RAFTWORK_SIM_FIRST").unwrap_or(0);
    let total = fleet::seeds(first..first + seeds);
    println!("{seeds} seeds, {} events in {} s: {total:?}", total.events, began.elapsed().as_secs());
    assert!(
        total.reads > seeds && total.snapshots_installed > 0 && total.terms as u64 > seeds && 4 * total.changes > seeds,
        "the simulation lost its teeth: {total:?}"
    );
    let is_enough = total.events >= EVENTS_MIN && 20 * total.raised > seeds && total.revoked > seeds;
    assert!(seeds < SEEDS || is_enough, "the simulation became smaller: {total:?}");
}

/// Seeds beyond the first `SEEDS` that failed once: what each met is told in docs/internals/simulation.md.
const FAILED_ONCE: [u64; 10] = [2_710, 3_997, 5_110, 5_194, 6_235, 6_973, 8_488, 8_647, 9_439, 9_959];

#[test]
fn seeds_that_failed_once_hold() {
    for seed in FAILED_ONCE {
        let _ = run(seed);
    }
}

#[test]
fn a_seed_repeats_itself() {
    let mut total = Outcome::default();
    for seed in 0..24 {
        let first = run(seed);
        total.add(&first);
        assert_eq!(format!("{first:?}"), format!("{:?}", run(seed)), "seed {seed}");
    }
    assert!(total.changes > 0, "{total:?}");
}
