//! A member whose log was cut at a place that it may have acknowledged: a torn write and a damaged one look the same. Or
//! one whose log is older than what its leader was told: somebody put a copy of its directory back.
//!
//! What was cut was either never acknowledged, or this member's copy is one of the few that may be damaged, and then
//! another member of the majority that acknowledged it has it whole. So:
//! * Until it knows more, it neither leads nor votes: its vote could elect somebody who lacks the entry.
//! * It asks all other voters how far their logs reach. When every one of them has said, it votes for a log that reaches
//!   as far as the longest of them; if that is its own, nothing was lost, and it is a member like any other.
//! * A voter that was removed meanwhile never answers. Those that know of the removal say so, and it is not waited for.
//! * Or a leader brings its log beyond the place: then it has the entry, if it ever was committed.
//! * What was cut may have been a vote. So it counts as having voted in every term that it hears of meanwhile; whom it
//!   voted for is among the others, so their terms reach as far as any vote that it gave.
//! * What was cut may have replaced older entries, which the log shows again. So no heartbeat commits anything here: only
//!   what a leader appends was compared with its own log.
//! * A leader that knew more of its log than is left, or another entry at its end, is told so by the question, and begins to
//!   look for the end anew.
//!
//! With a voter missing for good and nobody to lead, a person must decide. After R. Alagappan and others, "Protocol-aware
//! recovery for consensus-based storage", FAST 2018, whose members answer for single entries.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{LogIndex, NodeId, Term};

/// Ticks between two rounds of questions.
const ASK_EVERY: u32 = 10;

/// The end of a log: compared by term first, as raft compares logs.
pub type LogEnd = (Term, LogIndex);

#[derive(Debug)]
pub struct Suspicion {
    /// Up to here the log may have been acknowledged.
    upto: LogIndex,
    /// What the others said.
    told: BTreeMap<NodeId, (Term, LogEnd)>,
    /// Voters that are none any more, as others know.
    gone: BTreeSet<NodeId>,
    /// The highest term and the longest log of all others, once they have all said.
    sum: Option<(Term, LogEnd)>,
    ticks: u32,
}

impl Suspicion {
    pub fn new(upto: LogIndex) -> Self {
        Self { upto, told: BTreeMap::new(), gone: BTreeSet::new(), sum: None, ticks: 0 }
    }

    /// Up to here the log may have been acknowledged.
    pub fn upto(&self) -> LogIndex {
        self.upto
    }

    /// Whether it is time to ask again.
    pub fn asks(&mut self) -> bool {
        self.ticks += 1;
        self.sum.is_none() && self.ticks % ASK_EVERY == 1
    }

    /// One of the other voters says its term and how far its log reaches.
    pub fn hear(&mut self, from: NodeId, term: Term, end: LogEnd, others: &[NodeId]) {
        self.told.insert(from, (term, end));
        self.add_up(others);
    }

    /// One of the voters is none any more.
    pub fn hear_of_removal(&mut self, node: NodeId, others: &[NodeId]) {
        self.gone.insert(node);
        self.add_up(others);
    }

    /// Those among the other voters that have not said anything.
    pub fn silent(&self, others: &[NodeId]) -> Vec<NodeId> {
        let is_silent = |other: &NodeId| !self.told.contains_key(other) && !self.gone.contains(other);
        others.iter().copied().filter(is_silent).collect()
    }

    fn add_up(&mut self, others: &[NodeId]) {
        if self.silent(others).is_empty() {
            let highest = self.told.values().map(|told| told.0).max();
            self.sum = highest.zip(self.told.values().map(|told| told.1).max());
        }
    }

    /// The terms up to here it must not vote in any more.
    pub fn spoiled_upto(&self) -> Term {
        self.sum.map_or(Term(0), |(highest, _)| highest)
    }

    /// Whether it is over for a log that ends here.
    pub fn is_over(&self, mine: LogEnd) -> bool {
        mine.1 >= self.upto || self.may_follow(mine)
    }

    /// Whether somebody with this log may lead.
    pub fn may_follow(&self, candidate: LogEnd) -> bool {
        self.sum.is_some_and(|(_, longest)| candidate >= longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [NodeId; 2] = [NodeId(2), NodeId(3)];

    fn end(term: u64, index: u64) -> LogEnd {
        (Term(term), LogIndex(index))
    }

    #[test]
    fn d5_it_votes_for_nobody_before_all_others_have_said() {
        let mut suspicion = Suspicion::new(LogIndex(10));
        assert!(!suspicion.may_follow(end(9, 99)));
        suspicion.hear(NodeId(2), Term(4), end(3, 12), &OTHERS);
        suspicion.hear(NodeId(2), Term(4), end(3, 12), &OTHERS);
        assert!(!suspicion.may_follow(end(9, 99)) && !suspicion.is_over(end(3, 9)));
    }

    #[test]
    fn d5_it_votes_for_the_longest_log_only_and_in_no_term_that_it_may_have_voted_in() {
        let mut suspicion = Suspicion::new(LogIndex(10));
        suspicion.hear(NodeId(2), Term(4), end(3, 12), &OTHERS);
        suspicion.hear(NodeId(3), Term(7), end(2, 40), &OTHERS);
        assert!(suspicion.may_follow(end(3, 12)) && !suspicion.may_follow(end(2, 40)), "the term decides first");
        assert_eq!(suspicion.spoiled_upto(), Term(7));
        assert!(!suspicion.asks(), "it knows");
    }

    #[test]
    fn d5_a_voter_that_was_removed_is_not_waited_for_and_every_other_one_is() {
        let mut suspicion = Suspicion::new(LogIndex(10));
        assert_eq!(suspicion.silent(&OTHERS), OTHERS);
        suspicion.hear_of_removal(NodeId(3), &OTHERS);
        assert_eq!(suspicion.silent(&OTHERS), [NodeId(2)]);
        assert!(!suspicion.may_follow(end(9, 99)));
        suspicion.hear(NodeId(2), Term(4), end(3, 12), &OTHERS);
        assert!(suspicion.may_follow(end(3, 12)) && !suspicion.may_follow(end(3, 11)));
    }

    #[test]
    fn it_is_over_when_nobody_has_more_or_the_log_reaches_the_place_again() {
        let mut suspicion = Suspicion::new(LogIndex(10));
        assert!(suspicion.is_over(end(1, 10)) && !suspicion.is_over(end(1, 9)));
        OTHERS.iter().for_each(|other| suspicion.hear(*other, Term(2), end(1, 8), &OTHERS));
        assert!(suspicion.is_over(end(1, 9)) && !suspicion.is_over(end(1, 7)));
    }
}
