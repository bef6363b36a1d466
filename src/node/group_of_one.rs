//! A member that is a whole group, for tests of what only one of several does.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use super::{ClusterConfig, Node, NodeConfig};
use crate::net::Address;

/// In a new directory below this one.
pub fn open(dir: &Path) -> Arc<Node> {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::from(free.local_addr().expect("its number"));
    drop(free);
    let mut config = NodeConfig::new(dir.join("data"));
    config.cluster = Some(ClusterConfig::new(address.clone(), vec![address]));
    Node::open(config).expect("it opens")
}
