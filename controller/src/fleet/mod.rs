//! Agents: how they join, the stream each lives on, and the one door through which they are told what to be.
//!
//! Words: an *invitation* lets agents join; an *assignment* is (agent, kind, id) → document and generation; a *line* is
//! home's end of one stream; a *report* is what an agent says of one assignment. Files: `listen` accepts, `enroll` gives
//! identities, `session` opens and runs streams, `dispatch` hands out what is committed, `intake` writes what comes back,
//! `desired` is the door for domains, `blobs` carries large bytes beside the streams, `registry` holds the streams of this replica.
//!
//! Invariants: what may have run is never sent again by itself; nothing is acknowledged before it is committed; every write
//! on an agent's behalf checks that the stream is still its agent's. It never looks inside a document.

pub mod agents;
pub mod api;
mod blobs;
pub mod desired;
mod dispatch;
mod enroll;
mod intake;
pub mod line;
pub mod listen;
pub mod logs;
pub mod model;
pub mod output;
pub mod pages;
mod registry;
pub mod service;
mod session;
mod store;
mod wire;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use muster_proto::{
    MAX_CHUNK, MAX_ENROLL, MAX_FRAME, PING_EVERY_SECS, PING_WAIT_SECS, STREAM_WINDOW,
    fleet::{
        Answer, Ask, answer::Outcome, blobs_server::BlobsServer, enrollment_server::EnrollmentServer,
        home_server::HomeServer,
    },
};
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc, sync::watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    certificate::Certificates,
    error::{Error, Result},
    platform::{
        batch::Batcher,
        blobs::Blobs,
        db::{Db, clean},
        wake::Activator,
    },
};
use blobs::Transfers;
pub use dispatch::{Dispatch, Pulse};
use line::Line;
use model::AgentId;
pub use registry::Registry;
use session::{Opened, Opening};

/// A replica whose heart has not beaten for this long is gone, milliseconds.
pub const REPLICA_LIFE: i64 = 15_000;

/// Streams opened in one transaction.
const HERD: usize = 100;

/// Answers questions of one kind. Given: who asks, about which assignment, version and body of the question.
pub type AskHandler = Arc<dyn Fn(AgentId, Ask) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// The fleet of this house at this replica; clones share it.
#[derive(Clone)]
pub struct Fleet {
    /// The database.
    pub db: Db,
    /// Who signs.
    pub certificates: Certificates,
    /// What is too large for a row.
    pub blobs: Blobs,
    /// The door for domains.
    pub desired: desired::Desired,
    /// The streams of this replica.
    pub registry: Registry,
    /// Name of this replica.
    pub replica: Arc<str>,
    /// Where agents reach home, host:port.
    pub homes: Arc<[String]>,
    /// Where people reach this replica.
    pub url: Arc<str>,
    sample_seconds: u32,
    intake: mpsc::Sender<intake::Said>,
    opener: Batcher<(Fleet, Opening), Result<Opened>>,
    asks: Arc<BTreeMap<&'static str, AskHandler>>,
    closed: Arc<Mutex<Vec<(AgentId, i64)>>>,
    transfers: Transfers,
    again: Activator,
}

/// How a fleet is told about its surroundings.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Name of this replica.
    pub replica: String,
    /// Where agents reach home, host:port.
    pub homes: Vec<String>,
    /// Where people reach this replica.
    pub url: String,
    /// Seconds between samples; 0: none.
    pub sample_seconds: u32,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("replica", &self.replica).field("homes", &self.homes).finish_non_exhaustive()
    }
}

// === impl Fleet ===

impl Fleet {
    /// Names of the replicas whose heart beats, this one among them.
    pub async fn live_replicas(&self) -> Result<Vec<String>> {
        store::live_replicas(&mut *self.db.read().await?, self.db.engine(), REPLICA_LIFE).await
    }

    /// The fleet of this house. `asks` answer the agents' questions, by kind.
    pub fn new(
        db: Db,
        certificates: Certificates,
        blobs: Blobs,
        around: Surroundings,
        asks: BTreeMap<&'static str, AskHandler>,
    ) -> Self {
        let registry = Registry::new(db.wake().listen(&["pulse"]));
        Self {
            intake: intake::spawn(db.clone(), registry.clone()),
            opener: Batcher::spawn(HERD, session::open_all),
            desired: desired::Desired::new(certificates.clone()),
            again: db.wake().listen(&["fleet"]),
            db,
            certificates,
            blobs,
            transfers: Transfers::default(),
            registry,
            replica: around.replica.into(),
            homes: around.homes.into(),
            url: around.url.into(),
            sample_seconds: around.sample_seconds,
            asks: asks.into(),
            closed: Arc::default(),
        }
    }

    /// Wakes the loop that hands out assignments.
    pub fn dispatch_activator(&self) -> Activator {
        self.again.clone()
    }

    /// Serves agents until `stop`. The streams that are open end as the caller drains them.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: watch::Receiver<Arc<rustls::ServerConfig>>,
        rate: listen::Rate,
        stop: CancellationToken,
    ) -> Result<()> {
        let enrollment = EnrollmentServer::new(enroll::EnrollmentService { fleet: self.clone() })
            .max_decoding_message_size(MAX_ENROLL)
            .max_encoding_message_size(MAX_ENROLL);
        let home = HomeServer::new(session::HomeService { fleet: self.clone() })
            .max_decoding_message_size(MAX_FRAME)
            .max_encoding_message_size(MAX_FRAME);
        let blobs = BlobsServer::new(blobs::BlobsService { fleet: self.clone() })
            .max_decoding_message_size(MAX_CHUNK)
            .max_encoding_message_size(MAX_CHUNK);
        let connections = listen::accept(listener, tls, rate, stop.clone());
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(PING_EVERY_SECS)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(PING_WAIT_SECS)))
            .max_concurrent_streams(16)
            .initial_stream_window_size(STREAM_WINDOW)
            .add_service(enrollment)
            .add_service(home)
            .add_service(blobs)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned())
            .await
            .map_err(Error::internal)
    }

    /// What every agent is told about its home.
    fn settings(&self) -> desired::Document {
        let settings = muster_proto::fleet::Settings {
            roots: self.certificates.house().roots.iter().map(|r| bytes::Bytes::copy_from_slice(r)).collect(),
            homes: self.homes.to_vec(),
            sample_seconds: self.sample_seconds,
        };
        enroll::settings_document(settings.encode_to_vec())
    }

    /// Answers a question about an assignment.
    async fn answer(&self, agent: &AgentId, ask: Ask) -> Answer {
        let ask_id = ask.ask_id.clone();
        let answer = match self.asks.get(ask.kind.as_str()) {
            Some(handler) => handler(agent.clone(), ask).await,
            None => Answer {
                outcome: Outcome::Unknown.into(),
                message: format!("nobody at home answers questions about {}", clean(&ask.kind)),
                ..Answer::default()
            },
        };
        Answer { ask_id, ..answer }
    }

    /// Takes a line out of the registry; that its stream ended is written with the next pulse.
    fn part(&self, line: &Arc<Line>) {
        if self.registry.part(line, self.db.clock().now()) {
            self.note_closed([(line.agent.clone(), line.epoch())]);
        }
    }

    fn note_closed(&self, streams: impl IntoIterator<Item = (AgentId, i64)>) {
        self.closed.lock().expect("no holder of this lock panics").extend(streams);
    }

    fn take_closed(&self) -> Vec<(AgentId, i64)> {
        std::mem::take(&mut self.closed.lock().expect("no holder of this lock panics"))
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
