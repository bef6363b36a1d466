//! Sessions: connected processes, the answers kept for them, and what ends with them.
//!
//! Exactly once (L5): an answer is kept under its sequence until the session acknowledges it, so a command that is sent
//! again gets the first answer and is not applied again. A sequence that was acknowledged is refused, never repeated.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::{bytes, list, name, number, Place as _};
use super::outcome::{self, Outcome, Refusal};
use super::{job::Ending, table::Slot, Machine};
use crate::base::codec::Reader;
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LeaseToken, LogIndex, Millis, Result, SessionId};

/// A process that connects, as it describes itself.
#[derive(Debug)]
pub struct Opening<'a> {
    pub ttl: Millis,
    pub kind: &'a str,
    pub host: &'a str,
    pub pid: u64,
    pub labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Opening<'a> {
    /// `OpenSession`, behind its number.
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        let ttl = Millis(number(reader, limits::SESSION_TTL_MS_MAX).at("ttl_ms")?);
        let kind = reader.str().at("kind")?;
        if !matches!(kind, "client" | "worker") {
            return Err(Error::Invalid("kind: neither \"client\" nor \"worker\"".into()));
        }
        Ok(Self {
            ttl,
            kind,
            host: name(reader).at("host")?,
            pid: reader.u64().at("pid")?,
            labels: list(reader, "labels", limits::LABELS_MAX, |reader| {
                reader.array_of(2, "a label")?;
                Ok((name(reader)?, bytes(reader.str()?, limits::NAME_BYTES_MAX)?))
            })?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub ttl: Millis,
    /// `client` or `worker`.
    pub kind: Arc<str>,
    pub host: Arc<str>,
    pub pid: u64,
    pub labels: Arc<[(Box<str>, Box<str>)]>,
    pub opened: Millis,
    pub(super) replies: Replies,
    /// State of the weighted round robin, by the number of the queue.
    pub(super) rota: BTreeMap<u32, i64>,
}

/// The answers of one session that it has not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replies {
    pub acked: u64,
    pub kept: BTreeMap<u64, Arc<[u8]>>,
    pub bytes: usize,
}

impl Replies {
    fn acknowledge(&mut self, upto: u64) {
        if upto <= self.acked {
            return;
        }
        self.acked = upto;
        while let Some(entry) = self.kept.first_entry().filter(|entry| *entry.key() <= upto) {
            self.bytes -= entry.remove().len();
        }
    }

    pub fn keep(&mut self, sequence: u64, reply: &[u8]) {
        self.bytes += reply.len();
        self.kept.insert(sequence, reply.into());
    }
}

/// What is known of a command before it is applied.
pub(super) enum Before {
    /// It was applied: this is its answer.
    Repeated(Arc<[u8]>),
    Refused(Refusal),
    New,
}

impl Machine {
    /// Whether the command of this session and sequence may be applied.
    pub(super) fn before(&mut self, session: SessionId, sequence: u64, acked_up_to: u64) -> Before {
        if session.0 == 0 {
            return Before::New;
        }
        let Some(session) = self.sessions.get_mut(&session) else {
            return Before::Refused(Refusal::session_expired(session.0));
        };
        let replies = &mut Arc::make_mut(session).replies;
        replies.acknowledge(acked_up_to);
        if sequence <= replies.acked {
            return Before::Refused(Refusal::stale_sequence(sequence, replies.acked));
        }
        if let Some(reply) = replies.kept.get(&sequence).filter(|_| !has(Bug::ApplyRepeated)) {
            return Before::Repeated(reply.clone());
        }
        if replies.kept.len() >= limits::REPLIES_MAX || replies.bytes >= limits::REPLY_BYTES_MAX {
            let kept = replies.kept.len();
            return Before::Refused(Refusal::overloaded(format!("{kept} answers wait to be acknowledged")));
        }
        Before::New
    }

    /// Keeps the answer for a repetition. The command may have ended its own session: then there is none to keep it.
    pub(super) fn after(&mut self, session: SessionId, sequence: u64, reply: &[u8]) {
        if let Some(session) = self.sessions.get_mut(&session) {
            Arc::make_mut(session).replies.keep(sequence, reply);
        }
    }

    /// An open session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id).map(|session| &**session)
    }

    pub(super) fn open_session(&mut self, index: LogIndex, opening: &Opening<'_>) -> Outcome {
        if self.sessions.len() >= limits::SESSIONS_MAX {
            return Err(Refusal::overloaded(format!("{} sessions are open", limits::SESSIONS_MAX)));
        }
        let session = Session {
            id: SessionId(index.0),
            ttl: opening.ttl,
            kind: opening.kind.into(),
            host: opening.host.into(),
            pid: opening.pid,
            labels: opening.labels.iter().map(|(name, text)| (Box::from(*name), Box::from(*text))).collect(),
            opened: self.clock,
            replies: Replies::default(),
            rota: BTreeMap::new(),
        };
        self.sessions.insert(session.id, Arc::new(session));
        outcome::number(index.0)
    }

    /// Ends a session. Graceful: its leases are given back as if never taken. Otherwise each counts as a crash.
    pub(super) fn end_session(&mut self, session: SessionId, graceful: bool) -> Outcome {
        if self.sessions.remove(&session).is_none() {
            return Err(Refusal::session_expired(session.0));
        }
        let leases: Vec<_> = self.leases_of(session).collect();
        for (token, slot) in leases.iter().filter(|_| !has(Bug::LeasesStay)) {
            if graceful {
                self.end_run(*slot, Ending::Released, Millis(0));
            } else {
                let id = self.table.get(*slot).id;
                self.effects.lost.push((session, id, *token));
                self.end_run(*slot, Ending::Lost, Millis(0));
            }
        }
        self.end_locks(session);
        self.effects.closed.push(session);
        outcome::number(leases.len() as u64)
    }

    /// The leases that a session holds, oldest first.
    pub(super) fn leases_of(&self, session: SessionId) -> impl Iterator<Item = (LeaseToken, Slot)> + '_ {
        self.leases.get(&session).into_iter().flatten().map(|(token, slot)| (*token, *slot))
    }

    /// How many leases a session holds.
    pub(super) fn leases_held(&self, session: SessionId) -> usize {
        self.leases.get(&session).map_or(0, BTreeMap::len)
    }
}
