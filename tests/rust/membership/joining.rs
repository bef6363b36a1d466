//! A node that joins: nothing at first, then a snapshot, then a vote.

use raftwork::base::{Error, NodeId};
use raftwork::consensus::{MemberChange, Message, MessageType, PeerState};
use raftwork::replica::Letter;

use super::group::{rests, Group};

#[test]
fn a_node_joins_a_lone_one_catches_up_and_votes() {
    let mut group = Group::of(&[1]);
    group.work();
    group.begin(2, &[]);
    assert!(group.replica(2).is_joining() && group.members(2).voters.is_empty());
    assert!(matches!(group.change(MemberChange::AddLearner(NodeId(2))), Some(Ok(_))));
    group.work();
    group.pass(10);
    let members = group.members(1);
    assert_eq!((members.voters, members.learners), (vec![NodeId(1)], vec![NodeId(2)]));
    let peer = members.peers[0];
    assert!(peer.recently_active && peer.state == PeerState::Replicate && peer.node == NodeId(2));
    assert_eq!(peer.matched, group.replica(1).last_index());
    assert!(!group.replica(2).is_joining());
    group.check_equal();
    assert!(matches!(group.change(MemberChange::Promote(NodeId(2))), Some(Ok(_))));
    group.work();
    assert_eq!(group.voters(2), [1, 2]);
    group.check_equal();
}

#[test]
fn p14_a_snapshot_that_does_not_name_a_learner_is_not_sent_to_it() {
    let mut group = Group::of(&[1]);
    group.work();
    group.snapshot_if_due(1, true);
    let before = group.replica(1).snapshots().latest().expect("one was taken").index;
    group.join(2);
    let sent = group.replica(2).snapshots().latest().expect("it began with one");
    assert!(sent.index > before, "the leader took a newer one for it");
    assert_eq!((sent.voters, sent.learners), (vec![1], vec![2]));
    group.check_equal();
}

#[test]
fn a_node_rests_between_the_chunks_of_a_state_that_it_takes_over() {
    let mut group = Group::of(&[1]);
    group.work();
    group.snapshot_if_due(1, true);
    assert_eq!(rests(), 0, "nothing was taken over");
    group.join(2);
    assert!(rests() > 1, "others need the cores meanwhile");
    group.check_equal();
}

#[test]
fn joining_survives_restarts_at_any_moment() {
    for kill_at in 0..12 {
        let mut group = Group::of(&[1]);
        group.work();
        group.begin(2, &[]);
        let restart = |group: &mut Group, step: usize| {
            if step == kill_at {
                group.kill(2);
                group.start(2).expect("it opens whatever it holds");
            }
        };
        restart(&mut group, 0);
        assert!(matches!(group.change(MemberChange::AddLearner(NodeId(2))), Some(Ok(_))));
        for step in 1..11 {
            restart(&mut group, step);
            group.pass(1);
        }
        group.pass(10);
        restart(&mut group, 11);
        group.pass(10);
        assert!(matches!(group.change(MemberChange::Promote(NodeId(2))), Some(Ok(_))), "killed at {kill_at}");
        group.work();
        group.check_equal();
    }
}

/// A lone node, and one that joins it; its power is cut within a step of its disk. Gives the steps that it took.
fn join_with_a_cut(step: Option<u64>) -> u64 {
    let mut group = Group::of(&[1]);
    group.work();
    let disk = group.prepare(2, &[]);
    step.into_iter().for_each(|step| disk.cut_at_step(step));
    let _ = group.start(2);
    assert!(matches!(group.change(MemberChange::AddLearner(NodeId(2))), Some(Ok(_))));
    for _ in 0..60 {
        if group.nodes[&2].replica.is_none() {
            group.kill(2);
            group.start(2).unwrap_or_else(|error| panic!("step {step:?}: {error}"));
        }
        group.pass(1);
    }
    let steps = disk.steps();
    disk.heal();
    assert!(matches!(group.change(MemberChange::Promote(NodeId(2))), Some(Ok(_))), "step {step:?}");
    group.work();
    group.check_equal();
    steps
}

#[test]
fn joining_survives_a_power_cut_within_every_step_of_the_disk() {
    let steps = join_with_a_cut(None);
    assert!(steps > 20, "{steps}");
    (1..=steps).for_each(|step| _ = join_with_a_cut(Some(step)));
}

#[test]
pub fn d5_a_node_without_a_state_votes_for_nobody() {
    let mut group = Group::of(&[1]);
    group.begin(2, &[]);
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        let mut message = Message { to: 2, from: 1, term: 9, index: 90, log_term: 8, ..Message::default() };
        message.set_msg_type(kind);
        group.act(2, |replica, turn| replica.receive(vec![Letter::Raft(message)], turn));
    }
    assert_eq!(group.replica(2).term().0, 0, "it did not even hear of it");
    group.pass(100);
    assert_eq!((group.leader(), group.replica(2).term().0), (1, 0), "it never campaigns");
}

#[test]
fn the_leader_promotes_who_has_caught_up() {
    let mut group = Group::of(&[1, 2, 3]);
    group.work();
    group.begin(4, &[]);
    let leader = group.leader();
    let promote = |group: &mut Group| {
        let mut promoted = None;
        group.act(leader, |replica, turn| {
            promoted = replica.promote_ready(|_| None, turn)?;
            Ok(())
        });
        group.deliver();
        promoted
    };
    assert_eq!(promote(&mut group), None);
    group.isolate(4);
    assert!(matches!(group.change(MemberChange::AddLearner(NodeId(4))), Some(Ok(_))));
    group.pass(10);
    assert_eq!(promote(&mut group), None, "it has nothing yet");
    group.cut.clear();
    group.pass(10);
    assert_eq!(promote(&mut group), Some(NodeId(4)));
    assert_eq!(group.voters(leader), [1, 2, 3, 4]);
    assert_eq!(promote(&mut group), None);
    group.check_equal();
}

#[test]
fn a_member_keeps_its_snapshot_and_its_members_over_a_restart() {
    let mut group = Group::of(&[1]);
    group.join(2);
    group.begin(3, &[]);
    group.change(MemberChange::AddLearner(NodeId(3)));
    group.pass(10);
    let before = group.members(1);
    for id in [1, 2, 3] {
        group.snapshot_if_due(id, true);
        group.work();
        group.kill(id);
        group.start(id).expect("it opens");
        group.pass(60);
    }
    let after = group.members(1);
    assert_eq!((after.voters, after.learners), (before.voters, before.learners));
    group.check_equal();
}

#[test]
fn a_directory_that_lost_its_state_is_not_taken_for_one_that_joins() {
    let mut group = Group::of(&[1, 2, 3]);
    group.work();
    group.snapshot_if_due(1, true);
    group.kill(1);
    let disk = group.nodes[&1].disk.clone();
    let snap = std::path::Path::new(super::group::DIR).join("snap");
    for name in raftwork::disk::Disk::list(&disk, &snap).expect("a list") {
        raftwork::disk::Disk::remove(&disk, &snap.join(name)).expect("it goes");
    }
    assert!(matches!(group.start(1), Err(Error::Corrupt { .. })));
}
