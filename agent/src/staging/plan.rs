//! What is run for a document, with which arguments, and what its end means. Pure.

use std::time::Duration;

use crate::host::Exit;

/// The most of a wrapper's output that becomes its message, bytes.
pub const MESSAGE: usize = 2048;

/// An executable of a wrapper folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// Brings a staging up, or back from the archive.
    Create,
    /// Changes its tag and overrides.
    Update,
    /// Archives it.
    Delete,
    /// Whether it runs.
    Check,
    /// Removes all of an archived one.
    Cleanup,
    /// Whether it is really archived.
    ArchiveCheck,
    /// Whether a tag exists.
    TagCheck,
}

/// The four values every wrapper is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Project.
    pub project_name: String,
    /// Domain under which its stagings answer.
    pub base_domain: String,
    /// Namespace.
    pub namespace: String,
    /// The staging.
    pub name: String,
}

/// Which executable, for which staging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// Wrapper folder, by the owner's name.
    pub folder: String,
    /// Executable.
    pub wrapper: Wrapper,
    /// Staging.
    pub subject: Subject,
}

/// Where an override belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The application's environment.
    App,
    /// The staging's own settings.
    Staging,
}

/// One key=value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Where it belongs.
    pub level: Level,
    /// Key, without `=`.
    pub key: String,
    /// Value.
    pub value: String,
}

/// The document of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What to run.
    pub goal: Goal,
    /// Image tag.
    pub tag: String,
    /// The full merged set.
    pub overrides: Vec<Override>,
    /// Wall-clock limit.
    pub limit: Duration,
    /// Memory limit, bytes; 0: none.
    pub memory_bytes: u64,
    /// File size limit, bytes; 0: none.
    pub file_bytes: u64,
}

/// The document of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// What to run.
    pub goal: Goal,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    /// Wall-clock limit of one check.
    pub limit: Duration,
}

/// One execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Executable.
    pub wrapper: Wrapper,
    /// Its arguments.
    pub args: Vec<String>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The executable that ended it.
    pub wrapper: Wrapper,
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Signal, where one ended it.
    pub signal: Option<i32>,
    /// Milliseconds since the Unix epoch; 0: never started.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub ended_ms: i64,
    /// The wall-clock limit ended it.
    pub timed_out: bool,
    /// Why it failed; empty when it did not.
    pub message: String,
    /// Bytes written to standard output.
    pub stdout_bytes: u64,
    /// Bytes written to standard error.
    pub stderr_bytes: u64,
}

/// What of a check is worth saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Exit code 0.
    pub passed: bool,
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Why it did not pass.
    pub message: String,
}

// === impl Wrapper ===

impl Wrapper {
    /// The file's name.
    pub fn file(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Check => "check",
            Self::Cleanup => "cleanup",
            Self::ArchiveCheck => "archive_check",
            Self::TagCheck => "tag_check",
        }
    }

    /// Whether a tag is checked first.
    pub fn checks_tag(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }
}

/// What an operation runs, in order; a failure ends it.
pub fn plan(operation: &Operation, has_tag_check: bool) -> Vec<Action> {
    let wrapper = operation.goal.wrapper;
    let first = (wrapper.checks_tag() && has_tag_check).then(|| action(operation, Wrapper::TagCheck));
    first.into_iter().chain([action(operation, wrapper)]).collect()
}

/// The four arguments every wrapper is given.
pub fn subject_args(subject: &Subject) -> Vec<String> {
    let pairs = [
        ("--project-name", &subject.project_name),
        ("--base-domain", &subject.base_domain),
        ("--namespace", &subject.namespace),
        ("--name", &subject.name),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.clone()]).collect()
}

fn action(operation: &Operation, wrapper: Wrapper) -> Action {
    let mut args = subject_args(&operation.goal.subject);
    if wrapper.checks_tag() || wrapper == Wrapper::TagCheck {
        args.extend(["--tag".to_owned(), operation.tag.clone()]);
    }
    if wrapper.checks_tag() {
        for (level, flag) in [(Level::App, "--app-env-override"), (Level::Staging, "--staging-override")] {
            let of_level = operation.overrides.iter().filter(|o| o.level == level);
            args.extend(of_level.flat_map(|o| [flag.to_owned(), format!("{}={}", o.key, o.value)]));
        }
    }
    Action { wrapper, args }
}

/// Why an execution did not end well, from how it ended and the last it wrote; never empty.
pub fn message(wrapper: Wrapper, exit: Exit, limit: Duration, stdout: &[u8], stderr: &[u8]) -> String {
    let how = match (exit.timed_out, exit.cancelled, exit.code, exit.signal) {
        (true, ..) => format!("{} was ended after {} s, its limit", wrapper.file(), limit.as_secs()),
        (_, true, ..) => format!("{} was ended before its end", wrapper.file()),
        (_, _, Some(code), _) => format!("{} exited with {code}", wrapper.file()),
        (_, _, _, Some(signal)) => format!("{} was ended by signal {signal}", wrapper.file()),
        _ => format!("{} ended", wrapper.file()),
    };
    let said = [stderr, stdout].into_iter().map(last_lines).find(|text| !text.is_empty());
    match said {
        Some(text) if exit.timed_out || exit.cancelled => format!("{how}; it last wrote: {text}"),
        Some(text) => text,
        None => format!("{how} and wrote nothing"),
    }
}

/// The last whole lines that fit a message; the end of the last line when that alone does not.
fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    let text = text.trim();
    if text.len() <= MESSAGE {
        return text.to_owned();
    }
    let start = (text.len() - MESSAGE..).find(|n| text.is_char_boundary(*n)).unwrap_or(text.len());
    let tail = &text[start..];
    tail.split_once('\n').map_or(tail, |(_, lines)| lines).trim().to_owned()
}
