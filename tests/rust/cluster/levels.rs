//! A member that runs the next version before the others do.

use raftwork::machine;

use super::*;
use crate::wire::{self, Command, Own};

#[test]
fn u3_what_is_above_the_level_is_refused_for_good_by_a_member_that_follows() {
    let cluster = Cluster::new(3);
    let follower = cluster.node(cluster.follower());
    let request = wire::request(0, 0, 0, &Command::Own(Own::Future));
    // This thread alone runs the next version, so it is the one that hands over.
    machine::be_newer(true);
    let refused = follower.submit(request.clone(), Some(Instant::now() + PATIENCE));
    let (send, receive) = channel();
    follower.start(request, Box::new(move |answer| drop(send.send(answer))));
    let started = receive.recv_timeout(PATIENCE).unwrap();
    machine::be_newer(false);
    assert!(matches!(&refused, Err(Error::Invalid(why)) if why.contains("finalize")), "{refused:?}");
    assert!(matches!(&started, Err(Error::Invalid(_))), "{started:?}");
}
