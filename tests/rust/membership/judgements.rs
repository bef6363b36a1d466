//! K3: what a leader found out counts only as long as it leads in the same term.

use raftwork::base::{Error, Millis, Term};
use raftwork::replica::{entry, Proposal};

use super::group::Group;
use crate::wire::{self, Command};

/// Ends a session at this member, as found out in that term.
fn end(group: &mut Group, id: u64, term: Term) -> Result<Vec<u8>, Error> {
    let request = wire::request(0, 0, 0, &Command::Expire(7));
    let ticket = 1_000 + term.0 * 10 + id;
    let proposals = vec![Proposal { entry: entry::frame_in(&request, term), ticket }];
    group.act(id, |replica, turn| replica.turn(Millis(5_000), proposals, turn));
    group.deliver();
    group.answers.remove(&ticket).expect("it was answered at once")
}

#[test]
fn k3_what_a_leader_found_out_is_not_handed_to_the_next_one() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let term = group.replica(leader).term();
    assert!(end(&mut group, leader, term).is_ok());
    let last = group.replica(leader).last_index();
    let earlier = end(&mut group, leader, Term(term.0 - 1));
    assert!(matches!(earlier, Err(Error::NotCommitted(_))), "{earlier:?}");
    for follower in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        let handed = end(&mut group, follower, term);
        assert!(matches!(handed, Err(Error::NotCommitted(_))), "{handed:?}");
    }
    assert_eq!(group.replica(leader).last_index(), last, "nothing of it is in the log");
}
