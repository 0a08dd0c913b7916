//! Environments of the shell kind: a folder with a `bin` that is first on PATH, and, where Python is asked for, a virtual
//! environment in which what the host's own Python has can be seen.
//!
//! One is made once, however many want it: the first makes it and the others share what it comes to. It is made where it
//! will stay, since virtual environments hold absolute paths; a marker that is written last says that all of it is there.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    ground::{self, Ground, READY},
    image,
    model::{Environment, Kind, Shell, Step},
    python::Python,
    tail::Tail,
};
use crate::{durable, host::Program};

/// How often what an environment occupies is measured while it is made.
const MEASURE: Duration = Duration::from_secs(1);

/// An environment that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What it occupies, bytes.
    pub bytes: u64,
    /// Version of its Python; empty without one.
    pub python_version: String,
    /// Name of its image; empty without one.
    #[serde(default)]
    pub image: String,
    /// It was there already.
    #[serde(skip)]
    pub cached: bool,
}

/// Why there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// In one sentence.
    pub message: String,
    /// Exit code of the command that failed.
    pub exit_code: Option<i32>,
}

/// What becomes of an environment that somebody makes; none until it is there or has failed.
pub type Outcome = watch::Receiver<Option<Result<Made, Failure>>>;

/// Who makes which environment.
#[derive(Default)]
pub struct Makers(Mutex<BTreeMap<String, Outcome>>);

/// What making an environment may use, and who hears of it.
pub struct Job<'a> {
    /// Ends it early.
    pub cancel: &'a CancellationToken,
    /// Takes its output and its processes.
    pub tail: &'a Tail<'a>,
    /// Hears how far it is.
    pub tell: &'a (dyn Fn(Step) + Send + Sync),
}

/// Time and room for making one.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// When it must be there.
    pub deadline: Instant,
    /// What it may occupy, bytes.
    pub bytes: u64,
}

/// A program that takes part in making an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As it is shown.
    pub shown: String,
    /// The file to execute.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// The turn of the one who makes or removes an environment; it ends when this is dropped.
pub struct Making<'a> {
    makers: &'a Makers,
    digest: &'a str,
    tell: watch::Sender<Option<Result<Made, Failure>>>,
}

// === impl Failure ===

impl Failure {
    /// A failure without a command.
    pub fn of(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: None }
    }
}

// === impl Makers ===

impl Makers {
    /// One's turn at an environment, or what becomes of it in somebody else's.
    pub fn turn<'a>(&'a self, digest: &'a str) -> Result<Making<'a>, Outcome> {
        let mut making = self.lock();
        if let Some(made) = making.get(digest) {
            return Err(made.clone());
        }
        let (tell, made) = watch::channel(None);
        making.insert(digest.into(), made);
        Ok(Making { makers: self, digest, tell })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Outcome>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.makers.lock().remove(self.digest);
    }
}

// === impl Ground ===

impl Ground {
    /// An environment that is there; none while it is not, or not whole.
    pub fn ready(&self, digest: &str) -> Option<Made> {
        serde_json::from_slice(&fs::read(self.environment(digest).join(READY)).ok()?).ok()
    }

    /// Sees to it that an environment is there.
    pub async fn provide(
        &self,
        environment: &Environment,
        graph: Option<&Path>,
        job: &Job<'_>,
    ) -> Result<Made, Failure> {
        self.swept().await;
        loop {
            let mut shared = match self.makers.turn(&environment.digest) {
                Ok(turn) => {
                    let made = match self.ready(&environment.digest) {
                        Some(made) => Ok(Made { cached: true, ..made }),
                        None => {
                            (job.tell)(Step::Building);
                            self.make(environment, graph, job).await
                        }
                    };
                    if made.is_ok() || !job.cancel.is_cancelled() {
                        turn.tell.send_replace(Some(made.clone()));
                    }
                    return made;
                }
                Err(shared) => shared,
            };
            (job.tell)(Step::Waiting);
            job.tail.note("another deployment makes the same environment; its output is there");
            tokio::select! {
                () = job.cancel.cancelled() => return Err(Failure::of("it was cancelled")),
                // Where its maker gave up, it is begun anew.
                made = shared.wait_for(Option::is_some) => {
                    if let Some(made) = made.ok().and_then(|made| made.clone()) {
                        return made;
                    }
                }
            }
        }
    }

    async fn make(&self, environment: &Environment, graph: Option<&Path>, job: &Job<'_>) -> Result<Made, Failure> {
        let budget = self.budget(environment)?;
        let folder = self.environment(&environment.digest);
        let made = match ground::remove(&folder).and_then(|()| durable::folder(&folder.join("bin"))) {
            Ok(()) => match &environment.kind {
                Kind::Shell(shell) => self.make_shell(shell, &environment.digest, budget, job).await,
                Kind::Image(it) => image::make(self, it, graph, budget, job).await,
            },
            Err(e) => Err(Failure::of(format!("{} cannot be made: {e}", folder.display()))),
        };
        let finished = match made {
            Ok(made) => finish(&folder, made).await,
            Err(failure) => Err(failure),
        };
        job.tail.end_groups().await;
        if finished.is_err() {
            let left = folder.clone();
            let removed = tokio::task::spawn_blocking(move || ground::remove(&left)).await;
            if let Ok(Err(e)) = removed {
                tracing::warn!(path = %folder.display(), error = %e, "half of an environment stays");
            }
        }
        finished
    }

    /// Time and room for making an environment, by its document and the owner's word.
    pub fn budget(&self, environment: &Environment) -> Result<Budget, Failure> {
        let most = Duration::from_secs(self.settings.environment_seconds);
        let limit = if environment.limit.is_zero() { most } else { environment.limit.min(most) };
        let others = fs::read_dir(self.environment("")).into_iter().flatten().flatten();
        let others = others.filter_map(|entry| self.ready(entry.file_name().to_str()?));
        let room = self.settings.environments_bytes.saturating_sub(others.map(|made| made.bytes).sum());
        if room == 0 {
            return Err(Failure::of(format!(
                "the environments on this host occupy all of the {} bytes that experiment.environments_bytes allows; \
                 remove some or raise it",
                self.settings.environments_bytes
            )));
        }
        let bytes = if environment.limit_bytes == 0 { room } else { environment.limit_bytes.min(room) };
        Ok(Budget { deadline: Instant::now() + limit, bytes })
    }

    async fn make_shell(&self, shell: &Shell, digest: &str, budget: Budget, job: &Job<'_>) -> Result<Made, Failure> {
        let folder = self.environment(digest);
        let mut made = Made::default();
        let mut env = vec![("PATH".to_owned(), self.path(digest))];
        if shell.python {
            let python = self.python.as_ref().ok_or_else(|| {
                Failure::of("this host has no Python that answers; set experiment.python to one for Python pipelines")
            })?;
            made.python_version.clone_from(&python.version);
            env.push(("VIRTUAL_ENV".into(), folder.display().to_string()));
            env.push(("PIP_DISABLE_PIP_VERSION_CHECK".into(), "1".into()));
            self.carry_out(&virtual_environment(python, &folder), &[], &folder, budget, job).await?;
            let complete = complete(python, &folder);
            complete.map_err(|e| Failure::of(format!("the virtual environment cannot be completed: {e}")))?;
        }
        for command in commands(shell, self.python.as_ref(), &self.settings.packages, &folder) {
            self.carry_out(&command, &env, &folder, budget, job).await?;
        }
        made.bytes = self.measured(&folder, budget).await?;
        Ok(made)
    }

    /// Runs one program of an environment that is being made, within the budget.
    pub async fn carry_out(
        &self,
        command: &Command,
        env: &[(String, String)],
        folder: &Path,
        budget: Budget,
        job: &Job<'_>,
    ) -> Result<(), Failure> {
        job.tail.note(&format!("$ {}", command.shown));
        let cancel = job.cancel.child_token();
        let program = Program {
            path: command.path.clone(),
            args: command.args.clone(),
            env: env.to_vec(),
            folder: folder.to_owned(),
            keep_folder: true,
            limit: budget.deadline.saturating_duration_since(Instant::now()),
            memory_bytes: 0,
            file_bytes: 0,
        };
        let outgrown = async {
            loop {
                let began = Instant::now();
                sleep(MEASURE).await;
                self.measured(folder, budget).await?;
                // Measuring a large one is work of its own.
                sleep(began.elapsed().saturating_sub(MEASURE) * 9).await;
            }
        };
        let run = self.host.run(program, cancel.clone(), job.tail);
        tokio::pin!(run);
        let (exit, outgrown): (_, Result<(), Failure>) = tokio::select! {
            exit = &mut run => (exit, Ok(())),
            failed = outgrown => {
                cancel.cancel();
                (run.await, failed)
            }
        };
        outgrown?;
        let exit = exit.map_err(|e| Failure::of(e.to_string()))?;
        let shown = &command.shown;
        match exit.code {
            _ if exit.timed_out => Err(Failure::of(format!("making it took too long; it was at: {shown}"))),
            _ if exit.cancelled => Err(Failure::of(format!("it was cancelled at: {shown}"))),
            Some(0) => Ok(()),
            code => {
                let how = code.map_or_else(|| "was killed".to_owned(), |code| format!("exited with {code}"));
                let (how, words) = (format!("{shown} {how}"), job.tail.last_words());
                let message = if words.is_empty() { how } else { format!("{how}: {words}") };
                Err(Failure { message, exit_code: code })
            }
        }
    }

    async fn measured(&self, folder: &Path, budget: Budget) -> Result<u64, Failure> {
        let measured = folder.to_owned();
        let bytes = tokio::task::spawn_blocking(move || ground::size(&measured)).await.unwrap_or_default();
        if bytes > budget.bytes {
            return Err(Failure::of(format!("it occupies {bytes} bytes, and {} are allowed", budget.bytes)));
        }
        Ok(bytes)
    }
}

/// Makes the virtual environment itself. Its pip is the host's, so that it need not be installed each time.
pub fn virtual_environment(python: &Python, folder: &Path) -> Command {
    let folder = folder.display().to_string();
    let args = ["-m", "venv", "--without-pip", &folder].map(str::to_owned).into();
    Command { shown: format!("python -m venv --without-pip {folder}"), path: python.path.clone(), args }
}

/// What is run in an environment to fill it, in this order.
pub fn commands(shell: &Shell, python: Option<&Python>, packages: &[String], folder: &Path) -> Vec<Command> {
    let pip = |what: &[String]| {
        // What the host's Python has can be seen, and may be too old for graphs of newer clients.
        let words = ["-m", "pip", "install", "--upgrade"].map(str::to_owned);
        let args: Vec<String> = words.into_iter().chain(what.to_vec()).collect();
        let shown = format!("pip install --upgrade {}", what.join(" "));
        Command { shown, path: folder.join("bin/python"), args }
    };
    let mut all = Vec::new();
    if let Some(python) = python.filter(|_| shell.python) {
        let pinned = Some(&shell.cloudpickle).filter(|version| !version.is_empty());
        let mut missing = match python.executor {
            Some(_) => Vec::new(),
            None => packages.to_vec(),
        };
        if let Some(version) = pinned.filter(|version| python.cloudpickle.as_ref() != Some(version)) {
            missing.push(format!("cloudpickle=={version}"));
        }
        if !missing.is_empty() {
            all.push(pip(&missing));
        }
    }
    all.extend(shell.commands.iter().map(|command| {
        let args = vec!["-c".to_owned(), command.clone()];
        Command { shown: command.clone(), path: "/bin/sh".into(), args }
    }));
    all
}

/// Lets what the host's Python has be seen, and gives the environment a pip.
fn complete(python: &Python, folder: &Path) -> io::Result<()> {
    let minor: Vec<&str> = python.version.splitn(3, '.').take(2).collect();
    let packages = folder.join(format!("lib/python{}/site-packages", minor.join(".")));
    let lines =
        python.paths.iter().map(|path| format!("import site; site.addsitedir({:?})\n", path.display().to_string()));
    fs::write(packages.join("muster-host.pth"), lines.collect::<String>())?;
    for name in ["pip", "pip3"] {
        let (script, python) = (folder.join("bin").join(name), folder.join("bin/python"));
        let quoted = python.display().to_string().replace('\'', r"'\''");
        fs::write(&script, format!("#!/bin/sh\nexec '{quoted}' -m pip \"$@\"\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Says that an environment is whole, once all of it is on the disk.
async fn finish(folder: &Path, made: Made) -> Result<Made, Failure> {
    let folder = folder.to_owned();
    let finished = tokio::task::spawn_blocking(move || {
        rustix::fs::syncfs(fs::File::open(&folder)?)?;
        let text = serde_json::to_vec(&made).map_err(io::Error::other)?;
        durable::replace(&folder.join(READY), &text, || ())?;
        Ok(made)
    });
    let finished = finished.await.unwrap_or_else(|e| Err(io::Error::other(e)));
    finished.map_err(|e: io::Error| Failure::of(format!("it cannot be completed: {e}")))
}
