use muster_proto::{KIND_STAGING_OPERATION, KIND_STAGING_WATCH, staging as proto};
use prost::Message;

use super::plan::spec;
use crate::{
    error::Error,
    fleet::{
        desired::{self, Report},
        model::{Class, Key, Phase},
        service::Removal,
    },
    platform::{
        events::{self, Actor, Source},
        reconcile::Reconciler,
    },
    staging::{
        Reconcile, Staging,
        model::{Level, OperationId, Override, ProjectSpec, SettingsChange},
        service::{NewStaging, Which},
        store::{self, OperationRow, StagingRow},
    },
    testing::{engines, fresh, house, settle_agent, tell},
};

const DAY: i64 = 86_400_000;
const WEB: Which<'_> = Which { project: "shop", name: "web" };

fn ada() -> Actor {
    Actor { name: "user/ada".into(), source: Source::Cli }
}

/// Hosts `a` and `b`, and the project `shop`.
async fn home(url: &str) -> Staging {
    let staging = Staging { fleet: house(&fresh(url).await, "r1").await };
    for id in ["a", "b"] {
        settle_agent(&staging.fleet, id, Class::StagingHost, &[]).await;
    }
    staging.create_project(&ada(), "shop", &spec()).await.expect("a project");
    staging
}

fn new(name: &str) -> NewStaging {
    let secret = Override { level: Level::App, key: "TOKEN".into(), value: "hunter2hunter2".into(), secret: true };
    NewStaging { project: "shop".into(), name: name.into(), tag: "v1".into(), overrides: vec![secret] }
}

fn tag(tag: &str) -> SettingsChange {
    SettingsChange { tag: Some(tag.into()), ..SettingsChange::default() }
}

async fn find(staging: &Staging, name: &str) -> Option<StagingRow> {
    let mut conn = staging.fleet.db.read().await.expect("a connection");
    store::fetch_staging(&mut conn, "shop", name).await.expect("read")
}

async fn row(staging: &Staging) -> StagingRow {
    find(staging, "web").await.expect("is there")
}

async fn operation(staging: &Staging, id: &OperationId) -> OperationRow {
    let mut conn = staging.fleet.db.read().await.expect("a connection");
    store::fetch_operation(&mut conn, id).await.expect("read").expect("is there")
}

/// Looks after stagings until nothing is left to do.
async fn reconcile(staging: &Staging) {
    let mut it = Reconcile { staging: staging.clone() };
    for _ in 0..5 {
        let round = it.reconcile().await.expect("a round");
        assert_eq!(round.failed, []);
        if round.changed == 0 {
            return;
        }
    }
    panic!("there is always something to do");
}

async fn say(staging: &Staging, kind: &str, id: &str, phase: Phase, result: Vec<u8>) {
    let db = &staging.fleet.db;
    let mut conn = db.read().await.expect("a connection");
    let found = desired::assignments_of_kind(&mut conn, kind, &[id.into()]).await.expect("read");
    drop(conn);
    let it = found.first().expect("it was put");
    let report = Report {
        agent: it.agent.clone(),
        key: Key { kind: kind.into(), id: id.into() },
        generation: it.wanted.generation,
        phase,
        conditions: vec![],
        result,
        at: db.clock().now(),
        received_at: 0,
        outcome: kind == KIND_STAGING_OPERATION,
        may_have_run: false,
        attempt: 1,
    };
    // Numbers only have to grow.
    tell(db, report, it.wanted.generation * 10 + i64::from(phase == Phase::Failed)).await;
    reconcile(staging).await;
}

async fn ends(staging: &Staging, id: &OperationId, exit_code: i32, message: &str) {
    let phase = if exit_code == 0 { Phase::Succeeded } else { Phase::Failed };
    let result = proto::OperationResult { exit_code: Some(exit_code), message: message.into(), ..Default::default() };
    say(staging, KIND_STAGING_OPERATION, &id.0, phase, result.encode_to_vec()).await;
}

async fn checks(staging: &Staging, passed: bool) {
    let result = proto::WatchResult { passed, message: "checked".into(), ..Default::default() };
    say(staging, KIND_STAGING_WATCH, &row(staging).await.id, Phase::Applied, result.encode_to_vec()).await;
}

async fn status(staging: &Staging) -> String {
    row(staging).await.status
}

async fn running(staging: &Staging) {
    let id = staging.create(&ada(), &new("web")).await.expect("begun");
    ends(staging, &id, 0, "").await;
    checks(staging, true).await;
    assert_eq!(status(staging).await, "Running");
}

async fn archived(staging: &Staging) {
    running(staging).await;
    let id = staging.delete(&ada(), WEB).await.expect("begun");
    ends(staging, &id, 0, "").await;
    checks(staging, true).await;
    assert_eq!(status(staging).await, "Archived");
}

fn conflict<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.expect_err("refused") {
        Error::Conflict(text) => text,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_staging_lives_from_create_to_cleanup_on_evidence_alone() {
    for url in engines() {
        let staging = home(&url).await;
        let id = staging.create(&ada(), &new("web")).await.expect("begun");
        reconcile(&staging).await;
        assert_eq!(status(&staging).await, "CreatePending");
        ends(&staging, &id, 0, "").await;
        assert_eq!(status(&staging).await, "CreatePending", "a check has yet to pass");
        checks(&staging, true).await;
        assert_eq!(status(&staging).await, "Running");
        let id = staging.update(&ada(), WEB, &tag("v2"), None).await.expect("begun");
        ends(&staging, &id, 3, "no such image").await;
        let it = row(&staging).await;
        assert_eq!((it.status.as_str(), it.status_why.as_str(), it.tag.as_str()), ("Failure", "no such image", "v2"));
        assert_eq!(operation(&staging, &id).await.exit_code, Some(3));
        let id = staging.delete(&ada(), WEB).await.expect("begun");
        ends(&staging, &id, 0, "").await;
        assert_eq!(status(&staging).await, "DeletePending");
        checks(&staging, true).await;
        assert_eq!(status(&staging).await, "Archived");
        let id = staging.restore(&ada(), WEB).await.expect("begun");
        ends(&staging, &id, 0, "").await;
        checks(&staging, true).await;
        assert_eq!((status(&staging).await, row(&staging).await.tag), ("Running".into(), "v2".into()));
        let id = staging.delete(&ada(), WEB).await.expect("begun");
        ends(&staging, &id, 0, "").await;
        checks(&staging, true).await;
        let id = staging.cleanup(&ada(), WEB).await.expect("begun");
        ends(&staging, &id, 1, "disk busy").await;
        assert_eq!(status(&staging).await, "Archived", "a failed cleanup loses nothing");
        let id = staging.cleanup(&ada(), WEB).await.expect("begun again");
        ends(&staging, &id, 0, "").await;
        assert!(find(&staging, "web").await.is_none());
        assert_eq!(operation(&staging, &id).await.outcome, "succeeded", "the log outlives its staging");
    }
}

#[tokio::test]
async fn stagings_are_placed_by_fewest_then_by_id_and_a_name_is_taken_once() {
    for url in engines() {
        let staging = home(&url).await;
        for (name, host) in [("one", "a"), ("two", "b"), ("three", "a")] {
            staging.create(&ada(), &new(name)).await.expect("begun");
            assert_eq!(find(&staging, name).await.expect("is there").agent_id.as_deref(), Some(host));
        }
        let text = conflict(staging.create(&ada(), &new("one")).await);
        assert!(text.contains("shop/one: the staging is CreatePending: it exists already; update it"), "{text}");
    }
}

#[tokio::test]
async fn an_operation_while_one_is_pending_is_refused_with_what_since_when_and_by_whom() {
    for url in engines() {
        let staging = home(&url).await;
        let id = staging.create(&ada(), &new("web")).await.expect("begun");
        let text = conflict(staging.delete(&ada(), WEB).await);
        let right = format!("create is pending, asked for 0 s ago by user/ada ({id})");
        assert!(text.starts_with(&right), "{text}");
        let stale = staging.update(&ada(), WEB, &tag("v2"), Some(99)).await.expect_err("refused");
        assert!(matches!(stale, Error::Stale), "{stale}");
        assert_eq!(row(&staging).await.tag, "v1");
    }
}

#[tokio::test]
async fn a_secret_stands_nowhere_in_clear() {
    for url in engines() {
        let staging = home(&url).await;
        running(&staging).await;
        let it = row(&staging).await;
        let mut conn = staging.fleet.db.read().await.expect("a connection");
        let events = events::list(&mut conn, &events::Filter::default(), 100).await.expect("listed");
        let documents: Vec<(Vec<u8>,)> =
            sqlx::query_as("select sealed from fleet_document").fetch_all(&mut *conn).await.expect("read");
        let mut places: Vec<Vec<u8>> = documents.into_iter().map(|(d,)| d).collect();
        assert!(places.len() >= 2, "the operation and the watch");
        places.extend([it.settings_sealed.clone(), it.settings_masked.into()]);
        places.extend(events.iter().map(|e| format!("{e:?}").into_bytes()));
        assert!(places.iter().all(|p| !p.windows(7).any(|w| w == b"hunter2")));
        let settings = staging.unseal(&it.settings_sealed).expect("opens");
        assert_eq!(settings.overrides[0].value, "hunter2hunter2", "and it is kept");
    }
}

#[tokio::test]
async fn a_queued_operation_that_is_cancelled_ends_at_once() {
    for url in engines() {
        let staging = home(&url).await;
        let id = staging.create(&ada(), &new("web")).await.expect("begun");
        assert_eq!(staging.cancel(&ada(), WEB).await.expect("cancelled"), id);
        reconcile(&staging).await;
        let it = operation(&staging, &id).await;
        assert_eq!((it.outcome.as_str(), it.cancelled_by.as_str()), ("cancelled", "user/ada"));
        assert_eq!(status(&staging).await, "Failure");
        assert!(conflict(staging.cancel(&ada(), WEB).await).contains("nothing is pending"));
    }
}

#[tokio::test]
async fn a_staging_that_is_forgotten_is_dropped_with_its_operation() {
    for url in engines() {
        let staging = home(&url).await;
        let id = staging.create(&ada(), &new("web")).await.expect("begun");
        staging.forget(&ada(), WEB).await.expect("forgotten");
        assert!(find(&staging, "web").await.is_none());
        assert_eq!(operation(&staging, &id).await.outcome, "lost");
        staging.create(&ada(), &new("web")).await.expect("its name is free");
    }
}

#[tokio::test]
async fn an_operation_whose_host_is_removed_ends_as_lost() {
    for url in engines() {
        let staging = home(&url).await;
        let id = staging.create(&ada(), &new("web")).await.expect("begun");
        let removal = Removal { agent: "a".into(), force: true };
        staging.fleet.remove_agent(&ada(), &removal).await.expect("removed");
        reconcile(&staging).await;
        assert_eq!(operation(&staging, &id).await.outcome, "lost");
        assert_eq!((status(&staging).await, row(&staging).await.operation_id), ("Failure".into(), String::new()));
        staging.relocate(&ada(), WEB, &"b".into(), None).await.expect("it can be moved");
    }
}

#[tokio::test]
async fn a_refused_tag_changes_nothing() {
    for url in engines() {
        let staging = home(&url).await;
        running(&staging).await;
        let id = staging.update(&ada(), WEB, &tag("v9"), None).await.expect("begun");
        let wrapper = proto::Wrapper::TagCheck.into();
        let result =
            proto::OperationResult { wrapper, exit_code: Some(1), message: "no v9".into(), ..Default::default() };
        say(&staging, KIND_STAGING_OPERATION, &id.0, Phase::Failed, result.encode_to_vec()).await;
        let it = row(&staging).await;
        assert_eq!((it.status.as_str(), it.tag.as_str()), ("Running", "v1"));
        assert_eq!(staging.unseal(&it.settings_sealed).expect("opens").tag, "v1");
        assert!(it.settings_masked.contains("v1"));
        assert_eq!(operation(&staging, &id).await.message, "no v9");
    }
}

#[tokio::test]
async fn a_cleanup_by_retention_that_fails_is_not_repeated_with_every_round() {
    for url in engines() {
        let staging = home(&url).await;
        archived(&staging).await;
        let short = ProjectSpec { archived_retention_days: Some(1), ..spec() };
        staging.save_project(&ada(), "shop", &short, None).await.expect("changed");
        staging.fleet.db.clock().shift(2 * DAY);
        reconcile(&staging).await;
        assert_eq!(row(&staging).await.operation_id, "", "warned first");
        staging.fleet.db.clock().shift(DAY);
        reconcile(&staging).await;
        let id = OperationId(row(&staging).await.operation_id);
        ends(&staging, &id, 1, "disk busy").await;
        assert_eq!(row(&staging).await.operation_id, "", "people have a day");
        staging.fleet.db.clock().shift(DAY);
        reconcile(&staging).await;
        assert_ne!(row(&staging).await.operation_id, "");
    }
}

#[tokio::test]
async fn a_status_that_changes_refuses_no_edit_but_another_edit_does() {
    for url in engines() {
        let staging = home(&url).await;
        staging.create(&ada(), &new("web")).await.expect("begun");
        let read = row(&staging).await.version;
        let id = OperationId(row(&staging).await.operation_id);
        ends(&staging, &id, 0, "").await;
        checks(&staging, true).await;
        assert_eq!((status(&staging).await.as_str(), row(&staging).await.version), ("Running", read));
        let id = staging.update(&ada(), WEB, &tag("v1"), Some(read)).await.expect("nobody edited it");
        ends(&staging, &id, 0, "").await;
        checks(&staging, true).await;
        assert_eq!(row(&staging).await.version, read, "the same settings are no other version");
        let id = staging.update(&ada(), WEB, &tag("v2"), Some(read)).await.expect("nobody edited it");
        ends(&staging, &id, 1, "no v2").await;
        assert_eq!((status(&staging).await.as_str(), row(&staging).await.version), ("Failure", read + 1));
        let stale = staging.update(&ada(), WEB, &tag("v3"), Some(read)).await;
        assert!(matches!(stale, Err(Error::Stale)), "{stale:?}");
        let stale = staging.relocate(&ada(), WEB, &"b".into(), Some(read)).await;
        assert!(matches!(stale, Err(Error::Stale)), "{stale:?}");
        staging.relocate(&ada(), WEB, &"b".into(), Some(read + 1)).await.expect("read anew");
        assert_eq!(row(&staging).await.version, read + 2, "a host is an edit");
    }
}

#[tokio::test]
async fn of_two_who_make_a_project_at_once_one_is_told_that_it_exists() {
    for url in engines() {
        let staging = home(&url).await;
        let spec = spec();
        let makers = (0..8).map(|_| async { staging.create_project(&ada(), "new", &spec).await });
        let made = futures::future::join_all(makers).await;
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(matches!(&error, Error::Conflict(why) if why.contains("exists already")), "{error:?}");
        }
    }
}
