//! How an invitation token is written: `muster-` and the base64url of [`InvitationToken`].

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use crate::fleet::InvitationToken;

const PREFIX: &str = "muster-";

/// Why a text is not an invitation token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The text does not begin as tokens do.
    #[error("an invitation token begins with `muster-`")]
    Prefix,
    /// The text was cut or changed on its way.
    #[error("the invitation token is damaged; copy it again, in one piece")]
    Damaged,
}

/// The token as a person copies it.
pub fn format(token: &InvitationToken) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token.encode_to_vec()))
}

/// Reads a token, with white space around it forgiven.
pub fn parse(text: &str) -> Result<InvitationToken, Error> {
    let body = text.trim().strip_prefix(PREFIX).ok_or(Error::Prefix)?;
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| Error::Damaged)?;
    let token = InvitationToken::decode(bytes.as_slice()).map_err(|_| Error::Damaged)?;
    if token.homes.is_empty() || token.root_sha256.len() != 32 || token.secret.is_empty() {
        return Err(Error::Damaged);
    }
    Ok(token)
}
