//! A situation that a client of `flows` brings about step by step, as chance alone seldom does.

use super::{Book, Flowing};
use crate::random::Random;
use crate::wire::{Command, Job, Spec};

/// How many jobs one plan takes.
pub const JOBS: u64 = 4;
/// The delay of those that must not run before the end of the plan.
const LATE: u64 = 5_000;

impl Flowing {
    /// A parent lets its child down, and is requeued when both may be in the archive.
    /// Meanwhile another parent ends, and another job takes the child's unique key, or not.
    pub(super) fn plan(&mut self, random: &mut Random, book: &mut Book) {
        let [parent, other, child, rival] = [1, 2, 3, 4].map(|place| self.id(self.jobs + place, 0));
        self.jobs += JOBS;
        let key = random.chance(600).then(|| format!("key of {child}"));
        let job = |id, delay| Job { id, args: vec![7; 10], delay, ..Job::default() };
        let parents = vec![(parent, 0, false), (other, 2, random.chance(300))];
        let family = vec![
            job(parent, LATE),
            job(other, random.below(2_000)),
            Job { parents, unique: key.clone(), ..job(child, 0) },
        ];
        let mut enqueue = |jobs: Vec<Job>| {
            book.asks(&jobs, &Spec::default());
            Some(Command::Enqueue { specs: vec![Spec::default()], jobs })
        };
        self.plan.push_back(enqueue(family));
        self.plan.push_back(Some(Command::Cancel { ids: vec![parent], reason: "planned".into() }));
        if key.is_some() && random.chance(600) {
            self.plan.push_back(enqueue(vec![Job { unique: key, ..job(rival, LATE) }]));
        }
        self.plan.extend((0..random.below(8)).map(|_| None));
        self.plan.push_back(Some(Command::Requeue(vec![parent])));
    }
}
