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
        for _ in 0..reader.map().at("extras")? {
            let number = reader.u64().at("extras")?;
            if number <= last {
                return Err(Error::Invalid("extras: their numbers do not rise".into()));
            }
            last = number;
            match number {
                1 | 2 => extras.joining.get_or_insert_default().decode_item(number, reader)?,
                LIMITS => extras.limits = Limit::decode_all(reader)?,
                other => return Err(Error::Invalid(format!("extras: {other} is not known"))),
            }
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
