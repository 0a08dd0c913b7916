//! The loop of stagings: observe → plan → apply, one staging a transaction.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use muster_proto::{KIND_STAGING_OPERATION, KIND_STAGING_WATCH};

use super::{
    model::{OperationId, Outcome, StagingId, Status, Verb},
    plan::{self, Action, Pending, Progress, Snapshot},
    service::{Staging, operation_key, set_status, status_of, subject, watch_from},
    store::{self, OperationRow, ProjectRow, StagingRow},
    wire,
};
use crate::{
    error::{Error, Result},
    fleet::{
        REPLICA_LIFE,
        desired::{self, Report},
        model::AgentId,
    },
    platform::{
        crash::CrashPoint,
        db::{Conn, Tx},
        events::Actor,
        lease,
        reconcile::Reconciler,
    },
};

/// How long the log keeps operations, milliseconds; of a staging that is there, the last one stays.
const KEEP_OPERATIONS: i64 = 90 * 86_400_000;

/// A replica that died lets another plan after this time. Two that plan at once do no harm: each plans under a lock.
const LEASE: Duration = Duration::from_millis(REPLICA_LIFE.unsigned_abs());

/// Plans for every staging, on the one replica that holds the lease.
#[derive(Debug)]
pub struct Reconcile {
    /// The stagings.
    pub staging: Staging,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Stagings looked at.
    pub seen: usize,
    /// Stagings something was done about.
    pub changed: usize,
    /// Stagings whose plan could not be carried out, and why.
    pub failed: Vec<(String, String)>,
}

// === impl Reconcile ===

impl Reconciler for Reconcile {
    type Status = Result<Round, String>;
    const PERIOD: Duration = Duration::from_secs(5);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "stagings could not be looked after; the next round tries again");
            error.to_string()
        })
    }
}

impl Reconcile {
    async fn round(&mut self) -> Result<Round> {
        let fleet = &self.staging.fleet;
        let mut report = Round::default();
        if lease::hold(&fleet.db, "plan/staging", &fleet.replica, LEASE).await?.is_none() {
            return Ok(report);
        }
        let mut after = String::new();
        loop {
            let mut conn = fleet.db.read().await?;
            let page = store::live(&mut conn, &after).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            let now = fleet.db.clock().now();
            let due: Vec<_> = observe(&mut conn, page, now)
                .await?
                .into_iter()
                .inspect(|_| report.seen += 1)
                .filter(|(_, snapshot)| !plan::plan(snapshot).is_empty())
                .collect();
            drop(conn);
            for (row, _) in due {
                match self.carry_out(&StagingId(row.id.clone())).await {
                    Ok(()) => report.changed += 1,
                    Err(error) => {
                        tracing::error!(staging = subject(&row), %error, "a plan could not be carried out");
                        report.failed.push((subject(&row), error.to_string()));
                    }
                }
            }
        }
        self.forget_old().await?;
        Ok(report)
    }

    /// Plans anew under the staging's lock, so that nothing has changed between the plan and its execution.
    async fn carry_out(&self, id: &StagingId) -> Result<()> {
        let staging = &self.staging;
        staging
            .fleet
            .db
            .write(|mut tx| async move {
                let Some(row) = store::lock_by_id(&mut tx, id).await? else { return tx.done(()) };
                let now = tx.now();
                let observed = observe(&mut tx, vec![row], now).await?;
                for (mut row, snapshot) in observed {
                    let actions = plan::plan(&snapshot);
                    tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
                    apply(staging, &mut tx, &mut row, &snapshot, actions).await?;
                }
                tx.done(())
            })
            .await
    }

    async fn forget_old(&self) -> Result<()> {
        let staging = &self.staging;
        let before = staging.fleet.db.clock().now() - KEEP_OPERATIONS;
        if store::old_operations(&mut *staging.fleet.db.read().await?, before).await?.is_empty() {
            return Ok(());
        }
        staging
            .fleet
            .db
            .write(|mut tx| async move {
                for id in store::old_operations(&mut tx, before).await? {
                    staging.forget_operation(&mut tx, &id).await?;
                }
                tx.done(())
            })
            .await
    }
}

/// Everything that is known of these stagings.
async fn observe(conn: &mut Conn, rows: Vec<StagingRow>, now: i64) -> Result<Vec<(StagingRow, Snapshot)>> {
    let operation_ids: Vec<_> = rows.iter().map(|r| r.operation_id.clone()).filter(|id| !id.is_empty()).collect();
    let operations =
        if operation_ids.is_empty() { vec![] } else { store::operations_by_id(conn, &operation_ids).await? };
    let operations: HashMap<_, _> = operations.into_iter().map(|o| (o.id.clone(), o)).collect();
    let sent = desired::assignments_of_kind(conn, KIND_STAGING_OPERATION, &operation_ids).await?;
    let sent: HashSet<_> = sent.into_iter().map(|e| e.wanted.key.id).collect();
    let reports = desired::reports(conn, KIND_STAGING_OPERATION, &operation_ids).await?;
    let reports: HashMap<_, _> = reports.into_iter().map(|r| (r.key.id.clone(), r)).collect();
    let watched: Vec<_> = rows.iter().filter(|r| !r.watch.is_empty()).map(|r| r.id.clone()).collect();
    let wanted = desired::assignments_of_kind(conn, KIND_STAGING_WATCH, &watched).await?;
    let generations: HashMap<_, _> =
        wanted.into_iter().map(|e| ((e.agent.0, e.wanted.key.id), e.wanted.generation)).collect();
    let checks = desired::reports(conn, KIND_STAGING_WATCH, &watched).await?;
    let mut projects: HashMap<String, ProjectRow> = HashMap::new();
    let mut observed = Vec::with_capacity(rows.len());
    for row in rows {
        if !projects.contains_key(&row.project) {
            let project = store::fetch_project(conn, &row.project).await?;
            projects.extend(project.map(|p| (p.name.clone(), p)));
        }
        let project = projects.get(&row.project).ok_or_else(|| Error::not_found("project", &row.project))?;
        let operation = operations.get(&row.operation_id);
        let mut pending = operation.map(|o| pending(o, reports.get(&o.id))).transpose()?;
        // Put in the transaction that began the operation, its assignment goes only with its agent.
        if let Some(pending) = pending.as_mut().filter(|p| !sent.contains(&p.id.0)) {
            pending.progress = Progress::Ended(lost(now));
        }
        // Only a check of the watch as it was put last counts: it began after the wrapper ended.
        let counts = |r: &&Report| {
            let wanted = generations.get(&(r.agent.0.clone(), r.key.id.clone()));
            r.key.id == row.id && Some(&r.agent.0) == row.agent_id.as_ref() && wanted == Some(&r.generation)
        };
        let checked = checks.iter().find(counts).map(wire::checked).transpose()?.flatten();
        let snapshot = Snapshot {
            project: project.spec()?,
            status: status_of(&row)?,
            status_at: row.status_at,
            archived_at: row.archived_at,
            retention_warned_at: row.retention_warned_at,
            pending,
            watch: watch_from(&row.watch),
            checked,
            now,
        };
        observed.push((row, snapshot));
    }
    Ok(observed)
}

/// The end of an operation whose agent was removed.
fn lost(now: i64) -> plan::End {
    let message = "its host was removed".into();
    plan::End { outcome: Outcome::Lost, exit_code: None, signal: None, started_at: None, ended_at: now, message }
}

fn pending(operation: &OperationRow, report: Option<&Report>) -> Result<Pending> {
    let unknown = || Error::internal(anyhow::anyhow!("the database holds the verb {:?}", operation.verb));
    Ok(Pending {
        id: OperationId(operation.id.clone()),
        verb: Verb::from_word(&operation.verb).ok_or_else(unknown)?,
        previous: Status::from_word(&operation.previous_status),
        started_at: operation.started_at,
        progress: report.map(wire::operation_progress).transpose()?.unwrap_or(Progress::Waiting),
    })
}

/// Carries out a plan on a locked staging. Each action that changes what people see is an event.
async fn apply(
    staging: &Staging,
    tx: &mut Tx,
    row: &mut StagingRow,
    it: &Snapshot,
    actions: Vec<Action>,
) -> Result<()> {
    let now = tx.now();
    let actor = Actor::controller();
    let mut removed = false;
    for action in actions {
        match action {
            Action::NoteStarted(id, at) => {
                if let Some(mut operation) = store::fetch_operation(tx, &id).await? {
                    operation.started_at = Some(at);
                    store::save_operation(tx, &operation).await?;
                    let after = serde_json::json!({"operation": id, "verb": operation.verb});
                    tx.record(actor.change("staging.operation_started", subject(row)).after(after)).await?;
                }
            }
            Action::End(id, verb, end) => {
                row.operation_id.clear();
                end_operation(tx, row, &id, verb, &end).await?;
            }
            Action::Revert(id) => {
                let operation = store::fetch_operation(tx, &id).await?;
                if let Some((sealed, operation)) = operation.and_then(|o| o.previous_sealed.clone().map(|s| (s, o))) {
                    row.tag = staging.unseal(&sealed)?.tag;
                    row.settings_sealed = sealed;
                    row.settings_masked = operation.previous_masked;
                }
            }
            Action::Become(status, why) => {
                let before = serde_json::json!({"status": row.status});
                set_status(row, status, why, now);
                let after = serde_json::json!({"status": row.status, "why": row.status_why});
                let change = actor.change("staging.status_changed", subject(row));
                tx.record(change.before(before).after(after)).await?;
            }
            Action::Watch(watch, after) => {
                row.watch_after = after.map(|o| o.0).unwrap_or_else(|| format!("{}/{}", row.watch_after, now));
                let what = serde_json::json!({"wrapper": format!("{watch:?}")});
                let seq = tx.record(actor.change("staging.watch_started", subject(row)).after(what)).await?;
                staging.watch(tx, seq, row, watch, &it.project).await?;
            }
            Action::Unwatch => {
                let seq = tx.record(actor.change("staging.watch_ended", subject(row))).await?;
                staging.unwatch(tx, seq, row).await?;
            }
            Action::Remove => {
                let seq = tx.record(actor.change("staging.removed", subject(row))).await?;
                staging.unwatch(tx, seq, row).await?;
                store::delete_staging(tx, &StagingId(row.id.clone())).await?;
                removed = true;
            }
            Action::WarnOfEnd(ends) => {
                row.retention_warned_at = Some(now);
                let after = serde_json::json!({"cleaned_up_at": ends});
                tx.record(actor.change("staging.retention_ends", subject(row)).after(after)).await?;
            }
            Action::CleanUp => {
                // One that fails is tried again when another warning's time has passed, not with every round.
                row.retention_warned_at = Some(now);
                staging.begin(tx, &actor, &it.project, row, Verb::Cleanup, None).await?;
            }
        }
    }
    if !removed {
        store::save_staging(tx, row).await?;
    }
    tx.wake("staging");
    Ok(())
}

async fn end_operation(tx: &mut Tx, row: &StagingRow, id: &OperationId, verb: Verb, end: &plan::End) -> Result<()> {
    let Some(mut operation) = store::fetch_operation(tx, id).await? else { return Ok(()) };
    operation.outcome = end.outcome.word().into();
    operation.started_at = end.started_at.or(operation.started_at);
    operation.ended_at = Some(end.ended_at);
    operation.exit_code = end.exit_code;
    operation.signal = end.signal;
    operation.message.clone_from(&end.message);
    // What to go back to is needed only by one that changed nothing, in this same transaction.
    if !plan::changed_nothing(end) {
        operation.previous_sealed = None;
    }
    store::save_operation(tx, &operation).await?;
    let agent = AgentId(operation.agent_id.clone());
    desired::forget(tx, &agent, &operation_key(id)).await?;
    let after = serde_json::json!({
        "operation": id, "verb": verb, "outcome": end.outcome, "exit_code": end.exit_code, "message": end.message,
    });
    tx.record(Actor::controller().change("staging.operation_ended", subject(row)).after(after)).await?;
    Ok(())
}
