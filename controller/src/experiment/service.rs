//! Use cases of experiments: load → decide → write in one transaction → wake.

mod flags;
mod prepare;
mod process;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use muster_proto::{KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};
use serde_json::{Value, json};

pub use self::{
    flags::{asks, await_flag, change_flag},
    prepare::{fits, place},
    view::{Detail, Seen, Told},
};
use super::{
    connector::{model::Verb, service as connectors},
    model::{Evidence, ExperimentId, FLEET, Outcome, Stage, Status, next},
    node::{Node, Placed},
    pool::Pool,
    store::{self, DeploymentRow, ExperimentRow},
};
use crate::{
    domain::Processors,
    error::{Error, Result},
    fleet::{
        Fleet, agents, desired, logs,
        model::{AgentId, Class, Key, Labels},
    },
    platform::{
        blobs::Blobs,
        crash::CrashPoint,
        db::{Conn, Done, Tx},
        events::Actor,
    },
};

/// The door to experiments; clones share it.
#[derive(Debug, Clone)]
pub struct Experiments {
    /// The agents.
    pub fleet: Fleet,
    /// Graphs and results.
    pub blobs: Blobs,
    /// Which connectors are asked for whose nodes at this moment.
    pub asking: Arc<Mutex<BTreeSet<(String, String)>>>,
    /// What an administrator wants run before and after each.
    pub processors: Processors,
}

/// Who asks, as far as experiments care.
#[derive(Debug, Clone)]
pub struct User {
    /// The user's name: experiments are theirs by it.
    pub name: String,
    /// Which nodes they see.
    pub tags: BTreeSet<String>,
    /// Whether they may do what only administrators may.
    pub is_admin: bool,
    /// What they tell connectors of themselves, by connector; null: nothing.
    pub context: Value,
    /// For events.
    pub actor: Actor,
}

/// Why something was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The user has no experiment of that name.
    #[error("no experiment named {0:?}")]
    NoExperiment(String),
    /// It is started already, or not ready yet.
    #[error("{0:?} cannot be started: it is {word}", word = .1.word())]
    NotReady(String, Status),
    /// It cannot be deleted while something of it is under way.
    #[error("{0:?} cannot be deleted: it is {word}; cancel it first, or wait for its end", word = .2.word())]
    StillOpen(String, String, Status),
    /// Nothing of it is under way.
    #[error("nothing of {0:?} is under way: it is {word}", word = .1.word())]
    NothingToCancel(String, Status),
    /// None of these executors is the user's and under way.
    #[error("none of these executors is yours and under way: {}", .0.join(", "))]
    NoExecutors(Vec<String>, String),
    /// Another experiment has this name.
    #[error("there is an experiment named {0:?} with other content; delete it first, or take another name")]
    OtherContent(String),
    /// A flag was never set.
    #[error("no flag named {0:?} in the experiment {1:?}")]
    NoFlag(String, String),
    /// In a sentence that says what would be right.
    #[error("{0}")]
    Sentence(String),
    /// Any other error.
    #[error(transparent)]
    Other(#[from] Error),
}

/// The usual result of this domain.
pub type Refusable<T> = std::result::Result<T, Refusal>;

// === impl Refusal ===

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<super::order::Refused> for Refusal {
    fn from(refused: super::order::Refused) -> Self {
        Self::Sentence(refused.0)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Other(error) => error,
            Refusal::NoExperiment(name) => Self::not_found("experiment", name),
            Refusal::NoFlag(flag, _) => Self::not_found("flag", flag),
            Refusal::Sentence(text) => Self::invalid("body", text),
            other => Self::Conflict(other.to_string()),
        }
    }
}

// === impl Experiments ===

impl Experiments {
    /// The agents that are nodes and that a user may use, by name; `all`: also those that are away or taken by others.
    pub async fn nodes(&self, conn: &mut Conn, user: &User, all: bool) -> Result<Vec<Placed>> {
        open_nodes(conn, &user.name, &user.tags, all).await
    }

    /// The nodes that are free and that a user may use: the fleet's, if there are any, and those of each connector.
    pub async fn free_pools(&self, user: &User) -> Result<Vec<Pool>> {
        let brought = self.pools(user).await?;
        let mut conn = self.fleet.db.read().await?;
        let own = self.nodes(&mut conn, user, false).await?;
        let taken = taken_from(&mut conn, &user.name).await?;
        let is_open = |node: &Node| Placed::brought(node.clone()).is_open_to(&user.tags);
        let mut pools = Vec::new();
        if !own.is_empty() {
            pools.push(own.into_iter().map(|it| it.node).collect());
        }
        for (_, mut pool) in brought {
            pool.retain(&|node| is_open(node) && !taken.contains(&place_of(node)), &is_open);
            pools.push(pool);
        }
        Ok(pools)
    }

    /// Starts what is ready. `context` is for connectors, by connector; null: nothing.
    pub async fn start(&self, user: &User, name: &str, context: &Value) -> Refusable<()> {
        let write = self.fleet.db.write(|mut tx| async move {
            let done = self.start_in(&mut tx, user, name, context).await;
            tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
            settle(tx, done)
        });
        write.await?
    }

    async fn start_in(&self, tx: &mut Tx, user: &User, name: &str, context: &Value) -> Refusable<()> {
        let mut row = self.lock(tx, user, name).await?;
        let status = status_of(&row)?;
        let Some(after) = next(status, Evidence::StartRequested) else {
            return Err(Refusal::NotReady(row.name, status));
        };
        row.started_at = Some(tx.now());
        self.keep_told(tx, &row.id, Verb::Execute, user, context).await?;
        self.become_(tx, &mut row, after, String::new(), &user.actor).await?;
        Ok(store::save_experiment(tx, &row).await?)
    }

    /// Cancels everything of an experiment that is under way; wins over a preparation. `context` is for connectors, by
    /// connector; null: nothing. Gives the executors concerned.
    pub async fn cancel(&self, user: &User, name: &str, context: &Value) -> Refusable<Vec<String>> {
        let write = self.fleet.db.write(|mut tx| async move {
            let done = self.cancel_in(&mut tx, user, name, context).await;
            settle(tx, done)
        });
        write.await?
    }

    async fn cancel_in(&self, tx: &mut Tx, user: &User, name: &str, context: &Value) -> Refusable<Vec<String>> {
        let mut row = self.lock(tx, user, name).await?;
        let status = status_of(&row)?;
        let open: Vec<_> = store::deployments(tx, &row.id).await?.into_iter().filter(is_open).collect();
        if status != Status::Cancelling {
            let after = next(status, Evidence::CancelRequested);
            let after = after.ok_or_else(|| Refusal::NothingToCancel(row.name.clone(), status))?;
            row.cancelled_by.clone_from(&user.actor.name);
            self.keep_told(tx, &row.id, Verb::Stop, user, context).await?;
            let seq = self.become_(tx, &mut row, after, String::new(), &user.actor).await?;
            for deployment in &open {
                self.withdraw(tx, seq, deployment).await?;
            }
            store::save_experiment(tx, &row).await?;
        }
        Ok(open.into_iter().map(|d| d.id).collect())
    }

    /// Cancels some executors of a user, whatever experiments they belong to. Those that have ended stay as they are.
    /// `context` is for connectors, by connector; null: nothing.
    pub async fn cancel_executors(&self, user: &User, ids: &[String], context: &Value) -> Refusable<Vec<String>> {
        let write = self.fleet.db.write(|mut tx| async move {
            let done = self.cancel_executors_in(&mut tx, user, ids, context).await;
            settle(tx, done)
        });
        write.await?
    }

    async fn cancel_executors_in(
        &self,
        tx: &mut Tx,
        user: &User,
        ids: &[String],
        context: &Value,
    ) -> Refusable<Vec<String>> {
        let found = store::executors_of(tx, &user.name, ids).await?;
        let mut open: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, experiment, _) in found.into_iter().filter(|(.., ended)| !ended) {
            open.entry(experiment).or_default().insert(id);
        }
        if open.is_empty() {
            return Err(Refusal::NoExecutors(ids.to_vec(), user.name.clone()));
        }
        for (experiment, executors) in &open {
            let Some(row) = store::lock_by_id(tx, &ExperimentId(experiment.clone())).await? else { continue };
            let deployments = store::deployments(tx, &row.id).await?.into_iter();
            let concerned: Vec<_> = deployments.filter(|d| executors.contains(&d.id) && is_open(d)).collect();
            let change = user.actor.change("experiment.executors_cancelled", subject(&row));
            let seq = tx.record(change.after(json!({"executors": executors}))).await?;
            self.keep_told(tx, &row.id, Verb::Stop, user, context).await?;
            for mut deployment in concerned {
                deployment.cancelled_by.clone_from(&user.actor.name);
                store::save_deployment(tx, &deployment).await?;
                self.withdraw(tx, seq, &deployment).await?;
            }
        }
        Ok(open.into_values().flatten().collect())
    }

    /// Deletes an experiment that is not under way. What it left is kept until its retention is over; one that was ready
    /// lets its nodes go.
    pub async fn delete(&self, user: &User, name: &str) -> Refusable<()> {
        let write = self.fleet.db.write(|mut tx| async move {
            let done = self.delete_in(&mut tx, user, name).await;
            settle(tx, done)
        });
        write.await?
    }

    async fn delete_in(&self, tx: &mut Tx, user: &User, name: &str) -> Refusable<()> {
        let mut row = self.lock(tx, user, name).await?;
        let status = status_of(&row)?;
        if matches!(status, Status::Preparing | Status::Running | Status::Cancelling) {
            return Err(Refusal::StillOpen(row.name, user.name.clone(), status));
        }
        let now = tx.now();
        let change = user.actor.change("experiment.deleted", subject(&row));
        let seq = tx.record(change.before(json!({"status": row.status}))).await?;
        if status == Status::Ready {
            let why = "deleted before it was started";
            row.cancelled_by.clone_from(&user.actor.name);
            for mut deployment in store::deployments(tx, &row.id).await?.into_iter().filter(is_open) {
                deployment.stage = Stage::Ended.word().into();
                deployment.outcome = Outcome::Cancelled.word().into();
                deployment.message = why.into();
                deployment.ended_at = Some(now);
                store::save_deployment(tx, &deployment).await?;
                self.clean_up(tx, seq, &deployment).await?;
            }
            self.become_(tx, &mut row, Status::Cancelled, why.into(), &user.actor).await?;
        }
        row.deleted_at = Some(now);
        Ok(store::save_experiment(tx, &row).await?)
    }

    /// Says whether a user wants graphs in answers to netunicorn's clients.
    pub async fn save_settings(&self, user: &User, graphs: bool) -> Result<()> {
        let write = self.fleet.db.write(|mut tx| async move {
            let before = json!({"graphs": store::wants_graphs(&mut tx, &user.name).await?});
            store::save_setting(&mut tx, &user.name, graphs).await?;
            let change = user.actor.change("experiment.settings_changed", format!("user/{}", user.name));
            tx.record(change.before(before).after(json!({"graphs": graphs}))).await?;
            tx.done(())
        });
        write.await
    }

    /// An experiment of a user.
    pub async fn find(&self, conn: &mut Conn, owner: &str, name: &str) -> Refusable<ExperimentRow> {
        let found = store::find_experiment(conn, owner, name).await?;
        found.ok_or_else(|| Refusal::NoExperiment(name.into()))
    }

    // --- pieces ---

    async fn lock(&self, tx: &mut Tx, user: &User, name: &str) -> Refusable<ExperimentRow> {
        let found = store::lock_experiment(tx, &user.name, name).await?;
        found.ok_or_else(|| Refusal::NoExperiment(name.into()))
    }

    /// Changes an experiment's status in its row; at an end its nodes are let go. Gives the event's number.
    pub(super) async fn become_(
        &self,
        tx: &mut Tx,
        row: &mut ExperimentRow,
        status: Status,
        why: String,
        actor: &Actor,
    ) -> Result<i64> {
        let before = json!({"status": row.status});
        let now = tx.now();
        row.status = status.word().into();
        row.status_at = now;
        row.why = why;
        if status == Status::Ready {
            row.ready_at = Some(now);
        }
        if status.is_over() {
            row.ended_at = Some(now);
            let nodes = nodes_of(&store::deployments(tx, &row.id).await?);
            store::release_locks(tx, &nodes, &row.owner).await?;
            if self.processors.post.are_wanted() {
                store::insert_post(tx, &row.id).await?;
            }
        }
        let after = json!({"status": row.status, "why": row.why});
        tx.record(actor.change("experiment.status_changed", subject(row)).before(before).after(after)).await
    }

    /// Withdraws what was sent of a deployment.
    pub(super) async fn withdraw(&self, tx: &mut Tx, seq: i64, row: &DeploymentRow) -> Result<()> {
        if row.connector != FLEET {
            return connectors::withdraw(tx, row).await;
        }
        let Some(agent) = row.agent_id.clone().map(AgentId) else { return Ok(()) };
        for kind in [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR] {
            self.fleet.desired.withdraw(tx, seq, &agent, &key(kind, &row.id)).await?;
        }
        Ok(())
    }

    /// Has a node remove what an executor left, where that is wanted.
    pub(super) async fn clean_up(&self, tx: &mut Tx, seq: i64, row: &DeploymentRow) -> Result<()> {
        if row.cleanup == 0 {
            return Ok(());
        }
        if row.connector != FLEET {
            return connectors::ask(tx, row, Verb::Cleanup).await;
        }
        let Some(agent) = row.agent_id.clone().map(AgentId) else { return Ok(()) };
        let document = super::reconcile::once(super::wire::cleanup(&row.experiment_id, true, &[]));
        self.fleet.desired.put(tx, seq, &[agent], &key(KIND_EXPERIMENT_CLEANUP, &row.id), &document).await
    }

    /// Forgets what agents said and printed of a deployment.
    pub(super) async fn forget_deployment(&self, tx: &mut Tx, row: &DeploymentRow) -> Result<()> {
        for kind in [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, KIND_EXPERIMENT_CLEANUP] {
            let key = key(kind, &row.id);
            if let Some(agent) = row.agent_id.clone().map(AgentId) {
                desired::forget(tx, &agent, &key).await?;
            }
            logs::forget(tx, &key).await?;
        }
        Ok(())
    }
}

/// Ends a transaction with what was decided in it. A refusal is an answer; of another error the database may say that the
/// transaction is to be run again.
fn settle<T>(mut tx: Tx, done: Refusable<T>) -> Result<Done<Refusable<T>>> {
    match done {
        Err(Refusal::Other(error)) => Err(error),
        done => {
            tx.wake("experiment");
            tx.done(done)
        }
    }
}

/// What others hold than this user.
async fn taken_from(conn: &mut Conn, user: &str) -> Result<BTreeSet<(String, String)>> {
    let locks = store::locks(conn, None).await?.into_iter().filter(|lock| lock.owner != user);
    Ok(locks.map(|lock| (lock.connector, lock.node_name)).collect())
}

/// What names a node.
fn place_of(node: &Node) -> (String, String) {
    (node.connector().to_owned(), node.name.clone())
}

/// The agents that are open to a user of these tags, by name; `all`: also those that are away or taken by others.
pub(super) async fn open_nodes(conn: &mut Conn, user: &str, tags: &BTreeSet<String>, all: bool) -> Result<Vec<Placed>> {
    let taken = taken_from(conn, user).await?;
    let mut nodes = placed(conn).await?;
    nodes.retain(|it| it.is_open_to(tags) && (all || it.online && !taken.contains(&place_of(&it.node))));
    nodes.sort_by(|a, b| a.node.name.cmp(&b.node.name));
    Ok(nodes)
}

/// The nodes of the fleet that could be asked to run something.
pub(super) async fn placed(conn: &mut Conn) -> Result<Vec<Placed>> {
    let agents = agents::select(conn, Class::ExperimentNode, &Labels::new()).await?;
    Ok(agents.iter().filter_map(|agent| Some(Placed::of(agent, agent.offers(KIND_EXPERIMENT_DEPLOYMENT)?))).collect())
}

/// Names of the nodes of deployments, each once.
pub(super) fn nodes_of(deployments: &[DeploymentRow]) -> Vec<(String, String)> {
    let nodes: BTreeSet<_> = deployments.iter().map(|d| (d.connector.clone(), d.node_name.clone())).collect();
    nodes.into_iter().collect()
}

/// Whether something of a deployment may still happen.
fn is_open(row: &DeploymentRow) -> bool {
    row.stage != Stage::Ended.word()
}

/// What names an assignment of a deployment.
pub(super) fn key(kind: &str, executor: &str) -> Key {
    Key { kind: kind.into(), id: executor.into() }
}

/// What events about an experiment name.
pub(super) fn subject(row: &ExperimentRow) -> String {
    format!("experiment/{}", row.id)
}

/// Who keeps an experiment's blobs.
pub(super) fn keeper(experiment: &str) -> String {
    format!("experiment/{experiment}")
}

/// Who keeps the newest report of an executor that is not on an agent, until it has ended.
pub(super) fn posted_by(row: &DeploymentRow) -> String {
    format!("{}/{}", keeper(&row.experiment_id), row.id)
}

/// The status in a row.
pub(super) fn status_of(row: &ExperimentRow) -> Result<Status> {
    Status::from_word(&row.status)
        .ok_or_else(|| Error::internal(anyhow::anyhow!("the database holds the status {:?}", row.status)))
}

/// The stage in a row.
pub(super) fn stage_of(row: &DeploymentRow) -> Result<Stage> {
    Stage::from_word(&row.stage)
        .ok_or_else(|| Error::internal(anyhow::anyhow!("the database holds the stage {:?}", row.stage)))
}

/// What is known of nodes that were asked for, by connector and name.
pub(super) type Known = BTreeMap<(String, String), Placed>;
