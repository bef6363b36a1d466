//! Feature levels: a new command is used only when every member knows it.
//!
//! A member stops at a command that it does not know, as skipping it would make it differ from the others. So during a
//! rolling upgrade nobody may write one that an older member lacks. The cluster has a level, raised by `SetLevel` when
//! all members run the new version; until then the new commands are refused by everyone alike, and going back to the
//! old version is possible.

use super::command::Command;
use super::outcome::Refusal;

/// The highest level that this version knows. A state of a higher one, or the command that raises it, stops this version.
pub const LEVEL: u64 = 1;

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

    fn reaches(self, needed: u64) -> Result<(), Refusal> {
        if needed <= self.0 {
            return Ok(());
        }
        Err(Refusal::feature_level(needed, self.0))
    }
}

/// The level that a command needs. Every command is named, so that a new one cannot be forgotten.
fn needed(command: &Command<'_>) -> u64 {
    match command {
        Command::OpenSession(_) | Command::CloseSession(_) | Command::ExpireSession(_) => 1,
        Command::Enqueue { .. } | Command::Claim(_) | Command::Finish(_) | Command::Progress(_) => 1,
        Command::Cancel { .. } | Command::Requeue(_) | Command::Delete(_) | Command::Restore(_) => 1,
        Command::PauseQueue { .. } | Command::ResumeQueue(_) => 1,
        Command::Tick { .. } | Command::Evict { .. } => 1,
        Command::PutMember(_) | Command::DropMember(_) | Command::Digest { .. } | Command::SetLevel(_) => 1,
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
