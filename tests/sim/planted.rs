//! The hunt for planted bugs: the simulator finds each mistake that can be switched on.
//!
//! Those that only special clients can meet are listed beside these (`flows`, `limits`, `locks`, `schedules`, `waiting`), and
//! those that need a member which loses what no other cluster loses (`losses`).

use raftwork::base::planted::Bug;

use crate::{fleet, flows, limits, locks, losses, number, schedules, waiting};

/// Mistakes that any cluster may meet.
const BUGS: [Bug; 43] = [
    Bug::AnswerBeforeSync,
    Bug::SendBeforePersist,
    Bug::ForgetVote,
    Bug::SuspectVotes,
    Bug::NoTokenCheck,
    Bug::ApplyRepeated,
    Bug::OwnClock,
    Bug::RecoverReplaced,
    Bug::RefuseOnStepDown,
    Bug::LeasesStay,
    Bug::NoDirectorySync,
    Bug::ReceivedNotSynced,
    Bug::ReadIdReused,
    Bug::ReadUnconfirmed,
    Bug::PlacedWithoutTerm,
    Bug::TtlNotRestarted,
    Bug::CutInTheMiddle,
    Bug::NoBodyChecksum,
    Bug::SyncRetried,
    Bug::SuspicionForgotten,
    Bug::SnapshotNotSynced,
    Bug::NoChunkChecksum,
    Bug::CommitBehindSnapshot,
    Bug::SkipAtStart,
    Bug::FullDiskRefuses,
    Bug::TokenReused,
    Bug::TallyDrift,
    Bug::ExpireByLogTime,
    Bug::RepliesLost,
    Bug::EarlyPromotion,
    Bug::LastFirst,
    Bug::CrashSpendsAttempt,
    Bug::TimeGoesBack,
    Bug::JumpBelieved,
    Bug::ForgetLearners,
    Bug::ChangeTwice,
    Bug::StayJoint,
    Bug::LearnerVotes,
    Bug::BehindDenies,
    Bug::UngatedCommand,
    Bug::SkipUnknown,
    Bug::LevelFalls,
    Bug::RevokedStays,
];

/// Every bug that can be switched on is found by one of the first seeds.
#[test]
fn planted_bugs_are_found() {
    let seeds = number("RAFTWORK_SIM_PLANTED_SEEDS").unwrap_or(600);
    let only = std::env::var("RAFTWORK_SIM_BUG").ok();
    let wanted = |bug: &&Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let bugs: Vec<Bug> = BUGS.iter().filter(wanted).copied().collect();
    assert!(!bugs.is_empty(), "no bug is called {only:?}");
    let missed = fleet::missed(&bugs, seeds);
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

/// No mistake can be switched on and never is.
#[test]
fn every_planted_bug_is_hunted_once() {
    let lists: [&[Bug]; 7] =
        [&BUGS, &flows::BUGS, &limits::BUGS, &locks::BUGS, &losses::BUGS, &schedules::BUGS, &waiting::BUGS];
    let hunts = |bug: &Bug| lists.iter().flat_map(|list| list.iter()).filter(|known| *known == bug).count();
    let all = Bug::ALL.iter().map(|bug| (bug, hunts(bug)));
    let wrong: Vec<(&Bug, usize)> = all.filter(|(_, hunts)| *hunts != 1).collect();
    assert!(wrong.is_empty(), "not hunted, or more than once: {wrong:?}");
    println!("{} planted bugs: {:?} in each list", Bug::ALL.len(), lists.map(|list| list.len()));
}
