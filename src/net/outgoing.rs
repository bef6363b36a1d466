//! The sending half of a connection: the thread that has something to say sends it, if that does not block.
//!
//! What holds
//! * Frames leave in the order in which they were given. One thread sends at a time, and what others give meanwhile it takes
//!   along: under load many frames share one call of the system, and one record of TLS.
//! * What does not fit into the socket waits in a bounded queue for a thread of its own. So a peer that does not read never
//!   blocks whoever answers it; when the queue is full the connection ends (`send`) or the frame is dropped (`offer`).
//! * What one thread sends within `together` leaves at its end, in one piece for each connection.

use super::packet::failed;
use super::Stream;
use crate::base::sync::{Condvar, Mutex, MutexGuard};
use crate::base::{Error, Result};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Waiting frames that are smaller together go out in one write.
const WRITE_BYTES: usize = 64 << 10;
/// Writes that a thread does for others before the connection's own takes over.
const WRITES_FOR_OTHERS: usize = 16;

thread_local! {
    /// Connections that this thread has given something within `together`.
    static GATHERING: RefCell<Option<Vec<Arc<Outgoing>>>> = const { RefCell::new(None) };
}

/// The sending half of one connection.
pub struct Outgoing {
    stream: Arc<Stream>,
    /// Bytes that may wait for a slow peer.
    waiting_bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
    me: Weak<Outgoing>,
}

#[derive(Default)]
struct State {
    /// Frames, in order.
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Part of what goes over the wire, which did not fit into the socket. Left to the writer.
    left: Vec<u8>,
    /// Somebody sends, or the writer is about to.
    sending: bool,
    /// The writer is to go on.
    writer: bool,
    ended: bool,
    /// Why it ended, if that was found out here.
    failure: Option<Error>,
}

/// What is sent by this thread meanwhile leaves afterwards, many frames at once.
pub fn together<R>(work: impl FnOnce() -> R) -> R {
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            let gathered = GATHERING.take().unwrap_or_default();
            gathered.into_iter().for_each(|outgoing| outgoing.flush());
        }
    }
    if GATHERING.with_borrow(Option::is_some) {
        return work();
    }
    GATHERING.set(Some(Vec::new()));
    let _release = Release;
    work()
}

impl Outgoing {
    /// Starts the writer. From now on nobody else may write to the stream.
    pub fn start(stream: Arc<Stream>, waiting_bytes_max: usize) -> Result<Arc<Self>> {
        let (state, changed) = (Mutex::new(State::default()), Condvar::new());
        let outgoing = Arc::new_cyclic(|me| Self { stream, waiting_bytes_max, state, changed, me: me.clone() });
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
        state.bytes += frame.len();
        state.waiting.push_back(frame);
        if !state.sending && !self.gather() {
            self.flush_locked(state);
        }
    }

    /// Whether this thread flushes later.
    fn gather(&self) -> bool {
        GATHERING.with_borrow_mut(|gathering| {
            let Some(gathered) = gathering else { return false };
            if !gathered.iter().any(|other| std::ptr::eq(&**other, self)) {
                gathered.extend(self.me.upgrade());
            }
            true
        })
    }

    /// Frames only queue until the guard is dropped, and leave in one piece then. Nothing: somebody sends, and takes them
    /// along.
    pub fn hold(&self) -> Option<Held<'_>> {
        let mut state = self.state.lock();
        if state.sending || state.ended {
            return None;
        }
        state.sending = true;
        Some(Held(self))
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        if !state.sending && !state.ended {
            self.flush_locked(&mut state);
        }
    }

    /// Sends what waits, also what others give meanwhile, as long as it does not block.
    fn flush_locked(&self, state: &mut MutexGuard<'_, State>) {
        state.sending = true;
        for _ in 0..WRITES_FOR_OTHERS {
            let Some(bytes) = self.take(state) else {
                state.sending = false;
                return;
            };
            match MutexGuard::unlocked(state, || self.stream.send_sealed(&bytes)) {
                Ok(sent) if sent == bytes.len() => {}
                Ok(sent) => state.left = bytes[sent..].to_vec(),
                Err(Errno::AGAIN | Errno::INTR) => state.left = bytes,
                Err(error) => self.end_locked(state, Some(failed("write to", error.into()))),
            }
            if !state.left.is_empty() {
                break;
            }
        }
        state.writer = true;
        self.changed.notify_all();
    }

    /// The next piece as it goes over the wire. Nothing: all is sent, or it is over.
    fn take(&self, state: &mut State) -> Option<Vec<u8>> {
        if state.ended {
            return None;
        }
        let mut bytes = state.waiting.pop_front()?;
        while state.waiting.front().is_some_and(|next| bytes.len() + next.len() <= WRITE_BYTES) {
            bytes.extend(state.waiting.pop_front().unwrap_or_default());
        }
        state.bytes -= bytes.len();
        match self.stream.seal(bytes) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.end_locked(state, Some(failed("write to", error)));
                None
            }
        }
    }

    /// Waits until what was sent so far has left, or the connection has ended, or the time is over.
    pub fn drain(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        while !state.ended && (state.sending || !state.waiting.is_empty()) {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Waits so long, or until the connection has ended. True: it has.
    pub fn wait_ended(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        let mut state = self.state.lock();
        while !state.ended && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.ended
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
            if !state.sending {
                // A peer that cannot take these few bytes does without them.
                while let Some(frame) = state.waiting.pop_front() {
                    let _ = self.stream.seal(frame).map(|bytes| self.stream.send_sealed(&bytes));
                }
                let _ = self.stream.send_sealed(&self.stream.seal_end());
            }
            state.waiting.clear();
            self.stream.shut_down();
            self.changed.notify_all();
        }
    }

    /// The life of the writer: waits until something does not fit, then sends until nothing is left.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            while !state.writer && !state.ended {
                self.changed.wait(&mut state);
            }
            if state.ended {
                return;
            }
            let left = std::mem::take(&mut state.left);
            let bytes = if left.is_empty() { self.take(&mut state) } else { Some(left) };
            let Some(bytes) = bytes else {
                (state.writer, state.sending) = (false, false);
                self.changed.notify_all();
                continue;
            };
            let written = MutexGuard::unlocked(&mut state, || self.stream.write_sealed(&bytes));
            if let Err(error) = written {
                self.end_locked(&mut state, Some(failed("write to", error)));
            }
        }
    }
}

/// See `Outgoing::hold`.
pub struct Held<'a>(&'a Outgoing);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.flush_locked(&mut self.0.state.lock());
    }
}

/// Ends the connection when it is dropped, also by a panic: the writer's thread would wait for ever.
pub(super) struct EndOnDrop(pub Arc<Outgoing>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_drained_arrives_whole_before_the_end() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let outgoing = Outgoing::start(Arc::new(Stream::unix(near)), 8 << 20).unwrap();
        outgoing.send(vec![7; 4 << 20]); // More than a socket takes at once.
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all.len())
        });
        outgoing.drain(Duration::from_secs(60));
        outgoing.end();
        assert_eq!(reader.join().unwrap().unwrap(), 4 << 20);
    }

    #[test]
    fn frames_that_are_held_leave_in_one_piece_when_the_hold_ends() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        let outgoing = Outgoing::start(Arc::new(Stream::unix(near)), 1 << 20).unwrap();
        let held = outgoing.hold();
        assert!(held.is_some() && outgoing.hold().is_none(), "one holds at a time");
        outgoing.send(vec![1; 8]);
        together(|| outgoing.send(vec![2; 8]));
        assert_eq!(far.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(held);
        assert_eq!(far.read(&mut buffer).unwrap(), 16);
        outgoing.send(vec![3; 8]);
        assert_eq!(far.read(&mut buffer).unwrap(), 8, "nothing is held any more");
        outgoing.end();
        assert!(outgoing.hold().is_none());
    }
}
