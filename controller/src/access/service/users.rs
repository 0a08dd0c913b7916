//! Users: made, changed, removed; and their passwords.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Access, find, role_of, session_id, tags_of};
use crate::{
    access::{
        model::{self, UserChange},
        password,
        store::{self, UserRow},
    },
    error::{Error, Result},
    platform::{
        db::{Tx, is_duplicate},
        events::Actor,
        id,
    },
    web::{Caller, Role, gate::Client},
};

impl Access {
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

    /// Users by name, after a name.
    pub async fn users(&self, after: &str, limit: i64) -> Result<Vec<UserRow>> {
        store::users(&mut *self.db.read().await?, after, limit).await
    }

    /// A user, or the error that there is none.
    pub async fn user(&self, name: &str) -> Result<UserRow> {
        find(&mut *self.db.read().await?, name).await
    }

    /// Which nodes are open to a user.
    pub async fn tags(&self, user_id: &str) -> Result<BTreeSet<String>> {
        let user = store::fetch_user(&mut *self.db.read().await?, user_id).await?;
        tags_of(&user.ok_or_else(|| Error::not_found("user", user_id))?)
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
        change: &UserChange,
        version: Option<i64>,
    ) -> Result<UserRow> {
        change.tags.as_ref().map_or(Ok(()), model::check_tags)?;
        self.db
            .write(|mut tx| async move {
                let admins = store::lock_admins(&mut tx).await?;
                let user = find(&mut tx, name).await?;
                let role = change.role.map_or_else(|| role_of(&user.role), Ok)?;
                let disabled = change.disabled.unwrap_or(user.disabled == 1);
                let tags = change.tags.clone().map_or_else(|| tags_of(&user), Ok)?;
                if role != Role::Admin || disabled {
                    keep_an_admin(&admins, &user.id)?;
                }
                let mut row = UserRow {
                    role: role.word().into(),
                    disabled: disabled.into(),
                    tags: serde_json::to_string(&tags).map_err(Error::internal)?,
                    ..user.clone()
                };
                let version = store::save_user(&mut tx, &row, version.unwrap_or(user.version)).await?;
                row.version = version.ok_or(Error::Stale)?;
                if disabled {
                    store::delete_sessions(&mut tx, &user.id, "").await?;
                    store::delete_tokens(&mut tx, &user.id).await?;
                }
                let before = json!({"role": user.role, "disabled": user.disabled == 1, "tags": tags_of(&user)?});
                let after = json!({"role": role, "disabled": disabled, "tags": tags});
                if before != after {
                    let change = actor.change("user.changed", format!("user/{name}"));
                    tx.record(change.before(before).after(after)).await?;
                }
                tx.done(row)
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
        tags: "[]".into(),
        created_at: now,
        version: 1,
    }
}
