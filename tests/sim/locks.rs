//! Clients that take locks of all kinds, hold them, give up, hang and die, and what must hold of it: K1, K2, K3, and that
//! whoever asks first has it first.
//!
//! They run in clusters of their own, with the faults of all others. A client whose last confirmed sign of life is older
//! than two thirds of its session's time takes its lock for lost, as a real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::planted::Bug;
use raftwork::machine::{self, Machine, Mode};

use crate::clients::TTL_MS;
use crate::cluster::Cluster;
use crate::random::Random;
use crate::wire::{Command, Own};
use crate::{fleet, number, rest};

/// What is asked for, and how often.
const WISHES: [(&str, Mode); 8] = [
    ("one", Mode::Lock),
    ("two", Mode::Lock),
    ("few", Mode::Permit(2)),
    ("few", Mode::Permit(2)),
    ("map", Mode::Read),
    ("map", Mode::Read),
    ("map", Mode::Write),
    ("map", Mode::Write),
];
/// Mistakes that only these clients can meet.
pub const BUGS: [Bug; 5] =
    [Bug::HandOverOldToken, Bug::UnlockUnchecked, Bug::GivenUpGets, Bug::PermitTooMany, Bug::ReadersPass];

#[derive(Clone, Debug, PartialEq)]
struct Wish {
    number: u64,
    name: String,
    mode: Mode,
    waits: bool,
}

impl Wish {
    fn command(&self) -> Command {
        match self.mode {
            Mode::Lock => Command::Lock(self.number, self.name.clone(), self.waits),
            mode => Command::Acquire(self.number, self.name.clone(), mode, self.waits),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Stand {
    Nothing,
    /// It asks; and the index of the entry that asked first, once it is known.
    Wants(Wish, Option<u64>),
    /// With this token.
    Holds(Wish, u64),
}

/// One client's side: one try at a time.
#[derive(Debug)]
pub struct Locker {
    stand: Stand,
    /// What it stands for while its end is under way.
    leaving: Option<Stand>,
    numbers: u64,
    /// Locks that it held before.
    stale: Vec<(String, u64)>,
    began: bool,
}

impl Default for Locker {
    fn default() -> Self {
        Self { stand: Stand::Nothing, leaving: None, numbers: 0, stale: Vec::new(), began: false }
    }
}

impl Locker {
    /// Its process ends without a word; another begins in its place.
    pub fn dies(&mut self, random: &mut Random) -> bool {
        let dies = self.began && random.chance(15);
        if dies {
            self.lost();
        }
        dies
    }

    pub fn next(&mut self, session: u64, random: &mut Random, book: &mut Book) -> Option<Command> {
        if !self.began {
            self.began = true;
            return Some(Command::Own(Own::SetLevel(machine::LEVEL)));
        }
        match self.stand.clone() {
            Stand::Nothing if random.chance(150) && !self.stale.is_empty() => {
                // It does not know that its time is over.
                let (name, token) = random.pick(&self.stale).clone();
                Some(Command::Unlock(name, token))
            }
            Stand::Nothing if random.chance(300) => None,
            Stand::Nothing => {
                self.numbers += 1;
                let (name, mode) = *random.pick(&WISHES);
                let wish = Wish { number: self.numbers, name: name.into(), mode, waits: random.chance(800) };
                self.stand = Stand::Wants(wish.clone(), None);
                book.wants(session);
                Some(wish.command())
            }
            Stand::Wants(wish, _) if wish.waits && random.chance(200) => {
                self.leaving = Some(std::mem::replace(&mut self.stand, Stand::Nothing));
                Some(Command::GiveUp(wish.number))
            }
            // Nobody tells it here: it asks again.
            Stand::Wants(wish, _) => Some(wish.command()),
            Stand::Holds(..) if random.chance(300) => None,
            Stand::Holds(wish, token) => {
                self.leaving = Some(std::mem::replace(&mut self.stand, Stand::Nothing));
                Some(if random.chance(200) { Command::GiveUp(wish.number) } else { Command::Unlock(wish.name, token) })
            }
        }
    }

    pub fn answered(&mut self, session: u64, index: u64, command: &Command, payload: &[u8], book: &mut Book) {
        match command {
            Command::Lock(..) | Command::Acquire(..) => {
                let Stand::Wants(wish, asked) = &mut self.stand else { return };
                let asked = *asked.get_or_insert(index);
                let token = Reader::new(payload).option(|reader| reader.u64()).expect("a token, or nil");
                match token {
                    Some(token) => {
                        book.granted(&wish.name, token, session);
                        book.in_order(&wish.name, asked, token);
                        self.stand = Stand::Holds(wish.clone(), token);
                    }
                    None if wish.waits => {}
                    None => {
                        self.stand = Stand::Nothing;
                        book.idle(session, index);
                    }
                }
            }
            Command::Unlock(name, token) => {
                book.unlocked(name, *token, index);
                self.gone(session, index, book);
            }
            Command::GiveUp(_) => self.gone(session, index, book),
            _ => {}
        }
    }

    fn gone(&mut self, session: u64, index: u64, book: &mut Book) {
        if let Some(Stand::Holds(wish, token)) = self.leaving.take() {
            self.stale.push((wish.name, token));
        }
        book.idle(session, index);
    }

    /// Its token was refused. That happens to a holder only after its session has ended.
    pub fn refused(&mut self, command: &Command) {
        assert_eq!(self.leaving, None, "K1: a session that lives lost its lock: {command:?}");
    }

    /// This was certainly never applied.
    pub fn never(&mut self) {
        if let Some(stand) = self.leaving.take() {
            self.stand = stand;
        }
    }

    pub fn lost(&mut self) {
        let before =
            [std::mem::replace(&mut self.stand, Stand::Nothing), self.leaving.take().unwrap_or(Stand::Nothing)];
        for stand in before {
            if let Stand::Holds(wish, token) = stand {
                self.stale.push((wish.name, token));
            }
        }
    }

    fn holds(&self) -> Option<&Wish> {
        match &self.stand {
            Stand::Holds(wish, _) => Some(wish),
            _ => None,
        }
    }
}

/// The least and the greatest token of a lock, and whether one holder has it alone.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    least: u64,
    greatest: u64,
    alone: bool,
}

/// What is known of locks outside of the cluster.
#[derive(Debug, Default)]
pub struct Book {
    /// Who got each token: the lock and the session.
    grants: BTreeMap<u64, (String, u64)>,
    /// The tokens of each lock at indexes at which a state was seen.
    seen: BTreeMap<String, BTreeMap<u64, Seen>>,
    /// By lock and by the index at which it was asked for first, the token that came of it.
    asked: BTreeMap<String, BTreeMap<u64, u64>>,
    unlocked: BTreeSet<u64>,
    /// Sessions that want nothing since an index.
    idle: BTreeMap<u64, u64>,
    pub looks: u64,
    pub told: u64,
}

impl Book {
    fn wants(&mut self, session: u64) {
        self.idle.remove(&session);
    }

    fn idle(&mut self, session: u64, index: u64) {
        self.idle.insert(session, index);
    }

    fn granted(&mut self, name: &str, token: u64, session: u64) {
        self.told += 1;
        let got = (name.to_owned(), session);
        let known = self.grants.entry(token).or_insert_with(|| got.clone());
        assert_eq!(known, &got, "K2: the token {token} was given twice");
    }

    /// Whoever asks first has it first.
    fn in_order(&mut self, name: &str, asked: u64, token: u64) {
        let tokens = self.asked.entry(name.to_owned()).or_default();
        let before = tokens.range(..asked).next_back().filter(|(_, other)| **other > token);
        let behind = tokens.range(asked + 1..).next().filter(|(_, other)| **other < token);
        assert_eq!((before, behind), (None, None), "{name}: token {token}, asked for at {asked}, is out of order");
        tokens.insert(asked, token);
    }

    fn unlocked(&mut self, name: &str, token: u64, index: u64) {
        assert!(self.unlocked.insert(token), "K1: {name} was released twice with token {token}");
        let before = self.seen.get(name).and_then(|seen| seen.range(..index).next_back());
        let later = before.filter(|(_, seen)| seen.least > token);
        assert!(later.is_none(), "K1: {name} took the end of token {token} at {index}, behind {later:?}");
    }

    /// The state of a node at an index.
    pub fn sees(&mut self, index: u64, machine: &Machine) {
        let rows = rows(machine);
        self.looks += u64::from(!rows.is_empty());
        for (name, holders) in rows {
            holders.iter().for_each(|row| self.row(index, &name, row));
            let tokens = || holders.iter().map(|row| row.token);
            let (least, greatest) = (tokens().min().unwrap_or(0), tokens().max().unwrap_or(0));
            let alone = holders.iter().any(|row| row.mode == "lock" || row.mode == "write");
            assert!(!alone || holders.len() == 1, "K1: {name} has several holders at {index}: {holders:?}");
            let fits = |row: &Row| row.permits >= holders.len() as u64;
            assert!(holders.iter().all(fits), "K1: {name} has too many holders at {index}: {holders:?}");
            let idle = |row: &Row| row.mode == "semaphore" && row.waiters > 0 && row.permits > holders.len() as u64;
            assert!(!holders.iter().any(idle), "{name} has a permit that nobody gets at {index}: {holders:?}");
            self.rises(index, &name, Seen { least, greatest, alone });
        }
    }

    fn row(&mut self, index: u64, name: &str, row: &Row) {
        let (session, token) = (row.session, row.token);
        let idle = self.idle.get(&session).filter(|since| **since <= index);
        assert!(idle.is_none(), "K1: session {session} has {name} at {index}, which it does not want since {idle:?}");
        let got = (name.to_owned(), session);
        let known = self.grants.entry(token).or_insert_with(|| got.clone());
        assert_eq!(known, &got, "K2: the token {token} at {index} was given twice");
    }

    /// Whoever has it alone has a greater token than all before, and a lower one than all behind.
    fn rises(&mut self, index: u64, name: &str, now: Seen) {
        let seen = self.seen.entry(name.to_owned()).or_default();
        let one_alone = |other: &Seen| now.alone || other.alone;
        let before = seen.range(..=index).next_back();
        let before = before.filter(|(_, held)| one_alone(held) && held.greatest > now.least);
        let behind = seen.range(index..).next();
        let behind = behind.filter(|(_, held)| one_alone(held) && held.least < now.greatest);
        assert_eq!((before, behind), (None, None), "K2: {now:?} at {index} does not rise: {name}");
        seen.insert(index, now);
    }
}

/// One holder, as the state shows it.
#[derive(Debug)]
struct Row {
    mode: String,
    permits: u64,
    session: u64,
    token: u64,
    waiters: u64,
}

fn rows(machine: &Machine) -> BTreeMap<String, Vec<Row>> {
    let mut question = Writer::new();
    question.array(3).u64(60).nil().u64(1_000);
    let answer = machine.view(question.as_bytes()).expect("a question that is known");
    let reader = &mut Reader::new(&answer);
    reader.array_of(2, "a page").expect("a page");
    let mut locks: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for _ in 0..reader.array().expect("rows") {
        reader.array_of(10, "a holder").expect("a holder");
        let (name, mode) = (reader.str().expect("a name").to_owned(), reader.str().expect("a mode").to_owned());
        let (permits, session) = (reader.u64().expect("a number"), reader.u64().expect("a session"));
        (0..3).for_each(|_| assert!(reader.raw().is_ok(), "kind, host and process"));
        let token = reader.u64().expect("a token");
        assert!(reader.raw().is_ok(), "since when");
        let waiters = reader.u64().expect("a number");
        locks.entry(name).or_default().push(Row { mode, permits, session, token, waiters });
    }
    locks
}

impl Cluster {
    /// Whether a node does not have everything that was answered: it was just started, and has not heard of the rest.
    pub fn lacks_an_answer(&self) -> bool {
        let mut replicas = self.members().filter_map(|node| node.replica.as_ref());
        replicas.any(|replica| replica.applied().0 < self.ledger.answered_index)
    }

    /// Clients that trust their sessions hold no lock beside each other that does not allow it (K1, K3).
    pub fn check_holders(&self) {
        let mut held: BTreeMap<&str, Vec<Mode>> = BTreeMap::new();
        for client in &self.clients {
            let trusts = self.now < client.heard_at + TTL_MS * 1_000 * 2 / 3;
            let Some(wish) = client.locks.as_ref().and_then(Locker::holds).filter(|_| trusts) else { continue };
            let modes = held.entry(&wish.name).or_default();
            modes.push(wish.mode);
            let fit = modes.iter().all(|mode| mode.permits() >= modes.len() as u64);
            assert!(fit, "K1: client {} holds {} too, beside {modes:?}", client.number, wish.name);
        }
    }
}

/// A cluster whose clients do nothing but take locks. Gives how often a state with locks was seen, and grants told.
fn run(seed: u64) -> (u64, u64) {
    let mut random = Random::new(seed ^ 0x10c5);
    let (nodes, clients) = (*random.pick(&[1, 3, 3, 5]), random.between(3, 6) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, 0);
    cluster.clients.iter_mut().for_each(|client| client.locks = Some(Locker::default()));
    rest::after_trouble(&mut cluster, |cluster| !cluster.lacks_an_answer());
    (cluster.ledger.locks.looks, cluster.ledger.locks.told)
}

/// K1: one holder at every index. K2: tokens only rise. K3: nobody loses a lock before its session's time is over.
#[test]
fn k1_k2_k3_locks_have_one_holder_at_every_index() {
    if let Some(seed) = number("RAFTWORK_SIM_LOCK_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_LOCK_SEEDS").unwrap_or(60);
    let (mut looks, mut told) = (0, 0);
    for seed in 0..seeds {
        let found = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_LOCK_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        (looks, told) = (looks + found.0, told + found.1);
    }
    println!("{seeds} seeds: {looks} looks at states with locks, {told} grants told");
    assert!(looks > seeds * 20 && told > seeds * 5, "the simulation of locks lost its teeth: {looks}, {told}");
}

/// Every mistake with locks that can be switched on is found by one of the first seeds.
#[test]
fn planted_lock_bugs_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
