//! The client's side of locks: answers that come late or never, waits that end, grants that nobody told.

use super::spy::{Act, Spy};
use super::{patience, WAIT};
use raftwork::attach::{Backend, View};
use raftwork::base::codec::Reader;
use raftwork::base::{Error, LeaseToken};
use raftwork::client::keeper::{Keeper, Standing};
use raftwork::client::request::{op, Failure};
use raftwork::machine::Mode;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;

const LOCK: u64 = 30;
const UNLOCK: u64 = 31;
const GIVE_UP: u64 = 32;

type Told = Result<Option<LeaseToken>, Failure>;

fn keeper(spy: &Arc<Spy>) -> Arc<Keeper> {
    Keeper::new(spy.clone(), spy.session("client", false))
}

fn begin(keeper: &Keeper, waits: bool) -> (u64, Receiver<Told>) {
    let (send, told) = channel();
    let number = keeper.begin("a", Mode::Lock, waits, Box::new(move |outcome| drop(send.send(outcome))));
    (number, told)
}

fn begin_as(keeper: &Keeper, mode: Mode) -> (u64, Receiver<Told>) {
    let (send, told) = channel();
    let number = keeper.begin("a", mode, true, Box::new(move |outcome| drop(send.send(outcome))));
    (number, told)
}

fn held(keeper: &Keeper) -> (u64, LeaseToken) {
    let (number, told) = begin(keeper, true);
    (number, told.recv_timeout(WAIT).unwrap().unwrap().expect("a token"))
}

fn release(keeper: &Keeper, number: u64) -> Result<(), Failure> {
    let (send, released) = channel();
    keeper.release(number, Box::new(move |outcome| drop(send.send(outcome))));
    released.recv_timeout(WAIT).unwrap()
}

/// How many locks are held, and how many owners wait for the first.
fn locks(spy: &Spy) -> (usize, u64) {
    let (send, answer) = channel();
    spy.view(View::of_any(&[0x93, 30, 0xc0, 9]), Box::new(move |page| send.send(page).unwrap()));
    let answer = answer.recv_timeout(WAIT).unwrap().unwrap();
    let reader = &mut Reader::new(&answer);
    reader.array_of(3, "a view").unwrap();
    (0..2).for_each(|_| assert!(reader.raw().is_ok()));
    reader.array_of(2, "a page").unwrap();
    let rows = reader.array().unwrap();
    if rows == 0 {
        return (0, 0);
    }
    reader.array_of(8, "a lock").unwrap();
    (0..7).for_each(|_| assert!(reader.raw().is_ok()));
    (rows, reader.u64().unwrap())
}

#[test]
fn k1_who_waits_is_told_in_the_order_of_asking_with_higher_tokens() {
    let spy = Spy::new();
    let (one, other) = (keeper(&spy), keeper(&spy));
    let (first, token) = held(&one);
    let (second, told_second) = begin(&other, true);
    let (third, told_third) = begin(&one, true);
    assert_eq!(locks(&spy), (1, 2));
    assert_eq!(begin(&other, false).1.recv_timeout(WAIT), Ok(Ok(None)), "it did not want to wait");
    release(&one, first).unwrap();
    let second_token = told_second.try_recv().unwrap().unwrap().unwrap();
    assert!(second_token > token && told_third.try_recv().is_err());
    assert_eq!(other.standing(second), Standing::Held(second_token));
    release(&other, second).unwrap();
    assert!(told_third.try_recv().unwrap().unwrap().unwrap() > second_token);
    release(&one, third).unwrap();
    assert_eq!(locks(&spy), (0, 0));
    assert!(matches!(release(&one, third), Err(Failure::Refused { code, .. }) if code == "lock_lost"));
}

#[test]
fn k1_a_semaphore_has_as_many_holders_as_permits_and_another_number_is_refused() {
    let spy = Spy::new();
    let (one, other) = (keeper(&spy), keeper(&spy));
    let ask = |keeper: &Keeper| begin_as(keeper, Mode::Permit(2));
    let ((first, told_first), (_, told_second), (third, told_third)) = (ask(&one), ask(&other), ask(&one));
    let token = |told: &Receiver<Told>| told.try_recv().unwrap().unwrap().expect("a token");
    assert!(token(&told_first) < token(&told_second) && told_third.try_recv().is_err());
    let refused = begin_as(&other, Mode::Permit(3)).1.try_recv().unwrap();
    assert!(matches!(refused, Err(Failure::Refused { code, .. }) if code == "lock_kind"));
    release(&one, first).unwrap();
    let last = token(&told_third);
    assert_eq!(one.standing(third), Standing::Held(last));
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let spy = Spy::new();
    let (one, other) = (keeper(&spy), keeper(&spy));
    let (_, reads) = begin_as(&one, Mode::Read);
    assert!(reads.try_recv().unwrap().unwrap().is_some());
    let (writer, _told) = begin_as(&one, Mode::Write);
    let (_, behind) = begin_as(&other, Mode::Read);
    assert!(behind.try_recv().is_err(), "it waits behind the writer");
    assert_eq!(one.give_up(writer), None);
    assert!(behind.try_recv().unwrap().unwrap().is_some());
}

#[test]
fn who_gives_up_while_the_request_is_under_way_holds_nothing_when_it_arrives() {
    let spy = Spy::new();
    let keeper = keeper(&spy);
    release(&keeper, held(&keeper).0).unwrap(); // The session is open.
    spy.next(LOCK, Act::Delay);
    let (number, told) = begin(&keeper, true);
    assert_eq!(keeper.give_up(number), None);
    assert!(told.try_recv().is_err() && spy.sent(GIVE_UP).is_empty(), "the request is told first");
    assert!(spy.release(0));
    assert_eq!(spy.sent(GIVE_UP).len(), 1);
    assert_eq!((locks(&spy), keeper.standing(number)), ((0, 0), Standing::Without));
}

#[test]
fn the_end_of_a_wait_is_told_until_it_gets_through() {
    let spy = Spy::new();
    let keeper = keeper(&spy);
    let (holder, _) = held(&keeper);
    let (number, _told) = begin(&keeper, true);
    spy.next(GIVE_UP, Act::Refuse(Error::NotCommitted("no leader".into())));
    assert_eq!(keeper.give_up(number), None);
    assert_eq!(locks(&spy), (1, 1), "the machine does not know it yet");
    keeper.look();
    assert_eq!((locks(&spy), spy.sent(GIVE_UP).len()), ((1, 0), 2));
    spy.next(UNLOCK, Act::Refuse(Error::DiskFull("no room".into())));
    let failed = release(&keeper, holder);
    assert_eq!(failed, Err(Failure::Error(Error::DiskFull("no room".into()))), "its caller is told");
    assert_eq!(locks(&spy), (1, 0));
    assert_eq!(keeper.standing(holder), Standing::Without, "it is not held here any more");
    keeper.look();
    assert_eq!(locks(&spy), (0, 0));
}

#[test]
fn what_is_denied_is_not_asked_again_all_the_time() {
    let spy = Spy::new();
    let (one, other) = (keeper(&spy), keeper(&spy));
    let (holder, _) = held(&one);
    let denied = || Error::Denied { principal: "mailer".into(), capability: "lock:a".into() };
    spy.next(LOCK, Act::Keep); // It does not watch yet, so it asks twice.
    spy.next(LOCK, Act::Refuse(denied()));
    let (_, told) = begin(&other, true);
    assert!(spy.release(0), "the answer: wait");
    spy.next(UNLOCK, Act::Refuse(denied()));
    assert_eq!(release(&one, holder), Err(Failure::Error(denied())), "its caller is told");
    let asked = || (spy.sent(LOCK).len(), spy.sent(UNLOCK).len());
    let before = asked();
    for _ in 0..10 {
        one.look();
        other.look();
    }
    assert_eq!(asked(), before);
    assert!(told.try_recv().is_err(), "it waits still");
}

#[test]
fn a_grant_between_the_first_answer_and_the_watch_is_not_missed() {
    let spy = Spy::new();
    let (one, other) = (keeper(&spy), keeper(&spy));
    let (holder, token) = held(&one);
    spy.next(LOCK, Act::Keep); // Its first, so it does not watch yet.
    let (number, told) = begin(&other, true);
    release(&one, holder).unwrap();
    assert!(told.try_recv().is_err(), "it was granted, and nobody watched");
    assert!(spy.release(0), "the answer: wait");
    let granted = told.try_recv().unwrap().unwrap().unwrap();
    assert!(granted > token);
    assert_eq!(other.standing(number), Standing::Held(granted));
}

#[test]
fn a_request_with_an_unknown_outcome_ends_the_session() {
    let spy = Spy::new();
    let keeper = keeper(&spy);
    let (holder, token) = held(&keeper);
    spy.next(LOCK, Act::Lose(Error::Unknown("the node lost track".into())));
    let (_, told) = begin(&keeper, true);
    assert_eq!(told.try_recv().unwrap(), Err(Failure::Error(Error::SessionExpired)));
    assert_eq!(keeper.standing(holder), Standing::Lost(token), "nothing of it is held any more");
    assert!(keeper.has_ended());
    assert_eq!(begin(&keeper, true).1.try_recv().unwrap(), Err(Failure::Error(Error::SessionExpired)));
}

#[test]
fn a_session_that_cannot_be_opened_now_ends_nobody_who_wants_a_lock() {
    let spy = Spy::new();
    let keeper = keeper(&spy);
    spy.next(op::OPEN_SESSION, Act::Refuse(Error::Unknown("the leader died".into())));
    keeper.ready(&mut patience()).unwrap();
    held(&keeper);
    assert!(!keeper.has_ended());
}

#[test]
fn k3_the_end_of_the_session_is_told_to_who_holds_and_who_waits() {
    let spy = Spy::new();
    let (keeper, other) = (keeper(&spy), keeper(&spy));
    let (holder, token) = held(&keeper);
    let (waiter, told) = begin(&keeper, true);
    let (lost, is_lost) = channel();
    keeper.when_lost(holder, 1, move || lost.send(()).unwrap());
    let forgotten = || panic!("nobody wants to know");
    keeper.when_lost(holder, 2, forgotten);
    keeper.forget_lost(holder, 2);
    let (_, heir) = begin(&other, true);
    let session = spy.sent(LOCK)[0].session;
    spy.lapse(session);
    is_lost.try_recv().unwrap();
    assert_eq!(told.try_recv().unwrap(), Err(Failure::Error(Error::SessionExpired)), "it may begin anew");
    assert_eq!((keeper.standing(holder), keeper.standing(waiter)), (Standing::Lost(token), Standing::Without));
    assert_eq!(keeper.wait_lost(holder, &mut patience()), Ok(true));
    assert!(heir.try_recv().unwrap().unwrap().unwrap() > token);
    assert!(matches!(release(&keeper, holder), Err(Failure::Refused { code, .. }) if code == "lock_lost"));
    assert_eq!(locks(&spy), (1, 0), "the heir holds it");
}
