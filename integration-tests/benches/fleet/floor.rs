//! The floor: a bare tonic server over the house's TLS, one stream a client, tonic's own defaults. Nothing is judged,
//! remembered or resumed; what a controller costs beyond this is what Muster costs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture};
use muster_pki::{
    HOME_NAME,
    ca::Profile,
    tls::{self, Presented, TicketKey, Tickets},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming, body::Body, transport};

use crate::{
    clients::{LIFE, PING, issue},
    part::{answer, orders},
};

type Frames = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What travels both ways: bytes.
pub type Codec = tonic_prost::ProstCodec<Bytes, Bytes>;

/// What every stream shares.
#[derive(Clone)]
struct Floor {
    pushed: watch::Sender<Bytes>,
    streams: Arc<AtomicU64>,
    answers: Arc<AtomicU64>,
}

/// Serves until it is killed.
pub async fn serve(folder: &Path, port: u16) -> anyhow::Result<()> {
    let (key, chain) = issue(folder, &Profile::Listener { names: vec![HOME_NAME.into()], life: LIFE })?;
    let tickets = Arc::new(Tickets::default());
    tickets.replace(vec![TicketKey::new(&[7; 32])]);
    let root = chain[2].clone();
    let tls = Arc::new(tls::server(Presented { chain, key: &key }, &[root], tickets)?);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (passed, connections) = mpsc::channel::<std::io::Result<_>>(64);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, passed) = (tokio_rustls::TlsAcceptor::from(tls.clone()), passed.clone());
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let _ = passed.send(Ok(tls)).await;
                }
            });
        }
    });
    let floor = Floor { pushed: watch::Sender::default(), streams: Arc::default(), answers: Arc::default() };
    let mut server =
        transport::Server::builder().http2_keepalive_interval(Some(PING.0)).http2_keepalive_timeout(Some(PING.1));
    let serving = server.add_service(floor.clone()).serve_with_incoming(ReceiverStream::new(connections));
    tokio::spawn(serving);
    answer("ready");
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("online", _) => answer(floor.streams.load(Ordering::Acquire)),
            ("put", form) => {
                let goal = floor.answers.load(Ordering::Acquire) + floor.streams.load(Ordering::Acquire);
                let begun = Instant::now();
                floor.pushed.send_replace(crate::document(form).into());
                while floor.answers.load(Ordering::Acquire) < goal {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer(begun.elapsed().as_micros());
            }
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    Ok(())
}

impl tonic::server::NamedService for Floor {
    const NAME: &'static str = "floor.Floor";
}

impl tower::Service<http::Request<Body>> for Floor {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let floor = self.clone();
        Box::pin(async { Ok(tonic::server::Grpc::new(Codec::default()).streaming(floor, request).await) })
    }
}

impl tonic::server::StreamingService<Bytes> for Floor {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = BoxFuture<'static, Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let floor = self.clone();
        Box::pin(async move {
            let mut inbound = request.into_inner();
            inbound.message().await?;
            floor.streams.fetch_add(1, Ordering::AcqRel);
            let answers = floor.answers.clone();
            tokio::spawn(async move {
                while let Ok(Some(_)) = inbound.message().await {
                    answers.fetch_add(1, Ordering::AcqRel);
                }
            });
            Ok(Response::new(Box::pin(WatchStream::new(floor.pushed.subscribe()).map(Ok)) as Frames))
        })
    }
}
