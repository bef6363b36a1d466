//! The archive thread of a node: it keeps up with what finishes.

use std::time::Instant;

use raftwork::base::JobId;
use raftwork::node::{Node, NodeConfig};

use super::support::{until, Home};
use super::{jobs, session};
use crate::requests::*;

#[test]
fn expiry_keeps_up_with_what_finishes() {
    let home = Home::new();
    let open = || Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    let records = |node: &Node| field_number(&field(&node.health(), "archive"), "records");
    let node = open();
    let session = session(&node, 60_000);
    let finishing = Instant::now();
    for round in 0..20 {
        let ids: Vec<JobId> = (round * 1_000..(round + 1) * 1_000).map(job).collect();
        node.submit(enqueue_as(&ids, "q", "f", 64, 0), None).unwrap();
        node.submit(succeed(&claimed(&node.submit(claim(session, "q", "f", 1_000), None).unwrap())), None).unwrap();
    }
    until(|| jobs(&node) == 0);
    let finishing = finishing.elapsed();
    assert_eq!(records(&node), 20_000);
    node.close().unwrap();
    drop(node);
    home.clock.advance(3_600_000);
    let expiring = Instant::now();
    let node = open();
    until(|| records(&node) == 0);
    let expiring = expiring.elapsed();
    println!("20,000 jobs finished and archived in {finishing:?}, expired in {expiring:?}");
    assert!(expiring < finishing * 2, "finishing took {finishing:?}, expiring {expiring:?}");
}
