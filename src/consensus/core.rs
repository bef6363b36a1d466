//! `Core`: one member of a Raft group around raft-rs' `RawNode`.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, SnapshotMetadata};
use raft::{Config, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole, Storage};

use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LogIndex, NodeId, Result, Term};

use super::event::{Action, Event, Placed, Role, Write};
use super::logging::logger;

/// Ticks without a word from the leader until an election; raft-rs draws from one to two times this.
pub const ELECTION_TICKS: usize = 20;
/// After the leader is known to be gone, an election follows within so many ticks; drawn, so that two members seldom
/// begin one at the same time.
const HURRIED_TICKS: usize = 4;
/// Ticks between heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message to a peer. raft-rs' default of 0 would send one entry a message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages to one peer that are not answered yet.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;
/// Bytes of entries handed out for applying at once, so that a restart replays in steps.
const APPLY_BYTES_MAX: u64 = 2 << 20;

const _: () = assert!(MESSAGE_BYTES_MAX >= limits::GROUP_BYTES_MAX as u64);

/// What a log must do besides answering raft-rs' questions.
pub trait LogStore: Storage {
    /// Takes entries into the readable log. An index that exists already is replaced, and everything behind it goes.
    fn append(&mut self, entries: &[Entry]);

    /// Forgets everything and continues behind this snapshot.
    fn restore(&mut self, snapshot: &SnapshotMetadata);
}

/// How a member starts.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    pub id: NodeId,
    /// The index that the state machine starts from: that of the loaded snapshot.
    pub applied: LogIndex,
    /// Where election timeouts come from.
    pub seed: u64,
}

/// One member of a Raft group. The module says in which order its actions must be done.
pub struct Core<S: LogStore> {
    pub(super) raw: RawNode<S>,
    seed: u64,
    /// Messages that wait for the write of this number.
    held: VecDeque<(u64, Vec<Message>)>,
    /// Writes that are not done yet and before which nothing may leave, see `take_messages`.
    urgent: VecDeque<u64>,
    /// The newest term that was written or is on its way to the disk.
    term: u64,
    /// The write of this number installs a snapshot. Nothing more is asked for before it is done: a second snapshot must
    /// not overtake the first.
    installing: Option<u64>,
    /// In this term the next election comes after a few ticks.
    hurried_in: Option<u64>,
    /// Up to where this leader told the others that the log is committed.
    told: LogIndex,
}

impl<S: LogStore> Core<S> {
    /// Starts as a follower on a log that was checked already: raft-rs panics on a log that contradicts itself.
    pub fn new(config: CoreConfig, log: S) -> Result<Core<S>> {
        let raft_config = Config {
            id: config.id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: config.applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            // Both: without the second a stale leader lingers, without the first a returning node disturbs.
            pre_vote: true,
            check_quorum: true,
            // The lease of raft-rs is not checked against any clock, so a read by it may be stale.
            read_only_option: ReadOnlyOption::Safe,
            // It adds entries to any message that waits, also to one whose index they do not follow; the answer to that
            // makes the leader count entries that nobody has. A turn proposes once, so there is little to gain.
            batch_append: false,
            // The next entries tell it, and where there are none, `tell_commit`: else under load each group would cost two
            // messages to each member, and their answers.
            skip_bcast_commit: true,
            max_uncommitted_size: limits::INBOX_BYTES_MAX as u64,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            ..Config::default()
        };
        let raw = RawNode::new(&raft_config, log, &logger()).map_err(|error| Error::Poisoned(error.to_string()))?;
        let (term, told) = (raw.raft.term, LogIndex(0));
        let (held, urgent) = (VecDeque::new(), VecDeque::new());
        Ok(Core { raw, seed: config.seed, held, urgent, term, installing: None, hurried_in: None, told })
    }

    /// Takes one event in and adds what follows from it, in order.
    pub fn step(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Campaign => {
                // An error means that it cannot lead now (a membership change is not applied yet); the next timeout
                // tries again.
                let _ = self.raw.campaign();
            }
            Event::Tick => {
                self.raw.tick();
            }
            Event::Messages(messages) => messages.into_iter().for_each(|message| self.step_message(message)),
            Event::Persisted(number) => {
                // raft-rs asserts that its own log is persisted when a vote answer arrives, so it hears before anyone else.
                self.raw.on_persist_ready(number);
                self.installing = self.installing.filter(|installing| *installing > number);
                self.urgent.retain(|write| *write > number);
                self.release_held(number, actions);
            }
            Event::Applied(index) => self.raw.advance_apply_to(index.0),
            Event::Unreachable(peer) => self.raw.report_unreachable(peer.0),
            Event::SnapshotSent { to, arrived } => {
                let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(to.0, status);
            }
            Event::SpoilVote(term) => self.spoil_vote(term),
            Event::Transfer(peer) => self.raw.transfer_leader(peer.0),
            Event::LeaderGone => self.hasten_election(),
            Event::Read(context) => self.raw.read_index(context),
        }
        self.draw_election_timeout();
        self.collect(actions);
    }

    /// A proposal forwarded by a peer would have nobody to answer to, so those are dropped. Errors mean that the message
    /// is from a stranger or from the past; Raft tolerates loss.
    fn step_message(&mut self, message: Message) {
        let lost = match message.get_msg_type() {
            MessageType::MsgPropose => true,
            // raft-rs passes it on to the leader it knows of, under the name of the one who asked: nobody may speak for
            // another. Whoever asked asks again.
            MessageType::MsgReadIndex => self.role() != Role::Leader,
            _ => false,
        };
        if !lost {
            let _ = self.raw.step(message);
        }
    }

    /// Appends entries behind the log, all in one step. `NotCommitted`: none of them was taken.
    pub fn propose(&mut self, entries: Vec<Bytes>, actions: &mut Vec<Action>) -> Result<Placed> {
        let entries = entries.into_iter().map(|data| Entry { data, ..Entry::default() });
        self.propose_entries(entries.collect(), actions)
    }

    pub(super) fn propose_entries(&mut self, entries: Vec<Entry>, actions: &mut Vec<Action>) -> Result<Placed> {
        // A follower would forward the entries without a word, and nobody would ever answer.
        if self.role() != Role::Leader {
            return Err(Error::NotCommitted("this node does not lead".into()));
        }
        if entries.is_empty() {
            return Err(Error::Invalid("nothing to propose".into()));
        }
        let placed = Placed { first: LogIndex(self.raw.raft.raft_log.last_index() + 1), term: self.term() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(entries.into());
        self.raw.step(message).map_err(|error| Error::NotCommitted(error.to_string()))?;
        self.told = self.committed(); // Each message with entries tells it.
        self.collect(actions);
        Ok(placed)
    }

    /// Tells the other members up to where the log is committed, unless entries have told them since it moved. To be called
    /// when nothing more is to be proposed for now: nobody but them knows it yet, and they apply what they know of.
    pub fn tell_commit(&mut self, actions: &mut Vec<Action>) {
        if self.role() == Role::Leader && self.committed() > self.told {
            self.told = self.committed();
            self.raw.raft.bcast_append();
            self.collect(actions);
        }
    }

    fn spoil_vote(&mut self, term: Term) {
        let raft = &mut self.raw.raft;
        if raft.term < term.0 {
            raft.become_follower(term.0, 0);
        }
        if raft.vote == 0 {
            raft.vote = raft.id;
        }
    }

    /// The lease that a follower grants its leader is over at once, and its own patience nearly. The lease only keeps
    /// returning members from disturbing a leader; no read depends on it.
    fn hasten_election(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Follower && raft.leader_id != 0 {
            raft.election_elapsed = raft.election_elapsed.max(ELECTION_TICKS);
            self.hurried_in = Some(raft.term);
        }
    }

    /// A peer's log ends with this entry, although this leader may have heard of more, or of another one at this place: what
    /// the peer lost may have replaced entries, which its log shows again. It looks for the end of that log anew.
    pub fn forget_progress(&mut self, peer: NodeId, term: Term, end: LogIndex) {
        let agrees = self.raw.raft.raft_log.term(end.0) == Ok(term.0);
        let leads = self.role() == Role::Leader;
        let Some(progress) = self.raw.raft.mut_prs().get_mut(peer.0).filter(|_| leads) else { return };
        if agrees && progress.matched > end.0 {
            progress.matched = end.0;
            progress.become_probe();
        } else if !agrees && progress.matched > 0 {
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = end.0.max(1);
        }
    }

    pub(super) fn collect(&mut self, actions: &mut Vec<Action>) {
        while self.installing.is_none() && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            let committed = ready.take_committed_entries();
            let changes = committed.iter().any(|entry| entry.get_entry_type() != EntryType::EntryNormal);
            let mut held = self.take_messages(&mut ready, changes, actions);
            let snapshot = Some(ready.snapshot().get_metadata()).filter(|snapshot| snapshot.index > 0).cloned();
            let write = Write {
                number,
                snapshot,
                entries: ready.take_entries(),
                hard_state: ready.hs().cloned(),
                sync: ready.must_sync() || changes,
            };
            let readable = ready.take_read_states();
            actions.extend(readable.into_iter().map(|read| Action::Readable(read.request_ctx, LogIndex(read.index))));
            if let Some(snapshot) = &write.snapshot {
                self.raw.mut_store().restore(snapshot);
                self.installing = Some(number);
            }
            if !write.entries.is_empty() {
                // raft-rs forgets these entries in `advance_append_async` and asks the store for them from then on.
                self.raw.mut_store().append(&write.entries);
            }
            self.raw.advance_append_async(ready);
            if has(Bug::SendBeforePersist) {
                push_messages(actions, std::mem::take(&mut held));
            }
            // A write with nothing in it still marks the place behind which its messages wait.
            if write.sync || write.hard_state.is_some() || !held.is_empty() {
                actions.push(Action::Persist(write));
            }
            if !held.is_empty() {
                self.held.push_back((number, held));
            }
            if !committed.is_empty() {
                actions.push(Action::Apply(committed));
            }
        }
    }

    /// Lets go of what may leave at once, and gives what must wait for the write of this ready. Nothing leaves before
    /// * a new term is written, or it could be used twice: a lone voter with learners leads, and has messages for them, before
    ///   it has written its vote for itself;
    /// * it is written that a change of the members is committed: whoever is removed goes when he hears of it, and a voter
    ///   that is left alone could not find out again.
    fn take_messages(&mut self, ready: &mut Ready, changes: bool, actions: &mut Vec<Action>) -> Vec<Message> {
        let term = ready.hs().map_or(0, |state| state.term);
        if changes || term > self.term {
            self.urgent.push_back(ready.number());
            self.term = self.term.max(term);
        }
        let mut messages = ready.take_messages();
        if self.urgent.is_empty() {
            push_messages(actions, messages);
            return ready.take_persisted_messages();
        }
        messages.append(&mut ready.take_persisted_messages());
        messages
    }

    fn release_held(&mut self, number: u64, actions: &mut Vec<Action>) {
        while self.held.front().is_some_and(|held| held.0 <= number) {
            if let Some((_, messages)) = self.held.pop_front() {
                push_messages(actions, messages);
            }
        }
    }

    /// Applies a committed membership change and returns the members that follow from it.
    pub fn change_members(&mut self, entry: &Entry) -> Result<ConfState> {
        let applied = match entry.get_entry_type() {
            EntryType::EntryConfChange => {
                self.raw.apply_conf_change(&parse::<ConfChange>(&entry.data, entry.get_index())?)
            }
            _ => self.raw.apply_conf_change(&parse::<ConfChangeV2>(&entry.data, entry.get_index())?),
        };
        let members =
            applied.map_err(|error| Error::Poisoned(format!("membership change at {}: {error}", entry.get_index())))?;
        self.leave_if_removed(&members);
        Ok(members)
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.raw.raft.leader_id)).filter(|leader| leader.0 != 0)
    }

    /// The other voter with most of the log, of those that this leader heard of lately.
    pub fn best_successor(&self) -> Option<NodeId> {
        let raft = &self.raw.raft;
        let voters = raft.prs().conf().voters().ids();
        let others = voters.iter().filter(|id| *id != raft.id);
        let known =
            others.filter_map(|id| Some((raft.prs().get(id).filter(|progress| progress.recent_active)?.matched, id)));
        known.max().map(|(_, id)| NodeId(id))
    }

    /// Whether these are a majority of the voters, in both halves if the configuration is joint.
    pub fn is_majority(&self, nodes: &[NodeId]) -> bool {
        self.raw.raft.prs().has_quorum(&nodes.iter().map(|node| node.0).collect())
    }

    /// This peer does not take over. False: it was not to.
    pub fn end_transfer(&mut self, peer: NodeId) -> bool {
        let asked = self.raw.raft.lead_transferee == Some(peer.0);
        if asked {
            self.raw.raft.abort_leader_transfer();
        }
        asked
    }

    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Nobody waits for an acknowledgement of entries up to here: as they are committed, it only tells this leader how far
    /// a member is.
    pub fn settled(&self) -> LogIndex {
        // A transfer waits for the member that is to lead.
        let waits = self.role() != Role::Leader || self.raw.raft.lead_transferee.is_some();
        if waits {
            LogIndex(0)
        } else {
            self.committed()
        }
    }

    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    pub fn log(&self) -> &S {
        self.raw.store()
    }

    pub fn log_mut(&mut self) -> &mut S {
        self.raw.mut_store()
    }

    /// raft-rs draws from the random numbers of the thread; this puts our own draw in its place.
    fn draw_election_timeout(&mut self) {
        if self.raw.raft.state == StateRole::Leader {
            return;
        }
        let raft = &mut self.raw.raft;
        if raft.leader_id != 0 && raft.election_elapsed < ELECTION_TICKS {
            self.hurried_in = None; // It was heard of again.
        }
        let draw = mix(self.seed ^ raft.id.rotate_left(32) ^ raft.term) as usize;
        let spread = if self.hurried_in == Some(raft.term) { HURRIED_TICKS } else { ELECTION_TICKS };
        raft.set_randomized_election_timeout(ELECTION_TICKS + draw % spread);
    }
}

fn push_messages(actions: &mut Vec<Action>, messages: Vec<Message>) {
    if !messages.is_empty() {
        actions.push(Action::Send(messages));
    }
}

fn parse<M: protobuf::Message + Default>(data: &[u8], index: u64) -> Result<M> {
    let mut change = M::default();
    change
        .merge_from_bytes(data)
        .map_err(|error| Error::Poisoned(format!("membership change at {index} cannot be read: {error}")))?;
    Ok(change)
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
