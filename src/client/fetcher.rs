//! The worker's side: takes claimed jobs from a buffer, leaves results in it. A pump keeps the one full, the other empty.
//!
//! ```text
//! threads of Python    next, finish_and_next: one short mutex; a thread that finds nothing steps itself, then waits
//! pump (one thread)    steps when results have lingered, the buffer runs low, or an answer asks for more
//! node or socket       calls back with claimed jobs, answers and events; never blocks here
//! ```
//!
//! A step sends notes, results and a claim in one go, so that they share a commit. A lost session is final: the jobs
//! are someone else's, the fetcher gives nothing more, and the worker opens a new one.

use super::buffer::{Buffer, Hunt, Item};
use super::patience::Patience;
use super::pump::{Pump, Shared, Sink, State};
use super::request::op;
use super::session::Session;
use super::signal::Signal;
use crate::attach::Backend;
use crate::base::codec::Writer;
use crate::base::sync::{Condvar, Mutex};
use crate::base::{limits, Error, JobId, LeaseToken, Result, SessionId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// What work a fetcher asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Names and weights. With `strict` in this order, else by weight.
    pub queues: Vec<(String, u64)>,
    pub strict: bool,
    /// Only jobs of these functions.
    pub functions: Vec<String>,
    /// 0: claim nothing ahead of a waiting thread.
    pub prefetch: usize,
}

/// Something a worker must know about a job it runs, or about all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Cancel(JobId, LeaseToken),
    Lost(JobId, LeaseToken),
    /// Somebody wants its log lines: see `tell_lines`.
    Lines(JobId, LeaseToken),
    SessionLost,
}

/// Takes jobs for one worker, under a session of its own.
pub struct Fetcher {
    shared: Arc<Shared>,
    pump: Mutex<Option<JoinHandle<()>>>,
}

impl Fetcher {
    /// Opens the session and starts the pump.
    pub fn open(
        backend: Arc<dyn Backend>,
        session: Arc<Session>,
        wish: Wish,
        patience: &mut Patience<'_>,
    ) -> Result<Arc<Self>> {
        if wish.queues.is_empty() || wish.queues.len().max(wish.functions.len()) > limits::CLAIM_NAMES_MAX {
            return Err(Error::Invalid(format!("a fetcher asks for 1 to {} queues", limits::CLAIM_NAMES_MAX)));
        }
        let id = session.id(patience)?;
        let state = State {
            buffer: Buffer::new(wish.prefetch, Instant::now()),
            events: VecDeque::new(),
            watch: None,
            asks: Vec::new(),
            ended: None,
            pump: Pump::Running,
        };
        let shared = Arc::new(Shared {
            backend,
            session,
            id,
            wish,
            state: Mutex::new(state),
            ready: Condvar::new(),
            told: Condvar::new(),
            flushed: Condvar::new(),
            pump: Condvar::new(),
            signal: Signal::new()?,
        });
        let watch = shared.backend.watch(id, Arc::new(Sink { shared: Arc::downgrade(&shared) }));
        shared.state.lock().watch = Some(watch);
        let pumped = shared.clone();
        let pump = std::thread::Builder::new()
            .name("raftwork-fetch".into())
            .spawn(move || pumped.run_pump())
            .map_err(|error| Error::disk("start a thread", "raftwork-fetch", &error))?;
        Ok(Arc::new(Self { shared, pump: Mutex::new(Some(pump)) }))
    }

    pub fn session(&self) -> SessionId {
        self.shared.id
    }

    /// A job that is at hand, without waiting.
    pub fn try_next(&self) -> Result<Option<Bytes>> {
        self.shared.try_next(None)
    }

    /// Leaves a result and takes a job if one is at hand. The hot path: one short mutex, no system call as a rule.
    pub fn finish_and_try_next(&self, result: Item) -> Result<Option<Bytes>> {
        self.shared.try_next(Some(result))
    }

    /// Waits for a job. Nothing: the deadline came first.
    pub fn next(&self, patience: &mut Patience<'_>) -> Result<Option<Bytes>> {
        let mut state = self.shared.state.lock();
        state.buffer.waiters += 1;
        let got = self.shared.wait_for_job(&mut state, patience);
        state.buffer.waiters -= 1;
        got
    }

    /// As many jobs as are at hand, up to `max`; waits for the first.
    pub fn next_many(&self, max: usize, patience: &mut Patience<'_>) -> Result<Vec<Bytes>> {
        let mut jobs = Vec::new();
        self.shared.take_into(&mut jobs, max)?;
        if jobs.is_empty() && !patience.is_over() {
            jobs.extend(self.next(patience)?);
            self.shared.take_into(&mut jobs, max)?;
        }
        Ok(jobs)
    }

    /// Leaves a result to be sent. Waits only when thousands wait already.
    pub fn finish(&self, result: Item, patience: &mut Patience<'_>) -> Result<()> {
        let mut state = self.shared.lock_with_room(patience)?;
        state.buffer.finish(result, Instant::now());
        self.shared.nudge_if_needed(&state, Instant::now());
        Ok(())
    }

    /// Leaves a note about a running job (progress, saved state).
    pub fn progress(&self, note: Item, patience: &mut Patience<'_>) -> Result<()> {
        let mut state = self.shared.lock_with_room(patience)?;
        state.buffer.note(note, Instant::now());
        self.shared.nudge_if_needed(&state, Instant::now());
        Ok(())
    }

    /// Whether a result may be left without waiting.
    pub fn has_room(&self) -> bool {
        !self.shared.state.lock().buffer.is_full()
    }

    /// Waits until every result and note left so far is answered. False: the deadline came first.
    pub fn flush(&self, patience: &mut Patience<'_>) -> Result<bool> {
        let mut state = self.shared.state.lock();
        state.buffer.flush = true;
        self.shared.nudge(&state);
        loop {
            // First: at the end the buffer is emptied, and what was in it is not stored.
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            if state.buffer.is_flushed() {
                return Ok(true);
            }
            if !patience.wait(&self.shared.flushed, &mut state)? && !state.buffer.is_flushed() {
                return Ok(false);
            }
        }
    }

    /// What happened to running jobs; waits for the first event. Why it ended, after all of them were told: an empty
    /// list would have its caller ask again at once, for ever.
    pub fn events(&self, patience: &mut Patience<'_>) -> Result<Vec<Event>> {
        let mut state = self.shared.state.lock();
        while state.events.is_empty() {
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            if !patience.wait(&self.shared.told, &mut state)? {
                break;
            }
        }
        Ok(state.events.drain(..).collect())
    }

    /// The log lines of a job that somebody wants, of which the first has this number. Nothing: it does not run here under
    /// this lease.
    pub fn tell_lines(&self, job: JobId, token: LeaseToken, lines: Option<(u64, Vec<String>)>) {
        self.shared.tell_lines(job, token, lines);
    }

    /// Claims nothing more and gives back what nobody has taken.
    pub fn pause(&self) {
        let mut state = self.shared.state.lock();
        state.buffer.paused = true;
        state.buffer.give_back(Instant::now());
        let watch = state.watch;
        self.shared.nudge(&state);
        drop(state);
        self.shared.ready.notify_all();
        self.shared.signal.set(false);
        if let Some(watch) = watch {
            self.shared.backend.disarm(watch);
        }
    }

    /// Claims again after `pause`.
    pub fn resume(&self) {
        let mut state = self.shared.state.lock();
        state.buffer.paused = false;
        if !matches!(state.buffer.hunt, Hunt::Claiming(_)) {
            state.buffer.hunt = Hunt::Hungry; // The pause has taken back the wish to be told.
        }
        self.shared.nudge(&state);
    }

    /// Whether the session is lost, or must be taken for lost: nothing confirmed it for two thirds of its time to live.
    pub fn is_fenced(&self) -> bool {
        let mut state = self.shared.state.lock();
        self.shared.fence_if_lapsed(&mut state);
        state.ended.as_ref().is_some_and(|error| *error == Error::SessionExpired)
    }

    /// Readable while `next_many` would give something, or the end has come. For event loops.
    pub fn fd(&self) -> RawFd {
        let state = self.shared.state.lock();
        self.shared.signal.watch();
        self.shared.signal.set(!state.buffer.ready.is_empty() || state.ended.is_some());
        self.shared.signal.fd()
    }

    /// Sends what is left, ends the session: its running jobs go back without spending an attempt.
    pub fn close(&self, patience: &mut Patience<'_>) -> Result<()> {
        self.pause();
        let flushed = self.flush(patience);
        let already = self.shared.end(Error::Closed);
        let closed = self.shared.session.close(patience);
        if let Some(pump) = self.pump.lock().take() {
            // Not joined from a callback that the pump itself runs.
            if pump.thread().id() != std::thread::current().id() {
                let _ = pump.join();
            }
        }
        match already {
            Some(_) => Ok(()),
            None => flushed.and(closed),
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Forgotten, not closed: the session goes on until it lapses or the process ends, and no thread stays behind.
        self.shared.end(Error::Closed);
    }
}

impl Wish {
    pub fn claim(&self, session: SessionId, max: usize) -> Vec<u8> {
        let mut out = Writer::new();
        out.array(6).u64(op::CLAIM).u64(session.0).array(self.queues.len());
        for (name, weight) in &self.queues {
            out.array(2).str(name).u64(*weight);
        }
        out.bool(self.strict).array(self.functions.len());
        for name in &self.functions {
            out.str(name);
        }
        out.u64(max as u64);
        out.into_bytes()
    }
}
