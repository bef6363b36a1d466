//! Replicated durable commits: three nodes, each a process with a directory of its own, over loopback; one enqueue of a job
//! with 256 bytes of arguments per commit, answered after a majority has synced it.
//!
//! `cargo bench --bench cluster -- --place DIR --seconds 2 --rounds 5 --clients 1,32,256` prints one line of JSON per
//! figure and round. A client has one commit under way: it is a thread of this process that waits for its answer, or with
//! `--events` one of many in an event loop, which collects the answers as asyncio does. Without `--within` the process is a
//! fourth one, connected to the leader over one socket as any client is; with it the process is itself the node that leads,
//! as an application that embeds a node. `--tls`: every connection is TLS with certificates of both sides.
//!
//! Beside each figure: processor time and voluntary context switches of all processes for each commit.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use _core::base::codec::Writer;
use _core::base::{ClusterId, JobId};
use _core::client::contacts::Contacts;
use _core::client::patience::Patience;
use _core::client::{Client, Options as ClientOptions};
use _core::net::{Address, Authority, Security, Tls};
use _core::node::{ClusterConfig, NodeConfig};
use rustix::event::{poll, PollFd, PollFlags};

const ARGUMENT_BYTES: usize = 256;
const MEMBERS: usize = 3;
/// How long a client waits for a node, or a commit.
const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    place: PathBuf,
    seconds: f64,
    rounds: usize,
    clients: Vec<usize>,
    /// The clients are threads of the node that leads.
    within: bool,
    /// The clients share an event loop.
    events: bool,
    tls: bool,
    /// Be a node: the directory, and the ports of all members, the own one first.
    node: Option<(PathBuf, Vec<u16>)>,
}

fn main() {
    let options = read_options();
    if let Some((dir, ports)) = &options.node {
        return be_a_node(dir, ports, options.tls);
    }
    let (within, events, tls) = (options.within, options.events, options.tls);
    for round in 0..options.rounds {
        let dir = tempfile::Builder::new()
            .prefix(".raftwork-cluster-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&options.place)
            .expect("the place of the benchmark is writable");
        let cluster = Cluster::start(dir.path(), within, tls);
        for &clients in &options.clients {
            let Figures { rate, p50_us, p99_us, cpu_us, switches } =
                measure(&cluster, clients, events, Duration::from_secs_f64(options.seconds));
            println!(
                "{{\"clients\": {clients}, \"within\": {within}, \"events\": {events}, \"tls\": {tls}, \
                 \"round\": {round}, \"commits_per_second\": {rate:.0}, \"p50_us\": {p50_us}, \"p99_us\": {p99_us}, \
                 \"cpu_us\": {cpu_us:.0}, \"switches\": {switches:.2}}}"
            );
        }
    }
}

/// Options that cargo itself adds, such as `--bench`, are passed over.
fn read_options() -> Options {
    let (place, clients) = (PathBuf::from("."), vec![1, 32, 64, 256]);
    let (within, events, tls) = (false, false, false);
    let mut options = Options { place, seconds: 2.0, rounds: 5, clients, within, events, tls, node: None };
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
            "--within" => options.within = true,
            "--events" => options.events = true,
            "--tls" => options.tls = true,
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

/// How a node in this directory is one of the members at these ports, the own one first.
fn node_config(dir: &Path, ports: &[u16], tls: bool) -> NodeConfig {
    let mut config = NodeConfig::new(dir);
    let mut members: Vec<u16> = ports.to_vec();
    members.sort_unstable();
    let mut cluster = ClusterConfig::new(address(ports[0]), members.into_iter().map(address).collect());
    cluster.listen_clients = Some(address(ports[0] + 1));
    cluster.security = security(dir.parent().expect("it lies in the directory of the cluster"), tls, "node");
    config.cluster = Some(cluster);
    config
}

fn security(dir: &Path, tls: bool, name: &str) -> Security {
    let file = |end: &str| dir.join(format!("{name}{end}"));
    match tls {
        true => {
            let files = Tls::from_files(dir.join("ca.pem"), file(".pem"), file(".key"));
            Security::Tls(files.expect("the certificates are good"))
        }
        false => Security::Plain,
    }
}

/// Certificates for the nodes, who share one, and for the clients.
fn certify(dir: &Path) {
    let authority = Authority::create(ClusterId([7; 16])).expect("an authority");
    let node = authority.issue_node(&["127.0.0.1"]).expect("a certificate");
    let client = authority.issue_client("bench").expect("a certificate");
    node.save(dir, "node").expect("the directory is ours alone");
    client.save(dir, "client").expect("the directory is ours alone");
}

/// Serves until standard input ends.
fn be_a_node(dir: &Path, ports: &[u16], tls: bool) {
    let patience = &mut Patience::after(Some(PATIENCE));
    let config = node_config(dir, ports, tls);
    let client = Client::open(config, ClientOptions::default(), patience).expect("the node opens");
    println!("open");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    client.close(patience).expect("the node closes");
}

/// Three nodes; killed when dropped.
struct Cluster {
    dir: PathBuf,
    ports: Vec<u16>,
    tls: bool,
    /// The processes of their own.
    nodes: Vec<Child>,
    /// The node in this process, which leads.
    own: Option<Arc<Client>>,
}

impl Cluster {
    fn start(dir: &Path, within: bool, tls: bool) -> Self {
        if tls {
            certify(dir);
        }
        let mut ports = free_ports();
        ports.sort_unstable();
        let mut cluster = Self { dir: dir.to_owned(), ports, tls, nodes: Vec::new(), own: None };
        // The first of the list begins the group, so it leads.
        cluster.nodes = (usize::from(within)..MEMBERS).map(|number| cluster.spawn(number)).collect();
        if within {
            let config = node_config(&dir.join("0"), &cluster.ports, tls);
            let patience = &mut Patience::after(Some(PATIENCE));
            cluster.own = Some(Client::open(config, ClientOptions::default(), patience).expect("the node opens"));
        }
        for node in &mut cluster.nodes {
            let out = node.stdout.as_mut().expect("it is piped");
            BufReader::new(out).read_line(&mut String::new()).expect("a node says that it is open");
        }
        cluster
    }

    fn spawn(&self, number: usize) -> Child {
        let mut own_first = self.ports.clone();
        own_first.rotate_left(number);
        let list: Vec<String> = own_first.iter().map(u16::to_string).collect();
        Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--node", &self.dir.join(number.to_string()).to_string_lossy(), &list.join(",")])
            .args(self.tls.then_some("--tls"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a node starts")
    }

    fn connect(&self) -> Arc<Client> {
        if let Some(own) = &self.own {
            return own.clone();
        }
        let addresses = self.ports.iter().map(|port| address(port + 1)).collect();
        let contacts = Contacts::new(addresses, security(&self.dir, self.tls, "client")).expect("there are addresses");
        let patience = &mut Patience::after(Some(PATIENCE));
        Client::connect(contacts, ClientOptions::default(), patience).expect("a member answers")
    }

    /// Processor time in microseconds, and voluntary context switches, of all processes so far.
    fn spent(&self) -> (f64, u64) {
        let pids = self.nodes.iter().map(Child::id).chain([std::process::id()]);
        pids.map(spent).fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// What one process spent so far; threads that have ended do not count as switches.
fn spent(pid: u32) -> (f64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let switches = tasks.map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default()
    });
    // The kernel counts in hundredths of a second.
    ((ticks(11) + ticks(12)) * 10_000.0, switches.sum())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            own.close(&mut Patience::after(Some(PATIENCE))).expect("the node closes");
        }
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Ports with a free one behind each, below those that the system gives to connections.
fn free_ports() -> Vec<u16> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let first = 10_000 + (std::process::id() % 10_000) as u16 * 2;
    let free = (first..32_000).step_by(2).filter(|port| bind(*port).is_ok() && bind(*port + 1).is_ok());
    free.take(MEMBERS).collect()
}

/// Commits a second, how long one took, and what all processes spent for each.
struct Figures {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    cpu_us: f64,
    switches: f64,
}

/// Commits by this many clients.
fn measure(cluster: &Cluster, clients: usize, events: bool, time: Duration) -> Figures {
    let client = cluster.connect();
    let count = if events { 1 } else { clients };
    let (gate, stop) = (Arc::new(Barrier::new(count + 1)), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (client, gate, stop) = (client.clone(), gate.clone(), stop.clone());
            thread::spawn(move || {
                gate.wait();
                match events {
                    true => event_loop(&client, clients, &stop),
                    false => one_after_the_other(&client, &stop),
                }
            })
        })
        .collect();
    gate.wait();
    let (before, began) = (cluster.spent(), Instant::now());
    // An answer that this thread took by itself may have left a wake-up behind.
    while let Some(left) = time.checked_sub(began.elapsed()) {
        thread::park_timeout(left);
    }
    let (took, after) = (began.elapsed(), cluster.spent());
    stop.store(true, Ordering::Relaxed);
    let join = |thread: thread::JoinHandle<Vec<u64>>| thread.join().expect("a client does not panic");
    let mut times: Vec<u64> = threads.into_iter().flat_map(join).collect();
    let rate = times.len() as f64 / took.as_secs_f64();
    if cluster.own.is_none() {
        client.close(&mut Patience::after(Some(PATIENCE))).expect("the client closes");
    }
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied().unwrap_or_default();
    let each = |total: f64| total / times.len().max(1) as f64;
    let (cpu_us, switches) = (each(after.0 - before.0), each((after.1 - before.1) as f64));
    Figures { rate, p50_us: at(50), p99_us: at(99), cpu_us, switches }
}

/// One client that waits for each answer. Gives how long each commit took, in microseconds.
fn one_after_the_other(client: &Client, stop: &AtomicBool) -> Vec<u64> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let command = next_command();
        let sent = Instant::now();
        client.submit(&command, &mut Patience::after(Some(PATIENCE))).expect("a healthy cluster commits");
        times.push(sent.elapsed().as_micros() as u64);
    }
    times
}

/// Clients that share one thread: each sends its next commit when the answer to the last one is collected.
fn event_loop(client: &Client, clients: usize, stop: &AtomicBool) -> Vec<u64> {
    let send = || (client.start(next_command()).expect("there is room"), Instant::now());
    let mut under_way: HashMap<u64, Instant> = (0..clients).map(|_| send()).collect();
    let mut times = Vec::new();
    while !under_way.is_empty() {
        // SAFETY: the descriptor is the client's, which outlives this call.
        let ready = unsafe { BorrowedFd::borrow_raw(client.completion_fd()) };
        poll(&mut [PollFd::new(&ready, PollFlags::IN)], None).expect("the descriptor can be watched");
        for (ticket, outcome) in client.drain() {
            outcome.expect("a healthy cluster commits");
            let sent = under_way.remove(&ticket).expect("it is under way");
            times.push(sent.elapsed().as_micros() as u64);
            if !stop.load(Ordering::Relaxed) {
                let (ticket, sent) = send();
                under_way.insert(ticket, sent);
            }
        }
    }
    times
}

fn next_command() -> Vec<u8> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    enqueue(IDS.fetch_add(1, Ordering::Relaxed))
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
