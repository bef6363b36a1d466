//! Faults that a seed has or has not, each by a coin, so that some seeds have few of them in all combinations.
//!
//! Damage to what is stored meets a minority only, always the same one in a seed (`is_frail`), so no record is damaged on a
//! majority. A node that finds its data damaged refuses to start (D4); after a while somebody mends the disk. A cluster of
//! one must find damage too, except in the newest writes: a damaged one looks like one that was torn by a power cut.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use raftwork::base::Error;
use raftwork::disk::fake::{Fault, Lie, Op};

use crate::clients::TTL_MS;
use crate::cluster::{Cluster, Event, JUMP_MAX_MS};
use crate::network::Place;
use crate::node::DIR;
use crate::random::Random;
use crate::Micros;

const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// Ten times the time to live of a session.
const LONG: Micros = 10 * TTL_MS * 1_000;

/// What the fake disk says of a call that failed: for a reader, what cannot be read is damaged.
const READ_FAILED: &str = "os error 5";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    ReadError,
    FullDisk,
    SlowDisk,
    BitFlip,
    LostWrite,
    MisdirectedWrite,
    WallJump,
    Pause,
    Sleep,
    OneWay,
    Flap,
    Clog,
    CrashOfAll,
    Restarts,
    Echo,
    LeaderInMinority,
    Grow,
    Shrink,
    Replace,
    LostDisk,
    HandOver,
    Upgrade,
    Downgrade,
    RaiseLevel,
    Roll,
}

use Storm::*;

const ALL: [Storm; 25] = [
    ReadError,
    FullDisk,
    SlowDisk,
    BitFlip,
    LostWrite,
    MisdirectedWrite,
    WallJump,
    Pause,
    Sleep,
    OneWay,
    Flap,
    Clog,
    CrashOfAll,
    Restarts,
    Echo,
    LeaderInMinority,
    Grow,
    Shrink,
    Replace,
    LostDisk,
    HandOver,
    Upgrade,
    Downgrade,
    RaiseLevel,
    Roll,
];

/// Those that this seed has.
pub fn swarm(random: &mut Random) -> Vec<Storm> {
    ALL.into_iter().filter(|_| random.chance(500)).collect()
}

/// A span of any order of magnitude between two.
fn span(random: &mut Random, low: u64, high: u64) -> u64 {
    let doublings = u64::from((high / low).ilog2());
    let about = low << random.between(0, doublings);
    random.between(about, (about * 2).min(high))
}

impl Cluster {
    /// One of the faults of this seed. False: it has none.
    pub fn storm(&mut self, node: usize) -> bool {
        if self.swarm.is_empty() {
            return false;
        }
        match *self.random.pick(&self.swarm) {
            ReadError => self.fail_a_read(node),
            FullDisk => self.fill_at_a_write(node),
            SlowDisk => self.slow_disk(node),
            BitFlip => self.flip_a_bit(node),
            LostWrite => self.lie(node, Lie::Lost),
            MisdirectedWrite => {
                let by = self.random.between(1, 40) as i64 - 20;
                self.lie(node, Lie::Misdirected(by));
            }
            WallJump => self.jump_far(node),
            Pause => {
                let span = span(&mut self.random, 1_000, LONG);
                self.pause_for(node, span);
            }
            Sleep => self.sleep(),
            OneWay => self.cut_one_way(node),
            Flap => self.begin_to_flap(node),
            Clog => self.clog(node),
            CrashOfAll => self.present().into_iter().for_each(|node| self.kill(node)),
            Restarts => self.restart_all_again_and_again(),
            LeaderInMinority => self.strand_the_leader(),
            Grow => self.grow(),
            Shrink => self.shrink(),
            Replace => self.replace(),
            LostDisk => self.lose_a_disk(),
            HandOver => self.hand_over(),
            Upgrade => self.upgrade(node, true),
            Downgrade => self.upgrade(node, false),
            RaiseLevel => self.raise_level(),
            Roll => self.roll(),
            Echo => {
                let per_mille = self.random.between(10, 300);
                self.note(format!("{per_mille} of 1000 messages are heard twice"));
                self.network.echo(per_mille);
            }
        }
        true
    }

    // -- disks ----------------------------------------------------------------------------------------------------

    fn fail_a_read(&mut self, node: usize) {
        let op = *self.random.pick(&[Op::Read, Op::Read, Op::Open, Op::List, Op::Remove, Op::MakeDir]);
        let number = self.nodes[node].disk.count(op) + self.random.between(1, 20);
        self.note(format!("{op:?} {number} of node {node} will fail"));
        self.nodes[node].disk.fail(op, number, Fault::Eio, false);
    }

    fn fill_at_a_write(&mut self, node: usize) {
        if self.is_short() {
            return; // Half of a write is torn.
        }
        let number = self.nodes[node].disk.count(Op::Write) + self.random.between(1, 5);
        self.note(format!("the disk of node {node} is full from write {number} on"));
        self.nodes[node].disk.fail(Op::Write, number, Fault::Enospc, true);
    }

    fn slow_disk(&mut self, node: usize) {
        let micros = span(&mut self.random, 1_000, 200_000);
        self.note(format!("a sync of node {node} takes {micros} us"));
        self.nodes[node].sync_micros = micros;
    }

    /// Whether this node may find what it stored damaged.
    pub fn is_frail(&self, node: usize) -> bool {
        node < (self.operator.first / 2).max(1)
    }

    fn flip_a_bit(&mut self, node: usize) {
        if !self.is_frail(node) || !self.nodes[node].is_up() || self.is_short() {
            return;
        }
        self.kill(node);
        let mut files = self.nodes[node].disk.files();
        if self.operator.first == 1 {
            let log = Path::new(DIR).join("wal");
            let newest = files.iter().rev().find(|file| file.parent() == Some(&log) && is_segment(file)).cloned();
            files.retain(|file| Some(file) != newest.as_ref());
        }
        // Snapshots are few among the files, and as much is read of them at a start.
        let is_snapshot = |file: &&PathBuf| file.parent() == Some(&Path::new(DIR).join("snap"));
        let snapshots: Vec<PathBuf> = files.iter().filter(is_snapshot).cloned().collect();
        if !snapshots.is_empty() && self.random.chance(500) {
            files = snapshots;
        }
        if files.is_empty() {
            return;
        }
        let file = self.random.pick(&files).clone();
        let bytes = self.nodes[node].disk.content(&file).map_or(0, |content| content.len());
        if bytes > 0 {
            let (byte, bit) = (self.random.below(bytes as u64) as usize, self.random.below(8) as u32);
            self.note(format!("node {node}: bit {bit} of byte {byte} of {} flips", file.display()));
            self.nodes[node].disk.flip(&file, byte, bit);
            self.history.loses_its_end(self.nodes[node].id);
        }
    }

    /// A write that the disk does not do, and a power cut some time later that brings it to light.
    fn lie(&mut self, node: usize, lie: Lie) {
        if !self.is_frail(node) || !self.nodes[node].is_up() || self.is_short() {
            return;
        }
        let number = self.nodes[node].disk.count(Op::Write) + self.random.between(1, 4);
        self.note(format!("the disk of node {node} lies about write {number}: {lie:?}"));
        self.nodes[node].disk.lie(number, lie);
        self.history.loses_its_end(self.nodes[node].id);
        let delay = self.random.between(50_000, 4_000_000);
        self.after(delay, Event::PowerCut(node));
    }

    /// A node that does not start: it found damage, which it may, or something is wrong with it.
    pub fn refuses_to_start(&mut self, node: usize, error: &Error) {
        if matches!(error, Error::Foreign(_)) && self.is_too_old(node) {
            return self.wait_for_upgrade(node, error);
        }
        let finds_damage = matches!(error, Error::Corrupt { .. } | Error::Foreign(_));
        let is_there = self.nodes[node].disk.is_damaged() || error.to_string().contains(READ_FAILED);
        assert!(finds_damage && is_there, "node {node} does not start: {error}");
        self.note(format!("node {node} refuses to start: {error}"));
        self.losses.seen.behind += u64::from(error.to_string().contains("lies at byte"));
        let delay = self.random.between(100_000, 5_000_000);
        self.after(delay, Event::Mend(node));
    }

    pub fn mend(&mut self, node: usize) {
        self.note(format!("the disk of node {node} is mended"));
        self.nodes[node].disk.mend();
        self.start(node);
    }

    // -- clocks and pauses ----------------------------------------------------------------------------------------

    fn jump_far(&mut self, node: usize) {
        let by = span(&mut self.random, 1, 10 * YEAR_MS) as i64;
        let by = if self.random.chance(500) { by } else { -by };
        self.note(format!("the clock of node {node} is off by {by} ms"));
        self.log.allowance_ms += JUMP_MAX_MS;
        self.nodes[node].wall_offset_ms = by;
        // Often it leads soon.
        let leader = (0..self.nodes.len()).find(|node| self.nodes[*node].leads());
        if let Some(leader) = leader.filter(|leader| *leader != node && self.random.chance(500)) {
            self.after(10_000, Event::Abandon(leader));
        }
    }

    fn sleep(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        let span = span(&mut self.random, 1_000, LONG);
        self.note(format!("client {client} sleeps for {span} us"));
        self.clients[client].asleep_until = self.now + span;
    }

    // -- the network ----------------------------------------------------------------------------------------------

    fn another(&mut self, node: usize) -> Option<usize> {
        let others: Vec<usize> = self.present().into_iter().filter(|other| *other != node).collect();
        (!others.is_empty()).then(|| *self.random.pick(&others))
    }

    fn cut_one_way(&mut self, node: usize) {
        let Some(other) = self.another(node) else { return };
        self.note(format!("node {other} does not hear node {node}"));
        self.network.cut_off(Place::Node(node), Place::Node(other));
    }

    fn begin_to_flap(&mut self, node: usize) {
        let Some(other) = self.another(node) else { return };
        let times = self.random.between(4, 40);
        self.note(format!("the link between nodes {node} and {other} breaks {times} times"));
        self.after(0, Event::Flap { one: node, other, times });
    }

    pub fn flap(&mut self, one: usize, other: usize, times: u64) {
        if self.calm || times == 0 {
            return;
        }
        let (a, b) = (Place::Node(one), Place::Node(other));
        if times.is_multiple_of(2) {
            self.network.isolate(&BTreeSet::from([a]), &[b], true);
        } else {
            self.network.join(a, b);
        }
        let delay = self.random.between(10_000, 600_000);
        self.after(delay, Event::Flap { one, other, times: times - 1 });
    }

    /// The leader goes on with as few others as make no majority, and with half of the clients.
    fn strand_the_leader(&mut self) {
        let nodes = self.present();
        let Some(leader) = nodes.iter().position(|node| self.nodes[*node].leads()) else { return };
        let with = self.log.members().voters.len().div_ceil(2).max(2) - 1;
        let mut side: BTreeSet<Place> = (0..with).map(|by| Place::Node(nodes[(leader + by) % nodes.len()])).collect();
        let leader = nodes[leader];
        side.extend((0..self.clients.len()).filter(|_| self.random.chance(500)).map(Place::Client));
        self.note(format!("node {leader} leads a minority: {side:?}"));
        let everybody = self.everybody();
        self.network.isolate(&side, &everybody, true);
    }

    fn clog(&mut self, node: usize) {
        let everybody = self.everybody();
        let to = *self.random.pick(&everybody);
        let until = self.now + span(&mut self.random, 1_000, 5_000_000);
        self.note(format!("nothing gets from node {node} to {to:?} before {until}"));
        self.network.clog(Place::Node(node), to, until);
    }

    fn restart_all_again_and_again(&mut self) {
        let mut delay = 0;
        for _ in 0..self.random.between(2, 8) {
            delay += self.random.between(20_000, 800_000);
            for node in self.present() {
                let delay = delay + self.random.below(30_000);
                self.after(delay, Event::Blink(node));
            }
        }
    }
}

fn is_segment(file: &Path) -> bool {
    file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("w-"))
}
