use serde_json::{Value, json};

use crate::experiment::{
    connector::model::{
        Asked, ConnectorSpec, Fate, Fault, Graph, Health, Remote, Standing, Verb, fate, header, is_overdue, part,
    },
    model::{Outcome, Stage},
    plan::Told,
};

const MINUTE: i64 = 60_000;

fn remote(verb: Verb, asked: Asked) -> Remote {
    Remote {
        verb,
        asked,
        why: "no room".into(),
        asked_at: 1000,
        heard_at: None,
        graph_at: None,
        has_reported: false,
        final_at: None,
        too_long: false,
    }
}

fn outcome(told: &Told) -> Option<Outcome> {
    match told {
        Told::Ended(end) => Some(end.outcome),
        _ => None,
    }
}

#[test]
fn a_failing_connector_is_asked_again_at_growing_intervals_and_forgiven_at_once() {
    let mut it = Standing { health: Health::New, why: String::new(), failures: 0, next_at: 0 };
    let mut pauses = Vec::new();
    for _ in 0..8 {
        it = it.after(Err("refused".into()), 0, 0.0);
        pauses.push(it.next_at / 1000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!((it.health, it.why.as_str()), (Health::Failing, "refused"));
    assert_eq!(it.after(Err(String::new()), 0, 1.0).next_at, 48_000, "chance spreads the tries");
    let well = it.after(Ok("fine".into()), 5, 0.5);
    assert_eq!(well, Standing { health: Health::Well, why: "fine".into(), failures: 0, next_at: 30_005 });
}

#[test]
fn to_start_an_executor_is_not_asked_twice_unless_it_was_certainly_not_taken() {
    let (not_taken, unsure) = (Fault::NotTaken("refused".into()), Fault::Unsure("cut off".into()));
    let after = |verb, fault, now| fate(verb, fault, 1, 0, 10 * MINUTE, now, 0.0);
    assert_eq!(after(Verb::Execute, &unsure, 5), Fate::Wait);
    assert_eq!(after(Verb::Execute, &not_taken, 5), Fate::Again(1005));
    for verb in [Verb::Deploy, Verb::Stop, Verb::Cleanup] {
        assert_eq!(after(verb, &unsure, 5), Fate::Again(1005));
    }
    assert_eq!(after(Verb::Deploy, &unsure, 10 * MINUTE), Fate::Fail);
    assert_eq!(after(Verb::Cleanup, &unsure, 10 * MINUTE), Fate::Again(10 * MINUTE + 1000));
    assert!(is_overdue(Verb::Deploy, 0, MINUTE, MINUTE) && !is_overdue(Verb::Cleanup, 0, MINUTE, MINUTE));
    assert!(!is_overdue(Verb::Stop, 0, MINUTE, 60 * MINUTE), "what was given up is ended when its connector is back");
}

#[test]
fn what_is_told_follows_from_what_was_asked_and_heard() {
    use Asked::{Done, Failed, Queued};
    let table = [
        (Stage::Deploying, remote(Verb::Deploy, Queued), None),
        (Stage::Deploying, remote(Verb::Deploy, Done), Some(Outcome::Succeeded)),
        (Stage::Deploying, remote(Verb::Deploy, Failed), Some(Outcome::NotDeployed)),
        (Stage::Deploying, remote(Verb::Stop, Done), Some(Outcome::Cancelled)),
        (Stage::Starting, remote(Verb::Execute, Queued), None),
        (Stage::Starting, remote(Verb::Execute, Failed), Some(Outcome::Failed)),
        (Stage::Running, remote(Verb::Stop, Queued), None),
        (Stage::Running, remote(Verb::Stop, Failed), Some(Outcome::Cancelled)),
        (Stage::Running, Remote { final_at: Some(5), ..remote(Verb::Stop, Queued) }, Some(Outcome::Succeeded)),
        (
            Stage::Running,
            Remote { final_at: Some(5), too_long: true, ..remote(Verb::Execute, Done) },
            Some(Outcome::Failed),
        ),
    ];
    for (stage, remote, expected) in table {
        assert_eq!(outcome(&remote.told(stage)), expected, "{stage:?} {remote:?}");
    }
    let runs = Remote { graph_at: Some(7), heard_at: Some(9), ..remote(Verb::Execute, Done) };
    assert_eq!(runs.told(Stage::Starting), Told::Working(7));
    let denied = Remote { graph_at: Some(7), ..remote(Verb::Execute, Failed) };
    assert_eq!(denied.told(Stage::Running), Told::Working(7), "one that was heard of runs, whatever is said");
    assert_eq!(outcome(&remote(Verb::Stop, Done).told(Stage::Ended)), Some(Outcome::Cancelled));
}

#[test]
fn silence_counts_from_the_last_word_while_it_should_run() {
    let it = Remote { heard_at: Some(5000), ..remote(Verb::Execute, Asked::Done) };
    assert_eq!(it.silent_since(Stage::Running), Some(5000));
    assert_eq!(remote(Verb::Execute, Asked::Done).silent_since(Stage::Starting), Some(1000));
    assert_eq!(it.silent_since(Stage::Deploying), None);
    assert_eq!(remote(Verb::Stop, Asked::Queued).silent_since(Stage::Deploying), Some(1000), "nor is an end awaited");
}

#[test]
fn a_graph_is_given_to_who_runs_and_has_not_reported() {
    let it = remote(Verb::Execute, Asked::Done);
    assert_eq!(
        [Stage::Deployed, Stage::Starting, Stage::Running, Stage::Ended].map(|stage| it.graph(stage)),
        [Graph::Hold, Graph::Give, Graph::Give, Graph::SendAway]
    );
    let reported = Remote { has_reported: true, ..it };
    assert_eq!(reported.graph(Stage::Running), Graph::Hold, "a second one, sent away, would report an end");
    assert_eq!(remote(Verb::Stop, Asked::Queued).graph(Stage::Running), Graph::Hold);
}

#[test]
fn the_first_last_report_counts_and_the_dead_stay_dead() {
    let it = remote(Verb::Execute, Asked::Done);
    assert_eq!(it.takes_report(Stage::Running, false), Ok(()));
    assert_eq!(it.takes_report(Stage::Ended, true), Ok(()), "a late one is kept");
    for (stage, it) in [
        (Stage::Ended, it.clone()),
        (Stage::Deployed, it.clone()),
        (Stage::Running, Remote { final_at: Some(1), ..it }),
    ] {
        assert!(it.takes_report(stage, false).is_err(), "{stage:?}");
    }
}

#[test]
fn a_context_reaches_the_connector_it_is_for_in_ascii() {
    let context = json!({"lab": {"token": "é\n\u{1f600}"}});
    assert_eq!(header(part(&context, "lab")), r#"{"token":"\u00e9\n\ud83d\ude00"}"#);
    assert_eq!(header(part(&context, "other")), "null");
    assert_eq!(header(part(&Value::Null, "lab")), "null");
}

#[test]
fn what_cannot_be_a_connector_is_refused_by_name() {
    let right = ConnectorSpec {
        url: "https://lab.example.org:8000".into(),
        api_key: "k".into(),
        init: None,
        gateway: None,
        ca_pem: None,
        enabled: true,
    };
    right.check("lab").expect("it is right");
    let with = |change: &dyn Fn(&mut ConnectorSpec)| {
        let mut it = right.clone();
        change(&mut it);
        it.check("lab").expect_err("it is refused").to_string()
    };
    assert!(right.check("muster").expect_err("taken").to_string().contains("the fleet itself"));
    assert!(right.check("a/b").is_err() && right.check("").is_err());
    assert!(with(&|it| it.url = "lab:8000".into()).contains("url"));
    assert!(with(&|it| it.url = "http://user:pw@lab".into()).contains("url"));
    assert!(with(&|it| it.gateway = Some("ftp://x".into())).contains("gateway"));
    assert!(with(&|it| it.api_key = "a b".into()).contains("api_key"));
}
