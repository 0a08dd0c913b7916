//! What an agent shows to people on its host, in a browser and as data: the pages of its drivers, on loopback alone.
//!
//! - Served while a driver with pages holds an assignment, unless the host's owner says always or never.
//! - Who reads the state folder reads the *token* there, which `muster-agent console` prints within a URL; opening it
//!   gives the browser a cookie (`door`). Removing the file ends every session.
//! - The Host header must name this host, so that no name of somebody else's leads a browser here; what changes
//!   something must come from one of these pages. Nothing is stored by browsers and nothing comes from elsewhere.
//! - Nothing here depends on home.

mod door;
mod serve;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{driver::Kernel, link};
pub use door::Token;

/// Where it is served unless the host's owner says otherwise.
const PORT: u16 = 7480;

/// How often it is looked whether there is something to show.
const LOOK: Duration = Duration::from_secs(1);

/// A port that another program has is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// How long an agent on the same host may take to accept a connection.
const PROBE: Duration = Duration::from_secs(1);

/// The host's owner's word on the console.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether it is served. Not set: while the agent holds something that has pages, which is a site of its own.
    pub enabled: Option<bool>,
    /// Its port on 127.0.0.1. Not set: 7480, or any that is free where another program has that one;
    /// `muster-agent console` knows it.
    pub port: Option<u16>,
}

/// How the console fares, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it is served; none: nowhere.
    pub address: Option<SocketAddr>,
    /// Why it is not served.
    pub message: String,
}

/// The console of one agent.
pub struct Console {
    kernel: Arc<Kernel>,
    agent_id: String,
    link: watch::Receiver<link::Report>,
    settings: Settings,
    report: watch::Sender<Report>,
}

// === impl Console ===

impl Console {
    /// The console of an agent that calls home as `link` tells.
    pub fn new(
        kernel: Arc<Kernel>,
        agent_id: String,
        link: watch::Receiver<link::Report>,
        settings: Settings,
        report: watch::Sender<Report>,
    ) -> Self {
        Self { kernel, agent_id, link, settings, report }
    }

    /// Serves whenever it is to, for good.
    pub async fn run(self) {
        let console = Arc::new(self);
        loop {
            console.until(true).await;
            match console.bind().await {
                Ok(listener) => {
                    tokio::select! {
                        () = serve::serve(console.clone(), listener) => {}
                        () = console.until(false) => {}
                    }
                    console.tell(None, console.why_not());
                }
                Err(why) => {
                    tracing::warn!(why, "the console is not served");
                    console.tell(None, why);
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn bind(&self) -> Result<TcpListener, String> {
        Token::make(&self.kernel.state_dir).map_err(|e| format!("the console's token cannot be kept: {e}"))?;
        let port = self.settings.port.unwrap_or(PORT);
        let mut bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        if bound.is_err() && self.settings.port.is_none() {
            bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        }
        let listener = bound.map_err(|e| format!("port {port} cannot be bound ({e}); set console.port to another"))?;
        self.tell(listener.local_addr().ok(), String::new());
        Ok(listener)
    }

    async fn until(&self, wanted: bool) {
        while self.is_wanted() != wanted {
            if wanted {
                self.tell(None, self.why_not());
            }
            sleep(LOOK).await;
        }
    }

    fn is_wanted(&self) -> bool {
        self.settings.enabled.unwrap_or_else(|| self.has_something())
    }

    fn has_something(&self) -> bool {
        let has_pages = |kind: &str| self.kernel.drivers.get(kind).is_some_and(|driver| driver.pages().is_some());
        self.kernel
            .ledger
            .read(|state| state.entries.values().any(|e| !e.assignment.withdrawn && has_pages(&e.assignment.key.kind)))
    }

    fn why_not(&self) -> String {
        match self.settings.enabled {
            Some(false) => "console.enabled is false",
            _ => "this agent holds nothing that it shows; set console.enabled to serve it all the same",
        }
        .into()
    }

    fn tell(&self, address: Option<SocketAddr>, message: String) {
        let report = Report { address, message };
        self.report.send_if_modified(|told| {
            let is_news = *told != report;
            *told = report;
            is_news
        });
    }
}

/// The URL that lets its reader in, made from what a running agent told of its console.
///
/// # Errors
/// A sentence why there is none.
pub async fn url(state_dir: &Path, report: &Report) -> anyhow::Result<String> {
    let Some(address) = report.address else {
        let why = if report.message.is_empty() { "no agent said where" } else { &report.message };
        bail!("no console is served: {why}");
    };
    let answers = timeout(PROBE, tokio::net::TcpStream::connect(address)).await.map_err(io::Error::other);
    answers
        .and_then(|connected| connected)
        .with_context(|| format!("no agent answers at {address}; start it with: muster-agent run"))?;
    let token = Token::make(state_dir).context("the console's token")?;
    Ok(format!("http://{address}{}?token={}", serve::ENTER, token.expose()))
}

#[cfg(test)]
mod tests;
