//! The log against the reference model: every entry that any node applied is applied to the model, every answer that a
//! client got must be the model's, and at the end every node must hold what the model holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftwork::base::codec::Reader;
use raftwork::base::{JobId, LogIndex, Millis, Result};
use raftwork::consensus::{Entry, EntryType};
use raftwork::machine::{self, Machine, LEVEL};
use raftwork::replica::{entry, LogCache, Members, FIRST};

use crate::membership::Membership;
use crate::model::{Head, Job, Model, Schedule, State, Token};
use crate::node::EPOCH_MS;
use crate::record::Record;
use crate::schedules;
use crate::wire::{digest, Command, Own};

const RESTORE: u64 = 15;
const SET_LEVEL: u64 = 19;

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
    membership: Membership,
    /// The feature level from an index on.
    levels: BTreeMap<u64, u64>,
}

impl Log {
    pub fn new(allowance_ms: u64, nodes: usize) -> Self {
        Self { allowance_ms, membership: Membership::new(nodes), ..Self::default() }
    }

    /// Who is a member, as of the newest entry that anybody applied.
    pub fn members(&self) -> &Members {
        self.membership.newest()
    }

    /// How often they changed.
    pub fn changes(&self) -> u64 {
        self.membership.changes()
    }

    pub fn members_at(&self, index: u64) -> Option<&Members> {
        self.membership.at(index)
    }

    /// A node that applied up to an index must have the members that follow from the log.
    pub fn same_members(&self, node: usize, index: LogIndex, theirs: &Members) {
        if let Some(mine) = self.membership.at(index.0) {
            let same =
                (&mine.voters, &mine.learners, &mine.outgoing) == (&theirs.voters, &theirs.learners, &theirs.outgoing);
            assert!(same, "members of node {node} as of entry {index}: {theirs:?}, and by the log {mine:?}");
        }
    }

    /// The feature level as of the newest entry that anybody applied. It never falls.
    pub fn level(&self) -> u64 {
        self.levels.values().next_back().copied().unwrap_or(1)
    }

    /// A node that applied up to an index must be at the level that follows from the log.
    pub fn same_level(&self, node: usize, index: LogIndex, theirs: u64) {
        if index.0 <= self.membership.upto {
            let mine = self.levels.range(..=index.0).next_back().map_or(1, |(_, level)| *level);
            assert_eq!(theirs, mine, "U3: level of node {node} as of entry {index}, and by the log");
        }
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
            assert_eq!(known, &heard, "log matching: node {node} applied another entry {index}");
        }
        while let Some((_, kind, data)) = self.entries.get(&(self.membership.upto + 1)) {
            self.membership.apply(*kind, data);
            let (index, level) = (self.membership.upto, self.level());
            match operation(data) {
                Some((SET_LEVEL, Some(raised))) if raised > level => {
                    self.levels.insert(index, raised);
                }
                Some((operation, _)) => {
                    assert!(needed(operation) <= level, "U3: entry {index} came before its level: {operation}");
                }
                None => {}
            }
        }
        applied.0 + 1
    }

    /// What was asked for, by index, with the time of the entry.
    pub fn requests(&self) -> impl Iterator<Item = (u64, Millis, &[u8])> {
        let normal = |(_, kind, data): &&(u64, EntryType, Bytes)| *kind == EntryType::EntryNormal && !data.is_empty();
        let entries = self.entries.iter().filter(move |(_, entry)| normal(entry));
        entries.map(|(index, (_, _, data))| {
            let (now, request) = entry::split(data).expect("an entry that was applied can be read");
            (*index, now, request)
        })
    }

    /// Every entry was shown, and somebody asked for it who was not told that it will never be there (D2).
    pub fn is_known(&self, record: &Record) {
        for (place, index) in self.entries.keys().enumerate() {
            assert_eq!(*index, FIRST.index + 1 + place as u64, "an entry was applied that nobody showed");
        }
        for (index, _, request) in self.requests() {
            assert!(!record.refused.contains(request), "D2: entry {index} was refused for good");
            let known = record.sent.contains_key(request) || by_a_node(request).is_some();
            assert!(known, "entry {index}: nobody asked for this: {request:02x?}");
        }
    }

    /// Plays it all again and compares. `machines` are those of all nodes, at rest.
    pub fn check(&self, record: &Record, machines: &[&Machine]) {
        let (mut model, mut replies) = (Model::default(), BTreeMap::new());
        for (index, now, request) in self.requests() {
            let head = head(request).expect("a request has a head");
            let command = record.sent.get(request).cloned().or_else(|| by_a_node(request));
            let command = command.expect("it was looked for before");
            replies.insert(index, (request, model.apply(index, now.0, head, &command)));
        }
        for told in &record.told {
            // A repetition has the index of the first time.
            let first = replies.get(&told.index).filter(|(request, _)| *request == told.request);
            let (_, reply) = first.unwrap_or_else(|| panic!("D1: no entry {} for an answer with it", told.index));
            assert_eq!(reply, &(told.index, told.reply.clone()), "the model answers entry {} differently", told.index);
        }
        for machine in machines {
            same_jobs(&model.jobs, machine);
            same_tokens(&model.tokens, machine);
            same_schedules(&model, machine);
            same_flows(&model, machine);
        }
    }
}

/// The operation of an entry, and its first operand if that is a number.
fn operation(data: &[u8]) -> Option<(u64, Option<u64>)> {
    let (_, request) = entry::split(data).ok()?;
    let mut reader = Reader::new(request);
    reader.array().ok()?;
    (0..3).try_for_each(|_| reader.u64().map(drop)).ok()?;
    reader.array().ok()?;
    Some((reader.u64().ok()?, reader.u64().ok()))
}

/// The level that an operation needs.
fn needed(operation: u64) -> u64 {
    match operation {
        machine::FUTURE => LEVEL + 1,
        40..=42 | 50 | 60 | 70 | 71 => 4,
        33..=38 => 3,
        20.. => 2,
        _ => 1,
    }
}

fn same_tokens(tokens: &BTreeMap<String, Token>, machine: &Machine) {
    assert_eq!(tokens.len(), machine.tokens().count(), "the model holds another number of tokens");
    for (secret, mine) in tokens {
        let theirs = machine.token(&digest(secret)).map(|token| (&*token.name, token.expires.map(|at| at.0)));
        assert_eq!(theirs, Some((&*mine.name, mine.expires)), "token {secret}");
    }
}

/// The same schedules at the same slots, and every job that is there carries the name and slot of the model's.
fn same_schedules(model: &Model, machine: &Machine) {
    let rows = schedules::rows(machine);
    let (mine, theirs) = (model.schedules.len(), rows.len());
    assert_eq!(mine, theirs, "the model holds another number of schedules");
    for (name, row) in rows {
        let Some(Schedule { generation, next, fired, skipped, .. }) = model.schedules.get(&name) else {
            panic!("C1: schedule {name} is on a node and not in the model")
        };
        let mine = (*generation, *next, *fired, *skipped);
        assert_eq!(mine, (row.generation, row.next, row.fired, row.skipped), "C1: schedule {name}");
    }
    for id in model.jobs.keys() {
        let job = machine.job(*id).and_then(|(job, _)| job.recurrence());
        let theirs = job.map(|from| (from.schedule.to_string(), from.slot.map(|slot| slot.0)));
        assert_eq!(model.recurrences.get(id), theirs.as_ref(), "C1: where job {id} comes from");
    }
}

/// The same batches, and every edge of a job where the model has it.
fn same_flows(model: &Model, machine: &Machine) {
    let (mine, theirs) = (model.batches(), crate::flows::batches(machine));
    assert_eq!(mine, theirs, "J11: the model holds other batches");
    for (id, job) in &model.jobs {
        let flow = machine.job(*id).and_then(|(job, _)| job.flow());
        let theirs =
            flow.map(|flow| flow.edges.iter().map(|edge| (edge.parent, edge.standing as u8)).collect::<Vec<_>>());
        assert_eq!(job.edges(), theirs, "J11: what job {id} waits for");
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
    let operation = reader.u64().ok()?;
    // What they say about the cluster, and who may do what: the model does not care for the words.
    if (16..=24).contains(&operation) && operation != SET_LEVEL {
        return Some(Command::Own(Own::DropMember(1)));
    }
    if operation == RESTORE {
        let records = reader.array().ok()?;
        return (0..records)
            .map(|_| reader.bin().map(<[u8]>::to_vec).ok())
            .collect::<Option<_>>()
            .map(Command::Restore);
    }
    let operand = reader.u64().ok()?;
    match operation {
        SET_LEVEL => Some(Command::Own(Own::SetLevel(operand))),
        3 => Some(Command::Expire(operand)),
        13 => Some(Command::Tick(operand)),
        14 => Some(Command::Evict(operand)),
        _ => None,
    }
}
