//! What comes from other members: messages, ticks of the election clock, and a state to begin anew from.

use std::time::Duration;

use super::forward::PATIENCE_TICKS;
use super::open::load;
use super::room::LEADERSHIP;
use super::suspicion::{LogEnd, Suspicion};
use super::upkeep::metadata;
use super::wire::{Letter, Note};
use super::words::Word;
use super::{Position, Replica, Turn};
use crate::base::planted::{has, Bug};
use crate::base::{LogIndex, NodeId, Pace, Result, Term};
use crate::consensus::{Action, Event, Message, MessageType, SnapshotMetadata, Write};
use crate::wal::{Group, HardState, Mark};

/// How long taking over a state rests at most in all.
const RESTS_MAX: Duration = Duration::from_secs(5);

impl<T> Replica<T> {
    /// Takes in letters of peers, those of each peer in the order in which it sent them.
    pub fn receive(&mut self, letters: Vec<Letter>, turn: &mut Turn<T>) -> Result<()> {
        let mut admitted = Vec::with_capacity(letters.len());
        for letter in letters {
            if self.removed {
                return Ok(()); // It is done.
            }
            self.notice(&letter);
            match letter {
                Letter::Raft(message) => admitted.extend(self.admit(message)?),
                Letter::Note { from, note, .. } => {
                    // What a peer says after its messages must be heard after them.
                    self.event(Event::Messages(std::mem::take(&mut admitted)), turn)?;
                    self.take_note(from, note, turn)?;
                }
            }
        }
        self.event(Event::Messages(admitted), turn)?;
        self.spoil_votes(turn)
    }

    fn take_note(&mut self, from: NodeId, note: Note, turn: &mut Turn<T>) -> Result<()> {
        match note {
            Note::AskLog(end) => {
                self.core.forget_progress(from, end.0, end.1);
                let (term, mine) = (self.term(), self.log_end());
                self.tell(from, Note::Log { term, end: mine });
            }
            Note::Log { term, end } => self.hear_of_log(from, term, end),
            Note::Forward { number, entries } => self.take_forward(from, number, entries),
            Note::Placed { number, placed } => self.placed(number, placed, turn),
            Note::Refused { number: LEADERSHIP, .. } => return self.hear_full(from, turn),
            Note::Refused { number, why } => self.refused(number, &why, turn),
            Note::Beat { number, sessions } => self.take_beat(from, number, sessions),
            Note::Beaten { number, expired } => self.hear_of_beat(number, &expired, turn),
            Note::Word(word) => return self.hear_word(from, word, turn),
        }
        Ok(())
    }

    /// One tick of the election clock passed.
    pub fn tick(&mut self, turn: &mut Turn<T>) -> Result<()> {
        self.check_alive()?;
        if self.removed {
            return Ok(());
        }
        self.watch();
        self.leaderless = if self.leader().is_some() { 0 } else { self.leaderless + 1 };
        if self.leaderless == PATIENCE_TICKS {
            self.abandon("no leader is known for a while", turn);
        }
        self.mind_forwards(true, turn);
        self.mind_reads(turn);
        let outcome = self.ask_digests();
        self.or_fail(outcome, turn)?;
        if self.doubt.is_open() {
            self.forget_silent_leader();
            return self.settle_or_fail(turn); // It must not lead either.
        }
        let end = self.log_end();
        // One that votes alone has nobody to ask.
        let alone = self.others().is_empty() && !self.is_joining();
        self.suspicion = self.suspicion.take().filter(|suspicion| !alone && !suspicion.is_over(end));
        let Some(suspicion) = &mut self.suspicion else {
            self.event(Event::Tick, turn)?;
            self.give_withheld(turn)?;
            self.end_replacement(turn)?;
            self.tell_digest(turn)?;
            return self.mind_room(turn);
        };
        // It must not lead, so its election clock stands.
        if suspicion.asks() {
            self.ask_about_logs(end);
        }
        self.forget_silent_leader();
        self.event(Event::Messages(Vec::new()), turn)
    }

    /// Asks all other voters how far their logs reach, and whether those that say nothing are voters still.
    fn ask_about_logs(&mut self, end: LogEnd) {
        let (others, at) = (self.others(), self.applied.index);
        others.iter().for_each(|to| self.tell(*to, Note::AskLog(end)));
        let silent = self.suspicion.as_ref().map(|suspicion| suspicion.silent(&others)).unwrap_or_default();
        for node in silent {
            others.iter().filter(|to| **to != node).for_each(|to| self.say(*to, Word::AskVoter { at, node }));
        }
    }

    /// The process of this peer is known to be gone. If it led, another is elected soon.
    pub fn gone(&mut self, peer: NodeId, turn: &mut Turn<T>) -> Result<()> {
        if self.leader() == Some(peer) && self.suspicion.is_none() {
            return self.event(Event::LeaderGone, turn);
        }
        Ok(())
    }

    fn hear_word(&mut self, from: NodeId, word: Word, turn: &mut Turn<T>) -> Result<()> {
        match word {
            Word::AskMember { at } => self.answer_member(from, at),
            Word::NotMember { at } => self.hear_not_member(at, turn),
            Word::AskVoter { at, node } => self.answer_voter(from, at, node),
            Word::NoVoter { at, node } => self.hear_no_voter(at, node),
            Word::Digest { index, mark, asks } => {
                let outcome = self.hear_digest(from, index, mark, asks);
                self.or_fail(outcome, turn)?;
            }
        }
        Ok(())
    }

    fn answer_voter(&mut self, asking: NodeId, at: LogIndex, node: NodeId) {
        let votes = [&self.members.voters, &self.members.voters_outgoing].into_iter().any(|ids| ids.contains(&node.0));
        if self.applied.index > at && !self.is_joining() && !votes {
            self.say(asking, Word::NoVoter { at: self.applied.index, node });
        }
    }

    fn hear_no_voter(&mut self, at: LogIndex, node: NodeId) {
        let others = self.others();
        if let Some(suspicion) = self.suspicion.as_mut().filter(|_| at > self.applied.index) {
            suspicion.hear_of_removal(node, &others);
        }
    }

    fn hear_of_log(&mut self, from: NodeId, term: Term, end: LogEnd) {
        let others = self.others();
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.hear(from, term, end, &others);
        }
    }

    /// Whether its log may have lost its end, so that it neither votes nor leads.
    pub fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// And up to where it may have acknowledged entries.
    pub fn suspects(&self) -> Option<LogIndex> {
        self.suspicion.as_ref().map(Suspicion::upto)
    }

    /// While it is suspect, it has voted in every term that it knows.
    fn spoil_votes(&mut self, turn: &mut Turn<T>) -> Result<()> {
        match &self.suspicion {
            Some(suspicion) => self.event(Event::SpoilVote(suspicion.spoiled_upto()), turn),
            None => Ok(()),
        }
    }

    pub(super) fn others(&self) -> Vec<NodeId> {
        let voters = self.members.voters.iter().chain(&self.members.voters_outgoing).map(|voter| NodeId(*voter));
        voters.filter(|voter| *voter != self.identity.node).collect()
    }

    /// Where the log on our disk ends.
    fn log_end(&self) -> LogEnd {
        let last = self.core.log().last();
        (last.term, last.index)
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

    /// Lets the voter lead that has most of the log and was heard of lately, if there is one.
    pub fn hand_over(&mut self, turn: &mut Turn<T>) -> Result<()> {
        match self.best_successor() {
            Ok(peer) => self.transfer(peer, turn),
            Err(_) => Ok(()),
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<T>) -> Result<()> {
        self.check_alive()?;
        let mut actions = Vec::new();
        self.core.step(event, &mut actions);
        self.actions.extend(actions);
        self.settle_or_fail(turn)
    }

    /// A message as raft-rs may see it, or nothing. Kinds that a member only says to itself are refused, as raft-rs would believe
    /// them; and a snapshot is only announced to it when it is here.
    fn admit(&mut self, mut message: Message) -> Result<Option<Message>> {
        let admitted = match message.get_msg_type() {
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum => false,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let candidate = (Term(message.log_term), LogIndex(message.index));
                let knows = !self.is_joining() || has(Bug::AmnesiacVote);
                let trusts = self.suspicion.as_ref().is_none_or(|suspicion| suspicion.may_follow(candidate));
                // One without a state may be one that lost it (D5); one in doubt may elect a leader that is wrong.
                knows && trusts && self.doubt.lets_vote()
            }
            MessageType::MsgTimeoutNow => self.takes_over(NodeId(message.from))?,
            MessageType::MsgHeartbeat => {
                // A leader may know of entries that this log has lost; raft-rs panics when it hears of them.
                let (known, last) = (LogIndex(message.commit), self.last_index());
                if known > last {
                    self.suspect(NodeId(message.from), known, last);
                }
                // What a log shows again may not be what the leader heard of: only what it appends is compared with its own.
                let same = if self.suspicion.is_some() { self.core.committed() } else { last };
                message.commit = message.commit.min(same.0);
                true
            }
            MessageType::MsgAppend => is_coherent(&message),
            MessageType::MsgSnapshot => {
                let meta = message.get_snapshot().get_metadata();
                self.snapshots.is_received(meta.index, meta.term)?
            }
            _ => true,
        };
        Ok(admitted.then_some(message))
    }

    /// A leader names no entry in a heartbeat that this member did not acknowledge. So the log was longer once: somebody
    /// put an older copy of it in its place, which is whole and so was not noticed when it was opened.
    fn suspect(&mut self, leader: NodeId, known: LogIndex, last: LogIndex) {
        if self.suspicion.is_none() {
            log::error!(
                "this log ends at {last}, and leader {leader} was told that it reaches {known}: an older copy of the data \
                 directory? This member votes for nobody until it has those entries again"
            );
            self.suspicion = Some(Suspicion::new(known));
        }
    }

    /// Puts the state of another member in the place of our own.
    pub(super) fn install(&mut self, snapshot: &SnapshotMetadata, write: &Write, turn: &mut Turn<T>) -> Result<()> {
        let mark = Mark { index: snapshot.index, term: snapshot.term };
        let state = write.hard_state.as_ref().expect("a snapshot moves the commit index");
        let hard_state = HardState { term: state.term, vote: state.vote, commit: state.commit };
        self.wal.append_group(&Group {
            hard_state: Some(hard_state),
            mark: Some(mark),
            restart: true,
            ..Group::default()
        })?;
        self.hard_state = None;
        let meta = self.snapshots.install(mark.index, mark.term)?;
        // This member is behind and serves nobody, so it leaves the cores to those who do.
        let (clock, rest) = (turn.clock, turn.rest);
        let mut pace = Pace::new(clock(), RESTS_MAX);
        let restored = load(&self.snapshots, &meta, &mut || rest(pace.rest(clock())))?;
        self.members = metadata(&meta).get_conf_state().clone();
        self.stamped = self.stamped.max(restored.clock());
        self.applied = Position { index: LogIndex(mark.index), term: Term(mark.term) };
        self.upkeep.newest = LogIndex(mark.index);
        self.tickets.passed_over(self.applied.index, &mut turn.answers);
        self.abandon_change("the answer is in a state that came from another member", turn);
        turn.next_due = restored.next_due();
        turn.sessions = Some(restored.sessions().collect());
        turn.restored = true;
        *self.machine.write() = restored;
        self.wal.drop_before(self.snapshots.log_needed_from())
    }

    /// Lets the letters of an `Action::Send` leave.
    pub(super) fn send_action(&mut self, action: Action) {
        let Action::Send(messages) = action else { return };
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot && self.is_disputed() {
                self.withheld.insert(NodeId(message.to));
            } else {
                (self.outbox)(Letter::Raft(message));
            }
        }
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

/// Whether the entries follow the index that the message names, and that has a term: raft-rs believes both.
fn is_coherent(append: &Message) -> bool {
    let mut entries = (1..).zip(&append.entries);
    let follow = entries.all(|(place, entry)| entry.index.checked_sub(append.index) == Some(place));
    follow && (append.log_term > 0 || append.index == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Entry;

    #[test]
    fn d1_an_append_whose_entries_do_not_follow_its_index_is_refused() {
        let append = |index, log_term, entries: &[u64]| {
            let entries = entries.iter().map(|index| Entry { index: *index, ..Entry::default() });
            let mut message = Message { index, log_term, ..Message::default() };
            message.set_entries(entries.collect::<Vec<_>>().into());
            is_coherent(&message)
        };
        assert!(append(7, 2, &[]) && append(7, 2, &[8, 9]) && append(0, 0, &[1]));
        assert!(!append(7, 0, &[]) && !append(7, 2, &[6, 7]) && !append(7, 2, &[8, 10]) && !append(u64::MAX, 2, &[0]));
    }
}
