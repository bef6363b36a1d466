//! Wake-ups ahead of time. In a group of several, a node has an entry long before it may apply it. A worker that hears of it
//! at once claims while the entry is being synced, and its claim stands right behind it in the log.
//!
//! What holds
//! * A watcher that was told ahead counts as woken for the jobs of that entry, among those that ask for the same: so nobody
//!   claims for nothing when the entry is applied.
//! * It counts until it comes back or goes, and for no other entry. Its claim stands behind that entry, if the entry is ever
//!   applied: the node had the entry from the leader of its term before anybody could hand the claim to that one or a later one.
//! * What is told ahead may not come true. Then the claim gives nothing, and whoever arms again looks at the state.

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "sim")]
use super::Standing;
use super::{call, Ask, Calls, Registry, Wakeups, WatchId};
use crate::base::{limits, LogIndex};
use crate::machine::{Coming, Machine};
use crate::replica::{entry, Entry};

/// The operation `Enqueue`.
const ENQUEUE: u64 = 4;

/// The jobs that a watcher was told of ahead: those of an entry in a queue.
pub(super) struct Hint {
    index: LogIndex,
    queue: Arc<str>,
}

/// By watcher, which has come back or gone when it is not in here.
pub(super) type Hints = BTreeMap<WatchId, Hint>;

impl Wakeups {
    /// Tells watchers of jobs that these entries bring, which the node is about to sync. They take the place of whatever the
    /// log had from the index of the first one on.
    pub fn announce(&self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let mut registry = self.registry.lock();
        registry.hints.retain(|_, hint| hint.index.0 < first.index);
        let mut calls = Calls::new();
        if !registry.armed.is_empty() {
            let machine = self.machine.read();
            entries.iter().for_each(|entry| registry.hint(entry, &machine, &mut calls));
        }
        drop(registry);
        call(calls);
    }
}

impl Registry {
    fn hint(&mut self, entry: &Entry, machine: &Machine, calls: &mut Calls) {
        for Coming { queue, function, jobs } in coming(entry, machine) {
            let woken = self.wake(|ask| if ask.takes(&queue, &function) { jobs } else { 0 }, calls);
            let hint = || Hint { index: LogIndex(entry.index), queue: queue.clone() };
            self.hints.extend(woken.into_iter().map(|id| (id, hint())));
        }
    }

    /// Takes out who was told of these jobs ahead: what each asks for, and the queue.
    pub(super) fn take_hinted(&mut self, ready: &[(LogIndex, Box<str>, usize)]) -> Vec<(Arc<Ask>, Arc<str>)> {
        let Self { hints, watches, .. } = self;
        let came = |hint: &Hint| ready.iter().any(|(index, queue, _)| *index == hint.index && **queue == *hint.queue);
        let hinted = hints.extract_if(.., |_, hint| came(hint));
        hinted.filter_map(|(id, hint)| Some((watches.get(&id)?.ask.clone()?, hint.queue))).collect()
    }
}

fn coming(entry: &Entry, machine: &Machine) -> Vec<Coming> {
    if entry.data.len() > limits::ANNOUNCED_BYTES_MAX {
        return Vec::new();
    }
    // A change of the members has another form.
    match entry::split(&entry.data) {
        Ok((now, request)) if entry::operation(request) == Some(ENQUEUE) => machine.coming(now, request),
        _ => Vec::new(),
    }
}

#[cfg(feature = "sim")]
impl Wakeups {
    /// That somebody will look wherever a job is ready and a watcher that could claim it waits. For tests.
    ///
    /// # Errors
    /// Says who would wait for ever.
    pub fn audit(&self) -> Result<(), String> {
        let registry = self.registry.lock();
        let machine = self.machine.read();
        for ask in &registry.asks {
            let same =
                registry.watches.values().filter(|watch| watch.ask.as_ref().is_some_and(|of| Arc::ptr_eq(of, ask)));
            let (woken, others): (Vec<_>, Vec<_>) = same.partition(|watch| watch.standing == Standing::Woken);
            let waits = others.iter().any(|watch| watch.standing != Standing::Idle);
            if waits && woken.is_empty() && ask.is_ready(&machine) {
                return Err(format!("a job is ready at {} and nobody who waits for {ask:?} knows", machine.applied()));
            }
        }
        Ok(())
    }
}
