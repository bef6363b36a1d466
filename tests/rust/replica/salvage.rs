//! A salvage that the power is cut under, at every step: what can be kept is kept, and what is given up is told.

use raftwork::disk::quarantine;
use raftwork::node::doctor::salvage_on;
use raftwork::snapshot;

use super::*;

/// A directory with so many rounds of work and no whole snapshot.
fn damaged(rounds: u64) -> (FakeDisk, Ledger) {
    let (disk, mut ledger) = (disk(5), Ledger::default());
    let mut replica = open(&disk).expect("room");
    for round in 0..rounds {
        let ids: Vec<JobId> = (0..JOBS_A_ROUND).map(|number| job(round * JOBS_A_ROUND + number)).collect();
        send(&mut replica, 2_000 + round, &ids, &mut ledger).expect("room");
        if round % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1 {
            snapshot(&mut replica).expect("room");
        }
        replica.wal().spare().work().expect("room");
    }
    drop(replica);
    let snap_dir = Path::new(DIR).join(snapshot::DIR_NAME);
    for name in disk.list(&snap_dir).expect("a list") {
        let path = snap_dir.join(name);
        let mut bytes = disk.content(&path).expect("it is listed");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        disk.put(&path, &bytes);
    }
    assert!(matches!(open(&disk), Err(Error::Corrupt { .. })));
    (disk, ledger)
}

fn salvage(disk: &FakeDisk, accept_loss: bool) -> Result<Vec<u8>> {
    salvage_on(Arc::new(disk.clone()), Path::new(DIR), accept_loss)
}

/// Cuts the power at every step of a salvage, salvages again, and looks at what is there then.
fn cut_everywhere(source: &FakeDisk, accept_loss: bool, look: impl Fn(&FakeDisk, &str)) {
    let whole = source.fork();
    salvage(&whole, accept_loss).expect("room");
    look(&whole, "without a cut");
    for step in source.steps() + 1..=whole.steps() {
        for seed in 0..4 {
            let cut = source.fork();
            cut.cut_at_step(step);
            // It may be done by then: what removes needless files comes last, and its failure is none.
            let _ = salvage(&cut, accept_loss);
            cut.power_cut(seed);
            let when = format!("step {step} seed {seed}");
            salvage(&cut, accept_loss).unwrap_or_else(|error| panic!("{when}: {error}"));
            look(&cut, &when);
        }
    }
}

#[test]
fn d1_a_log_from_its_beginning_gives_every_job_back() {
    let (source, ledger) = damaged(10);
    cut_everywhere(&source, false, |disk, when| {
        verify(disk, &ledger, when);
        let losses = quarantine::losses(disk, Path::new(DIR)).expect("a list");
        assert_eq!(losses, Vec::<String>::new(), "{when}: nothing was lost");
    });
}

#[test]
fn a_state_that_is_given_up_is_told_whenever_the_power_goes() {
    let (source, _) = damaged(ROUNDS + 12);
    let before = source.steps();
    let Err(Error::Corrupt { message, .. }) = salvage(&source, false) else { panic!("the state is lost silently") };
    assert!(message.contains("the whole state up to entry"), "{message}");
    assert_eq!(source.steps(), before, "refused without a change");
    cut_everywhere(&source, true, |disk, when| {
        let losses = quarantine::losses(disk, Path::new(DIR)).expect("a list");
        assert!(losses.iter().any(|loss| loss.contains("the whole state")), "{when}: {losses:?}");
        verify(disk, &Ledger::default(), when);
        let aside = quarantine::files(disk, Path::new(DIR)).expect("a list");
        let known: Vec<_> = source.list(&Path::new(DIR).join(snapshot::DIR_NAME)).expect("a list");
        assert!(known.iter().all(|name| aside.contains(name)), "{when}: {known:?} are kept, in {aside:?}");
    });
}
