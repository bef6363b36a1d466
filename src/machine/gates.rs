//! Where jobs with limits wait: behind gates, so that a claim finds at once what it may take and never skips anything.
//!
//! Each line of a queue and function has a tree. A job with limits stands behind one gate for each of them, one behind the
//! other; a gate is open while its limiter has room. What stands first behind an open gate shows: behind the gate before it,
//! and so on up to the line itself, among the jobs without limits. So a line holds the first of each key that has room, and
//! nothing else of it.
//!
//! * A limiter that runs full or gets room moves one entry for each of its gates. A job enqueued, claimed or cancelled moves
//!   one for each gate of its own. Neither depends on how many jobs wait.
//! * A gate of a key that takes turns is always open and shows its first job as if it had begun to wait at the last start of
//!   one of that key, if it did before (J8): so the key that was served longest ago is first, and one that had nothing waiting
//!   neither loses nor gains by it. Its turn is renewed by a start, which moves one entry for each of its gates too.
//! * Which gate comes first changes only the cost: all that counts is whether they are open, and as a job has one key that
//!   takes turns at most, it is put behind the same turn wherever that gate stands. The limiter that most jobs wait
//!   for comes first, so that a limit of all stands before those of each customer and has one gate, not one for each. If a
//!   limiter stands behind `k` others, each of those had more jobs waiting than it had, so `k` grows at most as the root of
//!   their number.
//! * All of it follows from the jobs and limiters. Nothing is stored.

use std::collections::{BTreeMap, BTreeSet};

use super::queues::{behind_turn, Rank};
use super::table::Slot;
use super::Machine;

/// Queue and function of a line, by number.
pub(super) type LineOf = (u32, u32);

/// The root of a line, or a gate in it.
#[derive(Debug, Default)]
struct Gate {
    home: LineOf,
    /// Whose gate it is and which it stands behind; nothing for a root.
    stands: Option<(u32, u32)>,
    /// By limiter, those that stand behind it.
    behind: BTreeMap<u32, u32>,
    /// Its own jobs, and the first of each open gate behind it.
    heads: BTreeMap<Rank, Slot>,
    /// Jobs behind it, at all depths.
    jobs: u64,
    /// Of these, those that some closed gate at a greater depth holds back, and those that this one or a deeper one does.
    below: u64,
    held: u64,
    /// The head that shows before it.
    shown: Option<Rank>,
}

#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Vec<Gate>,
    free: Vec<u32>,
    roots: BTreeMap<LineOf, u32>,
    places: BTreeMap<Slot, u32>,
    /// Lines whose first job may have changed other than by a claim of it.
    touched: Vec<LineOf>,
    /// Steps taken so far, for tests of what a job costs.
    steps: u64,
}

/// What a line holds behind gates.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behind {
    pub jobs: u64,
    /// Held back by a limit without room.
    pub held: u64,
    /// Entries in the line itself.
    pub shown: u64,
}

impl Gates {
    fn gate(&self, number: u32) -> &Gate {
        &self.gates[number as usize]
    }

    fn gate_mut(&mut self, number: u32) -> &mut Gate {
        self.steps += 1;
        &mut self.gates[number as usize]
    }

    fn make(&mut self, gate: Gate) -> u32 {
        if let Some(number) = self.free.pop() {
            self.gates[number as usize] = gate;
            return number;
        }
        self.gates.push(gate);
        self.gates.len() as u32 - 1
    }

    fn root(&mut self, home: LineOf) -> u32 {
        if let Some(root) = self.roots.get(&home) {
            return *root;
        }
        let root = self.make(Gate { home, ..Gate::default() });
        self.roots.insert(home, root);
        root
    }

    /// The gate of a limiter behind another, and whether it is new.
    fn child(&mut self, before: u32, limiter: u32) -> (u32, bool) {
        if let Some(gate) = self.gate(before).behind.get(&limiter) {
            return (*gate, false);
        }
        let home = self.gate(before).home;
        let gate = self.make(Gate { home, stands: Some((limiter, before)), ..Gate::default() });
        self.gate_mut(before).behind.insert(limiter, gate);
        (gate, true)
    }

    pub fn behind(&self, home: LineOf) -> Behind {
        let Some(root) = self.roots.get(&home).map(|root| self.gate(*root)) else { return Behind::default() };
        Behind { jobs: root.jobs, held: root.below, shown: root.heads.len() as u64 }
    }

    /// The sum over all lines of a queue.
    pub fn held_in(&self, queue: u32) -> u64 {
        let roots = self.roots.range((queue, 0)..=(queue, u32::MAX));
        roots.map(|(_, root)| self.gate(*root).below).sum()
    }

    /// How many jobs stand before this one behind its last gate, counted up to `most`.
    pub fn before(&self, slot: Slot, rank: Rank, most: usize) -> usize {
        self.places.get(&slot).map_or(0, |gate| self.gate(*gate).heads.range(..rank).take(most).count())
    }

    /// The lines whose first job may have changed since the last call.
    pub fn touched(&mut self) -> Vec<LineOf> {
        std::mem::take(&mut self.touched)
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    #[cfg(any(debug_assertions, feature = "sim"))] // For the recount of tests.
    pub fn lines(&self) -> Vec<(LineOf, u64, u64)> {
        let behind = |home: &LineOf| (*home, self.behind(*home).jobs, self.behind(*home).held);
        self.roots.keys().map(behind).collect()
    }
}

impl Machine {
    /// A job with limits begins to wait. `false` if its place is taken.
    pub(super) fn stand(&mut self, slot: Slot, rank: Rank, home: LineOf) -> bool {
        let mut limiters = self.limiters_of(slot);
        limiters.sort_by_key(|limiter| std::cmp::Reverse(self.limiters.get(*limiter).waiting()));
        let gates = &mut self.gates;
        let mut gate = gates.root(home);
        gates.gate_mut(gate).jobs += 1;
        for limiter in limiters {
            let (next, new) = gates.child(gate, limiter);
            if new {
                self.limiters.get_mut(limiter).gates.insert(next);
            }
            self.limiters.get_mut(limiter).begin_wait(home.0);
            gates.gate_mut(next).jobs += 1;
            gate = next;
        }
        gates.places.insert(slot, gate);
        let free = gates.gate_mut(gate).heads.insert(rank, slot).is_none();
        self.refresh(gate, true);
        free
    }

    /// It waits no more.
    pub(super) fn step_out(&mut self, slot: Slot, rank: Rank, home: LineOf) {
        for limiter in self.limiters_of(slot) {
            self.limiters.get_mut(limiter).end_wait(home.0);
        }
        let Some(last) = self.gates.places.remove(&slot) else { return };
        self.gates.gate_mut(last).heads.remove(&rank);
        let mut gate = Some(last);
        while let Some(number) = gate {
            let found = self.gates.gate_mut(number);
            found.jobs -= 1;
            gate = found.stands.map(|(_, before)| before);
        }
        self.refresh(last, true);
        self.prune(last);
    }

    /// Removes gates without jobs, from the last one up.
    fn prune(&mut self, last: u32) {
        let mut next = Some(last);
        while let Some(number) = next.filter(|number| self.gates.gate(*number).jobs == 0) {
            let gate = std::mem::take(self.gates.gate_mut(number));
            match gate.stands {
                Some((limiter, before)) => {
                    self.gates.gate_mut(before).behind.remove(&limiter);
                    self.limiters.get_mut(limiter).gates.remove(&number);
                }
                None => {
                    self.gates.roots.remove(&gate.home);
                }
            }
            self.gates.free.push(number);
            next = gate.stands.map(|(_, before)| before);
        }
    }

    /// A limiter has run full, or has room again, or its turn is another one.
    pub(super) fn refresh_all(&mut self, limiter: u32) {
        let gates: BTreeSet<u32> = self.limiters.get(limiter).gates.clone();
        for gate in gates {
            self.refresh(gate, false);
        }
    }

    /// Lets show before a gate what stands first behind it, if it is open, and so on up to the line. `whole`: a job came or
    /// went, so that every gate up to the line counts another one; else it ends where nothing changes.
    fn refresh(&mut self, last: u32, whole: bool) {
        let mut number = last;
        while let Some((limiter, before)) = self.gates.gate(number).stands {
            let (open, turn) = (self.limiters.get(limiter).open(), self.limiters.get(limiter).turn());
            let gate = self.gates.gate_mut(number);
            let first = gate.heads.first_key_value().filter(|_| open);
            let head = first.map(|(rank, slot)| (behind_turn(*rank, turn), *slot));
            let held = if open { gate.below } else { gate.jobs };
            let (shows, was, was_held) = (head.map(|(rank, _)| rank), gate.shown, gate.held);
            if !whole && shows == was && held == was_held {
                return;
            }
            (gate.shown, gate.held) = (shows, held);
            let home = gate.home;
            let above = self.gates.gate_mut(before);
            above.below = above.below + held - was_held;
            let root = above.stands.is_none();
            if shows != was {
                was.map(|rank| above.heads.remove(&rank));
                head.map(|(rank, slot)| above.heads.insert(rank, slot));
                if root {
                    self.show(home, was, head);
                }
            }
            number = before;
        }
    }

    /// Another job of a tree stands in the line.
    fn show(&mut self, home: LineOf, was: Option<Rank>, head: Option<(Rank, Slot)>) {
        let queue = self.queues.get_mut(home.0);
        if let Some(rank) = was {
            queue.take(home.1, rank);
        }
        if let Some((rank, slot)) = head {
            queue.push(home.1, rank, slot);
        }
        self.gates.touched.push(home);
    }
}
