//! What machines ask of the controller: does it live, is it ready, how is it doing.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use crate::{
    certificate,
    domain::{Running, Turn},
    error::Result,
    fleet::{self, Fleet},
    platform::{db::Db, events},
    web::{
        Policy, Routes,
        exposition::{Exposition, labels},
    },
};

/// What the answers are made from; clones share it.
#[derive(Debug, Clone)]
pub struct Ops {
    /// The fleet.
    pub fleet: Fleet,
    /// The loops, once they have begun.
    pub loops: Arc<OnceLock<Vec<Running>>>,
    /// The controller is on its way out.
    pub stop: CancellationToken,
}

/// The routes.
pub fn routes(ops: Ops) -> Routes {
    Routes::new()
        .plain("/livez", Policy::public(), livez)
        .plain("/readyz", Policy::public(), readyz)
        .plain("/metrics", Policy::public(), metrics)
        .with_state(ops)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(ops): State<Ops>, uri: http::Uri) -> Response {
    let checks = ops.checks().await;
    let ready = checks.iter().all(|(_, fault)| fault.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if uri.query().is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose="))) {
        for (name, fault) in &checks {
            let line = fault.as_ref().map_or_else(|| format!("[+] {name} ok\n"), |f| format!("[-] {name}: {f}\n"));
            text.push_str(&line);
        }
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (status, text).into_response()
}

impl Ops {
    /// Whether the controller can do its work.
    pub async fn is_ready(&self) -> bool {
        self.checks().await.iter().all(|(_, fault)| fault.is_none())
    }

    /// What is checked, with what is wrong.
    async fn checks(&self) -> Vec<(String, Option<String>)> {
        let database = self.fleet.db.ping().await.err().map(|e| match e {
            crate::error::Error::Internal(cause) => format!("{cause:#}"),
            other => other.to_string(),
        });
        let house = self.fleet.certificates.house();
        let stopping = self.stop.is_cancelled().then(|| "it is stopping".to_owned());
        let no_roots = house.roots.is_empty().then(|| "no root is trusted".to_owned());
        let mut checks = vec![("running".into(), stopping), ("database".into(), database), ("house".into(), no_roots)];
        match self.loops.get() {
            None => checks.push(("loops".into(), Some("they have not begun".into()))),
            Some(loops) => checks.extend(loops.iter().map(|running| {
                let fault = match running.turn() {
                    Turn::Well => None,
                    Turn::Waiting => Some("no round has ended yet".into()),
                    Turn::Badly(fault) => Some(fault),
                };
                (format!("loop {}", running.name), fault)
            })),
        }
        checks
    }
}

async fn metrics(State(ops): State<Ops>) -> Result<Response> {
    Ok(ops.metrics().await?.into_response())
}

impl Ops {
    async fn metrics(&self) -> Result<Exposition> {
        let fleet = &self.fleet;
        let now = fleet.db.clock().now();
        let mut conn = fleet.db.read().await?;
        let agents = fleet::agents::counts(&mut conn).await?;
        let head = events::head(&mut conn).await?;
        let ends = certificate::ends(&mut conn, now).await?;
        drop(conn);
        let jobs = jobs(&fleet.db).await?;
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed) as f64;
        let counters = &fleet.registry.counters;
        let mut text = Exposition::default();
        let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
        text.family("muster_build_info", "gauge", "The program.", [(version, 1.0)]);
        let agents = agents
            .into_iter()
            .map(|(class, liveness, n)| (labels(&[("class", &class), ("liveness", &liveness)]), n as f64));
        text.family("muster_agents", "gauge", "Agents in good standing.", agents);
        let streams = fleet.registry.lines().len() as f64;
        text.one("muster_streams", "gauge", "Streams open at this replica.", streams);
        for (name, help, counter) in [
            ("muster_streams_opened_total", "Streams opened.", &counters.opened),
            ("muster_streams_closed_total", "Streams that ended.", &counters.closed),
            ("muster_streams_refused_total", "Streams refused.", &counters.refused),
            ("muster_reports_total", "Reports stored.", &counters.reports),
            ("muster_assignments_sent_total", "Assignments sent.", &counters.assigned),
        ] {
            text.one(name, "counter", help, count(counter));
        }
        let jobs = jobs.into_iter().map(|(state, n)| (labels(&[("state", &state)]), n as f64));
        text.family("muster_jobs", "gauge", "Jobs in the queue.", jobs);
        text.one("muster_event_seq", "counter", "The newest event.", head as f64);
        let mut nearest = BTreeMap::new();
        for (kind, end) in ends {
            nearest.insert(kind, (end - now) as f64 / 1000.0);
        }
        let ends = nearest.into_iter().map(|(kind, seconds)| (labels(&[("kind", &kind)]), seconds));
        let help = "Seconds until the next certificate in use ends.";
        text.family("muster_certificate_expiry_seconds", "gauge", help, ends);
        let loops = self.loops.get().map(Vec::as_slice).unwrap_or_default();
        let faults = loops
            .iter()
            .map(|l| (labels(&[("loop", l.name)]), f64::from(u8::from(matches!(l.turn(), Turn::Badly(_))))));
        text.family("muster_loop_failing", "gauge", "Whether the last round of a loop failed.", faults);
        if let Some(bytes) = resident_bytes() {
            text.one("process_resident_memory_bytes", "gauge", "Resident memory.", bytes as f64);
        }
        Ok(text)
    }
}

async fn jobs(db: &Db) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query("select state, count(*) from job group by state").fetch_all(&mut *db.read().await?).await?;
    let mut found = BTreeMap::from([("failed".to_owned(), 0), ("waiting".to_owned(), 0)]);
    for row in rows {
        found.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(found.into_iter().collect())
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
