use std::{fs, time::Duration};

use muster_proto::experiment as proto;
use prost::Message;
use proto::task_run::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        lines::Lines,
        model::{Run, RunState},
        runs::{Inline, Runs},
        tail::Tail,
        wire,
    },
    rig::*,
};
use crate::host::{Host, Machine, Program, Stream, Watch};

fn script(name: &str, text: &str, needs: &[&str]) -> proto::Task {
    let need = |task: &&str| proto::Need { task: (*task).into(), on: proto::On::Success.into() };
    proto::Task {
        name: name.into(),
        script: text.into(),
        needs: needs.iter().map(need).collect(),
        ..Default::default()
    }
}

fn of(tasks: Vec<proto::Task>) -> proto::Executor {
    let pipeline = proto::Pipeline { tasks, early_stopping: true, parallel: 0 };
    proto::Executor { work: Some(proto::executor::Work::Pipeline(pipeline)), ..executor(&shell(&[])) }
}

fn on(task: &str, on: proto::On) -> proto::Need {
    proto::Need { task: task.into(), on: on.into() }
}

async fn rig() -> Rig {
    let rig = Rig::new().await;
    assert!(rig.deploy("x", &deployment(&shell(&[]))).await.0.succeeded);
    rig
}

/// What became of each try, in words.
fn told(result: &proto::ExecutorResult) -> Vec<String> {
    let word = |run: &proto::TaskRun| {
        let state = run.state().as_str_name().trim_start_matches("STATE_").to_lowercase();
        format!("{}{}.{} {state}", run.task, run.cycle, run.attempt)
    };
    result.runs.iter().map(word).collect()
}

#[tokio::test]
async fn tasks_run_with_what_earlier_ones_left() {
    let rig = rig().await;
    let mut build = script(
        "build",
        "mkdir -p out/deep; echo first > out/a; echo second > out/deep/b; echo x > log.1; echo built > $MUSTER_RESULT",
        &[],
    );
    build.outputs = vec!["out".into(), "log.*".into()];
    let mut check = script(
        "check",
        "cat in/deep/b; echo $GREETING $MUSTER_TASK $MUSTER_CYCLE $MUSTER_ATTEMPT $MUSTER_EXPERIMENT $MUSTER_EXECUTOR; echo oops >&2; pwd",
        &["build"],
    );
    check.inputs = vec![proto::Input { task: "build".into(), path: "out".into(), to: "in".into() }];
    check.variables = vec![proto::Variable { name: "GREETING".into(), value: "good day".into() }];
    let (end, result, heard) = rig.execute("x", &of(vec![build, check])).await;
    assert!(end.succeeded, "{} {}", result.message, heard.text());
    assert_eq!(told(&result), ["build0.1 succeeded", "check0.1 succeeded"]);
    assert_eq!(result.runs[0].value, "built");
    let artifacts: Vec<_> =
        result.runs[0].artifacts.iter().map(|a| (a.path.as_str(), a.content.as_ref().unwrap())).collect();
    let inline = |at: usize| (artifacts[at].0, artifacts[at].1.inline.as_ref());
    assert_eq!(
        [inline(0), inline(1), inline(2)],
        [("log.1", b"x\n".as_slice()), ("out/a", b"first\n"), ("out/deep/b", b"second\n")]
    );
    let text = heard.text();
    for line in ["check | second\n", "check | good day check 0 1 e x\n", "check | oops\n"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let steps = heard.results();
    assert!(steps.iter().any(|step| told(step) == ["build0.1 running"]), "the begin of a task is told");
    assert!(steps.iter().any(|step| told(step) == ["build0.1 succeeded", "check0.1 running"]));
}

#[tokio::test]
async fn large_files_become_blobs_and_small_ones_lie_in_the_report() {
    let rig = rig().await;
    let mut task = script(
        "many",
        "for n in $(seq 10 29); do head -c 16000 /dev/zero > f$n; done; head -c 20000 /dev/zero > large; ln -s /etc/passwd f99",
        &[],
    );
    task.outputs = vec!["f*".into(), "large".into()];
    let (end, result, _) = rig.execute("x", &of(vec![task])).await;
    assert!(end.succeeded && end.result.len() < 200 * 1024, "{} {}", end.result.len(), result.message);
    let contents: Vec<_> = result.runs[0].artifacts.iter().map(|a| a.content.clone().unwrap()).collect();
    assert_eq!(
        (contents.len(), contents.iter().filter(|c| c.blob.is_empty()).count()),
        (21, 8),
        "a link is no file of its own"
    );
    assert_eq!(rig.outgoing(&contents[20].blob).len(), 20_000);
}

#[tokio::test]
async fn failures_are_retried_awaited_and_said() {
    let rig = rig().await;
    let mut flaky = script("flaky", "[ $MUSTER_ATTEMPT = 2 ]", &[]);
    flaky.retries = 3;
    flaky.retry_delay_ms = 20;
    let broken = script("broken", "echo not today >&2; exit 7", &["flaky"]);
    let mut mend = script("mend", "true", &[]);
    mend.needs = vec![on("broken", proto::On::Failure)];
    let after = script("after", "true", &["broken"]);
    let (end, result, _) = rig.execute("x", &of(vec![flaky, broken, mend, after])).await;
    assert!(!end.succeeded && result.message == "failed: broken", "{}", result.message);
    let expected =
        ["flaky0.1 failed", "flaky0.2 succeeded", "broken0.1 failed", "mend0.1 succeeded", "after0.0 skipped"];
    let mut seen = told(&result);
    seen.sort_by_key(|word| expected.iter().position(|known| known == word));
    assert_eq!(seen, expected);
    let broken = result.runs.iter().find(|run| run.task == "broken").unwrap();
    assert_eq!((broken.exit_code, broken.message.as_str()), (Some(7), "it exited with 7: not today"));
    assert_eq!(result.runs.iter().find(|run| run.task == "after").unwrap().message, "broken failed");
}

#[tokio::test]
async fn a_part_is_repeated_with_what_the_cycle_before_left() {
    let rig = rig().await;
    let mut step = script("step", "echo $MUSTER_CYCLE > n", &[]);
    step.outputs = vec!["n".into()];
    let mut judge = script("judge", "cat n", &["step"]);
    judge.inputs = vec![proto::Input { task: "step".into(), path: "n".into(), to: "n".into() }];
    judge.repeat = Some(proto::Repeat { from: "step".into(), times: 2 });
    let (end, result, heard) = rig.execute("x", &of(vec![step, judge, script("end", "true", &["judge"])])).await;
    assert!(end.succeeded, "{}", result.message);
    assert_eq!(told(&result).len(), 7);
    let seen: Vec<_> =
        heard.text().lines().filter_map(|line| line.strip_prefix("judge | ").map(str::to_owned)).collect();
    assert_eq!(seen, ["0", "1", "2"]);
    let left = fs::read_dir(rig.ground.executor("x").join("tasks")).unwrap().flatten();
    let folders = left.filter(|entry| entry.path().is_dir()).count();
    assert!(folders <= 5, "folders of former cycles go: {folders}");
}

#[tokio::test]
async fn what_should_be_there_and_is_not_fails_its_task() {
    let rig = rig().await;
    let mut task = script("forgets", "true", &[]);
    task.outputs = vec!["promised".into()];
    let (end, result, _) = rig.execute("x", &of(vec![task])).await;
    assert!(!end.succeeded && result.runs[0].message == "the output promised is not there", "{result:?}");
    let mut task = script("needs", "true", &["other"]);
    task.inputs = vec![proto::Input { task: "other".into(), path: "a".into(), to: "a".into() }];
    let (_, result, _) = rig.execute("x", &of(vec![script("other", "true", &[]), task])).await;
    assert!(result.runs[1].message.contains("the input a cannot be copied"), "{result:?}");
}

#[tokio::test]
async fn time_limits_and_early_stopping_cut_tasks_off() {
    let rig = rig().await;
    let mut slow = script("slow", "sleep 1000 & wait", &[]);
    slow.limit_seconds = 1;
    let long = script("long", "trap '' TERM; sleep 1000 & wait; sleep 1000", &[]);
    let (end, result, heard) = rig.execute("x", &of(vec![slow, long, script("never", "true", &["long"])])).await;
    assert!(!end.succeeded && result.message == "failed: slow", "{}", result.message);
    let state = |name: &str| result.runs.iter().find(|run| run.task == name).unwrap().state();
    assert_eq!((state("slow"), state("long"), state("never")), (State::TimedOut, State::Cancelled, State::Skipped));
    for group in heard.groups.lock().unwrap().iter() {
        assert!(!rig.ground.host.is_alive(group), "nothing of it is left");
    }
}

#[tokio::test]
async fn cancelling_a_pipeline_ends_it_with_all_it_left_running() {
    let rig = rig().await;
    let (cancel, heard) = (CancellationToken::new(), Heard::default());
    let it = of(vec![
        script("server", "sleep 1000 </dev/null >/dev/null 2>&1 &", &[]),
        script("b", "echo begun; sleep 1000", &["server"]),
    ]);
    let cancelling = async {
        until("both began", || heard.text().contains("b | begun").then_some(())).await;
        let server = heard.groups.lock().unwrap()[0].clone();
        assert!(rig.ground.host.is_alive(&server), "what a task left running serves later ones");
        cancel.cancel();
    };
    let ((end, result), ()) = tokio::join!(rig.execute_until("x", &it, cancel.clone(), &heard), cancelling);
    assert!(!end.succeeded && result.message == "it was cancelled", "{}", result.message);
    assert_eq!(told(&result), ["server0.1 succeeded", "b0.1 cancelled"]);
    for group in heard.groups.lock().unwrap().iter() {
        assert!(!rig.ground.host.is_alive(group));
    }
    let mut limited = of(vec![script("long", "sleep 1000", &[])]);
    limited.limit_seconds = 1;
    let (end, result, _) = rig.execute("x", &limited).await;
    assert!(!end.succeeded && result.timed_out && result.message.contains("1 s was over"), "{}", result.message);
}

#[tokio::test]
async fn a_task_reaches_flags_through_the_relay_it_is_told_of() {
    let rig = rig().await;
    let flags = Flags::answer(rig.spool.clone());
    let text = r#"exec bash -c 'rest=${MUSTER_RELAY#http://}; exec 3<>/dev/tcp/127.0.0.1/$(echo ${rest%%/*} | cut -d: -f2)
        printf "POST /${rest#*/}/api/v1/experiment/$MUSTER_EXPERIMENT/flag/n/increment HTTP/1.0\r\n\r\n" >&3; head -1 <&3'"#;
    let (end, result, heard) = rig.execute("x", &of(vec![script("a", text, &[])])).await;
    assert!(end.succeeded && heard.text().contains("a | HTTP/1.0 200 OK"), "{} {}", result.message, heard.text());
    assert_eq!(flags.number("n"), 1);
}

#[tokio::test]
async fn the_way_from_one_task_to_the_next_is_short() {
    const TASKS: u32 = 40;
    let rig = rig().await;
    let host = Machine::new(None);
    let nothing = |n: u32| proto::Task { name: n.to_string(), command: vec!["/bin/true".into()], ..Default::default() };
    let mut tasks: Vec<_> = (0..TASKS).map(nothing).collect();
    (1..tasks.len()).for_each(|at| tasks[at].needs = vec![on(&(at - 1).to_string(), proto::On::Success)]);
    let program = Program {
        path: "/bin/true".into(),
        args: Vec::new(),
        env: Vec::new(),
        folder: rig.dir.path().join("bare"),
        keep_folder: true,
        limit: Duration::from_secs(10),
        memory_bytes: 0,
        file_bytes: 0,
    };
    // A busy machine may spoil a try, not all of them.
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..TASKS {
            host.run(program.clone(), CancellationToken::new(), &Heard::default()).await.unwrap();
        }
        let bare = began.elapsed();
        let began = Instant::now();
        assert!(rig.execute("x", &of(tasks.clone())).await.0.succeeded);
        best = best.min(began.elapsed().saturating_sub(bare) / TASKS);
    }
    println!("{best:?} between two tasks, beside the start of their processes");
    assert!(best <= Duration::from_millis(5), "{best:?}");
}

#[test]
fn a_report_holds_the_newest_tries_and_says_how_many_are_left_out() {
    let mut runs = Runs::default();
    let first = runs.add(Run { task: "long".into(), ..Run::default() });
    for n in 0..3000_u32 {
        let run = Run { task: "t".into(), cycle: n, attempt: 1, value: "x".repeat(100), ..Run::default() };
        let number = runs.add(run.clone());
        runs.end(number, Run { state: RunState::Succeeded, ..run });
    }
    let listed: Vec<Run> = runs.list().cloned().collect();
    assert_eq!(listed.len() as u64 + runs.left_out, 3001);
    assert_eq!((listed[0].task.as_str(), listed.last().unwrap().cycle), ("long", 2999), "what runs stays");
    let executed = super::super::model::Executed { runs: listed, ..Default::default() };
    let size = wire::executed(&executed).len();
    assert!((150 * 1024..=200 * 1024 + 64).contains(&size), "{size}");
    runs.end(first, Run { state: RunState::Succeeded, ..Run::default() });
    let inline = Inline::default();
    assert_eq!((inline.take(16 * 1024 + 1), (0..20).filter(|_| inline.take(16 * 1024) > 0).count()), (0, 8));
}

#[test]
fn each_line_names_its_task_and_none_is_torn() {
    let (heard, host) = (Heard::default(), Machine::new(None));
    let tail = Tail::new(&host, Some(&heard));
    let lines = Lines::new("a", &tail);
    lines.output(Stream::Stdout, b"one\ntw");
    lines.output(Stream::Stderr, b"err");
    lines.output(Stream::Stdout, b"o\n");
    lines.end();
    assert_eq!(heard.text(), "a | one\na | two\na | err\n");
    lines.output(Stream::Stdout, &[b'x'; 20_000]);
    assert!(heard.log.lock().unwrap().len() > 20_000, "a line without an end is not kept for ever");
}

#[test]
fn a_pipeline_that_cannot_be_meant_is_refused_with_its_task() {
    let refused = |change: fn(&mut Vec<proto::Task>)| {
        let mut tasks = vec![script("a", "true", &[]), script("b", "true", &["a"])];
        change(&mut tasks);
        wire::executor(&of(tasks).encode_to_vec()).unwrap_err().message
    };
    assert!(refused(Vec::clear).contains("tasks is empty"));
    assert!(refused(|t| t[1].name = "a".into()).contains("twice"));
    assert!(refused(|t| t[0].needs = vec![on("b", proto::On::Any)]).contains("circle: a, b"));
    assert!(refused(|t| t[1].needs = vec![on("c", proto::On::Any)]).contains("task b: needs names \"c\""));
    assert!(refused(|t| t[0].command = vec!["x".into()]).contains("either a command or a script"));
    assert!(refused(|t| t[0].outputs = vec!["../x".into()]).contains("below the task's folder"));
    assert!(refused(|t| t[0].outputs = vec!["/etc/passwd".into()]).contains("below the task's folder"));
    assert!(
        refused(|t| t[0].repeat = Some(proto::Repeat { from: "b".into(), times: 1 })).contains("does not lead to it")
    );
}
