//! Ports of this machine at which nobody listens, for listeners that come and go.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use raftwork::net::Address;

/// Below those that the system gives to connections: such a port could be that of a connection when its listener comes back.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

/// Pairs that were looked at so far.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Free ports with a free one behind each, for the clients of a node. None is given twice in a process.
pub fn free_ports(count: usize) -> Vec<u16> {
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let pairs = PORTS.len() as u32 / 2;
    // Another run of these tests beside this one begins elsewhere.
    let first = std::process::id().wrapping_mul(127);
    let candidates = std::iter::from_fn(|| {
        let pair = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(pair < pairs, "all ports were looked at");
        Some((PORTS.start + first.wrapping_add(pair) % pairs * 2) as u16)
    });
    candidates.filter(|port| bind(*port).is_ok() && bind(*port + 1).is_ok()).take(count).collect()
}

/// The same as addresses.
pub fn free_addresses(count: usize) -> Vec<Address> {
    free_ports(count).iter().map(|port| Address::parse(&format!("127.0.0.1:{port}")).unwrap()).collect()
}

#[test]
fn no_port_is_given_twice() {
    let (first, second) = (free_ports(3), free_ports(3));
    assert!(first.iter().all(|port| !second.contains(port) && !second.contains(&(port + 1))));
    assert!(first.iter().chain(&second).all(|port| PORTS.contains(&u32::from(*port))));
}
