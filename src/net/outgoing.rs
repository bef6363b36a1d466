//! The sending half of a connection: the thread that has something to say sends it, if that does not block.
//!
//! What does not fit into the socket waits in a bounded queue for a thread of its own. So a peer that does not read
//! never blocks whoever answers it; when the queue is full the connection ends (`send`) or the frame is dropped (`offer`).

use super::packet::failed;
use super::Stream;
use crate::base::{Error, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;

/// Waiting frames that are smaller together go out in one write.
const WRITE_BYTES: usize = 64 << 10;

/// The sending half of one connection.
pub struct Outgoing {
    stream: Arc<Stream>,
    /// Bytes that may wait for a slow peer.
    waiting_bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// As they go over the wire, in order.
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The writer has taken something out and not written it yet.
    writing: bool,
    ended: bool,
    /// Why it ended, if that was found out here.
    failure: Option<Error>,
}

impl Outgoing {
    /// Starts the writer. From now on nobody else may write to the stream.
    pub fn start(stream: Arc<Stream>, waiting_bytes_max: usize) -> Result<Arc<Self>> {
        let outgoing =
            Arc::new(Self { stream, waiting_bytes_max, state: Mutex::new(State::default()), changed: Condvar::new() });
        let writer = outgoing.clone();
        std::thread::Builder::new()
            .name("raftwork-write".into())
            .spawn(move || writer.run())
            .map_err(|error| Error::disk("start a thread", "raftwork-write", &error))?;
        Ok(outgoing)
    }

    /// Sends one frame, or queues it; ends the connection if it does not fit. Never blocks. After the end it does nothing.
    pub fn send(&self, frame: Vec<u8>) {
        let mut state = self.state.lock();
        if !self.fits(&state, &frame) {
            let why = format!("the other side reads too slowly: {} bytes wait for it", state.bytes);
            return self.end_locked(&mut state, Some(Error::Overloaded(why)));
        }
        self.send_locked(&mut state, frame);
    }

    /// Sends one frame, or queues it. False: it is dropped, as it does not fit or the connection has ended. Never blocks.
    pub fn offer(&self, frame: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        if !self.fits(&state, &frame) {
            return false;
        }
        self.send_locked(&mut state, frame);
        !state.ended
    }

    fn fits(&self, state: &State, frame: &[u8]) -> bool {
        state.waiting.is_empty() || state.bytes + frame.len() <= self.waiting_bytes_max
    }

    fn send_locked(&self, state: &mut MutexGuard<'_, State>, frame: Vec<u8>) {
        if state.ended {
            return;
        }
        // Under the lock: ciphertext must leave in the order in which it was made.
        let mut bytes = match self.stream.seal(frame) {
            Ok(bytes) => bytes,
            Err(error) => return self.end_locked(state, Some(failed("write to", error))),
        };
        if state.waiting.is_empty() && !state.writing {
            match self.stream.send_sealed(&bytes) {
                Ok(sent) if sent == bytes.len() => return,
                Ok(sent) => drop(bytes.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return self.end_locked(state, Some(failed("write to", error.into()))),
            }
        }
        state.bytes += bytes.len();
        state.waiting.push_back(bytes);
        self.changed.notify_all();
    }

    /// Ends the connection in both directions.
    pub fn end(&self) {
        self.end_locked(&mut self.state.lock(), None);
    }

    /// Why the connection ended, if sending was what failed.
    pub fn failure(&self) -> Option<Error> {
        self.state.lock().failure.clone()
    }

    fn end_locked(&self, state: &mut State, failure: Option<Error>) {
        if !std::mem::replace(&mut state.ended, true) {
            state.failure = failure;
            if state.waiting.is_empty() && !state.writing {
                // A peer that cannot take these few bytes does without them.
                let _ = self.stream.send_sealed(&self.stream.seal_end());
            }
            state.waiting.clear();
            self.stream.shut_down();
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            let Some(mut bytes) = state.waiting.pop_front() else {
                self.changed.wait(&mut state);
                continue;
            };
            while state.waiting.front().is_some_and(|next| bytes.len() + next.len() <= WRITE_BYTES) {
                bytes.extend(state.waiting.pop_front().unwrap_or_default());
            }
            state.bytes -= bytes.len();
            state.writing = true;
            let written = MutexGuard::unlocked(&mut state, || self.stream.write_sealed(&bytes));
            state.writing = false;
            if let Err(error) = written {
                self.end_locked(&mut state, Some(failed("write to", error)));
            }
        }
    }
}

/// Ends the connection when it is dropped, also by a panic: the writer's thread would wait for ever.
pub(super) struct EndOnDrop(pub Arc<Outgoing>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
