//! A follower hands requests to the leader, and answers them itself: after its own state machine applied them, so that
//! whoever wrote on a node can read it there.
//!
//! ```text
//! follower                                   leader
//! propose ── not the leader ── Forward ────> taken, proposed with its own in the next turn
//! tickets at (index, term) <── Placed ────── where they stand; leaves before anything that could commit them
//!     or NotCommitted      <── Refused ───── they were not put into the log
//! own apply of that index with that term ──> the answer
//! ```
//!
//! What holds
//! * The letters of one member arrive in their order or not at all, so `Placed` comes before the commit. Where it comes
//!   too late, or never, the answer is `Unknown`: the same request may be asked again (L5).
//! * A number is never used again, also not after a restart: an old answer finds nobody.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::tickets::Answers;
use super::wire::{Letter, Note};
use super::{entry, Proposal, Replica, Turn};
use crate::base::{Error, LogIndex, NodeId, Result};
use crate::consensus::Placed;
use crate::machine::{self, Machine};

/// A peer whose entries are proposed: the number of its forward, and how many entries it has.
#[derive(Debug)]
pub(super) struct Share {
    from: NodeId,
    number: u64,
    count: u64,
}

/// Ticks without a word from the leader after which a forward counts as lost: longer than an election.
pub(super) const PATIENCE_TICKS: u32 = 40;

/// Requests of one peer that wait for the next proposal.
#[derive(Debug)]
struct Taken {
    from: NodeId,
    number: u64,
    entries: Vec<Bytes>,
}

#[derive(Debug)]
struct Sent<T> {
    leader: NodeId,
    tickets: Vec<T>,
    ticks: u32,
}

/// What was handed to the leader, and what peers handed to this member.
#[derive(Debug)]
pub(super) struct Forwards<T> {
    last: u64,
    sent: BTreeMap<u64, Sent<T>>,
    taken: Vec<Taken>,
}

impl<T> Forwards<T> {
    /// `first` is drawn at each start.
    pub fn new(first: u64) -> Self {
        Self { last: first, sent: BTreeMap::new(), taken: Vec::new() }
    }

    /// Nobody knows any more what becomes of those that went to another than this leader, or are unanswered for too long.
    fn give_up(&mut self, leader: Option<NodeId>, ticked: bool, answers: &mut Answers<T>) {
        if ticked {
            self.sent.values_mut().for_each(|sent| sent.ticks += 1);
        }
        let lost = |sent: &Sent<T>| leader.is_some_and(|leader| leader != sent.leader) || sent.ticks > PATIENCE_TICKS;
        for (_, sent) in self.sent.extract_if(.., |_, sent| lost(sent)) {
            let why = || Error::Unknown(format!("node {} led and did not answer", sent.leader));
            answers.extend(sent.tickets.into_iter().map(|ticket| (ticket, Err(why()))));
        }
    }

    fn take(&mut self, number: u64) -> Vec<T> {
        self.sent.remove(&number).map(|sent| sent.tickets).unwrap_or_default()
    }

    /// Everybody who waits.
    pub fn abandon(&mut self, why: &str, answers: &mut Answers<T>) {
        let tickets = std::mem::take(&mut self.sent).into_values().flat_map(|sent| sent.tickets);
        answers.extend(tickets.map(|ticket| (ticket, Err(Error::Unknown(why.to_owned())))));
    }
}

impl<T> Replica<T> {
    /// Hands requests to the leader. They were not begun if none is known.
    pub(super) fn forward(&mut self, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) {
        let Some(leader) = self.core.leader().filter(|leader| *leader != self.identity.node) else {
            return super::refuse(proposals, &Error::NotCommitted("no leader is known".into()), turn);
        };
        let mut together = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            if self.is_sound(&proposal.entry) {
                together.push(proposal);
                continue;
            }
            // The leader refuses a forward as a whole, so that what it may refuse goes by itself.
            self.send_forward(leader, std::mem::take(&mut together));
            self.send_forward(leader, vec![proposal]);
        }
        self.send_forward(leader, together);
    }

    fn send_forward(&mut self, leader: NodeId, proposals: Vec<Proposal<T>>) {
        if proposals.is_empty() {
            return;
        }
        self.forwards.last += 1;
        let number = self.forwards.last;
        let (mut entries, mut tickets) = (Vec::new(), Vec::new());
        for proposal in proposals {
            entries.push(Bytes::from(proposal.entry));
            tickets.push(proposal.ticket);
        }
        self.forwards.sent.insert(number, Sent { leader, tickets, ticks: 0 });
        self.tell(leader, Note::Forward { number, entries });
    }

    /// Whether every member knows this command, as far as this one can tell. Once the level is the highest that this version
    /// knows, nothing can be above it.
    fn is_sound(&self, bytes: &[u8]) -> bool {
        let machine = self.machine.read();
        machine.level() >= machine::known() || judge(&machine, bytes).is_ok()
    }

    pub(super) fn tell(&mut self, to: NodeId, note: Note) {
        (self.outbox)(Letter::Note { to, from: self.identity.node, note });
    }

    /// A peer hands over requests. A command that this version does not know must not reach the log.
    pub(super) fn take_forward(&mut self, from: NodeId, number: u64, entries: Vec<Bytes>) {
        let machine = self.machine.read();
        let judged = entries.iter().try_for_each(|bytes| judge(&machine, bytes));
        drop(machine);
        match judged {
            Ok(()) => self.forwards.taken.push(Taken { from, number, entries }),
            Err(error) => self.refuse_forward(from, number, Error::NotCommitted(error.to_string())),
        }
    }

    /// The same for requests of this node, which leads now: it left those to the leader that came before. Once the level is
    /// the highest that this version knows, nothing can be above it.
    pub(super) fn refuse_too_new(&self, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Vec<Proposal<T>> {
        let machine = self.machine.read();
        if machine.level() >= machine::known() {
            return proposals;
        }
        let mut sound = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match judge(&machine, &proposal.entry) {
                Ok(()) => sound.push(proposal),
                Err(error) => turn.answers.push((proposal.ticket, Err(error))),
            }
        }
        sound
    }

    /// Refuses all that peers handed over.
    pub(super) fn answer_peers(&mut self, why: &Error) {
        for taken in std::mem::take(&mut self.forwards.taken) {
            self.refuse_forward(taken.from, taken.number, why.clone());
        }
    }

    fn refuse_forward(&mut self, from: NodeId, number: u64, why: Error) {
        self.tell(from, Note::Refused { number, why });
    }

    /// The leader says where the entries of a forward stand.
    pub(super) fn placed(&mut self, number: u64, placed: Placed, turn: &mut Turn<T>) {
        let tickets = self.forwards.take(number);
        let why = if placed.first <= self.applied.index {
            Error::Unknown("the entry was applied before the leader said which it is".into())
        } else if placed.term < self.applied.term {
            Error::NotCommitted("the leader was replaced before it committed the entry".into())
        } else {
            return self.tickets.place(placed, tickets);
        };
        turn.answers.extend(tickets.into_iter().map(|ticket| (ticket, Err(why.clone()))));
    }

    pub(super) fn refused(&mut self, number: u64, why: &Error, turn: &mut Turn<T>) {
        let tickets = self.forwards.take(number);
        turn.answers.extend(tickets.into_iter().map(|ticket| (ticket, Err(why.clone()))));
    }

    /// After anything that may have changed who leads, and after each tick.
    pub(super) fn mind_forwards(&mut self, ticked: bool, turn: &mut Turn<T>) {
        self.forwards.give_up(self.core.leader(), ticked, &mut turn.answers);
    }

    /// The entries of peers, and who is to be told where they stand.
    pub(super) fn taken_entries(&mut self) -> (Vec<Vec<u8>>, Vec<Share>) {
        let mut entries = Vec::new();
        let mut peers = Vec::new();
        for taken in std::mem::take(&mut self.forwards.taken) {
            peers.push(Share { from: taken.from, number: taken.number, count: taken.entries.len() as u64 });
            entries.extend(taken.entries.iter().map(|entry| entry.to_vec()));
        }
        (entries, peers)
    }

    /// Tells peers where their entries stand, or why nowhere.
    pub(super) fn tell_peers(&mut self, peers: Vec<Share>, outcome: &Result<Placed>) {
        let mut before = 0;
        for Share { from: to, number, count } in peers {
            match outcome {
                Ok(first) => {
                    let placed = Placed { first: LogIndex(first.first.0 + before), term: first.term };
                    self.tell(to, Note::Placed { number, placed });
                }
                Err(why) => self.refuse_forward(to, number, why.clone()),
            }
            before += count;
        }
    }
}

/// Refuses what some member may not know.
fn judge(machine: &Machine, bytes: &[u8]) -> Result<()> {
    let (_, request) = entry::split(bytes)?;
    machine.admit(machine::check(request)?)
}
