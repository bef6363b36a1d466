//! Changes of the members: what is refused, what each does, and what happens when the leader goes in the middle.

use raftwork::base::{Error, NodeId};
use raftwork::consensus::{MemberChange, Message, MessageType, Role};
use raftwork::replica::Letter;

use super::group::{Group, LONG};

fn add(id: u64) -> MemberChange {
    MemberChange::AddLearner(NodeId(id))
}

fn promote(id: u64) -> MemberChange {
    MemberChange::Promote(NodeId(id))
}

fn remove(id: u64) -> MemberChange {
    MemberChange::Remove(NodeId(id))
}

fn replace(old: u64, new: u64) -> MemberChange {
    MemberChange::Replace { old: NodeId(old), new: NodeId(new) }
}

/// The words of a refusal.
fn refused(answer: Option<Result<Vec<u8>, Error>>) -> String {
    match answer {
        Some(Err(error)) if error.is_definite() => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Two others than this one.
fn others(of: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != of).collect()
}

#[test]
fn what_makes_no_sense_is_refused_at_once_and_changes_nothing() {
    let mut group = Group::of(&[1]);
    for (change, words) in [
        (remove(1), "the last voter"),
        (remove(7), "not a member"),
        (add(1), "a member already"),
        (add(0), "nobody"),
        (promote(1), "a voter already"),
        (promote(7), "add it as a learner first"),
        (replace(7, 8), "not a voter"),
        (replace(1, 8), "add it as a learner first"),
    ] {
        let said = refused(group.change_at(1, change, true));
        assert!(said.contains(words), "{change:?}: {said}");
    }
    assert_eq!(group.voters(1), [1]);
    group.begin(2, &[]);
    let said = refused(group.change_at(2, add(3), false));
    assert!(said.contains("does not lead"), "{said}");
}

#[test]
fn there_is_room_for_64_members() {
    let mut group = Group::of(&[1]);
    (2..=64).for_each(|id| assert!(matches!(group.change(add(id)), Some(Ok(_)))));
    assert!(refused(group.change(add(65))).contains("64 members"));
}

#[test]
fn one_change_at_a_time() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let first = group.begin_change(leader, add(4), false);
    let said = refused(group.change_at(leader, add(5), false));
    assert!(said.contains("another change"), "{said}");
    assert!(matches!(group.answers.get(&first), Some(Ok(_))), "it is answered when it is applied");
    assert!(matches!(group.change(add(5)), Some(Ok(_))));
    group.check_equal();
}

#[test]
fn a_learner_that_lags_is_promoted_by_force_only() {
    let mut group = Group::of(&[1, 2, 3]);
    assert!(matches!(group.change(add(4)), Some(Ok(_))));
    group.pass(30);
    let said = refused(group.change(promote(4)));
    assert!(said.contains("has not caught up: it has 0 of") && said.contains("not heard"), "{said}");
    let leader = group.leader();
    assert!(matches!(group.change_at(leader, promote(4), true), Some(Ok(_))));
    group.work();
    assert_eq!(group.voters(leader), [1, 2, 3, 4]);
}

#[test]
fn a1_a_change_that_would_stop_the_group_is_refused_unless_forced() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let [alive, dead] = others(leader)[..] else { panic!("two others") };
    group.kill(dead);
    group.pass(25);
    let said = refused(group.change(remove(alive)));
    assert!(said.contains("only 1 of the 2 voters"), "{said}");
    group.work();
    assert!(matches!(group.change(remove(dead)), Some(Ok(_))), "the dead one may go");
    assert_eq!(group.voters(leader).len(), 2);
    group.kill(alive);
    group.pass(5);
    group.begin(9, &[]);
    let said = refused(group.change_at(leader, remove(leader), false));
    assert!(said.contains("takes over") || said.contains("nobody can take over"), "{said}");
}

#[test]
fn a_removed_follower_is_told_and_the_others_go_on() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let gone = others(leader)[0];
    assert!(matches!(group.change(remove(gone)), Some(Ok(_))));
    group.pass(3);
    assert!(group.nodes[&gone].removed && group.replica(gone).is_removed());
    let ticket = group.enqueue(gone);
    assert!(matches!(group.answers[&ticket], Err(Error::NotCommitted(_))));
    group.work();
    group.check_equal();
    group.kill(gone);
    group.start(gone).expect("it opens");
    group.pass(LONG);
    assert!(group.nodes[&gone].removed, "it learns it again");
    assert_eq!(group.leader(), leader, "and disturbs nobody");
}

/// Its certificate is good still, so its letters may arrive.
#[test]
fn what_a_removed_member_says_counts_for_nothing() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let [gone, other] = others(leader)[..] else { panic!("three voters") };
    assert!(matches!(group.change(remove(gone)), Some(Ok(_))));
    group.pass(3);
    group.isolate(leader);
    let ticket = group.enqueue(leader);
    let (term, last) = (group.replica(leader).term(), group.replica(leader).last_index());
    let says = |kind, term: u64, to| {
        let mut message = Message { from: gone, to, term, index: last.0, ..Message::default() };
        message.set_msg_type(kind);
        Letter::Raft(message)
    };
    let acknowledges = says(MessageType::MsgAppendResponse, term.0, leader);
    group.act(leader, |replica, turn| replica.receive(vec![acknowledges], turn));
    assert!(!group.answers.contains_key(&ticket), "only one of two voters has it");
    group.pass(LONG);
    let term = group.replica(other).term().0;
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        let votes = [term, term + 1].map(|term| says(kind, term, other));
        group.act(other, |replica, turn| replica.receive(votes.into(), turn));
    }
    assert_ne!(group.replica(other).role(), Role::Leader, "it has its own vote alone");
}

#[test]
fn a_removed_follower_that_heard_nothing_asks() {
    let mut group = Group::of(&[1, 2, 3]);
    let gone = others(group.leader())[0];
    group.isolate(gone);
    assert!(matches!(group.change(remove(gone)), Some(Ok(_))));
    group.pass(30);
    assert!(!group.nodes[&gone].removed);
    group.cut.clear();
    group.pass(LONG);
    assert!(group.nodes[&gone].removed);
    group.work();
}

#[test]
fn a_removed_follower_asks_those_that_only_learnt_when_it_heard_last() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let [gone, other] = others(leader)[..] else { panic!("three voters") };
    group.begin(4, &[]);
    assert!(matches!(group.change(add(4)), Some(Ok(_))));
    group.pass(10);
    group.isolate(gone);
    assert!(matches!(group.change(promote(4)), Some(Ok(_))));
    assert!(matches!(group.change(remove(gone)), Some(Ok(_))));
    group.join(5);
    assert!(matches!(group.change(remove(other)), Some(Ok(_))));
    // All voters that it knows are gone for good.
    group.kill(other);
    group.kill(leader);
    group.cut.clear();
    group.pass(LONG);
    assert!(group.nodes[&gone].removed);
    group.work();
}

#[test]
fn a_removed_learner_asks_too() {
    let mut group = Group::of(&[1, 2, 3]);
    group.begin(4, &[]);
    assert!(matches!(group.change(add(4)), Some(Ok(_))));
    group.pass(10);
    group.isolate(4);
    assert!(matches!(group.change(remove(4)), Some(Ok(_))));
    group.cut.clear();
    group.pass(LONG);
    assert!(group.nodes[&4].removed);
}

#[test]
fn p16_a_leader_that_is_to_go_hands_over_and_is_removed_by_the_next() {
    let mut group = Group::of(&[1, 2, 3]);
    let old = group.leader();
    let said = refused(group.change(remove(old)));
    assert!(said.contains("takes over"), "{said}");
    group.pass(1);
    let next = group.leader();
    assert_ne!(next, old, "without an election time-out");
    group.pass(3);
    assert!(matches!(group.change(remove(old)), Some(Ok(_))));
    group.pass(3);
    assert!(group.nodes[&old].removed);
    assert_eq!((group.leader(), group.voters(next)), (next, others(old)));
    group.work();
}

/// The leader proposes the removal of a follower, which becomes leader before it is committed: so it commits its own.
#[test]
pub fn p16_a_leader_that_applies_its_own_removal_stops_at_once() {
    let mut group = Group::of(&[1, 2, 3]);
    let first = group.leader();
    let [second, third] = others(first)[..] else { panic!("two others") };
    // The third has nothing of it, and the first hears nothing back.
    group.cut.extend([(first, third), (second, first)]);
    let ticket = group.begin_change(first, remove(second), false);
    group.deliver();
    group.cut.clear();
    let mut now = Message { to: second, from: first, term: group.replica(first).term().0, ..Message::default() };
    now.set_msg_type(MessageType::MsgTimeoutNow);
    group.act(second, |replica, turn| replica.receive(vec![Letter::Raft(now)], turn));
    group.deliver();
    assert!(group.nodes[&second].removed, "it led, committed its removal and stopped");
    assert_ne!(group.replica(second).role(), Role::Leader);
    assert!([first, third].contains(&group.leader()), "somebody took over without waiting for a time-out");
    assert!(group.answers[&ticket].is_ok(), "its proposer leads no more, but sees that it is in force");
    assert_eq!(group.voters(first), [first.min(third), first.max(third)]);
    group.work();
    group.check_equal();
}

fn with_learner() -> Group {
    let mut group = Group::of(&[1, 2, 3]);
    group.begin(4, &[]);
    assert!(matches!(group.change(add(4)), Some(Ok(_))));
    group.pass(10);
    group
}

#[test]
fn a_voter_is_replaced_in_one_step() {
    let mut group = with_learner();
    let leader = group.leader();
    let old = others(leader)[0];
    group.kill(old);
    group.pass(30);
    let ticket = group.begin_change(leader, replace(old, 4), false);
    group.deliver();
    assert!(!group.answers.contains_key(&ticket), "the old voter still counts");
    assert_eq!(group.members(leader).outgoing.len(), 3);
    let said = refused(group.change(add(9)));
    assert!(said.contains("another change"), "{said}");
    group.pass(3);
    assert!(group.answers[&ticket].is_ok());
    assert!(group.members(leader).outgoing.is_empty());
    assert_eq!(group.voters(4), group.voters(leader));
    assert!(!group.voters(leader).contains(&old));
    group.work();
    group.check_equal();
}

#[test]
fn a_replacement_that_its_leader_did_not_finish_is_finished_by_the_next() {
    for with_snapshot in [false, true] {
        let mut group = with_learner();
        let leader = group.leader();
        let old = others(leader)[0];
        let ticket = group.begin_change(leader, replace(old, 4), false);
        group.deliver();
        group.pass(0);
        if with_snapshot {
            // What follows must work from snapshots that name the outgoing voters.
            (1..=4).for_each(|id| group.snapshot_if_due(id, true));
        }
        let joint = group.members(4);
        assert_eq!((joint.voters.len(), joint.outgoing.len()), (3, 3));
        (1..=4).for_each(|id| group.kill(id));
        (1..=4).filter(|id| *id != leader).for_each(|id| drop(group.start(id).expect("it opens")));
        group.pass(LONG);
        let next = group.leader();
        assert!(group.members(next).outgoing.is_empty(), "it left the joint configuration");
        assert!(!group.voters(next).contains(&old));
        assert!(!group.answers.contains_key(&ticket), "its proposer died");
        group.work();
        group.start(leader).expect("it opens");
        group.pass(LONG);
        group.check_equal();
    }
}

#[test]
fn a_leader_is_replaced_by_the_next_one() {
    let mut group = with_learner();
    let old = group.leader();
    assert!(refused(group.change(replace(old, 4))).contains("takes over"));
    group.pass(3);
    let next = group.leader();
    assert_ne!(next, old);
    let ticket = group.begin_change(next, replace(old, 4), false);
    group.deliver();
    group.pass(5);
    assert!(group.answers[&ticket].is_ok());
    assert!(group.nodes[&old].removed && !group.voters(next).contains(&old));
    group.work();
    group.check_equal();
}

#[test]
fn a_change_of_a_leader_that_lost_its_place_is_unknown() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    group.isolate(leader);
    let ticket = group.begin_change(leader, add(4), false);
    group.pass(LONG);
    assert!(matches!(group.answers[&ticket], Err(Error::Unknown(_))));
    group.cut.clear();
    group.pass(LONG);
    let leader = group.leader();
    assert!(group.members(leader).learners.is_empty());
    group.check_equal();
}

#[test]
fn the_last_of_two_goes_on_alone_and_restarts_alone() {
    let mut group = Group::of(&[1]);
    group.join(2);
    group.work();
    let leader = group.leader();
    let other = 3 - leader;
    assert!(matches!(group.change(remove(other)), Some(Ok(_))));
    group.work();
    group.kill(leader);
    let opened = group.start(leader).expect("it opens");
    assert!(opened.replayed > 0);
    assert_eq!(group.replica(leader).role(), Role::Leader, "alone it leads before it answers");
    group.work();
}

#[test]
fn one_of_two_that_was_alone_once_waits_for_the_other() {
    let mut group = Group::of(&[1]);
    group.join(2);
    group.work();
    (1..=2).for_each(|id| group.kill(id));
    group.start(1).expect("its snapshot is from when it was alone");
    group.pass(LONG);
    assert_ne!(group.replica(1).role(), Role::Leader);
    group.start(2).expect("it opens");
    group.pass(LONG);
    group.work();
    group.check_equal();
}

#[test]
fn leadership_goes_to_the_longest_log_that_is_heard() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let [ahead, behind] = others(leader)[..] else { panic!("two others") };
    group.cut.insert((leader, behind));
    group.work();
    let mut chosen = None;
    group.act(leader, |replica, turn| {
        chosen = Some(replica.transfer_to_best(turn));
        Ok(())
    });
    assert_eq!(chosen, Some(Ok(NodeId(ahead))));
    group.cut.clear();
    group.pass(3);
    assert_eq!(group.leader(), ahead);
    others(ahead).into_iter().for_each(|id| group.kill(id));
    group.pass(21);
    let alone = group.replica(ahead).best_successor();
    assert!(matches!(alone, Err(Error::NotCommitted(_))), "{alone:?}");
}
