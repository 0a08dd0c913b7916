//! Experiments of researchers who use netunicorn's own client, on nodes that run its own executor, through whatever
//! happens to nodes, to home and to the way between them.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use muster_integration_tests::{
    cable::Cable,
    engine::Engine,
    lab::Lab,
    network::{items, text},
    processes::wait,
};
use serde_json::{Value, json};

/// What the client was told of each deployment.
fn results(told: &Value) -> Vec<Value> {
    items(&told["result"])
}

/// The results of tasks, by name, of one deployment.
fn tasks(result: &Value) -> Value {
    result["tasks"].clone()
}

/// Waits until tasks have left so many traces.
fn traces(lab: &Lab, name: &str, count: usize) {
    wait(&format!("{count} traces of {name}\n{}", lab.house.logs()), || (lab.trace(name).len() == count).then_some(()));
}

/// Each node left one trace, and every executor its result.
fn ran_once(lab: &Lab, name: &str, told: &Value) {
    let mut traces = lab.trace(name);
    traces.sort();
    traces.dedup();
    assert_eq!((traces.len(), lab.trace(name).len()), (5, 5), "each ran once: {told}");
    assert_eq!(told["status"], "FINISHED");
    for result in results(told) {
        assert_eq!((&result["outcome"], &result["error"]), (&json!("Success"), &Value::Null), "{result}");
        assert_eq!(tasks(&result), json!({name: ["Success 'done'"]}));
    }
}

#[test]
fn a_client_reads_back_what_tasks_made_of_their_stages_on_five_nodes() {
    let Some(lab) = Lab::open(5) else { return };
    let told = lab.client("stages.py", &[]);
    assert_eq!(told["status"], "FINISHED", "{told}");
    let results = results(&told);
    assert_eq!(results.len(), 5, "{told}");
    for (n, result) in results.iter().enumerate() {
        let node = format!("node-{}", n + 1);
        assert_eq!((&result["node"], &result["error"]), (&json!(node), &Value::Null));
        let expected = json!({
            "text": ["Success 'Grüße ☃'"],
            "bytes": [r"Success b'\x00\xff'"],
            "nested": ["Success {'list': [1, 2.5, None, True]}"],
            "where": [format!("Success '{node}'")],
            "seen": ["Success (['blue=green', ''], ['bytes', 'nested', 'text', 'where'])"],
        });
        assert_eq!(tasks(result), expected, "{}", text(&result["log"]));
    }
}

#[test]
fn executors_end_as_netunicorn_says_and_the_experiment_with_the_last_of_them() {
    let Some(lab) = Lab::open(5) else { return };
    let told = lab.client("endings.py", &[]);
    assert_eq!(told["status"], "FINISHED", "{told}");
    let results = results(&told);
    let outcomes: Vec<_> = results.iter().map(|result| text(&result["outcome"])).collect();
    assert_eq!(outcomes, ["Failure", "Failure", "Success", "Success", "Success", ""], "{told}");
    assert!(results.iter().all(|result| result["error"].is_null()), "each executor came to its end: {told}");
    for (result, goes_on) in results.iter().zip([false, true]) {
        assert!(text(&result["tasks"]["fail"][0]).contains("ValueError: it is broken"), "{result}");
        assert_eq!(!result["tasks"]["after"].is_null(), goes_on, "{result}");
        assert!(text(&result["log"]).contains("it is broken"), "{result}");
    }
    let crashed = |task: &str, code: i32| json!({task: [format!("Failure 'Execution process of the task {task} failed with the exit code {code}'")]});
    assert_eq!(tasks(&results[2]), crashed("die", 7));
    assert_eq!(tasks(&results[3]), crashed("unpicklable", 1));
    assert_eq!(tasks(&results[4]), json!({"cycle": ["Success 'done'", "Success 'done'", "Success 'done'"]}));
    assert_eq!((lab.trace("cycle").len(), lab.trace("silent").len()), (3, 1));

    let seen = lab.experiment("endings");
    let last = items(&seen["nodes"]).iter().filter_map(|node| node["ended_at"].as_i64()).max().expect("they ended");
    let lag = seen["ended_at"].as_i64().expect("it ended") - last;
    assert!((0..2_000).contains(&lag), "it ended {lag} ms after its last executor");
    assert_eq!(items(&seen["nodes"])[5]["outcome"], "succeeded", "without a report: {seen}");
}

#[test]
fn five_nodes_meet_at_a_flag_though_home_is_away_and_each_is_counted_once() {
    let Some(mut lab) = Lab::open(5) else { return };
    lab.client("flags.py", &["begin"]);
    let arrived = "/api/v1/experiment/experiments/meeting/flags/arrived?owner=ada";
    wait("four have arrived", || (lab.house.call("GET", arrived, None)?.1["int_value"] == 4).then_some(()));
    lab.house.kill_controller();
    fs::write(lab.traces().join("gate"), "").expect("written");
    traces(&lab, "opened", 1);
    // Long enough that the fifth comes to add itself, and that the others would be tired of asking.
    sleep(Duration::from_secs(60));
    assert!(lab.nodes.iter().all(|node| lab.executors_on(&node.name) > 0), "nobody gave up");
    lab.house.start_controller(None);

    let told = lab.client("flags.py", &["end"]);
    assert_eq!(told["flags"], json!([["node-3", -7], [null, 5]]), "{told}");
    assert!(text(&told["unset"]).contains("Flag nobody not found for experiment meeting"), "{told}");
    assert_eq!(results(&told).len(), 5);
    for result in results(&told) {
        assert_eq!(result["tasks"]["met"], json!(["Success [200]"]), "no other answer was given: {result}");
        let read = json!(["Success FlagValues(text_value='to the top', int_value=3)"]);
        assert_eq!((&result["outcome"], &result["tasks"]["read"]), (&json!("Success"), &read), "{result}");
    }
}

#[test]
fn what_is_cancelled_is_gone_from_its_host_one_executor_or_all_of_them() {
    let Some(lab) = Lab::open(5) else { return };
    lab.client("long.py", &["long", "begin", "600", "600", "600", "600", "600"]);
    traces(&lab, "long", 5);
    lab.client("long.py", &["long", "cancel", "node-1"]);
    wait("one executor is gone", || (lab.executors_on("node-1") == 0).then_some(()));
    wait("its end is known", || (lab.experiment("long")["nodes"][0]["outcome"] == "cancelled").then_some(()));
    let others = || ["node-2", "node-3", "node-4", "node-5"].map(|node| lab.executors_on(node));
    assert!(others().iter().all(|count| *count > 0), "the others go on: {:?}", others());
    assert_eq!(lab.experiment("long")["status"], "running");

    lab.client("long.py", &["long", "cancel"]);
    let told = lab.client("long.py", &["long", "end"]);
    assert_eq!(lab.executors(), 0, "what is over runs nowhere");
    assert_eq!(told["status"], "FINISHED");
    assert!(results(&told).iter().all(|result| text(&result["error"]).starts_with("cancelled")), "{told}");
    assert_eq!(lab.experiment("long")["status"], "cancelled");
}

#[test]
fn nodes_that_are_gone_are_given_up_and_what_they_bring_later_is_marked_late() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Some(mut lab) = Lab::open(4) else { return };
    let home = lab.house.agents_address().parse().expect("an address");
    let cable = runtime.block_on(Cable::lay(home));
    lab.join("node-5", &json!({}), &format!("homes = [\"{}\"]", cable.near));
    lab.are_online();
    lab.client("long.py", &["gone", "begin", "1", "1", "1", "600", "5"]);
    traces(&lab, "gone", 5);
    lab.node("node-4").kill();
    cable.cut();
    let begun = Instant::now();

    let told = lab.client("long.py", &["gone", "end"]);
    assert!(begun.elapsed() > Duration::from_secs(55), "given up before its minute: {told}");
    assert_eq!(told["status"], "FINISHED");
    let errors: Vec<_> = results(&told).iter().map(|result| result["error"].clone()).collect();
    let late = json!("Executor timed out");
    assert_eq!(json!(errors), json!([null, null, null, late, late]), "{told}");
    assert!(lab.executors_on("node-4") > 0, "nobody could tell it to stop");

    cable.mend();
    // By itself it would try again within minutes. One that starts anew tries at once, and has forgotten nothing.
    lab.node("node-5").kill();
    ["node-4", "node-5"].iter().for_each(|name| lab.start(name));
    wait("it stops when it is back", || (lab.executors_on("node-4") == 0).then_some(()));
    wait("the late result is kept", || (lab.experiment("gone")["nodes"][4]["result_is_late"] == true).then_some(()));
    let told = lab.client("long.py", &["gone", "end"]);
    let (killed, cut) = (&told["result"][3], &told["result"][4]);
    assert_eq!((&killed["outcome"], &killed["error"]), (&Value::Null, &late), "{told}");
    assert_eq!((&cut["error"], &cut["tasks"]), (&late, &json!({"gone": ["Success 'done'"]})), "{told}");
    assert_eq!(lab.trace("gone").len(), 5, "nothing ran twice");
}

#[test]
fn home_may_be_killed_at_any_time_and_away_for_long_and_nothing_runs_twice() {
    let Some(mut lab) = Lab::open(5) else { return };
    let restart = |lab: &mut Lab| {
        lab.house.kill_controller();
        lab.house.start_controller(None);
    };
    lab.client("long.py", &["middle", "prepare", "2", "2", "2", "2", "2"]);
    restart(&mut lab);
    lab.client("long.py", &["middle", "start"]);
    restart(&mut lab);
    traces(&lab, "middle", 5);
    restart(&mut lab);
    ran_once(&lab, "middle", &lab.client("long.py", &["middle", "end"]));

    lab.client("long.py", &["away", "begin", "2", "2", "2", "2", "2"]);
    traces(&lab, "away", 5);
    lab.house.kill_controller();
    wait("every executor came to its end", || (lab.executors() == 0).then_some(()));
    lab.house.start_controller(None);
    ran_once(&lab, "away", &lab.client("long.py", &["away", "end"]));
}

#[test]
fn what_cannot_be_asked_for_is_refused_in_a_sentence_and_changes_nothing() {
    let Some(mut lab) = Lab::open(2) else { return };
    lab.join("node-3", &json!({"access-tags": "closed"}), "");
    lab.are_online();
    lab.done("PATCH", "/api/v1/users/ada", &json!({"tags": ["open"]}));
    let mut bobs = lab.begin("bob", "hold.py", &["node-2"]);
    assert_eq!(bobs.says(&lab), "READY");
    bobs.ends(&lab);

    let mut script = lab.begin("ada", "refused.py", &[]);
    let by_hand = script.says(&lab);
    assert_eq!(by_hand["result"][0]["tasks"], json!({"one": ["Success 1"]}), "a node without a connector: {by_hand}");
    let refused = script.says(&lab);
    let said = [
        ("docker", "Environment DockerImage is not available on node node-1; it has ShellExecution"),
        ("hidden", "Node node-3 is not there, or is not open to you"),
        ("locked", "Node node-2 is already locked by bob"),
        ("unknown", "Node no/such/nœud ☃ is not there"),
        ("connector", "names the connector"),
        ("taken name", "with other content"),
    ];
    for (what, sentence) in said {
        let told = text(&refused[what]);
        assert!(told.contains("Status code: 400") && told.contains(sentence), "{what}: {told}");
    }
    let answered = [
        ("graph", "deployment_map[1].execution_graph is not base64"),
        ("same ids", "non-unique non-empty executor id: twice"),
        ("variable", "must not contain spaces"),
        ("value", "must not contain spaces"),
        ("arguments", "not allowed to use additional arguments"),
        ("node", "deployment_map[1].node.name is empty"),
        ("no nodes", "deployment_map is empty"),
    ];
    for (what, sentence) in answered {
        let told = text(&refused[what][1]);
        assert!(refused[what][0] == 400 && told.contains(sentence), "{what}: {}", refused[what]);
    }
    assert_eq!(script.says(&lab), true, "experiments are what they were, and node-1 is free");
    script.ends(&lab);
}

#[test]
fn graphs_and_results_of_twenty_megabytes_arrive_and_what_is_larger_than_may_be_does_not() {
    let Some(lab) = Lab::open(2) else { return };
    let told = lab.client("large.py", &[]);
    assert_eq!(told["status"], "FINISHED", "{told}");
    let digest = |n: usize| format!("Success '{}'", text(&told["digests"][n]));
    assert_eq!(tasks(&told["result"][0]), json!({"came": [digest(0)]}), "{told}");
    assert_eq!(tasks(&told["result"][1]), json!({"left": [digest(1)]}), "{told}");
    assert!(text(&told["refused"]).contains("Status code: 413"), "{told}");
    assert_eq!(told["unchanged"], true);
}

#[test]
fn an_image_that_a_real_engine_builds_on_one_host_runs_on_another_that_could_not_build_it() {
    let Some(mut lab) = Lab::open(0) else { return };
    let Some(builder) = Engine::of(&lab, "node-1") else { return };
    builder.make_base(&lab);
    let other = Engine::of(&lab, "node-2").expect("there is one");
    for (name, engine, offered) in [("node-1", &builder, true), ("node-2", &other, false)] {
        let settings = format!("engine = {}\nbuilder = {offered}\n", json!(engine.program));
        lab.join_as(name, &json!({}), "", &settings);
    }
    lab.are_online();
    let output = |node: &Value, of: &str| {
        let executor = text(&node["executor"]);
        lab.house.ask("GET", &format!("/api/v1/experiment/executors/{executor}/log?of={of}"), None).to_string()
    };

    let told = lab.client("image.py", &["one", "echo made for all > /made", "node-2"]);
    assert_eq!(told["status"], "FINISHED", "{told}\n{}", lab.experiment("one"));
    let made = json!({"read": ["Success 'made for all\\n'"]});
    assert_eq!((tasks(&told["result"][0]), &told["result"][0]["error"]), (made.clone(), &Value::Null), "{told}");
    let node = lab.experiment("one")["nodes"][0].clone();
    let (build, load) = (output(&node, "image"), output(&node, "deployment"));
    assert!(build.contains("echo made for all") && build.contains("save -o"), "{build}");
    assert!(load.contains("podman load -i") && !load.contains("podman build"), "{load}");

    let told = lab.client("image.py", &["both", "echo made for all > /made", "node-1", "node-2"]);
    assert_eq!(told["status"], "FINISHED", "{told}");
    assert_eq!(results(&told).iter().map(tasks).collect::<Vec<_>>(), [made.clone(), made], "{told}");
    for node in items(&lab.experiment("both")["nodes"]) {
        let said = output(&node, "deployment");
        assert!(!said.contains("podman build") && !said.contains("podman load"), "it is there: {said}");
    }

    let told = lab.client("image.py", &["broken", "echo no such thing; exit 3", "node-1", "node-2"]);
    assert_eq!(told["status"], "UNKNOWN", "{told}");
    for node in items(&lab.experiment("broken")["nodes"]) {
        assert!(text(&node["message"]).starts_with("its image could not be built on node-1: podman build"), "{node}");
        assert!(output(&node, "deployment").contains("no such thing"), "what the build printed is found");
    }
    for engine in [&builder, &other] {
        assert_eq!(engine.says(&["ps", "--all", "--quiet"]), "", "no container is left");
    }
}

#[test]
fn work_that_may_move_is_ended_by_an_agent_that_lost_home_and_begun_by_another() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Some(mut lab) = Lab::open(0) else { return };
    let home = lab.house.agents_address().parse().expect("an address");
    let cable = runtime.block_on(Cable::lay(home));
    lab.join("node-1", &json!({"site": "field"}), &format!("homes = [\"{}\"]", cable.near));
    (2..=5).for_each(|n| lab.join(&format!("node-{n}"), &json!({"site": "field"}), ""));
    lab.are_online();
    let traces_of = lab.traces();
    let script =
        format!("echo $MUSTER_EXECUTOR >> {0}/begun; while [ ! -e {0}/gate ]; do sleep 0.1; done", traces_of.display());
    let deployment = json!({
        "nodes": {"labels": {"site": "field"}, "take": 3}, "keep_alive_minutes": 1, "moves": true,
        "tasks": [{"name": "watch", "script": script}],
    });
    let body = json!({"name": "moving", "spec": {"deployments": [deployment]}});
    lab.done("POST", "/api/v1/experiment/experiments", &body);
    traces(&lab, "begun", 3);
    let experiment = || lab.house.ask("GET", "/api/v1/experiment/experiments/moving", None);
    let nodes = |seen: &Value| items(&seen["nodes"]).iter().map(|node| text(&node["node"])).collect::<Vec<_>>();
    assert_eq!(nodes(&experiment()), ["node-1", "node-2", "node-3"]);

    let begun = Instant::now();
    cable.cut();
    lab.nodes[1].kill();
    sleep(Duration::from_secs(60));
    wait("the agent that is cut off ends it", || (lab.executors_on("node-1") == 0).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(140), "before anybody else begins it");
    assert_eq!(lab.trace("begun").len(), 3);
    sleep(Duration::from_secs(135).saturating_sub(begun.elapsed()));
    traces(&lab, "begun", 5);
    assert!(begun.elapsed() > Duration::from_secs(145), "after {:?}", begun.elapsed());
    assert_eq!(nodes(&experiment()), ["node-1", "node-2", "node-3", "node-4", "node-5"]);
    fs::write(lab.traces().join("gate"), "").expect("written");
    let over = || Some(lab.house.call("GET", "/api/v1/experiment/experiments/moving", None)?.1);
    let seen = wait("it is finished", || over().filter(|seen| seen["status"] == "finished"));
    let outcomes: Vec<_> = items(&seen["nodes"]).iter().map(|node| text(&node["outcome"])).collect();
    let right = ["moved", "moved", "succeeded", "succeeded", "succeeded"];
    assert_eq!(outcomes, right, "node-3 had nothing to say on its stream, but had one: {seen}");
    assert_eq!((&seen["deployments"], &seen["failed"]), (&json!(3), &json!(0)));
}
