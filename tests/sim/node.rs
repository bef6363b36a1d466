//! One simulated machine: a replica on a fake disk, what waits for it, and its clocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raftwork::base::codec::Writer;
use raftwork::base::{ClusterId, Error, Millis, NodeId, SessionId};
use raftwork::consensus::{Role, SnapshotMetadata};
use raftwork::disk::fake::Op;
use raftwork::disk::FakeDisk;
use raftwork::replica::{entry, Capture, Letter, Newcomer, Proposal, Replica, ReplicaConfig, Turn};

use crate::Micros;

pub const DIR: &str = "/disk/node";
/// The wall clock when the simulation begins.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// Who waits for an answer. Nobody: the node itself proposed it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub client: Option<usize>,
    pub number: u64,
}

/// A letter that a node sent, with the number of syncs its disk had done before.
pub type Sent = Arc<Mutex<Vec<(u64, Letter)>>>;

/// A snapshot on its way to a peer.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub snapshot: SnapshotMetadata,
    pub announcement: bytes::Bytes,
    pub last_news: Micros,
}

/// A session as its leader sees it: how long it may be silent, and when it was last heard.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub ttl: Millis,
    pub at: Micros,
}

pub struct Node {
    pub id: NodeId,
    pub disk: FakeDisk,
    pub replica: Option<Replica<Ticket>>,
    pub sent: Sent,
    /// Counts starts: what belongs to an earlier life is ignored.
    pub life: u64,
    pub letters: Vec<Letter>,
    pub requests: Vec<Proposal<Ticket>>,
    pub busy_until: Micros,
    pub turn_planned: bool,
    pub paused: bool,
    /// Microseconds of one sync.
    pub sync_micros: u64,
    /// How far the wall clock is off.
    pub wall_offset_ms: i64,
    pub capture: Option<Capture>,
    pub transfers: BTreeMap<usize, Transfer>,
    pub sessions: BTreeMap<SessionId, Heard>,
    pub next_due: Option<Millis>,
    /// A `Tick` was proposed and not answered yet.
    pub ticking: bool,
    pub led: bool,
    /// The first entry of the log that it has not shown yet.
    pub heard: u64,
}

impl Node {
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            id: NodeId(number as u64 + 1),
            disk: FakeDisk::new(seed ^ (number as u64 + 1) << 32, &[Path::new("/disk")]),
            replica: None,
            sent: Sent::default(),
            life: 0,
            letters: Vec::new(),
            requests: Vec::new(),
            busy_until: 0,
            turn_planned: false,
            paused: false,
            sync_micros: 200,
            wall_offset_ms: 0,
            capture: None,
            transfers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_due: None,
            ticking: false,
            led: false,
            heard: 1,
        }
    }

    pub fn wall(&self, now: Micros) -> Millis {
        Millis((EPOCH_MS + self.wall_offset_ms + (now / 1_000) as i64) as u64)
    }

    /// Starts the process on what the disk holds.
    pub fn start(&mut self, nodes: usize, snapshot_bytes: u64, now: Micros) -> Result<(), Error> {
        let config = ReplicaConfig {
            disk: Arc::new(self.disk.clone()),
            dir: PathBuf::from(DIR),
            segment_bytes: 16 << 10,
            snapshot_bytes,
            log_bytes_max: 1 << 30,
            log_bytes_for_peers: (snapshot_bytes % 3_000) as usize,
            now: self.wall(now),
            newcomer: Some(Newcomer {
                cluster: ClusterId([7; 16]),
                node: self.id,
                voters: (1..=nodes as u64).map(NodeId).collect(),
            }),
        };
        let (sent, disk) = (self.sent.clone(), self.disk.clone());
        let outbox = move |letter| sent.lock().expect("one thread").push((disk.count(Op::Sync), letter));
        let (replica, _) = Replica::open(&config, Box::new(outbox))?;
        self.next_due = replica.machine().read().next_due();
        let open: Vec<_> = replica.machine().read().sessions().collect();
        self.life += 1;
        self.replica = Some(replica);
        (self.paused, self.busy_until, self.turn_planned) = (false, now, false);
        (self.ticking, self.led, self.heard) = (false, false, 1);
        self.sync_sessions(&open, now);
        Ok(())
    }

    /// The process is gone; what it held in memory with it.
    pub fn stop(&mut self) {
        self.replica = None;
        self.life += 1;
        self.letters.clear();
        self.requests.clear();
        self.transfers.clear();
        self.sessions.clear();
        self.capture = None;
        self.paused = false;
    }

    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    pub fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.role() == Role::Leader)
    }

    /// Takes over which sessions are open.
    pub fn sync_sessions(&mut self, open: &[(SessionId, Millis)], now: Micros) {
        let known = std::mem::take(&mut self.sessions);
        for (session, ttl) in open {
            let at = known.get(session).map_or(now, |heard| heard.at);
            self.sessions.insert(*session, Heard { ttl: *ttl, at });
        }
    }

    /// What a leader does by itself: promotes what is due, and ends silent sessions. A new leader gives each its whole
    /// time again.
    pub fn leader_duties(&mut self, now: Micros) {
        let leads = self.leads();
        if leads && !self.led {
            self.ticking = false;
            self.sessions.values_mut().for_each(|heard| heard.at = now);
        }
        self.led = leads;
        if !leads {
            return;
        }
        if !self.ticking && self.next_due.is_some_and(|due| due <= self.wall(now)) {
            self.ticking = true;
            self.propose(|w| {
                w.array(2).u64(13).u64(1_000);
            });
        }
        let silent = |heard: &Heard| now.saturating_sub(heard.at) > heard.ttl.0 * 1_000;
        let gone: Vec<SessionId> = self.sessions.iter().filter(|(_, heard)| silent(heard)).map(|(id, _)| *id).collect();
        for session in gone {
            self.sessions.remove(&session);
            self.propose(|w| {
                w.array(2).u64(3).u64(session.0);
            });
        }
    }

    fn propose(&mut self, build: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::new();
        writer.array(4).u64(0).u64(0).u64(0);
        build(&mut writer);
        let ticket = Ticket { client: None, number: 0 };
        self.requests.push(Proposal { entry: entry::frame(&writer.into_bytes()), ticket });
    }

    /// One turn: letters first, then requests. What it sent and answered is in `turn` and `sent`, also when it failed.
    pub fn turn(&mut self, now: Micros, turn: &mut Turn<Ticket>) -> Result<(), Error> {
        let wall = self.wall(now);
        let letters = std::mem::take(&mut self.letters);
        let requests = std::mem::take(&mut self.requests);
        let replica = self.replica.as_mut().expect("a turn of a node that is up");
        replica.receive(letters, turn)?;
        replica.turn(wall, requests, turn)
    }
}
