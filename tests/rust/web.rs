//! Probes and metrics over HTTP: what is answered, and what a stranger can do there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use raftwork::base::{limits, SessionId};
use raftwork::net::web::{answer, Answer, Web};
use raftwork::net::Address;
use raftwork::node::{Node, NodeConfig};

use crate::node::support::{until, Home, Mood};
use crate::requests::{self, enqueue, job};
use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{self, Command, Job, Limit, Spec};

fn anywhere() -> Address {
    Address::parse("127.0.0.1:0").unwrap()
}

fn web() -> Web {
    let body = vec![b'x'; 1 << 20];
    let large = move || Answer { status: 200, content_type: "text/plain", body: body.clone() };
    Web::start(&anywhere(), move |path| match path {
        "/livez" => Some(Answer::verdict(true)),
        "/large" => Some(large()),
        _ => None,
    })
    .unwrap()
}

fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    String::from_utf8(said).unwrap()
}

fn status(address: SocketAddr, path: &str) -> u16 {
    let said = say(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    said.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_path_is_answered_and_the_connection_ends() {
    let web = web();
    let said = say(web.address(), b"GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("Content-Length: 0\r\n"), "{said}");
    assert!(said.ends_with("Connection: close\r\n\r\n"), "a probe has no body: {said}");
    let large = say(web.address(), b"GET /large HTTP/1.0\n\n");
    assert_eq!(large.split("\r\n\r\n").nth(1).unwrap().len(), 1 << 20);
    let head = say(web.address(), b"HEAD /large HTTP/1.1\r\n\r\n");
    assert!(head.contains("Content-Length: 1048576\r\n") && head.ends_with("\r\n\r\n"));
}

#[test]
fn what_is_no_question_is_refused() {
    let web = web();
    for (request, expected) in [
        (&b"GET /nothing HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 "),
        (b"GET /livez\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET http://x/livez HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET /livez SPDY/3\r\n\r\n", "HTTP/1.1 400 "),
        (b"\xff\xfe\xfd /livez HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
        (b"\n\n", "HTTP/1.1 400 "),
    ] {
        let said = say(web.address(), request);
        assert!(said.starts_with(expected), "{}: {said}", String::from_utf8_lossy(request));
    }
    let long = [b"GET /livez HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 2 * limits::HEALTH_HEAD_BYTES_MAX]].concat();
    assert!(say(web.address(), &long).starts_with("HTTP/1.1 431 "));
    assert_eq!(status(web.address(), "/livez"), 200, "and it goes on");
}

#[test]
fn any_bytes_are_answered_or_waited_for() {
    let find = |path: &str| (path == "/livez").then(|| Answer::verdict(true));
    let good = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for place in 0..good.len() {
        assert!(answer(&good[..place], &find).is_none(), "it is not whole yet");
        for byte in 0..=255u8 {
            let mut damaged = good.to_vec();
            damaged[place] = byte;
            if let Some(said) = answer(&damaged, &find) {
                assert!(said.starts_with(b"HTTP/1.1 "));
            }
        }
    }
}

#[test]
fn slow_strangers_hold_up_nobody() {
    let web = web();
    // More than there are places, all of which say half of something and stay.
    let mut slow: Vec<_> = (0..limits::HEALTH_CONNECTIONS_MAX + 8)
        .map(|_| {
            let mut stream = TcpStream::connect(web.address()).unwrap();
            stream.write_all(b"GET /li").unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(status(web.address(), "/livez"), 200);
    assert!(began.elapsed() < Duration::from_millis(limits::HEALTH_MS), "it waited for none of them");
    // Those that stay are cut off, by a newer one or in time.
    let mut end = [0; 1];
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(matches!(stream.read(&mut end), Ok(0) | Err(_)));
    }
}

#[test]
fn a_node_says_whether_it_lives_and_is_ready() {
    let home = Home::new();
    let config = || NodeConfig { health_listen: Some(anywhere()), ..home.config() };
    let node = Node::open(config()).unwrap();
    let at = node.health_address().unwrap();
    assert_eq!([status(at, "/livez"), status(at, "/readyz"), status(at, "/")], [200, 200, 404]);
    home.disk.set(Mood::SyncPanics);
    assert!(node.submit(enqueue(job(1), 8), None).is_err());
    until(|| node.has_failed());
    assert_eq!([status(at, "/livez"), status(at, "/readyz")], [503, 503]);
    assert_eq!(status(at, "/metrics"), 200, "and tells why it is called");
    assert!(node.metrics().contains("raftwork_role{role=\"failed\"} 1\n"));
    let _ = node.close();
    assert!(TcpStream::connect(at).is_err(), "the port is free");
}

#[test]
fn metrics_are_for_this_machine_unless_somebody_says_otherwise() {
    for (metrics_open, told) in [(false, 403), (true, 200)] {
        let home = Home::new();
        let everywhere = Some(Address::parse("0.0.0.0:0").unwrap());
        let node = Node::open(NodeConfig { health_listen: everywhere, metrics_open, ..home.config() }).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], node.health_address().unwrap().port()));
        assert_eq!([status(at, "/livez"), status(at, "/readyz"), status(at, "/metrics")], [200, 200, told]);
    }
}

#[test]
fn every_family_is_described_and_none_besides() {
    let page = include_str!("../../docs/reference/metrics.md");
    let home = Home::new();
    let node = home.open();
    node.submit(enqueue(job(1), 8), None).unwrap();
    let text = node.metrics();
    let told: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(told.len() > 40, "{told:?}");
    for family in &told {
        let (name, kind) = family.split_once(' ').unwrap();
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{family}");
    }
    let described = page.lines().filter(|line| line.starts_with("| `raftwork_")).count();
    // Without a certificate nothing expires.
    assert_eq!(described, told.len() + 1);
}

/// The number of one line, which must be there.
fn told(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().unwrap()
}

#[test]
fn metrics_tell_who_waits_for_limits() {
    let home = Home::new();
    let node = home.open();
    let submit = |command: &Command| node.submit(wire::request(0, 0, 0, command), None).unwrap();
    submit(&Command::LimitQueue("mail".into(), Some(7)));
    let one = Limit { kind: 0, key: "tenant".into(), n: 1, window: 0, burst: 0 };
    let jobs = (1..=4).map(|number| Job { id: job(number), limits: vec![one.clone()], ..Job::default() });
    let specs = vec![Spec { queue: "mail".into(), ..Spec::default() }];
    submit(&Command::Enqueue { specs, jobs: jobs.collect() });
    assert_eq!(told(&node.metrics(), "raftwork_queue_held_back{queue=\"mail\"}"), 0.0, "the first one may start");
    let session = requests::number(&node.submit(requests::open_session(60_000), None).unwrap());
    node.submit(requests::claim(SessionId(session), "mail", "f", 4), None).unwrap();
    let text = node.metrics();
    assert_eq!(told(&text, "raftwork_queue_held_back{queue=\"mail\"}"), 3.0);
    assert_eq!(told(&text, "raftwork_queue_limit{queue=\"mail\"}"), 7.0);
    submit(&Command::LimitQueue("mail".into(), None));
    assert!(!node.metrics().contains("raftwork_queue_limit{"), "a queue without a limit has none");
}

#[test]
fn metrics_tell_what_schedules_do_and_which_slot_waits() {
    let home = Home::new();
    let node = home.open();
    let submit = |recur: Recur| node.submit(wire::request(0, 0, 0, &Command::Recur(recur)), None).unwrap();
    let put = |name: &str, next: u64| Put {
        name: name.into(),
        generation: None,
        source: "api".into(),
        spec: Spec::default(),
        args: Vec::new(),
        overlap: 1,
        definition: Vec::new(),
        next: Some(next),
        limits: Vec::new(),
    };
    let far = u64::MAX >> 12;
    submit(Recur::Put(Box::new(put("daily", 1_000))));
    submit(Recur::Put(Box::new(put("paused", 500))));
    submit(Recur::Pause("paused".into(), Some("holidays".into())));
    let text = node.metrics();
    assert_eq!(told(&text, "raftwork_schedules"), 2.0);
    assert!(told(&text, "raftwork_schedule_late_seconds{schedule=\"daily\"}") > 1e6, "its slot was in 1970");
    assert!(told(&text, "raftwork_schedules_late_seconds") > 1e6);
    assert_eq!(told(&text, "raftwork_schedule_late_seconds{schedule=\"paused\"}"), 0.0);
    let at = At { name: "daily".into(), generation: 1, slot: 1_000, next: Some(far) };
    submit(Recur::Fire(at, vec![(job(1), 1_000, None), (job(2), 1_001, None)]));
    let text = node.metrics();
    assert_eq!(told(&text, "raftwork_schedule_fired_total{schedule=\"daily\"}"), 1.0);
    assert_eq!(told(&text, "raftwork_schedule_skipped_total{schedule=\"daily\"}"), 1.0);
    assert_eq!(told(&text, "raftwork_schedules_late_seconds"), 0.0);
}

#[test]
fn metrics_count_what_happened() {
    let home = Home::new();
    let node = home.open();
    let commits = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("raftwork_commit_seconds_count "));
        line.expect("it is told").parse().unwrap()
    };
    let before = commits(&node.metrics());
    for number in 1..=5 {
        node.submit(enqueue(job(number), 8), None).unwrap();
    }
    let text = node.metrics();
    assert_eq!(commits(&text), before + 5);
    assert!(text.contains(&format!("raftwork_commit_seconds_bucket{{le=\"+Inf\"}} {}\n", before + 5)));
    for line in [
        "raftwork_role{role=\"leader\"} 1",
        "raftwork_ready 1",
        "raftwork_jobs{state=\"enqueued\"} 5",
        "raftwork_job_events_total{event=\"created\"} 5",
        "raftwork_queue_jobs{queue=\"q\",state=\"enqueued\"} 5",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
