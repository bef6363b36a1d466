//! Long work for which nobody waits, on cores that others need: it rests after each of its steps.
//!
//! Clients of a cluster on few cores notice a thread that computes for half a second, however low its priority is: the
//! scheduler lets each process have its turn. A thread that sleeps most of the time takes turns of a millisecond, and
//! those who answer requests run between.

use std::time::Duration;

/// How many times as long as its step a rest lasts: such work takes a fourth of one core.
const RESTS: u32 = 3;
/// A step that took this long was itself kept waiting: beyond it a rest grows no further.
const STEP_MAX: Duration = Duration::from_millis(10);

/// The rests of one piece of work. It reads no clock and does not sleep: its user does both.
#[derive(Debug)]
pub struct Pace {
    since: Duration,
    /// What may still be rested in all.
    left: Duration,
}

impl Pace {
    /// Work that begins at this time, on any clock that only goes forward, and rests for so long at most in all.
    pub const fn new(now: Duration, rests_max: Duration) -> Self {
        Self { since: now, left: rests_max }
    }

    /// A step ended now. How long to rest before the next one.
    pub fn rest(&mut self, now: Duration) -> Duration {
        let rest = (now.saturating_sub(self.since).min(STEP_MAX) * RESTS).min(self.left);
        self.left -= rest;
        self.since = now + rest;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rest_is_as_long_as_its_step_asks_and_all_rests_end() {
        let mut pace = Pace::new(100 * MS, 40 * MS);
        assert_eq!(pace.rest(102 * MS), 6 * MS);
        assert_eq!(pace.rest(108 * MS), Duration::ZERO, "the rest itself is no step");
        assert_eq!(pace.rest(500 * MS), 30 * MS, "a step that was kept waiting counts as a long one");
        assert_eq!(pace.rest(540 * MS), 4 * MS);
        assert_eq!(pace.rest(560 * MS), Duration::ZERO, "it rested for as long as it may");
        assert_eq!(Pace::new(MS, MS).rest(Duration::ZERO), Duration::ZERO, "a clock that stands");
    }
}
