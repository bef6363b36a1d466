//! What a node says about itself.

use std::time::Instant;

use raftwork::base::codec::Reader;
use raftwork::base::{Error, JobId};
use raftwork::node::{Node, NodeConfig};

use super::doctor::texts;
use super::support::{until, Home, Mood};
use crate::requests::*;

#[test]
fn health_tells_how_long_a_capture_held_up_writes() {
    let home = Home::new();
    let node = home.open();
    let capture_us = || field_number(&node.health(), "snapshot_capture_us");
    let ids: Vec<JobId> = (0..1_000).map(job).collect();
    node.submit(enqueue_as(&ids, "q", "f", 64, 0), None).unwrap();
    assert_eq!(capture_us(), 0, "none was taken");
    let began = Instant::now();
    node.snapshot_now().unwrap();
    let whole = began.elapsed();
    assert!((1..=whole.as_micros() as u64).contains(&capture_us()), "{} of {whole:?}", capture_us());
}

/// Writes are refused before they wait for anything, so nothing but this tells why the node answers none.
#[test]
fn a3_health_tells_of_a_full_disk_until_there_is_room_although_nobody_writes() {
    let home = Home::new();
    let node = Node::open(NodeConfig { segment_bytes: 64 << 10, ..home.config() }).unwrap();
    let alarms = || texts(&node.health(), "alarms");
    home.disk.set(Mood::Full);
    let refused = (0..100).find_map(|number| node.submit(enqueue(job(number), 4_000), None).err());
    assert!(matches!(refused, Some(Error::DiskFull(_))), "{refused:?}");
    until(|| alarms() == ["the disk is full: writes are refused, or wait for room"]);
    assert!(!node.is_ready(), "it can take no writes");
    home.disk.set(Mood::Good);
    until(|| alarms().is_empty() && node.is_ready());
}

#[test]
fn every_field_of_health_is_described() {
    let page = include_str!("../../../docs/reference/health.md");
    let home = Home::new();
    let node = Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    let health = node.health();
    let mut keys = keys_of(&health, "");
    for inner in ["inbox", "archive", "quorum"] {
        keys.extend(keys_of(&field(&health, inner), &format!("{inner}.")));
    }
    assert!(keys.len() > 30, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !page.contains(&format!("| `{key}` |"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn keys_of(map: &[u8], before: &str) -> Vec<String> {
    let mut reader = Reader::new(map);
    let mut keys = Vec::new();
    for _ in 0..reader.map().unwrap() {
        keys.push(format!("{before}{}", reader.str().unwrap()));
        reader.raw().unwrap();
    }
    keys
}
