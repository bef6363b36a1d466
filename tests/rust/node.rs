//! A node from outside: many callers, wake-ups, time, disks that fail.

pub mod doctor;
mod ending;
mod health;
mod history;
mod principals;
pub mod support;

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use raftwork::base::{Error, JobId, Result, SessionId};
use raftwork::node::{Node, NodeConfig, WatchEvent};

use crate::requests::*;
use support::{beat, until, Events, Home, Mood, PATIENCE};

fn jobs(node: &Node) -> u64 {
    field_number(&node.health(), "jobs")
}

/// Starts a request and gives the channel of its answer.
fn start(node: &Node, request: Vec<u8>) -> std::sync::mpsc::Receiver<Result<Vec<u8>>> {
    let (send, receive) = channel();
    node.start(request, Box::new(move |answer| drop(send.send(answer))));
    receive
}

fn session(node: &Node, ttl_ms: u64) -> SessionId {
    SessionId(number(&node.submit(open_session(ttl_ms), None).unwrap()))
}

#[test]
fn every_caller_gets_its_own_answer_and_all_survive() {
    let home = Home::new();
    let node = home.open();
    let gate = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|caller| {
            let (node, gate) = (node.clone(), gate.clone());
            std::thread::spawn(move || {
                gate.wait();
                let one = |number: u64| node.submit(enqueue(job(caller * 1000 + number), 64), None).unwrap();
                (0..50).map(|number| answer(&one(number))).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut indexes = Vec::new();
    for thread in threads {
        let answers = thread.join().unwrap();
        let own: Vec<u64> = answers
            .iter()
            .map(|answer| match answer {
                Answer::Ok { index, .. } => *index,
                refused => panic!("{refused:?}"),
            })
            .collect();
        assert!(own.windows(2).all(|pair| pair[0] < pair[1]), "a caller's writes are in its order");
        indexes.extend(own);
    }
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), 800, "each write has an index of its own");
    node.close().unwrap();
    assert_eq!(jobs(&home.open()), 800);
}

#[test]
fn many_requests_may_be_outstanding_from_one_thread() {
    let home = Home::new();
    let node = home.open();
    let answers: Vec<_> = (0..500).map(|number| start(&node, enqueue(job(number), 64))).collect();
    for answer in answers {
        payload(&answer.recv_timeout(PATIENCE).unwrap().unwrap());
    }
    assert!(field_number(&node.health(), "group_entries_max") > 1, "requests travel in groups");
    assert_eq!(jobs(&node), 500);
}

#[test]
fn what_a_leaving_caller_finds_in_the_inbox_goes_to_the_core_thread() {
    let home = Home::new();
    let node = home.open();
    home.disk.set(Mood::Hangs);
    let (send, receive) = channel();
    let callers: Vec<_> = (0..2)
        .map(|number| {
            let (other, send) = (node.clone(), send.clone());
            let caller = std::thread::spawn(move || {
                let _ = send.send(other.submit(enqueue(job(number), 64), None));
            });
            // The first one drives and hangs; the second waits behind it.
            home.disk.wait_hanging();
            caller
        })
        .collect();
    until(|| field_number(&field(&node.health(), "inbox"), "requests") == 1);
    home.disk.set(Mood::Good);
    for _ in 0..2 {
        payload(&receive.recv_timeout(PATIENCE).expect("nobody is forgotten").unwrap());
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

#[test]
fn as_many_watchers_wake_as_jobs_became_ready_oldest_first() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 60_000);
    let watchers: Vec<_> = (0..3).map(|_| Events::of(&node, session)).collect();
    for watcher in &watchers {
        assert!(!node.arm(watcher.id, &["q"], &["f"]));
    }
    node.submit(enqueue_as(&[job(1), job(2)], "q", "f", 8, 0), None).unwrap();
    assert_eq!([watchers[0].next(), watchers[1].next()], [WatchEvent::Ready, WatchEvent::Ready]);
    node.submit(enqueue_as(&[job(3)], "other", "f", 8, 0), None).unwrap();
    assert!(watchers[2].is_empty(), "two jobs, two watchers, and the other queue is not its business");
    node.submit(enqueue(job(4), 8), None).unwrap();
    assert_eq!(watchers[2].next(), WatchEvent::Ready);
    assert!(node.arm(watchers[0].id, &["q"], &["f"]), "nobody claimed yet, so it is ready at once");
    assert_eq!(claimed(&node.submit(claim(session, "q", "f", 10), None).unwrap()).len(), 3);
    assert!(!node.arm(watchers[0].id, &["q"], &["f"]));
    assert!(watchers.iter().all(Events::is_empty), "one event for each time it was armed");
}

#[test]
fn a_watcher_that_knows_the_function_is_found_behind_those_that_do_not() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 60_000);
    let (other, knows) = (Events::of(&node, session), Events::of(&node, session));
    assert!(!node.arm(other.id, &["q"], &["g"]));
    assert!(!node.arm(knows.id, &["q"], &["f"]));
    node.submit(enqueue(job(1), 8), None).unwrap();
    assert_eq!(knows.next(), WatchEvent::Ready);
    assert!(other.is_empty());
}

#[test]
fn a_woken_watcher_that_ends_passes_its_wakeup_on() {
    let home = Home::new();
    let node = home.open();
    let (one, two) = (session(&node, 60_000), session(&node, 60_000));
    let (first, second, third) = (Events::of(&node, one), Events::of(&node, two), Events::of(&node, two));
    for watcher in [&first, &second, &third] {
        assert!(!node.arm(watcher.id, &["q"], &["f"]));
    }
    node.submit(enqueue(job(1), 8), None).unwrap();
    assert_eq!(first.next(), WatchEvent::Ready);
    assert!(second.is_empty());
    node.unwatch(first.id);
    assert_eq!(second.next(), WatchEvent::Ready, "the watch ended");
    assert!(third.is_empty());
    // The session of the second one ends now, without having claimed.
    let fourth = Events::of(&node, one);
    node.unwatch(third.id);
    assert!(node.arm(fourth.id, &["q"], &["f"]));
    assert_eq!(claimed(&node.submit(claim(one, "q", "f", 1), None).unwrap()).len(), 1);
}

#[test]
fn the_end_of_a_session_wakes_somebody_else() {
    let home = Home::new();
    let node = home.open();
    let (one, two) = (session(&node, 60_000), session(&node, 60_000));
    let (first, second) = (Events::of(&node, one), Events::of(&node, two));
    assert!(!node.arm(first.id, &["q"], &["f"]));
    assert!(!node.arm(second.id, &["q"], &["f"]));
    node.submit(enqueue(job(1), 8), None).unwrap();
    assert_eq!(first.next(), WatchEvent::Ready);
    node.submit(close_session(one), None).unwrap();
    assert_eq!(first.next(), WatchEvent::SessionClosed);
    assert_eq!(second.next(), WatchEvent::Ready, "the job that the first never claimed");
}

#[test]
fn running_jobs_are_told_to_stop_and_lost_ones_are_reported() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 1_000);
    let events = Events::of(&node, session);
    node.submit(enqueue(job(1), 8), None).unwrap();
    let (id, token) = claimed(&node.submit(claim(session, "q", "f", 1), None).unwrap())[0];
    node.submit(cancel(id), None).unwrap();
    assert_eq!(events.next(), WatchEvent::Cancel(id, token));
    node.lapse(session);
    assert_eq!(events.next(), WatchEvent::Lost(id, token));
    assert_eq!(events.next(), WatchEvent::SessionClosed);
    assert_eq!(beat(&node, session), Err(Error::SessionExpired));
}

#[test]
fn a_delayed_job_becomes_ready_when_its_time_comes() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 60_000);
    let events = Events::of(&node, session);
    node.submit(enqueue_as(&[job(1)], "q", "f", 8, 10_000), None).unwrap();
    assert!(!node.arm(events.id, &["q"], &["f"]));
    home.clock.advance(9_999);
    node.clock_moved();
    node.submit(enqueue_as(&[job(2)], "other", "f", 8, 0), None).unwrap();
    assert!(events.is_empty(), "a millisecond early");
    home.clock.advance(1);
    node.clock_moved();
    assert_eq!(events.next(), WatchEvent::Ready);
}

#[test]
fn the_timer_wakes_by_itself_and_never_early() {
    let home = Home::new();
    let node = Node::open(NodeConfig { clock: NodeConfig::new("x").clock, ..home.config() }).unwrap();
    let session = session(&node, 60_000);
    let events = Events::of(&node, session);
    let mut waits = Vec::new();
    for (number, delay) in (0..).zip([300, 120, 60, 30, 15, 200]) {
        assert!(!node.arm(events.id, &["q"], &["f"]));
        let started = Instant::now();
        node.submit(enqueue_as(&[job(number)], "q", "f", 8, delay), None).unwrap();
        assert_eq!(events.next(), WatchEvent::Ready);
        waits.push((delay, started.elapsed()));
        assert_eq!(claimed(&node.submit(claim(session, "q", "f", 1), None).unwrap()).len(), 1);
    }
    // A millisecond of slack: cluster time counts whole ones.
    assert!(waits.iter().all(|(delay, waited)| *waited + Duration::from_millis(1) >= Duration::from_millis(*delay)));
}

#[test]
fn a_silent_session_expires_after_its_time_and_not_before() {
    let home = Home::new();
    let node = home.open();
    let (silent, loud, held) = (session(&node, 1_000), session(&node, 1_000), session(&node, 1_000));
    node.hold(held);
    let events = Events::of(&node, silent);
    let sessions = || field_number(&node.health(), "sessions");
    home.clock.advance(900);
    beat(&node, loud).unwrap();
    home.clock.advance(100);
    node.clock_moved();
    beat(&node, loud).unwrap();
    // The first look at 1,000 ms only makes it suspect. The timer thread must have had it before time moves on.
    until(|| node.timer_rests());
    assert!(events.is_empty());
    home.clock.advance(500);
    node.clock_moved();
    assert_eq!(events.next(), WatchEvent::SessionClosed);
    assert_eq!(sessions(), 2);
    beat(&node, loud).unwrap();
    home.clock.jump(3_600_000);
    node.clock_moved();
    until(|| node.timer_rests());
    assert_eq!(sessions(), 2, "a jump of the wall clock expires nothing");
    beat(&node, loud).unwrap();
    assert!(String::from_utf8_lossy(&field(&node.health(), "alarms")).contains("wall clock"));
}

#[test]
fn opening_restarts_every_time_to_live() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 1_000);
    node.close().unwrap();
    home.clock.advance(3_600_000);
    let node = home.open();
    until(|| node.timer_rests());
    beat(&node, session).unwrap();
}

#[test]
fn waits_for_jobs_end_when_the_job_does() {
    let home = Home::new();
    let node = home.open();
    let session = session(&node, 60_000);
    let wait = |id: JobId| {
        let (send, receive) = channel();
        let wait = node.wait_finished(id, Box::new(move |outcome| drop(send.send(outcome))));
        (wait, receive)
    };
    assert!(matches!(wait(job(1)).1.recv_timeout(PATIENCE).unwrap(), Err(Error::NotFound(_))));
    for number in 1..=3 {
        node.submit(enqueue(job(number), 8), None).unwrap();
    }
    let (_, first) = wait(job(1));
    let (_, second) = wait(job(2));
    let (forgotten, third) = wait(job(3));
    node.forget_wait(forgotten);
    assert!(third.recv().is_err(), "its callback is dropped");
    let claimed = claimed(&node.submit(claim(session, "q", "f", 1), None).unwrap());
    node.submit(succeed(&claimed), None).unwrap();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap(), Ok(()));
    node.submit(delete(job(2)), None).unwrap();
    assert!(matches!(second.recv_timeout(PATIENCE).unwrap(), Err(Error::NotFound(_))));
    assert_eq!(wait(job(1)).1.recv_timeout(PATIENCE).unwrap(), Ok(()), "final already");
    let (_, open) = wait(job(3));
    node.close().unwrap();
    assert_eq!(open.recv_timeout(PATIENCE).unwrap(), Err(Error::Closed));
}

#[test]
fn snapshots_are_taken_while_writing_and_bound_the_log() {
    let home = Home::new();
    let config =
        NodeConfig { segment_bytes: 64 << 10, snapshot_bytes: 256 << 10, log_bytes_max: 1 << 20, ..home.config() };
    let node = Node::open(config.clone()).unwrap();
    let session = session(&node, 60_000);
    for round in 0..40u64 {
        let ids: Vec<JobId> = (0..100).map(|number| job(round * 100 + number)).collect();
        node.submit(enqueue_as(&ids, "q", "f", 1_000, 0), None).unwrap();
        let claimed = claimed(&node.submit(claim(session, "q", "f", 90), None).unwrap());
        node.submit(succeed(&claimed), None).unwrap();
        assert!(field_number(&node.health(), "log_bytes_since_snapshot") <= (1 << 20) + (256 << 10));
    }
    assert!(field_number(&node.health(), "snapshot_index") > 1, "4 MB of log made several snapshots due");
    let before = (jobs(&node), field_number(&node.health(), "state_bytes"));
    node.close().unwrap();
    let node = Node::open(config).unwrap();
    assert_eq!((jobs(&node), field_number(&node.health(), "state_bytes")), before);
    node.snapshot_now().unwrap();
    let index = field_number(&node.health(), "snapshot_index");
    assert_eq!(index, field_number(&node.health(), "applied"));
    node.snapshot_now().unwrap();
    assert_eq!(field_number(&node.health(), "snapshot_index"), index, "nothing new to write");
}

#[test]
fn a4_an_inbox_that_is_full_of_bytes_refuses_what_does_not_fit() {
    let home = Home::new();
    let node = Node::open(NodeConfig { inbox_bytes_max: 100_000, ..home.config() }).unwrap();
    home.disk.set(Mood::Hangs);
    let in_sync = start(&node, enqueue(job(1), 8));
    home.disk.wait_hanging();
    let large = start(&node, enqueue(job(2), 60_000));
    let refused = start(&node, enqueue(job(3), 60_000)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&refused, Err(Error::Overloaded(why)) if why.contains("1 requests (60")), "{refused:?}");
    let small = start(&node, enqueue(job(4), 8));
    home.disk.set(Mood::Good);
    for answer in [in_sync, large, small] {
        payload(&answer.recv_timeout(PATIENCE).unwrap().unwrap());
    }
    payload(&node.submit(enqueue(job(3), 60_000), None).unwrap());
}

#[test]
fn a4_a_full_inbox_refuses_and_a_late_request_is_taken_back() {
    let home = Home::new();
    let node = Node::open(NodeConfig { inbox_requests_max: 2, ..home.config() }).unwrap();
    home.disk.set(Mood::Hangs);
    let in_sync = start(&node, enqueue(job(1), 8));
    home.disk.wait_hanging();
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    let late = node.submit(enqueue(job(2), 8), soon());
    assert!(matches!(late, Err(Error::NotCommitted(_))), "{late:?}");
    let waiting = [start(&node, enqueue(job(3), 8)), start(&node, enqueue(job(4), 8))];
    let refused = start(&node, enqueue(job(5), 8)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(Error::Overloaded(_))), "{refused:?}");
    let refused = node.submit(enqueue(job(6), 8), soon());
    assert!(matches!(refused, Err(Error::Overloaded(_))), "{refused:?}");
    let patient = {
        let node = node.clone();
        std::thread::spawn(move || node.submit(enqueue(job(7), 8), None))
    };
    home.disk.set(Mood::Good);
    payload(&in_sync.recv_timeout(PATIENCE).unwrap().unwrap());
    for answer in waiting {
        payload(&answer.recv_timeout(PATIENCE).unwrap().unwrap());
    }
    payload(&patient.join().unwrap().unwrap());
    assert_eq!(jobs(&node), 4, "1, 3, 4 and 7: what was refused is not there");
}

#[test]
fn a_caller_that_gives_up_during_the_sync_does_not_know() {
    let home = Home::new();
    let node = home.open();
    home.disk.set(Mood::Hangs);
    let other = start(&node, enqueue(job(1), 8));
    home.disk.wait_hanging();
    let (send, receive) = channel();
    let caller = {
        let node = node.clone();
        std::thread::spawn(move || {
            let mut looks = 0;
            let outcome = node.submit_checked(&enqueue(job(2), 8), None, &mut || {
                looks += 1;
                if looks < 2 {
                    Ok(())
                } else {
                    Err(Error::Unknown("interrupted".into()))
                }
            });
            let _ = send.send(outcome);
        })
    };
    let outcome = receive.recv_timeout(PATIENCE).unwrap();
    assert_eq!(outcome, Err(Error::Unknown("interrupted".into())));
    home.disk.set(Mood::Good);
    payload(&other.recv_timeout(PATIENCE).unwrap().unwrap());
    caller.join().unwrap();
}

#[test]
fn a_full_disk_refuses_writes_and_they_resume_when_there_is_room() {
    let home = Home::new();
    let node = Node::open(NodeConfig { segment_bytes: 64 << 10, ..home.config() }).unwrap();
    home.disk.set(Mood::Full);
    let mut stored = 0;
    let refused = loop {
        match node.submit(enqueue(job(stored), 4_000), None) {
            Ok(answer) => {
                payload(&answer);
                stored += 1;
            }
            Err(error) => break error,
        }
        assert!(stored < 100, "64 KiB of log and a spare hold fewer");
    };
    assert!(matches!(refused, Error::DiskFull(_)), "{refused:?}");
    assert_eq!(jobs(&node), stored);
    home.disk.set(Mood::Good);
    for number in 0..50 {
        payload(&node.submit(enqueue(job(1_000 + number), 4_000), None).unwrap());
    }
    node.close().unwrap();
    assert_eq!(jobs(&home.open()), stored + 50);
}

#[test]
fn requests_that_cannot_be_understood_never_reach_the_log() {
    let home = Home::new();
    let node = home.open();
    let before = field_number(&node.health(), "index");
    for bytes in [unknown(), vec![], vec![0xc1], enqueue(job(1), 300 << 10)] {
        assert!(matches!(node.submit(bytes, None), Err(Error::Invalid(_))));
    }
    assert_eq!(field_number(&node.health(), "index"), before);
}

#[test]
fn finished_jobs_leave_memory_for_the_archive() {
    let home = Home::new();
    let node = Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    let session = session(&node, 60_000);
    let ids: Vec<JobId> = (0..100).map(job).collect();
    node.submit(enqueue_as(&ids, "q", "f", 64, 0), None).unwrap();
    let claimed = claimed(&node.submit(claim(session, "q", "f", 100), None).unwrap());
    node.submit(succeed(&claimed), None).unwrap();
    until(|| jobs(&node) == 0);
    let archive = field(&node.health(), "archive");
    assert_eq!(field_number(&archive, "records"), 100);
    let (send, receive) = channel();
    node.wait_finished(ids[5], Box::new(move |outcome| drop(send.send(outcome))));
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap(), Ok(()), "the archive knows it");
}
