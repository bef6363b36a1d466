//! The members beside its own that a directory names: what a process that reaches none of them must not lead without, and
//! what no salvage may forget. A lone voter of a group that has others would be a second leader of it.
//!
//! What counts
//! * A snapshot names the members at its place; changes behind it in the log add to them, known to be committed or not. One
//!   that takes somebody out counts only if it is known to be.
//! * Where the log is damaged, every group that can still be read is a witness, also behind the damage: what cannot be read
//!   may have taken in anybody, and nobody is taken out.
//! * Where no snapshot says who the members are, so is a vote for another, or its address.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::entry;
use super::open::{joins, load_snapshot};
use super::persist::kind_of;
use crate::base::{Error, NodeId, Result};
use crate::consensus::Named;
use crate::disk::{Disk, Identity};
use crate::machine::{listed_by, Member};
use crate::snapshot::{self, SnapshotMeta, SnapshotStore};
use crate::wal::frame::GroupContent;
use crate::wal::{self, Recovered, WalEntry};

/// Who is named beside a directory's own member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    pub nodes: BTreeSet<NodeId>,
    /// How members were reached, its own included, as far as its files tell.
    pub listed: BTreeMap<NodeId, Member>,
}

/// Refuses a directory that names others, before anything in it is changed. `newest`: its newest snapshot.
pub(super) fn check_alone(dir: &Path, own: &Identity, newest: Option<&SnapshotMeta>, log: &Recovered) -> Result<()> {
    if joins(log, newest) {
        return Err(Error::Member(format!(
            "{} is the data directory of node {}, which joins a cluster and has no state yet; without its settings it \
             reaches nobody",
            dir.display(),
            own.node
        )));
    }
    refuse(dir, own, &others(own, newest, log))
}

fn refuse(dir: &Path, own: &Identity, others: &BTreeSet<NodeId>) -> Result<()> {
    if others.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = others.iter().map(|node| format!("node {node}")).collect();
    Err(Error::Member(format!(
        "{} is the data directory of node {}, one of several members of a cluster (the others: {}), and this process has no \
         `listen` setting: it cannot reach them, and would take for the whole cluster what is only its part",
        dir.display(),
        own.node,
        words.join(", ")
    )))
}

/// The same by the newest snapshot, so that most directories that are refused are so at once.
pub(super) fn check_alone_early(disk: &dyn Disk, dir: &Path, own: &Identity) -> Result<()> {
    let Some(newest) = snapshot::newest_header_on(disk, dir)? else { return Ok(()) };
    let others = others(own, Some(&newest), &Recovered::default());
    if others.is_empty() {
        return Ok(());
    }
    // It may be the last of them by now, if its log says so.
    match wal::read_on(disk, dir) {
        Ok(Some(log)) => check_alone(dir, own, Some(&newest), &log),
        _ => refuse(dir, own, &others),
    }
}

/// Whom a directory names, as it lies on the disk, damaged or not. `newest`: what its newest snapshot says, or the header of
/// that. Changes nothing.
///
/// # Errors
/// Only if the directory cannot be read.
pub fn others_on(disk: &Arc<dyn Disk>, dir: &Path, own: &Identity, newest: Option<&SnapshotMeta>) -> Result<Others> {
    let known = wal::read_on(&**disk, dir).ok().flatten().filter(|_| newest.is_some());
    let nodes = match known {
        Some(log) => others(own, newest, &log),
        None => witnessed(&**disk, dir, own, newest)?,
    };
    let listed = if nodes.is_empty() { BTreeMap::new() } else { listed(disk, dir, own)? };
    Ok(Others { nodes, listed })
}

/// Whom anything names that can be read.
fn witnessed(disk: &dyn Disk, dir: &Path, own: &Identity, newest: Option<&SnapshotMeta>) -> Result<BTreeSet<NodeId>> {
    let (mut found, base) = (members_of(newest), newest.map_or(0, |meta| meta.index));
    wal::visit_on(disk, dir, &mut |group| {
        if newest.is_none() {
            found.extend(group.hard_state.map(|state| state.vote).filter(|vote| *vote != 0));
            found.extend(listed_in(&group).map(|member| member.node.0));
        }
        for named in group.entries.iter().filter(|entry| entry.index > base).filter_map(named_by) {
            found.extend([named.come, named.go].concat());
        }
    })?;
    found.remove(&own.node.0);
    Ok(found.into_iter().map(NodeId).collect())
}

/// How members were reached, as far as the newest snapshot and the log tell.
fn listed(disk: &Arc<dyn Disk>, dir: &Path, own: &Identity) -> Result<BTreeMap<NodeId, Member>> {
    let snapshots = SnapshotStore::look(disk.clone(), dir, own);
    let machine = snapshots.and_then(|snapshots| load_snapshot(&snapshots, dir)).map(|(_, machine)| machine).ok();
    let members = machine.iter().flat_map(|machine| machine.members());
    let mut listed: BTreeMap<NodeId, Member> = members.map(|member| (member.node, member.clone())).collect();
    wal::visit_on(&**disk, dir, &mut |group| {
        listed.extend(listed_in(&group).map(|member| (member.node, member)));
    })?;
    Ok(listed)
}

fn listed_in(group: &GroupContent) -> impl Iterator<Item = Member> + '_ {
    let requests = group.entries.iter().filter_map(|entry| entry::split(&entry.data).ok());
    requests.filter_map(|(_, request)| listed_by(request))
}

/// Whom a snapshot and the whole log behind it name.
fn others(own: &Identity, newest: Option<&SnapshotMeta>, log: &Recovered) -> BTreeSet<NodeId> {
    let mut members = members_of(newest);
    let mut leaving: Vec<u64> = newest.iter().flat_map(|meta| leavers(meta)).collect();
    let base = newest.map_or(0, |meta| meta.index);
    for entry in log.entries.iter().filter(|entry| entry.index > base) {
        let Some(named) = named_by(entry) else { continue };
        members.extend(named.come);
        let committed = entry.index <= log.hard_state.commit;
        match (named.joint, committed) {
            (true, true) => leaving.extend(named.go),
            (false, true) => members.retain(|node| !named.go.contains(node)),
            (_, false) => {}
        }
        if named.ends_joint && committed {
            members.retain(|node| !leaving.contains(node));
            leaving.clear();
        }
    }
    members.remove(&own.node.0);
    members.into_iter().map(NodeId).collect()
}

fn named_by(entry: &WalEntry) -> Option<Named> {
    Named::read(kind_of(entry.kind)?, &entry.data)
}

fn members_of(meta: Option<&SnapshotMeta>) -> BTreeSet<u64> {
    let lists = meta.map(|meta| [&meta.voters, &meta.learners, &meta.voters_outgoing, &meta.learners_next]);
    lists.into_iter().flatten().flatten().copied().collect()
}

/// Who is in a joint configuration only until its end.
fn leavers(meta: &SnapshotMeta) -> Vec<u64> {
    let stays = |node: &u64| [&meta.voters, &meta.learners, &meta.learners_next].iter().any(|list| list.contains(node));
    meta.voters_outgoing.iter().filter(|node| !stays(node)).copied().collect()
}
