//! Figures, counted where a job changes state and nowhere else, so that they cannot drift (J12).
//!
//! At every index, for the machine, each queue and each function:
//! `created = sum(by_state) + sum(archived) + deleted`.

use super::decode::number;
use super::job::{Ending, State};
use crate::base::codec::{Reader, Writer};
use crate::base::Result;

/// Largest figure that an image may hold: no sum of them overflows.
const FIGURE_MAX: u64 = 1 << 56;

/// How many jobs are where, and how often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs in memory, by the code of their state.
    pub by_state: [u64; 8],
    /// Jobs that left memory for the archive, by the code of their final state.
    pub archived: [u64; 8],
    pub created: u64,
    pub deleted: u64,
    /// Times that a job became succeeded, failed, cancelled; a requeued job may count again.
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Final jobs that were enqueued again.
    pub requeued: u64,
    /// Runs by how they ended: failed with an attempt left, snoozed, given back, crashed or lost.
    pub retried: u64,
    pub snoozed: u64,
    pub released: u64,
    pub crashed: u64,
    /// Waiting jobs whose deadline to start passed. They are among the cancelled.
    pub expired: u64,
}

impl Tally {
    pub fn count(&self, state: State) -> u64 {
        self.by_state[state as usize]
    }

    /// Jobs in memory.
    pub fn live(&self) -> u64 {
        self.by_state.iter().sum()
    }

    pub fn archived_sum(&self) -> u64 {
        self.archived.iter().sum()
    }

    /// Conservation (J12).
    pub fn holds(&self) -> bool {
        self.created == self.live() + self.archived_sum() + self.deleted
    }

    pub(super) fn enter(&mut self, state: State) {
        self.created += 1;
        self.by_state[state as usize] += 1;
    }

    pub(super) fn shift(&mut self, from: State, to: State) {
        self.by_state[from as usize] -= 1;
        self.by_state[to as usize] += 1;
        match to {
            State::Succeeded => self.succeeded += 1,
            State::Failed => self.failed += 1,
            State::Cancelled => self.cancelled += 1,
            State::Enqueued | State::Awaiting if from.is_final() => self.requeued += 1,
            _ => {}
        }
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        match ending {
            Ending::Retried => self.retried += 1,
            Ending::Snoozed => self.snoozed += 1,
            Ending::Released => self.released += 1,
            Ending::Crashed | Ending::Lost => self.crashed += 1,
            Ending::Succeeded | Ending::Failed | Ending::Cancelled => {}
        }
    }

    pub(super) fn delete(&mut self, state: State) {
        self.by_state[state as usize] -= 1;
        self.deleted += 1;
    }

    pub(super) fn archive(&mut self, state: State) {
        self.by_state[state as usize] -= 1;
        self.archived[state as usize] += 1;
    }

    /// The way back. A record that this tally never saw leave counts as created here.
    pub(super) fn restore(&mut self, state: State) {
        match self.archived[state as usize] {
            0 => self.created += 1,
            _ => self.archived[state as usize] -= 1,
        }
        self.by_state[state as usize] += 1;
    }

    /// What cannot be counted again from the jobs in memory.
    pub(super) fn encode(&self, writer: &mut Writer) {
        let mut copy = self.clone();
        let fields = copy.sums();
        writer.array(fields.len());
        for field in fields {
            writer.u64(*field);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Tally> {
        let mut tally = Tally::default();
        let fields = tally.sums();
        reader.array_of(fields.len(), "a tally")?;
        for field in fields {
            *field = number(reader, FIGURE_MAX)?;
        }
        Ok(tally)
    }

    /// Every field that an image stores, in its order.
    fn sums(&mut self) -> Vec<&mut u64> {
        let Tally { by_state: _, archived, .. } = self;
        let mut fields: Vec<&mut u64> = archived.iter_mut().collect();
        fields.extend([&mut self.created, &mut self.deleted, &mut self.succeeded, &mut self.failed]);
        fields.extend([&mut self.cancelled, &mut self.requeued, &mut self.retried, &mut self.snoozed]);
        fields.extend([&mut self.released, &mut self.crashed, &mut self.expired]);
        fields
    }
}
