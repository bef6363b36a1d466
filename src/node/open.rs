//! From a directory to a running node.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use super::driver::Engine;
use super::inbox::Inbox;
use super::metrics::{Figures, MeteredDisk, Times};
use super::sessions::Sessions;
use super::stamp::Stamp;
use super::wakeups::Wakeups;
use super::{Node, NodeConfig, Shared};
use crate::archive::{self, Archive};
use crate::base::{limits, Error, Result};
use crate::disk::{ensure_dir, Disk, Lock, RealDisk};
use crate::machine::record;
use crate::replica::{Replica, ReplicaConfig};

/// Name of the archive's directory inside the data directory.
const ARCHIVE_DIR: &str = "archive";

impl Node {
    /// Opens the directory: takes its lock, recovers what is stored and leads the group before it returns.
    pub fn open(config: NodeConfig) -> Result<Arc<Node>> {
        config.validate()?;
        // The lock and the archive are always real, also when a test puts the log on another disk.
        ensure_dir(&RealDisk, &config.dir)?;
        let lock = Lock::take(&config.dir)?;
        let syncs = Arc::new(Times::new());
        let disk: Arc<dyn Disk> = Arc::new(MeteredDisk { disk: config.disk.clone(), syncs: syncs.clone() });
        let replica_config = ReplicaConfig {
            disk,
            dir: config.dir.clone(),
            segment_bytes: config.segment_bytes,
            snapshot_bytes: config.snapshot_bytes,
            log_bytes_max: config.log_bytes_max,
            log_bytes_for_peers: limits::LOG_BYTES_FOR_PEERS,
            now: config.clock.wall(),
            newcomer: None,
        };
        // A group of one has nobody to write to.
        let (replica, opened) = Replica::open(&replica_config, Box::new(|_| {}))?;
        if let Some(index) = opened.suspect_upto {
            log::warn!("the end of the log was damaged; answered writes up to {index} may be lost");
        }
        let files = replica.wal().spare();
        let shared = Arc::new(share(config, replica, syncs, opened));
        shared.timer.due(shared.machine.read().next_due(), true);
        shared.archiver.finished(1);
        let node = Node { shared: shared.clone(), threads: Mutex::default(), lock: Mutex::new(Some(lock)) };
        let mut threads = Vec::new();
        let each = shared.clone();
        threads.push(spawn("raftwork-core", move || each.core_loop())?);
        let each = shared.clone();
        threads.push(spawn("raftwork-timer", move || each.timer_loop())?);
        let each = shared.clone();
        threads.push(spawn("raftwork-maintenance", move || each.maintenance_loop(&files))?);
        if shared.archive.is_some() {
            let each = shared.clone();
            threads.push(spawn("raftwork-archive", move || {
                if let Some(archive) = &each.archive {
                    each.archive_loop(archive);
                }
            })?);
        }
        shared.maintenance.clean();
        *node.threads.lock() = threads;
        Ok(Arc::new(node))
    }
}

fn share(
    config: NodeConfig,
    replica: Replica<super::Ticket>,
    syncs: Arc<Times>,
    opened: crate::replica::Opened,
) -> Shared {
    let (wall, monotonic) = (config.clock.wall(), config.clock.monotonic());
    let mut stamp = Stamp::new(wall, monotonic, replica.stamped());
    let now = stamp.now(wall, monotonic);
    let machine = replica.machine().clone();
    let mut sessions = Sessions::default();
    // Every time to live starts again: nobody could be heard while nobody listened.
    sessions.sync(&machine.read().sessions().collect::<Vec<_>>(), monotonic);
    let archive = if config.archive { open_archive(&config, &replica, now) } else { None };
    let mut figures = Figures::default();
    figures.update(&replica, 0);
    Shared {
        inbox: Inbox::new(config.inbox_requests_max, config.inbox_bytes_max),
        engine: Mutex::new(Some(Engine::new(replica))),
        wakeups: Wakeups::new(machine.clone()),
        machine,
        archive,
        stamp: Mutex::new(stamp),
        sessions: Mutex::new(sessions),
        timer: Default::default(),
        maintenance: Default::default(),
        archiver: Default::default(),
        figures: Mutex::new(figures),
        syncs,
        opened,
        failed: Mutex::new(None),
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
    let usable = opened.and_then(|archive| archive.reconcile(machine.finished_upto()).map(|()| archive));
    usable.inspect_err(|error| log::error!("no archive: {error}")).ok()
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let started = Builder::new().name(name.into()).spawn(body);
    started.map_err(|error| Error::Poisoned(format!("the thread {name} could not be started: {error}")))
}
