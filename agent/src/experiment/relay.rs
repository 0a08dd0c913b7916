//! The gateway of netunicorn, spoken to executors on this host's loopback, and stored and forwarded to home.
//!
//! - Each executor has a *seat* under a secret path of its own, from the begin of its attempt to the end. What it says of
//!   others is not heard: it reaches its own experiment's flags alone.
//! - An executor repeats at once whatever is not answered with 200. So results are always taken, if only to be thrown
//!   away, and who asks for a graph that is not there is kept waiting and then sent away with an empty one.
//! - Flags are home's: a call is held until home has answered it, however long that takes. 404 is said only when home
//!   says that a flag was never set, or of what is not the caller's own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{Notify, OnceCell, Semaphore},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::flags::{self, Flags};
use crate::{ledger::Key, spool::Spool};

/// How long a graph that is not there is waited for; an executor itself waits for 30 seconds.
const HOLD: Duration = Duration::from_secs(25);

/// The longest result, as it is posted.
const RESULT: usize = 32 << 20;

/// Connections at once; more wait.
const CONNECTIONS: usize = 1024;

/// From a connection's begin to the end of a request's head.
const HEAD: Duration = Duration::from_secs(10);

/// What is thrown away is told of once in this time.
const SELDOM: Duration = Duration::from_secs(60);

/// Results of more bytes are read beside the runtime.
const LONG: usize = 256 * 1024;

/// The relay of one agent. Its server begins with the first executor, and ends when this is dropped.
pub struct Relay {
    shared: Arc<Shared>,
    address: OnceCell<SocketAddr>,
    stop: CancellationToken,
    _stopped: DropGuard,
}

/// An executor's place at the relay.
pub struct Seat {
    /// The executor's own id.
    pub executor_id: String,
    /// The experiment whose flags it sees.
    pub experiment_id: String,
    /// The assignment under which home is asked.
    pub key: Key,
    /// Where its graph lies.
    pub graph: PathBuf,
    posted: Mutex<Posted>,
    /// Something was posted.
    pub news: Notify,
    over: CancellationToken,
}

/// What an executor posted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posted {
    /// The pickle of its newest post.
    pub results: Option<Bytes>,
    /// Nothing more is taken.
    pub is_final: bool,
    /// The final result was too long.
    pub too_long: bool,
}

/// An executor's seat is taken while this lives.
pub struct Seated {
    shared: Arc<Shared>,
    name: [u8; 32],
    /// The seat.
    pub seat: Arc<Seat>,
    /// Where the executor finds it.
    pub url: String,
}

pub(super) struct Shared {
    seats: Mutex<BTreeMap<[u8; 32], Arc<Seat>>>,
    flags: Flags,
    hold: Duration,
    thrown: Mutex<(u64, Option<Instant>)>,
}

#[derive(Deserialize)]
struct Post {
    executor_id: String,
    results: Option<String>,
    state: Option<i64>,
}

#[derive(Deserialize)]
struct Who {
    #[serde(default)]
    executor_id: String,
}

// === impl Relay ===

impl Relay {
    /// A relay that does not serve yet.
    pub fn new(spool: Arc<Spool>) -> Self {
        Self::holding(spool, HOLD)
    }

    /// The same with another patience.
    pub fn holding(spool: Arc<Spool>, hold: Duration) -> Self {
        let (flags, stop) = (Flags::new(spool), CancellationToken::new());
        let shared = Shared { seats: Mutex::default(), flags, hold, thrown: Mutex::default() };
        let _stopped = stop.clone().drop_guard();
        Self { shared: Arc::new(shared), address: OnceCell::new(), stop, _stopped }
    }

    /// Gives an executor a seat.
    pub async fn seat(&self, key: Key, experiment_id: &str, graph: PathBuf) -> Result<Seated, String> {
        let address = self.address().await.map_err(|e| format!("the relay for executors cannot be served: {e}"))?;
        let secret = muster_pki::hex(&muster_pki::random::<16>());
        let seat = Arc::new(Seat {
            executor_id: key.id.clone(),
            experiment_id: experiment_id.into(),
            key,
            graph,
            posted: Mutex::default(),
            news: Notify::new(),
            over: CancellationToken::new(),
        });
        let name = muster_pki::sha256(secret.as_bytes());
        self.shared.lock().insert(name, seat.clone());
        Ok(Seated { shared: self.shared.clone(), name, seat, url: format!("http://{address}/{secret}") })
    }

    /// Where it is served.
    pub async fn address(&self) -> std::io::Result<SocketAddr> {
        let served = self.address.get_or_try_init(|| async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?;
            let (shared, stop) = (self.shared.clone(), self.stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(shared, listener) => {}
                    () = stop.cancelled() => {}
                }
            });
            std::io::Result::Ok(address)
        });
        served.await.copied()
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn find(&self, secret: &str) -> Option<Arc<Seat>> {
        self.lock().get(&muster_pki::sha256(secret.as_bytes())).cloned()
    }

    /// Asks home of a flag of one's own experiment; of others nothing is said.
    async fn flagged<F: Future<Output = Response>>(
        &self,
        secret: &str,
        experiment: &str,
        ask: impl FnOnce(Key) -> F,
    ) -> Response {
        let Some(seat) = self.find(secret).filter(|seat| seat.experiment_id == experiment) else {
            return flags::unset();
        };
        tokio::select! {
            answer = ask(seat.key.clone()) => answer,
            () = seat.over.cancelled() => flags::unset(),
        }
    }

    /// Tells of what was thrown away, seldom, since whoever sends it may send it again and again.
    fn throw(&self, executor: &str, why: &str) {
        let mut thrown = self.thrown.lock().unwrap_or_else(|e| e.into_inner());
        thrown.0 += 1;
        if thrown.1.is_none_or(|last| last.elapsed() >= SELDOM) {
            tracing::warn!(executor, why, count = thrown.0, "what an executor posted was thrown away");
            *thrown = (0, Some(Instant::now()));
        }
    }
}

// === impl Seated ===

impl Drop for Seated {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.name);
        self.seat.over.cancel();
    }
}

// === impl Seat ===

impl Seat {
    /// What was posted so far.
    pub fn posted(&self) -> Posted {
        self.posted.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Takes a post, unless the final one is here.
    fn take(&self, posted: Posted) -> Result<(), &'static str> {
        let mut held = self.posted.lock().unwrap_or_else(|e| e.into_inner());
        if held.is_final {
            return Err("its final result is here already");
        }
        *held = posted;
        drop(held);
        self.news.notify_one();
        Ok(())
    }
}

/// Serves until it is dropped.
async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let router = Router::new()
        .route("/{secret}/health", get(|| async { Json("OK") }))
        .route("/{secret}/api/v1/executor/execution_graph", get(graph))
        .route("/{secret}/api/v1/executor/pipeline", get(graph))
        .route("/{secret}/api/v1/executor/result", post(result))
        .route("/{secret}/api/v1/executor/result/", post(result))
        .route("/{secret}/api/v1/experiment/{experiment}/flag/{flag}", get(flag_get).post(flag_set))
        .route("/{secret}/api/v1/experiment/{experiment}/flag/{flag}/{operation}", post(flag_add))
        .fallback(|| async { (StatusCode::NOT_FOUND, Json(serde_json::json!({"detail": "Not Found"}))) })
        .with_state(shared);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.join_next().now_or_never().flatten().is_some() {}
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "the relay cannot take a connection");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
            server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
            // An executor that goes away in the middle is no matter of ours.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

async fn graph(
    State(shared): State<Arc<Shared>>,
    Path(secret): Path<String>,
    who: Result<Query<Who>, QueryRejection>,
) -> Response {
    let executor = who.map(|Query(who)| who.executor_id).unwrap_or_default();
    let seat = shared.find(&secret).filter(|seat| seat.executor_id == executor);
    let read = match &seat {
        Some(seat) => tokio::fs::read(&seat.graph).await.ok(),
        None => None,
    };
    match read {
        Some(graph) => Json(STANDARD.encode(graph)).into_response(),
        None => {
            shared.throw(&executor, "it asks for a graph that is not there");
            match &seat {
                Some(seat) => drop(tokio::time::timeout(shared.hold, seat.over.cancelled()).await),
                None => sleep(shared.hold).await,
            }
            StatusCode::OK.into_response()
        }
    }
}

async fn result(State(shared): State<Arc<Shared>>, Path(secret): Path<String>, body: Body) -> Response {
    let seat = shared.find(&secret);
    let taken = match (read(body).await, &seat) {
        (_, None) => Err("nobody of this host has this address"),
        (Ok(body), Some(seat)) => match beside(body.len(), move || posted(&body)).await {
            Ok((executor, _)) if executor != seat.executor_id => Err("it speaks for another executor"),
            Ok((_, posted)) => seat.take(posted),
            Err(why) => Err(why),
        },
        (Err(true), Some(seat)) => {
            seat.take(Posted { results: None, is_final: true, too_long: true }).and(Err("it is longer than may be"))
        }
        (Err(false), Some(_)) => Err("it was cut off"),
    };
    if let Err(why) = taken {
        shared.throw(seat.as_ref().map_or("", |seat| &seat.executor_id), why);
    }
    Json(()).into_response()
}

/// A body to its end, whatever its length: who is answered before may take it for a broken connection and come again.
/// The error says whether it was too long.
async fn read(body: Body) -> Result<Vec<u8>, bool> {
    let (mut all, mut too_long, mut stream) = (Vec::new(), false, body.into_data_stream());
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| false)?;
        too_long |= all.len() + piece.len() > RESULT;
        if too_long {
            all = Vec::new();
        } else {
            all.extend_from_slice(&piece);
        }
    }
    if too_long { Err(true) } else { Ok(all) }
}

/// Who posted what.
fn posted(body: &[u8]) -> Result<(String, Posted), &'static str> {
    let post: Post = serde_json::from_slice(body).map_err(|_| "it is no result")?;
    let results = post.results.ok_or("it has no results")?;
    let results = STANDARD.decode(results.trim()).map_err(|_| "its results are not base64")?;
    // Without a state it counts as the last one, as with netunicorn.
    let is_final = post.state.is_none_or(|state| state >= 2);
    Ok((post.executor_id, Posted { results: Some(results.into()), is_final, too_long: false }))
}

/// Does what is long beside the runtime, so that it keeps nobody else waiting.
async fn beside<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if size < LONG {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

async fn flag_get(
    State(shared): State<Arc<Shared>>,
    Path((secret, experiment, flag)): Path<(String, String, String)>,
    wait: Result<Query<flags::Wait>, QueryRejection>,
) -> Response {
    let Query(wait) = match wait {
        Ok(wait) => wait,
        Err(refused) => return refused.into_response(),
    };
    shared.flagged(&secret, &experiment, |key| shared.flags.get(key, &flag, wait)).await
}

async fn flag_set(
    State(shared): State<Arc<Shared>>,
    Path((secret, experiment, flag)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    shared.flagged(&secret, &experiment, |key| shared.flags.set(key, &flag, &body)).await
}

async fn flag_add(
    State(shared): State<Arc<Shared>>,
    Path((secret, experiment, flag, operation)): Path<(String, String, String, String)>,
    by: Result<Query<flags::By>, QueryRejection>,
) -> Response {
    let by = match by {
        Ok(Query(by)) => by.by,
        Err(refused) => return refused.into_response(),
    };
    match operation.as_str() {
        "increment" => shared.flagged(&secret, &experiment, |key| shared.flags.add(key, &flag, by)).await,
        "decrement" => {
            shared.flagged(&secret, &experiment, |key| shared.flags.add(key, &flag, by.saturating_neg())).await
        }
        _ => flags::unset(),
    }
}
