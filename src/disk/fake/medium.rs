//! What one file of the fake disk is made of, and what a cut leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Lie;

/// Bytes that a disk writes as a whole.
pub const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct Inode {
    pub current: Vec<u8>,
    durable: Vec<u8>,
    /// Contents that each sector had since it was last durable. A cut picks one.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// As `dirty`, but a failed sync gave up on them: no later sync saves them.
    given_up: BTreeMap<usize, Vec<Vec<u8>>>,
    /// What sectors would hold if the disk had not lied and not rotted.
    hidden: BTreeMap<usize, Vec<u8>>,
    /// The sectors of each write that the disk lied about.
    lied: Vec<Range<usize>>,
    /// Sectors that a write was put behind, and those that lack it since: that stays, whatever follows (`Lie::Behind`).
    stays: BTreeSet<usize>,
}

impl Inode {
    /// A file whose content is durable.
    pub fn with_content(bytes: &[u8]) -> Inode {
        Inode { current: bytes.to_vec(), durable: bytes.to_vec(), ..Inode::default() }
    }

    fn sector(bytes: &[u8], sector: usize) -> Vec<u8> {
        let start = (sector * SECTOR_BYTES).min(bytes.len());
        bytes[start..bytes.len().min(start + SECTOR_BYTES)].to_vec()
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8], lie: Option<Lie>) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let all = (self.current.len() / SECTOR_BYTES).max(1);
        let lie = lie.filter(|lie| !matches!(lie, Lie::Behind(by) if sectors.end + by > all));
        if matches!(lie, Some(Lie::Lost | Lie::Misdirected(_))) {
            self.lied.push(sectors.clone());
        }
        for sector in sectors {
            let content = Inode::sector(&self.current, sector);
            match lie {
                None => self.dirty.entry(sector).or_default().push(content),
                Some(Lie::Lost) => {
                    self.hidden.insert(sector, content);
                }
                Some(Lie::Misdirected(by)) => {
                    // Within the file: what is beyond its end would only make it longer.
                    let victim = (sector as i64 + by).rem_euclid(all as i64) as usize;
                    self.spoil(victim, &content);
                    self.hidden.insert(sector, content);
                }
                Some(Lie::Behind(by)) => {
                    self.spoil(sector + by, &content);
                    self.hidden.insert(sector, content);
                    self.stays.extend([sector, sector + by]);
                }
            }
        }
    }

    /// Other bytes than those that were written are on the medium.
    pub fn spoil(&mut self, sector: usize, bytes: &[u8]) {
        let written = Inode::sector(&self.durable, sector);
        self.hidden.entry(sector).or_insert(written);
        self.store(sector, bytes);
    }

    /// One bit is wrong, on the medium and for readers.
    pub fn flip(&mut self, byte: usize, bit: u32) {
        if byte >= self.durable.len() || byte >= self.current.len() {
            return;
        }
        let sector = byte / SECTOR_BYTES;
        let mut bytes = Inode::sector(&self.durable, sector);
        bytes[byte % SECTOR_BYTES] ^= 1 << bit;
        self.spoil(sector, &bytes);
        self.current[byte] ^= 1 << bit;
    }

    /// Puts everything that damage hides back in its place.
    pub fn mend(&mut self) {
        self.stays.clear();
        for (sector, content) in std::mem::take(&mut self.hidden) {
            self.store(sector, &content);
            let start = sector * SECTOR_BYTES;
            if self.current.len() < start + content.len() {
                self.current.resize(start + content.len(), 0);
            }
            self.current[start..start + content.len()].copy_from_slice(&content);
        }
    }

    /// Whether readers see other bytes than those that were written.
    pub fn is_damaged(&self) -> bool {
        self.hidden.iter().any(|(sector, content)| !Inode::sector(&self.current, *sector).starts_with(content))
    }

    /// Whoever reads the file has seen the damage that shows, and has coped with it.
    pub fn accept(&mut self) {
        let current = std::mem::take(&mut self.current);
        self.hidden.retain(|sector, content| Inode::sector(&current, *sector).starts_with(content));
        self.stays.retain(|sector| self.hidden.contains_key(sector));
        self.current = current;
    }

    pub fn sync(&mut self) {
        for (sector, _) in std::mem::take(&mut self.dirty) {
            let content = Inode::sector(&self.current, sector);
            self.given_up.remove(&sector);
            self.hidden.remove(&sector);
            self.stays.remove(&sector);
            self.store(sector, &content);
        }
        self.durable.resize(self.current.len(), 0);
    }

    pub fn sync_fails(&mut self) {
        for (sector, mut versions) in std::mem::take(&mut self.dirty) {
            self.given_up.entry(sector).or_default().append(&mut versions);
        }
    }

    fn store(&mut self, sector: usize, content: &[u8]) {
        let start = sector * SECTOR_BYTES;
        if self.durable.len() < start + content.len() {
            self.durable.resize(start + content.len(), 0);
        }
        self.durable[start..start + content.len()].copy_from_slice(content);
    }

    /// What a power cut leaves.
    pub fn lose(&mut self, random: &mut u64) {
        self.keep_what_nothing_betrays();
        self.sync_fails();
        for (sector, versions) in std::mem::take(&mut self.given_up) {
            let old = Inode::sector(&self.durable, sector);
            let picked = match next(random) as usize % (versions.len() + 2) {
                0 => continue,
                1 => torn(&old, versions.last().expect("a dirty sector has a version"), random),
                version => versions[version - 2].clone(),
            };
            self.store(sector, &picked);
        }
        self.current.clone_from(&self.durable);
        self.lied.clear();
    }

    /// A lost write that nothing behind it betrays is not lost: nobody could tell that it was ever made. That goes for all
    /// of it: its end alone looks like a write that was cut short.
    fn keep_what_nothing_betrays(&mut self) {
        let stays: BTreeMap<usize, Vec<u8>> = self.hidden.extract_if(.., |at, _| self.stays.contains(at)).collect();
        loop {
            let end = self.durable.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / SECTOR_BYTES);
            let is_last =
                |write: &&Range<usize>| self.hidden.range(end.max(write.start)..).any(|(at, _)| *at < write.end);
            let start = self.lied.iter().filter(is_last).map(|write| write.start).min();
            let last = self.hidden.split_off(&start.unwrap_or(end).min(end));
            if last.is_empty() {
                break;
            }
            // Without what was misdirected to behind it, another lost write may be the last one.
            last.into_iter().for_each(|(sector, content)| self.store(sector, &content));
        }
        self.hidden.extend(stays);
    }
}

/// The start of the new sector and the end of the old one, or the other way round.
fn torn(old: &[u8], new: &[u8], random: &mut u64) -> Vec<u8> {
    let mut old = old.to_vec();
    old.resize(new.len().max(old.len()), 0);
    let mut mixed = old.clone();
    let at = next(random) as usize % (new.len() + 1);
    if next(random).is_multiple_of(2) {
        mixed[..at].copy_from_slice(&new[..at]);
    } else {
        mixed[at..new.len()].copy_from_slice(&new[at..]);
    }
    mixed
}

/// SplitMix64.
pub fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_shows_until_the_power_is_cut_and_a_misdirected_one_spoils_another_place() {
        let mut inode = Inode::with_content(&[0; 4 * SECTOR_BYTES]);
        inode.write(0, &[1; SECTOR_BYTES], Some(Lie::Lost));
        inode.write(SECTOR_BYTES, &[2; SECTOR_BYTES], Some(Lie::Misdirected(1)));
        inode.write(3 * SECTOR_BYTES, &[3; SECTOR_BYTES], None);
        inode.sync();
        let seen = |inode: &Inode| [0, 1, 2, 3].map(|sector| inode.current[sector * SECTOR_BYTES]);
        assert_eq!(seen(&inode), [1, 2, 0, 3]);
        inode.lose(&mut 7);
        assert_eq!(seen(&inode), [0, 0, 2, 3]);
        inode.mend();
        assert_eq!(seen(&inode), [1, 2, 0, 3]);
    }

    #[test]
    fn the_last_write_is_not_lost_by_going_to_a_place_behind_it() {
        let mut inode = Inode::with_content(&[0; 4 * SECTOR_BYTES]);
        inode.write(0, &[1; SECTOR_BYTES], Some(Lie::Misdirected(2)));
        inode.sync();
        inode.lose(&mut 7);
        assert_eq!([0, 1, 2, 3].map(|sector| inode.current[sector * SECTOR_BYTES]), [1, 0, 0, 0]);
    }

    #[test]
    fn a_write_that_was_put_behind_stays_there_also_if_it_was_the_last() {
        let mut inode = Inode::with_content(&[0; 4 * SECTOR_BYTES]);
        let sectors = |inode: &Inode| [0, 1, 2, 3].map(|sector| inode.current[sector * SECTOR_BYTES]);
        inode.write(0, &[1; SECTOR_BYTES], None);
        inode.write(SECTOR_BYTES, &[2; SECTOR_BYTES], Some(Lie::Behind(2)));
        inode.sync();
        assert_eq!((sectors(&inode), inode.is_damaged()), ([1, 2, 0, 0], false), "it shows the write until the cut");
        inode.lose(&mut 7);
        assert_eq!((sectors(&inode), inode.is_damaged()), ([1, 0, 0, 2], true));
        inode.mend();
        assert_eq!((sectors(&inode), inode.is_damaged()), ([1, 2, 0, 0], false));
        // There is no place behind: it goes where it belongs.
        inode.write(2 * SECTOR_BYTES, &[3; SECTOR_BYTES], Some(Lie::Behind(2)));
        inode.sync();
        inode.lose(&mut 7);
        assert_eq!(sectors(&inode), [1, 2, 3, 0]);
    }

    #[test]
    fn the_last_write_is_kept_as_a_whole_or_not_at_all() {
        let mut inode = Inode::with_content(&[0; 6 * SECTOR_BYTES]);
        inode.write(0, &[1; 3 * SECTOR_BYTES], Some(Lie::Misdirected(1)));
        inode.sync();
        inode.lose(&mut 7);
        assert_eq!([0, 1, 2, 3, 4].map(|sector| inode.current[sector * SECTOR_BYTES]), [1, 1, 1, 0, 0]);

        inode.write(2 * SECTOR_BYTES, &[2; 2 * SECTOR_BYTES], Some(Lie::Lost));
        inode.write(3 * SECTOR_BYTES, &[3; 2 * SECTOR_BYTES], None);
        inode.sync();
        inode.lose(&mut 7);
        assert_eq!([0, 1, 2, 3, 4].map(|sector| inode.current[sector * SECTOR_BYTES]), [1, 1, 1, 3, 3], "betrayed");
    }
}
