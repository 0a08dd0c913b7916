//! Processes of a site, without a router.

use std::{path::PathBuf, sync::atomic::Ordering};

use muster_proto::network::{self as proto, endpoint, router_status::State};

use super::rig::{self, Home, Site};
use crate::network::Settings;

/// A site whose process writes down what it was given, and stays.
fn site(script: &str) -> (Site, tempfile::TempDir) {
    let programs = tempfile::tempdir().unwrap();
    let path = programs.path().join("shop");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = Settings {
        router: Some(PathBuf::from("/no/skrouterd")),
        processes: vec![programs.path().into()],
        containers: None,
    };
    let mut document = rig::edge("edge-a", "net1");
    document.tcp_connectors =
        vec![proto::TcpConnector { endpoint: "e1".into(), ..rig::tcp_connector("shop", "shop", rig::free_port()) }];
    document.endpoints = vec![proto::Endpoint {
        id: "e1".into(),
        kind: endpoint::Kind::Process.into(),
        name: "shop".into(),
        choice: endpoint::Choice::Open.into(),
        program: Some(proto::Program { image: "shop".into(), arguments: vec!["a b".into()], ..Default::default() }),
        attachments: vec![proto::Attachment {
            service_link: "data-base".into(),
            connects: true,
            host: "127.0.0.1".into(),
            port: 4711,
            ..Default::default()
        }],
        ..Default::default()
    }];
    (Site::new(document, Home::of(&[], "edge-a"), settings), programs)
}

const STAYS: &str = "#!/bin/sh\n(env; echo \"argument=$1\") > given.tmp; mv given.tmp given; exec sleep 1000\n";

#[tokio::test(flavor = "multi_thread")]
async fn where_no_router_is_installed_files_are_rendered_and_no_more_is_claimed() {
    let (site, _programs) = site(STAYS);
    let told = site.settled().await;
    let router = told.router.unwrap();
    assert_eq!((router.state(), router.pid, router.version.as_str()), (State::Rendered, 0, ""));
    assert_eq!((told.links.len(), told.ports.len()), (0, 0));
    let file = std::fs::read_to_string(site.folder().join("router.json")).unwrap();
    assert!(file.contains("\"tenantId\":\"net1\""), "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_its_ports_and_outlives_the_agent() {
    let (mut site, _programs) = site(STAYS);
    site.until("running", |told, _| told.processes[0].running).await;
    let folder = site.folder().join("processes").join(crate::network::profile::slug("e1"));
    let given = folder.join("given");
    site.until("it began", |_, _| given.exists()).await;
    let given = std::fs::read_to_string(given).unwrap();
    let port = site.document.tcp_connectors[0].port;
    for line in [
        &format!("MUSTER_PORT={port}"),
        "MUSTER_DATA_BASE_HOST=127.0.0.1",
        "MUSTER_DATA_BASE_PORT=4711",
        "argument=a b",
    ] {
        assert!(given.lines().any(|l| l == line), "{line} in {given}");
    }
    assert!(!given.contains("CARGO"), "the agent's environment is not handed on");
    let before = site.facts().processes["e1"].clone();
    site.restart();
    let told = site.settled().await;
    assert_eq!(site.facts().processes["e1"], before);
    assert_eq!((told.processes[0].running, told.processes[0].healthy, told.processes[0].restarts), (true, false, 0));
    let _listener = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    site.until("healthy", |told, _| told.processes[0].healthy).await;
    site.document.endpoints[0].choice = endpoint::Choice::Declined.into();
    site.generation += 1;
    let told = site.settled().await;
    assert_eq!(told.processes.len(), 0);
    assert!(!site.host.is_alive(&before.group()), "what is declined is ended");
    assert!(matches!(site.undo().await, crate::driver::Turn::Settled(_)));
    assert!(!site.folder().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_is_started_again_with_its_last_words_told() {
    let (site, _programs) = site("#!/bin/sh\necho no bread today >&2\nexit 3\n");
    let told = site.until("started again", |told, _| told.processes[0].restarts >= 2).await;
    let ended = |told: &proto::SiteResult, _| told.processes[0].message == "it ended: no bread today";
    site.until("its last words", ended).await;
    assert!(!told.processes[0].healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_run_says_what_is_missing() {
    let (mut site, _programs) = site(STAYS);
    for (image, tag, missing) in [
        ("gone", "", "no executable \"gone\""),
        ("../shop", "", "is no container image"),
        ("..", "", "no executable"),
        ("/bin/sleep", "", "no executable \"/bin/sleep\""),
        ("docker.io/library/nginx", "1.27", "docker.io/library/nginx:1.27 is a container image"),
    ] {
        let program = site.document.endpoints[0].program.as_mut().unwrap();
        (program.image, program.tag) = (image.into(), tag.into());
        site.generation += 1;
        let told = site.settled().await;
        assert!(told.processes[0].message.contains(missing), "{:?}", told.processes);
        assert!(!told.processes[0].running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_takes_the_place_of_one_left_over_and_none_is_left_when_it_ends() {
    let (mut site, programs) = site(STAYS);
    let (runner, said) = (programs.path().join("podman"), programs.path().join("said"));
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n[ \"$1\" = run ] && exec sleep 1000\nexit 1\n", said.display());
    std::fs::write(&runner, script).unwrap();
    std::fs::set_permissions(&runner, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    site.settings.containers = Some(runner);
    site.restart();
    let program = site.document.endpoints[0].program.as_mut().unwrap();
    (program.image, program.tag) = ("docker.io/library/nginx".into(), "1.27".into());
    let lines = || std::fs::read_to_string(&said).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    site.until("it runs", |told, _| told.processes[0].running && lines().len() == 2).await;
    let port = site.document.tcp_connectors[0].port;
    let name = lines()[0].strip_prefix("rm --force ").expect("what is left over goes first").to_owned();
    let began = format!(
        "run --rm --network host --name {name} --env MUSTER_PORT={port} --env MUSTER_DATA_BASE_HOST=127.0.0.1 \
         --env MUSTER_DATA_BASE_PORT=4711 docker.io/library/nginx:1.27 a b"
    );
    assert_eq!(lines()[1], began);
    site.restart();
    site.settled().await;
    assert_eq!(lines().len(), 2, "an agent that restarts leaves it alone");
    let first = site.facts().processes["e1"].clone();
    site.host.end_group(&first.group()).await;
    // A program that runs need not have said so yet.
    let began_again = || lines()[2..].iter().filter(|line| **line == began).count();
    site.until("it runs again", |told, _| told.processes[0].restarts == 1 && began_again() > 0).await;
    assert_eq!(began_again(), 1);
    assert!(lines()[2..].iter().filter(|line| **line == format!("rm --force {name}")).count() >= 1, "{:?}", lines());
    let second = site.facts().processes["e1"].clone();
    site.restart();
    site.document.endpoints[0].choice = endpoint::Choice::Declined.into();
    site.generation += 1;
    site.settled().await;
    assert_eq!(lines().last(), Some(&format!("rm --force {name}")), "whoever asked for it may have gone without it");
    assert!(!site.host.is_alive(&second.group()));
    let other = Site::new(site.document.clone(), Home::of(&[], "edge-a"), site.settings.clone());
    assert_ne!(other.folder(), site.folder());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_would_be_an_option_is_not_run() {
    let (mut site, programs) = site(STAYS);
    site.settings.containers = Some(programs.path().join("shop"));
    site.restart();
    for (image, tag) in [("--volume=/:/host", ""), ("--privileged", "1"), ("./x/y", "")] {
        let program = site.document.endpoints[0].program.as_mut().unwrap();
        (program.image, program.tag) = (image.into(), tag.into());
        site.generation += 1;
        let told = site.settled().await;
        assert!(told.processes[0].message.contains("is no container image"), "{:?}", told.processes);
        assert!(!told.processes[0].running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_though_nobody_remembers_it_is_ended_and_begun_anew() {
    let (mut site, _programs) = site(STAYS);
    site.until("running", |told, _| told.processes[0].running).await;
    let before = site.facts().processes["e1"].clone();
    for damage in ["{\"port\":", ""] {
        let lost = site.facts().processes["e1"].clone();
        std::fs::write(site.folder().join("site.json"), damage).unwrap();
        site.restart();
        site.until("running again", |told, settled| settled && told.processes[0].running).await;
        assert!(!site.host.is_alive(&lost.group()), "the one before is ended");
    }
    assert_ne!(site.facts().processes["e1"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_alone_are_news_once_a_minute_at_most() {
    let (site, _programs) = site(STAYS);
    site.home.is_away.store(true, Ordering::Relaxed);
    site.until("running", |told, settled| settled && told.processes[0].running).await;
    let essence = |turn: &crate::driver::Turn| rig::told(turn).unwrap().0.essence.clone();
    assert_eq!(essence(&site.turn().await), essence(&site.turn().await));
}
