//! Finding the next owner: after the connection to one ended, or the own node failed.
//!
//! What holds
//! * Whoever notices first that the own node failed takes it down: its threads end, its files are closed, then the lock
//!   is given back. Only after that is the next owner sought, and only by opening the directory as anybody would: what a
//!   failed sync left in the page cache is written again before it counts.
//! * Of a member's directory only who has the settings of that member becomes the owner; the others wait for it. When it
//!   stays away, their calls are told so, each soon after it is made, until it is back.
//! * Another process gets the first chance after a failure here, as the fault may be with this process alone.
//! * A token that is refused is shown again the more seldom, up to twice a minute; meanwhile every call is told so at once.
//! * What opening again cannot mend ends the search: the same panic for the third time, see `crashes`, or a state that
//!   differs where the directory could not be made to say so. From then on every question is answered with why.

use super::backoff::Backoff;
use super::link::{Link, Owner, Whereabouts};
use crate::base::{Error, Result};
use crate::node::{panic_words as words, Node};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::Mutex;

/// Between two tries after the directory itself could not be opened, or after the own node failed again soon.
const RETRY_BROKEN: Duration = Duration::from_secs(1);
/// How it is told that opening the directory panicked.
const PANICKED: &str = "a panic while the directory was opened";
/// Between two tries to reach the owner of a member's directory that stays away.
const RETRY_AWAY: Duration = Duration::from_millis(200);
/// After a failure of the own node: other processes find the lock free at once, this one waits so long.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// A second failure within this time is not the first one's chance again.
const FAILURES_APART: Duration = Duration::from_secs(10);

impl Link {
    /// The connection to the owner ended: finds the next, on this thread, which has nothing else to do.
    pub(super) fn lost(&self) {
        let mut state = self.state.lock();
        let remote = match &state.owner {
            Owner::Other(remote) if remote.is_ended() => remote.clone(),
            // It was another connection: one that was tried and not chosen.
            _ => return,
        };
        if let Whereabouts::Cluster(contacts) = &self.at {
            contacts.pass_by();
        }
        // Later questions are parked behind these.
        state.owner = Owner::Sought(Arc::new(Mutex::new(remote.orphans())));
        drop(state);
        drop(remote);
        self.search();
    }

    /// The own node failed: takes it down and finds the next owner, on a thread of its own. Of no effect after the first
    /// call for a node. From now on questions wait.
    pub(super) fn node_failed(&self, failed: &Arc<Node>) {
        let mut state = self.state.lock();
        match &state.owner {
            Owner::Us(node, _) if Arc::ptr_eq(node, failed) => {}
            _ => return,
        }
        let owner = std::mem::replace(&mut state.owner, Owner::Sought(Arc::default()));
        self.owns.store(false, Ordering::Release);
        let now = Instant::now();
        let again = state.failed_at.replace(now).is_some_and(|before| now - before < FAILURES_APART);
        let crash = failed.panicked_at().filter(|applied| state.crashes.add(Some(*applied)));
        let why = failed.failure().map(|error| error.to_string()).unwrap_or_default();
        let crash_loop = crash.and_then(|_| Some(state.crashes.error(self.directory()?, &why)));
        drop(state);
        let hopeless = crash_loop.or(failed.must_stay_closed());
        let pause = if again { RETRY_BROKEN } else { AFTER_FAILURE };
        self.on_a_thread(move |link| {
            end(owner);
            if let Some(error) = hopeless {
                link.give_up(&error);
            } else if link.pause(pause) {
                link.search();
            }
        });
    }

    /// The search takes as long as there is no owner; whoever noticed that must not wait for it.
    pub(super) fn on_a_thread(&self, work: impl FnOnce(&Link) + Send + 'static) {
        let Some(link) = self.me.upgrade() else { return };
        let started = std::thread::Builder::new().name("raftwork-takeover".into()).spawn(move || work(&link));
        if let Err(error) = started {
            self.give_up(&Error::Poisoned(format!("the owner ended, and no thread to find the next started: {error}")));
        }
    }

    /// Tries to find the owner until there is one, or the link is closed.
    fn search(&self) {
        let mut backoff = Backoff::new(matches!(self.at, Whereabouts::Cluster(_)), Instant::now());
        let (mut logged, mut told) = (None, None);
        loop {
            let found = self.find_owner_guarded();
            self.note_refusal(found.as_ref().err());
            let pause = match found {
                Ok(owner) => return self.install(owner),
                Err(Error::Busy { .. }) => backoff.next(Instant::now()),
                Err(error @ Error::CrashLoop(_)) => return self.give_up(&error),
                // It is counted, and who asks waits for what comes of it.
                Err(Error::Poisoned(why)) if why.starts_with(PANICKED) => RETRY_BROKEN,
                Err(error) if self.is_awaited(&error) => backoff.next(Instant::now()),
                Err(error @ Error::Member(_)) => {
                    if told.is_none() {
                        log::error!("no node answers for {}: {error}", self.place());
                    }
                    // Once for each search: it reads the state for that.
                    self.refuse_parked(told.get_or_insert_with(|| self.explained(error)));
                    RETRY_AWAY
                }
                Err(error) => {
                    // Each second, and for long.
                    if logged.as_ref() != Some(&error) {
                        log::error!("no node answers for {}: {error}", self.place());
                    }
                    self.refuse_parked(&error);
                    let refused = matches!(error, Error::Unauthenticated(_));
                    logged = Some(error);
                    if refused {
                        backoff.refused()
                    } else {
                        backoff.about(RETRY_BROKEN)
                    }
                }
            };
            if !self.pause(pause) {
                return;
            }
        }
    }

    /// Whoever asks while the members know that this client may not be let in is told at once.
    fn note_refusal(&self, error: Option<&Error>) {
        self.state.lock().refused = error.filter(|error| matches!(error, Error::Unauthenticated(_))).cloned();
    }

    /// A panic while opening must not leave the questions without anybody who looks for their owner.
    pub(super) fn find_owner_guarded(&self) -> Result<Owner> {
        catch_unwind(AssertUnwindSafe(|| self.find_owner())).unwrap_or_else(|panic| {
            let why = format!("{PANICKED}: {}", words(&*panic));
            log::error!("{why}");
            let mut state = self.state.lock();
            let dir = self.directory().filter(|_| state.crashes.add(None));
            Err(dir.map_or(Error::Poisoned(why.clone()), |dir| state.crashes.error(dir, &why)))
        })
    }

    fn directory(&self) -> Option<&Path> {
        match &self.at {
            Whereabouts::Directory(config) => Some(&config.dir),
            Whereabouts::Cluster(_) => None,
        }
    }

    /// Waits. False: nobody is sought any more.
    fn pause(&self, span: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + span;
        while matches!(state.owner, Owner::Sought(_)) {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return matches!(state.owner, Owner::Sought(_));
            }
        }
        false
    }

    fn give_up(&self, error: &Error) {
        log::error!("no node is sought for {} any more: {error}", self.place());
        let mut state = self.state.lock();
        if let Owner::Gone(_) = state.owner {
            return; // Closed meanwhile.
        }
        let owner = std::mem::replace(&mut state.owner, Owner::Gone(error.clone()));
        drop(state);
        self.changed.notify_all();
        let questions = match owner {
            Owner::Sought(parked) => std::mem::take(&mut *parked.lock()),
            Owner::Other(remote) => remote.orphans(),
            _ => Vec::new(),
        };
        questions.into_iter().for_each(|question| question.answer(Err(error.clone())));
    }

    fn refuse_parked(&self, error: &Error) {
        let Owner::Sought(parked) = &self.state.lock().owner else { return };
        let questions = std::mem::take(&mut *parked.lock());
        if questions.is_empty() {
            return;
        }
        let error = error.clone();
        // Not on this thread: an answer may lead to a question, and that to a lock that is held here.
        let answer = move || questions.into_iter().for_each(|question| question.answer(Err(error.clone())));
        if let Err(error) = std::thread::Builder::new().name("raftwork-refuse".into()).spawn(answer) {
            log::error!("no thread to answer on, so these calls wait until their time is over: {error}");
        }
    }
}

/// Lets go of an owner: one that is not needed, or that failed.
pub(super) fn end(owner: Owner) {
    match owner {
        Owner::Us(node, server) => {
            server.prepare_to_close();
            // Nobody is left to be told why.
            let _ = node.close();
            server.close();
        }
        Owner::Other(remote) => remote.end(),
        _ => {}
    }
}
