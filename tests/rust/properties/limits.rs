//! Random limits of jobs.

use proptest::prelude::*;

use crate::wire::Limit;

/// None for half of the jobs; else one or two of few keys, so that jobs share them in different orders.
pub fn limits() -> impl Strategy<Value = Vec<Limit>> {
    prop_oneof![
        3 => Just(Vec::new()),
        3 => limit().prop_map(|limit| vec![limit]),
        2 => (limit(), limit()).prop_map(|(one, two)| match (one.kind, &one.key) == (two.kind, &two.key) {
            true => vec![one],
            false => vec![one, two],
        }),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    let kind = prop_oneof![5 => Just(0u64), 1 => 1u64..4];
    (kind, 0u64..3, 1u64..3, prop_oneof![3 => Just(20u64), 1 => 1u64..30], 1u64..3).prop_map(
        |(kind, key, n, window, burst)| {
            let (window, burst) = (window * u64::from(kind > 0), burst * u64::from(kind == 1));
            Limit { kind, key: format!("key{key}"), n, window, burst }
        },
    )
}
