//! The options of the doors: MessagePack maps with text keys. An unknown key is refused, not ignored.

use crate::base::codec::Reader;
use crate::base::{limits, ClusterId, Error, Millis, Result};
use crate::client::contacts::Contacts;
use crate::client::fetcher::Wish;
use crate::client::reading::{Consistency, Reading};
use crate::client::Options;
use crate::net::{Address, Secret, Security, Tls};
use crate::node::{ClusterConfig, NodeConfig};
use std::path::Path;
use std::time::Duration;

/// How long an owner that is starting may take before others give up.
const OPEN_TIMEOUT_MS: u64 = 30_000;

/// How long a member may take to say how it is.
const LOOK_TIMEOUT_MS: u64 = 3_000;

/// Sessions may live from half a second to an hour without a sign of life.
const TTL_MS: std::ops::RangeInclusive<u64> = 500..=3_600_000;

/// Silence of the leader until an election, and bytes a second of a state on its way to another node.
const ELECTION_MS: std::ops::RangeInclusive<u64> = 200..=60_000;
const SNAPSHOT_RATE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 34;

/// What the state may hold, connections of clients, and log for members that fell behind.
const JOBS: std::ops::RangeInclusive<u64> = 1..=limits::JOBS_MAX as u64;
const STATE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=limits::MACHINE_BYTES_MAX;
const CLIENTS: std::ops::RangeInclusive<u64> = 1..=1 << 16;
const FOLLOWER_LOG_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 34;

fn within(range: std::ops::RangeInclusive<u64>, name: &str, number: u64) -> Result<u64> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(Error::Invalid(format!("{name} is from {} to {}, not {number}", range.start(), range.end())))
}

/// Walks over a map; `take` reads the value of a key it knows.
fn each_key(bytes: &[u8], mut take: impl FnMut(&str, &mut Reader<'_>) -> Result<bool>) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    for _ in 0..reader.map()? {
        let key = reader.str()?;
        if !take(key, &mut reader)? {
            return Err(Error::Invalid(format!("no option is named {key}")));
        }
    }
    reader.end()
}

fn ttl(reader: &mut Reader<'_>) -> Result<Millis> {
    check_ttl(reader.u64()?)
}

/// The time to live of a lock, if it has one of its own. Its name is checked here, as the machine would refuse it later.
pub fn lock(name: &str, ttl_ms: Option<u64>) -> Result<Option<Millis>> {
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::Invalid("a lock's name has 1 to 255 bytes and no control characters".into()));
    }
    ttl_ms.map(check_ttl).transpose()
}

fn check_ttl(ttl: u64) -> Result<Millis> {
    if TTL_MS.contains(&ttl) {
        return Ok(Millis(ttl));
    }
    Err(Error::Invalid(format!("ttl_ms is from {} to {}, not {ttl}", TTL_MS.start(), TTL_MS.end())))
}

fn labels(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>> {
    let mut labels = Vec::new();
    for _ in 0..reader.map()? {
        labels.push((reader.str()?.to_owned(), reader.str()?.to_owned()));
    }
    labels.sort();
    Ok(labels)
}

/// What any client may be told.
fn common(options: &mut Options, key: &str, reader: &mut Reader<'_>) -> Result<bool> {
    match key {
        "ttl_ms" => options.ttl = ttl(reader)?,
        "kind" => {
            options.kind = match reader.str()? {
                kind @ ("client" | "worker") => kind.to_owned(),
                other => return Err(Error::Invalid(format!("kind is client or worker, not {other}"))),
            }
        }
        "labels" => options.labels = labels(reader)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// What protects connections to other machines, as options say it.
#[derive(Default)]
struct Protection {
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    insecure: bool,
    token: Option<Secret>,
    cluster: Option<ClusterId>,
}

impl Protection {
    fn take(&mut self, key: &str, reader: &mut Reader<'_>) -> Result<bool> {
        let file = match key {
            "tls_ca" => &mut self.ca,
            "tls_certificate" => &mut self.certificate,
            "tls_key" => &mut self.key,
            "token" => {
                self.token = Some(Secret::parse(reader.str()?)?);
                return Ok(true);
            }
            "cluster_id" => {
                let cluster = ClusterId::parse(reader.str()?);
                self.cluster =
                    Some(cluster.ok_or_else(|| Error::Invalid("cluster_id has 32 hexadecimal digits".into()))?);
                return Ok(true);
            }
            "insecure" => {
                self.insecure = reader.bool()?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *file = Some(reader.str()?.to_owned());
        Ok(true)
    }

    /// What protects the connections of a client, and the token that it shows.
    fn of_client(mut self) -> Result<(Security, Option<Secret>)> {
        let (token, cluster) = (self.token.take(), self.cluster);
        let shown = token.is_some() && self.certificate.is_none() && self.key.is_none() && !self.insecure;
        let security = match self.ca.clone().filter(|_| shown) {
            Some(ca) => Security::Tls(Tls::of_authority(Path::new(&ca))?),
            None => self.security()?,
        };
        if let (Security::Tls(tls), Some(cluster)) = (&security, cluster) {
            tls.pin(cluster);
        }
        Ok((security, token))
    }

    fn security(self) -> Result<Security> {
        if self.token.is_some() {
            return Err(Error::Invalid("a token is for clients; a node has its certificate".into()));
        }
        match (self.ca, self.certificate, self.key, self.insecure) {
            (Some(ca), Some(certificate), Some(key), false) => {
                Ok(Security::Tls(Tls::from_files(Path::new(&ca), Path::new(&certificate), Path::new(&key))?))
            }
            (None, None, None, false) => Ok(Security::Plain),
            (None, None, None, true) => Ok(Security::Insecure),
            (_, _, _, true) => Err(Error::Invalid("certificates and insecure together: choose one".into())),
            _ => Err(Error::Invalid("tls_ca, tls_certificate and tls_key belong together: give all three".into())),
        }
    }
}

/// How the node is one of several, as options say it.
#[derive(Default)]
struct Membership {
    listen: Option<Address>,
    listen_clients: Option<Address>,
    advertise: Option<Address>,
    advertise_clients: Option<Address>,
    members: Vec<Address>,
    join: Vec<Address>,
    name: Option<String>,
    first_token: Option<[u8; 32]>,
    client_rate: Option<u64>,
    election_timeout_ms: Option<u64>,
    snapshot_rate: Option<u64>,
    clients_max: Option<usize>,
    log_bytes_for_peers: Option<usize>,
}

impl Membership {
    fn take(&mut self, key: &str, reader: &mut Reader<'_>) -> Result<bool> {
        let address = match key {
            "listen" => &mut self.listen,
            "listen_clients" => &mut self.listen_clients,
            "advertise" => &mut self.advertise,
            "advertise_clients" => &mut self.advertise_clients,
            "members" => {
                self.members = addresses(reader)?;
                return Ok(true);
            }
            "join" => {
                self.join = addresses(reader)?;
                return Ok(true);
            }
            "client_rate" => {
                self.client_rate = Some(reader.u64()?.max(1));
                return Ok(true);
            }
            "first_token" => {
                let digest = reader.bin()?.try_into();
                self.first_token = Some(digest.map_err(|_| Error::Invalid("first_token has 32 bytes".into()))?);
                return Ok(true);
            }
            "election_timeout_ms" => {
                self.election_timeout_ms = Some(within(ELECTION_MS, key, reader.u64()?)?);
                return Ok(true);
            }
            "snapshot_rate" => {
                self.snapshot_rate = Some(within(SNAPSHOT_RATE, key, reader.u64()?)?);
                return Ok(true);
            }
            "max_clients" => {
                self.clients_max = Some(within(CLIENTS, key, reader.u64()?)? as usize);
                return Ok(true);
            }
            "follower_log_bytes" => {
                self.log_bytes_for_peers = Some(within(FOLLOWER_LOG_BYTES, key, reader.u64()?)? as usize);
                return Ok(true);
            }
            "name" => {
                self.name = Some(reader.str()?.to_owned());
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *address = Some(Address::parse(reader.str()?)?);
        Ok(true)
    }

    fn cluster(self, security: Security) -> Result<Option<ClusterConfig>> {
        let Some(listen) = self.listen else {
            if self.members.is_empty()
                && self.join.is_empty()
                && self.advertise.is_none()
                && self.listen_clients.is_none()
            {
                return Ok(None);
            }
            return Err(Error::Invalid("members, join, advertise and listen_clients need listen: host:port".into()));
        };
        if !self.members.is_empty() && !self.join.is_empty() {
            return Err(Error::Invalid("members and join together: a node is one of the first, or it joins".into()));
        }
        let Self { listen_clients, advertise, advertise_clients, name, first_token, .. } = self;
        let client_rate = self.client_rate.unwrap_or(limits::CLIENT_RATE);
        let joins = !self.join.is_empty();
        let members = if joins { self.join } else { self.members };
        let own = ClusterConfig::new(listen, members);
        let election_timeout = self.election_timeout_ms.map_or(own.election_timeout, Duration::from_millis);
        let snapshot_rate = self.snapshot_rate.unwrap_or(own.snapshot_rate);
        Ok(Some(ClusterConfig {
            listen_clients,
            advertise,
            advertise_clients,
            joins,
            name,
            election_timeout,
            snapshot_rate,
            security,
            first_token,
            client_rate,
            clients_max: self.clients_max.unwrap_or(own.clients_max),
            log_bytes_for_peers: self.log_bytes_for_peers.unwrap_or(own.log_bytes_for_peers),
            ..own
        }))
    }
}

fn addresses(reader: &mut Reader<'_>) -> Result<Vec<Address>> {
    (0..reader.array()?).map(|_| Address::parse(reader.str()?)).collect()
}

/// Options of `Client.connect`, and how long to wait for a member that answers.
pub fn connect(bytes: &[u8]) -> Result<(Contacts, Options, Duration)> {
    let (mut options, mut protection, mut nodes) = (Options::default(), Protection::default(), Vec::new());
    let mut open_timeout_ms = OPEN_TIMEOUT_MS;
    each_key(bytes, |key, reader| {
        match key {
            "nodes" => nodes = addresses(reader)?,
            "open_timeout_ms" => open_timeout_ms = reader.u64()?,
            _ => return Ok(protection.take(key, reader)? || common(&mut options, key, reader)?),
        }
        Ok(true)
    })?;
    let cluster = protection.cluster;
    let (security, token) = protection.of_client()?;
    let contacts = Contacts::new(nodes, security)?.with_token(token).of_cluster(cluster);
    Ok((contacts, options, Duration::from_millis(open_timeout_ms)))
}

/// Options of `look_at_member`: its address, protection, and how long to wait.
pub fn member(bytes: &[u8]) -> Result<(Address, Security, Option<Secret>, Duration)> {
    let (mut protection, mut node, mut timeout_ms) = (Protection::default(), None, LOOK_TIMEOUT_MS);
    each_key(bytes, |key, reader| {
        match key {
            "node" => node = Some(Address::parse(reader.str()?)?),
            "timeout_ms" => timeout_ms = reader.u64()?,
            _ => return protection.take(key, reader),
        }
        Ok(true)
    })?;
    let node = node.ok_or_else(|| Error::Invalid("node is missing: the address of the member".into()))?;
    let (security, token) = protection.of_client()?;
    Ok((node, security, token, Duration::from_millis(timeout_ms)))
}

/// Options of `found_cluster`: a directory, and names of the host.
pub fn found(bytes: &[u8]) -> Result<(String, Vec<String>)> {
    let (mut dir, mut names) = (String::new(), Vec::new());
    each_key(bytes, |key, reader| {
        match key {
            "dir" => dir = reader.str()?.to_owned(),
            "names" => names = (0..reader.array()?).map(|_| reader.str().map(str::to_owned)).collect::<Result<_>>()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((dir, names))
}

/// Options of `join_cluster`: the invitation, and as for `found_cluster`.
pub fn join(bytes: &[u8]) -> Result<(String, String, Vec<String>)> {
    let (mut invitation, mut dir, mut names) = (String::new(), String::new(), Vec::new());
    each_key(bytes, |key, reader| {
        match key {
            "invitation" => invitation = reader.str()?.to_owned(),
            "dir" => dir = reader.str()?.to_owned(),
            "names" => names = (0..reader.array()?).map(|_| reader.str().map(str::to_owned)).collect::<Result<_>>()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((invitation, dir, names))
}

/// Options of `Client.open`, and how long to wait for an owner that is starting.
pub fn open(path: &str, bytes: &[u8]) -> Result<(NodeConfig, Options, Duration)> {
    let (mut config, mut options) = (NodeConfig::new(path), Options::default());
    let (mut membership, mut protection) = (Membership::default(), Protection::default());
    let mut open_timeout_ms = OPEN_TIMEOUT_MS;
    each_key(bytes, |key, reader| {
        match key {
            "segment_bytes" => config.segment_bytes = usize::try_from(reader.u64()?).unwrap_or(usize::MAX),
            "snapshot_bytes" => config.snapshot_bytes = reader.u64()?,
            "max_jobs" => config.bounds.jobs = within(JOBS, key, reader.u64()?)? as usize,
            "max_state_bytes" => config.bounds.bytes = within(STATE_BYTES, key, reader.u64()?)?,
            "open_timeout_ms" => open_timeout_ms = reader.u64()?,
            "owner_patience_ms" => config.owner_patience = Duration::from_millis(reader.u64()?),
            "health_listen" => config.health_listen = Some(Address::parse(reader.str()?)?),
            "metrics_open" => config.metrics_open = reader.bool()?,
            _ => {
                let other = membership.take(key, reader)? || protection.take(key, reader)?;
                return Ok(other || common(&mut options, key, reader)?);
            }
        }
        Ok(true)
    })?;
    config.cluster = membership.cluster(protection.security()?)?;
    Ok((config, options, Duration::from_millis(open_timeout_ms)))
}

/// How to read.
pub fn reading(consistency: &str, staleness_ms_max: Option<u64>) -> Result<Reading> {
    let consistency = match consistency {
        "local" => Consistency::Local,
        "session" => Consistency::Session,
        "linearizable" => Consistency::Linearizable,
        other => return Err(Error::Invalid(format!("consistency is local, session or linearizable, not {other}"))),
    };
    Ok(Reading { consistency, staleness_max: staleness_ms_max.map(Millis) })
}

/// Options of `Client.memory`; true: the caller moves the clock.
pub fn memory(bytes: &[u8]) -> Result<(Options, bool)> {
    let (mut options, mut manual) = (Options::default(), false);
    each_key(bytes, |key, reader| {
        if key == "clock" {
            manual = match reader.str()? {
                "real" => false,
                "manual" => true,
                other => return Err(Error::Invalid(format!("clock is real or manual, not {other}"))),
            };
            return Ok(true);
        }
        common(&mut options, key, reader)
    })?;
    Ok((options, manual))
}

/// Options of `Client.fetcher`.
pub fn fetcher(bytes: &[u8]) -> Result<(Wish, Vec<(String, String)>)> {
    let (mut wish, mut own_labels) = (Wish { prefetch: 1, ..Wish::default() }, Vec::new());
    each_key(bytes, |key, reader| {
        match key {
            "queues" => {
                for _ in 0..reader.array()? {
                    reader.array_of(2, "a queue and its weight")?;
                    wish.queues.push((reader.str()?.to_owned(), reader.u64()?));
                }
            }
            "functions" => {
                for _ in 0..reader.array()? {
                    wish.functions.push(reader.str()?.to_owned());
                }
            }
            "strict" => wish.strict = reader.bool()?,
            "prefetch" => wish.prefetch = usize::try_from(reader.u64()?).unwrap_or(usize::MAX),
            "labels" => own_labels = labels(reader)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((wish, own_labels))
}
