//! The feature level, raised where nobody can be older than this version: by a node that is alone, or begins a group; or by an
//! operator, when the leader has heard of every member that it knows the level. And what is refused until somebody raises it.
//!
//! Which release a member runs is no part of the state: it is what the member says when it connects (see `hello`), and it is
//! known for as long as the connection is up. Each member is connected to each other, so each can tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hello::Runs;
use super::{own_request, Shared};
use crate::base::codec::Writer;
use crate::base::{Error, Millis, NodeId, Result};
use crate::machine;

/// The command that raises it, see `machine::command`.
const SET_LEVEL: u64 = 19;
/// One turn, unless the disk is full.
const WAIT: Duration = Duration::from_secs(1);
/// How old a state may be that decides which commands all members know.
const AGE_MAX: Millis = Millis(5_000);

impl Shared {
    /// In force when this returns, unless the disk has no room; then what needs the level is refused until the next start.
    pub(super) fn raise_level(self: &Arc<Self>) {
        let known = machine::known();
        if self.machine.read().level() >= known {
            return;
        }
        if let Err(error) = self.submit(&own_request(&set_level(known)), Some(Instant::now() + WAIT), &mut || Ok(())) {
            log::warn!("the feature level stays below {known}: {error}");
        }
    }

    /// Lets the cluster use everything that its members know. Answers the level.
    ///
    /// # Errors
    /// `NotCommitted`: this node does not lead, or some member may not know the level and would stop at it for good.
    pub(super) fn finalize(self: &Arc<Self>) -> Result<u64> {
        self.check_running()?;
        if self.leads.lock().is_none() {
            let leader = self.leader_address();
            let hint = leader.map(|leader| format!(": raftwork cluster finalize --storage raftwork://{leader}"));
            let hint = hint.unwrap_or_default();
            return Err(Error::NotCommitted(format!("this node does not lead; ask the leader{hint}")));
        }
        let all = self.all_run();
        // A member that is newer than the leader shows that the upgrade is not over.
        let wanted = all.iter().filter_map(|(_, runs)| runs.as_ref()).map(|runs| runs.level).max();
        let wanted = wanted.unwrap_or_default().max(machine::known());
        let level = self.machine.read().level();
        if level >= wanted {
            return Ok(level);
        }
        let lacking: Vec<_> =
            all.iter().filter(|(_, runs)| runs.as_ref().is_none_or(|runs| runs.level < wanted)).collect();
        if !lacking.is_empty() {
            return Err(Error::NotCommitted(self.why_not(wanted, &lacking)));
        }
        self.command(&set_level(wanted)).map(|_| wanted)
    }

    /// Each member, and what it runs if that is known.
    fn all_run(&self) -> Vec<(NodeId, Option<Runs>)> {
        let members = self.figures.lock().members.clone();
        let mut all: Vec<_> =
            members.voters.iter().chain(&members.learners).chain(&members.outgoing).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|node| (node, self.runs(node))).collect()
    }

    /// What a member runs, while it is connected to this one.
    pub(super) fn runs(&self, node: NodeId) -> Option<Runs> {
        match &self.post {
            Some(post) => post.runs(node),
            None => Some(Runs::own()).filter(|_| node == self.identity.node),
        }
    }

    /// Why the level is not raised, naming each member that is in the way.
    fn why_not(&self, wanted: u64, lacking: &[&(NodeId, Option<Runs>)]) -> String {
        let machine = self.machine.read();
        let who = |node: NodeId| {
            let listed = machine.members().find(|member| member.node == node);
            listed.map_or_else(|| node.to_string(), |member| format!("{node} ({} at {})", member.name, member.raft))
        };
        let reasons: Vec<String> = lacking
            .iter()
            .map(|(node, runs)| match runs {
                Some(Runs { release, level }) => {
                    format!("member {} runs raftwork {release} and knows feature level {level}: upgrade it", who(*node))
                }
                None => format!(
                    "member {} is not connected to the leader, so what it runs is not known: start it with the new release, \
                     or if it is gone for good, run `raftwork cluster remove {node}`",
                    who(*node)
                ),
            })
            .collect();
        format!(
            "the feature level stays at {}, as not every member is known to know level {wanted}, and one that does not would \
             stop for good; {}; then run `raftwork cluster finalize` again",
            machine.level(),
            reasons.join("; ")
        )
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

fn set_level(level: u64) -> Writer {
    let mut command = Writer::new();
    command.array(2).u64(SET_LEVEL).u64(level);
    command
}
