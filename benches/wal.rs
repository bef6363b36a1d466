//! What one durable append costs beside the bare disk: the log's `append`, and one `pwrite` and `fdatasync` of the same
//! number of bytes into a file of zeros, in turns, so that both see the same disk.
//!
//! `cargo bench --bench wal [-- DIRECTORY]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use _core as raftwork;
use raftwork::base::{ClusterId, GroupId, Millis, NodeId};
use raftwork::disk::{write_zeros, Disk, Identity, RealDisk};
use raftwork::wal::{frame, Group, HardState, Wal, WalConfig, WalEntry};

/// Appends of each size. They fit one segment together with the others, so that no rotation is measured.
const ROUNDS: usize = 2_000;

fn main() {
    let dir = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("raftwork-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for the measurement");
    println!("{ROUNDS} appends of one entry, microseconds; {}", dir.display());
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "bytes", "disk p50", "log p50", "disk p99", "log p99", "log/disk"
    );
    for bytes in [256, 1_024, 4_096] {
        measure(&dir.join(bytes.to_string()), bytes);
    }
    std::fs::remove_dir_all(&dir).expect("it is ours");
}

fn measure(dir: &std::path::Path, bytes: usize) {
    std::fs::create_dir_all(dir).expect("room");
    let identity = Identity { cluster: ClusterId([1; 16]), group: GroupId(1), node: NodeId(1), created: Millis(0) };
    let config = WalConfig { create: true, ..WalConfig::default() };
    let (mut wal, _) = Wal::open(Arc::new(RealDisk), dir, &identity, config).expect("a new log");
    let bare = RealDisk.create(&dir.join("bare")).expect("room");
    write_zeros(&*bare, 0, 32 << 20).expect("room");
    bare.sync().expect("it works");
    let (mut of_disk, mut of_log, mut offset) = (Vec::new(), Vec::new(), 0);
    for index in 1..=ROUNDS as u64 {
        let entry = WalEntry { term: 1, index, kind: 0, data: vec![index as u8; bytes].into(), ..WalEntry::default() };
        let hard_state = Some(HardState { term: 1, vote: 1, commit: index - 1 });
        let entries = std::slice::from_ref(&entry);
        let group = vec![1; frame::group_bytes(&Group { hard_state, entries, ..Group::default() })];
        of_disk.push(timed(|| {
            bare.write_at(offset, &group).expect("room");
            bare.sync_data().expect("it works");
        }));
        offset += group.len() as u64;
        of_log.push(timed(|| wal.append(hard_state, entries).expect("room")));
    }
    let (disk50, disk99) = quantiles(of_disk);
    let (log50, log99) = quantiles(of_log);
    println!("{bytes:>8} {disk50:>10.1} {log50:>10.1} {disk99:>10.1} {log99:>10.1} {:>8.2}", log50 / disk50);
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}
