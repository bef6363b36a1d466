//! A recount for tests: everything that follows from the records is made anew and compared with what the moves kept.

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
        same("the digests", self.digests == fresh.digests)?;
        same("unique keys", self.unique.live().eq(fresh.unique.live()))?;
        same("unique windows", self.unique.ends_len() == fresh.unique.ends_len())?;
        for (kept, made) in self.queues.iter().zip(fresh.queues.iter()) {
            same(&format!("queue {}", kept.name), kept.lines == made.lines && kept.tally == made.tally)?;
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
        same("the digest", self.digest() == fresh.digest())
    }
}
