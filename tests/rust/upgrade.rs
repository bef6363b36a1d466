//! U1 to U3: a cluster of three processes over real sockets and directories is upgraded, one member after the other.
//!
//! The next version is this source with one feature level and one operation more, see `process`.

mod process;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use raftwork::base::codec::Reader;
use raftwork::base::{Error, RELEASE};
use raftwork::client::contacts::Contacts;
use raftwork::client::patience::Patience;
use raftwork::client::request::Failure;
use raftwork::client::{Client, Options};
use raftwork::machine::LEVEL;
use raftwork::net::{Address, Security};
use tempfile::TempDir;

use crate::node::support::{until, PATIENCE};
use crate::ports::free_ports;
use crate::requests::{enqueue, field, field_number, field_text, field_texts, job};
use process::{Member, Release};

const MEMBERS: usize = 3;
/// The orders of `raftwork cluster members`, `snapshot` and `finalize`.
const LIST: &[u8] = &[0x91, 1];
const SNAPSHOT: &[u8] = &[0x91, 4];
const FINALIZE: &[u8] = &[0x91, 26];

fn patience() -> Patience<'static> {
    Patience::after(Some(PATIENCE))
}

struct Group {
    dir: TempDir,
    ports: Vec<u16>,
    members: Vec<Option<Member>>,
}

impl Group {
    fn new() -> Self {
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(MEMBERS + 1));
        let mut group = Self { dir, ports, members: Vec::new() };
        group.members = (0..MEMBERS).map(|number| Some(group.launch(number, Release::This))).collect();
        for member in group.members.iter().flatten() {
            assert_eq!(member.says(&["open", "refused"]), "open");
        }
        until(|| group.health(0).is_ok_and(|health| field_number(&health, "voters") == MEMBERS as u64));
        group
    }

    fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }

    fn launch(&self, number: usize, release: Release) -> Member {
        Member::start(release, &self.path(number), self.ports[number], &self.ports[..MEMBERS])
    }

    /// Starts it over the directory that it had, and waits until it serves.
    fn start(&mut self, number: usize, release: Release) {
        let member = self.launch(number, release);
        assert_eq!(member.says(&["open", "refused"]), "open");
        self.members[number] = Some(member);
    }

    fn stop(&mut self, number: usize) {
        self.members[number].take().unwrap().end();
    }

    /// As in a rolling upgrade, or back.
    fn change(&mut self, number: usize, release: Release) {
        self.stop(number);
        self.start(number, release);
    }

    fn contacts(&self, numbers: impl Iterator<Item = usize>) -> Contacts {
        let addresses = numbers.map(|number| format!("127.0.0.1:{}", self.ports[number] + 1));
        Contacts::new(addresses.map(|text| Address::parse(&text).unwrap()).collect(), Security::Plain).unwrap()
    }

    fn connect(&self) -> Arc<Client> {
        Client::connect(self.contacts(0..MEMBERS), Options::default(), &mut patience()).unwrap()
    }

    /// Asked at one member.
    fn health(&self, number: usize) -> Result<Vec<u8>, Error> {
        let contacts = self.contacts(std::iter::once(number));
        let client = Client::connect(contacts, Options::default(), &mut patience())?;
        client.fresh(&mut patience())?;
        client.health()
    }

    /// An order to the leader, whoever that is in the end.
    fn order(&self, order: &[u8]) -> Result<Vec<u8>, Error> {
        let mut answer = None;
        until(|| {
            let given = self.connect().order(order, &mut patience());
            let again = matches!(&given, Err(Error::NotCommitted(why)) if why.contains("does not lead"));
            answer = Some(given);
            !again
        });
        answer.unwrap()
    }

    fn finalize(&self) -> Result<u64, String> {
        let answer = self.order(FINALIZE);
        answer.map(|level| Reader::new(&level).u64().unwrap()).map_err(|error| error.to_string())
    }

    /// Waits until the leader knows of each member what it runs: so many are of the next version.
    fn heard(&self, newer: usize) {
        until(|| {
            let rows = self.order(LIST).unwrap();
            let mut reader = Reader::new(&rows);
            let rows: Vec<&[u8]> = (0..reader.array().unwrap()).map(|_| reader.raw().unwrap()).collect();
            let mut levels: Vec<Option<u64>> =
                rows.iter().map(|row| Reader::new(&field(row, "knows_level")).u64().ok()).collect();
            levels.sort_unstable();
            let older = std::iter::repeat_n(Some(LEVEL), MEMBERS - newer);
            let all = older.chain(std::iter::repeat_n(Some(LEVEL + 1), newer));
            let heard = levels == all.collect::<Vec<_>>();
            assert!(!heard || rows.iter().all(|row| field_text(row, "version") == RELEASE));
            heard
        });
    }

    fn future(&mut self, number: usize) -> Result<(), String> {
        self.members[number].as_mut().unwrap().future()
    }
}

/// Enqueues without a pause, until it is stopped. Its result is how many were acknowledged, or what one was told instead.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, Failure>>,
}

impl Load {
    fn start(group: &Group) -> Self {
        let (client, stop) = (group.connect(), Arc::<AtomicBool>::default());
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut done = 0;
            while !ends.load(Ordering::SeqCst) {
                // Without its envelope: the client makes one, and repeats what a change of leader left open.
                client.submit(&enqueue(job(done + 1), 64)[4..], &mut patience())?;
                done += 1;
            }
            Ok(done)
        });
        Self { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap().expect("every job was acknowledged")
    }
}

#[test]
fn u1_u2_u3_a_cluster_is_upgraded_member_by_member_and_finalized_when_all_know_the_level() {
    let mut group = Group::new();
    group.heard(0);
    let load = Load::start(&group);
    group.order(SNAPSHOT).unwrap();

    // One goes ahead, back, and ahead again: nothing is decided yet.
    for release in [Release::Next, Release::This, Release::Next] {
        group.change(0, release);
        group.heard(usize::from(release == Release::Next));
    }
    for number in 1..MEMBERS {
        let why = group.finalize().expect_err("a member would stop for good");
        let older =
            why.matches(&format!("runs raftwork {RELEASE} and knows feature level {LEVEL}: upgrade it")).count();
        assert_eq!(older, MEMBERS - number, "{why}");
        let refused = group.future(0).expect_err("the others do not know it");
        assert!(refused.contains("finalize"), "{refused}");
        group.change(number, Release::Next);
        group.heard(number + 1);
    }

    // One that is away may come back with anything.
    group.stop(2);
    let why = group.finalize().expect_err("one is not there");
    assert!(why.contains("is not connected") && why.contains("raftwork cluster remove"), "{why}");
    group.start(2, Release::Next);
    group.heard(MEMBERS);
    assert_eq!(group.finalize(), Ok(LEVEL + 1));
    assert_eq!(group.finalize(), Ok(LEVEL + 1), "again is harmless");
    for number in 0..MEMBERS {
        assert_eq!(group.future(number), Ok(()));
    }
    let done = load.end();

    // There is no way back, whether it has the entry in its log or is sent it.
    group.stop(2);
    let old = group.launch(2, Release::This);
    let why = match old.says(&["open", "refused"]).as_str() {
        "open" => old.says(&["stopped"]),
        refused => refused.to_owned(),
    };
    assert!(why.contains(&format!("which knows feature level {LEVEL}: upgrade this node")), "{why}");
    assert!(why.starts_with("stopped") || why.starts_with("refused Foreign("), "{why}");
    let newcomer = group.launch(MEMBERS, Release::This);
    let why = newcomer.says(&["open", "refused Foreign("]);
    assert!(why.contains(&format!("the cluster is at level {}: start it with the release", LEVEL + 1)), "{why}");

    drop((old, newcomer));
    group.start(2, Release::Next);
    for number in 0..MEMBERS {
        let health = group.health(number).unwrap();
        assert_eq!(field_number(&health, "jobs"), done);
        assert_eq!(
            (field_number(&health, "feature_level"), field_number(&health, "knows_level")),
            (LEVEL + 1, LEVEL + 1)
        );
        assert_eq!(field_texts(&health, "alarms"), Vec::<String>::new());
    }
}
