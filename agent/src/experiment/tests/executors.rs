use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use muster_proto::experiment as proto;
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{super::relay::Relay, rig::*};
use crate::ledger::Key;

const TWO_STAGES: &str = r#"
class Say(Task):
    def __init__(self, word):
        self.word = word
        super().__init__()
    def run(self):
        import os
        return f"{self.word} {os.environ['MINE']} {os.environ['NETUNICORN_EXPERIMENT_ID']}"
graph = Pipeline().then([Say("a"), Say("b")]).then(Say("c"))
"#;

/// What the client would see of a result.
fn opened(rig: &Rig, content: &proto::Content) -> String {
    let bytes = match content.blob.is_empty() {
        true => content.inline.to_vec(),
        false => rig.outgoing(&content.blob),
    };
    assert_eq!(bytes.len() as u64, content.size);
    fs::write(rig.dir.path().join("result"), bytes).unwrap();
    let text = "import cloudpickle\nresult, log = cloudpickle.load(open('result', 'rb'))\n\
                values = result._inner_value if result is not None else {}\n\
                print(type(result).__name__, sorted(str(v) for vs in values.values() for v in vs), len(log))\n";
    says(rig.dir.path(), text)
}

async fn python_with(rig: &Rig, id: &str, text: &str) -> proto::Executor {
    let graph = graph(rig.dir.path(), text);
    let (end, result, heard) = rig.deploy(id, &with_graph(&python_shell(), &graph)).await;
    assert!(end.succeeded, "{} {}", result.message, heard.text());
    executor(&python_shell())
}

#[tokio::test]
async fn a_real_executor_runs_its_graph_and_its_result_comes_home() {
    let Some(rig) = Rig::python().await else { return };
    let mut it = python_with(&rig, "x-1", TWO_STAGES).await;
    it.variables = vec![proto::Variable { name: "MINE".into(), value: "my value".into() }];
    let (end, result, heard) = rig.execute("x-1", &it).await;
    assert!(end.succeeded && result.message.is_empty(), "{} {}", result.message, heard.text());
    assert_eq!((result.state(), result.exit_code), (proto::executor_result::State::Finished, Some(0)));
    let seen = opened(&rig, result.results.as_ref().unwrap());
    let expected = "Success ['<Success: a my value e>', '<Success: b my value e>', '<Success: c my value e>']";
    assert!(seen.starts_with(expected), "{seen}");
    assert!(heard.text().contains("Execution graph loaded from a local file"), "{}", heard.text());
    let states: Vec<_> = heard.results().iter().map(proto::ExecutorResult::state).collect();
    assert!(states.is_sorted() && states.contains(&proto::executor_result::State::Reporting), "{states:?}");
}

#[tokio::test]
async fn progress_is_told_and_a_failed_task_is_a_result_too() {
    let Some(rig) = Rig::python().await else { return };
    let text = "class Slow(Task):\n    def run(self):\n        import time; time.sleep(3); raise ValueError('broken')\n\
                graph = Pipeline().then(Slow())\n";
    let it = python_with(&rig, "x", text).await;
    let (end, result, heard) = rig.execute("x", &it).await;
    assert!(end.succeeded, "the executor did its work: {}", result.message);
    assert!(opened(&rig, result.results.as_ref().unwrap()).starts_with("Failure"));
    let told = heard.results();
    let progress = told.iter().filter(|told| told.state() == proto::executor_result::State::Executing);
    assert!(progress.filter(|told| told.results.is_some()).count() >= 1, "a heartbeat a second came home");
}

#[tokio::test]
async fn tasks_meet_at_flags_through_a_home_that_goes_away() {
    let Some(rig) = Rig::python().await else { return };
    let flags = Flags::answer(rig.spool.clone());
    let text = "from netunicorn.library.tasks.flags import *\nfrom netunicorn.base.types import FlagValues\n\
                graph = (Pipeline().then(AtomicIncrementFlagTask('n')).then(AtomicIncrementFlagTask('n'))\n\
                .then(SetFlagTask('here', FlagValues(text_value='yes', int_value=1)))\n\
                .then(WaitForExactFlagResultTask('go', FlagValues(text_value='on', int_value=2), sleep_time=0.1)))\n";
    let it = python_with(&rig, "x", text).await;
    let executing = rig.execute("x", &it);
    let around = async {
        until("the first addition", || (flags.number("n") > 0).then_some(())).await;
        flags.there.send_replace(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        flags.there.send_replace(true);
        until("the executor is here", || (flags.number("here") == 1).then_some(())).await;
        let on = proto::FlagAnswer { unset: false, text_value: Some("on".into()), int_value: 2 };
        flags.values.lock().unwrap().insert("go".into(), on);
    };
    let ((end, result, heard), ()) = tokio::join!(executing, around);
    assert!(end.succeeded, "{} {}", result.message, heard.text());
    assert!(opened(&rig, result.results.as_ref().unwrap()).starts_with("Success"));
    assert_eq!(flags.number("n"), 2, "each addition counts once");
}

#[tokio::test]
async fn a_result_of_twenty_megabytes_becomes_a_blob() {
    let Some(rig) = Rig::python().await else { return };
    let text = "class Large(Task):\n    def run(self):\n        return b'x' * 20_000_000\n\
                graph = Pipeline().then(Large())\n";
    let it = python_with(&rig, "x", text).await;
    let (end, result, _) = rig.execute("x", &it).await;
    let content = result.results.unwrap();
    assert!(end.succeeded && end.result.len() < 1000 && content.blob.len() == 32 && content.size > 20_000_000);
    assert!(opened(&rig, &content).starts_with("Success"));
}

#[tokio::test]
async fn an_executor_that_lingers_after_its_result_is_ended_and_did_well() {
    let Some(rig) = Rig::python().await else { return };
    let text = "class Hang(Task):\n    def run(self):\n        import time; time.sleep(1000)\n\
                class Fail(Task):\n    def run(self):\n        raise ValueError('now')\n\
                graph = Pipeline().then([Hang(), Fail()])\n";
    let it = python_with(&rig, "x", text).await;
    let (end, result, heard) = rig.execute("x", &it).await;
    assert!(end.succeeded && result.results.is_some(), "{} {}", result.message, heard.text());
    for group in heard.groups.lock().unwrap().iter() {
        assert!(!rig.ground.host.is_alive(group), "nothing of it is left");
    }
}

/// A real executor that nobody knows asks for its graph, is sent away and says so: that is all.
#[tokio::test]
async fn a_real_executor_with_a_dead_id_makes_few_requests_and_exits() {
    let Some(rig) = Rig::python().await else { return };
    let relay = Relay::holding(rig.spool.clone(), Duration::from_secs(2));
    let seated = relay.seat(Key::new("experiment.executor", "other"), "e", "/nowhere".into()).await.unwrap();
    let (address, requests) = (relay.address().await.unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (counted, between) = (requests.clone(), counter.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = counter.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut far = TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let known = seated.url.rsplit_once('/').unwrap().1;
    for secret in [known, "a-secret-of-a-former-relay"] {
        requests.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let ended = tokio::process::Command::new(python().unwrap())
            .args(["-m", "netunicorn.executor"])
            .env("NETUNICORN_GATEWAY_ENDPOINT", format!("http://{between}/{secret}"))
            .env("NETUNICORN_EXECUTOR_ID", "dead")
            .current_dir(rig.dir.path())
            .output()
            .await
            .unwrap();
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() && began.elapsed() >= Duration::from_secs(2), "{log}");
        assert!(
            (1..5).contains(&requests.load(Ordering::Relaxed)),
            "{} requests: {log}",
            requests.load(Ordering::Relaxed)
        );
    }
}

#[tokio::test]
async fn what_ends_without_a_result_says_what_it_said_last() {
    let rig = Rig::new().await;
    let it = rig.prepared("x", "pwd; echo $NETUNICORN_EXECUTOR_ID $PATH; echo broken import >&2; exit 3").await;
    let (end, result, heard) = rig.execute("x", &it).await;
    assert_eq!((end.succeeded, result.exit_code), (false, Some(3)));
    assert!(
        result.message.starts_with("it exited with 3") && result.message.contains("broken import"),
        "{}",
        result.message
    );
    let folder = rig.ground.executor("x");
    assert!(heard.text().contains(&format!(
        "{}\nx {}",
        folder.display(),
        rig.ground.path(&muster_pki::hex(&it.environment))
    )));
    assert!(folder.exists(), "it goes with the cleanup");
    let (end, result, _) = rig.execute("unknown", &it).await;
    assert!(!end.succeeded && result.message.contains("its deployment comes first"), "{}", result.message);
}

#[tokio::test]
async fn cancelling_and_the_time_limit_end_the_whole_group() {
    let rig = Rig::new().await;
    let mut it = rig.prepared("x", "trap '' TERM; sleep 1000 & echo begun; wait; sleep 1000").await;
    let (cancel, heard) = (CancellationToken::new(), Heard::default());
    let cancelling = async {
        until("it runs", || heard.text().contains("begun").then_some(())).await;
        cancel.cancel();
    };
    let ((end, result), ()) = tokio::join!(rig.execute_until("x", &it, cancel.clone(), &heard), cancelling);
    assert!(!end.succeeded && result.signal == Some(9) && !result.timed_out, "{result:?}");
    let group = heard.groups.lock().unwrap()[0].clone();
    assert!(!rig.ground.host.is_alive(&group));
    it.limit_seconds = 1;
    let (end, result, _) = rig.execute("x", &it).await;
    assert!(!end.succeeded && result.timed_out && result.message.contains("1 s was over"), "{result:?}");
}

#[tokio::test]
async fn an_executor_is_ended_when_home_is_away_for_longer_than_its_lease() {
    let rig = Rig::new().await;
    let mut it = rig.prepared("x", "sleep 1000").await;
    it.lease_seconds = 30;
    let heard = Heard::default();
    heard.silence_ms.store(28_500, Ordering::Relaxed);
    let returning = async {
        until("it runs", || heard.groups.lock().unwrap().first().cloned()).await;
        // Home is heard of once more: the lease begins anew.
        heard.silence_ms.store(28_800, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1_800)).await;
        assert!(rig.ground.is_running("x"));
        heard.silence_ms.store(30_000, Ordering::Relaxed);
    };
    let ((end, result), ()) = tokio::join!(rig.execute_until("x", &it, CancellationToken::new(), &heard), returning);
    assert!(!end.succeeded && result.lease_ended && !result.timed_out, "{result:?}");
}

#[tokio::test]
async fn a_large_graph_is_waited_for_and_one_that_home_refuses_ends_the_deployment() {
    let rig = Rig::new().await;
    let large = vec![7; 300_000];
    let mut document = deployment(&shell(&[]));
    let blob = Bytes::copy_from_slice(&muster_pki::sha256(&large));
    document.graph = Some(proto::Content { inline: Bytes::new(), blob, size: 300_000 });
    let ((end, result, _), ()) = tokio::join!(rig.deploy("x", &document), rig.arrive(large.clone()));
    assert!(end.succeeded, "{}", result.message);
    assert_eq!(fs::read(rig.ground.executor("x").join("netunicorn.execution_graph")).unwrap(), large);
    document.graph.as_mut().unwrap().blob = vec![7; 32].into();
    let refusing = async {
        let (digest, _) = until("somebody needs it", || rig.blobs.to_fetch().pop()).await;
        rig.blobs.conclude(&digest, Err("not this agent's".into()));
    };
    let ((end, result, _), ()) = tokio::join!(rig.deploy("y", &document), refusing);
    assert!(!end.succeeded && result.message == "not this agent's", "{}", result.message);
}

#[tokio::test]
async fn a_cleanup_removes_what_nobody_uses_and_names_what_stays() {
    let rig = Rig::new().await;
    let script = "echo begun; sleep 1000";
    let it = rig.prepared("runs", script).await;
    let same = rig.prepared("waits", script).await;
    assert_eq!(it.environment, same.environment);
    let clean =
        |folder| proto::Cleanup { experiment_id: "e".into(), folder, environments: vec![it.environment.clone()] };
    let (cancel, heard) = (CancellationToken::new(), Heard::default());
    let cleaning = async {
        until("it runs", || heard.text().contains("begun").then_some(())).await;
        let (end, result) = rig.clean("runs", &clean(true)).await;
        assert!(
            end.succeeded && result.message.contains("runs in") && result.message.contains("used by runs, waits"),
            "{result:?}"
        );
        let (_, result) = rig.clean("waits", &clean(true)).await;
        assert!(result.message.ends_with("used by runs"), "{}", result.message);
        assert!(!rig.ground.executor("waits").exists() && rig.ground.executor("runs").exists());
        cancel.cancel();
    };
    tokio::join!(rig.execute_until("runs", &it, cancel.clone(), &heard), cleaning);
    let (end, result) = rig.clean("runs", &clean(true)).await;
    assert!(end.succeeded && result.message.is_empty() && result.freed_bytes > 0, "{result:?}");
    assert!(!rig.ground.executor("runs").exists());
    assert!(!rig.ground.environment(&muster_pki::hex(&it.environment)).exists());
    let (end, result) = rig.clean("runs", &clean(true)).await;
    assert!(end.succeeded && result.freed_bytes == 0, "twice is no matter: {result:?}");
}

#[test]
fn a_document_that_cannot_be_meant_is_refused_with_its_field() {
    let refused = |change: fn(&mut proto::Executor)| {
        let mut document = executor(&shell(&[]));
        change(&mut document);
        super::super::wire::executor(&document.encode_to_vec()).unwrap_err().message
    };
    assert!(refused(|d| d.work = None).contains("work is missing"));
    assert!(refused(|d| d.experiment_id = String::new()).contains("experiment_id"));
    assert!(refused(|d| d.environment = vec![1].into()).contains("has 1 bytes"));
    assert!(refused(|d| d.image = "--privileged".into()).contains("image"));
    assert!(
        refused(|d| d.variables = vec![proto::Variable { name: "a=b".into(), value: String::new() }]).contains("a=b")
    );
}
