//! Every question that has one answer, asked of a machine that was led there by commands.

use raftwork::base::codec::Writer;
use raftwork::base::Error;
use raftwork::machine::{Answer, Machine};

use super::World;
use crate::wire::{id, Command, End, Job, Spec};

fn spec(function: &str, queue: &str) -> Spec {
    Spec { function: function.into(), queue: queue.into(), ..Spec::default() }
}

/// One job in each state but awaiting, one deleted, one evicted.
fn every_state() -> World {
    let mut world = World::new();
    let session = world.open();
    world.enqueue(spec("mail.send", "mail"), &["ok", "old"]);
    let done = world.claim(session, "mail", 2);
    world.finish(&done[1], End::Succeeded(None));
    world.run(&Command::Evict(1));
    world.finish(&done[0], End::Succeeded(Some(b"result".to_vec())));
    world.enqueue(spec("report.make", "low"), &["retry", "bad", "held", "gone", "off"]);
    world.now += 10;
    let held = world.claim(session, "low", 3);
    world.finish(&held[0], End::Retry(60_000, "TimeoutError".into()));
    world.finish(&held[1], End::Failed("builtins.ValueError".into()));
    world.run(&Command::Delete(vec![id("gone")]));
    world.run(&Command::Cancel { ids: vec![id("off")], reason: "not wanted".into() });
    world.run(&Command::Enqueue {
        specs: vec![spec("mail.send", "mail")],
        jobs: vec![Job { id: id("later"), delay: 5_000, ..Job::default() }, Job { id: id("now"), ..Job::default() }],
    });
    world
}

#[test]
fn counts_follow_the_transitions() {
    let answer = every_state().ask(|w| {
        w.array(1).u64(1);
    });
    assert_eq!(
        answer,
        "{awaiting: 0, scheduled: 1, enqueued: 1, processing: 1, retrying: 1, succeeded: 1, failed: 1, cancelled: 1, \
         created: 9, deleted: 1, archived: 1, total_succeeded: 2, total_failed: 1, total_cancelled: 1, requeued: 0, \
         retries: 1, crashes: 0, snoozed: 0, released: 0, expired: 0}"
    );
}

#[test]
fn j12_counts_add_up() {
    let world = every_state();
    let tally = world.machine.tally();
    assert!(tally.holds());
    assert_eq!(tally.created, 7 + 1 + 1);
}

#[test]
fn queues_show_what_waits_and_who_paused_them() {
    let mut world = every_state();
    world.run(&Command::Pause { queue: "mail".into(), until: Some(9_000_000), reason: "relay down".into() });
    world.run(&Command::Pause { queue: "low".into(), until: None, reason: String::new() });
    let answer = world.ask(|w| {
        w.array(1).u64(2);
    });
    assert_eq!(
        answer,
        "[[\"low\", 0, 1, 0, 1, true, nil, \"\", nil, 5, 0, 1], \
         [\"mail\", 1, 0, 1, 0, true, 9000000, \"relay down\", 1000010, 4, 2, 0]]"
    );
}

#[test]
fn oldest_job_of_a_queue_is_found_behind_higher_priorities() {
    let mut world = World::new();
    world.enqueue(Spec { priority: -5, ..Spec::default() }, &["a"]);
    world.now += 100;
    world.enqueue(Spec { priority: 5, ..Spec::default() }, &["b", "c"]);
    let answer = world.ask(|w| {
        w.array(1).u64(2);
    });
    assert_eq!(answer, "[[\"default\", 3, 0, 0, 0, false, nil, \"\", 1000000, 3, 0, 0]]");
}

#[test]
fn detail_tells_all_of_a_job() {
    let world = every_state();
    let ask = |name: &str| {
        world.ask(|w| {
            w.array(2).u64(3).id(id(name));
        })
    };
    assert_eq!(ask("nobody"), "nil");
    assert_eq!(ask("old"), "nil", "evicted: the archive knows it");
    let ok = ask("ok");
    for part in [
        "id: <ok>, function: \"mail.send\", queue: \"mail\", state: \"succeeded\", priority: 0, attempt: 1, crashes: 0",
        "created_ms: 1000000",
        "finished_ms: 1000000",
        "keep_until_ms: 87400000",
        "result: <result>",
        "attempts: [[1, 1000000, 1000000, \"succeeded\", nil]]",
        "archived: false",
    ] {
        assert!(ok.contains(part), "{part} in {ok}");
    }
    let held = ask("held");
    for part in ["state: \"processing\"", "started_ms: 1000010", "session: 1", "keep_until_ms: nil", "result: nil"] {
        assert!(held.contains(part), "{part} in {held}");
    }
    let retry = ask("retry");
    for part in [
        "state: \"retrying\"",
        "run_at_ms: 1060010",
        "error: [\"TimeoutError\", \"it broke\", \"Traceback\"]",
        "[1, 1000010, 1000010, \"retried\", [\"TimeoutError\", \"it broke\", \"Traceback\"]]",
    ] {
        assert!(retry.contains(part), "{part} in {retry}");
    }
    assert!(ask("off").contains("reason: \"not wanted\""));
}

#[test]
fn sessions_show_what_they_hold() {
    let mut world = every_state();
    world.open();
    let answer = world.ask(|w| {
        w.array(1).u64(5);
    });
    let last = world.index;
    assert_eq!(
        answer,
        format!(
            "[[1, \"worker\", \"box\", 4711, [], 1000000, 1], [{last}, \"worker\", \"box\", 4711, [], 1000010, 0]]"
        )
    );
}

#[test]
fn functions_show_how_their_runs_ended() {
    let answer = every_state().ask(|w| {
        w.array(1).u64(6);
    });
    assert_eq!(answer, "[[\"mail.send\", 1, 0, 2, 0, 1, 0, 0, 0, 0], [\"report.make\", 0, 1, 0, 1, 0, 1, 1, 0, 1]]");
}

#[test]
fn totals_show_the_size_of_the_machine() {
    let world = every_state();
    let answer = world.ask(|w| {
        w.array(1).u64(7);
    });
    let (bytes, applied) = (world.machine.bytes(), world.index);
    assert!(answer.starts_with(&format!(
        "{{jobs: 7, specs: 2, sessions: 1, applied: {applied}, now_ms: 1000010, bytes: {bytes}, digest: "
    )));
}

#[test]
fn due_counts_what_a_claim_could_give() {
    let mut world = World::new();
    world.enqueue(spec("mail.send", "mail"), &["a", "b"]);
    world.enqueue(spec("report.make", "mail"), &["c"]);
    world.enqueue(spec("report.make", "low"), &["d"]);
    let due = |world: &World, queues: &[&str], functions: &[&str]| {
        world.ask(|w| {
            w.array(3).u64(8);
            for names in [queues, functions] {
                w.array(names.len());
                names.iter().for_each(|name| {
                    w.str(name);
                });
            }
        })
    };
    assert_eq!(due(&world, &["mail"], &["mail.send"]), "2");
    assert_eq!(due(&world, &["mail", "low", "mail"], &["mail.send", "report.make", "report.make"]), "4");
    assert_eq!(due(&world, &["mail", "nobody"], &["unknown"]), "0");
    world.run(&Command::Pause { queue: "mail".into(), until: None, reason: String::new() });
    assert_eq!(due(&world, &["mail", "low"], &["report.make"]), "1");
}

#[test]
fn question_that_nobody_knows_is_refused() {
    let machine = Machine::new();
    let refused = |write: fn(&mut Writer)| {
        let mut w = Writer::new();
        write(&mut w);
        assert!(matches!(machine.view(w.as_bytes()), Err(Error::Invalid(_))), "{:02x?}", w.as_bytes());
    };
    refused(|w| _ = w.array(1).u64(11));
    refused(|w| _ = w.array(2).u64(1).u64(1));
    refused(|w| _ = w.array(1).u64(1).nil());
    refused(|w| _ = w.array(2).u64(3).str("id"));
    refused(|w| _ = w.array(4).u64(4).array(0).nil().u64(0));
    refused(|w| _ = w.array(4).u64(4).array(0).nil().u64(1_001));
    refused(|w| _ = w.array(4).u64(4).array(0).bin(&[1]).u64(1));
    refused(|w| _ = w.nil());
    assert!(machine.view(&[]).is_err());
}

#[test]
fn costly_questions_leave_the_machine_free() {
    let mut world = every_state();
    let mut w = Writer::new();
    w.array(4).u64(4).array(0).nil().u64(10);
    let Answer::Later(later) = world.machine.ask(w.as_bytes()).unwrap() else { panic!("a search runs on a capture") };
    let before = later.answer(None).unwrap();
    world.enqueue(Spec::default(), &["zz"]);
    assert_eq!(later.answer(None).unwrap(), before, "the capture does not change");
}
