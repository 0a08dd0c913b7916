//! Ids: 26 characters that sort by the time they were made (48 bits of milliseconds, 80 random bits; after ULID).

/// Crockford's base 32, lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id from the time and ten random bytes.
pub fn new(now: i64, random: [u8; 10]) -> String {
    let mut bits = [0; 16];
    bits[..6].copy_from_slice(&now.to_be_bytes()[2..]);
    bits[6..].copy_from_slice(&random);
    let number = u128::from_be_bytes(bits);
    (0..26).rev().map(|i| char::from(ALPHABET[(number >> (5 * i)) as usize & 31])).collect()
}

/// A new id made now.
pub fn fresh(now: i64) -> String {
    new(now, muster_pki::random())
}

/// Declares id types: text in the database, told apart by the compiler.
#[macro_export]
macro_rules! id_type {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    )+};
}
