//! Commands about batches, and the flow of a job.

use super::{limits, Job};
use raftwork::base::codec::Writer;
use raftwork::base::JobId;

#[derive(Clone, Debug)]
pub enum Batch {
    Open(JobId, String, Option<JobId>),
    Seal(JobId),
    Cancel(JobId, String),
}

impl Batch {
    pub(super) fn encode(&self, w: &mut Writer) {
        match self {
            Batch::Open(id, name, outer) => w.array(4).u64(40).id(*id).str(name).option(*outer, |w, outer| {
                w.id(outer);
            }),
            Batch::Seal(id) => w.array(2).u64(41).id(*id),
            Batch::Cancel(id, reason) => w.array(3).u64(42).id(*id).str(reason),
        };
    }
}

/// The seventh item of a job, if it has one.
pub(super) fn extras(w: &mut Writer, job: &Job) {
    if !has_extras(job) {
        return;
    }
    let limited = usize::from(!job.limits.is_empty());
    w.map(usize::from(!job.parents.is_empty()) + usize::from(job.batch.is_some()) + limited);
    if !job.parents.is_empty() {
        w.u64(1).array(job.parents.len());
        for (parent, on, uses) in &job.parents {
            w.array(3).id(*parent).u64(*on).bool(*uses);
        }
    }
    if let Some(batch) = job.batch {
        w.u64(2).id(batch);
    }
    if !job.limits.is_empty() {
        limits(w.u64(3), &job.limits);
    }
}

/// Whether a job is part of a flow, or has limits.
pub(super) fn has_extras(job: &Job) -> bool {
    !job.parents.is_empty() || job.batch.is_some() || !job.limits.is_empty()
}
