//! A member that is a whole group, for tests of what only one of several does.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClusterConfig, Node, NodeConfig};
use crate::net::Address;

const PATIENCE: Duration = Duration::from_secs(30);

/// In a new directory below this one. Nothing more is written of itself.
pub fn open(dir: &Path) -> Arc<Node> {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::from(free.local_addr().expect("its number"));
    drop(free);
    let mut config = NodeConfig::new(dir.join("data"));
    config.cluster = Some(ClusterConfig::new(address.clone(), vec![address]));
    let node = Node::open(config).expect("it opens");
    let latest = Instant::now() + PATIENCE;
    while node.shared.machine.read().members().next().is_none() {
        assert!(Instant::now() < latest, "it lists itself");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    node
}
