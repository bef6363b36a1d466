//! A group that begins with several answers nothing before so many of the list vote that a majority of them is one of the
//! list: what it answered would be on fewer disks than the list promises.
//!
//! What holds
//! * It is written down in `FOUNDING` before the first member has data, and when a joiner of such a group hears that it is let
//!   in: a member that ends behind that goes on waiting when it is back.
//! * Whoever waits is not open yet: it serves the other members, so that they can join, and nobody else.
//! * The list counts this once only. A group that shrinks later waits for nobody who is in its settings still.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::joining::Beginning;
use super::{ClusterConfig, NodeConfig, Shared};
use crate::base::{Error, Result};
use crate::disk::{founding, Founding, Identity};

/// Between two looks at who votes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What this node waits for before it answers. Written down by now, if this start begins the group.
pub(super) fn look(config: &NodeConfig, beginning: Option<Beginning>) -> Result<Option<Founding>> {
    let (disk, dir) = (&*config.disk, &config.dir);
    let voters = config.cluster.as_ref().map_or(1, |cluster| enough(cluster.members.len()));
    match beginning {
        Some(Beginning::Begins) if voters > 1 => Founding { begins: true, voters }.store(disk, dir)?,
        // Of a start before this one, which ended before there was data.
        Some(_) => Founding::remove(disk, dir)?,
        None => {}
    }
    Founding::load(disk, dir)
}

/// How many of a list must vote, so that a majority of those who do is a majority of the list: 2 of 3, 4 of 5.
fn enough(members: usize) -> usize {
    let majority = members / 2 + 1;
    (2 * majority - 2).max(1)
}

/// Refuses a process without settings: it would take for a whole group what is about to become one of several.
pub(super) fn check_alone(config: &NodeConfig) -> Result<()> {
    let (disk, dir) = (&*config.disk, &config.dir);
    if config.cluster.is_some() {
        return Ok(());
    }
    let Some(founding) = Founding::load(disk, dir)? else { return Ok(()) };
    let Some(own) = Identity::load(disk, dir)? else { return Founding::remove(disk, dir) };
    Err(Error::Member(format!(
        "{} is the data directory of node {}, one of the first members of a cluster that answers nothing before {} of them \
         vote, and this process has no `listen` setting: it cannot reach the others. If it is to stay alone for good, remove \
         the file {} there",
        dir.display(),
        own.node,
        founding.voters,
        founding::FILE_NAME
    )))
}

impl Shared {
    /// How many members must vote before this node answers anything; 0: it may answer.
    pub(super) fn awaited_voters(&self) -> usize {
        self.founding.load(Ordering::Acquire)
    }

    /// The leader of the group that this node joins says that it is about to begin.
    pub(super) fn joins_founding(&self, voters: usize) -> Result<()> {
        Founding { begins: false, voters }.store(&*self.config.disk, &self.config.dir)?;
        self.founding.store(voters, Ordering::Release);
        Ok(())
    }

    /// Begins a group, or goes on with that, and returns when it may answer.
    ///
    /// # Errors
    /// `Busy`: too few members vote within the patience.
    pub(super) fn found(self: &Arc<Self>, cluster: &ClusterConfig, begins: bool) -> Result<()> {
        if begins && self.is_only_member() {
            // Before the others are in: one that is older is told why it cannot join.
            self.raise_level();
        }
        let voters = self.awaited_voters();
        if voters > 0 {
            self.wait_for_voters(voters, cluster)?;
        }
        let access = if begins { self.begin_access(cluster) } else { Ok(()) };
        match access.err() {
            // The next start goes on here, as `FOUNDING` stays.
            Some(error) if voters > 0 => return Err(error),
            Some(error) => log::error!(
                "the group began, and its first token was not stored ({error}); run `raftwork cluster finalize` and \
                 `raftwork cluster token create` in the directory of this node"
            ),
            None => {}
        }
        if voters > 0 {
            Founding::remove(&*self.config.disk, &self.config.dir)?;
            self.founding.store(0, Ordering::Release);
        }
        Ok(())
    }

    fn is_only_member(&self) -> bool {
        let figures = self.figures.lock();
        figures.members.voters.len() == 1 && figures.members.learners.is_empty()
    }

    fn wait_for_voters(&self, count: usize, cluster: &ClusterConfig) -> Result<()> {
        let until = Instant::now() + cluster.patience;
        loop {
            let voters = self.figures.lock().members.voters.len();
            if voters >= count {
                return Ok(());
            }
            self.check_running()?;
            if Instant::now() >= until {
                return Err(Error::Busy {
                    path: format!("the cluster of {}", cluster.reached()),
                    holder: format!(
                        "nobody yet: {count} of its first members must vote before it answers anything, and {voters} do. If \
                         this node is to stay alone for good, remove {}",
                        self.config.dir.join(founding::FILE_NAME).display()
                    ),
                });
            }
            self.ticks.pause(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::node::group_of_one;

    #[test]
    fn who_waits_for_the_first_members_is_not_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = group_of_one::open(dir.path());
        assert!(node.is_ready());
        node.shared.joins_founding(2).expect("it is written down");
        assert!(!node.is_ready());
        node.close().expect("it closes");
    }
}
