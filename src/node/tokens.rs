//! Orders about who may do what. Each is carried out through the log, and remembered there with who asked for it.

use std::sync::Arc;

use super::access::Capability;
use super::{ClusterConfig, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, Millis, Result};
use crate::machine;
use crate::net::Secret;

/// The commands, see `machine::command`.
const PUT_TOKEN: u64 = 20;
const REVOKE_TOKEN: u64 = 21;
const NOTE: u64 = 24;

/// The level that brought tokens, invitations and notes.
const ACCESS_LEVEL: u64 = 2;
/// Everything that a token may allow.
const EVERYTHING: [&str; 6] = ["enqueue:*", "work:*", "lock:*", "read", "operate", "admin"];

impl Shared {
    /// What a group begins with: the features of this version, and the token that its founder was shown.
    ///
    /// # Errors
    /// Why that is not stored.
    pub(super) fn begin_access(self: &Arc<Self>, config: &ClusterConfig) -> Result<()> {
        // It was raised before the others were in, unless the disk had no room.
        let raised = self.machine.read().level() >= machine::known() || self.finalize().is_ok();
        match &config.first_token {
            // This node ended when it had just stored it.
            Some(digest) if self.machine.read().token(digest).is_some() => Ok(()),
            Some(digest) => self.put_token("founder", "first", &EVERYTHING, digest, None, None),
            None if raised => Ok(()),
            None => Err(Error::NotCommitted("the feature level was not raised".into())),
        }
    }

    /// `name, [capability], lifetime in ms or nil, overlap in ms or nil`: makes a token and answers `[text, id]`.
    pub(super) fn order_token(self: &Arc<Self>, actor: &str, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let name = reader.str()?;
        let capabilities = (0..reader.array()?).map(|_| reader.str()).collect::<Result<Vec<_>>>()?;
        let lives = reader.option(|reader| reader.u64())?.map(Millis);
        let overlap = reader.option(|reader| reader.u64())?.map(Millis);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            return Err(Error::Invalid(format!(
                "token name {name:?}: write letters, digits, dots, hyphens, underscores"
            )));
        }
        capabilities.iter().try_for_each(|text| Capability::parse(text).map(drop))?;
        let (secret, expires) = (Secret::create()?, lives.map(|lives| self.judging_time().plus(lives)));
        self.put_token(actor, name, &capabilities, &secret.digest(), expires, overlap)?;
        let id: String = secret.digest()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut out = Writer::new();
        out.array(2).str(&secret.text()).str(&id);
        Ok(out.into_bytes())
    }

    fn put_token(
        self: &Arc<Self>,
        actor: &str,
        name: &str,
        capabilities: &[&str],
        digest: &[u8; 32],
        expires: Option<Millis>,
        overlap: Option<Millis>,
    ) -> Result<()> {
        let mut command = Writer::new();
        command.array(7).u64(PUT_TOKEN).str(actor).str(name).bin(digest).array(capabilities.len());
        capabilities.iter().for_each(|capability| {
            command.str(capability);
        });
        for moment in [expires, overlap] {
            command.option(moment, |command, moment| {
                command.u64(moment.0);
            });
        }
        self.command(&command).map(drop)
    }

    /// Takes tokens back by name or id. Answers how many.
    pub(super) fn revoke_token(self: &Arc<Self>, actor: &str, which: &str) -> Result<Vec<u8>> {
        let mut command = Writer::new();
        command.array(3).u64(REVOKE_TOKEN).str(actor).str(which);
        self.command(&command)
    }

    /// `[[id, name, [capability], expires or nil, made]]`.
    pub(super) fn token_rows(&self) -> Vec<u8> {
        let machine = self.machine.read();
        let mut out = Writer::new();
        out.array(machine.tokens().count());
        for token in machine.tokens() {
            out.array(5).str(&token.id()).str(&token.name).array(token.capabilities.len());
            token.capabilities.iter().for_each(|capability| {
                out.str(capability);
            });
            out.option(token.expires, |out, expires| {
                out.u64(expires.0);
            });
            out.u64(token.made.0);
        }
        out.into_bytes()
    }

    /// `[[index, at, actor, what, about]]`.
    pub(super) fn act_rows(&self) -> Vec<u8> {
        let machine = self.machine.read();
        let mut out = Writer::new();
        out.array(machine.acts().count());
        for act in machine.acts() {
            out.array(5).u64(act.index.0).u64(act.at.0).str(&act.actor).str(&act.what).str(&act.about);
        }
        out.into_bytes()
    }

    /// Remembers what was done, where the cluster can already. What was done stays done if that fails.
    pub(super) fn note(self: &Arc<Self>, actor: &str, what: &str, about: &str) {
        if self.machine.read().level() < ACCESS_LEVEL {
            return;
        }
        if let Err(error) = self.put_note(actor, what, about) {
            log::warn!("{actor} did {what} {about}, which could not be noted: {error}");
        }
    }

    pub(super) fn put_note(self: &Arc<Self>, actor: &str, what: &str, about: &str) -> Result<()> {
        let mut command = Writer::new();
        command.array(4).u64(NOTE).str(actor).str(what).str(about);
        self.command(&command).map(drop)
    }
}
