//! What an agent costs: one node as a real program.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use muster_integration_tests::{
    processes::{Processes, wait},
    site::Site,
};
use serde_json::{Value, json};

use crate::{
    Wanted,
    http::{Client, load},
    line, ms,
    part::cpu_of,
};

/// Tasks, one after the other, of the pipelines whose way from task to task is timed.
const TASKS: usize = 50;

/// The same of netunicorn's own executor, which takes a second for each.
const PYTHON_TASKS: usize = 3;

/// Prints a pipeline's graph, as a client sends it.
const MAKE_GRAPH: &str = "
import base64, sys
from netunicorn.base.deployment import Deployment
from netunicorn.base.environment_definitions import ShellExecution
from netunicorn.base.nodes import Node
from netunicorn.base.pipeline import Pipeline
from netunicorn.base.task import Task
class Nothing(Task):
    def run(self):
        return 1
it = Pipeline(environment_definition=ShellExecution())
for n in range(int(sys.argv[1])):
    it = it.then(Nothing(name=f't{n}'))
print(base64.b64encode(Deployment(Node('x', {}), it).execution_graph).decode())
";

/// A house with one node.
struct House {
    // The node ends before the folder in which it lies goes.
    node: Site,
    home: Processes,
    client: Client,
    python: Option<PathBuf>,
}

/// Measures an agent.
pub fn measure() -> anyhow::Result<()> {
    println!("\nOne node as a program");
    let house = House::open()?;
    native(&house)?;
    relay(&house)?;
    match &house.python {
        Some(python) => real_executor(&house, python),
        None => {
            println!("  MUSTER_TEST_PYTHON names no Python with netunicorn: its own executor is NOT measured");
            Ok(())
        }
    }
}

impl House {
    fn open() -> anyhow::Result<Self> {
        let mut home = Processes::new();
        home.certificate_seconds = 86_400;
        home.start_controller(None);
        let python = std::env::var_os("MUSTER_TEST_PYTHON").map(PathBuf::from);
        let settings = format!("[experiment]\npython = {}\n", json!(python.clone().unwrap_or_default()));
        let mut node = Site::with(&home, "node-1", &settings);
        let joined = node.enroll(&home, &home.invite_as("experiment-node", &json!({})), None);
        ensure!(joined.status.success(), "{}", home.logs());
        node.start(&home, None);
        let password = fs::read_to_string(home.path("controller/first-admin"))?;
        let (_, client) = Client::log_in(home.url.trim_start_matches("http://"), password.trim())?;
        client.until("/api/v1/experiment/nodes", |nodes| {
            let node = &nodes[0];
            node["online"] == true && node["environments"].as_array().is_some_and(|all| !all.is_empty())
        })?;
        Ok(Self { node, home, client, python })
    }

    /// Runs a native pipeline, to its end or until it is under way.
    fn run(&self, name: &str, tasks: &[Value], to_its_end: bool) -> anyhow::Result<Value> {
        let spec = json!({"deployments": [{"nodes": {"take": 1}, "tasks": tasks}]});
        let made = json!({"name": name, "spec": spec});
        self.client.ask("POST", "/api/v1/experiment/experiments", Some(&made))?;
        let path = format!("/api/v1/experiment/experiments/{name}");
        self.client.until(&path, |told| !to_its_end || !told["ended_at"].is_null())
    }
}

/// From one native task to the next.
fn native(house: &House) -> anyhow::Result<()> {
    let task = |n: usize| {
        let needs: Vec<_> = n.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect();
        json!({"name": format!("t{n}"), "command": ["/bin/true"], "needs": needs})
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    let told = house.run("native", &tasks, true)?;
    let runs = told["nodes"][0]["runs"].as_array().context("runs")?;
    ensure!(runs.len() == TASKS && runs.iter().all(|run| run["state"] == "succeeded"), "{told}");
    let at = |n: usize, name: &str| runs[n][name].as_f64().unwrap_or_default();
    let whole = (at(TASKS - 1, "ended_at") - at(0, "started_at")) / TASKS as f64;
    // Begin and end are told in whole milliseconds, too coarse for the gap between two tasks: all of it is counted.
    let what = format!("a native task that does nothing, all told, one of {TASKS}");
    line(&what, whole, "ms", &Wanted::less((1005.0, 1005.0), 5.0));
    Ok(())
}

/// Requests at the relay, while a task holds its executor's place.
fn relay(house: &House) -> anyhow::Result<()> {
    let note = house.home.path("relay");
    let script = format!(
        "echo \"$MUSTER_RELAY $MUSTER_EXECUTOR $MUSTER_EXPERIMENT\" >{0}.new; mv {0}.new {0}; sleep 60",
        note.display()
    );
    house.run("relay", &[json!({"name": "hold", "script": script})], false)?;
    let told = wait("the task tells its relay", || fs::read_to_string(&note).ok());
    let words: Vec<&str> = told.split_whitespace().collect();
    let [url, executor, experiment] = words[..] else { anyhow::bail!("{told:?} names no relay") };
    let agent = house.node.pid().context("the agent runs")?;
    let home = house.home.controller_pid().context("the controller runs")?;
    let heartbeat = json!({"executor_id": executor, "results": "gASVBQAAAAAAAACMAXiULg==", "state": 1}).to_string();
    let set = format!("/api/v1/experiment/{experiment}/flag/go");
    for (method, path, body, what, wanted) in [
        ("POST", "/api/v1/executor/result/", heartbeat.as_str(), "a heartbeat at the relay", Some(5000.0)),
        ("POST", &set, "{\"text_value\": \"yes\", \"int_value\": 1}", "a flag set through the relay at home", None),
        ("GET", &set, "", "a flag read through the relay at home", None),
    ] {
        let before = (cpu_of(agent), cpu_of(home));
        let load = load(url, method, path, "", body)?;
        let at_agent = (cpu_of(agent) - before.0).as_secs_f64();
        let at_home = (cpu_of(home) - before.1).as_secs_f64();
        let what = format!("{what}, p50 {:.1} ms", ms(load.median));
        let wanted = Wanted { wanted, ..Wanted::more((343.0, 391.0), 0.0) };
        line(&what, load.answered as f64 / at_agent, "requests a second and core", &wanted);
        if at_home > 0.1 {
            line(
                "  and home's share of that",
                load.answered as f64 / at_home,
                "requests a second and core",
                &Wanted::none(),
            );
        }
    }
    house.client.ask("POST", "/api/v1/experiment/experiments/relay/cancel", Some(&json!({})))?;
    let path = "/api/v1/experiment/experiments/relay";
    house.client.until(path, |told| !told["ended_at"].is_null())?;
    Ok(())
}

/// Netunicorn's own executor at an agent's relay, and at a server that has nothing else to do.
fn real_executor(house: &House, python: &PathBuf) -> anyhow::Result<()> {
    let made = Command::new(python).args(["-c", MAKE_GRAPH, &PYTHON_TASKS.to_string()]).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let graph = String::from_utf8(made.stdout)?.trim().to_owned();
    let bare = bare_executor(house, python, &graph)?;
    let node = house.client.ask("GET", "/netunicorn/api/v1/nodes", None)?;
    let node = node["node_pool_data"][0]["node_pool_data"][0].clone();
    let order = json!({"deployment_map": [{
        "node": node, "prepared": false, "executor_id": "", "error": null, "execution_graph": graph,
        "keep_alive_timeout_minutes": 10, "cleanup": true, "environment_definition_type": "ShellExecution",
        "environment_definition": {"commands": [], "runtime_context": {
            "ports_mapping": {}, "environment_variables": {}, "additional_arguments": [], "network": null}},
    }], "deployment_context": null});
    let path = "/netunicorn/api/v1/experiment/python";
    house.client.ask("POST", &format!("{path}/prepare"), Some(&order))?;
    house.client.until(path, |told| told["status"] == 2)?;
    house.client.ask("POST", &format!("{path}/start"), None)?;
    house.client.until(path, |told| told["status"] == 4)?;
    let told = house.client.ask("GET", "/api/v1/experiment/experiments/python", None)?;
    let node = &told["nodes"][0];
    ensure!(node["outcome"] == "succeeded", "{told}");
    let ours = node["ended_at"].as_f64().context("an end")? - node["started_at"].as_f64().context("a begin")?;
    println!(
        "  netunicorn's executor with {PYTHON_TASKS} tasks: {:.0} ms by itself, {ours:.0} ms at an agent",
        ms(bare)
    );
    line(
        "overhead of the relay on top of the executor's own",
        ours - ms(bare),
        "ms",
        &Wanted { wanted: Some(100.0), ..Wanted::none() },
    );
    Ok(())
}

/// The executor at a server that answers at once; how long it takes.
fn bare_executor(house: &House, python: &PathBuf, graph: &str) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let folder = house.home.path("bare");
    fs::create_dir(&folder)?;
    let graph = format!("\"{graph}\"");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut piece = [0; 65_536];
            while let Ok(n) = stream.read(&mut piece) {
                asked.extend_from_slice(&piece[..n]);
                let text = String::from_utf8_lossy(&asked).to_ascii_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                let whole = text.find("\r\n\r\n").is_some_and(|head| asked.len() >= head + 4 + length.unwrap_or(0));
                if n == 0 || whole {
                    break;
                }
            }
            let body = if asked.starts_with(b"GET") { graph.as_str() } else { "null" };
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        }
    });
    let begun = Instant::now();
    let ended = Command::new(python)
        .args(["-m", "netunicorn.executor"])
        .current_dir(&folder)
        .env("NETUNICORN_GATEWAY_ENDPOINT", endpoint)
        .env("NETUNICORN_EXECUTOR_ID", "bare")
        .env("NETUNICORN_EXPERIMENT_ID", "bare")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(ended.success(), "the executor ended with {ended}");
    Ok(begun.elapsed())
}
