//! Attached processes: the socket, what a bad peer can do, what the end of a process means.

pub mod bounds;
mod floods;
mod idle;
mod refused;

use raftwork::attach::message::{decode_error, decode_lines, decode_reply, encode_error, encode_event, Greeting};
use raftwork::attach::remote::{Question, Remote};
use raftwork::attach::server::Server;
use raftwork::attach::wire::{encode, Kind};
use raftwork::attach::{Ask, Backend, View, WatchEvent, Watcher};
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{ClusterId, Error, GroupId, JobId, LeaseToken, Millis, Result, SessionId, RELEASE};
use raftwork::client::memory::Memory;
use raftwork::client::request::{accepted, envelope};
use raftwork::net::packet::{self, HEADER_BYTES};
use raftwork::net::Frames;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);

fn greeting() -> Greeting {
    Greeting { pid: 7, cluster: Some(ClusterId([1; 16])), group: GroupId(0), leader: None, token: None }
}

struct Owner {
    dir: TempDir,
    memory: Arc<Memory>,
    server: Server,
}

fn owner() -> Owner {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::open(true).unwrap();
    let server = Server::start(dir.path(), memory.clone(), greeting()).unwrap();
    Owner { dir, memory, server }
}

fn attach(dir: &Path) -> (Arc<Remote>, Receiver<()>) {
    let (send, ended) = channel();
    let remote = Remote::connect(dir, greeting(), move || {
        let _ = send.send(());
    })
    .unwrap();
    (remote, ended)
}

fn ask(remote: &Remote, question: impl FnOnce(Box<dyn FnOnce(Result<Vec<u8>>) + Send>) -> Question) -> Result<Vec<u8>> {
    let (send, answer) = channel();
    remote.ask(question(Box::new(move |reply| drop(send.send(reply)))));
    answer.recv_timeout(WAIT).unwrap()
}

fn submit(remote: &Remote, command: &Writer) -> Result<Vec<u8>> {
    ask(remote, |done| Question::Submit(envelope(SessionId(0), 0, 0, command.as_bytes()), done))
}

fn open_session(remote: &Remote) -> SessionId {
    let mut command = Writer::new();
    command.array(6).u64(1).u64(60_000).str("worker").str("here").u64(9).array(0);
    let reply = submit(remote, &command).unwrap();
    SessionId(Reader::new(accepted(&reply).unwrap().1).u64().unwrap())
}

fn enqueue(remote: &Remote, job: JobId) {
    let mut command = Writer::new();
    command.array(3).u64(4).array(1);
    command
        .array(14)
        .str("f")
        .str("q")
        .i64(0)
        .u64(3)
        .u64(3)
        .nil()
        .u64(1000)
        .u64(1000)
        .array(0)
        .u64(0)
        .nil()
        .nil()
        .u64(0);
    command.bin(&[]);
    command.array(1).array(6).id(job).u64(0).bin(&[0x90]).u64(0).nil().nil();
    accepted(&submit(remote, &command).unwrap()).unwrap();
}

fn claim(remote: &Remote, session: SessionId) -> usize {
    let mut command = Writer::new();
    command.array(6).u64(5).u64(session.0).array(1).array(2).str("q").u64(1).bool(true).array(1).str("f").u64(10);
    let reply = submit(remote, &command).unwrap();
    let (_, payload) = accepted(&reply).unwrap();
    Reader::new(payload).array().unwrap()
}

fn beat(remote: &Remote, session: SessionId) -> Result<()> {
    let (send, answer) = channel();
    remote.ask(Question::Heartbeat(session, Box::new(move |lives| drop(send.send(lives)))));
    answer.recv_timeout(WAIT).unwrap()
}

struct Tell(Mutex<Sender<WatchEvent>>);

impl Watcher for Tell {
    fn event(&self, event: WatchEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

fn watch(remote: &Remote, session: SessionId) -> (u64, Receiver<WatchEvent>) {
    let (send, events) = channel();
    (remote.watch(session, Arc::new(Tell(Mutex::new(send)))), events)
}

fn state(backend: &dyn Backend, job: JobId) -> String {
    let mut question = Writer::new();
    question.array(2).u64(3).id(job);
    let (send, answer) = channel();
    backend.view(View::of_any(question.as_bytes()), Box::new(move |answer| drop(send.send(answer))));
    let answer = answer.recv_timeout(WAIT).unwrap().unwrap();
    let mut reader = Reader::new(&answer);
    reader.array_of(3, "a view").unwrap();
    reader.u64().unwrap();
    reader.raw().unwrap();
    for _ in 0..reader.map().unwrap() {
        if reader.str().unwrap() == "state" {
            return reader.str().unwrap().to_owned();
        }
        reader.raw().unwrap();
    }
    panic!("a detail without a state");
}

#[test]
fn every_error_crosses_the_socket() {
    let text = || "why".to_owned();
    for error in [
        Error::Invalid(text()),
        Error::NotCommitted(text()),
        Error::Unknown(text()),
        Error::Overloaded(text()),
        Error::TimedOut(text()),
        Error::NotFound(text()),
        Error::DiskFull(text()),
        Error::Disk { operation: "an operation of the owner", path: text(), message: text() },
        Error::Corrupt { path: text(), offset: 9, message: text() },
        Error::Busy { path: text(), holder: text() },
        Error::Foreign(text()),
        Error::Poisoned(text()),
        Error::Closed,
        Error::SessionExpired,
        Error::Forked,
        Error::TooStale { age: Some(Millis(7)), most: Millis(2) },
        Error::TooStale { age: None, most: Millis(2) },
        Error::Member(text()),
    ] {
        let mut bytes = vec![1];
        bytes.extend(encode_error(&error));
        assert_eq!(decode_reply(&bytes), Err(error));
    }
}

#[test]
fn an_attached_process_writes_reads_and_waits() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    let session = open_session(&remote);
    beat(&remote, session).unwrap();
    let (watch, events) = watch(&remote, session);
    remote.arm(watch, &["q"], &["f"]);
    let (send, finished) = channel();
    enqueue(&remote, JobId([1; 16]));
    assert_eq!(events.recv_timeout(WAIT).unwrap(), WatchEvent::Ready);
    remote.ask(Question::Wait(JobId([1; 16]), Box::new(move |end| drop(send.send(end)))));
    assert_eq!(claim(&remote, session), 1);
    let mut cancel = Writer::new();
    cancel.array(3).u64(8).array(1).id(JobId([1; 16])).str("no need");
    submit(&remote, &cancel).unwrap();
    assert!(matches!(events.recv_timeout(WAIT).unwrap(), WatchEvent::Cancel(JobId(id), _) if id == [1; 16]));
    let mut close = Writer::new();
    close.array(2).u64(2).u64(session.0);
    submit(&remote, &close).unwrap();
    finished.recv_timeout(WAIT).unwrap().unwrap();
    assert_eq!(events.recv_timeout(WAIT).unwrap(), WatchEvent::SessionClosed);
}

#[test]
fn an_attached_worker_is_asked_for_log_lines_and_answers() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    let session = open_session(&remote);
    let (watch, events) = watch(&remote, session);
    beat(&remote, session).unwrap(); // What was sent before it has arrived.
    let wanted = Ask { session, job: JobId([1; 16]), token: LeaseToken(3), from: 1 };
    let mut question = Writer::new();
    wanted.write(question.array(5).u64(61));
    let (send, answer) = channel();
    let question = View::of_any(question.as_bytes());
    remote.ask(Question::View(question, Box::new(move |reply| drop(send.send(reply)))));
    assert_eq!(events.recv_timeout(WAIT).unwrap(), WatchEvent::Lines(wanted));
    remote.told_lines(watch, wanted, &wanted.told(0, &["one".into(), "two".into()]));
    let told = wanted.told(1, &["two".into()]);
    assert_eq!(answer.recv_timeout(WAIT).unwrap().unwrap(), [&[0x93, 0, 0xc0], &told[..]].concat());
}

/// It would end the connection: an earlier version knows no such frame.
#[test]
fn an_owner_that_never_asked_for_log_lines_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let wanted = Ask { session: SessionId(1), job: JobId([1; 16]), token: LeaseToken(3), from: 0 };
    let next = |stream: &mut UnixStream, frames: &mut Frames| loop {
        if let Some(frame) = frames.take().unwrap() {
            return frame;
        }
        assert!(frames.fill(stream).unwrap());
    };
    let owner = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut frames = Frames::new();
        assert_eq!(next(&mut stream, &mut frames).kind, Kind::Hello as u8);
        stream.write_all(&encode(Kind::Welcome, 0, &greeting().encode()).unwrap()).unwrap();
        let watch = next(&mut stream, &mut frames);
        assert_eq!(next(&mut stream, &mut frames).kind, Kind::Disarm as u8, "the answer was not sent");
        let event = encode_event(WatchEvent::Lines(wanted));
        stream.write_all(&encode(Kind::Event, watch.id, &event).unwrap()).unwrap();
        let lines = next(&mut stream, &mut frames);
        assert_eq!((lines.kind, lines.id), (Kind::Lines as u8, watch.id));
        decode_lines(&lines.payload).unwrap()
    });
    let (remote, _ended) = attach(dir.path());
    let (watch, events) = watch(&remote, wanted.session);
    remote.told_lines(watch, wanted, b"early");
    remote.disarm(watch);
    assert_eq!(events.recv_timeout(WAIT).unwrap(), WatchEvent::Lines(wanted));
    remote.told_lines(watch, wanted, b"asked");
    assert_eq!(owner.join().unwrap(), (wanted, b"asked".to_vec()));
}

#[test]
fn the_end_of_a_process_loses_its_leases_at_once() {
    let owner = owner();
    let (steady, _) = attach(owner.dir.path());
    let (dying, ended) = attach(owner.dir.path());
    let (mine, theirs) = (open_session(&steady), open_session(&dying));
    beat(&dying, theirs).unwrap();
    enqueue(&steady, JobId([2; 16]));
    assert_eq!(claim(&dying, theirs), 1);
    let (watch, events) = watch(&steady, mine);
    remote_arm(&steady, watch);
    dying.end();
    ended.recv_timeout(WAIT).unwrap();
    assert_eq!(events.recv_timeout(WAIT).unwrap(), WatchEvent::Ready, "the lost job is ready for others");
    assert_eq!(beat(&steady, theirs), Err(Error::SessionExpired));
    assert_eq!(claim(&steady, mine), 1);
}

fn remote_arm(remote: &Remote, watch: u64) {
    remote.arm(watch, &["q"], &["f"]);
}

#[test]
fn the_end_of_the_owner_leaves_its_sessions_alone() {
    let owner = owner();
    let (remote, ended) = attach(owner.dir.path());
    let session = open_session(&remote);
    beat(&remote, session).unwrap();
    enqueue(&remote, JobId([3; 16]));
    assert_eq!(claim(&remote, session), 1);
    owner.server.close();
    ended.recv_timeout(WAIT).unwrap();
    assert_eq!(state(&*owner.memory, JobId([3; 16])), "processing");
    assert!(!owner.dir.path().join("socket").exists());
}

#[test]
fn unanswered_questions_become_orphans() {
    let owner = owner();
    let (remote, ended) = attach(owner.dir.path());
    enqueue(&remote, JobId([4; 16]));
    remote.ask(Question::Wait(JobId([4; 16]), Box::new(|_| panic!("nobody answers it"))));
    owner.server.close();
    ended.recv_timeout(WAIT).unwrap();
    remote.ask(Question::View(View::of_any(&[1]), Box::new(|_| panic!("nobody answers it"))));
    let orphans = remote.orphans();
    assert!(matches!(orphans.as_slice(), [Question::Wait(..), Question::View(..)]));
}

#[test]
fn the_nodes_own_operations_are_refused() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    for operation in [3, 13, 14, 15] {
        let mut command = Writer::new();
        command.array(2).u64(operation);
        // No records to restore.
        let command = if operation == 15 { command.array(0) } else { command.u64(1) };
        let refused = submit(&remote, command);
        assert!(matches!(&refused, Err(Error::Invalid(why)) if why.contains("node's own")), "{operation}: {refused:?}");
    }
}

#[test]
fn the_socket_is_for_its_user_only() {
    let owner = owner();
    let mode = std::fs::metadata(owner.dir.path().join("socket")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_long_path_has_a_socket_too() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let server = Server::start(&deep, Memory::open(true).unwrap(), greeting()).unwrap();
    let (remote, _ended) = attach(&deep);
    open_session(&remote);
    drop(server);
}

#[test]
fn a_stale_socket_is_replaced() {
    let owner = owner();
    owner.server.close();
    std::os::unix::net::UnixListener::bind(owner.dir.path().join("socket")).unwrap();
    let _server = Server::start(owner.dir.path(), owner.memory.clone(), greeting()).unwrap();
    open_session(&attach(owner.dir.path()).0);
}

/// Sends these bytes and waits until the owner hangs up.
fn is_hung_up_on(dir: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(dir.join("socket")).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    // The owner may hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_bad_peer_is_cut_off_and_harms_nobody() {
    let owner = owner();
    let (good, _ended) = attach(owner.dir.path());
    let hello = encode(Kind::Hello, 0, &greeting().encode()).unwrap();
    let with = |frame: Vec<u8>| [hello.clone(), frame].concat();
    let stranger = Greeting { cluster: Some(ClusterId([2; 16])), ..greeting() };
    let mut wrong_sum = with(encode(Kind::View, 1, &[1]).unwrap());
    *wrong_sum.last_mut().unwrap() ^= 1;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        u32::MAX.to_le_bytes().to_vec(),
        encode(Kind::Submit, 1, b"before the greeting").unwrap(),
        encode(Kind::Hello, 0, b"RAFTWORM").unwrap(),
        encode(Kind::Hello, 0, &stranger.encode()).unwrap(),
        encode(Kind::Hello, 0, &Greeting { group: GroupId(1), ..greeting() }.encode()).unwrap(),
        with(encode(Kind::Welcome, 0, &[]).unwrap()),
        with(packet::encode(60, 0, &[]).unwrap()),
        with(encode(Kind::Heartbeat, 0, b"short").unwrap()),
        with(encode(Kind::Wait, 0, b"short").unwrap()),
        with(encode(Kind::Arm, 0, &[0x92, 0xdd, 0xff, 0xff, 0xff, 0xff]).unwrap()),
        wrong_sum,
    ] {
        is_hung_up_on(owner.dir.path(), &bytes);
    }
    open_session(&good);
}

#[test]
fn a_process_that_knows_one_cluster_refuses_another_and_names_both() {
    let owner = owner();
    let with = |cluster, group| Greeting { cluster, group: GroupId(group), ..greeting() };
    let connect = |own| Remote::connect(owner.dir.path(), own, || ());
    for stranger in [with(Some(ClusterId([2; 16])), 0), with(Some(ClusterId([1; 16])), 5)] {
        let Err(Error::Foreign(why)) = connect(stranger.clone()) else { panic!("{stranger:?} was let in") };
        let known = format!("cluster {}, group {}", stranger.cluster.unwrap(), stranger.group);
        assert!(why.contains(&known) && why.contains(&format!("cluster {}, group 0", ClusterId([1; 16]))), "{why}");
        assert!(why.contains("was replaced while the process ran"), "{why}");
    }
    let learned = connect(with(None, 0)).unwrap();
    assert_eq!((learned.owner.cluster, learned.owner.group), (Some(ClusterId([1; 16])), GroupId(0)));
}

/// The first words of a release that speaks these versions, and adds this item to them.
fn offering(oldest: u8, newest: u8, item: &[u8]) -> Vec<u8> {
    let mut words = greeting().encode();
    words[8..12].copy_from_slice(&[oldest, 0, newest, 0]);
    let items = 13 + usize::from(words[12]);
    assert_eq!(words[items], 0x95);
    words[items] = 0x96;
    words.extend(item);
    encode(Kind::Hello, 0, &words).unwrap()
}

fn hear(stream: &mut UnixStream, frames: &mut Frames) -> packet::Frame {
    loop {
        match frames.take().unwrap() {
            Some(frame) => return frame,
            None => assert!(frames.fill(stream).unwrap(), "it ended"),
        }
    }
}

#[test]
fn u1_a_process_that_also_speaks_the_next_version_is_spoken_to_in_this_one() {
    let owner = owner();
    let (mut stream, mut frames) = (UnixStream::connect(owner.dir.path().join("socket")).unwrap(), Frames::new());
    stream.write_all(&offering(1, 2, &[0xc0])).unwrap();
    let welcome = hear(&mut stream, &mut frames);
    assert_eq!((welcome.kind, &welcome.payload[8..12]), (Kind::Welcome as u8, &[1, 0, 1, 0][..]));
    assert_eq!(Greeting::decode(&welcome.payload), Ok(greeting()));
    stream.write_all(&encode(Kind::Health, 7, &[]).unwrap()).unwrap();
    let reply = hear(&mut stream, &mut frames);
    assert_eq!((reply.kind, reply.id), (Kind::Reply as u8, 7));
}

#[test]
fn a_process_that_speaks_later_versions_only_is_told_which_side_is_too_old() {
    let owner = owner();
    let (mut stream, mut frames) = (UnixStream::connect(owner.dir.path().join("socket")).unwrap(), Frames::new());
    stream.write_all(&offering(2, 3, &[0xc0])).unwrap();
    let refused = hear(&mut stream, &mut frames);
    assert_eq!(refused.kind, Kind::Refused as u8);
    let Error::Foreign(why) = decode_error(&refused.payload) else { panic!("{refused:?}") };
    assert!(why.contains("speaks versions 2 to 3") && why.contains("speaks version 1"), "{why}");
    assert!(why.contains(&format!("upgrade the one with raftwork {RELEASE}")), "{why}");
}

/// An owner that says nothing about a stranger: the attached side looks for itself.
#[test]
fn a_process_checks_the_cluster_of_the_welcome_itself() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let welcoming = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; HEADER_BYTES]).unwrap();
        let other = Greeting { cluster: Some(ClusterId([2; 16])), ..greeting() };
        stream.write_all(&encode(Kind::Welcome, 0, &other.encode()).unwrap()).unwrap();
        stream
    });
    assert!(matches!(Remote::connect(dir.path(), greeting(), || ()), Err(Error::Foreign(_))));
    drop(welcoming.join().unwrap());
}

#[test]
fn a_request_that_cannot_be_read_is_answered_not_applied() {
    let owner = owner();
    let (remote, _ended) = attach(owner.dir.path());
    for request in [b"".to_vec(), vec![0xc0], vec![0x94, 1, 1, 0], envelope(SessionId(0), 0, 0, &[0x91, 99])] {
        assert!(matches!(ask(&remote, |done| Question::Submit(request, done)), Err(Error::Invalid(_))));
    }
    assert!(ask(&remote, |done| Question::View(View::of_any(&[0x91, 99]), done)).is_err());
}

#[test]
fn a_peer_that_does_not_read_blocks_nobody() {
    let owner = owner();
    let (good, _ended) = attach(owner.dir.path());
    let mut deaf = UnixStream::connect(owner.dir.path().join("socket")).unwrap();
    deaf.write_all(&encode(Kind::Hello, 0, &greeting().encode()).unwrap()).unwrap();
    // Answers to a thousand questions are far more than a socket holds.
    let mut question = Writer::new();
    question.array(1).u64(7);
    let frame = encode(Kind::View, 1, &View::of_any(question.as_bytes()).encode()).unwrap();
    for _ in 0..2_000 {
        deaf.write_all(&frame).unwrap();
    }
    let session = open_session(&good);
    beat(&good, session).unwrap();
    owner.server.close();
}
