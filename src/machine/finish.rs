//! `Finish` and `Progress`: what the holder of a lease says. Any other token changes nothing (J3).
//!
//! Attempts and crashes are counted apart (J7). A claim spends an attempt; a run that was released, snoozed or crashed
//! gives it back. A failure with no attempt left is final, and so is a crash when `max_crashes` are reached. A job that
//! somebody asked to cancel does not wait again: whatever its run says short of success or failure, it is cancelled.

use super::decode::{bytes, reason, Place as _, Result};
use super::job::{Ending, Job, Run, State};
use super::outcome::{self, code, Outcome};
use super::specs::Spec;
use super::table::Slot;
use super::Machine;
use crate::base::codec::Reader;
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, JobId, LeaseToken, Millis};

/// How one run ended, told by its worker.
#[derive(Debug)]
pub struct Finish<'a> {
    pub id: JobId,
    pub token: LeaseToken,
    pub ending: Ending,
    pub result: Option<&'a [u8]>,
    pub error: Option<&'a [u8]>,
    pub delay: Millis,
    pub reason: &'a str,
}

#[derive(Debug)]
pub struct Progress<'a> {
    pub id: JobId,
    pub token: LeaseToken,
    pub progress: Option<&'a [u8]>,
    pub saved: Option<&'a [u8]>,
}

impl<'a> Finish<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        let length = reader.array()?;
        let id = reader.id().at("id")?;
        let token = LeaseToken(reader.u64().at("token")?);
        let code = reader.u64().at("outcome")?;
        let ending = Ending::from_code(code).filter(|ending| *ending != Ending::Lost);
        let ending = ending.ok_or_else(|| Error::Invalid(format!("outcome: {code}, at most 6")))?;
        let items = match ending {
            Ending::Retried => 5,
            Ending::Released => 3,
            _ => 4,
        };
        // A snooze without a reason is written as before there were any.
        let more = ending == Ending::Snoozed && length == items + 1;
        if length != items && !more {
            return Err(Error::Invalid(format!("outcome {code} has {items} items, not {length}")));
        }
        let mut finish = Self { id, token, ending, result: None, error: None, delay: Millis(0), reason: "" };
        match ending {
            Ending::Succeeded => {
                let result = reader.option(|reader| bytes(reader.bin()?, limits::RESULT_BYTES_MAX));
                finish.result = result.at("result")?;
            }
            Ending::Retried => {
                finish.delay = Millis(reader.u64().at("delay_ms")?);
                finish.error = Some(error(reader).at("error")?);
            }
            Ending::Failed | Ending::Crashed => finish.error = Some(error(reader).at("error")?),
            Ending::Snoozed => {
                finish.delay = Millis(reader.u64().at("delay_ms")?);
                if more {
                    finish.reason = reason(reader)?;
                }
                if more && finish.reason.is_empty() {
                    return Err(Error::Invalid("reason: empty, a snooze without one has 4 items".into()));
                }
            }
            Ending::Cancelled => finish.reason = reason(reader)?,
            Ending::Released | Ending::Lost => {}
        }
        Ok(finish)
    }

    /// It waits, and says why.
    pub(super) fn snoozes_with_reason(&self) -> bool {
        self.ending == Ending::Snoozed && !self.reason.is_empty()
    }
}

impl<'a> Progress<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.array_of(4, "an item")?;
        let note = |reader: &mut Reader<'a>| bytes(reader.bin()?, limits::STATE_BYTES_MAX);
        Ok(Self {
            id: reader.id().at("id")?,
            token: LeaseToken(reader.u64().at("token")?),
            progress: reader.option(note).at("progress")?,
            saved: reader.option(note).at("state")?,
        })
    }
}

fn error<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    reader.bin().and_then(check_error)
}

/// The bytes of `[type, message, traceback]`.
pub(super) fn check_error(error: &[u8]) -> Result<&[u8]> {
    let inside = &mut Reader::new(bytes(error, limits::ERROR_BYTES_MAX)?);
    inside.array_of(3, "an error")?;
    for part in ["type", "message", "traceback"] {
        inside.str().at(part)?;
    }
    inside.end()?;
    Ok(error)
}

impl Machine {
    pub(super) fn finish(&mut self, results: &[Finish<'_>]) -> Outcome {
        let mut codes = Vec::with_capacity(results.len());
        for result in results {
            codes.push(match self.leased(result.id, result.token) {
                Err(code) => code,
                Ok(slot) => {
                    self.keep_words(slot, result);
                    self.end_run(slot, result.ending, result.delay);
                    if let Some(error) = result.error {
                        self.count_error(slot, error);
                    }
                    code::DONE
                }
            });
        }
        outcome::codes(codes.into_iter())
    }

    pub(super) fn progress(&mut self, items: &[Progress<'_>]) -> Outcome {
        let mut codes = Vec::with_capacity(items.len());
        for item in items {
            codes.push(match self.leased(item.id, item.token) {
                Err(code) => code,
                Ok(slot) => {
                    self.edit(slot, |job| {
                        let rare = job.rare_mut();
                        rare.progress = item.progress.map(Into::into).or(rare.progress.take());
                        rare.saved = item.saved.map(Into::into).or(rare.saved.take());
                    });
                    code::DONE
                }
            });
        }
        outcome::codes(codes.into_iter())
    }

    /// The job, if this token holds its lease.
    fn leased(&self, id: JobId, token: LeaseToken) -> std::result::Result<Slot, u8> {
        let slot = self.table.find(id).ok_or(code::UNKNOWN)?;
        let leased = self.table.get(slot).token();
        if leased == Some(token) || (has(Bug::NoTokenCheck) && leased.is_some()) {
            return Ok(slot);
        }
        Err(code::LEASE_LOST)
    }

    /// Stores what a run left behind.
    fn keep_words(&mut self, slot: Slot, result: &Finish<'_>) {
        if result.result.is_none() && result.error.is_none() && result.reason.is_empty() {
            return;
        }
        self.edit(slot, |job| {
            let asked = job.cancel_requested;
            let rare = job.rare_mut();
            rare.result = result.result.map(Into::into);
            rare.error = result.error.map(Into::into).or(rare.error.take());
            // A job that was asked to stop does not wait again: why it was asked matters more than why it would.
            if !(result.reason.is_empty() || asked && result.ending == Ending::Snoozed) {
                rare.reason = Some(result.reason.into());
            }
        });
    }

    /// Ends the run of a job: where it goes next follows from how the run ended and from what is left to spend.
    pub(super) fn end_run(&mut self, slot: Slot, ending: Ending, delay: Millis) {
        let job = self.table.get(slot);
        let entry = self.specs.get(job.spec);
        let next = next_state(job, &entry.spec, ending);
        let delay = if matches!(ending, Ending::Crashed | Ending::Lost) { entry.spec.crash_delay } else { delay };
        let (to, at) = match next {
            State::Retrying | State::Scheduled if delay > Millis(0) => (next, self.clock.plus(delay)),
            State::Retrying | State::Scheduled => (State::Enqueued, self.clock),
            _ => (next, self.clock),
        };
        let (home, now) = (self.home(job.spec), self.clock);
        self.edit(slot, |job| account(job, ending, to, now));
        self.tallies(home, |tally| tally.ended(ending));
        self.move_to(slot, to, at);
    }
}

/// Retrying and scheduled stand for waiting with a delay that may be zero.
fn next_state(job: &Job, spec: &Spec, ending: Ending) -> State {
    let waiting = match ending {
        Ending::Succeeded => return State::Succeeded,
        Ending::Failed => return State::Failed,
        Ending::Cancelled => return State::Cancelled,
        Ending::Retried if u64::from(job.attempt) >= spec.max_attempts => return State::Failed,
        Ending::Crashed | Ending::Lost if u64::from(job.crashes) + 1 >= spec.max_crashes => return State::Failed,
        Ending::Retried | Ending::Crashed | Ending::Lost => State::Retrying,
        Ending::Snoozed => State::Scheduled,
        Ending::Released => State::Enqueued,
    };
    if job.cancel_requested {
        return State::Cancelled;
    }
    waiting
}

/// What the end of a run changes in the record, besides the state.
fn account(job: &mut Job, ending: Ending, to: State, now: Millis) {
    let (attempt, started) = (job.attempt, job.at);
    if matches!(ending, Ending::Snoozed | Ending::Released | Ending::Crashed | Ending::Lost) {
        job.attempt -= u32::from(ending != Ending::Lost || !has(Bug::CrashSpendsAttempt));
    }
    let crashed = matches!(ending, Ending::Crashed | Ending::Lost);
    if crashed {
        job.crashes = job.crashes.saturating_add(1);
    }
    let crashes = job.crashes;
    let rare = job.rare_mut();
    match to {
        State::Succeeded => (rare.error, rare.saved, rare.reason) = (None, None, None),
        State::Failed if crashed => rare.reason = Some(format!("crashed {crashes} times").into()),
        _ => {}
    }
    if ending == Ending::Released {
        return;
    }
    let error = match ending {
        Ending::Retried | Ending::Failed | Ending::Crashed => rare.error.clone(),
        _ => None,
    };
    if rare.history.len() >= limits::HISTORY_MAX {
        rare.history.remove(0);
    }
    if rare.history.is_empty() {
        rare.history.reserve_exact(1); // Most jobs run once.
    }
    rare.history.push(Run { attempt, ending, started, ended: now, error });
    if let Some(old) = rare.history.len().checked_sub(limits::ATTEMPTS_KEPT_MAX + 1) {
        rare.history[old].error = None;
    }
}
