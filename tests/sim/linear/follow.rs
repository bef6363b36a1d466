//! What spans the jobs of a flow (J11). Each check asks where others may have stood, as their own searches tell, so what is
//! refused is wrong.
//!
//! * A child starts only if each parent may have ended as it asked, at some time since the child came.
//! * A child that was cancelled for a parent had one that may have ended otherwise, or was deleted.
//! * While a batch is over, no member is under way; if it succeeded, none failed.
//! * At the last read of all, no child waits whose parents are all over, and no sealed batch whose members are.
//!
//! Which parent was met is not followed from one generation of a parent to the next, nor the results that go to a child. In
//! between, a child may seem to wait for long: a command settles so many, and a history does not tell who is left.

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::JobId;

use super::batch::BatchAt;
use super::object::{Object, Seen, What};
use super::state::At;
use super::{name, show};
use crate::history::{Act, Answer, NewJob, Operation};

/// An enqueue that was taken: batches that took a job, and parents that were there.
pub fn joined(request: &Operation) -> Vec<(JobId, What<'static>)> {
    let (Act::Enqueue(jobs), Answer::Codes(codes)) = (&request.act, &request.answer) else { return Vec::new() };
    let own: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
    let new = || jobs.iter().zip(codes).filter(|(_, code)| **code != KNOWN).map(|(job, _)| job);
    let parents: BTreeSet<JobId> = new().flat_map(|job| &job.parents).map(|(parent, _)| *parent).collect();
    let batches: BTreeSet<JobId> = new().filter_map(|job| job.batch).collect();
    let parents = parents.difference(&own).map(|parent| (*parent, What::Is(true)));
    parents.chain(batches.into_iter().map(|batch| (batch, What::Takes(true)))).collect()
}

/// A code of `Enqueue`: the job was there before.
const KNOWN: u8 = 1;

/// What was refused: if only one batch or parent can be the reason, it is.
pub fn refused(request: &Operation) -> Vec<(JobId, What<'static>)> {
    let Answer::Refused(why) = &request.answer else { return Vec::new() };
    let (mut parents, mut batches) = (BTreeSet::new(), BTreeSet::new());
    match &request.act {
        Act::Enqueue(jobs) => {
            let own: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
            let all = jobs.iter().flat_map(|job| &job.parents).map(|(parent, _)| *parent);
            parents.extend(all.filter(|parent| !own.contains(parent)));
            batches.extend(jobs.iter().filter_map(|job| job.batch));
        }
        Act::OpenBatch(_, outer) => batches.extend(*outer),
        _ => {}
    }
    let only = |ids: BTreeSet<JobId>| (ids.len() == 1).then(|| ids.into_iter().next()).flatten();
    let found = match why.as_str() {
        "unknown_parent" => only(parents).map(|parent| (parent, What::Is(false))),
        "unknown_batch" => only(batches).map(|batch| (batch, What::Is(false))),
        "batch_closed" => only(batches).map(|batch| (batch, What::Takes(false))),
        _ => None,
    };
    found.into_iter().collect()
}

/// Where the jobs and batches of a history may have stood.
struct Family<'a> {
    objects: &'a BTreeMap<JobId, Object<'a>>,
    seen: &'a BTreeMap<JobId, Seen>,
    /// Jobs that belong to a batch, and batches inside.
    members: BTreeMap<JobId, Vec<JobId>>,
}

pub fn check(
    requests: &[Operation],
    objects: &BTreeMap<JobId, Object<'_>>,
    seen: &BTreeMap<JobId, Seen>,
) -> Result<(), String> {
    let mut members: BTreeMap<JobId, Vec<JobId>> = BTreeMap::new();
    for (id, object) in objects {
        let batch = object.spec().and_then(|spec| spec.batch).or_else(|| outer(object));
        members.entry(batch.unwrap_or_default()).or_default().push(*id);
    }
    members.remove(&JobId::default());
    let family = Family { objects, seen, members };
    for (id, object) in objects {
        if let Some(spec) = object.spec().filter(|spec| !spec.parents.is_empty()) {
            family.child(*id, object, spec)?;
        }
    }
    let reads = requests.iter().filter(|request| matches!(request.act, Act::Read { .. }));
    let indexes: BTreeSet<u64> = reads.clone().filter_map(|read| read.index).collect();
    for batch in family.members.keys().filter(|batch| seen.contains_key(batch)) {
        indexes.iter().try_for_each(|index| family.batch(*batch, *index))?;
    }
    // Only a history that ends with a read of everything came to rest.
    let last = requests.iter().filter_map(|request| request.index).max();
    let mut all = reads.filter(|read| read.index == last).filter_map(|read| Some((read.index?, read)));
    all.try_for_each(|(index, read)| family.rests(index, read))
}

/// The batch around a batch.
fn outer(object: &Object<'_>) -> Option<JobId> {
    object.parts.iter().find_map(|part| match part.of.act {
        Act::OpenBatch(_, outer) => outer,
        _ => None,
    })
}

fn is_over(at: &At) -> bool {
    match at {
        At::Batch(batch) => batch.is_over(),
        At::Succeeded | At::Failed | At::Cancelled | At::GivenUp => true,
        _ => false,
    }
}

fn is_under_way(at: &At) -> bool {
    match at {
        At::Batch(batch) => !batch.is_over(),
        At::Absent | At::Deleted => false,
        _ => !is_over(at),
    }
}

/// Whether a parent that stands there ended as a child asks: `on` as a history has it.
fn is_met(at: &At, on: u64) -> bool {
    let well = matches!(at, At::Succeeded | At::Batch(BatchAt::Succeeded { .. }));
    is_over(at) && (on == 2 || well == (on == 0))
}

/// Whether all of these say so, and there are any: it was so for certain.
fn certainly(may: &BTreeSet<At>, says: impl Fn(&At) -> bool) -> bool {
    !may.is_empty() && may.iter().all(says)
}

impl Family<'_> {
    /// Nothing is known of what no operation names; and of one with a unique key, another may stand in its place.
    fn between(&self, id: JobId, from: u64, upto: u64) -> Option<BTreeSet<At>> {
        let spec = self.objects.get(&id)?.spec();
        let known = spec.is_none_or(|spec| spec.unique.is_none()).then(|| self.seen.get(&id)).flatten()?;
        Some(known.between(from, upto))
    }

    fn child(&self, id: JobId, object: &Object<'_>, spec: &NewJob) -> Result<(), String> {
        let came = object.parts.iter().filter(|part| matches!(part.what, What::Enqueue(..))).map(|part| part.of);
        // Of an enqueue without an answer nobody knows when it came.
        let came = came.map(|of| of.index.unwrap_or(0)).min().unwrap_or(0);
        let by_hand = |index: u64| {
            let asked = object.parts.iter().filter(|part| matches!(part.what, What::Requeue(None | Some(0))));
            asked.map(|part| part.of.index.unwrap_or(0)).any(|asked| asked <= index)
        };
        let claims = object.parts.iter().filter(|part| matches!(part.what, What::Claim(..))).map(|part| part.of);
        for claim in claims {
            let index = claim.index.unwrap_or(u64::MAX);
            let wrong = |(parent, on): &&(JobId, u64)| {
                let may = self.between(*parent, came, index);
                may.is_some_and(|may| !may.is_empty() && !may.iter().any(|at| is_met(at, *on)))
            };
            if let Some((parent, _)) = spec.parents.iter().find(wrong).filter(|_| !by_hand(index)) {
                let (child, parent) = (name(id), name(*parent));
                return Err(format!("J11: child {child} started before its parent {parent} ended: {}", show(claim)));
            }
        }
        for read in self.seen[&id].moments.iter().filter(|moment| moment.behind == moment.before) {
            let may_be_unmet = |(parent, on): &(JobId, u64)| {
                let unmet = |at: &At| matches!(at, At::Absent | At::Deleted) || (is_over(at) && !is_met(at, *on));
                self.between(*parent, came, read.before + 1).is_none_or(|may| may.iter().any(unmet))
            };
            if certainly(&read.may, |at| *at == At::GivenUp) && !spec.parents.iter().any(may_be_unmet) {
                let (child, index) = (name(id), read.before);
                return Err(format!("J11: child {child} is cancelled at {index}, and no parent let it down"));
            }
        }
        Ok(())
    }

    /// As of one index: a batch and its members.
    fn batch(&self, batch: JobId, index: u64) -> Result<(), String> {
        let stands = self.seen[&batch].at(index);
        if !certainly(&stands, is_over) {
            return Ok(());
        }
        let well = certainly(&stands, |at| matches!(at, At::Batch(BatchAt::Succeeded { .. })));
        for member in &self.members[&batch] {
            let may = self.seen[member].at(index);
            let (over, member) = (name(batch), name(*member));
            if certainly(&may, is_under_way) {
                return Err(format!("J11: batch {over} is over at {index}, and its member {member} is not"));
            }
            if well && certainly(&may, |at| is_over(at) && !is_met(at, 0)) {
                return Err(format!("J11: batch {over} succeeded by {index}, and its member {member} did not"));
            }
        }
        Ok(())
    }

    /// At the end nobody waits for what is over.
    fn rests(&self, index: u64, read: &Operation) -> Result<(), String> {
        let (Act::Read { jobs, .. }, Answer::States(states)) = (&read.act, &read.answer) else { return Ok(()) };
        let over = |id: &JobId| self.between(*id, index, index + 1).map(|_| self.seen[id].at(index));
        for (id, state) in jobs.iter().zip(states) {
            let waits_for: Vec<JobId> = match state.as_deref() {
                Some("awaiting") => {
                    let parents = self.objects.get(id).and_then(|object| object.spec()).map(|spec| &spec.parents);
                    parents.into_iter().flatten().map(|(parent, _)| *parent).collect()
                }
                Some("sealed") => self.members.get(id).cloned().unwrap_or_default(),
                _ => continue,
            };
            let gone = |id: &JobId| over(id).is_some_and(|may| certainly(&may, |at| is_over(at) || *at == At::Deleted));
            if waits_for.iter().all(gone) {
                return Err(format!("J11: {} waits for nothing any more at {index}: {}", name(*id), show(read)));
            }
        }
        Ok(())
    }
}
