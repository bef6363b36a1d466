//! A member in a process of its own: this test program, run again. What it runs is one source; told to be the next version, it
//! knows one feature level and one operation more, as `machine::be_newer` has it in simulations.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use raftwork::attach::message::Greeting;
use raftwork::attach::server::Server;
use raftwork::machine;
use raftwork::net::Address;
use raftwork::node::{ClusterConfig, Node, NodeConfig};

use crate::node::support::{log_lines, PATIENCE};
use crate::wire::{self, Own};

/// What the process is told about itself.
const ROLE: &str = "RAFTWORK_TEST_MEMBER";
/// How long one that is to end may take, before it is killed.
const END: Duration = Duration::from_secs(20);

/// What a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    This,
    Next,
}

fn address(port: u16) -> Address {
    Address::parse(&format!("127.0.0.1:{port}")).unwrap()
}

/// What the one who runs this test program again is.
#[test]
fn a_member_of_its_own() {
    let Ok(role) = std::env::var(ROLE) else { return };
    log_lines();
    let [release, dir, own, ports] = role.split('|').collect::<Vec<_>>().try_into().unwrap();
    if release == "Next" {
        machine::be_newer_everywhere();
    }
    let ports: Vec<u16> = ports.split(',').map(|port| port.parse().unwrap()).collect();
    let own: u16 = own.parse().unwrap();
    let mut config = NodeConfig::new(dir);
    config.segment_bytes = 1 << 20;
    let mut cluster = ClusterConfig::new(address(own), ports.iter().copied().map(address).collect());
    cluster.joins = !ports.contains(&own);
    config.cluster = Some(cluster);
    match Node::open(config.clone()) {
        Err(error) => println!("refused {error:?}"),
        Ok(node) => be_a_member(&node, &config),
    }
}

enum Event {
    Line(String),
    Ended,
    Failed,
}

/// Serves until the standard input ends, or the node fails.
fn be_a_member(node: &std::sync::Arc<Node>, config: &NodeConfig) {
    let (cluster, group) = node.cluster();
    let own = Greeting { pid: std::process::id().into(), cluster: Some(cluster), group, leader: None, token: None };
    let server = Server::start(&config.dir, node.clone(), own).unwrap();
    let settings = config.cluster.as_ref().unwrap();
    server.listen(settings.clients_listener().unwrap(), settings.client_rate).unwrap();
    node.when_cut_off(server.send_away());
    let (send, events) = channel();
    let fails = send.clone();
    node.when_failed(move || drop(fails.send(Event::Failed)));
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let _ = send.send(Event::Line(line.unwrap()));
        }
        let _ = send.send(Event::Ended);
    });
    println!("open");
    while let Ok(Event::Line(line)) = events.recv() {
        assert_eq!(line, "future");
        let request = wire::request(0, 0, 0, &wire::Command::Own(Own::Future));
        match node.submit(request, Some(Instant::now() + PATIENCE)) {
            Ok(_) => println!("taken"),
            Err(error) => println!("not taken {error}"),
        }
    }
    server.prepare_to_close();
    let closed = node.close();
    server.close();
    match closed {
        Ok(()) => println!("closed"),
        Err(error) => println!("stopped {error}"),
    }
}

/// One that runs. Killed when dropped.
pub struct Member {
    child: Child,
    lines: Receiver<String>,
}

impl Member {
    /// Starts one that is reached at this port, in a group of these; one that is not among them joins it.
    pub fn start(release: Release, dir: &Path, own: u16, ports: &[u16]) -> Self {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "upgrade::process::a_member_of_its_own", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{release:?}|{}|{own}|{}", dir.display(), list.join(",")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let _ = send.send(line.unwrap());
            }
        });
        Self { child, lines }
    }

    /// The next thing that it says and that begins so. What else it says, as the test program, is passed over.
    pub fn says(&self, beginnings: &[&str]) -> String {
        let latest = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(latest.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("it did not say any of {beginnings:?}"));
            // The program ends the line before only when the test is over.
            let said = line.rsplit_once(" ... ").map_or(&line[..], |(_, said)| said);
            if beginnings.iter().any(|beginning| said.starts_with(beginning)) {
                return said.to_owned();
            }
        }
    }

    /// Has it use what only the next version knows.
    pub fn future(&mut self) -> Result<(), String> {
        self.child.stdin.as_mut().unwrap().write_all(b"future\n").unwrap();
        let said = self.says(&["taken", "not taken"]);
        said.strip_prefix("not ").map_or(Ok(()), |why| Err(why.to_owned()))
    }

    /// Ends it as SIGTERM ends a node: leadership goes to another first.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.says(&["closed"]);
        let latest = Instant::now() + END;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < latest, "it does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
