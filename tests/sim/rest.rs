//! When the trouble is over: whether the cluster came to rest, and what must be true then.

use std::collections::BTreeSet;

use raftwork::base::NodeId;
use raftwork::machine::job::State;
use raftwork::machine::Machine;
use raftwork::replica::Replica;

use crate::cluster::{Cluster, Event};
use crate::node::{Loss, Node};
use crate::record::Fate;
use crate::{history, linear, REST, SECOND, TROUBLE};

impl Cluster {
    /// Whether one leads, all members are up and have applied the same, it is everything that their logs hold, and nobody
    /// else is left. Those that have just started know of fewer committed entries than were answered.
    pub fn is_settled(&self) -> bool {
        let members = self.log.members();
        let waits = self.operator.promotes && !members.learners.is_empty();
        if !self.operator.goals.is_empty() || !members.outgoing.is_empty() || waits {
            return false;
        }
        let is_member = |node: &Node| members.voters.contains(&node.id) || members.learners.contains(&node.id);
        if self.nodes.iter().any(|node| !self.is_forgotten(node) && is_member(node) == node.retired) {
            return false;
        }
        let ends = |replica: &Replica<_>| [replica.applied(), replica.last_index()];
        let ends: BTreeSet<_> = self.members().map(|node| node.replica.as_ref().map(ends)).collect();
        let is_same = ends.len() == 1 && ends.iter().flatten().any(|[applied, last]| applied == last);
        let work_left = self.members().filter_map(|node| node.replica.as_ref()).any(|replica| {
            let machine = replica.machine().read();
            let tally = machine.tally();
            [State::Awaiting, State::Enqueued, State::Processing, State::Retrying, State::Scheduled]
                .iter()
                .any(|state| tally.count(*state) > 0)
        });
        is_same && self.leader().is_some() && !work_left
    }

    /// Nodes that are there for good.
    pub fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| self.is_there(node))
    }

    fn is_there(&self, node: &Node) -> bool {
        !node.retired && node.loss != Some(Loss::Machine) && !self.is_forgotten(node)
    }

    /// Whether this node was removed while it was away, and all members that it knows are gone too: nobody can tell it. It
    /// leads nobody, and waits for a person to stop it.
    fn is_forgotten(&self, node: &Node) -> bool {
        let now = self.log.members();
        let stays = |id: &NodeId| now.voters.contains(id) || now.learners.contains(id);
        let known = node.replica.as_ref().map(|replica| replica.members());
        known.is_some_and(|known| {
            !stays(&node.id) && !known.voters.iter().chain(&known.outgoing).chain(&known.learners).any(stays)
        })
    }
}

/// Lives through faults, then through calm until it is at rest.
pub fn after_trouble(cluster: &mut Cluster, holds: impl Fn(&Cluster) -> bool) {
    trouble(cluster);
    come_to_rest(cluster, holds);
}

/// Lives through faults, up to the calm.
pub fn trouble(cluster: &mut Cluster) {
    cluster.after(2 * SECOND, Event::Fault);
    cluster.after(TROUBLE, Event::Calm);
    cluster.run_until(TROUBLE + 1);
}

/// Lives until it is settled and this holds, and checks what must be true then.
pub fn come_to_rest(cluster: &mut Cluster, holds: impl Fn(&Cluster) -> bool) {
    let latest = cluster.now + REST;
    while !(cluster.is_settled() && holds(cluster)) {
        assert!(cluster.now < latest, "J6: the cluster does not come to rest: {}", state(cluster));
        let next = cluster.now + SECOND / 4;
        cluster.run_until(next);
    }
    check(cluster);
}

/// What must be true when all members that are there are up, have the same log, and no work is left.
pub fn check(cluster: &mut Cluster) {
    raftwork::machine::be_newer(true); // It reads the states of all versions.
    for client in &mut cluster.clients {
        if let Some(asked) = client.asked.take() {
            cluster.ledger.record.learns(client.number, &asked, &Fate::Unknown);
        }
    }
    let members = cluster.nodes.iter().enumerate();
    let members = members.filter(|(_, node)| cluster.is_there(node));
    let machines: Vec<_> = members
        .map(|(number, node)| (number, node.replica.as_ref().expect("all members are up").machine().read()))
        .collect();
    for (node, machine) in &machines {
        machine.audit().unwrap_or_else(|error| panic!("J12: {error}"));
        cluster.ledger.check(machine);
        cluster.ledger.tokens.sees_all(machine);
        assert!(machine.applied().0 >= cluster.ledger.answered_index, "D1: an answered entry is missing");
        cluster.ledger.record.reads_all(*node, machine);
    }
    let machines: Vec<&Machine> = machines.iter().map(|(_, machine)| &**machine).collect();
    cluster.log.is_known(&cluster.ledger.record);
    if cluster.clients.iter().any(|client| client.flows.is_some()) {
        cluster.ledger.flows.rests(&cluster.log, &machines);
    }
    cluster.log.check(&cluster.ledger.record, &machines);
    cluster.ledger.record.marks_changes();
    if let Some(path) = std::env::var_os("RAFTWORK_SIM_HISTORY") {
        std::fs::write(path, history::print(&cluster.ledger.record.operations)).expect("the history can be written");
    }
    if cluster.log.excused && cluster.clients.iter().any(|client| client.flows.is_some()) {
        return; // Time may have gone on by years, after which batches are forgotten.
    }
    linear::check(&cluster.ledger.record.operations).unwrap_or_else(|why| panic!("the history has no order: {why}"));
}

pub fn state(cluster: &Cluster) -> String {
    let nodes = cluster.nodes.iter().map(|node| match &node.replica {
        None if node.retired => format!("node {} is gone for good", node.id),
        None => format!("node {} is down", node.id),
        Some(replica) => {
            let machine = replica.machine().read();
            format!(
                "node {} {} term {} applied {} of {}, jobs {:?}, {} stalled {} doubts {:?} suspects {:?} {:?}",
                node.id,
                replica.role().name(),
                replica.term(),
                replica.applied(),
                replica.last_index(),
                machine.tally(),
                if node.paused { "paused" } else { "" },
                replica.is_stalled(),
                replica.doubts(),
                replica.suspects(),
                replica.members().peers
            )
        }
    });
    let nodes = nodes.collect::<Vec<_>>().join("\n");
    format!("{nodes}\n{:?}\n{:?}", cluster.log.members(), cluster.operator)
}

#[test]
fn a_cluster_whose_members_have_just_started_is_not_at_rest() {
    let mut cluster = Cluster::new(1, 3, 0, 0);
    cluster.calm = true;
    assert!(cluster.members().all(Node::is_up) && !cluster.is_settled(), "nobody leads yet");
    cluster.run_until(5 * crate::SECOND);
    assert!(cluster.is_settled(), "{}", state(&cluster));
}
