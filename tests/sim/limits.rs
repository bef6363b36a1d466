//! Clients whose jobs have limits: keys that many share, and whose jobs meet in pairs. What must hold of it: J13, J6. Others
//! take turns (J8), which the model plays after them.
//!
//! They run in clusters of their own, with the faults of all others: workers that die while they hold the last place of a
//! key, members that start from a snapshot, clocks that jump. The numbers of most keys never change, so that whoever looks at
//! a state can tell what may run; those of one change with every job, and only the model says what becomes of it. One queue
//! has a limit of its own, which changes too.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use raftwork::base::planted::Bug;
use raftwork::base::JobId;
use raftwork::machine::job::State;
use raftwork::machine::{self, Machine};

use crate::cluster::Cluster;
use crate::random::Random;
use crate::wire::{Command, Job, Limit, Own, Spec};
use crate::{fleet, number, rest};

/// Mistakes that only these clients can meet.
pub const BUGS: [Bug; 7] = [
    Bug::LimitOneMore,
    Bug::LimitStaysFull,
    Bug::RateForgotten,
    Bug::TunedStays,
    Bug::TurnKept,
    Bug::FixedAtFirst,
    Bug::QueueOneMore,
];
/// Jobs of one client: few, as each waits for others.
const JOBS: u64 = 60;
const LOOSE: &str = "loose";
/// The queue that has a limit, and the greatest that it gets.
const NARROW: &str = "other";
const NARROW_MOST: u64 = 3;
/// `Limit::kind`.
const BUCKET: u64 = 1;
const SLIDING: u64 = 2;
const FIXED: u64 = 3;

/// What is known of limits outside of the cluster.
#[derive(Debug, Default)]
pub struct Book {
    jobs: BTreeMap<JobId, Vec<Limit>>,
    /// When each run of a job of a rate began, by key and token.
    starts: BTreeMap<String, BTreeMap<u64, u64>>,
    /// Whether the queue has its limit: before, nobody puts a job there.
    pub narrow: bool,
    /// Looks at keys whose every place was taken, and starts seen.
    pub full: u64,
    pub started: u64,
    /// Looks at the queue as full as it ever may be.
    pub crowded: u64,
}

impl Book {
    /// The state of a node: no key has more jobs that run, and no window more starts, than it may.
    pub fn sees(&mut self, index: u64, machine: &Machine) {
        let (mut running, mut narrow): (BTreeMap<&str, (u64, u64)>, u64) = (BTreeMap::new(), 0);
        for (id, limits) in &self.jobs {
            let Some((job, spec)) = machine.job(*id).filter(|(job, _)| job.state == State::Processing) else {
                continue;
            };
            narrow += u64::from(&*spec.queue == NARROW);
            for limit in limits {
                if limit.kind == 0 {
                    let count = running.entry(&limit.key).or_insert((0, limit.n));
                    count.0 += 1;
                    continue;
                }
                let starts = self.starts.entry(limit.key.clone()).or_default();
                let (token, at) = (job.token().unwrap_or_default().0, job.started().unwrap_or_default().0);
                if starts.insert(token, at).is_none() {
                    self.started += 1;
                    rate_holds(limit, starts, index);
                }
            }
        }
        assert!(
            narrow <= NARROW_MOST,
            "J13: {narrow} jobs of queue {NARROW} run at {index}, at most {NARROW_MOST} may"
        );
        self.crowded += u64::from(narrow == NARROW_MOST);
        for (key, (count, n)) in running {
            assert!(count <= n, "J13: {count} jobs of {key} run at {index}, at most {n} may");
            self.full += u64::from(count == n);
        }
    }
}

/// From any start to any later one, no more start than the limit says for that time.
fn rate_holds(limit: &Limit, starts: &BTreeMap<u64, u64>, index: u64) {
    let (Limit { kind, n, window, burst, .. }, times) = (limit, starts.values().copied().collect::<Vec<u64>>());
    for (place, first) in times.iter().enumerate() {
        for (count, last) in (1..).zip(&times[place..]) {
            let most = match *kind {
                SLIDING if last - first < *window => *n,
                FIXED if last / window == first / window => *n,
                BUCKET => burst + (last - first) * n / window,
                _ => break,
            };
            assert!(count <= most, "J13: {count} of {limit:?} started from {first} to {last} ms, by {index}");
        }
    }
}

/// One client's side.
#[derive(Debug)]
pub struct Limited {
    client: usize,
    began: bool,
    made: u64,
    mine: Vec<JobId>,
}

impl Limited {
    pub fn new(client: usize) -> Self {
        Self { client, began: false, made: 0, mine: Vec::new() }
    }

    pub fn next(&mut self, random: &mut Random, book: &mut Book) -> Option<Command> {
        if !self.began {
            self.began = true;
            return Some(Command::Own(Own::SetLevel(machine::LEVEL)));
        }
        if !book.narrow || random.chance(20) {
            return Some(Command::LimitQueue(NARROW.into(), Some(random.between(1, NARROW_MOST))));
        }
        if random.chance(100) && !self.mine.is_empty() {
            let ids = vec![*random.pick(&self.mine)];
            return Some(match random.below(6) {
                0 | 1 => Command::Cancel { ids, reason: "simulated".into() },
                2 => Command::Move(ids, if random.chance(500) { NARROW } else { "default" }.into()),
                3 => Command::SetPriority(ids, random.below(2) as i64),
                _ => Command::Requeue(ids),
            });
        }
        if self.made >= JOBS || !random.chance(150) {
            return None;
        }
        let jobs = (0..random.between(1, 4)).map(|_| self.job(random)).collect::<Vec<_>>();
        let is_judged = |limit: &&Limit| limit.key != LOOSE && (limit.kind == 0 || limit.is_rate());
        let steady = |job: &Job| job.limits.iter().filter(is_judged).cloned().collect();
        book.jobs.extend(jobs.iter().map(|job| (job.id, steady(job))));
        let queue = if random.chance(350) { NARROW } else { "default" }.into();
        let spec = Spec { queue, priority: i64::from(random.chance(200)), max_crashes: 1_000, ..Spec::default() };
        Some(Command::Enqueue { specs: vec![spec], jobs })
    }

    fn job(&mut self, random: &mut Random) -> Job {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.client as u64 + 1).to_be_bytes());
        id[8..].copy_from_slice(&self.made.to_be_bytes());
        self.mine.insert(0, JobId(id));
        self.mine.truncate(30);
        let mut limits = vec![limit(random)];
        if random.chance(400) {
            let (one, other) = (&limits[0], limit(random));
            // A job takes turns by one key at most.
            if one.kind != other.kind || (one.key != other.key && one.kind != 4) {
                limits.push(other);
            }
        }
        let delay = if random.chance(150) { random.between(1, 1_000) } else { 0 };
        Job { id: JobId(id), args: vec![7; 10], delay, limits, ..Job::default() }
    }
}

/// One of few keys.
fn limit(random: &mut Random) -> Limit {
    let at_once = |key: &str, n| Limit { kind: 0, key: key.into(), n, window: 0, burst: 0 };
    let rate = |kind, key: &str, n, window, burst| Limit { kind, key: key.into(), n, window, burst };
    match random.below(12) {
        9..=11 => Limit::fair(format!("tenant{}", random.below(3))),
        0 | 1 => at_once(LOOSE, random.between(1, 3)),
        2 => rate(SLIDING, "rate", 3, 700, 0),
        3 => rate(SLIDING, "slow", 1, 200, 0),
        4 => rate(BUCKET, "bucket", 3, 900, 2),
        5 => rate(FIXED, "fixed", 2, 500, 0),
        6 => at_once("pair", 2),
        _ => at_once("one", 1),
    }
}

/// A cluster whose clients enqueue jobs with limits. Gives how often a key was seen full, starts of rates, and how often the
/// queue was seen full.
fn run(seed: u64) -> [u64; 3] {
    let mut random = Random::new(seed ^ 0x11_17);
    let (nodes, clients) = (*random.pick(&[1, 3, 3, 5]), random.between(1, 3) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, random.between(2, 4) as usize);
    for client in cluster.clients.iter_mut() {
        (client.curious, client.tokens) = (false, None);
        client.limits = (!client.works).then(|| Limited::new(client.number));
    }
    rest::after_trouble(&mut cluster, |cluster| !cluster.lacks_an_answer());
    let book = &cluster.ledger.limits;
    [book.full, book.started, book.crowded]
}

/// J13: at every index that anybody sees, limits hold. J6: no job waits for ever.
#[test]
fn j13_j6_limits_hold_at_every_index() {
    if let Some(seed) = number("RAFTWORK_SIM_LIMIT_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_LIMIT_SEEDS").unwrap_or(60);
    let mut sum = [0; 3];
    for seed in 0..seeds {
        let found = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_LIMIT_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let [full, started, crowded] = sum;
    println!("{seeds} seeds: keys were seen full {full} times, a queue {crowded} times, {started} starts of rates");
    let has_teeth = full > seeds * 5 && started > seeds * 2 && crowded > seeds / 2;
    assert!(has_teeth, "the simulation lost its teeth: {sum:?}");
}

/// Every mistake with limits that can be switched on is found by one of the first seeds.
#[test]
fn planted_limit_bugs_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
