//! Raw durable commits: one enqueue of a job with 256 bytes of arguments per commit, each answered after its sync.
//!
//! `cargo bench --bench commits -- --place DIR --seconds 2 --rounds 5 --clients 1,8,32` prints one line of JSON per figure
//! and round: commits a second, and the median and 99th percentile of one commit. `sync_p50_us` is a bare fdatasync of
//! 4 KiB in a zero-filled file, just before. Only a round's own time counts, not the opening of the node.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use _core::base::codec::Writer;
use _core::base::JobId;
use _core::node::{Node, NodeConfig};

const ARGUMENT_BYTES: usize = 256;
const SYNCS: u64 = 500;

struct Options {
    place: PathBuf,
    seconds: f64,
    rounds: usize,
    clients: Vec<usize>,
}

/// Commits a second, and how long one took.
struct Figures {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
}

fn main() {
    let options = read_options();
    for round in 0..options.rounds {
        for &clients in &options.clients {
            let dir = tempfile::Builder::new()
                .prefix(".raftwork-commits-")
                .tempdir_in(&options.place)
                .expect("the place of the benchmark is writable");
            let sync_p50_us = sync_p50(dir.path());
            let Figures { rate, p50_us, p99_us } =
                measure(&dir.path().join("data"), clients, Duration::from_secs_f64(options.seconds));
            println!(
                "{{\"clients\": {clients}, \"round\": {round}, \"commits_per_second\": {rate:.0}, \"p50_us\": {p50_us}, \
                 \"p99_us\": {p99_us}, \"sync_p50_us\": {sync_p50_us}}}"
            );
        }
    }
}

/// Options that cargo itself adds, such as `--bench`, are passed over.
fn read_options() -> Options {
    let mut options = Options { place: PathBuf::from("."), seconds: 2.0, rounds: 5, clients: vec![1, 32] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("this option has a value");
        match word.as_str() {
            "--place" => options.place = PathBuf::from(value()),
            "--seconds" => options.seconds = value().parse().expect("--seconds is a number"),
            "--rounds" => options.rounds = value().parse().expect("--rounds is a whole number"),
            "--clients" => {
                let parse = |text: &str| text.parse().expect("--clients is a list such as 1,8,32");
                options.clients = value().split(',').map(parse).collect();
            }
            _ => {}
        }
    }
    options
}

/// Commits by this many threads that each wait for one answer before they send the next.
fn measure(dir: &Path, clients: usize, time: Duration) -> Figures {
    let node = Node::open(NodeConfig::new(dir)).expect("the node opens in an empty directory");
    let (gate, stop) = (Arc::new(Barrier::new(clients + 1)), Arc::new(AtomicBool::new(false)));
    let ids = Arc::new(AtomicU64::new(1));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (node, gate, stop) = (Arc::clone(&node), Arc::clone(&gate), Arc::clone(&stop));
            let ids = Arc::clone(&ids);
            thread::spawn(move || {
                let mut times = Vec::new();
                gate.wait();
                while !stop.load(Ordering::Relaxed) {
                    let request = enqueue(ids.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    node.submit(request, None).expect("a healthy node commits");
                    times.push(sent.elapsed().as_micros() as u64);
                }
                times
            })
        })
        .collect();
    gate.wait();
    let began = Instant::now();
    // An answer that this thread took by itself may have left a wake-up behind.
    while let Some(left) = time.checked_sub(began.elapsed()) {
        thread::park_timeout(left);
    }
    stop.store(true, Ordering::Relaxed);
    let join = |thread: thread::JoinHandle<Vec<u64>>| thread.join().expect("a client does not panic");
    let mut times: Vec<u64> = threads.into_iter().flat_map(join).collect();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    node.close().expect("the node closes");
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied().unwrap_or_default();
    Figures { rate, p50_us: at(50), p99_us: at(99) }
}

/// Median of a write of 4 KiB with fdatasync, in a file that was filled with zeros before.
fn sync_p50(dir: &Path) -> u64 {
    let file = fs::File::create(dir.join("sync")).expect("the place of the benchmark is writable");
    let write = |byte: u8, place: u64| file.write_all_at(&[byte; 4096], place * 4096).expect("there is room");
    (0..SYNCS).for_each(|place| write(0, place));
    file.sync_all().expect("the disk syncs");
    let mut times: Vec<u64> = (0..SYNCS)
        .map(|place| {
            let began = Instant::now();
            write(1, place);
            file.sync_data().expect("the disk syncs");
            began.elapsed().as_micros() as u64
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A request without a session: one spec and one job.
fn enqueue(number: u64) -> Vec<u8> {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut writer = Writer::with_capacity(ARGUMENT_BYTES + 128);
    writer.array(4).u64(0).u64(0).u64(0);
    writer.array(3).u64(4);
    writer.array(1).array(14);
    writer.str("bench.noop").str("bench").i64(0).u64(10).u64(3).nil().u64(86_400_000).u64(86_400_000);
    writer.array(0).u64(0).nil().nil().u64(0).bin(&[]);
    writer.array(1).array(6);
    writer.id(JobId(id)).u64(0).bin(&[7; ARGUMENT_BYTES]).u64(0).nil().nil();
    writer.into_bytes()
}
