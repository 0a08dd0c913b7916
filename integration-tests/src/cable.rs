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
    state: Arc<watch::Sender<CableState>>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CableState {
    Whole,
    /// Nothing passes, and nobody is told.
    Frozen,
    /// Connections break and none comes through.
    Cut,
}

// === impl Cable ===

impl Cable {
    /// Lays a cable to `far`.
    pub async fn lay(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let near = listener.local_addr().expect("an address");
        let (state, _) = watch::channel(CableState::Whole);
        let load = Load {
            carried: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            then_hold: AtomicBool::new(false),
            held: watch::channel(false).0,
            pace: AtomicU64::new(0),
        };
        let cable = Self { near, state: Arc::new(state), far: Arc::new(Mutex::new(far)), load: load.into() };
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
        self.state.send_replace(CableState::Cut);
    }

    /// Lets nothing through on the connections there are, and tells nobody; new ones pass.
    pub fn freeze(&self) {
        self.state.send_replace(CableState::Frozen);
        self.state.send_replace(CableState::Whole);
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
        self.state.subscribe().wait_for(|state| *state == CableState::Cut).await.expect("the cable is there");
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
        self.state.send_replace(CableState::Whole);
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
        let mut state = self.state.subscribe();
        if *state.borrow_and_update() == CableState::Cut {
            return;
        }
        let far = *self.far.lock().expect("not poisoned");
        let Ok(mut far) = TcpStream::connect(far).await else { return };
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        tokio::select! {
            _ = async { tokio::try_join!(self.pump(near_read, far_write), self.pump(far_read, near_write)) } => {}
            changed = state.changed() => {
                // What was frozen stays frozen: both ends are held open, and nothing is read from either.
                if changed.is_ok() && *state.borrow() != CableState::Cut {
                    tokio::time::sleep(10 * PATIENCE).await;
                }
            }
        }
    }
}
