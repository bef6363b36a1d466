//! Ids of jobs: UUID version 7, made without asking anyone, increasing inside one process.
//!
//! 48 bits of milliseconds, then 74 bits that are random in the first id of a millisecond and grow by a random step in
//! the following ones. The randomness comes from the kernel at each call: a forked child never repeats its parent's.

use crate::base::sync::Mutex;
use crate::base::time::SystemClock;
use crate::base::{Clock, Error, JobId, Result};

/// Ids of one call.
const IDS_MAX: usize = 100_000;
const TAIL_BITS: u32 = 74;
const TAIL_MASK: u128 = (1 << TAIL_BITS) - 1;

/// The last id given: milliseconds, and the 74 bits behind them.
static LAST: Mutex<(u64, u128)> = Mutex::new((0, 0));

/// New ids, each greater than every earlier one of this process.
pub fn new_ids(count: usize) -> Result<Vec<JobId>> {
    if count > IDS_MAX {
        return Err(Error::Invalid(format!("{count} ids in one call, at most {IDS_MAX}")));
    }
    let mut random = vec![0u8; count * 10];
    fill_random(&mut random)?;
    let now = SystemClock.wall().0;
    let mut last = LAST.lock();
    Ok(random
        .chunks_exact(10)
        .map(|bytes| {
            *last = after(*last, now, bytes.try_into().expect("chunks of ten"));
            id_of(last.0, last.1)
        })
        .collect())
}

fn after(last: (u64, u128), now: u64, random: [u8; 10]) -> (u64, u128) {
    let mut wide = [0u8; 16];
    wide[6..].copy_from_slice(&random);
    let random = u128::from_be_bytes(wide) & TAIL_MASK;
    if now > last.0 {
        // The top bit stays free, so that the steps of one millisecond never run over.
        return (now, random >> 1);
    }
    let tail = last.1 + 1 + (random >> 34);
    if tail > TAIL_MASK {
        return (last.0 + 1, random >> 1);
    }
    (last.0, tail)
}

fn id_of(millis: u64, tail: u128) -> JobId {
    let high = (tail >> 62) & 0xfff;
    let low = tail & ((1 << 62) - 1);
    let id = (u128::from(millis) << 80) | (7 << 76) | (high << 64) | (2 << 62) | low;
    JobId(id.to_be_bytes())
}

fn fill_random(mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::disk("read", "the random source of the kernel", &error.into()))?;
        bytes = &mut bytes[filled..];
    }
    Ok(())
}
