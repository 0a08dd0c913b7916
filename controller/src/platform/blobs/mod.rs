//! Blobs: immutable bytes named by their SHA-256, for what is larger than a row should be.
//!
//! Small ones lie in their row, larger ones as files in a folder, which replicas share. The file is durable before its row
//! is written, so a row never names what is not there. Each blob is kept for its *owners*, words of whoever needs it; one
//! without any is dropped after a day. What is read was checked against its digest.

mod folder;
mod incoming;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use muster_pki::{hex, sha256};
use sqlx::Row;

use super::db::{Conn, Db, Engine, ROWS, Tx, list, query};
use crate::error::{Error, Result};
use folder::{Folder, Reading};
pub use incoming::Incoming;

/// The largest blob that lies in its row, bytes.
pub const SMALL: usize = 64 * 1024;

/// The most bytes read at a time: as many as a chunk on the wire carries.
pub const PIECE: usize = muster_proto::BLOB_PIECE;

/// How long a blob that nobody needs is kept, milliseconds.
const KEEP_ORPHANS: i64 = 86_400_000;

/// Blobs dropped in one transaction.
const DROPPED: i64 = 500;

/// The blobs of this house; clones share them.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: Arc<Folder>,
}

/// Bytes that are ready to be kept: a large blob is durable, though no row names it yet.
#[derive(Clone)]
pub struct Held {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Of a small one.
    bytes: Option<Bytes>,
}

/// A blob that is read piece by piece.
pub struct Reader {
    /// Bytes in all.
    pub size: i64,
    source: Source,
}

enum Source {
    Memory(Bytes),
    /// None while a piece is being read.
    File(Option<Reading>),
}

/// A blob that a row names cannot be read as what it is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the blob {digest} is damaged: {why}")]
pub struct Damaged {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// What is wrong with it.
    pub why: String,
}

// === impl Blobs ===

impl Blobs {
    /// The blobs in this folder, which is made if it is absent.
    pub fn open(folder: &Path) -> Result<Self> {
        let opened = Folder::open(folder);
        let opened = opened
            .map_err(|e| Error::invalid("blobs", format!("the folder {} cannot be used: {e}", folder.display())))?;
        Ok(Self { folder: opened.into() })
    }

    /// Gets bytes ready to be kept. A small blob has no effect until then.
    pub async fn hold(&self, bytes: Bytes) -> Result<Held> {
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if bytes.len() <= SMALL {
            return Ok(Held { digest: hex(&sha256(&bytes)), size, bytes: Some(bytes) });
        }
        let folder = self.folder.clone();
        blocking(move || {
            let digest = hex(&sha256(&bytes));
            folder.write(&digest, &bytes)?;
            Ok(Held { digest, size, bytes: None })
        })
        .await
    }

    /// Receives a blob piece by piece, from where `sender` stopped the last time.
    pub async fn receive(&self, sender: &str, digest: &str, size: i64) -> Result<Incoming> {
        Incoming::open(self.clone(), sender, digest, size).await
    }

    /// Keeps blobs for an owner.
    pub async fn keep(tx: &mut Tx, held: &[Held], owner: &str) -> Result<()> {
        let held: BTreeMap<_, _> = held.iter().map(|one| (one.digest.as_str(), one)).collect();
        let (held, now): (Vec<_>, _) = (held.into_values().collect(), tx.now());
        for piece in held.chunks(ROWS) {
            let text = format!(
                "insert into platform_blob (digest, size, bytes, stored_at) values {} \
                 on conflict (digest) do update set stored_at = excluded.stored_at",
                tx.engine().values(&["", "bigint", "bytea", "bigint"], piece.len())
            );
            let insert = piece.iter().fold(query(text), |insert, one| {
                insert.bind(one.digest.clone()).bind(one.size).bind(one.bytes.as_ref().map(|b| b.to_vec())).bind(now)
            });
            insert.execute(&mut **tx).await?;
        }
        let digests: Vec<_> = held.iter().map(|one| one.digest.as_str()).collect();
        use_for(tx, &digests, owner).await
    }

    /// Keeps blobs that are there already for another owner too.
    pub async fn keep_also(tx: &mut Tx, digests: &[String], owner: &str) -> Result<()> {
        let digests: BTreeSet<_> = digests.iter().map(String::as_str).collect();
        let (digests, now): (Vec<_>, _) = (digests.into_iter().collect(), tx.now());
        for piece in digests.chunks(ROWS) {
            // The rows are locked thereby: none is dropped before this transaction ends.
            let text = format!(
                "update platform_blob set stored_at = $1 where digest in ({}) returning digest",
                list(piece.len(), 1)
            );
            let update = piece.iter().fold(query(text).bind(now), |q, digest| q.bind((*digest).to_owned()));
            let rows = update.fetch_all(&mut **tx).await?;
            let found = rows.iter().map(|r| r.try_get(0)).collect::<Result<BTreeSet<String>, _>>()?;
            if let Some(missing) = piece.iter().find(|digest| !found.contains(**digest)) {
                return Err(Error::not_found("blob", *missing));
            }
        }
        use_for(tx, &digests, owner).await
    }

    /// What is kept for an owner: digest → size.
    pub async fn use_of(conn: &mut Conn, owner: &str) -> Result<BTreeMap<String, i64>> {
        let text = "select b.digest, b.size from platform_blob_use u join platform_blob b on b.digest = u.digest \
                    where u.owner = $1";
        let rows = sqlx::query_as::<_, (String, i64)>(text).bind(owner).fetch_all(conn).await?;
        Ok(rows.into_iter().collect())
    }

    /// An owner needs nothing any more.
    pub async fn forget(tx: &mut Tx, owner: &str) -> Result<()> {
        sqlx::query("delete from platform_blob_use where owner = $1").bind(owner).execute(&mut **tx).await?;
        Ok(())
    }

    /// Owners whose words begin so need nothing any more.
    pub async fn forget_all(tx: &mut Tx, prefix: &str) -> Result<()> {
        sqlx::query("delete from platform_blob_use where substr(owner, 1, length(cast($1 as text))) = $1")
            .bind(prefix)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// All of a blob; none if it is not there.
    pub async fn read(&self, conn: &mut Conn, digest: &str) -> Result<Option<Bytes>> {
        let mut found = self.read_many(conn, &[digest.to_owned()]).await?;
        Ok(found.remove(digest))
    }

    /// All of each of these blobs that is there.
    pub async fn read_many(&self, conn: &mut Conn, digests: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let mut found = BTreeMap::new();
        for piece in digests.chunks(ROWS) {
            let text = format!(
                "select digest, size, bytes from platform_blob where digest in ({})",
                Engine::of(conn).each(piece.len())
            );
            let select = sqlx::query_as::<_, (String, i64, Option<Vec<u8>>)>(sqlx::AssertSqlSafe(text));
            let select = piece.iter().fold(select, |q, digest| q.bind(digest.clone()));
            for (digest, size, bytes) in select.fetch_all(&mut *conn).await? {
                let mut whole = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
                let mut reader = self.reader_of(&digest, size, bytes, 0).await?;
                while let Some(piece) = reader.next().await? {
                    whole.extend_from_slice(&piece);
                }
                found.insert(digest, whole.into());
            }
        }
        Ok(found)
    }

    /// A blob from an offset on, piece by piece; none if it is not there.
    pub async fn reader(&self, conn: &mut Conn, digest: &str, from: i64) -> Result<Option<Reader>> {
        let found =
            sqlx::query_as::<_, (i64, Option<Vec<u8>>)>("select size, bytes from platform_blob where digest = $1")
                .bind(digest)
                .fetch_optional(conn)
                .await?;
        let Some((size, bytes)) = found else { return Ok(None) };
        self.reader_of(digest, size, bytes, from).await.map(Some)
    }

    async fn reader_of(&self, digest: &str, size: i64, bytes: Option<Vec<u8>>, from: i64) -> Result<Reader> {
        let from = from.clamp(0, size).unsigned_abs();
        let source = match bytes {
            Some(bytes) if hex(&sha256(&bytes)) == digest => {
                Source::Memory(Bytes::from(bytes).slice(usize::try_from(from).unwrap_or_default()..))
            }
            Some(_) => return Err(Error::internal(Damaged::new(digest, "its row holds other bytes"))),
            None => {
                let (folder, digest, size) = (self.folder.clone(), digest.to_owned(), size.unsigned_abs());
                Source::File(Some(
                    blocking(move || Ok(folder.read(&digest, size, from))).await?.map_err(Error::internal)?,
                ))
            }
        };
        Ok(Reader { size, source })
    }

    /// Drops what nobody has needed for a day: the row first, then its file. Files without a row go too.
    pub async fn drop_orphans(&self, db: &Db) -> Result<u64> {
        let before = db.clock().now() - KEEP_ORPHANS;
        let young = UNIX_EPOCH + Duration::from_millis(before.max(0).unsigned_abs());
        let mut dropped = 0;
        loop {
            let gone = db
                .write(|mut tx| async move {
                    // Asked of the row itself once more, in case somebody has wanted it kept meanwhile.
                    let rows = sqlx::query(
                        "delete from platform_blob where stored_at < $1 and digest in (select digest from platform_blob \
                         where stored_at < $1 and not exists (select 1 from platform_blob_use u \
                         where u.digest = platform_blob.digest) order by stored_at limit $2) returning digest",
                    )
                    .bind(before)
                    .bind(DROPPED)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.done(rows.iter().map(|r| r.try_get(0)).collect::<Result<Vec<String>, _>>()?)
                })
                .await?;
            dropped += gone.len() as u64;
            if gone.is_empty() {
                break;
            }
            self.discard(gone, young).await?;
        }
        let folder = self.folder.clone();
        let old = blocking(move || folder.old(young)).await?;
        for piece in old.chunks(ROWS) {
            let mut conn = db.read().await?;
            let each = db.engine().each(piece.len());
            let text = format!("select digest from platform_blob where digest in ({each})");
            let select = piece.iter().fold(query(text), |q, digest| q.bind(digest.clone()));
            let rows = select.fetch_all(&mut *conn).await?;
            let known = rows.iter().map(|r| r.try_get(0)).collect::<Result<BTreeSet<String>, _>>()?;
            self.discard(piece.iter().filter(|digest| !known.contains(*digest)).cloned().collect(), young).await?;
        }
        Ok(dropped)
    }

    async fn discard(&self, digests: Vec<String>, before: std::time::SystemTime) -> Result<()> {
        let folder = self.folder.clone();
        blocking(move || digests.iter().try_for_each(|digest| folder.discard(digest, before))).await
    }
}

/// Whether a text is a digest as blobs are named by it: 64 characters of 0-9 and a-f.
pub fn is_digest(text: &str) -> bool {
    folder::is_digest(text)
}

async fn use_for(tx: &mut Tx, digests: &[&str], owner: &str) -> Result<()> {
    for piece in digests.chunks(ROWS) {
        let values = tx.engine().values(&["", ""], piece.len());
        let text = format!(
            "insert into platform_blob_use (digest, owner) values {values} on conflict (digest, owner) do nothing"
        );
        let insert = piece.iter().fold(query(text), |q, digest| q.bind((*digest).to_owned()).bind(owner.to_owned()));
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

// === impl Reader ===

impl Reader {
    /// The next piece, at most [`PIECE`] bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match &mut self.source {
            Source::Memory(rest) => Ok((!rest.is_empty()).then(|| rest.split_to(rest.len().min(PIECE)))),
            Source::File(slot) => {
                let Some(mut reading) = slot.take() else { return Ok(None) };
                let (reading, piece) = blocking(move || {
                    let piece = reading.next();
                    Ok((reading, piece))
                })
                .await?;
                let piece = piece.map_err(Error::internal)?;
                *slot = Some(reading);
                Ok(piece)
            }
        }
    }
}

impl Damaged {
    fn new(digest: &str, why: impl Into<String>) -> Self {
        Self { digest: digest.to_owned(), why: why.into() }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Runs what waits for a disk beside the runtime.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(act).await.map_err(Error::internal)?;
    done.map_err(|e| Error::internal(anyhow::Error::from(e).context("the folder of blobs cannot be used")))
}

#[cfg(test)]
mod tests;
