//! Heartbeats: one thread for all sessions of a client. It needs no lock of Python's, so a busy interpreter stays alive.

use super::session::Session;
use crate::base::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The longest pause between two looks at the sessions.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Beats for sessions until it is dropped.
pub struct Heart {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    sessions: Vec<(Weak<Session>, Instant)>,
    stop: bool,
}

impl Heart {
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), stopped: Condvar::new() });
        let beating = shared.clone();
        std::thread::Builder::new()
            .name("raftwork-heart".into())
            .spawn(move || beating.run())
            .map_err(|error| Error::disk("start a thread", "raftwork-heart", &error))?;
        Ok(Self { shared })
    }

    pub fn add(&self, session: &Arc<Session>) {
        let mut state = self.shared.state.lock();
        state.sessions.push((Arc::downgrade(session), Instant::now()));
        self.shared.stopped.notify_one();
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.stopped.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            let now = Instant::now();
            let mut due = Vec::new();
            let mut next = now + PAUSE_MAX;
            state.sessions.retain_mut(|(session, at)| {
                let Some(session) = session.upgrade() else { return false };
                if *at <= now {
                    *at = now + Duration::from_millis((session.ttl().0 / 3).max(1));
                    due.push(session);
                }
                next = next.min(*at);
                true
            });
            if !due.is_empty() {
                parking_lot::MutexGuard::unlocked(&mut state, || due.iter().for_each(Session::beat));
                continue;
            }
            self.stopped.wait_until(&mut state, next);
        }
    }
}
