//! Members whose states differ (L6): who is right, and who must stop.
//!
//! A leader writes the marks of its state into the log (`machine::digests`). A member that has another mark there does
//! not know who is wrong, so it neither leads nor votes nor answers, and asks all voters for theirs:
//! * Its own mark is that of a majority: it goes on as before. Somebody else stops.
//! * Another mark is: it stops for good. What it holds is not what the cluster agreed on, and so is what it would answer.
//! * No majority is heard in time: it stays in doubt and goes on asking. It keeps and acknowledges the log, which is not
//!   in doubt, and votes again, as the others may need that; it neither leads nor answers. To stop for good it would have to
//!   believe the log, and whoever wrote that may be the one that is wrong.
//!
//! Everybody who is asked counts in the same way. So a leader that is the odd one finds out as well: all others differ from
//! its mark, and each tells it, for a while also when it knows already that it is right itself.
//!
//! A member that is not in doubt remembers who told another mark than its own (`Odd`), so that it can raise an alarm, and asks
//! all for their newest marks until a majority has the one here. Until then the states are *disputed*: a leader gives its own
//! to nobody, as it may be the one that is wrong, and what is wrong in two members of three is right by the count. Where no
//! majority will ever be heard, because the third needs a state first, a person decides by removing one of the two.
//! Later those that differ are asked now and then: they may have got a whole state again.

use std::collections::BTreeMap;

use crate::base::{LogIndex, NodeId};
use crate::consensus::ELECTION_TICKS;
use crate::machine::Differs;

/// Ticks between two rounds of questions.
const ASK_EVERY: usize = 5;
/// Ticks after which nobody is waited for any more.
const PATIENCE: usize = 3 * ELECTION_TICKS;
/// Ticks between two looks whether a member that differed still does.
const LOOK_EVERY: usize = 10 * ASK_EVERY;

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
    /// The mark that a majority has.
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

    /// Whether it may give its vote to others.
    pub fn lets_vote(&self) -> bool {
        !self.is_open() || self.ticks > PATIENCE
    }

    /// Ends it: nobody else is there any more.
    pub fn end(&mut self) {
        self.log = None;
    }

    /// This member was removed. If it had the mark that the log has, and nobody else is known who has, then whoever removed it
    /// has decided.
    pub fn removed(&mut self, node: NodeId) {
        let Some(log) = self.log else { return };
        if self.told.remove(&node) == Some(log.told) && !self.told.values().any(|mark| *mark == log.told) {
            self.right = true;
        }
    }

    /// What the voters and others told.
    pub fn told(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.told.iter().map(|(node, mark)| (*node, *mark))
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
        match majority {
            Some(mark) if *mark == mine => {
                self.right = true;
                Verdict::Right
            }
            Some(mark) => Verdict::Wrong(*mark),
            None => Verdict::Open,
        }
    }
}

/// Members whose states differ from the one here, which is not in doubt.
#[derive(Debug, Default)]
pub struct Odd {
    /// Where they were seen to differ first.
    since: BTreeMap<NodeId, LogIndex>,
    /// Up to here a majority has the marks that were made here.
    agreed: LogIndex,
    ticks: usize,
}

impl Odd {
    /// A member told its mark of an index; `mine` was made here. True: nobody knew so far that it differs.
    pub fn hear(&mut self, node: NodeId, index: LogIndex, mark: u64, mine: u64) -> bool {
        let known = self.since.get(&node).copied();
        if mark != mine {
            self.since.entry(node).or_insert(index);
            return known.is_none();
        }
        if known.is_some_and(|since| since <= index) {
            self.since.remove(&node);
        }
        false
    }

    /// A majority has the mark of this index that was made here, and so all before it.
    pub fn agree(&mut self, index: LogIndex) {
        self.agreed = self.agreed.max(index);
    }

    /// Whether it is not known if the one here is wrong, or those that differ from it.
    pub fn is_disputed(&self) -> bool {
        self.since.values().any(|since| *since > self.agreed)
    }

    /// Forgets those that are no members any more.
    pub fn keep(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.since.retain(|node, _| is_member(*node));
    }

    /// Who of the others is to be asked for its newest mark now.
    pub fn asks(&mut self, others: Vec<NodeId>) -> Vec<NodeId> {
        self.ticks = if self.since.is_empty() { 0 } else { self.ticks + 1 };
        if self.is_disputed() && self.ticks % ASK_EVERY == 1 {
            others
        } else if self.ticks > 0 && self.ticks.is_multiple_of(LOOK_EVERY) {
            self.since.keys().copied().collect()
        } else {
            Vec::new()
        }
    }

    /// Who differs, and since which entry at the latest.
    pub fn members(&self) -> Vec<(NodeId, LogIndex)> {
        self.since.iter().map(|(node, since)| (*node, *since)).collect()
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
    fn l6_without_a_majority_it_stays_in_doubt_and_votes_after_a_while() {
        let mut doubt = Doubt::default();
        assert!(doubt.lets_vote());
        doubt.begin(differs(7, 1));
        let asked = (0..PATIENCE).filter(|_| doubt.asks().is_some()).count();
        assert_eq!(asked, PATIENCE / ASK_EVERY);
        assert_eq!((doubt.judge(NodeId(2), 7, &VOTERS), doubt.lets_vote()), (Verdict::Open, false));
        doubt.asks();
        assert_eq!(doubt.judge(NodeId(2), 7, &VOTERS), Verdict::Open);
        assert!(doubt.is_open() && doubt.lets_vote());
        // Much later somebody comes back and has the same.
        assert!((0..PATIENCE).any(|_| doubt.asks().is_some()), "it goes on asking");
        hear(&mut doubt, 3, 7);
        assert_eq!(doubt.judge(NodeId(2), 7, &VOTERS), Verdict::Right);
    }

    #[test]
    fn l6_a_member_that_differs_is_known_until_it_is_whole_again_or_gone() {
        let mut odd = Odd::default();
        assert!(!odd.hear(NodeId(2), LogIndex(64), 7, 7));
        assert!(odd.hear(NodeId(2), LogIndex(64), 1, 7) && odd.hear(NodeId(3), LogIndex(64), 1, 7));
        assert!(!odd.hear(NodeId(2), LogIndex(128), 2, 8), "that is known");
        odd.hear(NodeId(2), LogIndex(32), 5, 5);
        assert_eq!(odd.members(), [(NodeId(2), LogIndex(64)), (NodeId(3), LogIndex(64))], "it was whole before");
        assert_eq!((0..LOOK_EVERY).map(|_| odd.asks(Vec::new()).len()).sum::<usize>(), 2);
        odd.hear(NodeId(2), LogIndex(192), 9, 9);
        odd.keep(|node| node != NodeId(3));
        assert!(odd.members().is_empty() && (0..LOOK_EVERY).all(|_| odd.asks(Vec::new()).is_empty()));
    }

    #[test]
    fn l6_states_are_disputed_until_a_majority_agrees_and_all_are_asked_meanwhile() {
        let (mut odd, others) = (Odd::default(), vec![NodeId(2), NodeId(3)]);
        assert!(!odd.is_disputed() && odd.asks(others.clone()).is_empty());
        odd.hear(NodeId(2), LogIndex(64), 1, 7);
        assert!(odd.is_disputed());
        assert_eq!((0..ASK_EVERY).filter(|_| odd.asks(others.clone()) == others).count(), 1);
        odd.agree(LogIndex(128));
        assert!(!odd.is_disputed() && (0..ASK_EVERY).all(|_| odd.asks(others.clone()).is_empty()));
        // Another one, later: the one here may be damaged by now.
        odd.hear(NodeId(3), LogIndex(192), 1, 7);
        assert!(odd.is_disputed());
        odd.keep(|node| node != NodeId(3));
        assert!(!odd.is_disputed());
    }

    #[test]
    fn l6_whoever_removes_the_last_that_has_the_mark_of_the_log_has_decided() {
        let mut doubt = Doubt::default();
        doubt.begin(differs(7, 1));
        doubt.removed(NodeId(3));
        assert!(doubt.is_open(), "nobody knows what that one had");
        for (from, mark) in [(1, 1), (2, 1), (4, 7)] {
            hear(&mut doubt, from, mark);
        }
        doubt.removed(NodeId(4));
        doubt.removed(NodeId(2));
        assert!(doubt.is_open(), "1 has it still");
        doubt.removed(NodeId(1));
        assert!(!doubt.is_open());
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
