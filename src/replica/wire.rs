//! What members write to each other, as bytes. Our own form, so that no general parser sees bytes from the network.
//!
//! The first byte is the form: 1 a Raft message, 2 a question for the end of the log, 3 its answer; from 16 on those in
//! `words`. 2 and 3 have 3 zero bytes, to, from, the answer also its term; then term and index of the last entry. A Raft
//! message:
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
//! All numbers are little-endian. Length, checksum and the cluster's name are the frame's business.

use bytes::Bytes;

use super::persist::{kind, kind_of};
use super::suspicion::LogEnd;
use super::words::Word;
use crate::base::{Error, LogIndex, NodeId, Result, Term};
use crate::consensus::{ConfState, Entry, Message, MessageType, SnapshotMetadata};

const RAFT: u8 = 1;
const ASK_LOG: u8 = 2;
const LOG: u8 = 3;
const REJECT: u8 = 1;
const SNAPSHOT: u8 = 2;
/// Members in one list of a configuration.
const MEMBERS_MAX: usize = 64;

/// What one member writes to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Letter {
    Raft(Message),
    /// How far does your log reach? Mine ends here.
    AskLog {
        to: NodeId,
        from: NodeId,
        end: LogEnd,
    },
    /// It ends here, and I am in this term.
    Log {
        to: NodeId,
        from: NodeId,
        term: Term,
        end: LogEnd,
    },
    /// About the group itself.
    Word {
        to: NodeId,
        from: NodeId,
        word: Word,
    },
}

impl Letter {
    pub fn to(&self) -> NodeId {
        match self {
            Letter::Raft(message) => NodeId(message.to),
            Letter::AskLog { to, .. } | Letter::Log { to, .. } | Letter::Word { to, .. } => *to,
        }
    }

    pub fn from(&self) -> NodeId {
        match self {
            Letter::Raft(message) => NodeId(message.from),
            Letter::AskLog { from, .. } | Letter::Log { from, .. } | Letter::Word { from, .. } => *from,
        }
    }

    /// The bytes of a letter.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Letter::Raft(message) => encode(message),
            Letter::AskLog { to, from, end } => numbers(ASK_LOG, &[to.0, from.0, end.0 .0, end.1 .0]),
            Letter::Log { to, from, term, end } => numbers(LOG, &[to.0, from.0, term.0, end.0 .0, end.1 .0]),
            Letter::Word { to, from, word } => {
                let (form, rest) = word.numbers();
                numbers(form, &[&[to.0, from.0], &rest[..]].concat())
            }
        }
    }

    /// Reads a letter. Entries share the memory of `bytes`.
    ///
    /// # Errors
    /// `Invalid`: another program, another version, or damage; the connection is of no use any more.
    pub fn decode(bytes: &Bytes) -> Result<Letter> {
        let letter = match bytes.first() {
            Some(&RAFT) => read(bytes).map(Letter::Raft),
            Some(&ASK_LOG) => exactly(bytes).map(|[to, from, last_term, index]| Letter::AskLog {
                to: NodeId(to),
                from: NodeId(from),
                end: (Term(last_term), LogIndex(index)),
            }),
            Some(&LOG) => exactly(bytes).map(|[to, from, term, last_term, index]| Letter::Log {
                to: NodeId(to),
                from: NodeId(from),
                term: Term(term),
                end: (Term(last_term), LogIndex(index)),
            }),
            Some(form) => word(*form, bytes),
            None => None,
        };
        letter.ok_or_else(|| Error::Invalid(format!("{} bytes are not a letter between members", bytes.len())))
    }
}

fn numbers(form: u8, numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![form, 0, 0, 0];
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out
}

fn word(form: u8, bytes: &Bytes) -> Option<Letter> {
    let letter = |to, from, numbers: &[u64]| {
        let word = Word::from_numbers(form, numbers)?;
        Some(Letter::Word { to: NodeId(to), from: NodeId(from), word })
    };
    match bytes.len() {
        28 => exactly(bytes).and_then(|[to, from, one]| letter(to, from, &[one])),
        44 => exactly(bytes).and_then(|[to, from, one, two, three]| letter(to, from, &[one, two, three])),
        _ => None,
    }
}

/// The numbers of a short letter that has just these.
fn exactly<const N: usize>(bytes: &Bytes) -> Option<[u64; N]> {
    let mut cursor = Cursor { bytes, position: 1 };
    if cursor.array()? != [0; 3] || bytes.len() != 4 + 8 * N {
        return None;
    }
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = cursor.number()?;
    }
    Some(numbers)
}

fn encode(message: &Message) -> Vec<u8> {
    let entries: usize = message.get_entries().iter().map(|entry| 24 + entry.context.len() + entry.data.len()).sum();
    let mut out = Vec::with_capacity(128 + message.context.len() + entries);
    let snapshot = message.has_snapshot().then(|| message.get_snapshot().get_metadata());
    let flags = u8::from(message.reject) * REJECT + u8::from(snapshot.is_some()) * SNAPSHOT;
    out.extend_from_slice(&[RAFT, message.get_msg_type() as u8, flags, 0]);
    let numbers = [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
        message.priority as u64,
    ];
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    put_bytes(&mut out, &message.context);
    if let Some(metadata) = snapshot {
        put_snapshot(&mut out, metadata);
    }
    out.extend_from_slice(&(message.get_entries().len() as u32).to_le_bytes());
    for entry in message.get_entries() {
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&[kind(entry.get_entry_type()), 0]);
        out.extend_from_slice(&(entry.context.len() as u16).to_le_bytes());
        out.extend_from_slice(&entry.term.to_le_bytes());
        out.extend_from_slice(&entry.index.to_le_bytes());
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
    }
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_snapshot(out: &mut Vec<u8>, metadata: &SnapshotMetadata) {
    let members = metadata.get_conf_state();
    out.extend_from_slice(&metadata.index.to_le_bytes());
    out.extend_from_slice(&metadata.term.to_le_bytes());
    for list in [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next] {
        out.extend_from_slice(&(list.len() as u32).to_le_bytes());
        list.iter().for_each(|member| out.extend_from_slice(&member.to_le_bytes()));
    }
    out.push(u8::from(members.auto_leave));
}

fn read(bytes: &Bytes) -> Option<Message> {
    let mut cursor = Cursor { bytes, position: 0 };
    let [form, kind, flags, zero] = cursor.array()?;
    if (form, zero) != (RAFT, 0) || flags & !(REJECT | SNAPSHOT) != 0 {
        return None;
    }
    let mut message = Message::default();
    message.set_msg_type(message_type(kind)?);
    message.reject = flags & REJECT != 0;
    for field in [
        &mut message.to,
        &mut message.from,
        &mut message.term,
        &mut message.log_term,
        &mut message.index,
        &mut message.commit,
        &mut message.commit_term,
        &mut message.reject_hint,
        &mut message.request_snapshot,
    ] {
        *field = u64::from_le_bytes(cursor.array()?);
    }
    message.priority = i64::from_le_bytes(cursor.array()?);
    let length = u32::from_le_bytes(cursor.array()?) as usize;
    message.context = cursor.take(length)?;
    if flags & SNAPSHOT != 0 {
        *message.mut_snapshot().mut_metadata() = cursor.snapshot()?;
    }
    let count = u32::from_le_bytes(cursor.array()?) as usize;
    // Each entry has 24 bytes at least, so a count that cannot be true allocates nothing.
    if count > (bytes.len() - cursor.position) / 24 {
        return None;
    }
    let entries = (0..count).map(|_| cursor.entry()).collect::<Option<Vec<Entry>>>()?;
    let gap = entries.windows(2).any(|pair| pair[0].index.checked_add(1) != Some(pair[1].index));
    if gap || cursor.position != bytes.len() {
        return None;
    }
    message.set_entries(entries.into());
    Some(message)
}

fn message_type(number: u8) -> Option<MessageType> {
    use protobuf::ProtobufEnum;
    MessageType::from_i32(i32::from(number))
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl Cursor<'_> {
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

    fn snapshot(&mut self) -> Option<SnapshotMetadata> {
        let mut metadata =
            SnapshotMetadata { index: self.number()?, term: self.number()?, ..SnapshotMetadata::default() };
        let mut members = ConfState::default();
        for list in
            [&mut members.voters, &mut members.learners, &mut members.voters_outgoing, &mut members.learners_next]
        {
            let count = u32::from_le_bytes(self.array()?) as usize;
            if count > MEMBERS_MAX {
                return None;
            }
            *list = (0..count).map(|_| self.number()).collect::<Option<_>>()?;
        }
        members.auto_leave = self.array::<1>()? == [1];
        metadata.set_conf_state(members);
        Some(metadata)
    }

    fn entry(&mut self) -> Option<Entry> {
        let data_bytes = u32::from_le_bytes(self.array()?) as usize;
        let [kind, zero] = self.array()?;
        if zero != 0 {
            return None;
        }
        let context_bytes = usize::from(u16::from_le_bytes(self.array()?));
        let (term, index) = (self.number()?, self.number()?);
        let context = self.take(context_bytes)?;
        let data = self.take(data_bytes)?;
        let mut entry = Entry { term, index, context, data, ..Entry::default() };
        entry.set_entry_type(kind_of(kind)?);
        Some(entry)
    }
}
