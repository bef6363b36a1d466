//! A Raft message as bytes; the module above says where each field stands.

use super::super::persist::{kind, kind_of};
use super::{Cursor, RAFT};
use crate::consensus::{ConfState, Entry, Message, MessageType, SnapshotMetadata};

use bytes::Bytes;

const REJECT: u8 = 1;
const SNAPSHOT: u8 = 2;
/// Members in one list of a configuration.
const MEMBERS_MAX: usize = 64;

pub(super) fn encode(message: &Message) -> Vec<u8> {
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

pub(super) fn read(bytes: &Bytes) -> Option<Message> {
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

impl Cursor<'_> {
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
