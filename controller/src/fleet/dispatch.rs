//! The loop that hands what is committed to the streams that are open here.
//!
//! One number, the newest event seen, serves every stream of this replica: a round reads what was changed after it. Once
//! work is offered in a transaction of its own before it is sent. Every thirty seconds a round also takes up whatever was
//! not accepted, so a wake-up that is lost costs no more than that.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Fleet,
    desired::{self, Envelope},
    enroll::refusal,
    line::Line,
    model::{AgentId, Key},
    store, wire,
};
use crate::{
    error::Result,
    platform::{reconcile::Reconciler, wake::AGENTS},
};

/// Rows read at once.
const PIECE: i64 = 2000;

/// How often everything that was not accepted is taken up again.
const LEVEL: Duration = Duration::from_secs(30);

/// How long to wait for a stream that is joining.
const JOINING_PAUSE: Duration = Duration::from_millis(50);

/// Assignments whose documents are held at once while they are handed out.
const DOCUMENTS: usize = 1000;

/// Hands out what is committed.
#[derive(Debug)]
pub struct Dispatch {
    /// The house.
    pub fleet: Fleet,
    watermark: Option<i64>,
    revoked_upto: i64,
    levelled: Instant,
    /// Agents whose streams were joining when work for them was read: it is offered in the next round.
    joining: Vec<AgentId>,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Assignments handed to streams.
    pub handed: usize,
    /// Streams cut because their agents were revoked.
    pub cut: usize,
}

// === impl Dispatch ===

impl Dispatch {
    /// A loop that starts from now: what is older reaches agents when they come home.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet, watermark: None, revoked_upto: 0, levelled: Instant::now(), joining: Vec::new() }
    }

    async fn round(&mut self) -> Result<Status> {
        let fleet = self.fleet.clone();
        let mut status = Status::default();
        let head = crate::platform::events::head(&mut *fleet.db.read().await?).await?;
        let joining = std::mem::take(&mut self.joining);
        if !joining.is_empty() {
            let late = desired::assignments(&mut *fleet.db.read().await?, &joining).await?;
            status.handed += self.hand(late).await?;
        }
        let mut from = *self.watermark.get_or_insert(head);
        if self.revoked_upto == 0 {
            self.revoked_upto = from;
        }
        while from < head {
            let piece = desired::changed_since(&mut *fleet.db.read().await?, from, PIECE).await?;
            let last = piece.last().map_or(head, |e| e.wanted.generation);
            let whole = (piece.len() as i64) < PIECE;
            // Many rows may share one generation: a piece that ends within one is followed by a read of that one whole.
            let (piece, upto) = if whole { (piece, head) } else { self.complete(piece, last).await? };
            status.handed += self.hand(piece).await?;
            from = upto;
            self.watermark = Some(from);
        }
        status.cut = self.cut_revoked(head).await?;
        if self.levelled.elapsed() >= LEVEL {
            self.levelled = Instant::now();
            let unsent = desired::unsent(&mut *fleet.db.read().await?, &fleet.replica).await?;
            status.handed += self.hand(unsent).await?;
        }
        Ok(status)
    }

    async fn complete(&self, mut piece: Vec<Envelope>, last: i64) -> Result<(Vec<Envelope>, i64)> {
        piece.retain(|e| e.wanted.generation < last);
        let rest = desired::of_generation(&mut *self.fleet.db.read().await?, last).await?;
        piece.extend(rest);
        Ok((piece, last))
    }

    /// Hands assignments to the streams of their agents, as far as those are here.
    async fn hand(&mut self, envelopes: Vec<Envelope>) -> Result<usize> {
        let fleet = &self.fleet;
        let mut lines: HashMap<AgentId, Arc<Line>> = HashMap::new();
        let mut here = Vec::new();
        for envelope in envelopes {
            let line = match lines.get(&envelope.agent) {
                Some(line) => Some(line.clone()),
                None => fleet.registry.line(&envelope.agent),
            };
            let Some(line) = line else { continue };
            let refused = Some((envelope.wanted.generation, line.capability_digest.clone()));
            if envelope.wanted.refused != refused && envelope.wanted.is_to_be_sent() {
                lines.insert(envelope.agent.clone(), line);
                here.push(envelope);
            }
        }
        let joining =
            here.iter().filter(|e| e.wanted.is_new_once() && lines.get(&e.agent).is_some_and(|l| l.epoch() == 0));
        self.joining.extend(joining.map(|e| e.agent.clone()));
        if !self.joining.is_empty() {
            let again = fleet.again.clone();
            tokio::spawn(async move {
                tokio::time::sleep(JOINING_PAUSE).await;
                again.wake();
            });
        }
        let offered = offer(fleet, &here, &lines).await?;
        here.retain(|e| !e.wanted.is_new_once() || offered.contains(&(e.agent.clone(), e.wanted.key.clone())));
        for piece in here.chunks(DOCUMENTS) {
            let digests: BTreeSet<_> =
                piece.iter().map(|e| e.wanted.digest.clone()).filter(|d| !d.is_empty()).collect();
            let digests: Vec<_> = digests.into_iter().collect();
            let documents = fleet.desired.documents(&mut *fleet.db.read().await?, &digests).await?;
            for envelope in piece {
                if let Some(line) = lines.get(&envelope.agent) {
                    line.assign(wire::assign(envelope, documents.get(&envelope.wanted.digest)));
                }
            }
        }
        Ok(here.len())
    }

    async fn cut_revoked(&mut self, head: i64) -> Result<usize> {
        let fleet = &self.fleet;
        let revoked = store::revoked_since(&mut *fleet.db.read().await?, self.revoked_upto).await?;
        self.revoked_upto = head;
        let lines: Vec<_> = revoked.into_iter().filter_map(|id| fleet.registry.line(&AgentId(id))).collect();
        for line in &lines {
            line.end(refusal(muster_pki::standing::Standing::Revoked, fleet.db.clock().now()).into());
            let kill = line.kill.clone();
            tokio::spawn(async move {
                // Time for the status to be read; the connection is closed whether it was or not.
                tokio::time::sleep(Duration::from_millis(500)).await;
                kill.kill();
            });
        }
        Ok(lines.len())
    }
}

impl Reconciler for Dispatch {
    type Status = Result<Status, String>;
    const PERIOD: Duration = Duration::from_secs(5);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "assignments could not be handed out; the next round tries again");
            error.to_string()
        })
    }
}

async fn offer(
    fleet: &Fleet,
    here: &[Envelope],
    lines: &HashMap<AgentId, Arc<Line>>,
) -> Result<HashSet<(AgentId, Key)>> {
    // A stream that is not open yet has no number to offer under; opening it offers what is there.
    let open = |e: &Envelope| lines.get(&e.agent).filter(|l| l.epoch() > 0).cloned();
    let work: Vec<_> = here
        .iter()
        .filter(|e| e.wanted.is_new_once())
        .filter_map(|e| open(e).map(|l| (e.agent.clone(), e.wanted.key.clone(), l.ledger.clone(), l.epoch())))
        .collect();
    if work.is_empty() {
        return Ok(HashSet::new());
    }
    let work = &work;
    let offered = fleet.db.write(|mut tx| async move {
        let offered = desired::offer(&mut tx, work).await?;
        tx.done(offered)
    });
    Ok(offered.await?.into_iter().collect())
}

/// Rounds of the pulse are at least this far apart: it is woken by each stream of a herd.
const BEAT_PAUSE: Duration = Duration::from_millis(200);

/// The loop that writes how agents fare, says that this replica lives, and forgets streams that ended.
#[derive(Debug)]
pub struct Pulse {
    fleet: Fleet,
    /// When the last round began, and when the heart beat last.
    round: Option<Instant>,
    beat: Option<Instant>,
}

impl Reconciler for Pulse {
    type Status = Result<usize, String>;
    const PERIOD: Duration = Duration::from_secs(2);

    async fn reconcile(&mut self) -> Self::Status {
        if let Some(last) = self.round {
            tokio::time::sleep(BEAT_PAUSE.saturating_sub(last.elapsed())).await;
        }
        self.round = Some(Instant::now());
        self.round().await.map_err(|error| {
            tracing::error!(%error, "liveness could not be written; the next round tries again");
            error.to_string()
        })
    }
}

impl Pulse {
    /// A pulse that has not beaten.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet, round: None, beat: None }
    }

    /// An agent that is missing here may live at another replica: how it fares is then that one's to say.
    async fn let_go(&self) -> Result<()> {
        let fleet = &self.fleet;
        let told = fleet.registry.transitions(fleet.db.clock().now());
        let missing: Vec<_> = told
            .into_iter()
            .filter(|(_, l, _)| *l != super::model::Liveness::Online)
            .map(|(agent, ..)| agent)
            .collect();
        if !missing.is_empty() {
            let (mut conn, engine) = (fleet.db.read().await?, fleet.db.engine());
            let gone = store::elsewhere(&mut conn, engine, &fleet.replica, &missing, super::REPLICA_LIFE).await?;
            fleet.registry.let_go(&gone);
        }
        Ok(())
    }

    async fn round(&mut self) -> Result<usize> {
        let fleet = &self.fleet;
        self.let_go().await?;
        let told = fleet.registry.transitions(fleet.db.clock().now());
        let closed = fleet.take_closed();
        let is_due = self.beat.is_none_or(|last| last.elapsed() >= Self::PERIOD);
        if told.is_empty() && closed.is_empty() && !is_due {
            return Ok(0);
        }
        let (told, ended) = (&told, &closed);
        let written = fleet
            .db
            .write(|mut tx| async move {
                store::save_heartbeat(&mut tx, &fleet.replica, &fleet.url).await?;
                store::close_sessions(&mut tx, ended).await?;
                store::save_liveness(&mut tx, told).await?;
                let changes = told.iter().map(|(agent, liveness, _)| {
                    let kind = match liveness {
                        super::model::Liveness::Never => "agent.never_seen",
                        super::model::Liveness::Online => "agent.online",
                        super::model::Liveness::Stale => "agent.stale",
                        super::model::Liveness::Offline => "agent.offline",
                    };
                    crate::platform::events::Actor::controller().change(kind, format!("agent/{agent}"))
                });
                let changes: Vec<_> = changes.collect();
                if !changes.is_empty() {
                    tx.record_all(changes).await?;
                    tx.wake(AGENTS);
                }
                tx.done(())
            })
            .await;
        if let Err(error) = written {
            // An agent whose stream is not known to have ended is held off wherever else it goes.
            fleet.note_closed(closed);
            return Err(error);
        }
        fleet.registry.written(told);
        self.beat = Some(Instant::now());
        Ok(told.len())
    }
}
