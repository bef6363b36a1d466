//! The part that writes: one thread at a time, every change durable before it is believed.
//!
//! A change is drafted in memory as whole chunks and committed in four steps: frames into a pack and fdatasync; the
//! index in one batch; the index synced; packs that nobody uses any more removed. A power cut between two steps leaves
//! dead space at most.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{self, Entry, CHUNK_RAW_BYTES};
use super::index::{chunk_key, packs_named, read_expiry_key, use_key, ChunkPlace, META_KEY};
use super::pack::{self, Location, PackWriter};
use super::store::{Fault, Lost, Meta, Store};
use super::{Expired, KeepUntil, Labels, Options};
use crate::base::{Error, JobId, Millis, Result};

/// Chunks that one commit rewrites at most: about a mebibyte to write and sync.
const COMMIT_CHUNKS_MAX: usize = 64;
/// Index entries that one step of space reclaiming looks at.
const RECLAIM_LOOKS_MAX: usize = 1_024;
/// A pack is rewritten when this part of it, in percent, or less is in use.
const RECLAIM_USED_PERCENT: u64 = 50;

type Faulty<T> = std::result::Result<T, Fault>;
type Change = (Vec<u8>, Option<Vec<u8>>);

pub(super) struct Writer {
    store: Arc<Store>,
    meta: Meta,
    packs: PackWriter,
    /// For each pack its length and how much of it is in use.
    uses: BTreeMap<u32, PackUse>,
    labels: Labels,
    keep_until: KeepUntil,
    /// The pack that is being emptied and where its search for chunks goes on.
    reclaiming: Option<(u32, JobId)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PackUse {
    length: u64,
    used: u64,
}

/// Chunks as they shall be: new content by lowest id, `None` to remove one.
#[derive(Default)]
struct Draft {
    changed: BTreeMap<JobId, Option<Vec<Entry>>>,
    /// What the index says of the chunks that change.
    before: BTreeMap<JobId, ChunkPlace>,
}

impl Draft {
    fn replace(&mut self, low: JobId, place: Option<ChunkPlace>, content: Option<Vec<Entry>>) {
        if let Some(place) = place {
            self.before.entry(low).or_insert(place);
        }
        self.changed.insert(low, content.filter(|entries| !entries.is_empty()));
    }
}

impl Writer {
    /// Reads what each pack is used for and removes packs that the index does not know.
    pub fn open(store: Arc<Store>, meta: Meta, options: &Options) -> Result<Writer> {
        let mut uses = BTreeMap::new();
        for (number, length) in pack::list(&store.dir)? {
            match store.index.get(&use_key(number))? {
                Some(used) => {
                    pack::check_head(&store.dir, number, options.cluster, options.group)?;
                    let used = used.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                    uses.insert(number, PackUse { length, used });
                }
                None => pack::remove(&store.dir, number)?,
            }
        }
        if let Some(number) = packs_named(&*store.index)?.into_iter().find(|number| !uses.contains_key(number)) {
            let message = format!("pack {number} is missing");
            return Err(Error::Corrupt { path: store.dir.display().to_string(), offset: 0, message });
        }
        let newest = uses.keys().next_back().copied().unwrap_or(0);
        let packs = PackWriter::new(&store.dir, options.cluster, options.group, newest);
        let writer = Writer {
            store,
            meta,
            packs,
            uses,
            labels: options.labels,
            keep_until: options.keep_until,
            reclaiming: None,
        };
        writer.publish();
        Ok(writer)
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Stores records and remembers how far it came. Records up to the watermark are known already.
    pub fn put(&mut self, after: u64, batch: &[(u64, JobId, Vec<u8>)]) -> Faulty<u64> {
        if after > self.meta.watermark {
            let ends = self.meta.watermark;
            let message =
                format!("finished jobs behind number {after}, but the archive ends at {ends}: go on from there");
            return Err(Error::Invalid(message).into());
        }
        let new = batch.iter().filter(|(ordinal, ..)| *ordinal > self.meta.watermark);
        let watermark = new.clone().map(|(ordinal, ..)| *ordinal).fold(self.meta.watermark, u64::max);
        let draft = self.draft(new.map(|(_, id, record)| (*id, &record[..])))?;
        self.commit(draft, watermark)?;
        Ok(watermark)
    }

    /// Stores records of another archive.
    pub fn import(&mut self, batch: &[(JobId, Vec<u8>)], watermark: u64) -> Faulty<()> {
        let draft = self.draft(batch.iter().map(|(id, record)| (*id, &record[..])))?;
        self.commit(draft, watermark)
    }

    fn draft<'a>(&self, records: impl Iterator<Item = (JobId, &'a [u8])>) -> Faulty<Draft> {
        let mut fresh = BTreeMap::new();
        for (id, record) in records {
            let keep_until_ms = (self.keep_until)(record)?;
            // Not kept: also an older record of the same job goes, as it would contradict the newer one.
            let entry = (keep_until_ms > 0).then(|| Bytes::copy_from_slice(record));
            fresh.insert(id, entry.map(|record| Entry { id, keep_until_ms, record }));
        }
        let mut fresh: Vec<(JobId, Option<Entry>)> = fresh.into_iter().collect();
        let mut draft = Draft::default();
        while !fresh.is_empty() {
            let rest = self.draft_group(&mut draft, fresh)?;
            fresh = rest;
        }
        Ok(draft)
    }

    /// Drafts those of the sorted changes that fall into the chunk of the first; gives back the others.
    fn draft_group(
        &self,
        draft: &mut Draft,
        mut fresh: Vec<(JobId, Option<Entry>)>,
    ) -> Faulty<Vec<(JobId, Option<Entry>)>> {
        let first = fresh[0].0;
        let known = self.store.covering(first)?;
        let low = known.map_or(JobId::default(), |(low, _)| low);
        let next = self.store.following(after(first))?.map(|(next, _)| next);
        let end = next.map_or(fresh.len(), |next| fresh.partition_point(|(id, _)| *id < next));
        let rest = fresh.split_off(end);
        let Some((_, place)) = known else {
            draft.replace(low, None, Some(fresh.into_iter().filter_map(|(_, entry)| entry).collect()));
            return Ok(rest);
        };
        let chunk = self.load(low, place)?;
        let grows = chunk.len() > 0 && first > chunk.id(chunk.len() - 1);
        let full = place.raw_bytes as usize + fresh[0].1.as_ref().map_or(0, Entry::bytes) > CHUNK_RAW_BYTES;
        if grows && full {
            // Ids only grow: the full chunk stays as it is, and a new one begins behind it.
            draft.replace(first, None, Some(fresh.into_iter().filter_map(|(_, entry)| entry).collect()));
            return Ok(rest);
        }
        let mut merged: BTreeMap<JobId, Entry> = chunk.entries().into_iter().map(|entry| (entry.id, entry)).collect();
        let mut changed = false;
        for (id, entry) in fresh {
            changed |= match entry {
                Some(entry) => merged.insert(id, entry).is_none_or(|_| true),
                None => merged.remove(&id).is_some(),
            };
        }
        if changed {
            draft.replace(low, Some(place), Some(merged.into_values().collect()));
        }
        Ok(rest)
    }

    fn load(&self, low: JobId, place: ChunkPlace) -> Faulty<chunk::Chunk> {
        self.store.read(low, place)?.ok_or_else(|| Fault::Chunk {
            low,
            place,
            message: format!("pack {} is missing", place.at.pack),
        })
    }

    /// Removes records whose time is over, until about `records_max` were looked at.
    pub fn expire(&mut self, now: Millis, records_max: usize) -> Faulty<Expired> {
        let mut draft = Draft::default();
        let (mut looked, mut removed, mut more) = (0, 0, false);
        let mut from = vec![b'e'];
        while let Some((key, _)) = self.store.index.first_from(&from)? {
            let Some((moment, low)) = read_expiry_key(&key).filter(|(moment, _)| *moment <= now.0) else { break };
            if looked >= records_max || draft.changed.len() >= COMMIT_CHUNKS_MAX {
                more = true;
                break;
            }
            let Some((_, place)) = self.store.covering(low)?.filter(|(found, _)| *found == low) else {
                let message = format!("a chunk that ends at {moment} is unknown");
                return Err(Error::Corrupt { path: "index".to_owned(), offset: 0, message }.into());
            };
            looked += place.records as usize;
            removed += self.draft_expiry(&mut draft, low, place, now)?;
            from = [&key[..], &[0]].concat();
        }
        self.commit(draft, self.meta.watermark)?;
        Ok(Expired { removed, more })
    }

    fn draft_expiry(&self, draft: &mut Draft, low: JobId, place: ChunkPlace, now: Millis) -> Faulty<u64> {
        if place.keep_last_ms <= now.0 {
            let known = match draft.changed.get(&low) {
                // A neighbour was merged into it in this very step.
                Some(Some(entries)) => entries.clone(),
                _ => Vec::new(),
            };
            let rest: Vec<_> = known.into_iter().filter(|entry| entry.keep_until_ms > now.0).collect();
            draft.replace(low, Some(place), Some(rest));
            return Ok(place.records.into());
        }
        let entries = match draft.changed.get(&low) {
            Some(Some(entries)) => entries.clone(),
            _ => self.load(low, place)?.entries(),
        };
        let before = entries.len();
        let kept: Vec<_> = entries.into_iter().filter(|entry| entry.keep_until_ms > now.0).collect();
        let removed = before - kept.len();
        self.draft_merged(draft, low, place, kept)?;
        Ok(removed as u64)
    }

    /// Drafts what is left of a chunk, joined with the chunk before it when both together are small.
    fn draft_merged(&self, draft: &mut Draft, low: JobId, place: ChunkPlace, kept: Vec<Entry>) -> Faulty<()> {
        let bytes: usize = kept.iter().map(Entry::bytes).sum();
        let neighbour = match before(low) {
            Some(before) if bytes < CHUNK_RAW_BYTES / 4 => self.store.covering(before)?,
            _ => None,
        };
        let Some((left, left_place)) = neighbour else {
            draft.replace(low, Some(place), Some(kept));
            return Ok(());
        };
        let mut joined = match draft.changed.get(&left) {
            Some(Some(entries)) => entries.clone(),
            // The neighbour goes in this step, so what is left here cannot be put there.
            Some(None) => Vec::new(),
            None if left_place.raw_bytes as usize + bytes <= CHUNK_RAW_BYTES / 2 => {
                self.load(left, left_place)?.entries()
            }
            None => Vec::new(),
        };
        let joined_bytes: usize = joined.iter().map(Entry::bytes).sum();
        if joined.is_empty() || joined_bytes + bytes > CHUNK_RAW_BYTES / 2 {
            draft.replace(low, Some(place), Some(kept));
            return Ok(());
        }
        joined.extend(kept);
        draft.replace(left, Some(left_place), Some(joined));
        draft.replace(low, Some(place), None);
        Ok(())
    }

    /// Removes these jobs; answers how many there were.
    pub fn delete(&mut self, ids: &[JobId]) -> Faulty<u64> {
        let mut sorted: Vec<(JobId, Option<Entry>)> = ids.iter().map(|id| (*id, None)).collect();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        sorted.dedup_by_key(|(id, _)| *id);
        let before = self.meta.records;
        while !sorted.is_empty() {
            let mut draft = Draft::default();
            while !sorted.is_empty() && draft.changed.len() < COMMIT_CHUNKS_MAX {
                let rest = self.draft_removal(&mut draft, sorted)?;
                sorted = rest;
            }
            self.commit(draft, self.meta.watermark)?;
        }
        Ok(before - self.meta.records)
    }

    fn draft_removal(
        &self,
        draft: &mut Draft,
        mut sorted: Vec<(JobId, Option<Entry>)>,
    ) -> Faulty<Vec<(JobId, Option<Entry>)>> {
        let first = sorted[0].0;
        let Some((low, place)) = self.store.covering(first)? else {
            return Ok(sorted.split_off(1));
        };
        let next = self.store.following(after(first))?.map(|(next, _)| next);
        let end = next.map_or(sorted.len(), |next| sorted.partition_point(|(id, _)| *id < next));
        let rest = sorted.split_off(end);
        let chunk = self.load(low, place)?;
        let goes = |id: JobId| sorted.binary_search_by_key(&id, |(id, _)| *id).is_ok();
        let kept: Vec<_> = chunk.entries().into_iter().filter(|entry| !goes(entry.id)).collect();
        if kept.len() < chunk.len() {
            draft.replace(low, Some(place), Some(kept));
        }
        Ok(rest)
    }

    /// Takes a chunk that cannot be read out of the index, and writes down that history was lost.
    pub fn drop_chunk(&mut self, low: JobId, place: ChunkPlace, lost: Lost) -> Faulty<()> {
        if self.store.covering(low)? != Some((low, place)) {
            return Ok(()); // Someone was faster.
        }
        self.meta.lost = Some(lost);
        let mut draft = Draft::default();
        draft.replace(low, Some(place), None);
        self.commit(draft, self.meta.watermark)
    }

    /// Writes down that history up to this ordinal was lost, unless it is here, and goes on behind it.
    pub fn lose(&mut self, lost: Lost) -> Faulty<()> {
        let upto = lost.upto;
        if self.meta.watermark >= upto {
            return Ok(());
        }
        self.set_lost(lost, upto)
    }

    /// Writes down that history was lost and how far the archive may believe to have come.
    pub fn set_lost(&mut self, lost: Lost, watermark: u64) -> Faulty<()> {
        self.meta.lost = Some(lost);
        self.commit_always(Draft::default(), watermark)
    }

    /// This is not lost any more. What was lost since stays so.
    pub fn clear_lost(&mut self, lost: &Lost) -> Faulty<()> {
        if self.meta.lost.as_ref() != Some(lost) {
            return Ok(());
        }
        self.meta.lost = None;
        self.commit_always(Draft::default(), self.meta.watermark)
    }

    /// Moves what is still used out of the emptiest pack, a bounded step at a time. True if there is more to do.
    pub fn reclaim(&mut self) -> Faulty<bool> {
        let Some((pack, mut from)) = self.reclaiming.or_else(|| self.emptiest().map(|pack| (pack, JobId::default())))
        else {
            return Ok(false);
        };
        let mut draft = Draft::default();
        for _ in 0..RECLAIM_LOOKS_MAX {
            let Some((low, place)) = self.store.following(from)? else {
                self.reclaiming = None;
                self.commit(draft, self.meta.watermark)?;
                return Ok(self.emptiest().is_some());
            };
            if place.at.pack == pack {
                let entries = self.load(low, place)?.entries();
                draft.replace(low, Some(place), Some(entries));
            }
            from = after(low);
            if draft.changed.len() >= COMMIT_CHUNKS_MAX {
                break;
            }
        }
        self.reclaiming = Some((pack, from));
        self.commit(draft, self.meta.watermark)?;
        Ok(true)
    }

    fn emptiest(&self) -> Option<u32> {
        let closed = self.uses.iter().filter(|(number, _)| **number != self.packs.newest());
        let worth = closed.filter(|(_, pack)| pack.used * 100 <= pack.length * RECLAIM_USED_PERCENT);
        worth.min_by_key(|(_, pack)| pack.used * 100 / pack.length.max(1)).map(|(number, _)| *number)
    }

    fn commit(&mut self, draft: Draft, watermark: u64) -> Faulty<()> {
        if draft.changed.is_empty() && watermark == self.meta.watermark {
            return Ok(());
        }
        self.commit_always(draft, watermark)
    }

    fn commit_always(&mut self, draft: Draft, watermark: u64) -> Faulty<()> {
        let mut lows = Vec::new();
        let mut bodies = Vec::new();
        let mut places = Vec::new();
        for (low, entries) in draft.changed.iter().filter_map(|(low, entries)| Some((*low, entries.clone()?))) {
            let at_end = self.store.following(after(low))?.is_none();
            for (position, part) in chunk::split(entries, at_end).into_iter().enumerate() {
                lows.push(if position == 0 { low } else { part[0].id });
                places.push(self.describe(&part));
                bodies.push(chunk::encode(&part));
            }
        }
        if !bodies.is_empty() {
            let locations = self.packs.append(&bodies)?;
            places.iter_mut().zip(locations).for_each(|(place, at)| place.at = at);
        }
        let mut meta = self.meta.clone();
        meta.watermark = watermark;
        meta.records += places.iter().map(|place| u64::from(place.records)).sum::<u64>();
        meta.records -= draft.before.values().map(|place| u64::from(place.records)).sum::<u64>();
        let mut uses = self.uses.clone();
        let changes = self.changes(&draft, &lows, &places, &meta, &mut uses);
        self.store.index.apply(&changes)?;
        self.store.index.sync()?;
        self.meta = meta;
        self.uses = uses;
        self.publish();
        self.remove_unused()?;
        Ok(())
    }

    fn describe(&self, part: &[Entry]) -> ChunkPlace {
        ChunkPlace {
            at: Location { pack: 0, offset: 0, length: 0 },
            records: part.len() as u32,
            raw_bytes: part.iter().map(Entry::bytes).sum::<usize>() as u32,
            keep_first_ms: part.iter().map(|entry| entry.keep_until_ms).min().unwrap_or(0),
            keep_last_ms: part.iter().map(|entry| entry.keep_until_ms).max().unwrap_or(0),
            labels: part.iter().fold(0, |labels, entry| labels | (self.labels)(&entry.record)),
        }
    }

    fn changes(
        &self,
        draft: &Draft,
        lows: &[JobId],
        places: &[ChunkPlace],
        meta: &Meta,
        uses: &mut BTreeMap<u32, PackUse>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut touched = std::collections::BTreeSet::new();
        for (low, place) in &draft.before {
            changes.push((chunk_key(*low), None));
            changes.push((place.expiry_key(*low), None));
            let pack = uses.entry(place.at.pack).or_default();
            pack.used = pack.used.saturating_sub(place.at.frame_bytes());
            touched.insert(place.at.pack);
        }
        for (low, place) in lows.iter().zip(places) {
            changes.push((chunk_key(*low), Some(place.encode())));
            changes.push((place.expiry_key(*low), Some(Vec::new())));
            let pack = uses.entry(place.at.pack).or_default();
            pack.used += place.at.frame_bytes();
            pack.length = pack.length.max(place.at.offset + place.at.frame_bytes());
            touched.insert(place.at.pack);
        }
        for number in touched {
            changes.push((use_key(number), Some(uses[&number].used.to_le_bytes().to_vec())));
        }
        changes.push((META_KEY.to_vec(), Some(meta.encode())));
        changes
    }

    /// Removes packs that nothing uses, after the index durably forgot them.
    fn remove_unused(&mut self) -> Result<()> {
        let newest = self.packs.newest();
        let unused: Vec<u32> =
            self.uses.iter().filter(|(number, pack)| pack.used == 0 && **number != newest).map(|(n, _)| *n).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = unused.iter().map(|number| (use_key(*number), None)).collect();
        self.store.index.apply(&changes)?;
        self.store.index.sync()?;
        for number in unused {
            pack::remove(&self.store.dir, number)?;
            self.uses.remove(&number);
            self.store.packs.forget();
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        // First what is lost: whoever sees the watermark sees what it skips.
        self.store.lost.lock().clone_from(&self.meta.lost);
        self.store.records.store(self.meta.records, Ordering::Release);
        self.store.watermark.store(self.meta.watermark, Ordering::Release);
        self.store.pack_bytes.store(self.uses.values().map(|pack| pack.length).sum(), Ordering::Relaxed);
    }
}

/// The next id.
pub(super) fn after(id: JobId) -> JobId {
    JobId(u128::from_be_bytes(id.0).saturating_add(1).to_be_bytes())
}

/// The id before, unless there is none.
pub(super) fn before(id: JobId) -> Option<JobId> {
    u128::from_be_bytes(id.0).checked_sub(1).map(|number| JobId(number.to_be_bytes()))
}
