use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use muster_proto::staging as proto;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{
    Settings, WrapperFolder,
    apply::{Folders, Operation, Watch},
    plan::{self, Goal, Level, Override, Subject, Wrapper},
    wire,
};
use crate::{
    driver::{Attempt, Driver, End, Once, Standing, Turn},
    host::{Exit, Machine, Stream},
    ledger::{Assignment, Group, Key},
};

struct Deaf;

impl crate::host::Watch for Deaf {
    fn grouped(&self, _: Group) -> std::io::Result<()> {
        Ok(())
    }
    fn output(&self, _: Stream, _: &[u8]) {}
}

impl crate::driver::Home for Deaf {
    fn tell(&self, _: Bytes) {}
    fn silence(&self) -> Duration {
        Duration::ZERO
    }
}

fn wrapper(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

fn folders(dir: &Path) -> Arc<Folders> {
    let folder = WrapperFolder { path: dir.into(), env: vec!["OWN=1".into()], env_file: None };
    let settings = Settings { wrappers: BTreeMap::from([("demo".into(), folder)]) };
    Arc::new(Folders { settings, host: Arc::new(Machine::new(None)), work: dir.join("work") })
}

fn document(wrapper: proto::Wrapper) -> proto::Operation {
    let of = |level: proto::r#override::Level, key: &str, value: &str| proto::Override {
        level: level.into(),
        key: key.into(),
        value: value.into(),
    };
    proto::Operation {
        folder: "demo".into(),
        wrapper: wrapper.into(),
        subject: Some(proto::Subject {
            project_name: "shop".into(),
            base_domain: "shop.test".into(),
            namespace: "ns".into(),
            name: "hello".into(),
        }),
        tag: "v1".into(),
        overrides: vec![
            of(proto::r#override::Level::Staging, "s", "x=y z"),
            of(proto::r#override::Level::App, "A", "$(b)"),
        ],
        timeout_seconds: 20,
        ..proto::Operation::default()
    }
}

fn assignment(document: &impl Message) -> Assignment {
    let key = Key::new("staging.operation", "1");
    Assignment { key, document: document.encode_to_vec().into(), ..Assignment::default() }
}

async fn run(dir: &Path, document: &proto::Operation) -> (End, proto::OperationResult) {
    let assignment = assignment(document);
    let attempt = Attempt { assignment: &assignment, cancel: CancellationToken::new(), watch: &Deaf, home: &Deaf };
    let end = Operation(folders(dir)).run(attempt).await;
    let result = proto::OperationResult::decode(end.result.clone()).unwrap();
    (end, result)
}

#[test]
fn arguments_follow_the_contract_to_the_letter() {
    let args = |wrapper, tag_check| {
        let document = document(wrapper).encode_to_vec();
        let actions = plan::plan(&wire::operation(&document).unwrap(), tag_check);
        actions.into_iter().map(|a| format!("{} {}", a.wrapper.file(), a.args.join(" "))).collect::<Vec<_>>()
    };
    let four = "--project-name shop --base-domain shop.test --namespace ns --name hello";
    let full = format!("{four} --tag v1 --app-env-override A=$(b) --staging-override s=x=y z");
    assert_eq!(args(proto::Wrapper::Create, false), [format!("create {full}")]);
    let checked = [format!("tag_check {four} --tag v1"), format!("update {full}")];
    assert_eq!(args(proto::Wrapper::Update, true), checked);
    assert_eq!(args(proto::Wrapper::Delete, true), [format!("delete {four}")]);
    assert_eq!(args(proto::Wrapper::Cleanup, true), [format!("cleanup {four}")]);
    assert_eq!(args(proto::Wrapper::ArchiveCheck, true), [format!("archive_check {four}")]);
}

#[test]
fn a_document_that_cannot_be_meant_is_refused_with_its_field() {
    let refused = |change: fn(&mut proto::Operation)| {
        let mut document = document(proto::Wrapper::Create);
        change(&mut document);
        wire::operation(&document.encode_to_vec()).unwrap_err().message
    };
    assert!(refused(|d| d.overrides[0].key = "a=b".into()).contains("overrides.key"));
    assert!(refused(|d| d.overrides[0].value = "a\0b".into()).contains("NUL"));
    assert!(refused(|d| d.wrapper = 0).contains("wrapper"));
    assert!(refused(|d| d.subject = None).contains("subject"));
    assert!(wire::operation(b"\xff\xff").is_err());
}

#[test]
fn a_missing_or_unfit_wrapper_is_refused_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let operation = Operation(folders(dir.path()));
    let admit = |document: &proto::Operation| operation.admit(&document.encode_to_vec()).map_err(|e| e.message);
    let create = document(proto::Wrapper::Create);
    assert!(admit(&create).unwrap_err().contains("/create is not there"));
    fs::write(dir.path().join("create"), "x").unwrap();
    assert!(admit(&create).unwrap_err().contains("chmod +x"));
    wrapper(dir.path(), "create", "exit 0");
    assert_eq!(admit(&create), Ok(()));
    let elsewhere = proto::Operation { folder: "other".into(), ..create };
    assert!(admit(&elsewhere).unwrap_err().contains("listed: demo"));
}

#[tokio::test]
async fn an_operation_runs_its_wrapper_with_the_owners_environment() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("seen");
    wrapper(dir.path(), "create", &format!("echo \"$OWN $# ${{@: -1}}\" > {}", out.display()));
    let (end, result) = run(dir.path(), &document(proto::Wrapper::Create)).await;
    assert!(end.succeeded && result.exit_code == Some(0) && result.message.is_empty());
    assert_eq!(fs::read_to_string(out).unwrap(), "1 14 s=x=y z\n");
}

#[tokio::test]
async fn a_tag_that_is_refused_ends_the_operation_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    wrapper(dir.path(), "tag_check", "echo no such tag; exit 4");
    wrapper(dir.path(), "create", &format!("touch {}", dir.path().join("ran").display()));
    let (end, result) = run(dir.path(), &document(proto::Wrapper::Create)).await;
    assert!(!end.succeeded && !dir.path().join("ran").exists());
    assert_eq!((result.wrapper(), result.exit_code), (proto::Wrapper::TagCheck, Some(4)));
    assert_eq!(result.message, "no such tag");
}

#[tokio::test]
async fn a_failure_always_says_why() {
    let dir = tempfile::tempdir().unwrap();
    wrapper(dir.path(), "create", "echo to stdout; echo broken disk >&2; exit 3");
    let (_, result) = run(dir.path(), &document(proto::Wrapper::Create)).await;
    assert_eq!((result.message.as_str(), result.exit_code), ("broken disk", Some(3)));
    assert_eq!((result.stdout_bytes, result.stderr_bytes), (10, 12));
    wrapper(dir.path(), "create", "exit 3");
    let (_, result) = run(dir.path(), &document(proto::Wrapper::Create)).await;
    assert_eq!(result.message, "create exited with 3 and wrote nothing");
    fs::remove_file(dir.path().join("create")).unwrap();
    let (_, result) = run(dir.path(), &document(proto::Wrapper::Create)).await;
    assert_eq!((result.exit_code, result.started_ms), (None, 0));
    assert!(result.message.contains("/create is not there"));
}

#[test]
fn a_message_keeps_the_last_whole_lines_whatever_the_bytes() {
    let exit = Exit { code: Some(1), signal: None, timed_out: false, cancelled: false };
    let long = [b"first\n".as_slice(), &b"line\xff\0\n".repeat(1000)].concat();
    let text = plan::message(Wrapper::Create, exit, Duration::from_secs(1), b"", &long);
    assert!(text.len() <= plan::MESSAGE && text.starts_with("line") && !text.contains('\0'), "{text}");
    let one_line = plan::message(Wrapper::Create, exit, Duration::from_secs(1), b"", &[b'x'; 5000]);
    assert_eq!(one_line.len(), plan::MESSAGE);
}

#[tokio::test]
async fn a_watch_says_the_same_of_equal_checks_and_another_thing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let operation = document(proto::Wrapper::Check);
    let watch = proto::Watch {
        folder: operation.folder,
        wrapper: proto::Wrapper::Check.into(),
        subject: operation.subject,
        interval_seconds: 7,
        timeout_seconds: 10,
        after_operation: "op".into(),
    };
    let assignment = assignment(&watch);
    let driver = Watch(folders(dir.path()));
    let turn = || async {
        match driver.turn(&assignment).await {
            Turn::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    };
    wrapper(dir.path(), "check", "exit 0");
    let (first, second) = (turn().await, turn().await);
    assert_eq!((first.essence.clone(), first.again), (second.essence, Some(Duration::from_secs(7))));
    assert!(proto::WatchResult::decode(first.result).unwrap().passed);
    wrapper(dir.path(), "check", "echo down >&2; exit 2");
    let failed = turn().await;
    assert_ne!(failed.essence, first.essence);
    let result = proto::WatchResult::decode(failed.result).unwrap();
    assert_eq!((result.passed, result.exit_code, result.message.as_str()), (false, Some(2), "down"));
}

#[test]
fn a_watch_runs_checks_alone() {
    let watch = proto::Watch { folder: "demo".into(), wrapper: proto::Wrapper::Create.into(), ..Default::default() };
    assert!(wire::watch(&watch.encode_to_vec()).unwrap_err().message.contains("archive_check"));
}

#[test]
fn overrides_keep_their_order_within_a_level() {
    let of = |level, key: &str| Override { level, key: key.into(), value: String::new() };
    let subject =
        Subject { project_name: "p".into(), base_domain: "b".into(), namespace: "n".into(), name: "x".into() };
    let operation = plan::Operation {
        goal: Goal { folder: "f".into(), wrapper: Wrapper::Create, subject },
        tag: "t".into(),
        overrides: vec![of(Level::Staging, "2"), of(Level::App, "b"), of(Level::Staging, "1"), of(Level::App, "a")],
        limit: Duration::from_secs(1),
        memory_bytes: 0,
        file_bytes: 0,
    };
    let args = &plan::plan(&operation, false)[0].args;
    let values: Bytes = args.iter().skip(10).filter(|a| !a.starts_with("--")).flat_map(|a| a.bytes()).collect();
    assert_eq!(values, "b=a=2=1=");
}
