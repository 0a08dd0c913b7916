//! An agent's end.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{ALPN_H2, provider};
use crate::{Error, key::Key, sha256};

/// Whom an agent takes for home.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Whoever's chain contains the root with this SHA-256: before enrolment, from the invitation.
    Pin([u8; 32]),
    /// Whoever's chain leads to one of these roots: from enrolment on.
    Roots(Vec<CertificateDer<'static>>),
}

/// What an agent shows: its certificate chain, leaf first, and the key.
#[derive(Debug)]
pub struct Identity<'a> {
    /// Leaf first, root left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: &'a Key,
}

/// The configuration of an agent, with or without an identity. Dial with [`crate::HOME_NAME`] as the server's name.
pub fn client(trust: &Trust, identity: Option<Identity<'_>>) -> Result<ClientConfig, Error> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pin(pin) => Arc::new(Pinned(*pin)),
        Trust::Roots(roots) => verifier(roots)?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(own) => builder.with_client_auth_cert(own.chain, own.key.to_rustls())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    WebPkiServerVerifier::builder_with_provider(store.into(), provider())
        .build()
        .map_err(|e| Error::Refused(format!("the trust roots cannot be used: {e}")))
}

/// Takes the root that the pin names out of the chain shown, then verifies as usual against that root.
#[derive(Debug)]
struct Pinned([u8; 32]);

// === impl Pinned ===

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let root = intermediates
            .iter()
            .find(|c| sha256(c) == self.0)
            .ok_or(TlsError::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier(&[root.clone().into_owned()])
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
