//! Requests and answers as bytes, for tests that talk to a replica or a node.

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{JobId, LeaseToken, SessionId};

/// What an answer holds: status 0 with a payload, or the code of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok { index: u64, payload: Vec<u8> },
    Refused(String),
}

pub fn answer(bytes: &[u8]) -> Answer {
    let mut reader = Reader::new(bytes);
    reader.array_of(3, "answer").unwrap();
    let (status, index) = (reader.u64().unwrap(), reader.u64().unwrap());
    let payload = reader.raw().unwrap();
    if status == 0 {
        return Answer::Ok { index, payload: payload.to_vec() };
    }
    let mut refusal = Reader::new(payload);
    refusal.array().unwrap();
    Answer::Refused(refusal.str().unwrap().to_owned())
}

/// The payload of an answer that must not be a refusal.
pub fn payload(bytes: &[u8]) -> Vec<u8> {
    match answer(bytes) {
        Answer::Ok { payload, .. } => payload,
        refused => panic!("{refused:?}"),
    }
}

pub fn number(bytes: &[u8]) -> u64 {
    Reader::new(&payload(bytes)).u64().unwrap()
}

pub fn job(number: u64) -> JobId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    JobId(id)
}

fn request(build: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(4).u64(0).u64(0).u64(0);
    build(&mut writer);
    writer.into_bytes()
}

/// One job of function `f` in queue `q`, with so many bytes of arguments.
pub fn enqueue(id: JobId, args: usize) -> Vec<u8> {
    enqueue_as(&[id], "q", "f", args, 0)
}

pub fn enqueue_as(ids: &[JobId], queue: &str, function: &str, args: usize, delay_ms: u64) -> Vec<u8> {
    enqueue_kept(ids, queue, function, args, delay_ms, 60_000)
}

/// As `enqueue_as`, with so much time in the archive.
pub fn enqueue_kept(ids: &[JobId], queue: &str, function: &str, args: usize, delay_ms: u64, keep_ms: u64) -> Vec<u8> {
    enqueue_bytes(ids, queue, function, &vec![7; args], delay_ms, keep_ms)
}

/// As `enqueue`, with arguments that nothing makes smaller.
pub fn enqueue_noise(id: JobId, args: usize) -> Vec<u8> {
    let mut noise = u64::from_be_bytes(id.0[8..].try_into().unwrap()) + 1;
    let byte = |_| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 32) as u8
    };
    enqueue_bytes(&[id], "q", "f", &(0..args).map(byte).collect::<Vec<_>>(), 0, 60_000)
}

fn enqueue_bytes(ids: &[JobId], queue: &str, function: &str, args: &[u8], delay_ms: u64, keep_ms: u64) -> Vec<u8> {
    request(|writer| {
        writer.array(3).u64(4).array(1);
        writer.array(14).str(function).str(queue).i64(0).u64(3).u64(3).nil().u64(keep_ms).u64(keep_ms).array(0);
        writer.u64(0).nil().nil().u64(0).bin(&[]);
        writer.array(ids.len());
        for id in ids {
            writer.array(6).id(*id).u64(0).bin(args).u64(delay_ms).nil().nil();
        }
    })
}

pub fn open_session(ttl_ms: u64) -> Vec<u8> {
    request(|writer| {
        writer.array(6).u64(1).u64(ttl_ms).str("worker").str("host").u64(1).array(0);
    })
}

pub fn close_session(session: SessionId) -> Vec<u8> {
    request(|writer| {
        writer.array(2).u64(2).u64(session.0);
    })
}

pub fn claim(session: SessionId, queue: &str, function: &str, max: u64) -> Vec<u8> {
    request(|writer| {
        writer.array(6).u64(5).u64(session.0);
        writer.array(1).array(2).str(queue).u64(1);
        writer.bool(true).array(1).str(function);
        writer.u64(max);
    })
}

/// Jobs and tokens of a claim's answer.
pub fn claimed(bytes: &[u8]) -> Vec<(JobId, LeaseToken)> {
    let payload = payload(bytes);
    let mut reader = Reader::new(&payload);
    let count = reader.array().unwrap();
    let mut jobs = Vec::new();
    for _ in 0..count {
        let items = reader.array().unwrap();
        jobs.push((reader.id().unwrap(), LeaseToken(reader.u64().unwrap())));
        for _ in 2..items {
            reader.raw().unwrap();
        }
    }
    jobs
}

pub fn succeed(jobs: &[(JobId, LeaseToken)]) -> Vec<u8> {
    request(|writer| {
        writer.array(2).u64(6).array(jobs.len());
        for (id, token) in jobs {
            writer.array(4).id(*id).u64(token.0).u64(0).nil();
        }
    })
}

pub fn cancel(id: JobId) -> Vec<u8> {
    request(|writer| {
        writer.array(3).u64(8).array(1).id(id).str("test");
    })
}

pub fn requeue(id: JobId) -> Vec<u8> {
    request(|writer| {
        writer.array(2).u64(9).array(1).id(id);
    })
}

pub fn delete(id: JobId) -> Vec<u8> {
    request(|writer| {
        writer.array(2).u64(10).array(1).id(id);
    })
}

/// An operation that nobody knows.
pub fn unknown() -> Vec<u8> {
    request(|writer| {
        writer.array(1).u64(99);
    })
}

/// The value of a key in a MessagePack map, as bytes.
pub fn field(map: &[u8], key: &str) -> Vec<u8> {
    let mut reader = Reader::new(map);
    for _ in 0..reader.map().unwrap() {
        let found = reader.str().unwrap() == key;
        let value = reader.raw().unwrap();
        if found {
            return value.to_vec();
        }
    }
    panic!("no key {key}");
}

pub fn field_number(map: &[u8], key: &str) -> u64 {
    Reader::new(&field(map, key)).u64().unwrap()
}

pub fn field_text(map: &[u8], key: &str) -> String {
    Reader::new(&field(map, key)).str().unwrap().to_owned()
}

pub fn field_texts(map: &[u8], key: &str) -> Vec<String> {
    let texts = field(map, key);
    let mut reader = Reader::new(&texts);
    (0..reader.array().unwrap()).map(|_| reader.str().unwrap().to_owned()).collect()
}
