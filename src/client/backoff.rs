//! Pauses between tries to find an owner.
//!
//! Each is up to twice as long as the one before. Far away, where many clients lose the same node in one moment, none comes
//! back together with the others: a pause lasts between a half and the whole of its span.
//!
//! Whoever is refused for what it shows comes back the more seldom, as that changes rarely.

use std::time::{Duration, Instant};

use crate::base::limits;
use crate::net::random;

/// The first pause: short, as a take-over is to be over soon.
const FIRST: Duration = Duration::from_millis(2);
/// The longest while an owner may come at any moment.
const MOST: Duration = Duration::from_millis(50);
/// For so long: an election or two.
const SOON: Duration = Duration::from_secs(3);
/// The longest after that, to a cluster: each try is a handshake with each of its members.
const MOST_FAR: Duration = Duration::from_secs(1);

/// The first and the longest after a refusal of the token.
const REFUSED: Duration = Duration::from_secs(1);
const REFUSED_MOST: Duration = Duration::from_millis(limits::DENIED_PAUSE_MS);

pub struct Backoff {
    began: Instant,
    span: Duration,
    refused: Duration,
    far: bool,
}

impl Backoff {
    /// `far`: what is sought is a cluster, not the owner of a directory on this machine.
    pub fn new(far: bool, now: Instant) -> Self {
        Self { began: now, span: FIRST, refused: REFUSED, far }
    }

    /// After a try that found nobody.
    pub fn next(&mut self, now: Instant) -> Duration {
        let most = if self.far && now - self.began > SOON { MOST_FAR } else { MOST };
        let span = self.span;
        self.span = (span * 2).min(most);
        self.about(span)
    }

    /// After a try that found somebody who knows that this client may not be let in.
    pub fn refused(&mut self) -> Duration {
        let span = self.refused;
        self.refused = (span * 2).min(REFUSED_MOST);
        self.about(span)
    }

    /// A span, or as much of it as chance says where others may wait for the same.
    pub fn about(&self, span: Duration) -> Duration {
        if !self.far {
            return span;
        }
        // Without random bytes it is the shortest pause.
        let share = random().map_or(0, u32::from_le_bytes);
        span / 2 + (span / 2).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_on_this_machine_double_and_stay_short() {
        let began = Instant::now();
        let mut backoff = Backoff::new(false, began);
        let spans: Vec<_> = (0..7).map(|_| backoff.next(began).as_millis()).collect();
        assert_eq!(spans, [2, 4, 8, 16, 32, 50, 50]);
        assert_eq!(backoff.next(began + 60_000 * MS), 50 * MS);
    }

    #[test]
    fn who_is_refused_comes_back_more_and_more_seldom() {
        let mut backoff = Backoff::new(true, Instant::now());
        for whole in [1, 2, 4, 8, 16, 30, 30] {
            let pause = backoff.refused();
            assert!((whole * 500 * MS..=whole * 1_000 * MS).contains(&pause), "{pause:?} of {whole} s");
        }
    }

    #[test]
    fn clients_of_a_cluster_that_stays_away_ask_seldom_and_not_together() {
        let began = Instant::now();
        let mut backoff = Backoff::new(true, began);
        for whole in [2, 4, 8, 16, 32, 50, 50] {
            assert!((whole * MS / 2..=whole * MS).contains(&backoff.next(began)));
        }
        let late = began + SOON + MS;
        let mut seen = Vec::new();
        for whole in [50, 100, 200, 400, 800, 1_000, 1_000, 1_000] {
            let pause = backoff.next(late);
            assert!((whole * MS / 2..=whole * MS).contains(&pause), "{pause:?} of {whole} ms");
            seen.push(pause);
        }
        assert!(seen[5] != seen[6] || seen[6] != seen[7], "{seen:?}");
    }
}
