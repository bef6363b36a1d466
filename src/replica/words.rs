//! Short notes of members about the group itself.
//!
//! | form | word      | numbers                                                        |
//! |------|-----------|----------------------------------------------------------------|
//! | 16   | AskMember | index                                                          |
//! | 17   | NotMember | index                                                          |
//! | 18   | Digest    | index, mark (0 if none), flags: 1 there is a mark, 2 it asks   |
//! | 19   | AskVoter  | index, node                                                    |
//! | 20   | NoVoter   | index, node                                                    |

use crate::base::{LogIndex, NodeId};

const ASK_MEMBER: u8 = 16;
const NOT_MEMBER: u8 = 17;
const DIGEST: u8 = 18;
const ASK_VOTER: u8 = 19;
const NO_VOTER: u8 = 20;
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
    /// As of this entry that node was a voter, and it does not answer; is it still?
    AskVoter { at: LogIndex, node: NodeId },
    /// As of this entry it is none.
    NoVoter { at: LogIndex, node: NodeId },
}

impl Word {
    pub(super) fn form(self) -> u8 {
        match self {
            Word::AskMember { .. } => ASK_MEMBER,
            Word::NotMember { .. } => NOT_MEMBER,
            Word::Digest { .. } => DIGEST,
            Word::AskVoter { .. } => ASK_VOTER,
            Word::NoVoter { .. } => NO_VOTER,
        }
    }

    pub(super) fn numbers(self) -> Vec<u64> {
        match self {
            Word::AskMember { at } | Word::NotMember { at } => vec![at.0],
            Word::AskVoter { at, node } | Word::NoVoter { at, node } => vec![at.0, node.0],
            Word::Digest { index, mark, asks } => {
                let flags = u64::from(mark.is_some()) * KNOWN + u64::from(asks) * ASKS;
                vec![index.0, mark.unwrap_or_default(), flags]
            }
        }
    }

    pub(super) fn read(form: u8, mut number: impl FnMut() -> Option<u64>) -> Option<Word> {
        match form {
            ASK_MEMBER => Some(Word::AskMember { at: LogIndex(number()?) }),
            ASK_VOTER => Some(Word::AskVoter { at: LogIndex(number()?), node: NodeId(number()?) }),
            NO_VOTER => Some(Word::NoVoter { at: LogIndex(number()?), node: NodeId(number()?) }),
            NOT_MEMBER => Some(Word::NotMember { at: LogIndex(number()?) }),
            DIGEST => {
                let (index, mark, flags) = (LogIndex(number()?), number()?, number()?);
                let known = flags & KNOWN != 0;
                let sound = flags <= KNOWN + ASKS && (known || mark == 0);
                sound.then_some(Word::Digest { index, mark: known.then_some(mark), asks: flags & ASKS != 0 })
            }
            _ => None,
        }
    }
}
