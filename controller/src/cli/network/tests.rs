use clap::Parser;
use serde_json::{Value, json};

use super::{
    super::{Cli, Failure},
    install::{How, Kind},
    words::{self, End, Hang, Pair, Port},
};
use crate::network::model::{AccessKind, Distribution, EndpointKind, Protocol, Scope};

fn parses(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

/// What the command line's help shows as an example, one line each.
fn examples(command: &clap::Command) -> Vec<String> {
    let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut all: Vec<_> =
        own.lines().filter_map(|l| l.trim().strip_prefix("muster network ").map(str::to_owned)).collect();
    all.extend(command.get_subcommands().flat_map(examples));
    all
}

#[test]
fn every_example_of_the_help_is_understood() {
    let command = <Cli as clap::CommandFactory>::command();
    let network = command.find_subcommand("network").expect("there is one");
    let all = examples(network);
    assert!(all.len() > 25, "only {} examples were found", all.len());
    for line in all {
        let line = line.split(['|', '>', '"']).next().unwrap_or_default();
        // A text in quotes is cut off above, and its flag with it.
        let line = line.trim().trim_end_matches("--description");
        parses(&format!("muster network {line}")).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn names_are_taken_apart_and_a_wrong_one_is_told_what_is_right() {
    assert_eq!(words::pair("shop/front"), Ok(Pair("shop".into(), "front".into())));
    for wrong in ["shop", "shop/", "/front", "a/b/c"] {
        assert!(words::pair(wrong).is_err_and(|e| e.contains("shop/front")), "{wrong}");
    }
    assert!(words::site("paris").is_ok() && words::site("europe/paris").is_ok());
    assert!(words::point("paris/members").is_ok() && words::point("europe/paris/members").is_ok());
    for wrong in ["members", "a/b/c/d", "paris/", "//members"] {
        assert!(words::point(wrong).is_err_and(|e| e.contains("europe/paris/members")), "{wrong}");
    }
    assert_eq!(words::hang("paris/members=2"), Ok(Hang("paris".into(), "members".into(), 2)));
    assert_eq!(words::hang("paris/members"), Ok(Hang("paris".into(), "members".into(), 1)));
    assert!(words::hang("paris/members=first").is_err_and(|e| e.contains("paris/members=2")));
    assert_eq!(words::port("web:8080"), Ok(Port("web".into(), Some(8080))));
    assert!(words::port("web:http").is_err_and(|e| e.contains("web:8080")));
}

#[test]
fn times_are_said_as_people_say_them() {
    assert_eq!(words::span("90s"), Ok(90_000));
    assert_eq!(words::span("2w"), Ok(14 * 86_400_000));
    for wrong in ["", "d", "7", "7 days", "-1d", "99999999999999999999d", "9999999999999d"] {
        assert!(words::span(wrong).is_err_and(|e| e.contains("7d")), "{wrong}");
    }
    assert_eq!(words::moment("2026-12-01"), Ok(1_796_083_200_000));
    assert_eq!(words::moment("2026-12-01T08:00:00Z"), Ok(1_796_083_200_000 + 8 * 3_600_000));
    assert_eq!(words::moment("2026-12-01 08:00:00Z"), words::moment("2026-12-01T09:00:00+01:00"));
    let later = words::moment("+1h").expect("a time") - words::moment("now").expect("a time");
    assert!((3_599_000..=3_601_000).contains(&later), "{later}");
    assert!(words::moment("tomorrow").is_err_and(|e| e.contains("+7d")));
    assert_eq!(words::end("never"), Ok(End(None)));
}

#[test]
fn the_words_of_flags_are_those_of_the_model() {
    fn known<T: serde::de::DeserializeOwned>(line: &str, words: &[&str]) {
        for word in words {
            parses(&format!("muster network {line} {word}")).unwrap_or_else(|e| panic!("{line} {word}: {e}"));
            serde_json::from_value::<T>(json!(word)).unwrap_or_else(|e| panic!("{line} {word}: {e}"));
        }
        assert!(parses(&format!("muster network {line} nonsense")).is_err(), "{line}");
    }
    known::<AccessKind>("access-point create a/b/c --host h --port 1 --kind", &["peer", "member"]);
    known::<Protocol>("service set web --protocol", &["tcp", "http", "http2"]);
    known::<Scope>("service-link set a/b --scope", &["van", "site", "instance"]);
    known::<Distribution>("service-link set a/b --distribution", &["balanced", "closest", "unavailable"]);
    known::<EndpointKind>("endpoint set a/b --kind", &["process", "ingress", "egress"]);
}

#[test]
fn what_is_made_anew_is_told_what_it_lacks() {
    let spec = serde_json::Map::from_iter([("protocol".to_owned(), Value::from("tcp"))]);
    let fields = [("protocol", "--protocol"), ("default_port", "--default-port")];
    let failure = super::composition::needed(&spec, &fields).expect_err("it lacks its port");
    assert_eq!(failure.code, Failure::USAGE);
    assert!(failure.message.contains("--default-port") && !failure.message.contains("--protocol"), "{failure}");
}

#[test]
fn a_script_holds_all_that_a_host_needs_and_no_mark_is_left_in_it() {
    let how = How { router: Some("/opt/skrouterd".into()), ..How::default() };
    let script = how.script(Kind::Interior, "europe/paris", "token-of-paris\n");
    for part in [
        "the interior site europe/paris",
        "\ntoken-of-paris\n",
        "CAP_NET_BIND_SERVICE",
        "ExecStart=/usr/bin/muster-agent run",
        "u muster-agent -",
        "router = \"/opt/skrouterd\"",
    ] {
        assert!(script.contains(part), "{part}");
    }
    let marks = ["@WHAT@", "@VERSION@", "@UNIT@", "@USER@", "@CONF@", "@ROUTER@", "@TOKEN@"];
    assert!(marks.iter().all(|mark| !script.contains(mark)));
    let member = How::default().script(Kind::Member, "shop", "t");
    assert!(member.contains("a site of the application network shop") && !member.contains("CAP_NET_BIND_SERVICE"));
}

#[test]
fn bundles_that_are_not_here_yet_are_named_as_such() {
    for (how, name) in
        [(How { kubernetes: true, ..How::default() }, "Kubernetes"), (How { podman: true, ..How::default() }, "podman")]
    {
        let failure = how.check().expect_err("it is not here yet");
        assert!(failure.message.contains(name) && failure.message.contains("not here yet"), "{failure}");
    }
}
