//! The house's own certificate authority: who is who, without a database and without a network.
//!
//! - [`ca`]: a root signs an issuing CA, an issuing CA signs agents and listeners. Names come from the caller, never
//!   from the request.
//! - [`key`]: a key made where it is used, and the request that goes with it.
//! - [`leaf`]: what home reads from a certificate that was shown to it.
//! - [`tls`]: rustls configurations for both ends; TLS 1.3 alone. They prove chain and possession only.
//! - [`standing`]: whether a proven identity is welcome: pure, from times and rows.
//! - [`rotate`]: when to renew a leaf and how a CA is replaced: pure, from times.
//! - [`seal`]: private keys and secrets at rest.
//!
//! All times are milliseconds since the Unix epoch and come from the caller.

pub mod ca;
pub mod key;
pub mod leaf;
pub mod rotate;
pub mod seal;
pub mod standing;
pub mod tls;

use aws_lc_rs::{digest, rand};

/// The name every listener's certificate carries. Agents verify this name whatever address they dialled, so that a
/// home may move without a new certificate.
pub const HOME_NAME: &str = "home.muster.internal";

/// What went wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request or certificate cannot be read, or asks for what is not given.
    #[error("{0}")]
    Refused(String),
    /// The certificate library failed.
    #[error("certificate library: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// The TLS library failed.
    #[error("TLS library: {0}")]
    Tls(#[from] rustls::Error),
    /// Sealed bytes do not open with this key: another key, another purpose, or damage.
    #[error("sealed bytes do not open: wrong key, wrong purpose, or damaged")]
    Sealed,
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut whole = Sha256::default();
    whole.update(bytes);
    whole.finish()
}

/// SHA-256 of bytes that come piece by piece.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::fill(&mut out).expect("the operating system has random bytes");
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 0x0f)]).collect()
}

/// Bytes from hexadecimal; what is none is left out.
pub fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests;
