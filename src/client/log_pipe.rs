//! Lines of the log, into a pipe that somebody else reads: a thread of Python, which hands them on to `logging`.
//!
//! A thread that logs waits for nobody, neither for Python nor for whoever reads the error stream: a write to the pipe
//! takes no lock, and is whole or does not happen. What finds no room is counted, and told before the next line.
//!
//! A line is `LEVEL TARGET MESSAGE\n`; levels are ERROR, WARN, INFO. Nothing is logged before somebody asked for the pipe.

use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::base::{Error, Result};

/// What the kernel writes to a pipe as a whole (PIPE_BUF).
const LINE_BYTES_MAX: usize = 4_096;

static LINES: OnceLock<Lines> = OnceLock::new();

/// The logger, and its pipe.
struct Lines {
    reader: PipeReader,
    writer: PipeWriter,
    /// Lines that found no room.
    lost: AtomicU64,
}

/// The ends of the pipe, for reading and for writing. A forked child puts a pipe of its own behind the same numbers.
pub fn ends() -> Result<(RawFd, RawFd)> {
    if LINES.get().is_none() {
        let made = Lines::new()?;
        let lines = LINES.get_or_init(|| made);
        // Refused if another thread was here first.
        if log::set_logger(lines).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
    }
    let lines = LINES.get().ok_or(Error::Closed)?;
    Ok((lines.reader.as_raw_fd(), lines.writer.as_raw_fd()))
}

impl Lines {
    fn new() -> Result<Self> {
        let failed = |error: std::io::Error| Error::disk("make", "a pipe for log lines", &error);
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        rustix::io::ioctl_fionbio(&writer, true).map_err(|error| failed(error.into()))?;
        Ok(Lines { reader, writer, lost: AtomicU64::new(0) })
    }

    /// The line, behind one about those that were lost since the last one that was written.
    fn write(&self, level: Level, target: &str, message: &str) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let told = match lost {
            0 => String::new(),
            _ => line(Level::Warn, module_path!(), &format!("{lost} lines of this log were lost here"), LINE_BYTES_MAX),
        };
        let line = line(level, target, message, LINE_BYTES_MAX - told.len());
        if (&self.writer).write_all((told + &line).as_bytes()).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("_core") || metadata.target().starts_with("raftwork");
        metadata.level() <= if own { Level::Info } else { Level::Warn }
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// One line, without another line inside, cut to so many bytes.
fn line(level: Level, target: &str, message: &str, bytes_max: usize) -> String {
    let mut line = format!("{level} {} {}", target.replace(' ', "_"), message.replace(['\n', '\r'], " "));
    if line.len() >= bytes_max {
        let end = (0..bytes_max - 4).rev().find(|place| line.is_char_boundary(*place)).unwrap_or(0);
        line.truncate(end);
        line.push_str("...");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn say(lines: &Lines, level: Level, target: &str, message: &str) {
        lines.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    #[test]
    fn who_logs_into_a_full_pipe_does_not_wait_and_the_loss_is_told() {
        let lines = Lines::new().unwrap();
        let many = 10_000;
        (0..many).for_each(|number| say(&lines, Level::Info, "_core::wal", &format!("line {number} {:80}", "")));
        let lost = lines.lost.load(Ordering::Relaxed);
        assert!((1..many).contains(&lost));
        let mut reader = BufReader::new(&lines.reader).lines();
        let kept: Vec<_> = (0..many - lost).map(|_| reader.next().unwrap().unwrap()).collect();
        assert!(kept.iter().enumerate().all(|(at, line)| line.starts_with(&format!("INFO _core::wal line {at} "))));
        say(&lines, Level::Error, "_core::wal", "after");
        assert_eq!(
            reader.next().unwrap().unwrap(),
            format!("WARN {} {lost} lines of this log were lost here", module_path!().trim_end_matches("::tests"))
        );
        assert_eq!(reader.next().unwrap().unwrap(), "ERROR _core::wal after");
    }

    #[test]
    fn of_others_only_warnings_are_logged() {
        let lines = Lines::new().unwrap();
        say(&lines, Level::Info, "sled::pagecache", "no");
        say(&lines, Level::Debug, "_core::wal", "no");
        say(&lines, Level::Warn, "sled::pagecache", "yes");
        assert_eq!(BufReader::new(&lines.reader).lines().next().unwrap().unwrap(), "WARN sled::pagecache yes");
    }

    #[test]
    fn a_line_is_one_line_that_is_written_as_a_whole() {
        assert_eq!(line(Level::Warn, "_core::wal", "two\nlines\r\n", 100), "WARN _core::wal two lines  \n");
        for length in (LINE_BYTES_MAX - 40..LINE_BYTES_MAX + 40).chain([100_000]) {
            let long = line(Level::Error, "t", &"é".repeat(length / 2), LINE_BYTES_MAX);
            assert!(long.len() <= LINE_BYTES_MAX && long.ends_with('\n'), "{length}");
            assert_eq!(long.ends_with("...\n"), length / 2 * 2 + "ERROR t ".len() >= LINE_BYTES_MAX, "{length}");
        }
    }
}
