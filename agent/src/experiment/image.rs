//! Environments of the image kind, and containers of them, through the engine that the host's owner named.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    content,
    environment::{Budget, Command, Failure, Job, Made},
    ground::{GRAPH, Ground},
    model::{Container, Image, Source, Step},
    tail::Tail,
};
use crate::host::Program;

/// How long looking at containers and removing them may take.
const TIDY: Duration = Duration::from_secs(60);

/// What an engine needs of the agent's own environment to find its service.
const KEPT: [&str; 4] = ["DOCKER_HOST", "CONTAINER_HOST", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// Variables that the engine itself reads: a container's own are given to it as arguments, not by inheritance.
const ENGINES: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// What a container is made of beside its image.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// Its name on this host.
    pub name: &'a str,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// A folder of the host that it sees under the same path.
    pub folder: Option<&'a Path>,
    /// Where it works.
    pub works_in: Option<&'a Path>,
    /// What it executes; empty: what its image says.
    pub command: Vec<String>,
}

/// Fetches or builds an image.
pub async fn make(
    ground: &Ground,
    image: &Image,
    graph: Option<&Path>,
    budget: Budget,
    job: &Job<'_>,
) -> Result<Made, Failure> {
    let engine = ground.engine().map_err(Failure::of)?;
    let folder = ground.scratch();
    let made = async {
        let platform = |args: &mut Vec<String>| {
            if !image.platform.is_empty() {
                args.extend(["--platform".to_owned(), image.platform.clone()]);
            }
        };
        let mut args: Vec<String> = Vec::new();
        match &image.source {
            Source::Pull => {
                args.push("pull".into());
                platform(&mut args);
                args.push(image.name.clone());
            }
            Source::Containerfile(text) => {
                let (file, context) = build_folder(&folder, text, graph).map_err(Failure::of)?;
                args.push("build".into());
                platform(&mut args);
                args.extend(["-t".into(), image.name.clone(), "-f".into(), file, context]);
            }
            Source::Archive(archive) => {
                (job.tell)(Step::Fetching);
                let file = tokio::select! {
                    file = content::file(&ground.blobs, archive, folder.join("archive.tar")) => file.map_err(Failure::of)?,
                    () = job.cancel.cancelled() => return Err(Failure::of("it was cancelled")),
                    () = tokio::time::sleep_until(budget.deadline) => {
                        return Err(Failure::of("making it took too long; its archive did not arrive"));
                    }
                };
                (job.tell)(Step::Building);
                args.extend(["load".into(), "-i".into(), file.display().to_string()]);
            }
        }
        run(ground, &engine, args, &folder, budget, job).await?;
        let bytes = occupied(ground, &engine, &image.name).await;
        if bytes > budget.bytes {
            remove(ground, &image.name).await;
            return Err(Failure::of(format!("the image has {bytes} bytes, and {} are allowed", budget.bytes)));
        }
        Ok(Made { bytes, image: image.name.clone(), ..Made::default() })
    };
    let made = made.await;
    let _ = super::ground::remove(&folder);
    made
}

/// Saves an image into a file in a folder that is made for it.
pub async fn save(
    ground: &Ground,
    name: &str,
    folder: &Path,
    budget: Budget,
    job: &Job<'_>,
) -> Result<PathBuf, Failure> {
    let engine = ground.engine().map_err(Failure::of)?;
    let file = folder.join("archive.tar");
    let args = ["save", "-o", &file.display().to_string(), name].map(str::to_owned).into();
    run(ground, &engine, args, folder, budget, job).await?;
    Ok(file)
}

/// Removes an image; one that is not there or is used by others is no matter.
pub async fn remove(ground: &Ground, name: &str) {
    if let Ok(engine) = ground.engine() {
        ask(ground, &engine, &["rmi", name]).await;
    }
}

/// Removes a container, if it is there: whoever asked the engine to run it may have ended without it.
pub async fn remove_container(ground: &Ground, name: &str) {
    if let Ok(engine) = ground.engine() {
        ask(ground, &engine, &["rm", "--force", name]).await;
    }
}

/// Removes the containers that a former run of this agent left.
pub async fn remove_left(ground: &Ground) {
    let Ok(engine) = ground.engine() else { return };
    let filter = format!("label={}", ground.label());
    let found = ask(ground, &engine, &["ps", "--all", "--quiet", "--filter", &filter]).await;
    for id in found.split_whitespace() {
        remove_container(ground, id).await;
    }
}

/// The engine's arguments for a container, and its environment. Values reach it by inheritance, since arguments can be
/// seen by everyone on the host.
pub fn run_arguments(container: &Container, start: &Start<'_>, label: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut args: Vec<String> = ["run", "--rm", "--name", start.name, "--label", label].map(str::to_owned).into();
    let mut env = Vec::new();
    for (name, value) in &start.env {
        let is_engines = ENGINES.contains(&name.as_str()) || KEPT.contains(&name.as_str());
        args.extend(["-e".to_owned(), if is_engines { format!("{name}={value}") } else { name.clone() }]);
        if !is_engines {
            env.push((name.clone(), value.clone()));
        }
    }
    // The relay listens on the host's own loopback, which a container shares on the host's network alone.
    if container.network.is_empty() {
        args.extend(["--network".into(), "host".into()]);
    } else {
        args.extend(["--network".into(), container.network.clone()]);
        args.extend(container.ports.iter().flat_map(|(host, inside)| ["-p".to_owned(), format!("{host}:{inside}")]));
    }
    args.extend(start.folder.into_iter().flat_map(|seen| ["-v".to_owned(), format!("{0}:{0}", seen.display())]));
    args.extend(start.works_in.into_iter().flat_map(|folder| ["-w".to_owned(), folder.display().to_string()]));
    args.extend(container.arguments.iter().cloned());
    args.push(container.image.clone());
    args.extend(start.command.iter().cloned());
    (args, env)
}

/// What is worth knowing of a container before it runs.
pub fn notes(container: &Container) -> Vec<String> {
    let mut notes = Vec::new();
    if !container.network.is_empty() {
        notes.push(format!(
            "the network {} is named: flags and results reach the agent only where it shares the host's loopback",
            container.network
        ));
    } else if container.ports.iter().any(|(host, inside)| host != inside) {
        notes
            .push("the host's network is used: ports are not mapped, but those that the container itself opens".into());
    }
    notes
}

/// The engine's own environment, as far as it is the agent's.
pub fn inherited() -> impl Iterator<Item = (String, String)> {
    KEPT.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}

/// A folder that holds the container file, and the graph where the file copies it.
fn build_folder(folder: &Path, text: &str, graph: Option<&Path>) -> Result<(String, String), String> {
    let context = folder.join("build");
    let make = || {
        fs::create_dir_all(&context)?;
        fs::write(folder.join("Containerfile"), text)?;
        if let Some((graph, name)) = graph.zip(copied_graph(text)) {
            fs::copy(graph, context.join(name))?;
        }
        std::io::Result::Ok(())
    };
    make().map_err(|e| format!("the build's folder cannot be made: {e}"))?;
    Ok((folder.join("Containerfile").display().to_string(), context.display().to_string()))
}

/// The file that a container file copies as the graph.
pub fn copied_graph(text: &str) -> Option<&str> {
    let names = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_copy = matches!(words.next(), Some("COPY" | "ADD"));
        let (from, to, rest) = (words.next()?, words.next()?, words.next());
        (is_copy && rest.is_none() && to.rsplit('/').next() == Some(GRAPH)).then_some(from)
    });
    names.into_iter().find(|name| !name.contains('/') && !name.starts_with('.'))
}

async fn run(
    ground: &Ground,
    engine: &Path,
    args: Vec<String>,
    folder: &Path,
    budget: Budget,
    job: &Job<'_>,
) -> Result<(), Failure> {
    let name = engine.file_name().unwrap_or_default().to_string_lossy();
    let command = Command { shown: format!("{name} {}", args.join(" ")), path: engine.to_owned(), args };
    let env: Vec<_> = inherited().collect();
    ground.carry_out(&command, &env, folder, budget, job).await
}

/// What an image occupies, bytes; 0 where the engine does not say.
async fn occupied(ground: &Ground, engine: &Path, name: &str) -> u64 {
    ask(ground, engine, &["image", "inspect", "--format", "{{.Size}}", name]).await.trim().parse().unwrap_or_default()
}

/// What an engine says to a short question; nothing when it fails.
async fn ask(ground: &Ground, engine: &Path, args: &[&str]) -> String {
    let program = Program {
        path: engine.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: inherited().collect(),
        folder: ground.scratch(),
        keep_folder: false,
        limit: TIDY,
        memory_bytes: 0,
        file_bytes: 0,
    };
    let said = Tail::new(ground.host.as_ref(), None);
    match ground.host.run(program, CancellationToken::new(), &said).await {
        Ok(exit) if exit.code == Some(0) => String::from_utf8_lossy(&said.text()).into_owned(),
        Ok(_) => {
            tracing::debug!(?args, said = said.last_words(), "the engine declined");
            String::new()
        }
        Err(e) => {
            tracing::warn!(error = %e, "the engine does not run");
            String::new()
        }
    }
}
