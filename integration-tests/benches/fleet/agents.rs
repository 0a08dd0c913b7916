//! Any number of agents as one part of the bench: each with its own identity, ledger, spool, work loop and link, exactly as
//! in the agent's program, on one driver that has nothing to do.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use muster_agent::{
    blobs::Blobs,
    driver::{Act, Capability, Driver, Kernel, Settled, Standing, Turn, work},
    host::Host,
    identity::{self, Identity, Keeper},
    ledger::{Assignment, Ledger, Refused},
    link::{Link, Report, schedule::MOST},
    settings::Settings,
    spool::Spool,
};
use muster_integration_tests::host::FakeHost;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::part::{answer, orders};

/// Kind of the documents put before every agent.
pub const KIND: &str = "bench.document";

/// Enrolments under way at once.
const JOINING: usize = 32;

/// Counts turns; its report is as long as a document that asks for it.
#[derive(Default)]
struct Idle(AtomicU64);

/// Lets agents join where they have not, runs them and answers orders until it is killed.
pub async fn run(folder: &Path, number: usize) -> anyhow::Result<()> {
    answer("ready");
    let (idle, mut running) = (Arc::new(Idle::default()), Vec::new());
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("join", token) => {
                join(folder, number, token).await?;
                answer("joined");
            }
            ("start", _) => {
                for n in 0..number {
                    running.extend(start(&folder.join(n.to_string()), idle.clone())?);
                }
                answer("started");
            }
            ("turns", _) => answer(idle.0.load(Ordering::Relaxed)),
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    running.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

async fn join(folder: &Path, number: usize, token: &str) -> anyhow::Result<()> {
    let token = &muster_proto::token::parse(token)?;
    let facts = &FakeHost::new("bench").facts();
    let joining = (0..number).map(|n| async move {
        let state = folder.join(n.to_string());
        if Identity::load(&state)?.is_none() {
            identity::enroll(&state, token, facts).await?;
        }
        anyhow::Ok(())
    });
    let joined: Vec<_> = stream::iter(joining).buffer_unordered(JOINING).collect().await;
    joined.into_iter().collect()
}

fn start(state: &Path, idle: Arc<Idle>) -> anyhow::Result<[tokio::task::JoinHandle<()>; 2]> {
    let host = FakeHost::new("bench");
    let keeper = Arc::new(Keeper::open(state)?);
    let ledger = Ledger::open(state, host.now_ms())?.ledger;
    let outcomes: Vec<_> = ledger.read(|state| state.outcomes().cloned().collect());
    let spool = Spool::open(state, 1 << 20, &[], outcomes)?;
    let settings = Settings { keeper: keeper.clone(), sample_seconds: Arc::default() };
    let drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(settings), idle];
    let blobs = Arc::new(Blobs::open(state, 1 << 20)?);
    let (spool, accept) = (spool.into(), vec!["*".into()]);
    let kernel = Arc::new(Kernel::new(ledger, spool, blobs, host, drivers, accept, state.to_owned()));
    let link = Link::new(kernel.clone(), keeper, Vec::new(), MOST, watch::Sender::new(Report::default()));
    let stop = CancellationToken::new();
    Ok([tokio::spawn(work::run(kernel, stop.clone(), || ())), tokio::spawn(link.run(stop))])
}

// === impl Idle ===

impl Driver for Idle {
    fn capability(&self) -> Capability {
        Capability { kind: KIND, versions: (1, 1), offers: Vec::new() }
    }

    fn admit(&self, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }

    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Idle {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let result = Bytes::copy_from_slice(crate::reply(&assignment.document));
        Box::pin(async { Turn::Settled(Settled { result, ..Settled::default() }) })
    }

    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
}
