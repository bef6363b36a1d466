//! The worker's side over a client: what it is handed and gives back, and notes and results on their way.

use bytes::Bytes;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{limits, Error, JobId};
use raftwork::client::buffer::Item;
use raftwork::client::fetcher::{Event, Fetcher, Wish};
use raftwork::client::request::op;
use raftwork::client::{Client, Options};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

use super::buffer::{done, note, parts};
use super::spy::{Act, Spy};
use super::{config, enqueue, patience};
use crate::requests::job;
use crate::wire::{Command, End};

/// A client that owns a directory.
fn owner() -> (TempDir, Arc<Client>) {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(config(dir.path()), Options::default(), &mut patience()).unwrap();
    (dir, client)
}

fn wish() -> Wish {
    Wish { queues: vec![("default".into(), 1)], strict: false, functions: vec!["f".into()], prefetch: 1 }
}

fn fetcher(client: &Client) -> Arc<Fetcher> {
    client.fetcher(wish(), Vec::new(), &mut patience()).unwrap()
}

/// What waits and what is leased, by the node's own counts.
fn counts(client: &Client) -> (u64, u64) {
    let mut question = Writer::new();
    question.array(1).u64(1);
    let answer = client.view(question.as_bytes()).unwrap();
    let mut reader = Reader::new(&answer);
    reader.array_of(3, "a view").unwrap();
    reader.u64().unwrap();
    reader.raw().unwrap();
    let map = reader.rest();
    (crate::requests::field_number(map, "enqueued"), crate::requests::field_number(map, "processing"))
}

#[test]
fn a_fetcher_keeps_the_order_and_a_stop_gives_back_what_was_claimed_ahead() {
    let (_dir, client) = owner();
    let ids: Vec<JobId> = (1..=400).map(job).collect();
    client.submit(&enqueue(&ids), &mut patience()).unwrap();
    let first = fetcher(&client);
    let mut ran = Vec::new();
    let mut next = first.next(&mut patience()).unwrap().unwrap();
    for _ in 0..150 {
        ran.push(parts(&next).0);
        let more = first.finish_and_try_next(done(&next)).unwrap();
        next = more.unwrap_or_else(|| first.next(&mut patience()).unwrap().unwrap());
    }
    assert_eq!(ran, ids[..150], "J8");
    // One job still runs: it stays leased, all others are free for the next worker.
    first.pause();
    assert!(first.flush(&mut patience()).unwrap());
    assert_eq!(counts(&client), (249, 1));
    assert_eq!(first.try_next().unwrap(), None);
    first.finish(done(&next), &mut patience()).unwrap();
    ran.push(parts(&next).0);
    first.resume();
    ran.extend((0..20).map(|_| {
        let one = first.next(&mut patience()).unwrap().unwrap();
        first.finish(done(&one), &mut patience()).unwrap();
        parts(&one).0
    }));
    first.close(&mut patience()).unwrap();
    assert_eq!(counts(&client), (229, 0), "what was reported is stored, the rest is given back");
    let second = fetcher(&client);
    while ran.len() < ids.len() {
        let one = second.next(&mut patience()).unwrap().unwrap();
        ran.push(parts(&one).0);
        second.finish(done(&one), &mut patience()).unwrap();
    }
    second.close(&mut patience()).unwrap();
    ran.sort_unstable();
    assert_eq!(ran, ids, "each ran once");
    assert_eq!(counts(&client), (0, 0));
    client.close(&mut patience()).unwrap();
}

/// A fetcher over a spy, and one job that it runs.
fn spied() -> (Arc<Spy>, Arc<Fetcher>, Bytes) {
    let spy = Spy::new();
    spy.session("client", true).submit(&enqueue(&[job(1)]), &mut patience()).unwrap();
    let fetcher = Fetcher::open(spy.clone(), spy.session("worker", false), wish(), &mut patience()).unwrap();
    let one = fetcher.next(&mut patience()).unwrap().unwrap();
    (spy, fetcher, one)
}

#[test]
fn a_note_that_did_not_get_through_is_sent_again_before_flush_returns() {
    for error in [Error::NotCommitted("no".into()), Error::Overloaded("no".into()), Error::DiskFull("no".into())] {
        let (spy, fetcher, one) = spied();
        spy.next(op::PROGRESS, Act::Refuse(error));
        fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
        assert!(fetcher.flush(&mut patience()).unwrap());
        let sent = spy.sent(op::PROGRESS);
        assert_eq!(sent.len(), 2);
        assert_eq!(spy.applied(&sent[1].command), 1, "what is flushed is stored");
        fetcher.close(&mut patience()).unwrap();
    }
}

/// U3: members of an older version refuse reasons. That must not cost the session, and all that it runs.
#[test]
fn u3_a_snooze_whose_reason_is_refused_is_sent_without_it() {
    let (spy, fetcher, one) = spied();
    let snooze = |reason: Option<&str>| {
        let (id, token) = parts(&one);
        let mut out = Writer::new();
        out.array(4 + usize::from(reason.is_some())).id(id).u64(token).u64(3).u64(60_000);
        reason.map(|reason| out.str(reason));
        Item::parse(out.into_bytes().into()).unwrap()
    };
    spy.next(op::FINISH, Act::Refuse(Error::Invalid("feature_level: this needs feature level 4".into())));
    fetcher.finish(snooze(Some("waits for the bank")), &mut patience()).unwrap();
    assert!(fetcher.flush(&mut patience()).unwrap());
    let sent = spy.sent(op::FINISH);
    assert_eq!((sent.len(), spy.applied(&sent[1].command)), (2, 1));
    assert!(sent[1].command.ends_with(&snooze(None).bytes));
    // What is refused for another cause ends it as before.
    spy.next(op::FINISH, Act::Refuse(Error::Invalid("something else".into())));
    fetcher.finish(done(&one), &mut patience()).unwrap();
    assert!(fetcher.flush(&mut patience()).is_err());
}

#[test]
fn a_flush_after_the_end_of_the_session_does_not_say_yes() {
    let (spy, fetcher, one) = spied();
    spy.next(op::PROGRESS, Act::Refuse(Error::SessionExpired));
    fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
    assert_eq!(fetcher.flush(&mut patience()), Err(Error::SessionExpired));
    assert_eq!(fetcher.events(&mut patience()).unwrap(), [Event::SessionLost]);
    fetcher.close(&mut patience()).unwrap();
}

/// Also of an end that is no loss of the session, and of one that came before. Nobody is to ask in a circle.
#[test]
fn whoever_waits_for_events_is_told_of_the_end() {
    let (spy, fetcher, one) = spied();
    let waits = fetcher.clone();
    let waiting = std::thread::spawn(move || waits.events(&mut patience()));
    let denied = Error::Denied { principal: "ann".into(), capability: "work:mail".into() };
    spy.next(op::FINISH, Act::Refuse(denied.clone()));
    fetcher.finish(done(&one), &mut patience()).unwrap();
    assert_eq!(waiting.join().unwrap(), Err(denied.clone()));
    assert_eq!(fetcher.events(&mut patience()), Err(denied));
    fetcher.close(&mut patience()).unwrap();
}

/// A command has a bound, in items and in bytes. One that is too large is refused, which would end the session.
#[test]
fn many_and_large_notes_are_sent_in_several_commands() {
    for (count, bytes) in [(limits::BATCH_JOBS_MAX * 2 + 1, 1), (200, limits::STATE_BYTES_MAX)] {
        let (spy, fetcher, one) = spied();
        spy.next(op::PROGRESS, Act::Keep);
        fetcher.progress(note(&one, b"\x07"), &mut patience()).unwrap();
        spy.until_held(1);
        for _ in 0..count {
            fetcher.progress(note(&one, &vec![0; bytes]), &mut patience()).unwrap();
        }
        fetcher.finish(done(&one), &mut patience()).unwrap();
        spy.release(0);
        assert_eq!(fetcher.flush(&mut patience()), Ok(true), "{count} notes of {bytes} bytes");
        assert_eq!(fetcher.events(&mut patience_now()).unwrap(), [], "no lease was lost");
        let sent = spy.sent(op::PROGRESS);
        assert!(sent.len() > 2);
        assert_eq!(spy.sent(op::FINISH).len(), 1);
        fetcher.close(&mut patience()).unwrap();
    }
}

fn patience_now() -> raftwork::client::patience::Patience<'static> {
    raftwork::client::patience::Patience::after(Some(Duration::ZERO))
}

/// The answer to a claim is lost, so nobody knows what this session holds. A lease that nobody knows would live for ever.
#[test]
fn jobs_of_a_claim_whose_answer_is_unknown_do_not_stay_leased() {
    let spy = Spy::new();
    let client = spy.session("client", true);
    client.submit(&enqueue(&[job(1)]), &mut patience()).unwrap();
    spy.next(op::CLAIM, Act::Lose(Error::Unknown("the node lost track".into())));
    let session = spy.session("worker", false);
    let id = session.id(&mut patience()).unwrap();
    let first = Fetcher::open(spy.clone(), session, wish(), &mut patience()).unwrap();
    assert_eq!(first.next(&mut patience()), Err(Error::SessionExpired));
    assert_eq!(first.events(&mut patience()).unwrap(), [Event::SessionLost]);
    first.close(&mut patience()).unwrap();
    let again = Fetcher::open(spy.clone(), spy.session("worker", false), wish(), &mut patience()).unwrap();
    let one = again.next(&mut patience()).unwrap().expect("the job is free for another session");
    let report = Command::Finish(vec![(parts(&one).0, parts(&one).1, End::Succeeded(None))]);
    client.submit(&report.encode(), &mut patience()).unwrap();
    assert_ne!(again.session(), id);
}
