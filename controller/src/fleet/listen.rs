//! Accepting agents: bounded before TLS, so that a herd costs no more than it is given.
//!
//! A token bucket paces handshakes, at most 64 are under way, each has ten seconds, and a process out of descriptors
//! pauses instead of spinning. Who was proven by the handshake travels with the connection, and so does a switch that
//! closes it from outside.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use muster_pki::leaf::{self, Leaf};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::line::Kill;

/// Handshakes under way at once.
const HANDSHAKES: usize = 64;

/// A handshake may take this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A connection without a certificate may live this long: long enough to enrol.
const STRANGER_LIMIT: Duration = Duration::from_secs(10);

/// Pause when the process has no descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

/// How many handshakes may begin.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// In one second.
    pub per_second: u32,
    /// At once, after a quiet time.
    pub burst: u32,
}

/// Who is at the other end of a connection, as far as TLS proved it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it dialled from.
    pub address: Option<SocketAddr>,
    /// Its certificate; none before it has an identity.
    pub leaf: Option<Arc<Leaf>>,
    /// Closes the connection.
    pub kill: Arc<Kill>,
}

/// A connection of an agent. TLS is boxed: it is large and the pieces of a connection are moved about.
pub struct Conn {
    tls: Box<TlsStream<TcpStream>>,
    peer: Peer,
}

/// A token bucket in whole tokens: how long to wait before the next one, given when the bucket was full.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

/// Accepts until `stop`, with whichever TLS configuration is newest, and hands over what passed its handshake.
pub fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    rate: Rate,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Conn>> {
    let (passed, receiver) = mpsc::channel(HANDSHAKES);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        let mut bucket = Bucket { rate, tokens: f64::from(rate.burst), at: Instant::now() };
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            // A sleep of no time lasts until the timer's next tick, a millisecond that a herd would wait one by one.
            let pause = bucket.take(Instant::now());
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let (tcp, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        if is_exhausted(&error) {
                            tracing::warn!(%error, "no descriptor left; accepting pauses");
                            sleep(EXHAUSTED_PAUSE).await;
                        }
                        continue;
                    }
                },
                () = stop.cancelled() => return,
            };
            let acceptor = TlsAcceptor::from(config.borrow().clone());
            let passed = passed.clone();
            tokio::spawn(async move {
                match timeout(HANDSHAKE_LIMIT, shake(acceptor, tcp, address)).await {
                    Ok(Ok(conn)) => drop(passed.send(Ok(conn)).await),
                    Ok(Err(error)) => tracing::debug!(%address, %error, "handshake failed"),
                    Err(_) => tracing::debug!(%address, "handshake took too long"),
                }
                drop(slot);
            });
        }
    });
    receiver
}

async fn shake(acceptor: TlsAcceptor, tcp: TcpStream, address: SocketAddr) -> io::Result<Conn> {
    tcp.set_nodelay(true)?;
    let tls = Box::new(acceptor.accept(tcp).await?);
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = shown.map(|der| leaf::read(der)).transpose().map_err(io::Error::other)?;
    let peer = Peer { address: Some(address), leaf: leaf.map(Arc::new), kill: Arc::default() };
    if peer.leaf.is_none() {
        let kill = peer.kill.clone();
        tokio::spawn(async move {
            sleep(STRANGER_LIMIT).await;
            kill.kill();
        });
    }
    Ok(Conn { tls, peer })
}

fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|e| Some(e.raw_os_error()) == code)
}

// === impl Bucket ===

impl Bucket {
    /// Takes a token and says how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let per_second = f64::from(self.rate.per_second.max(1));
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst.max(1))) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens / per_second).max(0.0))
    }
}

// === impl Conn ===

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.peer.kill.poll_killed(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_paces() {
        let start = Instant::now();
        let mut bucket = Bucket { rate: Rate { per_second: 10, burst: 3 }, tokens: 3.0, at: start };
        let waits: Vec<_> = (0..5).map(|_| bucket.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        assert_eq!(bucket.take(start + Duration::from_secs(60)).as_millis(), 0, "full again, and no fuller");
    }
}
