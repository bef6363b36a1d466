//! A job as bytes: shortly in an image, which has its specification elsewhere, and whole as a record for the archive.
//!
//! ```text
//! JOB   [id, state, args, created, at, order, attempt, crashes, generation, cancel_requested, RARE | nil]
//! RARE  [unique, expires, session, enqueued, started, result, error, reason, progress, saved, [RUN...]], and for a job of a
//!       schedule [name, slot | nil] behind it: members below level 3 know none of these, and find none; behind that, for a
//!       job of a flow or with limits, a map of which item 1 is the flow and 3 its limits, and the schedule may be nil
//! RUN   [attempt, ending, started, ended, error]
//! ```
//!
//! A record that comes back has no deadline to start: somebody asks for it by hand, whenever that is.

use std::sync::Arc;

use super::decode::{bytes, check_name, list, number, Place, Result};
use super::extras;
use super::flows::Flow;
use super::job::{Ending, Job, Rare, Run, State};
use super::limit::{Limit, Limits};
use super::record::{AttemptRecord, JobRecord};
use super::recurring::Recurrence;
use super::specs::{Spec, UniqueMode};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, Millis, SessionId};

/// Items of the rare part of a job that comes from no schedule.
const RARE_ITEMS: usize = 11;

/// A final job that left memory, with its specification.
#[derive(Debug)]
pub(super) struct Archived {
    pub spec: Spec,
    /// Its `spec` number means nothing.
    pub job: Job,
}

impl<'a> JobRecord<'a> {
    /// All that is known of a job in memory.
    pub(super) fn of(spec: &'a Spec, job: &'a Job) -> Self {
        let rare = job.rare.as_deref();
        Self {
            keep_until_ms: keep_until(spec, job).0,
            id: job.id,
            state: job.state.code(),
            function: &spec.function,
            queue: &spec.queue,
            priority: spec.priority,
            tags: spec.tags.iter().map(|tag| &**tag).collect(),
            attempt: job.attempt.into(),
            crashes: job.crashes.into(),
            generation: job.generation.into(),
            created_ms: job.created.0,
            run_at_ms: job.due().map(|at| at.0),
            enqueued_ms: job.enqueued().map(|at| at.0),
            started_ms: job.started().map(|at| at.0),
            finished_ms: job.finished().map(|at| at.0),
            unique_key: job.unique().map(|key| &**key),
            error: rare.and_then(|rare| rare.error.as_deref()),
            reason: rare.and_then(|rare| rare.reason.as_deref()),
            session: job.session().map(|session| session.0),
            token: job.token().map(|token| token.0),
            cancel_requested: job.cancel_requested,
            max_attempts: spec.max_attempts,
            max_crashes: spec.max_crashes,
            timeout_ms: spec.timeout.map(|span| span.0),
            expires_ms: job.expires().map(|at| at.0),
            keep_result_ms: spec.keep_result.0,
            keep_failed_ms: spec.keep_failed.0,
            unique_mode: spec.unique_mode as u8,
            unique_window_ms: spec.unique_window.map(|span| span.0),
            crash_delay_ms: spec.crash_delay.0,
            args: &job.args,
            result: rare.and_then(|rare| rare.result.as_deref()),
            progress: rare.and_then(|rare| rare.progress.as_deref()),
            state_saved: rare.and_then(|rare| rare.saved.as_deref()),
            meta: &spec.meta,
            attempts: rare.map_or(Vec::new(), |rare| rare.history.iter().map(attempt).collect()),
            schedule: job.recurrence().map(|from| &*from.schedule),
            slot_ms: job.recurrence().and_then(|from| from.slot).map(|slot| slot.0),
            batch: job.flow().and_then(|flow| flow.batch),
            flow: None,
            children: &[],
            limits: job.limits().cloned(),
            in_flow: job.flow().is_some(),
        }
    }
}

fn attempt(run: &Run) -> AttemptRecord<'_> {
    AttemptRecord {
        attempt: run.attempt.into(),
        started_ms: run.started.0,
        ended_ms: run.ended.0,
        outcome: run.ending as u8,
        error: run.error.as_deref(),
    }
}

/// Until when the archive keeps a final job; zero if nobody wants it, or it is not final.
fn keep_until(spec: &Spec, job: &Job) -> Millis {
    let keep = match job.state {
        State::Succeeded => spec.keep_result,
        State::Failed | State::Cancelled => spec.keep_failed,
        _ => Millis(0),
    };
    if keep == Millis(0) {
        return keep;
    }
    job.at.plus(keep)
}

/// Reads a record that somebody wants back. Refuses one of a job that is not final.
pub(super) fn decode(record: &[u8]) -> Result<Archived> {
    let record = &JobRecord::decode(record)?;
    let state = State::from_code(record.state.into()).filter(|state| state.is_final());
    let state = state.ok_or_else(|| Error::Invalid("state: not a final one".into()))?;
    let spec = spec_of(record)?;
    let count = |value: u64, place: &str| u32::try_from(value).map_err(|_| Error::Invalid(format!("{place}: {value}")));
    let job = Job {
        id: record.id,
        args: bytes(record.args, limits::ARGS_BYTES_MAX).at("args")?.into(),
        created: Millis(record.created_ms),
        at: Millis(record.finished_ms.unwrap_or(0)),
        order: 0,
        spec: 0,
        attempt: count(record.attempt, "attempt")?,
        crashes: count(record.crashes, "crashes")?,
        generation: count(record.generation, "generation")?,
        state,
        cancel_requested: record.cancel_requested,
        rare: Some(Arc::new(rare_of(record)?)),
    };
    if !job.is_in_place() {
        return Err(Error::Invalid("flow: the parents of a job that ended".into()));
    }
    Ok(Archived { spec, job })
}

fn spec_of(record: &JobRecord<'_>) -> Result<Spec> {
    let spec = Spec {
        function: check_name(record.function).at("function")?.into(),
        queue: check_name(record.queue).at("queue")?.into(),
        priority: record.priority,
        max_attempts: record.max_attempts,
        max_crashes: record.max_crashes,
        timeout: record.timeout_ms.map(Millis),
        keep_result: Millis(record.keep_result_ms),
        keep_failed: Millis(record.keep_failed_ms),
        tags: record.tags.iter().map(|tag| check_name(tag).map(Into::into)).collect::<Result<_>>().at("tags")?,
        unique_mode: UniqueMode::from_code(record.unique_mode.into()).at("unique_mode")?,
        unique_window: record.unique_window_ms.map(Millis),
        expires: None,
        crash_delay: Millis(record.crash_delay_ms),
        meta: bytes(record.meta, limits::META_BYTES_MAX).at("meta")?.into(),
    };
    spec.check()?;
    Ok(spec)
}

fn rare_of(record: &JobRecord<'_>) -> Result<Rare> {
    let error = |bytes: Option<&[u8]>| bytes.map(|bytes| super::finish::check_error(bytes).map(Into::into)).transpose();
    let mut history = Vec::with_capacity(record.attempts.len());
    for run in record.attempts.iter().rev().take(limits::HISTORY_MAX).rev() {
        history.push(Run {
            attempt: run.attempt.min(u32::MAX.into()) as u32,
            ending: Ending::from_code(run.outcome.into()).ok_or_else(|| Error::Invalid("attempts: outcome".into()))?,
            started: Millis(run.started_ms),
            ended: Millis(run.ended_ms),
            error: error(run.error)?,
        });
    }
    let note =
        |bytes_: Option<&[u8]>| bytes_.map(|note| bytes(note, limits::STATE_BYTES_MAX).map(Into::into)).transpose();
    Ok(Rare {
        unique: record.unique_key.map(|key| check_name(key).map(Into::into)).transpose().at("unique_key")?,
        expires: None,
        session: SessionId(0),
        enqueued: Millis(record.enqueued_ms.unwrap_or(0)),
        started: Millis(record.started_ms.unwrap_or(0)),
        result: record
            .result
            .map(|result| bytes(result, limits::RESULT_BYTES_MAX).map(Into::into))
            .transpose()
            .at("result")?,
        error: error(record.error).at("error")?,
        reason: record.reason.map(|reason| bytes(reason, limits::REASON_BYTES_MAX).map(Into::into)).transpose()?,
        progress: note(record.progress).at("progress")?,
        saved: note(record.state_saved).at("state_saved")?,
        history,
        recurrence: record.schedule.map(|name| recurrence(name, record.slot_ms)).transpose().at("schedule")?,
        flow: record.flow.map(flow).transpose().at("flow")?,
        limits: record.limits.clone(),
    })
}

fn flow(bytes: &[u8]) -> Result<Arc<Flow>> {
    let mut reader = Reader::new(bytes);
    let flow = Flow::decode(&mut reader)?;
    reader.end()?;
    Ok(Arc::new(flow))
}

fn recurrence(name: &str, slot: Option<u64>) -> Result<Arc<Recurrence>> {
    let schedule = check_name(bytes(name, limits::SCHEDULE_NAME_BYTES_MAX)?)?.into();
    Ok(Arc::new(Recurrence { schedule, slot: slot.map(Millis) }))
}

pub(super) fn encode_job(job: &Job, writer: &mut Writer) {
    writer.array(11).id(job.id).u64(job.state.code().into()).bin(&job.args);
    writer.u64(job.created.0).u64(job.at.0).u64(job.order);
    writer.u64(job.attempt.into()).u64(job.crashes.into()).u64(job.generation.into()).bool(job.cancel_requested);
    writer.option(job.rare.as_deref(), |writer, rare| encode_rare(rare, writer));
}

fn encode_rare(rare: &Rare, writer: &mut Writer) {
    let items = usize::from(rare.flow.is_some()) + usize::from(rare.limits.is_some());
    let behind = if items > 0 { 2 } else { usize::from(rare.recurrence.is_some()) };
    writer.array(RARE_ITEMS + behind);
    text(&rare.unique, writer);
    writer.option(rare.expires, |writer, at| {
        writer.u64(at.0);
    });
    writer.u64(rare.session.0).u64(rare.enqueued.0).u64(rare.started.0);
    bin(rare.result.as_deref(), writer);
    bin(rare.error.as_deref(), writer);
    text(&rare.reason, writer);
    bin(rare.progress.as_deref(), writer);
    bin(rare.saved.as_deref(), writer);
    writer.array(rare.history.len());
    for run in &rare.history {
        writer.array(5).u64(run.attempt.into()).u64(run.ending as u64).u64(run.started.0).u64(run.ended.0);
        bin(run.error.as_deref(), writer);
    }
    if behind > 0 {
        writer.option(rare.recurrence.as_ref(), |writer, from| from.encode(writer));
    }
    if items > 0 {
        writer.map(items);
    }
    if let Some(flow) = &rare.flow {
        flow.encode(writer.u64(1));
    }
    if let Some(limits) = &rare.limits {
        Limit::encode_all(limits, writer.u64(extras::LIMITS));
    }
}

fn text(value: &Option<Arc<str>>, writer: &mut Writer) {
    writer.option(value.as_deref(), |writer, text| {
        writer.str(text);
    });
}

fn bin(value: Option<&[u8]>, writer: &mut Writer) {
    writer.option(value, |writer, bytes| {
        writer.bin(bytes);
    });
}

pub(super) fn decode_job(reader: &mut Reader<'_>, spec: u32) -> Result<Job> {
    reader.array_of(11, "a job")?;
    let id = reader.id()?;
    let code = reader.u64()?;
    let state = State::from_code(code).ok_or_else(|| Error::Invalid(format!("state {code}")))?;
    Ok(Job {
        id,
        state,
        spec,
        args: reader.bin()?.into(),
        created: Millis(reader.u64()?),
        at: Millis(reader.u64()?),
        order: reader.u64()?,
        attempt: number(reader, u32::MAX.into())? as u32,
        crashes: number(reader, u32::MAX.into())? as u32,
        generation: number(reader, u32::MAX.into())? as u32,
        cancel_requested: reader.bool()?,
        rare: reader.option(decode_rare)?.map(Arc::new),
    })
}

fn decode_rare(reader: &mut Reader<'_>) -> Result<Rare> {
    let items = reader.array()?;
    if !(RARE_ITEMS..=RARE_ITEMS + 2).contains(&items) {
        return Err(Error::Invalid(format!("the rare part of a job has {RARE_ITEMS} items, not {items}")));
    }
    let mut rare = Rare {
        unique: reader.option(|reader| reader.str().map(Into::into))?,
        expires: reader.option(|reader| reader.u64())?.map(Millis),
        session: SessionId(reader.u64()?),
        enqueued: Millis(reader.u64()?),
        started: Millis(reader.u64()?),
        result: reader.option(|reader| reader.bin().map(Into::into))?,
        error: reader.option(|reader| reader.bin().map(Into::into))?,
        reason: reader.option(|reader| reader.str().map(Into::into))?,
        progress: reader.option(|reader| reader.bin().map(Into::into))?,
        saved: reader.option(|reader| reader.bin().map(Into::into))?,
        history: list(reader, "history", limits::HISTORY_MAX, decode_run)?,
        recurrence: match items {
            RARE_ITEMS => None,
            _ => reader.option(decode_recurrence)?,
        },
        flow: None,
        limits: None,
    };
    if items == RARE_ITEMS + 2 {
        (rare.flow, rare.limits) = decode_extras(reader)?;
    }
    Ok(rare)
}

fn decode_extras(reader: &mut Reader<'_>) -> Result<(Option<Arc<Flow>>, Option<Limits>)> {
    let (mut flow, mut limits) = (None, None);
    for _ in 0..reader.map()? {
        match reader.u64()? {
            1 => flow = Some(Arc::new(Flow::decode(reader).at("flow")?)),
            extras::LIMITS => limits = Limit::decode_all(reader)?,
            other => return Err(Error::Invalid(format!("extras: {other} is not known"))),
        }
    }
    Ok((flow, limits))
}

fn decode_recurrence(reader: &mut Reader<'_>) -> Result<Arc<Recurrence>> {
    reader.array_of(2, "where a job comes from")?;
    recurrence(reader.str()?, reader.option(|reader| reader.u64())?)
}

fn decode_run(reader: &mut Reader<'_>) -> Result<Run> {
    reader.array_of(5, "a run")?;
    let attempt = number(reader, u32::MAX.into())? as u32;
    let code = reader.u64()?;
    Ok(Run {
        attempt,
        ending: Ending::from_code(code).ok_or_else(|| Error::Invalid(format!("ending {code}")))?,
        started: Millis(reader.u64()?),
        ended: Millis(reader.u64()?),
        error: reader.option(|reader| reader.bin().map(Into::into))?,
    })
}
