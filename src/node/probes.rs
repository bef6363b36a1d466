//! `/livez`, `/readyz` and `/metrics`, where `health_listen` says so.
//!
//! What holds
//! * `/livez` fails only when the node stopped by itself: to start a process again that has merely lost its leader makes
//!   things worse.
//! * `/readyz` is good while the node knows a leader, its state is close to what is committed and certainly not old, its disk
//!   has room, and it neither failed nor closes nor waits for the first members of its cluster.
//! * Neither says more than that.
//! * `/metrics` names queues and schedules, and this port has no encryption: beyond this machine it is answered only if
//!   `metrics_open` says so besides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::{Node, Shared};
use crate::base::{limits, Result};
use crate::net::web::{Answer, Web};
use crate::net::{Address, Tally};

/// The media type of the text format of Prometheus.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const WORDS: &str = "text/plain; charset=utf-8";

/// How a port fares.
pub(super) type AskTally = Arc<dyn Fn() -> Tally + Send + Sync>;

/// To whoever may not read the metrics.
const NOT_TOLD: &str =
    "Metrics are not told to other machines without encryption. Let health_listen name a loopback address, or set \
     metrics_open=true as well.\n";

/// Answers before the node is open, and after.
#[derive(Default)]
pub(super) struct Probes {
    node: OnceLock<Weak<Shared>>,
    /// Whether whoever reaches the port may read the metrics.
    tells: AtomicBool,
}

impl Probes {
    /// From now on the node is asked.
    pub fn open(&self, shared: &Arc<Shared>) {
        // Set once: a node is opened once.
        let _ = self.node.set(Arc::downgrade(shared));
    }

    fn answer(&self, path: &str) -> Option<Answer> {
        let node = self.node.get().map(Weak::upgrade);
        match (path, node) {
            ("/livez", None) => Some(Answer::verdict(true)), // It reads its log.
            ("/livez", Some(node)) => Some(Answer::verdict(node.is_some_and(|node| node.failure.lock().is_none()))),
            ("/readyz", Some(Some(node))) => Some(Answer::verdict(node.is_ready())),
            ("/metrics", _) if !self.tells.load(Ordering::Acquire) => {
                Some(Answer { status: 403, content_type: WORDS, body: NOT_TOLD.into() })
            }
            ("/metrics", Some(Some(node))) => {
                Some(Answer { status: 200, content_type: TEXT_FORMAT, body: node.metrics().into_bytes() })
            }
            ("/readyz" | "/metrics", _) => Some(Answer::verdict(false)),
            _ => None,
        }
    }
}

/// Answers at this address. `open`: metrics too, whoever asks.
pub(super) fn serve(address: &Address, open: bool, probes: &Arc<Probes>) -> Result<Web> {
    let answering = probes.clone();
    let web = Web::start(address, move |path| answering.answer(path))?;
    let is_here = web.address().ip().is_loopback();
    probes.tells.store(open || is_here, Ordering::Release);
    match (is_here, open) {
        (true, _) => log::info!("probes and metrics at http://{}", web.address()),
        (false, false) => log::info!("probes at http://{}, metrics to nobody: {NOT_TOLD}", web.address()),
        (false, true) => log::warn!(
            "probes at http://{}, and metrics to whoever reaches it, without encryption (metrics_open)",
            web.address()
        ),
    }
    Ok(web)
}

impl Node {
    /// Whether the node should get traffic.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Where probes are answered, with the port that was found if any would do.
    pub fn health_address(&self) -> Option<std::net::SocketAddr> {
        self.shared.web.lock().as_ref().map(Web::address)
    }

    /// Tells how the port for clients fares.
    pub fn tell_of_clients(&self, tally: impl Fn() -> Tally + Send + Sync + 'static) {
        *self.shared.clients_port.lock() = Some(Arc::new(tally));
    }
}

impl Shared {
    pub(super) fn is_ready(&self) -> bool {
        let figures = self.figures.lock();
        let lag = figures.committed.0.saturating_sub(figures.applied.0);
        let works = figures.leader.is_some() && !figures.full && lag <= limits::READY_LAG_ENTRIES;
        drop(figures);
        let known = self.staleness().is_some_and(|age| age.0 <= limits::READY_STALENESS_MS);
        works
            && known
            && self.awaited_voters() == 0
            && !self.in_doubt.load(Ordering::Acquire)
            && !self.draining.load(Ordering::Acquire)
            && self.inbox.stopped().is_none()
    }

    /// How each port fares.
    pub(super) fn tallies(&self) -> Vec<(&'static str, Tally)> {
        let members = self.listener.lock().as_ref().map(|listener| ("members", listener.tally()));
        let ask = self.clients_port.lock().clone();
        members.into_iter().chain(ask.map(|ask| ("clients", ask()))).collect()
    }
}
