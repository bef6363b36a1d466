//! The options of the doors: MessagePack maps with text keys. An unknown key is refused, not ignored.

use crate::base::codec::Reader;
use crate::base::{Error, Millis, Result};
use crate::client::contacts::Contacts;
use crate::client::fetcher::Wish;
use crate::client::Options;
use crate::net::{Address, Security, Tls};
use crate::node::{ClusterConfig, NodeConfig};
use std::path::Path;
use std::time::Duration;

/// How long an owner that is starting may take before others give up.
const OPEN_TIMEOUT_MS: u64 = 30_000;

/// How long a member may take to say how it is.
const LOOK_TIMEOUT_MS: u64 = 3_000;

/// Sessions may live from half a second to an hour without a sign of life.
const TTL_MS: std::ops::RangeInclusive<u64> = 500..=3_600_000;

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
    let ttl = reader.u64()?;
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
}

impl Protection {
    fn take(&mut self, key: &str, reader: &mut Reader<'_>) -> Result<bool> {
        let file = match key {
            "tls_ca" => &mut self.ca,
            "tls_certificate" => &mut self.certificate,
            "tls_key" => &mut self.key,
            "insecure" => {
                self.insecure = reader.bool()?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *file = Some(reader.str()?.to_owned());
        Ok(true)
    }

    fn security(self) -> Result<Security> {
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
        let Self { listen_clients, advertise, advertise_clients, name, .. } = self;
        let joins = !self.join.is_empty();
        let members = if joins { self.join } else { self.members };
        Ok(Some(ClusterConfig {
            listen_clients,
            advertise,
            advertise_clients,
            joins,
            name,
            security,
            ..ClusterConfig::new(listen, members)
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
    Ok((Contacts::new(nodes, protection.security()?)?, options, Duration::from_millis(open_timeout_ms)))
}

/// Options of `look_at_member`: its address, protection, and how long to wait.
pub fn member(bytes: &[u8]) -> Result<(Address, Security, Duration)> {
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
    Ok((node, protection.security()?, Duration::from_millis(timeout_ms)))
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
            "open_timeout_ms" => open_timeout_ms = reader.u64()?,
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
