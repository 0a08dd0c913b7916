//! The controller as a part of the bench: the whole of it, on SQLite, with a way to put one document before every agent.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use muster_controller::{
    app,
    config::Config,
    fleet::{
        Fleet,
        desired::{Document, OnInterrupt, OnRevoke},
        model::{Class, Key, Labels, Mode},
        service::NewInvitation,
    },
    platform::{clock::Clock, events::Actor},
};

use crate::{
    agents::KIND,
    part::{answer, orders},
};

/// Connections accepted in a second, so that the admission of a herd is not what is measured.
const RATE: u32 = 5000;

/// Runs the controller on a port until it is killed.
pub async fn run(folder: &Path, port: u16) -> anyhow::Result<()> {
    let mut config = Config::in_folder(folder)?;
    config.agents_listen = SocketAddr::from(([127, 0, 0, 1], port));
    config.http_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.sample_seconds = 0;
    (config.accept_per_second, config.accept_burst) = (RATE, RATE);
    let running = app::start(config, Clock::default()).await?;
    let fleet = running.fleet.clone();
    answer("ready");
    let counters = fleet.registry.counters.clone();
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("invite", number) => answer(invite(&fleet, number.parse()?).await?),
            ("online", _) => answer(counters.opened.load(Ordering::Relaxed) - counters.closed.load(Ordering::Relaxed)),
            ("put", form) => answer(put(&fleet, form).await?.as_micros()),
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    Ok(())
}

async fn invite(fleet: &Fleet, max_uses: i64) -> anyhow::Result<String> {
    let new = NewInvitation {
        name: "bench".into(),
        class: Class::ExperimentNode,
        labels: Labels::new(),
        max_uses,
        life: 3_600_000,
        for_agent: None,
    };
    Ok(fleet.invite(&Actor::controller(), &new).await?.1)
}

/// Puts a fresh document of `form` before every agent that is here. Gives the time from its commit to the commit of the
/// last agent's Accept; returns when every agent has also reported that it is applied.
async fn put(fleet: &Fleet, form: &str) -> anyhow::Result<Duration> {
    let agents: Vec<_> = fleet.registry.lines().iter().map(|l| l.agent.clone()).collect();
    let document = Document {
        mode: Mode::Standing,
        version: 1,
        bytes: crate::document(form),
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Keep,
        start_by: 0,
        blobs: Vec::new(),
        store_bytes: 0,
    };
    let (agents, document) = (&agents, &document);
    let generation = fleet
        .db
        .write(|mut tx| async move {
            let key = Key { kind: KIND.into(), id: "it".into() };
            let generation = tx.record(Actor::controller().change("bench.put", "bench")).await?;
            fleet.desired.put(&mut tx, generation, agents, &key, document).await?;
            tx.done(generation)
        })
        .await?;
    let committed = Instant::now();
    let unsent = "select count(*) from fleet_assignment where state in ('queued', 'offered')";
    until(fleet, unsent, None, 0).await?;
    let taken = committed.elapsed();
    let applied = "select count(*) from fleet_report where generation = $1 and phase = 'applied'";
    until(fleet, applied, Some(generation), i64::try_from(agents.len())?).await?;
    Ok(taken)
}

async fn until(fleet: &Fleet, count: &'static str, of: Option<i64>, number: i64) -> anyhow::Result<()> {
    loop {
        let mut query = sqlx::query_scalar::<_, i64>(count);
        if let Some(of) = of {
            query = query.bind(of);
        }
        if query.fetch_one(&mut *fleet.db.read().await?).await? == number {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
