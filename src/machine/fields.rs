//! What a filter can ask of a job, whether it is in memory or in the archive.

use super::record::{error_parts, parents_of, JobRecord};
use crate::base::JobId;

/// Stands before the last line of a traceback, which is the fingerprint of the error.
const FINGERPRINT_HEADING: &str = "\nFingerprint: ";

/// What a filter can ask of a job.
pub trait Fields {
    fn id(&self) -> JobId;
    fn state(&self) -> u8;
    fn function(&self) -> &str;
    fn queue(&self) -> &str;
    fn unique(&self) -> Option<&str>;
    /// The schedule that it comes from.
    fn schedule(&self) -> Option<&str>;
    fn batch(&self) -> Option<JobId>;
    /// Whether one of its parents fits, whether it still waits for it or not.
    fn has_parent(&self, fits: &mut dyn FnMut(JobId) -> bool) -> bool;
    fn tags(&self) -> impl Iterator<Item = &str>;
    /// MessagePack `[type, message, traceback]`.
    fn error(&self) -> Option<&[u8]>;
    fn number(&self, field: Number) -> Option<i64>;
    fn args(&self) -> &[u8];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Attempt,
    Crashes,
    Priority,
    Generation,
    Created,
    RunAt,
    Enqueued,
    Started,
    Finished,
}

/// The fingerprint in an error: none if a version stored it that made none, or if its text is encrypted.
pub(super) fn fingerprint(error: &[u8]) -> Option<&str> {
    let [_, _, traceback] = error_parts(error)?;
    let (_, last) = traceback.rsplit_once(FINGERPRINT_HEADING)?;
    last.strip_suffix('\n').filter(|fingerprint| !fingerprint.contains('\n'))
}

impl Fields for JobRecord<'_> {
    fn id(&self) -> JobId {
        self.id
    }

    fn state(&self) -> u8 {
        self.state
    }

    fn function(&self) -> &str {
        self.function
    }

    fn queue(&self) -> &str {
        self.queue
    }

    fn unique(&self) -> Option<&str> {
        self.unique_key
    }

    fn schedule(&self) -> Option<&str> {
        self.schedule
    }

    fn batch(&self) -> Option<JobId> {
        self.batch
    }

    fn has_parent(&self, fits: &mut dyn FnMut(JobId) -> bool) -> bool {
        self.flow.is_some_and(|flow| parents_of(flow).unwrap_or_default().into_iter().any(fits))
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().copied()
    }

    fn error(&self) -> Option<&[u8]> {
        self.error
    }

    fn number(&self, field: Number) -> Option<i64> {
        let number = match field {
            Number::Priority => return Some(self.priority),
            Number::Attempt => Some(self.attempt),
            Number::Crashes => Some(self.crashes),
            Number::Generation => Some(self.generation),
            Number::Created => Some(self.created_ms),
            Number::RunAt => self.run_at_ms,
            Number::Enqueued => self.enqueued_ms,
            Number::Started => self.started_ms,
            Number::Finished => self.finished_ms,
        };
        number.map(|number| i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn args(&self) -> &[u8] {
        self.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::codec::Writer;

    #[test]
    fn a_fingerprint_is_the_last_line_and_nothing_else() {
        let found = |traceback: &str| {
            let mut error = Writer::new();
            error.array(3).str("ValueError").str("no").str(traceback);
            fingerprint(error.as_bytes()).map(str::to_owned)
        };
        assert_eq!(found("Traceback\n\nFingerprint: 0123456789abcdef\n").as_deref(), Some("0123456789abcdef"));
        assert_eq!(found("\nFingerprint: one\n\nFingerprint: two\n").as_deref(), Some("two"));
        assert_eq!(found("\nFingerprint: one\nmore\n"), None);
        assert_eq!(found("\nFingerprint: one"), None);
        assert_eq!(found("Fingerprint: one\n"), None);
        assert_eq!(found(""), None);
        assert_eq!(fingerprint(b"no error"), None);
    }
}
