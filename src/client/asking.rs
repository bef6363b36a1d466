//! Asking whoever owns the directory at the moment: the link as a backend.

use super::link::{begin_watch, Link, Owner, State, Wait, Watch};
use super::patience::{Patience, Slot};
use crate::attach::backend::Check;
use crate::attach::remote::{Question, Remote};
use crate::attach::{Ask, Backend, Done, View, WaitId, WatchId, Watcher};
use crate::base::sync::MutexGuard;
use crate::base::{limits, Error, JobId, LogIndex, Result, SessionId};
use crate::node::Node;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions that wait for the next owner.
const PARKED_MAX: usize = limits::INBOX_REQUESTS_MAX;
/// How the node is, is told from memory; longer than this only while no owner is found.
const HEALTH_WAIT: Duration = Duration::from_secs(30);

impl Link {
    pub fn ask(&self, question: Question) -> Option<u64> {
        let owner = self.owner();
        if let Owner::Sought(_) = owner {
            return self.park(question);
        }
        self.ask_owner(&owner, question)
    }

    fn park(&self, question: Question) -> Option<u64> {
        let state = self.state.lock();
        match &state.owner {
            Owner::Sought(_) if state.refused.is_some() => {
                refuse(state, question);
                None
            }
            Owner::Sought(parked) if parked.lock().len() < PARKED_MAX => {
                parked.lock().push(question);
                None
            }
            Owner::Sought(_) => {
                drop(state);
                question.answer(Err(Error::Overloaded("too many requests wait for the next node".into())));
                None
            }
            owner => {
                let owner = owner.clone();
                drop(state);
                self.ask_owner(&owner, question)
            }
        }
    }

    /// Asks an owner that was known a moment ago. At a connection that has ended, the question is found by `lost`.
    pub fn ask_owner(&self, owner: &Owner, question: Question) -> Option<u64> {
        match owner {
            Owner::Us(node, _) => {
                self.ask_node(node, question);
                None
            }
            Owner::Other(remote) => {
                let id = remote.ask(question);
                // Asked after its orphans were taken: they are taken again.
                if remote.is_ended() {
                    remote.orphans().into_iter().for_each(|orphan| {
                        self.ask_again(Some(remote), orphan);
                    });
                }
                Some(id)
            }
            Owner::Sought(_) => self.park(question),
            Owner::Gone(error) => {
                question.answer(Err(error.clone()));
                None
            }
        }
    }

    /// Asks the own node. What it leaves open because it failed, the next owner is asked.
    fn ask_node(&self, node: &Arc<Node>, question: Question) {
        match question {
            Question::Submit(request, done) => {
                let (again, left_open) = (request.clone(), self.left_open(node));
                let done = move |answer| match left_open(&answer) {
                    Some(link) => link.ask_again(None, Question::Submit(again, done).asked_before()),
                    None => done(answer),
                };
                node.start(request, Box::new(done));
            }
            Question::View(view, done) => {
                let (again, left_open) = (view.clone(), self.left_open(node));
                let done = move |answer| match left_open(&answer) {
                    Some(link) => link.ask_again(None, Question::View(again, done)),
                    None => done(answer),
                };
                node.view(view, Box::new(done));
            }
            Question::Metrics(done) => done(Ok(node.metrics().into_bytes())),
            Question::Health(done) if node.has_failed() => {
                self.node_failed(node);
                self.ask_again(None, Question::Health(done));
            }
            Question::Health(done) => done(Ok(node.health())),
            Question::Wait(job, done) => drop(self.wait_at(node, job, done)),
            Question::Heartbeat(session, done) => node.heartbeat(session, done),
            Question::Fresh(done) => {
                let left_open = self.left_open(node);
                let done = move |upto: Result<LogIndex>| match left_open(&upto.clone().map(|_| Vec::new())) {
                    Some(link) => link.ask_again(None, Question::Fresh(done)),
                    None => done(upto),
                };
                node.fresh(Box::new(done));
            }
            Question::Order(order, done) => node.order("local", order, done),
        }
    }

    fn wait_at(&self, node: &Arc<Node>, job: JobId, done: Done<()>) -> WaitId {
        let left_open = self.left_open(node);
        let done = move |end: Result<()>| match left_open(&end.clone().map(|()| Vec::new())) {
            Some(link) => link.ask_again(None, Question::Wait(job, done)),
            None => done(end),
        };
        node.wait_finished(job, Box::new(done))
    }

    /// Tells of an answer of this node whether it leaves the question open because the node failed; gives the link then,
    /// which looks for the next owner from this moment on.
    fn left_open(&self, node: &Arc<Node>) -> impl Fn(&Result<Vec<u8>>) -> Option<Arc<Link>> + Send + 'static {
        let (link, node) = (self.me.clone(), Arc::downgrade(node));
        move |answer| {
            let Err(error) = answer else { return None };
            let (link, node) = (link.upgrade()?, node.upgrade()?);
            let open = match error {
                // It was not accepted, or was no write.
                Error::Poisoned(_) | Error::Closed => node.has_failed(),
                Error::Unknown(_) | Error::NotCommitted(_) => node.lets_repeat(),
                _ => false,
            };
            open.then(|| {
                link.node_failed(&node);
                link
            })
        }
    }

    /// Asks the next owner, or parks the question for it: without a bound, as it was accepted once already. `ended` is the
    /// connection that it comes from.
    fn ask_again(&self, ended: Option<&Arc<Remote>>, question: Question) {
        let state = self.state.lock();
        match &state.owner {
            // `lost` has not run yet, and will take it.
            Owner::Other(remote) if ended.is_some_and(|ended| Arc::ptr_eq(remote, ended)) => remote.keep(question),
            Owner::Sought(_) if state.refused.is_some() => refuse(state, question),
            Owner::Sought(parked) => parked.lock().push(question),
            owner => {
                let owner = owner.clone();
                drop(state);
                self.ask_owner(&owner, question);
            }
        }
    }
}

/// The members know that this client may not be let in, so it does not wait for one.
fn refuse(state: MutexGuard<'_, State>, question: Question) {
    let refused = state.refused.clone();
    drop(state);
    if let Some(error) = refused {
        question.answer(Err(error));
    }
}

impl Backend for Link {
    fn submit(&self, request: Vec<u8>, deadline: Option<Instant>, check: Check<'_>) -> Result<Vec<u8>> {
        if let Owner::Us(node, _) = self.owner() {
            let answer = node.submit_checked(&request, deadline, &mut *check);
            if answer.is_ok() || self.left_open(&node)(&answer).is_none() {
                return answer;
            }
            let slot = Slot::new();
            self.ask_again(None, Question::Submit(request, slot.filler()).asked_before());
            return slot.wait(&mut Patience { deadline, check: Some(check) });
        }
        let slot = Slot::new();
        self.ask(Question::Submit(request, slot.filler()));
        slot.wait(&mut Patience { deadline, check: Some(check) })
    }

    fn start(&self, request: Vec<u8>, done: Done<Vec<u8>>) {
        self.ask(Question::Submit(request, done));
    }

    fn view(&self, view: View, done: Done<Vec<u8>>) {
        self.ask(Question::View(view, done));
    }

    fn wait_finished(&self, job: JobId, done: Done<()>) -> WaitId {
        let mut state = self.state.lock();
        let id = WaitId(Self::number(&mut state));
        state.waits.insert(id, Wait::Unasked);
        drop(state);
        let me = self.me.clone();
        let done: Done<()> = Box::new(move |end| {
            let known = me.upgrade().is_some_and(|link| link.state.lock().waits.remove(&id).is_some());
            if known {
                done(end);
            }
        });
        let asked = match self.owner() {
            Owner::Us(node, _) => Some(Wait::Here(Arc::downgrade(&node), self.wait_at(&node, job, done))),
            _ => self.ask(Question::Wait(job, done)).map(Wait::There),
        };
        if let (Some(asked), Some(entry)) = (asked, self.state.lock().waits.get_mut(&id)) {
            *entry = asked;
        }
        id
    }

    fn forget_wait(&self, wait: WaitId) {
        let mut state = self.state.lock();
        let (asked, owner) = (state.waits.remove(&wait), state.owner.clone());
        drop(state);
        match (asked, owner) {
            (Some(Wait::Here(node, there)), _) => {
                if let Some(node) = node.upgrade() {
                    node.forget_wait(there);
                }
            }
            (Some(Wait::There(there)), Owner::Other(remote)) => remote.forget_wait(there),
            // The answer, when it comes, finds that nobody waits.
            _ => {}
        }
    }

    fn watch(&self, session: SessionId, sink: Arc<dyn Watcher>) -> WatchId {
        let mut state = self.state.lock();
        let id = WatchId(Self::number(&mut state));
        let there = begin_watch(&state.owner, session, sink.clone());
        state.watches.insert(id, Watch { session, sink, there });
        id
    }

    fn arm(&self, watch: WatchId, queues: &[&str], functions: &[&str]) -> bool {
        let state = self.state.lock();
        let Some(there) = state.watches.get(&watch).map(|watch| watch.there) else { return false };
        let owner = state.owner.clone();
        drop(state);
        match owner {
            Owner::Us(node, _) => node.arm(WatchId(there), queues, functions),
            Owner::Other(remote) => {
                remote.arm(there, queues, functions);
                false
            }
            // The next owner's first word is "look for work".
            _ => false,
        }
    }

    fn disarm(&self, watch: WatchId) {
        let state = self.state.lock();
        let Some(there) = state.watches.get(&watch).map(|watch| watch.there) else { return };
        let owner = state.owner.clone();
        drop(state);
        match owner {
            Owner::Us(node, _) => node.disarm(WatchId(there)),
            Owner::Other(remote) => remote.disarm(there),
            _ => {}
        }
    }

    fn unwatch(&self, watch: WatchId) {
        let mut state = self.state.lock();
        let (watch, owner) = (state.watches.remove(&watch), state.owner.clone());
        drop(state);
        match (watch, owner) {
            (Some(watch), Owner::Us(node, _)) => node.unwatch(WatchId(watch.there)),
            (Some(watch), Owner::Other(remote)) => remote.unwatch(watch.there),
            _ => {}
        }
    }

    fn told_lines(&self, watch: WatchId, ask: Ask, answer: Vec<u8>) {
        let state = self.state.lock();
        let Some(there) = state.watches.get(&watch).map(|watch| watch.there) else { return };
        let owner = state.owner.clone();
        drop(state);
        match owner {
            Owner::Us(node, _) => node.told_lines(WatchId(there), ask, &answer),
            Owner::Other(remote) => remote.told_lines(there, ask, &answer),
            _ => {} // Whoever asked is gone.
        }
    }

    fn heartbeat(&self, session: SessionId, done: Done<()>) {
        match self.owner() {
            Owner::Us(node, _) => node.heartbeat(session, done),
            Owner::Other(remote) => {
                self.ask_owner(&Owner::Other(remote), Question::Heartbeat(session, done));
            }
            // A sign of life is of no use later.
            _ => done(Err(Error::NotCommitted("a node is being sought".into()))),
        }
    }

    fn hold(&self, session: SessionId) {
        let mut state = self.state.lock();
        state.held.insert(session);
        if let Owner::Us(node, _) = &state.owner {
            node.hold(session);
        }
    }

    fn release_hold(&self, session: SessionId) {
        let mut state = self.state.lock();
        state.held.remove(&session);
        if let Owner::Us(node, _) = &state.owner {
            node.release_hold(session);
        }
    }

    fn lapse(&self, session: SessionId) {
        if let Owner::Us(node, _) = self.owner() {
            node.lapse(session);
        }
    }

    fn order(&self, _actor: &str, order: Vec<u8>, done: Done<Vec<u8>>) {
        self.ask(Question::Order(order, done));
    }

    fn fresh(&self, done: Done<LogIndex>) {
        self.ask(Question::Fresh(done));
    }

    fn is_local(&self) -> bool {
        self.owns() && self.is_alone()
    }

    fn metrics(&self) -> Result<Vec<u8>> {
        let slot = Slot::new();
        self.ask(Question::Metrics(slot.filler()));
        slot.wait(&mut Patience::after(Some(HEALTH_WAIT)))
    }

    fn health(&self) -> Result<Vec<u8>> {
        if let Owner::Us(node, _) = self.owner() {
            if !node.has_failed() {
                return Ok(node.health());
            }
            self.node_failed(&node);
        }
        let slot = Slot::new();
        self.ask(Question::Health(slot.filler()));
        slot.wait(&mut Patience::after(Some(HEALTH_WAIT)))
    }
}
