//! A member whose disk is full, among others that go on.

use std::sync::mpsc::channel;
use std::sync::Arc;

use raftwork::base::Error;
use raftwork::node::{Node, NodeConfig};

use super::transfers::counted;
use super::{jobs, settle, Cluster};
use crate::node::doctor::texts;
use crate::node::support::{until, BadDisk, Mood, PATIENCE};
use crate::requests::*;

/// Opens a member anew, on a disk with a mood and with a small log.
fn on_a_bad_disk(cluster: &mut Cluster, number: usize) -> Arc<BadDisk> {
    cluster.close(number);
    let disk = BadDisk::new();
    let config = NodeConfig { disk: disk.clone(), segment_bytes: 64 << 10, ..cluster.config(number) };
    cluster.nodes[number] = Some(Node::open(config).unwrap());
    disk
}

fn is_full(node: &Node) -> bool {
    texts(&node.health(), "alarms").iter().any(|alarm| alarm.starts_with("the disk is full"))
}

/// Enqueues until a leader refuses for lack of room, or until this member does not lead. Gives how many jobs were stored.
fn fill(cluster: &Cluster, full: usize) -> u64 {
    let mut stored = 0;
    while cluster.leader() == full {
        match cluster.node(full).submit(enqueue(job(stored), 4_000), None) {
            Ok(answer) => {
                payload(&answer);
                stored += 1;
            }
            Err(Error::DiskFull(_)) => break,
            Err(Error::NotCommitted(_) | Error::Unknown(_)) => {} // Somebody else leads by now.
            Err(error) => panic!("{error}"),
        }
        assert!(stored < 100, "64 KiB of log and a spare hold fewer");
    }
    stored
}

/// It knows who leads, and nothing that it is asked can be answered: its clients would wait until there is room.
#[test]
fn a3_a_member_with_a_full_disk_says_so_sends_its_clients_away_and_catches_up_when_there_is_room() {
    let mut cluster = Cluster::new(3);
    let follower = cluster.follower();
    let disk = on_a_bad_disk(&mut cluster, follower);
    let node = cluster.node(follower);
    until(|| node.is_ready());
    let (send, sent_away) = channel();
    node.when_cut_off(move || {
        let _ = send.send(());
    });
    disk.set(Mood::Full);
    let mut stored = 0;
    until(|| {
        settle(cluster.node(cluster.leader()), enqueue(job(stored), 4_000));
        stored += 1;
        is_full(node)
    });
    sent_away.recv_timeout(PATIENCE).expect("its clients are better off elsewhere");
    assert!(jobs(node) < stored && !node.is_ready());
    disk.set(Mood::Good);
    until(|| jobs(node) == stored && !is_full(node));
}

#[test]
fn a3_a_leader_with_a_full_disk_lets_another_lead_and_catches_up_when_there_is_room() {
    let mut cluster = Cluster::new(3);
    let disks = [0, 1, 2].map(|number| on_a_bad_disk(&mut cluster, number));
    let full = cluster.leader();
    disks[full].set(Mood::Full);
    let mut stored = fill(&cluster, full);
    until(|| !cluster.node(full).leads());
    while stored < 50 || !is_full(cluster.node(full)) {
        payload(&settle(cluster.node(cluster.leader()), enqueue(job(stored), 4_000)));
        stored += 1;
    }
    assert!(cluster.leader() != full && !cluster.node(full).is_ready());
    disks[full].set(Mood::Good);
    until(|| jobs(cluster.node(full)) == stored && !is_full(cluster.node(full)));
    payload(&settle(cluster.node(full), enqueue(job(stored), 4_000)));
}

#[test]
fn a3_where_all_disks_are_full_leadership_comes_to_rest_and_writes_go_on_when_there_is_room() {
    let mut cluster = Cluster::new(3);
    let disks = [0, 1, 2].map(|number| on_a_bad_disk(&mut cluster, number));
    let changes = || counted(cluster.node(0), "leader_changes_total");
    disks.iter().for_each(|disk| disk.set(Mood::Full));
    let stored = fill(&cluster, cluster.leader());
    let (before, seen) = (changes(), disks[0].refusals());
    // A log without room looks for some again and again, and so much slower its leader for somebody else.
    until(|| disks[0].refusals() > seen + 20);
    assert!(changes() - before <= 4, "{} changes", changes() - before);
    disks.iter().for_each(|disk| disk.set(Mood::Good));
    let answer = || cluster.node(cluster.leader()).submit(enqueue(job(stored), 4_000), None);
    until(|| answer().is_ok());
    until(|| (0..3).all(|number| jobs(cluster.node(number)) == stored + 1 && !is_full(cluster.node(number))));
}
