//! Snapshots on their way between nodes, beside the messages of Raft: in pieces, which are lost like everything else.

use raftwork::base::{Error, NodeId};
use raftwork::consensus::{Message, SnapshotMetadata};
use raftwork::replica::Letter;

use crate::cluster::Cluster;
use crate::network::{letter, Packet, Place};
use crate::node::Transfer;
use crate::Micros;

/// Bytes of one piece: small, so that a transfer can break off anywhere.
const PIECE_BYTES: usize = 700;
/// A transfer without news for so long has failed.
const TRANSFER_PATIENCE: Micros = 2_000_000;

/// What the fake disk says after the cut that a fault has planned.
const POWER_IS_OFF: &str = "the power is off";

impl Cluster {
    pub fn begin_transfer(&mut self, node: usize, to: usize, announcement: &Message) {
        if !self.nodes[node].is_up() {
            return; // The letter before this one was such an announcement too, and its process ended over it.
        }
        let snapshot = announcement.get_snapshot().get_metadata().clone();
        let transfer = Transfer {
            snapshot,
            announcement: Letter::Raft(announcement.clone()).encode().into(),
            last_news: self.now,
        };
        self.nodes[node].transfers.insert(to, transfer);
        self.send_piece(node, to, 0);
    }

    fn send_piece(&mut self, node: usize, to: usize, offset: u64) {
        let Some(transfer) = self.nodes[node].transfers.get(&to).cloned() else { return };
        let replica = self.nodes[node].replica.as_ref().expect("it is up");
        let latest = replica.snapshots().latest().filter(|latest| latest.index == transfer.snapshot.index);
        // What a damaged state gave away before anybody could know would be damage to two members at once.
        let is_known = !replica.odd_members().is_empty();
        let latest = latest.filter(|_| is_known || self.nodes[node].damaged_since().is_none());
        let piece = latest.map(|latest| replica.snapshots().piece(&latest, offset, PIECE_BYTES));
        let Some(Ok((bytes, last))) = piece else { return self.end_transfer(node, to, false) };
        let packet =
            Packet::Piece { snapshot: transfer.snapshot, offset, bytes, last, announcement: transfer.announcement };
        self.send_later(Place::Node(node), Place::Node(to), packet, 0);
    }

    pub fn take_piece(&mut self, node: usize, from: Place, packet: Packet) {
        let Packet::Piece { snapshot, offset, bytes, last, announcement } = packet else { return };
        if self.nodes[node].paused {
            return;
        }
        let store = self.nodes[node].replica.as_ref().expect("it is up").snapshots().clone();
        let taken = store.take_piece(snapshot.index, snapshot.term, offset, &bytes, last);
        let (upto, complete) = match taken {
            Ok(complete) => (Some(offset + bytes.len() as u64), complete),
            Err(Error::Invalid(_)) => (store.received_bytes(snapshot.index, snapshot.term).ok(), false),
            Err(Error::Disk { message, .. }) if message == POWER_IS_OFF => return self.end_of(node),
            Err(_) => (None, false),
        };
        if complete {
            self.nodes[node].letters.push(letter(&announcement));
            self.plan_turn(node);
        }
        self.send_later(Place::Node(node), from, Packet::Taken { snapshot, upto, complete }, 0);
    }

    pub fn hear_of_transfer(
        &mut self,
        node: usize,
        peer: usize,
        snapshot: &SnapshotMetadata,
        upto: Option<u64>,
        complete: bool,
    ) {
        let now = self.now;
        let Some(transfer) = self.nodes[node].transfers.get_mut(&peer) else { return };
        if transfer.snapshot.index != snapshot.index {
            return;
        }
        transfer.last_news = now;
        match upto {
            Some(_) if complete => self.end_transfer(node, peer, true),
            Some(offset) => self.send_piece(node, peer, offset),
            None => self.end_transfer(node, peer, false),
        }
    }

    fn end_transfer(&mut self, node: usize, peer: usize, arrived: bool) {
        self.nodes[node].transfers.remove(&peer);
        let to = NodeId(peer as u64 + 1);
        self.act(node, |replica, turn| replica.snapshot_sent(to, arrived, turn));
    }

    pub fn fail_old_transfers(&mut self, node: usize) {
        let old = |transfer: &Transfer| self.now - transfer.last_news > TRANSFER_PATIENCE;
        let late: Vec<usize> =
            self.nodes[node].transfers.iter().filter(|(_, transfer)| old(transfer)).map(|(peer, _)| *peer).collect();
        for peer in late {
            if self.nodes[node].is_up() {
                self.end_transfer(node, peer, false);
            }
        }
    }
}
