//! What is in a data directory, part by part, and whether the parts can start together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive;
use crate::base::codec::Writer;
use crate::base::{Error, Result};
use crate::disk::{differs, gone, quarantine, Disk, Identity};
use crate::replica::{self, Others};
use crate::snapshot::{self, SnapshotMeta, SnapshotReport};
use crate::wal;

use super::plan::Plan;
use crate::node::anew;
use crate::node::open::ARCHIVE_DIR;
use crate::node::way_out::WayOut;

/// How often the log of a running node is read to see the same damage twice: it changes while it is read.
const LOOKS_MAX: usize = 4;

/// A data directory as it lies on the disk.
pub struct Findings {
    pub dir: PathBuf,
    /// Who runs on it. Then what only its owner can know is left out.
    pub owner: Option<String>,
    pub identity: Result<Option<Identity>>,
    /// Newest first.
    pub snapshots: Vec<SnapshotReport>,
    pub log: Result<wal::Report>,
    /// Nothing while somebody runs on it.
    pub archive: Option<archive::Report>,
    /// Whom it names beside its own member, if it can be read whose it is.
    pub others: Others,
    /// Files that were set aside earlier, and what was lost with them.
    pub set_aside: Vec<String>,
    pub losses: Vec<String>,
    /// Why no node opens it, whole as it may be: its member is none any more, or its state differs.
    refused: Vec<String>,
    start: Result<()>,
}

impl Findings {
    /// Looks at the directory. The archive is always on the real disk. `owner`: who holds its lock, other than the caller.
    pub fn of(shared: &Arc<dyn Disk>, dir: &Path, owner: Option<String>) -> Result<Findings> {
        let disk = &**shared;
        let identity = Identity::load(disk, dir);
        let known = identity.as_ref().ok().copied().flatten();
        let archive = || archive::inspect(&dir.join(ARCHIVE_DIR), known.map(|own| (own.cluster, own.group)));
        let snapshots = snapshot::inspect_on(disk, dir)?;
        let newest = snapshots.iter().find_map(|snapshot| snapshot.header.as_ref());
        let others = known.map(|own| replica::others_on(shared, dir, &own, newest)).transpose()?.unwrap_or_default();
        let mut findings = Findings {
            dir: dir.to_owned(),
            snapshots,
            others,
            log: read_log(disk, dir, owner.is_some()),
            archive: owner.is_none().then(archive),
            set_aside: quarantine::files(disk, dir)?,
            losses: quarantine::losses(disk, dir)?,
            refused: [gone::check(disk, dir), differs::check(disk, dir)].into_iter().filter_map(refusal).collect(),
            start: Ok(()),
            identity,
            owner,
        };
        if findings.owner.is_none() && !findings.is_new() {
            findings.start = findings.rehearse(disk);
        }
        Ok(findings)
    }

    /// The newest snapshot that can be used.
    pub fn base(&self) -> Option<&SnapshotMeta> {
        self.snapshots.iter().find_map(|snapshot| snapshot.meta.as_ref())
    }

    /// Whether a node can start here; the error that it would answer with if not.
    pub fn check_start(&self) -> Result<()> {
        self.start.clone()
    }

    /// What to do in place of a salvage, if it does not start and is one member of several.
    pub fn way_out(&self) -> Option<Vec<String>> {
        let own = self.identity.as_ref().ok().copied().flatten()?;
        let is_needed = self.start.is_err() && !self.others.nodes.is_empty();
        is_needed.then(|| self.described(&own).instead_of_salvage())
    }

    fn described(&self, own: &Identity) -> WayOut<'_> {
        WayOut { dir: &self.dir, own: own.node, others: &self.others }
    }

    /// Whose directory this is. `Foreign` if nobody knows or a file in it is another's.
    pub fn owned(&self) -> Result<Identity> {
        let Some(identity) = self.identity.clone()? else {
            return Err(Error::Foreign(self.missing_identity()));
        };
        match self.foreign(&identity).into_iter().next() {
            Some(text) => Err(Error::Foreign(text)),
            None => Ok(identity),
        }
    }

    /// Nothing was ever stored here; at most somebody began to make the directory, which the next start does anew.
    fn is_new(&self) -> bool {
        let unused = |segment: &wal::SegmentReport| segment.error.is_none() && segment.groups == 0;
        matches!(self.identity, Ok(None))
            && self.snapshots.iter().all(|snapshot| snapshot.index == replica::FIRST.index)
            && self.log.as_ref().is_ok_and(|log| log.is_healthy() && log.segments.iter().all(unused))
    }

    fn rehearse(&self, disk: &dyn Disk) -> Result<()> {
        let identity = self.owned()?;
        self.log.as_ref().map_err(Clone::clone)?;
        replica::rehearse(disk, &self.dir, &identity, self.base())
    }

    fn missing_identity(&self) -> String {
        let segments = self.log.iter().flat_map(|log| &log.segments).filter_map(|segment| segment.owner);
        let whose = segments.map(|(cluster, group, node)| format!("cluster {cluster}, group {group}, node {node}"));
        let whose = whose.last().unwrap_or_else(|| "a cluster that is not known".to_owned());
        format!("IDENTITY is missing; the files here are of {whose}: put that file back from a backup")
    }

    /// Files that are not this identity's.
    fn foreign(&self, identity: &Identity) -> Vec<String> {
        let own = format!("this directory to cluster {}, group {}", identity.cluster, identity.group);
        let mut found = Vec::new();
        for segment in self.log.iter().flat_map(|log| &log.segments) {
            let Some((cluster, group, node)) = segment.owner else { continue };
            if (cluster, group, node) != (identity.cluster, identity.group, identity.node) {
                let whose = format!("cluster {cluster}, group {group}, node {node}");
                found.push(format!("{} belongs to {whose}; {own}, node {}", segment.name, identity.node));
            }
        }
        for snapshot in &self.snapshots {
            let Some((cluster, group)) = snapshot.owner else { continue };
            if (cluster, group) != (identity.cluster, identity.group) {
                let path = snapshot.path.display();
                found.push(format!("{path} belongs to cluster {cluster}, group {group}; {own}"));
            }
        }
        found
    }

    /// What is not as it was written, in whole sentences; the most important first.
    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.refused.iter().map(|why| format!("no node opens it: {why}")).collect();
        if let Err(error) = &self.start {
            problems.push(format!("it cannot start: {error}"));
        }
        match &self.identity {
            Err(error) => problems.push(error.to_string()),
            Ok(Some(identity)) => problems.extend(self.foreign(identity)),
            Ok(None) if !self.is_new() => problems.push(self.missing_identity()),
            Ok(None) => {}
        }
        match &self.log {
            Err(error) => problems.push(error.to_string()),
            Ok(log) => problems.extend(log.damage.as_ref().map(|damage| {
                format!("{} is damaged at byte {}: {}", damage.path.display(), damage.offset, damage.message)
            })),
        }
        for snapshot in &self.snapshots {
            let Some((offset, message)) = &snapshot.damage else { continue };
            problems.push(format!("{} is damaged at byte {offset}: {message}", snapshot.path.display()));
        }
        if let Some(damage) = self.archive.as_ref().and_then(|archive| archive.damage.as_ref()) {
            problems.push(format!("the archive is damaged and will be put aside at the next start: {damage}"));
        }
        problems
    }

    /// What is gone, in whole sentences.
    fn all_losses(&self) -> Vec<String> {
        let mut losses: Vec<String> = self.losses.iter().map(|loss| told(loss)).collect();
        let recovered = self.log.as_ref().ok().and_then(|log| log.recovered.as_ref());
        if let Some(index) = recovered.and_then(|recovered| recovered.suspect_upto) {
            losses.push(format!("the end of the log was damaged; answered writes up to {index} may be lost"));
        }
        let lost = self.archive.as_ref().and_then(|archive| archive.lost.as_ref());
        losses.extend(lost.map(|lost| format!("history was lost: {}", lost.reason)));
        losses
    }

    /// Appends everything as a MessagePack map with names. `plan`: what a salvage would do.
    pub fn write(&self, out: &mut Writer, plan: Option<&Plan>) {
        let (problems, losses) = (self.problems(), self.all_losses());
        let names = self.identity.as_ref().ok().and_then(|own| Some(self.described(own.as_ref()?).names()));
        out.map(14);
        out.str("directory").str(&self.dir.display().to_string());
        out.str("healthy").bool(problems.is_empty());
        texts(out, "problems", &problems);
        texts(out, "losses", &losses);
        texts(out, "set_aside", &self.set_aside);
        out.str("in_use_by").option(self.owner.as_ref(), |out, owner| {
            out.str(owner);
        });
        out.str("identity").option(self.identity.as_ref().ok().copied().flatten(), |out, identity| {
            out.map(4);
            out.str("cluster").str(&identity.cluster.to_string());
            out.str("group").u64(identity.group.0);
            out.str("node").u64(identity.node.0);
            out.str("created_ms").u64(identity.created.0);
        });
        out.str("snapshots").array(self.snapshots.len());
        self.snapshots.iter().for_each(|snapshot| snapshot.write(out));
        out.str("log").option(self.log.as_ref().ok(), |out, log| log.write(out));
        out.str("start").option(self.owner.is_none().then_some(&self.start), |out, start| {
            out.map(2);
            out.str("possible").bool(start.is_ok());
            out.str("reason").option(start.as_ref().err(), |out, error| {
                out.str(&error.to_string());
            });
        });
        out.str("archive").option(self.archive.as_ref(), |out, archive| archive.write(out));
        texts(out, "others", &names.unwrap_or_default());
        texts(out, "way_out", &self.way_out().unwrap_or_default());
        out.str("salvage").option(plan, |out, plan| plan.write(out));
    }
}

fn refusal(checked: Result<()>) -> Option<String> {
    checked.err().map(|error| error.to_string())
}

fn told(loss: &str) -> String {
    let who = if loss.starts_with(anew::RECOVERY) { "" } else { "a salvage gave up " };
    format!("{who}{loss}")
}

fn texts(out: &mut Writer, key: &str, texts: &[String]) {
    out.str(key).array(texts.len());
    texts.iter().for_each(|text| {
        out.str(text);
    });
}

/// Reads the log. Beside a running node, what is half written now is no damage: only what is seen twice in the same place.
fn read_log(disk: &dyn Disk, dir: &Path, in_use: bool) -> Result<wal::Report> {
    let mut report = wal::inspect_on(disk, dir)?;
    if !in_use {
        return Ok(report);
    }
    for _ in 1..LOOKS_MAX {
        let Some(damage) = report.damage.take() else { break };
        let again = wal::inspect_on(disk, dir)?;
        let same = again.damage.as_ref() == Some(&damage);
        report = again;
        if same {
            break;
        }
    }
    if let Some(recovered) = &mut report.recovered {
        // The write that is under way.
        (recovered.cut_bytes, recovered.suspect_upto) = (0, None);
    }
    Ok(report)
}
