//! Nodes that fail in the same way again and again: a panic while an entry is applied comes back with the entry, each time
//! the directory is opened. After `CRASHES_MAX` of them this process gives up, and whoever asks is told why.

use std::path::Path;

use crate::base::{Error, LogIndex};

/// Panics behind the same entry, in one process, after which it does not open the directory any more.
const CRASHES_MAX: u32 = 3;

/// The panics of nodes of this process, as long as the log gets no further between them.
#[derive(Debug, Default)]
pub(super) struct Crashes {
    /// Up to here everything was applied.
    applied: Option<LogIndex>,
    count: u32,
}

impl Crashes {
    /// One more. Nothing as the entry: it came while the directory was opened, so the log got no further. True: it is one
    /// too many.
    pub fn add(&mut self, applied: Option<LogIndex>) -> bool {
        if applied.is_some() && applied != self.applied {
            (self.applied, self.count) = (applied, 0);
        }
        self.count += 1;
        self.count >= CRASHES_MAX
    }

    /// What to tell whoever asks from now on.
    pub fn error(&self, dir: &Path, why: &str) -> Error {
        let dir = dir.display();
        let at = self.applied.map(|applied| format!(" behind entry {applied}")).unwrap_or_default();
        Error::CrashLoop(format!(
            "the node in {dir} failed {} times in the same way{at}: {why}. To open the directory again does not mend that, so \
             this process does not. If the other members of its cluster work, bring this one back anew: mv {dir} \
             {dir}.crashed, run raftwork cluster replace ID, and start the node. If they fail as well, start all with the \
             version of raftwork that ran before; the answer of raftwork doctor {dir} belongs into the report",
            self.count
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_behind_the_same_entry_are_one_too_many() {
        let mut crashes = Crashes::default();
        let at = |index| Some(LogIndex(index));
        assert!(!crashes.add(at(7)) && !crashes.add(at(7)));
        assert!(!crashes.add(at(8)), "the log got further");
        assert!(!crashes.add(None));
        assert!(crashes.add(at(8)));
        let told = crashes.error(Path::new("/data"), "panic in a turn: odd").to_string();
        assert!(told.contains("/data failed 3 times in the same way behind entry 8: panic in a turn: odd"), "{told}");
    }

    #[test]
    fn three_failures_while_opening_are_one_too_many() {
        let mut crashes = Crashes::default();
        assert!(!crashes.add(None) && !crashes.add(None) && crashes.add(None));
    }
}
