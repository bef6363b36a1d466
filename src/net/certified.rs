//! Whom a certificate names: `raftwork://<cluster id>/node` or `raftwork://<cluster id>/client/<name>`, as the one URI of
//! this scheme among its names. A certificate says nothing about hosts that we rely on: addresses move, and a name service
//! is no authority.
//!
//! That of a node may say which member it is, as `raftwork-node://<cluster id>/<node id>`: a name of its own, as versions that
//! do not know it must let the certificate in. One without it is good for any node of its cluster.

use crate::base::{limits, ClusterId, Error, NodeId, Result};
use rustls::pki_types::CertificateDer;
use std::fmt;

const SCHEME: &str = "raftwork://";
const NODE_SCHEME: &str = "raftwork-node://";

/// The cluster and the role in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    pub cluster: ClusterId,
    pub role: Role,
    /// Which member it is, if the certificate of a node says so.
    pub node: Option<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A member of the cluster: may do everything.
    Node,
    /// Somebody who enqueues, works or looks on, by name.
    Client(String),
}

impl Certified {
    /// Reads the name out of a certificate. Says nothing about whether the certificate is good.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self> {
        let mut certified = Self::parse(&uri_of(certificate)?)?;
        if let Some(uri) = only_uri(certificate, NODE_SCHEME)? {
            certified.node = Some(certified.parse_node(&uri)?);
        }
        Ok(certified)
    }

    /// Refuses whoever says to be this member with a certificate that names another. One that names none is good for any.
    pub fn check_node(&self, said: NodeId) -> Result<()> {
        match self.node {
            Some(node) if node != said => Err(Error::Foreign(format!(
                "the certificate of the other side is that of node {node}, so it is not node {said}; each node needs files of \
                 its own, and `raftwork cluster renew` in its directory makes a certificate with its id"
            ))),
            _ => Ok(()),
        }
    }

    fn parse_node(&self, text: &str) -> Result<NodeId> {
        let parts = text.strip_prefix(NODE_SCHEME).and_then(|rest| rest.split_once('/'));
        let node = parts.and_then(|(cluster, node)| {
            let node = NodeId(node.parse().ok()?);
            let fits = ClusterId::parse(cluster)? == self.cluster && self.role == Role::Node && node.0 > 0;
            (fits && node_uri(self.cluster, node) == text).then_some(node)
        });
        node.ok_or_else(|| {
            Error::Foreign(format!(
                "the certificate has the name {text:?} beside {self}; that of a node may have {NODE_SCHEME}{}/<node id>",
                self.cluster
            ))
        })
    }

    /// Reads the URI.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/'));
        let known = parts.and_then(|(cluster, role)| {
            let role = match role.strip_prefix("client/") {
                Some(name) => Role::client(name).ok()?,
                None if role == "node" => Role::Node,
                None => return None,
            };
            Some(Self { cluster: ClusterId::parse(cluster)?, role, node: None })
        });
        known.ok_or_else(|| {
            Error::Foreign(format!(
                "the certificate has the name {text:?}, which is neither {SCHEME}<cluster id>/node nor \
                 {SCHEME}<cluster id>/client/<name>"
            ))
        })
    }
}

/// The URI of our scheme in a certificate.
fn uri_of(certificate: &CertificateDer<'_>) -> Result<String> {
    only_uri(certificate, SCHEME)?.ok_or_else(|| {
        Error::Foreign(format!(
            "the certificate names no cluster: it needs the URI {SCHEME}<cluster id>/node or {SCHEME}<cluster id>/client/<name> \
             as subject alternative name"
        ))
    })
}

/// The one URI of a scheme in a certificate, if it has one.
fn only_uri(certificate: &CertificateDer<'_>, scheme: &str) -> Result<Option<String>> {
    let wrong = |why: String| Error::Foreign(format!("the certificate {why}"));
    let certificate =
        webpki::EndEntityCert::try_from(certificate).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut names = certificate.valid_uri_names().filter(|name| name.starts_with(scheme));
    match (names.next(), names.next()) {
        (_, Some(_)) => Err(wrong(format!("has more than one URI that begins with {scheme}"))),
        (name, None) => Ok(name.map(str::to_owned)),
    }
}

/// The URI that says which member a node is.
pub(super) fn node_uri(cluster: ClusterId, node: NodeId) -> String {
    format!("{NODE_SCHEME}{cluster}/{node}")
}

/// The URI in the certificate of a cluster's authority, which is no role: nobody gets in with it.
pub(super) fn authority_uri(cluster: ClusterId) -> String {
    format!("{SCHEME}{cluster}/authority")
}

/// The cluster that an authority's certificate is for.
pub(super) fn authority_of(certificate: &CertificateDer<'_>) -> Result<ClusterId> {
    let uri = uri_of(certificate)?;
    let cluster = uri.strip_prefix(SCHEME).and_then(|rest| ClusterId::parse(rest.strip_suffix("/authority")?));
    cluster
        .ok_or_else(|| Error::Foreign(format!("the certificate has the name {uri:?}, and an authority's is expected")))
}

impl Role {
    /// A client of this name.
    pub fn client(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(Error::Invalid(format!(
                "client name {name:?}: write 1 to {} letters, digits, dots, hyphens and underscores",
                limits::NAME_BYTES_MAX
            )));
        }
        Ok(Role::Client(name.to_owned()))
    }
}

impl fmt::Display for Certified {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Node => f.write_str("node"),
            Role::Client(name) => write!(f, "client/{name}"),
        }
    }
}
