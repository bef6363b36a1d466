//! Replicas on fake disks that write to each other within one test: time passes when the test says so.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftwork::base::{ClusterId, Error, Millis, NodeId, Result};
use raftwork::consensus::{MemberChange, MessageType, Role};
use raftwork::disk::FakeDisk;
use raftwork::machine::Bounds;
use raftwork::replica::{
    entry, Letter, Members, Newcomer, Opened, Proposal, Replica, ReplicaConfig, SnapshotWritten, Turn,
};

use crate::requests::{enqueue, job};

pub const DIR: &str = "/disk/node";
/// Enough for an election, and for a change that follows it.
pub const LONG: usize = 200;

pub struct Node {
    pub disk: FakeDisk,
    pub replica: Option<Replica<u64>>,
    sent: Arc<Mutex<Vec<Letter>>>,
    newcomer: Newcomer,
    pub removed: bool,
    /// Why it stopped.
    pub stopped: Option<Error>,
}

thread_local! {
    static READ: Cell<u32> = const { Cell::new(0) };
    static RESTS: Cell<u32> = const { Cell::new(0) };
}

/// A clock on which a millisecond passes each time somebody looks.
fn passing() -> Duration {
    READ.set(READ.get() + 1);
    Duration::from_millis(READ.get().into())
}

/// How often the replicas of this test rested.
pub fn rests() -> u32 {
    RESTS.get()
}

#[derive(Default)]
pub struct Group {
    pub nodes: BTreeMap<u64, Node>,
    pub answers: BTreeMap<u64, Result<Vec<u8>>>,
    /// From whom to whom nothing arrives.
    pub cut: BTreeSet<(u64, u64)>,
    tickets: u64,
    jobs: u64,
}

impl Group {
    /// A group with these first members.
    pub fn of(voters: &[u64]) -> Self {
        let mut group = Self::default();
        voters.iter().for_each(|id| group.begin(*id, voters));
        group.pass(LONG);
        group
    }

    /// Makes and starts a node: one of the first members, or one that joins if there are none.
    pub fn begin(&mut self, id: u64, voters: &[u64]) {
        self.prepare(id, voters);
        self.start(id).expect("it opens");
    }

    pub fn start(&mut self, id: u64) -> Result<Opened> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let config = ReplicaConfig {
            disk: Arc::new(node.disk.clone()),
            dir: PathBuf::from(DIR),
            segment_bytes: 16 << 10,
            snapshot_bytes: 1 << 30,
            log_bytes_max: 2 << 30,
            log_bytes_for_peers: 0,
            bounds: Bounds::default(),
            now: Millis(1_000),
            newcomer: Some(node.newcomer.clone()),
            alone: false,
        };
        let sent = node.sent.clone();
        let outbox = move |letter| sent.lock().unwrap().push(letter);
        let (replica, opened) = Replica::open(&config, Box::new(outbox))?;
        node.removed = replica.is_removed();
        (node.replica, node.stopped) = (Some(replica), None);
        Ok(opened)
    }

    /// Makes a node that is not started yet, and gives its disk.
    pub fn prepare(&mut self, id: u64, voters: &[u64]) -> FakeDisk {
        let voters = voters.iter().copied().map(NodeId).collect();
        let newcomer = Newcomer { cluster: ClusterId([9; 16]), node: NodeId(id), voters };
        let disk = FakeDisk::new(id, &[Path::new("/disk")]);
        let node =
            Node { disk: disk.clone(), replica: None, sent: Arc::default(), newcomer, removed: false, stopped: None };
        self.nodes.insert(id, node);
        disk
    }

    /// The process ends; what it did not sync is lost.
    pub fn kill(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.replica = None;
        node.disk.power_cut(id);
        node.sent.lock().unwrap().clear();
    }

    pub fn replica(&mut self, id: u64) -> &mut Replica<u64> {
        self.nodes.get_mut(&id).and_then(|node| node.replica.as_mut()).expect("it is up")
    }

    fn up(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.replica.is_some()).map(|(id, _)| *id).collect()
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().filter(|other| **other != id) {
            self.cut.extend([(id, *other), (*other, id)]);
        }
    }

    /// Does something with a replica and takes what it gives.
    pub fn act(&mut self, id: u64, act: impl FnOnce(&mut Replica<u64>, &mut Turn<u64>) -> Result<()>) {
        let Some(replica) = self.nodes.get_mut(&id).and_then(|node| node.replica.as_mut()) else { return };
        let mut turn = Turn { clock: passing, rest: |_| RESTS.set(RESTS.get() + 1), ..Turn::default() };
        let outcome = act(replica, &mut turn);
        let node = self.nodes.get_mut(&id).expect("it was there");
        node.removed |= turn.removed;
        if let Err(error) = outcome {
            (node.stopped, node.replica) = (Some(error), None);
        }
        self.answers.extend(turn.answers);
    }

    /// Delivers every letter, and those that follow from them.
    pub fn deliver(&mut self) {
        loop {
            let letters: Vec<Letter> =
                self.nodes.values().flat_map(|node| std::mem::take(&mut *node.sent.lock().unwrap())).collect();
            if letters.is_empty() {
                return;
            }
            for letter in letters {
                let (from, to) = (letter.from().0, letter.to().0);
                if self.cut.contains(&(from, to)) || self.nodes.get(&to).is_none_or(|node| node.replica.is_none()) {
                    self.lost(&letter);
                    continue;
                }
                let letter = Letter::decode(&letter.encode().into()).expect("a letter");
                self.carry(letter);
            }
        }
    }

    fn lost(&mut self, letter: &Letter) {
        if is_snapshot(letter) {
            self.act(letter.from().0, |replica, turn| replica.snapshot_sent(letter.to(), false, turn));
        }
    }

    fn carry(&mut self, letter: Letter) {
        let (from, to) = (letter.from(), letter.to());
        let snapshot = is_snapshot(&letter);
        if snapshot {
            let source = self.replica(from.0).snapshots().clone();
            let meta = source.latest().expect("one was announced");
            let (bytes, _) = source.piece(&meta, 0, 1 << 30).expect("it is there");
            let target = self.replica(to.0).snapshots().clone();
            // The disk may be gone: then the letter announces what is not there.
            let _ = target.take_piece(meta.index, meta.term, 0, &bytes, true);
        }
        self.act(to.0, |replica, turn| replica.receive(vec![letter], turn));
        if snapshot {
            self.act(from.0, |replica, turn| replica.snapshot_sent(to, true, turn));
        }
    }

    /// Time passes: so many ticks everywhere, with everything that follows.
    pub fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            for id in self.up() {
                self.act(id, |replica, turn| replica.tick(turn));
                self.snapshot_if_due(id, false);
                self.deliver();
            }
        }
    }

    pub fn snapshot_if_due(&mut self, id: u64, wanted: bool) {
        self.act(id, |replica, _| {
            let Some(capture) = replica.capture_due(wanted) else { return Ok(()) };
            let state_bytes = capture.write(&mut || Ok(()));
            replica.captured(SnapshotWritten { meta: capture.meta.clone(), state_bytes })
        });
    }

    pub fn leader(&self) -> u64 {
        let leads = |id: &&u64| self.nodes[id].replica.as_ref().is_some_and(|replica| replica.role() == Role::Leader);
        let leaders: Vec<u64> = self.nodes.keys().filter(leads).copied().collect();
        assert_eq!(leaders.len(), 1, "one leads: {leaders:?}");
        leaders[0]
    }

    /// One more job at this node. Gives the ticket.
    pub fn enqueue(&mut self, id: u64) -> u64 {
        self.jobs += 1;
        let request = enqueue(job(self.jobs), 100);
        self.propose(id, &request)
    }

    pub fn propose(&mut self, id: u64, request: &[u8]) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let proposals = vec![Proposal { entry: entry::frame(request), ticket }];
        self.act(id, |replica, turn| replica.turn(Millis(5_000), proposals, turn));
        ticket
    }

    /// A job that is answered.
    pub fn work(&mut self) {
        let leader = self.leader();
        let ticket = self.enqueue(leader);
        self.deliver();
        assert!(matches!(self.answers.get(&ticket), Some(Ok(_))), "{:?}", self.answers.get(&ticket));
    }

    /// Proposes a change where it must be proposed, and gives the answer if there is one by now.
    pub fn change(&mut self, change: MemberChange) -> Option<Result<Vec<u8>>> {
        let leader = self.leader();
        self.change_at(leader, change, false)
    }

    pub fn change_at(&mut self, id: u64, change: MemberChange, forced: bool) -> Option<Result<Vec<u8>>> {
        let ticket = self.begin_change(id, change, forced);
        self.deliver();
        self.answers.get(&ticket).cloned()
    }

    /// Proposes a change and delivers nothing.
    pub fn begin_change(&mut self, id: u64, change: MemberChange, forced: bool) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.act(id, |replica, turn| replica.change_members(change, forced, ticket, turn));
        ticket
    }

    /// A node joins and becomes a voter.
    pub fn join(&mut self, id: u64) {
        self.begin(id, &[]);
        assert!(matches!(self.change(MemberChange::AddLearner(NodeId(id))), Some(Ok(_))));
        self.pass(10);
        assert!(matches!(self.change(MemberChange::Promote(NodeId(id))), Some(Ok(_))));
    }

    pub fn members(&mut self, id: u64) -> Members {
        self.replica(id).members()
    }

    pub fn voters(&mut self, id: u64) -> Vec<u64> {
        self.members(id).voters.iter().map(|voter| voter.0).collect()
    }

    /// Everybody who is up and a member has the same state and the same members.
    pub fn check_equal(&mut self) {
        self.pass(10);
        let members: Vec<u64> = self.up().into_iter().filter(|id| !self.nodes[id].removed).collect();
        let mut seen = BTreeSet::new();
        for id in &members {
            let replica = self.replica(*id);
            let known = replica.members();
            let digest = replica.machine().read().digest();
            seen.insert((replica.applied(), digest, known.voters, known.learners, known.outgoing));
        }
        assert_eq!(seen.len(), 1, "{members:?}: {seen:?}");
    }
}

fn is_snapshot(letter: &Letter) -> bool {
    matches!(letter, Letter::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot)
}
