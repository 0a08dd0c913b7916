//! Web sessions: a browser's log-in.

use serde_json::json;

use super::{Access, NOTE_EVERY, caller, hash, owner, role_of, session_id};
use crate::{
    access::{
        model,
        store::{self, SessionRow},
    },
    error::{Error, Result},
    platform::events::Source,
    web::{Caller, gate::Via},
};

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

    pub(super) async fn by_session(&self, secret: &str, source: Source) -> Result<Option<Caller>> {
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
}
