//! Backups that this node makes while it serves: a snapshot is taken, then the file is made in pieces as they are asked
//! for, see `backup`. Writers wait for nothing but the capture of the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::backup::{Maker, Manifest};
use crate::base::sync::Mutex;
use crate::base::{limits, Error, Result};

/// A backup that nobody asked for a piece of for so long was given up by whoever began it.
const ABANDONED: Duration = Duration::from_secs(60);
/// How long a node of several may take to know that it misses nothing.
const FRESH_WAIT: Duration = Duration::from_secs(10);

/// A backup on its way, and when it was last asked for.
struct Running {
    maker: Maker,
    asked: Instant,
}

/// The backups on their way, by number.
#[derive(Default)]
pub(super) struct Backups(Mutex<BTreeMap<u64, Arc<Mutex<Running>>>>);

impl Backups {
    fn add(&self, number: u64, maker: Maker) -> Result<()> {
        let mut running = self.0.lock();
        running.retain(|_, one| one.try_lock().is_none_or(|one| one.asked.elapsed() < ABANDONED));
        if running.len() >= limits::BACKUPS_MAX {
            return Err(Error::Overloaded(format!("{} backups are being made; wait for one to end", running.len())));
        }
        running.insert(number, Arc::new(Mutex::new(Running { maker, asked: Instant::now() })));
        Ok(())
    }

    fn find(&self, number: u64) -> Result<Arc<Mutex<Running>>> {
        self.0.lock().get(&number).cloned().ok_or_else(|| {
            Error::NotCommitted(
                "this backup is not known here: the member that made it was left, or it was not asked for anything for a \
                 minute; begin a new one"
                    .into(),
            )
        })
    }

    /// Forgets a backup that ended.
    pub fn end(&self, number: u64) {
        self.0.lock().remove(&number);
    }
}

impl Shared {
    /// Begins a backup and gives its number. Everything that was answered before the call will be in it.
    pub(super) fn begin_backup(self: &Arc<Self>, history: bool) -> Result<u64> {
        self.check_running()?;
        self.wait_fresh()?;
        if let Some(archive) = self.archive.read().as_ref().filter(|_| history) {
            self.archiver.take_out_deleted(archive)?;
        }
        self.snapshot_now()?;
        let meta = self.snapshots.latest().ok_or_else(|| Error::NotCommitted("there is no state here yet".into()))?;
        let snapshot = self.snapshots.open_file(&meta)?;
        let own = &self.identity;
        let manifest = Manifest {
            cluster: own.cluster,
            group: own.group,
            node: own.node,
            index: meta.index,
            term: meta.term,
            clock: meta.now,
            made: self.config.clock.wall(),
            snapshot_bytes: snapshot.len()?,
            history: history && self.archive.read().is_some(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let number = self.config.disk.random() >> 1;
        log::info!("a backup of the state at {} is being made", meta.index);
        self.backups.add(number, Maker::new(manifest, snapshot))?;
        Ok(number)
    }

    /// A piece of a backup; empty behind its last.
    pub(super) fn backup_piece(&self, number: u64, piece: u64) -> Result<Vec<u8>> {
        self.check_running()?;
        let running = self.backups.find(number)?;
        let mut running = running.lock();
        running.asked = Instant::now();
        let archive = self.archive.read();
        running.maker.piece(piece, archive.as_ref()).map(<[u8]>::to_vec)
    }

    /// Waits until the state here has everything that was answered anywhere.
    fn wait_fresh(self: &Arc<Self>) -> Result<()> {
        let (send, receive) = std::sync::mpsc::channel();
        // A receiver that is gone does not want to know any more.
        self.fresh(Box::new(move |answer| drop(send.send(answer))));
        let late = Error::TimedOut("no majority confirmed that this member misses nothing".into());
        receive.recv_timeout(FRESH_WAIT).unwrap_or(Err(late)).map(drop)
    }
}
