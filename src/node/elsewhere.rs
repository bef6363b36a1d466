//! History that this node lacks, fetched from the other members: it joined, was away, or lost a part of its archive.
//!
//! ```text
//! lacks some ── asks each other member, newest id first, a piece at a time ──> takes what is newer than its own
//! ```
//!
//! What holds
//! * That something is lacking is written down in the archive before anything newer is put into it, and is so until all
//!   others were asked to the end. A restart in between begins anew.
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
//! | 9    | Past    | MessagePack: [cluster, group, id or nil]: finished jobs below this id       |
//! | 74   | Records | MessagePack: [[[id, record]...], id to go on below, or nil at the end]      |

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::joining::ask;
use super::post::REFUSED;
use super::ticket::Slot;
use super::Shared;
use crate::archive::Archive;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, NodeId, Result};
use crate::machine::record::JobRecord;
use crate::net::packet::Frame;

pub(super) const PAST: u8 = 9;
const RECORDS: u8 = 74;
/// How long a member that is asked may need to catch up: less than it is waited for.
const CATCH_UP_WAIT: Duration = Duration::from_secs(2);
/// After a round in which some member did not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// A fetch on its way.
pub(super) struct Fetch {
    /// Members that are still to be asked, the last one first.
    from: Vec<NodeId>,
    before: Option<JobId>,
    failed: bool,
    taken: u64,
    /// Up to which finished job history was lacking when it began.
    upto: u64,
}

/// Whether and what this node fetches.
#[derive(Default)]
pub(super) struct Lacking {
    fetch: Option<Fetch>,
    /// When to look again.
    at: Option<Instant>,
}

impl Shared {
    /// Writes down that finished jobs left memory that this archive does not have.
    pub(super) fn note_missing(&self, archive: &Archive) -> Result<()> {
        let evicted = self.machine.read().evicted_upto();
        if self.post.is_none() || archive.watermark() >= evicted {
            return Ok(());
        }
        let reason = "this node was away or is new; the other members are asked for what finished meanwhile";
        archive.lose(reason, self.now(), evicted)
    }

    /// Fetches the next piece, if something is lacking and it is time. True: there is more.
    pub(super) fn fetch_some(self: &Arc<Self>, archive: &Archive, lacking: &mut Lacking) -> bool {
        if self.config.cluster.is_none() || lacking.at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        if lacking.fetch.is_none() {
            let lost = archive.health().lost;
            if !lost.is_some_and(|lost| self.begin_fetch(lacking, lost.upto)) {
                return false;
            }
        }
        let Some(fetch) = &mut lacking.fetch else { return false };
        let Some(member) = fetch.from.last().copied() else {
            let fetch = lacking.fetch.take().expect("it was there");
            lacking.at = Some(Instant::now() + PAUSE);
            self.end_fetch(archive, &fetch);
            return false;
        };
        match self.fetch_piece(archive, member, fetch.before) {
            Ok((taken, next)) => {
                (fetch.taken, fetch.before) = (fetch.taken + taken, next);
                if next.is_none() {
                    fetch.from.pop();
                }
            }
            Err(error) => {
                log::warn!("member {member} was asked for finished jobs: {error}");
                (fetch.failed, fetch.before) = (true, None);
                fetch.from.pop();
            }
        }
        true
    }

    /// False: there is nobody to ask yet.
    fn begin_fetch(&self, lacking: &mut Lacking, upto: u64) -> bool {
        let members = self.figures.lock().members.clone();
        let own = self.identity.node;
        let from: Vec<NodeId> = members.voters.into_iter().filter(|node| *node != own).collect();
        let some = !from.is_empty() && !self.is_joining();
        lacking.fetch = some.then_some(Fetch { from, before: None, failed: false, taken: 0, upto });
        lacking.at = (!some).then(|| Instant::now() + PAUSE);
        some
    }

    fn end_fetch(&self, archive: &Archive, fetch: &Fetch) {
        self.archiver.fetch_failed.store(fetch.failed, Ordering::Release);
        let grown = archive.health().lost.is_none_or(|lost| lost.upto != fetch.upto);
        if fetch.failed || grown {
            return; // Not all of them could say what they have, or more is lacking by now; they are asked again.
        }
        match archive.found() {
            Ok(()) => log::info!("{} finished jobs were fetched from the other members", fetch.taken),
            Err(error) => log::warn!("the archive does not take what was fetched: {error}"),
        }
    }

    fn fetch_piece(&self, archive: &Archive, member: NodeId, before: Option<JobId>) -> Result<(u64, Option<JobId>)> {
        let config = self.config.cluster.as_ref().ok_or(Error::Closed)?;
        let address = self.raft_address(member).ok_or_else(|| Error::NotFound("it has no address".into()))?;
        let mut question = Writer::new();
        question.array(3).bin(&self.identity.cluster.0).u64(self.identity.group.0).option(before, |out, id| {
            out.id(id);
        });
        let payload = match ask(config, &address, PAST, question.as_bytes())? {
            Frame { kind: RECORDS, payload, .. } => payload,
            Frame { kind: REFUSED, payload, .. } => {
                return Err(Error::NotCommitted(String::from_utf8_lossy(&payload).into_owned()));
            }
            frame => return Err(Error::Invalid(format!("a frame of kind {} in place of finished jobs", frame.kind))),
        };
        let mut reader = Reader::new(&payload);
        reader.array_of(2, "finished jobs")?;
        let mut batch = Vec::new();
        for _ in 0..reader.array()? {
            reader.array_of(2, "a finished job")?;
            let (id, record) = (reader.id()?, reader.bin()?);
            if is_newer(record, archive.get(id)?.as_deref())? {
                batch.push((id, record.to_vec()));
            }
        }
        archive.import(&batch, archive.watermark())?;
        Ok((batch.len() as u64, reader.option(|reader| reader.id())?))
    }

    /// Waits until this state has everything that was answered anywhere by now.
    fn catch_up(self: &Arc<Self>) -> Result<()> {
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
        self.catch_up()?;
        let archive = self.archive.read();
        let archive = archive.as_ref().ok_or_else(|| Error::NotCommitted("the archive is not open".into()))?;
        self.archiver.take_out_deleted(archive)?;
        let part = archive.part(before, limits::BACKUP_BLOCK_BYTES)?;
        let mut answer = Writer::with_capacity(part.items.len() + 32);
        answer.array(2).array(part.count).raw(&part.items).option(part.next, |out, id| {
            out.id(id);
        });
        Ok(answer.into_bytes())
    }
}

/// Whether a record says more of its job than the one that is here: a job may have run again since.
fn is_newer(record: &[u8], here: Option<&[u8]>) -> Result<bool> {
    let age = |record| JobRecord::decode(record).map(|record| (record.generation, record.finished_ms));
    Ok(match here {
        None => age(record).is_ok(),
        Some(here) => age(record)? > age(here)?,
    })
}
