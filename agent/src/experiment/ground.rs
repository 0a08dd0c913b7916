//! What the drivers of this domain share: the owner's settings, the folders, and who uses which environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::sync::OnceCell;

use super::{Settings, environment::Makers, image, python::Python, relay::Relay};
use crate::{
    blobs::Blobs,
    durable,
    host::{self, Host},
    spool::Spool,
};

/// The file an executor looks for before it asks for its graph.
pub const GRAPH: &str = "netunicorn.execution_graph";

/// Written last into an environment: without it, an environment is half-built, whatever else is there.
pub const READY: &str = ".muster-ready";

/// The shared part.
pub struct Ground {
    /// The owner's word.
    pub settings: Settings,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Large bytes.
    pub blobs: Arc<Blobs>,
    /// The Python that environments are made over.
    pub python: Option<Python>,
    /// Speaks netunicorn's gateway to executors.
    pub relay: Relay,
    /// Who makes which environment.
    pub makers: Makers,
    folder: PathBuf,
    /// Environments that executors run in, by digest.
    used: Mutex<BTreeMap<String, BTreeSet<String>>>,
    swept: OnceCell<()>,
}

/// An executor runs in an environment while this lives.
pub struct Use<'a> {
    ground: &'a Ground,
    environment: String,
    executor: String,
}

// === impl Ground ===

impl Ground {
    /// The ground in a state folder.
    pub async fn open(
        settings: Settings,
        host: Arc<dyn Host>,
        spool: Arc<Spool>,
        blobs: Arc<Blobs>,
        state_dir: &Path,
    ) -> Arc<Self> {
        let folder = state_dir.join("experiment");
        let python = match settings.python.as_os_str().is_empty() {
            true => None,
            false => Python::ask(host.as_ref(), &settings.python, &folder).await,
        };
        let relay = Relay::new(spool);
        let (makers, used, swept) = (Makers::default(), Mutex::default(), OnceCell::new());
        Arc::new(Self { settings, host, blobs, python, relay, makers, folder, used, swept })
    }

    /// The folder of an executor, whose id was checked.
    pub fn executor(&self, id: &str) -> PathBuf {
        self.folder.join("executors").join(id)
    }

    /// The folder of an environment.
    pub fn environment(&self, digest: &str) -> PathBuf {
        self.folder.join("environments").join(digest)
    }

    /// A folder to work in for a moment.
    pub fn scratch(&self) -> PathBuf {
        self.folder.join("scratch").join(muster_pki::hex(&muster_pki::random::<8>()))
    }

    /// Tells the containers of this agent from those of others on its host.
    pub fn label(&self) -> String {
        let own = muster_pki::hex(&muster_pki::sha256(self.folder.as_os_str().as_encoded_bytes()));
        format!("muster.agent={}", &own[..16])
    }

    /// PATH for what runs in an environment: its own programs first.
    pub fn path(&self, environment: &str) -> String {
        let inherited = std::env::var("PATH").unwrap_or_default();
        let own = self.environment(environment).join("bin");
        format!("{}:{}:{inherited}", own.display(), self.folder.join("bin").display())
    }

    /// The engine of containers, or why there is none.
    pub fn engine(&self) -> Result<PathBuf, String> {
        let missing = |why: &str| format!("{why}; set experiment.engine to docker, podman or a path");
        let chosen = self.settings.engine.as_deref().ok_or_else(|| missing("the host's owner allows no containers"))?;
        host::find(chosen).ok_or_else(|| missing(&format!("{} is not on this host", chosen.display())))
    }

    /// Clears away what a former run of the agent left half-done, once, before anything else happens here.
    pub async fn swept(&self) {
        self.swept.get_or_init(|| self.sweep()).await;
    }

    async fn sweep(&self) {
        for group in self.host.groups_in(&self.folder) {
            self.host.end_group(&group).await;
        }
        image::remove_left(self).await;
        let folder = self.folder.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let _ = remove(&folder.join("scratch"));
            for entry in fs::read_dir(folder.join("environments")).into_iter().flatten().flatten() {
                if !entry.path().join(READY).exists()
                    && let Err(e) = remove(&entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), error = %e, "half of an environment stays");
                }
            }
            offer_agent(&folder.join("bin"))
        });
        if let Ok(Err(e)) = swept.await {
            tracing::warn!(error = %e, "tasks will not find muster-agent on PATH");
        }
    }

    /// An executor begins to run in an environment; it no longer waits to be run.
    pub fn used(&self, environment: &str, executor: &str) -> Use<'_> {
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        used.entry(environment.into()).or_default().insert(executor.into());
        let _ = durable::remove(&self.waiting(executor));
        Use { ground: self, environment: environment.into(), executor: executor.into() }
    }

    /// An executor is prepared, and waits to be run in an environment.
    pub fn prepared(&self, environment: &str, executor: &str) -> io::Result<()> {
        let file = self.waiting(executor);
        durable::folder(file.parent().unwrap_or(&self.folder))?;
        durable::replace(&file, environment.as_bytes(), || ())
    }

    /// An executor will not be run.
    pub fn forget(&self, executor: &str) -> io::Result<()> {
        durable::remove(&self.waiting(executor))
    }

    /// Whether an executor runs.
    pub fn is_running(&self, executor: &str) -> bool {
        self.used.lock().unwrap_or_else(|e| e.into_inner()).values().any(|executors| executors.contains(executor))
    }

    /// The executors that need an environment.
    pub fn users(&self, environment: &str) -> BTreeSet<String> {
        let running = self.used.lock().unwrap_or_else(|e| e.into_inner()).get(environment).cloned().unwrap_or_default();
        let waiting = fs::read_dir(self.folder.join("prepared")).into_iter().flatten().flatten();
        let waiting = waiting.filter(|entry| fs::read(entry.path()).is_ok_and(|text| text == environment.as_bytes()));
        running.into_iter().chain(waiting.map(|entry| entry.file_name().to_string_lossy().replace('%', "."))).collect()
    }

    fn waiting(&self, executor: &str) -> PathBuf {
        // A name ends at its first dot where a file is replaced.
        self.folder.join("prepared").join(executor.replace('.', "%"))
    }
}

// === impl Use ===

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut used = self.ground.used.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(executors) = used.get_mut(&self.environment) {
            executors.remove(&self.executor);
            if executors.is_empty() {
                used.remove(&self.environment);
            }
        }
    }
}

/// Removes a folder with all that is in it. A folder that nobody may write is opened first: package managers leave such.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open(folder)?;
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

/// What the files of a folder occupy, bytes. What vanishes meanwhile does not count.
pub fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Lets tasks find `muster-agent`, whose `flag` they may use.
fn offer_agent(folder: &Path) -> io::Result<()> {
    const NAME: &str = "muster-agent";
    let program = std::env::current_exe()?;
    if program.file_name().is_none_or(|name| name != NAME) {
        return Ok(());
    }
    durable::folder(folder)?;
    let link = folder.join(NAME);
    durable::remove(&link)?;
    std::os::unix::fs::symlink(program, link)
}
