//! Mutual TLS 1.3 with certificates from files, which are looked at again whenever a connection is made or accepted.
//!
//! What holds
//! * New files are used from the next connection on. Files that cannot be used change nothing: the old ones stay in force,
//!   and it is said once for each change of the files.
//! * A session is never resumed, so every connection has its certificates checked.
//! * The private key is for its owner's eyes only, or it is not used.

use super::certified::Certified;
use super::judge::{explain, Judge, Trust};
use super::security::Admit;
use super::socket::Socket;
use super::Stream;
use crate::base::{Error, Millis, Result};
use parking_lot::Mutex;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A moment when every certificate has expired, in seconds: the year 10000 and later cannot be written into one.
const END_OF_TIME: u64 = 253_402_300_800;

/// SHA-256 over a certificate: names an authority before its certificate is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Certificates, and whom they trust.
pub struct Tls(Source);

enum Source {
    Files {
        files: Files,
        state: Mutex<State>,
    },
    /// Has none itself, and trusts the authority with this fingerprint.
    Joining(Fingerprint),
}

/// Where the certificates are.
#[derive(Clone)]
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

struct State {
    current: Arc<Credentials>,
    /// Of the files when they were last read.
    stamps: [Stamp; 3],
    /// Why the files of these stamps are not used.
    trouble: Option<Error>,
}

/// What changes when a file does: device, number, size, change and modification time. Nothing if there is no file.
type Stamp = Option<[i64; 7]>;

/// What was read from the files.
struct Credentials {
    own: Certified,
    expires_at: Millis,
    authorities: Arc<RootCertStore>,
    /// With the authorities' own certificates behind, for those who know only a fingerprint.
    key: Arc<CertifiedKey>,
}

/// The one set of algorithms.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}

impl Tls {
    /// Reads the certificates of the authority (CA), the own certificate and its key, all PEM.
    pub fn from_files(
        authority: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Arc<Self>> {
        let files = Files { authority: authority.into(), certificate: certificate.into(), key: key.into() };
        let stamps = files.stamps();
        let state = State { current: Arc::new(files.load()?), stamps, trouble: None };
        Ok(Arc::new(Self(Source::Files { files, state: Mutex::new(state) })))
    }

    /// For one that has no certificate yet and knows of the cluster only its authority's fingerprint. Can connect, not accept.
    pub fn joining(authority: Fingerprint) -> Arc<Self> {
        Arc::new(Self(Source::Joining(authority)))
    }

    /// Whom the own certificate names. Nothing while joining.
    pub fn own(&self) -> Option<Certified> {
        self.credentials().map(|credentials| credentials.own.clone())
    }

    /// When the own certificate expires, in milliseconds since the Unix epoch. Nothing while joining.
    pub fn expires_at(&self) -> Option<Millis> {
        self.credentials().map(|credentials| credentials.expires_at)
    }

    /// Why the files that are there now are not used.
    pub fn trouble(&self) -> Option<Error> {
        self.credentials();
        match &self.0 {
            Source::Files { state, .. } => state.lock().trouble.clone(),
            Source::Joining(_) => None,
        }
    }

    /// What is in force, after a look at the files.
    fn credentials(&self) -> Option<Arc<Credentials>> {
        let Source::Files { files, state } = &self.0 else { return None };
        let mut state = state.lock();
        let stamps = files.stamps();
        if stamps != state.stamps {
            state.trouble = match files.load() {
                Ok(loaded) if loaded.own.cluster != state.current.own.cluster => Some(Error::Foreign(format!(
                    "{} is now a certificate of cluster {}; this process works with cluster {}",
                    files.certificate.display(),
                    loaded.own.cluster,
                    state.current.own.cluster
                ))),
                Ok(loaded) => {
                    log::info!("the certificate {} was read again", files.certificate.display());
                    state.current = Arc::new(loaded);
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) = &state.trouble {
                log::error!("the changed certificate files are not used, the old ones stay in force: {error}");
            }
            state.stamps = stamps;
        }
        Some(state.current.clone())
    }

    /// The handshake of the side that connected.
    pub(super) fn connect(&self, socket: Arc<Socket>) -> Result<(Stream, Certified)> {
        let credentials = self.credentials();
        let trust = match (&self.0, &credentials) {
            (Source::Joining(fingerprint), _) => Trust::Fingerprint(*fingerprint),
            (_, Some(own)) => Trust::Authorities(own.authorities.clone(), own.own.cluster),
            (_, None) => unreachable!("files have credentials"),
        };
        let judge = Judge::of_nodes(trust);
        let config = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| explain(&error))?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone());
        let mut config = match credentials {
            Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone()))),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // Not sent and not compared: certificates name clusters and roles.
        let name = ServerName::try_from("raftwork").expect("it is a name");
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| explain(&error))?;
        let stream = handshake(socket, connection.into(), &judge)?;
        let certified = judge.verdict().unwrap_or(Err(Error::Foreign("the other side has no certificate".into())))?;
        Ok((stream, certified))
    }

    /// The handshake of the side that accepted. Nobody is named if strangers are let in and the other side is one.
    pub(super) fn accept(&self, socket: Arc<Socket>, admit: Admit) -> Result<(Stream, Option<Certified>)> {
        let own =
            self.credentials().ok_or_else(|| Error::Invalid("without a certificate nobody can be let in".into()))?;
        let clients = WebPkiClientVerifier::builder_with_provider(own.authorities.clone(), provider().clone())
            .build()
            .map_err(|error| Error::Invalid(format!("the authority's certificate cannot be used: {error}")))?;
        let trust = Trust::Authorities(own.authorities.clone(), own.own.cluster);
        let judge = Judge::of_clients(trust, admit, clients);
        let mut config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| explain(&error))?
            .with_client_cert_verifier(judge.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let connection = ServerConnection::new(Arc::new(config)).map_err(|error| explain(&error))?;
        let stream = handshake(socket, connection.into(), &judge)?;
        Ok((stream, judge.verdict().transpose()?))
    }
}

/// Runs the handshake on this thread, until the socket's deadline.
fn handshake(socket: Arc<Socket>, mut connection: Connection, judge: &Judge) -> Result<Stream> {
    while connection.is_handshaking() || connection.wants_write() {
        if let Err(error) = connection.complete_io(&mut &*socket) {
            let refused = matches!(judge.verdict(), Some(Err(_)));
            let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(_) if refused => judge.verdict().and_then(Result::err).unwrap_or(Error::Closed),
                Some(error) => explain(error),
                None if error.kind() == ErrorKind::UnexpectedEof => {
                    Error::Foreign("the other side ended the connection during the TLS handshake".into())
                }
                None => super::packet::failed("read", error),
            };
            socket.part();
            return Err(why);
        }
    }
    Ok(Stream::tls(socket, connection))
}

impl Files {
    fn stamps(&self) -> [Stamp; 3] {
        [&self.authority, &self.certificate, &self.key].map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some([
                found.dev() as i64,
                found.ino() as i64,
                found.size() as i64,
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ])
        })
    }

    fn load(&self) -> Result<Credentials> {
        check_mode(&self.key)?;
        let authorities_der = certificates(&self.authority)?;
        let mut chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| broken(&self.key, format!("holds no private key as PEM: {error}")))?;
        let mut authorities = RootCertStore::empty();
        for authority in &authorities_der {
            authorities.add(authority.clone()).map_err(|error| broken(&self.authority, error))?;
        }
        let own = Certified::of(&chain[0]).map_err(|error| broken(&self.certificate, error))?;
        let expires_at = self.check_chain(&chain, &authorities)?;
        chain.extend(authorities_der.into_iter().filter(|authority| !chain.contains(authority)).collect::<Vec<_>>());
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| {
            broken(&self.key, format!("is not the key of the certificate {}: {error}", self.certificate.display()))
        })?;
        Ok(Credentials { own, expires_at, authorities: Arc::new(authorities), key: Arc::new(key) })
    }

    /// Whether others of the cluster would accept the own certificate. Returns when it expires. One that has expired is not
    /// refused here: jobs of this machine go on without the others, who say what is wrong.
    fn check_chain(&self, chain: &[CertificateDer<'static>], authorities: &RootCertStore) -> Result<Millis> {
        let parsed = ParsedCertificate::try_from(&chain[0]).map_err(|error| broken(&self.certificate, error))?;
        let algorithms = provider().signature_verification_algorithms.all;
        let at = |time| verify_server_cert_signed_by_trust_anchor(&parsed, authorities, &chain[1..], time, algorithms);
        // The library tells the end of a certificate's life to whoever asks after it.
        let end = match at(UnixTime::since_unix_epoch(Duration::from_secs(END_OF_TIME))) {
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after,
            other => return Err(broken(&self.certificate, format!("has no end that can be read: {other:?}"))),
        };
        let now = UnixTime::now();
        if end < now {
            log::error!("the certificate {} has expired; issue a new one", self.certificate.display());
        }
        match at(end.min(now)) {
            // Only a client's: it is good for connecting, and listening with it is refused by those who connect.
            Ok(()) | Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })) => {
                Ok(Millis(end.as_secs().saturating_mul(1000)))
            }
            Err(error) => Err(broken(
                &self.certificate,
                format!("is not accepted by the authority in {}: {error}", self.authority.display()),
            )),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::disk("read", path.display(), &error))
}

/// The certificates in a file. At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(broken(path, "holds no certificate as PEM")),
        Err(error) => Err(broken(path, format!("holds no certificate as PEM: {error}"))),
    }
}

fn check_mode(key: &Path) -> Result<()> {
    let found = std::fs::metadata(key).map_err(|error| Error::disk("read", key.display(), &error))?;
    match found.mode() & 0o077 {
        0 => Ok(()),
        _ => Err(broken(
            key,
            format!("can be used by others (mode {:04o}); run `chmod 600 {}`", found.mode() & 0o7777, key.display()),
        )),
    }
}

fn broken(path: &Path, why: impl fmt::Display) -> Error {
    Error::Invalid(format!("{} {why}", path.display()))
}
