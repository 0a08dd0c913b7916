//! One connection to one home: names resolved anew, TLS by the house's rules, HTTP/2 that notices a silent peer.

use std::{error::Error, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use muster_pki::HOME_NAME;
use muster_proto::{PING_EVERY_SECS, PING_WAIT_SECS, STREAM_WINDOW};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

const TCP_LIMIT: Duration = Duration::from_secs(5);
const TLS_LIMIT: Duration = Duration::from_secs(10);

/// A request waits for nothing but the stream before it.
const REQUESTS: usize = 4;

/// Connects to `host:port`.
///
/// # Errors
/// A sentence with every cause on the way.
pub async fn channel(home: &str, tls: Arc<ClientConfig>) -> Result<Channel, String> {
    let target = home.to_owned();
    let connector = service_fn(move |_| {
        let (target, tls) = (target.clone(), tls.clone());
        async move {
            let tcp = tcp(&target).await?;
            handshake(tcp, tls).await.map(|stream| TokioIo::new(Box::new(stream)))
        }
    });
    Endpoint::from_static("http://home.muster.internal")
        .http2_keep_alive_interval(Duration::from_secs(PING_EVERY_SECS))
        .keep_alive_timeout(Duration::from_secs(PING_WAIT_SECS))
        .keep_alive_while_idle(true)
        .buffer_size(REQUESTS)
        .initial_stream_window_size(STREAM_WINDOW)
        .connect_with_connector(connector)
        .await
        .map_err(|e| format!("{home}: {}", causes(&e)))
}

/// A TCP connection to the first address of `host:port` that answers.
pub async fn tcp(home: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in timeout(TCP_LIMIT, lookup_host(home)).await?? {
        match timeout(TCP_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(e)) => last = io::Error::new(e.kind(), format!("{address}: {e}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}

/// TLS over a connection, with home's fixed name whatever was dialled.
pub async fn handshake(tcp: TcpStream, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(HOME_NAME).expect("home's name is a DNS name");
    timeout(TLS_LIMIT, TlsConnector::from(tls).connect(name, tcp)).await?
}

/// An error with its causes, outermost first, each said once.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        at = cause.source();
    }
    text
}
