//! Whole clusters in one thread: a queue of events in simulated time, the nodes, the network, the clients, and the checks
//! after every turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raftwork::base::Error;
use raftwork::disk::fake::Op;
use raftwork::replica::{Replica, SnapshotWritten, Turn};

use crate::checkers::{History, Ledger};
use crate::clients::Client;
use crate::losses::{Losses, Step};
use crate::network::{Network, Packet, Place};
use crate::node::{Loss, Node, Ticket};
use crate::operator::Operator;
use crate::random::Random;
use crate::replay::Log;
use crate::storms::{self, Storm};
use crate::tokens::Keeper;
use crate::waiting::Watch;
use crate::{Micros, SECOND};

/// One tick of the election clock.
const TICK: Micros = 50_000;

/// A wall clock that is off by no more is believed.
pub const JUMP_MAX_MS: u64 = 60_000;
/// Steps between two looks at a job, and between two recounts of everything.
const GLIMPSE_EVERY: u64 = 64;
const AUDIT_EVERY: u64 = 16_384;

#[derive(Debug)]
pub enum Event {
    Tick { node: usize, life: u64 },
    Turn { node: usize, life: u64 },
    Capture { node: usize, life: u64 },
    Arrive { from: Place, to: Place, packet: Packet },
    Client(usize),
    Knock { client: usize, watch: Watch },
    Heartbeats,
    Start(usize),
    Resume { node: usize, life: u64 },
    Fault,
    Abandon(usize),
    Heal,
    Blink(usize),
    Calm,
    PowerCut(usize),
    Mend(usize),
    Flap { one: usize, other: usize, times: u64 },
    Operate,
    Upgrade(usize),
    Raise,
    Lose(Step),
}

pub struct Cluster {
    pub random: Random,
    pub now: Micros,
    /// Time, order of being queued, and where the event lies.
    queue: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    /// Of every event, its time and what the node knew after it: a run that differs anywhere has another one.
    pub hash: u64,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub network: Network,
    pub ledger: Ledger,
    pub history: History,
    pub steps: u64,
    pub log: Log,
    pub snapshot_bytes: u64,
    pub snapshots_installed: u64,
    pub notes: Vec<String>,
    /// Jobs take seconds and not milliseconds.
    pub slow_work: bool,
    /// Faults that this seed has besides those that all have.
    pub swarm: Vec<Storm>,
    pub operator: Operator,
    pub losses: Losses,
    /// No more faults: everything must come to rest.
    pub calm: bool,
}

impl Cluster {
    pub fn new(seed: u64, nodes: usize, clients: usize, workers: usize) -> Self {
        let mut random = Random::new(seed);
        let snapshot_bytes = *random.pick(&[2_000, 8_000, 60_000, 1 << 30]);
        let slow_work = random.chance(300);
        let swarm = storms::swarm(&mut random);
        let is_mixed = swarm.contains(&Storm::Upgrade) || swarm.contains(&Storm::Roll);
        let mut cluster = Self {
            random,
            now: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
            hash: seed,
            nodes: (0..nodes).map(|number| Node::new(number, seed, false)).collect(),
            clients: (0..clients + workers).map(|number| Client::new(number, number >= clients)).collect(),
            network: Network::default(),
            ledger: Ledger::default(),
            history: History::default(),
            steps: 0,
            log: Log::new(JUMP_MAX_MS + 5_000, nodes),
            snapshot_bytes,
            snapshots_installed: 0,
            notes: Vec::new(),
            slow_work,
            swarm,
            operator: Operator::new(nodes, seed),
            losses: Losses::default(),
            calm: false,
        };
        for client in &mut cluster.clients {
            client.curious = is_mixed;
            client.tokens = (!client.works && !seed.is_multiple_of(3)).then(Keeper::default);
        }
        for node in 0..nodes {
            cluster.start(node);
        }
        for client in 0..clients + workers {
            cluster.after(1_000 * client as u64, Event::Client(client));
        }
        cluster.after(0, Event::Heartbeats);
        cluster.after(SECOND, Event::Operate);
        cluster
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.queue.push(Reverse((self.now + delay, self.order, place)));
    }

    /// Does the next event.
    pub fn step(&mut self) {
        let Reverse((time, order, place)) = self.queue.pop().expect("ticks never end");
        let event = self.events[place].take().expect("each event is queued once");
        self.free.push(place);
        self.now = self.now.max(time);
        self.mix(time ^ order << 40);
        (self.ledger.record.now, self.log.now_ms) = (self.now, self.now / 1_000);
        self.steps += 1;
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Turn { node, life } => self.turn(node, life),
            Event::Capture { node, life } => self.write_capture(node, life),
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::Client(client) => self.client(client),
            Event::Knock { client, watch } => self.knock(client, watch),
            Event::Heartbeats => self.heartbeats(),
            Event::Start(node) => self.start(node),
            Event::Resume { node, life } => self.resume(node, life),
            Event::Fault => self.fault(),
            Event::Abandon(node) => self.abandon(node),
            Event::Heal => self.heal(),
            Event::Blink(node) => self.blink(node),
            Event::Calm => self.become_calm(),
            Event::PowerCut(node) => self.late_power_cut(node),
            Event::Mend(node) => self.mend(node),
            Event::Flap { one, other, times } => self.flap(one, other, times),
            Event::Operate => self.operate(),
            Event::Upgrade(node) => self.upgrade(node, true),
            Event::Raise => self.keep_raising(),
            Event::Lose(step) => self.lose(step),
        }
    }

    fn mix(&mut self, what: u64) {
        self.hash = (self.hash ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }

    pub fn run_until(&mut self, time: Micros) {
        while self.queue.peek().is_some_and(|Reverse((next, ..))| *next <= time) {
            self.step();
        }
        self.now = time;
    }

    // -- nodes ----------------------------------------------------------------------------------------------------

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].is_up() || self.nodes[node].retired || self.nodes[node].loss == Some(Loss::Machine) {
            return;
        }
        let (count, bytes, now) = (self.operator.first, self.snapshot_bytes, self.now);
        match self.nodes[node].start(count, bytes, now) {
            Ok(()) => self.nodes[node].disk.accept_damage(),
            // A planned fault of the disk may hit the start itself.
            Err(error @ (Error::Disk { .. } | Error::Poisoned(_) | Error::DiskFull(_))) => {
                self.note(format!("node {node} could not start: {error}"));
                return self.end_of(node);
            }
            Err(error) => return self.refuses_to_start(node, &error),
        }
        self.log.excused |= self.nodes[node].wall_offset_ms.unsigned_abs() > JUMP_MAX_MS;
        let life = self.nodes[node].life;
        self.send_out(node, 0);
        self.observe(node);
        if self.nodes[node].replica.as_ref().expect("it is up").is_removed() {
            return self.retire(node);
        }
        self.after_turn(node);
        let delay = self.random.below(TICK);
        self.after(delay, Event::Tick { node, life });
    }

    fn is_current(&self, node: usize, life: u64) -> bool {
        self.nodes[node].is_up() && self.nodes[node].life == life
    }

    fn tick(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        // Clocks run at up to 1 % more or less.
        let drift = self.random.between(0, TICK / 50);
        self.after(TICK - TICK / 100 + drift, Event::Tick { node, life });
        if self.nodes[node].paused {
            return;
        }
        let now = self.now;
        self.nodes[node].leader_duties(now);
        if !self.nodes[node].requests.is_empty() {
            self.plan_turn(node);
        }
        let promotes = self.operator.promotes;
        self.act(node, |replica, turn| {
            if promotes {
                replica.promote_ready(|_| None, turn)?;
            }
            replica.tick(turn)
        });
        self.fail_old_transfers(node);
        if self.random.chance(300) && self.nodes[node].is_up() {
            let spare = self.nodes[node].replica.as_ref().expect("it is up").wal().spare();
            if let Err(error) = spare.work() {
                self.note(format!("node {node}: work beside the log failed: {error}"));
                self.end_without_power(node);
            }
        }
    }

    pub fn plan_turn(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.turn_planned || it.paused || !it.is_up() {
            return;
        }
        it.turn_planned = true;
        let (life, delay) = (it.life, it.busy_until.saturating_sub(self.now) + 5);
        self.after(delay, Event::Turn { node, life });
    }

    fn turn(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        self.nodes[node].turn_planned = false;
        if self.nodes[node].paused {
            return;
        }
        let now = self.now;
        self.nodes[node].leader_duties(now);
        let mut turn = Turn::default();
        let syncs = self.nodes[node].disk.count(Op::Sync);
        let outcome = self.nodes[node].turn(now, &mut turn);
        self.finish_turn(node, syncs, turn, outcome);
    }

    /// Does something with a replica that is up, and what follows from it.
    pub fn act(&mut self, node: usize, act: impl FnOnce(&mut Replica<Ticket>, &mut Turn<Ticket>) -> Result<(), Error>) {
        raftwork::machine::be_newer(self.nodes[node].newer);
        let mut turn = Turn::default();
        let syncs = self.nodes[node].disk.count(Op::Sync);
        let outcome = act(self.nodes[node].replica.as_mut().expect("it is up"), &mut turn);
        self.finish_turn(node, syncs, turn, outcome);
    }

    /// What follows from a turn: messages, answers, checks; or the end of the process.
    pub fn finish_turn(&mut self, node: usize, syncs: u64, turn: Turn<Ticket>, outcome: Result<(), Error>) {
        let mut turn = turn;
        let now = self.now;
        let it = &mut self.nodes[node];
        let life = it.life;
        if let Some(open) = &turn.sessions {
            // Before the signs of life of this turn are judged, as the node does.
            let monotonic = it.monotonic(now);
            it.sessions.sync(open, monotonic);
        }
        let beats = std::mem::take(&mut turn.beats);
        let beaten = if outcome.is_ok() { it.take_beats(beats, now) } else { Vec::new() };
        let spent = (it.disk.count(Op::Sync) - syncs) * it.sync_micros;
        it.busy_until = now + spent;
        self.send_out(node, syncs);
        if !self.is_current(node, life) {
            return; // A snapshot could not be sent: telling the replica was one turn more, in which the process ended.
        }
        self.observe(node);
        if let Err(error) = outcome {
            if self.nodes[node].damaged_since().is_some() && matches!(error, Error::Differs(_)) {
                return self.quarantine(node, &error);
            }
            let by_the_disk = matches!(&error, Error::Disk { .. } | Error::DiskFull(_))
                || matches!(&error, Error::Poisoned(cause) if cause.contains("failed on"))
                || matches!(&error, Error::Corrupt { message, .. } if message.starts_with("cannot be read: "));
            let too_old = matches!(error, Error::Foreign(_)) && self.is_too_old(node);
            let damaged = self.nodes[node].disk.is_damaged();
            assert!(by_the_disk || too_old || damaged, "node {node} stops: {error}");
            // Nobody hears an answer from a process that ends.
            self.note(format!("node {node} stops: {error}"));
            if too_old {
                self.wait_for_upgrade(node, &error);
            }
            return self.end_of(node);
        }
        if turn.applied > 0 || turn.restored {
            self.nodes[node].next_due = turn.next_due;
            self.nodes[node].ticking = false;
        }
        self.snapshots_installed += u64::from(turn.restored);
        for (client, sent, lives) in beaten {
            self.send_later(Place::Node(node), Place::Client(client), Packet::Heard { sent, lives }, spent);
        }
        for (ticket, answer) in turn.answers {
            self.answer(node, ticket, answer, spent);
        }
        self.tell_waiting(node, syncs, turn.restored, turn.effects);
        self.cut_behind_lie(node);
        if turn.removed {
            return self.retire(node);
        }
        self.after_turn(node);
    }

    fn answer(&mut self, node: usize, ticket: Ticket, answer: Result<Vec<u8>, Error>, spent: Micros) {
        let here = Place::Node(node);
        match (ticket, answer) {
            (Ticket::Own, Err(_)) => self.nodes[node].ticking = false,
            (Ticket::Own, Ok(_)) => {}
            (Ticket::Level, answer) => self.note(format!("the level: {:?}", answer.map(drop))),
            (Ticket::Write { client, number }, answer) => {
                self.send_later(here, Place::Client(client), Packet::Answer { number, answer }, spent);
            }
            // Nobody hears what it says.
            (Ticket::Read { .. }, Ok(_)) if self.nodes[node].damaged_since().is_some() => {}
            (Ticket::Read { client, floor, began }, Ok(_)) => {
                let replica = self.nodes[node].replica.as_ref().expect("it is up");
                let index = replica.applied().0;
                self.ledger.record.reads_one(client, began, self.steps, &replica.machine().read());
                self.send_later(here, Place::Client(client), Packet::Seen { floor, index }, spent);
            }
            (Ticket::Beat(beats), Ok(expired)) => {
                let expired: Vec<_> = expired.chunks_exact(8).collect();
                for (id, client, sent) in beats {
                    let lives = !expired.contains(&&id.0.to_le_bytes()[..]);
                    self.send_later(here, Place::Client(client), Packet::Heard { sent, lives }, spent);
                }
            }
            (Ticket::Read { .. } | Ticket::Beat(_), Err(_)) => {}
            (Ticket::Change(change), answer) => self.hear_of_change(change, answer),
        }
    }

    /// The machine died within a call of the disk, or the disk failed: the process starts again later.
    pub fn end_of(&mut self, node: usize) {
        let seed = self.random.next();
        if self.random.chance(500) && !self.is_short() {
            self.nodes[node].disk.power_cut(seed);
        } else {
            self.nodes[node].disk.switch_on();
        }
        self.nodes[node].disk.heal();
        self.nodes[node].stop();
        let delay = self.random.between(1_000, 2_000_000);
        self.after(delay, Event::Start(node));
    }

    /// Looks at what a node applied, also if that was the last thing it did.
    fn observe(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let replica = it.replica.as_ref().expect("it is up");
        let position = replica.position();
        let heard = self.log.hear(node, replica.log(), it.heard, position.index);
        if heard != it.heard {
            it.heard = heard;
            self.log.same_members(node, position.index, &replica.members());
            let machine = replica.machine().read();
            self.history.applied(position.index, position.term, it.id);
            self.log.same_level(node, position.index, machine.level());
            if let Some(since) = it.damaged_since() {
                // It says nothing about the others, but its marks say whether it came back without the damage.
                it.loss = it.loss.filter(|_| !self.history.is_whole(since, &machine));
                return;
            }
            self.history.compares(position.index, &machine, it.id);
            if self.clients.iter().any(|client| client.locks.is_some()) {
                self.ledger.locks.sees(position.index.0, &machine);
            }
            if self.clients.iter().any(|client| client.limits.is_some()) {
                self.ledger.limits.sees(position.index.0, &machine);
            }
            if self.clients.iter().any(|client| client.flows.is_some()) {
                self.ledger.flows.sees(position.index.0, &machine);
            }
            if self.clients.iter().any(|client| client.schedules.is_some()) {
                self.ledger.schedules.sees(position.index.0, &machine);
            }
            self.ledger.tokens.sees(&machine);
            drop(machine);
            self.mix(position.index.0 ^ position.term.0 << 32);
        }
    }

    /// Checks, and snapshots that became due.
    fn after_turn(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let replica = it.replica.as_mut().expect("it is up");
        if it.capture.is_none() {
            it.capture = replica.capture_due(false);
            if it.capture.is_some() {
                let (life, delay) = (it.life, self.random.between(100, 300_000));
                self.after(delay, Event::Capture { node, life });
            }
        }
        let it = &mut self.nodes[node];
        let replica = it.replica.as_ref().expect("it is up");
        if let Some(term) = replica.leads_in() {
            self.history.leads(term, it.id, &replica.members());
        }
        let machine = replica.machine().read();
        if self.steps.is_multiple_of(GLIMPSE_EVERY) && it.damaged_since().is_none() {
            self.ledger.record.glimpses(node, self.steps / GLIMPSE_EVERY, &machine);
        }
        if self.steps.is_multiple_of(AUDIT_EVERY) {
            machine.audit().unwrap_or_else(|error| panic!("J12: node {node}: {error}"));
        }
        drop(machine);
        it.memory.note(replica);
    }

    fn write_capture(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        let it = &mut self.nodes[node];
        let Some(capture) = it.capture.take() else { return };
        let written = SnapshotWritten { meta: capture.meta.clone(), state_bytes: capture.write(&mut || Ok(())) };
        let outcome = it.replica.as_mut().expect("it is up").captured(written);
        if let Err(error) = outcome {
            self.note(format!("node {node}: a snapshot failed: {error}"));
            return self.end_of(node);
        }
        self.end_without_power(node);
    }

    /// A replica goes on when work beside the log fails. A machine whose power was cut within that work does not.
    fn end_without_power(&mut self, node: usize) {
        if self.nodes[node].disk.is_off() {
            self.end_of(node);
        }
    }

    // -- the end --------------------------------------------------------------------------------------------------

    pub fn note(&mut self, what: String) {
        if std::env::var_os("RAFTWORK_SIM_TRACE").is_some() {
            eprintln!("{:>12} {what}", self.now);
        }
        self.notes.push(format!("{:>12} {what}", self.now));
    }

    pub fn everybody(&self) -> Vec<Place> {
        let nodes = (0..self.nodes.len()).map(Place::Node);
        nodes.chain((0..self.clients.len()).map(Place::Client)).collect()
    }
}
