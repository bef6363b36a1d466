//! What is counted, and how long things took: numbers that only grow, without any lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::{Error, LogIndex, Result};

/// Upper ends of the buckets of every histogram, in microseconds: from a sync of a fast disk to an election.
pub(super) const BUCKETS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// How long something took, each time.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One more than there are ends: what took longer than all of them.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn add(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let place = BUCKETS_US.partition_point(|end| *end < micros);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many took at most as long as each end, and how many in all; and their sum.
    pub fn cumulated(&self) -> (Vec<u64>, u64) {
        let mut upto = 0;
        let counts = self.buckets.iter().map(|bucket| {
            upto += bucket.load(Ordering::Relaxed);
            upto
        });
        (counts.collect(), self.sum_us.load(Ordering::Relaxed))
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counted by the one who drives, and by those who talk to other members.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Requests that were taken out of the inbox, and those of them that were handed to the leader.
    pub proposals: Counter,
    pub forwards: Counter,
    /// Answers of which nobody knows whether it was done, and those that say for certain that it was not.
    pub unknown: Counter,
    pub refused: Counter,
    pub leases_lost: Counter,
    pub sessions_ended: Counter,
    pub elections: Counter,
    pub leader_changes: Counter,
    pub snapshots_installed: Counter,
    pub snapshot_bytes_sent: Counter,
    pub snapshot_bytes_received: Counter,
    pub letters_sent: Counter,
    pub letters_received: Counter,
    pub letters_dropped: Counter,
    /// From the first request of a group in the inbox until the group is taken out.
    pub waits: Histogram,
    /// From then until it is applied here, for groups that this node proposed as the leader.
    pub commits: Histogram,
    /// Applying what one turn found committed.
    pub applies: Histogram,
}

impl Counters {
    /// Answers of a turn.
    pub fn answered<T>(&self, answers: &[(T, Result<Vec<u8>>)]) {
        for (_, answer) in answers {
            match answer {
                Ok(_) => {}
                Err(Error::Unknown(_) | Error::TimedOut(_)) => self.unknown.add(1),
                Err(_) => self.refused.add(1),
            }
        }
    }
}

/// Groups that were proposed here and are not applied yet: where each ends, and since when.
#[derive(Debug, Default)]
pub(super) struct Underway(VecDeque<(LogIndex, Instant)>);

impl Underway {
    pub fn proposed(&mut self, last: LogIndex, since: Instant) {
        self.0.push_back((last, since));
    }

    pub fn applied(&mut self, upto: LogIndex, times: &Histogram) {
        while self.0.front().is_some_and(|(last, _)| *last <= upto) {
            if let Some((_, since)) = self.0.pop_front() {
                times.add(since.elapsed());
            }
        }
    }

    /// This node leads no longer: what became of them is not known here.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_time_in_its_bucket_and_all_above() {
        let times = Histogram::default();
        for micros in [1, 50, 51, 1_000, 20_000_000] {
            times.add(Duration::from_micros(micros));
        }
        let (counts, sum_us) = times.cumulated();
        assert_eq!(counts[..5], [2, 3, 3, 3, 4]);
        assert_eq!((counts[BUCKETS_US.len() - 1], counts[BUCKETS_US.len()]), (4, 5));
        assert_eq!(sum_us, 20_001_102);
    }
}
