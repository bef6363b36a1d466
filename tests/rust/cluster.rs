//! Several nodes over real sockets, in one process.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftwork::base::{ClusterId, Error, JobId, SessionId};
use raftwork::net::{Address, Authority, Security, Tls};
use raftwork::node::{ClusterConfig, Node, NodeConfig};
use raftwork::replica::MemberChange;
use tempfile::TempDir;

use crate::node::support::{beat, log_lines, until, PATIENCE};
use crate::requests::*;

/// Addresses on this machine that nobody listens at.
fn addresses(count: usize) -> Vec<Address> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| Address::from(listener.local_addr().unwrap())).collect()
}

/// Members and their directories.
struct Cluster {
    dir: TempDir,
    addresses: Vec<Address>,
    security: Security,
    nodes: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    fn new(count: usize) -> Self {
        Self::with(count, Security::Plain)
    }

    fn with(count: usize, security: Security) -> Self {
        log_lines();
        let dir = TempDir::new().unwrap();
        let mut cluster = Self { dir, addresses: addresses(count), security, nodes: vec![None; count] };
        let configs: Vec<_> = (0..count).map(|number| cluster.config(number)).collect();
        // All at once: the first time they wait for each other.
        let opening: Vec<_> = configs.into_iter().map(|config| std::thread::spawn(|| Node::open(config))).collect();
        let opened = opening.into_iter().map(|opening| Some(opening.join().unwrap().unwrap()));
        cluster.nodes = opened.collect();
        cluster.wait_for_voters(count);
        cluster
    }

    fn config(&self, number: usize) -> NodeConfig {
        let mut config = NodeConfig::new(self.dir.path().join(number.to_string()));
        config.segment_bytes = 1 << 20;
        let cluster = ClusterConfig::new(self.addresses[number].clone(), self.addresses.clone());
        config.cluster = Some(ClusterConfig { security: self.security.clone(), ..cluster });
        config
    }

    fn wait_for_voters(&self, count: usize) {
        until(|| self.nodes.iter().flatten().all(|node| node.members().voters.len() == count));
    }

    fn open(&mut self, number: usize) {
        self.nodes[number] = Some(Node::open(self.config(number)).unwrap());
    }

    fn close(&mut self, number: usize) {
        self.nodes[number].take().unwrap().close().unwrap();
    }

    fn node(&self, number: usize) -> &Node {
        self.nodes[number].as_ref().unwrap()
    }

    fn leader(&self) -> usize {
        let mut found = None;
        until(|| {
            found = (0..self.nodes.len()).find(|number| {
                let node = self.nodes[*number].as_ref();
                node.is_some_and(|node| node.leads())
            });
            found.is_some()
        });
        found.unwrap()
    }

    fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.nodes.len()).find(|number| *number != leader && self.nodes[*number].is_some()).unwrap()
    }
}

fn jobs(node: &Node) -> u64 {
    field_number(&node.health(), "jobs")
}

/// Waits until the state has everything that was answered anywhere. An election may take its time.
fn fresh(node: &Node) -> Result<(), Error> {
    let latest = Instant::now() + PATIENCE;
    loop {
        let (send, receive) = channel();
        node.fresh(Box::new(move |done| drop(send.send(done))));
        match receive.recv_timeout(PATIENCE).unwrap() {
            Err(Error::NotCommitted(_) | Error::TimedOut(_)) if Instant::now() < latest => {}
            outcome => return outcome,
        }
    }
}

#[test]
fn l2_every_member_takes_writes_and_has_them_when_it_answers() {
    let cluster = Cluster::new(3);
    for number in 0..30 {
        let node = cluster.node(number % 3);
        payload(&node.submit(enqueue(job(number as u64), 64), None).unwrap());
        assert!(jobs(node) > 0 && field_number(&node.health(), "applied") > 1);
        let question = [&[0x92, 3, 0xc4, 16][..], &job(number as u64).0].concat();
        let seen = node.view(&question).unwrap();
        assert!(seen.len() > 40, "whoever wrote on a node can read it there");
    }
}

#[test]
fn l1_a_confirmed_read_has_what_another_member_answered() {
    let cluster = Cluster::new(3);
    for number in 1..=30u64 {
        payload(&cluster.node(number as usize % 3).submit(enqueue(job(number), 64), None).unwrap());
        let other = cluster.node((number as usize + 1) % 3);
        fresh(other).unwrap();
        assert_eq!(jobs(other), number);
    }
}

#[test]
fn a1_when_the_leader_closes_another_leads_at_once() {
    let mut cluster = Cluster::new(3);
    payload(&cluster.node(0).submit(enqueue(job(1), 64), None).unwrap());
    let leader = cluster.leader();
    let other = cluster.nodes[(leader + 1) % 3].clone().unwrap();
    let began = Instant::now();
    cluster.close(leader);
    payload(&other.submit(enqueue(job(2), 64), None).unwrap());
    // An election by time-out takes a second at least.
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
}

#[test]
fn signs_of_life_reach_the_leader_through_any_member() {
    let cluster = Cluster::new(3);
    let follower = cluster.node(cluster.follower());
    let session = SessionId(number(&follower.submit(open_session(60_000), None).unwrap()));
    for number in 0..3 {
        assert_eq!(beat(cluster.node(number), session), Ok(()));
        assert_eq!(beat(cluster.node(number), SessionId(99_999)), Err(Error::SessionExpired));
    }
}

#[test]
fn a_member_that_was_away_for_long_fetches_the_state() {
    let mut cluster = Cluster::new(3);
    payload(&cluster.node(0).submit(enqueue(job(0), 64), None).unwrap());
    let away = cluster.follower();
    cluster.close(away);
    let leader = cluster.node(cluster.leader());
    // More than the log that is kept for members that fall behind.
    for batch in 0..120u64 {
        let ids: Vec<JobId> = (1..=100).map(|number| job(batch * 100 + number)).collect();
        payload(&leader.submit(enqueue_as(&ids, "q", "f", 2_000, 0), None).unwrap());
    }
    cluster.nodes.iter().flatten().for_each(|node| node.snapshot_now().unwrap());
    cluster.open(away);
    let back = cluster.node(away);
    fresh(back).unwrap();
    assert_eq!(jobs(back), 12_001);
    assert!(field_number(&back.health(), "snapshot_index") > 1);
}

#[test]
fn d1_all_members_restart_and_have_everything() {
    let mut cluster = Cluster::new(3);
    for number in 0..50 {
        payload(&cluster.node(number as usize % 3).submit(enqueue(job(number), 64), None).unwrap());
    }
    (0..3).for_each(|number| cluster.close(number));
    (0..3).for_each(|number| cluster.open(number));
    for number in 0..3 {
        fresh(cluster.node(number)).unwrap();
        assert_eq!(jobs(cluster.node(number)), 50);
    }
}

#[test]
fn d5_a_node_without_its_data_is_refused_with_what_to_do() {
    let mut cluster = Cluster::new(3);
    payload(&cluster.node(0).submit(enqueue(job(1), 64), None).unwrap());
    let lost = cluster.follower();
    let id = cluster.node(lost).id();
    cluster.close(lost);
    std::fs::remove_dir_all(cluster.config(lost).dir).unwrap();
    let Err(Error::Foreign(why)) = Node::open(cluster.config(lost)) else { panic!("it was let in") };
    assert!(why.contains(&format!("raftwork cluster remove {id}")) && why.contains("without its data"), "{why}");
    // What the message says helps.
    let leader = cluster.node(cluster.leader());
    leader.change_members(MemberChange::Remove(id), false).unwrap();
    cluster.open(lost);
    cluster.wait_for_voters(3);
    let back = cluster.node(lost);
    fresh(back).unwrap();
    assert!(back.id() != id && jobs(back) == 1);
}

#[test]
fn d5_the_first_of_the_list_begins_no_second_group_after_it_lost_its_disk() {
    let mut cluster = Cluster::new(3);
    payload(&cluster.node(0).submit(enqueue(job(1), 64), None).unwrap());
    cluster.close(0);
    std::fs::remove_dir_all(cluster.config(0).dir).unwrap();
    let Err(Error::Foreign(why)) = Node::open(cluster.config(0)) else { panic!("it began another group") };
    assert!(why.contains("without its data"), "{why}");
    // Nobody answers: it may be that they have a group, so it begins none.
    cluster.close(1);
    cluster.close(2);
    std::fs::remove_dir_all(cluster.config(0).dir).unwrap();
    let mut config = cluster.config(0);
    config.cluster.as_mut().unwrap().patience = Duration::from_millis(300);
    assert!(matches!(Node::open(config), Err(Error::Busy { .. })));
}

#[test]
fn a_node_joins_becomes_a_voter_and_another_leaves() {
    let mut cluster = Cluster::new(3);
    payload(&cluster.node(0).submit(enqueue(job(1), 64), None).unwrap());
    let (address, first) = (addresses(1).remove(0), cluster.addresses.clone());
    cluster.addresses.push(address.clone());
    let mut config = cluster.config(3);
    config.cluster = Some(ClusterConfig { joins: true, ..ClusterConfig::new(address, first) });
    cluster.nodes.push(Some(Node::open(config).unwrap()));
    cluster.wait_for_voters(4);
    let gone = cluster.follower();
    let id = cluster.node(gone).id();
    cluster.node(cluster.leader()).change_members(MemberChange::Remove(id), false).unwrap();
    until(|| cluster.node(gone).has_failed());
    cluster.nodes[gone] = None;
    cluster.wait_for_voters(3);
    let added = cluster.node(3);
    payload(&added.submit(enqueue(job(2), 64), None).unwrap());
    fresh(added).unwrap();
    assert_eq!(jobs(added), 2);
}

#[test]
fn a_member_comes_back_at_another_address() {
    let mut cluster = Cluster::new(3);
    let moved = cluster.follower();
    cluster.close(moved);
    cluster.addresses[moved] = addresses(1).remove(0);
    cluster.open(moved);
    let back = cluster.node(moved);
    payload(&back.submit(enqueue(job(1), 64), None).unwrap());
    assert_eq!(jobs(back), 1);
}

#[test]
fn members_with_certificates_form_the_cluster_that_these_name() {
    let cluster_id = ClusterId([9; 16]);
    let dir = TempDir::new().unwrap();
    let files = Authority::create(cluster_id).unwrap().issue_node(&[]).unwrap().save(&dir.path().join("tls"), "node");
    let files = files.unwrap();
    let tls = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
    let cluster = Cluster::with(3, Security::Tls(tls));
    for number in 1..=9u64 {
        payload(&cluster.node(number as usize % 3).submit(enqueue(job(number), 64), None).unwrap());
    }
    let node = cluster.node(1);
    fresh(node).unwrap();
    assert_eq!((jobs(node), node.cluster().0), (9, cluster_id));
}
