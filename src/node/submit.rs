//! Requests on their way into the inbox, and again when a change of leader left them open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::Next;
use super::repeat::repeated;
use super::ticket::{Slot, Ticket};
use super::{Done, Shared};
use crate::base::codec::Writer;
use crate::base::{Error, Result};
use crate::replica::entry;

/// Before a request that a change of leader left open is asked again.
const REPEAT_PAUSE: Duration = Duration::from_millis(5);

impl Shared {
    /// Writes one request and waits for its answer.
    pub(super) fn submit(
        self: &Arc<Self>,
        request: &[u8],
        deadline: Option<Instant>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<u8>> {
        let mut open = false;
        let mut outcome = self.submit_once(request, deadline, check);
        loop {
            match outcome.map_err(|error| self.for_good(request, error)) {
                Err(error) if self.may_repeat(request, &error) && !is_over(deadline) => {
                    open = open || matches!(error, Error::Unknown(_));
                    // Whoever refused has not heard of the new leader yet.
                    self.ticks.pause(REPEAT_PAUSE);
                    check()?;
                    // What lacks history does so for longer than a change of leader takes: its caller is told.
                    outcome = match self.bring_back_again(request) {
                        Ok(()) => self.submit_once(request, deadline, check),
                        Err(error) if open => return repeated(Err(error)),
                        Err(error) => return Err(error),
                    };
                }
                outcome if open => return repeated(outcome),
                outcome => return outcome,
            }
        }
    }

    fn submit_once(
        self: &Arc<Self>,
        request: &[u8],
        deadline: Option<Instant>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<u8>> {
        let slot = Slot::new();
        if self.inbox.submit(entry::frame(request), &slot, deadline, check)? == Next::Drive {
            self.drive(Some(&slot));
        }
        match slot.wait(deadline, check) {
            Ok(Some(answer)) => answer,
            Ok(None) if self.inbox.withdraw(&slot) => {
                Err(Error::NotCommitted("the time ran out before it was written".into()))
            }
            Ok(None) => Err(Error::TimedOut("the write was on its way; it may still be applied".into())),
            Err(interrupted) => {
                self.inbox.withdraw(&slot);
                Err(interrupted)
            }
        }
    }

    /// Accepts one request and returns; `done` gets the answer.
    pub(super) fn start(self: &Arc<Self>, request: &[u8], done: Done<Vec<u8>>) {
        self.queue(request, done);
        self.inbox.call(false);
    }

    /// As `start`, but nobody is woken for it: `Inbox::call` must follow.
    pub(super) fn queue(self: &Arc<Self>, request: &[u8], done: Done<Vec<u8>>) {
        let done = if self.post.is_some() { self.repeating(request, done) } else { done };
        if let Err((ticket, error)) = self.inbox.queue(entry::frame(request), Ticket::call(done)) {
            ticket.answer(Err(error));
        }
    }

    /// Has a request that the change of a leader left open asked again.
    fn repeating(self: &Arc<Self>, request: &[u8], done: Done<Vec<u8>>) -> Done<Vec<u8>> {
        let (shared, request) = (Arc::downgrade(self), request.to_vec());
        Box::new(move |answer| {
            let Some(shared) = shared.upgrade() else { return done(answer) };
            match answer.map_err(|error| shared.for_good(&request, error)) {
                Err(error) if shared.may_repeat(&request, &error) => {
                    let open = matches!(error, Error::Unknown(_));
                    let done = if open { Box::new(move |answer| done(repeated(answer))) } else { done };
                    shared.ticks.ask_again(request, done);
                }
                answer => done(answer),
            }
        })
    }

    /// Proposes a command of the node itself.
    pub(super) fn propose(self: &Arc<Self>, command: &Writer, done: impl FnOnce(Result<Vec<u8>>) + Send + 'static) {
        self.start(&own_request(command), Box::new(done));
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// A request without a session: the node's own commands may be applied twice.
pub(super) fn own_request(command: &Writer) -> Vec<u8> {
    let mut request = Writer::with_capacity(command.len() + 4);
    request.array(4).u64(0).u64(0).u64(0).raw(command.as_bytes());
    request.into_bytes()
}
