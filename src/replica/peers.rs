//! What comes from other members: messages, ticks of the election clock, and a state to begin anew from.

use super::open::load;
use super::upkeep::metadata;
use super::{Position, Replica, Turn};
use crate::base::planted::{has, Bug};
use crate::base::{LogIndex, NodeId, Result, Term};
use crate::consensus::{Action, Event, Message, MessageType, SnapshotMetadata, Write};
use crate::wal::{Group, HardState, Mark};

impl<T> Replica<T> {
    /// Takes in messages of peers, those of each peer in the order in which it sent them.
    pub fn receive(&mut self, messages: Vec<Message>, turn: &mut Turn<T>) -> Result<()> {
        let mut admitted = Vec::with_capacity(messages.len());
        for message in messages {
            if self.admits(&message)? {
                admitted.push(message);
            }
        }
        self.event(Event::Messages(admitted), turn)
    }

    /// One tick of the election clock passed.
    pub fn tick(&mut self, turn: &mut Turn<T>) -> Result<()> {
        if self.is_suspect() {
            return Ok(()); // It must not lead, so it must not campaign.
        }
        self.event(Event::Tick, turn)
    }

    /// The last message to this peer did not arrive.
    pub fn unreachable(&mut self, peer: NodeId, turn: &mut Turn<T>) -> Result<()> {
        self.event(Event::Unreachable(peer), turn)
    }

    /// The snapshot that a message to this peer announced is there, or will not get there.
    pub fn snapshot_sent(&mut self, to: NodeId, arrived: bool, turn: &mut Turn<T>) -> Result<()> {
        self.event(Event::SnapshotSent { to, arrived }, turn)
    }

    /// Lets this peer lead, if it has the whole log. Nothing is proposed meanwhile.
    pub fn transfer(&mut self, peer: NodeId, turn: &mut Turn<T>) -> Result<()> {
        self.event(Event::Transfer(peer), turn)
    }

    fn event(&mut self, event: Event, turn: &mut Turn<T>) -> Result<()> {
        self.check_alive()?;
        let mut actions = Vec::new();
        self.core.step(event, &mut actions);
        self.actions.extend(actions);
        let outcome = self.settle(turn);
        if let Err(error) = &outcome {
            self.fail(&error.to_string(), turn);
        }
        outcome
    }

    /// Whether a message may reach raft-rs. Kinds that a member only says to itself are refused, as raft-rs would believe
    /// them; and a snapshot is only announced to it when it is here.
    fn admits(&self, message: &Message) -> Result<bool> {
        match message.get_msg_type() {
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum => Ok(false),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                Ok(!self.is_suspect() || message.index >= self.suspect_upto.0)
            }
            MessageType::MsgSnapshot => {
                let meta = message.get_snapshot().get_metadata();
                self.snapshots.is_received(meta.index, meta.term)
            }
            _ => Ok(true),
        }
    }

    /// The end of the log was cut where an acknowledged entry may have been: until the log reaches that far again, this
    /// member neither leads nor helps anybody to lead whose log is shorter.
    fn is_suspect(&self) -> bool {
        self.last_index() < self.suspect_upto
    }

    /// Puts the state of another member in the place of our own.
    pub(super) fn install(&mut self, snapshot: &SnapshotMetadata, write: &Write, turn: &mut Turn<T>) -> Result<()> {
        let mark = Mark { index: snapshot.index, term: snapshot.term };
        let state = write.hard_state.as_ref().expect("a snapshot moves the commit index");
        let hard_state = HardState { term: state.term, vote: state.vote, commit: state.commit };
        self.wal.append_group(&Group {
            hard_state: Some(hard_state),
            mark: Some(mark),
            restart: !has(Bug::SnapshotKeepsLog),
            ..Group::default()
        })?;
        self.hard_state = None;
        let meta = self.snapshots.install(mark.index, mark.term)?;
        let restored = load(&self.snapshots, &meta)?;
        self.members = metadata(&meta).get_conf_state().clone();
        self.stamped = self.stamped.max(restored.clock());
        self.applied = Position { index: LogIndex(mark.index), term: Term(mark.term) };
        self.upkeep.newest = LogIndex(mark.index);
        turn.next_due = restored.next_due();
        turn.sessions = Some(restored.sessions().collect());
        turn.restored = true;
        *self.machine.write() = restored;
        self.wal.drop_before(self.snapshots.log_needed_from())
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        messages.into_iter().for_each(|message| (self.outbox)(message));
    }

    /// Does what a write asks for. The write comes back if the disk has no room for it.
    pub(super) fn write(&mut self, write: Write, turn: &mut Turn<T>) -> Result<Option<Action>> {
        if let Some(snapshot) = write.snapshot.clone() {
            self.install(&snapshot, &write, turn)?;
            return Ok(None);
        }
        Ok(self.persist(write)?.map(Action::Persist))
    }
}
