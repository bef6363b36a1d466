//! What one file of the fake disk is made of, and what a cut leaves of it.

use std::collections::BTreeMap;

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

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let content = Inode::sector(&self.current, sector);
            self.dirty.entry(sector).or_default().push(content);
        }
    }

    pub fn sync(&mut self) {
        for (sector, _) in std::mem::take(&mut self.dirty) {
            let content = Inode::sector(&self.current, sector);
            self.given_up.remove(&sector);
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

    pub fn lose(&mut self, random: &mut u64) {
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
