//! The archive with a million finished jobs: speed, memory, disk. `cargo bench --bench archive [records]`
//!
//! Memory is the resident set of this process. What the archive costs is what it has more with a million records in the
//! archive than with an empty one open.

use std::path::Path;
use std::time::{Duration, Instant};

use _core::archive::{Archive, Options, Scan, Step};
use _core::base::{ClusterId, GroupId, JobId, Millis};
use _core::machine::record::{self, label, JobRecord};

const BATCH: u64 = 1_000;
const START_MS: u64 = 1_800_000_000_000;

fn main() {
    let records = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(1_000_000);
    let dir = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into).join("raftwork-bench-archive");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory for the benchmark");
    println!("archive of {records} records in {}; fdatasync {:?}", dir.display(), fdatasync(&dir));
    run(&dir, records);
    let _ = std::fs::remove_dir_all(&dir);
}

fn run(dir: &Path, records: u64) {
    let started = resident_kib();
    let archive = Archive::open(options(dir)).expect("an archive");
    archive.put(0, &batch(0, 1)).expect("room on the disk");
    let empty = resident_kib();
    say("resident before open / with an empty archive", format!("{started} / {empty} KiB"));

    let (mut writing, mut highest, mut slowest) = (Duration::ZERO, 0, Duration::ZERO);
    for start in (1..records).step_by(BATCH as usize) {
        let batch = batch(start, BATCH);
        let began = Instant::now();
        archive.put(0, &batch).expect("room on the disk");
        writing += began.elapsed();
        slowest = slowest.max(began.elapsed());
        highest = highest.max(resident_kib());
    }
    say("put, records/s", rate(records, writing));
    say("put of 1,000, mean / slowest", format!("{:?} / {slowest:?}", writing / (records / BATCH).max(1) as u32));
    let full = resident_kib();
    say("resident highest / after", format!("{highest} / {full} KiB"));
    say("resident more than empty", format!("{} KiB", full.saturating_sub(empty)));
    let health = archive.health();
    say("bytes on disk, of each record", format!("{} MiB, {}", health.bytes >> 20, health.bytes / health.records));

    read(&archive, records);
    say("resident after reading", format!("{} KiB", resident_kib()));
    drop(archive);
    let began = Instant::now();
    let archive = Archive::open(options(dir)).expect("an archive");
    say("open again", format!("{:?}, resident {} KiB", began.elapsed(), resident_kib()));

    let began = Instant::now();
    while archive.expire(Millis(START_MS + 86_400_000 * 2), 2_000).expect("room on the disk").more {}
    say("expire, records/s", rate(records, began.elapsed()));
    say("resident, bytes on disk after", format!("{} KiB, {} KiB", resident_kib(), archive.health().bytes >> 10));
}

fn read(archive: &Archive, records: u64) {
    let began = Instant::now();
    let gets = 2_000;
    for step in 0..gets {
        assert!(archive.get(id(step * 7_919 % records)).expect("readable").is_some());
    }
    say("get by id, mean", format!("{:?}", began.elapsed() / gets as u32));
    let began = Instant::now();
    let scan = Scan { records_max: 100_000, ..Scan::default() };
    let scanned = archive.scan(&scan, &mut |_, record| match JobRecord::decode(record) {
        Ok(_) => Step::Next,
        Err(_) => Step::Stop,
    });
    say("scan of 100,000 records, decoded", format!("{:?} ({})", began.elapsed(), scanned.expect("readable").records));
    let began = Instant::now();
    let scan = Scan { records_max: 100_000, wanted: vec![vec![label("queue", "absent")]], ..Scan::default() };
    let scanned = archive.scan(&scan, &mut |_, _| Step::Next).expect("readable");
    say("scan for what no chunk has", format!("{:?} ({})", began.elapsed(), scanned.records));
}

fn say(what: &str, figure: String) {
    println!("{what:<46} {figure}");
}

fn rate(records: u64, time: Duration) -> String {
    format!("{:.0}", records as f64 / time.as_secs_f64())
}

fn options(dir: &Path) -> Options {
    Options {
        path: dir.join("archive"),
        cluster: ClusterId([7; 16]),
        group: GroupId(1),
        evicted_upto: 0,
        now: Millis(START_MS),
        keep_until: record::keep_until_ms,
        labels: record::labels,
    }
}

/// A UUID of version 7 made in millisecond `number / 20`: growing, with noise behind.
fn id(number: u64) -> JobId {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&(START_MS + number / 20).to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&(0x7000 | (number % 20) as u16).to_be_bytes());
    bytes[8..].copy_from_slice(&(x >> 2 | 1 << 63).to_be_bytes());
    JobId(bytes)
}

/// Finished no-op jobs as a worker leaves them.
fn batch(start: u64, count: u64) -> Vec<(u64, JobId, Vec<u8>)> {
    let error = [&[0x93, 0xaa][..], b"ValueError", &[0xa2], b"no", &[0xa0]].concat();
    (start..start + count)
        .map(|number| {
            let now = START_MS + number / 20;
            let failed = number % 50 == 0;
            let args = [&[0x92, 0x92, 0xce][..], &(number as u32).to_be_bytes(), &[0xa5], b"hello", &[0x80]].concat();
            let record = JobRecord {
                keep_until_ms: now + 86_400_000,
                id: id(number),
                state: if failed { 6 } else { 5 },
                function: "shop.jobs.send_welcome",
                queue: "default",
                attempt: 1,
                created_ms: now,
                enqueued_ms: Some(now),
                started_ms: Some(now + 3),
                finished_ms: Some(now + 5),
                error: failed.then_some(&error),
                max_attempts: 10,
                max_crashes: 3,
                keep_result_ms: 86_400_000,
                keep_failed_ms: 1_209_600_000,
                args: &args,
                result: (!failed).then_some(&[0xc0]),
                meta: b"\x82\xa8executor\xa6thread\xa5retry\x90",
                attempts: vec![record::AttemptRecord {
                    attempt: 1,
                    started_ms: now + 3,
                    ended_ms: now + 5,
                    outcome: if failed { 2 } else { 0 },
                    error: None,
                }],
                ..JobRecord::default()
            };
            (number + 1, record.id, record.encode())
        })
        .collect()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// The median of 50.
fn fdatasync(dir: &Path) -> Duration {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(dir.join("fsync")).expect("a file");
    let mut times: Vec<_> = (0..50)
        .map(|step| {
            file.write_all_at(&[1; 4_096], step * 4_096).expect("room on the disk");
            let began = Instant::now();
            file.sync_data().expect("a sync");
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[25]
}
