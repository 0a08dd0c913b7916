//! Logging in and out.

use serde_json::json;

use super::{Access, TokenOrder, hash, role_of, secret, user_actor};
use crate::{
    access::{
        model::{self, ATTEMPT_WINDOW, LOGIN_TOKEN_LIFE, SESSION_LIFE},
        store::{self, SessionRow, TokenRow, UserRow},
    },
    error::{Error, Result},
    platform::{events::Source, id},
    web::{
        Caller, Role,
        gate::{Client, Via},
    },
};

/// Somebody who showed the right password.
#[derive(Debug, Clone)]
pub struct Entrance {
    user: UserRow,
    /// What they may.
    pub role: Role,
    /// The password must be changed first.
    pub must_change: bool,
}

impl Access {
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
    pub(in crate::access) async fn open_token(
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

    /// Gives a client of another system's API a token of its own.
    pub async fn open_client_token(&self, entrance: &Entrance, system: &str, life: i64) -> Result<String> {
        let actor = user_actor(&entrance.user.name, Source::Api);
        let name = format!("{system} {}", id::fresh(self.db.clock().now()));
        let order = TokenOrder { name, role: entrance.role, life: Some(life) };
        Ok(self.make_token(&actor, &entrance.user, &order, false).await?.1)
    }

    /// Ends whatever the caller is known by.
    pub async fn log_out(&self, caller: &Caller) -> Result<()> {
        match &caller.via {
            Via::Session { id, .. } => self.end_session(caller, id).await,
            Via::Token { id } => self.revoke_token(caller, id).await,
        }
    }
}
