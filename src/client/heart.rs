//! Heartbeats: one thread for all sessions of a client. It needs no lock of Python's, so a busy interpreter stays alive.
//! At least once a second it also looks whether the node that is asked still says anything.

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
    look: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    sessions: Vec<(Weak<Session>, Instant)>,
    stop: bool,
}

impl Heart {
    /// `look` runs at least once a second, and never blocks.
    pub fn start(look: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        let (state, stopped) = (Mutex::new(State::default()), Condvar::new());
        let shared = Arc::new(Shared { state, stopped, look: Box::new(look) });
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
        loop {
            (self.look)();
            let mut state = self.state.lock();
            if state.stop {
                return;
            }
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
            if due.is_empty() {
                self.stopped.wait_until(&mut state, next);
            }
            drop(state);
            due.iter().for_each(Session::beat);
        }
    }
}
