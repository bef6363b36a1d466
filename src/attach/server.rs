//! The owner's socket: lets in the processes of the same user, one thread each.

use super::backend::Backend;
use super::message::{self, Greeting};
use super::peer::Peer;
use super::place::Address;
use super::quota::Quotas;
use super::wire::{self, Kind};
use crate::base::sync::Mutex;
use crate::base::{limits, Error, Result};
use crate::net::{Accepted, Listener, ListenerConfig, Outgoing, Seldom, Stream, Tally, SHORT_OF_MEANS};
use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often tokens are looked at: a revocation is in force within a second of its command, with what that takes to come.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Serves attached processes until closed.
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
    /// Which file the socket is: another directory may lie there when it is removed.
    file: (u64, u64),
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// Where clients on other machines are let in.
    far: Arc<Mutex<Option<Listener>>>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    own: Greeting,
    closing: Arc<AtomicBool>,
    stop: OwnedFd,
    peers: Mutex<Peers>,
    quotas: OnceLock<Quotas>,
}

#[derive(Default)]
struct Peers {
    last: u64,
    /// Those of other machines are marked.
    open: BTreeMap<u64, (bool, Arc<Peer>)>,
}

impl Server {
    /// Listens in this directory. Only the holder of its lock may call this: a socket that is there is a dead owner's.
    pub fn start(dir: &Path, backend: Arc<dyn Backend>, own: Greeting) -> Result<Self> {
        let address = Address::of(dir)?;
        let failed = |error: std::io::Error| Error::disk("listen on", address.path.display(), &error);
        match std::fs::remove_file(&address.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&address.path).map_err(failed)?;
        std::fs::set_permissions(&address.path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let closing = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { backend, own, closing, stop, peers: Mutex::default(), quotas: OnceLock::new() });
        let accepting = shared.clone();
        let thread = std::thread::Builder::new()
            .name("raftwork-accept".into())
            .spawn(move || accepting.accept(&listener))
            .map_err(failed)?;
        let path = dir.join(super::place::FILE_NAME);
        let file = file_at(&path).map_err(failed)?;
        Ok(Self { shared, path, file, accepting: Mutex::new(Some(thread)), far: Arc::default() })
    }

    /// Serves clients over the network too, each with at most so many requests a second.
    pub fn listen(&self, config: ListenerConfig, rate: u64) -> Result<()> {
        self.shared.quotas.get_or_init(|| Quotas::new(rate));
        let shared = self.shared.clone();
        *self.far.lock() = Some(Listener::of_strangers(config, move |accepted| shared.let_in_far(accepted))?);
        let shared = self.shared.clone();
        let started = std::thread::Builder::new().name("raftwork-tokens".into()).spawn(move || shared.cut_revoked());
        started.map(drop).map_err(|error| Error::disk("start a thread", "raftwork-tokens", &error))
    }

    /// How the port over the network fares.
    pub fn tally(&self) -> impl Fn() -> Tally + Send + Sync + 'static {
        let far = Arc::downgrade(&self.far);
        move || {
            let far = far.upgrade();
            far.and_then(|far| far.lock().as_ref().map(Listener::tally)).unwrap_or_default()
        }
    }

    /// What to call when the node knows no leader any more: whoever is connected over the network asks another.
    pub fn send_away(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.peers.lock().open.values().filter(|(far, _)| *far).for_each(|(_, peer)| peer.end());
            }
        }
    }

    /// From now on nobody is let in, and errors are not sent: whoever is attached asks the next owner.
    pub fn prepare_to_close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.accepting.lock().take() {
            let _ = thread.join();
        }
        // Before the lock is given back: later it might be the next owner's.
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Ends every connection.
    pub fn close(&self) {
        self.prepare_to_close_once();
        let peers: Vec<_> = self.shared.peers.lock().open.values().map(|(_, peer)| peer.clone()).collect();
        peers.iter().for_each(|peer| peer.end());
        if let Some(far) = self.far.lock().take() {
            far.end();
        }
    }

    fn prepare_to_close_once(&self) {
        if !self.shared.closing.load(Ordering::Acquire) {
            self.prepare_to_close();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let accept = || listener.accept().map(|(stream, _)| self.let_in(stream));
        accept_each(listener, &self.stop, &self.closing, accept);
    }

    fn let_in(self: &Arc<Self>, stream: UnixStream) {
        if self.peers.lock().open.len() >= limits::ATTACHED_PROCESSES_MAX {
            return refuse(&stream, &Error::Overloaded("too many processes are attached".into()));
        }
        let stream = Arc::new(Stream::unix(stream));
        let Ok(outgoing) = Outgoing::start(stream.clone(), limits::WAITING_BYTES_MAX) else { return };
        let (number, peer) = self.add(false, outgoing);
        let shared = self.clone();
        let started = std::thread::Builder::new().name("raftwork-peer".into()).spawn(move || {
            peer.serve(&stream, &shared.own);
            shared.peers.lock().open.remove(&number);
        });
        if let Err(error) = started {
            log::warn!("a process could not attach: {error}");
            self.peers.lock().open.remove(&number);
        }
    }
}

impl Shared {
    fn add(&self, far: bool, outgoing: Arc<Outgoing>) -> (u64, Arc<Peer>) {
        let peer = Peer::new(self.backend.clone(), outgoing, self.closing.clone());
        let mut peers = self.peers.lock();
        peers.last += 1;
        let number = peers.last;
        peers.open.insert(number, (far, peer.clone()));
        (number, peer)
    }

    /// Cuts the connections of tokens that were revoked or have expired, until it closes.
    fn cut_revoked(&self) {
        let mut stop = [PollFd::new(&self.stop, PollFlags::IN)];
        while !self.closing.load(Ordering::Acquire) {
            let connected: Vec<_> = self.peers.lock().open.values().map(|(_, peer)| peer.clone()).collect();
            for peer in connected {
                let Some(who) = peer.principal() else { continue };
                if who.token().is_some_and(|token| self.backend.principal(token).is_none()) {
                    log::info!("a connection of {} was cut: its token was revoked or has expired", who.name());
                    peer.end();
                }
            }
            let _ = poll(&mut stop, Some(&LOOK_EVERY));
        }
    }

    /// Serves a client of another machine on the thread of its connection.
    fn let_in_far(&self, accepted: Accepted) {
        let (number, peer) = self.add(true, accepted.outgoing.clone());
        let quotas = self.quotas.get_or_init(|| Quotas::new(limits::CLIENT_RATE));
        peer.serve_far(accepted, &self.own, quotas);
        self.peers.lock().open.remove(&number);
    }
}

/// Accepts whenever somebody comes, until it closes.
fn accept_each(
    listener: &impl AsFd,
    stop: &OwnedFd,
    closing: &AtomicBool,
    mut accept: impl FnMut() -> std::io::Result<()>,
) {
    let complaints = Seldom::new(10, Duration::from_secs(60));
    let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return log::error!("the socket of the data directory failed: {error}"),
        }
        if closing.load(Ordering::Acquire) {
            return;
        }
        match accept().map_err(|error| (error.kind(), error)) {
            Ok(()) | Err((ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted, _)) => {}
            Err((_, error)) => {
                complaints.warn(format_args!("a process could not attach: {error}"));
                // Too many open files, most of all. What is lacking comes back when others end.
                let _ = poll(&mut fds[..1], Some(&SHORT_OF_MEANS));
            }
        }
    }
}

/// Device and number of the file with this name.
fn file_at(path: &Path) -> std::io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn refuse(mut stream: &UnixStream, error: &Error) {
    if let Ok(frame) = wire::encode(Kind::Refused, 0, &message::encode_error(error)) {
        // The words fit into the empty buffer of a new socket; a peer that has gone does not read them.
        let _ = stream.write_all(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn whoever_cannot_be_accepted_is_not_tried_without_a_pause() {
        let (listener, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"somebody waits").unwrap();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (closing, began, mut tries) = (AtomicBool::new(false), Instant::now(), 0);
        accept_each(&listener, &stop, &closing, || {
            tries += 1;
            closing.store(tries == 3, Ordering::Release);
            // Too many open files.
            Err(std::io::Error::from_raw_os_error(24))
        });
        let least = Duration::from_millis(2 * limits::ACCEPT_PAUSE_MS);
        assert!(began.elapsed() >= least, "three tries in {:?}", began.elapsed());
    }
}
