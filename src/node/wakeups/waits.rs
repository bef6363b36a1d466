//! Waits for the end of a job: of one in memory, and of one whose end only history tells.
//!
//! What holds
//! * A wait is answered once: when its job ends, when history says how it did, or when it is certain that nobody knows the job.
//! * While history is not whole, a job that it lacks is neither ended nor unknown: whoever waits for it waits on.

use super::{Registry, WaitId, Wakeups};
use crate::base::{limits, Error, JobId, Result};
use crate::node::Done;

impl Wakeups {
    /// Registers a wait unless the state, or `elsewhere` for a job that it does not know, answers at once. `None` of the latter:
    /// history cannot tell yet, and the job is among those that are `sought`.
    pub fn wait_finished(&self, id: JobId, done: Done<()>, elsewhere: impl FnOnce() -> Result<Option<bool>>) -> WaitId {
        let mut registry = self.registry.lock();
        let wait = WaitId(registry.number());
        let known = self.machine.read().is_over(id);
        let mut answer = registry.stopped.clone().map(Err);
        if answer.is_none() && known.is_none() {
            drop(registry);
            let unknown = || Err(Error::NotFound(format!("job {id}")));
            let end = elsewhere().map(|found| found.map(|found| if found { Ok(()) } else { unknown() }));
            answer = end.unwrap_or_else(|error| Some(Err(error)));
            registry = self.registry.lock();
            registry.sought |= answer.is_none();
        } else if known == Some(true) {
            answer = answer.or(Some(Ok(())));
        }
        let Some(answer) = answer.or_else(|| registry.refusal().map(Err)) else {
            registry.waits.entry(id).or_default().push((wait, done));
            registry.waiting.insert(wait, id);
            return wait;
        };
        drop(registry);
        done(answer);
        wait
    }

    pub fn forget_wait(&self, wait: WaitId) {
        let mut registry = self.registry.lock();
        let Some(job) = registry.waiting.remove(&wait) else { return };
        let Some(waits) = registry.waits.get_mut(&job) else { return };
        let place = waits.iter().position(|(other, _)| *other == wait);
        // Dropped outside the lock: a closure may own anything.
        let forgotten = place.map(|place| waits.swap_remove(place));
        if waits.is_empty() {
            registry.waits.remove(&job);
        }
        drop(registry);
        drop(forgotten);
    }

    /// Jobs that are waited for and whose end only history tells.
    pub fn sought(&self) -> Vec<JobId> {
        let mut registry = self.registry.lock();
        if !registry.sought {
            return Vec::new();
        }
        let machine = self.machine.read();
        let (mut sought, mut over) = (Vec::new(), Vec::new());
        for id in registry.waits.keys() {
            match machine.is_over(*id) {
                None => sought.push(*id),
                // Its record came back, and it will not end a second time.
                Some(true) => over.push(*id),
                Some(false) => {}
            }
        }
        drop(machine);
        registry.sought = !sought.is_empty();
        let over = registry.take_waits(&over);
        drop(registry);
        over.into_iter().for_each(|(_, done)| done(Ok(())));
        sought
    }

    /// History has this job, or it is whole and has it not.
    pub fn settle(&self, id: JobId, found: bool) {
        let waiting = self.registry.lock().take_waits(&[id]);
        waiting.into_iter().for_each(|(_, done)| done(if found { Ok(()) } else { Err(deleted(id)) }));
    }

    pub(super) fn answer(&self, finished: Vec<(JobId, Done<()>)>) {
        for (id, done) in finished {
            // Deleted before it was final, the job is gone; evicted it cannot be so soon.
            let gone = self.machine.read().is_over(id).is_none();
            done(if gone { Err(deleted(id)) } else { Ok(()) });
        }
    }
}

fn deleted(id: JobId) -> Error {
    Error::NotFound(format!("job {id} was deleted"))
}

impl Registry {
    /// Why nobody may wait now.
    fn refusal(&self) -> Option<Error> {
        let full = || Error::Overloaded(format!("{} waits for jobs", self.waiting.len()));
        self.stopped.clone().or_else(|| (self.waiting.len() >= limits::INBOX_REQUESTS_MAX).then(full))
    }

    pub(super) fn take_waits(&mut self, finished: &[JobId]) -> Vec<(JobId, Done<()>)> {
        let mut taken = Vec::new();
        if self.waits.is_empty() {
            return taken;
        }
        for id in finished {
            for (wait, done) in self.waits.remove(id).unwrap_or_default() {
                self.waiting.remove(&wait);
                taken.push((*id, done));
            }
        }
        taken
    }
}
