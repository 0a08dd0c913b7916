use serde_json::{Value, json};

use crate::experiment::pool::Pool;

fn node(name: &str) -> Value {
    json!({"name": name, "properties": {"city": "X"}, "additional_properties": {"id": 7}, "architecture": "linux/amd64"})
}

fn countable(members: &[Value]) -> Value {
    json!({"node_pool_type": "CountableNodePool", "node_pool_data": members, "node_pool_metadata": null})
}

fn uncountable(limit: &str) -> String {
    let template = node("aws-");
    format!(r#"{{"node_pool_type":"UncountableNodePool","node_pool_data":[{template}],"node_pool_metadata":{limit}}}"#)
}

#[test]
fn a_pool_is_read_and_told_as_it_came_with_its_connector_on_every_node() {
    let inner = countable(&[node("b"), node("c")]);
    let mut pool = Pool::read(&countable(&[node("a"), inner]).to_string()).expect("it can be read");
    pool.stamp("lab");
    let names: Vec<_> = pool.nodes().into_iter().map(|(node, _)| (node.name.as_str(), node.connector())).collect();
    assert_eq!(names, [("a", "lab"), ("b", "lab"), ("c", "lab")]);
    assert_eq!(pool.json()["node_pool_data"][1]["node_pool_data"][1]["additional_properties"]["id"], 7);
    assert_eq!(Pool::read(&pool.json().to_string()), Ok(pool));
}

#[test]
fn a_limit_that_python_calls_infinite_is_null() {
    for (limit, told) in
        [("Infinity", Value::Null), ("-Infinity", Value::Null), ("null", Value::Null), ("3.0", json!(3.0))]
    {
        let pool = Pool::read(&uncountable(limit)).expect("it can be read");
        assert_eq!(pool.json()["node_pool_metadata"], told, "{limit}");
    }
    let name = "NaN \\\"Infinity\\\"";
    let text = countable(&[]).to_string().replace("null", &format!("\"{name}\""));
    assert!(Pool::read(&text).is_ok(), "what stands in quotes is left alone");
}

#[test]
fn a_template_makes_nodes_up_to_its_limit() {
    let limited = Pool::read(&uncountable("3")).expect("it can be read");
    let names = |pool: &Pool, name: &str| pool.find([name]).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&limited, "aws-3"), ["aws-3"]);
    for absent in ["aws-4", "aws-0", "aws-", "aws-03", "aws-+1", "aws-x", "gcp-1", "aws-99999999999"] {
        assert!(limited.find([absent]).is_empty(), "{absent}");
    }
    assert!(Pool::read(&uncountable("0")).expect("it can be read").nodes().is_empty());
    let endless = Pool::read(&uncountable("null")).expect("it can be read");
    assert_eq!(names(&endless, "aws-4000000"), ["aws-4000000"]);
}

#[test]
fn what_is_taken_is_left_out_of_counted_pools_alone() {
    let text = uncountable("null");
    let both = countable(&[node("a"), node("b"), serde_json::from_str(&text).expect("JSON")]);
    let mut pool = Pool::read(&both.to_string()).expect("it can be read");
    pool.retain(&|node| node.name != "a", &|_| true);
    assert_eq!(pool.nodes().into_iter().map(|(node, _)| node.name.clone()).collect::<Vec<_>>(), ["b", "aws-"]);
    pool.retain(&|_| true, &|_| false);
    assert_eq!(pool.nodes().len(), 1);
}

#[test]
fn what_is_no_pool_is_refused_by_name() {
    let mut deep = countable(&[]);
    for _ in 0..20 {
        deep = countable(&[deep]);
    }
    for (text, why) in [
        ("[]", "cannot be read"),
        ("<html>", "no JSON"),
        (r#"{"node_pool_type":"Heap","node_pool_data":[]}"#, "\"Heap\""),
        (r#"{"node_pool_type":"CountableNodePool","node_pool_data":[{"name":"a"}]}"#, "properties"),
        (&countable(&[node("")]).to_string(), "called \"\""),
        (&deep.to_string(), "deep"),
    ] {
        let said = Pool::read(text).expect_err("it is refused");
        assert!(said.contains(why), "{said}");
    }
    let strange = json!({"name": "a", "properties": {}, "additional_properties": {}, "architecture": "vax"});
    let pool = Pool::read(&countable(&[strange]).to_string()).expect("it can be read");
    assert_eq!(pool.nodes()[0].0.architecture, "unknown", "any other makes clients raise an error");
}
