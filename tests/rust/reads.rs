//! Reads at several nodes: what an answer has, and how old it says that it can be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use raftwork::base::codec::Reader;
use raftwork::base::{Error, LogIndex, Millis, Result};
use raftwork::client::request::index_of;
use raftwork::node::{Node, View};

use crate::cluster::{fresh, jobs, settle, Cluster};
use crate::node::support::{until, Home, PATIENCE};
use crate::requests::{enqueue, job};

const COUNTS: [u8; 2] = [0x91, 1];
/// What a local read allows when nothing else is said.
const BOUND: Millis = Millis(2_000);

/// An answer: the index of the state, and how old it can be.
type Answer = (LogIndex, Option<Millis>);

fn ask(node: &Node, upto: LogIndex, staleness_max: Option<Millis>) -> Receiver<Result<Vec<u8>>> {
    let (send, receive) = channel();
    let view = View { upto, staleness_max, question: COUNTS.to_vec() };
    node.view(view, Box::new(move |answer| drop(send.send(answer))));
    receive
}

fn read(node: &Node, staleness_max: Option<Millis>) -> Result<Answer> {
    ask(node, LogIndex(0), staleness_max).recv_timeout(PATIENCE).unwrap().map(|answer| parts(&answer))
}

fn parts(answer: &[u8]) -> Answer {
    let mut reader = Reader::new(answer);
    reader.array_of(3, "an answer").unwrap();
    (LogIndex(reader.u64().unwrap()), reader.option(|reader| reader.u64().map(Millis)).unwrap())
}

fn put(node: &Node, number: u64) -> LogIndex {
    index_of(&settle(node, enqueue(job(number), 64))).unwrap()
}

fn is_too_stale(answer: &Result<Answer>, least: u64) -> bool {
    matches!(answer, Err(Error::TooStale { age, most }) if age.is_none_or(|age| age.0 >= least) && *most == BOUND)
}

#[test]
fn l3_a_node_alone_is_never_behind() {
    let home = Home::new();
    let node = home.open();
    let index = put(&node, 1);
    home.clock.advance(3_600_000);
    assert_eq!(read(&node, Some(Millis(0))), Ok((index, Some(Millis(0)))));
}

#[test]
fn l3_every_member_confirms_its_state_without_being_asked() {
    let cluster = Cluster::new(3);
    put(cluster.node(0), 1);
    for number in 0..3 {
        let node = cluster.node(number);
        until(|| read(node, Some(BOUND)).is_ok() && node.staleness().is_some_and(|age| age <= BOUND));
    }
}

#[test]
fn l3_a_member_that_was_suspended_says_how_long_and_refuses_until_it_is_confirmed_again() {
    let mut cluster = Cluster::new(3);
    put(cluster.node(0), 1);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let other = 3 - leader - follower;
    for number in [leader, follower] {
        until(|| read(cluster.node(number), Some(BOUND)).is_ok());
    }
    // Nobody is left that could confirm anything to the follower.
    cluster.close(leader);
    cluster.close(other);
    cluster.clocks[follower].skip(10_000);
    let answer = read(cluster.node(follower), Some(BOUND));
    assert!(is_too_stale(&answer, 10_000), "{answer:?}");
    let (_, age) = read(cluster.node(follower), None).unwrap();
    assert!(age.unwrap().0 > 10_000, "without a bound the age is told: {age:?}");
    cluster.open(leader);
    until(|| read(cluster.node(follower), Some(BOUND)).is_ok());
}

#[test]
fn l3_a_leader_counts_from_the_last_majority_and_not_from_its_own_opinion() {
    let mut cluster = Cluster::new(3);
    put(cluster.node(0), 1);
    let leader = cluster.leader();
    until(|| read(cluster.node(leader), Some(BOUND)).is_ok());
    (0..3).filter(|number| *number != leader).for_each(|number| cluster.close(number));
    cluster.clocks[leader].skip(5_000);
    let answer = read(cluster.node(leader), Some(BOUND));
    assert!(is_too_stale(&answer, 5_000), "{answer:?}");
}

#[test]
fn l3_a_member_that_only_hears_old_words_does_not_take_them_for_new() {
    let cluster = Cluster::gated(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let other = 3 - leader - follower;
    put(cluster.node(leader), 1);
    until(|| read(cluster.node(follower), Some(BOUND)).is_ok());
    cluster.gates[follower].set_stalled(true);
    // What is answered from now on, the follower cannot know; when it hears again, it first hears what is old.
    let began = Instant::now();
    let mut writes = 2;
    while began.elapsed() < Duration::from_millis(2_500) {
        let index = put(cluster.node(if writes % 2 == 0 { leader } else { other }), writes);
        let answered = Instant::now();
        writes += 1;
        for bound in [Some(BOUND), None] {
            match read(cluster.node(follower), bound) {
                Ok((seen, age)) => {
                    let so_old = Duration::from_millis(age.unwrap().0);
                    assert!(seen >= index || so_old >= answered.elapsed().saturating_sub(Duration::from_millis(1)));
                }
                Err(error) => assert!(matches!(error, Error::TooStale { .. }) && bound.is_some(), "{error:?}"),
            }
        }
    }
    let answer = read(cluster.node(follower), Some(BOUND));
    assert!(is_too_stale(&answer, 2_000), "{answer:?}");
    let last = put(cluster.node(other), writes);
    let answered = Instant::now();
    cluster.gates[follower].set_stalled(false);
    until(|| match read(cluster.node(follower), None).unwrap() {
        (index, _) if index >= last => true,
        (_, age) => {
            assert!(age.unwrap().0 + 1 >= answered.elapsed().as_millis() as u64, "what it lacks was answered before");
            false
        }
    });
    until(|| read(cluster.node(follower), Some(BOUND)).is_ok());
}

#[test]
fn l2_a_member_that_lacks_what_the_reader_was_told_catches_up_first() {
    let cluster = Cluster::gated(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    put(cluster.node(leader), 1);
    cluster.gates[follower].set_stalled(true);
    let told = put(cluster.node(leader), 2);
    let answer = ask(cluster.node(follower), told, None);
    assert!(read(cluster.node(follower), None).unwrap().0 < told, "it has not got it");
    assert!(answer.try_recv().is_err(), "and waits for it");
    cluster.gates[follower].set_stalled(false);
    // A change of leader meanwhile may have it ask in vain once.
    let first = answer.recv_timeout(PATIENCE).unwrap();
    let seen = first.map(|answer| parts(&answer).0);
    until(|| match &seen {
        Ok(index) => *index >= told,
        Err(_) => ask(cluster.node(follower), told, None).recv_timeout(PATIENCE).unwrap().is_ok(),
    });
}

#[test]
fn l1_no_confirmed_read_is_older_than_a_write_that_was_answered_anywhere() {
    let cluster = Cluster::new(3);
    let (answered, last, stop) = (AtomicU64::new(0), Mutex::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (cluster, answered, last, stop) = (&cluster, &answered, &last, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = {
                        let mut last = last.lock().unwrap();
                        *last += 1;
                        *last
                    };
                    answered.fetch_max(put(cluster.node(writer), number).0, Ordering::SeqCst);
                }
            });
        }
        for round in 0..300 {
            let node = cluster.node(round % 3);
            let floor = answered.load(Ordering::SeqCst);
            let upto = fresh(node).unwrap();
            assert!(upto.0 >= floor, "{upto} of {floor}");
            let (index, age) = parts(&ask(node, upto, None).recv_timeout(PATIENCE).unwrap().unwrap());
            assert!(index >= upto && age.is_some());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let written = *last.lock().unwrap();
    fresh(cluster.node(1)).unwrap();
    assert_eq!(jobs(cluster.node(1)), written, "each was applied once");
}

#[test]
fn l1_a_member_that_hears_nobody_confirms_nothing() {
    let mut cluster = Cluster::new(3);
    put(cluster.node(0), 1);
    let left = cluster.follower();
    (0..3).filter(|number| *number != left).for_each(|number| cluster.close(number));
    let (send, receive) = channel();
    cluster.node(left).fresh(Box::new(move |upto| drop(send.send(upto))));
    let answer = receive.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(answer, Err(Error::NotCommitted(_) | Error::TimedOut(_))), "{answer:?}");
}
