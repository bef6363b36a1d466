//! The sending half of a connection: the thread that has something to say sends it, if that does not block.
//!
//! What does not fit into the socket waits in a bounded queue for a thread of its own. So a peer that does not read
//! never blocks whoever answers it; when the queue is full the connection ends.

use crate::base::{limits, Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::net::{send, SendFlags};
use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Bytes that may wait for a slow peer.
const WAITING_BYTES_MAX: usize = limits::INBOX_BYTES_MAX;

/// The sending half of one connection.
pub struct Outgoing {
    stream: Arc<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The writer has taken something out and not written it yet.
    writing: bool,
    ended: bool,
}

impl Outgoing {
    /// Starts the writer.
    pub fn start(stream: Arc<UnixStream>) -> Result<Arc<Self>> {
        let outgoing = Arc::new(Self { stream, state: Mutex::new(State::default()), changed: Condvar::new() });
        let writer = outgoing.clone();
        std::thread::Builder::new()
            .name("raftwork-write".into())
            .spawn(move || writer.run())
            .map_err(|error| Error::disk("start a thread", "raftwork-write", &error))?;
        Ok(outgoing)
    }

    /// Sends one frame, or queues it. Never blocks. After the end it does nothing.
    pub fn send(&self, mut frame: Vec<u8>) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        if state.waiting.is_empty() && !state.writing {
            match send(&*self.stream, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) if sent == frame.len() => return,
                Ok(sent) => drop(frame.drain(..sent)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => return self.end_locked(&mut state),
            }
        }
        state.bytes += frame.len();
        if state.bytes > WAITING_BYTES_MAX {
            return self.end_locked(&mut state);
        }
        state.waiting.push_back(frame);
        self.changed.notify_all();
    }

    /// Ends the connection in both directions.
    pub fn end(&self) {
        self.end_locked(&mut self.state.lock());
    }

    fn end_locked(&self, state: &mut State) {
        if !std::mem::replace(&mut state.ended, true) {
            state.waiting.clear();
            // Fails only if the peer has gone already.
            let _ = self.stream.shutdown(Shutdown::Both);
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            let Some(frame) = state.waiting.pop_front() else {
                self.changed.wait(&mut state);
                continue;
            };
            state.bytes -= frame.len();
            state.writing = true;
            let written = parking_lot::MutexGuard::unlocked(&mut state, || (&*self.stream).write_all(&frame));
            state.writing = false;
            if written.is_err() {
                self.end_locked(&mut state);
            }
        }
    }
}
