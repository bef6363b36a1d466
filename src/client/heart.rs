//! Heartbeats: one thread for all sessions of a client. It needs no lock of Python's, so a busy interpreter stays alive.
//! At least once a second it also looks whether the node that is asked still says anything. A sign of life that nobody took,
//! as between two leaders, is given again soon.

use super::session::Session;
use crate::base::sync::{Condvar, Mutex};
use crate::base::{Error, Result};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The longest pause between two looks at the sessions.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Of the time to live, the part that passes before a sign of life without an answer is given again.
const AGAIN_PART: u64 = 30;

/// Beats for sessions until it is dropped.
pub struct Heart {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
    look: Box<dyn Fn() -> Duration + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// And when each may give the next sign of life, if one is due.
    sessions: Vec<(Weak<Session>, Instant)>,
    stop: bool,
}

impl Heart {
    /// `look` runs at least once a second, sooner if it says so, and never blocks.
    pub fn start(look: impl Fn() -> Duration + Send + Sync + 'static) -> Result<Self> {
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
            let look_again = (self.look)();
            let mut state = self.state.lock();
            if state.stop {
                return;
            }
            let now = Instant::now();
            let mut due = Vec::new();
            let mut next = now + PAUSE_MAX.min(look_again);
            state.sessions.retain_mut(|(session, at)| {
                let Some(session) = session.upgrade() else { return false };
                let wanted = now + Duration::from_millis(session.beat_due_in().0);
                if wanted.max(*at) <= now {
                    *at = now + Duration::from_millis((session.ttl().0 / AGAIN_PART).max(1));
                    due.push(session);
                }
                next = next.min(wanted.max(*at));
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
