//! Secrets at rest: AES-256-GCM under a key that the operator keeps apart from the database.
//!
//! Sealed bytes are `1 ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. The purpose is bound in: bytes sealed for one use do not
//! open for another.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

use crate::{Error, random};

const FORMAT: u8 = 1;

/// The key that seals. Prints as `"..."`.
pub struct SealKey(RandomizedNonceKey);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(\"...\")")
    }
}

impl SealKey {
    /// A key from its 32 bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("32 bytes make an AES-256 key"))
    }

    /// 32 bytes for a new key file.
    pub fn generate() -> [u8; 32] {
        random()
    }

    /// Seals bytes for one purpose.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut body)
            .expect("AES-GCM seals anything shorter than 64 GiB");
        [&[FORMAT], nonce.as_ref().as_slice(), &body].concat()
    }

    /// Opens bytes sealed for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let rest = sealed.strip_prefix(&[FORMAT]).ok_or(Error::Sealed)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(Error::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Sealed)?;
        let mut body = body.to_vec();
        let plain =
            self.0.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body).map_err(|_| Error::Sealed)?.len();
        body.truncate(plain);
        Ok(body)
    }
}
