//! Limits of the model: who runs is counted anew for each question, of a rate every start is remembered, and of a key that
//! takes turns the last one.

use raftwork::base::JobId;

use super::{Job, Model, State};
use crate::wire::Limit;

/// `Limit::kind`.
const BUCKET: u64 = 1;
const FIXED: u64 = 3;

/// The starts of a key, all that ever were while it was there.
#[derive(Clone, Debug)]
pub struct Rate {
    limit: Limit,
    starts: Vec<u64>,
    closed: bool,
    wake: Option<u64>,
}

impl Rate {
    fn room(&self, now: u64) -> bool {
        let Limit { kind, n, window, burst, .. } = self.limit;
        let since = |begun: u64| self.starts.iter().filter(|at| **at >= begun).count() as u64;
        match kind {
            // A token more must fit into what is missing of a full bucket.
            BUCKET => self.missing(now) + window <= burst * window,
            FIXED => since(now - now % window) < n,
            _ => since((now + 1).saturating_sub(window)) < n,
        }
    }

    /// Of a bucket, in parts of a token: a start takes as many as its window has milliseconds, each brings back `n`.
    fn missing(&self, now: u64) -> u64 {
        let (mut missing, mut at) = (0u64, 0);
        for start in &self.starts {
            missing = missing.saturating_sub((start - at) * self.limit.n) + self.limit.window;
            at = *start;
        }
        missing.saturating_sub((now - at) * self.limit.n)
    }

    /// When it is as if nobody had ever started.
    fn full_at(&self) -> u64 {
        let Limit { kind, n, window, .. } = self.limit;
        let last = |at: &u64| match kind {
            BUCKET => at + self.missing(*at).div_ceil(n),
            FIXED => at - at % window + window,
            _ => at + window,
        };
        self.starts.last().map_or(0, last)
    }

    fn judge(&mut self, now: u64) {
        self.closed = !self.room(now);
        let next = || (now..).find(|at| self.room(*at)).expect("time ends a window");
        self.wake = self.closed.then(|| next().div_ceil(10) * 10);
    }
}

/// The kind of a key that takes turns.
const TURNS: u64 = 4;

impl Model {
    /// Whether one more job of a queue may run.
    pub(super) fn queue_has_room(&self, queue: &str) -> bool {
        let runs = |job: &&Job| job.spec.queue == queue && matches!(job.state, State::Processing { .. });
        let most = self.queue_limits.get(queue);
        most.is_none_or(|most| (self.jobs.values().filter(runs).count() as u64) < *most)
    }

    fn holders(&self, limit: &Limit) -> impl Iterator<Item = &Job> {
        let (kind, key) = (limit.kind, limit.key.clone());
        self.jobs.values().filter(move |job| job.limits.iter().any(|other| other.kind == kind && other.key == key))
    }

    pub(super) fn is_held_back(&self, job: &Job) -> bool {
        job.limits.iter().any(|limit| match limit.kind {
            0 => {
                let runs = self.holders(limit).filter(|job| matches!(job.state, State::Processing { .. })).count();
                runs as u64 >= self.concurrency[&limit.key]
            }
            TURNS => false,
            _ => self.rates[&limit.key].closed,
        })
    }

    /// Since when a job counts as waiting: since it does, or since the last start of its key, if that was later.
    pub(super) fn turn(&self, job: &Job) -> u64 {
        let keys = job.limits.iter().filter(|limit| limit.kind == TURNS);
        let turns = keys.filter_map(|limit| self.turns.get(&limit.key).copied());
        turns.chain([job.moved]).max().unwrap_or_default()
    }

    /// The job is not final. If it is new, its limits say the numbers.
    pub(super) fn hold(&mut self, id: JobId, new: bool) {
        let clock = self.clock;
        for limit in self.jobs[&id].limits.clone().into_iter().filter(|limit| limit.kind != TURNS) {
            if limit.kind == 0 {
                let known = self.concurrency.entry(limit.key.clone()).or_insert(limit.n);
                *known = if new { limit.n } else { *known };
                continue;
            }
            let made = Rate { limit: limit.clone(), starts: Vec::new(), closed: false, wake: None };
            let rate = self.rates.entry(limit.key.clone()).or_insert(made);
            if new && rate.limit != limit {
                rate.limit = limit;
                rate.judge(clock);
            }
        }
    }

    /// The job became final: what nobody needs any more is forgotten.
    pub(super) fn let_go(&mut self, id: JobId) {
        for limit in self.jobs[&id].limits.clone() {
            self.forget(&limit);
        }
    }

    pub(super) fn forget(&mut self, limit: &Limit) {
        if self.holders(limit).any(|job| !job.state.is_final()) {
            return;
        }
        if limit.kind == 0 {
            self.concurrency.remove(&limit.key);
            return;
        }
        if limit.kind == TURNS {
            self.turns.remove(&limit.key);
            return;
        }
        let rate = self.rates.get_mut(&limit.key).expect("a job had it until now");
        let full = rate.full_at();
        if rate.closed {
            return;
        }
        if full > self.clock {
            rate.wake = Some(full.div_ceil(10) * 10);
        } else {
            self.rates.remove(&limit.key);
        }
    }

    pub(super) fn starts(&mut self, id: JobId) {
        let clock = self.clock;
        for limit in self.jobs[&id].limits.clone().iter().filter(|limit| limit.kind > 0) {
            if limit.kind == TURNS {
                let turn = self.next_move();
                self.turns.insert(limit.key.clone(), turn);
                continue;
            }
            let rate = self.rates.get_mut(&limit.key).expect("a job that waits holds it");
            rate.starts.push(clock);
            rate.judge(clock);
        }
    }

    /// Opens one rate whose time has come, or forgets it.
    pub(super) fn wake_one(&mut self) -> bool {
        let due = self.rates.values_mut().filter(|rate| rate.wake.is_some_and(|at| at <= self.clock));
        let first = due.min_by_key(|rate| (rate.wake, rate.limit.kind, rate.limit.key.clone()));
        let Some(rate) = first else { return false };
        rate.wake = None;
        if rate.closed {
            rate.judge(self.clock);
        }
        let limit = rate.limit.clone();
        self.forget(&limit);
        true
    }
}
