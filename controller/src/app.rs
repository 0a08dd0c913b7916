//! The composition root: the only file that names all domains, and the order in which a controller comes up and goes down.

mod chores;
mod listeners;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
};
use http::{Method, header};
use muster_pki::seal::SealKey;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use utoipa::openapi::{
    InfoBuilder, OpenApi, OpenApiBuilder, RefOr, Schema,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{
    access::{self, Access},
    certificate::{self, Certificates, Rotation},
    config::{Config, HttpTls},
    domain::{Context, Domain, Entry, Ground, Loop, Processors, Running as RunningLoop},
    error::{Error, Result},
    fleet::{self, Dispatch, Fleet, Pulse, Surroundings, listen::Rate},
    ops::{self, Ops},
    platform::{
        blobs::Blobs,
        clock::Clock,
        db::{Db, Engine},
        id,
        jobs::Worker,
        lease,
        wake::{Activator, Wake},
    },
    web::{self, Gate, NavItem, Policy, Role, Routes},
};

/// The domains, one line each.
pub const DOMAINS: &[Entry] = &[
    // A domain is taken out by its line.
    crate::experiment::ENTRY,
    crate::network::ENTRY,
    crate::staging::ENTRY,
];

/// Pause between the waves in which agents are sent home at a stop.
const WAVE: Duration = Duration::from_millis(200);

/// After they were told to leave, agents may take this long.
const FAREWELL: Duration = Duration::from_secs(5);

/// A controller under way. Dropped without [`stop`](Self::stop), it ends as if killed: nobody is told.
#[derive(Debug)]
pub struct Running {
    /// Where people reach it.
    pub api_url: String,
    /// Where the API and the console listen.
    pub http_addr: SocketAddr,
    /// Where agents are accepted.
    pub agents_addr: SocketAddr,
    /// The one-time password of `admin`, if this was the first start.
    pub first_admin: Option<String>,
    /// The fleet, for tests that look inside.
    pub fleet: Fleet,
    db: Db,
    ends: Ends,
    /// The two ports.
    ports: Vec<JoinHandle<()>>,
    _guard: DropGuard,
    /// Given back when the controller has ended.
    _lock: std::fs::File,
}

/// What is stopped, in this order.
#[derive(Debug, Clone, Default)]
struct Ends {
    people: CancellationToken,
    agents: CancellationToken,
    loops: CancellationToken,
}

/// Opens the database and brings it up to date: what the subcommands share with [`start`].
pub async fn open(config: &Config, clock: Clock) -> Result<Db> {
    make_private_folder(&config.data_dir)?;
    let db = Db::open(&config.database, Wake::default(), clock).await?;
    db.migrate().await?;
    Ok(db)
}

/// Starts a controller. It is ready when this returns: both ports are bound, every loop has begun.
pub async fn start(config: Config, clock: Clock) -> Result<Running> {
    config.check()?;
    make_private_folder(&config.data_dir)?;
    let lock = lock(&config.data_dir)?;
    let db = open(&config, clock).await?;
    let seal: Arc<SealKey> = seal_key(&config)?.into();
    let certificates = Certificates::open(db.clone(), seal.clone(), &config.trust_domain, config.lives).await?;
    let agents_port = bind("agents_listen", config.agents_listen).await?;
    let http_port = bind("http_listen", config.http_listen).await?;
    let (agents_addr, http_addr) = (local(&agents_port)?, local(&http_port)?);

    let replica = replica_id(&config.data_dir, db.clock().now())?;
    let host = host_name();
    let scheme = if config.http_tls == HttpTls::Off { "http" } else { "https" };
    let api_url = if config.url.is_empty() { format!("{scheme}://{http_addr}") } else { config.url.clone() };
    let homes = if config.homes.is_empty() { vec![home(agents_addr, &host)] } else { config.homes.clone() };
    let sample_seconds = config.sample_seconds;
    let around = Surroundings { replica: replica.clone(), homes, url: api_url.clone(), sample_seconds };

    let blobs = Blobs::open(&config.blobs)?;
    let ground = Ground { db: db.clone(), certificates: certificates.clone(), blobs: blobs.clone() };
    let asks = DOMAINS.iter().flat_map(|entry| (entry.asks)(&ground)).collect();
    let fleet = Fleet::new(db.clone(), certificates.clone(), blobs.clone(), around, asks);
    let access = Access::new(db.clone());
    let context = Context {
        db: db.clone(),
        fleet: fleet.clone(),
        blobs: blobs.clone(),
        access: access.clone(),
        processors: Processors { pre: config.preprocessors.clone(), post: config.postprocessors.clone() },
        environment_days: config.environment_days,
    };
    let domains = merge(DOMAINS.iter().map(|entry| (entry.open)(&context)));
    let first_admin = access.found().await?;

    let ends = Ends::default();
    let guard = CancellationToken::new();
    let ops = Ops { fleet: fleet.clone(), loops: Arc::new(OnceLock::new()), stop: ends.people.clone() };
    let Domain { routes, pages, nav, cards, loops, jobs, manifests } = domains;
    let surface = Surface { access: access.clone(), ops: ops.clone(), routes: routes.merge(pages), cards, manifests };
    let (router, health) = surface.router(Gate {
        db: db.clone(),
        seal,
        authenticate: Arc::new(access.clone()),
        hosts: [config.hosts.clone(), vec![host.to_ascii_lowercase()]].concat(),
        secure: config.is_secure(),
        behind_proxy: config.behind_proxy,
        nav: navigation(nav),
        stop: ends.people.clone(),
    });

    let listeners = listeners::Listeners::open(&certificates, &config, (&replica, &host), db.clock().clone()).await?;
    let (agents_tls, http_tls) = (listeners.agents.subscribe(), listeners.http.as_ref().map(watch::Sender::subscribe));
    fleet.refresh_settings().await?;
    fleet.expect_back().await?;

    let wake = db.wake();
    let pulse = Pulse::new(fleet.clone());
    // The registry wakes this loop itself when a stream opens or ends.
    let pulse = Loop::new("pulse", pulse, fleet.registry.changed.clone());
    let rotation = Rotation { certificates: certificates.clone(), db: db.clone(), holder: replica.clone() };
    let mut runners = chores::periodic(&db, &access, &blobs, config.event_retention_days).await?;
    runners.extend(jobs);
    let worker = Worker { db: db.clone(), holder: replica, runners };
    let mut all = vec![
        pulse,
        Loop::new("dispatch", Dispatch::new(fleet.clone()), fleet.dispatch_activator()),
        Loop::new("certificates", rotation, wake.listen(&["certificate"])),
        Loop::new("listeners", listeners, Activator::default()),
        Loop::new("jobs", worker, wake.listen(&["jobs"])),
    ];
    all.extend(loops);
    let begun: Vec<_> = all.into_iter().map(|l| l.begin(ends.loops.clone())).collect();
    for running in &begun {
        running.begun().await;
    }
    ops.loops.set(begun).expect("the loops begin once");

    if let Some(grace) = sd_notify::watchdog_enabled() {
        spawn(&guard, feed_watchdog(ops.clone(), grace));
    }
    spawn(&guard, report_health(ops, health));
    let answering = web::serve::serve(http_port, http_tls, router, ends.people.clone());
    let mut ports = vec![spawn(&guard, log("the API's port", answering))];
    let rate = Rate { per_second: config.accept_per_second, burst: config.accept_burst };
    let (served, stop) = (fleet.clone(), ends.agents.clone());
    let serving = async move { served.serve(agents_port, agents_tls, rate, stop).await };
    ports.push(spawn(&guard, log("the agents' port", serving)));
    if db.engine() == Engine::Postgres {
        spawn(&guard, hear_others(db.clone()));
    }
    let status = format!("{api_url}, agents at {agents_addr}");
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
    tracing::info!(api = api_url, agents = %agents_addr, "the controller is ready");
    Ok(Running {
        api_url,
        http_addr,
        agents_addr,
        first_admin,
        fleet,
        db,
        ends,
        ports,
        _guard: guard.drop_guard(),
        _lock: lock,
    })
}

// === impl Running ===

impl Running {
    /// Stops gracefully: people's live streams end, agents are sent home in waves, then everything ends.
    pub async fn stop(mut self) {
        notify(&[sd_notify::NotifyState::Stopping, sd_notify::NotifyState::Status("sending agents home")]);
        self.ends.people.cancel();
        self.fleet.registry.drain(WAVE, "the controller stops").await;
        let gone = async {
            while !self.fleet.registry.lines().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
        self.ends.agents.cancel();
        for line in self.fleet.registry.lines() {
            line.kill.kill();
        }
        let _ = tokio::time::timeout(FAREWELL, futures::future::join_all(self.ports.drain(..))).await;
        self.ends.loops.cancel();
        // A round under way may take one again, which then lapses.
        if let Err(error) = lease::release(&self.db, &self.fleet.replica).await {
            tracing::warn!(%error, "the leases were not let go; they lapse");
        }
        self.db.close().await;
    }

    /// Runs until one of the ports fails, which they do not of themselves.
    pub async fn failed(&mut self) {
        let _ = futures::future::select_all(self.ports.iter_mut()).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ends.people.cancel();
        self.ends.agents.cancel();
        self.ends.loops.cancel();
        for line in self.fleet.registry.lines() {
            line.kill.kill();
        }
    }
}

impl RunningLoop {
    /// Waits until the first round has ended.
    async fn begun(&self) {
        while self.turn() == crate::domain::Turn::Waiting {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

// === what people reach ===

/// What the router is made of.
struct Surface {
    access: Access,
    ops: Ops,
    routes: Routes,
    cards: Vec<web::home::Card>,
    manifests: Vec<web::ManifestKind>,
}

/// The navigation: the fleet, what the domains bring, and the house itself.
fn navigation(domains: Vec<NavItem>) -> Vec<NavItem> {
    let fleet = vec![
        NavItem { label: "Fleet", href: "/fleet", role: Role::Viewer },
        NavItem { label: "Invitations", href: "/invitations", role: Role::Viewer },
    ];
    let house = vec![
        NavItem { label: "Certificates", href: "/certificates", role: Role::Operator },
        NavItem { label: "Events", href: "/events", role: Role::Viewer },
        NavItem { label: "Users", href: "/users", role: Role::Admin },
    ];
    [fleet, domains, house].concat()
}

impl Surface {
    fn all(self, described: Arc<OnceLock<String>>) -> (Routes, tonic_health::server::HealthReporter) {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(muster_proto::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the descriptors were made by the build");
        let fleet = self.ops.fleet.clone();
        let pki = certificate::api::Api {
            db: fleet.db.clone(),
            certificates: fleet.certificates.clone(),
            replica: fleet.replica.to_string(),
        };
        let kit: Routes = Routes::new()
            .plain("/assets/{file}", Policy::public(), web::assets::serve)
            .page(Method::POST, "/theme", Policy::public().before_change(), web::page::set_theme)
            .plain("/api/docs", Policy::public(), || async { axum::response::Redirect::to("/api/docs/") })
            .plain("/api/docs/", Policy::public(), || docs(UrlPath(String::new())))
            .plain("/api/docs/{*rest}", Policy::public(), docs)
            .grpc("/grpc.health.v1.Health/{method}", Policy::public(), health_service)
            .grpc("/grpc.reflection.v1.ServerReflection/{method}", Policy::public(), reflection);
        let described = Routes::new().plain("/api/v1/openapi.json", Policy::public(), describe).with_state(described);
        let all = kit
            .merge(described)
            .merge(ops::routes(self.ops))
            .merge(access::pages::routes(self.access.clone()))
            .merge(access::routes(self.access))
            .merge(web::home::routes([vec![fleet::pages::card(fleet.clone())], self.cards].concat()))
            .merge(fleet::pages::routes(fleet.clone()))
            .merge(fleet::api::routes(fleet))
            .merge(certificate::pages::routes(pki.certificates.clone()))
            .merge(certificate::api::routes(pki))
            .merge(web::history::routes())
            .merge(web::manifest::routes(self.manifests))
            .merge(self.routes);
        (all, health)
    }

    fn router(self, gate: Gate) -> (Router, tonic_health::server::HealthReporter) {
        let described = Arc::new(OnceLock::new());
        let (all, health) = self.all(described.clone());
        let (router, api) = all.split();
        described.set(text_of(&complete(api))).expect("the API is described once");
        (web::serve::dress(router, Arc::new(gate)), health)
    }
}

/// The API's description, for programs.
async fn describe(State(described): State<Arc<OnceLock<String>>>) -> Response {
    match described.get() {
        Some(api) => ([(header::CONTENT_TYPE, "application/json")], api.clone()).into_response(),
        None => Error::not_found("file", "openapi.json").into_response(),
    }
}

/// The API's description, for people.
async fn docs(UrlPath(rest): UrlPath<String>) -> Response {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/api/v1/openapi.json"));
    match utoipa_swagger_ui::serve(&rest, config) {
        Ok(Some(file)) => ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response(),
        Ok(None) => Error::not_found("file", rest).into_response(),
        Err(error) => Error::internal(anyhow::anyhow!("{error}")).into_response(),
    }
}

fn text_of(api: &OpenApi) -> String {
    let text = serde_json::to_string_pretty(api).expect("a description is plain data");
    text + "\n"
}

/// What the routes do not say of themselves.
fn complete(api: OpenApi) -> OpenApi {
    let info = InfoBuilder::new()
        .title("Muster")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("One control plane for fleets of hosts that nobody can dial into."));
    let mut whole = OpenApiBuilder::from(api).info(info).build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API token: muster_…")).build();
    let components = whole.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    // What is part of something else cannot forbid that to hold more than the part.
    let parts = |schema: &RefOr<Schema>| match schema {
        RefOr::T(Schema::AllOf(all)) => all.items.clone(),
        _ => Vec::new(),
    };
    let parts: Vec<_> = components.schemas.values().flat_map(parts).collect();
    for part in parts {
        if let RefOr::Ref(named) = part
            && let Some(name) = named.ref_location.rsplit('/').next()
            && let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name)
        {
            object.additional_properties = None;
        }
    }
    whole
}

fn merge(domains: impl Iterator<Item = Domain>) -> Domain {
    domains.fold(Domain::default(), |mut all, one| {
        all.routes = all.routes.merge(one.routes);
        all.pages = all.pages.merge(one.pages);
        all.nav.extend(one.nav);
        all.cards.extend(one.cards);
        all.loops.extend(one.loops);
        all.jobs.extend(one.jobs);
        all.manifests.extend(one.manifests);
        all
    })
}

// === background ===

/// The watchdog is fed while rounds of every loop end: one that hangs starves it. Each has as much time beyond its own
/// as the service manager gives before it takes the controller for dead.
async fn feed_watchdog(ops: Ops, grace: Duration) {
    loop {
        let now = Instant::now();
        match ops.loops.get().into_iter().flatten().find(|running| running.hangs(now, grace)) {
            None => notify(&[sd_notify::NotifyState::Watchdog]),
            Some(running) => tracing::error!(name = running.name, "a loop hangs; the watchdog is not fed"),
        }
        tokio::time::sleep(grace / 2).await;
    }
}

/// Tells gRPC clients what `/readyz` tells others.
async fn report_health(ops: Ops, health: tonic_health::server::HealthReporter) {
    loop {
        let ready = ops.is_ready().await;
        let status = if ready { tonic_health::ServingStatus::Serving } else { tonic_health::ServingStatus::NotServing };
        health.set_service_status("", status).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// On PostgreSQL: wakes this replica when another has committed.
async fn hear_others(db: Db) {
    loop {
        if let Err(error) = listen(&db).await {
            tracing::warn!(%error, "other replicas are not heard; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(db: &Db) -> Result<(), sqlx::Error> {
    let mut listener = sqlx::postgres::PgListener::connect(db.url()).await?;
    listener.listen("muster").await?;
    // What was said before is read from the database.
    db.wake().committed_elsewhere("");
    while let Some(said) = listener.try_recv().await? {
        db.wake().committed_elsewhere(said.payload());
    }
    Ok(())
}

/// Runs a task until the controller ends, however it ends.
fn spawn(guard: &CancellationToken, run: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let ended = guard.clone().cancelled_owned();
    tokio::spawn(async move {
        tokio::select! {
            () = run => {}
            () = ended => {}
        }
    })
}

async fn log(what: &str, run: impl Future<Output = Result<()>>) {
    if let Err(error) = run.await {
        tracing::error!(%error, "{what} failed");
    }
}

/// Without a service manager nobody listens, which is no error.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

// === the machine ===

async fn bind(field: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| Error::invalid(field, format!("cannot listen on {address}: {e}")))
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(Error::internal)
}

/// Where agents find this host when nobody said.
fn home(address: SocketAddr, host: &str) -> String {
    if address.ip().is_unspecified() { format!("{host}:{}", address.port()) } else { address.to_string() }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

/// One controller a data folder: held for as long as the file is.
pub fn lock(data_dir: &Path) -> Result<std::fs::File> {
    let path = data_dir.join("lock");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| Error::Conflict(format!("{} cannot be opened: {e}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::Conflict(format!("another controller runs on {}; stop it, or name another data_dir", data_dir.display()))
    })?;
    Ok(file)
}

/// The name of this replica, the same after a restart: what the one before held, its leases and its agents' streams, is
/// this one's at once.
fn replica_id(data_dir: &Path, now: i64) -> Result<String> {
    let path = data_dir.join("replica-id");
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let fresh = id::fresh(now);
    write_private(&path, fresh.as_bytes())?;
    Ok(fresh)
}

/// Reads the key that seals; makes one in the data folder at the first start.
fn seal_key(config: &Config) -> Result<SealKey> {
    let path = &config.seal_key;
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.starts_with(&config.data_dir) => {
            let fresh = SealKey::generate();
            write_private(path, &fresh)?;
            fresh.to_vec()
        }
        Err(error) => return Err(Error::invalid("seal_key", format!("{} cannot be read: {error}", path.display()))),
    };
    parse_seal_key(&bytes).map(|key| SealKey::new(&key)).ok_or_else(|| {
        let text = format!("{} holds neither 32 bytes nor 64 hexadecimal characters", path.display());
        Error::invalid("seal_key", text)
    })
}

fn parse_seal_key(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(raw) = bytes.try_into() {
        return Some(raw);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok());
    pairs.collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn make_private_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::invalid("data_dir", format!("{} cannot be made: {e}", path.display())))
}

/// Writes a file that only its owner reads, durably.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::internal(anyhow::Error::from(e).context(format!("cannot write {}", path.display()))))
}

#[cfg(test)]
mod tests;
