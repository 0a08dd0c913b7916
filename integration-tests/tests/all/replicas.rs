//! Two controllers over one database, with agents on either. PostgreSQL alone: SQLite is for one controller.

use std::{
    io::{BufRead, BufReader},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use muster_agent::host::Program;
use muster_controller::{
    fleet::model::{Class, Labels},
    staging::model::Status,
};
use muster_integration_tests::{
    World,
    host::Play,
    world::{Agent, Home, engines, eventually, tester},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    session::is_told,
    staging::{HELLO, becomes, create, holding, project, running},
};

/// Well below the pass every thirty seconds that repairs what was not heard, and below the loops' own five.
const QUICKLY: Duration = Duration::from_secs(3);

/// A house of two replicas with a project; none where there is no PostgreSQL.
async fn replicas() -> Option<(World, Home)> {
    let Some(server) = engines().into_iter().flatten().next() else {
        eprintln!("NOT TESTED: replicas share a PostgreSQL, and MUSTER_TEST_POSTGRES names none");
        return None;
    };
    let world = World::on(Some(server)).await;
    let other = world.replica("home-b").await;
    world.home.staging.save_project(&tester(), "shop", &project(), None).await.expect("a project");
    Some((world, other))
}

/// An agent that dials these replicas, in this order.
async fn agent(world: &World, homes: &[&Home]) -> Agent {
    let labels = Labels::from([("pool".to_owned(), "a".to_owned())]);
    let token = world.invite(Class::StagingHost, &labels).await;
    let mut agent = world.joined("host-1", &token).await.expect("joined");
    dials(&mut agent, homes);
    agent.start();
    homes[0].has(&agent).await;
    agent
}

fn dials(agent: &mut Agent, homes: &[&Home]) {
    let homes = homes.iter().map(|home| home.address.to_string()).collect();
    agent.configure(|config| config.homes = homes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_reaches_an_agent_at_the_other_at_once() {
    let Some((world, other)) = replicas().await else { return };
    let agent = agent(&world, &[&other]).await;
    for wrapper in ["create", "delete", "cleanup"] {
        let begun = Instant::now();
        match wrapper {
            "create" => drop(create(&world).await),
            "delete" => drop(world.home.staging.delete(&tester(), HELLO).await.expect("taken")),
            _ => drop(world.home.staging.cleanup(&tester(), HELLO).await.expect("taken")),
        }
        running(&agent, wrapper).await;
        assert!(begun.elapsed() < QUICKLY, "{wrapper} began after {:?}", begun.elapsed());
        match wrapper {
            "create" => becomes(&world, Status::Running).await,
            "delete" => becomes(&world, Status::Archived).await,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_moves_on_when_its_replica_drains_or_is_killed_and_nothing_runs_twice() {
    for is_killed in [false, true] {
        let Some((mut world, other)) = replicas().await else { return };
        let agent = agent(&world, &[&world.home, &other]).await;
        let (play, until) = holding("create");
        agent.host.play(play);
        create(&world).await;
        running(&agent, "create").await;
        if is_killed {
            world.home.kill()
        } else {
            world.home.stop().await
        }
        other.has(&agent).await;
        until.notify_one();
        eventually("hello is Running", || async {
            let found = other.staging.status(HELLO).await.expect("read");
            (found == Some((Status::Running, false))).then_some(())
        })
        .await;
        assert_eq!(agent.host.count("create"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_one_replica_cuts_the_stream_at_the_other_within_a_second() {
    let Some((world, other)) = replicas().await else { return };
    let agent = agent(&world, &[&other]).await;
    let begun = Instant::now();
    world.home.fleet.revoke_agent(&tester(), &agent.id, "lost laptop").await.expect("revoked");
    eventually("the stream is cut", || async { other.fleet.registry.line(&agent.id).is_none().then_some(()) }).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    is_told(&agent, "REASON_REVOKED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_at_one_replica_is_held_off_while_the_original_lives_at_the_other() {
    let Some((world, other)) = replicas().await else { return };
    let mut agent = agent(&world, &[&world.home]).await;
    is_told(&agent, "\"connected\":true").await;
    agent.stop().await;
    let mut clone = agent.clone_to("host-2");
    agent.start();
    world.home.has(&agent).await;
    is_told(&agent, "\"connected\":true").await;
    let line = world.home.fleet.registry.line(&agent.id).expect("a line");
    dials(&mut clone, &[&other]);
    clone.start();
    is_told(&clone, "REASON_CLONE").await;
    let same = world.home.fleet.registry.line(&agent.id).expect("still a line");
    assert_eq!(same.epoch(), line.epoch(), "the original was not disturbed");
    assert!(other.fleet.registry.line(&agent.id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_events_at_one_replica_sees_those_of_the_other() {
    let Some((world, other)) = replicas().await else { return };
    let password = world.home.first_admin.clone().expect("a first start");
    let (api, heard) = (other.api.clone(), mpsc::channel());
    let said = heard.0;
    std::thread::spawn(move || {
        let log_in = json!({"name": "admin", "password": password, "want": "token"}).to_string();
        let login = ureq::post(format!("{api}/api/v1/login")).header("content-type", "application/json");
        let text = login.send(log_in).expect("logged in").body_mut().read_to_string().expect("read");
        let token: Value = serde_json::from_str(&text).expect("JSON");
        let follow = ureq::get(format!("{api}/api/v1/events"))
            .header("accept", "text/event-stream")
            .header("authorization", format!("Bearer {}", token["token"].as_str().expect("a token")));
        let body = follow.call().expect("followed").into_body();
        said.send(String::new()).expect("heard");
        for line in BufReader::new(body.into_reader()).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    heard.1.recv_timeout(QUICKLY * 3).expect("the follower is there");
    let begun = Instant::now();
    world.invite(Class::StagingHost, &Labels::new()).await;
    while !heard.1.recv_timeout(QUICKLY).expect("the event").contains("invitation.created") {}
    assert!(begun.elapsed() < QUICKLY, "heard after {:?}", begun.elapsed());
}

/// Asks a replica's API; status and answer.
fn call(api: &str, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let http = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let request = ureq::http::Request::builder().method(method).uri(format!("{api}{path}"));
    let request = request.header("content-type", "application/json");
    let request = if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    tokio::task::block_in_place(|| {
        let mut answer = http.run(request.body(body).expect("a request")).expect("answered");
        let text = answer.body_mut().read_to_string().expect("read");
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or_default())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_goes_on_at_another_replica_and_its_task_runs_once() {
    let Some((mut world, other)) = replicas().await else { return };
    let token = world.invite(Class::ExperimentNode, &Labels::new()).await;
    let mut node = world.joined("node-1", &token).await.expect("joined");
    dials(&mut node, &[&world.home, &other]);
    let until = Arc::new(Notify::new());
    let held = until.clone();
    let is_task = |program: &Program| program.env.iter().any(|(name, _)| name == "MUSTER_TASK");
    node.host.play(move |program| Play { until: is_task(program).then(|| held.clone()), ..Play::default() });
    node.start();
    world.home.has(&node).await;
    let tasks = || node.host.runs().iter().filter(|program| is_task(program)).count();

    let password = world.home.first_admin.clone().expect("a first start");
    let log_in = json!({"name": "admin", "password": password.trim()});
    let (_, session) = call(&world.home.api, "", "POST", "/api/v1/login", &log_in);
    let token = session["token"].as_str().expect("a token").to_owned();
    let spec = json!({"deployments": [{"nodes": {"take": 1}, "tasks": [{"name": "hold", "script": "true"}]}]});
    let made = json!({"name": "moving", "spec": spec});
    eventually("the node can be used", || async {
        let (status, _) = call(&world.home.api, &token, "POST", "/api/v1/experiment/experiments", &made);
        (status == 201).then_some(())
    })
    .await;
    eventually("the task runs", || async { (tasks() == 1).then_some(()) }).await;
    world.home.kill();
    other.has(&node).await;
    until.notify_one();
    eventually("the other replica sees its end", || async {
        let path = "/api/v1/experiment/experiments/moving";
        let (_, told) = call(&other.api, &token, "GET", path, &Value::Null);
        (told["status"] == "finished" && told["succeeded"] == 1).then_some(())
    })
    .await;
    assert_eq!(tasks(), 1);
}
