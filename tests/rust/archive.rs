//! The archive: what was put is found, in order, after reopening, and damage costs history only.

mod damage;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use raftwork::archive::index::{Index, Pair};
use raftwork::archive::{Archive, Expired, Options, Part, Scan, Step};
use raftwork::base::codec::Reader;
use raftwork::base::{ClusterId, Error, GroupId, JobId, Millis, Result};
use raftwork::machine::record::{self, label, JobRecord};

fn options(dir: &Path) -> Options {
    Options {
        path: dir.join("archive"),
        cluster: ClusterId([1; 16]),
        group: GroupId(1),
        evicted_upto: 0,
        now: Millis(1_000),
        keep_until: record::keep_until_ms,
        labels: record::labels,
    }
}

fn id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    // What a UUID has in its last bytes: noise.
    bytes[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    JobId(bytes)
}

fn job(number: u64, keep_until_ms: u64) -> (u64, JobId, Vec<u8>) {
    let state = if number % 100 == 7 { 6 } else { 5 };
    let args = number.to_be_bytes().repeat(10);
    let record = JobRecord { keep_until_ms, id: id(number), state, function: "f", args: &args, ..Default::default() };
    (number, id(number), record.encode())
}

fn jobs(numbers: impl IntoIterator<Item = u64>, keep_until_ms: u64) -> Vec<(u64, JobId, Vec<u8>)> {
    numbers.into_iter().map(|number| job(number, keep_until_ms)).collect()
}

fn all(archive: &Archive) -> Vec<JobId> {
    let mut found = Vec::new();
    let scan = Scan { records_max: usize::MAX, ..Default::default() };
    let scanned = archive.scan(&scan, &mut |id, _| {
        found.push(id);
        Step::Next
    });
    assert!(scanned.unwrap().complete);
    assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");
    found
}

fn quarantines(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("archive.quarantine-")).count()
}

#[test]
fn what_was_put_is_found_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    for start in (1..5_000).step_by(500) {
        assert_eq!(archive.put(0, &jobs(start..start + 500, 9_000)).unwrap(), start + 499);
    }
    drop(archive);
    let archive = Archive::open(options(dir.path())).unwrap();
    assert_eq!(archive.watermark(), 5_000);
    assert_eq!(archive.health().records, 5_000);
    assert_eq!(archive.health().lost, None);
    for number in [1, 2, 250, 499, 500, 501, 4_999, 5_000] {
        assert_eq!(archive.get(id(number)).unwrap(), Some(job(number, 9_000).2), "job {number}");
    }
    assert_eq!(archive.get(id(5_001)).unwrap(), None);
    assert_eq!(archive.get(id(0)).unwrap(), None);
    assert_eq!(all(&archive).len(), 5_000);
}

#[test]
fn parts_give_each_job_once_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    assert_eq!(archive.part(None, 4_000).unwrap(), Part::default());
    archive.put(0, &jobs(1..=1_000, 9_000)).unwrap();
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let part = archive.part(before, 4_000).unwrap();
        assert!(part.items.len() < 4_000 + job(1, 9_000).2.len() + 32, "it stops when it is full");
        let mut reader = Reader::new(&part.items);
        for _ in 0..part.count {
            reader.array_of(2, "a finished job").unwrap();
            let (id, record) = (reader.id().unwrap(), reader.bin().unwrap());
            assert_eq!(archive.get(id).unwrap().as_deref(), Some(record));
            found.push(id);
        }
        reader.end().unwrap();
        before = part.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(found, all(&archive));
}

#[test]
fn put_again_changes_nothing_and_a_newer_record_wins() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..100, 9_000)).unwrap();
    archive.put(0, &[(50, id(50), job(77, 9_000).2)]).unwrap();
    assert_eq!(archive.get(id(50)).unwrap(), Some(job(50, 9_000).2), "ordinal 50 was known");
    archive.put(0, &[(200, id(50), job(50, 9_999).2)]).unwrap();
    assert_eq!(archive.get(id(50)).unwrap(), Some(job(50, 9_999).2));
    assert_eq!(archive.health().records, 99);
}

#[test]
fn record_that_is_not_kept_is_not_stored_and_takes_the_old_one_away() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    assert_eq!(archive.put(0, &jobs(1..10, 0)).unwrap(), 9);
    assert_eq!(all(&archive), []);
    archive.put(0, &jobs(10..20, 9_000)).unwrap();
    archive.put(0, &[(20, id(10), job(10, 0).2)]).unwrap();
    assert_eq!(archive.get(id(10)).unwrap(), None);
    assert_eq!(archive.health().records, 9);
}

#[test]
fn ids_in_any_order_are_scanned_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    let mut expected = Vec::new();
    for start in 0..20u64 {
        let batch: Vec<_> = (1..=200)
            .map(|step| {
                let ordinal = start * 200 + step;
                let number = ordinal.wrapping_mul(7_919) % 1_000_003;
                expected.push(id(number));
                (ordinal, id(number), job(number, 9_000).2)
            })
            .collect();
        archive.put(0, &batch).unwrap();
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(all(&archive), expected);
}

#[test]
fn scan_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..=3_000, 9_000)).unwrap();
    let (mut found, mut before, mut steps) = (Vec::new(), None, 0);
    loop {
        let scan = Scan { before, records_max: 100, ..Default::default() };
        let mut taken = 0;
        let scanned = archive
            .scan(&scan, &mut |id, _| {
                found.push(id);
                taken += 1;
                if taken == 70 {
                    Step::Stop
                } else {
                    Step::Next
                }
            })
            .unwrap();
        assert!(scanned.records <= 70, "the visitor stopped it");
        steps += 1;
        if scanned.complete {
            break;
        }
        before = scanned.next;
    }
    let expected: Vec<_> = (1..=3_000).rev().map(id).collect();
    assert_eq!(found, expected);
    assert_eq!(steps, 3_000 / 70 + 1);
    let bounded = archive.scan(&Scan { records_max: 1, ..Default::default() }, &mut |_, _| Step::Next).unwrap();
    assert!(!bounded.complete && bounded.records < 1_500, "one chunk at most: {bounded:?}");
}

#[test]
fn chunks_without_the_label_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs((1..=20_000).filter(|number| number % 100 != 7), 9_000)).unwrap();
    archive.put(0, &[job(20_007, 9_000)]).unwrap();
    let mut seen = Vec::new();
    let wanted = vec![vec![label("state", "failed")], vec![label("function", "x"), label("function", "f")]];
    let scanned = archive.scan(&Scan { wanted, records_max: 10_000, ..Default::default() }, &mut |id, _| {
        seen.push(id);
        Step::Next
    });
    let scanned = scanned.unwrap();
    assert_eq!(seen[0], id(20_007));
    assert!(seen.len() < 1_100, "only the last chunk was read");
    assert_eq!((scanned.complete, scanned.records), (true, 19_801));
}

#[test]
fn expiry_removes_what_is_over_and_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    let minute = 60_000;
    for start in (1..=20_000).step_by(1_000) {
        let batch: Vec<_> = (start..start + 1_000).map(|n| job(n, if n % 100 == 7 { 9 } else { 2 } * minute)).collect();
        archive.put(0, &batch).unwrap();
    }
    let before = archive.health().bytes;
    assert_eq!(archive.expire(Millis(2 * minute - 1), 1_000).unwrap(), Expired { removed: 0, more: false });
    let (mut removed, mut steps) = (0, 0);
    loop {
        let expired = archive.expire(Millis(2 * minute), 2_000).unwrap();
        assert!(expired.removed <= 4_000, "bounded");
        removed += expired.removed;
        steps += 1;
        if !expired.more {
            break;
        }
    }
    assert_eq!((removed, steps > 5), (19_800, true));
    assert_eq!(all(&archive), (1..=20_000).rev().filter(|n| n % 100 == 7).map(id).collect::<Vec<_>>());
    assert_eq!(archive.health().records, 200);
    while archive.expire(Millis(10 * minute), 1_000).unwrap().more {}
    assert_eq!(all(&archive), []);
    assert_eq!(archive.health().records, 0);
    archive.put(0, &jobs(30_000..30_010, 99 * minute)).unwrap();
    assert_eq!(all(&archive).len(), 10);
    assert!(archive.health().bytes < before * 2, "space does not grow without end");
}

#[test]
fn packs_that_are_mostly_unused_are_emptied_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    // Noise does not compress, so that a few thousand records fill several packs.
    let noisy = |number: u64| {
        let mut x = number * 2 + 1;
        let args: Vec<u8> = (0..20_000)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
            .collect();
        let keep_until_ms = if number.is_multiple_of(10) { 999 } else { 2 } * 60_000;
        (number, id(number), JobRecord { keep_until_ms, id: id(number), args: &args, ..Default::default() }.encode())
    };
    for start in (1..=3_000).step_by(300) {
        archive.put(0, &(start..start + 300).map(noisy).collect::<Vec<_>>()).unwrap();
    }
    let full = archive.health().bytes;
    assert!(full > 3 * (16 << 20), "several packs: {full} bytes");
    while archive.expire(Millis(3 * 60_000), 1_000).unwrap().more {}
    let rest = archive.health().bytes;
    assert!(rest < full / 2, "{rest} of {full} bytes are left for a tenth of the records");
    assert_eq!(all(&archive), (1..=300).rev().map(|n| id(n * 10)).collect::<Vec<_>>());
    drop(archive);
    let archive = Archive::open(options(dir.path())).unwrap();
    assert_eq!(archive.get(id(10)).unwrap(), Some(noisy(10).2));
    assert_eq!(all(&archive).len(), 300);
}

#[test]
fn deleted_jobs_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..=3_000, 9_000)).unwrap();
    let unwanted: Vec<_> = (1..=4_000).filter(|n| n % 2 == 0).map(id).collect();
    assert_eq!(archive.delete(&unwanted).unwrap(), 1_500);
    assert_eq!(archive.delete(&unwanted).unwrap(), 0);
    assert_eq!(all(&archive), (1..=3_000).rev().filter(|n| n % 2 == 1).map(id).collect::<Vec<_>>());
}

#[test]
fn largest_record_is_stored_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    let args = vec![7; 1_200_000];
    let record = JobRecord { keep_until_ms: 9, id: id(5), args: &args, ..Default::default() }.encode();
    archive.put(0, &[job(4, 9_000), (5, id(5), record.clone()), job(6, 9_000)]).unwrap();
    assert_eq!(archive.get(id(5)).unwrap(), Some(record));
    assert_eq!(all(&archive).len(), 3);
}

#[test]
fn missing_directory_is_history_lost_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..=100, 9_000)).unwrap();
    drop(archive);
    std::fs::remove_dir_all(dir.path().join("archive")).unwrap();
    for _ in 0..2 {
        let archive = Archive::open(Options { evicted_upto: 60, ..options(dir.path()) }).unwrap();
        assert_eq!(archive.watermark(), 60, "what is evicted cannot come again, the rest can");
        let lost = archive.health().lost.expect("still said after the next start");
        assert_eq!((lost.upto, lost.reason.contains("missing")), (60, true), "{}", lost.reason);
    }
    let archive = Archive::open(Options { evicted_upto: 60, ..options(dir.path()) }).unwrap();
    archive.put(0, &jobs(1..=100, 9_000)).unwrap();
    assert_eq!(all(&archive).len(), 40);
}

#[test]
fn archive_of_another_cluster_or_past_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    Archive::open(options(dir.path())).unwrap().put(0, &jobs(1..=100, 9_000)).unwrap();
    let archive = Archive::open(Options { cluster: ClusterId([2; 16]), ..options(dir.path()) }).unwrap();
    assert_eq!((archive.watermark(), quarantines(dir.path())), (0, 1));
    archive.put(0, &jobs(1..=100, 9_000)).unwrap();
    archive.reconcile(100).unwrap();
    assert_eq!(quarantines(dir.path()), 1);
    archive.reconcile(99).unwrap();
    assert_eq!((archive.watermark(), quarantines(dir.path())), (0, 2));
    assert!(archive.health().lost.is_some());
    archive.put(0, &jobs(1..=5, 9_000)).unwrap();
    archive.reconcile(0).unwrap();
    assert_eq!(quarantines(dir.path()), 2, "older ones are removed");
}

#[test]
fn what_would_skip_finished_jobs_is_refused_until_they_are_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    // Ordinals have gaps of their own.
    assert_eq!(archive.put(0, &jobs([3, 500], 9_000)), Ok(500));
    let Err(Error::Invalid(why)) = archive.put(1_100, &jobs(1_101..=1_200, 9_000)) else { panic!("it was taken") };
    assert!(why.contains("behind number 1100, but the archive ends at 500"), "{why}");
    assert!(archive.is_whole() && archive.watermark() == 500 && archive.health().records == 2);
    archive.lose("away", Millis(5), 1_100).unwrap();
    assert_eq!(archive.put(1_100, &jobs(1_101..=1_200, 9_000)), Ok(1_200));
    let lost = archive.health().lost.expect("it is said");
    assert_eq!((lost.upto, lost.at, &lost.reason[..]), (1_100, Millis(5), "away"));
    archive.lose("away", Millis(6), 1_200).unwrap();
    assert_eq!(archive.health().lost, Some(lost.clone()), "all of that is here");
    archive.lose("again", Millis(7), 1_300).unwrap();
    archive.found(&lost).unwrap();
    let newer = archive.health().lost.expect("more is lost since");
    assert_eq!((newer.upto, archive.is_whole()), (1_300, false));
    archive.found(&newer).unwrap();
    assert!(archive.is_whole());
}
