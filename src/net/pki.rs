//! A cluster's own authority: makes the certificates of its nodes and clients.
//!
//! What holds
//! * A private key is written for its owner alone, and never over the key of an authority.
//! * Whoever joins makes its own key: the key stays where it was made, and the authority sees a proof that it is held.
//! * Role and node are the authority's word, not the word of whoever asks.

use super::certified::{authority_of, authority_uri, node_uri, Certified, Role};
use super::private::{write_private, Dir};
use super::tls::provider;
use super::Address;
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, NodeId, Result};
use base64::prelude::{Engine, BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey, PKCS_ECDSA_P256_SHA256,
};
use ring::signature::{UnparsedPublicKey, ECDSA_P256_SHA256_ASN1};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Days that a certificate of a node or a client lives, unless its maker says otherwise.
pub const DAYS: u64 = 90;
/// Days that an authority lives.
const AUTHORITY_DAYS: u64 = 3_652;
/// A certificate is valid a little before it is made: clocks differ.
const SKEW: Duration = Duration::from_secs(3_600);
/// Names of one certificate.
const NAMES_MAX: usize = 16;
/// What the proof that a key is held is made for, so that it proves nothing elsewhere.
const PROOF: &[u8] = b"raftwork certificate request\0";

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    pub from: SystemTime,
    pub days: u64,
}

impl Lifetime {
    /// From now on.
    pub fn days(days: u64) -> Self {
        Self { from: SystemTime::now(), days }
    }
}

/// Whoever signs the certificates of a cluster.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

/// A certificate with its key, and the authority's certificate. All PEM.
pub struct Issued {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// The files of an `Issued`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedFiles {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn create(cluster: ClusterId) -> Result<Self> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = base(cluster, Lifetime::days(AUTHORITY_DAYS))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&authority_uri(cluster))?];
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Self { cluster, certificate, key })
    }

    /// Writes `ca.pem` and `ca.key` into a directory that is its owner's alone. Refuses where an authority is already: its
    /// key could not be had back.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        let dir = Dir::open(dir)?;
        for path in [&certificate, &key] {
            if path.exists() {
                let why = "is there already; an authority is not written over another, choose another directory";
                return Err(Error::Invalid(format!("{} {why}", path.display())));
            }
        }
        write_private(&dir, &key, pem("PRIVATE KEY", self.key.serialized_der()).as_bytes())?;
        write_private(&dir, &certificate, self.pem().as_bytes())
    }

    /// Reads what `save` wrote.
    pub fn load(dir: &Path) -> Result<Self> {
        let (certificate_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        let wrong = |path: &Path, why: String| Error::Invalid(format!("{} {why}", path.display()));
        let read = |path: &Path| std::fs::read(path).map_err(|error| Error::disk("read", path.display(), &error));
        super::credentials::check_mode(&key_path)?;
        let certificate = CertificateDer::from_pem_slice(&read(&certificate_path)?)
            .map_err(|error| wrong(&certificate_path, format!("holds no certificate as PEM: {error}")))?;
        let cluster = authority_of(&certificate).map_err(|error| wrong(&certificate_path, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
            .map_err(|error| wrong(&key_path, format!("holds no private key as PEM: {error}")))?;
        let pair = KeyPair::try_from(&key).map_err(|error| wrong(&key_path, format!("cannot be used: {error}")))?;
        CertifiedKey::from_der(vec![certificate.clone()], key, provider()).map_err(|error| {
            wrong(&key_path, format!("is not the key of the certificate {}: {error}", certificate_path.display()))
        })?;
        Ok(Self { cluster, certificate, key: pair })
    }

    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The authority's certificate as PEM: what every process of the cluster trusts.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A certificate for a member of the cluster. The names and addresses of its host are for people who read it.
    pub fn issue_node(&self, names: &[&str]) -> Result<Issued> {
        self.issue(&Role::Node, names, Lifetime::days(DAYS))
    }

    /// A certificate for a client of this name.
    pub fn issue_client(&self, name: &str) -> Result<Issued> {
        self.issue(&Role::client(name)?, &[], Lifetime::days(DAYS))
    }

    pub fn issue(&self, role: &Role, names: &[&str], lifetime: Lifetime) -> Result<Issued> {
        let key = NewKey::generate()?;
        let certificate = self.sign(&self.certified(role, None), names, &key.0, lifetime)?;
        Ok(Issued { authority: self.pem(), certificate, key: key.pem() })
    }

    /// A certificate, as PEM, for the key of a `NewKey::request`. Refuses a request that does not hold the key.
    pub fn sign_request(&self, request: &[u8], role: &Role, lifetime: Lifetime) -> Result<String> {
        self.sign_requested(request, &self.certified(role, None), lifetime)
    }

    /// The same for a node, and for no other node if its id is known.
    pub fn sign_node_request(&self, request: &[u8], node: Option<NodeId>, lifetime: Lifetime) -> Result<String> {
        self.sign_requested(request, &self.certified(&Role::Node, node), lifetime)
    }

    fn certified(&self, role: &Role, node: Option<NodeId>) -> Certified {
        Certified { cluster: self.cluster, role: role.clone(), node }
    }

    fn sign_requested(&self, request: &[u8], certified: &Certified, lifetime: Lifetime) -> Result<String> {
        let wrong = |why: String| Error::Invalid(format!("certificate request: {why}"));
        let mut reader = Reader::new(request);
        reader.array_of(2, "a certificate request")?;
        let (asked, proof) = (reader.bin()?, reader.bin()?);
        reader.end()?;
        let mut reader = Reader::new(asked);
        reader.array_of(2, "what a certificate request asks for")?;
        let key = RequestedKey(reader.bin()?);
        let names = reader.array()?;
        if names > NAMES_MAX {
            return Err(wrong(format!("{names} names, at most {NAMES_MAX} are allowed")));
        }
        let names = (0..names).map(|_| reader.str()).collect::<Result<Vec<_>>>()?;
        reader.end()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.0)
            .verify(&[PROOF, asked].concat(), proof)
            .map_err(|_| wrong("it was not made with the key that it asks a certificate for".into()))?;
        self.sign(certified, &names, &key, lifetime)
    }

    fn sign(
        &self,
        certified: &Certified,
        names: &[&str],
        key: &impl PublicKeyData,
        lifetime: Lifetime,
    ) -> Result<String> {
        if names.len() > NAMES_MAX {
            return Err(Error::Invalid(format!(
                "a certificate for {} names, at most {NAMES_MAX} are allowed",
                names.len()
            )));
        }
        let mut params = base(self.cluster, lifetime)?;
        params.distinguished_name = common_name(&format!("raftwork {}", certified.role));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node is on either side of a connection.
        params.extended_key_usages = match certified.role {
            Role::Node => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(&certified.to_string())?];
        if let Some(node) = certified.node {
            params.subject_alt_names.push(uri(&node_uri(self.cluster, node))?);
        }
        for name in names {
            params.subject_alt_names.push(host(name)?);
        }
        let issuer = Issuer::new(base(self.cluster, lifetime)?, &self.key);
        let certificate = params.signed_by(key, &issuer).map_err(failed)?;
        Ok(pem("CERTIFICATE", certificate.der()))
    }
}

/// A key that has no certificate yet.
pub struct NewKey(KeyPair);

impl NewKey {
    pub fn generate() -> Result<Self> {
        KeyPair::generate().map(Self).map_err(failed)
    }

    /// The private key as PEM.
    pub fn pem(&self) -> String {
        pem("PRIVATE KEY", self.0.serialized_der())
    }

    /// Asks for a certificate for this key: the public key, the names of the host, and a signature made with the key.
    pub fn request(&self, names: &[&str]) -> Result<Vec<u8>> {
        let mut asked = Writer::new();
        asked.array(2).bin(self.0.der_bytes()).array(names.len());
        for name in names {
            asked.str(name);
        }
        let proof = self.0.sign(&[PROOF, asked.as_bytes()].concat()).map_err(failed)?;
        let mut out = Writer::new();
        out.array(2).bin(asked.as_bytes()).bin(&proof);
        Ok(out.into_bytes())
    }
}

/// The public key in a request: a point of the curve, whose form was checked with the proof.
struct RequestedKey<'a>(&'a [u8]);

impl PublicKeyData for RequestedKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Issued {
    /// Writes `ca.pem`, `<name>.pem` and `<name>.key` into a directory that is its owner's alone. Replaces older ones, the
    /// key first: a process that watches the files uses them once they fit together.
    pub fn save(&self, dir: &Path, name: &str) -> Result<IssuedFiles> {
        let files = IssuedFiles {
            authority: dir.join("ca.pem"),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        let dir = Dir::open(dir)?;
        write_private(&dir, &files.key, self.key.as_bytes())?;
        write_private(&dir, &files.authority, self.authority.as_bytes())?;
        write_private(&dir, &files.certificate, self.certificate.as_bytes())?;
        Ok(files)
    }
}

/// What every certificate has: the authority's name, a number of its own, and a life.
fn base(cluster: ClusterId, lifetime: Lifetime) -> Result<CertificateParams> {
    if !(1..=36_500).contains(&lifetime.days) {
        return Err(Error::Invalid(format!("a certificate for {} days; 1 to 36500 are allowed", lifetime.days)));
    }
    let since_epoch = lifetime.from.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch.saturating_sub(SKEW);
    params.not_after = epoch + (since_epoch + Duration::from_secs(lifetime.days * 86_400));
    params.distinguished_name = common_name(&format!("raftwork {cluster}"));
    let mut number = super::random::<16>()?;
    // A number is positive.
    number[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&number));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into().map_err(failed)?))
}

/// A name or an address of a host.
fn host(name: &str) -> Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // The rules for a name are the same as in an address.
    Address::parse(&format!("{name}:0"))?;
    Ok(SanType::DnsName(name.try_into().map_err(failed)?))
}

fn failed(error: rcgen::Error) -> Error {
    Error::Invalid(format!("the certificate could not be made: {error}"))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| *byte as char));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
