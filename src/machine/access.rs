//! Who may do what from outside: tokens of clients, invitations to join, and a record of what was done about the cluster.
//!
//! What holds
//! * A secret is never here: only its SHA-256 is, which tells a secret again and cannot be turned back into it.
//! * Nothing here decides by time. Whether a token has expired is judged where its holder asks, before a command enters the
//!   log: replicas that judged it themselves while applying could disagree.
//! * What a capability means is the business of whoever asks (`node::access`); here it is a word.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::decode::{list, name, number, reason, Place, Result};
use super::outcome::{self, Outcome, Refusal};
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, LogIndex, Millis};

/// SHA-256 of a secret.
pub type Digest = [u8; 32];

/// What the holder of a secret may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub digest: Digest,
    /// For people. While one token takes the place of another, both have the same.
    pub name: Arc<str>,
    pub capabilities: Vec<Arc<str>>,
    /// From then on it is worth nothing.
    pub expires: Option<Millis>,
    pub made: Millis,
}

impl Token {
    /// What people call it in commands: the beginning of the digest, in hexadecimal.
    pub fn id(&self) -> String {
        self.digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whoever shows the secret first gets a certificate for the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    pub digest: Digest,
    pub role: Arc<str>,
    pub expires: Millis,
}

impl Invited {
    /// The items of a record, and of a command behind its actor.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (digest, role) = (digest(reader)?, name(reader).at("role")?.into());
        Ok(Self { digest, role, expires: Millis(reader.u64().at("expires_ms")?) })
    }
}

/// Something that was done about the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub index: LogIndex,
    pub at: Millis,
    /// Who asked for it.
    pub actor: Arc<str>,
    /// Such as `token.put`.
    pub what: Arc<str>,
    pub about: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    tokens: BTreeMap<Digest, Token>,
    invited: BTreeMap<Digest, Invited>,
    /// The newest, oldest first.
    acts: VecDeque<Act>,
}

#[derive(Debug)]
pub struct PutToken<'a> {
    pub actor: &'a str,
    pub name: &'a str,
    pub digest: Digest,
    pub capabilities: Vec<&'a str>,
    pub expires: Option<Millis>,
    /// Older tokens of this name end after so long. Nothing: they stay.
    pub overlap: Option<Millis>,
}

impl<'a> PutToken<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(Self {
            actor: name(reader).at("actor")?,
            name: name(reader).at("name")?,
            digest: digest(reader)?,
            capabilities: list(reader, "capabilities", limits::CAPABILITIES_MAX, name)?,
            expires: reader.option(|reader| reader.u64()).at("expires_ms")?.map(Millis),
            overlap: reader.option(|reader| reader.u64()).at("overlap_ms")?.map(Millis),
        })
    }
}

/// A command that names who asked, what was asked, and what it is about.
#[derive(Debug)]
pub struct Note<'a> {
    pub actor: &'a str,
    pub what: &'a str,
    pub about: &'a str,
}

impl<'a> Note<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        let (actor, what) = (name(reader).at("actor")?, name(reader).at("what")?);
        Ok(Self { actor, what, about: reason(reader)? })
    }
}

pub(super) fn digest(reader: &mut Reader<'_>) -> Result<Digest> {
    let wrong = |bytes: &[u8]| Error::Invalid(format!("digest: {} bytes, SHA-256 has 32", bytes.len()));
    let bytes = reader.bin().at("digest")?;
    bytes.try_into().map_err(|_| wrong(bytes))
}

impl Access {
    pub(super) fn len(&self) -> [usize; 3] {
        [self.tokens.len(), self.invited.len(), self.acts.len()]
    }

    fn note(&mut self, act: Act) {
        if self.acts.len() >= limits::ACTS_MAX {
            self.acts.pop_front();
        }
        self.acts.push_back(act);
    }

    /// `[[token], [invitation], [act]]`.
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(3).array(self.tokens.len());
        for token in self.tokens.values() {
            writer.array(5).bin(&token.digest).str(&token.name).array(token.capabilities.len());
            token.capabilities.iter().for_each(|capability| {
                writer.str(capability);
            });
            writer.option(token.expires, |writer, expires| {
                writer.u64(expires.0);
            });
            writer.u64(token.made.0);
        }
        writer.array(self.invited.len());
        for invited in self.invited.values() {
            writer.array(3).bin(&invited.digest).str(&invited.role).u64(invited.expires.0);
        }
        writer.array(self.acts.len());
        for act in &self.acts {
            writer.array(5).u64(act.index.0).u64(act.at.0).str(&act.actor).str(&act.what).str(&act.about);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, index_max: u64) -> Result<Self> {
        reader.array_of(3, "who may do what")?;
        let tokens =
            list(reader, "tokens", limits::TOKENS_MAX, |reader| {
                reader.array_of(5, "a token")?;
                Ok(Token {
                    digest: digest(reader)?,
                    name: name(reader)?.into(),
                    capabilities: list(reader, "capabilities", limits::CAPABILITIES_MAX, |reader| {
                        Ok(name(reader)?.into())
                    })?,
                    expires: reader.option(|reader| reader.u64())?.map(Millis),
                    made: Millis(reader.u64()?),
                })
            })?;
        let invited = list(reader, "invitations", limits::INVITATIONS_MAX, |reader| {
            reader.array_of(3, "an invitation")?;
            Invited::decode(reader)
        })?;
        let acts = list(reader, "acts", limits::ACTS_MAX, |reader| {
            reader.array_of(5, "an act")?;
            let (index, at) = (LogIndex(number(reader, index_max)?), Millis(reader.u64()?));
            Ok(Act {
                index,
                at,
                actor: name(reader)?.into(),
                what: name(reader)?.into(),
                about: reason(reader)?.into(),
            })
        })?;
        let access = Self {
            tokens: tokens.iter().map(|token| (token.digest, token.clone())).collect(),
            invited: invited.iter().map(|invited| (invited.digest, invited.clone())).collect(),
            acts: acts.into(),
        };
        match access.tokens.len() == tokens.len() && access.invited.len() == invited.len() {
            true => Ok(access),
            false => Err(Error::Invalid("the same secret twice".into())),
        }
    }
}

impl Machine {
    /// What the holder of a secret may do, by the SHA-256 of the secret. Says nothing about whether it has expired.
    pub fn token(&self, digest: &Digest) -> Option<&Token> {
        self.access.tokens.get(digest)
    }

    /// Every token, the expired ones that nothing has cleared away yet too.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.access.tokens.values()
    }

    pub fn invited(&self, digest: &Digest) -> Option<&Invited> {
        self.access.invited.get(digest)
    }

    /// What was done about the cluster, the newest of it, oldest first.
    pub fn acts(&self) -> impl Iterator<Item = &Act> {
        self.access.acts.iter()
    }

    fn act(&mut self, actor: &str, what: &str, about: String) {
        let (index, at) = (self.applied, self.clock);
        self.access.note(Act { index, at, actor: actor.into(), what: what.into(), about: about.into() });
    }

    /// Answers how many older tokens of the name end sooner now.
    pub(super) fn put_token(&mut self, put: &PutToken<'_>) -> Outcome {
        let clock = self.clock;
        let tokens = &mut self.access.tokens;
        tokens.retain(|_, token| token.expires.is_none_or(|expires| expires > clock));
        if tokens.contains_key(&put.digest) {
            return Err(Refusal::known_secret());
        }
        if tokens.len() >= limits::TOKENS_MAX {
            return Err(Refusal::overloaded(format!("there are {} tokens; revoke some", limits::TOKENS_MAX)));
        }
        let mut ended = 0;
        if let Some(end) = put.overlap.map(|overlap| clock.plus(overlap)) {
            for older in tokens.values_mut().filter(|token| *token.name == *put.name) {
                if older.expires.is_none_or(|expires| expires > end) {
                    (older.expires, ended) = (Some(end), ended + 1);
                }
            }
        }
        let token = Token {
            digest: put.digest,
            name: put.name.into(),
            capabilities: put.capabilities.iter().map(|capability| Arc::from(*capability)).collect(),
            expires: put.expires,
            made: clock,
        };
        let about = format!("{} {}: {}", token.id(), put.name, put.capabilities.join(" "));
        tokens.insert(put.digest, token);
        self.act(put.actor, "token.put", shortened(about));
        outcome::number(ended)
    }

    /// Takes back every token with this name or id. Answers how many there were.
    pub(super) fn revoke_token(&mut self, actor: &str, which: &str) -> Outcome {
        let before = self.access.tokens.len();
        let stays = |token: &Token| has(Bug::RevokedStays) && token.expires.is_some();
        self.access.tokens.retain(|_, token| stays(token) || *token.name != *which && token.id() != which);
        let gone = before - self.access.tokens.len();
        if gone > 0 {
            self.act(actor, "token.revoke", which.into());
        }
        outcome::number(gone as u64)
    }

    pub(super) fn put_invitation(&mut self, actor: &str, invited: Invited) -> Outcome {
        let clock = self.clock;
        self.access.invited.retain(|_, invited| invited.expires > clock);
        if self.access.invited.len() >= limits::INVITATIONS_MAX {
            let open = limits::INVITATIONS_MAX;
            return Err(Refusal::overloaded(format!("{open} invitations are open; wait until they expire")));
        }
        self.act(actor, "invitation.put", invited.role.to_string());
        self.access.invited.insert(invited.digest, invited);
        outcome::nil()
    }

    /// Answers the role, and nil if the invitation is not there: it is used, or never was.
    pub(super) fn use_invitation(&mut self, actor: &str, digest: &Digest) -> Outcome {
        let Some(invited) = self.access.invited.remove(digest) else { return outcome::nil() };
        self.act(actor, "invitation.use", invited.role.to_string());
        let mut writer = Writer::new();
        writer.str(&invited.role);
        Ok(writer.into_bytes())
    }

    pub(super) fn put_note(&mut self, note: &Note<'_>) -> Outcome {
        self.act(note.actor, note.what, note.about.into());
        outcome::nil()
    }
}

/// As much of a text as a reason may have.
fn shortened(mut text: String) -> String {
    if text.len() > limits::REASON_BYTES_MAX {
        let end = (0..=limits::REASON_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
