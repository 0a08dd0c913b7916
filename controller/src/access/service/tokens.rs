//! API tokens: a program's log-in.

use muster_pki::hex;
use serde_json::json;

use super::{Access, NOTE_EVERY, caller, hash, owner, role_of};
use crate::{
    access::{
        model::{self, MAX_TOKEN_LIFE},
        store::{self, TokenRow, UserRow},
    },
    error::{Error, Result},
    platform::{
        db::is_duplicate,
        events::{Actor, Source},
        id,
    },
    web::{Caller, Role, gate::Via},
};

/// A token to be made.
#[derive(Debug, Clone)]
pub(in crate::access) struct TokenOrder {
    pub name: String,
    pub role: Role,
    /// Milliseconds; none: until it is revoked.
    pub life: Option<i64>,
}

impl Access {
    /// Tokens of a user, newest first.
    pub async fn tokens(&self, user_id: &str) -> Result<Vec<TokenRow>> {
        store::tokens(&mut *self.db.read().await?, user_id).await
    }

    /// Makes a token for the caller. Gives its row and its text, which is shown this once.
    pub(in crate::access) async fn create_token(
        &self,
        caller: &Caller,
        order: &TokenOrder,
    ) -> Result<(TokenRow, String)> {
        if order.role > caller.role {
            let text = format!("a token may no more than its owner; yours is {}", caller.role.word());
            return Err(Error::invalid("role", text));
        }
        let user = store::fetch_user(&mut *self.db.read().await?, &caller.user_id).await?;
        let user = user.ok_or_else(|| Error::not_found("user", &caller.name))?;
        self.make_token(&caller.actor, &user, order, false).await
    }

    pub(super) async fn make_token(
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

    pub(super) async fn by_token(&self, text: &str, source: Source) -> Result<Option<Caller>> {
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
