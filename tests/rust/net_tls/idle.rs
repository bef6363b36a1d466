//! Connections of somebody known over which nothing comes: they are let go, with and without TLS.

use super::*;
use expiry::listen;
use raftwork::net::Change;

fn quick(security: Security, idle: Duration) -> ListenerConfig {
    ListenerConfig { idle, ..config(security, Admit::NODES) }
}

#[test]
fn whoever_is_known_and_says_nothing_more_is_let_go_in_time() {
    let home = Home::new();
    let idle = Duration::from_millis(300);
    for security in [Security::Plain, home.node()] {
        let (listener, told) = listen(quick(security.clone(), idle));
        let began = Instant::now();
        let dialer = dial(at(&listener), security, |_| ());
        dialer.up();
        let why = told.recv_timeout(WAIT).unwrap();
        assert!(matches!(&why, Error::TimedOut(words) if words.contains("silent for too long")), "{why}");
        assert!(began.elapsed() >= idle, "{:?}", began.elapsed());
        dialer.down();
        assert_eq!(dialer.changes.recv_timeout(WAIT).unwrap(), Change::Up, "a new connection is welcome");
    }
}

#[test]
fn whoever_says_a_word_now_and_then_stays() {
    let home = Home::new();
    let idle = Duration::from_millis(500);
    for security in [Security::Plain, home.node()] {
        // A busy machine may keep a word back for so long that the other side cannot wait for it.
        let mut rounds = 0..100;
        loop {
            rounds.next().expect("some round in which the machine has time");
            let (listener, told) = listen(quick(security.clone(), idle));
            let dialer = dial(at(&listener), security.clone(), |_| ());
            dialer.up();
            let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
            while began.elapsed() < 2 * idle {
                std::thread::park_timeout(idle / 10);
                dialer.dialer.send(encode(9, 1, &[]).unwrap());
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            if longest < idle / 2 {
                assert!(told.try_recv().is_err() && dialer.dialer.is_up(), "it was cut off");
                told.recv_timeout(WAIT).expect("it is let go");
                assert!(last.elapsed() >= idle / 2, "the last word counts: {:?}", last.elapsed());
                break;
            }
        }
    }
}

#[test]
fn a_connection_that_may_be_silent_stays() {
    let home = Home::new();
    for security in [Security::Plain, home.node()] {
        let listener = Listener::start(quick(security.clone(), Duration::from_millis(100)), |accepted: Accepted| {
            if accepted.hello.payload == b"quiet" {
                accepted.stream.set_idle(None).unwrap();
            }
            echo(accepted);
        });
        let listener = listener.unwrap();
        let quiet = dial(at(&listener), security.clone(), |config| {
            config.hello = Box::new(|| encode(1, 7, b"quiet").unwrap());
        });
        quiet.up();
        let other = dial(at(&listener), security, |_| ());
        for _ in 0..3 {
            other.up();
            other.down();
        }
        assert!(quiet.dialer.is_up() && quiet.changes.try_recv().is_err());
    }
}
