//! The gateway of netunicorn, for executors that are not on agents: under a secret that their connector alone was told.
//!
//! An executor repeats at once whatever is not answered with 200. So reports are always taken, if only to be thrown away,
//! and who asks for a graph that is not there waits and is then sent away with an empty one. Who shows a secret reaches the
//! executors and flags of its own connector, and nothing else.

mod recent;
mod report;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use muster_pki::{hex, sha256};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout_at},
};

use self::{
    recent::Recent,
    report::{NOBODYS, Report, known_id, read},
};
use super::{
    model::Graph,
    service::subject,
    store::{self, RemoteRow},
};
use crate::{
    error::{Error, Result},
    experiment::{
        model::{ExecutorId, FlagChange, Until, check_name},
        netunicorn::flag_values,
        service::{Experiments, await_flag, change_flag, posted_by, stage_of},
        store::{self as experiments, DeploymentRow},
    },
    platform::{
        blobs::{Blobs, Held},
        db::{Tx, clean},
        events::Actor,
        id,
        reconcile::Reconciler,
    },
    web::{Policy, Query, Routes, body},
};

/// How long a graph that is not there is waited for; an executor itself waits for 30 seconds.
const HOLD: Duration = Duration::from_secs(25);

/// The longest report, as it is posted, bytes.
const MAX_REPORT: usize = 32 << 20;

/// What is read of a longer one, so that its sender hears that it was taken, bytes.
const MAX_READ: usize = 1 << 30;

/// What is thrown away is told of once in this time.
const SELDOM: Duration = Duration::from_secs(60);

/// Heartbeats that are not written yet, bytes in all; more are written before they are answered.
const MAX_BEATS: usize = 64 << 20;

/// Memory for all reports that are being read, KiB; more wait.
const ROOM: usize = 512 * 1024;

/// A report lies in memory as it came, as text, and as its bytes.
const COPIES: usize = 3;

/// Heartbeats written in one transaction.
const BEATS: usize = 100;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Gateway {
    experiments: Experiments,
    hold: Duration,
    thrown: Arc<Mutex<BTreeMap<String, (u64, Instant)>>>,
    connectors: Recent<Option<String>>,
    flaggers: Recent<bool>,
    verdicts: Recent<Verdict>,
    beats: Arc<Mutex<BTreeMap<String, Report>>>,
    room: Arc<Semaphore>,
}

/// Writes the newest heartbeat of each executor. They tell how far it is: one that is lost with its controller is followed
/// by the next, and the last report is written before it is answered.
#[derive(Debug)]
pub struct Beats {
    /// Where they are.
    pub gateway: Gateway,
}

/// Whether a report is taken, or why it is thrown away.
type Verdict = std::result::Result<(), &'static str>;

#[derive(Debug, Deserialize)]
struct Who {
    #[serde(default)]
    executor_id: String,
}

#[derive(Debug, Deserialize)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
    until_text: Option<String>,
    until_at_least: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct By {
    #[serde(default = "one")]
    by: i64,
}

fn one() -> i64 {
    1
}

// === impl Beats ===

impl Reconciler for Beats {
    type Status = std::result::Result<usize, String>;
    const PERIOD: Duration = Duration::from_secs(1);

    async fn reconcile(&mut self) -> Self::Status {
        self.gateway.write_beats().await.map_err(|error| {
            tracing::error!(%error, "heartbeats could not be written; the next round tries again");
            error.to_string()
        })
    }
}

// === impl Gateway ===

impl Gateway {
    /// The gateway of a house.
    pub fn new(experiments: Experiments) -> Self {
        Self::holding(experiments, HOLD)
    }

    /// The same with another patience.
    pub fn holding(experiments: Experiments, hold: Duration) -> Self {
        Self {
            experiments,
            hold,
            thrown: Arc::default(),
            connectors: Recent::default(),
            flaggers: Recent::default(),
            verdicts: Recent::default(),
            beats: Arc::default(),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }

    /// The routes, below `/netunicorn/gateway`.
    pub fn routes(self) -> Routes {
        let open = Policy::public();
        let report = open.body_limit(MAX_READ);
        let (get, post) = (Method::GET, Method::POST);
        Routes::new()
            .foreign(get.clone(), "/netunicorn/gateway/{secret}/health", open, refuse, health)
            .foreign(get.clone(), "/netunicorn/gateway/{secret}/api/v1/executor/execution_graph", open, refuse, graph)
            .foreign(get.clone(), "/netunicorn/gateway/{secret}/api/v1/executor/pipeline", open, refuse, graph)
            .foreign(post.clone(), "/netunicorn/gateway/{secret}/api/v1/executor/result", report, taken, result)
            .foreign(post.clone(), "/netunicorn/gateway/{secret}/api/v1/executor/result/", report, taken, result)
            .foreign(
                get,
                "/netunicorn/gateway/{secret}/api/v1/experiment/{experiment}/flag/{flag}",
                open,
                refuse,
                get_flag,
            )
            .foreign(
                post.clone(),
                "/netunicorn/gateway/{secret}/api/v1/experiment/{experiment}/flag/{flag}",
                open,
                refuse,
                set_flag,
            )
            .foreign(
                post.clone(),
                "/netunicorn/gateway/{secret}/api/v1/experiment/{experiment}/flag/{flag}/increment",
                open,
                refuse,
                increment,
            )
            .foreign(
                post,
                "/netunicorn/gateway/{secret}/api/v1/experiment/{experiment}/flag/{flag}/decrement",
                open,
                refuse,
                decrement,
            )
            .with_state(self)
    }

    /// The connector whose executors know this secret.
    async fn connector(&self, secret: &str) -> Result<Option<String>> {
        let digest = &hex(&sha256(secret.as_bytes()));
        let ask = async { store::connector_of(&mut *self.experiments.fleet.db.read().await?, digest).await };
        self.connectors.get(digest, ask).await
    }

    /// What is known of an executor of this secret's connector.
    async fn find(&self, secret: &str, executor: &str) -> Result<Option<(DeploymentRow, RemoteRow)>> {
        let Some(executor) = &known_id(executor) else { return Ok(None) };
        let Some(connector) = self.connector(secret).await? else { return Ok(None) };
        let mut conn = self.experiments.fleet.db.read().await?;
        let row = experiments::fetch_deployment(&mut conn, &ExecutorId(executor.clone())).await?;
        let Some(row) = row.filter(|row| row.connector == connector) else { return Ok(None) };
        Ok(store::remote(&mut conn, executor).await?.map(|remote| (row, remote)))
    }

    /// The graph of an executor: at once if it is there, else as soon as it is; none sends the executor away.
    async fn graph(&self, secret: &str, executor: &str) -> Result<Option<Bytes>> {
        let db = &self.experiments.fleet.db;
        let deadline = Instant::now() + self.hold;
        let mut news = db.wake().follow("experiment");
        loop {
            news.mark_unchanged();
            let found = self.find(secret, executor).await?;
            let answer = match &found {
                Some((row, remote)) => remote.remote()?.graph(stage_of(row)?),
                None => Graph::SendAway,
            };
            match (answer, found) {
                (Graph::Give, Some((row, _))) => return self.give(&row).await,
                (Graph::Hold, _) => {
                    if !matches!(timeout_at(deadline, news.changed()).await, Ok(Ok(()))) {
                        let message = "the experiment was not started yet; ask again".into();
                        return Err(Error::Busy { message, retry_after_secs: 1 });
                    }
                }
                _ => {
                    self.throw(secret, executor, "it asks for a graph that is not there").await?;
                    sleep_until(deadline).await;
                    return Ok(None);
                }
            }
        }
    }

    async fn give(&self, row: &DeploymentRow) -> Result<Option<Bytes>> {
        let experiments = &self.experiments;
        let db = &experiments.fleet.db;
        let graph = experiments.blobs.read(&mut *db.read().await?, &row.graph).await?;
        let write = db.write(|mut tx| async move {
            let now = tx.now();
            if let Some(mut remote) = store::lock_remote(&mut tx, &row.id).await? {
                remote.heard_at = Some(now);
                if remote.graph_at.is_none() {
                    remote.graph_at = Some(now);
                    tx.wake("experiment");
                }
                store::save_heard(&mut tx, &remote).await?;
            }
            tx.done(())
        });
        write.await?;
        Ok(graph)
    }

    /// Takes a report, or says why it is thrown away. The last one is written before it counts as taken.
    async fn take(&self, secret: &str, report: Report) -> Result<Verdict> {
        let verdict = self.verdict(secret, &report.executor);
        if report.is_final {
            if let Err(why) = verdict.await? {
                return Ok(Err(why));
            }
            // What came before it says less.
            self.lock_beats().remove(&report.executor);
            return Ok(self.write(&[report]).await?.pop().unwrap_or(Ok(())));
        }
        let question = format!("{secret}/{}", report.executor);
        if let Err(why) = self.verdicts.get(&question, verdict).await? {
            return Ok(Err(why));
        }
        let is_full = self.lock_beats().values().map(|beat| beat.results.len()).sum::<usize>() > MAX_BEATS;
        if is_full {
            self.write_beats().await?;
        }
        self.lock_beats().insert(report.executor.clone(), report);
        Ok(Ok(()))
    }

    /// Whether reports of an executor are taken.
    async fn verdict(&self, secret: &str, executor: &str) -> Result<Verdict> {
        Ok(match self.find(secret, executor).await? {
            Some((row, remote)) => remote.remote()?.takes_report(stage_of(&row)?, row.given_up == 1),
            None => Err(NOBODYS),
        })
    }

    /// Writes the newest heartbeat of each executor. Gives how many there were; those that cannot be written are gone.
    pub async fn write_beats(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            let beats: Vec<_> = {
                let mut beats = self.lock_beats();
                std::iter::from_fn(|| beats.pop_first()).take(BEATS).map(|(_, beat)| beat).collect()
            };
            if beats.is_empty() {
                return Ok(count);
            }
            count += beats.len();
            self.write(&beats).await?;
        }
    }

    /// Writes reports, each unless its executor has ended meanwhile.
    async fn write(&self, reports: &[Report]) -> Result<Vec<Verdict>> {
        let mut held = Vec::with_capacity(reports.len());
        for report in reports {
            held.push(match report.too_long {
                true => None,
                false => Some(self.experiments.blobs.hold(report.results.clone()).await?),
            });
        }
        let held = &held;
        let write = self.experiments.fleet.db.write(|mut tx| async move {
            let mut verdicts = Vec::with_capacity(reports.len());
            for (report, held) in reports.iter().zip(held) {
                verdicts.push(write_report(&mut tx, report, held.as_ref()).await?);
            }
            tx.done(verdicts)
        });
        write.await
    }

    fn lock_beats(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Report>> {
        self.beats.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Tells of what was thrown away, seldom, since whoever sends it may send it again and again.
    async fn throw(&self, secret: &str, executor: &str, why: &str) -> Result<()> {
        let connector = self.connector(secret).await?.unwrap_or_default();
        let count = {
            let mut thrown = self.thrown.lock().unwrap_or_else(|e| e.into_inner());
            let now = Instant::now();
            match thrown.get_mut(&connector) {
                Some((count, last)) if now - *last < SELDOM => {
                    *count += 1;
                    return Ok(());
                }
                Some(entry) => std::mem::replace(entry, (0, now)).0 + 1,
                None => {
                    thrown.insert(connector.clone(), (0, now));
                    1
                }
            }
        };
        let about = if connector.is_empty() { "gateway".to_owned() } else { subject(&connector) };
        let executor: String = clean(executor).chars().take(100).collect();
        let what = json!({"executor": executor, "why": why, "count": count});
        self.experiments
            .fleet
            .db
            .write(|mut tx| {
                let (about, what) = (about.clone(), what.clone());
                async move {
                    tx.record(Actor::controller().change("experiment.report_discarded", about).after(what)).await?;
                    tx.done(())
                }
            })
            .await
    }

    /// Whether an experiment's flags may be seen under a secret: by whom. None otherwise.
    async fn flagger(&self, secret: &str, experiment: &str) -> Result<Option<String>> {
        let Some(experiment) = &known_id(experiment) else { return Ok(None) };
        let Some(connector) = self.connector(secret).await? else { return Ok(None) };
        let ask =
            async { store::has_executor(&mut *self.experiments.fleet.db.read().await?, experiment, &connector).await };
        let is_its_own = self.flaggers.get(&format!("{connector}/{experiment}"), ask).await?;
        Ok(is_its_own.then(|| subject(&connector)))
    }

    async fn change(&self, at: &(String, String, String), change: FlagChange) -> Response {
        let (secret, experiment, flag) = at;
        let db = &self.experiments.fleet.db;
        let done = async {
            check_name("flag", flag)?;
            let Some(by) = self.flagger(secret, experiment).await? else { return Ok(None) };
            let request = id::fresh(db.clock().now());
            change_flag(db, experiment, flag, &change, &request, &by).await.map(Some)
        };
        match done.await {
            Ok(Some(_)) => Json(()).into_response(),
            Ok(None) => unset(),
            Err(error) => refuse(false, error),
        }
    }
}

/// Writes one report.
async fn write_report(tx: &mut Tx, report: &Report, held: Option<&Held>) -> Result<Verdict> {
    let Some(mut remote) = store::lock_remote(tx, &report.executor).await? else { return Ok(Err(NOBODYS)) };
    let row = experiments::fetch_deployment(tx, &ExecutorId(report.executor.clone())).await?;
    let Some(row) = row else { return Ok(Err(NOBODYS)) };
    if let Err(why) = remote.remote()?.takes_report(stage_of(&row)?, row.given_up == 1) {
        return Ok(Err(why));
    }
    let is_first = remote.heard_at.is_none();
    remote.heard_at = remote.heard_at.max(Some(report.at));
    if report.too_long && !report.is_final {
        // What it said before is more than nothing.
        store::save_heard(tx, &remote).await?;
        return Ok(Ok(()));
    }
    remote.too_long = i64::from(report.too_long);
    let owner = posted_by(&row);
    Blobs::forget(tx, &owner).await?;
    remote.result = String::new();
    if let Some(held) = held {
        Blobs::keep(tx, std::slice::from_ref(held), &owner).await?;
        remote.result.clone_from(&held.digest);
    }
    if report.is_final {
        remote.final_at = Some(report.at);
    }
    store::save_heard(tx, &remote).await?;
    if report.is_final || is_first {
        tx.wake("experiment");
    }
    Ok(Ok(()))
}

// === handlers ===

async fn health(State(gateway): State<Gateway>) -> Result<Json<&'static str>> {
    gateway.experiments.fleet.db.ping().await?;
    Ok(Json("OK"))
}

async fn graph(State(gateway): State<Gateway>, Path(secret): Path<String>, Query(who): Query<Who>) -> Response {
    match gateway.graph(&secret, &who.executor_id).await {
        Ok(Some(graph)) => Json(BASE64_STANDARD.encode(graph)).into_response(),
        Ok(None) => StatusCode::OK.into_response(),
        Err(error) => error.into_response(),
    }
}

async fn result(State(gateway): State<Gateway>, Path(secret): Path<String>, request: Request) -> Response {
    // Heartbeats are posted to another path than the last report.
    let is_beat = request.uri().path().ends_with('/');
    let limit = match gateway.connector(&secret).await {
        Ok(Some(_)) => MAX_REPORT,
        // Nothing is kept of what comes from nobody.
        Ok(None) => 0,
        Err(error) => return put_off(&error).await,
    };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let most = length.unwrap_or(MAX_REPORT).min(limit) / 1024 * COPIES;
    let Ok(_room) = gateway.room.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let (executor, discarded) = match read(request.into_body(), limit, is_beat).await {
        Ok(mut report) => {
            report.at = gateway.experiments.fleet.db.clock().now();
            let executor = report.executor.clone();
            match gateway.take(&secret, report).await {
                Ok(taken) => (executor, taken.err()),
                Err(error) => return put_off(&error).await,
            }
        }
        Err(why) => (String::new(), Some(why)),
    };
    if let Some(why) = discarded
        && let Err(error) = gateway.throw(&secret, &executor, why).await
    {
        tracing::error!(%error, "what was thrown away could not be told of");
    }
    Json(()).into_response()
}

/// The answer to a report that could not be stored: whoever posted it comes again at once, so it is made to wait.
async fn put_off(error: &Error) -> Response {
    tracing::error!(%error, "a report could not be stored; its executor will repeat it");
    tokio::time::sleep(Duration::from_secs(5)).await;
    (StatusCode::SERVICE_UNAVAILABLE, Json("the report could not be stored; repeat it")).into_response()
}

async fn get_flag(
    State(gateway): State<Gateway>,
    Path((secret, experiment, flag)): Path<(String, String, String)>,
    Query(wait): Query<Wait>,
) -> Response {
    let until = Until { text: wait.until_text, at_least: wait.until_at_least };
    let found = async {
        check_name("flag", &flag)?;
        if gateway.flagger(&secret, &experiment).await?.is_none() {
            return Ok(None);
        }
        let wait = Duration::from_millis(wait.wait_ms);
        await_flag(&gateway.experiments.fleet.db, &experiment, &flag, &until, wait).await
    };
    match found.await {
        Ok(Some(values)) => Json(values).into_response(),
        Ok(None) => unset(),
        Err(error) => refuse(false, error),
    }
}

async fn set_flag(
    State(gateway): State<Gateway>,
    Path(at): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let values = match body::read(request).await {
        Ok(bytes) => flag_values(&bytes),
        Err(error) => return refuse(false, error),
    };
    match values {
        Ok(values) => gateway.change(&at, FlagChange::Set(values)).await,
        Err(refused) => refused.into_response(),
    }
}

async fn increment(
    State(gateway): State<Gateway>,
    Path(at): Path<(String, String, String)>,
    Query(by): Query<By>,
) -> Response {
    gateway.change(&at, FlagChange::Add(by.by)).await
}

async fn decrement(
    State(gateway): State<Gateway>,
    Path(at): Path<(String, String, String)>,
    Query(by): Query<By>,
) -> Response {
    gateway.change(&at, FlagChange::Add(by.by.saturating_neg())).await
}

// === pieces ===

/// What the gate refuses, and what is wrong with a question.
fn refuse(_: bool, error: Error) -> Response {
    match error {
        Error::Invalid { message, .. } => (StatusCode::BAD_REQUEST, Json(message)).into_response(),
        Error::NotFound { .. } => unset(),
        other => other.into_response(),
    }
}

/// The same of a report: whatever it is, it counts as taken.
fn taken(_: bool, error: Error) -> Response {
    tracing::warn!(%error, "a report was thrown away at the gate");
    Json(()).into_response()
}

/// A flag that was never set, or is not the caller's own.
fn unset() -> Response {
    (StatusCode::NOT_FOUND, Json(())).into_response()
}
