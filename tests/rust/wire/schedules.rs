//! Commands about recurring schedules.

use super::{limits, number, Limit, Spec};
use raftwork::base::codec::Writer;
use raftwork::base::JobId;

#[derive(Clone, Debug)]
pub enum Recur {
    Put(Box<Put>),
    /// Id, nominal time and time to run of each job.
    Fire(At, Vec<(JobId, u64, Option<u64>)>),
    Delete(String),
    Pause(String, Option<String>),
    /// With the slot that is filled in.
    Trigger(String, JobId, Option<u64>),
    Move(At),
}

#[derive(Clone, Debug)]
pub struct Put {
    pub name: String,
    pub generation: Option<u64>,
    pub source: String,
    pub spec: Spec,
    pub args: Vec<u8>,
    /// 0 allow, 1 skip, 2 queue one, 3 replace.
    pub overlap: u64,
    pub definition: Vec<u8>,
    pub next: Option<u64>,
    pub limits: Vec<Limit>,
}

/// What a scheduler saw, and the slot that follows.
#[derive(Clone, Debug)]
pub struct At {
    pub name: String,
    pub generation: u64,
    pub slot: u64,
    pub next: Option<u64>,
}

impl At {
    fn encode(&self, w: &mut Writer) {
        w.str(&self.name).u64(self.generation).u64(self.slot);
        number(w, self.next);
    }
}

impl Recur {
    pub(super) fn encode(&self, w: &mut Writer) {
        match self {
            Recur::Put(put) => {
                w.array(9 + usize::from(!put.limits.is_empty())).u64(33).str(&put.name);
                number(w, put.generation);
                w.str(&put.source);
                put.spec.encode(w);
                w.bin(&put.args).u64(put.overlap).bin(&put.definition);
                number(w, put.next);
                if !put.limits.is_empty() {
                    limits(w.map(1).u64(3), &put.limits);
                }
            }
            Recur::Fire(at, jobs) => {
                at.encode(w.array(6).u64(34));
                w.array(jobs.len());
                for (id, nominal, run_at) in jobs {
                    number(w.array(3).id(*id).u64(*nominal), *run_at);
                }
            }
            Recur::Delete(name) => {
                w.array(2).u64(35).str(name);
            }
            Recur::Pause(name, reason) => {
                w.array(3).u64(36).str(name).option(reason.as_deref(), |w, reason| {
                    w.str(reason);
                });
            }
            Recur::Trigger(name, id, slot) => {
                w.array(3 + usize::from(slot.is_some())).u64(37).str(name).id(*id);
                slot.map(|slot| w.u64(slot));
            }
            Recur::Move(at) => at.encode(w.array(5).u64(38)),
        }
    }
}
