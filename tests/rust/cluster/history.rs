//! Finished jobs: each member keeps its own, and asks the others for those that it lacks.

use raftwork::base::time::SystemClock;
use raftwork::base::{Clock, Millis};

use super::*;

fn archived(node: &Node) -> u64 {
    field_number(&field(&node.health(), "archive"), "records")
}

/// Whether no job is in memory any more, and how far the archive is: its newest job, its records, and what it lacks.
fn history_of(node: &Node) -> (bool, u64, u64, Vec<u8>) {
    let archive = field(&node.health(), "archive");
    let number = |key| field_number(&archive, key);
    (jobs(node) == 0, number("watermark"), number("records"), field(&archive, "lost"))
}

/// Jobs that are enqueued and run, with so many bytes of arguments.
fn run_jobs(node: &Node, numbers: std::ops::Range<u64>, args: usize) {
    let ids: Vec<JobId> = numbers.map(job).collect();
    payload(&settle(node, enqueue_kept(&ids, "q", "f", args, 0, 3_600_000)));
    let all = loop {
        let session = SessionId(number(&settle(node, open_session(60_000))));
        if let Ok(answer) = node.submit(claim(session, "q", "f", ids.len() as u64), None) {
            break claimed(&answer);
        }
        settle(node, close_session(session)); // What it may have got is free again.
    };
    payload(&settle(node, succeed(&all)));
}

#[test]
fn a_node_that_was_away_or_is_new_fetches_the_history_and_a_deletion_reaches_every_archive() {
    let mut cluster = Cluster::new(3);
    let away = cluster.follower();
    cluster.close(away);
    let leader = cluster.leader();
    run_jobs(cluster.node(leader), 0..300, 64);
    let other = (0..3).find(|number| *number != away && *number != leader).unwrap();
    // Out of memory on both, so that nobody can archive them any more.
    until(|| [leader, other].iter().all(|number| jobs(cluster.node(*number)) == 0));
    cluster.open(away);
    fresh(cluster.node(away)).unwrap();
    run_jobs(cluster.node(leader), 300..310, 64);
    let whole = |node: &Node| archived(node) == 310 && field_texts(&node.health(), "alarms").is_empty();
    until(|| whole(cluster.node(away)));

    let new = cluster.join();
    until(|| whole(cluster.node(new)));

    payload(&settle(cluster.node(other), delete(job(7))));
    until(|| (0..4).all(|number| archived(cluster.node(number)) == 309));
}

#[test]
fn a_leader_whose_archive_stopped_lets_another_lead_and_finished_jobs_leave_memory() {
    let cluster = Cluster::new(3);
    let leader = cluster.leader();
    // Nothing is archived yet: the file that is to be made cannot be.
    std::fs::create_dir(cluster.config(leader).dir.join("archive/pack-00000001")).unwrap();
    run_jobs(cluster.node(leader), 0..10, 64);
    until(|| (0..3).all(|number| jobs(cluster.node(number)) == 0));
    assert_ne!(cluster.leader(), leader);
    let stopped = field_text(&field(&cluster.node(leader).health(), "archive"), "stopped");
    assert!(stopped.contains("pack-00000001"), "{stopped}");
    let alarms = field_texts(&cluster.node(leader).health(), "alarms");
    assert!(alarms.iter().any(|alarm| alarm.starts_with(&format!("the archive stopped: {stopped}; "))), "{alarms:?}");
}

#[test]
fn what_leaves_memory_while_a_member_catches_up_by_the_log_is_in_its_history_too() {
    let mut cluster = Cluster::new(3);
    let away = cluster.follower();
    cluster.close(away);
    let leader = cluster.node(cluster.leader());
    // More than the two mebibytes that are applied at once, and jobs leave memory while others end: what is applied between two
    // steps of the archive lets some go that it had not reached, and not the newest.
    let (mut ended, mut left) = (0, 0);
    while ended < 5_000 || left < 3_000 {
        run_jobs(leader, ended..ended + 200, 500);
        (ended, left) = (ended + 200, ended + 200 - jobs(leader));
    }
    let whole = (true, ended, ended, vec![0xc0]);
    until(|| cluster.nodes.iter().flatten().all(|node| history_of(node) == whole));
    cluster.open(away);
    let mut seen = Vec::new();
    let latest = Instant::now() + PATIENCE;
    while seen != [whole.clone(), whole.clone(), whole.clone()] {
        assert!(Instant::now() < latest, "ordinals, records, what is lacking: {seen:?}");
        std::thread::park_timeout(Duration::from_millis(1));
        seen = cluster.nodes.iter().flatten().map(|node| history_of(node)).collect();
    }
}

#[test]
fn a_member_that_lacks_history_does_not_take_a_job_of_it_for_unknown() {
    let mut cluster = Cluster::new(3);
    run_jobs(cluster.node(0), 0..10, 64);
    until(|| (0..3).all(|number| jobs(cluster.node(number)) == 0));
    (0..3).for_each(|number| cluster.close(number));
    for number in 0..2 {
        std::fs::remove_dir_all(cluster.config(number).dir.join("archive")).unwrap();
        cluster.open(number);
    }
    // Nobody who can be asked has it: only the third one.
    let node = cluster.node(0);
    fresh(node).unwrap();
    let (send, receive) = channel();
    node.wait_finished(job(1), Box::new(move |end| drop(send.send(end))));
    for request in [requeue(job(2)), delete(job(3)), delete(job(99))] {
        let Err(Error::NotCommitted(why)) = node.submit(request, None) else { panic!("it was answered") };
        assert!(
            why.contains("lacks a part of the finished jobs") && why.contains("`raftwork cluster status`"),
            "{why}"
        );
    }
    assert!(receive.try_recv().is_err(), "nobody can tell");
    cluster.open(2);
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap(), Ok(()));
    let node = cluster.node(0);
    payload(&settle(node, requeue(job(2))));
    assert_eq!(jobs(node), 1, "it runs again");
    payload(&settle(node, delete(job(3))));
    payload(&settle(node, delete(job(99))));
    until(|| (0..3).all(|number| archived(cluster.node(number)) == 9));
}

/// The clock of the system, set two hours ahead by mistake.
struct Ahead;

impl Clock for Ahead {
    fn wall(&self) -> Millis {
        SystemClock.wall().plus(Millis(7_200_000))
    }

    fn monotonic(&self) -> Millis {
        SystemClock.monotonic()
    }
}

#[test]
fn t1_a_member_that_starts_with_a_clock_far_ahead_keeps_its_history() {
    let mut cluster = Cluster::new(3);
    let (leader, member) = (cluster.leader(), cluster.follower());
    run_jobs(cluster.node(leader), 0..300, 64); // Kept for an hour.
    until(|| archived(cluster.node(member)) == 300);
    cluster.close(member);
    let config = NodeConfig { clock: Arc::new(Ahead), ..cluster.config(member) };
    cluster.nodes[member] = Some(Node::open(config).unwrap());
    fresh(cluster.node(member)).unwrap();
    // What is too old is looked for before these are archived.
    run_jobs(cluster.node(cluster.leader()), 300..310, 64);
    until(|| history_of(cluster.node(member)).1 >= 310);
    assert_eq!(archived(cluster.node(member)), 310);
}
