//! What a command may answer, and the bytes of the answer: `[status, index, payload]`.

use crate::base::{codec::Writer, LogIndex};

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
    /// `Cancel`: already final. `Requeue`: already enqueued or processing.
    pub const NOTHING_TO_DO: u8 = 3;
    /// `Delete`: the job runs.
    pub const PROCESSING: u8 = 4;
    /// `Requeue`: another job holds its unique key.
    pub const CONFLICT: u8 = 5;
}

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
        Self::plain("session_expired", format!("session {session} is not open"))
    }

    pub fn stale_sequence(sequence: u64, acked: u64) -> Self {
        Self::plain("stale_sequence", format!("answer {sequence} was acknowledged already (up to {acked})"))
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

    /// A job of a batch whose unique key is held by another job.
    pub fn conflict(position: usize, holder: crate::base::JobId) -> Self {
        let mut details = Writer::new();
        details.array(2).u64(position as u64).id(holder);
        let message = format!("the unique key of job {position} is held by {holder}");
        Self { code: "conflict", message, details: details.into_bytes() }
    }
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
