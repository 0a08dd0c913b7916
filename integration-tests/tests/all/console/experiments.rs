//! The pages of experiments: the list from its first line on, a grid that fills while somebody looks, what tasks left, two
//! runs beside each other, and an end by mouse.

use std::fs;

use muster_integration_tests::{
    browser::Browser,
    processes::{Processes, wait},
    site::{Site, told},
};
use serde_json::{Value, json};

use super::{look_at_all, shots};

const PASSWORD: &str = "correct horse battery";
const EXPERIMENTS: &str = "/api/v1/experiment/experiments";
const STATUS: &str = "#experiment [role=status]";
const GRID: &str = "table.stages";

/// A house with three nodes, and somebody who may see everything.
struct House {
    // Nodes end before the folder in which they lie goes.
    _nodes: Vec<Site>,
    home: Processes,
}

impl House {
    fn open() -> Self {
        let mut home = Processes::new();
        home.certificate_seconds = 3600;
        home.start_controller(None);
        let ada = json!({"name": "ada", "role": "admin", "password": PASSWORD});
        assert!(home.call("POST", "/api/v1/users", Some(&ada)).is_some_and(|(status, _)| status < 300));
        let nodes = ["node-1", "node-2", "node-3"].map(|name| {
            let mut node = Site::with(&home, name, "[experiment]\npython = \"\"\n");
            let labels = json!({"site": "lab", "access-tags": "lab"});
            let said = node.enroll(&home, &home.invite_as("experiment-node", &labels), None);
            assert!(said.status.success(), "{name}: {}", told(&said));
            home.ask("PATCH", &format!("/api/v1/agents/{}", node.id()), Some(&json!({"name": name})));
            node.start(&home, None);
            node
        });
        wait(&format!("every node can be used\n{}", home.logs()), || {
            let (_, told) = home.call("GET", "/api/v1/experiment/nodes", None)?;
            let is_ready = |node: &&Value| node["online"] == true && node["environments"] == json!(["ShellExecution"]);
            (told.as_array()?.iter().filter(is_ready).count() == nodes.len()).then_some(())
        });
        Self { _nodes: nodes.into(), home }
    }

    /// An experiment on all nodes whose second task waits for the file `gate`; on the third node the last one fails.
    fn run(&self, name: &str, gate: &str, greeting: &str) {
        let gate = self.home.path(gate);
        let hold = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
        let tasks = |page: &str| {
            json!([
                {"name": "greet", "script": format!("echo '{greeting} to this node'; echo '{greeting}' >\"$MUSTER_RESULT\"")},
                {"name": "hold", "script": hold, "needs": ["greet"]},
                {"name": "page", "script": page, "needs": ["hold"], "outputs": ["out/*.txt"]},
            ])
        };
        let (well, badly) = ("mkdir out; date >out/page.txt", "echo 'there is no page on this node' >&2; exit 3");
        let spec = json!({"deployments": [
            {"nodes": {"names": ["node-1", "node-2"]}, "tasks": tasks(well)},
            {"nodes": {"names": ["node-3"]}, "tasks": tasks(badly)},
        ]});
        let (status, told) =
            self.home.call("POST", EXPERIMENTS, Some(&json!({"name": name, "spec": spec}))).expect("answered");
        assert_eq!(status, 201, "{told}");
    }

    fn open_gate(&self, gate: &str) {
        fs::write(self.home.path(gate), "").expect("written");
    }

    fn experiment(&self, name: &str) -> Value {
        self.home.ask("GET", &format!("{EXPERIMENTS}/{name}"), None)
    }
}

#[test]
fn an_experiment_is_watched_compared_and_ended_by_mouse() {
    let house = House::open();
    let api = house.home.url.clone();
    let mut browser = Browser::start(&shots());
    browser.go(&format!("{api}/"));
    browser.fill("#name", "ada");
    browser.fill("#password", PASSWORD);
    browser.follow("form#login button");
    browser.go(&format!("{api}/experiments"));
    browser.wait_for("main", "No experiments yet");
    look_at_all(&mut browser, &api, &[("experiments-empty", "/experiments")]);

    // What follows comes by itself: nobody loads a page again.
    browser.go(&format!("{api}/experiments"));
    house.run("first", "gate", "Hello");
    browser.wait_for("#experiments", "first");
    browser.wait_for("#experiments", "running");
    browser.follow("tr[data-experiment=first] a");
    wait("the first tasks are over and the second ones run on all nodes", || {
        let grid = browser.text(GRID);
        (grid.matches("running").count() >= 3).then_some(())
    });
    look_at_all(&mut browser, &api, &[("experiment-running", "/experiments/of/admin/first")]);
    let add = json!({"by": 2});
    house.home.ask("POST", &format!("{EXPERIMENTS}/first/flags/arrived/add"), Some(&add));
    browser.go(&format!("{api}/experiments/of/admin/first"));
    house.open_gate("gate");
    browser.wait_for(STATUS, "finished");
    browser.wait_for("#experiment", "arrived");
    let grid = browser.text(GRID);
    assert!(grid.contains("failed") && grid.contains("succeeded"), "{grid}");
    assert!(browser.has("svg.timeline rect"), "the timeline is drawn");

    browser.follow(&format!("{GRID} tbody tr:nth-child(3) a"));
    browser.wait_for("#log", "there is no page on this node");
    let executor = |name: &str, n: usize| {
        let executor = house.experiment(name)["nodes"][n]["executor"].as_str().expect("an executor").to_owned();
        format!("/experiments/executors/{executor}")
    };
    browser.go(&format!("{api}{}", executor("first", 0)));
    browser.wait_for("#log", "Hello to this node");
    browser.wait_for("#executor", "out/page.txt");

    house.run("second", "gate", "Good morning");
    browser.go(&format!("{api}/experiments/of/admin/second"));
    browser.wait_for(STATUS, "finished");
    browser.follow("a[href^='/experiments/compare']");
    browser.wait_for("main", "Good morning");
    house.run("third", "never", "Hello");
    look_at_all(
        &mut browser,
        &api,
        &[
            ("experiments", "/experiments"),
            ("experiment", "/experiments/of/admin/first"),
            ("experiment-executor", &executor("first", 0)),
            ("experiment-executor-failed", &executor("first", 2)),
            ("experiments-compare", "/experiments/compare?a=first&b=second&owner=admin"),
            ("experiments-compare-empty", "/experiments/compare"),
            ("experiment-nodes", "/experiments/nodes"),
            ("experiment-cancel", "/experiments/of/admin/third/cancel"),
        ],
    );

    browser.go(&format!("{api}/experiments/of/admin/third"));
    browser.wait_for(STATUS, "running");
    browser.follow("a[href$='/cancel']");
    browser.follow("form#confirm button[name=confirm]");
    browser.wait_for(STATUS, "cancelled");
    browser.follow("a[href$='/delete']");
    browser.follow("form#confirm button[name=confirm]");
    browser.wait_for(".flash", "third was deleted");
    assert!(!browser.text("#experiments").contains("third"));
}
