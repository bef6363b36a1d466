//! The state machine alone: what a claim costs beside few and many waiting jobs, what a waiting job weighs, how long a
//! capture stalls the machine, and how fast an image is written and loaded.
//!
//! `cargo bench --features sim --bench core [-- --jobs 1000000]`. No disk and no threads: every figure is one core's work.

extern crate _core as raftwork;

#[path = "../tests/rust/wire.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod wire;

use std::time::Instant;

use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::{Effects, Loader, Machine};
use wire::{Command, End, Job, Spec};

/// MessagePack of no arguments and no keywords: `[[], {}]`.
const NO_ARGUMENTS: [u8; 3] = [0x92, 0x90, 0x80];
const BATCH: usize = 1_000;

/// A machine and what a client and a worker of it would remember.
#[derive(Default)]
struct Bench {
    machine: Machine,
    index: u64,
    made: u64,
    session: u64,
}

impl Bench {
    fn with_waiting(jobs: usize) -> Self {
        let mut bench = Self::default();
        bench.open();
        let mut left = jobs;
        while left > 0 {
            let now = left.min(BATCH);
            let request = bench.enqueue(now);
            bench.apply(&request);
            left -= now;
        }
        bench
    }

    fn open(&mut self) {
        let open = Command::Open { ttl: 15_000, kind: "worker".into(), host: "bench".into() };
        self.apply(&wire::request(0, 0, 0, &open));
        self.session = self.index;
    }

    fn apply(&mut self, request: &[u8]) -> Vec<u8> {
        self.index += 1;
        let now = Millis(1_700_000_000_000 + self.index);
        self.machine.apply(LogIndex(self.index), now, request, &mut Effects::default()).expect("a known command")
    }

    fn enqueue(&mut self, jobs: usize) -> Vec<u8> {
        let job = |_| {
            self.made += 1;
            Job { id: uuid(self.made), args: NO_ARGUMENTS.to_vec(), ..Job::default() }
        };
        let jobs = (0..jobs).map(job).collect();
        wire::request(0, 0, 0, &Command::Enqueue { specs: vec![Spec::default()], jobs })
    }

    fn claim(&self, max: u64) -> Vec<u8> {
        let queues = vec![("default".into(), 1)];
        let functions = vec!["f".into()];
        wire::request(0, 0, 0, &Command::Claim { session: self.session, queues, strict: false, functions, max })
    }

    fn claimed(&mut self, max: u64) -> Vec<(JobId, u64)> {
        let request = self.claim(max);
        let reply = self.apply(&request);
        let (_, payload) = wire::reply(&reply);
        wire::claimed(&payload.expect("a claim is answered")).iter().map(|job| (job.id, job.token)).collect()
    }
}

/// Like UUID version 7: a rising first half, a scattered second.
fn uuid(number: u64) -> JobId {
    let scattered = (number ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(0x0190_0000_0000_0000 + number).to_be_bytes());
    bytes[8..].copy_from_slice(&scattered.to_be_bytes());
    JobId(bytes)
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Minimum, median and maximum of the samples.
fn spread(mut samples: Vec<f64>) -> String {
    samples.sort_by(f64::total_cmp);
    let middle = samples[samples.len() / 2];
    format!("{middle:>10.2} {:>10.2} {:>10.2}", samples[0], samples[samples.len() - 1])
}

fn row(what: &str, unit: &str, samples: Vec<f64>) {
    println!("{what:<46} {unit:<10} {}", spread(samples));
}

/// Claims of one job each, in the middle of so many waiting ones; each is finished before the next.
fn claim_cost(jobs: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut claims, mut finishes) = (Vec::new(), Vec::new());
    let mut bench = Bench::with_waiting(jobs);
    for _ in 0..9 {
        let (mut claiming, mut finishing) = (0.0, 0.0);
        for _ in 0..500 {
            let request = bench.claim(1);
            let start = Instant::now();
            let reply = bench.apply(&request);
            claiming += start.elapsed().as_secs_f64();
            let (_, payload) = wire::reply(&reply);
            let job = wire::claimed(&payload.expect("a claim is answered")).remove(0);
            let finish = wire::request(0, 0, 0, &Command::Finish(vec![(job.id, job.token, End::Succeeded(None))]));
            let start = Instant::now();
            bench.apply(&finish);
            finishing += start.elapsed().as_secs_f64();
        }
        let request = bench.enqueue(500);
        bench.apply(&request);
        let evict = wire::request(0, 0, 0, &Command::Evict(u64::MAX));
        bench.apply(&evict);
        claims.push(claiming / 500.0 * 1e6);
        finishes.push(finishing / 500.0 * 1e6);
    }
    (claims, finishes)
}

/// The same with a thousand jobs a command.
fn batches(jobs: usize) {
    let mut bench = Bench::with_waiting(jobs);
    let (mut enqueues, mut claims, mut finishes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let request = bench.enqueue(BATCH);
        let start = Instant::now();
        bench.apply(&request);
        enqueues.push(start.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
        let start = Instant::now();
        let taken = bench.claimed(BATCH as u64);
        claims.push(start.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
        let results = taken.into_iter().map(|(id, token)| (id, token, End::Succeeded(None))).collect();
        let request = wire::request(0, 0, 0, &Command::Finish(results));
        let start = Instant::now();
        bench.apply(&request);
        finishes.push(start.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
    }
    row("enqueue, batch of 1,000", "us/job", enqueues);
    row("claim, batch of 1,000 (reply decoded too)", "us/job", claims);
    row("finish, batch of 1,000", "us/job", finishes);
}

fn memory_and_image(jobs: usize) {
    let before = resident_bytes();
    let mut bench = Bench::with_waiting(jobs);
    let grown = resident_bytes().saturating_sub(before) as f64 / jobs as f64;
    row("memory of a waiting no-op job", "bytes", vec![grown]);
    row("  by the machine's own estimate", "bytes", vec![bench.machine.bytes() as f64 / jobs as f64]);
    let (mut captures, mut worst, mut writes, mut loads, mut digests) = (vec![], vec![], vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..5 {
        let start = Instant::now();
        let image = bench.machine.capture();
        captures.push(start.elapsed().as_secs_f64() * 1e3);
        // Each command now copies the pages that it changes.
        let mut slowest: f64 = 0.0;
        for _ in 0..2_000 {
            let request = bench.claim(1);
            let start = Instant::now();
            bench.apply(&request);
            slowest = slowest.max(start.elapsed().as_secs_f64() * 1e3);
        }
        worst.push(slowest);
        let mut chunks = Vec::new();
        let start = Instant::now();
        let written = image.write(&mut |section, chunk| {
            chunks.push((section, chunk.to_vec()));
            Ok(())
        });
        written.expect("memory takes every chunk");
        writes.push(start.elapsed().as_secs_f64() * 1e3);
        bytes = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        let start = Instant::now();
        let mut loader = Loader::new();
        for (section, chunk) in &chunks {
            loader.section(*section, chunk).expect("a chunk of an image");
        }
        let loaded = loader.finish().expect("a whole image");
        loads.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let digest = loaded.digest();
        digests.push(start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(digest, image.digest());
    }
    row("capture", "ms", captures);
    row("slowest claim while a capture is held", "ms", worst);
    row("write an image", "ms", writes);
    row("  its size", "bytes/job", vec![bytes as f64 / jobs as f64]);
    row("load an image", "ms", loads);
    row("digest of a machine just loaded", "ms", digests);
    let start = Instant::now();
    bench.machine.digest();
    bench.machine.digest();
    row("digest twice, most pages known", "ms", vec![start.elapsed().as_secs_f64() * 1e3]);
    empty(bench, before);
}

/// Finishes and evicts every job, and tells what memory is left.
fn empty(mut bench: Bench, before: u64) {
    // The jobs claimed one by one above go back, and the session with them.
    bench.apply(&wire::request(0, 0, 0, &Command::Close(bench.session)));
    bench.open();
    loop {
        let taken = bench.claimed(BATCH as u64);
        if taken.is_empty() {
            break;
        }
        let results = taken.into_iter().map(|(id, token)| (id, token, End::Succeeded(None))).collect();
        bench.apply(&wire::request(0, 0, 0, &Command::Finish(results)));
        bench.apply(&wire::request(0, 0, 0, &Command::Evict(u64::MAX)));
    }
    let left = resident_bytes().saturating_sub(before) as f64 / f64::from(1 << 20);
    row(&format!("memory left when all but {} have gone", bench.machine.len()), "MiB", vec![left]);
}

fn main() {
    let jobs = std::env::args().skip_while(|word| word != "--jobs").nth(1).and_then(|word| word.parse().ok());
    let jobs: usize = jobs.unwrap_or(1_000_000);
    println!("{:<46} {:<10} {:>10} {:>10} {:>10}", "the state machine alone", "", "median", "min", "max");
    memory_and_image(jobs);
    for waiting in [1_000, 100_000, jobs] {
        let (claims, finishes) = claim_cost(waiting);
        row(&format!("claim one of {waiting} waiting"), "us", claims);
        row("  and finish it", "us", finishes);
    }
    batches(jobs);
}
