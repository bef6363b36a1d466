//! Workers are told of jobs before these are committed: who is told, who is not told again, and that nobody is forgotten.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

use bytes::Bytes;
use raftwork::base::sync::{Mutex, RwLock};
use raftwork::base::{limits, JobId, LogIndex, Millis, SessionId};
use raftwork::machine::{Effects, Machine};
use raftwork::node::wakeups::{Wakeups, WatchEvent, WatchId, Watcher};
use raftwork::replica::{entry, Entry};

use crate::requests::{claim, enqueue_as, job, open_session};
use crate::wire::{request, Command, Job, Limit, Spec};

const NOW: Millis = Millis(5_000);
const NOBODY: [usize; 0] = [];

/// Says which watcher was told.
struct Bell {
    name: usize,
    told: Mutex<Sender<usize>>,
}

impl Watcher for Bell {
    fn event(&self, event: WatchEvent) {
        assert_eq!(event, WatchEvent::Ready);
        self.told.lock().send(self.name).unwrap();
    }
}

/// A state, and who waits for work in it.
struct Desk {
    machine: Arc<RwLock<Machine>>,
    wakeups: Wakeups,
    told: Receiver<usize>,
    watches: Vec<WatchId>,
}

impl Desk {
    /// So many watchers wait for jobs of `f` in queue `q`.
    fn with(watchers: usize) -> Self {
        let machine = Arc::new(RwLock::new(Machine::newest()));
        let wakeups = Wakeups::new(machine.clone(), false);
        let (send, told) = channel();
        let bell = |name| Arc::new(Bell { name, told: Mutex::new(send.clone()) });
        let watches = (0..watchers).map(|name| wakeups.watch(SessionId(1), bell(name))).collect();
        let desk = Self { machine, wakeups, told, watches };
        (0..watchers).for_each(|watcher| assert!(!desk.arm(watcher)));
        desk
    }

    fn arm(&self, watcher: usize) -> bool {
        self.wakeups.arm(self.watches[watcher], &["q"], &["f"])
    }

    /// The log has these requests from this index on, and nothing behind them.
    fn announce(&self, index: u64, requests: &[Vec<u8>]) -> Vec<usize> {
        let entries = (index..).zip(requests).map(|(index, request)| {
            let mut data = entry::frame(request);
            entry::stamp(&mut data, NOW);
            Entry { index, data: Bytes::from(data), ..Entry::default() }
        });
        self.wakeups.announce(&entries.collect::<Vec<_>>());
        self.told()
    }

    /// This entry is applied.
    fn apply(&self, index: u64, request: &[u8]) -> Vec<usize> {
        let mut effects = Effects::default();
        self.machine.write().apply(LogIndex(index), NOW, request, &mut effects).unwrap();
        self.wakeups.dispatch(effects);
        self.told()
    }

    fn told(&self) -> Vec<usize> {
        self.told.try_iter().collect()
    }
}

fn enqueue(ids: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    enqueue_as(&ids.map(job).collect::<Vec<_>>(), "q", "f", 8, 0)
}

/// One job that is not announced, as its unique key may be taken.
fn enqueue_unique(id: u64) -> Vec<u8> {
    enqueue_like(|job| job.unique = Some("key".into()), job(id))
}

fn enqueue_like(change: impl FnOnce(&mut Job), id: JobId) -> Vec<u8> {
    let mut job = Job { id, args: vec![7], ..Job::default() };
    change(&mut job);
    let spec = Spec { queue: "q".into(), ..Spec::default() };
    request(0, 0, 0, &Command::Enqueue { specs: vec![spec], jobs: vec![job] })
}

#[test]
fn as_many_are_told_ahead_as_jobs_come_and_nobody_again_when_they_are_there() {
    let desk = Desk::with(4);
    assert_eq!(desk.announce(1, &[enqueue(1..=1), enqueue(2..=3)]), [0, 1, 2], "oldest first");
    assert_eq!(desk.apply(1, &enqueue(1..=1)), NOBODY);
    assert_eq!(desk.apply(2, &enqueue(2..=3)), NOBODY);
    assert!(desk.arm(0), "the jobs are there, and nobody claimed them");
}

#[test]
fn whoever_cannot_run_a_job_is_not_told() {
    let desk = Desk::with(1);
    assert_eq!(desk.announce(1, &[enqueue_as(&[job(1)], "q", "g", 8, 0)]), NOBODY);
    assert_eq!(desk.announce(2, &[enqueue_as(&[job(2)], "other", "f", 8, 0)]), NOBODY);
    assert_eq!(desk.announce(3, &[enqueue(3..=3)]), [0]);
}

#[test]
fn whoever_was_told_and_goes_leaves_the_job_to_another() {
    for goes in [Wakeups::unwatch, Wakeups::disarm] {
        let desk = Desk::with(2);
        assert_eq!(desk.announce(1, &[enqueue(1..=1)]), [0]);
        goes(&desk.wakeups, desk.watches[0]);
        assert_eq!(desk.told(), NOBODY, "there is no job yet");
        assert_eq!(desk.apply(1, &enqueue(1..=1)), [1]);
    }
}

#[test]
fn whoever_looked_before_the_job_came_is_told_again() {
    let desk = Desk::with(1);
    assert_eq!(desk.announce(1, &[enqueue(1..=1)]), [0]);
    assert!(!desk.arm(0), "it came back, and the job was not there");
    assert_eq!(desk.apply(1, &enqueue(1..=1)), [0]);
}

#[test]
fn being_told_of_one_job_does_not_count_for_another() {
    let desk = Desk::with(3);
    assert_eq!(desk.announce(1, &[enqueue_unique(1), enqueue(2..=2)]), [0]);
    assert_eq!(desk.apply(1, &enqueue_unique(1)), [1], "the first one will take the other job");
    assert_eq!(desk.apply(2, &enqueue(2..=2)), NOBODY);
    assert_eq!(desk.apply(3, &enqueue(3..=3)), [2]);
}

#[test]
fn what_another_leader_wrote_in_its_place_was_not_announced() {
    let desk = Desk::with(2);
    assert_eq!(desk.announce(7, &[enqueue(1..=1)]), [0]);
    assert_eq!(desk.announce(6, &[enqueue_unique(2), enqueue_unique(3)]), NOBODY);
    assert_eq!(desk.apply(7, &enqueue_unique(3)), [1]);
}

#[test]
fn a_new_state_ends_what_was_announced() {
    let desk = Desk::with(1);
    assert_eq!(desk.announce(1, &[enqueue(1..=1)]), [0]);
    desk.wakeups.restored();
    assert_eq!(desk.told(), [0], "it looks by itself");
    assert!(!desk.arm(0));
    assert_eq!(desk.apply(1, &enqueue(1..=1)), [0]);
}

#[test]
fn jobs_that_may_not_be_ready_at_once_are_not_announced() {
    let desk = Desk::with(1);
    let like = |change: fn(&mut Job)| enqueue_like(change, job(1));
    let later = NOW.0 + 1;
    let limit = Limit { kind: 0, key: "key".into(), n: 1, window: 0, burst: 0 };
    let requests = [
        like(|job| job.delay = 1),
        enqueue_like(|job| job.run_at = Some(later), job(1)),
        like(|job| job.unique = Some("key".into())),
        like(|job| job.parents = vec![(JobId([9; 16]), 0, false)]),
        like(|job| job.batch = Some(JobId([9; 16]))),
        enqueue_like(|job| job.limits = vec![limit], job(1)),
        enqueue_as(&(1..=1_000).map(job).collect::<Vec<_>>(), "q", "f", limits::ANNOUNCED_BYTES_MAX / 1_000, 0),
        b"nobody can read this".to_vec(),
    ];
    for (index, request) in (1..).zip(requests) {
        assert_eq!(desk.announce(index, &[request]), NOBODY, "request {index}");
    }
    assert_eq!(desk.announce(9, &[enqueue_like(|job| job.run_at = Some(NOW.0), job(1))]), [0]);
}

#[test]
fn a_queue_that_gives_nothing_is_not_announced() {
    let desk = Desk::with(1);
    let pause = Command::Pause { queue: "q".into(), until: None, reason: String::new() };
    desk.apply(1, &request(0, 0, 0, &pause));
    assert_eq!(desk.announce(2, &[enqueue(1..=1)]), NOBODY);
    desk.apply(2, &request(0, 0, 0, &Command::Resume("q".into())));
    desk.apply(3, &request(0, 0, 0, &Command::LimitQueue("q".into(), Some(1))));
    desk.apply(4, &open_session(60_000));
    assert_eq!(desk.apply(5, &enqueue(1..=1)), [0]);
    desk.apply(6, &claim(SessionId(4), "q", "f", 1));
    assert!(!desk.arm(0));
    assert_eq!(desk.announce(7, &[enqueue(2..=2)]), NOBODY, "one job runs, and no more may");
    desk.apply(7, &request(0, 0, 0, &Command::LimitQueue("q".into(), None)));
    assert_eq!(desk.announce(8, &[enqueue(2..=2)]), [0]);
}
