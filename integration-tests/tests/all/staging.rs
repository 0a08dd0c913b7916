//! Stagings on hosts that play their wrappers.

use std::sync::Arc;

use muster_agent::host::Program;
use muster_controller::{
    error::Error,
    fleet::model::{Class, Labels},
    platform::events,
    staging::{
        api::{self, OperationView},
        model::{Level, OperationId, Outcome, Override, ProjectSpec, SettingsChange, Status},
        service::{NewStaging, Which},
    },
    web::{Paging, paging::PagingQuery},
};
use muster_integration_tests::{
    World,
    host::Play,
    world::{Agent, engines, eventually, tester},
};
use tokio::sync::Notify;

pub const HELLO: Which<'static> = Which { project: "shop", name: "hello" };

/// The project of these stories.
pub fn project() -> ProjectSpec {
    ProjectSpec {
        base_domain: "shop.test".into(),
        namespace: "shop".into(),
        wrappers: "test".into(),
        agents: Labels::from([("pool".to_owned(), "a".to_owned())]),
        check_interval_seconds: 1,
        pending_limit_seconds: 60,
        timeout_seconds: 60,
        memory_bytes: 0,
        file_bytes: 0,
        archived_retention_days: None,
    }
}

pub async fn becomes(world: &World, status: Status) {
    is(world, HELLO, status).await;
}

/// Waits until a staging is in a status, and nothing of it is pending.
pub async fn is(world: &World, which: Which<'_>, status: Status) {
    let why = format!("{} is {status:?}", which.name);
    eventually(&why, || async {
        let found = world.home.staging.status(which).await.expect("read");
        (found == Some((status, false))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_lives_its_life() {
    for engine in engines() {
        let world = World::on(engine).await;
        let agent = world.agent("host-1", Class::StagingHost, &[("pool", "a")]).await;
        let staging = &world.home.staging;
        staging.save_project(&tester(), "shop", &project(), None).await.expect("a project");
        let new = NewStaging { project: "shop".into(), name: "hello".into(), tag: "v1".into(), overrides: vec![] };
        staging.create(&tester(), &new).await.expect("created");
        becomes(&world, Status::Running).await;
        staging.delete(&tester(), HELLO).await.expect("archived");
        becomes(&world, Status::Archived).await;
        staging.restore(&tester(), HELLO).await.expect("restored");
        becomes(&world, Status::Running).await;
        staging.delete(&tester(), HELLO).await.expect("archived again");
        becomes(&world, Status::Archived).await;
        staging.cleanup(&tester(), HELLO).await.expect("cleaned up");
        eventually("hello is gone", || async {
            world.home.staging.status(HELLO).await.expect("read").is_none().then_some(())
        })
        .await;
        assert_eq!((agent.host.count("create"), agent.host.count("delete"), agent.host.count("cleanup")), (2, 2, 1));
    }
}

/// A house with a project `shop` and one host.
pub async fn shop(world: &World) -> Agent {
    let agent = world.agent("host-1", Class::StagingHost, &[("pool", "a")]).await;
    world.home.staging.save_project(&tester(), "shop", &project(), None).await.expect("a project");
    agent
}

pub async fn create(world: &World) -> OperationId {
    world.home.staging.create(&tester(), &hello(vec![])).await.expect("created")
}

fn hello(overrides: Vec<Override>) -> NewStaging {
    NewStaging { project: "shop".into(), name: "hello".into(), tag: "v1".into(), overrides }
}

async fn operation(world: &World, id: &OperationId) -> OperationView {
    eventually("the operation ends", || async {
        let found = api::find(&world.home.staging, id).await.expect("an operation");
        found.outcome.is_some().then_some(found)
    })
    .await
}

async fn output(world: &World, id: &OperationId, stream: &str) -> String {
    let (mut text, mut query) = (String::new(), PagingQuery::default());
    loop {
        let paging = Paging::try_from(query).expect("a cursor");
        let page = api::output(&world.home.staging, id, stream, &paging).await.expect("a page of the log");
        text.extend(page.items.into_iter().filter_map(|p| p.text));
        let Some(next) = page.next else { return text };
        query = PagingQuery { cursor: Some(next), limit: None };
    }
}

fn set(level: Level, key: &str, value: &str, secret: bool) -> Override {
    Override { level, key: key.into(), value: value.into(), secret }
}

/// Runs of one wrapper that go on until they are let go.
pub fn holding(wrapper: &'static str) -> (impl Fn(&Program) -> Play + Send + Sync + 'static, Arc<Notify>) {
    let until = Arc::new(Notify::new());
    let held = until.clone();
    let play = move |program: &Program| match program.path.ends_with(wrapper) {
        true => Play { until: Some(held.clone()), ..Play::default() },
        false => Play::default(),
    };
    (play, until)
}

pub async fn running(agent: &Agent, wrapper: &str) {
    eventually("the wrapper runs", || async { (agent.host.count(wrapper) > 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrapper_gets_the_contracts_arguments_and_secrets_stay_out_of_sight() {
    let world = World::new().await;
    let agent = shop(&world).await;
    let overrides = vec![
        set(Level::Staging, "replicas", "2", false),
        set(Level::App, "PASSWORD", "hunter2-is-secret", true),
        set(Level::App, "COLOUR", "blue", false),
    ];
    world.home.staging.create(&tester(), &hello(overrides)).await.expect("created");
    becomes(&world, Status::Running).await;
    let run = agent.host.runs().into_iter().find(|p| p.path.ends_with("create")).expect("it ran");
    let expected = "--project-name shop --base-domain shop.test --namespace shop --name hello --tag v1 \
                    --app-env-override COLOUR=blue --app-env-override PASSWORD=hunter2-is-secret \
                    --staging-override replicas=2";
    assert_eq!(run.args.join(" "), expected);
    let view = api::show(&world.home.staging, HELLO).await.expect("a staging");
    let events = {
        let mut conn = world.home.fleet.db.read().await.expect("a connection");
        events::list(&mut conn, &events::Filter::default(), 500).await.expect("listed")
    };
    let shown = format!("{}{}", serde_json::to_string(&view).unwrap(), serde_json::to_string(&events).unwrap());
    assert!(shown.contains("COLOUR") && !shown.contains("hunter2"), "secrets are write-only");
    let file = std::fs::read(world.dir.path().join("muster.db")).expect("read");
    let journal = std::fs::read(world.dir.path().join("muster.db-wal")).unwrap_or_default();
    let is_there = |bytes: &[u8]| bytes.windows(7).any(|w| w == b"hunter2");
    assert!(!is_there(&file) && !is_there(&journal), "nor do they lie in the database in clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_create_is_a_failure_at_once_and_says_why() {
    let world = World::new().await;
    let agent = shop(&world).await;
    agent.host.play(|program| match program.path.ends_with("create") {
        true => Play::exit(3, "pulling image\nno such image: shop:v1\n"),
        false => Play::exit(1, ""),
    });
    let id = create(&world).await;
    becomes(&world, Status::Failure).await;
    let ended = operation(&world, &id).await;
    assert_eq!((ended.outcome, ended.exit_code), (Some(Outcome::Failed), Some(3)));
    assert!(ended.message.contains("no such image: shop:v1"), "{}", ended.message);
    eventually("its output is stored", || async {
        (output(&world, &id, "stderr").await == "pulling image\nno such image: shop:v1\n").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tag_changes_nothing() {
    let world = World::new().await;
    let agent = shop(&world).await;
    create(&world).await;
    becomes(&world, Status::Running).await;
    agent.host.has("tag_check", true);
    agent.host.play(|program| match program.path.ends_with("tag_check") {
        true => Play::exit(1, "there is no tag v9"),
        false => Play::default(),
    });
    let change = SettingsChange { tag: Some("v9".into()), ..SettingsChange::default() };
    let id = world.home.staging.update(&tester(), HELLO, &change, None).await.expect("accepted");
    let ended = operation(&world, &id).await;
    assert_eq!(ended.outcome, Some(Outcome::Refused));
    assert!(ended.message.contains("there is no tag v9"), "{}", ended.message);
    becomes(&world, Status::Running).await;
    let view = api::show(&world.home.staging, HELLO).await.expect("a staging");
    assert_eq!((view.settings.tag.as_str(), agent.host.count("update")), ("v1", 0));
    let new = NewStaging { name: "other".into(), ..hello(vec![]) };
    let id = world.home.staging.create(&tester(), &new).await.expect("accepted");
    assert_eq!(operation(&world, &id).await.outcome, Some(Outcome::Refused));
    let other = Which { project: "shop", name: "other" };
    assert_eq!(world.home.staging.status(other).await.expect("read"), None, "it never came to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operation_is_refused_while_one_is_pending() {
    let world = World::new().await;
    let agent = shop(&world).await;
    let (play, until) = holding("create");
    agent.host.play(play);
    create(&world).await;
    running(&agent, "create").await;
    let refused = world.home.staging.delete(&tester(), HELLO).await.expect_err("refused").to_string();
    assert!(refused.contains("create is pending") && refused.contains("user/tester"), "{refused}");
    let again = world.home.staging.create(&tester(), &hello(vec![])).await.expect_err("refused").to_string();
    assert!(again.contains("exists already"), "{again}");
    until.notify_one();
    becomes(&world, Status::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_operation_is_cancelled_by_the_hosts_hand() {
    let world = World::new().await;
    let agent = shop(&world).await;
    agent.host.play(holding("create").0);
    let id = create(&world).await;
    running(&agent, "create").await;
    world.home.staging.cancel(&tester(), HELLO).await.expect("accepted");
    assert_eq!(operation(&world, &id).await.outcome, Some(Outcome::Cancelled));
    becomes(&world, Status::Failure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_comes_too_late_is_not_started() {
    let world = World::new().await;
    let mut agent = shop(&world).await;
    agent.stop().await;
    world.gone(&agent).await;
    let id = create(&world).await;
    world.clock.shift(61_000);
    becomes_while_pending(&world, Status::Failure).await;
    agent.host.skew_clock(61_000);
    agent.start();
    let ended = operation(&world, &id).await;
    assert_eq!((ended.outcome, agent.host.count("create")), (Some(Outcome::Late), 0));
}

async fn becomes_while_pending(world: &World, status: Status) {
    eventually("the limit passes", || async {
        let found = world.home.staging.status(HELLO).await.expect("read");
        found.is_some_and(|(s, _)| s == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_reached_while_home_was_away_comes_home_and_nothing_runs_twice() {
    for engine in engines() {
        let mut world = World::on(engine).await;
        let agent = shop(&world).await;
        let (play, until) = holding("create");
        agent.host.play(play);
        let id = create(&world).await;
        running(&agent, "create").await;
        agent.cable.cut();
        world.gone(&agent).await;
        until.notify_one();
        world.restart_home().await;
        agent.cable.mend();
        let ended = operation(&world, &id).await;
        assert_eq!((ended.outcome, agent.host.count("create")), (Some(Outcome::Succeeded), 1));
        becomes(&world, Status::Running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_ends_what_was_under_way_as_interrupted() {
    let world = World::new().await;
    let mut agent = shop(&world).await;
    agent.host.play(holding("create").0);
    let id = create(&world).await;
    running(&agent, "create").await;
    eventually("home knows that it runs", || async {
        api::find(&world.home.staging, &id).await.expect("an operation").started_at
    })
    .await;
    agent.kill().await;
    for entry in std::fs::read_dir(&agent.state).expect("read") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ledger")) {
            std::fs::remove_file(path).expect("removed");
        }
    }
    agent.start();
    let ended = operation(&world, &id).await;
    assert_eq!((ended.outcome, agent.host.count("create")), (Some(Outcome::Interrupted), 1));
    assert!(ended.message.contains("ledger"), "{}", ended.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cut_off_in_the_middle_reports_its_work_as_interrupted() {
    let world = World::new().await;
    let mut agent = shop(&world).await;
    agent.host.play(holding("create").0);
    let id = create(&world).await;
    running(&agent, "create").await;
    agent.kill().await;
    agent.start();
    let ended = operation(&world, &id).await;
    assert_eq!((ended.outcome, agent.host.count("create")), (Some(Outcome::Interrupted), 1));
    becomes(&world, Status::Failure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_no_text_and_has_no_end_of_line_is_kept() {
    let world = World::new().await;
    let agent = shop(&world).await;
    let long = [b"\0\xff".to_vec(), vec![b'x'; 12 * 1024 * 1024], b"the end".to_vec()].concat();
    let said = long.clone();
    agent.host.play(move |program| match program.path.ends_with("create") {
        true => Play { stdout: said.clone(), ..Play::default() },
        false => Play::default(),
    });
    let id = create(&world).await;
    becomes(&world, Status::Running).await;
    eventually("head and tail are stored and read, page by page", || async {
        let text = output(&world, &id, "stdout").await;
        (text.starts_with("\0\u{fffd}xx") && text.ends_with("xxthe end") && text.len() < 11 * 1024 * 1024).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_what_would_be_right() {
    let world = World::new().await;
    let staging = &world.home.staging;
    let refused = |error: Error| error.to_string();
    let unknown = staging.create(&tester(), &hello(vec![])).await.map_err(refused);
    assert!(unknown.as_ref().is_err_and(|t| t.contains("no project named \"shop\"")), "{unknown:?}");
    let _agent = shop(&world).await;
    let cases = [
        (NewStaging { name: "Hello".into(), ..hello(vec![]) }, "small letters"),
        (NewStaging { tag: String::new(), ..hello(vec![]) }, "tag"),
        (hello(vec![set(Level::App, "A=B", "c", false)]), "overrides[0].key"),
        (hello(vec![set(Level::App, "A", "\0", false)]), "overrides[0].value"),
    ];
    for (new, word) in cases {
        let text = staging.create(&tester(), &new).await.map_err(refused).expect_err("refused");
        assert!(text.contains(word), "{text}");
    }
    let elsewhere = ProjectSpec { agents: Labels::from([("pool".to_owned(), "z".to_owned())]), ..project() };
    staging.save_project(&tester(), "far", &elsewhere, None).await.expect("a project");
    let text = staging
        .create(&tester(), &NewStaging { project: "far".into(), ..hello(vec![]) })
        .await
        .map_err(refused)
        .expect_err("refused");
    assert!(text.contains("pool=z"), "{text}");
    let odd = ProjectSpec { wrappers: "nowhere".into(), ..project() };
    staging.save_project(&tester(), "odd", &odd, None).await.expect("a project");
    let text = staging
        .create(&tester(), &NewStaging { project: "odd".into(), ..hello(vec![]) })
        .await
        .map_err(refused)
        .expect_err("refused");
    assert!(text.contains("[staging.wrappers.nowhere]"), "{text}");
    assert_eq!(staging.status(HELLO).await.expect("read"), None, "nothing half-done remains");
}
