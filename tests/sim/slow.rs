//! A2: one slow member of three does not slow down those who ask the others.

use crate::cluster::Cluster;
use crate::{Micros, SECOND};

/// A disk that takes so long for a sync.
const SLOW_MICROS: u64 = 200_000;
const WARM: Micros = 5 * SECOND;
const SPAN: Micros = 20 * SECOND;

enum Trouble {
    Nothing,
    SlowDisk,
    Paused,
}

/// The time that 99 of 100 writes take at most, and how many there were.
fn p99(seed: u64, trouble: &Trouble) -> (Micros, usize) {
    let mut cluster = Cluster::new(seed, 3, 3, 2);
    cluster.calm = true; // Nothing else goes wrong.
    cluster.run_until(WARM);
    let leader = cluster.leader().expect("one leads by now");
    cluster.clients.iter_mut().for_each(|client| client.node = leader);
    let other = (leader + 1) % 3;
    match trouble {
        Trouble::Nothing => {}
        Trouble::SlowDisk => cluster.nodes[other].sync_micros = SLOW_MICROS,
        Trouble::Paused => cluster.pause_for(other, SPAN),
    }
    cluster.run_until(WARM + SPAN);
    let writes = cluster.ledger.record.operations.iter().filter(|operation| operation.act.is_write());
    let mut times: Vec<Micros> = writes
        .filter(|write| write.began > WARM && write.index.is_some())
        .map(|write| write.ended - write.began)
        .collect();
    times.sort_unstable();
    (times[times.len() * 99 / 100], times.len())
}

#[test]
fn a2_a_slow_or_paused_minority_does_not_slow_down_writes() {
    raftwork::machine::be_newer(false);
    for seed in 0..2 {
        let (healthy, count) = p99(seed, &Trouble::Nothing);
        assert!(count > 1_000, "only {count} writes");
        for (name, trouble) in [("a disk of 200 ms", Trouble::SlowDisk), ("a pause", Trouble::Paused)] {
            let (slow, writes) = p99(seed, &trouble);
            assert!(slow <= 2 * healthy, "seed {seed}: with {name} p99 is {slow} us of {writes}, healthy {healthy} us");
        }
    }
}
