//! Comparing states while the group works (L6): the leader writes the marks of its state into the log, and a member that
//! differs asks the others, see `doubt`.

use super::doubt::Verdict;
use super::members::named;
use super::words::Word;
use super::{entry, Replica, Turn};
use crate::base::codec::Writer;
use crate::base::planted::{has, Bug};
use crate::base::{Error, LogIndex, NodeId, Result};
use crate::consensus::Role;
use crate::machine::Differs;

/// The operation `Digest`.
const DIGEST: u64 = 18;

impl<T> Replica<T> {
    /// A leader writes its newest mark into the log, once in its term.
    pub(super) fn tell_digest(&mut self, turn: &mut Turn<T>) -> Result<()> {
        // Before its first entry is applied it may lack marks that the group has compared already.
        if self.role() != Role::Leader || self.applied.term != self.term() || self.alone() || self.is_stalled() {
            return Ok(());
        }
        let Some((index, mark)) = self.machine.read().digest_due() else { return Ok(()) };
        if self.digest_told == (self.term(), index) {
            return Ok(());
        }
        let mut request = Writer::new();
        request.array(4).u64(0).u64(0).u64(0).array(3).u64(DIGEST).u64(index.0).u64(mark);
        if self.propose_own(&request.into_bytes(), turn)? {
            self.digest_told = (self.term(), index);
        }
        Ok(())
    }

    /// Proposes a request of the replica itself, which nobody waits for. False: not now.
    fn propose_own(&mut self, request: &[u8], turn: &mut Turn<T>) -> Result<bool> {
        let mut entry = entry::frame(request);
        entry::stamp(&mut entry, self.stamped);
        let mut actions = Vec::new();
        let room = self.reserve(entry.len(), 1);
        let proposed = room.and_then(|()| self.core.propose(vec![entry.into()], &mut actions).map(drop));
        self.actions.extend(actions);
        match proposed {
            Ok(()) => self.settle_or_fail(turn).map(|()| true),
            Err(Error::NotCommitted(_) | Error::DiskFull(_)) => Ok(false),
            Err(error) => {
                self.fail(&error.to_string(), turn);
                Err(error)
            }
        }
    }

    /// The log tells another mark than the one made here. A leader stops leading: it may be the one that is wrong. Nobody is
    /// told anything from this state before that is known.
    pub(super) fn begin_doubt(&mut self, differs: Differs, turn: &mut Turn<T>) {
        if has(Bug::IgnoreDigest) {
            return;
        }
        let at = differs.index;
        log::error!(
            "the state here differs from that of the leader which wrote its mark of entry {at}; asks the others"
        );
        self.doubt.begin(differs);
        self.abandon(&doubtful(at), turn);
        let mut actions = Vec::new();
        self.core.step_down(&mut actions);
        self.actions.extend(actions);
    }

    /// Asks the others for their marks while it is in doubt, and members that differed whether they still do.
    pub(super) fn ask_digests(&mut self) -> Result<()> {
        if let Some(index) = self.doubt.asks() {
            let mark = self.machine.read().digest_at(index);
            self.others().into_iter().for_each(|to| self.say(to, Word::Digest { index, mark, asks: true }));
        }
        self.judge_digests()?;
        let members = &self.members;
        self.odd.keep(|node| named(members).any(|id| id == node.0));
        let asked = self.odd.asks(self.others());
        let newest = if asked.is_empty() { None } else { self.machine.read().newest_digest() };
        if let Some((index, mark)) = newest {
            asked.into_iter().for_each(|to| self.say(to, Word::Digest { index, mark: Some(mark), asks: true }));
        }
        Ok(())
    }

    /// The entry whose mark this member differs in, as long as it does not know who is wrong: then nothing may be answered
    /// from its state.
    pub fn doubts(&self) -> Option<LogIndex> {
        self.doubt.is_open().then(|| self.doubt.index())
    }

    /// Members whose states are not like the one here, and the entry at which they were seen to differ first.
    pub fn odd_members(&self) -> Vec<(NodeId, LogIndex)> {
        self.odd.members()
    }

    /// Whether the state here is to be given to nobody: it may be the one that is wrong.
    pub fn is_disputed(&self) -> bool {
        (self.doubt.is_open() || self.odd.is_disputed()) && !has(Bug::GiveDisputed)
    }

    /// Those that were not given the state are, once it is not disputed any more.
    pub(super) fn give_withheld(&mut self, turn: &mut Turn<T>) -> Result<()> {
        if self.withheld.is_empty() || self.is_disputed() {
            return Ok(());
        }
        // Raft-rs hears that the snapshot did not arrive, and sends another one.
        let withheld = std::mem::take(&mut self.withheld);
        withheld.into_iter().try_for_each(|to| self.snapshot_sent(to, false, turn))
    }

    /// A voter tells its mark, and may want ours.
    pub(super) fn hear_digest(&mut self, from: NodeId, index: LogIndex, mark: Option<u64>, asks: bool) -> Result<()> {
        if has(Bug::IgnoreDigest) {
            return Ok(());
        }
        if asks {
            let mark = self.machine.read().digest_at(index);
            self.say(from, Word::Digest { index, mark, asks: false });
        }
        if let Some(mark) = mark {
            self.doubt.hear(from, index, mark);
        }
        self.judge_digests()
    }

    /// An error is the end: this member holds what nobody else does.
    fn judge_digests(&mut self) -> Result<()> {
        let index = self.doubt.index();
        let Some(mine) = self.machine.read().digest_at(index) else { return Ok(()) };
        let verdict = self.doubt.judge(self.identity.node, mine, &self.members.voters);
        if let Verdict::Wrong(theirs) = verdict {
            return Err(Error::Differs(format!(
                "the state of node {} differs from that of a majority of the members since entry {index} or earlier (its \
                 mark {mine:016x}, theirs {theirs:016x})",
                self.identity.node
            )));
        }
        if verdict == Verdict::Right {
            self.odd.agree(index);
        }
        if !self.doubt.is_open() {
            for (node, mark) in self.doubt.told() {
                if self.odd.hear(node, index, mark, mine) {
                    log::error!("the state of member {node} differs from the one here since entry {index} or earlier");
                }
            }
        }
        Ok(())
    }
}

/// Why nothing is answered.
pub fn doubtful(at: LogIndex) -> String {
    format!(
        "the state of this node differs from the mark that the log has of entry {at}, and it does not know yet who is \
         wrong; ask again in a moment, or another member"
    )
}
