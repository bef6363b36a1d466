//! Driving: one thread at a time turns requests into answers.
//!
//! ```text
//! caller   push ── nobody drives? ── drive: take all ─ turn (one write, one sync) ─ answer all ── own answer there? leave
//!                └ somebody drives:  park until answered                              └ more work? to the core thread
//! core     parked until given the role, then the same until nothing is left
//! ```
//!
//! The first waiter commits for all: a lone caller pays for no thread but its own. While a group is being synced the next
//! one gathers in the inbox, so groups grow with the load by themselves.
//!
//! What holds
//! * A panic in a turn, or an error that the replica cannot go on after, ends the node and not the process: everyone who
//!   waits is answered, `Unknown` if the request was taken out of the inbox, `NotCommitted` if not.
//! * Sessions are known before the answer that opened them leaves.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::counters::Underway;
use super::inbox::{Batch, Chore};
use super::metrics::FAILED;
use super::ticket::{Slot, Ticket};
use super::{Done, Shared};
use crate::base::{Error, Result, SessionId};
use crate::disk::gone;
use crate::net::together;
use crate::replica::{Replica, Role, Turn, Whom};

/// What only the driver touches.
pub(super) struct Engine {
    pub replica: Replica<Ticket>,
    /// Who wants a snapshot that is not begun yet, and who waits for the one that is being written.
    pub wanted: Vec<Done<()>>,
    pub writing: Vec<Done<()>>,
    pub underway: Underway,
}

/// Turns of `drive_briefly`: one to write what arrived, and one for what the others said meanwhile.
const BRIEFLY: usize = 2;

/// What a node says that is no member any more.
const REMOVED: &str =
    "this node was removed from the cluster; to add this machine again, set its data directory aside and \
                       start the node";

/// Who waited for a snapshot, and what became of it.
type Told = Vec<(Done<()>, Result<()>)>;

impl Engine {
    pub fn new(replica: Replica<Ticket>) -> Self {
        Self { replica, wanted: Vec::new(), writing: Vec::new(), underway: Underway::default() }
    }

    fn run(&mut self, shared: &Shared, batch: Batch, turn: &mut Turn<Ticket>, told: &mut Told) -> Result<()> {
        let Batch { proposals, chores, letters, ticks, reads, beats, .. } = batch;
        self.replica.receive(letters, turn)?;
        for chore in chores {
            self.do_chore(shared, chore, turn, told)?;
        }
        for _ in 0..ticks {
            self.replica.tick(turn)?;
        }
        if ticks > 0 && self.replica.role() == Role::Leader {
            if let Some(learner) = self.replica.promote_ready(|learner| shared.replaced_by(learner), turn)? {
                log::info!("member {learner} has everything and becomes a voter");
            }
        }
        reads.into_iter().for_each(|ticket| self.replica.read(ticket));
        if !beats.is_empty() {
            let sessions = beats.iter().map(|beat| beat.0).collect();
            self.replica.beat(sessions, Ticket::beats(beats), turn);
        }
        self.replica.begin_turn(shared.now(), proposals, turn)?;
        self.judge_beats(shared, turn);
        if !turn.answers.is_empty() {
            // The letters have left, and the others work; now those work who get an answer, while this thread waits for the
            // disk.
            let mut given = turn.hand_out();
            shared.count_given(&given);
            shared.archiver.deleted(std::mem::take(&mut given.effects.deleted));
            shared.deliver(given);
        }
        self.replica.end_turn(turn)?;
        self.judge_beats(shared, turn);
        if turn.removed || self.replica.is_removed() {
            return Err(shared.leave(REMOVED));
        }
        self.look_at_snapshots(shared, told);
        Ok(())
    }

    fn do_chore(&mut self, shared: &Shared, chore: Chore, turn: &mut Turn<Ticket>, told: &mut Told) -> Result<()> {
        match chore {
            Chore::GivenUp(why) => return Err(shared.leave(&why)),
            Chore::Capture(done) => self.wanted.push(done),
            Chore::Retry => self.replica.seek_room()?,
            Chore::Captured(written) => {
                let outcome = written.state_bytes.clone().map(drop);
                told.extend(self.writing.drain(..).map(|done| (done, outcome.clone())));
                self.replica.captured(written)?;
            }
            Chore::Unreachable(peer) => self.replica.unreachable(peer, turn)?,
            Chore::Gone(peer) => self.replica.gone(peer, turn)?,
            Chore::SnapshotSent { to, arrived } => self.replica.snapshot_sent(to, arrived, turn)?,
            Chore::HandOver => match self.replica.transfer_to_best(turn) {
                // Nobody to hand it to: the others elect somebody when they can.
                Ok(_) | Err(Error::NotCommitted(_)) => {}
                Err(error) => return Err(error),
            },
            Chore::ChangeMembers { change, forced, ticket } => {
                self.replica.change_members(change, forced, ticket, turn)?;
            }
        }
        Ok(())
    }

    /// Counts signs of life, as this node leads, and has their senders told.
    fn judge_beats(&mut self, shared: &Shared, turn: &mut Turn<Ticket>) {
        if let Some(sessions) = &turn.sessions {
            // Before the signs of life of this turn are judged: what it ended must not be told to live (K3).
            shared.sessions.lock().sync(sessions, shared.config.clock.monotonic());
        }
        if turn.beats.is_empty() {
            return;
        }
        let now = shared.config.clock.monotonic();
        let mut known = shared.sessions.lock();
        for beat in std::mem::take(&mut turn.beats) {
            let lost = |session: &SessionId| known.heartbeat(*session, now).is_err();
            let expired: Vec<SessionId> = beat.sessions.into_iter().filter(lost).collect();
            match beat.whom {
                Whom::Here(ticket) => {
                    let expired = expired.iter().flat_map(|session| session.0.to_le_bytes()).collect();
                    turn.answers.push((ticket, Ok(expired)));
                }
                Whom::There { node, number } => self.replica.beaten(node, number, expired),
            }
        }
    }

    fn look_at_snapshots(&mut self, shared: &Shared, told: &mut Told) {
        let (wanted, began) = (!self.wanted.is_empty(), Instant::now());
        if let Some(capture) = self.replica.capture_due(wanted) {
            shared.figures.lock().snapshot_capture_us = (began.elapsed().as_micros() as u64).max(1);
            self.writing.append(&mut self.wanted);
            shared.maintenance.write(capture);
        } else if !self.replica.upkeep().running {
            // Nothing was applied since the last one.
            told.extend(self.wanted.drain(..).map(|done| (done, Ok(()))));
        }
        if self.replica.wal().wants_work() {
            shared.maintenance.clean();
        }
    }
}

impl Shared {
    /// Runs turns until this caller's answer is there, or, for the core thread, until nothing is left to do.
    pub(super) fn drive(&self, mine: Option<&Slot>) {
        loop {
            self.turn();
            if !self.inbox.stay(mine.is_none_or(|slot| !slot.is_filled())) {
                return;
            }
        }
    }

    /// A few turns on a thread that brought work and has more to read; what is left to do then goes to the core thread.
    pub(super) fn drive_briefly(&self) {
        for left in (0..BRIEFLY).rev() {
            self.turn();
            if !self.inbox.stay(left > 0) {
                return;
            }
        }
    }

    /// The life of the core thread.
    pub(super) fn core_loop(&self) {
        while self.inbox.wait_for_role() {
            self.drive(None);
        }
    }

    fn turn(&self) {
        let mut slot = self.engine.lock();
        let batch = self.inbox.take();
        let mut turn = Turn { clock: since_start, rest: std::thread::park_timeout, ..Turn::default() };
        let Some(engine) = slot.as_mut() else {
            drop(slot);
            return batch.refuse(&self.inbox.stopped().unwrap_or(Error::Closed));
        };
        let mut told = Told::new();
        let (ticked, began, proposed) = (batch.ticks > 0, Instant::now(), batch.proposals.len() as u64);
        batch.since.into_iter().for_each(|since| self.counters.waits.add(began - since));
        let run = AssertUnwindSafe(|| engine.run(self, batch, &mut turn, &mut told));
        let mut panicked = false;
        let outcome = catch_unwind(run).unwrap_or_else(|panic| {
            panicked = true;
            Err(Error::Poisoned(format!("panic in a turn: {}", panic_words(&*panic))))
        });
        match &outcome {
            Ok(()) => {
                self.count(engine, &turn, proposed, began);
                self.look_after(engine, turn.applied, ticked);
            }
            Err(error) => self.fail(&mut slot, error, panicked, &mut turn),
        }
        // Before another turn can answer anything: who is told of an entry may rely on its deletions being known here.
        self.archiver.deleted(std::mem::take(&mut turn.effects.deleted));
        drop(slot);
        told.into_iter().for_each(|(done, outcome)| done(outcome));
        self.deliver(turn);
        if outcome.is_err() {
            self.end_everything();
        }
    }

    /// Counts what others are told of a turn.
    fn count_given(&self, turn: &Turn<Ticket>) {
        let counters = &self.counters;
        counters.answered(&turn.answers);
        counters.leases_lost.add(turn.effects.lost.len() as u64);
        counters.sessions_ended.add(turn.effects.closed.len() as u64);
        counters.snapshots_installed.add(turn.restored.into());
    }

    /// Counts what a turn did.
    fn count(&self, engine: &mut Engine, turn: &Turn<Ticket>, proposed: u64, began: Instant) {
        let counters = &self.counters;
        counters.proposals.add(proposed);
        self.count_given(turn);
        if turn.applied > 0 {
            counters.applies.add(turn.applying);
        }
        if engine.replica.role() != Role::Leader {
            counters.forwards.add(proposed);
            return engine.underway.forget();
        }
        if proposed > 0 {
            engine.underway.proposed(engine.replica.last_index(), began);
        }
        engine.underway.applied(engine.replica.applied(), &counters.commits);
    }

    /// What a change of leader means to this node.
    fn mind_leadership(&self, engine: &Engine) {
        let leads = engine.replica.leads_in();
        let leader = engine.replica.leader();
        if leader != std::mem::replace(&mut *self.leader.lock(), leader) && self.post.is_some() {
            let term = engine.replica.term();
            self.counters.leader_changes.add(leader.is_some().into());
            match leader {
                Some(leader) => log::info!("member {leader} leads in term {term}"),
                None => log::info!("no leader is known in term {term}"),
            }
        }
        if leads == std::mem::replace(&mut *self.leads.lock(), leads) {
            return;
        }
        if leads.is_some() {
            let (wall, monotonic) = (self.config.clock.wall(), self.config.clock.monotonic());
            self.stamp.lock().lead(wall, monotonic, engine.replica.stamped());
            self.sessions.lock().restart(monotonic);
        }
        self.timer.leads(leads);
        self.leads_changed.notify_all();
    }

    fn look_after(&self, engine: &Engine, applied: usize, ticked: bool) {
        let stalled = engine.replica.is_stalled();
        self.mind_leadership(engine);
        self.settled.store(engine.replica.settled().0, Ordering::Relaxed);
        let nobody_leads = engine.replica.leader().is_none();
        let in_doubt = engine.replica.doubts().is_some();
        self.inbox.hold_requests(stalled || nobody_leads || in_doubt || !engine.replica.has_room());
        if engine.replica.is_full() {
            self.maintenance.retry_later();
        }
        let mut figures = self.figures.lock();
        let before = (figures.role, figures.term);
        figures.update(&engine.replica, applied);
        self.in_doubt.store(in_doubt, Ordering::Release);
        let campaigns = engine.replica.role() == Role::Candidate && before != (figures.role, figures.term);
        self.counters.elections.add(campaigns.into());
        if ticked {
            figures.members = engine.replica.members();
        }
    }

    /// Hands out what a turn gave. The timer first, as answers may lead to questions about it; then the answers, as
    /// somebody waits for each.
    fn deliver(&self, turn: Turn<Ticket>) {
        if turn.applied > 0 || turn.restored {
            self.timer.due(turn.next_due, turn.sessions.is_some());
        }
        // Many answers go to one connection.
        together(|| turn.answers.into_iter().for_each(|(ticket, answer)| ticket.answer(answer)));
        if turn.restored {
            self.wakeups.restored();
            self.archiver.finished(1);
        }
        if turn.applied == 0 {
            return;
        }
        self.archiver.finished(turn.effects.finished.len());
        // A watcher that panics is the watcher's mistake; the node has others to serve.
        if catch_unwind(AssertUnwindSafe(|| self.wakeups.dispatch(turn.effects))).is_err() {
            log::error!("a watcher or a wait panicked");
        }
    }

    /// This node is no member any more, which must not be forgotten at the next start. Gives the error to stop with.
    fn leave(&self, why: &str) -> Error {
        if let Err(error) = gone::note(&*self.config.disk, &self.config.dir, why) {
            log::error!("it was not written down that this node is no member any more: {error}");
        }
        Error::Poisoned(why.to_owned())
    }

    /// Stops the replica and lets go of its files. Whoever waits in it gets an answer in `turn`.
    fn fail(&self, engine: &mut Option<Engine>, error: &Error, panicked: bool, turn: &mut Turn<Ticket>) {
        let applied = engine.as_ref().map(|engine| engine.replica.applied()).unwrap_or_default();
        let failure = self.failure_of(error, panicked, applied);
        let cause = failure.cause.clone();
        log::error!("the node stops: {cause}");
        self.failure.lock().get_or_insert(failure);
        self.figures.lock().role = FAILED;
        let Some(mut engine) = engine.take() else { return };
        // The replica may be in any state after a panic; its drop must not take the process down.
        let stopped = catch_unwind(AssertUnwindSafe(|| {
            engine.replica.fail(&cause, turn);
            for done in engine.wanted.drain(..).chain(engine.writing.drain(..)) {
                done(Err(Error::Poisoned(cause.clone())));
            }
            drop(engine);
        }));
        if stopped.is_err() {
            log::error!("a second panic while the node stopped");
        }
    }

    /// Answers everyone who waits for anything. Requests that nobody took out were never written.
    fn end_everything(&self) {
        let cause = self.failure.lock().as_ref().map(|failure| failure.cause.clone()).unwrap_or_default();
        let stopped = Error::Poisoned(cause);
        self.inbox.stop_and_drain(stopped.clone()).refuse(&stopped);
        if catch_unwind(AssertUnwindSafe(|| self.wakeups.stop(&stopped))).is_err() {
            log::error!("a watcher or a wait panicked");
        }
        self.lines.stop();
        let tell = self.when_failed.lock().take();
        if let Some(tell) = tell {
            tell();
        }
    }
}

/// Time on a clock that only goes forward, from the first question on.
fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// What a panic said.
pub fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".into())
}
