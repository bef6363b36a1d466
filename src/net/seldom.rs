//! Log lines that somebody outside can cause: a few in a while, then their number.

use crate::base::sync::Mutex;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Lets a number of lines through in each period.
pub struct Seldom {
    lines: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    since: Option<Instant>,
    shown: u32,
    hidden: u64,
}

impl Seldom {
    pub fn new(lines: u32, period: Duration) -> Self {
        Self { lines, period, state: Mutex::default() }
    }

    pub fn warn(&self, line: impl Display) {
        if let Some(hidden) = self.turn(Instant::now()) {
            match hidden {
                0 => log::warn!("{line}"),
                _ => log::warn!("{line} (and {hidden} more lines like this before)"),
            }
        }
    }

    /// How many lines were left out before this one. Nothing: this one is left out too.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| now - since >= self.period) {
            (state.since, state.shown) = (Some(now), 0);
        }
        if state.shown == self.lines {
            state.hidden += 1;
            return None;
        }
        state.shown += 1;
        Some(std::mem::take(&mut state.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_are_shown_and_the_others_counted() {
        let seldom = Seldom::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let turns: Vec<_> = [0, 1, 2, 3, 59, 60, 61, 62].map(|s| seldom.turn(start + Duration::from_secs(s))).into();
        assert_eq!(turns, [Some(0), Some(0), None, None, None, Some(3), Some(0), None]);
    }
}
