//! Clients of a cluster over the network, and members that hang: their machine keeps the connection, and nothing comes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::spawn;
use std::time::{Duration, Instant};

use raftwork::base::sync::{Condvar, Mutex};
use raftwork::base::JobId;
use raftwork::client::contacts::Contacts;
use raftwork::client::fetcher::Wish;
use raftwork::client::patience::Patience;
use raftwork::client::{Client, Options};
use raftwork::net::{Address, Security};
use raftwork::node::{ClusterConfig, NodeConfig};
use tempfile::TempDir;

use crate::node::support::{log_lines, until, PATIENCE};
use crate::ports::free_addresses;
use crate::requests::{enqueue, field_number, job};

/// Until another member answers: noticed within 3 s, or 5 by who only watches, and the next one is found at once. The
/// machine may be busy.
const GONE_ON: Duration = Duration::from_secs(20);

fn patience() -> Patience<'static> {
    Patience::after(Some(PATIENCE))
}

/// A place in front of a member that passes everything on, until it is told to stall.
pub struct Gate {
    pub address: Address,
    /// Ways that pass through it now, two for each connection.
    ways: Arc<AtomicUsize>,
    valve: Arc<Valve>,
}

/// What becomes of what comes to a gate.
struct Valve {
    stalled: Mutex<bool>,
    changed: Condvar,
    /// A connection breaks off when more than this has passed in one direction.
    bytes_max: AtomicU64,
    broken: AtomicUsize,
}

impl Default for Valve {
    fn default() -> Self {
        let (stalled, changed) = (Mutex::new(false), Condvar::new());
        Self { stalled, changed, bytes_max: AtomicU64::new(u64::MAX), broken: AtomicUsize::new(0) }
    }
}

impl Gate {
    pub fn before(member: &Address) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        let gate = Self { address, ways: Arc::default(), valve: Arc::default() };
        let (ways, valve, member) = (gate.ways.clone(), gate.valve.clone(), member.to_string());
        spawn(move || {
            for inner in listener.incoming().flatten() {
                let Ok(outer) = TcpStream::connect(&member) else { continue };
                for (from, to) in [(&inner, &outer), (&outer, &inner)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (ways, valve) = (ways.clone(), valve.clone());
                    ways.fetch_add(1, Ordering::Relaxed);
                    spawn(move || {
                        pass_on(&from, &to, &valve);
                        ways.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        gate
    }

    pub fn set_stalled(&self, stalled: bool) {
        *self.valve.stalled.lock() = stalled;
        self.valve.changed.notify_all();
    }

    /// From now on a connection breaks off when more than this passes in one direction.
    pub fn break_off_after(&self, bytes: u64) {
        self.valve.bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// How many did.
    pub fn broken(&self) -> usize {
        self.valve.broken.load(Ordering::Relaxed)
    }

    fn is_used(&self) -> bool {
        self.ways.load(Ordering::Relaxed) > 0
    }
}

/// A place in front of a member that greets for it, takes the first question and ends the connection; the next one passes.
fn leaving_once(member: &Address) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, member) = (Address::from(listener.local_addr().unwrap()), member.to_string());
    spawn(move || {
        for (number, mut inner) in listener.incoming().flatten().enumerate() {
            let mut outer = TcpStream::connect(&member).unwrap();
            let mut buffer = [0; 4 << 10];
            let hello = inner.read(&mut buffer).unwrap();
            outer.write_all(&buffer[..hello]).unwrap();
            let welcome = outer.read(&mut buffer).unwrap();
            inner.write_all(&buffer[..welcome]).unwrap();
            if number == 0 {
                assert!(inner.read(&mut buffer).unwrap() > 0, "a question");
                continue;
            }
            for (from, to) in [(&inner, &outer), (&outer, &inner)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                spawn(move || pass_on(&from, &to, &Default::default()));
            }
        }
    });
    address
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream, valve: &Valve) {
    let (mut buffer, mut passed) = ([0; 64 << 10], 0);
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let mut stalled = valve.stalled.lock();
        while *stalled {
            valve.changed.wait(&mut stalled);
        }
        drop(stalled);
        passed += bytes as u64;
        if passed > valve.bytes_max.load(Ordering::Relaxed) {
            valve.broken.fetch_add(1, Ordering::Relaxed);
            break;
        }
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Three members, a gate before each, and a client that knows only the gates.
struct Far {
    _dir: TempDir,
    members: Vec<Arc<Client>>,
    gates: Vec<Gate>,
    client: Arc<Client>,
}

impl Far {
    fn new() -> Self {
        log_lines();
        let dir = TempDir::new().unwrap();
        let free = free_addresses(6);
        let (members, clients) = free.split_at(3);
        let gates: Vec<_> = clients.iter().map(Gate::before).collect();
        let open = |number: usize| {
            let mut config = NodeConfig::new(dir.path().join(number.to_string()));
            let cluster = ClusterConfig::new(members[number].clone(), members.to_vec());
            let advertise_clients = Some(gates[number].address.clone());
            let listen_clients = Some(clients[number].clone());
            config.cluster = Some(ClusterConfig { listen_clients, advertise_clients, ..cluster });
            std::thread::spawn(|| Client::open(config, Options::default(), &mut patience()).unwrap())
        };
        // All at once: the first time they wait for each other.
        let opening: Vec<_> = (0..3).map(open).collect();
        let opened = opening.into_iter().map(|member| member.join().unwrap()).collect();
        let contacts = gates.iter().map(|gate| gate.address.clone()).collect();
        let contacts = Contacts::new(contacts, Security::Plain).unwrap();
        let client = Client::connect(contacts, Options::default(), &mut patience()).unwrap();
        Self { _dir: dir, members: opened, gates, client }
    }

    fn put(&self, id: JobId) {
        self.client.submit(&enqueue(id, 64)[4..], &mut patience()).unwrap();
    }

    /// The member that the client asks hangs.
    fn stall(&self) {
        let used = || self.gates.iter().filter(|gate| gate.is_used());
        until(|| used().count() == 1); // Others, that had no leader when they were asked, are let go.
        used().for_each(|gate| gate.set_stalled(true));
    }

    fn close(self) {
        self.gates.iter().for_each(|gate| gate.set_stalled(false));
        self.client.close(&mut patience()).unwrap();
        // The last of them finds no majority to end its session with.
        let soon = || Patience::after(Some(Duration::from_millis(300)));
        self.members.into_iter().for_each(|member| member.close(&mut soon()).unwrap());
    }
}

#[test]
fn l5_a_call_to_a_member_that_hangs_is_answered_by_another_and_applied_once() {
    let far = Far::new();
    far.put(job(1));
    far.stall();
    let began = Instant::now();
    far.put(job(2));
    assert!(began.elapsed() < GONE_ON, "took {:?}", began.elapsed());
    assert_eq!(field_number(&far.client.health().unwrap(), "jobs"), 2);
    far.close();
}

#[test]
fn j6_a_worker_that_waits_at_a_member_that_hangs_gets_its_job_from_another() {
    let far = Far::new();
    let wish = Wish { queues: vec![("q".into(), 1)], functions: vec!["f".into()], ..Wish::default() };
    let fetcher = far.client.fetcher(wish, Vec::new(), &mut patience()).unwrap();
    far.stall();
    far.members[2].submit(&enqueue(job(1), 64)[4..], &mut patience()).unwrap();
    let began = Instant::now();
    let found = fetcher.next(&mut patience()).unwrap().expect("a job");
    assert!(began.elapsed() < GONE_ON, "took {:?}", began.elapsed());
    assert!(found.windows(16).any(|bytes| bytes == job(1).0));
    fetcher.close(&mut patience()).unwrap();
    far.close();
}

#[test]
fn a_member_that_ends_before_it_has_answered_is_passed_by_at_once() {
    let far = Far::new();
    // Whoever waits for the answer waits for 3 s, each time. On a busy machine some time may be slow for another reason.
    until(|| {
        let place = leaving_once(&far.gates[0].address);
        let began = Instant::now();
        let contacts = Contacts::new(vec![place], Security::Plain).unwrap();
        let client = Client::connect(contacts, Options::default(), &mut patience()).unwrap();
        let took = began.elapsed();
        client.close(&mut patience()).unwrap();
        took < Duration::from_secs(2)
    });
    far.close();
}
