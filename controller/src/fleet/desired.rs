//! The one door through which a domain reaches agents: put, withdraw, read reports. A domain never sees a stream.
//!
//! A generation is the number of the event that made the change, so a change and what it sends share one transaction and
//! one order. Documents lie once, sealed; the kernel never looks inside.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_pki::{hex, sha256};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

use super::{
    logs,
    model::{AgentId, Held, Key, Mode, Phase, State, Wanted},
};
use crate::{
    certificate::Certificates,
    error::{Error, Result},
    platform::{
        crash::CrashPoint,
        db::{Conn, Engine, ROWS, Tx, list, query, values},
        events::Actor,
        setting,
    },
};

const PURPOSE: &str = "document";

/// How long a document that no assignment names is kept, milliseconds.
const KEEP_ORPHANS: i64 = 3_600_000;

/// What becomes of once work that a crash interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It ends as interrupted.
    Report,
    /// It is run again.
    Rerun,
}

/// What becomes of a standing assignment when its agent is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRevoke {
    /// The host stays as it is.
    Keep,
    /// It is withdrawn.
    Stop,
}

/// What an agent is to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Standing or once.
    pub mode: Mode,
    /// Version of the domain's message.
    pub version: u32,
    /// The domain's message, at most [`muster_proto::MAX_DOCUMENT`] bytes.
    pub bytes: Vec<u8>,
    /// Once: what a crash means for it.
    pub on_interrupt: OnInterrupt,
    /// Standing: what a revocation means for it.
    pub on_revoke: OnRevoke,
    /// Once: not to be started at or after this time, milliseconds since the Unix epoch; 0: no limit.
    pub start_by: i64,
}

/// One fact about an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is judged.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub holds: bool,
    /// One word why.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
}

/// The newest report of one assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who says it.
    pub agent: AgentId,
    /// Of what.
    pub key: Key,
    /// Generation acted on.
    pub generation: i64,
    /// Where it stands.
    pub phase: Phase,
    /// What is judged about it.
    pub conditions: Vec<Condition>,
    /// The domain's message.
    pub result: Vec<u8>,
    /// The agent's clock, milliseconds since the Unix epoch.
    pub at: i64,
    /// When home had it, milliseconds since the Unix epoch.
    pub received_at: i64,
    /// Once: this is the end.
    pub outcome: bool,
    /// Once, interrupted: it may have had effects.
    pub may_have_run: bool,
    /// Once: which attempt, from 1; 0 when it never started.
    pub attempt: i64,
}

/// An assignment with all that is sent of it but its document.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Who is to act.
    pub agent: AgentId,
    /// What is wanted.
    pub wanted: Wanted,
    /// Version of the domain's message.
    pub version: u32,
    /// What a crash means for it.
    pub on_interrupt: OnInterrupt,
    /// What a revocation means for it.
    pub on_revoke: OnRevoke,
    /// Latest start.
    pub start_by: i64,
    /// Why the agent refused, if it did: reason and message.
    pub refusal: Option<(String, String)>,
}

/// The door; clones share it.
#[derive(Debug, Clone)]
pub struct Desired {
    certificates: Certificates,
}

#[derive(FromRow)]
struct EnvelopeRow {
    agent_id: String,
    kind: String,
    id: String,
    generation: i64,
    epoch: i64,
    mode: String,
    doc_version: i64,
    digest: String,
    on_interrupt: String,
    on_revoke: String,
    start_by: i64,
    state: String,
    refused_generation: i64,
    refused_digest: String,
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

const ENVELOPE: &str = "agent_id, kind, id, generation, epoch, mode, doc_version, digest, on_interrupt, on_revoke, \
                        start_by, state, refused_generation, refused_digest, refused_reason, refused_message";
const REPORT: &str = "agent_id, kind, id, generation, phase, conditions, result, at, received_at, outcome, may_have_run, \
                      attempt";

// === impl Desired ===

impl Desired {
    /// The door of this house.
    pub fn new(certificates: Certificates) -> Self {
        Self { certificates }
    }

    /// Puts a document before agents, as of the event `generation`. Where the same bytes stand already nothing changes,
    /// unless they were adopted: home knows no report on those, so it asks for one. Once work that is there already stays
    /// as it is.
    pub async fn put(
        &self,
        tx: &mut Tx,
        generation: i64,
        agents: &[AgentId],
        key: &Key,
        document: &Document,
    ) -> Result<()> {
        if document.bytes.len() > muster_proto::MAX_DOCUMENT {
            return Err(Error::TooLarge { limit: muster_proto::MAX_DOCUMENT });
        }
        let digest = hex(&sha256(&document.bytes));
        let now = tx.now();
        sqlx::query(
            "insert into fleet_document (digest, sealed, put_at) values ($1, $2, $3) \
             on conflict (digest) do update set put_at = excluded.put_at",
        )
        .bind(digest.clone())
        .bind(self.certificates.seal(PURPOSE, &document.bytes))
        .bind(now)
        .execute(&mut **tx)
        .await?;
        let epoch = setting::epoch(tx).await?;
        let change = match document.mode {
            Mode::Once => "do nothing",
            Mode::Standing => {
                "do update set generation = excluded.generation, epoch = excluded.epoch, digest = excluded.digest, \
                 doc_version = excluded.doc_version, on_revoke = excluded.on_revoke, state = 'queued' \
                 where fleet_assignment.digest <> excluded.digest or fleet_assignment.epoch <> excluded.epoch"
            }
        };
        let types = [
            "", "", "", "bigint", "bigint", "", "bigint", "", "", "", "bigint", "", "", "bigint", "bigint", "", "", "",
        ];
        for piece in agents.chunks(ROWS) {
            let text = format!(
                "insert into fleet_assignment (agent_id, kind, id, generation, epoch, mode, doc_version, digest, \
                 on_interrupt, on_revoke, start_by, state, offered_ledger, offered_epoch, refused_generation, \
                 refused_digest, refused_reason, refused_message) values {} on conflict (agent_id, kind, id) {change}",
                values(&types, piece.len(), 0)
            );
            let mut insert = query(text);
            for agent in piece {
                insert = insert
                    .bind(agent.0.clone())
                    .bind(key.kind.clone())
                    .bind(key.id.clone())
                    .bind(generation)
                    .bind(epoch)
                    .bind(document.mode.word())
                    .bind(i64::from(document.version))
                    .bind(digest.clone())
                    .bind(document.on_interrupt.word())
                    .bind(document.on_revoke.word())
                    .bind(document.start_by)
                    .bind("queued")
                    .bind("")
                    .bind(0_i64)
                    .bind(0_i64)
                    .bind("")
                    .bind("")
                    .bind("");
            }
            insert.execute(&mut **tx).await?;
        }
        if document.mode == Mode::Once {
            logs::expect(tx, agents, key).await?;
        }
        tx.wake("fleet");
        tx.crash_points(CrashPoint::BeforePutCommit, CrashPoint::AfterPutCommit);
        Ok(())
    }

    /// Withdraws an assignment, as of the event `generation`: a standing one is undone, once work is cancelled. Once work
    /// that was never sent ends here and now.
    pub async fn withdraw(&self, tx: &mut Tx, generation: i64, agent: &AgentId, key: &Key) -> Result<()> {
        let epoch = setting::epoch(tx).await?;
        let row = sqlx::query(
            "update fleet_assignment set generation = $1, epoch = $5, digest = '', \
             state = case when mode = 'standing' then 'queued' else state end \
             where agent_id = $2 and kind = $3 and id = $4 and digest <> '' and state <> 'finished' returning mode, state",
        )
        .bind(generation)
        .bind(agent.0.clone())
        .bind(key.kind.clone())
        .bind(key.id.clone())
        .bind(epoch)
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let (mode, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if mode == "once" && state == "queued" {
            settle(tx, agent, key, Phase::Cancelled, false, "cancelled before it was sent").await?;
        }
        tx.wake("fleet");
        Ok(())
    }

    /// Documents by digest, opened.
    pub async fn documents(&self, conn: &mut Conn, digests: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let mut found = BTreeMap::new();
        for piece in digests.chunks(ROWS) {
            let text = format!("select digest, sealed from fleet_document where digest in ({})", list(piece.len(), 0));
            let mut select = sqlx::query_as::<_, (String, Vec<u8>)>(sqlx::AssertSqlSafe(text));
            for digest in piece {
                select = select.bind(digest.clone());
            }
            for (digest, sealed) in select.fetch_all(&mut *conn).await? {
                found.insert(digest, self.certificates.unseal(PURPOSE, &sealed)?.into());
            }
        }
        Ok(found)
    }
}

/// Ends once work at home, in place of an outcome that will not come.
pub async fn settle(
    tx: &mut Tx,
    agent: &AgentId,
    key: &Key,
    phase: Phase,
    may_have_run: bool,
    why: &str,
) -> Result<()> {
    let now = tx.now();
    let conditions =
        vec![Condition { kind: "Ended".into(), holds: true, reason: "ByHome".into(), message: why.into() }];
    let conditions = serde_json::to_string(&conditions).map_err(Error::internal)?;
    sqlx::query(
        "insert into fleet_report (agent_id, kind, id, ledger_id, seq, epoch, generation, phase, conditions, result, at, \
         received_at, outcome, may_have_run, attempt) values ($1, $2, $3, '', 0, 0, 0, $4, $5, $6, $7, $7, 1, $8, 0) \
         on conflict (agent_id, kind, id) do update set phase = excluded.phase, conditions = excluded.conditions, \
         at = excluded.at, received_at = excluded.received_at, outcome = 1, may_have_run = excluded.may_have_run \
         where fleet_report.outcome = 0",
    )
    .bind(agent.0.clone())
    .bind(key.kind.clone())
    .bind(key.id.clone())
    .bind(phase.word())
    .bind(conditions)
    .bind(Vec::<u8>::new())
    .bind(now)
    .bind(i64::from(may_have_run))
    .execute(&mut **tx)
    .await?;
    sqlx::query("update fleet_assignment set state = 'finished' where agent_id = $1 and kind = $2 and id = $3")
        .bind(agent.0.clone())
        .bind(key.kind.clone())
        .bind(key.id.clone())
        .execute(&mut **tx)
        .await?;
    tx.wake(topic(&key.kind));
    Ok(())
}

/// Forgets an assignment that is over, with its report. Its log is forgotten apart (`logs::forget`).
pub async fn forget(tx: &mut Tx, agent: &AgentId, key: &Key) -> Result<()> {
    for table in ["fleet_report", "fleet_assignment"] {
        query(format!("delete from {table} where agent_id = $1 and kind = $2 and id = $3"))
            .bind(agent.0.clone())
            .bind(key.kind.clone())
            .bind(key.id.clone())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Drops documents that no assignment names any more.
pub async fn drop_orphans(tx: &mut Tx) -> Result<u64> {
    let before = tx.now() - KEEP_ORPHANS;
    let gone = sqlx::query(
        "delete from fleet_document where put_at < $1 \
         and not exists (select 1 from fleet_assignment a where a.digest = fleet_document.digest)",
    )
    .bind(before)
    .execute(&mut **tx)
    .await?;
    Ok(gone.rows_affected())
}

// === reading ===

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

/// The newest reports of one agent.
pub async fn reports_of(conn: &mut Conn, agent: &AgentId) -> Result<Vec<Report>> {
    let text = format!("select {REPORT} from fleet_report where agent_id = $1 order by kind, id");
    let rows = sqlx::query_as::<_, ReportRow>(sqlx::AssertSqlSafe(text)).bind(agent.0.clone()).fetch_all(conn).await?;
    rows.into_iter().map(Report::try_from).collect()
}

/// Everything agents are to act on or are acting on.
pub async fn assignments(conn: &mut Conn, agents: &[AgentId]) -> Result<Vec<Envelope>> {
    let mut found = Vec::new();
    for piece in agents.chunks(ROWS) {
        let text = format!(
            "select {ENVELOPE} from fleet_assignment where agent_id in ({}) order by agent_id, kind, id",
            list(piece.len(), 0)
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

// === impl Envelope ===

impl Envelope {
    /// Once work that must be offered, in a transaction of its own, before it is sent.
    pub fn is_new_once(&self) -> bool {
        self.wanted.mode == Mode::Once && matches!(self.wanted.state, State::Queued | State::Offered)
    }

    /// Whether the agent lacks it: not accepted yet, or withdrawn while it was at work.
    pub fn is_to_be_sent(&self) -> bool {
        match self.wanted.state {
            State::Queued | State::Offered => true,
            State::Accepted | State::Running => self.wanted.mode == Mode::Once && self.wanted.digest.is_empty(),
            State::Finished => false,
        }
    }
}

// === what comes back ===

/// Marks queued once work as offered to its agents under their ledgers. Gives what was marked: only that may be sent.
/// Each entry is (agent, key, ledger, session epoch).
pub async fn offer(tx: &mut Tx, work: &[(AgentId, Key, String, i64)]) -> Result<Vec<(AgentId, Key)>> {
    let mut offered = Vec::with_capacity(work.len());
    for piece in work.chunks(ROWS) {
        let text = format!(
            "update fleet_assignment set state = 'offered', offered_ledger = v.column4, offered_epoch = v.column5 \
             from (values {}) v where fleet_assignment.agent_id = v.column1 and fleet_assignment.kind = v.column2 \
             and fleet_assignment.id = v.column3 and mode = 'once' and state in ('queued', 'offered') \
             and exists (select 1 from fleet_session s where s.agent_id = v.column1 and s.epoch = v.column5) \
             returning fleet_assignment.agent_id, fleet_assignment.kind, fleet_assignment.id",
            values(&["", "", "", "", "bigint"], piece.len(), 0)
        );
        let mut update = sqlx::query_as::<_, (String, String, String)>(sqlx::AssertSqlSafe(text));
        for (agent, key, ledger, epoch) in piece {
            update = update
                .bind(agent.0.clone())
                .bind(key.kind.clone())
                .bind(key.id.clone())
                .bind(ledger.clone())
                .bind(*epoch);
        }
        let rows = update.fetch_all(&mut **tx).await?;
        offered.extend(rows.into_iter().map(|(agent, kind, id)| (AgentId(agent), Key { kind, id })));
    }
    tx.crash_points(CrashPoint::BeforeOfferCommit, CrashPoint::AfterOfferCommit);
    Ok(offered)
}

/// Notes that ledgers hold these generations durably: (agent, key, generation).
pub async fn accept(conn: &mut Conn, accepts: &[(AgentId, Key, i64)]) -> Result<()> {
    for piece in accepts.chunks(ROWS) {
        let text = format!(
            "update fleet_assignment set state = 'accepted' from (values {}) v \
             where fleet_assignment.agent_id = v.column1 and fleet_assignment.kind = v.column2 \
             and fleet_assignment.id = v.column3 and generation = v.column4 and state in ('queued', 'offered')",
            values(&["", "", "", "bigint"], piece.len(), 0)
        );
        let mut update = query(text);
        for (agent, key, generation) in piece {
            update = update.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone()).bind(*generation);
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

/// A generation an agent will not act on.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Who refuses.
    pub agent: AgentId,
    /// What.
    pub key: Key,
    /// Which generation.
    pub generation: i64,
    /// One word why.
    pub reason: String,
    /// One sentence why, with what would be right.
    pub message: String,
}

/// Notes a refusal, durably for this generation and the agent's capabilities. Refused once work is over.
pub async fn refuse(tx: &mut Tx, refused: &Refused) -> Result<()> {
    let row = sqlx::query(
        "update fleet_assignment set refused_generation = $1, refused_reason = $2, refused_message = $3, \
         refused_digest = (select capability_digest from fleet_agent a where a.id = fleet_assignment.agent_id) \
         where agent_id = $4 and kind = $5 and id = $6 and generation = $1 and state <> 'finished' returning mode",
    )
    .bind(refused.generation)
    .bind(refused.reason.clone())
    .bind(refused.message.clone())
    .bind(refused.agent.0.clone())
    .bind(refused.key.kind.clone())
    .bind(refused.key.id.clone())
    .fetch_optional(&mut **tx)
    .await?;
    if row.is_some_and(|r| r.try_get::<String, _>(0).is_ok_and(|mode| mode == "once")) {
        settle(tx, &refused.agent, &refused.key, Phase::Failed, false, &refused.message).await?;
    }
    tx.wake(topic(&refused.key.kind));
    Ok(())
}

/// A report as an agent sent it.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// What it says.
    pub report: Report,
    /// Its ledger.
    pub ledger: String,
    /// Its number in that ledger.
    pub seq: i64,
    /// Epoch of its generation.
    pub epoch: i64,
}

/// Stores reports, each if newer than the one there; at most one a key. Once work that ended is finished; a standing
/// assignment that is gone is forgotten.
pub async fn save_reports(tx: &mut Tx, reports: &[NewReport]) -> Result<()> {
    let now = tx.now();
    let types = [
        "", "", "", "", "bigint", "bigint", "bigint", "", "", "bytea", "bigint", "bigint", "bigint", "bigint", "bigint",
    ];
    let types = match tx.engine() {
        Engine::Sqlite => types.map(|t| if t == "bytea" { "blob" } else { t }),
        Engine::Postgres => types,
    };
    for piece in reports.chunks(ROWS) {
        // Only reports on assignments that are there: one that was forgotten needs none.
        let text = format!(
            "insert into fleet_report (agent_id, kind, id, ledger_id, seq, epoch, generation, phase, conditions, result, \
             at, received_at, outcome, may_have_run, attempt) select v.* from (values {}) v where exists (select 1 from \
             fleet_assignment a where a.agent_id = v.column1 and a.kind = v.column2 and a.id = v.column3) \
             on conflict (agent_id, kind, id) do update set ledger_id = excluded.ledger_id, seq = excluded.seq, \
             epoch = excluded.epoch, generation = excluded.generation, phase = excluded.phase, \
             conditions = excluded.conditions, result = excluded.result, at = excluded.at, \
             received_at = excluded.received_at, outcome = excluded.outcome, may_have_run = excluded.may_have_run, \
             attempt = excluded.attempt where (fleet_report.outcome = 0 or exists (select 1 from fleet_assignment a \
             where a.agent_id = excluded.agent_id and a.kind = excluded.kind and a.id = excluded.id \
             and a.mode = 'standing')) \
             and (fleet_report.ledger_id <> excluded.ledger_id or fleet_report.seq < excluded.seq)",
            values(&types, piece.len(), 0)
        );
        let mut insert = query(text);
        for new in piece {
            let r = &new.report;
            insert = insert
                .bind(r.agent.0.clone())
                .bind(r.key.kind.clone())
                .bind(r.key.id.clone())
                .bind(new.ledger.clone())
                .bind(new.seq)
                .bind(new.epoch)
                .bind(r.generation)
                .bind(r.phase.word())
                .bind(serde_json::to_string(&r.conditions).map_err(Error::internal)?)
                .bind(r.result.clone())
                .bind(r.at)
                .bind(now)
                .bind(i64::from(r.outcome))
                .bind(i64::from(r.may_have_run))
                .bind(r.attempt);
        }
        insert.execute(&mut **tx).await?;
        for new in piece {
            tx.wake(topic(&new.report.key.kind));
        }
    }
    let which = |wanted: &dyn Fn(&Report) -> bool| -> Vec<(AgentId, Key, i64)> {
        let reports = reports.iter().map(|n| &n.report).filter(|r| wanted(r));
        reports.map(|r| (r.agent.clone(), r.key.clone(), r.generation)).collect()
    };
    let finished = which(&|r| r.outcome);
    let running = which(&|r| !r.outcome && r.phase == Phase::Working && r.attempt > 0);
    move_on(tx, &running, "running", "state in ('queued', 'offered', 'accepted') and mode = 'once'").await?;
    move_on(tx, &finished, "finished", "mode = 'once'").await?;
    for (agent, key, generation) in which(&|r| r.phase == Phase::Gone) {
        let gone = sqlx::query(
            "delete from fleet_assignment where agent_id = $1 and kind = $2 and id = $3 and generation = $4 \
             and digest = '' and mode = 'standing'",
        );
        let gone = gone.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone()).bind(generation);
        if gone.execute(&mut **tx).await?.rows_affected() == 1 {
            forget(tx, &agent, &key).await?;
        }
    }
    Ok(())
}

/// Takes over what an agent holds from before home was restored: it is kept running and shown, and nothing is sent.
pub async fn adopt(tx: &mut Tx, agent: &AgentId, held: &Held) -> Result<()> {
    let mode = if held.once { Mode::Once } else { Mode::Standing };
    sqlx::query(
        "insert into fleet_assignment (agent_id, kind, id, generation, epoch, mode, doc_version, digest, on_interrupt, \
         on_revoke, start_by, state, offered_ledger, offered_epoch, refused_generation, refused_digest, refused_reason, \
         refused_message) values ($1, $2, $3, $4, $5, $6, 0, $7, 'report', 'keep', 0, 'accepted', '', 0, 0, '', '', '') \
         on conflict (agent_id, kind, id) do nothing",
    )
    .bind(agent.0.clone())
    .bind(held.key.kind.clone())
    .bind(held.key.id.clone())
    .bind(held.generation)
    .bind(held.epoch)
    .bind(mode.word())
    .bind(held.digest.clone())
    .execute(&mut **tx)
    .await?;
    if held.once {
        logs::expect(tx, std::slice::from_ref(agent), &held.key).await?;
    }
    let what = serde_json::json!({"kind": held.key.kind, "id": held.key.id, "generation": held.generation});
    tx.record(Actor::controller().change("agent.assignment_adopted", format!("agent/{agent}")).after(what)).await?;
    Ok(())
}

/// Begins a new epoch after home was restored from a backup; gives its number. Standing assignments become part of it, so
/// that what home wants outranks whatever agents were told since the backup. What was adopted stays as it is: home has no
/// document to put in its place. Once work stays too: whether it is sent is decided by what its agent's ledger knows.
pub async fn raise_epoch(tx: &mut Tx) -> Result<i64> {
    let epoch = setting::epoch(tx).await? + 1;
    setting::save(tx, "epoch", &epoch.to_string()).await?;
    sqlx::query(
        "update fleet_assignment set epoch = $1, state = 'queued' where mode = 'standing' and (digest = '' or exists \
         (select 1 from fleet_document d where d.digest = fleet_assignment.digest))",
    )
    .bind(epoch)
    .execute(&mut **tx)
    .await?;
    Ok(epoch)
}

async fn move_on(conn: &mut Conn, rows: &[(AgentId, Key, i64)], to: &'static str, only: &'static str) -> Result<()> {
    for piece in rows.chunks(ROWS) {
        let text = format!(
            "update fleet_assignment set state = '{to}' where (agent_id, kind, id) in ({}) and {only}",
            values(&["", "", ""], piece.len(), 0)
        );
        let mut update = query(text);
        for (agent, key, _) in piece {
            update = update.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone());
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Forgets a withdrawn standing assignment that its agent does not hold.
pub async fn forget_withdrawn(tx: &mut Tx, agent: &AgentId, key: &Key, generation: i64) -> Result<()> {
    let gone = sqlx::query(
        "delete from fleet_assignment where agent_id = $1 and kind = $2 and id = $3 and generation = $4 and digest = ''",
    );
    let gone = gone.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone()).bind(generation);
    if gone.execute(&mut **tx).await?.rows_affected() == 1 {
        forget(tx, agent, key).await?;
        tx.wake(topic(&key.kind));
    }
    Ok(())
}

/// Which loop is woken by news of a kind: the domain's.
pub fn topic(kind: &str) -> &'static str {
    const DOMAINS: [&str; 5] = ["network", "staging", "experiment", "inventory", "release"];
    let domain = kind.split('.').next().unwrap_or_default();
    DOMAINS.into_iter().find(|d| *d == domain).unwrap_or("fleet")
}

fn envelopes(rows: Vec<EnvelopeRow>) -> Result<Vec<Envelope>> {
    rows.into_iter().map(Envelope::try_from).collect()
}

/// A word in the database that this build does not know.
pub(super) fn unknown_word(word: &str) -> Error {
    Error::internal(anyhow::anyhow!("the database holds the word {word:?}, which this controller does not know"))
}

impl OnInterrupt {
    fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Rerun => "rerun",
        }
    }
}

impl OnRevoke {
    fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Stop => "stop",
        }
    }
}

impl TryFrom<EnvelopeRow> for Envelope {
    type Error = Error;

    fn try_from(row: EnvelopeRow) -> Result<Self> {
        let refused = row.refused_generation > 0;
        Ok(Self {
            agent: AgentId(row.agent_id),
            wanted: Wanted {
                key: Key { kind: row.kind, id: row.id },
                epoch: row.epoch,
                generation: row.generation,
                mode: Mode::from_word(&row.mode).ok_or_else(|| unknown_word(&row.mode))?,
                digest: row.digest,
                state: State::from_word(&row.state).ok_or_else(|| unknown_word(&row.state))?,
                refused: refused.then_some((row.refused_generation, row.refused_digest)),
            },
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
