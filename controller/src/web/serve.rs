//! The listener of the API and the console, and what every answer carries.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::Response,
};
use http::{HeaderName, HeaderValue, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use super::{
    gate::{Gate, PeerAddress},
    page, problem,
};
use crate::{error::Result, platform::id};

/// Connections at once. More wait to be accepted.
const CONNECTIONS: usize = 4096;

/// A handshake, and the head of a request, may take this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// After `stop`, requests under way may take this long.
const FAREWELL: Duration = Duration::from_secs(5);

/// Pause when no connection can be accepted, as when the process has no descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

/// Path of the API's description for people, the one place with scripts of others.
pub const DOCS: &str = "/api/docs";

/// Below this path stands a secret.
const BY_SECRET: &str = "/netunicorn/gateway/";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts everything around the routes that each request passes: request id, trace, panics, problems, the gate.
pub fn dress(router: Router, gate: Arc<Gate>) -> Router {
    let clock = gate.db.clock().clone();
    let trace = TraceLayer::new_for_http().make_span_with(|request: &Request| {
        let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        // The query may hold what is nobody's business, and so may what stands below this.
        let path = request.uri().path();
        let path = if path.starts_with(BY_SECRET) { BY_SECRET } else { path };
        tracing::debug_span!("request", id, method = %request.method(), path)
    });
    router
        .fallback(page::nothing)
        .layer(middleware::from_fn(problem::layer))
        .layer(Extension(gate))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(trace)
        .layer(middleware::from_fn(move |request, next| headers(id::fresh(clock.now()), request, next)))
}

async fn headers(id: String, mut request: Request, next: Next) -> Response {
    let is_docs = request.uri().path().starts_with(DOCS);
    let id = HeaderValue::try_from(id).expect("an id is letters and digits");
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut answer = next.run(request).await;
    let policy = match is_docs {
        true => {
            "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; \
             img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
        }
        false => {
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        }
    };
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    // Answers hold what is true now, of somebody in particular.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Serves until `stop`, with TLS where there is a configuration; the newest one counts.
pub async fn serve(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    router: Router,
    stop: CancellationToken,
) -> Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    // When this function ends, or is dropped, no connection outlives it.
    let over = CancellationToken::new();
    let _cut = over.clone().drop_guard();
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (tcp, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let router = router.clone().layer(Extension(PeerAddress(address.ip().to_canonical())));
        let acceptor = tls.as_ref().map(|config| TlsAcceptor::from(config.borrow().clone()));
        let over = over.clone();
        let serving = connection(tcp, acceptor, router, graceful.watcher(), slot);
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                () = over.cancelled() => {}
            }
        });
    }
    drop(listener);
    let _ = timeout(FAREWELL, graceful.shutdown()).await;
    Ok(())
}

async fn connection(
    tcp: TcpStream,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    _slot: OwnedSemaphorePermit,
) {
    let _ = tcp.set_nodelay(true);
    match acceptor {
        None => run(tcp, router, watcher).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(tcp)).await {
                run(stream, router, watcher).await;
            }
        }
    }
}

async fn run<S>(stream: S, router: Router, watcher: hyper_util::server::graceful::Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = %error, "a connection ended");
    }
}
