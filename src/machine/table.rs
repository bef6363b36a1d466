//! The job table: numbered slots in pages that a capture shares, and an index by id.
//!
//! Invariants
//! * A new job takes the lowest free slot, so which slot a job has follows from which slots are taken. A machine that
//!   was loaded from an image therefore goes on exactly like the one that wrote it.
//! * A page is changed only through `Arc::make_mut`: a captured page never changes under its reader.
//! * A page without jobs is dropped.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::index::Index;
use super::job::Job;
use crate::base::{limits::PAGE_JOBS, JobId};

/// Number of a slot: its page, times the jobs of a page, plus its place there.
pub type Slot = u32;

/// The jobs of neighbouring slots.
#[derive(Debug)]
pub struct Page {
    jobs: Box<[Option<Job>]>,
    /// Hash of the records, or 0 if it must be computed (again).
    digest: AtomicU64,
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), digest: AtomicU64::new(self.digest.load(Ordering::Relaxed)) }
    }
}

impl Page {
    fn new() -> Self {
        Self { jobs: vec![None; PAGE_JOBS].into_boxed_slice(), digest: AtomicU64::new(0) }
    }

    /// The jobs with their place in the page, in the order of the slots.
    pub fn jobs(&self) -> impl Iterator<Item = (usize, &Job)> {
        self.jobs.iter().enumerate().filter_map(|(place, job)| job.as_ref().map(|job| (place, job)))
    }

    /// The hash of this page: what was computed since the last change, else `compute`.
    pub(super) fn digest(&self, compute: impl FnOnce(&Page) -> u64) -> u64 {
        let known = self.digest.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let fresh = compute(self).max(1);
        self.digest.store(fresh, Ordering::Relaxed);
        fresh
    }
}

/// Which places of a page are taken, one bit each.
type Taken = [u64; PAGE_JOBS / 64];

#[derive(Debug, Default)]
pub struct Table {
    pages: Vec<Option<Arc<Page>>>,
    taken: Vec<Taken>,
    /// Pages with a free place, those that were dropped included.
    open: BTreeSet<u32>,
    index: Index,
    length: usize,
}

impl Table {
    pub fn len(&self) -> usize {
        self.length
    }

    /// The pages with their numbers. Sharing them is what a capture does.
    pub fn pages(&self) -> impl Iterator<Item = (usize, &Arc<Page>)> {
        self.pages.iter().enumerate().filter_map(|(number, page)| page.as_ref().map(|page| (number, page)))
    }

    /// Every job, in the order of the slots.
    #[cfg(any(debug_assertions, feature = "sim"))] // For the recount of tests.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Job)> {
        self.pages()
            .flat_map(|(number, page)| page.jobs().map(move |(place, job)| ((number * PAGE_JOBS + place) as Slot, job)))
    }

    pub fn find(&self, id: JobId) -> Option<Slot> {
        self.index.find(id, |slot| self.get(slot).id)
    }

    /// The job in a slot that an index of the machine names.
    pub fn get(&self, slot: Slot) -> &Job {
        self.slot(slot).expect("an index names only taken slots")
    }

    fn slot(&self, slot: Slot) -> Option<&Job> {
        let (page, place) = split(slot);
        self.pages.get(page)?.as_ref()?.jobs[place].as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Job {
        let (number, place) = split(slot);
        let page = self.pages[number].as_mut().expect("an index names only taken slots");
        let page = Arc::make_mut(page);
        *page.digest.get_mut() = 0;
        page.jobs[place].as_mut().expect("an index names only taken slots")
    }

    /// Stores a job whose id is not in the table yet.
    pub(super) fn insert(&mut self, job: Job) -> Slot {
        let number = self.open.first().map_or(self.pages.len(), |number| *number as usize);
        let place = self.taken.get(number).map_or(0, first_free);
        let slot = (number * PAGE_JOBS + place) as Slot;
        self.put(slot, job);
        slot
    }

    /// Stores a job in this very slot; for the loader of an image. `false` if the slot or the id is taken.
    pub(super) fn insert_at(&mut self, slot: Slot, job: Job) -> bool {
        if self.slot(slot).is_some() || self.find(job.id).is_some() {
            return false;
        }
        self.put(slot, job);
        true
    }

    fn put(&mut self, slot: Slot, job: Job) {
        let (number, place) = split(slot);
        while self.pages.len() <= number {
            self.open.insert(self.pages.len() as u32);
            self.pages.push(None);
            self.taken.push([0; PAGE_JOBS / 64]);
        }
        let page = Arc::make_mut(self.pages[number].get_or_insert_with(|| Arc::new(Page::new())));
        *page.digest.get_mut() = 0;
        self.index.insert(job.id, slot);
        page.jobs[place] = Some(job);
        self.taken[number][place / 64] |= 1 << (place % 64);
        if self.taken[number] == [u64::MAX; PAGE_JOBS / 64] {
            self.open.remove(&(number as u32));
        }
        self.length += 1;
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Job {
        let (number, place) = split(slot);
        let held = self.pages[number].as_mut().expect("an index names only taken slots");
        let page = Arc::make_mut(held);
        *page.digest.get_mut() = 0;
        let job = page.jobs[place].take().expect("an index names only taken slots");
        self.taken[number][place / 64] &= !(1 << (place % 64));
        if self.taken[number] == [0; PAGE_JOBS / 64] {
            self.pages[number] = None;
        }
        self.open.insert(number as u32);
        self.index.remove(job.id, slot);
        self.length -= 1;
        job
    }
}

fn split(slot: Slot) -> (usize, usize) {
    (slot as usize / PAGE_JOBS, slot as usize % PAGE_JOBS)
}

fn first_free(taken: &Taken) -> usize {
    let word = taken.iter().position(|word| *word != u64::MAX).expect("an open page has a free place");
    word * 64 + taken[word].trailing_ones() as usize
}
