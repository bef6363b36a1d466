//! What a node is told when it opens. Every setting has a default that is safe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::SystemClock;
use crate::base::{limits, Clock, ClusterId, Error, GroupId, Result};
use crate::disk::{Disk, RealDisk};
use crate::machine::Bounds;
use crate::net::{Address, Admit, ListenerConfig, Security};
use crate::replica::ELECTION_TICKS;

/// How long a new node waits for the other members, unless it is told otherwise.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a node takes to stop and to start again, and shorter than a call may take unless it is told otherwise.
const OWNER_PATIENCE: Duration = Duration::from_secs(20);

/// Silence of the leader until an election, unless it is told otherwise.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How a node is one of several.
#[derive(Clone)]
pub struct ClusterConfig {
    /// Where this node listens for other members. Other members reach it there, unless `advertise` says otherwise.
    pub listen: Address,
    /// Where this node listens for clients. Nothing: the next port.
    pub listen_clients: Option<Address>,
    /// Where others reach what listens at `listen`, if they see it at another address.
    pub advertise: Option<Address>,
    pub advertise_clients: Option<Address>,
    /// Where the first members listen for each other, this one included; the same list for all of them. With `joins`: members
    /// of the group to join. Nobody: this node begins a group. A node that has data looks there for the members that it
    /// knows, when none answers where it was.
    pub members: Vec<Address>,
    /// This node joins a group that there is already, and never begins one.
    pub joins: bool,
    /// What people call this node. Nothing: the address where others reach it.
    pub name: Option<String>,
    /// How long a new node waits for the others before it gives up.
    pub patience: Duration,
    /// Silence of the leader until an election begins; up to twice this, drawn.
    pub election_timeout: Duration,
    /// Bytes of a state that go to another member within a second.
    pub snapshot_rate: u64,
    /// How bytes between machines are protected.
    pub security: Security,
    /// SHA-256 of a token that may do everything in the group that this node begins.
    pub first_token: Option<[u8; 32]>,
    /// Requests a second of one client, by its name, at this node.
    pub client_rate: u64,
    /// Connections of clients at this node.
    pub clients_max: usize,
    /// Bytes of entries that stay in memory for members that fell behind.
    pub log_bytes_for_peers: usize,
}

impl ClusterConfig {
    /// A member that listens here, without protection and so only on this machine.
    pub fn new(listen: Address, members: Vec<Address>) -> Self {
        Self {
            listen,
            listen_clients: None,
            advertise: None,
            advertise_clients: None,
            members,
            joins: false,
            name: None,
            patience: JOIN_PATIENCE,
            election_timeout: ELECTION_TIMEOUT,
            snapshot_rate: limits::SNAPSHOT_BYTES_PER_SECOND,
            security: Security::Plain,
            first_token: None,
            client_rate: limits::CLIENT_RATE,
            clients_max: limits::CONNECTIONS_MAX,
            log_bytes_for_peers: limits::LOG_BYTES_FOR_PEERS,
        }
    }

    /// One tick of the election clock.
    pub fn tick(&self) -> Duration {
        self.election_timeout / ELECTION_TICKS as u32
    }

    /// Where clients of this node are listened for.
    pub fn clients(&self) -> Result<Address> {
        match &self.listen_clients {
            Some(address) => Ok(address.clone()),
            None => next_port(&self.listen),
        }
    }

    /// How to listen for clients.
    pub fn clients_listener(&self) -> Result<ListenerConfig> {
        let config = ListenerConfig::new("the clients' port", self.clients()?, self.security.clone(), Admit::ANYBODY);
        Ok(ListenerConfig { connections_max: self.clients_max, ..config })
    }

    /// Where other members reach this node.
    pub fn reached(&self) -> Address {
        self.advertise.clone().unwrap_or_else(|| self.listen.clone())
    }

    /// Where clients reach this node.
    pub fn clients_reached(&self) -> Result<Address> {
        match (&self.advertise_clients, &self.advertise) {
            (Some(address), _) => Ok(address.clone()),
            (None, Some(address)) if self.listen_clients.is_none() => next_port(address),
            _ => self.clients(),
        }
    }

    /// What people call this node.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.reached().to_string())
    }
}

/// The address beside this one, for clients, where nobody named another.
pub fn next_port(address: &Address) -> Result<Address> {
    match address.port().checked_add(1) {
        Some(port) if address.port() > 0 => Ok(address.with_port(port)),
        _ => Err(Error::Invalid(format!("{address} has no next port for clients; name one with listen_clients"))),
    }
}

/// Settings of one node.
#[derive(Clone)]
pub struct NodeConfig {
    /// The data directory; made (0700) when it does not exist. One process at a time owns it.
    pub dir: PathBuf,
    /// The cluster and the group that the directory must hold. Nothing: whatever it holds, or a new one.
    pub expected: Option<(ClusterId, GroupId)>,
    /// How the node is one of several. Nothing: it is alone, and no other machine can reach it.
    pub cluster: Option<ClusterConfig>,
    /// How long calls of a process without `cluster` wait for the owner of a member's directory, which that process must
    /// not open itself.
    pub owner_patience: Duration,
    /// Bytes of one segment of the log, 64 KiB or more. Smaller ones are dropped sooner, and cost more files.
    pub segment_bytes: usize,
    /// Bytes of log since the last snapshot that start the next one (a larger state waits for half its size).
    pub snapshot_bytes: u64,
    /// Bytes of log since the last snapshot at which writers wait for it.
    pub log_bytes_max: u64,
    /// What the state may hold before this node lets no more jobs in. Better the same on all members of a cluster.
    pub bounds: Bounds,
    /// Where probes and metrics are answered over HTTP. Nothing: nowhere.
    pub health_listen: Option<Address>,
    /// Whether metrics are answered there to other machines too, without encryption.
    pub metrics_open: bool,
    /// Whether finished jobs move to the archive in `dir/archive`. Without it they stay in memory.
    pub archive: bool,
    /// Requests that may wait in the inbox.
    pub inbox_requests_max: usize,
    /// Bytes that may wait in the inbox.
    pub inbox_bytes_max: usize,
    /// Where the log and the snapshots live. Tests pass one that loses power.
    pub disk: Arc<dyn Disk>,
    /// Where the node reads the time. Tests pass one that they move by hand.
    pub clock: Arc<dyn Clock>,
}

impl NodeConfig {
    /// The defaults, for the data in this directory.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_path_buf(),
            expected: None,
            cluster: None,
            owner_patience: OWNER_PATIENCE,
            segment_bytes: limits::SEGMENT_BYTES,
            snapshot_bytes: limits::LOG_BYTES_SNAPSHOT,
            log_bytes_max: limits::LOG_BYTES_MAX,
            bounds: Bounds::default(),
            health_listen: None,
            metrics_open: false,
            archive: true,
            inbox_requests_max: limits::INBOX_REQUESTS_MAX,
            inbox_bytes_max: limits::INBOX_BYTES_MAX,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
        }
    }

    /// Refuses settings that cannot work together.
    pub fn validate(&self) -> Result<()> {
        if self.snapshot_bytes == 0 || self.snapshot_bytes > self.log_bytes_max {
            return Err(Error::Invalid(format!(
                "snapshot_bytes must be from 1 to log_bytes_max ({}), not {}",
                self.log_bytes_max, self.snapshot_bytes
            )));
        }
        if self.inbox_requests_max == 0 || self.inbox_bytes_max == 0 {
            return Err(Error::Invalid("the inbox must have room for at least one request".into()));
        }
        Ok(())
    }
}
