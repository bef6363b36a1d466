//! How jobs of the model end, wait again, come back and go.

use super::{number, refused, Model, ModelJob, Reply};
use crate::wire::{End, Note};
use raftwork::base::JobId;

impl Model {
    pub(super) fn end_session(&mut self, session: u64, how: &'static str) -> Reply {
        let Some(position) = self.sessions.iter().position(|open| open.id == session) else {
            return refused("session_expired");
        };
        self.sessions.remove(position);
        let mut held: Vec<(u64, JobId)> = Vec::new();
        for job in self.jobs.iter().filter(|job| job.state == "processing" && job.session == session) {
            held.push((job.place, job.id));
        }
        held.sort();
        for (token, id) in &held {
            if how == "lost" {
                self.happened.lost.push((session, *id, *token));
            }
            let position = self.position(*id).expect("a leased job is there");
            self.end_run(position, how, None);
        }
        self.end_locks(session);
        self.happened.closed.push(session);
        number(held.len() as u64)
    }

    fn leased(&self, id: JobId, token: u64) -> Result<usize, u64> {
        let position = self.position(id).ok_or(2u64)?;
        let job = &self.jobs[position];
        if job.state == "processing" && job.place == token {
            return Ok(position);
        }
        Err(1)
    }

    pub(super) fn finish(&mut self, id: JobId, token: u64, end: &End) -> u64 {
        let position = match self.leased(id, token) {
            Ok(position) => position,
            Err(code) => return code,
        };
        let job = &mut self.jobs[position];
        match end {
            End::Succeeded(result) => job.result = result.clone(),
            End::Retry(_, kind) | End::Failed(kind) | End::Crashed(kind) => job.error = Some(kind.clone()),
            End::Cancelled(reason) if !reason.is_empty() => job.reason = Some(reason.clone()),
            End::Snooze(_, reason) if !(reason.is_empty() || job.cancel_requested) => job.reason = Some(reason.clone()),
            _ => {}
        }
        match end {
            End::Succeeded(_) => self.end_run(position, "succeeded", None),
            End::Retry(delay, _) => self.end_run(position, "retried", Some(*delay)),
            End::Failed(_) => self.end_run(position, "failed", None),
            End::Snooze(delay, _) => self.end_run(position, "snoozed", Some(*delay)),
            End::Release => self.end_run(position, "released", None),
            End::Cancelled(_) => self.end_run(position, "cancelled", None),
            End::Crashed(_) => self.end_run(position, "crashed", None),
        }
        if let End::Retry(_, error) | End::Failed(error) | End::Crashed(error) = end {
            self.count_error(error, position);
        }
        0
    }

    fn end_run(&mut self, position: usize, how: &'static str, delay: Option<u64>) {
        let job = &mut self.jobs[position];
        job.session = 0;
        let attempt = job.attempt;
        let crashed = matches!(how, "crashed" | "lost");
        if how != "released" {
            let error = matches!(how, "retried" | "failed" | "crashed").then(|| job.error.clone()).flatten();
            job.runs.push((attempt, how, error));
            let old = job.runs.len().saturating_sub(10);
            job.runs[..old].iter_mut().for_each(|run| run.2 = None);
        }
        job.crashes += u64::from(crashed);
        if crashed || matches!(how, "snoozed" | "released") {
            job.attempt -= 1;
        }
        let used_up = how == "retried" && attempt >= job.spec.max_attempts;
        let broken = crashed && job.crashes >= job.spec.max_crashes;
        let crash_delay = job.spec.crash_delay;
        match how {
            "succeeded" => {
                (job.error, job.saved, job.reason) = (None, None, None);
                self.make_final(position, "succeeded");
            }
            "failed" => self.make_final(position, "failed"),
            "cancelled" => self.make_final(position, "cancelled"),
            _ if used_up => self.make_final(position, "failed"),
            _ if broken => {
                job.reason = Some(format!("crashed {} times", job.crashes));
                self.make_final(position, "failed");
            }
            _ if job.cancel_requested => self.make_final(position, "cancelled"),
            "snoozed" => self.make_wait(position, "scheduled", delay.unwrap_or(0)),
            "released" => self.make_ready(position),
            _ if crashed => self.make_wait(position, "retrying", crash_delay),
            _ => self.make_wait(position, "retrying", delay.unwrap_or(0)),
        }
    }

    pub(super) fn progress(&mut self, note: &Note) -> u64 {
        let position = match self.leased(note.id, note.token) {
            Ok(position) => position,
            Err(code) => return code,
        };
        let job = &mut self.jobs[position];
        job.progress = note.progress.clone().or(job.progress.take());
        job.saved = note.state.clone().or(job.saved.take());
        0
    }

    pub(super) fn cancel(&mut self, id: JobId, reason: &str) -> u64 {
        let Some(position) = self.position(id) else { return 2 };
        let job = &mut self.jobs[position];
        if job.is_final() {
            return 3;
        }
        job.reason = (!reason.is_empty()).then(|| reason.into());
        if job.state == "processing" {
            job.cancel_requested = true;
            self.happened.cancels.push((job.session, id, job.place));
            return 1;
        }
        self.make_final(position, "cancelled");
        0
    }

    pub(super) fn requeue(&mut self, id: JobId) -> u64 {
        let Some(position) = self.position(id) else { return 2 };
        let now = self.now;
        if matches!(self.jobs[position].state, "enqueued" | "processing") {
            return 3;
        }
        if self.jobs[position].is_final() {
            let holder = self.jobs[position].unique.as_ref().and_then(|key| self.holder(key));
            if holder.is_some_and(|holder| holder != id) {
                return 5;
            }
            if holder.is_none() {
                self.open_window(position);
            }
            let job = &mut self.jobs[position];
            job.generation += 1;
            (job.attempt, job.crashes, job.cancel_requested) = (0, 0, false);
            (job.result, job.error, job.reason, job.progress) = (None, None, None, None);
            job.expires = job.spec.expires.map(|span| now + span);
        }
        self.make_ready(position);
        0
    }

    pub(super) fn delete(&mut self, id: JobId) -> u64 {
        let Some(position) = self.position(id) else { return 2 };
        if self.jobs[position].state == "processing" {
            return 4;
        }
        let job = self.jobs.remove(position);
        self.windows.retain(|(key, holder, _)| *holder != id || job.unique.as_ref() != Some(key));
        if !job.is_final() {
            self.happened.finished.push(id);
            self.settle(&job.limits);
        }
        self.deleted += 1;
        0
    }

    /// Why the options of a job stay as they are; else where it is.
    fn waiting(&self, id: JobId) -> Result<usize, u64> {
        let position = self.position(id).ok_or(2u64)?;
        match self.jobs[position].state {
            "processing" => Err(4),
            _ if self.jobs[position].is_final() => Err(3),
            _ => Ok(position),
        }
    }

    pub(super) fn move_job(&mut self, id: JobId, queue: &str) -> u64 {
        let position = match self.waiting(id) {
            Ok(position) => position,
            Err(code) => return code,
        };
        if self.jobs[position].spec.queue == queue {
            return 3;
        }
        self.jobs[position].spec.queue = queue.into();
        if self.jobs[position].state == "enqueued" && !self.held_back(&self.jobs[position]) {
            self.announce(queue, 1);
        }
        0
    }

    pub(super) fn set_priority(&mut self, id: JobId, priority: i64) -> u64 {
        match self.waiting(id) {
            Ok(position) if self.jobs[position].spec.priority == priority => 3,
            Ok(position) => {
                self.jobs[position].spec.priority = priority;
                0
            }
            Err(code) => code,
        }
    }

    pub(super) fn end_pause(&mut self, queue: &str) {
        if !self.paused(queue) {
            return;
        }
        self.pauses.retain(|(paused, _)| paused != queue);
        self.announce(queue, self.may_start(queue));
    }

    pub(super) fn expire(&mut self, items: u64) -> u64 {
        for done in 0..items {
            let late = self.jobs.iter().filter(|job| job.waits() && job.expires.is_some_and(|at| at <= self.now));
            let Some((_, id)) = late.map(|job| (job.expires, job.id)).min() else { return done };
            let position = self.position(id).expect("it was just found");
            self.jobs[position].reason = Some("expired".into());
            self.make_final(position, "cancelled");
        }
        items
    }

    pub(super) fn tick(&mut self, items: u64) -> Reply {
        let items = items.min(1_000);
        let mut done = self.expire(items);
        while done < items {
            let due = self.jobs.iter().filter(|job| job.due.is_some_and(|at| at <= self.now));
            let Some((_, _, id)) = due.map(|job| (job.due, job.place, job.id)).min() else { break };
            let position = self.position(id).expect("it was just found");
            self.make_ready(position);
            done += 1;
        }
        while done < items {
            let over = self.pauses.iter().filter(|(_, until)| until.is_some_and(|at| at <= self.now));
            let Some(queue) = over.min_by_key(|(_, until)| *until).map(|(queue, _)| queue.clone()) else { break };
            self.end_pause(&queue);
            done += 1;
        }
        done += self.wake(items - done);
        while done < items {
            let over = self.windows.iter().filter(|(_, _, until)| *until <= self.now);
            let Some(first) = over.map(|(key, _, until)| (*until, key.clone())).min() else { break };
            self.windows.retain(|(key, _, _)| *key != first.1);
            done += 1;
        }
        number(done)
    }

    /// When `tick` would have something to do.
    pub fn next_due(&self) -> Option<u64> {
        let due = self.jobs.iter().filter_map(|job| job.due);
        let late = self.jobs.iter().filter(|job| job.waits()).filter_map(|job| job.expires);
        let pauses = self.pauses.iter().filter_map(|(_, until)| *until);
        due.chain(late)
            .chain(pauses)
            .chain(self.next_slot())
            .chain(self.next_wake())
            .chain(self.windows.iter().map(|(_, _, until)| *until))
            .min()
    }

    /// Finished jobs with their ordinals.
    pub fn finished(&self) -> Vec<(u64, JobId)> {
        let mut found: Vec<_> = self.jobs.iter().filter(|job| job.is_final()).map(|job| (job.place, job.id)).collect();
        found.sort();
        found
    }

    pub(super) fn evict(&mut self, ordinal: u64) -> Reply {
        let gone = |job: &ModelJob| job.is_final() && job.place <= ordinal;
        let states: Vec<_> = self.jobs.iter().filter(|job| gone(job)).map(|job| job.state).collect();
        self.jobs.retain(|job| !gone(job));
        for state in &states {
            *self.archived_as(state) += 1;
        }
        number(states.len() as u64)
    }

    fn archived_as(&mut self, state: &'static str) -> &mut u64 {
        if !self.archived.iter().any(|(known, _)| *known == state) {
            self.archived.push((state, 0));
        }
        &mut self.archived.iter_mut().find(|(known, _)| *known == state).expect("just added").1
    }

    pub(super) fn restore(&mut self, record: &[u8]) -> u64 {
        let found = self.records.iter().find(|(bytes, _)| bytes == record).expect("a record that was shown");
        let mut job: ModelJob = found.1.clone();
        if self.position(job.id).is_some() {
            return 1;
        }
        self.ordinal += 1;
        (job.place, job.expires, job.spec.expires) = (self.ordinal, None, None);
        match self.archived_as(job.state) {
            0 => self.created += 1, // It was deleted, not archived.
            archived => *archived -= 1,
        }
        self.jobs.push(job);
        0
    }
}
