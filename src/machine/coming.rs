//! What an entry of the log is about to make ready, looked at before it is committed: for whoever wants to claim it soon.
//!
//! Only a guess: the entry may never be committed, be refused, or find that the job is known. What a guess would often be wrong
//! about is left out: jobs that are due later, wait for others or for room, or have a unique key.

use std::sync::Arc;

use super::command::{self, Command, NewJob};
use super::Machine;
use crate::base::Millis;

/// Jobs that are about to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    pub queue: Arc<str>,
    pub function: Arc<str>,
    pub jobs: usize,
}

impl Machine {
    /// What this request makes ready when it is applied at this time. A request that cannot be read makes nothing ready.
    pub fn coming(&self, now: Millis, request: &[u8]) -> Vec<Coming> {
        let command = command::decode(request).map(|request| request.command);
        let Ok(Command::Enqueue { specs, jobs }) = command else { return Vec::new() };
        let mut counts = vec![0; specs.len()];
        for job in jobs.iter().filter(|job| is_plain(job, now)) {
            counts[job.spec] += 1;
        }
        let counted = specs.into_iter().zip(counts).filter(|(spec, jobs)| *jobs > 0 && self.may_give(&spec.queue));
        counted.map(|(spec, jobs)| Coming { queue: spec.queue, function: spec.function, jobs }).collect()
    }

    /// Whether a claim could get jobs of this queue, if it had some.
    fn may_give(&self, queue: &str) -> bool {
        let known = self.queues.number_of(queue).map(|number| self.queues.get(number));
        known.is_none_or(|queue| queue.pause.is_none() && queue.room() > 0)
    }
}

fn is_plain(job: &NewJob<'_>, now: Millis) -> bool {
    let is_due = job.delay == Millis(0) && job.run_at.is_none_or(|at| at <= now);
    is_due && job.unique.is_none() && job.joining.is_none() && job.limits.is_none()
}
