//! Who is a member: changes, how far the others are, handing over, and being removed.
//!
//! What holds
//! * One change is under way at a time, and each is answered once: when it is in force (for a replacement: when the old
//!   voter is gone), or with why it is not.
//! * A change that leaves no majority of voters that were heard lately is refused unless it is forced.
//! * A member that knows of its removal neither leads nor votes nor answers for the group: it is done.
//! * A new id never was a member before: a node whose disk was lost comes back as another one (D5).

use std::collections::{BTreeMap, BTreeSet};

use super::wire::Note;
use super::words::Word;
use super::{Letter, Position, Replica, Turn};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LogIndex, NodeId, Result};
use crate::consensus::{
    ConfState, Entry, EntryType, MemberChange, MessageType, Peer, PeerState, Placed, Role, ELECTION_TICKS,
};
use crate::machine::outcome;

/// A member that was not heard for so many ticks is not counted as alive.
const ACTIVE_TICKS: u64 = ELECTION_TICKS as u64;
/// A member that hears no leader for so many ticks asks the others whether it still is one.
const LONELY_TICKS: u64 = 3 * ELECTION_TICKS as u64;
/// Bytes in the log that one change takes, at most.
const CHANGE_BYTES: usize = 1 << 10;

/// Who is a member, and how far each is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The voters before a replacement that is under way; empty otherwise.
    pub outgoing: Vec<NodeId>,
    /// The others, as this member sees them if it leads; else empty.
    pub peers: Vec<PeerProgress>,
}

/// How far a member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    pub node: NodeId,
    /// Its log is that of the leader up to here, and on its disk.
    pub matched: LogIndex,
    /// It was heard within the last election time-out.
    pub recently_active: bool,
    /// Ticks of the election clock since it was heard; nothing: never in this life.
    pub silent_ticks: Option<u64>,
    pub state: PeerState,
}

/// A change that was proposed here.
#[derive(Debug)]
pub(super) struct Changing<T> {
    at: Position,
    ticket: Option<T>,
    /// It is in force, but the configuration is still joint.
    joint: bool,
}

/// When whom was heard, in ticks of the election clock.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub ticks: u64,
    heard: BTreeMap<NodeId, u64>,
    /// The last word of a leader, or when this member led.
    led: u64,
}

impl Watch {
    fn is_active(&self, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|heard| self.ticks - heard <= ACTIVE_TICKS)
    }
}

impl<T> Replica<T> {
    /// Who is a member as of the last entry applied; on the leader also how far each is.
    pub fn members(&self) -> Members {
        let nodes = |ids: &[u64]| {
            let mut nodes: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
            nodes.sort_unstable();
            nodes
        };
        let progress = |Peer { node, matched, state }| {
            let recently_active = self.watch.is_active(node);
            let silent_ticks = self.watch.heard.get(&node).map(|heard| self.watch.ticks - heard);
            PeerProgress { node, matched, recently_active, silent_ticks, state }
        };
        Members {
            voters: nodes(&self.members.voters),
            learners: nodes(&[&self.members.learners[..], &self.members.learners_next].concat()),
            outgoing: nodes(&self.members.voters_outgoing),
            peers: self.core.peers().into_iter().map(progress).collect(),
        }
    }

    /// Whether this node has not got its state yet: it was told of no member.
    pub fn is_joining(&self) -> bool {
        self.members.voters.is_empty()
    }

    /// Whether this node was a member and is none any more. Close it.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Proposes a change; the ticket is answered, in this turn or a later one, as a request is. `forced`: also if the
    /// voters that were heard lately are no majority afterwards, or a new voter has not caught up.
    ///
    /// # Errors
    /// The end of this replica, as in `turn`. A refusal is an answer: `Invalid` if the change makes no sense,
    /// `NotCommitted` if it cannot be made here and now.
    pub fn change_members(&mut self, change: MemberChange, forced: bool, ticket: T, turn: &mut Turn<T>) -> Result<()> {
        self.check_alive()?;
        match self.judge(change, forced).and_then(|()| self.hand_over_first(change, turn)) {
            Ok(()) => self.begin_change(Some(change), Some(ticket), turn),
            Err(refusal) => {
                turn.answers.push((ticket, Err(refusal)));
                self.check_alive()
            }
        }
    }

    /// Promotes the first learner that has the whole log, if this node leads and no other change is under way; in the place
    /// of a voter, if `replaces` names one. Call it now and then; gives who it is.
    pub fn promote_ready(
        &mut self,
        replaces: impl Fn(NodeId) -> Option<NodeId>,
        turn: &mut Turn<T>,
    ) -> Result<Option<NodeId>> {
        self.check_alive()?;
        let change = |new: NodeId| match replaces(new) {
            Some(old) => MemberChange::Replace { old, new },
            None => MemberChange::Promote(new),
        };
        let learners = self.members().learners;
        let ready = learners.into_iter().find(|learner| self.judge(change(*learner), false).is_ok());
        if let Some(learner) = ready {
            self.begin_change(Some(change(learner)), None, turn)?;
        }
        Ok(ready)
    }

    /// The voter to hand leadership to: of those heard lately that did not refuse, the one with the longest log.
    ///
    /// # Errors
    /// `NotCommitted` if there is none.
    pub fn best_successor(&self) -> Result<NodeId> {
        if self.role() != Role::Leader {
            return Err(Error::NotCommitted("this node does not lead".into()));
        }
        let votes = |peer: &&PeerProgress| peer.recently_active && self.members.voters.contains(&peer.node.0);
        let able = |peer: &&PeerProgress| votes(peer) && !self.has_refused(peer.node);
        let peers = self.members().peers;
        let best = peers.iter().filter(able).max_by_key(|peer| peer.matched);
        best.map(|peer| peer.node).ok_or_else(|| {
            let why =
                "no other voter was heard lately that has room on its disk; start another one, or make room there";
            Error::NotCommitted(why.into())
        })
    }

    /// Lets the best of the other voters lead. Nothing is proposed until it does, or for the time of an election.
    ///
    /// # Errors
    /// `NotCommitted` if there is nobody; the replica goes on. Any other is its end.
    pub fn transfer_to_best(&mut self, turn: &mut Turn<T>) -> Result<NodeId> {
        let best = self.best_successor()?;
        self.transfer(best, turn)?;
        Ok(best)
    }

    // -- what may be changed ---------------------------------------------------------------------------------------

    fn judge(&self, change: MemberChange, forced: bool) -> Result<()> {
        let refuse = |why: String| Err(Error::NotCommitted(why));
        if self.role() != Role::Leader {
            return refuse("this node does not lead; ask the leader".into());
        }
        if self.change.is_some() || self.is_joint() || self.core.change_is_pending() {
            return refuse("another change of the members is under way; try again when it is done".into());
        }
        let mut after = self.members.voters.clone();
        match change {
            MemberChange::AddLearner(node) => return self.judge_new(node),
            MemberChange::Promote(new) => {
                self.judge_learner(new, forced)?;
                after.push(new.0);
            }
            MemberChange::Remove(old) => {
                if !self.is_member(old) {
                    return Err(Error::Invalid(format!("node {old} is not a member")));
                }
                after.retain(|voter| *voter != old.0);
                if after.is_empty() {
                    return Err(Error::Invalid(format!(
                        "node {old} is the last voter; add another one before it goes"
                    )));
                }
            }
            MemberChange::Replace { old, new } => {
                if !after.contains(&old.0) {
                    return Err(Error::Invalid(format!("node {old} is not a voter, so nothing can take its place")));
                }
                self.judge_learner(new, forced)?;
                after.retain(|voter| *voter != old.0);
                after.push(new.0);
            }
        }
        let alive = after.iter().filter(|voter| self.is_alive(NodeId(**voter))).count();
        if !forced && after != self.members.voters && 2 * alive <= after.len() {
            return refuse(format!(
                "only {alive} of the {} voters that were left answer, so nothing could be written any more; start \
                 enough of them, or force it",
                after.len()
            ));
        }
        Ok(())
    }

    fn judge_new(&self, node: NodeId) -> Result<()> {
        if node.0 == 0 {
            return Err(Error::Invalid("node 0 is nobody".into()));
        }
        if self.is_member(node) {
            return Err(Error::Invalid(format!("node {node} is a member already")));
        }
        let count = self.members.voters.len() + self.members.learners.len();
        if count >= limits::MEMBERS_MAX {
            return Err(Error::Invalid(format!("there are {count} members, more are not allowed; remove one")));
        }
        Ok(())
    }

    fn judge_learner(&self, node: NodeId, forced: bool) -> Result<()> {
        if self.members.voters.contains(&node.0) {
            return Err(Error::Invalid(format!("node {node} is a voter already")));
        }
        if !self.members.learners.contains(&node.0) {
            return Err(Error::Invalid(format!("node {node} is not a member; add it as a learner first")));
        }
        let committed = self.core.committed();
        let peer = self.core.peers().into_iter().find(|peer| peer.node == node);
        let matched = peer.map_or(LogIndex(0), |peer| peer.matched);
        if !forced && (matched < committed || !self.watch.is_active(node)) {
            return Err(Error::NotCommitted(format!(
                "node {node} has not caught up: it has {matched} of {committed} entries{}",
                if self.watch.is_active(node) { "" } else { " and was not heard lately" }
            )));
        }
        Ok(())
    }

    /// A leader that is to go lets somebody else lead, who then removes it: so the group is never without a leader.
    fn hand_over_first(&mut self, change: MemberChange, turn: &mut Turn<T>) -> Result<()> {
        let goes = |node: NodeId| node == self.identity.node;
        if !matches!(change, MemberChange::Remove(old) | MemberChange::Replace { old, .. } if goes(old)) {
            return Ok(());
        }
        let next = self.best_successor()?;
        self.transfer(next, turn)?;
        Err(Error::NotCommitted(format!("this node leads and is to go: node {next} takes over, ask it again")))
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.identity.node || self.watch.is_active(node)
    }

    /// Whether this node counts as a member, in whatever way.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        named(&self.members).any(|member| member == node.0)
    }

    fn is_joint(&self) -> bool {
        !self.members.voters_outgoing.is_empty()
    }

    // -- the change in the log -------------------------------------------------------------------------------------

    fn begin_change(&mut self, change: Option<MemberChange>, ticket: Option<T>, turn: &mut Turn<T>) -> Result<()> {
        let mut actions = Vec::new();
        let room = if self.is_stalled() {
            Err(Error::DiskFull("the log waits for room".into()))
        } else {
            self.reserve(CHANGE_BYTES, 1)
        };
        match room.and_then(|()| self.core.propose_change(change, &mut actions)) {
            Ok(Placed { first, term }) => {
                let at = Position { index: first, term };
                // The end of a replacement keeps the ticket of its beginning.
                if change.is_some() {
                    self.change = Some(Changing { at, ticket, joint: false });
                }
            }
            Err(error @ (Error::NotCommitted(_) | Error::DiskFull(_))) => {
                turn.answers.extend(ticket.map(|ticket| (ticket, Err(error))));
            }
            Err(error) => {
                self.fail(&error.to_string(), turn);
                return Err(error);
            }
        }
        self.actions.extend(actions);
        self.settle_or_fail(turn)
    }

    /// The members change with a committed entry.
    pub(super) fn apply_change(&mut self, entry: &Entry, turn: &mut Turn<T>) -> Result<()> {
        let (was_member, before) = (self.is_member(self.identity.node), self.members.voters.clone());
        self.members = self.core.change_members(entry)?;
        if has(Bug::ChangeTwice) {
            self.members = self.core.change_members(entry)?;
        }
        let members: Vec<u64> = named(&self.members).collect();
        self.watch.heard.retain(|node, _| members.contains(&node.0));
        before.iter().filter(|id| !members.contains(id)).for_each(|id| self.doubt.removed(NodeId(*id)));
        if was_member && !self.is_member(self.identity.node) {
            self.leave(turn);
        }
        Ok(())
    }

    /// An entry was applied: was it the change that somebody waits for?
    pub(super) fn answer_change(&mut self, entry: &Entry, turn: &mut Turn<T>) {
        let joint = self.is_joint();
        let Some(change) = self.change.as_mut().filter(|change| change.at.index.0 <= entry.index) else { return };
        let at = LogIndex(entry.index);
        let changes = entry.get_entry_type() != EntryType::EntryNormal;
        let outcome = if change.joint {
            match changes && !joint {
                true => Ok(outcome::encode(at, &Ok(vec![0xc0]))),
                false => return,
            }
        } else if change.at.index != at || change.at.term.0 != entry.term {
            Err(Error::NotCommitted(format!("another leader wrote entry {}", change.at.index)))
        } else if !changes {
            Err(Error::NotCommitted("another change of the members was under way; try again".into()))
        } else if joint {
            change.joint = true;
            return;
        } else {
            Ok(outcome::encode(at, &Ok(vec![0xc0])))
        };
        let ticket = self.change.take().and_then(|change| change.ticket);
        turn.answers.extend(ticket.map(|ticket| (ticket, outcome)));
    }

    /// Nobody knows any more what becomes of a change that was proposed here.
    pub(super) fn abandon_change(&mut self, why: &str, turn: &mut Turn<T>) {
        let ticket = self.change.take().and_then(|change| change.ticket);
        turn.answers.extend(ticket.map(|ticket| (ticket, Err(Error::Unknown(why.to_owned())))));
    }

    /// A leader that finds a joint configuration ends it, whoever began it.
    pub(super) fn end_replacement(&mut self, turn: &mut Turn<T>) -> Result<()> {
        let due = self.role() == Role::Leader && self.is_joint() && !self.core.change_is_pending();
        if !due || self.is_stalled() || has(Bug::StayJoint) {
            return Ok(());
        }
        self.begin_change(None, None, turn)
    }

    // -- who is heard ----------------------------------------------------------------------------------------------

    /// Notes who is alive, and whether anybody leads.
    pub(super) fn notice(&mut self, letter: &Letter) {
        let from = letter.from();
        if self.is_member(from) {
            self.watch.heard.insert(from, self.watch.ticks);
        }
        if let Letter::Raft(message) = letter {
            let leads = [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
            if leads.contains(&message.get_msg_type()) && message.term >= self.term().0 {
                self.watch.led = self.watch.ticks;
            }
        }
    }

    /// One tick passed. A member that hears no leader asks whether it was removed meanwhile: the leader does not write to
    /// one that is gone, so it may never have heard. It asks learners too: they may be the voters by now.
    pub(super) fn watch(&mut self) {
        self.watch.ticks += 1;
        if self.role() == Role::Leader {
            self.watch.led = self.watch.ticks;
        }
        let silent = self.watch.ticks - self.watch.led;
        if silent >= LONELY_TICKS && silent.is_multiple_of(ACTIVE_TICKS) && !self.is_joining() {
            let (at, me) = (self.applied.index, self.identity.node.0);
            let others: BTreeSet<u64> = named(&self.members).filter(|id| *id != me).collect();
            others.into_iter().for_each(|to| self.say(NodeId(to), Word::AskMember { at }));
        }
    }

    /// A member whose election clock stands forgets a leader that fell silent: as long as raft-rs knows of one, it votes
    /// for nobody else.
    pub(super) fn forget_silent_leader(&mut self) {
        if self.watch.ticks - self.watch.led > ACTIVE_TICKS && self.role() != Role::Leader {
            self.core.forget_leader();
        }
    }

    pub(super) fn say(&mut self, to: NodeId, word: Word) {
        self.tell(to, Note::Word(word));
    }

    /// Somebody asks whether it is a member. Ids are not used again, so one that was a member earlier and is none now was
    /// removed.
    pub(super) fn answer_member(&mut self, asking: NodeId, at: LogIndex) {
        let knows_more = self.applied.index > at || has(Bug::BehindDenies);
        if knows_more && !self.is_joining() && !self.is_member(asking) {
            self.say(asking, Word::NotMember { at: self.applied.index });
        }
    }

    pub(super) fn hear_not_member(&mut self, at: LogIndex, turn: &mut Turn<T>) {
        let is_news = at > self.applied.index || has(Bug::BehindDenies);
        if is_news && self.is_member(self.identity.node) {
            self.leave(turn);
        }
    }

    /// This node is no member any more.
    fn leave(&mut self, turn: &mut Turn<T>) {
        if self.role() == Role::Leader && has(Bug::RemovedLeaderStays) {
            return;
        }
        log::warn!("node {} was removed from the group, as of entry {}", self.identity.node, self.applied.index);
        (self.removed, turn.removed) = (true, true);
        self.abandon("this node was removed from the group", turn);
    }
}

/// Everybody whom a configuration names.
pub(super) fn named(members: &ConfState) -> impl Iterator<Item = u64> + '_ {
    let lists = [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next];
    lists.into_iter().flatten().copied()
}
