//! One running node: threads, wake-ups and the real clock around a replica.
//!
//! ```text
//! callers ──submit──> inbox ──> driver: one turn of the replica ──> answers, wake-ups
//!                      ▲         (the first waiting caller, or the core thread under load)
//! raftwork-core ───────┘
//! raftwork-timer        due jobs and silent sessions ──propose──> inbox
//! raftwork-maintenance  snapshots, next segment, old segments ──chore──> inbox
//! raftwork-archive      finished jobs to the archive, then Evict ──submit──> inbox
//! raftwork-tick         the election clock, and what is asked again at each of its ticks ──> inbox
//! raftwork-transfer     snapshots to members that need one
//! raftwork-hour         certificates before they expire
//! raftwork-lines        one for each question for log lines, while its worker is asked
//! raftwork-seek         while no leader is known: asks who is at the addresses of the settings
//! ```
//!
//! Only a member of several has the threads that tick, transfer, seek, and look every hour.
//!
//! Everything that changes state goes through the inbox; readers look at the machine under its read lock, which is written
//! only while a group is applied. Whatever a caller waits for is bounded: the inbox by `INBOX_REQUESTS_MAX` and
//! `INBOX_BYTES_MAX`, the log by `LOG_BYTES_MAX`, waits for jobs by their number.

pub mod access;
pub mod anew;
mod archiver;
mod backups;
pub mod config;
mod counters;
pub mod doctor;
mod driver;
mod elsewhere;
mod enrolling;
mod exposition;
mod failure;
mod founding;
#[cfg(test)]
mod group_of_one;
mod health;
mod hello;
mod history;
mod inbox;
mod joining;
mod levels;
pub mod lines;
mod maintenance;
mod memory;
mod metrics;
mod open;
mod orders;
mod post;
mod probes;
mod reads;
mod repeat;
mod replacing;
mod seeking;
pub mod stamp;
mod submit;
mod ticket;
mod ticks;
mod timer;
mod tokens;
mod transfers;
mod views;
pub mod wakeups;
mod way_out;
mod wish;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::archive::Archive;
use crate::base::sync::{Condvar, Mutex, RwLock};
use crate::base::{ClusterId, Error, GroupId, JobId, Millis, NodeId, Result, SessionId, Term};
use crate::disk::{Identity, Lock, Origin};
use crate::machine::{self, Machine};
use crate::net::web::Web;
use crate::net::Listener;
use crate::replica::{Members, Opened, Sessions};
use crate::snapshot::SnapshotStore;

pub use config::{ClusterConfig, NodeConfig};
pub use driver::panic_words;
pub use reads::{check_age, View};
pub use repeat::repeated;
pub use wakeups::{WaitId, WatchEvent, WatchId, Watcher};
pub use way_out::with_commands;

use driver::Engine;
use inbox::{Chore, Inbox, Next};
use metrics::{Figures, Times};
use submit::own_request;
use ticket::Ticket;

/// What is called with the answer of an asynchronous request, on the thread that drives: short, and never blocking.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Called once when a node fails, on the thread that drives: short, and never blocking.
type Tell = Box<dyn FnOnce() + Send>;

/// How long a transfer of leadership may take that somebody asked for.
const TRANSFER_WAIT: Duration = Duration::from_secs(3);
/// How long `close` waits until another member leads.
const HANDOVER_WAIT: Duration = Duration::from_millis(500);
/// How long `close` waits for the writes that were accepted, and for those who still read the archive.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The owner of a data directory. Shared by all threads of the process; dropping the last handle closes it.
pub struct Node {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
}

/// What the threads of a node share.
struct Shared {
    config: NodeConfig,
    inbox: Inbox,
    /// Locked by the one who drives; gone after a failure, or when closed.
    engine: Mutex<Option<Engine>>,
    machine: Arc<RwLock<Machine>>,
    identity: Identity,
    /// Gone when the node is closed. Who uses it holds the lock for reading meanwhile.
    archive: RwLock<Option<Archive>>,
    stamp: Mutex<stamp::Stamp>,
    sessions: Mutex<Sessions>,
    wakeups: Arc<wakeups::Wakeups>,
    timer: timer::Timer,
    /// The term that this node leads in, as of its last turn.
    leads: Mutex<Option<Term>>,
    leads_changed: Condvar,
    /// Who leads, as of the last turn.
    leader: Mutex<Option<NodeId>>,
    /// `Replica::settled`, as of the last turn.
    settled: AtomicU64,
    ticks: ticks::Ticks,
    freshness: reads::Freshness,
    /// Asks for the log lines of running jobs.
    lines: Arc<lines::Asks>,
    /// The command that lists this node is on its way.
    listing: AtomicBool,
    founding: AtomicUsize, // See `awaited_voters`.
    /// Letters to other members. Nothing: it is alone.
    post: Option<Arc<post::Post>>,
    /// Where other members are let in.
    listener: Mutex<Option<Listener>>,
    snapshots: Arc<SnapshotStore>,
    backups: backups::Backups,
    replacing: Mutex<Option<replacing::Plan>>,
    /// The cluster that this one began from, if it began from one.
    origin: Option<Origin>,
    maintenance: maintenance::Maintenance,
    archiver: archiver::Archiver,
    figures: Mutex<Figures>,
    counters: Arc<counters::Counters>,
    /// How the port for clients fares, if there is one.
    clients_port: Mutex<Option<probes::AskTally>>,
    /// Answers probes and metrics, if somebody asked for it.
    web: Mutex<Option<Web>>,
    /// It closes: nobody should send it anything more.
    draining: AtomicBool,
    syncs: Arc<Times>,
    opened: Opened,
    failure: Mutex<Option<failure::Failure>>,
    /// Nothing is answered from the state: it may not be that of the others.
    in_doubt: AtomicBool,
    when_failed: Mutex<Option<Tell>>,
    when_cut_off: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// Given free last, after every file is closed: also when a thread that hangs in the disk is the last to let go.
    lock: Mutex<Option<Lock>>,
}

impl Node {
    /// Writes one request and waits for its answer. `Overloaded` when the inbox has no room until the deadline, and
    /// `NotCommitted` when it was not taken out of it until then (both: nothing happened); `TimedOut` when the answer does
    /// not come in time (it may still be applied).
    pub fn submit(&self, request: Vec<u8>, deadline: Option<Instant>) -> Result<Vec<u8>> {
        self.submit_checked(&request, deadline, &mut || Ok(()))
    }

    /// As `submit`; calls `check` at least every 100 ms while it waits, and gives up with its error (the outcome is then
    /// unknown). For callers that must look at signals.
    pub fn submit_checked(
        &self,
        request: &[u8],
        deadline: Option<Instant>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<u8>> {
        let needed = self.check(request)?;
        self.shared.bring_back(request, needed)?;
        self.shared.submit(request, deadline, check)
    }

    /// Accepts one request and returns; `done` gets the answer. Refused at once when the inbox is full.
    pub fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        self.queue(request, done);
        self.shared.inbox.call(false);
    }

    /// As `start`, but nobody is woken for it before `call`.
    pub fn queue(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        match self.check(&request).and_then(|needed| self.shared.bring_back(&request, needed)) {
            Ok(()) => self.shared.queue(&request, done),
            Err(error) => done(Err(error)),
        }
    }

    /// Has what was queued written. In a cluster the calling thread may do it, and then waits for the disk.
    pub fn call(&self) {
        if self.shared.inbox.call(!self.is_alone()) == Next::Drive {
            self.shared.drive_briefly();
        }
    }

    /// What a node refuses before it enters the log. Gives the feature level that the request needs.
    fn check(&self, request: &[u8]) -> Result<u64> {
        // Nearly every command needs the first level, so the state is not looked at. What is handed over the leader judges.
        let needed = machine::check(request)?;
        if needed == 1 || self.shared.leads.lock().is_none() {
            return Ok(needed);
        }
        self.shared.machine.read().admit(needed).map(|()| needed)
    }

    /// Calls `done` when the job is final: at once if it is already, `NotFound` if nobody knows it. While this node lacks history,
    /// one that it does not know may have ended: `done` is called when the others were asked.
    pub fn wait_finished(&self, id: JobId, done: Done<()>) -> WaitId {
        let mut open = false;
        let wait = self.shared.wakeups.wait_finished(id, done, || {
            let known = self.shared.has_ended(id)?;
            open = known.is_none();
            Ok(known)
        });
        if open {
            // What it waits for may have come meanwhile: looked at again.
            self.shared.archiver.finished(1);
        }
        wait
    }

    /// Drops a wait; its `done` is never called then.
    pub fn forget_wait(&self, id: WaitId) {
        self.shared.wakeups.forget_wait(id);
    }

    /// Registers who is told about work, cancelled jobs and the end of this session.
    pub fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        self.shared.wakeups.watch(session, sink)
    }

    /// Asks for one `Ready` when a claim of these queues and functions could give something. True: it can now, and no
    /// event will come. Armed once: after a `Ready`, claim and arm again.
    pub fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        self.shared.wakeups.arm(watch, queues, functions)
    }

    /// Takes the ask of `arm` back. If the watcher had been woken and did not claim, another one is woken instead.
    pub fn disarm(&self, watch: WatchId) {
        self.shared.wakeups.disarm(watch);
    }

    /// Ends a watch, as `disarm`.
    pub fn unwatch(&self, watch: WatchId) {
        self.shared.wakeups.unwatch(watch);
    }

    /// The process of this session lives: `done` learns whether its time to live started again, or `SessionExpired`. In a
    /// group of several a majority has confirmed it by then.
    pub fn heartbeat(&self, session: SessionId, done: Done<()>) {
        if !self.is_alone() {
            return self.shared.inbox.beat(session, done);
        }
        let now = self.shared.config.clock.monotonic();
        done(self.shared.check_running().and_then(|()| self.shared.sessions.lock().heartbeat(session, now)));
    }

    /// Where the leader serves clients, if another node leads and that is known.
    pub fn leader_address(&self) -> Option<String> {
        self.shared.leader_address()
    }

    /// The member that this node is.
    pub fn id(&self) -> NodeId {
        self.shared.identity.node
    }

    /// Who is a member as of a moment ago; on the leader also how far each is.
    pub fn members(&self) -> Members {
        self.shared.figures.lock().members.clone()
    }

    /// Calls `tell` each time when no leader was known for a while, or the disk had no room for what the leader sends: this node
    /// can answer nothing then, another may.
    pub fn when_cut_off(&self, tell: impl Fn() + Send + Sync + 'static) {
        *self.shared.when_cut_off.lock() = Some(Arc::new(tell));
    }

    /// Whether this node leads the group, as of its last turn.
    pub fn leads(&self) -> bool {
        self.shared.leads.lock().is_some()
    }

    /// Whether it is the whole group, so that nobody else need be asked for anything.
    pub fn is_alone(&self) -> bool {
        self.shared.config.cluster.is_none()
    }

    /// This session belongs to the owning process and cannot lapse while the process lives.
    pub fn hold(&self, session: SessionId) {
        self.shared.sessions.lock().hold(session);
        self.shared.tell_held();
    }

    /// Ends a hold; the session's time to live starts again.
    pub fn release_hold(&self, session: SessionId) {
        self.shared.sessions.lock().release(session, self.shared.config.clock.monotonic());
        self.shared.tell_held();
        self.shared.timer.wake();
    }

    /// The process of this session is known to be dead (its socket closed): the session expires at once.
    pub fn lapse(&self, session: SessionId) {
        if self.shared.sessions.lock().end(session) {
            self.shared.expire(session);
        }
    }

    /// MessagePack map: role, term, index, log, snapshot, disk times, queues, sessions, archive, alarms.
    pub fn health(&self) -> Vec<u8> {
        self.shared.health()
    }

    /// What the node counts, in the text format of Prometheus; see `docs/reference/metrics.md`.
    pub fn metrics(&self) -> String {
        self.shared.metrics()
    }

    /// Looks at the clock again. Only a clock that is moved by hand needs it.
    pub fn clock_moved(&self) {
        self.shared.timer.wake();
    }

    /// Whether everything that the clock makes due now was seen to. Only a clock that is moved by hand needs it.
    pub fn timer_rests(&self) -> bool {
        self.shared.timer.rests()
    }

    /// Whose data the directory holds.
    pub fn cluster(&self) -> (ClusterId, GroupId) {
        (self.shared.identity.cluster, self.shared.identity.group)
    }

    /// Applies a request that nobody else gets, so that this state differs from that of the others.
    #[cfg(feature = "sim")]
    pub fn disturb(&self, request: &[u8]) -> Result<()> {
        let mut machine = self.shared.machine.write();
        let (at, now) = (machine.applied(), machine.clock());
        machine.apply(at, now, request, &mut Default::default()).map(drop)
    }

    /// Whether the node stopped by itself. Everyone who waited was answered; the directory is free after `close`.
    pub fn has_failed(&self) -> bool {
        self.shared.failure.lock().is_some()
    }

    /// Whether the node stopped because its disk failed: what it did not answer may be asked of the next owner. Not after
    /// a panic, which the request itself may have caused, there as here.
    pub fn lets_repeat(&self) -> bool {
        self.has_failed() && self.panicked_at().is_none()
    }

    /// Calls `tell` once if the node fails: at once if it has already, else after everyone who waited was answered.
    pub fn when_failed(&self, tell: impl FnOnce() + Send + 'static) {
        let mut registered = self.shared.when_failed.lock();
        if self.has_failed() {
            drop(registered);
            return tell();
        }
        *registered = Some(Box::new(tell));
    }

    /// Accepts nothing more, answers everything accepted, stops the threads, closes the files and gives the directory
    /// free. An error tells why the node had stopped before, if it had.
    ///
    /// While a write hangs in the disk the directory stays locked: it may still be answered, and the next owner would
    /// not have it. It is given free when that write returns.
    pub fn close(&self) -> Result<()> {
        // A write that hung through the first wait is not waited for again.
        let again = self.closed.swap(true, Ordering::AcqRel);
        let deadline = Instant::now() + if again { Duration::ZERO } else { CLOSE_WAIT };
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut idle = self.shared.close(deadline);
        let own = std::thread::current().id();
        for thread in threads {
            // A callback may drop the last handle on one of the node's own threads, which then ends by itself.
            if thread.thread().id() == own {
                idle = false;
            } else if idle {
                let _ = thread.join();
            }
        }
        let web = self.shared.web.lock().take();
        drop(web); // The last to go: until now it said that the node closes.
        if idle && self.shared.close_archive() {
            self.shared.lock.lock().take();
        }
        self.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

impl Shared {
    fn leader_address(&self) -> Option<String> {
        let leader = (*self.leader.lock()).filter(|leader| *leader != self.identity.node)?;
        let machine = self.machine.read();
        let mut members = machine.members();
        let address = members.find(|member| member.node == leader)?.client.to_string();
        Some(address).filter(|address| !address.is_empty())
    }

    /// Cluster time.
    fn now(&self) -> Millis {
        let (wall, monotonic) = (self.config.clock.wall(), self.config.clock.monotonic());
        self.stamp.lock().now(wall, monotonic)
    }

    fn check_running(&self) -> Result<()> {
        self.inbox.stopped().map_or(Ok(()), Err)
    }

    /// Writes down which sessions end with this process, for whoever finds that it died.
    fn tell_held(&self) {
        let lock = self.lock.lock();
        if let Some(lock) = &*lock {
            let held = self.sessions.lock().held();
            lock.tell(self.identity.cluster, self.identity.group, &held);
        }
    }

    /// False: somebody still drives, a disk that hangs. Its files stay open, and its answers come when they come.
    fn close(&self, deadline: Instant) -> bool {
        self.draining.store(true, Ordering::Release);
        self.timer.stop();
        self.archiver.stop();
        self.hand_over(deadline.min(Instant::now() + HANDOVER_WAIT));
        self.inbox.stop(Error::Closed);
        self.ticks.stop();
        if let Some(listener) = self.listener.lock().take() {
            listener.end();
        }
        for (_, done) in self.ticks.take_again() {
            done(Err(Error::Closed));
        }
        let idle = self.inbox.wait_idle(deadline);
        self.wakeups.stop(&Error::Closed);
        self.lines.stop();
        self.maintenance.stop();
        self.inbox.end_core();
        self.inbox.stop_and_drain(Error::Closed).refuse(&Error::Closed);
        if !idle {
            log::error!("the node closes while a write hangs");
            return false;
        }
        if let Some(mut engine) = self.engine.lock().take() {
            if let Err(error) = engine.replica.flush() {
                log::warn!("the last write before closing failed: {error}");
            }
        }
        if let Some(post) = &self.post {
            post.end();
        }
        true
    }

    /// Lets another member lead before this one goes, so that nobody waits for an election.
    fn hand_over(&self, until: Instant) {
        let Some(post) = &self.post else { return };
        let mut leads = self.leads.lock();
        if leads.is_none() || post.connected() == 0 {
            return;
        }
        self.inbox.chore(Chore::HandOver);
        while leads.is_some() && !self.leads_changed.wait_until(&mut leads, until).timed_out() {}
    }

    /// False: somebody reads it for too long.
    fn close_archive(&self) -> bool {
        match self.archive.try_write_for(CLOSE_WAIT) {
            Some(mut archive) => *archive = None,
            None => return false,
        }
        true
    }
}
