//! Whether a history can be explained: strict serializability, and the promises about jobs on top of it.
//!
//! Every write is answered with the index of its log entry, which gives the order that the system claims. So:
//! 1. The order must respect real time: whoever began after an answer has a larger index (D1, L1). One index belongs to
//!    one request, and one request has one answer (L5). Reads of a session never go back (L2).
//! 2. In that order, each answer must follow from those before it. Jobs are looked at one by one, after A. Horn and D.
//!    Kroening, "Faster linearizability checking via P-compositionality", and each is searched as G. Lowe does in "Testing
//!    for linearizability": all states that it may be in are kept, step by step (`object`). Requests without an answer may
//!    have taken effect at any time after they began, once or never; what nodes do by themselves (sessions that end,
//!    jobs that become due) may happen wherever nothing contradicts it.
//! 3. What spans jobs: a claim leaves nobody behind who was ready for certain, nor hands out somebody who stood behind
//!    (J8) (`ready`). Children and batches follow (`follow`), and limits hold (`limits`). A batch is there as a whole or not at all (L4). Tokens rise and are given once (J2, K2).
//!
//! Operations without an index are placed by time alone. A history that is refused is wrong; one that is accepted may be
//! wrong where the checker allows more than the system should do, as it sees neither the log nor the clock of the cluster.
//! `replay` is exact, where the log is known.

mod batch;
mod follow;
mod limits;
mod object;
mod ready;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use raftwork::base::JobId;

use crate::history::{Act, Answer, Consistency, NewJob, Operation, NEVER};
use object::{Object, Part, What};

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub operations: usize,
    pub jobs: usize,
    pub unknown: usize,
}

/// Tells what contradicts itself first, if anything does.
pub fn check(operations: &[Operation]) -> Result<Summary, String> {
    let requests = requests(operations)?;
    respect_time(&requests)?;
    tokens_rise(&requests)?;
    reads_go_on(&requests)?;
    let known = Known::of(&requests)?;
    let objects = objects(&requests, &known);
    let mut seen = BTreeMap::new();
    for (id, object) in &objects {
        seen.insert(*id, object.search(&known).map_err(|why| format!("job {}: {why}", name(*id)))?);
    }
    ready::check(&requests, &objects, &seen)?;
    if known.spans_jobs {
        follow::check(&requests, &objects, &seen)?;
        limits::check(&requests, &objects, &seen)?;
    }
    whole_batches(&requests, &seen)?;
    let unknown = requests.iter().filter(|request| request.answer == Answer::Unknown).count();
    Ok(Summary { operations: operations.len(), jobs: objects.len(), unknown })
}

/// An id as a person wrote it.
pub fn name(id: JobId) -> String {
    match std::str::from_utf8(&id.0) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => text.trim_end_matches('.').to_owned(),
        _ => id.to_string(),
    }
}

/// Each request once, however often it was sent. What was refused for good is left out: it never took effect (D2).
fn requests(operations: &[Operation]) -> Result<Vec<Operation>, String> {
    let mut requests: Vec<Operation> = Vec::with_capacity(operations.len());
    let mut known: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.answer != Answer::NotCommitted) {
        if operation.ended < operation.began {
            return Err(format!("{} ended before it began", show(operation)));
        }
        let first = operation.request.and_then(|request| known.insert(request, requests.len()).map(|at| (request, at)));
        let Some((request, at)) = first else {
            requests.push(operation.clone());
            continue;
        };
        known.insert(request, at);
        join(&mut requests[at], operation)?;
    }
    Ok(requests)
}

/// The same request, sent again.
fn join(first: &mut Operation, again: &Operation) -> Result<(), String> {
    if first.act != again.act {
        return Err(format!("L5: one sequence for {} and {}", show(first), show(again)));
    }
    first.began = first.began.min(again.began);
    let told = |operation: &Operation| !matches!(operation.answer, Answer::Unknown | Answer::SessionExpired);
    match (told(first), told(again)) {
        (true, true) if (first.index, &first.answer) != (again.index, &again.answer) => {
            Err(format!("L5: two first answers, to {} and to {}", show(first), show(again)))
        }
        (true, true) => {
            first.ended = first.ended.min(again.ended);
            Ok(())
        }
        (true, false) => Ok(()),
        (false, true) => {
            (first.ended, first.index, first.answer) = (again.ended, again.index, again.answer.clone());
            Ok(())
        }
        (false, false) => {
            if again.answer == Answer::SessionExpired {
                (first.ended, first.index, first.answer) = (again.ended, again.index, again.answer.clone());
            }
            Ok(())
        }
    }
}

fn show(operation: &Operation) -> String {
    format!("`{}`", operation.json())
}

/// Whether a read must have seen everything that was answered before it began.
fn is_fresh(operation: &Operation) -> bool {
    !matches!(operation.act, Act::Read { consistency: Consistency::Local | Consistency::Session, .. })
}

/// D1, L1: what began after an answer lies behind it. A read saw nothing that began after it ended.
fn respect_time(requests: &[Operation]) -> Result<(), String> {
    let mut writes: BTreeMap<u64, &Operation> = BTreeMap::new();
    let indexed = || requests.iter().filter_map(|request| Some((request.index?, request)));
    for (index, write) in indexed().filter(|(_, request)| request.act.is_write()) {
        if let Some(other) = writes.insert(index, write) {
            return Err(format!("two entries at index {index}: {} and {}", show(other), show(write)));
        }
    }
    let mut ended: Vec<_> = indexed().collect();
    let mut began: Vec<_> = indexed().filter(|(_, request)| is_fresh(request)).collect();
    ended.sort_by_key(|(_, request)| request.ended);
    began.sort_by_key(|(_, request)| request.began);
    let (mut ended, mut latest) = (ended.into_iter().peekable(), None::<(u64, &Operation)>);
    for (index, request) in began {
        while let Some(before) = ended.next_if(|(_, before)| before.ended < request.began) {
            latest = latest.filter(|latest| latest.0 >= before.0).or(Some(before));
        }
        let Some((known, before)) = latest else { continue };
        if index < known || (index == known && request.act.is_write()) {
            return Err(format!(
                "L1: {} was answered before {} began, and lies behind it",
                show(before),
                show(request)
            ));
        }
    }
    Ok(())
}

/// J2, K2: a token is given once, and later ones are greater.
fn tokens_rise(requests: &[Operation]) -> Result<(), String> {
    let mut claims: Vec<&Operation> = requests.iter().filter(|request| request.index.is_some()).collect();
    claims.sort_by_key(|request| request.index);
    let mut newest = 0;
    for claim in claims {
        let Answer::Leases(leases) = &claim.answer else { continue };
        for lease in leases {
            if lease.token <= newest || Some(lease.token) < claim.index {
                return Err(format!("K2: token {} does not rise above {newest}: {}", lease.token, show(claim)));
            }
            newest = lease.token;
        }
    }
    Ok(())
}

/// L2: a process reads what it wrote, and never something older than what it read before.
fn reads_go_on(requests: &[Operation]) -> Result<(), String> {
    let mut newest: BTreeMap<u64, (u64, &Operation)> = BTreeMap::new();
    let mut told: Vec<&Operation> = requests.iter().filter(|request| request.ended != NEVER).collect();
    told.sort_by_key(|request| request.ended);
    for request in told {
        let Some(index) = request.index else { continue };
        if matches!(request.act, Act::Read { consistency: Consistency::Local, .. }) {
            continue;
        }
        let known = newest.get(&request.process).copied().filter(|(_, before)| before.ended < request.began);
        if let Some((_, before)) = known.filter(|(newest, _)| index < *newest) {
            return Err(format!("L2: {} goes back behind {}", show(request), show(before)));
        }
        let newest = newest.entry(request.process).or_insert((index, request));
        if newest.0 <= index {
            *newest = (index, request);
        }
    }
    Ok(())
}

/// What the answers say about sessions, and which claims nobody knows the outcome of.
#[derive(Debug, Default)]
pub struct Known {
    /// The last index at which each session lived for certain, and the first at which it was gone.
    alive: BTreeMap<u64, u64>,
    gone: BTreeMap<u64, u64>,
    /// Sessions that somebody may have closed.
    closed: BTreeSet<u64>,
    /// Claims that may have handed something out: behind the first index, before the second.
    claims: Vec<(u64, u64)>,
    /// Whether jobs wait for each other, belong together or share limits.
    spans_jobs: bool,
    /// Keys that a job may take from another that waits, and whether anybody cancels batches.
    replaced: BTreeSet<String>,
    cancels_batches: bool,
    /// When answers came, with the largest index until then.
    answered: Vec<(u64, u64)>,
}

impl Known {
    fn of(requests: &[Operation]) -> Result<Self, String> {
        let answered = requests.iter().filter_map(|request| Some((request.ended, request.index?)));
        let mut answered: Vec<(u64, u64)> = answered.collect();
        answered.sort_unstable();
        let mut largest = 0;
        for (_, index) in &mut answered {
            largest = largest.max(*index);
            *index = largest;
        }
        let mut known = Known { answered, ..Known::default() };
        requests.iter().for_each(|request| known.learn(request));
        for (session, gone) in &known.gone {
            let alive = known.alive.get(session).copied().unwrap_or(0);
            if *session > 0 && *gone < alive {
                return Err(format!("session {session} lived at {alive}, and was gone at {gone}"));
            }
        }
        Ok(known)
    }

    /// What other jobs may do to a job.
    fn learn_of_others(&mut self, act: &Act) {
        match act {
            Act::Enqueue(jobs) => {
                let keys = jobs.iter().filter(|job| job.replaces).filter_map(|job| job.unique.clone());
                self.replaced.extend(keys);
                let alone = |job: &NewJob| job.parents.is_empty() && job.unique.is_none() && job.limits.is_empty();
                self.spans_jobs |= !jobs.iter().all(|job| alone(job) && job.batch.is_none());
            }
            Act::CancelBatch(_) => self.cancels_batches = true,
            Act::OpenBatch(..) => self.spans_jobs = true,
            _ => {}
        }
    }

    fn learn(&mut self, request: &Operation) {
        self.learn_of_others(&request.act);
        let Some(index) = request.index else {
            match &request.act {
                Act::Claim { .. } if request.answer == Answer::Unknown => {
                    self.claims.push((self.index_before(request.began), NEVER));
                }
                Act::Close(session) => {
                    self.closed.insert(*session);
                }
                _ => {}
            }
            return;
        };
        let session = session_of(request);
        match (&request.act, &request.answer) {
            (Act::Open | Act::Read { .. }, _) | (_, Answer::Unknown) => {}
            (Act::Close(session) | Act::Expire(session), Answer::Done) => self.lived(*session, index - 1),
            (act, Answer::SessionExpired) => {
                let gone = self.gone.entry(session).or_insert(index);
                *gone = (*gone).min(index);
                if matches!(act, Act::Claim { .. }) {
                    self.claims.push((self.index_before(request.began), index));
                }
            }
            _ => self.lived(session, index),
        }
    }

    fn lived(&mut self, session: u64, index: u64) {
        let alive = self.alive.entry(session).or_default();
        *alive = (*alive).max(index);
    }

    /// The largest index that had been answered before this time: what began then lies behind it.
    pub fn index_before(&self, began: u64) -> u64 {
        let answers = self.answered.partition_point(|(ended, _)| *ended < began);
        answers.checked_sub(1).map_or(0, |last| self.answered[last].1)
    }
}

fn session_of(request: &Operation) -> u64 {
    match (&request.act, request.request) {
        (_, Some((session, _))) => session,
        (Act::Claim { session, .. }, None) => *session,
        _ => 0,
    }
}

/// Takes the operations apart: what each of them does to each job.
fn objects<'a>(requests: &'a [Operation], known: &Known) -> BTreeMap<JobId, Object<'a>> {
    let mut objects: BTreeMap<JobId, Object> = BTreeMap::new();
    let mut holders: BTreeMap<u64, BTreeSet<JobId>> = BTreeMap::new();
    for request in requests {
        let mut add = |id: JobId, position: usize, what: What<'a>| {
            objects.entry(id).or_default().parts.push(Part { of: request, position, what });
        };
        let code = |position: usize| match &request.answer {
            Answer::Codes(codes) => codes.get(position).copied(),
            _ => None,
        };
        match &request.act {
            Act::Enqueue(_) if matches!(request.answer, Answer::Refused(_)) => {
                follow::refused(request).into_iter().for_each(|(id, what)| add(id, 0, what));
            }
            Act::Enqueue(jobs) => {
                follow::joined(request).into_iter().for_each(|(id, what)| add(id, 0, what));
                for (at, job) in jobs.iter().enumerate() {
                    add(job.id, at, What::Enqueue(job, code(at)));
                }
            }
            Act::Claim { session, .. } => {
                let Answer::Leases(leases) = &request.answer else { continue };
                for (at, lease) in leases.iter().enumerate() {
                    add(lease.job, at, What::Claim(*session, lease));
                    holders.entry(*session).or_default().insert(lease.job);
                }
            }
            Act::Finish(results) => {
                for (at, result) in results.iter().enumerate() {
                    add(result.job, at, What::Finish(result, code(at)));
                }
            }
            Act::Cancel(jobs) => jobs.iter().enumerate().for_each(|(at, id)| add(*id, at, What::Cancel(code(at)))),
            Act::Requeue(jobs) => jobs.iter().enumerate().for_each(|(at, id)| add(*id, at, What::Requeue(code(at)))),
            Act::Delete(jobs) => jobs.iter().enumerate().for_each(|(at, id)| add(*id, at, What::Delete(code(at)))),
            Act::OpenBatch(..) if matches!(request.answer, Answer::Refused(_)) => {
                follow::refused(request).into_iter().for_each(|(id, what)| add(id, 0, what));
            }
            Act::OpenBatch(id, outer) => {
                let took = outer.filter(|_| code(0) == Some(0));
                took.into_iter().for_each(|outer| add(outer, 0, What::Takes(true)));
                add(*id, 0, What::OpenBatch(outer.is_some(), code(0)));
            }
            Act::SealBatch(id) => add(*id, 0, What::SealBatch(code(0))),
            Act::CancelBatch(id) => add(*id, 0, What::CancelBatch(code(0))),
            Act::Read { jobs, .. } => {
                let Answer::States(states) = &request.answer else { continue };
                for (at, (id, state)) in jobs.iter().zip(states).enumerate() {
                    add(*id, at, What::Read(state.as_deref()));
                }
            }
            Act::Open | Act::Close(_) | Act::Expire(_) => {}
        }
    }
    for request in requests.iter().filter(|request| request.index.is_some()) {
        let (session, what) = match (&request.act, &request.answer) {
            (Act::Close(session), Answer::Done) => (*session, What::Closed(*session)),
            (Act::Expire(session), Answer::Done) => (*session, What::Expired(*session)),
            (_, Answer::SessionExpired) => (session_of(request), What::Gone(session_of(request))),
            _ => continue,
        };
        for id in holders.get(&session).into_iter().flatten() {
            let object = objects.get_mut(id).expect("a holder's jobs are known");
            object.parts.push(Part { of: request, position: 0, what: what.clone() });
        }
    }
    objects.values_mut().for_each(|object| object.order(known));
    objects
}

/// L4: of a batch without an answer, all jobs came at one index, or none.
fn whole_batches(requests: &[Operation], seen: &BTreeMap<JobId, object::Seen>) -> Result<(), String> {
    for request in requests {
        let Act::Enqueue(jobs) = &request.act else { continue };
        let of = |place: fn(&object::Seen) -> Option<u64>| {
            // Whose unique key is held does not come.
            let jobs = jobs.iter().filter(|job| job.unique.is_none());
            let known = jobs.filter_map(move |job| Some((place(seen.get(&job.id)?)?, job.id)));
            known.collect::<Vec<_>>()
        };
        let (first, last) = (of(|seen| seen.there).into_iter().min(), of(|seen| seen.absent).into_iter().max());
        if let (Some((came, there)), Some((still, absent))) = (first, last) {
            if came <= still {
                let (there, absent) = (name(there), name(absent));
                return Err(format!("L4: job {there} came by {came}, job {absent} not by {still}: {}", show(request)));
            }
        }
    }
    Ok(())
}
