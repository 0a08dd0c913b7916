//! Use cases of access.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use muster_pki::{hex, sha256};
use serde_json::json;

use super::{
    model::{self, ATTEMPT_WINDOW, LOGIN_TOKEN_LIFE, MAX_TOKEN_LIFE, SESSION_IDLE, SESSION_LIFE},
    password::{self, Hasher},
    store::{self, SessionRow, TokenRow, UserRow},
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Conn, Db, Tx, is_duplicate},
        events::{Actor, Source},
        id,
    },
    web::{
        Authenticate, Caller, Role,
        gate::{Client, Shown, Via},
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

/// Somebody who showed the right password.
#[derive(Debug, Clone)]
pub struct Entrance {
    user: UserRow,
    /// What they may.
    pub role: Role,
    /// The password must be changed first.
    pub must_change: bool,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub(super) struct TokenOrder {
    pub name: String,
    pub role: Role,
    /// Milliseconds; none: until it is revoked.
    pub life: Option<i64>,
}

// === impl Access: log-in ===

impl Access {
    /// The door of this house.
    pub fn new(db: Db) -> Self {
        Self { db, hasher: Hasher::default() }
    }

    #[cfg(test)]
    pub(crate) fn cheap(db: Db) -> Self {
        Self { db, hasher: Hasher::cheap() }
    }

    /// Makes the first admin where there is no user yet. Gives the one-time password.
    pub async fn found(&self) -> Result<Option<String>> {
        if !store::is_empty(&mut *self.db.read().await?).await? {
            return Ok(None);
        }
        let password = password::fresh();
        let hash = self.hasher.hash(&password).await?;
        let hash = &hash;
        let made = self
            .db
            .write(|mut tx| async move {
                if !store::is_empty(&mut tx).await? {
                    return tx.done(false);
                }
                let row = user_row("admin", Role::Admin, hash, true, tx.now());
                insert(&mut tx, &Actor::controller(), &row).await?;
                tx.done(true)
            })
            .await;
        match made {
            Ok(made) => Ok(made.then_some(password)),
            // Another replica was quicker.
            Err(Error::Conflict(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks a name and password. Too many failures of the name or from the address are refused without a look.
    pub async fn enter(&self, name: &str, password: &str, client: &Client) -> Result<Entrance> {
        let name = name.trim().chars().take(64).collect::<String>().replace('\0', "");
        let attempt = self.begin_attempt(&name, &client.address).await?;
        let found = store::find_user(&mut *self.db.read().await?, &name).await?;
        let usable = password.chars().count() <= model::MAX_PASSWORD;
        let shown = if usable { password } else { "" };
        let hash = found.as_ref().filter(|_| usable).map(|u| u.password_hash.as_str());
        let right = self.hasher.is_right(shown, hash).await?;
        let Some(user) = found.filter(|u| right && u.disabled == 0) else {
            return Err(Error::Unauthenticated("the name or the password is wrong, or the user is disabled".into()));
        };
        self.db
            .write(|mut tx| {
                let attempt = &attempt;
                async move {
                    store::delete_attempt(&mut tx, attempt).await?;
                    tx.done(())
                }
            })
            .await?;
        Ok(Entrance { role: role_of(&user.role)?, must_change: user.must_change == 1, user })
    }

    /// Counts a try as failed until it has succeeded, so that tries side by side count each other.
    async fn begin_attempt(&self, name: &str, address: &str) -> Result<String> {
        let wait = self
            .db
            .write(|mut tx| async move {
                let now = tx.now();
                let (of_name, of_address) = store::attempts(&mut tx, name, address, now - ATTEMPT_WINDOW).await?;
                let of_address = if address.is_empty() { Vec::new() } else { of_address };
                let wait = [&of_name, &of_address].iter().filter_map(|f| model::wait(f, now)).max();
                if let Some(wait) = wait {
                    return tx.done(Err(wait));
                }
                let id = id::fresh(now);
                store::insert_attempt(&mut tx, &id, name, address, now).await?;
                tx.done(Ok(id))
            })
            .await?;
        wait.map_err(|wait| Error::Busy {
            message: "too many failed log-ins; wait before the next one".into(),
            retry_after_secs: (wait.unsigned_abs()).div_ceil(1000),
        })
    }

    /// Opens a web session; `old` is ended with it. Gives its secret, for the cookie.
    pub async fn open_session(&self, entrance: &Entrance, client: &Client, old: Option<&str>) -> Result<String> {
        let secret = secret();
        let (user, secret_hash) = (&entrance.user, hash(&secret));
        let (old, secret_hash) = (old.map(hash), &secret_hash);
        let old = &old;
        self.db
            .write(|mut tx| async move {
                let now = tx.now();
                if let Some(old) = old
                    && let Some(row) = store::find_session(&mut tx, old).await?
                {
                    store::delete_session(&mut tx, &row.id).await?;
                }
                let row = SessionRow {
                    id: id::fresh(now),
                    user_id: user.id.clone(),
                    csrf: self::secret(),
                    user_agent: client.user_agent.clone(),
                    address: client.address.clone(),
                    created_at: now,
                    used_at: now,
                    expires_at: now + SESSION_LIFE,
                };
                store::insert_session(&mut tx, &row, secret_hash).await?;
                let actor = user_actor(&user.name, Source::Console);
                let after = json!({"address": row.address, "user_agent": row.user_agent});
                let change = actor.change("session.opened", format!("user/{}/session/{}", user.name, row.id));
                tx.record(change.after(after)).await?;
                tx.done(())
            })
            .await?;
        Ok(secret)
    }

    /// Gives a token for thirty days.
    pub(super) async fn open_token(
        &self,
        entrance: &Entrance,
        source: Source,
        name: Option<String>,
    ) -> Result<(TokenRow, String)> {
        let actor = user_actor(&entrance.user.name, source);
        let name = name.unwrap_or_else(|| format!("login {}", id::fresh(self.db.clock().now())));
        let order = TokenOrder { name, role: entrance.role, life: Some(LOGIN_TOKEN_LIFE) };
        self.make_token(&actor, &entrance.user, &order, true).await
    }

    /// Ends whatever the caller is known by.
    pub async fn log_out(&self, caller: &Caller) -> Result<()> {
        match &caller.via {
            Via::Session { id, .. } => self.end_session(caller, id).await,
            Via::Token { id } => self.revoke_token(caller, id).await,
        }
    }
}

// === impl Access: users ===

impl Access {
    /// Users by name, after a name.
    pub async fn users(&self, after: &str, limit: i64) -> Result<Vec<UserRow>> {
        store::users(&mut *self.db.read().await?, after, limit).await
    }

    /// A user, or the error that there is none.
    pub async fn user(&self, name: &str) -> Result<UserRow> {
        find(&mut *self.db.read().await?, name).await
    }

    /// Makes a user. Without a password one is made up; it must be changed at the first log-in. Gives it.
    pub async fn create_user(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
        password: Option<&str>,
    ) -> Result<(UserRow, Option<String>)> {
        model::check_name(name)?;
        let made_up = password.is_none().then(password::fresh);
        let password = password.or(made_up.as_deref()).unwrap_or_default();
        model::check_password("password", password, name)?;
        let hash = self.hasher.hash(password).await?;
        let (hash, must_change) = (&hash, made_up.is_some());
        let row = self
            .db
            .write(|mut tx| async move {
                let row = user_row(name, role, hash, must_change, tx.now());
                insert(&mut tx, actor, &row).await?;
                tx.done(row)
            })
            .await?;
        Ok((row, made_up))
    }

    /// Changes role and standing. Disabling ends sessions and tokens at once.
    pub async fn change_user(
        &self,
        actor: &Actor,
        name: &str,
        change: (Option<Role>, Option<bool>),
        version: Option<i64>,
    ) -> Result<UserRow> {
        self.db
            .write(|mut tx| async move {
                let admins = store::lock_admins(&mut tx).await?;
                let user = find(&mut tx, name).await?;
                let role = change.0.map_or_else(|| role_of(&user.role), Ok)?;
                let disabled = change.1.unwrap_or(user.disabled == 1);
                if role != Role::Admin || disabled {
                    keep_an_admin(&admins, &user.id)?;
                }
                let version = version.unwrap_or(user.version);
                let version = store::save_user(&mut tx, &user.id, role, disabled, version).await?;
                let version = version.ok_or(Error::Stale)?;
                if disabled {
                    store::delete_sessions(&mut tx, &user.id, "").await?;
                    store::delete_tokens(&mut tx, &user.id).await?;
                }
                let before = json!({"role": user.role, "disabled": user.disabled == 1});
                let after = json!({"role": role, "disabled": disabled});
                if before != after {
                    let change = actor.change("user.changed", format!("user/{name}"));
                    tx.record(change.before(before).after(after)).await?;
                }
                tx.done(UserRow { role: role.word().into(), disabled: disabled.into(), version, ..user })
            })
            .await
    }

    /// Removes a user, with sessions and tokens.
    pub async fn remove_user(&self, actor: &Actor, name: &str) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                let admins = store::lock_admins(&mut tx).await?;
                let user = find(&mut tx, name).await?;
                keep_an_admin(&admins, &user.id)?;
                store::delete_user(&mut tx, &user.id).await?;
                let before = json!({"role": user.role});
                tx.record(actor.change("user.removed", format!("user/{name}")).before(before)).await?;
                tx.done(())
            })
            .await
    }

    /// Gives a user another password, to be changed at the next log-in; ends sessions and tokens. Without one, one is made
    /// up. Gives it.
    pub async fn reset_password(&self, actor: &Actor, name: &str, password: Option<&str>) -> Result<String> {
        let made_up = password::fresh();
        let password = password.unwrap_or(&made_up);
        model::check_password("password", password, name)?;
        let hash = self.hasher.hash(password).await?;
        let hash = &hash;
        self.db
            .write(|mut tx| async move {
                let user = find(&mut tx, name).await?;
                store::save_password(&mut tx, &user.id, hash, true).await?;
                store::delete_sessions(&mut tx, &user.id, "").await?;
                store::delete_tokens(&mut tx, &user.id).await?;
                tx.record(actor.change("user.password_reset", format!("user/{name}"))).await?;
                tx.done(())
            })
            .await?;
        Ok(password.to_owned())
    }

    /// Changes one's own password; ends one's other sessions.
    pub async fn change_password(&self, caller: &Caller, client: &Client, current: &str, new: &str) -> Result<()> {
        self.enter(&caller.name, current, client).await.map_err(|error| match error {
            Error::Unauthenticated(_) => Error::invalid("current", "this is not the current password"),
            other => other,
        })?;
        model::check_password("password", new, &caller.name)?;
        if new == current {
            return Err(Error::invalid("password", "this is the password there is"));
        }
        let hash = self.hasher.hash(new).await?;
        let hash = &hash;
        let own = session_id(caller);
        self.db
            .write(|mut tx| async move {
                store::save_password(&mut tx, &caller.user_id, hash, false).await?;
                store::delete_sessions(&mut tx, &caller.user_id, own).await?;
                tx.record(caller.actor.change("user.password_changed", format!("user/{}", caller.name))).await?;
                tx.done(())
            })
            .await
    }
}

// === impl Access: sessions and tokens ===

impl Access {
    /// Sessions of a user, newest first.
    pub async fn sessions(&self, user_id: &str) -> Result<Vec<SessionRow>> {
        store::sessions(&mut *self.db.read().await?, user_id).await
    }

    /// Ends a session: one's own, or anybody's for an admin.
    pub async fn end_session(&self, caller: &Caller, id: &str) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                let row = store::fetch_session(&mut tx, id).await?;
                let row = row.ok_or_else(|| Error::not_found("session", id))?;
                let owner = owner(&mut tx, caller, &row.user_id).await?;
                store::delete_session(&mut tx, id).await?;
                let subject = format!("user/{owner}/session/{id}");
                tx.record(caller.actor.change("session.ended", subject)).await?;
                tx.done(())
            })
            .await
    }

    /// Ends every session of the caller but this one. Gives how many.
    pub async fn end_other_sessions(&self, caller: &Caller) -> Result<u64> {
        self.db
            .write(|mut tx| async move {
                let count = store::delete_sessions(&mut tx, &caller.user_id, session_id(caller)).await?;
                if count > 0 {
                    let change = caller.actor.change("session.others_ended", format!("user/{}", caller.name));
                    tx.record(change.after(json!({"count": count}))).await?;
                }
                tx.done(count)
            })
            .await
    }

    /// Tokens of a user, newest first.
    pub async fn tokens(&self, user_id: &str) -> Result<Vec<TokenRow>> {
        store::tokens(&mut *self.db.read().await?, user_id).await
    }

    /// Makes a token for the caller. Gives its row and its text, which is shown this once.
    pub(super) async fn create_token(&self, caller: &Caller, order: &TokenOrder) -> Result<(TokenRow, String)> {
        if order.role > caller.role {
            let text = format!("a token may no more than its owner; yours is {}", caller.role.word());
            return Err(Error::invalid("role", text));
        }
        let user = store::fetch_user(&mut *self.db.read().await?, &caller.user_id).await?;
        let user = user.ok_or_else(|| Error::not_found("user", &caller.name))?;
        self.make_token(&caller.actor, &user, order, false).await
    }

    async fn make_token(
        &self,
        actor: &Actor,
        user: &UserRow,
        order: &TokenOrder,
        replace: bool,
    ) -> Result<(TokenRow, String)> {
        if order.name.trim().is_empty() || order.name.chars().count() > 100 {
            return Err(Error::invalid("name", "a token's name has 1 to 100 characters"));
        }
        if order.life.is_some_and(|life| !(1000..=MAX_TOKEN_LIFE).contains(&life)) {
            return Err(Error::invalid("expires_in_seconds", "a token lives for a second to ten years"));
        }
        let secret = hex(&muster_pki::random::<32>());
        let secret_hash = &hash(&secret);
        let row = self
            .db
            .write(|mut tx| async move {
                let now = tx.now();
                if replace {
                    let same = store::tokens(&mut tx, &user.id).await?.into_iter().find(|t| t.name == order.name);
                    if let Some(same) = same {
                        store::delete_token(&mut tx, &same.id).await?;
                    }
                }
                let row = TokenRow {
                    id: id::fresh(now),
                    user_id: user.id.clone(),
                    name: order.name.clone(),
                    role: order.role.word().into(),
                    created_at: now,
                    used_at: None,
                    expires_at: order.life.map(|life| now + life),
                };
                store::insert_token(&mut tx, &row, secret_hash).await.map_err(|error| match is_duplicate(&error) {
                    true => Error::Conflict(format!("there is a token named {:?} already", row.name)),
                    false => error.into(),
                })?;
                let after = json!({"name": row.name, "role": row.role, "expires_at": row.expires_at});
                let change = actor.change("token.created", format!("user/{}/token/{}", user.name, row.id));
                tx.record(change.after(after)).await?;
                tx.done(row)
            })
            .await?;
        let text = format!("muster_{}_{secret}", row.id);
        Ok((row, text))
    }

    /// Revokes a token: one's own, or anybody's for an admin.
    pub async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                let row = store::fetch_token(&mut tx, id).await?;
                let row = row.ok_or_else(|| Error::not_found("token", id))?;
                let owner = owner(&mut tx, caller, &row.user_id).await?;
                store::delete_token(&mut tx, id).await?;
                let change = caller.actor.change("token.revoked", format!("user/{owner}/token/{id}"));
                tx.record(change.before(json!({"name": row.name}))).await?;
                tx.done(())
            })
            .await
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

    async fn by_session(&self, secret: &str, source: Source) -> Result<Option<Caller>> {
        let now = self.db.clock().now();
        let mut conn = self.db.read().await?;
        let Some(row) = store::find_session(&mut conn, &hash(secret)).await? else { return Ok(None) };
        if model::is_over(row.used_at, row.expires_at, now) {
            return Ok(None);
        }
        let Some(user) = store::fetch_user(&mut conn, &row.user_id).await?.filter(|u| u.disabled == 0) else {
            return Ok(None);
        };
        drop(conn);
        if now - row.used_at >= NOTE_EVERY {
            let id = &row.id;
            self.db
                .write(|mut tx| async move {
                    store::save_session_used(&mut tx, id, now).await?;
                    tx.done(())
                })
                .await?;
        }
        let via = Via::Session { id: row.id, csrf: row.csrf };
        caller(&user, role_of(&user.role)?, source, via).map(Some)
    }

    async fn by_token(&self, text: &str, source: Source) -> Result<Option<Caller>> {
        let mut pieces = text.splitn(3, '_');
        let (Some("muster"), Some(id), Some(secret)) = (pieces.next(), pieces.next(), pieces.next()) else {
            return Ok(None);
        };
        let now = self.db.clock().now();
        let mut conn = self.db.read().await?;
        let row = store::find_token(&mut conn, id, &hash(secret)).await?;
        let Some(row) = row.filter(|t| t.expires_at.is_none_or(|at| now < at)) else { return Ok(None) };
        let Some(user) = store::fetch_user(&mut conn, &row.user_id).await?.filter(|u| u.disabled == 0) else {
            return Ok(None);
        };
        drop(conn);
        if row.used_at.is_none_or(|at| now - at >= NOTE_EVERY) {
            let id = &row.id;
            self.db
                .write(|mut tx| async move {
                    store::save_token_used(&mut tx, id, now).await?;
                    tx.done(())
                })
                .await?;
        }
        let role = model::token_role(role_of(&row.role)?, role_of(&user.role)?);
        caller(&user, role, source, Via::Token { id: row.id }).map(Some)
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

async fn insert(tx: &mut Tx, actor: &Actor, row: &UserRow) -> Result<()> {
    store::insert_user(tx, row).await.map_err(|error| match is_duplicate(&error) {
        true => Error::Conflict(format!("there is a user named {:?} already", row.name)),
        false => error.into(),
    })?;
    let after = json!({"role": row.role, "must_change": row.must_change == 1});
    tx.record(actor.change("user.created", format!("user/{}", row.name)).after(after)).await?;
    Ok(())
}

fn keep_an_admin(admins: &[String], without: &str) -> Result<()> {
    let is_last = admins.iter().any(|a| a == without) && admins.len() == 1;
    if is_last {
        return Err(Error::Conflict("this is the last admin; make another one first".into()));
    }
    Ok(())
}

fn user_row(name: &str, role: Role, hash: &str, must_change: bool, now: i64) -> UserRow {
    UserRow {
        id: id::fresh(now),
        name: name.into(),
        role: role.word().into(),
        password_hash: hash.into(),
        must_change: must_change.into(),
        disabled: 0,
        created_at: now,
        version: 1,
    }
}

/// The role as stored.
pub(super) fn role_of(word: &str) -> Result<Role> {
    Role::from_word(word).ok_or_else(|| Error::internal(anyhow::anyhow!("a stored role is {word:?}")))
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
