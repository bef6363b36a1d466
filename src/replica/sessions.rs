//! Which sessions are alive, on the monotonic clock. The log knows that a session exists; only this knows when it was
//! last heard of, so a heartbeat costs no write.
//!
//! What holds
//! * A session never lapses earlier than its time to live after it was last heard of (K3). Opening the node counts as
//!   hearing of everyone, and so does a jump of the wall clock: it plays no part here.
//! * A session that seems lapsed is looked at again a moment later. After this process was stopped, or the machine
//!   asleep, the heartbeats that waited get their chance to be read first.
//! * A session that is held cannot lapse.
//! * Only the leader's count matters; a new leader begins it anew.

use std::collections::BTreeMap;

use crate::base::planted::{has, Bug};
use crate::base::{Error, Millis, Result, SessionId};

/// Between the look that finds a session silent and the one that gives it up.
const SECOND_LOOK: Millis = Millis(500);

#[derive(Debug)]
struct Session {
    ttl: Millis,
    heard: Millis,
    holds: usize,
    /// When it was first seen silent.
    silent_since: Option<Millis>,
    /// Its end is on the way into the log.
    ending: bool,
}

/// The open sessions of the applied state and their signs of life.
#[derive(Debug, Default)]
pub struct Sessions {
    open: BTreeMap<SessionId, Session>,
}

impl Sessions {
    /// Takes over the sessions that the state machine has now. New ones count as just heard of.
    pub fn sync(&mut self, open: &[(SessionId, Millis)], now: Millis) {
        let known = std::mem::take(&mut self.open);
        let mut known = known.into_iter().peekable();
        for (id, ttl) in open {
            while known.next_if(|(other, _)| other < id).is_some() {}
            let fresh = Session { ttl: *ttl, heard: now, holds: 0, silent_since: None, ending: false };
            let session = known.next_if(|(other, _)| other == id).map_or(fresh, |(_, session)| session);
            self.open.insert(*id, session);
        }
    }

    /// This member leads from now on: every time to live starts again in full, as nobody was heard here before (K3).
    pub fn restart(&mut self, now: Millis) {
        if has(Bug::TtlNotRestarted) {
            return;
        }
        for session in self.open.values_mut() {
            (session.heard, session.silent_since, session.ending) = (now, None, false);
        }
    }

    /// The process of this session lives.
    ///
    /// # Errors
    /// `SessionExpired`: there is no such session, or its end is on its way.
    pub fn heartbeat(&mut self, id: SessionId, now: Millis) -> Result<()> {
        match self.open.get_mut(&id) {
            Some(session) if !session.ending => {
                (session.heard, session.silent_since) = (now, None);
                Ok(())
            }
            _ => Err(Error::SessionExpired),
        }
    }

    /// As long as this is held, the session does not lapse.
    pub fn hold(&mut self, id: SessionId) {
        if let Some(session) = self.open.get_mut(&id) {
            session.holds += 1;
        }
    }

    /// Takes a hold back; its time to live starts again.
    pub fn release(&mut self, id: SessionId, now: Millis) {
        if let Some(session) = self.open.get_mut(&id) {
            session.holds = session.holds.saturating_sub(1);
            (session.heard, session.silent_since) = (now, None);
        }
    }

    /// The sessions of the owning process.
    pub fn held(&self) -> Vec<SessionId> {
        self.open.iter().filter(|(_, session)| session.holds > 0).map(|(id, _)| *id).collect()
    }

    /// Marks a session whose end is being proposed. False: there is none, or it is on its way already.
    pub fn end(&mut self, id: SessionId) -> bool {
        self.open.get_mut(&id).is_some_and(|session| !std::mem::replace(&mut session.ending, true))
    }

    /// The proposal to end it came to nothing: look again later.
    pub fn end_failed(&mut self, id: SessionId) {
        if let Some(session) = self.open.get_mut(&id) {
            session.ending = false;
        }
    }

    /// Sessions to give up now, marked as ending, and when to look again.
    pub fn lapsed(&mut self, now: Millis) -> (Vec<SessionId>, Option<Millis>) {
        let mut gone = Vec::new();
        let mut next: Option<Millis> = None;
        for (id, session) in &mut self.open {
            if session.ending || session.holds > 0 {
                continue;
            }
            let lapse = session.heard.plus(session.ttl);
            let mut look = lapse;
            if now >= lapse {
                look = session.silent_since.get_or_insert(now).plus(SECOND_LOOK);
                if now >= look {
                    session.ending = true;
                    gone.push(*id);
                    continue;
                }
            }
            next = Some(next.map_or(look, |other| other.min(look)));
        }
        (gone, next)
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);

    fn opened() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.sync(&[(ONE, Millis(1_000)), (SessionId(2), Millis(5_000))], Millis(0));
        sessions
    }

    #[test]
    fn a_silent_session_is_given_up_at_the_second_look() {
        let mut sessions = opened();
        assert_eq!(sessions.lapsed(Millis(999)), (vec![], Some(Millis(1_000))));
        assert_eq!(sessions.lapsed(Millis(1_000)), (vec![], Some(Millis(1_500))));
        assert_eq!(sessions.lapsed(Millis(1_500)), (vec![ONE], Some(Millis(5_000))));
        assert_eq!(sessions.lapsed(Millis(1_600)), (vec![], Some(Millis(5_000))), "once");
        assert_eq!(sessions.heartbeat(ONE, Millis(1_600)), Err(Error::SessionExpired));
    }

    #[test]
    fn a_heartbeat_between_the_looks_saves_it() {
        let mut sessions = opened();
        sessions.lapsed(Millis(60_000));
        sessions.heartbeat(ONE, Millis(60_001)).unwrap();
        let (gone, next) = sessions.lapsed(Millis(60_600));
        assert_eq!((gone, next), (vec![SessionId(2)], Some(Millis(61_001))));
    }

    #[test]
    fn a_held_session_lives_until_released() {
        let mut sessions = opened();
        sessions.hold(ONE);
        assert_eq!(sessions.lapsed(Millis(4_000)), (vec![], Some(Millis(5_000))));
        sessions.release(ONE, Millis(4_000));
        assert_eq!(sessions.lapsed(Millis(4_001)), (vec![], Some(Millis(5_000))));
    }

    #[test]
    fn sync_keeps_what_is_known_and_drops_what_is_gone() {
        let mut sessions = opened();
        sessions.heartbeat(ONE, Millis(900)).unwrap();
        sessions.sync(&[(ONE, Millis(1_000)), (SessionId(3), Millis(100))], Millis(950));
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions.lapsed(Millis(1_040)).1, Some(Millis(1_050)));
        assert_eq!(sessions.heartbeat(SessionId(2), Millis(951)), Err(Error::SessionExpired));
    }
}
