//! From a job's id to its slot: 256 small open-addressed hash tables of eight bytes an entry.
//!
//! Only looked up, never walked, so the order of the hash is seen by nobody. Small tables grow one at a time: doubling
//! one of a million jobs moves 4,000 entries, not a million. The hash is SipHash with a fixed key, so that whoever
//! chooses ids has to search for colliding ones instead of writing them down.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

use super::table::Slot;
use crate::base::JobId;

const SHARDS: usize = 256;
const CAPACITY_MIN: usize = 8;

#[derive(Debug)]
pub struct Index {
    shards: Vec<Shard>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

/// Linear probing. An entry is the upper half of the id's hash and the slot plus one; zero is a free place.
#[derive(Debug, Default)]
struct Shard {
    entries: Vec<u64>,
    length: usize,
}

fn hash(id: JobId) -> (usize, u32) {
    let mut hasher = DefaultHasher::new();
    hasher.write(&id.0);
    let hash = hasher.finish();
    (hash as usize % SHARDS, (hash >> 32) as u32)
}

impl Index {
    /// The slot of this id. `id_of` tells the id of a slot, to tell equal hashes apart.
    pub fn find(&self, id: JobId, id_of: impl Fn(Slot) -> JobId) -> Option<Slot> {
        let (shard, mark) = hash(id);
        self.shards[shard].find(mark, |slot| id_of(slot) == id).map(|(_, slot)| slot)
    }

    /// Adds an id that is not in the index.
    pub fn insert(&mut self, id: JobId, slot: Slot) {
        let (shard, mark) = hash(id);
        self.shards[shard].insert(mark, slot);
    }

    pub fn remove(&mut self, id: JobId, slot: Slot) {
        let (shard, mark) = hash(id);
        self.shards[shard].remove(mark, slot);
    }
}

impl Shard {
    fn find(&self, mark: u32, same: impl Fn(Slot) -> bool) -> Option<(usize, Slot)> {
        let mask = self.entries.len().checked_sub(1)?;
        let mut place = mark as usize & mask;
        while self.entries[place] != 0 {
            let (found, slot) = unpack(self.entries[place]);
            if found == mark && same(slot) {
                return Some((place, slot));
            }
            place = (place + 1) & mask;
        }
        None
    }

    fn insert(&mut self, mark: u32, slot: Slot) {
        if (self.length + 1) * 4 > self.entries.len() * 3 {
            self.resize((self.entries.len() * 2).max(CAPACITY_MIN));
        }
        self.place(pack(mark, slot));
        self.length += 1;
    }

    fn place(&mut self, entry: u64) {
        let mask = self.entries.len() - 1;
        let mut place = unpack(entry).0 as usize & mask;
        while self.entries[place] != 0 {
            place = (place + 1) & mask;
        }
        self.entries[place] = entry;
    }

    /// Takes the entry out and moves those behind it back, so that no probe meets a hole too early.
    fn remove(&mut self, mark: u32, slot: Slot) {
        let Some((mut hole, _)) = self.find(mark, |found| found == slot) else {
            debug_assert!(false, "the index lost a job");
            return;
        };
        let mask = self.entries.len() - 1;
        let mut next = (hole + 1) & mask;
        while self.entries[next] != 0 {
            let home = unpack(self.entries[next]).0 as usize & mask;
            // Its probe began at `home`: it may move into the hole only if the hole lies on that way.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.entries[hole] = self.entries[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.entries[hole] = 0;
        self.length -= 1;
        if self.entries.len() > CAPACITY_MIN && self.length * 8 < self.entries.len() {
            self.resize(self.entries.len() / 2);
        }
    }

    fn resize(&mut self, capacity: usize) {
        let old = std::mem::replace(&mut self.entries, vec![0; capacity]);
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            self.place(entry);
        }
    }
}

fn pack(mark: u32, slot: Slot) -> u64 {
    ((mark as u64) << 32) | (slot as u64 + 1)
}

fn unpack(entry: u64) -> (u32, Slot) {
    ((entry >> 32) as u32, (entry as u32).wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(number: u16) -> JobId {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        JobId(bytes)
    }

    proptest! {
        #[test]
        fn finds_what_a_map_finds(acts in prop::collection::vec((any::<bool>(), 0u16..600), 0..3000)) {
            let mut index = Index::default();
            let mut model: BTreeMap<u16, Slot> = BTreeMap::new();
            for (slot, (add, number)) in acts.into_iter().enumerate() {
                let known = model.get(&number).copied();
                prop_assert_eq!(index.find(id(number), |slot| id(find_id(&model, slot))), known);
                if add && known.is_none() {
                    index.insert(id(number), slot as Slot);
                    model.insert(number, slot as Slot);
                } else if let Some(slot) = known {
                    index.remove(id(number), slot);
                    model.remove(&number);
                }
            }
            for (number, slot) in &model {
                prop_assert_eq!(index.find(id(*number), |slot| id(find_id(&model, slot))), Some(*slot));
            }
        }
    }

    fn find_id(model: &BTreeMap<u16, Slot>, slot: Slot) -> u16 {
        *model.iter().find(|(_, found)| **found == slot).expect("the index names only known slots").0
    }
}
