//! From what went wrong to a class of `raftwork.errors`, in one match. The classes are found by name when needed.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::codec::Reader;
use crate::base::{Error, JobId};
use crate::client::request::Failure;

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let (class, message) = words(error);
    build(py, class, &message, None).unwrap_or_else(|broken| broken)
}

/// The exception for a failure: an error, or a refusal of the state machine.
pub fn raise_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    let Failure::Refused { code, message, details } = failure else {
        let Failure::Error(error) = failure else { unreachable!("a failure is one of two things") };
        return raise(py, error);
    };
    let (class, message, job) = match code.as_str() {
        "conflict" => {
            ("UniqueConflict", format!("{message}. Nothing was stored; use the existing job."), conflict_in(details))
        }
        "not_found" => ("JobNotFound", format!("{message}, or its retention is over."), job_in(details)),
        "lease_lost" => ("LeaseLost", format!("{message}. Another worker may run the job now; stop."), job_in(details)),
        "wrong_state" => ("WrongState", message.clone(), job_in(details)),
        "overloaded" => ("Overloaded", format!("{message}. Nothing was accepted; try again a little later."), None),
        "invalid" => ("InvalidOption", format!("{message}. Nothing was changed."), None),
        "session_expired" | "stale_sequence" => ("SessionExpired", message.clone(), None),
        _ => ("StorageError", format!("refused ({code}): {message}"), None),
    };
    build(py, class, &message, job).unwrap_or_else(|broken| broken)
}

fn words(error: &Error) -> (&'static str, String) {
    match error {
        Error::Invalid(_) => ("InvalidOption", format!("{error}. Nothing was sent.")),
        Error::NotCommitted(_) => ("NotCommitted", format!("{error}. It will never take effect; send it again.")),
        Error::Unknown(_) => ("OutcomeUnknown", format!("{error}. Look the job up before you send it again.")),
        Error::Overloaded(_) => ("Overloaded", format!("{error}. Nothing was accepted; try again a little later.")),
        Error::TimedOut(_) => ("TimedOut", format!("{error}. Wait longer, or look again later.")),
        Error::NotFound(_) => ("JobNotFound", format!("{error}. It was deleted, or its retention is over.")),
        Error::DiskFull(_) => ("DiskFull", format!("{error}. Make room; the node goes on by itself.")),
        Error::Disk { operation: "connect to", path, message } => (
            "ClusterUnreachable",
            format!("{path} does not answer: {message}. Start the member, or correct the address."),
        ),
        Error::Disk { .. } => {
            ("DiskError", format!("{error}. Check the disk; the directory is opened again by itself when it works."))
        }
        Error::Corrupt { .. } => ("CorruptData", format!("{error}. Run `raftwork doctor` on the directory.")),
        Error::Busy { path, holder } if path.starts_with("raftwork://") => (
            "ClusterUnreachable",
            format!("no member of {path} can answer ({holder}). Start the members, or correct the addresses."),
        ),
        Error::Busy { path, holder } if path.starts_with("the cluster of ") => (
            "ClusterUnreachable",
            format!("{path} is not there: {holder}. Start the others within a minute of this one."),
        ),
        Error::Busy { .. } => ("DirectoryBusy", format!("{error}, which does not answer. End it, or try again.")),
        Error::Foreign(_) => ("ForeignDirectory", format!("{error}.")),
        Error::Poisoned(_) => ("NodeFailed", format!("{error}. Start the process again; it reads the disk afresh.")),
        Error::Closed => ("NotRunning", "the storage is closed. Open it again.".into()),
        Error::SessionExpired => {
            ("SessionExpired", "the session ended; its leases are gone. Open a new one and stop its jobs.".into())
        }
        Error::Forked => (
            "ForkedProcess",
            "opened by the parent of this process; threads do not survive a fork. Open a new one.".into(),
        ),
    }
}

fn build(py: Python<'_>, class: &str, message: &str, job: Option<JobId>) -> PyResult<PyErr> {
    let class = py.import("raftwork.errors")?.getattr(class)?;
    let Some(job) = job else { return Ok(PyErr::from_value(class.call1((message,))?)) };
    let bytes = PyBytes::new(py, &job.0);
    let uuid = py.import("uuid")?.getattr("UUID")?.call1((py.None(), bytes))?;
    Ok(PyErr::from_value(class.call1((message, uuid))?))
}

/// `[position, id of the job that holds the key]`.
fn conflict_in(details: &[u8]) -> Option<JobId> {
    let mut reader = Reader::new(details);
    reader.array().ok()?;
    reader.u64().ok()?;
    reader.id().ok()
}

fn job_in(details: &[u8]) -> Option<JobId> {
    Reader::new(details).id().ok()
}
