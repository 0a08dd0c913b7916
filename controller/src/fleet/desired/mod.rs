//! The one door through which a domain reaches agents: put, withdraw, read reports. A domain never sees a stream.
//!
//! A generation is the number of the event that made the change, so a change and what it sends share one transaction and
//! one order. Documents lie once, sealed; the kernel never looks inside. What agents answer is for the fleet alone.

mod blobs;
mod read;
mod taken;

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_pki::{hex, sha256};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use utoipa::ToSchema;

use super::{
    logs,
    model::{AgentId, Key, Mode, Phase, Wanted},
};
use crate::{
    certificate::Certificates,
    error::{Error, Result},
    platform::{
        blobs::Blobs,
        crash::CrashPoint,
        db::{Conn, Engine, ROWS, Tx, query},
        setting,
    },
};
pub use blobs::blob_owner;
pub(super) use blobs::{blobs_of, is_granted, may_store, store};
pub use read::{assignments, assignments_of_kind, ended, reports, reports_of};
pub(super) use read::{changed_since, of_generation, unsent, wanted};
pub(super) use taken::{NewReport, Refused, accept, adopt, forget_withdrawn, offer, refuse, save_reports};

const PURPOSE: &str = "document";

/// How long a document that no assignment names is kept, milliseconds.
const KEEP_ORPHANS: i64 = 3_600_000;

/// What becomes of once work that a crash interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It ends as interrupted.
    Report,
    /// It is run again.
    Rerun,
}

/// What becomes of a standing assignment when its agent is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRevoke {
    /// The host stays as it is.
    Keep,
    /// It is withdrawn.
    Stop,
}

/// What an agent is to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Standing or once.
    pub mode: Mode,
    /// Version of the domain's message.
    pub version: u32,
    /// The domain's message, at most [`muster_proto::MAX_DOCUMENT`] bytes.
    pub bytes: Vec<u8>,
    /// Once: what a crash means for it.
    pub on_interrupt: OnInterrupt,
    /// Standing: what a revocation means for it.
    pub on_revoke: OnRevoke,
    /// Once: not to be started at or after this time, milliseconds since the Unix epoch; 0: no limit.
    pub start_by: i64,
    /// Blobs that its agents may fetch for it, by digest.
    pub blobs: Vec<String>,
    /// Bytes of blobs that each of its agents may store for it.
    pub store_bytes: i64,
}

/// One fact about an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is judged.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub holds: bool,
    /// One word why.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
}

/// The newest report of one assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who says it.
    pub agent: AgentId,
    /// Of what.
    pub key: Key,
    /// Generation acted on.
    pub generation: i64,
    /// Where it stands.
    pub phase: Phase,
    /// What is judged about it.
    pub conditions: Vec<Condition>,
    /// The domain's message.
    pub result: Vec<u8>,
    /// The agent's clock, milliseconds since the Unix epoch.
    pub at: i64,
    /// When home had it, milliseconds since the Unix epoch.
    pub received_at: i64,
    /// Once: this is the end.
    pub outcome: bool,
    /// Once, interrupted: it may have had effects.
    pub may_have_run: bool,
    /// Once: which attempt, from 1; 0 when it never started.
    pub attempt: i64,
}

/// An assignment with all that is sent of it but its document.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Who is to act.
    pub agent: AgentId,
    /// What is wanted.
    pub wanted: Wanted,
    /// Version of the domain's message.
    pub version: u32,
    /// What a crash means for it.
    pub on_interrupt: OnInterrupt,
    /// What a revocation means for it.
    pub on_revoke: OnRevoke,
    /// Latest start.
    pub start_by: i64,
    /// Why the agent refused, if it did: reason and message.
    pub refusal: Option<(String, String)>,
}

/// The door; clones share it.
#[derive(Debug, Clone)]
pub struct Desired {
    certificates: Certificates,
}

// === impl Desired ===

impl Desired {
    /// The door of this house.
    pub fn new(certificates: Certificates) -> Self {
        Self { certificates }
    }

    /// Puts a document before agents, as of the event `generation`. Where the same bytes stand already nothing changes,
    /// unless they were adopted: home knows no report on those, so it asks for one. Once work that is there already stays
    /// as it is.
    pub async fn put(
        &self,
        tx: &mut Tx,
        generation: i64,
        agents: &[AgentId],
        key: &Key,
        document: &Document,
    ) -> Result<()> {
        if document.bytes.len() > muster_proto::MAX_DOCUMENT {
            return Err(Error::TooLarge { limit: muster_proto::MAX_DOCUMENT });
        }
        let digest = hex(&sha256(&document.bytes));
        let now = tx.now();
        sqlx::query(
            "insert into fleet_document (digest, sealed, put_at) values ($1, $2, $3) \
             on conflict (digest) do update set put_at = excluded.put_at",
        )
        .bind(digest.clone())
        .bind(self.certificates.seal(PURPOSE, &document.bytes))
        .bind(now)
        .execute(&mut **tx)
        .await?;
        let epoch = setting::epoch(tx).await?;
        let change = match document.mode {
            Mode::Once => "do nothing",
            Mode::Standing => {
                "do update set generation = excluded.generation, epoch = excluded.epoch, digest = excluded.digest, \
                 doc_version = excluded.doc_version, on_revoke = excluded.on_revoke, store_bytes = excluded.store_bytes, state = 'queued' \
                 where fleet_assignment.digest <> excluded.digest or fleet_assignment.epoch <> excluded.epoch"
            }
        };
        let types = [
            "", "", "", "bigint", "bigint", "", "bigint", "", "", "", "bigint", "", "", "bigint", "bigint", "", "", "",
            "bigint",
        ];
        for piece in agents.chunks(ROWS) {
            let text = format!(
                "insert into fleet_assignment (agent_id, kind, id, generation, epoch, mode, doc_version, digest, \
                 on_interrupt, on_revoke, start_by, state, offered_ledger, offered_epoch, refused_generation, \
                 refused_digest, refused_reason, refused_message, store_bytes) values {} on conflict (agent_id, kind, id) {change}",
                tx.engine().values(&types, piece.len())
            );
            let mut insert = query(text);
            for agent in piece {
                insert = insert
                    .bind(agent.0.clone())
                    .bind(key.kind.clone())
                    .bind(key.id.clone())
                    .bind(generation)
                    .bind(epoch)
                    .bind(document.mode.word())
                    .bind(i64::from(document.version))
                    .bind(digest.clone())
                    .bind(document.on_interrupt.word())
                    .bind(document.on_revoke.word())
                    .bind(document.start_by)
                    .bind("queued")
                    .bind("")
                    .bind(0_i64)
                    .bind(0_i64)
                    .bind("")
                    .bind("")
                    .bind("")
                    .bind(document.store_bytes);
            }
            insert.execute(&mut **tx).await?;
        }
        blobs::grant(tx, agents, key, document, &digest).await?;
        if document.mode == Mode::Once {
            logs::expect(tx, agents, key).await?;
        }
        tx.wake("fleet");
        tx.crash_points(CrashPoint::BeforePutCommit, CrashPoint::AfterPutCommit);
        Ok(())
    }

    /// Withdraws an assignment, as of the event `generation`: a standing one is undone, once work is cancelled. Once work
    /// that was never sent ends here and now.
    pub async fn withdraw(&self, tx: &mut Tx, generation: i64, agent: &AgentId, key: &Key) -> Result<()> {
        let epoch = setting::epoch(tx).await?;
        let row = sqlx::query(
            "update fleet_assignment set generation = $1, epoch = $5, digest = '', \
             state = case when mode = 'standing' then 'queued' else state end \
             where agent_id = $2 and kind = $3 and id = $4 and digest <> '' and state <> 'finished' returning mode, state",
        )
        .bind(generation)
        .bind(agent.0.clone())
        .bind(key.kind.clone())
        .bind(key.id.clone())
        .bind(epoch)
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let (mode, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if mode == "once" && state == "queued" {
            settle(tx, agent, key, Phase::Cancelled, false, "cancelled before it was sent").await?;
        }
        tx.wake("fleet");
        Ok(())
    }

    /// Documents by digest, opened.
    pub async fn documents(&self, conn: &mut Conn, digests: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let mut found = BTreeMap::new();
        for piece in digests.chunks(ROWS) {
            let text = format!(
                "select digest, sealed from fleet_document where digest in ({})",
                Engine::of(conn).each(piece.len())
            );
            let mut select = sqlx::query_as::<_, (String, Vec<u8>)>(sqlx::AssertSqlSafe(text));
            for digest in piece {
                select = select.bind(digest.clone());
            }
            for (digest, sealed) in select.fetch_all(&mut *conn).await? {
                found.insert(digest, self.certificates.unseal(PURPOSE, &sealed)?.into());
            }
        }
        Ok(found)
    }
}

/// Ends once work at home, in place of an outcome that will not come.
pub async fn settle(
    tx: &mut Tx,
    agent: &AgentId,
    key: &Key,
    phase: Phase,
    may_have_run: bool,
    why: &str,
) -> Result<()> {
    let now = tx.now();
    let conditions =
        vec![Condition { kind: "Ended".into(), holds: true, reason: "ByHome".into(), message: why.into() }];
    let conditions = serde_json::to_string(&conditions).map_err(Error::internal)?;
    sqlx::query(
        "insert into fleet_report (agent_id, kind, id, ledger_id, seq, epoch, generation, phase, conditions, result, at, \
         received_at, outcome, may_have_run, attempt) values ($1, $2, $3, '', 0, 0, 0, $4, $5, $6, $7, $7, 1, $8, 0) \
         on conflict (agent_id, kind, id) do update set phase = excluded.phase, conditions = excluded.conditions, \
         at = excluded.at, received_at = excluded.received_at, outcome = 1, may_have_run = excluded.may_have_run \
         where fleet_report.outcome = 0",
    )
    .bind(agent.0.clone())
    .bind(key.kind.clone())
    .bind(key.id.clone())
    .bind(phase.word())
    .bind(conditions)
    .bind(Vec::<u8>::new())
    .bind(now)
    .bind(i64::from(may_have_run))
    .execute(&mut **tx)
    .await?;
    sqlx::query("update fleet_assignment set state = 'finished' where agent_id = $1 and kind = $2 and id = $3")
        .bind(agent.0.clone())
        .bind(key.kind.clone())
        .bind(key.id.clone())
        .execute(&mut **tx)
        .await?;
    tx.wake(topic(&key.kind));
    Ok(())
}

/// Forgets an assignment that is over, with its report and what was stored for it alone. Its log is forgotten apart (`logs::forget`).
pub async fn forget(tx: &mut Tx, agent: &AgentId, key: &Key) -> Result<()> {
    for table in ["fleet_report", "fleet_assignment"] {
        query(format!("delete from {table} where agent_id = $1 and kind = $2 and id = $3"))
            .bind(agent.0.clone())
            .bind(key.kind.clone())
            .bind(key.id.clone())
            .execute(&mut **tx)
            .await?;
    }
    Blobs::forget(tx, &blob_owner(agent, key)).await
}

/// Drops documents that no assignment names any more.
pub async fn drop_orphans(tx: &mut Tx) -> Result<u64> {
    let before = tx.now() - KEEP_ORPHANS;
    let gone = sqlx::query(
        "delete from fleet_document where put_at < $1 \
         and not exists (select 1 from fleet_assignment a where a.digest = fleet_document.digest)",
    )
    .bind(before)
    .execute(&mut **tx)
    .await?;
    Ok(gone.rows_affected())
}

/// Begins a new epoch after home was restored from a backup; gives its number. Standing assignments become part of it, so
/// that what home wants outranks whatever agents were told since the backup. What was adopted stays as it is: home has no
/// document to put in its place. Once work stays too: whether it is sent is decided by what its agent's ledger knows.
pub async fn raise_epoch(tx: &mut Tx) -> Result<i64> {
    let epoch = setting::epoch(tx).await? + 1;
    setting::save(tx, "epoch", &epoch.to_string()).await?;
    sqlx::query(
        "update fleet_assignment set epoch = $1, state = 'queued' where mode = 'standing' and (digest = '' or exists \
         (select 1 from fleet_document d where d.digest = fleet_assignment.digest))",
    )
    .bind(epoch)
    .execute(&mut **tx)
    .await?;
    Ok(epoch)
}

/// Which loops are woken by news of a kind: those of its domain.
pub fn topic(kind: &str) -> &str {
    kind.split('.').next().unwrap_or_default()
}

// === impl OnInterrupt ===

impl OnInterrupt {
    fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Rerun => "rerun",
        }
    }
}

// === impl OnRevoke ===

impl OnRevoke {
    fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Stop => "stop",
        }
    }
}
