//! What a job carries of its limits.

use raftwork::base::codec::Writer;

/// At most so many jobs of a key at once (kind 0), or starts in a window (1 bucket, 2 sliding, 3 fixed), or a key that takes
/// turns with others (4).
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub kind: u64,
    pub key: String,
    pub n: u64,
    pub window: u64,
    pub burst: u64,
}

pub(super) fn limits(w: &mut Writer, limits: &[Limit]) {
    w.array(limits.len());
    for Limit { kind, key, n, window, burst } in limits {
        w.array([3, 5, 4, 4, 2][*kind as usize]).u64(*kind).str(key);
        let numbers = [*n, *window, *burst];
        for number in &numbers[..[1, 3, 2, 2, 0][*kind as usize]] {
            w.u64(*number);
        }
    }
}

impl Limit {
    pub fn fair(key: impl Into<String>) -> Self {
        Limit { kind: 4, key: key.into(), n: 0, window: 0, burst: 0 }
    }

    /// Whether it counts starts in a time.
    pub fn is_rate(&self) -> bool {
        (1..=3).contains(&self.kind)
    }
}
