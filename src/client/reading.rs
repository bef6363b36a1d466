//! How a client reads: what an answer must have, and how old it can be when it is here.
//!
//! What holds
//! * A session read has all that this process was told before, whichever member answers it (L2): the newest index of any
//!   answer goes along with the next question.
//! * The age that is told counts the way of the answer too, on the clock of this process: one that lay in the socket of a
//!   process that was stopped is as old as it is (L3).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::patience::{Patience, Slot};
use super::{request, Client};
use crate::attach::View;
use crate::base::codec::{Reader, Writer};
use crate::base::sync::{Condvar, Mutex};
use crate::base::time::SystemClock;
use crate::base::{Clock, Error, LogIndex, Millis, Result};
use crate::node::check_age;

/// A question about the state is answered from memory; longer than this only while no owner is found.
const VIEW_WAIT: Duration = Duration::from_secs(30);
/// Before a question that no majority confirmed is put again.
const AGAIN: Duration = Duration::from_millis(5);

/// What an answer must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Whatever the node at hand has.
    Local,
    /// All that this process wrote, and read before.
    #[default]
    Session,
    /// All that was answered to anybody before the question was put.
    Linearizable,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub consistency: Consistency,
    /// Older is `TooStale`. Nothing: the age is told, whatever it is.
    pub staleness_max: Option<Millis>,
}

/// The newest index that this process was told.
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

impl Seen {
    /// From the answer to a write.
    pub fn note_reply(&self, reply: &[u8]) {
        if let Some(index) = request::index_of(reply) {
            self.note(index);
        }
    }

    pub fn note(&self, index: LogIndex) {
        self.0.fetch_max(index.0, Ordering::AcqRel);
    }

    pub fn upto(&self) -> LogIndex {
        LogIndex(self.0.load(Ordering::Acquire))
    }
}

impl Client {
    /// Asks about the state, as a session reads: `[as_of_index, staleness_ms or nil, payload]`.
    pub fn view(&self, question: &[u8]) -> Result<Vec<u8>> {
        self.read(question, Reading::default(), &mut Patience::after(Some(VIEW_WAIT)))
    }

    /// Asks about the state: `[as_of_index, staleness_ms or nil, payload]`; nil: it is not known how old the answer is.
    ///
    /// # Errors
    /// `TooStale`: it could be older than `staleness_max`. `TimedOut`: nobody answered, or confirmed, in time.
    pub fn read(&self, question: &[u8], reading: Reading, patience: &mut Patience<'_>) -> Result<Vec<u8>> {
        self.check_process()?;
        if patience.deadline.is_none() {
            patience.deadline = Some(Instant::now() + VIEW_WAIT);
        }
        let upto = match reading.consistency {
            Consistency::Local => LogIndex(0),
            Consistency::Session => self.seen.upto(),
            Consistency::Linearizable => self.fresh(patience)?,
        };
        let staleness_max = reading.staleness_max;
        let (slot, began) = (Slot::new(), SystemClock.monotonic());
        self.backend().view(View { upto, staleness_max, question: question.to_vec() }, slot.filler());
        let answer = slot.wait(patience)?;
        let way = SystemClock.monotonic().since(began);
        let (index, age, payload) = parts(&answer)?;
        self.seen.note(index);
        if way.0 == 0 {
            return Ok(answer);
        }
        let age = age.map(|age| age.plus(way));
        check_age(age, staleness_max)?;
        let mut out = Writer::with_capacity(answer.len() + 10);
        out.array(3).u64(index.0).option(age, |out, age| {
            out.u64(age.0);
        });
        out.raw(payload);
        Ok(out.into_bytes())
    }

    /// Waits until the state at hand has everything that was answered anywhere before this call, and gives the index of that
    /// state. In a cluster: until a majority was heard.
    ///
    /// # Errors
    /// `TimedOut`: no majority within the caller's patience.
    pub fn fresh(&self, patience: &mut Patience<'_>) -> Result<LogIndex> {
        self.check_process()?;
        loop {
            let slot = Slot::new();
            self.backend().fresh(slot.filler());
            match slot.wait(patience) {
                Ok(upto) => {
                    self.seen.note(upto);
                    return Ok(upto);
                }
                // A member has less patience than its client may have, and the leader may just be changing.
                Err(Error::NotCommitted(_) | Error::TimedOut(_)) if !patience.is_over() => pause(patience)?,
                Err(Error::NotCommitted(why)) => return Err(Error::TimedOut(why)),
                Err(error) => return Err(error),
            }
        }
    }
}

fn pause(patience: &mut Patience<'_>) -> Result<()> {
    let nothing = Mutex::new(());
    Condvar::new().wait_for(&mut nothing.lock(), AGAIN);
    patience.check()
}

/// An answer taken apart.
fn parts(answer: &[u8]) -> Result<(LogIndex, Option<Millis>, &[u8])> {
    let mut reader = Reader::new(answer);
    reader.array_of(3, "an answer about the state")?;
    let index = LogIndex(reader.u64()?);
    let age = reader.option(|reader| reader.u64().map(Millis))?;
    Ok((index, age, reader.rest()))
}

/// The payload of an answer.
pub fn payload(answer: &[u8]) -> Result<&[u8]> {
    parts(answer).map(|(.., payload)| payload)
}
