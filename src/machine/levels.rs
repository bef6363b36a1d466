//! Feature levels: a new command is used only when every member knows it.
//!
//! A member stops at a command that it does not know, as skipping it would make it differ from the others. So during a
//! rolling upgrade nobody may write one that an older member lacks. The cluster has a level, raised by `SetLevel` when
//! all members run the new version; until then the new commands are refused by everyone alike, and going back to the
//! old version is possible.

use super::command::Command;
use super::finish::Finish;
use super::limit::{Limit, Limits};
use super::outcome::Refusal;

/// The highest level that this version knows. A state of a higher one, or the command that raises it, stops this version.
///
/// | level | brought                                                          |
/// |-------|------------------------------------------------------------------|
/// | 1     | everything up to `SetLevel`                                      |
/// | 2     | tokens, invitations and notes of who did what; locks              |
/// | 3     | recurring schedules, and jobs that come from them                 |
/// | 4     | jobs that wait for others, and batches; semaphores and read-write locks; limits of jobs and queues; slots of schedules for workers and backfills; reasons of snoozes; other options for jobs that wait |
/// | 5     | errors counted by fingerprint; keys that take turns; overlap of schedules judged by all of their jobs |
pub const LEVEL: u64 = 5;

/// The level that brought tokens, invitations and notes.
pub(super) const ACCESS: u64 = 2;
/// The level that brought locks.
pub(super) const LOCKS: u64 = 2;
/// The level that brought recurring schedules.
pub(super) const SCHEDULES: u64 = 3;
/// The level that brought dependencies and batches.
pub(super) const FLOWS: u64 = 4;
/// The level that brought locks which several may hold: semaphores and read-write locks.
pub(super) const SHARED_LOCKS: u64 = 4;
/// The level that brought limits.
pub(super) const LIMITS: u64 = 4;
/// The level that tells workers which slot of a schedule their job has, and lets a past one be filled in.
pub(super) const SLOTS: u64 = 4;
/// The level that lets a snoozed job say why it waits.
pub(super) const SNOOZE_REASONS: u64 = 4;
/// The level that brought other queues and priorities for jobs that wait.
pub(super) const CHANGES: u64 = 4;
/// The level from which errors are counted.
pub(super) const ERRORS: u64 = 5;
/// The level from which a job that was triggered or filled in hides no other of its schedule.
pub(super) const OVERLAPS: u64 = 5;
/// The level that brought keys which take turns.
pub(super) const TURNS: u64 = 5;

/// An operation of the next version, for simulations of clusters in which some members run it already.
#[cfg(feature = "sim")]
pub const FUTURE: u64 = 255;

#[cfg(feature = "sim")]
thread_local! {
    static NEWER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(feature = "sim")]
static ALL_NEWER: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Whether this thread acts as the next version from here on: it knows one level and one operation more.
#[cfg(feature = "sim")]
pub fn be_newer(newer: bool) {
    NEWER.set(newer);
}

/// This process is the next version, with all its threads: one member of a real cluster.
#[cfg(feature = "sim")]
pub fn be_newer_everywhere() {
    ALL_NEWER.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// The highest level that this member knows.
pub fn known() -> u64 {
    #[cfg(feature = "sim")]
    if NEWER.get() || ALL_NEWER.load(std::sync::atomic::Ordering::Relaxed) {
        return LEVEL + 1;
    }
    LEVEL
}

/// Why this version stops at something of a newer one, and what to do.
pub(super) fn too_old(what: &str) -> String {
    format!(
        "{what} is not known to this version of raftwork, which knows feature level {}: upgrade this node; `raftwork cluster \
         members` shows what the others run",
        known()
    )
}

/// The level of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub u64);

impl Default for Level {
    fn default() -> Self {
        Level(1)
    }
}

impl Level {
    /// Refuses a command that some member may not know yet.
    pub(super) fn admit(self, command: &Command<'_>) -> Result<(), Refusal> {
        self.reaches(needed(command))
    }

    pub(super) fn has(self, level: u64) -> bool {
        level <= self.0
    }

    pub(super) fn reaches(self, needed: u64) -> Result<(), Refusal> {
        if self.has(needed) {
            return Ok(());
        }
        Err(Refusal::feature_level(needed, self.0))
    }
}

/// The level that a command needs. Every command is named, so that a new one cannot be forgotten.
pub(super) fn needed(command: &Command<'_>) -> u64 {
    let turns = |limits: Option<&Limits>| limits.is_some_and(|all| Limit::take_turns(all));
    match command {
        Command::OpenSession(_) | Command::CloseSession(_) | Command::ExpireSession(_) => 1,
        Command::Enqueue { jobs, .. } if jobs.iter().any(|job| turns(job.limits.as_ref())) => TURNS,
        Command::Restore(records) if records.iter().any(|record| turns(record.job.limits())) => TURNS,
        Command::PutSchedule(put) if turns(put.plan.limits.as_ref()) => TURNS,
        Command::Enqueue { jobs, .. } if jobs.iter().any(|job| job.joining.is_some()) => FLOWS,
        Command::Enqueue { jobs, .. } if jobs.iter().any(|job| job.limits.is_some()) => LIMITS,
        Command::Restore(records) if records.iter().any(|record| record.job.limits().is_some()) => LIMITS,
        Command::PutSchedule(put) if put.plan.limits.is_some() => LIMITS,
        Command::LimitQueue { .. } => LIMITS,
        Command::TriggerSchedule { slot: Some(_), .. } => SLOTS,
        Command::Finish(results) if results.iter().any(Finish::snoozes_with_reason) => SNOOZE_REASONS,
        Command::Change(_) => CHANGES,
        Command::Enqueue { .. } | Command::Claim(_) | Command::Finish(_) | Command::Progress(_) => 1,
        Command::Cancel { .. } | Command::Requeue(_) | Command::Delete(_) => 1,
        Command::Restore(records) if records.iter().any(|record| record.job.flow().is_some()) => FLOWS,
        Command::Restore(records) if records.iter().any(|record| record.job.recurrence().is_some()) => SCHEDULES,
        Command::Restore(_) => 1,
        Command::PauseQueue { .. } | Command::ResumeQueue(_) => 1,
        Command::Tick { .. } | Command::Evict { .. } => 1,
        Command::PutMember(_) | Command::DropMember(_) | Command::Digest { .. } | Command::SetLevel(_) => 1,
        Command::PutToken(_) | Command::RevokeToken { .. } | Command::Note(_) => ACCESS,
        Command::PutInvitation { .. } | Command::UseInvitation { .. } => ACCESS,
        Command::Lock { .. } | Command::Unlock { .. } | Command::GiveUp(_) => LOCKS,
        Command::Acquire { .. } => SHARED_LOCKS,
        Command::PutSchedule(_) | Command::DeleteSchedule(_) | Command::PauseSchedule { .. } => SCHEDULES,
        Command::FireSchedule { .. } | Command::MoveSchedule(_) | Command::TriggerSchedule { .. } => SCHEDULES,
        Command::OpenBatch { .. } | Command::SealBatch(_) | Command::CancelBatch { .. } => FLOWS,
        #[cfg(feature = "sim")]
        Command::Future => LEVEL + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u3_a_command_above_the_level_is_refused_with_what_to_do() {
        assert_eq!(Level(1).reaches(1), Ok(()));
        assert_eq!(Level(3).reaches(2), Ok(()));
        let refusal = Level(1).reaches(2).unwrap_err();
        assert_eq!(refusal.code, "feature_level");
        assert!(refusal.message.contains("level 2") && refusal.message.contains("finalize"), "{}", refusal.message);
    }

    #[test]
    fn u3_this_version_uses_no_command_above_what_it_knows() {
        assert!(needed(&Command::Digest { index: crate::base::LogIndex(1), digest: 1 }) <= LEVEL);
        assert!(Level::default().0 <= LEVEL);
    }
}
