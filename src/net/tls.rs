//! Mutual TLS 1.3 with certificates from files, which are looked at again whenever a connection is made or accepted.
//!
//! What holds
//! * New files are used from the next connection on. Files that cannot be used change nothing: the old ones stay in force,
//!   and it is said once for each change of the files.
//! * A session is never resumed, so every connection has its certificates checked.

use super::certified::{authority_of, Certified};
use super::credentials::{Credentials, Files, Stamp};
pub use super::judge::explain;
use super::judge::{Judge, Trust};
use super::security::Admit;
use super::socket::Socket;
use super::validity::Validity;
use super::Stream;
use crate::base::sync::Mutex;
use crate::base::{limits, ClusterId, Error, Millis, Result};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// SHA-256 over a certificate: names an authority before its certificate is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(super::sha256(certificate))
    }

    /// Of the first certificate in a PEM text.
    pub fn of_pem(pem: &str) -> Result<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Error::Invalid(format!("no certificate as PEM: {error}")))?;
        Ok(Self::of(&certificate))
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
    Files(Box<Watched>),
    /// Has none itself, and trusts the authority with this fingerprint.
    Joining(Fingerprint),
    /// Has none itself, and trusts these authorities: for a client with a token. As soon as it is known of which cluster that is,
    /// only for this one.
    Authorities(Arc<RootCertStore>, OnceLock<ClusterId>),
}

/// Files, and what is in force of them.
struct Watched {
    files: Files,
    state: Mutex<State>,
}

struct State {
    current: Arc<Credentials>,
    /// Of the files when they were last read.
    stamps: [Stamp; 3],
    /// Why the files of these stamps are not used.
    trouble: Option<Error>,
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
        let state = Mutex::new(State { current: Arc::new(files.load()?), stamps, trouble: None });
        Ok(Arc::new(Self(Source::Files(Box::new(Watched { files, state })))))
    }

    /// For one that has no certificate yet and knows of the cluster only its authority's fingerprint. Can connect, not accept.
    pub fn joining(authority: Fingerprint) -> Arc<Self> {
        Arc::new(Self(Source::Joining(authority)))
    }

    /// For a client that shows a token: trusts the authorities in this file, and has no certificate. Can connect, not accept.
    pub fn of_authority(authority: &Path) -> Result<Arc<Self>> {
        let found = super::credentials::certificates(authority)?;
        let mut authorities = RootCertStore::empty();
        for certificate in &found {
            authorities
                .add(certificate.clone())
                .map_err(|error| Error::Invalid(format!("{} {error}", authority.display())))?;
        }
        let tls = Self(Source::Authorities(Arc::new(authorities), OnceLock::new()));
        // One of ours names its cluster; another's does not, and may sign for several.
        if let Ok(cluster) = authority_of(&found[0]) {
            tls.pin(cluster);
        }
        Ok(Arc::new(tls))
    }

    /// From now on nobody of another cluster is let in, for whoever has no certificate that names one. The first call counts.
    pub fn pin(&self, cluster: ClusterId) {
        if let Source::Authorities(_, pinned) = &self.0 {
            pinned.get_or_init(|| cluster);
        }
    }

    /// The files, if the certificates are in some.
    pub fn files(&self) -> Option<&Files> {
        match &self.0 {
            Source::Files(watched) => Some(&watched.files),
            _ => None,
        }
    }

    /// Puts a new key and certificate, both PEM, into the own files, and uses them from the next connection on.
    pub fn replace(&self, key: &str, certificate: &str) -> Result<()> {
        let Source::Files(watched) = &self.0 else {
            return Err(Error::Invalid("there are no certificate files to write into".into()));
        };
        // Under the lock, so that nobody reads the one without the other.
        let state = watched.state.lock();
        watched.files.replace(key, certificate)?;
        drop(state);
        watched.look();
        self.trouble().map_or(Ok(()), Err)
    }

    /// Whom the own certificate names. Nothing while joining.
    pub fn own(&self) -> Option<Certified> {
        self.credentials().map(|credentials| credentials.own.clone())
    }

    /// When the own certificate expires, in milliseconds since the Unix epoch. Nothing while joining.
    pub fn expires_at(&self) -> Option<Millis> {
        self.credentials().map(|credentials| Millis(credentials.expires.as_secs().saturating_mul(1000)))
    }

    /// How long the own certificate is good, once that is less than thirty days and than a third of its life: somebody should
    /// put a new one in its place.
    pub fn ends_in(&self, now: Millis) -> Option<Millis> {
        let credentials = self.credentials()?;
        let [begins, expires] = [credentials.begins, credentials.expires].map(|at| at.as_secs().saturating_mul(1000));
        let soon = (expires.saturating_sub(begins) / 3).min(limits::CERTIFICATE_WARNING_MS);
        Some(Millis(expires.saturating_sub(now.0))).filter(|left| left.0 < soon)
    }

    /// Why the files that are there now are not used.
    pub fn trouble(&self) -> Option<Error> {
        let Source::Files(watched) = &self.0 else { return None };
        watched.look();
        watched.state.lock().trouble.clone()
    }

    fn credentials(&self) -> Option<Arc<Credentials>> {
        match &self.0 {
            Source::Files(watched) => Some(watched.look()),
            Source::Joining(_) | Source::Authorities(..) => None,
        }
    }

    /// The handshake of the side that connected.
    pub(super) fn connect(&self, socket: Arc<Socket>) -> Result<(Stream, Certified)> {
        let (trust, own) = match &self.0 {
            Source::Joining(fingerprint) => (Trust::Fingerprint(*fingerprint), None),
            Source::Authorities(authorities, cluster) => {
                (Trust::Authorities(authorities.clone(), cluster.get().copied()), None)
            }
            Source::Files(watched) => {
                let own = watched.look();
                (Trust::Authorities(own.authorities.clone(), Some(own.own.cluster)), Some(own))
            }
        };
        let judge = Judge::of_nodes(trust);
        let config = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| explain(&error))?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone());
        let mut config = match &own {
            Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone()))),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // Not sent and not compared: certificates name clusters and roles.
        let name = ServerName::try_from("raftwork").expect("it is a name");
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| explain(&error))?;
        let connection = handshake(&socket, connection.into(), &judge)?;
        let found = judge.verdict().unwrap_or(Err(Error::Foreign("the other side has no certificate".into())))?;
        let validity = Validity { own: own.map(|own| own.expires), others: Some(found.expires) };
        Ok((Stream::tls(socket, connection, validity), found.certified))
    }

    /// The handshake of the side that accepted. Nobody is named if strangers are let in and the other side is one.
    pub(super) fn accept(&self, socket: Arc<Socket>, admit: Admit) -> Result<(Stream, Option<Certified>)> {
        let own =
            self.credentials().ok_or_else(|| Error::Invalid("without a certificate nobody can be let in".into()))?;
        let clients = WebPkiClientVerifier::builder_with_provider(own.authorities.clone(), provider().clone())
            .build()
            .map_err(|error| Error::Invalid(format!("the authority's certificate cannot be used: {error}")))?;
        let trust = Trust::Authorities(own.authorities.clone(), Some(own.own.cluster));
        let judge = Judge::of_clients(trust, admit, clients);
        let mut config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| explain(&error))?
            .with_client_cert_verifier(judge.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let connection = ServerConnection::new(Arc::new(config)).map_err(|error| explain(&error))?;
        let connection = handshake(&socket, connection.into(), &judge)?;
        let found = judge.verdict().transpose()?;
        let validity = Validity { own: Some(own.expires), others: found.as_ref().map(|found| found.expires) };
        Ok((Stream::tls(socket, connection, validity), found.map(|found| found.certified)))
    }
}

impl Watched {
    /// What is in force, after a look at the files.
    fn look(&self) -> Arc<Credentials> {
        let (mut state, files) = (self.state.lock(), &self.files);
        let stamps = files.stamps();
        if stamps == state.stamps {
            return state.current.clone();
        }
        let known = state.current.own.cluster;
        state.stamps = stamps;
        state.trouble = match files.load() {
            Ok(loaded) if loaded.own.cluster == known => {
                log::info!("the certificate {} was read again", files.certificate.display());
                state.current = Arc::new(loaded);
                None
            }
            Ok(loaded) => Some(Error::Foreign(format!(
                "{} is now a certificate of cluster {}; this process works with cluster {known}",
                files.certificate.display(),
                loaded.own.cluster,
            ))),
            Err(error) => Some(error),
        };
        if let Some(error) = &state.trouble {
            log::error!("the changed certificate files are not used, the old ones stay in force: {error}");
        }
        state.current.clone()
    }
}

/// Runs the handshake on this thread, until the socket's deadline.
fn handshake(socket: &Socket, mut connection: Connection, judge: &Judge) -> Result<Connection> {
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
            // The alert that tells the other side.
            while connection.wants_write() && connection.write_tls(&mut &*socket).is_ok() {}
            socket.part();
            return Err(why);
        }
    }
    Ok(connection)
}
