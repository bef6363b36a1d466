//! What operators do to jobs, in the reference model. Each verb answers the code of one job.

use raftwork::base::JobId;

use super::State::{Awaiting, Cancelled, Enqueued, Processing};
use super::{flows, Job, Model};

impl Model {
    pub(super) fn cancel(&mut self, id: JobId) -> u8 {
        let Some(job) = self.jobs.get_mut(&id) else { return 2 };
        if job.state.is_final() {
            return 3;
        }
        if job.state.waits() || job.state == Awaiting {
            self.move_to(id, Cancelled);
            return 0;
        }
        job.told_to_stop = true;
        1
    }

    pub(super) fn requeue(&mut self, id: JobId) -> u8 {
        let Some(job) = self.jobs.get(&id) else { return 2 };
        if matches!(job.state, Awaiting | Enqueued | Processing { .. }) {
            return 3;
        }
        if job.state.is_final() {
            if self.other_holder(id).is_some() {
                return 5;
            }
            self.void(id, flows::Standing::Unmet);
            self.begin_again(id);
        }
        let waits = self.jobs[&id].flow.as_ref().is_some_and(|flow| flow.count(flows::Standing::Open) > 0);
        self.move_to(id, if waits { Awaiting } else { Enqueued });
        0
    }

    /// A new generation. It has its key again; one that its own window still holds stays as it is.
    pub(super) fn begin_again(&mut self, id: JobId) {
        let clock = self.clock;
        if self.jobs[&id].unique.as_ref().is_some_and(|key| self.holder(key).is_none()) {
            self.open_window(id);
        }
        let job = self.jobs.get_mut(&id).expect("the caller looked at it");
        let waits = job.flow.as_ref().is_some_and(|flow| flow.count(flows::Standing::Open) > 0);
        job.generation += 1;
        (job.attempt, job.crashes, job.told_to_stop, job.result) = (0, 0, false, None);
        job.deadline = job.spec.expires.filter(|_| !waits).map(|span| clock + span);
    }

    pub(super) fn delete(&mut self, id: JobId) -> u8 {
        match self.jobs.get(&id).map(|job| &job.state) {
            None => return 2,
            Some(Processing { .. }) => return 4,
            Some(_) => {}
        }
        let job = self.jobs.remove(&id).expect("it was there just now");
        self.windows.retain(|_, (holder, _)| *holder != id);
        if !job.state.is_final() {
            job.limits.iter().for_each(|limit| self.forget(limit));
            self.tell_gone(id);
            job.flow.and_then(|flow| flow.batch).into_iter().for_each(|batch| self.change(batch, |_| ()));
        }
        0
    }

    pub(super) fn put_queue(&mut self, id: JobId, queue: &str) -> u8 {
        self.put_option(id, |job| std::mem::replace(&mut job.spec.queue, queue.into()) != queue)
    }

    pub(super) fn put_priority(&mut self, id: JobId, priority: i64) -> u8 {
        self.put_option(id, |job| std::mem::replace(&mut job.spec.priority, priority) != priority)
    }

    /// Changes an option of a job that waits. `put` tells whether it was another.
    fn put_option(&mut self, id: JobId, put: impl FnOnce(&mut Job) -> bool) -> u8 {
        let Some(job) = self.jobs.get_mut(&id) else { return 2 };
        if matches!(job.state, Processing { .. }) {
            return 4;
        }
        if job.state.is_final() || !put(job) {
            return 3;
        }
        0
    }
}
