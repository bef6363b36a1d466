//! Commands: one variant for each replicated verb, decoded from MessagePack arrays `[op, ...]` inside a request
//! `[session, sequence, acked_up_to, command]`.
//!
//! Decoding checks every limit and names the place of what it refuses, as in `jobs[3].args: 300000 bytes, at most
//! 262144`. The door of a node calls [`check`] before anything enters the log; `apply` decodes again and answers
//! `invalid` to what would not pass.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::access::{self, Digest, Invited, Note, PutToken};
use super::admin;
use super::batches::batch_name;
use super::change::Change;
use super::cluster::Member;
use super::decode::{bytes, list, name, number, reason, Place, Result};
use super::extras::Extras;
use super::finish::{Finish, Progress};
use super::fire::{At, Firing, PutSchedule};
use super::flows::{BatchId, Joining};
use super::holding::{Mode, Owner};
use super::levels;
use super::limit::Limits;
use super::recurring::{schedule_name, Recurrence};
use super::sessions::Opening;
use super::specs::Spec;
use super::stored::{self, Archived};
use crate::base::codec::Reader;
use crate::base::{limits, Error, JobId, LeaseToken, LogIndex, Millis, NodeId, SessionId};

/// A command and what makes it exactly-once.
#[derive(Debug)]
pub struct Request<'a> {
    /// 0: no session, the command may be applied as often as it is sent.
    pub session: SessionId,
    pub sequence: u64,
    pub acked_up_to: u64,
    pub command: Command<'a>,
}

#[derive(Debug)]
pub enum Command<'a> {
    OpenSession(Opening<'a>),
    CloseSession(SessionId),
    ExpireSession(SessionId),
    Enqueue {
        specs: Vec<Spec>,
        jobs: Vec<NewJob<'a>>,
    },
    Claim(Claim<'a>),
    Finish(Vec<Finish<'a>>),
    Progress(Vec<Progress<'a>>),
    Cancel {
        ids: Vec<JobId>,
        reason: &'a str,
    },
    Requeue(Vec<JobId>),
    Delete(Vec<JobId>),
    PauseQueue {
        queue: &'a str,
        until: Option<Millis>,
        reason: &'a str,
    },
    ResumeQueue(&'a str),
    Tick {
        items_max: usize,
    },
    Evict {
        ordinal: u64,
    },
    Restore(Vec<Archived>),
    PutMember(Member),
    DropMember(NodeId),
    Digest {
        index: LogIndex,
        digest: u64,
    },
    SetLevel(u64),
    PutToken(PutToken<'a>),
    RevokeToken {
        actor: &'a str,
        which: &'a str,
    },
    PutInvitation {
        actor: &'a str,
        invited: Invited,
    },
    UseInvitation {
        actor: &'a str,
        digest: Digest,
    },
    Note(Note<'a>),
    Lock {
        owner: Owner,
        name: &'a str,
        waits: bool,
    },
    Unlock {
        session: SessionId,
        name: &'a str,
        token: LeaseToken,
    },
    GiveUp(Owner),
    PutSchedule(Box<PutSchedule<'a>>),
    FireSchedule {
        at: At<'a>,
        jobs: Vec<Firing>,
    },
    DeleteSchedule(&'a str),
    PauseSchedule {
        name: &'a str,
        /// `None`: it goes on.
        reason: Option<&'a str>,
    },
    TriggerSchedule {
        name: &'a str,
        id: JobId,
        /// The one that is filled in; `None`: beside all slots.
        slot: Option<Millis>,
    },
    MoveSchedule(At<'a>),
    OpenBatch {
        id: BatchId,
        name: &'a str,
        outer: Option<BatchId>,
    },
    SealBatch(BatchId),
    CancelBatch {
        id: BatchId,
        reason: &'a str,
    },
    Acquire {
        owner: Owner,
        name: &'a str,
        mode: Mode,
        waits: bool,
    },
    LimitQueue {
        queue: &'a str,
        /// `None`: no limit.
        limit: Option<u64>,
    },
    Change(Change<'a>),
    #[cfg(feature = "sim")]
    Future,
}

#[derive(Debug)]
pub struct NewJob<'a> {
    pub id: JobId,
    /// Position in the specs of the same command.
    pub spec: usize,
    pub args: &'a [u8],
    pub delay: Millis,
    pub run_at: Option<Millis>,
    pub unique: Option<&'a str>,
    pub recurrence: Option<Arc<Recurrence>>,
    /// Its parents and its batch. Boxed, as few have any.
    pub joining: Option<Box<Joining>>,
    pub limits: Option<Limits>,
}

#[derive(Debug)]
pub struct Claim<'a> {
    pub session: SessionId,
    pub queues: Vec<(&'a str, u64)>,
    /// The queues in the order given; else weighted round robin.
    pub strict: bool,
    pub functions: Vec<&'a str>,
    pub max: usize,
}

/// Decodes a request whole and checks every limit: what a node refuses before it enters the log. Gives the feature level
/// that it needs, for `Machine::admit`.
pub fn check(request: &[u8]) -> Result<u64> {
    if request.len() > limits::COMMAND_BYTES_MAX {
        let found = request.len();
        return Err(Error::Invalid(format!("request: {found} bytes, at most {}", limits::COMMAND_BYTES_MAX)));
    }
    match decode(request) {
        Ok(request) => Ok(levels::needed(&request.command)),
        Err(Error::Foreign(unknown)) => Err(Error::Invalid(unknown)),
        Err(error) => Err(error),
    }
}

/// `Error::Foreign` for an operation that this version does not know, `Error::Invalid` for anything else.
pub(super) fn decode(request: &[u8]) -> Result<Request<'_>> {
    let reader = &mut Reader::new(request);
    reader.array_of(4, "request").at("request")?;
    let session = SessionId(reader.u64().at("session")?);
    let sequence = reader.u64().at("sequence")?;
    let acked_up_to = reader.u64().at("acked_up_to")?;
    if session.0 != 0 && sequence == 0 {
        return Err(Error::Invalid("sequence: 0, the first is 1".into()));
    }
    let command = command(reader, session)?;
    reader.end().at("request")?;
    Ok(Request { session, sequence, acked_up_to, command })
}

/// How many items a command has, and its name.
fn shape(op: u64) -> Result<(usize, &'static str)> {
    Ok(match op {
        1 => (6, "OpenSession"),
        2 => (2, "CloseSession"),
        3 => (2, "ExpireSession"),
        4 => (3, "Enqueue"),
        5 => (6, "Claim"),
        6 => (2, "Finish"),
        7 => (2, "Progress"),
        8 => (3, "Cancel"),
        9 => (2, "Requeue"),
        10 => (2, "Delete"),
        11 => (4, "PauseQueue"),
        12 => (2, "ResumeQueue"),
        13 => (2, "Tick"),
        14 => (2, "Evict"),
        15 => (2, "Restore"),
        16 => (5, "PutMember"),
        17 => (2, "DropMember"),
        18 => (3, "Digest"),
        19 => (2, "SetLevel"),
        20 => (7, "PutToken"),
        21 => (3, "RevokeToken"),
        22 => (5, "PutInvitation"),
        23 => (3, "UseInvitation"),
        24 => (4, "Note"),
        30 => (4, "Lock"),
        31 => (3, "Unlock"),
        32 => (2, "GiveUp"),
        33 => (9, "PutSchedule"),
        34 => (6, "FireSchedule"),
        35 => (2, "DeleteSchedule"),
        36 => (3, "PauseSchedule"),
        37 => (3, "TriggerSchedule"),
        38 => (5, "MoveSchedule"),
        40 => (4, "OpenBatch"),
        41 => (2, "SealBatch"),
        42 => (3, "CancelBatch"),
        60 => (6, "Acquire"),
        50 => (3, "LimitQueue"),
        70 => (3, "MoveJobs"),
        71 => (3, "SetPriority"),
        #[cfg(feature = "sim")]
        levels::FUTURE if levels::known() > levels::LEVEL => (1, "Future"),
        _ => return Err(Error::Foreign(levels::too_old(&format!("operation {op}")))),
    })
}

fn command<'a>(reader: &mut Reader<'a>, session: SessionId) -> Result<Command<'a>> {
    let length = reader.array().at("command")?;
    let op = reader.u64().at("op")?;
    let (items, name) = shape(op)?;
    // A schedule without limits and a trigger without a slot are written as before there were any.
    let more = matches!(op, 33 | 37) && length == items + 1;
    if length != items && !more {
        return Err(Error::Invalid(format!("{name} has {items} items, not {length}")));
    }
    Ok(match op {
        1 => Command::OpenSession(Opening::decode(reader)?),
        2 => Command::CloseSession(SessionId(reader.u64().at("session")?)),
        3 => Command::ExpireSession(SessionId(reader.u64().at("session")?)),
        4 => enqueue(reader)?,
        5 => Command::Claim(Claim::decode(reader)?),
        6 => Command::Finish(list(reader, "results", limits::BATCH_JOBS_MAX, Finish::decode)?),
        7 => Command::Progress(list(reader, "items", limits::BATCH_JOBS_MAX, Progress::decode)?),
        8 => Command::Cancel { ids: ids(reader)?, reason: reason(reader)? },
        9 => Command::Requeue(ids(reader)?),
        10 => Command::Delete(ids(reader)?),
        11 => admin::pause(reader)?,
        12 => Command::ResumeQueue(name_at(reader, "queue")?),
        13 => Command::Tick { items_max: number(reader, u64::MAX).at("items_max")? as usize },
        14 => Command::Evict { ordinal: reader.u64().at("ordinal")? },
        15 => {
            Command::Restore(list(reader, "records", limits::BATCH_JOBS_MAX, |reader| stored::decode(reader.bin()?))?)
        }
        16 => Command::PutMember(Member::decode(reader)?),
        17 => Command::DropMember(NodeId(reader.u64().at("node")?)),
        18 => Command::Digest { index: LogIndex(reader.u64().at("index")?), digest: reader.u64().at("digest")? },
        19 => Command::SetLevel(level(reader)?),
        20 => Command::PutToken(PutToken::decode(reader)?),
        21 => Command::RevokeToken { actor: name_at(reader, "actor")?, which: name_at(reader, "which")? },
        22 => Command::PutInvitation { actor: name_at(reader, "actor")?, invited: Invited::decode(reader)? },
        23 => Command::UseInvitation { actor: name_at(reader, "actor")?, digest: access::digest(reader)? },
        24 => Command::Note(Note::decode(reader)?),
        30..=32 | 60 => lock(op, reader, session)?,
        33 => Command::PutSchedule(Box::new(PutSchedule::decode(reader, more)?)),
        34 => Command::FireSchedule { at: At::decode(reader)?.rising()?, jobs: Firing::decode_all(reader)? },
        35 => Command::DeleteSchedule(schedule_name(reader)?),
        36 => Command::PauseSchedule { name: schedule_name(reader)?, reason: reader.option(reason)? },
        37 => Command::TriggerSchedule {
            name: schedule_name(reader)?,
            id: reader.id().at("id")?,
            slot: more.then(|| reader.u64().at("slot")).transpose()?.map(Millis),
        },
        50 => admin::limit(reader)?,
        70 | 71 => Command::Change(Change::decode(reader, op)?),
        #[cfg(feature = "sim")]
        levels::FUTURE => Command::Future,
        38 => Command::MoveSchedule(At::decode(reader)?),
        40 => Command::OpenBatch {
            id: reader.id().at("id")?,
            name: batch_name(reader)?,
            outer: reader.option(|reader| reader.id()).at("outer")?,
        },
        41 => Command::SealBatch(reader.id().at("id")?),
        _ => Command::CancelBatch { id: reader.id().at("id")?, reason: reason(reader)? },
    })
}

fn lock<'a>(op: u64, reader: &mut Reader<'a>, session: SessionId) -> Result<Command<'a>> {
    Ok(match op {
        30 => Command::Lock {
            owner: owner(reader, session)?,
            name: name_at(reader, "name")?,
            waits: reader.bool().at("waits")?,
        },
        31 => {
            let name = name_at(reader, "name")?;
            Command::Unlock { session, name, token: LeaseToken(reader.u64().at("token")?) }
        }
        32 => Command::GiveUp(owner(reader, session)?),
        _ => Command::Acquire {
            owner: owner(reader, session)?,
            name: name_at(reader, "name")?,
            mode: Mode::decode(reader)?,
            waits: reader.bool().at("waits")?,
        },
    })
}

/// A level that this version does not know is like an operation that it does not know: what it allows is not known here.
fn level(reader: &mut Reader<'_>) -> Result<u64> {
    match reader.u64().at("level")? {
        0 => Err(Error::Invalid("level: 0, the first is 1".into())),
        level if level > levels::known() => Err(Error::Foreign(levels::too_old(&format!("feature level {level}")))),
        level => Ok(level),
    }
}

fn name_at<'a>(reader: &mut Reader<'a>, place: &str) -> Result<&'a str> {
    name(reader).at(place)
}

/// Who asks for a lock: the session of the request, with a number.
fn owner(reader: &mut Reader<'_>, session: SessionId) -> Result<Owner> {
    let number = reader.u64().at("number")?;
    match session.0 {
        0 => Err(Error::Invalid("session: 0, only a session can own a lock".into())),
        _ => Ok(Owner { session, number }),
    }
}

pub(super) fn ids(reader: &mut Reader<'_>) -> Result<Vec<JobId>> {
    list(reader, "ids", limits::BATCH_JOBS_MAX, |reader| reader.id())
}

fn enqueue<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>> {
    let specs = list(reader, "specs", limits::BATCH_JOBS_MAX, Spec::decode)?;
    let jobs = list(reader, "jobs", limits::BATCH_JOBS_MAX, |reader| new_job(reader, specs.len()))?;
    // Ids that a client made one after another rise: then none of them is there twice.
    if !jobs.windows(2).all(|pair| pair[0].id < pair[1].id) {
        let mut seen = BTreeSet::new();
        if let Some(position) = jobs.iter().position(|job| !seen.insert(job.id)) {
            return Err(Error::Invalid(format!("jobs[{position}].id: an earlier job of this batch has it too")));
        }
    }
    Ok(Command::Enqueue { specs, jobs })
}

fn new_job<'a>(reader: &mut Reader<'a>, specs: usize) -> Result<NewJob<'a>> {
    let items = reader.array()?;
    if !(6..=7).contains(&items) {
        return Err(Error::Invalid(format!("a job has 6 or 7 items, not {items}")));
    }
    let id = reader.id().at("id")?;
    let spec = reader.u64().at("spec_index")?;
    if spec >= specs as u64 {
        return Err(Error::Invalid(format!("spec_index: {spec}, there are {specs} specs")));
    }
    let mut new = NewJob {
        id,
        spec: spec as usize,
        args: bytes(reader.bin().at("args")?, limits::ARGS_BYTES_MAX).at("args")?,
        delay: Millis(reader.u64().at("delay_ms")?),
        run_at: reader.option(|reader| reader.u64()).at("run_at_ms")?.map(Millis),
        unique: reader.option(name).at("unique_key")?,
        recurrence: None,
        joining: None,
        limits: None,
    };
    if items > 6 {
        Extras { joining: new.joining, limits: new.limits } = Extras::decode(reader)?;
    }
    Ok(new)
}
