//! When the trouble is over: whether the cluster came to rest, and what must be true then.

use std::collections::BTreeSet;

use raftwork::machine::job::State;
use raftwork::machine::Machine;

use crate::cluster::Cluster;
use crate::record::Fate;
use crate::{history, linear};

impl Cluster {
    /// Whether all nodes are up and have applied the same, and it is everything.
    pub fn is_settled(&self) -> bool {
        let applied: BTreeSet<_> =
            self.nodes.iter().map(|node| node.replica.as_ref().map(|replica| replica.applied())).collect();
        let work_left = self.nodes.iter().filter_map(|node| node.replica.as_ref()).any(|replica| {
            let machine = replica.machine().read();
            let tally = machine.tally();
            [State::Enqueued, State::Processing, State::Retrying, State::Scheduled]
                .iter()
                .any(|state| tally.count(*state) > 0)
        });
        applied.len() == 1 && !applied.contains(&None) && !work_left
    }
}

/// What must be true when all nodes are up, have the same log, and no work is left.
pub fn check(cluster: &mut Cluster) {
    for client in &mut cluster.clients {
        if let Some(asked) = client.asked.take() {
            cluster.ledger.record.learns(client.number, &asked, &Fate::Unknown);
        }
    }
    let machines: Vec<_> =
        cluster.nodes.iter().map(|node| node.replica.as_ref().expect("all are up").machine().read()).collect();
    for (node, machine) in machines.iter().enumerate() {
        machine.audit().unwrap_or_else(|error| panic!("J12: {error}"));
        cluster.ledger.check(machine);
        assert!(machine.applied().0 >= cluster.ledger.answered_index, "D1: an answered entry is missing");
        cluster.ledger.record.reads_all(node, machine);
    }
    let machines: Vec<&Machine> = machines.iter().map(|machine| &**machine).collect();
    cluster.log.check(&cluster.ledger.record, &machines);
    if let Some(path) = std::env::var_os("RAFTWORK_SIM_HISTORY") {
        std::fs::write(path, history::print(&cluster.ledger.record.operations)).expect("the history can be written");
    }
    linear::check(&cluster.ledger.record.operations).unwrap_or_else(|why| panic!("the history has no order: {why}"));
}

pub fn state(cluster: &Cluster) -> String {
    let nodes = cluster.nodes.iter().map(|node| match &node.replica {
        None => format!("node {} is down", node.id),
        Some(replica) => {
            let machine = replica.machine().read();
            format!(
                "node {} {} term {} applied {} of {}, jobs {:?}, {}",
                node.id,
                replica.role().name(),
                replica.term(),
                replica.applied(),
                replica.last_index(),
                machine.tally(),
                if node.paused { "paused" } else { "" }
            )
        }
    });
    nodes.collect::<Vec<_>>().join("\n")
}
