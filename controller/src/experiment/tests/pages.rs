use super::super::{
    api::{DeploymentView, ExperimentView},
    model::{Outcome, Stage, Status},
    pages::{compare::compare, grid, timeline},
    run::{TaskRun, TaskState},
};
use crate::web::view::Tone;

fn node(name: &str, outcome: Option<Outcome>, runs: Vec<TaskRun>) -> DeploymentView {
    DeploymentView {
        executor: format!("x-{name}"),
        node: name.into(),
        connector: "muster".into(),
        agent: None,
        stage: if outcome.is_some() { Stage::Ended } else { Stage::Running },
        step: String::new(),
        outcome,
        message: String::new(),
        environment: String::new(),
        deployed_at: Some(1_000),
        started_at: Some(2_000),
        ended_at: outcome.map(|_| 9_000),
        result_bytes: None,
        result_is_late: false,
        runs,
    }
}

fn run(task: &str, state: TaskState, from: i64, to: i64) -> TaskRun {
    TaskRun {
        task: task.into(),
        cycle: 0,
        attempt: 1,
        state,
        started_at: from,
        ended_at: to,
        exit_code: None,
        signal: None,
        value: String::new(),
        message: String::new(),
        artifacts: vec![],
    }
}

fn experiment(ended_at: Option<i64>) -> ExperimentView {
    ExperimentView {
        id: "e".into(),
        name: "e".into(),
        owner: "ada".into(),
        status: if ended_at.is_some() { Status::Finished } else { Status::Running },
        status_at: 0,
        why: String::new(),
        created_at: 0,
        ready_at: None,
        started_at: None,
        ended_at,
        deployments: 1,
        succeeded: 0,
        failed: 0,
    }
}

#[test]
fn a_grid_has_a_column_per_task_and_says_how_often_it_was_tried() {
    let tried = vec![
        run("ping", TaskState::Failed, 2_000, 2_500),
        run("ping", TaskState::Succeeded, 2_600, 3_000),
        run("trace", TaskState::Running, 3_000, 0),
    ];
    let grid = grid::lay(&[node("a", None, tried), node("b", Some(Outcome::NotDeployed), vec![])], 4_000);
    assert_eq!(grid.columns, ["Prepare", "ping", "trace", "End"]);
    let words: Vec<_> = grid.lines[0].cells.iter().map(|c| (c.word.as_str(), c.tone, c.took.as_str())).collect();
    let right = [
        ("ready", Tone::Good, ""),
        ("ok ×2", Tone::Good, "400 ms"),
        ("running", Tone::Busy, "1.0 s"),
        ("", Tone::Quiet, ""),
    ];
    assert_eq!(words, right);
    assert_eq!(grid.lines[1].cells[3].word, "not deployed");
}

#[test]
fn tasks_at_the_same_time_lie_one_below_the_other_in_the_timeline() {
    let both = vec![
        run("a", TaskState::Succeeded, 2_000, 5_000),
        run("b", TaskState::Succeeded, 3_000, 9_000),
        run("c", TaskState::Succeeded, 5_000, 8_000),
    ];
    let drawn = timeline::draw(&experiment(Some(10_000)), &[node("n", Some(Outcome::Succeeded), both)], 99_000);
    let drawn = drawn.expect("something took time");
    let bars = &drawn.lines[0].bars;
    let [_, a, b, c] = &bars[..] else { panic!("{bars:?}") };
    assert_eq!((a.y, c.y), (bars[0].y, bars[0].y));
    assert!(b.y > a.y, "{bars:?}");
    assert!(bars.iter().all(|bar| bar.x + bar.width <= 1000.1), "{bars:?}");
    assert_eq!(drawn.ticks.last().map(|t| t.label.as_str()), Some("10.0 s"));
}

#[test]
fn nothing_is_drawn_before_anything_took_time() {
    let fresh = DeploymentView { deployed_at: None, started_at: None, ..node("n", None, vec![]) };
    assert_eq!(timeline::draw(&experiment(None), &[fresh], 5), None);
}

#[test]
fn two_runs_are_compared_by_node_and_task() {
    let left = [node("a", Some(Outcome::Succeeded), vec![run("t", TaskState::Succeeded, 2_000, 3_000)])];
    let right = [
        node("a", Some(Outcome::Failed), vec![run("t", TaskState::Failed, 2_000, 2_500)]),
        node("b", Some(Outcome::Succeeded), vec![]),
    ];
    let found = compare(&left, &right);
    let lines: Vec<_> = found.lines.iter().map(|l| (l.node.as_str(), l.task.as_str(), l.difference.as_str())).collect();
    assert_eq!(lines, [("a", "", "same"), ("a", "t", "−500 ms"), ("b", "", "")]);
    assert!(found.lines[2].left.chip.is_none(), "it is in one of them alone");
}
