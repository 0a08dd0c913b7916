//! `muster experiment …`: pipelines of tasks on pools of nodes.

mod connector;
pub(super) mod dev;
mod download;
mod file;
mod watch;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use self::{connector::Connector, watch::watch};
use super::{
    Failure, Form, Global, Result,
    client::{Client, encoded, query},
    logs,
    output::{self, facts, green, when},
};
use crate::experiment::{
    api::{CancelExecutors, ExperimentDetail, NewExperiment, Postprocessing, Settings},
    model::{FlagValues, Status},
    run::{TaskRun, TaskState},
};

const EXPERIMENTS: &str = "/api/v1/experiment/experiments";

/// Run experiments: pipelines of tasks on pools of nodes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the nodes that are open to you
    Nodes,
    /// Run what a file says, on nodes that are free
    #[command(after_help = "Examples:\n  muster experiment run -f ping.yaml --wait\n  \
        muster experiment run -f ping.yaml --name ping-2 --no-start     # prepare only; start later\n\n\
        A file:\n\n  name: ping\n  deployments:\n  - nodes: {labels: {site: lab}, take: 2}\n    tasks:\n    \
        - name: ping\n      command: [ping, -c, \"3\", 192.0.2.1]\n      retries: 2\n    \
        - name: parse\n      script: echo '{\"loss\": 0}' >\"$MUSTER_RESULT\"\n      needs: [ping]")]
    Run {
        /// The file; `-` for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Its name in place of the file's
        #[arg(long)]
        name: Option<String>,
        /// Prepare its nodes and leave it to `muster experiment start`
        #[arg(long, conflicts_with = "wait")]
        no_start: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Check a file without asking a controller
    #[command(after_help = "Example:\n  muster experiment check -f ping.yaml")]
    Check {
        /// The file; `-` for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// List experiments, newest first
    List {
        /// Only of this status: preparing, ready, running, cancelling, finished, cancelled, failed
        #[arg(long)]
        status: Option<String>,
        /// Only those whose name holds this
        #[arg(long)]
        search: Option<String>,
    },
    /// Show an experiment and its nodes
    Show(Which),
    /// Start an experiment that is ready
    Start {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Watch an experiment until it ends
    Wait {
        #[command(flatten)]
        which: Which,
        /// Watch no longer than this many seconds
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Print what an experiment's executors printed
    #[command(after_help = "Examples:\n  muster experiment logs ping --node lab-1 --follow\n  \
        muster experiment logs ping --of deployment          # what making the environments printed")]
    Logs {
        #[command(flatten)]
        which: Which,
        /// Only of this node, or of this executor's id
        #[arg(long)]
        node: Option<String>,
        /// Go on until the executor ends
        #[arg(short, long, requires = "node")]
        follow: bool,
        /// executor, deployment or image: what building its image printed
        #[arg(long, default_value = "executor", value_parser = ["executor", "deployment", "image"])]
        of: String,
        /// Only one of the two
        #[arg(long, value_parser = ["stdout", "stderr"])]
        stream: Option<String>,
    },
    /// Show what came of an experiment, or save it as a folder with an index
    #[command(after_help = "Examples:\n  muster experiment results ping\n  \
        muster experiment results ping --to ./ping          # reports, logs and files, with index.json")]
    Results {
        #[command(flatten)]
        which: Which,
        /// Save everything in this folder, which is made
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Cancel an experiment, or some of its nodes
    #[command(after_help = "Examples:\n  muster experiment cancel ping\n  muster experiment cancel ping --node lab-1")]
    Cancel {
        #[command(flatten)]
        which: Which,
        /// Only this node, or this executor's id
        #[arg(long)]
        node: Vec<String>,
    },
    /// Delete an experiment that is not under way
    Delete(Which),
    /// Look at and change the values that an experiment's nodes share
    #[command(subcommand)]
    Flag(Flag),
    /// List connectors, which bring nodes that are no agents; add, change and remove them
    #[command(subcommand)]
    Connector(Connector),
    /// Show or change what you want of experiments
    #[command(
        after_help = "Example:\n  muster experiment settings --graphs off     # smaller answers to netunicorn's client"
    )]
    Settings {
        /// Whether netunicorn's client is given graphs in each status: on or off
        #[arg(long, value_parser = ["on", "off"])]
        graphs: Option<String>,
    },
}

/// Look at and change the values that an experiment's nodes share
#[derive(Debug, Subcommand)]
enum Flag {
    /// List flags
    List(Which),
    /// Print a flag
    Get {
        #[command(flatten)]
        which: Which,
        /// The flag
        flag: String,
    },
    /// Set a flag
    #[command(after_help = "Example:\n  muster experiment flag set ping go --text now --int 1")]
    Set {
        #[command(flatten)]
        which: Which,
        /// The flag
        flag: String,
        /// Its text
        #[arg(long)]
        text: Option<String>,
        /// Its number
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        int: i64,
    },
    /// Add to a flag's number
    Add {
        #[command(flatten)]
        which: Which,
        /// The flag
        flag: String,
        /// What to add
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Wait until a flag is set, or as it should be
    #[command(after_help = "Example:\n  muster experiment flag wait ping arrived --at-least 5 --timeout 60")]
    Wait {
        #[command(flatten)]
        which: Which,
        /// The flag
        flag: String,
        /// Until its text is this
        #[arg(long)]
        text: Option<String>,
        /// Until its number is at least this
        #[arg(long, allow_negative_numbers = true)]
        at_least: Option<i64>,
        /// Wait no longer than this many seconds
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        timeout: u64,
    },
    /// List what was changed, newest first
    History(Which),
}

/// Which experiment
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// The experiment's name
    name: String,
    /// Whose it is, where it is not yours; for administrators
    #[arg(long, default_value = "", hide_default_value = true, value_name = "USER")]
    owner: String,
}

/// Waiting
#[derive(Debug, clap::Args)]
struct Wait {
    /// Wait for its end, with progress per node
    #[arg(short, long)]
    wait: bool,
    /// Wait no longer than this many seconds
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    timeout: u64,
}

// === impl Which ===

impl Which {
    fn path(&self, rest: &str) -> String {
        let query = query(&[("owner", self.owner.clone())]);
        let query = if self.owner.is_empty() { String::new() } else { format!("?{query}") };
        format!("{EXPERIMENTS}/{}{rest}{query}", encoded(&self.name))
    }

    fn get(&self, client: &Client) -> Result<ExperimentDetail> {
        client.get(&self.path(""))
    }
}

// === impl Args ===

impl Args {
    /// Does what was asked for.
    pub fn run(&self, global: &Global) -> Result {
        if let Command::Check { file } = &self.command {
            let (name, spec) = file::read(file, None)?;
            let tasks: usize = spec.deployments.iter().map(|d| d.tasks.len()).sum();
            eprintln!("{name} {}: {tasks} task(s) in {} deployment(s)", green("is right"), spec.deployments.len());
            return Ok(());
        }
        let client = global.client()?;
        match &self.command {
            Command::Check { .. } => Ok(()),
            Command::Nodes => nodes(global.output, &client),
            Command::Run { file, name, no_start, wait } => run(global, &client, file, name.as_deref(), *no_start, wait),
            Command::List { status, search } => {
                let word = |o: &Option<String>| o.clone().unwrap_or_default();
                let query = query(&[("status", word(status)), ("search", word(search))]);
                experiments(global.output, client.all(&format!("{EXPERIMENTS}?{query}"))?)
            }
            Command::Show(which) => show(global, &client, which),
            Command::Start { which, wait } => {
                let _: Value = client.post(&which.path("/start"), &json!({}))?;
                match wait.wait {
                    true => watch(&client, which, Duration::from_secs(wait.timeout)),
                    false => said(&which.name, "started"),
                }
            }
            Command::Wait { which, timeout } => watch(&client, which, Duration::from_secs(*timeout)),
            Command::Logs { which, node, follow, of, stream } => {
                print_logs(&client, which, node.as_deref(), *follow, of, stream.as_deref())
            }
            Command::Results { which, to: Some(folder) } => download::save(&client, which, folder),
            Command::Results { which, to: None } => results(global, &client, which),
            Command::Cancel { which, node } => {
                let all = if node.is_empty() { String::new() } else { format!("{} of ", node.join(", ")) };
                global.confirm(&format!("Cancel {all}{}?", which.name))?;
                let _: Value = client.post(&which.path("/cancel"), &CancelExecutors { executors: node.clone() })?;
                eprintln!("its end is asked for; watch it with `muster experiment wait {}`", which.name);
                Ok(())
            }
            Command::Delete(which) => {
                global.confirm(&format!("Delete {} with its results?", which.name))?;
                client.act(Method::DELETE, &which.path(""), None::<&()>)?;
                said(&which.name, "deleted")
            }
            Command::Flag(flag) => flag.run(global, &client),
            Command::Connector(connector) => connector.run(global, &client),
            Command::Settings { graphs } => {
                let path = "/api/v1/experiment/settings";
                let now: Settings = match graphs {
                    Some(word) => client.put(path, &Settings { graphs: word == "on" }, None)?,
                    None => client.get(path)?,
                };
                let word = if now.graphs { "on" } else { "off" };
                output::one(global.output, &json!(now), "/graphs", |_| facts(&[("Graphs", word.into())]))
            }
        }
    }
}

const COLUMNS: [output::Column<'_>; 8] = [
    ("EXPERIMENT", "/name"),
    ("OWNER", "/owner"),
    ("STATUS", "/status"),
    ("SINCE", "/status_at"),
    ("NODES", "/deployments"),
    ("SUCCEEDED", "/succeeded"),
    ("FAILED", "/failed"),
    ("WHY", "/why"),
];

fn said(name: &str, word: &str) -> Result {
    eprintln!("{name} {}", green(word));
    Ok(())
}

// === running ===

fn run(
    global: &Global,
    client: &Client,
    file: &std::path::Path,
    name: Option<&str>,
    no_start: bool,
    wait: &Wait,
) -> Result {
    let (name, spec) = file::read(file, name)?;
    let made: ExperimentDetail = client.post(EXPERIMENTS, &NewExperiment { name, spec, start: !no_start })?;
    let which = Which { name: made.experiment.name.clone(), owner: String::new() };
    let name = &which.name;
    let is_over = made.experiment.status.is_over();
    if is_over {
        let word = made.experiment.status.word();
        eprintln!("{name} is {word} and was not run again; say --name, or `muster experiment delete {name}` first");
    } else {
        let nodes: Vec<_> = made.nodes.iter().map(|d| d.node.as_str()).collect();
        eprintln!("{name} on {}", nodes.join(", "));
    }
    if wait.wait {
        return watch(client, &which, Duration::from_secs(wait.timeout));
    }
    match (is_over, no_start) {
        (true, _) => {}
        (false, true) => eprintln!("accepted; once it is ready, start it with `muster experiment start {name}`"),
        (false, false) => eprintln!("accepted; watch it with `muster experiment wait {name}`"),
    }
    let id = made.experiment.id.clone();
    output::one(global.output, &json!(made), "/name", |_| format!("{id}\n"))
}

// === showing ===

fn nodes(form: Form, client: &Client) -> Result {
    let mut items: Vec<Value> = client.get("/api/v1/experiment/nodes")?;
    for item in &mut items {
        let online = item["online"].as_bool().unwrap_or_default();
        item["state"] = if online { "online".into() } else { "away".into() };
        let words = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        item["runs"] = words(&item["environments"]).join(",").into();
        item["tags"] = words(&item["properties"]["netunicorn-access-tags"]).join(",").into();
        if item["is_template"].as_bool() == Some(true) {
            let limit = item["limit"].as_f64().map_or_else(|| "…".into(), |limit| limit.to_string());
            item["name"] = format!("{}{{1..{limit}}}", item["name"].as_str().unwrap_or_default()).into();
        }
    }
    let columns = [
        ("NODE", "/name"),
        ("STATE", "/state"),
        ("CONNECTOR", "/connector"),
        ("ARCHITECTURE", "/architecture"),
        ("PYTHON", "/properties/python"),
        ("RUNS", "/runs"),
        ("TAGS", "/tags"),
        ("HELD BY", "/held_by"),
    ];
    let empty = "no nodes; invite agents with `muster invitation create --class experiment-node`";
    output::list(form, items, &columns, "/name", empty)
}

fn experiments(form: Form, items: Vec<Value>) -> Result {
    output::list(form, items, &COLUMNS, "/name", "no experiments; run one with `muster experiment run -f`")
}

fn show(global: &Global, client: &Client, which: &Which) -> Result {
    let detail = which.get(client)?;
    if global.output != Form::Table {
        return output::one(global.output, &json!(detail), "/name", |_| String::new());
    }
    let it = &detail.experiment;
    let time = |at: Option<i64>| at.map(when).unwrap_or_default();
    output::print(&facts(&[
        ("Experiment", it.name.clone()),
        ("Owner", it.owner.clone()),
        ("Status", format!("{} since {}", it.status.word(), when(it.status_at))),
        ("Why", it.why.clone()),
        ("Id", it.id.clone()),
        ("Created", when(it.created_at)),
        ("Ready", time(it.ready_at)),
        ("Started", time(it.started_at)),
        ("Ended", time(it.ended_at)),
        ("Postprocessing", detail.postprocessing.as_ref().map(postprocessing).unwrap_or_default()),
    ]))?;
    output::print("\n")?;
    let head = ["NODE", "STAGE", "TOOK", "TASKS", "RESULT", "EXECUTOR", "WHY"].map(str::to_owned).to_vec();
    let rows = detail.nodes.iter().map(|node| {
        let stage = node.outcome.map_or(node.stage.word(), |o| o.word()).to_owned();
        let took = match (node.started_at, node.ended_at) {
            (Some(from), Some(to)) => format!("{:.1}s", (to - from).max(0) as f64 / 1000.0),
            _ => "-".into(),
        };
        let result = match (node.result_bytes, node.result_is_late) {
            (None, _) => "-".to_owned(),
            (Some(bytes), true) => format!("{bytes} B, late"),
            (Some(bytes), false) => format!("{bytes} B"),
        };
        vec![node.node.clone(), stage, took, tasks(&node.runs), result, node.executor.clone(), node.message.clone()]
    });
    output::print(&output::table(std::iter::once(head).chain(rows).collect()))
}

/// What came of postprocessors, in a line.
fn postprocessing(it: &Postprocessing) -> String {
    match (it.told_at, it.again_at, it.tries) {
        (Some(at), ..) if it.message.is_empty() => format!("done {}", when(at)),
        (Some(_), ..) => it.message.clone(),
        (None, Some(_), 0) => "waiting".into(),
        (None, Some(at), _) => format!("{}; again {}", it.error, when(at)),
        (None, None, tries) => format!("{}; given up after {tries} tries", it.error),
    }
}

/// How a native pipeline's tasks stand, in a word. Of tries the last one counts.
fn tasks(runs: &[TaskRun]) -> String {
    let last: BTreeMap<_, _> = runs.iter().map(|run| ((run.cycle, &run.task), run.state)).collect();
    let count = |is: &dyn Fn(TaskState) -> bool| last.values().filter(|state| is(**state)).count();
    let well = count(&|s| s == TaskState::Succeeded);
    let running = count(&|s| s == TaskState::Running);
    let badly = count(&|s| matches!(s, TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled));
    let parts = [(well, "ok"), (running, "running"), (badly, "failed")];
    let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

fn results(global: &Global, client: &Client, which: &Which) -> Result {
    let detail = which.get(client)?;
    let mut items = Vec::new();
    for node in &detail.nodes {
        for run in &node.runs {
            let took = if run.ended_at > 0 { json!(run.ended_at - run.started_at) } else { Value::Null };
            items.push(json!({
                "node": node.node, "task": run.task, "cycle": run.cycle, "attempt": run.attempt, "state": run.state,
                "ms": took, "value": run.value, "message": run.message, "files": run.artifacts.len(),
            }));
        }
        if node.runs.is_empty() {
            let value = node.result_bytes.map(|n| format!("a report of {n} bytes; save it with --to"));
            let state = node.outcome.map_or(node.stage.word(), |o| o.word());
            items.push(json!({"node": node.node, "state": state, "value": value, "message": node.message}));
        }
    }
    let columns = [
        ("NODE", "/node"),
        ("TASK", "/task"),
        ("CYCLE", "/cycle"),
        ("TRY", "/attempt"),
        ("STATE", "/state"),
        ("MS", "/ms"),
        ("FILES", "/files"),
        ("VALUE", "/value"),
        ("WHY", "/message"),
    ];
    output::list(global.output, items, &columns, "/node", "nothing came of it yet")
}

fn print_logs(
    client: &Client,
    which: &Which,
    node: Option<&str>,
    follow: bool,
    of: &str,
    stream: Option<&str>,
) -> Result {
    let detail = which.get(client)?;
    let meant: Vec<_> = detail.nodes.iter().filter(|d| node.is_none_or(|n| n == d.node || n == d.executor)).collect();
    if meant.is_empty() {
        let nodes: Vec<_> = detail.nodes.iter().map(|d| d.node.as_str()).collect();
        return Err(Failure::new(Failure::NOT_FOUND, format!("no such node; there are {}", nodes.join(", "))));
    }
    for one in &meant {
        let path = |rest: &str| format!("/api/v1/experiment/executors/{}/log{rest}?of={of}", encoded(&one.executor));
        if meant.len() > 1 {
            eprintln!("--- {}", one.node);
        }
        if follow {
            logs::follow(client, &path("/stream"), stream)?;
        } else {
            logs::whole(client, &path(""), stream)?;
        }
    }
    Ok(())
}

// === impl Flag ===

impl Flag {
    fn run(&self, global: &Global, client: &Client) -> Result {
        let of = |which: &Which, flag: &str, rest: &str| which.path(&format!("/flags/{}{rest}", encoded(flag)));
        let print = |values: FlagValues| {
            output::one(global.output, &json!(values), "/int_value", |_| {
                let text = values.text_value.clone().map(|t| format!(" {t}")).unwrap_or_default();
                format!("{}{text}\n", values.int_value)
            })
        };
        match self {
            Self::List(which) => {
                let items = client.get(&which.path("/flags"))?;
                let columns = [("FLAG", "/name"), ("NUMBER", "/int_value"), ("TEXT", "/text_value"), ("SINCE", "/at")];
                output::list(global.output, items, &columns, "/name", "no flag was set")
            }
            Self::Get { which, flag } => print(client.get(&of(which, flag, ""))?),
            Self::Set { which, flag, text, int } => {
                let values = FlagValues { text_value: text.clone(), int_value: *int };
                print(client.put(&of(which, flag, ""), &values, None)?)
            }
            Self::Add { which, flag, by } => print(client.post(&of(which, flag, "/add"), &json!({"by": by}))?),
            Self::Wait { which, flag, text, at_least, timeout } => {
                print(watch::flag(client, which, flag, text.as_deref(), *at_least, Duration::from_secs(*timeout))?)
            }
            Self::History(which) => {
                let items = client.get(&which.path("/flag-history"))?;
                let columns = [
                    ("TIME", "/at"),
                    ("FLAG", "/name"),
                    ("NUMBER", "/int_value"),
                    ("TEXT", "/text_value"),
                    ("BY", "/by"),
                ];
                output::list(global.output, items, &columns, "/name", "no flag was changed")
            }
        }
    }
}

/// Whether an experiment ended well: every executor succeeded.
fn is_well(detail: &ExperimentDetail) -> bool {
    detail.experiment.status == Status::Finished && detail.experiment.failed == 0
}

#[cfg(test)]
mod tests;
