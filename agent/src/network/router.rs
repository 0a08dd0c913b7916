//! The router's process: found, started, known again, restarted when it must be, and never by a signal but its last.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    memory::Memory,
    model::Attributes,
    process::{self, Patience, Running},
};
use crate::{
    durable,
    host::{Host, Program, find},
};

/// The program's name where no path is given.
const PROGRAM: &str = "skrouterd";

/// The variable that names it otherwise.
const VARIABLE: &str = "SKROUTERD";

/// What becomes of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// There is no program, and no process.
    Absent,
    /// It runs with what it was started with.
    Runs(Running),
    /// It was started just now.
    Started(Running),
    /// It does not run; a sentence why.
    Down(String),
}

/// What a router is started with.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// What it cannot be told later.
    pub with: &'a str,
    /// Its start-up file.
    pub file: &'a Path,
    /// Its log.
    pub log: &'a Path,
    /// What the file says of profiles.
    pub profiles: std::collections::BTreeMap<String, Attributes>,
}

/// The program, by the owner's word, the environment, or the path.
pub fn program(chosen: Option<&Path>) -> Option<PathBuf> {
    match chosen {
        Some(path) => find(path),
        None => match env::var_os(VARIABLE) {
            Some(path) => find(Path::new(&path)),
            None => find(Path::new(PROGRAM)),
        },
    }
}

/// A port for management: the one kept, while it is the router's or can be bound, or else another.
pub fn port(host: &dyn Host, memory: &Memory) -> std::io::Result<u16> {
    let (kept, running) = memory.read(|facts| (facts.port, facts.router.clone()));
    let is_alive = running.is_some_and(|running| host.is_alive(&running.group()));
    if kept != 0 && (is_alive || TcpListener::bind(("127.0.0.1", kept)).is_ok()) {
        return Ok(kept);
    }
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    memory.change(|facts| facts.port = port)?;
    Ok(port)
}

/// Sees to it that a router runs that was started with what is wanted.
pub async fn keep(
    host: &dyn Host,
    program: Option<&Path>,
    memory: &Memory,
    patience: &mut Patience,
    start: Start<'_>,
) -> Stand {
    if let Some(running) = memory.read(|facts| facts.router.clone()) {
        let is_alive = host.is_alive(&running.group());
        if is_alive && running.with == start.with {
            return Stand::Runs(running);
        }
        if is_alive {
            process::end(host, &running, start.file.parent().unwrap_or(start.file)).await;
        } else {
            patience.failed();
        }
        if let Err(e) = memory.change(|facts| facts.router = None) {
            return Stand::Down(format!("the state folder cannot be written: {e}"));
        }
    }
    let Some(program) = program else { return Stand::Absent };
    if patience.waits() {
        return Stand::Down(format!("the router ended: {}", process::last_words(start.log)));
    }
    patience.begin();
    match launch(host, program, memory, &start).await {
        Ok(running) => Stand::Started(running),
        Err(why) => {
            patience.failed();
            Stand::Down(why)
        }
    }
}

async fn launch(host: &dyn Host, program: &Path, memory: &Memory, start: &Start<'_>) -> Result<Running, String> {
    let started_ms = host.now_ms();
    let record = |group| {
        let running = Running::new(group, started_ms, start.with.to_owned());
        memory.change(|facts| {
            facts.router = Some(running);
            facts.applied.clone_from(&start.profiles);
        })
    };
    let folder = start.file.parent().unwrap_or(start.file).join("run");
    let args = vec!["-c".to_owned(), start.file.to_string_lossy().into_owned()];
    let program = Program {
        path: program.to_owned(),
        args,
        env: Vec::new(),
        folder,
        keep_folder: true,
        limit: Duration::MAX,
        memory_bytes: 0,
        file_bytes: 0,
    };
    process::start(host, program, start.log, &record).await.map_err(|e| e.to_string())?;
    memory.read(|facts| facts.router.clone()).ok_or_else(|| "the router's start was not recorded".into())
}

/// Keeps the start-up file equal to what is wanted.
pub fn write_file(file: &Path, text: &str) -> std::io::Result<()> {
    if fs::read(file).is_ok_and(|bytes| bytes == text.as_bytes()) {
        return Ok(());
    }
    durable::replace(file, text.as_bytes(), || ())
}
