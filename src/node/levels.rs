//! The feature level, raised where nobody can be older than this version: by a node that is alone, or begins a group. And what
//! is refused until somebody raises it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{own_request, Shared};
use crate::base::codec::Writer;
use crate::base::{Error, Millis};
use crate::machine::{self, LEVEL};

/// The command that raises it, see `machine::command`.
const SET_LEVEL: u64 = 19;
/// One turn, unless the disk is full.
const WAIT: Duration = Duration::from_secs(1);
/// How old a state may be that decides which commands all members know.
const AGE_MAX: Millis = Millis(5_000);

impl Shared {
    /// In force when this returns, unless the disk has no room; then what needs the level is refused until the next start.
    pub(super) fn raise_level(self: &Arc<Self>) {
        if self.machine.read().level() >= LEVEL {
            return;
        }
        let mut command = Writer::new();
        command.array(2).u64(SET_LEVEL).u64(LEVEL);
        if let Err(error) = self.submit(&own_request(&command), Some(Instant::now() + WAIT), &mut || Ok(())) {
            log::warn!("the feature level stays below {LEVEL}: {error}");
        }
    }

    /// The error to tell in place of this one. The leader refuses what is above the level in words that invite to ask again,
    /// and would do so each time. Only a state that a majority has confirmed lately may say so: one that is behind may not
    /// know of a level that was raised.
    pub(super) fn for_good(&self, request: &[u8], error: Error) -> Error {
        let refused = self.post.is_some() && matches!(error, Error::NotCommitted(_));
        if !refused || self.staleness().is_none_or(|age| age > AGE_MAX) {
            return error;
        }
        let admitted = machine::check(request).and_then(|needed| self.machine.read().admit(needed));
        admitted.err().unwrap_or(error)
    }
}
