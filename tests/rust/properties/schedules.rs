//! Random commands about recurring schedules.

use proptest::prelude::*;

use super::limits::limits;
use super::{maybe, spec, Run, IDS};
use crate::wire;
use crate::wire::schedules::{At, Put, Recur};

const SCHEDULES: [&str; 2] = ["daily", "hourly"];

/// A firing or a move. What it saw is picked when it is taken.
#[derive(Clone, Debug)]
pub struct Fires {
    name: usize,
    seen: Seen,
    /// How far the following slot is; none ends the schedule.
    step: Option<u64>,
    /// Jobs with their time to run; none for a move.
    jobs: Option<Vec<(usize, Option<u64>)>>,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    All,
    OlderGeneration,
    OlderSlot,
}

fn put() -> impl Strategy<Value = Recur> {
    let numbered = prop_oneof![Just(None), (1u64..6).prop_map(Some)];
    (0..SCHEDULES.len(), numbered, spec(), 0u64..4, 0u8..2, maybe(990..1_100), limits()).prop_map(
        |(name, generation, spec, overlap, definition, ends, limits)| {
            Recur::Put(Box::new(Put {
                name: SCHEDULES[name].into(),
                generation,
                source: if generation.is_some() { "code" } else { "api" }.into(),
                spec,
                args: vec![7; 3],
                overlap,
                definition: vec![definition],
                next: Some(ends.unwrap_or(1_005)),
                limits,
            }))
        },
    )
}

/// Those that mean the same whenever they are taken.
pub fn recur() -> impl Strategy<Value = Recur> {
    let name = || (0..SCHEDULES.len()).prop_map(|pick| SCHEDULES[pick].to_owned());
    let reason = prop_oneof![Just(None), Just(Some("holidays".to_owned()))];
    prop_oneof![
        4 => put(),
        1 => name().prop_map(Recur::Delete),
        2 => (name(), reason).prop_map(|(name, reason)| Recur::Pause(name, reason)),
        1 => (name(), 0..IDS.len(), maybe(990..1_010))
            .prop_map(|(name, id, slot)| Recur::Trigger(name, wire::id(IDS[id]), slot)),
    ]
}

pub fn fires() -> impl Strategy<Value = Fires> {
    let seen = prop_oneof![8 => Just(Seen::All), 1 => Just(Seen::OlderGeneration), 1 => Just(Seen::OlderSlot)];
    let jobs = prop::collection::vec((0..IDS.len(), maybe(990..1_100)), 0..3);
    let jobs = prop_oneof![6 => jobs.prop_map(Some), 1 => Just(None)];
    let step = prop_oneof![9 => (1u64..12).prop_map(Some), 1 => Just(None)];
    (0..SCHEDULES.len(), seen, step, jobs).prop_map(|(name, seen, step, jobs)| Fires { name, seen, step, jobs })
}

impl Run {
    pub(super) fn resolve_fires(&self, fires: &Fires) -> Recur {
        let name = SCHEDULES[fires.name];
        let stored = self.model.schedules.iter().find(|schedule| schedule.put.name == name);
        let (mut generation, mut slot) =
            stored.map_or((1, 1), |stored| (stored.generation, stored.next.unwrap_or(1_000)));
        match fires.seen {
            Seen::All => {}
            Seen::OlderGeneration => generation -= 1,
            Seen::OlderSlot => slot -= 1,
        }
        let at = At { name: name.into(), generation, slot, next: fires.step.map(|step| slot + step) };
        match &fires.jobs {
            None => Recur::Move(at),
            Some(jobs) => {
                let job =
                    |(nominal, (id, run_at)): (u64, &(usize, Option<u64>))| (wire::id(IDS[*id]), nominal, *run_at);
                Recur::Fire(at, (slot..).zip(jobs).map(job).collect())
            }
        }
    }
}
