//! Workers that claim only when they were told of work, as the fetcher of a real one does: through the wake-ups of the node
//! that they are connected to. What must hold of it: J6, although nobody asks again by himself.
//!
//! They run in clusters of their own, with the faults of all others. Some hang up just when they were told, and come back
//! when their session may be over. A connection is as long as a life of its node, a session, and the belief of the client that
//! this node leads; it loses nothing.

use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};

use raftwork::base::planted::Bug;
use raftwork::base::SessionId;
use raftwork::disk::fake::Op;
use raftwork::disk::FakeDisk;
use raftwork::machine::Effects;
use raftwork::node::wakeups::{Wakeups, WatchEvent, WatchId, Watcher};
use raftwork::replica::Herald;

use crate::clients::TTL_MS;
use crate::cluster::{Cluster, Event};
use crate::random::Random;
use crate::wire::Command;
use crate::{fleet, number, rest};

/// Mistakes that only these workers can meet.
pub const BUGS: [Bug; 1] = [Bug::HintStays];
/// Jobs that a worker holds at most.
const HELD_MAX: usize = 3;

/// One registration at a node, in one of its lives, for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    node: usize,
    life: u64,
    session: u64,
    id: WatchId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A claim may give something.
    Hungry,
    Claiming,
    /// The last claim gave less than it asked for.
    Exhausted,
    /// It will be told.
    Armed,
}

/// One worker's side.
#[derive(Debug)]
pub struct Waiting {
    queues: Vec<&'static str>,
    max: u64,
    stage: Stage,
    watch: Option<Watch>,
    /// No event of its own is on its way.
    rests: bool,
}

impl Waiting {
    /// The first takes every job.
    pub fn new(worker: usize, random: &mut Random) -> Self {
        let few = worker > 0 && random.chance(300);
        let queues = if few { vec!["other"] } else { vec!["default", "other"] };
        Self { queues, max: random.between(1, 3), stage: Stage::Hungry, watch: None, rests: false }
    }

    pub fn claim(&mut self, session: u64, held: usize) -> Option<Command> {
        if self.stage != Stage::Hungry || held >= HELD_MAX {
            return None;
        }
        self.stage = Stage::Claiming;
        Some(Command::Claim {
            session,
            queues: self.queues.iter().map(|queue| ((*queue).to_owned(), 1)).collect(),
            strict: true,
            functions: vec!["f".into()],
            max: self.max.min((HELD_MAX - held) as u64),
        })
    }

    pub fn claimed(&mut self, jobs: u64, max: u64) {
        self.stage = if jobs < max { Stage::Exhausted } else { Stage::Hungry };
    }

    /// Whatever it waits for may not come.
    pub fn looks_again(&mut self) {
        self.stage = Stage::Hungry;
    }

    /// Whether it has nothing to do until it is told.
    pub fn rests(&mut self) -> bool {
        self.rests = self.stage == Stage::Armed;
        self.rests
    }
}

/// Whom a node told of work.
#[derive(Clone, Debug, Default)]
pub struct Knocks(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// Not on their way yet: how many syncs the disk had done, who, and where it listens.
    waiting: Vec<(u64, usize, Watch)>,
    /// Told before the job was committed, and all.
    ahead: u64,
    all: u64,
}

impl Knocks {
    pub fn clear(&self) {
        self.0.lock().expect("one thread").waiting.clear();
    }

    fn all(&self) -> u64 {
        self.0.lock().expect("one thread").all
    }

    /// Tells watchers of what the node is about to sync.
    pub fn herald(&self, wakeups: &Arc<Wakeups>) -> Herald {
        let (knocks, wakeups) = (self.clone(), wakeups.clone());
        Box::new(move |entries| {
            let before = knocks.all();
            wakeups.announce(entries);
            let told = knocks.all() - before;
            knocks.0.lock().expect("one thread").ahead += told;
        })
    }
}

/// The receiving end at the node.
struct Bell {
    knocks: Knocks,
    disk: FakeDisk,
    client: usize,
    /// Its registration, as soon as that has a number.
    watch: Arc<Mutex<Option<Watch>>>,
}

impl Watcher for Bell {
    fn event(&self, event: WatchEvent) {
        let watch = *self.watch.lock().expect("one thread");
        let (WatchEvent::Ready | WatchEvent::SessionClosed, Some(watch)) = (event, watch) else { return };
        let mut told = self.knocks.0.lock().expect("one thread");
        told.all += 1;
        told.waiting.push((self.disk.count(Op::Sync), self.client, watch));
    }
}

impl Cluster {
    /// A turn is over: tells whoever waits at this node.
    pub fn tell_waiting(&mut self, node: usize, syncs: u64, restored: bool, effects: Effects) {
        let Some(wakeups) = self.nodes[node].wakeups.clone() else { return };
        if restored {
            wakeups.restored();
        }
        wakeups.dispatch(effects);
        wakeups.audit().unwrap_or_else(|why| panic!("J6: node {node}: {why}"));
        self.send_knocks(node, syncs);
    }

    fn send_knocks(&mut self, node: usize, syncs: u64) {
        let waiting = std::mem::take(&mut self.nodes[node].knocks.0.lock().expect("one thread").waiting);
        for (after_syncs, client, watch) in waiting {
            let delay = after_syncs.saturating_sub(syncs) * self.nodes[node].sync_micros + self.random.between(20, 300);
            self.after(delay, Event::Knock { client, watch });
        }
    }

    /// A worker is told of work, or of the end of its session.
    pub fn knock(&mut self, client: usize, watch: Watch) {
        let is_its = |waiting: &&Waiting| waiting.watch == Some(watch) && waiting.stage == Stage::Armed;
        if self.clients[client].waiting.as_ref().filter(is_its).is_none() {
            return;
        }
        if !self.calm && self.random.chance(100) {
            self.clients[client].asleep_until = self.now + self.random.between(1, 3) * TTL_MS * 1_000;
            self.hang_up(client);
        } else if self.random.chance(100) {
            // It wants no job now.
            let wakeups = self.nodes[watch.node].wakeups.clone().filter(|_| self.nodes[watch.node].life == watch.life);
            wakeups.into_iter().for_each(|wakeups| wakeups.disarm(watch.id));
            self.send_now(watch.node);
        }
        self.goes_on(client);
    }

    /// After an answer, and now and then: ends a connection that is over, and waits where the last claim left something open.
    pub fn mind_watch(&mut self, client: usize) {
        let nodes = self.nodes.len();
        let it = &self.clients[client];
        let Some(waiting) = &it.waiting else { return };
        let (stage, node, session) = (waiting.stage, it.node % nodes, it.session);
        if let Some(watch) = waiting.watch {
            let lasts = (watch.node, Some(watch.session)) == (node, session) && self.nodes[node].life == watch.life;
            if !lasts || !self.nodes[node].is_up() {
                self.hang_up(client);
                if stage == Stage::Armed {
                    return self.goes_on(client);
                }
            }
        }
        if let (Stage::Exhausted, Some(session)) = (stage, session) {
            self.arm(client, node, session);
        }
    }

    fn arm(&mut self, client: usize, node: usize, session: u64) {
        let it = &self.nodes[node];
        let Some(wakeups) = it.wakeups.clone() else { return self.goes_on(client) };
        let (life, knocks, disk) = (it.life, it.knocks.clone(), it.disk.clone());
        let waiting = self.clients[client].waiting.as_mut().expect("the caller looked");
        let watch = waiting.watch.get_or_insert_with(|| {
            let place = Arc::default();
            let bell = Bell { knocks, disk, client, watch: Arc::clone(&place) };
            let watch = Watch { node, life, session, id: wakeups.watch(SessionId(session), Arc::new(bell)) };
            *place.lock().expect("one thread") = Some(watch);
            watch
        });
        let ready = wakeups.arm(watch.id, &waiting.queues, &["f"]);
        waiting.stage = if ready { Stage::Hungry } else { Stage::Armed };
        wakeups.audit().unwrap_or_else(|why| panic!("J6: node {node}: {why}"));
    }

    /// Ends the connection of a worker.
    fn hang_up(&mut self, client: usize) {
        let waiting = self.clients[client].waiting.as_mut();
        let Some(watch) = waiting.and_then(|waiting| waiting.watch.take()) else { return };
        let it = &self.nodes[watch.node];
        if let Some(wakeups) = it.wakeups.clone().filter(|_| it.life == watch.life) {
            wakeups.unwatch(watch.id);
            self.send_now(watch.node);
        }
    }

    fn send_now(&mut self, node: usize) {
        let syncs = self.nodes[node].disk.count(Op::Sync);
        self.send_knocks(node, syncs);
    }

    /// It looks for work by itself, as soon as it has nothing else to do.
    fn goes_on(&mut self, client: usize) {
        let Some(waiting) = &mut self.clients[client].waiting else { return };
        waiting.stage = Stage::Hungry;
        if std::mem::take(&mut waiting.rests) {
            self.after(5, Event::Client(client));
        }
    }
}

/// A cluster whose workers wait. Gives how often one was told of work, and how often before the job was committed.
fn run(seed: u64) -> [u64; 2] {
    let mut random = Random::new(seed ^ 0x3a_17);
    let (nodes, clients) = (*random.pick(&[1, 3, 3, 5]), random.between(1, 3) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, random.between(2, 4) as usize);
    for client in cluster.clients.iter_mut() {
        (client.curious, client.tokens) = (false, None);
        client.waiting = client.works.then(|| Waiting::new(client.number - clients, &mut random));
    }
    rest::after_trouble(&mut cluster, |_| true);
    let told = cluster.nodes.iter().map(|node| node.knocks.0.lock().expect("one thread"));
    told.fold([0; 2], |[all, ahead], told| [all + told.all, ahead + told.ahead])
}

/// J6: whoever waits to be told of work is told, and no job waits for ever.
#[test]
fn j6_whoever_waits_is_told() {
    if let Some(seed) = number("RAFTWORK_SIM_WAITING_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_WAITING_SEEDS").unwrap_or(60);
    let mut sum = [0; 2];
    for seed in 0..seeds {
        let found = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_WAITING_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let [all, ahead] = sum;
    println!("{seeds} seeds: workers were told of work {all} times, {ahead} times before it was committed");
    assert!(all > seeds * 20 && ahead > seeds * 2, "the simulation lost its teeth: {sum:?}");
}

/// Every mistake with wake-ups that can be switched on is found by one of the first seeds.
#[test]
fn planted_wakeup_bugs_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
