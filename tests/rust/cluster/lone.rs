//! What a member's directory is to a process that cannot reach the other members: never a group of its own.

use std::path::{Path, PathBuf};

use raftwork::base::Millis;
use raftwork::client::patience::Patience;
use raftwork::client::request::Failure;
use raftwork::client::{Client, Options, Role};
use raftwork::disk::Lock;
use raftwork::machine::Bounds;
use raftwork::replica::{Newcomer, Replica, ReplicaConfig};

use super::*;
use crate::node::doctor::content;

/// The same directory for a process without `listen`.
fn without_listen(config: NodeConfig) -> NodeConfig {
    NodeConfig { cluster: None, ..config }
}

/// Why it was not done, as it is a member's.
pub fn refused<T>(opened: Result<T, Error>) -> String {
    match opened {
        Err(error @ Error::Member(_)) => error.to_string(),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// A cluster whose members are all stopped, with work in their logs. Member 0 began it, with itself as the only voter.
pub fn stopped() -> Cluster {
    let mut cluster = Cluster::new(3);
    (1..=20).for_each(|number| drop(payload(&settle(cluster.node(0), enqueue(job(number), 300)))));
    for node in cluster.nodes.iter().flatten() {
        fresh(node).unwrap();
    }
    (0..3).for_each(|number| cluster.close(number));
    cluster
}

/// Where a member serves clients.
fn next(address: &Address) -> String {
    address.with_port(address.port() + 1).to_string()
}

#[test]
fn l1_a_members_directory_is_not_opened_without_its_settings_and_is_left_as_it_is() {
    let mut cluster = stopped();
    for number in 0..3 {
        let dir = cluster.config(number).dir;
        let before = content(&dir);
        let why = refused(Node::open(without_listen(cluster.config(number))));
        assert!(why.contains("one of several members"), "{why}");
        let config = NodeConfig { owner_patience: Duration::ZERO, ..without_listen(cluster.config(number)) };
        let why = refused(client(config));
        assert!(why.contains(&format!("raftwork node --data {} --listen ", dir.display())), "{why}");
        let clients: Vec<_> =
            (0..3).filter(|other| *other != number).map(|other| next(&cluster.addresses[other])).collect();
        assert!(why.contains("--storage raftwork://") && clients.iter().all(|address| why.contains(address)), "{why}");
        assert!(content(&dir) == before, "nothing was changed");
    }
    (0..3).for_each(|number| cluster.open(number));
    for number in 0..3 {
        fresh(cluster.node(number)).unwrap();
    }
}

#[test]
fn a_node_that_waits_for_its_first_state_is_not_opened_without_its_settings() {
    let dir = TempDir::new().unwrap();
    let config = ReplicaConfig {
        disk: Arc::new(RealDisk),
        dir: dir.path().to_owned(),
        segment_bytes: 1 << 20,
        snapshot_bytes: 1 << 30,
        log_bytes_max: 2 << 30,
        log_bytes_for_peers: 0,
        bounds: Bounds::default(),
        now: Millis(1),
        newcomer: Some(Newcomer { cluster: ClusterId([1; 16]), node: NodeId(7), voters: Vec::new() }),
        alone: false,
    };
    drop(Replica::<u64>::open(&config, Box::new(|_| {})).unwrap());
    let why = refused(Node::open(NodeConfig::new(dir.path())));
    assert!(why.contains("joins a cluster"), "{why}");
}

#[test]
fn the_last_member_that_is_left_may_be_opened_alone() {
    let mut cluster = Cluster::new(2);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let gone = cluster.follower();
    let id = cluster.node(gone).id();
    cluster.remove(id);
    until(|| cluster.node(gone).has_failed());
    cluster.nodes[gone] = None;
    let left = 1 - gone;
    cluster.wait_for_voters(1);
    cluster.close(left);
    let alone = Node::open(without_listen(cluster.config(left))).unwrap();
    assert_eq!(jobs(&alone), 1);
}

// -- processes beside a member ----------------------------------------------------------------------------------------

fn patience() -> Patience<'static> {
    Patience::after(Some(PATIENCE))
}

fn client(config: NodeConfig) -> Result<Arc<Client>, Error> {
    Client::open(config, Options::default(), &mut patience())
}

fn put(client: &Client, number: u64) -> Result<Vec<u8>, Failure> {
    client.submit(&enqueue(job(number), 64)[4..], &mut patience())
}

/// A cluster of which one member is owned by a client, as a process does that embeds it.
struct Beside {
    cluster: Cluster,
    number: usize,
    clients: Address,
}

impl Beside {
    fn new() -> Self {
        let mut cluster = Cluster::new(3);
        let number = cluster.follower();
        cluster.close(number);
        Self { cluster, number, clients: free_addresses(1).remove(0) }
    }

    /// With the settings of the member.
    fn member(&self) -> NodeConfig {
        let mut config = self.cluster.config(self.number);
        config.cluster.as_mut().unwrap().listen_clients = Some(self.clients.clone());
        config
    }

    /// Beside it, without them.
    fn beside(&self) -> NodeConfig {
        without_listen(self.member())
    }

    fn dir(&self) -> PathBuf {
        self.member().dir
    }
}

/// Whether nobody keeps the lock.
fn is_free(dir: &Path) -> bool {
    Lock::take(dir).is_ok()
}

#[test]
fn a_process_beside_a_member_waits_for_its_owner_and_does_not_take_over() {
    let home = Beside::new();
    let owner = client(home.member()).unwrap();
    let worker = client(home.beside()).unwrap();
    assert_eq!((owner.role(), worker.role()), (Role::Owner, Role::Attached));
    put(&worker, 1).unwrap();
    owner.close(&mut patience()).unwrap();
    let (tell, told) = channel::<Result<Vec<u8>, Failure>>();
    let asking = worker.clone();
    let asked = std::thread::spawn(move || drop(tell.send(put(&asking, 2))));
    until(|| is_free(&home.dir()));
    let owner = client(home.member()).expect("the lock is free for the owner");
    assert_eq!((owner.role(), worker.role()), (Role::Owner, Role::Attached));
    told.recv_timeout(PATIENCE).expect("it waited").expect("its call went through");
    asked.join().unwrap();
    put(&worker, 3).unwrap();
    worker.close(&mut patience()).unwrap();
    owner.close(&mut patience()).unwrap();
}

#[test]
fn calls_beside_a_member_are_told_when_its_owner_stays_away_and_go_on_when_it_is_back() {
    let home = Beside::new();
    let owner = client(home.member()).unwrap();
    let worker = client(NodeConfig { owner_patience: Duration::from_millis(50), ..home.beside() }).unwrap();
    put(&worker, 1).unwrap();
    owner.close(&mut patience()).unwrap();
    let why = loop {
        match put(&worker, 2) {
            Err(Failure::Error(Error::Member(why))) => break why,
            // It was on its way when the owner closed.
            Err(Failure::Error(Error::Unknown(_))) | Ok(_) => {}
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(why.contains("Start its node") && why.contains("--storage raftwork://"), "{why}");
    assert!(matches!(worker.health(), Err(Error::Member(_))));
    assert!(is_free(&home.dir()), "nobody keeps the lock");
    let owner = client(home.member()).unwrap();
    until(|| put(&worker, 3).is_ok());
    assert_eq!((owner.role(), worker.role()), (Role::Owner, Role::Attached));
    worker.close(&mut patience()).unwrap();
    owner.close(&mut patience()).unwrap();
}

#[test]
fn a_process_that_starts_before_the_member_attaches_to_it() {
    let home = Beside::new();
    let beside = home.beside();
    let waiting = std::thread::spawn(move || client(beside));
    let owner = client(home.member()).unwrap();
    let worker = waiting.join().unwrap().unwrap();
    assert_eq!((owner.role(), worker.role()), (Role::Owner, Role::Attached));
    put(&worker, 1).unwrap();
    worker.close(&mut patience()).unwrap();
    owner.close(&mut patience()).unwrap();
}

#[test]
fn a_process_with_the_settings_of_the_member_takes_over() {
    let home = Beside::new();
    let (first, second) = (client(home.member()).unwrap(), client(home.member()).unwrap());
    assert_eq!((first.role(), second.role()), (Role::Owner, Role::Attached));
    first.close(&mut patience()).unwrap();
    until(|| second.role() == Role::Owner);
    put(&second, 1).unwrap();
    second.close(&mut patience()).unwrap();
}
