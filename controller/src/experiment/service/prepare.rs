//! Preparing an experiment: everything is checked and written in one transaction, and the nodes are taken with it.

use muster_pki::hex;
use serde_json::{Value, json};

use super::{Experiments, Known, Refusable, Refusal, User, keeper, nodes_of, placed, subject};
use crate::{
    error::{Error, Result},
    experiment::{
        model::{FLEET, Stage, Status, check_name, uuid},
        order::{Deployment, Order},
        store::{self, DeploymentRow, ExperimentRow},
    },
    platform::{
        blobs::Blobs,
        crash::CrashPoint,
        db::{Conn, is_duplicate},
    },
};

impl Experiments {
    /// Prepares an experiment; the loop carries it out. Gives whether it was made by this call: one of the same name and
    /// content that is there already stays as it is.
    pub async fn prepare(&self, user: &User, name: &str, order: &Order) -> Refusable<bool> {
        check_name("name", name)?;
        order.check(user.is_admin)?;
        let digest = &order.digest();
        let graphs = order.deployments.iter().map(|d| self.blobs.hold(d.graph.clone()));
        let mut held = Vec::with_capacity(order.deployments.len());
        for graph in graphs {
            held.push(graph.await?);
        }
        let held = &held;
        let result = self
            .fleet
            .db
            .write(|mut tx| async move {
                let same = store::lock_experiment(&mut tx, &user.name, name).await?;
                if let Some(same) = same {
                    let answer =
                        if same.digest == *digest { Ok(false) } else { Err(Refusal::OtherContent(name.into())) };
                    return tx.done(answer);
                }
                let nodes = match self.find_nodes(&mut tx, user, order).await? {
                    Ok(nodes) => nodes,
                    Err(refusal) => return tx.done(Err(refusal)),
                };
                let now = tx.now();
                let experiment = uuid(muster_pki::random());
                let graphs: Vec<_> = held.iter().map(|h| h.digest.clone()).collect();
                let deployments = rows(&experiment, order, &nodes, &graphs);
                let row = first(experiment.clone(), user, name, digest.clone(), order.context.clone(), now);
                let taken = nodes_of(&deployments);
                let reason = format!("the experiment {name:?}");
                let others = store::take_locks(&mut tx, &taken, &user.name, &reason).await?;
                if let Some(lock) = others.first() {
                    // Dropped, the transaction never was: nothing is held.
                    return Err(Error::Conflict(format!(
                        "Node {} is already locked by {}",
                        lock.node_name, lock.owner
                    )));
                }
                match store::insert_experiment(&mut tx, &row).await {
                    Err(error) if is_duplicate(&error) => {
                        return Err(Error::Conflict(format!("an experiment named {name:?} was made at this moment")));
                    }
                    other => other?,
                }
                Blobs::keep(&mut tx, held, &keeper(&experiment)).await?;
                store::insert_deployments(&mut tx, &deployments).await?;
                let names: Vec<_> = taken.iter().map(|(_, node)| node).take(100).collect();
                let after = json!({"name": name, "deployments": deployments.len(), "nodes": names});
                tx.record(user.actor.change("experiment.prepare_requested", subject(&row)).after(after)).await?;
                tx.wake("experiment");
                tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
                tx.done(Ok(true))
            })
            .await;
        match result {
            Err(Error::Conflict(text)) => Err(Refusal::Sentence(text)),
            other => other?,
        }
    }

    /// The nodes an order names, each checked against what the user may use and the node can run.
    async fn find_nodes(&self, conn: &mut Conn, user: &User, order: &Order) -> Result<Refusable<Known>> {
        let all = placed(conn).await?.into_iter().filter(|it| it.is_open_to(&user.tags));
        let known: Known = all.map(|it| ((it.node.connector().to_owned(), it.node.name.clone()), it.into())).collect();
        for deployment in &order.deployments {
            if let Err(text) = check_node(&known, deployment) {
                return Ok(Err(Refusal::Sentence(text)));
            }
        }
        Ok(Ok(known))
    }
}

fn check_node(known: &Known, deployment: &Deployment) -> std::result::Result<(), String> {
    let (connector, name) = (deployment.node.connector(), &deployment.node.name);
    if connector != FLEET {
        return Err(format!("Node {name} names the connector {connector:?}, which is not there; there is {FLEET:?}"));
    }
    let Some(it) = known.get(&(connector.to_owned(), name.clone())) else {
        return Err(format!("Node {name} is not there, or is not open to you; take nodes from the list of nodes"));
    };
    if !it.environments.contains(&deployment.environment.kind) {
        let have: Vec<_> = it.environments.iter().map(|e| e.word()).collect();
        let have = if have.is_empty() { "none".into() } else { have.join(", ") };
        let kind = deployment.environment.kind.word();
        return Err(format!("Environment {kind} is not available on node {name}; it has {have}"));
    }
    Ok(())
}

fn first(id: String, user: &User, name: &str, digest: String, context: Value, now: i64) -> ExperimentRow {
    ExperimentRow {
        id,
        owner: user.name.clone(),
        name: name.into(),
        status: Status::Preparing.word().into(),
        status_at: now,
        why: String::new(),
        digest,
        context: context.to_string(),
        created_at: now,
        ready_at: None,
        started_at: None,
        ended_at: None,
        cancelled_by: String::new(),
        deleted_at: None,
        version: 1,
    }
}

fn rows(experiment: &str, order: &Order, known: &Known, graphs: &[String]) -> Vec<DeploymentRow> {
    let row = |((place, deployment), graph): ((usize, &Deployment), &String)| {
        let executor = uuid(muster_pki::random());
        let (connector, node_name) = (deployment.node.connector().to_owned(), deployment.node.name.clone());
        let placed = known.get(&(connector.clone(), node_name.clone()));
        let architecture = placed.map_or(deployment.node.architecture.as_str(), |it| it.node.architecture.as_str());
        DeploymentRow {
            document: Value::Object(deployment.stored(experiment, &executor)).to_string(),
            environment_digest: hex(&deployment.environment.digest(architecture)),
            id: executor,
            experiment_id: experiment.into(),
            place: place as i64,
            agent_id: placed.map(|it| it.agent.0.clone()),
            connector,
            node_name,
            graph: graph.clone(),
            pipeline: String::new(),
            keep_alive_minutes: deployment.keep_alive_minutes,
            cleanup: i64::from(deployment.cleanup),
            stage: Stage::Waiting.word().into(),
            outcome: String::new(),
            message: String::new(),
            cancelled_by: String::new(),
            given_up: 0,
            deployed_at: None,
            started_at: None,
            ended_at: None,
            result: String::new(),
            result_late: 0,
            runs: String::new(),
        }
    };
    order.deployments.iter().enumerate().zip(graphs).map(row).collect()
}
