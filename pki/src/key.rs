//! Keys made where they are used.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Error;

/// A private key on P-256. Prints as `"..."`.
pub struct Key(pub(crate) KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(\"...\")")
    }
}

impl Key {
    /// A new key.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Reads a PKCS#8 key in PEM.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        Ok(Self(KeyPair::from_pem(text)?))
    }

    /// The key as PKCS#8 PEM, for a file that only its owner reads.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Reads a PKCS#8 key in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        Ok(Self(KeyPair::try_from(der)?))
    }

    /// The key as PKCS#8 DER, to be sealed.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// The key for rustls.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.to_der()).into()
    }

    /// A request (PKCS#10, DER) that proves possession and names nothing.
    pub fn request(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }
}
