//! The loop of experiments: observe → plan → apply, one experiment a transaction.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use muster_proto::{KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};
use serde_json::json;

use super::{
    connector::{self, model::Verb},
    environment, forget,
    model::{ExperimentId, FLEET, Stage, Status},
    moving,
    node::EnvironmentType,
    observe::{Observation, Observed, observe, stored},
    order::Definition,
    plan::{self, Action, End},
    run::TaskRun,
    service::{Experiments, keeper, key, subject},
    spec,
    store::{self, DeploymentRow, ExperimentRow},
    wire,
};
use crate::{
    error::{Error, Result},
    fleet::{
        REPLICA_LIFE,
        desired::{self, Document, OnInterrupt, OnRevoke},
        model::{AgentId, Mode},
    },
    platform::{blobs::Blobs, crash::CrashPoint, db::Tx, events::Actor, lease, reconcile::Reconciler},
};

/// How often it is looked for what may be forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// A replica that died lets another plan after this time. Two that plan at once do no harm: each plans under a lock.
const LEASE: Duration = Duration::from_millis(REPLICA_LIFE.unsigned_abs());

/// Plans for every experiment that is not over, on the one replica that holds the lease.
#[derive(Debug)]
pub struct Reconcile {
    /// The experiments.
    pub experiments: Experiments,
    /// Since when this controller runs, milliseconds since the Unix epoch.
    pub here_since: i64,
    /// When it was last looked for what may be forgotten.
    pub forgot: Option<Instant>,
    /// Environments that nobody uses are kept for so long, milliseconds; none: for good.
    pub keep_environments: Option<i64>,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Experiments looked at.
    pub seen: usize,
    /// Experiments something was done about.
    pub changed: usize,
    /// Experiments and images whose plan could not be carried out, and why.
    pub failed: Vec<(String, String)>,
}

// === impl Reconcile ===

impl Reconciler for Reconcile {
    type Status = Result<Round, String>;
    const PERIOD: Duration = Duration::from_secs(5);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "experiments could not be looked after; the next round tries again");
            error.to_string()
        })
    }
}

impl Reconcile {
    async fn round(&mut self) -> Result<Round> {
        let fleet = &self.experiments.fleet;
        let mut round = Round::default();
        if lease::hold(&fleet.db, "plan/experiment", &fleet.replica, LEASE).await?.is_none() {
            return Ok(round);
        }
        round.failed = environment::look_after(&self.experiments, self.here_since).await?;
        let open = store::open_experiments(&mut *fleet.db.read().await?).await?;
        for id in open {
            round.seen += 1;
            match self.look_after(&id).await {
                Ok(changed) => round.changed += usize::from(changed),
                Err(error) => {
                    tracing::error!(experiment = %id, %error, "a plan could not be carried out");
                    round.failed.push((id.0, error.to_string()));
                }
            }
        }
        if self.forgot.is_none_or(|at| at.elapsed() >= FORGET) {
            forget::forget_old(&self.experiments).await?;
            if let Some(keep) = self.keep_environments {
                environment::retire(&self.experiments, keep).await?;
            }
            self.forgot = Some(Instant::now());
        }
        Ok(round)
    }

    async fn look_after(&self, id: &ExperimentId) -> Result<bool> {
        let db = &self.experiments.fleet.db;
        let mut conn = db.read().await?;
        let now = db.clock().now();
        let Some(row) = store::fetch_any(&mut conn, id).await? else { return Ok(false) };
        let observation = observe(&mut conn, &row, self.here_since, now).await?;
        drop(conn);
        if plan::plan(&observation.snapshot).is_empty() {
            return Ok(false);
        }
        self.carry_out(id).await
    }

    /// Plans anew under the experiment's lock, so that nothing has changed between the plan and its execution.
    async fn carry_out(&self, id: &ExperimentId) -> Result<bool> {
        let experiments = &self.experiments;
        experiments
            .fleet
            .db
            .write(|mut tx| async move {
                let Some(mut row) = store::lock_by_id(&mut tx, id).await? else { return tx.done(false) };
                connector::store::lock_remotes(&mut tx, &row.id).await?;
                let now = tx.now();
                let mut observation = observe(&mut tx, &row, self.here_since, now).await?;
                let actions = plan::plan(&observation.snapshot);
                let changed = !actions.is_empty();
                tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
                apply(experiments, &mut tx, &mut row, &mut observation, actions).await?;
                tx.done(changed)
            })
            .await
    }
}

/// Carries out a plan on a locked experiment.
async fn apply(
    experiments: &Experiments,
    tx: &mut Tx,
    row: &mut ExperimentRow,
    observation: &mut Observation,
    actions: Vec<Action>,
) -> Result<()> {
    let (observed, free) = (&mut observation.deployments, &observation.free);
    let actor = Actor::controller();
    // Before the first event: whoever prepares an experiment locks in that order.
    environment::touch(tx, &used(observed, &actions)).await?;
    for action in actions {
        match action {
            Action::Deploy(places) => {
                let change = actor.change("experiment.deployments_sent", subject(row));
                let seq = tx.record(change.after(json!({"deployments": places.len()}))).await?;
                deploy(experiments, tx, seq, observed, &places).await?;
            }
            Action::Start(places) => {
                let change = actor.change("experiment.executors_sent", subject(row));
                let seq = tx.record(change.after(json!({"executors": places.len()}))).await?;
                start(experiments, tx, seq, observed, &places).await?;
            }
            Action::NoteDeployed(n, end) => {
                let deployment = &mut observed[n].row;
                deployment.stage = Stage::Deployed.word().into();
                deployment.deployed_at = Some(end.ended_at);
                store::save_deployment(tx, deployment).await?;
                forget(tx, deployment, KIND_EXPERIMENT_DEPLOYMENT).await?;
            }
            Action::NoteRunning(n, at) => {
                let deployment = &mut observed[n].row;
                deployment.stage = Stage::Running.word().into();
                deployment.started_at = Some(at);
                store::save_deployment(tx, deployment).await?;
            }
            Action::End(n, end) => {
                let deployment = &mut observed[n];
                let was_sent = deployment.row.stage != Stage::Waiting.word();
                keep_result(experiments, tx, deployment).await?;
                connector::service::forget_posted(tx, &deployment.row).await?;
                let seq = note_end(tx, row, &mut deployment.row, &end, &actor).await?;
                for kind in [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR] {
                    forget(tx, &deployment.row, kind).await?;
                }
                if was_sent {
                    experiments.clean_up(tx, seq, &deployment.row).await?;
                }
            }
            Action::GiveUp(n, end) => {
                let deployment = &mut observed[n].row;
                deployment.given_up = 1;
                let seq = note_end(tx, row, deployment, &end, &actor).await?;
                experiments.withdraw(tx, seq, deployment).await?;
            }
            Action::Move(n, agent, end) => {
                let it = &mut observed[n];
                let Some(to) = free.get(&agent) else { continue };
                // Where it cannot be had, the next round finds another.
                let Some(new) = moving::take_over(tx, row, &it.row, to).await? else { continue };
                let is_over = it.left.as_ref().is_some_and(|left| left.lease_ended);
                it.row.given_up = i64::from(!is_over);
                let message = format!("{}; {} took it over", end.message, new.node_name);
                note_end(tx, row, &mut it.row, &End { message, ..end }, &actor).await?;
                let change = actor.change("experiment.executor_moved", subject(row));
                let seq = tx.record(change.after(moving::told(&it.row, &new))).await?;
                if is_over {
                    forget(tx, &it.row, KIND_EXPERIMENT_EXECUTOR).await?;
                    experiments.clean_up(tx, seq, &it.row).await?;
                } else {
                    experiments.withdraw(tx, seq, &it.row).await?;
                }
            }
            Action::KeepLate(n, end) => {
                let deployment = &mut observed[n];
                deployment.row.given_up = 0;
                keep_result(experiments, tx, deployment).await?;
                connector::service::forget_posted(tx, &deployment.row).await?;
                deployment.row.result_late = i64::from(!deployment.row.result.is_empty());
                deployment.row.started_at = deployment.row.started_at.or(end.started_at);
                store::save_deployment(tx, &deployment.row).await?;
                let after =
                    json!({"executor": deployment.row.id, "node": deployment.row.node_name, "outcome": end.outcome});
                let seq = tx.record(actor.change("experiment.executor_ended_late", subject(row)).after(after)).await?;
                for kind in [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR] {
                    forget(tx, &deployment.row, kind).await?;
                }
                experiments.clean_up(tx, seq, &deployment.row).await?;
            }
            Action::Become(status, why) => {
                if status == Status::Running {
                    row.started_at = Some(tx.now());
                }
                experiments.become_(tx, row, status, why, &actor).await?;
            }
        }
    }
    store::save_experiment(tx, row).await?;
    tx.wake("experiment");
    Ok(())
}

/// Sends deployments. Graphs that are small travel in the document, large ones as blobs.
async fn deploy(
    experiments: &Experiments,
    tx: &mut Tx,
    seq: i64,
    observed: &[Observed],
    places: &[usize],
) -> Result<()> {
    let rows: Vec<_> = places.iter().map(|n| &observed[*n].row).collect();
    ask_connectors(tx, &rows, Verb::Deploy).await?;
    let digests: BTreeSet<_> = rows.iter().map(|d| d.graph.clone()).filter(|d| !d.is_empty()).collect();
    let digests: Vec<_> = digests.into_iter().collect();
    let graphs = experiments.blobs.read_many(tx, &digests).await?;
    for n in places {
        let Observed { row, saved, .. } = &observed[*n];
        let Some(agent) = row.agent_id.clone().map(AgentId) else { continue };
        let (definition, architecture) = definition(row)?;
        let graph = match graphs.get(&row.graph) {
            Some(bytes) if bytes.len() <= wire::INLINE => Some(wire::Bytes::Inline(bytes.to_vec())),
            Some(bytes) => Some(wire::Bytes::Blob(row.graph.clone(), bytes.len() as u64)),
            None if row.graph.is_empty() => None,
            None => return Err(Error::internal(anyhow::anyhow!("the graph {} is gone", row.graph))),
        };
        let (experiment, digest) = (&row.experiment_id, &row.environment_digest);
        let bytes = wire::deployment(experiment, &definition, digest, &architecture, graph.as_ref(), saved.as_ref());
        let mut document = once(bytes);
        document.blobs.extend([graph.as_ref(), saved.as_ref()].into_iter().flatten().filter_map(wire::Bytes::blob));
        document.store_bytes = wire::STORE_BYTES;
        experiments.fleet.desired.put(tx, seq, &[agent], &key(KIND_EXPERIMENT_DEPLOYMENT, &row.id), &document).await?;
    }
    let ids: Vec<_> = places.iter().map(|n| observed[*n].row.id.clone()).collect();
    store::save_stages(tx, &ids, Stage::Deploying.word()).await
}

/// Sends executors.
async fn start(
    experiments: &Experiments,
    tx: &mut Tx,
    seq: i64,
    observed: &[Observed],
    places: &[usize],
) -> Result<()> {
    let rows: Vec<_> = places.iter().map(|n| &observed[*n].row).collect();
    ask_connectors(tx, &rows, Verb::Execute).await?;
    for row in &rows {
        let Some(agent) = row.agent_id.clone().map(AgentId) else { continue };
        let (definition, _) = definition(row)?;
        let pipeline: Option<spec::Deployment> = match row.pipeline.as_str() {
            "" => None,
            text => Some(serde_json::from_str(text).map_err(Error::internal)?),
        };
        let bytes = wire::executor(&row.experiment_id, &definition, &row.environment_digest, pipeline.as_ref());
        let mut document = once(bytes);
        document.store_bytes = wire::STORE_BYTES;
        experiments.fleet.desired.put(tx, seq, &[agent], &key(KIND_EXPERIMENT_EXECUTOR, &row.id), &document).await?;
    }
    let ids: Vec<_> = rows.iter().map(|d| d.id.clone()).collect();
    store::save_stages(tx, &ids, Stage::Starting.word()).await
}

/// Which environments are used where as actions are carried out, by digest and agent.
fn used(observed: &[Observed], actions: &[Action]) -> Vec<(String, String)> {
    let places = actions.iter().flat_map(|action| match action {
        Action::Deploy(places) => places.clone(),
        Action::End(n, _) | Action::KeepLate(n, _) => vec![*n],
        _ => Vec::new(),
    });
    let rows = places.map(|n| &observed[n].row);
    rows.filter_map(|row| Some((row.environment_digest.clone(), row.agent_id.clone()?))).collect()
}

/// Asks connectors something of those executors that are not on agents.
async fn ask_connectors(tx: &mut Tx, rows: &[&DeploymentRow], verb: Verb) -> Result<()> {
    let theirs = rows.iter().filter(|row| row.connector != FLEET);
    let theirs: Vec<_> = theirs.map(|row| (row.id.clone(), row.experiment_id.clone(), row.connector.clone())).collect();
    connector::store::ask(tx, &theirs, verb).await
}

/// What a deployment runs in, from what its client is given back, and the node's architecture.
pub(super) fn definition(row: &DeploymentRow) -> Result<(Definition, String)> {
    let broken = || Error::internal(anyhow::anyhow!("the stored deployment {} cannot be read", row.id));
    let document: serde_json::Value = serde_json::from_str(&row.document).map_err(Error::internal)?;
    let kind = document["environment_definition_type"].as_str().and_then(EnvironmentType::from_word);
    let definition = document["environment_definition"].clone();
    let definition = Definition::read(kind.ok_or_else(broken)?, definition).map_err(|_| broken())?;
    let architecture = document["node"]["architecture"].as_str().ok_or_else(broken)?.to_owned();
    Ok((definition, architecture))
}

/// Keeps what an executor left, under the experiment.
async fn keep_result(experiments: &Experiments, tx: &mut Tx, it: &mut Observed) -> Result<()> {
    let Some(left) = &it.left else { return Ok(()) };
    let here = stored(tx, &it.row, left).await?;
    let (mut held, mut stored) = (Vec::new(), Vec::new());
    let mut first: Option<Option<String>> = None;
    for content in left.contents() {
        let digest = match content {
            wire::Bytes::Inline(bytes) => {
                held.push(experiments.blobs.hold(bytes.into()).await?);
                held.last().map(|h| h.digest.clone())
            }
            wire::Bytes::Blob(digest, _) if here.contains(&digest) => {
                stored.push(digest.clone());
                Some(digest)
            }
            wire::Bytes::Blob(..) => None,
        };
        first.get_or_insert(digest);
    }
    let keeper = keeper(&it.row.experiment_id);
    Blobs::keep(tx, &held, &keeper).await?;
    Blobs::keep_also(tx, &stored, &keeper).await?;
    if left.results.is_some() {
        it.row.result = first.flatten().unwrap_or_default();
    }
    if !left.runs.is_empty() {
        let runs: Vec<_> = left.runs.iter().map(TaskRun::of).collect();
        it.row.runs = serde_json::to_string(&runs).map_err(Error::internal)?;
    }
    Ok(())
}

async fn note_end(
    tx: &mut Tx,
    row: &ExperimentRow,
    deployment: &mut DeploymentRow,
    end: &End,
    actor: &Actor,
) -> Result<i64> {
    deployment.stage = Stage::Ended.word().into();
    deployment.outcome = end.outcome.word().into();
    deployment.message.clone_from(&end.message);
    deployment.started_at = deployment.started_at.or(end.started_at);
    deployment.ended_at = Some(end.ended_at);
    store::save_deployment(tx, deployment).await?;
    let after = json!({
        "executor": deployment.id, "node": deployment.node_name, "outcome": end.outcome, "message": end.message,
    });
    tx.record(actor.change("experiment.executor_ended", subject(row)).after(after)).await
}

async fn forget(tx: &mut Tx, row: &DeploymentRow, kind: &str) -> Result<()> {
    let Some(agent) = row.agent_id.clone().map(AgentId) else { return Ok(()) };
    desired::forget(tx, &agent, &key(kind, &row.id)).await
}

/// Once work that a crash ends: what an experiment does is not done twice.
pub(super) fn once(bytes: Vec<u8>) -> Document {
    Document {
        mode: Mode::Once,
        version: 1,
        bytes,
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Stop,
        start_by: 0,
        blobs: Vec::new(),
        store_bytes: 0,
    }
}
