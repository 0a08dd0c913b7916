use std::collections::BTreeMap;

use muster_pki::{hex, sha256};
use serde_json::{Value, json};

use super::rig::{GRAPH, order};
use crate::experiment::processor::{again_at, complaint, ended, question, revised, sentence};

/// What an answer makes of an order on two nodes.
fn answered(change: impl FnOnce(&mut Value)) -> Result<Vec<crate::experiment::order::Deployment>, String> {
    let order = order(&["lo-1", "lo-2"]);
    let mut answer = question("ada", "x", &order);
    change(&mut answer);
    let revised = revised("ada", "x", &order, answer.to_string().as_bytes())?;
    Ok(revised.expect("it said something").deployments)
}

#[test]
fn a_preprocessor_sees_no_graph_but_which_it_is() {
    let shown = question("ada", "x", &order(&["lo-1"]));
    assert_eq!((&shown["owner"], &shown["name"]), (&json!("ada"), &json!("x")));
    let deployment = &shown["deployments"][0];
    assert_eq!(deployment["execution_graph_sha256"], hex(&sha256(GRAPH)));
    assert!(deployment.get("execution_graph").is_none());
    assert_eq!(deployment["node"]["name"], "lo-1");
    assert_eq!(deployment["environment_definition"]["runtime_context"]["environment_variables"], json!({"A": "b"}));
}

#[test]
fn an_answer_changes_how_an_experiment_is_deployed() {
    let same = answered(|_| ()).expect("the same");
    assert_eq!(same, order(&["lo-1", "lo-2"]).deployments, "what comes back as it was changes nothing");
    let changed = answered(|it| {
        it["deployments"].as_array_mut().expect("a list").remove(0);
        let deployment = &mut it["deployments"][0];
        deployment["environment_definition"]["commands"] = json!(["pip install numpy"]);
        deployment["keep_alive_timeout_minutes"] = json!(3);
        deployment["cleanup"] = json!(false);
    });
    let changed = changed.expect("allowed");
    let [only] = changed.as_slice() else { panic!("{} deployments", changed.len()) };
    assert_eq!(only.node.name, "lo-2");
    assert_eq!(only.environment.commands, ["pip install numpy"]);
    assert_eq!((only.keep_alive_minutes, only.cleanup), (3, false));
    assert_eq!(only.work, order(&["lo-2"]).deployments[0].work, "the graph stays");
    assert_eq!(only.document["environment_definition"]["commands"], json!(["pip install numpy"]), "as it is shown");
}

#[test]
fn an_empty_answer_changes_nothing() {
    assert_eq!(revised("ada", "x", &order(&["lo-1"]), b" \n"), Ok(None));
}

#[test]
fn what_an_answer_may_not_change_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 10] = [
        (|it| it["owner"] = json!("bob"), "changed owner"),
        (|it| it["name"] = json!("y"), "changed name"),
        (|it| it["speed"] = json!(1), "added speed"),
        (|it| it["deployments"] = json!(null), "left out deployments"),
        (|it| it["deployments"] = json!([]), "left no deployment"),
        (|it| it["deployments"][0]["place"] = json!(7), "changed deployments[0].place"),
        (|it| it["deployments"][0] = it["deployments"][1].clone(), "repeated the deployment of place 1"),
        (|it| it["deployments"][1]["node"]["name"] = json!("lo-3"), "changed deployments[1].node"),
        (
            |it| it["deployments"][0]["execution_graph_sha256"] = json!(""),
            "changed deployments[0].execution_graph_sha256",
        ),
        (|it| it["deployments"][0]["keep_alive_timeout_minutes"] = json!(0), "spoiled deployments[0].keep_alive"),
    ];
    for (change, why) in cases {
        let refused = answered(change).expect_err(why);
        assert!(refused.starts_with(why), "{refused:?} does not begin with {why:?}");
    }
    let refused = revised("ada", "x", &order(&["lo-1"]), b"yes").expect_err("refused");
    assert!(refused.starts_with("answered something that is no JSON object"), "{refused}");
}

#[test]
fn a_postprocessor_says_a_sentence_or_nothing() {
    assert_eq!(sentence(b""), Ok(String::new()));
    assert_eq!(sentence(br#"{"message": " sent\u001b[2J to \n two "}"#), Ok("sent[2J to \n two".into()));
    assert!(sentence(b"done").expect_err("no JSON").starts_with("answered something else than {\"message\""));
}

#[test]
fn a_failed_postprocessor_is_tried_three_times_more_with_growing_pauses() {
    assert_eq!([1, 2, 3, 4].map(|tries| again_at(tries, 0)), [Some(10_000), Some(60_000), Some(300_000), None]);
}

#[test]
fn a_complaint_is_told_from_its_end_without_what_disturbs() {
    assert_eq!(complaint(b"first\nsecond\n\nthird\n\x1b[31mfourth\x07\n"), "second; third; [31mfourth");
    assert_eq!(complaint(&[b'x'; 4096]).len(), 500);
    assert_eq!(complaint(b""), "");
}

#[test]
fn what_ended_is_told_without_what_it_did() {
    let row = crate::experiment::store::ExperimentRow {
        id: "e".into(),
        owner: "ada".into(),
        name: "x".into(),
        status: "finished".into(),
        status_at: 4,
        why: String::new(),
        digest: String::new(),
        context: "null".into(),
        tags: "[]".into(),
        created_at: 1,
        ready_at: Some(2),
        started_at: Some(3),
        ended_at: Some(4),
        cancelled_by: String::new(),
        starts: 0,
        deleted_at: None,
        version: 1,
    };
    let told = ended(&row, &[], &BTreeMap::new());
    assert_eq!((&told["status"], &told["ended_at"], &told["deployments"]), (&json!("finished"), &json!(4), &json!([])));
}
