//! Recurring schedules in the reference model.

use std::collections::BTreeMap;

use raftwork::base::JobId;

use super::{Model, Reply};
use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{Job, Spec};

/// The level from which a job that was triggered hides no other.
const JUDGES_ALL: u64 = 5;

#[derive(Clone, Debug)]
pub struct Schedule {
    pub generation: u64,
    pub next: Option<u64>,
    put: Put,
    paused: Option<String>,
    pub fired: u64,
    pub skipped: u64,
    /// The newest job that was fired; below that level, or triggered.
    last: Option<JobId>,
}

impl Model {
    pub(super) fn recur(&mut self, command: &Recur) -> Reply {
        let name = match command {
            Recur::Put(put) => return Reply::Codes(vec![self.put_schedule(put)]),
            Recur::Fire(at, _) | Recur::Move(at) => &at.name,
            Recur::Delete(name) | Recur::Pause(name, _) | Recur::Trigger(name, ..) => name,
        };
        let Some(schedule) = self.schedules.get_mut(name) else { return Reply::Codes(vec![1]) };
        Reply::Codes(match command {
            Recur::Fire(at, _) if schedule.paused.is_some() || !schedule.is_at(at) => vec![1],
            Recur::Move(at) if !schedule.is_at(at) => vec![1],
            Recur::Fire(at, jobs) => {
                schedule.next = at.next;
                let overlap = schedule.put.overlap;
                let said = jobs.iter().map(|(id, nominal, _)| self.fire(name, *id, *nominal, overlap));
                [0].into_iter().chain(said).collect()
            }
            Recur::Move(at) => {
                schedule.next = at.next;
                vec![0]
            }
            Recur::Pause(_, reason) if schedule.paused == *reason => vec![2],
            Recur::Pause(_, reason) => {
                schedule.paused = reason.clone();
                vec![0]
            }
            Recur::Trigger(_, id, slot) => {
                self.store(name, *id, *slot);
                vec![0]
            }
            Recur::Delete(_) | Recur::Put(_) => {
                self.retired = self.retired.max(schedule.generation);
                self.schedules.remove(name);
                vec![0]
            }
        })
    }

    fn put_schedule(&mut self, put: &Put) -> u8 {
        let Some(schedule) = self.schedules.get_mut(&put.name) else {
            let generation = put.generation.unwrap_or(self.retired + 1);
            let (next, put) = (put.next, put.clone());
            let fresh = Schedule { generation, next, put, paused: None, fired: 0, skipped: 0, last: None };
            self.schedules.insert(fresh.put.name.clone(), fresh);
            return 0;
        };
        if schedule.put.source == "code" && put.generation.is_some_and(|theirs| theirs < schedule.generation) {
            return 1;
        }
        let plan = |put: &Put| -> (Spec, Vec<u8>, u64, Vec<u8>) {
            (put.spec.clone(), put.args.clone(), put.overlap, put.definition.clone())
        };
        if plan(&schedule.put) == plan(put) {
            return 2;
        }
        schedule.generation = put.generation.unwrap_or(schedule.generation + 1);
        (schedule.next, schedule.put) = (put.next, put.clone());
        0
    }

    fn fire(&mut self, name: &str, id: JobId, slot: u64, overlap: u64) -> u8 {
        let judges_all = self.level >= JUDGES_ALL;
        let schedule = self.schedules.get_mut(name).expect("the caller looked at it");
        let last = schedule.last;
        schedule.last = if judges_all { Some(id) } else { last };
        if self.jobs.contains_key(&id) {
            return 0;
        }
        let is_open = |id: &JobId| self.jobs.get(id).is_some_and(|job| !job.state.is_final());
        let of_it = |id: &JobId| self.recurrences.get(id).is_some_and(|(schedule, _)| schedule == name);
        let open = match judges_all {
            true => self.jobs.keys().any(|id| is_open(id) && of_it(id)),
            false => last.is_some_and(|last| is_open(&last)),
        };
        let waits = self.jobs.iter().any(|(id, job)| job.state.waits() && of_it(id));
        if (overlap == 1 && open) || (overlap == 2 && waits) {
            (schedule.skipped, schedule.last) = (schedule.skipped + 1, last);
            return 1;
        }
        if let Some(last) = last.filter(|last| overlap == 3 && is_open(last)) {
            self.cancel(last);
        }
        self.store(name, id, Some(slot));
        0
    }

    /// Stores a job, whatever others do.
    fn store(&mut self, name: &str, id: JobId, slot: Option<u64>) {
        let schedule = self.schedules.get_mut(name).expect("the caller looked at it");
        if self.jobs.contains_key(&id) {
            return;
        }
        schedule.fired += 1;
        schedule.last = if self.level >= JUDGES_ALL { schedule.last } else { Some(id) };
        let (spec, args) = (schedule.put.spec.clone(), schedule.put.args.clone());
        self.recurrences.insert(id, (name.to_owned(), slot));
        self.create(&spec, &Job { id, args, ..Job::default() }, &BTreeMap::new());
    }
}

impl Schedule {
    fn is_at(&self, at: &At) -> bool {
        self.generation == at.generation && self.next == Some(at.slot)
    }
}
