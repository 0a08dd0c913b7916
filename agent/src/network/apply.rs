//! Keeping a site: observe, plan, apply, observe again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, future::join_all};
use muster_proto::KIND_NETWORK_SITE;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Settings,
    management::{Failure, Management},
    memory::Memory,
    model::{Attributes, Entity, Kind, Local, Material, Profile, Purpose, Site, Value},
    observe::{self, ProcessStatus, ProfileStatus, Seen, State, Status},
    plan::{self, Action, Contested},
    process::{self, Health, Patience, Recipe, Running},
    profile::{Folder, Held, Next, Own, slug},
    router::{self, Stand},
    wire,
};
use crate::{
    driver::{Act, Capability, Driver, Settled, Standing, Turn},
    host::{self, Host},
    ledger::{Assignment, Key, Refused},
    spool::{Answer, Spool},
};

/// How often a site is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The same while something is about to change.
const LOOK_SOON: Duration = Duration::from_millis(300);

/// How long a turn waits for a leaf before it goes on without.
const ASK: Duration = Duration::from_secs(2);

/// How long a refused question rests, milliseconds.
const ASK_AGAIN_MS: i64 = 30_000;

/// From a router's start to its first answer.
const START: Duration = Duration::from_secs(4);

/// A router that says nothing for this long is ended and started anew.
const SILENCE: Duration = Duration::from_secs(30);

/// Counters alone are told this often, milliseconds.
const COUNTERS_MS: i64 = 60_000;

/// The driver of `network.site`.
pub struct Sites {
    settings: Settings,
    host: Arc<dyn Host>,
    spool: Arc<Spool>,
    folder: PathBuf,
    keepers: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Keeper>>>>,
}

/// Keeps one site.
struct Keeper {
    settings: Settings,
    host: Arc<dyn Host>,
    spool: Arc<Spool>,
    key: Key,
    folder: PathBuf,
    memory: Arc<Memory>,
    own: Own,
    management: Option<Management>,
    patience: Patience,
    silent_since: Option<Instant>,
    contested: Contested,
    questions: BTreeMap<String, AbortOnDropHandle<Answer>>,
    rests_until_ms: BTreeMap<String, i64>,
    health: BTreeMap<String, Health>,
    processes: BTreeMap<String, Supervised>,
    links: BTreeMap<String, (bool, i64)>,
    counted: Option<(i64, Bytes)>,
    problems: Vec<String>,
}

/// A process beside what is durable of it.
#[derive(Default)]
struct Supervised {
    patience: Patience,
    restarts: u32,
    message: String,
}

// === impl Sites ===

impl Sites {
    /// The driver; sites have their folders below `folder`.
    pub fn new(settings: Settings, host: Arc<dyn Host>, spool: Arc<Spool>, folder: PathBuf) -> Self {
        Self { settings, host, spool, folder, keepers: Mutex::default() }
    }

    fn keeper(&self, key: &Key) -> Result<Arc<tokio::sync::Mutex<Keeper>>, String> {
        let mut keepers = self.keepers.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(keeper) = keepers.get(&key.id) {
            return Ok(keeper.clone());
        }
        let folder = self.folder.join(slug(&key.id));
        let cannot = |e: io::Error| format!("{} cannot be used: {e}", folder.display());
        let memory = Arc::new(Memory::open(&folder).map_err(cannot)?);
        let own = Own::open(&folder, self.host.now_ms())?;
        let keeper = Keeper {
            settings: self.settings.clone(),
            host: self.host.clone(),
            spool: self.spool.clone(),
            key: key.clone(),
            folder,
            memory,
            own,
            management: None,
            patience: Patience::default(),
            silent_since: None,
            contested: Contested::default(),
            questions: BTreeMap::new(),
            rests_until_ms: BTreeMap::new(),
            health: BTreeMap::new(),
            processes: BTreeMap::new(),
            links: BTreeMap::new(),
            counted: None,
            problems: Vec::new(),
        };
        let keeper = Arc::new(tokio::sync::Mutex::new(keeper));
        keepers.insert(key.id.clone(), keeper.clone());
        Ok(keeper)
    }
}

impl Driver for Sites {
    fn capability(&self) -> Capability {
        let router = router::program(self.settings.router.as_deref()).map(|_| "router".to_owned());
        let containers = self.settings.containers.as_ref().map(|_| "containers".to_owned());
        Capability { kind: KIND_NETWORK_SITE, versions: (1, 1), offers: containers.into_iter().chain(router).collect() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        wire::site(document).map(drop)
    }

    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Sites {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async move {
            let site = match wire::site(&assignment.document) {
                Ok(site) => site,
                Err(refused) => return Turn::Failed(refused.message),
            };
            match self.keeper(&assignment.key) {
                Ok(keeper) => keeper.lock().await.turn(&site).await,
                Err(why) => Turn::Failed(why),
            }
        })
    }

    fn undo<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async move {
            let folder = self.folder.join(slug(&assignment.key.id));
            if folder.exists() {
                let gone = match self.keeper(&assignment.key) {
                    Ok(keeper) => keeper.lock().await.end().await,
                    Err(why) => Err(why),
                };
                if let Err(why) = gone {
                    return Turn::Failed(why);
                }
            }
            self.keepers.lock().unwrap_or_else(|e| e.into_inner()).remove(&assignment.key.id);
            Turn::Settled(Settled::default())
        })
    }
}

// === impl Keeper ===

impl Keeper {
    async fn turn(&mut self, site: &Site) -> Turn {
        self.problems.clear();
        let materials = match self.profiles(site).await {
            Ok(materials) => materials,
            Err(why) => return Turn::Failed(why),
        };
        self.supervise(site).await;
        let healthy = self.probe(site).await;
        let wanted = plan::wanted(site, &materials, &healthy);
        let (state, running) = match self.keep_router(site, &wanted).await {
            Ok(stand) => stand,
            Err(e) => return Turn::Failed(format!("{} cannot be written: {e}", self.folder.display())),
        };
        let mut seen = Seen::default();
        let mut is_equal = state == State::Rendered;
        let mut state = state;
        if let Some(running) = running.as_ref().filter(|_| state == State::Starting) {
            match self.reconcile(site, &wanted, running).await {
                Ok((found, equal)) => {
                    (seen, is_equal, state) = (found, equal, State::Running);
                    self.silent_since = None;
                    self.patience.works();
                }
                Err(failure) => {
                    self.management = None;
                    state = self.unanswered(running, &failure).await;
                }
            }
        }
        // What lacks its leaf stands in no plan, and yet is wanted.
        let lacks = site.profiles.iter().any(|p| !materials.contains_key(&p.name));
        if is_equal && state == State::Running {
            self.tidy(site);
        }
        let status = self.status(site, state, running.as_ref(), &seen, &healthy);
        self.told(&status, is_equal && !lacks)
    }

    /// Brings profiles to what is wanted as far as home helps, and gives those that can be used.
    async fn profiles(&mut self, site: &Site) -> Result<BTreeMap<String, Material>, String> {
        let mut materials = BTreeMap::new();
        for profile in &site.profiles {
            let folder = Folder::new(&self.folder, &profile.name)
                .map_err(|e| format!("the folder of profile {} cannot be made: {e}", profile.name))?;
            let mut held = self.memory.read(|facts| facts.profiles.get(&profile.name).cloned()).unwrap_or_default();
            self.renew(profile, &folder, &mut held).await?;
            held.cut(profile.cuts);
            self.remember(&profile.name, &held)?;
            if let Some(material) = folder.material(profile, &held)? {
                materials.insert(profile.name.clone(), material);
            }
        }
        Ok(materials)
    }

    /// Asks for a leaf where one is needed. The one in use stays in use until another is there.
    async fn renew(&mut self, profile: &Profile, folder: &Folder, held: &mut Held) -> Result<(), String> {
        let now_ms = self.host.now_ms();
        let Some(edition) = held.needs(profile, now_ms) else {
            self.questions.remove(&profile.name);
            return Ok(());
        };
        let next = match held.next.clone().filter(|next| next.edition == edition) {
            Some(next) => next,
            None => {
                let next = Next { edition, key: folder.make_key()? };
                held.next = Some(next.clone());
                // The key is remembered before it is asked for: home gives the same leaf to the same key.
                self.remember(&profile.name, held)?;
                self.questions.remove(&profile.name);
                next
            }
        };
        match self.ask(profile, folder, &next).await? {
            Some(Ok(chain)) => match folder.keep(&chain, &next, now_ms) {
                Ok(leaf) => {
                    held.take(leaf);
                    return Ok(());
                }
                Err(why) => self.rest(profile, &why),
            },
            Some(Err(why)) => self.rest(profile, &why),
            None => {}
        }
        let age = if held.leaf.is_some() { "the one in use stays" } else { "what needs it waits" };
        self.problems.push(format!("profile {} waits for home to sign a leaf; {age}", profile.name));
        Ok(())
    }

    /// Puts the question, or looks whether it was answered.
    async fn ask(
        &mut self,
        profile: &Profile,
        folder: &Folder,
        next: &Next,
    ) -> Result<Option<Result<Vec<Vec<u8>>, String>>, String> {
        if self.rests_until_ms.get(&profile.name).is_some_and(|until| self.host.now_ms() < *until) {
            return Ok(None);
        }
        if !self.questions.contains_key(&profile.name) {
            let body = wire::sign(&profile.name, next.edition, folder.request(&next.key)?);
            let (spool, key) = (self.spool.clone(), self.key.clone());
            let asking = tokio::spawn(async move { spool.ask(key, 1, body).await });
            self.questions.insert(profile.name.clone(), AbortOnDropHandle::new(asking));
        }
        let Some(question) = self.questions.get_mut(&profile.name) else { return Ok(None) };
        let Ok(answer) = timeout(ASK, question).await else { return Ok(None) };
        self.questions.remove(&profile.name);
        Ok(Some(match answer {
            Ok(Answer::Ok(reply)) => wire::signed(&reply),
            Ok(Answer::Denied(why) | Answer::Unknown(why) | Answer::Unavailable(why)) => Err(why),
            Err(e) => Err(e.to_string()),
        }))
    }

    fn rest(&mut self, profile: &Profile, why: &str) {
        self.rests_until_ms.insert(profile.name.clone(), self.host.now_ms() + ASK_AGAIN_MS);
        self.problems.push(format!("home signed no leaf for profile {}: {why}", profile.name));
    }

    fn remember(&self, profile: &str, held: &Held) -> Result<(), String> {
        let written = self.memory.change(|facts| drop(facts.profiles.insert(profile.to_owned(), held.clone())));
        written.map_err(|e| format!("the state folder cannot be written: {e}"))
    }

    /// Writes the start-up file and sees to it that a router runs by it. A process that is there and was not asked yet
    /// counts as starting.
    async fn keep_router(&mut self, site: &Site, wanted: &[Entity]) -> io::Result<(State, Option<Running>)> {
        let host = self.host.clone();
        let port = router::port(host.as_ref(), &self.memory)?;
        let local = Local { port, material: self.own.material.clone() };
        let (file, log) = (self.folder.join("router.json"), self.folder.join("router.log"));
        router::write_file(&file, &plan::start_file(site, &local, wanted))?;
        let with = serde_json::to_string(&plan::base(site)).map_err(io::Error::other)?;
        let told = wanted.iter().filter(|e| e.kind == Kind::SslProfile);
        let profiles = told.map(|e| (e.name.clone(), e.attributes.clone())).collect();
        let start = router::Start { with: &with, file: &file, log: &log, profiles };
        let program = router::program(self.settings.router.as_deref());
        process::cut_log(&log);
        let stand = router::keep(host.as_ref(), program.as_deref(), &self.memory, &mut self.patience, start).await;
        Ok(match stand {
            Stand::Absent => {
                self.management = None;
                (State::Rendered, None)
            }
            Stand::Runs(running) => (State::Starting, Some(running)),
            Stand::Started(running) => {
                (self.management, self.silent_since, self.contested) = (None, None, Contested::default());
                self.await_management(&running).await;
                (State::Starting, Some(running))
            }
            Stand::Down(why) => {
                self.management = None;
                self.problems.push(why);
                (State::Failed, None)
            }
        })
    }

    /// Waits until a router that was just started can be spoken to, or ended.
    async fn await_management(&mut self, running: &Running) {
        let deadline = Instant::now() + START;
        while self.management.is_none() && Instant::now() < deadline && self.host.is_alive(&running.group()) {
            match self.connect().await {
                Ok(()) => {}
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.management.is_none() {
            let port = self.memory.read(|facts| facts.port);
            self.management = Some(Management::connect(port, self.own.tls.clone()).await?);
        }
        Ok(())
    }

    /// What a router that did not answer is taken for; one that is silent for long is ended.
    async fn unanswered(&mut self, running: &Running, failure: &Failure) -> State {
        let host = self.host.clone();
        if !host.is_alive(&running.group()) {
            self.problems.push("the router ended".into());
            return State::Failed;
        }
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= SILENCE {
            self.problems.push("the router said nothing for long and is started anew".into());
            host.end_group(&running.group()).await;
            self.silent_since = None;
            return State::Failed;
        }
        self.problems.push(failure.to_string());
        let age_ms = host.now_ms() - running.started_ms;
        let is_young = age_ms >= 0 && u128::from(age_ms.unsigned_abs()) < START.as_millis() * 3;
        if is_young && self.patience.is_begun() { State::Starting } else { State::Silent }
    }

    /// One pass over a running router. Says whether it is what is wanted.
    async fn reconcile(&mut self, site: &Site, wanted: &[Entity], running: &Running) -> Result<(Seen, bool), Failure> {
        self.connect().await?;
        let mut seen = self.look(site, running).await?;
        let mut observed = seen.entities.clone();
        for (kind, name, host, port) in seen.unbound(site) {
            // The router tries a port once: when it has become free, the entity has to be made anew.
            if bindable(&host, port).is_ok() && self.host.now_ms() - running.started_ms > 2000 {
                observed.iter_mut().filter(|e| e.kind == kind && e.name == name).for_each(|e| {
                    e.attributes.insert("port".into(), Value::Null);
                });
            }
        }
        let applied = self.memory.read(|facts| facts.applied.clone());
        let now_ms = self.host.now_ms();
        let (actions, left) = self.contested.sift(plan::plan(wanted, &observed, &applied), now_ms);
        for name in &left {
            self.problems
                .push(format!("{name} is set otherwise by somebody else again and again; it is left so for a minute"));
        }
        if actions.is_empty() {
            return Ok((seen, left.is_empty()));
        }
        self.contested.note(&actions, now_ms);
        for action in &actions {
            self.carry_out(action).await?;
        }
        seen = self.look(site, running).await?;
        let applied = self.memory.read(|facts| facts.applied.clone());
        let rest = plan::plan(wanted, &seen.entities, &applied);
        Ok((seen, rest.is_empty()))
    }

    async fn look(&mut self, site: &Site, running: &Running) -> Result<Seen, Failure> {
        let management = self.management.as_mut().ok_or_else(|| Failure::Lost("not connected".into()))?;
        let mut seen = observe::look(management, site.mode).await?;
        seen.listens = self.host.listens_on(&running.group());
        Ok(seen)
    }

    /// Does one step. A refusal is a problem and no reason to leave the others out.
    async fn carry_out(&mut self, action: &Action) -> Result<(), Failure> {
        let management = self.management.as_mut().ok_or_else(|| Failure::Lost("not connected".into()))?;
        let (done, name) = match action {
            Action::Delete { kind, name } => (management.delete(*kind, name).await, name),
            Action::Create(entity) => (management.create(entity).await, &entity.name),
            Action::Update(entity) => {
                if entity.kind == Kind::SslProfile {
                    // Until the router took it, nothing it shows of this profile can be believed.
                    applied(&self.memory, &entity.name, None)?;
                }
                (management.update(entity, entity.attributes.clone()).await, &entity.name)
            }
        };
        match done {
            Ok(()) => {}
            Err(Failure::Refused { status, description }) => {
                tracing::warn!(name, status, description, "the router refuses");
                self.problems.push(format!("the router refuses {name}: {description}"));
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
        match action {
            Action::Create(entity) | Action::Update(entity) if entity.kind == Kind::SslProfile => {
                applied(&self.memory, &entity.name, Some(entity.attributes.clone()))
            }
            Action::Delete { kind: Kind::SslProfile, name } => applied(&self.memory, name, None),
            _ => Ok(()),
        }
    }

    /// Sees to the processes of endpoints that are wanted, and ends the others.
    async fn supervise(&mut self, site: &Site) {
        let is_wanted = |e: &&super::model::Endpoint| e.purpose == Purpose::Process && e.is_wanted;
        let wanted: BTreeMap<_, _> = site.endpoints.iter().filter(is_wanted).map(|e| (e.id.clone(), e)).collect();
        let known: Vec<_> = self.memory.read(|facts| facts.processes.keys().cloned().collect());
        for id in known.iter().filter(|id| !wanted.contains_key(*id)) {
            self.end_process(id).await;
        }
        self.processes.retain(|id, _| wanted.contains_key(id));
        for (id, endpoint) in wanted {
            let message = match process::recipe(site, endpoint, &self.settings, self.host.as_ref()) {
                Ok(recipe) => self.keep_process(&id, &recipe).await.err().unwrap_or_default(),
                Err(missing) => {
                    self.end_process(&id).await;
                    missing
                }
            };
            self.processes.entry(id).or_default().message = message;
        }
    }

    async fn keep_process(&mut self, id: &str, recipe: &Recipe) -> Result<(), String> {
        let (host, memory) = (self.host.clone(), self.memory.clone());
        let with = format!("{recipe:?}");
        let log = self.folder.join("processes").join(slug(id)).with_extension("log");
        process::cut_log(&log);
        if let Some(running) = memory.read(|facts| facts.processes.get(id).cloned()) {
            let is_alive = host.is_alive(&running.group());
            if is_alive && running.with == with {
                return Ok(());
            }
            self.end_process(id).await;
            if !is_alive {
                let supervised = self.processes.entry(id.to_owned()).or_default();
                supervised.patience.failed();
                supervised.restarts += 1;
            }
        }
        let supervised = self.processes.entry(id.to_owned()).or_default();
        if supervised.patience.waits() {
            let words = process::last_words(&log);
            return Err(if words.is_empty() { "it ended".into() } else { format!("it ended: {words}") });
        }
        supervised.patience.begin();
        let folder = self.folder.join("processes").join(slug(id));
        crate::durable::folder(&folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        let program = host::Program {
            path: recipe.path.clone(),
            args: recipe.args.clone(),
            env: recipe.env.clone(),
            folder,
            limit: Duration::MAX,
            memory_bytes: 0,
            file_bytes: 0,
        };
        let started_ms = host.now_ms();
        let record = |group| {
            let running = Running::new(group, started_ms, with.clone());
            memory.change(|facts| drop(facts.processes.insert(id.to_owned(), running)))
        };
        let started = process::start(host.as_ref(), program, &log, &record).await;
        started.map_err(|e| {
            self.processes.entry(id.to_owned()).or_default().patience.failed();
            e.to_string()
        })
    }

    async fn end_process(&mut self, id: &str) {
        if let Some(running) = self.memory.read(|facts| facts.processes.get(id).cloned()) {
            process::end(self.host.as_ref(), &running).await;
            let forgotten = self.memory.change(|facts| drop(facts.processes.remove(id)));
            forgotten.unwrap_or_else(|e| tracing::error!(error = %e, "the state folder cannot be written"));
        }
    }

    /// Tries every port behind an address: the router does not know whether anybody answers there.
    async fn probe(&mut self, site: &Site) -> BTreeSet<String> {
        let ports: Vec<_> = site.tcp_connectors.iter().filter(|t| site.is_wanted(&t.endpoint)).collect();
        let answers = join_all(ports.iter().map(|t| process::answers(&t.host, t.port))).await;
        self.health.retain(|name, _| ports.iter().any(|t| t.name == *name));
        for (tcp, answered) in ports.iter().zip(answers) {
            let health = self.health.entry(tcp.name.clone()).or_default();
            *health = health.after(answered);
        }
        self.health.iter().filter(|(_, health)| health.answers).map(|(name, _)| name.clone()).collect()
    }

    /// Removes files of leaves and keys that the router was told to use no more.
    fn tidy(&self, site: &Site) {
        let held = self.memory.read(|facts| facts.profiles.clone());
        for profile in &site.profiles {
            if let (Ok(folder), Some(held)) = (Folder::new(&self.folder, &profile.name), held.get(&profile.name)) {
                folder.tidy(profile, held);
            }
        }
        let gone: Vec<_> = held.keys().filter(|name| site.profiles.iter().all(|p| p.name != **name)).collect();
        for name in gone {
            let removed = fs::remove_dir_all(self.folder.join("profiles").join(slug(name)));
            let forgotten = self.memory.change(|facts| drop(facts.profiles.remove(name)));
            if let Err(e) = removed.and(forgotten) {
                tracing::warn!(profile = name.as_str(), error = %e, "what was held for a profile cannot be removed");
            }
        }
    }

    fn status(
        &mut self,
        site: &Site,
        state: State,
        running: Option<&Running>,
        seen: &Seen,
        healthy: &BTreeSet<String>,
    ) -> Status {
        let figure = |name| seen.metrics.get(name).and_then(Value::number).and_then(|n| u64::try_from(n).ok());
        let router = observe::Router {
            state,
            version: seen.version.clone(),
            pid: running.and_then(|r| u32::try_from(r.pid).ok()).unwrap_or(0),
            started_ms: running.map_or(0, |r| r.started_ms),
            memory_bytes: figure("residentMemoryUsage").unwrap_or(0),
            connections: figure("connectionCount").unwrap_or(0),
        };
        let held = self.memory.read(|facts| facts.profiles.clone());
        let profile = |p: &Profile| profile_status(site, p, held.get(&p.name), seen);
        let mut status = Status {
            router,
            profiles: site.profiles.iter().map(profile).collect(),
            reachable: seen.reachable(&site.router),
            problems: std::mem::take(&mut self.problems),
            ..Status::default()
        };
        let processes = site.endpoints.iter().filter(|e| e.purpose == Purpose::Process && e.is_wanted);
        status.processes = processes.map(|e| self.process_status(site, &e.id, healthy)).collect();
        if state == State::Running {
            status.links = site.connectors.iter().map(|c| seen.link(c)).collect();
            status.ports = site.listeners.iter().map(|l| seen.listener(l, bindable)).collect();
            let listeners = site.tcp_listeners.iter().filter(|t| site.is_wanted(&t.endpoint));
            status.ports.extend(listeners.map(|t| seen.tcp_listener(t)));
            let connectors = site.tcp_connectors.iter().filter(|t| site.is_wanted(&t.endpoint));
            status.ports.extend(connectors.map(|t| seen.tcp_connector(t, healthy.contains(&t.name))));
        } else {
            let down = |name: &String| observe::Link {
                name: name.clone(),
                message: "the router does not answer".into(),
                ..observe::Link::default()
            };
            let names = site.connectors.iter().map(|c| &c.name);
            status.links = if state == State::Rendered { Vec::new() } else { names.map(down).collect() };
        }
        observe::since(&mut status.links, &mut self.links, self.host.now_ms());
        status
    }

    fn process_status(&self, site: &Site, id: &str, healthy: &BTreeSet<String>) -> ProcessStatus {
        let running = self.memory.read(|facts| facts.processes.get(id).cloned());
        let supervised = self.processes.get(id);
        let mut ports = site.tcp_connectors.iter().filter(|t| t.endpoint == id);
        let running = running.is_some_and(|r| self.host.is_alive(&r.group()));
        ProcessStatus {
            endpoint: id.to_owned(),
            running,
            healthy: running && ports.all(|t| healthy.contains(&t.name)),
            message: supervised.map(|s| s.message.clone()).unwrap_or_default(),
            restarts: supervised.map_or(0, |s| s.restarts),
        }
    }

    /// What a turn comes to: news at once, counters now and then.
    fn told(&mut self, status: &Status, is_settled: bool) -> Turn {
        let now_ms = self.host.now_ms();
        let result = wire::status(status);
        let counted = match self.counted.take() {
            Some((at_ms, counted)) if now_ms < at_ms + COUNTERS_MS => (at_ms, counted),
            _ => (now_ms, result.clone()),
        };
        let mut essence = wire::status(&status.essence()).to_vec();
        essence.extend_from_slice(&counted.1);
        self.counted = Some(counted);
        let is_calm = is_settled && status.links.iter().all(|l| l.up) && status.ports.iter().all(|p| p.up);
        let again = Some(if is_calm || status.router.state == State::Rendered { LOOK } else { LOOK_SOON });
        let told = Settled { result, essence, again };
        if is_settled { Turn::Settled(told) } else { Turn::Unsettled(told) }
    }

    /// Leaves nothing behind.
    async fn end(&mut self) -> Result<(), String> {
        self.questions.clear();
        self.management = None;
        let host = self.host.clone();
        let (router, processes) = self.memory.read(|facts| (facts.router.clone(), facts.processes.clone()));
        for running in processes.values().chain(&router) {
            process::end(host.as_ref(), running).await;
        }
        fs::remove_dir_all(&self.folder).map_err(|e| format!("{} cannot be removed: {e}", self.folder.display()))?;
        crate::durable::sync_folder(&self.folder).map_err(|e| e.to_string())
    }
}

fn profile_status(site: &Site, profile: &Profile, held: Option<&Held>, seen: &Seen) -> ProfileStatus {
    let held = held.cloned().unwrap_or_default();
    let (connections, older_connections) = seen.connections_of(site, &profile.name, &held);
    let leaf = held.leaf.as_ref();
    ProfileStatus {
        name: profile.name.clone(),
        edition: leaf.map_or(0, |leaf| leaf.edition),
        cuts: held.cuts,
        trust: profile.trust.iter().map(|der| muster_pki::sha256(der)).collect(),
        serial: leaf.map(|leaf| leaf.serial.clone()).unwrap_or_default(),
        not_after_ms: leaf.map_or(0, |leaf| leaf.not_after_ms),
        ordinal: held.ordinal,
        older_connections,
        connections,
    }
}

/// Remembers what a profile was told; none: nothing that can be relied on.
fn applied(memory: &Memory, profile: &str, told: Option<Attributes>) -> Result<(), Failure> {
    let written = memory.change(|facts| match told {
        Some(told) => drop(facts.applied.insert(profile.to_owned(), told)),
        None => drop(facts.applied.remove(profile)),
    });
    written.map_err(|e| Failure::Lost(format!("the state folder cannot be written: {e}")))
}

/// Whether a port could be bound; if not, a sentence why.
fn bindable(host: &str, port: u16) -> Result<(), String> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    match std::net::TcpListener::bind((host, port)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(format!("port {port} is taken by another program")),
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Err(format!("this host has no address {host}")),
        Err(e) => Err(format!("port {port} at {host} cannot be bound: {e}")),
    }
}
