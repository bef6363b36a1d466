//! D3 and A3: each call to the disk fails once, or from some call on for good. The log stops and says so, or resumes after
//! a full disk; nothing answered is lost, whether the process then ends or the power goes.

use raftwork::base::Error;
use raftwork::disk::fake::{Fault, Op};
use raftwork::wal::HardState;

use crate::crash::workload::{self, disk, run, verify, Model};
use crate::storage::{entry, identity};

fn every_call_fails(fault: Fault, for_good: bool) -> u64 {
    let whole = disk(0);
    run(&whole, &mut Model::default()).expect("nothing fails");
    let mut resumed = 0;
    for op in Op::ALL {
        let calls = whole.count(op);
        assert!(calls > 0, "the workload never does {op:?}");
        for call in 1..=calls {
            let (failing, mut model) = (disk(0), Model::default());
            failing.fail(op, call, fault, for_good);
            let ended = run(&failing, &mut model);
            resumed += model.resumed;
            let context = format!("{op:?} {call} of {calls} failed with {fault:?}, for good: {for_good}, {ended:?}");
            let after_cut = failing.fork();
            failing.process_ends();
            verify(&failing, &model, &format!("{context}; then the process ended"));
            after_cut.power_cut(call);
            verify(&after_cut, &model, &format!("{context}; then the power went"));
        }
    }
    resumed
}

#[test]
fn d3_every_call_fails_once() {
    every_call_fails(Fault::Eio, false);
}

#[test]
fn d3_the_device_fails_for_good_at_every_call() {
    every_call_fails(Fault::Eio, true);
}

#[test]
fn a3_the_disk_is_full_at_every_call_and_the_log_resumes() {
    let resumed = every_call_fails(Fault::Enospc, false);
    assert!(resumed > 100, "only {resumed} times");
}

#[test]
fn d3_after_a_failed_write_or_sync_every_call_answers_poisoned() {
    for op in [Op::Write, Op::Sync] {
        let failing = disk(1);
        let (mut wal, _) = workload::open(&failing, &identity(), true).expect("it opens");
        wal.append(None, &[entry(1, 1, 100)]).expect("room");
        failing.fail(op, failing.count(op) + 1, Fault::Eio, false);
        let failed = wal.append(None, &[entry(2, 1, 100)]);
        assert!(matches!(failed, Err(Error::Disk { .. })), "{failed:?}");
        for _ in 0..3 {
            let more = wal.append(Some(HardState::default()), &[]);
            assert!(matches!(more, Err(Error::Poisoned(_))), "{more:?}");
            assert!(matches!(wal.drop_before(1), Err(Error::Poisoned(_))));
        }
        assert!(wal.poisoned().is_some());
    }
}

#[test]
fn d3_a_sync_that_fails_for_lack_of_room_poisons_and_is_not_called_disk_full() {
    let failing = disk(1);
    let (mut wal, _) = workload::open(&failing, &identity(), true).expect("it opens");
    failing.fail(Op::Sync, failing.count(Op::Sync) + 1, Fault::Enospc, false);
    let failed = wal.append(None, &[entry(1, 1, 100)]);
    assert!(matches!(failed, Err(Error::Disk { .. })), "{failed:?}");
    assert!(matches!(wal.append(None, &[entry(1, 1, 100)]), Err(Error::Poisoned(_))));
}

/// Files of the log are made under other names, which nobody finds any more.
#[test]
fn d3_a_failed_sync_is_told_with_the_name_that_the_file_has() {
    let failing = disk(1);
    let (mut wal, _) = workload::open(&failing, &identity(), true).expect("it opens");
    failing.fail(Op::Sync, failing.count(Op::Sync) + 1, Fault::Eio, false);
    let Err(Error::Disk { path, .. }) = wal.append(None, &[entry(1, 1, 100)]) else { panic!("its sync fails") };
    assert!(path.contains("/wal/w-"), "{path}");
    assert!(wal.poisoned().is_some_and(|cause| cause.contains(&path)));
}

#[test]
fn d3_a_failed_sync_beside_the_log_stops_the_log_too() {
    let failing = disk(1);
    let (mut wal, _) = workload::open(&failing, &identity(), true).expect("it opens");
    failing.fail(Op::Sync, failing.count(Op::Sync) + 1, Fault::Eio, false);
    assert!(wal.spare().work().is_err());
    assert!(matches!(wal.append(None, &[entry(1, 1, 100)]), Err(Error::Poisoned(_))));
}

#[test]
fn a3_a_rotation_on_a_full_disk_leaves_the_log_as_it_was() {
    let full = disk(1);
    let (mut wal, _) = workload::open(&full, &identity(), true).expect("it opens");
    wal.append(None, &[entry(1, 1, 3_000)]).expect("room");
    full.fail(Op::Write, full.count(Op::Write) + 1, Fault::Enospc, true);
    for _ in 0..3 {
        let refused = wal.append(None, &[entry(2, 1, 3_000)]);
        assert!(matches!(refused, Err(Error::DiskFull(_))), "{refused:?}");
        assert_eq!((wal.last_index(), wal.poisoned()), (1, None));
    }
    full.heal();
    wal.append(None, &[entry(2, 1, 3_000)]).expect("there is room again");
    full.power_cut(5);
    let (_, recovered) = workload::open(&full, &identity(), false).expect("it opens");
    assert_eq!(recovered.entries, vec![entry(1, 1, 3_000), entry(2, 1, 3_000)]);
}

#[test]
fn a3_a_group_refused_for_lack_of_room_leaves_no_trace_behind_a_shorter_one() {
    let full = disk(1);
    let (mut wal, _) = workload::open(&full, &identity(), true).expect("it opens");
    full.fail(Op::Write, full.count(Op::Write) + 1, Fault::Enospc, false);
    assert!(matches!(wal.append(None, &[entry(1, 1, 2_000)]), Err(Error::DiskFull(_))));
    wal.append(None, &[entry(1, 1, 10)]).expect("there is room again");
    full.process_ends();
    let (_, recovered) = workload::open(&full, &identity(), false).expect("it opens");
    assert_eq!((recovered.entries, recovered.cut_bytes), (vec![entry(1, 1, 10)], 0));
}
