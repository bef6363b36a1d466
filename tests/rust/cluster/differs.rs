//! L6: a member whose state differs serves no more, says so, and is told of by the others until a new one is in its place.

use std::path::PathBuf;

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::limits::DIGEST_ENTRIES;
use raftwork::node::doctor;

use super::*;
use crate::wire::{self, Command};

/// Something happens to the state of one member only.
fn disturb(node: &Node) {
    let pause = Command::Pause { queue: "mail".into(), until: None, reason: String::new() };
    node.disturb(&wire::request(0, 0, 0, &pause)).expect("a known operation");
}

/// Entries until the leader makes its next mark. It tells the log of it with its next tick.
fn work_on(node: &Node, first: u64) {
    let (send, receive) = channel();
    let numbers = first..first + DIGEST_ENTRIES;
    for number in numbers.clone() {
        let send = send.clone();
        node.start(enqueue(job(number), 8), Box::new(move |answer| drop(send.send(answer))));
    }
    for _ in numbers {
        receive.recv_timeout(PATIENCE).unwrap().expect("it is written, whoever leads");
    }
}

fn alarms(node: &Node) -> Vec<String> {
    field_texts(&node.health(), "alarms")
}

fn tells_of(node: &Node, odd: NodeId) -> bool {
    alarms(node).iter().any(|alarm| {
        alarm.contains(&format!("the state of member {odd} differs"))
            && alarm.contains(&format!("raftwork cluster replace {odd}"))
    })
}

/// What a leader sends to each of the others.
fn sends(leader: &Node) -> Vec<String> {
    let peers = field(&leader.health(), "peers");
    let mut reader = Reader::new(&peers);
    (0..reader.array().unwrap()).map(|_| field_text(reader.raw().unwrap(), "state")).collect()
}

fn problems(dir: &std::path::Path) -> Vec<String> {
    field_texts(&doctor::inspect(dir).unwrap(), "problems")
}

/// Waits until this member has stopped for good, and gives its words and its directory.
fn stopped(cluster: &mut Cluster, number: usize) -> (String, PathBuf) {
    let (tell, told) = channel();
    cluster.node(number).when_failed(move || tell.send(()).unwrap());
    told.recv_timeout(PATIENCE).expect("it stops");
    let failed = cluster.nodes[number].take().unwrap().close();
    let Err(Error::Differs(why)) = failed else { panic!("{failed:?}") };
    (why, cluster.config(number).dir)
}

/// Has whoever comes to the address of this member take its place. True: it has.
fn replace(cluster: &Cluster, old: NodeId, address: &str) -> bool {
    let (send, receive) = channel();
    let mut order = Writer::new();
    order.array(3).u64(8).u64(old.0).str(address);
    let leader = cluster.node(cluster.leader());
    leader.order("test", order.into_bytes(), Box::new(move |answer| drop(send.send(answer))));
    match receive.recv_timeout(PATIENCE).unwrap() {
        Ok(done) => Reader::new(&done).bool().unwrap(),
        Err(Error::NotCommitted(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn l6_a_member_that_differs_stops_for_good_and_a_new_one_takes_its_place() {
    let mut cluster = Cluster::new(3);
    let odd = cluster.follower();
    let (id, address) = (cluster.node(odd).id(), cluster.addresses[odd].to_string());
    disturb(cluster.node(odd));
    work_on(cluster.node(cluster.leader()), 0);
    let (why, dir) = stopped(&mut cluster, odd);
    let shown = dir.display();
    for words in [
        format!("the state of node {id} differs from that of a majority of the members since entry {DIGEST_ENTRIES}"),
        format!("mv {shown} {shown}.differs"),
        format!("raftwork cluster replace {id} {address}"),
        format!("raftwork cluster remove {id}"),
        format!("raftwork doctor {shown}"),
    ] {
        assert!(why.contains(&words), "{words}: {why}");
    }
    // Whoever opens the directory again, and however often.
    let wal = std::fs::read_dir(dir.join("wal")).unwrap().count();
    for _ in 0..2 {
        let refused = Node::open(cluster.config(odd)).map(drop);
        assert_eq!(refused, Err(Error::Differs(why.clone())));
    }
    assert!(problems(&dir)[0].contains(&why), "{:?}", problems(&dir));
    assert_eq!(std::fs::read_dir(dir.join("wal")).unwrap().count(), wal, "the evidence is left as it is");
    for node in cluster.nodes.iter().flatten() {
        until(|| tells_of(node, id));
        until(|| node.metrics().contains("\nraftwork_alarms 1\n"));
    }
    // What its words say brings it back.
    std::fs::rename(&dir, dir.with_extension("differs")).unwrap();
    replace(&cluster, id, &address);
    cluster.open(odd);
    until(|| replace(&cluster, id, &address));
    cluster.wait_for_voters(3);
    fresh(cluster.node(odd)).unwrap();
    assert_eq!(jobs(cluster.node(odd)), DIGEST_ENTRIES);
    until(|| cluster.nodes.iter().flatten().all(|node| alarms(node).is_empty()));
}

#[test]
fn l6_a_leader_that_differs_stops_for_good_and_the_others_go_on() {
    let mut cluster = Cluster::new(3);
    let odd = cluster.leader();
    let (id, other) = (cluster.node(odd).id(), cluster.nodes[cluster.follower()].clone().unwrap());
    disturb(cluster.node(odd));
    work_on(&other, 0);
    let (_, dir) = stopped(&mut cluster, odd);
    assert!(dir.join("DIFFERS").exists());
    settle(&other, enqueue(job(5_000), 8));
    until(|| cluster.nodes.iter().flatten().all(|node| tells_of(node, id)));
}

#[test]
fn l6_a_member_in_doubt_answers_nothing_from_its_state_until_a_majority_decides() {
    let mut cluster = Cluster::new(3);
    let (leader, odd) = (cluster.leader(), cluster.follower());
    let away = (0..3).find(|number| ![leader, odd].contains(number)).unwrap();
    let id = cluster.node(odd).id();
    cluster.close(away);
    disturb(cluster.node(odd));
    work_on(cluster.node(cluster.leader()), 0);
    // Two members, and two opinions.
    let node = cluster.nodes[odd].clone().unwrap();
    let question = [&[0x92, 3, 0xc4, 16][..], &job(1).0].concat();
    let doubt = format!("differs from the mark that the log has of entry {DIGEST_ENTRIES}");
    until(|| match view(&node, &question) {
        Err(Error::NotCommitted(why)) => why.contains(&doubt),
        answered => answered.map(|_| false).unwrap(),
    });
    assert!(!node.is_ready() && alarms(&node)[0].contains("it answers nothing until it knows who is wrong"));
    let soon = Some(Instant::now() + Duration::from_millis(100));
    let refused = node.submit(enqueue(job(6_000), 8), soon);
    assert!(matches!(refused, Err(Error::NotCommitted(_))), "{refused:?}");
    // Its log is not in doubt: with its disk, the other one goes on.
    let other = cluster.nodes[leader].clone().unwrap();
    settle(&other, enqueue(job(5_000), 8));
    until(|| tells_of(&other, id));
    assert!(!node.has_failed());
    cluster.open(away);
    stopped(&mut cluster, odd);
    fresh(cluster.node(away)).unwrap();
    assert_eq!(jobs(cluster.node(away)), DIGEST_ENTRIES + 1);
}

#[test]
fn l6_a_disputed_state_is_given_to_no_member_until_somebody_decides() {
    let mut cluster = Cluster::with(3, Told { log_bytes_for_peers: 0, ..Told::default() });
    let (odd, right) = (cluster.leader(), cluster.follower());
    let away = (0..3).find(|number| ![odd, right].contains(number)).unwrap();
    let (id, leader) = (cluster.node(odd).id(), cluster.nodes[odd].clone().unwrap());
    cluster.close(away);
    disturb(&leader);
    work_on(&leader, 0);
    until(|| alarms(cluster.node(right)).iter().any(|alarm| alarm.contains("it answers nothing until")));
    leader.snapshot_now().unwrap();
    cluster.open(away);
    // It asks for a state, and the leader says why it keeps its own.
    until(|| sends(&leader).contains(&"snapshot".to_owned()));
    let said = "so it is given to no member that needs one";
    assert!(leader.leads() && alarms(&leader).iter().any(|alarm| alarm.contains(said)), "{:?}", alarms(&leader));
    assert!(field_number(&cluster.node(away).health(), "applied") < DIGEST_ENTRIES);
    cluster.remove(id);
    cluster.nodes[odd] = None;
    until(|| jobs(cluster.node(away)) == DIGEST_ENTRIES);
    settle(cluster.node(right), enqueue(job(5_000), 8));
    until(|| alarms(cluster.node(right)).is_empty());
}
