//! One job as bytes: what `Machine::finished` gives to the archive, what `Restore` brings back, and the two maps that
//! people see (`detail` and `row`). Live and archived jobs go through the same struct, so both look the same.
//!
//! A record is one MessagePack array of 36 items in the order of [`JobRecord`], of 38 if the job comes from a schedule, or of 39
//! if it is part of a flow or has limits: the last is a map, 1 its flow, 2 the ids of those cancelled for it, 3 its limits. Only
//! two positions are promised to a reader that knows nothing else, such as the archive:
//!
//! | position | value                                                                              |
//! |----------|------------------------------------------------------------------------------------|
//! | 0        | format of the record: 1, 2 with a schedule, or 3 with a flow or limits             |
//! | 1        | keep until, milliseconds since the epoch; 0 = not kept at all                      |
//!
//! Invariants
//! * `decode(encode(x)) == x`; bytes behind the last item are refused.
//! * What a filter reads stands before the large values, so a scan does not touch arguments or results.

use super::filter::without_module;
use super::flows::{Flow, Standing};
use super::limit::{Limit, Limits};
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, JobId, Result};

/// Format of a record; a later version reads all earlier ones.
pub const RECORD_FORMAT: u64 = 3;
/// Items of the array by its format.
const RECORD_ITEMS: [usize; RECORD_FORMAT as usize] = [36, 38, 39];
/// Bytes of an error message that a row shows; the detail has all of it.
const ROW_MESSAGE_BYTES_MAX: usize = 500;

/// Names of the job states by their code.
pub const STATE_NAMES: [&str; 8] =
    ["awaiting", "scheduled", "enqueued", "processing", "retrying", "succeeded", "failed", "cancelled"];

/// Names of how an attempt ended, by the outcome codes of `Finish`; the last is a lease that was lost.
pub const OUTCOME_NAMES: [&str; 8] =
    ["succeeded", "retried", "failed", "snoozed", "released", "cancelled", "crashed", "lost"];

/// One past attempt of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptRecord<'a> {
    pub attempt: u64,
    pub started_ms: u64,
    pub ended_ms: u64,
    /// Index into [`OUTCOME_NAMES`].
    pub outcome: u8,
    /// MessagePack `[type, message, traceback]`.
    pub error: Option<&'a [u8]>,
}

/// All that is known of one job. Borrowed: made from a live job or from the bytes of an archived one, without copying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRecord<'a> {
    /// Finish time plus the retention of its final state; 0 when it is not kept, or not final yet.
    pub keep_until_ms: u64,
    pub id: JobId,
    /// Index into [`STATE_NAMES`].
    pub state: u8,
    pub function: &'a str,
    pub queue: &'a str,
    pub priority: i64,
    pub tags: Vec<&'a str>,
    /// Attempts started so far, so 1 while the first one runs.
    pub attempt: u64,
    pub crashes: u64,
    pub generation: u64,
    pub created_ms: u64,
    pub run_at_ms: Option<u64>,
    pub enqueued_ms: Option<u64>,
    pub started_ms: Option<u64>,
    pub finished_ms: Option<u64>,
    pub unique_key: Option<&'a str>,
    /// The last error: MessagePack `[type, message, traceback]`.
    pub error: Option<&'a [u8]>,
    /// Why it was cancelled or failed, in words, when there is no error.
    pub reason: Option<&'a str>,
    pub session: Option<u64>,
    pub token: Option<u64>,
    pub cancel_requested: bool,
    pub max_attempts: u64,
    pub max_crashes: u64,
    pub timeout_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub keep_result_ms: u64,
    pub keep_failed_ms: u64,
    /// 0 skip, 1 replace, 2 raise.
    pub unique_mode: u8,
    pub unique_window_ms: Option<u64>,
    pub crash_delay_ms: u64,
    pub args: &'a [u8],
    pub result: Option<&'a [u8]>,
    /// `(progress, saved state)`: what the job reported and saved last.
    pub progress: Option<&'a [u8]>,
    pub state_saved: Option<&'a [u8]>,
    pub meta: &'a [u8],
    /// Oldest first.
    pub attempts: Vec<AttemptRecord<'a>>,
    /// The schedule that it comes from, and its slot; no slot if it was triggered.
    pub schedule: Option<&'a str>,
    pub slot_ms: Option<u64>,
    /// Its batch.
    pub batch: Option<JobId>,
    /// Its parents and its batch as the machine encodes them, in a record for the archive.
    pub flow: Option<&'a [u8]>,
    /// The ids of jobs that were cancelled because of how it ended, one behind the other: they come back with it.
    pub children: &'a [u8],
    pub limits: Option<Limits>,
    /// Whether the question for its flow has something to tell. Follows from the rest in a record for the archive.
    pub in_flow: bool,
}

/// When this record may be forgotten; 0 = it is not kept. Reads the first two items only.
pub fn keep_until_ms(record: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(record);
    head(&mut reader)?;
    reader.u64()
}

/// Generation and end: what tells a newer record of a job from an older one. Reads the first items only.
pub fn age(record: &[u8]) -> Result<(u64, Option<u64>)> {
    let mut reader = Reader::new(record);
    head(&mut reader)?;
    (0..9).try_for_each(|_| reader.raw().map(drop))?; // From `keep_until_ms` to `crashes`.
    let generation = reader.u64()?;
    (0..4).try_for_each(|_| reader.raw().map(drop))?; // From `created_ms` to `started_ms`.
    Ok((generation, reader.option(Reader::u64)?))
}

/// The detail map of an archived record.
pub fn detail(record: &[u8]) -> Result<Vec<u8>> {
    Ok(JobRecord::decode(record)?.detail(true))
}

/// Bits that say what a record is about, so that an archive can skip a thousand records without reading them. A record
/// has the [`label`] of its state, function, queue, error type, batch and of each tag; other bits may be set by chance.
pub fn labels(record: &[u8]) -> u64 {
    JobRecord::decode(record).map_or(u64::MAX, |record| record.labels())
}

/// The bit of one word of a field.
pub fn label(field: &str, word: &str) -> u64 {
    if field == "state" {
        return STATE_NAMES.iter().position(|name| *name == word).map_or(0, |state| 1 << state);
    }
    // FNV-1a: any fixed hash does, as long as it stays the same for as long as records are kept.
    let bytes = field.bytes().chain([0]).chain(word.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    1 << (STATE_NAMES.len() as u64 + (hash >> 32) % (64 - STATE_NAMES.len() as u64))
}

/// Reads the length of the array and its first item, the format.
fn head(reader: &mut Reader<'_>) -> Result<u64> {
    let items = reader.array()?;
    let format = reader.u64()?;
    if !(1..=RECORD_FORMAT).contains(&format) {
        return Err(Error::Invalid(format!("a job record of format {format}; this version knows {RECORD_FORMAT}")));
    }
    let expected = RECORD_ITEMS[format as usize - 1];
    match items == expected {
        true => Ok(format),
        false => Err(Error::Invalid(format!("a job record of format {format} has {expected} items, not {items}"))),
    }
}

impl<'a> JobRecord<'a> {
    /// The bytes of this record.
    pub fn encode(&self) -> Vec<u8> {
        let large = self.args.len() + self.result.map_or(0, <[u8]>::len) + self.meta.len();
        let mut w = Writer::with_capacity(256 + large);
        let format = match () {
            () if self.extras() > 0 => 3,
            () if self.schedule.is_some() => 2,
            () => 1,
        };
        w.array(RECORD_ITEMS[format - 1]).u64(format as u64).u64(self.keep_until_ms).id(self.id).u64(self.state.into());
        w.str(self.function).str(self.queue).i64(self.priority).array(self.tags.len());
        for tag in &self.tags {
            w.str(tag);
        }
        w.u64(self.attempt).u64(self.crashes).u64(self.generation).u64(self.created_ms);
        for moment in [self.run_at_ms, self.enqueued_ms, self.started_ms, self.finished_ms] {
            number(&mut w, moment);
        }
        text(&mut w, self.unique_key);
        bytes(&mut w, self.error);
        text(&mut w, self.reason);
        number(&mut w, self.session);
        number(&mut w, self.token);
        w.bool(self.cancel_requested).u64(self.max_attempts).u64(self.max_crashes);
        number(&mut w, self.timeout_ms);
        number(&mut w, self.expires_ms);
        w.u64(self.keep_result_ms).u64(self.keep_failed_ms).u64(self.unique_mode.into());
        number(&mut w, self.unique_window_ms);
        w.u64(self.crash_delay_ms).bin(self.args);
        bytes(&mut w, self.result);
        w.array(2);
        bytes(&mut w, self.progress);
        bytes(&mut w, self.state_saved);
        w.bin(self.meta).array(self.attempts.len());
        for past in &self.attempts {
            w.array(5).u64(past.attempt).u64(past.started_ms).u64(past.ended_ms).u64(past.outcome.into());
            bytes(&mut w, past.error);
        }
        if format > 1 {
            text(&mut w, self.schedule);
            number(&mut w, self.slot_ms);
        }
        if format > 2 {
            w.map(self.extras());
            if let Some(flow) = self.flow {
                w.u64(1).raw(flow);
            }
            if !self.children.is_empty() {
                w.u64(2).bin(self.children);
            }
            if let Some(limits) = &self.limits {
                Limit::encode_all(limits, w.u64(3));
            }
        }
        w.into_bytes()
    }

    /// Reads a record that may be damaged.
    pub fn decode(record: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(record);
        let format = head(&mut r)?;
        let mut decoded = Self {
            keep_until_ms: r.u64()?,
            id: r.id()?,
            state: code(&mut r, STATE_NAMES.len(), "a job state")?,
            function: r.str()?,
            queue: r.str()?,
            priority: r.i64()?,
            tags: (0..r.array()?).map(|_| r.str()).collect::<Result<_>>()?,
            attempt: r.u64()?,
            crashes: r.u64()?,
            generation: r.u64()?,
            created_ms: r.u64()?,
            run_at_ms: r.option(Reader::u64)?,
            enqueued_ms: r.option(Reader::u64)?,
            started_ms: r.option(Reader::u64)?,
            finished_ms: r.option(Reader::u64)?,
            unique_key: r.option(Reader::str)?,
            error: r.option(Reader::bin)?,
            reason: r.option(Reader::str)?,
            session: r.option(Reader::u64)?,
            token: r.option(Reader::u64)?,
            cancel_requested: r.bool()?,
            max_attempts: r.u64()?,
            max_crashes: r.u64()?,
            timeout_ms: r.option(Reader::u64)?,
            expires_ms: r.option(Reader::u64)?,
            keep_result_ms: r.u64()?,
            keep_failed_ms: r.u64()?,
            unique_mode: code(&mut r, 3, "a unique mode")?,
            unique_window_ms: r.option(Reader::u64)?,
            crash_delay_ms: r.u64()?,
            args: r.bin()?,
            result: r.option(Reader::bin)?,
            progress: {
                r.array_of(2, "progress and saved state")?;
                r.option(Reader::bin)?
            },
            state_saved: r.option(Reader::bin)?,
            meta: r.bin()?,
            attempts: (0..r.array()?).map(|_| decode_attempt(&mut r)).collect::<Result<_>>()?,
            schedule: None,
            slot_ms: None,
            batch: None,
            flow: None,
            children: &[],
            limits: None,
            in_flow: false,
        };
        if format > 1 {
            (decoded.schedule, decoded.slot_ms) = (r.option(Reader::str)?, r.option(Reader::u64)?);
        }
        if format > 2 {
            decoded.decode_extras(&mut r)?;
            decoded.in_flow = decoded.flow.is_some() || !decoded.children.is_empty();
        }
        r.end()?;
        Ok(decoded)
    }

    fn decode_extras(&mut self, r: &mut Reader<'a>) -> Result<()> {
        for _ in 0..r.map()? {
            match r.u64()? {
                1 => {
                    let flow = r.raw()?;
                    self.batch = batch_of(flow)?;
                    self.flow = Some(flow);
                }
                2 => self.children = r.bin()?,
                3 => self.limits = Limit::decode_all(r)?,
                other => return Err(Error::Invalid(format!("extra {other} of a job record is not known"))),
            }
        }
        Ok(())
    }

    /// How many items the map behind the others has.
    fn extras(&self) -> usize {
        usize::from(self.flow.is_some()) + usize::from(!self.children.is_empty()) + usize::from(self.limits.is_some())
    }

    fn labels(&self) -> u64 {
        let kind = self.error.and_then(error_parts).map(|[kind, ..]| kind);
        let error = kind.map_or(0, |kind| label("error", kind) | label("error", without_module(kind)));
        let batch = self.batch.map_or(0, |batch| label("batch", &batch.to_string()));
        let own = batch | label("function", self.function) | label("queue", self.queue) | 1 << self.state;
        self.tags.iter().fold(own | error, |labels, tag| labels | label("tag", tag))
    }

    /// The map that a question for one job answers.
    pub fn detail(&self, archived: bool) -> Vec<u8> {
        let mut w = Writer::with_capacity(512 + self.args.len() + self.result.map_or(0, <[u8]>::len));
        w.map(39);
        self.write_common(&mut w, archived);
        w.str("error");
        error(&mut w, self.error, usize::MAX, true);
        w.str("args").bin(self.args).str("result");
        bytes(&mut w, self.result);
        w.str("progress");
        bytes(&mut w, self.progress);
        w.str("state_saved");
        bytes(&mut w, self.state_saved);
        w.str("in_flow").bool(self.in_flow);
        w.str("meta").bin(self.meta).str("attempts").array(self.attempts.len());
        for past in &self.attempts {
            w.array(5).u64(past.attempt).u64(past.started_ms).u64(past.ended_ms);
            w.str(OUTCOME_NAMES[usize::from(past.outcome)]);
            error(&mut w, past.error, usize::MAX, true);
        }
        w.into_bytes()
    }

    /// The map of one line of a list: the detail without its large values; the error without its traceback.
    pub fn row(&self, archived: bool) -> Vec<u8> {
        let mut w = Writer::with_capacity(512);
        w.map(33);
        self.write_common(&mut w, archived);
        w.str("error");
        error(&mut w, self.error, ROW_MESSAGE_BYTES_MAX, false);
        w.str("progress");
        bytes(&mut w, self.progress);
        w.into_bytes()
    }

    /// The 31 keys that detail and row share.
    fn write_common(&self, w: &mut Writer, archived: bool) {
        w.str("id").id(self.id).str("function").str(self.function).str("queue").str(self.queue);
        w.str("state").str(STATE_NAMES[usize::from(self.state)]).str("priority").i64(self.priority);
        for (name, value) in [
            ("attempt", self.attempt),
            ("crashes", self.crashes),
            ("max_attempts", self.max_attempts),
            ("max_crashes", self.max_crashes),
            ("generation", self.generation),
            ("created_ms", self.created_ms),
            ("keep_result_ms", self.keep_result_ms),
            ("keep_failed_ms", self.keep_failed_ms),
        ] {
            w.str(name).u64(value);
        }
        for (name, value) in [
            ("run_at_ms", self.run_at_ms),
            ("enqueued_ms", self.enqueued_ms),
            ("started_ms", self.started_ms),
            ("finished_ms", self.finished_ms),
            ("session", self.session),
            ("token", self.token),
            ("timeout_ms", self.timeout_ms),
            ("expires_ms", self.expires_ms),
            ("slot", self.slot_ms),
        ] {
            w.str(name);
            number(w, value);
        }
        w.str("keep_until_ms");
        number(w, Some(self.keep_until_ms).filter(|&moment| moment > 0));
        w.str("unique_key");
        text(w, self.unique_key);
        w.str("schedule");
        text(w, self.schedule);
        w.str("batch").option(self.batch, |w, batch| {
            w.id(batch);
        });
        w.str("reason");
        text(w, self.reason);
        w.str("cancel_requested").bool(self.cancel_requested).str("archived").bool(archived);
        w.str("unique_mode").u64(self.unique_mode.into());
        w.str("tags").array(self.tags.len());
        for tag in &self.tags {
            w.str(tag);
        }
    }
}

/// The three texts of a stored error, or nothing if the bytes are something else.
pub fn error_parts(error: &[u8]) -> Option<[&str; 3]> {
    let mut reader = Reader::new(error);
    reader.array_of(3, "an error").ok()?;
    let parts = [reader.str().ok()?, reader.str().ok()?, reader.str().ok()?];
    reader.is_empty().then_some(parts)
}

/// Writes an error as `[type, message, traceback]`. Bytes that are no error are named so: one bad client must not make
/// a whole page unreadable.
fn error(w: &mut Writer, stored: Option<&[u8]>, message_bytes_max: usize, traceback: bool) {
    let Some(stored) = stored else {
        w.nil();
        return;
    };
    let [kind, message, trace] = error_parts(stored).unwrap_or(["", "the stored error cannot be read", ""]);
    w.array(3).str(kind).str(shortened(message, message_bytes_max)).str(if traceback { trace } else { "" });
}

pub(super) fn shortened(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// The first item of a flow.
fn batch_of(flow: &[u8]) -> Result<Option<JobId>> {
    let mut reader = Reader::new(flow);
    reader.array()?;
    reader.option(Reader::id)
}

/// The first items of the sixth one.
pub(super) fn parents_of(flow: &[u8]) -> Result<Vec<JobId>> {
    let mut reader = Reader::new(flow);
    reader.array()?;
    (0..5).try_for_each(|_| reader.raw().map(drop))?;
    let parent = |reader: &mut Reader<'_>| {
        let items = reader.array()?;
        let parent = reader.id()?;
        (1..items).try_for_each(|_| reader.raw().map(drop))?;
        Ok(parent)
    };
    (0..reader.array()?).map(|_| parent(&mut reader)).collect()
}

/// Who comes back with a job, as its record says.
pub struct Relatives {
    /// Jobs that were cancelled because of how it ended.
    pub children: Vec<JobId>,
    pub batch: Option<JobId>,
    /// Parents that had not ended when it was written. It hears of their end when it comes back, if they are there.
    pub open_parents: Vec<JobId>,
}

pub fn relatives(record: &[u8]) -> Result<Relatives> {
    let record = JobRecord::decode(record)?;
    let flow = record.flow.map(|flow| Flow::decode(&mut Reader::new(flow))).transpose()?.unwrap_or_default();
    let open = flow.edges.iter().filter(|edge| edge.standing == Standing::Open);
    Ok(Relatives {
        children: record.children.chunks(16).filter_map(JobId::from_slice).collect(),
        batch: flow.batch,
        open_parents: open.map(|edge| edge.parent).collect(),
    })
}

fn decode_attempt<'a>(r: &mut Reader<'a>) -> Result<AttemptRecord<'a>> {
    r.array_of(5, "an attempt")?;
    Ok(AttemptRecord {
        attempt: r.u64()?,
        started_ms: r.u64()?,
        ended_ms: r.u64()?,
        outcome: code(r, OUTCOME_NAMES.len(), "an outcome")?,
        error: r.option(Reader::bin)?,
    })
}

fn code(r: &mut Reader<'_>, codes: usize, what: &str) -> Result<u8> {
    let value = r.u64()?;
    if value < codes as u64 {
        return Ok(value as u8);
    }
    Err(Error::Invalid(format!("{value} is not the code of {what}")))
}

fn number(w: &mut Writer, value: Option<u64>) {
    w.option(value, |w, value| _ = w.u64(value));
}

fn text(w: &mut Writer, value: Option<&str>) {
    w.option(value, |w, value| _ = w.str(value));
}

fn bytes(w: &mut Writer, value: Option<&[u8]>) {
    w.option(value, |w, value| _ = w.bin(value));
}
