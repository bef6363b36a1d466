//! A member that runs the next version before the others do.

use std::io::Write;
use std::net::TcpStream;

use raftwork::machine;
use raftwork::net::{packet, Frames};

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

/// What a member says first at the port for members to another, of a release that speaks these versions.
pub fn hello(from: u64, node: &Node, oldest: u8, newest: u8) -> Vec<u8> {
    let (cluster, group) = node.cluster();
    let mut words = [&b"RAFTMEMB"[..], &[oldest, 0, newest, 0, 5], b"9.9.9", &cluster.0].concat();
    [group.0, from, node.id().0].iter().for_each(|number| words.extend_from_slice(&number.to_le_bytes()));
    words.push(1);
    words.extend_from_slice(&machine::LEVEL.to_le_bytes());
    words.extend_from_slice(&[11, 0]);
    words.extend_from_slice(b"127.0.0.1:1 and what a later version adds");
    packet::encode(1, 0, &words).unwrap()
}

#[test]
fn u1_a_member_that_also_speaks_the_next_version_is_welcome_and_one_that_speaks_no_other_is_told() {
    let cluster = Cluster::new(1);
    let answer = |oldest, newest| {
        let mut stream = TcpStream::connect(cluster.addresses[0].resolve().unwrap()[0]).unwrap();
        stream.write_all(&hello(4_711, cluster.node(0), oldest, newest)).unwrap();
        let mut frames = Frames::new();
        loop {
            match frames.take().unwrap() {
                Some(frame) => return frame,
                None => assert!(frames.fill(&mut stream).unwrap(), "it ended"),
            }
        }
    };
    let welcome = answer(1, 2);
    assert_eq!((welcome.kind, &welcome.payload[8..12]), (65, &[1, 0, 1, 0][..]));
    let refused = answer(2, 2);
    let why = String::from_utf8(refused.payload).unwrap();
    assert_eq!(refused.kind, 66, "{why}");
    assert!(why.contains("raftwork 9.9.9 and speaks version 2") && why.contains("speaks version 1"), "{why}");
}
