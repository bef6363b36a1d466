//! D1: what was answered survives a power cut at any moment. The workload runs to its end once, to count its steps; then
//! it runs once more for each step and each seed, and the power goes at that step.

use crate::crash::workload::{disk, run, verify, Model};

pub mod workload;

/// Ways in which the unsynced sectors and names of one cut may be lost.
const SEEDS: u64 = 4;

fn steps_of_a_whole_run() -> u64 {
    let whole = disk(0);
    run(&whole, &mut Model::default()).expect("nothing fails");
    whole.steps()
}

#[test]
fn d1_answered_groups_survive_a_cut_at_every_write_and_every_sync() {
    let steps = steps_of_a_whole_run();
    assert!(steps > 250, "the workload shrank to {steps} steps");
    for step in 1..=steps {
        let (cut, mut model) = (disk(0), Model::default());
        cut.cut_at_step(step);
        run(&cut, &mut model).expect_err("the power went");
        for seed in 0..SEEDS {
            let after = cut.fork();
            after.power_cut(seed);
            verify(&after, &model, &format!("cut at step {step} of {steps}, seed {seed}"));
        }
    }
}

#[test]
fn d1_a_killed_process_loses_nothing_that_was_written() {
    let steps = steps_of_a_whole_run();
    for step in 1..=steps {
        let (killed, mut model) = (disk(0), Model::default());
        killed.cut_at_step(step);
        run(&killed, &mut model).expect_err("the process was killed");
        let after = killed.fork();
        after.switch_on();
        verify(&after, &model, &format!("killed at step {step} of {steps}"));
    }
}

#[test]
fn d1_a_cut_at_every_step_of_the_recovery_changes_nothing() {
    let steps = steps_of_a_whole_run();
    for step in (20..=steps).step_by(9) {
        let (cut, mut model) = (disk(0), Model::default());
        cut.cut_at_step(step);
        run(&cut, &mut model).expect_err("the power went");
        cut.power_cut(step);
        for more in 1..60 {
            let again = cut.fork();
            again.cut_at_step(again.steps() + more);
            let opened = workload::open(&again, &crate::storage::identity(), false);
            again.power_cut(more);
            verify(&again, &model, &format!("cut at step {step}, then at step {more} of the recovery"));
            if opened.is_ok() {
                break;
            }
        }
    }
}
