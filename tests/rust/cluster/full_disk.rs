//! A member whose disk is full, among others that go on.

use std::sync::mpsc::channel;

use raftwork::node::{Node, NodeConfig};

use super::{jobs, settle, Cluster};
use crate::node::doctor::texts;
use crate::node::support::{until, BadDisk, Mood, PATIENCE};
use crate::requests::*;

/// It knows who leads, and nothing that it is asked can be answered: its clients would wait until there is room.
#[test]
fn a3_a_member_with_a_full_disk_says_so_sends_its_clients_away_and_catches_up_when_there_is_room() {
    let mut cluster = Cluster::new(3);
    let follower = cluster.follower();
    cluster.close(follower);
    let disk = BadDisk::new();
    let config = NodeConfig { disk: disk.clone(), segment_bytes: 64 << 10, ..cluster.config(follower) };
    cluster.nodes[follower] = Some(Node::open(config).unwrap());
    let node = cluster.node(follower);
    until(|| node.is_ready());
    let (send, sent_away) = channel();
    node.when_cut_off(move || {
        let _ = send.send(());
    });
    let is_full = || texts(&node.health(), "alarms").iter().any(|alarm| alarm.starts_with("the disk is full"));
    disk.set(Mood::Full);
    let mut stored = 0;
    until(|| {
        settle(cluster.node(cluster.leader()), enqueue(job(stored), 4_000));
        stored += 1;
        is_full()
    });
    sent_away.recv_timeout(PATIENCE).expect("its clients are better off elsewhere");
    assert!(jobs(node) < stored && !node.is_ready());
    disk.set(Mood::Good);
    until(|| jobs(node) == stored && !is_full());
}
