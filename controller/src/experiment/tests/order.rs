use serde_json::{Value, json};

use super::rig::{GRAPH, body, deployment};
use crate::experiment::order::{Order, Work};

fn read(change: impl FnOnce(&mut Value)) -> Result<Order, String> {
    let mut one = deployment("lo-1");
    change(&mut one);
    Order::read(&body(&[one])).map_err(|e| e.to_string())
}

#[test]
fn a_clients_words_are_kept_as_they_came() {
    let order = read(|d| {
        d["something_new"] = json!({"b": 1, "a": [null]});
        d["node"]["properties"]["cpu"] = json!(4.5);
    });
    let order = order.expect("it can be read");
    let deployment = &order.deployments[0];
    assert_eq!(deployment.work, Work::Graph(GRAPH.into()));
    let stored = deployment.stored("e-1", "x-1");
    assert_eq!(stored["something_new"], json!({"b": 1, "a": [null]}));
    assert_eq!(stored["node"]["properties"]["cpu"], json!(4.5));
    assert_eq!(stored["executor_id"], "x-1");
    let variables = &stored["environment_definition"]["runtime_context"]["environment_variables"];
    let right = json!({"A": "b", "NETUNICORN_EXECUTOR_ID": "x-1", "NETUNICORN_EXPERIMENT_ID": "e-1"});
    assert_eq!(*variables, right);
    assert!(!stored.contains_key("execution_graph"), "graphs are kept apart");
}

#[test]
fn what_cannot_be_read_is_refused_by_its_place() {
    for (word, change) in [
        ("execution_graph is not base64", (|d: &mut Value| d["execution_graph"] = json!("%%%")) as fn(&mut Value)),
        ("'sparc' is not a valid Architecture", |d| d["node"]["architecture"] = json!("sparc")),
        ("node", |d| d["node"] = json!({"name": "x"})),
        ("environment_definition_type", |d| d["environment_definition_type"] = json!("Chroot")),
        ("environment_definition", |d| d["environment_definition"] = json!(7)),
        ("keep_alive_timeout_minutes", |d| d["keep_alive_timeout_minutes"] = json!(0)),
        ("cleanup", |d| d["cleanup"] = json!("yes")),
        ("node.name", |d| d["node"]["name"] = json!("")),
    ] {
        let refused = read(change).expect_err(word);
        assert!(refused.starts_with("deployment_map[0].") && refused.contains(word), "{refused}");
    }
    for (word, text) in
        [("EOF", ""), ("deployment_map", "{}"), ("empty", "{\"deployment_map\": []}"), ("expected", "[1")]
    {
        let refused = Order::read(text.as_bytes()).expect_err(word).to_string();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn what_the_mediator_refuses_is_refused_in_its_words() {
    for (words, change) in [
        (
            "This user is not allowed to use additional arguments in runtime context",
            (|d: &mut Value| {
                d["environment_definition"]["runtime_context"]["additional_arguments"] = json!(["--privileged"])
            }) as fn(&mut Value),
        ),
        ("Environment variables in runtime context must not contain spaces", |d| {
            d["environment_definition"]["runtime_context"]["environment_variables"] = json!({"A B": "c"});
        }),
        ("Environment variables in runtime context must not contain spaces", |d| {
            d["environment_definition"]["runtime_context"]["environment_variables"] = json!({"A": "b c"});
        }),
        ("Environment variables in runtime context must have a name without '='", |d| {
            d["environment_definition"]["runtime_context"]["environment_variables"] = json!({"A=B": "c"});
        }),
        ("Ports mapping in runtime context must be a dict of int to int", |d| {
            d["environment_definition_type"] = json!("DockerImage");
            d["environment_definition"]["runtime_context"]["ports_mapping"] = json!({"80": "http"});
        }),
        ("Network name in runtime context must not contain spaces", |d| {
            d["environment_definition_type"] = json!("DockerImage");
            d["environment_definition"]["runtime_context"]["network"] = json!("my net");
        }),
    ] {
        let order = read(change).expect("it can be read");
        assert_eq!(order.check(false).expect_err(words).to_string(), words);
    }
    let arguments =
        |d: &mut Value| d["environment_definition"]["runtime_context"]["additional_arguments"] = json!(["-x"]);
    assert!(read(arguments).expect("it can be read").check(true).is_ok(), "an administrator may");
    let ports = |d: &mut Value| {
        d["environment_definition_type"] = json!("DockerImage");
        d["environment_definition"]["runtime_context"]["ports_mapping"] = json!({"80": "8080", "53": 53});
    };
    assert!(read(ports).expect("it can be read").check(false).is_ok(), "numbers may stand in quotes");
}

#[test]
fn executor_ids_are_unique_unless_they_are_empty() {
    let mut two = [deployment("lo-1"), deployment("lo-2")];
    assert!(Order::read(&body(&two)).expect("read").check(false).is_ok());
    two.iter_mut().for_each(|d| d["executor_id"] = json!("same"));
    let refused = Order::read(&body(&two)).expect("read").check(false).expect_err("refused");
    assert_eq!(refused.to_string(), "Experiment has non-unique non-empty executor id: same");
}

#[test]
fn a_repeat_is_known_by_its_content() {
    let one = read(|_| ()).expect("read").digest();
    let again = read(|d| {
        d["executor_id"] = json!("another");
        d["prepared"] = json!(true);
    });
    assert_eq!(again.expect("read").digest(), one);
    let graph = read(|d| d["execution_graph"] = json!("gASVBQAAAAAAAACMAXmULg==")).expect("read");
    assert_ne!(graph.digest(), one);
    assert_ne!(read(|d| d["cleanup"] = json!(false)).expect("read").digest(), one);
}

#[test]
fn an_environment_is_known_by_what_defines_it() {
    let of = |change: fn(&mut Value)| read(change).expect("read").deployments.remove(0);
    let one = of(|_| ()).environment.digest("linux/amd64", true);
    let other_graph = of(|d| d["execution_graph"] = json!("gASVBQAAAAAAAACMAXmULg=="));
    assert_eq!(other_graph.environment.digest("linux/amd64", true), one, "the graph is no part of it");
    let variables = of(|d| d["environment_definition"]["runtime_context"]["environment_variables"] = json!({}));
    assert_eq!(variables.environment.digest("linux/amd64", true), one, "nor what the executor is started with");
    let commands = of(|d| d["environment_definition"]["commands"] = json!(["pip install x"]));
    assert_ne!(commands.environment.digest("linux/amd64", true), one);
    assert_ne!(of(|_| ()).environment.digest("linux/arm64", true), one);
}
