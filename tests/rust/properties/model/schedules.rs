//! Schedules of the model: a list, searched by name.

use super::{codes, number, Model, ModelJob, Reply};
use crate::wire::schedules::{At, Put, Recur};
use raftwork::base::codec::Writer;
use raftwork::base::JobId;

#[derive(Clone, Debug)]
pub struct ModelSchedule {
    pub put: Put,
    pub generation: u64,
    paused: Option<String>,
    pub next: Option<u64>,
    last_slot: Option<u64>,
    last_job: Option<JobId>,
    fired: u64,
    skipped: u64,
}

impl Model {
    pub(super) fn recur(&mut self, command: &Recur) -> Reply {
        let name = match command {
            Recur::Put(put) => return number(self.put_schedule(put)),
            Recur::Fire(at, _) | Recur::Move(at) => &at.name,
            Recur::Delete(name) | Recur::Pause(name, _) | Recur::Trigger(name, ..) => name,
        };
        let found = self.schedules.iter().position(|schedule| schedule.put.name == *name);
        if let Recur::Fire(at, jobs) = command {
            return self.fire(found, at, jobs);
        }
        let Some(found) = found else { return number(1) };
        let schedule = &mut self.schedules[found];
        number(match command {
            Recur::Delete(_) => {
                self.retired = self.retired.max(schedule.generation);
                self.schedules.remove(found);
                0
            }
            Recur::Pause(_, reason) if schedule.paused == *reason => 2,
            Recur::Pause(_, reason) => {
                schedule.paused = reason.clone();
                0
            }
            Recur::Trigger(_, id, slot) => {
                if self.position(*id).is_none() {
                    self.store(found, *id, *slot, None);
                }
                0
            }
            Recur::Move(at) if !schedule.is_at(at) => 1,
            Recur::Move(at) => {
                schedule.next = at.next;
                0
            }
            Recur::Put(_) | Recur::Fire(..) => unreachable!("both were answered above"),
        })
    }

    fn put_schedule(&mut self, put: &Put) -> u64 {
        let Some(stored) = self.schedules.iter_mut().find(|schedule| schedule.put.name == put.name) else {
            self.schedules.push(ModelSchedule {
                put: put.clone(),
                generation: put.generation.unwrap_or(self.retired + 1),
                paused: None,
                next: put.next,
                last_slot: None,
                last_job: None,
                fired: 0,
                skipped: 0,
            });
            return 0;
        };
        if stored.put.source == "code" && put.generation.is_some_and(|generation| generation < stored.generation) {
            return 1;
        }
        let plan =
            |put: &Put| (put.spec.clone(), put.args.clone(), put.overlap, put.definition.clone(), put.limits.clone());
        if plan(&stored.put) == plan(put) {
            return 2;
        }
        stored.generation = put.generation.unwrap_or(stored.generation + 1);
        (stored.put, stored.next) = (put.clone(), put.next);
        0
    }

    fn fire(&mut self, found: Option<usize>, at: &At, jobs: &[(JobId, u64, Option<u64>)]) -> Reply {
        let open = |found: &usize| self.schedules[*found].is_at(at) && self.schedules[*found].paused.is_none();
        let (answer, said) = match found.filter(open) {
            None => (1, Vec::new()),
            Some(found) => {
                let fire = |(id, nominal, run_at): &(JobId, u64, Option<u64>)| {
                    self.fire_one(found, *id, *nominal, *run_at).map_or(0, |()| 1)
                };
                let said = jobs.iter().map(fire).collect::<Vec<u64>>();
                (self.schedules[found].next, self.schedules[found].last_slot) = (at.next, Some(at.slot));
                (0, said)
            }
        };
        let mut w = Writer::new();
        w.array(2).u64(answer).raw(&codes(&said).expect("codes"));
        Ok(w.into_bytes())
    }

    /// Something if it was skipped.
    fn fire_one(&mut self, found: usize, id: JobId, nominal: u64, run_at: Option<u64>) -> Option<()> {
        if self.position(id).is_none() {
            let schedule = &self.schedules[found];
            let last = schedule.last_job.and_then(|last| self.position(last)).filter(|at| !self.jobs[*at].is_final());
            let of_it = |job: &&ModelJob| job.schedule.as_ref().is_some_and(|(name, _)| *name == schedule.put.name);
            let open = self.jobs.iter().filter(of_it).any(|job| !job.is_final());
            let waits = self.jobs.iter().filter(of_it).any(ModelJob::waits);
            let overlap = schedule.put.overlap;
            if (overlap == 1 && open) || (overlap == 2 && waits) {
                self.schedules[found].skipped += 1;
                return Some(());
            }
            if let Some(at) = last.filter(|_| overlap == 3) {
                self.cancel(self.jobs[at].id, &format!("replaced by {id}"));
            }
            self.store(found, id, Some(nominal), run_at);
        }
        self.schedules[found].last_job = Some(id);
        None
    }

    fn store(&mut self, found: usize, id: JobId, slot: Option<u64>, run_at: Option<u64>) {
        let put = self.schedules[found].put.clone();
        let due = run_at.unwrap_or(self.now).max(self.now);
        self.created += 1;
        self.jobs.push(ModelJob {
            id,
            args: put.args,
            created: self.now,
            expires: put.spec.expires.map(|span| due + span),
            spec: put.spec,
            schedule: Some((put.name, slot)),
            limits: put.limits,
            ..Default::default()
        });
        self.hold(self.jobs.len() - 1, true);
        self.make_wait(self.jobs.len() - 1, "scheduled", due - self.now);
        self.schedules[found].fired += 1;
    }

    /// The first slot for which time has not come.
    pub(super) fn next_slot(&self) -> Option<u64> {
        let open = self.schedules.iter().filter(|schedule| schedule.paused.is_none());
        open.filter_map(|schedule| schedule.next).filter(|next| *next > self.now).min()
    }

    /// The answer to the question which schedules there are.
    pub fn schedule_page(&self) -> Vec<u8> {
        let mut sorted: Vec<&ModelSchedule> = self.schedules.iter().collect();
        sorted.sort_by_key(|schedule| &schedule.put.name);
        rows(&sorted)
    }

    /// Slots and names of those that are due, in their order.
    pub fn due_places(&self) -> Vec<(u64, String)> {
        self.due().iter().map(|schedule| (schedule.next.expect("it is due"), schedule.put.name.clone())).collect()
    }

    /// The answer to the question which are due behind so many of them.
    pub fn due_page(&self, behind: usize) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(3).raw(&rows(&self.due()[behind..])).u64(self.now).option(self.next_slot(), |w, at| {
            w.u64(at);
        });
        w.into_bytes()
    }

    fn due(&self) -> Vec<&ModelSchedule> {
        let has_come = |schedule: &&ModelSchedule| schedule.next.is_some_and(|next| next <= self.now);
        let mut due: Vec<&ModelSchedule> =
            self.schedules.iter().filter(has_come).filter(|schedule| schedule.paused.is_none()).collect();
        due.sort_by_key(|schedule| (schedule.next, &schedule.put.name));
        due
    }
}

impl ModelSchedule {
    fn is_at(&self, at: &At) -> bool {
        self.generation == at.generation && self.next == Some(at.slot)
    }
}

fn rows(schedules: &[&ModelSchedule]) -> Vec<u8> {
    let mut w = Writer::new();
    let moment = |w: &mut Writer, at: u64| {
        w.u64(at);
    };
    w.array(schedules.len());
    for schedule in schedules {
        let put = &schedule.put;
        w.array(14).str(&put.name).u64(schedule.generation).str(&put.source);
        w.option(schedule.paused.as_ref(), |w, reason| {
            w.str(reason);
        });
        w.option(schedule.next, moment).option(schedule.last_slot, moment).option(schedule.last_job, |w, id| {
            w.id(id);
        });
        w.u64(schedule.fired).u64(schedule.skipped).u64(put.overlap);
        w.str(&put.spec.function).str(&put.spec.queue).bin(&put.args).bin(&put.definition);
    }
    w.into_bytes()
}
