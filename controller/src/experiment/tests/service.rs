use std::time::Duration;

use muster_proto::{KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};

use serde_json::Value;

use super::rig::{Rig, order, user};
use crate::{
    experiment::{
        model::{FlagChange, FlagValues, Outcome, Stage, Status, Until},
        service::Refusal,
        store,
    },
    fleet::model::Phase,
    testing::engines,
};

#[tokio::test]
async fn an_experiment_lives_from_prepare_to_its_results() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.ready(&ada, "one", &["lo-1", "lo-2"]).await;
        assert_eq!(rig.sent(KIND_EXPERIMENT_EXECUTOR, &executors).await.len(), 0, "nothing runs before it is started");
        rig.experiments.start(&ada, "one", &Value::Null).await.expect("started");
        rig.round().await;
        assert_eq!(rig.sent(KIND_EXPERIMENT_EXECUTOR, &executors).await.len(), 2);
        rig.working(&executors[0], b"half").await;
        rig.round().await;
        let detail = rig.detail(&ada, "one").await;
        assert_eq!(detail.deployments[0].result.as_deref(), Some(b"half".as_slice()), "what is known so far is shown");
        assert_eq!(rig.sizes("ada", "one").await, [Some(4), None]);
        rig.ended(&executors[0], Phase::Succeeded, b"all").await;
        rig.ended(&executors[1], Phase::Failed, b"").await;
        rig.round().await;
        let detail = rig.detail(&ada, "one").await;
        assert_eq!(detail.status, Status::Finished);
        let ends: Vec<_> = detail.deployments.iter().map(|d| (d.outcome, d.result.as_deref())).collect();
        assert_eq!(ends, [(Some(Outcome::Succeeded), Some(b"all".as_slice())), (Some(Outcome::Failed), None)]);
        assert_eq!(rig.sizes("ada", "one").await, [Some(3), None], "told of what is stored");
        assert_eq!(rig.sent(KIND_EXPERIMENT_CLEANUP, &executors).await.len(), 2, "the nodes clean up");
        let locks = store::locks(&mut rig.experiments.fleet.db.read().await.expect("a connection"), None).await;
        assert!(locks.expect("read").is_empty(), "the nodes are free");
        assert_eq!(rig.round().await.changed, 0, "there is nothing left to do");
    }
}

#[tokio::test]
async fn two_users_who_name_one_node_get_a_clear_refusal_and_no_wedge() {
    for url in engines() {
        let (rig, ada, bob) = (Rig::new(&url).await, user("ada"), user("bob"));
        rig.experiments.prepare(&ada, "hers", &order(&["lo-1", "lo-2"])).await.expect("prepared");
        let refused = rig.experiments.prepare(&bob, "his", &order(&["lo-3", "lo-2"])).await.expect_err("refused");
        assert_eq!(refused.to_string(), "Node lo-2 is already locked by ada");
        let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
        let nodes = rig.experiments.nodes(&mut conn, &bob, false).await.expect("nodes");
        let names: Vec<_> = nodes.iter().map(|n| n.node.name.as_str()).collect();
        assert_eq!(names, ["lo-3", "lo-4", "lo-5", "lo-6"], "at once, and lo-3 is still free");
        drop(conn);
        assert!(rig.experiments.prepare(&ada, "more", &order(&["lo-1"])).await.expect("her own node"));
        rig.experiments.cancel(&ada, "hers", &Value::Null).await.expect("cancelled");
        rig.round().await;
        let refused = rig.experiments.prepare(&bob, "his", &order(&["lo-1"])).await.expect_err("refused");
        assert_eq!(refused.to_string(), "Node lo-1 is already locked by ada", "another of hers holds it");
        assert!(rig.experiments.prepare(&bob, "his", &order(&["lo-2"])).await.expect("free again"));
    }
}

#[tokio::test]
async fn of_two_who_prepare_at_once_one_gets_the_node() {
    for url in engines() {
        let rig = Rig::new(&url).await;
        let users: Vec<_> = (0..8).map(|n| user(&format!("u{n}"))).collect();
        let wanted = order(&["lo-1", "lo-2", "lo-3"]);
        let tries = users.iter().map(|user| rig.experiments.prepare(user, "x", &wanted));
        let won = futures::future::join_all(tries).await.into_iter().filter(|done| matches!(done, Ok(true))).count();
        assert_eq!(won, 1);
        let locks = store::locks(&mut rig.experiments.fleet.db.read().await.expect("a connection"), None).await;
        let owners: std::collections::BTreeSet<_> = locks.expect("read").into_iter().map(|l| l.owner).collect();
        assert_eq!(owners.len(), 1);
    }
}

#[tokio::test]
async fn a_repeated_prepare_does_nothing_and_another_content_is_refused() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        assert!(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await.expect("prepared"));
        let executors = rig.executors(&ada, "x").await;
        assert!(!rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await.expect("a repeat"));
        assert_eq!(rig.executors(&ada, "x").await, executors);
        let refused = rig.experiments.prepare(&ada, "x", &order(&["lo-2"])).await.expect_err("refused");
        assert!(matches!(refused, Refusal::OtherContent(_)), "{refused}");
        assert!(
            rig.experiments.prepare(&user("bob"), "x", &order(&["lo-2"])).await.expect("names are each user's own")
        );
    }
}

#[tokio::test]
async fn a_hand_made_node_gets_nobody_past_tags_locks_or_environments() {
    for url in engines() {
        let rig = Rig::new(&url).await;
        let mut bob = user("bob");
        bob.tags = ["lab".to_owned()].into();
        assert!(rig.experiments.prepare(&bob, "a", &order(&["lo-5"])).await.expect("his tag"));
        assert!(rig.experiments.prepare(&bob, "b", &order(&["lo-1"])).await.expect("open to everybody"));
        for node in ["lo-6", "lo-99", "../etc", "länge/x"] {
            let refused = rig.experiments.prepare(&bob, "c", &order(&[node])).await.expect_err("refused");
            assert!(
                refused.to_string().starts_with(&format!("Node {node} is not there, or is not open to you")),
                "{refused}"
            );
        }
        let mut docker = order(&["lo-2"]);
        docker.deployments[0].environment.kind = crate::experiment::node::EnvironmentType::DockerImage;
        let refused = rig.experiments.prepare(&bob, "c", &docker).await.expect_err("refused");
        assert_eq!(refused.to_string(), "Environment DockerImage is not available on node lo-2; it has ShellExecution");
        let mut foreign = order(&["lo-2"]);
        foreign.deployments[0].node.properties.insert("connector".into(), "salt".into());
        let refused = rig.experiments.prepare(&bob, "c", &foreign).await.expect_err("refused");
        assert!(refused.to_string().contains("the connector \"salt\""), "{refused}");
        let mut none = order(&["lo-2"]);
        none.deployments[0].node.properties.remove("connector");
        assert!(rig.experiments.prepare(&bob, "c", &none).await.expect("a node without a connector is the fleet's"));
    }
}

#[tokio::test]
async fn a_name_of_two_nodes_is_refused_and_takes_neither() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let db = &rig.experiments.fleet.db;
        db.write(|mut tx| async move {
            sqlx::query("update fleet_agent set name = 'lo-1' where id = 'lo-2'").execute(&mut *tx).await?;
            tx.done(())
        })
        .await
        .expect("renamed");
        let refused = rig.experiments.prepare(&ada, "x", &order(&["lo-1", "lo-3"])).await.expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "Node lo-1 is the name of more than one agent; rename or remove all but one of them"
        );
        assert!(rig.experiments.prepare(&user("bob"), "y", &order(&["lo-3"])).await.expect("it was not taken"));
    }
}

#[tokio::test]
async fn cancel_wins_over_a_running_preparation() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &order(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.round().await;
        let executors = rig.executors(&ada, "x").await;
        assert_eq!(rig.experiments.cancel(&ada, "x", &Value::Null).await.expect("cancelled"), executors);
        assert_eq!(
            rig.sent(KIND_EXPERIMENT_DEPLOYMENT, &executors).await.len(),
            0,
            "withdrawn in the same transaction"
        );
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!(detail.status, Status::Cancelled, "what was never sent ends at once");
        assert!(detail.deployments.iter().all(|d| d.outcome == Some(Outcome::Cancelled)));
        assert!(matches!(
            rig.experiments.start(&ada, "x", &Value::Null).await,
            Err(Refusal::NotReady(_, Status::Cancelled))
        ));
        rig.experiments.delete(&ada, "x").await.expect("deleted");
        assert!(rig.experiments.prepare(&ada, "x", &order(&["lo-2"])).await.expect("the name is free"));
    }
}

#[tokio::test]
async fn executors_are_cancelled_alone_and_what_ended_stays() {
    for url in engines() {
        let (rig, ada, bob) = (Rig::new(&url).await, user("ada"), user("bob"));
        let executors = rig.running(&ada, "x", &["lo-1", "lo-2", "lo-3"]).await;
        rig.ended(&executors[0], Phase::Succeeded, b"r").await;
        rig.round().await;
        let refused = rig.experiments.cancel_executors(&bob, &executors, &Value::Null).await.expect_err("not his");
        assert!(matches!(refused, Refusal::NoExecutors(..)), "{refused}");
        let refused =
            rig.experiments.cancel_executors(&ada, &executors[..1], &Value::Null).await.expect_err("it has ended");
        assert!(matches!(refused, Refusal::NoExecutors(..)), "{refused}");
        let mixed = [executors[0].clone(), executors[1].clone(), "not-there".into()];
        assert_eq!(
            rig.experiments.cancel_executors(&ada, &mixed, &Value::Null).await.expect("cancelled"),
            [executors[1].clone()]
        );
        rig.ended(&executors[1], Phase::Cancelled, b"").await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!(detail.status, Status::Running);
        let stages: Vec<_> = detail.deployments.iter().map(|d| (d.stage, d.outcome)).collect();
        let right = [
            (Stage::Ended, Some(Outcome::Succeeded)),
            (Stage::Ended, Some(Outcome::Cancelled)),
            (Stage::Running, None),
        ];
        assert_eq!(stages, right);
    }
}

#[tokio::test]
async fn a_dead_node_is_given_up_and_its_late_result_is_kept_as_late() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.running(&ada, "x", &["lo-1", "lo-2"]).await;
        rig.ended(&executors[0], Phase::Succeeded, b"r").await;
        rig.part("lo-2", 9 * 60_000).await;
        rig.round().await;
        assert_eq!(rig.status(&ada, "x").await, Status::Running);
        rig.part("lo-2", 10 * 60_000).await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!((detail.status, detail.deployments[1].outcome), (Status::Finished, Some(Outcome::TimedOut)));
        assert_eq!(detail.deployments[1].row.message, "Executor timed out");
        assert_eq!(rig.sent(KIND_EXPERIMENT_EXECUTOR, &executors).await.len(), 0, "it is told to stop when it is back");
        rig.ended(&executors[1], Phase::Succeeded, b"late").await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        let late = &detail.deployments[1];
        assert_eq!((late.result.as_deref(), late.row.result_late), (Some(b"late".as_slice()), 1));
        assert_eq!(
            (detail.status, late.outcome),
            (Status::Finished, Some(Outcome::TimedOut)),
            "its end stays what it was"
        );
        rig.working(&executors[1], b"again").await;
        assert_eq!(rig.round().await.changed, 0, "nothing is brought back to life");
    }
}

#[tokio::test]
async fn a_node_that_was_removed_is_lost_and_holds_nobody_up() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.running(&ada, "x", &["lo-1", "lo-2"]).await;
        let db = &rig.experiments.fleet.db;
        db.write(|mut tx| async move {
            sqlx::query("delete from fleet_agent where id = 'lo-2'").execute(&mut *tx).await?;
            tx.done(())
        })
        .await
        .expect("removed");
        rig.ended(&executors[0], Phase::Succeeded, b"r").await;
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!((detail.status, detail.deployments[1].outcome), (Status::Finished, Some(Outcome::Lost)));
    }
}

#[tokio::test]
async fn a_result_too_large_for_a_report_ends_an_experiment_only_when_it_is_here() {
    use crate::{fleet::desired, platform::blobs::Blobs};
    use muster_proto::experiment as proto;
    use prost::Message;
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.running(&ada, "x", &["lo-1"]).await;
        let bytes = vec![7_u8; 20 << 20];
        let held = rig.experiments.blobs.hold(bytes.clone().into()).await.expect("held");
        let digest = muster_pki::sha256(&bytes);
        let content = proto::Content { blob: digest.to_vec().into(), size: bytes.len() as u64, ..Default::default() };
        let result = proto::ExecutorResult { results: Some(content), ..Default::default() }.encode_to_vec();
        rig.say(KIND_EXPERIMENT_EXECUTOR, &executors[0], Phase::Succeeded, true, result).await;
        rig.round().await;
        assert_eq!(rig.status(&ada, "x").await, Status::Running);
        let key = crate::fleet::model::Key { kind: KIND_EXPERIMENT_EXECUTOR.into(), id: executors[0].clone() };
        let (owner, held) = (desired::blob_owner(&"lo-1".into(), &key), std::slice::from_ref(&held));
        let (db, owner) = (&rig.experiments.fleet.db, &owner);
        db.write(|mut tx| async move {
            Blobs::keep(&mut tx, held, owner).await?;
            tx.done(())
        })
        .await
        .expect("stored");
        rig.round().await;
        let detail = rig.detail(&ada, "x").await;
        assert_eq!(detail.status, Status::Finished);
        assert_eq!(detail.deployments[0].result.as_ref().map(|r| r.len()), Some(bytes.len()));
    }
}

#[tokio::test]
async fn a_ready_experiment_that_is_deleted_lets_its_nodes_go() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.ready(&ada, "x", &["lo-1"]).await;
        rig.experiments.delete(&ada, "x").await.expect("deleted");
        assert_eq!(rig.sent(KIND_EXPERIMENT_CLEANUP, &executors).await.len(), 1);
        assert!(rig.experiments.prepare(&user("bob"), "y", &order(&["lo-1"])).await.expect("free"));
        let running = rig.running(&ada, "z", &["lo-2"]).await;
        let refused = rig.experiments.delete(&ada, "z").await.expect_err("refused");
        assert!(matches!(refused, Refusal::StillOpen(_, _, Status::Running)), "{refused}");
        assert_eq!(rig.sent(KIND_EXPERIMENT_EXECUTOR, &running).await.len(), 1, "and nothing was changed");
    }
}

#[tokio::test]
async fn what_a_deleted_experiment_left_goes_when_its_time_is_over() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        let executors = rig.running(&ada, "x", &["lo-1"]).await;
        rig.ended(&executors[0], Phase::Succeeded, b"r").await;
        rig.round().await;
        rig.experiments.delete(&ada, "x").await.expect("deleted");
        let db = rig.experiments.fleet.db.clone();
        let is_there = async || {
            let mut conn = db.read().await.expect("a connection");
            store::fetch_deployment(&mut conn, &executors[0].as_str().into()).await.expect("read").is_some()
        };
        rig.round().await;
        assert!(is_there().await);
        db.clock().shift(31 * 86_400_000);
        rig.round().await;
        assert!(!is_there().await);
    }
}

#[tokio::test]
async fn a_flag_is_changed_once_for_a_request_and_wakes_who_waits() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        rig.running(&ada, "x", &["lo-1"]).await;
        let it = &rig.experiments;
        let none = it.flag("ada", "x", "f", &Until::default(), Duration::ZERO).await.expect_err("unset");
        assert!(matches!(none, Refusal::NoFlag(..)), "{none}");
        let until = Until { text: None, at_least: Some(2) };
        let waiting = it.flag("ada", "x", "f", &until, Duration::from_secs(20));
        let changing = async {
            for _ in 0..2 {
                it.change_flag(&ada, "x", "f", &FlagChange::Add(1)).await.expect("added");
            }
        };
        let (found, ()) = tokio::join!(waiting, changing);
        assert_eq!(found.expect("as awaited"), FlagValues { text_value: None, int_value: 2 });
        let refused = it.change_flag(&user("bob"), "x", "f", &FlagChange::Add(1)).await.expect_err("not his");
        assert!(matches!(refused, Refusal::NoExperiment(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_prepared_is_told_apart_and_never_started() {
    for url in engines() {
        let (rig, ada) = (Rig::new(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &order(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.round().await;
        let executors = rig.executors(&ada, "x").await;
        rig.deployed(&executors[0]).await;
        rig.not_deployed(&executors[1], "pip install nothing-of-this-name: exit code 1").await;
        rig.round().await;
        rig.experiments.start(&ada, "x", &Value::Null).await.expect("started");
        rig.round().await;
        assert_eq!(rig.sent(KIND_EXPERIMENT_EXECUTOR, &executors).await, [executors[0].clone()].into());
        let detail = rig.detail(&ada, "x").await;
        let bad = &detail.deployments[1];
        assert_eq!((detail.status, bad.outcome), (Status::Running, Some(Outcome::NotDeployed)));
        assert_eq!(bad.row.message, "pip install nothing-of-this-name: exit code 1");
        rig.experiments.prepare(&ada, "y", &order(&["lo-3"])).await.expect("prepared");
        rig.round().await;
        rig.not_deployed(&rig.executors(&ada, "y").await[0], "no space").await;
        rig.round().await;
        let detail = rig.detail(&ada, "y").await;
        assert_eq!((detail.status, detail.row.why.as_str()), (Status::Failed, "no node could be prepared: no space"));
    }
}
