//! Whether a node over the network hangs: its kernel may keep the connection up while nothing comes any more.
//!
//! ```text
//! nothing came for so long ── ask it what costs it nothing ── HANG without a word ──> it hangs
//!    QUIET, since the last word or the first open question    where an answer is waited for
//!    QUIET_WATCHING, since the last word                      where only events are
//!    IDLE_WORD, since the last question                       in any case: the node ends connections that say nothing
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
const IDLE_WORD: Duration = Duration::from_millis(limits::IDLE_WORD_MS);
const HANG: Duration = Duration::from_millis(limits::HANG_MS);
/// A slower line is taken for a node that hangs.
const SLOWEST_BYTES_S: usize = 256 << 10;

/// What one side knows of the other's silence.
pub struct Silence {
    /// When the last word came.
    heard: Instant,
    /// When a question was asked while no other was without an answer.
    asked: Instant,
    /// When the last question was asked, besides others or not.
    spoke: Instant,
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
        Self { heard: now, asked: now, spoke: now, said: 0, knocked: None }
    }

    /// Something came.
    pub fn heard(&mut self, now: Instant) {
        (self.heard, self.said, self.knocked) = (now, 0, None);
    }

    /// A question of so many bytes was sent.
    pub fn said(&mut self, now: Instant, bytes: usize) {
        (self.spoke, self.said) = (now, self.said + bytes);
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
        let idle = self.spoke + IDLE_WORD;
        let left = answer.into_iter().chain(event).fold(idle, Instant::min).saturating_duration_since(now);
        if !left.is_zero() {
            // A question may come meanwhile.
            return Step::Wait(if waits || watches { left } else { left.min(QUIET) });
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
        silence.said(began, 4 * SLOWEST_BYTES_S);
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
                    silence.said(now, 10);
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
    fn who_waits_for_nothing_asks_nothing_until_it_is_idle_for_long() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        assert_eq!(silence.look(began + IDLE_WORD - QUIET - MS, false, false), Step::Wait(QUIET));
        assert_eq!(silence.look(began + IDLE_WORD - MS, false, false), Step::Wait(MS));
        let mut now = began + IDLE_WORD;
        for _ in 0..10 {
            assert_eq!(silence.look(now, false, false), Step::Knock(HANG), "or it loses its place");
            silence.said(now, 10);
            silence.heard(now + MS);
            assert_eq!(silence.look(now + IDLE_WORD - MS, false, false), Step::Wait(MS));
            now += IDLE_WORD;
        }
    }

    #[test]
    fn who_only_hears_says_a_word_now_and_then() {
        let began = Instant::now();
        let (mut silence, mut now, mut last) = (Silence::new(began), began, began);
        // One event after the other, and nothing to say about them.
        while now < began + 5 * IDLE_WORD {
            match silence.look(now, false, true) {
                Step::Knock(_) => {
                    silence.said(now, 10);
                    last = now;
                }
                step => assert!(matches!(step, Step::Wait(_)), "it lives"),
            }
            assert!(now - last <= IDLE_WORD + QUIET, "{:?}", now - last);
            now += QUIET;
            silence.heard(now);
        }
        assert!(last > began);
    }
}
