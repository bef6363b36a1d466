//! What one principal may have of what all share.

use std::sync::mpsc::channel;

use raftwork::base::limits::SESSIONS_OF_ONE_MAX;
use raftwork::base::Error;
use raftwork::net::Role;
use raftwork::node::access::Principal;

use super::support::{Home, PATIENCE};
use crate::requests::*;

#[test]
fn a4_nobody_opens_all_sessions() {
    let home = Home::new();
    let node = home.open();
    let [flood, other] = ["flood", "other"].map(|name| Principal::certified(&Role::client(name).unwrap()));
    let opening = |principal| node.authorize(principal, open_session(60_000));
    let (send, opened) = channel();
    for _ in 0..SESSIONS_OF_ONE_MAX {
        let send = send.clone();
        node.start(opening(&flood).unwrap(), Box::new(move |answer| drop(send.send(answer))));
    }
    for _ in 0..SESSIONS_OF_ONE_MAX {
        number(&opened.recv_timeout(PATIENCE).unwrap().unwrap());
    }
    let refused = opening(&flood);
    assert!(matches!(&refused, Err(Error::Overloaded(why)) if why.contains("client/flood has 2500")), "{refused:?}");
    number(&node.submit(opening(&other).unwrap(), None).unwrap());
}
