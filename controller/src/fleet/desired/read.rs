//! Assignments and reports as rows, read back into what the door speaks of.

use sqlx::FromRow;

use super::{
    super::{
        model::{AgentId, Key, Mode, Phase, State, Wanted},
        store::unknown_word,
    },
    Envelope, OnInterrupt, OnRevoke, Report,
};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, Engine, ROWS, list},
};

#[derive(FromRow)]
struct WantedRow {
    agent_id: String,
    kind: String,
    id: String,
    generation: i64,
    epoch: i64,
    mode: String,
    digest: String,
    state: String,
    refused_generation: i64,
    refused_digest: String,
}

#[derive(FromRow)]
struct EnvelopeRow {
    #[sqlx(flatten)]
    wanted: WantedRow,
    doc_version: i64,
    on_interrupt: String,
    on_revoke: String,
    start_by: i64,
    refused_reason: String,
    refused_message: String,
}

#[derive(FromRow)]
struct ReportRow {
    agent_id: String,
    kind: String,
    id: String,
    generation: i64,
    phase: String,
    conditions: String,
    result: Vec<u8>,
    at: i64,
    received_at: i64,
    outcome: i64,
    may_have_run: i64,
    attempt: i64,
}

const WANTED: &str = "agent_id, kind, id, generation, epoch, mode, digest, state, refused_generation, refused_digest";
const ENVELOPE: &str = "agent_id, kind, id, generation, epoch, mode, digest, state, refused_generation, refused_digest, \
                        doc_version, on_interrupt, on_revoke, start_by, refused_reason, refused_message";
const REPORT: &str = "agent_id, kind, id, generation, phase, conditions, result, at, received_at, outcome, may_have_run, \
                      attempt";

/// The newest reports on assignments of one kind.
pub async fn reports(conn: &mut Conn, kind: &str, ids: &[String]) -> Result<Vec<Report>> {
    let mut found = Vec::new();
    for piece in ids.chunks(ROWS) {
        let text = format!("select {REPORT} from fleet_report where kind = $1 and id in ({})", list(piece.len(), 1));
        let mut select = sqlx::query_as::<_, ReportRow>(sqlx::AssertSqlSafe(text)).bind(kind);
        for id in piece {
            select = select.bind(id.clone());
        }
        found
            .extend(select.fetch_all(&mut *conn).await?.into_iter().map(Report::try_from).collect::<Result<Vec<_>>>()?);
    }
    Ok(found)
}

/// Ends of once work of one kind that nobody has forgotten, of ids that begin so, at most `limit`.
pub async fn ended(conn: &mut Conn, kind: &str, prefix: &str, limit: i64) -> Result<Vec<Report>> {
    let text = format!(
        "select {REPORT} from fleet_report where kind = $1 and outcome = 1 \
         and substr(id, 1, length(cast($2 as text))) = $2 order by id limit $3"
    );
    let select = sqlx::query_as::<_, ReportRow>(sqlx::AssertSqlSafe(text)).bind(kind).bind(prefix).bind(limit);
    let rows = select.fetch_all(conn).await?;
    rows.into_iter().map(Report::try_from).collect()
}

/// The newest reports of one agent.
pub async fn reports_of(conn: &mut Conn, agent: &AgentId) -> Result<Vec<Report>> {
    let text = format!("select {REPORT} from fleet_report where agent_id = $1 order by kind, id");
    let rows = sqlx::query_as::<_, ReportRow>(sqlx::AssertSqlSafe(text)).bind(agent.0.clone()).fetch_all(conn).await?;
    rows.into_iter().map(Report::try_from).collect()
}

/// What [`assignments`] gives, without what matters only when it is sent.
pub async fn wanted(conn: &mut Conn, agents: &[AgentId]) -> Result<Vec<(AgentId, Wanted)>> {
    let mut found = Vec::new();
    for piece in agents.chunks(ROWS) {
        let text =
            format!("select {WANTED} from fleet_assignment where agent_id in ({})", Engine::of(conn).each(piece.len()));
        let mut select = sqlx::query_as::<_, WantedRow>(sqlx::AssertSqlSafe(text));
        for agent in piece {
            select = select.bind(agent.0.clone());
        }
        for row in select.fetch_all(&mut *conn).await? {
            found.push(row.try_into()?);
        }
    }
    Ok(found)
}

/// Everything agents are to act on or are acting on.
pub async fn assignments(conn: &mut Conn, agents: &[AgentId]) -> Result<Vec<Envelope>> {
    let mut found = Vec::new();
    for piece in agents.chunks(ROWS) {
        let text = format!(
            "select {ENVELOPE} from fleet_assignment where agent_id in ({}) order by agent_id, kind, id",
            Engine::of(conn).each(piece.len())
        );
        let mut select = sqlx::query_as::<_, EnvelopeRow>(sqlx::AssertSqlSafe(text));
        for agent in piece {
            select = select.bind(agent.0.clone());
        }
        found.extend(envelopes(select.fetch_all(&mut *conn).await?)?);
    }
    Ok(found)
}

/// Assignments of one kind.
pub async fn assignments_of_kind(conn: &mut Conn, kind: &str, ids: &[String]) -> Result<Vec<Envelope>> {
    let mut found = Vec::new();
    for piece in ids.chunks(ROWS) {
        let text =
            format!("select {ENVELOPE} from fleet_assignment where kind = $1 and id in ({})", list(piece.len(), 1));
        let mut select = sqlx::query_as::<_, EnvelopeRow>(sqlx::AssertSqlSafe(text)).bind(kind);
        for id in piece {
            select = select.bind(id.clone());
        }
        found.extend(envelopes(select.fetch_all(&mut *conn).await?)?);
    }
    Ok(found)
}

/// What was changed after the event `seq`, in order, at most `limit`.
pub async fn changed_since(conn: &mut Conn, seq: i64, limit: i64) -> Result<Vec<Envelope>> {
    let text = format!("select {ENVELOPE} from fleet_assignment where generation > $1 order by generation limit $2");
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(seq).bind(limit).fetch_all(conn).await?;
    envelopes(rows)
}

/// What one event changed.
pub async fn of_generation(conn: &mut Conn, generation: i64) -> Result<Vec<Envelope>> {
    let text = format!("select {ENVELOPE} from fleet_assignment where generation = $1");
    envelopes(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(generation).fetch_all(conn).await?)
}

/// What agents of a replica have not accepted.
pub async fn unsent(conn: &mut Conn, replica: &str) -> Result<Vec<Envelope>> {
    let text = format!(
        "select {ENVELOPE} from fleet_assignment where state in ('queued', 'offered') \
         and agent_id in (select agent_id from fleet_session where replica_id = $1)"
    );
    envelopes(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(replica).fetch_all(conn).await?)
}

fn envelopes(rows: Vec<EnvelopeRow>) -> Result<Vec<Envelope>> {
    rows.into_iter().map(Envelope::try_from).collect()
}

impl TryFrom<WantedRow> for (AgentId, Wanted) {
    type Error = Error;

    fn try_from(row: WantedRow) -> Result<Self> {
        let wanted = Wanted {
            key: Key { kind: row.kind, id: row.id },
            epoch: row.epoch,
            generation: row.generation,
            mode: Mode::from_word(&row.mode).ok_or_else(|| unknown_word(&row.mode))?,
            digest: row.digest,
            state: State::from_word(&row.state).ok_or_else(|| unknown_word(&row.state))?,
            refused: (row.refused_generation > 0).then_some((row.refused_generation, row.refused_digest)),
        };
        Ok((AgentId(row.agent_id), wanted))
    }
}

impl TryFrom<EnvelopeRow> for Envelope {
    type Error = Error;

    fn try_from(row: EnvelopeRow) -> Result<Self> {
        let (agent, wanted) = row.wanted.try_into()?;
        let refused = wanted.refused.is_some();
        Ok(Self {
            agent,
            wanted,
            version: u32::try_from(row.doc_version).unwrap_or_default(),
            on_interrupt: if row.on_interrupt == "rerun" { OnInterrupt::Rerun } else { OnInterrupt::Report },
            on_revoke: if row.on_revoke == "stop" { OnRevoke::Stop } else { OnRevoke::Keep },
            start_by: row.start_by,
            refusal: refused.then_some((row.refused_reason, row.refused_message)),
        })
    }
}

impl TryFrom<ReportRow> for Report {
    type Error = Error;

    fn try_from(row: ReportRow) -> Result<Self> {
        Ok(Self {
            agent: AgentId(row.agent_id),
            key: Key { kind: row.kind, id: row.id },
            generation: row.generation,
            phase: Phase::from_word(&row.phase).ok_or_else(|| unknown_word(&row.phase))?,
            conditions: serde_json::from_str(&row.conditions).map_err(Error::internal)?,
            result: row.result,
            at: row.at,
            received_at: row.received_at,
            outcome: row.outcome == 1,
            may_have_run: row.may_have_run == 1,
            attempt: row.attempt,
        })
    }
}
