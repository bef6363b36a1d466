//! A client of another machine that is let in and then says nothing.

use super::*;
use crate::ports::free_addresses;
use raftwork::net::{Admit, ListenerConfig, Security};
use std::time::Instant;

#[test]
fn a_client_that_says_nothing_more_gives_its_place_back_and_may_come_again() {
    let owner = owner();
    let address = free_addresses(1).remove(0);
    let idle = Duration::from_secs(3); // Enough for what is said first, on a busy machine too.
    let config = ListenerConfig::new("test", address.clone(), Security::Plain, Admit::ANYBODY);
    owner.server.listen(ListenerConfig { idle, ..config }, 1_000).unwrap();
    let served = owner.server.tally();
    for _ in 0..2 {
        let (send, ended) = channel();
        let began = Instant::now();
        let gone = move || send.send(()).unwrap_or_default();
        let remote = Remote::connect_far(&address, &Security::Plain, greeting(), WAIT, gone).unwrap();
        let session = open_session(&remote);
        ended.recv_timeout(WAIT).expect("it is let go");
        assert!(began.elapsed() >= idle);
        crate::node::support::until(|| served().served == 0);
        let (near, _) = attach(owner.dir.path());
        assert_eq!(beat(&near, session), Ok(()), "its session is another matter");
    }
}
