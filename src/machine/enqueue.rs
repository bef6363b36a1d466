//! `Enqueue`: all jobs of a batch at one index, or none of them (L4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::NewJob;
use super::flows::{BatchId, Flow};
use super::job::{Job, State};
use super::outcome::{Outcome, Refusal};
use super::specs::{Spec, UniqueMode};
use super::table::Slot;
use super::tally::Tally;
use super::Machine;
use crate::base::codec::Writer;
use crate::base::planted::{has, Bug};
use crate::base::{limits, JobId};

/// What became of a job that was not simply created. The numbers are those of the answer.
enum Exception {
    /// The id is known: the job was enqueued before.
    Known = 1,
    /// Its unique key is held.
    Held = 2,
    /// It was created in the place of the holder, which waited.
    Replaced = 3,
}

/// A specification of the command: how it is encoded, and its number once a job has it.
pub(super) struct Form {
    bytes: Vec<u8>,
    number: Option<u32>,
}

impl Machine {
    pub(super) fn enqueue(&mut self, specs: Vec<Spec>, jobs: &[NewJob<'_>]) -> Outcome {
        self.room(jobs.len())?;
        self.room_for_limits(jobs.iter().filter_map(|job| job.limits.as_ref()))?;
        let mut forms = self.forms(specs.iter())?;
        self.refuse_conflicts(&specs, jobs)?;
        self.refuse_flows(jobs)?;
        let batches = jobs.iter().filter_map(|job| job.joining.as_ref()?.batch);
        let batches: BTreeSet<BatchId> = batches.filter(|batch| self.takes_members(*batch).is_ok()).collect();
        // None of their batches finishes before all are there, also if one replaces the last member that is pending.
        batches.iter().for_each(|batch| self.member_added(*batch));
        let (mut exceptions, mut holders) = (Vec::new(), BTreeMap::new());
        for (position, job) in jobs.iter().enumerate() {
            let spec = &specs[job.spec];
            let exception = self.enqueue_one(spec, &mut forms[job.spec], job, &holders);
            if let Some((Exception::Held, holder)) = exception {
                holders.insert(job.id, holder);
            }
            exceptions.extend(exception.map(|(what, id)| (position, what, id)));
        }
        batches.iter().for_each(|batch| self.member_gone(*batch));
        Ok(answer(&exceptions))
    }

    /// Encodes the specifications, and refuses more new ones than there is room for.
    pub(super) fn forms<'a>(&self, specs: impl Iterator<Item = &'a Spec> + Clone) -> Result<Vec<Form>, Refusal> {
        let (mut fresh, mut queues, mut functions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let encode = |spec: &Spec| {
            let mut writer = Writer::with_capacity(96);
            spec.encode(&mut writer);
            let number = self.specs.number_of(writer.as_bytes());
            Form { bytes: writer.into_bytes(), number }
        };
        let forms: Vec<Form> = specs.clone().map(encode).collect();
        for (spec, form) in specs.zip(&forms).filter(|(_, form)| form.number.is_none()) {
            fresh.insert(&form.bytes);
            queues.extend(self.queues.number_of(&spec.queue).is_none().then_some(&spec.queue));
            functions.extend(self.functions.number_of(&spec.function).is_none().then_some(&spec.function));
        }
        let kinds = [
            ("specifications", self.specs.count() + fresh.len(), limits::SPECS_MAX),
            ("queues", self.queues.count() + queues.len(), limits::QUEUES_MAX),
            ("functions", self.functions.count() + functions.len(), limits::FUNCTIONS_MAX),
        ];
        match kinds.into_iter().find(|(_, sum, max)| sum > max) {
            Some((what, _, max)) => Err(Refusal::overloaded(format!("more than {max} {what}"))),
            None => Ok(forms),
        }
    }

    /// Refuses the batch if a job that insists on its unique key would not get it. Whoever comes first in the batch
    /// takes the key, so a key that an earlier job of the batch asked for is held in any case.
    fn refuse_conflicts(&self, specs: &[Spec], jobs: &[NewJob<'_>]) -> Result<(), Refusal> {
        if !specs.iter().any(|spec| spec.unique_mode == UniqueMode::Raise) || has(Bug::RaiseSkips) {
            return Ok(());
        }
        let mut asked = BTreeMap::new();
        for (position, job) in jobs.iter().enumerate() {
            let Some(key) = job.unique.filter(|_| self.table.find(job.id).is_none()) else { continue };
            let holder = asked.get(key).copied().or_else(|| self.unique.holder(key, self.clock));
            match holder {
                Some(holder) if specs[job.spec].unique_mode == UniqueMode::Raise => {
                    return Err(Refusal::conflict(position, holder));
                }
                Some(holder) => asked.entry(key).or_insert(holder),
                None => asked.entry(key).or_insert(job.id),
            };
        }
        Ok(())
    }

    fn enqueue_one(
        &mut self,
        spec: &Spec,
        form: &mut Form,
        new: &NewJob<'_>,
        holders: &BTreeMap<JobId, JobId>,
    ) -> Option<(Exception, JobId)> {
        if self.table.find(new.id).is_some() {
            return Some((Exception::Known, new.id));
        }
        let holder = new.unique.and_then(|key| self.unique.holder(key, self.clock));
        if let Some(holder) = holder {
            if spec.unique_mode != UniqueMode::Replace || !self.replace(holder, new.id) {
                return Some((Exception::Held, holder));
            }
        }
        let flow = self.join(new, holders);
        self.create(spec, form, new, flow);
        holder.map(|holder| (Exception::Replaced, holder))
    }

    /// Cancels the waiting holder of a key in favour of a new job. `false` if it does not wait.
    fn replace(&mut self, holder: JobId, new: JobId) -> bool {
        let waits = |slot: &Slot| {
            let state = self.table.get(*slot).state;
            state.is_waiting() || state == State::Awaiting
        };
        let Some(slot) = self.table.find(holder).filter(waits) else { return false };
        self.edit(slot, |job| job.rare_mut().reason = Some(format!("replaced by {new}").into()));
        self.move_to(slot, State::Cancelled, self.clock);
        true
    }

    pub(super) fn create(&mut self, spec: &Spec, form: &mut Form, new: &NewJob<'_>, flow: Option<Arc<Flow>>) {
        let number = self.intern(spec, form);
        let due = new.run_at.unwrap_or(self.clock.plus(new.delay)).max(self.clock);
        let awaits = flow.as_ref().is_some_and(|flow| flow.open > 0);
        let (state, at) = match due > self.clock {
            _ if awaits => (State::Awaiting, self.clock),
            true => (State::Scheduled, due),
            false => (State::Enqueued, due),
        };
        let mut job = Job {
            id: new.id,
            args: new.args.into(),
            created: self.clock,
            at,
            order: 0,
            spec: number,
            attempt: 0,
            crashes: 0,
            generation: 0,
            state,
            cancel_requested: false,
            rare: None,
        };
        let batch = flow.as_ref().and_then(|flow| flow.batch);
        let rare = new.unique.is_some() || new.recurrence.is_some() || new.limits.is_some() || flow.is_some();
        if rare || spec.expires.is_some() {
            let rare = job.rare_mut();
            rare.unique = new.unique.map(Into::into);
            rare.expires = spec.expires.filter(|_| !awaits).map(|span| due.plus(span));
            rare.recurrence = new.recurrence.clone();
            rare.flow = flow;
            rare.limits = new.limits.clone();
        }
        let slot = self.add(job, Tally::enter);
        self.take_unique(slot);
        batch.into_iter().for_each(|batch| self.member_added(batch));
        if awaits {
            self.catch_up(slot);
        }
    }

    /// The number of a specification, which a job is about to have.
    pub(super) fn intern(&mut self, spec: &Spec, form: &mut Form) -> u32 {
        // Two equal specifications in one command: the first made the number.
        let known = form.number.or_else(|| self.specs.number_of(&form.bytes));
        let number = known.unwrap_or_else(|| {
            let queue = self.queues.number(&spec.queue);
            let function = self.functions.number(&spec.function);
            self.specs.insert(form.bytes.clone(), spec.clone(), queue, function)
        });
        form.number = Some(number);
        number
    }
}

/// `nil` when every job was simply created, as nearly always.
fn answer(exceptions: &[(usize, Exception, JobId)]) -> Vec<u8> {
    let mut writer = Writer::new();
    if exceptions.is_empty() {
        writer.nil();
        return writer.into_bytes();
    }
    writer.array(exceptions.len());
    for (position, what, id) in exceptions {
        let code = match what {
            Exception::Known => 1,
            Exception::Held => 2,
            Exception::Replaced => 3,
        };
        writer.array(3).u64(*position as u64).u64(code).id(*id);
    }
    writer.into_bytes()
}
