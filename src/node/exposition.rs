//! `/metrics`: what the node counts, in the text format that Prometheus reads. Never waits for the disk or for Python.
//!
//! Every family is described in `docs/reference/metrics.md`.

use std::fmt::Write;

use super::counters::{Histogram, BUCKETS_US};
use super::Shared;
use crate::base::codec::Reader;
use crate::base::{Millis, Result};
use crate::machine::view::Answer;

/// Queues, and schedules, that are told of one by one, by name; there may be thousands.
const NAMES_MAX: usize = 200;
/// The questions "how many jobs", "which queues" and "which limits of queues", see `machine::view`.
const COUNTS: &[u8] = &[0x91, 1];
const QUEUES: &[u8] = &[0x91, 2];
const QUEUE_LIMITS: &[u8] = &[0x91, 51];
/// Figures of the machine that tell how many jobs are in a state now; the others only grow.
const STATES: [&str; 8] =
    ["awaiting", "scheduled", "enqueued", "processing", "retrying", "succeeded", "failed", "cancelled"];

/// The text so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP raftwork_{name} {help}\n# TYPE raftwork_{name} {kind}\n");
        self
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) -> &mut Self {
        let _ = write!(self.0, "raftwork_{name}");
        for (place, (label, text)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help).sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help).sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Histogram) {
        let (counts, sum_us) = times.cumulated();
        let bucket = format!("{name}_bucket");
        self.family(name, "histogram", help);
        for (end, count) in BUCKETS_US.iter().zip(&counts) {
            self.sample(&bucket, &[("le", &seconds(*end).to_string())], count);
        }
        let all = counts.last().copied().unwrap_or_default();
        self.sample(&bucket, &[("le", "+Inf")], all);
        self.sample(&format!("{name}_sum"), &[], seconds(sum_us)).sample(&format!("{name}_count"), &[], all);
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Shared {
    /// All families, one after the other.
    pub(super) fn metrics(&self) -> String {
        let mut page = Page::default();
        self.tell_consensus(&mut page);
        self.tell_members(&mut page);
        self.tell_disk(&mut page);
        self.tell_traffic(&mut page);
        self.tell_connections(&mut page);
        // The state is there as long as the node is.
        let _ = self.tell_jobs(&mut page);
        self.tell_schedules(&mut page);
        page.0
    }

    fn tell_consensus(&self, page: &mut Page) {
        let figures = self.figures.lock().clone();
        page.family("node_info", "gauge", "Who this is. Always 1.").sample(
            "node_info",
            &[
                ("node", &self.identity.node.to_string()),
                ("cluster", &self.identity.cluster.to_string()),
                ("version", env!("CARGO_PKG_VERSION")),
                ("protection", self.protection()),
            ],
            1,
        );
        page.family("role", "gauge", "1 for the role that the node has.");
        for role in ["leader", "follower", "candidate", "failed"] {
            page.sample("role", &[("role", role)], u8::from(role == figures.role));
        }
        page.gauge("ready", "Whether /readyz says so.", u8::from(self.is_ready()));
        page.gauge("has_leader", "Whether a leader is known.", u8::from(figures.leader.is_some()));
        page.gauge("term", "Term of the log.", figures.term.0);
        page.gauge("last_index", "The newest entry of the log.", figures.index.0);
        page.gauge("committed_index", "The newest entry that is known to be on a majority.", figures.committed.0);
        page.gauge("applied_index", "The newest entry that is part of the state.", figures.applied.0);
        let staleness = self.staleness().map_or(f64::NAN, |age| age.0 as f64 / 1e3);
        page.gauge("staleness_seconds", "How old the state can be at most; NaN: nobody knows.", staleness);
        page.gauge("alarms", "What somebody should look at, see health.", self.alarms().len());
        page.counter("elections_total", "Elections that this node began.", self.counters.elections.get());
        page.counter("leader_changes_total", "Changes of who leads.", self.counters.leader_changes.get());
    }

    fn tell_members(&self, page: &mut Page) {
        let (members, last) = {
            let figures = self.figures.lock();
            (figures.members.clone(), figures.index)
        };
        page.gauge("voters", "Members that vote.", members.voters.len());
        page.gauge("learners", "Members that do not vote so far.", members.learners.len());
        page.family("peer_lag_entries", "gauge", "On the leader: entries that a member lacks.");
        for peer in &members.peers {
            let lag = last.0.saturating_sub(peer.matched.0);
            page.sample("peer_lag_entries", &[("node", &peer.node.to_string())], lag);
        }
        page.family("peer_heard", "gauge", "On the leader: whether a member was heard within the last second.");
        for peer in &members.peers {
            page.sample("peer_heard", &[("node", &peer.node.to_string())], u8::from(peer.recently_active));
        }
    }

    fn tell_disk(&self, page: &mut Page) {
        let figures = self.figures.lock().clone();
        page.gauge("log_bytes", "Log on disk.", figures.log_bytes);
        page.gauge("snapshot_index", "The entry of the newest snapshot.", figures.snapshot_index.0);
        page.gauge("snapshot_bytes", "Size of the newest snapshot.", figures.snapshot_bytes);
        page.gauge("disk_full", "Whether the disk is full: writes are refused, or wait.", u8::from(figures.full));
        page.histogram("fsync_seconds", "Syncs of the log.", self.syncs.histogram());
        if let Some(expires_ms) = self.certificate_expires_ms() {
            let seconds = expires_ms as f64 / 1e3;
            page.gauge("certificate_expires_seconds", "When the own certificate expires, since 1970.", seconds);
        }
    }

    fn tell_traffic(&self, page: &mut Page) {
        let (counters, figures) = (&self.counters, self.figures.lock().clone());
        let (requests, bytes, _) = self.inbox.figures();
        page.gauge("inbox_requests", "Requests on their way into the log.", requests);
        page.gauge("inbox_bytes", "How large they are.", bytes);
        page.gauge("inbox_age_seconds", "How long the oldest of them waits.", self.inbox.age().as_secs_f64());
        page.counter("proposals_total", "Requests taken out of the inbox.", counters.proposals.get());
        page.counter("forwards_total", "Of these, requests handed to the leader.", counters.forwards.get());
        page.counter("turns_total", "Groups of requests.", figures.turns);
        page.counter("entries_applied_total", "Entries applied since the start.", figures.entries);
        page.counter("ambiguous_writes_total", "Writes whose outcome could not be told.", counters.unknown.get());
        page.counter("refused_writes_total", "Writes that certainly did not happen.", counters.refused.get());
        page.counter("leases_lost_total", "Jobs whose worker ended or was given up.", counters.leases_lost.get());
        page.counter("sessions_ended_total", "Sessions closed or expired.", counters.sessions_ended.get());
        page.histogram("propose_seconds", "From the inbox to the log, oldest request of each group.", &counters.waits);
        page.histogram("commit_seconds", "From there until applied here; only on the leader.", &counters.commits);
        page.histogram("apply_seconds", "Applying what one turn found committed.", &counters.applies);
    }

    fn tell_connections(&self, page: &mut Page) {
        let counters = &self.counters;
        page.gauge(
            "peers_connected",
            "Members with a connection.",
            self.post.as_ref().map_or(0, |post| post.connected()),
        );
        page.counter("letters_sent_total", "Messages to other members.", counters.letters_sent.get());
        page.counter("letters_received_total", "Messages of other members.", counters.letters_received.get());
        page.counter("letters_dropped_total", "Messages that could not be sent.", counters.letters_dropped.get());
        page.counter("snapshot_sent_bytes_total", "Sent of states to others.", counters.snapshot_bytes_sent.get());
        page.counter("snapshot_received_bytes_total", "Received of states.", counters.snapshot_bytes_received.get());
        page.counter("snapshots_installed_total", "States taken over from others.", counters.snapshots_installed.get());
        let tallies = self.tallies();
        page.family("connections", "gauge", "Connections that are served.");
        for (port, tally) in &tallies {
            page.sample("connections", &[("port", port)], tally.served);
        }
        page.family("connections_unfinished", "gauge", "Connections that have not shown who they are.");
        for (port, tally) in &tallies {
            page.sample("connections_unfinished", &[("port", port)], tally.strangers);
        }
        page.family("connections_refused_total", "counter", "Connections that were not let in.");
        for (port, tally) in &tallies {
            for (reason, count) in &tally.refused_by {
                page.sample("connections_refused_total", &[("port", port), ("reason", reason)], count);
            }
        }
    }

    fn tell_jobs(&self, page: &mut Page) -> Result<()> {
        let (counts, queues, limits, now, figures) = {
            let machine = self.machine.read();
            let now = |question| match machine.ask(question) {
                Ok(Answer::Now(answer)) => answer,
                _ => Vec::new(),
            };
            let figures = (machine.len(), machine.bytes(), machine.sessions().count());
            (now(COUNTS), now(QUEUES), now(QUEUE_LIMITS), machine.clock(), figures)
        };
        page.gauge("jobs_in_memory", "Jobs in memory.", figures.0);
        page.gauge("state_bytes", "Memory of the state, as it counts itself.", figures.1);
        page.gauge("sessions", "Open sessions.", figures.2);
        let (mut states, mut events) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&counts);
        for _ in 0..reader.map()? {
            let (name, figure) = (reader.str()?, reader.u64()?);
            let list = if STATES.contains(&name) { &mut states } else { &mut events };
            list.push((name, figure));
        }
        page.family("jobs", "gauge", "Jobs in memory by state.");
        for (state, count) in states {
            page.sample("jobs", &[("state", state)], count);
        }
        page.family("job_events_total", "counter", "What happened to jobs since the storage was made.");
        for (event, count) in events {
            page.sample("job_events_total", &[("event", event.trim_start_matches("total_"))], count);
        }
        tell_queues(page, &queues, self.now().max(now).0)?;
        tell_limits(page, &limits)
    }

    fn tell_schedules(&self, page: &mut Page) {
        let (sums, figures, now) = {
            let machine = self.machine.read();
            (machine.schedule_sums(), machine.schedule_figures(NAMES_MAX), machine.clock())
        };
        let now = self.now().max(now);
        let late = |due: Option<Millis>| due.map_or(0.0, |due| now.0.saturating_sub(due.0) as f64 / 1e3);
        page.gauge("schedules", "Recurring schedules.", sums.0);
        page.gauge("schedules_late_seconds", "How long the oldest slot waits that nobody has fired.", late(sums.1));
        page.family("schedule_fired_total", "counter", "Jobs of a schedule; of the first 200 schedules by name.");
        for of in &figures {
            page.sample("schedule_fired_total", &[("schedule", &of.name)], of.fired);
        }
        page.family("schedule_skipped_total", "counter", "Jobs not stored because of an earlier one.");
        for of in &figures {
            page.sample("schedule_skipped_total", &[("schedule", &of.name)], of.skipped);
        }
        page.family("schedule_late_seconds", "gauge", "How long a slot waits that nobody has fired.");
        for of in &figures {
            page.sample("schedule_late_seconds", &[("schedule", &of.name)], late(of.due));
        }
    }
}

fn tell_queues(page: &mut Page, rows: &[u8], now_ms: u64) -> Result<()> {
    let mut reader = Reader::new(rows);
    let count = reader.array()?;
    let mut queues = Vec::new();
    for _ in 0..count.min(NAMES_MAX) {
        reader.array_of(12, "a queue")?;
        let name = reader.str()?;
        let figures = [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let paused = reader.bool()?;
        reader.raw()?;
        reader.raw()?;
        let oldest = reader.option(|reader| reader.u64())?;
        for _ in 0..3 {
            reader.raw()?;
        }
        queues.push((name, figures, paused, oldest));
    }
    page.family("queue_jobs", "gauge", "Jobs of a queue by state; of the first 200 queues by name.");
    for (name, figures, ..) in &queues {
        for (state, figure) in ["enqueued", "processing", "scheduled", "retrying"].into_iter().zip(figures) {
            page.sample("queue_jobs", &[("queue", name), ("state", state)], figure);
        }
    }
    page.family("queue_age_seconds", "gauge", "How long the oldest job waits that could run.");
    for (name, .., oldest) in &queues {
        let age = oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest));
        page.sample("queue_age_seconds", &[("queue", name)], age as f64 / 1e3);
    }
    page.family("queue_paused", "gauge", "Whether a queue is paused.");
    for (name, _, paused, _) in &queues {
        page.sample("queue_paused", &[("queue", name)], u8::from(*paused));
    }
    Ok(())
}

fn tell_limits(page: &mut Page, rows: &[u8]) -> Result<()> {
    let mut reader = Reader::new(rows);
    let mut queues = Vec::new();
    for _ in 0..reader.array()?.min(NAMES_MAX) {
        reader.array_of(3, "the limit of a queue")?;
        queues.push((reader.str()?, reader.option(|reader| reader.u64())?, reader.u64()?));
    }
    page.family("queue_limit", "gauge", "Jobs of a queue that may run at once; of queues that have a limit.");
    for (name, limit, _) in &queues {
        if let Some(limit) = limit {
            page.sample("queue_limit", &[("queue", name)], limit);
        }
    }
    page.family("queue_held_back", "gauge", "Jobs of a queue that wait because a limit of theirs has no room.");
    for (name, _, held) in &queues {
        page.sample("queue_held_back", &[("queue", name)], held);
    }
    Ok(())
}
