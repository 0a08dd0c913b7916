use muster_proto::{
    KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, experiment as proto,
};
use prost::Message;
use serde_json::json;

use super::rig::{Rig, order, user};
use crate::{
    experiment::{
        api::views,
        model::{Outcome, Stage, Status},
        service::User,
        spec::Spec,
    },
    fleet::model::Phase,
    testing::engines,
};

/// A pipeline on a node of the rack, which may move and allows a minute's silence.
fn spec() -> Spec {
    let tasks = json!([{"name": "watch", "command": ["true"]}]);
    let nodes = json!({"labels": {"location": "rack-1"}, "take": 1});
    let deployment = json!({"nodes": nodes, "keep_alive_minutes": 1, "moves": true, "tasks": tasks});
    serde_json::from_value(json!({"deployments": [deployment]})).expect("a file")
}

/// Runs it on `lo-1`; gives its executor.
async fn running(rig: &Rig, user: &User) -> String {
    rig.experiments.run(user, "x", &spec(), true).await.expect("asked for");
    rig.round().await;
    let executor = rig.executors(user, "x").await.remove(0);
    rig.deployed(&executor).await;
    for _ in ["deployed", "ready", "started"] {
        rig.round().await;
    }
    rig.working(&executor, b"").await;
    rig.round().await;
    assert_eq!(rig.detail(user, "x").await.deployments[0].stage, Stage::Running);
    executor
}

#[tokio::test]
async fn another_node_begins_anew_when_the_first_must_have_ended_it() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let first = running(&rig, &ada).await;
        let sent = rig.documents(KIND_EXPERIMENT_EXECUTOR, "lo-1").await;
        let sent = proto::Executor::decode(sent[0].as_slice()).expect("read");
        assert_eq!(sent.lease_seconds, 60, "its agent ends it by itself");
        rig.part("lo-1", 140_000).await;
        rig.round().await;
        assert_eq!(rig.executors(&ada, "x").await, std::slice::from_ref(&first));

        rig.part("lo-1", 150_000).await;
        rig.round().await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        let [old, new] = detail.deployments.as_slice() else { panic!("{detail:?}") };
        assert_eq!((old.outcome, old.row.given_up), (Some(Outcome::Moved), 1));
        assert_eq!(old.row.message, "Executor timed out; lo-2 took it over");
        assert_eq!((new.row.node_name.as_str(), new.stage, new.row.moved), ("lo-2", Stage::Deploying, 1));
        assert_ne!(new.row.id, first);
        assert_eq!(detail.status, Status::Running);
        let bob = user("bob");
        let refused = rig.experiments.prepare(&bob, "y", &order(&["lo-2"])).await.expect_err("it is taken");
        assert!(refused.to_string().contains("locked by ada"), "{refused}");

        rig.deployed(&new.row.id).await;
        rig.round().await;
        rig.round().await;
        rig.ended(&new.row.id, Phase::Succeeded, b"").await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!(detail.status, Status::Finished);
        let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
        let view = views(&mut conn, vec![detail.row]).await.expect("seen").remove(0);
        drop(conn);
        assert_eq!((view.deployments, view.succeeded, view.failed), (1, 1, 0));
        // The first node is back, and says what became of it there.
        rig.ended(&first, Phase::Cancelled, b"").await;
        rig.round().await;
        assert_eq!(rig.detail(&ada, "x").await.deployments[0].row.given_up, 0);
        assert_eq!(rig.sent(KIND_EXPERIMENT_CLEANUP, std::slice::from_ref(&first)).await.len(), 1);
        rig.part("lo-1", 0).await;
        assert!(rig.experiments.prepare(&bob, "y", &order(&["lo-1", "lo-2"])).await.expect("both are free"));
    }
}

#[tokio::test]
async fn what_its_agent_ended_with_its_lease_begins_anew_at_once_but_not_for_ever() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let mut executor = running(&rig, &ada).await;
        for moves in 0..=3 {
            let result = proto::ExecutorResult { lease_ended: true, started_ms: 1, ..Default::default() };
            rig.say(KIND_EXPERIMENT_EXECUTOR, &executor, Phase::Failed, true, result.encode_to_vec()).await;
            rig.round().await;
            rig.round().await;
            let last = rig.detail(&ada, "x").await.deployments.pop().expect("there is one");
            if moves == 3 {
                assert_eq!((last.row.id, last.outcome), (executor, Some(Outcome::TimedOut)));
                break;
            }
            assert_eq!((last.row.node_name.as_str(), last.row.moved), ("lo-1", moves + 1), "it is back, and free");
            executor = last.row.id;
            assert_eq!(rig.sent(KIND_EXPERIMENT_DEPLOYMENT, std::slice::from_ref(&executor)).await.len(), 1);
            rig.deployed(&executor).await;
            rig.round().await;
            rig.round().await;
        }
        assert_eq!(rig.status(&ada, "x").await, Status::Finished);
        assert!(rig.experiments.prepare(&user("bob"), "y", &order(&["lo-1"])).await.expect("it is let go"));
    }
}

#[tokio::test]
async fn where_no_other_node_is_free_it_is_given_up() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executor = running(&rig, &ada).await;
        rig.experiments.prepare(&user("bob"), "y", &order(&["lo-2", "lo-3"])).await.expect("taken");
        rig.part("lo-4", 1_000).await;
        rig.part("lo-1", 150_000).await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!((detail.status, detail.deployments.len()), (Status::Finished, 1));
        assert_eq!(
            (detail.deployments[0].row.id.clone(), detail.deployments[0].outcome),
            (executor, Some(Outcome::TimedOut))
        );
    }
}
