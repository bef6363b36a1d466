//! D5: a member whose data directory is an older copy of its own.

use super::group::{Group, LONG};

/// A group whose member 3 or another follower has an old copy of its disk, and the member's id.
fn rolled_back() -> (Group, u64) {
    let mut group = Group::of(&[1, 2, 3]);
    (0..5).for_each(|_| group.work());
    let follower = (1..=3).find(|id| *id != group.leader()).expect("one follows");
    let old = group.nodes[&follower].disk.fork();
    (0..20).for_each(|_| group.work());
    group.kill(follower);
    old.power_cut(1);
    group.nodes.get_mut(&follower).expect("a node").disk = old;
    (group, follower)
}

/// The leader thinks that it has all entries, and raft-rs takes its refusals for old ones: nobody would send them again.
#[test]
fn d5_a_member_with_an_older_copy_of_its_log_is_brought_up_by_the_same_leader() {
    let (mut group, follower) = rolled_back();
    let (leader, term) = (group.leader(), group.replica(1).term());
    group.start(follower).expect("the copy is whole");
    group.pass(LONG);
    group.work();
    assert_eq!((group.leader(), group.replica(leader).term()), (leader, term));
    group.check_equal();
}

/// Two of three have what was answered, one of them in the past: it must not help somebody else to lead without it.
#[test]
fn d5_a_member_with_an_older_copy_of_its_log_votes_for_nobody_who_lacks_what_it_acknowledged() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (away, follower) = (others[0], others[1]);
    let old = group.nodes[&follower].disk.fork();
    group.isolate(away);
    (0..20).for_each(|_| group.work());
    let acknowledged = group.replica(leader).applied();
    group.kill(follower);
    old.power_cut(1);
    group.nodes.get_mut(&follower).expect("a node").disk = old;
    group.start(follower).expect("the copy is whole");
    // It hears its leader once more, and cannot ask it for what is missing before that is gone.
    group.cut.insert((follower, leader));
    group.pass(5);
    assert!(group.replica(follower).last_index() < acknowledged);
    group.kill(leader);
    group.cut.clear();
    group.pass(5 * LONG);
    let leads = |id: u64, group: &mut Group| group.replica(id).role() == raftwork::consensus::Role::Leader;
    assert!(!leads(away, &mut group) && !leads(follower, &mut group), "what was answered would be lost");
    group.start(leader).expect("it comes back");
    group.pass(LONG);
    group.check_equal();
    assert!(group.replica(leader).applied() >= acknowledged, "D1");
}
