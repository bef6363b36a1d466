//! Limits of the model: who runs and who started when, counted anew for each question. The last turn of a key is remembered
//! for good, as it counts only for who waited then.

use super::{Model, ModelJob, Reply};
use crate::wire::Limit;

/// The starts of a key that a rate remembers.
#[derive(Clone, Debug)]
pub struct ModelRate {
    limit: Limit,
    starts: Vec<u64>,
    /// Of a bucket: what is missing, and when it was.
    missing: (u64, u64),
    /// Of a fixed window: its end and the starts in it.
    fixed: (u64, u64),
    /// Has no room; opens at the time of `wake`.
    closed: bool,
    wake: Option<u64>,
}

fn same(left: &Limit, right: &Limit) -> bool {
    left.kind == right.kind && left.key == right.key
}

impl ModelRate {
    fn missing(&self, now: u64) -> u64 {
        self.missing.1.saturating_sub((now - self.missing.0) * self.limit.n)
    }

    fn room(&self, now: u64) -> u64 {
        let Limit { kind, n, window, burst, .. } = self.limit;
        match kind {
            1 => (burst * window).saturating_sub(self.missing(now)) / window,
            2 => n.saturating_sub(self.starts.iter().filter(|at| **at + window > now).count() as u64),
            _ => n.saturating_sub(if now < self.fixed.0 { self.fixed.1 } else { 0 }),
        }
    }

    fn start(&mut self, now: u64) {
        let window = self.limit.window;
        self.missing = (now, self.missing(now) + window);
        self.starts.retain(|at| at + window > now);
        self.starts.push(now);
        if now >= self.fixed.0 {
            self.fixed = (now - now % window + window, 0);
        }
        self.fixed.1 += 1;
        self.judge(now);
    }

    /// Waits until there is room.
    fn judge(&mut self, now: u64) {
        self.closed = self.room(now) == 0;
        let next = || (now..).find(|at| self.room(*at) > 0).expect("some time");
        self.wake = self.closed.then(|| next().div_ceil(10) * 10);
    }

    /// When it is as if there never was a start.
    fn full(&self) -> u64 {
        let last = self.starts.last().copied();
        match self.limit.kind {
            1 => self.missing.0 + self.missing.1.div_ceil(self.limit.n),
            2 => last.map_or(0, |at| at + self.limit.window),
            _ => self.fixed.0,
        }
    }
}

impl Model {
    fn running(&self, limit: &Limit) -> u64 {
        let runs = |job: &&ModelJob| job.state == "processing" && job.limits.iter().any(|other| same(other, limit));
        self.jobs.iter().filter(runs).count() as u64
    }

    /// The limit of a key as the newest job said it.
    fn current(&self, limit: &Limit) -> &Limit {
        self.limits.iter().find(|known| same(known, limit)).expect("a job holds it")
    }

    fn rate(&self, limit: &Limit) -> Option<&ModelRate> {
        self.rates.iter().find(|rate| same(&rate.limit, limit))
    }

    fn rate_mut(&mut self, limit: &Limit) -> &mut ModelRate {
        self.rates.iter_mut().find(|rate| same(&rate.limit, limit)).expect("a job holds it")
    }

    fn room(&self, limit: &Limit) -> u64 {
        match self.rate(limit) {
            Some(rate) if rate.closed => 0,
            Some(rate) => rate.room(self.now),
            None => self.current(limit).n.saturating_sub(self.running(limit)),
        }
    }

    pub(super) fn held_back(&self, job: &ModelJob) -> bool {
        let full = |limit: &Limit| match self.rate(limit) {
            Some(rate) => rate.closed,
            None => limit.kind == 0 && self.room(limit) == 0,
        };
        job.limits.iter().any(full)
    }

    /// Since when a job waits, or since the last start of another of its key, if that was later.
    pub(super) fn turn(&self, job: &ModelJob) -> u64 {
        let key = job.limits.iter().find(|limit| limit.kind == 4).map(|limit| &limit.key);
        let last = self.turns.iter().rfind(|(turned, _)| Some(turned) == key);
        job.place.max(last.map_or(0, |(_, line)| *line))
    }

    /// More may start than before.
    fn tell_room(&mut self, limit: &Limit, before: u64) {
        let more = self.room(limit).saturating_sub(before);
        let waits = |job: &&ModelJob| job.state == "enqueued" && job.limits.iter().any(|other| same(other, limit));
        let mut queues: Vec<String> = self.jobs.iter().filter(waits).map(|job| job.spec.queue.clone()).collect();
        queues.sort();
        for queue in queues.chunk_by(|left, right| left == right) {
            self.announce(&queue[0], more.min(queue.len() as u64) as usize);
        }
    }

    /// A job that is not final holds its limits; the newest one gives their numbers.
    pub(super) fn hold(&mut self, position: usize, newest: bool) {
        for limit in self.jobs[position].limits.clone() {
            let Some(known) = self.limits.iter().position(|known| same(known, &limit)) else {
                self.limits.push(limit.clone());
                if limit.is_rate() && self.rate(&limit).is_none() {
                    let (starts, none) = (Vec::new(), (0, 0));
                    let rate = ModelRate { limit, starts, missing: none, fixed: none, closed: false, wake: None };
                    self.rates.push(rate);
                }
                continue;
            };
            if !newest || self.limits[known] == limit {
                continue;
            }
            let (before, now) = (self.room(&limit), self.now);
            let old = std::mem::replace(&mut self.limits[known], limit.clone());
            if limit.is_rate() {
                let rate = self.rate_mut(&limit);
                let scaled = rate.missing(now) * limit.window / old.window;
                rate.missing = (now, scaled.min(limit.burst * limit.window));
                rate.limit = limit.clone();
                rate.judge(now);
            }
            self.tell_room(&limit, before);
        }
    }

    /// Forgets those of these limits that no job holds. A rate stays until it is full again.
    pub(super) fn settle(&mut self, limits: &[Limit]) {
        for limit in limits {
            let holds = |job: &ModelJob| !job.is_final() && job.limits.iter().any(|other| same(other, limit));
            if self.jobs.iter().any(holds) || self.rate(limit).is_some_and(|rate| rate.closed) {
                continue;
            }
            let now = self.now;
            if let Some(rate) = self.rates.iter_mut().find(|rate| same(&rate.limit, limit)) {
                if rate.full() > now {
                    rate.wake = Some(rate.full().div_ceil(10) * 10);
                    continue;
                }
            }
            self.rates.retain(|rate| !same(&rate.limit, limit));
            self.limits.retain(|known| !same(known, limit));
        }
    }

    /// A job leaves the state that it is in.
    pub(super) fn leave(&mut self, position: usize) {
        if self.jobs[position].state != "processing" {
            self.jobs[position].state = "";
            return;
        }
        let limits = self.jobs[position].limits.clone();
        let rooms: Vec<u64> = limits.iter().map(|limit| self.room(limit)).collect();
        self.jobs[position].state = "leaving";
        for (limit, before) in limits.iter().zip(rooms).filter(|(limit, _)| limit.kind == 0) {
            self.tell_room(limit, before);
        }
        self.jobs[position].state = "";
        let queue = self.jobs[position].spec.queue.clone();
        if self.queue_limits.iter().any(|(limited, _)| *limited == queue) && self.may_start(&queue) > 0 {
            self.announce(&queue, 1);
        }
    }

    /// A claimed job is a start of each of its rates, and has the turn of its key.
    pub(super) fn start(&mut self, position: usize) {
        let now = self.now;
        for limit in self.jobs[position].limits.clone().iter().filter(|limit| limit.kind > 0) {
            if limit.kind == 4 {
                self.line += 1;
                self.turns.push((limit.key.clone(), self.line));
                continue;
            }
            let rate = self.rate_mut(limit);
            rate.start(now);
            if !rate.closed {
                self.tell_room(limit, 0);
            }
        }
    }

    /// Opens rates, and forgets those that nobody needs.
    pub(super) fn wake(&mut self, items: u64) -> u64 {
        for done in 0..items {
            let due = self.rates.iter().filter(|rate| rate.wake.is_some_and(|at| at <= self.now));
            let first = due.min_by_key(|rate| (rate.wake, rate.limit.kind, rate.limit.key.clone()));
            let Some(limit) = first.map(|rate| rate.limit.clone()) else { return done };
            let now = self.now;
            let rate = self.rate_mut(&limit);
            rate.wake = None;
            if rate.closed {
                rate.judge(now);
                self.tell_room(&limit, 0);
            }
            self.settle(&[limit]);
        }
        items
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        self.rates.iter().filter_map(|rate| rate.wake).min()
    }

    /// How many more jobs of a queue may run.
    pub(super) fn queue_room(&self, queue: &str) -> u64 {
        let Some((_, limit)) = self.queue_limits.iter().find(|(limited, _)| limited == queue) else { return u64::MAX };
        let runs = |job: &&ModelJob| job.spec.queue == queue && matches!(job.state, "processing" | "leaving");
        limit.saturating_sub(self.jobs.iter().filter(runs).count() as u64)
    }

    /// Jobs of a queue that wait for a worker alone.
    pub(super) fn may_start(&self, queue: &str) -> usize {
        let may = |job: &&ModelJob| job.state == "enqueued" && job.spec.queue == queue && !self.held_back(job);
        self.jobs.iter().filter(may).count()
    }

    pub(super) fn limit_queue(&mut self, queue: &str, limit: Option<u64>) -> Reply {
        let before = self.queue_room(queue);
        self.queue_limits.retain(|(limited, _)| limited != queue);
        self.queue_limits.extend(limit.map(|limit| (queue.to_owned(), limit)));
        let more = self.queue_room(queue).saturating_sub(before);
        let told = self.may_start(queue) as u64;
        if told > 0 && (limit.is_some() || more > 1) {
            self.announce(queue, more.min(told) as usize);
        }
        Ok(vec![0xc0])
    }

    /// What question 8 answers for one queue and function.
    pub fn claimable(&self, queue: &str, function: &str) -> u64 {
        let fits = |job: &&ModelJob| {
            job.state == "enqueued" && job.spec.queue == queue && job.spec.function == function && !self.held_back(job)
        };
        if self.paused(queue) {
            return 0;
        }
        (self.jobs.iter().filter(fits).count() as u64).min(self.queue_room(queue))
    }
}
