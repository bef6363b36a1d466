//! What spans jobs: whether claims took those who were ready, in their order (J8). A job with limits is looked at only
//! where these can hold nobody back, or hold back the other one too; one that somebody moved in line is not looked at.

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::JobId;

use super::limits::{self, Key};
use super::object::{Object, Seen};
use super::state::Since;
use super::{name, show};
use crate::history::{Act, Answer, NewJob, Operation};

/// Place in line: priority, since when (if that is known), and who.
type Place = (i64, Since, JobId);

/// A job that stood in line up to an index is gone there; one that stands in line from an index on is there behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Goes,
    Comes,
}

/// Walks along the log: who is ready for certain, and what each claim makes of it.
pub fn check(
    requests: &[Operation],
    objects: &BTreeMap<JobId, Object<'_>>,
    seen: &BTreeMap<JobId, Seen>,
) -> Result<(), String> {
    let all = Limited { objects, seen, keys: limits::keys(objects), any: has_limits(objects) };
    let mut turns: Vec<(u64, Turn, &NewJob, Place)> = Vec::new();
    let mut places: BTreeMap<(JobId, u64), Place> = BTreeMap::new();
    for (id, seen) in seen {
        let Some(spec) = objects[id].spec().filter(|spec| !spec.moves) else { continue };
        for ready in seen.ready.iter().filter(|ready| ready.behind < ready.before) {
            let place = (-spec.priority, ready.since, *id);
            turns.push((ready.behind, Turn::Comes, spec, place));
            turns.push((ready.before, Turn::Goes, spec, place));
            places.insert((*id, ready.before), place);
        }
    }
    turns.sort_by_key(|(index, turn, ..)| (*index, *turn));
    let mut turns = turns.into_iter().peekable();
    let mut lines: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
    for claim in claims(requests) {
        let index = claim.index.unwrap_or(0);
        while let Some((_, turn, spec, place)) = turns.next_if(|(at, turn, ..)| (*at, *turn) < (index, Turn::Comes)) {
            let line = lines.entry(spec.queue.as_str()).or_default();
            match turn {
                Turn::Comes => line.insert(place),
                Turn::Goes => line.remove(&place),
            };
        }
        look(claim, &lines, &places, &all)?;
    }
    Ok(())
}

fn has_limits(objects: &BTreeMap<JobId, Object<'_>>) -> bool {
    objects.values().any(|object| object.spec().is_some_and(|spec| !spec.limits.is_empty()))
}

/// Limits hold back jobs that look ready.
struct Limited<'a> {
    objects: &'a BTreeMap<JobId, Object<'a>>,
    seen: &'a BTreeMap<JobId, Seen>,
    keys: BTreeMap<&'a str, Key>,
    any: bool,
}

impl Limited<'_> {
    /// Whether a job may have started at this entry, for certain.
    fn is_free(&self, id: JobId, index: u64) -> bool {
        let limits = self.objects[&id].spec().map_or(&[][..], |spec| &spec.limits);
        let has_room = |key: &str| limits::has_room(&self.keys[key], self.seen, index);
        limits.iter().all(|limit| limit.n == 0 || (!limit.rate && has_room(&limit.key)))
    }

    /// Whether whatever holds back one job, or lets others pass it, does so to another one too: it has no key that the other
    /// one has not.
    fn is_as_free(&self, id: JobId, other: JobId) -> bool {
        let keys = |id: JobId| {
            let limits = self.objects[&id].spec().map_or(&[][..], |spec| &spec.limits);
            limits.iter().map(|limit| (limit.rate, limit.n == 0, &limit.key)).collect::<BTreeSet<_>>()
        };
        !self.any || keys(id).is_subset(&keys(other))
    }
}

fn claims(requests: &[Operation]) -> Vec<&Operation> {
    let is_claim = |request: &&Operation| matches!(request.answer, Answer::Leases(_)) && request.index.is_some();
    let mut claims: Vec<&Operation> = requests.iter().filter(is_claim).collect();
    claims.sort_by_key(|claim| claim.index);
    claims
}

fn look(
    claim: &Operation,
    lines: &BTreeMap<&str, BTreeSet<Place>>,
    places: &BTreeMap<(JobId, u64), Place>,
    all: &Limited<'_>,
) -> Result<(), String> {
    let (Act::Claim { queues, max, .. }, Answer::Leases(leases), Some(index)) =
        (&claim.act, &claim.answer, claim.index)
    else {
        return Ok(());
    };
    let given: Vec<Place> = leases.iter().filter_map(|lease| places.get(&(lease.job, index)).copied()).collect();
    for queue in queues {
        let Some(line) = lines.get(queue.as_str()) else { continue };
        let is_left = (leases.len() as u64) < *max;
        if let Some((_, _, id)) = line.iter().find(|(.., id)| is_left && all.is_free(*id, index)) {
            return Err(format!("job {} was ready, and {} left it there", name(*id), show(claim)));
        }
        if queues.len() > 1 {
            continue;
        }
        for behind in given.iter().filter(|place| place.1.is_some()) {
            let before = line.range(..*behind).filter(|(_, since, _)| since.is_some());
            if let Some(first) = before.into_iter().find(|first| all.is_as_free(first.2, behind.2)) {
                let (first, behind) = (name(first.2), name(behind.2));
                return Err(format!("J8: job {first} stood before job {behind}, which {} took", show(claim)));
            }
        }
    }
    let known: Vec<&Place> = given.iter().filter(|place| place.1.is_some()).collect();
    let wrong = |pair: &[&Place]| pair[0] > pair[1] && all.is_as_free(pair[1].2, pair[0].2);
    match known.windows(2).find(|pair| wrong(pair)).filter(|_| queues.len() == 1) {
        Some(pair) => {
            Err(format!("J8: job {} was given before job {}: {}", name(pair[0].2), name(pair[1].2), show(claim)))
        }
        None => Ok(()),
    }
}
