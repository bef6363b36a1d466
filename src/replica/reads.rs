//! Reads that miss nothing that was answered before they began, and signs of life that only a leader may take in.
//!
//! Both need the same: a majority confirms that the leader still leads (ReadIndex; D. Ongaro, "Consensus: Bridging
//! Theory and Practice", 2014, section 6.4). All that gathers in one turn shares one round.
//!
//! ```text
//! read   ── one question a turn ──> leader, majority ── index ──> own apply reached it ──> may read
//! beat   ── leader: the same round ─────────────────────────────> the owner looks after its sessions
//!        └─ follower: Beat ──> leader: the same ── Beaten ──> answered
//! ```
//!
//! What holds
//! * The question of each round is new: no two rounds of any two lives of a member share their bytes, so no answer to an
//!   old one can serve a new one.
//! * A read is answered at an index that was committed after it began; a deposed leader answers none.
//! * A round that is confirmed confirms those before it, which began earlier.
//! * raft-rs drops questions silently, as a new leader does until it has committed something. Of those without an answer the
//!   newest is asked again at each tick, until `PATIENCE_TICKS` passed.

use std::collections::BTreeMap;

use super::forward::PATIENCE_TICKS;
use super::wire::Note;
use super::{doubtful, Replica, Turn};
use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, NodeId, SessionId};
use crate::consensus::{Event, Role};

/// Who is to hear of signs of life.
#[derive(Debug)]
pub enum Whom<T> {
    Here(T),
    There { node: NodeId, number: u64 },
}

/// Signs of life that the leader may count, as it still leads. The owner looks after the sessions and answers.
#[derive(Debug)]
pub struct Beat<T> {
    pub sessions: Vec<SessionId>,
    pub whom: Whom<T>,
}

#[derive(Debug)]
enum Asker<T> {
    Read(T),
    Beat(Beat<T>),
}

#[derive(Debug)]
struct Round<T> {
    askers: Vec<Asker<T>>,
    ticks: u32,
}

/// What waits for a round of ReadIndex.
#[derive(Debug)]
pub(super) struct Reads<T> {
    /// Drawn at each start.
    life: u64,
    last: u64,
    /// For the next round.
    gathered: Vec<Asker<T>>,
    waited: u32,
    rounds: BTreeMap<u64, Round<T>>,
    /// Confirmed, but not applied so far.
    confirmed: Vec<(LogIndex, Round<T>)>,
    /// Signs of life that were sent to the leader.
    beats: BTreeMap<u64, (T, u32)>,
}

impl<T> Reads<T> {
    pub fn new(life: u64) -> Self {
        let (gathered, confirmed) = (Vec::new(), Vec::new());
        let (rounds, beats) = (BTreeMap::new(), BTreeMap::new());
        Self { life, last: 0, gathered, waited: 0, rounds, confirmed, beats }
    }

    fn context(&self, node: NodeId, number: u64) -> Vec<u8> {
        let number = if has(Bug::ReadIdReused) { 0 } else { number };
        [node.0, self.life, number].iter().flat_map(|part| part.to_le_bytes()).collect()
    }

    /// Everybody who waits.
    pub fn abandon(&mut self, error: &Error, turn: &mut Turn<T>) {
        let rounds = std::mem::take(&mut self.rounds).into_values().flat_map(|round| round.askers);
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().flat_map(|(_, round)| round.askers);
        let askers: Vec<_> = std::mem::take(&mut self.gathered).into_iter().chain(rounds).chain(confirmed).collect();
        give_up(askers, error, turn);
        let beats = std::mem::take(&mut self.beats).into_values();
        turn.answers.extend(beats.map(|(ticket, _)| (ticket, Err(error.clone()))));
    }
}

fn give_up<T>(askers: Vec<Asker<T>>, error: &Error, turn: &mut Turn<T>) {
    for asker in askers {
        match asker {
            Asker::Read(ticket) | Asker::Beat(Beat { whom: Whom::Here(ticket), .. }) => {
                turn.answers.push((ticket, Err(error.clone())));
            }
            // The peer loses patience by itself.
            Asker::Beat(_) => {}
        }
    }
}

impl<T> Replica<T> {
    /// Wants to read: the ticket is answered, with no bytes, as soon as the state of this member has everything that was
    /// answered anywhere before this call. Takes effect with the next turn.
    pub fn read(&mut self, ticket: T) {
        self.reads.gathered.push(Asker::Read(ticket));
    }

    /// These sessions live. With the leader's answer come the ids of those that it does not know, 8 bytes each. On the
    /// leader the next turns give a `Beat`, which the owner answers. Takes effect with the next turn.
    pub fn beat(&mut self, sessions: Vec<SessionId>, ticket: T, turn: &mut Turn<T>) {
        if self.role() == Role::Leader {
            return self.reads.gathered.push(Asker::Beat(Beat { sessions, whom: Whom::Here(ticket) }));
        }
        let Some(leader) = self.core.leader() else {
            return turn.answers.push((ticket, Err(Error::NotCommitted("no leader is known".into()))));
        };
        self.reads.last += 1;
        let number = self.reads.life.wrapping_add(self.reads.last);
        self.reads.beats.insert(number, (ticket, 0));
        self.tell(leader, Note::Beat { number, sessions });
    }

    /// Answers a `Beat` that came from a peer.
    pub fn beaten(&mut self, node: NodeId, number: u64, expired: Vec<SessionId>) {
        self.tell(node, Note::Beaten { number, expired });
    }

    pub(super) fn take_beat(&mut self, from: NodeId, number: u64, sessions: Vec<SessionId>) {
        if self.role() == Role::Leader {
            let whom = Whom::There { node: from, number };
            self.reads.gathered.push(Asker::Beat(Beat { sessions, whom }));
        }
    }

    pub(super) fn hear_of_beat(&mut self, number: u64, expired: &[SessionId], turn: &mut Turn<T>) {
        if let Some((ticket, _)) = self.reads.beats.remove(&number) {
            let expired = expired.iter().flat_map(|session| session.0.to_le_bytes()).collect();
            turn.answers.push((ticket, Ok(expired)));
        }
    }

    /// Asks for all that gathered, in one round.
    pub(super) fn ask(&mut self) {
        if self.reads.gathered.is_empty() || self.core.leader().is_none() || self.doubts().is_some() {
            return;
        }
        self.reads.last += 1;
        let number = self.reads.last;
        let round = Round { askers: std::mem::take(&mut self.reads.gathered), ticks: 0 };
        self.reads.waited = 0;
        if has(Bug::ReadUnconfirmed) {
            return self.reads.confirmed.push((self.applied.index, round));
        }
        self.reads.rounds.insert(number, round);
        self.put_question(number);
    }

    fn put_question(&mut self, number: u64) {
        let context = self.reads.context(self.identity.node, number);
        let mut actions = Vec::new();
        self.core.step(Event::Read(context), &mut actions);
        self.actions.extend(actions);
    }

    /// A round is confirmed: its askers may go on once this index is applied.
    pub(super) fn readable(&mut self, context: &[u8], index: LogIndex, turn: &mut Turn<T>) {
        let Some(number) = context.last_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
        if context != self.reads.context(self.identity.node, number) {
            return;
        }
        let number = if has(Bug::ReadIdReused) { self.reads.last } else { number };
        let later = self.reads.rounds.split_off(&(number + 1));
        let rounds = std::mem::replace(&mut self.reads.rounds, later);
        if !rounds.is_empty() {
            self.reads.confirmed.extend(rounds.into_values().map(|round| (index, round)));
            self.answer_reads(turn);
        }
    }

    /// Answers those whose index is applied. Signs of life are of use to a leader only: another may have been elected
    /// since they came.
    pub(super) fn answer_reads(&mut self, turn: &mut Turn<T>) {
        let (applied, leads) = (self.applied.index, self.role() == Role::Leader);
        let confirmed: Vec<_> = self.reads.confirmed.extract_if(.., |(index, _)| *index <= applied).collect();
        for asker in confirmed.into_iter().flat_map(|(_, round)| round.askers) {
            match asker {
                Asker::Read(ticket) => turn.answers.push((ticket, Ok(Vec::new()))),
                Asker::Beat(beat) if leads => turn.beats.push(beat),
                late => give_up(vec![late], &Error::NotCommitted("this node no longer leads".into()), turn),
            }
        }
    }

    /// A tick passed: asks again what may have been dropped, and gives up what waited for too long.
    pub(super) fn mind_reads(&mut self, turn: &mut Turn<T>) {
        let unconfirmed = || "no leader confirmed in time that it still leads".into();
        let why = Error::TimedOut(self.doubts().map_or_else(unconfirmed, doubtful));
        let late = |ticks: u32| ticks > PATIENCE_TICKS;
        self.reads.rounds.values_mut().for_each(|round| round.ticks += 1);
        let lost: Vec<_> = self.reads.rounds.extract_if(.., |_, round| late(round.ticks)).collect();
        lost.into_iter().for_each(|(_, round)| give_up(round.askers, &why, turn));
        self.reads.confirmed.iter_mut().for_each(|(_, round)| round.ticks += 1);
        let lost: Vec<_> = self.reads.confirmed.extract_if(.., |(_, round)| late(round.ticks)).collect();
        let behind =
            Error::TimedOut(format!("this node is behind: it has applied the log up to {}", self.applied.index));
        lost.into_iter().for_each(|(_, round)| give_up(round.askers, &behind, turn));
        self.reads.beats.values_mut().for_each(|(_, ticks)| *ticks += 1);
        let lost = self.reads.beats.extract_if(.., |_, (_, ticks)| late(*ticks));
        turn.answers.extend(lost.map(|(_, (ticket, _))| (ticket, Err(why.clone()))));
        self.reads.waited = if self.reads.gathered.is_empty() { 0 } else { self.reads.waited + 1 };
        if late(self.reads.waited) {
            give_up(std::mem::take(&mut self.reads.gathered), &why, turn);
        }
        if let Some(&newest) = self.reads.rounds.keys().next_back() {
            self.put_question(newest);
        }
        self.ask();
    }
}
