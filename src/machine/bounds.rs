//! How much the state may hold by the settings of a node. The node judges at its door, before a request enters the log:
//! what the members apply is the same on all of them, whatever their settings are. The limits of this version, which
//! `moves::room` knows, hold in any case.

use super::command::{self, Command};
use super::Machine;
use crate::base::{limits, Error, Result};

/// No job takes fewer bytes of a request: its id and its frame.
const JOB_BYTES_MIN: usize = 20;

/// What a node accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Jobs in memory, those that finished and are not archived yet included.
    pub jobs: usize,
    /// Bytes of the state by its own estimate. One request may go beyond.
    pub bytes: u64,
}

impl Default for Bounds {
    /// As much as this version can.
    fn default() -> Self {
        Self { jobs: limits::JOBS_MAX, bytes: limits::MACHINE_BYTES_MAX }
    }
}

impl Machine {
    /// Whether requests of so many bytes fit whatever they bring, so that none of them need be read.
    pub fn fits(&self, bounds: &Bounds, request_bytes: usize) -> bool {
        self.bytes <= bounds.bytes && self.table.len() + request_bytes / JOB_BYTES_MIN <= bounds.jobs
    }

    /// Refuses a request that brings more than there is room for. `ahead` counts the jobs of those that were let in and are
    /// not applied yet.
    ///
    /// # Errors
    /// `Overloaded`.
    pub fn let_in(&self, bounds: &Bounds, request: &[u8], ahead: &mut usize) -> Result<()> {
        let Ok(asked) = command::decode(request) else { return Ok(()) };
        let Some(jobs) = brings(&asked.command) else { return Ok(()) };
        if self.session(asked.session).is_some_and(|session| session.replies.kept.contains_key(&asked.sequence)) {
            return Ok(()); // It was applied, and gets its first answer (L5).
        }
        if self.table.len() + *ahead + jobs > bounds.jobs {
            let held = self.table.len();
            return Err(Error::Overloaded(format!("{held} jobs are in memory, and {} may be (max_jobs)", bounds.jobs)));
        }
        if self.bytes > bounds.bytes {
            let (held, most) = (self.bytes, bounds.bytes);
            return Err(Error::Overloaded(format!("jobs take {held} bytes, and {most} they may (max_state_bytes)")));
        }
        *ahead += jobs;
        Ok(())
    }
}

/// How many jobs a command brings into memory. Nothing: it needs no room there, or is let in however little there is, as what
/// comes back from the archive: to the request behind it, a retry or a deletion, it would not be there at all.
fn brings(command: &Command<'_>) -> Option<usize> {
    match command {
        Command::Enqueue { jobs, .. } => Some(jobs.len()),
        Command::FireSchedule { jobs, .. } => Some(jobs.len()),
        Command::TriggerSchedule { .. } => Some(1),
        Command::PutSchedule(_) | Command::OpenBatch { .. } => Some(0),
        _ => None,
    }
}
