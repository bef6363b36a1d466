//! What a job carries of its limits.

use raftwork::base::codec::Writer;

/// At most so many jobs of a key at once (kind 0), or starts in a window (1 bucket, 2 sliding, 3 fixed).
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
        w.array([3, 5, 4, 4][*kind as usize]).u64(*kind).str(key).u64(*n);
        if *kind > 0 {
            w.u64(*window);
        }
        if *kind == 1 {
            w.u64(*burst);
        }
    }
}
