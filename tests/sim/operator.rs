//! Somebody who changes the members, whatever else goes wrong: new nodes, removals, replacements, machines whose disk is
//! lost. What he wants he asks for again and again until the members are so.
//!
//! Data is lost or damaged on a minority only, so that something is left to rely on: a node whose disk is lost is one of
//! those that may find damage (`is_frail`), and while it is still a member nothing tears the log of another one, as a
//! member that is in doubt about its log needs the answer of all others.

use std::collections::VecDeque;

use raftwork::base::{Error, NodeId};
use raftwork::consensus::MemberChange;
use raftwork::replica::Members;

use crate::cluster::{Cluster, Event};
use crate::node::{Node, Ticket};
use crate::wire;

/// Nodes that join, at most.
const NEWCOMERS_MAX: usize = 5;
/// Members at once, at most.
const MEMBERS_MAX: usize = 7;

/// What the members should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    Learner(usize),
    Voter(usize),
    Gone(usize),
    Swap { old: usize, new: usize },
}

#[derive(Debug)]
pub struct Operator {
    /// How many nodes the cluster began with.
    pub first: usize,
    pub goals: VecDeque<Goal>,
    /// Leaders promote learners that have caught up.
    pub promotes: bool,
    /// Somebody asked for a level that this version does not know.
    pub raised: bool,
    newcomers: usize,
}

/// What to do for a goal.
enum Next {
    Done,
    Wait,
    Ask(MemberChange),
}

impl Operator {
    pub fn new(first: usize, seed: u64) -> Self {
        Self { first, goals: VecDeque::new(), promotes: !seed.is_multiple_of(4), raised: false, newcomers: 0 }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl Goal {
    fn next(self, members: &Members, promotes: bool) -> Next {
        let votes = |node: usize| members.voters.contains(&id(node));
        let learns = |node: usize| members.learners.contains(&id(node));
        let promote = |node: usize| if promotes { Next::Wait } else { Next::Ask(MemberChange::Promote(id(node))) };
        match self {
            _ if !members.outgoing.is_empty() => Next::Wait,
            Goal::Learner(node) if votes(node) || learns(node) => Next::Done,
            Goal::Voter(node) if votes(node) => Next::Done,
            Goal::Voter(node) if learns(node) => promote(node),
            Goal::Gone(node) if !votes(node) && !learns(node) => Next::Done,
            Goal::Gone(node) => Next::Ask(MemberChange::Remove(id(node))),
            Goal::Swap { old, new } if votes(new) && !votes(old) => Next::Done,
            // It was promoted before it could be put in the other's place.
            Goal::Swap { old, new } if votes(new) => Next::Ask(MemberChange::Remove(id(old))),
            // A voter that is alone cannot hand over to one that does not vote, and a learner has no place to take.
            Goal::Swap { old, new } if learns(new) && (members.voters == [id(old)] || !votes(old)) => promote(new),
            Goal::Swap { old, new } if learns(new) => Next::Ask(MemberChange::Replace { old: id(old), new: id(new) }),
            Goal::Learner(node) | Goal::Voter(node) | Goal::Swap { new: node, .. } => {
                Next::Ask(MemberChange::AddLearner(id(node)))
            }
        }
    }
}

impl Cluster {
    /// Does what is next for what is wanted.
    pub fn operate(&mut self) {
        let delay = self.random.between(50_000, 600_000);
        self.after(delay, Event::Operate);
        let Some(goal) = self.operator.goals.front().copied() else { return };
        match goal.next(self.log.members(), self.operator.promotes) {
            Next::Wait => {}
            Next::Done => {
                self.note(format!("the members are as wanted: {goal:?}, {:?}", self.log.members()));
                self.operator.goals.pop_front();
            }
            Next::Ask(change) => {
                if let Some(leader) = self.leader() {
                    self.act(leader, |replica, turn| {
                        replica.change_members(change, false, Ticket::Change(change), turn)
                    });
                }
            }
        }
    }

    /// Who leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leading = (0..self.nodes.len()).filter(|node| self.nodes[*node].leads() && !self.nodes[*node].paused);
        leading.max_by_key(|node| self.nodes[*node].replica.as_ref().map(|replica| replica.term()))
    }

    /// A change was answered: it must be in force at the entry that the answer names.
    pub fn hear_of_change(&mut self, change: MemberChange, answer: Result<Vec<u8>, Error>) {
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return self.note(format!("{change:?}: {error}")),
        };
        let (index, _) = wire::reply(&reply);
        self.note(format!("{change:?} is in force at {index}"));
        let Some(members) = self.log.members_at(index) else { return };
        let votes = |node: &NodeId| members.voters.contains(node) || members.outgoing.contains(node);
        let learns = |node: &NodeId| members.learners.contains(node);
        let holds = match &change {
            MemberChange::AddLearner(node) => learns(node) && !votes(node),
            MemberChange::Promote(node) => votes(node) && !learns(node),
            MemberChange::Remove(node) => !votes(node) && !learns(node),
            MemberChange::Replace { old, new } => votes(new) && !votes(old),
        };
        assert!(holds, "{change:?} was answered at {index}, but the members are {members:?}");
    }

    /// This node learnt that it is no member any more: its process ends for good.
    pub fn retire(&mut self, node: usize) {
        let members = self.log.members();
        let is_member = |list: &[NodeId]| list.contains(&id(node));
        let belongs = is_member(&members.voters) || is_member(&members.learners) || is_member(&members.outgoing);
        assert!(!belongs, "node {node} takes itself for removed, and is not: {members:?}");
        self.note(format!("node {node} was removed"));
        self.removes_its_leader(node);
        self.nodes[node].stop();
        (self.nodes[node].retired, self.nodes[node].loss) = (true, None);
    }

    /// Those that are not gone for good.
    pub fn present(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].retired).collect()
    }

    /// Whether a member or its data is lost, so that no other may doubt its own.
    pub fn is_short(&self) -> bool {
        let members = self.log.members();
        let votes = |node: &NodeId| members.voters.contains(node) || members.outgoing.contains(node);
        self.nodes.iter().any(|node| (node.retired || node.loss.is_some()) && votes(&node.id))
    }

    // -- what is wanted ---------------------------------------------------------------------------------------------

    /// A machine without data joins. Nothing if there were enough.
    pub fn newcomer(&mut self) -> Option<usize> {
        let members = self.log.members();
        if self.operator.newcomers == NEWCOMERS_MAX || members.voters.len() + members.learners.len() >= MEMBERS_MAX {
            return None;
        }
        self.operator.newcomers += 1;
        let node = self.nodes.len();
        let seed = self.random.next();
        self.nodes.push(Node::new(node, seed, true));
        self.start(node);
        Some(node)
    }

    pub fn is_changing(&self) -> bool {
        self.calm || self.nodes.iter().any(|node| node.loss.is_some()) || self.is_to_change()
    }

    /// Whether the members are other than somebody wants them.
    pub fn is_to_change(&self) -> bool {
        !self.operator.goals.is_empty() || !self.log.members().outgoing.is_empty()
    }

    /// One more member.
    pub fn grow(&mut self) {
        if self.is_changing() {
            return;
        }
        let Some(node) = self.newcomer() else { return };
        let goal = if self.random.chance(300) { Goal::Learner(node) } else { Goal::Voter(node) };
        self.want(goal);
    }

    /// One member less.
    pub fn shrink(&mut self) {
        if let Some(node) = self.dispensable(self.log.members().voters.len().saturating_sub(1)) {
            self.want(Goal::Gone(node));
        }
    }

    /// Another member in the place of one that works.
    pub fn replace(&mut self) {
        let Some(old) = self.dispensable(self.log.members().voters.len()) else { return };
        let Some(new) = self.newcomer() else { return };
        self.want(Goal::Swap { old, new });
    }

    pub fn want(&mut self, goal: Goal) {
        self.note(format!("wanted: {goal:?}"));
        self.operator.goals.push_back(goal);
    }

    /// Somebody without whom those that may find damage are a minority still, among so many voters.
    pub fn dispensable(&mut self, voters: usize) -> Option<usize> {
        if self.is_changing() || voters == 0 {
            return None;
        }
        let members = self.log.members();
        let all: Vec<usize> = members.voters.iter().chain(&members.learners).map(|id| id.0 as usize - 1).collect();
        let frail = all.iter().filter(|node| self.is_frail(**node)).count();
        let goes = |node: &usize| {
            let left = frail - usize::from(self.is_frail(*node));
            self.operator.first == 1 || 2 * left < voters
        };
        let candidates: Vec<usize> = all.into_iter().filter(goes).collect();
        (!candidates.is_empty()).then(|| *self.random.pick(&candidates))
    }

    pub fn voters(&self) -> Vec<usize> {
        self.log.members().voters.iter().map(|id| id.0 as usize - 1).collect()
    }

    /// Whether all voters are up and have whole data, as far as anybody knows.
    pub fn is_sound(&self) -> bool {
        let sound = |node: usize| {
            let replica = self.nodes[node].replica.as_ref();
            replica.is_some_and(|replica| !replica.is_suspect() && !replica.is_stalled())
        };
        self.voters().into_iter().all(|node| sound(node) && !self.nodes[node].disk.is_damaged())
    }

    /// A disk is lost for good. Its machine comes back without data, as another member.
    pub fn lose_a_disk(&mut self) {
        let frail: Vec<usize> = self.voters().into_iter().filter(|node| self.is_frail(*node)).collect();
        if self.operator.first < 3 || frail.is_empty() || !self.is_sound() || self.is_changing() {
            return;
        }
        let old = *self.random.pick(&frail);
        let Some(new) = self.newcomer() else { return };
        self.note(format!("the disk of node {old} is lost"));
        self.nodes.iter().for_each(|node| node.disk.heal());
        self.nodes[old].disk.process_ends();
        self.nodes[old].stop();
        self.starts_without_its_data(old);
        self.nodes[old].retired = true;
        self.want(Goal::Swap { old, new });
    }

    /// Its identity alone must not pass for the member that it was (D5).
    fn starts_without_its_data(&mut self, node: usize) {
        let (first, bytes, now) = (self.operator.first, self.snapshot_bytes, self.now);
        self.nodes[node].disk.heal();
        for file in self.nodes[node].disk.files().iter().filter(|file| !file.ends_with("IDENTITY")) {
            raftwork::disk::Disk::remove(&self.nodes[node].disk, file).expect("no fault is planned");
        }
        let outcome = self.nodes[node].start(first, bytes, now);
        let refused = matches!(outcome, Err(Error::Corrupt { .. } | Error::Foreign(_)));
        assert!(refused, "D5: node {node} starts under its old identity without its data: {outcome:?}");
    }

    /// The leader lets another one lead.
    pub fn hand_over(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.note(format!("node {leader} hands over"));
        self.act(leader, |replica, turn| replica.hand_over(turn));
    }
}
