//! A recount for tests: everything that follows from the records is made anew and compared with what the moves kept.

use super::flows::Standing;
use super::job::State;
use super::queues::{Queue, Rank};
use super::table::Slot;
use super::{Loader, Machine};

impl Machine {
    /// Tells the first thing that the machine keeps and that does not follow from its records.
    pub fn audit(&self) -> Result<(), String> {
        let mut loader = Loader::new();
        let loaded = self.capture().write(&mut |section, bytes| loader.section(section, bytes));
        let fresh = loaded.and_then(|()| loader.finish()).map_err(|error| error.to_string())?;
        let same = |what: &str, same: bool| if same { Ok(()) } else { Err(format!("{what} differs from the recount")) };
        same("the figures", self.tally == fresh.tally)?;
        same("due times", self.due == fresh.due)?;
        same("deadlines", self.deadlines == fresh.deadlines)?;
        same("leases", self.leases == fresh.leases)?;
        same("finished jobs", self.finished == fresh.finished)?;
        same("pauses", self.pauses == fresh.pauses)?;
        same("bytes", self.bytes == fresh.bytes)?;
        same("the members", self.members == fresh.members && self.level == fresh.level)?;
        same("who may do what", self.access == fresh.access)?;
        same("the locks", self.locks == fresh.locks)?;
        same("the schedules", self.schedules == fresh.schedules)?;
        same("the flows", self.flows == fresh.flows)?;
        same("the limiters", self.limiters.counts().eq(fresh.limiters.counts()))?;
        same("when limiters wake", self.limiters.next_wake() == fresh.limiters.next_wake())?;
        same("what stands behind gates", self.gates.lines() == fresh.gates.lines())?;
        same("the errors", self.errors == fresh.errors)?;
        same("the digests", self.digests == fresh.digests)?;
        same("unique keys", self.unique.live().eq(fresh.unique.live()))?;
        same("unique windows", self.unique.ends_len() == fresh.unique.ends_len())?;
        for (kept, made) in self.queues.iter().zip(fresh.queues.iter()) {
            same(
                &format!("queue {}", kept.name),
                self.lines_of(kept) == fresh.lines_of(made) && kept.tally == made.tally,
            )?;
            same(&format!("the limit of queue {}", kept.name), kept.limit == made.limit)?;
            same(&format!("conservation in queue {}", kept.name), kept.tally.holds())?;
        }
        for (kept, made) in self.functions.iter().zip(fresh.functions.iter()) {
            same(&format!("function {}", kept.name), kept.tally == made.tally && kept.tally.holds())?;
        }
        for (number, entry) in self.specs.iter() {
            let used = self.specs.jobs(number);
            same(&format!("uses of {}", entry.spec.function), used > 0 && used == fresh.specs.jobs(number))?;
        }
        for (slot, job) in self.table.iter() {
            same(&format!("slot of {}", job.id), self.table.find(job.id) == Some(slot))?;
        }
        self.flows_hold()?;
        same("the digest", self.digest() == fresh.digest())
    }

    /// Tells the first job that is stuck in its flow, or that went on before it might (J11).
    pub fn flows_hold(&self) -> Result<(), String> {
        for (_, job) in self.table.iter() {
            let Some(flow) = job.flow() else { continue };
            let count = |standing| flow.edges.iter().filter(|edge| edge.standing == standing).count();
            let (open, unmet) = (count(Standing::Open), count(Standing::Unmet));
            let fits = match job.state {
                State::Awaiting => open > 0 && unmet == 0,
                State::Cancelled => unmet > 0 || open == 0,
                _ => open + unmet == 0,
            };
            if !fits {
                return Err(format!("job {} is {} with {open} open parents, {unmet} unmet", job.id, job.state.name()));
            }
            // Who is in the list of work counts as settled.
            let standing = flow.standing().filter(|_| !self.is_behind());
            for (_, edge) in standing {
                let over = self.is_over(edge.parent).unwrap_or(true);
                if over != (edge.standing == Standing::Unmet) {
                    return Err(format!("job {} did not hear of its parent {}", job.id, edge.parent));
                }
            }
        }
        match self.batches_hold() {
            true => Ok(()),
            false => Err("the figures of a batch are not those of its members".into()),
        }
    }

    /// Of each line the first job and those without limits. What else shows there depends on which of its limits a job
    /// stands behind first, which is not part of the state.
    fn lines_of(&self, queue: &Queue) -> Vec<(u32, Rank, Slot)> {
        let free = |slot: &Slot| self.table.get(*slot).limits().is_none();
        let entries = queue.lines.iter().flat_map(|(function, line)| {
            let kept = line.iter().enumerate().filter(move |(place, (_, slot))| *place == 0 || free(slot));
            kept.map(|(_, (rank, slot))| (*function, *rank, *slot))
        });
        entries.collect()
    }
}
