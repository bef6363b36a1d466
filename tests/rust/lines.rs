//! Log lines of running jobs: asked of their workers through any member, and stored nowhere.

use std::sync::mpsc::{channel, Receiver};

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{limits, Error, LeaseToken, Result, SessionId};
use raftwork::machine::Machine;
use raftwork::node::lines::{Ask, Standing};
use raftwork::node::{Node, View, WatchEvent};

use crate::cluster::{settle, Cluster};
use crate::node::support::{Events, Home, PATIENCE};
use crate::requests::*;

fn question(ask: Ask) -> Vec<u8> {
    let mut out = Writer::new();
    ask.write(out.array(5).u64(61));
    out.into_bytes()
}

fn ask(session: SessionId, from: u64) -> Ask {
    Ask { session, job: job(1), token: LeaseToken(7), from }
}

/// Asks; the answer comes when it comes.
fn begin(node: &Node, ask: Ask) -> Receiver<Result<Vec<u8>>> {
    let (send, receive) = channel();
    let view = View::of_any(&question(ask));
    node.view(view, Box::new(move |answer| drop(send.send(answer))));
    receive
}

/// Standing, number of the first line, lines, and why.
type Lines = (u64, u64, Vec<String>, String);

fn read(answer: &[u8]) -> Lines {
    let mut reader = Reader::new(answer);
    reader.array_of(4, "an answer").unwrap();
    let (standing, first) = (reader.u64().unwrap(), reader.u64().unwrap());
    let lines = (0..reader.array().unwrap()).map(|_| reader.str().unwrap().to_owned()).collect();
    (standing, first, lines, reader.str().unwrap().to_owned())
}

fn end(answer: &Receiver<Result<Vec<u8>>>) -> Lines {
    let answer = answer.recv_timeout(PATIENCE).unwrap().unwrap();
    let mut reader = Reader::new(&answer);
    reader.array_of(3, "an answer about the state").unwrap();
    assert_eq!((reader.u64(), reader.nil()), (Ok(0), true), "it is of no entry of the log");
    read(reader.rest())
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("line {number}")).collect()
}

fn open(node: &Node) -> SessionId {
    SessionId(number(&settle(node, open_session(60_000))))
}

#[test]
fn every_member_finds_the_worker_wherever_it_is_connected() {
    let cluster = Cluster::new(3);
    let session = open(cluster.node(0));
    let worker = Events::of(cluster.node(2), session);
    for number in 0..3 {
        let ask = ask(session, number);
        let answer = begin(cluster.node(number as usize), ask);
        assert_eq!(worker.next(), WatchEvent::Lines(ask));
        cluster.node(2).told_lines(worker.id, ask, &ask.told(0, &texts(4)));
        assert_eq!(end(&answer), (0, number, texts(4).split_off(number as usize), String::new()));
    }
}

#[test]
fn who_cannot_be_asked_is_told_apart() {
    let mut cluster = Cluster::new(3);
    let session = open(cluster.node(0));
    let ask = ask(session, 3);
    assert_eq!(end(&begin(cluster.node(1), ask)), (Standing::NotConnected as u64, 3, vec![], String::new()));

    let worker = Events::of(cluster.node(0), session);
    let (standing, _, _, why) = end(&begin(cluster.node(0), ask));
    assert_eq!(standing, Standing::Silent as u64, "{why}");
    assert!(why.contains("did not answer within 2 s"), "{why}");
    assert_eq!(worker.next(), WatchEvent::Lines(ask));
    // The answer of one that was given up is nobody's.
    cluster.node(0).told_lines(worker.id, ask, &ask.told(0, &texts(9)));

    cluster.close(0);
    let (standing, _, _, why) = end(&begin(cluster.node(1), ask));
    assert_eq!(standing, Standing::Unreachable as u64, "{why}");
    assert!(why.contains("may be connected to member 127.0.0.1:"), "{why}");
}

#[test]
fn many_who_ask_the_same_ask_the_worker_once() {
    let home = Home::new();
    let node = home.open();
    let session = open(&node);
    let worker = Events::of(&node, session);
    let ask = ask(session, 0);
    let answers: Vec<_> = (0..100).map(|_| begin(&node, ask)).collect();
    assert_eq!(worker.next(), WatchEvent::Lines(ask));
    node.told_lines(worker.id, ask, &ask.told(0, &texts(2)));
    for answer in answers {
        assert_eq!(end(&answer).2, texts(2));
    }
    assert!(worker.is_empty(), "it was told once");
}

#[test]
fn a_flood_of_questions_is_refused_and_passes() {
    let home = Home::new();
    let node = home.open();
    let session = open(&node);
    let worker = Events::of(&node, session);
    let asked = limits::LINES_ASKS_MAX as u64;
    let answers: Vec<_> = (0..asked).map(|from| begin(&node, ask(session, from))).collect();
    let refused = begin(&node, ask(session, asked)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(Error::Overloaded(_))), "{refused:?}");
    for answer in answers {
        let WatchEvent::Lines(ask) = worker.next() else { panic!("something else happened") };
        node.told_lines(worker.id, ask, &ask.none(Standing::NotRunning, ""));
        drop(answer);
    }
}

#[test]
fn nobody_speaks_for_the_session_of_another() {
    let home = Home::new();
    let node = home.open();
    let (session, other) = (open(&node), open(&node));
    let (worker, stranger) = (Events::of(&node, session), Events::of(&node, other));
    let ask = ask(session, 0);
    let answer = begin(&node, ask);
    assert_eq!(worker.next(), WatchEvent::Lines(ask));
    node.told_lines(stranger.id, ask, &ask.told(0, &["a lie".to_owned()]));
    node.told_lines(worker.id, ask, &ask.told(0, &texts(1)));
    assert_eq!(end(&answer).2, texts(1));
    assert!(stranger.is_empty());

    let answer = begin(&node, ask);
    assert_eq!(worker.next(), WatchEvent::Lines(ask));
    node.told_lines(worker.id, ask, &[0x91, 1]);
    let (standing, _, lines, why) = end(&answer);
    assert_eq!((standing, lines), (Standing::Silent as u64, vec![]));
    assert!(why.contains("cannot be read"), "{why}");
}

#[test]
fn an_answer_has_the_newest_lines_that_fit() {
    let ask = ask(SessionId(1), 0);
    let long: Vec<String> = (0..500).map(|number| format!("{number:<1000}")).collect();
    let answer = ask.told(10, &long);
    assert!(answer.len() <= limits::LINES_BYTES_MAX + 64, "{} bytes", answer.len());
    let (_, first, lines, _) = read(&answer);
    assert_eq!(first + lines.len() as u64, 510);
    assert_eq!(lines.last(), long.last());
    // Of what is not there any more, or not yet, nothing is made up.
    assert_eq!(read(&Ask { from: 3, ..ask }.told(10, &texts(2))).1, 10);
    assert_eq!(read(&Ask { from: 99, ..ask }.told(10, &texts(2))), (0, 12, vec![], String::new()));
}

/// Clients know an earlier version by these words.
#[test]
fn a_state_alone_refuses_the_question_in_words_that_clients_know() {
    let refused = Machine::newest().view(&question(ask(SessionId(1), 0)));
    let Err(error @ Error::Invalid(_)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().starts_with("invalid request: question 61 "), "{error}");
    let home = Home::new();
    let node = home.open();
    for question in [&[0x91, 61][..], &[0x95, 61, 1, 1, 1, 1]] {
        let (send, answer) = channel();
        node.view(View::of_any(question), Box::new(move |answer| drop(send.send(answer))));
        assert!(matches!(answer.recv_timeout(PATIENCE).unwrap(), Err(Error::Invalid(_))));
    }
}
