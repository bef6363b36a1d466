//! What the payloads of frames say. Read from a peer that nobody has checked.

use super::backend::{Ask, WatchEvent};
use super::wire::{MAGIC, VERSIONS};
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, GroupId, JobId, LeaseToken, LogIndex, Millis, Result, SessionId};
use crate::net::Secret;

/// The event that a lock was handed over.
const GRANTED: u64 = 6;
/// The event that log lines are wanted.
const LINES: u64 = 7;

/// The first words of both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The process that speaks.
    pub pid: u64,
    /// The cluster of the directory as it knows it: an owner always, others from the first owner they met.
    pub cluster: Option<ClusterId>,
    /// 0 while the cluster is not known.
    pub group: GroupId,
    /// Where the leader serves clients, if it is another node than the one that speaks.
    pub leader: Option<String>,
    /// What a client without a certificate shows. Never from an owner.
    pub token: Option<Secret>,
}

impl Greeting {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(MAGIC).raw(&VERSIONS.introduce()).array(5).u64(self.pid);
        out.option(self.cluster, |out, cluster| {
            out.bin(&cluster.0);
        });
        out.u64(self.group.0);
        out.option(self.leader.as_deref(), |out, leader| {
            out.str(leader);
        });
        out.option(self.token.as_ref(), |out, token| {
            out.bin(token.bytes());
        });
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let stranger = || Error::Invalid("the peer does not speak raftwork".into());
        let words = bytes.strip_prefix(MAGIC).ok_or_else(stranger)?;
        let mut reader = Reader::new(VERSIONS.meet(words).ok_or_else(stranger)??.rest);
        let items = reader.array()?;
        if items < 5 {
            return Err(Error::Invalid(format!("a greeting has 5 items or more, not {items}")));
        }
        let pid = reader.u64()?;
        let cluster = reader.option(|reader| {
            ClusterId::from_slice(reader.bin()?).ok_or_else(|| Error::Invalid("a cluster id has 16 bytes".into()))
        })?;
        let group = GroupId(reader.u64()?);
        let leader = reader.option(|reader| reader.str().map(str::to_owned))?;
        let token = reader.option(|reader| {
            Secret::from_slice(reader.bin()?).ok_or_else(|| Error::Invalid("a token has 32 bytes".into()))
        })?;
        // Of a later version, see `net::versions`.
        (5..items).try_for_each(|_| reader.raw().map(drop))?;
        reader.end()?;
        Ok(Greeting { pid, cluster, group, leader, token })
    }

    /// Refuses an owner of another cluster or group than the one that this process knows. Both sides say the same words.
    pub fn check(&self, owner: &Greeting) -> Result<()> {
        match (self.cluster, owner.cluster) {
            (Some(known), Some(found)) if (known, self.group) != (found, owner.group) => Err(Error::Foreign(format!(
                "this process worked with cluster {known}, group {}; the owner of the directory now has cluster {found}, \
                 group {}: the directory was replaced while the process ran; start the process again to work with what \
                 is there now, or put the old directory back",
                self.group, owner.group
            ))),
            _ => Ok(()),
        }
    }
}

/// An answer: 0 and the bytes, or 1 and the error.
pub fn encode_reply(answer: &Result<Vec<u8>>) -> Vec<u8> {
    match answer {
        Ok(bytes) => {
            let mut out = Vec::with_capacity(bytes.len() + 1);
            out.push(0);
            out.extend_from_slice(bytes);
            out
        }
        Err(error) => {
            let mut out = vec![1];
            out.extend_from_slice(&encode_error(error));
            out
        }
    }
}

pub fn decode_reply(bytes: &[u8]) -> Result<Vec<u8>> {
    match bytes.split_first() {
        Some((0, answer)) => Ok(answer.to_vec()),
        Some((1, error)) => Err(decode_error(error)),
        _ => Err(Error::Invalid("an answer that is neither yes nor no".into())),
    }
}

/// `[number, text, text, offset]`.
pub fn encode_error(error: &Error) -> Vec<u8> {
    let age;
    let (number, first, second, offset) = match error {
        Error::Invalid(text) => (1, text.as_str(), "", 0),
        Error::NotCommitted(text) => (2, text.as_str(), "", 0),
        Error::Unknown(text) => (3, text.as_str(), "", 0),
        Error::Overloaded(text) => (4, text.as_str(), "", 0),
        Error::TimedOut(text) => (5, text.as_str(), "", 0),
        Error::NotFound(text) => (6, text.as_str(), "", 0),
        Error::DiskFull(text) => (7, text.as_str(), "", 0),
        Error::Disk { path, message, .. } => (8, path.as_str(), message.as_str(), 0),
        Error::Corrupt { path, offset, message } => (9, path.as_str(), message.as_str(), *offset),
        Error::Busy { path, holder } => (10, path.as_str(), holder.as_str(), 0),
        Error::Foreign(text) => (11, text.as_str(), "", 0),
        Error::Poisoned(text) => (12, text.as_str(), "", 0),
        Error::Closed => (13, "", "", 0),
        Error::SessionExpired => (14, "", "", 0),
        Error::Forked => (15, "", "", 0),
        Error::Denied { principal, capability } => (16, principal.as_str(), capability.as_str(), 0),
        Error::Unauthenticated(text) => (17, text.as_str(), "", 0),
        Error::TooStale { age: known, most } => {
            age = known.map(|known| known.0.to_string()).unwrap_or_default();
            (18, age.as_str(), "", most.0)
        }
        Error::Differs(text) => (19, text.as_str(), "", 0),
        Error::CrashLoop(text) => (20, text.as_str(), "", 0),
        Error::Member(text) => (21, text.as_str(), "", 0),
    };
    let mut out = Writer::new();
    out.array(4).u64(number).str(first).str(second).u64(offset);
    out.into_bytes()
}

/// An error that cannot be read is one whose outcome is unknown.
pub fn decode_error(bytes: &[u8]) -> Error {
    read_error(bytes).unwrap_or_else(|_| Error::Unknown("the owner of the directory sent an unreadable error".into()))
}

fn read_error(bytes: &[u8]) -> Result<Error> {
    let mut reader = Reader::new(bytes);
    reader.array_of(4, "an error")?;
    let number = reader.u64()?;
    let (first, second, offset) = (reader.str()?.to_owned(), reader.str()?.to_owned(), reader.u64()?);
    Ok(match number {
        1 => Error::Invalid(first),
        2 => Error::NotCommitted(first),
        4 => Error::Overloaded(first),
        5 => Error::TimedOut(first),
        6 => Error::NotFound(first),
        7 => Error::DiskFull(first),
        8 => Error::Disk { operation: "an operation of the owner", path: first, message: second },
        9 => Error::Corrupt { path: first, offset, message: second },
        10 => Error::Busy { path: first, holder: second },
        11 => Error::Foreign(first),
        12 => Error::Poisoned(first),
        13 => Error::Closed,
        14 => Error::SessionExpired,
        15 => Error::Forked,
        16 => Error::Denied { principal: first, capability: second },
        17 => Error::Unauthenticated(first),
        18 => Error::TooStale { age: first.parse().ok().map(Millis), most: Millis(offset) },
        19 => Error::Differs(first),
        20 => Error::CrashLoop(first),
        21 => Error::Member(first),
        _ => Error::Unknown(first),
    })
}

/// `[[queue...], [function...]]`.
pub fn encode_ask(queues: &[&str], functions: &[&str]) -> Vec<u8> {
    let mut out = Writer::new();
    out.array(2);
    for names in [queues, functions] {
        out.array(names.len());
        for name in names {
            out.str(name);
        }
    }
    out.into_bytes()
}

pub fn decode_ask(bytes: &[u8]) -> Result<(Vec<&str>, Vec<&str>)> {
    let mut reader = Reader::new(bytes);
    reader.array_of(2, "an ask")?;
    let mut names = || (0..reader.array()?).map(|_| reader.str()).collect::<Result<Vec<_>>>();
    Ok((names()?, names()?))
}

/// `[number, job, token]`; of a lock `[6, its number, token]`; of log lines `[7, session, job, token, from]`, which a worker
/// of an earlier version does not know, and leaves alone.
pub fn encode_event(event: WatchEvent) -> Vec<u8> {
    if let WatchEvent::Lines(ask) = event {
        let mut out = Writer::new();
        ask.write(out.array(5).u64(LINES));
        return out.into_bytes();
    }
    if let WatchEvent::Granted(number, token) = event {
        let mut out = Writer::new();
        out.array(3).u64(GRANTED).u64(number).u64(token.0);
        return out.into_bytes();
    }
    let (number, job, token) = match event {
        WatchEvent::Ready => (1, None, 0),
        WatchEvent::Cancel(job, token) => (2, Some(job), token.0),
        WatchEvent::Lost(job, token) => (3, Some(job), token.0),
        WatchEvent::SessionClosed => (4, None, 0),
        WatchEvent::NodeClosed => (5, None, 0),
        WatchEvent::Granted(..) | WatchEvent::Lines(_) => unreachable!("it has a form of its own"),
        WatchEvent::Refused => unreachable!("a reply says so"),
    };
    let mut out = Writer::new();
    out.array(3).u64(number);
    out.option(job, |out, job| {
        out.id(job);
    });
    out.u64(token);
    out.into_bytes()
}

pub fn decode_event(bytes: &[u8]) -> Result<WatchEvent> {
    let mut reader = Reader::new(bytes);
    let items = reader.array()?;
    let number = reader.u64()?;
    if number == LINES && items == 5 {
        return Ok(WatchEvent::Lines(Ask::read(&mut reader)?));
    }
    if items != 3 {
        return Err(Error::Invalid(format!("an event of {items} items")));
    }
    if number == GRANTED {
        return Ok(WatchEvent::Granted(reader.u64()?, LeaseToken(reader.u64()?)));
    }
    let job = reader.option(|reader| reader.id())?;
    let token = LeaseToken(reader.u64()?);
    match (number, job) {
        (1, _) => Ok(WatchEvent::Ready),
        (2, Some(job)) => Ok(WatchEvent::Cancel(job, token)),
        (3, Some(job)) => Ok(WatchEvent::Lost(job, token)),
        (4, _) => Ok(WatchEvent::SessionClosed),
        (5, _) => Ok(WatchEvent::NodeClosed),
        _ => Err(Error::Invalid(format!("an event of kind {number}"))),
    }
}

/// `[session, job, token, from, answer]`.
pub fn encode_lines(ask: Ask, answer: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(answer.len() + 64);
    ask.write(out.array(5));
    out.bin(answer);
    out.into_bytes()
}

pub fn decode_lines(bytes: &[u8]) -> Result<(Ask, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    reader.array_of(5, "log lines")?;
    let ask = Ask::read(&mut reader)?;
    let answer = reader.bin()?.to_vec();
    reader.end()?;
    Ok((ask, answer))
}

/// Up to where the log is in the state: 8 bytes.
pub fn decode_index(bytes: &[u8]) -> Result<LogIndex> {
    let bytes = bytes.try_into().map_err(|_| Error::Invalid("an index of the log has 8 bytes".into()))?;
    Ok(LogIndex(u64::from_le_bytes(bytes)))
}

pub fn decode_session(bytes: &[u8]) -> Result<SessionId> {
    let bytes = bytes.try_into().map_err(|_| Error::Invalid("a session id has 8 bytes".into()))?;
    Ok(SessionId(u64::from_le_bytes(bytes)))
}

pub fn decode_job(bytes: &[u8]) -> Result<JobId> {
    JobId::from_slice(bytes).ok_or_else(|| Error::Invalid("a job id has 16 bytes".into()))
}
