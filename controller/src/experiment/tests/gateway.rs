//! The gateway, asked as executors ask it. The connectors' servers are away: what they would say is written where the loop
//! that asks them writes it.

use std::time::{Duration, Instant};

use axum::{Router, body::Body};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::rig::{GRAPH, Rig, body, deployment, served, user};
use crate::{
    access::Access,
    experiment::{
        connector::{
            gateway::Gateway,
            model::{Asked, ConnectorSpec, Verb},
            store,
        },
        model::{Outcome, Stage, Status},
        order::Order,
        service::{Refusal, User},
    },
    platform::events,
    testing::engines,
};

const HOLD: Duration = Duration::from_millis(300);

struct Field {
    rig: Rig,
    gateway: Gateway,
    router: Router,
}

impl Field {
    /// A house with the connectors `lab` and `field`, both away, which brought two nodes each before.
    async fn new(url: &str) -> Self {
        let rig = Rig::new(url).await;
        let access = Access::cheap(rig.experiments.fleet.db.clone());
        let gateway = Gateway::holding(rig.experiments.clone(), HOLD);
        let router = served(gateway.clone().routes(), &rig, &access);
        let field = Self { rig, gateway, router };
        for name in ["lab", "field"] {
            let spec = ConnectorSpec {
                url: "http://127.0.0.1:1".into(),
                api_key: "key".into(),
                init: None,
                gateway: None,
                ca_pem: None,
                enabled: true,
            };
            field.rig.experiments.save_connector(&user("ada").actor, name, &spec, None).await.expect("saved");
            let nodes: Vec<_> = ["a", "b"].map(|n| node(name, n)).into();
            let pool = json!({"node_pool_type": "CountableNodePool", "node_pool_data": nodes}).to_string();
            let db = &field.rig.experiments.fleet.db;
            for owner in ["ada", "bob"] {
                let pool = &pool;
                db.write(|mut tx| async move {
                    store::save_pool(&mut tx, name, owner, pool).await?;
                    tx.done(())
                })
                .await
                .expect("saved");
            }
        }
        field
    }

    async fn secret(&self, name: &str) -> String {
        let mut conn = self.rig.experiments.fleet.db.read().await.expect("a connection");
        let row = store::connector(&mut conn, name).await.expect("read").expect("is there");
        self.rig.experiments.secrets(&row).expect("opened").gateway_secret
    }

    /// The connector answers what it was asked of every executor.
    async fn answers(&self, executors: &[String], verb: Verb, said: Asked) {
        let db = &self.rig.experiments.fleet.db;
        db.write(|mut tx| async move {
            let asked = store::begin(&mut tx, executors, verb, "r1").await?;
            assert_eq!(asked.len(), executors.len(), "it was asked to {}", verb.word());
            for executor in executors {
                let asking = (Asked::Asking.word(), 1);
                store::settle(&mut tx, executor, verb, asking, said, "so it is", 0).await?;
            }
            tx.done(())
        })
        .await
        .expect("written");
        self.rig.round().await;
    }

    /// Prepares an experiment on nodes and brings it to where its executors were started.
    async fn running(&self, user: &User, name: &str, nodes: &[(&str, &str)]) -> Vec<String> {
        self.rig.experiments.prepare(user, name, &order(nodes)).await.expect("prepared");
        self.rig.round().await;
        let executors = self.rig.executors(user, name).await;
        self.answers(&executors, Verb::Deploy, Asked::Done).await;
        assert_eq!(self.rig.status(user, name).await, Status::Ready);
        self.rig.experiments.start(user, name, &Value::Null).await.expect("started");
        self.rig.round().await;
        executors
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> (u16, Value) {
        let request = Request::builder().method(method).uri(format!("/netunicorn/gateway/{path}"));
        let request = request.header("host", "localhost").body(Body::from(body)).expect("a request");
        let (parts, body) = self.router.clone().oneshot(request).await.expect("an answer").into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        (
            parts.status.as_u16(),
            if bytes.is_empty() { json!("") } else { serde_json::from_slice(&bytes).expect("JSON") },
        )
    }

    async fn graph(&self, secret: &str, executor: &str) -> (u16, Value) {
        let path = format!("{secret}/api/v1/executor/execution_graph?executor_id={executor}");
        self.ask("GET", &path, String::new()).await
    }

    async fn post(&self, secret: &str, executor: &str, results: &[u8], state: i64) {
        let post = json!({"executor_id": executor, "results": BASE64_STANDARD.encode(results), "state": state});
        let slash = if state == 1 { "/" } else { "" };
        let path = format!("{secret}/api/v1/executor/result{slash}");
        assert_eq!(
            self.ask("POST", &path, post.to_string()).await,
            (200, Value::Null),
            "a report always counts as taken"
        );
    }

    async fn discarded(&self) -> usize {
        let mut conn = self.rig.experiments.fleet.db.read().await.expect("a connection");
        let all = events::list(&mut conn, &events::Filter::default(), 500).await.expect("read");
        all.iter().filter(|event| event.kind == "experiment.report_discarded").count()
    }
}

fn node(connector: &str, name: &str) -> Value {
    let mut deployment = deployment(name);
    deployment["node"]["properties"]["connector"] = json!(connector);
    deployment["node"].take()
}

fn order(nodes: &[(&str, &str)]) -> Order {
    let deployments: Vec<_> = nodes
        .iter()
        .map(|(connector, name)| {
            let mut deployment = deployment(name);
            deployment["node"] = node(connector, name);
            deployment
        })
        .collect();
    Order::read(&body(&deployments)).expect("it can be read")
}

#[tokio::test]
async fn an_executor_that_is_not_on_an_agent_gets_its_graph_and_its_last_report_ends_it() {
    for url in engines() {
        let (field, ada) = (Field::new(&url).await, user("ada"));
        let secret = field.secret("lab").await;
        let executors = field.running(&ada, "x", &[("lab", "a"), ("lab", "b")]).await;
        field.answers(&executors, Verb::Execute, Asked::Done).await;
        for executor in &executors {
            assert_eq!(field.graph(&secret, executor).await, (200, json!(BASE64_STANDARD.encode(GRAPH))));
        }
        field.rig.round().await;
        let stages = field.rig.detail(&ada, "x").await.deployments.into_iter().map(|it| it.stage).collect::<Vec<_>>();
        assert_eq!(stages, [Stage::Running, Stage::Running]);

        field.post(&secret, &executors[0], b"so far", 1).await;
        assert_eq!(field.gateway.write_beats().await.expect("written"), 1);
        let seen = field.rig.detail(&ada, "x").await.deployments;
        assert_eq!(seen[0].result.as_deref(), Some(&b"so far"[..]), "a heartbeat is shown");
        assert_eq!(field.graph(&secret, &executors[0]).await.0, 429, "nothing is run twice");

        field.post(&secret, &executors[0], b"the end", 2).await;
        field.post(&secret, &executors[0], b"forged later", 2).await;
        field.post(&secret, &executors[1], b"other end", 2).await;
        field.rig.round().await;
        let it = field.rig.detail(&ada, "x").await;
        assert_eq!(it.status, Status::Finished);
        let results: Vec<_> = it.deployments.iter().map(|it| it.result.as_deref().unwrap_or_default()).collect();
        assert_eq!(results, [b"the end", &b"other end"[..]]);
        field.answers(&executors, Verb::Cleanup, Asked::Done).await;
        assert_eq!(field.graph(&secret, &executors[1]).await, (200, json!("")));
        field.post(&secret, &executors[1], b"resurrected", 1).await;
        field.gateway.write_beats().await.expect("written");
        assert_eq!(field.rig.detail(&ada, "x").await.status, Status::Finished);
        assert_eq!(field.discarded().await, 1, "told of once, however often");
    }
}

#[tokio::test]
async fn who_shows_a_secret_reaches_its_own_connectors_executors_and_flags_alone() {
    for url in engines() {
        let (field, ada) = (Field::new(&url).await, user("ada"));
        let (lab, other) = (field.secret("lab").await, field.secret("field").await);
        let executors = field.running(&ada, "x", &[("lab", "a")]).await;
        field.answers(&executors, Verb::Execute, Asked::Done).await;
        let experiment = field.rig.detail(&ada, "x").await.row.id;
        for secret in [&other, &"0".repeat(32)] {
            let begun = Instant::now();
            assert_eq!(field.graph(secret, &executors[0]).await, (200, json!("")));
            assert!(begun.elapsed() >= HOLD, "it waits before it is sent away");
            field.post(secret, &executors[0], b"forged", 2).await;
            let flag = format!("{secret}/api/v1/experiment/{experiment}/flag/go");
            assert_eq!(field.ask("GET", &flag, String::new()).await, (404, Value::Null));
            assert_eq!(field.ask("POST", &format!("{flag}/increment"), String::new()).await, (404, Value::Null));
        }
        field.rig.round().await;
        assert_eq!(field.rig.detail(&ada, "x").await.deployments[0].result, None);
        assert_eq!(field.discarded().await, 2, "one a connector, and one for those that nobody knows");

        let flag = format!("{lab}/api/v1/experiment/{experiment}/flag/go");
        assert_eq!(field.ask("GET", &flag, String::new()).await, (404, Value::Null), "it was never set");
        assert_eq!(field.ask("POST", &flag, json!({"text_value": "ü", "int_value": 2}).to_string()).await.0, 200);
        assert_eq!(field.ask("POST", &format!("{flag}/increment"), String::new()).await, (200, Value::Null));
        assert_eq!(field.ask("POST", &format!("{flag}/decrement?by=5"), String::new()).await, (200, Value::Null));
        let values = json!({"text_value": "ü", "int_value": -2});
        assert_eq!(
            field.ask("GET", &format!("{flag}?wait_ms=1000&until_at_least=-2"), String::new()).await,
            (200, values)
        );
        assert_eq!(field.ask("POST", &flag, json!({"int_value": null}).to_string()).await.0, 422);
        let elsewhere = format!("{lab}/api/v1/experiment/none/flag/go");
        assert_eq!(field.ask("POST", &format!("{elsewhere}/increment"), String::new()).await.0, 404);
        assert_eq!(field.ask("GET", &format!("{lab}/health"), String::new()).await, (200, json!("OK")));
    }
}

#[tokio::test]
async fn a_graph_is_held_until_its_experiment_is_started() {
    let (field, ada) = (Field::new("sqlite:").await, user("ada"));
    let secret = field.secret("lab").await;
    field.rig.experiments.prepare(&ada, "x", &order(&[("lab", "a")])).await.expect("prepared");
    field.rig.round().await;
    let executors = field.rig.executors(&ada, "x").await;
    assert_eq!(field.graph(&secret, &executors[0]).await.0, 429, "no empty answer, which would end it");
    field.answers(&executors, Verb::Deploy, Asked::Done).await;
    let start = async {
        field.rig.experiments.start(&ada, "x", &Value::Null).await.expect("started");
        field.rig.round().await;
    };
    let (graph, ()) = tokio::join!(field.graph(&secret, &executors[0]), start);
    assert_eq!(graph, (200, json!(BASE64_STANDARD.encode(GRAPH))));
}

#[tokio::test]
async fn one_that_is_silent_is_given_up_and_its_late_report_kept() {
    for url in engines() {
        let (field, ada) = (Field::new(&url).await, user("ada"));
        let secret = field.secret("lab").await;
        let executors = field.running(&ada, "x", &[("lab", "a")]).await;
        field.answers(&executors, Verb::Execute, Asked::Done).await;
        field.graph(&secret, &executors[0]).await;
        field.rig.experiments.fleet.db.clock().shift(11 * 60_000);
        field.rig.round().await;
        let it = field.rig.detail(&ada, "x").await;
        assert_eq!((it.status, it.deployments[0].outcome), (Status::Finished, Some(Outcome::TimedOut)));
        field.post(&secret, &executors[0], b"late", 2).await;
        field.rig.round().await;
        let it = &field.rig.detail(&ada, "x").await.deployments[0];
        assert_eq!(
            (it.result.as_deref(), it.row.result_late, it.outcome),
            (Some(&b"late"[..]), 1, Some(Outcome::TimedOut))
        );
    }
}

#[tokio::test]
async fn what_is_cancelled_before_its_connector_heard_of_it_is_over_at_once() {
    for url in engines() {
        let (field, ada) = (Field::new(&url).await, user("ada"));
        field.rig.experiments.prepare(&ada, "x", &order(&[("lab", "a")])).await.expect("prepared");
        field.rig.round().await;
        field.rig.experiments.cancel(&ada, "x", &Value::Null).await.expect("cancelled");
        field.rig.round().await;
        assert_eq!(field.rig.status(&ada, "x").await, Status::Cancelled);

        let executors = field.running(&ada, "y", &[("lab", "a")]).await;
        field.answers(&executors, Verb::Execute, Asked::Done).await;
        field.rig.experiments.cancel(&ada, "y", &Value::Null).await.expect("cancelled");
        field.rig.round().await;
        assert_eq!(field.rig.status(&ada, "y").await, Status::Cancelling, "its connector has to end it");
        field.answers(&executors, Verb::Stop, Asked::Done).await;
        assert_eq!(field.rig.status(&ada, "y").await, Status::Cancelled);
    }
}

#[tokio::test]
async fn nodes_of_connectors_are_checked_and_held_as_others_are() {
    for url in engines() {
        let (field, ada, bob) = (Field::new(&url).await, user("ada"), user("bob"));
        let refused = async |user: &User, order: &Order| match field.rig.experiments.prepare(user, "y", order).await {
            Err(Refusal::Sentence(text)) => text,
            other => panic!("not refused: {other:?}"),
        };
        field.rig.experiments.prepare(&ada, "x", &order(&[("lab", "a")])).await.expect("prepared");
        assert!(refused(&bob, &order(&[("lab", "a")])).await.contains("already locked by ada"));
        assert!(refused(&bob, &order(&[("lab", "c")])).await.contains("not there"));
        assert!(refused(&bob, &order(&[("nowhere", "a")])).await.contains("connector \"nowhere\""));
        let eve = user("eve");
        let text = refused(&eve, &order(&[("lab", "a")])).await;
        assert!(text.contains("does not say its nodes") && text.contains("cannot be reached"), "{text}");
        let mut made = deployment("b");
        made["node"] = node("lab", "b");
        made["environment_definition_type"] = json!("DockerImage");
        made["environment_definition"]["image"] = Value::Null;
        let made = Order::read(&body(&[made])).expect("it can be read");
        assert!(refused(&bob, &made).await.contains("name an image"));
        let removed = field.rig.experiments.remove_connector(&ada.actor, "lab").await.expect_err("it is in use");
        assert!(removed.to_string().contains("have not ended"), "{removed}");
        field.rig.experiments.remove_connector(&ada.actor, "field").await.expect("removed");
        let mut conn = field.rig.experiments.fleet.db.read().await.expect("a connection");
        assert_eq!(store::pool(&mut conn, "field", "ada").await.expect("read"), None);
    }
}
