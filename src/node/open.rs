//! From a directory to a running node.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::driver::Engine;
use super::inbox::Inbox;
use super::metrics::{Figures, MeteredDisk, Times};
use crate::base::sync::{Condvar, Mutex, RwLock};

use super::joining::{self, Beginning, Door};
use super::post::Post;
use super::probes::{self, Probes};
use super::stamp::Stamp;
use super::wakeups::Wakeups;
use super::{anew, founding, ClusterConfig, Node, NodeConfig, Shared};
use crate::archive::{self, Archive};
use crate::base::{ClusterId, Error, NodeId, Result};
use crate::disk::{check_not_shared, differs, ensure_dir, gone, Disk, Founding, Identity, Lock, Origin, RealDisk};
use crate::machine::record;
use crate::net::{Admit, Listener, ListenerConfig, Security};
use crate::replica::{Entry, Newcomer, Outbox, Replica, ReplicaConfig, Sessions};
use crate::wal::SpareMaker;

/// Name of the archive's directory inside the data directory.
pub(super) const ARCHIVE_DIR: &str = "archive";
/// How long opening waits for the end of dead sessions: a few turns, unless the disk is full.
const ORPHANS_WAIT: Duration = Duration::from_secs(1);

impl Node {
    /// Opens the directory: takes its lock, recovers what is stored and leads the group before it returns.
    ///
    /// # Errors
    /// `Busy`: another process runs on it. `Member`: it names other members, and `config.cluster` does not say how to reach
    /// them; nothing was changed and the lock is free. Others: see `base::error`.
    pub fn open(config: NodeConfig) -> Result<Arc<Node>> {
        config.validate()?;
        let lock = take(&config)?;
        let origin = load_origin(&config)?;
        let syncs = Arc::new(Times::new());
        let disk: Arc<dyn Disk> = Arc::new(MeteredDisk { disk: config.disk.clone(), syncs: syncs.clone() });
        let stored = config.cluster.as_ref().map(|_| Identity::load(&*config.disk, &config.dir)).transpose()?.flatten();
        let door = Arc::new(Door::new(stored));
        // Before all that may take long: it lives, and is not ready.
        let probes = Arc::new(Probes::default());
        let serve = |address| probes::serve(address, config.metrics_open, &probes);
        let web = config.health_listen.as_ref().map(serve).transpose()?;
        let listener = config.cluster.as_ref().map(|cluster| listen(cluster, &door)).transpose()?;
        let begins = config.cluster.as_ref().filter(|_| stored.is_none());
        let beginning = begins.map(joining::begin).transpose()?;
        let founding = founding::look(&config, beginning)?;
        let replica_config = ReplicaConfig {
            disk,
            dir: config.dir.clone(),
            segment_bytes: config.segment_bytes,
            snapshot_bytes: config.snapshot_bytes,
            log_bytes_max: config.log_bytes_max,
            log_bytes_for_peers: config.cluster.as_ref().map_or(0, |cluster| cluster.log_bytes_for_peers),
            bounds: config.bounds,
            now: config.clock.wall(),
            newcomer: newcomer(&config, beginning),
            alone: config.cluster.is_none(),
        };
        let post: Arc<OnceLock<Arc<Post>>> = Arc::default();
        let (replica, mut opened) = Replica::open(&replica_config, outbox(&post))?;
        let deleted = std::mem::take(&mut opened.deleted);
        tell_losses(&opened);
        let files = replica.wal().spare();
        let counters = Arc::<Counters>::default();
        let to_post = |cluster: &ClusterConfig| {
            Post::new(replica.identity(), cluster.reached(), cluster.security.clone(), counters.clone())
        };
        let own_post = config.cluster.as_ref().map(to_post);
        if let Some(own_post) = &own_post {
            let _ = post.set(own_post.clone());
        }
        let shared = Arc::new(share(config, replica, Gauges { syncs, counters }, opened, lock, own_post, origin));
        shared.founding.store(founding.map_or(0, |founding| founding.voters), Ordering::Release);
        if shared.config.cluster.is_some() {
            shared.announce_entries();
        }
        shared.timer.due(shared.machine.read().next_due(), true);
        shared.timer.leads(*shared.leads.lock());
        shared.inbox.hold_requests(shared.leader.lock().is_none());
        shared.archiver.finished(1);
        // One that was enqueued again since keeps its record.
        shared.archiver.deleted(shared.gone(&deleted));
        let node = Node { shared: shared.clone(), threads: Mutex::default(), closed: Default::default() };
        if shared.config.cluster.is_some() {
            *shared.listener.lock() = listener;
            door.open(&shared);
        }
        let threads = start_threads(&shared, files)?;
        *shared.web.lock() = web;
        probes.open(&shared);
        shared.maintenance.clean();
        *node.threads.lock() = threads;
        shared.find_group(beginning, founding)?;
        shared.expire_orphans();
        shared.tell_held();
        Ok(Arc::new(node))
    }
}

/// Takes the lock of the directory, if it is one that a node may open.
fn take(config: &NodeConfig) -> Result<Lock> {
    // The lock and the archive are always real, also when a test puts the log on another disk.
    ensure_dir(&RealDisk, &config.dir)?;
    check_not_shared(&config.dir)?;
    let lock = Lock::take(&config.dir)?;
    anew::check_unfinished(&config.dir)?;
    gone::check(&*config.disk, &config.dir)?;
    differs::check(&*config.disk, &config.dir)?;
    founding::check_alone(config)?;
    check_expected(config)?;
    Ok(lock)
}

/// What of the work in the directory is or may be lost.
fn tell_losses(opened: &crate::replica::Opened) {
    if let Some(index) = opened.suspect_upto {
        log::warn!("the end of the log was damaged; answered writes up to {index} may be lost");
    }
    for loss in &opened.losses {
        log::error!("work was lost in this directory: {loss}");
    }
}

impl Shared {
    /// From now on workers hear of jobs that are on their way through the group.
    fn announce_entries(&self) {
        let wakeups = self.wakeups.clone();
        let herald = move |entries: &[Entry]| {
            // A watcher that panics is the watcher's mistake.
            if catch_unwind(AssertUnwindSafe(|| wakeups.announce(entries))).is_err() {
                log::error!("a watcher panicked");
            }
        };
        if let Some(engine) = &mut *self.engine.lock() {
            engine.replica.announce_to(Box::new(herald));
        }
    }

    /// Joins a group or begins one, whatever the settings say of a node without data, and goes on with what it began.
    fn find_group(self: &Arc<Self>, beginning: Option<Beginning>, founding: Option<Founding>) -> Result<()> {
        let Some(cluster) = self.config.cluster.clone() else {
            self.raise_level();
            return Ok(());
        };
        if self.is_joining() {
            self.join(&cluster)?;
        }
        let begins = beginning == Some(Beginning::Begins) || founding.is_some_and(|founding| founding.begins);
        self.found(&cluster, begins)
    }

    /// Ends the sessions of the last owner's process, if that died as the owner: its jobs need not wait for their time to
    /// live. In effect when this returns, unless the disk has no room; then they wait for it after all.
    fn expire_orphans(self: &Arc<Self>) {
        let orphans = self.lock.lock().as_ref().map(|lock| lock.orphans(self.identity.cluster, self.identity.group));
        let (send, answered) = std::sync::mpsc::channel();
        for session in orphans.unwrap_or_default() {
            if self.sessions.lock().end(session) {
                let send = send.clone();
                // A receiver that is gone has waited long enough.
                self.expire_and(session, move || {
                    let _ = send.send(());
                });
            }
        }
        drop(send);
        let latest = Instant::now() + ORPHANS_WAIT;
        while answered.recv_timeout(latest.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

fn start_threads(shared: &Arc<Shared>, files: SpareMaker) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut start = |name: &str, body: fn(&Arc<Shared>)| -> Result<()> {
        let each = shared.clone();
        threads.push(spawn(name, move || body(&each))?);
        Ok(())
    };
    start("raftwork-core", |shared| shared.core_loop())?;
    start("raftwork-timer", Shared::timer_loop)?;
    if shared.archive.read().is_some() {
        start("raftwork-archive", |shared| {
            if let Some(archive) = &*shared.archive.read() {
                shared.archive_loop(archive);
            }
        })?;
    }
    if shared.config.cluster.is_some() {
        start("raftwork-tick", Shared::tick_loop)?;
        start("raftwork-transfer", Shared::transfer_loop)?;
        start("raftwork-hour", Shared::hour_loop)?;
    }
    let each = shared.clone();
    threads.push(spawn("raftwork-maintenance", move || each.maintenance_loop(&files))?);
    Ok(threads)
}

/// Letters that are written before the post is there, while the directory is opened, are dropped like others on the way.
fn outbox(post: &Arc<OnceLock<Arc<Post>>>) -> Outbox {
    let post = post.clone();
    Box::new(move |letter| {
        if let Some(post) = post.get() {
            post.send(letter);
        }
    })
}

/// Opens the port for members. Until the node behind it is open, it says so.
fn listen(cluster: &ClusterConfig, door: &Arc<Door>) -> Result<Listener> {
    let door = door.clone();
    let (address, security) = (cluster.listen.clone(), cluster.security.clone());
    let listening = ListenerConfig::new("the members' port", address, security, Admit::NODES);
    Listener::start(listening, move |accepted| door.serve(accepted))
}

/// Whom a new directory belongs to, if not to a group of its own.
fn newcomer(config: &NodeConfig, beginning: Option<Beginning>) -> Option<Newcomer> {
    match beginning {
        // The one group there is, see `base::ids::GroupId`.
        Some(Beginning::Joins(cluster, _)) => {
            Some(Newcomer { cluster, node: NodeId(config.disk.random().max(1)), voters: Vec::new() })
        }
        // The certificates name the cluster that begins.
        Some(Beginning::Begins) => certified_cluster(config).map(|cluster| {
            let node = NodeId(config.disk.random().max(1));
            Newcomer { cluster, node, voters: vec![node] }
        }),
        None => None,
    }
}

fn certified_cluster(config: &NodeConfig) -> Option<ClusterId> {
    match &config.cluster.as_ref()?.security {
        Security::Tls(tls) => Some(tls.own()?.cluster),
        _ => None,
    }
}

/// Refuses a directory that was replaced, before anything in it is changed or made.
fn check_expected(config: &NodeConfig) -> Result<()> {
    let Some((cluster, group)) = config.expected else { return Ok(()) };
    let found = match Identity::load(&*config.disk, &config.dir)? {
        Some(found) if (found.cluster, found.group) == (cluster, group) => return Ok(()),
        Some(found) => format!("holds cluster {}, group {}", found.cluster, found.group),
        None => "holds no data".into(),
    };
    Err(Error::Foreign(format!(
        "{} {found}, but this process worked with cluster {cluster}, group {group}: the directory was replaced while the \
         process ran; start the process again to work with what is there now, or put the old directory back",
        config.dir.display()
    )))
}

/// What is measured from the first moment on.
struct Gauges {
    syncs: Arc<Times>,
    counters: Arc<Counters>,
}

/// Where the state in the directory came from, for people: a damaged file about it must not keep the work from going on.
fn load_origin(config: &NodeConfig) -> Result<Option<Origin>> {
    match Origin::load(&RealDisk, &config.dir) {
        Err(error @ Error::Corrupt { .. }) => {
            log::error!("where this state came from is not known any more: {error}");
            Ok(None)
        }
        origin => origin,
    }
}

fn share(
    config: NodeConfig,
    replica: Replica<super::Ticket>,
    gauges: Gauges,
    opened: crate::replica::Opened,
    lock: Lock,
    post: Option<Arc<Post>>,
    origin: Option<Origin>,
) -> Shared {
    let (wall, monotonic) = (config.clock.wall(), config.clock.monotonic());
    let mut stamp = Stamp::new(wall, monotonic, replica.stamped());
    let now = stamp.now(wall, monotonic);
    let machine = replica.machine().clone();
    let mut sessions = Sessions::default();
    // Every time to live starts again: nobody could be heard while nobody listened.
    sessions.sync(&machine.read().sessions().collect::<Vec<_>>(), monotonic);
    let archive = if config.archive { open_archive(&config, &replica, now) } else { None };
    let identity = *replica.identity();
    let mut figures = Figures::default();
    figures.update(&replica, 0);
    figures.members = replica.members();
    Shared {
        inbox: Inbox::new(config.inbox_requests_max, config.inbox_bytes_max),
        wakeups: Arc::new(Wakeups::new(machine.clone(), archive.is_some())),
        machine,
        identity,
        archive: RwLock::new(archive),
        stamp: Mutex::new(stamp),
        sessions: Mutex::new(sessions),
        timer: Default::default(),
        leads: Mutex::new(replica.leads_in()),
        leads_changed: Condvar::new(),
        leader: Mutex::new(replica.leader()),
        settled: AtomicU64::new(0),
        ticks: Default::default(),
        freshness: Default::default(),
        lines: Default::default(),
        post,
        listing: Default::default(),
        founding: Default::default(),
        listener: Mutex::default(),
        snapshots: replica.snapshots().clone(),
        backups: Default::default(),
        replacing: Mutex::default(),
        origin,
        maintenance: Default::default(),
        archiver: Default::default(),
        figures: Mutex::new(figures),
        syncs: gauges.syncs,
        counters: gauges.counters,
        clients_port: Mutex::default(),
        web: Mutex::default(),
        draining: Default::default(),
        opened,
        failure: Mutex::default(),
        in_doubt: Default::default(),
        when_failed: Mutex::default(),
        when_cut_off: Mutex::default(),
        lock: Mutex::new(Some(lock)),
        engine: Mutex::new(Some(Engine::new(replica))),
        config,
    }
}

/// The archive is history: when it cannot be opened the node works without, and finished jobs stay in memory.
fn open_archive(config: &NodeConfig, replica: &Replica<super::Ticket>, now: crate::base::Millis) -> Option<Archive> {
    let machine = replica.machine().read();
    let opened = Archive::open(archive::Options {
        path: config.dir.join(ARCHIVE_DIR),
        cluster: replica.identity().cluster,
        group: replica.identity().group,
        evicted_upto: machine.evicted_upto(),
        now,
        keep_until: record::keep_until_ms,
        labels: record::labels,
    });
    // One of several has not applied all of its log yet: the others tell it what is committed. What it archived was.
    let finished_upto = if config.cluster.is_none() { machine.finished_upto() } else { u64::MAX };
    let usable = opened.and_then(|archive| archive.reconcile(finished_upto).map(|()| archive));
    usable.inspect_err(|error| log::error!("no archive: {error}")).ok()
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let started = Builder::new().name(name.into()).spawn(body);
    started.map_err(|error| Error::Poisoned(format!("the thread {name} could not be started: {error}")))
}
