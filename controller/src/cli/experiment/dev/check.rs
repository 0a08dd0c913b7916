//! The example on two nodes, with a look at what came of it, and an experiment that is cut short.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::{
        Failure, Result,
        client::Client,
        dev::{House, step, wait},
        experiment::{EXPERIMENTS, Which, file, is_well},
        output::red,
    },
    experiment::{
        api::{DeploymentView, ExperimentDetail, NewExperiment},
        model::Status,
        run::{TaskRun, TaskState},
        spec::Spec,
    },
};

/// A step may take this long: the first one makes the environment of each node.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the task that would take an hour is called.
const LONG: &str = "long";

/// Runs the example and looks at what it gave; cancels what would take an hour; deletes both. Where there is nothing to
/// run it on it says so.
pub(super) fn run_and_cancel(house: &mut House) -> Result {
    let client = house.client()?;
    let nodes: Vec<Value> = client.get("/api/v1/experiment/nodes")?;
    let example = house.examples("experiments").map(|folder| folder.join("hello.yaml"));
    let Some(example) = example.filter(|_| nodes.len() >= 2) else {
        let text = "no experiment: it wants the examples, and two nodes (--agents experiment-node=2)";
        eprintln!("  {} {text}", red("--"));
        return Ok(());
    };
    let (name, spec) = file::read(&example, Some("check"))?;
    let hello = begin(&client, &name, spec)?;
    let done = until(house, &hello, "the experiment is over", |detail| detail.experiment.status.is_over())?;
    must_be_well(&done)?;
    for node in &done.nodes {
        must_have_said(&client, node)?;
    }
    step("a pipeline ran on two nodes: what each task gave is here, and a file of each node");

    let hour =
        json!({"deployments": [{"nodes": {"take": 1}, "tasks": [{"name": LONG, "command": ["sleep", "3600"]}]}]});
    let hour = serde_json::from_value(hour).map_err(|e| Failure::failed(e.to_string()))?;
    let long = begin(&client, "check-long", hour)?;
    let is_running = |detail: &ExperimentDetail| runs(detail).any(|run| run.state == TaskState::Running);
    until(house, &long, "its task runs", is_running)?;
    let asked = Instant::now();
    client.act(Method::POST, &long.path("/cancel"), Some(&json!({})))?;
    let ended = until(house, &long, "it has ended", |detail| detail.experiment.status.is_over())?;
    if ended.experiment.status != Status::Cancelled {
        return Err(Failure::failed(format!("it was cancelled, and is {}", ended.experiment.status.word())));
    }
    step(&format!("cancelled: a task of an hour ended within {:.1} s", asked.elapsed().as_secs_f64()));

    for which in [&hello, &long] {
        client.act(Method::DELETE, &which.path(""), None::<&Value>)?;
    }
    let nodes: Vec<Value> = client.get("/api/v1/experiment/nodes")?;
    if let Some(held) = nodes.iter().find(|node| !node["held_by"].is_null()) {
        return Err(Failure::failed(format!("{} is still held by {}", held["name"], held["held_by"])));
    }
    step("deleted: the nodes are free");
    Ok(())
}

/// Asks for an experiment; one of that name that an earlier check left is deleted.
fn begin(client: &Client, name: &str, spec: Spec) -> Result<Which> {
    let which = Which { name: name.into(), owner: String::new() };
    match client.act(Method::DELETE, &which.path(""), None::<&Value>) {
        Err(failure) if failure.code != Failure::NOT_FOUND => return Err(failure),
        _ => {}
    }
    let _: Value = client.post(EXPERIMENTS, &NewExperiment { name: name.into(), spec, start: true })?;
    Ok(which)
}

fn until(
    house: &mut House,
    which: &Which,
    what: &str,
    is_so: impl Fn(&ExperimentDetail) -> bool,
) -> Result<ExperimentDetail> {
    let client = house.client()?;
    let mut last = String::new();
    let found = wait(PATIENCE, what, || {
        house.must_live()?;
        let detail = which.get(&client)?;
        let stages: Vec<_> = detail.nodes.iter().map(|node| format!("{} {}", node.node, node.stage.word())).collect();
        last = format!("{} {}: {}", which.name, detail.experiment.status.word(), stages.join(", "));
        Ok(is_so(&detail).then_some(detail))
    });
    found.map_err(|failure| Failure::failed(format!("{failure}; {last}")))
}

fn runs(detail: &ExperimentDetail) -> impl Iterator<Item = &TaskRun> {
    detail.nodes.iter().flat_map(|node| &node.runs)
}

fn must_be_well(detail: &ExperimentDetail) -> Result {
    if is_well(detail) {
        return Ok(());
    }
    let said: Vec<_> = detail.nodes.iter().map(|node| format!("{}: {}", node.node, node.message)).collect();
    Err(Failure::failed(format!("it is {}: {}", detail.experiment.status.word(), said.join("; "))))
}

/// What the example's tasks gave on a node, and the page that one of them left.
fn must_have_said(client: &Client, node: &DeploymentView) -> Result {
    let last = |task: &str| node.runs.iter().rfind(|run| run.task == task);
    for (task, tried, value) in [("greet", 1, "Hello from "), ("again", 2, "2"), ("count", 1, "5")] {
        let is_so = |run: &&TaskRun| run.attempt == tried && run.value.starts_with(value);
        if last(task).filter(is_so).is_none() {
            return Err(Failure::failed(format!("{}: {task} is {:?}", node.node, last(task))));
        }
    }
    let page = last("page").and_then(|run| run.artifacts.first());
    let page = page.ok_or_else(|| Failure::failed(format!("{}: its page is not here", node.node)))?;
    let text = client.text(&format!("/api/v1/experiment/executors/{}/artifacts/{}", node.executor, page.digest))?;
    if text == "Hello, and that is all.\n" {
        return Ok(());
    }
    Err(Failure::failed(format!("{}: its page says {text:?}", node.node)))
}
