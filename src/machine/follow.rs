//! How children follow their parents, see `flows`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::{self, Command, NewJob};
use super::flows::{BatchId, Edge, Flow, Joining, Standing, Todo, Word};
use super::job::{Job, State};
use super::outcome::Refusal;
use super::table::Slot;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, JobId};

/// Edges that cost about as much as another item of upkeep.
const EDGES_OF_ITEM: usize = 16;
/// Parents that a question shows.
const PARENTS_SHOWN_MAX: usize = 100;
/// Children that it counts.
const CHILDREN_COUNTED_MAX: usize = 10_000;

/// What a job of the command at hand waits for, and its batch: later ones may name it as a parent.
type Earlier = BTreeMap<JobId, (u64, Option<BatchId>)>;

/// The parents that the jobs of an `Enqueue` wait for, and the unique keys of those of them that it brings itself: who holds
/// such a key takes the place of one that is not stored.
pub fn awaited(request: &[u8]) -> Result<(BTreeSet<JobId>, Vec<&str>), Error> {
    let Command::Enqueue { jobs, .. } = command::decode(request)?.command else { return Ok(Default::default()) };
    let joinings = jobs.iter().filter_map(|job| job.joining.as_deref());
    let parents = joinings.flat_map(|joining| &joining.parents).map(|(parent, ..)| *parent);
    let parents: BTreeSet<JobId> = parents.collect();
    let keys = jobs.iter().filter(|job| parents.contains(&job.id)).filter_map(|job| job.unique).collect();
    Ok((parents, keys))
}

impl Machine {
    /// Refuses jobs whose parent is not known, whose batch takes no more, or which would wait for themselves.
    pub(super) fn refuse_flows(&self, jobs: &[NewJob<'_>]) -> Result<(), Refusal> {
        if jobs.iter().all(|job| job.joining.is_none()) {
            return Ok(());
        }
        let mut earlier = Earlier::new();
        for (position, job) in jobs.iter().enumerate() {
            let joining = job.joining.as_ref().filter(|_| self.table.find(job.id).is_none());
            let behind = joining.map_or(Ok(0), |joining| self.judge_joining(position, joining, &earlier))?;
            earlier.insert(job.id, (behind, job.joining.as_ref().and_then(|joining| joining.batch)));
        }
        Ok(())
    }

    /// The jobs that hold these unique keys now.
    pub fn holders(&self, keys: &[&str]) -> Vec<JobId> {
        keys.iter().filter_map(|key| self.unique.holder(key, self.clock)).collect()
    }

    fn judge_joining(&self, position: usize, joining: &Joining, earlier: &Earlier) -> Result<u64, Refusal> {
        if let Some(batch) = joining.batch {
            self.takes_members(batch)?;
        }
        let mut behind = 0;
        for (parent, ..) in &joining.parents {
            let known = self.behind(*parent).or_else(|| earlier.get(parent).copied());
            let (theirs, batch) = known.ok_or_else(|| Refusal::unknown_parent(position, *parent))?;
            if joining.batch.is_some_and(|own| self.could_turn(own, theirs, batch)) {
                return Err(Refusal::cycle(position, *parent));
            }
            behind = behind.max(theirs);
        }
        Ok(behind)
    }

    /// The newest tree of batches that a parent waits for, and the batch that it is in. A batch waits for its own tree.
    fn behind(&self, parent: JobId) -> Option<(u64, Option<BatchId>)> {
        if let Some(slot) = self.table.find(parent) {
            let flow = self.table.get(slot).flow();
            let behind = flow.filter(|flow| flow.open + flow.unmet > 0).map_or(0, |flow| flow.behind);
            return Some((behind, flow.and_then(|flow| flow.batch)));
        }
        let batch = self.flows.batches.get(&parent)?;
        Some((self.tree_of(parent), batch.outer))
    }

    /// Whether a member of this batch might wait for itself through such a parent. It cannot if the parent waits for older
    /// trees of batches only, or belongs to this batch itself: from there no way leads back. So no search is needed.
    fn could_turn(&self, own: BatchId, behind: u64, parents_batch: Option<BatchId>) -> bool {
        behind >= self.tree_of(own) && !self.is_inside(parents_batch, own)
    }

    /// The flow of a new job. Whoever waits for a job that was not stored, as its unique key is held, waits for the holder.
    pub(super) fn join(&mut self, new: &NewJob<'_>, holders: &BTreeMap<JobId, JobId>) -> Option<Arc<Flow>> {
        let joining = new.joining.as_ref()?;
        let real = |parent: JobId| {
            let (holder, own) = (*holders.get(&parent)?, joining.batch);
            let (behind, batch) = self.behind(holder)?;
            let turns = own.is_some_and(|own| self.could_turn(own, behind, batch));
            (!turns && holder != new.id).then_some(holder)
        };
        let edge = |(parent, on, uses): &(JobId, _, bool)| Edge {
            parent: real(*parent).unwrap_or(*parent),
            on: *on,
            uses: *uses,
            standing: Standing::Open,
        };
        let edges: Vec<Edge> = joining.parents.iter().map(edge).collect();
        let behind = edges.iter().filter_map(|edge| self.behind(edge.parent)).map(|(behind, _)| behind).max();
        self.order += 1;
        Some(Arc::new(Flow {
            batch: joining.batch,
            place: self.order,
            behind: behind.unwrap_or(0),
            delay: new.delay,
            run_at: new.run_at,
            open: edges.len() as u32,
            edges,
            ..Flow::default()
        }))
    }

    /// A job that comes back from the archive stands behind all others, and hears what happened meanwhile.
    pub(super) fn rejoin(&mut self, slot: Slot) {
        self.unlink_edges(slot);
        let place = self.order + 1;
        if self.edit_flow(slot, |flow| flow.place = place).is_some() {
            self.order = place;
            self.link_edges(slot);
            if !has(Bug::ComesBackDeaf) {
                self.catch_up(slot);
            }
        }
    }

    /// Puts the edges of a job into the index. `false` if a place there is taken, which only a bad image can do.
    pub(super) fn link_edges(&mut self, slot: Slot) -> bool {
        let Some(flow) = self.table.get(slot).flow() else { return true };
        let edges = &mut self.flows.edges;
        let mut insert = |(position, edge): (u32, &Edge)| edges.insert((edge.parent, flow.place, position), slot);
        flow.standing().all(|edge| insert(edge).is_none())
    }

    pub(super) fn unlink_edges(&mut self, slot: Slot) {
        let Some(flow) = self.table.get(slot).flow() else { return };
        for (position, edge) in flow.standing() {
            self.flows.edges.remove(&(edge.parent, flow.place, position));
        }
    }

    /// Whoever waits for nothing any more must not hear of it.
    pub(super) fn void_edges(&mut self, slot: Slot, which: Standing) {
        let Some(flow) = self.table.get(slot).flow() else { return };
        let gone = flow.standing().filter(|(_, edge)| edge.standing == which);
        let gone: Vec<_> = gone.map(|(position, edge)| (edge.parent, flow.place, position)).collect();
        for edge in &gone {
            self.flows.edges.remove(edge);
        }
        self.edit_flow(slot, |flow| gone.iter().for_each(|(.., position)| flow.set(*position, Standing::Void)));
    }

    fn edit_flow<T>(&mut self, slot: Slot, change: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        let mut changed = None;
        self.edit(slot, |job| changed = job.flow_mut().map(change));
        changed
    }

    /// A child that is new here hears of those parents that ended before.
    pub(super) fn catch_up(&mut self, slot: Slot) {
        let edges = self.table.get(slot).flow().map_or(0, |flow| flow.edges.len() as u32);
        for position in 0..edges {
            let Some(flow) = self.table.get(slot).flow() else { return };
            let edge = &flow.edges[position as usize];
            let word = match edge.standing {
                Standing::Open => self.word_of(edge.parent),
                // It comes back from the archive, and a parent that let it down may have gone on since.
                Standing::Unmet => {
                    let known = self.is_over(edge.parent);
                    known.map(|_| self.word_of(edge.parent).unwrap_or(Word::Again))
                }
                Standing::Met | Standing::Void => None,
            };
            if let Some(word) = word {
                self.hear(slot, position, &word);
                self.name_child(slot, position);
            }
        }
    }

    /// The archive may have the record of a parent that let this child down before, and takes one that names the child.
    fn name_child(&mut self, child: Slot, position: u32) {
        let Some(flow) = self.table.get(child).flow() else { return };
        let Edge { parent, standing, .. } = flow.edges[position as usize];
        if let Some(parent) = self.table.find(parent).filter(|_| standing == Standing::Unmet) {
            self.archive_anew(parent);
        }
    }

    /// How a parent ended; nothing while it has not.
    fn word_of(&self, parent: JobId) -> Option<Word> {
        if let Some(slot) = self.table.find(parent) {
            let job = self.table.get(slot);
            return job.state.is_final().then(|| ended(job));
        }
        match self.flows.batches.get(&parent) {
            Some(batch) => batch.finished.map(|(_, outcome)| Word::Ended(Some(outcome), None)),
            None => Some(Word::Ended(None, None)),
        }
    }

    /// A job became final, or is not final any more: its children and its batch hear of it.
    pub(super) fn turned(&mut self, slot: Slot, from: State, to: State) {
        let job = self.table.get(slot);
        let (id, batch) = (job.id, job.flow().and_then(|flow| flow.batch));
        if self.flows.has_children(id) && !(has(Bug::OrphanAfterCrash) && job.crashes > 0) {
            let word = if to.is_final() { ended(job) } else { Word::Again };
            self.tell_children(id, word);
        }
        if let Some(batch) = batch {
            self.member_turned(batch, from, to);
        }
    }

    /// Leaves word for the children of a parent. They get it before the command ends, or are in the list.
    pub(super) fn tell_children(&mut self, parent: JobId, word: Word) {
        if self.flows.has_children(parent) {
            let upto = self.order;
            self.flows.todo.push_back(Todo::Children { parent, next: (0, 0), upto, word });
        }
    }

    /// Goes on with the list. Gives how many items were done; a job with many edges counts for several.
    pub(super) fn work_off(&mut self, items_max: usize) -> usize {
        let mut done = 0;
        while done < items_max {
            let Some(mut todo) = self.flows.todo.pop_front() else { break };
            // Also work for nobody counts: a command must end.
            done += self.items_of_step(&todo);
            if self.step(&mut todo) && self.is_left(&todo) {
                self.flows.todo.push_front(todo);
            }
        }
        if has(Bug::RestForgotten) {
            self.flows.todo.clear();
        }
        done.min(items_max)
    }

    /// What it costs to take the edges of a job out of the index, in items of upkeep.
    pub(super) fn items_of(&self, slot: Slot) -> usize {
        1 + self.table.get(slot).flow().map_or(0, |flow| flow.open + flow.unmet) as usize / EDGES_OF_ITEM
    }

    fn items_of_step(&self, todo: &Todo) -> usize {
        let Todo::Members { batch, next, .. } = todo else { return 1 };
        self.flows.members_from(*batch, *next).next().map_or(1, |(_, slot)| self.items_of(slot))
    }

    fn is_left(&self, todo: &Todo) -> bool {
        match todo {
            Todo::Children { parent, next, upto, .. } => self.flows.children(*parent, *next, *upto).next().is_some(),
            Todo::Members { batch, next, .. } => self.flows.members_from(*batch, *next).next().is_some(),
            Todo::Inner { batch, next, .. } => self.flows.inner_from(*batch, *next).next().is_some(),
        }
    }

    /// Whether `Tick` has work now, whatever the time.
    pub fn is_behind(&self) -> bool {
        !self.flows.todo.is_empty()
    }

    /// One item of a piece of work. `false`: nothing can be left of it.
    fn step(&mut self, todo: &mut Todo) -> bool {
        match todo {
            Todo::Children { parent, next, upto, word } => {
                let first = self.flows.children(*parent, *next, *upto).next();
                let Some((place, position, slot)) = first else { return false };
                *next = (place, position + 1);
                self.hear(slot, position, word);
            }
            Todo::Members { batch, next, reason } => {
                let Some((job, slot)) = self.flows.members_from(*batch, *next).next() else { return false };
                self.cancel_one(slot, reason.clone());
                return advance(next, job);
            }
            Todo::Inner { batch, next, reason } => {
                let Some(inner) = self.flows.inner_from(*batch, *next).next() else { return false };
                self.begin_cancel(inner, reason.clone());
                return advance(next, inner);
            }
        }
        true
    }

    /// A child hears how one of its parents ended, or that it was requeued.
    fn hear(&mut self, slot: Slot, position: u32, word: &Word) {
        let Some(flow) = self.table.get(slot).flow() else { return };
        let edge = &flow.edges[position as usize];
        let (parent, place, on, uses, standing) = (edge.parent, flow.place, edge.on, edge.uses, edge.standing);
        let reason = match word {
            Word::Again if standing == Standing::Unmet => {
                self.edit_flow(slot, |flow| flow.set(position, Standing::Open));
                None
            }
            Word::Again => return,
            Word::Ended(Some(end), output) if on.is_met_by(*end) => {
                let output = output.clone();
                if !uses || self.edit_flow(slot, |flow| flow.keep_output(position, output)) == Some(true) {
                    self.edit_flow(slot, |flow| {
                        flow.set(position, Standing::Met);
                        flow.open -= u32::from(has(Bug::SettleTwice)).min(flow.open);
                    });
                    self.flows.edges.remove(&(parent, place, position));
                    None
                } else {
                    Some(format!("its parents gave more than {} bytes, with {parent}", limits::OUTPUTS_BYTES_MAX))
                }
            }
            Word::Ended(Some(end), _) => Some(format!("parent {parent} {}", end.past())),
            Word::Ended(None, _) => Some(format!("parent {parent} is not there any more")),
        };
        if let Some(reason) = reason {
            self.edit_flow(slot, |flow| flow.set(position, Standing::Unmet));
            if self.table.get(slot).state == State::Awaiting {
                self.edit(slot, |job| job.rare_mut().reason = Some(reason.into()));
            }
        }
        self.follow(slot);
    }

    /// Goes where the edges of a job lead it.
    fn follow(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let Some((open, unmet)) = job.flow().map(|flow| (flow.open, flow.unmet)) else { return };
        match job.state {
            State::Awaiting if unmet > 0 => self.move_to(slot, State::Cancelled, self.clock),
            State::Awaiting if open == 0 => self.release(slot),
            State::Cancelled if unmet == 0 => self.come_back(slot),
            _ => {}
        }
    }

    /// All parents ended as they should: its delay counts from now, and so does its deadline to start.
    pub(super) fn release(&mut self, slot: Slot) {
        let job = self.table.get(slot);
        let Some(flow) = job.flow() else { return };
        let due = flow.run_at.unwrap_or(self.clock.plus(flow.delay)).max(self.clock);
        let expires = self.specs.get(job.spec).spec.expires.map(|span| due.plus(span));
        if expires.is_some() {
            self.edit(slot, |job| job.rare_mut().expires = expires);
        }
        let state = if due > self.clock { State::Scheduled } else { State::Enqueued };
        self.move_to(slot, state, due);
    }

    /// The parent that a child was cancelled for was requeued.
    fn come_back(&mut self, slot: Slot) {
        if let Some(holder) = self.other_holder(slot).filter(|_| !has(Bug::KeyTakenTwice)) {
            let reason = format!("its unique key went to {holder} while a parent was requeued");
            self.edit(slot, |job| job.rare_mut().reason = Some(reason.into()));
            self.void_edges(slot, Standing::Open);
            return;
        }
        self.begin_again(slot);
        self.move_to(slot, State::Awaiting, self.clock);
        self.follow(slot);
    }
}

impl Machine {
    /// `[id]` gives what a job waits for and who waits for it, see `view`.
    pub(super) fn flow_row(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>, Error> {
        let id = reader.id()?;
        let flow = self.table.find(id).and_then(|slot| self.table.get(slot).flow());
        let (batch, edges) = flow.map_or((None, &[][..]), |flow| (flow.batch, &flow.edges[..]));
        let mut writer = Writer::new();
        writer.array(4).option(batch, |writer, batch| {
            writer.id(batch);
        });
        writer.array(edges.len().min(PARENTS_SHOWN_MAX));
        for edge in edges.iter().take(PARENTS_SHOWN_MAX) {
            writer.array(3).id(edge.parent).u64(edge.on as u64).u64(edge.standing as u64);
        }
        let children = self.flows.children(id, (0, 0), u64::MAX).take(CHILDREN_COUNTED_MAX).count();
        writer.u64(edges.len() as u64).u64(children as u64);
        Ok(writer.into_bytes())
    }

    /// Children that were cancelled for a parent: if it is requeued they wait again.
    pub(super) fn cancelled_for(&self, parent: JobId) -> Vec<JobId> {
        let children = self.flows.children(parent, (0, 0), u64::MAX).take(limits::FLOW_JOBS_MAX);
        children.map(|(.., slot)| self.table.get(slot).id).collect()
    }
}

fn ended(job: &Job) -> Word {
    let output = job.rare.as_ref().and_then(|rare| rare.result.clone());
    Word::Ended(Some(job.state), output.filter(|_| job.state == State::Succeeded))
}

/// Goes on behind this id. `false`: it is the last that there can be.
fn advance(next: &mut JobId, done: JobId) -> bool {
    let behind = u128::from_be_bytes(done.0).checked_add(1);
    behind.map(|id| *next = JobId(id.to_be_bytes())).is_some()
}
