//! L6: members whose states differ find out, and the minority stops.

use raftwork::base::limits::DIGEST_ENTRIES;
use raftwork::base::{Error, Millis};
use raftwork::machine::Effects;

use super::group::{Group, LONG};
use crate::wire::{self, Command};

/// Something happens to the state of one member only.
fn corrupt(group: &mut Group, id: u64) {
    let replica = group.replica(id);
    let applied = replica.applied();
    let pause = Command::Pause { queue: "mail".into(), until: None, reason: String::new() };
    let request = wire::request(0, 0, 0, &pause);
    replica.machine().write().apply(applied, Millis(1), &request, &mut Effects::default()).expect("a known operation");
}

/// Work until the marks were compared.
fn work_on(group: &mut Group) {
    for _ in 0..DIGEST_ENTRIES + 5 {
        let Some(leader) = (1..=5).find(|id| {
            let node = group.nodes.get(id).and_then(|node| node.replica.as_ref());
            node.is_some_and(|replica| replica.role() == raftwork::consensus::Role::Leader)
        }) else {
            group.pass(10);
            continue;
        };
        group.enqueue(leader);
        group.deliver();
        group.pass(1);
    }
    group.pass(LONG);
}

fn stopped(group: &Group) -> Vec<u64> {
    group.nodes.iter().filter(|(_, node)| node.stopped.is_some()).map(|(id, _)| *id).collect()
}

#[test]
fn l6_members_that_agree_compare_and_go_on() {
    let mut group = Group::of(&[1, 2, 3]);
    work_on(&mut group);
    assert!(stopped(&group).is_empty());
    let leader = group.leader();
    let machine = group.replica(leader).machine().clone();
    assert_eq!(machine.read().digest_due(), None, "every mark was told");
    group.check_equal();
}

#[test]
pub fn l6_a_follower_that_differs_stops() {
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[1, 2]] {
        let mut group = Group::of(voters);
        let odd = *voters.iter().find(|id| **id != group.leader()).expect("one follows");
        corrupt(&mut group, odd);
        work_on(&mut group);
        assert_eq!(stopped(&group), [odd], "{voters:?}");
        let cause = group.nodes[&odd].stopped.clone().expect("it stopped");
        assert!(matches!(&cause, Error::Poisoned(text) if text.contains("differs")), "{cause}");
        if voters.len() > 2 {
            group.work();
            group.check_equal();
        }
    }
}

#[test]
fn l6_a_leader_that_differs_stops_and_the_others_go_on() {
    let mut group = Group::of(&[1, 2, 3]);
    let odd = group.leader();
    corrupt(&mut group, odd);
    work_on(&mut group);
    assert_eq!(stopped(&group), [odd]);
    assert_ne!(group.leader(), odd);
    group.work();
    group.check_equal();
}

#[test]
fn l6_a_member_that_differs_does_so_after_a_restart_from_its_own_snapshot() {
    let mut group = Group::of(&[1, 2, 3]);
    let odd = *[1, 2, 3].iter().find(|id| **id != group.leader()).expect("one follows");
    corrupt(&mut group, odd);
    group.work();
    group.snapshot_if_due(odd, true);
    group.kill(odd);
    group.start(odd).expect("it opens");
    work_on(&mut group);
    assert_eq!(stopped(&group), [odd]);
    // And again, from the log that told it.
    group.start(odd).expect("it opens");
    group.pass(LONG);
    work_on(&mut group);
    assert_eq!(stopped(&group), [odd]);
}

#[test]
fn l6_a_member_that_got_its_state_from_another_compares_too() {
    let mut group = Group::of(&[1]);
    group.work();
    group.join(2);
    group.join(3);
    work_on(&mut group);
    assert!(stopped(&group).is_empty());
    corrupt(&mut group, 3);
    work_on(&mut group);
    assert_eq!(stopped(&group), [3]);
}

#[test]
fn l6_a_member_in_doubt_that_hears_nobody_stops_after_a_while() {
    let mut group = Group::of(&[1, 2, 3]);
    let odd = *[1, 2, 3].iter().find(|id| **id != group.leader()).expect("one follows");
    corrupt(&mut group, odd);
    // It hears the leader, and nobody hears it: so nobody answers.
    for other in [1, 2, 3] {
        group.cut.insert((odd, other));
    }
    work_on(&mut group);
    assert_eq!(stopped(&group), [odd]);
}
