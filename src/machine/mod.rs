//! The state machine: every rule about jobs, as a pure function of its state and a command.
//!
//! ```text
//! command   what may be asked, decoded and checked        outcome   what may be answered
//! job       one job, its states and their transitions     specs     function, queue and options, shared by jobs
//! table     where jobs lie; index: by id                  queues    lines of ready jobs, pauses
//! moves     the only place where jobs come, change, go    tally     figures that follow from the moves
//! enqueue claims finish admin change sessions unique locks fire upkeep  the verbs
//! recurring what runs again and again                    flows     which jobs wait for which: follow, batches
//! holding   one lock: who holds it, who waits for it
//! limit     what a job carries of its limits; bucket: starts  limiters  who may start; gates: where the others wait
//! cluster   where members are, the feature level: levels   digests  whether all members have the same state
//! errors    how often which error
//! access    tokens, invitations, and who did what about the cluster
//! stored    a job as bytes; record: as others see it       image     the whole state as bytes; load: and back
//! needs     what a request is about, for whoever judges whether its sender may; coming: the jobs that it is about to bring
//! bounds    what a node lets in before it enters the log, by its settings
//! view      questions that change nothing; filter, search: which jobs a person means
//! ```
//!
//! Determinism: no clock, no randomness, no input or output, no threads, no walk over a hash map. Time is whole
//! milliseconds and comes with the command; it never goes back (T1). Two machines that were given the same requests,
//! or of which one was loaded from an image of the other, answer the same and have the same [`Machine::digest`] (L6).
//!
//! Totality: every request that the door lets through has an answer. The only error is an operation of a newer version,
//! which stops the node instead of being skipped.

mod access;
mod admin;
mod anew;
#[cfg(any(debug_assertions, feature = "sim"))]
mod audit;
mod batches;
mod blob;
mod bounds;
mod bucket;
mod change;
mod claims;
mod cluster;
mod coming;
mod command;
mod decode;
mod digests;
mod enqueue;
mod errors;
mod extras;
mod fields;
pub mod filter;
mod finish;
mod fire;
pub mod flows;
mod follow;
mod gates;
mod holding;
mod image;
mod index;
pub mod job;
mod levels;
pub mod limit;
mod limiters;
mod load;
mod locks;
mod moves;
mod needs;
pub mod outcome;
pub mod queues;
pub mod record;
pub mod recurring;
pub mod search;
mod sessions;
pub mod specs;
mod stored;
mod table;
pub mod tally;
mod unique;
mod upkeep;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::planted::{has, Bug};
use crate::base::{Error, JobId, LeaseToken, LogIndex, Millis, NodeId, Result, SessionId};
use access::Access;
use command::{Command, Request};
use digests::Digests;
use errors::Errors;
use flows::Flows;
use gates::Gates;
use levels::Level;
use limiters::Limiters;
use locks::Locks;
use outcome::{Outcome, Refusal};
use queues::{Functions, Queues};
use recurring::Schedules;
use sessions::Before;
use specs::{Spec, Specs};
use table::{Slot, Table};
use tally::Tally;
use unique::Unique;

pub use access::{Act, Digest, Invited, Token};
pub use blob::Blob;
pub use bounds::Bounds;
pub use cluster::{listed_by, Member};
pub use coming::Coming;
pub use command::check;
pub use digests::Differs;
#[cfg(feature = "sim")]
pub use flows::{settle_at_most, settled_max};
pub use follow::awaited;
pub use holding::Mode;
pub use image::{Image, STATE_VERSION};
pub use job::Job;
#[cfg(feature = "sim")]
pub use levels::{be_newer, be_newer_everywhere, FUTURE};
pub use levels::{known, LEVEL};
pub use load::Loader;
pub use needs::{needs, Needs};
pub use sessions::Session;
pub use view::{Answer, Later};

/// The whole state. The first group of fields is stored in an image, the second follows from it.
#[derive(Debug, Default)]
pub struct Machine {
    applied: LogIndex,
    /// Cluster time: the greatest that a command brought.
    clock: Millis,
    /// The newest fencing token, place in line, finish ordinal; and up to which ordinal jobs left memory.
    token: u64,
    order: u64,
    ordinal: u64,
    evicted: u64,
    table: Table,
    specs: Specs,
    queues: Queues,
    functions: Functions,
    sessions: BTreeMap<SessionId, Arc<Session>>,
    unique: Unique,
    tally: Tally,
    locks: Locks,
    schedules: Schedules,
    flows: Flows,
    limiters: Limiters,
    members: BTreeMap<NodeId, Member>,
    level: Level,
    digests: Digests,
    access: Access,
    errors: Arc<Errors>,

    due: BTreeMap<(Millis, u64), Slot>,
    deadlines: BTreeMap<(Millis, JobId), Slot>,
    leases: BTreeMap<SessionId, BTreeMap<LeaseToken, Slot>>,
    finished: BTreeMap<u64, Slot>,
    pauses: BTreeSet<(Millis, u32)>,
    gates: Gates,
    bytes: u64,

    /// What the command that is being applied did; empty between commands.
    effects: Effects,
    /// Queues, by number, that it gave ready jobs.
    fresh: Vec<(u32, usize)>,
}

/// What a command did that somebody may wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// At which entry which queues got ready jobs, and how many.
    pub ready: Vec<(LogIndex, Box<str>, usize)>,
    /// Jobs that became final, or were deleted before they did.
    pub finished: Vec<JobId>,
    /// Jobs that were deleted and that an archive may have: those that were final, and those that are not in memory.
    pub deleted: Vec<JobId>,
    /// Running jobs that are to stop.
    pub cancels: Vec<(SessionId, JobId, LeaseToken)>,
    /// Leases that ended with their session without its doing.
    pub lost: Vec<(SessionId, JobId, LeaseToken)>,
    /// Locks that went to an owner which waited: its session, its number and its token.
    pub granted: Vec<(SessionId, u64, LeaseToken)>,
    /// Sessions that ended.
    pub closed: Vec<SessionId>,
    /// This state is not that of the leader which wrote its mark into the log.
    pub differs: Option<Differs>,
}

impl Machine {
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty state in which everything that this version knows may be used: one that no older version reads.
    pub fn newest() -> Self {
        Self { level: Level(LEVEL), ..Self::default() }
    }

    /// Applies the request at an index of the log and gives the bytes of the answer. Adds to `effects`.
    ///
    /// # Errors
    /// Only for an operation that this version does not know: the node must stop, and nothing has changed.
    pub fn apply(&mut self, index: LogIndex, now: Millis, request: &[u8], effects: &mut Effects) -> Result<Vec<u8>> {
        let decoded = match command::decode(request) {
            Err(Error::Foreign(unknown)) if !has(Bug::SkipUnknown) => return Err(Error::Foreign(unknown)),
            other => other,
        };
        let before = std::mem::replace(&mut self.applied, index);
        self.clock = if has(Bug::TimeGoesBack) { now } else { self.clock.max(now) };
        if has(Bug::OwnClock) {
            // As good as a clock: no two machines live at the same address.
            self.clock.0 += (std::ptr::from_ref(self).addr() >> 4) as u64 % 2;
        }
        std::mem::swap(&mut self.effects, effects);
        let reply = match decoded {
            Ok(request) => self.once(index, request),
            Err(error) => outcome::encode(index, &Err(Refusal::invalid(error.to_string()))),
        };
        self.gates.touched();
        let fresh = std::mem::take(&mut self.fresh);
        let ready = fresh.into_iter().map(|(queue, jobs)| (index, Box::from(&*self.queues.get(queue).name), jobs));
        self.effects.ready.extend(ready);
        std::mem::swap(&mut self.effects, effects);
        self.note(before, now, request, &reply);
        Ok(reply)
    }

    /// Applies a request unless its session has had the answer already (L5).
    fn once(&mut self, index: LogIndex, request: Request<'_>) -> Vec<u8> {
        match self.before(request.session, request.sequence, request.acked_up_to) {
            Before::Repeated(reply) => return reply.to_vec(),
            Before::Refused(refusal) => return outcome::encode(index, &Err(refusal)),
            Before::New => {}
        }
        let ticks = matches!(request.command, Command::Tick { .. });
        let outcome = self.verb(index, request.command);
        if outcome.is_ok() && !ticks {
            self.work_off(flows::settled_max());
        }
        let reply = outcome::encode(index, &outcome);
        self.after(request.session, request.sequence, &reply);
        reply
    }

    fn verb(&mut self, index: LogIndex, command: Command<'_>) -> Outcome {
        self.level.admit(&command)?;
        match command {
            Command::OpenSession(opening) => self.open_session(index, &opening),
            Command::CloseSession(session) => self.end_session(session, true),
            Command::ExpireSession(session) => self.end_session(session, false),
            Command::Enqueue { specs, jobs } => self.enqueue(specs, &jobs),
            Command::Claim(claim) => self.claim(&claim),
            Command::Finish(results) => self.finish(&results),
            Command::Progress(items) => self.progress(&items),
            Command::Cancel { ids, reason } => self.cancel(&ids, reason),
            Command::Requeue(ids) => self.requeue(&ids),
            Command::Delete(ids) => self.delete(&ids),
            Command::PauseQueue { queue, until, reason } => self.pause_queue(queue, until, reason),
            Command::ResumeQueue(queue) => self.resume_queue(queue),
            Command::Tick { items_max } => self.tick(items_max),
            Command::Evict { ordinal } => self.evict(ordinal),
            Command::Restore(records) => self.restore(records),
            Command::PutMember(member) => self.put_member(member),
            Command::DropMember(node) => self.drop_member(node),
            Command::Digest { index, digest } => {
                self.effects.differs = self.digests.hear(index, digest);
                outcome::nil()
            }
            Command::SetLevel(level) => self.set_level(level),
            Command::PutToken(put) => self.put_token(&put),
            Command::RevokeToken { actor, which } => self.revoke_token(actor, which),
            Command::PutInvitation { actor, invited } => self.put_invitation(actor, invited),
            Command::UseInvitation { actor, digest } => self.use_invitation(actor, &digest),
            Command::Note(note) => self.put_note(&note),
            Command::Lock { owner, name, waits } => self.acquire(owner, name, Mode::Lock, waits),
            Command::Acquire { owner, name, mode, waits } => self.acquire(owner, name, mode, waits),
            Command::Unlock { session, name, token } => self.unlock(session, name, token),
            Command::GiveUp(owner) => self.give_up(owner),
            Command::PutSchedule(put) => self.put_schedule(*put),
            Command::FireSchedule { at, jobs } => self.fire_schedule(&at, &jobs),
            Command::DeleteSchedule(name) => self.delete_schedule(name),
            Command::PauseSchedule { name, reason } => self.pause_schedule(name, reason),
            Command::TriggerSchedule { name, id, slot } => self.trigger_schedule(name, id, slot),
            Command::MoveSchedule(at) => self.move_schedule(&at),
            Command::OpenBatch { id, name, outer } => self.open_batch(id, name, outer),
            Command::SealBatch(id) => self.seal_batch(id),
            Command::CancelBatch { id, reason } => self.cancel_batch(id, reason),
            Command::LimitQueue { queue, limit } => self.limit_queue(queue, limit),
            Command::Change(change) => self.change(&change),
            #[cfg(feature = "sim")]
            Command::Future => outcome::nil(),
        }
    }

    /// Index of the newest entry that was applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Cluster time.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Jobs in memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Estimate of the memory that jobs take; the same on every node.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The open sessions and how long each may stay silent.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, Millis)> + '_ {
        self.sessions.values().map(|session| (session.id, session.ttl))
    }

    /// The labels of each open session.
    pub fn session_labels(&self) -> impl Iterator<Item = &[(Box<str>, Box<str>)]> {
        self.sessions.values().map(|session| &*session.labels)
    }

    /// A job in memory with its specification.
    pub fn job(&self, id: JobId) -> Option<(&Job, &Spec)> {
        let job = self.table.get(self.table.find(id)?);
        Some((job, &self.specs.get(job.spec).spec))
    }

    /// Steps at the gates of limits so far: what limits cost, for tests.
    pub fn limit_steps(&self) -> u64 {
        self.gates.steps()
    }

    /// The figures of the whole machine.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
