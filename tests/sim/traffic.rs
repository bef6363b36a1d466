//! What travels: letters between nodes, requests and answers, and when clients say something.

use raftwork::consensus::MessageType;
use raftwork::replica::{entry, Letter, Proposal};

use crate::clients::{PATIENCE, TTL_MS};
use crate::cluster::{Cluster, Event};
use crate::network::{letter, Packet, Place};
use crate::node::Ticket;
use crate::waiting::Waiting;
use crate::Micros;

impl Cluster {
    pub fn send_out(&mut self, node: usize, syncs: u64) {
        let sent = std::mem::take(&mut *self.nodes[node].sent.lock().expect("one thread"));
        let sync_micros = self.nodes[node].sync_micros;
        for (after_syncs, letter) in sent {
            let delay = after_syncs.saturating_sub(syncs) * sync_micros;
            let to = letter.to().0 as usize - 1;
            if let Letter::Raft(message) = &letter {
                self.history.sends(self.nodes[node].id, message);
            }
            match &letter {
                Letter::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                    self.begin_transfer(node, to, message);
                }
                _ => {
                    let packet = Packet::Letter(letter.encode().into());
                    let (from, to) = (Place::Node(node), Place::Node(to));
                    if let Some(later) = self.network.echoes(&mut self.random).filter(|_| is_raft(&letter)) {
                        self.after(delay + later, Event::Arrive { from, to, packet: packet.clone() });
                    }
                    self.send_later(from, to, packet, delay);
                }
            }
        }
    }

    pub fn send_later(&mut self, from: Place, to: Place, packet: Packet, delay: Micros) {
        if self.is_unheard(from, to) {
            return;
        }
        let now = self.now + delay;
        if let Some(at) = self.network.arrival(from, to, now, &mut self.random) {
            self.after(at - self.now, Event::Arrive { from, to, packet });
        }
    }

    pub fn arrive(&mut self, from: Place, to: Place, packet: Packet) {
        match (from, to) {
            (_, Place::Client(client)) => {
                let (number, answer) = match packet {
                    Packet::Answer { number, answer } => (number, answer),
                    Packet::Seen { floor, index } => return self.ledger.seen(floor, index),
                    Packet::Heard { sent, lives } => return self.clients[client].heard(sent, lives),
                    _ => return,
                };
                let nodes = self.nodes.len();
                self.check_holders();
                if self.clients[client].hear(number, &answer, nodes, self.now, &mut self.ledger) {
                    let works_long = self.slow_work && self.clients[client].works && !self.calm;
                    let think = if works_long { 4_000_000 } else { 20_000 };
                    let delay = if answer.is_ok() { self.random.between(50, think) } else { 30_000 };
                    self.after(delay, Event::Client(client));
                    self.mind_watch(client);
                }
            }
            (from, Place::Node(node)) => {
                if self.nodes[node].is_up() {
                    self.take(node, from, packet);
                }
            }
        }
    }

    pub fn take(&mut self, node: usize, from: Place, packet: Packet) {
        match packet {
            Packet::Letter(bytes) => self.nodes[node].letters.push(letter(&bytes)),
            Packet::Request { client, number, bytes } => {
                if let Err(error) = self.door(node, &bytes) {
                    let packet = Packet::Answer { number, answer: Err(error) };
                    return self.send_later(Place::Node(node), from, packet, 0);
                }
                self.bring_back(node, &bytes);
                let ticket = Ticket::Write { client, number };
                self.nodes[node].requests.push(Proposal { entry: entry::frame(&bytes), ticket });
            }
            Packet::Heartbeat { client, session, sent } => {
                self.nodes[node].beats.push((raftwork::base::SessionId(session), client, sent));
            }
            Packet::Read { client, floor, began } => {
                self.nodes[node].reads.push(Ticket::Read { client, floor, began });
            }
            Packet::Piece { .. } => return self.take_piece(node, from, packet),
            Packet::Taken { snapshot, upto, complete } => {
                let Place::Node(peer) = from else { return };
                return self.hear_of_transfer(node, peer, &snapshot, upto, complete);
            }
            Packet::Answer { .. } | Packet::Seen { .. } | Packet::Heard { .. } => return,
        }
        self.plan_turn(node);
    }

    pub fn client(&mut self, client: usize) {
        let (now, nodes) = (self.now, self.nodes.len());
        let it = &mut self.clients[client];
        if now < it.asleep_until {
            let delay = it.asleep_until - now;
            return self.after(delay, Event::Client(client));
        }
        if it.asked.is_none() && !it.ask(now, &mut self.random, &mut self.ledger) {
            if it.waiting.as_mut().is_some_and(Waiting::rests) {
                return; // Whoever tells it of work wakes it up.
            }
            return self.after(200_000, Event::Client(client));
        }
        let asked = it.asked.as_mut().expect("asked just now");
        if asked.attempts == 0 {
            self.ledger.record.asks(&asked.bytes, &asked.command);
        }
        asked.attempts += 1;
        asked.sent_at = now;
        let packet = Packet::Request { client, number: asked.number, bytes: asked.bytes.clone() };
        let to = Place::Node(it.node % nodes);
        self.send_later(Place::Client(client), to, packet, 0);
        if self.random.chance(200) {
            let to = Place::Node(self.random.below(nodes as u64) as usize);
            let packet = Packet::Read { client, floor: self.ledger.answered_index, began: now };
            self.send_later(Place::Client(client), to, packet, 0);
        }
    }

    /// Every session says that it lives; requests without an answer are sent again.
    pub fn heartbeats(&mut self) {
        self.after(TTL_MS * 1_000 / 4, Event::Heartbeats);
        for client in 0..self.clients.len() {
            let it = &mut self.clients[client];
            // Now and then one sleeps longer than its session lives, and wakes up with what it held.
            if self.now > it.asleep_until && !self.calm && self.random.chance(40) {
                it.asleep_until = self.now + self.random.between(1, 3) * TTL_MS * 1_000;
            }
            if self.now < it.asleep_until {
                continue;
            }
            if let Some(session) = it.session {
                let to = Place::Node(it.node_for_beats(self.now, self.nodes.len()));
                let packet = Packet::Heartbeat { client, session, sent: self.now };
                self.send_later(Place::Client(client), to, packet, 0);
            }
            let late = self.clients[client].asked.as_ref().is_some_and(|asked| self.now - asked.sent_at > PATIENCE);
            self.mind_watch(client);
            if late {
                let nodes = self.nodes.len();
                self.clients[client].lose_patience(nodes, &mut self.random);
                self.client(client);
            }
        }
    }
}

fn is_raft(letter: &Letter) -> bool {
    matches!(letter, Letter::Raft(_))
}
