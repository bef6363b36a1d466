//! raft-rs logs through slog. Warnings and errors go on to `log`; the rest tells about single messages and is dropped.

use slog::{o, Discard, Drain, Level, Logger, OwnedKVList, Record};

struct ToLog;

impl Drain for ToLog {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            Level::Critical | Level::Error => log::error!(target: "raftwork::raft", "{}", record.msg()),
            Level::Warning => log::warn!(target: "raftwork::raft", "{}", record.msg()),
            _ => {}
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.is_at_least(Level::Warning)
    }
}

/// The logger that raft-rs gets. Nothing is formatted unless the host program listens.
pub(super) fn logger() -> Logger {
    if log::max_level() < log::LevelFilter::Warn {
        return Logger::root(Discard, o!());
    }
    Logger::root(ToLog, o!())
}
