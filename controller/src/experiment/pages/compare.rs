//! Two runs beside each other: per node and task, how each ended and how long it took. Pure.

use std::collections::BTreeSet;

use super::task_names;
use crate::{
    experiment::api::DeploymentView,
    web::view::{Chip, duration},
};

/// Two runs beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// A line per node and, below it, per task.
    pub lines: Vec<Line>,
}

/// A node, or a task on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The node.
    pub node: String,
    /// The task; empty for the node as a whole.
    pub task: String,
    /// The first run.
    pub left: Side,
    /// The second run.
    pub right: Side,
    /// How much longer the second took, in words; empty where one of them has no time.
    pub difference: String,
}

/// One run of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// How it ended; none where it is not in this run.
    pub chip: Option<Chip>,
    /// How long it took, milliseconds.
    pub ms: Option<i64>,
    /// What it gave.
    pub value: String,
}

impl Side {
    /// How long it took, in words.
    pub fn took(&self) -> String {
        self.ms.map(duration).unwrap_or_default()
    }
}

/// Compares two runs by the names of their nodes.
pub fn compare(left: &[DeploymentView], right: &[DeploymentView]) -> Comparison {
    let nodes: BTreeSet<_> = left.iter().chain(right).map(|d| d.node.as_str()).collect();
    let mut lines = Vec::new();
    for node in nodes {
        let find = |side: &[DeploymentView]| side.iter().find(|d| d.node == node).cloned();
        let (a, b) = (find(left), find(right));
        let both: Vec<_> = [a.clone(), b.clone()].into_iter().flatten().collect();
        lines.push(line(node, "", whole(a.as_ref()), whole(b.as_ref())));
        for task in task_names(&both) {
            lines.push(line(node, &task, part(a.as_ref(), &task), part(b.as_ref(), &task)));
        }
    }
    Comparison { lines }
}

fn line(node: &str, task: &str, left: Side, right: Side) -> Line {
    let difference = match (left.ms, right.ms) {
        (Some(a), Some(b)) if b > a => format!("+{}", duration(b - a)),
        (Some(a), Some(b)) if b < a => format!("−{}", duration(a - b)),
        (Some(_), Some(_)) => "same".into(),
        _ => String::new(),
    };
    Line { node: node.into(), task: task.into(), left, right, difference }
}

fn whole(node: Option<&DeploymentView>) -> Side {
    let Some(node) = node else { return Side::default() };
    let ms = node.started_at.zip(node.ended_at).map(|(from, to)| (to - from).max(0));
    Side { chip: Some(node.chip()), ms, value: String::new() }
}

fn part(node: Option<&DeploymentView>, task: &str) -> Side {
    let last = node.and_then(|node| node.runs.iter().rfind(|run| run.task == task));
    let Some(run) = last else { return Side::default() };
    let ms = (run.started_at > 0 && run.ended_at > 0).then(|| (run.ended_at - run.started_at).max(0));
    Side { chip: Some(run.chip()), ms, value: run.value.clone() }
}
