//! Rows 8 and 11 of the threats: whoever is let in, and asks without end, or in a way that would take the stack.

use super::*;
use crate::node::support::{Home, Mood};
use crate::requests::{self, job};
use raftwork::base::limits::ATTACHED_REQUESTS_MAX;

/// Sends a request; the number comes back with its answer.
fn send(remote: &Remote, number: u64, told: &Sender<(u64, Result<Vec<u8>>)>) {
    let told = told.clone();
    let done = move |answer| drop(told.send((number, answer)));
    remote.ask(Question::Submit(requests::enqueue(job(number), 8), Box::new(done)));
}

#[test]
fn a4_a_process_with_too_many_requests_is_told_and_others_are_served() {
    let home = Home::new();
    let node = home.open();
    let server = Server::start(home.dir.path(), node.clone(), greeting()).unwrap();
    let ((flood, _), (other, _)) = (attach(home.dir.path()), attach(home.dir.path()));
    let (tell, told) = channel();
    home.disk.set(Mood::Hangs);
    let most = ATTACHED_REQUESTS_MAX as u64;
    (0..=most).for_each(|number| send(&flood, number, &tell));
    let (number, refused) = told.recv_timeout(WAIT).unwrap();
    assert!(number == most && matches!(&refused, Err(Error::Overloaded(_))), "{number}: {refused:?}");
    // Nobody else is refused for it; what was taken in is done, and there is room again.
    send(&other, most + 1, &tell);
    home.disk.set(Mood::Good);
    for _ in 0..=most {
        accepted(&told.recv_timeout(WAIT).unwrap().1.unwrap()).unwrap();
    }
    send(&flood, most, &tell);
    accepted(&told.recv_timeout(WAIT).unwrap().1.unwrap()).unwrap();
    server.close();
    node.close().unwrap();
}

/// The answer to these frames, but for a welcome. Nothing: the owner hung up.
fn answer_to(dir: &Path, sent: &[u8]) -> Option<packet::Frame> {
    let (mut stream, mut frames) = (UnixStream::connect(dir.join("socket")).unwrap(), Frames::new());
    stream.set_read_timeout(Some(WAIT)).unwrap();
    // It may hang up before it has read everything.
    let _ = stream.write_all(sent).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    loop {
        match frames.take().unwrap() {
            Some(frame) if frame.kind == Kind::Welcome as u8 => {}
            Some(frame) => return Some(frame),
            None if frames.fill(&mut stream).unwrap() => {}
            None => return None,
        }
    }
}

#[test]
fn values_that_are_nested_10_000_deep_are_refused_wherever_they_stand_and_the_owner_lives() {
    let owner = owner();
    let (good, _ended) = attach(owner.dir.path());
    let hello = encode(Kind::Hello, 0, &greeting().encode()).unwrap();
    let session = open_session(&good);
    for unit in [&[0x91][..], &[0x81, 0xc0]] {
        let nested = unit.repeat(10_000);
        // As the whole, as a command, and within one.
        let within = |head: &[u8]| [head, &nested].concat();
        let command = within(&[0x94, 0, 0, 0]);
        let jobs = within(&[0x94, 0, 0, 0, 0x93, 4]);
        let question = View::of_any(&within(&[0x92, 3])).encode();
        for (kind, payload) in [
            (Kind::Submit, nested.clone()),
            (Kind::Submit, command),
            (Kind::Submit, jobs),
            (Kind::View, nested.clone()),
            (Kind::View, question),
            (Kind::Wait, nested.clone()),
            (Kind::Watch, nested.clone()),
            (Kind::Heartbeat, nested.clone()),
            (Kind::Arm, nested.clone()),
            (Kind::Order, nested.clone()),
            (Kind::Order, within(&[0x93, 8])),
            (Kind::Enroll, nested.clone()),
        ] {
            let frame = [&hello[..], &encode(kind, 7, &payload).unwrap()].concat();
            if let Some(answer) = answer_to(owner.dir.path(), &frame) {
                assert_eq!((answer.kind, answer.id), (Kind::Reply as u8, 7));
                let refused = decode_reply(&answer.payload);
                assert!(matches!(refused, Err(Error::Invalid(_) | Error::Closed)), "{kind:?}: {refused:?}");
            }
        }
        // Before anybody is known.
        let words = answer_to(owner.dir.path(), &offering(1, 1, &nested));
        assert!(words.is_none_or(|frame| frame.kind == Kind::Refused as u8));
    }
    assert_eq!(beat(&good, session), Ok(()), "it serves others as before");
}
