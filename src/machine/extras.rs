//! What few jobs have, in a map behind their other items: `{1: PARENTS, 2: batch, 3: LIMITS}`, see `flows` and `limit`. Its
//! numbers rise.

use super::decode::{Place as _, Result};
use super::flows::Joining;
use super::limit::{Limit, Limits};
use crate::base::codec::Reader;
use crate::base::Error;

/// The number of limits.
pub(super) const LIMITS: u64 = 3;

#[derive(Default)]
pub(super) struct Extras {
    pub joining: Option<Box<Joining>>,
    pub limits: Option<Limits>,
}

impl Extras {
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut extras, mut last) = (Extras::default(), 0);
        let items = reader.map().at("extras")?;
        let mut empty = items == 0;
        for _ in 0..items {
            let number = reader.u64().at("extras")?;
            if number <= last {
                return Err(Error::Invalid("extras: their numbers do not rise".into()));
            }
            last = number;
            match number {
                1 | 2 => extras.joining.get_or_insert_default().decode_item(number, reader)?,
                LIMITS => {
                    extras.limits = Limit::decode_all(reader)?;
                    empty |= extras.limits.is_none();
                }
                other => return Err(Error::Invalid(format!("extras: {other} is not known"))),
            }
        }
        if empty {
            // They would need no feature level, and members that know no extras refuse the job.
            return Err(Error::Invalid("extras: empty".into()));
        }
        Ok(extras)
    }

    /// Of a schedule, whose jobs can have limits only.
    pub fn limits(reader: &mut Reader<'_>) -> Result<Option<Limits>> {
        match Self::decode(reader)? {
            Extras { joining: None, limits } => Ok(limits),
            _ => Err(Error::Invalid("extras: a job of a schedule waits for no other".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing of them needs a feature level, and a member that does not know them refuses what this one would store.
    #[test]
    fn u3_extras_without_anything_are_refused() {
        for bytes in [&[0x80][..], &[0x81, 3, 0x90], &[0x82, 1, 0x90, 3, 0x90]] {
            assert!(Extras::decode(&mut Reader::new(bytes)).is_err(), "{bytes:02x?}");
            assert!(Extras::limits(&mut Reader::new(bytes)).is_err(), "{bytes:02x?}");
        }
        let no_parents = Extras::decode(&mut Reader::new(&[0x81, 1, 0x90]));
        assert!(no_parents.is_ok_and(|extras| extras.joining.is_some()), "which needs the level of flows");
    }
}
