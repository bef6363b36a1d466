//! Backups: made while writes go on, damage found, and what a cluster begins with that is made from one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Instant;

use raftwork::backup::Backup;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{ClusterId, Error, JobId, Result, SessionId};
use raftwork::disk::{Disk, RealDisk};
use raftwork::node::{anew, Node, NodeConfig};
use tempfile::TempDir;

use crate::node::support::{until, Home, PATIENCE};
use crate::requests::*;

fn order(node: &Node, build: impl FnOnce(&mut Writer) -> &mut Writer) -> Result<Vec<u8>> {
    let (send, receive) = channel();
    let mut order = Writer::new();
    build(&mut order);
    node.order("test", order.into_bytes(), Box::new(move |answer| drop(send.send(answer))));
    receive.recv_timeout(PATIENCE).unwrap()
}

fn begin(node: &Node, history: bool) -> u64 {
    let answer = order(node, |order| order.array(2).u64(5).bool(history)).unwrap();
    Reader::new(&answer).u64().unwrap()
}

fn piece(node: &Node, number: u64, piece: u64) -> Result<Vec<u8>> {
    let answer = order(node, |order| order.array(3).u64(6).u64(number).u64(piece))?;
    Ok(Reader::new(&answer).bin().unwrap().to_vec())
}

/// A backup of this node.
fn backup(node: &Node, history: bool, file: &Path) {
    let number = begin(node, history);
    let mut bytes = Vec::new();
    for place in 1.. {
        match piece(node, number, place).unwrap() {
            empty if empty.is_empty() => break,
            piece => bytes.extend(piece),
        }
    }
    order(node, |order| order.array(2).u64(7).u64(number)).unwrap();
    fs::write(file, bytes).unwrap();
}

fn open(dir: PathBuf) -> Arc<Node> {
    Node::open(NodeConfig { segment_bytes: 1 << 20, ..NodeConfig::new(dir) }).unwrap()
}

fn session(node: &Node) -> SessionId {
    SessionId(number(&node.submit(open_session(60_000), None).unwrap()))
}

fn jobs(node: &Node) -> u64 {
    field_number(&node.health(), "jobs")
}

fn archived(node: &Node) -> u64 {
    field_number(&field(&node.health(), "archive"), "records")
}

fn token(claimed: &[u8]) -> u64 {
    crate::requests::claimed(claimed)[0].1 .0
}

/// 30 jobs: ten in the archive, one running, the others waiting. Gives the session and the token of the one that runs.
fn fill(node: &Node) -> (SessionId, u64) {
    let ids: Vec<JobId> = (1..=30).map(job).collect();
    payload(&node.submit(enqueue_kept(&ids, "q", "f", 64, 0, 3_600_000), None).unwrap());
    let session = session(node);
    let ten = claimed(&node.submit(claim(session, "q", "f", 10), None).unwrap());
    payload(&node.submit(succeed(&ten), None).unwrap());
    until(|| archived(node) == 10 && jobs(node) == 20);
    let running = node.submit(claim(session, "q", "f", 1), None).unwrap();
    (session, token(&running))
}

#[test]
fn k2_a_restored_cluster_goes_on_above_every_index_session_and_token_of_the_old_one() {
    let home = TempDir::new().unwrap();
    let (file, old_dir, new_dir) = (home.path().join("b"), home.path().join("old"), home.path().join("new"));
    let old = open(old_dir);
    let (old_session, old_token) = fill(&old);
    backup(&old, true, &file);
    // The old cluster goes on for a while.
    let later = (0..5).map(|_| token(&old.submit(claim(old_session, "q", "f", 1), None).unwrap())).max().unwrap();
    let old_index = field_number(&old.health(), "applied");
    assert!(later > old_token);

    anew::verify(&file).unwrap();
    anew::restore(&file, &new_dir, None).unwrap();
    let new = open(new_dir.clone());
    assert_ne!(new.cluster().0, old.cluster().0);
    assert!(field_number(&new.health(), "applied") > old_index + (1 << 39));
    assert_eq!((jobs(&new), archived(&new)), (20, 10), "the history came too, and the running job waits again");
    let new_session = session(&new);
    assert!(new_session > session(&old));
    let again = claimed(&new.submit(claim(new_session, "q", "f", 30), None).unwrap());
    assert_eq!(again.len(), 20, "every job that was not finished runs again");
    assert!(again.iter().all(|(_, token)| token.0 > later + (1 << 39)), "{again:?}");
    payload(&new.submit(succeed(&again), None).unwrap());
    until(|| archived(&new) == 30 && jobs(&new) == 0);
    // A lease of before is worth nothing.
    let stale = new.submit(claim(old_session, "q", "f", 1), None).unwrap();
    assert_eq!(answer(&stale), Answer::Refused("session_expired".into()));
    new.close().unwrap();
    drop(new);

    // Restored from a backup of the restored one: above that again.
    let new = open(new_dir);
    backup(&new, false, &file);
    let third_dir = home.path().join("third");
    anew::restore(&file, &third_dir, None).unwrap();
    let third = open(third_dir);
    assert!(field_number(&third.health(), "applied") > field_number(&new.health(), "applied") + (1 << 39));
    assert_eq!(archived(&third), 0, "it was made without finished jobs");
    assert!(field_texts(&third.health(), "alarms").is_empty());
    let origin = field(&third.health(), "origin");
    assert_eq!(field_text(&origin, "cluster"), new.cluster().0.to_string());
}

#[test]
fn a_backup_holds_what_was_answered_before_it_began_and_writes_go_on() {
    let home = TempDir::new().unwrap();
    let node = open(home.path().join("data"));
    let file = home.path().join("b");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (node, stop) = (node.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                written += 1;
                payload(&node.submit(enqueue(job(1_000_000 + written), 64), None).unwrap());
            }
            written
        })
    };
    let mut last = 0;
    for round in 1..=5u64 {
        let ids: Vec<JobId> = (1..=200).map(|number| job(round * 1_000 + number)).collect();
        payload(&node.submit(enqueue_as(&ids, "q", "f", 100, 0), None).unwrap());
        backup(&node, true, &file);
        let (_, machine) = Backup::open(&RealDisk, &file).unwrap().machine().unwrap();
        assert!(ids.iter().all(|id| machine.job(*id).is_some()), "round {round}");
        assert!(machine.applied().0 > last);
        last = machine.applied().0;
    }
    stop.store(true, Ordering::SeqCst);
    assert!(writer.join().unwrap() > 0);
}

#[test]
fn d4_every_bit_that_flips_in_a_backup_is_found_and_so_is_every_cut() {
    let home = TempDir::new().unwrap();
    let node = open(home.path().join("data"));
    fill(&node);
    let file = home.path().join("b");
    backup(&node, true, &file);
    let good = fs::read(&file).unwrap();
    assert_eq!(Backup::open(&RealDisk, &file).unwrap().records, 10);
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        match Backup::open(&RealDisk, &file) {
            Err(Error::Corrupt { .. }) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what} was not found"),
        }
    };
    let began = Instant::now();
    for place in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[place] ^= 1 << bit;
            refused(&bytes, &format!("bit {bit} of byte {place}"));
        }
    }
    for length in 16..good.len() {
        refused(&good[..length], &format!("a cut at {length}"));
    }
    refused(&[&good[..], &[0]].concat(), "a byte behind the end");
    println!("{} flips and {} cuts in {:?}", good.len() * 8, good.len() - 16, began.elapsed());
}

#[test]
fn a_piece_is_had_again_and_an_unknown_backup_is_refused() {
    let home = TempDir::new().unwrap();
    let node = open(home.path().join("data"));
    let number = begin(&node, true);
    let first = piece(&node, number, 1).unwrap();
    assert_eq!(piece(&node, number, 1).unwrap(), first, "its answer may have been lost");
    assert!(matches!(piece(&node, number, 3), Err(Error::Invalid(_))));
    order(&node, |order| order.array(2).u64(7).u64(number)).unwrap();
    let Err(Error::NotCommitted(why)) = piece(&node, number, 2) else { panic!("it was forgotten") };
    assert!(why.contains("begin a new one"), "{why}");
    let begun: Vec<_> = (0..4).map(|_| begin(&node, true)).collect();
    let refused = order(&node, |order| order.array(2).u64(5).bool(true));
    assert!(matches!(refused, Err(Error::Overloaded(_))), "{refused:?} after {begun:?}");
}

#[test]
fn a_restore_needs_an_empty_directory_another_cluster_and_a_backup() {
    let home = TempDir::new().unwrap();
    let node = open(home.path().join("data"));
    fill(&node);
    let (file, dir) = (home.path().join("b"), home.path().join("new"));
    backup(&node, true, &file);
    let own = node.cluster().0;
    assert!(matches!(anew::restore(&file, &dir, Some(own)), Err(Error::Invalid(_))));
    assert!(!dir.exists());
    RealDisk.make_dir(&dir).unwrap();
    fs::write(dir.join("notes"), "mine").unwrap();
    let Err(Error::Foreign(why)) = anew::restore(&file, &dir, None) else { panic!("it was not empty") };
    assert!(why.contains("not empty (it holds notes)"), "{why}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing was changed");
    let Err(Error::Foreign(why)) = anew::restore(&dir.join("notes"), &home.path().join("x"), None) else { panic!() };
    assert!(why.contains("is not a backup"), "{why}");
    fs::remove_file(dir.join("notes")).unwrap();
    anew::restore(&file, &dir, Some(ClusterId([7; 16]))).unwrap();
    assert_eq!(open(dir).cluster().0, ClusterId([7; 16]));
}

#[test]
fn an_interrupted_restore_opens_nothing_and_is_finished_by_the_same_command() {
    let home = TempDir::new().unwrap();
    let node = open(home.path().join("data"));
    fill(&node);
    let (file, dir) = (home.path().join("b"), home.path().join("new"));
    backup(&node, true, &file);
    anew::restore(&file, &dir, None).unwrap();
    // As if the power had gone after only some of the parts were in place, and before any was.
    let parts = ["IDENTITY", "ORIGIN", "wal", "snap", "archive"];
    for moved in 0..=parts.len() {
        let begins = dir.join("begins");
        fs::create_dir(&begins).unwrap();
        parts[..moved].iter().for_each(|part| fs::rename(dir.join(part), begins.join(part)).unwrap());
        fs::write(begins.join("READY"), "whole\n").unwrap();
        let Err(Error::Foreign(why)) = Node::open(NodeConfig::new(&dir)) else { panic!("{moved} parts") };
        assert!(why.contains("run the same command again"), "{why}");
        anew::restore(&file, &dir, None).unwrap();
        assert!(!begins.exists() && !dir.join("quarantine").exists(), "{moved} parts");
    }
    // Before it was whole: it begins anew.
    fs::create_dir(dir.join("begins")).unwrap();
    parts.iter().for_each(|part| fs::rename(dir.join(part), dir.join("begins").join(part)).unwrap());
    assert!(matches!(Node::open(NodeConfig::new(&dir)), Err(Error::Foreign(_))));
    anew::restore(&file, &dir, None).unwrap();
    assert_eq!(jobs(&open(dir)), 20);
}

#[test]
fn a_job_that_finished_after_the_snapshot_is_no_history_of_it() {
    let home = Home::new();
    let node = Node::open(NodeConfig { archive: true, ..home.config() }).unwrap();
    let (session, _) = fill(&node);
    let (file, dir) = (home.dir.path().join("b"), home.dir.path().join("new"));
    let number = begin(&node, true);
    let mut bytes = piece(&node, number, 1).unwrap();
    home.clock.advance(1_000);
    let more = claimed(&node.submit(claim(session, "q", "f", 5), None).unwrap());
    payload(&node.submit(succeed(&more), None).unwrap());
    until(|| archived(&node) == 15);
    for place in 2.. {
        match piece(&node, number, place).unwrap() {
            empty if empty.is_empty() => break,
            piece => bytes.extend(piece),
        }
    }
    fs::write(&file, bytes).unwrap();
    anew::restore(&file, &dir, None).unwrap();
    let clock = home.clock.clone();
    let new = Node::open(NodeConfig { clock, ..NodeConfig::new(dir) }).unwrap();
    assert_eq!((jobs(&new), archived(&new)), (20, 10));
}
