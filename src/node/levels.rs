//! The feature level, raised where nobody can be older than this version: by a node that is alone, or begins a group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{own_request, Shared};
use crate::base::codec::Writer;
use crate::machine::LEVEL;

/// The command that raises it, see `machine::command`.
const SET_LEVEL: u64 = 19;
/// One turn, unless the disk is full.
const WAIT: Duration = Duration::from_secs(1);

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
}
