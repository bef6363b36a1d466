//! A new member in the place of an old one, in one step: the new one joins and catches up as a learner, and is promoted in
//! the same change that removes the old one. So there is no moment with one voter more, of which one does not answer.
//!
//! A plan to do so lives on the leader while an operator's command asks for it again and again. Nothing of it is stored: after
//! a change of leader the command tells the new one; without the command the new member is promoted beside the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::base::{Error, NodeId, Result};
use crate::net::Address;
use crate::replica::MemberChange;

/// A plan that nobody asked for again for so long is dropped.
const LIFE: Duration = Duration::from_secs(30);

/// Whom the node at an address is to replace.
pub(super) struct Plan {
    old: NodeId,
    address: String,
    asked: Instant,
}

impl Plan {
    fn lives(&self) -> bool {
        self.asked.elapsed() < LIFE
    }

    fn is_for(&self, old: NodeId, address: &str) -> bool {
        (self.old, self.address.as_str()) == (old, address)
    }
}

impl Shared {
    /// Plans that the node at `address` replaces `old`, or finds that it has. True: it is done. Who asks is remembered with the
    /// plan, and not again while it lives: a command asks again and again.
    ///
    /// # Errors
    /// `NotCommitted`: not here or not now. `Invalid`: `old` is no member.
    pub(super) fn replace(self: &Arc<Self>, actor: &str, old: NodeId, address: &str) -> Result<bool> {
        self.check_running()?;
        let address = Address::parse(address)?.to_string();
        if self.leads.lock().is_none() {
            return Err(Error::NotCommitted("this node does not lead; ask the leader".into()));
        }
        let members = self.figures.lock().members.clone();
        let (there, voter) = (self.is_member(old), |node: &NodeId| members.voters.contains(node));
        let new = self.listed_at(&address).into_iter().find(|node| *node != old && voter(node));
        match new {
            None if !there => Err(Error::Invalid(format!("node {old} is no member, so nothing can take its place"))),
            None if old == self.identity.node => {
                self.transfer()?;
                Err(Error::NotCommitted("this node led and is to go: another one leads now, ask it".into()))
            }
            None => {
                let about = format!("{old} by the node at {address}");
                let mut planned = self.replacing.lock();
                let known = planned.as_ref().is_some_and(|plan| plan.lives() && plan.is_for(old, &address));
                *planned = Some(Plan { old, address, asked: Instant::now() });
                drop(planned);
                if !known {
                    self.note(actor, "member.replace", &about);
                }
                Ok(false)
            }
            Some(_) if there => {
                // It was promoted beside the old one: the plan was not here yet.
                self.change(MemberChange::Remove(old), false)?;
                self.note(actor, "member.remove", &old.to_string());
                Ok(true)
            }
            Some(_) => {
                *self.replacing.lock() = None;
                self.drop_member(old)?;
                Ok(true)
            }
        }
    }

    /// The voter that this learner replaces, if somebody planned that.
    pub(super) fn replaced_by(&self, learner: NodeId) -> Option<NodeId> {
        let planned = self.replacing.lock();
        let plan = planned.as_ref().filter(|plan| plan.lives())?;
        self.listed_at(&plan.address).contains(&learner).then_some(plan.old)
    }

    /// Whether a node without data may come to the address of this member: it is there to replace it.
    pub(super) fn is_replaced_at(&self, old: NodeId, address: &str) -> bool {
        let planned = self.replacing.lock();
        planned.as_ref().is_some_and(|plan| plan.lives() && plan.is_for(old, address))
    }

    fn listed_at(&self, address: &str) -> Vec<NodeId> {
        let machine = self.machine.read();
        machine.members().filter(|member| &*member.raft == address).map(|member| member.node).collect()
    }
}
