//! Programs that outlive the agent, and whether what they serve answers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    memory::Ground,
    model::{Endpoint, Site},
    profile::slug,
};
use crate::{
    host::{Host, NotStarted, Program, Stream, Watch},
    ledger::Group,
};

/// From the request to end to the end by force.
const GRACE: Duration = Duration::from_secs(5);

/// How long the removal of a container may take.
const REMOVE: Duration = Duration::from_secs(30);

/// How often a process that was asked to end is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long a port may take to accept a connection.
const PROBE: Duration = Duration::from_secs(1);

/// A log is cut when it is longer; what it held is kept once more.
const LOG_BYTES: u64 = 4 << 20;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// A process that ran this long did start well.
const STEADY: Duration = Duration::from_secs(30);

/// A process that was started and is known again after a restart of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its number, and that of its group.
    pub pid: i32,
    /// Start, clock ticks since boot.
    pub ticks: u64,
    /// The boot it belongs to.
    pub boot_id: String,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// What it was started with: another value needs another start.
    pub with: String,
    /// It runs in this container, which may outlive it.
    #[serde(default)]
    pub container: Option<Container>,
}

/// A container as the program that runs it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The program.
    pub runner: PathBuf,
    /// The container's name.
    pub name: String,
}

/// When a process that ended is started again.
#[derive(Debug, Default)]
pub struct Patience {
    /// Starts that came to nothing, one after another.
    failures: u32,
    due: Option<Instant>,
    began: Option<Instant>,
}

/// Whether a port answers, with one miss forgiven to a port that did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// It is taken to answer.
    pub answers: bool,
    misses: u32,
}

/// How a process of an endpoint is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The file to execute.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The container it runs in.
    pub container: Option<Container>,
}

struct Recording<'a>(&'a (dyn Fn(Group) -> io::Result<()> + Send + Sync));

// === impl Running ===

impl Running {
    /// As the host knows it.
    pub fn group(&self) -> Group {
        Group { pgid: self.pid, started: self.ticks, boot_id: self.boot_id.clone() }
    }

    /// A group that was just made.
    pub fn new(group: Group, started_ms: i64, with: String) -> Self {
        Self { pid: group.pgid, ticks: group.started, boot_id: group.boot_id, started_ms, with, container: None }
    }
}

// === impl Patience ===

impl Patience {
    /// A start is about to be made.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// It ended, or could not be started.
    pub fn failed(&mut self) {
        if self.began.take().is_some_and(|began| began.elapsed() >= STEADY) {
            self.failures = 0;
        }
        let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(6)).min(RETRY_MOST);
        self.failures += 1;
        self.due = Some(Instant::now() + wait);
    }

    /// It works.
    pub fn works(&mut self) {
        self.failures = 0;
    }

    /// Whether it is to be left alone for now.
    pub fn waits(&self) -> bool {
        self.due.is_some_and(|due| Instant::now() < due)
    }

    /// Whether a start was made since the last end.
    pub fn is_begun(&self) -> bool {
        self.began.is_some()
    }
}

// === impl Health ===

impl Health {
    /// What a probe says of a port.
    pub fn after(self, answered: bool) -> Self {
        if answered {
            return Self { answers: true, misses: 0 };
        }
        let misses = self.misses + 1;
        Self { answers: self.answers && misses < 2, misses }
    }
}

impl Watch for Recording<'_> {
    fn grouped(&self, group: Group) -> io::Result<()> {
        (self.0)(group)
    }

    fn output(&self, _: Stream, _: &[u8]) {}
}

/// Starts a program that goes on without the agent. It runs only after `record` kept its group.
pub async fn start(
    host: &dyn Host,
    program: Program,
    log: &Path,
    record: &(dyn Fn(Group) -> io::Result<()> + Send + Sync),
) -> Result<(), NotStarted> {
    host.start(program, log, &Recording(record)).await
}

/// Ends a process, all of its group, and its container; `folder` is to work in.
pub async fn end(host: &dyn Host, running: &Running, folder: &Path) {
    let group = running.group();
    host.ask_to_end(&group);
    let deadline = Instant::now() + GRACE;
    while host.is_alive(&group) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    host.end_group(&group).await;
    if let Some(container) = &running.container {
        remove(host, container, folder).await;
    }
}

/// Removes a container if there is one. Whoever asked a program to run it may have ended without it.
pub async fn remove(host: &dyn Host, container: &Container, folder: &Path) {
    let program = Program {
        path: container.runner.clone(),
        args: ["rm", "--force", &container.name].map(str::to_owned).into(),
        env: Vec::new(),
        folder: folder.join("remove-container"),
        keep_folder: false,
        limit: REMOVE,
        memory_bytes: 0,
        file_bytes: 0,
    };
    // One that is not there is refused by some programs and by others not; a start that it hinders says so itself.
    if let Err(e) = host.run(program, CancellationToken::new(), &Recording(&|_| Ok(()))).await {
        tracing::warn!(container = container.name, error = %e, "a container cannot be removed");
    }
}

/// Whether a port accepts a connection.
pub async fn answers(host: &str, port: u16) -> bool {
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    timeout(PROBE, TcpStream::connect((host, port))).await.is_ok_and(|connected| connected.is_ok())
}

/// Cuts a log that has become long; one copy of what it held is kept.
pub fn cut_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|found| found.len() > LOG_BYTES) {
        // The writer appends, so that it goes on at the new end.
        let kept = fs::copy(log, log.with_extension("log.1"));
        let cut = kept.and_then(|_| fs::OpenOptions::new().write(true).open(log)?.set_len(0));
        cut.unwrap_or_else(|e| tracing::warn!(log = %log.display(), error = %e, "a log cannot be cut"));
    }
}

/// The last line of a log.
pub fn last_words(log: &Path) -> String {
    const TAIL: usize = 4096;
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// How the process of an endpoint is started, or what is missing.
///
/// A program finds in `MUSTER_PORT` the port at which it is expected, and for each service link it connects to the host
/// and port of its ingress in `MUSTER_<LINK>_HOST` and `MUSTER_<LINK>_PORT`.
pub fn recipe(ground: &Ground, site: &Site, endpoint: &Endpoint) -> Result<Recipe, String> {
    let (settings, host) = (&ground.settings, ground.host.as_ref());
    let program = endpoint.program.as_ref().ok_or("nothing is said of what it runs")?;
    let mut env = Vec::new();
    if let Some(tcp) = site.tcp_connectors.iter().find(|t| t.endpoint == endpoint.id) {
        env.push(("MUSTER_PORT".to_owned(), tcp.port.to_string()));
    }
    for attachment in endpoint.attachments.iter().filter(|a| a.connects) {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let link: String = attachment.service_link.chars().map(letter).collect();
        env.push((format!("MUSTER_{link}_HOST"), attachment.host.clone()));
        env.push((format!("MUSTER_{link}_PORT"), attachment.port.to_string()));
    }
    let is_file = program.tag.is_empty() && (program.image.starts_with('/') || !program.image.contains('/'));
    if is_file {
        let path = executable(&program.image, settings, host)?;
        return Ok(Recipe { path, args: program.arguments.clone(), env, container: None });
    }
    let reference = match program.tag.as_str() {
        "" => program.image.clone(),
        tag => format!("{}:{tag}", program.image),
    };
    if !reference.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("{reference:?} is no container image: a reference begins with a letter or a digit"));
    }
    let Some(runner) = &settings.containers else {
        return Err(format!(
            "{reference} is a container image and the host's owner allows no containers; set network.containers to \
             podman or docker"
        ));
    };
    let path = crate::host::find(runner).ok_or_else(|| format!("{} is not on this host", runner.display()))?;
    // Another agent of this host may run the same endpoint.
    let own = muster_pki::hex(&muster_pki::sha256(ground.folder.as_os_str().as_encoded_bytes()));
    let name = format!("muster-{}-{}", slug(&endpoint.id), &own[..8]);
    let mut args: Vec<String> = ["run", "--rm", "--network", "host", "--name", &name].map(str::to_owned).into();
    args.extend(env.iter().flat_map(|(name, value)| ["--env".to_owned(), format!("{name}={value}")]));
    args.push(reference);
    args.extend(program.arguments.iter().cloned());
    let container = Container { runner: path.clone(), name };
    Ok(Recipe { path, args, env: Vec::new(), container: Some(container) })
}

/// An executable in a folder of the owner's list, by its name there or by its path.
fn executable(image: &str, settings: &Settings, host: &dyn Host) -> Result<PathBuf, String> {
    let named = Path::new(image);
    let is_plain = |name: &str| !name.is_empty() && name != "." && name != "..";
    let candidates: Vec<PathBuf> = if named.is_absolute() {
        let parent = named.parent().unwrap_or(named);
        settings.processes.iter().filter(|folder| folder.as_path() == parent).map(|_| named.to_owned()).collect()
    } else if is_plain(image) {
        settings.processes.iter().map(|folder| folder.join(image)).collect()
    } else {
        Vec::new()
    };
    let mut unfit = None;
    for path in candidates {
        match host.executable(&path) {
            Ok(()) => return Ok(path),
            Err(crate::host::NoProgram::Unfit(why)) => unfit = Some(why),
            Err(crate::host::NoProgram::Missing(_)) => {}
        }
    }
    Err(unfit.unwrap_or_else(|| {
        let folders: Vec<_> = settings.processes.iter().map(|folder| folder.display().to_string()).collect();
        let have = if folders.is_empty() { "none".into() } else { folders.join(", ") };
        format!(
            "there is no executable {image:?} in the folders that the host's owner lists in network.processes ({have})"
        )
    }))
}
