//! The log lines of a running job, which only its worker has: whoever wants them has the worker asked.
//!
//! ```text
//! client ── question 61 ──> any node ── has the connection of that session ──> pushes the ask to the worker
//!                            └ has it not: asks all other members at once ──> the one that has it
//! worker ── the lines, over the connection on which it was asked ──> whoever waits
//! ```
//!
//! What holds
//! * Nothing of it enters the log, the state or a disk. A question names the lease, so no state is needed to answer it.
//! * Every question is answered soon: that there are no lines, and why, is an answer. A worker that is gone, hangs, or is of
//!   a version that does not know the ask is silent, and said to be.
//! * The number of asks that wait is bounded, and equal ones share an answer: many who look at one job cost its worker no
//!   more than one does.
//! * Lines are taken from the watch of the session that was asked, so nobody can say what another's job logged.
//!
//! A question is `[61, session, job, token, from]`: lines of this job under this lease, from this number on, the first one
//! being 0. Its answer is `[standing, first, [line...], why]`: the number of the first line, and words if there is a reason
//! to tell.
//!
//! | standing | meaning                                                          |
//! |----------|------------------------------------------------------------------|
//! | 0        | these are the lines                                              |
//! | 1        | its worker does not run this job under this lease (any more)     |
//! | 2        | no node has a connection of this session                         |
//! | 3        | the worker gave no answer in time                                |
//! | 4        | a node could not be asked, and no other has the connection       |
//!
//! Between members, the first and the only frame of a connection, and its answer:
//!
//! | kind | name  | payload                                                         |
//! |------|-------|-----------------------------------------------------------------|
//! | 10   | Ask   | MessagePack: [cluster, group, session, job, token, from]        |
//! | 76   | Told  | an answer                                                       |

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::joining::ask;
use super::open::spawn;
use super::post::REFUSED;
use super::wakeups::{WatchEvent, WatchId};
use super::{Done, Node, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::Mutex;
use crate::base::{limits, Error, JobId, LeaseToken, NodeId, Result, SessionId};
use crate::net::packet::Frame;

/// The number of the question.
const LINES: u64 = 61;
pub(super) const ASK: u8 = 10;
const TOLD: u8 = 76;
/// How long a worker may take. Less than a member that asks for it waits.
const WORKER_WAIT: Duration = Duration::from_secs(2);
/// How long other members may take, connection and worker included.
const MEMBERS_WAIT: Duration = Duration::from_millis(3_500);

/// Why there are lines, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Told = 0,
    NotRunning = 1,
    NotConnected = 2,
    Silent = 3,
    Unreachable = 4,
}

/// Whose lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    pub session: SessionId,
    pub job: JobId,
    pub token: LeaseToken,
    /// The number of the first line that is wanted.
    pub from: u64,
}

impl Ask {
    /// The items of an ask, in the middle of something.
    pub fn write(&self, out: &mut Writer) {
        out.u64(self.session.0).id(self.job).u64(self.token.0).u64(self.from);
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (session, job) = (SessionId(reader.u64()?), reader.id()?);
        Ok(Self { session, job, token: LeaseToken(reader.u64()?), from: reader.u64()? })
    }

    /// What a question about the state asks for, if it is one for lines.
    ///
    /// # Errors
    /// `Invalid`: it is one, and cannot be read.
    pub fn of(question: &[u8]) -> Result<Option<Self>> {
        let mut reader = Reader::new(question);
        let items = reader.array()?;
        if reader.u64()? != LINES {
            return Ok(None);
        }
        if items != 5 {
            return Err(Error::Invalid(format!("question {LINES} has 5 items, not {items}")));
        }
        let ask = Self::read(&mut reader)?;
        reader.end()?;
        Ok(Some(ask))
    }

    /// The answer with these lines, of which the first has this number: those that are wanted, and of them as many of the
    /// newest as an answer may have.
    pub fn told(&self, first: u64, lines: &[String]) -> Vec<u8> {
        let mut kept = usize::try_from(self.from.saturating_sub(first)).unwrap_or(usize::MAX).min(lines.len());
        let mut bytes: usize = lines[kept..].iter().map(|line| line.len() + 5).sum();
        while bytes > limits::LINES_BYTES_MAX {
            bytes -= lines[kept].len() + 5;
            kept += 1;
        }
        let mut out = Writer::with_capacity(bytes + 32);
        out.array(4).u64(Standing::Told as u64).u64(first + kept as u64).array(lines.len() - kept);
        lines[kept..].iter().for_each(|line| {
            out.str(line);
        });
        out.str("");
        out.into_bytes()
    }

    /// The answer that there are none.
    pub fn none(&self, standing: Standing, why: &str) -> Vec<u8> {
        let mut out = Writer::new();
        out.array(4).u64(standing as u64).u64(self.from).array(0).str(why);
        out.into_bytes()
    }
}

/// Questions that wait for an answer.
#[derive(Default)]
pub struct Asks {
    /// Of callers, who share the answer to the same question.
    asked: Mutex<BTreeMap<Ask, Vec<Done<Vec<u8>>>>>,
    /// Of workers.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    /// By a number of each.
    asks: BTreeMap<u64, (Ask, Sender<Vec<u8>>)>,
    stopped: bool,
}

impl Asks {
    /// Has `find` answer on a thread of its own, unless the same is being asked already. `done` gets
    /// `[0, nil, answer]`, as for a question about the state: it is of no entry of the log.
    pub fn begin(
        self: &Arc<Self>,
        ask: Ask,
        done: Done<Vec<u8>>,
        find: impl FnOnce(&Asks) -> Result<Vec<u8>> + Send + 'static,
    ) {
        let mut asked = self.asked.lock();
        let callers: usize = asked.values().map(Vec::len).sum();
        if callers >= limits::LINES_CALLERS_MAX || (asked.len() >= limits::LINES_ASKS_MAX && !asked.contains_key(&ask))
        {
            drop(asked);
            return done(Err(too_many()));
        }
        let same = asked.entry(ask).or_default();
        same.push(done);
        if same.len() > 1 {
            return;
        }
        drop(asked);
        let asks = self.clone();
        let started = spawn("raftwork-lines", move || {
            let answer = find(&asks);
            asks.end(ask, &answer);
        });
        if let Err(error) = started {
            self.end(ask, &Err(error));
        }
    }

    fn end(&self, ask: Ask, answer: &Result<Vec<u8>>) {
        let callers = self.asked.lock().remove(&ask).unwrap_or_default();
        for done in callers {
            done(answer.as_ref().map_err(Error::clone).map(|answer| {
                let mut out = Writer::with_capacity(answer.len() + 4);
                out.array(3).u64(0).nil().raw(answer);
                out.into_bytes()
            }));
        }
    }

    /// Asks the worker with `push`, and waits. Nothing: `push` found no connection of its.
    pub fn ask_worker(&self, ask: Ask, push: impl FnOnce() -> bool) -> Result<Option<Vec<u8>>> {
        let (send, answer) = channel();
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            return Err(Error::Closed);
        }
        if waiting.asks.len() >= limits::LINES_CALLERS_MAX {
            return Err(too_many());
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.asks.insert(number, (ask, send));
        drop(waiting);
        let asked = push();
        let answer = if asked { answer.recv_timeout(WORKER_WAIT) } else { Err(RecvTimeoutError::Timeout) };
        self.waiting.lock().asks.remove(&number);
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
            Err(RecvTimeoutError::Timeout) if asked => {
                let seconds = WORKER_WAIT.as_secs();
                let why = format!("its worker is connected and did not answer within {seconds} s");
                Ok(Some(ask.none(Standing::Silent, &why)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
        }
    }

    /// What a worker says. Without effect if nobody waits for it.
    pub fn told(&self, ask: Ask, answer: &[u8]) {
        let answer = match check(answer) {
            Ok(()) => answer.to_vec(),
            Err(error) => {
                ask.none(Standing::Silent, &format!("its worker gave an answer that cannot be read: {error}"))
            }
        };
        let waiting = self.waiting.lock();
        for (_, send) in waiting.asks.values().filter(|(asked, _)| *asked == ask) {
            let _ = send.send(answer.clone()); // One that has just given up hears nothing.
        }
    }

    /// Nobody will answer any more.
    pub fn stop(&self) {
        let mut waiting = self.waiting.lock();
        waiting.stopped = true;
        waiting.asks.clear();
    }
}

fn too_many() -> Error {
    Error::Overloaded("too many log lines of running jobs are asked for; ask again in a moment".into())
}

/// Refuses what is no answer of a worker.
fn check(answer: &[u8]) -> Result<()> {
    if answer.len() > limits::LINES_BYTES_MAX + 1_024 {
        return Err(Error::Invalid(format!("{} bytes of log lines", answer.len())));
    }
    let mut reader = Reader::new(answer);
    reader.array_of(4, "log lines")?;
    reader.u64()?;
    reader.u64()?;
    for _ in 0..reader.array()? {
        reader.str()?;
    }
    reader.str()?;
    reader.end()
}

impl Node {
    /// Finds the worker of a question for log lines.
    pub(super) fn lines(&self, ask: Ask, done: Done<Vec<u8>>) {
        let shared = self.shared.clone();
        self.shared.lines.begin(ask, done, move |_| shared.find_lines(ask));
    }

    /// What the worker behind this watch says to an ask. Of another session than its own it says nothing.
    pub fn told_lines(&self, watch: WatchId, ask: Ask, answer: &[u8]) {
        if self.shared.wakeups.session_of(watch) == Some(ask.session) {
            self.shared.lines.told(ask, answer);
        }
    }
}

impl Shared {
    fn find_lines(self: &Arc<Self>, ask: Ask) -> Result<Vec<u8>> {
        self.check_running()?;
        match self.lines_here(ask)? {
            Some(answer) => Ok(answer),
            None => Ok(self.lines_elsewhere(ask)),
        }
    }

    fn lines_here(&self, ask: Ask) -> Result<Option<Vec<u8>>> {
        self.lines.ask_worker(ask, || self.wakeups.push(ask.session, WatchEvent::Lines(ask)))
    }

    /// Asks all other members at once: which of them has the connection, nobody keeps.
    fn lines_elsewhere(self: &Arc<Self>, ask: Ask) -> Vec<u8> {
        let until = Instant::now() + MEMBERS_WAIT;
        let own = self.identity.node;
        let mut unheard: Vec<NodeId> =
            self.machine.read().members().map(|member| member.node).filter(|node| *node != own).collect();
        let (send, answers) = channel();
        for member in unheard.clone() {
            let (shared, told) = (self.clone(), send.clone());
            // One that cannot be asked stays unheard.
            let _ = spawn("raftwork-lines", move || drop(told.send((member, shared.lines_of(member, ask)))));
        }
        drop(send);
        let mut why = "it did not answer in time".to_owned();
        while let Ok((member, answer)) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            match answer {
                Ok(Some(answer)) => return answer,
                Ok(None) => unheard.retain(|other| *other != member),
                Err(error) => why = error.to_string(),
            }
        }
        match unheard.first() {
            Some(member) => {
                let name =
                    self.machine.read().members().find(|other| other.node == *member).map(|it| it.raft.to_string());
                let name = name.unwrap_or_else(|| member.to_string());
                ask.none(Standing::Unreachable, &format!("its worker may be connected to member {name}: {why}"))
            }
            None => ask.none(Standing::NotConnected, ""),
        }
    }

    /// Nothing: that member has no connection of the session.
    fn lines_of(&self, member: NodeId, wanted: Ask) -> Result<Option<Vec<u8>>> {
        let config = self.config.cluster.as_ref().ok_or(Error::Closed)?;
        let address = self.raft_address(member).ok_or_else(|| Error::NotFound("it has no address".into()))?;
        let mut question = Writer::new();
        question.array(6).bin(&self.identity.cluster.0).u64(self.identity.group.0);
        wanted.write(&mut question);
        let answer = match ask(config, &address, ASK, question.as_bytes())? {
            Frame { kind: TOLD, payload, .. } => payload,
            Frame { kind: REFUSED, payload, .. } => {
                return Err(Error::NotCommitted(String::from_utf8_lossy(&payload).into_owned()));
            }
            frame => return Err(Error::Invalid(format!("a frame of kind {} in place of log lines", frame.kind))),
        };
        check(&answer)?;
        let mut reader = Reader::new(&answer);
        reader.array()?;
        Ok((reader.u64()? != Standing::NotConnected as u64).then_some(answer))
    }

    /// Answers another member, from the workers that are connected here.
    pub(super) fn answer_lines(&self, frame: &Frame) -> (u8, Vec<u8>) {
        match self.lines_for(&frame.payload) {
            Ok(answer) => (TOLD, answer),
            Err(error) => (REFUSED, error.to_string().into_bytes()),
        }
    }

    fn lines_for(&self, question: &[u8]) -> Result<Vec<u8>> {
        let mut reader = Reader::new(question);
        reader.array_of(6, "a question for log lines")?;
        if (reader.bin()?, reader.u64()?) != (&self.identity.cluster.0[..], self.identity.group.0) {
            return Err(Error::Foreign("log lines of another cluster are asked for".into()));
        }
        let ask = Ask::read(&mut reader)?;
        reader.end()?;
        self.check_running()?;
        Ok(self.lines_here(ask)?.unwrap_or_else(|| ask.none(Standing::NotConnected, "")))
    }
}
