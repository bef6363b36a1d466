//! History that this node lacks, fetched from the other members: it joined, was away, or lost a part of its archive.
//!
//! ```text
//! lacks some ── asks each other member, newest id first, a piece at a time ──> takes what is newer than its own
//!            ── and says what it has, by counts and sums of ranges of ids ──>  gives what is in those that differ
//! ```
//!
//! What a fetch moves follows what is lacking, not how long history is: see `archive/unlike.rs`. What is lacking cannot be named
//! better. Ids grow with the time when jobs are enqueued, not when they finish, and a damaged chunk leaves a hole anywhere.
//!
//! What holds
//! * That something is lacking is written down in the archive before anything newer is put into it, and is so until all
//!   others were asked to the end. Whoever does not answer is asked again for the piece that it did not give, and whoever
//!   was asked to the end is not, unless more is lacking since. A restart in between begins anew.
//! * A job that was deleted does not come back. Whoever is asked first sees to it that its own state has everything that
//!   was answered anywhere, and that nothing that was deleted is left in its archive; what is deleted after that, this
//!   node takes out of the piece that it fetched, as it takes it out of the archive when it applies the deletion.
//! * Pieces take turns with archiving, on the archive's thread: no job leaves memory before its record is here because of
//!   a fetch.
//!
//! Frames, the first and the only one of its connection, and its answer:
//!
//! | kind | name    | payload                                                                     |
//! |------|---------|-----------------------------------------------------------------------------|
//! | 9    | Past    | MessagePack: [cluster, group, id or nil]: finished jobs below this id; then |
//! |      |         | [moment, [[lowest id, records, sum]...]]: what is there of those that are   |
//! |      |         | kept beyond this moment. An older member does not say or read this          |
//! | 74   | Records | MessagePack: [[[id, record]...], id to go on below, or nil at the end]      |

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::joining::ask;
use super::post::REFUSED;
use super::ticket::Slot;
use super::Shared;
use crate::archive::{Archive, Lost, Range, RANGES_MAX};
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, ClusterId, Error, GroupId, JobId, Millis, NodeId, Result};
use crate::machine::record::{self, JobRecord};
use crate::net::packet::Frame;

pub(super) const PAST: u8 = 9;
const RECORDS: u8 = 74;
/// How long a member that is asked may need to catch up: less than it is waited for.
const CATCH_UP_WAIT: Duration = Duration::from_secs(2);
/// After a round in which some member did not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// A fetch on its way: who was asked how far.
#[derive(Debug, Default)]
struct Fetch {
    /// Members that are not through. The first is asked next.
    left: VecDeque<Source>,
    /// Members that were asked to the end, and what was lacking when each was first asked.
    through: BTreeMap<NodeId, Lost>,
    /// Errors since a piece came.
    failed: usize,
    taken: u64,
}

#[derive(Debug)]
struct Source {
    member: NodeId,
    /// It is asked for what is below this id. What it gave before is here, so that an error costs one piece.
    before: Option<JobId>,
    /// What was lacking when it was first asked.
    lost: Lost,
    /// Why it did not answer the last time: said once.
    failure: Option<Error>,
}

impl Fetch {
    /// Those who are not members any more need not be asked; the others must, unless they were since this is lacking.
    fn follow(&mut self, others: &[NodeId], lost: &Lost) {
        self.left.retain(|source| others.contains(&source.member));
        for member in others {
            let asked = self.through.get(member) == Some(lost);
            if !asked && self.left.iter().all(|source| source.member != *member) {
                self.left.push_back(Source { member: *member, before: None, lost: lost.clone(), failure: None });
            }
        }
    }

    /// All were asked to the end, and more is lacking by now.
    fn begins_again(&self) -> bool {
        !self.through.is_empty() && !self.left.is_empty()
    }

    /// The first of those who are left gave a piece. `next`: there is more below this id.
    fn took(&mut self, records: u64, next: Option<JobId>) {
        (self.failed, self.taken) = (0, self.taken + records);
        let Some(source) = self.left.front_mut() else { return };
        (source.before, source.failure) = (next, None);
        if next.is_none() {
            self.through.insert(source.member, source.lost.clone());
            self.left.pop_front();
        }
    }

    /// The first of those who are left gave none, and keeps its place. True: nobody else would now either.
    fn missed(&mut self, error: Error) -> bool {
        let Some(source) = self.left.front_mut() else { return true };
        if source.failure.as_ref() != Some(&error) {
            log::warn!("member {} was asked for finished jobs, and will be again: {error}", source.member);
        }
        source.failure = Some(error);
        self.left.rotate_left(1);
        self.failed += 1;
        let all = self.failed >= self.left.len();
        if all {
            self.failed = 0;
        }
        all
    }
}

/// Whether and what this node fetches.
#[derive(Default)]
pub(super) struct Lacking {
    fetch: Fetch,
    /// When to look again.
    at: Option<Instant>,
}

impl Shared {
    /// Writes down that finished jobs left memory that this archive, which ends at `after`, does not have. Gives what it goes on
    /// behind.
    pub(super) fn note_missing(&self, archive: &Archive, after: u64, evicted: u64) -> Result<u64> {
        if self.post.is_none() || after >= evicted {
            return Ok(after);
        }
        let reason = "this node was away or is new; the other members are asked for what finished meanwhile";
        archive.lose(reason, self.now(), evicted).map(|()| evicted)
    }

    /// Whether each finished job that had left memory before this call is in the archive: one that is not there later was
    /// deleted, its time was over, or nobody ever will have it.
    pub(super) fn has_history(&self, archive: &Archive) -> bool {
        let evicted = self.machine.read().evicted_upto();
        // In this order: that something is lost is shown before the watermark that skips it.
        if archive.watermark() >= evicted && archive.is_whole() {
            return true;
        }
        // What is lost there is nobody to ask for.
        let alone = self.post.is_none() || self.figures.lock().members.voters == [self.identity.node];
        alone && archive.is_open()
    }

    /// Fetches the next piece, if something is lacking and it is time. True: there is more.
    pub(super) fn fetch_some(self: &Arc<Self>, archive: &Archive, lacking: &mut Lacking) -> bool {
        if self.config.cluster.is_none() || lacking.at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let paused = lacking.at.take().is_some();
        let pauses = || Some(Instant::now() + PAUSE);
        let Some(lost) = archive.health().lost else { return false };
        let own = self.identity.node;
        let voters = self.figures.lock().members.voters.clone();
        let others: Vec<NodeId> = voters.into_iter().filter(|node| *node != own).collect();
        if others.is_empty() || self.is_joining() {
            lacking.at = pauses();
            return false; // There is nobody to ask yet.
        }
        let fetch = &mut lacking.fetch;
        if paused || fetch.left.is_empty() {
            fetch.follow(&others, &lost);
            if !paused && fetch.begins_again() {
                lacking.at = pauses();
                return false;
            }
        }
        let Some((member, before)) = fetch.left.front().map(|source| (source.member, source.before)) else {
            lacking.at = pauses();
            self.end_fetch(archive, fetch, &lost);
            return false;
        };
        match self.fetch_piece(archive, member, before) {
            Ok((taken, next)) => fetch.took(taken, next),
            Err(error) => {
                if fetch.missed(error) {
                    self.archiver.fetch_failed.store(true, Ordering::Release);
                    lacking.at = pauses();
                    return false;
                }
            }
        }
        true
    }

    fn end_fetch(&self, archive: &Archive, fetch: &mut Fetch, lost: &Lost) {
        self.archiver.fetch_failed.store(false, Ordering::Release);
        match archive.found(lost) {
            Ok(()) => {
                log::info!("{} finished jobs were fetched from the other members", fetch.taken);
                *fetch = Fetch::default();
            }
            Err(error) => log::warn!("the archive does not take what was fetched: {error}"),
        }
    }

    /// Answers those who wait for a job that left memory while this node was away: when its record is here, or nothing is
    /// lacking any more.
    pub(super) fn settle_waits(&self, archive: &Archive) -> Result<()> {
        let sought = self.wakeups.sought();
        if sought.is_empty() {
            return Ok(());
        }
        let whole = self.has_history(archive);
        for id in sought {
            let found = self.archived(archive, id)?.is_some();
            if found || whole {
                self.wakeups.settle(id, found);
            }
        }
        Ok(())
    }

    fn fetch_piece(&self, archive: &Archive, member: NodeId, before: Option<JobId>) -> Result<(u64, Option<JobId>)> {
        let config = self.config.cluster.as_ref().ok_or(Error::Closed)?;
        let address = self.raft_address(member).ok_or_else(|| Error::NotFound("it has no address".into()))?;
        // The log's time: a wall clock that jumps must not make history seem over.
        let now = self.machine.read().clock();
        let here = archive.ranges(before, &stamp(now))?;
        let question = write_question(self.identity.cluster, self.identity.group, before, now, &here);
        let payload = match ask(config, &address, PAST, &question)? {
            Frame { kind: RECORDS, payload, .. } => payload,
            Frame { kind: REFUSED, payload, .. } => {
                return Err(Error::NotCommitted(String::from_utf8_lossy(&payload).into_owned()));
            }
            frame => return Err(Error::Invalid(format!("a frame of kind {} in place of finished jobs", frame.kind))),
        };
        let mut reader = Reader::new(&payload);
        reader.array_of(2, "finished jobs")?;
        let mut batch = BTreeMap::new();
        for _ in 0..reader.array()? {
            reader.array_of(2, "a finished job")?;
            let (id, record) = (reader.id()?, reader.bin()?);
            if JobRecord::decode(record).is_ok() {
                batch.insert(id, record);
            }
        }
        let ids: Vec<JobId> = batch.keys().copied().collect();
        archive.each(&ids, &mut |id, here| {
            if batch.get(&id).is_some_and(|record| !is_newer(record, here)) {
                batch.remove(&id);
            }
        })?;
        let batch: Vec<_> = batch.into_iter().map(|(id, record)| (id, record.to_vec())).collect();
        archive.import(&batch, archive.watermark())?;
        let next = reader.option(|reader| reader.id())?;
        if next.is_some_and(|next| before.is_some_and(|before| next >= before)) {
            return Err(Error::Invalid("finished jobs that go on where they began".into()));
        }
        Ok((batch.len() as u64, next))
    }

    /// Waits until this state has everything that was answered anywhere by now.
    pub(super) fn catch_up(self: &Arc<Self>) -> Result<()> {
        let slot = Slot::new();
        let filled = slot.clone();
        self.fresh(Box::new(move |fresh| filled.fill(fresh.map(|_| Vec::new()))));
        let late = || Error::TimedOut("this member does not know what was answered by others".into());
        slot.wait(Some(Instant::now() + CATCH_UP_WAIT), &mut || Ok(()))?.ok_or_else(late)?.map(drop)
    }

    /// Gives another member a piece of this node's history.
    pub(super) fn answer_past(self: &Arc<Self>, frame: &Frame) -> (u8, Vec<u8>) {
        match self.past(&frame.payload) {
            Ok(records) => (RECORDS, records),
            Err(error) => (REFUSED, error.to_string().into_bytes()),
        }
    }

    fn past(self: &Arc<Self>, question: &[u8]) -> Result<Vec<u8>> {
        let mut reader = Reader::new(question);
        reader.array_of(3, "a question for finished jobs")?;
        if (reader.bin()?, reader.u64()?) != (&self.identity.cluster.0[..], self.identity.group.0) {
            return Err(Error::Foreign("another cluster's finished jobs are asked for".into()));
        }
        let before = reader.option(|reader| reader.id())?;
        let (now, there) = read_ranges(&mut reader)?;
        self.catch_up()?;
        let archive = self.archive.read();
        let archive = archive.as_ref().ok_or_else(|| Error::NotCommitted("the archive is not open".into()))?;
        self.archiver.take_out_deleted(archive)?;
        let part = archive.unlike(before, &there, limits::BACKUP_BLOCK_BYTES, &stamp(now))?;
        let mut answer = Writer::with_capacity(part.items.len() + 32);
        answer.array(2).array(part.count).raw(&part.items).option(part.next, |out, id| {
            out.id(id);
        });
        Ok(answer.into_bytes())
    }
}

fn write_question(cluster: ClusterId, group: GroupId, before: Option<JobId>, now: Millis, here: &[Range]) -> Vec<u8> {
    let mut question = Writer::with_capacity(limits::FIRST_FRAME_BYTES_MAX);
    question.array(3).bin(&cluster.0).u64(group.0).option(before, |out, id| _ = out.id(id));
    question.array(2).u64(now.0).array(here.len());
    for range in here {
        question.array(3).id(range.low).u64(range.records).u64(range.sum.into());
    }
    question.into_bytes()
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<(Millis, Vec<Range>)> {
    if reader.is_empty() {
        return Ok((Millis(0), Vec::new()));
    }
    reader.array_of(2, "what is there of finished jobs")?;
    let now = Millis(reader.u64()?);
    let range = |reader: &mut Reader<'_>| {
        reader.array_of(3, "a range of finished jobs")?;
        Ok(Range { low: reader.id()?, records: reader.u64()?, sum: reader.u64()? as u32 })
    };
    let count = reader.array_upto(RANGES_MAX)?;
    Ok((now, (0..count).map(|_| range(reader)).collect::<Result<_>>()?))
}

/// What is compared of a record: its age. One that is over by now counts nowhere, as each member removes it when it gets to.
fn stamp(now: Millis) -> impl Fn(&[u8]) -> Option<[u64; 2]> {
    move |bytes| {
        let is_over = record::keep_until_ms(bytes).is_ok_and(|until| until <= now.0);
        // One that this version cannot read may be of use to another.
        let age = record::age(bytes).map_or([u64::MAX; 2], |(generation, end)| [generation, end.unwrap_or(0)]);
        (!is_over).then_some(age)
    }
}

/// Whether a record says more of its job than the one that is here: a job may have run again since.
fn is_newer(record: &[u8], here: &[u8]) -> bool {
    match (record::age(record), record::age(here)) {
        (Ok(age), Ok(here)) => age > here,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    /// A node whose archive has so many jobs, of which each tenth is over after an hour.
    fn with_history(dir: &std::path::Path, jobs: u8) -> Arc<crate::node::Node> {
        let node = crate::node::group_of_one::open(dir);
        let now = node.shared.machine.read().clock().0;
        let batch: Vec<_> = (0..jobs)
            .map(|number| {
                let id = JobId([number; 16]);
                let keep_until_ms = now + if number % 10 == 0 { HOUR } else { 9 * HOUR };
                (id, JobRecord { id, keep_until_ms, finished_ms: Some(7), ..JobRecord::default() }.encode())
            })
            .collect();
        node.shared.archive.read().as_ref().expect("it is open").import(&batch, 0).expect("it is written");
        node
    }

    fn given(node: &crate::node::Node, question: &[u8]) -> usize {
        let answer = node.shared.past(question).expect("it is answered");
        let mut reader = Reader::new(&answer);
        reader.array_of(2, "an answer").and_then(|()| reader.array()).expect("finished jobs")
    }

    #[test]
    fn a_member_is_given_what_it_does_not_say_that_it_has_and_an_older_one_everything() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = with_history(dir.path(), 100);
        let (cluster, group) = (node.shared.identity.cluster, node.shared.identity.group);
        let ranges = |now| {
            let archive = node.shared.archive.read();
            archive.as_ref().expect("it is open").ranges(None, &stamp(now)).expect("it is read")
        };
        let ask = |now, there: &[Range]| given(&node, &write_question(cluster, group, None, now, there));
        let (now, later) = (Millis(0), Millis(node.shared.machine.read().clock().0 + 2 * HOUR));
        assert_eq!((ask(now, &ranges(now)), ask(later, &ranges(later))), (0, 0));
        assert_eq!((ask(now, &[Range::default()]), ask(later, &[Range::default()])), (100, 90));
        let mut older = Writer::new();
        older.array(3).bin(&cluster.0).u64(group.0).nil();
        assert_eq!(given(&node, older.as_bytes()), 100);
        let question = write_question(cluster, group, None, now, &ranges(now));
        assert!(question.starts_with(older.as_bytes()), "an older member reads what it knows, and gives everything");
        node.close().expect("it closes");
    }

    #[test]
    fn the_longest_question_is_a_first_frame() {
        let range = Range { low: JobId([255; 16]), records: u64::from(u32::MAX), sum: u32::MAX };
        let (cluster, group, before) = (ClusterId([255; 16]), GroupId(u64::MAX), Some(range.low));
        let question = write_question(cluster, group, before, Millis::MAX, &[range; RANGES_MAX]);
        let frame = crate::net::packet::encode(PAST, 0, &question).expect("it is a frame");
        assert!(frame.len() <= limits::FIRST_FRAME_BYTES_MAX, "{} bytes", frame.len());
    }

    const A: NodeId = NodeId(1);
    const C: NodeId = NodeId(3);

    fn lost(upto: u64) -> Lost {
        Lost { reason: "it was away".into(), at: Millis(upto), upto }
    }

    fn id(number: u8) -> Option<JobId> {
        Some(JobId([number; 16]))
    }

    fn down() -> Error {
        Error::TimedOut("nobody answers".into())
    }

    fn next(fetch: &Fetch) -> Option<(NodeId, Option<JobId>)> {
        fetch.left.front().map(|source| (source.member, source.before))
    }

    #[test]
    fn an_error_costs_one_piece_and_the_others_are_asked_meanwhile() {
        let mut fetch = Fetch::default();
        fetch.follow(&[A, C], &lost(9));
        fetch.took(100, id(7));
        fetch.took(100, id(5));
        assert!(!fetch.missed(down()), "the other one may answer");
        assert_eq!(next(&fetch), Some((C, None)));
        fetch.took(50, None);
        assert_eq!(next(&fetch), Some((A, id(5))), "it goes on where it was");
        assert!(fetch.missed(down()) && fetch.missed(down()), "nobody else is left");
        fetch.took(100, None);
        assert_eq!((next(&fetch), fetch.taken), (None, 350));
    }

    #[test]
    fn who_was_asked_to_the_end_is_not_asked_again_for_one_that_is_down() {
        let mut fetch = Fetch::default();
        fetch.follow(&[A, C], &lost(9));
        fetch.took(100, None);
        for _ in 0..10 {
            assert!(fetch.missed(down()));
            fetch.follow(&[A, C], &lost(9));
            assert_eq!((next(&fetch), fetch.left.len()), (Some((C, None)), 1));
        }
        fetch.follow(&[A], &lost(9));
        assert_eq!(next(&fetch), None, "the dead one was removed");
    }

    #[test]
    fn more_that_is_lacking_is_asked_of_everybody_and_ends_nothing_that_is_on_its_way() {
        let mut fetch = Fetch::default();
        fetch.follow(&[A, C], &lost(9));
        fetch.took(100, None);
        fetch.took(100, id(5));
        assert!(fetch.missed(down()));
        fetch.follow(&[A, C], &lost(12));
        assert_eq!(next(&fetch), Some((C, id(5))));
        fetch.took(100, None);
        fetch.took(100, None);
        assert_eq!(next(&fetch), None);
        fetch.follow(&[A, C], &lost(12));
        assert_eq!(next(&fetch), Some((C, None)), "what it had been asked for was less");
        assert!(fetch.begins_again());
    }
}
