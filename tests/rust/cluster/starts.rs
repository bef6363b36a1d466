//! How members start: what they say of themselves meanwhile, and who lets whom in.

use raftwork::node::NodeConfig;

use super::*;
use crate::node::support::{BadDisk, Mood};

#[test]
fn a_member_that_was_removed_while_it_was_away_hears_of_it_and_stays_away() {
    let mut cluster = Cluster::new(3);
    let away = cluster.follower();
    let id = cluster.node(away).id();
    cluster.close(away);
    cluster.remove(id);
    until(|| cluster.nodes.iter().flatten().all(|node| node.members().voters.len() == 2));
    cluster.open(away);
    let (tell, told) = channel();
    cluster.node(away).when_failed(move || tell.send(()).unwrap());
    told.recv_timeout(PATIENCE).expect("it asks, and is told");
    let ended = cluster.nodes[away].take().unwrap().close().unwrap_err().to_string();
    assert!(ended.contains("was removed from the cluster"), "{ended}");
    let Err(refused) = Node::open(cluster.config(away)) else { panic!("it came back") };
    assert!(refused.to_string().contains("was removed from the cluster"), "{refused}");
}

#[test]
fn d5_no_second_group_begins_while_the_others_still_read_their_data() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let lost = cluster.node(0).id();
    (0..3).for_each(|number| cluster.close(number));
    std::fs::remove_dir_all(cluster.config(0).dir).unwrap();
    let disks = [BadDisk::new(), BadDisk::new()];
    let opening = [1, 2].map(|number| {
        let disk = disks[number - 1].clone();
        disk.set(Mood::ListHangs);
        let config = NodeConfig { disk: disk.clone(), ..cluster.config(number) };
        let opening = std::thread::spawn(|| Node::open(config));
        disk.wait_hanging();
        opening
    });
    // The first of the list has lost its data: only the others know that there was a group.
    let mut config = cluster.config(0);
    config.cluster.as_mut().unwrap().patience = Duration::from_millis(300);
    let begun = Node::open(config);
    assert!(matches!(begun, Err(Error::Busy { .. })), "{:?}", begun.map(|node| node.members()));
    disks.iter().for_each(|disk| disk.set(Mood::Good));
    for (number, opening) in [1, 2].into_iter().zip(opening) {
        cluster.nodes[number] = Some(opening.join().unwrap().unwrap());
    }
    let Err(Error::Foreign(why)) = Node::open(cluster.config(0)) else { panic!("it was let in") };
    assert!(why.contains(&format!("raftwork cluster remove {lost}")), "{why}");
    assert_eq!(cluster.node(1).members().voters.len(), 3);
}
