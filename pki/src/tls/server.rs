//! Home's end.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{ALPN_H2, Tickets, provider};
use crate::{Error, key::Key, leaf};

/// What a listener shows.
#[derive(Debug)]
pub struct Presented<'a> {
    /// Own certificate first, root last: an invitation pins the root, so the root must be shown.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: &'a Key,
}

/// The configuration of the agents' port. A client without a certificate is let through as nobody.
///
/// `roots` are all roots home ever issued under and has not retired, active or former.
pub fn server(
    shown: Presented<'_>,
    roots: &[CertificateDer<'static>],
    tickets: Arc<Tickets>,
) -> Result<ServerConfig, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Refused(format!("the trust roots cannot be used: {e}")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Timeless(verifier)))
        .with_single_cert(shown.chain, shown.key.to_rustls())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.ticketer = tickets;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The configuration of the API's port: no client certificates. `alpn` in order of preference.
pub fn server_without_clients(
    chain: Vec<CertificateDer<'static>>,
    key: rustls_pki_types::PrivateKeyDer<'static>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// Proves chain and possession, at a moment the certificate itself claims to be valid at.
///
/// An alert in the handshake is often lost, and says too little: an expired or future certificate must get a typed
/// answer. So time is left to [`crate::standing`].
#[derive(Debug)]
struct Timeless(Arc<dyn ClientCertVerifier>);

// === impl Timeless ===

impl ClientCertVerifier for Timeless {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let leaf =
            leaf::read(end_entity).map_err(|_| TlsError::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let (from, to) = (leaf.not_before / 1000, leaf.not_after / 1000);
        let moment = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).max(from).min(to).max(0);
        let moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(moment.unsigned_abs()));
        self.0.verify_client_cert(end_entity, intermediates, moment)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }
}
