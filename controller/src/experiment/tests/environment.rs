use muster_pki::{hex, sha256};
use muster_proto::{KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, experiment as proto};
use prost::Message;
use serde_json::json;

use super::rig::{Rig, body, deployment, user};
use crate::{
    experiment::{
        environment::plan::{Action, Build, Host, Old, Snapshot, Told, Unused, plan, unused},
        model::{Outcome, Stage, Status},
        order::Order,
    },
    fleet::{
        desired::{self, Envelope, Report},
        model::{AgentId, Key, Phase},
    },
    platform::blobs::Blobs,
    testing::{engines, tell},
};

const DAY: i64 = 86_400_000;
const NOW: i64 = 10_000_000;

fn agent(name: &str) -> AgentId {
    AgentId(name.into())
}

/// Nodes `a` and `b` wait; `hosts` can build, those in capitals are offered for it, those with a `-` are away.
fn seen(hosts: &[&str], build: Option<Build>) -> Snapshot {
    let host = |text: &&str| {
        let name = text.trim_start_matches('-');
        Host { agent: agent(name), is_builder: name.to_uppercase() == name, is_online: !text.starts_with('-') }
    };
    let hosts = hosts.iter().map(host).collect();
    Snapshot { build, lost: 0, nodes: vec![agent("a"), agent("b")], hosts, here_since: 0, now: NOW }
}

fn by(name: &str, told: Told) -> Option<Build> {
    Some(Build { agent: agent(name), away_since: None, told })
}

#[test]
fn a_builder_builds_else_the_first_node_that_can() {
    let chosen = |hosts: &[&str]| plan(&seen(hosts, None));
    assert_eq!(chosen(&["a", "b", "X", "Y"]), Some(Action::Build(agent("X"))));
    assert_eq!(chosen(&["a", "b", "-X"]), Some(Action::Build(agent("a"))));
    assert_eq!(chosen(&["-a", "b", "c"]), Some(Action::Build(agent("b"))));
    assert_eq!(chosen(&["-a", "-b", "c"]), None, "a node that needs it not is not asked, unless it is offered");
    assert_eq!(plan(&Snapshot { nodes: vec![], ..seen(&["a"], None) }), None);
}

#[test]
fn another_builds_when_the_builder_is_away_for_long_and_home_saw_it() {
    let away = |since| Some(Build { agent: agent("a"), away_since: Some(since), told: Told::Working });
    let both = &["-a", "b"];
    assert_eq!(plan(&seen(both, away(NOW - 59_999))), None);
    assert!(matches!(plan(&seen(both, away(NOW - 60_000))), Some(Action::PassOn(_))));
    assert_eq!(plan(&seen(&["-a", "-b"], away(0))), None, "nobody else can");
    assert_eq!(plan(&Snapshot { here_since: NOW - 1, ..seen(both, away(0)) }), None);
    assert!(matches!(plan(&seen(both, by("a", Told::Gone("cut off".into())))), Some(Action::PassOn(_))));
    let often = Snapshot { lost: 2, ..seen(both, by("a", Told::Gone("cut off".into()))) };
    assert_eq!(plan(&often), Some(Action::Fail("cut off".into())), "not for ever");
}

#[test]
fn a_build_ends_with_what_it_saved_or_with_why_it_did_not() {
    let of = |told| plan(&seen(&["a", "b"], by("a", told)));
    assert_eq!(of(Told::Working), None);
    assert_eq!(of(Told::Built("d".into(), 7)), Some(Action::Keep("d".into(), 7)));
    assert_eq!(of(Told::Failed("no such base".into())), Some(Action::Fail("no such base".into())));
    assert_eq!(of(Told::Arriving(NOW - 3_599_999)), None);
    assert!(matches!(of(Told::Arriving(NOW - 3_600_000)), Some(Action::Fail(_))));
    let unwanted = |told| plan(&Snapshot { nodes: vec![], ..seen(&["a"], by("a", told)) });
    assert_eq!(unwanted(Told::Working), Some(Action::Stop));
    assert_eq!(unwanted(Told::Built("d".into(), 7)), Some(Action::Keep("d".into(), 7)), "it may be wanted again");
}

#[test]
fn what_is_old_and_not_needed_is_removed() {
    let old = |digest: &str, at: Option<&str>, used_at, is_needed| Old {
        digest: digest.into(),
        agent: at.map(agent),
        used_at,
        is_needed,
    };
    let all = [
        old("e1", Some("a"), 5, false),
        old("e2", Some("a"), 9, false),
        old("e1", Some("b"), 10, false),
        old("e3", Some("b"), 1, true),
        old("e4", None, 9, false),
        old("e5", None, 9, true),
    ];
    let at = [(agent("a"), vec!["e1".to_owned(), "e2".to_owned()])].into();
    assert_eq!(unused(&all, 10), Unused { at, here: vec!["e4".into()] });
}

/// An order of an image without a name, on each of these nodes.
fn images(nodes: &[&str]) -> Order {
    let one = |node: &&str| {
        let mut it = deployment(node);
        it["environment_definition_type"] = json!("DockerImage");
        it["environment_definition"]["commands"] = json!(["apt-get install -y tcpdump"]);
        it["environment_definition"]["build_context"] = json!({"python_version": "3.11.2"});
        it
    };
    Order::read(&body(&nodes.iter().map(one).collect::<Vec<_>>())).expect("it can be read")
}

/// A house whose nodes `lo-1` to `lo-3` have an engine.
async fn rig(url: &str) -> Rig {
    let rig = Rig::new(url).await;
    for node in ["lo-1", "lo-2", "lo-3"] {
        rig.offer(node, &["image", "shell"]).await;
    }
    rig
}

impl Rig {
    /// Builds that were sent and not withdrawn: agent and id.
    async fn builds(&self) -> Vec<(String, String)> {
        let mut conn = self.experiments.fleet.db.read().await.expect("a connection");
        let all: Vec<_> = (1..=6).map(|n| agent(&format!("lo-{n}"))).collect();
        let sent = desired::assignments(&mut conn, &all).await.expect("read").into_iter();
        let is_build = |e: &Envelope| e.wanted.key.id.starts_with("image-") && !e.wanted.digest.is_empty();
        let builds = sent.filter(|e| e.wanted.key.kind == KIND_EXPERIMENT_DEPLOYMENT && is_build(e));
        builds.map(|e| (e.agent.0, e.wanted.key.id)).collect()
    }

    /// Where the image of a node's deployment comes from.
    async fn source(&self, node: &str) -> proto::image::Source {
        let documents = self.documents(KIND_EXPERIMENT_DEPLOYMENT, node).await;
        let read = proto::Deployment::decode(documents.last().expect("it was sent").as_slice()).expect("read");
        match read.environment.and_then(|environment| environment.kind) {
            Some(proto::environment::Kind::Image(image)) => image.source.expect("a source"),
            other => panic!("{other:?}"),
        }
    }

    /// A builder says how its build ended.
    async fn built(&self, (agent, build): &(String, String), phase: Phase, result: proto::DeploymentResult) {
        let db = &self.experiments.fleet.db;
        let at = db.clock().now();
        let report = Report {
            agent: AgentId(agent.clone()),
            key: Key { kind: KIND_EXPERIMENT_DEPLOYMENT.into(), id: build.clone() },
            generation: 1,
            phase,
            conditions: vec![],
            result: result.encode_to_vec(),
            at,
            received_at: at,
            outcome: true,
            may_have_run: false,
            attempt: 1,
        };
        tell(db, report, 1_000_000 + at % 1_000_000).await;
    }

    /// A builder says that it built and saved an image; `arrives`: that is here too.
    async fn saved(&self, build: &(String, String), image: &'static [u8], arrives: bool) {
        let archive = proto::Content {
            blob: sha256(image).to_vec().into(),
            size: image.len() as u64,
            ..proto::Content::default()
        };
        let result = proto::DeploymentResult { archive: Some(archive), ..Default::default() };
        self.built(build, Phase::Succeeded, result).await;
        if arrives {
            self.arrive(build, image).await;
        }
    }

    async fn arrive(&self, (agent, build): &(String, String), image: &'static [u8]) {
        let held = [self.experiments.blobs.hold(image.into()).await.expect("held")];
        let key = Key { kind: KIND_EXPERIMENT_DEPLOYMENT.into(), id: build.clone() };
        let (held, owner) = (&held, &desired::blob_owner(&AgentId(agent.clone()), &key));
        let write = self.experiments.fleet.db.write(|mut tx| async move {
            Blobs::keep(&mut tx, held, owner).await?;
            tx.done(())
        });
        write.await.expect("kept");
    }
}

#[tokio::test]
async fn an_image_is_built_once_and_given_to_every_node_that_waits() {
    for url in engines() {
        let (rig, ada) = (rig(&url).await, user("ada"));
        rig.offer("lo-4", &["builder", "image", "shell"]).await;
        rig.experiments.prepare(&ada, "x", &images(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.round().await;
        let executors = rig.executors(&ada, "x").await;
        let builds = rig.builds().await;
        assert!(matches!(builds.as_slice(), [(agent, _)] if agent == "lo-4"), "{builds:?}");
        for seen in rig.detail(&ada, "x").await.deployments {
            assert_eq!((seen.stage, seen.step.as_str()), (Stage::Waiting, "its image, built on lo-4"));
        }
        rig.saved(&builds[0], b"an image", false).await;
        rig.round().await;
        assert_eq!(rig.sent(KIND_EXPERIMENT_DEPLOYMENT, &executors).await.len(), 0, "it is on its way");
        rig.arrive(&builds[0], b"an image").await;
        rig.round().await;
        assert_eq!(rig.sent(KIND_EXPERIMENT_DEPLOYMENT, &executors).await.len(), 2);
        let archive = proto::Content { blob: sha256(b"an image").to_vec().into(), size: 8, ..Default::default() };
        for node in ["lo-1", "lo-2"] {
            assert_eq!(rig.source(node).await, proto::image::Source::Archive(archive.clone()));
            let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
            let may = crate::fleet::testing::is_granted(&mut conn, &agent(node), &hex(&sha256(b"an image"))).await;
            assert!(may, "{node} may fetch it");
        }
        // Another experiment finds it there.
        rig.experiments.prepare(&ada, "y", &images(&["lo-3"])).await.expect("prepared");
        rig.round().await;
        assert_eq!(rig.source("lo-3").await, proto::image::Source::Archive(archive));
        assert_eq!(rig.builds().await, [], "nothing is built again, and the build is forgotten");
        let cleanup = rig.documents(KIND_EXPERIMENT_CLEANUP, "lo-4").await;
        let cleanup = proto::Cleanup::decode(cleanup[0].as_slice()).expect("read");
        assert!(cleanup.folder && cleanup.environments.is_empty(), "the image stays: {cleanup:?}");
    }
}

#[tokio::test]
async fn a_build_that_fails_ends_all_that_wait_for_it_and_is_tried_anew_when_it_is_wanted_again() {
    for url in engines() {
        let (rig, ada) = (rig(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &images(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.experiments.prepare(&ada, "y", &images(&["lo-3"])).await.expect("prepared");
        rig.round().await;
        let builds = rig.builds().await;
        assert!(matches!(builds.as_slice(), [(agent, _)] if agent == "lo-1"), "the first node: {builds:?}");
        let message = "podman build exited with 1: no such package".to_owned();
        rig.built(&builds[0], Phase::Failed, proto::DeploymentResult { message, ..Default::default() }).await;
        rig.round().await;
        for name in ["x", "y"] {
            let detail = rig.detail(&ada, name).await;
            assert_eq!(detail.status, Status::Failed);
            for seen in detail.deployments {
                let right = "its image could not be built on lo-1: podman build exited with 1: no such package";
                assert_eq!((seen.outcome, seen.row.message.as_str()), (Some(Outcome::NotDeployed), right));
                let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
                let output = crate::experiment::environment::output(&mut conn, &seen.row).await.expect("named");
                assert_eq!(output.id, builds[0].1, "the build's output is found");
            }
        }
        rig.experiments.prepare(&ada, "z", &images(&["lo-2"])).await.expect("prepared");
        rig.round().await;
        let again = rig.builds().await;
        assert!(again.len() == 1 && again[0].1 != builds[0].1, "{again:?}");
    }
}

#[tokio::test]
async fn another_node_builds_when_the_builder_goes_away_and_nobody_when_nobody_waits() {
    for url in engines() {
        let (rig, ada) = (rig(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &images(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.round().await;
        let first = rig.builds().await;
        rig.part("lo-1", 61_000).await;
        rig.round().await;
        rig.round().await;
        let second = rig.builds().await;
        assert_eq!((first[0].0.as_str(), second[0].0.as_str(), second.len()), ("lo-1", "lo-2", 1));
        rig.experiments.cancel(&ada, "x", &serde_json::Value::Null).await.expect("cancelled");
        rig.round().await;
        rig.round().await;
        assert_eq!(rig.builds().await, []);
        assert_eq!(rig.status(&ada, "x").await, Status::Cancelled);
        // A build that was sent ends as its agent says; that is forgotten.
        rig.built(&first[0], Phase::Cancelled, proto::DeploymentResult::default()).await;
        rig.round().await;
        let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
        let left = desired::ended(&mut conn, KIND_EXPERIMENT_DEPLOYMENT, "image-", 10).await.expect("read");
        assert_eq!(left, []);
    }
}

#[tokio::test]
async fn a_build_is_passed_on_only_so_often_and_the_last_is_told_to_stop_too() {
    for url in engines() {
        let (rig, ada) = (rig(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &images(&["lo-1", "lo-2", "lo-3"])).await.expect("prepared");
        rig.offer("lo-4", &["builder", "image", "shell"]).await;
        for node in ["lo-4", "lo-1", "lo-2"] {
            rig.round().await;
            rig.round().await;
            let builds = rig.builds().await;
            assert!(matches!(builds.as_slice(), [(agent, _)] if agent == node), "{node}: {builds:?}");
            rig.part(node, 61_000).await;
        }
        rig.round().await;
        assert_eq!(rig.builds().await, []);
        let detail = rig.detail(&ada, "x").await;
        let message = &detail.deployments[2].row.message;
        assert_eq!(message, "its image could not be built on lo-2: its builder is away");
        assert_eq!(detail.status, Status::Failed);
    }
}

#[tokio::test]
async fn environments_that_nobody_used_for_long_go_from_agents_and_from_home() {
    for url in engines() {
        let (rig, ada) = (rig(&url).await, user("ada"));
        rig.experiments.prepare(&ada, "x", &images(&["lo-1", "lo-2"])).await.expect("prepared");
        rig.round().await;
        rig.saved(&rig.builds().await[0], b"an image", true).await;
        rig.round().await;
        let environment = rig.detail(&ada, "x").await.deployments[0].row.environment_digest.clone();
        let keeper = format!("environment/{environment}");
        let is_kept = || async {
            let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
            !Blobs::use_of(&mut conn, &keeper).await.expect("read").is_empty()
        };
        let clock = rig.experiments.fleet.db.clock().clone();
        clock.shift(31 * DAY);
        rig.round_keeping(30 * DAY).await;
        assert!(is_kept().await, "an experiment that is not over needs it");
        for executor in rig.executors(&ada, "x").await {
            rig.not_deployed(&executor, "no room").await;
        }
        rig.round_keeping(30 * DAY).await;
        clock.shift(30 * DAY);
        rig.round_keeping(30 * DAY).await;
        assert!(is_kept().await, "its time began with the end of that experiment");
        clock.shift(2);
        rig.round_keeping(30 * DAY).await;
        for node in ["lo-1", "lo-2"] {
            let all = rig.documents(KIND_EXPERIMENT_CLEANUP, node).await;
            let mut all = all.iter().map(|it| proto::Cleanup::decode(it.as_slice()).expect("read"));
            let it = all.find(|it| !it.environments.is_empty()).expect("it is told to remove it");
            assert_eq!((hex(&it.environments[0]), it.folder), (environment.clone(), false));
        }
        rig.round_keeping(30 * DAY).await;
        assert!(!is_kept().await, "no agent has it");
        let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
        assert!(crate::experiment::environment::of(&mut conn, &[environment]).await.expect("read").is_empty());
    }
}
