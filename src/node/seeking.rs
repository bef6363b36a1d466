//! Members that came to new addresses together find each other: where their table says, nobody answers, and whoever answers
//! at an address of the settings is asked who it is.
//!
//! What holds
//! * An address proves nothing. What counts is that the one who answers is of this cluster and group and says the id of a
//!   member; then it is called by that id, and refuses the first words if it is another (see `post`).
//! * Nobody is asked while a leader is known, and who is connected is left where it is: what works is left alone.
//! * Whoever answers says where those are that it is connected to. One member that all can reach is enough, whoever leads
//!   then: the leader and a member that know of each other nowhere but there would never hear of each other otherwise.
//! * Where this node is stands in its own first words. Once somebody leads, each has the table of the members corrected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::joining::{ask, MEMBER, WHO};
use super::open::spawn;
use super::{ClusterConfig, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, GroupId, NodeId, Result};
use crate::disk::Identity;
use crate::net::packet::Frame;
use crate::net::Address;
use crate::replica::ELECTION_TICKS;

/// What asks for the id of a member too, and for those that it is connected to.
pub(super) const WHOSE: [u8; 1] = [1];

/// Whose data a node has.
pub(super) struct Named {
    pub cluster: ClusterId,
    pub group: GroupId,
    /// Nothing: it was not wanted, or the other side is of a version that does not say it.
    pub node: Option<NodeId>,
    /// Other members that are connected to it, and where they are. An older version does not say it.
    pub others: BTreeMap<NodeId, Address>,
}

impl Named {
    pub fn encode(identity: &Identity, with_node: bool) -> Vec<u8> {
        let mut out = [&identity.cluster.0[..], &identity.group.0.to_le_bytes()].concat();
        if with_node {
            out.extend_from_slice(&identity.node.0.to_le_bytes());
        }
        out
    }

    pub fn read(payload: &[u8]) -> Result<Self> {
        let wrong = || Error::Invalid("an answer that names no cluster".into());
        let (cluster, rest) = payload.split_first_chunk().ok_or_else(wrong)?;
        let (group, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
        let (node, rest) = match rest.split_first_chunk() {
            Some((node, rest)) => (Some(NodeId(u64::from_le_bytes(*node))), rest),
            None => (None, rest),
        };
        let others = if rest.is_empty() { BTreeMap::new() } else { read_members(&mut Reader::new(rest))? };
        Ok(Self { cluster: ClusterId(*cluster), group: GroupId(u64::from_le_bytes(*group)), node, others })
    }
}

/// Members, and where they are.
pub(super) fn read_members(reader: &mut Reader<'_>) -> Result<BTreeMap<NodeId, Address>> {
    let mut members = BTreeMap::new();
    for _ in 0..reader.array()? {
        reader.array_of(2, "a member")?;
        members.insert(NodeId(reader.u64()?), Address::parse(reader.str()?)?);
    }
    Ok(members)
}

/// Asks whoever listens at an address which member it is.
fn who(config: &ClusterConfig, address: &Address) -> Result<Named> {
    match ask(config, address, WHO, &WHOSE)? {
        Frame { kind: MEMBER, payload, .. } => Named::read(&payload),
        frame => {
            Err(Error::NotFound(format!("no member is at {address}, it answered with a frame of kind {}", frame.kind)))
        }
    }
}

impl Shared {
    /// What this node answers to whoever asks who it is.
    pub(super) fn say_who(&self, asked: &[u8]) -> Vec<u8> {
        let in_full = asked == WHOSE;
        let mut out = Named::encode(&self.identity, in_full);
        if in_full {
            let others = self.post.as_ref().map_or_else(BTreeMap::new, |post| post.reached());
            let mut members = Writer::new();
            members.array(others.len());
            for (node, address) in others {
                members.array(2).u64(node.0).str(&address.to_string());
            }
            out.extend(members.into_bytes());
        }
        out
    }

    /// At each tick without a leader, told how many there were: asks the addresses of the settings, and who is connected, once
    /// in an election's time.
    pub(super) fn seek_members(self: &Arc<Self>, config: &ClusterConfig, leaderless: u32) {
        let due = leaderless > 0 && leaderless.is_multiple_of(ELECTION_TICKS as u32);
        if !due || config.members.is_empty() || self.is_joining() || self.ticks.seeking.swap(true, Ordering::AcqRel) {
            return;
        }
        // Who does not answer is waited for, and the clock must not stand meanwhile.
        let (shared, asked) = (self.clone(), config.clone());
        let started = spawn("raftwork-seek", move || {
            shared.ask_who_is_there(&asked);
            shared.ticks.seeking.store(false, Ordering::Release);
        });
        if let Err(error) = started {
            log::warn!("the other members are not looked for: {error}");
            self.ticks.seeking.store(false, Ordering::Release);
        }
    }

    fn ask_who_is_there(&self, config: &ClusterConfig) {
        let Some(post) = &self.post else { return };
        let own = config.reached();
        let connected = post.reached().into_values();
        let asked: BTreeSet<Address> = config.members.iter().cloned().chain(connected).collect();
        for address in asked.iter().filter(|address| **address != own) {
            if self.inbox.stopped().is_some() || self.leader.lock().is_some() {
                return;
            }
            // Nobody, or one that does not say who it is: most of those who are asked.
            let Ok(named) = who(config, address) else { continue };
            self.heard_of(&named, address);
        }
    }

    fn heard_of(&self, named: &Named, address: &Address) {
        let own = &self.identity;
        let Some(post) = self.post.as_ref().filter(|_| (named.cluster, named.group) == (own.cluster, own.group)) else {
            return;
        };
        let itself = named.node.map(|node| (node, address));
        for (node, address) in named.others.iter().map(|(node, address)| (*node, address)).chain(itself) {
            if node != own.node {
                post.seen(node, address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Millis;

    #[test]
    fn who_asks_for_no_id_or_is_told_none_goes_without() {
        let identity = Identity { cluster: ClusterId([9; 16]), group: GroupId(1), node: NodeId(7), created: Millis(1) };
        let named = |with_node| Named::read(&Named::encode(&identity, with_node)).expect("an answer");
        assert_eq!((named(false).node, named(true).node), (None, Some(NodeId(7))));
        assert_eq!((named(true).cluster, named(true).group), (identity.cluster, identity.group));
        assert!(named(true).others.is_empty(), "an older member does not say whom it is connected to");
    }
}
