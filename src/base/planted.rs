//! Bugs that a test can switch on, to show that the simulator would find them. Without the feature `sim` every question
//! is answered no when the program is compiled.
//!
//! One at a time, for the thread that switched it on: a simulation runs in one thread.

/// Lists each mistake once, so that `Bug::ALL` lacks none.
macro_rules! bugs {
    ($($(#[$words:meta])* $name:ident,)*) => {
        /// A mistake that a system like this has been seen to make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$words])* $name,)*
        }

        impl Bug {
            /// All of them: a test sees to it that each is hunted.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
        }
    };
}

bugs! {
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
    /// A leader gives its state away while nobody knows whether that is the one that differs.
    GiveDisputed,
    /// The question of a linearizable read is the same in each round.
    ReadIdReused,
    /// A read is answered without asking anybody.
    ReadUnconfirmed,
    /// An answer to a forwarded request is matched by its index alone.
    PlacedWithoutTerm,
    /// A new leader counts on from what it heard before.
    TtlNotRestarted,
    /// Damage in the middle of the log is cut away like a torn end.
    CutInTheMiddle,
    /// The log does not check what it reads.
    NoBodyChecksum,
    /// A failed sync is tried again and believed.
    SyncRetried,
    /// A member whose log lost its end does not know that any more after its next start.
    SuspicionForgotten,
    /// A snapshot counts before it is on disk.
    SnapshotNotSynced,
    /// A snapshot is not checked when it is read.
    NoChunkChecksum,
    /// The commit index after a start may lie behind the snapshot.
    CommitBehindSnapshot,
    /// The first entry behind the snapshot is not applied after a start.
    SkipAtStart,
    /// A full disk refuses requests that are in the log already.
    FullDiskRefuses,
    /// Two jobs of one claim get the same token.
    TokenReused,
    /// A move is missing in the figures.
    TallyDrift,
    /// The time of the log ends sessions.
    ExpireByLogTime,
    /// A snapshot does not hold the answers of sessions.
    RepliesLost,
    /// A job is due a little too early.
    EarlyPromotion,
    /// Whoever waits shortest is handed out first.
    LastFirst,
    /// A lost run spends an attempt.
    CrashSpendsAttempt,
    /// The time of the log follows each leader's clock, also backwards.
    TimeGoesBack,
    /// A new leader believes its wall clock, whatever it did before.
    JumpBelieved,
    /// A lock is handed over without a new token.
    HandOverOldToken,
    /// Whoever names a lock ends it, whatever its token.
    UnlockUnchecked,
    /// An owner that gave up stays in the line.
    GivenUpGets,
    /// A semaphore gives one permit more than it has.
    PermitTooMany,
    /// Whoever fits beside the holders passes those who wait.
    ReadersPass,
    /// A firing is not compared with the slot of its schedule.
    FireAnySlot,
    /// A firing is not compared with the definition of its schedule.
    FireOldDefinition,
    /// A child hears of the end of its parent twice.
    SettleTwice,
    /// The children of a job that crashed do not hear of its end.
    OrphanAfterCrash,
    /// A member of a batch that is requeued counts as one more.
    RequeuedCountsTwice,
    /// What one command does not settle of a flow is forgotten.
    RestForgotten,
    /// Whoever comes back from the archive does not hear of its parents.
    ComesBackDeaf,
    /// A child that waits again takes its unique key, whoever has it by now.
    KeyTakenTwice,
    /// Batches inside of a cancelled one go on.
    InnerGoesOn,
    /// The window of a unique key ends with its job.
    WindowEndsEarly,
    /// Whoever insists on its unique key is left out in silence if that is held.
    RaiseSkips,
    /// A limit lets one more run than it says.
    LimitOneMore,
    /// A limit that has room again is told to nobody.
    LimitStaysFull,
    /// A rate forgets its starts with its last job.
    RateForgotten,
    /// A limit whose number changes holds back as many as before.
    TunedStays,
    /// A key that takes turns has its turn again after each start.
    TurnKept,
    /// A fixed window begins at its first start.
    FixedAtFirst,
    /// A queue runs one job more than its limit.
    QueueOneMore,
    /// A firing that stores nothing leaves its slot to others.
    SkippedSlotStays,
    /// A learner counts to majorities.
    LearnerVotes,
    /// A member that is behind tells others that they are none.
    BehindDenies,
    /// A command reaches the log before all members know it.
    UngatedCommand,
    /// A member passes over a command that it does not know.
    SkipUnknown,
    /// The feature level goes down again.
    LevelFalls,
    /// A token that was taken back is worth something until it expires.
    RevokedStays,
    /// A watcher that was told of a job ahead of time counts as told, although it has gone.
    HintStays,
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

/// Words that make whoever applies a request with them panic, on any thread and in any node of this process.
#[cfg(feature = "sim")]
static TRIPS: std::sync::Mutex<Vec<&'static [u8]>> = std::sync::Mutex::new(Vec::new());

/// From now on a request with these words panics when it is applied. Each test has words of its own.
#[cfg(feature = "sim")]
pub fn trip(words: &'static str) {
    TRIPS.lock().expect("nobody panics with it").push(words.as_bytes());
}

/// Panics if this request has such words.
#[inline]
pub fn look_for_trip(request: &[u8]) {
    #[cfg(feature = "sim")]
    {
        let trips = TRIPS.lock().expect("nobody panics with it").clone();
        let hit = trips.into_iter().find(|words| request.windows(words.len()).any(|part| part == *words));
        assert!(hit.is_none(), "tripped over a request as planted");
    }
    #[cfg(not(feature = "sim"))]
    let _ = request;
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
