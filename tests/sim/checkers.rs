//! What must hold, whatever happens. Each check names the promise that it stands for.

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::codec::Reader;
use raftwork::base::{JobId, LogIndex, NodeId, Term};
use raftwork::consensus::{Message, MessageType};
use raftwork::machine::Machine;
use raftwork::replica::{Members, Replica};

use crate::flows;
use crate::limits;
use crate::locks::Book;
use crate::model::Reply;
use crate::record::{reply, Record};
use crate::schedules;
use crate::tokens;
use crate::wire::{self, Command, End};

/// The whole state is compared at every entry whose index is a multiple of this, where a turn ends at it; what was applied
/// and the figures of the state wherever the state machine makes a mark.
const DIGEST_EVERY: u64 = 512;

/// What clients were told, kept outside of the cluster.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeSet<JobId>,
    refused: BTreeSet<JobId>,
    /// Highest index that was answered.
    pub answered_index: u64,
    /// The entry that granted each lease: job and token to its index.
    leases: BTreeMap<(JobId, u64), u64>,
    /// Job and token of runs whose end was accepted.
    ended: BTreeSet<(JobId, u64)>,
    pub answers: u64,
    pub record: Record,
    pub locks: Book,
    pub tokens: tokens::Book,
    pub schedules: schedules::Book,
    pub limits: limits::Book,
    pub flows: flows::Book,
    pub reads: u64,
}

impl Ledger {
    pub fn answered(&mut self, index: u64, command: &Command, payload: &[u8]) {
        self.answers += 1;
        self.answered_index = self.answered_index.max(index);
        match command {
            Command::Enqueue { jobs, .. } => {
                // Whose unique key is held is not stored.
                let Reply::Codes(codes) = reply(command, payload) else { unreachable!("a code for each job") };
                let stored = jobs.iter().zip(codes).filter(|(_, code)| *code != 2);
                self.acknowledged.extend(stored.map(|(job, _)| job.id));
            }
            Command::Claim { .. } => {
                for job in wire::claimed(payload) {
                    let other = self.leases.insert((job.id, job.token), index);
                    assert_eq!(other, None, "J2: job {} was handed out twice with token {}", job.id, job.token);
                }
            }
            Command::Finish(results) => {
                let mut reader = Reader::new(payload);
                assert_eq!(reader.array().expect("one code for each result"), results.len());
                for (id, token, end) in results {
                    if reader.u64().expect("a code") == 0 {
                        self.end(index, *id, *token, end);
                    }
                }
            }
            Command::LimitQueue(..) => self.limits.narrow = true,
            _ => {}
        }
    }

    fn end(&mut self, index: u64, id: JobId, token: u64, end: &End) {
        assert!(self.ended.insert((id, token)), "J4: the run of job {id} with token {token} ended twice ({end:?})");
        let mut later = self.leases.range((id, token + 1)..=(id, u64::MAX));
        // The answer may come late; what counts is where the two stand in the log.
        let before = later.find(|(_, granted)| **granted < index);
        assert!(before.is_none(), "J3: job {id} took the end of token {token} at {index}, behind {before:?}");
    }

    /// A linearizable read saw the state at this index (L1).
    pub fn seen(&mut self, floor: u64, index: u64) {
        self.reads += 1;
        assert!(index >= floor, "L1: a read saw the state at {index}, although {floor} was answered before it began");
    }

    /// A refusal that is definite (D2).
    pub fn refused(&mut self, command: &Command) {
        if let Command::Enqueue { jobs, .. } = command {
            self.refused.extend(jobs.iter().map(|job| job.id));
        }
    }

    /// Compares what clients know with a state that has everything (D1, D2).
    pub fn check(&self, machine: &Machine) {
        // What left memory is compared with the model.
        let stays = |id: &&JobId| machine.evicted_upto() == 0 && !self.flows.deleted.contains(*id);
        for id in self.acknowledged.iter().filter(stays) {
            assert!(machine.job(*id).is_some(), "D1: job {id} was acknowledged and is lost");
        }
        for id in &self.refused {
            assert!(machine.job(*id).is_none(), "D2: job {id} was refused and is there");
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// What one node has written for certain, kept outside of it.
#[derive(Debug, Default)]
pub struct Memory {
    /// Where its log ended: by term first, as logs are compared.
    end: (Term, LogIndex),
    term: Term,
}

impl Memory {
    /// A turn is over, so everything that the node knows of its log is on its disk.
    pub fn note<T>(&mut self, replica: &Replica<T>) {
        if replica.is_stalled() {
            return; // A full disk: something waits to be written.
        }
        self.term = self.term.max(replica.term());
        // As long as it is suspect, it may have to be told again what it lost.
        if !replica.is_suspect() {
            let last = replica.log().last();
            self.end = (last.term, last.index);
        }
    }

    /// It started again: it has what it had, or knows that it may lack something (D1, D4, D5).
    pub fn compare<T>(&self, replica: &Replica<T>, node: usize) {
        let last = replica.log().last();
        let (end, known) = ((last.term, last.index), self.end);
        assert!(end >= known || replica.is_suspect(), "D4: the log of node {node} reached {known:?}, now {end:?}");
        let (term, known) = (replica.term(), self.term);
        assert!(term >= known || replica.is_suspect(), "D5: node {node} knew of term {known}, now of {term}");
    }
}

/// What all nodes together may never contradict.
#[derive(Debug, Default)]
pub struct History {
    leaders: BTreeMap<Term, NodeId>,
    digests: BTreeMap<LogIndex, (u64, NodeId)>,
    marks: BTreeMap<LogIndex, (u64, NodeId)>,
    terms: BTreeMap<LogIndex, Term>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    pub checks: u64,
}

impl History {
    /// One leader at most for each term, and one that votes.
    pub fn leads(&mut self, term: Term, node: NodeId, members: &Members) {
        let votes = members.voters.contains(&node) || members.outgoing.contains(&node);
        assert!(votes, "node {node} leads in term {term} and is no voter: {members:?}");
        let known = *self.leaders.entry(term).or_insert(node);
        assert_eq!(known, node, "election safety: nodes {known} and {node} both lead in term {term}");
    }

    /// A node votes once in a term, if ever: for itself when it asks for votes, or for whom it answers.
    pub fn sends(&mut self, from: NodeId, message: &Message) {
        let candidate = match message.get_msg_type() {
            MessageType::MsgRequestVote => from,
            MessageType::MsgRequestVoteResponse if !message.reject => NodeId(message.to),
            _ => return,
        };
        let known = *self.votes.entry((from, Term(message.term))).or_insert(candidate);
        let term = message.term;
        assert_eq!(known, candidate, "D5: node {from} votes twice in term {term}, for {known} and {candidate}");
    }

    /// The end of this node's log is lost. If it was a vote for itself, the candidate went with it: nobody counts votes for
    /// that one any more, so the node may vote for another in that term. Votes for others are remembered by those.
    pub fn loses_its_end(&mut self, node: NodeId) {
        self.votes.retain(|(voter, _), candidate| *voter != node || *candidate != node);
    }

    /// Who led in this term, if anybody was seen to.
    pub fn led(&self, term: Term) -> Option<NodeId> {
        self.leaders.get(&term).copied()
    }

    /// A node has applied everything up to this entry.
    pub fn applied(&mut self, index: LogIndex, term: Term, node: NodeId) {
        self.checks += 1;
        let known = *self.terms.entry(index).or_insert(term);
        assert_eq!(known, term, "log matching: entry {index} has term {known} and, on node {node}, {term}");
    }

    /// Whether a node that was damaged behind this entry has the mark of the others since: one that differs once differs
    /// from then on.
    pub fn is_whole(&self, since: LogIndex, machine: &Machine) -> bool {
        let newest = machine.newest_digest().filter(|(at, _)| *at > since);
        newest.is_some_and(|(at, mark)| self.marks.get(&at).is_some_and(|(known, _)| *known == mark))
    }

    /// Every other node must have the same state at this entry (L6).
    pub fn compares(&mut self, index: LogIndex, machine: &Machine, node: NodeId) {
        if let Some((at, mark)) = machine.newest_digest() {
            let (known, first) = *self.marks.entry(at).or_insert((mark, node));
            assert_eq!(known, mark, "L6: nodes {first} and {node} have other marks of entry {at}");
        }
        // A digest of everything costs as much as a turn.
        if !index.0.is_multiple_of(DIGEST_EVERY) {
            return;
        }
        let digest = machine.digest();
        let (known, first) = *self.digests.entry(index).or_insert((digest, node));
        assert_eq!(known, digest, "L6: nodes {first} and {node} differ at entry {index}");
    }

    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
}
