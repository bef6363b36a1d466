//! Recurring schedules: what runs again and again, and which slot is next.
//!
//! The machine has no calendar and no time zones (C4): whoever evaluates a definition writes the next slot, and the machine
//! compares and sets. A firing names the generation and the slot that it saw; only if both are still those of the schedule
//! its jobs are stored and the next slot is set, in one command. So however many schedulers fire, and however often each
//! tries, every slot is used once (C1).
//!
//! * A *slot* is a nominal time: when a run is meant to be. Jobs carry it, with the name of their schedule.
//! * A *generation* is a definition: a scheduler that evaluated an older one is told that it is stale. None comes again under
//!   a name, also after the schedule was deleted, unless code numbers its definitions so.
//!
//! The verbs are in `fire`, what an image and a question show in here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::decode::{bytes, check_name, number, Place as _, Result};
use super::job::State;
use super::limit::{Limit, Limits};
use super::load::COUNTER_MAX;
use super::specs::Spec;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, Millis};

/// Items of a record of an image.
const RECORD_ITEMS: usize = 13;
/// Rows of one page.
const PAGE_MAX: u64 = 1_000;
/// A schedule without its name, texts and bytes, its places in the tables included.
const WEIGHT_BASE: usize = 600;

/// A schedule among those that are due: its slot and its name. `None`: before all.
type DuePlace<'a> = Option<(Millis, &'a str)>;

/// Who defined a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program that runs: it puts its definitions whenever it starts.
    Code,
    /// A call at run time.
    Api,
}

/// What becomes of a job whose schedule has earlier ones that are not through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Overlap {
    Allow = 0,
    /// It is not stored while another one is not final; below level 5, while the newest one is not.
    Skip = 1,
    /// It is not stored while another one waits.
    QueueOne = 2,
    /// The one of the slot before makes way: it is cancelled, or asked to stop.
    Replace = 3,
}

/// What a schedule stores when it fires, and what that depends on. Two puts of one plan are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub spec: Spec,
    pub args: Arc<[u8]>,
    pub overlap: Overlap,
    /// Read by schedulers only.
    pub definition: Arc<[u8]>,
    pub limits: Option<Limits>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub generation: u64,
    pub source: Source,
    pub plan: Arc<Plan>,
    /// Why it is paused, if it is.
    pub paused: Option<Arc<str>>,
    /// The slot that a firing must name; `None` when it has ended.
    pub next: Option<Millis>,
    pub last_slot: Option<Millis>,
    /// The newest job that it fired, which may have left memory; below level 5 the newest one, however it came.
    pub last_job: Option<JobId>,
    /// Jobs stored, and jobs not stored because of others.
    pub fired: u64,
    pub skipped: u64,
}

/// Which schedule a job comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recurrence {
    pub schedule: Arc<str>,
    /// `None`: somebody triggered it by hand, or filled it in before level 4.
    pub slot: Option<Millis>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Schedules {
    by_name: BTreeMap<Arc<str>, Arc<Schedule>>,
    /// The greatest generation of those that are gone.
    retired: u64,
    /// Those that are not paused, by their slot. Follows from them.
    due: BTreeMap<Millis, BTreeSet<Arc<str>>>,
    /// How many jobs of a name are not final, and how many of them wait. Both follow from the jobs.
    open: BTreeMap<Arc<str>, u64>,
    waiting: BTreeMap<Arc<str>, u64>,
}

impl Recurrence {
    /// `[schedule, slot or nil]`
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(2).str(&self.schedule).option(self.slot, |writer, slot| {
            writer.u64(slot.0);
        });
    }
}

impl Source {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.str()? {
            "code" => Ok(Source::Code),
            "api" => Ok(Source::Api),
            _ => Err(Error::Invalid("neither \"code\" nor \"api\"".into())),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Source::Code => "code",
            Source::Api => "api",
        }
    }
}

impl Overlap {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u64()? {
            0 => Ok(Overlap::Allow),
            1 => Ok(Overlap::Skip),
            2 => Ok(Overlap::QueueOne),
            3 => Ok(Overlap::Replace),
            other => Err(Error::Invalid(format!("{other}, at most 3"))),
        }
    }
}

impl Plan {
    /// `spec, args, overlap, definition`: items of `PutSchedule` and of a record.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Plan {
            spec: Spec::decode(reader).at("spec")?,
            args: bytes(reader.bin().at("args")?, limits::ARGS_BYTES_MAX).at("args")?.into(),
            overlap: Overlap::decode(reader).at("overlap")?,
            definition: bytes(reader.bin().at("definition")?, limits::DEFINITION_BYTES_MAX).at("definition")?.into(),
            limits: None,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        self.spec.encode(writer);
        writer.bin(&self.args).u64(self.overlap as u64).bin(&self.definition);
    }
}

impl Schedule {
    /// When it is to fire next, unless it is paused.
    fn due(&self) -> Option<Millis> {
        self.next.filter(|_| self.paused.is_none())
    }

    /// Estimate of the bytes that it takes. The same on every node.
    pub fn weight(&self, name: &str) -> u64 {
        let plan = &self.plan;
        let limits = plan.limits.iter().flat_map(|limits| limits.iter()).map(Limit::weight).sum::<usize>();
        (WEIGHT_BASE + 2 * name.len() + plan.args.len() + plan.definition.len() + plan.spec.meta.len() + limits) as u64
    }

    /// `[name, generation, source, SPEC, args, overlap, definition, paused, next, last slot, last job, fired, skipped]`: a
    /// record of an image. If its jobs have limits these are behind it.
    pub fn encode(&self, name: &str, writer: &mut Writer) {
        writer
            .array(RECORD_ITEMS + usize::from(self.plan.limits.is_some()))
            .str(name)
            .u64(self.generation)
            .str(self.source.name());
        self.plan.encode(writer);
        self.state(writer);
        writer.u64(self.fired).u64(self.skipped);
        if let Some(limits) = &self.plan.limits {
            Limit::encode_all(limits, writer);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let moment = |reader: &mut Reader<'_>| reader.u64().map(Millis);
        Ok(Schedule {
            generation: number(reader, COUNTER_MAX).at("generation")?,
            source: Source::decode(reader).at("source")?,
            plan: Arc::new(Plan::decode(reader)?),
            paused: reader.option(|reader| reader.str().map(Into::into)).at("paused")?,
            next: reader.option(moment).at("next")?,
            last_slot: reader.option(moment).at("last_slot")?,
            last_job: reader.option(|reader| reader.id()).at("last_job")?,
            fired: number(reader, COUNTER_MAX).at("fired")?,
            skipped: number(reader, COUNTER_MAX).at("skipped")?,
        })
    }

    fn state(&self, writer: &mut Writer) {
        let moment = |writer: &mut Writer, at: Millis| {
            writer.u64(at.0);
        };
        writer.option(self.paused.as_deref(), |writer, reason| {
            writer.str(reason);
        });
        writer.option(self.next, moment).option(self.last_slot, moment).option(self.last_job, |writer, id| {
            writer.id(id);
        });
    }

    /// What a question shows, see `view`.
    fn row(&self, name: &str, writer: &mut Writer) {
        let Plan { spec, args, overlap, definition, .. } = &*self.plan;
        writer.array(14).str(name).u64(self.generation).str(self.source.name());
        self.state(writer);
        writer.u64(self.fired).u64(self.skipped).u64(*overlap as u64);
        writer.str(&spec.function).str(&spec.queue).bin(args).bin(definition);
    }
}

impl Schedules {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn retired(&self) -> u64 {
        self.retired
    }

    /// What an image shares.
    pub fn capture(&self) -> Vec<(Arc<str>, Arc<Schedule>)> {
        self.by_name.iter().map(|(name, schedule)| (name.clone(), schedule.clone())).collect()
    }

    pub fn get(&self, name: &str) -> Option<(&Arc<str>, &Schedule)> {
        self.by_name.get_key_value(name).map(|(name, schedule)| (name, &**schedule))
    }

    pub fn insert(&mut self, name: Arc<str>, schedule: Schedule) {
        self.link(&name, &schedule);
        self.by_name.insert(name, Arc::new(schedule));
    }

    pub fn remove(&mut self, name: &str) -> Option<Arc<Schedule>> {
        let (name, schedule) = self.by_name.remove_entry(name)?;
        self.unlink(&name, &schedule);
        self.retired = self.retired.max(schedule.generation);
        Some(schedule)
    }

    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Schedule)) {
        let Some((name, mut schedule)) = self.by_name.remove_entry(name) else { return };
        self.unlink(&name, &schedule);
        change(Arc::make_mut(&mut schedule));
        self.link(&name, &schedule);
        self.by_name.insert(name, schedule);
    }

    fn link(&mut self, name: &Arc<str>, schedule: &Schedule) {
        if let Some(at) = schedule.due() {
            self.due.entry(at).or_default().insert(name.clone());
        }
    }

    fn unlink(&mut self, name: &str, schedule: &Schedule) {
        let Some(at) = schedule.due() else { return };
        let Some(names) = self.due.get_mut(&at) else { return };
        names.remove(name);
        if names.is_empty() {
            self.due.remove(&at);
        }
    }

    /// A job of this name is in this state now.
    pub fn enter(&mut self, name: &Arc<str>, state: State) {
        let counts = [(&mut self.open, !state.is_final()), (&mut self.waiting, state.is_waiting())];
        for (counts, _) in counts.into_iter().filter(|(_, counted)| *counted) {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }

    pub fn leave(&mut self, name: &str, state: State) {
        let counts = [(&mut self.open, !state.is_final()), (&mut self.waiting, state.is_waiting())];
        for (counts, _) in counts.into_iter().filter(|(_, counted)| *counted) {
            let Some(count) = counts.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(name);
            }
        }
    }

    /// Whether a job of this name is not final.
    pub fn is_open(&self, name: &str) -> bool {
        self.open.contains_key(name)
    }

    /// Whether a job of this name waits.
    pub fn waits(&self, name: &str) -> bool {
        self.waiting.contains_key(name)
    }

    /// The earliest slot behind `now`.
    pub fn next_after(&self, now: Millis) -> Option<Millis> {
        self.due.range(now.plus(Millis(1))..).next().map(|(at, _)| *at)
    }

    /// Those whose slot has come, oldest first and then by name, behind a place.
    fn due_at<'a>(&'a self, now: Millis, after: DuePlace<'a>) -> impl Iterator<Item = (&'a Arc<str>, &'a Schedule)> {
        let from = after.map_or(Millis(0), |(slot, _)| slot);
        let slots = self.due.range(from..).take_while(move |(at, _)| **at <= now);
        let names = slots.flat_map(move |(at, names)| {
            let behind = after.filter(|(slot, _)| slot == at).map_or(Unbounded, |(_, name)| Excluded(name));
            names.range::<str, _>((behind, Unbounded))
        });
        names.filter_map(|name| self.get(name))
    }

    /// The first record of an image: `[count, retired]`.
    pub fn load_head(&mut self, reader: &mut Reader<'_>) -> Result<u64> {
        reader.array_of(2, "the count of schedules")?;
        let count = number(reader, limits::SCHEDULES_MAX as u64)?;
        self.retired = number(reader, COUNTER_MAX).at("retired")?;
        Ok(count)
    }
}

/// What monitoring is told of one schedule.
pub struct ScheduleFigures {
    pub name: Arc<str>,
    pub fired: u64,
    pub skipped: u64,
    /// The slot that it is to fire next, unless it is paused or has ended.
    pub due: Option<Millis>,
}

impl Machine {
    /// How many schedules there are, and the earliest slot of those that are not paused.
    pub fn schedule_sums(&self) -> (usize, Option<Millis>) {
        (self.schedules.len(), self.schedules.due.first_key_value().map(|(at, _)| *at))
    }

    /// The first of them by name, at most so many.
    pub fn schedule_figures(&self, most: usize) -> Vec<ScheduleFigures> {
        let first = self.schedules.by_name.iter().take(most);
        let figures = first.map(|(name, schedule)| ScheduleFigures {
            name: name.clone(),
            fired: schedule.fired,
            skipped: schedule.skipped,
            due: schedule.due(),
        });
        figures.collect()
    }

    /// The queue of a schedule's jobs.
    pub fn schedule_queue(&self, name: &str) -> Option<Arc<str>> {
        self.schedules.get(name).map(|(_, schedule)| schedule.plan.spec.queue.clone())
    }

    /// `[after or nil, limit]` gives rows by name, see `view`.
    pub(super) fn schedule_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let after: Option<Arc<str>> = reader.option(|reader| reader.str())?.map(Into::into);
        let limit = page(reader)?;
        let behind = self.schedules.by_name.range((after.map_or(Unbounded, Excluded), Unbounded));
        Ok(rows(behind.map(|(name, schedule)| (name, &**schedule)), limit))
    }

    pub(super) fn schedule_row(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        writer.option(self.schedules.get(reader.str()?), |writer, (name, schedule)| schedule.row(name, writer));
        Ok(writer.into_bytes())
    }

    /// `[limit]` gives `[rows, now, the earliest slot that has not come or nil]`, and with `paged` `[limit, after or nil]`
    /// gives those behind a place: a scheduler that cannot fire the first ones must find the others.
    pub(super) fn due_schedule_rows(&self, reader: &mut Reader<'_>, paged: bool) -> Result<Vec<u8>> {
        let limit = page(reader)?;
        let after = if paged { due_place(reader).at("after")? } else { None };
        let due = rows(self.schedules.due_at(self.clock, after), limit);
        let mut writer = Writer::with_capacity(due.len() + 20);
        writer.array(3).raw(&due).u64(self.clock.0).option(self.schedules.next_after(self.clock), |writer, at| {
            writer.u64(at.0);
        });
        Ok(writer.into_bytes())
    }

    /// One schedule out of an image.
    pub(super) fn load_schedule(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let items = reader.array()?;
        if !(RECORD_ITEMS..=RECORD_ITEMS + 1).contains(&items) {
            return Err(Error::Invalid(format!("a schedule has {RECORD_ITEMS} items, not {items}")));
        }
        let name: Arc<str> = schedule_name(reader)?.into();
        let mut schedule = Schedule::decode(reader)?;
        if items > RECORD_ITEMS {
            Arc::make_mut(&mut schedule.plan).limits = Limit::decode_all(reader)?;
        }
        if self.schedules.get(&name).is_some() {
            return Err(Error::Invalid("the same schedule twice".into()));
        }
        self.bytes += schedule.weight(&name);
        self.schedules.insert(name, schedule);
        Ok(())
    }
}

/// The name of a schedule.
pub(super) fn schedule_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let name = reader.str().and_then(|name| bytes(name, limits::SCHEDULE_NAME_BYTES_MAX));
    name.and_then(check_name).at("name")
}

fn page(reader: &mut Reader<'_>) -> Result<usize> {
    Ok(number(reader, PAGE_MAX).at("limit")?.max(1) as usize)
}

fn due_place<'a>(reader: &mut Reader<'a>) -> Result<DuePlace<'a>> {
    reader.option(|reader| {
        reader.array_of(2, "a place")?;
        Ok((Millis(reader.u64()?), reader.str()?))
    })
}

/// So many of them, and fewer if they are large: an answer must fit a frame.
fn rows<'a>(schedules: impl Iterator<Item = (&'a Arc<str>, &'a Schedule)>, limit: usize) -> Vec<u8> {
    let (mut count, mut items) = (0, Writer::new());
    for (name, schedule) in schedules.take(limit) {
        schedule.row(name, &mut items);
        count += 1;
        if items.len() >= limits::CLAIM_BYTES_MAX {
            break;
        }
    }
    let mut writer = Writer::with_capacity(items.len() + 5);
    writer.array(count).raw(items.as_bytes());
    writer.into_bytes()
}
