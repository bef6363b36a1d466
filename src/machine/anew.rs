//! The state as the beginning of another cluster: out of a backup, or of the one member that is left.

use super::{Effects, Machine};
use crate::base::{Error, LogIndex, Result, SessionId};
use crate::machine::digests::Digests;
use crate::machine::load::COUNTER_MAX;

/// The new log begins at the next multiple of this: the old cluster can have written that many entries since, for three
/// years at 10,000 a second, and no index or session of it comes again.
const EPOCH_ENTRIES: u64 = 1 << 40;
/// The same for fencing tokens, of which one entry can give many.
const EPOCH_TOKENS: u64 = 1 << 46;

impl Machine {
    /// Makes this the state of a new cluster, and gives the index that its log begins behind. Indexes, sessions and fencing
    /// tokens jump beyond all that the cluster before can have given since (K2). Its sessions end, and their jobs wait
    /// again: whoever runs one may be cut off, and knows nothing of this. Its members are none here.
    ///
    /// # Errors
    /// `Invalid`: after a thousand such beginnings, one from the other, there is no greater token.
    pub fn begin_anew(&mut self) -> Result<LogIndex> {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            // As after a graceful end: that a cluster is gone is not the job's fault, and must not use up its crashes.
            let ended = self.end_session(session, true);
            debug_assert!(ended.is_ok(), "an open session can be ended");
        }
        let next = |last: u64, epoch: u64| (last / epoch + 1) * epoch;
        let (index, token) = (next(self.applied.0, EPOCH_ENTRIES), next(self.token, EPOCH_TOKENS));
        if index > COUNTER_MAX || token > COUNTER_MAX {
            return Err(Error::Invalid(
                "this state was the beginning of too many clusters: no greater token is left".into(),
            ));
        }
        self.effects = Effects::default();
        self.fresh.clear();
        self.members.clear();
        (self.applied, self.token) = (LogIndex(index), token);
        self.digests = Digests::unknown();
        Ok(self.applied)
    }
}
