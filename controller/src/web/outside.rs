//! Requests to others.

use std::{path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How others are trusted over TLS: by these authorities, or by those this host trusts. The error is a sentence.
pub fn tls(ca_pem: Option<&str>) -> Result<TlsConfig, String> {
    let own = match ca_pem {
        Some(_) => String::new(),
        None => system_roots()?,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(ca_pem.unwrap_or(&own).as_bytes())
        .map(|c| c.map(|c| Certificate::from_der(&c).to_owned()))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the file of certificate authorities holds no certificates: {e}"))?;
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(muster_pki::tls::provider());
    Ok(tls.root_certs(RootCerts::Specific(Arc::new(certificates))).build())
}

/// The certificate authorities this machine trusts.
fn system_roots() -> Result<String, String> {
    let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let mut files = own.into_iter().chain(known.map(PathBuf::from));
    let found = files.find_map(|file| std::fs::read_to_string(file).ok());
    found.ok_or_else(|| "this machine has no list of certificate authorities".into())
}
