//! Locks of the model: each a list of holders and a line. Whoever asks joins the line; whoever is first leaves it for a hold
//! as soon as it may.

use super::{number, refused, Model, Reply};
use raftwork::base::codec::Writer;
use raftwork::machine::Mode;

/// Session and number.
type Owner = (u64, u64);

#[derive(Clone, Debug, Default)]
pub struct ModelLock {
    pub name: String,
    /// Owner, what it asked for, token, since when.
    pub holders: Vec<(Owner, Mode, u64, u64)>,
    line: Vec<(Owner, Mode)>,
}

impl ModelLock {
    fn asked(&self, owner: Owner) -> Option<Mode> {
        let held = self.holders.iter().map(|(other, mode, ..)| (*other, *mode));
        held.chain(self.line.iter().copied()).find(|(other, _)| *other == owner).map(|(_, mode)| mode)
    }

    fn kind(&self) -> Option<(&'static str, u64)> {
        self.holders.first().map(|(_, mode, ..)| kind(*mode))
    }

    fn may_hold(&self, mode: Mode) -> bool {
        match mode {
            Mode::Lock | Mode::Write => self.holders.is_empty(),
            Mode::Permit(permits) => (self.holders.len() as u64) < permits,
            Mode::Read => self.holders.iter().all(|(_, held, ..)| *held == Mode::Read),
        }
    }

    /// K1, and no permit is lost while somebody waits for it; all are of one kind.
    fn holds(&self) -> bool {
        let writers = self.holders.iter().filter(|(_, mode, ..)| matches!(mode, Mode::Lock | Mode::Write)).count();
        let few = match self.holders[0].1 {
            Mode::Permit(permits) => self.holders.len() as u64 <= permits,
            _ => writers == 0 || self.holders.len() == 1,
        };
        let of_kind = |mode: &Mode| Some(kind(*mode)) == self.kind();
        let alike = self.holders.iter().all(|(_, mode, ..)| of_kind(mode)) && self.line.iter().all(|it| of_kind(&it.1));
        few && alike && self.line.first().is_none_or(|(_, mode)| !self.may_hold(*mode))
    }
}

fn kind(mode: Mode) -> (&'static str, u64) {
    match mode {
        Mode::Lock => ("lock", 0),
        Mode::Permit(permits) => ("semaphore", permits),
        Mode::Read | Mode::Write => ("read-write", 0),
    }
}

impl Model {
    pub(super) fn acquire(&mut self, owner: Owner, name: &str, mode: Mode, waits: bool) -> Reply {
        let known = self.locks.iter().find_map(|lock| Some((lock, lock.asked(owner)?)));
        if let Some((lock, asked)) = known {
            let held = lock.holders.iter().find(|holder| holder.0 == owner);
            return match lock.name == name && asked == mode {
                false => refused("lock_held"),
                true => held.map_or(Ok(vec![0xc0]), |(_, _, token, _)| number(*token)),
            };
        }
        let position = self.locks.iter().position(|lock| lock.name == name).unwrap_or_else(|| {
            self.locks.push(ModelLock { name: name.into(), ..ModelLock::default() });
            self.locks.len() - 1
        });
        let lock = &mut self.locks[position];
        if lock.kind().is_some_and(|held| held != kind(mode)) {
            return refused("lock_kind");
        }
        lock.line.push((owner, mode));
        self.hand_out(name);
        let lock = self.locks.iter_mut().find(|lock| lock.name == name).expect("somebody holds it");
        match lock.holders.iter().find(|holder| holder.0 == owner) {
            Some((_, _, token, _)) => {
                let token = *token;
                self.happened.granted.pop(); // It is answered, not told.
                number(token)
            }
            None => {
                if !waits {
                    lock.line.pop();
                }
                Ok(vec![0xc0])
            }
        }
    }

    pub(super) fn unlock(&mut self, session: u64, name: &str, token: u64) -> Reply {
        let lock = self.locks.iter_mut().find(|lock| lock.name == name);
        let holds = |lock: &ModelLock| lock.holders.iter().position(|it| it.0 .0 == session && it.2 == token);
        match lock.and_then(|lock| Some((holds(lock)?, lock))) {
            Some((position, lock)) => {
                lock.holders.remove(position);
                self.hand_out(name);
                Ok(vec![0xc0])
            }
            None => refused("lease_lost"),
        }
    }

    pub(super) fn give_up(&mut self, owner: Owner) -> Reply {
        let Some(lock) = self.locks.iter_mut().find(|lock| lock.asked(owner).is_some()) else { return number(0) };
        let (name, waiting) = (lock.name.clone(), lock.line.len());
        lock.line.retain(|(other, _)| *other != owner);
        lock.holders.retain(|(other, ..)| *other != owner);
        let waited = lock.line.len() < waiting;
        self.hand_out(&name);
        number(if waited { 1 } else { 2 })
    }

    /// First it waits for nothing, then what it held is handed out, the oldest first; then what it waited for.
    pub(super) fn end_locks(&mut self, session: u64) {
        let mut left = Vec::new();
        let mut tokens = Vec::new();
        for lock in &mut self.locks {
            let own = lock.line.iter().filter(|(owner, _)| owner.0 == session);
            left.extend(own.map(|(owner, _)| (owner.1, lock.name.clone())));
            lock.line.retain(|(owner, _)| owner.0 != session);
            tokens.extend(lock.holders.iter().filter(|it| it.0 .0 == session).map(|it| (it.2, lock.name.clone())));
        }
        tokens.sort();
        left.sort();
        for (token, name) in tokens {
            self.unlock(session, &name, token).expect("it is held");
        }
        left.iter().for_each(|(_, name)| self.hand_out(name));
    }

    fn hand_out(&mut self, name: &str) {
        while let Some(lock) = self.locks.iter_mut().find(|lock| lock.name == name) {
            let Some((owner, mode)) = lock.line.first().copied().filter(|(_, mode)| lock.may_hold(*mode)) else {
                break;
            };
            lock.line.remove(0);
            let (token, since) = (self.lock_token(), self.now);
            let lock = self.locks.iter_mut().find(|lock| lock.name == name).expect("it was just there");
            lock.holders.push((owner, mode, token, since));
            self.happened.granted.push((owner.0, owner.1, token));
        }
        self.locks.retain(|lock| !lock.holders.is_empty());
        assert!(self.locks.iter().all(ModelLock::holds), "K1: {:?}", self.locks);
    }

    fn lock_token(&mut self) -> u64 {
        self.token = (self.token + 1).max(self.index);
        self.token
    }

    /// The answer to the question who holds what: the oldest holder of each lock.
    pub fn lock_page(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(2).array(self.locks.len());
        for lock in self.by_name() {
            w.array(8).str(&lock.name);
            row(&mut w, lock, 0);
        }
        w.nil();
        w.into_bytes()
    }

    /// The same of all holders.
    pub fn holder_page(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(2).array(self.locks.iter().map(|lock| lock.holders.len()).sum());
        for lock in self.by_name() {
            for (position, (_, mode, ..)) in lock.holders.iter().enumerate() {
                let (name, permits) = match mode {
                    Mode::Lock => ("lock", 1),
                    Mode::Permit(permits) => ("semaphore", *permits),
                    Mode::Read => ("read", 1_000),
                    Mode::Write => ("write", 1),
                };
                w.array(10).str(&lock.name).str(name).u64(permits);
                row(&mut w, lock, position);
            }
        }
        w.nil();
        w.into_bytes()
    }

    fn by_name(&self) -> Vec<&ModelLock> {
        let mut sorted: Vec<&ModelLock> = self.locks.iter().collect();
        sorted.sort_by_key(|lock| &lock.name);
        sorted
    }
}

fn row(w: &mut Writer, lock: &ModelLock, position: usize) {
    let (owner, _, token, since) = lock.holders[position];
    w.u64(owner.0).str("worker").str("box").u64(4_711).u64(token).u64(since).u64(lock.line.len() as u64);
}
