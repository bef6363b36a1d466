//! What an operator asks of the cluster. Orders that change who is a member, or who leads, are carried out by the leader.
//!
//! | order (MessagePack)     | what it does                                        | answer                        |
//! |-------------------------|-----------------------------------------------------|-------------------------------|
//! | `[1]`                   | lists the members                                   | an array of maps, see `rows`  |
//! | `[2, node, forced]`     | removes a member; forced: also against the odds     | nil                           |
//! | `[3]`                   | lets another member lead                            | nil                           |
//! | `[4]`                   | takes a snapshot on the node that is asked          | nil                           |
//! | `[20, name, [capability], lifetime, overlap]` | makes a token                 | `[text, id]`                  |
//! | `[21, name or id]`      | takes tokens back                                   | how many                      |
//! | `[22]`                  | lists the tokens                                    | see `tokens`                  |
//! | `[23]`                  | lists what was done about the cluster, and by whom  | see `tokens`                  |
//! | `[24, role]`            | makes an invitation                                 | its text                      |
//! | `[25]`                  | gives the node that is asked a new certificate      | until when it is good         |
//! | `[26]`                  | raises the feature level to what all members know, see `levels` | the level         |
//! | `[5, history]`          | begins a backup, with finished jobs or without      | its number                    |
//! | `[6, number, piece]`    | a piece of its file, from 1 on; see `backups`       | bytes, none behind the last   |
//! | `[7, number]`           | forgets it                                          | nil                           |
//! | `[8, node, address]`    | the node there replaces this one; see `replacing`   | whether it is done            |
//! | `[9, what, about]`      | notes what its sender did to many jobs at once      | nil                           |

use std::sync::Arc;
use std::time::Instant;

use super::hello::Runs;
use super::inbox::Chore;
use super::open::spawn;
use super::{Done, Node, Shared, TRANSFER_WAIT};
use crate::base::codec::{Reader, Writer};
use crate::base::sync::Mutex;
use crate::base::{Error, NodeId, Result};
use crate::replica::MemberChange;

impl Node {
    /// Carries out an order of `actor` on a thread of its own; `done` gets the answer.
    ///
    /// # Errors
    /// `NotCommitted`: not here or not now, and why. `Invalid`: the order makes no sense.
    pub fn order(&self, actor: &str, order: Vec<u8>, done: Done<Vec<u8>>) {
        let (shared, actor) = (self.shared.clone(), actor.to_owned());
        let waiting = Arc::new(Mutex::new(Some(done)));
        let answer = |waiting: &Mutex<Option<Done<Vec<u8>>>>, answer| {
            if let Some(done) = waiting.lock().take() {
                done(answer);
            }
        };
        let theirs = waiting.clone();
        if let Err(error) = spawn("raftwork-order", move || answer(&theirs, shared.carry_out(&actor, &order))) {
            answer(&waiting, Err(error));
        }
    }

    /// Changes who is a member, on the node that leads; `forced`: also if it leaves no majority that was heard lately.
    /// Returns when the change is in force.
    ///
    /// # Errors
    /// As `order`.
    pub fn change_members(&self, change: MemberChange, forced: bool) -> Result<()> {
        self.shared.change(change, forced)
    }

    /// Takes a snapshot and waits until it is on disk and the log before it is dropped.
    pub fn snapshot_now(&self) -> Result<()> {
        self.shared.snapshot_now()
    }
}

impl Shared {
    fn carry_out(self: &Arc<Self>, actor: &str, order: &[u8]) -> Result<Vec<u8>> {
        let mut reader = Reader::new(order);
        let items = reader.array()?;
        let nothing = |()| vec![0xc0];
        match (reader.u64()?, items) {
            (1, 1) => Ok(self.member_rows()),
            (2, 3) => {
                let (node, forced) = (NodeId(reader.u64()?), reader.bool()?);
                self.change(MemberChange::Remove(node), forced)?;
                self.note(actor, "member.remove", &node.to_string());
                Ok(nothing(()))
            }
            (3, 1) => {
                self.transfer()?;
                self.note(actor, "leader.transfer", &format!("away from {}", self.identity.node));
                Ok(nothing(()))
            }
            (4, 1) => {
                self.snapshot_now()?;
                self.note(actor, "snapshot.take", &format!("on {}", self.identity.node));
                Ok(nothing(()))
            }
            (20, 5) => self.order_token(actor, &mut reader),
            (21, 2) => self.revoke_token(actor, reader.str()?),
            (22, 1) => Ok(self.token_rows()),
            (23, 1) => Ok(self.act_rows()),
            (24, 2) => self.invite(actor, reader.str()?).map(|text| one(|out| out.str(&text))),
            (25, 1) => self.renew(actor).map(|until| one(|out| out.u64(until.0))),
            (26, 1) => {
                let level = self.finalize()?;
                self.note(actor, "level.set", &level.to_string());
                Ok(one(|out| out.u64(level)))
            }
            (5, 2) => {
                let history = reader.bool()?;
                let number = self.begin_backup(history)?;
                let with = if history { "with" } else { "without" };
                self.note(actor, "backup.make", &format!("on {}, {with} finished jobs", self.identity.node));
                Ok(one(|out| out.u64(number)))
            }
            (6, 3) => {
                let piece = self.backup_piece(reader.u64()?, reader.u64()?)?;
                Ok(Writer::with_capacity(piece.len() + 5).bin(&piece).as_bytes().to_vec())
            }
            (8, 3) => {
                let done = self.replace(actor, NodeId(reader.u64()?), reader.str()?)?;
                Ok(Writer::new().bool(done).as_bytes().to_vec())
            }
            (9, 3) => {
                let (what, about) = (reader.str()?, reader.str()?);
                self.put_note(actor, what, about).map(nothing)
            }
            (7, 2) => {
                self.backups.end(reader.u64()?);
                Ok(nothing(()))
            }
            (number, _) => Err(Error::Invalid(format!("no order has the number {number} and {items} items"))),
        }
    }

    pub(super) fn change(self: &Arc<Self>, change: MemberChange, forced: bool) -> Result<()> {
        self.check_running()?;
        self.change_members(change, forced)?;
        if let MemberChange::Remove(node) | MemberChange::Replace { old: node, .. } = change {
            self.drop_member(node)?;
        }
        Ok(())
    }

    pub(super) fn transfer(self: &Arc<Self>) -> Result<()> {
        self.check_running()?;
        if self.leads.lock().is_none() {
            return Err(Error::NotCommitted("this node does not lead; ask the leader".into()));
        }
        self.hand_over(Instant::now() + TRANSFER_WAIT);
        match self.leads.lock().is_some() {
            true => Err(Error::NotCommitted("no other voter took over in time".into())),
            false => Ok(()),
        }
    }

    pub(super) fn snapshot_now(&self) -> Result<()> {
        self.check_running()?;
        let (send, receive) = std::sync::mpsc::channel();
        // A receiver that is gone does not want to know any more.
        let done = Box::new(move |outcome| drop(send.send(outcome)));
        self.inbox.chore(Chore::Capture(done));
        receive.recv().unwrap_or(Err(Error::Closed))
    }

    /// Of each member: node, name, raft and client address, role, matched index and whether it was heard lately, these two
    /// as the leader knows, else nil; the release that it runs and the highest feature level that it knows, or nil for one
    /// that is not connected.
    fn member_rows(&self) -> Vec<u8> {
        let members = self.figures.lock().members.clone();
        let machine = self.machine.read();
        let mut out = Writer::new();
        let all: Vec<NodeId> = members.voters.iter().chain(&members.learners).copied().collect();
        out.array(all.len());
        for node in all {
            let listed = machine.members().find(|member| member.node == node);
            let text = |part: fn(&crate::machine::Member) -> &str| listed.map(part).unwrap_or_default();
            out.map(9).str("node").str(&node.to_string()).str("name").str(text(|member| &member.name));
            out.str("raft").str(text(|member| &member.raft)).str("client").str(text(|member| &member.client));
            out.str("role").str(if members.voters.contains(&node) { "voter" } else { "learner" });
            let peer = members.peers.iter().find(|peer| peer.node == node);
            out.str("matched").option(peer, |out, peer| {
                out.u64(peer.matched.0);
            });
            out.str("active").option(peer, |out, peer| {
                out.bool(peer.recently_active);
            });
            write_runs(&mut out, self.runs(node).as_ref());
        }
        out.into_bytes()
    }
}

/// Two items of a map: release and level.
fn write_runs(out: &mut Writer, runs: Option<&Runs>) {
    out.str("version").option(runs, |out, runs| {
        out.str(&runs.release);
    });
    out.str("knows_level").option(runs, |out, runs| {
        out.u64(runs.level);
    });
}

/// One value.
fn one(write: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.into_bytes()
}
