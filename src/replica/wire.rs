//! What members write to each other, as bytes. Our own form, so that no general parser sees bytes from the network.
//!
//! The first byte is the form. 1 is a Raft message:
//!
//! | offset | bytes | field                                                                                     |
//! |--------|-------|-------------------------------------------------------------------------------------------|
//! | 0      | 1     | form, 1                                                                                   |
//! | 1      | 1     | kind, as raft-rs numbers it                                                               |
//! | 2      | 1     | flags: 1 reject, 2 a snapshot follows                                                     |
//! | 3      | 1     | 0                                                                                         |
//! | 4      | 80    | to, from, term, log term, index, commit, commit term, reject hint, request snapshot, priority |
//! | 84     | 4     | bytes of the context, which follows                                                       |
//! | ...    |       | with flag 2: index, term, then voters, learners, outgoing, next learners (u32 count, ids), auto leave (1) |
//! | ...    | 4     | number of entries; each: u32 data bytes, kind (1), 0, u16 context bytes, term, index, context, data |
//!
//! Every other form is a note: 3 zero bytes, to, from, and what the form says:
//!
//! | form | note    | fields                                                                             |
//! |------|---------|------------------------------------------------------------------------------------|
//! | 2    | AskLog  | term and index of the last entry                                                   |
//! | 3    | Log     | term, then term and index of the last entry                                        |
//! | 4    | Forward | number; u32 count, then each entry with its u32 length                             |
//! | 5    | Placed  | number, first index, term                                                          |
//! | 6    | Refused | number (0: of leadership), reason (1 not committed, 2 disk full), the words        |
//! | 7    | Beat    | number, sessions to the end                                                        |
//! | 8    | Beaten  | number, expired sessions to the end                                                |
//! | 16.. | Word    | numbers, see `words`                                                               |
//!
//! All numbers are little-endian, of 8 bytes unless said otherwise. Length, checksum and the cluster's name are the
//! frame's business.

mod message;

use bytes::Bytes;

use super::suspicion::LogEnd;
use super::words::Word;
use crate::base::{Error, LogIndex, NodeId, Result, SessionId, Term};
use crate::consensus::{Message, MessageType, Placed};

const RAFT: u8 = 1;
/// Bytes of a note before what it says.
const NOTE_HEAD_BYTES: usize = 20;

/// What one member writes to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Letter {
    Raft(Message),
    Note { to: NodeId, from: NodeId, note: Note },
}

/// What members say to each other besides Raft's messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// How far does your log reach? Mine ends here.
    AskLog(LogEnd),
    /// It ends here, and I am in this term.
    Log { term: Term, end: LogEnd },
    /// Put these entries into the log, please: you lead.
    Forward { number: u64, entries: Vec<Bytes> },
    /// The entries of the forward with this number stand here, if nobody overrules me.
    Placed { number: u64, placed: Placed },
    /// They were not put into the log, and never will be. Or this member does not take over, see `room`.
    Refused { number: u64, why: Error },
    /// These sessions live.
    Beat { number: u64, sessions: Vec<SessionId> },
    /// I still lead, and know of all of them but these.
    Beaten { number: u64, expired: Vec<SessionId> },
    /// About the group itself.
    Word(Word),
}

impl Letter {
    pub fn to(&self) -> NodeId {
        match self {
            Letter::Raft(message) => NodeId(message.to),
            Letter::Note { to, .. } => *to,
        }
    }

    pub fn from(&self) -> NodeId {
        match self {
            Letter::Raft(message) => NodeId(message.from),
            Letter::Note { from, .. } => *from,
        }
    }

    /// Index and term of the snapshot that this letter announces: its bytes must be there before.
    pub fn announced(&self) -> Option<(u64, u64)> {
        match self {
            Letter::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                let meta = message.get_snapshot().get_metadata();
                Some((meta.index, meta.term))
            }
            _ => None,
        }
    }

    /// Whether it only acknowledges entries up to this index.
    pub fn only_acknowledges(&self, upto: LogIndex) -> bool {
        let Letter::Raft(message) = self else { return false };
        message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject && message.index <= upto.0
    }

    /// The bytes of a letter.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Letter::Raft(message) => message::encode(message),
            Letter::Note { to, from, note } => encode_note(*to, *from, note),
        }
    }

    /// Reads a letter. Entries share the memory of `bytes`.
    ///
    /// # Errors
    /// `Invalid`: another program, another version, or damage; the connection is of no use any more.
    pub fn decode(bytes: &Bytes) -> Result<Letter> {
        let letter = match bytes.first() {
            Some(&RAFT) => message::read(bytes).map(Letter::Raft),
            Some(form) => read_note(*form, bytes),
            None => None,
        };
        letter.ok_or_else(|| Error::Invalid(format!("{} bytes are not a letter between members", bytes.len())))
    }
}

fn encode_note(to: NodeId, from: NodeId, note: &Note) -> Vec<u8> {
    let mut out = Vec::with_capacity(NOTE_HEAD_BYTES + 64);
    out.extend_from_slice(&[form(note), 0, 0, 0]);
    put(&mut out, &[to.0, from.0]);
    match note {
        Note::AskLog(end) => put(&mut out, &[end.0 .0, end.1 .0]),
        Note::Log { term, end } => put(&mut out, &[term.0, end.0 .0, end.1 .0]),
        Note::Forward { number, entries } => {
            out.reserve(entries.iter().map(|entry| 4 + entry.len()).sum());
            put(&mut out, &[*number]);
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for entry in entries {
                out.extend_from_slice(&(entry.len() as u32).to_le_bytes());
                out.extend_from_slice(entry);
            }
        }
        Note::Placed { number, placed } => put(&mut out, &[*number, placed.first.0, placed.term.0]),
        Note::Refused { number, why } => {
            let (reason, words) = match why {
                Error::DiskFull(words) => (2, words.clone()),
                Error::NotCommitted(words) => (1, words.clone()),
                other => (1, other.to_string()),
            };
            put(&mut out, &[*number, reason]);
            out.extend_from_slice(words.as_bytes());
        }
        Note::Beat { number, sessions } | Note::Beaten { number, expired: sessions } => {
            put(&mut out, &[*number]);
            sessions.iter().for_each(|session| put(&mut out, &[session.0]));
        }
        Note::Word(word) => put(&mut out, &word.numbers()),
    }
    out
}

fn form(note: &Note) -> u8 {
    match note {
        Note::AskLog(_) => 2,
        Note::Log { .. } => 3,
        Note::Forward { .. } => 4,
        Note::Placed { .. } => 5,
        Note::Refused { .. } => 6,
        Note::Beat { .. } => 7,
        Note::Beaten { .. } => 8,
        Note::Word(word) => word.form(),
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn read_note(form: u8, bytes: &Bytes) -> Option<Letter> {
    let mut cursor = Cursor { bytes, position: 1 };
    if cursor.array()? != [0; 3] {
        return None;
    }
    let (to, from) = (NodeId(cursor.number()?), NodeId(cursor.number()?));
    let note = match form {
        2 => Note::AskLog(cursor.log_end()?),
        3 => Note::Log { term: Term(cursor.number()?), end: cursor.log_end()? },
        4 => Note::Forward { number: cursor.number()?, entries: cursor.blobs()? },
        5 => {
            let number = cursor.number()?;
            let placed = Placed { first: LogIndex(cursor.number()?), term: Term(cursor.number()?) };
            Note::Placed { number, placed }
        }
        6 => {
            let (number, reason) = (cursor.number()?, cursor.number()?);
            let words = String::from_utf8(cursor.take(cursor.left())?.to_vec()).ok()?;
            let why = match reason {
                1 => Error::NotCommitted(words),
                2 => Error::DiskFull(words),
                _ => return None,
            };
            Note::Refused { number, why }
        }
        7 => Note::Beat { number: cursor.number()?, sessions: cursor.sessions()? },
        8 => Note::Beaten { number: cursor.number()?, expired: cursor.sessions()? },
        form => Note::Word(Word::read(form, || cursor.number())?),
    };
    (cursor.left() == 0).then_some(Letter::Note { to, from, note })
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let part = self.bytes.slice(self.position..end);
        self.position = end;
        Some(part)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.position.checked_add(N).filter(|end| *end <= self.bytes.len())?;
        let array = self.bytes[self.position..end].try_into().ok()?;
        self.position = end;
        Some(array)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn log_end(&mut self) -> Option<LogEnd> {
        Some((Term(self.number()?), LogIndex(self.number()?)))
    }

    fn blobs(&mut self) -> Option<Vec<Bytes>> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        // Each has 4 bytes at least, so a count that cannot be true allocates nothing.
        if count > self.left() / 4 {
            return None;
        }
        let mut blob = || {
            let length = u32::from_le_bytes(self.array()?) as usize;
            self.take(length)
        };
        (0..count).map(|_| blob()).collect()
    }

    fn sessions(&mut self) -> Option<Vec<SessionId>> {
        (0..self.left() / 8).map(|_| self.number().map(SessionId)).collect()
    }
}
