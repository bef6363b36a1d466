//! The verbs of recurring schedules, see `recurring`.
//!
//! Each that comes from a scheduler says what it saw: the generation and the slot. If the schedule has gone on since,
//! nothing changes and the answer is `STALE`; the scheduler asks again what is due. A repeated firing is the same case
//! (C1).

use std::sync::Arc;

use super::command::NewJob;
use super::decode::{list, number, Place as _, Result};
use super::enqueue::Form;
use super::levels;
use super::load::COUNTER_MAX;
use super::outcome::{self, Outcome, Refusal};
use super::recurring::{schedule_name, Overlap, Plan, Recurrence, Schedule, Source};
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, JobId, Millis};

/// A definition, and the first slot.
#[derive(Debug)]
pub struct PutSchedule<'a> {
    pub name: &'a str,
    /// `None`: one more than the stored one.
    pub generation: Option<u64>,
    pub source: Source,
    pub plan: Plan,
    pub next: Option<Millis>,
}

/// What a scheduler saw, and the slot that follows.
#[derive(Debug)]
pub struct At<'a> {
    pub name: &'a str,
    pub generation: u64,
    pub slot: Millis,
    pub next: Option<Millis>,
}

/// One job of a firing.
#[derive(Debug)]
pub struct Firing {
    pub id: JobId,
    /// `None`: no slot, it was triggered beside all.
    pub nominal: Option<Millis>,
    pub run_at: Option<Millis>,
}

impl<'a> PutSchedule<'a> {
    /// `extras`: something behind the last item that few schedules have.
    pub(super) fn decode(reader: &mut Reader<'a>, extras: bool) -> Result<Self> {
        let mut put = Self {
            name: schedule_name(reader)?,
            generation: reader.option(|reader| number(reader, COUNTER_MAX)).at("generation")?,
            source: Source::decode(reader).at("source")?,
            plan: Plan::decode(reader)?,
            next: reader.option(|reader| reader.u64()).at("next")?.map(Millis),
        };
        if extras {
            put.plan.limits = super::extras::Extras::limits(reader)?;
        }
        Ok(put)
    }
}

impl<'a> At<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(Self {
            name: schedule_name(reader)?,
            generation: reader.u64().at("generation")?,
            slot: Millis(reader.u64().at("slot")?),
            next: reader.option(|reader| reader.u64()).at("next")?.map(Millis),
        })
    }

    /// Of a firing: time goes on.
    pub(super) fn rising(self) -> Result<Self> {
        match self.next {
            Some(next) if next <= self.slot => Err(Error::Invalid("next: not behind the slot".into())),
            _ => Ok(self),
        }
    }
}

impl Firing {
    /// The jobs of a firing, each of its own slot and in their order.
    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>> {
        let jobs = list(reader, "jobs", limits::BATCH_JOBS_MAX, |reader| {
            reader.array_of(3, "a job")?;
            Ok(Self {
                id: reader.id().at("id")?,
                nominal: Some(Millis(reader.u64().at("nominal")?)),
                run_at: reader.option(|reader| reader.u64()).at("run_at")?.map(Millis),
            })
        })?;
        match jobs.windows(2).position(|pair| pair[0].nominal >= pair[1].nominal) {
            Some(before) => Err(Error::Invalid(format!("jobs[{}].nominal: not behind that before it", before + 1))),
            None => Ok(jobs),
        }
    }
}

/// Answers. Those of `FireSchedule` have a second part: a code for each job.
mod code {
    pub const DONE: u64 = 0;
    /// `PutSchedule`: the stored one is of a newer generation of the code.
    pub const OLDER: u64 = 1;
    /// `PutSchedule`: there it is already.
    pub const SAME: u64 = 2;
    /// `FireSchedule`, `MoveSchedule`: not the generation and slot of the schedule.
    pub const STALE: u64 = 1;
    pub const UNKNOWN: u64 = 1;
    /// `PauseSchedule`: so it is already.
    pub const NOTHING_TO_DO: u64 = 2;

    /// A job of `FireSchedule`.
    pub const STORED: u8 = 0;
    pub const SKIPPED: u8 = 1;
}

impl Machine {
    /// A plan that is stored already changes nothing: a program that starts again must not move a slot.
    pub(super) fn put_schedule(&mut self, put: PutSchedule<'_>) -> Outcome {
        let stored = self.schedules.get(put.name).map(|(_, schedule)| schedule);
        if let Some(stored) = stored {
            if stored.source == Source::Code && put.generation.is_some_and(|mine| mine < stored.generation) {
                return outcome::number(code::OLDER);
            }
            if *stored.plan == put.plan {
                return outcome::number(code::SAME);
            }
        } else if self.schedules.len() >= limits::SCHEDULES_MAX {
            return Err(Refusal::overloaded(format!("more than {} schedules", limits::SCHEDULES_MAX)));
        }
        let last = stored.map_or(self.schedules.retired(), |stored| stored.generation);
        let generation = put.generation.unwrap_or((last + 1).min(COUNTER_MAX));
        self.room(0)?;
        if stored.is_none() {
            self.add_schedule(generation, put);
            return outcome::number(code::DONE);
        }
        let PutSchedule { name, source, plan, next, .. } = put;
        let bytes = &mut self.bytes;
        self.schedules.edit(name, |schedule| {
            let before = schedule.weight(name);
            (schedule.generation, schedule.source, schedule.next) = (generation, source, next);
            schedule.plan = Arc::new(plan);
            *bytes = *bytes - before + schedule.weight(name);
        });
        outcome::number(code::DONE)
    }

    fn add_schedule(&mut self, generation: u64, put: PutSchedule<'_>) {
        let schedule = Schedule {
            generation,
            source: put.source,
            plan: Arc::new(put.plan),
            paused: None,
            next: put.next,
            last_slot: None,
            last_job: None,
            fired: 0,
            skipped: 0,
        };
        self.bytes += schedule.weight(put.name);
        self.schedules.insert(put.name.into(), schedule);
    }

    /// Its jobs stay.
    pub(super) fn delete_schedule(&mut self, name: &str) -> Outcome {
        let Some(gone) = self.schedules.remove(name) else { return outcome::number(code::UNKNOWN) };
        self.bytes -= gone.weight(name);
        outcome::number(code::DONE)
    }

    pub(super) fn pause_schedule(&mut self, name: &str, reason: Option<&str>) -> Outcome {
        let Some((_, schedule)) = self.schedules.get(name) else { return outcome::number(code::UNKNOWN) };
        if schedule.paused.as_deref() == reason {
            return outcome::number(code::NOTHING_TO_DO);
        }
        self.schedules.edit(name, |schedule| schedule.paused = reason.map(Into::into));
        outcome::number(code::DONE)
    }

    /// Uses a slot: stores its jobs and sets the one that follows, or does neither.
    pub(super) fn fire_schedule(&mut self, at: &At<'_>, jobs: &[Firing]) -> Outcome {
        let Some((name, plan)) = self.seen(at, false) else { return fired(code::STALE, &[]) };
        self.room(jobs.len())?;
        self.room_for_limits(plan.limits.iter())?;
        let mut forms = self.forms(std::iter::once(&plan.spec))?;
        let mut fire = |job| self.fire_one(&name, &plan, &mut forms[0], job);
        let codes: Vec<u8> = jobs.iter().map(&mut fire).collect();
        if !(has(Bug::SkippedSlotStays) && codes.iter().all(|code| *code == code::SKIPPED)) {
            self.schedules.edit(&name, |schedule| (schedule.next, schedule.last_slot) = (at.next, Some(at.slot)));
        }
        fired(code::DONE, &codes)
    }

    /// Sets another slot without a job.
    pub(super) fn move_schedule(&mut self, at: &At<'_>) -> Outcome {
        let Some((name, _)) = self.seen(at, true) else { return outcome::number(code::STALE) };
        self.schedules.edit(&name, |schedule| schedule.next = at.next);
        outcome::number(code::DONE)
    }

    /// One job now, whatever others do and whether or not it is paused. The next slot stays: the job has none, or one that
    /// is filled in. Whoever makes one id of a schedule and a slot gets one job, here and by firing.
    pub(super) fn trigger_schedule(&mut self, name: &str, id: JobId, slot: Option<Millis>) -> Outcome {
        let Some((name, schedule)) = self.schedules.get(name) else { return outcome::number(code::UNKNOWN) };
        let (name, plan) = (name.clone(), schedule.plan.clone());
        if self.table.find(id).is_none() {
            self.room(1)?;
            self.room_for_limits(plan.limits.iter())?;
            let mut forms = self.forms(std::iter::once(&plan.spec))?;
            self.store(&name, &plan, &mut forms[0], &Firing { id, nominal: slot, run_at: None });
        }
        outcome::number(code::DONE)
    }

    /// The schedule, if it is as the sender of a command saw it.
    fn seen(&self, at: &At<'_>, paused_too: bool) -> Option<(Arc<str>, Arc<Plan>)> {
        let (name, schedule) = self.schedules.get(at.name)?;
        let same = (schedule.generation == at.generation || has(Bug::FireOldDefinition))
            && (schedule.next == Some(at.slot) || has(Bug::FireAnySlot));
        let open = paused_too || schedule.paused.is_none();
        (same && open).then(|| (name.clone(), schedule.plan.clone()))
    }

    fn fire_one(&mut self, name: &Arc<str>, plan: &Plan, form: &mut Form, job: &Firing) -> u8 {
        // Whoever chose the id meant this job, so it is there as they want it.
        if self.table.find(job.id).is_none() {
            if self.overlaps(name, plan.overlap, job.id) {
                self.schedules.edit(name, |schedule| schedule.skipped += 1);
                return code::SKIPPED;
            }
            self.store(name, plan, form, job);
        }
        if self.level.has(levels::OVERLAPS) {
            // Not by hand: what somebody stores beside the slots must not hide the job of the slot before.
            self.schedules.edit(name, |schedule| schedule.last_job = Some(job.id));
        }
        code::STORED
    }

    /// Whether a job is not stored because of others, which may have to make way for it.
    fn overlaps(&mut self, name: &str, overlap: Overlap, job: JobId) -> bool {
        let last = self.schedules.get(name).and_then(|(_, schedule)| self.table.find(schedule.last_job?));
        let open = last.filter(|slot| !self.table.get(*slot).state.is_final());
        match overlap {
            Overlap::Allow => false,
            Overlap::Skip if self.level.has(levels::OVERLAPS) => self.schedules.is_open(name),
            Overlap::Skip => open.is_some(),
            Overlap::QueueOne => self.schedules.waits(name),
            Overlap::Replace => {
                open.map(|slot| self.cancel_one(slot, Some(format!("replaced by {job}").into())));
                false
            }
        }
    }

    fn store(&mut self, name: &Arc<str>, plan: &Plan, form: &mut Form, job: &Firing) {
        let recurrence = Some(Arc::new(Recurrence { schedule: name.clone(), slot: job.nominal }));
        let (id, run_at) = (job.id, job.run_at);
        let (args, limits, delay) = (&plan.args, plan.limits.clone(), Millis(0));
        let new = NewJob { id, spec: 0, args, delay, run_at, unique: None, recurrence, joining: None, limits };
        self.create(&plan.spec, form, &new, None);
        let newest = !self.level.has(levels::OVERLAPS);
        self.schedules.edit(name, |schedule| {
            schedule.fired += 1;
            schedule.last_job = if newest { Some(id) } else { schedule.last_job };
        });
    }
}

fn fired(code: u64, jobs: &[u8]) -> Outcome {
    let mut writer = Writer::new();
    writer.array(2).u64(code).array(jobs.len());
    for job in jobs {
        writer.u64((*job).into());
    }
    Ok(writer.into_bytes())
}
