//! The composition of one agent. Nothing here is global: a process may run as many agents as it has state folders.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use tokio::{
    sync::watch,
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::experiment;
use crate::{
    blobs::Blobs,
    config::Config,
    console::{self, Console},
    driver::{Driver, Kernel, work},
    durable,
    host::Host,
    identity::Keeper,
    ledger::Ledger,
    link::{self, Link},
    network,
    settings::Settings,
    spool::Spool,
    staging,
    status::Status,
};

const STATUS_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// While samples are off, the wish for them is looked at this often.
const SAMPLE_LOOK: Duration = Duration::from_secs(30);

/// What a running agent tells whoever started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// The identity is loaded and the work loop turns.
    Ready,
    /// The work loop turned.
    Turn,
    /// How it fares, in a line.
    Status(String),
}

/// Runs an agent until `stop`. Once work under way is then ended as interrupted and what can still be said is said.
///
/// # Errors
/// The state folder has no identity, cannot be used, or is in use.
pub async fn run(config: Config, host: Arc<dyn Host>, stop: CancellationToken) -> anyhow::Result<()> {
    run_observed(config, host, stop, |_| ()).await
}

/// Runs an agent and tells how it fares.
pub async fn run_observed(
    config: Config,
    host: Arc<dyn Host>,
    stop: CancellationToken,
    tell: impl Fn(Sign) + Send + Sync,
) -> anyhow::Result<()> {
    let state_dir = config.state_dir.clone();
    durable::folder(&state_dir).with_context(|| format!("the state folder {} cannot be made", state_dir.display()))?;
    // Many agents in one process keep their descriptors for connections and see to their folders themselves.
    let _lock = config.status_file.then(|| lock(&config)).transpose()?;
    let keeper = Arc::new(Keeper::open(&state_dir)?);
    let sample_seconds = Arc::new(AtomicU32::new(0));
    let kernel = Arc::new(kernel(&config, host, &keeper, &sample_seconds).await?);
    let (report, seen) = watch::channel(link::Report::default());
    let last = seen.clone();
    let (console_report, console_seen) = watch::channel(console::Report::default());
    let console_last = console_seen.clone();
    let agent_id = keeper.current().identity.agent_id;
    let console = Console::new(kernel.clone(), agent_id, seen.clone(), config.console.clone(), console_report);
    let link_stop = CancellationToken::new();
    let (homes, most) = (config.homes.clone(), config.reconnect_seconds);
    let link = Link::new(kernel.clone(), keeper.clone(), homes, most, report).run(link_stop.clone());
    let mut is_ready = false;
    let working = async {
        let beat = || {
            if !std::mem::replace(&mut is_ready, true) {
                tell(Sign::Ready);
            }
            tell(Sign::Turn);
        };
        work::run(kernel.clone(), stop.clone(), beat).await;
        // The link goes last: it has outcomes to bring home.
        link_stop.cancel();
    };
    let chores = async {
        tokio::join!(
            sampling(&kernel, config.sample_seconds, &sample_seconds),
            forgetting(&kernel),
            watching(&config, &kernel, &keeper, seen, console_seen, &tell),
            console.run(),
        );
    };
    tokio::select! {
        _ = async { tokio::join!(working, link) } => {}
        () = chores => {}
    }
    if config.status_file {
        let farewell = Status::of(&kernel, &keeper, last.borrow().clone(), console_last.borrow().clone());
        farewell.write(&state_dir).unwrap_or_else(|e| tracing::warn!(error = %e, "the status file cannot be written"));
    }
    Ok(())
}

async fn kernel(
    config: &Config,
    host: Arc<dyn Host>,
    keeper: &Arc<Keeper>,
    sample_seconds: &Arc<AtomicU32>,
) -> anyhow::Result<Kernel> {
    let state_dir = config.state_dir.clone();
    let opened = Ledger::open(&state_dir, host.now_ms())
        .with_context(|| format!("the ledger in {} cannot be opened", state_dir.display()))?;
    if let Some(path) = opened.set_aside {
        tracing::error!(path = %path.display(), "the ledger was damaged and lies aside; a new one has begun");
    }
    let ledger = opened.ledger;
    let (known, outcomes): (Vec<_>, Vec<_>) = ledger.read(|state| {
        let once = state.entries.values().filter(|e| e.assignment.once).map(|e| e.assignment.key.clone());
        (once.collect(), state.outcomes().cloned().collect())
    });
    let spool = Spool::open(&state_dir, config.spool_bytes, &known, outcomes)
        .with_context(|| format!("the spool in {} cannot be opened", state_dir.display()))?;
    let spool = Arc::new(spool);
    let blobs = Blobs::open(&state_dir, config.blobs_bytes)
        .with_context(|| format!("the blobs in {} cannot be used", state_dir.display()))?;
    let blobs = Arc::new(blobs);
    let settings = Settings { keeper: keeper.clone(), sample_seconds: sample_seconds.clone() };
    let mut drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(settings)];
    drivers.extend(network::drivers(&config.network, host.clone(), spool.clone(), &state_dir));
    let experiment = experiment::drivers(&config.experiment, host.clone(), spool.clone(), blobs.clone(), &state_dir);
    drivers.extend(experiment.await);
    drivers.extend(staging::drivers(&config.staging, host.clone(), state_dir.clone()));
    Ok(Kernel::new(ledger, spool, blobs, host, drivers, config.accept.kinds.clone(), state_dir))
}

fn lock(config: &Config) -> anyhow::Result<std::fs::File> {
    let path = config.state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another agent runs on {}", config.state_dir.display()))?;
    Ok(file)
}

async fn sampling(kernel: &Kernel, own: Option<u32>, told: &AtomicU32) {
    loop {
        match own.unwrap_or_else(|| told.load(Ordering::Relaxed)) {
            0 => sleep(SAMPLE_LOOK).await,
            seconds => {
                kernel.spool.sample(kernel.host.sample(&kernel.state_dir));
                sleep(Duration::from_secs(seconds.into())).await;
            }
        }
    }
}

async fn forgetting(kernel: &Kernel) {
    let mut due = interval(FORGET_EVERY);
    loop {
        due.tick().await;
        let left = kernel.ledger.forget(kernel.host.now_ms());
        left.iter().for_each(|key| kernel.spool.forget(key));
        kernel.blobs.forget(SystemTime::now());
    }
}

async fn watching(
    config: &Config,
    kernel: &Kernel,
    keeper: &Keeper,
    mut link: watch::Receiver<link::Report>,
    mut console: watch::Receiver<console::Report>,
    tell: &(impl Fn(Sign) + Send + Sync),
) {
    if !config.status_file {
        return std::future::pending().await;
    }
    let mut last: Option<Status> = None;
    loop {
        let report = link.borrow_and_update().clone();
        let status = Status::of(kernel, keeper, report, console.borrow_and_update().clone());
        let is_news = last.as_ref().is_none_or(|last| *last != Status { at_ms: last.at_ms, ..status.clone() });
        if is_news {
            tell(Sign::Status(status.line()));
            if let Err(e) = status.write(&config.state_dir) {
                tracing::warn!(error = %e, "the status file cannot be written");
            }
            last = Some(status);
        }
        sleep(STATUS_EVERY).await;
    }
}
