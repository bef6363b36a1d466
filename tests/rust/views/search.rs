//! Pages of jobs: order, cursors, the archive, and what a page says about how much it searched.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{JobId, Result};
use raftwork::machine::search::{ArchiveEnd, Archived, WINDOW};
use raftwork::machine::{Answer, Machine};

use super::World;
use crate::wire::flows::Batch;
use crate::wire::{id, Command, End, Job, Spec};

/// An archive in memory.
#[derive(Default)]
struct Shelf {
    records: BTreeMap<JobId, Vec<u8>>,
}

impl Archived for Shelf {
    fn scan(
        &mut self,
        before: Option<JobId>,
        _: &[Vec<u64>],
        records_max: usize,
        visit: &mut dyn FnMut(JobId, &[u8]) -> bool,
    ) -> Result<ArchiveEnd> {
        let below = self.records.iter().rev().filter(|(id, _)| before.is_none_or(|before| **id < before));
        let mut scanned = 0;
        for (id, record) in below {
            scanned += 1;
            if !visit(*id, record) || scanned as usize >= records_max {
                return Ok(ArchiveEnd { scanned, next: Some(*id) });
            }
        }
        Ok(ArchiveEnd { scanned, next: None })
    }
}

#[derive(Debug, PartialEq)]
struct Page {
    /// Each id with `*` when it came from the archive.
    rows: Vec<String>,
    next: Option<JobId>,
    scanned: u64,
    complete: bool,
}

fn page(
    world: &World,
    archive: Option<&mut dyn Archived>,
    clauses: &[(&str, &str, &[&str])],
    cursor: Option<JobId>,
    limit: u64,
) -> Page {
    let mut w = Writer::new();
    w.array(4).u64(4).array(clauses.len());
    for (field, operator, values) in clauses {
        w.array(3).str(field).str(operator).array(values.len());
        values.iter().for_each(|value| {
            w.str(value);
        });
    }
    w.option(cursor, |w, id| {
        w.id(id);
    });
    w.u64(limit);
    let Answer::Later(later) = world.machine.ask(w.as_bytes()).unwrap() else { panic!("a search is costly") };
    let answer = later.answer(archive).unwrap();
    let mut r = Reader::new(&answer);
    r.array_of(4, "a page").unwrap();
    let rows = (0..r.array().unwrap()).map(|_| row(&mut r)).collect();
    let page =
        Page { rows, next: r.option(|r| r.id()).unwrap(), scanned: r.u64().unwrap(), complete: r.bool().unwrap() };
    r.end().unwrap();
    page
}

fn row(r: &mut Reader<'_>) -> String {
    let (mut name, mut mark) = (String::new(), "");
    for _ in 0..r.map().unwrap() {
        match r.str().unwrap() {
            "id" => name = String::from_utf8_lossy(&r.id().unwrap().0).trim_end_matches('.').to_owned(),
            "archived" => mark = if r.bool().unwrap() { "*" } else { "" },
            _ => _ = r.raw().unwrap(),
        }
    }
    name + mark
}

/// Finishes every enqueued job, archives all final jobs and takes them out of memory.
fn archive_all(world: &mut World, shelf: &mut Shelf) {
    let session = world.open();
    for job in world.claim(session, "default", 1_000) {
        world.finish(&job, End::Succeeded(None));
    }
    for (_, id, record) in world.machine.finished(0, 10_000, usize::MAX) {
        shelf.records.insert(id, record);
    }
    let upto = world.machine.finished_upto();
    world.run(&Command::Evict(upto));
}

#[test]
fn newest_come_first_and_pages_join() {
    let mut world = World::new();
    world.enqueue(Spec::default(), &["c", "a", "e", "b", "d"]);
    let first = page(&world, None, &[], None, 2);
    assert_eq!(first, Page { rows: vec!["e".into(), "d".into()], next: Some(id("d")), scanned: 5, complete: true });
    let second = page(&world, None, &[], first.next, 2);
    assert_eq!((second.rows, second.next), (vec!["c".into(), "b".into()], Some(id("b"))));
    let third = page(&world, None, &[], Some(id("b")), 2);
    assert_eq!(third, Page { rows: vec!["a".into()], next: None, scanned: 1, complete: true });
}

#[test]
fn cheap_and_deep_conditions_join() {
    let mut world = World::new();
    world.enqueue(Spec { tags: vec!["eu".into()], ..Spec::default() }, &["a", "b"]);
    world.enqueue(Spec { queue: "low".into(), ..Spec::default() }, &["c", "d"]);
    let rows = |clauses: &[(&str, &str, &[&str])]| page(&world, None, clauses, None, 10).rows;
    assert_eq!(rows(&[("queue", "=", &["low"])]), ["d", "c"]);
    assert_eq!(rows(&[("tag", "=", &["eu"]), ("args.0", "=", &["a"])]), ["a"]);
    assert_eq!(rows(&[("args.0", "=", &["a", "d"])]), ["d", "a"]);
    assert_eq!(rows(&[("queue", "=", &["low"]), ("tag", "=", &["eu"])]), [] as [&str; 0]);
    assert_eq!(rows(&[("state", "=", &["processing"])]), [] as [&str; 0]);
}

#[test]
fn jobs_are_found_by_where_they_come_from_and_by_their_mistake() {
    let mut world = World::new();
    world.machine = Machine::newest();
    let batch = id("all");
    world.run(&Command::Batch(Batch::Open(batch, "night".into(), None)));
    let member = Job { id: id("m"), batch: Some(batch), ..Job::default() };
    world.run(&Command::Enqueue { specs: vec![Spec::default()], jobs: vec![member] });
    let child = Job { id: id("c"), parents: vec![(id("m"), 0, false)], ..Job::default() };
    world.run(&Command::Enqueue { specs: vec![Spec::default()], jobs: vec![child] });
    let hex = |name: &str| id(name).to_string();
    let rows = |clauses: &[(&str, &str, &[&str])]| page(&world, None, clauses, None, 10).rows;
    assert_eq!(rows(&[("batch", "prefix", &[&hex("all")])]), ["m"]);
    assert_eq!(rows(&[("parent", "prefix", &[&hex("m"), &hex("x")])]), ["c"]);
    assert_eq!(rows(&[("parent", "prefix", &[&hex("c")])]), [] as [&str; 0]);
    assert_eq!(rows(&[("schedule", "prefix", &[""])]), [] as [&str; 0]);
    assert_eq!(rows(&[("fingerprint", "prefix", &[""])]), [] as [&str; 0]);
}

#[test]
fn memory_and_archive_are_one_list() {
    let (mut world, mut shelf) = (World::new(), Shelf::default());
    world.enqueue(Spec::default(), &["a", "c", "e"]);
    archive_all(&mut world, &mut shelf);
    world.enqueue(Spec::default(), &["b", "d"]);
    let both = page(&world, Some(&mut shelf), &[], None, 10);
    assert_eq!(
        both,
        Page { rows: ["e*", "d", "c*", "b", "a*"].map(String::from).into(), next: None, scanned: 5, complete: true }
    );
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = page(&world, Some(&mut shelf), &[], cursor, 2);
        found.extend(page.rows);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, both.rows);
    let waiting = page(&world, Some(&mut shelf), &[("state", "=", &["enqueued"])], None, 10);
    assert_eq!((waiting.rows.len(), waiting.scanned), (2, 2), "the archive has only final jobs");
}

#[test]
fn job_in_memory_hides_its_archived_record() {
    let (mut world, mut shelf) = (World::new(), Shelf::default());
    world.enqueue(Spec::default(), &["a", "b"]);
    archive_all(&mut world, &mut shelf);
    let record = shelf.records[&id("a")].clone();
    world.run(&Command::Restore(vec![record]));
    world.run(&Command::Requeue(vec![id("a")]));
    assert_eq!(page(&world, Some(&mut shelf), &[], None, 10).rows, ["b*", "a"]);
    let succeeded = page(&world, Some(&mut shelf), &[("state", "=", &["succeeded"])], None, 10);
    assert_eq!(succeeded.rows, ["b*"], "its old record is out of date");
}

#[test]
fn search_over_the_window_says_so_and_goes_on() {
    let mut world = World::new();
    let total = WINDOW as u64 + 5_000;
    for start in (0..total).step_by(1_000) {
        let jobs = (start..start + 1_000).map(|number| {
            let mut args = Writer::new();
            args.array(2).array(1).str(if number == 10 { "needle" } else { "hay" }).map(0);
            let id = JobId((u128::from(number) << 64).to_be_bytes());
            Job { id, args: args.into_bytes(), ..Job::default() }
        });
        world.run(&Command::Enqueue { specs: vec![Spec::default()], jobs: jobs.collect() });
    }
    let clauses: &[(&str, &str, &[&str])] = &[("args.0", "=", &["needle"])];
    let first = page(&world, None, clauses, None, 10);
    assert_eq!((first.rows.len(), first.scanned, first.complete), (0, WINDOW as u64, false));
    let second = page(&world, None, clauses, first.next, 10);
    assert_eq!((second.rows.len(), second.scanned, second.complete, second.next), (1, 5_000, true, None));
    let cheap = page(&world, None, &[("queue", "=", &["default"])], None, 10);
    assert_eq!((cheap.rows.len(), cheap.scanned, cheap.complete), (10, total, true), "what is cheap is not cut");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Pages of any size give each job once, in order, wherever it lies.
    #[test]
    fn pages_give_each_job_once(places in proptest::collection::vec((0u8..4, any::<bool>()), 1..40), limit in 1u64..7) {
        let (mut world, mut shelf) = (World::new(), Shelf::default());
        let name = |number: usize| format!("{:02}", number * 7 % 41);
        let old: Vec<String> = (0..places.len()).filter(|n| places[*n].0 == 0).map(name).collect();
        world.enqueue(Spec::default(), &old.iter().map(String::as_str).collect::<Vec<_>>());
        archive_all(&mut world, &mut shelf);
        for number in (0..places.len()).filter(|n| places[*n].0 != 0) {
            let queue = if places[number].1 { "low" } else { "default" };
            world.enqueue(Spec { queue: queue.into(), ..Spec::default() }, &[&name(number)]);
        }
        let mut expected: Vec<String> = (0..places.len())
            .filter(|n| places[*n].0 == 0 || !places[*n].1)
            .map(|n| name(n) + if places[n].0 == 0 { "*" } else { "" })
            .collect();
        expected.sort_by(|a, b| b.cmp(a));
        for clauses in [&[("queue", "=", &["default"][..])][..], &[("queue", "=", &["default"][..]), ("args.0", ">=", &[""][..])][..]] {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let page = page(&world, Some(&mut shelf), clauses, cursor, limit);
                prop_assert!(page.complete);
                prop_assert!(page.next.is_none() || page.rows.len() == limit as usize);
                found.extend(page.rows);
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&found, &expected);
        }
    }
}
