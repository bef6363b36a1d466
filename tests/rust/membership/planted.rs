//! Planted bugs whose situation a test of few members plays: with each of them switched on, that test fails. The simulator
//! finds them too, in clusters that lose something for good (`tests/sim/losses.rs`).

use std::panic::catch_unwind;

use raftwork::base::planted::{plant, Bug};

use super::{changes, digests, joining};

/// Each mistake, and the test that finds it.
const TESTS: [(Bug, fn()); 4] = [
    (Bug::AmnesiacVote, joining::d5_a_node_without_a_state_votes_for_nobody),
    (Bug::RemovedLeaderStays, changes::p16_a_leader_that_applies_its_own_removal_stops_at_once),
    (Bug::IgnoreDigest, digests::l6_a_follower_that_differs_stops),
    (Bug::GiveDisputed, digests::l6_while_nobody_knows_who_is_wrong_no_state_is_given_away_and_a_removal_decides),
];

#[test]
fn d5_p16_l6_each_planted_bug_fails_its_test() {
    for (bug, test) in TESTS {
        plant(Some(bug));
        let found = catch_unwind(test);
        plant(None);
        assert!(found.is_err(), "{bug:?} is not found");
        test();
    }
}
