//! Batches: jobs, and batches inside of batches, that finish together.
//!
//! What holds at every index
//! * `pending = total - succeeded - failed - cancelled` is the number of members that are not final.
//! * A batch takes members until it finishes: also while it is sealed, as its jobs may add others.
//! * It finishes at the index at which it is sealed and no member is pending, and begins again when one is requeued. To its
//!   children it is a parent like a job: that is all that callbacks are.
//! * A finished batch is forgotten after a while; jobs keep its id. Until then it knows the jobs that were cancelled because
//!   of it and left memory, as they come back when it begins again.

use std::sync::Arc;

use super::decode::{bytes, check_name, list, number, Place as _, Result};
use super::flows::{BatchId, Standing, Todo, Word};
use super::job::{Job, State};
use super::load::COUNTER_MAX;
use super::outcome::{self, Outcome, Refusal};
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, JobId, Millis};

/// Rows of one page.
const PAGE_MAX: u64 = 1_000;
/// A batch without its name, its places in the tables included.
const WEIGHT_BASE: usize = 400;
/// Items of a batch in an image: the last is there only if jobs are away.
const ITEMS: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub name: Arc<str>,
    pub outer: Option<BatchId>,
    /// Rises from one batch to the next.
    pub number: u64,
    pub opened: Millis,
    pub sealed: bool,
    pub cancelled: bool,
    /// Members ever, and those that ended by how they did. A batch inside of this one is a member.
    pub total: u64,
    pub ended: [u64; 3],
    /// When it finished, and how.
    pub finished: Option<(Millis, State)>,
    /// Jobs that were cancelled because of how it finished, and left memory since; at most `FLOW_JOBS_MAX`.
    pub away: Vec<JobId>,
}

/// Answers to the verbs.
mod code {
    pub const DONE: u64 = 0;
    pub const UNKNOWN: u64 = 1;
    /// So it is already.
    pub const NOTHING_TO_DO: u64 = 2;
}

/// The final states, as `Batch::ended` counts them.
fn place(state: State) -> usize {
    match state {
        State::Succeeded => 0,
        State::Failed => 1,
        _ => 2,
    }
}

impl Batch {
    pub fn pending(&self) -> u64 {
        self.total.saturating_sub(self.ended.iter().sum())
    }

    fn outcome(&self) -> State {
        match self.ended {
            _ if self.cancelled => State::Cancelled,
            [_, 0, 0] => State::Succeeded,
            _ => State::Failed,
        }
    }

    fn count(&mut self, from: State, to: State) {
        if from.is_final() && !has(Bug::RequeuedCountsTwice) {
            match self.ended[place(from)].checked_sub(1) {
                Some(less) => self.ended[place(from)] = less,
                // A record out of another archive: this batch never saw it.
                None => self.total += 1,
            }
        }
        if to.is_final() {
            self.ended[place(to)] += 1;
        }
    }

    pub fn weight(&self) -> u64 {
        (WEIGHT_BASE + self.name.len() + size_of::<JobId>() * self.away.len()) as u64
    }

    /// `[id, name, outer, number, opened, sealed, cancelled, total, succeeded, failed, cancelled, [finished, outcome] |
    /// nil]`, and behind them `[id]` if jobs are away.
    pub fn encode(&self, id: BatchId, writer: &mut Writer) {
        writer.array(ITEMS + usize::from(!self.away.is_empty())).id(id).str(&self.name).option(
            self.outer,
            |writer, outer| {
                writer.id(outer);
            },
        );
        writer.u64(self.number).u64(self.opened.0).bool(self.sealed).bool(self.cancelled).u64(self.total);
        self.ended.iter().for_each(|count| {
            writer.u64(*count);
        });
        writer.option(self.finished, |writer, (at, outcome)| {
            writer.array(2).u64(at.0).u64(outcome.code().into());
        });
        if !self.away.is_empty() {
            writer.array(self.away.len());
            self.away.iter().for_each(|job| {
                writer.id(*job);
            });
        }
    }

    fn decode(reader: &mut Reader<'_>, items: usize) -> Result<Self> {
        Ok(Batch {
            name: batch_name(reader)?.into(),
            outer: reader.option(|reader| reader.id())?,
            number: number(reader, COUNTER_MAX).at("number")?,
            opened: Millis(reader.u64()?),
            sealed: reader.bool()?,
            cancelled: reader.bool()?,
            total: number(reader, COUNTER_MAX).at("total")?,
            ended: [number(reader, COUNTER_MAX)?, number(reader, COUNTER_MAX)?, number(reader, COUNTER_MAX)?],
            finished: reader.option(|reader| {
                reader.array_of(2, "an end")?;
                let at = Millis(reader.u64()?);
                let state = State::from_code(reader.u64()?).filter(|state| state.is_final());
                Ok((at, state.ok_or_else(|| Error::Invalid("outcome: not a final state".into()))?))
            })?,
            away: if items > ITEMS { list(reader, "away", limits::FLOW_JOBS_MAX, Reader::id)? } else { Vec::new() },
        })
    }

    /// What a question shows, see `view`.
    fn row(&self, id: BatchId, writer: &mut Writer) {
        let state = match (self.finished, self.sealed) {
            (Some((_, outcome)), _) => outcome.name(),
            (None, true) => "sealed",
            (None, false) => "open",
        };
        writer.array(11).id(id).str(&self.name).str(state).option(self.outer, |writer, outer| {
            writer.id(outer);
        });
        writer.u64(self.opened.0).option(self.finished, |writer, (at, _)| {
            writer.u64(at.0);
        });
        writer.u64(self.total).u64(self.pending());
        self.ended.iter().for_each(|count| {
            writer.u64(*count);
        });
    }
}

impl Machine {
    pub(super) fn open_batch(&mut self, id: BatchId, name: &str, outer: Option<BatchId>) -> Outcome {
        if self.flows.batches.contains_key(&id) {
            return outcome::number(code::NOTHING_TO_DO);
        }
        let (first, flows) = (JobId::default(), &self.flows);
        let known = flows.members_from(id, first).next().is_some() || flows.inner_from(id, first).next().is_some();
        if known || self.table.find(id).is_some() {
            return Err(Refusal::invalid(format!("batch {id}: a job has this id, or had a batch of it")));
        }
        if let Some(outer) = outer {
            self.takes_members(outer)?;
            if self.trees(outer).count() >= limits::BATCH_DEPTH_MAX {
                return Err(Refusal::invalid(format!(
                    "more than {} batches inside of each other",
                    limits::BATCH_DEPTH_MAX
                )));
            }
        }
        if self.flows.batches.len() >= limits::BATCHES_MAX && !self.forget_oldest_batch() {
            return Err(Refusal::overloaded(format!("{} batches are not finished", limits::BATCHES_MAX)));
        }
        self.room(0)?;
        self.order += 1;
        let batch = Batch {
            name: name.into(),
            outer,
            number: self.order,
            opened: self.clock,
            sealed: false,
            cancelled: false,
            total: 0,
            ended: [0; 3],
            finished: None,
            away: Vec::new(),
        };
        self.bytes += batch.weight();
        self.flows.batches.insert(id, Arc::new(batch));
        if let Some(outer) = outer {
            self.flows.inner.insert((outer, id));
            self.edit_batch(outer, |batch| batch.total += 1);
        }
        outcome::number(code::DONE)
    }

    /// From here on it finishes when nobody is pending.
    pub(super) fn seal_batch(&mut self, id: BatchId) -> Outcome {
        let Some(batch) = self.flows.batches.get(&id) else { return outcome::number(code::UNKNOWN) };
        if batch.sealed {
            return outcome::number(code::NOTHING_TO_DO);
        }
        self.edit_batch(id, |batch| batch.sealed = true);
        outcome::number(code::DONE)
    }

    /// Seals it and cancels its members, also those of batches inside of it.
    pub(super) fn cancel_batch(&mut self, id: BatchId, reason: &str) -> Outcome {
        let Some(batch) = self.flows.batches.get(&id) else { return outcome::number(code::UNKNOWN) };
        if batch.cancelled || batch.finished.is_some() {
            return outcome::number(code::NOTHING_TO_DO);
        }
        self.begin_cancel(id, (!reason.is_empty()).then(|| reason.into()));
        outcome::number(code::DONE)
    }

    pub(super) fn begin_cancel(&mut self, batch: BatchId, reason: Option<Arc<str>>) {
        let next = JobId::default();
        self.flows.todo.push_back(Todo::Members { batch, next, reason: reason.clone() });
        if !has(Bug::InnerGoesOn) {
            self.flows.todo.push_back(Todo::Inner { batch, next, reason });
        }
        self.edit_batch(batch, |batch| (batch.sealed, batch.cancelled) = (true, true));
    }

    /// Whether a job is final, or a batch finished; nothing if memory knows neither.
    pub fn is_over(&self, id: JobId) -> Option<bool> {
        let job = self.job(id).map(|(job, _)| job.state.is_final());
        job.or_else(|| self.flows.batches.get(&id).map(|batch| batch.finished.is_some()))
    }

    /// Refuses a batch that takes no members.
    pub(super) fn takes_members(&self, id: BatchId) -> std::result::Result<(), Refusal> {
        match self.flows.batches.get(&id) {
            None => Err(Refusal::unknown_batch(id)),
            Some(batch) if batch.cancelled => Err(Refusal::batch_closed(id, "was cancelled")),
            Some(batch) if batch.finished.is_some() => Err(Refusal::batch_closed(id, "is finished")),
            Some(_) => Ok(()),
        }
    }

    /// The batch, the one around it, and so on.
    fn trees(&self, batch: BatchId) -> impl Iterator<Item = BatchId> + '_ {
        std::iter::successors(Some(batch), |id| self.flows.batches.get(id)?.outer)
    }

    /// Number of the outermost batch around this one.
    pub(super) fn tree_of(&self, batch: BatchId) -> u64 {
        let known = self.trees(batch).filter_map(|id| self.flows.batches.get(&id));
        known.last().map_or(0, |batch| batch.number)
    }

    /// Whether a batch is this one or inside of it.
    pub(super) fn is_inside(&self, batch: Option<BatchId>, own: BatchId) -> bool {
        batch.is_some_and(|batch| self.trees(batch).any(|id| id == own))
    }

    pub(super) fn member_added(&mut self, batch: BatchId) {
        self.edit_batch(batch, |batch| batch.total += 1);
    }

    /// A member that was not final is gone.
    pub(super) fn member_gone(&mut self, batch: BatchId) {
        self.edit_batch(batch, |batch| batch.total = batch.total.saturating_sub(1));
    }

    pub(super) fn member_turned(&mut self, batch: BatchId, from: State, to: State) {
        self.edit_batch(batch, |batch| batch.count(from, to));
    }

    /// Changes a batch, and lets it finish or begin again.
    fn edit_batch(&mut self, id: BatchId, change: impl FnOnce(&mut Batch)) {
        let Some(shared) = self.flows.batches.get_mut(&id) else { return };
        let batch = Arc::make_mut(shared);
        change(batch);
        let (over, outer) = (batch.sealed && batch.pending() == 0, batch.outer);
        match (over, batch.finished) {
            (true, None) => {
                let outcome = batch.outcome();
                batch.finished = Some((self.clock, outcome));
                self.flows.over.insert((self.clock, id));
                self.effects.finished.push(id);
                self.tell_children(id, Word::Ended(Some(outcome), None));
                if let Some(outer) = outer {
                    self.flows.inner.remove(&(outer, id));
                    self.member_turned(outer, State::Awaiting, outcome);
                }
            }
            (false, Some((at, outcome))) => {
                batch.finished = None;
                self.flows.over.remove(&(at, id));
                self.tell_children(id, Word::Again);
                if let Some(outer) = outer {
                    self.flows.inner.insert((outer, id));
                    self.member_turned(outer, outcome, State::Awaiting);
                }
            }
            _ => {}
        }
    }

    /// A job leaves memory, or is back: the batches because of which it was cancelled know the jobs that are away.
    pub(super) fn note_away(&mut self, job: &Job, away: bool) {
        let edges = job.flow().into_iter().flat_map(|flow| flow.standing());
        for (_, edge) in edges.filter(|(_, edge)| edge.standing == Standing::Unmet) {
            let Some(shared) = self.flows.batches.get_mut(&edge.parent) else { continue };
            let before = shared.weight();
            let batch = Arc::make_mut(shared);
            if !away {
                batch.away.retain(|id| *id != job.id);
            } else if batch.away.len() < limits::FLOW_JOBS_MAX {
                batch.away.push(job.id);
            }
            self.bytes = self.bytes - before + batch.weight();
        }
    }

    /// Jobs that are not in memory and come back when this batch, or one around it, begins again.
    pub fn away(&self, batch: BatchId) -> Vec<JobId> {
        let known = self.trees(batch).filter_map(|id| self.flows.batches.get(&id));
        known.flat_map(|batch| batch.away.iter().copied()).collect()
    }

    /// The batch of a job in memory.
    pub fn batch_of(&self, job: JobId) -> Option<BatchId> {
        self.job(job).and_then(|(job, _)| job.flow()?.batch)
    }

    /// Forgets batches that finished long ago.
    pub(super) fn forget_batches(&mut self, items_max: usize) -> usize {
        let mut done = 0;
        while done < items_max {
            let due = self.flows.over.first().filter(|(at, _)| at.plus(Millis(limits::BATCH_KEEP_MS)) <= self.clock);
            if due.is_none() || !self.forget_oldest_batch() {
                break;
            }
            done += 1;
        }
        done
    }

    fn forget_oldest_batch(&mut self) -> bool {
        let Some((_, id)) = self.flows.over.pop_first() else { return false };
        if let Some(batch) = self.flows.batches.remove(&id) {
            self.bytes -= batch.weight();
        }
        true
    }

    /// `[after or nil, limit]` gives rows by id, see `view`.
    pub(super) fn batch_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = reader.option(|reader| reader.id())?;
        let limit = number(reader, PAGE_MAX).at("limit")?.max(1) as usize;
        let behind = self.flows.batches.range((after.map_or(Unbounded, Excluded), Unbounded)).take(limit);
        let mut writer = Writer::new();
        writer.array(behind.clone().count());
        behind.for_each(|(id, batch)| batch.row(*id, &mut writer));
        Ok(writer.into_bytes())
    }

    pub(super) fn batch_row(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let id = reader.id()?;
        let mut writer = Writer::new();
        writer.option(self.flows.batches.get(&id), |writer, batch| batch.row(id, writer));
        Ok(writer.into_bytes())
    }

    /// One batch out of an image.
    pub(super) fn load_batch(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let items = reader.array()?;
        if !(ITEMS..=ITEMS + 1).contains(&items) {
            return Err(Error::Invalid(format!("a batch of {items} items")));
        }
        let id = reader.id()?;
        let batch = Batch::decode(reader, items)?;
        self.bytes += batch.weight();
        if let Some((at, _)) = batch.finished {
            self.flows.over.insert((at, id));
        } else if let Some(outer) = batch.outer {
            self.flows.inner.insert((outer, id));
        }
        match self.flows.batches.insert(id, Arc::new(batch)) {
            None => Ok(()),
            Some(_) => Err(Error::Invalid("the same batch twice".into())),
        }
    }

    /// Whether the figures of each batch are those of its members, in a state that was loaded.
    pub(super) fn batches_hold(&self) -> bool {
        self.flows.batches.iter().all(|(id, batch)| {
            let ended = batch.ended.iter().sum::<u64>();
            let members = self.flows.members_from(*id, JobId::default()).count();
            let inner = self.flows.inner_from(*id, BatchId::default()).count();
            batch.total.checked_sub(ended) == Some((members + inner) as u64)
                && batch.finished.is_some() == (batch.sealed && members + inner == 0)
                && self.trees(*id).take(limits::BATCH_DEPTH_MAX + 1).count() <= limits::BATCH_DEPTH_MAX
        })
    }
}

/// The name of a batch.
pub(super) fn batch_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let name = reader.str().and_then(|name| bytes(name, limits::NAME_BYTES_MAX));
    name.and_then(check_name).at("name")
}
