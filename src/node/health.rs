//! `health`: one MessagePack map about everything that a person on call would ask. Never waits for the disk. Each key is
//! described in `docs/reference/health.md`.

use std::sync::atomic::Ordering;

use super::hello::Runs;
use super::metrics::Figures;
use super::{anew, Shared};
use crate::base::codec::Writer;
use crate::base::{limits, NodeId, RELEASE};
use crate::machine::known;
use crate::net::{Security, Tls};
use crate::replica::Role;

/// A map whose length is known when everything is in it.
struct Map {
    values: Writer,
    length: usize,
}

impl Map {
    fn new() -> Self {
        Self { values: Writer::new(), length: 0 }
    }

    fn put(&mut self, key: &str, write: impl FnOnce(&mut Writer) -> &mut Writer) -> &mut Self {
        self.values.str(key);
        write(&mut self.values);
        self.length += 1;
        self
    }

    fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.put(key, |writer| writer.u64(value))
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.put(key, |writer| writer.str(value))
    }

    fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.put(key, |writer| writer.bool(value))
    }

    fn map(&mut self, key: &str, inner: Map) -> &mut Self {
        self.put(key, |writer| writer.raw(&inner.into_bytes()))
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Writer::with_capacity(self.values.len() + 5);
        bytes.map(self.length).raw(self.values.as_bytes());
        bytes.into_bytes()
    }
}

fn text_or_nil(writer: &mut Writer, text: Option<String>) -> &mut Writer {
    match text {
        Some(text) => writer.str(&text),
        None => writer.nil(),
    }
}

fn number_or_nil(writer: &mut Writer, number: Option<u64>) -> &mut Writer {
    match number {
        Some(number) => writer.u64(number),
        None => writer.nil(),
    }
}

/// How many of how many voters answer, and how many more may go. Only the leader knows.
fn quorum_health(figures: &Figures, own: NodeId) -> Map {
    let members = &figures.members;
    let heard =
        |node: &&NodeId| **node == own || members.peers.iter().any(|peer| peer.node == **node && peer.recently_active);
    // While a voter is replaced, majorities of the old and of the new ones are needed.
    let spare = |voters: &[NodeId]| voters.iter().filter(heard).count() as i64 - (voters.len() / 2 + 1) as i64;
    let spares = [&members.voters, &members.outgoing].into_iter().filter(|voters| !voters.is_empty());
    let can_lose = spares.map(|voters| spare(voters)).min().unwrap_or(0).max(0) as u64;
    let leads = figures.role == Role::Leader.name();
    let answering = members.voters.iter().filter(heard).count() as u64;
    let mut map = Map::new();
    map.number("voters", members.voters.len() as u64)
        .number("needed", members.voters.len() as u64 / 2 + 1)
        .put("answering", |writer| number_or_nil(writer, leads.then_some(answering)))
        .put("can_lose", |writer| number_or_nil(writer, leads.then_some(can_lose)));
    map
}

/// How far the others are. Only the leader knows.
fn peers_health<'a>(
    writer: &'a mut Writer,
    figures: &Figures,
    tick_ms: u64,
    runs: impl Fn(NodeId) -> Option<Runs>,
) -> &'a mut Writer {
    writer.array(figures.members.peers.len());
    for peer in &figures.members.peers {
        let mut map = Map::new();
        let (release, level) = runs(peer.node).map(|runs| (runs.release, runs.level)).unzip();
        map.text("node", &peer.node.to_string())
            .number("matched", peer.matched.0)
            .number("lag_entries", figures.index.0.saturating_sub(peer.matched.0))
            .flag("answers", peer.recently_active)
            .put("silent_ms", |writer| number_or_nil(writer, peer.silent_ticks.map(|ticks| ticks * tick_ms)))
            .text("state", peer.state.name())
            .put("version", |writer| text_or_nil(writer, release))
            .put("knows_level", |writer| number_or_nil(writer, level));
        writer.raw(&map.into_bytes());
    }
    writer
}

fn told_loss(loss: &str) -> String {
    let who = if loss.starts_with(anew::RECOVERY) { "" } else { "a salvage gave up " };
    format!("work was lost: {who}{loss}; remove quarantine/LOST when that is settled")
}

impl Shared {
    pub(super) fn health(&self) -> Vec<u8> {
        let figures = self.figures.lock().clone();
        let (syncs_p50, syncs_p99, syncs) = self.syncs.summary();
        let level = self.machine.read().level();
        let mut map = Map::new();
        map.text("node", &self.identity.node.to_string())
            .text("cluster", &self.identity.cluster.to_string())
            .text("version", RELEASE)
            .number("feature_level", level)
            .number("knows_level", known())
            .text("role", figures.role)
            .number("term", figures.term.0)
            .put("leader", |writer| text_or_nil(writer, figures.leader.map(|leader| leader.to_string())))
            .flag("voter", figures.members.voters.contains(&self.identity.node))
            .number("voters", figures.members.voters.len() as u64)
            .number("learners", figures.members.learners.len() as u64)
            .number("peers_connected", self.post.as_ref().map_or(0, |post| post.connected()) as u64)
            .flag("cut_off", self.ticks.is_cut_off())
            .flag("ready", self.is_ready())
            .put("staleness_ms", |writer| number_or_nil(writer, self.staleness().map(|age| age.0)))
            .map("quorum", quorum_health(&figures, self.identity.node))
            .put("peers", |writer| {
                peers_health(writer, &figures, self.tick().as_millis() as u64, |node| self.runs(node))
            })
            .text("protection", self.protection())
            .put("certificate_expires_ms", |writer| number_or_nil(writer, self.certificate_expires_ms()))
            .number("index", figures.index.0)
            .number("committed", figures.committed.0)
            .number("applied", figures.applied.0)
            .text("durability", "fsync")
            .put("origin", |writer| writer.option(self.origin.as_ref(), |writer, origin| origin.write(writer)))
            .number("log_bytes", figures.log_bytes)
            .number("log_bytes_since_snapshot", figures.log_bytes_open)
            .number("snapshot_index", figures.snapshot_index.0)
            .number("snapshot_bytes", figures.snapshot_bytes)
            .flag("snapshot_running", figures.snapshot_running)
            .number("snapshot_capture_us", figures.snapshot_capture_us)
            .number("turns", figures.turns)
            .number("entries", figures.entries)
            .number("group_entries_max", figures.group_entries_max as u64)
            .number("fsyncs", syncs)
            .number("fsync_p50_us", syncs_p50)
            .number("fsync_p99_us", syncs_p99)
            .map("inbox", self.inbox_health())
            .number("sessions", self.sessions.lock().len() as u64)
            .map("archive", self.archive_health());
        let (watchers, armed, waits) = self.wakeups.figures();
        map.number("watchers", watchers as u64).number("watchers_armed", armed as u64).number("waits", waits as u64);
        {
            let machine = self.machine.read();
            map.number("jobs", machine.len() as u64).number("state_bytes", machine.bytes());
            map.number("now_ms", machine.clock().0);
        }
        let bounds = &self.config.bounds;
        map.number("jobs_max", bounds.jobs as u64).number("state_bytes_max", bounds.bytes);
        let alarms = self.alarms();
        map.put("alarms", |writer| {
            writer.array(alarms.len());
            alarms.iter().fold(writer, |writer, alarm| writer.str(alarm))
        });
        map.into_bytes()
    }

    /// What protects connections to other machines.
    pub(super) fn protection(&self) -> &'static str {
        match self.config.cluster.as_ref().map(|cluster| &cluster.security) {
            None => "no port",
            Some(Security::Plain) => "this machine only",
            Some(Security::Insecure) => "insecure",
            Some(Security::Tls(_)) => "tls",
        }
    }

    fn tls(&self) -> Option<&Tls> {
        match self.config.cluster.as_ref().map(|cluster| &cluster.security) {
            Some(Security::Tls(tls)) => Some(tls),
            _ => None,
        }
    }

    pub(super) fn certificate_expires_ms(&self) -> Option<u64> {
        self.tls()?.expires_at().map(|at| at.0)
    }

    fn inbox_health(&self) -> Map {
        let (requests, bytes, _) = self.inbox.figures();
        let mut map = Map::new();
        map.number("requests", requests as u64)
            .number("bytes", bytes as u64)
            .number("requests_max", self.config.inbox_requests_max as u64)
            .number("bytes_max", self.config.inbox_bytes_max as u64);
        map
    }

    fn archive_health(&self) -> Map {
        let mut map = Map::new();
        let archive = self.archive.read();
        map.flag("open", archive.is_some());
        if let Some(archive) = &*archive {
            let health = archive.health();
            map.number("records", health.records).number("bytes", health.bytes).number("watermark", health.watermark);
            map.put("lost", |writer| text_or_nil(writer, health.lost.map(|lost| lost.reason)));
            map.put("stopped", |writer| text_or_nil(writer, health.stopped));
        }
        map
    }

    /// Alarms about what the last turn found: states that differ (L6), the one here or those of others, a log that may lack
    /// its end, and a full disk.
    fn found_in_turns(&self, alarms: &mut Vec<String>) {
        let figures = self.figures.lock();
        if let Some(at) = figures.doubts {
            alarms.push(format!(
                "the state of this node differs from the mark that the log has of entry {at}; it answers nothing until it \
                 knows who is wrong, which a majority of the members decides, or whoever removes the one that is"
            ));
        }
        if figures.disputed && figures.doubts.is_none() {
            alarms.push(
                "no majority of the members says whether the state of this node is right, so it is given to no member that \
                 needs one. Start those that are down; if that does not help, decide: raftwork cluster remove the one that is \
                 wrong"
                    .into(),
            );
        }
        for (node, since) in &figures.odd_members {
            alarms.push(format!(
                "the state of member {node} differs from the one here since entry {since} or earlier. Whichever of the two \
                 differs from a majority stops by itself; if that is member {node}, keep its directory for the report and \
                 bring it back as a new member: raftwork cluster replace {node}"
            ));
        }
        if let Some(index) = figures.suspects {
            alarms.push(format!(
                "this node votes for nobody: its log ends at {}, and it may have acknowledged entries up to {index}; its end was \
                 damaged, or its directory is an older copy. It takes what it lacks from the others",
                figures.index
            ));
        }
        if figures.full {
            let next = if self.post.is_some() { "; if this node leads, another one with room is asked to" } else { "" };
            alarms.push(format!("the disk is full: writes are refused, or wait for room{next}"));
        }
    }

    /// An alarm while there is little room for more jobs.
    fn filling(&self) -> Option<String> {
        let (bounds, machine) = (&self.config.bounds, self.machine.read());
        let nearly = |held: u64, most: u64| held > most / 10 * 9;
        let held = match (machine.len() as u64, machine.bytes()) {
            (jobs, _) if nearly(jobs, bounds.jobs as u64) => format!("{jobs} jobs of {} (max_jobs)", bounds.jobs),
            (_, bytes) if nearly(bytes, bounds.bytes) => format!("{bytes} bytes of {} (max_state_bytes)", bounds.bytes),
            _ => return None,
        };
        Some(format!("the state is nearly full: {held}; when it is, enqueueing is refused and everything else goes on"))
    }

    /// What somebody should look at, in whole sentences.
    pub(super) fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if let Some(failure) = &*self.failure.lock() {
            alarms.push(format!("the node stopped: {}", failure.cause));
        }
        self.found_in_turns(&mut alarms);
        alarms.extend(self.filling());
        alarms.extend(self.stamp.lock().alarm().map(str::to_owned));
        if let Some(trouble) = self.tls().and_then(Tls::trouble) {
            alarms.push(format!("the changed certificate files are not used, the old ones stay in force: {trouble}"));
        }
        let left_ms = self.certificate_expires_ms().map(|at| at.saturating_sub(self.config.clock.wall().0));
        match left_ms {
            Some(0) => alarms
                .push("the certificate of this node has expired: nobody lets it in; put a new one in its place".into()),
            Some(left) if left <= limits::CERTIFICATE_ALARM_MS => {
                let days = left / (24 * 3_600_000);
                alarms.push(format!("the certificate of this node expires in {days} days: put a new one in its place"));
            }
            _ => {}
        }
        if let Some(index) = self.opened.suspect_upto {
            alarms.push(format!("the end of the log was damaged; answered writes up to {index} may be lost"));
        }
        alarms.extend(self.opened.losses.iter().map(|loss| told_loss(loss)));
        let archive = self.archive.read();
        if self.config.archive && archive.is_none() && self.inbox.stopped().is_none() {
            alarms.push("the archive could not be opened: finished jobs stay in memory".into());
        }
        if let Some(cause) = archive.as_ref().and_then(|archive| archive.health().stopped) {
            alarms.push(format!(
                "the archive stopped: {cause}; no finished job is archived here until the node is started again"
            ));
        }
        // Among several, what is lacking is being fetched.
        let final_loss = self.post.is_none() || self.archiver.fetch_failed.load(Ordering::Acquire);
        if let Some(lost) = archive.as_ref().filter(|_| final_loss).and_then(|archive| archive.health().lost) {
            alarms.push(format!("history was lost: {}", lost.reason));
        }
        alarms
    }
}
