//! How a node ends (closed, failed, killed), what it tells whom, and what the next one finds.

use std::sync::mpsc::channel;
use std::sync::Arc;

use raftwork::base::{Error, JobId, Result};
use raftwork::node::{Node, WatchEvent};

use super::support::{until, view, Events, Home, Mood, PATIENCE};
use super::{jobs, session, start};
use crate::requests::*;

#[test]
fn d2_a_panic_in_a_turn_stops_the_node_and_not_the_process() {
    fails_for_good(Mood::SyncPanics, "the test says so");
}

#[test]
fn d2_d3_a_failed_sync_stops_the_node() {
    fails_for_good(Mood::SyncFails, "sync failed");
}

/// One write is in the failing sync, one waits behind it: the first is `Unknown`, the second `NotCommitted`.
fn fails_for_good(mood: Mood, words: &str) {
    let home = Home::new();
    let node = home.open();
    node.submit(enqueue(job(1), 8), None).unwrap();
    let session = session(&node, 60_000);
    let events = Events::of(&node, session);
    let (send, waiting) = channel();
    node.wait_finished(job(1), Box::new(move |outcome| drop(send.send(outcome))));
    home.disk.set(Mood::Hangs);
    let in_sync = start(&node, enqueue(job(2), 8));
    home.disk.wait_hanging();
    let behind = start(&node, enqueue(job(3), 8));
    home.disk.set(mood);
    let unknown = in_sync.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&unknown, Err(Error::Unknown(why)) if why.contains(words)), "{unknown:?}");
    let definite = behind.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&definite, Err(Error::NotCommitted(why)) if why.contains(words)), "{definite:?}");
    assert!(matches!(waiting.recv_timeout(PATIENCE).unwrap(), Err(Error::Poisoned(_))));
    assert_eq!(events.next(), WatchEvent::NodeClosed);
    home.disk.set(Mood::Good);
    assert!(matches!(node.submit(enqueue(job(4), 8), None), Err(Error::Poisoned(why)) if why.contains(words)));
    assert!(matches!(view(&node, &[0x91, 1]), Err(Error::Poisoned(_))), "what is in memory may not be on disk");
    assert_eq!(field(&node.health(), "role"), [&[0xa6], b"failed".as_slice()].concat());
    assert!(matches!(node.close(), Err(Error::Poisoned(_))));
    // The write in the sync may be there or not; what was answered is, and what was refused is not.
    let node = home.open();
    assert!((1..=2).contains(&jobs(&node)));
    let wait = |number| {
        let (send, receive) = channel();
        node.wait_finished(job(number), Box::new(move |outcome| drop(send.send(outcome))));
        receive
    };
    assert!(wait(1).try_recv().is_err(), "it is there and not final");
    assert!(matches!(wait(3).try_recv().unwrap(), Err(Error::NotFound(_))));
}

#[test]
fn closing_answers_everyone_and_gives_the_directory_free() {
    let home = Home::new();
    let node = home.open();
    assert!(matches!(Node::open(home.config()), Err(Error::Busy { .. })));
    let answers: Vec<_> = (0..200).map(|number| start(&node, enqueue(job(number), 64))).collect();
    node.close().unwrap();
    let outcomes: Vec<_> = answers.into_iter().map(|answer| answer.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(outcomes.iter().all(Result::is_ok), "what was accepted is written before the node closes");
    assert_eq!(node.submit(enqueue(job(999), 8), None), Err(Error::Closed));
    node.close().unwrap();
    assert_eq!(jobs(&home.open()), 200);
}

/// The write may still be answered, and the next owner would not have it.
#[test]
fn d1_a_node_closed_while_a_write_hangs_keeps_the_directory_until_it_returned() {
    let home = Home::new();
    let node = home.open();
    home.disk.set(Mood::Hangs);
    let hanging = start(&node, enqueue(job(1), 8));
    home.disk.wait_hanging();
    node.close().unwrap();
    drop(node);
    assert!(matches!(Node::open(home.config()), Err(Error::Busy { .. })));
    home.disk.set(Mood::Good);
    assert!(hanging.recv_timeout(PATIENCE).unwrap().is_ok());
    let mut next = None;
    until(|| {
        next = Node::open(home.config()).ok();
        next.is_some()
    });
    assert_eq!(jobs(&next.unwrap()), 1, "what was answered is there");
}

/// Two jobs: one leased to a session of the owning process, one to another's. Gives the node.
fn with_two_leases(home: &Home) -> Arc<Node> {
    let node = home.open();
    let (own, others) = (session(&node, 60_000), session(&node, 60_000));
    node.hold(own);
    node.submit(enqueue(job(1), 8), None).unwrap();
    assert_eq!(claimed(&node.submit(claim(own, "q", "f", 1), None).unwrap()).len(), 1);
    node.submit(enqueue(job(2), 8), None).unwrap();
    assert_eq!(claimed(&node.submit(claim(others, "q", "f", 1), None).unwrap()).len(), 1);
    node
}

/// The jobs that are free.
fn free(node: &Node) -> Vec<JobId> {
    let session = session(node, 60_000);
    claimed(&node.submit(claim(session, "q", "f", 10), None).unwrap()).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn j6_the_jobs_of_a_killed_owner_are_free_when_the_next_has_opened() {
    let home = Home::new();
    let node = with_two_leases(&home);
    let lock = home.config().dir.join("LOCK");
    let told = std::fs::read(&lock).unwrap();
    node.close().unwrap();
    // As the end of the process leaves it.
    std::fs::write(&lock, &told).unwrap();
    let next = home.open();
    assert_eq!(free(&next), [job(1)], "and not the one of a process that may live");
}

#[test]
fn k3_the_jobs_of_an_owner_that_closed_or_failed_wait_for_the_time_to_live() {
    for mood in [Mood::Good, Mood::SyncFailsOnce] {
        let home = Home::new();
        let node = with_two_leases(&home);
        home.disk.set(mood);
        let _ = node.submit(enqueue(job(3), 8), None);
        assert_eq!(node.has_failed(), mood == Mood::SyncFailsOnce);
        let _ = node.close();
        let next = home.open();
        let now_free = free(&next);
        assert!(!now_free.contains(&job(1)) && !now_free.contains(&job(2)), "{mood:?}: {now_free:?}");
        home.clock.advance(60_000);
        next.clock_moved();
        until(|| next.timer_rests());
        home.clock.advance(600);
        next.clock_moved();
        let mut later = Vec::new();
        until(|| {
            later.extend(free(&next));
            later.contains(&job(1)) && later.contains(&job(2))
        });
    }
}
