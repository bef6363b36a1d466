//! Dependencies: a job in state `awaiting` waits for its parents, which are jobs or batches.
//!
//! What holds at every index (J11)
//! * An *edge* leads from a child to one parent. It is *open* until the parent ended, then *met* or *unmet*, or *void* when
//!   the child does not wait for it any more.
//! * A child waits while it has open edges and none that is unmet. With the last one met it becomes scheduled or enqueued;
//!   with the first one unmet it is cancelled. So it starts once or is cancelled once, never both.
//! * A parent that is requeued opens its unmet edges again, and children that were cancelled wait again. What was met stays
//!   met: a child that ran is left alone.
//! * All of this belongs to the index at which the parent ended. Since a parent may have a hundred thousand children, a
//!   command settles at most `UPKEEP_ITEMS_MAX` of them; who is left stands in the list `todo`, in order, counts as
//!   settled, and the next commands go on with it. A leader ticks until the list is empty.
//!
//! The edges of a job are stored with it; that a parent finds its children is an index which follows from them. So the end
//! of a parent costs O(log n) for each child, however many parents that has. The rules are in `follow`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::batches::Batch;
use super::blob::Blob;
use super::decode::{list, number, reason, Place as _, Result};
use super::job::State;
use super::load::COUNTER_MAX;
use super::table::Slot;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, Millis};

#[cfg(feature = "sim")]
thread_local! {
    static SETTLED_MAX: std::cell::Cell<usize> = const { std::cell::Cell::new(limits::UPKEEP_ITEMS_MAX) };
}

/// From here on a command of this thread goes on with so few items of the list, so that a small flow takes several.
#[cfg(feature = "sim")]
pub fn settle_at_most(items: usize) {
    SETTLED_MAX.set(items);
}

/// How many items of the list one command does.
pub fn settled_max() -> usize {
    #[cfg(feature = "sim")]
    return SETTLED_MAX.get();
    #[cfg(not(feature = "sim"))]
    limits::UPKEEP_ITEMS_MAX
}

/// A batch has an id like a job, so that both can be parents.
pub type BatchId = JobId;

/// Which end of the parent lets the child run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum On {
    Success = 0,
    /// It failed or was cancelled.
    Failure = 1,
    /// However it ended.
    Finish = 2,
}

/// Where an edge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    Open = 0,
    Met = 1,
    Unmet = 2,
    Void = 3,
}

/// What a child waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub parent: JobId,
    pub on: On,
    /// The parent's result goes to the child.
    pub uses: bool,
    pub standing: Standing,
}

/// What makes a job part of a flow. Counts follow from the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub batch: Option<BatchId>,
    /// Place among all children: a parent settles them in this order.
    pub place: u64,
    /// Number of the newest tree of batches that it waits for, also through its parents; 0 if it waits for none.
    pub behind: u64,
    /// When it is due, counted from when it need not wait any more.
    pub delay: Millis,
    pub run_at: Option<Millis>,
    pub edges: Vec<Edge>,
    pub open: u32,
    pub unmet: u32,
    /// Results of parents by the position of their edge; `None`: it ended without one.
    pub outputs: Vec<(u32, Option<Blob>)>,
    pub outputs_bytes: usize,
}

/// What a client asks for: `parents` and a batch.
#[derive(Debug, Default)]
pub struct Joining {
    pub parents: Vec<(JobId, On, bool)>,
    pub batch: Option<BatchId>,
}

/// How a parent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// `None`: it was deleted, or nobody knows it.
    Ended(Option<State>, Option<Blob>),
    /// It was requeued.
    Again,
}

/// Work that is done in the eyes of everybody, and not yet in the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Children from `next` on, up to the place `upto`: later ones came when the parent had ended.
    Children { parent: JobId, next: (u64, u32), upto: u64, word: Word },
    /// Members of a cancelled batch from `next` on.
    Members { batch: BatchId, next: JobId, reason: Option<Arc<str>> },
    /// Batches inside of a cancelled one.
    Inner { batch: BatchId, next: BatchId, reason: Option<Arc<str>> },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flows {
    pub todo: VecDeque<Todo>,
    pub batches: BTreeMap<BatchId, Arc<Batch>>,
    /// Open and unmet edges by parent, place of the child and position. Follows from the jobs.
    pub edges: BTreeMap<(JobId, u64, u32), Slot>,
    /// Members that are not final. Follows from the jobs.
    pub members: BTreeMap<(BatchId, JobId), Slot>,
    /// Unfinished batches by the one around them, and finished ones by time. Both follow from the batches.
    pub inner: BTreeSet<(BatchId, BatchId)>,
    pub over: BTreeSet<(Millis, BatchId)>,
}

impl On {
    fn from_code(code: u64) -> Result<Self> {
        match code {
            0 => Ok(On::Success),
            1 => Ok(On::Failure),
            2 => Ok(On::Finish),
            other => Err(Error::Invalid(format!("{other}, at most 2"))),
        }
    }

    /// Whether this end is what the child waits for.
    pub(super) fn is_met_by(self, end: State) -> bool {
        match self {
            On::Success => end == State::Succeeded,
            On::Failure => end != State::Succeeded,
            On::Finish => true,
        }
    }
}

impl Standing {
    fn from_code(code: u64) -> Result<Self> {
        match code {
            0 => Ok(Standing::Open),
            1 => Ok(Standing::Met),
            2 => Ok(Standing::Unmet),
            3 => Ok(Standing::Void),
            other => Err(Error::Invalid(format!("{other}, at most 3"))),
        }
    }
}

impl Joining {
    /// Items 1 and 2 of the map behind a job of `Enqueue`: `[[parent, on, uses], ...]`, and a batch.
    pub(super) fn decode_item(&mut self, number: u64, reader: &mut Reader<'_>) -> Result<()> {
        if number == 2 {
            self.batch = Some(reader.id().at("batch")?);
            return Ok(());
        }
        self.parents = list(reader, "parents", limits::PARENTS_MAX, |reader| {
            reader.array_of(3, "a parent")?;
            Ok((reader.id()?, On::from_code(reader.u64()?).at("on")?, reader.bool()?))
        })?;
        Ok(())
    }
}

/// An edge and its children in memory, as an estimate.
const WEIGHT_EDGE: usize = 32 + 56;
const WEIGHT_BASE: usize = 176;

impl Flow {
    pub(super) fn weight(&self) -> usize {
        WEIGHT_BASE + self.edges.len() * WEIGHT_EDGE + self.outputs.len() * 32 + self.outputs_bytes
    }

    /// Moves one edge and keeps the counts right.
    pub(super) fn set(&mut self, position: u32, standing: Standing) {
        let before = std::mem::replace(&mut self.edges[position as usize].standing, standing);
        self.count(before, false);
        self.count(standing, true);
    }

    fn count(&mut self, standing: Standing, more: bool) {
        let count = match standing {
            Standing::Open => &mut self.open,
            Standing::Unmet => &mut self.unmet,
            Standing::Met | Standing::Void => return,
        };
        if more {
            *count += 1
        } else {
            *count -= 1
        }
    }

    /// Edges that stand in the index: open and unmet ones.
    pub(super) fn standing(&self) -> impl Iterator<Item = (u32, &Edge)> {
        let edges = (0..).zip(&self.edges);
        edges.filter(|(_, edge)| matches!(edge.standing, Standing::Open | Standing::Unmet))
    }

    /// Keeps the result of a parent. `false`: there is no room.
    pub(super) fn keep_output(&mut self, position: u32, output: Option<Blob>) -> bool {
        let bytes = output.as_ref().map_or(0, |output| output.len());
        if self.outputs_bytes + bytes > limits::OUTPUTS_BYTES_MAX {
            return false;
        }
        self.outputs_bytes += bytes;
        self.outputs.push((position, output));
        true
    }

    /// `[batch, place, behind, delay, run at, [[parent, on, uses, standing]], [[position, output]]]`
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(7).option(self.batch, |writer, batch| {
            writer.id(batch);
        });
        writer.u64(self.place).u64(self.behind).u64(self.delay.0).option(self.run_at, |writer, at| {
            writer.u64(at.0);
        });
        writer.array(self.edges.len());
        for edge in &self.edges {
            writer.array(4).id(edge.parent).u64(edge.on as u64).bool(edge.uses).u64(edge.standing as u64);
        }
        writer.array(self.outputs.len());
        for (position, output) in &self.outputs {
            writer.array(2).u64((*position).into());
            write_output(output.as_ref(), writer);
        }
    }

    /// Whether results of parents are among its arguments.
    pub(super) fn uses_outputs(&self) -> bool {
        self.edges.iter().any(|edge| edge.uses)
    }

    /// What a worker gets, two pairs of a map: `1: [[position, parent, output or nil]], 2: batch or nil`
    pub(super) fn encode_claimed(&self, writer: &mut Writer) {
        writer.u64(1).array(self.outputs.len());
        for (position, output) in &self.outputs {
            writer.array(3).u64((*position).into()).id(self.edges[*position as usize].parent);
            write_output(output.as_ref(), writer);
        }
        writer.u64(2).option(self.batch, |writer, batch| {
            writer.id(batch);
        });
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(7, "a flow")?;
        let mut flow = Flow {
            batch: reader.option(|reader| reader.id()).at("batch")?,
            place: number(reader, COUNTER_MAX).at("place")?,
            behind: number(reader, COUNTER_MAX).at("behind")?,
            delay: Millis(reader.u64().at("delay")?),
            run_at: reader.option(|reader| reader.u64()).at("run_at")?.map(Millis),
            edges: list(reader, "parents", limits::PARENTS_MAX, |reader| {
                reader.array_of(4, "a parent")?;
                Ok(Edge {
                    parent: reader.id()?,
                    on: On::from_code(reader.u64()?)?,
                    uses: reader.bool()?,
                    standing: Standing::from_code(reader.u64()?)?,
                })
            })?,
            ..Flow::default()
        };
        for position in 0..flow.edges.len() {
            flow.count(flow.edges[position].standing, true);
        }
        for _ in 0..reader.array().at("outputs")? {
            reader.array_of(2, "an output")?;
            let position = reader.u64()?;
            if position >= flow.edges.len() as u64 {
                return Err(Error::Invalid("outputs: of no parent".into()));
            }
            let output = reader.option(|reader| reader.bin())?;
            if !flow.keep_output(position as u32, output.map(Into::into)) {
                return Err(Error::Invalid("outputs: too large".into()));
            }
        }
        Ok(flow)
    }
}

fn write_output(output: Option<&Blob>, writer: &mut Writer) {
    writer.option(output, |writer, output| {
        writer.bin(output);
    });
}

impl Todo {
    /// `[kind, id, ...]`: a record of an image.
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Todo::Children { parent, next, upto, word } => {
                writer.array(7).u64(0).id(*parent).u64(next.0).u64(next.1.into()).u64(*upto);
                let (end, output) = match word {
                    Word::Again => (None, None),
                    Word::Ended(end, output) => (Some(end.map_or(0, State::code)), output.as_deref()),
                };
                writer.option(end, |writer, code| {
                    writer.u64(code.into());
                });
                writer.option(output, |writer, output| {
                    writer.bin(output);
                });
            }
            Todo::Members { batch, next, reason } | Todo::Inner { batch, next, reason } => {
                let kind = if matches!(self, Todo::Members { .. }) { 1 } else { 2 };
                writer.array(4).u64(kind).id(*batch).id(*next).option(reason.as_deref(), |writer, reason| {
                    writer.str(reason);
                });
            }
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let items = reader.array()?;
        let kind = reader.u64()?;
        if items != if kind == 0 { 7 } else { 4 } {
            return Err(Error::Invalid(format!("work of kind {kind} with {items} items")));
        }
        let id = reader.id()?;
        if kind == 0 {
            let next = (reader.u64()?, number(reader, u32::MAX.into())? as u32);
            let upto = reader.u64()?;
            let end = reader.option(|reader| reader.u64())?;
            let output = reader.option(|reader| reader.bin())?.map(Into::into);
            let word = match end {
                None => Word::Again,
                // Zero is no end: the parent was deleted.
                Some(code) => Word::Ended(State::from_code(code).filter(|state| state.is_final()), output),
            };
            return Ok(Todo::Children { parent: id, next, upto, word });
        }
        let next = reader.id()?;
        let reason = reader.option(reason)?.map(Into::into);
        match kind {
            1 => Ok(Todo::Members { batch: id, next, reason }),
            2 => Ok(Todo::Inner { batch: id, next, reason }),
            other => Err(Error::Invalid(format!("work of kind {other}"))),
        }
    }
}

impl Flows {
    /// Whether anything waits for this parent, or was cancelled because of it.
    pub fn has_children(&self, parent: JobId) -> bool {
        self.children(parent, (0, 0), u64::MAX).next().is_some()
    }

    /// The edges to a parent, from one place to another.
    pub fn children(&self, parent: JobId, next: (u64, u32), upto: u64) -> impl Iterator<Item = (u64, u32, Slot)> + '_ {
        let first = (parent, next.0, next.1);
        let last = (parent, upto, u32::MAX);
        // An empty range may not begin behind its end.
        let range = self.edges.range(first.min(last)..=last);
        range.map(|((_, place, position), slot)| (*place, *position, *slot))
    }

    /// Members that are not final, from this one on.
    pub fn members_from(&self, batch: BatchId, next: JobId) -> impl Iterator<Item = (JobId, Slot)> + '_ {
        let range = self.members.range((batch, next)..).take_while(move |((of, _), _)| *of == batch);
        range.map(|((_, job), slot)| (*job, *slot))
    }

    /// Unfinished batches inside of this one, from this one on.
    pub fn inner_from(&self, batch: BatchId, next: BatchId) -> impl Iterator<Item = BatchId> + '_ {
        self.inner.range((batch, next)..).take_while(move |(of, _)| *of == batch).map(|(_, inner)| *inner)
    }
}
