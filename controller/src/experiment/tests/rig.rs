//! A house with nodes that say what a test has them say.

use std::{collections::BTreeSet, sync::Arc};

use axum::Router;
use muster_pki::seal::SealKey;
use muster_proto::{KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, experiment as proto};
use prost::Message;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    domain::Processors,
    experiment::{
        Reconcile,
        api::show,
        model::Status,
        order::Order,
        reconcile::Round,
        service::{Detail, Experiments, Told, User},
        store,
    },
    fleet::{
        desired::{self, Report},
        model::{AgentId, Class, Key, Phase},
    },
    platform::{
        db::query,
        events::{Actor, Source},
        reconcile::Reconciler,
    },
    testing::{blobs, fresh, house, settle_agent, tell},
    web::{Gate, Routes, serve::dress},
};

/// A graph nobody can read but Python.
pub const GRAPH: &[u8] = b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.";

pub struct Rig {
    pub experiments: Experiments,
    seq: std::cell::Cell<i64>,
}

pub fn user(name: &str) -> User {
    let actor = Actor { name: format!("user/{name}"), source: Source::Api };
    User { name: name.into(), tags: BTreeSet::new(), is_admin: false, context: Value::Null, actor }
}

/// Routes behind a gate.
pub fn served(routes: Routes, rig: &Rig, access: &Access) -> Router {
    let gate = Gate {
        db: rig.experiments.fleet.db.clone(),
        seal: SealKey::new(&SealKey::generate()).into(),
        authenticate: Arc::new(access.clone()),
        hosts: vec![],
        secure: false,
        behind_proxy: false,
        nav: vec![],
        stop: CancellationToken::new(),
    };
    dress(routes.split().0, Arc::new(gate))
}

/// A deployment of a client.
pub fn deployment(node: &str) -> Value {
    json!({
        "node": {"name": node, "properties": {"connector": "muster"}, "additional_properties": {}, "architecture": "linux/amd64"},
        "prepared": false, "executor_id": "", "error": null, "execution_graph": "gASVBQAAAAAAAACMAXiULg==",
        "keep_alive_timeout_minutes": 10, "cleanup": true,
        "environment_definition": {"commands": [], "runtime_context": {
            "ports_mapping": {}, "environment_variables": {"A": "b"}, "additional_arguments": [], "network": null}},
        "environment_definition_type": "ShellExecution",
    })
}

pub fn body(deployments: &[Value]) -> Vec<u8> {
    json!({"deployment_map": deployments, "deployment_context": null}).to_string().into_bytes()
}

pub fn order(nodes: &[&str]) -> Order {
    let deployments: Vec<_> = nodes.iter().map(|node| deployment(node)).collect();
    Order::read(&body(&deployments)).expect("it can be read")
}

impl Rig {
    /// Nodes `lo-1` to `lo-4`; `lo-5` with the tag `lab`, `lo-6` with the tag `other`.
    pub async fn new(url: &str) -> Self {
        let fleet = house(&fresh(url).await, "r1").await;
        for n in 1..=6 {
            let id = format!("lo-{n}");
            let tags: &[(&str, &str)] = match n {
                5 => &[("access-tags", "lab")],
                6 => &[("access-tags", "other.field")],
                _ => &[("location", "rack-1")],
            };
            settle_agent(&fleet, &id, Class::ExperimentNode, tags).await;
        }
        let kinds = [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR];
        let able = kinds.map(|kind| {
            json!({"kind": kind, "oldest_version": 1, "newest_version": 1, "offers": ["executor=0.4.2", "python=3.11.7", "shell"]})
        });
        let able = json!(able).to_string();
        fleet
            .db
            .write(|mut tx| {
                let able = able.clone();
                async move {
                    query("update fleet_agent set name = id, capabilities = $1, liveness = 'online', facts = '{\"arch\":\"x86_64\"}'".into())
                        .bind(able)
                        .execute(&mut *tx)
                        .await?;
                    tx.done(())
                }
            })
            .await
            .expect("the nodes are able");
        Self {
            experiments: Experiments {
                fleet,
                blobs: blobs(),
                asking: Arc::default(),
                processors: Processors::default(),
            },
            seq: 1.into(),
        }
    }

    pub async fn round(&self) -> Round {
        let mut reconcile =
            Reconcile { experiments: self.experiments.clone(), here_since: 0, forgot: None, keep_environments: None };
        let round = reconcile.reconcile().await.expect("a round");
        assert_eq!(round.failed, []);
        round
    }

    /// What the owner of a node's host lets deployments use.
    pub async fn offer(&self, node: &str, offers: &[&str]) {
        let able =
            json!([{"kind": KIND_EXPERIMENT_DEPLOYMENT, "oldest_version": 1, "newest_version": 1, "offers": offers}]);
        let update = "update fleet_agent set capabilities = $1 where id = $2";
        self.change(update, &able.to_string(), node).await;
    }

    async fn change(&self, update: &str, value: &str, node: &str) {
        let write = self.experiments.fleet.db.write(|mut tx| async move {
            query(update.into()).bind(value).bind(node).execute(&mut *tx).await?;
            tx.done(())
        });
        write.await.expect("written");
    }

    /// A round of a house that keeps environments for so long after their last use, milliseconds.
    pub async fn round_keeping(&self, keep: i64) {
        let keep_environments = Some(keep);
        let mut reconcile =
            Reconcile { experiments: self.experiments.clone(), here_since: 0, forgot: None, keep_environments };
        assert_eq!(reconcile.reconcile().await.expect("a round").failed, []);
    }

    pub async fn detail(&self, user: &User, name: &str) -> Detail {
        let mut conn = self.experiments.fleet.db.read().await.expect("a connection");
        let row = self.experiments.find(&mut conn, &user.name, name).await.expect("is there");
        self.experiments.detail(&mut conn, row, Told { graphs: true, results: true }).await.expect("is read")
    }

    /// Bytes of what the executors of an experiment reported, as people are told.
    pub async fn sizes(&self, owner: &str, name: &str) -> Vec<Option<u64>> {
        let shown = show(&self.experiments, owner, name).await.expect("is shown");
        shown.nodes.into_iter().map(|node| node.result_bytes).collect()
    }

    pub async fn status(&self, user: &User, name: &str) -> Status {
        self.detail(user, name).await.status
    }

    /// A node says something of its work for one executor.
    pub async fn say(&self, kind: &str, executor: &str, phase: Phase, outcome: bool, result: Vec<u8>) {
        let db = &self.experiments.fleet.db;
        let row = store::fetch_deployment(&mut db.read().await.expect("a connection"), &executor.into()).await;
        let row = row.expect("read").expect("is there");
        let at = db.clock().now();
        let report = Report {
            agent: AgentId(row.agent_id.expect("has a node")),
            key: Key { kind: kind.into(), id: executor.into() },
            generation: 1,
            phase,
            conditions: vec![],
            result,
            at,
            received_at: at,
            outcome,
            may_have_run: false,
            attempt: 1,
        };
        self.seq.set(self.seq.get() + 1);
        tell(db, report, self.seq.get()).await;
    }

    pub async fn deployed(&self, executor: &str) {
        self.say(KIND_EXPERIMENT_DEPLOYMENT, executor, Phase::Succeeded, true, vec![]).await;
    }

    pub async fn not_deployed(&self, executor: &str, why: &str) {
        let result = proto::DeploymentResult { message: why.into(), ..Default::default() };
        self.say(KIND_EXPERIMENT_DEPLOYMENT, executor, Phase::Failed, true, result.encode_to_vec()).await;
    }

    pub async fn working(&self, executor: &str, results: &[u8]) {
        self.say(KIND_EXPERIMENT_EXECUTOR, executor, Phase::Working, false, posted(results)).await;
    }

    pub async fn ended(&self, executor: &str, phase: Phase, results: &[u8]) {
        self.say(KIND_EXPERIMENT_EXECUTOR, executor, phase, true, posted(results)).await;
    }

    /// Executors of an experiment, in their order.
    pub async fn executors(&self, user: &User, name: &str) -> Vec<String> {
        self.detail(user, name).await.deployments.into_iter().map(|d| d.row.id).collect()
    }

    /// Prepares an experiment and brings it to READY.
    pub async fn ready(&self, user: &User, name: &str, nodes: &[&str]) -> Vec<String> {
        self.experiments.prepare(user, name, &order(nodes)).await.expect("prepared");
        self.round().await;
        self.make_ready(user, name).await
    }

    /// The same, and started.
    pub async fn running(&self, user: &User, name: &str, nodes: &[&str]) -> Vec<String> {
        self.ready(user, name, nodes).await;
        self.start(user, name).await
    }

    /// Has every node of an experiment that is being prepared be ready.
    pub async fn make_ready(&self, user: &User, name: &str) -> Vec<String> {
        let executors = self.executors(user, name).await;
        for executor in &executors {
            self.deployed(executor).await;
        }
        self.round().await;
        assert_eq!(self.status(user, name).await, Status::Ready);
        executors
    }

    /// The same, and starts it.
    pub async fn make_running(&self, user: &User, name: &str) -> Vec<String> {
        self.make_ready(user, name).await;
        self.start(user, name).await
    }

    async fn start(&self, user: &User, name: &str) -> Vec<String> {
        let executors = self.executors(user, name).await;
        self.experiments.start(user, name, &Value::Null).await.expect("started");
        self.round().await;
        for executor in &executors {
            self.working(executor, b"").await;
        }
        self.round().await;
        executors
    }

    /// What agents are to act on of this kind, by id, unless it was withdrawn.
    pub async fn sent(&self, kind: &str, ids: &[String]) -> BTreeSet<String> {
        let mut conn = self.experiments.fleet.db.read().await.expect("a connection");
        let sent = desired::assignments_of_kind(&mut conn, kind, ids).await.expect("read");
        sent.into_iter().filter(|e| !e.wanted.digest.is_empty()).map(|e| e.wanted.key.id).collect()
    }

    /// What was sent of a kind to a node, opened.
    pub async fn documents(&self, kind: &str, node: &str) -> Vec<Vec<u8>> {
        let fleet = &self.experiments.fleet;
        let mut conn = fleet.db.read().await.expect("a connection");
        let sent = desired::assignments(&mut conn, &[AgentId(node.into())]).await.expect("read").into_iter();
        let digests: Vec<_> = sent.filter(|e| e.wanted.key.kind == kind).map(|e| e.wanted.digest).collect();
        let documents = fleet.desired.documents(&mut conn, &digests).await.expect("opened");
        documents.into_values().map(Into::into).collect()
    }

    /// Takes the stream of a node away, as long ago as this.
    pub async fn part(&self, node: &str, ago_ms: i64) {
        let db = &self.experiments.fleet.db;
        let at = db.clock().now() - ago_ms;
        db.write(|mut tx| async move {
            query("update fleet_agent set liveness = 'offline', liveness_at = $1 where id = $2".into())
                .bind(at)
                .bind(node)
                .execute(&mut *tx)
                .await?;
            tx.done(())
        })
        .await
        .expect("written");
    }
}

fn posted(results: &[u8]) -> Vec<u8> {
    let content = proto::Content { inline: results.to_vec().into(), size: results.len() as u64, ..Default::default() };
    let results = (!results.is_empty()).then_some(content);
    proto::ExecutorResult { results, started_ms: 1, ..Default::default() }.encode_to_vec()
}
