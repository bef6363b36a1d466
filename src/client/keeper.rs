//! One session and the locks that it holds or waits for: the client's side of `machine::locks`.
//!
//! ```text
//! Asking ── a token ───────────────────> Held ── released ──> Leaving ── answered ──> (gone)
//!    └───── none ──> Waiting ── granted ──┘ └─── the session is lost ──> Lost
//! Asking, Waiting ── gave up ──> Leaving
//! ```
//!
//! What holds
//! * Each try to get a lock has a number of its own, so what comes late for an earlier one concerns nobody.
//! * The end of a try is told until it is answered, and never while a request for the lock is under way: the machine hears
//!   of the end last. Where it is unknown whether a request was applied, the whole session ends.
//! * No grant is missed: the first answer begins the watch of the session, and whoever was told to wait without one asks
//!   again where it stands; so does everybody who waits when the owner of the state changed.
//! * Who is not allowed to does not ask all the time: the next try has a long pause, and the log says why, once.
//! * Nothing of the backend or of a caller is called under the lock of this module.

use super::patience::Patience;
use super::request::{accepted, Failure};
use super::session::Session;
use crate::attach::{Backend, WatchEvent, WatchId, Watcher};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{limits, Error, LeaseToken, Result};
use crate::machine::Mode;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The longest pause between two looks.
pub const LOOK_MAX: Duration = Duration::from_secs(1);

const LOCK: u64 = 30;
const UNLOCK: u64 = 31;
const GIVE_UP: u64 = 32;
const ACQUIRE: u64 = 60;

type Outcome<T> = std::result::Result<T, Failure>;
/// Called once with the token; nothing: somebody else holds it, and this try did not want to wait.
pub type Told = Box<dyn FnOnce(Outcome<Option<LeaseToken>>) + Send>;
pub type Released = Box<dyn FnOnce(Outcome<()>) + Send>;
/// What is to be called when the state is free again.
type Calls = Vec<Box<dyn FnOnce() + Send>>;

/// How a try stands, for its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no token yet, or not any more.
    Without,
    Held(LeaseToken),
    Lost(LeaseToken),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asking,
    Waiting,
    Held(LeaseToken),
    /// It gave up, or released this token.
    Leaving(Option<LeaseToken>),
    Lost(LeaseToken),
}

struct Try {
    name: String,
    mode: Mode,
    waits: bool,
    stage: Stage,
    /// A request about it is under way.
    under_way: bool,
    /// It is to be asked again then.
    again: Option<Instant>,
    /// The last answer was a denial.
    denied: bool,
    /// Whether the newest request was sent while this session was watched.
    watched: bool,
    /// The machine knows it: it is not over before that is told.
    known: bool,
    told: Option<Told>,
    released: Option<Released>,
    lost: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

#[derive(Default)]
struct State {
    last: u64,
    tries: BTreeMap<u64, Try>,
    watch: Option<WatchId>,
    ended: Option<Error>,
}

/// A session that exists for locks.
pub struct Keeper {
    backend: Arc<dyn Backend>,
    session: Arc<Session>,
    state: Mutex<State>,
    /// A try is lost, released or held.
    changed: Condvar,
    me: Weak<Keeper>,
}

impl Try {
    /// When to ask again for what got this answer, if it must be.
    fn next_try<A>(&mut self, outcome: &Outcome<A>) -> Instant {
        let denial = match outcome {
            Err(Failure::Error(error @ (Error::Denied { .. } | Error::Unauthenticated(_)))) => Some(error),
            _ => None,
        };
        let told = std::mem::replace(&mut self.denied, denial.is_some());
        let Some(error) = denial else { return Instant::now() };
        let pause = Duration::from_millis(limits::DENIED_PAUSE_MS);
        if !told {
            let (name, seconds) = (&self.name, pause.as_secs());
            log::warn!(
                "the lock {name:?} is neither had nor given back, which is tried again every {seconds} s: {error}"
            );
        }
        Instant::now() + pause
    }
}

impl Keeper {
    pub fn new(backend: Arc<dyn Backend>, session: Arc<Session>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new_cyclic(|me| Self { backend, session, state, changed, me: me.clone() })
    }

    /// Whether it can hold nothing any more.
    pub fn has_ended(&self) -> bool {
        self.mind_session();
        self.state.lock().ended.is_some()
    }

    /// Waits until locks can be asked for: a passing error must not end whoever has just begun.
    pub fn ready(&self, patience: &mut Patience<'_>) -> Result<()> {
        self.session.id(patience).map(drop)
    }

    /// Begins to get a lock; gives the number of this try.
    pub fn begin(&self, name: &str, mode: Mode, waits: bool, told: Told) -> u64 {
        let mut state = self.state.lock();
        if let Some(error) = state.ended.clone() {
            drop(state);
            told(Err(error.into()));
            return 0;
        }
        state.last += 1;
        let number = state.last;
        let name = name.to_owned();
        let (stage, told) = (Stage::Asking, Some(told));
        let (under_way, again, denied, watched, known) = (false, None, false, false, false);
        let (released, lost) = (None, Vec::new());
        let new = Try { name, mode, waits, stage, under_way, again, denied, watched, known, told, released, lost };
        state.tries.insert(number, new);
        self.send(state, number);
        number
    }

    /// The try is over unless it holds the lock by now; gives the token then.
    pub fn give_up(&self, number: u64) -> Option<LeaseToken> {
        let mut state = self.state.lock();
        let found = state.tries.get_mut(&number)?;
        match found.stage {
            Stage::Held(token) => return Some(token),
            Stage::Asking | Stage::Waiting => {
                found.stage = Stage::Leaving(None);
                // Dropped when the state is free: a closure may own anything.
                let _forgotten = found.told.take();
                self.send(state, number);
            }
            Stage::Leaving(_) | Stage::Lost(_) => {}
        }
        None
    }

    /// Gives a held lock back. `released` learns whether it was held until then.
    pub fn release(&self, number: u64, released: Released) {
        self.mind_session();
        let mut state = self.state.lock();
        match state.tries.get_mut(&number) {
            Some(held) if matches!(held.stage, Stage::Held(_)) => {
                let Stage::Held(token) = held.stage else { unreachable!("just looked") };
                (held.stage, held.released) = (Stage::Leaving(Some(token)), Some(released));
                let waits = std::mem::take(&mut held.lost);
                self.send(state, number);
                self.changed.notify_all();
                waits.into_iter().for_each(|(_, tell)| tell());
            }
            other => {
                let name = other.map(|lost| lost.name.clone()).unwrap_or_default();
                state.tries.remove(&number);
                drop(state);
                released(Err(lost(&name)));
            }
        }
    }

    /// How this try stands now. A session that was silent for too long counts as lost from that moment on.
    pub fn standing(&self, number: u64) -> Standing {
        self.mind_session();
        match self.state.lock().tries.get(&number).map(|found| found.stage) {
            Some(Stage::Held(token)) => Standing::Held(token),
            Some(Stage::Lost(token)) => Standing::Lost(token),
            _ => Standing::Without,
        }
    }

    /// Waits until a held lock is lost. False: it was not until the patience ended, or it is held no more.
    pub fn wait_lost(&self, number: u64, patience: &mut Patience<'_>) -> Result<bool> {
        self.mind_session();
        let mut state = self.state.lock();
        loop {
            match state.tries.get(&number).map(|found| found.stage) {
                Some(Stage::Lost(_)) => return Ok(true),
                Some(Stage::Held(_)) => {}
                _ => return Ok(false),
            }
            if !patience.wait(&self.changed, &mut state)? {
                return Ok(false);
            }
        }
    }

    /// Calls `tell` when a held lock is lost or released, at once if it is not held. `ticket` names the wait for `forget_lost`.
    pub fn when_lost(&self, number: u64, ticket: u64, tell: impl FnOnce() + Send + 'static) {
        self.mind_session();
        let mut state = self.state.lock();
        match state.tries.get_mut(&number).filter(|found| matches!(found.stage, Stage::Held(_))) {
            Some(held) => held.lost.push((ticket, Box::new(tell))),
            None => {
                drop(state);
                tell();
            }
        }
    }

    pub fn forget_lost(&self, number: u64, ticket: u64) {
        let mut state = self.state.lock();
        let Some(found) = state.tries.get_mut(&number) else { return };
        let place = found.lost.iter().position(|(other, _)| *other == ticket);
        let _forgotten = place.map(|place| found.lost.swap_remove(place));
    }

    /// Ends the session; whatever it holds is free then.
    pub fn close(&self, patience: &mut Patience<'_>) -> Result<()> {
        // First, so that whoever waits is told why, and does not begin anew.
        self.let_go(&Error::Closed);
        self.session.close(patience)
    }

    /// Looks whether the session is lost.
    fn mind_session(&self) {
        if let Some(error) = self.session.ended() {
            self.end(&error);
        } else if self.session.id_now().is_some() && self.session.is_lapsed() {
            log::warn!("no sign of life was confirmed for two thirds of a session's time: its locks count as lost");
            self.end(&Error::SessionExpired);
        }
    }

    /// Does that, asks again what did not get through, and tells when to look again.
    pub fn look(&self) -> Duration {
        self.mind_session();
        let state = self.state.lock();
        let now = Instant::now();
        let is_due = |found: &Try| found.again.is_some_and(|at| at <= now);
        let stuck: Vec<u64> =
            state.tries.iter().filter(|(_, found)| is_due(found)).map(|(number, _)| *number).collect();
        drop(state);
        stuck.into_iter().for_each(|number| self.send(self.state.lock(), number));
        match self.session.id_now() {
            Some(_) if !self.backend.is_local() => self.session.until_lapse(),
            _ => LOOK_MAX,
        }
    }

    /// Asks what the stage of a try calls for, unless a request about it is under way: then it is looked at again after it.
    fn send(&self, mut state: MutexGuard<'_, State>, number: u64) {
        let watched = state.watch.is_some();
        let Some(found) = state.tries.get_mut(&number).filter(|found| !found.under_way) else { return };
        let mut command = Writer::new();
        match (found.stage, found.released.is_some()) {
            // The command that clusters of every level know.
            (Stage::Asking | Stage::Waiting, _) if found.mode == Mode::Lock => {
                command.array(4).u64(LOCK).u64(number).str(&found.name).bool(found.waits)
            }
            (Stage::Asking | Stage::Waiting, _) => {
                command.array(6).u64(ACQUIRE).u64(number).str(&found.name);
                found.mode.encode(&mut command);
                command.bool(found.waits)
            }
            (Stage::Leaving(Some(token)), true) => command.array(3).u64(UNLOCK).str(&found.name).u64(token.0),
            (Stage::Leaving(_), _) => command.array(2).u64(GIVE_UP).u64(number),
            (Stage::Held(_) | Stage::Lost(_), _) => return,
        };
        let asks = matches!(found.stage, Stage::Asking | Stage::Waiting);
        (found.under_way, found.again, found.watched) = (true, None, watched);
        drop(state);
        let me = self.me.clone();
        let answered = move |reply: Result<Vec<u8>>| {
            let Some(keeper) = me.upgrade() else { return };
            let outcome = reply.map_err(Failure::Error).and_then(|reply| token_in(&reply));
            if asks {
                keeper.asked(number, outcome);
            } else {
                keeper.left(number, outcome.map(drop));
            }
        };
        self.session.start(command.into_bytes(), Box::new(answered));
    }

    /// The answer to a request for a lock.
    fn asked(&self, number: u64, outcome: Outcome<Option<LeaseToken>>) {
        match &outcome {
            Err(Failure::Error(Error::Closed)) => return self.end(&Error::Closed),
            // It may have been applied, or may be later: only the end of the session is certain to undo it.
            Err(Failure::Error(Error::SessionExpired | Error::Unknown(_) | Error::TimedOut(_))) => {
                return self.end(&Error::SessionExpired);
            }
            _ => {}
        }
        self.watch_once();
        let mut state = self.state.lock();
        let Some(found) = state.tries.get_mut(&number) else { return };
        let again_at = found.next_try(&outcome);
        found.under_way = false;
        found.known |= matches!(outcome, Ok(Some(_))) || (outcome.is_ok() && found.waits);
        match (found.stage, &outcome) {
            (Stage::Asking | Stage::Waiting, Ok(Some(token))) => {
                (found.stage, found.again) = (Stage::Held(*token), None)
            }
            (Stage::Asking, Ok(None)) if found.waits => {
                found.stage = Stage::Waiting;
                // What was granted between the answer and the watch was told to nobody.
                if found.again.is_some() || !found.watched {
                    self.send(state, number);
                }
                return;
            }
            (Stage::Waiting, Ok(None)) if found.again.is_some() => return self.send(state, number),
            (Stage::Waiting, Err(_)) => return found.again = Some(again_at),
            (Stage::Leaving(_), _) if found.known => return self.send(state, number),
            // It is over before it began.
            (Stage::Asking | Stage::Leaving(_), _) => {}
            (Stage::Waiting | Stage::Held(_) | Stage::Lost(_), _) => return,
        }
        let told = found.told.take();
        if !found.known {
            state.tries.remove(&number);
        }
        drop(state);
        self.changed.notify_all();
        if let Some(told) = told {
            told(outcome);
        }
    }

    /// Begins to watch, once the session is open.
    fn watch_once(&self) {
        if self.state.lock().watch.is_some() {
            return;
        }
        let Some(id) = self.session.id_now() else { return };
        let watch = self.backend.watch(id, Arc::new(Sink(self.me.clone())));
        let mut state = self.state.lock();
        let superfluous = match state.ended {
            None => state.watch.replace(watch),
            Some(_) => Some(watch),
        };
        drop(state);
        superfluous.into_iter().for_each(|watch| self.backend.unwatch(watch));
    }

    /// The answer to the end of a try.
    fn left(&self, number: u64, outcome: Outcome<()>) {
        if let Err(Failure::Error(error @ (Error::SessionExpired | Error::Closed))) = &outcome {
            return self.end(error);
        }
        let mut state = self.state.lock();
        let Some(found) = state.tries.get_mut(&number) else { return };
        let again_at = found.next_try(&outcome);
        found.under_way = false;
        let (name, released) = (found.name.clone(), found.released.take());
        let settled = matches!(outcome, Ok(()) | Err(Failure::Refused { .. }));
        if settled {
            state.tries.remove(&number);
        } else {
            // Until it is known: nothing may be given to who does not want it any more.
            found.again = Some(again_at);
        }
        drop(state);
        if let Some(released) = released {
            released(match outcome {
                Err(Failure::Refused { code, .. }) if code == "lease_lost" => Err(lost(&name)),
                other => other,
            });
        }
    }

    fn granted(&self, number: u64, token: LeaseToken) {
        let mut state = self.state.lock();
        let Some(found) = state.tries.get_mut(&number) else { return };
        if !matches!(found.stage, Stage::Asking | Stage::Waiting) {
            return; // Told already; or it leaves, which is told to the machine without this.
        }
        (found.stage, found.known, found.again) = (Stage::Held(token), true, None);
        let told = found.told.take();
        drop(state);
        self.changed.notify_all();
        if let Some(told) = told {
            told(Ok(Some(token)));
        }
    }

    /// The owner of the state changed: grants may have been told to nobody.
    fn ask_again(&self) {
        let mut state = self.state.lock();
        let mut waiting = Vec::new();
        for (number, found) in &mut state.tries {
            if matches!(found.stage, Stage::Asking | Stage::Waiting) {
                found.again = Some(Instant::now());
                waiting.push(*number);
            }
        }
        drop(state);
        waiting.into_iter().for_each(|number| self.send(self.state.lock(), number));
    }

    /// The session is over, and its signs of life with it.
    fn end(&self, error: &Error) {
        if !self.let_go(error) {
            return;
        }
        if let Some(id) = self.session.end(error.clone()) {
            self.backend.release_hold(id);
        }
    }

    /// Nothing is held from here on. Whoever waited may begin anew, in another session. False: it was so already.
    fn let_go(&self, error: &Error) -> bool {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return false;
        }
        state.ended = Some(error.clone());
        let mut calls = Calls::new();
        state.tries.retain(|_, found| {
            calls.extend(std::mem::take(&mut found.lost).into_iter().map(|(_, tell)| tell));
            let (told, released, error) = (found.told.take(), found.released.take(), error.clone());
            let name = found.name.clone();
            calls.extend(told.map(|told| Box::new(move || told(Err(error.into()))) as Box<dyn FnOnce() + Send>));
            calls.extend(
                released.map(|released| Box::new(move || released(Err(lost(&name)))) as Box<dyn FnOnce() + Send>),
            );
            let Stage::Held(token) = found.stage else { return matches!(found.stage, Stage::Lost(_)) };
            found.stage = Stage::Lost(token);
            true
        });
        let watch = state.watch.take();
        drop(state);
        self.changed.notify_all();
        watch.into_iter().for_each(|watch| self.backend.unwatch(watch));
        calls.into_iter().for_each(|call| call());
        true
    }
}

/// Receives the events of the session, without keeping anything alive.
struct Sink(Weak<Keeper>);

impl Watcher for Sink {
    fn event(&self, event: WatchEvent) {
        let Some(keeper) = self.0.upgrade() else { return };
        match event {
            WatchEvent::Granted(number, token) => keeper.granted(number, token),
            WatchEvent::Ready => keeper.ask_again(),
            WatchEvent::SessionClosed => keeper.end(&Error::SessionExpired),
            WatchEvent::NodeClosed => keeper.end(&Error::Closed),
            WatchEvent::Refused => keeper.end(&Error::Overloaded("this process watches too much at its node".into())),
            WatchEvent::Cancel(..) | WatchEvent::Lost(..) | WatchEvent::Lines(_) => {}
        }
    }
}

fn lost(name: &str) -> Failure {
    let message = format!("the lock {name:?} was lost before it was released");
    Failure::Refused { code: "lock_lost".into(), message, details: vec![0xc0] }
}

fn token_in(reply: &[u8]) -> Outcome<Option<LeaseToken>> {
    let (_, payload) = accepted(reply)?;
    Ok(Reader::new(payload).option(|reader| reader.u64())?.map(LeaseToken))
}
