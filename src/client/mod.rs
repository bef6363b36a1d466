//! One process's connection to the state: session, sequence, take-over, prefetch.
//!
//! ```text
//! patience   how long a caller waits, and what it looks at meanwhile
//! reading    what an answer must have, and how old it can be
//! request    the envelope of a request, the meaning of a reply
//! session    numbers requests, opens itself, knows what is unanswered
//! heart      heartbeats
//! tickets    calls that do not wait
//! locks      locks by their names
//! keeper     a session and the locks that it holds or waits for
//! buffer     what a fetcher holds, what it should do next
//! pump       fills and empties it
//! fetcher    jobs for a worker
//! memory     the state machine alone
//! link       a directory or a cluster, and the node that answers for it
//! contacts   the members of a cluster, as a client knows them
//! certificate  the own one of a client, that ends
//! takeover   finding the next owner
//! probe      asks one member how it is
//! founding   a new cluster's files, and those of one more machine
//! log_pipe   lines of the log, for another thread to read
//! asking     asks whoever owns it
//! web        probes of a process that is no node
//! new_ids    ids of jobs
//! ```

mod asking;
mod backoff;
pub mod buffer;
mod certificate;
pub mod contacts;
mod crashes;
pub mod fetcher;
pub mod founding;
pub mod heart;
pub mod keeper;
pub mod link;
pub mod locks;
pub mod log_pipe;
pub mod memory;
pub mod new_ids;
pub mod patience;
pub mod probe;
mod pump;
pub mod reading;
pub mod request;
pub mod session;
pub mod signal;
mod takeover;
pub mod tickets;
mod web;

use crate::attach::{Backend, Done};
use crate::base::codec::Writer;
use crate::base::sync::Mutex;
use crate::base::time::SystemClock;
use crate::base::{limits, Error, JobId, Millis, Result, SessionId};
use crate::net::web::Web;
use crate::node::NodeConfig;
use std::os::fd::RawFd;
use std::sync::Arc;

use contacts::Contacts;
use fetcher::{Fetcher, Wish};
use heart::Heart;
use link::{Link, Whereabouts};
use locks::Locks;
use memory::Memory;
use patience::{Patience, Slot};
use reading::Seen;
use request::Failure;
use session::{Identity, Session};
use tickets::{Outcome, Tickets};

/// Tickets without an answer.
const TICKETS_MAX: usize = 100_000;
/// The question "what is known of this job".
const VIEW_JOB: u64 = 3;
const VIEW_BATCH: u64 = 41;

/// What a client says about its process.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long its sessions live without a sign of life.
    pub ttl: Millis,
    /// "client" or "worker".
    pub kind: String,
    pub labels: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { ttl: Millis(limits::SESSION_TTL_MS), kind: "client".into(), labels: Vec::new() }
    }
}

/// Where the state is held, as seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Memory,
    Owner,
    Attached,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Memory => "memory",
            Role::Owner => "owner",
            Role::Attached => "attached",
        }
    }
}

/// One process's connection. All calls may come from many threads at once.
pub struct Client {
    /// The process that opened it. A forked child has none of its threads.
    pid: u32,
    holder: Holder,
    identity: Identity,
    session: Arc<Session>,
    tickets: Arc<Tickets>,
    locks: Arc<Locks>,
    heart: Option<Heart>,
    seen: Arc<Seen>,
    web: Mutex<Option<Web>>,
}

enum Holder {
    Memory(Arc<Memory>),
    Link(Arc<Link>),
}

impl Holder {
    fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Holder::Memory(memory) => memory.clone(),
            Holder::Link(link) => link.clone(),
        }
    }
}

impl Client {
    /// A state in memory only. `manual`: time stands still until `advance`.
    pub fn memory(options: Options, manual: bool) -> Result<Arc<Client>> {
        Self::over(Holder::Memory(Memory::open(manual)?), options)
    }

    /// A data directory: this process owns it, or attaches to the one that does. While that one is starting, waits.
    pub fn open(config: NodeConfig, options: Options, patience: &mut Patience<'_>) -> Result<Arc<Client>> {
        Self::over(Holder::Link(Link::open(Whereabouts::Directory(Box::new(config)), patience)?), options)
    }

    /// A cluster on other machines. While none of its members answers, waits.
    pub fn connect(contacts: Contacts, options: Options, patience: &mut Patience<'_>) -> Result<Arc<Client>> {
        Self::over(Holder::Link(Link::open(Whereabouts::Cluster(contacts), patience)?), options)
    }

    fn over(holder: Holder, options: Options) -> Result<Arc<Client>> {
        let pid = std::process::id();
        let identity = Identity {
            kind: options.kind,
            ttl: options.ttl,
            host: host_name(),
            pid: u64::from(pid),
            labels: options.labels,
        };
        let backend = holder.backend();
        let locks = Arc::new(Locks::default());
        let heart = match &holder {
            Holder::Memory(_) => None,
            Holder::Link(link) => {
                let (link, locks) = (Arc::downgrade(link), locks.clone());
                Some(Heart::start(move || {
                    let silence = link.upgrade().and_then(|link| {
                        link.mind_certificate();
                        link.mind_silence()
                    });
                    silence.into_iter().fold(locks.look(), std::time::Duration::min)
                })?)
            }
        };
        let seen = Arc::<Seen>::default();
        let session = Session::new(backend, Arc::new(SystemClock), identity.clone(), true, seen.clone());
        if let Some(heart) = &heart {
            heart.add(&session);
        }
        Ok(Arc::new(Client {
            pid,
            holder,
            identity,
            session,
            tickets: Tickets::new()?,
            locks,
            heart,
            seen,
            web: Mutex::default(),
        }))
    }

    /// The process that opened it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Refuses a forked child: the threads that would answer it exist in its parent only.
    pub fn check_process(&self) -> Result<()> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        Err(Error::Forked)
    }

    /// Writes one command and waits for its reply. A reply that says no is a [`Failure`].
    pub fn submit(&self, command: &[u8], patience: &mut Patience<'_>) -> std::result::Result<Vec<u8>, Failure> {
        self.check_process()?;
        check_command(command)?;
        self.session.submit(command, patience)
    }

    /// Writes one command; the ticket's answer comes with `drain`.
    pub fn start(&self, command: Vec<u8>) -> Result<u64> {
        self.check_process()?;
        check_command(&command)?;
        let ticket = self.issue()?;
        let tickets = self.tickets.clone();
        let done: Done<Vec<u8>> = Box::new(move |reply| {
            let reply = reply.map_err(Failure::Error);
            let reply = reply.and_then(|reply| request::accepted(&reply).map(|_| ()).map(|()| reply));
            tickets.settle(ticket, Outcome::Reply(reply));
        });
        self.session.start(command, done);
        Ok(ticket)
    }

    /// The ticket's answer comes when the job is final.
    pub fn start_wait(&self, job: JobId) -> Result<u64> {
        self.check_process()?;
        let ticket = self.issue()?;
        let tickets = self.tickets.clone();
        let done = Box::new(move |end| tickets.settle(ticket, Outcome::Finished(job, end)));
        let wait = self.backend().wait_finished(job, done);
        self.tickets.waits_on(ticket, wait);
        Ok(ticket)
    }

    pub fn cancel_ticket(&self, ticket: u64) {
        if let Some(wait) = self.tickets.cancel(ticket) {
            self.backend().forget_wait(wait);
        }
        self.locks.forget(ticket);
    }

    /// Readable while `drain` would give something.
    pub fn completion_fd(&self) -> RawFd {
        self.tickets.fd()
    }

    /// The answers that came since the last call: replies, and details of jobs that became final.
    pub fn drain(&self) -> Vec<(u64, std::result::Result<Vec<u8>, Failure>)> {
        let settle = |(ticket, outcome)| match outcome {
            Outcome::Reply(reply) => (ticket, reply),
            Outcome::Finished(job, end) => (ticket, self.detail_after(job, end)),
        };
        self.tickets.drain().into_iter().map(settle).collect()
    }

    /// Waits until a job is final, and gives its detail.
    pub fn wait(&self, job: JobId, patience: &mut Patience<'_>) -> std::result::Result<Vec<u8>, Failure> {
        self.check_process()?;
        let slot = Slot::new();
        let wait = self.backend().wait_finished(job, slot.filler());
        let end = slot.wait(patience);
        if let Err(error @ Error::TimedOut(_)) = end {
            self.backend().forget_wait(wait);
            return Err(error.into());
        }
        self.detail_after(job, end)
    }

    /// A fetcher with a worker session of its own.
    pub fn fetcher(
        &self,
        wish: Wish,
        labels: Vec<(String, String)>,
        patience: &mut Patience<'_>,
    ) -> Result<Arc<Fetcher>> {
        self.check_process()?;
        let identity = Identity { kind: "worker".into(), labels, ..self.identity.clone() };
        let session = Session::new(self.backend(), Arc::new(SystemClock), identity, false, self.seen.clone());
        if let Some(heart) = &self.heart {
            heart.add(&session);
        }
        Fetcher::open(self.backend(), session, wish, patience)
    }

    pub fn session(&self, patience: &mut Patience<'_>) -> Result<SessionId> {
        self.check_process()?;
        self.session.id(patience)
    }

    pub fn role(&self) -> Role {
        match &self.holder {
            Holder::Memory(_) => Role::Memory,
            Holder::Link(link) if link.owns() => Role::Owner,
            Holder::Link(_) => Role::Attached,
        }
    }

    /// The state of the node for people: a MessagePack map.
    pub fn health(&self) -> Result<Vec<u8>> {
        self.check_process()?;
        self.backend().health()
    }

    /// When the own certificate of a client of a cluster expires, and from thirty days before on what to do about it. Nothing:
    /// it has none.
    pub fn certificate(&self) -> Option<(Millis, Option<String>)> {
        match &self.holder {
            Holder::Memory(_) => None,
            Holder::Link(link) => link.certificate(),
        }
    }

    /// What the node counts: the text that Prometheus reads.
    pub fn metrics(&self) -> Result<Vec<u8>> {
        self.check_process()?;
        self.backend().metrics()
    }

    /// Gives an order to the cluster, see `node::orders`, and waits until it is carried out.
    pub fn order(&self, order: &[u8], patience: &mut Patience<'_>) -> Result<Vec<u8>> {
        self.check_process()?;
        let slot = Slot::new();
        // Over a connection the other side knows who asks.
        self.backend().order("local", order.to_vec(), slot.filler());
        slot.wait(patience)
    }

    /// Moves a manual clock.
    pub fn advance(&self, span: Millis) -> Result<()> {
        self.check_process()?;
        match &self.holder {
            Holder::Memory(memory) => memory.advance(span),
            Holder::Link(_) => Err(Error::Invalid("a stored state follows the clock of the system".into())),
        }
    }

    /// Ends the session and whatever this process holds of the state. A second call does nothing.
    pub fn close(&self, patience: &mut Patience<'_>) -> Result<()> {
        self.check_process()?;
        let ended = self.locks.close(patience).and(self.session.close(patience));
        let closed = self.release();
        match ended {
            // The session ends by itself when the connection does.
            Err(Error::TimedOut(_)) | Ok(()) => closed,
            Err(error) => closed.and(Err(error)),
        }
    }

    fn release(&self) -> Result<()> {
        let web = self.web.lock().take();
        drop(web);
        match &self.holder {
            Holder::Memory(memory) => {
                memory.close();
                Ok(())
            }
            Holder::Link(link) => link.close(),
        }
    }

    fn backend(&self) -> Arc<dyn Backend> {
        self.holder.backend()
    }

    fn issue(&self) -> Result<u64> {
        if self.tickets.open() >= TICKETS_MAX {
            return Err(Error::Overloaded(format!("{TICKETS_MAX} tickets have no answer yet")));
        }
        Ok(self.tickets.issue())
    }

    /// The detail of a job once nobody has to wait for it any more.
    fn detail_after(&self, job: JobId, end: Result<()>) -> std::result::Result<Vec<u8>, Failure> {
        let mut question = Writer::new();
        question.array(2).u64(VIEW_JOB).id(job);
        let answer = match self.view(question.as_bytes()) {
            Ok(answer) => answer,
            Err(error) => return Err(Failure::Error(end.err().unwrap_or(error))),
        };
        let mut detail = reading::payload(&answer)?.to_vec();
        if detail == [0xc0] {
            detail = self.batch_row(job)?;
        }
        if detail == [0xc0] {
            return Err(Failure::Error(Error::NotFound(format!("no job has the id {job}"))));
        }
        match end {
            Ok(()) => Ok(detail),
            Err(error) => Err(Failure::Error(error)),
        }
    }

    /// The row of a batch; nil if there is none, also for a node of the version before, which knows no such question.
    fn batch_row(&self, id: JobId) -> Result<Vec<u8>> {
        let mut question = Writer::new();
        question.array(2).u64(VIEW_BATCH).id(id);
        match self.view(question.as_bytes()) {
            Ok(answer) => Ok(reading::payload(&answer)?.to_vec()),
            Err(Error::Invalid(_)) => Ok(vec![0xc0]),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.check_process().is_ok() {
            // Nobody is left to be told.
            let _ = self.release();
        }
    }
}

fn check_command(command: &[u8]) -> Result<()> {
    if command.len() > limits::COMMAND_BYTES_MAX - 64 {
        return Err(Error::Invalid(format!(
            "a command of {} bytes, at most {}: send fewer jobs at a time",
            command.len(),
            limits::COMMAND_BYTES_MAX - 64
        )));
    }
    request::operation(command).map(|_| ())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
        return "localhost".into();
    }
    name.to_owned()
}
