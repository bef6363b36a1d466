//! A data directory looked at from outside, and the salvage of one that does not start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftwork::base::codec::Reader;
use raftwork::base::{Error, JobId};
use raftwork::node::doctor::{inspect, salvage};
use raftwork::node::{Node, NodeConfig};

use super::support::{until, Home};
use super::{jobs, session};
use crate::requests::*;

/// A node that takes a snapshot now and then, with an archive.
fn open(home: &Home) -> Arc<Node> {
    try_open(home).expect("it starts")
}

fn try_open(home: &Home) -> Result<Arc<Node>, Error> {
    Node::open(NodeConfig { archive: true, snapshot_bytes: 128 << 10, segment_bytes: 64 << 10, ..home.config() })
}

fn data(home: &Home) -> PathBuf {
    home.dir.path().join("data")
}

/// Jobs with these numbers that wait; ten finished ones in the archive before them.
fn fill(home: &Home, numbers: std::ops::Range<u64>) -> u64 {
    let node = open(home);
    let session = session(&node, 60_000);
    let finished: Vec<JobId> = (1..=10).map(|number| job(1_000_000 + number)).collect();
    node.submit(enqueue_as(&finished, "done", "f", 8, 0), None).unwrap();
    let claimed = claimed(&node.submit(claim(session, "done", "f", 10), None).unwrap());
    node.submit(succeed(&claimed), None).unwrap();
    until(|| jobs(&node) == 0);
    for number in numbers {
        node.submit(enqueue(job(number), 1_000), None).unwrap();
    }
    node.close().unwrap();
    claimed.iter().map(|(_, token)| token.0).max().unwrap()
}

/// Enqueues and takes snapshots until the log no longer begins at its first entry.
fn outgrow(home: &Home) -> u64 {
    let mut number = 0;
    let node = open(home);
    let first = files(&data(home).join("wal"), "w-").remove(0);
    while first.exists() {
        let ids: Vec<JobId> = (number..number + 50).map(job).collect();
        node.submit(enqueue_as(&ids, "q", "f", 1_000, 0), None).unwrap();
        node.snapshot_now().unwrap();
        number += 50;
        assert!(number < 50_000, "the log was never cut");
    }
    node.close().unwrap();
    number
}

pub fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    let matches = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let mut found: Vec<_> = names.filter(matches).collect();
    found.sort();
    found
}

fn snapshots(home: &Home) -> Vec<PathBuf> {
    files(&data(home).join("snap"), "c-")
}

/// Flips a bit in the middle of what a file holds.
pub fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

pub fn texts(report: &[u8], key: &str) -> Vec<String> {
    let value = field(report, key);
    let mut reader = Reader::new(&value);
    let count = reader.array().unwrap();
    (0..count).map(|_| reader.str().unwrap().to_owned()).collect()
}

pub fn flag(report: &[u8], key: &str) -> bool {
    Reader::new(&field(report, key)).bool().unwrap()
}

pub fn is_nil(report: &[u8], key: &str) -> bool {
    field(report, key) == [0xc0]
}

fn can_start(report: &[u8]) -> bool {
    flag(&field(report, "start"), "possible")
}

/// Every file of the directory but the lock, with its content.
pub fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for item in fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()) {
        if item.is_dir() {
            all.extend(content(&item));
        } else if item.file_name().unwrap() != "LOCK" {
            all.push((item.clone(), fs::read(&item).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_whole_directory_is_described_and_left_as_it_is() {
    let home = Home::new();
    fill(&home, 0..300);
    let before = content(&data(&home));
    let report = inspect(&data(&home)).unwrap();
    assert!(flag(&report, "healthy"), "{:?}", texts(&report, "problems"));
    assert!(can_start(&report));
    assert!(is_nil(&report, "in_use_by") && is_nil(&report, "salvage") && !is_nil(&report, "identity"));
    assert_eq!(Reader::new(&field(&report, "snapshots")).array().unwrap(), snapshots(&home).len());
    let archive = field(&report, "archive");
    assert_eq!((field_number(&archive, "records"), field_number(&archive, "watermark")), (10, 10));
    salvage(&data(&home), true).unwrap();
    assert!(content(&data(&home)) == before, "neither changed anything");
}

#[test]
fn a_directory_in_use_is_named_so_and_a_log_being_written_is_no_damage() {
    let home = Home::new();
    let node = open(&home);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..3_000 {
                node.submit(enqueue(job(number), 500), None).unwrap();
            }
        });
        let mut looks = 0;
        while !writer.is_finished() || looks == 0 {
            looks += 1;
            let report = inspect(&data(&home)).unwrap();
            assert!(flag(&report, "healthy"), "{:?}", texts(&report, "problems"));
            assert!(texts(&report, "losses").is_empty());
            let owner = field(&report, "in_use_by");
            assert_eq!(Reader::new(&owner).str().unwrap(), format!("process {}", std::process::id()));
            assert!(is_nil(&report, "start") && is_nil(&report, "archive"));
        }
    });
    assert!(matches!(salvage(&data(&home), true), Err(Error::Busy { .. })));
}

#[test]
fn a_directory_without_data_has_no_problems() {
    let home = Home::new();
    fs::create_dir(data(&home)).unwrap();
    let report = inspect(&data(&home)).unwrap();
    assert!(flag(&report, "healthy") && can_start(&report) && is_nil(&report, "identity"));
    assert!(fs::read_dir(data(&home)).unwrap().next().is_none(), "looking makes no files");
}

#[test]
fn an_identity_that_is_missing_damaged_or_anothers_is_told() {
    let home = Home::new();
    fill(&home, 0..5);
    let path = data(&home).join("IDENTITY");
    let own = fs::read(&path).unwrap();
    let told = |words: &str| {
        let report = inspect(&data(&home)).unwrap();
        assert!(!flag(&report, "healthy") && !can_start(&report));
        let problems = texts(&report, "problems");
        assert!(problems.iter().any(|problem| problem.contains(words)), "{problems:?}");
        salvage(&data(&home), true).unwrap_err();
    };
    fs::remove_file(&path).unwrap();
    told("IDENTITY is missing; the files here are of cluster ");
    damage_at(&path, &own, 20);
    told("the checksum does not match");
    let other = Home::new();
    fill(&other, 0..1);
    fs::copy(data(&other).join("IDENTITY"), &path).unwrap();
    told("belongs to cluster ");
    fs::write(&path, own).unwrap();
    assert!(flag(&inspect(&data(&home)).unwrap(), "healthy"));
}

pub fn damage_at(path: &Path, content: &[u8], at: usize) {
    let mut bytes = content.to_vec();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_newest_snapshot_is_told_and_the_older_one_stands_in() {
    let home = Home::new();
    let count = outgrow(&home);
    let newest = snapshots(&home).pop().unwrap();
    damage(&newest);
    let report = inspect(&data(&home)).unwrap();
    let problems = texts(&report, "problems");
    assert!(problems[0].contains(newest.to_str().unwrap()) && problems[0].contains("at byte"), "{problems:?}");
    assert!(can_start(&report));
    assert_eq!(jobs(&open(&home)), count);
}

#[test]
fn a_damaged_archive_is_told_and_keeps_nobody_from_starting() {
    let home = Home::new();
    fill(&home, 0..5);
    for pack in files(&data(&home).join("archive"), "pack-") {
        fs::remove_file(pack).unwrap();
    }
    let report = inspect(&data(&home)).unwrap();
    assert!(!flag(&report, "healthy") && can_start(&report));
    assert!(texts(&report, "problems")[0].contains("pack 1 is missing"));
    assert_eq!(jobs(&open(&home)), 5);
}

#[test]
fn a_log_from_its_beginning_is_replayed_when_no_snapshot_is_whole() {
    let home = Home::new();
    fill(&home, 0..50);
    snapshots(&home).iter().for_each(|path| damage(path));
    let report = inspect(&data(&home)).unwrap();
    assert!(!can_start(&report) && !flag(&field(&report, "salvage"), "needs_accept_loss"));
    assert!(try_open(&home).is_err());
    let damaged = fs::read(&snapshots(&home)[0]).unwrap();
    salvage(&data(&home), false).unwrap();
    let aside = files(&data(&home).join("quarantine"), "c-");
    assert!(aside.iter().any(|path| fs::read(path).unwrap() == damaged), "as it was");
    let node = open(&home);
    assert_eq!(jobs(&node), 50);
    assert_eq!(texts(&node.health(), "alarms"), Vec::<String>::new(), "nothing was lost");
    assert_eq!(field_number(&field(&node.health(), "archive"), "records"), 10);
}

#[test]
fn the_state_is_given_up_only_if_somebody_agrees_and_then_it_is_told() {
    let home = Home::new();
    let token = fill(&home, 0..1);
    outgrow(&home);
    snapshots(&home).iter().for_each(|path| damage(path));
    let before = content(&data(&home));
    let report = inspect(&data(&home)).unwrap();
    assert!(flag(&field(&report, "salvage"), "needs_accept_loss"));
    let refused = salvage(&data(&home), false).unwrap_err().to_string();
    assert!(refused.contains("every job that is not finished") && refused.contains("10 finished jobs"), "{refused}");
    assert!(refused.contains("--accept-loss"), "{refused}");
    assert!(content(&data(&home)) == before, "refused without a change");

    salvage(&data(&home), true).unwrap();
    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with(data(&home).join("snap"))) {
        let aside = data(&home).join("quarantine").join(path.file_name().unwrap());
        assert!(fs::read(aside).unwrap() == *bytes, "{} is kept", path.display());
    }
    let report = inspect(&data(&home)).unwrap();
    assert!(can_start(&report) && texts(&report, "losses")[0].contains("the whole state"));
    for start in 0..2 {
        let node = open(&home);
        let alarms = texts(&node.health(), "alarms");
        assert!(alarms.iter().any(|alarm| alarm.contains("work was lost")), "start {start}: {alarms:?}");
        assert_eq!(field_number(&field(&node.health(), "archive"), "records"), 10, "history stays");
        assert_eq!(jobs(&node), start, "start {start}");
        node.submit(enqueue(job(77 + start), 8), None).unwrap();
        node.close().unwrap();
    }
    let node = open(&home);
    let session = session(&node, 60_000);
    let claimed = claimed(&node.submit(claim(session, "q", "f", 1), None).unwrap());
    assert!(claimed[0].1 .0 > token, "K2: no token is given twice");
    fs::remove_file(data(&home).join("quarantine/LOST")).unwrap();
    drop(node);
    assert_eq!(texts(&open(&home).health(), "alarms"), Vec::<String>::new(), "settled");
}

#[test]
fn a_log_that_ends_before_the_snapshot_is_given_up_for_it() {
    let home = Home::new();
    outgrow(&home);
    let first = files(&data(&home).join("wal"), "w-").remove(0);
    damage(&first);
    let report = inspect(&data(&home)).unwrap();
    assert!(!can_start(&report));
    salvage(&data(&home), false).unwrap();
    let node = open(&home);
    assert!(jobs(&node) > 0, "the snapshot's jobs are there");
    assert!(texts(&node.health(), "alarms")[0].contains("every write behind log entry"));
}

#[test]
fn a_gap_between_snapshot_and_log_is_told_and_closed_on_request() {
    let home = Home::new();
    outgrow(&home);
    let node = open(&home);
    (5_000..5_300).for_each(|number| drop(node.submit(enqueue(job(number), 1_000), None).unwrap()));
    node.close().unwrap();
    drop(node);
    let log = files(&data(&home).join("wal"), "w-");
    for path in &log[..log.len() - 1] {
        fs::remove_file(path).unwrap();
    }
    damage(&snapshots(&home).pop().unwrap());
    let report = inspect(&data(&home)).unwrap();
    assert!(texts(&report, "problems")[0].contains("the log begins behind"), "{:?}", texts(&report, "problems"));
    assert!(matches!(salvage(&data(&home), false), Err(Error::Corrupt { .. })));
    salvage(&data(&home), true).unwrap();
    assert!(can_start(&inspect(&data(&home)).unwrap()));
    assert!(jobs(&open(&home)) > 0);
}
