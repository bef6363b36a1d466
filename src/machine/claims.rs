//! `Claim`: which ready jobs a session gets, in which order.
//!
//! Inside a queue: priority, then the order of becoming enqueued, or whose turn it is (J8). Between queues: the order given
//! (strict), or smooth weighted round robin, whose state belongs to the session. Each lease has a token greater than every
//! earlier one (J2).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::command::Claim;
use super::decode::{list, name, names, number, Place as _, Result};
use super::flows::Flow;
use super::job::State;
use super::levels;
use super::outcome::{Outcome, Refusal};
use super::queues::Rank;
use super::recurring::Recurrence;
use super::table::Slot;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, SessionId};

/// The heads of the lines of one queue that a claim may take from.
struct Heads {
    queue: u32,
    weight: i64,
    /// How much the round robin owes this queue.
    credit: i64,
    heap: BinaryHeap<Reverse<(Rank, u32)>>,
    /// How many more of its jobs may run.
    room: u64,
    /// A limit changed its lines: the heap may hold heads that are none any more.
    mixed: bool,
}

impl Heads {
    fn is_empty(&self) -> bool {
        self.heap.is_empty() || self.room == 0
    }
}

impl<'a> Claim<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(Claim {
            session: SessionId(reader.u64().at("session")?),
            queues: list(reader, "queues", limits::CLAIM_NAMES_MAX, |reader| {
                reader.array_of(2, "a queue")?;
                Ok((name(reader).at("name")?, number(reader, limits::WEIGHT_MAX).at("weight")?))
            })?,
            strict: reader.bool().at("strict")?,
            functions: names(reader, "functions", limits::CLAIM_NAMES_MAX)?,
            max: number(reader, limits::BATCH_JOBS_MAX as u64).at("max")? as usize,
        })
    }
}

impl Machine {
    pub(super) fn claim(&mut self, claim: &Claim<'_>) -> Outcome {
        let Some(session) = self.sessions.get(&claim.session) else {
            return Err(Refusal::session_expired(claim.session.0));
        };
        let rota = session.rota.clone();
        self.expire(limits::UPKEEP_ITEMS_MAX);
        let known: BTreeSet<u32> = claim.functions.iter().filter_map(|name| self.functions.number_of(name)).collect();
        let mut heads = if self.has_expired() { Vec::new() } else { self.heads(claim, &known, &rota) };
        self.gates.touched();
        let max = claim.max.min(limits::LEASES_MAX - self.leases_held(claim.session).min(limits::LEASES_MAX));
        let (mut given, mut items) = (0, Writer::with_capacity(256));
        while given < max && items.len() < limits::CLAIM_BYTES_MAX {
            let Some(position) = choose(&mut heads, claim.strict) else { break };
            let (slot, function) = self.take_head(&mut heads[position]);
            self.lease(slot, claim.session);
            self.keep_heads(&mut heads, position, function, &known);
            self.write_claimed(slot, &mut items);
            given += 1;
        }
        if !claim.strict && given > 0 {
            self.keep_rota(claim.session, &heads);
        }
        let mut payload = Writer::with_capacity(items.len() + 5);
        payload.array(given).raw(items.as_bytes());
        Ok(payload.into_bytes())
    }

    /// Whether a claim could give something now.
    pub fn ready(&self, queues: &[&str], functions: &[&str]) -> bool {
        queues.iter().any(|queue| self.ready_lines(queue, functions).next().is_some())
    }

    /// The lines of a queue that are not paused and hold jobs of these functions, by the number of the function.
    pub(super) fn ready_lines<'a>(
        &'a self,
        queue: &str,
        functions: &'a [&str],
    ) -> impl Iterator<Item = (u32, &'a BTreeMap<Rank, Slot>)> + 'a {
        let queue = self.queues.number_of(queue).map(|number| self.queues.get(number));
        let queue = queue.filter(|queue| queue.pause.is_none() && queue.room() > 0);
        queue.into_iter().flat_map(move |queue| {
            let known = functions.iter().filter_map(|name| self.functions.number_of(name));
            known.filter_map(|number| queue.lines.get(&number).map(|line| (number, line)))
        })
    }

    fn heads(&self, claim: &Claim<'_>, known: &BTreeSet<u32>, rota: &BTreeMap<u32, i64>) -> Vec<Heads> {
        let mut named = BTreeSet::new();
        let mut all = Vec::with_capacity(claim.queues.len());
        for (name, weight) in &claim.queues {
            let Some(number) = self.queues.number_of(name) else { continue };
            let queue = self.queues.get(number);
            if queue.pause.is_some() || !named.insert(number) {
                continue;
            }
            let heap = queue.heads_of(known).map(Reverse).collect();
            // A weight of zero would starve the queue; the least is one.
            let weight = (*weight).clamp(1, limits::WEIGHT_MAX) as i64;
            let credit = rota.get(&number).copied().unwrap_or(0);
            all.push(Heads { queue: number, weight, credit, heap, room: queue.room(), mixed: false });
        }
        all
    }

    /// Takes the first job of a queue out of its heads: the job, and the function whose line it leads.
    fn take_head(&self, heads: &mut Heads) -> (Slot, u32) {
        let Reverse((rank, function)) = heads.heap.pop().expect("a chosen queue has a head");
        heads.room -= 1;
        let line = self.queues.get(heads.queue).lines.get(&function).expect("a head stands in a line");
        (*line.get(&rank).expect("a head stands in a line"), function)
    }

    /// Puts the next of a line that gave a job into the heads, and of each line that a limit changed meanwhile.
    fn keep_heads(&mut self, heads: &mut [Heads], position: usize, function: u32, known: &BTreeSet<u32>) {
        let first = |queue: u32, function: u32| {
            let line = self.queues.get(queue).lines.get(&function);
            line.and_then(|line| line.first_key_value()).map(|(rank, _)| Reverse((*rank, function)))
        };
        let from = &mut heads[position];
        from.heap.extend(first(from.queue, function));
        for (queue, function) in self.gates.touched().into_iter().filter(|(_, function)| known.contains(function)) {
            let Some(of) = heads.iter_mut().find(|heads| heads.queue == queue) else { continue };
            of.heap.extend(first(queue, function));
            of.mixed = true;
        }
        for of in heads.iter_mut().filter(|heads| heads.mixed) {
            while of.heap.peek().is_some_and(|top| first(of.queue, top.0 .1) != Some(*top)) {
                of.heap.pop();
            }
        }
    }

    fn lease(&mut self, slot: Slot, session: SessionId) {
        debug_assert!(!self.held_back(slot), "a limit without room shows no job");
        self.edit(slot, |job| {
            job.attempt = job.attempt.saturating_add(1);
            let rare = job.rare_mut();
            (rare.session, rare.reason) = (session, None);
        });
        self.move_to(slot, State::Processing, self.clock);
        self.count_start(slot);
    }

    fn keep_rota(&mut self, session: SessionId, heads: &[Heads]) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        let credits = heads.iter().filter(|heads| heads.credit != 0);
        Arc::make_mut(session).rota = credits.map(|heads| (heads.queue, heads.credit)).collect();
    }

    fn write_claimed(&self, slot: Slot, writer: &mut Writer) {
        let job = self.table.get(slot);
        let spec = &self.specs.get(job.spec).spec;
        let flow = job.flow().filter(|flow| flow.batch.is_some() || flow.uses_outputs());
        let from = job.recurrence().filter(|_| self.level.has(levels::SLOTS));
        writer
            .array(17 + usize::from(flow.is_some() || from.is_some()))
            .id(job.id)
            .u64(job.order)
            .str(&spec.function)
            .str(&spec.queue)
            .bin(&job.args);
        writer.u64(job.attempt.into()).u64(job.crashes.into()).i64(spec.priority);
        writer.u64(job.created.0).u64(job.enqueued().unwrap_or_default().0).u64(job.at.0);
        writer.option(spec.timeout, |writer, span| {
            writer.u64(span.0);
        });
        writer.u64(spec.max_attempts).u64(spec.max_crashes).array(spec.tags.len());
        for tag in &spec.tags {
            writer.str(tag);
        }
        let saved = job.rare.as_ref().and_then(|rare| rare.saved.as_ref());
        writer.bin(&spec.meta).option(saved, |writer, saved| {
            writer.bin(saved);
        });
        if flow.is_some() || from.is_some() {
            write_extras(flow, from, writer);
        }
    }
}

/// What few jobs have: `{1: [[position, parent, output or nil]], 2: batch or nil, 3: [schedule, slot or nil]}`, the first
/// two of a job in a flow, the third of one that comes from a schedule.
fn write_extras(flow: Option<&Flow>, from: Option<&Recurrence>, writer: &mut Writer) {
    writer.map(2 * usize::from(flow.is_some()) + usize::from(from.is_some()));
    if let Some(flow) = flow {
        flow.encode_claimed(writer);
    }
    if let Some(from) = from {
        from.encode(writer.u64(3));
    }
}

/// The position of the queue to take the next job from.
fn choose(heads: &mut [Heads], strict: bool) -> Option<usize> {
    if strict {
        return heads.iter().position(|heads| !heads.is_empty());
    }
    let (mut best, mut sum) = (None, 0);
    for position in 0..heads.len() {
        if heads[position].is_empty() {
            continue;
        }
        let weight = heads[position].weight;
        heads[position].credit = heads[position].credit.saturating_add(weight);
        sum += weight;
        if best.is_none_or(|best: usize| heads[position].credit > heads[best].credit) {
            best = Some(position);
        }
    }
    let best = best?;
    heads[best].credit -= sum;
    Some(best)
}
