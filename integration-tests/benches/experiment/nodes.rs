//! Any number of simulated nodes: each with its own identity, ledger, spool, work loop and link, exactly as in the agent's
//! program, on drivers that bring an experiment's work to an end at once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use muster_agent::{
    blobs::Blobs,
    driver::{Act, Attempt, Capability, Driver, End, Kernel, Once, work},
    host::Host,
    identity::{self, Identity, Keeper},
    ledger::{Ledger, Refused},
    link::{Link, Report, schedule::MOST},
    settings::Settings,
    spool::Spool,
};
use muster_integration_tests::host::FakeHost;
use muster_proto::{
    KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, experiment as proto,
};
use prost::Message;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::part::{answer, orders};

/// Enrolments under way at once.
const JOINING: usize = 32;

/// Bytes of what a Python executor reports.
const RESULT: usize = 5000;

/// Ends what it is given, at once.
struct Prompt {
    kind: &'static str,
    /// When the last executor ended, milliseconds since the Unix epoch.
    last: Arc<AtomicI64>,
}

/// Lets nodes join, runs them and answers orders until it is killed.
pub async fn run(folder: &Path, number: usize) -> anyhow::Result<()> {
    answer("ready");
    let (last, mut running) = (Arc::<AtomicI64>::default(), Vec::new());
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("join", token) => {
                join(folder, number, token).await?;
                for n in 0..number {
                    running.extend(start(folder, n, &last)?);
                }
                answer("joined");
            }
            ("last", _) => answer(last.load(Ordering::Relaxed)),
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    running.iter().for_each(JoinHandle::abort);
    Ok(())
}

fn host(n: usize) -> Arc<FakeHost> {
    FakeHost::new(&format!("node-{n:05}"))
}

async fn join(folder: &Path, number: usize, token: &str) -> anyhow::Result<()> {
    let token = &muster_proto::token::parse(token)?;
    let joining = (0..number).map(|n| async move {
        let state = folder.join(n.to_string());
        if Identity::load(&state)?.is_none() {
            identity::enroll(&state, token, &host(n).facts()).await?;
        }
        anyhow::Ok(())
    });
    let joined: Vec<_> = stream::iter(joining).buffer_unordered(JOINING).collect().await;
    joined.into_iter().collect()
}

fn start(folder: &Path, n: usize, last: &Arc<AtomicI64>) -> anyhow::Result<[JoinHandle<()>; 2]> {
    let (host, state) = (host(n), folder.join(n.to_string()));
    let keeper = Arc::new(Keeper::open(&state)?);
    let ledger = Ledger::open(&state, host.now_ms())?.ledger;
    let outcomes: Vec<_> = ledger.read(|state| state.outcomes().cloned().collect());
    let spool = Spool::open(&state, 1 << 20, &[], outcomes)?;
    let settings = Settings { keeper: keeper.clone(), sample_seconds: Arc::default() };
    let mut drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(settings)];
    for kind in [KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR, KIND_EXPERIMENT_CLEANUP] {
        drivers.push(Arc::new(Prompt { kind, last: last.clone() }));
    }
    let blobs = Arc::new(Blobs::open(&state, 1 << 20)?);
    let kernel = Arc::new(Kernel::new(ledger, spool.into(), blobs, host, drivers, vec!["*".into()], state));
    let link = Link::new(kernel.clone(), keeper, Vec::new(), MOST, watch::Sender::new(Report::default()));
    let stop = CancellationToken::new();
    Ok([tokio::spawn(work::run(kernel, stop.clone(), || ())), tokio::spawn(link.run(stop))])
}

// === impl Prompt ===

impl Driver for Prompt {
    fn capability(&self) -> Capability {
        let offers = ["executor=0.4.2", "python=3.11.7", "shell"].map(str::to_owned).into();
        Capability { kind: self.kind, versions: (1, 1), offers }
    }

    fn admit(&self, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }

    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Prompt {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let now = muster_controller::platform::clock::Clock::default().now();
            let result = match self.kind {
                KIND_EXPERIMENT_EXECUTOR => executed(&work.assignment.document, now),
                _ => Vec::new(),
            };
            if self.kind == KIND_EXPERIMENT_EXECUTOR {
                self.last.fetch_max(now, Ordering::Relaxed);
            }
            End { succeeded: true, conditions: Vec::new(), result: result.into() }
        })
    }
}

/// What an executor would say in the end: every task ran, or a pickle of the size of a small one's.
fn executed(document: &[u8], now: i64) -> Vec<u8> {
    let work = proto::Executor::decode(document).ok().and_then(|document| document.work);
    let mut result = proto::ExecutorResult { started_ms: now, ended_ms: now, ..proto::ExecutorResult::default() };
    result.set_state(proto::executor_result::State::Finished);
    match work {
        Some(proto::executor::Work::Pipeline(pipeline)) => {
            let run = |task: proto::Task| proto::TaskRun {
                task: task.name,
                attempt: 1,
                state: proto::task_run::State::Succeeded.into(),
                started_ms: now,
                ended_ms: now,
                exit_code: Some(0),
                value: "1".into(),
                ..proto::TaskRun::default()
            };
            result.runs = pipeline.tasks.into_iter().map(run).collect();
        }
        _ => {
            let inline = Bytes::copy_from_slice(&muster_pki::random::<RESULT>());
            result.results = Some(proto::Content { inline, blob: Bytes::new(), size: RESULT as u64 });
        }
    }
    result.encode_to_vec()
}
