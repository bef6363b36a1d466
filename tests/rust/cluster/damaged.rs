//! The damaged directory of one of several members: never salvaged, and the way out is told.

use raftwork::node::anew;
use raftwork::node::doctor::{inspect, salvage};

use super::lone::{refused, stopped};
use super::*;
use crate::node::doctor::{content, damage, damage_at, files, flag, is_nil, texts};

/// The commands that a report or an error must have, so that somebody can go on.
fn assert_way_out(words: &str, cluster: &Cluster, number: usize, id: NodeId) {
    let dir = cluster.config(number).dir;
    let others = (0..3).filter(|other| *other != number).map(|other| cluster.addresses[other].to_string());
    let join: Vec<String> = others.collect();
    for command in [
        format!("mv {} ", dir.display()),
        format!("raftwork cluster replace {id} --storage raftwork://"),
        format!("raftwork node --data {} --listen {} --join ", dir.display(), cluster.addresses[number]),
        "raftwork cluster recover --data".to_owned(),
    ] {
        assert!(words.contains(&command), "{command} is missing: {words}");
    }
    assert!(join.iter().all(|address| words.contains(address)), "{join:?}: {words}");
}

fn id_in(report: &[u8]) -> NodeId {
    NodeId(field_number(&field(report, "identity"), "node"))
}

#[test]
fn d5_no_damage_lets_a_salvage_make_a_member_a_group_of_its_own() {
    let cluster = stopped();
    for number in 0..3 {
        let dir = cluster.config(number).dir;
        let log = files(&dir.join("wal"), "w-").pop().unwrap();
        let whole = std::fs::read(&log).unwrap();
        let snapshots: Vec<_> =
            files(&dir.join("snap"), "c-").into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        let mut damages = 0;
        for at in (4096..used).step_by(397) {
            for without_snapshots in [false, true] {
                damage_at(&log, &whole, at);
                if without_snapshots {
                    snapshots.iter().for_each(|(path, _)| damage(path));
                }
                if !can_start(&inspect(&dir).unwrap()) {
                    damages += 1;
                    let before = content(&dir);
                    let why = refused(salvage(&dir, true));
                    assert!(why.contains("one of several members"), "byte {at} of member {number}: {why}");
                    assert!(content(&dir) == before, "byte {at}: nothing was changed");
                }
                snapshots.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
            }
        }
        std::fs::write(&log, &whole).unwrap();
        assert!(damages > 10, "{damages}");
    }
}

fn can_start(report: &[u8]) -> bool {
    flag(&field(report, "start"), "possible")
}

#[test]
fn a_damaged_members_directory_is_told_with_the_way_out() {
    let cluster = stopped();
    for number in 0..3 {
        let dir = cluster.config(number).dir;
        damage(&files(&dir.join("wal"), "w-").pop().unwrap());
        let report = inspect(&dir).unwrap();
        assert!(is_nil(&report, "salvage"), "no salvage is offered");
        assert_eq!(texts(&report, "others").len(), 2, "{:?}", texts(&report, "others"));
        assert_way_out(&texts(&report, "way_out").join("\n"), &cluster, number, id_in(&report));
        assert_way_out(&refused(salvage(&dir, false)), &cluster, number, id_in(&report));
    }
}

#[test]
fn a_member_whose_snapshots_and_log_are_all_damaged_is_not_salvaged() {
    let cluster = stopped();
    let dir = cluster.config(1).dir;
    files(&dir.join("snap"), "c-").iter().for_each(|path| damage(path));
    files(&dir.join("wal"), "w-").iter().for_each(|path| std::fs::write(path, [0; 100]).unwrap());
    assert!(
        refused(salvage(&dir, true)).contains("one of several members"),
        "the headers of its snapshots name the others"
    );
}

#[test]
fn a_damaged_directory_that_is_all_that_is_left_begins_another_cluster_with_what_lies_before_the_damage() {
    for number in 0..3 {
        let cluster = stopped();
        let dir = cluster.config(number).dir;
        let log = files(&dir.join("wal"), "w-").pop().unwrap();
        let whole = std::fs::read(&log).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        let before = anew::survey(&dir).unwrap();
        // In the last third, behind some of the jobs.
        damage_at(&log, &whole, 4096 + (used - 4096) * 5 / 6);
        let damaged = anew::survey(&dir).unwrap();
        assert!(is_nil(&before, "suspect_upto") && !is_nil(&damaged, "suspect_upto"));
        assert!(field_number(&damaged, "index") < field_number(&before, "index"));
        let kept = field_number(&damaged, "jobs");
        assert!(0 < kept && kept < 20, "{kept}");
        anew::recover(&dir, None).unwrap();
        let alone = Node::open(NodeConfig { cluster: None, ..cluster.config(number) }).unwrap();
        assert_eq!(jobs(&alone), kept);
        let alarms = texts(&alone.health(), "alarms");
        assert!(alarms.iter().any(|alarm| alarm.contains("behind its damage, up to entry")), "{alarms:?}");
        assert_eq!(field_number(&damaged, "suspect_upto"), field_number(&before, "index"));
    }
}
