//! Flows of the model: which jobs wait for which. Children and members are found by looking at all jobs, and whether a batch
//! is over by looking at its members; only what is gone is remembered.
//!
//! A command settles as many as the state machine does, and the next ones go on with who is left: that clients see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raftwork::base::{limits, JobId};

use super::{Model, Reply, State};
use crate::wire::flows::Batch as Verb;
use crate::wire::Job as NewJob;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Open,
    Met,
    Unmet,
    Void,
}

use Standing::*;

#[derive(Clone, Debug)]
pub struct Edge {
    pub parent: JobId,
    /// 0 success, 1 failure, 2 finish.
    pub on: u64,
    pub uses: bool,
    pub standing: Standing,
}

/// What makes a job part of a flow.
#[derive(Clone, Debug)]
pub struct Flow {
    pub batch: Option<JobId>,
    /// A parent settles its children in the order of their places.
    pub place: u64,
    /// The newest tree of batches that it waits for.
    pub behind: u64,
    pub delay: u64,
    pub run_at: Option<u64>,
    pub edges: Vec<Edge>,
    /// Results of parents by the place of the edge.
    pub outputs: Vec<(u64, Option<Vec<u8>>)>,
}

#[derive(Clone, Debug, Default)]
pub struct Batch {
    outer: Option<JobId>,
    number: u64,
    sealed: bool,
    cancelled: bool,
    /// How each member ended that is over, in memory or not.
    ends: BTreeMap<JobId, State>,
    finished: Option<(u64, State)>,
}

/// How a parent ended; nothing: it is not there. Or it was requeued.
#[derive(Clone, Debug)]
enum Word {
    Ended(Option<State>, Option<Vec<u8>>),
    Again,
}

#[derive(Clone, Debug)]
enum Todo {
    Children { parent: JobId, next: (u64, usize), upto: u64, word: Word },
    Members { batch: JobId, next: JobId },
    Inner { batch: JobId, next: JobId },
}

#[derive(Clone, Debug, Default)]
pub struct Flows {
    pub batches: BTreeMap<JobId, Batch>,
    todo: VecDeque<Todo>,
    /// Those that get members by the command at hand: none of them finishes before it has.
    pub filling: BTreeSet<JobId>,
    /// By job, also of those that left memory: a record has it as the state machine counts, which is not as this model does.
    pub behind: BTreeMap<JobId, u64>,
    /// Most models have none, and need not look for children.
    pub used: bool,
}

impl Flow {
    pub fn count(&self, standing: Standing) -> usize {
        self.edges.iter().filter(|edge| edge.standing == standing).count()
    }

    fn void(&mut self, which: Standing) {
        self.edges.iter_mut().filter(|edge| edge.standing == which).for_each(|edge| edge.standing = Void);
    }
}

impl Flows {
    /// Begins a command that stores these jobs.
    pub fn fill(&mut self, jobs: &[NewJob]) {
        let open = |batch: &JobId| self.batches.get(batch).is_some_and(|it| it.finished.is_none() && !it.cancelled);
        self.filling = jobs.iter().filter_map(|job| job.batch).filter(open).collect();
    }
}

impl super::Job {
    /// Its parents, and the code of how the edge to each stands.
    pub fn edges(&self) -> Option<Vec<(JobId, u8)>> {
        let flow = self.flow.as_ref()?;
        Some(flow.edges.iter().map(|edge| (edge.parent, edge.standing as u8)).collect())
    }
}

impl Batch {
    pub fn name(&self) -> &'static str {
        match &self.finished {
            Some((_, outcome)) => outcome.name(),
            None if self.sealed => "sealed",
            None => "open",
        }
    }
}

/// The next id, if there is one.
fn behind(id: JobId) -> Option<JobId> {
    u128::from_be_bytes(id.0).checked_add(1).map(|next| JobId(next.to_be_bytes()))
}

impl Model {
    // -- who may come ---------------------------------------------------------------------------------------------

    /// Why none of these jobs may come.
    pub(super) fn refuses(&self, jobs: &[NewJob]) -> Option<&'static str> {
        if jobs.iter().all(|job| job.batch.is_none() && job.parents.is_empty()) {
            return None;
        }
        let mut earlier = BTreeMap::new();
        for job in jobs {
            let mut behind = 0;
            if !self.jobs.contains_key(&job.id) && (job.batch.is_some() || !job.parents.is_empty()) {
                if let Some(batch) = job.batch {
                    match self.flows.batches.get(&batch) {
                        None => return Some("unknown_batch"),
                        Some(batch) if batch.cancelled || batch.finished.is_some() => return Some("batch_closed"),
                        Some(_) => {}
                    }
                }
                for (parent, ..) in &job.parents {
                    let known = self.waits_behind(*parent).or_else(|| earlier.get(parent).copied());
                    let Some((theirs, batch)) = known else { return Some("unknown_parent") };
                    if job.batch.is_some_and(|own| self.could_turn(own, theirs, batch)) {
                        return Some("cycle");
                    }
                    behind = behind.max(theirs);
                }
            }
            earlier.insert(job.id, (behind, job.batch));
        }
        None
    }

    /// The newest tree of batches that a job or batch waits for, and the batch that it is in.
    fn waits_behind(&self, id: JobId) -> Option<(u64, Option<JobId>)> {
        if let Some(job) = self.jobs.get(&id) {
            let Some(flow) = &job.flow else { return Some((0, None)) };
            let waits = flow.count(Open) + flow.count(Unmet) > 0;
            return Some((if waits { flow.behind } else { 0 }, flow.batch));
        }
        let outer = self.flows.batches.get(&id)?.outer;
        Some((self.tree_of(id), outer))
    }

    /// The batch and those around it that are known.
    fn around(&self, batch: JobId) -> Vec<JobId> {
        let outer = |id: &JobId| self.flows.batches.get(id).and_then(|batch| batch.outer);
        std::iter::successors(Some(batch), outer).collect()
    }

    fn tree_of(&self, batch: JobId) -> u64 {
        let mut all = self.around(batch).into_iter().filter_map(|id| self.flows.batches.get(&id));
        all.next_back().map_or(0, |batch| batch.number)
    }

    fn could_turn(&self, own: JobId, behind: u64, batch: Option<JobId>) -> bool {
        behind >= self.tree_of(own) && !batch.is_some_and(|batch| self.around(batch).contains(&own))
    }

    /// The flow of a new job. A parent that was not stored, as its key is held, is the holder.
    pub(super) fn join(&mut self, new: &NewJob, holders: &BTreeMap<JobId, JobId>) -> Option<Flow> {
        if new.batch.is_none() && new.parents.is_empty() {
            return None;
        }
        self.flows.used = true;
        let real = |parent: &JobId| {
            let holder = *holders.get(parent)?;
            let (behind, batch) = self.waits_behind(holder)?;
            let turns = new.batch.is_some_and(|own| self.could_turn(own, behind, batch));
            (!turns && holder != new.id).then_some(holder)
        };
        let edge = |(parent, on, uses): &(JobId, u64, bool)| {
            let parent = real(parent).unwrap_or(*parent);
            Edge { parent, on: *on, uses: *uses, standing: Open }
        };
        let edges: Vec<Edge> = new.parents.iter().map(edge).collect();
        let behind = edges.iter().filter_map(|edge| self.waits_behind(edge.parent)).map(|(behind, _)| behind).max();
        let (place, behind, outputs) = (self.next_move(), behind.unwrap_or(0), Vec::new());
        self.flows.behind.insert(new.id, behind);
        Some(Flow { batch: new.batch, place, behind, delay: new.delay, run_at: new.run_at, edges, outputs })
    }

    // -- what a test compares -------------------------------------------------------------------------------------

    /// How each batch stands.
    pub fn batches(&self) -> BTreeMap<JobId, String> {
        self.flows.batches.iter().map(|(id, batch)| (*id, batch.name().to_owned())).collect()
    }

    // -- batches --------------------------------------------------------------------------------------------------

    pub(super) fn batch(&mut self, verb: &Verb) -> Reply {
        Reply::Codes(vec![match verb {
            Verb::Open(id, _, outer) => match self.open_batch(*id, *outer) {
                Ok(code) => code,
                Err(refusal) => return Reply::Refused(refusal),
            },
            Verb::Seal(id) => match self.flows.batches.get(id).map(|batch| batch.sealed) {
                None => 1,
                Some(true) => 2,
                Some(false) => {
                    self.change(*id, |batch| batch.sealed = true);
                    0
                }
            },
            Verb::Cancel(id, _) => match self.flows.batches.get(id) {
                None => 1,
                Some(batch) if batch.cancelled || batch.finished.is_some() => 2,
                Some(_) => {
                    self.cancel_batch(*id);
                    0
                }
            },
        }])
    }

    fn open_batch(&mut self, id: JobId, outer: Option<JobId>) -> Result<u8, &'static str> {
        if self.flows.batches.contains_key(&id) {
            return Ok(2);
        }
        if let Some(outer) = outer {
            match self.flows.batches.get(&outer) {
                None => return Err("unknown_batch"),
                Some(batch) if batch.cancelled || batch.finished.is_some() => return Err("batch_closed"),
                Some(_) if self.around(outer).len() >= limits::BATCH_DEPTH_MAX => return Err("invalid"),
                Some(_) => {}
            }
        }
        self.flows.used = true;
        let number = self.next_move();
        self.flows.batches.insert(id, Batch { outer, number, ..Batch::default() });
        Ok(0)
    }

    fn cancel_batch(&mut self, batch: JobId) {
        let next = JobId::default();
        self.flows.todo.push_back(Todo::Members { batch, next });
        self.flows.todo.push_back(Todo::Inner { batch, next });
        self.change(batch, |batch| (batch.sealed, batch.cancelled) = (true, true));
    }

    /// Changes a batch, which finishes or begins again if its members say so.
    pub(super) fn change(&mut self, id: JobId, change: impl FnOnce(&mut Batch)) {
        let Some(batch) = self.flows.batches.get_mut(&id) else { return };
        change(batch);
        let member = self.member(id, JobId::default()).or(self.inner(id, JobId::default()));
        let pending = member.is_some() || self.flows.filling.contains(&id);
        let clock = self.clock;
        let batch = self.flows.batches.get_mut(&id).expect("it was there just now");
        let (over, outer) = (batch.sealed && !pending, batch.outer);
        let word = match (over, batch.finished.is_some()) {
            (true, false) => {
                let all_well = batch.ends.values().all(|end| *end == State::Succeeded);
                let outcome = match batch.cancelled {
                    true => State::Cancelled,
                    false if all_well => State::Succeeded,
                    false => State::Failed,
                };
                batch.finished = Some((clock, outcome.clone()));
                Word::Ended(Some(outcome), None)
            }
            (false, true) => {
                batch.finished = None;
                Word::Again
            }
            _ => return,
        };
        self.tell(id, word.clone());
        if let Some(outer) = outer {
            self.member_turned(outer, id, if let Word::Ended(end, _) = word { end } else { None });
        }
    }

    /// A member ended, or is not over any more.
    pub(super) fn member_turned(&mut self, batch: JobId, member: JobId, end: Option<State>) {
        self.change(batch, |batch| match end {
            Some(end) => drop(batch.ends.insert(member, end)),
            None => drop(batch.ends.remove(&member)),
        });
    }

    /// The first member from an id on that is not over, or batch inside.
    fn member(&self, batch: JobId, next: JobId) -> Option<JobId> {
        let of = |job: &super::Job| job.flow.as_ref().and_then(|flow| flow.batch) == Some(batch);
        self.jobs.range(next..).find(|(_, job)| !job.state.is_final() && of(job)).map(|(id, _)| *id)
    }

    fn inner(&self, batch: JobId, next: JobId) -> Option<JobId> {
        let mut all = self.flows.batches.range(next..);
        all.find(|(_, inner)| inner.outer == Some(batch) && inner.finished.is_none()).map(|(id, _)| *id)
    }

    /// A tick forgets a batch that finished long ago.
    pub(super) fn forget_batch(&mut self) -> bool {
        let over = self.flows.batches.iter().filter_map(|(id, batch)| Some((batch.finished.as_ref()?.0, *id)));
        let due = over.min().filter(|(at, _)| at + limits::BATCH_KEEP_MS <= self.clock);
        due.is_some_and(|(_, id)| self.flows.batches.remove(&id).is_some())
    }

    // -- what children hear ---------------------------------------------------------------------------------------

    /// The first edge to a parent from a place on, and its child.
    fn child(&self, parent: JobId, next: (u64, usize), upto: u64) -> Option<(u64, usize, JobId)> {
        let flows = self.jobs.iter().filter_map(|(id, job)| Some((*id, job.flow.as_ref()?)));
        let edges = flows.flat_map(|(id, flow)| {
            let stands = |edge: &Edge| edge.parent == parent && matches!(edge.standing, Open | Unmet);
            let edges = flow.edges.iter().enumerate().filter(move |(_, edge)| stands(edge));
            edges.map(move |(position, _)| (flow.place, position, id))
        });
        edges.filter(|(place, position, _)| (*place, *position) >= next && *place <= upto).min()
    }

    /// Leaves word for the children of a parent.
    pub(super) fn tell_gone(&mut self, parent: JobId) {
        self.tell(parent, Word::Ended(None, None));
    }

    fn tell(&mut self, parent: JobId, word: Word) {
        let upto = self.moves;
        if self.child(parent, (0, 0), upto).is_some() {
            self.flows.todo.push_back(Todo::Children { parent, next: (0, 0), upto, word });
        }
    }

    /// A job became final, or is not final any more.
    pub(super) fn turned(&mut self, id: JobId) {
        if !self.flows.used {
            return;
        }
        let job = self.jobs.get_mut(&id).expect("whoever moves a job has looked for it");
        let (ends, end, result) = (job.state.is_final(), job.state.clone(), job.result.clone());
        let batch = job.flow.as_ref().and_then(|flow| flow.batch);
        let word = if ends { Word::Ended(Some(end.clone()), result) } else { Word::Again };
        self.tell(id, word);
        if let Some(batch) = batch {
            self.member_turned(batch, id, ends.then_some(end));
        }
    }

    /// Goes on with the list; gives how many items were done.
    pub(super) fn settle(&mut self, items: u64) -> u64 {
        for done in 0..items {
            let Some(todo) = self.flows.todo.pop_front() else { return done };
            if let Some(left) = self.settle_one(todo).filter(|left| self.is_left(left)) {
                self.flows.todo.push_front(left);
            }
        }
        items
    }

    fn is_left(&self, todo: &Todo) -> bool {
        match todo {
            Todo::Children { parent, next, upto, .. } => self.child(*parent, *next, *upto).is_some(),
            Todo::Members { batch, next } => self.member(*batch, *next).is_some(),
            Todo::Inner { batch, next } => self.inner(*batch, *next).is_some(),
        }
    }

    fn settle_one(&mut self, todo: Todo) -> Option<Todo> {
        match todo {
            Todo::Children { parent, next, upto, word } => {
                let (place, position, child) = self.child(parent, next, upto)?;
                self.hear(child, position, &word);
                Some(Todo::Children { parent, next: (place, position + 1), upto, word })
            }
            Todo::Members { batch, next } => {
                let member = self.member(batch, next)?;
                self.cancel(member);
                Some(Todo::Members { batch, next: behind(member)? })
            }
            Todo::Inner { batch, next } => {
                let inner = self.inner(batch, next)?;
                self.cancel_batch(inner);
                Some(Todo::Inner { batch, next: behind(inner)? })
            }
        }
    }

    /// A child that is new here hears of those parents that are over.
    pub(super) fn catch_up(&mut self, child: JobId) {
        let edges = self.jobs[&child].flow.as_ref().map_or(0, |flow| flow.edges.len());
        for position in 0..edges {
            let edge = self.jobs[&child].flow.as_ref().expect("it has edges").edges[position].clone();
            if !matches!(edge.standing, Open | Unmet) {
                continue;
            }
            // A parent that let it down, before it went into the archive, may have gone on since.
            let again = edge.standing == Unmet;
            let word = match (self.jobs.get(&edge.parent), self.flows.batches.get(&edge.parent)) {
                (Some(job), _) if job.state.is_final() => Word::Ended(Some(job.state.clone()), job.result.clone()),
                (Some(_), _) if again => Word::Again,
                (Some(_), _) => continue,
                (None, Some(batch)) => match &batch.finished {
                    Some((_, outcome)) => Word::Ended(Some(outcome.clone()), None),
                    None if again => Word::Again,
                    None => continue,
                },
                (None, None) if again => continue,
                (None, None) => Word::Ended(None, None),
            };
            self.hear(child, position, &word);
            let stands = self.jobs[&child].flow.as_ref().expect("it has edges").edges[position].standing;
            let parent = self.jobs.get_mut(&edge.parent);
            if let Some(parent) = parent.filter(|parent| stands == Unmet && parent.state.is_final()) {
                // What was written down of it does not name this child: it goes into the archive once more.
                self.ordinal += 1;
                parent.ordinal = self.ordinal;
            }
        }
    }

    fn hear(&mut self, child: JobId, position: usize, word: &Word) {
        let flow = self.jobs.get_mut(&child).and_then(|job| job.flow.as_mut()).expect("it has edges");
        let edge = &mut flow.edges[position];
        match word {
            Word::Again if edge.standing == Unmet => edge.standing = Open,
            Word::Again => return,
            Word::Ended(Some(end), result) if edge.on == 2 || (*end == State::Succeeded) == (edge.on == 0) => {
                edge.standing = Met;
                if edge.uses {
                    flow.outputs.push((position as u64, result.clone().filter(|_| *end == State::Succeeded)));
                }
            }
            Word::Ended(..) => edge.standing = Unmet,
        }
        let (open, unmet) = (flow.count(Open), flow.count(Unmet));
        match self.jobs[&child].state {
            State::Awaiting if unmet > 0 => self.move_to(child, State::Cancelled),
            State::Awaiting if open == 0 => self.release(child),
            State::Cancelled if unmet == 0 => self.come_back(child),
            _ => {}
        }
    }

    /// It need not wait any more: its delay counts from now, and then its deadline.
    fn release(&mut self, child: JobId) {
        let clock = self.clock;
        let job = self.jobs.get_mut(&child).expect("it heard something");
        let flow = job.flow.as_ref().expect("it had parents");
        job.due = flow.run_at.unwrap_or(clock + flow.delay).max(clock);
        job.deadline = job.spec.expires.map(|span| job.due + span);
        let next = if job.due > clock { State::Scheduled } else { State::Enqueued };
        self.move_to(child, next);
    }

    /// The parent that it was cancelled for was requeued.
    fn come_back(&mut self, child: JobId) {
        if self.other_holder(child).is_some() {
            return self.void(child, Open);
        }
        self.begin_again(child);
        self.move_to(child, State::Awaiting);
        let flow = self.jobs[&child].flow.as_ref().expect("it has parents");
        if flow.count(Open) == 0 {
            self.release(child);
        }
    }

    pub(super) fn void(&mut self, id: JobId, which: Standing) {
        if let Some(flow) = self.jobs.get_mut(&id).and_then(|job| job.flow.as_mut()) {
            flow.void(which);
        }
    }
}
