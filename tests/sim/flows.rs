//! Clients whose jobs wait for jobs and batches of each other. What must hold of it: J11, J6.
//!
//! They run in clusters of their own, with the faults of all others. Parents succeed, fail, crash, are cancelled,
//! deleted and requeued; batches are opened inside of each other, take members of everybody, are sealed and cancelled.
//! Some jobs have unique keys (J10), for a time or until they end, so that a child is not stored, makes way while it waits, or
//! finds its key taken when its parent is requeued. In every other cluster jobs leave memory soon, and come back from an
//! archive with their children. In most a command settles so few that a cascade takes many, with crashes and new leaders
//! between them. When the trouble is over their owners seal what is open, and nobody may wait any more. Each entry is judged by
//! what clients wanted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::catch_unwind;

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::planted::Bug;
use raftwork::base::{JobId, LogIndex};
use raftwork::machine::flows::Standing;
use raftwork::machine::job::State;
use raftwork::machine::{self, record, Effects, Machine};
use raftwork::replica::{entry, Proposal};

use crate::cluster::Cluster;
use crate::node::Ticket;
use crate::random::Random;
use crate::replay::Log;
use crate::wire::flows::Batch;
use crate::wire::{self, Command, Job, Own, Spec};
use crate::{fleet, number, rest};

mod plan;

/// Mistakes that only these clients can meet.
pub const BUGS: [Bug; 9] = [
    Bug::SettleTwice,
    Bug::OrphanAfterCrash,
    Bug::RequeuedCountsTwice,
    Bug::RestForgotten,
    Bug::ComesBackDeaf,
    Bug::KeyTakenTwice,
    Bug::InnerGoesOn,
    Bug::WindowEndsEarly,
    Bug::RaiseSkips,
];
/// Jobs and batches of one client: few, as each is looked at after each entry.
const JOBS: u64 = 60;
const BATCHES: u64 = 8;
/// The newest jobs and batches, which new ones wait for or join.
const NEWEST: usize = 6;
/// Unique keys that some jobs have.
const KEYS: u64 = 4;
/// Jobs that finish between two evictions.
const EVICT_EVERY: u64 = 10;
/// How many items of a cascade one command does: all that these clients have, or few.
const LATER: usize = 1_000;
const SETTLED_MAX: [usize; 6] = [1, 1, 2, 5, LATER, LATER];
/// What a child may meet: its parent was deleted or its batch is closed by now, or it would wait for itself. And any job whose
/// key somebody has.
const REFUSALS: [&str; 5] = ["unknown_parent", "unknown_batch", "batch_closed", "cycle", "conflict"];

/// A refusal of these clients, as a history has it.
pub fn refusal(code: &str) -> Option<&'static str> {
    REFUSALS.into_iter().find(|known| *known == code)
}

/// What is known of flows outside of the cluster.
#[derive(Debug, Default)]
pub struct Book {
    /// Jobs and batches that are there for certain, or were.
    jobs: Vec<JobId>,
    batches: Vec<JobId>,
    /// Batches that have others inside.
    outers: Vec<JobId>,
    /// Each job that somebody asked for, with its parents, the ends that it waits for, and whether it takes results.
    asked: BTreeMap<JobId, Vec<Parent>>,
    /// Of these, those with a unique key: who waits for one may wait for the holder instead.
    keyed: BTreeSet<JobId>,
    /// And keys that jobs have until they end.
    keys: BTreeMap<JobId, String>,
    /// Records of final jobs, as each was when it became so, and the ordinal of the newest.
    archive: BTreeMap<JobId, Vec<u8>>,
    archived: u64,
    pub restored: u64,
    /// Jobs that somebody asked to delete.
    pub deleted: BTreeSet<JobId>,
    pub looks: u64,
    refused: u64,
    settled: u64,
}

impl Book {
    /// The state of a node: nobody is stuck, nobody went on too early, and batches count their members.
    pub fn sees(&mut self, index: u64, machine: &Machine) {
        self.looks += 1;
        for (ordinal, id, record) in machine.finished(self.archived, usize::MAX, usize::MAX) {
            self.archive.insert(id, record);
            self.archived = ordinal;
        }
        machine.flows_hold().unwrap_or_else(|error| panic!("J11: at {index}: {error}"));
        let is_live = |id: &JobId| machine.job(*id).is_some_and(|(job, _)| !job.state.is_final());
        let mut held = BTreeMap::new();
        for (id, key) in self.keys.iter().filter(|(id, _)| is_live(id)) {
            let other = held.insert(key, id);
            assert_eq!(other, None, "J10: job {id} has {key} too, at {index}");
        }
    }

    /// Somebody is about to ask for these jobs.
    fn asks(&mut self, jobs: &[Job], spec: &Spec) {
        self.asked.extend(jobs.iter().map(|job| (job.id, job.parents.clone())));
        for (job, key) in jobs.iter().filter_map(|job| Some((job, job.unique.as_ref()?))) {
            self.keyed.insert(job.id);
            self.keys.extend(spec.unique_window.is_none().then(|| (job.id, key.clone())));
        }
    }

    pub fn refuses(&mut self) {
        self.refused += 1;
    }

    /// At rest: no work is left, no batch is unfinished, and no job waits for a parent.
    pub fn rests(&mut self, log: &Log, machines: &[&Machine]) {
        for machine in machines {
            assert!(!machine.is_behind(), "J11: work on flows is left");
            assert_eq!(machine.tally().count(State::Awaiting), 0, "J11: jobs wait for parents that are over");
            for (id, state) in batches(machine) {
                assert!(!["open", "sealed"].contains(&&*state), "J11: batch {id} is {state}, and nobody is pending");
            }
        }
        self.play(log, machines);
    }

    /// Plays the log on a machine of its own: it ends as all members did, and at every entry each child does what its
    /// parents say.
    fn play(&mut self, log: &Log, machines: &[&Machine]) {
        let (mut machine, mut children) = (Machine::default(), BTreeMap::new());
        for (index, now, request) in log.requests() {
            let reply = machine.apply(LogIndex(index), now, request, &mut Effects::default());
            reply.unwrap_or_else(|error| panic!("entry {index}: {error}"));
            self.sees(index, &machine);
            for (id, parents) in &self.asked {
                // One that is in the archive, or was deleted, stands as it stood.
                let Some(child) = Child::of(*id, &machine) else { continue };
                let before = children.remove(id);
                let keyed = &self.keyed;
                self.settled += u64::from(child.follows(before.as_ref(), *id, (parents, keyed), index, &machine));
                children.insert(*id, child);
            }
        }
        for other in machines {
            assert_eq!(machine.digest(), other.digest(), "L6: a member differs from the log");
        }
    }
}

/// As a command has it: the job or batch, which end, and whether its result is used.
type Parent = (JobId, u64, bool);

/// How a child stands behind an entry.
struct Child {
    generation: u32,
    state: State,
    parents: Vec<JobId>,
    /// The places of those that it has not heard of.
    open: BTreeSet<usize>,
    /// By the place of each parent that told: whether it gave a result.
    outputs: Vec<(usize, bool)>,
}

impl Child {
    fn of(id: JobId, machine: &Machine) -> Option<Self> {
        let (job, _) = machine.job(id)?;
        let (parents, open, outputs) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut child = Self { generation: job.generation, state: job.state, parents, open, outputs };
        if let Some(flow) = job.flow() {
            let open = flow.edges.iter().enumerate().filter(|(_, edge)| edge.standing == Standing::Open);
            child.parents = flow.edges.iter().map(|edge| edge.parent).collect();
            child.open = open.map(|(place, _)| place).collect();
            child.outputs = flow.outputs.iter().map(|(place, output)| (*place as usize, output.is_some())).collect();
        }
        Some(child)
    }

    /// Whether it was settled by this entry. It never is twice in one generation; and if it may go on, all that it
    /// still waited for ended as it should: in clusters that settle all at once, else only the model tells.
    fn follows(
        &self,
        before: Option<&Self>,
        id: JobId,
        (parents, keyed): (&[Parent], &BTreeSet<JobId>),
        index: u64,
        machine: &Machine,
    ) -> bool {
        let waits = self.state == State::Awaiting;
        let waited = before.map_or(!parents.is_empty(), |before| before.state == State::Awaiting);
        let again = before.is_some_and(|before| before.generation != self.generation);
        assert!(!waits || waited || again, "J11: child {id} waits again after it was settled, at {index}");
        if waits || !waited {
            return false;
        }
        if self.state != State::Cancelled && machine::settled_max() >= LATER {
            let all = (0..parents.len()).collect();
            for place in before.map_or(&all, |before| &before.open) {
                let ((asked, on, uses), parent) = (parents[*place], self.parents[*place]);
                // Whose key was held, so that it was not stored, has the holder in its place.
                assert!(parent == asked || keyed.contains(&asked), "J11: child {id} waits for {parent}, not {asked}");
                let end = end_of(parent, machine).unwrap_or_default();
                let met = !end.is_empty() && (on == 2 || (end == "succeeded") == (on == 0));
                assert!(met, "J11: child {id} goes on at {index}, and its parent {parent} did not end as it should");
                // A batch has no result, and whoever failed has none.
                let right = uses.then(|| end == "succeeded" && machine.job(parent).is_some());
                let mut outputs = self.outputs.iter().filter(|(of, _)| of == place).map(|(_, has)| *has);
                let found = (outputs.next(), outputs.next());
                assert_eq!(found, (right, None), "J11: results of parent {parent} at child {id}, at {index}");
            }
        }
        true
    }
}

/// How a job or a batch ended.
fn end_of(id: JobId, machine: &Machine) -> Option<String> {
    if let Some((job, _)) = machine.job(id) {
        return job.state.is_final().then(|| job.state.name().to_owned());
    }
    batches(machine).remove(&id).filter(|state| !["open", "sealed"].contains(&&**state))
}

/// The state of each batch.
pub fn batches(machine: &Machine) -> BTreeMap<JobId, String> {
    let mut question = Writer::new();
    question.array(3).u64(40).nil().u64(1_000);
    let answer = machine.view(question.as_bytes()).expect("a question that is known");
    let reader = &mut Reader::new(&answer);
    (0..reader.array().expect("rows")).map(|_| batch(reader).expect("a row")).collect()
}

fn batch(reader: &mut Reader<'_>) -> raftwork::base::Result<(JobId, String)> {
    reader.array_of(11, "a batch")?;
    let id = reader.id()?;
    reader.str()?;
    let state = reader.str()?.to_owned();
    (0..8).try_for_each(|_| reader.raw().map(drop))?;
    Ok((id, state))
}

impl Cluster {
    /// Puts jobs that a request speaks of, and that left memory, back ahead of it, as a node does (`history` of the nodes).
    pub fn bring_back(&mut self, node: usize, request: &[u8]) {
        let book = &mut self.ledger.flows;
        let mut gone = match self.ledger.record.sent.get(request) {
            _ if book.archive.is_empty() => return,
            Some(Command::Requeue(ids)) => ids.clone(),
            Some(Command::Enqueue { jobs, .. }) => jobs.iter().flat_map(|job| &job.parents).map(|it| it.0).collect(),
            _ => return,
        };
        let replica = self.nodes[node].replica.as_ref().expect("it is up");
        let machine = replica.machine().read();
        let (mut records, mut known, mut placed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let begin_again = |batch: Option<JobId>| match self.ledger.record.sent.get(request) {
            Some(Command::Requeue(_)) => batch.map_or_else(Vec::new, |batch| machine.away(batch)),
            _ => Vec::new(),
        };
        gone.extend(gone.clone().into_iter().flat_map(|id| begin_again(machine.batch_of(id))));
        while let Some(id) = gone.pop() {
            let Some(record) = book.archive.get(&id).filter(|_| !book.deleted.contains(&id)) else { continue };
            if known.insert(id) {
                let relatives = record::relatives(record).expect("a record of the machine");
                gone.splice(..0, relatives.children.into_iter().chain(begin_again(relatives.batch)));
                // Those that had not ended come first: it hears of their end when it is back.
                let parents = relatives.open_parents.into_iter().filter(|parent| !known.contains(parent));
                gone.push(id);
                gone.extend(parents);
            } else if machine.job(id).is_none() && placed.insert(id) {
                records.push(record.clone());
            }
        }
        drop(machine);
        if !records.is_empty() {
            book.restored += records.len() as u64;
            let request = wire::request(0, 0, 0, &Command::Restore(records));
            self.nodes[node].requests.push(Proposal { entry: entry::frame(&request), ticket: Ticket::Own });
        }
    }
}

/// One client's side.
#[derive(Debug)]
pub struct Flowing {
    client: usize,
    began: bool,
    jobs: u64,
    batches: u64,
    /// Batches that it opened, or tried to, and has not sealed.
    unsealed: Vec<JobId>,
    /// What it does between other things, in this order. Nothing: it rests.
    plan: VecDeque<Option<Command>>,
}

impl Flowing {
    pub fn new(client: usize) -> Self {
        Self { client, began: false, jobs: 0, batches: 0, unsealed: Vec::new(), plan: VecDeque::new() }
    }

    /// Whether it has sealed everything.
    pub fn is_done(&self) -> bool {
        self.unsealed.is_empty()
    }

    pub fn next(&mut self, quiet: bool, random: &mut Random, book: &mut Book) -> Option<Command> {
        if quiet {
            return self.unsealed.first().map(|batch| Command::Batch(Batch::Seal(*batch)));
        }
        if !self.began {
            self.began = true;
            return Some(Command::Own(Own::SetLevel(machine::LEVEL)));
        }
        if self.plan.is_empty() && self.jobs + plan::JOBS <= JOBS && random.chance(60) {
            self.plan(random, book);
        }
        if !self.plan.is_empty() && random.chance(300) {
            return self.plan.pop_front().flatten();
        }
        match random.below(100) {
            0..=4 if self.batches < BATCHES => Some(self.open(random, book)),
            5..=7 if !self.unsealed.is_empty() => Some(Command::Batch(Batch::Seal(*random.pick(&self.unsealed)))),
            8 if !book.batches.is_empty() => {
                let around = random.chance(500) && !book.outers.is_empty();
                let batch = *random.pick(newest(if around { &book.outers } else { &book.batches }));
                Some(Command::Batch(Batch::Cancel(batch, "simulated".into())))
            }
            9..=28 if !book.jobs.is_empty() => Some(self.disturb(random, book)),
            29..=60 if self.jobs < JOBS => Some(self.enqueue(random, book)),
            _ => None,
        }
    }

    /// Does something to a job of anybody.
    fn disturb(&self, random: &mut Random, book: &mut Book) -> Command {
        // An old one is in the archive.
        let jobs = if random.chance(250) { &book.jobs } else { newest(&book.jobs) };
        let ids = vec![*random.pick(jobs)];
        match random.below(8) {
            0 | 1 => Command::Cancel { ids, reason: "simulated".into() },
            2 => {
                book.deleted.extend(&ids);
                Command::Delete(ids)
            }
            _ => Command::Requeue(ids),
        }
    }

    fn open(&mut self, random: &mut Random, book: &Book) -> Command {
        self.batches += 1;
        let id = self.id(self.batches, 0xb);
        self.unsealed.push(id);
        let inside = random.chance(400) && !book.batches.is_empty();
        let outer = inside.then(|| *random.pick(newest(&book.batches)));
        Command::Batch(Batch::Open(id, "night".into(), outer))
    }

    fn enqueue(&mut self, random: &mut Random, book: &mut Book) -> Command {
        let mut known = newest(&book.jobs).to_vec();
        let mut jobs = Vec::new();
        for _ in 0..random.between(1, 4) {
            let job = self.job(&known, random, book);
            known.push(job.id);
            jobs.push(job);
        }
        let spec = Spec {
            queue: if random.chance(250) { "other" } else { "default" }.into(),
            priority: i64::from(random.chance(200)),
            unique_mode: random.below(3),
            unique_window: random.chance(400).then(|| random.between(200, 5_000)),
            max_attempts: random.between(1, 2),
            max_crashes: random.between(1, 3),
            expires: random.chance(50).then(|| random.between(100, 2_000)),
            ..Spec::default()
        };
        book.asks(&jobs, &spec);
        Command::Enqueue { specs: vec![spec], jobs }
    }

    /// It waits for up to three of these jobs and of the newest batches.
    fn job(&mut self, known: &[JobId], random: &mut Random, book: &Book) -> Job {
        self.jobs += 1;
        let (batches, mut parents) = (newest(&book.batches), BTreeMap::new());
        for _ in 0..random.below(4) {
            let from = if random.chance(150) { batches } else { known };
            if !from.is_empty() {
                parents.insert(*random.pick(from), (*random.pick(&[0, 0, 1, 2]), random.chance(300)));
            }
        }
        Job {
            id: self.id(self.jobs, 0),
            args: vec![7; 10],
            unique: random.chance(150).then(|| format!("key {}", random.below(KEYS))),
            delay: if random.chance(150) { random.between(1, 1_000) } else { 0 },
            parents: parents.into_iter().map(|(parent, (on, uses))| (parent, on, uses)).collect(),
            batch: (random.chance(400) && !batches.is_empty()).then(|| *random.pick(batches)),
            ..Job::default()
        }
    }

    fn id(&self, number: u64, kind: u8) -> JobId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.client as u64 + 1).to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        id[8] = kind;
        JobId(id)
    }

    pub fn answered(&mut self, command: &Command, book: &mut Book) {
        match command {
            Command::Enqueue { jobs, .. } => book.jobs.extend(jobs.iter().map(|job| job.id)),
            Command::Batch(Batch::Open(id, _, outer)) => {
                book.batches.push(*id);
                book.outers.extend(outer);
            }
            Command::Batch(Batch::Seal(id)) => self.unsealed.retain(|other| other != id),
            _ => {}
        }
    }
}

fn newest(ids: &[JobId]) -> &[JobId] {
    &ids[ids.len().saturating_sub(NEWEST)..]
}

/// A cluster whose clients enqueue children. Gives how many were settled, what was refused, and how many came back.
fn run(seed: u64) -> [u64; 3] {
    let mut random = Random::new(seed ^ 0xf1_0e);
    machine::settle_at_most(*random.pick(&SETTLED_MAX));
    let (nodes, clients) = (*random.pick(&[1, 3, 3, 5]), random.between(1, 3) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, random.between(2, 4) as usize);
    for client in cluster.clients.iter_mut() {
        (client.curious, client.tokens) = (false, None);
        client.flows = (!client.works).then(|| Flowing::new(client.number));
    }
    cluster.nodes.iter_mut().for_each(|node| node.evict_every = EVICT_EVERY);
    let is_sealed = |cluster: &Cluster| cluster.clients.iter().all(|it| it.flows.as_ref().is_none_or(Flowing::is_done));
    rest::after_trouble(&mut cluster, |cluster| is_sealed(cluster) && !cluster.lacks_an_answer());
    let book = &cluster.ledger.flows;
    [book.settled, book.refused, book.restored]
}

/// J11: at every index flows hold, and each child is settled once. J6: no job waits for ever.
#[test]
fn j11_j6_each_child_is_settled_once() {
    if let Some(seed) = number("RAFTWORK_SIM_FLOW_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_FLOW_SEEDS").unwrap_or(60);
    let mut sum = [0; 3];
    for seed in 0..seeds {
        let found = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_FLOW_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let [settled, refused, restored] = sum;
    println!("{seeds} seeds: {settled} children were settled, {refused} commands refused, {restored} jobs restored");
    assert!(settled > seeds * 10 && refused > seeds && restored > 0, "the simulation lost its teeth: {sum:?}");
}

/// Every mistake with flows that can be switched on is found by one of the first seeds.
#[test]
fn planted_flow_bugs_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
