//! The controller as a part of the bench: the whole of it, on SQLite.

use std::{net::SocketAddr, path::Path, sync::atomic::Ordering};

use anyhow::Context;
use muster_controller::{
    app,
    config::Config,
    fleet::{
        model::{Class, Labels},
        service::NewInvitation,
    },
    platform::{clock::Clock, events::Actor},
};

use crate::part::{answer, orders};

/// Connections accepted in a second, so that the admission of a herd is not what is measured.
const RATE: u32 = 5000;

/// Runs the controller until it is killed. Its first answer is its API's address and the first admin's password.
pub async fn run(folder: &Path, port: u16) -> anyhow::Result<()> {
    let mut config = Config::in_folder(folder)?;
    config.agents_listen = SocketAddr::from(([127, 0, 0, 1], port));
    config.http_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.sample_seconds = 0;
    (config.accept_per_second, config.accept_burst) = (RATE, RATE);
    let running = app::start(config, Clock::default()).await?;
    answer(format!("{} {}", running.http_addr, running.first_admin.as_deref().context("a first start")?.trim()));
    let fleet = running.fleet.clone();
    let counters = fleet.registry.counters.clone();
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("invite", number) => {
                let new = NewInvitation {
                    name: "bench".into(),
                    class: Class::ExperimentNode,
                    labels: Labels::new(),
                    max_uses: number.parse()?,
                    life: 3_600_000,
                    for_agent: None,
                };
                answer(fleet.invite(&Actor::controller(), &new).await?.1);
            }
            ("online", _) => answer(counters.opened.load(Ordering::Relaxed) - counters.closed.load(Ordering::Relaxed)),
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    Ok(())
}
