//! What home costs, with a crowd of simulated nodes.

use std::time::{Duration, Instant};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use muster_integration_tests::processes::free_port;
use serde_json::{Value, json};

use crate::{Wanted, gateway, http::Client, line, median, ms, part::Part};

const NODES: usize = 1000;

/// Nodes of the experiments whose way is timed, and how many of those.
const SMALL: usize = 100;
const RUNS: usize = 5;

/// Bytes of a graph: with its node it makes the 6.8 kB that a small pipeline of netunicorn's library takes.
const GRAPH: usize = 4500;

/// Tasks of a native pipeline, and runs of it after which memory is to be flat.
const TASKS: usize = 10;
const REPEATS: usize = 6;

/// Looks at a large experiment.
const LOOKS: usize = 15;

/// Seconds for caches and connections to settle.
const SETTLE: Duration = Duration::from_secs(3);

/// A home and its crowd.
struct Crowd {
    home: Part,
    nodes: Part,
    admin: Client,
    client: Client,
    _folder: tempfile::TempDir,
}

/// Measures home.
pub fn measure() -> anyhow::Result<()> {
    println!("\nA crowd of {NODES} simulated nodes");
    let mut crowd = Crowd::gather()?;
    // First, while home is fresh: what large answers left would hide a growth below it.
    memory(&crowd)?;
    ways(&mut crowd)?;
    looks(&mut crowd)?;
    flags(&crowd)?;
    gateway::measure(&crowd.home, &crowd.admin, &crowd.client)
}

impl Crowd {
    fn gather() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let inside = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (mut home, told) = Part::start(&["home", &inside("home"), &free_port().to_string()]);
        let (address, password) = told.split_once(' ').context("an address and a password")?;
        let (admin, client) = Client::log_in(address, password)?;
        let token = home.ask(&format!("invite {NODES}"));
        let (mut nodes, _) = Part::start(&["nodes", &inside("nodes"), &NODES.to_string()]);
        nodes.ask(&format!("join {token}"));
        home.until("online", NODES as u64);
        client.until("/api/v1/experiment/nodes", |nodes| {
            nodes.as_array().is_some_and(|all| all.iter().filter(|node| node["online"] == true).count() == NODES)
        })?;
        Ok(Self { home, nodes, admin, client, _folder: folder })
    }

    /// A client's order for the first nodes there are, each with a graph of its own.
    fn order(&self, number: usize) -> anyhow::Result<Value> {
        let pools = self.client.ask("GET", "/netunicorn/api/v1/nodes", None)?;
        let nodes = pools["node_pool_data"][0]["node_pool_data"].as_array().context("nodes")?;
        let deployment = |node: &Value| {
            json!({
                "node": node, "prepared": false, "executor_id": "", "error": null,
                "execution_graph": BASE64_STANDARD.encode(muster_pki::random::<GRAPH>()),
                "keep_alive_timeout_minutes": 10, "cleanup": true, "environment_definition_type": "ShellExecution",
                "environment_definition": {"commands": [], "runtime_context": {
                    "ports_mapping": {}, "environment_variables": {}, "additional_arguments": [], "network": null}},
            })
        };
        let deployments: Vec<_> = nodes.iter().take(number).map(deployment).collect();
        anyhow::ensure!(deployments.len() == number, "only {} nodes are open", deployments.len());
        Ok(json!({"deployment_map": deployments, "deployment_context": null}))
    }

    /// From the request to READY, and from the last executor's end to FINISHED.
    fn run(&mut self, name: &str, number: usize) -> anyhow::Result<(Duration, Duration)> {
        let order = self.order(number)?;
        let (path, slim) = (at(name), format!("{}?graphs=0", at(name)));
        let begun = Instant::now();
        self.client.ask("POST", &format!("{path}/prepare"), Some(&order))?;
        self.client.until(&slim, |told| told["status"] == 2)?;
        let ready = begun.elapsed();
        self.client.ask("POST", &format!("{path}/start"), None)?;
        self.client.until(&slim, |told| told["status"] == 4)?;
        let ended = self.client.ask("GET", &format!("/api/v1/experiment/experiments/{name}"), None)?;
        let ended = ended["ended_at"].as_u64().context("it ended")?;
        Ok((ready, Duration::from_millis(ended.saturating_sub(self.nodes.number("last")))))
    }
}

fn at(name: &str) -> String {
    format!("/netunicorn/api/v1/experiment/{name}")
}

/// The ways of small experiments and of one on every node.
fn ways(crowd: &mut Crowd) -> anyhow::Result<()> {
    let (mut ready, mut seen) = (Vec::new(), Vec::new());
    for n in 0..RUNS {
        let (a, b) = crowd.run(&format!("small-{n}"), SMALL)?;
        ready.push(a);
        seen.push(b);
    }
    let what = format!("prepare → READY, {SMALL} nodes, empty environment, median of {RUNS}");
    line(&what, median(ready), "ms", &Wanted::less((20_000.0, 24_000.0), 1000.0));
    let what = format!("end seen after the last result, {SMALL} nodes, median of {RUNS}");
    line(&what, median(seen), "ms", &Wanted::less((7_000.0, 25_000.0), 200.0));
    let (ready, seen) = crowd.run("large", NODES)?;
    line(&format!("prepare → READY, {NODES} nodes"), ms(ready), "ms", &Wanted::none());
    line(&format!("end seen after the last result, {NODES} nodes"), ms(seen), "ms", &Wanted::none());
    Ok(())
}

/// Looks at the large experiment, which is over and has every result.
fn looks(crowd: &mut Crowd) -> anyhow::Result<()> {
    for (query, what, wanted) in [("?graphs=0", "without graphs", 50.0), ("", "with graphs", 200.0)] {
        let (mut times, mut size) = (Vec::new(), 0);
        for _ in 0..LOOKS {
            let begun = Instant::now();
            size = crowd.client.bytes("GET", &format!("{}{query}", at("large")), None)?.len();
            times.push(begun.elapsed());
        }
        let quickest = times.iter().min().map_or(0.0, |time| ms(*time));
        let size = size as f64 / 1e6;
        let what = format!("status of {NODES} nodes with results, {what} ({size:.1} MB, quickest {quickest:.0} ms)");
        line(&what, median(times), "ms", &Wanted::less((500.0, 500.0), wanted));
    }
    Ok(())
}

/// A flag asked for at the client's API.
fn flags(crowd: &Crowd) -> anyhow::Result<()> {
    let flag = format!("{}/flag/go", at("large"));
    crowd.client.ask("POST", &flag, Some(&json!({"text_value": "yes", "int_value": 1})))?;
    let before = crowd.home.cpu();
    let load = crowd.client.load("GET", &flag)?;
    let per_core = load.answered as f64 / (crowd.home.cpu() - before).as_secs_f64();
    let what = format!("a flag at the client's API, p50 {:.1} ms", ms(load.median));
    line(&what, per_core, "requests a second and core", &Wanted::more((343.0, 391.0), 5000.0));
    Ok(())
}

/// Native pipelines on every node, again and again.
fn memory(crowd: &Crowd) -> anyhow::Result<()> {
    let task = |n: usize| {
        let needs: Vec<_> = n.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect();
        json!({"name": format!("t{n}"), "script": "true", "needs": needs})
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    let before = crowd.home.rss() as f64 / 1e6;
    let (mut sizes, mut times) = (Vec::new(), Vec::new());
    for n in 0..REPEATS {
        let name = format!("native-{n}");
        let spec = json!({"deployments": [{"nodes": {"take": NODES}, "tasks": tasks}]});
        let begun = Instant::now();
        let made = json!({"name": name, "spec": spec});
        crowd.client.ask("POST", "/api/v1/experiment/experiments", Some(&made))?;
        let path = format!("/api/v1/experiment/experiments?search={name}");
        let told = crowd.client.until(&path, |told| !told["items"][0]["ended_at"].is_null())?;
        anyhow::ensure!(told["items"][0]["succeeded"] == NODES, "{}", told["items"][0]);
        times.push(begun.elapsed());
        std::thread::sleep(SETTLE);
        sizes.push(crowd.home.rss() as f64 / 1e6);
    }
    let what = format!("{NODES} nodes × {TASKS} tasks, from the call to the end, median of {REPEATS}");
    line(&what, median(times), "ms", &Wanted::none());
    let shown: Vec<_> = sizes.iter().map(|size| format!("{size:.0}")).collect();
    println!("  memory of home: {before:.0} MB before, then after each of them {} MB", shown.join(", "));
    let growth = sizes[REPEATS - 1] / sizes[REPEATS / 2 - 1];
    let verdict = if growth <= 1.1 { "ok" } else { "MISSED" };
    println!("  from the {}rd to the last: {growth:.2} times as much, wanted 1.1 {verdict}", REPEATS / 2);
    Ok(())
}
