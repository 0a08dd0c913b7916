//! An experiment over time: a bar per stage or task and node, drawn as SVG. Pure.

use crate::{
    experiment::{
        api::{DeploymentView, ExperimentView},
        model::Outcome,
        run::TaskState,
    },
    web::view::{Tone, duration},
};

/// Nodes drawn at most: more make bars that nobody can tell apart.
const MOST: usize = 200;

/// Width of the picture and of the names on its left.
const WIDTH: f64 = 1000.0;
const NAMES: f64 = 170.0;
const TOP: f64 = 26.0;

/// Height of a bar with the room below it, and room between nodes.
const LANE: f64 = 15.0;
const GAP: f64 = 8.0;

/// The picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Its height; its width is 1000.
    pub height: f64,
    /// A line per node.
    pub lines: Vec<Line>,
    /// Marks of time.
    pub ticks: Vec<Tick>,
    /// Nodes that are not drawn.
    pub left_out: usize,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name, cut to the room there is.
    pub name: String,
    /// Its base line.
    pub y: f64,
    /// What happened there.
    pub bars: Vec<Bar>,
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Left edge.
    pub x: f64,
    /// Upper edge: what overlaps in time lies one below the other.
    pub y: f64,
    /// Width, never so small that it cannot be seen.
    pub width: f64,
    /// Its colour's name.
    pub tone: &'static str,
    /// What it was, in words.
    pub title: String,
}

/// A mark of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub x: f64,
    /// Time since the experiment was made.
    pub label: String,
}

/// Draws an experiment; none before anything took time.
pub fn draw(experiment: &ExperimentView, nodes: &[DeploymentView], now: i64) -> Option<Timeline> {
    let begin = experiment.created_at;
    let last = nodes.iter().flat_map(|n| [n.deployed_at, n.started_at, n.ended_at]).flatten().max();
    let end = experiment.ended_at.or(last.filter(|_| !experiment.status.is_over())).unwrap_or(now).max(last?);
    let end = if experiment.status.is_over() { end } else { end.max(now) };
    let span = (end - begin).max(1) as f64;
    let at = |time: i64| NAMES + ((time - begin).max(0) as f64 / span).min(1.0) * (WIDTH - NAMES);
    let bar = |from: i64, to: i64, tone: Tone, title: String| {
        let (x, right) = (at(from), at(to));
        Bar {
            x,
            y: 0.0,
            width: (right - x).max(2.0),
            tone: tone.word(),
            title: format!("{title} {}", duration((to - from).max(0))),
        }
    };
    let mut y = TOP;
    let mut line = |node: &DeploymentView| {
        let mut bars = Vec::new();
        if let Some(deployed) = node.deployed_at {
            bars.push(bar(begin, deployed, Tone::Quiet, "prepared in".into()));
        }
        for run in node.runs.iter().filter(|run| run.started_at > 0) {
            let tone = match run.state {
                TaskState::Running => Tone::Busy,
                TaskState::Succeeded => Tone::Good,
                TaskState::Failed | TaskState::TimedOut => Tone::Bad,
                TaskState::Skipped | TaskState::Cancelled => Tone::Quiet,
            };
            let to = if run.ended_at > 0 { run.ended_at } else { now };
            bars.push(bar(run.started_at, to, tone, run.task.clone()));
        }
        if let (Some(from), true) = (node.started_at, node.runs.is_empty()) {
            let tone = match node.outcome {
                None => Tone::Busy,
                Some(Outcome::Succeeded) => Tone::Good,
                Some(Outcome::Cancelled) => Tone::Quiet,
                Some(_) => Tone::Bad,
            };
            bars.push(bar(from, node.ended_at.unwrap_or(now), tone, "ran for".into()));
        }
        let name = if node.node.chars().count() > 20 {
            node.node.chars().take(19).chain(['…']).collect()
        } else {
            node.node.clone()
        };
        let top = y;
        y += stack(&mut bars, top) + GAP;
        Line { name, y: top, bars }
    };
    let shown = nodes.len().min(MOST);
    let tick = |n: u32| {
        let share = f64::from(n) / 4.0;
        Tick { x: NAMES + share * (WIDTH - NAMES), label: duration((span * share) as i64) }
    };
    let lines: Vec<_> = nodes.iter().take(shown).map(&mut line).collect();
    Some(Timeline { height: y, lines, ticks: (0..=4).map(tick).collect(), left_out: nodes.len() - shown })
}

/// Puts each bar into the first lane that is free at its time. Gives the height of all lanes.
fn stack(bars: &mut [Bar], top: f64) -> f64 {
    let mut ends: Vec<f64> = Vec::new();
    for bar in bars.iter_mut() {
        let free = ends.iter().position(|end| *end <= bar.x + 0.01);
        let lane = free.unwrap_or(ends.len());
        if lane == ends.len() {
            ends.push(0.0);
        }
        ends[lane] = bar.x + bar.width;
        bar.y = top + 3.0 + LANE * lane as f64;
    }
    LANE * ends.len().max(1) as f64
}
