//! Experiments as files: which nodes, and the pipelines of tasks they run without Python. Pure; the command line checks a
//! file by this before it leaves the laptop, and the controller checks it again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::model::Labels;

/// Tasks one pipeline may have.
const MAX_TASKS: usize = 1000;

/// How often a part of a pipeline may be repeated.
const MAX_REPEATS: u32 = 100_000;

/// Longest text of a field, bytes.
const MAX_TEXT: usize = 100 * 1024;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What runs where.
    pub deployments: Vec<Deployment>,
}

/// One pipeline on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Which nodes run it.
    pub nodes: Nodes,
    /// What its tasks run in; absent: the node as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Variables of every task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// A node that is silent for so long is given up, minutes.
    #[serde(default = "keep_alive")]
    pub keep_alive_minutes: i64,
    /// A node that is given up while it runs this is replaced by a free one, which begins anew; not for named nodes.
    #[serde(default, skip_serializing_if = "is_no")]
    pub moves: bool,
    /// Whether what the tasks wrote is removed from the nodes in the end.
    #[serde(default = "yes")]
    pub cleanup: bool,
    /// The first task that fails for good ends the pipeline.
    #[serde(default = "yes")]
    pub early_stopping: bool,
    /// Tasks under way at the same time; 0: no limit.
    #[serde(default)]
    pub parallel: u32,
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// Which nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// These, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Those whose properties are so.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// So many of the labelled ones, by name; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<usize>,
}

/// What tasks run in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Shell commands that make it, once per node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Lines for `/bin/sh -eu`, in place of a command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub script: String,
    /// Its variables, beside those of the deployment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Tasks that come before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// Files that earlier tasks left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Files to keep, relative to the task's folder; `*` stands for anything but `/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Tries beside the first.
    #[serde(default)]
    pub retries: u32,
    /// Milliseconds between two tries.
    #[serde(default)]
    pub retry_delay_ms: u32,
    /// Limit of one try, seconds; 0: none.
    #[serde(default)]
    pub limit_seconds: u32,
    /// Begins a part of the pipeline again once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
}

/// A task that comes before: its name, or its name and what it must have come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a task's name, or {task: its name, on: success, failure or any}")]
pub enum Need {
    /// It succeeded.
    Task(String),
    /// It came to this.
    On(NeedOn),
}

/// A task that comes before, and what it must have come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NeedOn {
    /// The task.
    pub task: String,
    /// What it must have come to.
    #[serde(default)]
    pub on: On,
}

/// What a task must have come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// It succeeded.
    #[default]
    Success,
    /// It failed.
    Failure,
    /// It ended.
    Any,
}

/// A file that an earlier task left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The task.
    pub task: String,
    /// Its path there.
    pub path: String,
    /// Its path here; absent: the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to: String,
}

/// A part of a pipeline that is begun again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// The task to begin again with.
    pub from: String,
    /// How often, beside the first time.
    pub times: u32,
}

/// Something wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Mistake {
    /// Path of the field, as in `deployments[0].tasks[1].needs[0]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

fn keep_alive() -> i64 {
    10
}

fn is_no(value: &bool) -> bool {
    !value
}

fn yes() -> bool {
    true
}

// === impl Need ===

impl Need {
    /// The task.
    pub fn task(&self) -> &str {
        match self {
            Self::Task(task) | Self::On(NeedOn { task, .. }) => task,
        }
    }

    /// What it must have come to.
    pub fn on(&self) -> On {
        match self {
            Self::Task(_) => On::Success,
            Self::On(need) => need.on,
        }
    }
}

// === impl Input ===

impl Input {
    /// Its path where it is used.
    pub fn to(&self) -> &str {
        if self.to.is_empty() { &self.path } else { &self.to }
    }
}

// === checking ===

/// Collects mistakes by their field.
struct Found(Vec<Mistake>);

impl Found {
    fn add(&mut self, field: String, message: impl Into<String>) {
        self.0.push(Mistake { field, message: message.into() });
    }

    fn unless(&mut self, right: bool, field: impl FnOnce() -> String, message: impl Into<String>) {
        if !right {
            self.add(field(), message);
        }
    }
}

impl Spec {
    /// Every mistake, in the order of the file.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Found(Vec::new());
        found.unless(!self.deployments.is_empty(), || "deployments".into(), "an experiment has at least one");
        for (n, deployment) in self.deployments.iter().enumerate() {
            deployment.check(&format!("deployments[{n}]"), &mut found);
        }
        found.0
    }
}

impl Deployment {
    fn check(&self, at: &str, found: &mut Found) {
        let nodes = &self.nodes;
        let field = |name: &str| format!("{at}.{name}");
        let by_name = !nodes.names.is_empty();
        let is_said = match (by_name, !nodes.labels.is_empty()) {
            (true, true) => false,
            (false, false) => nodes.take.is_some(),
            _ => true,
        };
        found.unless(
            is_said,
            || field("nodes"),
            "say which nodes: by their names, or by labels, or only how many to take",
        );
        found.unless(
            !(by_name && nodes.take.is_some()),
            || field("nodes.take"),
            "nodes named one by one are all taken",
        );
        found.unless(
            !(by_name && self.moves),
            || field("moves"),
            "nodes named one by one are not replaced; choose them by labels, or say only how many to take",
        );
        found.unless(nodes.take != Some(0), || field("nodes.take"), "at least 1");
        let minutes = self.keep_alive_minutes;
        found.unless((1..=525_600).contains(&minutes), || field("keep_alive_minutes"), "from 1 to 525600, a year");
        check_variables(&self.variables, &field("variables"), found);
        for (n, command) in self.environment.iter().flat_map(|e| &e.commands).enumerate() {
            check_text(command, || format!("{at}.environment.commands[{n}]"), found);
        }
        found.unless(!self.tasks.is_empty(), || field("tasks"), "a pipeline has at least one task");
        found.unless(self.tasks.len() <= MAX_TASKS, || field("tasks"), format!("at most {MAX_TASKS}"));
        let mut names = BTreeSet::new();
        for (n, task) in self.tasks.iter().enumerate() {
            let at = format!("{at}.tasks[{n}]");
            let is_new = names.insert(task.name.as_str());
            found.unless(is_new, || format!("{at}.name"), format!("there is another task {:?}", task.name));
            self.check_task(task, &at, found);
        }
        if let Some(around) = self.circle() {
            let n = self.tasks.iter().position(|t| t.name == around[0]).unwrap_or(0);
            let way = around.iter().chain(around.first()).cloned().collect::<Vec<_>>().join(" → ");
            let message = format!("these wait for one another: {way}; to run tasks again use `repeat`");
            found.add(format!("{at}.tasks[{n}].needs"), message);
        }
    }

    fn check_task(&self, task: &Task, at: &str, found: &mut Found) {
        let is_name = |text: &str| {
            (1..=100).contains(&text.len())
                && !text.starts_with('.')
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let field = |name: &str| format!("{at}.{name}");
        let message = "1 to 100 letters, digits, '-', '_' and '.', no dot first";
        found.unless(is_name(&task.name), || field("name"), message);
        match (task.command.first(), task.script.is_empty()) {
            (Some(_), false) => found.add(field("script"), "a task has a command or a script, not both"),
            (None, true) => found.add(field("command"), "say what to run: a command or a script"),
            (Some(program), true) => found.unless(!program.is_empty(), || field("command[0]"), "a program's name"),
            (None, false) => {}
        }
        for (n, word) in task.command.iter().enumerate() {
            check_text(word, || format!("{at}.command[{n}]"), found);
        }
        check_text(&task.script, || field("script"), found);
        check_variables(&task.variables, &field("variables"), found);
        let names: BTreeSet<_> = self.tasks.iter().map(|t| t.name.as_str()).collect();
        let known = |name: &str| {
            let nearest = names.iter().find(|n| n.eq_ignore_ascii_case(name) || n.starts_with(name));
            let hint = nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            (names.contains(name), format!("there is no task {name:?}{hint}"))
        };
        for (n, need) in task.needs.iter().enumerate() {
            let (is_known, message) = known(need.task());
            found.unless(is_known, || format!("{at}.needs[{n}]"), message);
            let twice = task.needs[..n].iter().any(|other| other.task() == need.task());
            found.unless(!twice, || format!("{at}.needs[{n}]"), "it stands there already");
        }
        let before = self.before(&task.name);
        for (n, input) in task.inputs.iter().enumerate() {
            let at = format!("{at}.inputs[{n}]");
            let (is_known, message) = known(&input.task);
            found.unless(is_known, || format!("{at}.task"), message);
            let comes = !is_known || before.contains(input.task.as_str());
            let message = format!("{:?} does not come before this task; add it to `needs`", input.task);
            found.unless(comes, || format!("{at}.task"), message);
            check_path(&input.path, || format!("{at}.path"), found);
            check_path(input.to(), || format!("{at}.to"), found);
        }
        for (n, output) in task.outputs.iter().enumerate() {
            check_path(output, || format!("{at}.outputs[{n}]"), found);
        }
        found.unless(task.retries <= 1000, || field("retries"), "at most 1000");
        if let Some(repeat) = &task.repeat {
            let leads_here = repeat.from == task.name || before.contains(repeat.from.as_str());
            let message =
                format!("{:?} does not lead to this task; repeat from one that does, or from itself", repeat.from);
            found.unless(leads_here, || field("repeat.from"), message);
            let right = (1..=MAX_REPEATS).contains(&repeat.times);
            found.unless(right, || field("repeat.times"), format!("from 1 to {MAX_REPEATS}"));
        }
    }

    /// Every task that leads to this one.
    fn before(&self, name: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let task = self.tasks.iter().find(|t| t.name == name);
            for need in task.iter().flat_map(|t| &t.needs).map(Need::task) {
                if found.insert(need) {
                    open.push(need);
                }
            }
        }
        found
    }

    /// Tasks that wait for one another, in their order, if there are any.
    fn circle(&self) -> Option<Vec<String>> {
        let task = self.tasks.iter().find(|task| self.before(&task.name).contains(task.name.as_str()))?;
        let mut way = vec![task.name.clone()];
        loop {
            let last = way.last()?;
            let here = self.tasks.iter().find(|t| t.name == *last)?;
            let onward =
                |need: &&Need| need.task() == task.name || self.before(need.task()).contains(task.name.as_str());
            let next = here.needs.iter().find(onward)?.task().to_owned();
            if next == task.name {
                return Some(way);
            }
            if way.contains(&next) {
                return Some(way);
            }
            way.push(next);
        }
    }
}

fn check_variables(variables: &BTreeMap<String, String>, at: &str, found: &mut Found) {
    for (name, value) in variables {
        let right = !name.is_empty() && !name.contains(['=', '\0']);
        found.unless(right, || format!("{at}.{name}"), "a variable's name is not empty and has no '='");
        check_text(value, || format!("{at}.{name}"), found);
    }
}

fn check_text(text: &str, field: impl FnOnce() -> String, found: &mut Found) {
    let right = text.len() <= MAX_TEXT && !text.contains('\0');
    found.unless(right, field, format!("at most {MAX_TEXT} bytes, without NUL"));
}

fn check_path(path: &str, field: impl FnOnce() -> String, found: &mut Found) {
    let inside = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    found.unless(inside && !path.contains('\0'), field, "a path below the task's folder, without '.', '..' and '//'");
}
