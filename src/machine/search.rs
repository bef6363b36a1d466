//! A page of jobs that match a filter, newest first by id, from a capture of the jobs and from the archive.
//!
//! Jobs lie in no order of their ids. One pass over the capture reads what is cheap (about 20 ns a job) and keeps the
//! newest that may match; only those are looked at closely, at most [`WINDOW`] of them. So a page is exact for what it
//! says it has searched, and its cost is bounded.
//!
//! Invariants
//! * Every job with an id from the horizon up was searched; no row lies below the horizon, and the next page begins
//!   there. So pages neither overlap nor leave a gap, while jobs move from memory to the archive at any time.
//! * A job that is in memory hides its older record in the archive.

use std::cmp::Reverse;
use std::sync::Arc;

use super::fields::{Fields, Number};
use super::filter::{Cost, Filter};
use super::job::{Job, State};
use super::record::JobRecord;
use super::specs::Spec;
use super::table::Page;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, JobId, Result};

/// Jobs in memory, and as many in the archive, that one page looks at closely.
pub const WINDOW: usize = 100_000;
/// Rows of one page.
pub const LIMIT_MAX: usize = 1_000;

/// Where a scan of the archive ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveEnd {
    pub scanned: u64,
    /// Everything below this id is unseen; `None`: nothing is left.
    pub next: Option<JobId>,
}

/// Finished jobs that left memory, as a search needs them.
pub trait Archived {
    /// Shows records below an id (`None`: all), newest first, until `visit` answers false, about `records_max` were
    /// seen, or nothing is left. Records whose labels lack all alternatives of one `wanted` list may be left out.
    fn scan(
        &mut self,
        before: Option<JobId>,
        wanted: &[Vec<u64>],
        records_max: usize,
        visit: &mut dyn FnMut(JobId, &[u8]) -> bool,
    ) -> Result<ArchiveEnd>;
}

/// What a search reads of the state, shared until the machine changes it. A capture of all of it would hold up writers: there
/// may be a million limiters.
pub struct Jobs {
    specs: Vec<(u32, Arc<Spec>)>,
    pages: Vec<Arc<Page>>,
}

/// A question for jobs.
#[derive(Clone, Debug)]
pub struct Search {
    filter: Filter,
    cursor: Option<JobId>,
    limit: usize,
}

/// A job in memory with its specification.
struct Live<'a> {
    job: &'a Job,
    spec: &'a Spec,
}

/// Rows of one source and how far down it was searched.
struct Part {
    rows: Vec<(JobId, Vec<u8>)>,
    /// `None`: to the very end.
    horizon: Option<JobId>,
    /// The bound of the scan ended it, not a full page.
    cut: bool,
    scanned: u64,
}

impl Machine {
    pub(super) fn capture_jobs(&self) -> Jobs {
        Jobs {
            specs: self.specs.iter().map(|(number, entry)| (number, entry.spec.clone())).collect(),
            pages: self.table.pages().map(|(_, page)| page.clone()).collect(),
        }
    }
}

impl Search {
    /// Reads `clauses, cursor, limit`.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Search> {
        let filter = Filter::decode(reader)?;
        let cursor = reader.option(|reader| reader.id())?;
        let limit = reader.u64()? as usize;
        if limit == 0 || limit > LIMIT_MAX {
            return Err(Error::Invalid(format!("a page of {limit} jobs; from 1 to {LIMIT_MAX}")));
        }
        Ok(Search { filter, cursor, limit })
    }

    pub fn run(&self, jobs: &Jobs, archived: Option<&mut dyn Archived>) -> Result<Vec<u8>> {
        let finals =
            [State::Succeeded, State::Failed, State::Cancelled].map(|state| 1 << state as u8).iter().sum::<u8>();
        let mut old = Part { rows: Vec::new(), horizon: None, cut: false, scanned: 0 };
        if let Some(archived) = archived.filter(|_| self.filter.states() & finals != 0) {
            old = self.in_archive(archived)?;
        }
        let live = self.in_memory(jobs, &mut old.rows);
        Ok(self.merge(live, old))
    }

    fn in_archive(&self, archived: &mut dyn Archived) -> Result<Part> {
        let mut rows = Vec::new();
        let end = archived.scan(self.cursor, &self.filter.labels(), WINDOW, &mut |id, record| {
            // A record that a newer version wrote is left out rather than making the whole page fail.
            if let Ok(record) = JobRecord::decode(record) {
                if self.filter.matches(&record) {
                    rows.push((id, record.row(true)));
                }
            }
            rows.len() < self.limit
        })?;
        let cut = end.next.is_some() && rows.len() < self.limit;
        Ok(Part { rows, horizon: end.next, cut, scanned: end.scanned })
    }

    /// Searches the capture, and takes rows of jobs that are in it out of `older`.
    fn in_memory(&self, jobs: &Jobs, older: &mut Vec<(JobId, Vec<u8>)>) -> Part {
        let specs = self.specs(jobs);
        let deep = self.filter.has(Cost::Deep);
        let mut newest = Newest::new(if deep { WINDOW } else { self.limit });
        let mut scanned = 0;
        for (_, job) in jobs.pages.iter().flat_map(|page| page.jobs()) {
            if self.cursor.is_some_and(|cursor| job.id >= cursor) {
                continue;
            }
            if let Ok(position) = older.binary_search_by_key(&Reverse(job.id), |(id, _)| Reverse(*id)) {
                older.remove(position);
            }
            scanned += 1;
            let Some(spec) = specs.get(job.spec as usize).copied().flatten() else { continue };
            let live = Live { job, spec };
            if self.filter.matches_at(Cost::Job, &live) {
                newest.push(live);
            }
        }
        let (candidates, floor) = newest.finish();
        let (mut rows, mut looked) = (Vec::new(), 0);
        for live in &candidates {
            looked += 1;
            if self.filter.matches_at(Cost::Deep, live) {
                rows.push((live.job.id, JobRecord::of(live.spec, live.job).row(false)));
            }
            if rows.len() == self.limit {
                break;
            }
        }
        let full = rows.len() == self.limit;
        let horizon = if full { rows.last().map(|(id, _)| *id) } else { floor };
        let scanned = if deep && (full || floor.is_some()) { looked } else { scanned };
        Part { rows, horizon, cut: !full && floor.is_some(), scanned }
    }

    /// The specifications, by number, whose jobs may match.
    fn specs<'a>(&self, jobs: &'a Jobs) -> Vec<Option<&'a Spec>> {
        let mut specs = Vec::new();
        for (number, spec) in &jobs.specs {
            let number = *number as usize;
            if specs.len() <= number {
                specs.resize(number + 1, None);
            }
            specs[number] = self.filter.matches_at(Cost::Spec, &**spec).then_some(&**spec);
        }
        specs
    }

    fn merge(&self, live: Part, old: Part) -> Vec<u8> {
        let horizon = live.horizon.max(old.horizon);
        let cut = (live.cut && horizon == live.horizon) || (old.cut && horizon == old.horizon);
        let mut rows = live.rows;
        rows.extend(old.rows);
        rows.sort_unstable_by_key(|(id, _)| Reverse(*id));
        rows.retain(|(id, _)| Some(*id) >= horizon);
        let full = rows.len() >= self.limit;
        rows.truncate(self.limit);
        let next = if full { rows.last().map(|(id, _)| *id) } else { horizon };
        let mut w = Writer::with_capacity(64 + rows.iter().map(|(_, row)| row.len()).sum::<usize>());
        w.array(4).array(rows.len());
        for (_, row) in &rows {
            w.raw(row);
        }
        w.option(next, |w, id| {
            w.id(id);
        });
        w.u64(live.scanned + old.scanned).bool(full || !cut);
        w.into_bytes()
    }
}

/// The jobs with the greatest ids of many, in bounded memory and without sorting all.
struct Newest<'a> {
    kept: Vec<Live<'a>>,
    max: usize,
    /// Something below this id was dropped.
    floor: Option<JobId>,
}

impl<'a> Newest<'a> {
    fn new(max: usize) -> Self {
        Self { kept: Vec::new(), max, floor: None }
    }

    fn push(&mut self, live: Live<'a>) {
        if self.floor.is_some_and(|floor| live.job.id < floor) {
            return;
        }
        self.kept.push(live);
        if self.kept.len() > self.max * 2 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept.select_nth_unstable_by_key(self.max - 1, |live| Reverse(live.job.id));
        self.kept.truncate(self.max);
        self.floor = self.kept.last().map(|live| live.job.id);
    }

    /// The jobs, newest first, and the lowest id above which none is missing.
    fn finish(mut self) -> (Vec<Live<'a>>, Option<JobId>) {
        if self.kept.len() > self.max {
            self.cut();
        }
        self.kept.sort_unstable_by_key(|live| Reverse(live.job.id));
        (self.kept, self.floor)
    }
}

impl Fields for Live<'_> {
    fn id(&self) -> JobId {
        self.job.id
    }

    fn state(&self) -> u8 {
        self.job.state.code()
    }

    fn function(&self) -> &str {
        &self.spec.function
    }

    fn queue(&self) -> &str {
        &self.spec.queue
    }

    fn unique(&self) -> Option<&str> {
        self.job.unique().map(|key| &**key)
    }

    fn schedule(&self) -> Option<&str> {
        self.job.recurrence().map(|from| &*from.schedule)
    }

    fn batch(&self) -> Option<JobId> {
        self.job.flow()?.batch
    }

    fn has_parent(&self, fits: &mut dyn FnMut(JobId) -> bool) -> bool {
        self.job.flow().is_some_and(|flow| flow.edges.iter().any(|edge| fits(edge.parent)))
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.spec.tags.iter().map(|tag| &**tag)
    }

    fn error(&self) -> Option<&[u8]> {
        self.job.rare.as_ref()?.error.as_deref()
    }

    fn number(&self, field: Number) -> Option<i64> {
        let moment = match field {
            Number::Priority => return Some(self.spec.priority),
            Number::Attempt => return Some(self.job.attempt.into()),
            Number::Crashes => return Some(self.job.crashes.into()),
            Number::Generation => return Some(self.job.generation.into()),
            Number::Created => Some(self.job.created),
            Number::RunAt => self.job.due(),
            Number::Enqueued => self.job.enqueued(),
            Number::Started => self.job.started(),
            Number::Finished => self.job.finished(),
        };
        moment.map(|moment| i64::try_from(moment.0).unwrap_or(i64::MAX))
    }

    fn args(&self) -> &[u8] {
        &self.job.args
    }
}

/// What a specification says of its jobs; enough for the clauses that cost `Spec`.
impl Fields for Spec {
    fn id(&self) -> JobId {
        JobId::default()
    }

    fn state(&self) -> u8 {
        0
    }

    fn function(&self) -> &str {
        &self.function
    }

    fn queue(&self) -> &str {
        &self.queue
    }

    fn unique(&self) -> Option<&str> {
        None
    }

    fn schedule(&self) -> Option<&str> {
        None
    }

    fn batch(&self) -> Option<JobId> {
        None
    }

    fn has_parent(&self, _: &mut dyn FnMut(JobId) -> bool) -> bool {
        false
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(|tag| &**tag)
    }

    fn error(&self) -> Option<&[u8]> {
        None
    }

    fn number(&self, field: Number) -> Option<i64> {
        (field == Number::Priority).then_some(self.priority)
    }

    fn args(&self) -> &[u8] {
        &[]
    }
}
