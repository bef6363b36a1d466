//! Who is a member by the log alone: a model beside raft-rs, which changes the members with the same entries.

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeTransition, ConfChangeType, ConfChangeV2};
use raftwork::base::NodeId;
use raftwork::consensus::EntryType;
use raftwork::replica::{Members, FIRST};

#[derive(Debug, Default)]
pub struct Membership {
    /// The entries up to here are taken in.
    pub upto: u64,
    /// The members from an index on.
    changes: BTreeMap<u64, Members>,
}

impl Membership {
    /// Of a group that begins with so many nodes.
    pub fn new(nodes: usize) -> Self {
        let members = Members { voters: (1..=nodes as u64).map(NodeId).collect(), ..Members::default() };
        Self { upto: FIRST.index, changes: BTreeMap::from([(FIRST.index, members)]) }
    }

    pub fn changes(&self) -> u64 {
        self.changes.len() as u64 - 1
    }

    pub fn newest(&self) -> &Members {
        self.changes.values().next_back().expect("there are first members")
    }

    /// The members as of an entry; nothing if nobody showed all entries before it.
    pub fn at(&self, index: u64) -> Option<&Members> {
        self.changes.range(..=index).next_back().map(|(_, members)| members).filter(|_| index <= self.upto)
    }

    /// The next entry.
    pub fn apply(&mut self, kind: EntryType, data: &[u8]) {
        self.upto += 1;
        if kind == EntryType::EntryNormal {
            return;
        }
        let mut members = self.newest().clone();
        let change = ConfChangeV2::parse_from_bytes(data).expect("a change that was applied can be read");
        if change.get_changes().is_empty() {
            members.outgoing.clear();
        } else if change.get_transition() != ConfChangeTransition::Auto {
            members.outgoing.clone_from(&members.voters);
        }
        for step in change.get_changes() {
            let node = NodeId(step.node_id);
            members.voters.retain(|voter| *voter != node);
            members.learners.retain(|learner| *learner != node);
            match step.get_change_type() {
                ConfChangeType::AddNode => members.voters.push(node),
                ConfChangeType::AddLearnerNode => members.learners.push(node),
                ConfChangeType::RemoveNode => {}
            }
        }
        members.voters.sort_unstable();
        members.learners.sort_unstable();
        self.changes.insert(self.upto, members);
    }
}
