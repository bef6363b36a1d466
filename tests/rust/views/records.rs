//! The record of one job, and the maps made of it.

use proptest::prelude::*;
use raftwork::base::codec::Reader;
use raftwork::base::JobId;
use raftwork::machine::record::{keep_until_ms, AttemptRecord, JobRecord};

use super::World;
use crate::wire::{End, Spec};

fn error(kind: &str, message: &str) -> Vec<u8> {
    let mut w = raftwork::base::codec::Writer::new();
    w.array(3).str(kind).str(message).str("Traceback ...");
    w.into_bytes()
}

fn full<'a>(error: &'a [u8]) -> JobRecord<'a> {
    JobRecord {
        keep_until_ms: 99_000,
        id: JobId([7; 16]),
        state: 6,
        function: "mail.send",
        queue: "default",
        priority: -5,
        tags: vec!["eu", "crm"],
        attempt: 3,
        created_ms: 1_000,
        started_ms: Some(2_000),
        finished_ms: Some(3_000),
        unique_key: Some("invoice:7"),
        error: Some(error),
        token: Some(77),
        max_attempts: 3,
        args: &[0x92, 0x90, 0x80],
        progress: Some(&[1]),
        meta: &[1, 2],
        attempts: vec![AttemptRecord { attempt: 1, started_ms: 5, ended_ms: 6, outcome: 1, error: Some(error) }],
        ..Default::default()
    }
}

/// Walks a map, checks that it is one whole value with distinct keys, and gives its keys.
fn keys(map: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(map);
    let length = reader.map().unwrap();
    let mut keys = Vec::new();
    for _ in 0..length {
        keys.push(reader.str().unwrap().to_owned());
        reader.raw().unwrap();
    }
    reader.end().unwrap();
    keys.sort();
    let mut distinct = keys.clone();
    distinct.dedup();
    assert_eq!(keys, distinct);
    keys
}

#[test]
fn record_round_trips() {
    let error = error("ValueError", "no");
    let record = full(&error);
    let bytes = record.encode();
    assert_eq!(JobRecord::decode(&bytes).unwrap(), record);
    assert_eq!(keep_until_ms(&bytes).unwrap(), 99_000);
    let mut whole = Reader::new(&bytes);
    whole.raw().unwrap();
    whole.end().unwrap();
}

#[test]
fn u4_a_record_of_no_schedule_is_that_of_format_1_and_one_of_a_schedule_brings_it_back() {
    let plain = JobRecord::default();
    assert_eq!(plain.encode()[..4], [0xdc, 0, 36, 1]);
    for slot_ms in [None, Some(5)] {
        let record = JobRecord { schedule: Some("daily"), slot_ms, ..Default::default() };
        assert_eq!(record.encode()[..4], [0xdc, 0, 38, 2]);
        assert_eq!(JobRecord::decode(&record.encode()).unwrap(), record);
    }
}

#[test]
fn detail_has_every_key_and_row_leaves_out_the_large_ones() {
    let error = error("ValueError", "no");
    let record = full(&error);
    let detail = keys(&record.detail(true));
    for key in "id function queue state priority args result error attempt crashes max_attempts max_crashes generation \
                created_ms run_at_ms enqueued_ms started_ms finished_ms tags unique_key progress state_saved session \
                token cancel_requested schedule slot reason timeout_ms expires_ms meta attempts archived in_flow"
        .split_whitespace()
    {
        assert!(detail.contains(&key.to_owned()), "detail lacks {key}");
    }
    let row = keys(&record.row(false));
    for key in ["args", "result", "meta", "attempts", "state_saved"] {
        assert!(!row.contains(&key.to_owned()), "row has {key}");
    }
}

#[test]
fn unreadable_error_does_not_break_the_map() {
    let record = JobRecord { error: Some(&[0xc1, 0xff]), ..Default::default() };
    keys(&record.detail(false));
    keys(&record.row(false));
}

proptest! {
    #[test]
    fn damaged_record_is_refused_or_read_but_never_panics(position in 0usize..400, value: u8, cut in 0usize..400) {
        let error = error("ValueError", "no");
        let mut bytes = full(&error).encode();
        let position = position % bytes.len();
        bytes[position] = value;
        if let Ok(record) = JobRecord::decode(&bytes) {
            keys(&record.detail(true));
        }
        bytes.truncate(cut % bytes.len());
        prop_assert!(JobRecord::decode(&bytes).is_err());
    }
}

#[test]
fn a_batch_for_the_archive_ends_by_jobs_or_by_bytes() {
    let mut world = World::new();
    world.enqueue(Spec::default(), &["a", "b", "c", "d"]);
    let session = world.open();
    for job in world.claim(session, "default", 10) {
        world.finish(&job, End::Succeeded(Some(vec![1; 1_000])));
    }
    let lengths = |after, jobs_max, bytes_max| world.machine.finished(after, jobs_max, bytes_max).len();
    assert_eq!(lengths(0, 10, usize::MAX), 4);
    assert_eq!(lengths(0, 3, usize::MAX), 3);
    assert_eq!(lengths(0, 10, 1_500), 2, "the batch ends with the record that fills it");
    assert_eq!(lengths(2, 10, 1), 1, "one at least, or a large record would never leave memory");
}
