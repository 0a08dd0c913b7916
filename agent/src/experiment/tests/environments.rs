use std::{fs, time::Duration};

use muster_proto::experiment as proto;
use tokio_util::sync::CancellationToken;

use super::{
    super::{deployment::Deployments, environment, ground::READY, model::Shell, python::Python},
    rig::*,
};
use crate::driver::Driver;

#[tokio::test]
async fn an_environment_is_made_once_however_many_want_it() {
    let rig = Rig::new().await;
    let count = rig.dir.path().join("count");
    let it = deployment(&shell(&[&format!("echo once >> {}; sleep 0.2; echo made", count.display())]));
    let (a, b, c) = tokio::join!(rig.deploy("a", &it), rig.deploy("b", &it), rig.deploy("c", &it));
    assert!([&a, &b, &c].iter().all(|(end, result, _)| {
        end.succeeded && result.step() == proto::deployment_result::Step::Ready && result.environment_bytes < 100
    }));
    assert!(a.2.text().contains("$ echo once") && a.2.text().ends_with("made\n"), "{}", a.2.text());
    assert!(b.2.text().contains("another deployment makes the same"), "{}", b.2.text());
    let (_, again, heard) = rig.deploy("d", &it).await;
    assert!(again.cached && heard.groups.lock().unwrap().is_empty(), "no process was started");
    assert_eq!(fs::read_to_string(count).unwrap(), "once\n");
}

#[tokio::test]
async fn commands_find_the_programs_that_earlier_ones_made() {
    let rig = Rig::new().await;
    let make = "printf '#!/bin/sh\\necho I am $1\\n' > bin/tool; chmod +x bin/tool";
    let (end, _, heard) = rig.deploy("a", &deployment(&shell(&[make, "tool here"]))).await;
    assert!(end.succeeded && heard.text().ends_with("$ tool here\nI am here\n"), "{}", heard.text());
}

#[tokio::test]
async fn what_fails_says_why_and_leaves_nothing() {
    let rig = Rig::new().await;
    let it = deployment(&shell(&["touch half; sleep 1000 & echo no such package >&2; exit 3"]));
    let (end, result, heard) = rig.deploy("a", &it).await;
    assert_eq!((end.succeeded, result.exit_code), (false, Some(3)));
    assert!(result.message.ends_with("exited with 3: no such package"), "{}", result.message);
    let digest = muster_pki::hex(&it.environment.unwrap().digest);
    assert!(!rig.ground.environment(&digest).exists() && !rig.ground.executor("a").exists());
    let group = heard.groups.lock().unwrap()[0].clone();
    assert!(!rig.ground.host.is_alive(&group), "what it left running was ended");
}

#[tokio::test]
async fn time_and_room_are_limited() {
    let rig = Rig::with(|settings| settings.environments_bytes = 1 << 20).await;
    let mut slow = deployment(&shell(&["sleep 1000"]));
    slow.environment.as_mut().unwrap().limit_seconds = 1;
    let (end, result, _) = rig.deploy("a", &slow).await;
    assert!(!end.succeeded && result.message.contains("took too long"), "{}", result.message);
    let large = deployment(&shell(&["head -c 2000000 /dev/zero > large; sleep 1000"]));
    let (end, result, _) = rig.deploy("b", &large).await;
    assert!(!end.succeeded && result.message.contains("1048576 are allowed"), "{}", result.message);
    let full = deployment(&shell(&["head -c 1048576 /dev/zero > large"]));
    assert!(rig.deploy("c", &full).await.0.succeeded);
    let (end, result, _) = rig.deploy("d", &deployment(&shell(&["true"]))).await;
    assert!(!end.succeeded && result.message.contains("experiment.environments_bytes"), "{}", result.message);
}

#[tokio::test]
async fn a_cancelled_maker_leaves_nothing_and_the_next_begins_anew() {
    let rig = Rig::new().await;
    let gate = rig.dir.path().join("gate");
    let it = deployment(&shell(&[&format!("touch begun; until [ -e {} ]; do sleep 0.05; done", gate.display())]));
    let folder = rig.ground.environment(&muster_pki::hex(&digest(&shell(&[&format!(
        "touch begun; until [ -e {} ]; do sleep 0.05; done",
        gate.display()
    )]))));
    let (cancel, heard) = (CancellationToken::new(), Heard::default());
    let deployments = Deployments(rig.ground.clone());
    let first = run(&deployments, "a", &it, cancel.clone(), &heard);
    let meanwhile = async {
        until("the command runs", || folder.join("begun").exists().then_some(())).await;
        let second = rig.deploy("b", &it);
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cancel.cancel();
            fs::write(&gate, "").unwrap();
        };
        tokio::join!(second, cancelling).0
    };
    let (first, (second, result, _)) = tokio::join!(first, meanwhile);
    assert!(!first.succeeded && second.succeeded, "{result:?}");
    assert!(folder.join(READY).exists() && !rig.ground.executor("a").exists());
}

#[tokio::test]
async fn half_an_environment_is_cleared_away_at_the_start() {
    let rig = Rig::new().await;
    assert!(rig.deploy("a", &deployment(&shell(&["true"]))).await.0.succeeded);
    let half = rig.ground.environment("half");
    fs::create_dir_all(half.join("lib")).unwrap();
    let (again, ..) = ground(rig.dir.path(), |_| ()).await;
    again.swept().await;
    assert!(!half.exists());
    assert!(again.ready(&muster_pki::hex(&digest(&shell(&["true"])))).is_some(), "the whole one stays");
}

#[tokio::test]
async fn an_id_that_is_no_folders_name_is_refused() {
    let rig = Rig::new().await;
    for id in ["../x", ".hidden", "a/b", "", &"x".repeat(65)] {
        let (end, result, _) = rig.deploy(id, &deployment(&shell(&[]))).await;
        assert!(!end.succeeded && result.message.contains("use 1 to 64 of"), "{id}: {}", result.message);
    }
}

#[tokio::test]
async fn what_the_host_lacks_is_refused_by_its_setting() {
    let rig = Rig::new().await;
    let deployments = Deployments(rig.ground.clone());
    assert_eq!(deployments.capability().offers, ["shell"]);
    let admit = |document: &proto::Deployment| deployments.admit(&prost::Message::encode_to_vec(document));
    assert!(admit(&deployment(&python_shell())).unwrap_err().message.contains("experiment.python"));
    let image = proto::Image {
        name: "alpine".into(),
        source: Some(proto::image::Source::Pull(proto::Pull {})),
        ..proto::Image::default()
    };
    let mut document = deployment(&shell(&[]));
    document.environment.as_mut().unwrap().kind = Some(proto::environment::Kind::Image(image));
    assert!(admit(&document).unwrap_err().message.contains("experiment.engine"));
    assert!(admit(&deployment(&shell(&[]))).is_ok());
}

#[test]
fn pip_installs_anew_what_the_hosts_python_lacks_and_nothing_else() {
    let python = |executor: Option<&str>, cloudpickle: Option<&str>| Python {
        path: "/usr/bin/python3".into(),
        version: "3.11.7".into(),
        executor: executor.map(str::to_owned),
        cloudpickle: cloudpickle.map(str::to_owned),
        paths: Vec::new(),
    };
    let shown = |python: &Python, version: &str| {
        let shell = Shell { commands: vec!["make x".into()], python: true, cloudpickle: version.into() };
        let packages = ["netunicorn-executor".to_owned(), "more".into()];
        let all = environment::commands(&shell, Some(python), &packages, "/e".as_ref());
        all.into_iter().map(|command| command.shown).collect::<Vec<_>>()
    };
    assert_eq!(shown(&python(Some("0.4.2"), Some("3.1.2")), "3.1.2"), ["make x"]);
    assert_eq!(
        shown(&python(Some("0.4.2"), Some("3.1.2")), "2.2.1"),
        ["pip install --upgrade cloudpickle==2.2.1", "make x"]
    );
    assert_eq!(shown(&python(None, None), ""), ["pip install --upgrade netunicorn-executor more", "make x"]);
}

#[tokio::test]
async fn a_python_environment_sees_what_the_host_has_and_keeps_its_own() {
    let Some(rig) = Rig::python().await else { return };
    let offers = Deployments(rig.ground.clone()).capability().offers;
    assert!(offers.contains(&"executor=0.4.2".to_owned()) && offers.is_sorted(), "{offers:?}");
    let commands = [
        "python -c 'import sys, netunicorn.executor; assert sys.prefix != sys.base_prefix; print(\"imported\")'",
        "pip --version && pip3 list | grep netunicorn-library",
        "python -c 'import sysconfig; open(sysconfig.get_path(\"purelib\") + \"/own.py\", \"w\").write(\"x = 7\")'",
        "python3 -c 'import own; print(own.x)'",
    ];
    let it = proto::Shell { python: true, ..shell(&commands) };
    let (end, result, heard) = rig.deploy("a", &deployment(&it)).await;
    assert!(end.succeeded, "{} {}", result.message, heard.text());
    assert!(heard.text().contains("imported\n") && heard.text().ends_with("7\n"), "{}", heard.text());
    assert_eq!(result.python_version.matches('.').count(), 2);
}
