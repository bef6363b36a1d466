//! A node that panics at the same entry each time: its process gives up, and says so to whoever asks.

use raftwork::base::planted::trip;

use super::*;
use crate::requests::enqueue_as;

#[test]
fn a_node_that_panics_at_the_same_entry_again_and_again_is_not_opened_for_ever() {
    let home = Home::new();
    let alone = home.other();
    put(&alone, job(1)).unwrap();
    trip("trips-alone");
    let told = alone.submit(command(&enqueue_as(&[job(2)], "q", "trips-alone", 8, 0)), &mut patience());
    assert!(matches!(told, Err(Failure::Error(Error::Unknown(_)))), "{told:?}");
    // What is asked meanwhile waits for what comes of it.
    let mut last = None;
    until(|| {
        last = Some(put(&alone, job(3)));
        !matches!(last, Some(Err(Failure::Error(Error::NotCommitted(_)))))
    });
    let Some(Err(Failure::Error(Error::CrashLoop(why)))) = last else { panic!("{last:?}") };
    let dir = home.config().dir;
    assert!(why.contains("failed 3 times in the same way") && why.contains("tripped over a request"), "{why}");
    assert!(why.contains(&format!("raftwork doctor {}", dir.display())), "{why}");
    for _ in 0..2 {
        assert_eq!(alone.health().err(), Some(Error::CrashLoop(why.clone())), "and it stays so");
    }
    assert!(Lock::take(&dir).is_ok(), "the directory is free");
    assert_eq!(alone.close(&mut patience()), Err(Error::CrashLoop(why)));
    // A process that starts now is told, and lives.
    let opened = Client::open(home.config(), Options::default(), &mut patience()).map(drop);
    assert!(matches!(&opened, Err(Error::Poisoned(why)) if why.contains("tripped over a request")), "{opened:?}");
}
