//! One simulated machine: a replica on a fake disk, what waits for it, and its clocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raftwork::base::codec::Writer;
use raftwork::base::{ClusterId, Error, LogIndex, Millis, NodeId, SessionId, Term};
use raftwork::consensus::{MemberChange, Role, SnapshotMetadata};
use raftwork::disk::fake::Op;
use raftwork::disk::FakeDisk;
use raftwork::machine::{self, Bounds};
use raftwork::node::stamp::Stamp;
use raftwork::node::wakeups::Wakeups;
use raftwork::replica::{
    entry, Beat, Capture, Letter, Newcomer, Proposal, Replica, ReplicaConfig, Sessions, Turn, Whom,
};

use crate::checkers::Memory;
use crate::random::Random;
use crate::waiting::Knocks;
use crate::Micros;

pub const DIR: &str = "/disk/node";
/// Microseconds of one sync of a healthy disk.
pub const SYNC_MICROS: u64 = 200;
/// Jobs that finish between two evictions, unless somebody says otherwise.
const EVICT_EVERY: u64 = 60;
/// The wall clock when the simulation begins.
pub const EPOCH_MS: i64 = 1_800_000_000_000;

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub enum Ticket {
    /// The node itself proposed it.
    Own,
    Write {
        client: usize,
        number: u64,
    },
    /// What was answered before the read began, at least, must show.
    Read {
        client: usize,
        floor: u64,
        began: Micros,
    },
    /// Somebody raises the feature level.
    Level,
    /// Somebody wants other members.
    Change(MemberChange),
    /// Clients that said that their session lives, and when.
    Beat(Vec<(SessionId, usize, Micros)>),
}

/// What befell a node, beyond faults that it gets over by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its machine is gone, until somebody brings it back.
    Machine,
    /// Its disk is gone, and its process began with an empty one under the old id.
    Disk,
    /// Its state was damaged in memory behind this entry.
    State(LogIndex),
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

pub struct Node {
    pub id: NodeId,
    pub disk: FakeDisk,
    pub replica: Option<Replica<Ticket>>,
    pub sent: Sent,
    /// Who waits here to be told of work, and whom it told and has not been seen off yet.
    pub wakeups: Option<Arc<Wakeups>>,
    pub knocks: Knocks,
    /// Counts starts: what belongs to an earlier life is ignored.
    pub life: u64,
    pub letters: Vec<Letter>,
    pub requests: Vec<Proposal<Ticket>>,
    pub reads: Vec<Ticket>,
    /// Signs of life that came since the last turn.
    pub beats: Vec<(SessionId, usize, Micros)>,
    pub busy_until: Micros,
    pub turn_planned: bool,
    pub paused: bool,
    /// Microseconds of one sync.
    pub sync_micros: u64,
    /// How far the wall clock is off.
    pub wall_offset_ms: i64,
    pub drift_per_mille: i64,
    stamp: Stamp,
    pub capture: Option<Capture>,
    pub transfers: BTreeMap<usize, Transfer>,
    pub sessions: Sessions,
    pub next_due: Option<Millis>,
    /// A `Tick` was proposed and not answered yet.
    pub ticking: bool,
    /// The term that it leads in, as it knew after its last turn.
    pub led: Option<Term>,
    /// The first entry of the log that it has not shown yet.
    pub heard: u64,
    /// Whether finished jobs leave memory, and up to which ordinal it asked for that.
    pub evicts: bool,
    pub memory: Memory,
    pub evict_every: u64,
    evicted: u64,
    joins: bool,
    /// It runs the next version of the program.
    pub newer: bool,
    /// It was removed, or its data is lost: it never starts again under this id.
    pub retired: bool,
    pub loss: Option<Loss>,
    /// The disk lies about the write with this number, and the power goes right behind it.
    pub lie: Option<u64>,
}

impl Node {
    /// One of the first members, or one that joins.
    pub fn new(number: usize, seed: u64, joins: bool) -> Self {
        let mut random = Random::new(seed ^ (number as u64 + 1) << 40);
        Self {
            id: NodeId(number as u64 + 1),
            disk: FakeDisk::new(seed ^ (number as u64 + 1) << 32, &[Path::new("/disk")]),
            replica: None,
            sent: Sent::default(),
            wakeups: None,
            knocks: Knocks::default(),
            life: 0,
            letters: Vec::new(),
            requests: Vec::new(),
            reads: Vec::new(),
            beats: Vec::new(),
            busy_until: 0,
            turn_planned: false,
            paused: false,
            sync_micros: SYNC_MICROS,
            wall_offset_ms: 0,
            drift_per_mille: random.between(0, 20) as i64 - 10,
            stamp: Stamp::new(Millis(0), Millis(0), Millis(0)),
            capture: None,
            transfers: BTreeMap::new(),
            sessions: Sessions::default(),
            next_due: None,
            ticking: false,
            led: None,
            heard: 1,
            evicts: seed.is_multiple_of(2),
            evict_every: EVICT_EVERY,
            evicted: 0,
            joins,
            newer: false,
            retired: false,
            loss: None,
            lie: None,
            memory: Memory::default(),
        }
    }

    pub fn wall(&self, now: Micros) -> Millis {
        Millis((EPOCH_MS + self.wall_offset_ms + (now / 1_000) as i64) as u64)
    }

    /// The monotonic clock, which runs a little too fast or too slow.
    pub fn monotonic(&self, now: Micros) -> Millis {
        Millis(now.saturating_add_signed(now as i64 / 1_000 * self.drift_per_mille) / 1_000)
    }

    /// What this node would stamp an entry with now.
    fn clock(&mut self, now: Micros) -> Millis {
        let (wall, monotonic) = (self.wall(now), self.monotonic(now));
        self.stamp.now(wall, monotonic)
    }

    /// Starts the process on what the disk holds.
    pub fn start(&mut self, first: usize, snapshot_bytes: u64, now: Micros) -> Result<(), Error> {
        let config = ReplicaConfig {
            disk: Arc::new(self.disk.clone()),
            dir: PathBuf::from(DIR),
            segment_bytes: 16 << 10,
            snapshot_bytes,
            log_bytes_max: 1 << 30,
            log_bytes_for_peers: (snapshot_bytes % 3_000) as usize,
            bounds: Bounds::default(),
            now: self.wall(now),
            newcomer: Some(Newcomer {
                cluster: ClusterId([7; 16]),
                node: self.id,
                voters: if self.joins { Vec::new() } else { (1..=first as u64).map(NodeId).collect() },
            }),
            alone: false,
        };
        machine::be_newer(self.newer);
        let (sent, disk) = (self.sent.clone(), self.disk.clone());
        let outbox = move |letter| sent.lock().expect("one thread").push((disk.count(Op::Sync), letter));
        let (mut replica, _) = Replica::open(&config, Box::new(outbox))?;
        let wakeups = Arc::new(Wakeups::new(replica.machine().clone(), false));
        replica.announce_to(self.knocks.herald(&wakeups));
        self.wakeups = Some(wakeups);
        self.next_due = replica.machine().read().next_due();
        let open: Vec<_> = replica.machine().read().sessions().collect();
        self.memory.compare(&replica, self.id.0 as usize - 1);
        self.stamp = Stamp::new(self.wall(now), self.monotonic(now), replica.stamped());
        self.life += 1;
        self.replica = Some(replica);
        (self.paused, self.busy_until, self.turn_planned) = (false, now, false);
        (self.ticking, self.led, self.heard) = (false, None, 1);
        self.sessions.sync(&open, self.monotonic(now));
        Ok(())
    }

    /// The process is gone; what it held in memory with it.
    pub fn stop(&mut self) {
        (self.replica, self.wakeups) = (None, None);
        self.knocks.clear();
        self.life += 1;
        self.letters.clear();
        self.requests.clear();
        self.reads.clear();
        self.beats.clear();
        self.transfers.clear();
        self.sessions = Sessions::default();
        self.capture = None;
        self.paused = false;
    }

    /// An empty disk in the place of the one that it had. What it starts next knows its old id and nothing else.
    pub fn lose_disk(&mut self, seed: u64) {
        self.stop();
        self.disk = FakeDisk::new(seed, &[Path::new("/disk")]);
        (self.joins, self.memory, self.loss) = (true, Memory::default(), Some(Loss::Disk));
    }

    /// The entry behind which its state was damaged.
    pub fn damaged_since(&self) -> Option<LogIndex> {
        match self.loss {
            Some(Loss::State(since)) => Some(since),
            _ => None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    pub fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.role() == Role::Leader)
    }

    /// What a leader does by itself: promotes what is due, and ends silent sessions. A new leader gives each its whole
    /// time again.
    pub fn leader_duties(&mut self, now: Micros) {
        let leads = self.replica.as_ref().filter(|_| self.leads()).map(|replica| replica.term());
        if leads.is_some() && leads != self.led {
            (self.ticking, self.evicted) = (false, 0);
            let (wall, monotonic) = (self.wall(now), self.monotonic(now));
            self.sessions.restart(monotonic);
            self.stamp.lead(wall, monotonic, self.replica.as_ref().expect("it leads").stamped());
        }
        self.led = leads;
        if leads.is_none() {
            return;
        }
        let clock = self.clock(now);
        if !self.ticking && self.next_due.is_some_and(|due| due <= clock) {
            self.ticking = true;
            self.propose(|w| {
                w.array(2).u64(13).u64(1_000);
            });
        }
        self.evict();
        let (gone, _) = self.sessions.lapsed(self.monotonic(now));
        for session in gone {
            self.propose(|w| {
                w.array(2).u64(3).u64(session.0);
            });
            let judged = self.requests.last_mut().expect("it was proposed just now");
            judged.entry = entry::frame_in(&judged.entry[entry::HEAD_BYTES..], leads.expect("it leads"));
        }
    }

    /// Forgets old finished jobs, as if the archive had them.
    fn evict(&mut self) {
        let upto = self.replica.as_ref().map_or(0, |replica| replica.machine().read().finished_upto());
        if self.evicts && upto > self.evicted + self.evict_every {
            self.evicted = upto - self.evict_every / 2;
            let evicted = self.evicted;
            self.propose(|w| {
                w.array(2).u64(14).u64(evicted);
            });
        }
    }

    /// Counts signs of life, as this node leads. Gives those that came from clients of its own, with whether they live.
    pub fn take_beats(&mut self, beats: Vec<Beat<Ticket>>, now: Micros) -> Vec<(usize, Micros, bool)> {
        let mut answers = Vec::new();
        for beat in beats {
            let now = self.monotonic(now);
            let lost = |session: &SessionId| self.sessions.heartbeat(*session, now).is_err();
            let expired: Vec<_> = beat.sessions.iter().copied().filter(lost).collect();
            match beat.whom {
                Whom::Here(Ticket::Beat(whose)) => {
                    answers.extend(whose.into_iter().map(|(id, client, sent)| (client, sent, !expired.contains(&id))));
                }
                Whom::Here(_) => unreachable!("signs of life have tickets of their own"),
                Whom::There { node, number } => {
                    self.replica.as_mut().expect("it is up").beaten(node, number, expired);
                }
            }
        }
        answers
    }

    fn propose(&mut self, build: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::new();
        writer.array(4).u64(0).u64(0).u64(0);
        build(&mut writer);
        self.requests.push(Proposal { entry: entry::frame(&writer.into_bytes()), ticket: Ticket::Own });
    }

    /// One turn: letters first, then requests. What it sent and answered is in `turn` and `sent`, also when it failed.
    pub fn turn(&mut self, now: Micros, turn: &mut Turn<Ticket>) -> Result<(), Error> {
        machine::be_newer(self.newer);
        let clock = self.clock(now);
        let letters = std::mem::take(&mut self.letters);
        let requests = std::mem::take(&mut self.requests);
        let replica = self.replica.as_mut().expect("a turn of a node that is up");
        replica.receive(letters, turn)?;
        std::mem::take(&mut self.reads).into_iter().for_each(|ticket| replica.read(ticket));
        let beats = std::mem::take(&mut self.beats);
        if !beats.is_empty() {
            let sessions = beats.iter().map(|beat| beat.0).collect();
            replica.beat(sessions, Ticket::Beat(beats), turn);
        }
        replica.turn(clock, requests, turn)
    }
}
