//! What a client needs of whoever holds the state: the node of this process, the owner behind a socket, or memory.
//!
//! Callbacks run on the thread that completed the work. They are short, take no lock that is held for long, and never
//! touch Python. A backend calls each `Done` exactly once, also when it is closed (`Error::Closed`).

use crate::base::{Error, JobId, LogIndex, Result, SessionId};
use crate::node::Node;
use std::sync::Arc;
use std::time::Instant;

use crate::node::access::Principal;
pub use crate::node::lines::Ask;
pub use crate::node::{Done, View, WaitId, WatchEvent, WatchId, Watcher};

/// Called at least every 100 ms while a caller waits; its error ends the wait.
pub type Check<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Whoever holds the state.
pub trait Backend: Send + Sync {
    /// Puts a request into the log and waits for its answer. The waiting thread may do the work itself.
    ///
    /// At the deadline, or when `check` fails, it gives up; the request may still be applied later.
    fn submit(&self, request: Vec<u8>, deadline: Option<Instant>, check: Check<'_>) -> Result<Vec<u8>>;
    /// Puts a request into the log; `done` gets the answer.
    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>);
    /// As `start`, for one of several requests: whoever works on them is called by `call`, which must follow soon. So
    /// requests that arrived together are written together.
    fn queue(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        self.start(request, done);
    }
    /// Has what was queued worked on.
    fn call(&self) {}
    /// Asks about the state: `[as_of_index, staleness_ms or nil, payload]`.
    fn view(&self, view: View, done: Done<Vec<u8>>);
    /// Calls `done` as soon as this job is final: at once if it is already, with an error if nobody knows it.
    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId;
    /// Drops a wait; its `done` is not called then.
    fn forget_wait(&self, wait: WaitId);
    /// Sends the events of a session to `sink` until `unwatch`.
    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId;
    /// Asks for one `Ready` when a claim of these could succeed. True: it could already, and no event follows.
    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool;
    fn disarm(&self, watch: WatchId);
    fn unwatch(&self, watch: WatchId);
    /// What the worker behind this watch says to an ask for log lines, see `node::lines`.
    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>);
    /// Says that the session lives. `done` runs when whoever decides has confirmed it.
    fn heartbeat(&self, session: SessionId, done: Done<()>);
    /// This session belongs to the calling process. Where that is the process that holds the state, it cannot lapse.
    fn hold(&self, session: SessionId);
    /// Takes `hold` back, before the session is closed.
    fn release_hold(&self, session: SessionId);
    /// The process of this session is known to have ended: its leases are lost at once.
    fn lapse(&self, session: SessionId);
    /// Whether the state is held in this process, so that held sessions need no heartbeat.
    fn is_local(&self) -> bool;
    /// The state of the node for people: a MessagePack map.
    fn health(&self) -> Result<Vec<u8>>;
    /// What the node counts: text, see `Node::metrics`.
    fn metrics(&self) -> Result<Vec<u8>> {
        Err(Error::Invalid("a state in memory has no node that counts".into()))
    }
    /// Calls `done` as soon as the state at hand has everything that was answered anywhere before the call, with the index
    /// of that state.
    fn fresh(&self, done: Done<LogIndex>);
    /// Who shows the secret with this SHA-256. Nothing: nobody who is known here.
    fn principal(&self, digest: &[u8; 32]) -> Option<Principal> {
        let _ = digest;
        None
    }
    /// Refuses a request that its sender may not make; else gives it as it is to be sent on.
    fn authorize(&self, principal: &Principal, request: Vec<u8>) -> Result<Vec<u8>> {
        let _ = principal;
        Ok(request)
    }
    /// Refuses the session of somebody else.
    fn check_session(&self, principal: &Principal, session: SessionId) -> Result<()> {
        let _ = (principal, session);
        Ok(())
    }
    /// What somebody gets who shows an invitation, see `node::enrolling`.
    fn enroll(&self, asked: &[u8]) -> Result<Vec<u8>> {
        let _ = asked;
        Err(Error::Invalid("there is no cluster here to join".into()))
    }
    /// Does what an operator asks of the cluster, see `node::orders`. Takes as long as it takes, on a thread of its own.
    fn order(&self, actor: &str, order: Vec<u8>, done: Done<Vec<u8>>) {
        let _ = (actor, order);
        done(Err(Error::Invalid("there is no cluster here to give orders to".into())));
    }
    /// Where the leader serves clients, if another node leads.
    fn leader_address(&self) -> Option<String> {
        None
    }
    /// Whether its disk failed: an error is then no answer, as the next owner gives the first one.
    fn lets_repeat(&self) -> bool {
        false
    }
}

impl Backend for Node {
    fn submit(&self, request: Vec<u8>, deadline: Option<Instant>, check: Check<'_>) -> Result<Vec<u8>> {
        self.submit_checked(&request, deadline, check)
    }

    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        Node::start(self, request, done);
    }

    fn queue(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        Node::queue(self, request, done);
    }

    fn call(&self) {
        Node::call(self);
    }

    fn view(&self, view: View, done: Done<Vec<u8>>) {
        Node::view(self, view, done);
    }

    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId {
        Node::wait_finished(self, job, done)
    }

    fn forget_wait(&self, wait: WaitId) {
        Node::forget_wait(self, wait);
    }

    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        Node::watch(self, session, sink)
    }

    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        Node::arm(self, watch, queues, functions)
    }

    fn disarm(&self, watch: WatchId) {
        Node::disarm(self, watch);
    }

    fn unwatch(&self, watch: WatchId) {
        Node::unwatch(self, watch);
    }

    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>) {
        Node::told_lines(self, watch, ask, &answer);
    }

    fn heartbeat(&self, session: SessionId, done: Done<()>) {
        Node::heartbeat(self, session, done);
    }

    fn hold(&self, session: SessionId) {
        Node::hold(self, session);
    }

    fn release_hold(&self, session: SessionId) {
        Node::release_hold(self, session);
    }

    fn lapse(&self, session: SessionId) {
        Node::lapse(self, session);
    }

    fn is_local(&self) -> bool {
        true
    }

    fn health(&self) -> Result<Vec<u8>> {
        Ok(Node::health(self))
    }

    fn metrics(&self) -> Result<Vec<u8>> {
        Ok(Node::metrics(self).into_bytes())
    }

    fn fresh(&self, done: Done<LogIndex>) {
        Node::fresh(self, done);
    }

    fn principal(&self, digest: &[u8; 32]) -> Option<Principal> {
        Node::principal(self, digest)
    }

    fn authorize(&self, principal: &Principal, request: Vec<u8>) -> Result<Vec<u8>> {
        Node::authorize(self, principal, request)
    }

    fn check_session(&self, principal: &Principal, session: SessionId) -> Result<()> {
        Node::check_session(self, principal, session)
    }

    fn enroll(&self, asked: &[u8]) -> Result<Vec<u8>> {
        Node::enroll(self, asked)
    }

    fn order(&self, actor: &str, order: Vec<u8>, done: Done<Vec<u8>>) {
        Node::order(self, actor, order, done);
    }

    fn leader_address(&self) -> Option<String> {
        Node::leader_address(self)
    }

    fn lets_repeat(&self) -> bool {
        Node::lets_repeat(self)
    }
}
