//! What goes wrong, drawn at random: processes, machines, disks, networks, clocks. `become_calm` takes it all back.

use std::collections::BTreeSet;
use std::path::Path;

use raftwork::disk::fake::{Fault, Op};
use raftwork::disk::Disk;

use crate::cluster::{Cluster, Event, JUMP_MAX_MS};
use crate::network::Place;
use crate::node::{DIR, SYNC_MICROS};
use crate::Micros;

/// Where the groups of a segment begin.
const FIRST_GROUP: usize = 4096;

impl Cluster {
    /// One fault now, and the next one later.
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.random.between(20_000, 1_500_000);
        self.after(delay, Event::Fault);
        assert!(!self.nodes.iter().any(|node| node.is_up() && node.disk.is_off()), "a node runs without power");
        let present = self.present();
        let node = *self.random.pick(&present);
        if self.random.chance(450) && self.storm(node) {
            return;
        }
        match self.random.below(23) {
            0 | 1 => self.kill(node),
            16 | 17 => self.leave_the_leader_alone(),
            18 | 19 => self.betray(),
            20 => self.kill_voters(),
            21 | 22 => self.rot(),
            2 => self.power_cut(node),
            3 => self.cut_within_a_step(node),
            4 if self.random.chance(300) => present.into_iter().for_each(|node| self.power_cut(node)),
            4 | 5 => self.fail_a_sync(node),
            6 => self.fill_the_disk(node),
            7 | 8 => self.pause(node),
            9 => self.split(),
            10 => self.isolate(node, false),
            11 => self.isolate(node, true),
            12 => self.network.lose(300),
            13 => self.network.slow_down(),
            14 => self.jump(node),
            _ => self.heal(),
        }
    }

    pub fn kill(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.note(format!("node {node} is killed"));
        self.nodes[node].disk.process_ends();
        self.nodes[node].stop();
        let delay = self.random.between(1_000, 3_000_000);
        self.after(delay, Event::Start(node));
    }

    pub fn late_power_cut(&mut self, node: usize) {
        if !self.calm {
            self.power_cut(node);
        }
    }

    fn power_cut(&mut self, node: usize) {
        if self.is_short() {
            return self.kill(node);
        }
        self.note(format!("node {node} loses its power"));
        let seed = self.random.next();
        self.nodes[node].disk.power_cut(seed);
        if self.nodes[node].is_up() {
            self.nodes[node].stop();
            let delay = self.random.between(1_000, 3_000_000);
            self.after(delay, Event::Start(node));
        }
    }

    /// A leader that goes on with its clients, but not with its peers: its log grows apart from theirs.
    fn leave_the_leader_alone(&mut self) {
        let Some(leader) = (0..self.nodes.len()).find(|node| self.nodes[*node].leads()) else { return };
        self.note(format!("node {leader} leads and is cut off from its peers"));
        let peers: Vec<Place> = (0..self.nodes.len()).map(Place::Node).collect();
        self.network.isolate(&BTreeSet::from([Place::Node(leader)]), &peers, true);
    }

    /// A follower loses its power within a write that it may have answered already, and the leader is gone soon after.
    fn betray(&mut self) {
        if self.is_short() {
            return;
        }
        let Some(leader) = (0..self.nodes.len()).find(|node| self.nodes[*node].leads()) else { return };
        let followers: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != leader).collect();
        let Some(follower) = followers.first().map(|_| *self.random.pick(&followers)) else { return };
        let others: Vec<usize> = followers.into_iter().filter(|node| *node != follower).collect();
        let everybody = self.everybody();
        let away: BTreeSet<Place> = others.iter().map(|node| Place::Node(*node)).collect();
        self.network.isolate(&away, &everybody, true);
        let step = self.nodes[follower].disk.steps() + self.random.between(1, 3);
        self.note(format!("node {follower} will lose its power within step {step}, then the leader goes"));
        self.nodes[follower].disk.cut_at_step(step);
        let delay = self.random.between(2_000, 60_000);
        self.after(delay, Event::Abandon(leader));
    }

    /// The leader is gone, and the network is well: the others must do without what it alone knows.
    pub fn abandon(&mut self, node: usize) {
        if self.calm || !self.nodes[node].is_up() {
            return;
        }
        self.note(format!("node {node} is killed for long"));
        self.nodes[node].disk.process_ends();
        self.nodes[node].stop();
        self.after(5_000_000, Event::Start(node));
        self.network.heal();
    }

    /// Everybody is killed and back at once, several times, so that elections meet restarts.
    fn kill_voters(&mut self) {
        for round in 0..self.random.between(2, 12) {
            let present = self.present();
            let node = *self.random.pick(&present);
            let delay = round * self.random.between(100_000, 900_000);
            self.after(delay, Event::Blink(node));
        }
    }

    pub fn blink(&mut self, node: usize) {
        if self.calm || !self.nodes[node].is_up() {
            return;
        }
        self.note(format!("node {node} is killed and back at once"));
        self.nodes[node].disk.process_ends();
        self.nodes[node].stop();
        self.start(node);
    }

    /// A bit of the last thing that a node wrote is wrong when it comes back, and the leader is away. Always the same
    /// node: a cluster survives damage to a minority.
    fn rot(&mut self) {
        let rotten = 0;
        if self.operator.first < 3 || !self.nodes[rotten].is_up() || self.is_short() {
            return;
        }
        self.kill(rotten);
        let disk = &self.nodes[rotten].disk;
        let log = Path::new(DIR).join("wal");
        let names = disk.list(&log).unwrap_or_default();
        let Some(last) = names.iter().rev().find(|name| name.starts_with("w-")) else { return };
        let mut bytes = disk.content(&log.join(last)).unwrap_or_default();
        let Some(place) = bytes.iter().rposition(|byte| *byte != 0).filter(|place| *place > FIRST_GROUP) else {
            return;
        };
        bytes[place] ^= 1;
        disk.put(&log.join(last), &bytes);
        self.note(format!("node {rotten}: byte {place} of {last} is damaged"));
        self.history.loses_its_end(self.nodes[rotten].id);
        if let Some(leader) = (0..self.nodes.len()).find(|node| self.nodes[*node].leads()) {
            self.isolate(leader, true);
            self.after(8_000_000, Event::Heal);
        }
    }

    fn cut_within_a_step(&mut self, node: usize) {
        if self.is_short() {
            return;
        }
        let step = self.nodes[node].disk.steps() + self.random.between(1, 12);
        self.note(format!("node {node} will lose its power within step {step}"));
        self.nodes[node].disk.cut_at_step(step);
    }

    fn fail_a_sync(&mut self, node: usize) {
        if self.is_short() {
            return;
        }
        let op = *self.random.pick(&[Op::Sync, Op::Write, Op::SyncDir, Op::Rename, Op::Create]);
        let number = self.nodes[node].disk.count(op) + self.random.between(1, 4);
        self.note(format!("{op:?} {number} of node {node} will fail"));
        self.nodes[node].disk.fail(op, number, Fault::Eio, false);
        if op == Op::Sync && self.random.chance(500) {
            // Whoever goes on after a failed sync has lost what he believes to have.
            let delay = self.random.between(50_000, 1_500_000);
            self.after(delay, Event::PowerCut(node));
        }
    }

    fn fill_the_disk(&mut self, node: usize) {
        let number = self.nodes[node].disk.count(Op::Create) + 1;
        self.note(format!("the disk of node {node} is full"));
        self.nodes[node].disk.fail(Op::Create, number, Fault::Enospc, self.random.chance(500));
    }

    fn pause(&mut self, node: usize) {
        let span = self.random.between(10_000, 6_000_000);
        self.pause_for(node, span);
    }

    pub fn pause_for(&mut self, node: usize, delay: Micros) {
        if !self.nodes[node].is_up() || self.nodes[node].paused {
            return;
        }
        self.note(format!("node {node} is paused for {delay} us"));
        self.nodes[node].paused = true;
        let life = self.nodes[node].life;
        self.after(delay, Event::Resume { node, life });
    }

    pub fn resume(&mut self, node: usize, life: u64) {
        if self.nodes[node].life == life && self.nodes[node].paused {
            self.nodes[node].paused = false;
            self.plan_turn(node);
        }
    }

    fn split(&mut self) {
        let everybody = self.everybody();
        let side: BTreeSet<Place> = everybody.iter().copied().filter(|_| self.random.chance(500)).collect();
        self.note(format!("the network is split: {side:?}"));
        self.network.isolate(&side, &everybody, true);
    }

    fn isolate(&mut self, node: usize, both_ways: bool) {
        self.note(format!("node {node} is isolated, {}", if both_ways { "both ways" } else { "outwards" }));
        let everybody = self.everybody();
        self.network.isolate(&BTreeSet::from([Place::Node(node)]), &everybody, both_ways);
    }

    fn jump(&mut self, node: usize) {
        let by = self.random.between(0, 80_000) as i64 - 40_000;
        self.note(format!("the clock of node {node} jumps by {by} ms"));
        self.log.allowance_ms += JUMP_MAX_MS;
        self.nodes[node].wall_offset_ms += by;
    }

    pub fn heal(&mut self) {
        self.note("the network and the disks are well again".into());
        self.network.heal();
        for node in &mut self.nodes {
            node.disk.heal();
            node.sync_micros = SYNC_MICROS;
        }
    }

    /// No more faults from here on.
    pub fn become_calm(&mut self) {
        self.calm = true;
        self.heal();
        for node in 0..self.nodes.len() {
            self.nodes[node].wall_offset_ms = 0;
            let life = self.nodes[node].life;
            self.resume(node, life);
        }
        self.clients.iter_mut().for_each(|client| client.quiet = true);
    }
}
