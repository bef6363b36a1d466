//! Jobs that left memory and are asked for again: their records go back into the log, ahead of the request.
//!
//! `Requeue` and `Delete` speak of jobs in memory. A record that the archive holds is first put back by `Restore`, which
//! waits in the inbox before the request and so is applied before it. Nothing is taken from the archive but by `Delete`:
//! a newer record of the same job replaces the older one when it is archived again.

use super::inbox::Ticket;
use super::{own_request, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{JobId, Result};
use crate::replica::entry;

const REQUEUE: u64 = 9;
const DELETE: u64 = 10;
const RESTORE: u64 = 15;
/// Bytes of records in one `Restore`: well below what one command may have.
const RESTORE_BYTES: usize = 1 << 20;

impl Shared {
    /// Puts archived jobs that this request speaks of back into memory. A request of another kind costs a look at its head.
    pub(super) fn bring_back(&self, request: &[u8]) -> Result<()> {
        let Some((operation, ids)) = jobs_of(request)? else { return Ok(()) };
        let archive = self.archive.read();
        let Some(archive) = &*archive else { return Ok(()) };
        let mut records = Vec::new();
        let mut bytes = 0;
        for id in self.gone(&ids) {
            let Some(record) = archive.get(id)? else { continue };
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
        let waiting = self.inbox.start(entry::frame(&own_request(&command)), Ticket::call(Box::new(|_| ())));
        waiting.map_err(|(_, error)| error)
    }
}

/// The operation and its jobs, if it is one that may speak of archived jobs.
fn jobs_of(request: &[u8]) -> Result<Option<(u64, Vec<JobId>)>> {
    let mut reader = Reader::new(request);
    reader.array()?;
    for _ in 0..3 {
        reader.u64()?;
    }
    reader.array()?;
    let operation = reader.u64()?;
    if operation != REQUEUE && operation != DELETE {
        return Ok(None);
    }
    let count = reader.array()?;
    let ids = (0..count).map(|_| reader.id()).collect::<Result<_>>()?;
    Ok(Some((operation, ids)))
}
