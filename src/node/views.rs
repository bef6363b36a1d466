//! Read-only questions, answered from the applied state and, for jobs that left it, from the archive. What takes long is
//! asked of a capture, so that no writer waits for a page of a dashboard.

use super::archiver::Archiver;
use super::Shared;
use crate::archive::{Archive, Scan, Step};
use crate::base::codec::Reader;
use crate::base::{JobId, LogIndex, Result};
use crate::machine::search::{ArchiveEnd, Archived};
use crate::machine::{record, view};

const JOB: u64 = 3;
const NIL: &[u8] = &[0xc0];

/// The archive as a search sees it.
struct Searched<'a>(&'a Archive, &'a Archiver);

impl Archived for Searched<'_> {
    fn scan(
        &mut self,
        before: Option<JobId>,
        wanted: &[Vec<u64>],
        records_max: usize,
        visit: &mut dyn FnMut(JobId, &[u8]) -> bool,
    ) -> Result<ArchiveEnd> {
        let scan = Scan { before, wanted: wanted.to_vec(), records_max };
        let done = self.0.scan(&scan, &mut |id, record| {
            let goes_on = self.1.is_deleted(id) || visit(id, record);
            if goes_on {
                Step::Next
            } else {
                Step::Stop
            }
        })?;
        Ok(ArchiveEnd { scanned: done.records, next: done.next })
    }
}

impl Shared {
    /// The index of the state, and the answer.
    pub(super) fn ask(&self, question: &[u8]) -> Result<(LogIndex, Vec<u8>)> {
        let (index, answer) = {
            let machine = self.machine.read();
            (machine.applied(), machine.ask(question)?)
        };
        let payload = match answer {
            view::Answer::Now(payload) if payload == NIL => self.archived_detail(question)?.unwrap_or(payload),
            view::Answer::Now(payload) => payload,
            view::Answer::Later(later) => {
                let archive = self.archive.read();
                let mut archived = archive.as_ref().map(|archive| Searched(archive, &self.archiver));
                later.answer(archived.as_mut().map(|archived| archived as &mut dyn Archived))?
            }
        };
        Ok((index, payload))
    }

    /// Whether history knows how this job ended, which has left memory or never was there. `None`: it is not whole.
    pub(super) fn has_ended(&self, id: JobId) -> Result<Option<bool>> {
        let archive = self.archive.read();
        let Some(archive) = &*archive else { return Ok(Some(false)) };
        let certain = self.has_history(archive) || self.archiver.is_deleted(id);
        let found = self.archived(archive, id)?.is_some();
        Ok((found || certain).then_some(found))
    }

    /// The record of a job. Nothing as soon as its deletion was answered, though the archive gives it away a little later.
    pub(super) fn archived(&self, archive: &Archive, id: JobId) -> Result<Option<Vec<u8>>> {
        if self.archiver.is_deleted(id) {
            return Ok(None);
        }
        archive.get(id)
    }

    /// The detail of a job that memory does not know; nothing for other questions.
    fn archived_detail(&self, question: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut reader = Reader::new(question);
        reader.array()?;
        if reader.u64()? != JOB {
            return Ok(None);
        }
        let archive = self.archive.read();
        let Some(archive) = &*archive else { return Ok(None) };
        self.archived(archive, reader.id()?)?.map(|record| record::detail(&record)).transpose()
    }
}
