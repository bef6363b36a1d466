//! The whole state as bytes: sections of records in one canonical order, so that equal machines give equal bytes.
//!
//! | section     | records                                                                                  |
//! |-------------|------------------------------------------------------------------------------------------|
//! | 1 head      | one: `[version, applied, clock, token, order, ordinal, evicted, tally, [counts]]`          |
//! | 2 queues    | `[name, pause, tally]` in the order of first use; pause is `nil` or `[until, reason]`      |
//! | 3 functions | `[name, tally]` likewise                                                                 |
//! | 4 specs     | `[number, SPEC]`                                                                          |
//! | 5 sessions  | `[id, ttl, kind, host, pid, labels, opened, acked, [[sequence, reply]], [[queue, credit]]]` |
//! | 6 windows   | `[unique key, job, until]`                                                                |
//! | 7 jobs      | `[slot, spec, JOB]` by slot; JOB as in `stored`                                           |
//! | 8 cluster   | one: `[feature level, [[node, name, raft address, client address]]]`, members by node     |
//! | 9 digests   | one: `[block, from, chain, told, [[index, mark]]]`, see `digests`                         |
//! | 10 access   | one: `[[[digest, name, [capability], expires, made]], [[digest, role, expires]], [[index, at, actor, what, about]]]` |
//! | 11 locks    | `[count]`, then by name `[name, session, number, token, since, [[place, session, number, since]]]`, or of shared ones another form: see `holding` |
//! | 12 schedules | `[count, retired]`, then `[name, generation, source, SPEC, args, overlap, definition, paused, next, last slot, last job, fired, skipped]` by name |
//! | 13 flows    | `[work, batches]`, then `[kind, id, ...]` of each piece of work in its order, then `[id, name, ...]` of each batch by id, see `flows` and `batches` |
//! | 14 limits   | `[count, [[queue, limit]]]`, then `[LIMIT, closed, wake, bucket]` by kind and key, see `limiters`  |
//! | 15 errors   | one: `[errors, [[fingerprint, type, function, errors, failed, first, last, newest, job]]]`, see `errors` |
//!
//! Version 1 has no sections 8 and 9: its feature level is 1, no member is listed, and no mark was made. Version 2 has no
//! section from 10 on, version 3 none from 12 on, version 4 none from 13 on and no shared locks, and version 5 no section 15
//! and no keys that take turns. A state whose feature level is below theirs is still written as the version before: until the
//! level is raised, a member may go back to it, and fetch a state from one that has the new.
//!
//! A record is its length (u32, little-endian) and a MessagePack value. A section is a stream of records, cut into
//! chunks anywhere. Only primary records are written: every index follows from them, see `load`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access::Access;
use super::batches::Batch;
use super::cluster::Member;
use super::digests::Digests;
use super::errors::Errors;
use super::flows::{BatchId, Todo};
use super::holding::Lock;
use super::levels::{self, Level};
use super::limiters::Kept;
use super::queues::Pause;
use super::recurring::Schedule;
use super::specs::Spec;
use super::stored::encode_job;
use super::table::Page;
use super::tally::Tally;
use super::unique::Window;
use super::{Machine, Session};
use crate::base::codec::Writer;
use crate::base::planted::{has, Bug};
use crate::base::{limits, LogIndex, Millis, Result};

/// Newest version of the state that an image holds; a machine reads it and all earlier ones.
pub const STATE_VERSION: u32 = 6;

pub(super) mod section {
    pub const HEAD: u8 = 1;
    pub const QUEUES: u8 = 2;
    pub const FUNCTIONS: u8 = 3;
    pub const SPECS: u8 = 4;
    pub const SESSIONS: u8 = 5;
    pub const WINDOWS: u8 = 6;
    pub const JOBS: u8 = 7;
    pub const CLUSTER: u8 = 8;
    pub const DIGESTS: u8 = 9;
    pub const ACCESS: u8 = 10;
    pub const LOCKS: u8 = 11;
    pub const SCHEDULES: u8 = 12;
    pub const FLOWS: u8 = 13;
    pub const LIMITS: u8 = 14;
    pub const ERRORS: u8 = 15;
}

/// The state at one index, taken in about a millisecond for a million jobs: pages and sessions are shared until the
/// machine changes them.
#[derive(Debug)]
pub struct Image {
    head: Vec<u8>,
    applied: LogIndex,
    clock: Millis,
    queues: Vec<(Arc<str>, Option<Pause>, Tally)>,
    functions: Vec<(Arc<str>, Tally)>,
    specs: Vec<(u32, Arc<Spec>)>,
    sessions: Vec<Arc<Session>>,
    windows: Vec<Arc<BTreeMap<Arc<str>, Window>>>,
    pages: Vec<(usize, Arc<Page>)>,
    level: Level,
    members: Vec<Member>,
    digests: Digests,
    access: Access,
    locks: Vec<(Arc<str>, Arc<Lock>)>,
    schedules: Vec<(Arc<str>, Arc<Schedule>)>,
    retired: u64,
    todo: Vec<Todo>,
    batches: Vec<(BatchId, Arc<Batch>)>,
    limiters: Vec<Arc<Kept>>,
    queue_limits: Vec<(u32, u64)>,
    errors: Arc<Errors>,
}

impl Machine {
    /// The state as it is now, for a thread that writes it while this machine goes on.
    pub fn capture(&self) -> Image {
        Image {
            head: self.head(),
            applied: self.applied,
            clock: self.clock,
            queues: self
                .queues
                .iter()
                .map(|queue| (queue.name.clone(), queue.pause.clone(), queue.tally.clone()))
                .collect(),
            functions: self.functions.iter().map(|function| (function.name.clone(), function.tally.clone())).collect(),
            specs: self.specs.iter().map(|(number, entry)| (number, entry.spec.clone())).collect(),
            sessions: self.sessions.values().cloned().collect(),
            windows: self.unique.windows().to_vec(),
            pages: self.table.pages().map(|(number, page)| (number, page.clone())).collect(),
            level: self.level,
            members: self.members.values().cloned().collect(),
            digests: self.digests.clone(),
            access: self.access.clone(),
            locks: self.locks.capture(),
            schedules: self.schedules.capture(),
            retired: self.schedules.retired(),
            todo: self.flows.todo.iter().cloned().collect(),
            batches: self.flows.batches.iter().map(|(id, batch)| (*id, batch.clone())).collect(),
            limiters: self.limiters.capture(),
            queue_limits: (0..).zip(self.queues.iter()).filter_map(|(queue, of)| Some((queue, of.limit?))).collect(),
            errors: self.errors.clone(),
        }
    }

    /// Hash of everything that an image holds. Cheap when little has changed since the last call: pages keep theirs.
    pub fn digest(&self) -> u64 {
        self.capture().digest()
    }

    fn head(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(9).u64(state_version(self.level).into()).u64(self.applied.0).u64(self.clock.0);
        writer.u64(self.token).u64(self.order).u64(self.ordinal).u64(self.evicted);
        self.tally.encode(&mut writer);
        let counts = [self.queues.count(), self.functions.count(), self.specs.count(), self.sessions.len()];
        writer.array(counts.len() + 2);
        for count in counts.into_iter().chain([self.unique.ends_len(), self.table.len()]) {
            writer.u64(count as u64);
        }
        writer.into_bytes()
    }
}

/// Version of the state at a feature level.
pub(super) fn state_version(level: Level) -> u32 {
    match () {
        () if level.has(levels::ERRORS) => STATE_VERSION,
        () if level.has(levels::LIMITS) => 5,
        () if level.has(levels::SCHEDULES) => 4,
        () if level.has(levels::ACCESS) => 3,
        () => 2,
    }
}

impl Image {
    /// Index of the newest entry that is in it.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Version of the state that it is written as.
    pub fn state_version(&self) -> u32 {
        state_version(self.level)
    }

    /// Cluster time in it.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Gives every section to `sink` in chunks of at most `CHUNK_BYTES_MAX` bytes, always the same for the same state.
    pub fn write(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        self.write_tables(sink)?;
        let mut stream = Stream::new(section::JOBS, sink);
        let mut record = Writer::with_capacity(256);
        for (number, page) in &self.pages {
            for (place, job) in page.jobs() {
                record.clear();
                record.array(3).u64((number * limits::PAGE_JOBS + place) as u64).u64(job.spec.into());
                encode_job(job, &mut record);
                stream.record(record.as_bytes())?;
            }
        }
        stream.end()?;
        self.write_cluster(sink)?;
        write_all(section::DIGESTS, sink, [&self.digests], |digests, writer| digests.encode(writer))?;
        self.write_access(sink)?;
        self.write_locks(sink)?;
        self.write_schedules(sink)?;
        self.write_flows(sink)?;
        self.write_limiters(sink)?;
        self.write_errors(sink)
    }

    fn write_locks(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        if !self.level.has(levels::LOCKS) {
            return Ok(());
        }
        let mut stream = Stream::new(section::LOCKS, sink);
        let mut record = Writer::new();
        record.array(1).u64(self.locks.len() as u64);
        stream.record(record.as_bytes())?;
        for (name, lock) in &self.locks {
            record.clear();
            lock.encode(name, &mut record);
            stream.record(record.as_bytes())?;
        }
        stream.end()
    }

    fn write_schedules(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        if !self.level.has(levels::SCHEDULES) {
            return Ok(());
        }
        let mut stream = Stream::new(section::SCHEDULES, sink);
        let mut record = Writer::new();
        record.array(2).u64(self.schedules.len() as u64).u64(self.retired);
        stream.record(record.as_bytes())?;
        for (name, schedule) in &self.schedules {
            record.clear();
            schedule.encode(name, &mut record);
            stream.record(record.as_bytes())?;
        }
        stream.end()
    }

    fn write_flows(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        if !self.level.has(levels::FLOWS) {
            return Ok(());
        }
        let mut stream = Stream::new(section::FLOWS, sink);
        let mut record = Writer::new();
        record.array(2).u64(self.todo.len() as u64).u64(self.batches.len() as u64);
        stream.record(record.as_bytes())?;
        for todo in &self.todo {
            record.clear();
            todo.encode(&mut record);
            stream.record(record.as_bytes())?;
        }
        for (id, batch) in &self.batches {
            record.clear();
            batch.encode(*id, &mut record);
            stream.record(record.as_bytes())?;
        }
        stream.end()
    }

    fn write_limiters(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        if !self.level.has(levels::LIMITS) {
            return Ok(());
        }
        let mut stream = Stream::new(section::LIMITS, sink);
        let mut record = Writer::new();
        record.array(2).u64(self.limiters.len() as u64).array(self.queue_limits.len());
        for (queue, limit) in &self.queue_limits {
            record.array(2).u64((*queue).into()).u64(*limit);
        }
        stream.record(record.as_bytes())?;
        for kept in &self.limiters {
            record.clear();
            kept.encode(&mut record);
            stream.record(record.as_bytes())?;
        }
        stream.end()
    }

    fn write_errors(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let errors = self.level.has(levels::ERRORS).then_some(&*self.errors);
        write_all(section::ERRORS, sink, errors, |errors, writer| errors.encode(writer))
    }

    fn write_cluster(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        write_all(section::CLUSTER, sink, [self], |image, writer| {
            writer.array(2).u64(image.level.0).array(image.members.len());
            image.members.iter().for_each(|member| member.encode(writer));
        })
    }

    fn write_access(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let access = self.level.has(levels::ACCESS).then_some(&self.access);
        write_all(section::ACCESS, sink, access, |access, writer| access.encode(writer))
    }

    fn write_tables(&self, sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let mut stream = Stream::new(section::HEAD, sink);
        stream.record(&self.head)?;
        stream.end()?;
        write_all(section::QUEUES, sink, &self.queues, |(name, pause, tally), writer| {
            writer.array(3).str(name).option(pause.as_ref(), |writer, pause| {
                writer.array(2).option(pause.until, |writer, until| {
                    writer.u64(until.0);
                });
                writer.str(&pause.reason);
            });
            tally.encode(writer);
        })?;
        write_all(section::FUNCTIONS, sink, &self.functions, |(name, tally), writer| {
            writer.array(2).str(name);
            tally.encode(writer);
        })?;
        write_all(section::SPECS, sink, &self.specs, |(number, spec), writer| {
            writer.array(2).u64((*number).into());
            spec.encode(writer);
        })?;
        write_all(section::SESSIONS, sink, &self.sessions, |session, writer| encode_session(session, writer))?;
        let windows = self.windows.iter().flat_map(|shard| shard.iter());
        write_all(section::WINDOWS, sink, windows, |(key, window), writer| {
            writer.array(3).str(key).id(window.id).u64(window.until.0);
        })
    }

    /// Hash of the whole state; pages that did not change since the last time are not hashed again.
    pub fn digest(&self) -> u64 {
        let mut hash = Hash::default();
        let mut absorb = |section: u8, bytes: &[u8]| {
            hash.number(section.into());
            hash.bytes(bytes);
            Ok(())
        };
        let hashed = self.write_tables(&mut absorb).and_then(|()| self.write_cluster(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_access(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_locks(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_schedules(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_flows(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_limiters(&mut absorb));
        let hashed = hashed.and_then(|()| self.write_errors(&mut absorb));
        debug_assert_eq!(hashed, Ok(()), "hashing cannot fail");
        for (number, page) in &self.pages {
            hash.number(*number as u64);
            hash.number(page.digest(hash_page));
        }
        hash.0
    }
}

fn hash_page(page: &Page) -> u64 {
    let (mut hash, mut record) = (Hash::default(), Writer::with_capacity(256));
    for (place, job) in page.jobs() {
        record.clear();
        record.u64(place as u64).u64(job.spec.into());
        encode_job(job, &mut record);
        hash.bytes(record.as_bytes());
    }
    hash.0
}

fn encode_session(session: &Session, writer: &mut Writer) {
    writer.array(10).u64(session.id.0).u64(session.ttl.0).str(&session.kind).str(&session.host).u64(session.pid);
    writer.array(session.labels.len());
    for (name, text) in session.labels.iter() {
        writer.array(2).str(name).str(text);
    }
    let kept = session.replies.kept.iter().filter(|_| !has(Bug::RepliesLost));
    writer.u64(session.opened.0).u64(session.replies.acked).array(kept.clone().count());
    for (sequence, reply) in kept {
        writer.array(2).u64(*sequence).bin(reply);
    }
    writer.array(session.rota.len());
    for (queue, credit) in &session.rota {
        writer.array(2).u64((*queue).into()).i64(*credit);
    }
}

fn write_all<T>(
    section: u8,
    sink: &mut dyn FnMut(u8, &[u8]) -> Result<()>,
    items: impl IntoIterator<Item = T>,
    encode: impl Fn(T, &mut Writer),
) -> Result<()> {
    let mut stream = Stream::new(section, sink);
    let mut record = Writer::new();
    for item in items {
        record.clear();
        encode(item, &mut record);
        stream.record(record.as_bytes())?;
    }
    stream.end()
}

/// Records of one section, given away in chunks.
struct Stream<'a> {
    section: u8,
    sink: &'a mut dyn FnMut(u8, &[u8]) -> Result<()>,
    buffer: Vec<u8>,
}

impl<'a> Stream<'a> {
    fn new(section: u8, sink: &'a mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Self {
        Self { section, sink, buffer: Vec::new() }
    }

    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        self.push(&(bytes.len() as u32).to_le_bytes())?;
        self.push(bytes)
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.buffer.len() + bytes.len() >= limits::CHUNK_BYTES_MAX {
            let (now, later) = bytes.split_at(limits::CHUNK_BYTES_MAX - self.buffer.len());
            self.buffer.extend_from_slice(now);
            (self.sink)(self.section, &self.buffer)?;
            self.buffer.clear();
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn end(self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        (self.sink)(self.section, &self.buffer)
    }
}

/// A hash that every version computes alike. It tells mistakes apart, not attackers.
#[derive(Default)]
struct Hash(u64);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }
}
