//! The archive thread of a node: it keeps up with what finishes.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use raftwork::base::{Error, JobId};
use raftwork::machine::Bounds;
use raftwork::node::{Node, NodeConfig};

use super::support::{until, view, Home, Mood};
use super::{jobs, session};
use crate::requests::*;

/// Whether a job is known, in memory or out of the archive.
fn is_known(node: &Node, id: JobId) -> bool {
    view(node, &[&[0x92, 3, 0xc4, 16][..], &id.0].concat()).unwrap().len() > 40
}

fn records(node: &Node) -> u64 {
    field_number(&field(&node.health(), "archive"), "records")
}

/// A node with one job, which has left memory.
fn with_history(home: &Home) -> Arc<Node> {
    with_history_within(home, Bounds::default())
}

fn with_history_within(home: &Home, bounds: Bounds) -> Arc<Node> {
    let node = Node::open(NodeConfig { archive: true, segment_bytes: 64 << 10, bounds, ..home.config() }).unwrap();
    let session = session(&node, 60_000);
    node.submit(enqueue_kept(&[job(1)], "q", "f", 4_000, 0, 3_600_000), None).unwrap();
    node.submit(succeed(&claimed(&node.submit(claim(session, "q", "f", 1), None).unwrap())), None).unwrap();
    until(|| jobs(&node) == 0);
    node
}

#[test]
fn d2_a_deletion_that_is_refused_leaves_the_history() {
    let home = Home::new();
    let node = with_history(&home);
    home.disk.set(Mood::Full);
    let refused = |request: &dyn Fn(u64) -> Vec<u8>| {
        (1..10_000).find_map(|number| node.submit(request(number), None).err()).expect("the log has an end")
    };
    assert!(matches!(refused(&|number| enqueue(job(100 + number), 4_000)), Error::DiskFull(_)));
    assert!(matches!(refused(&|_| delete(job(99))), Error::DiskFull(_)));
    assert!(matches!(node.submit(delete(job(1)), None), Err(Error::DiskFull(_))));
    assert!(is_known(&node, job(1)), "nothing was deleted");
    home.disk.set(Mood::Good);
    payload(&node.submit(delete(job(1)), None).unwrap());
    assert!(!is_known(&node, job(1)), "gone as soon as it is answered");
    until(|| records(&node) == 0);
}

#[test]
fn a_node_that_lets_no_more_jobs_in_deletes_those_of_the_history() {
    let home = Home::new();
    let node = with_history_within(&home, Bounds { jobs: 1, ..Bounds::default() });
    payload(&node.submit(enqueue(job(2), 9), None).unwrap());
    assert!(matches!(node.submit(enqueue(job(3), 9), None), Err(Error::Overloaded(_))));
    // It comes back into memory first: else the answer would be that there is no such job.
    assert_eq!(payload(&node.submit(delete(job(1)), None).unwrap()), [0x91, 0]);
    assert!(!is_known(&node, job(1)) && is_known(&node, job(2)));
}

#[test]
fn a_deletion_reaches_the_archive_though_the_process_ended_right_behind_it() {
    let home = Home::new();
    let node = with_history(&home);
    let archive = home.config().dir.join("archive");
    let kept = home.dir.path().join("kept");
    node.close().unwrap();
    drop(node);
    // The archive as it was before the deletion, which the log has.
    copy(&archive, &kept);
    let node = Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    payload(&node.submit(delete(job(1)), None).unwrap());
    until(|| records(&node) == 0);
    node.close().unwrap();
    drop(node);
    std::fs::remove_dir_all(&archive).unwrap();
    std::fs::rename(&kept, &archive).unwrap();
    let node = Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    assert!(!is_known(&node, job(1)));
    until(|| records(&node) == 0);
}

/// All files below a directory.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

#[test]
fn expiry_keeps_up_with_what_finishes() {
    let home = Home::new();
    let open = || Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    let node = open();
    let session = session(&node, 60_000);
    let finishing = Instant::now();
    for round in 0..20 {
        let ids: Vec<JobId> = (round * 1_000..(round + 1) * 1_000).map(job).collect();
        node.submit(enqueue_as(&ids, "q", "f", 64, 0), None).unwrap();
        node.submit(succeed(&claimed(&node.submit(claim(session, "q", "f", 1_000), None).unwrap())), None).unwrap();
    }
    until(|| jobs(&node) == 0);
    let finishing = finishing.elapsed();
    assert_eq!(records(&node), 20_000);
    node.close().unwrap();
    drop(node);
    home.clock.advance(3_600_000);
    let expiring = Instant::now();
    let node = open();
    until(|| records(&node) == 0);
    let expiring = expiring.elapsed();
    println!("20,000 jobs finished and archived in {finishing:?}, expired in {expiring:?}");
    assert!(expiring < finishing * 2, "finishing took {finishing:?}, expiring {expiring:?}");
}
