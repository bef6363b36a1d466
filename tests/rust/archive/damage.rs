//! Damaged files, failing calls, and readers beside a writer.

use std::sync::mpsc::channel;
use std::sync::Barrier;
use std::time::Duration;

use super::*;

#[test]
fn damaged_chunk_is_dropped_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..=3_000, 9_000)).unwrap();
    drop(archive);
    let path = dir.path().join("archive/pack-00000001");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    let left = all(&archive);
    assert!(left.len() > 1_000 && left.len() < 3_000, "{} are left", left.len());
    let health = archive.health();
    assert_eq!(health.records as usize, left.len());
    assert!(health.lost.unwrap().reason.contains("damaged"));
    assert_eq!(quarantines(dir.path()), 0);
    archive.put(0, &jobs(3_001..=3_100, 9_000)).unwrap();
    assert_eq!(all(&archive).len(), left.len() + 100);
}

#[test]
fn missing_pack_is_found_at_open() {
    let dir = tempfile::tempdir().unwrap();
    Archive::open(options(dir.path())).unwrap().put(0, &jobs(1..=100, 9_000)).unwrap();
    std::fs::remove_file(dir.path().join("archive/pack-00000001")).unwrap();
    let archive = Archive::open(Options { evicted_upto: 50, ..options(dir.path()) }).unwrap();
    assert_eq!((quarantines(dir.path()), all(&archive).len()), (1, 0));
    assert!(archive.health().lost.unwrap().reason.contains("pack 1 is missing"));
}

/// A full disk or a kill while sled opens leaves the beginning of its next snapshot.
#[test]
fn an_unfinished_snapshot_of_the_index_is_no_damage() {
    for left in [0, 100] {
        let dir = tempfile::tempdir().unwrap();
        Archive::open(options(dir.path())).unwrap().put(0, &jobs(1..=1_000, 9_000)).unwrap();
        let unfinished = dir.path().join("archive/index/snap.00000000FFFFFFFF.generating");
        std::fs::write(&unfinished, vec![1; left]).unwrap();
        let archive = Archive::open(options(dir.path())).unwrap();
        assert_eq!((quarantines(dir.path()), all(&archive).len()), (0, 1_000));
        assert_eq!((archive.watermark(), archive.health().lost, unfinished.exists()), (1_000, None, false));
    }
}

/// Whatever happens to sled's files: no panic, no wrong record; what is gone is said or comes again.
fn survives(damage: impl Fn(&mut Vec<u8>), file: &str) {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    for start in (1..=2_000).step_by(250) {
        archive.put(0, &jobs(start..start + 250, 9_000)).unwrap();
    }
    drop(archive);
    let path = dir.path().join("archive").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    damage(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    let archive = Archive::open(Options { evicted_upto: 1_000, ..options(dir.path()) }).unwrap();
    for number in (1..=2_000).step_by(61) {
        if let Some(record) = archive.get(id(number)).unwrap() {
            assert_eq!(record, job(number, 9_000).2);
        }
    }
    let (found, lost, watermark) = (all(&archive).len() as u64, archive.health().lost, archive.watermark());
    let again = jobs(archive.watermark().max(1_000) + 1..=2_100, 9_000);
    archive.put(0, &again).unwrap();
    let refilled = all(&archive);
    let complete = (1_001..=2_100).all(|number| refilled.contains(&id(number)));
    assert!(complete, "what was still in memory came again");
    assert!(lost.is_some() || found == watermark, "{found} of {watermark} found, nothing said");
}

#[test]
fn damaged_index_is_survived() {
    survives(|bytes| bytes.truncate(bytes.len() / 2), "index/db");
    survives(|bytes| bytes.clear(), "index/db");
    survives(|bytes| bytes.fill(0), "index/db");
    survives(|bytes| bytes.fill(0xff), "index/conf");
    survives(|bytes| bytes.clear(), "index/conf");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn flipped_index_is_survived(position: proptest::sample::Index, bits in 1u8..) {
        survives(|bytes| { let at = position.index(bytes.len()); bytes[at] ^= bits; }, "index/db");
    }
}

/// An index that stops with a given failure after some calls; before that, nothing is stored.
struct Failing {
    calls: Arc<AtomicU64>,
    failure: fn() -> Error,
    inner: Box<dyn Index>,
}

impl Failing {
    fn check(&self) -> Result<()> {
        let left = self.calls.load(Ordering::SeqCst);
        self.calls.store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            return Err((self.failure)());
        }
        Ok(())
    }
}

impl Index for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check().and_then(|()| self.inner.get(key))
    }
    fn first_from(&self, key: &[u8]) -> Result<Option<Pair>> {
        self.check().and_then(|()| self.inner.first_from(key))
    }
    fn last_upto(&self, key: &[u8]) -> Result<Option<Pair>> {
        self.check().and_then(|()| self.inner.last_upto(key))
    }
    fn apply(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        self.check().and_then(|()| self.inner.apply(changes))
    }
    fn sync(&self) -> Result<()> {
        self.check().and_then(|()| self.inner.sync())
    }
    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }
}

/// Opens an archive whose index fails once, at the nth call counted from the moment that the counter is set.
fn failing(dir: &Path, calls: &Arc<AtomicU64>, failure: fn() -> Error) -> Archive {
    let calls = calls.clone();
    let open = move |path: &Path| {
        let inner = raftwork::archive::index::open_sled(path)?;
        Ok(Box::new(Failing { calls: calls.clone(), failure, inner }) as Box<dyn Index>)
    };
    Archive::open_with(options(dir), Arc::new(open)).unwrap()
}

#[test]
fn full_disk_at_any_call_loses_nothing_and_goes_on() {
    for call in 1..12 {
        let dir = tempfile::tempdir().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let archive = failing(dir.path(), &calls, || Error::DiskFull("no room".to_owned()));
        archive.put(0, &jobs(1..=500, 9_000)).unwrap();
        calls.store(call, Ordering::SeqCst);
        let _ = archive.put(0, &jobs(501..=1_000, 9_000));
        calls.store(0, Ordering::SeqCst);
        archive.put(0, &jobs(archive.watermark() + 1..=1_000, 9_000)).unwrap();
        assert_eq!((all(&archive).len(), archive.watermark()), (1_000, 1_000), "call {call}");
        assert_eq!((archive.health().lost, archive.health().stopped), (None, None));
    }
}

#[test]
fn damage_found_while_running_begins_anew() {
    for call in 1..10 {
        let dir = tempfile::tempdir().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let damaged = || Error::Corrupt { path: "index".to_owned(), offset: 0, message: "flipped".to_owned() };
        let archive = failing(dir.path(), &calls, damaged);
        archive.put(0, &jobs(1..=500, 9_000)).unwrap();
        calls.store(call, Ordering::SeqCst);
        let _ = archive.put(0, &jobs(501..=1_000, 9_000));
        let hit = calls.swap(0, Ordering::SeqCst) == 0;
        assert_eq!(quarantines(dir.path()), usize::from(hit), "call {call}");
        archive.put(0, &jobs(archive.watermark() + 1..=1_000, 9_000)).unwrap();
        assert_eq!(all(&archive).len(), 1_000, "what is still in memory comes again");
        assert_eq!(archive.health().lost.is_some(), hit);
    }
}

#[test]
fn failed_sync_stops_the_archive_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let failed = || Error::Disk { operation: "sync", path: "index".to_owned(), message: "I/O error".to_owned() };
    let archive = failing(dir.path(), &calls, failed);
    archive.put(0, &jobs(1..=10, 9_000)).unwrap();
    calls.store(4, Ordering::SeqCst);
    archive.put(0, &jobs(11..=20, 9_000)).unwrap_err();
    assert_eq!(archive.watermark(), 10);
    assert!(matches!(archive.put(0, &jobs(11..=20, 9_000)), Err(Error::Poisoned(_))));
    assert!(archive.health().stopped.unwrap().contains("I/O error"));
    assert_eq!(archive.get(id(3)).unwrap(), Some(job(3, 9_000).2), "reading goes on");
}

#[test]
fn readers_and_a_writer_work_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(options(dir.path())).unwrap();
    archive.put(0, &jobs(1..=2_000, 60_000)).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for round in 0..200 {
                        let number = 2_000 - round;
                        assert_eq!(archive.get(id(number)).unwrap(), Some(job(number, 60_000).2));
                    }
                })
            })
            .collect();
        for start in (2_001..=6_000).step_by(200) {
            archive.put(0, &jobs(start..start + 200, 120_000)).unwrap();
            archive.delete(&[id(start), id(start - 2_000 + 1).min(id(1_700))]).unwrap();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    /// Any mix of verbs gives what a plain map gives.
    #[test]
    fn archive_equals_a_map(steps in proptest::collection::vec((0u8..8, 0u64..400, 1u64..200), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(options(dir.path())).unwrap();
        let mut model = std::collections::BTreeMap::new();
        let mut ordinal = 0;
        for (step, start, count) in steps {
            match step {
                0..=4 => {
                    let batch: Vec<_> = (start..start + count).map(|number| {
                        ordinal += 1;
                        let keep = [0, 60_000, 120_000, 600_000][(number % 4) as usize];
                        let (_, id, record) = job(number, keep);
                        if keep == 0 { model.remove(&id); } else { model.insert(id, (keep, record.clone())); }
                        (ordinal, id, record)
                    }).collect();
                    prop_assert_eq!(archive.put(0, &batch).unwrap(), ordinal);
                }
                5 => {
                    let ids: Vec<_> = (start..start + count).map(id).collect();
                    archive.delete(&ids).unwrap();
                    ids.iter().for_each(|id| { model.remove(id); });
                }
                6 => {
                    let now = Millis(count % 12 * 60_000);
                    while archive.expire(now, 50).unwrap().more {}
                    model.retain(|_, (keep, _)| *keep > now.0);
                }
                _ => {
                    drop(archive);
                    archive = Archive::open(options(dir.path())).unwrap();
                }
            }
            let found = all(&archive);
            prop_assert_eq!(&found, &model.keys().rev().copied().collect::<Vec<_>>());
            prop_assert_eq!(archive.health().records as usize, model.len());
        }
        for (id, (_, record)) in model {
            prop_assert_eq!(archive.get(id).unwrap(), Some(record));
        }
    }
}

#[test]
fn health_answers_while_a_writer_waits_for_the_disk() {
    static GATE: Barrier = Barrier::new(2);
    let dir = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let slow = || {
        GATE.wait();
        GATE.wait();
        Error::DiskFull("no room".to_owned())
    };
    let archive = failing(dir.path(), &calls, slow);
    archive.put(0, &jobs(1..=10, 9_000)).unwrap();
    calls.store(1, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let put = scope.spawn(|| archive.put(0, &jobs(11..=20, 9_000)));
        GATE.wait();
        let (send, receive) = channel();
        let archive = &archive;
        let asked = scope.spawn(move || send.send(archive.health().records));
        let answer = receive.recv_timeout(Duration::from_secs(10));
        GATE.wait();
        assert_eq!(answer, Ok(10), "while the writer is inside a call of the index");
        asked.join().unwrap().unwrap();
        put.join().unwrap().unwrap_err();
    });
}
