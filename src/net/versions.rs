//! Which versions of a conversation a side speaks. Both say so in their first words, and speak the newest that both know, so
//! that during a rolling upgrade a side that knows a new version still speaks the old one with those that do not.
//!
//! | offset | bytes | field                                            |
//! |--------|-------|--------------------------------------------------|
//! | 0      | 2     | the oldest version that is spoken                |
//! | 2      | 2     | the newest                                       |
//! | 4      | 1     | bytes of the release                             |
//! | 5      | n     | the release, such as `0.1.0`: for people         |
//!
//! All numbers are little-endian. What must stay so that sides of any two releases can tell each other how they stand:
//! * These fields and their place, behind a magic, and the frame around them, of version 1.
//! * Frames that refuse, and that they carry words.
//!
//! Whatever follows in the first words has the form of the oldest version that is offered; what a later one adds stands
//! behind it, and is ignored by those who do not know it. A kind of frame, letter or event that is new is sent only to who
//! speaks the version that brought it: what is not known still ends a connection.

use crate::base::{Error, Result, RELEASE};

/// The versions that a side speaks: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub oldest: u16,
    pub newest: u16,
}

/// What the other side said of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Met<'a> {
    /// The version that both speak from here on.
    pub spoken: u16,
    pub release: &'a str,
    /// The words behind.
    pub rest: &'a [u8],
}

impl Versions {
    /// What to say of this side, behind the magic.
    pub fn introduce(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + RELEASE.len());
        out.extend_from_slice(&self.oldest.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        out.push(RELEASE.len() as u8);
        out.extend_from_slice(RELEASE.as_bytes());
        out
    }

    /// Reads what the other side says of itself. Nothing if it does not speak so at all.
    ///
    /// # Errors
    /// `Foreign`: there is no version that both sides speak.
    pub fn meet(self, words: &[u8]) -> Option<Result<Met<'_>>> {
        let (oldest, words) = words.split_first_chunk()?;
        let (newest, words) = words.split_first_chunk()?;
        let (length, words) = words.split_first()?;
        let (release, rest) = words.split_at_checked(usize::from(*length))?;
        let release = std::str::from_utf8(release).ok().filter(|text| !text.chars().any(char::is_control))?;
        let theirs = Versions { oldest: u16::from_le_bytes(*oldest), newest: u16::from_le_bytes(*newest) };
        Some(self.agree(theirs, release).map(|spoken| Met { spoken, release, rest }))
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// `Foreign`: there is none.
    pub fn agree(self, theirs: Versions, release: &str) -> Result<u16> {
        let spoken = self.newest.min(theirs.newest);
        if spoken >= self.oldest.max(theirs.oldest) && theirs.oldest <= theirs.newest {
            return Ok(spoken);
        }
        // Read at both sides, so neither is called this one.
        let older = if theirs.newest < self.oldest { release } else { RELEASE };
        Err(Error::Foreign(format!(
            "one side runs raftwork {release} and speaks {theirs}, the other one raftwork {RELEASE} and speaks {self}, so they \
             do not understand each other: upgrade the one with raftwork {older}, to the release after it and so on, until \
             both speak the same version"
        )))
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.oldest == self.newest {
            true => write!(out, "version {}", self.newest),
            false => write!(out, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Versions = Versions { oldest: 1, newest: 1 };

    #[test]
    fn the_newest_version_that_both_speak_is_spoken() {
        let of = |oldest, newest| Versions { oldest, newest };
        assert_eq!(FIRST.agree(of(1, 2), "0.2.0"), Ok(1));
        assert_eq!(of(1, 3).agree(of(2, 7), "0.2.0"), Ok(3));
        assert_eq!(of(2, 7).agree(of(1, 3), "0.2.0"), Ok(3));
        for refused in [FIRST.agree(of(2, 1), ""), FIRST.agree(of(0, 0), ""), of(3, 4).agree(of(1, 2), "")] {
            assert!(matches!(refused, Err(Error::Foreign(_))), "{refused:?}");
        }
    }

    #[test]
    fn who_speaks_no_common_version_is_told_both_and_which_side_to_upgrade() {
        let Err(Error::Foreign(newer)) = FIRST.agree(Versions { oldest: 2, newest: 3 }, "0.9.0") else { panic!() };
        assert!(newer.contains("raftwork 0.9.0 and speaks versions 2 to 3"), "{newer}");
        assert!(newer.contains(&format!("raftwork {RELEASE} and speaks version 1")), "{newer}");
        assert!(newer.contains(&format!("upgrade the one with raftwork {RELEASE}")), "{newer}");
        let Err(Error::Foreign(older)) = (Versions { oldest: 2, newest: 2 }).agree(FIRST, "0.0.9") else { panic!() };
        assert!(older.contains("upgrade the one with raftwork 0.0.9"), "{older}");
    }

    #[test]
    fn an_introduction_comes_back_with_what_follows_it() {
        let words = [&FIRST.introduce()[..], b"rest"].concat();
        assert_eq!(FIRST.meet(&words), Some(Ok(Met { spoken: 1, release: RELEASE, rest: b"rest" })));
        for length in 0..words.len() - 4 {
            assert_eq!(FIRST.meet(&words[..length]), None);
        }
        assert_eq!(FIRST.meet(b"\x01\0\x01\0\x01\n"), None, "a line of a log");
    }

    #[test]
    fn the_bytes_of_an_introduction_are_for_good() {
        let words = (Versions { oldest: 1, newest: 0x203 }).introduce();
        assert_eq!(words[..4], [1, 0, 3, 2]);
        assert_eq!((usize::from(words[4]), &words[5..]), (RELEASE.len(), RELEASE.as_bytes()));
    }
}
