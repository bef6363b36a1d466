//! One lock: what can be asked of it, who holds it, and who stands in its line.
//!
//! ```text
//! Lock        one holder
//! Permit(n)   at most n holders: a semaphore
//! Read        at most READERS_MAX holders, all of which read      Write   one holder; both are of one read-write lock
//! ```
//!
//! Invariants
//! * A lock has a holder, else it is not remembered; so what its holders asked for tells its kind.
//! * Everybody who holds it or waits for it asked for the same kind, a semaphore with the same number.
//! * The first of the line asks for what does not fit beside the holders. Nobody passes it: a reader behind a writer waits.

use std::collections::BTreeMap;
use std::fmt;

use super::decode::{number, Place as _, Result};
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LeaseToken, Millis, SessionId};

/// Who asks for a lock. Two numbers of one session are two owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub session: SessionId,
    pub number: u64,
}

/// What an owner asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Lock,
    /// One of so many permits of a semaphore.
    Permit(u64),
    Read,
    Write,
}

impl Mode {
    /// The mode by its name, for a number of permits: 1 unless it is a semaphore.
    ///
    /// # Errors
    /// `Invalid`: the name is none, or so many permits cannot be.
    pub fn named(name: &str, permits: u64) -> Result<Self> {
        let codes = ["lock", "semaphore", "read", "write"];
        let code = codes.iter().position(|known| *known == name);
        let code = code.ok_or_else(|| Error::Invalid(format!("kind: {name:?} is none of {}", codes.join(", "))))?;
        Self::of(code as u64, permits)
    }

    fn of(code: u64, permits: u64) -> Result<Self> {
        let max = limits::LOCK_PERMITS_MAX;
        match (code, permits) {
            (0, 1) => Ok(Self::Lock),
            (1, permits) if (1..=max).contains(&permits) => Ok(Self::Permit(permits)),
            (2, 1) => Ok(Self::Read),
            (3, 1) => Ok(Self::Write),
            (1, permits) => Err(Error::Invalid(format!("permits: {permits}, from 1 to {max}"))),
            (0 | 2 | 3, permits) => Err(Error::Invalid(format!("permits: {permits}, only a semaphore has several"))),
            (code, _) => Err(Error::Invalid(format!("mode: {code}, at most 3"))),
        }
    }

    /// The two items of a command or a record: 0 lock, 1 semaphore, 2 read, 3 write; and the permits.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (code, permits) = (reader.u64().at("mode")?, reader.u64().at("permits")?);
        Self::of(code, permits)
    }

    pub fn encode(self, writer: &mut Writer) {
        let (code, permits) = match self {
            Self::Lock => (0, 1),
            Self::Permit(permits) => (1, permits),
            Self::Read => (2, 1),
            Self::Write => (3, 1),
        };
        writer.u64(code).u64(permits);
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Permit(_) => "semaphore",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// How many may hold it at once.
    pub fn permits(self) -> u64 {
        match self {
            Self::Lock | Self::Write => 1,
            Self::Permit(permits) => permits,
            Self::Read => limits::LOCK_PERMITS_MAX,
        }
    }

    /// Whether both ask for the same kind of lock.
    pub fn is_of_kind(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Read | Self::Write, Self::Read | Self::Write))
    }
}

/// The kind of lock.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("a lock"),
            Self::Permit(permits) => write!(f, "a semaphore of {permits}"),
            Self::Read | Self::Write => f.write_str("a read-write lock"),
        }
    }
}

/// An owner that holds a lock or waits for it, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub owner: Owner,
    pub mode: Mode,
    pub since: Millis,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lock {
    pub holders: BTreeMap<LeaseToken, Ask>,
    /// By place in the line.
    pub waiters: BTreeMap<u64, Ask>,
}

impl Lock {
    /// What its oldest holder asked for.
    pub fn oldest(&self) -> Option<(LeaseToken, Ask)> {
        self.holders.first_key_value().map(|(token, ask)| (*token, *ask))
    }

    /// Whether it is free for this, apart from who waits.
    fn fits(&self, mode: Mode) -> bool {
        let Some((_, held)) = self.oldest() else { return true };
        let beside_writer = held.mode == Mode::Write || mode == Mode::Write;
        let one_more = u64::from(has(Bug::PermitTooMany) && matches!(mode, Mode::Permit(_)));
        !beside_writer && (self.holders.len() as u64) < mode.permits() + one_more
    }

    /// Whether whoever asks for this now has it at once.
    pub fn admits(&self, mode: Mode) -> bool {
        self.fits(mode) && (self.waiters.is_empty() || has(Bug::ReadersPass))
    }

    /// The first of the line, if it can have what it asks for.
    pub fn next(&self) -> Option<(u64, Ask)> {
        self.waiters.first_key_value().map(|(place, ask)| (*place, *ask)).filter(|(_, ask)| self.fits(ask.mode))
    }

    /// A record of an image. `[name, session, number, token, since, [[place, session, number, since]]]` of one that only
    /// one can hold, as ever; of others `[name, [[token, ASK]], [[place, ASK]]]` with the items of ASK `session, number,
    /// mode, permits, since`.
    pub fn encode(&self, name: &str, w: &mut Writer) {
        match self.oldest() {
            Some((token, Ask { owner, mode: Mode::Lock, since })) => {
                w.array(6).str(name).u64(owner.session.0).u64(owner.number).u64(token.0).u64(since.0);
                w.array(self.waiters.len());
                for (place, ask) in &self.waiters {
                    w.array(4).u64(*place).u64(ask.owner.session.0).u64(ask.owner.number).u64(ask.since.0);
                }
            }
            _ => {
                w.array(3).str(name).array(self.holders.len());
                self.holders.iter().for_each(|(token, ask)| ask.encode(token.0, w));
                w.array(self.waiters.len());
                self.waiters.iter().for_each(|(place, ask)| ask.encode(*place, w));
            }
        }
    }

    /// What `encode` wrote behind the name, given the number of items and the newest token.
    pub fn decode(items: usize, token_max: u64, reader: &mut Reader<'_>) -> Result<Self> {
        let mut lock = Self::default();
        if items == 6 {
            let owner = Owner::decode(reader)?;
            let token = number(reader, token_max).at("token")?;
            lock.let_hold(token, Ask { owner, mode: Mode::Lock, since: Millis(reader.u64()?) })?;
        } else {
            for _ in 0..reader.array()? {
                reader.array_of(6, "a holder")?;
                let token = number(reader, token_max).at("token")?;
                lock.let_hold(token, Ask::decode(reader)?)?;
            }
        }
        for _ in 0..reader.array_upto(limits::LOCK_WAITERS_MAX)? {
            reader.array_of(if items == 6 { 4 } else { 6 }, "a waiter")?;
            let place = reader.u64()?;
            let ask = if items == 6 {
                Ask { owner: Owner::decode(reader)?, mode: Mode::Lock, since: Millis(reader.u64()?) }
            } else {
                Ask::decode(reader)?
            };
            lock.let_wait(place, ask)?;
        }
        match lock.oldest() {
            Some((_, ask)) if (ask.mode == Mode::Lock) == (items == 6) => Ok(lock),
            _ => Err(Error::Invalid("a lock that its record does not fit".into())),
        }
    }

    fn let_hold(&mut self, token: u64, ask: Ask) -> Result<()> {
        let known = self.oldest().map_or(ask.mode, |(_, held)| held.mode);
        if !known.is_of_kind(ask.mode) || !self.fits(ask.mode) {
            return Err(Error::Invalid("holders that do not fit beside each other".into()));
        }
        match self.holders.insert(LeaseToken(token), ask) {
            None => Ok(()),
            Some(_) => Err(Error::Invalid("two holders with the same token".into())),
        }
    }

    fn let_wait(&mut self, place: u64, ask: Ask) -> Result<()> {
        let last = self.waiters.last_key_value().map_or(0, |(last, _)| *last);
        let of_kind = self.oldest().is_some_and(|(_, held)| held.mode.is_of_kind(ask.mode));
        let first_fits = self.waiters.is_empty() && self.fits(ask.mode);
        if place <= last || !of_kind || first_fits {
            return Err(Error::Invalid("a line that is not in its order".into()));
        }
        self.waiters.insert(place, ask);
        Ok(())
    }
}

impl Ask {
    fn encode(&self, key: u64, w: &mut Writer) {
        w.array(6).u64(key).u64(self.owner.session.0).u64(self.owner.number);
        self.mode.encode(w);
        w.u64(self.since.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (owner, mode) = (Owner::decode(reader)?, Mode::decode(reader)?);
        Ok(Self { owner, mode, since: Millis(reader.u64()?) })
    }
}

impl Owner {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { session: SessionId(reader.u64()?), number: reader.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that may wait for locks may wait for one.
    #[test]
    fn a_lock_of_an_image_has_as_many_waiters_as_there_may_be() {
        for mode in [Mode::Lock, Mode::Write] {
            let ask = |number| Ask { owner: Owner { session: SessionId(1), number }, mode, since: Millis(1) };
            let places = 1..=limits::LOCK_WAITERS_MAX as u64;
            let waiters = places.map(|place| (place, ask(place))).collect();
            let lock = Lock { holders: BTreeMap::from([(LeaseToken(1), ask(0))]), waiters };
            let mut writer = Writer::new();
            lock.encode("gate", &mut writer);
            let mut reader = Reader::new(writer.as_bytes());
            let items = reader.array().unwrap();
            assert_eq!(reader.str(), Ok("gate"));
            assert_eq!(Lock::decode(items, 1, &mut reader), Ok(lock));
        }
    }
}
