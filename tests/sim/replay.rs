//! The log against the reference model: every entry that any node applied is applied to the model, every answer that a
//! client got must be the model's, and at the end every node must hold what the model holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftwork::base::codec::Reader;
use raftwork::base::{JobId, LogIndex, Result};
use raftwork::consensus::{Entry, EntryType};
use raftwork::machine::Machine;
use raftwork::replica::{entry, LogCache, FIRST};

use crate::model::{Head, Job, Model, State};
use crate::node::EPOCH_MS;
use crate::record::Record;
use crate::wire::{Command, Own};

/// The entries that were applied, each as the first node that applied it had it.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<u64, (u64, EntryType, Bytes)>,
    /// Entries applied, over all nodes.
    pub applied: u64,
    pub now_ms: u64,
    /// How far cluster time may be ahead: by each small step of a wall clock that was believed.
    pub allowance_ms: u64,
    /// A node began while its clock was far off. It cannot know.
    pub excused: bool,
}

impl Log {
    pub fn new(allowance_ms: u64) -> Self {
        Self { allowance_ms, ..Self::default() }
    }

    /// A node has applied up to an index; gives the first index that it did not apply.
    ///
    /// What it has must be what the others have (log matching). A node that began anew does not have all of it any more.
    pub fn hear(&mut self, node: usize, log: &LogCache, from: u64, applied: LogIndex) -> u64 {
        for mine in log.entries(LogIndex(from)).take_while(|entry| entry.index <= applied.0) {
            self.applied += 1;
            let Entry { index, term, .. } = *mine;
            let heard = (term, mine.get_entry_type(), mine.data.clone());
            let stamp = entry::split(&mine.data).map_or(0, |(stamp, _)| stamp.0);
            let (far, clock) = (self.now_ms + self.allowance_ms, stamp.saturating_sub(EPOCH_MS as u64));
            assert!(
                self.excused || clock <= far,
                "T2: entry {index} brought the time {clock}, which was at most {far}"
            );
            let known = self.entries.entry(index).or_insert_with(|| heard.clone());
            if (426..434).contains(&index) {}
            assert_eq!(known, &heard, "log matching: node {node} applied another entry {index}");
        }
        applied.0 + 1
    }

    /// Plays it all again and compares. `machines` are those of all nodes, at rest.
    pub fn check(&self, record: &Record, machines: &[&Machine]) {
        let (mut model, mut replies) = (Model::default(), BTreeMap::new());
        for (place, (index, (_, kind, data))) in self.entries.iter().enumerate() {
            assert_eq!(*index, FIRST.index + 1 + place as u64, "an entry was applied that nobody showed");
            if *kind != EntryType::EntryNormal || data.is_empty() {
                continue;
            }
            let (now, request) = entry::split(data).expect("an entry that was applied can be read");
            assert!(!record.refused.contains(request), "D2: entry {index} was refused for good");
            let head = head(request).expect("a request has a head");
            let known = record.sent.get(request).cloned().or_else(|| by_a_node(request));
            let command = known.unwrap_or_else(|| panic!("entry {index}: nobody asked for this: {request:02x?}"));
            replies.insert(*index, (request, model.apply(*index, now.0, head, &command)));
        }
        for told in &record.told {
            // A repetition has the index of the first time.
            let first = replies.get(&told.index).filter(|(request, _)| *request == told.request);
            let (_, reply) = first.unwrap_or_else(|| panic!("D1: no entry {} for an answer with it", told.index));
            assert_eq!(reply, &(told.index, told.reply.clone()), "the model answers entry {} differently", told.index);
        }
        machines.iter().for_each(|machine| same_jobs(&model.jobs, machine));
    }
}

fn same_jobs(jobs: &BTreeMap<JobId, Job>, machine: &Machine) {
    assert_eq!(jobs.len(), machine.len(), "the model holds another number of jobs");
    for (id, mine) in jobs {
        let Some((job, _)) = machine.job(*id) else { panic!("job {id} is in the model and on no node") };
        let theirs = (job.state.name(), u64::from(job.attempt), u64::from(job.crashes), u64::from(job.generation));
        assert_eq!((mine.state.name(), mine.attempt, mine.crashes, mine.generation), theirs, "job {id}");
        let lease = match mine.state {
            State::Processing { session, token } => Some((session, token)),
            _ => None,
        };
        assert_eq!(lease, job.session().zip(job.token()).map(|(session, token)| (session.0, token.0)), "job {id}");
    }
}

fn head(request: &[u8]) -> Result<Head> {
    let mut reader = Reader::new(request);
    reader.array_of(4, "a request")?;
    Ok(Head { session: reader.u64()?, sequence: reader.u64()?, acked: reader.u64()? })
}

/// What nodes ask for by themselves.
fn by_a_node(request: &[u8]) -> Option<Command> {
    let mut reader = Reader::new(request);
    reader.array().ok()?;
    (0..3).try_for_each(|_| reader.u64().map(drop)).ok()?;
    reader.array().ok()?;
    let (operation, operand) = (reader.u64().ok()?, reader.u64().ok()?);
    match operation {
        3 => Some(Command::Expire(operand)),
        13 => Some(Command::Tick(operand)),
        14 => Some(Command::Evict(operand)),
        // What they say about the cluster: the model does not care for the words.
        16..=19 => Some(Command::Own(Own::SetLevel(operand))),
        _ => None,
    }
}
