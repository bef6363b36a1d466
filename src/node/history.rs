//! Jobs that left memory and are asked for again: their records go back into the log, ahead of the request.
//!
//! `Requeue`, `Delete` and the parents in `Enqueue` speak of jobs in memory, and so does who waits for a job whose unique key
//! an archived one holds for a time; with a job that is requeued come those that were
//! cancelled because of it, or because of its batch, which begins again. With a parent come the former, too: when it goes
//! again, its new record names those that are there. Ahead of whoever comes back come the parents that had not ended when its
//! record was written. A record that the archive holds is first put back by `Restore`, which
//! waits in the inbox before the request and so is applied before it. Nothing is taken from the archive but by a `Delete` that
//! was applied: a newer record of the same job replaces the older one when it is archived again.

use std::collections::{BTreeSet, VecDeque};

use super::ticket::Ticket;
use super::{own_request, Shared};
use crate::archive::Archive;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, Result};
use crate::machine::{self, outcome, record};
use crate::replica::entry;

const ENQUEUE: u64 = 4;
const REQUEUE: u64 = 9;
const DELETE: u64 = 10;
const RESTORE: u64 = 15;
/// Bytes of records in one `Restore`: well below what one command may have.
const RESTORE_BYTES: usize = 1 << 20;

impl Shared {
    /// Puts archived jobs that this request speaks of back into memory. A request of another kind costs a look at its head.
    /// One that needs only the first `level` has no parents.
    pub(super) fn bring_back(&self, request: &[u8], level: u64) -> Result<()> {
        let Some((operation, ids)) = self.jobs_of(request, level)? else { return Ok(()) };
        let archive = self.archive.read();
        let Some(archive) = &*archive else { return Ok(()) };
        self.bring_all(archive, operation, &ids)
    }

    /// Puts the records of these jobs in line, and of those that come with them.
    fn bring_all(&self, archive: &Archive, operation: u64, ids: &[JobId]) -> Result<()> {
        let mut comeback = Comeback::new(self, operation, ids);
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(id) = comeback.left.pop_front() {
            let whole = self.has_history(archive);
            let Some(record) = self.archived(archive, id)? else {
                if whole || self.archiver.is_deleted(id) || self.gone(&[id]).is_empty() {
                    continue;
                }
                return Err(lacks(id));
            };
            if !comeback.is_next(id, &record)? {
                continue;
            }
            bytes += record.len();
            records.push(record);
            if bytes >= RESTORE_BYTES || records.len() == limits::BATCH_JOBS_MAX {
                self.restore(&std::mem::take(&mut records))?;
                bytes = 0;
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.restore(&records)
    }

    /// The operation and its jobs, if it is one that may speak of archived jobs.
    fn jobs_of(&self, request: &[u8], level: u64) -> Result<Option<(u64, Vec<JobId>)>> {
        let mut reader = Reader::new(request);
        reader.array()?;
        for _ in 0..3 {
            reader.u64()?;
        }
        reader.array()?;
        let operation = reader.u64()?;
        if operation == ENQUEUE && level > 1 {
            let (mut awaited, keys) = machine::awaited(request)?;
            if !keys.is_empty() {
                awaited.extend(self.machine.read().holders(&keys));
            }
            return Ok(Some((operation, awaited.into_iter().collect())));
        }
        if operation != REQUEUE && operation != DELETE {
            return Ok(None);
        }
        let count = reader.array()?;
        let ids = (0..count).map(|_| reader.id()).collect::<Result<_>>()?;
        Ok(Some((operation, ids)))
    }

    /// As `bring_back`, for a request that is asked again: the change of leader that undid it may have undone that too.
    pub(super) fn bring_back_again(&self, request: &[u8]) -> Result<()> {
        self.bring_back(request, machine::check(request)?)
    }

    /// Those that memory does not know.
    pub(super) fn gone(&self, ids: &[JobId]) -> Vec<JobId> {
        let machine = self.machine.read();
        ids.iter().copied().filter(|id| machine.job(*id).is_none()).collect()
    }

    /// Only has to be in line before the request, which says what it found: nobody waits for its own answer.
    fn restore(&self, records: &[Vec<u8>]) -> Result<()> {
        let mut command = Writer::with_capacity(RESTORE_BYTES);
        command.array(2).u64(RESTORE).array(records.len());
        for record in records {
            command.bin(record);
        }
        let waiting = self.inbox.queue(entry::frame(&own_request(&command)), Ticket::call(Box::new(note)));
        self.inbox.call(false);
        waiting.map_err(|(_, error)| error)
    }
}

/// Nobody may go on as if there had never been such a job: the others may have it.
fn lacks(id: JobId) -> Error {
    Error::NotCommitted(format!(
        "this node lacks a part of the finished jobs, perhaps job {id}, and fetches them from the other members; ask again. If it \
         stays so, `raftwork cluster status` shows which member does not answer"
    ))
}

/// Jobs that do not come back are unknown to the request behind, and somebody has to hear why.
fn note(answer: Result<Vec<u8>>) {
    let why = match answer.as_deref() {
        Ok(answer) => outcome::refusal(answer).map(|(code, message)| format!("{code}: {message}")),
        Err(error) => Some(error.to_string()),
    };
    why.into_iter().for_each(|why| log::warn!("jobs did not come back from the archive: {why}"));
}

/// The order in which jobs come back: a parent before whoever waits for it, so that a job that comes back hears how its
/// parents ended. What a parent was while it was away, nobody else tells.
struct Comeback<'a> {
    shared: &'a Shared,
    operation: u64,
    asked: BTreeSet<JobId>,
    /// Those of the request that are in memory.
    here: BTreeSet<JobId>,
    left: VecDeque<JobId>,
    known: BTreeSet<JobId>,
    /// Those whose relatives were looked for, and those that are in line.
    begun: BTreeSet<JobId>,
    placed: BTreeSet<JobId>,
}

impl<'a> Comeback<'a> {
    fn new(shared: &'a Shared, operation: u64, ids: &[JobId]) -> Self {
        let asked: BTreeSet<JobId> = ids.iter().copied().collect();
        let gone: BTreeSet<JobId> = shared.gone(ids).into_iter().collect();
        let here: BTreeSet<JobId> = asked.difference(&gone).copied().collect();
        let (known, left) = (asked.clone(), gone.into_iter().collect());
        let (begun, placed) = (BTreeSet::new(), BTreeSet::new());
        let mut comeback = Self { shared, operation, asked, here, left, known, begun, placed };
        if operation == REQUEUE {
            // Children leave memory behind their parent, but one that came back with it may go again before it.
            comeback.left.extend(&comeback.here);
            let machine = shared.machine.read();
            let batches = comeback.here.iter().filter_map(|id| machine.batch_of(*id));
            let others: Vec<JobId> = batches.flat_map(|batch| machine.away(batch)).collect();
            drop(machine);
            comeback.follow(others);
        }
        comeback
    }

    /// Lets others come behind those that are left.
    fn follow(&mut self, others: Vec<JobId>) {
        let known = &mut self.known;
        self.left.extend(others.into_iter().filter(|id| known.insert(*id)));
    }

    /// Whether this record is the next in line. If not it has its place, comes behind its parents, or stays away.
    fn is_next(&mut self, id: JobId, record: &[u8]) -> Result<bool> {
        if self.operation != DELETE && self.begun.insert(id) {
            let relatives = record::relatives(record)?;
            if self.known.len() < limits::FLOW_JOBS_MAX {
                let begins_again = relatives.batch.filter(|_| self.operation == REQUEUE);
                let others = begins_again.map_or_else(Vec::new, |batch| self.shared.machine.read().away(batch));
                self.follow(self.shared.gone(&[relatives.children, others].concat()));
            }
            let mut parents = self.shared.gone(&relatives.open_parents);
            parents.retain(|parent| !self.begun.contains(parent) && !self.here.contains(&id));
            if !parents.is_empty() && self.known.len() + parents.len() <= 2 * limits::FLOW_JOBS_MAX {
                self.known.extend(&parents);
                self.left.push_front(id);
                parents.into_iter().for_each(|parent| self.left.push_front(parent));
                return Ok(false);
            }
            if !parents.is_empty() && !self.asked.contains(&id) {
                return Ok(false); // It stays as it is, rather than taking its parents for gone.
            }
        }
        Ok(!self.here.contains(&id) && self.placed.insert(id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::machine::job::State;
    use crate::machine::Loader;
    use crate::node::group_of_one::{self, cancel, command, enqueue_all};
    use crate::node::Node;

    const PATIENCE: Duration = Duration::from_secs(30);
    const ID: JobId = JobId([7; 16]);

    fn enqueue(id: JobId) -> Vec<u8> {
        enqueue_all(&[(id, None, None)])
    }

    /// A group of one, with a job that left memory, and holds its unique key for an hour.
    fn with_history(dir: &std::path::Path) -> std::sync::Arc<Node> {
        let node = group_of_one::open(dir);
        for request in [enqueue_all(&[(ID, Some("key"), None)]), cancel(&[ID])] {
            node.submit(request, Some(Instant::now() + PATIENCE)).expect("it is written");
        }
        let archived = || node.shared.archive.read().as_ref().map_or(0, |archive| archive.watermark());
        let latest = Instant::now() + PATIENCE;
        while archived() == 0 && Instant::now() < latest {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        node.shared.evict(archived()).expect("it leaves memory");
        node
    }

    #[test]
    fn whoever_waits_for_a_job_that_a_newer_state_does_not_know_learns_its_end_from_history() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = with_history(dir.path());
        let jobs = [JobId([8; 16]), JobId([9; 16])];
        let mut other = Loader::new();
        let image = node.shared.machine.read().capture();
        image.write(&mut |section, chunk| other.section(section, chunk)).expect("it is taken");
        let ends = jobs.map(|id| {
            node.submit(enqueue(id), Some(Instant::now() + PATIENCE)).expect("it is written");
            let (send, receive) = channel();
            node.wait_finished(id, Box::new(move |end| drop(send.send(end))));
            receive
        });
        let archive = node.shared.archive.read();
        let archive = archive.as_ref().expect("it is open");
        // What another member has of one of them. The other was deleted.
        let record = archive.get(ID).expect("it is read").expect("it is there");
        archive.import(&[(jobs[0], record)], archive.watermark()).expect("it is written");
        *node.shared.machine.write() = other.finish().expect("it is whole");
        node.shared.wakeups.restored();
        node.shared.archiver.finished(1);
        let ends = ends.map(|end| end.recv_timeout(PATIENCE).expect("it is answered"));
        assert!(ends[0].is_ok() && matches!(&ends[1], Err(Error::NotFound(_))), "{ends:?}");
    }

    #[test]
    fn j11_whoever_waits_for_a_job_whose_unique_key_an_archived_one_holds_waits_for_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = with_history(dir.path());
        let (held, child) = (JobId([8; 16]), JobId([9; 16]));
        let chain = enqueue_all(&[(held, Some("key"), None), (child, None, Some(held))]);
        node.submit(chain, Some(Instant::now() + PATIENCE)).expect("it is written");
        let machine = node.shared.machine.read();
        assert!(machine.job(held).is_none(), "its key is held");
        assert_eq!(machine.job(child).expect("it is there").0.state, State::Enqueued, "the holder has ended");
    }

    #[test]
    fn what_is_asked_again_after_a_change_of_leader_brings_its_jobs_back_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = with_history(dir.path());
        let is_here = || node.shared.machine.read().job(ID).is_some();
        assert!(!is_here() && node.shared.has_ended(ID) == Ok(Some(true)));
        let requeue = command(|out| {
            out.array(2).u64(REQUEUE).array(1).id(ID);
        });
        let (send, receive) = channel();
        node.shared.ticks.ask_again(requeue, Box::new(move |answer| drop(send.send(answer))));
        receive.recv_timeout(PATIENCE).expect("it is answered").expect("it is written");
        assert!(is_here(), "it runs again");
    }
}
