//! Certificates that the authority would not make: whoever has its key can, and so can a company's own authority.

use super::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// Signs with the authority's key what it is asked to sign.
pub struct Forger {
    authority: String,
    key: KeyPair,
    dir: TempDir,
    made: usize,
    /// When its certificates begin to be good.
    pub from_year: i32,
}

impl Forger {
    pub fn of(home: &Home) -> Self {
        let dir = private_dir();
        home.authority.save(dir.path()).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.path().join("ca.key")).unwrap();
        Self { authority: home.authority.pem(), key: KeyPair::try_from(&key).unwrap(), dir, made: 0, from_year: 1990 }
    }

    /// The files of a certificate with these URIs and all uses.
    fn forge(&mut self, uris: &[&str]) -> raftwork::net::pki::IssuedFiles {
        self.made += 1;
        let dir = self.dir.path().join(self.made.to_string());
        // A good one, whose certificate is replaced by one for the same key.
        let good = Authority::create(SHOP).unwrap().issue_node(&[]).unwrap().save(&dir, "node").unwrap();
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_file(&good.key).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(self.from_year, 1, 1);
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = DistinguishedName::new();
        issuer.distinguished_name.push(DnType::CommonName, format!("raftwork {SHOP}"));
        let certificate = params.signed_by(&key, &Issuer::new(issuer, &self.key)).unwrap();
        std::fs::write(&good.certificate, pem(certificate.der())).unwrap();
        std::fs::write(&good.authority, &self.authority).unwrap();
        good
    }

    pub fn tls(&mut self, uri: &str) -> Arc<Tls> {
        self.tls_of(&[uri]).unwrap()
    }

    pub fn tls_of(&mut self, uris: &[&str]) -> Result<Arc<Tls>, Error> {
        let files = self.forge(uris);
        Tls::from_files(files.authority, files.certificate, files.key)
    }

    /// Connects without a look at the other side's certificate. Returns what it is told, and what the other side noted.
    pub fn connect_blindly(&mut self, listener: &Listener, uri: &str) -> (String, String) {
        let files = self.forge(&[uri]);
        let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Blind))
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
            .unwrap();
        let refused = listener.tally().refused;
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from("any").unwrap()).unwrap();
        let socket = TcpStream::connect(listener.address()).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        // It believes to be in, as its side of the handshake is over first. What it sends then stays unread, and must not keep
        // the reason from it.
        let _ = stream.write_all(&[0; 100_000]);
        let error = stream.read(&mut [0; 100]).unwrap_err();
        let error = error.downcast::<rustls::Error>().unwrap();
        until(|| listener.tally().refused > refused);
        (raftwork::net::tls::explain(&error).to_string(), listener.tally().last_refusal.unwrap())
    }
}

pub fn pem(der: &[u8]) -> String {
    use base64::prelude::{Engine, BASE64_STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

/// Believes every certificate.
#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
