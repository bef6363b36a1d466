//! Short letters of members about the group itself.
//!
//! Layout: the form (16, 17 or 18), three zero bytes, to, from, and the numbers of the word, little-endian.

use crate::base::LogIndex;

const ASK_MEMBER: u8 = 16;
const NOT_MEMBER: u8 = 17;
const DIGEST: u8 = 18;
/// Flags of a digest.
const KNOWN: u64 = 1;
const ASKS: u64 = 2;

/// What one member says to another beside Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// I hear no leader. As of this entry I was a member; am I still?
    AskMember { at: LogIndex },
    /// As of this entry you are none.
    NotMember { at: LogIndex },
    /// The mark that I made at an index, nothing if I remember none; and whether I want yours.
    Digest { index: LogIndex, mark: Option<u64>, asks: bool },
}

impl Word {
    /// The form and the numbers behind to and from.
    pub(super) fn numbers(self) -> (u8, Vec<u64>) {
        match self {
            Word::AskMember { at } => (ASK_MEMBER, vec![at.0]),
            Word::NotMember { at } => (NOT_MEMBER, vec![at.0]),
            Word::Digest { index, mark, asks } => {
                let flags = u64::from(mark.is_some()) * KNOWN + u64::from(asks) * ASKS;
                (DIGEST, vec![index.0, mark.unwrap_or_default(), flags])
            }
        }
    }

    pub(super) fn from_numbers(form: u8, numbers: &[u64]) -> Option<Word> {
        match (form, numbers) {
            (ASK_MEMBER, [at]) => Some(Word::AskMember { at: LogIndex(*at) }),
            (NOT_MEMBER, [at]) => Some(Word::NotMember { at: LogIndex(*at) }),
            (DIGEST, [index, mark, flags]) if *flags <= KNOWN + ASKS && (flags & KNOWN != 0 || *mark == 0) => {
                let mark = (flags & KNOWN != 0).then_some(*mark);
                Some(Word::Digest { index: LogIndex(*index), mark, asks: flags & ASKS != 0 })
            }
            _ => None,
        }
    }
}
