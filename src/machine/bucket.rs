//! What a limiter remembers of the starts of its jobs: how many more a rate lets start now, on cluster time (T1), and when a
//! key had its last turn. A limit of concurrency has nothing to remember.

use std::collections::VecDeque;

use super::decode::{list, number, Place as _, Result};
use super::limit::{Kind, Limit};
use super::load::COUNTER_MAX;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, Millis};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bucket {
    None,
    /// What is missing to a full bucket at a time, in parts of a token: a window of milliseconds makes one token, and `n`
    /// parts come back in each.
    Tokens {
        at: Millis,
        missing: u64,
    },
    /// The newest starts and how many there were, oldest first.
    Sliding(VecDeque<(Millis, u64)>),
    /// Until when a window lasts, and the starts in it.
    Fixed {
        until: Millis,
        started: u64,
    },
    /// The place of the last start in the order of waiting, greater than that of every job that waited then; zero before the
    /// first.
    Turn(u64),
}

impl Bucket {
    /// Of a limit that nobody used yet.
    pub fn full(kind: Kind) -> Self {
        match kind {
            Kind::Concurrency => Bucket::None,
            Kind::Bucket => Bucket::Tokens { at: Millis(0), missing: 0 },
            Kind::Sliding => Bucket::Sliding(VecDeque::new()),
            Kind::Fixed => Bucket::Fixed { until: Millis(0), started: 0 },
            Kind::Fair => Bucket::Turn(0),
        }
    }

    /// How many may start now.
    pub fn room(&self, limit: &Limit, now: Millis) -> u64 {
        match self {
            Bucket::None | Bucket::Turn(_) => u64::MAX,
            Bucket::Tokens { .. } => capacity(limit).saturating_sub(self.missing(limit, now)) / limit.window.0,
            Bucket::Sliding(starts) => {
                let inside = starts.iter().filter(|(at, _)| at.plus(limit.window) > now);
                limit.n.saturating_sub(inside.map(|(_, count)| count).sum())
            }
            Bucket::Fixed { until, started } => limit.n.saturating_sub(if *until > now { *started } else { 0 }),
        }
    }

    /// One starts now.
    pub fn take(&mut self, limit: &Limit, now: Millis) {
        let left = self.missing(limit, now);
        match self {
            Bucket::None | Bucket::Turn(_) => {}
            Bucket::Tokens { at, missing } => (*at, *missing) = (now, left.saturating_add(limit.window.0)),
            Bucket::Sliding(starts) => {
                while starts.front().is_some_and(|(at, _)| at.plus(limit.window) <= now) {
                    starts.pop_front();
                }
                match starts.back_mut().filter(|(at, _)| *at == now) {
                    Some((_, count)) => *count += 1,
                    None => starts.push_back((now, 1)),
                }
            }
            Bucket::Fixed { until, started } => {
                if *until <= now {
                    let late = if has(Bug::FixedAtFirst) { 0 } else { now.0 % limit.window.0 };
                    let begun = now.0 - late;
                    (*until, *started) = (Millis(begun).plus(limit.window), 0);
                }
                *started += 1;
            }
        }
    }

    /// The earliest time at which one may start if none does before.
    pub fn next(&self, limit: &Limit, now: Millis) -> Millis {
        if self.room(limit, now) > 0 {
            return now;
        }
        match self {
            Bucket::Tokens { .. } => {
                let most = capacity(limit).saturating_sub(limit.window.0);
                now.plus(Millis(self.missing(limit, now).saturating_sub(most).div_ceil(limit.n)))
            }
            Bucket::Sliding(starts) => {
                let mut inside = starts.iter().map(|(_, count)| count).sum::<u64>();
                let leaves = starts.iter().find(|(_, count)| {
                    inside -= count;
                    inside < limit.n
                });
                leaves.map_or(now, |(at, _)| at.plus(limit.window).max(now))
            }
            Bucket::Fixed { until, .. } => (*until).max(now),
            Bucket::None | Bucket::Turn(_) => now,
        }
    }

    /// When it is as if nobody had ever used it. A turn counts only for jobs that waited at that time: with none it is over.
    pub fn full_at(&self, limit: &Limit) -> Millis {
        match self {
            Bucket::None | Bucket::Turn(_) => Millis(0),
            Bucket::Tokens { at, missing } => at.plus(Millis(missing.div_ceil(limit.n))),
            Bucket::Sliding(starts) => starts.back().map_or(Millis(0), |(at, _)| at.plus(limit.window)),
            Bucket::Fixed { until, .. } => *until,
        }
    }

    /// Goes on under other numbers. What is missing of a bucket stays missing, at most all of it.
    pub fn tune(&mut self, from: &Limit, to: &Limit, now: Millis) {
        let left = self.missing(from, now);
        if let Bucket::Tokens { at, missing } = self {
            let scaled = u128::from(left) * u128::from(to.window.0) / u128::from(from.window.0);
            (*at, *missing) = (now, u64::try_from(scaled).unwrap_or(u64::MAX).min(capacity(to)));
        }
    }

    fn missing(&self, limit: &Limit, now: Millis) -> u64 {
        match self {
            Bucket::Tokens { at, missing } => missing.saturating_sub(now.since(*at).0.saturating_mul(limit.n)),
            _ => 0,
        }
    }

    /// An item of a record, see `limiters`.
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Bucket::None => writer.array(0),
            Bucket::Turn(turn) => writer.array(1).u64(*turn),
            Bucket::Tokens { at, missing } => writer.array(2).u64(at.0).u64(*missing),
            Bucket::Fixed { until, started } => writer.array(2).u64(until.0).u64(*started),
            Bucket::Sliding(starts) => {
                writer.array(starts.len());
                for (at, count) in starts {
                    writer.array(2).u64(at.0).u64(*count);
                }
                writer
            }
        };
    }

    pub fn decode(reader: &mut Reader<'_>, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Concurrency => reader.array_of(0, "a bucket").map(|()| Bucket::None),
            Kind::Fair => {
                reader.array_of(1, "a bucket")?;
                Ok(Bucket::Turn(number(reader, COUNTER_MAX)?))
            }
            Kind::Bucket => {
                reader.array_of(2, "a bucket")?;
                Ok(Bucket::Tokens { at: Millis(reader.u64()?), missing: reader.u64()? })
            }
            Kind::Fixed => {
                reader.array_of(2, "a bucket")?;
                Ok(Bucket::Fixed { until: Millis(reader.u64()?), started: number(reader, COUNTER_MAX)? })
            }
            Kind::Sliding => {
                let starts = list(reader, "starts", limits::LIMIT_SLIDING_MAX as usize, |reader| {
                    reader.array_of(2, "starts")?;
                    Ok((Millis(reader.u64()?), number(reader, COUNTER_MAX).at("count")?))
                })?;
                match starts.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                    true => Ok(Bucket::Sliding(starts.into())),
                    false => Err(Error::Invalid("starts that are not in their order".into())),
                }
            }
        }
    }
}

/// The parts of a full bucket.
fn capacity(limit: &Limit) -> u64 {
    limit.burst.saturating_mul(limit.window.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: Kind, n: u64, window: u64, burst: u64) -> Limit {
        Limit { kind, key: "k".into(), n, window: Millis(window), burst }
    }

    /// Takes whenever there is room, at every millisecond, and gives the times of the starts.
    fn greedy(limit: &Limit, until: u64) -> Vec<u64> {
        let (mut bucket, mut starts) = (Bucket::full(limit.kind), Vec::new());
        for now in (0..until).map(Millis) {
            let said = bucket.next(limit, now);
            assert_eq!(bucket.room(limit, now) > 0, said == now, "{now:?}: {bucket:?}");
            while bucket.room(limit, now) > 0 {
                bucket.take(limit, now);
                starts.push(now.0);
            }
            let full = bucket.full_at(limit);
            assert!(bucket.room(limit, full) >= limit.n.min(limit.burst.max(1)));
        }
        starts
    }

    #[test]
    fn j13_a_bucket_gives_its_burst_and_then_fills_evenly() {
        assert_eq!(greedy(&limit(Kind::Bucket, 2, 10, 3), 16), [0, 0, 0, 5, 10, 15]);
        assert_eq!(greedy(&limit(Kind::Bucket, 3, 10, 1), 21), [0, 4, 8, 12, 16, 20]);
    }

    #[test]
    fn j13_no_window_that_slides_has_more_starts_than_it_may() {
        let starts = greedy(&limit(Kind::Sliding, 3, 10, 0), 50);
        assert_eq!(starts[..6], [0, 0, 0, 10, 10, 10]);
        for begin in 0..40 {
            let inside = starts.iter().filter(|at| (begin..begin + 10).contains(*at));
            assert!(inside.count() <= 3);
        }
    }

    #[test]
    fn j13_a_fixed_window_begins_at_multiples_of_its_length() {
        let (limit, mut bucket) = (limit(Kind::Fixed, 2, 10, 0), Bucket::full(Kind::Fixed));
        bucket.take(&limit, Millis(17));
        assert_eq!((bucket.room(&limit, Millis(19)), bucket.room(&limit, Millis(20))), (1, 2));
    }

    #[test]
    fn j13_what_is_missing_of_a_bucket_stays_missing_under_other_numbers() {
        let (from, to) = (limit(Kind::Bucket, 10, 100, 10), limit(Kind::Bucket, 20, 100, 20));
        let mut bucket = Bucket::full(Kind::Bucket);
        (0..4).for_each(|_| bucket.take(&from, Millis(0)));
        bucket.tune(&from, &to, Millis(0));
        assert_eq!(bucket.room(&to, Millis(0)), 16);
        bucket.tune(&to, &limit(Kind::Bucket, 1, 50, 2), Millis(0));
        assert_eq!(bucket.room(&limit(Kind::Bucket, 1, 50, 2), Millis(0)), 0);
    }
}
