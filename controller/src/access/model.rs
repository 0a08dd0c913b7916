//! What access decides, without a database. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    web::Role,
};

/// A change of a user; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// What they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// May not log in; sessions and tokens end at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Which nodes are open to them: those that carry one of these, and those without any; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
}

/// A session unused for this long is over, milliseconds.
pub const SESSION_IDLE: i64 = 12 * 3_600_000;

/// A session is over this long after its log-in, milliseconds.
pub const SESSION_LIFE: i64 = 7 * 86_400_000;

/// A token given at log-in lives this long, milliseconds.
pub const LOGIN_TOKEN_LIFE: i64 = 30 * 86_400_000;

/// A token lives at most this long, milliseconds: ten years.
pub const MAX_TOKEN_LIFE: i64 = 3650 * 86_400_000;

/// Failed log-ins of one name or from one address within [`ATTEMPT_WINDOW`] before more are refused.
pub const MAX_ATTEMPTS: i64 = 10;

/// How long a failed log-in counts, milliseconds.
pub const ATTEMPT_WINDOW: i64 = 5 * 60_000;

/// Characters of a password at least.
pub const MIN_PASSWORD: usize = 12;

/// Characters of a password at most: hashing is work.
pub const MAX_PASSWORD: usize = 1000;

/// Whether somebody of `role` may do what takes `action`, to a thing of `owner`. Whoever owns a thing may do anything to
/// it.
pub fn may(actor: (&str, Role), action: Role, owner: Option<&str>) -> bool {
    let (id, role) = actor;
    role >= action || owner == Some(id)
}

/// Whether a session is over.
pub fn is_over(used_at: i64, expires_at: i64, now: i64) -> bool {
    now >= expires_at || now >= used_at + SESSION_IDLE
}

/// What a token may: never more than its owner may at this moment.
pub fn token_role(token: Role, owner: Role) -> Role {
    token.min(owner)
}

/// How long to wait, milliseconds, after the failures at these times, oldest first; none: no need.
pub fn wait(failures: &[i64], now: i64) -> Option<i64> {
    let limit = usize::try_from(MAX_ATTEMPTS).unwrap_or(usize::MAX);
    let at = *failures.get(failures.len().checked_sub(limit)?)?;
    let wait = at + ATTEMPT_WINDOW - now;
    (wait > 0).then_some(wait)
}

/// Refuses a name that is none.
pub fn check_name(name: &str) -> Result<()> {
    let right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if (1..=32).contains(&name.len()) && name.bytes().all(right) {
        return Ok(());
    }
    Err(Error::invalid("name", "a name has 1 to 32 characters of a-z, 0-9, dot, underscore and hyphen"))
}

/// Refuses tags that no node could carry: a label lists them with dots between.
pub fn check_tags(tags: &BTreeSet<String>) -> Result<()> {
    let right = |tag: &String| {
        (1..=63).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match tags.iter().find(|tag| !right(tag)) {
        None => Ok(()),
        Some(_) => Err(Error::invalid("tags", "a tag has 1 to 63 letters, digits, '-' and '_'")),
    }
}

/// Refuses a password that is too short, or too long to hash.
pub fn check_password(field: &str, password: &str, name: &str) -> Result<()> {
    let length = password.chars().count();
    if !(MIN_PASSWORD..=MAX_PASSWORD).contains(&length) {
        let text = format!("a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters");
        return Err(Error::invalid(field, text));
    }
    if password.contains(name) && length < name.len() + MIN_PASSWORD {
        return Err(Error::invalid(field, "without the name in it, this password is too short"));
    }
    Ok(())
}
