//! The members of a cluster, as a client knows them: addresses, tried one after the other until one can answer.
//!
//! What holds
//! * A member counts as found when it has confirmed, with a majority, that its state has everything that was answered
//!   before. So nothing that this client was told by another member is missing at it (L2), and one that is cut off from
//!   the others is passed by.
//! * A client with a token shows it to no other cluster than the one that it is told, or that first answered it: an authority
//!   of your own may sign for several.
//! * The leader is preferred, where a member says who it is: what is asked there takes one hop less.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::certificate::OwnCertificate;
use super::patience::{Patience, Slot};
use crate::attach::message::Greeting;
use crate::attach::remote::{Question, Remote, FAR_GREETING_WAIT};
use crate::base::{ClusterId, Error, Result};
use crate::net::{Address, Secret, Security};

/// How long one of several members may take to greet.
const OTHERS_WAIT: Duration = Duration::from_secs(2);
/// How long the leader may take to greet: it is preferred, not needed, and it may be the one that hangs.
const LEADER_WAIT: Duration = Duration::from_secs(1);
/// How long a member may take to show that it can answer.
const FRESH_WAIT: Duration = Duration::from_secs(3);

/// Where the members of a cluster serve clients.
pub struct Contacts {
    addresses: Vec<Address>,
    security: Security,
    pub(super) certificate: Option<OwnCertificate>,
    /// What this client shows to say who it is, if not a certificate.
    token: Option<Secret>,
    /// The cluster that answers there, if it was told.
    cluster: Option<ClusterId>,
    /// Which of them to try first.
    next: AtomicUsize,
}

impl Contacts {
    /// # Errors
    /// `Invalid`: no address.
    pub fn new(addresses: Vec<Address>, security: Security) -> Result<Self> {
        if addresses.is_empty() {
            return Err(Error::Invalid("no address of a member: write raftwork://host:port,host:port".into()));
        }
        // Not all clients begin with the same member.
        let next = AtomicUsize::new(std::process::id() as usize % addresses.len());
        let certificate = OwnCertificate::of(&security);
        Ok(Self { addresses, security, certificate, token: None, cluster: None, next })
    }

    /// The same, saying who this client is by a token.
    pub fn with_token(self, token: Option<Secret>) -> Self {
        Self { token, ..self }
    }

    /// The same, of this cluster and no other.
    pub fn of_cluster(self, cluster: Option<ClusterId>) -> Self {
        if let Some(cluster) = cluster {
            self.pin(cluster);
        }
        Self { cluster, ..self }
    }

    fn pin(&self, cluster: ClusterId) {
        if let Security::Tls(tls) = &self.security {
            tls.pin(cluster);
        }
    }

    fn check_cluster(&self, remote: &Remote, address: &Address) -> Result<()> {
        match (self.cluster, remote.cluster()) {
            (Some(told), Some(found)) if told != found => Err(Error::Foreign(format!(
                "{address} is a member of cluster {found}, and cluster_id names {told}; correct the address or the setting"
            ))),
            _ => Ok(()),
        }
    }

    /// The connection that was found ended: the next round begins with another address.
    pub fn pass_by(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }

    /// One round over all addresses. `ended` makes what is to run when the connection that is given is over.
    ///
    /// # Errors
    /// `Busy`: none can answer now. `Unauthenticated`: a member knows that this client may not. Others: all refused it, and
    /// will the next time.
    pub fn find<E: FnOnce() + Send + 'static>(&self, own: &Greeting, ended: impl Fn() -> E) -> Result<Arc<Remote>> {
        let own = &Greeting { token: self.token.clone(), ..own.clone() };
        let first = self.next.load(Ordering::Relaxed) % self.addresses.len();
        let mut failures = Vec::new();
        for number in 0..self.addresses.len() {
            let place = (first + number) % self.addresses.len();
            match self.find_at(&self.addresses[place], own, &ended) {
                Ok(remote) => {
                    self.next.store(place, Ordering::Relaxed);
                    if let Some(cluster) = remote.cluster() {
                        self.pin(cluster);
                    }
                    return Ok(remote);
                }
                Err(error) => failures.push((place, error)),
            }
        }
        self.next.store((first + 1) % self.addresses.len(), Ordering::Relaxed);
        // A member that refuses a token has made sure that it knows the newest ones; others need not be asked.
        if let Some(place) = failures.iter().position(|(_, error)| matches!(error, Error::Unauthenticated(_))) {
            return Err(failures.swap_remove(place).1);
        }
        // All of them refuse this client: trying again does not help.
        if failures.iter().all(|(_, error)| matches!(error, Error::Foreign(_) | Error::Invalid(_))) {
            return Err(failures.swap_remove(0).1);
        }
        let words = failures.iter().map(|(place, error)| format!("{}: {error}", self.addresses[*place]));
        Err(Error::Busy { path: self.to_string(), holder: words.collect::<Vec<_>>().join("; ") })
    }

    fn find_at<E: FnOnce() + Send + 'static>(
        &self,
        address: &Address,
        own: &Greeting,
        ended: &impl Fn() -> E,
    ) -> Result<Arc<Remote>> {
        // Where there are others to ask, one that hangs must not hold up for long.
        let patience = if self.addresses.len() > 1 { OTHERS_WAIT } else { FAR_GREETING_WAIT };
        let remote = self.connect(address, own, patience, ended)?;
        let leader = remote.owner.leader.as_deref().and_then(|leader| Address::parse(leader).ok());
        match leader.map(|leader| self.connect(&leader, own, LEADER_WAIT, ended)) {
            Some(Ok(better)) => {
                remote.end();
                Ok(better)
            }
            _ => Ok(remote),
        }
    }

    fn connect<E: FnOnce() + Send + 'static>(
        &self,
        address: &Address,
        own: &Greeting,
        patience: Duration,
        ended: &impl Fn() -> E,
    ) -> Result<Arc<Remote>> {
        let slot = Slot::new();
        // A member may greet and end before it answers; its question would wait for somebody who takes it over.
        let (over, ended) = (slot.filler(), ended());
        let tell = move || {
            over(Err(Error::Closed));
            ended();
        };
        let remote = Remote::connect_far(address, &self.security, own.clone(), patience, tell)?;
        self.check_cluster(&remote, address).inspect_err(|_| remote.end())?;
        remote.ask(Question::Fresh(slot.filler()));
        match slot.wait(&mut Patience { deadline: Some(Instant::now() + FRESH_WAIT), check: None }) {
            Ok(_) => Ok(remote),
            Err(error) => {
                remote.end();
                Err(error)
            }
        }
    }
}

impl fmt::Display for Contacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(Address::to_string).collect();
        write!(f, "raftwork://{}", addresses.join(","))
    }
}
