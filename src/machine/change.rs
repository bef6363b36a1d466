//! `MoveJobs` and `SetPriority`: other options for jobs that wait.
//!
//! * Whoever waits changes at once, whatever it waits for, and keeps everything else: its time, its deadline, its unique
//!   key, its limits, and since when it stands in line. So a job that is moved stands before those of its new queue that
//!   became enqueued later and have the same priority.
//! * A job that runs is left alone: its queue says who may report its end, and whose limit it counts for.
//! * A moved job counts as deleted from the queue that it left and as created in the other. All other figures stay.

use std::collections::BTreeMap;

use super::command;
use super::decode::{name, Place as _, Result};
use super::job::State;
use super::outcome::{self, code, Outcome};
use super::specs::Spec;
use super::table::Slot;
use super::Machine;
use crate::base::codec::Reader;
use crate::base::{limits, Error, JobId};

/// What these jobs are to have from now on.
#[derive(Debug)]
pub struct Change<'a> {
    pub ids: Vec<JobId>,
    to: To<'a>,
}

#[derive(Debug)]
enum To<'a> {
    Queue(&'a str),
    Priority(i64),
}

impl<'a> Change<'a> {
    /// `MoveJobs` (70) or `SetPriority`, behind its number.
    pub(super) fn decode(reader: &mut Reader<'a>, op: u64) -> Result<Self> {
        let ids = command::ids(reader)?;
        if op == 70 {
            return Ok(Self { ids, to: To::Queue(name(reader).at("queue")?) });
        }
        let (priority, max) = (reader.i64().at("priority")?, limits::PRIORITY_MAX);
        if !(-max..=max).contains(&priority) {
            return Err(Error::Invalid(format!("priority: {priority}, from -{max} to {max}")));
        }
        Ok(Self { ids, to: To::Priority(priority) })
    }

    /// Whether a specification says so already.
    fn is_met_by(&self, spec: &Spec) -> bool {
        match self.to {
            To::Queue(queue) => *spec.queue == *queue,
            To::Priority(priority) => spec.priority == priority,
        }
    }

    fn apply_to(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        match self.to {
            To::Queue(queue) => spec.queue = queue.into(),
            To::Priority(priority) => spec.priority = priority,
        }
        spec
    }
}

impl Machine {
    /// Gives all of these jobs other options, or none of them when there is no room for the specifications.
    pub(super) fn change(&mut self, change: &Change<'_>) -> Outcome {
        let (mut places, mut specs) = (BTreeMap::new(), Vec::new());
        for number in change.ids.iter().filter_map(|id| Some(self.changeable(*id, change).ok()?.1)) {
            places.entry(number).or_insert_with(|| {
                specs.push(change.apply_to(&self.specs.get(number).spec));
                specs.len() - 1
            });
        }
        let mut forms = self.forms(specs.iter())?;
        let mut codes = Vec::with_capacity(change.ids.len());
        for id in &change.ids {
            codes.push(match self.changeable(*id, change) {
                Err(code) => code,
                Ok((slot, before)) => {
                    // No number was given anew meanwhile: this job had its own all the time.
                    let place = places[&before];
                    let number = self.intern(&specs[place], &mut forms[place]);
                    self.give_spec(slot, number);
                    code::DONE
                }
            });
        }
        outcome::codes(codes.into_iter())
    }

    /// The job and the number of its specification; or the answer why it stays as it is.
    fn changeable(&self, id: JobId, change: &Change<'_>) -> std::result::Result<(Slot, u32), u8> {
        let slot = self.table.find(id).ok_or(code::UNKNOWN)?;
        let job = self.table.get(slot);
        match job.state {
            State::Processing => Err(code::PROCESSING),
            state if state.is_final() => Err(code::NOTHING_TO_DO),
            _ if change.is_met_by(&self.specs.get(job.spec).spec) => Err(code::NOTHING_TO_DO),
            _ => Ok((slot, job.spec)),
        }
    }
}
