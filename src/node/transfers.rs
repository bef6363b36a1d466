//! Snapshots on their way to members that are too far behind: beside the letters, over a connection of their own, in
//! pieces that can break off anywhere and go on there.
//!
//! What holds
//! * The message that announces a snapshot follows its last piece, so raft-rs hears of it when it is whole and on disk.
//! * What becomes of each announced snapshot is reported, whatever happens: raft-rs sends that member nothing else before.
//! * What became disputed meanwhile is not given away, see `replica::doubt`.
//! * A transfer takes no more than its share of the network: `ClusterConfig::snapshot_rate`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::hello::{self, Purpose};
use super::inbox::{Chore, Next};
use super::open::spawn;
use super::post;
use super::Shared;
use crate::base::{limits, Error, NodeId, Result};
use crate::net::packet::{self, Frame};
use crate::net::{connect, Accepted, Frames, Stream};
use crate::replica::Letter;
use crate::snapshot::{SnapshotMeta, SnapshotStore};

/// How long a member may take for anything before a transfer counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the thread looks whether the node closes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// In place of the bytes that are there: the piece was refused.
const REFUSED: u64 = u64::MAX;

impl Shared {
    /// The life of the thread that sends snapshots.
    pub(super) fn transfer_loop(self: &Arc<Self>) {
        let Some(post) = self.post.clone() else { return };
        while self.inbox.stopped().is_none() {
            let Some(announcement) = post.next_snapshot(LOOK_EVERY) else { continue };
            let to = announcement.to();
            let shared = self.clone();
            // A member that hangs must not keep others waiting; there is one transfer at most to each.
            let started = spawn("raftwork-snapshot", move || shared.send_and_tell(&announcement));
            if let Err(error) = started {
                log::warn!("the state was not sent to member {to}: {error}");
                self.inbox.chore(Chore::SnapshotSent { to, arrived: false });
            }
        }
    }

    fn send_and_tell(&self, announcement: &Letter) {
        let to = announcement.to();
        let sent = self.send_snapshot(announcement);
        if let Err(error) = &sent {
            log::warn!("the state was not sent to member {to}: {error}");
        }
        self.inbox.chore(Chore::SnapshotSent { to, arrived: sent.is_ok() });
    }

    fn send_snapshot(&self, announcement: &Letter) -> Result<()> {
        let to = announcement.to();
        let post = self.post.as_ref().ok_or(Error::Closed)?;
        let wanted = announcement.announced();
        let meta = self.snapshots.latest().filter(|latest| Some((latest.index, latest.term)) == wanted);
        let meta = meta.ok_or_else(|| Error::NotFound("a newer snapshot has taken its place".into()))?;
        let address = post.address(to).ok_or_else(|| Error::NotFound(format!("member {to} has no address")))?;
        let (stream, certified) = connect(&address, post.security(), Instant::now() + PATIENCE)?;
        certified.map_or(Ok(()), |certified| certified.check_node(to))?;
        let mut talk = Talk { stream, frames: Frames::new() };
        talk.stream.write_first(post.hello(to, Purpose::Snapshot).frame())?;
        hello::check_welcome(&talk.hear()?)?;
        log::info!("sending the state at {} to member {to}", meta.index);
        self.send_pieces(&mut talk, &meta)?;
        if self.figures.lock().disputed {
            return Err(Error::NotCommitted("members differ from it, and nobody knows who is wrong".into()));
        }
        talk.say(post::LETTER, &announcement.encode())?;
        // The answer means that the member has taken the letter in.
        talk.hear_taken(&meta).map(drop)
    }

    fn send_pieces(&self, talk: &mut Talk, meta: &SnapshotMeta) -> Result<()> {
        talk.say(post::ASK, &place(meta))?;
        let mut offset = talk.hear_taken(meta)?.unwrap_or(0);
        let (began, mut sent) = (Instant::now(), 0);
        let rate =
            self.config.cluster.as_ref().map_or(limits::SNAPSHOT_BYTES_PER_SECOND, |cluster| cluster.snapshot_rate);
        let mut refusals = 0;
        loop {
            let (bytes, last) = self.snapshots.piece(meta, offset, limits::CHUNK_BYTES_MAX)?;
            let mut payload = place(meta);
            payload.extend_from_slice(&offset.to_le_bytes());
            payload.push(u8::from(last));
            payload.extend_from_slice(&bytes);
            talk.say(post::PIECE, &payload)?;
            self.counters.snapshot_bytes_sent.add(bytes.len() as u64);
            // Not how far it is: what was refused took its share too.
            sent += bytes.len() as u64;
            match talk.hear_taken(meta)? {
                Some(upto) if last && upto == offset + bytes.len() as u64 => return Ok(()),
                Some(upto) => offset = upto,
                None if refusals < 1 => (offset, refusals) = (0, refusals + 1),
                None => return Err(Error::Invalid("the member refused the state twice".into())),
            }
            self.check_running()?;
            let spent = Duration::from_secs_f64(sent as f64 / rate as f64);
            self.ticks.pause(spent.saturating_sub(began.elapsed()).min(LOOK_EVERY));
        }
    }

    /// Takes in what another member sends of its state.
    pub(super) fn receive_snapshots(self: &Arc<Self>, accepted: Accepted, from: NodeId) -> Result<()> {
        let Accepted { stream, outgoing, mut frames, .. } = accepted;
        loop {
            while let Some(frame) = frames.take()? {
                let taken = self.take_part(from, frame)?;
                outgoing.send(packet::encode(post::TAKEN, 0, &taken)?);
            }
            if self.inbox.stopped().is_some() || !frames.fill(&mut &*stream)? {
                return Ok(());
            }
        }
    }

    fn take_part(self: &Arc<Self>, from: NodeId, frame: Frame) -> Result<Vec<u8>> {
        let store: &SnapshotStore = &self.snapshots;
        if frame.kind == post::LETTER {
            let bytes = frame.payload.len();
            let letter = Letter::decode(&Bytes::from(frame.payload))?;
            let Some((index, term)) = letter.announced() else {
                return Err(Error::Invalid("a letter among snapshots that announces none".into()));
            };
            if (letter.from(), letter.to()) != (from, self.identity.node) {
                return Err(Error::Foreign(format!("a letter of {} to {}", letter.from(), letter.to())));
            }
            let answer = [index, term, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
            if self.inbox.letters(vec![letter], bytes, true) == Next::Drive {
                self.drive_briefly();
            }
            return Ok(answer);
        }
        let number = |place: usize| -> Result<u64> {
            let bytes = frame.payload.get(place * 8..place * 8 + 8);
            let bytes = bytes.ok_or_else(|| Error::Invalid("a piece of a snapshot without its head".into()))?;
            Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
        };
        let (index, term) = (number(0)?, number(1)?);
        let upto = match frame.kind {
            post::ASK => store.received_bytes(index, term)?,
            post::PIECE => {
                let offset = number(2)?;
                let Some((last, bytes)) = frame.payload.get(24..).and_then(<[u8]>::split_first) else {
                    return Err(Error::Invalid("a piece of a snapshot without its head".into()));
                };
                self.counters.snapshot_bytes_received.add(bytes.len() as u64);
                match store.take_piece(index, term, offset, bytes, *last == 1) {
                    Ok(_) => offset + bytes.len() as u64,
                    // Not the piece that follows what is here.
                    Err(Error::Invalid(_)) => store.received_bytes(index, term).unwrap_or(REFUSED),
                    Err(error @ Error::Corrupt { .. }) => {
                        log::warn!("a received snapshot is damaged, it is asked for anew: {error}");
                        REFUSED
                    }
                    Err(error) => return Err(error),
                }
            }
            kind => return Err(Error::Invalid(format!("a frame of kind {kind} among snapshots"))),
        };
        let mut answer = frame.payload[..16].to_vec();
        answer.extend_from_slice(&upto.to_le_bytes());
        Ok(answer)
    }
}

fn place(meta: &SnapshotMeta) -> Vec<u8> {
    [meta.index.to_le_bytes(), meta.term.to_le_bytes()].concat()
}

/// One question at a time, and its answer.
struct Talk {
    stream: Stream,
    frames: Frames,
}

impl Talk {
    fn say(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.stream.set_deadline(Some(Instant::now() + PATIENCE))?;
        self.stream.write_first(packet::encode(kind, 0, payload)?)
    }

    fn hear(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(frame);
            }
            if !self.frames.fill(&mut &self.stream)? {
                return Err(Error::Closed);
            }
        }
    }

    /// How much of the snapshot is there. Nothing: what came was refused.
    fn hear_taken(&mut self, meta: &SnapshotMeta) -> Result<Option<u64>> {
        let frame = self.hear()?;
        let known = frame.payload.len() == 24 && frame.payload[..16] == place(meta)[..];
        if frame.kind != post::TAKEN || !known {
            return Err(Error::Invalid("an answer about another snapshot".into()));
        }
        let upto = u64::from_le_bytes(frame.payload[16..].try_into().expect("8 bytes"));
        Ok(Some(upto).filter(|upto| *upto != REFUSED))
    }
}
