//! The network between nodes and clients: delay, loss, partitions in one direction or both. What goes from one place to
//! another in one direction keeps its order, as over one connection.

use std::collections::{BTreeMap, BTreeSet};

use raftwork::consensus::SnapshotMetadata;
use raftwork::replica::Letter;

use crate::random::Random;
use crate::Micros;

/// A node or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(usize),
    Client(usize),
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A letter, encoded as between real nodes.
    Letter(bytes::Bytes),
    /// Part of a snapshot file, and the message that announces the snapshot.
    Piece {
        snapshot: SnapshotMetadata,
        offset: u64,
        bytes: Vec<u8>,
        last: bool,
        announcement: bytes::Bytes,
    },
    /// How much of a snapshot is there. Nothing: it was refused, begin again.
    Taken {
        snapshot: SnapshotMetadata,
        upto: Option<u64>,
        complete: bool,
    },
    Request {
        client: usize,
        number: u64,
        bytes: Vec<u8>,
    },
    Answer {
        number: u64,
        answer: raftwork::base::Result<Vec<u8>>,
    },
    /// A read of the newest state; what was answered before it began must show.
    Read {
        client: usize,
        floor: u64,
        began: Micros,
    },
    /// The state that a read saw.
    Seen {
        floor: u64,
        index: u64,
    },
    Heartbeat {
        client: usize,
        session: u64,
        sent: Micros,
    },
    /// The leader took in a sign of life that was sent then, or knows of no such session.
    Heard {
        sent: Micros,
        lives: bool,
    },
}

#[derive(Debug, Default)]
pub struct Network {
    /// Directions in which nothing arrives.
    cut: BTreeSet<(Place, Place)>,
    loss_per_mille: u64,
    slow: bool,
    /// Links that give everything at once, at some time.
    clogged: BTreeMap<(Place, Place), Micros>,
    echo_per_mille: u64,
    latest: BTreeMap<(Place, Place), Micros>,
    pub lost: u64,
}

impl Network {
    /// When a packet sent now arrives; nothing if it is lost.
    pub fn arrival(&mut self, from: Place, to: Place, now: Micros, random: &mut Random) -> Option<Micros> {
        if self.cut.contains(&(from, to)) || random.chance(self.loss_per_mille) {
            self.lost += 1;
            return None;
        }
        let mut delay = random.between(30, 400);
        if self.slow && random.chance(200) {
            delay += random.between(1_000, 200_000);
        }
        let latest = self.latest.entry((from, to)).or_default();
        let clogged = self.clogged.get(&(from, to)).copied().unwrap_or(0);
        *latest = (now + delay).max(*latest + 1).max(clogged);
        Some(*latest)
    }

    /// Nothing gets from any of `side` to anybody else, nor the other way.
    pub fn isolate(&mut self, side: &BTreeSet<Place>, everybody: &[Place], both_ways: bool) {
        for one in side {
            for other in everybody.iter().filter(|other| !side.contains(other)) {
                self.cut.insert((*one, *other));
                if both_ways {
                    self.cut.insert((*other, *one));
                }
            }
        }
    }

    pub fn cut_off(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    pub fn join(&mut self, one: Place, other: Place) {
        self.cut.remove(&(one, other));
        self.cut.remove(&(other, one));
    }

    pub fn clog(&mut self, from: Place, to: Place, until: Micros) {
        self.clogged.insert((from, to), until);
    }

    pub fn echo(&mut self, per_mille: u64) {
        self.echo_per_mille = per_mille;
    }

    /// How much later a message of Raft is heard once more, if it is: out of its order, which only Raft can bear.
    pub fn echoes(&self, random: &mut Random) -> Option<Micros> {
        (self.echo_per_mille > 0 && random.chance(self.echo_per_mille)).then(|| random.between(1, 2_000_000))
    }

    pub fn lose(&mut self, per_mille: u64) {
        self.loss_per_mille = per_mille;
    }

    pub fn slow_down(&mut self) {
        self.slow = true;
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.clogged.clear();
        (self.loss_per_mille, self.slow, self.echo_per_mille) = (0, false, 0);
    }
}

/// The letter in a packet.
pub fn letter(bytes: &bytes::Bytes) -> Letter {
    Letter::decode(bytes).expect("what a node encoded can be decoded")
}
