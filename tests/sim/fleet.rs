//! Many seeds on all cores. A simulation runs in one thread and shares nothing with any other, so the order in which they
//! run changes none of them.

use std::any::Any;
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

use raftwork::base::planted::{self, Bug};

use crate::{run, Outcome};

thread_local! {
    /// Panics of this thread are expected and say nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs these seeds and adds up what they did. The first failure ends it, with its seed.
pub fn seeds(count: u64) -> Outcome {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Outcome::default()));
    let failed: Mutex<Option<(u64, Box<dyn Any + Send>)>> = Mutex::default();
    on_all_cores(|| loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= count {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(outcome) => total.lock().expect("nobody panics with it").add(&outcome),
            Err(panic) => {
                eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_SEED={seed}");
                failed.lock().expect("nobody panics with it").get_or_insert((seed, panic));
                next.store(count, Ordering::Relaxed);
            }
        }
    });
    if let Some((_, panic)) = failed.into_inner().expect("nobody panics with it") {
        std::panic::resume_unwind(panic);
    }
    total.into_inner().expect("nobody panics with it")
}

/// Switches on one bug after the other and gives those that none of so many seeds finds.
pub fn missed(bugs: &[Bug], seeds: u64) -> Vec<Bug> {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    on_all_cores(|| {
        quietly(|| {
            while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                planted::plant(Some(*bug));
                match (0..seeds).find_map(|seed| Some((seed, catch_unwind(|| run(seed)).err()?))) {
                    None => missed.lock().expect("nobody panics with it").push(*bug),
                    Some((seed, panic)) => println!("{bug:?}: seed {seed}: {}", words(&*panic)),
                }
            }
        });
        planted::plant(None);
    });
    missed.into_inner().expect("nobody panics with it")
}

/// The first line of what a panic said.
pub fn words(panic: &(dyn Any + Send)) -> &str {
    let long = panic.downcast_ref::<String>().map(String::as_str);
    let said = long.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    said.lines().next().unwrap_or_default()
}

/// Does something whose panics are expected: they are not printed.
pub fn quietly<T>(act: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = act();
    QUIET.set(false);
    done
}

fn on_all_cores(act: impl Fn() + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&act);
        }
    });
}
