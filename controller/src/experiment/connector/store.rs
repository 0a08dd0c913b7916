//! All SQL of connectors.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, FromRow, Row};

use super::model::{Asked, Health, Remote, Standing, Verb};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, ROWS, Tx, list, query},
};

/// A connector as stored.
#[derive(Debug, Clone, FromRow)]
pub struct ConnectorRow {
    pub name: String,
    pub url: String,
    pub gateway: String,
    pub sealed: Vec<u8>,
    pub secret_digest: String,
    pub enabled: i64,
    pub health: String,
    pub why: String,
    pub failures: i64,
    pub health_at: i64,
    pub next_at: i64,
    pub created_at: i64,
    pub version: i64,
}

/// What is known of an executor that is not on an agent, as stored.
#[derive(Debug, Clone, FromRow)]
pub struct RemoteRow {
    pub executor_id: String,
    pub verb: String,
    pub state: String,
    pub why: String,
    pub attempts: i64,
    pub asked_at: i64,
    pub heard_at: Option<i64>,
    pub graph_at: Option<i64>,
    pub result: String,
    pub final_at: Option<i64>,
    pub too_long: i64,
}

/// A question that is to be sent or under way.
#[derive(Debug, Clone, FromRow)]
pub struct QuestionRow {
    pub executor_id: String,
    pub experiment_id: String,
    pub connector: String,
    pub verb: String,
    pub state: String,
    pub attempts: i64,
    pub asked_at: i64,
    pub next_at: i64,
    pub asked_by: String,
    pub keep_alive_minutes: i64,
}

const CONNECTOR: &str = "name, url, gateway, sealed, secret_digest, enabled, health, why, failures, health_at, next_at, \
                         created_at, version";
const REMOTE: &str =
    "executor_id, verb, state, why, attempts, asked_at, heard_at, graph_at, result, final_at, too_long";

// === impl ConnectorRow ===

impl ConnectorRow {
    /// How it fares.
    pub fn standing(&self) -> Result<Standing> {
        let health = Health::from_word(&self.health).ok_or_else(|| unknown(&self.health))?;
        Ok(Standing { health, why: self.why.clone(), failures: self.failures, next_at: self.next_at })
    }
}

// === impl RemoteRow ===

impl RemoteRow {
    /// What it says.
    pub fn remote(&self) -> Result<Remote> {
        Ok(Remote {
            verb: verb(&self.verb)?,
            asked: Asked::from_word(&self.state).ok_or_else(|| unknown(&self.state))?,
            why: self.why.clone(),
            asked_at: self.asked_at,
            heard_at: self.heard_at,
            graph_at: self.graph_at,
            has_reported: !self.result.is_empty() || self.final_at.is_some(),
            final_at: self.final_at,
            too_long: self.too_long == 1,
        })
    }
}

/// The verb of a word in the database.
pub fn verb(word: &str) -> Result<Verb> {
    Verb::from_word(word).ok_or_else(|| unknown(word))
}

fn unknown(word: &str) -> Error {
    Error::internal(anyhow::anyhow!("the database holds the word {word:?}"))
}

// === connectors ===

/// Connectors, by name.
pub async fn connectors(conn: &mut Conn) -> Result<Vec<ConnectorRow>> {
    let text = format!("select {CONNECTOR} from experiment_connector order by name");
    Ok(sqlx::query_as(AssertSqlSafe(text)).fetch_all(conn).await?)
}

pub async fn connector(conn: &mut Conn, name: &str) -> Result<Option<ConnectorRow>> {
    let text = format!("select {CONNECTOR} from experiment_connector where name = $1");
    Ok(sqlx::query_as(AssertSqlSafe(text)).bind(name).fetch_optional(conn).await?)
}

/// Name of the connector whose executors know this secret.
pub async fn connector_of(conn: &mut Conn, secret_digest: &str) -> Result<Option<String>> {
    let select = sqlx::query("select name from experiment_connector where secret_digest = $1").bind(secret_digest);
    let row = select.fetch_optional(conn).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

pub async fn save_connector(conn: &mut Conn, row: &ConnectorRow) -> Result<()> {
    let text = format!(
        "insert into experiment_connector ({CONNECTOR}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         on conflict (name) do update set url = excluded.url, gateway = excluded.gateway, sealed = excluded.sealed, \
         enabled = excluded.enabled, health = excluded.health, why = excluded.why, failures = excluded.failures, \
         health_at = excluded.health_at, next_at = excluded.next_at, version = excluded.version"
    );
    query(text)
        .bind(row.name.clone())
        .bind(row.url.clone())
        .bind(row.gateway.clone())
        .bind(row.sealed.clone())
        .bind(row.secret_digest.clone())
        .bind(row.enabled)
        .bind(row.health.clone())
        .bind(row.why.clone())
        .bind(row.failures)
        .bind(row.health_at)
        .bind(row.next_at)
        .bind(row.created_at)
        .bind(row.version)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes how a connector fares, unless it was changed since `version`. Gives whether it was noted.
pub async fn save_standing(tx: &mut Tx, name: &str, version: i64, standing: &Standing) -> Result<bool> {
    let now = tx.now();
    let update = sqlx::query(
        "update experiment_connector set health_at = case when health = $3 then health_at else $7 end, health = $3, \
         why = $4, failures = $5, next_at = $6 where name = $1 and version = $2",
    );
    let done = update
        .bind(name)
        .bind(version)
        .bind(standing.health.word())
        .bind(standing.why.clone())
        .bind(standing.failures)
        .bind(standing.next_at)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn remove_connector(conn: &mut Conn, name: &str) -> Result<()> {
    sqlx::query("delete from experiment_connector where name = $1").bind(name).execute(conn).await?;
    Ok(())
}

/// How many executors of a connector have not ended.
pub async fn open_executors(conn: &mut Conn, connector: &str) -> Result<i64> {
    let text = "select count(*) from experiment_deployment where connector = $1 and stage <> 'ended'";
    Ok(sqlx::query_scalar(text).bind(connector).fetch_one(conn).await?)
}

// === pools ===

/// The nodes a connector brought for a user the last time.
pub async fn pool(conn: &mut Conn, connector: &str, owner: &str) -> Result<Option<String>> {
    let select = sqlx::query("select pool from experiment_pool where connector = $1 and owner = $2");
    let row = select.bind(connector).bind(owner).fetch_optional(conn).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

pub async fn save_pool(tx: &mut Tx, connector: &str, owner: &str, pool: &str) -> Result<()> {
    let now = tx.now();
    // A connector that was removed meanwhile brings nothing.
    sqlx::query(
        "insert into experiment_pool (connector, owner, pool, at) select name, $2, $3, $4 from experiment_connector \
         where name = $1 on conflict (connector, owner) do update set pool = excluded.pool, at = excluded.at",
    )
    .bind(connector)
    .bind(owner)
    .bind(pool)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

// === contexts ===

/// What a user told connectors with a request, sealed.
pub async fn context(conn: &mut Conn, experiment: &str, verb: Verb) -> Result<Option<Vec<u8>>> {
    let select = sqlx::query("select sealed from experiment_context where experiment_id = $1 and verb = $2");
    let row = select.bind(experiment).bind(verb.word()).fetch_optional(conn).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

pub async fn save_context(conn: &mut Conn, experiment: &str, verb: Verb, sealed: &[u8]) -> Result<()> {
    let text = "insert into experiment_context (experiment_id, verb, sealed) values ($1, $2, $3) \
                on conflict (experiment_id, verb) do update set sealed = excluded.sealed";
    sqlx::query(text).bind(experiment).bind(verb.word()).bind(sealed.to_vec()).execute(conn).await?;
    Ok(())
}

// === executors that are not on agents ===

/// Asks something of executors: (executor, experiment, connector). It takes the place of what was asked before.
pub async fn ask(tx: &mut Tx, executors: &[(String, String, String)], verb: Verb) -> Result<()> {
    let now = tx.now();
    let types = ["", "", "", "", "", "", "bigint", "bigint", "bigint", "", "", "bigint"];
    for piece in executors.chunks(ROWS) {
        let text = format!(
            "insert into experiment_remote (executor_id, experiment_id, connector, verb, state, why, attempts, asked_at, \
             next_at, asked_by, result, too_long) values {} on conflict (executor_id) do update set verb = excluded.verb, \
             state = excluded.state, why = excluded.why, attempts = 0, asked_at = excluded.asked_at, \
             next_at = excluded.next_at, asked_by = ''",
            tx.engine().values(&types, piece.len())
        );
        let mut insert = query(text);
        for (executor, experiment, connector) in piece {
            insert = insert
                .bind(executor.clone())
                .bind(experiment.clone())
                .bind(connector.clone())
                .bind(verb.word())
                .bind(Asked::Queued.word())
                .bind("")
                .bind(0_i64)
                .bind(now)
                .bind(now)
                .bind("")
                .bind("")
                .bind(0_i64);
        }
        insert.execute(&mut **tx).await?;
    }
    tx.wake(super::reconcile::TOPIC);
    Ok(())
}

/// What is known of an experiment's executors that are not on agents, by executor.
pub async fn remotes(conn: &mut Conn, experiment: &str) -> Result<BTreeMap<String, RemoteRow>> {
    let text = format!("select {REMOTE} from experiment_remote where experiment_id = $1");
    let rows: Vec<RemoteRow> = sqlx::query_as(AssertSqlSafe(text)).bind(experiment).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.executor_id.clone(), row)).collect())
}

pub async fn remote(conn: &mut Conn, executor: &str) -> Result<Option<RemoteRow>> {
    let text = format!("select {REMOTE} from experiment_remote where executor_id = $1");
    Ok(sqlx::query_as(AssertSqlSafe(text)).bind(executor).fetch_optional(conn).await?)
}

/// The same, with its row locked until the transaction ends.
pub async fn lock_remote(tx: &mut Tx, executor: &str) -> Result<Option<RemoteRow>> {
    let text = format!("update experiment_remote set attempts = attempts where executor_id = $1 returning {REMOTE}");
    Ok(sqlx::query_as(AssertSqlSafe(text)).bind(executor).fetch_optional(&mut **tx).await?)
}

/// Notes what was heard of an executor.
pub async fn save_heard(conn: &mut Conn, row: &RemoteRow) -> Result<()> {
    let text = "update experiment_remote set heard_at = $2, graph_at = $3, result = $4, final_at = $5, too_long = $6 \
                where executor_id = $1";
    sqlx::query(text)
        .bind(row.executor_id.clone())
        .bind(row.heard_at)
        .bind(row.graph_at)
        .bind(row.result.clone())
        .bind(row.final_at)
        .bind(row.too_long)
        .execute(conn)
        .await?;
    Ok(())
}

/// Questions that are to be sent or under way.
pub async fn questions(conn: &mut Conn) -> Result<Vec<QuestionRow>> {
    let text = "select r.executor_id, r.experiment_id, r.connector, r.verb, r.state, r.attempts, r.asked_at, r.next_at, \
                r.asked_by, d.keep_alive_minutes from experiment_remote r \
                join experiment_deployment d on d.id = r.executor_id where r.state in ('queued', 'asking') \
                order by r.asked_at, d.place";
    Ok(sqlx::query_as(text).fetch_all(conn).await?)
}

/// Notes that questions are under way. Gives those for which nothing else is asked meanwhile.
pub async fn begin(tx: &mut Tx, executors: &[String], verb: Verb, replica: &str) -> Result<Vec<String>> {
    let mut begun = Vec::new();
    for piece in executors.chunks(ROWS) {
        let text = format!(
            "update experiment_remote set state = 'asking', attempts = attempts + 1, asked_by = $1 \
             where verb = $2 and state = 'queued' and executor_id in ({}) returning executor_id",
            list(piece.len(), 2)
        );
        let mut update = query(text).bind(replica).bind(verb.word());
        for id in piece {
            update = update.bind(id.clone());
        }
        for row in update.fetch_all(&mut **tx).await? {
            begun.push(row.try_get(0)?);
        }
    }
    Ok(begun)
}

/// Notes what a question came to that was in a state after so many attempts, unless it has moved on since.
pub async fn settle(
    conn: &mut Conn,
    executor: &str,
    verb: Verb,
    (state, attempts): (&str, i64),
    to: Asked,
    why: &str,
    next_at: i64,
) -> Result<()> {
    let text = "update experiment_remote set state = $5, why = $6, next_at = $7, asked_by = '' \
                where executor_id = $1 and verb = $2 and state = $3 and attempts = $4";
    let update = sqlx::query(text).bind(executor).bind(verb.word()).bind(state).bind(attempts);
    update.bind(to.word()).bind(why).bind(next_at).execute(conn).await?;
    Ok(())
}

/// Locks what is known of an experiment's executors until the transaction ends: nothing is heard of them meanwhile.
pub async fn lock_remotes(tx: &mut Tx, experiment: &str) -> Result<()> {
    let text = "update experiment_remote set attempts = attempts where experiment_id = $1";
    sqlx::query(text).bind(experiment).execute(&mut **tx).await?;
    Ok(())
}

/// Whether an experiment has an executor of this connector.
pub async fn has_executor(conn: &mut Conn, experiment: &str, connector: &str) -> Result<bool> {
    let text = "select 1 from experiment_deployment where experiment_id = $1 and connector = $2 limit 1";
    Ok(sqlx::query(text).bind(experiment).bind(connector).fetch_optional(conn).await?.is_some())
}
