//! Use cases of access, by noun: logging in, users, sessions, tokens.

mod log_in;
mod sessions;
mod tokens;
mod users;

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use muster_pki::{hex, sha256};

pub use self::log_in::Entrance;
pub(super) use self::tokens::TokenOrder;
use super::{
    model::{self, ATTEMPT_WINDOW, SESSION_IDLE},
    password::Hasher,
    store::{self, UserRow},
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Conn, Db},
        events::{Actor, Source},
    },
    web::{
        Authenticate, Caller, Role,
        gate::{Shown, Via},
    },
};

/// Use of a session or token is written at most this often, milliseconds.
const NOTE_EVERY: i64 = 60_000;

/// The door to access; clones share it.
#[derive(Debug, Clone)]
pub struct Access {
    db: Db,
    hasher: Hasher,
}

impl Access {
    /// The door of this house.
    pub fn new(db: Db) -> Self {
        Self { db, hasher: Hasher::default() }
    }

    #[cfg(test)]
    pub(crate) fn cheap(db: Db) -> Self {
        Self { db, hasher: Hasher::cheap() }
    }

    /// Forgets sessions, tokens and failures that are over.
    pub async fn forget(&self) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                let now = tx.now();
                store::delete_over(&mut tx, now - ATTEMPT_WINDOW, now - SESSION_IDLE, now).await?;
                tx.done(())
            })
            .await
    }
}

impl Authenticate for Access {
    fn who<'a>(&'a self, shown: Shown<'a>, source: Source) -> BoxFuture<'a, Result<Option<Caller>>> {
        Box::pin(async move {
            match shown {
                Shown::Session(secret) => self.by_session(secret, source).await,
                Shown::Token(text) => self.by_token(text, source).await,
            }
        })
    }

    fn still<'a>(&'a self, caller: &'a Caller) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let now = self.db.clock().now();
            let mut conn = self.db.read().await?;
            let good = match &caller.via {
                Via::Session { id, .. } => store::fetch_session(&mut conn, id)
                    .await?
                    .is_some_and(|s| !model::is_over(s.used_at, s.expires_at, now)),
                Via::Token { id } => {
                    store::fetch_token(&mut conn, id).await?.is_some_and(|t| t.expires_at.is_none_or(|at| now < at))
                }
            };
            let user = store::fetch_user(&mut conn, &caller.user_id).await?;
            Ok(good && user.is_some_and(|u| u.disabled == 0))
        })
    }
}

fn caller(user: &UserRow, role: Role, source: Source, via: Via) -> Result<Caller> {
    // A token is for programs, which have nobody to ask for another password.
    let must_change = user.must_change == 1 && matches!(via, Via::Session { .. });
    let actor = user_actor(&user.name, source);
    Ok(Caller { user_id: user.id.clone(), name: user.name.clone(), role, actor, via, must_change })
}

/// Name of the owner of something, if the caller may touch it.
async fn owner(conn: &mut Conn, caller: &Caller, user_id: &str) -> Result<String> {
    if !model::may((&caller.user_id, caller.role), Role::Admin, Some(user_id)) {
        return Err(Error::Forbidden("this belongs to somebody else; it takes the role admin".into()));
    }
    Ok(store::fetch_user(conn, user_id).await?.map(|u| u.name).unwrap_or_default())
}

async fn find(conn: &mut Conn, name: &str) -> Result<UserRow> {
    store::find_user(conn, name).await?.ok_or_else(|| Error::not_found("user", name))
}

/// The role as stored.
pub(super) fn role_of(word: &str) -> Result<Role> {
    Role::from_word(word).ok_or_else(|| Error::internal(anyhow::anyhow!("a stored role is {word:?}")))
}

/// The tags as stored.
pub(super) fn tags_of(user: &UserRow) -> Result<BTreeSet<String>> {
    serde_json::from_str(&user.tags).map_err(Error::internal)
}

/// A user as the one who makes a change.
fn user_actor(name: &str, source: Source) -> Actor {
    Actor { name: format!("user/{name}"), source }
}

fn session_id(caller: &Caller) -> &str {
    match &caller.via {
        Via::Session { id, .. } => id,
        Via::Token { .. } => "",
    }
}

fn secret() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(muster_pki::random::<32>())
}

fn hash(secret: &str) -> String {
    hex(&sha256(secret.as_bytes()))
}
