//! Who waits for which entry. A ticket is found by index and term: another term at its index means that another leader
//! put its own entry there, and the waiting one is gone for good.

use std::collections::VecDeque;

use super::log_store::Position;
use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, Result, Term};
use crate::consensus::Placed;

/// Tickets in log order.
#[derive(Debug)]
pub struct Tickets<T> {
    waiting: VecDeque<(LogIndex, Term, T)>,
}

/// What became of tickets.
pub type Answers<T> = Vec<(T, Result<Vec<u8>>)>;

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Tickets<T> {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// These tickets own the entries that were placed together. Leaders of different terms may place at the same index,
    /// and a later one at a lower index.
    pub fn place(&mut self, placed: Placed, tickets: impl IntoIterator<Item = T>) {
        for (position, ticket) in (0..).zip(tickets) {
            let index = LogIndex(placed.first.0 + position);
            let behind = self.waiting.back().is_some_and(|last| last.0 > index);
            let place =
                if behind { self.waiting.partition_point(|other| other.0 <= index) } else { self.waiting.len() };
            self.waiting.insert(place, (index, placed.term, ticket));
        }
    }

    /// The entry at this index was applied. Its owner gets the answer; one with another term at the same index learns that
    /// its entry will never be applied.
    pub fn applied(&mut self, at: Position, answer: Option<Vec<u8>>, answers: &mut Answers<T>) {
        let mut answer = answer;
        while self.waiting.front().is_some_and(|front| front.0 <= at.index) {
            let Some((index, term, ticket)) = self.waiting.pop_front() else { return };
            let mine = index == at.index && (term == at.term || has(Bug::PlacedWithoutTerm));
            let outcome = if mine { answer.take() } else { None };
            let overruled = || Error::NotCommitted(format!("another leader wrote entry {index}"));
            answers.push((ticket, outcome.ok_or_else(overruled)));
        }
    }

    /// The first entry of a new term is applied: everything that an older term placed behind it will never be, as terms do
    /// not decrease along the log.
    pub fn overruled(&mut self, at: Position, answers: &mut Answers<T>) {
        let (lost, left): (VecDeque<_>, _) = self.waiting.drain(..).partition(|(_, term, _)| *term < at.term);
        self.waiting = left;
        let overruled =
            |index| Err(Error::NotCommitted(format!("the leader of term {} overruled entry {index}", at.term)));
        answers.extend(lost.into_iter().map(|(index, _, ticket)| (ticket, overruled(index))));
    }

    /// The state up to here came from another member, without the answers.
    pub fn passed_over(&mut self, index: LogIndex, answers: &mut Answers<T>) {
        let count = self.waiting.partition_point(|other| other.0 <= index);
        let why = || Error::Unknown("the answer is in a state that came from another member".into());
        answers.extend(self.waiting.drain(..count).map(|(_, _, ticket)| (ticket, Err(why()))));
    }

    /// Nobody knows any more what becomes of these.
    pub fn abandon(&mut self, why: &str, answers: &mut Answers<T>) {
        answers.extend(self.waiting.drain(..).map(|(_, _, ticket)| (ticket, Err(Error::Unknown(why.to_owned())))));
    }
}
