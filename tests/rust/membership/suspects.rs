//! A member whose log lost its end, among members that changed meanwhile.

use raftwork::base::NodeId;
use raftwork::consensus::MemberChange;
use raftwork::disk::fake::{Fault, Op};
use raftwork::disk::Disk;

use super::group::{Group, DIR, LONG};

/// The last write of a member is damaged: it may have been acknowledged.
fn tear(group: &mut Group, id: u64) {
    group.kill(id);
    let disk = group.nodes[&id].disk.clone();
    let log = std::path::Path::new(DIR).join("wal");
    let names = disk.list(&log).expect("the log can be listed");
    let newest = names.iter().rev().find(|name| name.starts_with("w-")).expect("a segment");
    let mut bytes = disk.content(&log.join(newest)).expect("it is there");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
    bytes[last] ^= 1;
    disk.put(&log.join(newest), &bytes);
}

/// One voter, and one that learns.
fn voter_and_learner() -> Group {
    let mut group = Group::of(&[1]);
    group.begin(2, &[]);
    assert!(matches!(group.change(MemberChange::AddLearner(NodeId(2))), Some(Ok(_))));
    group.pass(10);
    group.work();
    group
}

#[test]
fn a_voter_that_is_left_alone_knows_it_after_a_power_cut() {
    let mut group = Group::of(&[1, 2]);
    let leader = group.leader();
    let gone = 3 - leader;
    assert!(matches!(group.change(MemberChange::Remove(NodeId(gone))), Some(Ok(_))));
    group.kill(gone);
    group.kill(leader);
    group.start(leader).expect("it opens");
    assert_eq!(group.voters(leader), [leader]);
    group.work();
}

#[test]
fn a_lone_voter_in_doubt_has_nobody_to_ask_and_leads() {
    let mut group = voter_and_learner();
    group.kill(2);
    group.work();
    tear(&mut group, 1);
    group.start(1).expect("a torn end is cut");
    group.start(2).expect("it opens");
    assert!(group.replica(1).is_suspect());
    group.pass(LONG);
    group.work();
    group.check_equal();
}

#[test]
fn d5_a_lone_voter_says_nothing_in_a_term_before_its_vote_is_on_disk() {
    let mut group = voter_and_learner();
    group.kill(1);
    group.start(1).expect("it opens");
    let (term, disk) = (group.replica(2).term(), group.nodes[&1].disk.clone());
    disk.fail(Op::Sync, disk.count(Op::Sync) + 1, Fault::Eio, false);
    for _ in 0..LONG {
        group.pass(1);
        if group.nodes[&1].stopped.is_some() {
            break;
        }
    }
    assert!(group.nodes[&1].stopped.is_some(), "it wrote its vote, and that failed");
    assert_eq!(group.replica(2).term(), term, "it would vote for itself in that term once more");
}

#[test]
fn d5_members_in_doubt_do_not_wait_for_a_voter_that_was_removed() {
    let mut group = Group::of(&[1, 2, 3, 4, 5]);
    let leader = group.leader();
    let others: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
    let (gone, doubts, knows) = (others[0], [others[1], others[2]], others[3]);
    // Two miss the removal, and then their logs lose their ends. Of the four that are left three must vote.
    doubts.iter().for_each(|id| group.isolate(*id));
    group.change(MemberChange::Remove(NodeId(gone)));
    group.pass(10);
    assert!(group.nodes[&gone].removed);
    group.kill(gone);
    group.cut.clear();
    // A later write carries the commit index to the disks of those that know of the removal.
    doubts.iter().for_each(|id| group.kill(*id));
    group.enqueue(leader);
    group.deliver();
    for id in [leader, knows] {
        group.act(id, |replica, _| replica.flush());
        group.kill(id);
    }
    for id in doubts {
        tear(&mut group, id);
        group.start(id).expect("a torn end is cut");
        assert!(group.replica(id).is_suspect());
    }
    group.start(leader).expect("it opens");
    group.start(knows).expect("it opens");
    group.pass(2 * LONG);
    assert!([leader, knows].contains(&group.leader()), "a sound log leads");
    group.work();
    group.check_equal();
}

/// A group whose former leader has an entry that nobody else has, and waits cut off while another one leads; and its id.
fn with_a_stale_leader() -> (Group, u64) {
    let mut group = Group::of(&[1, 2, 3]);
    let stale = group.leader();
    group.isolate(stale);
    group.enqueue(stale);
    group.pass(LONG);
    (group, stale)
}

/// Lets it take what replaces its entries, and damages that.
fn replace_and_tear(group: &mut Group, stale: u64) {
    let shown = group.replica(stale).last_index();
    group.cut.clear();
    for _ in 0..LONG {
        if group.replica(stale).last_index() != shown {
            break;
        }
        group.pass(1);
    }
    assert_ne!(group.replica(stale).last_index(), shown, "it hears of what replaces them");
    tear(group, stale);
}

/// Its leader heard that it has the entries in their place, and names them in heartbeats.
#[test]
fn d5_a_log_that_shows_replaced_entries_again_commits_none_of_them() {
    let (mut group, stale) = with_a_stale_leader();
    (0..2).for_each(|_| group.work());
    let leader = group.leader();
    let last = group.replica(stale).last_index();
    replace_and_tear(&mut group, stale);
    group.start(stale).expect("a torn end is cut");
    assert_eq!(group.replica(stale).last_index(), last, "it shows what was replaced");
    group.pass(LONG);
    group.work();
    assert_eq!(group.leader(), leader);
    group.check_equal();
}
