use std::{collections::BTreeMap, path::Path};

use super::{HttpTls, KEYS, Settings};

fn resolve(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> crate::error::Result<Settings> {
    let flags: BTreeMap<_, _> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    Settings::resolve(&flags, env, Some((Path::new("/etc/c.toml"), file)))
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let file = "sample_seconds = 1\naccept_burst = 2\nlog = \"json\"";
    let env = [("MUSTER_SAMPLE_SECONDS", "3"), ("MUSTER_ACCEPT_BURST", "4")];
    let settings = resolve(&[("sample_seconds", "5")], &env, file).expect("resolves");
    let config = settings.check().expect("is right");
    assert_eq!((config.sample_seconds, config.accept_burst), (5, 4));
    let shown = settings.show(true);
    assert!(shown.contains("sample_seconds = \"5\"  # flag"), "{shown}");
    assert!(shown.contains("accept_burst = \"4\"  # environment MUSTER_ACCEPT_BURST"), "{shown}");
    assert!(shown.contains("log = \"json\"  # /etc/c.toml"), "{shown}");
    assert!(shown.contains("trust_domain = \"muster.internal\"  # default"), "{shown}");
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_named() {
    let refused = resolve(&[], &[], "http_listn = \"127.0.0.1:1\"").expect_err("refused").to_string();
    assert!(refused.contains("http_listn") && refused.contains("did you mean \"http_listen\""), "{refused}");
    let refused = resolve(&[], &[], "colour = \"red\"").expect_err("refused").to_string();
    assert!(!refused.contains("did you mean"), "{refused}");
}

#[test]
fn plain_http_is_for_loopback_or_behind_a_proxy() {
    let check = |file: &str| resolve(&[], &[], file).and_then(|s| s.check());
    let refused = check("http_listen = \"0.0.0.0:8080\"").expect_err("refused").to_string();
    assert!(refused.contains("http_listen") && refused.contains("in the clear"), "{refused}");
    check("http_listen = \"0.0.0.0:8080\"\nbehind_proxy = true").expect("a proxy stands in front");
    check("http_listen = \"[::1]:8080\"").expect("loopback");
    let config = check("http_listen = \"0.0.0.0:8080\"\nhttp_tls = \"house\"").expect("encrypted");
    assert_eq!(config.http_tls, HttpTls::House);
    assert!(check("http_tls = \"files\"").is_err(), "files need names");
    assert!(check("homes = [\"home.example\"]").is_err(), "a home has a port");
}

#[test]
fn a_password_in_the_database_url_is_never_shown() {
    let settings =
        resolve(&[("database", "postgres://muster:secret@db/muster?password=other")], &[], "").expect("resolves");
    let shown = settings.show(false);
    assert!(shown.contains("postgres://muster:...@db/muster"), "{shown}");
    let config = format!("{:?}", settings.check().expect("is right"));
    for text in [shown, config] {
        assert!(!text.contains("secret") && !text.contains("other"), "{text}");
    }
}

#[test]
fn systemd_says_where_data_and_credentials_are() {
    let folder = std::env::temp_dir().join(format!("credentials-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("seal-key"), [7; 32]).expect("a key");
    let credentials = folder.display().to_string();
    let env = [("STATE_DIRECTORY", "/var/lib/muster-controller"), ("CREDENTIALS_DIRECTORY", credentials.as_str())];
    let config = resolve(&[], &env, "").and_then(|s| s.check()).expect("is right");
    assert_eq!(config.data_dir, Path::new("/var/lib/muster-controller"));
    assert_eq!(config.database, "sqlite:/var/lib/muster-controller/muster.db");
    assert_eq!(config.seal_key, folder.join("seal-key"));
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn the_sample_file_is_right_and_names_every_setting() {
    let text = include_str!("../../../deploy/examples/controller.toml");
    resolve(&[], &[], text).and_then(|s| s.check()).expect("the sample as it is");
    for key in &KEYS {
        assert!(text.contains(&format!("{} = ", key.name)), "the sample does not name {}", key.name);
    }
    let spelled_out: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix("#= ").unwrap_or(line))).collect();
    resolve(&[], &[], &spelled_out).and_then(|s| s.check()).expect("the sample with every setting given");
}
