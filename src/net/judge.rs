//! Which certificates are let in, and the words for those that are not.
//!
//! What holds
//! * Everything is checked inside the handshake: who is not let in learns nothing but why, and no byte of a frame is read
//!   from it.
//! * First the chain (authority, validity, purpose), then the cluster, then the role. Each has its own alert, so that the
//!   other side's log names the reason too.

use super::certified::Certified;
use super::security::Admit;
use super::tls::{provider, Fingerprint};
use super::validity::end_of_life;
use crate::base::sync::Mutex;
use crate::base::{ClusterId, Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;

pub(super) const OTHERS_EXPIRED: &str =
    "the other side's certificate has expired; issue it a new one, or compare the clocks of both machines";
pub(super) const OWN_EXPIRED: &str = "the own certificate has expired; issue a new one";

type Checked<T> = std::result::Result<T, rustls::Error>;

/// Judges the certificate of one connection.
#[derive(Debug)]
pub struct Judge {
    trust: Trust,
    admit: Admit,
    /// Says whether a client's chain is good; only a side that accepts has it.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    verdict: Mutex<Option<Result<Verdict>>>,
}

/// Whom a certificate names, and until when.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub certified: Certified,
    pub expires: UnixTime,
}

/// What makes a chain good.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Signed by one of these authorities, for this cluster if one is known.
    Authorities(Arc<RootCertStore>, Option<ClusterId>),
    /// Signed by the authority with this fingerprint, whatever its cluster.
    Fingerprint(Fingerprint),
}

impl Judge {
    /// Of a side that connects: only a node may be on the other.
    pub fn of_nodes(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, admit: Admit::NODES, clients: None, verdict: Mutex::new(None) })
    }

    /// Of a side that accepts.
    pub fn of_clients(trust: Trust, admit: Admit, clients: Arc<dyn ClientCertVerifier>) -> Arc<Self> {
        Arc::new(Self { trust, admit, clients: Some(clients), verdict: Mutex::new(None) })
    }

    /// What the certificate says, or why it was refused. Nothing: there was none.
    pub fn verdict(&self) -> Option<Result<Verdict>> {
        self.verdict.lock().clone()
    }

    /// Judges a certificate whose chain is good.
    fn judge(&self, certificate: &CertificateDer<'_>, expires: UnixTime) -> Checked<()> {
        let (alert, verdict) = match self.whom(certificate) {
            Ok(certified) => (None, Ok(Verdict { certified, expires })),
            Err((alert, error)) => (Some(alert), Err(error)),
        };
        *self.verdict.lock() = Some(verdict);
        alert.map_or(Ok(()), |alert| Err(alert.into()))
    }

    fn whom(&self, certificate: &CertificateDer<'_>) -> std::result::Result<Certified, (CertificateError, Error)> {
        let other_cluster = |error: Error| (CertificateError::Other(OtherError(Arc::new(error.clone()))), error);
        let theirs = Certified::of(certificate).map_err(other_cluster)?;
        match self.trust {
            Trust::Authorities(_, Some(cluster)) if cluster != theirs.cluster => {
                Err(other_cluster(Error::Foreign(format!(
                "the other side's certificate is for cluster {}, and this side works with cluster {cluster}; check the \
                 address, or issue a certificate of this cluster",
                theirs.cluster
            ))))
            }
            _ if !self.admit.lets_in(&theirs.role) => {
                let error = Error::Foreign(format!(
                    "the other side's certificate is for the role {}, and only {} may be there; use the other port, or a \
                     certificate with the right role",
                    theirs.role, self.admit
                ));
                Err((CertificateError::ApplicationVerificationFailure, error))
            }
            _ => Ok(theirs),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Checked<ServerCertVerified> {
        let pinned;
        let authorities = match &self.trust {
            Trust::Authorities(authorities, _) => authorities,
            Trust::Fingerprint(fingerprint) => {
                let mut found = RootCertStore::empty();
                for other in others.iter().filter(|other| Fingerprint::of(other) == *fingerprint) {
                    found.add(other.clone().into_owned())?;
                }
                pinned = Arc::new(found);
                &pinned
            }
        };
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let at = |time| verify_server_cert_signed_by_trust_anchor(&parsed, authorities, others, time, algorithms);
        at(now)?;
        self.judge(certificate, end_of_life(at)?)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        !self.admit.strangers
    }

    /// None: the names of authorities are nobody's business before the handshake is over.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Checked<ClientCertVerified> {
        let chain = self.clients.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let at = |time| chain.verify_client_cert(certificate, others, time);
        let verified = at(now)?;
        self.judge(certificate, end_of_life(at)?)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// What a failed handshake, or a broken record, means and what to do.
pub fn explain(error: &rustls::Error) -> Error {
    let words = match error {
        rustls::Error::InvalidCertificate(why) => own_words(why),
        rustls::Error::AlertReceived(alert) => their_words(*alert),
        rustls::Error::NoCertificatesPresented => {
            Some("the other side has no certificate; give it one that this cluster's authority signed")
        }
        rustls::Error::InvalidMessage(_) => Some("the other side does not speak TLS; give it certificates too"),
        rustls::Error::PeerIncompatible(_) => Some("the two sides have no version of TLS in common; 1.3 is needed"),
        _ => None,
    };
    Error::Foreign(words.map_or_else(|| format!("TLS failed: {error}"), str::to_owned))
}

/// Why this side does not like the other's certificate.
fn own_words(error: &CertificateError) -> Option<&'static str> {
    use CertificateError::*;
    Some(match error {
        Expired | ExpiredContext { .. } => OTHERS_EXPIRED,
        NotValidYet | NotValidYetContext { .. } => {
            "the other side's certificate is not valid yet; compare the clocks of both machines"
        }
        UnknownIssuer | BadSignature => {
            "the other side's certificate was not signed by the authority (CA) that this side trusts; give both sides the \
             same CA file"
        }
        InvalidPurpose | InvalidPurposeContext { .. } => {
            "the other side's certificate is not made for this end of a connection (extended key usage)"
        }
        _ => return None,
    })
}

/// Why the other side does not like this side's certificate.
fn their_words(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateExpired => {
            "the other side says that the own certificate has expired or is not valid yet; issue a new one, or compare the \
             clocks of both machines"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the other side does not trust the authority (CA) that signed the own certificate; give both sides the same \
             CA file"
        }
        AlertDescription::CertificateUnknown => {
            "the other side belongs to another cluster than the own certificate; check the address, or issue a certificate \
             of that cluster"
        }
        AlertDescription::AccessDenied => {
            "the other side does not let in the role of the own certificate; use the other port, or a certificate with the \
             right role"
        }
        AlertDescription::CertificateRequired => {
            "the other side lets nobody in without a certificate, and this side has none"
        }
        AlertDescription::UnsupportedCertificate => {
            "the other side says that the own certificate is not made for this end of a connection (extended key usage)"
        }
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "the two sides have no version of TLS in common; 1.3 is needed"
        }
        _ => return None,
    })
}
