//! Blobs to and from agents: calls of their own beside an agent's stream, on its connection, so that whatever ends the
//! stream ends them.
//!
//! An agent is given what an assignment of it names, and stores what one allows. Few transfers run at once; one that stands
//! still is ended, and goes on at its offset when it is tried again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use muster_pki::{hex, standing::Standing, unhex};
use muster_proto::fleet::{Chunk, FetchRequest, StoreResponse, blobs_server::Blobs};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Fleet, desired,
    enroll::{no_certificate, peer, refusal},
    line::Line,
    model::{AgentId, Key},
    session::judge,
    store, wire,
};
use crate::{
    error::{Error, Result},
    platform::{
        blobs::{Damaged, Held, Incoming, Reader},
        db::clean,
    },
};

/// Transfers under way at once …
const AT_ONCE: usize = 32;

/// … and those of one agent, waiting ones included.
const OF_AN_AGENT: usize = 4;

/// A transfer that stands still for so long is ended, and so is one that waits for its turn.
const STALL: Duration = Duration::from_secs(60);

/// The service that carries blobs.
#[derive(Debug, Clone)]
pub struct BlobsService {
    /// The house they belong to.
    pub fleet: Fleet,
}

/// Transfers under way at this replica; clones share them.
#[derive(Debug, Clone)]
pub struct Transfers {
    all: Arc<Semaphore>,
    /// How long one may stand still.
    stall: Duration,
    of_agents: Arc<Mutex<HashMap<AgentId, usize>>>,
}

/// A transfer's place among them.
pub struct Slot {
    transfers: Transfers,
    agent: AgentId,
    turn: Option<OwnedSemaphorePermit>,
}

/// What an agent wants to store.
struct Wanted {
    key: Key,
    digest: String,
    size: i64,
}

#[tonic::async_trait]
impl Blobs for BlobsService {
    type FetchStream = ReceiverStream<Result<Chunk, Status>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let fleet = &self.fleet;
        let line = self.caller(&request).await?;
        let slot = fleet.transfers.begin(&line.agent).await?;
        let request = request.into_inner();
        let (digest, offset) = (digest_of(&request.digest)?, wire::signed(request.offset));
        let reader = async {
            let mut conn = fleet.db.read().await?;
            if !desired::is_granted(&mut conn, &line.agent, &digest).await? {
                return Err(Error::Forbidden(format!("no assignment of this agent names the blob {digest}")));
            }
            let reader = fleet.blobs.reader(&mut conn, &digest, offset).await?;
            reader.ok_or_else(|| Error::not_found("blob", &digest))
        };
        let reader = reader.await.map_err(status)?;
        if offset > reader.size {
            return Err(Error::invalid("offset", format!("the blob {digest} has {} bytes", reader.size)).into());
        }
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(give(reader, request, line, slot, send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn store(&self, request: Request<Streaming<Chunk>>) -> Result<Response<StoreResponse>, Status> {
        let fleet = &self.fleet;
        let line = self.caller(&request).await?;
        let slot = fleet.transfers.begin(&line.agent).await?;
        let mut inbound = request.into_inner();
        let first = next(&mut inbound, &line, &slot).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a store begins with a chunk"))?;
        let wanted = wanted(&first)?;
        let blob = (wanted.digest.as_str(), wanted.size);
        let now = fleet.db.clock().now();
        let mut conn = fleet.db.read().await?;
        if desired::may_store(&mut conn, &line.agent, &wanted.key, blob, now).await? {
            return Ok(answer(&wanted, wanted.size, true));
        }
        drop(conn);
        let mut incoming = fleet.blobs.receive(&line.agent.0, &wanted.digest, wanted.size).await?;
        take(&mut inbound, first, &line, &slot, &mut incoming).await?;
        if !incoming.is_whole() {
            return Ok(answer(&wanted, incoming.there(), false));
        }
        let held = incoming.finish().await?.ok_or_else(|| {
            let digest = &wanted.digest;
            Status::data_loss(format!("what arrived is not the blob {digest}; nothing of it was kept"))
        })?;
        fleet.keep_stored(&line, &wanted.key, &held).await?;
        Ok(answer(&wanted, wanted.size, true))
    }
}

// === impl BlobsService ===

impl BlobsService {
    /// Whose stream is open on the connection of this call.
    async fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Line>> {
        let fleet = &self.fleet;
        let now = fleet.db.clock().now();
        let peer = peer(request)?;
        let leaf = peer.leaf.ok_or_else(|| no_certificate(now))?;
        let standing = judge(fleet, &leaf).await?;
        let agent = leaf.agent_id.clone().filter(|_| standing == Standing::Ok).ok_or_else(|| refusal(standing, now))?;
        let line = fleet.registry.line(&AgentId(agent));
        let own = line.filter(|line| line.epoch() > 0 && Arc::ptr_eq(&line.kill, &peer.kill));
        own.ok_or_else(|| Error::Conflict("blobs travel beside an agent's stream; open that first".into()))
    }
}

// === impl Fleet: what agents store ===

impl Fleet {
    /// Keeps what an agent stored, while the stream is still its agent's.
    async fn keep_stored(&self, line: &Line, key: &Key, held: &Held) -> Result<()> {
        let session = &[(line.agent.clone(), line.epoch())];
        self.db
            .write(|mut tx| async move {
                let engine = tx.engine();
                let live = store::live_sessions(&mut tx, engine, session).await?;
                if !live.iter().any(|(_, epoch)| *epoch == line.epoch()) {
                    return Err(Error::Conflict("this agent has another stream; go on beside that".into()));
                }
                desired::store(&mut tx, &line.agent, key, held.clone()).await?;
                tx.done(())
            })
            .await
    }
}

/// Hands a blob over as it is taken.
pub async fn give(
    mut reader: Reader,
    request: FetchRequest,
    line: Arc<Line>,
    slot: Slot,
    send: mpsc::Sender<Result<Chunk, Status>>,
) {
    let head =
        Chunk { digest: request.digest, offset: request.offset, size: reader.size.unsigned_abs(), ..Chunk::default() };
    let (mut offset, mut chunk) = (request.offset, Ok(head));
    while !line.is_abandoned() {
        let is_last = chunk.is_err();
        if !matches!(timeout(slot.transfers.stall, send.send(chunk)).await, Ok(Ok(()))) || is_last {
            return;
        }
        chunk = match reader.next().await {
            Ok(None) => return,
            Ok(Some(data)) => {
                let at = offset;
                offset += data.len() as u64;
                Ok(Chunk { offset: at, data, ..Chunk::default() })
            }
            Err(error) => Err(status(error)),
        };
    }
}

/// Takes what comes, up to the end of the blob or of the call.
pub async fn take(
    inbound: &mut (impl Stream<Item = Result<Chunk, Status>> + Unpin),
    first: Chunk,
    line: &Line,
    slot: &Slot,
    incoming: &mut Incoming,
) -> Result<(), Status> {
    let mut chunk = Some(first);
    while let Some(Chunk { offset, data, .. }) = chunk {
        if !data.is_empty() {
            let there = incoming.there();
            if wire::signed(offset) != there {
                return Err(Error::Conflict(format!("{there} bytes are there; go on with those after them")).into());
            }
            incoming.append(data).await?;
        }
        if incoming.is_whole() {
            break;
        }
        chunk = next(inbound, line, slot).await?;
    }
    Ok(())
}

/// The next chunk of a call that goes on; none at its end.
async fn next(
    inbound: &mut (impl Stream<Item = Result<Chunk, Status>> + Unpin),
    line: &Line,
    slot: &Slot,
) -> Result<Option<Chunk>, Status> {
    if line.is_abandoned() {
        return Err(Status::aborted("the stream of this agent has ended"));
    }
    match timeout(slot.transfers.stall, inbound.next()).await {
        Ok(next) => next.transpose(),
        Err(_) => Err(Status::deadline_exceeded("the transfer stood still; go on from what is there")),
    }
}

fn wanted(first: &Chunk) -> Result<Wanted> {
    let size = i64::try_from(first.size).map_err(|_| Error::invalid("size", "a blob is not so large"))?;
    let key = Key { kind: clean(&first.kind), id: clean(&first.id) };
    Ok(Wanted { key, digest: digest_of(&first.digest)?, size })
}

fn digest_of(bytes: &Bytes) -> Result<String> {
    if bytes.len() != 32 {
        return Err(Error::invalid("digest", "a blob is named by the 32 bytes of its SHA-256"));
    }
    Ok(hex(bytes))
}

fn answer(wanted: &Wanted, size: i64, complete: bool) -> Response<StoreResponse> {
    let digest = unhex(&wanted.digest).into();
    Response::new(StoreResponse { digest, size: size.unsigned_abs(), complete })
}

/// What an agent is told: that a blob is damaged helps it, the rest as ever.
fn status(error: Error) -> Status {
    match error {
        Error::Internal(cause) if cause.is::<Damaged>() => {
            tracing::error!(error = %cause, "a blob cannot be given");
            Status::data_loss(cause.to_string())
        }
        other => other.into(),
    }
}

// === impl Transfers ===

impl Default for Transfers {
    fn default() -> Self {
        Self::standing(STALL)
    }
}

impl Transfers {
    /// None yet; one may stand still for so long.
    pub fn standing(stall: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), stall, of_agents: Arc::default() }
    }

    /// Waits for a turn.
    pub async fn begin(&self, agent: &AgentId) -> Result<Slot> {
        let busy = |message: &str| Error::Busy { message: message.into(), retry_after_secs: 1 };
        {
            let mut of_agents = self.lock();
            let own = of_agents.entry(agent.clone()).or_default();
            if *own == OF_AN_AGENT {
                return Err(busy("this agent has as many transfers as it may; try again when one has ended"));
            }
            *own += 1;
        }
        let mut slot = Slot { transfers: self.clone(), agent: agent.clone(), turn: None };
        let turn = timeout(self.stall, self.all.clone().acquire_owned()).await;
        slot.turn =
            Some(turn.map_err(|_| busy("home has as many transfers as it may; try again"))?.map_err(Error::internal)?);
        Ok(slot)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, usize>> {
        self.of_agents.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut of_agents = self.transfers.lock();
        if let Some(own) = of_agents.get_mut(&self.agent) {
            *own -= 1;
            if *own == 0 {
                of_agents.remove(&self.agent);
            }
        }
    }
}
