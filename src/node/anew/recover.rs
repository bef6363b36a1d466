//! The majority of a cluster is lost for good: one member that is left becomes the only one of a new cluster, with all
//! that its own disk has.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{build, is_ready, take_place, Beginning};
use crate::archive::{self, Archive, Scan, Step};
use crate::base::codec::Writer;
use crate::base::time::SystemClock;
use crate::base::{Clock, ClusterId, Error, JobId, NodeId, Result};
use crate::disk::{differs, quarantine, Lock, Origin, RealDisk};
use crate::machine::record;
use crate::node::open::ARCHIVE_DIR;
use crate::replica::{self, Survivor};

/// Records that one step of reading the old archive takes.
const SCAN_RECORDS: usize = 10_000;

/// What a stopped member has, as a MessagePack map: how far its log reaches, and who would be given up.
///
/// # Errors
/// `Busy`: a process runs on the directory. `Foreign`, `Corrupt`, `Invalid`: see `replica::survivor`.
pub fn survey(dir: &Path) -> Result<Vec<u8>> {
    let _lock = Lock::take(dir)?;
    let state = state(dir)?;
    let given_up = given_up(&state);
    let mut out = Writer::new();
    out.map(9).str("directory").str(&dir.display().to_string());
    out.str("cluster").str(&state.identity.cluster.to_string()).str("node").str(&state.identity.node.to_string());
    out.str("index").u64(state.last.index).str("term").u64(state.last.term);
    out.str("jobs").u64(state.machine.len() as u64);
    out.str("sessions").u64(state.machine.sessions().count() as u64);
    out.str("suspect_upto").option(state.suspect_upto, |out, upto| {
        out.u64(upto);
    });
    out.str("given_up").array(given_up.len());
    given_up.iter().for_each(|member| {
        out.str(member);
    });
    Ok(out.into_bytes())
}

/// Makes the stopped member in this directory the only one of a new cluster. `cluster`: the id that it gets; nothing: one
/// that nobody has. What was there before is kept in `quarantine/before`. Answers with a MessagePack map.
///
/// # Errors
/// As `survey`. Nothing was changed then.
pub fn recover(dir: &Path, cluster: Option<ClusterId>) -> Result<Vec<u8>> {
    let _lock = Lock::take(dir)?;
    if !is_ready(dir) {
        prepare(dir, cluster)?;
    }
    take_place(dir)?;
    super::restore::answer(dir)
}

fn prepare(dir: &Path, cluster: Option<ClusterId>) -> Result<()> {
    let survivor = state(dir)?;
    let given_up = given_up(&survivor);
    let Survivor { identity, machine, last, suspect_upto, .. } = survivor;
    if cluster == Some(identity.cluster) {
        return Err(Error::Invalid(format!(
            "{} is the id of the cluster that is given up; what goes on must have another",
            identity.cluster
        )));
    }
    let now = SystemClock.wall();
    let origin = Origin {
        recovered: true,
        at: now,
        cluster: identity.cluster,
        group: identity.group,
        node: identity.node,
        index: last.index,
        term: last.term,
        source: fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string(),
        given_up: given_up.clone(),
    };
    let damaged = suspect_upto.map(|upto| format!(", and what its own log had behind its damage, up to entry {upto}"));
    // Written before anything is changed, so that a power cut cannot leave a loss that nobody was told of.
    quarantine::note_loss(
        &RealDisk,
        dir,
        &format!(
            "{RECOVERY} at entry {} of cluster {}: what only {} had was given up{}",
            last.index,
            identity.cluster,
            words(&given_up),
            damaged.unwrap_or_default()
        ),
    )?;
    let evicted_upto = machine.evicted_upto();
    let options = archive::Options {
        path: dir.join(ARCHIVE_DIR),
        cluster: identity.cluster,
        group: identity.group,
        evicted_upto,
        now,
        keep_until: record::keep_until_ms,
        labels: record::labels,
    };
    // History is derived: without it the work goes on.
    let archive = Archive::open(options).inspect_err(|error| log::warn!("the history is left out: {error}")).ok();
    build(dir, Beginning { machine, cluster, now, origin }, &mut |visit| match &archive {
        Some(archive) => read_all(archive, visit),
        None => Ok(()),
    })
}

/// The first words of a loss that a recovery wrote down.
pub(in crate::node) const RECOVERY: &str = "a recovery";

fn words(given_up: &[String]) -> String {
    if given_up.is_empty() {
        "nobody else".into()
    } else {
        given_up.join(", ")
    }
}

fn read_all(archive: &Archive, visit: &mut dyn FnMut(JobId, &[u8]) -> Result<()>) -> Result<()> {
    let mut before = None;
    loop {
        let mut outcome = Ok(());
        let scan = Scan { before, wanted: Vec::new(), records_max: SCAN_RECORDS };
        let scanned = archive.scan(&scan, &mut |id, record| {
            outcome = visit(id, record);
            if outcome.is_ok() {
                Step::Next
            } else {
                Step::Stop
            }
        })?;
        outcome?;
        before = scanned.next;
        if before.is_none() {
            return Ok(());
        }
    }
}

pub(super) fn state(dir: &Path) -> Result<Survivor> {
    // A cluster must not begin with a state that the one before had found to be wrong.
    differs::check(&RealDisk, dir)?;
    replica::survivor(Arc::new(RealDisk), dir)
}

/// The other members, in words.
fn given_up(survivor: &Survivor) -> Vec<String> {
    let own = survivor.identity.node;
    let listed: Vec<_> = survivor.machine.members().collect();
    let described = listed.iter().map(|member| (member.node, format!("member {} ({})", member.node, member.raft)));
    let known: Vec<NodeId> = listed.iter().map(|member| member.node).collect();
    let unlisted = survivor.members.iter().filter(|node| !known.contains(node));
    let all = described.chain(unlisted.map(|node| (*node, format!("member {node}"))));
    all.filter(|(node, _)| *node != own).map(|(_, words)| words).collect()
}
