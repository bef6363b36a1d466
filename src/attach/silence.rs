//! Whether a node over the network hangs: its kernel may keep the connection up while nothing comes any more.
//!
//! ```text
//! nothing came for so long ── ask it what costs it nothing ── HANG without a word ──> it hangs
//!    QUIET, since the last word or the first open question    where an answer is waited for
//!    QUIET_WATCHING, since the last word                      where only events are
//! ```
//!
//! HANG is longer behind what was sent since the last word, as the question has to get through behind it.
//!
//! An idle worker watches and asks nothing but its signs of life. Were it as impatient as who waits for an answer, most of
//! what a node does for a thousand of them would be to say that it is there.

use crate::base::limits;
use std::time::{Duration, Instant};

/// See `Silence`. Also how long until the next look where nothing is waited for.
pub const QUIET: Duration = Duration::from_millis(limits::QUIET_MS);
const QUIET_WATCHING: Duration = Duration::from_millis(limits::QUIET_WATCHING_MS);
const HANG: Duration = Duration::from_millis(limits::HANG_MS);
/// A slower line is taken for a node that hangs.
const SLOWEST_BYTES_S: usize = 256 << 10;

/// What one side knows of the other's silence.
pub struct Silence {
    /// When the last word came.
    heard: Instant,
    /// When a question was asked while no other was without an answer.
    asked: Instant,
    /// Bytes that were sent since: the question stands behind them.
    said: usize,
    /// When it was asked whether it lives, if nothing came since.
    knocked: Option<Instant>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after so long.
    Wait(Duration),
    /// Ask whether it lives, and look again after so long.
    Knock(Duration),
    /// It hangs.
    Leave,
}

impl Silence {
    pub fn new(now: Instant) -> Self {
        Self { heard: now, asked: now, said: 0, knocked: None }
    }

    /// Something came.
    pub fn heard(&mut self, now: Instant) {
        (self.heard, self.said, self.knocked) = (now, 0, None);
    }

    /// So many bytes were sent.
    pub fn said(&mut self, bytes: usize) {
        self.said += bytes;
    }

    /// How long the question whether it lives may take: what was sent before it has to get through first.
    fn hang(&self) -> Duration {
        HANG + Duration::from_millis((self.said * 1_000 / SLOWEST_BYTES_S) as u64)
    }

    /// A question was asked while there was no other.
    pub fn asked(&mut self, now: Instant) {
        self.asked = now;
    }

    /// Looks, as somebody who waits for answers or for events.
    pub fn look(&mut self, now: Instant, waits: bool, watches: bool) -> Step {
        if let Some(knocked) = self.knocked {
            let left = (knocked + self.hang()).saturating_duration_since(now);
            return if left.is_zero() { Step::Leave } else { Step::Wait(left) };
        }
        let answer = waits.then(|| self.heard.max(self.asked) + QUIET);
        let event = watches.then(|| self.heard + QUIET_WATCHING);
        let Some(due) = answer.into_iter().chain(event).min() else { return Step::Wait(QUIET) };
        let left = due.saturating_duration_since(now);
        if !left.is_zero() {
            return Step::Wait(left);
        }
        self.knocked = Some(now);
        Step::Knock(self.hang())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_waits_for_an_answer_leaves_three_seconds_after_it_asked() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        // Nothing was said for long, as nothing was asked.
        let asked = began + 60 * QUIET;
        silence.asked(asked);
        assert_eq!(silence.look(asked, true, false), Step::Wait(QUIET), "the question is a chance to answer");
        assert_eq!(silence.look(asked + QUIET, true, false), Step::Knock(HANG));
        assert_eq!(silence.look(asked + QUIET + HANG - MS, true, false), Step::Wait(MS));
        assert_eq!(silence.look(asked + QUIET + HANG, true, false), Step::Leave);
    }

    #[test]
    fn a_large_question_has_time_to_get_through() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        silence.asked(began);
        silence.said(4 * SLOWEST_BYTES_S);
        let hang = HANG + Duration::from_secs(4);
        assert_eq!(silence.look(began + QUIET, true, false), Step::Knock(hang));
        assert_eq!(silence.look(began + QUIET + HANG, true, false), Step::Wait(hang - HANG));
        assert_eq!(silence.look(began + QUIET + hang, true, false), Step::Leave);
        silence.heard(began + QUIET + hang);
        assert_eq!(silence.look(began + 2 * QUIET + hang, true, false), Step::Knock(HANG), "it is through");
    }

    #[test]
    fn a_word_of_any_kind_ends_the_silence() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        assert_eq!(silence.look(began + QUIET, true, true), Step::Knock(HANG));
        silence.heard(began + QUIET + HANG - MS);
        assert_eq!(silence.look(began + QUIET + HANG, true, true), Step::Wait(QUIET - MS));
    }

    #[test]
    fn an_idle_watcher_knocks_once_between_two_signs_of_life() {
        let beat = Duration::from_millis(limits::SESSION_TTL_MS / 3);
        let (began, mut knocks) = (Instant::now(), 0);
        let mut silence = Silence::new(began);
        let (mut now, mut next_beat) = (began, began + beat);
        while now < began + 100 * beat {
            let left = match silence.look(now, false, true) {
                Step::Wait(left) => left,
                Step::Knock(_) => {
                    knocks += 1;
                    silence.heard(now + MS);
                    MS
                }
                Step::Leave => panic!("it answers"),
            };
            now = (now + left).min(next_beat);
            if now == next_beat {
                silence.asked(now);
                assert!(matches!(silence.look(now, true, true), Step::Wait(_)), "the sign of life is the question");
                silence.heard(now + 50 * MS);
                (now, next_beat) = (now + 50 * MS, now + beat);
            }
        }
        assert_eq!(knocks, 100);
    }

    #[test]
    fn who_waits_for_nothing_asks_nothing() {
        let began = Instant::now();
        assert_eq!(Silence::new(began).look(began + 60 * HANG, false, false), Step::Wait(QUIET));
    }
}
