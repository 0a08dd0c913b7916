//! Keeping a site: observe, plan, apply, observe again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use muster_proto::KIND_NETWORK_SITE;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep},
};

use super::{
    Settings,
    board::Board,
    leaves::Leaves,
    management::{Failure, Management},
    memory::{Ground, Memory},
    model::{Attributes, Entity, Kind, Listener, Local, Site, Value},
    observe::{self, Seen, State, Status},
    plan::{self, Action, Contested},
    process::{self, Patience, Running},
    profile::{Own, slug},
    router::{self, Stand},
    supervise::Processes,
    wire,
};
use crate::{
    driver::{Act, Capability, Driver, Pages, Settled, Standing, Turn},
    host::Host,
    ledger::{Assignment, Group, Key, Refused},
    spool::Spool,
};

/// How often a site is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The same while something is about to change.
const LOOK_SOON: Duration = Duration::from_millis(300);

/// From a router's start to its first answer.
const START: Duration = Duration::from_secs(4);

/// A router that says nothing for this long is ended and started anew.
const SILENCE: Duration = Duration::from_secs(30);

/// How often a port that is to become free is looked at, and how many times.
const FREE_LOOK: Duration = Duration::from_millis(20);
const FREE_LOOKS: u32 = 50;

/// Counters alone are told this often, milliseconds.
const COUNTERS_MS: i64 = 60_000;

/// The driver of `network.site`.
pub struct Sites {
    settings: Settings,
    pub(super) host: Arc<dyn Host>,
    pub(super) spool: Arc<Spool>,
    folder: PathBuf,
    /// What was seen of the sites, for people.
    pub(super) board: Board,
    keepers: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Keeper>>>>,
}

/// Keeps one site.
struct Keeper {
    ground: Arc<Ground>,
    leaves: Leaves,
    processes: Processes,
    own: Own,
    /// Programs of this site that nobody remembers having started.
    strays: Vec<Group>,
    management: Option<Management>,
    patience: Patience,
    silent_since: Option<Instant>,
    contested: Contested,
    links: BTreeMap<String, (bool, i64)>,
    counted: Option<(i64, Bytes)>,
    problems: Vec<String>,
}

// === impl Sites ===

impl Sites {
    /// The driver; sites have their folders below `folder`.
    pub fn new(settings: Settings, host: Arc<dyn Host>, spool: Arc<Spool>, folder: PathBuf) -> Self {
        Self { settings, host, spool, folder, board: Board::default(), keepers: Mutex::default() }
    }

    fn keeper(&self, key: &Key) -> Result<Arc<tokio::sync::Mutex<Keeper>>, String> {
        let mut keepers = self.keepers.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(keeper) = keepers.get(&key.id) {
            return Ok(keeper.clone());
        }
        let folder = self.folder.join(slug(&key.id));
        let cannot = |e: io::Error| format!("{} cannot be used: {e}", folder.display());
        let memory = Memory::open(&folder).map_err(cannot)?;
        let own = Own::open(&folder, self.host.now_ms())?;
        // What is not remembered and runs all the same was started before the memory was lost.
        let is_blank = memory.read(|facts| facts.router.is_none() && facts.processes.is_empty());
        let folders = ["run", "processes"].map(|name| folder.join(name));
        let strays = folders.iter().filter(|_| is_blank).flat_map(|folder| self.host.groups_in(folder)).collect();
        let ground = Arc::new(Ground { settings: self.settings.clone(), host: self.host.clone(), folder, memory });
        let keeper = Keeper {
            leaves: Leaves::new(ground.clone(), self.spool.clone(), key.clone()),
            processes: Processes::new(ground.clone()),
            ground,
            own,
            strays,
            management: None,
            patience: Patience::default(),
            silent_since: None,
            contested: Contested::default(),
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

    fn pages(&self) -> Option<&dyn Pages> {
        Some(self)
    }
}

impl Standing for Sites {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async move {
            let site = match wire::site(&assignment.document) {
                Ok(site) => site,
                Err(refused) => return Turn::Failed(refused.message),
            };
            let turn = match self.keeper(&assignment.key) {
                Ok(keeper) => keeper.lock().await.turn(&site).await,
                Err(why) => Err(why),
            };
            let now_ms = self.host.now_ms();
            match turn {
                Ok((status, turn)) => {
                    self.board.post(&assignment.key, &site, status, now_ms);
                    turn
                }
                Err(why) => {
                    self.board.post_failure(&assignment.key, &site, &why, now_ms);
                    Turn::Failed(why)
                }
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
            self.board.remove(&assignment.key);
            Turn::Settled(Settled::default())
        })
    }
}

// === impl Keeper ===

impl Keeper {
    async fn turn(&mut self, site: &Site) -> Result<(Status, Turn), String> {
        self.problems.clear();
        for stray in std::mem::take(&mut self.strays) {
            tracing::warn!(pid = stray.pgid, "a program of a site that is not remembered is ended");
            self.ground.host.end_group(&stray).await;
        }
        let materials = self.leaves.materials(site, &mut self.problems).await?;
        self.processes.supervise(site).await;
        let healthy = self.processes.probe(site).await;
        let wanted = plan::wanted(site, &materials, &healthy, &self.taken(site));
        let cannot = |folder: &Path, e: io::Error| format!("{} cannot be written: {e}", folder.display());
        let kept = self.keep_router(site, &wanted).await;
        let (state, running) = kept.map_err(|e| cannot(&self.ground.folder, e))?;
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
            self.leaves.tidy(site);
        }
        let status = self.status(site, state, running.as_ref(), &seen, &healthy);
        let turn = self.told(&status, is_equal && !lacks);
        Ok((status, turn))
    }

    /// The listeners whose ports somebody else has.
    fn taken(&self, site: &Site) -> BTreeSet<String> {
        let running = self.ground.memory.read(|facts| facts.router.clone());
        let listens = running.map(|r| self.ground.host.listens_on(&r.group())).unwrap_or_default();
        let seen = Seen { listens, ..Seen::default() };
        let is_taken = |l: &&Listener| !seen.listens_at(&l.host, l.port) && bindable(&l.host, l.port).is_err();
        site.listeners.iter().filter(is_taken).map(|l| l.name.clone()).collect()
    }

    /// Writes the start-up file and sees to it that a router runs by it. A process that is there and was not asked yet
    /// counts as starting.
    async fn keep_router(&mut self, site: &Site, wanted: &[Entity]) -> io::Result<(State, Option<Running>)> {
        let host = self.ground.host.clone();
        let port = router::port(host.as_ref(), &self.ground.memory)?;
        let local = Local { port, material: self.own.material.clone() };
        let (file, log) = (self.ground.folder.join("router.json"), self.ground.folder.join("router.log"));
        router::write_file(&file, &plan::start_file(site, &local, wanted))?;
        let with = serde_json::to_string(&plan::base(site)).map_err(io::Error::other)?;
        let told = wanted.iter().filter(|e| e.kind == Kind::SslProfile);
        let profiles = told.map(|e| (e.name.clone(), e.attributes.clone())).collect();
        let start = router::Start { with: &with, file: &file, log: &log, profiles };
        let program = router::program(self.ground.settings.router.as_deref());
        process::cut_log(&log);
        let stand =
            router::keep(host.as_ref(), program.as_deref(), &self.ground.memory, &mut self.patience, start).await;
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
        while self.management.is_none() && Instant::now() < deadline && self.ground.host.is_alive(&running.group()) {
            match self.connect().await {
                Ok(()) => {}
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.management.is_none() {
            let port = self.ground.memory.read(|facts| facts.port);
            self.management = Some(Management::connect(port, self.own.tls.clone()).await?);
        }
        Ok(())
    }

    /// What a router that did not answer is taken for; one that is silent for long is ended.
    async fn unanswered(&mut self, running: &Running, failure: &Failure) -> State {
        let host = self.ground.host.clone();
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
            if bindable(&host, port).is_ok() && self.ground.host.now_ms() - running.started_ms > 2000 {
                observed.iter_mut().filter(|e| e.kind == kind && e.name == name).for_each(|e| {
                    e.attributes.insert("port".into(), Value::Null);
                });
            }
        }
        let applied = self.ground.memory.read(|facts| facts.applied.clone());
        let now_ms = self.ground.host.now_ms();
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
        let applied = self.ground.memory.read(|facts| facts.applied.clone());
        let rest = plan::plan(wanted, &seen.entities, &applied);
        Ok((seen, rest.is_empty()))
    }

    async fn look(&mut self, site: &Site, running: &Running) -> Result<Seen, Failure> {
        let management = self.management.as_mut().ok_or_else(|| Failure::Lost("not connected".into()))?;
        let mut seen = observe::look(management, site.mode).await?;
        seen.listens = self.ground.host.listens_on(&running.group());
        Ok(seen)
    }

    /// Does one step. A refusal is a problem and no reason to leave the others out.
    async fn carry_out(&mut self, action: &Action) -> Result<(), Failure> {
        if let Action::Create(entity) = action
            && entity.kind == Kind::Listener
            && let Err(why) = await_port(&entity.attributes).await
        {
            self.problems.push(format!("{}: {why}", entity.name));
            return Ok(());
        }
        let management = self.management.as_mut().ok_or_else(|| Failure::Lost("not connected".into()))?;
        let (done, name) = match action {
            Action::Delete { kind, name } => (management.delete(*kind, name).await, name),
            Action::Create(entity) => (management.create(entity).await, &entity.name),
            Action::Update(entity) => {
                if entity.kind == Kind::SslProfile {
                    // Until the router took it, nothing it shows of this profile can be believed.
                    applied(&self.ground.memory, &entity.name, None)?;
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
                applied(&self.ground.memory, &entity.name, Some(entity.attributes.clone()))
            }
            Action::Delete { kind: Kind::SslProfile, name } => applied(&self.ground.memory, name, None),
            _ => Ok(()),
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
        let mut status = Status {
            router,
            profiles: self.leaves.status(site, seen),
            processes: self.processes.status(site, healthy),
            reachable: seen.reachable(&site.router),
            problems: std::mem::take(&mut self.problems),
            ..Status::default()
        };
        if state == State::Running {
            status.links = site.connectors.iter().map(|c| seen.link(c)).collect();
            status.ports = site.listeners.iter().map(|l| seen.listener(l, bindable)).collect();
            let listeners = site.tcp_listeners.iter().filter(|t| site.is_wanted(&t.endpoint));
            status.ports.extend(listeners.map(|t| seen.tcp_listener(t, bindable)));
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
        observe::since(&mut status.links, &mut self.links, self.ground.host.now_ms());
        status
    }

    /// What a turn comes to: news at once, counters now and then.
    fn told(&mut self, status: &Status, is_settled: bool) -> Turn {
        let now_ms = self.ground.host.now_ms();
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
        self.management = None;
        let host = self.ground.host.clone();
        let (router, processes) = self.ground.memory.read(|facts| (facts.router.clone(), facts.processes.clone()));
        for running in processes.values().chain(&router) {
            process::end(host.as_ref(), running, &self.ground.folder).await;
        }
        fs::remove_dir_all(&self.ground.folder)
            .map_err(|e| format!("{} cannot be removed: {e}", self.ground.folder.display()))?;
        crate::durable::sync_folder(&self.ground.folder).map_err(|e| e.to_string())
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

/// Waits a moment for the port of a listener to become free: the router gives one up some time after it said so.
async fn await_port(listener: &Attributes) -> Result<(), String> {
    let port = listener.get("port").and_then(Value::number).and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let host = observe::text(listener, "host");
    for _ in 0..FREE_LOOKS {
        if bindable(&host, port).is_ok() {
            return Ok(());
        }
        sleep(FREE_LOOK).await;
    }
    bindable(&host, port)
}

/// Whether a port could be bound; if not, a sentence why. It is bound and never listened at, so that a router that takes
/// it in the same moment is not in its way.
fn bindable(host: &str, port: u16) -> Result<(), String> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let address =
        (host, port).to_socket_addrs().and_then(|mut found| found.next().ok_or(io::ErrorKind::NotFound.into()));
    let bound = address.and_then(|address| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    });
    match bound {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(format!("port {port} is taken by another program")),
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Err(format!("this host has no address {host}")),
        Err(e) => Err(format!("port {port} at {host} cannot be bound: {e}")),
    }
}
