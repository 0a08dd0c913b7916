use std::{fs, os::unix::fs::PermissionsExt};

use muster_proto::experiment as proto;
use proto::image::Source;

use super::{
    super::{
        deployment::Deployments,
        image::{Start, copied_graph, run_arguments},
        model::Container,
    },
    rig::*,
};
use crate::driver::Driver;

/// A stand-in for an engine: writes down how it is called and what it sees.
const ENGINE: &str = r#"
here=$(dirname "$0")
printf '%s\n' "$*" >> "$here/calls"
case $1 in
    build) cp "$7" "$here/file"; ls -A "${@: -1}" > "$here/context"; echo "step 1 of 1"; [ ! -e "$here/fails" ] || { echo "no such base" >&2; exit 17; }
        [ ! -e "$here/hangs" ] || sleep 1000 ;;
    image) echo 4711 ;;
    save) printf 'archive of %s' "$4" > "$3" ;;
    load) cp "$3" "$here/loaded" ;;
    ps) [ ! -e "$here/left" ] || echo c0ffee ;;
    run) env | sort > "$here/environment"; echo ran; [ ! -e "$here/hangs" ] || sleep 1000 ;;
esac
"#;

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let engine = dir.path().join("tools/engine");
    fs::create_dir(dir.path().join("tools")).unwrap();
    fs::write(&engine, format!("#!/bin/bash\n{ENGINE}")).unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    Rig::within(dir, |settings| settings.engine = Some(engine)).await
}

fn tools(rig: &Rig) -> std::path::PathBuf {
    rig.ground.engine().unwrap().parent().unwrap().to_owned()
}

fn calls(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(tools(rig).join("calls")).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with("ps ")).map(str::to_owned).collect()
}

fn image(source: Source, save: bool) -> proto::Deployment {
    let image = proto::Image { name: "lab/net:1".into(), source: Some(source), platform: "linux/amd64".into(), save };
    let mut document = deployment(&shell(&[]));
    document.environment.as_mut().unwrap().kind = Some(proto::environment::Kind::Image(image));
    document
}

#[tokio::test]
async fn a_host_offers_to_build_for_others_where_its_owner_says_so_and_it_can() {
    for (has_engine, builder, right) in
        [(true, true, "builder image shell"), (true, false, "image shell"), (false, true, "shell")]
    {
        let dir = tempfile::tempdir().unwrap();
        let engine = has_engine.then(|| "/bin/true".into());
        let rig = Rig::within(dir, |settings| (settings.engine, settings.builder) = (engine, builder)).await;
        assert_eq!(Deployments(rig.ground.clone()).capability().offers.join(" "), right);
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_for_its_platform() {
    let rig = rig().await;
    let it = image(Source::Pull(proto::Pull {}), false);
    let (end, result, heard) = rig.deploy("a", &it).await;
    assert!(end.succeeded && result.environment_bytes == 4711, "{}", result.message);
    assert!(heard.text().contains("$ engine pull --platform linux/amd64 lab/net:1"), "{}", heard.text());
    assert!(rig.deploy("b", &it).await.1.cached);
    assert_eq!(calls(&rig), ["pull --platform linux/amd64 lab/net:1", "image inspect --format {{.Size}} lab/net:1"]);
}

#[tokio::test]
async fn an_image_is_built_in_a_folder_that_holds_its_file_and_its_graph() {
    let rig = rig().await;
    let text = "FROM python:3.11-slim\nRUN echo hello\nCOPY 77.execution_graph netunicorn.execution_graph\n";
    let it = proto::Deployment {
        graph: with_graph(&shell(&[]), b"pickle").graph,
        ..image(Source::Containerfile(text.into()), true)
    };
    let (end, result, heard) = rig.deploy("a", &it).await;
    assert!(end.succeeded && heard.text().contains("step 1 of 1"), "{} {}", result.message, heard.text());
    let build = &calls(&rig)[0];
    assert!(build.starts_with("build --platform linux/amd64 -t lab/net:1 -f "), "{build}");
    assert_eq!(fs::read_to_string(tools(&rig).join("file")).unwrap(), text);
    assert_eq!(fs::read_to_string(tools(&rig).join("context")).unwrap(), "77.execution_graph\n");
    let archive = result.archive.unwrap();
    assert_eq!(rig.outgoing(&archive.blob), b"archive of lab/net:1");
    let loading = proto::Deployment {
        environment: image(Source::Archive(archive), false).environment,
        ..deployment(&shell(&[]))
    };
    let other = self::rig().await;
    let arriving = other.arrive(b"archive of lab/net:1".to_vec());
    assert!(tokio::join!(other.deploy("a", &loading), arriving).0.0.succeeded);
    assert_eq!(fs::read(tools(&other).join("loaded")).unwrap(), b"archive of lab/net:1");
    let (scratch, environment) = (rig.dir.path().join("experiment/scratch"), loading.environment.unwrap());
    assert!(!scratch.exists() || fs::read_dir(scratch).unwrap().count() == 0, "no build folder is left");
    let clean = proto::Cleanup { experiment_id: "e".into(), folder: true, environments: vec![environment.digest] };
    assert!(rig.clean("a", &clean).await.0.succeeded);
    assert_eq!(calls(&rig).last().unwrap(), "rmi lab/net:1");
}

#[tokio::test]
async fn a_build_that_fails_or_takes_too_long_says_so_and_counts_for_nothing() {
    let rig = rig().await;
    let mut it = image(Source::Containerfile("FROM nothing".into()), false);
    fs::write(tools(&rig).join("fails"), "").unwrap();
    let (end, result, _) = rig.deploy("a", &it).await;
    assert!(
        !end.succeeded && result.exit_code == Some(17) && result.message.contains("no such base"),
        "{}",
        result.message
    );
    fs::rename(tools(&rig).join("fails"), tools(&rig).join("hangs")).unwrap();
    it.environment.as_mut().unwrap().limit_seconds = 1;
    let (end, result, _) = rig.deploy("b", &it).await;
    assert!(!end.succeeded && result.message.contains("took too long"), "{}", result.message);
    fs::remove_file(tools(&rig).join("hangs")).unwrap();
    let (end, result, _) = rig.deploy("c", &it).await;
    assert!(end.succeeded && !result.cached);
    it.environment.as_mut().unwrap().digest = vec![7; 32].into();
    it.environment.as_mut().unwrap().limit_bytes = 4710;
    let (end, result, _) = rig.deploy("d", &it).await;
    assert!(!end.succeeded && result.message.contains("4711 bytes, and 4710 are allowed"), "{}", result.message);
}

#[tokio::test]
async fn an_executor_in_a_container_gets_its_environment_unseen_and_leaves_no_container() {
    let rig = rig().await;
    assert!(rig.deploy("x", &image(Source::Pull(proto::Pull {}), false)).await.0.succeeded);
    let mut it = executor(&shell(&[]));
    it.image = "lab/net:1".into();
    it.variables = vec![proto::Variable { name: "TOKEN".into(), value: "secret".into() }];
    let (end, result, heard) = rig.execute("x", &it).await;
    assert!(end.succeeded && heard.text().contains("ran\n"), "{}", result.message);
    let all = calls(&rig);
    let run = all.iter().find(|call| call.starts_with("run ")).unwrap();
    let label = rig.ground.label();
    let expected = format!(
        "run --rm --name muster-x --label {label} -e TOKEN -e NETUNICORN_EXECUTOR_ID -e NETUNICORN_EXPERIMENT_ID \
         -e NETUNICORN_GATEWAY_ENDPOINT -e NETUNICORN_EXECUTOR_HEARTBEAT_SECONDS --network host lab/net:1"
    );
    assert_eq!(*run, expected);
    assert_eq!(all.last().unwrap(), "rm --force muster-x");
    let environment = fs::read_to_string(tools(&rig).join("environment")).unwrap();
    assert!(environment.contains("TOKEN=secret\n") && environment.contains("NETUNICORN_EXECUTOR_ID=x\n"));
}

#[tokio::test]
async fn containers_that_a_former_run_left_are_removed() {
    let rig = rig().await;
    fs::write(tools(&rig).join("left"), "").unwrap();
    rig.ground.swept().await;
    assert_eq!(calls(&rig), ["rm --force c0ffee"]);
    let all = fs::read_to_string(tools(&rig).join("calls")).unwrap();
    assert!(all.contains(&format!("ps --all --quiet --filter label={}", rig.ground.label())), "{all}");
}

#[tokio::test]
async fn tasks_run_in_containers_that_see_their_folder() {
    let rig = rig().await;
    assert!(rig.deploy("x", &image(Source::Pull(proto::Pull {}), false)).await.0.succeeded);
    let task = proto::Task { name: "t".into(), command: vec!["probe".into(), "--all".into()], ..Default::default() };
    let pipeline = proto::Pipeline { tasks: vec![task], ..Default::default() };
    let mut it = executor(&shell(&[]));
    (it.image, it.work) = ("lab/net:1".into(), Some(proto::executor::Work::Pipeline(pipeline)));
    let (end, result, _) = rig.execute("x", &it).await;
    assert!(end.succeeded, "{}", result.message);
    let all = calls(&rig);
    let run = all.iter().find(|call| call.starts_with("run ")).unwrap();
    let folder = rig.ground.executor("x").display().to_string();
    let end = format!("-v {folder}:{folder} -w {folder}/tasks/0-t-0-1 lab/net:1 probe --all");
    assert!(run.ends_with(&end), "{run}");
}

#[test]
fn ports_and_further_arguments_come_before_the_image() {
    let container = Container {
        image: "i".into(),
        ports: [(8080, 80)].into(),
        arguments: vec!["--cap-add".into(), "NET_ADMIN".into()],
        network: "lab".into(),
    };
    let env = vec![("PATH".to_owned(), "/inside".to_owned())];
    let (args, env) = run_arguments(&container, &Start { name: "n", env, ..Start::default() }, "l");
    assert_eq!(
        args.join(" "),
        "run --rm --name n --label l -e PATH=/inside --network lab -p 8080:80 --cap-add NET_ADMIN i"
    );
    assert!(env.is_empty(), "the engine keeps its own PATH");
}

#[test]
fn the_graph_is_put_where_the_file_copies_it() {
    assert_eq!(copied_graph("FROM x\nCOPY a.execution_graph netunicorn.execution_graph\n"), Some("a.execution_graph"));
    assert_eq!(copied_graph("COPY a /work/netunicorn.execution_graph"), Some("a"));
    assert_eq!(copied_graph("COPY ../../etc/x netunicorn.execution_graph\nRUN COPY"), None);
    assert_eq!(copied_graph("RUN true\nCOPY a b"), None);
}
