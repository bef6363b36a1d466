//! From a directory to a replica: make it if it is new, else read it, check it, replay it.
//!
//! What is checked before raft-rs sees anything, because raft-rs panics where we want to say what is wrong:
//! * there is a snapshot, and the log reaches from it without a gap to its end
//! * the term at the snapshot is the one the snapshot names; terms never decrease
//! * the commit index lies inside the log, and the hard state's term is not older than the last entry
//! * this node is a member
//!
//! A node that joins a group has neither snapshot nor entries until the leader sends it a state. Its log has no mark, and
//! that is how it is told from a member that lost something: the log of every member begins with one.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::doubt::{Doubt, Odd};
use super::forward::Forwards;
use super::log_store::{LogCache, Position};
use super::members::Watch;
use super::others::{check_alone, check_alone_early};
use super::persist::restored;
use super::reads::Reads;
use super::room::Room;
use super::suspicion::Suspicion;
use super::tickets::Tickets;
use super::upkeep::metadata;
use super::{Outbox, Replica, Turn, Upkeep};
use crate::base::planted::{has, Bug};
use crate::base::sync::RwLock;
use crate::base::{ClusterId, Error, GroupId, JobId, LogIndex, Millis, NodeId, Result, Term};
use crate::consensus::{ConfState, Core, CoreConfig, Entry, Event, HardState, LogStore, Role};
use crate::disk::{ensure_dir, quarantine, Disk, Identity};
use crate::machine::{Bounds, Loader, Machine, STATE_VERSION};
use crate::snapshot::{self, SnapshotMeta, SnapshotStore};
use crate::wal::{self, Group, Mark, Recovered, Wal, WalConfig};

/// A new group begins with a snapshot of the empty state here, so that a later member must fetch it and with it learns
/// who the first members were.
pub const FIRST: Mark = Mark { index: 1, term: 1 };

/// Where a replica lives and how large its log and its state may become.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub segment_bytes: usize,
    /// Bytes of log since the last snapshot that make the next one due.
    pub snapshot_bytes: u64,
    /// Bytes of log since the last snapshot at which `has_room` turns false.
    pub log_bytes_max: u64,
    /// Bytes of entries before the newest snapshot that stay in memory for members that fell behind.
    pub log_bytes_for_peers: usize,
    /// What the state may hold before this member lets no more in.
    pub bounds: Bounds,
    /// When a new directory is made: the time to write into its identity.
    pub now: Millis,
    /// When a new directory is made: whom it belongs to. Nothing: a group of its own with one member.
    pub newcomer: Option<Newcomer>,
    /// Whether this process reaches no other member: then a directory that names others is refused.
    pub alone: bool,
}

/// A member of a group that begins with several, each of which makes its directory from the same list; or a node that
/// joins a group.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub cluster: ClusterId,
    /// Never used before in this cluster: an id means a disk, and goes with it.
    pub node: NodeId,
    /// All first members, this one included. Nobody: it joins, and waits for the leader to send it a state.
    pub voters: Vec<NodeId>,
}

/// What was noticed while opening and did not prevent it.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub cut_bytes: u64,
    /// The torn end may have been answered: a lone node goes on, and says so.
    pub suspect_upto: Option<u64>,
    /// What salvages of this directory gave up, in words.
    pub losses: Vec<String>,
    pub replayed: usize,
    /// Jobs whose deletion was replayed: an archive may still have them, if the process ended at once.
    pub deleted: Vec<JobId>,
}

impl Opened {
    fn note<T>(&mut self, turn: Turn<T>) {
        self.replayed += turn.applied;
        self.deleted.extend(turn.effects.deleted);
    }
}

/// What was read from a directory, and checked.
struct Stored {
    identity: Identity,
    snapshots: Arc<SnapshotStore>,
    wal: Wal,
    recovered: Recovered,
    meta: SnapshotMeta,
    machine: Machine,
}

impl<T> Replica<T> {
    /// Opens or makes the directory. A lone member leads: the first entry of the new term is committed when this returns.
    /// One of several follows until an election. `outbox` gets the messages to the others.
    ///
    /// # Errors
    /// `Member` if this process reaches nobody and the directory names others. Nothing was changed then.
    pub fn open(config: &ReplicaConfig, outbox: Outbox) -> Result<(Replica<T>, Opened)> {
        let identity = match Identity::load(&*config.disk, &config.dir)? {
            Some(identity) => identity,
            None => bootstrap(config)?,
        };
        if config.alone {
            check_alone_early(&*config.disk, &config.dir, &identity)?;
        }
        let snapshots = Arc::new(SnapshotStore::open(config.disk.clone(), &config.dir, &identity)?);
        let check_alone = |log: &Recovered| match config.alone {
            true => check_alone(&config.dir, &identity, snapshots.latest().as_ref(), log),
            false => Ok(()),
        };
        let (disk, wal_config) = (config.disk.clone(), wal_config(config, false));
        let (mut wal, mut recovered) = Wal::open_if(disk, &config.dir, &identity, wal_config, &check_alone)?;
        let joins = joins(&recovered, snapshots.latest().as_ref());
        if joins {
            // It voted for nobody, so what its log lost was no vote.
            recovered.suspect_upto = None;
        } else {
            begin_log(&mut wal, &mut recovered)?;
        }
        snapshots.settle(recovered.mark.map(|mark| (mark.index, mark.term)))?;
        let (meta, machine) = match joins {
            true => (SnapshotMeta::default(), Machine::new()),
            false => load_snapshot(&snapshots, &config.dir)?,
        };
        if needs_restart(&meta, &recovered) {
            restart_log(&mut wal, &mut recovered, &meta)?;
        }
        check(&config.dir, &identity, &meta, &recovered).map_err(|error| blame(error, &snapshots, &meta))?;
        let losses = quarantine::losses(&*config.disk, &config.dir)?;
        let (cut_bytes, suspect_upto) = (recovered.cut_bytes, recovered.suspect_upto);
        let mut opened = Opened { cut_bytes, suspect_upto, losses, ..Opened::default() };
        let stored = Stored { identity, snapshots, wal, recovered, meta, machine };
        let mut replica = Replica::assemble(config, stored, outbox)?;
        opened.note(replica.follow()?);
        // Only now: the entries may have told of other members.
        if replica.alone() {
            replica.doubt.end();
            opened.note(replica.lead()?);
        }
        Ok((replica, opened))
    }

    fn assemble(config: &ReplicaConfig, stored: Stored, outbox: Outbox) -> Result<Replica<T>> {
        let Stored { identity, snapshots, wal, recovered, meta, machine } = stored;
        let suspect_upto = recovered.suspect_upto.filter(|_| !has(Bug::SuspectVotes));
        let suspicion = suspect_upto.map(|upto| Suspicion::new(LogIndex(upto)));
        let known = recovered.hard_state;
        let mut hard_state = HardState { term: known.term, vote: known.vote, ..HardState::default() };
        // A snapshot holds only what is committed, and the commit index is written late.
        hard_state.commit = if has(Bug::CommitBehindSnapshot) { known.commit } else { known.commit.max(meta.index) };
        let metadata = metadata(&meta);
        let members: ConfState = metadata.get_conf_state().clone();
        let mut log = LogCache::new(metadata, hard_state);
        log.append(&entries_behind(&config.dir, meta.index, recovered)?);
        let seed = config.disk.random();
        let core = Core::new(CoreConfig { id: identity.node, applied: LogIndex(meta.index), seed }, log)?;
        let newest = LogIndex(meta.index);
        Ok(Replica {
            core,
            wal,
            snapshots,
            stamped: machine.clock(),
            machine: Arc::new(RwLock::new(machine)),
            identity,
            members,
            applied: Position { index: newest, term: Term(meta.term) },
            hard_state: None,
            tickets: Tickets::default(),
            forwards: Forwards::new(config.disk.random() >> 16),
            reads: Reads::new(config.disk.random()),
            leaderless: 0,
            actions: VecDeque::new(),
            room: Room::new(),
            upkeep: Upkeep::new(config, newest),
            bounds: config.bounds,
            outbox,
            herald: None,
            suspicion,
            change: None,
            watch: Watch::default(),
            removed: false,
            doubt: Doubt::default(),
            odd: Odd::default(),
            withheld: BTreeSet::new(),
            digest_told: Default::default(),
            failed: None,
        })
    }

    /// Replays what is known to be committed.
    fn follow(&mut self) -> Result<Turn<T>> {
        let mut turn = Turn::default();
        let mut actions = Vec::new();
        if has(Bug::SkipAtStart) && self.last_index() > self.applied.index {
            self.applied.index.0 += 1;
        }
        self.core.step(Event::Applied(self.applied.index), &mut actions);
        self.actions.extend(actions);
        self.settle(&mut turn)?;
        Ok(turn)
    }

    /// Campaigns, after everything was replayed that is known to be committed: raft-rs refuses to campaign over a
    /// membership change that is not applied. With one voter it leads at once, and its first entry commits whatever else
    /// the log holds.
    fn lead(&mut self) -> Result<Turn<T>> {
        let mut turn = Turn::default();
        self.suspicion = None; // There is nobody to ask.
        let mut actions = Vec::new();
        self.core.step(Event::Campaign, &mut actions);
        self.actions.extend(actions);
        self.settle(&mut turn)?;
        if self.is_stalled() {
            return Err(Error::DiskFull("the log has no room for its first entry".into()));
        }
        if self.role() != Role::Leader || self.applied.index != self.last_index() {
            return Err(Error::Poisoned(format!(
                "the node did not become leader: {} in term {}, applied {} of {}",
                self.role().name(),
                self.term(),
                self.applied.index,
                self.last_index()
            )));
        }
        Ok(turn)
    }
}

fn wal_config(config: &ReplicaConfig, create: bool) -> WalConfig {
    WalConfig { segment_bytes: config.segment_bytes, create, ..WalConfig::default() }
}

fn alone(disk: &dyn Disk) -> Newcomer {
    let mut cluster = [0; 16];
    cluster[..8].copy_from_slice(&disk.random().to_le_bytes());
    cluster[8..].copy_from_slice(&disk.random().to_le_bytes());
    let node = NodeId(disk.random().max(1));
    Newcomer { cluster: ClusterId(cluster), node, voters: vec![node] }
}

/// Makes a new group in a directory without an identity. The identity is written last: a crash before it leaves
/// nothing that counts, and the next attempt clears it away.
fn bootstrap(config: &ReplicaConfig) -> Result<Identity> {
    let disk = &*config.disk;
    let Newcomer { cluster, node, voters } = config.newcomer.clone().unwrap_or_else(|| alone(disk));
    let identity = Identity { cluster, group: GroupId(1), node, created: config.now };
    ensure_dir(disk, &config.dir)?;
    clear_snapshots(disk, &config.dir)?;
    let (_, recovered) = Wal::open(config.disk.clone(), &config.dir, &identity, wal_config(config, true))?;
    // An attempt with the same id may have made it already, but nothing is written to it before there is an identity.
    if !recovered.created && !is_new(&recovered) {
        return Err(no_identity(&config.dir));
    }
    if !voters.is_empty() {
        write_state(config.disk.clone(), &config.dir, &identity, &Machine::new(), FIRST, &voters)?;
    }
    identity.store(disk, &config.dir)?;
    Ok(identity)
}

/// Writes a state as the snapshot at `at` of a group with these members.
pub fn write_state(
    disk: Arc<dyn Disk>,
    dir: &Path,
    identity: &Identity,
    machine: &Machine,
    at: Mark,
    voters: &[NodeId],
) -> Result<()> {
    let (snapshots, image) = (SnapshotStore::open(disk, dir, identity)?, machine.capture());
    let mut writer = snapshots.begin(SnapshotMeta {
        index: at.index,
        term: at.term,
        voters: voters.iter().map(|voter| voter.0).collect(),
        now: machine.clock(),
        state_version: image.state_version(),
        ..SnapshotMeta::default()
    })?;
    image.write(&mut |section, chunk| writer.chunk(section, chunk))?;
    writer.finish().map(|_| ())
}

/// Removes the first snapshot of an attempt that did not get as far as its identity. Any later one holds work.
fn clear_snapshots(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let snapshots = dir.join(snapshot::DIR_NAME);
    for name in disk.list(&snapshots)? {
        if !name.starts_with(&format!("c-{:020}-", FIRST.index)) && !name.ends_with(".tmp") {
            return Err(no_identity(dir));
        }
        disk.remove(&snapshots.join(name))?;
    }
    Ok(())
}

fn no_identity(dir: &Path) -> Error {
    Error::Foreign(format!("{} holds data but no IDENTITY; put that file back from a backup", dir.display()))
}

/// The log of a new group continues its first snapshot. Written at the first opening, not when the directory is made: a
/// log that holds anything would be taken for one that lost its identity.
fn begin_log(wal: &mut Wal, recovered: &mut Recovered) -> Result<()> {
    if !is_new(recovered) {
        return Ok(());
    }
    let hard_state = begun();
    wal.append_group(&Group { hard_state: Some(hard_state), mark: Some(FIRST), ..Group::default() })?;
    recovered.hard_state = hard_state;
    (recovered.previous_index, recovered.previous_term) = (FIRST.index, FIRST.term);
    Ok(())
}

/// Whether the log lost its end before the newest snapshot. Then the snapshot has all that was lost up to it.
///
/// What was lost may have replaced entries, which the log shows again: then it is none of the snapshot's, behind it too. A log
/// that begins behind the snapshot has lost something else, and is refused by `check`.
fn needs_restart(meta: &SnapshotMeta, log: &Recovered) -> bool {
    let reaches = log.previous_index <= meta.index;
    log.suspect_upto.is_some() && reaches && (log.last_index() < meta.index || !fits(meta, log))
}

/// Whether the log has the entry of the snapshot. 0: it does not know the term before its first entry.
fn fits(meta: &SnapshotMeta, log: &Recovered) -> bool {
    let term = term_at(meta.index, log);
    term == meta.term || term == 0
}

/// The term of an entry that the log has, or of the one before its first.
fn term_at(index: u64, log: &Recovered) -> u64 {
    match index.checked_sub(log.previous_index + 1) {
        Some(place) => log.entries[place as usize].term,
        None => log.previous_term,
    }
}

/// Begins the log anew behind the newest snapshot. It stays suspect: entries behind the snapshot may be lost too.
fn restart_log(wal: &mut Wal, recovered: &mut Recovered, meta: &SnapshotMeta) -> Result<()> {
    let hard_state = behind(recovered, meta);
    let mark = Mark { index: meta.index, term: meta.term };
    wal.append_group(&Group { hard_state: Some(hard_state), mark: Some(mark), restart: true, ..Group::default() })?;
    restarted(recovered, hard_state, meta);
    Ok(())
}

fn behind(log: &Recovered, meta: &SnapshotMeta) -> wal::HardState {
    // A vote of a lower term is worth nothing in a higher one.
    let vote = if log.hard_state.term >= meta.term { log.hard_state.vote } else { 0 };
    wal::HardState { term: log.hard_state.term.max(meta.term), vote, commit: meta.index }
}

fn restarted(log: &mut Recovered, hard_state: wal::HardState, meta: &SnapshotMeta) {
    log.entries.clear();
    (log.previous_index, log.previous_term, log.hard_state) = (meta.index, meta.term, hard_state);
    log.suspect_upto = log.suspect_upto.map(|upto| upto.max(meta.index + 1));
}

/// Whether this is the log of a node that joins and has no state yet.
pub(super) fn joins(log: &Recovered, newest: Option<&SnapshotMeta>) -> bool {
    newest.is_none() && log.mark.is_none() && log.last_index() == 0
}

/// Whether nothing was ever written to a log.
fn is_new(log: &Recovered) -> bool {
    log.last_index() == 0 && log.hard_state == wal::HardState::default()
}

/// The hard state of a group behind its first snapshot.
fn begun() -> wal::HardState {
    wal::HardState { term: FIRST.term, vote: 0, commit: FIRST.index }
}

/// The newest whole snapshot and the state in it.
pub fn load_snapshot(snapshots: &SnapshotStore, dir: &Path) -> Result<(SnapshotMeta, Machine)> {
    let meta = snapshots.latest().ok_or_else(|| corrupt(dir, NO_SNAPSHOT))?;
    check_version(dir, &meta)?;
    let machine = load(snapshots, &meta, &mut || {})?;
    Ok((meta, machine))
}

/// The state machine out of a snapshot. Calls `between` after each chunk.
pub(super) fn load(snapshots: &SnapshotStore, meta: &SnapshotMeta, between: &mut dyn FnMut()) -> Result<Machine> {
    let mut loader = Loader::new();
    snapshots.read(meta, &mut |section, chunk| {
        loader.section(section, chunk)?;
        between();
        Ok(())
    })?;
    loader.finish()
}

/// A log that does not fit the snapshot may fit a newer one that was not used: then that is what is wrong.
fn blame(error: Error, snapshots: &SnapshotStore, used: &SnapshotMeta) -> Error {
    let newer = snapshots.damaged().into_iter().find(|damaged| damaged.index > used.index);
    match (error, newer.map(|damaged| damaged.error)) {
        (Error::Corrupt { message: then, .. }, Some(Error::Corrupt { path, offset, message })) => {
            Error::Corrupt { path, offset, message: format!("{message} (without it {then})") }
        }
        (error, _) => error,
    }
}

const NO_SNAPSHOT: &str = "there is no whole snapshot, and a log alone has no beginning";

pub(super) fn corrupt(dir: &Path, message: impl Into<String>) -> Error {
    let message = format!("{}; `raftwork doctor` shows what is there", message.into());
    Error::Corrupt { path: dir.display().to_string(), offset: 0, message }
}

fn check_version(dir: &Path, meta: &SnapshotMeta) -> Result<()> {
    if meta.state_version > STATE_VERSION {
        return Err(Error::Foreign(format!(
            "the snapshot in {} has state version {}, this program knows {STATE_VERSION}; use a newer raftwork",
            dir.display(),
            meta.state_version
        )));
    }
    Ok(())
}

/// Whether a start from this snapshot and this log would be refused, without starting. The log is read from the disk.
pub fn rehearse(disk: &dyn Disk, dir: &Path, identity: &Identity, meta: Option<&SnapshotMeta>) -> Result<()> {
    let mut log = wal::read_on(disk, dir)?.ok_or_else(|| corrupt(dir, "the log is missing"))?;
    if joins(&log, meta) {
        return Ok(());
    }
    let meta = meta.ok_or_else(|| corrupt(dir, NO_SNAPSHOT))?;
    if is_new(&log) {
        (log.previous_index, log.previous_term, log.hard_state) = (FIRST.index, FIRST.term, begun());
    }
    if needs_restart(meta, &log) {
        let hard_state = behind(&log, meta);
        restarted(&mut log, hard_state, meta);
    }
    check_version(dir, meta)?;
    check(dir, identity, meta, &log)
}

pub(super) fn check(dir: &Path, identity: &Identity, meta: &SnapshotMeta, log: &Recovered) -> Result<()> {
    let (previous, last) = (log.previous_index, log.last_index());
    if previous > meta.index {
        let text = format!("the log begins behind {previous}, the newest whole snapshot is at {}", meta.index);
        return Err(corrupt(dir, text));
    }
    if last < meta.index {
        return Err(corrupt(dir, format!("the log ends at {last}, before the snapshot at {}", meta.index)));
    }
    if !fits(meta, log) {
        let at_snapshot = term_at(meta.index, log);
        let text = format!("entry {} has term {at_snapshot}, its snapshot term {}", meta.index, meta.term);
        return Err(corrupt(dir, text));
    }
    if let Some(pair) = log.entries.windows(2).find(|pair| pair[0].term > pair[1].term) {
        return Err(corrupt(dir, format!("the term decreases at entry {}", pair[1].index)));
    }
    if log.hard_state.commit > last {
        let text = format!("the log ends at {last}, but {} is committed", log.hard_state.commit);
        return Err(corrupt(dir, text));
    }
    if log.entries.last().is_some_and(|entry| entry.term > log.hard_state.term) {
        return Err(corrupt(dir, format!("the log is newer than term {}", log.hard_state.term)));
    }
    let members = [&meta.voters, &meta.learners, &meta.voters_outgoing];
    if meta.index > 0 && !members.into_iter().flatten().any(|member| *member == identity.node.0) {
        return Err(Error::Foreign(format!(
            "node {} is not a member of the group in {}; use another directory",
            identity.node,
            dir.display()
        )));
    }
    Ok(())
}

pub(super) fn entries_behind(dir: &Path, index: u64, log: Recovered) -> Result<Vec<Entry>> {
    let behind = log.entries.into_iter().filter(|entry| entry.index > index);
    behind
        .map(|entry| {
            let (kind, index) = (entry.kind, entry.index);
            restored(entry).ok_or_else(|| corrupt(dir, format!("entry {index} has the unknown kind {kind}")))
        })
        .collect()
}
