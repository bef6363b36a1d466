//! Certificates that expire while connections are open.

use super::*;
use raftwork::net::Change;

/// A certificate that expires in a few seconds.
fn short(home: &Home, name: &str) -> Arc<Tls> {
    let lifetime = Lifetime { from: SystemTime::now() - DAY + Duration::from_secs(4), days: 1 };
    home.tls(name, &Role::Node, lifetime)
}

/// Reads until the end, and tells why that came.
pub fn listen(config: ListenerConfig) -> (Listener, std::sync::mpsc::Receiver<Error>) {
    let (tell, told) = channel();
    let serve = move |accepted: Accepted| {
        let Accepted { stream, outgoing, mut frames, hello, .. } = accepted;
        outgoing.send(encode(2, hello.id, &hello.payload).unwrap());
        let why = loop {
            match frames.fill(&mut &*stream) {
                Ok(true) => while frames.take().unwrap().is_some() {},
                Ok(false) => break Error::Closed,
                Err(error) => break error,
            }
        };
        drop(tell.send(why)); // The test may be over.
    };
    (Listener::start(config, serve).unwrap(), told)
}

fn says(error: &Error, whose: &str) {
    let expected = format!("the {whose} certificate has expired");
    assert!(matches!(error, Error::Foreign(why) if why.contains(&expected)), "{error}");
}

#[test]
fn a_silent_connection_ends_with_a_certificate_of_either_side_and_both_say_why() {
    let home = Home::new();
    let (short, long) = (Security::Tls(short(&home, "short")), home.node());
    let sides = [(long.clone(), short.clone(), "own", "other side's"), (short, long, "other side's", "own")];
    let running = sides.map(|(accepts, connects, near, far)| {
        let (listener, told) = listen(config(accepts, Admit::NODES));
        let dialer = dial(at(&listener), connects, |_| ());
        dialer.up();
        (listener, told, dialer, near, far)
    });
    for (_listener, told, dialer, near, far) in &running {
        says(&dialer.down(), near);
        says(&told.recv_timeout(WAIT).unwrap(), far);
        says(&dialer.down(), near);
    }
}

#[test]
fn a_busy_connection_ends_too() {
    let home = Home::new();
    let (listener, told) = listen(config(home.node(), Admit::NODES));
    let (stream, _) = connect(&at(&listener), &Security::Tls(short(&home, "short")), Instant::now() + WAIT).unwrap();
    let words = encode(1, 7, b"words").unwrap();
    while stream.write_first(words.clone()).is_ok() {}
    says(&told.recv_timeout(WAIT).unwrap(), "other side's");
}

#[test]
fn whoever_was_renewed_meanwhile_is_connected_again() {
    let home = Home::new();
    let (listener, told) = listen(config(home.node(), Admit::NODES));
    let renewed = short(&home, "renewed");
    let dialer = dial(at(&listener), Security::Tls(renewed.clone()), |_| ());
    dialer.up();
    let issued = home.authority.issue_node(&[]).unwrap();
    renewed.replace(&issued.key, &issued.certificate).unwrap();
    says(&dialer.down(), "own");
    assert_eq!(dialer.changes.recv_timeout(WAIT).unwrap(), Change::Up, "the next try is let in");
    says(&told.recv_timeout(WAIT).unwrap(), "other side's");
}
