//! Who is let in over the network, and what each frame needs that somebody sends.
//!
//! Whoever has a certificate is known by it. Whoever shows a token in its first words is known by that, with a certificate
//! or without. Where connections are protected nobody else is let in; where they are not, anybody is.

use super::backend::{Backend, View};
use super::message::Greeting;
use super::wire::Kind;
use crate::base::codec::Reader;
use crate::base::{Error, Result};
use crate::net::Accepted;
use crate::node::access::{Capability, Principal};
use std::sync::mpsc;
use std::time::Duration;

/// A question about the state that tells nothing about jobs: the feature level. Clients ask it to see whether a node lives.
const VIEW_LEVEL: u64 = 10;
/// The order that lists the members.
const ORDER_MEMBERS: u64 = 1;
/// The order that notes what was done to jobs.
const ORDER_NOTE: u64 = 9;
/// How long a node may take to make sure that it knows the newest tokens.
const FRESH_WAIT: Duration = Duration::from_secs(3);

/// Who is at the other end of a connection that said these first words.
///
/// # Errors
/// `Unauthenticated`: nobody that the cluster knows. `Busy`: this node cannot find out now.
pub fn identify(backend: &dyn Backend, accepted: &Accepted, theirs: &Greeting) -> Result<Principal> {
    match (&theirs.token, &accepted.identity) {
        (Some(token), _) => {
            let digest = token.digest();
            if let Some(principal) = backend.principal(&digest) {
                return Ok(principal);
            }
            // It may be newer than what this node has seen.
            wait_until_fresh(backend)?;
            backend.principal(&digest).ok_or_else(|| {
                Error::Unauthenticated(
                    "this token is not one of the cluster's: it was revoked, has expired, or is another cluster's; get a \
                     new one with `raftwork cluster token create`"
                        .into(),
                )
            })
        }
        (None, Some(identity)) => Ok(Principal::certified(&identity.role)),
        (None, None) if accepted.protected => Err(Error::Unauthenticated(
            "this side has neither a certificate nor a token; set token or token_file, or tls_certificate and tls_key"
                .into(),
        )),
        (None, None) => Ok(Principal::trusted("anybody")),
    }
}

fn wait_until_fresh(backend: &dyn Backend) -> Result<()> {
    let (send, receive) = mpsc::channel();
    // A receiver that is gone has waited long enough.
    backend.fresh(Box::new(move |done| drop(send.send(done))));
    let done = receive.recv_timeout(FRESH_WAIT).unwrap_or(Err(Error::Closed));
    done.map(drop).map_err(|_| Error::Busy {
        path: "this node".into(),
        holder: "nobody with a majority, so it cannot tell whether a token is good".into(),
    })
}

/// What a frame needs besides a connection. Nothing: no more, or the payload decides and whoever carries it out asks.
/// Every kind is named, so that a new one cannot be forgotten.
pub fn needed(kind: Kind, payload: &[u8]) -> Option<Capability> {
    match kind {
        // Its request is judged by itself.
        Kind::Submit => None,
        // What these name is judged: a session must be the sender's own, queues must be open to it.
        Kind::Watch | Kind::Unwatch | Kind::Heartbeat | Kind::Arm | Kind::Disarm | Kind::Lines => None,
        Kind::View if View::decode(payload).and_then(|view| number(&view.question)) == Ok(VIEW_LEVEL) => None,
        Kind::View | Kind::Health | Kind::Metrics | Kind::Wait => Some(Capability::Read),
        Kind::ForgetWait | Kind::Fresh => None,
        Kind::Order if number(payload) == Ok(ORDER_MEMBERS) => Some(Capability::Read),
        Kind::Order if number(payload) == Ok(ORDER_NOTE) => Some(Capability::Operate),
        Kind::Order => Some(Capability::Admin),
        Kind::Hello | Kind::Enroll | Kind::Reply | Kind::Welcome | Kind::Refused | Kind::Event | Kind::Enrolled => None,
    }
}

/// Whether a frame asks for work and gets an answer, so that it counts against a quota. Signs of life do not: a client that
/// asks for too much must not lose its jobs for it.
pub fn is_answered(kind: Kind) -> bool {
    matches!(kind, Kind::Submit | Kind::View | Kind::Wait | Kind::Health | Kind::Metrics | Kind::Fresh | Kind::Order)
}

/// Whether a frame is heard and gets no answer. Who says too many of these is heard later: there is no word to refuse them
/// with, and a worker whose wish to be woken was dropped would sleep for ever.
pub fn is_heard(kind: Kind) -> bool {
    matches!(kind, Kind::Watch | Kind::Unwatch | Kind::Arm | Kind::Disarm | Kind::Lines | Kind::ForgetWait)
}

/// The number with which a question or an order begins.
fn number(payload: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(payload);
    reader.array()?;
    reader.u64()
}
