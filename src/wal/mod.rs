//! The write-ahead log of one Raft group: entries, hard state and configuration in one stream, so that one sync makes
//! all of a turn durable.
//!
//! ```text
//! frame    one group of entries, its header and checksums     (a group = one pwrite and one fdatasync)
//! segment  one file of groups behind a salted header, filled with zeros when it is made
//! active   the file that takes the next group, and how it comes to be
//! log      the open log: append, rotate, drop old segments
//! open     begins a log, or continues one that was read
//! spare    the slow work on files, beside the log
//! recover  what the files say after a crash, and what is damage
//! inspect  the same for people: a report that changes nothing
//! salvage  on explicit request: keeps what lies before the damage and sets the rest aside
//! ```
//!
//! Invariants
//! * When `Wal::append` returns, the group survives a power cut (D1). One group is in flight at most.
//! * After any failed write or sync the log is poisoned: every later call answers `Error::Poisoned` (D3). The one
//!   exception is a full disk before anything of the log was touched, which leaves it as it was.
//! * A bad group at the very end is a torn write and is cut. A bad group with a valid one behind it is damage: `open`
//!   refuses with `Error::Corrupt` (D4) and changes nothing.
//! * The last segment is written anew and synced at each open, before anything is answered from it: after a failed sync
//!   the page cache may have shown data that the disk lacks (D3).
//!
//! The files are described byte by byte in `frame` and `segment`, and in `docs/internals/wal.md`.

use bytes::Bytes;

use crate::base::limits;

mod active;
pub mod frame;
mod inspect;
mod log;
mod open;
mod recover;
mod salvage;
pub mod segment;
mod spare;

pub use inspect::{before_damage_on, inspect_on, read_on, visit_on, Damage, Report, SegmentReport};
pub use log::Wal;
pub use salvage::{begin_anew_on, salvage_on, Salvaged};
pub use spare::SpareMaker;

/// Name of the log's directory inside the data directory.
pub const DIR_NAME: &str = "wal";

/// One entry of the replicated log. The log does not look into `kind`, `data` and `context`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalEntry {
    pub term: u64,
    pub index: u64,
    pub kind: u8,
    pub data: Bytes,
    pub context: Bytes,
}

/// What a Raft member must never forget: its term, whom it voted for in it (0 = nobody), and how far it knows the log
/// to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// Position of a snapshot in the log. Entries up to it are no longer needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub index: u64,
    pub term: u64,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Size of one segment file, its header included. Only new files take it; old ones keep theirs.
    pub segment_bytes: usize,
    /// Entries of one append beyond this many bytes are written as several groups, each with its own sync.
    pub group_bytes_max: usize,
    /// Whether to begin a new log if there is none. Say `true` only while making a new data directory, before its
    /// `IDENTITY` is stored. In a directory that has an identity, a missing log is a loss: opening fails (D5).
    pub create: bool,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self { segment_bytes: limits::SEGMENT_BYTES, group_bytes_max: limits::GROUP_BYTES_MAX, create: false }
    }
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub hard_state: HardState,
    /// Configuration bytes last given to `append_group`; empty if none ever were.
    pub conf_state: Bytes,
    /// Index just before the first entry. A snapshot at this index or later must exist, or this is 0.
    pub previous_index: u64,
    /// Term at `previous_index`; 0 if it is not known.
    pub previous_term: u64,
    /// All entries that are left, each index once, without gaps.
    pub entries: Vec<WalEntry>,
    /// The last snapshot mark.
    pub mark: Option<Mark>,
    /// Bytes of a torn group that were cut off.
    pub cut_bytes: u64,
    /// The cut group may have been acknowledged before it was damaged; it reached up to this index. A member of a
    /// cluster must not vote or lead before its log reaches it again; a lone node can only say so loudly.
    pub suspect_upto: Option<u64>,
    /// Whether this log is new.
    pub created: bool,
}

impl Recovered {
    /// Index of the last entry, or the one before the first if there is none.
    pub fn last_index(&self) -> u64 {
        self.previous_index + self.entries.len() as u64
    }
}

/// One append with everything it can carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group<'a> {
    pub hard_state: Option<HardState>,
    /// Configuration as of the last entry of this group; opaque here, at most `segment::CONF_BYTES_MAX` bytes.
    pub conf_state: Option<&'a [u8]>,
    /// A snapshot at this position is durable. If the log does not reach it, the log continues right behind it.
    pub mark: Option<Mark>,
    /// The log begins anew right behind the mark: what it held, also behind that place, is gone. Said by a member that
    /// installs the snapshot of another, whose log may differ from its own.
    pub restart: bool,
    /// Entries without gaps. The first may lie at or before the last index of the log: it then replaces what follows.
    pub entries: &'a [WalEntry],
}
