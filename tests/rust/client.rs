//! The client's side of a write: numbers, repeats, expired sessions, an owner that dies. `fetch` is the worker's side.

mod beats;
mod buffer;
mod fetch;
mod locks;
mod spy;

use proptest::prelude::*;
use raftwork::attach::message::Greeting;
use raftwork::attach::server::Server;
use raftwork::attach::Backend;
use raftwork::base::{Error, GroupId, JobId, Result};
use raftwork::client::patience::Patience;
use raftwork::client::request::{accepted, op, Failure};
use raftwork::client::session::Session;
use raftwork::client::{Client, Options, Role};
use raftwork::node::{Node, NodeConfig};
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::requests::{claimed, job};
use crate::wire::{Command, Job, Spec};
use spy::{Act, Spy};

const WAIT: Duration = Duration::from_secs(30);
const PAUSE: u64 = 11;

fn patience() -> Patience<'static> {
    Patience::after(Some(WAIT))
}

/// A command that is no other's, and that does the same each time: how often it was applied is counted by the spy.
fn pause(number: u64) -> Vec<u8> {
    Command::Pause { queue: "q".into(), until: None, reason: format!("reason {number}") }.encode()
}

fn enqueue(ids: &[JobId]) -> Vec<u8> {
    let jobs = ids.iter().map(|id| Job { id: *id, args: vec![0x90], ..Job::default() }).collect();
    Command::Enqueue { specs: vec![Spec::default()], jobs }.encode()
}

fn start(session: &Arc<Session>, command: Vec<u8>) -> Receiver<Result<Vec<u8>>> {
    let (send, answers) = channel();
    session.start(command, Box::new(move |answer| send.send(answer).unwrap()));
    answers
}

/// The one answer that came; none, or a second one, is a mistake.
fn only(answers: &Receiver<Result<Vec<u8>>>) -> Result<Vec<u8>> {
    let answer = answers.try_recv().expect("every command is answered");
    assert!(answers.try_recv().is_err(), "and once");
    answer
}

#[test]
fn after_an_answer_that_did_not_come_in_time_the_number_is_not_used_again() {
    let spy = Spy::new();
    let session = spy.session("client", true);
    session.submit(&pause(1), &mut patience()).unwrap();
    spy.next(PAUSE, Act::Delay);
    let late = session.submit(&pause(2), &mut Patience::after(Some(Duration::ZERO)));
    assert!(matches!(late, Err(Failure::Error(Error::Unknown(_)))), "{late:?}");
    spy.callers_gave_up();
    spy.next(PAUSE, Act::Lose(Error::Unknown("the node lost track".into())));
    let lost = session.submit(&pause(3), &mut patience());
    assert!(matches!(lost, Err(Failure::Error(Error::Unknown(_)))), "{lost:?}");
    session.submit(&pause(4), &mut patience()).unwrap();
    let numbers: Vec<u64> = spy.sent(PAUSE).iter().map(|sent| sent.sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(spy.release(0), "the late one arrives after its successors");
    let applied: Vec<usize> = (1..5).map(|number| spy.applied(&pause(number))).collect();
    assert_eq!(applied, [1, 0, 1, 1], "L5: acknowledged by its successors, so it may not be applied any more");
}

#[test]
fn a_session_that_ends_before_a_request_is_opened_again() {
    let spy = Spy::new();
    let session = spy.session("client", true);
    let first = session.id(&mut patience()).unwrap();
    spy.lapse(first);
    session.submit(&pause(1), &mut patience()).unwrap();
    assert_ne!(session.id_now(), Some(first));
    assert_eq!(spy.applied(&pause(1)), 1);
    assert_eq!(
        spy.sent(PAUSE).iter().map(|sent| sent.sequence).collect::<Vec<_>>(),
        [1, 1],
        "each has its own numbers"
    );
}

#[test]
fn a_workers_session_is_not_opened_again() {
    let spy = Spy::new();
    let session = spy.session("worker", false);
    let id = session.id(&mut patience()).unwrap();
    let waits = spy.fill_the_window(&session);
    spy.lapse(id);
    session.expired(id);
    assert_eq!(only(&waits), Err(Error::SessionExpired), "nobody else would tell it");
    assert_eq!(session.submit(&pause(1), &mut patience()), Err(Failure::Error(Error::SessionExpired)));
    assert_eq!(only(&start(&session, pause(2))), Err(Error::SessionExpired));
    assert_eq!(spy.applied(&pause(1)) + spy.applied(&pause(2)), 0);
}

#[test]
fn a_workers_first_session_is_tried_again_while_the_patience_lasts() {
    let spy = Spy::new();
    let session = spy.session("worker", false);
    spy.next(op::OPEN_SESSION, Act::Refuse(Error::Unknown("the leader died".into())));
    let unsent = only(&start(&session, pause(1)));
    assert!(matches!(unsent, Err(Error::NotCommitted(_))), "D2: it was not sent: {unsent:?}");
    spy.next(op::OPEN_SESSION, Act::Refuse(Error::NotCommitted("no leader is known".into())));
    session.submit(&pause(2), &mut patience()).unwrap();
    assert_eq!((spy.applied(&pause(1)), spy.applied(&pause(2))), (0, 1));
}

/// Between sending and answering the state changed hands and the session ended: the first owner may have applied it.
#[test]
fn l5_what_another_owner_may_have_applied_is_not_sent_anew_under_another_session() {
    for (command, waits) in
        [(pause(1), true), (pause(1), false), (enqueue(&[job(1)]), true), (enqueue(&[job(1)]), false)]
    {
        let spy = Spy::new();
        let session = spy.session("client", true);
        let id = session.id(&mut patience()).unwrap();
        let operation = raftwork::client::request::operation(&command).unwrap();
        spy.next(operation, Act::Delay);
        let other = spy.clone();
        let meanwhile = move || {
            other.until_held(1);
            other.next_owner();
            other.lapse(id);
            other.release(0);
        };
        let answer = if waits {
            let thread = std::thread::spawn(meanwhile);
            let answer = session.submit(&command, &mut patience());
            thread.join().unwrap();
            answer
        } else {
            let answers = start(&session, command.clone());
            meanwhile();
            only(&answers).map_err(Failure::Error)
        };
        assert!(matches!(answer, Err(Failure::Error(Error::Unknown(_)))), "{answer:?}");
        assert_eq!(spy.sent(operation).len(), 1, "D2: it may have happened, so it is not done anew");
        session.submit(&pause(2), &mut patience()).unwrap();
    }
}

/// No repetition helps: whoever waits is told why at once, and by name.
#[test]
fn a_session_that_is_refused_says_why_and_is_tried_anew_by_the_next_call() {
    let spy = Spy::new();
    let session = spy.session("client", true);
    let refusal = Error::Foreign("another cluster".into());
    spy.next(op::OPEN_SESSION, Act::Refuse(refusal.clone()));
    assert_eq!(session.submit(&pause(1), &mut Patience::forever()), Err(Failure::Error(refusal)));
    session.submit(&pause(1), &mut patience()).unwrap();
}

#[test]
fn a_session_that_cannot_be_opened_now_is_tried_again_while_the_patience_lasts() {
    let spy = Spy::new();
    let session = spy.session("client", true);
    for error in [Error::Overloaded, Error::NotCommitted, Error::Unknown] {
        spy.next(op::OPEN_SESSION, Act::Refuse(error("not now".into())));
    }
    session.submit(&pause(1), &mut patience()).unwrap();
    let late = spy.session("client", true);
    spy.next(op::OPEN_SESSION, Act::Refuse(Error::Overloaded("not now".into())));
    let over = late.id(&mut Patience::after(Some(Duration::ZERO)));
    assert_eq!(over, Err(Error::Overloaded("not now".into())));
}

#[test]
fn a_session_whose_end_nobody_can_be_told_is_closed_all_the_same() {
    for error in [Error::Overloaded, Error::NotCommitted, Error::Unknown] {
        let spy = Spy::new();
        let session = spy.session("client", true);
        session.id(&mut patience()).unwrap();
        spy.next(op::CLOSE_SESSION, Act::Refuse(error("not now".into())));
        assert_eq!(session.close(&mut patience()), Ok(()));
        assert_eq!(session.ended(), Some(Error::Closed));
    }
}

#[test]
fn a_full_window_waits_and_goes_on() {
    let spy = Spy::new();
    let session = spy.session("client", true);
    session.id(&mut patience()).unwrap();
    let waits = spy.fill_the_window(&session);
    assert!(waits.try_recv().is_err());
    let over = session.submit(&pause(1), &mut Patience::after(Some(Duration::ZERO)));
    assert!(matches!(over, Err(Failure::Error(Error::Overloaded(_)))), "{over:?}");
    while spy.release(0) {}
    accepted(&only(&waits).unwrap()).unwrap();
    session.submit(&pause(2), &mut patience()).unwrap();
    assert_eq!(spy.applied(&pause(1)), 0, "what was refused is not sent later");
}

/// What happens at one step of a run.
#[derive(Clone, Debug)]
enum Happening {
    Start,
    StartKept,
    StartDelayed,
    StartLost,
    Enqueue,
    Release(usize),
    Lapse,
    Heartbeat,
    NewOwner,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Start),
        3 => Just(Happening::StartKept),
        3 => Just(Happening::StartDelayed),
        1 => Just(Happening::StartLost),
        2 => Just(Happening::Enqueue),
        4 => any::<usize>().prop_map(Happening::Release),
        1 => Just(Happening::Lapse),
        1 => Just(Happening::Heartbeat),
        1 => Just(Happening::NewOwner),
    ]
}

proptest! {
    /// The spy checks each request: no number twice, nothing acknowledged that was not answered.
    #[test]
    fn every_command_is_answered_once_and_a_yes_means_applied_once(
        steps in prop::collection::vec(happening(), 1..60),
        reopens in any::<bool>(),
    ) {
        let spy = Spy::new();
        let session = spy.session("client", reopens);
        let mut commands = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u64;
            match step {
                Happening::Start => {}
                Happening::StartKept => spy.next(PAUSE, Act::Keep),
                Happening::StartDelayed => spy.next(PAUSE, Act::Delay),
                Happening::StartLost => spy.next(PAUSE, Act::Lose(Error::Unknown("lost".into()))),
                Happening::Enqueue => {
                    let command = enqueue(&[job(number + 1)]);
                    commands.push((command.clone(), start(&session, command)));
                    continue;
                }
                Happening::Release(pick) => {
                    spy.release(pick);
                    continue;
                }
                Happening::Lapse => {
                    if let Some(id) = session.id_now() {
                        spy.lapse(id);
                    }
                    continue;
                }
                Happening::Heartbeat => {
                    session.beat();
                    continue;
                }
                Happening::NewOwner => {
                    spy.next_owner();
                    continue;
                }
            }
            commands.push((pause(number), start(&session, pause(number))));
        }
        while spy.release(0) {}
        for (command, answers) in commands {
            let applied = spy.applied(&command);
            match only(&answers) {
                Ok(reply) => {
                    prop_assert!(accepted(&reply).is_ok());
                    prop_assert_eq!(applied, 1);
                }
                Err(Error::Unknown(_)) => prop_assert!(applied <= 1),
                Err(Error::SessionExpired) => prop_assert_eq!(applied, 0),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

fn config(dir: &Path) -> NodeConfig {
    NodeConfig { segment_bytes: 256 << 10, archive: false, ..NodeConfig::new(dir) }
}

/// L5: what the last owner applied and did not answer is asked again in the same words, and gets the first answer.
#[test]
fn a_write_of_an_owner_that_died_before_it_answered_is_applied_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(config(dir.path())).unwrap();
    let owner = Spy::over(node.clone());
    let server = Server::start(
        dir.path(),
        owner.clone(),
        Greeting { pid: 1, cluster: None, group: GroupId(0), leader: None, token: None },
    )
    .unwrap();
    let client = Client::open(config(dir.path()), Options::default(), &mut patience()).unwrap();
    assert_eq!(client.role(), Role::Attached);
    client.submit(&enqueue(&[job(1), job(2), job(3), job(4)]), &mut patience()).unwrap();
    let session = client.session(&mut patience()).unwrap().0;
    let claim = |max| {
        let (queues, functions) = (vec![("default".into(), 1)], vec!["f".into()]);
        Command::Claim { session, queues, strict: true, functions, max }.encode()
    };
    owner.next(op::CLAIM, Act::Keep);
    owner.next(op::CLAIM, Act::Keep);
    // One waits for its answer, one does not: both have been applied when the owner dies.
    let ticket = client.start(claim(1)).unwrap();
    let waiting = {
        let (client, claim) = (client.clone(), claim(1));
        std::thread::spawn(move || client.submit(&claim, &mut patience()))
    };
    owner.until_held(2);
    server.prepare_to_close();
    node.close().unwrap();
    server.close();

    let first = claimed(&waiting.join().unwrap().unwrap());
    assert_eq!(client.role(), Role::Owner, "it took over");
    let latest = Instant::now() + WAIT;
    let second = loop {
        if let Some((of, reply)) = client.drain().pop() {
            assert_eq!(of, ticket);
            break claimed(&reply.unwrap());
        }
        assert!(Instant::now() < latest, "the ticket is answered");
        std::thread::yield_now();
    };
    let mut handed: Vec<JobId> = first.iter().chain(&second).map(|(id, _)| *id).collect();
    handed.sort_unstable();
    assert_eq!(handed, [job(1), job(2)], "a second application would have leased the next ones");
    let rest = claimed(&client.submit(&claim(9), &mut patience()).unwrap());
    assert_eq!(rest.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [job(3), job(4)]);
    client.close(&mut patience()).unwrap();
}
