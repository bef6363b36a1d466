//! The certificates and the key of a process, as they stand in files.
//!
//! What holds
//! * What was loaded fits together: the key is the certificate's, and the authority signed it.
//! * The private key is for its owner's eyes only, or it is not used.
//! * A renewal that is cut off anywhere leaves files that go together: the new key lies beside the old one until the new
//!   certificate is there, and whoever loads them takes the one that fits.

use super::certified::Certified;
use super::private::{rename_private, write_private, Dir};
use super::tls::provider;
use super::validity::{begin_of_life, end_of_life};
use crate::base::{Error, Result};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the certificates are.
#[derive(Clone)]
pub struct Files {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What changes when a file does: device, number, size, change and modification time. Nothing if there is no file.
pub type Stamp = Option<[i64; 7]>;

/// What was read from the files.
pub struct Credentials {
    pub own: Certified,
    pub begins: UnixTime,
    pub expires: UnixTime,
    pub authorities: Arc<RootCertStore>,
    /// With the authorities' own certificates behind, for those who know only a fingerprint.
    pub key: Arc<CertifiedKey>,
}

impl Files {
    pub fn stamps(&self) -> [Stamp; 3] {
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

    pub fn load(&self) -> Result<Credentials> {
        let loaded = self.load_with(&self.key);
        let next = self.next_key();
        if loaded.is_ok() || !next.exists() {
            return loaded;
        }
        let Ok(renewed) = self.load_with(&next) else { return loaded };
        // Where nothing can be written, it serves from where it is.
        if let Err(error) = self.take_next_key() {
            log::warn!("the renewed key {} stays where it is: {error}", next.display());
        }
        Ok(renewed)
    }

    /// Puts a new key and certificate, both PEM, in the place of the old ones.
    pub fn replace(&self, key: &str, certificate: &str) -> Result<()> {
        write_private(&dir_of(&self.key)?, &self.next_key(), key.as_bytes())?;
        write_private(&dir_of(&self.certificate)?, &self.certificate, certificate.as_bytes())?;
        self.take_next_key()
    }

    /// Where the key of a renewal lies until its certificate is there.
    fn next_key(&self) -> PathBuf {
        let mut name = self.key.as_os_str().to_owned();
        name.push(".next");
        name.into()
    }

    fn take_next_key(&self) -> Result<()> {
        match rename_private(&dir_of(&self.key)?, &self.next_key(), &self.key) {
            // Another process that looked at the files has taken it.
            Err(_) if !self.next_key().exists() => Ok(()),
            taken => taken,
        }
    }

    fn load_with(&self, key_file: &Path) -> Result<Credentials> {
        check_mode(key_file)?;
        let authorities_der = certificates(&self.authority)?;
        let mut chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
            .map_err(|error| broken(key_file, format!("holds no private key as PEM: {error}")))?;
        let mut authorities = RootCertStore::empty();
        for authority in &authorities_der {
            authorities.add(authority.clone()).map_err(|error| broken(&self.authority, error))?;
        }
        let own = Certified::of(&chain[0]).map_err(|error| broken(&self.certificate, error))?;
        let (begins, expires) = self.check_chain(&chain, &authorities)?;
        chain.extend(authorities_der.into_iter().filter(|authority| !chain.contains(authority)).collect::<Vec<_>>());
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| {
            broken(key_file, format!("is not the key of the certificate {}: {error}", self.certificate.display()))
        })?;
        Ok(Credentials { own, begins, expires, authorities: Arc::new(authorities), key: Arc::new(key) })
    }

    /// Whether others of the cluster would accept the own certificate. Returns from when to when it is good. One that has
    /// expired is not refused here: jobs of this machine go on without the others, who say what is wrong.
    fn check_chain(
        &self,
        chain: &[CertificateDer<'static>],
        authorities: &RootCertStore,
    ) -> Result<(UnixTime, UnixTime)> {
        let parsed = ParsedCertificate::try_from(&chain[0]).map_err(|error| broken(&self.certificate, error))?;
        let algorithms = provider().signature_verification_algorithms.all;
        let at = |time| verify_server_cert_signed_by_trust_anchor(&parsed, authorities, &chain[1..], time, algorithms);
        let end = end_of_life(at)
            .map_err(|error| broken(&self.certificate, format!("has no end that can be read: {error}")))?;
        let now = UnixTime::now();
        if end < now {
            log::error!("the certificate {} has expired; issue a new one", self.certificate.display());
        }
        match at(end.min(now)) {
            // Only a client's: it is good for connecting, and listening with it is refused by those who connect.
            Ok(()) | Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })) => {
                Ok((begin_of_life(at), end))
            }
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }),
            )) => Err(broken(
                &self.certificate,
                format!(
                    "is not good yet; compare the clock of this machine with that of the one which made it: {error}"
                ),
            )),
            Err(error) => Err(broken(
                &self.certificate,
                format!("is not accepted by the authority in {}: {error}", self.authority.display()),
            )),
        }
    }
}

fn dir_of(path: &Path) -> Result<Dir> {
    Dir::open(path.parent().unwrap_or(Path::new(".")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::disk("read", path.display(), &error))
}

/// The certificates in a file. At least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(broken(path, "holds no certificate as PEM")),
        Err(error) => Err(broken(path, format!("holds no certificate as PEM: {error}"))),
    }
}

/// Refuses a private key that others can read.
pub fn check_mode(key: &Path) -> Result<()> {
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
