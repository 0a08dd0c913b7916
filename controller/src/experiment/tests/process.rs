use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::rig::{Rig, order, user};
use crate::{
    domain::Processors,
    experiment::{
        Postprocess,
        model::{ExperimentId, Status},
        postprocess::tell,
        store::{self, PostRow},
    },
    fleet::model::Phase,
    platform::{program::Programs, reconcile::Reconciler},
    testing::engines,
};

/// A folder of shell scripts, removed in the end.
struct Scripts(PathBuf);

impl Scripts {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("processors-{}", muster_pki::hex(&muster_pki::random::<8>())));
        fs::create_dir(&folder).expect("a folder");
        let it = Self(folder);
        scripts.iter().for_each(|(name, script)| it.write(name, script));
        it
    }

    fn write(&self, name: &str, script: &str) {
        let file = self.0.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("made executable");
    }

    fn programs(&self, limit: Duration) -> Programs {
        Programs::new(self.0.clone(), limit)
    }

    fn before(&self) -> Processors {
        Processors { pre: self.programs(Duration::from_secs(30)), post: Programs::default() }
    }

    fn after(&self) -> Processors {
        Processors { pre: Programs::default(), post: self.programs(Duration::from_secs(30)) }
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn post(rig: &Rig, experiment: &str) -> PostRow {
    let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
    store::fetch_post(&mut conn, experiment).await.expect("read").expect("is there")
}

async fn is_gone(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).expect("it noted its number");
    let proc = Path::new("/proc").join(pid.trim());
    let begun = Instant::now();
    // What is killed may lie as a zombie until whoever inherits it looks.
    let is_dead = || fs::read_to_string(proc.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    while !is_dead() && begun.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    is_dead()
}

#[tokio::test]
async fn preprocessors_change_an_experiment_in_order_of_their_names() {
    for url in engines() {
        let (mut rig, ada) = (Rig::new(&url).await, user("ada"));
        let scripts = Scripts::new(&[
            ("20-b", "sed 's/\"commands\":\\[\"a\"\\]/\"commands\":[\"a\",\"b\"]/'"),
            ("10-a", "sed 's/\"commands\":\\[\\]/\"commands\":[\"a\"]/; s/\"cleanup\":true/\"cleanup\":false/g'"),
            ("30-content", "cat >/dev/null"),
            (".hidden", "exit 1"),
        ]);
        fs::write(scripts.0.join("README"), "not executable").expect("written");
        rig.experiments.processors = scripts.before();
        assert!(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await.expect("prepared"));
        let detail = rig.detail(&ada, "x").await;
        let document: serde_json::Value =
            serde_json::from_str(&detail.deployments[0].row.document).expect("it is JSON");
        assert_eq!(document["environment_definition"]["commands"], serde_json::json!(["a", "b"]));
        assert_eq!(detail.deployments[0].row.cleanup, 0);
        assert_eq!(detail.deployments[0].graph.as_deref(), Some(super::rig::GRAPH));
        scripts.write("40-no", "exit 1");
        assert!(!rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await.expect("a repeat of what was sent"));
        assert!(rig.experiments.prepare(&ada, "x", &order(&["lo-2"])).await.is_err(), "other content");
    }
}

#[tokio::test]
async fn a_preprocessor_refuses_by_name_and_nothing_is_taken() {
    let (mut rig, ada) = (Rig::new("sqlite:").await, user("ada"));
    let scripts = Scripts::new(&[("quota", "echo 'quota: ada has used 5 of 5' >&2; exit 3")]);
    rig.experiments.processors = scripts.before();
    let refusal = |refused: Result<bool, _>| -> String {
        let refused: crate::experiment::service::Refusal = refused.expect_err("refused");
        refused.to_string()
    };
    let refused = refusal(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await);
    assert_eq!(refused, "The preprocessor quota refuses it: quota: ada has used 5 of 5");
    scripts.write("quota", "sed 's/lo-1/lo-2/'");
    let refused = refusal(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await);
    assert_eq!(refused, "The preprocessor quota changed deployments[0].node, which it may not");
    scripts.write("quota", "sed 's/\"A\":\"b\"/\"A\":\"b c\"/'");
    let refused = refusal(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await);
    assert!(refused.contains("refused: Environment variables in runtime context must not contain spaces"), "{refused}");
    fs::write(scripts.0.join("quota"), "#!/nowhere\n").expect("written");
    let refused = refusal(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await);
    assert!(refused.starts_with("The preprocessor quota cannot be started"), "{refused}");
    let spec = serde_json::from_value(serde_json::json!({
        "deployments": [{"nodes": {"take": 1}, "tasks": [{"name": "t", "script": "true"}]}],
    }));
    let refused = refusal(rig.experiments.run(&ada, "y", &spec.expect("a file"), true).await);
    assert!(refused.starts_with("The preprocessor quota cannot be started"), "a file's too: {refused}");
    rig.experiments.processors.pre = Programs::new("/nowhere".into(), Duration::from_secs(1));
    let refused = refusal(rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await);
    assert!(refused.starts_with("The preprocessors cannot be found"), "{refused}");
    let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
    assert!(store::locks(&mut conn, None).await.expect("read").is_empty());
    assert!(store::find_experiment(&mut conn, "ada", "x").await.expect("read").is_none());
}

#[tokio::test]
async fn a_preprocessor_sees_a_file_and_may_change_its_environment() {
    let (mut rig, ada) = (Rig::new("sqlite:").await, user("ada"));
    let scripts = Scripts::new(&[(
        "all",
        "tee seen | sed 's/\"keep_alive_timeout_minutes\":10/\"keep_alive_timeout_minutes\":7/g'",
    )]);
    rig.experiments.processors = scripts.before();
    let spec = serde_json::from_value(serde_json::json!({
        "deployments": [{"nodes": {"take": 2}, "tasks": [{"name": "t", "script": "true"}]}],
    }));
    let spec = spec.expect("a file");
    assert!(rig.experiments.run(&ada, "x", &spec, true).await.expect("made"));
    assert!(!rig.experiments.run(&ada, "x", &spec, true).await.expect("a repeat"));
    let detail = rig.detail(&ada, "x").await;
    assert_eq!(detail.deployments.iter().map(|d| d.row.keep_alive_minutes).collect::<Vec<_>>(), [7, 7]);
    let seen = fs::read_to_string(scripts.0.join("seen")).expect("it saw it");
    assert!(seen.contains("\"script\":\"true\"") && seen.contains("\"name\":\"x\""), "{seen}");
}

#[tokio::test]
async fn what_is_over_its_limit_is_killed_with_all_its_processes() {
    let scripts = Scripts::new(&[("slow", "sleep 300 & echo $! >child; wait")]);
    let (mut rig, ada) = (Rig::new("sqlite:").await, user("ada"));
    rig.experiments.processors.pre = scripts.programs(Duration::from_millis(500));
    let refused = rig.experiments.prepare(&ada, "x", &order(&["lo-1"])).await.expect_err("refused");
    assert_eq!(refused.to_string(), "The preprocessor slow took longer than 0.5 s and was ended");
    assert!(is_gone(&scripts.0.join("child")).await, "its child is gone too");
}

#[tokio::test]
async fn a_program_is_told_nothing_of_the_controllers_environment() {
    let scripts = Scripts::new(&[("env", "env")]);
    let programs = scripts.programs(Duration::from_secs(30));
    let ended = programs.run(&scripts.0.join("env"), b"").await.expect("it ends");
    let text = String::from_utf8(ended.output).expect("text");
    let names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(
        names.iter().all(|name| ["PATH", "HOME", "LANG", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_program_that_leaves_its_output_open_is_not_waited_for() {
    let scripts = Scripts::new(&[("leaves", "echo said; sleep 300 & echo $! >child")]);
    let programs = scripts.programs(Duration::from_secs(60));
    let begun = Instant::now();
    let ended = programs.run(&scripts.0.join("leaves"), b"").await.expect("it ends");
    assert!(ended.status.success() && ended.output == b"said\n" && begun.elapsed() < Duration::from_secs(30));
    let left = fs::read_to_string(scripts.0.join("child")).expect("it noted its number");
    let left = left.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a number");
    rustix::process::kill_process(left, rustix::process::Signal::KILL).expect("what was left runs on until now");
}

#[tokio::test]
async fn a_program_that_writes_without_end_is_ended() {
    let scripts = Scripts::new(&[("yes", "exec yes")]);
    let programs = scripts.programs(Duration::from_secs(60));
    let refused = programs.run(&scripts.0.join("yes"), b"").await.expect_err("too much");
    assert_eq!(refused.to_string(), "wrote more than 64 MiB and was ended");
}

#[tokio::test]
async fn postprocessors_are_told_once_an_experiment_has_ended_and_what_they_say_is_shown() {
    for url in engines() {
        let (mut rig, ada) = (Rig::new(&url).await, user("ada"));
        let scripts =
            Scripts::new(&[("10-mail", "cat >told; echo '{\"message\": \"mail is sent\"}'"), ("20-silent", "true")]);
        rig.experiments.processors = scripts.after();
        let executors = rig.running(&ada, "x", &["lo-1", "lo-2"]).await;
        let mut postprocess = Postprocess { experiments: rig.experiments.clone(), under_way: Default::default() };
        assert_eq!(postprocess.reconcile().await, Ok(0), "it has not ended");
        rig.ended(&executors[0], Phase::Succeeded, b"all").await;
        rig.ended(&executors[1], Phase::Failed, b"").await;
        rig.round().await;
        assert_eq!(rig.status(&ada, "x").await, Status::Finished);
        assert_eq!(postprocess.reconcile().await, Ok(1));
        let id = rig.detail(&ada, "x").await.row.id;
        let begun = Instant::now();
        while post(&rig, &id).await.told_at.is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", post(&rig, &id).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let marked = post(&rig, &id).await;
        assert_eq!((marked.tries, marked.due_at, marked.message.as_str()), (1, None, "mail is sent"));
        let told = fs::read(scripts.0.join("told")).expect("it was told");
        let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!((&told["owner"], &told["status"]), (&"ada".into(), &"finished".into()));
        assert_eq!(told["deployments"][0]["result"]["bytes"], 3);
        assert_eq!(told["deployments"][1]["outcome"], "failed");
        fs::remove_file(scripts.0.join("told")).expect("removed");
        assert_eq!(postprocess.reconcile().await.map(|_| scripts.0.join("told").exists()), Ok(false), "not again");
    }
}

#[tokio::test]
async fn a_failed_postprocessor_is_shown_and_tried_again_later() {
    for url in engines() {
        let (mut rig, ada) = (Rig::new(&url).await, user("ada"));
        let scripts = Scripts::new(&[("mail", "echo 'no route' >&2; exit 1")]);
        rig.experiments.processors = scripts.after();
        let executors = rig.running(&ada, "x", &["lo-1"]).await;
        rig.ended(&executors[0], Phase::Succeeded, b"all").await;
        rig.round().await;
        let id = ExperimentId(rig.detail(&ada, "x").await.row.id);
        for tries in 1..=4 {
            tell(&rig.experiments, &id).await.expect("marked");
            let marked = post(&rig, &id.0).await;
            assert_eq!((marked.tries, marked.told_at), (tries, None));
            assert_eq!(marked.error, "The postprocessor mail failed: no route");
            assert_eq!(marked.due_at.is_some(), tries < 4);
            let now = rig.experiments.fleet.db.clock().now();
            let mut conn = rig.experiments.fleet.db.read().await.expect("a connection");
            assert!(store::due_posts(&mut conn, now, 10).await.expect("read").is_empty(), "not at once");
        }
        scripts.write("mail", "true");
        tell(&rig.experiments, &id).await.expect("marked");
        assert_eq!(post(&rig, &id.0).await.error, "");
    }
}

#[tokio::test]
async fn a_slow_postprocessor_holds_no_other_experiment_up() {
    let (mut rig, ada) = (Rig::new("sqlite:").await, user("ada"));
    let slow = "case $(cat) in *'\"name\":\"slow\"'*) sleep 300;; esac";
    let scripts = Scripts::new(&[("some", slow)]);
    rig.experiments.processors = scripts.after();
    for (name, node) in [("slow", "lo-1"), ("quick", "lo-2")] {
        let executors = rig.running(&ada, name, &[node]).await;
        rig.ended(&executors[0], Phase::Succeeded, b"all").await;
        rig.round().await;
    }
    let mut postprocess = Postprocess { experiments: rig.experiments.clone(), under_way: Default::default() };
    assert_eq!(postprocess.reconcile().await, Ok(2));
    let (quick, slow) = (rig.detail(&ada, "quick").await.row.id, rig.detail(&ada, "slow").await.row.id);
    let begun = Instant::now();
    while post(&rig, &quick).await.told_at.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(post(&rig, &slow).await.tries, 0);
}

#[tokio::test]
async fn the_examples_do_what_they_say() {
    let example = |folder: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/experiments").join(folder);
        Programs::new(folder.canonicalize().expect("is there"), Duration::from_secs(30))
    };
    let (mut rig, ada) = (Rig::new("sqlite:").await, user("ada"));
    rig.experiments.processors = Processors { pre: example("preprocessors"), post: example("postprocessors") };
    let many = order(&["lo-1"; 51]);
    let refused = rig.experiments.prepare(&ada, "x", &many).await.expect_err("too many");
    let why = "The preprocessor 10-quota refuses it: 51 nodes are asked for, and an experiment gets at most 50";
    assert_eq!(refused.to_string(), why);
    let executors = rig.running(&ada, "x", &["lo-1", "lo-2"]).await;
    rig.ended(&executors[0], Phase::Succeeded, b"all").await;
    rig.ended(&executors[1], Phase::Failed, b"").await;
    rig.round().await;
    let id = ExperimentId(rig.detail(&ada, "x").await.row.id);
    tell(&rig.experiments, &id).await.expect("marked");
    assert_eq!(post(&rig, &id.0).await.message, "1 of 2 nodes succeeded");
}
