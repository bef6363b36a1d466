//! Identifiers. An index of the log is not a count, and neither is a plain `u64`.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Position of an entry in the replicated log. The first entry has index 1.
    LogIndex
);
number!(
    /// Raft term: one leader at most for each.
    Term
);
number!(
    /// A member of the cluster. Never 0, and never used again after its disk was lost.
    NodeId
);
number!(
    /// One Raft group. There is one today; files and frames carry it so that there can be more.
    GroupId
);
number!(
    /// One connected process. It is the log index of the entry that opened the session; 0 means none.
    SessionId
);
number!(
    /// Fencing token of one claim of a job, or of one grant of a lock: strictly increasing over the life of the cluster.
    LeaseToken
);

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The id in these bytes, or nothing if there are not exactly 16.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The id that is written like this: 32 hexadecimal digits, with or without the hyphens of a UUID.
            pub fn parse(text: &str) -> Option<Self> {
                let digits: Vec<u8> =
                    text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
                let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
                Self::from_slice(&bytes).filter(|_| digits.len() == 32)
            }
        }

        impl fmt::Display for $name {
            /// The usual form of a UUID: 8-4-4-4-12 lower-case hexadecimal digits.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (position, byte) in self.0.iter().enumerate() {
                    if matches!(position, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id128!(
    /// A job. Made by the client (UUID version 7), so that enqueueing twice stores once.
    JobId
);
id128!(
    /// A cluster: made at bootstrap, written into every file and frame.
    ClusterId
);
