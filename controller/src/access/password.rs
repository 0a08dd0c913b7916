//! Passwords as argon2id hashes. Hashing takes a while and runs off the async threads.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::error::{Error, Result};

/// Hashes and checks passwords; clones share it.
#[derive(Debug, Clone)]
pub struct Hasher {
    argon: Argon2<'static>,
    /// The hash of nobody's password: a wrong name is checked against it, so that it costs the same.
    nobody: Arc<str>,
}

impl Default for Hasher {
    /// 19 MiB and two passes, after OWASP.
    fn default() -> Self {
        Self::new(Params::default())
    }
}

impl Hasher {
    fn new(params: Params) -> Self {
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = hash(&argon, &fresh()).expect("a random password is hashed").into();
        Self { argon, nobody }
    }

    /// A hasher that costs next to nothing.
    #[cfg(test)]
    pub fn cheap() -> Self {
        Self::new(Params::new(8, 1, 1, None).expect("the least that argon2 takes"))
    }

    /// Hashes a password.
    pub async fn hash(&self, password: &str) -> Result<String> {
        let (argon, password) = (self.argon.clone(), password.to_owned());
        tokio::task::spawn_blocking(move || hash(&argon, &password)).await.map_err(Error::internal)?
    }

    /// Whether it is the password of this hash. Without a hash there is as much work and no.
    pub async fn is_right(&self, password: &str, of: Option<&str>) -> Result<bool> {
        let (argon, password) = (self.argon.clone(), password.to_owned());
        let (known, text) = (of.is_some(), of.unwrap_or(&self.nobody).to_owned());
        let check = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&text).map_err(|e| anyhow::anyhow!("a stored hash cannot be read: {e}"))?;
            Ok::<_, anyhow::Error>(argon.verify_password(password.as_bytes(), &hash).is_ok())
        });
        let right = check.await.map_err(Error::internal)?.map_err(Error::internal)?;
        Ok(right && known)
    }
}

fn hash(argon: &Argon2<'_>, password: &str) -> Result<String> {
    let salt =
        SaltString::encode_b64(&muster_pki::random::<16>()).map_err(|e| Error::internal(anyhow::anyhow!("{e}")))?;
    let hash = argon.hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(|e| Error::internal(anyhow::anyhow!("a password was not hashed: {e}")))?.to_string())
}

/// A random password of 24 characters.
pub fn fresh() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(muster_pki::random::<18>())
}
