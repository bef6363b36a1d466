//! Bugs that a test can switch on, to show that the simulator would find them. Without the feature `sim` every question
//! is answered no when the program is compiled.
//!
//! One at a time, for the thread that switched it on: a simulation runs in one thread.

/// A mistake that a system like this has been seen to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log answers before its sync.
    AnswerBeforeSync,
    /// Messages that depend on a write leave before it.
    SendBeforePersist,
    /// The vote is not written.
    ForgetVote,
    /// A member whose log lost its end votes and leads as if nothing was.
    SuspectVotes,
    /// A lease is not compared with the token.
    NoTokenCheck,
    /// A repeated request is applied again.
    ApplyRepeated,
    /// The state machine reads a clock of its own.
    OwnClock,
    /// Recovery keeps entries that were replaced.
    RecoverReplaced,
    /// A leader that loses its place says that nothing happened.
    RefuseOnStepDown,
    /// The end of a session leaves its jobs leased.
    LeasesStay,
    /// Names are not made durable.
    NoDirectorySync,
    /// A received snapshot counts before it is on disk.
    ReceivedNotSynced,
    /// A snapshot does not name the learners.
    ForgetLearners,
    /// A member whose disk was lost comes back under its old id and votes.
    AmnesiacVote,
    /// A change of the members is applied twice.
    ChangeTwice,
    /// Nobody ends a joint configuration.
    StayJoint,
    /// A leader that is removed goes on.
    RemovedLeaderStays,
    /// A member whose state differs from that of the others goes on.
    IgnoreDigest,
    /// The question of a linearizable read is the same in each round.
    ReadIdReused,
    /// A read is answered without asking anybody.
    ReadUnconfirmed,
    /// An answer to a forwarded request is matched by its index alone.
    PlacedWithoutTerm,
    /// A new leader counts on from what it heard before.
    TtlNotRestarted,
}

impl Bug {
    pub const ALL: [Bug; 16] = [
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
    ];
}

#[cfg(feature = "sim")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Switches a bug on for this thread, or all off.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is switched on.
#[inline]
pub fn has(bug: Bug) -> bool {
    #[cfg(feature = "sim")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "sim"))]
    {
        let _ = bug;
        false
    }
}
