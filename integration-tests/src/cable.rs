//! A cable between an agent and home that can be cut, frozen, held, paced and measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::world::PATIENCE;

/// A cable that can be cut and frozen: agents dial its near end.
#[derive(Clone)]
pub struct Cable {
    /// What agents dial.
    pub near: SocketAddr,
    breaks: Arc<watch::Sender<Breaks>>,
    /// Lets none through.
    is_down: Arc<watch::Sender<bool>>,
    far: Arc<Mutex<SocketAddr>>,
    load: Arc<Load>,
}

/// What a cable carries.
struct Load {
    /// Bytes carried, both ways.
    carried: AtomicU64,
    /// After so many it is cut, or held.
    limit: AtomicU64,
    then_hold: AtomicBool,
    held: watch::Sender<bool>,
    /// Bytes a second each way; 0: as many as come.
    pace: AtomicU64,
}

/// How often connections were broken: a cable may be whole again before one of them sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Breaks {
    /// Both ends were told.
    cuts: u64,
    /// Nobody was.
    freezes: u64,
}

// === impl Cable ===

impl Cable {
    /// Lays a cable to `far`.
    pub async fn lay(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let near = listener.local_addr().expect("an address");
        let (breaks, is_down) = (Arc::new(watch::channel(Breaks::default()).0), Arc::new(watch::channel(false).0));
        let load = Load {
            carried: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            then_hold: AtomicBool::new(false),
            held: watch::channel(false).0,
            pace: AtomicU64::new(0),
        };
        let cable = Self { near, breaks, is_down, far: Arc::new(Mutex::new(far)), load: load.into() };
        let carrying = cable.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carrying.clone().carry(near));
            }
        });
        cable
    }

    /// Breaks every connection and lets none through.
    pub fn cut(&self) {
        self.is_down.send_replace(true);
        self.breaks.send_modify(|breaks| breaks.cuts += 1);
    }

    /// Lets nothing through on the connections there are, and tells nobody; new ones pass.
    pub fn freeze(&self) {
        self.breaks.send_modify(|breaks| breaks.freezes += 1);
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> u64 {
        self.load.carried.load(Ordering::SeqCst)
    }

    /// Cuts itself when so many bytes more were carried.
    pub fn cut_after(&self, bytes: u64) {
        self.load.then_hold.store(false, Ordering::SeqCst);
        self.load.limit.store(self.carried() + bytes, Ordering::SeqCst);
    }

    /// Carries no more after so many bytes, and tells nobody, until it is [let go](Self::let_go).
    pub fn hold_after(&self, bytes: u64) {
        self.load.then_hold.store(true, Ordering::SeqCst);
        self.load.limit.store(self.carried() + bytes, Ordering::SeqCst);
    }

    /// Waits until it holds what it carries.
    pub async fn holds(&self) {
        self.load.held.subscribe().wait_for(|held| *held).await.expect("the cable is there");
    }

    /// Waits until it has cut itself.
    pub async fn is_cut(&self) {
        self.is_down.subscribe().wait_for(|down| *down).await.expect("the cable is there");
    }

    /// Carries on.
    pub fn let_go(&self) {
        self.load.held.send_replace(false);
    }

    /// Carries so many bytes a second each way; 0: as many as come.
    pub fn pace(&self, bytes: u64) {
        self.load.pace.store(bytes, Ordering::SeqCst);
    }

    /// Lets new connections through again.
    pub fn mend(&self) {
        self.is_down.send_replace(false);
    }

    async fn pump(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let n = from.read(&mut bytes).await?;
            if n == 0 {
                return to.shutdown().await;
            }
            let load = &self.load;
            if load.carried.fetch_add(n as u64, Ordering::SeqCst) + n as u64 >= load.limit.load(Ordering::SeqCst) {
                load.limit.store(u64::MAX, Ordering::SeqCst);
                match load.then_hold.load(Ordering::SeqCst) {
                    true => drop(load.held.send_replace(true)),
                    false => self.cut(),
                }
            }
            let _ = load.held.subscribe().wait_for(|held| !held).await;
            let pace = load.pace.load(Ordering::SeqCst);
            if let Some(micros) = (n as u64 * 1_000_000).checked_div(pace) {
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            to.write_all(&bytes[..n]).await?;
        }
    }

    async fn carry(self, mut near: TcpStream) {
        let mut breaks = self.breaks.subscribe();
        let before = *breaks.borrow_and_update();
        if *self.is_down.borrow() {
            return;
        }
        let far = *self.far.lock().expect("not poisoned");
        let Ok(mut far) = TcpStream::connect(far).await else { return };
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        tokio::select! {
            _ = async { tokio::try_join!(self.pump(near_read, far_write), self.pump(far_read, near_write)) } => {}
            _ = breaks.changed() => {
                // What was frozen stays so until it is cut: both ends are held open, and nothing is read from either.
                let cut = breaks.wait_for(|breaks| breaks.cuts > before.cuts);
                let _ = tokio::time::timeout(10 * PATIENCE, cut).await;
            }
        }
    }
}
