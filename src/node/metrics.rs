//! What the node knows about itself: how long syncs take, and the figures of the last turn.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::counters::Histogram;
use crate::base::sync::Mutex;
use crate::base::{LogIndex, NodeId, Result, Term};
use crate::disk::{Access, Disk, File};
use crate::replica::{Members, Replica};

/// Times that are kept; percentiles speak about these.
const SAMPLES: usize = 1024;

/// The newest times of one thing, in microseconds.
#[derive(Debug)]
pub(super) struct Times {
    samples: Mutex<(Vec<u32>, u64)>,
    histogram: Histogram,
}

impl Times {
    pub fn new() -> Self {
        Self { samples: Mutex::new((Vec::with_capacity(SAMPLES), 0)), histogram: Histogram::default() }
    }

    /// All since the start.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    fn add(&self, since: Instant) {
        let span = since.elapsed();
        self.histogram.add(span);
        let micros = span.as_micros().min(u128::from(u32::MAX)) as u32;
        let (samples, count) = &mut *self.samples.lock();
        if samples.len() < SAMPLES {
            samples.push(micros);
        } else {
            samples[*count as usize % SAMPLES] = micros;
        }
        *count += 1;
    }

    /// Median, 99th percentile and how many there were in all; zero without any.
    pub fn summary(&self) -> (u64, u64, u64) {
        let (mut samples, count) = self.samples.lock().clone();
        samples.sort_unstable();
        let at = |hundredths: usize| samples.get(samples.len() * hundredths / 100).copied().unwrap_or_default().into();
        (at(50), at(99), count)
    }
}

/// A disk that measures how long the syncs of data take: those of the log, which every answer waits for.
#[derive(Debug)]
pub(super) struct MeteredDisk {
    pub disk: Arc<dyn Disk>,
    pub syncs: Arc<Times>,
}

#[derive(Debug)]
struct MeteredFile {
    file: Arc<dyn File>,
    syncs: Arc<Times>,
}

impl MeteredDisk {
    fn metered(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(MeteredFile { file, syncs: self.syncs.clone() })
    }
}

impl Disk for MeteredDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Option<Arc<dyn File>>> {
        Ok(self.disk.open(path, access)?.map(|file| self.metered(file)))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(self.metered(self.disk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        self.disk.make_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        self.disk.free_bytes(dir)
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for MeteredFile {
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
        let started = Instant::now();
        let outcome = self.file.sync_data();
        self.syncs.add(started);
        outcome
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

/// What health calls the role of a node that stopped.
pub(super) const FAILED: &str = "failed";

/// Figures of the replica as of the last turn, so that asking for health never waits for the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub role: &'static str,
    pub term: Term,
    pub index: LogIndex,
    pub applied: LogIndex,
    pub committed: LogIndex,
    pub leader: Option<NodeId>,
    /// Bytes of log on disk, and behind the newest snapshot.
    pub log_bytes: u64,
    pub log_bytes_open: u64,
    pub snapshot_index: LogIndex,
    pub snapshot_bytes: u64,
    pub snapshot_running: bool,
    /// How long taking the newest capture of the state held up writes, in microseconds; 0: none was taken.
    pub snapshot_capture_us: u64,
    pub turns: u64,
    pub entries: u64,
    /// Entries of the largest group.
    pub group_entries_max: usize,
    /// The disk has no room for the log; and a write waits for some, so that nothing behind it is answered.
    pub full: bool,
    pub stalled: bool,
    /// Up to here the log may lack entries that this node acknowledged, so that it votes for nobody.
    pub suspects: Option<LogIndex>,
    /// The entry whose mark this node differs in and does not know yet who is wrong.
    pub doubts: Option<LogIndex>,
    /// Members that differ, and since when.
    pub odd_members: Vec<(NodeId, LogIndex)>,
    /// Nobody knows whether those differ or this one does.
    pub disputed: bool,
    /// Who is a member, as of the last entry applied.
    pub members: Members,
}

impl Figures {
    pub fn update<T>(&mut self, replica: &Replica<T>, applied: usize) {
        self.role = replica.role().name();
        self.term = replica.term();
        self.index = replica.last_index();
        self.applied = replica.applied();
        self.committed = replica.committed();
        self.leader = replica.leader();
        self.log_bytes = replica.wal().bytes();
        self.log_bytes_open = replica.log_bytes();
        if self.snapshot_index != replica.upkeep().newest || self.turns == 0 {
            self.snapshot_index = replica.upkeep().newest;
            self.snapshot_bytes = replica.snapshots().latest_bytes();
        }
        self.snapshot_running = replica.upkeep().running;
        self.turns += 1;
        self.entries += applied as u64;
        self.group_entries_max = self.group_entries_max.max(applied);
        self.full = replica.is_full();
        self.stalled = replica.is_stalled();
        self.suspects = replica.suspects();
        self.doubts = replica.doubts();
        self.odd_members = replica.odd_members();
        self.disputed = replica.is_disputed();
    }
}
