//! What the cluster knows about itself: where its members are to be found, and which features all of them have.
//!
//! Who is a member and may vote is Raft's business (`replica::members`); this table only says how to reach whom. An
//! address is a hint that may be old: whoever answers there must prove that it is the member.

use std::sync::Arc;

use super::command::{decode, Command};
use super::decode::{bytes, name, Place, Result};
use super::levels::{known, Level};
use super::outcome::{self, Outcome, Refusal};
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::planted::{has, Bug};
use crate::base::{limits, Error, NodeId};

/// How to reach a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// For people; several members may have the same, as when a machine got a new disk.
    pub name: Arc<str>,
    /// Host and port for other members.
    pub raft: Arc<str>,
    /// Host and port for clients; empty if it serves none.
    pub client: Arc<str>,
}

impl Member {
    /// `node, name, raft address, client address`: the items of `PutMember` behind its number, and of a record.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Member> {
        let node = NodeId(reader.u64().at("node")?);
        if node.0 == 0 {
            return Err(Error::Invalid("node: 0 is nobody".into()));
        }
        let name: Arc<str> = name(reader).at("name")?.into();
        let raft: Arc<str> = address(reader).at("raft")?.into();
        if raft.is_empty() {
            return Err(Error::Invalid("raft: an empty address".into()));
        }
        Ok(Member { node, name, raft, client: address(reader).at("client")?.into() })
    }

    /// Appends the four items as an array of their own.
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(4).u64(self.node.0).str(&self.name).str(&self.raft).str(&self.client);
    }
}

fn address<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let address = bytes(reader.str()?, limits::ADDRESS_BYTES_MAX)?;
    match address.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
        true => Err(Error::Invalid("an address with spaces or control characters".into())),
        false => Ok(address),
    }
}

/// The member that a request lists, if it is one that does: for whoever reads a log without applying it.
pub fn listed_by(request: &[u8]) -> Option<Member> {
    match decode(request).ok()?.command {
        Command::PutMember(member) => Some(member),
        _ => None,
    }
}

impl Machine {
    /// How to reach the members, by node.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The features that all members have.
    pub fn level(&self) -> u64 {
        self.level.0
    }

    /// Refuses what some member may not know yet, before it enters the log: a member stops at a command that it does not
    /// know. `needed` comes from `check`.
    pub fn admit(&self, needed: u64) -> crate::base::Result<()> {
        if has(Bug::UngatedCommand) {
            return Ok(());
        }
        self.level.reaches(needed).map_err(|refusal| Error::Invalid(refusal.message))
    }

    pub(super) fn put_member(&mut self, member: Member) -> Outcome {
        if !self.members.contains_key(&member.node) && self.members.len() >= limits::MEMBERS_MAX {
            return Err(Refusal::overloaded(format!("{} members are listed", limits::MEMBERS_MAX)));
        }
        self.members.insert(member.node, member);
        outcome::nil()
    }

    /// Answers 1, or 0 if it was not listed.
    pub(super) fn drop_member(&mut self, node: NodeId) -> Outcome {
        outcome::number(self.members.remove(&node).is_some().into())
    }

    /// Answers the level that holds from here on.
    pub(super) fn set_level(&mut self, level: u64) -> Outcome {
        if level < self.level.0 && !has(Bug::LevelFalls) {
            return Err(Refusal::level_falls(self.level.0));
        }
        self.level = Level(level);
        outcome::number(level)
    }

    pub(super) fn member_rows(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(self.members.len());
        self.members.values().for_each(|member| member.encode(&mut writer));
        writer.into_bytes()
    }

    pub(super) fn levels(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(2).u64(self.level.0).u64(known());
        writer.into_bytes()
    }
}
