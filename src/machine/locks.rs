//! Locks: each has its holders (K1), a line of waiters, and a fencing token that is new with every grant (K2).
//!
//! ```text
//! Lock     asks for a lock      Acquire   asks for a permit of a semaphore, or to read or write
//!          nobody waits and it is free for this ──> the asker holds it, with a token
//!          else ──> the asker waits at the end of the line, or is told no
//!          it is held as another kind, or with another number of permits ──> refused
//! Unlock   the token is a holder's, and the session too ──> freed; else: lease lost
//! GiveUp   whoever waited or held does neither any more
//! a session ends ──> it waits for nothing, and what it held is freed
//! freed, or the line got shorter ──> the first of the line holds it as long as it can, within the same command
//! ```
//!
//! An *owner* is the session of the request and a number that it chose: the same owner that asks again is told where it stands, so
//! asking is as good once as twice. A lock that nobody holds is not remembered; its tokens rise all the same, as they come
//! from the counter that leases of jobs use, which is never behind the log. No clock ends a lock: only its session does (K3).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::{check_name, number, Place as _, Result};
use super::holding::{Ask, Lock, Mode, Owner};
use super::levels::SHARED_LOCKS;
use super::outcome::{self, Outcome, Refusal};
use super::{Machine, Session};
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LeaseToken, SessionId};

/// Rows of one page of locks.
const PAGE_MAX: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Holds(LeaseToken),
    /// At this place of the line.
    Waits(u64),
}

/// Where an owner stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stand {
    name: Arc<str>,
    mode: Mode,
    place: Place,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locks {
    held: BTreeMap<Arc<str>, Arc<Lock>>,
    holders: usize,
    waiting: usize,
    stands: BTreeMap<SessionId, BTreeMap<u64, Stand>>,
}

impl Locks {
    pub fn holders(&self) -> usize {
        self.holders
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// What an image shares.
    pub fn capture(&self) -> Vec<(Arc<str>, Arc<Lock>)> {
        self.held.iter().map(|(name, lock)| (name.clone(), lock.clone())).collect()
    }

    fn stand(&self, owner: Owner) -> Option<&Stand> {
        self.stands.get(&owner.session)?.get(&owner.number)
    }

    fn stands(&mut self, name: &Arc<str>, ask: &Ask, place: Place) {
        let stands = self.stands.entry(ask.owner.session).or_default();
        stands.insert(ask.owner.number, Stand { name: name.clone(), mode: ask.mode, place });
    }

    fn forget(&mut self, owner: Owner) {
        if let Some(stands) = self.stands.get_mut(&owner.session) {
            stands.remove(&owner.number);
            if stands.is_empty() {
                self.stands.remove(&owner.session);
            }
        }
    }

    /// Why this owner can have no more locks, if it cannot.
    fn room(&self, owner: Owner) -> std::result::Result<(), Refusal> {
        let own = self.stands.get(&owner.session).map_or(0, BTreeMap::len);
        let full = match () {
            () if own >= limits::LOCKS_OF_SESSION_MAX => format!("the session holds or waits for {own} locks"),
            () if self.holders >= limits::LOCKS_MAX => format!("{} locks are held", self.holders),
            () if self.waiting >= limits::LOCK_WAITERS_MAX => format!("{} wait for locks", self.waiting),
            () => return Ok(()),
        };
        Err(Refusal::overloaded(full))
    }

    fn hold(&mut self, name: &Arc<str>, token: LeaseToken, ask: Ask) {
        let lock = self.held.entry(name.clone()).or_default();
        Arc::make_mut(lock).holders.insert(token, ask);
        self.holders += 1;
        self.stands(name, &ask, Place::Holds(token));
    }

    fn queue(&mut self, name: &Arc<str>, ask: Ask) {
        if let Some(lock) = self.held.get_mut(name) {
            let waiters = &mut Arc::make_mut(lock).waiters;
            let place = waiters.last_key_value().map_or(1, |(last, _)| last + 1);
            waiters.insert(place, ask);
            self.waiting += 1;
            self.stands(name, &ask, Place::Waits(place));
        }
    }

    fn leave(&mut self, owner: Owner, name: &str, place: u64) {
        self.forget(owner);
        if has(Bug::GivenUpGets) {
            return;
        }
        if let Some(lock) = self.held.get_mut(name) {
            Arc::make_mut(lock).waiters.remove(&place);
            self.waiting -= 1;
        }
    }

    fn release(&mut self, name: &str, token: LeaseToken) {
        let lock = self.held.get_mut(name);
        if let Some(ask) = lock.and_then(|lock| Arc::make_mut(lock).holders.remove(&token)) {
            self.holders -= 1;
            self.forget(ask.owner);
        }
    }

    /// Takes out of the line whoever is first and can have what it asks for.
    fn next(&mut self, name: &str) -> Option<(Arc<str>, Ask)> {
        let (name, lock) = self.held.get_key_value(name)?;
        let (name, (place, ask)) = (name.clone(), lock.next()?);
        Arc::make_mut(self.held.get_mut(&name)?).waiters.remove(&place);
        self.waiting -= 1;
        Some((name, ask))
    }

    /// The lock is not remembered if nobody holds it.
    fn forget_free(&mut self, name: &str) {
        if self.held.get(name).is_some_and(|lock| lock.holders.is_empty()) {
            self.held.remove(name);
        }
    }
}

impl Machine {
    /// Answers the token, or nil: the owner waits (or, if it does not want to, has nothing).
    pub(super) fn acquire(&mut self, owner: Owner, name: &str, mode: Mode, waits: bool) -> Outcome {
        if let Some(stand) = self.locks.stand(owner) {
            if &*stand.name != name || stand.mode != mode {
                return Err(Refusal::lock_held(owner.number, &stand.name));
            }
            return standing(match stand.place {
                Place::Holds(token) => Some(token),
                Place::Waits(_) => None,
            });
        }
        let lock = self.locks.held.get(name);
        let held = lock.and_then(|lock| lock.oldest()).map_or(mode, |(_, held)| held.mode);
        if !held.is_of_kind(mode) {
            return Err(Refusal::lock_kind(name, held, mode));
        }
        let ask = Ask { owner, mode, since: self.clock };
        if lock.is_none_or(|lock| lock.admits(mode)) {
            self.locks.room(owner)?;
            let token = self.next_token();
            self.locks.hold(&name.into(), token, ask);
            return standing(Some(token));
        }
        if waits {
            self.locks.room(owner)?;
            self.locks.queue(&name.into(), ask);
        }
        standing(None)
    }

    /// Below the level of shared locks the token alone decides. It tells holders apart; but whoever sees it in a listing is
    /// not its holder.
    pub(super) fn unlock(&mut self, session: SessionId, name: &str, token: LeaseToken) -> Outcome {
        let any = !self.level.has(SHARED_LOCKS);
        let lock = self.locks.held.get(name);
        let holds = lock.and_then(|lock| lock.holders.get(&token)).filter(|ask| any || ask.owner.session == session);
        let unchecked = lock.and_then(|lock| lock.oldest()).filter(|_| has(Bug::UnlockUnchecked));
        match holds.map(|_| token).or(unchecked.map(|(token, _)| token)) {
            Some(token) => {
                self.free(name, token);
                outcome::nil()
            }
            None => Err(Refusal::lock_lost(name, token.0)),
        }
    }

    /// Answers 0: the owner had nothing to do with any lock; 1: it waited; 2: it held one.
    pub(super) fn give_up(&mut self, owner: Owner) -> Outcome {
        let Some(Stand { name, place, .. }) = self.locks.stand(owner).cloned() else { return outcome::number(0) };
        outcome::number(match place {
            Place::Waits(place) => {
                self.locks.leave(owner, &name, place);
                self.advance(&name, None);
                1
            }
            Place::Holds(token) => {
                self.free(&name, token);
                2
            }
        })
    }

    /// The session has ended: it leaves all lines, so that nothing is handed to it; then what it held is freed, oldest first.
    pub(super) fn end_locks(&mut self, session: SessionId) {
        let stands = self.locks.stands.get(&session).cloned().unwrap_or_default();
        let (mut held, mut left) = (Vec::new(), Vec::new());
        for (number, Stand { name, place, .. }) in stands {
            match place {
                Place::Waits(place) => {
                    self.locks.leave(Owner { session, number }, &name, place);
                    left.push(name);
                }
                Place::Holds(token) => held.push((token, name)),
            }
        }
        held.sort();
        held.iter().filter(|_| !has(Bug::LeasesStay)).for_each(|(token, name)| self.free(name, *token));
        left.iter().for_each(|name| self.advance(name, None));
    }

    fn free(&mut self, name: &str, token: LeaseToken) {
        self.locks.release(name, token);
        self.advance(name, Some(token));
    }

    /// Gives a lock to the first of its line as long as that can have it. A lock that stays free is forgotten.
    fn advance(&mut self, name: &str, freed: Option<LeaseToken>) {
        while let Some((name, ask)) = self.locks.next(name) {
            let old = freed.filter(|_| has(Bug::HandOverOldToken));
            let token = old.unwrap_or_else(|| self.next_token());
            self.locks.hold(&name, token, Ask { since: self.clock, ..ask });
            self.effects.granted.push((ask.owner.session, ask.owner.number, token));
        }
        self.locks.forget_free(name);
    }

    /// The oldest holder of each lock, as versions before shared locks ask: `[after or nil, limit]` gives `[rows, next or
    /// nil]`, see `view`.
    pub(super) fn lock_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after: Option<Arc<str>> = reader.option(|reader| reader.str())?.map(Into::into);
        let limit = number(reader, PAGE_MAX).at("limit")?.max(1) as usize;
        let found = self.locks.held.range((after.map_or(Unbounded, Excluded), Unbounded));
        let mut found = found.filter_map(|(name, lock)| Some((name, lock, lock.oldest()?)));
        let page: Vec<_> = found.by_ref().take(limit).collect();
        let next = page.last().filter(|_| found.next().is_some()).map(|(name, ..)| (*name).clone());
        let mut w = Writer::new();
        w.array(2).array(page.len());
        for (name, lock, (token, ask)) in page {
            w.array(8).str(name);
            self.holder_row(&mut w, lock, token, &ask);
        }
        w.option(next, |w, next| {
            w.str(&next);
        });
        Ok(w.into_bytes())
    }

    /// Who holds what: `[[name, token] or nil, limit]` gives `[rows, next or nil]`, see `view`.
    pub(super) fn holder_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        use std::ops::Bound::{Included, Unbounded};
        let after = reader.option(|reader| {
            reader.array_of(2, "a holder")?;
            Ok((Arc::<str>::from(reader.str()?), LeaseToken(reader.u64()?)))
        })?;
        let limit = number(reader, PAGE_MAX).at("limit")?.max(1) as usize;
        let from = after.as_ref().map_or(Unbounded, |(name, _)| Included(name.clone()));
        let locks = self.locks.held.range((from, Unbounded));
        let holders =
            locks.flat_map(|(name, lock)| lock.holders.iter().map(move |(token, ask)| (name, lock, token, ask)));
        let mut found = holders.filter(|(name, _, token, _)| match &after {
            Some((last, newest)) => (*name, *token) > (last, newest),
            None => true,
        });
        let page: Vec<_> = found.by_ref().take(limit).collect();
        let next = page.last().filter(|_| found.next().is_some()).map(|(name, _, token, _)| ((*name).clone(), **token));
        let mut w = Writer::new();
        w.array(2).array(page.len());
        for (name, lock, token, ask) in page {
            w.array(10).str(name).str(ask.mode.name()).u64(ask.mode.permits());
            self.holder_row(&mut w, lock, *token, ask);
        }
        w.option(next, |w, (name, token)| {
            w.array(2).str(&name).u64(token.0);
        });
        Ok(w.into_bytes())
    }

    /// The last seven items of a row.
    fn holder_row(&self, w: &mut Writer, lock: &Lock, token: LeaseToken, ask: &Ask) {
        let holder = self.sessions.get(&ask.owner.session);
        let text = |part: fn(&Session) -> &str| holder.map_or("", |session| part(session));
        w.u64(ask.owner.session.0).str(text(|session| &session.kind)).str(text(|session| &session.host));
        w.u64(holder.map_or(0, |session| session.pid)).u64(token.0).u64(ask.since.0).u64(lock.waiters.len() as u64);
    }

    /// One lock out of an image, checked against what is there already.
    pub(super) fn load_lock(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let items = reader.array()?;
        if !matches!(items, 3 | 6) {
            return Err(Error::Invalid(format!("a lock has 3 or 6 items, not {items}")));
        }
        let name: Arc<str> = check_name(reader.str()?)?.into();
        let lock = Lock::decode(items, self.token, reader)?;
        for (token, ask) in &lock.holders {
            self.load_owner(ask)?;
            self.locks.stands(&name, ask, Place::Holds(*token));
        }
        for (place, ask) in &lock.waiters {
            self.load_owner(ask)?;
            self.locks.stands(&name, ask, Place::Waits(*place));
        }
        self.locks.holders += lock.holders.len();
        self.locks.waiting += lock.waiters.len();
        match self.locks.held.insert(name, Arc::new(lock)) {
            None => Ok(()),
            Some(_) => Err(Error::Invalid("the same lock twice".into())),
        }
    }

    fn load_owner(&self, ask: &Ask) -> Result<()> {
        if !self.sessions.contains_key(&ask.owner.session) || self.locks.stand(ask.owner).is_some() {
            return Err(Error::Invalid(format!("an owner of session {}", ask.owner.session)));
        }
        Ok(())
    }
}

fn standing(token: Option<LeaseToken>) -> Outcome {
    token.map_or_else(outcome::nil, |token| outcome::number(token.0))
}
