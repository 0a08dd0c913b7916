//! A house of one controller and any number of agents, in one process, on ports the system chose.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use muster_agent::{
    blobs::Blobs,
    config::Config as AgentConfig,
    driver::{Driver, Kernel, work},
    host::Host,
    identity::Keeper,
    ledger::Ledger,
    link::{self, Link},
    spool::Spool,
    staging::WrapperFolder,
};
use muster_controller::{
    app,
    certificate::model::Lives,
    config::Config,
    fleet::{
        Fleet,
        model::{AgentId, Class, Labels},
        service::NewInvitation,
    },
    platform::{clock::Clock, events::Actor},
    staging::Staging,
};
use muster_proto::token;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{cable::Cable, host::FakeHost, processes::programs};

/// The longest anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One house.
pub struct World {
    /// Where everything lies.
    pub dir: TempDir,
    /// The controller's settings.
    pub config: Config,
    /// The controller's clock.
    pub clock: Clock,
    /// The controller.
    pub home: Home,
    /// How long certificates live.
    pub lives: Lives,
}

/// A running controller.
pub struct Home {
    /// Its fleet.
    pub fleet: Fleet,
    /// Its stagings.
    pub staging: Staging,
    /// Where agents reach it.
    pub address: SocketAddr,
    /// Where people and programs reach it.
    pub api: String,
    /// The first admin's password, at the first start.
    pub first_admin: Option<String>,
    running: Option<app::Running>,
}

/// An agent of a world.
pub struct Agent {
    /// Its identity.
    pub id: AgentId,
    /// Its host.
    pub host: Arc<FakeHost>,
    /// Its state folder.
    pub state: PathBuf,
    /// The cable between it and home.
    pub cable: Cable,
    config: AgentConfig,
    running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

/// Who acts in tests.
pub fn tester() -> Actor {
    Actor { name: "user/tester".into(), source: muster_controller::platform::events::Source::Api }
}

/// The engines to test on: SQLite always, PostgreSQL where `MUSTER_TEST_POSTGRES` names a server.
pub fn engines() -> Vec<Option<String>> {
    let mut engines = vec![None];
    engines.extend(std::env::var("MUSTER_TEST_POSTGRES").map(Some));
    engines
}

/// Waits until `what` gives something, and says what was waited for when it does not.
pub async fn eventually<T, F: Future<Output = Option<T>>>(why: &str, what: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// === impl World ===

impl World {
    /// A house on SQLite.
    pub async fn new() -> Self {
        Self::on(None).await
    }

    /// A house on the given engine.
    pub async fn on(server: Option<String>) -> Self {
        Self::with(server, Lives::default()).await
    }

    /// A house whose certificates live so long.
    pub async fn with(server: Option<String>, lives: Lives) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let database = match server {
            Some(server) => fresh_database(&server).await,
            None => format!("sqlite:{}", dir.path().join("muster.db").display()),
        };
        let clock = Clock::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::in_folder(&dir.path().join("home")).expect("a configuration");
        (config.database, config.lives, config.sample_seconds) = (database, lives, 1);
        (config.agents_listen, config.http_listen) = (any, any);
        let home = Home::start(config.clone(), &clock).await;
        Self { dir, config, clock, home, lives }
    }

    /// Stops the controller as a signal would, and starts another on the same data and port.
    pub async fn restart_home(&mut self) {
        self.stop_home().await;
        self.start_home().await;
    }

    /// Stops the controller as a signal would.
    pub async fn stop_home(&mut self) {
        self.config.agents_listen = self.home.address;
        self.home.stop().await;
    }

    /// Starts a controller where the last one was.
    pub async fn start_home(&mut self) {
        self.home = Home::start(self.config.clone(), &self.clock).await;
    }

    /// A copy of the database as it is, while the controller is stopped; its URL.
    pub async fn backup(&self) -> String {
        let Some(path) = self.config.database.strip_prefix("sqlite:") else {
            let (server, name) = self.config.database.rsplit_once('/').expect("a URL names a database");
            return eventually("nobody is connected to the database", || fresh_copy(server, name)).await;
        };
        let copy = self.dir.path().join("backup.db");
        std::fs::copy(path, &copy).expect("copied");
        format!("sqlite:{}", copy.display())
    }

    /// Puts a backup in place of the database, and says so as a person would.
    pub fn restore(&mut self, backup: String) {
        self.config.database = backup;
        let marked = std::process::Command::new(programs().join("muster-controller"))
            .arg("restore-mark")
            .env("MUSTER_DATA_DIR", &self.config.data_dir)
            .env("MUSTER_DATABASE", &self.config.database)
            .status();
        assert!(marked.expect("it starts").success());
    }

    /// Another controller over the same database.
    pub async fn replica(&self, name: &str) -> Home {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = self.config.clone();
        (config.data_dir, config.agents_listen, config.http_listen) = (self.dir.path().join(name), any, any);
        Home::start(config, &self.clock).await
    }

    /// A token for one agent of a class.
    pub async fn invite(&self, class: Class, labels: &Labels) -> String {
        self.invite_many(class, labels, 1).await
    }

    /// A token for some agents of a class.
    pub async fn invite_many(&self, class: Class, labels: &Labels, max_uses: i64) -> String {
        let new = NewInvitation {
            name: "test".into(),
            class,
            labels: labels.clone(),
            max_uses,
            life: 3_600_000,
            for_agent: None,
        };
        self.home.fleet.invite(&tester(), &new).await.expect("an invitation").1
    }

    /// A new agent that has joined and runs; its wrapper folder is called `test`.
    pub async fn agent(&self, name: &str, class: Class, labels: &[(&str, &str)]) -> Agent {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let token = self.invite(class, &labels).await;
        let mut agent = self.joined(name, &token).await.expect("enrolled");
        agent.start();
        self.online(&agent).await;
        agent
    }

    /// An agent that has joined and does not run.
    pub async fn joined(&self, name: &str, token: &str) -> anyhow::Result<Agent> {
        Agent::join(self.dir.path(), name, self.home.address, token).await
    }

    /// Waits until an agent's stream is open.
    pub async fn online(&self, agent: &Agent) {
        let is_online = || async { self.home.fleet.registry.line(&agent.id).filter(|l| l.epoch() > 0).map(drop) };
        eventually("the agent is online", is_online).await;
    }

    /// Waits until an agent's stream is gone.
    pub async fn gone(&self, agent: &Agent) {
        let is_gone = || async { self.home.fleet.registry.line(&agent.id).is_none().then_some(()) };
        eventually("the agent's stream is gone", is_gone).await;
    }
}

// === impl Home ===

impl Home {
    async fn start(config: Config, clock: &Clock) -> Self {
        let running = app::start(config, clock.clone()).await.expect("the controller starts");
        let (fleet, address, api) = (running.fleet.clone(), running.agents_addr, running.api_url.clone());
        let first_admin = running.first_admin.clone();
        Self { staging: Staging { fleet: fleet.clone() }, fleet, address, api, first_admin, running: Some(running) }
    }

    /// Stops it as a signal would.
    pub async fn stop(&mut self) {
        self.running.take().expect("it runs").stop().await;
    }

    /// Ends it as if killed: nobody is told.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Waits until an agent's stream is open here.
    pub async fn has(&self, agent: &Agent) {
        let is_here = || async { self.fleet.registry.line(&agent.id).filter(|l| l.epoch() > 0).map(drop) };
        eventually("the agent's stream is here", is_here).await;
    }
}

// === impl Agent ===

impl Agent {
    /// An agent that has joined the home at `far`, below `dir`, and does not run.
    pub async fn join(dir: &Path, name: &str, far: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let host = FakeHost::new(name);
        let state = dir.join(name);
        let cable = Cable::lay(far).await;
        let mut token = token::parse(token)?;
        token.homes = vec![cable.near.to_string()];
        let identity = muster_agent::identity::enroll(&state, &token, &muster_agent::host::Host::facts(&*host)).await?;
        let mut config = AgentConfig::for_state_dir(&state);
        config.homes = vec![cable.near.to_string()];
        // Its runs are counted, and a Python is asked at each start.
        config.experiment.python = PathBuf::new();
        let folder = WrapperFolder { path: "/wrappers".into(), ..WrapperFolder::default() };
        config.staging.wrappers = BTreeMap::from([("test".to_owned(), folder)]);
        Ok(Self { id: AgentId(identity.agent_id), host, state, cable, config, running: None })
    }

    /// Starts it.
    pub fn start(&mut self) {
        let stop = CancellationToken::new();
        let run = muster_agent::app::run(self.config.clone(), self.host.clone(), stop.clone());
        self.running = Some((stop, tokio::spawn(run)));
    }

    /// Starts it put together by hand, so that a test can speak through its spool.
    pub fn start_open(&mut self) -> Arc<Kernel> {
        self.start_with(Vec::new())
    }

    /// The same with drivers of the test's own.
    pub fn start_with(&mut self, own: Vec<Arc<dyn Driver>>) -> Arc<Kernel> {
        let state = &self.state;
        let keeper = Arc::new(Keeper::open(state).expect("an identity"));
        let ledger = Ledger::open(state, self.host.now_ms()).expect("a ledger").ledger;
        let spool = Spool::open(state, self.config.spool_bytes, &[], []).expect("a spool");
        let blobs = Arc::new(Blobs::open(state, self.config.blobs_bytes).expect("blobs"));
        let mut drivers = muster_agent::staging::drivers(&self.config.staging, self.host.clone(), state.clone());
        drivers.extend(own);
        let (host, accept) = (self.host.clone(), self.config.accept.kinds.clone());
        let kernel = Arc::new(Kernel::new(ledger, spool.into(), blobs, host, drivers, accept, state.clone()));
        let stop = CancellationToken::new();
        let (report, _) = watch::channel(link::Report::default());
        let (homes, most) = (self.config.homes.clone(), self.config.reconnect_seconds);
        let link = Link::new(kernel.clone(), keeper, homes, most, report).run(stop.clone());
        let (working, stopping) = (kernel.clone(), stop.clone());
        let run = async move {
            tokio::join!(work::run(working, stopping, || ()), link);
            Ok(())
        };
        self.running = Some((stop, tokio::spawn(run)));
        kernel
    }

    /// Stops it as a signal would.
    pub async fn stop(&mut self) {
        let (stop, task) = self.running.take().expect("it runs");
        stop.cancel();
        tokio::time::timeout(PATIENCE, task).await.expect("it stops").expect("without a panic").expect("well");
    }

    /// Stops it as a power cut would: nothing is said any more.
    pub async fn kill(&mut self) {
        let (_, task) = self.running.take().expect("it runs");
        self.cable.freeze();
        task.abort();
        let _ = task.await;
    }

    /// Another agent with a copy of everything this one has.
    pub fn clone_to(&self, name: &str) -> Self {
        let state = self.state.with_file_name(name);
        copy_folder(&self.state, &state);
        let mut config = self.config.clone();
        config.state_dir.clone_from(&state);
        Self { id: self.id.clone(), host: FakeHost::new(name), state, cable: self.cable.clone(), config, running: None }
    }

    /// Changes its configuration for the next start.
    pub fn configure(&mut self, change: impl FnOnce(&mut AgentConfig)) {
        change(&mut self.config);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.abort();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

async fn fresh_database(server: &str) -> String {
    let (base, _) = server.rsplit_once('/').expect("a server's URL names a database");
    fresh_copy(base, "template1").await.expect("a database is made")
}

/// A database that is a copy of another; none while somebody is connected to that.
async fn fresh_copy(base: &str, template: &str) -> Option<String> {
    use sqlx::Connection;
    sqlx::any::install_default_drivers();
    let name = format!("world_{}", muster_pki::hex(&muster_pki::random::<8>()));
    let mut conn = sqlx::AnyConnection::connect(&format!("{base}/postgres")).await.expect("the server answers");
    let create = sqlx::AssertSqlSafe(format!("create database {name} template {template}"));
    sqlx::query(create).execute(&mut conn).await.ok()?;
    Some(format!("{base}/{name}"))
}
