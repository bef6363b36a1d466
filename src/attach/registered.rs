//! What one connection has registered at its owner, and what it may: sessions that it keeps alive, watches, waits for the
//! ends of jobs, and what it asked and has no answer to. Each is bounded, whoever is at the other end.
//!
//! What holds
//! * The number of a watch or of a wait is used once. Otherwise a second one would hide the first, which nobody would end.
//! * A sign of life costs nothing where it does not come too often: a client that asks for too much must not lose its jobs
//!   for that.

use super::{WaitId, WatchId};
use crate::base::{limits, Error, Result, SessionId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const BEAT_FREE: Duration = Duration::from_millis(limits::BEAT_FREE_MS);

/// See the module.
#[derive(Default)]
pub struct Registered {
    /// And when each last gave a sign of life that cost nothing.
    sessions: BTreeMap<SessionId, Instant>,
    watches: BTreeMap<u64, Watch>,
    /// Bytes of names that its watches wait for jobs of.
    asked_bytes: usize,
    /// Nothing until the backend has named the wait.
    waits: BTreeMap<u64, Option<WaitId>>,
}

struct Watch {
    id: WatchId,
    asked_bytes: usize,
}

impl Registered {
    /// This session lives, and belongs to this connection.
    pub fn lives(&mut self, session: SessionId, now: Instant) {
        if self.sessions.len() >= limits::SESSIONS_MAX {
            // No more can be open at once, so most of these have ended: those that are quiet the longest.
            let mut times: Vec<Instant> = self.sessions.values().copied().collect();
            let middle = *times.select_nth_unstable(limits::SESSIONS_MAX / 2).1;
            self.sessions.retain(|_, last| *last > middle);
        }
        self.sessions.entry(session).or_insert(now);
    }

    /// Whether a sign of life of this session costs nothing.
    pub fn beats_freely(&mut self, session: SessionId, now: Instant) -> bool {
        let last = self.sessions.get_mut(&session).filter(|last| now.saturating_duration_since(**last) >= BEAT_FREE);
        last.map(|last| *last = now).is_some()
    }

    /// # Errors
    /// `Overloaded`: there are as many as may be. `Invalid`: the number is used.
    pub fn check_watch(&self, number: u64) -> Result<()> {
        once("watch", self.watches.contains_key(&number))?;
        room("watches", self.watches.len(), limits::WATCHES_MAX)
    }

    pub fn watch(&mut self, number: u64, id: WatchId) {
        self.watches.insert(number, Watch { id, asked_bytes: 0 });
    }

    pub fn watch_of(&self, number: u64) -> Option<WatchId> {
        self.watches.get(&number).map(|watch| watch.id)
    }

    pub fn end_watch(&mut self, number: u64) -> Option<WatchId> {
        let watch = self.watches.remove(&number)?;
        self.asked_bytes -= watch.asked_bytes;
        Some(watch.id)
    }

    /// Gives the watch that is to wait for jobs of these.
    ///
    /// # Errors
    /// `Overloaded`: these are more names than the watches of one connection may have.
    pub fn ask(&mut self, number: u64, queues: &[&str], functions: &[&str]) -> Result<Option<WatchId>> {
        let Some(watch) = self.watches.get_mut(&number) else { return Ok(None) };
        let bytes = queues.iter().chain(functions).map(|name| name.len() + size_of::<String>()).sum();
        let sum = self.asked_bytes - watch.asked_bytes + bytes;
        room("bytes of names to wait for", sum, limits::ASKED_BYTES_MAX)?;
        (self.asked_bytes, watch.asked_bytes) = (sum, bytes);
        Ok(Some(watch.id))
    }

    /// A wait that the backend has not named yet.
    ///
    /// # Errors
    /// As `check_watch`.
    pub fn wait(&mut self, number: u64) -> Result<()> {
        once("wait", self.waits.contains_key(&number))?;
        room("waits", self.waits.len(), limits::WAITS_MAX)?;
        self.waits.insert(number, None);
        Ok(())
    }

    /// The backend has named a wait, unless it is over already.
    pub fn named(&mut self, number: u64, id: WaitId) {
        if let Some(wait) = self.waits.get_mut(&number) {
            *wait = Some(id);
        }
    }

    pub fn end_wait(&mut self, number: u64) -> Option<WaitId> {
        self.waits.remove(&number).flatten()
    }

    /// Everything, at the end of the connection.
    pub fn into_parts(self) -> (Vec<SessionId>, Vec<WatchId>, Vec<WaitId>) {
        let watches = self.watches.into_values().map(|watch| watch.id).collect();
        (self.sessions.into_keys().collect(), watches, self.waits.into_values().flatten().collect())
    }
}

/// What has no answer yet.
#[derive(Default)]
pub struct Unanswered(AtomicUsize);

impl Unanswered {
    /// One more, unless there are as many as may be.
    pub fn begin(&self, what: &str, most: usize) -> Result<()> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        room(what, before, most).inspect_err(|_| self.end())
    }

    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn room(what: &str, held: usize, most: usize) -> Result<()> {
    match held < most {
        true => Ok(()),
        false => Err(Error::Overloaded(format!("this process has {most} {what} at this node, and may have no more"))),
    }
}

fn once(what: &str, is_used: bool) -> Result<()> {
    match is_used {
        true => Err(Error::Invalid(format!("the number of a {what} was used already"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_sign_of_life_of_an_own_session_is_free_now_and_then() {
        let (mut registered, start) = (Registered::default(), Instant::now());
        let own = SessionId(7);
        assert!(!registered.beats_freely(own, start), "nobody has confirmed it yet");
        registered.lives(own, start);
        let free: Vec<bool> = (1..=250).map(|ms| registered.beats_freely(own, start + ms * MS)).collect();
        assert_eq!(free.iter().filter(|free| **free).count(), 2, "once in 100 ms");
        assert!(!registered.beats_freely(SessionId(8), start + 1_000 * MS));
    }

    #[test]
    fn sessions_that_came_and_went_are_forgotten_and_those_that_live_are_not() {
        let (mut registered, start) = (Registered::default(), Instant::now());
        registered.lives(SessionId(0), start);
        for number in 1..4 * limits::SESSIONS_MAX as u64 {
            let now = start + number as u32 * MS;
            registered.beats_freely(SessionId(0), now);
            registered.lives(SessionId(number), now);
        }
        let (sessions, ..) = registered.into_parts();
        assert!(sessions.len() <= limits::SESSIONS_MAX);
        assert_eq!(sessions[0], SessionId(0), "it gave signs of life all along");
    }

    #[test]
    fn names_to_wait_for_are_bounded_for_all_watches_together() {
        let mut registered = Registered::default();
        (0..4).for_each(|number| registered.watch(number, WatchId(number)));
        let name = "n".repeat(limits::ASKED_BYTES_MAX / 3);
        let mut ask = |number, name: &str| registered.ask(number, &[name], &[]).map(|watch| watch.is_some());
        assert_eq!((ask(0, &name), ask(1, &name)), (Ok(true), Ok(true)));
        assert!(matches!(ask(2, &name), Err(Error::Overloaded(_))));
        assert_eq!(ask(1, "q"), Ok(true), "it asks for something else in the place of that");
        assert_eq!((ask(2, &name), ask(9, &name)), (Ok(true), Ok(false)));
        registered.end_watch(2);
        assert!(registered.ask(3, &[&name], &[]).is_ok());
    }
}
