//! L6: members whose states differ find out, and the minority stops.

use raftwork::base::limits::DIGEST_ENTRIES;
use raftwork::base::{Error, LogIndex, Millis, NodeId};
use raftwork::consensus::MemberChange;
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
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        let mut group = Group::of(voters);
        let odd = *voters.iter().find(|id| **id != group.leader()).expect("one follows");
        corrupt(&mut group, odd);
        work_on(&mut group);
        assert_eq!(stopped(&group), [odd], "{voters:?}");
        let cause = group.nodes[&odd].stopped.clone().expect("it stopped");
        assert!(matches!(&cause, Error::Differs(text) if text.contains("differs")), "{cause}");
        for other in voters.iter().filter(|id| **id != odd) {
            let told = group.replica(*other).odd_members();
            assert_eq!(told.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [odd]);
        }
        group.work();
        group.check_equal();
    }
}

#[test]
fn l6_of_two_members_the_one_that_differs_from_the_log_stays_in_doubt_and_lets_the_other_lead() {
    let mut group = Group::of(&[1, 2]);
    let leader = group.leader();
    let odd = 3 - leader;
    corrupt(&mut group, odd);
    work_on(&mut group);
    assert!(stopped(&group).is_empty());
    assert_eq!(group.replica(odd).doubts(), Some(LogIndex(DIGEST_ENTRIES)));
    assert_eq!(group.replica(leader).doubts(), None);
    assert_eq!(group.replica(leader).odd_members(), [(NodeId(odd), LogIndex(DIGEST_ENTRIES))]);
    let ticket = group.enqueue(odd);
    group.deliver();
    assert!(matches!(group.answers[&ticket], Err(Error::NotCommitted(_))), "{:?}", group.answers[&ticket]);
    // The one that may lead needs the other's vote.
    group.kill(leader);
    group.start(leader).expect("it opens");
    group.pass(2 * LONG);
    assert_eq!(group.leader(), leader);
    group.work();
}

#[test]
fn l6_a_member_that_differed_and_is_whole_again_is_told_of_no_more() {
    let mut group = Group::of(&[1, 2, 3]);
    let odd = *[1, 2, 3].iter().find(|id| **id != group.leader()).expect("one follows");
    corrupt(&mut group, odd);
    work_on(&mut group);
    assert_eq!(stopped(&group), [odd]);
    let tell = |group: &mut Group| -> Vec<usize> {
        let others = [1, 2, 3].into_iter().filter(|id| *id != odd);
        others.map(|id| group.replica(id).odd_members().len()).collect()
    };
    assert_eq!(tell(&mut group), [1, 1]);
    // What happened to it was in memory only.
    group.start(odd).expect("it opens");
    group.pass(LONG);
    assert_eq!(tell(&mut group), [0, 0]);
    assert!(stopped(&group).is_empty());
    group.check_equal();
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
fn l6_a_member_in_doubt_that_hears_nobody_waits_until_it_does() {
    let mut group = Group::of(&[1, 2, 3]);
    let odd = *[1, 2, 3].iter().find(|id| **id != group.leader()).expect("one follows");
    corrupt(&mut group, odd);
    // It hears the leader, and nobody hears it: so nobody answers.
    for other in [1, 2, 3] {
        group.cut.insert((odd, other));
    }
    work_on(&mut group);
    assert!(stopped(&group).is_empty() && group.replica(odd).doubts().is_some());
    group.cut.clear();
    group.pass(LONG);
    assert_eq!(stopped(&group), [odd]);
}

/// Three members, of whom one is away and needs a state when it is back, and one has another state than the third: these two,
/// and the one that was away.
fn disputed(leads: bool) -> (Group, u64, u64, u64) {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let followers: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let (odd, right) = if leads { (leader, followers[0]) } else { (followers[0], leader) };
    group.kill(followers[1]);
    corrupt(&mut group, odd);
    work_on(&mut group);
    group.snapshot_if_due(leader, true);
    group.start(followers[1]).expect("it opens");
    group.pass(LONG);
    (group, odd, right, followers[1])
}

/// Asks whoever leads for it until another member knows of it: one that is to go lets that one lead first.
fn remove(group: &mut Group, id: u64, other: u64) {
    for _ in 0..LONG {
        for leads in [id, other] {
            group.change_at(leads, MemberChange::Remove(NodeId(id)), false);
        }
        if !group.voters(other).contains(&id) {
            return;
        }
        group.pass(1);
    }
    panic!("{id} is a voter still");
}

#[test]
pub fn l6_while_nobody_knows_who_is_wrong_no_state_is_given_away_and_a_removal_decides() {
    for leads in [true, false] {
        let (mut group, odd, right, away) = disputed(leads);
        let leader = group.leader();
        assert!(group.replica(leader).is_disputed() && stopped(&group).is_empty());
        assert!(group.replica(away).applied() < LogIndex(DIGEST_ENTRIES), "it was given a state");
        group.work();
        remove(&mut group, odd, right);
        group.pass(2 * LONG);
        assert_eq!(group.leader(), right);
        assert_eq!((group.replica(right).is_disputed(), group.replica(right).doubts()), (false, None));
        group.nodes.remove(&odd);
        group.work();
        group.check_equal();
        assert!(group.replica(away).applied() > LogIndex(DIGEST_ENTRIES));
    }
}

#[test]
fn l6_a_state_that_a_majority_has_is_given_away_while_the_one_that_differs_is_a_member() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let odd = *[1, 2, 3].iter().find(|id| **id != leader).expect("one follows");
    corrupt(&mut group, odd);
    work_on(&mut group);
    assert_eq!((stopped(&group), group.replica(leader).odd_members().len()), (vec![odd], 1));
    group.snapshot_if_due(leader, true);
    group.join(4);
    group.work();
    group.check_equal();
}
