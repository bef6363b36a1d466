//! Clients that define schedules and, all of them, fire them, each as it saw them at some member: now or a while ago. What
//! must hold of it: C1, C4.
//!
//! They run in clusters of their own, with the faults of all others. Each of the shared schedules has an owner, which changes
//! its definition while it is paused, so that the slot stands still: a firing by the old definition names the right slot and
//! must be stale all the same. A slot is a number, and a definition how far the next one is.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::planted::Bug;
use raftwork::base::JobId;
use raftwork::machine::{self, Machine};

use crate::cluster::Cluster;
use crate::random::Random;
use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{Command, Own, Spec};
use crate::{fleet, number, rest};

const SHARED: [&str; 3] = ["daily", "hourly", "weekly"];
/// Everybody does anything with it: only the model says what becomes of it.
const LOOSE: &str = "loose";
/// Older rows of a schedule that clients may still believe.
const PAST: usize = 8;
/// Mistakes that only these clients can meet.
pub const BUGS: [Bug; 3] = [Bug::FireAnySlot, Bug::FireOldDefinition, Bug::SkippedSlotStays];

/// What a question shows of one schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub generation: u64,
    pub next: Option<u64>,
    pub fired: u64,
    pub skipped: u64,
    paused: bool,
    /// Its number, which no other definition has, and the step.
    definition: (u64, u64),
}

/// The schedules of a state.
pub fn rows(machine: &Machine) -> BTreeMap<String, Row> {
    let answer = page(machine);
    let reader = &mut Reader::new(&answer);
    (0..reader.array().expect("rows")).map(|_| row(reader).expect("a row")).collect()
}

fn page(machine: &Machine) -> Vec<u8> {
    let mut question = Writer::new();
    question.array(3).u64(31).nil().u64(1_000);
    machine.view(question.as_bytes()).expect("a question that is known")
}

fn row(reader: &mut Reader<'_>) -> raftwork::base::Result<(String, Row)> {
    reader.array_of(14, "a schedule")?;
    let (name, generation) = (reader.str()?.to_owned(), reader.u64()?);
    reader.str()?;
    let paused = reader.option(|reader| reader.str())?.is_some();
    let next = reader.option(|reader| reader.u64())?;
    (0..2).try_for_each(|_| reader.raw().map(drop))?; // the last slot and job
    let (fired, skipped) = (reader.u64()?, reader.u64()?);
    (0..4).try_for_each(|_| reader.raw().map(drop))?; // overlap, function, queue, arguments
    let definition = &mut Reader::new(reader.bin()?);
    let definition = (definition.u64()?, definition.u64()?);
    Ok((name, Row { generation, next, fired, skipped, paused, definition }))
}

/// What is known of schedules outside of the cluster.
#[derive(Debug, Default)]
pub struct Book {
    /// The newest state that any member showed, and what older ones showed.
    index: u64,
    newest: BTreeMap<String, Row>,
    past: BTreeMap<String, Vec<Row>>,
    /// What every state at an index shows.
    states: BTreeMap<u64, Vec<u8>>,
    /// The first row of each definition: its slot and sum.
    begun: BTreeMap<(String, u64), (u64, u64)>,
    /// Slots whose jobs were told to be stored or skipped, and the entry.
    used: BTreeMap<(String, u64), u64>,
    /// The slot that a schedule had when it was deleted.
    left_at: BTreeMap<String, u64>,
    definitions: u64,
    pub looks: u64,
    pub told: u64,
    pub stale: u64,
}

impl Book {
    /// The state of a node at an index: the same at all of them.
    pub fn sees(&mut self, index: u64, machine: &Machine) {
        let page = page(machine);
        let known = self.states.entry(index).or_insert_with(|| page.clone());
        assert_eq!(known, &page, "C1: members differ in their schedules at {index}");
        let rows = rows(machine);
        for (name, row) in &rows {
            self.row(index, name, row);
        }
        if index > self.index {
            (self.index, self.newest) = (index, rows);
        }
    }

    /// No slot is skipped and none is used twice: since its definition began, each job or skipped job moved it one step.
    fn row(&mut self, index: u64, name: &str, row: &Row) {
        let past = self.past.entry(name.to_owned()).or_default();
        if !past.contains(row) {
            past.truncate(PAST - 1);
            past.insert(0, row.clone());
        }
        let (Some(next), true) = (row.next, name != LOOSE) else { return };
        self.looks += 1;
        let ((number, step), sum) = (row.definition, row.fired + row.skipped);
        let (slot, count) = *self.begun.entry((name.to_owned(), number)).or_insert((next, sum));
        let moved = (next + step * count, slot + step * sum);
        assert_eq!(moved.0, moved.1, "C1: {name} at {index} has slot {next} after {sum} jobs, {slot} after {count}");
    }

    fn fired(&mut self, index: u64, at: &At, jobs: &[(JobId, u64, Option<u64>)], payload: &[u8]) {
        let reader = &mut Reader::new(payload);
        reader.array_of(2, "what a firing did").expect("two items");
        if reader.u64().expect("a code") == 1 {
            self.stale += 1;
            return;
        }
        self.told += 1;
        for (_, slot, _) in jobs.iter().filter(|_| at.name != LOOSE) {
            let other = self.used.insert((at.name.clone(), *slot), index);
            assert_eq!(other, None, "C1: slot {slot} of {} was used twice, at {index} too", at.name);
        }
    }
}

/// One client's side.
#[derive(Debug)]
pub struct Scheduler {
    client: usize,
    began: bool,
    made: u64,
    /// Of the schedules that it owns, and the newest entry that it was told of.
    owned: Vec<&'static str>,
    since: u64,
    plans: BTreeMap<String, Put>,
}

impl Scheduler {
    pub fn new(client: usize, clients: usize) -> Self {
        let owned = SHARED.iter().enumerate().filter(|(place, _)| place % clients == client);
        let owned = owned.map(|(_, name)| *name).collect();
        Self { client, began: false, made: 0, owned, since: 0, plans: BTreeMap::new() }
    }

    pub fn next(&mut self, random: &mut Random, book: &mut Book) -> Option<Command> {
        if !self.began {
            self.began = true;
            return Some(Command::Own(Own::SetLevel(machine::LEVEL)));
        }
        let recur = match random.below(10) {
            0 | 1 if !self.owned.is_empty() => self.own(random, book),
            2 => Some(self.anything(random, book)),
            _ => self.fire(random, book),
        };
        recur.map(Command::Recur)
    }

    /// Changes one of its own, if it knows how that stands after everything that it did.
    fn own(&mut self, random: &mut Random, book: &mut Book) -> Option<Recur> {
        let name = (*random.pick(&self.owned)).to_owned();
        if book.index < self.since {
            return None;
        }
        let row = book.newest.get(&name).cloned();
        Some(match row {
            None => self.put(name.clone(), book.left_at.get(&name).copied().unwrap_or(1), random, book),
            Some(row) if !row.paused && random.chance(300) => {
                // It starts again: that moves no slot.
                let plan = self.plans.get(&name)?.clone();
                Recur::Put(Box::new(Put { next: row.next.map(|next| next + 1_000_000), ..plan }))
            }
            Some(row) if !row.paused => Recur::Pause(name, Some("it changes".into())),
            Some(row) => match random.below(10) {
                0 => {
                    book.left_at.insert(name.clone(), row.next?);
                    Recur::Delete(name)
                }
                1..=5 => self.put(name, row.next?, random, book),
                _ => Recur::Pause(name, None),
            },
        })
    }

    /// A definition that nobody had before.
    fn put(&mut self, name: String, next: u64, random: &mut Random, book: &mut Book) -> Recur {
        book.definitions += 1;
        let mut definition = Writer::new();
        definition.u64(book.definitions).u64(random.between(1, 3));
        let put = Put {
            name: name.clone(),
            generation: None,
            source: "api".into(),
            spec: Spec { expires: Some(random.between(100, 2_000)), ..Spec::default() },
            args: vec![7; random.below(60) as usize],
            overlap: random.below(4),
            definition: definition.into_bytes(),
            next: Some(next),
            limits: Vec::new(),
        };
        self.plans.insert(name, put.clone());
        Recur::Put(Box::new(put))
    }

    /// Uses the slot of some schedule, as it is or was.
    fn fire(&mut self, random: &mut Random, book: &Book) -> Option<Recur> {
        let name = if random.chance(900) { *random.pick(&SHARED) } else { LOOSE };
        let newest = book.newest.get(name).filter(|_| random.chance(700));
        let row = match (newest, book.past.get(name)) {
            (Some(row), _) => row,
            (None, Some(past)) => random.pick(past),
            (None, None) => return None,
        };
        let (slot, step) = (row.next?, row.definition.1);
        let slots = if random.chance(200) { 2 } else { 1 };
        let next = (name != LOOSE || random.chance(900)).then_some(slot + slots * step);
        let own_ids = random.chance(500);
        let jobs = (0..slots).map(|place| {
            let slot = slot + place * step;
            (if own_ids { self.id() } else { id_of(name, slot) }, slot, None)
        });
        let jobs = jobs.collect();
        Some(Recur::Fire(At { name: name.into(), generation: row.generation, slot, next }, jobs))
    }

    /// With the schedule that is nobody's.
    fn anything(&mut self, random: &mut Random, book: &mut Book) -> Recur {
        let name = LOOSE.to_owned();
        let slot = book.newest.get(LOOSE).and_then(|row| row.next).unwrap_or(1);
        let generation = book.newest.get(LOOSE).map_or(1, |row| row.generation);
        match random.below(8) {
            0 => Recur::Delete(name),
            1 => Recur::Pause(name, Some("why not".into())),
            2 | 3 => Recur::Pause(name, None),
            4 => {
                // A past slot, or one to come: whoever fires it makes the same id.
                let past = random.chance(500).then(|| random.between(1, slot + 2));
                Recur::Trigger(name, past.map_or_else(|| self.id(), |slot| id_of(LOOSE, slot)), past)
            }
            5 => Recur::Move(At { name, generation, slot, next: Some(random.between(1, 50)) }),
            _ => {
                let Recur::Put(mut put) = self.put(name, random.between(1, 50), random, book) else { unreachable!() };
                if random.chance(500) {
                    (put.source, put.generation) = ("code".into(), Some(random.between(1, 30)));
                }
                Recur::Put(put)
            }
        }
    }

    fn id(&mut self) -> JobId {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.client as u64 + 1).to_be_bytes());
        id[8..].copy_from_slice(&self.made.to_be_bytes());
        JobId(id)
    }

    pub fn answered(&mut self, index: u64, command: &Command, payload: &[u8], book: &mut Book) {
        self.since = index;
        if let Command::Recur(Recur::Fire(at, jobs)) = command {
            book.fired(index, at, jobs, payload);
        }
    }

    /// Its session had ended at this index: nothing that it asked before comes later.
    pub fn lost(&mut self, index: u64) {
        self.since = index;
    }
}

/// The id that everybody makes for a slot.
fn id_of(name: &str, slot: u64) -> JobId {
    let mut id = [0xff; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    id[8..].copy_from_slice(&slot.to_be_bytes());
    JobId(id)
}

/// A cluster whose clients do nothing but define and fire. Gives how often a state with schedules was seen, and firings that
/// were told to be done and to be stale.
fn run(seed: u64) -> [u64; 3] {
    let mut random = Random::new(seed ^ 0x5c4e);
    let (nodes, clients) = (*random.pick(&[1, 3, 3, 5]), random.between(2, 4) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, 0);
    for client in &mut cluster.clients {
        (client.schedules, client.curious, client.tokens) = (Some(Scheduler::new(client.number, clients)), false, None);
    }
    rest::after_trouble(&mut cluster, |cluster| !cluster.lacks_an_answer());
    let book = &cluster.ledger.schedules;
    [book.looks, book.told, book.stale]
}

/// C1: every slot is used once, none is left out, and all members agree. C4: a definition that was replaced fires nothing.
#[test]
fn c1_c4_every_slot_fires_once() {
    if let Some(seed) = number("RAFTWORK_SIM_SCHEDULE_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_SCHEDULE_SEEDS").unwrap_or(60);
    let mut sum = [0; 3];
    for seed in 0..seeds {
        let found = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_SCHEDULE_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let [looks, told, stale] = sum;
    println!("{seeds} seeds: {looks} looks at schedules, {told} firings told, {stale} stale");
    assert!(looks > seeds * 20 && told > seeds * 5 && stale > seeds, "the simulation lost its teeth: {sum:?}");
}

/// Every mistake with schedules that can be switched on is found by one of the first seeds.
#[test]
fn planted_schedule_bugs_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
