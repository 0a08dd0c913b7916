use serde_json::{Value, json};

use crate::experiment::spec::Spec;

/// A file with these tasks, changed.
fn mistakes(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut file = json!({"deployments": [{"nodes": {"labels": {"site": "lab"}, "take": 2}, "tasks": [
        {"name": "ping", "command": ["ping", "-c", "1", "192.0.2.1"], "outputs": ["out/*.txt"]},
        {"name": "parse", "script": "sort out.txt", "needs": ["ping"], "inputs": [{"task": "ping", "path": "out/a.txt", "to": "out.txt"}]},
        {"name": "tell", "command": ["true"], "needs": [{"task": "parse", "on": "any"}], "repeat": {"from": "ping", "times": 2}},
    ]}]});
    change(&mut file);
    let spec: Spec = serde_json::from_value(file).expect("it has the shape of a file");
    spec.mistakes().iter().map(ToString::to_string).collect()
}

#[test]
fn a_right_file_has_no_mistakes() {
    assert_eq!(mistakes(|_| ()), Vec::<String>::new());
    assert_eq!(mistakes(|f| f["deployments"][0]["nodes"] = json!({"names": ["a"]})), Vec::<String>::new());
    assert_eq!(mistakes(|f| f["deployments"][0]["nodes"] = json!({"take": 3})), Vec::<String>::new());
}

#[test]
fn each_mistake_is_told_with_its_field_and_what_would_be_right() {
    fn task(file: &mut Value, n: usize) -> &mut Value {
        &mut file["deployments"][0]["tasks"][n]
    }
    for (right, change) in [
        (
            "deployments: an experiment has at least one",
            (|f: &mut Value| f["deployments"] = json!([])) as fn(&mut Value),
        ),
        ("deployments[0].nodes: say which nodes", |f| f["deployments"][0]["nodes"] = json!({})),
        ("deployments[0].nodes: say which nodes", |f| {
            f["deployments"][0]["nodes"] = json!({"names": ["a"], "labels": {"b": "c"}})
        }),
        ("deployments[0].nodes.take: at least 1", |f| f["deployments"][0]["nodes"]["take"] = json!(0)),
        ("deployments[0].keep_alive_minutes: from 1", |f| f["deployments"][0]["keep_alive_minutes"] = json!(0)),
        ("deployments[0].tasks: a pipeline has at least one task", |f| f["deployments"][0]["tasks"] = json!([])),
        ("deployments[0].tasks[3].name: there is another task \"ping\"", |f| {
            f["deployments"][0]["tasks"]
                .as_array_mut()
                .expect("tasks")
                .push(json!({"name": "ping", "command": ["true"]}));
        }),
        ("deployments[0].tasks[2].name: 1 to 100 letters", |f| task(f, 2)["name"] = json!("a/b")),
        ("deployments[0].tasks[0].script: a task has a command or a script, not both", |f| {
            task(f, 0)["script"] = json!("x")
        }),
        ("deployments[0].tasks[0].command: say what to run", |f| task(f, 0)["command"] = json!([])),
        ("deployments[0].tasks[1].needs[0]: there is no task \"Ping\"; did you mean \"ping\"?", |f| {
            task(f, 1)["needs"] = json!(["Ping"]);
            task(f, 1)["inputs"] = json!([]);
            task(f, 2)["repeat"] = json!(null);
        }),
        ("deployments[0].tasks[1].needs[1]: it stands there already", |f| {
            task(f, 1)["needs"] = json!(["ping", "ping"])
        }),
        ("deployments[0].tasks[1].inputs[0].task: \"tell\" does not come before this task", |f| {
            task(f, 1)["inputs"][0]["task"] = json!("tell");
        }),
        ("deployments[0].tasks[0].outputs[0]: a path below the task's folder", |f| {
            task(f, 0)["outputs"] = json!(["../x"])
        }),
        ("deployments[0].tasks[0].variables.A=: a variable's name", |f| task(f, 0)["variables"] = json!({"A=": "x"})),
        ("deployments[0].tasks[1].repeat.from: \"tell\" does not lead to this task", |f| {
            task(f, 1)["repeat"] = json!({"from": "tell", "times": 1});
        }),
        ("deployments[0].tasks[2].repeat.times: from 1", |f| task(f, 2)["repeat"]["times"] = json!(0)),
    ] {
        let found = mistakes(change);
        assert_eq!(found.len(), 1, "{right}: {found:?}");
        assert!(found[0].starts_with(right), "{right}: {found:?}");
    }
}

#[test]
fn named_nodes_are_not_replaced() {
    let moving = |nodes| {
        mistakes(|f| {
            f["deployments"][0]["nodes"] = nodes;
            f["deployments"][0]["moves"] = json!(true);
        })
    };
    assert_eq!(moving(json!({"take": 1})), Vec::<String>::new());
    let named = moving(json!({"names": ["a"]}));
    assert!(named[0].starts_with("deployments[0].moves: nodes named one by one are not replaced"), "{named:?}");
}

#[test]
fn tasks_that_wait_for_one_another_are_named_in_their_order() {
    let found = mistakes(|f| f["deployments"][0]["tasks"][0]["needs"] = json!(["tell"]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("ping → tell → parse → ping"), "{found:?}");
    let itself = mistakes(|f| f["deployments"][0]["tasks"][0]["needs"] = json!(["ping"]));
    assert!(itself[0].contains("ping → ping"), "{itself:?}");
}
