//! Full disks among several members: who leads then, and what becomes of writes.

use raftwork::base::Error;
use raftwork::disk::fake::{Fault, Op};

use super::group::{Group, LONG};

/// Ticks within which a leader without room lets another one lead.
const SOON: usize = 15;

/// No file can be made any more.
fn fill(group: &mut Group, id: u64) {
    let disk = &group.nodes[&id].disk;
    disk.fail(Op::Create, disk.count(Op::Create) + 1, Fault::Enospc, true);
}

/// As a node does it now and then: looks for room, and makes the next file of the log if there is some.
fn tend(group: &mut Group, id: u64) {
    let _ = group.replica(id).wal().spare().work();
    group.act(id, |replica, _| replica.seek_room());
}

/// Writes at this member until it is refused for lack of room.
fn write_until_refused(group: &mut Group, id: u64) {
    for _ in 0..1_000 {
        let ticket = group.enqueue(id);
        group.deliver();
        match &group.answers[&ticket] {
            Ok(_) => {}
            Err(Error::DiskFull(_)) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no file was needed in all that time");
}

fn term(group: &mut Group) -> u64 {
    let leader = group.leader();
    group.replica(leader).term().0
}

#[test]
fn a3_a_leader_without_room_lets_another_lead_and_catches_up_when_there_is_room() {
    let mut group = Group::of(&[1, 2, 3]);
    let (full, before) = (group.leader(), term(&mut group));
    fill(&mut group, full);
    write_until_refused(&mut group, full);
    group.pass(SOON);
    assert_ne!(group.leader(), full);
    assert_eq!(term(&mut group), before + 1, "by a transfer, not by an election");
    (0..200).for_each(|_| group.work());
    group.pass(LONG);
    assert_eq!(term(&mut group), before + 1);
    group.nodes[&full].disk.heal();
    tend(&mut group, full);
    group.pass(LONG);
    assert!(!group.replica(full).is_full());
    group.check_equal();
}

#[test]
fn a3_a_short_lack_of_room_changes_no_leader() {
    let mut group = Group::of(&[1, 2, 3]);
    let full = group.leader();
    fill(&mut group, full);
    write_until_refused(&mut group, full);
    group.pass(5);
    group.nodes[&full].disk.heal();
    group.pass(LONG);
    assert_eq!(group.leader(), full);
    group.work();
}

#[test]
fn a3_among_members_that_are_all_full_leadership_comes_to_rest() {
    for tended in [false, true] {
        let mut group = Group::of(&[1, 2, 3, 4, 5]);
        let before = term(&mut group);
        (1..=5).for_each(|id| fill(&mut group, id));
        let first = group.leader();
        write_until_refused(&mut group, first);
        for _ in 0..10 * LONG {
            if tended {
                (1..=5).for_each(|id| tend(&mut group, id));
            }
            let leader = group.leader();
            group.enqueue(leader);
            group.pass(1);
        }
        // Each finds out for itself that it has no room; that its next file cannot be made tells it before.
        let most = if tended { 0 } else { 4 };
        let changes = term(&mut group) - before;
        assert!(changes <= most, "{changes} changes, {tended}");
        (1..=5).for_each(|id| group.nodes[&id].disk.heal());
        group.pass(LONG);
        group.work();
        group.check_equal();
    }
}

/// Nothing could be written there either: who answers with `DiskFull` is better than nobody.
#[test]
fn a3_a_leader_without_room_stays_where_the_others_are_no_majority() {
    for voters in [&[1][..], &[1, 2]] {
        let mut group = Group::of(voters);
        let (full, before) = (group.leader(), term(&mut group));
        fill(&mut group, full);
        write_until_refused(&mut group, full);
        group.pass(2 * LONG);
        assert_eq!((group.leader(), term(&mut group)), (full, before));
        write_until_refused(&mut group, full);
        group.nodes[&full].disk.heal();
        group.work();
    }
}

#[test]
fn leadership_is_handed_to_who_has_room() {
    let mut group = Group::of(&[1, 2, 3]);
    let first = group.leader();
    let full = group.replica(first).best_successor().unwrap().0;
    fill(&mut group, full);
    tend(&mut group, full);
    tend(&mut group, full);
    group.act(first, |replica, turn| replica.transfer_to_best(turn).map(drop));
    group.deliver();
    assert!(group.leader() != first && group.leader() != full, "{full} refused");
    group.work();
}

/// The log of the leader has a place for it, and the file system does not: it waits there, and the others have it.
#[test]
fn d1_what_waits_for_room_at_a_leader_is_committed_by_the_next_and_answered_once() {
    let mut group = Group::of(&[1, 2, 3]);
    let full = group.leader();
    let disk = group.nodes[&full].disk.clone();
    disk.fail(Op::Write, disk.count(Op::Write) + 1, Fault::Enospc, true);
    let ticket = group.enqueue(full);
    group.deliver();
    assert!(group.replica(full).is_stalled() && !group.answers.contains_key(&ticket));
    group.pass(LONG);
    assert_ne!(group.leader(), full);
    group.work();
    disk.heal();
    group.pass(LONG);
    assert!(matches!(group.answers.get(&ticket), Some(Ok(_))), "{:?}", group.answers.get(&ticket));
    assert_eq!(group.replica(full).machine().read().len(), 2);
    group.check_equal();
}
