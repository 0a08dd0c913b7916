//! An experiment as a grid: a line per node, a column per stage, colours by state. Pure.

use super::task_names;
use crate::{
    experiment::{
        api::DeploymentView,
        model::{Outcome, Stage},
        run::{TaskRun, TaskState},
    },
    web::view::{Tone, duration},
};

/// The grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Headings of the columns after the node's.
    pub columns: Vec<String>,
    /// A line per deployment.
    pub lines: Vec<Line>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its node.
    pub node: String,
    /// Its executor.
    pub executor: String,
    /// A cell per column.
    pub cells: Vec<Cell>,
    /// Why it did not succeed.
    pub message: String,
}

/// A stage of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What it says.
    pub word: String,
    /// How that is meant.
    pub tone: Tone,
    /// How long it took, or has taken.
    pub took: String,
}

impl Cell {
    fn new(word: impl Into<String>, tone: Tone, took: Option<i64>) -> Self {
        Self { word: word.into(), tone, took: took.map(|ms| duration(ms.max(0))).unwrap_or_default() }
    }

    fn empty() -> Self {
        Self::new("", Tone::Quiet, None)
    }
}

/// Lays an experiment out.
pub fn lay(nodes: &[DeploymentView], now: i64) -> Grid {
    let tasks = task_names(nodes);
    let middle = if tasks.is_empty() { vec!["Run".to_owned()] } else { tasks.clone() };
    let columns = [vec!["Prepare".to_owned()], middle, vec!["End".to_owned()]].concat();
    let line = |node: &DeploymentView| {
        let middle = match tasks.is_empty() {
            true => vec![run_cell(node, now)],
            false => tasks.iter().map(|task| task_cell(node, task, now)).collect(),
        };
        Line {
            node: node.node.clone(),
            executor: node.executor.clone(),
            cells: [vec![prepare_cell(node)], middle, vec![end_cell(node)]].concat(),
            message: node.message.clone(),
        }
    };
    Grid { columns, lines: nodes.iter().map(line).collect() }
}

fn prepare_cell(node: &DeploymentView) -> Cell {
    match (node.deployed_at, node.stage, node.outcome) {
        (Some(_), ..) => Cell::new("ready", Tone::Good, None),
        (None, _, Some(Outcome::NotDeployed)) => Cell::new("failed", Tone::Bad, None),
        (None, Stage::Ended, _) => Cell::empty(),
        (None, Stage::Waiting, _) if node.step.is_empty() => Cell::new("waiting", Tone::Quiet, None),
        (None, Stage::Waiting, _) => Cell::new(format!("waits for {}", node.step), Tone::Quiet, None),
        (None, ..) if node.step.is_empty() => Cell::new("sent", Tone::Busy, None),
        (None, ..) => Cell::new(node.step.clone(), Tone::Busy, None),
    }
}

fn run_cell(node: &DeploymentView, now: i64) -> Cell {
    match (node.started_at, node.ended_at, node.stage) {
        (Some(from), Some(to), _) => Cell::new("ran", Tone::Good, Some(to - from)),
        (Some(from), None, _) => Cell::new("running", Tone::Busy, Some(now - from)),
        (None, _, Stage::Starting) => Cell::new("starting", Tone::Busy, None),
        (None, ..) => Cell::empty(),
    }
}

fn task_cell(node: &DeploymentView, task: &str, now: i64) -> Cell {
    let runs: Vec<&TaskRun> = node.runs.iter().filter(|run| run.task == task).collect();
    let Some(last) = runs.last() else { return Cell::empty() };
    let times = if runs.len() > 1 { format!(" ×{}", runs.len()) } else { String::new() };
    let took = (last.started_at > 0).then(|| if last.ended_at > 0 { last.ended_at } else { now } - last.started_at);
    let (word, tone) = match last.state {
        TaskState::Running => ("running", Tone::Busy),
        TaskState::Succeeded => ("ok", Tone::Good),
        TaskState::Failed => ("failed", Tone::Bad),
        TaskState::Skipped => ("skipped", Tone::Quiet),
        TaskState::TimedOut => ("timed out", Tone::Bad),
        TaskState::Cancelled => ("cancelled", Tone::Quiet),
    };
    Cell::new(format!("{word}{times}"), tone, took)
}

fn end_cell(node: &DeploymentView) -> Cell {
    if node.outcome.is_none() {
        return Cell::empty();
    }
    let chip = node.chip();
    let late = if node.result_is_late { " (late result)" } else { "" };
    Cell::new(format!("{}{late}", chip.word.replace('_', " ")), chip.tone, None)
}
