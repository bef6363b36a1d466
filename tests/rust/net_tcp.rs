//! Connections over TCP: addresses, budgets against floods, and a connection that is kept up.

mod strangers;

use raftwork::base::{limits, Error, Result};
use raftwork::net::packet::{encode, Frame, HEADER_BYTES};
use raftwork::net::{
    connect, open_sockets, Accepted, Address, Admit, Change, Dialer, DialerConfig, Frames, Listener, ListenerConfig,
    Security,
};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::support::until;

pub const WAIT: Duration = Duration::from_secs(20);

pub fn loopback() -> Address {
    Address::parse("127.0.0.1:0").unwrap()
}

pub fn plain() -> ListenerConfig {
    ListenerConfig::new("test", loopback(), Security::Plain, Admit::ALL)
}

/// Welcomes everybody with frame 2, then sends every frame back.
pub fn echo(accepted: Accepted) {
    let Accepted { stream, outgoing, mut frames, hello, .. } = accepted;
    outgoing.send(encode(2, hello.id, &hello.payload).unwrap());
    loop {
        while let Ok(Some(frame)) = frames.take() {
            outgoing.send(encode(frame.kind, frame.id, &frame.payload).unwrap());
        }
        if !frames.fill(&mut &*stream).unwrap_or(false) {
            return;
        }
    }
}

/// What a dialer told.
pub struct Told {
    pub dialer: Arc<Dialer>,
    pub changes: Receiver<Change>,
    pub frames: Receiver<Frame>,
}

/// A dialer with this security. Says hello with frame 1, expects welcome with frame 2.
pub fn dial(address: Address, security: Security, adjust: impl FnOnce(&mut DialerConfig)) -> Told {
    let (tell_change, changes): (Sender<Change>, _) = channel();
    let (tell_frame, frames): (Sender<Frame>, _) = channel();
    let mut config = DialerConfig::new("tester", address, security);
    config.hello = Box::new(|| encode(1, 7, b"hello").unwrap());
    config.welcome = Box::new(|frame| match (frame.kind, frame.id) {
        (2, 7) => Ok(()),
        other => Err(Error::Invalid(format!("{other:?} is no welcome"))),
    });
    config.changed = Box::new(move |change| drop(tell_change.send(change)));
    config.received = Box::new(move |frame| drop(tell_frame.send(frame)));
    adjust(&mut config);
    Told { dialer: Dialer::start(config).unwrap(), changes, frames }
}

impl Told {
    pub fn up(&self) {
        let mut last = None;
        loop {
            match self.changes.recv_timeout(WAIT) {
                Ok(Change::Up) => return,
                Ok(Change::Down(error)) => last = Some(error),
                Err(_) => panic!("it did not come up: {last:?}"),
            }
        }
    }

    /// Why there is no connection.
    pub fn down(&self) -> Error {
        loop {
            if let Change::Down(error) = self.changes.recv_timeout(WAIT).unwrap() {
                return error;
            }
        }
    }
}

fn raw(listener: &Listener) -> TcpStream {
    raw_to(listener.address())
}

fn raw_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream
}

/// Waits until the other side hangs up.
fn is_hung_up(mut stream: &TcpStream) -> bool {
    let mut rest = [0; 1024];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Whether somebody honest is served.
fn is_served(listener: &Listener) -> Result<()> {
    let (stream, _) = connect(&listener.address().into(), &Security::Plain, Instant::now() + WAIT)?;
    stream.write_first(encode(1, 9, b"x")?)?;
    let mut frames = Frames::new();
    while frames.take()?.is_none() {
        if !frames.fill(&mut &stream)? {
            return Err(Error::Closed);
        }
    }
    Ok(())
}

#[test]
fn addresses_are_read_or_refused_with_a_reason() {
    for text in ["10.0.0.1:7000", "[::1]:7000", "shop-1.example.org:1", "localhost:0", "[fe80::1%eth0]:65535", "a_b:80"]
    {
        assert_eq!(Address::parse(text).unwrap().to_string(), text);
    }
    for (text, why) in [
        ("", "port is missing"),
        ("10.0.0.1", "port is missing"),
        ("[::1]", "port is missing"),
        (":7000", "host is missing"),
        ("::1:7000", "brackets"),
        ("[10.0.0.1]:7000", "brackets"),
        ("[::1:7000", "brackets"),
        ("10.0.0.1:", "0 to 65535"),
        ("10.0.0.1:65536", "0 to 65535"),
        ("10.0.0.1:-1", "0 to 65535"),
        ("10.0.0.1:+1", "0 to 65535"),
        ("10.0.0.1:7000 ", "0 to 65535"),
        ("raftwork://10.0.0.1:7000", "scheme"),
        ("a host:1", "letters"),
        ("h\u{f6}st:1", "letters"),
        (&format!("{}:1", "a".repeat(254)), "letters"),
    ] {
        let Err(Error::Invalid(error)) = Address::parse(text) else { panic!("{text:?} was read") };
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn loopback_is_told_from_other_addresses() {
    for (text, local) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("localhost:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
    ] {
        assert_eq!(Address::parse(text).unwrap().is_loopback().unwrap(), local, "{text}");
    }
    let unknown = Address::parse("no-such-host.invalid:1").unwrap().resolve();
    assert!(matches!(unknown, Err(Error::NotFound(why)) if why.contains("no-such-host.invalid:1")));
}

/// S1: nothing is open to other machines unless it is asked for.
#[test]
fn plain_connections_stay_on_this_machine_unless_asked_for() {
    let everywhere = || Address::parse("0.0.0.0:0").unwrap();
    let start = |security| {
        let config = ListenerConfig { address: everywhere(), security, ..plain() };
        Listener::start(config, echo)
    };
    let Err(Error::Invalid(why)) = start(Security::Plain) else { panic!("it listens") };
    assert!(why.contains("TLS") && why.contains("0.0.0.0:0"), "{why}");
    start(Security::Insecure).unwrap();
    let there = Address::parse("192.0.2.1:7000").unwrap();
    assert!(matches!(connect(&there, &Security::Plain, Instant::now() + WAIT), Err(Error::Invalid(_))));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let first = Listener::start(plain(), echo).unwrap();
    let address = Address::from(first.address());
    let taken = Listener::start(ListenerConfig { address: address.clone(), ..plain() }, echo);
    let Err(error) = taken else { panic!("two listeners at one port") };
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_bad_first_frame_ends_the_connection_and_nothing_else() {
    let listener = Listener::start(plain(), |_| panic!("nobody is to be served")).unwrap();
    let mut wrong_sum = encode(1, 1, b"x").unwrap();
    wrong_sum[HEADER_BYTES] ^= 1;
    let too_long = (limits::FIRST_FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
    let cases = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), u32::MAX.to_le_bytes().to_vec(), too_long, vec![0; 8], wrong_sum];
    for (count, bytes) in cases.iter().enumerate() {
        let mut stream = raw(&listener);
        stream.write_all(bytes).unwrap();
        assert!(is_hung_up(&stream), "{bytes:?}");
        until(|| listener.tally().refused == count as u64 + 1);
    }
    until(|| listener.tally().strangers == 0);
    assert!(listener.tally().last_refusal.unwrap().contains("checksum"));
}

#[test]
fn a_stranger_that_dawdles_is_cut_off_at_the_deadline() {
    let quick = Duration::from_millis(300);
    let config = ListenerConfig { first_frame: quick, ..plain() };
    let listener = Listener::start(config, |_| panic!("nobody is to be served")).unwrap();
    let silent = raw(&listener);
    let mut loris = raw(&listener);
    // A byte now and then: each read of the other side succeeds, and the time is over all the same.
    let begun = Instant::now();
    let frame = encode(1, 1, &[0; 4000]).unwrap();
    loris.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let cut = frame.iter().any(|byte| {
        loris.write_all(&[*byte]).is_err() || !matches!(loris.read(&mut [0]), Err(error) if is_timeout(&error))
    });
    assert!(cut, "the whole frame was taken");
    assert!(begun.elapsed() < WAIT);
    assert!(is_hung_up(&silent));
    until(|| listener.tally().strangers == 0);
    assert!(listener.tally().last_refusal.unwrap().contains("silent"));
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Threat 10: whoever comes after a flood of half-open connections does not wait for their deadlines.
#[test]
fn a_flood_of_strangers_leaves_room_for_an_honest_one() {
    let config = ListenerConfig {
        chance: Duration::from_millis(100),
        first_frame: Duration::from_secs(600),
        strangers_max: 8,
        strangers_per_address_max: 4,
        ..plain()
    };
    let listener = Listener::start(config, echo).unwrap();
    let flood: Vec<_> = (0..500).map(|_| raw(&listener)).collect();
    until(|| {
        let tally = listener.tally();
        assert!(tally.strangers <= 4, "{tally:?}");
        tally.refused + 4 >= 500
    });
    until(|| is_served(&listener).is_ok());
    drop(flood);
    until(|| listener.tally().strangers == 0);
}

#[test]
fn strangers_of_many_addresses_have_a_bound_too() {
    let config = ListenerConfig { strangers_max: 3, strangers_per_address_max: 2, ..plain() };
    let listener = Listener::start(ListenerConfig { chance: Duration::from_secs(600), ..config }, echo).unwrap();
    let from = |host: u8| {
        // Every address of 127/8 is this machine.
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let socket = socket.unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
        rustix::net::connect(&socket, &listener.address()).unwrap();
        TcpStream::from(socket)
    };
    let mut kept: Vec<_> = (0..3).map(|_| from(1)).collect();
    until(|| listener.tally().refused == 1);
    assert_eq!(listener.tally().last_refusal.unwrap(), "too many unfinished connections of one address");
    kept.extend((2..=5).map(from));
    until(|| listener.tally().refused == 4);
    let tally = listener.tally();
    assert_eq!((tally.strangers, tally.served), (3, 0));
    assert_eq!(tally.last_refusal.unwrap(), "too many unfinished connections");
}

#[test]
fn connections_have_a_bound() {
    let listener = Listener::start(ListenerConfig { connections_max: 2, ..plain() }, echo).unwrap();
    let dialers: Vec<_> =
        (0..2).map(|_| dial(listener.address().into(), Security::Plain, |_| ())).inspect(|told| told.up()).collect();
    assert!(is_hung_up(&raw(&listener)));
    assert_eq!(listener.tally().last_refusal.unwrap(), "too many connections");
    drop(dialers);
    until(|| is_served(&listener).is_ok());
}

#[test]
fn a4_strangers_take_no_place_of_those_that_are_known() {
    let listener = Listener::start(ListenerConfig { connections_max: 1, ..plain() }, echo).unwrap();
    let _strangers = [raw(&listener), raw(&listener)];
    until(|| listener.tally().strangers == 2);
    let known = dial(listener.address().into(), Security::Plain, |_| ());
    known.up();
}

#[test]
fn a_panic_while_serving_gives_the_place_back() {
    let listener = Listener::start(plain(), |_| panic!("planted")).unwrap();
    let mut stream = raw(&listener);
    stream.write_all(&encode(1, 1, b"x").unwrap()).unwrap();
    assert!(is_hung_up(&stream));
    until(|| listener.tally().served == 0);
}

#[test]
fn frames_go_both_ways() {
    let listener = Listener::start(plain(), echo).unwrap();
    let told = dial(listener.address().into(), Security::Plain, |_| ());
    told.up();
    for id in 0..1000u64 {
        assert!(told.dialer.send(encode(9, id, &id.to_le_bytes()).unwrap()));
    }
    for id in 0..1000u64 {
        let frame = told.frames.recv_timeout(WAIT).unwrap();
        assert_eq!((frame.kind, frame.id, frame.payload), (9, id, id.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_connection_comes_back_when_the_other_side_does() {
    let mut listener = Listener::start(plain(), echo).unwrap();
    let address = Address::from(listener.address());
    let told = dial(address.clone(), Security::Plain, |_| ());
    for round in 0..5 {
        told.up();
        assert!(told.dialer.is_up());
        assert!(told.dialer.send(encode(9, round, &[]).unwrap()));
        assert_eq!(told.frames.recv_timeout(WAIT).unwrap().id, round);
        listener.end();
        told.down();
        assert!(!told.dialer.is_up());
        assert!(!told.dialer.send(encode(9, 0, &[]).unwrap()), "nobody is there");
        listener = Listener::start(ListenerConfig { address: address.clone(), ..plain() }, echo).unwrap();
    }
}

#[test]
fn a_dialer_follows_its_address() {
    let first = Listener::start(plain(), echo).unwrap();
    let second = Listener::start(plain(), echo).unwrap();
    let told = dial(first.address().into(), Security::Plain, |_| ());
    told.up();
    told.dialer.set_address(second.address().into());
    told.down();
    told.up();
    until(|| (first.tally().served, second.tally().served) == (0, 1));
    told.dialer.set_address(second.address().into());
    assert!(told.dialer.is_up(), "it is there already");
}

#[test]
fn a_refused_welcome_is_told_and_tried_again() {
    let listener = Listener::start(plain(), |accepted| {
        accepted.outgoing.send(encode(3, 7, b"no").unwrap());
        // Until the other side has read it.
        let _ = { accepted.frames }.fill(&mut &*accepted.stream);
    });
    let listener = listener.unwrap();
    let told = dial(listener.address().into(), Security::Plain, |_| ());
    for _ in 0..3 {
        assert!(matches!(told.down(), Error::Invalid(why) if why.contains("no welcome")));
    }
    assert!(!told.dialer.is_up());
}

#[test]
fn tries_do_not_run_hot() {
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = refusing.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    std::thread::spawn(move || {
        while refusing.accept().is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let begun = Instant::now();
    let told = dial(address.into(), Security::Plain, |_| ());
    // 10 + 20 + 40 + 80 + 160 + 320 + 500 ms at least: half of each pause is sure.
    for _ in 0..8 {
        told.down();
    }
    assert!(begun.elapsed() >= Duration::from_millis(1100), "{:?}", begun.elapsed());
    assert!(tries.load(Ordering::Relaxed) <= 9);
}

#[test]
fn a_panic_in_a_dialers_function_ends_it_and_is_told() {
    let listener = Listener::start(plain(), echo).unwrap();
    let told = dial(listener.address().into(), Security::Plain, |config| {
        config.received = Box::new(|_| panic!("planted"));
    });
    told.up();
    // The echo may end the connection before this returns, so its answer says nothing.
    told.dialer.send(encode(9, 0, &[]).unwrap());
    assert!(matches!(told.down(), Error::Poisoned(_)));
    assert!(!told.dialer.is_up());
    until(|| listener.tally().served == 0);
}

/// What a forked child must let go of.
#[test]
fn open_sockets_are_known_as_long_as_they_are_open() {
    let inode = |number: i32| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let known = || -> BTreeSet<_> { open_sockets().into_iter().filter_map(inode).collect() };
    // By what is behind the numbers: other tests open and close sockets meanwhile.
    let listener = Listener::start(plain(), echo).unwrap();
    let told = dial(listener.address().into(), Security::Plain, |_| ());
    told.up();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let unknown = inode(socket.as_raw_fd()).unwrap();
    until(|| listener.tally().served == 1);
    let (stream, _) = connect(&listener.address().into(), &Security::Plain, Instant::now() + WAIT).unwrap();
    let mine = inode(stream.as_fd().as_raw_fd()).unwrap();
    until(|| known().contains(&mine));
    assert!(!known().contains(&unknown));
    drop(stream);
    until(|| !known().contains(&mine));
}

#[test]
fn an_ended_dialer_says_nothing_more() {
    let listener = Listener::start(plain(), echo).unwrap();
    let told = dial(listener.address().into(), Security::Plain, |_| ());
    told.up();
    let Told { dialer, changes, .. } = told;
    dialer.end();
    assert!(!dialer.send(encode(9, 0, &[]).unwrap()));
    drop(dialer);
    assert_eq!(changes.recv_timeout(WAIT), Err(RecvTimeoutError::Disconnected), "its thread has ended");
    until(|| listener.tally().served == 0);
}

#[test]
fn the_end_of_a_listener_ends_its_connections_and_frees_its_port() {
    let listener = Listener::start(plain(), echo).unwrap();
    let address = Address::from(listener.address());
    let told = dial(address.clone(), Security::Plain, |_| ());
    told.up();
    let stranger = raw(&listener);
    until(|| listener.tally().strangers == 1);
    drop(listener);
    assert!(is_hung_up(&stranger));
    told.down();
    Listener::start(ListenerConfig { address, ..plain() }, echo).unwrap();
}

/// P55: a peer that does not read costs its bound, and nobody waits for it.
#[test]
fn what_a_deaf_peer_does_not_take_is_dropped_at_the_bound() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let told = dial(deaf.local_addr().unwrap().into(), Security::Plain, |config| config.waiting_bytes_max = 4 << 20);
    let (mut peer, _) = deaf.accept().unwrap();
    peer.write_all(&encode(2, 7, &[]).unwrap()).unwrap();
    told.up();
    let frame = encode(9, 1, &vec![0; 1 << 20]).unwrap();
    let begun = Instant::now();
    let taken = (0..1000).take_while(|_| told.dialer.send(frame.clone())).count();
    assert!((4..100).contains(&taken), "{taken} MiB were taken");
    assert!(begun.elapsed() < WAIT);
    assert!(told.dialer.is_up(), "a full queue is no end");
    // It reads again, and what was taken arrives whole.
    let (mut frames, mut got) = (Frames::new(), 0);
    while got < taken {
        got += usize::from(frames.take().unwrap().is_some_and(|frame| frame.kind == 9));
        if got < taken {
            assert!(frames.fill(&mut peer).unwrap());
        }
    }
    until(|| told.dialer.send(encode(9, 2, &[]).unwrap()));
}

/// A machine that is gone confirms nothing. A full window does not either, which a test can make.
#[test]
fn a_vanished_peer_is_noticed() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let told = dial(deaf.local_addr().unwrap().into(), Security::Plain, |config| {
        config.silence = Duration::from_millis(500);
        config.waiting_bytes_max = 32 << 20;
    });
    let (mut peer, _) = deaf.accept().unwrap();
    peer.write_all(&encode(2, 7, &[]).unwrap()).unwrap();
    told.up();
    let frame = encode(9, 1, &vec![0; 1 << 20]).unwrap();
    while told.dialer.send(frame.clone()) {}
    // The half that the system tells first knows why; the other may see an end only.
    assert!(matches!(told.down(), Error::TimedOut(_) | Error::Closed), "the system gave up");
}
