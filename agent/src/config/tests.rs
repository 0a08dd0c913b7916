use super::*;

fn with(text: &str, flags: Vec<(&str, Value)>, env: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    fs::write(&file, text).unwrap();
    load(Some(&file), flags, env.iter().map(|(k, v)| (k.to_string(), v.to_string())))
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    let text = "state_dir = '/file'\nlog = 'file'\nhomes = ['file:1']\n";
    let env = [("MUSTER_AGENT_LOG", "env"), ("MUSTER_AGENT_HOMES", "env:1,env:2"), ("HOME", "/x")];
    let loaded = with(text, vec![("log", Value::from("flag"))], &env).unwrap();
    assert_eq!(loaded.config.state_dir, Path::new("/file"));
    assert_eq!(loaded.config.homes, ["env:1", "env:2"]);
    assert_eq!(loaded.config.log, "flag");
    assert_eq!(loaded.config.spool_bytes, 64 << 20);
    let origin = |key: &str| loaded.origins[key].1.clone();
    assert_eq!((origin("log").as_str(), origin("homes").as_str()), ("--log", "MUSTER_AGENT_HOMES"));
    assert_eq!((origin("spool_bytes").as_str(), origin("state_dir").ends_with("agent.toml")), ("default", true));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let text = |e: anyhow::Result<Loaded>| e.unwrap_err().to_string();
    let nested = text(with("[staging.wrappers.demo]\npath = '/x'\nenvfile = '/y'\n", vec![], &[]));
    assert!(nested.contains("agent.toml") && nested.contains("envfile"), "{nested}");
    assert!(text(with("sate_dir = '/x'", vec![], &[])).contains("sate_dir"));
    assert!(text(with("", vec![], &[("MUSTER_AGENT_STATEDIR", "x")])).contains("MUSTER_AGENT_STATEDIR"));
    assert!(text(with("spool_bytes = 'much'", vec![], &[])).contains("agent.toml"));
}

#[test]
fn wrapper_folders_are_read_and_their_environment_is_not_shown() {
    let text = "[staging.wrappers.demo]\npath = '/opt/demo'\nenv = ['KEY=secret']\nenv_file = '/etc/demo.env'\n";
    let loaded = with(text, vec![], &[]).unwrap();
    let folder = &loaded.config.staging.wrappers["demo"];
    assert_eq!(
        (folder.path.as_path(), folder.env.as_slice()),
        (Path::new("/opt/demo"), &["KEY=secret".to_owned()][..])
    );
    assert!(!format!("{:?}", loaded.origins).contains("secret"));
}

#[test]
fn what_is_said_of_experiments_goes_over_the_defaults_one_by_one() {
    let settings = with("[experiment]\nengine = 'podman'\npython = ''\n", vec![], &[]).unwrap().config.experiment;
    assert_eq!((settings.engine.as_deref(), settings.python.as_os_str().is_empty()), (Some(Path::new("podman")), true));
    assert_eq!(settings.packages, ["netunicorn-executor", "netunicorn-library", "cloudpickle"]);
    let none = with("", vec![], &[]).unwrap().config.experiment;
    assert_eq!((none.engine, none.python.as_path()), (None, Path::new("python3")));
}

#[test]
fn the_sample_that_is_shipped_is_read() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/agent.toml");
    let loaded = load(Some(Path::new(sample)), Vec::new(), std::iter::empty()).expect("it is right");
    assert!(loaded.config.accept.kinds.contains(&"staging.*".to_owned()));
    assert_eq!(loaded.config.staging.wrappers["process"].env, ["STAGINGS_DIR=/var/lib/muster-agent/stagings"]);
}
