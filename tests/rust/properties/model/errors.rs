//! Errors of the model: a plain list of groups, that of the newest error last.

use super::Model;
use raftwork::base::codec::Writer;
use raftwork::base::JobId;

/// An error as `wire::error` takes it, `Type` or `Type#fingerprint`, and what ended with it.
#[derive(Clone, Debug)]
pub struct ModelErrors {
    error: String,
    function: String,
    errors: u64,
    failed: u64,
    first: u64,
    last: u64,
    job: JobId,
}

impl Model {
    pub(super) fn count_error(&mut self, error: &str, position: usize) {
        let job = &self.jobs[position];
        let (function, failed) = (job.spec.function.clone(), u64::from(job.state == "failed"));
        let known = self.errors.iter().position(|group| group.error == error && group.function == function);
        let mut group = match known {
            Some(known) => self.errors.remove(known),
            None => ModelErrors {
                error: error.to_owned(),
                function,
                errors: 0,
                failed: 0,
                first: self.now,
                last: self.now,
                job: job.id,
            },
        };
        group.errors += 1;
        group.failed += failed;
        (group.last, group.job) = (self.now, job.id);
        self.errors.push(group);
    }

    /// The answer to question 70.
    pub fn error_page(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(2).u64(self.errors.iter().map(|group| group.errors).sum()).array(self.errors.len());
        for group in self.errors.iter().rev() {
            let (kind, fingerprint) = match group.error.split_once('#') {
                Some((kind, fingerprint)) => (kind, Some(fingerprint)),
                None => (group.error.as_str(), None),
            };
            w.array(8).option(fingerprint, |w, fingerprint| {
                w.str(fingerprint);
            });
            w.str(kind).str(&group.function).u64(group.errors).u64(group.failed);
            w.u64(group.first).u64(group.last).id(group.job);
        }
        w.into_bytes()
    }
}
