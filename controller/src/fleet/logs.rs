//! Output of once work: pieces by offset. What is there already is ignored, so a repeated piece is harmless.
//!
//! Of one stream 10 MiB are kept. Beyond that the head stays and the newest pieces take the place of older ones: what a
//! person looks for is at the start and at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

use super::model::{AgentId, Key};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, Engine, ROWS, Tx, query},
    web::{Page, Paging, paging::cursor},
};

/// Bytes kept of the beginning of a stream that is too long; as many are kept of its end.
const HEAD: i64 = muster_proto::MAX_LOG as i64 / 2;

/// Bytes of output in one page, or a piece more.
const PAGE_BYTES: usize = 1 << 20;

/// Pieces read at once: each has at most 64 KiB.
pub const ROUND: i64 = 16;

/// Pieces in the tail of an output at most.
const TAIL_PIECES: i64 = 1000;

/// What names one stream of output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogKey {
    /// The once work.
    pub key: Key,
    /// Its attempt.
    pub attempt: i64,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
}

/// A run of output, or of output that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Piece {
    /// Which attempt, from 1.
    pub attempt: i64,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Where it begins, counted over everything the stream produced.
    pub begins: i64,
    /// Where it ends.
    pub ends: i64,
    /// The output as text, with what is not UTF-8 replaced; none where it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When home had it, milliseconds since the Unix epoch.
    pub at: i64,
}

/// What of a piece is to be stored, given where the stored output ends: (begins, skipped bytes of data, gap to mark).
/// None: nothing is new. A piece without bytes is nothing, wherever it lies, and so is one beyond all numbers.
pub fn beyond(stored: i64, offset: i64, length: i64) -> Option<(i64, i64, bool)> {
    let ends = offset.checked_add(length)?;
    (ends > stored.max(offset)).then(|| (offset.max(stored), (stored - offset).max(0), offset > stored))
}

/// Notes that these agents may send output of this once work. That outlives the assignment: output comes after outcomes.
pub async fn expect(conn: &mut Conn, agents: &[AgentId], key: &Key) -> Result<()> {
    for piece in agents.chunks(ROWS) {
        let values = Engine::of(conn).values(&["", "", ""], piece.len());
        let mut insert =
            query(format!("insert into fleet_output (agent_id, kind, id) values {values} on conflict do nothing"));
        for agent in piece {
            insert = insert.bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone());
        }
        insert.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Whether an agent may: nobody writes into another's output, or of what nobody asked for.
pub async fn is_expected(conn: &mut Conn, agent: &AgentId, key: &Key) -> Result<bool> {
    let select = "select count(*) from fleet_output where agent_id = $1 and kind = $2 and id = $3";
    let select = sqlx::query(select).bind(agent.0.clone()).bind(key.kind.clone()).bind(key.id.clone());
    Ok(select.fetch_one(conn).await?.try_get::<i64, _>(0)? > 0)
}

/// Adds a piece and gives where the stored output ends after it.
pub async fn append(tx: &mut Tx, log: &LogKey, offset: i64, data: &[u8]) -> Result<i64> {
    let stored: i64 = sqlx::query(
        "select coalesce(max(ends), 0) from fleet_log where kind = $1 and id = $2 and attempt = $3 and stream = $4",
    )
    .bind(log.key.kind.clone())
    .bind(log.key.id.clone())
    .bind(log.attempt)
    .bind(log.stream)
    .fetch_one(&mut **tx)
    .await?
    .try_get(0)?;
    let Some((begins, skip, gap)) = beyond(stored, offset, data.len() as i64) else { return Ok(stored) };
    if gap {
        let now = tx.now();
        insert(tx, log, (stored, begins), None, now).await?;
    }
    let fresh = &data[usize::try_from(skip).unwrap_or_default()..];
    let ends = begins + fresh.len() as i64;
    let now = tx.now();
    insert(tx, log, (begins, ends), Some(fresh), now).await?;
    if ends > 2 * HEAD {
        drop_middle(tx, log, ends - HEAD).await?;
    }
    Ok(ends)
}

async fn insert(tx: &mut Tx, log: &LogKey, place: (i64, i64), data: Option<&[u8]>, at: i64) -> Result<()> {
    sqlx::query(
        "insert into fleet_log (kind, id, attempt, stream, begins, ends, data, at) values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(log.key.kind.clone())
    .bind(log.key.id.clone())
    .bind(log.attempt)
    .bind(log.stream)
    .bind(place.0)
    .bind(place.1)
    .bind(data.map(<[u8]>::to_vec))
    .bind(at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Replaces what lies between the head and `tail` by one marked gap.
async fn drop_middle(tx: &mut Tx, log: &LogKey, tail: i64) -> Result<()> {
    let which = "kind = $1 and id = $2 and attempt = $3 and stream = $4 and begins >= $5 and ends <= $6";
    let bounds = query(format!("select min(begins), max(ends), min(at) from fleet_log where {which}"))
        .bind(log.key.kind.clone())
        .bind(log.key.id.clone())
        .bind(log.attempt)
        .bind(log.stream)
        .bind(HEAD)
        .bind(tail)
        .fetch_one(&mut **tx)
        .await?;
    let (Some(from), Some(to)) = (bounds.try_get::<Option<i64>, _>(0)?, bounds.try_get::<Option<i64>, _>(1)?) else {
        return Ok(());
    };
    let at: Option<i64> = bounds.try_get(2)?;
    query(format!("delete from fleet_log where {which}"))
        .bind(log.key.kind.clone())
        .bind(log.key.id.clone())
        .bind(log.attempt)
        .bind(log.stream)
        .bind(HEAD)
        .bind(tail)
        .execute(&mut **tx)
        .await?;
    // In the place, and at the time, of what it stands for: pieces are read in the order they came.
    insert(tx, log, (from, to), None, at.unwrap_or_default()).await
}

/// A piece as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Raw {
    attempt: i64,
    stream: String,
    begins: i64,
    ends: i64,
    /// Its bytes; none where they were dropped.
    pub data: Option<Vec<u8>>,
    at: i64,
}

/// A place in the output, in the order it came: reading goes on with what follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    attempt: i64,
    at: i64,
    stream: String,
    begins: i64,
    /// What the pieces before it left of characters that were cut in two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cut: Vec<Cut>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    attempt: i64,
    stream: String,
    ends: i64,
    bytes: Vec<u8>,
}

/// The end of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Its pieces, in the order they came.
    pub pieces: Vec<Piece>,
    /// Something came before them.
    pub is_cut: bool,
}

/// Turns pieces into text. A character that was cut in two by the end of a piece is put together again.
#[derive(Debug, Default)]
pub struct Decoder {
    cut: BTreeMap<(i64, String), (i64, Vec<u8>)>,
    seen: BTreeMap<(i64, String), i64>,
}

// === impl Decoder ===

impl Decoder {
    /// One that goes on at a place.
    fn at(place: &Place) -> Self {
        let cut = |c: &Cut| ((c.attempt, c.stream.clone()), (c.ends, c.bytes.clone()));
        Self { cut: place.cut.iter().map(cut).collect(), seen: BTreeMap::new() }
    }

    fn into_cut(self) -> Vec<Cut> {
        let cut = |((attempt, stream), (ends, bytes))| Cut { attempt, stream, ends, bytes };
        self.cut.into_iter().map(cut).collect()
    }

    /// The text of a piece; none when it was decoded before.
    pub fn decode(&mut self, raw: Raw) -> Option<Piece> {
        let stream = (raw.attempt, raw.stream.clone());
        let seen = self.seen.entry(stream.clone()).or_default();
        if raw.ends <= *seen {
            return None;
        }
        *seen = raw.ends;
        let carried = self.cut.remove(&stream).filter(|(ends, _)| *ends == raw.begins);
        let text = raw.data.map(|data| {
            let mut bytes = carried.map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.extend(data);
            let whole = whole_characters(&bytes);
            let rest = bytes.split_off(whole);
            if !rest.is_empty() {
                self.cut.insert(stream, (raw.ends, rest));
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let Raw { attempt, stream, begins, ends, at, .. } = raw;
        Some(Piece { attempt, stream, begins, ends, text, at })
    }

    /// What is left of characters whose second part never came, as text.
    pub fn rest(self) -> Vec<Piece> {
        let piece = |((attempt, stream), (ends, bytes)): ((i64, String), (i64, Vec<u8>))| Piece {
            attempt,
            stream,
            begins: ends - bytes.len() as i64,
            ends,
            text: Some(String::from_utf8_lossy(&bytes).into_owned()),
            at: 0,
        };
        self.cut.into_iter().map(piece).collect()
    }
}

/// How many bytes there are before a character that the end cuts in two.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    // Leading bytes of two to four; what UTF-8 does not know is not waited for (RFC 3629).
    let begins = |n: &usize| (0xc2..=0xf4).contains(&bytes[*n]);
    let Some(last) = (tail..bytes.len()).rev().find(begins) else { return bytes.len() };
    let length = match bytes[last] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    if last + length > bytes.len() { last } else { bytes.len() }
}

/// Output of once work after a place, in the order it came. `stream` is `stdout`, `stderr`, or empty for both.
pub async fn read(conn: &mut Conn, key: &Key, stream: &str, after: &Place, limit: i64) -> Result<Vec<Raw>> {
    let select = sqlx::query_as::<_, Raw>(
        "select attempt, stream, begins, ends, data, at from fleet_log where kind = $1 and id = $2 \
         and (attempt, at, stream, begins) > ($3, $4, $5, $6) and ($7 = '' or stream = $7) \
         order by attempt, at, stream, begins limit $8",
    );
    let select = select.bind(key.kind.clone()).bind(key.id.clone()).bind(after.attempt).bind(after.at);
    let select = select.bind(after.stream.clone()).bind(after.begins).bind(stream.to_owned()).bind(limit);
    Ok(select.fetch_all(conn).await?)
}

/// A page of the output as text: as many pieces as are asked for, unless they are large.
pub async fn page(conn: &mut Conn, key: &Key, stream: &str, paging: &Paging) -> Result<Page<Piece>> {
    let place = if paging.after.is_empty() { Ok(Place::default()) } else { serde_json::from_str(&paging.after) };
    let mut place = place.map_err(|_| Error::invalid("cursor", "give the `next` of the page before, as it was"))?;
    let mut decoder = Decoder::at(&place);
    let (mut items, mut size) = (Vec::new(), 0);
    loop {
        let rows = read(conn, key, stream, &place, ROUND).await?;
        if rows.is_empty() {
            items.extend(decoder.rest());
            return Ok(Page { items, next: None });
        }
        for raw in rows {
            if items.len() as i64 >= paging.limit || size >= PAGE_BYTES {
                place.cut = decoder.into_cut();
                let next = serde_json::to_string(&place).map_err(Error::internal)?;
                return Ok(Page { items, next: Some(cursor(&next)) });
            }
            place = raw.place();
            size += raw.data.as_ref().map_or(0, Vec::len);
            items.extend(decoder.decode(raw));
        }
    }
}

/// The place from which on the output has `bytes` bytes, or a piece more. None: it has no more than these.
pub async fn place_of_tail(conn: &mut Conn, key: &Key, stream: &str, bytes: i64) -> Result<Option<Place>> {
    let select = sqlx::query_as::<_, (i64, String, i64, i64, i64)>(
        "select attempt, stream, begins, at, case when data is null then 0 else ends - begins end from fleet_log \
         where kind = $1 and id = $2 and ($3 = '' or stream = $3) \
         order by attempt desc, at desc, stream desc, begins desc limit $4",
    );
    let select = select.bind(key.kind.clone()).bind(key.id.clone()).bind(stream.to_owned()).bind(TAIL_PIECES);
    let mut size = 0;
    for (n, (attempt, stream, begins, at, length)) in select.fetch_all(conn).await?.into_iter().enumerate() {
        if size >= bytes || n as i64 + 1 == TAIL_PIECES {
            return Ok(Some(Place { attempt, at, stream, begins, cut: Vec::new() }));
        }
        size += length;
    }
    Ok(None)
}

/// The end of the output: `bytes` bytes of it, or a piece more.
pub async fn tail(conn: &mut Conn, key: &Key, stream: &str, bytes: i64) -> Result<Tail> {
    let place = place_of_tail(conn, key, stream, bytes).await?;
    let is_cut = place.is_some();
    let raw = read(conn, key, stream, &place.unwrap_or_default(), TAIL_PIECES).await?;
    let mut decoder = Decoder::default();
    let mut pieces: Vec<_> = raw.into_iter().filter_map(|r| decoder.decode(r)).collect();
    pieces.extend(decoder.rest());
    Ok(Tail { pieces, is_cut })
}

// === impl Raw ===

impl Raw {
    /// Where it stands.
    pub fn place(&self) -> Place {
        let Self { attempt, at, begins, .. } = *self;
        Place { attempt, at, stream: self.stream.clone(), begins, cut: Vec::new() }
    }

    /// Its bytes as they were; where they were dropped, a line that says so.
    pub fn into_bytes(self) -> Vec<u8> {
        let gap = || format!("\n[{} bytes of {} were dropped here]\n", self.ends - self.begins, self.stream);
        self.data.unwrap_or_else(|| gap().into_bytes())
    }
}

// === impl Place ===

impl Place {
    /// Before everything that came in the same millisecond: more of it may still be stored.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { attempt: self.attempt, at: self.at, ..Self::default() }
    }
}

impl Piece {
    /// Whether it went to standard error.
    pub fn is_error(&self) -> bool {
        self.stream == "stderr"
    }

    /// What was dropped, in words.
    pub fn gap(&self) -> String {
        format!("… {} bytes were dropped here …", self.ends - self.begins)
    }
}

/// Forgets the output of once work; what still comes of it is not kept.
pub async fn forget(conn: &mut Conn, key: &Key) -> Result<()> {
    for table in ["fleet_log", "fleet_output"] {
        let delete = query(format!("delete from {table} where kind = $1 and id = $2"));
        delete.bind(key.kind.clone()).bind(key.id.clone()).execute(&mut *conn).await?;
    }
    Ok(())
}
