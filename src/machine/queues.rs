//! Queues and functions: their names, figures and pauses, and the line of ready jobs of each pair.
//!
//! A line (of one queue and one function) is ordered by priority, highest first, then by when its jobs became enqueued
//! (J8); of jobs whose keys take turns it holds the first of each key, since the last start of another of that key if this
//! was later. A claim merges the heads of the lines it may take from, so a function that no worker knows holds up nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::job::State;
use super::table::Slot;
use super::tally::Tally;
use crate::base::planted::{has, Bug};
use crate::base::{limits, Millis};

/// Place in a line: smaller is earlier. From the highest bits down: 8 of the priority, 56 of since when it counts as waiting,
/// and 64 of the order of becoming enqueued, which no two jobs share that wait.
pub(super) type Rank = u128;

/// The rank of a job: priority above everything, then the order of becoming enqueued.
pub(super) fn rank(priority: i64, order: u64) -> Rank {
    let reversed = (limits::PRIORITY_MAX - priority) as u64;
    debug_assert!(reversed < 256 && order < 1 << 56);
    let since = if has(Bug::LastFirst) { (1 << 56) - 1 - order } else { order };
    (Rank::from((reversed << 56) | since) << 64) | Rank::from(order)
}

/// The rank of a job whose key had its last turn then: as if it had begun to wait at that time, if it did before.
pub(super) fn behind_turn(rank: Rank, turn: u64) -> Rank {
    let priority_and_order = rank & !(((1 << 56) - 1) << 64);
    rank.max(priority_and_order | (Rank::from(turn) << 64))
}

/// The priority that a rank was made of.
pub(super) fn priority_of(rank: Rank) -> i64 {
    limits::PRIORITY_MAX - (rank >> 120) as i64
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// `None`: until somebody resumes it.
    pub until: Option<Millis>,
    pub reason: Arc<str>,
}

#[derive(Debug)]
pub struct Queue {
    pub name: Arc<str>,
    pub pause: Option<Pause>,
    /// How many of its jobs may run at once.
    pub limit: Option<u64>,
    pub tally: Tally,
    /// Lines that are not empty, by the number of their function. Of jobs with limits only what may start now, see `gates`.
    pub(super) lines: BTreeMap<u32, BTreeMap<Rank, Slot>>,
}

impl Queue {
    /// How many more of its jobs may run.
    pub(super) fn room(&self) -> u64 {
        let more = u64::from(has(Bug::QueueOneMore));
        self.limit.map_or(u64::MAX, |limit| (limit + more).saturating_sub(self.tally.count(State::Processing)))
    }

    /// `false` if a job stands there already.
    pub(super) fn push(&mut self, function: u32, rank: Rank, slot: Slot) -> bool {
        self.lines.entry(function).or_default().insert(rank, slot).is_none()
    }

    pub(super) fn take(&mut self, function: u32, rank: Rank) {
        let Some(line) = self.lines.get_mut(&function) else { return };
        line.remove(&rank);
        if line.is_empty() {
            self.lines.remove(&function);
        }
    }

    /// The heads of the lines of these functions, in no order that matters. Looks from the shorter side, as both a
    /// queue and a worker may have very many functions.
    pub(super) fn heads_of<'a>(&'a self, functions: &'a BTreeSet<u32>) -> impl Iterator<Item = (Rank, u32)> + 'a {
        let few = functions.len() < self.lines.len();
        let named = functions.iter().filter(move |_| few).filter_map(|function| self.lines.get_key_value(function));
        let held = self.lines.iter().filter(move |(function, _)| !few && functions.contains(function));
        named.chain(held).filter_map(|(function, line)| Some((*line.first_key_value()?.0, *function)))
    }

    /// The first jobs of each priority of each line, at most so many of each. The very first is the one that waits longest,
    /// unless keys take turns.
    pub(super) fn heads(&self, most: usize) -> impl Iterator<Item = Slot> + '_ {
        self.lines.values().flat_map(move |line| {
            let mut next = line.first_key_value();
            let firsts = std::iter::from_fn(move || {
                let (rank, _) = next?;
                let lower = priority_of(*rank) - 1;
                let lower = (lower >= -limits::PRIORITY_MAX).then(|| super::queues::rank(lower, 0));
                next = lower.and_then(|lower| line.range(lower..).next());
                Some(*rank)
            });
            firsts.flat_map(move |first| {
                let same = line.range(first..).take_while(move |(rank, _)| priority_of(**rank) == priority_of(first));
                same.take(most).map(|(_, slot)| *slot)
            })
        })
    }
}

#[derive(Debug)]
pub struct Function {
    pub name: Arc<str>,
    pub tally: Tally,
}

/// Numbered names that are never forgotten, as their totals are not.
#[derive(Debug)]
pub struct Names<T> {
    items: Vec<T>,
    by_name: BTreeMap<Arc<str>, u32>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { items: Vec::new(), by_name: BTreeMap::new() }
    }
}

impl<T> Names<T> {
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// In the order in which they were first used.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Sorted by name.
    pub fn sorted(&self) -> impl Iterator<Item = &T> {
        self.by_name.values().map(|number| &self.items[*number as usize])
    }

    pub fn get(&self, number: u32) -> &T {
        &self.items[number as usize]
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.items[number as usize]
    }

    pub fn number_of(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The number of this name; `make` gives the item if it is new.
    pub(super) fn intern(&mut self, name: &Arc<str>, make: impl FnOnce(Arc<str>) -> T) -> u32 {
        if let Some(number) = self.number_of(name) {
            return number;
        }
        let number = self.items.len() as u32;
        self.by_name.insert(name.clone(), number);
        self.items.push(make(name.clone()));
        number
    }
}

pub type Queues = Names<Queue>;
pub type Functions = Names<Function>;

impl Queues {
    pub(super) fn number(&mut self, name: &Arc<str>) -> u32 {
        self.intern(name, |name| Queue {
            name,
            pause: None,
            limit: None,
            tally: Tally::default(),
            lines: BTreeMap::new(),
        })
    }
}

impl Functions {
    pub(super) fn number(&mut self, name: &Arc<str>) -> u32 {
        self.intern(name, |name| Function { name, tally: Tally::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j8_a_higher_priority_ranks_before_an_earlier_job() {
        assert!(rank(1, 9) < rank(0, 1));
        assert!(rank(0, 1) < rank(0, 2));
        assert!(rank(100, u64::MAX >> 8) < rank(99, 0));
        assert!(rank(-99, 5) < rank(-100, 4));
        for priority in -100..=100 {
            assert_eq!(priority_of(rank(priority, 77)), priority);
            assert_eq!(priority_of(behind_turn(rank(priority, 77), u64::MAX >> 8)), priority);
        }
    }

    #[test]
    fn j8_a_job_whose_key_had_a_turn_ranks_as_if_it_began_to_wait_then() {
        assert_eq!(behind_turn(rank(3, 7), 0), rank(3, 7));
        assert_eq!(behind_turn(rank(3, 7), 6), rank(3, 7), "it waits since a later time");
        assert!(rank(3, 8) < behind_turn(rank(3, 7), 9) && behind_turn(rank(3, 7), 9) < rank(3, 10));
        assert!(behind_turn(rank(3, 7), 9) < behind_turn(rank(3, 8), 9), "within a key the first one stays first");
        assert!(behind_turn(rank(3, 7), 9) < rank(2, 1));
    }
}
