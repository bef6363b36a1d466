//! Members whose states differ (L6): who is right, and who must stop.
//!
//! A leader writes the marks of its state into the log (`machine::digests`). A member that has another mark there does
//! not know who is wrong, so it neither leads nor votes, and asks all voters for theirs:
//! * Its own mark is that of a majority: it goes on as before. Somebody else stops.
//! * Another mark is: it stops. What it holds is not what the cluster agreed on, and so is what it would answer.
//! * No majority is heard in time: it takes the side of the log and stops.
//!
//! Everybody who is asked counts in the same way. So a leader that is the odd one finds out as well: all others differ from
//! its mark, and each tells it, for a while also when it knows already that it is right itself.

use std::collections::BTreeMap;

use crate::base::{LogIndex, NodeId};
use crate::consensus::ELECTION_TICKS;
use crate::machine::Differs;

/// Ticks between two rounds of questions.
const ASK_EVERY: usize = 5;
/// Ticks after which the log is believed.
const PATIENCE: usize = 3 * ELECTION_TICKS;

/// What voters told about their marks.
#[derive(Debug, Default)]
pub struct Doubt {
    /// The newest index that is talked about.
    index: LogIndex,
    told: BTreeMap<NodeId, u64>,
    /// What the log says, where it is not what is known here.
    log: Option<Differs>,
    /// The log is wrong. The others must still be told.
    right: bool,
    ticks: usize,
}

/// What follows from what was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Open,
    /// A majority has the same mark.
    Right,
    /// The mark that a majority has, or that the log tells.
    Wrong(u64),
}

impl Doubt {
    /// The log tells another mark than the one made here. One is enough: later marks build on it.
    pub fn begin(&mut self, differs: Differs) {
        if self.log.is_none() {
            self.turn_to(differs.index);
            (self.log, self.right, self.ticks) = (Some(differs), false, 0);
        }
    }

    /// Whether this member differs from the log and does not know yet who is wrong.
    pub fn is_open(&self) -> bool {
        self.log.is_some() && !self.right
    }

    /// The index to ask about, when it is time to ask.
    pub fn asks(&mut self) -> Option<LogIndex> {
        self.log?;
        self.ticks += 1;
        if self.right && self.ticks > PATIENCE {
            self.log = None;
        }
        (self.ticks % ASK_EVERY == 1).then_some(self.index)
    }

    /// A voter tells its mark.
    pub fn hear(&mut self, from: NodeId, index: LogIndex, mark: u64) {
        if index > self.index && self.log.is_none() {
            self.turn_to(index);
        }
        if index == self.index {
            self.told.insert(from, mark);
        }
    }

    fn turn_to(&mut self, index: LogIndex) {
        if index != self.index {
            (self.index, self.log) = (index, None);
            self.told.clear();
        }
    }

    /// What is talked about.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// Counts the marks of the voters; `mine` was made here.
    pub fn judge(&mut self, me: NodeId, mine: u64, voters: &[u64]) -> Verdict {
        self.told.insert(me, mine);
        let marks: Vec<u64> = voters.iter().filter_map(|voter| self.told.get(&NodeId(*voter)).copied()).collect();
        let majority = marks.iter().find(|mark| 2 * marks.iter().filter(|other| other == mark).count() > voters.len());
        match (majority, self.log) {
            (Some(mark), _) if *mark == mine => {
                self.right = true;
                Verdict::Right
            }
            (Some(mark), _) => Verdict::Wrong(*mark),
            (None, Some(differs)) if !self.right && self.ticks > PATIENCE => Verdict::Wrong(differs.told),
            (None, _) => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [u64; 3] = [1, 2, 3];

    fn differs(mine: u64, told: u64) -> Differs {
        Differs { index: LogIndex(64), mine, told }
    }

    fn hear(doubt: &mut Doubt, from: u64, mark: u64) {
        doubt.hear(NodeId(from), LogIndex(64), mark);
    }

    #[test]
    fn l6_the_minority_is_wrong_whoever_leads() {
        // The leader is 1 and odd: 2 and 3 differ from the log, and from nobody else.
        let (mut second, mut leader) = (Doubt::default(), Doubt::default());
        second.begin(differs(7, 1));
        hear(&mut second, 1, 1);
        assert_eq!(second.judge(NodeId(2), 7, &VOTERS), Verdict::Open);
        hear(&mut second, 3, 7);
        assert_eq!(second.judge(NodeId(2), 7, &VOTERS), Verdict::Right);
        assert!(!second.is_open() && second.asks().is_some(), "the others are told all the same");
        hear(&mut leader, 2, 7);
        assert_eq!(leader.judge(NodeId(1), 1, &VOTERS), Verdict::Open);
        hear(&mut leader, 3, 7);
        assert_eq!(leader.judge(NodeId(1), 1, &VOTERS), Verdict::Wrong(7));
    }

    #[test]
    fn l6_without_a_majority_the_log_is_believed_after_a_while() {
        let mut doubt = Doubt::default();
        doubt.begin(differs(7, 1));
        let asked = (0..PATIENCE).filter(|_| doubt.asks().is_some()).count();
        assert_eq!(asked, PATIENCE / ASK_EVERY);
        assert_eq!(doubt.judge(NodeId(2), 7, &VOTERS), Verdict::Open);
        doubt.asks();
        assert_eq!(doubt.judge(NodeId(2), 7, &VOTERS), Verdict::Wrong(1));
    }

    #[test]
    fn a_stranger_does_not_count_and_an_old_index_is_not_talked_about() {
        let mut doubt = Doubt::default();
        hear(&mut doubt, 8, 7);
        hear(&mut doubt, 9, 7);
        assert_eq!(doubt.judge(NodeId(2), 1, &VOTERS), Verdict::Open);
        doubt.hear(NodeId(1), LogIndex(128), 5);
        assert_eq!(doubt.index(), LogIndex(128));
        hear(&mut doubt, 3, 7);
        assert_eq!(doubt.judge(NodeId(2), 5, &VOTERS), Verdict::Right);
    }
}
