//! One node without threads or clock: consensus, log, snapshots and the state machine joined, driven by turns.
//!
//! The life of one write, in one call of `turn`:
//! 1. `turn`     every proposal gets the time; all go to consensus in one message
//! 2. `persist`  their entries reach the disk in one write and one sync
//! 3. consensus  hears of it, and finds them on a majority of the disks: committed
//! 4. `apply`    the state machine applies them in log order
//! 5. `tickets`  each answer finds the one who waits for exactly this entry
//!
//! What holds
//! * No answer leaves before the sync that covers its entry returned (D1), nor before the entry was applied.
//! * `NotCommitted` and `DiskFull` are only answered for entries that never entered the log (D2).
//! * After a failed write every later turn fails with the cause (D3); waiters learn `Unknown`.
//! * Entries are applied once each, in order, with stamps that never go back (T1).

mod apply;
mod bounds;
mod digests;
mod doubt;
pub mod entry;
mod forward;
pub mod log_store;
mod members;
mod open;
mod others;
mod peers;
mod persist;
mod reads;
mod replay;
mod room;
pub mod sessions;
mod suspicion;
mod tickets;
pub mod upkeep;
pub mod wire;
mod words;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::RwLock;
use bytes::Bytes;

use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, Millis, NodeId, Result, SessionId, Term};
use crate::consensus::{Action, ConfState, Core, EntryType, Event, Placed};
use crate::disk::Identity;
use crate::machine::{Bounds, Effects, Machine};
use crate::snapshot::SnapshotStore;
use crate::wal::{HardState, Wal};

pub use crate::consensus::{Entry, MemberChange, Role, ELECTION_TICKS};
pub use digests::doubtful;
use doubt::{Doubt, Odd};
use forward::Forwards;
pub use log_store::{LogCache, Position};
use members::{Changing, Watch};
pub use members::{Members, PeerProgress};
pub use open::{load_snapshot, rehearse, write_state, Newcomer, Opened, ReplicaConfig, FIRST};
pub use others::{others_on, Others};
pub use persist::Herald;
use reads::Reads;
pub use reads::{Beat, Whom};
pub use replay::{survivor, Survivor};
use room::Room;
pub use sessions::Sessions;
use suspicion::Suspicion;
use tickets::Tickets;
pub use upkeep::{Capture, SnapshotWritten, Upkeep};
pub use wire::{Letter, Note};
pub use words::Word;

/// Where letters to peers go, at once: those of a leader leave before its own disk has the entries. It must not block.
pub type Outbox = Box<dyn FnMut(Letter) + Send>;

/// One request on its way into the log.
#[derive(Debug)]
pub struct Proposal<T> {
    /// Made by `entry::frame`.
    pub entry: Vec<u8>,
    /// Given back with the answer.
    pub ticket: T,
}

/// What one turn gave.
#[derive(Debug)]
pub struct Turn<T> {
    pub answers: Vec<(T, Result<Vec<u8>>)>,
    pub effects: Effects,
    /// Signs of life that the owner is to take in and to answer, as this member leads.
    pub beats: Vec<Beat<T>>,
    /// The state was replaced by that of another member: whatever anybody knew about it may have changed.
    pub restored: bool,
    /// All open sessions, if one was opened or ended.
    pub sessions: Option<Vec<(SessionId, Millis)>>,
    /// When the machine has timed work, as of the end of the turn.
    pub next_due: Option<Millis>,
    /// Entries applied.
    pub applied: usize,
    /// How long that took, by `clock`. For people: nothing depends on it.
    pub applying: Duration,
    /// What the owner measures with. Stands still unless it says otherwise.
    pub clock: fn() -> Duration,
    /// How the owner sleeps between the steps of long work, as others need the cores. Not at all unless it says otherwise.
    pub rest: fn(Duration),
    /// This node was removed from the group: close it.
    pub removed: bool,
}

impl<T> Default for Turn<T> {
    fn default() -> Self {
        Self {
            answers: Vec::new(),
            effects: Effects::default(),
            beats: Vec::new(),
            restored: false,
            sessions: None,
            next_due: None,
            applied: 0,
            applying: Duration::ZERO,
            clock: || Duration::ZERO,
            rest: |_| {},
            removed: false,
        }
    }
}

impl<T> Turn<T> {
    /// What can be handed out by now: answers and what else others wait for. The rest stays.
    pub fn hand_out(&mut self) -> Turn<T> {
        Turn {
            answers: std::mem::take(&mut self.answers),
            effects: std::mem::take(&mut self.effects),
            restored: std::mem::take(&mut self.restored),
            sessions: self.sessions.take(),
            next_due: self.next_due,
            applied: self.applied,
            ..Turn::default()
        }
    }
}

/// One member of the group. `T` is whatever the owner uses to find who waits for an answer.
pub struct Replica<T> {
    core: Core<LogCache>,
    wal: Wal,
    snapshots: Arc<SnapshotStore>,
    machine: Arc<RwLock<Machine>>,
    identity: Identity,
    members: ConfState,
    applied: Position,
    /// The stamp of the newest entry: the next one is not earlier.
    stamped: Millis,
    /// Moved, but not worth a sync of its own.
    hard_state: Option<HardState>,
    tickets: Tickets<T>,
    forwards: Forwards<T>,
    reads: Reads<T>,
    /// Ticks since a leader was known.
    leaderless: u32,
    /// What consensus asked for and is not done yet: empty between turns, unless the disk is full.
    actions: VecDeque<Action>,
    room: Room,
    upkeep: Upkeep,
    /// What the state may hold before this member lets no more in.
    bounds: Bounds,
    outbox: Outbox,
    herald: Option<Herald>,
    /// The end of the log was cut where it may have been acknowledged.
    suspicion: Option<Suspicion>,
    /// A change of the members that was proposed here.
    change: Option<Changing<T>>,
    watch: Watch,
    removed: bool,
    doubt: Doubt,
    odd: Odd,
    /// Who needs the state, and is not given it while that is disputed.
    withheld: BTreeSet<NodeId>,
    /// The newest mark that was proposed, and the term in which it was.
    digest_told: (Term, LogIndex),
    failed: Option<String>,
}

impl<T> Replica<T> {
    /// One turn: takes the proposals in, makes them durable, applies what is committed and gathers the answers.
    ///
    /// An error is the end of this replica: the answers in `turn` are still valid, and no later call does anything.
    pub fn turn(&mut self, now: Millis, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Result<()> {
        self.begin_turn(now, proposals, turn)?;
        self.end_turn(turn)
    }

    /// The first half of `turn`: takes the proposals in and lets the letters with their entries leave, so that the other
    /// members work on them. The answers that are there by now need not wait for the second half.
    pub fn begin_turn(&mut self, now: Millis, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Result<()> {
        if let Err(error) = self.check_alive() {
            refuse(proposals, &error, turn);
            return Err(error);
        }
        let outcome = self.take_in(now, proposals, turn);
        self.or_fail(outcome, turn)
    }

    /// The second half of `turn`, which waits for the disk. Must follow the first before anything else is asked.
    pub fn end_turn(&mut self, turn: &mut Turn<T>) -> Result<()> {
        self.settle_or_fail(turn)?;
        let mut actions = Vec::new();
        self.core.tell_commit(&mut actions);
        self.actions.extend(actions);
        self.settle_or_fail(turn)
    }

    /// Stops this replica for good. Whoever still waits learns that the outcome is not known.
    pub fn fail(&mut self, cause: &str, turn: &mut Turn<T>) {
        self.failed.get_or_insert_with(|| cause.to_owned());
        self.abandon(cause, turn);
    }

    /// Whoever waits for anything learns that nobody knows what becomes of it.
    fn abandon(&mut self, why: &str, turn: &mut Turn<T>) {
        self.tickets.abandon(why, &mut turn.answers);
        self.forwards.abandon(why, &mut turn.answers);
        self.abandon_change(why, turn);
        self.reads.abandon(&Error::NotCommitted(why.to_owned()), turn);
    }

    fn check_alive(&self) -> Result<()> {
        match &self.failed {
            Some(cause) => Err(Error::Poisoned(cause.clone())),
            None => Ok(()),
        }
    }

    fn take_in(&mut self, now: Millis, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Result<()> {
        self.settle(turn)?;
        self.propose(now, proposals, turn)?;
        self.ask();
        while matches!(self.actions.front(), Some(Action::Send(_))) {
            self.actions.pop_front().into_iter().for_each(|action| self.send_action(action));
        }
        Ok(())
    }

    fn propose(&mut self, now: Millis, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Result<()> {
        if self.removed {
            refuse(proposals, &Error::NotCommitted("this node was removed from the group".into()), turn);
            return Ok(());
        }
        if let Some(at) = self.doubts() {
            // The answer would come from the state here.
            let error = Error::NotCommitted(doubtful(at));
            self.answer_peers(&error);
            refuse(proposals, &error, turn);
            return Ok(());
        }
        let proposals = self.refuse_judgements(proposals, turn);
        let proposals = self.refuse_beyond(proposals, turn);
        if self.role() != Role::Leader {
            self.answer_peers(&Error::NotCommitted("this node does not lead".into()));
            if !proposals.is_empty() {
                self.forward(proposals, turn);
            }
            return Ok(());
        }
        let proposals = self.refuse_too_new(proposals, turn);
        let (mut entries, peers) = self.taken_entries();
        if proposals.is_empty() && entries.is_empty() {
            return Ok(());
        }
        // Once an entry is in consensus it cannot be taken out again, so a full disk must show before.
        let own = proposals.iter().map(|proposal| &proposal.entry);
        let (bytes, count) = (own.chain(&entries).map(Vec::len).sum(), proposals.len() + entries.len());
        let room = if self.is_stalled() {
            Err(Error::DiskFull("the log waits for room".into()))
        } else {
            self.reserve(bytes, count)
        };
        if let Err(error) = room {
            refuse(proposals, &error, turn);
            self.tell_peers(peers, &Err(definite(&error)));
            return if matches!(error, Error::DiskFull(_)) { Ok(()) } else { Err(error) };
        }
        self.stamped = if has(Bug::TimeGoesBack) { now } else { self.stamped.max(now) };
        let (own, tickets): (Vec<_>, Vec<_>) =
            proposals.into_iter().map(|proposal| (proposal.entry, proposal.ticket)).unzip();
        let own_count = own.len() as u64;
        entries.splice(0..0, own);
        entries.iter_mut().for_each(|entry| entry::stamp(entry, self.stamped));
        let mut actions = Vec::new();
        let placed = self.core.propose(entries.into_iter().map(Bytes::from).collect(), &mut actions);
        // Before the actions: what tells where an entry stands must leave before what commits it.
        let behind = |placed: Placed| Placed { first: LogIndex(placed.first.0 + own_count), term: placed.term };
        self.tell_peers(peers, &placed.clone().map(behind));
        match placed {
            Ok(placed) => self.tickets.place(placed, tickets),
            Err(error) => turn.answers.extend(tickets.into_iter().map(|ticket| (ticket, Err(error.clone())))),
        }
        self.actions.extend(actions);
        Ok(())
    }

    /// What this member found out as a leader counts only as long as it leads in the same term: the next leader has heard
    /// of others (K3).
    fn refuse_judgements(&self, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Vec<Proposal<T>> {
        let leads = self.leads_in();
        let is_stale = |proposal: &Proposal<T>| entry::only_in(&proposal.entry).is_some_and(|term| leads != Some(term));
        if !proposals.iter().any(is_stale) {
            return proposals;
        }
        let (stale, proposals) = proposals.into_iter().partition(is_stale);
        refuse(stale, &Error::NotCommitted("this node does not lead any more".into()), turn);
        proposals
    }

    fn settle_or_fail(&mut self, turn: &mut Turn<T>) -> Result<()> {
        let outcome = self.settle(turn);
        self.or_fail(outcome, turn)
    }

    /// An error is the end of this replica.
    fn or_fail(&mut self, outcome: Result<()>, turn: &mut Turn<T>) -> Result<()> {
        if let Err(error) = &outcome {
            self.fail(&error.to_string(), turn);
        }
        outcome
    }

    /// Does what consensus asks for, in its order, until it asks for nothing more. When the disk has no room for what is
    /// in consensus already, that stays first in line and `is_stalled` tells.
    fn settle(&mut self, turn: &mut Turn<T>) -> Result<()> {
        let mut next = Vec::new();
        while let Some(action) = self.actions.pop_front() {
            match action {
                action @ Action::Send(_) => self.send_action(action),
                Action::Persist(write) => {
                    let (number, restores) = (write.number, write.snapshot.is_some());
                    self.announce(&write.entries);
                    if let Some(unwritten) = self.write(write, turn)? {
                        self.actions.push_front(unwritten);
                        self.refuse_what_waits(Bug::FullDiskRefuses, turn);
                        return Ok(());
                    }
                    self.core.step(Event::Persisted(number), &mut next);
                    // The leader waits for this acknowledgement, and nobody as much for what is to be applied here.
                    let letters = next.iter().take_while(|action| matches!(action, Action::Send(_))).count();
                    next.drain(..letters).for_each(|action| self.send_action(action));
                    if restores {
                        self.core.step(Event::Applied(self.applied.index), &mut next);
                        self.answer_reads(turn);
                    }
                }
                Action::Apply(entries) => {
                    self.apply(entries, turn)?;
                    self.core.step(Event::Applied(self.applied.index), &mut next);
                    self.answer_reads(turn);
                }
                Action::Readable(context, index) => self.readable(&context, index, turn),
            }
            self.actions.extend(next.drain(..));
        }
        self.mind_forwards(false, turn);
        if self.role() != Role::Leader {
            self.refuse_what_waits(Bug::RefuseOnStepDown, turn);
        }
        Ok(())
    }

    /// A planted bug: what is in the log is said to be refused.
    fn refuse_what_waits(&mut self, bug: Bug, turn: &mut Turn<T>) {
        if has(bug) && !self.tickets.is_empty() {
            let mut waiting = Vec::new();
            self.tickets.abandon("", &mut waiting);
            let refused = || Err(Error::NotCommitted(format!("{bug:?}")));
            turn.answers.extend(waiting.into_iter().map(|(ticket, _)| (ticket, refused())));
        }
    }

    /// Whether a write waits for room on the disk. Every turn tries it again, and takes no proposals before it is done.
    pub fn is_stalled(&self) -> bool {
        !self.actions.is_empty()
    }

    /// The state machine, for readers. It is written only inside a turn.
    pub fn machine(&self) -> &Arc<RwLock<Machine>> {
        &self.machine
    }

    pub fn snapshots(&self) -> &Arc<SnapshotStore> {
        &self.snapshots
    }

    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// What is in memory of the log.
    pub fn log(&self) -> &LogCache {
        self.core.log()
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn role(&self) -> Role {
        self.core.role()
    }

    /// The term that this member leads in, if it does.
    pub fn leads_in(&self) -> Option<Term> {
        (self.role() == Role::Leader).then(|| self.term())
    }

    /// Who leads, as far as this member knows: itself, a peer, or nobody.
    pub fn leader(&self) -> Option<NodeId> {
        self.core.leader()
    }

    pub fn term(&self) -> Term {
        self.core.term()
    }

    /// Up to where the log is known to be committed.
    pub fn committed(&self) -> LogIndex {
        self.core.committed()
    }

    /// Letters that acknowledge no entry behind this one can wait for the next turn: see `Letter::only_acknowledges`.
    pub fn settled(&self) -> LogIndex {
        self.core.settled()
    }

    pub fn applied(&self) -> LogIndex {
        self.applied.index
    }

    /// The newest entry that was applied.
    pub fn position(&self) -> Position {
        self.applied
    }

    pub fn last_index(&self) -> LogIndex {
        self.core.last_index()
    }

    /// The time of the newest entry, applied or not: a new leader may have entries of another one that are yet to be.
    pub fn stamped(&self) -> Millis {
        let ahead = self.log().entries(LogIndex(self.applied.index.0 + 1));
        let stamps = ahead.filter(|entry| entry.get_entry_type() == EntryType::EntryNormal);
        let stamps = stamps.filter_map(|entry| entry::split(&entry.data).ok());
        stamps.map(|(stamp, _)| stamp).fold(self.stamped, Millis::max)
    }
}

/// What to say of requests that were not proposed.
fn definite(error: &Error) -> Error {
    match error {
        Error::DiskFull(_) | Error::NotCommitted(_) => error.clone(),
        _ => Error::NotCommitted(error.to_string()),
    }
}

/// Nothing was proposed: the answer is definite.
fn refuse<T>(proposals: Vec<Proposal<T>>, error: &Error, turn: &mut Turn<T>) {
    let definite = definite(error);
    turn.answers.extend(proposals.into_iter().map(|proposal| (proposal.ticket, Err(definite.clone()))));
}
