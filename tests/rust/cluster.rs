//! Several nodes over real sockets, in one process.

mod certified;
mod damaged;
mod differs;
mod founding;
mod full_disk;
mod history;
mod levels;
mod lone;
mod moves;
mod rights;
mod starts;
mod transfers;

use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftwork::base::{limits, ClusterId, Error, JobId, LogIndex, NodeId, SessionId};
use raftwork::disk::{Disk, RealDisk};
use raftwork::net::{Address, Authority, Security, Tls};
use raftwork::node::{ClusterConfig, Node, NodeConfig, WatchEvent};
use raftwork::replica::MemberChange;
use tempfile::TempDir;

use crate::far::Gate;
use crate::node::support::{beat, log_lines, until, view, BadDisk, Events, Mood, OwnClock, PATIENCE};
use crate::ports::free_addresses;
use crate::requests::*;

/// What the members are told, all of them the same.
struct Told {
    security: Security,
    /// All that they send each other passes through gates.
    gated: bool,
    election_timeout: Duration,
    snapshot_rate: u64,
    log_bytes_for_peers: usize,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            security: Security::Plain,
            gated: false,
            election_timeout: Duration::from_secs(1),
            snapshot_rate: limits::SNAPSHOT_BYTES_PER_SECOND,
            log_bytes_for_peers: limits::LOG_BYTES_FOR_PEERS,
        }
    }
}

/// Members and their directories.
pub struct Cluster {
    dir: TempDir,
    addresses: Vec<Address>,
    told: Told,
    /// Of each.
    securities: Vec<Security>,
    nodes: Vec<Option<Arc<Node>>>,
    /// What each reads the time from.
    pub clocks: Vec<Arc<OwnClock>>,
    /// What stands before each member, where others reach it.
    pub gates: Vec<Gate>,
}

impl Cluster {
    pub fn new(count: usize) -> Self {
        Self::with(count, Told::default())
    }

    /// As `new`; its leader may be silent for so long that no test sees an election by time-out.
    pub fn patient(count: usize) -> Self {
        Self::with(count, Told { election_timeout: PATIENCE, ..Told::default() })
    }

    /// As `new`; all that members send each other passes through gates.
    pub fn gated(count: usize) -> Self {
        Self::with(count, Told { gated: true, ..Told::default() })
    }

    fn with(count: usize, told: Told) -> Self {
        let mut cluster = Self::unopened(count, told);
        cluster.open_all();
        cluster.wait_for_voters(count);
        cluster
    }

    fn unopened(count: usize, told: Told) -> Self {
        log_lines();
        let dir = TempDir::new().unwrap();
        let (addresses, nodes) = (free_addresses(count), vec![None; count]);
        let clocks = (0..count + 1).map(|_| Arc::default()).collect();
        let gates = if told.gated { addresses.iter().map(Gate::before).collect() } else { Vec::new() };
        let securities = vec![told.security.clone(); count + 1];
        Self { dir, addresses, told, securities, nodes, clocks, gates }
    }

    /// All at once: the first time they wait for each other.
    fn open_all(&mut self) {
        let configs: Vec<_> = (0..self.addresses.len()).map(|number| self.config(number)).collect();
        let opening: Vec<_> = configs.into_iter().map(|config| std::thread::spawn(|| Node::open(config))).collect();
        let opened = opening.into_iter().map(|opening| Some(opening.join().unwrap().unwrap()));
        self.nodes = opened.collect();
    }

    fn config(&self, number: usize) -> NodeConfig {
        let mut config = NodeConfig::new(self.dir.path().join(number.to_string()));
        config.segment_bytes = 1 << 20;
        config.clock = self.clocks[number].clone();
        let listed = self.gates.iter().map(|gate| gate.address.clone()).collect();
        let members = if self.gates.is_empty() { self.addresses.clone() } else { listed };
        let cluster = ClusterConfig::new(self.addresses[number].clone(), members);
        let advertise = self.gates.get(number).map(|gate| gate.address.clone());
        let Told { election_timeout, snapshot_rate, log_bytes_for_peers, .. } = self.told;
        let security = self.securities[number].clone();
        let cluster = ClusterConfig { security, election_timeout, snapshot_rate, advertise, ..cluster };
        config.cluster = Some(ClusterConfig { log_bytes_for_peers, ..cluster });
        config
    }

    fn wait_for_voters(&self, count: usize) {
        until(|| self.nodes.iter().flatten().all(|node| node.members().voters.len() == count));
    }

    pub fn open(&mut self, number: usize) {
        self.nodes[number] = Some(Node::open(self.config(number)).unwrap());
    }

    /// Opens one more node, which joins and becomes a voter; gives its number.
    fn join(&mut self) -> usize {
        let (number, first) = (self.nodes.len(), self.addresses.clone());
        self.addresses.extend(free_addresses(1));
        let mut config = self.config(number);
        let cluster = config.cluster.as_mut().unwrap();
        (cluster.members, cluster.joins) = (first, true);
        self.nodes.push(Some(Node::open(config).unwrap()));
        self.wait_for_voters(number + 1);
        number
    }

    pub fn close(&mut self, number: usize) {
        self.nodes[number].take().unwrap().close().unwrap();
    }

    pub fn node(&self, number: usize) -> &Node {
        self.nodes[number].as_ref().unwrap()
    }

    pub fn leader(&self) -> usize {
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

    /// Takes a voter out, whoever leads meanwhile.
    fn remove(&self, id: NodeId) {
        until(|| {
            let leader = self.node(self.leader());
            let removed = leader.change_members(MemberChange::Remove(id), false);
            removed.is_ok() || !leader.members().voters.contains(&id)
        });
    }

    pub fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.nodes.len()).find(|number| *number != leader && self.nodes[*number].is_some()).unwrap()
    }
}

pub fn jobs(node: &Node) -> u64 {
    field_number(&node.health(), "jobs")
}

/// Has this answered, as a client does: a change of leader, which a busy machine may bring at any time, leaves a request open
/// or undone, and then it is asked again. For requests that may be applied twice.
pub fn settle(node: &Node, request: Vec<u8>) -> Vec<u8> {
    let latest = Instant::now() + PATIENCE;
    loop {
        match node.submit(request.clone(), None) {
            Err(Error::NotCommitted(_) | Error::Unknown(_)) if Instant::now() < latest => {}
            outcome => return outcome.unwrap(),
        }
    }
}

/// Waits until the state has everything that was answered anywhere. An election may take its time.
pub fn fresh(node: &Node) -> Result<LogIndex, Error> {
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
        payload(&settle(node, enqueue(job(number as u64), 64)));
        assert!(jobs(node) > 0 && field_number(&node.health(), "applied") > 1);
        let question = [&[0x92, 3, 0xc4, 16][..], &job(number as u64).0].concat();
        let seen = view(node, &question).unwrap();
        assert!(seen.len() > 40, "whoever wrote on a node can read it there");
    }
}

#[test]
fn l1_a_confirmed_read_has_what_another_member_answered() {
    let cluster = Cluster::new(3);
    for number in 1..=30u64 {
        payload(&settle(cluster.node(number as usize % 3), enqueue(job(number), 64)));
        let other = cluster.node((number as usize + 1) % 3);
        fresh(other).unwrap();
        assert_eq!(jobs(other), number);
    }
}

#[test]
fn a1_when_the_leader_closes_another_leads_at_once() {
    let mut cluster = Cluster::patient(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let leader = cluster.leader();
    let other = cluster.nodes[(leader + 1) % 3].clone().unwrap();
    let began = Instant::now();
    cluster.close(leader);
    payload(&settle(&other, enqueue(job(2), 64)));
    assert!(began.elapsed() < cluster.told.election_timeout, "nobody waited for an election: {:?}", began.elapsed());
}

#[test]
fn signs_of_life_reach_the_leader_through_any_member() {
    let cluster = Cluster::new(3);
    let follower = cluster.node(cluster.follower());
    let session = SessionId(number(&settle(follower, open_session(60_000))));
    for number in 0..3 {
        assert_eq!(beat(cluster.node(number), session), Ok(()));
        assert_eq!(beat(cluster.node(number), SessionId(99_999)), Err(Error::SessionExpired));
    }
}

#[test]
fn a_worker_hears_of_a_job_while_its_node_still_syncs_it() {
    let mut cluster = Cluster::patient(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.close(follower);
    let disk = BadDisk::new();
    let config = NodeConfig { disk: disk.clone(), ..cluster.config(follower) };
    cluster.nodes[follower] = Some(Node::open(config).unwrap());
    let node = cluster.node(follower);
    // What it hands to the leader before would be lost, and with such patience nobody would notice for a minute.
    until(|| field_number(&node.health(), "peers_connected") == 2);
    let session = SessionId(number(&settle(node, open_session(60_000))));
    let worker = Events::of(node, session);
    assert!(!node.arm(worker.id, &["q"], &["f"]));
    disk.set(Mood::Hangs);
    settle(cluster.node(leader), enqueue(job(1), 8)); // The leader and the third member have it.
    assert_eq!(worker.next(), WatchEvent::Ready);
    assert_eq!(jobs(node), 0, "this one does not");
    disk.set(Mood::Good);
    assert_eq!(claimed(&settle(node, claim(session, "q", "f", 1)))[0].0, job(1));
    assert!(worker.is_empty(), "once");
}

#[test]
fn a_member_that_was_away_for_long_fetches_the_state() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(0), 64)));
    let away = cluster.follower();
    cluster.close(away);
    let leader = cluster.node(cluster.leader());
    // More than the log that is kept for members that fall behind.
    for batch in 0..120u64 {
        let ids: Vec<JobId> = (1..=100).map(|number| job(batch * 100 + number)).collect();
        payload(&settle(leader, enqueue_as(&ids, "q", "f", 2_000, 0)));
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
        payload(&settle(cluster.node(number as usize % 3), enqueue(job(number), 64)));
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
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let lost = cluster.follower();
    let id = cluster.node(lost).id();
    cluster.close(lost);
    std::fs::remove_dir_all(cluster.config(lost).dir).unwrap();
    let Err(Error::Foreign(why)) = Node::open(cluster.config(lost)) else { panic!("it was let in") };
    assert!(why.contains(&format!("raftwork cluster remove {id}")) && why.contains("without its data"), "{why}");
    // What the message says helps.
    cluster.remove(id);
    cluster.open(lost);
    cluster.wait_for_voters(3);
    let back = cluster.node(lost);
    fresh(back).unwrap();
    assert!(back.id() != id && jobs(back) == 1);
}

#[test]
fn d5_the_first_of_the_list_begins_no_second_group_after_it_lost_its_disk() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
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

/// All files below a directory.
fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    RealDisk.make_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_tree(&path, &target),
            kind if kind.is_file() => drop(std::fs::copy(&path, &target).unwrap()),
            _ => {} // The socket.
        }
    }
}

#[test]
fn d5_a_member_with_an_old_copy_of_its_directory_catches_up_and_loses_nothing() {
    let mut cluster = Cluster::new(3);
    let back = cluster.follower();
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    cluster.close(back);
    let (dir, copy) = (cluster.config(back).dir, cluster.dir.path().join("copy"));
    copy_tree(&dir, &copy);
    cluster.open(back);
    for number in 2..=50u64 {
        payload(&settle(cluster.node(back), enqueue(job(number), 64)));
    }
    cluster.close(back);
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&copy, &dir).unwrap();
    // The same leader as before: it knows that this member had more.
    cluster.open(back);
    fresh(cluster.node(back)).unwrap();
    assert_eq!(jobs(cluster.node(back)), 50);
    // And it counts again: with one of the others gone, its disk is one of the majority.
    let gone = (0..3).find(|number| *number != back && *number != cluster.leader()).unwrap();
    cluster.close(gone);
    payload(&settle(cluster.node(back), enqueue(job(51), 64)));
}

#[test]
fn a_node_joins_becomes_a_voter_and_another_leaves() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let added = cluster.join();
    let gone = cluster.follower();
    let id = cluster.node(gone).id();
    cluster.remove(id);
    until(|| cluster.node(gone).has_failed());
    cluster.nodes[gone] = None;
    cluster.wait_for_voters(3);
    let added = cluster.node(added);
    payload(&settle(added, enqueue(job(2), 64)));
    fresh(added).unwrap();
    assert_eq!(jobs(added), 2);
}

#[test]
fn a_node_with_a_new_disk_replaces_the_dead_one_at_its_address_in_one_step() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let lost = cluster.follower();
    let (old, address) = (cluster.node(lost).id(), cluster.addresses[lost].to_string());
    cluster.close(lost);
    std::fs::remove_dir_all(cluster.config(lost).dir).unwrap();
    let leader = cluster.leader();
    let replace = |cluster: &Cluster| {
        let (send, receive) = channel();
        let mut order = raftwork::base::codec::Writer::new();
        order.array(3).u64(8).u64(old.0).str(&address);
        cluster.node(leader).order("test", order.into_bytes(), Box::new(move |answer| drop(send.send(answer))));
        receive.recv_timeout(PATIENCE).unwrap().map(|done| done == [0xc3])
    };
    assert_eq!(replace(&cluster), Ok(false), "it waits for the new one");
    cluster.open(lost);
    let new = cluster.node(lost).id();
    // Never four voters of which one is dead.
    until(|| {
        let voters = cluster.node(leader).members().voters;
        assert!(voters.len() == 3, "{voters:?}");
        voters.contains(&new)
    });
    until(|| replace(&cluster) == Ok(true));
    cluster.wait_for_voters(3);
    assert!(!cluster.node(leader).members().voters.contains(&old));
    fresh(cluster.node(lost)).unwrap();
    assert_eq!(jobs(cluster.node(lost)), 1);
    assert!(matches!(replace(&cluster), Ok(true)), "asked again, it says so again");
}

#[test]
fn members_with_certificates_form_the_cluster_that_these_name() {
    let cluster_id = ClusterId([9; 16]);
    let dir = TempDir::new().unwrap();
    let files = Authority::create(cluster_id).unwrap().issue_node(&[]).unwrap().save(&dir.path().join("tls"), "node");
    let files = files.unwrap();
    let tls = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
    let cluster = Cluster::with(3, Told { security: Security::Tls(tls), ..Told::default() });
    for number in 1..=9u64 {
        payload(&settle(cluster.node(number as usize % 3), enqueue(job(number), 64)));
    }
    let node = cluster.node(1);
    fresh(node).unwrap();
    assert_eq!((jobs(node), node.cluster().0), (9, cluster_id));
}
