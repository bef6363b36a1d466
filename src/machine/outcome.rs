//! What a command may answer, and the bytes of the answer: `[status, index, payload]`.

use super::holding::Mode;
use crate::base::codec::{Reader, Writer};
use crate::base::{JobId, LogIndex};

/// Status of an answer: done.
pub const OK: u64 = 0;
/// Status of an answer: refused, nothing changed. The payload is `[code, message, details]`.
pub const REFUSED: u64 = 1;

/// Answers for one item of a batch. Which of them a verb may give stands beside the verb.
pub mod code {
    pub const DONE: u8 = 0;
    pub const LEASE_LOST: u8 = 1;
    /// `Cancel`: the job runs, its worker was told.
    pub const TOLD: u8 = 1;
    /// `Restore`: the job is in memory already.
    pub const PRESENT: u8 = 1;
    pub const UNKNOWN: u8 = 2;
    /// `Cancel`: already final. `Requeue`: already enqueued or processing. `MoveJobs`, `SetPriority`: final, or it is so.
    pub const NOTHING_TO_DO: u8 = 3;
    /// `Delete`, `MoveJobs`, `SetPriority`: the job runs.
    pub const PROCESSING: u8 = 4;
    /// `Requeue`: another job holds its unique key.
    pub const CONFLICT: u8 = 5;
}

/// The code of the refusal that speaks of the session, not of the command.
pub const SESSION_EXPIRED: &str = "session_expired";

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    /// MessagePack; `nil` when there is nothing to add.
    pub details: Vec<u8>,
}

impl Refusal {
    fn plain(code: &'static str, message: String) -> Self {
        Self { code, message, details: vec![0xc0] }
    }

    pub fn session_expired(session: u64) -> Self {
        Self::plain(SESSION_EXPIRED, format!("session {session} is not open"))
    }

    pub fn stale_sequence(sequence: u64, acked: u64) -> Self {
        Self::plain("stale_sequence", format!("answer {sequence} was acknowledged already (up to {acked})"))
    }

    /// A token that does not hold this lock, or does not any more.
    pub fn lock_lost(name: &str, token: u64) -> Self {
        Self::plain("lease_lost", format!("token {token} does not hold the lock {name:?}"))
    }

    /// An owner that holds another lock, or waits for it.
    pub fn lock_held(number: u64, other: &str) -> Self {
        Self::plain("lock_held", format!("number {number} of this session stands for the lock {other:?}"))
    }

    /// A lock that is held as another kind, or with another number of permits.
    pub fn lock_kind(name: &str, held: Mode, asked: Mode) -> Self {
        Self::plain("lock_kind", format!("{name:?} is held as {held}, and was asked for as {asked}"))
    }

    pub fn overloaded(what: impl Into<String>) -> Self {
        Self::plain("overloaded", what.into())
    }

    pub fn invalid(what: impl Into<String>) -> Self {
        Self::plain("invalid", what.into())
    }

    pub fn feature_level(needed: u64, level: u64) -> Self {
        Self::plain(
            "feature_level",
            format!(
                "this needs feature level {needed}, the cluster is at {level}; when every member runs the new version, \
                 `raftwork cluster finalize` raises it"
            ),
        )
    }

    pub fn level_falls(level: u64) -> Self {
        Self::plain("feature_level", format!("the feature level is {level}, it never goes down"))
    }

    /// A job that waits for one that nobody knows.
    pub fn unknown_parent(position: usize, parent: JobId) -> Self {
        let message = format!("job {position} waits for {parent}, which is no job in memory and no batch");
        Self { code: "unknown_parent", message, details: place_and_id(position, parent) }
    }

    /// A member of a batch that waits for what the batch may wait for.
    pub fn cycle(position: usize, parent: JobId) -> Self {
        let message =
            format!("job {position} would wait for itself: {parent} waits, or may come to wait, for its batch");
        Self { code: "cycle", message, details: place_and_id(position, parent) }
    }

    pub fn unknown_batch(batch: JobId) -> Self {
        Self::plain("unknown_batch", format!("no batch has the id {batch}"))
    }

    pub fn batch_closed(batch: JobId, why: &str) -> Self {
        Self::plain("batch_closed", format!("batch {batch} {why} and takes no more jobs"))
    }

    pub fn known_secret() -> Self {
        Self::plain("known_secret", "this secret is a token already; make another".into())
    }

    /// A job of a batch whose unique key is held by another job.
    pub fn conflict(position: usize, holder: JobId) -> Self {
        let message = format!("the unique key of job {position} is held by {holder}");
        Self { code: "conflict", message, details: place_and_id(position, holder) }
    }
}

fn place_and_id(position: usize, id: JobId) -> Vec<u8> {
    let mut details = Writer::new();
    details.array(2).u64(position as u64).id(id);
    details.into_bytes()
}

/// A payload, or why there is none.
pub type Outcome = std::result::Result<Vec<u8>, Refusal>;

/// The bytes of an answer.
pub fn encode(index: LogIndex, outcome: &Outcome) -> Vec<u8> {
    let mut writer = Writer::with_capacity(24 + outcome.as_ref().map_or(0, Vec::len));
    match outcome {
        Ok(payload) => writer.array(3).u64(OK).u64(index.0).raw(payload),
        Err(refusal) => {
            writer.array(3).u64(REFUSED).u64(index.0);
            writer.array(3).str(refusal.code).str(&refusal.message).raw(&refusal.details)
        }
    };
    writer.into_bytes()
}

/// Whether an answer says that the session of its request is not open.
pub fn is_session_expired(answer: &[u8]) -> bool {
    refusal(answer).is_some_and(|(code, _)| code == SESSION_EXPIRED)
}

/// The code and the message of an answer that refuses.
pub fn refusal(answer: &[u8]) -> Option<(&str, &str)> {
    let mut reader = Reader::new(answer);
    reader.array_of(3, "an answer").ok()?;
    let status = reader.u64().ok()?;
    reader.u64().ok().filter(|_| status == REFUSED)?;
    reader.array_of(3, "a refusal").ok()?;
    Some((reader.str().ok()?, reader.str().ok()?))
}

pub(super) fn nil() -> Outcome {
    Ok(vec![0xc0])
}

pub(super) fn number(value: u64) -> Outcome {
    let mut writer = Writer::new();
    writer.u64(value);
    Ok(writer.into_bytes())
}

/// One code for each item of the batch.
pub(super) fn codes(codes: impl ExactSizeIterator<Item = u8>) -> Outcome {
    let mut writer = Writer::with_capacity(codes.len() + 5);
    writer.array(codes.len());
    for code in codes {
        writer.u64(code.into());
    }
    Ok(writer.into_bytes())
}
