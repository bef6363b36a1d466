//! `host:port`, as people write it.

use super::names::look_up;
use crate::base::{limits, Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Where something listens. The host is a name or a number; names are looked up each time they are needed, as what they
/// stand for may move.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// An IPv6 address is without its brackets.
    host: String,
    /// 0 to listen on any free port.
    port: u16,
}

impl Address {
    /// Reads `host:port` or `[IPv6 address]:port`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::Invalid(format!("address {text:?}: {why}")));
        if text.contains("://") {
            return wrong("leave out the scheme; write host:port, such as 10.0.0.1:7000");
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if is_ipv6(host) => (host, port.strip_prefix(':')),
                _ => return wrong("what is in brackets is no IPv6 address; write [::1]:7000"),
            },
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return wrong("put an IPv6 address in brackets, such as [::1]:7000");
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let Some(port) = port else { return wrong("the port is missing; write host:port, such as 10.0.0.1:7000") };
        if host.is_empty() {
            return wrong("the host is missing; write 0.0.0.0 or [::] to listen on every address of this machine");
        }
        if !is_ipv6(host) && !is_name(host) {
            return wrong("a host is an IP address or a name of letters, digits, dots and hyphens");
        }
        // Only digits: `parse` would take a sign.
        match port.parse() {
            Ok(port) if text.ends_with(|c: char| c.is_ascii_digit()) && !text.contains('+') => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => wrong("the port is a number from 0 to 65535"),
        }
    }

    /// The same host, another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it stands for now. Not empty. Asks the system, which may take seconds.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>> {
        self.resolve_until(Instant::now() + Duration::from_millis(limits::LOOK_UP_MS))
    }

    /// As `resolve`, for one who waits until then.
    pub fn resolve_until(&self, until: Instant) -> Result<Vec<SocketAddr>> {
        let failed = |why: String| Error::NotFound(format!("{self}: the name cannot be looked up: {why}"));
        let mut found = look_up(&self.host, until).map_err(failed)?;
        if found.is_empty() {
            return Err(failed("it stands for no address".into()));
        }
        found.iter_mut().for_each(|address| address.set_port(self.port));
        Ok(found)
    }

    /// Whether all that it stands for now is this machine alone.
    pub fn is_loopback(&self) -> Result<bool> {
        Ok(self.resolve()?.iter().all(is_loopback))
    }
}

/// Whether nobody else than this machine has this address.
pub(super) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
    address.parse::<Ipv6Addr>().is_ok() && is_name(zone)
}

fn is_name(host: &str) -> bool {
    host.len() <= 253 && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) && !host.is_empty()
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => IpAddr::to_string(&address.ip()),
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
