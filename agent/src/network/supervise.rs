//! The processes of a site's endpoints, and whether the ports behind addresses answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;

use super::{
    memory::Ground,
    model::{Endpoint, Purpose, Site},
    observe::ProcessStatus,
    process::{self, Health, Patience, Recipe, Running},
    profile::slug,
};
use crate::{durable, host};

/// Sees to the processes and tries the ports.
pub struct Processes {
    ground: Arc<Ground>,
    health: BTreeMap<String, Health>,
    supervised: BTreeMap<String, Supervised>,
}

/// A process beside what is durable of it.
#[derive(Default)]
struct Supervised {
    patience: Patience,
    restarts: u32,
    message: String,
}

// === impl Processes ===

impl Processes {
    /// None yet.
    pub fn new(ground: Arc<Ground>) -> Self {
        Self { ground, health: BTreeMap::new(), supervised: BTreeMap::new() }
    }

    /// Sees to the processes of endpoints that are wanted, and ends the others.
    pub async fn supervise(&mut self, site: &Site) {
        let is_wanted = |e: &&Endpoint| e.purpose == Purpose::Process && e.is_wanted();
        let wanted: BTreeMap<_, _> = site.endpoints.iter().filter(is_wanted).map(|e| (e.id.clone(), e)).collect();
        let known: Vec<_> = self.ground.memory.read(|facts| facts.processes.keys().cloned().collect());
        for id in known.iter().filter(|id| !wanted.contains_key(*id)) {
            self.end_process(id).await;
        }
        self.supervised.retain(|id, _| wanted.contains_key(id));
        for (id, endpoint) in wanted {
            let message = match process::recipe(&self.ground, site, endpoint) {
                Ok(recipe) => self.keep_process(&id, &recipe).await.err().unwrap_or_default(),
                Err(missing) => {
                    self.end_process(&id).await;
                    missing
                }
            };
            self.supervised.entry(id).or_default().message = message;
        }
    }

    async fn keep_process(&mut self, id: &str, recipe: &Recipe) -> Result<(), String> {
        let ground = self.ground.clone();
        let (host, memory) = (&ground.host, &ground.memory);
        let with = format!("{recipe:?}");
        let log = self.ground.folder.join("processes").join(slug(id)).with_extension("log");
        process::cut_log(&log);
        if let Some(running) = memory.read(|facts| facts.processes.get(id).cloned()) {
            let is_alive = host.is_alive(&running.group());
            if is_alive && running.with == with {
                return Ok(());
            }
            self.end_process(id).await;
            if !is_alive {
                let supervised = self.supervised.entry(id.to_owned()).or_default();
                supervised.patience.failed();
                supervised.restarts += 1;
            }
        }
        let supervised = self.supervised.entry(id.to_owned()).or_default();
        if supervised.patience.waits() {
            let words = process::last_words(&log);
            return Err(if words.is_empty() { "it ended".into() } else { format!("it ended: {words}") });
        }
        supervised.patience.begin();
        if let Some(container) = &recipe.container {
            process::remove(host.as_ref(), container, &self.ground.folder).await;
        }
        let folder = self.ground.folder.join("processes").join(slug(id));
        durable::folder(&folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        let program = host::Program {
            path: recipe.path.clone(),
            args: recipe.args.clone(),
            env: recipe.env.clone(),
            folder,
            keep_folder: true,
            limit: Duration::MAX,
            memory_bytes: 0,
            file_bytes: 0,
        };
        let started_ms = host.now_ms();
        let record = |group| {
            let container = recipe.container.clone();
            let running = Running { container, ..Running::new(group, started_ms, with.clone()) };
            memory.change(|facts| drop(facts.processes.insert(id.to_owned(), running)))
        };
        let started = process::start(host.as_ref(), program, &log, &record).await;
        started.map_err(|e| {
            self.supervised.entry(id.to_owned()).or_default().patience.failed();
            e.to_string()
        })
    }

    async fn end_process(&mut self, id: &str) {
        if let Some(running) = self.ground.memory.read(|facts| facts.processes.get(id).cloned()) {
            process::end(self.ground.host.as_ref(), &running, &self.ground.folder).await;
            let forgotten = self.ground.memory.change(|facts| drop(facts.processes.remove(id)));
            forgotten.unwrap_or_else(|e| tracing::error!(error = %e, "the state folder cannot be written"));
        }
    }

    /// Tries every port behind an address: the router does not know whether anybody answers there.
    pub async fn probe(&mut self, site: &Site) -> BTreeSet<String> {
        let ports: Vec<_> = site.tcp_connectors.iter().filter(|t| site.is_wanted(&t.endpoint)).collect();
        let answers = join_all(ports.iter().map(|t| process::answers(&t.host, t.port))).await;
        self.health.retain(|name, _| ports.iter().any(|t| t.name == *name));
        for (tcp, answered) in ports.iter().zip(answers) {
            let health = self.health.entry(tcp.name.clone()).or_default();
            *health = health.after(answered);
        }
        self.health.iter().filter(|(_, health)| health.answers).map(|(name, _)| name.clone()).collect()
    }

    /// What is said of the processes.
    pub fn status(&self, site: &Site, healthy: &BTreeSet<String>) -> Vec<ProcessStatus> {
        let processes = site.endpoints.iter().filter(|e| e.purpose == Purpose::Process && e.is_wanted());
        processes.map(|e| self.process_status(site, &e.id, healthy)).collect()
    }

    fn process_status(&self, site: &Site, id: &str, healthy: &BTreeSet<String>) -> ProcessStatus {
        let running = self.ground.memory.read(|facts| facts.processes.get(id).cloned());
        let supervised = self.supervised.get(id);
        let mut ports = site.tcp_connectors.iter().filter(|t| t.endpoint == id);
        let running = running.is_some_and(|r| self.ground.host.is_alive(&r.group()));
        ProcessStatus {
            endpoint: id.to_owned(),
            running,
            healthy: running && ports.all(|t| healthy.contains(&t.name)),
            message: supervised.map(|s| s.message.clone()).unwrap_or_default(),
            restarts: supervised.map_or(0, |s| s.restarts),
        }
    }
}
