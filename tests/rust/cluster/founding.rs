//! Members of a list that end before the group answers: what they promise when they are back.

use raftwork::net::{packet, Admit, Listener, ListenerConfig};
use raftwork::node::NodeConfig;

use super::lone::refused;
use super::*;

/// What a node without data says to whoever asks for a group.
const FRESH: u8 = 68;

/// What whoever waits for it says.
const VOTES: &str = "of its first members must vote";

const SOON: Duration = Duration::from_millis(500);

/// Nodes without data that say so, and never get any further.
fn without_data(addresses: &[Address]) -> Vec<Listener> {
    let listening = |address: &Address| {
        let config = ListenerConfig::new("a test", address.clone(), Security::Plain, Admit::NODES);
        Listener::start(config, |accepted| {
            accepted.outgoing.send(packet::encode(FRESH, 0, &[]).unwrap());
            accepted.outgoing.drain(PATIENCE);
        })
    };
    addresses.iter().map(|address| listening(address).unwrap()).collect()
}

/// A list of so many whose first member has begun the group, and ended before the others joined.
fn begun(count: usize) -> Cluster {
    let cluster = Cluster::unopened(count, Told::default());
    let others = without_data(&cluster.addresses[1..]);
    let mut patience = SOON;
    while !is_founding(&cluster, 0) {
        // On a busy machine it may not have heard of all others in time.
        let why = gives_up(hasty(&cluster, 0, patience));
        patience *= 2;
        assert!(patience < PATIENCE, "it does not begin: {why}");
    }
    others.iter().for_each(Listener::end);
    waits_in_vain(hasty(&cluster, 0, SOON));
    cluster
}

/// Gives up to wait for the others after so long.
fn hasty(cluster: &Cluster, number: usize, patience: Duration) -> NodeConfig {
    let mut config = cluster.config(number);
    config.cluster.as_mut().unwrap().patience = patience;
    config
}

/// Why it gave up.
fn gives_up(config: NodeConfig) -> String {
    match Node::open(config) {
        Err(Error::Busy { holder, .. }) => holder,
        Err(other) => panic!("it waits for others, and ended with: {other}"),
        Ok(_) => panic!("it answers alone"),
    }
}

fn waits_in_vain(config: NodeConfig) {
    let holder = gives_up(config);
    assert!(holder.contains(VOTES), "{holder}");
}

fn is_founding(cluster: &Cluster, number: usize) -> bool {
    cluster.config(number).dir.join("FOUNDING").exists()
}

#[test]
fn d1_the_first_of_a_list_answers_nothing_alone_also_when_it_was_stopped_before_the_others_joined() {
    let mut cluster = begun(3);
    waits_in_vain(hasty(&cluster, 0, SOON));
    assert!(is_founding(&cluster, 0));
    cluster.open_all();
    cluster.wait_for_voters(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    for number in 0..3 {
        fresh(cluster.node(number)).unwrap();
        assert_eq!((jobs(cluster.node(number)), is_founding(&cluster, number)), (1, false));
    }
}

#[test]
fn d1_who_joins_a_group_that_is_about_to_begin_waits_as_its_first_member_does() {
    let mut cluster = begun(5);
    // Two of five vote: no majority, whoever leads.
    let mut patience = SOON;
    // On a busy machine it takes longer until the other one is in and has the state.
    while !(is_founding(&cluster, 1) && gives_up(hasty(&cluster, 1, SOON)).contains(VOTES)) {
        patience *= 2;
        assert!(patience < PATIENCE, "it does not join");
        let first = hasty(&cluster, 0, 2 * patience);
        let opening = std::thread::spawn(|| waits_in_vain(first));
        gives_up(hasty(&cluster, 1, patience));
        opening.join().unwrap();
    }
    assert!(is_founding(&cluster, 0));
    cluster.open_all();
    cluster.wait_for_voters(5);
    payload(&settle(cluster.node(1), enqueue(job(1), 64)));
    assert!((0..5).all(|number| !is_founding(&cluster, number)));
}

#[test]
fn a_member_that_waits_for_the_others_of_its_list_is_not_opened_without_its_settings() {
    let cluster = begun(3);
    let alone = || NodeConfig { cluster: None, ..cluster.config(0) };
    let why = refused(Node::open(alone()));
    assert!(why.contains("answers nothing before 2 of them vote") && why.contains("remove the file FOUNDING"), "{why}");
    // What the message says helps.
    std::fs::remove_file(alone().dir.join("FOUNDING")).unwrap();
    let node = Node::open(alone()).unwrap();
    payload(&settle(&node, enqueue(job(1), 64)));
}

#[test]
fn a_group_that_shrank_waits_for_nobody_who_is_in_its_settings_still() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    for _ in 0..2 {
        let gone = cluster.follower();
        let id = cluster.node(gone).id();
        cluster.remove(id);
        until(|| cluster.node(gone).has_failed());
        cluster.nodes[gone] = None;
    }
    cluster.wait_for_voters(1);
    let left = cluster.leader();
    cluster.close(left);
    cluster.open(left);
    payload(&settle(cluster.node(left), enqueue(job(2), 64)));
}
