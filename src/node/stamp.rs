//! Cluster time: the wall clock, but a jump of more than a minute is not believed.
//!
//! What holds (T1, T2)
//! * It never goes back, also not over a restart.
//! * Between two readings it moves by what the monotonic clock moved, give or take `JUMP_MAX`; a larger jump of the wall
//!   clock, forwards or backwards, raises an alarm and is ignored until the two agree again or the node is restarted.
//! * A new leader continues where the log is, if its own time is far behind that; else its clocks count as before. So a
//!   wall clock that jumped while its node followed is not believed when the node leads.

use crate::base::planted::{has, Bug};
use crate::base::Millis;

/// The largest step of the wall clock against the monotonic one that is followed.
const JUMP_MAX: Millis = Millis(60_000);

/// Cluster time from two readings at a time.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// A moment on both clocks when they were last believed together.
    wall: Millis,
    monotonic: Millis,
    latest: Millis,
    jump: Option<String>,
}

impl Stamp {
    /// Begins with the readings of both clocks and the newest stamp of the log.
    pub fn new(wall: Millis, monotonic: Millis, latest: Millis) -> Self {
        let mut stamp = Self { wall, monotonic, latest, jump: None };
        if latest.since(wall) > JUMP_MAX {
            // The log is ahead of the clock. Standing still until the clock is there would stop every schedule.
            stamp.jump = Some(describe("behind the log", latest.since(wall)));
            stamp.wall = latest;
        }
        stamp
    }

    /// The time for the next entry.
    pub fn now(&mut self, wall: Millis, monotonic: Millis) -> Millis {
        let expected = self.wall.plus(monotonic.since(self.monotonic));
        let (ahead, behind) = (wall.since(expected), expected.since(wall));
        if ahead > JUMP_MAX {
            self.jump = Some(describe("ahead of the elapsed time", ahead));
            self.latest = self.latest.max(expected);
        } else if behind > JUMP_MAX {
            self.jump = Some(describe("behind the elapsed time", behind));
            self.latest = self.latest.max(expected);
        } else {
            self.jump = None;
            (self.wall, self.monotonic) = (wall, monotonic);
            self.latest = self.latest.max(wall);
        }
        self.latest
    }

    /// This node leads from now on; the newest stamp of the log is `latest`.
    pub fn lead(&mut self, wall: Millis, monotonic: Millis, latest: Millis) {
        if has(Bug::JumpBelieved) {
            *self = Self::new(wall, monotonic, latest);
        }
        let behind = latest.since(self.now(wall, monotonic));
        if behind > JUMP_MAX {
            *self = Self { latest: self.latest, ..Self::new(wall, monotonic, latest) };
        }
    }

    /// Why the wall clock is not followed at the moment.
    pub fn alarm(&self) -> Option<&str> {
        self.jump.as_deref()
    }
}

fn describe(how: &str, by: Millis) -> String {
    format!("the wall clock is {} s {how}; it is not followed until it is right or the node is restarted", by.0 / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, monotonic: u64) -> (Millis, Millis) {
        (Millis(wall), Millis(monotonic))
    }

    #[test]
    fn follows_small_steps_and_never_goes_back() {
        let mut stamp = Stamp::new(Millis(1_000_000), Millis(0), Millis(0));
        let mut read = |(wall, monotonic)| stamp.now(wall, monotonic).0;
        assert_eq!(read(at(1_000_100, 100)), 1_000_100);
        assert_eq!(read(at(1_050_000, 200)), 1_050_000);
        assert_eq!(read(at(1_000_300, 300)), 1_050_000, "a step back stands still");
        assert_eq!(read(at(1_050_500, 400)), 1_050_500);
    }

    #[test]
    fn ignores_a_jump_and_says_so_until_the_clock_is_right() {
        let mut stamp = Stamp::new(Millis(1_000_000), Millis(0), Millis(0));
        assert_eq!(stamp.now(Millis(9_000_000), Millis(1_000)).0, 1_001_000);
        assert!(stamp.alarm().is_some_and(|text| text.contains("ahead")));
        assert_eq!(stamp.now(Millis(9_001_000), Millis(2_000)).0, 1_002_000);
        assert_eq!(stamp.now(Millis(1_003_000), Millis(3_000)).0, 1_003_000);
        assert!(stamp.alarm().is_none());
        assert_eq!(stamp.now(Millis(100), Millis(4_000)).0, 1_004_000, "a jump back does not stop the time");
        assert!(stamp.alarm().is_some_and(|text| text.contains("behind")));
    }

    #[test]
    fn continues_a_log_that_is_ahead_of_the_clock() {
        let mut stamp = Stamp::new(Millis(1_000), Millis(0), Millis(10_000_000));
        assert_eq!(stamp.now(Millis(1_500), Millis(500)).0, 10_000_500);
        assert!(stamp.alarm().is_some());
    }

    #[test]
    fn t2_a_clock_that_jumped_while_its_node_followed_is_not_believed_when_it_leads() {
        let mut stamp = Stamp::new(Millis(1_000_000), Millis(0), Millis(1_000_000));
        stamp.lead(Millis(9_000_000), Millis(5_000), Millis(1_004_000));
        assert_eq!(stamp.now(Millis(9_001_000), Millis(6_000)).0, 1_006_000);
        assert!(stamp.alarm().is_some_and(|text| text.contains("ahead")));
    }

    #[test]
    fn a_new_leader_continues_a_log_that_is_ahead() {
        let mut stamp = Stamp::new(Millis(1_000), Millis(0), Millis(1_000));
        stamp.lead(Millis(2_000), Millis(1_000), Millis(10_000_000));
        assert_eq!(stamp.now(Millis(2_500), Millis(1_500)).0, 10_000_500);
        stamp.lead(Millis(3_000), Millis(2_000), Millis(10_000_600));
        assert_eq!(stamp.now(Millis(3_500), Millis(2_500)).0, 10_001_500, "it goes on as before");
    }
}
