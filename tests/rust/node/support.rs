//! A node in a temporary directory, a clock that is moved by hand, a disk that misbehaves on request.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::Duration;

use raftwork::base::sync::{Condvar, Mutex, MutexGuard};
use raftwork::base::time::SystemClock;
use raftwork::base::{Clock, Error, Millis, Result, SessionId};
use raftwork::disk::{Access, Disk, File, RealDisk};
use raftwork::node::{Node, NodeConfig, View, WatchEvent, WatchId, Watcher};
use tempfile::TempDir;

/// How long a test waits for a signal before it fails. Long: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time that stands still until it is moved.
#[derive(Default)]
pub struct HandClock {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl HandClock {
    pub fn new() -> Arc<Self> {
        let clock = Self::default();
        clock.wall.store(1_700_000_000_000, Ordering::SeqCst);
        Arc::new(clock)
    }

    /// Time passes.
    pub fn advance(&self, span: u64) {
        self.wall.fetch_add(span, Ordering::SeqCst);
        self.monotonic.fetch_add(span, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, span: u64) {
        self.wall.fetch_add(span, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn wall(&self) -> Millis {
        Millis(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Millis {
        Millis(self.monotonic.load(Ordering::SeqCst))
    }
}

/// The clock of the system for one node alone, which a test may move on: for that node time passed while it did nothing.
#[derive(Default)]
pub struct OwnClock(AtomicU64);

impl OwnClock {
    pub fn skip(&self, span: u64) {
        self.0.fetch_add(span, Ordering::SeqCst);
    }
}

impl Clock for OwnClock {
    fn wall(&self) -> Millis {
        SystemClock.wall()
    }

    fn monotonic(&self) -> Millis {
        SystemClock.monotonic().plus(Millis(self.0.load(Ordering::SeqCst)))
    }
}

/// What a `BadDisk` does at the next syncs and creations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Good,
    /// Syncs of data wait until the mood changes.
    Hangs,
    /// What is in a directory is not told until the mood changes: a node that opens does not get beyond its identity.
    ListHangs,
    SyncFails,
    /// The next sync of data fails, later ones do not.
    SyncFailsOnce,
    /// The next sync of data panics, later ones do not.
    SyncPanicsOnce,
    SyncPanics,
    Full,
}

/// The real disk with a mood.
#[derive(Debug, Default)]
pub struct BadDisk {
    mood: Arc<(Mutex<Mood>, Condvar)>,
    hanging: Arc<AtomicU64>,
    refusals: AtomicU64,
}

impl BadDisk {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.0.lock() = mood;
        self.mood.1.notify_all();
    }

    /// Waits until something hangs.
    pub fn wait_hanging(&self) {
        until(|| self.hanging.load(Ordering::SeqCst) > 0);
    }

    /// How many files could not be made for lack of room.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::SeqCst)
    }

    fn full(&self) -> Result<()> {
        if *self.mood.0.lock() != Mood::Full {
            return Ok(());
        }
        self.refusals.fetch_add(1, Ordering::SeqCst);
        Err(Error::DiskFull("the test says so".into()))
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(BadFile { file, mood: self.mood.clone(), hanging: self.hanging.clone() })
    }
}

/// Looks until it is so. Only for what no signal tells.
pub fn until(mut condition: impl FnMut() -> bool) {
    let latest = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < latest, "it did not happen");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Waits while this is the mood. Gives what it is then.
fn hang<'a>(
    (mood, changed): &'a (Mutex<Mood>, Condvar),
    hanging: &AtomicU64,
    while_it_is: Mood,
) -> MutexGuard<'a, Mood> {
    let mut now = mood.lock();
    while *now == while_it_is {
        hanging.fetch_add(1, Ordering::SeqCst);
        changed.wait(&mut now);
        hanging.fetch_sub(1, Ordering::SeqCst);
    }
    now
}

#[derive(Debug)]
struct BadFile {
    file: Arc<dyn File>,
    mood: Arc<(Mutex<Mood>, Condvar)>,
    hanging: Arc<AtomicU64>,
}

impl Disk for BadDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Option<Arc<dyn File>>> {
        Ok(RealDisk.open(path, access)?.map(|file| self.wrap(file)))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.full()?;
        Ok(self.wrap(RealDisk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        drop(hang(&self.mood, &self.hanging, Mood::ListHangs));
        RealDisk.list(dir)
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        RealDisk.make_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        RealDisk.free_bytes(dir)
    }

    fn random(&self) -> u64 {
        RealDisk.random()
    }
}

impl File for BadFile {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> Result<()> {
        let mut now = hang(&self.mood, &self.hanging, Mood::Hangs);
        let failed = Err(Error::Disk { operation: "sync", path: "x".into(), message: "test".into() });
        match *now {
            Mood::SyncFails => failed,
            Mood::SyncFailsOnce => {
                *now = Mood::Good;
                failed
            }
            Mood::SyncPanicsOnce => {
                *now = Mood::Good;
                drop(now);
                panic!("the test says so")
            }
            Mood::SyncPanics => panic!("the test says so"),
            _ => self.file.sync_data(),
        }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

/// A node and the directory it lives in.
pub struct Home {
    pub dir: TempDir,
    pub clock: Arc<HandClock>,
    pub disk: Arc<BadDisk>,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: HandClock::new(), disk: BadDisk::new() }
    }

    /// Small files, time by hand, no archive.
    pub fn config(&self) -> NodeConfig {
        NodeConfig {
            segment_bytes: 256 << 10,
            archive: false,
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            ..NodeConfig::new(self.dir.path().join("data"))
        }
    }

    pub fn open(&self) -> Arc<Node> {
        Node::open(self.config()).unwrap()
    }
}

/// A watcher whose events are read from a channel.
pub struct Events {
    pub id: WatchId,
    pub events: Receiver<WatchEvent>,
}

struct Sink(Mutex<Sender<WatchEvent>>);

impl Watcher for Sink {
    fn event(&self, event: WatchEvent) {
        let _ = self.0.lock().send(event);
    }
}

impl Events {
    pub fn of(node: &Node, session: SessionId) -> Self {
        let (send, events) = channel();
        Self { id: node.watch(session, Arc::new(Sink(Mutex::new(send)))), events }
    }

    pub fn next(&self) -> WatchEvent {
        self.events.recv_timeout(PATIENCE).expect("an event in time")
    }

    pub fn is_empty(&self) -> bool {
        self.events.try_recv().is_err()
    }
}

/// Says that a session lives, and waits for what comes of it.
pub fn beat(node: &Node, session: SessionId) -> Result<()> {
    let (send, receive) = channel();
    node.heartbeat(session, Box::new(move |done| drop(send.send(done))));
    receive.recv_timeout(PATIENCE).unwrap()
}

/// What a node answers to a question, whatever state it has: `[as_of_index, staleness_ms, payload]`.
pub fn view(node: &Node, question: &[u8]) -> Result<Vec<u8>> {
    let (send, receive) = channel();
    node.view(View::of_any(question), Box::new(move |answer| drop(send.send(answer))));
    receive.recv_timeout(PATIENCE).unwrap()
}

/// Log lines on standard error, if `RAFTWORK_TEST_LOG` is set.
pub fn log_lines() {
    struct Lines;
    impl log::Log for Lines {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            eprintln!("{:?} {} {}", std::thread::current().name(), record.level(), record.args());
        }

        fn flush(&self) {}
    }
    if std::env::var_os("RAFTWORK_TEST_LOG").is_some() && log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
