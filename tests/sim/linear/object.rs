//! One job: all states that it may be in, operation by operation.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{At, Gap, Since, State};
use super::{show, Known};
use crate::history::{Act, Answer, Consistency, Finished, NewJob, Operation, NEVER};
use crate::model::Lease;

/// What one operation does to one job, and what was said about it. No code: nobody knows.
#[derive(Clone, Debug)]
pub enum What<'a> {
    Enqueue(&'a NewJob, Option<u8>),
    Claim(u64, &'a Lease),
    Finish(&'a Finished, Option<u8>),
    Cancel(Option<u8>),
    Requeue(Option<u8>),
    Delete(Option<u8>),
    /// A batch, and whether it is inside of another.
    OpenBatch(bool, Option<u8>),
    SealBatch(Option<u8>),
    CancelBatch(Option<u8>),
    /// This batch took members; or it was said to take none.
    Takes(bool),
    /// Somebody waits for this job or batch; or was told that there is none.
    Is(bool),
    Read(Option<&'a str>),
    /// The session ended here: by a word of its own, by the leader, or some time before.
    Closed(u64),
    Expired(u64),
    Gone(u64),
}

#[derive(Clone, Debug)]
pub struct Part<'a> {
    pub of: &'a Operation,
    /// Which item of a batch this is.
    pub position: usize,
    pub what: What<'a>,
}

#[derive(Debug, Default)]
pub struct Object<'a> {
    pub parts: Vec<Part<'a>>,
    /// What happens at a known place, in order; among them the places by which a part that has none must have happened.
    steps: Vec<Step>,
    /// Parts without a known place.
    loose: Vec<Loose>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// This part happens here.
    Exact(usize),
    /// This loose part has happened.
    Until(usize),
}

/// A part that happens in one of the gaps before these steps, or in the last one behind them all.
#[derive(Clone, Copy, Debug)]
struct Loose {
    part: usize,
    from: usize,
    upto: usize,
}

/// A stretch of the log in which the job was ready for certain: behind the first index, before the second.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub behind: u64,
    pub before: u64,
    pub since: Since,
}

/// Where the job may have stood behind an entry and before another, or, with one index, as of this entry.
#[derive(Debug)]
pub struct Moment {
    pub behind: u64,
    pub before: u64,
    pub may: BTreeSet<At>,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Seen {
    pub ready: Vec<Ready>,
    /// Where the job may have stood, if anybody wants to know.
    pub moments: Vec<Moment>,
    /// The first index at which the job was there for certain, and the last one at which it was not.
    pub there: Option<u64>,
    pub absent: Option<u64>,
}

impl<'a> Object<'a> {
    /// Finds the place of each part. Those with an index have one.
    pub fn order(&mut self, known: &Known) {
        let answered = |part: &Part| !matches!(part.of.answer, Answer::Unknown) && part.of.ended != NEVER;
        let is_exact = |part: &Part| {
            let vague = matches!(part.of.answer, Answer::SessionExpired) && !matches!(part.what, What::Gone(_));
            answered(part) && part.of.index.is_some() && !vague
        };
        let mut exact: Vec<usize> = (0..self.parts.len()).filter(|at| is_exact(&self.parts[*at])).collect();
        exact.sort_by_key(|at| {
            let part = &self.parts[*at];
            (part.of.index, !part.of.act.is_write(), part.position)
        });
        let mut others: Vec<usize> = (0..self.parts.len()).filter(|at| !is_exact(&self.parts[*at])).collect();
        others.sort_by_key(|at| self.parts[*at].of.ended);
        self.steps = exact.into_iter().map(Step::Exact).collect();
        // Loose parts that were answered must have happened by then; the answer is a step of its own.
        for at in &others {
            let part = &self.parts[*at];
            if answered(part) && part.of.answer != Answer::SessionExpired {
                let place = self.steps.iter().position(|step| self.began_behind(step, part.of.ended));
                self.steps.insert(place.unwrap_or(self.steps.len()), Step::Until(*at));
            }
        }
        for at in others {
            let part = &self.parts[at];
            let behind = known.index_before(part.of.began);
            let ended_before = |step: &Step| match step {
                Step::Exact(other) => self.parts[*other].of.index.is_some_and(|index| index <= behind),
                Step::Until(other) => self.parts[*other].of.ended < part.of.began,
            };
            let from = self.steps.iter().rposition(ended_before).map_or(0, |last| last + 1);
            let own = self.steps.iter().position(|step| matches!(step, Step::Until(other) if *other == at));
            // A session that was gone at an index did nothing behind it.
            let gone = (part.of.answer == Answer::SessionExpired).then_some(part.of.index).flatten();
            let gone = gone.and_then(|index| self.steps.iter().position(|step| self.index(step) >= Some(index)));
            let upto = own.or(gone).unwrap_or(self.steps.len());
            self.loose.push(Loose { part: at, from, upto });
        }
    }

    fn began_behind(&self, step: &Step, time: u64) -> bool {
        match step {
            Step::Exact(other) => {
                let other = self.parts[*other].of;
                let stale =
                    matches!(other.act, Act::Read { consistency: Consistency::Local | Consistency::Session, .. });
                other.began > time && !stale
            }
            Step::Until(_) => false,
        }
    }

    fn reads(&self, step: &Step) -> bool {
        matches!(step, Step::Exact(part) if matches!(self.parts[*part].what, What::Read(_)))
    }

    fn index(&self, step: &Step) -> Option<u64> {
        match step {
            Step::Exact(part) => self.parts[*part].of.index,
            Step::Until(_) => None,
        }
    }

    /// How the job was enqueued.
    pub fn spec(&self) -> Option<&'a NewJob> {
        self.parts.iter().find_map(|part| match part.what {
            What::Enqueue(job, _) => Some(job),
            _ => None,
        })
    }

    /// Follows all states that the job may be in. An error tells the operation that none of them explains.
    pub fn search(&self, known: &Known) -> Result<Seen, String> {
        let spec = self.spec();
        let nothing = State {
            at: At::Absent,
            attempt: 0,
            crashes: 0,
            told_to_stop: false,
            since: None,
            taken: 0,
            used: Vec::new(),
        };
        let (mut states, mut seen) = (BTreeSet::from([nothing]), Seen::default());
        let indexes: Vec<Option<u64>> = self.steps.iter().map(|step| self.index(step)).collect();
        for place in 0..=self.steps.len() {
            let behind = indexes[..place].iter().rev().find_map(|index| *index).unwrap_or(0);
            let before = indexes[place..].iter().find_map(|index| *index).unwrap_or(NEVER);
            let reads = self.steps.get(place).is_some_and(|step| self.reads(step));
            let gap = Gap { known, spec, behind, before, reads };
            self.close(&mut states, place, &gap);
            seen.note_ready(&states, &gap, indexes.iter().all(Option::is_some));
            seen.note(&states, behind, before, known);
            let Some(step) = self.steps.get(place) else { break };
            let after = self.take(&states, step, &gap);
            if after.is_empty() {
                return Err(self.explain(step, &states));
            }
            states = after;
            let index = self.index(step);
            if let (Some(index), true) = (index, self.reads(step)) {
                seen.note(&states, index, index, known);
            }
            if states.iter().all(|state| state.at == At::Absent) {
                seen.absent = index.or(seen.absent);
            } else if states.iter().all(|state| state.at != At::Absent) {
                seen.there = seen.there.or(index);
            }
        }
        Ok(seen)
    }

    /// Adds every state that is reached without anybody being told. Of two that differ only in how many claims without an
    /// answer took the job, the one with fewer may go wherever the other may: it is followed alone. With a hundred such
    /// claims, of workers that were killed, there are ten thousand states of a job otherwise.
    fn close(&self, states: &mut BTreeSet<State>, place: usize, gap: &Gap<'_>) {
        let mut fresh: Vec<State> = states.iter().cloned().collect();
        let mut least: BTreeMap<State, usize> = BTreeMap::new();
        for state in &fresh {
            let taken = least.entry(State { taken: 0, ..state.clone() }).or_insert(state.taken);
            *taken = state.taken.min(*taken);
        }
        while let Some(state) = fresh.pop() {
            let mut reached = state.unseen(gap);
            for loose in self.loose.iter().filter(|loose| (loose.from..=loose.upto).contains(&place)) {
                reached.extend(self.happen(&state, loose, gap.spec));
            }
            for next in reached {
                let taken = least.entry(State { taken: 0, ..next.clone() }).or_insert(usize::MAX);
                if next.taken < *taken {
                    *taken = next.taken;
                    states.insert(next.clone());
                    fresh.push(next);
                }
            }
        }
    }

    /// A loose part happens now, if that changes anything or must be remembered.
    fn happen(&self, state: &State, loose: &Loose, spec: Option<&NewJob>) -> Option<State> {
        let part = &self.parts[loose.part];
        let must = matches!(self.steps.get(loose.upto), Some(Step::Until(own)) if *own == loose.part);
        if state.used.contains(&loose.part) {
            return None;
        }
        let mut next = state.after(part, spec)?;
        if next == *state && !must {
            return None;
        }
        next.used.push(loose.part);
        next.used.sort_unstable();
        Some(next)
    }

    fn take(&self, states: &BTreeSet<State>, step: &Step, gap: &Gap<'_>) -> BTreeSet<State> {
        match step {
            Step::Exact(part) => states.iter().filter_map(|state| state.after(&self.parts[*part], gap.spec)).collect(),
            Step::Until(part) => {
                let happened = states.iter().filter(|state| state.used.contains(part)).cloned();
                happened
                    .map(|mut state| {
                        state.used.retain(|used| used != part);
                        state
                    })
                    .collect()
            }
        }
    }

    fn explain(&self, step: &Step, states: &BTreeSet<State>) -> String {
        let (Step::Exact(part) | Step::Until(part)) = step;
        let may: BTreeSet<String> = states
            .iter()
            .map(|state| format!("{:?}, attempt {}, crashes {}", state.at, state.attempt, state.crashes))
            .collect();
        let may: Vec<String> = may.into_iter().take(4).collect();
        format!("no order explains {}; before it the job was: {}", show(self.parts[*part].of), may.join(" or "))
    }
}

impl Seen {
    /// Keeps where the job may be, in a history with more than single jobs.
    fn note(&mut self, states: &BTreeSet<State>, behind: u64, before: u64, known: &Known) {
        if known.spans_jobs {
            self.moments.push(Moment { behind, before, may: states.iter().map(|state| state.at).collect() });
        }
    }

    /// Where the job may have stood as of an entry: as a read of it says, else as the stretch around it does.
    pub fn at(&self, index: u64) -> BTreeSet<At> {
        let read = self.moments.iter().rev().find(|moment| (moment.behind, moment.before) == (index, index));
        match read {
            Some(read) => read.may.clone(),
            None => self.between(index, index + 1),
        }
    }

    /// Where it may have stood at any time between two entries, the first one applied and the second one not.
    pub fn between(&self, from: u64, upto: u64) -> BTreeSet<At> {
        let stretches = self.moments.iter().filter(|moment| moment.behind < upto && moment.before > from);
        stretches.flat_map(|moment| &moment.may).copied().collect()
    }
    /// Notes the stretch if the job was ready in it, whatever else happened.
    fn note_ready(&mut self, states: &BTreeSet<State>, gap: &Gap<'_>, all_exact: bool) {
        let since = states.first().and_then(|state| state.since);
        if all_exact && states.iter().all(|state| state.at == At::Enqueued) {
            let since = since.filter(|since| states.iter().all(|state| state.since == Some(*since)));
            self.ready.push(Ready { behind: gap.behind, before: gap.before, since });
        }
    }
}
