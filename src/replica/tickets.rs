//! Who waits for which entry. A ticket is found by index and term: another term at its index means that another leader
//! put its own entry there, and the waiting one is gone for good.

use std::collections::VecDeque;

use crate::base::{Error, LogIndex, Result, Term};
use crate::consensus::Placed;

/// Tickets in log order.
#[derive(Debug)]
pub struct Tickets<T> {
    waiting: VecDeque<(LogIndex, Term, T)>,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Tickets<T> {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// These tickets own the entries that were placed together.
    pub fn place(&mut self, placed: Placed, tickets: impl IntoIterator<Item = T>) {
        for (position, ticket) in (0..).zip(tickets) {
            self.waiting.push_back((LogIndex(placed.first.0 + position), placed.term, ticket));
        }
    }

    /// The entry at this index was applied. Its owner gets the answer; an owner with another term at the same index, or
    /// at one that was passed over, learns that its entry will never be applied.
    pub fn applied(&mut self, index: LogIndex, term: Term, answer: Vec<u8>, answers: &mut Vec<(T, Result<Vec<u8>>)>) {
        let mut answer = Some(answer);
        while self.waiting.front().is_some_and(|front| front.0 <= index) {
            let Some((at, with, ticket)) = self.waiting.pop_front() else { return };
            let outcome = if at == index && with == term { answer.take() } else { None };
            let overruled = || Error::NotCommitted(format!("another leader wrote entry {at}"));
            answers.push((ticket, outcome.ok_or_else(overruled)));
        }
    }

    /// Nobody knows any more what becomes of these.
    pub fn abandon(&mut self, why: &str, answers: &mut Vec<(T, Result<Vec<u8>>)>) {
        answers.extend(self.waiting.drain(..).map(|(_, _, ticket)| (ticket, Err(Error::Unknown(why.to_owned())))));
    }
}
