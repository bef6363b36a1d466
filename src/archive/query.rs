//! Walking through the archive, newest id first, in bounded steps.

use super::store::{Fault, Store};
use super::writer::before;
use crate::base::JobId;

/// What a visitor wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Next,
    /// No more after this record.
    Stop,
}

/// Where to look and how far.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Ids below this one only; `None` begins at the newest.
    pub before: Option<JobId>,
    /// Each is a list of alternatives: a record can only match if its labels contain all bits of one of them. Chunks
    /// without such a record are skipped unread.
    pub wanted: Vec<Vec<u64>>,
    /// Stops after about this many records.
    pub records_max: usize,
}

/// How far a scan came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Records that were searched, skipped chunks included.
    pub records: u64,
    /// Nothing is left: the oldest record was reached.
    pub complete: bool,
    /// Where to go on: `before` of the next scan.
    pub next: Option<JobId>,
}

/// Finished jobs as they leave this archive, for another node or a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub count: usize,
    /// MessagePack: `[id, record]` so many times, without the array around them.
    pub items: Vec<u8>,
    /// Where the next part goes on; nothing: this was the last one.
    pub next: Option<JobId>,
}

/// What skipping a chunk costs compared with reading a record, so that a scan that skips all is bounded too.
const SKIP_COST: usize = 4;

pub(super) fn scan(
    store: &Store,
    scan: &Scan,
    done: &mut Scanned,
    visit: &mut dyn FnMut(JobId, &[u8]) -> Step,
) -> Result<(), Fault> {
    let mut cost = 0;
    let mut below = done.next.or(scan.before);
    loop {
        let upto = below.map_or(Some(JobId([0xff; 16])), before);
        let found = upto.map(|upto| store.covering(upto)).transpose()?.flatten();
        let (Some(upto), Some((low, place))) = (upto, found) else {
            *done = Scanned { complete: true, next: None, ..*done };
            return Ok(());
        };
        if cost >= scan.records_max.max(1) {
            done.next = below;
            return Ok(());
        }
        let lacks = |alternatives: &Vec<u64>| !alternatives.iter().any(|labels| place.labels & labels == *labels);
        if scan.wanted.iter().any(lacks) {
            cost += SKIP_COST;
            done.records += u64::from(place.records);
            below = Some(low);
            done.next = below;
            continue;
        }
        let Some((low, _, chunk)) = store.load_covering(upto)? else { continue };
        let end = chunk.lower_bound(upto) + usize::from(chunk.get(upto).is_some());
        for position in (0..end).rev() {
            cost += 1;
            done.records += 1;
            let id = chunk.id(position);
            if visit(id, chunk.record(position)) == Step::Stop {
                done.next = Some(id);
                return Ok(());
            }
        }
        below = Some(low);
        // Kept up to date, so that a scan that is broken off by a damaged chunk goes on behind what was visited.
        done.next = below;
    }
}
