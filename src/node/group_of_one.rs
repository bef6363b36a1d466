//! A member that is a whole group, for tests of what only one of several does.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{own_request, ClusterConfig, Node, NodeConfig};
use crate::base::codec::Writer;
use crate::base::JobId;
use crate::net::Address;

const PATIENCE: Duration = Duration::from_secs(30);

/// In a new directory below this one. Nothing more is written of itself.
pub fn open(dir: &Path) -> Arc<Node> {
    open_with(dir, true)
}

/// As `open`, with an archive or without.
pub fn open_with(dir: &Path, archive: bool) -> Arc<Node> {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::from(free.local_addr().expect("its number"));
    drop(free);
    let mut config = NodeConfig::new(dir.join("data"));
    config.cluster = Some(ClusterConfig::new(address.clone(), vec![address]));
    config.archive = archive;
    let node = Node::open(config).expect("it opens");
    let latest = Instant::now() + PATIENCE;
    while node.shared.machine.read().members().next().is_none() {
        assert!(Instant::now() < latest, "it lists itself");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    node
}

pub fn command(build: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut command = Writer::new();
    build(&mut command);
    own_request(&command)
}

/// Each with its unique key, and the job after whose end it runs.
pub fn enqueue_all(jobs: &[(JobId, Option<&str>, Option<JobId>)]) -> Vec<u8> {
    command(|out| {
        out.array(3).u64(4).array(1);
        out.array(14).str("f").str("q").i64(0).u64(3).u64(3).nil().u64(60_000).u64(60_000).array(0);
        out.u64(0).u64(3_600_000).nil().u64(0).bin(&[]).array(jobs.len());
        for (id, key, parent) in jobs {
            out.array(if parent.is_some() { 7 } else { 6 }).id(*id).u64(0).bin(&[7; 9]).u64(0).nil();
            out.option(*key, |out, key| {
                out.str(key);
            });
            if let Some(parent) = parent {
                out.map(1).u64(1).array(1).array(3).id(*parent).u64(2).bool(false);
            }
        }
    })
}

/// Ends these jobs.
pub fn cancel(jobs: &[JobId]) -> Vec<u8> {
    command(|out| {
        out.array(3).u64(8).array(jobs.len());
        jobs.iter().fold(out, |out, id| out.id(*id)).str("test");
    })
}
