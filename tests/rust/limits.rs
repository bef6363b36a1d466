//! What limits cost and whom they hold up: bursts on one key, many keys, limits that meet in many ways, and turns.

use crate::wire::{self, claimed, Command, End, Job, Limit, Own, Spec};
use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::{Effects, Loader, Machine};

/// A machine with a worker.
struct Shop {
    machine: Machine,
    index: u64,
    jobs: u64,
}

/// The section of an image that ends with the limiters.
const LIMITS: u8 = 14;

fn at_once(n: u64, key: String) -> Limit {
    Limit { kind: 0, key, n, window: 0, burst: 0 }
}

impl Shop {
    fn new() -> Self {
        let mut shop = Self { machine: Machine::new(), index: 0, jobs: 0 };
        shop.apply(&Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() });
        shop.apply(&Command::Own(Own::SetLevel(5)));
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

    /// The numbers of all jobs in the order of their starts, claimed so many at once.
    fn starts(&mut self, max: u64) -> Vec<u64> {
        let claims = std::iter::from_fn(|| Some(self.claim(max)).filter(|jobs| !jobs.is_empty()));
        claims.flatten().map(|(number, _)| number).collect()
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
fn j8_two_tenants_alternate_although_all_jobs_of_one_came_first() {
    for max in [1, 7, 1_000] {
        let mut shop = Shop::new();
        shop.enqueue(1_000, |_| vec![Limit::fair("a")]);
        shop.enqueue(1_000, |_| vec![Limit::fair("b")]);
        let given: Vec<u64> = shop.starts(max);
        let expected: Vec<u64> = (1..=1_000).flat_map(|number| [number, 1_000 + number]).collect();
        assert_eq!(given, expected, "{max} jobs a claim");
        shop.machine.audit().expect("everything follows from the records");
    }
}

#[test]
fn j8_of_ten_tenants_none_gets_two_starts_more_than_another_while_both_wait() {
    let mut shop = Shop::new();
    let tenant = |number: u64| number.isqrt().min(9);
    shop.enqueue(2_000, |number| vec![Limit::fair(format!("tenant{}", tenant(number)))]);
    let mut waiting = [0u64; 10];
    (0..2_000).for_each(|number| waiting[tenant(number) as usize] += 1);
    let mut starts = [0u64; 10];
    for number in shop.starts(3) {
        let of = tenant(number - 1) as usize;
        (starts[of], waiting[of]) = (starts[of] + 1, waiting[of] - 1);
        let both = (0..10).filter(|tenant| waiting[*tenant] > 0).map(|tenant| starts[tenant]);
        let (least, most) = (both.clone().min().unwrap_or(0), both.max().unwrap_or(0));
        assert!(most - least <= 1, "{starts:?} started, {waiting:?} wait");
    }
}

#[test]
fn j8_whoever_had_nothing_waiting_neither_loses_nor_gains_turns() {
    let mut shop = Shop::new();
    shop.enqueue(100, |_| vec![Limit::fair("busy")]);
    shop.enqueue(100, |_| vec![Limit::fair("other")]);
    let first = shop.claim(20);
    assert_eq!(first.iter().filter(|(number, _)| *number <= 100).count(), 10);
    shop.enqueue(3, |_| vec![Limit::fair("late")]);
    let next: Vec<u64> = shop.claim(9).iter().map(|(number, _)| *number).collect();
    assert_eq!(next, [11, 111, 201, 12, 112, 202, 13, 113, 203], "the others had a turn each before it came");
}

#[test]
fn an_image_with_a_turn_that_is_still_to_come_is_refused() {
    let mut shop = Shop::new();
    shop.enqueue(2, |_| vec![Limit::fair("a")]);
    assert_eq!(shop.claim(1).len(), 1);
    let load = |turn: u8| {
        let mut loader = Loader::new();
        let written = shop.machine.capture().write(&mut |section, bytes| {
            let mut bytes = bytes.to_vec();
            if section == LIMITS {
                *bytes.last_mut().expect("a limiter, which ends with its turn") = turn;
            }
            loader.section(section, &bytes)
        });
        written.and_then(|()| loader.finish()).map(|machine| machine.digest())
    };
    assert_eq!(load(3), Ok(shop.machine.digest()), "two jobs and a start took places");
    assert!(load(4).is_err_and(|error| error.to_string().contains("limiter a: its turn")));
}

#[test]
fn j8_j13_turns_cost_a_claim_the_same_however_many_wait_and_whatever_limits_stand_beside() {
    let costs = |tenants: u64, burst: u64| {
        let mut shop = Shop::new();
        let limits = |number: u64| {
            let user = at_once(1, format!("user{}", number % burst));
            vec![at_once(100, "all".into()), Limit::fair(format!("tenant{}", number % tenants)), user]
        };
        shop.enqueue(burst, limits);
        let mut running = shop.claim(50);
        shop.steps(|shop| {
            for _ in 0..500 {
                let ended = running.remove(0);
                shop.finish(&[ended]);
                running.extend(shop.claim(1));
            }
        })
    };
    let (few, many, long) = (costs(10, 2_000), costs(1_000, 2_000), costs(10, 50_000));
    assert!(few <= 40 * 500 && many <= 40 * 500 && long <= few + few / 10, "{few}, {many} and {long} steps");
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
