//! All SQL of experiments.

use std::collections::BTreeMap;

use sqlx::{FromRow, Row};

use super::model::{ExecutorId, ExperimentId, FlagValues};
use crate::{
    error::Result,
    platform::db::{Conn, Engine, ROWS, Tx, list, query},
};

/// An experiment as stored.
#[derive(Debug, Clone, FromRow)]
pub struct ExperimentRow {
    pub id: String,
    pub owner: String,
    pub name: String,
    pub status: String,
    pub status_at: i64,
    pub why: String,
    pub digest: String,
    pub context: String,
    pub tags: String,
    pub created_at: i64,
    pub ready_at: Option<i64>,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub cancelled_by: String,
    pub starts: i64,
    pub deleted_at: Option<i64>,
    pub version: i64,
}

/// A deployment as stored.
#[derive(Debug, Clone, FromRow)]
pub struct DeploymentRow {
    pub id: String,
    pub experiment_id: String,
    pub place: i64,
    pub connector: String,
    pub node_name: String,
    pub agent_id: Option<String>,
    pub document: String,
    pub environment_digest: String,
    pub graph: String,
    pub pipeline: String,
    pub keep_alive_minutes: i64,
    pub cleanup: i64,
    pub moved: i64,
    pub stage: String,
    pub outcome: String,
    pub message: String,
    pub cancelled_by: String,
    pub given_up: i64,
    pub deployed_at: Option<i64>,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub result: String,
    pub result_late: i64,
    pub runs: String,
}

/// A lock as stored.
#[derive(Debug, Clone, FromRow)]
pub struct LockRow {
    pub connector: String,
    pub node_name: String,
    pub owner: String,
    pub reason: String,
    pub since: i64,
}

/// What postprocessors were told of an experiment, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PostRow {
    pub tries: i64,
    pub due_at: Option<i64>,
    pub told_at: Option<i64>,
    pub message: String,
    pub error: String,
}

/// A change of a flag as stored.
#[derive(Debug, Clone, FromRow)]
pub struct FlagChangeRow {
    pub request_id: String,
    pub name: String,
    pub text_value: Option<String>,
    pub int_value: i64,
    pub changed_by: String,
    pub at: i64,
}

const EXPERIMENT: &str = "id, owner, name, status, status_at, why, digest, context, tags, created_at, ready_at, started_at, \
                          ended_at, cancelled_by, starts, deleted_at, version";
const DEPLOYMENT: &str = "id, experiment_id, place, connector, node_name, agent_id, document, environment_digest, graph, \
                          pipeline, keep_alive_minutes, cleanup, moved, stage, outcome, message, cancelled_by, given_up, \
                          deployed_at, started_at, ended_at, result, result_late, runs";

/// Which experiments to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this user's; none: everybody's.
    pub owner: Option<String>,
    /// Only of this status; empty: all.
    pub status: String,
    /// Only those whose name holds this; empty: all.
    pub name: String,
    /// Only those made at or after this time, milliseconds since the Unix epoch.
    pub since: i64,
    /// Only those before this id in the order, which is newest first; empty: from the newest on.
    pub before: Option<(i64, String)>,
}

// === experiments ===

pub async fn insert_experiment(conn: &mut Conn, row: &ExperimentRow) -> Result<(), sqlx::Error> {
    let text = format!(
        "insert into experiment_experiment ({EXPERIMENT}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
         $13, $14, $15, $16, $17)"
    );
    query(text)
        .bind(row.id.clone())
        .bind(row.owner.clone())
        .bind(row.name.clone())
        .bind(row.status.clone())
        .bind(row.status_at)
        .bind(row.why.clone())
        .bind(row.digest.clone())
        .bind(row.context.clone())
        .bind(row.tags.clone())
        .bind(row.created_at)
        .bind(row.ready_at)
        .bind(row.started_at)
        .bind(row.ended_at)
        .bind(row.cancelled_by.clone())
        .bind(row.starts)
        .bind(row.deleted_at)
        .bind(row.version)
        .execute(conn)
        .await?;
    Ok(())
}

/// Locks a user's experiment by its name.
pub async fn lock_experiment(conn: &mut Conn, owner: &str, name: &str) -> Result<Option<ExperimentRow>> {
    let text = format!(
        "update experiment_experiment set version = version + 1 where owner = $1 and name = $2 and deleted_at is null \
         returning {EXPERIMENT}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(owner).bind(name).fetch_optional(conn).await?)
}

/// Locks an experiment by its id, deleted or not.
pub async fn lock_by_id(conn: &mut Conn, id: &ExperimentId) -> Result<Option<ExperimentRow>> {
    let text = format!("update experiment_experiment set version = version + 1 where id = $1 returning {EXPERIMENT}");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

pub async fn find_experiment(conn: &mut Conn, owner: &str, name: &str) -> Result<Option<ExperimentRow>> {
    let text =
        format!("select {EXPERIMENT} from experiment_experiment where owner = $1 and name = $2 and deleted_at is null");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(owner).bind(name).fetch_optional(conn).await?)
}

/// An experiment by its id, unless it was deleted.
pub async fn fetch_experiment(conn: &mut Conn, id: &ExperimentId) -> Result<Option<ExperimentRow>> {
    let text = format!("select {EXPERIMENT} from experiment_experiment where id = $1 and deleted_at is null");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

/// An experiment by its id, deleted or not.
pub async fn fetch_any(conn: &mut Conn, id: &ExperimentId) -> Result<Option<ExperimentRow>> {
    let text = format!("select {EXPERIMENT} from experiment_experiment where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

/// Experiments, newest first, at most `limit`.
pub async fn experiments(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<ExperimentRow>> {
    let text = format!(
        "select {EXPERIMENT} from experiment_experiment where deleted_at is null and ($1 = '' or owner = $1) \
         and ($2 = '' or status = $2) and ($3 = '' or lower(name) like '%' || lower($3) || '%') and created_at >= $4 \
         and (created_at < $5 or created_at = $5 and id < $6) order by created_at desc, id desc limit $7"
    );
    let (at, id) = filter.before.clone().unwrap_or((i64::MAX, String::new()));
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
        .bind(filter.owner.clone().unwrap_or_default())
        .bind(filter.status.clone())
        .bind(filter.name.clone())
        .bind(filter.since)
        .bind(at)
        .bind(id)
        .bind(limit)
        .fetch_all(conn)
        .await?)
}

/// How many experiments are in each status.
pub async fn counts_by_status(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    let text = "select status, count(*) from experiment_experiment where deleted_at is null group by status";
    Ok(sqlx::query_as(text).fetch_all(conn).await?)
}

/// Ids of experiments that are not over, and of those with something given up that may yet be heard of.
pub async fn open_experiments(conn: &mut Conn) -> Result<Vec<ExperimentId>> {
    let text = "select id from experiment_experiment where ended_at is null union \
                select experiment_id from experiment_deployment where given_up = 1";
    let rows: Vec<(String,)> = sqlx::query_as(text).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(id,)| ExperimentId(id)).collect())
}

/// Ids of experiments deleted before a time.
pub async fn deleted_before(conn: &mut Conn, before: i64) -> Result<Vec<ExperimentId>> {
    let select = sqlx::query_as("select id from experiment_experiment where deleted_at < $1 order by id limit 100");
    let rows: Vec<(String,)> = select.bind(before).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(id,)| ExperimentId(id)).collect())
}

pub async fn save_experiment(conn: &mut Conn, row: &ExperimentRow) -> Result<()> {
    sqlx::query(
        "update experiment_experiment set status = $2, status_at = $3, why = $4, ready_at = $5, started_at = $6, \
         ended_at = $7, cancelled_by = $8, deleted_at = $9 where id = $1",
    )
    .bind(row.id.clone())
    .bind(row.status.clone())
    .bind(row.status_at)
    .bind(row.why.clone())
    .bind(row.ready_at)
    .bind(row.started_at)
    .bind(row.ended_at)
    .bind(row.cancelled_by.clone())
    .bind(row.deleted_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes an experiment with all that stands below it.
pub async fn remove_experiment(conn: &mut Conn, id: &ExperimentId) -> Result<()> {
    sqlx::query("delete from experiment_experiment where id = $1").bind(id.0.clone()).execute(conn).await?;
    Ok(())
}

// === deployments ===

pub async fn insert_deployments(tx: &mut Tx, rows: &[DeploymentRow]) -> Result<()> {
    let types = [
        "", "", "bigint", "", "", "", "", "", "", "", "bigint", "bigint", "bigint", "", "", "", "", "bigint", "bigint",
        "bigint", "bigint", "", "bigint", "",
    ];
    for piece in rows.chunks(ROWS) {
        let values = tx.engine().values(&types, piece.len());
        let mut insert = query(format!("insert into experiment_deployment ({DEPLOYMENT}) values {values}"));
        for row in piece {
            insert = insert
                .bind(row.id.clone())
                .bind(row.experiment_id.clone())
                .bind(row.place)
                .bind(row.connector.clone())
                .bind(row.node_name.clone())
                .bind(row.agent_id.clone())
                .bind(row.document.clone())
                .bind(row.environment_digest.clone())
                .bind(row.graph.clone())
                .bind(row.pipeline.clone())
                .bind(row.keep_alive_minutes)
                .bind(row.cleanup)
                .bind(row.moved)
                .bind(row.stage.clone())
                .bind(row.outcome.clone())
                .bind(row.message.clone())
                .bind(row.cancelled_by.clone())
                .bind(row.given_up)
                .bind(row.deployed_at)
                .bind(row.started_at)
                .bind(row.ended_at)
                .bind(row.result.clone())
                .bind(row.result_late)
                .bind(row.runs.clone());
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Deployments of an experiment, in their order.
pub async fn deployments(conn: &mut Conn, experiment: &str) -> Result<Vec<DeploymentRow>> {
    let text = format!("select {DEPLOYMENT} from experiment_deployment where experiment_id = $1 order by place");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(experiment).fetch_all(conn).await?)
}

pub async fn fetch_deployment(conn: &mut Conn, id: &ExecutorId) -> Result<Option<DeploymentRow>> {
    let text = format!("select {DEPLOYMENT} from experiment_deployment where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id.0.clone()).fetch_optional(conn).await?)
}

/// Which experiments of a user these executors belong to, and whether each has ended: (executor, experiment, ended).
pub async fn executors_of(conn: &mut Conn, owner: &str, ids: &[String]) -> Result<Vec<(String, String, bool)>> {
    let mut found = Vec::new();
    for piece in ids.chunks(ROWS) {
        let text = format!(
            "select d.id, d.experiment_id, d.stage from experiment_deployment d join experiment_experiment e \
             on e.id = d.experiment_id where e.owner = $1 and e.deleted_at is null and d.id in ({})",
            list(piece.len(), 1)
        );
        let mut select = sqlx::query_as::<_, (String, String, String)>(sqlx::AssertSqlSafe(text)).bind(owner);
        for id in piece {
            select = select.bind(id.clone());
        }
        let rows = select.fetch_all(&mut *conn).await?;
        found.extend(rows.into_iter().map(|(id, experiment, stage)| (id, experiment, stage == "ended")));
    }
    Ok(found)
}

pub async fn save_deployment(conn: &mut Conn, row: &DeploymentRow) -> Result<()> {
    sqlx::query(
        "update experiment_deployment set stage = $2, outcome = $3, message = $4, cancelled_by = $5, given_up = $6, \
         deployed_at = $7, started_at = $8, ended_at = $9, result = $10, result_late = $11, runs = $12 where id = $1",
    )
    .bind(row.id.clone())
    .bind(row.stage.clone())
    .bind(row.outcome.clone())
    .bind(row.message.clone())
    .bind(row.cancelled_by.clone())
    .bind(row.given_up)
    .bind(row.deployed_at)
    .bind(row.started_at)
    .bind(row.ended_at)
    .bind(row.result.clone())
    .bind(row.result_late)
    .bind(row.runs.clone())
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves many deployments to a stage at once.
pub async fn save_stages(conn: &mut Conn, ids: &[String], stage: &str) -> Result<()> {
    for piece in ids.chunks(ROWS) {
        let each = list(piece.len(), 1);
        let mut update = query(format!("update experiment_deployment set stage = $1 where id in ({each})")).bind(stage);
        for id in piece {
            update = update.bind(id.clone());
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Names of the nodes of experiments, by experiment.
pub async fn nodes_of(conn: &mut Conn, experiments: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for piece in experiments.chunks(ROWS) {
        let text = format!(
            "select experiment_id, node_name from experiment_deployment where experiment_id in ({}) \
             order by experiment_id, place",
            Engine::of(conn).each(piece.len())
        );
        let mut select = sqlx::query_as::<_, (String, String)>(sqlx::AssertSqlSafe(text));
        for id in piece {
            select = select.bind(id.clone());
        }
        for (experiment, node) in select.fetch_all(&mut *conn).await? {
            found.entry(experiment).or_default().push(node);
        }
    }
    Ok(found)
}

/// How many deployments of experiments are in which stage and outcome: (experiment, stage, outcome, count).
pub async fn tallies(conn: &mut Conn, experiments: &[String]) -> Result<Vec<(String, String, String, i64)>> {
    let mut found = Vec::new();
    for piece in experiments.chunks(ROWS) {
        let text = format!(
            "select experiment_id, stage, outcome, count(*) from experiment_deployment where experiment_id in ({}) \
             group by experiment_id, stage, outcome",
            Engine::of(conn).each(piece.len())
        );
        let mut select = sqlx::query_as(sqlx::AssertSqlSafe(text));
        for id in piece {
            select = select.bind(id.clone());
        }
        found.extend(select.fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

// === locks ===

/// Takes nodes for a user, in one order for everybody. Gives those that another user holds.
pub async fn take_locks(tx: &mut Tx, nodes: &[(String, String)], owner: &str, reason: &str) -> Result<Vec<LockRow>> {
    let now = tx.now();
    let mut held = Vec::new();
    for (connector, node) in nodes {
        let taken = sqlx::query(
            "insert into experiment_lock (connector, node_name, owner, reason, since, holders) \
             values ($1, $2, $3, $4, $5, 1) on conflict (connector, node_name) do update \
             set holders = experiment_lock.holders + 1, reason = excluded.reason \
             where experiment_lock.owner = excluded.owner returning holders",
        )
        .bind(connector.clone())
        .bind(node.clone())
        .bind(owner)
        .bind(reason)
        .bind(now)
        .fetch_optional(&mut **tx)
        .await?;
        if taken.is_none() {
            held.extend(fetch_lock(tx, connector, node).await?);
        }
    }
    Ok(held)
}

async fn fetch_lock(conn: &mut Conn, connector: &str, node: &str) -> Result<Option<LockRow>> {
    let text = "select connector, node_name, owner, reason, since from experiment_lock \
                where connector = $1 and node_name = $2";
    Ok(sqlx::query_as(text).bind(connector).bind(node).fetch_optional(conn).await?)
}

/// Lets nodes go that an experiment held.
pub async fn release_locks(tx: &mut Tx, nodes: &[(String, String)], owner: &str) -> Result<()> {
    for (connector, node) in nodes {
        let last = sqlx::query(
            "delete from experiment_lock where connector = $1 and node_name = $2 and owner = $3 and holders = 1",
        );
        let gone = last.bind(connector.clone()).bind(node.clone()).bind(owner).execute(&mut **tx).await?;
        if gone.rows_affected() == 0 {
            sqlx::query(
                "update experiment_lock set holders = holders - 1 where connector = $1 and node_name = $2 and owner = $3",
            )
            .bind(connector.clone())
            .bind(node.clone())
            .bind(owner)
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Locks of one user, or of everybody.
pub async fn locks(conn: &mut Conn, owner: Option<&str>) -> Result<Vec<LockRow>> {
    let text = "select connector, node_name, owner, reason, since from experiment_lock \
                where $1 = '' or owner = $1 order by connector, node_name";
    Ok(sqlx::query_as(text).bind(owner.unwrap_or_default().to_owned()).fetch_all(conn).await?)
}

// === what postprocessors were told ===

/// Postprocessors are to be told of an experiment.
pub async fn insert_post(tx: &mut Tx, experiment: &str) -> Result<()> {
    let now = tx.now();
    let text = "insert into experiment_post (experiment_id, tries, due_at, told_at, message, error) \
                values ($1, 0, $2, null, '', '') on conflict (experiment_id) do nothing";
    sqlx::query(text).bind(experiment).bind(now).execute(&mut **tx).await?;
    Ok(())
}

pub async fn fetch_post(conn: &mut Conn, experiment: &str) -> Result<Option<PostRow>> {
    let text = "select tries, due_at, told_at, message, error from experiment_post where experiment_id = $1";
    Ok(sqlx::query_as(text).bind(experiment).fetch_optional(conn).await?)
}

/// Experiments that postprocessors are to be told of by now, longest due first.
pub async fn due_posts(conn: &mut Conn, now: i64, limit: i64) -> Result<Vec<ExperimentId>> {
    let text = "select experiment_id from experiment_post where due_at <= $1 order by due_at limit $2";
    let rows: Vec<(String,)> = sqlx::query_as(text).bind(now).bind(limit).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(id,)| ExperimentId(id)).collect())
}

pub async fn save_post(tx: &mut Tx, experiment: &str, row: &PostRow) -> Result<()> {
    sqlx::query(
        "update experiment_post set tries = $2, due_at = $3, told_at = $4, message = $5, error = $6 \
         where experiment_id = $1",
    )
    .bind(experiment)
    .bind(row.tries)
    .bind(row.due_at)
    .bind(row.told_at)
    .bind(row.message.clone())
    .bind(row.error.clone())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

// === settings ===

/// Whether a user wants graphs in answers to netunicorn's clients.
pub async fn wants_graphs(conn: &mut Conn, owner: &str) -> Result<bool> {
    let select = sqlx::query("select graphs from experiment_setting where owner = $1").bind(owner);
    let row = select.fetch_optional(conn).await?;
    Ok(row.map(|r| r.try_get::<i64, _>(0)).transpose()? != Some(0))
}

pub async fn save_setting(conn: &mut Conn, owner: &str, graphs: bool) -> Result<()> {
    let text = "insert into experiment_setting (owner, graphs) values ($1, $2) \
                on conflict (owner) do update set graphs = excluded.graphs";
    sqlx::query(text).bind(owner).bind(i64::from(graphs)).execute(conn).await?;
    Ok(())
}

// === flags ===

pub async fn fetch_flag(conn: &mut Conn, experiment: &str, name: &str) -> Result<Option<FlagValues>> {
    let select =
        sqlx::query("select text_value, int_value from experiment_flag where experiment_id = $1 and name = $2");
    let row = select.bind(experiment).bind(name).fetch_optional(conn).await?;
    row.map(|r| Ok(FlagValues { text_value: r.try_get(0)?, int_value: r.try_get(1)? })).transpose()
}

/// Flags of an experiment, by name.
pub async fn flags(conn: &mut Conn, experiment: &str) -> Result<Vec<(String, FlagValues, i64)>> {
    let select = sqlx::query_as::<_, (String, Option<String>, i64, i64)>(
        "select name, text_value, int_value, at from experiment_flag where experiment_id = $1 order by name",
    );
    let rows = select.bind(experiment).fetch_all(conn).await?;
    Ok(rows
        .into_iter()
        .map(|(name, text_value, int_value, at)| (name, FlagValues { text_value, int_value }, at))
        .collect())
}

pub async fn save_flag(tx: &mut Tx, experiment: &str, name: &str, values: &FlagValues) -> Result<()> {
    let now = tx.now();
    sqlx::query(
        "insert into experiment_flag (experiment_id, name, text_value, int_value, at) values ($1, $2, $3, $4, $5) \
         on conflict (experiment_id, name) do update set text_value = excluded.text_value, \
         int_value = excluded.int_value, at = excluded.at",
    )
    .bind(experiment)
    .bind(name)
    .bind(values.text_value.clone())
    .bind(values.int_value)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What a request made of its flag, if it was applied before.
pub async fn fetch_flag_change(conn: &mut Conn, experiment: &str, request: &str) -> Result<Option<FlagChangeRow>> {
    let text = "select request_id, name, text_value, int_value, changed_by, at from experiment_flag_change \
                where experiment_id = $1 and request_id = $2";
    Ok(sqlx::query_as(text).bind(experiment).bind(request).fetch_optional(conn).await?)
}

pub async fn insert_flag_change(conn: &mut Conn, experiment: &str, row: &FlagChangeRow) -> Result<()> {
    sqlx::query(
        "insert into experiment_flag_change (experiment_id, request_id, name, text_value, int_value, changed_by, at) \
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(experiment)
    .bind(row.request_id.clone())
    .bind(row.name.clone())
    .bind(row.text_value.clone())
    .bind(row.int_value)
    .bind(row.changed_by.clone())
    .bind(row.at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Changes of an experiment's flags, newest first, at most `limit`.
pub async fn flag_changes(conn: &mut Conn, experiment: &str, limit: i64) -> Result<Vec<FlagChangeRow>> {
    let text = "select request_id, name, text_value, int_value, changed_by, at from experiment_flag_change \
                where experiment_id = $1 order by at desc, request_id desc limit $2";
    Ok(sqlx::query_as(text).bind(experiment).bind(limit).fetch_all(conn).await?)
}
