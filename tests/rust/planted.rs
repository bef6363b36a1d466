//! Planted bugs that no seed of the simulator meets, as it never brings about what they need. `membership::planted` switches
//! each on and sees a test fail.

use raftwork::base::planted::Bug;

/// In the order of the tests that find them.
pub const PLANTED_BY_HAND: [Bug; 3] = [
    // A newcomer is asked for its vote before it has a state.
    Bug::AmnesiacVote,
    // Who leads commits its own removal.
    Bug::RemovedLeaderStays,
    // The state of one member is damaged in memory.
    Bug::IgnoreDigest,
];
