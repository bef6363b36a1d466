//! Unique keys of the model (J10): a job has its key until it is over, or, if it has a window, for that long, whatever becomes
//! of it.

use raftwork::base::JobId;

use super::Model;
use crate::wire::{Job as NewJob, Spec};

/// `Spec::unique_mode`.
pub(super) const REPLACE: u64 = 1;
const RAISE: u64 = 2;

impl Model {
    /// Who has a unique key.
    pub(super) fn holder(&self, key: &str) -> Option<JobId> {
        let mut live = self.jobs.iter().filter(|(_, job)| job.spec.unique_window.is_none() && !job.state.is_final());
        let live = live.find(|(_, job)| job.unique.as_deref() == Some(key)).map(|(id, _)| *id);
        let window = self.windows.get(key).filter(|(_, until)| *until > self.clock);
        live.or(window.map(|(id, _)| *id))
    }

    pub(super) fn other_holder(&self, id: JobId) -> Option<JobId> {
        let key = self.jobs[&id].unique.as_ref()?;
        self.holder(key).filter(|holder| *holder != id)
    }

    /// Why none of these jobs may come: one insists on its key, which somebody has, or an earlier one of them asks for.
    pub(super) fn conflicts(&self, specs: &[Spec], jobs: &[NewJob]) -> Option<&'static str> {
        let new: Vec<&NewJob> = jobs.iter().filter(|job| !self.jobs.contains_key(&job.id)).collect();
        let conflicts = |(position, job): (usize, &&NewJob)| {
            let Some(key) = job.unique.as_ref().filter(|_| specs[job.spec as usize].unique_mode == RAISE) else {
                return false;
            };
            self.holder(key).is_some() || new[..position].iter().any(|earlier| earlier.unique.as_ref() == Some(key))
        };
        new.iter().enumerate().any(conflicts).then_some("conflict")
    }

    /// A job that is new, or begins again, has its key from now on: for its window, if it has one.
    pub(super) fn open_window(&mut self, id: JobId) {
        let (clock, job) = (self.clock, &self.jobs[&id]);
        if let (Some(key), Some(span)) = (job.unique.clone(), job.spec.unique_window) {
            self.windows.insert(key, (id, clock + span));
        }
    }

    /// A tick forgets a window that is over. It counted for nothing since then.
    pub(super) fn forget_window(&mut self) -> bool {
        let over = self.windows.iter().filter(|(_, (_, until))| *until <= self.clock);
        let first = over.map(|(key, (_, until))| (*until, key.clone())).min();
        first.is_some_and(|(_, key)| self.windows.remove(&key).is_some())
    }
}
