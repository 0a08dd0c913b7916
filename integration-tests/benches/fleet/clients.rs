//! Clients of the floor: they append what arrives to a file, sync it, and answer; a stream that ends is dialled again.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use muster_pki::{
    HOME_NAME,
    ca::{Authority, Profile, Sign},
    key::Key,
    tls::{self, Trust},
};
use muster_proto::{PING_EVERY_SECS, PING_WAIT_SECS};
use rustls::pki_types::CertificateDer;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, transport};

use crate::{floor::Codec, part::answer};

/// Life of the floor's certificates, milliseconds.
pub const LIFE: i64 = 86_400_000;

/// How often pings go out, and how long they may stay unanswered: as in the house.
pub const PING: (Duration, Duration) = (Duration::from_secs(PING_EVERY_SECS), Duration::from_secs(PING_WAIT_SECS));

/// Makes an authority for server and clients.
pub fn found(folder: &Path) -> anyhow::Result<()> {
    let now = muster_controller::platform::clock::Clock::default().now();
    let (root, _) = Authority::root("floor root", LIFE, now)?;
    let (issuing, key) = root.issuing("floor issuing", LIFE, now)?;
    std::fs::write(folder.join("key"), key.to_pem())?;
    std::fs::write(folder.join("issuing"), &issuing.chain()[0])?;
    Ok(std::fs::write(folder.join("root"), &issuing.chain()[1])?)
}

/// A leaf for a fresh key, with its chain, root last.
pub fn issue(folder: &Path, profile: &Profile) -> anyhow::Result<(Key, Vec<CertificateDer<'static>>)> {
    let read = |name| std::fs::read(folder.join(name)).map(CertificateDer::from);
    let chain = vec![read("issuing")?, read("root")?];
    let authority = Authority::load(&Key::from_pem(&std::fs::read_to_string(folder.join("key"))?)?, chain)?;
    let key = Key::generate()?;
    let now = muster_controller::platform::clock::Clock::default().now();
    let leaf = authority.sign(&key.request()?, profile, now)?.der;
    Ok((key, [vec![leaf], authority.chain().to_vec()].concat()))
}

/// Keeps clients connected until it is killed.
pub async fn dial(folder: PathBuf, number: usize, port: u16) -> anyhow::Result<()> {
    for n in 0..number {
        let profile = Profile::Agent { trust_domain: "floor".into(), agent_id: format!("{n:020}"), life: LIFE };
        let (key, chain) = issue(&folder, &profile)?;
        let roots = vec![chain[2].clone()];
        let own = tls::Identity { chain: chain[..2].to_vec(), key: &key };
        let tls = Arc::new(tls::client(&Trust::Roots(roots), Some(own))?);
        let path = folder.join(n.to_string());
        tokio::spawn(async move {
            loop {
                let _ = client(tls.clone(), &path, port).await;
                tokio::time::sleep(Duration::from_millis(u64::from(muster_pki::random::<1>()[0]) * 8)).await;
            }
        });
    }
    answer("ready");
    std::future::pending().await
}

async fn client(tls: Arc<rustls::ClientConfig>, path: &Path, port: u16) -> anyhow::Result<()> {
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            tcp.set_nodelay(true)?;
            let name = HOME_NAME.try_into().map_err(std::io::Error::other)?;
            tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    let endpoint = transport::Endpoint::from_static("http://floor").http2_keep_alive_interval(PING.0);
    let endpoint = endpoint.keep_alive_timeout(PING.1).keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let (say, said) = mpsc::channel(4);
    say.send(Bytes::from(vec![0; 512])).await?;
    let target = http::uri::PathAndQuery::from_static("/floor.Floor/Stream");
    let stream = grpc.streaming(Request::new(ReceiverStream::new(said)), target, Codec::default()).await?;
    let mut inbound = stream.into_inner();
    while let Some(document) = inbound.message().await? {
        if !document.is_empty() {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(&document)?;
            file.sync_data()?;
            say.send(Bytes::copy_from_slice(crate::reply(&document))).await?;
        }
    }
    Ok(())
}
