//! How many jobs of a key run at once (J13). Who may run is known from each job's own search.
//!
//! A key whose number changes is judged by the greatest of its numbers where too many run, and by the least where a job was
//! left behind (`ready`). Rates are not judged: a history does not tell the time of the cluster. Keys that take turns hold
//! back nobody; in whose turn a job was given the reference model says.

use std::collections::BTreeMap;

use raftwork::base::JobId;

use super::object::{Object, Seen};
use super::show;
use super::state::At;
use crate::history::{Answer, Operation};

/// The jobs of a key, and the least and greatest number that anybody gave it.
#[derive(Debug)]
pub struct Key {
    jobs: Vec<JobId>,
    least: u64,
    most: u64,
}

/// The keys of all jobs that say how many run at once.
pub fn keys<'a>(objects: &BTreeMap<JobId, Object<'a>>) -> BTreeMap<&'a str, Key> {
    let mut keys: BTreeMap<&str, Key> = BTreeMap::new();
    for (id, object) in objects {
        let limits = object.spec().into_iter().flat_map(|spec| &spec.limits);
        for limit in limits.filter(|limit| !limit.rate && limit.n > 0) {
            let key = keys.entry(&limit.key).or_insert(Key { jobs: Vec::new(), least: limit.n, most: limit.n });
            (key.least, key.most) = (key.least.min(limit.n), key.most.max(limit.n));
            key.jobs.push(*id);
        }
    }
    keys
}

fn runs(at: &At) -> bool {
    matches!(at, At::Held { .. } | At::HeldBySomebody)
}

/// Whether one more job of the key could have started at this entry, whoever else did.
pub fn has_room(key: &Key, seen: &BTreeMap<JobId, Seen>, index: u64) -> bool {
    let may_run = |id: &&JobId| seen[id].between(index.saturating_sub(1), index + 1).iter().any(runs);
    (key.jobs.iter().filter(may_run).count() as u64) < key.least
}

pub fn check(
    requests: &[Operation],
    objects: &BTreeMap<JobId, Object<'_>>,
    seen: &BTreeMap<JobId, Seen>,
) -> Result<(), String> {
    let keys = keys(objects);
    if keys.is_empty() {
        return Ok(());
    }
    let gave = |request: &&Operation| matches!(&request.answer, Answer::Leases(leases) if !leases.is_empty());
    for (claim, index) in requests.iter().filter(gave).filter_map(|claim| Some((claim, claim.index?))) {
        for (name, key) in &keys {
            let run = |id: &&JobId| {
                let may = seen[id].at(index);
                !may.is_empty() && may.iter().all(runs)
            };
            let count = key.jobs.iter().filter(run).count() as u64;
            if count > key.most {
                return Err(format!("J13: {count} jobs of {name} run, at most {} may: {}", key.most, show(claim)));
            }
        }
    }
    Ok(())
}
