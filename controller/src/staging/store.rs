//! All SQL of stagings.

use sqlx::FromRow;

use super::model::{OperationId, ProjectSpec, StagingId};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, Engine, ROWS},
};

/// A project as stored.
#[derive(Debug, Clone, FromRow)]
pub struct ProjectRow {
    pub name: String,
    pub base_domain: String,
    pub namespace: String,
    pub wrappers: String,
    pub agents: String,
    pub check_interval_seconds: i64,
    pub pending_limit_seconds: i64,
    pub timeout_seconds: i64,
    pub memory_bytes: i64,
    pub file_bytes: i64,
    pub archived_retention_days: Option<i64>,
    pub owner: String,
    pub created_at: i64,
    pub version: i64,
}

/// A staging as stored.
#[derive(Debug, Clone, FromRow)]
pub struct StagingRow {
    pub id: String,
    pub project: String,
    pub name: String,
    pub agent_id: Option<String>,
    pub tag: String,
    pub settings_sealed: Vec<u8>,
    pub settings_masked: String,
    pub status: String,
    pub status_at: i64,
    pub status_why: String,
    pub operation_id: String,
    pub watch: String,
    pub watch_after: String,
    pub created_at: i64,
    pub updated_at: i64,
    pub archived_at: Option<i64>,
    pub retention_warned_at: Option<i64>,
    pub owner: String,
    /// Counts changes of what a person edits: settings and host.
    pub version: i64,
}

/// An operation as stored.
#[derive(Debug, Clone, FromRow)]
pub struct OperationRow {
    pub id: String,
    pub staging_id: String,
    pub project: String,
    pub name: String,
    pub agent_id: String,
    pub verb: String,
    pub outcome: String,
    pub actor: String,
    pub source: String,
    pub requested_at: i64,
    pub cancelled_by: String,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    pub message: String,
    pub settings_masked: String,
    pub previous_status: String,
    pub previous_sealed: Option<Vec<u8>>,
    pub previous_masked: String,
}

const PROJECT: &str = "name, base_domain, namespace, wrappers, agents, check_interval_seconds, pending_limit_seconds, \
                       timeout_seconds, memory_bytes, file_bytes, archived_retention_days, owner, created_at, version";
const STAGING: &str = "id, project, name, agent_id, tag, settings_sealed, settings_masked, status, status_at, status_why, \
                       operation_id, watch, watch_after, created_at, updated_at, archived_at, retention_warned_at, owner, \
                       version";
const OPERATION: &str = "id, staging_id, project, name, agent_id, verb, outcome, actor, source, requested_at, \
                         cancelled_by, started_at, ended_at, exit_code, signal, message, settings_masked, \
                         previous_status, previous_sealed, previous_masked";

// === projects ===

impl ProjectRow {
    /// What it says of its stagings.
    pub fn spec(&self) -> Result<ProjectSpec> {
        Ok(ProjectSpec {
            base_domain: self.base_domain.clone(),
            namespace: self.namespace.clone(),
            wrappers: self.wrappers.clone(),
            agents: serde_json::from_str(&self.agents).map_err(Error::internal)?,
            check_interval_seconds: self.check_interval_seconds,
            pending_limit_seconds: self.pending_limit_seconds,
            timeout_seconds: self.timeout_seconds,
            memory_bytes: self.memory_bytes,
            file_bytes: self.file_bytes,
            archived_retention_days: self.archived_retention_days,
        })
    }
}

pub async fn projects(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<ProjectRow>> {
    let text = format!("select {PROJECT} from staging_project where name > $1 order by name limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(after).bind(limit).fetch_all(conn).await?)
}

pub async fn fetch_project(conn: &mut Conn, name: &str) -> Result<Option<ProjectRow>> {
    let text = format!("select {PROJECT} from staging_project where name = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(name).fetch_optional(conn).await?)
}

/// Locks a project, so that nothing joins or leaves it meanwhile. False: there is none.
pub async fn lock_project(conn: &mut Conn, name: &str) -> Result<bool> {
    let row = sqlx::query("update staging_project set version = version where name = $1 returning name").bind(name);
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// Writes a project. `insert` says whether it is new; otherwise its version must be the row's.
pub async fn save_project(conn: &mut Conn, row: &ProjectRow, insert: bool) -> sqlx::Result<bool> {
    let text = if insert {
        "insert into staging_project (base_domain, namespace, wrappers, agents, check_interval_seconds, \
         pending_limit_seconds, timeout_seconds, memory_bytes, file_bytes, archived_retention_days, name, version, owner, \
         created_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    } else {
        "update staging_project set base_domain = $1, namespace = $2, wrappers = $3, agents = $4, \
         check_interval_seconds = $5, pending_limit_seconds = $6, timeout_seconds = $7, memory_bytes = $8, \
         file_bytes = $9, archived_retention_days = $10, version = version + 1 where name = $11 and version = $12"
    };
    let mut write = sqlx::query(text)
        .bind(row.base_domain.clone())
        .bind(row.namespace.clone())
        .bind(row.wrappers.clone())
        .bind(row.agents.clone())
        .bind(row.check_interval_seconds)
        .bind(row.pending_limit_seconds)
        .bind(row.timeout_seconds)
        .bind(row.memory_bytes)
        .bind(row.file_bytes)
        .bind(row.archived_retention_days)
        .bind(row.name.clone())
        .bind(row.version);
    if insert {
        write = write.bind(row.owner.clone()).bind(row.created_at);
    }
    Ok(write.execute(conn).await?.rows_affected() == 1)
}

pub async fn delete_project(conn: &mut Conn, name: &str) -> Result<()> {
    sqlx::query("delete from staging_project where name = $1").bind(name).execute(conn).await?;
    Ok(())
}

// === stagings ===

/// Which stagings to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this project; empty: all.
    pub project: String,
    /// Only in this status; empty: all.
    pub status: String,
    /// Only with this text in name, project or tag.
    pub search: String,
    /// Only after this `project/name`.
    pub after: (String, String),
}

/// How many stagings are in each status.
pub async fn counts_by_status(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    Ok(sqlx::query_as("select status, count(*) from staging_staging group by status").fetch_all(conn).await?)
}

pub async fn stagings(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<StagingRow>> {
    let text = format!(
        "select {STAGING} from staging_staging where ($1 = '' or project = $1) and ($2 = '' or status = $2) \
         and ($3 = '' or lower(name) like lower($3) or lower(project) like lower($3) or lower(tag) like lower($3)) \
         and (project > $4 or (project = $4 and name > $5)) order by project, name limit $6"
    );
    let search = if filter.search.is_empty() { String::new() } else { format!("%{}%", filter.search) };
    let select = sqlx::query_as(sqlx::AssertSqlSafe(text))
        .bind(filter.project.clone())
        .bind(filter.status.clone())
        .bind(search)
        .bind(filter.after.0.clone())
        .bind(filter.after.1.clone())
        .bind(limit);
    Ok(select.fetch_all(conn).await?)
}

pub async fn fetch_staging(conn: &mut Conn, project: &str, name: &str) -> Result<Option<StagingRow>> {
    let text = format!("select {STAGING} from staging_staging where project = $1 and name = $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(project).bind(name).fetch_optional(conn).await?)
}

/// Locks a staging and reads it as it is.
pub async fn lock_staging(conn: &mut Conn, project: &str, name: &str) -> Result<Option<StagingRow>> {
    let text =
        format!("update staging_staging set version = version where project = $1 and name = $2 returning {STAGING}");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(project).bind(name).fetch_optional(conn).await?)
}

/// Locks a staging by its id.
pub async fn lock_by_id(conn: &mut Conn, id: &StagingId) -> Result<Option<StagingRow>> {
    let text = format!("update staging_staging set version = version where id = $1 returning {STAGING}");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

/// Stagings about which there may be something to do: all but the archived ones that are kept for ever.
pub async fn live(conn: &mut Conn, after: &str) -> Result<Vec<StagingRow>> {
    let text = format!(
        "select {STAGING} from staging_staging where id > $1 and (status <> 'Archived' or operation_id <> '' or exists \
         (select 1 from staging_project p where p.name = project and p.archived_retention_days is not null)) \
         order by id limit {ROWS}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(after).fetch_all(conn).await?)
}

pub async fn insert_staging(conn: &mut Conn, row: &StagingRow) -> sqlx::Result<()> {
    sqlx::query(
        "insert into staging_staging (id, project, name, agent_id, tag, settings_sealed, settings_masked, status, \
         status_at, status_why, operation_id, watch, watch_after, created_at, updated_at, owner, version) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 1)",
    )
    .bind(row.id.clone())
    .bind(row.project.clone())
    .bind(row.name.clone())
    .bind(row.agent_id.clone())
    .bind(row.tag.clone())
    .bind(row.settings_sealed.clone())
    .bind(row.settings_masked.clone())
    .bind(row.status.clone())
    .bind(row.status_at)
    .bind(row.status_why.clone())
    .bind(row.operation_id.clone())
    .bind(row.watch.clone())
    .bind(row.watch_after.clone())
    .bind(row.created_at)
    .bind(row.updated_at)
    .bind(row.owner.clone())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes a locked staging back. What comes and goes by itself, as a status does, is no new version.
pub async fn save_staging(conn: &mut Conn, row: &StagingRow) -> Result<()> {
    sqlx::query(
        "update staging_staging set agent_id = $1, tag = $2, settings_sealed = $3, settings_masked = $4, status = $5, \
         status_at = $6, status_why = $7, operation_id = $8, watch = $9, watch_after = $10, updated_at = $11, \
         archived_at = $12, retention_warned_at = $13, version = version + case when settings_sealed = $3 and \
         coalesce(agent_id, '') = coalesce($1, '') then 0 else 1 end where id = $14",
    )
    .bind(row.agent_id.clone())
    .bind(row.tag.clone())
    .bind(row.settings_sealed.clone())
    .bind(row.settings_masked.clone())
    .bind(row.status.clone())
    .bind(row.status_at)
    .bind(row.status_why.clone())
    .bind(row.operation_id.clone())
    .bind(row.watch.clone())
    .bind(row.watch_after.clone())
    .bind(row.updated_at)
    .bind(row.archived_at)
    .bind(row.retention_warned_at)
    .bind(row.id.clone())
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn delete_staging(conn: &mut Conn, id: &StagingId) -> Result<()> {
    sqlx::query("delete from staging_staging where id = $1").bind(id.0.clone()).execute(conn).await?;
    Ok(())
}

/// How many stagings each host carries.
pub async fn counts_by_agent(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    let text = "select agent_id, count(*) from staging_staging where agent_id is not null group by agent_id";
    Ok(sqlx::query_as(text).fetch_all(conn).await?)
}

// === operations ===

pub async fn insert_operation(conn: &mut Conn, row: &OperationRow) -> Result<()> {
    sqlx::query(
        "insert into staging_operation (id, staging_id, project, name, agent_id, verb, outcome, actor, source, \
         requested_at, cancelled_by, message, settings_masked, previous_status, previous_sealed, previous_masked) \
         values ($1, $2, $3, $4, $5, $6, '', $7, $8, $9, '', '', $10, $11, $12, $13)",
    )
    .bind(row.id.clone())
    .bind(row.staging_id.clone())
    .bind(row.project.clone())
    .bind(row.name.clone())
    .bind(row.agent_id.clone())
    .bind(row.verb.clone())
    .bind(row.actor.clone())
    .bind(row.source.clone())
    .bind(row.requested_at)
    .bind(row.settings_masked.clone())
    .bind(row.previous_status.clone())
    .bind(row.previous_sealed.clone())
    .bind(row.previous_masked.clone())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what became of an operation.
pub async fn save_operation(conn: &mut Conn, row: &OperationRow) -> Result<()> {
    sqlx::query(
        "update staging_operation set outcome = $1, cancelled_by = $2, started_at = $3, ended_at = $4, exit_code = $5, \
         signal = $6, message = $7, previous_sealed = $8 where id = $9",
    )
    .bind(row.outcome.clone())
    .bind(row.cancelled_by.clone())
    .bind(row.started_at)
    .bind(row.ended_at)
    .bind(row.exit_code)
    .bind(row.signal)
    .bind(row.message.clone())
    .bind(row.previous_sealed.clone())
    .bind(row.id.clone())
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn fetch_operation(conn: &mut Conn, id: &OperationId) -> Result<Option<OperationRow>> {
    let text = format!("select {OPERATION} from staging_operation where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

pub async fn operations_by_id(conn: &mut Conn, ids: &[String]) -> Result<Vec<OperationRow>> {
    let text = format!("select {OPERATION} from staging_operation where id in ({})", Engine::of(conn).each(ids.len()));
    let mut select = sqlx::query_as(sqlx::AssertSqlSafe(text));
    for id in ids {
        select = select.bind(id.clone());
    }
    Ok(select.fetch_all(conn).await?)
}

/// Operations of one name in a project, newest first, before `before`: also those of stagings that are gone.
pub async fn operations(
    conn: &mut Conn,
    project: &str,
    name: &str,
    before: &str,
    limit: i64,
) -> Result<Vec<OperationRow>> {
    let text = format!(
        "select {OPERATION} from staging_operation where project = $1 and ($2 = '' or name = $2) \
         and ($3 = '' or id < $3) order by id desc limit $4"
    );
    let select = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(project).bind(name).bind(before).bind(limit);
    Ok(select.fetch_all(conn).await?)
}

/// Operations that ended before `before` and are not the last of a staging that is there, a few at a time.
pub async fn old_operations(conn: &mut Conn, before: i64) -> Result<Vec<OperationId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "select id from staging_operation o where ended_at < $1 and (exists (select 1 from staging_operation newer \
         where newer.staging_id = o.staging_id and newer.id > o.id) or not exists \
         (select 1 from staging_staging s where s.id = o.staging_id)) order by id limit 100",
    )
    .bind(before)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(id,)| OperationId(id)).collect())
}

pub async fn delete_operation(conn: &mut Conn, id: &OperationId) -> Result<()> {
    sqlx::query("delete from staging_operation where id = $1").bind(id.0.clone()).execute(conn).await?;
    Ok(())
}
