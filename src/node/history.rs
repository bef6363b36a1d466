//! Jobs that left memory and are asked for again: their records go back into the log, ahead of the request.
//!
//! `Requeue`, `Delete` and the parents in `Enqueue` speak of jobs in memory; with a job that is requeued come those that were
//! cancelled because of it, or because of its batch, which begins again. With a parent come the former, too: when it goes
//! again, its new record names those that are there. A record that the archive holds is first put back by `Restore`, which
//! waits in the inbox before the request and so is applied before it. Nothing is taken from the archive but by `Delete`:
//! a newer record of the same job replaces the older one when it is archived again.

use std::collections::{BTreeSet, VecDeque};

use super::ticket::Ticket;
use super::{own_request, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{JobId, Result};
use crate::machine::{self, record};
use crate::replica::entry;

const ENQUEUE: u64 = 4;
const REQUEUE: u64 = 9;
const DELETE: u64 = 10;
const RESTORE: u64 = 15;
/// Bytes of records in one `Restore`: well below what one command may have.
const RESTORE_BYTES: usize = 1 << 20;
/// Jobs that come back with others, about: the caller waits for it.
const FLOW_JOBS_MAX: usize = 10_000;

impl Shared {
    /// Puts archived jobs that this request speaks of back into memory. A request of another kind costs a look at its head.
    /// One that needs only the first `level` has no parents.
    pub(super) fn bring_back(&self, request: &[u8], level: u64) -> Result<()> {
        let Some((operation, ids)) = jobs_of(request, level)? else { return Ok(()) };
        let archive = self.archive.read();
        let Some(archive) = &*archive else { return Ok(()) };
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut known: BTreeSet<JobId> = ids.iter().copied().collect();
        let gone: BTreeSet<JobId> = self.gone(&ids).into_iter().collect();
        let here: BTreeSet<JobId> = known.difference(&gone).copied().collect();
        let mut left: VecDeque<JobId> = gone.into_iter().collect();
        if operation == REQUEUE {
            // Children leave memory behind their parent, but one that came back with it may go again before it.
            left.extend(&here);
            let batches: Vec<_> = here.iter().filter_map(|id| self.machine.read().batch_of(*id)).collect();
            let others = batches.into_iter().flat_map(|batch| self.machine.read().away(batch));
            left.extend(others.filter(|id| known.insert(*id)));
        }
        while let Some(id) = left.pop_front() {
            let Some(record) = archive.get(id)? else { continue };
            if operation != DELETE && known.len() < FLOW_JOBS_MAX {
                let (children, batch) = record::relatives(&record)?;
                let begins_again = batch.filter(|_| operation == REQUEUE);
                let others = begins_again.map_or_else(Vec::new, |batch| self.machine.read().away(batch));
                let relatives = self.gone(&[children, others].concat());
                left.extend(relatives.into_iter().filter(|id| known.insert(*id)));
            }
            if here.contains(&id) {
                continue;
            }
            bytes += record.len();
            records.push(record);
            if bytes >= RESTORE_BYTES {
                self.restore(&std::mem::take(&mut records))?;
                bytes = 0;
            }
        }
        if !records.is_empty() {
            self.restore(&records)?;
        }
        if operation == DELETE {
            archive.delete(&ids)?;
        }
        Ok(())
    }

    /// Those that memory does not know.
    fn gone(&self, ids: &[JobId]) -> Vec<JobId> {
        let machine = self.machine.read();
        ids.iter().copied().filter(|id| machine.job(*id).is_none()).collect()
    }

    /// Only has to be in line before the request: its own answer interests nobody.
    fn restore(&self, records: &[Vec<u8>]) -> Result<()> {
        let mut command = Writer::with_capacity(RESTORE_BYTES);
        command.array(2).u64(RESTORE).array(records.len());
        for record in records {
            command.bin(record);
        }
        let waiting = self.inbox.queue(entry::frame(&own_request(&command)), Ticket::call(Box::new(|_| ())));
        self.inbox.call(false);
        waiting.map_err(|(_, error)| error)
    }
}

/// The operation and its jobs, if it is one that may speak of archived jobs.
fn jobs_of(request: &[u8], level: u64) -> Result<Option<(u64, Vec<JobId>)>> {
    let mut reader = Reader::new(request);
    reader.array()?;
    for _ in 0..3 {
        reader.u64()?;
    }
    reader.array()?;
    let operation = reader.u64()?;
    if operation == ENQUEUE && level > 1 {
        return Ok(Some((operation, machine::parents(request)?)));
    }
    if operation != REQUEUE && operation != DELETE {
        return Ok(None);
    }
    let count = reader.array()?;
    let ids = (0..count).map(|_| reader.id()).collect::<Result<_>>()?;
    Ok(Some((operation, ids)))
}
