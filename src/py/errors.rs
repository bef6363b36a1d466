//! From what went wrong to a class of `raftwork.errors`, in one match. The classes are found by name when needed.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::codec::Reader;
use crate::base::{Error, JobId, Millis};
use crate::client::request::Failure;

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    if let Error::Denied { principal, capability } = error {
        return denied(py, error, principal, capability).unwrap_or_else(|broken| broken);
    }
    let (class, message) = words(error);
    if let Error::TooStale { age, most } = error {
        return too_stale(py, &message, *age, *most).unwrap_or_else(|broken| broken);
    }
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
        "lock_lost" => ("LockLost", format!("{message}; others may have had it meanwhile."), None),
        "unknown_parent" => (
            "ParentMissing",
            format!("{message}. It was deleted, or its retention is over. Nothing was stored; enqueue without it."),
            conflict_in(details),
        ),
        "cycle" => (
            "FlowCycle",
            format!("{message}. Nothing was stored; enqueue it outside of the batch, or let it wait for a member."),
            conflict_in(details),
        ),
        "unknown_batch" => {
            ("BatchNotFound", format!("{message}, or it was forgotten, 14 days after it finished."), None)
        }
        "batch_closed" => ("WrongState", format!("{message}. Nothing was stored; open another one."), None),
        "lock_held" => ("LockHeld", format!("{message}. Release it first, or use an object of its own."), None),
        "lock_kind" => {
            ("LockMismatch", format!("{message}. Use one kind and one number everywhere, or another name."), None)
        }
        "lock_not_held" => ("LockNotHeld", format!("{message}. Acquire it first, with this same object."), None),
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
        Error::TooStale { .. } => (
            "TooStale",
            format!(
                "{error}: the node hears no leader, or was paused. Ask again in a moment, allow more with max_staleness, or \
                 ask for consistency=\"linearizable\"."
            ),
        ),
        Error::DiskFull(_) => ("DiskFull", format!("{error}. Make room; the node goes on by itself.")),
        Error::Disk { operation: "connect to", path, message } => (
            "ClusterUnreachable",
            format!("{path} does not answer: {message}. Start the member, or correct the address."),
        ),
        Error::Disk { operation: "listen at", path, message } => {
            ("ConfigError", format!("cannot listen at {path}: {message}. Free the port, or name another one."))
        }
        Error::Disk { .. } => {
            ("DiskError", format!("{error}. Check the disk; the directory is opened again by itself when it works."))
        }
        Error::Corrupt { message, .. } if message.ends_with(crate::backup::ADVICE) => {
            ("CorruptData", format!("{error}."))
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
        Error::Foreign(_) | Error::Member(_) => ("ForeignDirectory", format!("{error}.")),
        Error::Poisoned(_) => ("NodeFailed", format!("{error}. Start the process again; it reads the disk afresh.")),
        Error::Differs(_) => ("StateDiffers", format!("{error}.")),
        Error::CrashLoop(_) => ("CrashLoop", format!("{error}.")),
        Error::Closed => ("NotRunning", "the storage is closed. Open it again.".into()),
        Error::Denied { .. } => ("AccessDenied", format!("{error}. Nothing was changed.")),
        Error::Unauthenticated(_) => ("AccessDenied", format!("{error}.")),
        Error::SessionExpired => {
            ("SessionExpired", "the session ended; its leases are gone. Open a new one and stop its jobs.".into())
        }
        Error::Forked => (
            "ForkedProcess",
            "opened by the parent of this process; threads do not survive a fork. Open a new one.".into(),
        ),
    }
}

fn too_stale(py: Python<'_>, message: &str, age: Option<Millis>, most: Millis) -> PyResult<PyErr> {
    let class = py.import("raftwork.errors")?.getattr("TooStale")?;
    Ok(PyErr::from_value(class.call1((message, age.map(|age| age.0), most.0))?))
}

/// `AccessDenied` with who was denied what.
fn denied(py: Python<'_>, error: &Error, principal: &str, capability: &str) -> PyResult<PyErr> {
    let class = py.import("raftwork.errors")?.getattr("AccessDenied")?;
    let message = format!(
        "{error}. Nothing was changed. Use another token, or let an administrator make one with \
         `raftwork cluster token create`."
    );
    Ok(PyErr::from_value(class.call1((message, principal, capability))?))
}

fn build(py: Python<'_>, class: &str, message: &str, job: Option<JobId>) -> PyResult<PyErr> {
    let class = py.import("raftwork.errors")?.getattr(class)?;
    let Some(job) = job else { return Ok(PyErr::from_value(class.call1((message,))?)) };
    let bytes = PyBytes::new(py, &job.0);
    let uuid = py.import("uuid")?.getattr("UUID")?.call1((py.None(), bytes))?;
    Ok(PyErr::from_value(class.call1((message, uuid))?))
}

/// `[position, id of the job that holds the key, or of the parent]`.
fn conflict_in(details: &[u8]) -> Option<JobId> {
    let mut reader = Reader::new(details);
    reader.array().ok()?;
    reader.u64().ok()?;
    reader.id().ok()
}

fn job_in(details: &[u8]) -> Option<JobId> {
    Reader::new(details).id().ok()
}
