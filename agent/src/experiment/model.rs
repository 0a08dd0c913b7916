//! Documents and results of the domain. Pure.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::plan::Pipeline;

/// The most bytes of a result that travel in a report; more become a blob.
pub const INLINE: usize = 128 * 1024;

/// Bytes that lie here, or are named by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Inline(Bytes),
    /// In a blob.
    Blob {
        /// SHA-256, hexadecimal.
        digest: String,
        /// Length in bytes.
        size: u64,
    },
}

/// What an executor runs in.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Names it on this host, hexadecimal.
    pub digest: String,
    /// Shell or image.
    pub kind: Kind,
    /// Limit of making it; zero: the owner's.
    pub limit: Duration,
    /// What it may occupy, bytes; 0: the owner's limit.
    pub limit_bytes: u64,
}

/// The two kinds of environments.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// First on PATH.
    Shell(Shell),
    /// A container image.
    Image(Image),
}

/// A folder over the host's own programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shell {
    /// Run in this order when it is made.
    pub commands: Vec<String>,
    /// It holds the Python executor.
    pub python: bool,
    /// Version of cloudpickle; empty: any.
    pub cloudpickle: String,
}

/// A container image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// As the engine knows it.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// `linux/amd64` and the like.
    pub platform: String,
    /// It is stored for other hosts.
    pub save: bool,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A registry.
    Pull,
    /// The text of a container file.
    Containerfile(String),
    /// What an engine saved.
    Archive(Content),
}

/// Prepare an executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// What it runs in.
    pub environment: Environment,
    /// The pickled graph; none for a native pipeline.
    pub graph: Option<Content>,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    /// Another one makes the same environment.
    Waiting,
    /// Bytes are on their way from home.
    #[default]
    Fetching,
    /// The environment is made.
    Building,
    /// All is there.
    Ready,
}

/// What a deployment came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deployed {
    /// How far it came.
    pub step: Step,
    /// The environment was there.
    pub cached: bool,
    /// What the environment occupies, bytes.
    pub bytes: u64,
    /// Version of its Python; empty without one.
    pub python_version: String,
    /// Exit code of the command that ended it.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub message: String,
    /// The saved image.
    pub archive: Option<Content>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch; 0 before the end.
    pub ended_ms: i64,
}

/// Run an executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Executor {
    /// Whose flags it sees.
    pub experiment_id: String,
    /// Digest of its environment, hexadecimal.
    pub environment: String,
    /// Its variables, the experimenter's own.
    pub variables: Vec<(String, String)>,
    /// What it runs.
    pub work: Work,
    /// The container it runs in; none: a shell environment.
    pub container: Option<Container>,
    /// Limit of each process, bytes; 0: none.
    pub memory_bytes: u64,
    /// Limit of each file, bytes; 0: none.
    pub file_bytes: u64,
    /// Wall-clock limit.
    pub limit: Duration,
    /// It is ended when home was away for so long.
    pub lease: Option<Duration>,
}

/// What an executor runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// netunicorn's executor.
    Python {
        /// Seconds between its heartbeats.
        heartbeat_seconds: u32,
    },
    /// A pipeline that this agent runs.
    Pipeline(Pipeline),
}

/// How a container is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Name of the image.
    pub image: String,
    /// Host port → container port.
    pub ports: BTreeMap<u32, u32>,
    /// Further arguments for the engine.
    pub arguments: Vec<String>,
    /// Network; empty: the host's.
    pub network: String,
}

/// How far an executor is, in the order of netunicorn's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It began.
    #[default]
    Looking,
    /// It runs tasks.
    Executing,
    /// It posted its result.
    Reporting,
    /// It is over.
    Finished,
}

/// What an executor came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Executed {
    /// How far it is.
    pub state: State,
    /// What it posted last.
    pub results: Option<Content>,
    /// Exit code of its own process.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Why there is no result.
    pub message: String,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch; 0 before the end.
    pub ended_ms: i64,
    /// The wall-clock limit ended it.
    pub timed_out: bool,
    /// The newest tries of tasks, oldest first.
    pub runs: Vec<Run>,
    /// Tries that are not listed.
    pub runs_left_out: u64,
    /// The lease ended.
    pub lease_ended: bool,
}

/// One try of one task, as it is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Name of the task.
    pub task: String,
    /// Repeats of its part of the pipeline, from 0.
    pub cycle: u32,
    /// Tries, from 1; 0: it never began.
    pub attempt: u32,
    /// How it stands.
    pub state: RunState,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch; 0 before the end.
    pub ended_ms: i64,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote as its result.
    pub value: String,
    /// Why it failed or was skipped.
    pub message: String,
    /// Files it left: path and bytes.
    pub artifacts: Vec<(String, Content)>,
}

/// How a try stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunState {
    /// Under way.
    #[default]
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Never began.
    Skipped,
    /// Its time was over.
    TimedOut,
    /// Cut off.
    Cancelled,
}

/// Remove what executors left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// The executor's folder goes.
    pub folder: bool,
    /// These environments go, hexadecimal digests.
    pub environments: Vec<String>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes that are free again.
    pub freed_bytes: u64,
    /// What stays and why.
    pub message: String,
}

/// What a flag is asked or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagQuestion {
    /// Its values.
    Get {
        /// Home may wait so long, milliseconds.
        wait_ms: u32,
        /// Until it is like this.
        until: Awaited,
    },
    /// It is this from now on.
    Set(Flag),
    /// It grows by this.
    Add(i64),
}

/// What is awaited of a flag beside that it is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Awaited {
    /// Its text is this.
    pub text: Option<String>,
    /// Its number is at least this.
    pub at_least: Option<i64>,
}

/// The values of a flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flag {
    /// Text, if any.
    pub text: Option<String>,
    /// Number.
    pub number: i64,
}

// === impl Content ===

impl Content {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }
}

// === impl Awaited ===

impl Awaited {
    /// Whether a flag that is set is as awaited.
    pub fn is_met_by(&self, flag: &Flag) -> bool {
        self.text.as_ref().is_none_or(|text| flag.text.as_ref() == Some(text))
            && self.at_least.is_none_or(|least| flag.number >= least)
    }
}

/// Whether an id can name an executor's folder.
pub fn is_fit(id: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(letter)
}

/// Why an id is not fit, with what would be right.
pub fn unfit(id: &str) -> String {
    format!("the executor's id {id:?} is no name of a folder; use 1 to 64 of A-Z a-z 0-9 . _ - without a leading dot")
}
