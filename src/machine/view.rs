//! Questions that change nothing. The numbers are frozen; the answers are MessagePack.
//!
//! | question                                   | answer                                                            |
//! |--------------------------------------------|-------------------------------------------------------------------|
//! | `[1]` counts                               | map of figures, see [`Machine::ask`]                              |
//! | `[2]` queues                               | `[[name, enqueued, processing, scheduled, retrying, paused, paused_until, reason, oldest_enqueued_ms, total_in, total_succeeded, total_failed]]`, sorted by name |
//! | `[3, id]` job                              | detail map, or nil                                                |
//! | `[4, clauses, cursor or nil, limit]` jobs  | `[rows, next_cursor or nil, scanned, complete]`, newest first     |
//! | `[5]` sessions                             | `[[session, kind, host, pid, labels, opened_ms, leases]]`         |
//! | `[6]` functions                            | `[[name, enqueued, processing, succeeded, failed, scheduled, retrying, cancelled, crashes, retries]]`, sorted by name; succeeded, failed, cancelled count every time it happened |
//! | `[7]` totals                               | map: jobs, specs, sessions, applied, now_ms, bytes, digest         |
//! | `[8, queues, functions]` due               | number of jobs that a claim could give now                        |
//! | `[9]` members                              | `[[node, name, raft_address, client_address]]`, sorted by node    |
//! | `[10]` feature level                       | `[level, highest_known]`                                          |
//! | `[30, after or nil, limit]` locks          | `[[[name, session, kind, host, pid, token, since_ms, waiters]], next or nil]`, by name, behind `after`; the oldest holder of each |
//! | `[31, after or nil, limit]` schedules      | `[[name, generation, source, pause_reason or nil, next_ms or nil, last_slot_ms or nil, last_job or nil, fired, skipped, overlap, function, queue, args, definition]]`, by name, behind `after`; large ones make a page shorter, the last one is empty |
//! | `[32, name]` schedule                      | one of these, or nil                                              |
//! | `[50, id]` limits of a job                 | `[[[LIMIT, running, waiting, open], ...], place or nil]`, or nil if it has none: how many jobs of each key run and wait, and whether one more may start; the place of a waiting job among those with the same task, queue and keys, for the first thousand |
//! | `[51]` limits of queues                    | `[[name, limit or nil, held_back]]`, sorted by name: how many jobs may run at once, and how many wait because a limit has no room |
//! | `[33, limit, [slot, name] or nil]` due schedules | `[rows, now_ms, next_ms or nil]`: those not paused whose slot has come, oldest first and then by name, behind a place, large ones make a page shorter; when the next one's comes. The place may be left out, as older clients do |
//! | `[40, after or nil, limit]` batches        | `[[id, name, state, outer or nil, opened_ms, finished_ms or nil, total, pending, succeeded, failed, cancelled], ...]`, by id, behind `after` |
//! | `[41, id]` batch                           | one of these, or nil                                              |
//! | `[42, id]` flow of a job or batch          | `[batch or nil, [[parent, on, standing], ...], parents, children]`: at most 100 parents, and how many there are; how many wait for it or were cancelled for it, counted up to 10,000 |
//! | `[60, [name, token] or nil, limit]` holders | `[[[name, mode, permits, session, kind, host, pid, token, since_ms, waiters]], next or nil]`: all holders of all locks, by name and token, behind a place; the mode is lock, semaphore, read or write |
//! | `[70, limit]` errors                       | `[errors, [[fingerprint or nil, type, function, errors, failed, first_ms, last_ms, last_job]]]`, the newest first: how many runs ended with one, and what they have in common; at most 1,000 groups |
//!
//! 61 is a question for log lines, which the machine does not have: see `node::lines`.
//!
//! A machine that serves writes must not be held for long: [`Machine::ask`] answers at once what costs little, and for
//! the rest takes a capture; [`Later::answer`] then works without the machine.

use super::job::State;
use super::record::JobRecord;
use super::search::{Archived, Jobs, Search};
use super::tally::Tally;
use super::{Image, Machine};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, Result};

/// Keys that take turns of which the oldest job is sought, in each line and priority, from the next one on.
const OLDEST_AMONG: usize = 100;

/// The answer, or what it can be made of without the machine.
pub enum Answer {
    Now(Vec<u8>),
    Later(Box<Later>),
}

/// A question with what it is asked of.
pub struct Later(Costly);

enum Costly {
    Jobs(Search, Jobs),
    /// The answer so far, which lacks the digest of the state.
    Totals(Writer, Box<Image>),
}

impl Later {
    /// The answer. With an archive, a search goes on there.
    pub fn answer(&self, archived: Option<&mut dyn Archived>) -> Result<Vec<u8>> {
        match &self.0 {
            Costly::Jobs(search, jobs) => search.run(jobs, archived),
            Costly::Totals(begun, image) => {
                let mut w = begun.clone();
                w.str("digest").u64(image.digest());
                Ok(w.into_bytes())
            }
        }
    }
}

impl Machine {
    /// Answers from memory alone. For a machine of its own (`memory://`, tests); a node uses `ask`.
    pub fn view(&self, question: &[u8]) -> Result<Vec<u8>> {
        match self.ask(question)? {
            Answer::Now(answer) => Ok(answer),
            Answer::Later(later) => later.answer(None),
        }
    }

    /// Answers what is cheap (one page of results at most) and captures the state for the rest.
    ///
    /// # Errors
    /// `Invalid` for a question that cannot be read.
    pub fn ask(&self, question: &[u8]) -> Result<Answer> {
        let mut reader = Reader::new(question);
        let items = reader.array()?;
        let number = reader.u64()?;
        let expected = match number {
            3 | 32 | 41 | 42 | 50 | 70 => 2,
            4 => 4,
            8 | 30 | 31 | 40 | 60 => 3,
            // The place may be left out.
            33 => items.clamp(2, 3),
            _ => 1,
        };
        if items != expected {
            return Err(Error::Invalid(format!("question {number} has {expected} items, not {items}")));
        }
        let answer = match number {
            1 => self.counts(),
            2 => self.queue_rows(),
            3 => self.detail(&mut reader)?,
            4 => {
                let search = Search::decode(&mut reader)?;
                reader.end()?;
                return Ok(Answer::Later(Box::new(Later(Costly::Jobs(search, self.capture_jobs())))));
            }
            5 => self.session_rows(),
            6 => self.function_rows(),
            7 => {
                reader.end()?;
                let image = Box::new(self.capture());
                return Ok(Answer::Later(Box::new(Later(Costly::Totals(self.totals(), image)))));
            }
            8 => self.due_count(&mut reader)?,
            9 => self.member_rows(),
            10 => self.levels(),
            30 => self.lock_rows(&mut reader)?,
            31 => self.schedule_rows(&mut reader)?,
            32 => self.schedule_row(&mut reader)?,
            33 => self.due_schedule_rows(&mut reader, items == 3)?,
            40 => self.batch_rows(&mut reader)?,
            41 => self.batch_row(&mut reader)?,
            42 => self.flow_row(&mut reader)?,
            50 => self.limit_rows(&mut reader)?,
            51 => self.queue_limit_rows(),
            60 => self.holder_rows(&mut reader)?,
            70 => self.error_rows(&mut reader)?,
            other => return Err(Error::Invalid(format!("question {other} is unknown"))),
        };
        reader.end()?;
        Ok(Answer::Now(answer))
    }

    fn counts(&self) -> Vec<u8> {
        let tally = self.tally();
        let mut w = Writer::new();
        let others = [
            ("created", tally.created),
            ("deleted", tally.deleted),
            ("archived", tally.archived_sum()),
            ("total_succeeded", tally.succeeded),
            ("total_failed", tally.failed),
            ("total_cancelled", tally.cancelled),
            ("requeued", tally.requeued),
            ("retries", tally.retried),
            ("crashes", tally.crashed),
            ("snoozed", tally.snoozed),
            ("released", tally.released),
            ("expired", tally.expired),
        ];
        w.map(State::ALL.len() + others.len());
        for state in State::ALL {
            w.str(state.name()).u64(tally.count(state));
        }
        for (name, figure) in others {
            w.str(name).u64(figure);
        }
        w.into_bytes()
    }

    fn queue_rows(&self) -> Vec<u8> {
        // Where keys take turns, the first of a line need not be the oldest.
        let most = if self.limiters.take_turns() { OLDEST_AMONG } else { 1 };
        let mut w = Writer::new();
        w.array(self.queues.count());
        for queue in self.queues.sorted() {
            let oldest = queue.heads(most).map(|slot| self.table.get(slot).at.0).min();
            w.array(12).str(&queue.name);
            states(&mut w, &queue.tally, &[State::Enqueued, State::Processing, State::Scheduled, State::Retrying]);
            w.bool(queue.pause.is_some());
            number(&mut w, queue.pause.as_ref().and_then(|pause| pause.until).map(|until| until.0));
            w.str(queue.pause.as_ref().map_or("", |pause| &pause.reason));
            number(&mut w, oldest);
            w.u64(queue.tally.created).u64(queue.tally.succeeded).u64(queue.tally.failed);
        }
        w.into_bytes()
    }

    fn queue_limit_rows(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(self.queues.count());
        for queue in self.queues.sorted() {
            let held = self.queues.number_of(&queue.name).map_or(0, |number| self.gates.held_in(number));
            number(w.array(3).str(&queue.name), queue.limit);
            w.u64(held);
        }
        w.into_bytes()
    }

    fn detail(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let Some((job, spec)) = self.job(reader.id()?) else { return Ok(vec![0xc0]) };
        let mut record = JobRecord::of(spec, job);
        record.in_flow |= self.flows.children(job.id, (0, 0), u64::MAX).next().is_some();
        Ok(record.detail(false))
    }

    fn session_rows(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(self.sessions.len());
        for session in self.sessions.values() {
            w.array(7).u64(session.id.0).str(&session.kind).str(&session.host).u64(session.pid);
            w.array(session.labels.len());
            for (name, text) in session.labels.iter() {
                w.array(2).str(name).str(text);
            }
            w.u64(session.opened.0).u64(self.leases_held(session.id) as u64);
        }
        w.into_bytes()
    }

    fn function_rows(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(self.functions.count());
        for function in self.functions.sorted() {
            let tally = &function.tally;
            w.array(10).str(&function.name);
            states(&mut w, tally, &[State::Enqueued, State::Processing]);
            w.u64(tally.succeeded).u64(tally.failed);
            states(&mut w, tally, &[State::Scheduled, State::Retrying]);
            w.u64(tally.cancelled).u64(tally.crashed).u64(tally.retried);
        }
        w.into_bytes()
    }

    /// The map of totals but for its last pair, the digest.
    fn totals(&self) -> Writer {
        let mut w = Writer::new();
        w.map(7).str("jobs").u64(self.len() as u64).str("specs").u64(self.specs.count() as u64);
        w.str("sessions").u64(self.sessions.len() as u64).str("applied").u64(self.applied.0);
        w.str("now_ms").u64(self.clock.0).str("bytes").u64(self.bytes());
        w
    }

    fn due_count(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let queues = distinct(reader)?;
        let functions = distinct(reader)?;
        let ready = queues.iter().map(|queue| {
            let number = self.queues.number_of(queue).unwrap_or_default();
            let sum = self.ready_lines(queue, &functions).map(|(function, line)| {
                let behind = self.gates.behind((number, function));
                line.len() as u64 - behind.shown + behind.jobs - behind.held
            });
            sum.sum::<u64>().min(self.queues.number_of(queue).map_or(0, |number| self.queues.get(number).room()))
        });
        let mut w = Writer::new();
        w.u64(ready.sum());
        Ok(w.into_bytes())
    }
}

fn distinct<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>> {
    let length = reader.array()?;
    if length > limits::CLAIM_NAMES_MAX {
        return Err(Error::Invalid(format!("{length} names; at most {}", limits::CLAIM_NAMES_MAX)));
    }
    let mut names = (0..length).map(|_| reader.str()).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn states(w: &mut Writer, tally: &Tally, states: &[State]) {
    for state in states {
        w.u64(tally.count(*state));
    }
}

fn number(w: &mut Writer, value: Option<u64>) {
    w.option(value, |w, value| {
        w.u64(value);
    });
}
