//! Unique keys (J10): who holds one, and until when.
//!
//! A key without a window is held by its job until that is final. A key with a window is held from creation for that
//! long, whatever becomes of the job: the window outlives the eviction of the job, and only deleting it ends it early.
//! A window that is over counts for nothing from that moment on; `Tick` only takes it out of memory.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use super::table::Slot;
use super::Machine;
use crate::base::planted::{has, Bug};
use crate::base::{JobId, Millis};

/// Shards keep each tree low, and what a write copies after a capture small.
pub(super) const SHARDS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub id: JobId,
    pub until: Millis,
}

#[derive(Debug)]
pub(super) struct Unique {
    /// Jobs that are not final and hold their key without a window. Follows from the records.
    live: Vec<BTreeMap<Arc<str>, JobId>>,
    /// Keys held for a time.
    windows: Vec<Arc<BTreeMap<Arc<str>, Window>>>,
    /// The windows by their end. Follows from them.
    ends: BTreeSet<(Millis, Arc<str>)>,
}

impl Default for Unique {
    fn default() -> Self {
        Self {
            live: vec![BTreeMap::new(); SHARDS],
            windows: (0..SHARDS).map(|_| Arc::default()).collect(),
            ends: BTreeSet::new(),
        }
    }
}

fn shard(key: &str) -> usize {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(key.as_bytes());
    hasher.finish() as usize % SHARDS
}

impl Unique {
    /// Which job holds the key now.
    pub fn holder(&self, key: &str, now: Millis) -> Option<JobId> {
        let shard = shard(key);
        if let Some(id) = self.live[shard].get(key) {
            return Some(*id);
        }
        self.windows[shard].get(key).filter(|window| window.until > now).map(|window| window.id)
    }

    pub fn take(&mut self, key: &Arc<str>, id: JobId, until: Option<Millis>) {
        match until {
            None => {
                self.live[shard(key)].insert(key.clone(), id);
            }
            Some(until) => {
                let shard = Arc::make_mut(&mut self.windows[shard(key)]);
                if let Some(old) = shard.insert(key.clone(), Window { id, until }) {
                    self.ends.remove(&(old.until, key.clone()));
                }
                self.ends.insert((until, key.clone()));
            }
        }
    }

    /// Gives the key back if this job holds it without a window.
    pub fn release_live(&mut self, key: &str, id: JobId) {
        let live = &mut self.live[shard(key)];
        if live.get(key) == Some(&id) {
            live.remove(key);
        }
    }

    /// Ends the window of this job early.
    pub fn release_window(&mut self, key: &Arc<str>, id: JobId) {
        let shard = &mut self.windows[shard(key)];
        let Some(window) = shard.get(key).copied().filter(|window| window.id == id) else { return };
        Arc::make_mut(shard).remove(key);
        self.ends.remove(&(window.until, key.clone()));
    }

    pub fn next_end(&self) -> Option<Millis> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Forgets one window that is over.
    pub fn forget_ended(&mut self, now: Millis) -> bool {
        let Some((until, key)) = self.ends.first().filter(|(until, _)| *until <= now).cloned() else { return false };
        self.ends.remove(&(until, key.clone()));
        Arc::make_mut(&mut self.windows[shard(&key)]).remove(&key);
        true
    }

    pub fn windows(&self) -> &[Arc<BTreeMap<Arc<str>, Window>>] {
        &self.windows
    }

    #[cfg(any(debug_assertions, feature = "sim"))] // For the recount of tests.
    pub fn live(&self) -> impl Iterator<Item = (&Arc<str>, &JobId)> {
        self.live.iter().flatten()
    }

    pub fn ends_len(&self) -> usize {
        self.ends.len()
    }
}

impl Machine {
    /// The job has become final or is about to go: its key is free, unless a window holds it.
    pub(super) fn release_unique(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let Some(key) = job.unique().cloned() else { return };
        let id = job.id;
        self.unique.release_live(&key, id);
        if has(Bug::WindowEndsEarly) {
            self.unique.release_window(&key, id);
        }
    }

    /// Takes the key of a job for it, from now on.
    pub(super) fn take_unique(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let Some(key) = job.unique().cloned() else { return };
        let window = self.specs.get(job.spec).spec.unique_window;
        let id = job.id;
        self.unique.take(&key, id, window.map(|window| self.clock.plus(window)));
    }
}
