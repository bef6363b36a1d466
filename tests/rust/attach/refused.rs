//! Clients that are refused for the token that they show, and clients that were told which cluster is theirs.

use super::bounds::{owner, Owner};
use super::WAIT;
use raftwork::base::{ClusterId, Error};
use raftwork::client::contacts::Contacts;
use raftwork::client::patience::Patience;
use raftwork::client::request::Failure;
use raftwork::client::{Client, Options};
use raftwork::net::{Address, Secret, Security};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::support::until;
use crate::ports::free_addresses;
use crate::requests::{enqueue, job};

fn patience() -> Patience<'static> {
    Patience::after(Some(WAIT))
}

/// An address where nobody listens.
fn nobody() -> Address {
    free_addresses(1).remove(0)
}

fn contacts(owner: &Owner) -> Contacts {
    let contacts = Contacts::new(vec![nobody(), owner.listen(), nobody()], Security::Plain).unwrap();
    contacts.with_token(Some(Secret::create().unwrap()))
}

fn connect(contacts: Contacts) -> Result<Arc<Client>, Error> {
    Client::connect(contacts, Options::default(), &mut patience())
}

fn put(client: &Client, number: u64) -> Result<Vec<u8>, Failure> {
    client.submit(&enqueue(job(number), 9)[4..], &mut patience())
}

fn is_refused(answer: &Result<Vec<u8>, Failure>) -> bool {
    matches!(answer, Err(Failure::Error(Error::Unauthenticated(_))))
}

#[test]
fn a_token_that_is_refused_is_told_at_once_and_shown_seldom() {
    let owner = owner();
    let client = connect(contacts(&owner)).unwrap();
    put(&client, 1).unwrap();
    owner.held.revoked.store(true, Ordering::SeqCst);
    owner.server.send_away()();
    // Those at the other addresses do not answer: that does not make it a question of time.
    until(|| is_refused(&put(&client, 2)));
    let (shown, began) = (owner.held.shown.load(Ordering::SeqCst), Instant::now());
    let calls = 200;
    for number in 0..calls {
        let answer = put(&client, 10 + number);
        assert!(is_refused(&answer), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "call {number} of {calls} waited for a try");
    }
    let took = began.elapsed();
    let again = owner.held.shown.load(Ordering::SeqCst) - shown;
    // Each try looks the token up twice, before and after it made sure that it knows the newest.
    assert!(again <= 2 * (2 + took.as_secs() as usize), "shown {again} times in {took:?}");
    owner.held.revoked.store(false, Ordering::SeqCst);
    until(|| put(&client, 3).is_ok());
    client.close(&mut patience()).unwrap();
}

#[test]
fn a_client_that_is_refused_from_the_beginning_does_not_wait_for_others() {
    let owner = owner();
    owner.held.revoked.store(true, Ordering::SeqCst);
    let refused = connect(contacts(&owner)).map(drop);
    assert!(matches!(refused, Err(Error::Unauthenticated(_))), "{refused:?}");
}

#[test]
fn a_client_that_knows_its_cluster_works_with_no_other() {
    let owner = owner();
    let address = owner.listen();
    let of = |id| {
        let contacts = Contacts::new(vec![address.clone()], Security::Plain).unwrap();
        contacts.with_token(Some(Secret::create().unwrap())).of_cluster(Some(ClusterId([id; 16])))
    };
    let refused = connect(of(2)).map(drop);
    assert!(matches!(&refused, Err(Error::Foreign(why)) if why.contains("cluster_id")), "{refused:?}");
    let client = connect(of(1)).unwrap();
    put(&client, 1).unwrap();
    client.close(&mut patience()).unwrap();
}
