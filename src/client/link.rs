//! The node that this process asks: its own, the one of another process behind the socket of a directory, or a member of
//! a cluster behind the network. When it ends, the next is found.
//!
//! ```text
//! directory   take the lock ── got it ──> own node, listen on the socket
//!                 └ somebody has it ────> attach to the socket; while the owner is starting: again
//! cluster     connect to one address after the other until a member answers that knows its leader
//! the connection ends ──> the same again, on a thread of its own; questions wait meanwhile
//! ```
//!
//! What holds
//! * A question is answered once. What the last owner did not answer is asked again in the same words, so a write that
//!   it had applied gets its first answer (same session, same sequence).
//! * Watches and waits survive: they are made anew, and every watcher is told to look for work.
//! * What was once one cluster stays that one: an owner of another is refused, and so is a directory of another.
//! * What was answered by one member of a cluster is seen at the next (L2): it answers nothing before its state has
//!   everything that was answered anywhere.
//! * The directory of one member of a cluster is opened with the settings of that member only. Who has not got them waits
//!   for its owner: alone it would answer from a part of the cluster as if that were the whole, and keep the lock.
//! * The owner stays the owner until it is closed or fails. A failed one gives the lock back, and what its node did not
//!   answer is asked again, as if the owner had been killed. One that fails in the same way again and again is not
//!   opened any more, see `crashes`.

use super::backoff::Backoff;
use super::certificate::OwnCertificate;
use super::contacts::Contacts;
use super::crashes::Crashes;
use super::patience::Patience;
use super::takeover::end;
use crate::attach::message::Greeting;
use crate::attach::remote::{Question, Remote};
use crate::attach::server::Server;
use crate::attach::{WaitId, WatchEvent, WatchId, Watcher};
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{ClusterId, Error, GroupId, Millis, Result, SessionId};
use crate::node::{self, Node, NodeConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Directories that this process has opened, by their real paths.
static OPENED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Directories that this process has opened. A forked child must let go of their files: what it inherited would keep
/// their locks after its parent has died.
pub fn opened_directories() -> Vec<PathBuf> {
    OPENED.lock().iter().cloned().collect()
}

/// To be held while this process forks, as no thread is there in the child to give it back.
pub fn held_over_a_fork() -> impl Sized {
    OPENED.lock()
}

/// Where the state is to be found.
pub enum Whereabouts {
    /// In a directory of this machine.
    Directory(Box<NodeConfig>),
    /// With the members of a cluster.
    Cluster(Contacts),
}

/// A place and the node that answers for it at present.
pub struct Link {
    pub(super) at: Whereabouts,
    pub state: Mutex<State>,
    /// The owner changed, or the link was closed.
    pub(super) changed: Condvar,
    /// Whether this process is the owner.
    pub(super) owns: AtomicBool,
    pub me: Weak<Link>,
}

pub struct State {
    pub owner: Owner,
    pub last: u64,
    pub watches: BTreeMap<WatchId, Watch>,
    pub waits: BTreeMap<WaitId, Wait>,
    pub held: BTreeSet<SessionId>,
    /// The cluster that the first owner had: another in its place is refused.
    pub known: Option<(ClusterId, GroupId)>,
    /// While the next is sought: the members know that this client may not be let in, so nobody waits for the next try.
    pub(super) refused: Option<Error>,
    /// When the node of this process last failed.
    pub failed_at: Option<Instant>,
    pub(super) crashes: Crashes,
    /// The directory is that of one member of a cluster, and this process has not its settings: since when its owner is
    /// waited for, and why this process does not open it itself.
    pub awaited: Option<(Instant, Error)>,
}

#[derive(Clone)]
pub enum Owner {
    Us(Arc<Node>, Arc<Server>),
    Other(Arc<Remote>),
    /// Nobody known: questions wait.
    Sought(Arc<Mutex<Vec<Question>>>),
    Gone(Error),
}

#[derive(Clone)]
pub struct Watch {
    pub session: SessionId,
    pub sink: Arc<dyn Watcher>,
    /// Its name at the present owner.
    pub there: u64,
}

pub enum Wait {
    Unasked,
    /// At this node: the next one counts anew.
    Here(Weak<Node>, WaitId),
    There(u64),
}

impl Link {
    /// Finds a node; while none answers yet, tries again until the patience is over.
    pub fn open(at: Whereabouts, patience: &mut Patience<'_>) -> Result<Arc<Self>> {
        if let Whereabouts::Directory(config) = &at {
            config.validate()?;
        }
        let link = Arc::new_cyclic(|me| Self {
            at,
            state: Mutex::new(State {
                owner: Owner::Sought(Arc::default()),
                last: 0,
                watches: BTreeMap::new(),
                waits: BTreeMap::new(),
                held: BTreeSet::new(),
                known: None,
                refused: None,
                failed_at: None,
                crashes: Crashes::default(),
                awaited: None,
            }),
            changed: Condvar::new(),
            owns: AtomicBool::new(false),
            me: me.clone(),
        });
        let mut backoff = Backoff::new(matches!(link.at, Whereabouts::Cluster(_)), Instant::now());
        loop {
            let busy = match link.find_owner_guarded() {
                Ok(owner) => {
                    link.install(owner);
                    return Ok(link);
                }
                Err(error @ Error::Busy { .. }) => error,
                Err(error) if link.is_awaited(&error) => error,
                Err(error) => return Err(link.explained(error)),
            };
            let mut state = link.state.lock();
            link.changed.wait_for(&mut state, backoff.next(Instant::now()));
            drop(state);
            patience.check()?;
            if patience.is_over() {
                return Err(link.explained(busy));
            }
        }
    }

    /// Whether this process owns the directory.
    pub fn owns(&self) -> bool {
        self.owns.load(Ordering::Acquire)
    }

    /// Whether the state of the directory is the whole group's.
    pub fn is_alone(&self) -> bool {
        matches!(&self.at, Whereabouts::Directory(config) if config.cluster.is_none())
    }

    /// Gives the directory free, or lets go of its owner. Whoever waits is told.
    pub fn close(&self) -> Result<()> {
        let mut state = self.state.lock();
        let owner = std::mem::replace(&mut state.owner, Owner::Gone(Error::Closed));
        let watches = std::mem::take(&mut state.watches);
        drop(state);
        self.changed.notify_all();
        let closed = match owner {
            Owner::Us(node, server) => {
                server.prepare_to_close();
                let closed = node.close();
                server.close();
                closed
            }
            Owner::Other(remote) => {
                remote.end();
                remote.orphans().into_iter().for_each(|question| question.answer(Err(Error::Closed)));
                Ok(())
            }
            Owner::Sought(parked) => {
                std::mem::take(&mut *parked.lock()).into_iter().for_each(|it| it.answer(Err(Error::Closed)));
                Ok(())
            }
            Owner::Gone(_) => Ok(()),
        };
        watches.into_values().for_each(|watch| watch.sink.event(WatchEvent::NodeClosed));
        closed
    }

    /// One try. `Busy`: nobody answers now, somebody may soon. `Member`: nobody answers, and this process must not be the owner.
    pub(super) fn find_owner(&self) -> Result<Owner> {
        let expected = self.state.lock().known;
        match &self.at {
            Whereabouts::Directory(config) => self.find_in(config, expected),
            Whereabouts::Cluster(contacts) => contacts.find(&greeting(expected), || self.when_lost()).map(Owner::Other),
        }
    }

    /// The lock, else the socket. `Busy`: somebody has the lock and does not answer.
    fn find_in(&self, config: &NodeConfig, expected: Option<(ClusterId, GroupId)>) -> Result<Owner> {
        let awaited = self.state.lock().awaited.clone();
        if let Some((_, why)) = awaited {
            // Not the lock again: its owner, who comes back meanwhile, would find it taken.
            return self.attach(config, expected, why);
        }
        // Before any file in it is open.
        let path = real_path(&config.dir); // Not under the lock: whoever forks waits for it.
        OPENED.lock().insert(path);
        let busy = match Node::open(NodeConfig { expected, ..config.clone() }) {
            Ok(node) => {
                let server = Server::start(&config.dir, node.clone(), greeting(Some(node.cluster())))?;
                if let Some(cluster) = &config.cluster {
                    server.listen(cluster.clients_listener()?, cluster.client_rate)?;
                    node.when_cut_off(server.send_away());
                    node.tell_of_clients(server.tally());
                }
                return Ok(Owner::Us(node, Arc::new(server)));
            }
            Err(error @ Error::Busy { .. }) => error,
            Err(error @ Error::Member(_)) => {
                self.state.lock().awaited = Some((Instant::now(), error.clone()));
                error
            }
            Err(error) => return Err(error),
        };
        self.attach(config, expected, busy)
    }

    /// The socket; else `absent`.
    fn attach(&self, config: &NodeConfig, expected: Option<(ClusterId, GroupId)>, absent: Error) -> Result<Owner> {
        match Remote::connect(&config.dir, greeting(expected), self.when_lost()) {
            Ok(remote) => Ok(Owner::Other(remote)),
            Err(error @ Error::Foreign(_)) => Err(error),
            Err(_) => Err(absent),
        }
    }

    /// Whether this says that the owner of a member's directory is away, and not for too long yet.
    pub(super) fn is_awaited(&self, error: &Error) -> bool {
        let Whereabouts::Directory(config) = &self.at else { return false };
        let since = self.state.lock().awaited.as_ref().map(|(since, _)| *since);
        matches!(error, Error::Member(_)) && since.is_some_and(|since| since.elapsed() < config.owner_patience)
    }

    /// The same with the commands that help, for whoever is told now.
    pub(super) fn explained(&self, error: Error) -> Error {
        match &self.at {
            Whereabouts::Directory(config) => node::with_commands(&config.disk, &config.dir, error),
            Whereabouts::Cluster(_) => error,
        }
    }

    /// What to do when a connection ends.
    fn when_lost(&self) -> impl FnOnce() + Send + 'static {
        let me = self.me.clone();
        move || {
            if let Some(link) = me.upgrade() {
                link.lost();
            }
        }
    }

    /// From now on this is the owner: asks what was not answered, watches what was watched.
    pub(super) fn install(&self, owner: Owner) {
        let mut state = self.state.lock();
        let parked = match &state.owner {
            Owner::Sought(parked) => std::mem::take(&mut *parked.lock()),
            _ => {
                // Closed meanwhile.
                drop(state);
                return end(owner);
            }
        };
        for session in &state.held {
            match &owner {
                Owner::Us(node, _) => node.hold(*session),
                // The first sign of life tells the owner whose session it is.
                Owner::Other(remote) => {
                    remote.ask(Question::Heartbeat(*session, Box::new(drop)));
                }
                _ => {}
            }
        }
        self.owns.store(matches!(owner, Owner::Us(..)), Ordering::Release);
        let mut sinks = Vec::new();
        for watch in state.watches.values_mut() {
            watch.there = begin_watch(&owner, watch.session, watch.sink.clone());
            sinks.push(watch.sink.clone());
        }
        (state.known, state.awaited, state.refused) = (state.known.or(cluster_of(&owner)), None, None);
        state.owner = owner.clone();
        self.changed.notify_all();
        drop(state);
        match &owner {
            Owner::Us(node, _) => self.mind(node),
            // Its end was told when nobody expected it yet.
            Owner::Other(remote) if remote.is_ended() => self.on_a_thread(Link::lost),
            _ => {}
        }
        for question in parked {
            self.ask_owner(&owner, question);
        }
        sinks.into_iter().for_each(|sink| sink.event(WatchEvent::Ready));
    }

    /// Has a failure of the own node told, also when nobody asks it anything.
    fn mind(&self, node: &Arc<Node>) {
        let (link, minded) = (self.me.clone(), Arc::downgrade(node));
        node.when_failed(move || {
            if let (Some(link), Some(node)) = (link.upgrade(), minded.upgrade()) {
                link.node_failed(&node);
            }
        });
    }

    /// A member that hangs keeps its connections: whoever waits for it goes to another. Tells when to look again, if it matters.
    /// Never blocks.
    pub fn mind_silence(&self) -> Option<Duration> {
        match (&self.at, self.owner()) {
            (Whereabouts::Cluster(_), Owner::Other(remote)) => Some(remote.mind_silence()),
            _ => None,
        }
    }

    /// See `certificate`. Never blocks for long.
    pub fn mind_certificate(&self) {
        if let Some(own) = self.own_certificate() {
            own.mind();
        }
    }

    /// When the own certificate expires, and from thirty days before on what to do about it. A node tells that of its own itself.
    pub fn certificate(&self) -> Option<(Millis, Option<String>)> {
        let own = self.own_certificate()?;
        Some((own.expires_at()?, own.alarm()))
    }

    fn own_certificate(&self) -> Option<&OwnCertificate> {
        match &self.at {
            Whereabouts::Cluster(contacts) => contacts.certificate.as_ref(),
            Whereabouts::Directory(_) => None,
        }
    }

    /// For people: where the state is.
    pub fn place(&self) -> String {
        match &self.at {
            Whereabouts::Directory(config) => config.dir.display().to_string(),
            Whereabouts::Cluster(contacts) => contacts.to_string(),
        }
    }

    pub fn owner(&self) -> Owner {
        self.state.lock().owner.clone()
    }

    pub fn number(state: &mut MutexGuard<'_, State>) -> u64 {
        state.last += 1;
        state.last
    }
}

/// The path as the system shows it for an open file. The directory itself need not exist yet.
fn real_path(dir: &Path) -> PathBuf {
    let beside = || Some(dir.parent()?.canonicalize().ok()?.join(dir.file_name()?));
    dir.canonicalize().ok().or_else(beside).unwrap_or_else(|| dir.to_path_buf())
}

pub fn begin_watch(owner: &Owner, session: SessionId, sink: Arc<dyn Watcher>) -> u64 {
    match owner {
        Owner::Us(node, _) => node.watch(session, Arc::new(Local(sink))).0,
        Owner::Other(remote) => remote.watch(session, sink),
        _ => 0,
    }
}

/// A watcher at the own node. The end of the node is not the end of the state: the link says when that is over.
struct Local(Arc<dyn Watcher>);

impl Watcher for Local {
    fn event(&self, event: WatchEvent) {
        if event != WatchEvent::NodeClosed {
            self.0.event(event);
        }
    }
}

fn cluster_of(owner: &Owner) -> Option<(ClusterId, GroupId)> {
    match owner {
        Owner::Us(node, _) => Some(node.cluster()),
        Owner::Other(remote) => Some((remote.owner.cluster?, remote.owner.group)),
        _ => None,
    }
}

fn greeting(known: Option<(ClusterId, GroupId)>) -> Greeting {
    let (cluster, group) = known.unzip();
    let (pid, group) = (u64::from(std::process::id()), group.unwrap_or(GroupId(0)));
    Greeting { pid, cluster, group, leader: None, token: None }
}
