//! What frames between a process and the owner of its directory are for. `net::packet` has their form.
//!
//! The first frame is `Hello`, the second `Welcome` (or `Refused`); both carry the magic, the cluster and the group.

use crate::base::{Error, Result};
use crate::net::packet::{self, Frame};
use crate::net::Versions;

/// Versions of the messages that are spoken.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };
/// First bytes of the payload of `Hello` and `Welcome`; the versions follow, see `net::versions`.
pub const MAGIC: &[u8; 8] = b"RAFTWORK";

/// What a frame says. Numbers below 64 go to the owner, from 64 on they come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who asks: magic, cluster, group, process. Answer: `Welcome` or `Refused`.
    Hello = 1,
    /// A request for the log. Answer: `Reply`.
    Submit = 2,
    /// A question about the state, see `node::View`. Answer: `Reply` with `[as_of_index, staleness_ms or nil, payload]`.
    View = 3,
    /// Tell me when this job is final. Answer: `Reply` without bytes, whenever that is.
    Wait = 4,
    /// Forget the `Wait` with this request id. No answer.
    ForgetWait = 5,
    /// This connection wants the events of a session; the request id names the watch. Answer: `Event` frames; a
    /// `Reply` with an error if the connection has as many as it may.
    Watch = 6,
    /// No more events for this watch. No answer.
    Unwatch = 7,
    /// Tell this watch once when a claim of these queues and functions could succeed. Answer: an `Event`,
    /// sooner or later; a `Reply` with an error if it waits for more than it may.
    Arm = 8,
    /// The session lives, and belongs to this connection. Answer: `Reply` without bytes.
    Heartbeat = 9,
    /// Answer: `Reply` with the health of the node.
    Health = 10,
    /// Takes `Arm` back. No answer.
    Disarm = 11,
    /// Answer: `Reply` with the index of the state (8 bytes), once it has everything that was answered anywhere before.
    Fresh = 12,
    /// What an operator asks of the cluster: see `node::orders`. Answer: `Reply` with bytes.
    Order = 13,
    /// The first frame of somebody who has an invitation and no certificate, over TLS: MessagePack `[secret, request]`.
    /// Answer: `Enrolled` or `Refused`. The stream ends.
    Enroll = 14,
    /// Answer: `Reply` with what the node counts, as text.
    Metrics = 15,
    /// What a worker says to an `Event` that asks for log lines; the request id is that of the watch. No answer. Sent to an
    /// owner that asked for it only: earlier versions do not know it.
    Lines = 16,
    /// Answer to anything: status 0 and bytes, or an error.
    Reply = 64,
    /// The connection is open: magic, cluster, group, process of the owner.
    Welcome = 65,
    /// The connection is not accepted; an error. The stream ends.
    Refused = 66,
    /// Something happened to a watched session.
    Event = 67,
    /// See `node::enrolling`.
    Enrolled = 68,
}

impl Kind {
    /// What this frame says. An unknown kind ends the connection, like everything else that cannot be read.
    pub fn of(frame: &Frame) -> Result<Kind> {
        use Kind::*;
        let owner = [
            Hello, Submit, View, Wait, ForgetWait, Watch, Unwatch, Arm, Heartbeat, Health, Disarm, Fresh, Order,
            Enroll, Metrics, Lines,
        ];
        let attached = [Reply, Welcome, Refused, Event, Enrolled];
        let known = owner.into_iter().chain(attached).find(|kind| *kind as u8 == frame.kind);
        known.ok_or_else(|| Error::Invalid(format!("a frame of kind {}", frame.kind)))
    }
}

/// The bytes of one frame, see `packet::encode`.
pub fn encode(kind: Kind, id: u64, payload: &[u8]) -> Result<Vec<u8>> {
    packet::encode(kind as u8, id, payload)
}
