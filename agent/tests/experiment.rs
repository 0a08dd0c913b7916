//! Experiments as a host really runs them: the work loop, the program that sets limits, and tasks that use `flag`.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use muster_agent::{
    blobs::Blobs,
    config::Config,
    driver::{Kernel, intake, work},
    experiment,
    host::{Host, Machine},
    ledger::{Assignment, Generation, Key, Ledger, Phase, Report},
    spool::{Answer, Frame, Spool},
};
use muster_proto::{
    KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, experiment as proto,
};
use prost::Message;
use tokio_util::sync::CancellationToken;

const AGENT: &str = env!("CARGO_BIN_EXE_muster-agent");

async fn kernel(dir: &Path) -> Arc<Kernel> {
    let host = Arc::new(Machine::new(Some(AGENT.into())));
    let ledger = Ledger::open(dir, host.now_ms()).expect("a ledger").ledger;
    let spool = Arc::new(Spool::open(dir, 1 << 20, &[], []).expect("a spool"));
    let blobs = Arc::new(Blobs::open(dir, 1 << 20).expect("blobs"));
    let mut settings = Config::for_state_dir(dir).experiment;
    settings.python = Default::default();
    let drivers = experiment::drivers(&settings, host.clone(), spool.clone(), blobs.clone(), dir).await;
    Kernel::new(ledger, spool, blobs, host, drivers, vec!["*".into()], dir.into()).into()
}

fn put(kernel: &Kernel, kind: &str, document: &impl Message) {
    let document: Bytes = document.encode_to_vec().into();
    let assignment = Assignment {
        key: Key::new(kind, "x"),
        generation: Generation { epoch: 0, number: 1 },
        once: true,
        version: 1,
        digest: Bytes::copy_from_slice(&muster_pki::sha256(&document)),
        document,
        ..Assignment::default()
    };
    intake::take(kernel, vec![assignment]).expect("it is taken");
}

/// The outcome of what was put, with the questions that were asked before it.
async fn outcome(kernel: &Kernel, asked: &mut Vec<proto::FlagAsk>) -> Report {
    let reading = async {
        loop {
            match kernel.spool.next(0) {
                Some(Frame::Report(report)) if report.outcome => return report,
                Some(Frame::Ask(question)) => {
                    asked.push(proto::FlagAsk::decode(question.body.clone()).expect("a question"));
                    let answer = proto::FlagAnswer { unset: false, text_value: Some("on".into()), int_value: 1 };
                    kernel.spool.answered(&question.ask_id, Answer::Ok(answer.encode_to_vec().into()));
                }
                Some(_) => {}
                None => kernel.spool.filled().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it ends")
}

#[tokio::test]
async fn an_executor_is_prepared_run_and_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = kernel(dir.path()).await;
    let stop = CancellationToken::new();
    let working = tokio::spawn(work::run(kernel.clone(), stop.clone(), || ()));
    let mut asked = Vec::new();

    let digest = Bytes::copy_from_slice(&muster_pki::sha256(b"environment"));
    let shell = proto::Shell { commands: vec!["ln -s /bin/echo bin/say".into()], ..Default::default() };
    let kind = Some(proto::environment::Kind::Shell(shell));
    let environment = proto::Environment { digest: digest.clone(), kind, ..Default::default() };
    let deployment = proto::Deployment { experiment_id: "e".into(), environment: Some(environment), graph: None };
    put(&kernel, KIND_EXPERIMENT_DEPLOYMENT, &deployment);
    let prepared = outcome(&kernel, &mut asked).await;
    assert_eq!(prepared.phase(), Phase::Succeeded, "{:?}", prepared.conditions);

    let script = format!("say $({AGENT} flag wait go --text on) > $MUSTER_RESULT; {AGENT} flag barrier here 1");
    let limits = "ulimit -d > $MUSTER_RESULT".to_owned();
    let task = |name: &str, script| proto::Task { name: name.into(), script, ..Default::default() };
    let pipeline = proto::Pipeline { tasks: vec![task("meet", script), task("limits", limits)], ..Default::default() };
    let executor = proto::Executor {
        experiment_id: "e".into(),
        environment: digest.clone(),
        work: Some(proto::executor::Work::Pipeline(pipeline)),
        memory_bytes: 512 << 20,
        ..Default::default()
    };
    put(&kernel, KIND_EXPERIMENT_EXECUTOR, &executor);
    let ended = outcome(&kernel, &mut asked).await;
    let result = proto::ExecutorResult::decode(ended.result.clone()).unwrap();
    assert_eq!(ended.phase(), Phase::Succeeded, "{result:?}");
    let value = |name: &str| result.runs.iter().find(|run| run.task == name).unwrap().value.clone();
    assert_eq!((value("meet"), value("limits")), ("on".into(), (512 << 10).to_string()));
    let names: Vec<_> = asked.iter().map(|ask| ask.name.as_str()).collect();
    assert_eq!(names, ["go", "here", "here"]);
    assert_eq!(asked[1].what, Some(proto::flag_ask::What::Add(proto::FlagAdd { by: 1 })));

    let cleanup = proto::Cleanup { experiment_id: "e".into(), folder: true, environments: vec![digest] };
    put(&kernel, KIND_EXPERIMENT_CLEANUP, &cleanup);
    assert_eq!(outcome(&kernel, &mut asked).await.phase(), Phase::Succeeded);
    for folder in ["executors", "environments", "prepared"] {
        let left = std::fs::read_dir(dir.path().join("experiment").join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }
    stop.cancel();
    working.await.unwrap();
}
