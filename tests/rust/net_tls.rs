//! TLS: who is let in and who is not, with words on both sides; certificates that change; many bytes at once.

mod expiry;
mod forged;
mod idle;
mod joining;
mod named;
mod pinned;
mod reload;

use raftwork::base::{limits, ClusterId, Error};
use raftwork::net::packet::encode;
use raftwork::net::pki::Lifetime;
use raftwork::net::{
    connect, Accepted, Address, Admit, Authority, Certified, Frames, Listener, ListenerConfig, Role, Security, Tls,
};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

use crate::net_tcp::{dial, echo, loopback, plain, WAIT};
use crate::node::support::until;

const SHOP: ClusterId = ClusterId([7; 16]);
const DAY: Duration = Duration::from_secs(86_400);

fn private_dir() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// An authority, and a place for the files of those whom it certifies.
struct Home {
    dir: TempDir,
    authority: Authority,
}

impl Home {
    fn new() -> Self {
        Self::of(SHOP)
    }

    fn of(cluster: ClusterId) -> Self {
        Self { dir: private_dir(), authority: Authority::create(cluster).unwrap() }
    }

    fn tls(&self, name: &str, role: &Role, lifetime: Lifetime) -> Arc<Tls> {
        self.try_tls(name, role, lifetime).unwrap()
    }

    fn try_tls(&self, name: &str, role: &Role, lifetime: Lifetime) -> Result<Arc<Tls>, Error> {
        let files = self.authority.issue(role, &["shop-1", "10.0.0.1"], lifetime).unwrap();
        let files = files.save(self.dir.path(), name).unwrap();
        Tls::from_files(files.authority, files.certificate, files.key)
    }

    fn node(&self) -> Security {
        Security::Tls(self.tls("node", &Role::Node, Lifetime::days(90)))
    }

    fn client(&self, name: &str) -> Security {
        Security::Tls(self.tls(name, &Role::client(name).unwrap(), Lifetime::days(90)))
    }

    /// A certificate that was good until yesterday.
    fn expired(&self) -> Security {
        let lifetime = Lifetime { from: SystemTime::now() - 10 * DAY, days: 9 };
        Security::Tls(self.tls("expired", &Role::Node, lifetime))
    }

    fn listener(&self, admit: Admit) -> Listener {
        Listener::start(config(self.node(), admit), echo).unwrap()
    }
}

fn config(security: Security, admit: Admit) -> ListenerConfig {
    ListenerConfig::new("test", loopback(), security, admit)
}

fn at(listener: &Listener) -> Address {
    listener.address().into()
}

/// Nobody of this security is let in, and both sides say why.
fn is_refused(listener: &Listener, security: Security, theirs: &str, ours: &str) {
    let refused = listener.tally().refused;
    let told = dial(at(listener), security, |_| ());
    let error = told.down();
    assert!(matches!(&error, Error::Foreign(why) if why.contains(theirs)), "the side that connects says: {error}");
    until(|| listener.tally().refused > refused);
    let why = listener.tally().last_refusal.unwrap();
    assert!(why.contains(ours), "the side that accepts says: {why}");
    assert_eq!(listener.tally().served, 0);
}

#[test]
fn whoever_has_the_right_certificate_is_let_in_and_known() {
    let home = Home::new();
    let (tell, told) = channel();
    let listener = Listener::start(config(home.node(), Admit::ALL), move |accepted: Accepted| {
        tell.send(accepted.identity.clone()).unwrap();
        echo(accepted);
    });
    let listener = listener.unwrap();
    for (security, role) in [(home.node(), Role::Node), (home.client("web.1"), Role::client("web.1").unwrap())] {
        let dialer = dial(at(&listener), security, |_| ());
        dialer.up();
        assert_eq!(told.recv_timeout(WAIT).unwrap(), Some(Certified { cluster: SHOP, role, node: None }));
        for id in 0..100 {
            assert!(dialer.dialer.send(encode(9, id, b"words").unwrap()));
        }
        for id in 0..100 {
            assert_eq!(dialer.frames.recv_timeout(WAIT).unwrap().id, id);
        }
    }
    let (_, other) = connect(&at(&listener), &home.node(), Instant::now() + WAIT).unwrap();
    assert_eq!(other, Some(Certified { cluster: SHOP, role: Role::Node, node: None }));
}

/// Threat 1: nobody without the right certificate gets as far as a frame.
#[test]
fn whoever_lacks_the_right_certificate_is_refused_with_the_reason() {
    let home = Home::new();
    let serve = |_| panic!("nobody is to be served");
    let listener = Listener::start(config(home.node(), Admit::NODES), serve).unwrap();
    let elsewhere = Home::of(SHOP);
    is_refused(
        &listener,
        home.client("web"),
        "does not let in the role",
        "for the role client/web, and only nodes may be there",
    );
    is_refused(&listener, home.expired(), "own certificate has expired", "other side's certificate has expired");
    // It trusts the right authority, and was signed by another one.
    let dir = private_dir();
    let mut issued = elsewhere.authority.issue_node(&[]).unwrap();
    issued.authority += &home.authority.pem();
    let files = issued.save(dir.path(), "node").unwrap();
    let stranger = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
    is_refused(
        &listener,
        Security::Tls(stranger),
        "does not trust the authority (CA) that signed the own",
        "not signed by the authority (CA) that this side trusts",
    );
    let mut forger = forged::Forger::of(&home);
    let other = forger.tls(&format!("raftwork://{}/node", ClusterId([8; 16])));
    // Whoever connects looks first, and finds another cluster on the other side.
    let told = dial(at(&listener), Security::Tls(other), |_| ());
    let why = told.down().to_string();
    assert!(why.contains(&format!("for cluster {SHOP}, and this side works with cluster 08080808")), "{why}");
    drop(told); // It would come again, and be refused while others are.
                // A dishonest one does not look.
    let (alert, why) = forger.connect_blindly(&listener, &format!("raftwork://{}/node", ClusterId([8; 16])));
    assert!(alert.contains("belongs to another cluster"), "{alert}");
    assert!(why.contains("is for cluster 08080808") && why.contains(&SHOP.to_string()), "{why}");
    let (alert, why) = forger.connect_blindly(&listener, "https://example.org/");
    assert!(alert.contains("belongs to another cluster"), "{alert}");
    assert!(why.contains("names no cluster"), "{why}");
    forger.from_year = 2045;
    let (alert, why) = forger.connect_blindly(&listener, &format!("raftwork://{SHOP}/node"));
    assert!(alert.contains("or is not valid yet") && alert.contains("compare the clocks"), "{alert}; {why}");
    assert!(why.contains("is not valid yet; compare the clocks"), "{why}");
    // Whoever looks at its own clock finds out by itself.
    let tomorrow = Lifetime { from: SystemTime::now() + DAY, days: 9 };
    let Err(Error::Invalid(why)) = home.try_tls("early", &Role::Node, tomorrow) else { panic!("it is taken") };
    assert!(why.contains("early.pem is not good yet; compare the clock"), "{why}");
}

#[test]
fn a_node_with_a_bad_certificate_is_refused_by_who_connects() {
    let home = Home::new();
    for (security, theirs, ours) in [
        (home.expired(), "other side's certificate has expired", "own certificate has expired"),
        (Home::of(SHOP).node(), "not signed by the authority", "does not trust the authority"),
        (home.client("web"), "extended key usage", "extended key usage"),
    ] {
        let listener = Listener::start(config(security, Admit::ALL), echo).unwrap();
        is_refused(&listener, home.node(), theirs, ours);
    }
    let mut forger = forged::Forger::of(&home);
    for (uri, theirs, ours) in [
        (format!("raftwork://{SHOP}/client/web"), "for the role client/web", "does not let in the role"),
        (format!("raftwork://{}/node", ClusterId([8; 16])), "for cluster 08080808", "belongs to another cluster"),
    ] {
        let listener = Listener::start(config(Security::Tls(forger.tls(&uri)), Admit::ALL), echo).unwrap();
        is_refused(&listener, home.node(), theirs, ours);
    }
}

#[test]
fn without_a_certificate_only_a_port_for_strangers_lets_in() {
    let home = Home::new();
    let joining = || Security::Tls(Tls::joining(home.fingerprint()));
    let listener = Listener::start(config(home.node(), Admit::ALL), |_| panic!("nobody is served")).unwrap();
    is_refused(&listener, joining(), "this side has none", "has no certificate");
    let (tell, told) = channel();
    let admit = Admit { strangers: true, ..Admit::NODES };
    let open = Listener::start(config(home.node(), admit), move |accepted| {
        tell.send(accepted.identity.clone()).unwrap();
        echo(accepted);
    });
    let open = open.unwrap();
    let stranger = dial(at(&open), joining(), |_| ());
    stranger.up();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), None);
    // A bad certificate is worse than none.
    drop(stranger);
    until(|| open.tally().served == 0);
    is_refused(&open, home.client("web"), "does not let in the role", "only nodes may be there");
    // Whom a stranger trusts is the one with this fingerprint.
    let elsewhere = Home::of(SHOP);
    is_refused(
        &open,
        Security::Tls(Tls::joining(elsewhere.fingerprint())),
        "not signed by the authority",
        "does not trust the authority",
    );
}

/// Threat 20: there is no way from plain to TLS or back.
#[test]
fn plain_and_tls_do_not_mix() {
    let home = Home::new();
    let listener = Listener::start(config(home.node(), Admit::ALL), |_| panic!("nobody is served")).unwrap();
    let told = dial(at(&listener), Security::Plain, |_| ());
    let error = told.down().to_string();
    assert!(error.contains("its log says why"), "{error}");
    until(|| listener.tally().refused > 0);
    assert!(listener.tally().last_refusal.unwrap().contains("does not speak TLS"));
    drop(told);

    let listener = Listener::start(plain(), |_| panic!("nobody is served")).unwrap();
    let told = dial(at(&listener), home.node(), |_| ());
    assert!(matches!(told.down(), Error::Foreign(_) | Error::Disk { .. }));
    until(|| listener.tally().refused > 0);
    assert!(listener.tally().last_refusal.unwrap().contains("speaks TLS, and this side does not"));
    drop(told);

    // A server that answers in plain words.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(server.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut peer, _) = server.accept().unwrap();
        peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let told = dial(address, home.node(), |_| ());
    assert!(told.down().to_string().contains("does not speak TLS"));
    drop(told);
    answering.join().unwrap();
}

/// Threat 20: TLS 1.3 or nothing. A client hello that offers 1.2 alone gets the alert `protocol_version`.
#[test]
fn an_older_version_of_tls_is_refused() {
    let home = Home::new();
    let listener = home.listener(Admit::ALL);
    // Version 1.2, 32 random bytes, no session, one suite, no compression, and the extensions that 1.2 needs.
    let extensions = [&[0, 10, 0, 4, 0, 2, 0, 29][..], &[0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    let mut stream = TcpStream::connect(listener.address()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
    until(|| listener.tally().refused == 1);
    assert!(listener.tally().last_refusal.unwrap().contains("1.3 is needed"));
}

/// Threat 19: whoever only connects learns nothing.
#[test]
fn nothing_is_said_to_a_stranger_that_is_silent() {
    let home = Home::new();
    let quick = Duration::from_millis(100);
    for security in [Security::Plain, home.node()] {
        let config = ListenerConfig { handshake: quick, first_frame: quick, ..config(security, Admit::ALL) };
        let listener = Listener::start(config, echo).unwrap();
        let mut stream = TcpStream::connect(listener.address()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard.is_empty(), "{heard:?}");
    }
}

/// Threat 10: bytes of a handshake that come one by one do not hold a place longer than its deadline.
#[test]
fn a_handshake_that_dawdles_is_cut_off_at_the_deadline() {
    let home = Home::new();
    let config = ListenerConfig { handshake: Duration::from_millis(300), ..config(home.node(), Admit::ALL) };
    let listener = Listener::start(config, |_| panic!("nobody is served")).unwrap();
    let mut loris = TcpStream::connect(listener.address()).unwrap();
    loris.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    // A record of 16 KiB of a client hello that never ends.
    let beginning = [22, 3, 1, 0x40, 0, 1, 0, 0xff, 0];
    let begun = Instant::now();
    let cut = beginning.into_iter().chain(std::iter::repeat(0)).take(10_000).any(|byte| {
        let pause = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        loris.write_all(&[byte]).is_err() || !loris.read(&mut [0]).is_err_and(pause)
    });
    assert!(cut && begun.elapsed() < WAIT);
    until(|| listener.tally().strangers == 0);
    assert!(listener.tally().last_refusal.unwrap().contains("silent for too long"));
}

/// Threat 10: the same after the handshake, where reading goes through the session.
#[test]
fn a_first_frame_in_crumbs_is_cut_off_at_the_deadline() {
    let home = Home::new();
    let config = ListenerConfig { first_frame: Duration::from_millis(300), ..config(home.node(), Admit::ALL) };
    let listener = Listener::start(config, |_| panic!("nobody is served")).unwrap();
    let (stream, _) = connect(&at(&listener), &home.node(), Instant::now() + WAIT).unwrap();
    let frame = encode(1, 1, &[0; 4000]).unwrap();
    let pause = Duration::from_millis(5);
    let cut = frame.iter().any(|byte| {
        std::thread::park_timeout(pause);
        stream.write_first(vec![*byte]).is_err()
    });
    assert!(cut);
    until(|| listener.tally().strangers == 0);
    assert!(listener.tally().last_refusal.unwrap().contains("silent for too long"));
}

/// Threat 7: a length field is worth what arrives.
#[test]
fn an_announced_length_takes_no_memory_behind_tls_either() {
    let home = Home::new();
    let listener = Listener::start(config(home.node(), Admit::ALL), |_| panic!("nobody is served")).unwrap();
    for length in [u32::MAX, limits::FRAME_BYTES_MAX as u32, limits::FIRST_FRAME_BYTES_MAX as u32 + 1] {
        let refused = listener.tally().refused;
        let (stream, _) = connect(&at(&listener), &home.node(), Instant::now() + WAIT).unwrap();
        stream.write_first(length.to_le_bytes().to_vec()).unwrap();
        assert!(!Frames::new().fill(&mut &stream).unwrap_or(false));
        until(|| listener.tally().refused > refused);
        assert!(listener.tally().last_refusal.unwrap().contains(&format!("a frame of {length} bytes")));
    }
}

/// Both sides send more than fits into any buffer before either has read anything.
#[test]
fn large_frames_cross_each_other_without_a_deadlock() {
    let home = Home::new();
    let config = ListenerConfig { waiting_bytes_max: 256 << 20, ..config(home.node(), Admit::NODES) };
    let listener = Listener::start(config, echo).unwrap();
    let told = dial(at(&listener), home.node(), |config| config.waiting_bytes_max = 256 << 20);
    told.up();
    let payload: Vec<u8> = (0..limits::FRAME_BYTES_MAX - 16).map(|at| (at / 7) as u8).collect();
    for id in 0..20 {
        assert!(told.dialer.send(encode(9, id, &payload).unwrap()));
    }
    for id in 0..20 {
        let frame = told.frames.recv_timeout(WAIT).unwrap();
        assert!(frame.id == id && frame.payload == payload);
    }
}

/// What arrived together is worked on, and synced, together.
#[test]
fn one_read_gives_the_plaintext_of_all_records_that_have_arrived() {
    let home = Home::new();
    let (sent, to_read) = channel();
    let (tell, told) = channel();
    let to_read = std::sync::Mutex::new(to_read);
    let listener = Listener::start(config(home.node(), Admit::NODES), move |accepted: Accepted| {
        let bytes: usize = to_read.lock().unwrap().recv_timeout(WAIT).unwrap();
        // Each record is 22 bytes longer than what it holds.
        until(|| rustix::io::ioctl_fionread(&*accepted.stream).unwrap() >= bytes as u64 + 10 * 22);
        tell.send((&*accepted.stream).read(&mut vec![0; 2 * bytes]).unwrap()).unwrap();
    });
    let listener = listener.unwrap();
    let (stream, _) = connect(&at(&listener), &home.node(), Instant::now() + WAIT).unwrap();
    stream.write_first(encode(1, 1, b"hello").unwrap()).unwrap();
    until(|| listener.tally().served > 0);
    let record = encode(9, 2, &[7; 900]).unwrap();
    for _ in 0..10 {
        stream.write_first(record.clone()).unwrap();
    }
    sent.send(10 * record.len()).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), 10 * record.len());
}

/// Frames from many threads arrive whole, and in order for each thread: ciphertext leaves in the order it was made.
#[test]
fn many_threads_may_send_at_once() {
    let home = Home::new();
    let config = ListenerConfig { waiting_bytes_max: 256 << 20, ..config(home.node(), Admit::NODES) };
    let listener = Listener::start(config, echo).unwrap();
    let told = dial(at(&listener), home.node(), |config| config.waiting_bytes_max = 256 << 20);
    told.up();
    // A large one now and then keeps the writer busy while others send.
    let length = |id: u64| if id.is_multiple_of(50) { 1 << 20 } else { id as usize * 13 % 5000 };
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let dialer = told.dialer.clone();
            scope.spawn(move || {
                for id in 0..500 {
                    assert!(dialer.send(encode(thread, id, &vec![thread; length(id)]).unwrap()));
                }
            });
        }
        let mut next = [0; 4];
        for _ in 0..2000 {
            let frame = told.frames.recv_timeout(WAIT).unwrap();
            assert_eq!(frame.id, next[usize::from(frame.kind)]);
            assert!(frame.payload == vec![frame.kind; length(frame.id)]);
            next[usize::from(frame.kind)] += 1;
        }
    });
}

#[test]
fn a_secured_connection_comes_back_when_the_other_side_does() {
    let home = Home::new();
    let mut listener = home.listener(Admit::NODES);
    let address = at(&listener);
    let told = dial(address.clone(), home.node(), |_| ());
    for round in 0..3 {
        told.up();
        assert!(told.dialer.send(encode(9, round, &[]).unwrap()));
        assert_eq!(told.frames.recv_timeout(WAIT).unwrap().id, round);
        listener.end();
        assert_eq!(told.down(), Error::Closed);
        let config = ListenerConfig { address: address.clone(), ..config(home.node(), Admit::NODES) };
        listener = Listener::start(config, echo).unwrap();
    }
}

/// P55: whoever reads too slowly is cut off at the bound, and whoever serves it does not wait.
#[test]
fn a_slow_reader_is_cut_off_at_the_bound() {
    let home = Home::new();
    let (tell, told) = channel();
    let config = ListenerConfig { waiting_bytes_max: 4 << 20, ..config(home.node(), Admit::NODES) };
    let listener = Listener::start(config, move |accepted| {
        let frame = encode(9, 1, &vec![0; 1 << 20]).unwrap();
        let sent = (0..1000).take_while(|_| {
            accepted.outgoing.send(frame.clone());
            accepted.outgoing.failure().is_none()
        });
        tell.send((sent.count(), accepted.outgoing.failure())).unwrap();
    });
    let listener = listener.unwrap();
    let (deaf, _) = connect(&at(&listener), &home.node(), Instant::now() + WAIT).unwrap();
    deaf.write_first(encode(1, 1, &[]).unwrap()).unwrap();
    let (sent, failure) = told.recv_timeout(WAIT).unwrap();
    assert!((4..100).contains(&sent), "{sent} MiB were taken");
    assert!(matches!(failure, Some(Error::Overloaded(why)) if why.contains("reads too slowly")));
    until(|| listener.tally().served == 0);
}

/// Threat 10: half-open handshakes leave room for others.
#[test]
fn a_flood_of_handshakes_leaves_room_for_an_honest_one() {
    let home = Home::new();
    let config = ListenerConfig {
        chance: Duration::from_millis(100),
        handshake: Duration::from_secs(600),
        ..config(home.node(), Admit::NODES)
    };
    let listener = Listener::start(config, echo).unwrap();
    let flood: Vec<_> = (0..300)
        .map(|_| {
            let mut half_open = TcpStream::connect(listener.address()).unwrap();
            let _ = half_open.write_all(&[22, 3, 1, 0x40, 0]);
            half_open
        })
        .collect();
    let told = dial(at(&listener), home.node(), |_| ());
    told.up();
    drop(flood);
    until(|| (listener.tally().strangers, listener.tally().served) == (0, 1));
}

/// Threat 10: connections that end at once, as fast as they can be made.
#[test]
fn ten_thousand_connections_do_not_keep_an_honest_one_out() {
    let home = Home::new();
    let listener = home.listener(Admit::NODES);
    let address = listener.address();
    let flood = std::thread::spawn(move || (0..10_000).filter(|_| TcpStream::connect(address).is_ok()).count());
    for _ in 0..10 {
        dial(at(&listener), home.node(), |_| ()).up();
    }
    assert!(flood.join().unwrap() > 0);
    until(|| (listener.tally().strangers, listener.tally().served) == (0, 0));
}
