//! All SQL of the fleet but the assignments' (see `desired`).

use sqlx::{FromRow, Row};

use super::model::{AgentId, InvitationId, Labels, Liveness};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, Engine, ROWS, Tx, list, query},
};

/// An invitation as stored. The token's secret is not.
#[derive(Debug, Clone, FromRow)]
pub struct InvitationRow {
    pub id: String,
    pub name: String,
    pub class: String,
    pub labels: String,
    pub root_sha256: String,
    pub max_uses: i64,
    pub used: i64,
    pub deadline: i64,
    pub revoked_at: Option<i64>,
    pub for_agent: Option<String>,
    pub created_by: String,
    pub created_at: i64,
}

/// An agent as stored.
#[derive(Debug, Clone, FromRow)]
pub struct AgentRow {
    pub id: String,
    pub name: String,
    pub class: String,
    pub labels: String,
    pub invitation_id: Option<String>,
    pub enrolled_at: i64,
    pub standing: String,
    pub revoked_at: Option<i64>,
    pub revoke_reason: String,
    pub agent_version: String,
    pub facts: String,
    pub capabilities: String,
    pub capability_digest: String,
    pub ledger_id: String,
    pub liveness: String,
    pub liveness_at: i64,
    pub version: i64,
}

/// What home needs of an agent to open its stream.
#[derive(Debug, Clone, FromRow)]
pub struct OpeningRow {
    pub id: String,
    pub standing: String,
    pub capability_digest: String,
    pub agent_version: String,
    pub facts: String,
    pub ledger_id: String,
    pub liveness: String,
    pub session_replica: Option<String>,
    pub session_token_hash: Option<String>,
    pub leaf_serial: Option<String>,
    pub leaf_superseded_at: Option<i64>,
    pub leaf_revoked_at: Option<i64>,
    pub leaf_used_at: Option<i64>,
    /// Home has the reports of the ledger that calls up to this number.
    pub acknowledged: i64,
}

const INVITATION: &str = "id, name, class, labels, root_sha256, max_uses, used, deadline, revoked_at, for_agent, \
                          created_by, created_at";
const AGENT: &str = "id, name, class, labels, invitation_id, enrolled_at, standing, revoked_at, revoke_reason, \
                     agent_version, facts, capabilities, capability_digest, ledger_id, liveness, liveness_at, version";

// === invitations ===

pub async fn insert_invitation(conn: &mut Conn, row: &InvitationRow, secret_hash: &str) -> Result<()> {
    sqlx::query(
        "insert into fleet_invitation (id, name, class, labels, secret_hash, root_sha256, max_uses, used, deadline, \
         for_agent, created_by, created_at) values ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11)",
    )
    .bind(row.id.clone())
    .bind(row.name.clone())
    .bind(row.class.clone())
    .bind(row.labels.clone())
    .bind(secret_hash)
    .bind(row.root_sha256.clone())
    .bind(row.max_uses)
    .bind(row.deadline)
    .bind(row.for_agent.clone())
    .bind(row.created_by.clone())
    .bind(row.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn invitations(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<InvitationRow>> {
    let text = format!("select {INVITATION} from fleet_invitation where id > $1 order by id limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(after).bind(limit).fetch_all(conn).await?)
}

pub async fn fetch_invitation(conn: &mut Conn, id: &InvitationId) -> Result<Option<InvitationRow>> {
    let text = format!("select {INVITATION} from fleet_invitation where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

pub async fn find_invitation(conn: &mut Conn, secret_hash: &str) -> Result<Option<InvitationRow>> {
    let text = format!("select {INVITATION} from fleet_invitation where secret_hash = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(secret_hash).fetch_optional(conn).await?)
}

/// Takes one use of an invitation. False: none is left, or it is over. Locks the row.
pub async fn take_use(conn: &mut Conn, id: &str, now: i64) -> Result<bool> {
    let taken = sqlx::query(
        "update fleet_invitation set used = used + 1 where id = $1 and used < max_uses and revoked_at is null \
         and deadline > $2 returning used",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(conn)
    .await?;
    Ok(taken.is_some())
}

/// Revokes an invitation. False: it was already.
pub async fn save_invitation_revoked(conn: &mut Conn, id: &InvitationId, now: i64) -> Result<bool> {
    let done = sqlx::query("update fleet_invitation set revoked_at = $1 where id = $2 and revoked_at is null")
        .bind(now)
        .bind(id.0.clone())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps how many may join by an invitation and until when. False: it is revoked, or more have joined.
pub async fn save_invitation_terms(conn: &mut Conn, id: &InvitationId, max_uses: i64, deadline: i64) -> Result<bool> {
    let text =
        "update fleet_invitation set max_uses = $1, deadline = $2 where id = $3 and revoked_at is null and used <= $1";
    let done = sqlx::query(text).bind(max_uses).bind(deadline).bind(id.0.clone()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Who enrolled with this key by this invitation, and when.
pub async fn find_enrolment(conn: &mut Conn, invitation: &str, key_hash: &str) -> Result<Option<(String, i64)>> {
    let text = "select agent_id, at from fleet_enrolment where invitation_id = $1 and key_hash = $2";
    Ok(sqlx::query_as(text).bind(invitation).bind(key_hash).fetch_optional(conn).await?)
}

pub async fn insert_enrolment(conn: &mut Conn, invitation: &str, key_hash: &str, agent: &str, now: i64) -> Result<()> {
    sqlx::query("insert into fleet_enrolment (invitation_id, key_hash, agent_id, at) values ($1, $2, $3, $4)")
        .bind(invitation)
        .bind(key_hash)
        .bind(agent)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

// === agents ===

pub async fn insert_agent(conn: &mut Conn, row: &AgentRow, labels: &Labels) -> Result<()> {
    sqlx::query(
        "insert into fleet_agent (id, name, class, labels, invitation_id, enrolled_at, standing, standing_seq, \
         revoke_reason, agent_version, facts, capabilities, capability_digest, ledger_id, liveness, liveness_at, version) \
         values ($1, $2, $3, $4, $5, $6, 'ok', 0, '', '', $7, '[]', '', '', 'never', $6, 1)",
    )
    .bind(row.id.clone())
    .bind(row.name.clone())
    .bind(row.class.clone())
    .bind(row.labels.clone())
    .bind(row.invitation_id.clone())
    .bind(row.enrolled_at)
    .bind(row.facts.clone())
    .execute(&mut *conn)
    .await?;
    insert_labels(conn, &row.id, labels).await
}

async fn insert_labels(conn: &mut Conn, agent: &str, labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        sqlx::query("insert into fleet_label (agent_id, key, value) values ($1, $2, $3)")
            .bind(agent)
            .bind(key.clone())
            .bind(value.clone())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Replaces an agent's labels and name. `version` is the one that was read; None: it has changed since.
pub async fn save_labels(
    conn: &mut Conn,
    id: &AgentId,
    name: &str,
    labels: &Labels,
    version: i64,
) -> Result<Option<i64>> {
    let json = serde_json::to_string(labels).map_err(Error::internal)?;
    let row = sqlx::query(
        "update fleet_agent set labels = $1, name = $2, version = version + 1 where id = $3 and version = $4 \
         returning version",
    )
    .bind(json)
    .bind(name)
    .bind(id.0.clone())
    .bind(version)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query("delete from fleet_label where agent_id = $1").bind(id.0.clone()).execute(&mut *conn).await?;
    insert_labels(conn, &id.0, labels).await?;
    Ok(Some(row.try_get(0)?))
}

/// Which agents to list.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only this class; empty: all.
    pub class: String,
    /// Only this liveness; empty: all.
    pub liveness: String,
    /// Only with these labels.
    pub labels: Labels,
    /// Only with this text in name, id or labels.
    pub search: String,
    /// Only ids after this one.
    pub after: String,
}

pub async fn agents(conn: &mut Conn, filter: &AgentFilter, limit: i64) -> Result<Vec<AgentRow>> {
    let mut text = format!(
        "select {AGENT} from fleet_agent a where id > $1 and ($2 = '' or class = $2) and ($3 = '' or liveness = $3) \
         and ($4 = '' or lower(name) like lower($4) or id like $4 or lower(labels) like lower($4)) "
    );
    for n in 0..filter.labels.len() {
        let (key, value) = (6 + 2 * n, 7 + 2 * n);
        text.push_str(&format!(
            "and exists (select 1 from fleet_label l where l.agent_id = a.id and l.key = ${key} and l.value = ${value}) "
        ));
    }
    text.push_str("order by id limit $5");
    let search = if filter.search.is_empty() { String::new() } else { format!("%{}%", filter.search) };
    let mut select = sqlx::query_as(sqlx::AssertSqlSafe(text))
        .bind(filter.after.clone())
        .bind(filter.class.clone())
        .bind(filter.liveness.clone())
        .bind(search)
        .bind(limit);
    for (key, value) in &filter.labels {
        select = select.bind(key.clone()).bind(value.clone());
    }
    Ok(select.fetch_all(conn).await?)
}

pub async fn fetch_agent(conn: &mut Conn, id: &AgentId) -> Result<Option<AgentRow>> {
    let text = format!("select {AGENT} from fleet_agent where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

/// How agents fare: (id, liveness, since when).
pub async fn liveness(conn: &mut Conn, agents: &[String]) -> Result<Vec<(String, String, i64)>> {
    let mut found = Vec::new();
    for piece in agents.chunks(ROWS) {
        let each = Engine::of(conn).each(piece.len());
        let text = format!("select id, liveness, liveness_at from fleet_agent where id in ({each})");
        let select = piece.iter().fold(sqlx::query_as(sqlx::AssertSqlSafe(text)), |q, id| q.bind(id.clone()));
        found.extend(select.fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

/// How many agents of each class are in each liveness.
pub async fn counts(conn: &mut Conn) -> Result<Vec<(String, String, i64)>> {
    let text = "select class, liveness, count(*) from fleet_agent where standing = 'ok' group by class, liveness";
    Ok(sqlx::query_as(text).fetch_all(conn).await?)
}

/// Locks an agent's row, so that what follows sees it as it is.
pub async fn lock_agent(conn: &mut Conn, id: &AgentId) -> Result<bool> {
    let row = sqlx::query("update fleet_agent set version = version where id = $1 returning id").bind(id.0.clone());
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// Takes an identity away. False: it was not there or taken away already.
pub async fn save_revoked(conn: &mut Conn, id: &AgentId, reason: &str, now: i64) -> Result<bool> {
    let done = sqlx::query(
        "update fleet_agent set standing = 'revoked', revoked_at = $1, revoke_reason = $2, version = version + 1 \
         where id = $3 and standing = 'ok'",
    )
    .bind(now)
    .bind(reason)
    .bind(id.0.clone())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes the event that changed an agent's standing: replicas find it by this number.
pub async fn save_standing_seq(conn: &mut Conn, id: &AgentId, seq: i64) -> Result<()> {
    sqlx::query("update fleet_agent set standing_seq = $1 where id = $2")
        .bind(seq)
        .bind(id.0.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives an identity back.
pub async fn save_readmitted(conn: &mut Conn, id: &AgentId) -> Result<()> {
    sqlx::query(
        "update fleet_agent set standing = 'ok', revoked_at = null, revoke_reason = '', version = version + 1 where id = $1",
    )
    .bind(id.0.clone())
    .execute(conn)
    .await?;
    Ok(())
}

/// Agents revoked by events after `seq`.
pub async fn revoked_since(conn: &mut Conn, seq: i64) -> Result<Vec<String>> {
    let text = "select id from fleet_agent where standing_seq > $1 and standing = 'revoked'";
    let rows = sqlx::query(text).bind(seq).fetch_all(conn).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// Who joined by these invitations and is in good standing: (agent, name, invitation), oldest first.
pub async fn joined(conn: &mut Conn, invitations: &[String]) -> Result<Vec<(String, String, String)>> {
    let mut found = Vec::new();
    for piece in invitations.chunks(ROWS) {
        let text = format!(
            "select id, name, invitation_id from fleet_agent where standing = 'ok' and invitation_id in ({}) order by id",
            Engine::of(conn).each(piece.len())
        );
        let select = piece.iter().fold(sqlx::query_as(sqlx::AssertSqlSafe(text)), |q, id| q.bind(id.clone()));
        found.extend(select.fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

pub async fn delete_agent(conn: &mut Conn, id: &AgentId) -> Result<()> {
    sqlx::query("delete from fleet_agent where id = $1").bind(id.0.clone()).execute(conn).await?;
    Ok(())
}

/// Writes how agents fare: (id, liveness, since when).
pub async fn save_liveness(conn: &mut Conn, changes: &[(AgentId, Liveness, i64)]) -> Result<()> {
    for piece in changes.chunks(ROWS) {
        let text = format!(
            "update fleet_agent set liveness = v.column2, liveness_at = v.column3 from (values {}) v \
             where fleet_agent.id = v.column1",
            Engine::of(conn).values(&["", "", "bigint"], piece.len())
        );
        let mut update = query(text);
        for (id, liveness, at) in piece {
            update = update.bind(id.0.clone()).bind(liveness.word()).bind(*at);
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

// === streams ===

/// What is needed to open the streams of these agents: (agent id, serial of the certificate, ledger).
pub async fn openings(conn: &mut Conn, callers: &[(String, String, String)]) -> Result<Vec<OpeningRow>> {
    let text = format!(
        "select a.id, a.standing, a.capability_digest, a.agent_version, a.facts, a.ledger_id, a.liveness, \
         s.replica_id as session_replica, s.token_hash as session_token_hash, l.serial as leaf_serial, \
         l.superseded_at as leaf_superseded_at, l.revoked_at as leaf_revoked_at, l.used_at as leaf_used_at, \
         coalesce(g.acknowledged, 0) as acknowledged \
         from (values {}) v join fleet_agent a on a.id = v.column1 left join fleet_session s on s.agent_id = a.id \
         left join certificate_leaf l on l.serial = v.column2 \
         left join fleet_ledger g on g.agent_id = v.column1 and g.ledger_id = v.column3",
        Engine::of(conn).values(&["", "", ""], callers.len())
    );
    let mut select = sqlx::query_as(sqlx::AssertSqlSafe(text));
    for (id, serial, ledger) in callers {
        select = select.bind(id.clone()).bind(serial.clone()).bind(ledger.clone());
    }
    Ok(select.fetch_all(conn).await?)
}

/// Opens streams: (agent, token hash). Gives each agent's new epoch.
pub async fn save_sessions(tx: &mut Tx, replica: &str, opened: &[(AgentId, String)]) -> Result<Vec<(String, i64)>> {
    let now = tx.now();
    let text = format!(
        "insert into fleet_session (agent_id, replica_id, epoch, token_hash, opened_at) values {} \
         on conflict (agent_id) do update set replica_id = excluded.replica_id, epoch = fleet_session.epoch + 1, \
         token_hash = excluded.token_hash, opened_at = excluded.opened_at returning agent_id, epoch",
        tx.engine().values(&["", "", "bigint", "", "bigint"], opened.len())
    );
    let mut insert = sqlx::query_as(sqlx::AssertSqlSafe(text));
    for (agent, token_hash) in opened {
        insert = insert.bind(agent.0.clone()).bind(replica).bind(1_i64).bind(token_hash.clone()).bind(now);
    }
    Ok(insert.fetch_all(&mut **tx).await?)
}

/// Notes that streams of this replica ended: (agent, epoch).
pub async fn close_sessions(conn: &mut Conn, closed: &[(AgentId, i64)]) -> Result<()> {
    for piece in closed.chunks(ROWS) {
        let text = format!(
            "update fleet_session set replica_id = '' where (agent_id, epoch) in ({})",
            Engine::of(conn).values(&["", "bigint"], piece.len())
        );
        let mut update = query(text);
        for (agent, epoch) in piece {
            update = update.bind(agent.0.clone()).bind(*epoch);
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

/// The streams that are still the ones named: every write on an agent's behalf is checked against this first.
pub async fn live_sessions(conn: &mut Conn, engine: Engine, pairs: &[(AgentId, i64)]) -> Result<Vec<(String, i64)>> {
    let mut live = Vec::with_capacity(pairs.len());
    for piece in pairs.chunks(ROWS) {
        let text = format!(
            "select agent_id, epoch from fleet_session where agent_id in ({}){}",
            engine.each(piece.len()),
            engine.for_share()
        );
        let mut select = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(text));
        for (agent, _) in piece {
            select = select.bind(agent.0.clone());
        }
        live.extend(select.fetch_all(&mut *conn).await?);
    }
    Ok(live)
}

/// What changed about an agent since its last stream.
#[derive(Debug, Clone)]
pub struct Introduction {
    pub agent: AgentId,
    pub version: String,
    pub facts: String,
    pub capabilities: String,
    pub capability_digest: String,
    pub ledger_id: String,
}

pub async fn save_introduction(conn: &mut Conn, it: &Introduction) -> Result<()> {
    sqlx::query(
        "update fleet_agent set agent_version = $1, facts = $2, capabilities = $3, capability_digest = $4, \
         ledger_id = $5 where id = $6",
    )
    .bind(it.version.clone())
    .bind(it.facts.clone())
    .bind(it.capabilities.clone())
    .bind(it.capability_digest.clone())
    .bind(it.ledger_id.clone())
    .bind(it.agent.0.clone())
    .execute(conn)
    .await?;
    Ok(())
}

// === acknowledged reports ===

/// Raises the numbers up to which home has reports: (agent, ledger, up to).
pub async fn save_acknowledged(conn: &mut Conn, rows: &[(AgentId, String, i64)]) -> Result<()> {
    for piece in rows.chunks(ROWS) {
        let text = format!(
            "insert into fleet_ledger (agent_id, ledger_id, acknowledged) values {} on conflict (agent_id, ledger_id) \
             do update set acknowledged = excluded.acknowledged where fleet_ledger.acknowledged < excluded.acknowledged",
            Engine::of(conn).values(&["", "", "bigint"], piece.len())
        );
        let mut insert = query(text);
        for (agent, ledger, upto) in piece {
            insert = insert.bind(agent.0.clone()).bind(ledger.clone()).bind(*upto);
        }
        insert.execute(&mut *conn).await?;
    }
    Ok(())
}

// === replicas ===

pub async fn save_heartbeat(tx: &mut Tx, replica: &str, url: &str) -> Result<()> {
    let clock = tx.engine().now();
    let text = format!(
        "insert into replica (id, url, heartbeat) values ($1, $2, {clock}) \
         on conflict (id) do update set heartbeat = excluded.heartbeat, url = excluded.url"
    );
    query(text).bind(replica).bind(url).execute(&mut **tx).await?;
    Ok(())
}

/// Replicas whose heart beat within `within` milliseconds.
pub async fn live_replicas(conn: &mut Conn, engine: Engine, within: i64) -> Result<Vec<String>> {
    let text = format!("select id from replica where heartbeat > {} - $1", engine.now());
    let rows = query(text).bind(within).fetch_all(conn).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// Those of these agents whose stream is at another replica, one whose heart beat within `within` milliseconds.
pub async fn elsewhere(
    conn: &mut Conn,
    engine: Engine,
    replica: &str,
    agents: &[AgentId],
    within: i64,
) -> Result<Vec<AgentId>> {
    let mut found = Vec::new();
    for piece in agents.chunks(ROWS) {
        let text = format!(
            "select s.agent_id from fleet_session s join replica r on r.id = s.replica_id \
             where s.replica_id <> $1 and r.heartbeat > {} - $2 and s.agent_id in ({})",
            engine.now(),
            list(piece.len(), 2)
        );
        let mut select = query(text).bind(replica).bind(within);
        for agent in piece {
            select = select.bind(agent.0.clone());
        }
        for row in select.fetch_all(&mut *conn).await? {
            found.push(AgentId(row.try_get(0)?));
        }
    }
    Ok(found)
}

/// Agents in good standing that are not wanted to hold this document under this key.
pub async fn agents_without(conn: &mut Conn, key: &super::model::Key, digest: &str) -> Result<Vec<AgentId>> {
    let rows = sqlx::query(
        "select id from fleet_agent where standing = 'ok' and not exists (select 1 from fleet_assignment a \
         where a.agent_id = fleet_agent.id and a.kind = $1 and a.id = $2 and a.digest = $3) order by id",
    )
    .bind(key.kind.clone())
    .bind(key.id.clone())
    .bind(digest)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|r| Ok(AgentId(r.try_get(0)?))).collect()
}

/// A word in the database that this build does not know.
pub(super) fn unknown_word(word: &str) -> Error {
    Error::internal(anyhow::anyhow!("the database holds the word {word:?}, which this controller does not know"))
}
