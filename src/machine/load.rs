//! A machine out of an image: primary records are read, every index and every figure that can be counted is made anew.
//!
//! The bytes come from a file whose checksums hold, or from a peer; they are checked all the same, as a machine that
//! breaks its own invariants would take down every node that loads it.

use std::sync::Arc;

use super::access::Access;
use super::cluster::Member;
use super::decode::{list, number, Place};
use super::digests::Digests;
use super::errors::Errors;
use super::flows::Todo;
use super::image::{section, state_version, STATE_VERSION};
use super::job::State;
use super::levels::{known, too_old, Level};
use super::queues::Pause;
use super::sessions::Replies;
use super::specs::Spec;
use super::stored::decode_job;
use super::tally::Tally;
use super::{Machine, Session};
use crate::base::codec::Reader;
use crate::base::{limits, Error, LogIndex, Millis, Result, SessionId};

/// Largest record: a session with all the answers it may keep.
const RECORD_BYTES_MAX: usize = limits::REPLY_BYTES_MAX + 2 * limits::FRAME_BYTES_MAX;
/// Largest counter: a place in line has 56 bits, below those of the priority, and no sum of counters overflows.
pub(super) const COUNTER_MAX: u64 = (1 << 56) - 1;

/// Builds a machine from the chunks of an image, in their order.
#[derive(Debug, Default)]
pub struct Loader {
    machine: Machine,
    section: u8,
    /// The beginning of a record whose end is in the next chunk.
    carry: Vec<u8>,
    /// How many records of the sections from queues to jobs the head announced, once it came; and how many came.
    announced: Option<[u64; 6]>,
    read: [u64; 6],
    /// Version of the image, and how many records came of the sections that have one each: two since version 2, the third
    /// since version 3, the fourth since version 6.
    version: u64,
    single: [u64; 4],
    /// How many locks were announced, and how many came.
    locks: Option<(u64, u64)>,
    /// The same of schedules, and of work and batches together with how much of that is work.
    schedules: Option<(u64, u64)>,
    flows: Option<(u64, u64)>,
    work: u64,
    /// The same of limiters.
    limiters: Option<(u64, u64)>,
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::Corrupt { path: "the image of the state".into(), offset: 0, message: message.into() }
}

impl Loader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk.
    pub fn section(&mut self, section: u8, bytes: &[u8]) -> Result<()> {
        if section != self.section {
            if section < self.section || !self.carry.is_empty() {
                return Err(corrupt(format!("section {section} begins inside section {}", self.section)));
            }
            self.section = section;
        }
        if self.carry.is_empty() {
            let used = self.records(bytes)?;
            self.carry.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.carry);
        joined.extend_from_slice(bytes);
        let used = self.records(&joined)?;
        joined.drain(..used);
        self.carry = joined;
        Ok(())
    }

    /// Reads the whole records at the front and tells how many bytes they take.
    fn records(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        while let Some((length, body)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > RECORD_BYTES_MAX {
                return Err(corrupt(format!("a record of {length} bytes in section {}", self.section)));
            }
            let Some((record, behind)) = body.split_at_checked(length) else { break };
            let section = self.section;
            self.record(record).map_err(|error| match error {
                Error::Foreign(newer) => Error::Foreign(newer),
                other => corrupt(format!("section {section}: {other}")),
            })?;
            rest = behind;
        }
        Ok(bytes.len() - rest.len())
    }

    fn record(&mut self, record: &[u8]) -> Result<()> {
        let reader = &mut Reader::new(record);
        if (section::QUEUES..=section::JOBS).contains(&self.section) {
            self.read[(self.section - section::QUEUES) as usize] += 1;
        }
        match self.section {
            section::HEAD => self.head(reader)?,
            section::QUEUES => self.queue(reader)?,
            section::FUNCTIONS => self.function(reader)?,
            section::SPECS => self.spec(reader)?,
            section::SESSIONS => self.session(reader)?,
            section::WINDOWS => self.window(reader)?,
            section::JOBS => self.job(reader)?,
            section::CLUSTER => self.cluster(reader)?,
            section::DIGESTS => self.digests(reader)?,
            section::ACCESS => self.access(reader)?,
            section::LOCKS => self.lock(reader)?,
            section::SCHEDULES => self.schedule(reader)?,
            section::FLOWS => self.flow(reader)?,
            section::LIMITS => self.limiter(reader)?,
            section::ERRORS => self.errors(reader)?,
            other => return Err(Error::Invalid(format!("section {other} is not known"))),
        }
        reader.end()
    }

    fn head(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(9, "the head")?;
        self.version = reader.u64()?;
        if !(1..=u64::from(STATE_VERSION)).contains(&self.version) {
            return Err(Error::Foreign(too_old(&format!("a state of version {}", self.version))));
        }
        let machine = &mut self.machine;
        machine.applied = LogIndex(number(reader, COUNTER_MAX).at("applied")?);
        machine.clock = Millis(reader.u64()?);
        machine.token = number(reader, COUNTER_MAX).at("token")?;
        machine.order = number(reader, COUNTER_MAX).at("order")?;
        machine.ordinal = number(reader, COUNTER_MAX).at("ordinal")?;
        machine.evicted = number(reader, machine.ordinal).at("evicted")?;
        machine.tally = Tally::decode(reader)?;
        let mut counts = [0; 6];
        reader.array_of(counts.len(), "the counts")?;
        for count in &mut counts {
            *count = reader.u64()?;
        }
        match self.announced.replace(counts) {
            None => Ok(()),
            Some(_) => Err(Error::Invalid("a second head".into())),
        }
    }

    fn queue(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(3, "a queue")?;
        let name: Arc<str> = reader.str()?.into();
        let queues = &mut self.machine.queues;
        if queues.number_of(&name).is_some() {
            return Err(Error::Invalid("the same queue twice".into()));
        }
        let number = queues.number(&name);
        let queue = queues.get_mut(number);
        queue.pause = reader.option(|reader| {
            reader.array_of(2, "a pause")?;
            let until = reader.option(|reader| reader.u64())?.map(Millis);
            Ok(Pause { until, reason: reader.str()?.into() })
        })?;
        queue.tally = Tally::decode(reader)?;
        let until = queue.pause.as_ref().and_then(|pause| pause.until);
        self.machine.pauses.extend(until.map(|until| (until, number)));
        Ok(())
    }

    fn function(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(2, "a function")?;
        let name: Arc<str> = reader.str()?.into();
        let functions = &mut self.machine.functions;
        if functions.number_of(&name).is_some() {
            return Err(Error::Invalid("the same function twice".into()));
        }
        let number = functions.number(&name);
        functions.get_mut(number).tally = Tally::decode(reader)?;
        Ok(())
    }

    fn spec(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(2, "a specification")?;
        let number = number(reader, limits::SPECS_MAX as u64 - 1)? as u32;
        let spec = Spec::decode(reader)?;
        let queue = self.machine.queues.number_of(&spec.queue);
        let function = self.machine.functions.number_of(&spec.function);
        let known = queue.zip(function).ok_or_else(|| Error::Invalid("a queue or function that is not there".into()));
        let (queue, function) = known?;
        if !self.machine.specs.load(number, spec, queue, function) {
            return Err(Error::Invalid("the same specification twice".into()));
        }
        Ok(())
    }

    fn session(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(10, "a session")?;
        let mut session = Session {
            id: SessionId(reader.u64()?),
            ttl: Millis(reader.u64()?),
            kind: reader.str()?.into(),
            host: reader.str()?.into(),
            pid: reader.u64()?,
            labels: list(reader, "labels", limits::LABELS_MAX, |reader| {
                reader.array_of(2, "a label")?;
                Ok((Box::from(reader.str()?), Box::from(reader.str()?)))
            })?
            .into(),
            opened: Millis(reader.u64()?),
            replies: Replies { acked: reader.u64()?, ..Replies::default() },
            rota: Default::default(),
        };
        for _ in 0..reader.array()? {
            reader.array_of(2, "a reply")?;
            let sequence = reader.u64()?;
            session.replies.keep(sequence, reader.bin()?);
        }
        for _ in 0..reader.array()? {
            reader.array_of(2, "a credit")?;
            let queue = number(reader, limits::QUEUES_MAX as u64)? as u32;
            session.rota.insert(queue, reader.i64()?);
        }
        self.machine.sessions.insert(session.id, Arc::new(session));
        Ok(())
    }

    fn window(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(3, "a window")?;
        let key: Arc<str> = reader.str()?.into();
        let id = reader.id()?;
        let until = Millis(reader.u64()?);
        self.machine.unique.take(&key, id, Some(until));
        Ok(())
    }

    fn job(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        reader.array_of(3, "a job with its slot")?;
        let slot = number(reader, limits::JOBS_MAX as u64 - 1)? as u32;
        let spec = number(reader, u32::MAX.into())? as u32;
        let machine = &mut self.machine;
        let entry = machine.specs.find(spec).ok_or_else(|| Error::Invalid(format!("specification {spec}")))?;
        let windowed = entry.spec.unique_window.is_some();
        let job = decode_job(reader, spec)?;
        let counter = match job.state {
            State::Processing => machine.token,
            state if state.is_final() => machine.ordinal,
            _ => machine.order,
        };
        let held = job.session().is_some_and(|session| machine.sessions.contains_key(&session)) && job.attempt > 0;
        if job.order > counter || (job.state == State::Processing && !held) {
            return Err(Error::Invalid(format!("job {}: its place in line or its lease", job.id)));
        }
        if let Some(key) = job.unique().filter(|_| !windowed && !job.state.is_final()) {
            machine.unique.take(key, job.id, None);
        }
        let place = job.flow().map_or(0, |flow| flow.place);
        if place > machine.order || !job.is_in_place() {
            return Err(Error::Invalid(format!("job {}: its parents", job.id)));
        }
        let (state, id, weight) = (job.state, job.id, job.weight());
        if !machine.table.insert_at(slot, job) {
            return Err(Error::Invalid(format!("job {id}: the same slot or id twice")));
        }
        let home = machine.home(spec);
        if !state.is_final() {
            machine.hold_limits(slot, false);
        }
        machine.specs.hold(spec);
        machine.bytes += weight;
        machine.tallies(home, |tally| tally.by_state[state as usize] += 1);
        if !machine.link(slot, home) || !machine.link_edges(slot) {
            return Err(Error::Invalid(format!("job {id}: its place in line is taken")));
        }
        Ok(())
    }

    fn cluster(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.single[0] += 1;
        reader.array_of(2, "the cluster")?;
        let level = reader.u64()?;
        if !(1..=known()).contains(&level) {
            return Err(Error::Foreign(too_old(&format!("a state of feature level {level}"))));
        }
        self.machine.level = Level(level);
        for member in list(reader, "members", limits::MEMBERS_MAX, |reader| {
            reader.array_of(4, "a member")?;
            Member::decode(reader)
        })? {
            if let Some(other) = self.machine.members.insert(member.node, member) {
                return Err(Error::Invalid(format!("member {} twice", other.node)));
            }
        }
        Ok(())
    }

    fn digests(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.single[1] += 1;
        self.machine.digests = Digests::decode(reader, self.machine.applied.0)?;
        Ok(())
    }

    fn access(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.single[2] += 1;
        self.machine.access = Access::decode(reader, self.machine.applied.0)?;
        Ok(())
    }

    fn errors(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.single[3] += 1;
        self.machine.errors = Arc::new(Errors::decode(reader)?);
        Ok(())
    }

    fn lock(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        match &mut self.locks {
            None => {
                reader.array_of(1, "the count of locks")?;
                self.locks = Some((number(reader, limits::LOCKS_MAX as u64)?, 0));
                Ok(())
            }
            Some((_, read)) => {
                *read += 1;
                self.machine.load_lock(reader)
            }
        }
    }

    fn schedule(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        match &mut self.schedules {
            None => {
                self.schedules = Some((self.machine.schedules.load_head(reader)?, 0));
                Ok(())
            }
            Some((_, read)) => {
                *read += 1;
                self.machine.load_schedule(reader)
            }
        }
    }

    fn flow(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        match &mut self.flows {
            None => {
                reader.array_of(2, "the counts of flows")?;
                self.work = number(reader, COUNTER_MAX).at("work")?;
                self.flows = Some((self.work + number(reader, limits::BATCHES_MAX as u64)?, 0));
                return Ok(());
            }
            Some((_, read)) => *read += 1,
        }
        let Some(left) = self.work.checked_sub(1) else { return self.machine.load_batch(reader) };
        self.work = left;
        self.machine.flows.todo.push_back(Todo::decode(reader)?);
        Ok(())
    }

    fn limiter(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        match &mut self.limiters {
            None => {
                self.limiters = Some((self.machine.load_limiters_head(reader)?, 0));
                Ok(())
            }
            Some((_, read)) => {
                *read += 1;
                self.machine.load_limiter(reader)
            }
        }
    }

    /// The machine, if everything that was announced has come.
    pub fn finish(mut self) -> Result<Machine> {
        if !self.carry.is_empty() {
            return Err(corrupt("it ends inside a record"));
        }
        if self.announced != Some(self.read) {
            return Err(corrupt(format!("records {:?}, announced {:?}", self.read, self.announced)));
        }
        let (version, level) = (self.version, self.machine.level);
        // Version 1 had no levels. Else what the sections hold would be left out when this machine writes its own image.
        if version > 1 && version != u64::from(state_version(level)) {
            return Err(corrupt(format!("version {version} at feature level {}", level.0)));
        }
        match (self.version, self.single) {
            (1, [0, 0, 0, 0]) => self.machine.digests = Digests::unknown(),
            (2, [1, 1, 0, 0]) | (3..=5, [1, 1, 1, 0]) | (6.., [1, 1, 1, 1]) => {}
            (version, found) => return Err(corrupt(format!("version {version} with {found:?} of the last sections"))),
        }
        match (self.version, self.locks) {
            (..=2, None) => {}
            (3.., Some((announced, read))) if announced == read => {}
            (version, found) => return Err(corrupt(format!("version {version} with {found:?} locks"))),
        }
        match (self.version, self.schedules) {
            (..=3, None) => {}
            (4.., Some((announced, read))) if announced == read => {}
            (version, found) => return Err(corrupt(format!("version {version} with {found:?} schedules"))),
        }
        match (self.version, self.flows) {
            (..=4, None) => {}
            (5.., Some((announced, read))) if announced == read => {}
            (version, found) => return Err(corrupt(format!("version {version} with {found:?} batches"))),
        }
        if !self.machine.batches_hold() {
            return Err(corrupt("the members of a batch do not add up"));
        }
        let known = self.machine.limiters.len() as u64;
        match (self.version, self.limiters) {
            (..=4, None) if known == 0 => {}
            (5.., Some((announced, read))) if announced == read && read == known => {}
            (version, found) => return Err(corrupt(format!("version {version} with {found:?} limiters, not {known}"))),
        }
        let queues = self.machine.queues.iter().map(|queue| &queue.tally);
        let functions = self.machine.functions.iter().map(|function| &function.tally);
        if !queues.chain(functions).chain([&self.machine.tally]).all(Tally::holds) {
            return Err(corrupt("the figures do not add up"));
        }
        Ok(self.machine)
    }
}

impl Machine {
    /// Goes on at a later index although the entries between are lost, which only a salvage may do. Fencing tokens and
    /// finish ordinals jump beyond all that the lost entries can have given, so that none is given twice (K2). `ordinal` is
    /// how far the archive came: what it holds stays history.
    pub fn skip_to(&mut self, index: LogIndex, ordinal: u64) {
        let given_max = index.0.saturating_mul(limits::BATCH_JOBS_MAX as u64).min(COUNTER_MAX / 2);
        self.applied = self.applied.max(index);
        self.token = self.token.max(given_max);
        self.ordinal = self.ordinal.max(ordinal);
        self.digests = Digests::unknown();
        if self.table.len() == 0 {
            self.evicted = self.ordinal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::codec::Writer;

    /// A job that waits again has its limiters, however many there are.
    #[test]
    fn an_image_has_more_limiters_than_come_with_new_jobs() {
        let more = limits::LIMITERS_MAX as u64 + 1;
        let mut head = Writer::new();
        head.array(2).u64(more).array(0);
        let mut reader = Reader::new(head.as_bytes());
        assert_eq!(Machine::default().load_limiters_head(&mut reader), Ok(more));
    }
}
