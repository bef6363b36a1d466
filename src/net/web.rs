//! The smallest web server there is: answers GET and HEAD of a few paths, and closes. For probes and for metrics.
//!
//! What holds
//! * One thread for all: somebody slow holds up nobody. A connection has `HEALTH_MS` for all that it does, and the oldest
//!   makes room when there are `HEALTH_CONNECTIONS_MAX`.
//! * Of a request its first line is looked at, and nothing longer than `HEALTH_HEAD_BYTES_MAX` is kept. What follows is
//!   thrown away.
//! * It says nothing that the path does not ask for: neither its name nor its version.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::sync::Mutex;
use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};

use super::inherited::Noted;
use super::Address;
use crate::base::{limits, Error, Result};

/// All that one connection may take.
const PATIENCE: Duration = Duration::from_millis(limits::HEALTH_MS);
/// Bytes that are read and thrown away after an answer, so that it is not lost by closing too soon.
const DRAINED_BYTES_MAX: usize = 64 << 10;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Of the body.
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    /// No words, only whether.
    pub fn verdict(good: bool) -> Self {
        Self::bare(if good { 200 } else { 503 })
    }

    fn bare(status: u16) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: Vec::new() }
    }

    fn encode(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
             Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        if with_body {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Answers until it is ended or dropped.
pub struct Web {
    closing: Arc<AtomicBool>,
    stop: Arc<OwnedFd>,
    address: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

type Find = dyn Fn(&str) -> Option<Answer> + Send;

impl Web {
    /// Listens. `find` gives the answer for a path, without what follows a `?`; nothing: there is no such path. It runs on
    /// the one thread there is, so it must not wait for long.
    pub fn start(address: &Address, find: impl Fn(&str) -> Option<Answer> + Send + 'static) -> Result<Self> {
        let failed = |error: std::io::Error| Error::disk("listen at", address, &error);
        let listener = TcpListener::bind(&address.resolve()?[..]).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?);
        let closing = Arc::new(AtomicBool::new(false));
        let room = Room {
            closing: closing.clone(),
            stop: stop.clone(),
            find: Box::new(find),
            guests: Vec::new(),
            accepts_from: None,
        };
        let thread = std::thread::Builder::new()
            .name("raftwork-health".into())
            .spawn(move || room.serve(&listener))
            .map_err(|error| Error::disk("start a thread", "raftwork-health", &error))?;
        Ok(Self { closing, stop, address: bound, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was found if any would do.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives the port free.
    pub fn end(&self) {
        self.closing.store(true, Ordering::Release);
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread has.
struct Room {
    closing: Arc<AtomicBool>,
    stop: Arc<OwnedFd>,
    find: Box<Find>,
    /// The oldest first.
    guests: Vec<Guest>,
    /// There were no means to let anybody in: until then nobody is.
    accepts_from: Option<Instant>,
}

struct Guest {
    /// Before the socket, as its number is another's when that is closed.
    _noted: Noted,
    stream: TcpStream,
    until: Instant,
    stage: Stage,
}

enum Stage {
    /// What came of its request so far.
    Asks(Vec<u8>),
    /// What is left to be sent.
    Hears(Vec<u8>),
    /// It has everything; bytes that may still come.
    Leaves(usize),
}

impl Room {
    fn serve(mut self, listener: &TcpListener) {
        let _noted = Noted::of(listener);
        while !self.closing.load(Ordering::Acquire) {
            let ready = self.wait(listener);
            let now = Instant::now();
            let mut ready = ready.into_iter();
            let find = &self.find;
            self.guests.retain_mut(|guest| {
                let ready = ready.next().unwrap_or(false);
                guest.until > now && (!ready || guest.step(find))
            });
            self.let_in(listener);
        }
    }

    /// Waits for anything; tells of each guest whether it can go on.
    fn wait(&self, listener: &TcpListener) -> Vec<bool> {
        // Without means for whoever comes, that somebody comes is no news.
        let news = if self.accepts_from.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(listener, news)];
        fds.extend(self.guests.iter().map(|guest| PollFd::new(&guest.stream, guest.stage.waits_for())));
        let first = self.guests.first().map(|guest| guest.until).into_iter().chain(self.accepts_from).min();
        // A little longer, so that it is over then.
        let timeout = first
            .map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => fds[2..].iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn let_in(&mut self, listener: &TcpListener) {
        if self.accepts_from.is_some_and(|from| Instant::now() < from) {
            return;
        }
        self.accepts_from = None;
        // No more at once than there are places, so that those who are in get their turn.
        for _ in 0..limits::HEALTH_CONNECTIONS_MAX {
            let stream = match listener.accept().map_err(|error| error.kind()) {
                Ok((stream, _)) => stream,
                Err(ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => return,
                Err(_) => {
                    // Too many open files, most of all.
                    self.accepts_from = Some(Instant::now() + Duration::from_millis(limits::ACCEPT_PAUSE_MS));
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.guests.len() >= limits::HEALTH_CONNECTIONS_MAX {
                self.guests.remove(0);
            }
            let until = Instant::now() + PATIENCE;
            self.guests.push(Guest { _noted: Noted::of(&stream), stream, until, stage: Stage::Asks(Vec::new()) });
        }
    }
}

impl Stage {
    fn waits_for(&self) -> PollFlags {
        match self {
            Stage::Hears(_) => PollFlags::OUT,
            Stage::Asks(_) | Stage::Leaves(_) => PollFlags::IN,
        }
    }
}

impl Guest {
    /// Goes on as far as it can. False: it is over.
    fn step(&mut self, find: &Find) -> bool {
        loop {
            let done = match &mut self.stage {
                Stage::Asks(head) => match read_some(&mut self.stream, head) {
                    Some(true) => {
                        if let Some(answer) = answer(head, find) {
                            self.stage = Stage::Hears(answer);
                        }
                        continue;
                    }
                    other => other,
                },
                Stage::Hears(left) if left.is_empty() => {
                    if self.stream.shutdown(Shutdown::Write).is_err() {
                        return false;
                    }
                    self.stage = Stage::Leaves(DRAINED_BYTES_MAX);
                    continue;
                }
                Stage::Hears(left) => match self.stream.write(left) {
                    Ok(written) => {
                        left.drain(..written);
                        continue;
                    }
                    Err(error) => may_go_on(&error),
                },
                Stage::Leaves(left) => {
                    let mut thrown_away = [0; 4 << 10];
                    match self.stream.read(&mut thrown_away) {
                        Ok(0) => None,
                        Ok(bytes) if bytes < *left => {
                            *left -= bytes;
                            continue;
                        }
                        Ok(_) => None,
                        Err(error) => may_go_on(&error),
                    }
                }
            };
            return done.is_some();
        }
    }
}

/// True: more came. False: nothing yet. Nothing: it is over.
fn read_some(stream: &mut TcpStream, head: &mut Vec<u8>) -> Option<bool> {
    let mut buffer = [0; 1 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => None,
        Ok(bytes) => {
            head.extend_from_slice(&buffer[..bytes]);
            Some(true)
        }
        Err(error) => may_go_on(&error),
    }
}

fn may_go_on(error: &std::io::Error) -> Option<bool> {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted).then_some(false)
}

/// The answer to a request, once its head is whole.
pub fn answer(head: &[u8], find: &(impl Fn(&str) -> Option<Answer> + ?Sized)) -> Option<Vec<u8>> {
    let whole = head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n");
    if !whole {
        return (head.len() > limits::HEALTH_HEAD_BYTES_MAX).then(|| Answer::bare(431).encode(true));
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words = std::str::from_utf8(line).unwrap_or_default().trim_end_matches('\r');
    let mut words = words.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next()) else {
        return Some(Answer::bare(400).encode(true));
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Some(Answer::bare(400).encode(true));
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Some(Answer::bare(405).encode(true)),
    };
    let path = target.split('?').next().unwrap_or_default();
    Some(find(path).unwrap_or_else(|| Answer::bare(404)).encode(with_body))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn whoever_cannot_be_let_in_is_not_tried_without_a_pause() {
        // Something comes, and it cannot be accepted: as when no descriptor is left.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"somebody waits", socket.local_addr().unwrap()).unwrap();
        let listener = TcpListener::from(OwnedFd::from(socket));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let (closing, find) = (Arc::default(), Box::new(|_: &str| None::<Answer>));
        let mut room = Room { closing, stop, find, guests: Vec::new(), accepts_from: None };
        assert!(room.wait(&listener).is_empty(), "it is there at once");
        let began = Instant::now();
        room.let_in(&listener);
        room.wait(&listener);
        let pause = Duration::from_millis(limits::ACCEPT_PAUSE_MS);
        assert!(began.elapsed() >= pause, "tried again after {:?}", began.elapsed());
        room.let_in(&listener);
        assert!(room.accepts_from.is_some_and(|from| from >= began + 2 * pause), "it was tried again");
    }
}
