//! Nodes that are no agents: a connector's own server brings them, and netunicorn's executors run on them, with what
//! happens to the server on the way.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use muster_integration_tests::{
    lab::Lab,
    network::{items, text},
    processes::{free_port, wait},
};
use serde_json::{Value, json};

const CONNECTOR: &str = "/api/v1/experiment/connectors/lab";

/// A connector's server, and where it is told what to do.
struct Server {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A server that the lab knows as `lab`.
    fn of(lab: &Lab) -> Self {
        let folder = lab.house.path("server");
        fs::create_dir(&folder).expect("a folder");
        let mut server = Self { folder, port: free_port(), process: None };
        server.start(lab);
        let url = format!("http://127.0.0.1:{}", server.port);
        lab.done("PUT", CONNECTOR, &json!({"url": url, "api_key": "key", "init": {"racks": 3}}));
        server.is(lab, "well");
        server
    }

    fn start(&mut self, lab: &Lab) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/experiment/server.py");
        let said = fs::File::create(self.folder.join("said")).expect("a file");
        let mut command = Command::new(lab.python());
        command.args(["-B", "-W", "ignore", script]).arg(&self.folder).arg(self.port.to_string());
        command.env("NETUNICORN_API_KEY", "key").env("TRACES", lab.traces());
        command.stdin(Stdio::null()).stdout(said.try_clone().expect("a file")).stderr(said);
        self.process = Some(command.spawn().expect("it starts"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// Waits until the controller says that the connector fares so; gives why.
    fn is(&self, lab: &Lab, health: &str) -> String {
        let why = format!("the connector is {health}: {}\n{}", self.said(), lab.house.logs());
        wait(&why, || {
            let (_, all) = lab.house.call("GET", "/api/v1/experiment/connectors", None)?;
            (all[0]["health"] == health).then(|| text(&all[0]["why"]))
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// What it was asked to do, in order.
    fn calls(&self, what: &str) -> Vec<Value> {
        let calls = fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        let calls = calls.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        calls.filter(|call| call["what"] == what).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_connector_brings_its_nodes_fails_once_and_a_whole_experiment_runs_on_them_beside_an_agent() {
    let Some(lab) = Lab::open(1) else { return };
    let server = Server::of(&lab);
    assert_eq!(server.calls("initialize"), [json!({"what": "initialize", "racks": 3})]);
    fs::write(server.folder.join("break"), "").expect("written");

    let told = lab.client("brought.py", &["run"]);
    assert_eq!(told["status"], "FINISHED", "{told}\n{}", server.said());
    let nodes: Vec<_> = items(&told["result"]).iter().map(|result| text(&result["node"])).collect();
    assert_eq!(nodes, ["lab-1", "lab-2", "lab-3", "node-1"]);
    for result in items(&told["result"]) {
        assert_eq!((&result["outcome"], &result["error"]), (&json!("Success"), &Value::Null), "{result}");
        assert_eq!(result["tasks"]["where"], json!([format!("Success '{}'", text(&result["node"]))]));
    }
    assert_eq!(lab.trace("ran").len(), 4, "each ran once");

    let deploys = server.calls("deploy");
    assert_eq!(deploys.len(), 2, "it broke off once and was asked again: {deploys:?}");
    for deploy in &deploys {
        assert_eq!((&deploy["context"], &deploy["authentication"]), (&json!({"room": "7"}), &json!({"badge": "ä-1"})));
    }
    assert_eq!(server.calls("execute"), [json!({"what": "execute", "context": {"fast": "yes"}})]);
    wait("what executors left is removed", || (!server.calls("cleanup").is_empty()).then_some(()));
    let kinds = ["experiment.connector_added", "experiment.connector_well"];
    let events = lab.house.ask("GET", "/api/v1/events?subject=connector/lab", None).to_string();
    assert!(kinds.iter().all(|kind| events.contains(kind)), "{events}");
}

#[test]
fn a_connector_that_is_gone_is_shown_takes_no_other_along_and_comes_back_by_itself() {
    let Some(lab) = Lab::open(1) else { return };
    let mut server = Server::of(&lab);
    let all = json!({"lab": ["lab-1", "lab-2", "lab-3", "cloud-1"], "muster": ["node-1"]});
    let names = || lab.client("brought.py", &["nodes"]);
    assert_eq!(lists(&names()), lists(&all));

    server.kill();
    let why = server.is(&lab, "failing");
    assert!(why.contains("cannot be reached"), "{why}");
    let begun = Instant::now();
    assert_eq!(names(), json!({"muster": ["node-1"]}));
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for one that fails");
    let told = lab.client("stages.py", &[]);
    assert_eq!(told["status"], "FINISHED", "{told}");

    server.start(&lab);
    assert_eq!(server.is(&lab, "well"), "processes of this host");
    assert_eq!(server.calls("initialize").len(), 2, "it was told anew what it needs to begin");
    assert_eq!(lists(&names()), lists(&all));

    fs::write(server.folder.join("slow"), "").expect("written");
    let begun = Instant::now();
    assert_eq!(lists(&names()), lists(&all), "what a slow one said before");
    assert!(begun.elapsed() < Duration::from_secs(8), "nobody waits for a slow one either");
    fs::remove_file(server.folder.join("slow")).expect("removed");

    fs::write(server.folder.join("refuse"), "").expect("written");
    let said = lab.client("brought.py", &["refused"]);
    assert!(text(&said).contains("there is no room"), "{said}");
}

#[test]
fn executors_of_a_connector_are_ended_and_one_that_nobody_knows_goes_away() {
    let Some(lab) = Lab::open(0) else { return };
    let server = Server::of(&lab);
    let mut script = lab.begin("ada", "brought.py", &["cancel"]);
    let executors = script.says(&lab);
    wait("both run", || (lab.trace("long").len() == 2).then_some(()));

    let executor = text(&executors[0]);
    let cancel = |what: Value| lab.done("POST", "/api/v1/experiment/experiments/long/cancel?owner=ada", &what);
    cancel(json!({"executors": [executor]}));
    wait("one is ended", || (lab.experiment("long")["nodes"][0]["outcome"] == "cancelled").then_some(()));
    assert_eq!(server.calls("stop"), [json!({"what": "stop", "context": null, "nodes": ["lab-1"]})]);
    assert_eq!(lab.experiment("long")["nodes"][1]["stage"], "running");
    cancel(json!({}));
    let told = script.says(&lab);
    assert_eq!(told["status"], "FINISHED", "{told}");
    script.ends(&lab);
    assert!(items(&told["result"]).iter().all(|result| text(&result["error"]).contains("cancelled")), "{told}");

    let gateway = fs::read_to_string(server.folder.join("gateway")).expect("it was told where the gateway is");
    let folder = lab.house.path("dead");
    fs::create_dir(&folder).expect("a folder");
    let begun = Instant::now();
    let asked = lab.client("dead.py", &[&gateway, &executor, &folder.display().to_string()]);
    let expected = json!([format!("get execution_graph?executor_id={executor}"), "post result"]);
    assert_eq!(asked, expected, "it asks once, is sent away and ends");
    assert!(begun.elapsed() >= Duration::from_secs(20), "not at once, so that it cannot ask in a circle");
    let events = lab.house.ask("GET", "/api/v1/events?subject=connector/lab", None).to_string();
    assert!(events.contains("experiment.report_discarded"), "{events}");
}

/// Names by connector, sorted.
fn lists(told: &Value) -> Vec<(String, Vec<String>)> {
    let lists = told.as_object().expect("an object").iter();
    lists.map(|(connector, names)| (connector.clone(), items(names).iter().map(text).collect())).collect()
}
