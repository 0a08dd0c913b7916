//! Which blobs an assignment lets its agent fetch, and which it may store.

use sqlx::FromRow;

use super::{
    super::{
        model::{AgentId, Key, Mode, State},
        store::unknown_word,
    },
    Document, topic,
};
use crate::{
    error::{Error, Result},
    platform::{
        blobs::{Blobs, Held},
        db::{Conn, ROWS, Tx, query},
    },
};

/// How long after its end once work may still store, milliseconds: what it made may take as long to come home.
const STORE_AFTER_END: i64 = 86_400_000;

#[derive(FromRow)]
struct Allowance {
    digest: String,
    state: String,
    store_bytes: i64,
    ended_at: Option<i64>,
}

/// For whom blobs are kept that an agent stored, until a domain keeps them for itself. What a report names was stored by
/// its agent only if it is kept for this owner.
pub fn blob_owner(agent: &AgentId, key: &Key) -> String {
    format!("{}{}/{}", blobs_of(agent), key.kind, key.id)
}

/// How the owners of all that an agent stored begin.
pub fn blobs_of(agent: &AgentId) -> String {
    format!("assignment/{agent}/")
}

/// Writes what agents may fetch for an assignment, in place of what they might for its last document.
pub async fn grant(tx: &mut Tx, agents: &[AgentId], key: &Key, document: &Document, digest: &str) -> Result<()> {
    if document.mode == Mode::Standing {
        for piece in agents.chunks(ROWS) {
            let text = format!(
                "delete from fleet_blob_grant where (agent_id, kind, id) in ({})",
                tx.engine().values(&["", "", ""], piece.len())
            );
            let mut delete = query(text);
            for agent in piece {
                delete = delete.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone());
            }
            delete.execute(&mut **tx).await?;
        }
    }
    let mut blobs: Vec<_> = document.blobs.iter().collect();
    blobs.sort_unstable();
    blobs.dedup();
    let grants: Vec<_> = agents.iter().flat_map(|agent| blobs.iter().map(move |blob| (agent, *blob))).collect();
    for piece in grants.chunks(ROWS) {
        // Only where this document stands: once work that was there already stays as it is.
        let text = format!(
            "insert into fleet_blob_grant (agent_id, kind, id, digest) \
             select v.column1, v.column2, v.column3, v.column4 from (values {}) v where exists (select 1 from \
             fleet_assignment a where a.agent_id = v.column1 and a.kind = v.column2 and a.id = v.column3 \
             and a.digest = v.column5) on conflict (agent_id, kind, id, digest) do nothing",
            tx.engine().values(&["", "", "", "", ""], piece.len())
        );
        let mut insert = query(text);
        for (agent, blob) in piece {
            insert = insert
                .bind(agent.0.clone())
                .bind(key.kind.clone())
                .bind(key.id.clone())
                .bind((*blob).clone())
                .bind(digest.to_owned());
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Whether an assignment that an agent acts on names a blob.
pub async fn is_granted(conn: &mut Conn, agent: &AgentId, blob: &str) -> Result<bool> {
    let found = sqlx::query(
        "select 1 from fleet_blob_grant g join fleet_assignment a on a.agent_id = g.agent_id and a.kind = g.kind \
         and a.id = g.id where g.agent_id = $1 and g.digest = $2 and a.digest <> '' and a.state <> 'finished' limit 1",
    )
    .bind(agent.0.clone())
    .bind(blob)
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// Whether a blob is stored for an assignment already; refused unless it may be.
pub async fn may_store(
    conn: &mut Conn,
    agent: &AgentId,
    key: &Key,
    (digest, size): (&str, i64),
    now: i64,
) -> Result<bool> {
    let stored = Blobs::use_of(conn, &blob_owner(agent, key)).await?;
    if stored.contains_key(digest) {
        return Ok(true);
    }
    let found: Option<Allowance> = sqlx::query_as(
        "select a.digest, a.state, a.store_bytes, (select r.received_at from fleet_report r where r.agent_id = a.agent_id \
         and r.kind = a.kind and r.id = a.id and r.outcome = 1) as ended_at from fleet_assignment a \
         where a.agent_id = $1 and a.kind = $2 and a.id = $3",
    )
    .bind(agent.0.clone())
    .bind(key.kind.clone())
    .bind(key.id.clone())
    .fetch_optional(conn)
    .await?;
    let forbidden = |why: &str| Error::Forbidden(format!("{} {} {why}", key.kind, key.id));
    let found = found.ok_or_else(|| forbidden("is not an assignment of this agent"))?;
    if found.digest.is_empty() {
        return Err(forbidden("was withdrawn; nothing is stored for it"));
    }
    match State::from_word(&found.state).ok_or_else(|| unknown_word(&found.state))? {
        State::Queued | State::Offered => {
            return Err(Error::Conflict(format!("{} {} is not accepted yet", key.kind, key.id)));
        }
        State::Finished if found.ended_at.is_none_or(|at| at < now - STORE_AFTER_END) => {
            return Err(forbidden("ended more than a day ago; nothing is stored for it"));
        }
        State::Accepted | State::Running | State::Finished => {}
    }
    let (most, used) = (found.store_bytes, stored.values().sum::<i64>());
    if size > most - used {
        let why = format!("may store {most} bytes, of which {used} are taken; the blob has {size}");
        return Err(forbidden(&why));
    }
    Ok(false)
}

/// Keeps what an agent stored for an assignment, if that allows it still.
pub async fn store(tx: &mut Tx, agent: &AgentId, key: &Key, held: Held) -> Result<()> {
    // Locks the row, so that two blobs that come at once are counted together.
    sqlx::query("update fleet_assignment set store_bytes = store_bytes where agent_id = $1 and kind = $2 and id = $3")
        .bind(agent.0.clone())
        .bind(key.kind.clone())
        .bind(key.id.clone())
        .execute(&mut **tx)
        .await?;
    let now = tx.now();
    if !may_store(tx, agent, key, (&held.digest, held.size), now).await? {
        Blobs::keep(tx, &[held], &blob_owner(agent, key)).await?;
        tx.wake(topic(&key.kind));
    }
    Ok(())
}
