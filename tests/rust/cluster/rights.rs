//! Who may do what, judged by a member that is behind.

use raftwork::net::Role;
use raftwork::node::access::Principal;
use raftwork::node::NodeConfig;

use super::*;
use crate::node::support::{BadDisk, Mood};

#[test]
fn what_a_member_that_is_behind_does_not_know_is_judged_after_it_has_caught_up() {
    let mut cluster = Cluster::patient(3);
    let behind = cluster.follower();
    cluster.close(behind);
    let disk = BadDisk::new();
    let config = NodeConfig { disk: disk.clone(), ..cluster.config(behind) };
    cluster.nodes[behind] = Some(Node::open(config).unwrap());
    let node = cluster.node(behind);
    fresh(node).unwrap();
    disk.set(Mood::Hangs);
    let session = SessionId(number(&settle(cluster.node(cluster.leader()), open_session(60_000))));
    disk.wait_hanging();
    let client = Principal::certified(&Role::Client("shop".into()));
    let close = || node.authorize(&client, close_session(session));
    assert!(matches!(close(), Err(Error::NotCommitted(_))), "it may be somebody's");
    disk.set(Mood::Good);
    until(|| !matches!(close(), Err(Error::NotCommitted(_))));
    assert!(matches!(close(), Err(Error::Denied { .. })), "it is somebody else's");
    assert!(node.authorize(&client, close_session(SessionId(99_999))).is_ok(), "it is nobody's, anywhere");
}
