//! All SQL of environments.

use sqlx::FromRow;

use super::plan::Old;
use crate::{
    error::Result,
    fleet::model::AgentId,
    platform::db::{Conn, Engine, ROWS, Tx, query},
};

/// An environment as stored.
#[derive(Debug, Clone, FromRow)]
pub struct EnvironmentRow {
    pub digest: String,
    pub platform: String,
    pub state: String,
    pub builder: Option<String>,
    pub build: String,
    pub lost: i64,
    pub archive: String,
    pub archive_bytes: i64,
    pub message: String,
    pub made_at: Option<i64>,
}

/// An environment that deployments want.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Its digest.
    pub digest: String,
    /// `linux/amd64` and the like.
    pub platform: String,
    /// It is built once for all.
    pub is_built: bool,
}

const ENVIRONMENT: &str = "digest, platform, state, builder, build, lost, archive, archive_bytes, message, made_at";

/// Notes that environments are wanted. One that could not be built is tried anew.
pub async fn want(tx: &mut Tx, wanted: &[Wanted]) -> Result<()> {
    let now = tx.now();
    for piece in wanted.chunks(ROWS) {
        let types = ["", "", "", "", "bigint", "", "bigint", "", "bigint"];
        let text = format!(
            "insert into experiment_environment (digest, platform, state, build, lost, archive, archive_bytes, message, \
             used_at) values {} on conflict (digest) do update set used_at = excluded.used_at, \
             message = case when experiment_environment.state = 'failed' then '' else experiment_environment.message end, \
             lost = case when experiment_environment.state = 'failed' then 0 else experiment_environment.lost end, \
             state = case when experiment_environment.state = 'failed' then excluded.state \
             else experiment_environment.state end",
            tx.engine().values(&types, piece.len())
        );
        let insert = piece.iter().fold(query(text), |insert, it| {
            let state = if it.is_built { "waiting" } else { "local" };
            let insert = insert.bind(it.digest.clone()).bind(it.platform.clone()).bind(state).bind("").bind(0_i64);
            insert.bind("").bind(0_i64).bind("").bind(now)
        });
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Those of these environments that are there.
pub async fn of(conn: &mut Conn, digests: &[String]) -> Result<Vec<EnvironmentRow>> {
    let mut found = Vec::new();
    for piece in digests.chunks(ROWS) {
        let each = Engine::of(conn).each(piece.len());
        let text = format!("select {ENVIRONMENT} from experiment_environment where digest in ({each})");
        let select = sqlx::query_as(sqlx::AssertSqlSafe(text));
        found.extend(
            piece.iter().fold(select, |select, digest| select.bind(digest.clone())).fetch_all(&mut *conn).await?,
        );
    }
    Ok(found)
}

/// Digests of images that are to be built or are being built.
pub async fn open(conn: &mut Conn) -> Result<Vec<String>> {
    let text = "select digest from experiment_environment where state in ('waiting', 'building') order by digest";
    let rows: Vec<(String,)> = sqlx::query_as(text).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(digest,)| digest).collect())
}

/// Locks an environment.
pub async fn lock(conn: &mut Conn, digest: &str) -> Result<()> {
    let text = "update experiment_environment set used_at = used_at where digest = $1";
    sqlx::query(text).bind(digest).execute(conn).await?;
    Ok(())
}

pub async fn save(conn: &mut Conn, row: &EnvironmentRow) -> Result<()> {
    sqlx::query(
        "update experiment_environment set state = $2, builder = $3, build = $4, lost = $5, archive = $6, \
         archive_bytes = $7, message = $8, made_at = $9 where digest = $1",
    )
    .bind(row.digest.clone())
    .bind(row.state.clone())
    .bind(row.builder.clone())
    .bind(row.build.clone())
    .bind(row.lost)
    .bind(row.archive.clone())
    .bind(row.archive_bytes)
    .bind(row.message.clone())
    .bind(row.made_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The deployments that wait for an environment, in the order of their experiments: id and agent.
pub async fn waiting(conn: &mut Conn, digest: &str) -> Result<Vec<(String, String)>> {
    let text = "select d.id, d.agent_id from experiment_deployment d join experiment_experiment e \
                on e.id = d.experiment_id where d.environment_digest = $1 and d.stage = 'waiting' \
                and d.agent_id is not null and d.cancelled_by = '' and e.status = 'preparing' \
                order by e.created_at, e.id, d.place";
    Ok(sqlx::query_as(text).bind(digest).fetch_all(conn).await?)
}

/// Which builds are under way, by their ids.
pub async fn builds(conn: &mut Conn) -> Result<Vec<String>> {
    let text = "select build from experiment_environment where state = 'building'";
    let rows: Vec<(String,)> = sqlx::query_as(text).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(build,)| build).collect())
}

/// Notes that agents use environments at this moment.
pub async fn touch(tx: &mut Tx, places: &[(String, String)]) -> Result<()> {
    let now = tx.now();
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    for piece in places.chunks(ROWS) {
        // An environment that was never wanted here has no row, and neither has its place.
        let text = format!(
            "insert into experiment_environment_place (digest, agent_id, used_at) \
             select v.column1, v.column2, v.column3 from (values {}) v where exists (select 1 from \
             experiment_environment e where e.digest = v.column1) \
             on conflict (digest, agent_id) do update set used_at = excluded.used_at",
            tx.engine().values(&["", "", "bigint"], piece.len())
        );
        let insert = piece
            .iter()
            .fold(query(text), |insert, (digest, agent)| insert.bind(digest.clone()).bind(agent.clone()).bind(now));
        insert.execute(&mut **tx).await?;
    }
    let mut digests: Vec<_> = places.into_iter().map(|(digest, _)| digest).collect();
    digests.dedup();
    for piece in digests.chunks(ROWS) {
        let text = format!(
            "update experiment_environment set used_at = $1 where digest in ({})",
            crate::platform::db::list(piece.len(), 1)
        );
        let update = piece.iter().fold(query(text).bind(now), |update, digest| update.bind(digest.clone()));
        update.execute(&mut **tx).await?;
    }
    Ok(())
}

/// What was last used before a time, oldest first, at most `limit` of agents and of home each.
pub async fn old(conn: &mut Conn, before: i64, limit: i64) -> Result<Vec<Old>> {
    let at_agents = "select p.digest, p.agent_id, p.used_at, case when exists (select 1 from experiment_deployment d \
                     where d.environment_digest = p.digest and d.agent_id = p.agent_id and d.stage <> 'ended') \
                     then 1 else 0 end from experiment_environment_place p where p.used_at < $1 \
                     order by p.used_at, p.digest, p.agent_id limit $2";
    let here = "select e.digest, '', e.used_at, case when e.state = 'building' or exists (select 1 from \
                experiment_deployment d where d.environment_digest = e.digest and d.stage <> 'ended') or exists \
                (select 1 from experiment_environment_place p where p.digest = e.digest) then 1 else 0 end \
                from experiment_environment e where e.used_at < $1 order by e.used_at, e.digest limit $2";
    let mut found = Vec::new();
    for text in [at_agents, here] {
        let rows: Vec<(String, String, i64, i64)> =
            sqlx::query_as(text).bind(before).bind(limit).fetch_all(&mut *conn).await?;
        found.extend(rows.into_iter().map(|(digest, agent, used_at, needed)| Old {
            digest,
            agent: (!agent.is_empty()).then_some(AgentId(agent)),
            used_at,
            is_needed: needed == 1,
        }));
    }
    Ok(found)
}

pub async fn remove_place(conn: &mut Conn, digest: &str, agent: &AgentId) -> Result<()> {
    let text = "delete from experiment_environment_place where digest = $1 and agent_id = $2";
    sqlx::query(text).bind(digest).bind(agent.0.clone()).execute(conn).await?;
    Ok(())
}

pub async fn remove(conn: &mut Conn, digest: &str) -> Result<()> {
    sqlx::query("delete from experiment_environment where digest = $1").bind(digest).execute(conn).await?;
    Ok(())
}
