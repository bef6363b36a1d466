//! Signs of life: when the next one is due, also after one that nobody took.

use std::sync::atomic::Ordering;
use std::time::Duration;

use raftwork::base::Millis;
use raftwork::client::heart::Heart;
use raftwork::client::session::{Identity, Session};

use super::patience;
use super::spy::Spy;
use crate::node::support::{until, HandClock};

/// A third of it is longer than a test waits.
const TTL: Millis = Millis(120_000);

#[test]
fn k3_a_sign_of_life_that_nobody_took_is_given_again_soon() {
    let (spy, clock) = (Spy::new(), HandClock::new());
    let identity = Identity { kind: "worker".into(), ttl: TTL, host: "here".into(), pid: 1, labels: Vec::new() };
    let session = Session::new(spy.clone(), clock.clone(), identity, true, Default::default());
    session.id(&mut patience()).unwrap();
    assert_eq!(session.beat_due_in(), Millis(TTL.0 / 3));
    clock.advance(TTL.0 / 3 + 1);
    assert_eq!(session.beat_due_in(), Millis(0));
    spy.deaf_to.store(1, Ordering::Relaxed); // No leader is known for a moment.
    let heart = Heart::start(|| Duration::from_secs(1)).unwrap();
    heart.add(&session);
    until(|| session.beat_due_in() == Millis(TTL.0 / 3));
    assert_eq!(spy.beats.load(Ordering::Relaxed), 2);
    drop(heart);
}
