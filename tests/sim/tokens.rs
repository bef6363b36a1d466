//! Clients that hand out tokens and take them back, and raise the level that this needs. Each has names of its own and one
//! request at a time, so what it was told is what every state must show.

use raftwork::machine::Machine;

use crate::node::EPOCH_MS;
use crate::random::Random;
use crate::wire::{digest, Command, Own};
use crate::Micros;

/// The feature level that brought tokens.
const ACCESS_LEVEL: u64 = 2;
/// So many of the newest are looked for in each state, all of them in the last one.
const NEWEST: usize = 3;

/// What is known of tokens outside of the cluster: secrets, and the index from which on it holds.
#[derive(Debug, Default)]
pub struct Book {
    /// They last until somebody takes them back.
    lasting: Vec<(String, u64)>,
    revoked: Vec<(String, u64)>,
}

impl Book {
    pub fn revoked(&self) -> u64 {
        self.revoked.len() as u64
    }

    /// Somebody asked for the end of some of them.
    fn doubt(&mut self, ends: impl Fn(&str) -> bool) {
        self.lasting.retain(|(secret, _)| !ends(secret));
    }

    /// The state of a node at an index.
    pub fn sees(&self, machine: &Machine) {
        self.compare(NEWEST, machine);
    }

    pub fn sees_all(&self, machine: &Machine) {
        self.compare(usize::MAX, machine);
    }

    fn compare(&self, newest: usize, machine: &Machine) {
        let index = machine.applied().0;
        let knows = |secret: &str| machine.token(&digest(secret)).is_some();
        for (secret, at) in self.lasting.iter().rev().take(newest).filter(|(_, at)| *at <= index) {
            assert!(knows(secret), "D1: token {secret} of entry {at} is unknown at {index}");
        }
        for (secret, at) in self.revoked.iter().rev().take(newest).filter(|(_, at)| *at <= index) {
            assert!(!knows(secret), "token {secret} was revoked at {at} and is known at {index}");
        }
    }
}

/// One client's side.
#[derive(Debug, Default)]
pub struct Keeper {
    made: u64,
    /// Name and secret of tokens that were answered.
    given: Vec<(String, String)>,
}

impl Keeper {
    /// Now and then, an order about tokens or about their level.
    pub fn next(&mut self, client: usize, now: Micros, random: &mut Random, book: &mut Book) -> Option<Command> {
        Some(Command::Own(match random.below(100) {
            0 | 1 => Own::SetLevel(ACCESS_LEVEL),
            2..=4 => self.put(client, now, random, book),
            5 | 6 if !self.given.is_empty() => self.revoke(random, book),
            _ => return None,
        }))
    }

    fn put(&mut self, client: usize, now: Micros, random: &mut Random, book: &mut Book) -> Own {
        self.made += 1;
        let name = format!("{client}-{}", random.below(2));
        let overlap = random.chance(200).then(|| random.between(0, 4_000));
        if overlap.is_some() {
            book.doubt(|secret| self.is_named(secret, &name));
        }
        let ends = EPOCH_MS as u64 + now / 1_000 + random.between(0, 4_000);
        Own::PutToken {
            actor: "simulated".into(),
            name,
            secret: format!("{client}-{}", self.made),
            can: vec!["read".into()],
            expires: random.chance(200).then_some(ends),
            overlap,
        }
    }

    /// By the name, with all others that have it, or by the id.
    fn revoke(&self, random: &mut Random, book: &mut Book) -> Own {
        let (name, secret) = random.pick(&self.given);
        let which = if random.chance(500) { name.clone() } else { id(secret) };
        book.doubt(|secret| self.is_named(secret, &which));
        Own::RevokeToken { actor: "simulated".into(), which }
    }

    fn is_named(&self, secret: &str, which: &str) -> bool {
        self.given.iter().any(|(name, mine)| mine == secret && (name == which || id(mine) == which))
    }

    pub fn answered(&mut self, index: u64, command: &Command, book: &mut Book) {
        match command {
            Command::Own(Own::PutToken { name, secret, expires, .. }) => {
                self.given.push((name.clone(), secret.clone()));
                if expires.is_none() {
                    book.lasting.push((secret.clone(), index));
                }
            }
            Command::Own(Own::RevokeToken { which, .. }) => {
                let gone = |(name, secret): &(String, String)| name == which || id(secret) == *which;
                let secrets = self.given.iter().filter(|token| gone(token)).map(|(_, secret)| (secret.clone(), index));
                book.revoked.extend(secrets);
                self.given.retain(|token| !gone(token));
            }
            _ => {}
        }
    }
}

/// What people call a token: the beginning of its digest.
pub fn id(secret: &str) -> String {
    digest(secret)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
