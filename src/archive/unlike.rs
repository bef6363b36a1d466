//! What one archive has that another lacks: the other says what it has in ranges of ids, each with a count and a sum, and is
//! given what is in those ranges that are not the same here.
//!
//! ```text
//! there: ranges(below an id) ── newest first ──> here: unlike(below this id, ranges) ── finished jobs ──> there
//! ```
//!
//! Both sides walk through their chunks once, and what goes between them follows the size of the difference. Chunks are cut
//! elsewhere in every archive and their bytes may differ, so neither can be compared. What of a record counts, and whether it
//! counts at all, is the caller's to say: a [`Stamp`].

use super::chunk::Chunk;
use super::index::ChunkPlace;
use super::query::{Part, Scan, Step};
use super::Archive;
use crate::base::checksum::crc32c_append;
use crate::base::codec::Writer;
use crate::base::{limits, JobId, Result};

/// What tells a record from another one of the same job. Nothing: for this question there is no such record.
pub type Stamp<'a> = &'a dyn Fn(&[u8]) -> Option<[u64; 2]>;

/// Bytes of records in a range: what is given for a single one that is lacking.
const RANGE_BYTES: usize = 64 << 10;
/// Ranges of one question, which must fit the first frame of a connection.
pub const RANGES_MAX: usize = 128;
/// Records that one walk looks at.
const LOOKS_MAX: usize = 200_000;

/// Finished jobs from this id up to the next range, or to where the question begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub low: JobId,
    pub records: u64,
    /// Of ids and stamps, newest id first.
    pub sum: u32,
}

impl Range {
    fn add(&mut self, id: JobId, stamp: [u64; 2]) {
        self.records += 1;
        self.sum = crc32c_append(self.sum, &id.0);
        self.sum = stamp.iter().fold(self.sum, |sum, number| crc32c_append(sum, &number.to_le_bytes()));
    }
}

impl Archive {
    /// What is here below this id, newest first, as far as one question goes. The next goes on below the last range.
    pub fn ranges(&self, before: Option<JobId>, stamp: Stamp<'_>) -> Result<Vec<Range>> {
        let (mut ranges, mut range, mut bytes) = (Vec::new(), Range::default(), 0);
        let scan = Scan { before, records_max: LOOKS_MAX, ..Scan::default() };
        let scanned = self.scan(&scan, &mut |id, record| {
            if let Some(stamp) = stamp(record) {
                range.add(id, stamp);
            }
            bytes += record.len();
            if bytes >= RANGE_BYTES {
                bytes = 0;
                ranges.push(Range { low: id, ..std::mem::take(&mut range) });
            }
            if ranges.len() == RANGES_MAX {
                Step::Stop
            } else {
                Step::Next
            }
        })?;
        if ranges.len() < RANGES_MAX {
            ranges.push(Range { low: scanned.next.unwrap_or_default(), ..range });
        }
        Ok(ranges)
    }

    /// As `part`, but without what the other archive has, and no further than it says what that is. Nothing said: all of it.
    pub fn unlike(&self, before: Option<JobId>, ranges: &[Range], bytes_max: usize, stamp: Stamp<'_>) -> Result<Part> {
        let nothing = [Range::default()];
        let mut walk = Walk::new(if ranges.is_empty() { &nothing } else { ranges }, bytes_max);
        let scan = Scan { before, records_max: LOOKS_MAX, ..Scan::default() };
        let scanned = self.scan(&scan, &mut |id, record| walk.visit(id, record, stamp))?;
        if walk.next.is_none() {
            walk.end_range();
        }
        let Items { items, count } = walk.given;
        Ok(Part { count, items: items.into_bytes(), next: walk.next.or(scanned.next) })
    }

    /// Shows the records of those of these jobs that are here. A chunk is read once, if the ids come in their order.
    pub fn each(&self, ids: &[JobId], visit: &mut dyn FnMut(JobId, &[u8])) -> Result<()> {
        let mut held: Option<(JobId, ChunkPlace, Chunk)> = None;
        for id in ids {
            self.read(|store| {
                let place = store.covering(*id)?;
                if place.is_none() || place != held.as_ref().map(|(low, place, _)| (*low, *place)) {
                    held = store.load_covering(*id)?;
                }
                Ok(())
            })?;
            if let Some(record) = held.as_ref().and_then(|(.., chunk)| chunk.get(*id)) {
                visit(*id, record);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Items {
    items: Writer,
    count: usize,
}

/// A walk along the ranges of another archive.
struct Walk<'a> {
    /// Those that are left. The first is the one that is walked through.
    ranges: &'a [Range],
    bytes_max: usize,
    /// What was found in it.
    found: Range,
    differs: bool,
    /// Its records, for as long as it may be the same as there.
    held: Items,
    given: Items,
    /// Where the next walk goes on, if this one was ended before there was nothing left.
    next: Option<JobId>,
}

impl<'a> Walk<'a> {
    fn new(ranges: &'a [Range], bytes_max: usize) -> Self {
        let (found, held, given) = Default::default();
        Self { ranges, bytes_max, found, differs: false, held, given, next: None }
    }

    fn visit(&mut self, id: JobId, record: &[u8], stamp: Stamp<'_>) -> Step {
        while id < self.ranges[0].low {
            let low = self.ranges[0].low;
            self.end_range();
            self.ranges = &self.ranges[1..];
            if self.ranges.is_empty() || self.is_full() {
                return self.stop(low);
            }
        }
        let Some(stamp) = stamp(record) else { return Step::Next };
        self.found.add(id, stamp);
        // However many records the other side says that it has, few are held.
        if self.found.records > self.ranges[0].records || self.held.items.len() >= self.bytes_max {
            self.give_held();
        }
        let into = if self.differs { &mut self.given } else { &mut self.held };
        into.items.array(2).id(id).bin(record);
        into.count += 1;
        if self.is_full() {
            return self.stop(id);
        }
        Step::Next
    }

    fn stop(&mut self, next: JobId) -> Step {
        self.next = Some(next);
        Step::Stop
    }

    fn is_full(&self) -> bool {
        self.given.items.len() >= self.bytes_max || self.given.count >= limits::ITEMS_MAX / 2
    }

    /// No more of the first range comes.
    fn end_range(&mut self) {
        let found = Range { low: self.ranges[0].low, ..std::mem::take(&mut self.found) };
        if found != self.ranges[0] {
            self.give_held();
        }
        (self.held, self.differs) = (Items::default(), false);
    }

    fn give_held(&mut self) {
        self.given.items.raw(self.held.items.as_bytes());
        self.given.count += self.held.count;
        (self.held, self.differs) = (Items::default(), true);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::archive::Options;
    use crate::base::codec::Reader;
    use crate::base::{ClusterId, GroupId, Millis};

    const BYTES_MAX: usize = 4 * RANGE_BYTES;

    /// Records are a version and filler; version 0 is over.
    fn stamp(record: &[u8]) -> Option<[u64; 2]> {
        (record[0] > 0).then_some([record[0].into(), 0])
    }

    fn id(number: u32) -> JobId {
        JobId((u128::from(number + 1) << 64).to_be_bytes())
    }

    fn archive(dir: &tempfile::TempDir, records: impl IntoIterator<Item = (u32, u8)>) -> Archive {
        let path = dir.path().join("archive");
        let (cluster, group, now) = (ClusterId([1; 16]), GroupId(1), Millis(1));
        let archive = Archive::open(Options {
            path,
            cluster,
            group,
            evicted_upto: 0,
            now,
            keep_until: |_| Ok(u64::MAX),
            labels: |_| 0,
        });
        let archive = archive.expect("it opens");
        let batch: Vec<_> = records.into_iter().map(|(number, version)| (id(number), vec![version; 300])).collect();
        archive.import(&batch, 1).expect("it is written");
        archive
    }

    /// Asks until there is nothing left; what came, how many records that were, and how many questions it took.
    fn fetch(from: &Archive, to: &Archive) -> (BTreeMap<JobId, u8>, usize, usize) {
        let (mut came, mut records, mut questions, mut before) = (BTreeMap::new(), 0, 0, None);
        loop {
            let ranges = to.ranges(before, &stamp).expect("it is read");
            assert!(ranges.len() <= RANGES_MAX && ranges.windows(2).all(|pair| pair[0].low > pair[1].low));
            let part = from.unlike(before, &ranges, BYTES_MAX, &stamp).expect("it is read");
            let mut reader = Reader::new(&part.items);
            for _ in 0..part.count {
                reader.array().expect("a record");
                came.insert(reader.id().expect("an id"), reader.bin().expect("a record")[0]);
            }
            assert!(reader.is_empty() && part.items.len() < BYTES_MAX + 2 * RANGE_BYTES);
            (records, questions) = (records + part.count, questions + 1);
            assert!(part.next.is_none() || before.is_none() || part.next < before, "it goes on");
            match part.next {
                None => return (came, records, questions),
                next => before = next,
            }
        }
    }

    #[test]
    fn a_small_gap_in_a_long_history_is_fetched_by_few_records_and_questions() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let gap = 10_000..10_200;
        let whole = archive(&there, (0..30_000).map(|number| (number, 1)));
        let lacking = archive(&here, (0..30_000).filter(|number| !gap.contains(number)).map(|number| (number, 1)));
        let (came, records, questions) = fetch(&whole, &lacking);
        assert!(gap.clone().all(|number| came.contains_key(&id(number))));
        // The two ranges in which the gap lies at most, and three questions for all ranges.
        assert!(records < gap.len() + 2 * RANGE_BYTES / 300 + 2, "{records} records");
        assert!(questions < 10, "{questions} questions");
        assert_eq!(fetch(&lacking, &whole).0.keys().filter(|found| gap.clone().any(|n| id(n) == **found)).count(), 0);
    }

    #[test]
    fn what_is_the_same_is_not_given_whatever_chunks_it_lies_in() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = archive(&there, (0..3_000).map(|number| (number, 1)));
        let same = archive(&here, (0..3_000).filter(|number| number % 7 == 0).map(|number| (number, 1)));
        let rest: Vec<_> = (0..3_000).filter(|number| number % 7 > 0).map(|n| (id(n), vec![1; 300])).collect();
        // Versions that are over lie between them here only.
        let over: Vec<_> =
            (0..3_000_u32).map(|n| (JobId((u128::from(n + 1) << 64 | 1).to_be_bytes()), vec![0; 300])).collect();
        same.import(&rest, 1).unwrap();
        same.import(&over, 1).unwrap();
        assert_eq!((fetch(&whole, &same).1, fetch(&same, &whole).1), (0, 0));
    }

    #[test]
    fn whatever_differs_is_given_and_nothing_at_all_is_a_difference_too() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = archive(&there, (0..2_000).map(|number| (number, 1 + (number == 700) as u8)));
        let other = archive(&here, (0..2_000).filter(|number| ![0, 1_999].contains(number)).map(|number| (number, 1)));
        let (came, records, _) = fetch(&whole, &other);
        assert!([(0, 1), (700, 2), (1_999, 1)].iter().all(|(number, version)| came.get(&id(*number)) == Some(version)));
        assert!(records < 3 * (RANGE_BYTES / 300 + 1), "{records} records");

        let empty = tempfile::tempdir().unwrap();
        assert_eq!(fetch(&whole, &archive(&empty, [])).0.len(), 2_000);
        let part = whole.unlike(None, &[], BYTES_MAX, &stamp).unwrap();
        assert_eq!((part.next, part.count), (Some(id(2_000 - part.count as u32)), part.count), "who says nothing");
    }
}
