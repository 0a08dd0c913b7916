//! The stream an agent lives on: one value that reads and writes, without a task of its own.
//!
//! Opening a stream goes through one batcher, so that a herd that comes home shares its reads and its commit: standing is
//! judged, the stream takes its agent's session, and what the agent holds is compared with what is wanted. Order matters:
//! the line joins the registry before anything is read, so that no change falls between reading and following.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, ready};
use muster_pki::{
    hex,
    leaf::Leaf,
    sha256,
    standing::{Known, Standing},
};
use muster_proto::{
    PROTOCOL,
    fleet::{
        Answer, Ask, FromAgent, FromHome, Hello, Refusal, Welcome, answer, from_agent, from_home, home_server::Home,
        refusal::Reason,
    },
};
use tokio::time::timeout;
use tokio_util::sync::PollSender;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Fleet,
    desired::{self, Envelope},
    enroll::{no_certificate, peer, refusal},
    intake::{Heard, Said, What, poll_frame},
    line::{Line, MAX_ANSWERS},
    model::{self, AgentId, Key, Liveness, Phase, Step, Wanted},
    store::{self, Introduction, OpeningRow},
    wire,
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Tx, clean},
        events::Actor,
        setting,
    },
};

/// A stream must say Hello within this time.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// A stream that does not answer a ping within this time is dead.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The longest frame after Hello, bytes: a report of full length with what it is wrapped in.
const LONGEST: usize = muster_proto::MAX_DOCUMENT + 64 * 1024;

/// Frames read before something is written, when there is both.
const READ_AT_ONCE: usize = 32;

/// The service that agents hold their streams on.
#[derive(Debug, Clone)]
pub struct HomeService {
    /// The house they belong to.
    pub fleet: Fleet,
}

/// A stream about to be opened.
#[derive(Debug, Clone)]
pub struct Opening {
    leaf: Arc<Leaf>,
    agent: AgentId,
    hello: Arc<Hello>,
    line: Arc<Line>,
    /// The stream there was asked and did not answer.
    old_is_dead: bool,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Opened {
    /// It is open.
    Welcome(Box<Welcome>),
    /// Another stream of the agent is there, and this one cannot prove that it is its successor: ask whether that lives.
    Probe(Arc<Line>),
    /// Another stream of the agent is at another replica, and this one cannot prove that it is its successor.
    Elsewhere,
}

/// Takes a line out of the registry when its stream is over, or was given up before it was open.
struct Held {
    fleet: Fleet,
    line: Arc<Line>,
}

/// One stream, reading and writing.
pub struct SessionStream {
    fleet: Fleet,
    line: Arc<Line>,
    _held: Held,
    inbound: Streaming<FromAgent>,
    intake: PollSender<Said>,
    welcome: Option<Box<Welcome>>,
    over: bool,
}

#[tonic::async_trait]
impl Home for HomeService {
    type SessionStream = SessionStream;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<SessionStream>, Status> {
        let fleet = &self.fleet;
        let now = fleet.db.clock().now();
        let peer = peer(&request)?;
        let leaf = peer.leaf.ok_or_else(|| no_certificate(now))?;
        let agent = leaf.agent_id.clone().map(AgentId).ok_or_else(|| refusal(Standing::Unknown, now))?;
        let mut inbound = request.into_inner();
        let first = timeout(HELLO_LIMIT, inbound.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("a stream begins with Hello, within ten seconds"))??;
        let Some(from_agent::Frame::Hello(hello)) = first.and_then(|f| f.frame) else {
            return Err(Status::invalid_argument("a stream begins with Hello"));
        };
        agree_on_protocol(&hello, now)?;
        if let Some(fault) = wire::fault(&hello) {
            return Err(Status::invalid_argument(fault));
        }
        let capability_digest = wire::capability_digest(&hello);
        let line = Arc::new(Line::new(agent.clone(), clean(&hello.ledger_id), capability_digest, peer.kill));
        let held = Held { fleet: fleet.clone(), line: line.clone() };
        let opening = Opening { leaf, agent, hello: hello.into(), line: line.clone(), old_is_dead: false };
        let welcome = fleet.open(opening).await.inspect_err(|_| {
            fleet.registry.counters.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        let intake = PollSender::new(fleet.intake.clone());
        let fleet = fleet.clone();
        let welcome = Some(welcome);
        Ok(Response::new(SessionStream { fleet, line, _held: held, inbound, intake, welcome, over: false }))
    }
}

fn agree_on_protocol(hello: &Hello, now: i64) -> Result<()> {
    let (oldest, newest) = PROTOCOL;
    if hello.oldest_protocol <= newest && hello.newest_protocol >= oldest {
        return Ok(());
    }
    let message = format!(
        "this agent speaks protocol {} to {}, home speaks {oldest} to {newest}; upgrade the older of the two",
        hello.oldest_protocol, hello.newest_protocol
    );
    Err(Error::refused(Reason::Protocol, message, now))
}

/// Judges an identity by its certificate, from the database.
pub(super) async fn judge(fleet: &Fleet, leaf: &Leaf) -> Result<Standing> {
    let agent = leaf.agent_id.clone().unwrap_or_default();
    let caller = (agent, leaf.serial.clone(), String::new());
    let rows = store::openings(&mut *fleet.db.read().await?, &[caller]).await?;
    Ok(judge_row(fleet, leaf, rows.first()))
}

fn judge_row(fleet: &Fleet, leaf: &Leaf, row: Option<&OpeningRow>) -> Standing {
    let known = row.filter(|r| r.leaf_serial.is_some()).map(|r| Known {
        revoked: r.standing == "revoked" || r.leaf_revoked_at.is_some(),
        superseded: r.leaf_superseded_at.is_some(),
        former_issuer: fleet.certificates.house().former.contains(&leaf.issuer_key),
    });
    let now = fleet.db.clock().now();
    muster_pki::standing::judge(known, leaf.not_before, leaf.not_after, now, fleet.certificates.lives().grace)
}

// === impl Fleet: opening ===

impl Fleet {
    async fn open(&self, mut opening: Opening) -> Result<Box<Welcome>> {
        let busy = || Error::refused(Reason::Busy, "home is closing", self.db.clock().now());
        loop {
            match self.opener.submit((self.clone(), opening.clone())).await.ok_or_else(busy)?? {
                Opened::Welcome(welcome) => return Ok(welcome),
                Opened::Elsewhere => return Err(self.told_to_wait()),
                Opened::Probe(old) => {
                    let nonce = u64::from_be_bytes(muster_pki::random());
                    if timeout(PROBE_LIMIT, old.ping(nonce)).await.is_ok() {
                        return Err(self.held_off(&opening).await?);
                    }
                    opening.old_is_dead = true;
                }
            }
        }
    }

    /// The refusal of a stream whose agent has one at another replica, which may have died a moment ago: its heartbeat
    /// lapses, or it closes the stream, before the time to come back.
    fn told_to_wait(&self) -> Error {
        Error::Refused(Box::new(Refusal {
            reason: Reason::Clone.into(),
            message: "another replica holds a stream of this identity; it is let go when that one is dead".into(),
            server_time_ms: self.db.clock().now(),
            retry_after_ms: super::REPLICA_LIFE,
        }))
    }

    /// Notes that a second stream of a living agent was held off, and gives the refusal.
    async fn held_off(&self, opening: &Opening) -> Result<Error> {
        let agent = &opening.agent;
        self.db
            .write(|mut tx| async move {
                let after = serde_json::json!({"hostname": opening.hello.facts.as_ref().map(|f| clean(&f.hostname))});
                let change = Actor::agent(agent).change("agent.clone_held_off", format!("agent/{agent}"));
                tx.record(change.after(after)).await?;
                tx.done(())
            })
            .await?;
        let message = "another stream of this identity is alive; is this host a copy of another?";
        Ok(Error::refused(Reason::Clone, message, self.db.clock().now()))
    }
}

/// Opens streams that came together. Answers each in its place.
pub(super) async fn open_all(batch: Vec<(Fleet, Opening)>) -> Vec<Result<Opened>> {
    let Some((fleet, _)) = batch.first() else { return Vec::new() };
    let fleet = fleet.clone();
    let openings: Vec<_> = batch.into_iter().map(|(_, o)| o).collect();
    let caller = |o: &Opening| (o.agent.0.clone(), o.leaf.serial.clone(), o.line.ledger.clone());
    let callers: Vec<_> = openings.iter().map(caller).collect();
    let known = async {
        let mut conn = fleet.db.read().await?;
        let rows = store::openings(&mut conn, &callers).await?;
        let elsewhere = |r: &OpeningRow| r.session_replica.as_ref().is_some_and(|at| *at != *fleet.replica);
        let replicas = match rows.iter().any(elsewhere) {
            true => store::live_replicas(&mut conn, fleet.db.engine(), super::REPLICA_LIFE).await?,
            false => Vec::new(),
        };
        Ok::<_, Error>((rows, replicas))
    };
    let (rows, replicas) = match known.await {
        Ok(known) => known,
        Err(error) => {
            tracing::error!(%error, "streams could not be opened");
            return openings.iter().map(|_| Err(unavailable())).collect();
        }
    };
    let rows: HashMap<_, _> = rows.into_iter().map(|r| ((r.id.clone(), r.leaf_serial.clone()), r)).collect();
    let mut seen = HashSet::new();
    let mut admitted = Vec::new();
    let mut answers: Vec<_> = openings
        .iter()
        .enumerate()
        .map(|(n, opening)| {
            if !seen.insert(opening.agent.clone()) {
                return Some(Err(unavailable()));
            }
            let row = rows.get(&(opening.agent.0.clone(), Some(opening.leaf.serial.clone())));
            match admit(&fleet, opening, row, &replicas) {
                Ok(None) => {
                    admitted.push((n, opening, row.expect("only known agents are admitted")));
                    None
                }
                Ok(Some(other)) => Some(Ok(other)),
                Err(error) => Some(Err(error)),
            }
        })
        .collect();
    for (n, opened) in open_admitted(&fleet, admitted).await {
        answers[n] = Some(opened);
    }
    answers.into_iter().map(|a| a.unwrap_or_else(|| Err(unavailable()))).collect()
}

fn unavailable() -> Error {
    Error::Busy { message: "home could not open the stream; come again".into(), retry_after_secs: 1 }
}

/// Whether a stream may be opened: None if so, or what stands in the way.
fn admit(fleet: &Fleet, opening: &Opening, row: Option<&OpeningRow>, replicas: &[String]) -> Result<Option<Opened>> {
    let now = fleet.db.clock().now();
    let standing = judge_row(fleet, &opening.leaf, row);
    let (Standing::Ok, Some(row)) = (standing, row) else { return Err(refusal(standing, now)) };
    let token = hex(&sha256(&opening.hello.session_token));
    if row.session_token_hash.as_ref().is_none_or(|t| *t == token) || opening.old_is_dead {
        return Ok(None);
    }
    Ok(match (&row.session_replica, fleet.registry.line(&opening.agent)) {
        (_, Some(old)) => Some(Opened::Probe(old)),
        (Some(replica), None) if *replica != *fleet.replica && replicas.contains(replica) => Some(Opened::Elsewhere),
        _ => None,
    })
}

async fn open_admitted(fleet: &Fleet, admitted: Vec<(usize, &Opening, &OpeningRow)>) -> Vec<(usize, Result<Opened>)> {
    if admitted.is_empty() {
        return Vec::new();
    }
    for (_, opening, row) in &admitted {
        let written = Liveness::from_word(&row.liveness).unwrap_or(Liveness::Never);
        if let Some(old) = fleet.registry.join(&opening.line, written) {
            old.end(Status::aborted("a newer stream of this agent has taken over"));
            old.kill.kill();
        }
    }
    let taken = take_sessions(fleet, &admitted).await;
    // A caller that went away meanwhile takes no line out that joined after it left.
    admitted.iter().filter(|(_, o, _)| o.line.is_abandoned()).for_each(|(_, o, _)| fleet.part(&o.line));
    match taken {
        Ok(opened) => admitted
            .iter()
            .map(|(n, opening, _)| {
                let welcome = opened.get(&opening.agent).cloned().map(Opened::Welcome);
                (*n, welcome.ok_or_else(unavailable))
            })
            .collect(),
        Err(error) => {
            tracing::error!(%error, "streams could not be opened");
            admitted.iter().for_each(|(_, opening, _)| fleet.part(&opening.line));
            admitted.iter().map(|(n, ..)| (*n, Err(unavailable()))).collect()
        }
    }
}

/// What a transaction that opens streams came to, for one agent.
struct Taken {
    epoch: i64,
    send: Vec<Envelope>,
}

async fn take_sessions(
    fleet: &Fleet,
    admitted: &[(usize, &Opening, &OpeningRow)],
) -> Result<HashMap<AgentId, Box<Welcome>>> {
    let tokens: HashMap<_, [u8; 32]> = admitted.iter().map(|(_, o, _)| (&o.agent, muster_pki::random())).collect();
    let tokens = &tokens;
    let (database_epoch, taken) = fleet
        .db
        .write(|mut tx| async move {
            let database_epoch = setting::epoch(&mut tx).await?;
            let hashes: Vec<_> = tokens.iter().map(|(a, t)| ((*a).clone(), hex(&sha256(t)))).collect();
            let epochs: HashMap<_, _> =
                store::save_sessions(&mut tx, &fleet.replica, &hashes).await?.into_iter().collect();
            introduce(fleet, &mut tx, admitted).await?;
            let agents: Vec<_> = admitted.iter().map(|(_, o, _)| o.agent.clone()).collect();
            let mut wanted: HashMap<AgentId, Vec<Wanted>> = HashMap::new();
            for (agent, one) in desired::wanted(&mut tx, &agents).await? {
                wanted.entry(agent).or_default().push(one);
            }
            let (mut taken, mut lacking) = (HashMap::new(), BTreeMap::new());
            for (_, opening, row) in admitted {
                let epoch = epochs.get(&opening.agent.0).copied().unwrap_or_default();
                let wanted = wanted.remove(&opening.agent).unwrap_or_default();
                let keys = compare(&mut tx, opening, row, wanted, database_epoch, epoch).await?;
                if !keys.is_empty() {
                    lacking.insert(opening.agent.clone(), keys);
                }
                taken.insert(opening.agent.clone(), Taken { epoch, send: Vec::new() });
            }
            let agents: Vec<_> = lacking.keys().cloned().collect();
            for envelope in desired::assignments(&mut tx, &agents).await? {
                let is_lacking = lacking.get(&envelope.agent).is_some_and(|keys| keys.contains(&envelope.wanted.key));
                if let Some(taken) = taken.get_mut(&envelope.agent).filter(|_| is_lacking) {
                    taken.send.push(envelope);
                }
            }
            tx.done((database_epoch, taken))
        })
        .await?;
    let digests: BTreeSet<_> = taken.values().flat_map(|t| &t.send).map(|e| e.wanted.digest.clone()).collect();
    let digests: Vec<_> = digests.into_iter().filter(|d| !d.is_empty()).collect();
    let documents = match digests.is_empty() {
        true => BTreeMap::new(),
        false => fleet.desired.documents(&mut *fleet.db.read().await?, &digests).await?,
    };
    let welcome = |(_, opening, row): &(usize, &Opening, &OpeningRow)| {
        let taken = taken.get(&opening.agent)?;
        opening.line.open(taken.epoch);
        if row.acknowledged > wire::signed(opening.hello.acknowledged) {
            opening.line.ack(row.acknowledged.unsigned_abs());
        }
        for envelope in &taken.send {
            opening.line.assign(wire::assign(envelope, documents.get(&envelope.wanted.digest)));
        }
        let welcome = Welcome {
            protocol: PROTOCOL.1.min(opening.hello.newest_protocol),
            controller_version: env!("CARGO_PKG_VERSION").into(),
            session_token: tokens.get(&opening.agent)?.to_vec().into(),
            server_time_ms: fleet.db.clock().now(),
            epoch: database_epoch.unsigned_abs(),
        };
        Some((opening.agent.clone(), Box::new(welcome)))
    };
    Ok(admitted.iter().filter_map(welcome).collect())
}

/// Writes what is new about the agents themselves: program, host, capabilities, ledger, certificate.
async fn introduce(fleet: &Fleet, tx: &mut Tx, admitted: &[(usize, &Opening, &OpeningRow)]) -> Result<()> {
    let now = tx.now();
    let fresh: Vec<_> = admitted.iter().filter(|(_, _, r)| r.leaf_used_at.is_none()).collect();
    let serials: Vec<_> = fresh.iter().map(|(_, o, _)| o.leaf.serial.clone()).collect();
    if !serials.is_empty() {
        fleet.certificates.note_used(tx, &serials, now).await?;
    }
    for (_, opening, row) in admitted {
        let (hello, line) = (&opening.hello, &opening.line);
        let (version, facts) = (clean(&hello.agent_version), wire::facts(hello.facts.as_ref()).to_string());
        let before = (&row.agent_version, &row.facts, &row.capability_digest, &row.ledger_id);
        if before == (&version, &facts, &line.capability_digest, &line.ledger) {
            continue;
        }
        let it = Introduction {
            agent: opening.agent.clone(),
            version,
            facts,
            capabilities: wire::capabilities(hello).to_string(),
            capability_digest: line.capability_digest.clone(),
            ledger_id: line.ledger.clone(),
        };
        store::save_introduction(tx, &it).await?;
        if !row.ledger_id.is_empty() && row.ledger_id != it.ledger_id {
            let change = Actor::agent(&opening.agent).change("agent.ledger_lost", format!("agent/{}", opening.agent));
            tx.record(change).await?;
        }
    }
    Ok(())
}

/// Compares what is wanted with what the agent holds, settles what needs no sending, and names what does.
async fn compare(
    tx: &mut Tx,
    opening: &Opening,
    row: &OpeningRow,
    wanted: Vec<Wanted>,
    database_epoch: i64,
    epoch: i64,
) -> Result<BTreeSet<Key>> {
    let same_ledger = row.ledger_id == opening.line.ledger;
    let held = wire::held(&opening.hello);
    let known: BTreeSet<_> = wanted.iter().map(|one| &one.key).collect();
    for adopted in model::adopted(&known, &held, database_epoch) {
        desired::adopt(tx, &opening.agent, adopted).await?;
    }
    let ledger = wire::ledger_view(&opening.hello, held, same_ledger, &opening.line.capability_digest);
    let (mut send, mut once, mut accepted) = (BTreeSet::new(), Vec::new(), Vec::new());
    for one in wanted {
        let (agent, key) = (&opening.agent, &one.key);
        match model::step(&one, &ledger, database_epoch) {
            Step::Agree => {}
            Step::NoteAccepted => accepted.push((agent.clone(), key.clone(), one.generation)),
            Step::Forget => desired::forget_withdrawn(tx, agent, key, one.generation).await?,
            Step::Cancel => {
                desired::settle(tx, agent, key, Phase::Cancelled, false, "cancelled before it was taken up").await?
            }
            Step::Interrupt => {
                desired::settle(tx, agent, key, Phase::Interrupted, true, "the agent's ledger was lost").await?;
            }
            Step::Send if one.is_new_once() => once.push((agent.clone(), one.key, opening.line.ledger.clone(), epoch)),
            Step::Send => drop(send.insert(one.key)),
        }
    }
    desired::accept(tx, &accepted).await?;
    send.extend(desired::offer(tx, &once).await?.into_iter().map(|(_, key)| key));
    Ok(send)
}

// === impl SessionStream ===

impl SessionStream {
    /// Takes in one frame, for which there is room in the intake.
    fn take(&mut self, frame: from_agent::Frame) -> Result<(), Status> {
        let agent = &self.line.agent;
        if frame.encoded_len() > LONGEST {
            return Err(Status::resource_exhausted("a frame after Hello is at most 320 KiB"));
        }
        let what = match frame {
            from_agent::Frame::Hello(_) => return Err(Status::invalid_argument("a stream has one Hello")),
            from_agent::Frame::Pong(pong) => {
                self.line.pong(pong.nonce);
                return Ok(());
            }
            from_agent::Frame::Sample(sample) => {
                self.fleet.registry.sample(agent, sample);
                return Ok(());
            }
            from_agent::Frame::Ask(ask) => {
                self.ask(ask);
                return Ok(());
            }
            from_agent::Frame::Leave(_) => {
                self.over = true;
                return Ok(());
            }
            from_agent::Frame::Accept(a) => {
                What::Accept(Key { kind: clean(&a.kind), id: clean(&a.id) }, wire::signed(a.generation))
            }
            from_agent::Frame::Refuse(refuse) => What::Refuse(wire::refused(agent, &refuse)),
            from_agent::Frame::Report(report) if report.result.len() > muster_proto::MAX_DOCUMENT => {
                return Err(Status::resource_exhausted("a report is at most 256 KiB"));
            }
            from_agent::Frame::Report(report) => What::Report(Box::new(wire::report(agent, &self.line.ledger, report))),
            from_agent::Frame::Log(log) if log.data.len() > muster_proto::MAX_LOG_PIECE => {
                return Err(Status::resource_exhausted("a piece of output is at most 64 KiB"));
            }
            from_agent::Frame::Log(log) => What::Log(log),
        };
        let said = Said { line: self.line.clone(), what };
        self.intake.send_item(said).map_err(|_| Status::unavailable("home is closing"))
    }

    /// Answers a question beside the stream, a few at once.
    fn ask(&self, ask: Ask) {
        let (fleet, line) = (self.fleet.clone(), self.line.clone());
        if Arc::strong_count(&line) > MAX_ANSWERS + 8 {
            let outcome = answer::Outcome::Unavailable.into();
            let message = "too many questions at once; ask again later".into();
            return line.answer(Answer { ask_id: ask.ask_id, outcome, message, ..Answer::default() });
        }
        tokio::spawn(async move {
            let answer = fleet.answer(&line.agent, ask).await;
            line.answer(answer);
        });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        for _ in 0..READ_AT_ONCE {
            match ready!(poll_frame(&mut self.intake, &mut self.inbound, cx)) {
                Heard::Frame(Ok(FromAgent { frame: Some(frame) })) => self.take(frame)?,
                Heard::Frame(Ok(FromAgent { frame: None })) => {
                    return Poll::Ready(Err(Status::invalid_argument("a frame of a kind that home does not know")));
                }
                Heard::Frame(Err(status)) => return Poll::Ready(Err(status)),
                Heard::End => self.over = true,
                Heard::Closed => return Poll::Ready(Err(Status::unavailable("home is closing"))),
            }
            if self.over {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Stream for SessionStream {
    type Item = Result<FromHome, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(welcome) = this.welcome.take() {
            return Poll::Ready(Some(Ok(FromHome { frame: Some(from_home::Frame::Welcome(*welcome)) })));
        }
        if this.over {
            return Poll::Ready(None);
        }
        let read = this.poll_read(cx);
        if let Poll::Ready(result) = read {
            this.over = true;
            return Poll::Ready(result.err().map(Err));
        }
        let next = this.line.poll_next(&this.fleet.registry.flight, cx);
        match &next {
            Poll::Ready(Some(Err(_))) => this.over = true,
            Poll::Ready(Some(Ok(frame))) if matches!(frame.frame, Some(from_home::Frame::Assign(_))) => {
                this.fleet.registry.counters.assigned.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        next
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        self.line.abandon();
        self.fleet.part(&self.line);
    }
}
