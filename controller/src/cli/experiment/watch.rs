//! Watching an experiment: what changes on each node, as it changes.

use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    super::{
        Failure, Result,
        client::{Client, encoded, query},
        output::{Progress, green, red},
    },
    EXPERIMENTS, Which, is_well,
};
use crate::experiment::{
    api::{DeploymentView, ExperimentDetail},
    model::{FlagValues, Outcome, Status},
    run::{TaskRun, TaskState},
};

const LOOK: Duration = Duration::from_millis(250);

/// The longest that one question about a flag waits, milliseconds.
const FLAG_WAIT: u64 = 20_000;

/// Watches an experiment until it ends; an end that is not well is a failure.
pub fn watch(client: &Client, which: &Which, limit: Duration) -> Result {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let detail = which.get(client)?;
        let news: Vec<_> = detail.nodes.iter().flat_map(|node| lines(node, &mut told)).collect();
        if !news.is_empty() {
            progress.end();
            news.iter().for_each(|line| eprintln!("{line}"));
        }
        progress.show(&summary(&detail), &format!("({} s)", begun.elapsed().as_secs()));
        if detail.experiment.status.is_over() {
            progress.end();
            return conclude(&detail);
        }
        if begun.elapsed() > limit {
            progress.end();
            let text = format!("not done after {} s; it goes on without being watched", limit.as_secs());
            return Err(Failure::new(Failure::ENDED_BADLY, text));
        }
        sleep(LOOK);
    }
}

/// What is new on a node since it was told last, a line each.
fn lines(node: &DeploymentView, told: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tell = |what: String, now: String, line: String| {
        if told.insert(what, now.clone()).as_ref() != Some(&now) {
            lines.push(line);
        }
    };
    let name = &node.node;
    for run in node.runs.iter().filter(|run| run.state != TaskState::Running) {
        let place = place(run);
        let took = if run.started_at > 0 { format!(" ({} ms)", run.ended_at - run.started_at) } else { String::new() };
        let (word, why) =
            (word(run.state), if run.message.is_empty() { String::new() } else { format!(": {}", run.message) });
        let line = format!("  {name}  {place} {word}{took}{why}");
        tell(format!("{}/{place}", node.executor), format!("{:?}", run.state), line);
    }
    let stage = match node.outcome {
        Some(Outcome::Succeeded) => green("succeeded"),
        Some(outcome) => format!("{}: {}", red(outcome.word()), node.message),
        None if node.step.is_empty() => node.stage.word().to_owned(),
        None => format!("{}: {}", node.stage.word(), node.step),
    };
    tell(node.executor.clone(), stage.clone(), format!("  {name}  {stage}"));
    lines
}

fn place(run: &TaskRun) -> String {
    match (run.cycle, run.attempt) {
        (0, 0 | 1) => run.task.clone(),
        (0, attempt) => format!("{} (try {attempt})", run.task),
        (cycle, attempt) => format!("{} (cycle {cycle}, try {attempt})", run.task),
    }
}

fn word(state: TaskState) -> String {
    match state {
        TaskState::Succeeded => green("ok"),
        TaskState::Running => "runs".into(),
        TaskState::Skipped => "skipped".into(),
        TaskState::Failed => red("failed"),
        TaskState::TimedOut => red("timed out"),
        TaskState::Cancelled => red("cancelled"),
    }
}

fn summary(detail: &ExperimentDetail) -> String {
    let it = &detail.experiment;
    let mut text = format!("{} {}", it.name, it.status.word());
    if it.status == Status::Running || it.status.is_over() {
        text += &format!(": {} of {} nodes ended", it.succeeded + it.failed, it.deployments);
    }
    text
}

fn conclude(detail: &ExperimentDetail) -> Result {
    let it = &detail.experiment;
    if is_well(detail) {
        eprintln!("{} {}", it.name, green("finished"));
        return Ok(());
    }
    let why = if it.why.is_empty() { String::new() } else { format!(": {}", it.why) };
    let text =
        format!("{} {}: {} of {} nodes did not succeed{why}", it.name, it.status.word(), it.failed, it.deployments);
    Err(Failure::new(Failure::ENDED_BADLY, text))
}

/// Waits until a flag is as it should be.
pub fn flag(
    client: &Client,
    which: &Which,
    flag: &str,
    text: Option<&str>,
    at_least: Option<i64>,
    limit: Duration,
) -> Result<FlagValues> {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let wait = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(FLAG_WAIT);
        let mut fields = vec![("wait_ms", wait.to_string()), ("owner", which.owner.clone())];
        fields.extend(text.map(|text| ("until_text", text.to_owned())));
        fields.extend(at_least.map(|least| ("until_at_least", least.to_string())));
        let path = format!("{EXPERIMENTS}/{}/flags/{}?{}", encoded(&which.name), encoded(flag), query(&fields));
        match client.get::<FlagValues>(&path) {
            Ok(values) if is_met(&values, text, at_least) => return Ok(values),
            Err(failure) if failure.code != Failure::NOT_FOUND => return Err(failure),
            // There is no such experiment, rather than no such flag.
            Err(failure) if failure.message.starts_with("no experiment named ") => return Err(failure),
            _ if begun.elapsed() >= limit => {
                let text = format!("{flag} was not as it should be within {} s", limit.as_secs());
                return Err(Failure::new(Failure::ENDED_BADLY, text));
            }
            _ => {}
        }
    }
}

fn is_met(values: &FlagValues, text: Option<&str>, at_least: Option<i64>) -> bool {
    text.is_none_or(|text| values.text_value.as_deref() == Some(text)) && at_least.is_none_or(|n| values.int_value >= n)
}
