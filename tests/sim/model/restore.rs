//! Jobs that come back from the archive, as the record in the log has them.

use raftwork::base::codec::Reader;
use raftwork::base::{JobId, Result};
use raftwork::machine::record::JobRecord;

use super::flows::{Edge, Flow, Standing};
use super::{Job, Model, State};
use crate::wire::Spec;

impl Model {
    /// It is over as it was, stands behind all others, and hears what happened meanwhile.
    pub(super) fn restore(&mut self, record: &[u8]) -> u8 {
        let record = JobRecord::decode(record).expect("a record that a node wrote");
        if self.jobs.contains_key(&record.id) {
            return 1;
        }
        let mut flow = record.flow.map(|bytes| flow(bytes).expect("a flow that a node wrote"));
        if let Some(flow) = &mut flow {
            flow.place = self.next_move();
            flow.behind = self.flows.behind.get(&record.id).copied().unwrap_or(flow.behind);
            self.flows.used = true;
        }
        self.ordinal += 1;
        let job = Job {
            spec: spec(&record),
            state: state(record.state),
            due: 0,
            deadline: None,
            moved: self.next_move(),
            attempt: record.attempt,
            crashes: record.crashes,
            generation: record.generation,
            told_to_stop: record.cancel_requested,
            ordinal: self.ordinal,
            limits: Vec::new(),
            unique: record.unique_key.map(str::to_owned),
            flow,
            result: record.result.map(<[u8]>::to_vec),
        };
        self.jobs.insert(record.id, job);
        self.catch_up(record.id);
        0
    }
}

fn state(code: u8) -> State {
    match code {
        5 => State::Succeeded,
        6 => State::Failed,
        7 => State::Cancelled,
        other => panic!("a record of a job that is not over: {other}"),
    }
}

/// Whoever comes back has no deadline to start.
fn spec(record: &JobRecord<'_>) -> Spec {
    Spec {
        function: record.function.into(),
        queue: record.queue.into(),
        priority: record.priority,
        max_attempts: record.max_attempts,
        max_crashes: record.max_crashes,
        unique_mode: record.unique_mode.into(),
        unique_window: record.unique_window_ms,
        crash_delay: record.crash_delay_ms,
        expires: None,
        ..Spec::default()
    }
}

fn flow(bytes: &[u8]) -> Result<Flow> {
    let reader = &mut Reader::new(bytes);
    reader.array_of(7, "a flow")?;
    let (batch, place, behind) = (reader.option(|reader| reader.id())?, reader.u64()?, reader.u64()?);
    let (delay, run_at) = (reader.u64()?, reader.option(|reader| reader.u64())?);
    let edges = (0..reader.array()?).map(|_| edge(reader)).collect::<Result<_>>()?;
    let outputs = (0..reader.array()?).map(|_| {
        reader.array_of(2, "an output")?;
        Ok((reader.u64()?, reader.option(|reader| reader.bin().map(<[u8]>::to_vec))?))
    });
    let outputs = outputs.collect::<Result<_>>()?;
    Ok(Flow { batch, place, behind, delay, run_at, edges, outputs })
}

fn edge(reader: &mut Reader<'_>) -> Result<Edge> {
    reader.array_of(4, "a parent")?;
    let (parent, on, uses): (JobId, u64, bool) = (reader.id()?, reader.u64()?, reader.bool()?);
    let standing = match reader.u64()? {
        0 => Standing::Open,
        1 => Standing::Met,
        2 => Standing::Unmet,
        _ => Standing::Void,
    };
    Ok(Edge { parent, on, uses, standing })
}
