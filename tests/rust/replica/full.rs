//! A member whose state holds as much as its settings allow: it lets no more jobs in, and everything else goes on.

use raftwork::base::{Error, Millis, SessionId};
use raftwork::client::request::envelope;
use raftwork::disk::FakeDisk;
use raftwork::machine::Bounds;
use raftwork::replica::{entry, Proposal, Replica, ReplicaConfig, Turn};

use super::{config, disk};
use crate::requests::{claim, claimed, delete, enqueue, enqueue_as, job, number, open_session, payload, succeed};

fn with(disk: &FakeDisk, bounds: Bounds) -> Replica<usize> {
    let config = ReplicaConfig { bounds, ..config(disk) };
    Replica::open(&config, Box::new(|_| {})).unwrap().0
}

/// The answers to requests that come in one turn, in their order.
fn ask(replica: &mut Replica<usize>, requests: &[Vec<u8>]) -> Vec<Result<Vec<u8>, Error>> {
    let proposal = |(ticket, request): (usize, &Vec<u8>)| Proposal { entry: entry::frame(request), ticket };
    let mut turn = Turn::default();
    replica.turn(Millis(2_000), requests.iter().enumerate().map(proposal).collect(), &mut turn).unwrap();
    turn.answers.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(turn.answers.len(), requests.len());
    turn.answers.into_iter().map(|(_, answer)| answer).collect()
}

fn one(replica: &mut Replica<usize>, request: Vec<u8>) -> Result<Vec<u8>, Error> {
    ask(replica, &[request]).remove(0)
}

fn is_full(answer: &Result<Vec<u8>, Error>, setting: &str) -> bool {
    matches!(answer, Err(Error::Overloaded(words)) if words.contains(setting))
}

#[test]
fn who_is_full_lets_no_more_in_and_the_rest_goes_on() {
    let disk = disk(1);
    let mut replica = with(&disk, Bounds { jobs: 3, ..Bounds::default() });
    let session = SessionId(number(&one(&mut replica, open_session(60_000)).unwrap()));
    one(&mut replica, enqueue_as(&[job(1), job(2)], "q", "f", 9, 0)).unwrap();
    let last = replica.last_index();
    // Of those that come together, each counts: the first brings too many, the second just enough.
    let answers =
        ask(&mut replica, &[enqueue_as(&[job(3), job(4)], "q", "f", 9, 0), enqueue(job(5), 9), enqueue(job(6), 9)]);
    assert!(is_full(&answers[0], "max_jobs") && is_full(&answers[2], "max_jobs"), "{answers:?}");
    payload(answers[1].as_ref().unwrap());
    assert_eq!(replica.last_index().0, last.0 + 1, "what is refused is not in the log");
    assert_eq!(replica.machine().read().len(), 3);
    let taken = claimed(&one(&mut replica, claim(session, "q", "f", 1)).unwrap());
    payload(&one(&mut replica, succeed(&taken)).unwrap());
    payload(&one(&mut replica, delete(job(5))).unwrap());
    payload(&one(&mut replica, enqueue(job(7), 9)).unwrap());
}

#[test]
fn a_state_of_so_many_bytes_is_full_too() {
    let disk = disk(1);
    let mut replica = with(&disk, Bounds { bytes: 20_000, ..Bounds::default() });
    let mut stored = 0;
    let refused = loop {
        match one(&mut replica, enqueue(job(stored), 5_000)) {
            Ok(answer) => drop(payload(&answer)),
            refused => break refused,
        }
        stored += 1;
    };
    assert!(is_full(&refused, "max_state_bytes"), "{refused:?}");
    assert!((2..=4).contains(&stored), "{stored}");
}

#[test]
fn l5_what_was_stored_gets_its_first_answer_also_when_the_state_is_full() {
    let disk = disk(1);
    let mut replica = with(&disk, Bounds { jobs: 1, ..Bounds::default() });
    let session = SessionId(number(&one(&mut replica, open_session(60_000)).unwrap()));
    // The command of a request without a session, behind its four heads.
    let numbered = |sequence, id| envelope(session, sequence, 0, &enqueue(job(id), 9)[4..]);
    let first = one(&mut replica, numbered(1, 1)).unwrap();
    assert!(is_full(&one(&mut replica, numbered(2, 2)), "max_jobs"));
    assert_eq!(one(&mut replica, numbered(1, 1)), Ok(first));
}

#[test]
fn members_agree_on_what_one_let_in_and_another_would_not() {
    let roomy = disk(1);
    let mut replica = with(&roomy, Bounds::default());
    for id in 0..5 {
        payload(&one(&mut replica, enqueue(job(id), 9)).unwrap());
    }
    let digest = replica.machine().read().digest();
    drop(replica);
    // The same log under other settings.
    let mut narrow = with(&roomy, Bounds { jobs: 2, ..Bounds::default() });
    assert_eq!(narrow.machine().read().digest(), digest);
    assert!(is_full(&one(&mut narrow, enqueue(job(9), 9)), "max_jobs"));
}
