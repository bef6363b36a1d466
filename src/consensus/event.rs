//! What goes into consensus and what comes out.

use raft::eraftpb::{Entry, HardState, Message, SnapshotMetadata};

use crate::base::{LogIndex, NodeId, Term};

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// Try to lead now. With one voter this succeeds within the call.
    Campaign,
    /// One tick of the election clock passed.
    Tick,
    /// Peers sent these, each peer's in its order.
    Messages(Vec<Message>),
    /// The write of this number, and all before it, will survive a power cut.
    Persisted(u64),
    /// Everything up to this index was applied.
    Applied(LogIndex),
    /// The last message to this peer did not arrive.
    Unreachable(NodeId),
    /// The snapshot that a message to this peer announced is there, or will not get there. Until one of the two is said,
    /// the peer gets nothing else.
    SnapshotSent { to: NodeId, arrived: bool },
    /// Count as having voted in this term and the present one: an earlier vote may be forgotten.
    SpoilVote(Term),
    /// Let this peer lead.
    Transfer(NodeId),
    /// The process of the leader is known to be gone: elect another soon, and let others be elected.
    LeaderGone,
    /// Ask up to which index the log must be applied so that a read of it misses nothing that was answered before now.
    /// Comes back as `Action::Readable` with the same bytes, or never: then ask again.
    Read(Vec<u8>),
}

/// Something to do outside.
#[derive(Debug)]
pub enum Action {
    /// Messages that may leave now.
    Send(Vec<Message>),
    /// Bytes that must survive a power cut before `Event::Persisted` is reported.
    Persist(Write),
    /// Committed entries, in log order without gaps.
    Apply(Vec<Entry>),
    /// The `Event::Read` with these bytes may be answered once this index is applied.
    Readable(Vec<u8>, LogIndex),
}

/// One write: a snapshot to begin anew from, entries, then hard state, atomically.
#[derive(Debug, Default)]
pub struct Write {
    pub number: u64,
    /// This snapshot, which was received before, takes the place of the whole log and state.
    pub snapshot: Option<SnapshotMetadata>,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// False: only the commit index moved, so it may wait for the next write.
    pub sync: bool,
}

/// Where proposed entries will stand if nobody overrules this leader: consecutive from `first`, all with `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub first: LogIndex,
    pub term: Term,
}

/// What this node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}
