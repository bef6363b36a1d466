//! Members of two versions: this one, and a next one that knows a feature level and an operation more. The operation must
//! never reach the log before the level allows it, and a member that does not know it must stop at it (U3). Besides, a
//! cluster begins at the first level, so what this version brought must wait as well.

use raftwork::base::Error;
use raftwork::machine::{self, LEVEL};
use raftwork::replica::{entry, Proposal};

use crate::cluster::{Cluster, Event};
use crate::node::Ticket;
use crate::wire::{self, Command, Own};

impl Cluster {
    /// A node comes back with the other version, as in a rolling upgrade or when somebody takes one back. That is possible
    /// until the level was raised.
    pub fn upgrade(&mut self, node: usize, newer: bool) {
        if self.nodes[node].newer == newer || self.nodes[node].retired || (!newer && self.log.level() > LEVEL) {
            return;
        }
        self.note(format!("node {node} comes back with the {} version", if newer { "next" } else { "old" }));
        self.nodes[node].newer = newer;
        if self.nodes[node].is_up() {
            self.nodes[node].disk.process_ends();
            self.nodes[node].stop();
        }
        self.start(node);
    }

    /// Whether the log may have what this node's version does not know.
    pub fn is_too_old(&self, node: usize) -> bool {
        self.operator.raised && !self.nodes[node].newer
    }

    /// It stays down until somebody gives it the next version.
    pub fn wait_for_upgrade(&mut self, node: usize, error: &Error) {
        self.note(format!("node {node} is too old: {error}"));
        let delay = self.random.between(100_000, 3_000_000);
        self.after(delay, Event::Upgrade(node));
    }

    /// A rolling upgrade: one node after the other, then the level.
    pub fn roll(&mut self) {
        let mut delay = 0;
        for node in self.present() {
            delay += self.random.between(100_000, 1_200_000);
            self.after(delay, Event::Upgrade(node));
        }
        self.after(delay, Event::Raise);
    }

    /// Raises the level, as often as it takes.
    pub fn keep_raising(&mut self) {
        if !self.calm && self.log.level() <= LEVEL {
            self.raise_level();
            let delay = self.random.between(100_000, 800_000);
            self.after(delay, Event::Raise);
        }
    }

    /// All members run the next version, so its operations may be used. Now and then somebody forgot a minority: those
    /// members must stop.
    pub fn raise_level(&mut self) {
        let members = self.log.members();
        let is_newer = |id: &&raftwork::base::NodeId| self.nodes[id.0 as usize - 1].newer;
        let (newer, all) = (members.voters.iter().filter(is_newer).count(), members.voters.len());
        let others = members.learners.iter().all(|id| is_newer(&id)) && members.outgoing.is_empty();
        let careless = 2 * newer > all && self.random.chance(500);
        if self.log.level() > LEVEL || !(newer == all && others || careless) {
            return;
        }
        let Some(leader) = self.leader().filter(|leader| self.nodes[*leader].newer) else { return };
        self.note(format!("the level is raised, {newer} of {all} voters know it"));
        self.operator.raised = true;
        let request = wire::request(0, 0, 0, &Command::Own(Own::SetLevel(LEVEL + 1)));
        self.nodes[leader].requests.push(Proposal { entry: entry::frame(&request), ticket: Ticket::Level });
        self.plan_turn(leader);
    }

    /// What a node says to a request before it does anything with it.
    pub fn door(&self, node: usize, request: &[u8]) -> Result<(), Error> {
        machine::be_newer(self.nodes[node].newer);
        let needed = machine::check(request)?;
        if needed == 1 || !self.nodes[node].leads() {
            return Ok(()); // What is handed over the leader judges.
        }
        self.nodes[node].replica.as_ref().expect("it is up").machine().read().admit(needed)
    }
}
