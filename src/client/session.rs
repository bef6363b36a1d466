//! One session: numbers its requests, knows which are unanswered, opens itself when it is first needed.
//!
//! Invariants
//! * A sequence is used for one command only. It is sent again only with the same bytes.
//! * `acked_up_to` is below every unanswered sequence, so no answer that someone waits for is ever forgotten.
//! * At most [`WINDOW`] sequences are between the oldest unanswered one and the newest, fewer than the machine keeps.
//! * A command is numbered anew only if it certainly was not applied: the answer "session expired" says so, as whoever had
//!   to ask twice answers `Unknown` in its place.

use super::patience::{Patience, Slot};
use super::reading::Seen;
use super::request::{self, accepted, op, Failure};
use crate::attach::{Backend, Done};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{limits, Clock, Error, Millis, Result, SessionId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Sequences in flight.
const WINDOW: u64 = limits::REPLIES_MAX as u64 / 2;
/// Commands that may wait for the session to open, or for room in the window.
const WAITING_MAX: usize = limits::INBOX_REQUESTS_MAX;
/// How often one command may meet an expired session before its caller is told.
const REOPENS_MAX: usize = 3;
/// Before a session that could not be opened is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

const _: () = assert!(WINDOW as usize <= limits::ATTACHED_REQUESTS_MAX);

/// What a session says about its process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// "client" or "worker".
    pub kind: String,
    pub ttl: Millis,
    pub host: String,
    pub pid: u64,
    pub labels: Vec<(String, String)>,
}

/// One session over a backend.
pub struct Session {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    /// Whether a new session is opened when this one has ended. A worker's is not: its leases are gone with it. Its first one
    /// is tried again as any other.
    reopens: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// When the last heartbeat was sent that was then confirmed, on the boot-time clock.
    confirmed_ms: AtomicU64,
    /// What the process was told, whichever of its sessions was.
    seen: Arc<Seen>,
}

struct State {
    stage: Stage,
    next: u64,
    unanswered: BTreeSet<u64>,
    waiting: VecDeque<Waiting>,
    /// Why the last try to open it failed.
    failed: Option<Error>,
}

/// A command that has no number yet.
struct Waiting {
    command: Vec<u8>,
    done: Done<Vec<u8>>,
    /// How often it may still meet an expired session.
    tries: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Unopened,
    Opening,
    Open(SessionId),
    Ended(Error),
}

/// A command with its place in a session.
struct Numbered {
    session: SessionId,
    sequence: u64,
    request: Vec<u8>,
}

impl Session {
    pub fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        identity: Identity,
        reopens: bool,
        seen: Arc<Seen>,
    ) -> Arc<Self> {
        let (unanswered, waiting) = (BTreeSet::new(), VecDeque::new());
        let state = State { stage: Stage::Unopened, next: 1, unanswered, waiting, failed: None };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Self { backend, clock, identity, reopens, state, changed, confirmed_ms: AtomicU64::new(0), seen })
    }

    /// The session's id; opens it first if need be. Tries again for as long as the patience lasts if the same may succeed in a
    /// moment; any other failure is told at once.
    pub fn id(self: &Arc<Self>, patience: &mut Patience<'_>) -> Result<SessionId> {
        let mut state = self.state.lock();
        let mut tried = false;
        loop {
            match &state.stage {
                Stage::Open(id) => return Ok(*id),
                Stage::Ended(error) => return Err(error.clone()),
                Stage::Unopened if tried => {
                    let failed = state.failed.clone().filter(|error| !is_passing(error) || patience.is_over());
                    failed.map_or(Ok(()), Err)?;
                    self.changed.wait_for(&mut state, RETRY_PAUSE);
                    MutexGuard::unlocked(&mut state, || patience.check())?;
                    tried = false;
                }
                Stage::Unopened => {
                    tried = true;
                    state.stage = Stage::Opening;
                    MutexGuard::unlocked(&mut state, || self.open());
                }
                Stage::Opening => {
                    tried = true;
                    if !patience.wait(&self.changed, &mut state)? {
                        return Err(Error::TimedOut("the session is not open yet".into()));
                    }
                }
            }
        }
    }

    /// The id if the session is open now.
    pub fn id_now(&self) -> Option<SessionId> {
        match self.state.lock().stage {
            Stage::Open(id) => Some(id),
            _ => None,
        }
    }

    /// Writes one command and waits for the answer: a reply that says yes.
    pub fn submit(
        self: &Arc<Self>,
        command: &[u8],
        patience: &mut Patience<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        for _ in 0..REOPENS_MAX {
            let numbered = self.number_when_open(command, patience)?;
            let Numbered { session, sequence, request } = numbered;
            let reply = match &mut patience.check {
                Some(check) => self.backend.submit(request, patience.deadline, check),
                None => self.backend.submit(request, patience.deadline, &mut || Ok(())),
            };
            self.answered(session, sequence);
            let reply = reply.map_err(unknown_if_late)?;
            self.seen.note_reply(&reply);
            match accepted(&reply) {
                Ok(_) => return Ok(reply),
                Err(Failure::Error(Error::SessionExpired)) => self.settle_expired(session)?,
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Error(Error::SessionExpired))
    }

    /// Writes one command; `done` gets the reply, which may say no.
    pub fn start(self: &Arc<Self>, command: Vec<u8>, done: Done<Vec<u8>>) {
        self.start_again(Waiting { command, done, tries: REOPENS_MAX });
    }

    fn start_again(self: &Arc<Self>, waiting: Waiting) {
        let mut state = self.state.lock();
        match state.stage.clone() {
            Stage::Open(id) if state.has_room() => {
                let numbered = self.number(&mut state, id, &waiting.command);
                drop(state);
                self.send(numbered, waiting);
            }
            Stage::Ended(error) => {
                drop(state);
                (waiting.done)(Err(error));
            }
            _ if state.waiting.len() >= WAITING_MAX => {
                drop(state);
                (waiting.done)(Err(Error::Overloaded(format!("{WAITING_MAX} commands of this process wait already"))));
            }
            stage => {
                let unopened = stage == Stage::Unopened;
                state.waiting.push_back(waiting);
                if unopened {
                    state.stage = Stage::Opening;
                    drop(state);
                    self.open();
                }
            }
        }
    }

    /// Ends the session. Leases that it still holds are given back without spending an attempt. Where nobody can be told
    /// now, it ends when its time to live is over: that is no error.
    pub fn close(self: &Arc<Self>, patience: &mut Patience<'_>) -> Result<()> {
        let Some(id) = self.end(Error::Closed) else { return Ok(()) };
        self.backend.release_hold(id);
        let mut command = Writer::new();
        command.array(2).u64(op::CLOSE_SESSION).u64(id.0);
        let slot = Slot::new();
        self.backend.start(request::envelope(SessionId(0), 0, 0, command.as_bytes()), slot.filler());
        match slot.wait(patience) {
            Err(error) if is_passing(&error) => {
                log::info!("session {} was not closed, it ends when its time to live is over: {error}", id.0);
                Ok(())
            }
            told => told.map(drop),
        }
    }

    /// The session is over for everyone: commands that wait are refused, later ones too. Gives its id if it was open.
    pub fn end(&self, error: Error) -> Option<SessionId> {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let before = std::mem::replace(&mut state.stage, Stage::Ended(error.clone()));
        drop(state);
        self.changed.notify_all();
        waiting.into_iter().for_each(|waiting| (waiting.done)(Err(error.clone())));
        match before {
            Stage::Open(id) => Some(id),
            _ => None,
        }
    }

    /// Somebody who knows says that the session with this id has ended.
    pub fn expired(&self, id: SessionId) {
        let mut state = self.state.lock();
        if state.stage != Stage::Open(id) {
            return;
        }
        state.unanswered.clear();
        state.next = 1;
        if self.reopens {
            state.stage = Stage::Unopened;
            drop(state);
            self.changed.notify_all();
        } else {
            drop(state);
            self.end(Error::SessionExpired);
        }
    }

    /// Tells whoever decides that the process lives, and remembers when that was confirmed.
    pub fn beat(self: &Arc<Self>) {
        let Some(id) = self.id_now() else { return };
        let (session, sent) = (self.clone(), self.clock.monotonic());
        self.backend.heartbeat(
            id,
            Box::new(move |confirmed| match confirmed {
                Ok(()) => session.confirmed(sent),
                Err(Error::SessionExpired) => session.expired(id),
                Err(_) => {}
            }),
        );
    }

    /// How long until the next sign of life is due: a third of the time to live after the last one that was confirmed. One
    /// that nobody confirmed does not count, so two more have their chance before this side gives up its leases.
    pub fn beat_due_in(&self) -> Millis {
        let confirmed = Millis(self.confirmed_ms.load(Ordering::Acquire));
        Millis((self.identity.ttl.0 / 3).saturating_sub(self.clock.monotonic().since(confirmed).0))
    }

    /// Whether this side must take its leases for lost: no heartbeat was confirmed for two thirds of the time to live.
    pub fn is_lapsed(&self) -> bool {
        let confirmed = Millis(self.confirmed_ms.load(Ordering::Acquire));
        let silent = self.clock.monotonic().since(confirmed);
        silent.0 > self.identity.ttl.0 * 2 / 3 && !self.backend.is_local()
    }

    /// How long until this side must take its leases for lost, if nothing is confirmed meanwhile.
    pub fn until_lapse(&self) -> Duration {
        let confirmed = Millis(self.confirmed_ms.load(Ordering::Acquire));
        let silent = self.clock.monotonic().since(confirmed);
        Duration::from_millis((self.identity.ttl.0 * 2 / 3 + 1).saturating_sub(silent.0).max(1))
    }

    /// Why it is over for good, if it is.
    pub fn ended(&self) -> Option<Error> {
        match &self.state.lock().stage {
            Stage::Ended(error) => Some(error.clone()),
            _ => None,
        }
    }

    pub fn ttl(&self) -> Millis {
        self.identity.ttl
    }

    fn confirmed(&self, sent: Millis) {
        self.confirmed_ms.fetch_max(sent.0, Ordering::AcqRel);
    }

    fn open(self: &Arc<Self>) {
        let me = &self.identity;
        let mut command = Writer::new();
        command.array(6).u64(op::OPEN_SESSION).u64(me.ttl.0).str(&me.kind).str(&me.host).u64(me.pid);
        command.array(me.labels.len());
        for (name, value) in &me.labels {
            command.array(2).str(name).str(value);
        }
        let (session, sent) = (self.clone(), self.clock.monotonic());
        let request = request::envelope(SessionId(0), 0, 0, command.as_bytes());
        self.backend.start(request, Box::new(move |reply| session.opened(sent, reply)));
    }

    fn opened(self: &Arc<Self>, sent: Millis, reply: Result<Vec<u8>>) {
        let id = reply.and_then(|reply| session_in(&reply));
        if let Ok(id) = id {
            self.confirmed(sent);
            self.backend.hold(id);
        }
        let mut state = self.state.lock();
        if state.stage != Stage::Opening {
            return; // Closed meanwhile. The new session lapses by itself.
        }
        match id {
            Ok(id) => {
                state.stage = Stage::Open(id);
                state.next = 1;
                drop(state);
                self.changed.notify_all();
                // The owner behind a socket learns by this whose session it is.
                self.beat();
                self.send_waiting();
            }
            Err(error) => {
                let waiting = std::mem::take(&mut state.waiting);
                state.failed = Some(error.clone());
                // One that nobody has had yet is lost to nobody. What was opened all the same lapses by itself.
                let again = self.reopens || is_passing(&error);
                state.stage = if again { Stage::Unopened } else { Stage::Ended(error.clone()) };
                drop(state);
                self.changed.notify_all();
                let unsent = match error {
                    Error::Unknown(why) | Error::TimedOut(why) => {
                        Error::NotCommitted(format!("its session was not opened: {why}"))
                    }
                    other => other,
                };
                waiting.into_iter().for_each(|waiting| (waiting.done)(Err(unsent.clone())));
            }
        }
    }

    fn number_when_open(self: &Arc<Self>, command: &[u8], patience: &mut Patience<'_>) -> Result<Numbered> {
        loop {
            let id = self.id(patience)?;
            let mut state = self.state.lock();
            if state.stage != Stage::Open(id) {
                continue;
            }
            if state.has_room() {
                return Ok(self.number(&mut state, id, command));
            }
            if !patience.wait(&self.changed, &mut state)? {
                return Err(Error::Overloaded(format!("{WINDOW} requests of this process are unanswered")));
            }
        }
    }

    fn number(&self, state: &mut State, session: SessionId, command: &[u8]) -> Numbered {
        let sequence = state.next;
        state.next += 1;
        state.unanswered.insert(sequence);
        let acked = state.oldest() - 1;
        let request = request::envelope(session, sequence, acked, command);
        Numbered { session, sequence, request }
    }

    /// Nobody waits for this answer any more: it came, or its caller gave up.
    fn answered(self: &Arc<Self>, session: SessionId, sequence: u64) {
        let mut state = self.state.lock();
        if state.stage != Stage::Open(session) {
            return;
        }
        let had_room = state.has_room();
        state.unanswered.remove(&sequence);
        let (gained, waiting) = (!had_room && state.has_room(), !state.waiting.is_empty());
        drop(state);
        if gained {
            self.changed.notify_all();
        }
        if waiting {
            self.send_waiting();
        }
    }

    fn send_waiting(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Stage::Open(id) = state.stage else { return };
            if !state.has_room() {
                return;
            }
            let Some(waiting) = state.waiting.pop_front() else { return };
            let numbered = self.number(&mut state, id, &waiting.command);
            drop(state);
            self.send(numbered, waiting);
        }
    }

    fn send(self: &Arc<Self>, numbered: Numbered, waiting: Waiting) {
        let Numbered { session, sequence, request } = numbered;
        let this = self.clone();
        let finish = move |reply: Result<Vec<u8>>| {
            this.answered(session, sequence);
            reply.iter().for_each(|reply| this.seen.note_reply(reply));
            let expired = matches!(&reply, Ok(reply) if is_expired(reply));
            let Waiting { command, done, tries } = waiting;
            if !expired {
                return done(reply.map_err(unknown_if_late));
            }
            match this.settle_expired(session) {
                Ok(()) if tries > 0 => this.start_again(Waiting { command, done, tries: tries - 1 }),
                Ok(()) => done(Err(Error::SessionExpired)),
                Err(error) => done(Err(error)),
            }
        };
        self.backend.start(request, Box::new(finish));
    }

    /// After the answer "session expired": whether the command may be sent again under a new one.
    fn settle_expired(&self, session: SessionId) -> Result<()> {
        self.expired(session);
        if self.reopens {
            Ok(())
        } else {
            Err(Error::SessionExpired)
        }
    }
}

impl State {
    fn oldest(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next)
    }

    fn has_room(&self) -> bool {
        self.next - self.oldest() < WINDOW
    }
}

fn session_in(reply: &[u8]) -> Result<SessionId> {
    match accepted(reply) {
        Ok((_, payload)) => Reader::new(payload).u64().map(SessionId),
        Err(Failure::Error(error)) => Err(error),
        Err(Failure::Refused { message, .. }) => Err(Error::Invalid(message)),
    }
}

fn is_expired(reply: &[u8]) -> bool {
    matches!(accepted(reply), Err(Failure::Error(Error::SessionExpired)))
}

/// Whether the same may succeed in a moment: nobody could be asked, or too many ask.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::NotCommitted(_) | Error::Unknown(_) | Error::TimedOut(_) | Error::Overloaded(_))
}

/// A write whose answer did not come in time may still be applied.
fn unknown_if_late(error: Error) -> Error {
    match error {
        Error::TimedOut(why) => Error::Unknown(why),
        other => other,
    }
}
