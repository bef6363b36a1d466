//! What a job carries of its limits: how many jobs of one key may run at once, or start in a time, or that keys take turns.
//!
//! ```text
//! LIMITS  [LIMIT...], at most JOB_LIMITS_MAX, no two of one kind and key
//! LIMIT   [0, key, n]                    at most n run at once
//!         [1, key, n, window, burst]     n start in a window on average, and up to burst at once after a quiet time
//!         [2, key, n, window]            at most n start in any window: it slides
//!         [3, key, n, window]            at most n start in each window; one begins at every multiple of its length
//!         [4, key]                       jobs of other keys take turns with those of this one; one of them at most
//! ```
//!
//! Jobs of one kind and key share one limiter, see `limiters`. Its numbers are those of the newest job that was enqueued. A
//! job takes turns by one key only: with two it would have two places in the order of those that wait.

use std::sync::Arc;

use super::decode::{list, name, number, Place as _, Result};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, Millis};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// How many run at once.
    Concurrency = 0,
    /// How many start: a bucket of tokens that fills evenly.
    Bucket = 1,
    Sliding = 2,
    Fixed = 3,
    /// Whose turn it is; holds back nobody.
    Fair = 4,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Concurrency, Kind::Bucket, Kind::Sliding, Kind::Fixed, Kind::Fair];

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let code = reader.u64()?;
        let kind = usize::try_from(code).ok().and_then(|code| Kind::ALL.get(code).copied());
        kind.ok_or_else(|| Error::Invalid(format!("{code}, at most {}", Kind::ALL.len() - 1)))
    }

    /// Items of a limit of this kind.
    fn items(self) -> usize {
        match self {
            Kind::Concurrency => 3,
            Kind::Bucket => 5,
            Kind::Sliding | Kind::Fixed => 4,
            Kind::Fair => 2,
        }
    }

    /// Whether it counts starts in a time.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Kind::Bucket | Kind::Sliding | Kind::Fixed)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub kind: Kind,
    pub key: Arc<str>,
    /// Jobs at once, or starts in a window. Zero for a key that takes turns.
    pub n: u64,
    /// Zero but for rates.
    pub window: Millis,
    /// Zero but for a bucket.
    pub burst: u64,
}

/// The limits of one job. A thin pointer, as most jobs have none.
pub type Limits = Arc<Vec<Limit>>;

impl Limit {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let items = reader.array()?;
        let kind = Kind::decode(reader).at("kind")?;
        if items != kind.items() {
            return Err(Error::Invalid(format!(
                "a limit of kind {} has {} items, not {items}",
                kind as u8,
                kind.items()
            )));
        }
        let key = name(reader).at("key")?.into();
        if kind == Kind::Fair {
            return Ok(Limit { kind, key, n: 0, window: Millis(0), burst: 0 });
        }
        let most = if kind == Kind::Sliding { limits::LIMIT_SLIDING_MAX } else { limits::LIMIT_MAX };
        let n = positive(reader, most).at("n")?;
        let window = match kind.is_rate() {
            true => positive(reader, limits::LIMIT_WINDOW_MS_MAX).at("window_ms")?,
            false => 0,
        };
        let burst = if kind == Kind::Bucket { positive(reader, limits::LIMIT_MAX).at("burst")? } else { 0 };
        Ok(Limit { kind, key, n, window: Millis(window), burst })
    }

    /// All limits of a job; `None` if there are none.
    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Option<Limits>> {
        let all = list(reader, "limits", limits::JOB_LIMITS_MAX, Limit::decode)?;
        let twice = |(position, limit): (usize, &Limit)| all[..position].iter().any(|other| other.same(limit));
        if let Some(position) = all.iter().enumerate().position(twice) {
            return Err(Error::Invalid(format!("limits[{position}]: the limit of its key is there already")));
        }
        let mut fair = (0..).zip(&all).filter(|(_, limit)| limit.kind == Kind::Fair);
        if let Some((position, _)) = fair.nth(1) {
            return Err(Error::Invalid(format!("limits[{position}]: the job takes turns by another key already")));
        }
        Ok((!all.is_empty()).then(|| Arc::new(all)))
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(self.kind.items()).u64(self.kind as u64).str(&self.key);
        if self.kind != Kind::Fair {
            writer.u64(self.n);
        }
        if self.kind.is_rate() {
            writer.u64(self.window.0);
        }
        if self.kind == Kind::Bucket {
            writer.u64(self.burst);
        }
    }

    pub(super) fn encode_all(all: &[Limit], writer: &mut Writer) {
        writer.array(all.len());
        all.iter().for_each(|limit| limit.encode(writer));
    }

    /// Whether a job with these limits takes turns.
    pub(super) fn take_turns(all: &[Limit]) -> bool {
        all.iter().any(|limit| limit.kind == Kind::Fair)
    }

    /// Whether both mean one limiter.
    fn same(&self, other: &Limit) -> bool {
        self.kind == other.kind && self.key == other.key
    }

    /// Estimate of the bytes that it takes in a job, its place in the line of its key included.
    pub fn weight(&self) -> usize {
        2 * std::mem::size_of::<Limit>() + self.key.len() + WEIGHT_PLACE
    }
}

/// Where a job stands, in two ordered maps.
const WEIGHT_PLACE: usize = 64;

/// How many jobs of a queue may run at once.
pub(super) fn of_queue(reader: &mut Reader<'_>) -> Result<u64> {
    positive(reader, limits::LIMIT_MAX)
}

fn positive(reader: &mut Reader<'_>, max: u64) -> Result<u64> {
    match number(reader, max)? {
        0 => Err(Error::Invalid("0, at least 1".into())),
        value => Ok(value),
    }
}
