//! The owner's disk fails: its node gives the directory back, the next owner is found, and whoever asked gets an answer.

mod crashes;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwork::attach::message::Greeting;
use raftwork::attach::wire::{encode, Kind};
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{Error, GroupId, JobId};
use raftwork::client::buffer::Item;
use raftwork::client::fetcher::Wish;
use raftwork::client::patience::Patience;
use raftwork::client::request::Failure;
use raftwork::client::{Client, Options, Role};
use raftwork::disk::{Disk, Lock, RealDisk};
use raftwork::node::NodeConfig;
use tempfile::TempDir;

use crate::node::support::{until, BadDisk, Mood, PATIENCE};
use crate::requests::{enqueue, field, field_number, job};

const TAKE_OVER: Duration = Duration::from_secs(2);

/// A directory, and a disk that its first owner sees.
struct Home {
    dir: TempDir,
    disk: Arc<BadDisk>,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), disk: BadDisk::new() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self) -> NodeConfig {
        NodeConfig { segment_bytes: 256 << 10, ..NodeConfig::new(self.path().join("data")) }
    }

    /// On the disk that fails.
    fn first(&self) -> Arc<Client> {
        open(NodeConfig { disk: self.disk.clone(), ..self.config() })
    }

    fn other(&self) -> Arc<Client> {
        open(self.config())
    }
}

fn open(config: NodeConfig) -> Arc<Client> {
    Client::open(config, Options::default(), &mut patience()).unwrap()
}

fn patience() -> Patience<'static> {
    Patience::after(Some(PATIENCE))
}

/// A request without its envelope.
fn command(request: &[u8]) -> &[u8] {
    &request[4..]
}

fn put(client: &Client, id: JobId) -> Result<Vec<u8>, Failure> {
    client.submit(command(&enqueue(id, 64)), &mut patience())
}

fn detail(client: &Client, id: JobId) -> Vec<u8> {
    let mut question = Writer::new();
    question.array(2).u64(3).id(id);
    client.view(question.as_bytes()).unwrap()
}

fn is_known(client: &Client, id: JobId) -> bool {
    !detail(client, id).ends_with(&[0xc0])
}

fn jobs(client: &Client) -> u64 {
    field_number(&client.health().unwrap(), "jobs")
}

/// Enqueues without a pause and reports what was acknowledged, until stopped. Its first error is its result.
struct Writing {
    stop: Arc<AtomicBool>,
    acknowledged: Receiver<u64>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Writing {
    fn start(client: &Arc<Client>, first: u64) -> Self {
        let (send, acknowledged): (Sender<u64>, _) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (client, ends) = (client.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for number in first.. {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                put(&client, job(number))?;
                let _ = send.send(number);
            }
            Ok(())
        });
        Self { stop, acknowledged, thread }
    }

    fn next(&self) -> u64 {
        self.acknowledged.recv_timeout(PATIENCE).expect("a write is acknowledged")
    }

    fn end(self, all: &mut BTreeSet<u64>) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap().expect("no call was told of the failure");
        all.extend(self.acknowledged.try_iter());
    }
}

#[test]
fn d1_another_takes_over_when_the_owners_disk_fails_and_nothing_is_lost() {
    let home = Home::new();
    let (first, other) = (home.first(), home.other());
    assert_eq!((first.role(), other.role()), (Role::Owner, Role::Attached));
    let sessions = [&first, &other].map(|client| client.session(&mut patience()).unwrap());
    let writings = [Writing::start(&first, 0), Writing::start(&first, 100_000), Writing::start(&other, 200_000)];
    let mut all = BTreeSet::new();
    for writing in &writings {
        all.extend((0..10).map(|_| writing.next()));
    }
    home.disk.set(Mood::SyncFailsOnce);
    let failed = Instant::now();
    until(|| other.role() == Role::Owner);
    for writing in &writings {
        all.extend(writing.acknowledged.try_iter());
        all.insert(writing.next());
    }
    let took = failed.elapsed();
    writings.into_iter().for_each(|writing| writing.end(&mut all));
    assert!(took < TAKE_OVER, "{took:?}");
    assert_eq!(first.role(), Role::Attached, "it did not take the directory back");
    for client in [&first, &other] {
        let lost: Vec<_> = all.iter().filter(|number| !is_known(client, job(**number))).collect();
        assert!(lost.is_empty(), "D1: {lost:?}");
    }
    assert_eq!(jobs(&other), all.len() as u64, "each once");
    assert_eq!(sessions, [&first, &other].map(|client| client.session(&mut patience()).unwrap()));
    other.close(&mut patience()).unwrap();
    first.close(&mut patience()).unwrap();
    assert_eq!(jobs(&home.other()), all.len() as u64);
}

/// What was sent to an owner that failed may be applied: a full inbox of the next one does not tell that it is not.
#[test]
fn d2_the_refusal_of_a_later_owner_is_not_definite() {
    let home = Home::new();
    let first = home.first();
    let other = open(NodeConfig { inbox_requests_max: 1, ..home.config() });
    other.session(&mut patience()).unwrap();
    home.disk.set(Mood::Hangs);
    let tickets: Vec<u64> =
        (0..200).map(|number| other.start(command(&enqueue(job(number), 8)).to_vec()).unwrap()).collect();
    home.disk.wait_hanging();
    home.disk.set(Mood::SyncFailsOnce);
    let mut outcomes = Vec::new();
    until(|| {
        outcomes.extend(other.drain());
        outcomes.len() == tickets.len()
    });
    let refused: Vec<_> = outcomes.into_iter().filter_map(|(_, outcome)| outcome.err()).collect();
    assert!(!refused.is_empty(), "the inbox had room for all");
    let definite = |failure: &&Failure| !matches!(failure, Failure::Error(Error::Unknown(_)));
    assert_eq!(refused.iter().find(definite), None);
    first.close(&mut patience()).unwrap();
    other.close(&mut patience()).unwrap();
}

#[test]
fn a_process_alone_opens_its_directory_again_and_keeps_its_leases_and_waits() {
    let home = Home::new();
    let alone = home.first();
    let wish = Wish { queues: vec![("q".into(), 1)], functions: vec!["f".into()], ..Wish::default() };
    let fetcher = alone.fetcher(wish, Vec::new(), &mut patience()).unwrap();
    put(&alone, job(1)).unwrap();
    let lease = fetcher.next(&mut patience()).unwrap().expect("a job");
    let ticket = alone.start_wait(job(1)).unwrap();
    home.disk.set(Mood::SyncFailsOnce);
    put(&alone, job(2)).expect("the write is asked again");
    assert_eq!(alone.role(), Role::Owner);
    fetcher.finish(succeeded(&lease), &mut patience()).unwrap();
    assert!(fetcher.flush(&mut patience()).unwrap());
    let later = fetcher.next(&mut patience()).unwrap().expect("the watch was made anew");
    assert_eq!(lease_of(&later).0, job(2));
    let mut ended = Vec::new();
    until(|| {
        ended.extend(alone.drain());
        !ended.is_empty()
    });
    assert_eq!(ended[0].0, ticket);
    assert_eq!(field(ended[0].1.as_ref().unwrap(), "crashes"), [0], "the lease was not lost");
    fetcher.close(&mut patience()).unwrap();
    alone.close(&mut patience()).unwrap();
}

/// The id and the token of a claimed job.
fn lease_of(claimed: &Bytes) -> (JobId, u64) {
    let mut reader = Reader::new(claimed);
    reader.array().unwrap();
    (reader.id().unwrap(), reader.u64().unwrap())
}

fn succeeded(claimed: &Bytes) -> Item {
    let (id, token) = lease_of(claimed);
    let mut item = Writer::new();
    item.array(4).id(id).u64(token).u64(0).nil();
    Item::parse(item.into_bytes().into()).unwrap()
}

/// The number of a wait belongs to the node that gave it: the next one counts anew.
#[test]
fn a_wait_of_the_failed_node_is_not_forgotten_at_the_next_one() {
    let home = Home::new();
    let alone = home.first();
    let waits = |client: &Client| field_number(&client.health().unwrap(), "waits");
    for number in 1..=4 {
        put(&alone, job(number)).unwrap();
    }
    let old: Vec<u64> = (1..=2).map(|number| alone.start_wait(job(number)).unwrap()).collect();
    home.disk.set(Mood::SyncFailsOnce);
    put(&alone, job(5)).unwrap();
    until(|| waits(&alone) == 2);
    let _new: Vec<u64> = (3..=4).map(|number| alone.start_wait(job(number)).unwrap()).collect();
    old.into_iter().for_each(|ticket| alone.cancel_ticket(ticket));
    assert_eq!(waits(&alone), 4, "answers to the old ones find nobody; the others are kept");
    alone.close(&mut patience()).unwrap();
}

/// The connection ends before the link has taken note of it: nobody tells a second time.
#[test]
fn an_owner_that_ends_right_after_its_welcome_is_noticed() {
    for _ in 0..20 {
        let home = Home::new();
        let data = home.path().join("data");
        RealDisk.make_dir(&data).unwrap();
        let lock = Lock::take(&data).unwrap();
        let listener = UnixListener::bind(data.join("socket")).unwrap();
        let owner = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let welcome = Greeting { pid: 1, cluster: None, group: GroupId(0), leader: None, token: None };
            stream.write_all(&encode(Kind::Welcome, 0, &welcome.encode()).unwrap()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // The greeting, up to the end of the connection.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let client = open(NodeConfig { archive: false, ..home.config() });
        owner.join().unwrap();
        drop(lock);
        put(&client, job(1)).expect("it found the directory free");
        assert_eq!(client.role(), Role::Owner);
    }
}

#[test]
fn a_disk_that_stays_broken_is_told_and_work_goes_on_when_it_is_mended() {
    let home = Home::new();
    let alone = home.first();
    put(&alone, job(1)).unwrap();
    home.disk.set(Mood::SyncFails);
    for _ in 0..2 {
        let told = put(&alone, job(2));
        assert!(matches!(told, Err(Failure::Error(Error::Disk { .. }))), "{told:?}");
    }
    assert_ne!(alone.role(), Role::Owner);
    home.disk.set(Mood::Good);
    until(|| put(&alone, job(3)).is_ok());
    assert_eq!(alone.role(), Role::Owner);
    assert!(is_known(&alone, job(1)) && is_known(&alone, job(3)));
    alone.close(&mut patience()).unwrap();
}

#[test]
fn a_write_during_which_the_node_panicked_is_not_asked_again() {
    let home = Home::new();
    let alone = home.first();
    put(&alone, job(1)).unwrap();
    // A write of the node's own may meet the panic; then this one is written by the node that was opened again.
    let told = (10..20).find_map(|number| {
        home.disk.set(Mood::SyncPanicsOnce);
        put(&alone, job(number)).err()
    });
    assert!(matches!(told, Some(Failure::Error(Error::Unknown(_)))), "{told:?}");
    // Until the node is opened again a write is certainly not applied, and may be sent again.
    until(|| match put(&alone, job(3)) {
        Err(Failure::Error(Error::NotCommitted(_))) => false,
        opened => opened.map(|_| true).unwrap(),
    });
    assert!(is_known(&alone, job(1)));
    alone.close(&mut patience()).unwrap();
}

#[test]
fn a_link_closed_while_the_owner_is_sought_answers_everyone() {
    let home = Home::new();
    let alone = home.first();
    home.disk.set(Mood::SyncFails);
    let client = alone.clone();
    let asking = std::thread::spawn(move || put(&client, job(1)));
    until(|| alone.role() != Role::Owner);
    alone.close(&mut Patience::after(Some(Duration::ZERO))).unwrap();
    assert!(asking.join().unwrap().is_err());
    home.disk.set(Mood::Good);
    home.first().close(&mut patience()).unwrap();
}

fn assert_refused_as_replaced(client: &Client, number: u64) {
    match put(client, job(number)) {
        Err(Failure::Error(Error::Foreign(why))) if why.contains("was replaced while the process ran") => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn d5_a_process_refuses_the_directory_that_was_put_in_place_of_its_own() {
    let home = Home::new();
    let (data, aside) = (home.path().join("data"), home.path().join("aside"));
    let (first, attached) = (home.other(), home.other());
    put(&attached, job(1)).unwrap();
    std::fs::rename(&data, &aside).unwrap();
    let stranger = home.other();
    assert_eq!(stranger.role(), Role::Owner);
    first.close(&mut patience()).unwrap();
    assert_refused_as_replaced(&attached, 2);
    assert_eq!(open(home.config()).role(), Role::Attached, "the old owner did not take the new one's socket away");
    stranger.close(&mut patience()).unwrap();
    // Nor does it become the owner of what is another's,
    assert_refused_as_replaced(&attached, 3);
    std::fs::remove_dir_all(&data).unwrap();
    // nor does it begin anew.
    assert_refused_as_replaced(&attached, 4);
    assert!(!data.join("IDENTITY").exists());
    let _ = std::fs::remove_dir_all(&data);
    std::fs::rename(&aside, &data).unwrap();
    until(|| put(&attached, job(5)).is_ok());
    assert!(is_known(&attached, job(1)) && is_known(&attached, job(5)));
    attached.close(&mut patience()).unwrap();
}
