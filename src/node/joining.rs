//! How a node becomes one of several, with a directory that is new: it begins a group, or joins one.
//!
//! ```text
//! new directory ── Who? ──> every other address of the list
//!     one is a member          ──> makes its directory as a joiner, then Join ──> the leader adds it as a learner
//!     all are as new as this   ──> the first of the list begins the group; the others ask on until it has
//!     one does not answer      ──> asks on: it may be the only one that knows a group
//! ```
//!
//! What holds
//! * What becomes of a node its list says only while it has no data. It needs all its members once, and never again: two
//!   groups can not come of one list, as only its first may begin one, and only while no other has data. A node with data takes
//!   the list for addresses at which members may be found, see `seeking`.
//! * A node is its disk: its id is drawn with its directory. Who comes with an address that a member has, but without that
//!   member's data, is refused, with what to do (D5): its promises, votes among them, are on the disk that is not there.
//! * An id is on the disk before the group hears of it, so a crash in the middle leads to the same member.
//!
//! Frames, each the first and the only one of its connection, and its answer:
//!
//! | kind | name      | payload                                                                               |
//! |------|-----------|---------------------------------------------------------------------------------------|
//! | 6    | Who       | nothing; or 1: the member's id and whom it knows are wanted too. Answer: `Fresh` or `Member` |
//! | 7    | Join      | MessagePack: [node, name, raft address, client address, highest feature level that it knows, release, oldest and newest version that it speaks]; more is of a later version. Answer: `Joined`, `Elsewhere`, `Later` or `Refused` |
//! | 8    | Renew     | a certificate request; then MessagePack: the node's id, which an older member does not say, and refuses. Answer: `Renewed` or `Refused` |
//! | 68   | Fresh     | nothing: no data here either                                                          |
//! | 69   | Member    | cluster (16), group (8); then, if it was wanted, node (8) and MessagePack: [[node, raft address]...], of the members that it is connected to. An older member does not say this |
//! | 70   | Joined    | MessagePack: [[node, raft address]...], of all members; then how many must vote before the group answers anything, 0 as a rule. An older leader does not say this |
//! | 71   | Elsewhere | the address of the leader                                                             |
//! | 72   | Renewed   | the certificate, PEM                                                                  |

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::elsewhere::PAST;
use super::hello::{LATER, REFUSED};
use super::inbox::Chore;
use super::lines;
use super::seeking::{read_members, Named, WHOSE};
use super::ticket::Ticket;
use super::wish::{self, Wish};
use super::{own_request, ClusterConfig, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, GroupId, NodeId, Result};
use crate::disk::Identity;
use crate::net::packet::{self, Frame};
use crate::net::{connect, Accepted, Address, Certified, Frames};
use crate::replica::MemberChange;

pub(super) const WHO: u8 = 6;
const JOIN: u8 = 7;
const RENEW: u8 = 8;
const FRESH: u8 = 68;
pub(super) const MEMBER: u8 = 69;
const JOINED: u8 = 70;
const ELSEWHERE: u8 = 71;
const RENEWED: u8 = 72;

/// The commands that list a member and strike one off, see `machine::command`.
const PUT_MEMBER: u64 = 16;
const DROP_MEMBER: u64 = 17;

/// How long another node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the wait is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Who opens the port for members: before the node behind it is open, it says so.
pub(super) struct Door {
    /// Whose data the directory held before the port was opened. To read it all may take long, and nobody may take this node
    /// for one without data meanwhile: the first of a list would begin a second group.
    stored: Option<Identity>,
    node: OnceLock<Weak<Shared>>,
}

impl Door {
    pub fn new(stored: Option<Identity>) -> Self {
        Self { stored, node: OnceLock::new() }
    }

    /// From now on this node answers.
    pub fn open(&self, shared: &Arc<Shared>) {
        // Set once: a node is opened once.
        let _ = self.node.set(Arc::downgrade(shared));
    }

    /// Serves one connection until it ends.
    pub fn serve(&self, accepted: Accepted) {
        let node = self.node.get().and_then(Weak::upgrade);
        let (kind, payload) = match (accepted.hello.kind, node) {
            (WHO, Some(node)) => (MEMBER, node.say_who(&accepted.hello.payload)),
            (WHO, None) => match &self.stored {
                Some(identity) => (MEMBER, Named::encode(identity, accepted.hello.payload == WHOSE)),
                None if self.node.get().is_none() => (FRESH, Vec::new()),
                None => (LATER, b"the other side closes".to_vec()),
            },
            (JOIN, Some(node)) => node.answer_join(&accepted.hello, accepted.identity.as_ref()),
            (RENEW, Some(node)) => match node.sign_for_member(&accepted.hello.payload, accepted.identity.as_ref()) {
                Ok(certificate) => (RENEWED, certificate.into_bytes()),
                Err(error) => (REFUSED, error.to_string().into_bytes()),
            },
            (PAST, Some(node)) => node.answer_past(&accepted.hello),
            (lines::ASK, Some(node)) => node.answer_lines(&accepted.hello),
            (_, Some(node)) => return node.serve_member(accepted),
            (_, None) => (LATER, b"the other side is not open yet".to_vec()),
        };
        if let Ok(frame) = packet::encode(kind, 0, &payload) {
            accepted.outgoing.send(frame);
            // Finished jobs and log lines are more than a socket takes at once.
            accepted.outgoing.drain(ANSWER_WAIT);
        }
        accepted.outgoing.end();
    }
}

/// What becomes of a node with a new directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// It begins a group.
    Begins,
    /// It joins this one.
    Joins(ClusterId, GroupId),
}

/// Asks the others of the list until it is clear what becomes of this node.
///
/// # Errors
/// `Invalid`: the list does not name this node. `Busy`: it is not clear after `config.patience`; nothing was made.
pub(super) fn begin(config: &ClusterConfig) -> Result<Beginning> {
    let own = config.reached();
    let others: Vec<&Address> = config.members.iter().filter(|member| **member != own).collect();
    if config.members.is_empty() {
        return Ok(Beginning::Begins);
    }
    if others.len() == config.members.len() && !config.joins {
        return Err(Error::Invalid(format!(
            "members does not name {own}, where the others reach this node: add it to the list of all of them, or say \
             with advertise under which of its addresses this node is listed"
        )));
    }
    let may_begin = !config.joins && config.members.first() == Some(&own);
    let (until, mut tell_at) = (Instant::now() + config.patience, Instant::now() + TELL_EVERY);
    loop {
        let mut missing = Vec::new();
        for address in &others {
            match ask(config, address, WHO, &[]) {
                Ok(Frame { kind: MEMBER, payload, .. }) => {
                    return Named::read(&payload).map(|named| Beginning::Joins(named.cluster, named.group));
                }
                Ok(Frame { kind: FRESH, .. }) => {}
                Ok(frame) => missing.push(format!("{address} answered with a frame of kind {}", frame.kind)),
                Err(error) => missing.push(format!("{address}: {error}")),
            }
        }
        if missing.is_empty() && may_begin {
            return Ok(Beginning::Begins);
        }
        let waits_for = match missing.is_empty() {
            true => format!("{} has not begun the group yet", config.members[0]),
            false => missing.join("; "),
        };
        if Instant::now() >= until {
            return Err(Error::Busy {
                path: format!("the cluster of {own}"),
                holder: format!(
                    "nobody yet: all members of the list are needed once, to begin or to tell of the group; {waits_for}"
                ),
            });
        }
        if Instant::now() >= tell_at {
            log::warn!("waiting for the other members: {waits_for}");
            tell_at += TELL_EVERY;
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// One question on a connection of its own.
pub(super) fn ask(config: &ClusterConfig, address: &Address, kind: u8, payload: &[u8]) -> Result<Frame> {
    let (stream, _) = connect(address, &config.security, Instant::now() + ANSWER_WAIT)?;
    stream.write_first(packet::encode(kind, 0, payload)?)?;
    let mut frames = Frames::new();
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(frame);
        }
        if !frames.fill(&mut &stream)? {
            return Err(Error::Closed);
        }
    }
}

impl Shared {
    /// Asks the leader to let this node in. From then on it is sent the state, and promoted when it has everything.
    ///
    /// # Errors
    /// `Foreign`: it is refused, and why. `Busy`: no leader answered within the patience.
    pub(super) fn join(self: &Arc<Self>, config: &ClusterConfig) -> Result<()> {
        let own = config.reached();
        let mut targets: Vec<Address> = config.members.iter().filter(|member| **member != own).cloned().collect();
        let wish = wish::encode(&self.own_record(config)?);
        let until = Instant::now() + config.patience;
        loop {
            let mut failure = "the list of members names nobody else".to_owned();
            let fits = self.leave_old_certificate().inspect_err(|error| failure = error.to_string());
            for address in targets.clone().into_iter().filter(|_| fits.is_ok()) {
                match ask(config, &address, JOIN, &wish) {
                    Ok(Frame { kind: JOINED, payload, .. }) => return self.joined(&payload),
                    Ok(Frame { kind: REFUSED, payload, .. }) => {
                        return Err(Error::Foreign(String::from_utf8_lossy(&payload).into_owned()));
                    }
                    Ok(Frame { kind: ELSEWHERE, payload, .. }) => {
                        failure = format!("{address} does not lead");
                        // First the next time.
                        targets.insert(0, Address::parse(&String::from_utf8_lossy(&payload))?);
                        targets.dedup();
                    }
                    Ok(Frame { kind: LATER, payload, .. }) => {
                        failure = format!("{address}: {}", String::from_utf8_lossy(&payload));
                    }
                    Ok(frame) => failure = format!("{address} answered with a frame of kind {}", frame.kind),
                    Err(error) => failure = format!("{address}: {error}"),
                }
            }
            if Instant::now() >= until {
                return Err(Error::Busy { path: format!("the cluster of {own}"), holder: failure });
            }
            self.ticks.pause(PAUSE);
        }
    }

    fn joined(self: &Arc<Self>, answer: &[u8]) -> Result<()> {
        let (addresses, founding) = read_joined(answer)?;
        if founding > 0 {
            self.joins_founding(founding)?;
        }
        self.reach(&addresses)
    }

    /// `[node, name, raft address, client address]`.
    fn own_record(&self, config: &ClusterConfig) -> Result<Vec<u8>> {
        let mut record = Writer::new();
        record.array(4).u64(self.identity.node.0).str(&config.name());
        record.str(&config.reached().to_string()).str(&config.clients_reached()?.to_string());
        Ok(record.into_bytes())
    }

    /// Has a certificate request signed by whichever other member can.
    pub(super) fn ask_to_sign(&self, request: &[u8]) -> Result<String> {
        let config = self.config.cluster.as_ref().ok_or(Error::Closed)?;
        let mut asked = Writer::new();
        asked.raw(request).u64(self.identity.node.0);
        let mut failure = "there are none".to_owned();
        for address in self.others(config) {
            match ask(config, &address, RENEW, asked.as_bytes()) {
                Ok(Frame { kind: RENEWED, payload, .. }) => return Ok(String::from_utf8_lossy(&payload).into_owned()),
                Ok(Frame { payload, .. }) => failure = format!("{address}: {}", String::from_utf8_lossy(&payload)),
                Err(error) => failure = format!("{address}: {error}"),
            }
        }
        Err(Error::NotCommitted(failure))
    }

    /// Where the other members are; of a node that knows none yet, where its settings say.
    fn others(&self, config: &ClusterConfig) -> Vec<Address> {
        let (own, reached) = (self.identity.node, config.reached());
        let machine = self.machine.read();
        let listed: Vec<Address> = machine
            .members()
            .filter(|member| member.node != own)
            .filter_map(|member| Address::parse(&member.raft).ok())
            .collect();
        match listed.is_empty() {
            true => config.members.iter().filter(|member| **member != reached).cloned().collect(),
            false => listed,
        }
    }

    fn answer_join(self: &Arc<Self>, frame: &Frame, identity: Option<&Certified>) -> (u8, Vec<u8>) {
        match self.let_join(&frame.payload, identity) {
            Ok(answer) => answer,
            Err(error @ (Error::Foreign(_) | Error::Invalid(_))) => (REFUSED, error.to_string().into_bytes()),
            // Another change of the members, or of the leader, most of all: it passes, and the other asks again.
            Err(error) => (LATER, error.to_string().into_bytes()),
        }
    }

    fn let_join(self: &Arc<Self>, wish: &[u8], identity: Option<&Certified>) -> Result<(u8, Vec<u8>)> {
        let wish = Wish::read(wish)?;
        let (node, raft) = (wish.node, wish.raft);
        identity.map_or(Ok(()), |certified| certified.check_node(node))?;
        if self.leads.lock().is_none() {
            let leader = self.leader.lock().and_then(|leader| self.raft_address(leader));
            return Ok(match leader {
                Some(address) => (ELSEWHERE, address.to_string().into_bytes()),
                None => (FRESH, Vec::new()), // Nothing to say yet; the other asks again.
            });
        }
        wish.check(self.machine.read().level())?;
        self.check_newcomer(node, raft)?;
        if !self.is_member(node) {
            log::info!("node {node} at {raft} joins");
            if let Err(error) = self.change_members(MemberChange::AddLearner(node), false) {
                // One that asks twice is a member already, which is seen at the next tick.
                self.ticks.pause(2 * self.tick());
                if !self.is_member(node) {
                    return Err(error);
                }
            }
            self.note("node", "member.join", &format!("{node} at {raft}"));
        }
        self.put_member(&wish.record)?;
        // Without this node's own address the newcomer could not answer it.
        if let Some(config) = self.config.cluster.as_ref().filter(|_| self.raft_address(self.identity.node).is_none()) {
            self.put_member(&self.own_record(config)?)?;
        }
        let members: Vec<_> = self.machine.read().members().map(|member| (member.node, member.raft.clone())).collect();
        let mut answer = Writer::new();
        answer.array(members.len());
        members.iter().for_each(|(node, raft)| {
            answer.array(2).u64(node.0).str(raft);
        });
        answer.u64(self.awaited_voters() as u64);
        Ok((JOINED, answer.into_bytes()))
    }

    /// Refuses a node that stands where a member stood, without being it.
    fn check_newcomer(&self, node: NodeId, raft: &str) -> Result<()> {
        let machine = self.machine.read();
        let other = machine.members().find(|member| &*member.raft == raft && member.node != node);
        let Some(other) = other.filter(|other| !self.is_replaced_at(other.node, raft)) else { return Ok(()) };
        Err(Error::Foreign(format!(
            "{raft} is the address of member {} ({}), and this is node {node}, without its data. If that data directory is \
             only misplaced, start the node with it. If it is lost for good, run `raftwork cluster remove {}` against the \
             other members, then start this node again: it joins as a new member. Or run `raftwork cluster replace {} \
             {raft}` and start it meanwhile",
            other.node, other.name, other.node, other.node
        )))
    }

    /// Lists a member, and has it in effect when this returns.
    fn put_member(self: &Arc<Self>, record: &[u8]) -> Result<()> {
        let mut fields = Reader::new(record);
        fields.array_of(4, "the record of a member")?;
        let mut command = Writer::new();
        command.array(5).u64(PUT_MEMBER).raw(fields.rest());
        self.submit(&own_request(&command), Some(Instant::now() + ANSWER_WAIT), &mut || Ok(())).map(drop)
    }

    /// Changes who is a member, and returns when that is in force.
    pub(super) fn change_members(&self, change: MemberChange, forced: bool) -> Result<()> {
        let (send, receive) = std::sync::mpsc::channel();
        // A receiver that is gone does not want to know any more.
        let ticket = Ticket::call(Box::new(move |answer| drop(send.send(answer))));
        self.inbox.chore(Chore::ChangeMembers { change, forced, ticket });
        receive.recv().unwrap_or(Err(Error::Closed)).map(drop)
    }

    /// Strikes a member off the list, and has that in effect when this returns.
    pub(super) fn drop_member(self: &Arc<Self>, node: NodeId) -> Result<()> {
        let mut command = Writer::new();
        command.array(2).u64(DROP_MEMBER).u64(node.0);
        self.submit(&own_request(&command), Some(Instant::now() + ANSWER_WAIT), &mut || Ok(())).map(drop)
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        let figures = self.figures.lock();
        figures.members.voters.contains(&node) || figures.members.learners.contains(&node)
    }

    /// Whether this node waits for its state.
    pub(super) fn is_joining(&self) -> bool {
        self.figures.lock().members.voters.is_empty()
    }

    pub(super) fn raft_address(&self, node: NodeId) -> Option<Address> {
        let machine = self.machine.read();
        let mut members = machine.members();
        members.find(|member| member.node == node).and_then(|member| Address::parse(&member.raft).ok())
    }

    /// Follows what the members' table says: keeps connections to them, and corrects what it says about this node.
    pub(super) fn follow_members(self: &Arc<Self>, config: &ClusterConfig, known: &mut BTreeMap<NodeId, Address>) {
        let mut listed = BTreeMap::new();
        let mut own = None;
        for member in self.machine.read().members() {
            if let Ok(address) = Address::parse(&member.raft) {
                listed.insert(member.node, address);
            }
            if member.node == self.identity.node {
                own = Some((member.raft.to_string(), member.client.to_string()));
            }
        }
        // A node that joins has no table yet; it was told where the others are.
        if !listed.is_empty() && *known != listed {
            if let Err(error) = self.reach(&listed) {
                log::error!("the connections to the other members were not made: {error}");
                return;
            }
            *known = listed;
        }
        let reached = config.clients_reached().map(|clients| (config.reached().to_string(), clients.to_string())).ok();
        let waits = self.leader.lock().is_none() || self.is_joining();
        if own == reached || waits || self.listing.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(record) = self.own_record(config) else { return };
        let mut command = Writer::new();
        // An array of four: its head is one byte.
        command.array(5).u64(PUT_MEMBER).raw(&record[1..]);
        let shared = Arc::downgrade(self);
        self.propose(&command, move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.listing.store(false, Ordering::Release);
            }
        });
    }
}

/// Where the members are, and how many must vote before the group answers anything; 0: it does.
fn read_joined(payload: &[u8]) -> Result<(BTreeMap<NodeId, Address>, usize)> {
    let mut reader = Reader::new(payload);
    let addresses = read_members(&mut reader)?;
    // An older leader does not say it.
    let founding = if reader.is_empty() { 0 } else { reader.u64()? };
    Ok((addresses, founding as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;
    use crate::node::group_of_one;

    fn asked(node: &Arc<Shared>, wish: &[u8]) -> u8 {
        node.answer_join(&Frame { kind: JOIN, id: 0, payload: wish.to_vec() }, None).0
    }

    #[test]
    fn only_a_refusal_that_stays_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = group_of_one::open(dir.path());
        let says = |level| {
            let mut wish = Writer::new();
            wish.array(8).u64(77).str("another").str("127.0.0.1:1").str("127.0.0.1:2");
            wish.u64(level).str("0.0.9").u64(1).u64(1);
            wish.into_bytes()
        };
        assert_eq!(asked(&node.shared, b"no wish"), REFUSED);
        assert_eq!(asked(&node.shared, &says(1)), REFUSED, "it is too old");
        node.close().expect("it closes");
        assert_eq!(asked(&node.shared, &says(machine::LEVEL)), LATER, "another member may let it in in a moment");
    }
    #[test]
    fn what_an_older_leader_does_not_say_is_not_missed() {
        let mut joined = Writer::new();
        joined.array(1).array(2).u64(7).str("10.0.0.7:7000");
        let address = Address::parse("10.0.0.7:7000").expect("an address");
        assert_eq!(read_joined(joined.as_bytes()), Ok(([(NodeId(7), address.clone())].into(), 0)));
        joined.u64(2);
        assert_eq!(read_joined(joined.as_bytes()), Ok(([(NodeId(7), address)].into(), 2)));
    }
}
