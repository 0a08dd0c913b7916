//! Running wrappers.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use muster_proto::{KIND_STAGING_OPERATION, KIND_STAGING_WATCH};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    plan::{self, Action, Checked, Goal, Ran, Wrapper},
    wire,
};
use crate::{
    driver::{Act, Attempt, Capability, Driver, End, Once, Settled, Standing, Turn, condition},
    host::{self, Exit, Host, NoProgram, NotStarted, Program, Stream},
    ledger::{Assignment, Group, Key, Reason, Refused},
};

/// The owner's wrapper folders and the machine to run them on.
pub struct Folders {
    pub settings: Settings,
    pub host: Arc<dyn Host>,
    pub work: PathBuf,
}

/// Runs one wrapper to its end.
pub struct Operation(pub Arc<Folders>);

/// Runs a check again and again.
pub struct Watch(pub Arc<Folders>);

/// Passes output on and remembers how much there was and how it ended.
struct Tail<'a> {
    onward: Option<&'a dyn host::Watch>,
    stdout: Mutex<(u64, Vec<u8>)>,
    stderr: Mutex<(u64, Vec<u8>)>,
}

struct Limits {
    wall: std::time::Duration,
    memory_bytes: u64,
    file_bytes: u64,
}

// === impl Folders ===

impl Folders {
    fn offers(&self) -> Vec<String> {
        self.settings.wrappers.keys().cloned().collect()
    }

    /// The executable, or why there is none.
    fn find(&self, goal: &Goal, wrapper: Wrapper) -> Result<PathBuf, NoProgram> {
        let Some(folder) = self.settings.wrappers.get(&goal.folder) else {
            let offers = self.offers().join(", ");
            let have = if offers.is_empty() { "none".into() } else { offers };
            let message = format!(
                "the host's owner lists no wrapper folder {:?} (listed: {have}); add [staging.wrappers.{}] with its path",
                goal.folder, goal.folder
            );
            return Err(NoProgram::Missing(message));
        };
        let path = folder.path.join(wrapper.file());
        self.host.executable(&path)?;
        Ok(path)
    }

    fn admit(&self, goal: &Goal) -> Result<(), Refused> {
        self.find(goal, goal.wrapper).map(drop).map_err(|e| Refused::new(Reason::NotAllowed, e.to_string()))
    }

    fn env(&self, folder: &str) -> Result<Vec<(String, String)>, NotStarted> {
        let Some(folder) = self.settings.wrappers.get(folder) else { return Ok(Vec::new()) };
        let from_file = match &folder.env_file {
            Some(path) => self
                .host
                .read(path)
                .map_err(|e| NotStarted(format!("env_file {} cannot be read: {e}", path.display())))?,
            None => Vec::new(),
        };
        let text = String::from_utf8_lossy(&from_file).into_owned();
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let pairs = folder.env.iter().map(String::as_str).chain(lines).map(|line| {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| NotStarted("env and env_file hold lines NAME=value; one line has no `=`".into()))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        pairs.collect()
    }

    async fn run(
        &self,
        key: &Key,
        goal: &Goal,
        action: Action,
        limits: Limits,
        cancel: CancellationToken,
        tail: &Tail<'_>,
    ) -> Result<Exit, NotStarted> {
        let path = self.find(goal, action.wrapper).map_err(|e| NotStarted(e.to_string()))?;
        let name = muster_pki::hex(&muster_pki::sha256(format!("{}\0{}", key.kind, key.id).as_bytes())[..12]);
        let program = Program {
            path,
            args: action.args,
            env: self.env(&goal.folder)?,
            folder: self.work.join(name),
            keep_folder: false,
            limit: limits.wall,
            memory_bytes: limits.memory_bytes,
            file_bytes: limits.file_bytes,
        };
        self.host.run(program, cancel, tail).await
    }
}

// === impl Operation ===

impl Driver for Operation {
    fn capability(&self) -> Capability {
        Capability { kind: KIND_STAGING_OPERATION, versions: (1, 1), offers: self.0.offers() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        self.0.admit(&wire::operation(document)?.goal)
    }

    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Operation {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let ran = match wire::operation(&work.assignment.document) {
                Ok(operation) => self.carry_out(&operation, &work).await,
                Err(refused) => never(Wrapper::Create, refused.message, self.0.host.now_ms()),
            };
            let succeeded = ran.code == Some(0) && !ran.timed_out;
            let failed = (!succeeded).then(|| condition("Succeeded", false, "WrapperFailed", ran.message.clone()));
            End { succeeded, conditions: failed.into_iter().collect(), result: wire::ran(&ran) }
        })
    }
}

impl Operation {
    async fn carry_out(&self, operation: &plan::Operation, work: &Attempt<'_>) -> Ran {
        let (folders, goal) = (&self.0, &operation.goal);
        let tail = Tail::new(Some(work.watch));
        let started_ms = folders.host.now_ms();
        let has_tag_check = match folders.find(goal, Wrapper::TagCheck) {
            Ok(_) => true,
            Err(NoProgram::Missing(_)) => false,
            // A tag_check that is there and cannot be run must not be mistaken for none.
            Err(e) if goal.wrapper.checks_tag() => return never(Wrapper::TagCheck, e.to_string(), started_ms),
            Err(_) => false,
        };
        let mut last = never(goal.wrapper, String::new(), started_ms);
        for action in plan::plan(operation, has_tag_check) {
            let wrapper = action.wrapper;
            let limits = Limits {
                wall: operation.limit,
                memory_bytes: operation.memory_bytes,
                file_bytes: operation.file_bytes,
            };
            tail.turn_page();
            let ended = folders.run(&work.assignment.key, goal, action, limits, work.cancel.clone(), &tail).await;
            last = match ended {
                Ok(exit) => tail.ran(wrapper, exit, operation.limit, started_ms, folders.host.now_ms()),
                Err(e) => never(wrapper, e.0, folders.host.now_ms()),
            };
            if last.code != Some(0) || last.timed_out || work.cancel.is_cancelled() {
                break;
            }
        }
        last
    }
}

// === impl Watch ===

impl Driver for Watch {
    fn capability(&self) -> Capability {
        Capability { kind: KIND_STAGING_WATCH, versions: (1, 1), offers: self.0.offers() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        self.0.admit(&wire::watch(document)?.goal)
    }

    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Watch {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async move {
            let watch = match wire::watch(&assignment.document) {
                Ok(watch) => watch,
                Err(refused) => return Turn::Failed(refused.message),
            };
            let began_ms = self.0.host.now_ms();
            let tail = Tail::new(None);
            let action = Action { wrapper: watch.goal.wrapper, args: plan::subject_args(&watch.goal.subject) };
            let limits = Limits { wall: watch.limit, memory_bytes: 0, file_bytes: 0 };
            let run = self.0.run(&assignment.key, &watch.goal, action, limits, CancellationToken::new(), &tail).await;
            let checked = match run {
                Ok(exit) => {
                    let ran = tail.ran(watch.goal.wrapper, exit, watch.limit, began_ms, began_ms);
                    Checked { passed: ran.code == Some(0), code: ran.code, message: ran.message }
                }
                Err(e) => Checked { passed: false, code: None, message: e.0 },
            };
            let result = wire::checked(&checked, began_ms);
            let essence = wire::checked(&checked, 0).to_vec();
            Turn::Settled(Settled { result, essence, again: Some(watch.interval) })
        })
    }

    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        // Checking leaves nothing behind.
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
}

// === impl Tail ===

impl<'a> Tail<'a> {
    fn new(onward: Option<&'a dyn host::Watch>) -> Self {
        Self { onward, stdout: Mutex::default(), stderr: Mutex::default() }
    }

    /// A new executable begins: the message is to be its own, the count goes on.
    fn turn_page(&self) {
        for kept in [&self.stdout, &self.stderr] {
            kept.lock().unwrap_or_else(|e| e.into_inner()).1.clear();
        }
    }

    fn ran(&self, wrapper: Wrapper, exit: Exit, limit: std::time::Duration, started_ms: i64, ended_ms: i64) -> Ran {
        let lock = |kept: &Mutex<(u64, Vec<u8>)>| kept.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let ((stdout_bytes, stdout), (stderr_bytes, stderr)) = (lock(&self.stdout), lock(&self.stderr));
        let well = exit.code == Some(0) && !exit.timed_out;
        let message = if well { String::new() } else { plan::message(wrapper, exit, limit, &stdout, &stderr) };
        Ran {
            wrapper,
            code: exit.code,
            signal: exit.signal,
            started_ms,
            ended_ms,
            timed_out: exit.timed_out,
            message,
            stdout_bytes,
            stderr_bytes,
        }
    }
}

impl host::Watch for Tail<'_> {
    fn grouped(&self, group: Group) -> io::Result<()> {
        self.onward.map_or(Ok(()), |onward| onward.grouped(group))
    }

    fn output(&self, stream: Stream, bytes: &[u8]) {
        let kept = if stream == Stream::Stdout { &self.stdout } else { &self.stderr };
        let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.0 += bytes.len() as u64;
        kept.1.extend_from_slice(bytes);
        // One byte more than a message holds shows that a line was cut.
        let excess = kept.1.len().saturating_sub(plan::MESSAGE + 1);
        kept.1.drain(..excess);
        if let Some(onward) = self.onward {
            onward.output(stream, bytes);
        }
    }
}

/// An operation that executed nothing.
fn never(wrapper: Wrapper, message: String, ended_ms: i64) -> Ran {
    Ran {
        wrapper,
        code: None,
        signal: None,
        started_ms: 0,
        ended_ms,
        timed_out: false,
        message,
        stdout_bytes: 0,
        stderr_bytes: 0,
    }
}
