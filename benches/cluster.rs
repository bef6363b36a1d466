//! Replicated durable commits: three nodes, each a process with a directory of its own, over loopback; one enqueue of a job
//! with 256 bytes of arguments per commit, answered after a majority has synced it.
//!
//! `cargo bench --bench cluster -- --place DIR --seconds 2 --rounds 5 --clients 1,32,256` prints one line of JSON per
//! figure and round. The clients are threads of this process, which is connected to the leader as any client would be.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use _core::base::codec::Writer;
use _core::base::JobId;
use _core::client::contacts::Contacts;
use _core::client::patience::Patience;
use _core::client::{Client, Options as ClientOptions};
use _core::net::{Address, Security};
use _core::node::{ClusterConfig, NodeConfig};

const ARGUMENT_BYTES: usize = 256;
const MEMBERS: usize = 3;
/// How long a client waits for a node, or a commit.
const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    place: PathBuf,
    seconds: f64,
    rounds: usize,
    clients: Vec<usize>,
    /// Be a node: the directory, and the ports of all members, the own one first.
    node: Option<(PathBuf, Vec<u16>)>,
}

fn main() {
    let options = read_options();
    if let Some((dir, ports)) = options.node {
        return be_a_node(&dir, &ports);
    }
    for round in 0..options.rounds {
        let dir = tempfile::Builder::new()
            .prefix(".raftwork-cluster-")
            .tempdir_in(&options.place)
            .expect("the place of the benchmark is writable");
        let cluster = Cluster::start(dir.path());
        for &clients in &options.clients {
            let (rate, p50_us, p99_us) = measure(&cluster, clients, Duration::from_secs_f64(options.seconds));
            println!(
                "{{\"clients\": {clients}, \"round\": {round}, \"commits_per_second\": {rate:.0}, \"p50_us\": {p50_us}, \
                 \"p99_us\": {p99_us}}}"
            );
        }
    }
}

/// Options that cargo itself adds, such as `--bench`, are passed over.
fn read_options() -> Options {
    let mut options =
        Options { place: PathBuf::from("."), seconds: 2.0, rounds: 5, clients: vec![1, 32, 256], node: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("this option has a value");
        let list =
            |text: String| text.split(',').map(|item| item.parse::<usize>().expect("a number")).collect::<Vec<_>>();
        match word.as_str() {
            "--place" => options.place = PathBuf::from(value()),
            "--seconds" => options.seconds = value().parse().expect("--seconds is a number"),
            "--rounds" => options.rounds = value().parse().expect("--rounds is a whole number"),
            "--clients" => options.clients = list(value()),
            "--node" => {
                let dir = PathBuf::from(value());
                options.node = Some((dir, list(value()).into_iter().map(|port| port as u16).collect()));
            }
            _ => {}
        }
    }
    options
}

fn address(port: u16) -> Address {
    Address::parse(&format!("127.0.0.1:{port}")).expect("an address of this machine")
}

/// Serves until standard input ends.
fn be_a_node(dir: &Path, ports: &[u16]) {
    let mut config = NodeConfig::new(dir);
    let mut members: Vec<u16> = ports.to_vec();
    members.sort_unstable();
    let mut cluster = ClusterConfig::new(address(ports[0]), members.into_iter().map(address).collect());
    cluster.listen_clients = Some(address(ports[0] + 1));
    config.cluster = Some(cluster);
    let patience = &mut Patience::after(Some(PATIENCE));
    let client = Client::open(config, ClientOptions::default(), patience).expect("the node opens");
    println!("open");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    client.close(patience).expect("the node closes");
}

/// Three node processes; killed when dropped.
struct Cluster {
    nodes: Vec<Child>,
    ports: Vec<u16>,
}

impl Cluster {
    fn start(dir: &Path) -> Self {
        let ports = free_ports();
        let program = std::env::current_exe().expect("this program has a path");
        let mut nodes: Vec<Child> = (0..MEMBERS)
            .map(|number| {
                let mut own_first = ports.clone();
                own_first.rotate_left(number);
                let list: Vec<String> = own_first.iter().map(u16::to_string).collect();
                Command::new(&program)
                    .args(["--node", &dir.join(number.to_string()).to_string_lossy(), &list.join(",")])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("a node starts")
            })
            .collect();
        for node in &mut nodes {
            let out = node.stdout.as_mut().expect("it is piped");
            BufReader::new(out).read_line(&mut String::new()).expect("a node says that it is open");
        }
        Self { nodes, ports }
    }

    fn connect(&self) -> Arc<Client> {
        let addresses = self.ports.iter().map(|port| address(port + 1)).collect();
        let contacts = Contacts::new(addresses, Security::Plain).expect("there are addresses");
        let patience = &mut Patience::after(Some(PATIENCE));
        Client::connect(contacts, ClientOptions::default(), patience).expect("a member answers")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Ports with a free one behind each.
fn free_ports() -> Vec<u16> {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < MEMBERS {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("it is bound").port();
        if let Ok(second) = TcpListener::bind(("127.0.0.1", port + 1)) {
            ports.push(port);
            held.push((first, second));
        }
    }
    ports
}

/// Commits by this many threads that each wait for one answer before they send the next: a second, median and 99th
/// percentile of one.
fn measure(cluster: &Cluster, clients: usize, time: Duration) -> (f64, u64, u64) {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let client = cluster.connect();
    let (gate, stop) = (Arc::new(Barrier::new(clients + 1)), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (client, gate, stop) = (client.clone(), gate.clone(), stop.clone());
            thread::spawn(move || {
                let mut times = Vec::new();
                gate.wait();
                while !stop.load(Ordering::Relaxed) {
                    let command = enqueue(IDS.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    client.submit(&command, &mut Patience::after(Some(PATIENCE))).expect("a healthy cluster commits");
                    times.push(sent.elapsed().as_micros() as u64);
                }
                times
            })
        })
        .collect();
    gate.wait();
    let began = Instant::now();
    thread::park_timeout(time);
    stop.store(true, Ordering::Relaxed);
    let join = |thread: thread::JoinHandle<Vec<u64>>| thread.join().expect("a client does not panic");
    let mut times: Vec<u64> = threads.into_iter().flat_map(join).collect();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    client.close(&mut Patience::after(Some(PATIENCE))).expect("the client closes");
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied().unwrap_or_default();
    (rate, at(50), at(99))
}

/// The command that stores one job.
fn enqueue(number: u64) -> Vec<u8> {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut writer = Writer::with_capacity(ARGUMENT_BYTES + 128);
    writer.array(3).u64(4);
    writer.array(1).array(14);
    writer.str("bench.noop").str("bench").i64(0).u64(10).u64(3).nil().u64(86_400_000).u64(86_400_000);
    writer.array(0).u64(0).nil().nil().u64(0).bin(&[]);
    writer.array(1).array(6);
    writer.id(JobId(id)).u64(0).bin(&[7; ARGUMENT_BYTES]).u64(0).nil().nil();
    writer.into_bytes()
}
