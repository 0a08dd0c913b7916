//! The only door to the machine: processes, the clock, what the host is and how it fares.
//!
//! Everything behind [`Host`] may be replaced by a fake; everything before it is the same code in a test and on a
//! host. The real one lives in [`Machine`], the program that sets limits and then becomes the wrapper in [`limited`].

pub mod limited;
mod machine;
mod proc;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::ledger::Group;
pub use machine::Machine;

/// A machine to act on.
pub trait Host: Send + Sync + 'static {
    /// Runs a program to its end. Dropping the future kills its process group.
    fn run<'a>(
        &'a self,
        program: Program,
        cancel: CancellationToken,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Exit, NotStarted>>;
    /// Starts a program that goes on without the agent, in its own process group and a working folder that stays. Its
    /// output is appended to a file, which may be cut short while the program runs.
    fn start<'a>(
        &'a self,
        program: Program,
        log: &'a Path,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<(), NotStarted>>;
    /// Whether a process of a group is left, if it is still the one named.
    fn is_alive(&self, group: &Group) -> bool;
    /// Asks the processes of a group to end, if it is still the one named.
    fn ask_to_end(&self, group: &Group);
    /// The groups whose leaders work in a folder or below it, which was made for programs that this agent started.
    fn groups_in(&self, folder: &Path) -> Vec<Group>;
    /// Where the leader of a group accepts TCP connections.
    fn listens_on(&self, group: &Group) -> BTreeSet<SocketAddr>;
    /// Kills a process group, if it is still the one named, and waits until no process of it is left.
    fn end_group<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, ()>;
    /// Whether a file can be executed; if not, a sentence that names it and what would be right.
    fn executable(&self, path: &Path) -> Result<(), NoProgram>;
    /// A whole small file.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>>;
    /// The wall clock, milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// How long the host has been up, sleep included: a clock that nobody sets.
    fn uptime(&self) -> Duration;
    /// Names the current boot.
    fn boot_id(&self) -> String;
    /// What the host is.
    fn facts(&self) -> Facts;
    /// How the host fares; `path` names the file system of interest.
    fn sample(&self, path: &Path) -> Sample;
    /// Free bytes on the file system of a path; none when that cannot be told.
    fn free_bytes(&self, path: &Path) -> Option<u64>;
}

/// Sees a run while it happens.
pub trait Watch: Send + Sync {
    /// The processes exist and wait; they go on when this returned well.
    fn grouped(&self, group: Group) -> std::io::Result<()>;
    /// Output arrived.
    fn output(&self, stream: Stream, bytes: &[u8]);
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A program to run. Its environment is PATH, HOME and LANG of the agent and what `env` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file to execute.
    pub path: PathBuf,
    /// Its arguments, as they are.
    pub args: Vec<String>,
    /// Additional environment.
    pub env: Vec<(String, String)>,
    /// Working folder: made for it where it is not there.
    pub folder: PathBuf,
    /// The folder stays when a run has ended; otherwise it is the run's own, and removed.
    pub keep_folder: bool,
    /// Wall-clock limit of a run.
    pub limit: Duration,
    /// RLIMIT_DATA of each process, bytes; 0: the host's own.
    pub memory_bytes: u64,
    /// RLIMIT_FSIZE, bytes; 0: the host's own.
    pub file_bytes: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Signal, where one ended it.
    pub signal: Option<i32>,
    /// The wall-clock limit ended it.
    pub timed_out: bool,
    /// The caller's cancellation ended it.
    pub cancelled: bool,
}

/// The program was never executed; a sentence that names it and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotStarted(pub String);

/// Why a file cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProgram {
    /// It is not there.
    #[error("{0}")]
    Missing(String),
    /// It is there and cannot be executed.
    #[error("{0}")]
    Unfit(String),
}

/// What a host is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its own name.
    pub hostname: String,
    /// Distribution and version.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// Physical memory, bytes.
    pub memory_bytes: u64,
    /// Names the current boot.
    pub boot_id: String,
}

/// How a host fares.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The host's clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Busy share of all processors, 0 to 1.
    pub cpu: f64,
    /// Memory in use, bytes.
    pub memory_used_bytes: u64,
    /// Memory in all, bytes.
    pub memory_total_bytes: u64,
    /// File system of interest: in use, bytes.
    pub disk_used_bytes: u64,
    /// File system of interest: in all, bytes.
    pub disk_total_bytes: u64,
    /// Load average over one minute.
    pub load1: f64,
    /// Received on all interfaces but loopback since boot, bytes.
    pub network_received_bytes: u64,
    /// Sent on all interfaces but loopback since boot, bytes.
    pub network_sent_bytes: u64,
    /// The agent's own resident memory, bytes.
    pub agent_rss_bytes: u64,
}

/// A program by its path, or by its name on PATH.
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|found| found.is_file())
}

#[cfg(test)]
mod tests;
