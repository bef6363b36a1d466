//! Many seeds on all cores. A simulation runs in one thread and shares nothing with any other, so the order in which they
//! run changes none of them.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use raftwork::base::planted::{self, Bug};

use crate::{run, Outcome};

thread_local! {
    /// Panics of this thread are expected and say nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs these seeds and adds up what they did. Fails at the end, with every seed that failed and why.
pub fn seeds(seeds: std::ops::Range<u64>) -> Outcome {
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new(Outcome::default()));
    let failed: Mutex<BTreeMap<u64, String>> = Mutex::default();
    on_all_cores(|| loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(outcome) => total.lock().expect("nobody panics with it").add(&outcome),
            Err(panic) => {
                eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_SEED={seed}");
                failed.lock().expect("nobody panics with it").insert(seed, words(&*panic).to_owned());
            }
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    let lines: Vec<String> = failed.iter().map(|(seed, why)| format!("RAFTWORK_SIM_SEED={seed}: {why}")).collect();
    assert!(lines.is_empty(), "{} seeds failed:\n{}", lines.len(), lines.join("\n"));
    total.into_inner().expect("nobody panics with it")
}

/// Switches on one bug after the other in a small simulation, and fails if none of its first seeds finds one.
pub fn find_each<T>(bugs: &[Bug], seeds: u64, run: fn(u64) -> T) {
    for bug in bugs {
        let found = quietly(|| {
            planted::plant(Some(*bug));
            let found = (0..seeds).find_map(|seed| catch_unwind(|| run(seed)).err().map(|panic| (seed, panic)));
            planted::plant(None);
            found
        });
        let (seed, panic) = found.unwrap_or_else(|| panic!("{bug:?} is not found within {seeds} seeds"));
        println!("{bug:?}: seed {seed}: {}", words(&*panic));
    }
}

/// Bugs that are looked for, seed by seed, each until one seed finds it.
struct Hunt<'a> {
    bugs: &'a [Bug],
    found: Vec<bool>,
    next: u64,
}

impl Hunt<'_> {
    /// The next bug to switch on, and the seed to run with it.
    fn next(&mut self, seeds: u64) -> Option<(usize, u64)> {
        let count = self.bugs.len() as u64;
        while self.next < seeds * count {
            let (seed, bug) = (self.next / count, (self.next % count) as usize);
            self.next += 1;
            if !self.found[bug] {
                return Some((bug, seed));
            }
        }
        None
    }
}

/// Switches on each bug, and gives those that none of so many seeds finds.
pub fn missed(bugs: &[Bug], seeds: u64) -> Vec<Bug> {
    let hunt = Mutex::new(Hunt { bugs, found: vec![false; bugs.len()], next: 0 });
    let lock = || hunt.lock().expect("nobody panics with it");
    on_all_cores(|| {
        quietly(|| loop {
            let Some((bug, seed)) = lock().next(seeds) else { break };
            planted::plant(Some(bugs[bug]));
            if let Err(panic) = catch_unwind(|| run(seed)) {
                if !std::mem::replace(&mut lock().found[bug], true) {
                    println!("{:?}: seed {seed}: {}", bugs[bug], words(&*panic));
                }
            }
        });
        planted::plant(None);
    });
    let found = std::mem::take(&mut lock().found);
    bugs.iter().zip(found).filter(|(_, found)| !found).map(|(bug, _)| *bug).collect()
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
