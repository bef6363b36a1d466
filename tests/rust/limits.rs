//! What limits cost and whom they hold up: bursts on one key, many keys, and limits that meet in many ways.

use crate::wire::{self, claimed, Command, End, Job, Limit, Own, Spec};
use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::{Effects, Machine};

/// A machine with a worker.
struct Shop {
    machine: Machine,
    index: u64,
    jobs: u64,
}

fn at_once(n: u64, key: String) -> Limit {
    Limit { kind: 0, key, n, window: 0, burst: 0 }
}

impl Shop {
    fn new() -> Self {
        let mut shop = Self { machine: Machine::new(), index: 0, jobs: 0 };
        shop.apply(&Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() });
        shop.apply(&Command::Own(Own::SetLevel(4)));
        shop
    }

    fn apply(&mut self, command: &Command) -> Vec<u8> {
        self.index += 1;
        let request = wire::request(0, 0, 0, command);
        let mut effects = Effects::default();
        let reply = self.machine.apply(LogIndex(self.index), Millis(1_000), &request, &mut effects);
        wire::reply(&reply.expect("a known operation")).1.expect("it is not refused")
    }

    /// Stores so many jobs, each with the limits of its number.
    fn enqueue(&mut self, count: u64, limits: impl Fn(u64) -> Vec<Limit>) {
        for batch in (0..count).collect::<Vec<_>>().chunks(1_000) {
            let jobs = batch.iter().map(|number| {
                self.jobs += 1;
                Job { id: JobId(u128::from(self.jobs).to_be_bytes()), limits: limits(*number), ..Job::default() }
            });
            let jobs = jobs.collect();
            self.apply(&Command::Enqueue { specs: vec![Spec::default()], jobs });
        }
    }

    /// Ids by their number, and tokens.
    fn claim(&mut self, max: u64) -> Vec<(u64, u64)> {
        let answer = self.apply(&Command::Claim {
            session: 1,
            queues: vec![("default".into(), 1)],
            strict: false,
            functions: vec!["f".into()],
            max,
        });
        claimed(&answer).iter().map(|job| (u128::from_be_bytes(job.id.0) as u64, job.token)).collect()
    }

    fn finish(&mut self, jobs: &[(u64, u64)]) {
        let id = |number: u64| JobId(u128::from(number).to_be_bytes());
        let results = jobs.iter().map(|(number, token)| (id(*number), *token, End::Succeeded(None)));
        self.apply(&Command::Finish(results.collect()));
    }

    /// The steps at gates that an action takes.
    fn steps(&mut self, act: impl FnOnce(&mut Self)) -> u64 {
        let before = self.machine.limit_steps();
        act(self);
        self.machine.limit_steps() - before
    }
}

#[test]
fn j13_a_burst_on_one_key_costs_each_job_the_same_however_long_it_is() {
    let costs = |burst: u64| {
        let mut shop = Shop::new();
        shop.enqueue(burst, |_| vec![at_once(2, "acme".into())]);
        let more = shop.steps(|shop| shop.enqueue(1_000, |_| vec![at_once(2, "acme".into())]));
        let run = shop.steps(|shop| {
            for _ in 0..500 {
                let jobs = shop.claim(9);
                assert_eq!(jobs.len(), 2);
                shop.finish(&jobs);
            }
        });
        (more, run)
    };
    let (long, short) = (costs(100_000), costs(2_000));
    assert_eq!(long, short);
    assert!(long.0 <= 10 * 1_000 && long.1 <= 40 * 1_000, "{long:?} steps for a thousand jobs");
}

#[test]
fn j8_j13_a_burst_on_one_key_does_not_starve_the_others() {
    let mut shop = Shop::new();
    shop.enqueue(20_000, |_| vec![at_once(3, "greedy".into())]);
    shop.enqueue(2_000, |number| vec![at_once(1, format!("key{}", number % 1_000))]);
    let first = shop.claim(1_000);
    let second = shop.claim(1_000);
    let greedy = first.iter().chain(&second).filter(|(number, _)| *number <= 20_000).count();
    assert_eq!((greedy, first.len() + second.len()), (3, 1_003), "three of the burst, and one of each other key");
    let others: Vec<u64> = first.iter().chain(&second).map(|(number, _)| *number).skip(3).collect();
    assert!(others.windows(2).all(|pair| pair[0] < pair[1]), "in their order");
}

#[test]
fn j13_a_limit_of_all_before_one_of_each_key_costs_the_same_with_many_keys() {
    let costs = |keys: u64| {
        let mut shop = Shop::new();
        let limits = |number: u64| vec![at_once(50, "all".into()), at_once(1, format!("key{}", number % keys))];
        shop.enqueue(20_000, limits);
        let mut running = shop.claim(50);
        shop.steps(|shop| {
            for _ in 0..500 {
                let ended = running.remove(0);
                shop.finish(&[ended]);
                running.extend(shop.claim(1));
            }
        })
    };
    let (many, few) = (costs(10_000), costs(100));
    assert!(many <= 2 * few, "{many} steps, with few keys {few}");
}

#[test]
fn j13_limits_that_meet_in_many_ways_cost_as_the_root_of_the_jobs_at_most() {
    // The worst that a task can say: the narrow limit first, so that the wide one stands behind each of its keys.
    let mut shop = Shop::new();
    shop.enqueue(20_000, |number| vec![at_once(1, format!("user{number}")), at_once(1, "region".into())]);
    let steps = shop.steps(|shop| {
        for _ in 0..100 {
            let jobs = shop.claim(9);
            assert_eq!(jobs.len(), 1);
            shop.finish(&jobs);
        }
    });
    assert!(steps <= 100 * 1_000, "{steps} steps for a hundred jobs");
}

#[test]
fn j6_j13_no_job_is_stuck_whatever_limits_meet() {
    let mut shop = Shop::new();
    shop.enqueue(3_000, |number| {
        let limit = |factor: u64| at_once(1 + number % 2, format!("key{}", number * factor % 7));
        match number % 4 {
            0 => vec![limit(1)],
            1 => vec![limit(1), at_once(4, "all".into())],
            2 => vec![at_once(4, "all".into()), limit(3)],
            _ => Vec::new(),
        }
    });
    let mut done = 0;
    while done < 3_000 {
        let jobs = shop.claim(10);
        assert!(!jobs.is_empty(), "{done} jobs are done, and none of the others may start");
        done += jobs.len();
        shop.finish(&jobs);
    }
    shop.machine.audit().expect("everything follows from the records");
}
