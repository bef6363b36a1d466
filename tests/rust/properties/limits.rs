//! Random limits of jobs.

use proptest::prelude::*;

use crate::wire::Limit;

/// None for half of the jobs; else one or two of few keys, so that jobs share them in different orders. A job takes turns by
/// one key at most.
pub fn limits() -> impl Strategy<Value = Vec<Limit>> {
    prop_oneof![
        3 => Just(Vec::new()),
        3 => limit().prop_map(|limit| vec![limit]),
        2 => (limit(), limit()).prop_map(|(one, two)| {
            let clash = one.kind == two.kind && (one.kind == 4 || one.key == two.key);
            if clash { vec![one] } else { vec![one, two] }
        }),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    let kind = prop_oneof![5 => Just(0u64), 1 => 1u64..4, 4 => Just(4u64)];
    (kind, 0u64..3, 1u64..3, prop_oneof![3 => Just(20u64), 1 => 1u64..30], 1u64..3).prop_map(
        |(kind, key, n, window, burst)| {
            let key = format!("key{key}");
            match kind {
                0 => Limit { kind, key, n, window: 0, burst: 0 },
                1 => Limit { kind, key, n, window, burst },
                4 => Limit::fair(key),
                _ => Limit { kind, key, n, window, burst: 0 },
            }
        },
    )
}
