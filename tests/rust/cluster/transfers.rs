//! A state on its way to a member that is far behind: in pieces that go on where they broke off, and no faster than it may.

use super::*;

const MIB: u64 = 1 << 20;

/// What a node counts.
pub fn counted(node: &Node, name: &str) -> u64 {
    let text = node.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("raftwork_{name} ")));
    line.expect(name).parse().unwrap()
}

fn received(node: &Node) -> u64 {
    counted(node, "snapshot_received_bytes_total")
}

/// A cluster one of whose members is away, and what the others have is not in their logs any more: about 4 MiB of state.
struct Behind {
    cluster: Cluster,
    away: usize,
    jobs: u64,
}

impl Behind {
    fn new(told: Told) -> Self {
        let mut cluster = Cluster::with(3, told);
        let away = cluster.follower();
        cluster.close(away);
        let leader = cluster.node(cluster.leader());
        let mut jobs = 0;
        for _ in 0..16 {
            jobs += 1;
            payload(&settle(leader, enqueue_noise(job(jobs), 256_000)));
        }
        // More than the log that is kept for members that fall behind, and next to nothing in a state.
        while jobs < 16 + limits::LOG_BYTES_FOR_PEERS as u64 / 250_000 {
            let ids = [1, 2, 3].map(|number| job(jobs + number));
            payload(&settle(leader, enqueue_as(&ids, "q", "f", 250_000, 0)));
            jobs += 3;
        }
        cluster.nodes.iter().flatten().for_each(|node| node.snapshot_now().unwrap());
        Self { cluster, away, jobs }
    }

    /// The size of the state that the leader sends.
    fn size(&self) -> u64 {
        field_number(&self.cluster.node(self.cluster.leader()).health(), "snapshot_bytes")
    }

    /// Waits until the member has everything.
    fn catch_up(&self) -> &Node {
        let back = self.cluster.node(self.away);
        fresh(back).unwrap();
        assert_eq!(jobs(back), self.jobs);
        back
    }
}

#[test]
fn a_state_that_breaks_off_on_its_way_goes_on_where_it_was() {
    // Another leader would have another snapshot.
    let told = Told { gated: true, election_timeout: PATIENCE, ..Told::default() };
    let mut behind = Behind::new(told);
    // No connection lasts for the whole of it.
    behind.cluster.gates[behind.away].break_off_after(MIB);
    behind.cluster.open(behind.away);
    let (size, leader) = (behind.size(), behind.cluster.leader());
    assert!(size > 3 * MIB + limits::CHUNK_BYTES_MAX as u64, "{size} bytes");
    let back = behind.catch_up();
    assert_eq!(behind.cluster.leader(), leader);
    assert!(behind.cluster.gates[behind.away].broken() >= 3);
    assert_eq!(received(back), size, "each byte came once");
}

#[test]
fn a_state_is_sent_no_faster_than_it_may_also_when_it_is_sent_anew() {
    let rate = 4 * MIB;
    let told = Told { gated: true, election_timeout: PATIENCE, snapshot_rate: rate, ..Told::default() };
    let mut behind = Behind::new(told);
    let (size, began) = (behind.size(), Instant::now());
    behind.cluster.open(behind.away);
    let (back, dir) = (behind.cluster.node(behind.away), behind.cluster.config(behind.away).dir.join("snap"));
    let unfinished = || {
        let files = std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path());
        let mut unfinished = files.filter(|path| path.extension().is_some_and(|name| name == "tmp"));
        unfinished.find(|path| path.metadata().is_ok_and(|file| file.len() > 0))
    };
    let mut first = None;
    until(|| {
        first = unfinished();
        first.is_some()
    });
    // What has arrived is damaged on its disk, so that the whole is refused and sent a second time. Nothing more arrives
    // meanwhile.
    behind.cluster.gates[behind.away].set_stalled(true);
    let file = std::fs::OpenOptions::new().write(true).open(first.unwrap()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 1_000).unwrap();
    behind.cluster.gates[behind.away].set_stalled(false);
    behind.catch_up();
    assert_eq!(received(back), 2 * size);
    let bytes_per_second = (2 * size) as f64 / began.elapsed().as_secs_f64();
    // What a step takes longer than it should, the next ones make up for, but for the last.
    assert!(bytes_per_second < 1.15 * rate as f64, "{bytes_per_second} bytes a second");
    assert!(bytes_per_second > 0.05 * rate as f64, "{bytes_per_second} bytes a second");
}
