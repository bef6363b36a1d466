//! T1: cluster time comes with the entries of leaders alone, and never goes back.

use raftwork::base::Millis;
use raftwork::replica::{entry, Proposal};

use super::group::{Group, LONG};
use crate::requests::{enqueue, job};

/// A node takes a request while its clock says `now`.
fn ask(group: &mut Group, id: u64, now: u64, number: u64) {
    let proposals = vec![Proposal { entry: entry::frame(&enqueue(job(number), 10)), ticket: 1_000 + number }];
    group.act(id, |replica, turn| replica.turn(Millis(now), proposals, turn));
    group.deliver();
}

/// Cluster time as these members have it, which all have the job.
fn times(group: &mut Group, ids: &[u64], number: u64) -> Vec<u64> {
    group.pass(3);
    let time = |id: &u64| {
        let machine = group.replica(*id).machine().clone();
        let machine = machine.read();
        assert!(machine.job(job(number)).is_some(), "node {id} has job {number}");
        machine.clock().0
    };
    ids.iter().map(time).collect()
}

#[test]
fn t1_time_comes_from_leaders_alone_and_never_goes_back() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let follower = (1..=3).find(|id| *id != leader).expect("two follow");
    ask(&mut group, leader, 9_000, 1);
    assert_eq!(times(&mut group, &[1, 2, 3], 1), [9_000; 3]);
    // The clock of a follower does not count, also for what was asked there.
    ask(&mut group, follower, 1_000_000, 2);
    group.act(leader, |replica, turn| replica.turn(Millis(9_500), Vec::new(), turn));
    group.deliver();
    assert_eq!(times(&mut group, &[1, 2, 3], 2), [9_500; 3]);
    // The clock of the leader goes back, and then another one leads whose clock is behind.
    ask(&mut group, leader, 2_000, 3);
    assert_eq!(times(&mut group, &[1, 2, 3], 3), [9_500; 3]);
    group.kill(leader);
    group.pass(LONG);
    let next = group.leader();
    ask(&mut group, next, 3_000, 4);
    let left: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    assert_eq!(times(&mut group, &left, 4), [9_500; 2]);
    ask(&mut group, next, 9_501, 5);
    assert_eq!(times(&mut group, &left, 5), [9_501; 2]);
}
