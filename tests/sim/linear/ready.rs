//! What spans jobs: whether claims took those who were ready, in their order (J8).

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::JobId;

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
    let mut turns: Vec<(u64, Turn, &NewJob, Place)> = Vec::new();
    let mut places: BTreeMap<(JobId, u64), Place> = BTreeMap::new();
    for (id, seen) in seen {
        let Some(spec) = objects[id].spec() else { continue };
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
        look(claim, &lines, &places)?;
    }
    Ok(())
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
) -> Result<(), String> {
    let (Act::Claim { queues, max, .. }, Answer::Leases(leases), Some(index)) =
        (&claim.act, &claim.answer, claim.index)
    else {
        return Ok(());
    };
    let given: Vec<Place> = leases.iter().filter_map(|lease| places.get(&(lease.job, index)).copied()).collect();
    for queue in queues {
        let Some(line) = lines.get(queue.as_str()) else { continue };
        if let Some((_, _, id)) = line.first().filter(|_| (leases.len() as u64) < *max) {
            return Err(format!("job {} was ready, and {} left it there", name(*id), show(claim)));
        }
        let first = line.iter().find(|(_, since, _)| since.is_some());
        let behind = given.iter().find(|place| place.1.is_some() && first.is_some_and(|first| first < place));
        if let (Some(first), Some(behind)) = (first, behind.filter(|_| queues.len() == 1)) {
            let (first, behind) = (name(first.2), name(behind.2));
            return Err(format!("J8: job {first} stood before job {behind}, which {} took", show(claim)));
        }
    }
    let known: Vec<&Place> = given.iter().filter(|place| place.1.is_some()).collect();
    match known.windows(2).find(|pair| pair[0] > pair[1]).filter(|_| queues.len() == 1) {
        Some(pair) => {
            Err(format!("J8: job {} was given before job {}: {}", name(pair[0].2), name(pair[1].2), show(claim)))
        }
        None => Ok(()),
    }
}
