//! What comes back from agents: offers, Accepts, refusals, reports, and what they hold that home does not know.

use sqlx::Row;

use super::{
    super::{
        logs,
        model::{AgentId, Held, Key, Mode, Phase},
    },
    Report, forget, settle, topic,
};
use crate::{
    error::{Error, Result},
    platform::{
        crash::CrashPoint,
        db::{Conn, Engine, ROWS, Tx, query},
        events::Actor,
    },
};

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
            tx.engine().values(&["", "", "", "", "bigint"], piece.len())
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
            Engine::of(conn).values(&["", "", "", "bigint"], piece.len())
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
            tx.engine().values(&types, piece.len())
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

async fn move_on(conn: &mut Conn, rows: &[(AgentId, Key, i64)], to: &'static str, only: &'static str) -> Result<()> {
    for piece in rows.chunks(ROWS) {
        let text = format!(
            "update fleet_assignment set state = '{to}' where (agent_id, kind, id) in ({}) and {only}",
            Engine::of(conn).values(&["", "", ""], piece.len())
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
