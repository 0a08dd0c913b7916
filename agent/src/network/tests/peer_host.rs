//! A host on which the stand-in is started in the router's place.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use crate::{
    host::{Exit, Facts, Host, Machine, NoProgram, NotStarted, Program, Sample, Watch},
    ledger::Group,
};

/// A host whose long-lived programs are peers of ours.
pub struct PeerHost {
    machine: Machine,
    peers: Mutex<BTreeMap<i32, Arc<Peer>>>,
    next: AtomicI32,
}

impl PeerHost {
    pub fn new() -> Arc<Self> {
        let next = AtomicI32::new(2_000_000_000);
        Arc::new(Self { machine: Machine::new(None), peers: Mutex::default(), next })
    }

    fn peer(&self, group: &Group) -> Option<Arc<Peer>> {
        self.peers.lock().unwrap().get(&group.pgid).cloned()
    }
}

impl Host for PeerHost {
    fn run<'a>(
        &'a self,
        program: Program,
        cancel: CancellationToken,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Exit, NotStarted>> {
        self.machine.run(program, cancel, watch)
    }

    fn start<'a>(
        &'a self,
        program: Program,
        _: &'a Path,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<(), NotStarted>> {
        Box::pin(async move {
            let pgid = self.next.fetch_add(1, Ordering::Relaxed);
            let group = Group { pgid, started: 1, boot_id: self.boot_id() };
            watch.grouped(group).map_err(|e| NotStarted(e.to_string()))?;
            if let Some(peer) = Peer::start(Path::new(&program.args[1])) {
                self.peers.lock().unwrap().insert(pgid, peer);
            }
            Ok(())
        })
    }

    fn is_alive(&self, group: &Group) -> bool {
        self.peer(group).is_some()
    }

    fn ask_to_end(&self, group: &Group) {
        self.peers.lock().unwrap().remove(&group.pgid);
    }

    fn groups_in(&self, _: &Path) -> Vec<Group> {
        Vec::new()
    }

    fn listens_on(&self, group: &Group) -> BTreeSet<SocketAddr> {
        self.peer(group).map(|peer| peer.listens()).unwrap_or_default()
    }

    fn end_group<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, ()> {
        self.ask_to_end(group);
        Box::pin(async {})
    }

    fn executable(&self, path: &Path) -> Result<(), NoProgram> {
        self.machine.executable(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.machine.read(path)
    }

    fn now_ms(&self) -> i64 {
        self.machine.now_ms()
    }

    fn uptime(&self) -> std::time::Duration {
        self.machine.uptime()
    }

    fn boot_id(&self) -> String {
        self.machine.boot_id()
    }

    fn facts(&self) -> Facts {
        self.machine.facts()
    }

    fn sample(&self, path: &Path) -> Sample {
        self.machine.sample(path)
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        self.machine.free_bytes(path)
    }
}
