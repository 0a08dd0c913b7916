//! Blobs between a home and its agents, as a domain would use them, through breaks of every kind.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use muster_agent::{
    driver::{Act, Capability, Driver, Kernel, Settled, Standing, Turn},
    ledger::{Assignment, Key as AgentKey, Refused},
};
use muster_controller::{
    certificate::{Certificates, model::Lives},
    fleet::{
        Fleet,
        desired::{self, Desired, Document, OnInterrupt, OnRevoke},
        model::{AgentId, Class, Key, Labels, Mode, State},
    },
    platform::{blobs::Blobs, clock::Clock, db::Db, wake::Wake},
};
use muster_integration_tests::{
    World,
    processes::Processes,
    raw::{self, Raw},
    world::{Agent, engines, eventually, tester},
};
use muster_pki::{hex, seal::SealKey, sha256, unhex};
use muster_proto::{
    BLOB_PIECE, MAX_CHUNK,
    fleet::{
        Accept, Chunk, FetchRequest, Hello, StoreResponse, blobs_client::BlobsClient, from_agent, from_home,
        refusal::Reason,
    },
    refusal,
};
use tokio::task::JoinHandle;
use tonic::{Code, Status, transport::Channel};

const KIND: &str = "test.blobs";
const MB: usize = 1 << 20;

/// A connection that breaks loses at most so much of what it carried.
const LOST: u64 = 2 * MB as u64;

/// The longest a transfer may take that goes on after a break.
const LIMIT: Duration = Duration::from_secs(60);

/// What a domain uses of a home.
struct Home {
    db: Db,
    desired: Desired,
    blobs: Blobs,
}

/// Keeps what it is told without doing anything.
struct Keep;

impl Driver for Keep {
    fn capability(&self) -> Capability {
        Capability { kind: KIND, versions: (1, 1), offers: Vec::new() }
    }

    fn admit(&self, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }

    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Keep {
    fn turn<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async { Turn::Settled(Settled::default()) })
    }

    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
}

// === impl Home ===

impl Home {
    fn of(fleet: &Fleet) -> Self {
        Self { db: fleet.db.clone(), desired: fleet.desired.clone(), blobs: fleet.blobs.clone() }
    }

    /// Over the files of a controller that does not run.
    async fn behind(house: &Processes) -> Self {
        let data = house.path("controller");
        let url = format!("sqlite:{}", data.join("muster.db").display());
        let db = Db::open(&url, Wake::default(), Clock::default()).await.expect("its database");
        let seal = std::fs::read(data.join("seal-key")).expect("its key").try_into().expect("32 bytes");
        let seal = Arc::new(SealKey::new(&seal));
        let certificates = Certificates::open(db.clone(), seal, "muster.internal", Lives::default()).await;
        let desired = Desired::new(certificates.expect("its authorities"));
        Self { db, desired, blobs: Blobs::open(&data.join("blobs")).expect("its blobs") }
    }

    async fn keep(&self, bytes: &Bytes) -> String {
        let held = &[self.blobs.hold(bytes.clone()).await.expect("held")];
        let kept = self.db.write(|mut tx| async move {
            Blobs::keep(&mut tx, held, "test/stories").await?;
            tx.done(())
        });
        kept.await.expect("kept");
        held[0].digest.clone()
    }

    /// Puts an assignment before an agent that names these blobs and allows as many bytes.
    async fn put(&self, agent: &AgentId, blobs: &[String], store_bytes: usize) {
        let document = &Document {
            mode: Mode::Standing,
            version: 1,
            bytes: b"blobs".to_vec(),
            on_interrupt: OnInterrupt::Report,
            on_revoke: OnRevoke::Keep,
            start_by: 0,
            blobs: blobs.to_vec(),
            store_bytes: store_bytes as i64,
        };
        let put = self.db.write(|mut tx| async move {
            let seq = tx.record(tester().change("test.changed", "test/x")).await?;
            self.desired.put(&mut tx, seq, std::slice::from_ref(agent), &key(), document).await?;
            tx.done(())
        });
        put.await.expect("put");
    }

    async fn is_accepted(&self, agent: &AgentId) {
        eventually("the assignment is accepted", || async {
            let mut conn = self.db.read().await.expect("a connection");
            let held = desired::assignments(&mut conn, std::slice::from_ref(agent)).await.expect("read");
            held.iter().any(|e| e.wanted.key == key() && e.wanted.state == State::Accepted).then_some(())
        })
        .await;
    }

    /// Waits until an agent has stored a blob.
    async fn has(&self, agent: &AgentId, bytes: &Bytes) {
        let (digest, owner) = (digest(bytes), desired::blob_owner(agent, &key()));
        let stored = eventually("the blob is stored", || async {
            let mut conn = self.db.read().await.expect("a connection");
            Blobs::use_of(&mut conn, &owner).await.expect("read").remove(&digest)
        })
        .await;
        assert_eq!(stored, bytes.len() as i64);
        let mut conn = self.db.read().await.expect("a connection");
        assert!(self.blobs.read(&mut conn, &digest).await.expect("whole").as_ref() == Some(bytes));
    }
}

fn key() -> Key {
    Key { kind: KIND.into(), id: "x".into() }
}

fn digest(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// Bytes that no compression and no shifted offset makes equal.
fn bytes(length: usize, seed: u64) -> Bytes {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect::<Vec<_>>().into()
}

async fn joined(world: &World, name: &str) -> Agent {
    let token = world.invite(Class::StagingHost, &Labels::new()).await;
    world.joined(name, &token).await.expect("joined")
}

fn start(agent: &mut Agent) -> Arc<Kernel> {
    agent.start_with(vec![Arc::new(Keep)])
}

/// Waits for a blob beside the test.
fn need(kernel: &Arc<Kernel>, digest: &str, size: usize) -> JoinHandle<Result<Bytes, String>> {
    let (kernel, digest) = (kernel.clone(), digest.to_owned());
    tokio::spawn(async move {
        let path = kernel.blobs.need(&digest, size as u64).await?;
        Ok(std::fs::read(path).expect("its file").into())
    })
}

async fn got(needed: JoinHandle<Result<Bytes, String>>) -> Result<Bytes, String> {
    tokio::time::timeout(LIMIT, needed).await.expect("it comes to an end").expect("without a panic")
}

/// All of a blob came, and little of it twice.
fn carried(agent: &Agent, before: u64, bytes: &Bytes, breaks: u64) {
    let (carried, whole) = (agent.cable.carried() - before, bytes.len() as u64);
    assert!((whole..whole + (breaks + 1) * LOST).contains(&carried), "{carried} bytes for {whole}");
}

// === real agents ===

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_go_both_ways_and_go_on_where_they_stopped() {
    for engine in engines() {
        let world = World::on(engine).await;
        let home = Home::of(&world.home.fleet);
        let mut agent = joined(&world, "worker").await;
        let (down, up) = (bytes(20 * MB, 1), bytes(20 * MB, 2));
        let named = home.keep(&down).await;
        home.put(&agent.id, std::slice::from_ref(&named), 20 * MB).await;
        let kernel = start(&mut agent);
        home.is_accepted(&agent.id).await;

        let before = agent.cable.carried();
        agent.cable.cut_after(7 * MB as u64);
        let needed = need(&kernel, &named, down.len());
        agent.cable.is_cut().await;
        agent.cable.cut_after(7 * MB as u64);
        agent.cable.mend();
        agent.cable.is_cut().await;
        needed.abort();
        drop(kernel);
        agent.kill().await;
        agent.cable.mend();
        let kernel = start(&mut agent);
        assert!(got(need(&kernel, &named, down.len())).await.expect("fetched") == down);
        carried(&agent, before, &down, 2);

        let before = agent.cable.carried();
        agent.cable.cut_after(7 * MB as u64);
        let brought = kernel.blobs.bring(&AgentKey::new(KIND, "x"), &up).expect("kept");
        assert_eq!(brought, digest(&up));
        agent.cable.is_cut().await;
        agent.cable.cut_after(7 * MB as u64);
        agent.cable.mend();
        agent.cable.is_cut().await;
        drop(kernel);
        agent.kill().await;
        agent.cable.mend();
        let kernel = start(&mut agent);
        home.has(&agent.id, &up).await;
        carried(&agent, before, &up, 2);
        eventually("it is kept no longer", || async { kernel.blobs.to_bring().is_empty().then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_home_is_killed_in_the_middle() {
    let mut house = Processes::new();
    house.certificate_seconds = 3600;
    house.start_controller(None);
    let token = house.invite();
    let far: SocketAddr = house.agents_address().parse().expect("an address");
    let mut agent = Agent::join(house.dir.path(), "worker", far, &token).await.expect("joined");
    house.kill_controller();
    let home = Home::behind(&house).await;
    let (down, up) = (bytes(20 * MB, 1), bytes(20 * MB, 2));
    let named = home.keep(&down).await;
    home.put(&agent.id, std::slice::from_ref(&named), 20 * MB).await;
    house.start_controller(None);
    let kernel = start(&mut agent);
    home.is_accepted(&agent.id).await;

    let before = agent.cable.carried();
    agent.cable.hold_after(10 * MB as u64);
    let needed = need(&kernel, &named, down.len());
    agent.cable.holds().await;
    house.kill_controller();
    agent.cable.let_go();
    house.start_controller(None);
    assert!(got(needed).await.expect("fetched") == down);
    carried(&agent, before, &down, 1);

    let before = agent.cable.carried();
    agent.cable.hold_after(10 * MB as u64);
    kernel.blobs.bring(&AgentKey::new(KIND, "x"), &up).expect("kept");
    agent.cable.holds().await;
    house.kill_controller();
    agent.cable.let_go();
    house.start_controller(None);
    home.has(&agent.id, &up).await;
    carried(&agent, before, &up, 1);
    home.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_the_wait_and_names_its_reason() {
    let world = World::new().await;
    let home = Home::of(&world.home.fleet);
    let mut agent = joined(&world, "worker").await;
    let (small, damaged) = (bytes(MB, 1), bytes(MB, 2));
    let (named, bad, foreign) = (home.keep(&small).await, home.keep(&damaged).await, home.keep(&bytes(9, 3)).await);
    let missing = digest(b"nobody has this");
    home.put(&agent.id, &[named.clone(), bad.clone(), missing.clone()], 3 * MB).await;
    let kernel = start(&mut agent);
    home.is_accepted(&agent.id).await;
    let file = world.config.blobs.join(&bad[..2]).join(&bad);
    std::fs::write(file, bytes(MB, 4)).expect("damaged");
    let cases = [
        (&foreign, 9, "no assignment of this agent names"),
        (&missing, 15, "no blob named"),
        (&named, MB - 1, "1048576 bytes, not 1048575"),
        (&bad, MB, "holds other bytes"),
    ];
    for (digest, size, why) in cases {
        let refused = got(need(&kernel, digest, size)).await.expect_err("refused");
        assert!(refused.contains(why) && refused.contains(digest.as_str()), "{refused}");
    }
    assert!(got(need(&kernel, &named, MB)).await.expect("fetched") == small);

    // What may never be stored is given up, and stands in the way of nothing else.
    let kept = |id: &str, bytes: &Bytes| kernel.blobs.bring(&AgentKey::new(KIND, id), bytes).expect("kept");
    kept("y", &bytes(10, 5));
    kept("x", &bytes(3 * MB + 1, 6));
    kept("x", &bytes(3 * MB, 7));
    home.has(&agent.id, &bytes(3 * MB, 7)).await;
    eventually("nothing is left", || async { kernel.blobs.to_bring().is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_home_cannot_write_a_blob_waits_at_its_agent() {
    let world = World::new().await;
    let home = Home::of(&world.home.fleet);
    let mut agent = joined(&world, "worker").await;
    home.put(&agent.id, &[], MB).await;
    let kernel = start(&mut agent);
    home.is_accepted(&agent.id).await;
    // Also root cannot write there.
    let incoming = world.config.blobs.join("incoming");
    std::fs::remove_dir(&incoming).expect("removed");
    std::fs::write(&incoming, "no folder").expect("written");
    let up = bytes(MB, 1);
    kernel.blobs.bring(&AgentKey::new(KIND, "x"), &up).expect("kept");
    let witness = joined(&world, "witness").await;
    home.put(&witness.id, &[], MB).await;
    let odd = Odd::new(&world, &home, &witness, true).await;
    code(odd.store(vec![head(&up), piece(&up, 0, BLOB_PIECE)]).await, Code::Internal, "its log says");
    assert_eq!(kernel.blobs.to_bring().len(), 1);
    world.online(&agent).await;
    std::fs::remove_file(&incoming).expect("removed");
    std::fs::create_dir(&incoming).expect("a folder again");
    home.has(&agent.id, &up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_leave_room_for_what_the_stream_has_to_say() {
    let world = World::new().await;
    let home = Home::of(&world.home.fleet);
    let mut agent = joined(&world, "worker").await;
    let down = bytes(20 * MB, 1);
    let named = home.keep(&down).await;
    home.put(&agent.id, std::slice::from_ref(&named), 20 * MB).await;
    let kernel = start(&mut agent);
    home.is_accepted(&agent.id).await;
    agent.cable.pace(MB as u64);
    let needed = need(&kernel, &named, down.len());
    kernel.blobs.bring(&AgentKey::new(KIND, "x"), &bytes(20 * MB, 2)).expect("kept");
    let before = agent.cable.carried();
    eventually("both are under way", || async { (agent.cable.carried() > before + MB as u64).then_some(()) }).await;
    let line = world.home.fleet.registry.line(&agent.id).expect("its stream");
    for _ in 0..5 {
        let nonce = u64::from_be_bytes(muster_pki::random());
        let pong = tokio::time::timeout(Duration::from_secs(3), line.ping(nonce)).await;
        pong.expect("the stream answers beside twenty seconds of transfers");
    }
    assert!(!needed.is_finished() && kernel.blobs.to_bring().len() == 1, "they were under way all the while");
    needed.abort();
}

// === what no agent does ===

/// One that speaks for itself: its stream is open and its assignment accepted.
struct Odd {
    channel: Channel,
    _stream: Raw,
}

impl Odd {
    async fn new(world: &World, home: &Home, agent: &Agent, accepts: bool) -> Self {
        let channel = raw::channel(&world.home.address.to_string(), &agent.state).await;
        let (oldest_protocol, newest_protocol) = muster_proto::PROTOCOL;
        let hello = Hello { oldest_protocol, newest_protocol, ledger_id: "odd".into(), ..Hello::default() };
        let (mut stream, _) = Raw::welcomed(channel.clone(), hello).await.expect("welcome");
        let mut waits = accepts;
        while waits {
            let Some(from_home::Frame::Assign(it)) = stream.hear().await.expect("a frame") else { continue };
            let accept = Accept { kind: it.kind.clone(), id: it.id, epoch: it.epoch, generation: it.generation };
            stream.say(from_agent::Frame::Accept(accept)).await;
            waits = it.kind != KIND;
        }
        if accepts {
            home.is_accepted(&agent.id).await;
        }
        Self { channel, _stream: stream }
    }

    async fn store(&self, chunks: Vec<Chunk>) -> Result<StoreResponse, Status> {
        store(&self.channel, chunks).await
    }
}

async fn store(channel: &Channel, chunks: Vec<Chunk>) -> Result<StoreResponse, Status> {
    let client = BlobsClient::new(channel.clone()).max_encoding_message_size(4 * MAX_CHUNK);
    Ok({ client }.store(futures::stream::iter(chunks)).await?.into_inner())
}

async fn fetch(channel: &Channel, digest: &str, offset: u64) -> Result<Vec<u8>, Status> {
    let request = FetchRequest { digest: unhex(digest).into(), offset };
    let mut inbound = BlobsClient::new(channel.clone()).fetch(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(chunk) = inbound.message().await? {
        assert!(chunk.data.is_empty() || chunk.offset == offset + all.len() as u64);
        all.extend_from_slice(&chunk.data);
    }
    Ok(all)
}

fn head(bytes: &Bytes) -> Chunk {
    let (kind, id, size) = (KIND.into(), "x".into(), bytes.len() as u64);
    Chunk { digest: unhex(&digest(bytes)).into(), kind, id, size, ..Chunk::default() }
}

fn piece(bytes: &Bytes, offset: usize, length: usize) -> Chunk {
    Chunk { offset: offset as u64, data: bytes.slice(offset..offset + length), ..Chunk::default() }
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) {
    let status = answer.expect_err("refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(why), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_and_stores_what_its_own_assignment_says_and_nothing_else() {
    for engine in engines() {
        let world = World::on(engine).await;
        let home = Home::of(&world.home.fleet);
        let (own, other) = (joined(&world, "own").await, joined(&world, "other").await);
        let large = bytes(2 * BLOB_PIECE + 7, 1);
        let named = home.keep(&large).await;
        home.put(&own.id, std::slice::from_ref(&named), MB).await;
        let stranger = raw::channel(&world.home.address.to_string(), &own.state).await;
        code(fetch(&stranger, &named, 0).await, Code::FailedPrecondition, "open that first");
        {
            let early = Odd::new(&world, &home, &own, false).await;
            let blob = bytes(10, 2);
            code(early.store(vec![head(&blob)]).await, Code::FailedPrecondition, "not accepted");
        }
        world.gone(&own).await;
        let odd = Odd::new(&world, &home, &own, true).await;
        let foreign = Odd::new(&world, &home, &other, false).await;

        for offset in [0, 5, large.len() - 1, large.len()] {
            assert!(fetch(&odd.channel, &named, offset as u64).await.expect("given") == large[offset..], "{offset}");
        }
        code(fetch(&odd.channel, &named, 2 * MB as u64).await, Code::InvalidArgument, "offset");
        code(fetch(&odd.channel, "abcd", 0).await, Code::InvalidArgument, "32 bytes");
        code(fetch(&foreign.channel, &named, 0).await, Code::PermissionDenied, "names the blob");

        let blob = bytes(BLOB_PIECE + 100, 3);
        code(foreign.store(vec![head(&blob)]).await, Code::PermissionDenied, "not an assignment");
        let size = MB as u64 + 1;
        code(odd.store(vec![Chunk { size, ..head(&blob) }]).await, Code::PermissionDenied, "1048576 bytes");
        let there = odd.store(vec![head(&blob), piece(&blob, 0, BLOB_PIECE)]).await.expect("taken");
        assert_eq!((there.size, there.complete), (BLOB_PIECE as u64, false));
        let early = odd.store(vec![head(&blob), piece(&blob, 0, 10)]).await;
        code(early, Code::FailedPrecondition, "262144 bytes are there");
        let long = odd.store(vec![head(&blob), piece(&large, BLOB_PIECE, 101)]).await;
        code(long, Code::InvalidArgument, "no more");
        let wrong = odd.store(vec![head(&blob), piece(&large, BLOB_PIECE, 100)]).await;
        code(wrong, Code::DataLoss, "nothing of it was kept");
        let there = odd.store(vec![head(&blob)]).await.expect("taken");
        assert_eq!((there.size, there.complete), (0, false), "nothing half there");
        let heavy = bytes(BLOB_PIECE * 2, 4);
        code(odd.store(vec![head(&heavy), piece(&heavy, 0, BLOB_PIECE * 2)]).await, Code::OutOfRange, "");
        let whole = [head(&blob), piece(&blob, 0, BLOB_PIECE), piece(&blob, BLOB_PIECE, 100)];
        assert!(odd.store(whole.to_vec()).await.expect("taken").complete);
        assert!(odd.store(vec![head(&blob)]).await.expect("there already").complete);
        home.has(&own.id, &blob).await;
        // That home has a blob helps nobody who does not have it.
        let others = odd.store(vec![head(&large)]).await.expect("asked");
        assert_eq!((others.size, others.complete), (0, false));

        let nobody = raw::stranger(&world.home.address.to_string(), &own.state).await;
        let refused = fetch(&nobody, &named, 0).await.expect_err("refused");
        assert_eq!(refusal::from_status(&refused).map(|r| r.reason()), Some(Reason::NoCertificate));
        world.home.fleet.revoke_agent(&tester(), &own.id, "lost").await.expect("revoked");
        let channel = raw::channel(&world.home.address.to_string(), &own.state).await;
        for refused in [fetch(&channel, &named, 0).await.map(drop), store(&channel, vec![head(&blob)]).await.map(drop)]
        {
            let refused = refused.expect_err("refused");
            assert_eq!(refusal::from_status(&refused).map(|r| r.reason()), Some(Reason::Revoked), "{refused:?}");
        }
    }
}
