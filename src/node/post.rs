//! Letters between members, over one connection a direction: each member dials every other to send, and reads what others
//! dialed to it. One that was removed is dialed by nobody, and does not know it if it was away: what it is told goes back over
//! the connection on which it asks.
//!
//! A frame between members (see `net::packet`), kind and payload, after the first words of both (see `hello`):
//!
//! | kind | name    | payload                                                                                      |
//! |------|---------|----------------------------------------------------------------------------------------------|
//! | 2    | Letter  | see `replica::wire`                                                                          |
//! | 3    | Piece   | index, term, offset, last (1), bytes of a snapshot's file                                    |
//! | 4    | Ask     | index, term: how much of this snapshot is there?                                             |
//! | 67   | Taken   | index, term, bytes that are there; or all bits set: refused, begin again                     |
//! | 75   | GivenUp | the words: the cluster of the one who came was given up, see `anew`; it stops for good        |
//!
//! What holds
//! * Who comes from a new address says where it is reached now, and is reached there from then on: before it is, no leader
//!   could tell it anything, nor take in what it wants to have listed. That of others is listed anew meanwhile changes nothing
//!   of it.
//! * Whose connection is up has said which release it runs and which feature level it knows. Of whom there is none, nothing is
//!   known: it may come back with another release.
//! * A letter is read only after its sender's cluster, group and id are known, and it must be from that member and for this.
//!   Where a certificate says which member its owner is, nobody is believed to be another, on either side of a connection.
//! * Letters of one member arrive in their order, or not at all. What is dropped is reported, and raft-rs sends it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::{Condvar, Mutex, RwLock};
use bytes::Bytes;

use super::counters::Counters;
use super::hello::{self, check_welcome, Hello, Purpose, Runs};
use super::inbox::{Chore, Next};
use super::Shared;
use crate::base::{ClusterId, Error, GroupId, LogIndex, NodeId, Result};
use crate::disk::Identity;
use crate::net::packet::{self, Frame};
use crate::net::{Accepted, Address, Certified, Change, Dialer, DialerConfig, Outgoing, Security, Seldom};
use crate::replica::Letter;

pub(super) use super::hello::REFUSED;

pub(super) const LETTER: u8 = 2;
pub(super) const PIECE: u8 = 3;
pub(super) const ASK: u8 = 4;
pub(super) const TAKEN: u8 = 67;
// 1, 65, 66 and 73 are in `hello`, 68 to 72 in `joining`, 74 in `elsewhere`, 76 in `lines`.
const GIVEN_UP: u8 = 75;

/// How long a member that does not answer is waited for, when it is asked whether it still listens.
const PROBE: Duration = Duration::from_millis(300);
/// Of one member: lines about frames that it should not send.
const COMPLAINTS_APART: Duration = Duration::from_secs(60);

/// Where letters go.
pub(super) struct Post {
    me: NodeId,
    cluster: ClusterId,
    group: GroupId,
    own: Address,
    security: Security,
    links: RwLock<BTreeMap<NodeId, Arc<Dialer>>>,
    /// The connections on which letters come from others, for answers to those that are not dialed; and what they run.
    callers: Mutex<BTreeMap<NodeId, (Arc<Outgoing>, Runs)>>,
    /// Where each is dialed. Locked before `links`.
    addresses: Mutex<BTreeMap<NodeId, Address>>,
    /// Where the table of the members said that they are, when it was looked at last.
    listed: Mutex<BTreeMap<NodeId, Address>>,
    /// Letters that announce a snapshot: its bytes go first.
    snapshots: Mutex<VecDeque<Letter>>,
    snapshot_wanted: Condvar,
    /// Members that a message was dropped for since the last look.
    dropped: Mutex<BTreeSet<NodeId>>,
    counters: Arc<Counters>,
}

impl Post {
    pub fn new(identity: &Identity, own: Address, security: Security, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            me: identity.node,
            cluster: identity.cluster,
            group: identity.group,
            own,
            security,
            links: RwLock::default(),
            callers: Mutex::default(),
            addresses: Mutex::default(),
            listed: Mutex::default(),
            snapshots: Mutex::default(),
            snapshot_wanted: Condvar::new(),
            dropped: Mutex::default(),
            counters,
        })
    }

    /// Sends a letter, or drops it. Never blocks.
    pub fn send(&self, letter: Letter) {
        if letter.announced().is_some() {
            self.snapshots.lock().push_back(letter);
            self.snapshot_wanted.notify_one();
            return;
        }
        let to = letter.to();
        let sent = packet::encode(LETTER, 0, &letter.encode()).is_ok_and(|frame| match self.links.read().get(&to) {
            Some(link) => link.send(frame),
            // Messages of Raft have an order, which two connections would not keep.
            None => {
                matches!(letter, Letter::Note { .. })
                    && self.callers.lock().get(&to).is_some_and(|(caller, _)| caller.offer(frame))
            }
        });
        let count = if sent { &self.counters.letters_sent } else { &self.counters.letters_dropped };
        count.add(1);
        if !sent && matches!(letter, Letter::Raft(_)) {
            self.dropped.lock().insert(to);
        }
    }

    pub fn take_dropped(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.dropped.lock())
    }

    /// The next announced snapshot; waits for one for at most this long.
    pub fn next_snapshot(&self, wait: Duration) -> Option<Letter> {
        let mut snapshots = self.snapshots.lock();
        if snapshots.is_empty() {
            self.snapshot_wanted.wait_for(&mut snapshots, wait);
        }
        snapshots.pop_front()
    }

    pub fn hello(&self, to: NodeId, purpose: Purpose) -> Hello {
        let address = self.own.clone();
        Hello { cluster: self.cluster, group: self.group, from: self.me, to, purpose, runs: Runs::own(), address }
    }

    /// A member says where it is reached.
    fn moved(&self, member: NodeId, address: Address) {
        let mut addresses = self.addresses.lock();
        if addresses.get(&member).is_none_or(|known| *known == address) {
            return;
        }
        log::info!("member {member} is at {address} now");
        if let Some(link) = self.links.read().get(&member) {
            link.set_address(address.clone());
        }
        addresses.insert(member, address);
    }

    /// Somebody at this address says that it is this member. It is called there, if it is called in vain where it was.
    pub fn seen(&self, member: NodeId, address: &Address) {
        let is_up = self.links.read().get(&member).is_some_and(|link| link.is_up());
        if !is_up {
            self.moved(member, address.clone());
        }
    }

    /// The members whose connection is up, and where they are dialed.
    pub fn reached(&self) -> BTreeMap<NodeId, Address> {
        let addresses = self.addresses.lock();
        let links = self.links.read();
        let is_up = |member: &NodeId| links.get(member).is_some_and(|link| link.is_up());
        addresses.iter().filter(|(member, _)| is_up(member)).map(|(id, address)| (*id, address.clone())).collect()
    }

    /// Letters of this member come over this connection, until what is returned is dropped.
    fn called(&self, from: NodeId, over: &Arc<Outgoing>, runs: Runs) -> Call<'_> {
        self.callers.lock().insert(from, (over.clone(), runs));
        Call { post: self, from, over: over.clone() }
    }

    /// What a member runs, while it is connected to this one.
    pub fn runs(&self, member: NodeId) -> Option<Runs> {
        match member == self.me {
            true => Some(Runs::own()),
            false => self.callers.lock().get(&member).map(|(_, runs)| runs.clone()),
        }
    }

    pub fn address(&self, member: NodeId) -> Option<Address> {
        self.addresses.lock().get(&member).cloned()
    }

    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Members whose connection is up.
    pub fn connected(&self) -> usize {
        self.links.read().values().filter(|link| link.is_up()).count()
    }

    /// Ends every connection.
    pub fn end(&self) {
        std::mem::take(&mut *self.links.write()).into_values().for_each(|link| link.end());
    }
}

/// See `Post::called`.
struct Call<'a> {
    post: &'a Post,
    from: NodeId,
    over: Arc<Outgoing>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut callers = self.post.callers.lock();
        // Unless it has called again meanwhile.
        if callers.get(&self.from).is_some_and(|(over, _)| Arc::ptr_eq(over, &self.over)) {
            callers.remove(&self.from);
        }
    }
}

impl Shared {
    /// Keeps a connection up to each of these members, and to no other. Where a member said that it is, it is dialed until it
    /// is listed at another address than before.
    pub(super) fn reach(self: &Arc<Self>, members: &BTreeMap<NodeId, Address>) -> Result<()> {
        let Some(post) = &self.post else { return Ok(()) };
        let (mut listed, mut addresses) = (post.listed.lock(), post.addresses.lock());
        let mut links = post.links.write();
        let strangers: Vec<NodeId> = links.keys().copied().filter(|id| !members.contains_key(id)).collect();
        for id in strangers {
            links.remove(&id).into_iter().for_each(|link| link.end());
        }
        addresses.retain(|id, _| members.contains_key(id));
        for (id, address) in members {
            if listed.get(id) == Some(address) && addresses.contains_key(id) {
                continue;
            }
            addresses.insert(*id, address.clone());
            match links.get(id) {
                Some(link) => link.set_address(address.clone()),
                None if *id == post.me => {}
                None => {
                    links.insert(*id, self.dial(post, *id, address)?);
                }
            }
        }
        listed.clone_from(members);
        Ok(())
    }

    fn dial(self: &Arc<Self>, post: &Post, to: NodeId, address: &Address) -> Result<Arc<Dialer>> {
        let hello = post.hello(to, Purpose::Letters);
        let shared = Arc::downgrade(self);
        let mut config = DialerConfig::new(format!("member {to}"), address.clone(), post.security.clone());
        config.accept = Box::new(move |certified| certified.check_node(to));
        config.hello = Box::new(move || hello.frame());
        let told = shared.clone();
        config.welcome = Box::new(move |frame| {
            if let (GIVEN_UP, Some(shared)) = (frame.kind, told.upgrade()) {
                shared.inbox.chore(Chore::GivenUp(String::from_utf8_lossy(&frame.payload).into_owned()));
            }
            check_welcome(frame)
        });
        let (hears, complaints) = (shared.clone(), Seldom::new(1, COMPLAINTS_APART));
        config.received = Box::new(move |frame| {
            let heard = hears.upgrade().map_or(Ok(()), |shared| shared.take_letters(vec![frame], to));
            heard.unwrap_or_else(|error| complaints.warn(format_args!("member {to} answered with no letter: {error}")));
        });
        config.changed = Box::new(move |change| {
            if let (Change::Down(_), Some(shared)) = (change, shared.upgrade()) {
                shared.inbox.chore(Chore::Unreachable(to));
            }
        });
        Dialer::start(config)
    }

    /// Serves one connection of another member until it ends.
    pub(super) fn serve_member(self: &Arc<Self>, accepted: Accepted) {
        let outgoing = accepted.outgoing.clone();
        let hello = Hello::read(&accepted.hello);
        if let Some(why) = hello.as_ref().ok().and_then(|hello| self.given_up(hello)) {
            log::warn!("refused {} as a member of a cluster that was given up", accepted.peer);
            outgoing.send(packet::encode(GIVEN_UP, 0, why.as_bytes()).expect("an error fits a frame"));
            return outgoing.end();
        }
        let identity = accepted.identity.as_ref();
        match hello.and_then(|hello| self.check_hello(&hello, identity).map(|()| hello)) {
            Ok(hello) => {
                outgoing.send(hello::welcome());
                let (from, purpose, runs) = (hello.from, hello.purpose, hello.runs);
                let post = self.post.as_deref();
                if let Some(post) = post {
                    post.moved(from, hello.address);
                }
                let ended = match purpose {
                    Purpose::Letters => {
                        let _called = post.map(|post| post.called(from, &outgoing, runs));
                        self.read_letters(accepted, from)
                    }
                    Purpose::Snapshot => self.receive_snapshots(accepted, from),
                };
                if let Err(error) = ended {
                    log::warn!("the connection of member {from} ended: {error}");
                }
                if purpose == Purpose::Letters {
                    self.look_whether_gone(from);
                }
            }
            Err(error) => {
                log::warn!("refused {} as a member: {error}", accepted.peer);
                let words = error.to_string();
                outgoing.send(packet::encode(REFUSED, 0, words.as_bytes()).expect("an error fits a frame"));
            }
        }
        outgoing.end();
    }

    /// What a member is told of the cluster that this one was recovered from.
    fn given_up(&self, hello: &Hello) -> Option<String> {
        let origin = self.origin.as_ref().filter(|origin| origin.recovered)?;
        if (hello.cluster, hello.group) != (origin.cluster, origin.group) {
            return None;
        }
        let own = self.post.as_ref()?.own.clone();
        Some(format!(
            "cluster {} was given up at entry {} and goes on as cluster {} without this member. To add this machine to \
             it: stop the node, set its data directory aside (mv DIR DIR.old), and start it with a new one: raftwork node \
             --data DIR --listen {} --join {own}. If that is a mistake, remove the file GONE from its directory",
            origin.cluster, origin.index, self.identity.cluster, hello.address
        ))
    }

    fn check_hello(&self, hello: &Hello, identity: Option<&Certified>) -> Result<()> {
        let own = &self.identity;
        identity.map_or(Ok(()), |certified| certified.check_node(hello.from))?;
        if (hello.cluster, hello.group) != (own.cluster, own.group) {
            return Err(Error::Foreign(format!(
                "this is a member of cluster {}, group {}, not of {}, group {}",
                own.cluster, own.group, hello.cluster, hello.group
            )));
        }
        if hello.to != own.node {
            return Err(Error::Foreign(format!(
                "member {} is asked for, and this is {}: its data directory was replaced",
                hello.to, own.node
            )));
        }
        Ok(())
    }

    fn read_letters(&self, accepted: Accepted, from: NodeId) -> Result<()> {
        let Accepted { stream, mut frames, .. } = accepted;
        // Two that do not lead have nothing to say to each other while all goes well. There is one such connection of each
        // member, and the system notices when its machine is gone.
        stream.set_idle(None)?;
        loop {
            let mut arrived = Vec::new();
            while let Some(frame) = frames.take()? {
                arrived.push(frame);
            }
            self.take_letters(arrived, from)?;
            if self.inbox.stopped().is_some() || !frames.fill(&mut &*stream)? {
                return Ok(());
            }
        }
    }

    /// Letters that arrived together.
    fn take_letters(&self, frames: Vec<Frame>, from: NodeId) -> Result<()> {
        let (mut letters, mut bytes) = (Vec::with_capacity(frames.len()), 0);
        for frame in frames {
            if frame.kind != LETTER {
                return Err(Error::Invalid(format!("a frame of kind {} among letters", frame.kind)));
            }
            bytes += frame.payload.len();
            let letter = Letter::decode(&Bytes::from(frame.payload))?;
            if (letter.from(), letter.to()) != (from, self.identity.node) {
                return Err(Error::Foreign(format!("a letter of {} to {}", letter.from(), letter.to())));
            }
            letters.push(letter);
        }
        self.counters.letters_received.add(letters.len() as u64);
        let settled = LogIndex(self.settled.load(Ordering::Relaxed));
        let pressing = letters.iter().any(|letter| !letter.only_acknowledges(settled));
        if !letters.is_empty() && self.inbox.letters(letters, bytes, pressing) == Next::Drive {
            self.drive_briefly();
        }
        Ok(())
    }

    /// A member whose connection ended may have died. If nothing listens at its address any more, it has: the others need
    /// not wait until its leadership times out.
    fn look_whether_gone(&self, member: NodeId) {
        let address = self.post.as_ref().and_then(|post| post.address(member));
        let Some(resolved) = address.and_then(|address| address.resolve().ok()) else { return };
        let refused = |address| {
            let tried = std::net::TcpStream::connect_timeout(address, PROBE);
            tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        if !resolved.is_empty() && resolved.iter().all(refused) {
            self.inbox.chore(Chore::Gone(member));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::group_of_one;

    #[test]
    fn who_said_where_it_is_stays_there_when_others_are_listed_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = group_of_one::open(dir.path());
        let post = node.shared.post.as_ref().expect("it is one of several");
        let at = |port: u16| Address::parse("127.0.0.1:1").expect("an address").with_port(port);
        let reach = |listed: &[(u64, u16)]| {
            let members = listed.iter().map(|(member, port)| (NodeId(*member), at(*port))).collect();
            node.shared.reach(&members).expect("they are dialed");
        };
        let dialed = |member| post.address(NodeId(member)).map(|address| address.port());
        reach(&[(7, 1), (8, 1)]);
        post.moved(NodeId(7), at(2));
        post.seen(NodeId(8), &at(3));
        reach(&[(7, 1), (8, 1), (9, 1)]);
        assert_eq!([7, 8, 9].map(dialed), [Some(2), Some(3), Some(1)]);
        reach(&[(7, 4), (8, 1)]);
        assert_eq!([7, 8, 9].map(dialed), [Some(4), Some(3), None]);
        post.seen(NodeId(9), &at(5));
        assert_eq!(dialed(9), None, "it is no member");
        node.close().expect("it closes");
    }
}
