//! Locks for the users of a client: one object for each, which holds it once at a time.
//!
//! Locks live in sessions of their own, one for each time to live that was asked for; one heartbeat keeps all that a
//! session holds. A session that was lost is not opened again: the next lock gets a new one.

use super::keeper::{Keeper, Standing, LOOK_MAX};
use super::patience::{Patience, Slot};
use super::request::Failure;
use super::session::{Identity, Session};
use super::tickets::Outcome;
use super::Client;
use crate::base::codec::Writer;
use crate::base::sync::Mutex;
use crate::base::time::SystemClock;
use crate::base::{Error, LeaseToken, Millis, Result};
use crate::machine::Mode;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The sessions of a client that exist for locks.
#[derive(Default)]
pub struct Locks {
    keepers: Mutex<BTreeMap<Millis, Arc<Keeper>>>,
    /// Tickets that wait for the loss of a lock.
    losses: Mutex<BTreeMap<u64, (Weak<Keeper>, u64)>>,
}

impl Locks {
    /// Looks after all of them, and tells when to look again.
    pub fn look(&self) -> Duration {
        let keepers: Vec<_> = self.keepers.lock().values().cloned().collect();
        keepers.iter().map(|keeper| keeper.look()).min().unwrap_or(LOOK_MAX).min(LOOK_MAX)
    }

    pub fn close(&self, patience: &mut Patience<'_>) -> Result<()> {
        let keepers = std::mem::take(&mut *self.keepers.lock());
        keepers.values().map(|keeper| keeper.close(patience)).fold(Ok(()), Result::and)
    }

    pub fn forget(&self, ticket: u64) {
        let known = self.losses.lock().remove(&ticket);
        if let Some((keeper, number)) = known.and_then(|(keeper, number)| Some((keeper.upgrade()?, number))) {
            keeper.forget_lost(number, ticket);
        }
    }
}

/// One lock by its name. Two objects are two owners, also in one process.
pub struct Lock {
    client: Arc<Client>,
    name: String,
    mode: Mode,
    ttl: Millis,
    current: Mutex<Option<(Arc<Keeper>, u64)>>,
}

impl Client {
    /// A lock that is not asked for yet. `ttl`: how long after the last sign of life others may have it.
    pub fn lock(self: &Arc<Self>, name: &str, mode: Mode, ttl: Option<Millis>) -> Lock {
        let ttl = ttl.unwrap_or(self.identity.ttl);
        Lock { client: self.clone(), name: name.into(), mode, ttl, current: Mutex::default() }
    }

    fn keeper(&self, ttl: Millis) -> Arc<Keeper> {
        let mut keepers = self.locks.keepers.lock();
        if let Some(keeper) = keepers.get(&ttl) {
            let keeper = keeper.clone();
            let ended = crate::base::sync::MutexGuard::unlocked(&mut keepers, || keeper.has_ended());
            if !ended {
                return keeper;
            }
        }
        let identity = Identity { kind: "client".into(), ttl, ..self.identity.clone() };
        let session = Session::new(self.backend(), Arc::new(SystemClock), identity, false, self.seen.clone());
        if let Some(heart) = &self.heart {
            heart.add(&session);
        }
        let keeper = Keeper::new(self.backend(), session);
        keepers.insert(ttl, keeper.clone());
        keeper
    }
}

impl Lock {
    /// Waits for the lock and gives its token. `waits` false: one try, `TimedOut` if somebody else holds it.
    pub fn acquire(&self, waits: bool, patience: &mut Patience<'_>) -> std::result::Result<LeaseToken, Failure> {
        self.client.check_process()?;
        let keeper = self.free_keeper()?;
        keeper.ready(patience)?;
        let slot: Slot<std::result::Result<Option<LeaseToken>, Failure>> = Slot::new();
        let filler = slot.filler();
        let number = keeper.begin(&self.name, self.mode, waits, Box::new(move |outcome| filler(Ok(outcome))));
        *self.current.lock() = Some((keeper.clone(), number));
        let error = match slot.wait(patience) {
            Ok(Ok(Some(token))) => return Ok(token),
            Ok(Ok(None)) => Error::TimedOut("somebody else holds it".into()).into(),
            Ok(Err(failure)) => failure,
            Err(error) => match (keeper.give_up(number), error) {
                // In the last moment.
                (Some(token), Error::TimedOut(_)) if patience.is_over() => return Ok(token),
                (Some(_), error) => {
                    keeper.release(number, Box::new(drop));
                    error.into()
                }
                (None, error) => error.into(),
            },
        };
        *self.current.lock() = None;
        Err(error)
    }

    /// As `acquire` without waiting: the answer `[token or nil]` comes under a ticket. `give_up` ends the wait.
    pub fn start_acquire(&self, waits: bool) -> std::result::Result<u64, Failure> {
        self.client.check_process()?;
        let (keeper, ticket) = (self.free_keeper()?, self.client.issue()?);
        let tickets = self.client.tickets.clone();
        let told = move |outcome: std::result::Result<Option<LeaseToken>, Failure>| {
            tickets.settle(ticket, Outcome::Reply(outcome.map(token_bytes)));
        };
        let number = keeper.begin(&self.name, self.mode, waits, Box::new(told));
        *self.current.lock() = Some((keeper, number));
        Ok(ticket)
    }

    /// Whoever asked does not want it any more, whether or not it got it.
    pub fn give_up(&self) {
        let Some((keeper, number)) = self.current.lock().take() else { return };
        if keeper.give_up(number).is_some() {
            keeper.release(number, Box::new(drop));
        }
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// `lock_lost`: it was lost before. `lock_not_held`: this object does not hold it. After any other error the lock is
    /// not held here any more either, and is freed as soon as that gets through.
    pub fn release(&self, patience: &mut Patience<'_>) -> std::result::Result<(), Failure> {
        self.client.check_process()?;
        let (keeper, number) = self.take_held()?;
        let slot: Slot<std::result::Result<(), Failure>> = Slot::new();
        let filler = slot.filler();
        keeper.release(number, Box::new(move |outcome| filler(Ok(outcome))));
        slot.wait(patience)?
    }

    /// As `release` without waiting: the answer comes under a ticket.
    pub fn start_release(&self) -> std::result::Result<u64, Failure> {
        self.client.check_process()?;
        let ticket = self.client.issue()?;
        let tickets = self.client.tickets.clone();
        let (keeper, number) = match self.take_held() {
            Ok(held) => held,
            Err(failure) => {
                tickets.settle(ticket, Outcome::Reply(Err(failure)));
                return Ok(ticket);
            }
        };
        let released = move |outcome: std::result::Result<(), Failure>| {
            tickets.settle(ticket, Outcome::Reply(outcome.map(|()| vec![0xc0])));
        };
        keeper.release(number, Box::new(released));
        Ok(ticket)
    }

    /// The token and whether the lock is lost; nothing: it was not acquired, or was released.
    pub fn standing(&self) -> Result<Option<(LeaseToken, bool)>> {
        self.client.check_process()?;
        let Some((keeper, number)) = self.current.lock().clone() else { return Ok(None) };
        Ok(match keeper.standing(number) {
            Standing::Without => None,
            Standing::Held(token) => Some((token, false)),
            Standing::Lost(token) => Some((token, true)),
        })
    }

    /// Waits until the lock is lost. False: it was not until then, or was released.
    pub fn wait_lost(&self, patience: &mut Patience<'_>) -> Result<bool> {
        self.client.check_process()?;
        let Some((keeper, number)) = self.current.lock().clone() else { return Ok(false) };
        keeper.wait_lost(number, patience)
    }

    /// A ticket whose answer comes when the lock is lost, at once if it is not held.
    pub fn start_wait_lost(&self) -> Result<u64> {
        self.client.check_process()?;
        let ticket = self.client.issue()?;
        let client = Arc::downgrade(&self.client);
        let tell = move || {
            if let Some(client) = client.upgrade() {
                client.locks.losses.lock().remove(&ticket);
                client.tickets.settle(ticket, Outcome::Reply(Ok(vec![0xc0])));
            }
        };
        match self.current.lock().clone() {
            Some((keeper, number)) => {
                self.client.locks.losses.lock().insert(ticket, (Arc::downgrade(&keeper), number));
                keeper.when_lost(number, ticket, tell);
            }
            None => tell(),
        }
        Ok(ticket)
    }

    /// Where the next try is made; this object must not hold the lock or wait for it.
    fn free_keeper(&self) -> std::result::Result<Arc<Keeper>, Failure> {
        let mut current = self.current.lock();
        if let Some((keeper, number)) = current.clone() {
            if !matches!(keeper.standing(number), Standing::Lost(_)) {
                let message = format!("this object holds the lock {:?}, or waits for it", self.name);
                return Err(refused("lock_held", message));
            }
            // Forgets the try that was lost.
            keeper.release(number, Box::new(drop));
            *current = None;
        }
        drop(current);
        Ok(self.client.keeper(self.ttl))
    }

    fn take_held(&self) -> std::result::Result<(Arc<Keeper>, u64), Failure> {
        let mut current = self.current.lock();
        match current.clone() {
            Some((keeper, number)) if keeper.standing(number) != Standing::Without => {
                *current = None;
                Ok((keeper, number))
            }
            _ => Err(refused("lock_not_held", format!("this object does not hold the lock {:?}", self.name))),
        }
    }
}

fn refused(code: &str, message: String) -> Failure {
    Failure::Refused { code: code.into(), message, details: vec![0xc0] }
}

fn token_bytes(token: Option<LeaseToken>) -> Vec<u8> {
    let mut out = Writer::new();
    out.array(1).option(token, |out, token| {
        out.u64(token.0);
    });
    out.into_bytes()
}
