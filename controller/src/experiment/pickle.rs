//! Results of native pipelines as netunicorn's clients read them: a pickle of two classes alone. Pure, and one way: nothing
//! here, or anywhere in Muster, reads a pickle.
//!
//! Opcodes are those of protocol 2 (Python's `pickletools` describes each); `Success` and `Failure` of the package
//! `returns` are made by NEWOBJ and given their one field by BUILD.

use serde_json::Value;

use super::run::{TaskRun, TaskState};

/// What executors make of a pipeline: whether it went well, per task the results of its runs, and lines of text.
pub fn result(succeeded: bool, runs: &[TaskRun]) -> Vec<u8> {
    let mut tasks: Vec<(&str, Vec<&TaskRun>)> = Vec::new();
    // A task that is tried again has the result of its last try, as its clients expect one per traversal.
    for run in runs.iter().filter(|run| run.state != TaskState::Running && run.state != TaskState::Skipped) {
        match tasks.iter_mut().find(|(task, _)| *task == run.task) {
            None => tasks.push((&run.task, vec![run])),
            Some((_, of_task)) => {
                of_task.retain(|before| before.cycle != run.cycle);
                of_task.push(run);
            }
        }
    }
    let lines: Vec<_> = runs.iter().map(line).collect();
    let mut out = Pickle(vec![0x80, 3]);
    out.list(2, |out, n| match n {
        0 => out.wrapped(succeeded, |out| {
            out.0.extend(b"}(");
            for (task, runs) in &tasks {
                out.text(task);
                out.list(runs.len(), |out, n| {
                    let run = runs[n];
                    let well = run.state == TaskState::Succeeded;
                    out.wrapped(well, |out| if well { out.value(&value(run)) } else { out.text(&why(run)) });
                });
            }
            out.0.push(b'u');
        }),
        _ => out.list(lines.len(), |out, n| out.text(&lines[n])),
    });
    out.0.push(b'.');
    out.0
}

/// What a task gave: JSON as what it says, anything else as text.
fn value(run: &TaskRun) -> Value {
    serde_json::from_str(&run.value).unwrap_or_else(|_| Value::String(run.value.clone()))
}

fn why(run: &TaskRun) -> String {
    if run.message.is_empty() { format!("{} failed", run.task) } else { run.message.clone() }
}

/// A line about a run, as a log has it.
fn line(run: &TaskRun) -> String {
    let what = match run.state {
        TaskState::Running => "runs",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Skipped => "was skipped",
        TaskState::TimedOut => "ran into its limit of time",
        TaskState::Cancelled => "was cancelled",
    };
    let place = match (run.cycle, run.attempt) {
        (0, 0 | 1) => String::new(),
        (0, attempt) => format!(" (try {attempt})"),
        (cycle, attempt) => format!(" (cycle {cycle}, try {attempt})"),
    };
    let why = if run.message.is_empty() { String::new() } else { format!(": {}", run.message) };
    format!("{}{place} {what}{why}\n", run.task)
}

/// A pickle being written.
struct Pickle(Vec<u8>);

impl Pickle {
    /// `Success` or `Failure` of what `inner` writes.
    fn wrapped(&mut self, well: bool, inner: impl FnOnce(&mut Self)) {
        let class: &[u8] = if well { b"creturns.result\nSuccess\n" } else { b"creturns.result\nFailure\n" };
        self.0.extend(class);
        self.0.extend(b")\x81}");
        self.text("container_value");
        inner(self);
        self.0.extend(b"sb");
    }

    fn list(&mut self, length: usize, mut item: impl FnMut(&mut Self, usize)) {
        self.0.extend(b"](");
        (0..length).for_each(|n| item(self, n));
        self.0.push(b'e');
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.push(b'N'),
            Value::Bool(true) => self.0.push(0x88),
            Value::Bool(false) => self.0.push(0x89),
            Value::String(text) => self.text(text),
            Value::Array(items) => self.list(items.len(), |out, n| out.value(&items[n])),
            Value::Object(map) => {
                self.0.extend(b"}(");
                for (key, value) in map {
                    self.text(key);
                    self.value(value);
                }
                self.0.push(b'u');
            }
            Value::Number(number) => match number.as_i64().map(|n| (i32::try_from(n), n)) {
                Some((Ok(small), _)) => {
                    self.0.push(b'J');
                    self.0.extend(small.to_le_bytes());
                }
                Some((Err(_), large)) => {
                    self.0.extend([0x8a, 8]);
                    self.0.extend(large.to_le_bytes());
                }
                None => {
                    self.0.push(b'G');
                    self.0.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
                }
            },
        }
    }
}
