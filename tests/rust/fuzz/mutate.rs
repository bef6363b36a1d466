//! Changes to inputs, as a fuzzer makes them: blind to the code under test, but repeatable from a seed.
//!
//! Most formats here are guarded by checksums, so a blind change is refused at the door. Each target therefore also gets
//! inputs whose checksums were made right again after the change (`seal` in the targets).

/// Numbers at which decoders go wrong.
const EDGES: [u64; 12] =
    [0, 1, 7, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// A repeatable source of numbers: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }

    /// Small numbers more often than large ones, below `end`.
    pub fn small(&mut self, end: usize) -> usize {
        let reach = 1 + self.below(end.max(1));
        self.below(reach)
    }
}

/// An input made from two of the corpus by one to eight changes.
pub fn mutate(random: &mut Random, first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut bytes = first.to_vec();
    for _ in 0..=random.small(8) {
        change(random, &mut bytes, second);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len());
    let length = 1 + random.small(bytes.len() - at.min(bytes.len()));
    let end = (at + length).min(bytes.len());
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        4 => bytes.truncate(at),
        5 => write_edge(random, bytes, at),
        6 if !other.is_empty() => {
            let from = random.below(other.len());
            let upto = (from + 1 + random.small(other.len() - from)).min(other.len());
            bytes.splice(at..end, other[from..upto].iter().copied());
        }
        7 => bytes[at..end].fill(0),
        _ => bytes.insert(at, random.next() as u8),
    }
}

fn write_edge(random: &mut Random, bytes: &mut [u8], at: usize) {
    let edge = EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).wrapping_sub(1);
    let width = [1, 2, 4, 8][random.below(4)];
    let mut image = edge.to_le_bytes();
    if random.below(2) == 0 {
        image[..width].reverse(); // MessagePack has the other order.
    }
    for (target, source) in bytes.iter_mut().skip(at).zip(&image[..width]) {
        *target = *source;
    }
}
