//! What home reads from a certificate that was shown to it.

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{Error, hex, sha256};

/// The facts of one certificate that decisions rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The agent's id from `spiffe://<trust-domain>/agent/<id>`; none when the certificate names no agent.
    pub agent_id: Option<String>,
    /// The trust domain of that name.
    pub trust_domain: Option<String>,
    /// Common name of its subject; empty when it has none.
    pub common_name: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Start of validity, milliseconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, milliseconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the subject's public key (SubjectPublicKeyInfo, DER), hexadecimal.
    pub key_hash: String,
    /// Key identifier of the issuer, hexadecimal; empty when not named.
    pub issuer_key: String,
    /// Key identifier of the subject, hexadecimal; empty when not named.
    pub subject_key: String,
    /// Whether the certificate may sign others.
    pub is_ca: bool,
}

/// Reads a certificate (DER).
pub fn read(der: &[u8]) -> Result<Leaf, Error> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| Error::Refused(format!("not a certificate: {e}")))?;
    let mut leaf = Leaf {
        agent_id: None,
        trust_domain: None,
        common_name: cert.subject().iter_common_name().find_map(|n| n.as_str().ok()).unwrap_or_default().into(),
        serial: hex(cert.raw_serial()),
        not_before: cert.validity().not_before.timestamp() * 1000,
        not_after: cert.validity().not_after.timestamp() * 1000,
        key_hash: hex(&sha256(cert.public_key().raw)),
        issuer_key: String::new(),
        subject_key: String::new(),
        is_ca: cert.is_ca(),
    };
    for extension in cert.iter_extensions() {
        use x509_parser::extensions::ParsedExtension::{
            AuthorityKeyIdentifier, SubjectAlternativeName, SubjectKeyIdentifier,
        };
        match extension.parsed_extension() {
            SubjectAlternativeName(names) => {
                let uri = names.general_names.iter().find_map(|n| match n {
                    GeneralName::URI(uri) => parse_agent_name(uri),
                    _ => None,
                });
                (leaf.trust_domain, leaf.agent_id) = uri.unzip();
            }
            AuthorityKeyIdentifier(id) => {
                leaf.issuer_key = id.key_identifier.as_ref().map(|k| hex(k.0)).unwrap_or_default();
            }
            SubjectKeyIdentifier(id) => leaf.subject_key = hex(id.0),
            _ => {}
        }
    }
    Ok(leaf)
}

/// The name in an agent's certificate.
pub fn agent_name(trust_domain: &str, agent_id: &str) -> String {
    format!("spiffe://{trust_domain}/agent/{agent_id}")
}

fn parse_agent_name(uri: &str) -> Option<(String, String)> {
    let (domain, id) = uri.strip_prefix("spiffe://")?.split_once("/agent/")?;
    (!domain.is_empty() && !id.is_empty() && !id.contains('/')).then(|| (domain.into(), id.into()))
}
