//! The site's apply: from a changed document at the agent's driver until its router shows what changed, and until bytes go
//! that way.

use std::{
    io,
    net::TcpListener as Listener,
    sync::Arc,
    time::{Duration, Instant},
};

use muster_agent::{
    driver::{Act, Driver, Turn},
    host::Machine,
    ledger::{Assignment, Generation, Key},
    network::{self, Settings},
    spool::Spool,
};
use muster_proto::{KIND_NETWORK_SITE, network as proto};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::print;

/// Changes that are timed.
const CHANGES: u64 = 50;

/// Wanted of the median.
const WANTED: Duration = Duration::from_millis(100);

/// A router may take this long to do as it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// One agent's driver with the assignment it keeps.
struct Site {
    driver: Arc<dyn Driver>,
    document: proto::Site,
    generation: u64,
}

/// Gives a site one service link more, and takes it away again, time after time.
pub async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let spool = Arc::new(Spool::open(folder.path(), 1 << 20, &[], [])?);
    let drivers = network::drivers(&Settings::default(), Arc::new(Machine::new(None)), spool, folder.path());
    let driver = drivers.into_iter().next().expect("networks have a driver");
    println!("\nA changed service link at a site");
    if !driver.capability().offers.iter().any(|offer| offer == "router") {
        println!("  !!! NO ROUTER: neither SKROUTERD nor PATH names skrouterd, so this was NOT measured !!!");
        return Ok(());
    }
    let [served, ingress, other] = [free_port()?, free_port()?, free_port()?];
    let _backend = tokio::spawn(echo(TcpListener::bind(("127.0.0.1", served)).await?));
    let document = proto::Site {
        router: "bench".into(),
        mode: proto::Mode::Edge.into(),
        tenant: "bench".into(),
        tcp_listeners: vec![listener("in/0", "first", ingress)],
        tcp_connectors: vec![connector("out/0", "first", served)],
        ..proto::Site::default()
    };
    let mut site = Site { driver, document, generation: 0 };
    let timed = time(&mut site, other, served).await;
    site.end().await;
    let (shown, through) = timed?;
    print("until the router shows its tcpListener and tcpConnector", shown, Some(WANTED));
    print("until a connection to it is answered", through, None);
    Ok(())
}

async fn time(site: &mut Site, port: u16, served: u16) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let first = site.document.clone();
    site.change(first.clone()).await?;
    let (mut shown, mut through) = (Vec::new(), Vec::new());
    for n in 1..=CHANGES {
        let mut more = first.clone();
        more.tcp_listeners.push(listener(&format!("in/{n}"), &format!("link-{n}"), port));
        more.tcp_connectors.push(connector(&format!("out/{n}"), &format!("link-{n}"), served));
        let began = Instant::now();
        site.change(more).await?;
        shown.push(began.elapsed());
        while call(port).await.is_err() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "no connection is answered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        through.push(began.elapsed());
        site.change(first.clone()).await?;
    }
    Ok((shown, through))
}

// === impl Site ===

impl Site {
    /// Hands a document to the driver, and turns until the driver found in its router all that the document names.
    async fn change(&mut self, document: proto::Site) -> anyhow::Result<()> {
        (self.document, self.generation) = (document, self.generation + 1);
        let Act::Standing(standing) = self.driver.act() else { anyhow::bail!("sites are standing work") };
        let (began, assignment) = (Instant::now(), self.assignment());
        loop {
            match standing.turn(&assignment).await {
                Turn::Settled(_) => return Ok(()),
                turn => anyhow::ensure!(began.elapsed() < PATIENCE, "the router is not as it should be: {turn:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends its router.
    async fn end(&self) {
        if let Act::Standing(standing) = self.driver.act() {
            standing.undo(&self.assignment()).await;
        }
    }

    fn assignment(&self) -> Assignment {
        Assignment {
            key: Key::new(KIND_NETWORK_SITE, "bench"),
            generation: Generation { epoch: 1, number: self.generation },
            version: 1,
            document: self.document.encode_to_vec().into(),
            ..Assignment::default()
        }
    }
}

fn listener(name: &str, address: &str, port: u16) -> proto::TcpListener {
    let (name, address, host) = (name.into(), address.into(), "127.0.0.1".into());
    proto::TcpListener { name, address, host, port: port.into(), endpoint: String::new() }
}

fn connector(name: &str, address: &str, port: u16) -> proto::TcpConnector {
    let (name, address, host) = (name.into(), address.into(), "127.0.0.1".into());
    proto::TcpConnector { name, address, host, port: port.into(), endpoint: String::new() }
}

fn free_port() -> io::Result<u16> {
    Ok(Listener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_ok() {
                let _ = stream.write_all(&byte).await;
            }
        });
    }
}

async fn call(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"?").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}
