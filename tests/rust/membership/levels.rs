//! U3: what only the next version knows does not reach the log before all members know it.

use raftwork::base::{Error, LogIndex, Millis};
use raftwork::machine::{self, Effects, Machine, LEVEL};
use raftwork::replica::{entry, Proposal};

use super::group::Group;
use crate::requests::{enqueue, job};
use crate::wire::{self, Command, Own};

fn own(command: Own) -> Vec<u8> {
    wire::request(0, 0, 0, &Command::Own(command))
}

/// Hands a request over through a member that follows. Gives the answer.
fn forwarded(group: &mut Group, request: &[u8]) -> Result<Vec<u8>, Error> {
    let leader = group.leader();
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two follow");
    let ticket = group.propose(follower, request);
    group.deliver();
    // The first turn writes the command, the second tells the others that it is committed.
    for _ in 0..2 {
        group.act(leader, |replica, turn| replica.turn(Millis(5_000), Vec::new(), turn));
        group.deliver();
    }
    group.answers.get(&ticket).cloned().expect("it was answered")
}

#[test]
fn u3_a_leader_refuses_what_the_level_does_not_allow_and_takes_it_when_it_does() {
    machine::be_newer(true);
    let mut group = Group::of(&[1, 2, 3]);
    let refused = forwarded(&mut group, &own(Own::Future));
    assert!(matches!(&refused, Err(Error::NotCommitted(why)) if why.contains("finalize")), "{refused:?}");
    assert!(forwarded(&mut group, &own(Own::SetLevel(LEVEL + 1))).is_ok());
    assert!(forwarded(&mut group, &own(Own::Future)).is_ok());
    group.check_equal();
    machine::be_newer(false);
}

#[test]
fn u3_what_is_refused_for_the_level_takes_nothing_with_it_that_travels_beside_it() {
    machine::be_newer(true);
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two follow");
    let requests = [enqueue(job(901), 64), own(Own::Future), enqueue(job(902), 64)];
    let tickets = [901, 902, 903];
    let proposals = tickets.into_iter().zip(&requests);
    let proposals = proposals.map(|(ticket, request)| Proposal { entry: entry::frame(request), ticket }).collect();
    group.act(follower, |replica, turn| replica.turn(Millis(5_000), proposals, turn));
    group.deliver();
    for _ in 0..2 {
        group.act(leader, |replica, turn| replica.turn(Millis(5_000), Vec::new(), turn));
        group.deliver();
    }
    let answers = tickets.map(|ticket| group.answers.get(&ticket).expect("it was answered").is_ok());
    assert_eq!(answers, [true, false, true]);
    group.check_equal();
    machine::be_newer(false);
}

#[test]
fn u3_a_leader_refuses_what_it_let_in_before_it_led() {
    machine::be_newer(true);
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let ticket = group.propose(leader, &own(Own::Future));
    group.deliver();
    let refused = group.answers.get(&ticket);
    assert!(matches!(refused, Some(Err(Error::Invalid(why))) if why.contains("finalize")), "{refused:?}");
    machine::be_newer(false);
}

#[test]
fn u3_a_command_that_is_not_known_stops_and_changes_nothing() {
    let mut machine = Machine::new();
    let before = machine.digest();
    for request in [own(Own::Future), own(Own::SetLevel(LEVEL + 1))] {
        let outcome = machine.apply(LogIndex(2), Millis(5), &request, &mut Effects::default());
        assert!(matches!(outcome, Err(Error::Foreign(_))), "{outcome:?}");
        assert_eq!((machine.applied(), machine.digest()), (LogIndex(0), before));
    }
}
