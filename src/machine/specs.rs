//! Specifications: function, queue and options of a job. Jobs of one call site share one, so each is stored once.
//!
//! Invariants
//! * Two numbers never stand for equal specifications, and a new one gets the lowest free number.
//! * A specification lives as long as a job has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::decode::{bytes, name, names, number, Place, Result};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, Millis};

/// What happens to a job whose unique key is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UniqueMode {
    /// It is not created; the answer names the holder.
    Skip = 0,
    /// A holder that waits is cancelled and the new job takes its place; a running one wins.
    Replace = 1,
    /// The whole batch is refused.
    Raise = 2,
}

impl UniqueMode {
    pub(super) fn from_code(code: u64) -> Result<Self> {
        match code {
            0 => Ok(UniqueMode::Skip),
            1 => Ok(UniqueMode::Replace),
            2 => Ok(UniqueMode::Raise),
            _ => Err(Error::Invalid(format!("{code}, at most 2"))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub function: Arc<str>,
    pub queue: Arc<str>,
    pub priority: i64,
    pub max_attempts: u64,
    pub max_crashes: u64,
    pub timeout: Option<Millis>,
    pub keep_result: Millis,
    pub keep_failed: Millis,
    pub tags: Vec<Arc<str>>,
    pub unique_mode: UniqueMode,
    /// `None`: until the job is final.
    pub unique_window: Option<Millis>,
    /// From when it is due (or created, if at once) to when it is cancelled unless it started.
    pub expires: Option<Millis>,
    pub crash_delay: Millis,
    /// Read by workers only.
    pub meta: Arc<[u8]>,
}

impl Spec {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Spec> {
        reader.array_of(14, "a spec")?;
        let millis = |reader: &mut Reader<'_>| reader.u64().map(Millis);
        let spec = Spec {
            function: name(reader).at("function")?.into(),
            queue: name(reader).at("queue")?.into(),
            priority: reader.i64().at("priority")?,
            max_attempts: number(reader, u32::MAX.into()).at("max_attempts")?,
            max_crashes: number(reader, u32::MAX.into()).at("max_crashes")?,
            timeout: reader.option(millis).at("timeout_ms")?,
            keep_result: millis(reader).at("keep_result_ms")?,
            keep_failed: millis(reader).at("keep_failed_ms")?,
            tags: names(reader, "tags", limits::TAGS_MAX)?.into_iter().map(Into::into).collect(),
            unique_mode: UniqueMode::from_code(reader.u64().at("unique_mode")?).at("unique_mode")?,
            unique_window: reader.option(millis).at("unique_window_ms")?,
            expires: reader.option(millis).at("expires_ms")?,
            crash_delay: millis(reader).at("crash_delay_ms")?,
            meta: bytes(reader.bin().at("meta")?, limits::META_BYTES_MAX).at("meta")?.into(),
        };
        spec.check()?;
        Ok(spec)
    }

    /// Refuses options out of range.
    pub(super) fn check(&self) -> Result<()> {
        let max = limits::PRIORITY_MAX;
        if !(-max..=max).contains(&self.priority) {
            return Err(Error::Invalid(format!("priority: {}, from -{max} to {max}", self.priority)));
        }
        if self.max_attempts == 0 {
            return Err(Error::Invalid("max_attempts: 0, at least 1".into()));
        }
        for (place, span) in [("unique_window_ms", self.unique_window), ("expires_ms", self.expires)] {
            if span == Some(Millis(0)) {
                return Err(Error::Invalid(format!("{place}: 0, at least 1")));
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let millis = |writer: &mut Writer, span: Millis| {
            writer.u64(span.0);
        };
        writer.array(14).str(&self.function).str(&self.queue).i64(self.priority);
        writer.u64(self.max_attempts).u64(self.max_crashes).option(self.timeout, millis);
        writer.u64(self.keep_result.0).u64(self.keep_failed.0).array(self.tags.len());
        for tag in &self.tags {
            writer.str(tag);
        }
        writer.u64(self.unique_mode as u64).option(self.unique_window, millis).option(self.expires, millis);
        writer.u64(self.crash_delay.0).bin(&self.meta);
    }
}

/// A specification in use, with the numbers of its queue and function.
#[derive(Clone, Debug)]
pub struct Entry {
    pub spec: Arc<Spec>,
    pub queue: u32,
    pub function: u32,
    jobs: u64,
}

#[derive(Debug, Default)]
pub struct Specs {
    entries: Vec<Option<Entry>>,
    free: BTreeSet<u32>,
    by_bytes: BTreeMap<Box<[u8]>, u32>,
}

impl Specs {
    pub fn count(&self) -> usize {
        self.by_bytes.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(number, entry)| entry.as_ref().map(|entry| (number as u32, entry)))
    }

    pub fn get(&self, number: u32) -> &Entry {
        self.find(number).expect("a job names a specification that is alive")
    }

    pub(super) fn find(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)?.as_ref()
    }

    pub(super) fn number_of(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.get(bytes).copied()
    }

    /// Adds a specification that is not there yet, without a job.
    pub(super) fn insert(&mut self, bytes: Vec<u8>, spec: Spec, queue: u32, function: u32) -> u32 {
        let number = self.free.first().copied().unwrap_or(self.entries.len() as u32);
        self.insert_at(number, bytes, Entry { spec: Arc::new(spec), queue, function, jobs: 0 });
        number
    }

    fn insert_at(&mut self, number: u32, bytes: Vec<u8>, entry: Entry) {
        while self.entries.len() <= number as usize {
            self.free.insert(self.entries.len() as u32);
            self.entries.push(None);
        }
        self.free.remove(&number);
        self.by_bytes.insert(bytes.into(), number);
        self.entries[number as usize] = Some(entry);
    }

    /// For the loader of an image. `false` if the number or the specification is there already.
    pub(super) fn load(&mut self, number: u32, spec: Spec, queue: u32, function: u32) -> bool {
        let mut writer = Writer::new();
        spec.encode(&mut writer);
        if number as usize >= limits::SPECS_MAX || self.find(number).is_some() {
            return false;
        }
        if self.number_of(writer.as_bytes()).is_some() {
            return false;
        }
        let entry = Entry { spec: Arc::new(spec), queue, function, jobs: 0 };
        self.insert_at(number, writer.into_bytes(), entry);
        true
    }

    pub(super) fn hold(&mut self, number: u32) {
        self.entry_mut(number).jobs += 1;
    }

    pub(super) fn release(&mut self, number: u32) {
        self.entry_mut(number).jobs -= 1;
        self.drop_unused(number);
    }

    /// Forgets the specification if no job has it.
    fn drop_unused(&mut self, number: u32) {
        if self.get(number).jobs > 0 {
            return;
        }
        let mut writer = Writer::new();
        self.get(number).spec.encode(&mut writer);
        self.by_bytes.remove(writer.as_bytes());
        self.entries[number as usize] = None;
        self.free.insert(number);
    }

    /// How many jobs have it; for the recount in tests.
    #[cfg(any(debug_assertions, feature = "sim"))] // For the recount of tests.
    pub(super) fn jobs(&self, number: u32) -> u64 {
        self.get(number).jobs
    }

    fn entry_mut(&mut self, number: u32) -> &mut Entry {
        self.entries[number as usize].as_mut().expect("a job names a specification that is alive")
    }
}
