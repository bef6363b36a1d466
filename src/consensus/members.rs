//! Changes of who is a member, as consensus sees them.
//!
//! One change is under way at a time. A member is added as a learner, which gets everything and counts nowhere; promoted
//! it counts; removed it is gone. A replacement changes two voters at once and so needs a joint configuration: for a
//! while majorities of the old voters *and* of the new ones must agree. It is left by a second entry, which whoever leads
//! then proposes: raft-rs would do it by itself only for the leader that applied the first.
//!
//! A leader that applies its own removal tells the best of the others to campaign and stops leading in the same call:
//! raft-rs 0.7 would go on sending heartbeats, and panic at the next entry that is committed.

use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};
use raft::{ProgressState, StateRole};

use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, NodeId, Result};

use super::core::{Core, LogStore};
use super::event::{Action, Placed};

/// One change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    AddLearner(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    Remove(NodeId),
    /// A voter goes and a learner becomes a voter, in one step.
    Replace {
        old: NodeId,
        new: NodeId,
    },
}

impl MemberChange {
    fn entry(self) -> ConfChangeV2 {
        let (steps, joint) = match self {
            MemberChange::AddLearner(node) if has(Bug::LearnerVotes) => (vec![(node, ConfChangeType::AddNode)], false),
            MemberChange::AddLearner(node) => (vec![(node, ConfChangeType::AddLearnerNode)], false),
            MemberChange::Promote(node) => (vec![(node, ConfChangeType::AddNode)], false),
            MemberChange::Remove(node) => (vec![(node, ConfChangeType::RemoveNode)], false),
            MemberChange::Replace { old, new } => {
                (vec![(new, ConfChangeType::AddNode), (old, ConfChangeType::RemoveNode)], true)
            }
        };
        let single = |(node, kind): (NodeId, ConfChangeType)| {
            let mut single = ConfChangeSingle { node_id: node.0, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        };
        let mut change = ConfChangeV2::default();
        change.set_changes(steps.into_iter().map(single).collect());
        if joint {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        change
    }
}

/// Whom a change in a log names, read without the members that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Members from then on.
    pub come: Vec<u64>,
    /// None any more; if the configuration is joint from then on, only after its end.
    pub go: Vec<u64>,
    pub joint: bool,
    /// The end of a joint configuration.
    pub ends_joint: bool,
}

impl Named {
    /// Reads an entry; nothing if it is no change, or makes no sense.
    pub fn read(kind: EntryType, data: &[u8]) -> Option<Named> {
        use protobuf::Message as _;
        let change = match kind {
            EntryType::EntryNormal => return None,
            EntryType::EntryConfChangeV2 => ConfChangeV2::parse_from_bytes(data).ok()?,
            EntryType::EntryConfChange => {
                let old = ConfChange::parse_from_bytes(data).ok()?;
                let mut single = ConfChangeSingle { node_id: old.node_id, ..ConfChangeSingle::default() };
                single.set_change_type(old.get_change_type());
                ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() }
            }
        };
        let goes = |single: &&ConfChangeSingle| single.get_change_type() == ConfChangeType::RemoveNode;
        let nodes = |single: &ConfChangeSingle| single.node_id;
        let singles = change.get_changes();
        Some(Named {
            come: singles.iter().filter(|single| !goes(single)).map(nodes).collect(),
            go: singles.iter().filter(goes).map(nodes).collect(),
            joint: singles.len() > 1 || change.get_transition() == ConfChangeTransition::Explicit,
            ends_joint: singles.is_empty(),
        })
    }
}

/// How the leader sends to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It looks for the place where the logs agree.
    Probe,
    /// It sends what is new.
    Replicate,
    /// It waits for a snapshot to arrive.
    Snapshot,
}

impl PeerState {
    pub fn name(self) -> &'static str {
        match self {
            PeerState::Probe => "probe",
            PeerState::Replicate => "replicate",
            PeerState::Snapshot => "snapshot",
        }
    }
}

/// How far another member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// Its log is that of the leader up to here, and on its disk.
    pub matched: LogIndex,
    pub state: PeerState,
}

impl<S: LogStore> Core<S> {
    /// Appends a change behind the log; `None` ends a joint configuration. raft-rs puts an empty entry in its place if
    /// another change is under way, and says nothing: look at the entry when it is applied.
    pub fn propose_change(&mut self, change: Option<MemberChange>, actions: &mut Vec<Action>) -> Result<Placed> {
        use protobuf::Message as _;
        let bytes = change.map_or(Ok(Vec::new()), |change| change.entry().write_to_bytes());
        let data = bytes.map_err(|error| Error::Invalid(format!("{change:?}: {error}")))?.into();
        let mut entry = Entry { data, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.propose_entries(vec![entry], actions)
    }

    /// Whether a change may be in the log that is not applied yet.
    pub fn change_is_pending(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// The other members as their leader knows them, by node; nothing on a follower.
    pub fn peers(&self) -> Vec<Peer> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        let mut peers: Vec<Peer> = others
            .map(|(id, progress)| Peer {
                node: NodeId(*id),
                matched: LogIndex(progress.matched),
                state: match progress.state {
                    ProgressState::Probe => PeerState::Probe,
                    ProgressState::Replicate => PeerState::Replicate,
                    ProgressState::Snapshot => PeerState::Snapshot,
                },
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        peers
    }

    /// A follower knows of no leader any more.
    pub fn forget_leader(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Follower && raft.leader_id != 0 {
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// Stops leading, without a successor.
    pub fn step_down(&mut self, actions: &mut Vec<Action>) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader {
            let term = raft.term;
            raft.become_follower(term, 0);
            self.collect(actions);
        }
    }

    /// A leader that is no voter any more stops at once. What it says to its successor leaves with the next event.
    pub(super) fn leave_if_removed(&mut self, members: &ConfState) {
        let raft = &self.raw.raft;
        let votes = members.voters.contains(&raft.id) || members.voters_outgoing.contains(&raft.id);
        if votes || raft.state != StateRole::Leader || has(Bug::RemovedLeaderStays) {
            return;
        }
        let successor = self.best_successor();
        let raft = &mut self.raw.raft;
        if let Some(successor) = successor {
            raft.send_timeout_now(successor.0);
        }
        let term = raft.term;
        raft.become_follower(term, 0);
    }
}
