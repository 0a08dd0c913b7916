//! The append-only history: who changed what, when. Transitions only, never each report or sample.
//!
//! An event is written in the transaction of its change. Its sequence number is taken from one row, so numbers follow the
//! order of commits and are never reused: they serve as the generations of assignments. Closed ranges are sealed by a
//! hash over the seal before; retention drops whole sealed ranges and keeps their seals.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

use super::db::{Conn, Db, ROWS, Tx, query};
use crate::error::{Error, Result};

/// Ranges are sealed in pieces of at most this many events.
const SEAL_AT_MOST: i64 = 10_000;

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The `muster` command.
    Cli,
    /// The web console.
    Console,
    /// Another program at the REST API.
    Api,
    /// An agent.
    Agent,
    /// The controller by itself.
    Controller,
}

/// Who makes a change, and through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `user/<name>`, `agent/<id>` or `controller`.
    pub name: String,
    /// Where the change came from.
    pub source: Source,
}

/// A change about to be written.
#[derive(Debug, Clone)]
pub struct Change {
    /// Who makes it.
    pub actor: Actor,
    /// Noun and past participle: `staging.created`.
    pub kind: &'static str,
    /// What was changed: `staging/<id>`.
    pub subject: String,
    /// What stood there before, secrets masked.
    pub before: Option<Value>,
    /// What stands there after, secrets masked.
    pub after: Option<Value>,
}

/// A change as it stands in the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Place in the history.
    pub seq: i64,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// `user/<name>`, `agent/<id>` or `controller`.
    pub actor: String,
    /// Where the change came from.
    pub source: Source,
    /// Noun and past participle: `staging.created`.
    pub kind: String,
    /// What was changed: `staging/<id>`.
    pub subject: String,
    /// What stood there before, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What stands there after, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Which events to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only events of this subject or below it: `staging` also finds `staging/x`.
    pub subject: Option<String>,
    /// Only events of this kind or below it: `agent` also finds `agent.enrolled`.
    pub kind: Option<String>,
    /// Only events by this actor.
    pub actor: Option<String>,
    /// Only events after this place.
    pub after: Option<i64>,
    /// Only events before this place.
    pub before: Option<i64>,
}

/// What checking the seals found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Sealed ranges whose hash was computed anew and is right.
    pub checked: i64,
    /// Sealed ranges whose events retention has dropped; their place in the chain is right.
    pub dropped: i64,
    /// The newest sealed event.
    pub sealed_up_to: i64,
    /// The first range that is not as it was sealed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

#[derive(FromRow)]
struct EventRow {
    seq: i64,
    at: i64,
    actor: String,
    source: String,
    kind: String,
    subject: String,
    before_json: Option<String>,
    after_json: Option<String>,
}

#[derive(FromRow)]
struct SealRow {
    first: i64,
    last: i64,
    previous: String,
    hash: String,
    dropped: i64,
}

// === impl Source ===

impl Source {
    /// The word for it in the database and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Console => "console",
            Self::Api => "api",
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }
}

// === impl Actor ===

impl Actor {
    /// The controller itself.
    pub fn controller() -> Self {
        Self { name: "controller".into(), source: Source::Controller }
    }

    /// An agent.
    pub fn agent(id: &impl std::fmt::Display) -> Self {
        Self { name: format!("agent/{id}"), source: Source::Agent }
    }

    /// A change by this actor.
    pub fn change(&self, kind: &'static str, subject: impl Into<String>) -> Change {
        Change { actor: self.clone(), kind, subject: subject.into(), before: None, after: None }
    }
}

// === impl Change ===

impl Change {
    /// With what stood there before.
    pub fn before(mut self, value: impl Serialize) -> Self {
        self.before = serde_json::to_value(value).ok();
        self
    }

    /// With what stands there after.
    pub fn after(mut self, value: impl Serialize) -> Self {
        self.after = serde_json::to_value(value).ok();
        self
    }
}

// === impl Tx ===

impl Tx {
    /// Writes one change and gives its sequence number. Aggregate rows must be locked before.
    pub async fn record(&mut self, change: Change) -> Result<i64> {
        self.record_all(vec![change]).await
    }

    /// Writes changes in their order and gives the number of the last.
    pub async fn record_all(&mut self, changes: Vec<Change>) -> Result<i64> {
        let count = changes.len() as i64;
        let row = sqlx::query("update event_head set seq = seq + $1 where id = 1 returning seq")
            .bind(count)
            .fetch_one(&mut **self)
            .await?;
        let last: i64 = row.try_get(0)?;
        let mut seq = last - count;
        let now = self.now();
        for piece in changes.chunks(ROWS) {
            let types = ["bigint", "bigint", "", "", "", "", "", ""];
            let text = format!(
                "insert into event (seq, at, actor, source, kind, subject, before_json, after_json) values {}",
                self.engine().values(&types, piece.len())
            );
            let mut insert = query(text);
            for change in piece {
                seq += 1;
                insert = insert
                    .bind(seq)
                    .bind(now)
                    .bind(change.actor.name.clone())
                    .bind(change.actor.source.word())
                    .bind(change.kind)
                    .bind(change.subject.clone())
                    .bind(change.before.as_ref().map(Value::to_string))
                    .bind(change.after.as_ref().map(Value::to_string));
            }
            insert.execute(&mut **self).await?;
        }
        self.last_seq = Some(last);
        Ok(last)
    }
}

// === reading ===

/// Lists events, newest first, at most `limit`.
pub async fn list(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<Event>> {
    select(conn, filter, limit, "desc").await
}

/// Lists events after a place, oldest first, at most `limit`: what a follower reads.
pub async fn follow(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<Event>> {
    select(conn, filter, limit, "asc").await
}

async fn select(conn: &mut Conn, filter: &Filter, limit: i64, order: &str) -> Result<Vec<Event>> {
    let text = format!(
        "select seq, at, actor, source, kind, subject, before_json, after_json from event \
         where ($1 = '' or subject = $1 or subject like $1 || '/%') and ($2 = '' or kind = $2 or kind like $2 || '.%') \
         and ($3 = '' or actor = $3) and seq > $4 and seq < $5 order by seq {order} limit $6"
    );
    let rows = sqlx::query_as::<_, EventRow>(sqlx::AssertSqlSafe(text))
        .bind(filter.subject.clone().unwrap_or_default())
        .bind(filter.kind.clone().unwrap_or_default())
        .bind(filter.actor.clone().unwrap_or_default())
        .bind(filter.after.unwrap_or(0))
        .bind(filter.before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Event::try_from).collect()
}

/// The newest sequence number.
pub async fn head(conn: &mut Conn) -> Result<i64> {
    Ok(sqlx::query("select seq from event_head where id = 1").fetch_one(conn).await?.try_get(0)?)
}

// === sealing ===

/// Seals what is not sealed yet. Gives the number of events sealed.
pub async fn seal(db: &Db) -> Result<i64> {
    db.write(|mut tx| async move {
        let head = head(&mut tx).await?;
        let (last, previous) = match last_seal(&mut tx).await? {
            Some(seal) => (seal.last, seal.hash),
            None => (0, String::new()),
        };
        let upto = head.min(last + SEAL_AT_MOST);
        if upto == last {
            return tx.done(0);
        }
        let hash = range_hash(&mut tx, last + 1, upto, &previous).await?;
        let now = tx.now();
        sqlx::query("insert into event_seal (first, last, previous, hash, at, dropped) values ($1, $2, $3, $4, $5, 0)")
            .bind(last + 1)
            .bind(upto)
            .bind(previous)
            .bind(hash)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        tx.done(upto - last)
    })
    .await
}

/// Drops sealed ranges whose newest event is older than `before`. Gives the number of events dropped.
pub async fn drop_old(db: &Db, before: i64) -> Result<u64> {
    db.write(|mut tx| async move {
        let old = sqlx::query_as::<_, SealRow>(
            "select first, last, previous, hash, dropped from event_seal s where dropped = 0 \
             and (select max(at) from event where seq between s.first and s.last) < $1",
        )
        .bind(before)
        .fetch_all(&mut *tx)
        .await?;
        let mut count = 0;
        for seal in old {
            let gone = sqlx::query("delete from event where seq between $1 and $2").bind(seal.first).bind(seal.last);
            count += gone.execute(&mut *tx).await?.rows_affected();
            let mark = sqlx::query("update event_seal set dropped = 1 where first = $1").bind(seal.first);
            mark.execute(&mut *tx).await?;
        }
        tx.done(count)
    })
    .await
}

/// Computes every seal anew and compares.
pub async fn verify(conn: &mut Conn) -> Result<Verified> {
    let seals =
        sqlx::query_as::<_, SealRow>("select first, last, previous, hash, dropped from event_seal order by first")
            .fetch_all(&mut *conn)
            .await?;
    let mut found = Verified { checked: 0, dropped: 0, sealed_up_to: 0, fault: None };
    let mut previous = String::new();
    for seal in seals {
        let right = seal.previous == previous && seal.first == found.sealed_up_to + 1;
        let hash = match seal.dropped {
            0 => range_hash(conn, seal.first, seal.last, &previous).await?,
            _ => seal.hash.clone(),
        };
        if !right || hash != seal.hash {
            found.fault = Some(format!("events {} to {} are not as they were sealed", seal.first, seal.last));
            return Ok(found);
        }
        match seal.dropped {
            0 => found.checked += 1,
            _ => found.dropped += 1,
        }
        found.sealed_up_to = seal.last;
        previous = seal.hash;
    }
    Ok(found)
}

async fn last_seal(conn: &mut Conn) -> Result<Option<SealRow>> {
    let text = "select first, last, previous, hash, dropped from event_seal order by first desc limit 1";
    Ok(sqlx::query_as(text).fetch_optional(conn).await?)
}

/// SHA-256 over the seal before and each event as one line of JSON.
async fn range_hash(conn: &mut Conn, first: i64, last: i64, previous: &str) -> Result<String> {
    let filter = Filter { after: Some(first - 1), before: Some(last + 1), ..Filter::default() };
    let events = select(conn, &filter, last - first + 1, "asc").await?;
    let mut text = String::from(previous);
    for event in &events {
        text.push('\n');
        text.push_str(&serde_json::to_string(event).map_err(Error::internal)?);
    }
    Ok(muster_pki::hex(&muster_pki::sha256(text.as_bytes())))
}

impl TryFrom<EventRow> for Event {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self> {
        let json = |text: Option<String>| text.map(|t| serde_json::from_str(&t)).transpose().map_err(Error::internal);
        Ok(Self {
            seq: row.seq,
            at: row.at,
            actor: row.actor,
            source: serde_json::from_value(Value::String(row.source)).map_err(Error::internal)?,
            kind: row.kind,
            subject: row.subject,
            before: json(row.before_json)?,
            after: json(row.after_json)?,
        })
    }
}
