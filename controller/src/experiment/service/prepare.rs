//! Preparing an experiment: everything is checked and written in one transaction, and the nodes are taken with it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use muster_pki::{hex, sha256};
use serde_json::{Map, Value, json};

use super::{
    Experiments, Known, Refusable, Refusal, User, keeper, nodes_of, placed, process::is_repeat, settle, subject,
};
use crate::{
    error::Error,
    experiment::{
        connector::{model::Verb, service::Brought},
        environment::{self, Wanted},
        model::{FLEET, Stage, Status, check_name, uuid},
        node::{EnvironmentType, Node, Placed},
        order::{Deployment, Order, Work},
        spec::{Nodes, Spec},
        store::{self, DeploymentRow, ExperimentRow},
    },
    platform::{
        blobs::{Blobs, Held},
        crash::CrashPoint,
        db::{Conn, Tx, is_duplicate},
    },
};

impl Experiments {
    /// Prepares an experiment; the loop carries it out. Gives whether it was made by this call: one of the same name and
    /// content that is there already stays as it is.
    pub async fn prepare(&self, user: &User, name: &str, order: &Order) -> Refusable<bool> {
        check_name("name", name)?;
        order.check(user.is_admin)?;
        // A repeat is known by what the client sent.
        let digest = &order.digest();
        let mut order = Cow::Borrowed(order);
        if self.processors.pre.are_wanted() {
            if self.is_there(user, name, digest).await? {
                return Ok(false);
            }
            order = Cow::Owned(self.preprocess(user, name, order.into_owned()).await?);
        }
        let order = &*order;
        let brought = &self.brought(user, order).await?;
        let mut held = Vec::with_capacity(order.deployments.len());
        for deployment in &order.deployments {
            if let Work::Graph(graph) = &deployment.work {
                held.push(self.blobs.hold(graph.clone()).await?);
            }
        }
        let held = &held;
        let write = self.fleet.db.write(|mut tx| async move {
            let done = match self.is_repeat(&mut tx, user, name, digest).await {
                Ok(true) => Ok(false),
                Ok(false) => self.insert(&mut tx, user, name, digest, order, held, brought, false).await.map(|()| true),
                Err(refusal) => Err(refusal),
            };
            settle(tx, done)
        });
        write.await?
    }

    /// Prepares native pipelines on nodes that are free at this moment, to be started as soon as they are ready unless
    /// `starts` says otherwise. Gives whether it was made by this call.
    pub async fn run(&self, user: &User, name: &str, spec: &Spec, starts: bool) -> Refusable<bool> {
        check_name("name", name)?;
        if let Some(mistake) = spec.mistakes().into_iter().next() {
            return Err(Error::invalid(mistake.field, mistake.message).into());
        }
        let digest = &hex(&sha256(json!(spec).to_string().as_bytes()));
        let mut processed = None;
        if self.processors.pre.are_wanted() {
            if self.is_there(user, name, digest).await? {
                return Ok(false);
            }
            // They take longer than a transaction may: what they saw is prepared, or refused where a node was taken since.
            let order = self.choose(&mut *self.fleet.db.read().await?, user, spec).await?;
            processed = Some(self.preprocess(user, name, order).await?);
        }
        let processed = &processed;
        let write = self.fleet.db.write(|mut tx| async move {
            let done = match self.is_repeat(&mut tx, user, name, digest).await {
                Ok(true) => Ok(false),
                Ok(false) => self
                    .insert_native(&mut tx, user, name, digest, (spec, processed.as_ref()), starts)
                    .await
                    .map(|()| true),
                Err(refusal) => Err(refusal),
            };
            settle(tx, done)
        });
        write.await?
    }

    async fn insert_native(
        &self,
        tx: &mut Tx,
        user: &User,
        name: &str,
        digest: &str,
        (spec, processed): (&Spec, Option<&Order>),
        starts: bool,
    ) -> Refusable<()> {
        let order = match processed {
            Some(order) => Cow::Borrowed(order),
            None => Cow::Owned(self.choose(tx, user, spec).await?),
        };
        self.insert(tx, user, name, digest, &order, &[], &Brought::default(), starts).await
    }

    /// What a file asks for, on nodes that are free at this moment.
    async fn choose(&self, conn: &mut Conn, user: &User, spec: &Spec) -> Refusable<Order> {
        let nodes = self.nodes(conn, user, false).await?;
        let deployments = choose(&nodes, spec).map_err(Refusal::Sentence)?;
        Ok(Order { deployments, context: Value::Null })
    }

    /// Whether an experiment of this name and content is there; refused when its content is another.
    async fn is_repeat(&self, tx: &mut Tx, user: &User, name: &str, digest: &str) -> Refusable<bool> {
        is_repeat(store::lock_experiment(tx, &user.name, name).await?.as_ref(), name, digest)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of the one row it writes")]
    async fn insert(
        &self,
        tx: &mut Tx,
        user: &User,
        name: &str,
        digest: &str,
        order: &Order,
        held: &[Held],
        brought: &Brought,
        starts: bool,
    ) -> Refusable<()> {
        let nodes = self.find_nodes(tx, user, order, brought).await?;
        let now = tx.now();
        let experiment = uuid(muster_pki::random());
        let mut graphs = held.iter().map(|h| h.digest.clone());
        let deployments = rows(&experiment, order, &nodes, &mut graphs);
        let mut row = first(experiment.clone(), user, name, digest.into(), order.context.clone(), now);
        row.starts = i64::from(starts);
        let taken = nodes_of(&deployments);
        let reason = format!("the experiment {name:?}");
        let others = store::take_locks(tx, &taken, &user.name, &reason).await?;
        if let Some(lock) = others.first() {
            let is_anothers =
                |node: &(String, String)| others.iter().any(|o| (&o.connector, &o.node_name) == (&node.0, &node.1));
            let mine: Vec<_> = taken.iter().filter(|node| !is_anothers(node)).cloned().collect();
            store::release_locks(tx, &mine, &user.name).await?;
            return Err(Refusal::Sentence(format!("Node {} is already locked by {}", lock.node_name, lock.owner)));
        }
        match store::insert_experiment(tx, &row).await {
            Err(error) if is_duplicate(&error) => {
                return Err(Error::Conflict(format!("an experiment named {name:?} was made at this moment")).into());
            }
            other => other?,
        }
        Blobs::keep(tx, held, &keeper(&experiment)).await?;
        store::insert_deployments(tx, &deployments).await?;
        if deployments.iter().any(|row| row.connector != FLEET) {
            self.keep_told(tx, &experiment, Verb::Deploy, user, &Value::Null).await?;
        }
        environment::want(tx, &wanted(order, &nodes, &deployments)).await?;
        let names: Vec<_> = taken.iter().map(|(_, node)| node).take(100).collect();
        let after = json!({"name": name, "deployments": deployments.len(), "nodes": names});
        tx.record(user.actor.change("experiment.prepare_requested", subject(&row)).after(after)).await?;
        tx.wake("experiment");
        tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
        Ok(())
    }

    /// The nodes an order names, each checked against what the user may use and the node can run.
    async fn find_nodes(&self, conn: &mut Conn, user: &User, order: &Order, brought: &Brought) -> Refusable<Known> {
        let all = placed(conn).await?.into_iter().filter(|it| it.is_open_to(&user.tags));
        let (mut known, mut doubled) = (Known::new(), BTreeSet::new());
        for it in all {
            let key = (it.node.connector().to_owned(), it.node.name.clone());
            if known.insert(key.clone(), it).is_some() {
                doubled.insert(key);
            }
        }
        known.extend(brought.nodes.clone());
        order
            .deployments
            .iter()
            .try_for_each(|deployment| check_node(&known, &doubled, &brought.missing, deployment))
            .map_err(Refusal::Sentence)?;
        Ok(known)
    }
}

/// The nodes a file's deployments run on. One that is named is taken whether it is free or not, so that its refusal says
/// why; of labelled ones those are taken that are free and not taken by a deployment before.
fn choose(free: &[Placed], spec: &Spec) -> std::result::Result<Vec<Deployment>, String> {
    let mut chosen = Vec::new();
    let mut used = BTreeSet::new();
    for (n, deployment) in spec.deployments.iter().enumerate() {
        let nodes = &deployment.nodes;
        if !nodes.names.is_empty() {
            for name in &nodes.names {
                let found = free.iter().find(|it| it.node.name == *name).map(|it| it.node.clone());
                let node = found.unwrap_or_else(|| Node {
                    name: name.clone(),
                    properties: Map::new(),
                    additional_properties: Map::new(),
                    architecture: "unknown".into(),
                });
                used.insert(name.clone());
                chosen.push(Deployment::native(node, deployment));
            }
            continue;
        }
        let free = free.iter().filter(|it| fits(it, nodes) && !used.contains(&it.node.name));
        let found: Vec<_> = free.take(nodes.take.unwrap_or(usize::MAX)).collect();
        let wanted = nodes.take.unwrap_or(1);
        if found.len() < wanted {
            let labels: Vec<_> = nodes.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(", ")) };
            return Err(format!(
                "deployments[{n}].nodes wants {wanted} free nodes{labels}; there are {}; see `muster experiment nodes`",
                found.len()
            ));
        }
        used.extend(found.iter().map(|it| it.node.name.clone()));
        chosen.extend(found.into_iter().map(|it| Deployment::native(it.node.clone(), deployment)));
    }
    Ok(chosen)
}

/// Whether a node can run a file's deployment and has the properties that it asks for.
pub fn fits(it: &Placed, nodes: &Nodes) -> bool {
    let property = |key: &String| it.node.properties.get(key).and_then(Value::as_str);
    it.environments.contains(&EnvironmentType::ShellExecution)
        && nodes.labels.iter().all(|(key, value)| property(key) == Some(value))
}

fn check_node(
    known: &Known,
    doubled: &BTreeSet<(String, String)>,
    missing: &BTreeMap<String, String>,
    deployment: &Deployment,
) -> std::result::Result<(), String> {
    let (connector, name) = (deployment.node.connector(), &deployment.node.name);
    if let Some(why) = missing.get(connector) {
        return Err(format!("Node {name} names the connector {connector:?}, {why}"));
    }
    let environment = &deployment.environment;
    if connector != FLEET && environment.kind == EnvironmentType::DockerImage && environment.image.is_none() {
        return Err(format!(
            "Node {name} is of the connector {connector}, to which no image made here is sent; name an image that it can pull"
        ));
    }
    let key = (connector.to_owned(), name.clone());
    let Some(it) = known.get(&key) else {
        let of = if connector == FLEET { String::new() } else { format!(" of the connector {connector:?}") };
        return Err(format!("Node {name}{of} is not there, or is not open to you; take nodes from the list of nodes"));
    };
    if doubled.contains(&key) {
        return Err(format!("Node {name} is the name of more than one agent; rename or remove all but one of them"));
    }
    if !it.environments.contains(&deployment.environment.kind) {
        let have: Vec<_> = it.environments.iter().map(|e| e.word()).collect();
        let have = if have.is_empty() { "none".into() } else { have.join(", ") };
        let kind = deployment.environment.kind.word();
        return Err(format!("Environment {kind} is not available on node {name}; it has {have}"));
    }
    Ok(())
}

/// The environments that agents are to have, each once. An image that has no name is built once for all.
fn wanted(order: &Order, known: &Known, rows: &[DeploymentRow]) -> Vec<Wanted> {
    let of_agents = order.deployments.iter().zip(rows).filter(|(_, row)| row.connector == FLEET);
    let all = of_agents.filter_map(|(deployment, row)| {
        let definition = &deployment.environment;
        Some(Wanted {
            digest: row.environment_digest.clone(),
            platform: known.get(&(row.connector.clone(), row.node_name.clone()))?.node.architecture.clone(),
            is_built: definition.kind == EnvironmentType::DockerImage && definition.image.is_none(),
        })
    });
    all.collect::<BTreeSet<_>>().into_iter().collect()
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
        tags: json!(user.tags).to_string(),
        created_at: now,
        ready_at: None,
        started_at: None,
        ended_at: None,
        cancelled_by: String::new(),
        starts: 0,
        deleted_at: None,
        version: 1,
    }
}

fn rows(
    experiment: &str,
    order: &Order,
    known: &Known,
    graphs: &mut impl Iterator<Item = String>,
) -> Vec<DeploymentRow> {
    let row = |(n, deployment): (usize, &Deployment)| {
        let graph = match &deployment.work {
            Work::Graph(_) => graphs.next().unwrap_or_default(),
            Work::Pipeline(_) => String::new(),
        };
        let key = (deployment.node.connector().to_owned(), deployment.node.name.clone());
        place(experiment, n as i64, deployment, known.get(&key), graph)
    };
    order.deployments.iter().enumerate().map(row).collect()
}

/// A deployment at a place of its experiment, on the agent that is behind its node.
pub fn place(
    experiment: &str,
    place: i64,
    deployment: &Deployment,
    placed: Option<&Placed>,
    graph: String,
) -> DeploymentRow {
    let executor = uuid(muster_pki::random());
    let architecture = placed.map_or(deployment.node.architecture.as_str(), |it| it.node.architecture.as_str());
    let pipeline = match &deployment.work {
        Work::Graph(_) => String::new(),
        Work::Pipeline(pipeline) => json!(pipeline).to_string(),
    };
    let mut document = deployment.stored(experiment, &executor);
    if let Some(brought) = placed.filter(|it| it.agent.is_none()) {
        // A connector may act on what stands in its nodes: it is told what it said itself.
        document.insert("node".into(), json!(brought.node));
    }
    DeploymentRow {
        document: Value::Object(document).to_string(),
        environment_digest: hex(&deployment.environment.digest(architecture, pipeline.is_empty())),
        id: executor,
        experiment_id: experiment.into(),
        place,
        agent_id: placed.and_then(|it| it.agent.as_ref()).map(|agent| agent.0.clone()),
        connector: deployment.node.connector().to_owned(),
        node_name: deployment.node.name.clone(),
        graph,
        pipeline,
        keep_alive_minutes: deployment.keep_alive_minutes,
        cleanup: i64::from(deployment.cleanup),
        moved: 0,
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
}
