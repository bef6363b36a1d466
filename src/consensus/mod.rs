//! Consensus without I/O, clock or threads: raft-rs behind events and actions.
//!
//! ```text
//! Event  Campaign  Tick  Messages  Persisted  Applied  ─┐
//! propose(entries) -> where they will stand             ├─> Core ──> Action  Send  Persist  Apply
//!                                                       ─┘
//! ```
//!
//! The order in which the actions of one call must be done:
//! * `Send` at once. What may leave only after a write is kept inside until `Event::Persisted` for that write.
//! * `Persist` in the order given, entries and hard state in one atomic write; then `Event::Persisted` with its number.
//!   A number covers all smaller ones. `sync == false` may wait for the next write.
//! * A `Persist` with a snapshot replaces log and state by it, and `Event::Applied` with its index follows as well.
//! * `Apply` in the order given; then `Event::Applied` with the last index.
//!
//! What holds
//! * An entry is given to `Apply` only when it is committed and this node's own `Persisted` covers it.
//! * No message that depends on a write leaves before that write is reported.
//! * The log store has each entry before raft-rs lets go of it.
//! * Election timeouts come from the seed, so that a run can be repeated.

mod core;
mod event;
mod logging;
mod members;

pub use self::core::{Core, CoreConfig, LogStore, ELECTION_TICKS};
pub use event::{Action, Event, Placed, Role, Write};
pub use members::{MemberChange, Named, Peer, PeerState};
/// The types of raft-rs that pass through: entries to the log, messages to peers, what a store must answer.
pub use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata};
pub use raft::{Error as RaftError, GetEntriesContext, RaftState, Storage, StorageError};
