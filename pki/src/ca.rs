//! Certificate authorities: a root signs an issuing CA, an issuing CA signs leaves.
//!
//! Serial numbers are 16 random bytes. Every certificate is backdated against skewed clocks: authorities and listeners
//! by 48 hours, agents by one.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CrlDistributionPoint, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;

use crate::{Error, key::Key, leaf, random, sha256};

const HOUR: i64 = 3_600_000;

/// How far an authority's or a listener's validity reaches back, milliseconds.
pub const BACKDATE_HOME: i64 = 48 * HOUR;

/// How far an agent's validity reaches back, milliseconds.
pub const BACKDATE_AGENT: i64 = HOUR;

/// What signs: a certificate, its key and the certificates above it.
///
/// This is the seam at which another authority can stand in: whatever gives these three answers can issue.
pub trait Sign {
    /// Signs a leaf for the key of `request`, with names from `profile` alone.
    fn sign(&self, request: &[u8], profile: &Profile, now: i64) -> Result<Issued, Error>;
    /// The issuing certificate and those above it, root last; DER.
    fn chain(&self) -> &[CertificateDer<'static>];
    /// A list of revoked serial numbers (RFC 5280 CRL, DER), for those who cannot ask home.
    fn revocation_list(&self, revoked: &[(Vec<u8>, i64)], number: u64, now: i64) -> Result<Vec<u8>, Error>;
}

/// Who a leaf is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// An agent; may only be a TLS client.
    Agent {
        /// Domain of the SPIFFE name.
        trust_domain: String,
        /// Identity minted by home.
        agent_id: String,
        /// Life from now, milliseconds.
        life: i64,
    },
    /// A listener of home; may only be a TLS server.
    Listener {
        /// DNS names and IP addresses, in text.
        names: Vec<String>,
        /// Life from now, milliseconds.
        life: i64,
    },
    /// A router: client of some and server to others.
    Router {
        /// Who it is to those that admit by name.
        common_name: String,
        /// What others dial, in text. All become DNS names: routers look at no other kind.
        names: Vec<String>,
        /// Life from now, milliseconds.
        life: i64,
    },
}

/// A leaf as issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, DER.
    pub der: CertificateDer<'static>,
    /// What stands in it.
    pub leaf: leaf::Leaf,
}

/// An authority whose key is at hand.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
}

// === impl Authority ===

impl Authority {
    /// A new self-signed root.
    pub fn root(common_name: &str, life: i64, now: i64) -> Result<(Self, Key), Error> {
        let key = Key::generate()?;
        let params = authority_params(common_name, None, life, now)?;
        let certificate = params.self_signed(&key.0)?;
        Ok((Self::load(&key, vec![certificate.der().clone()])?, key))
    }

    /// A new authority under this one that signs leaves only.
    pub fn issuing(&self, common_name: &str, life: i64, now: i64) -> Result<(Self, Key), Error> {
        let key = Key::generate()?;
        let params = authority_params(common_name, Some(0), life, now)?;
        let certificate = params.signed_by(&key.0, &self.issuer)?;
        let chain = [vec![certificate.der().clone()], self.chain.clone()].concat();
        Ok((Self::load(&key, chain)?, key))
    }

    /// An authority from what was stored: its key and its chain, own certificate first, root last.
    pub fn load(key: &Key, chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let own = chain.first().ok_or_else(|| Error::Refused("an authority needs its certificate".into()))?;
        let issuer = Issuer::from_ca_cert_der(own, KeyPair::try_from(key.to_der().as_slice())?)?;
        Ok(Self { issuer, chain })
    }
}

impl Sign for Authority {
    fn sign(&self, request: &[u8], profile: &Profile, now: i64) -> Result<Issued, Error> {
        let request = parse_request(request)?;
        let params = leaf_params(profile, now)?;
        let certificate: Certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued { leaf: leaf::read(certificate.der())?, der: certificate.der().clone() })
    }

    fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    fn revocation_list(&self, revoked: &[(Vec<u8>, i64)], number: u64, now: i64) -> Result<Vec<u8>, Error> {
        let revoked_certs = revoked
            .iter()
            .map(|(serial, at)| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: time(*at)?,
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, Error>>()?;
        let params = CertificateRevocationListParams {
            this_update: time(now)?,
            next_update: time(now + 24 * HOUR)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.der().to_vec())
    }
}

/// SHA-256 of the key a request proves possession of (SubjectPublicKeyInfo), hexadecimal.
pub fn request_key_hash(request: &[u8]) -> Result<String, Error> {
    Ok(crate::hex(&sha256(&parse_request(request)?.public_key.subject_public_key_info())))
}

/// Reads a request, checks its signature, and admits only P-256 and Ed25519 keys.
fn parse_request(der: &[u8]) -> Result<CertificateSigningRequestParams, Error> {
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|e| Error::Refused(format!("the certificate request cannot be used: {e}")))?;
    let algorithm = PublicKeyData::algorithm(&request.public_key);
    if algorithm != &PKCS_ECDSA_P256_SHA256 && algorithm != &PKCS_ED25519 {
        return Err(Error::Refused("the key of a certificate request must be P-256 or Ed25519".into()));
    }
    Ok(request)
}

fn authority_params(name: &str, path_length: Option<u8>, life: i64, now: i64) -> Result<CertificateParams, Error> {
    let mut params = blank_params(now - BACKDATE_HOME, now + life)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(profile: &Profile, now: i64) -> Result<CertificateParams, Error> {
    let (backdate, life) = match profile {
        Profile::Agent { life, .. } => (BACKDATE_AGENT, *life),
        Profile::Listener { life, .. } | Profile::Router { life, .. } => (BACKDATE_HOME, *life),
    };
    let mut params = blank_params(now - backdate, now + life)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    match profile {
        Profile::Agent { trust_domain, agent_id, .. } => {
            let name = leaf::agent_name(trust_domain, agent_id);
            params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Profile::Listener { names, .. } => {
            params.subject_alt_names = names.iter().map(|n| listener_name(n)).collect::<Result<_, _>>()?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Profile::Router { common_name, names, .. } => {
            params.distinguished_name.push(DnType::CommonName, common_name);
            let dns = |name: &String| Ok(SanType::DnsName(name.as_str().try_into()?));
            params.subject_alt_names = names.iter().map(dns).collect::<Result<_, Error>>()?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    Ok(params)
}

fn listener_name(name: &str) -> Result<SanType, Error> {
    Ok(match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

fn blank_params(not_before: i64, not_after: i64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.not_before = time(not_before)?;
    params.not_after = time(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.distinguished_name = DistinguishedName::new();
    params.crl_distribution_points = Vec::<CrlDistributionPoint>::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A positive serial number of 16 bytes without a leading zero, so that it reads the same everywhere.
fn serial() -> [u8; 16] {
    let mut serial = random::<16>();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn time(ms: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .map_err(|_| Error::Refused(format!("{ms} ms is no time a certificate can carry")))
}
