//! All SQL of certificates.

use std::collections::BTreeSet;

use sqlx::FromRow;

use crate::{
    error::Result,
    platform::db::{Conn, Engine, ROWS, list, query},
};

/// An authority as stored.
#[derive(Debug, Clone, FromRow)]
pub struct AuthorityRow {
    pub id: String,
    /// What it serves: `house`, `backbone/<id>` or `network/<id>`.
    pub line: String,
    pub role: String,
    pub parent_id: Option<String>,
    pub stage: String,
    pub since: i64,
    pub der: Vec<u8>,
    pub subject_key: String,
    pub sealed_key: Option<Vec<u8>>,
    pub not_before: i64,
    pub not_after: i64,
    pub generation: i64,
}

/// A leaf as stored, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LeafRow {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The authority that issued it.
    pub authority_id: String,
    /// `agent/<id>`, `listener/<replica>`, `site/<id>/<profile>` or `member/<id>/<profile>`.
    pub subject: String,
    /// SHA-256 of its public key, hexadecimal.
    pub key_hash: String,
    /// Start of validity, milliseconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, milliseconds since the Unix epoch.
    pub not_after: i64,
    /// When it was issued.
    pub issued_at: i64,
    /// When it was first used.
    pub used_at: Option<i64>,
    /// When a newer one of its subject was first used.
    pub superseded_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

const AUTHORITY: &str = "id, line, role, parent_id, stage, since, der, subject_key, sealed_key, not_before, not_after, \
                         generation";

/// The authorities of a line, oldest generation first.
pub async fn authorities(conn: &mut Conn, line: &str) -> Result<Vec<AuthorityRow>> {
    let text = format!("select {AUTHORITY} from certificate_authority where line = $1 order by generation, id");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(line).fetch_all(conn).await?)
}

/// The authorities of every line, oldest generation first.
pub async fn all_authorities(conn: &mut Conn) -> Result<Vec<AuthorityRow>> {
    let text = format!("select {AUTHORITY} from certificate_authority order by line, generation, id");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).fetch_all(conn).await?)
}

/// What these lines trust: (line, DER) of each authority that is not retired, oldest first.
pub async fn trusted(conn: &mut Conn, lines: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for piece in lines.chunks(ROWS) {
        let text = format!(
            "select line, der from certificate_authority where stage <> 'retired' and role = 'root' and line in ({}) \
             order by line, generation",
            Engine::of(conn).each(piece.len())
        );
        let select = piece.iter().fold(sqlx::query_as(sqlx::AssertSqlSafe(text)), |q, line| q.bind(line.clone()));
        found.extend(select.fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

/// The lines beside the house's whose active authority ends before a time.
pub async fn lines_that_end(conn: &mut Conn, before: i64) -> Result<Vec<String>> {
    let text = "select line from certificate_authority where stage = 'active' and line <> 'house' and not_after < $1 \
                order by line";
    Ok(sqlx::query_scalar(text).bind(before).fetch_all(conn).await?)
}

/// Which of these serial numbers the newest authority of a line issued.
pub async fn issued_by_newest(conn: &mut Conn, line: &str, serials: &[String]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for piece in serials.chunks(ROWS) {
        let text = format!(
            "select l.serial from certificate_leaf l join certificate_authority a on a.id = l.authority_id \
             where a.line = $1 and a.generation = (select max(generation) from certificate_authority where line = $1) \
             and l.serial in ({})",
            list(piece.len(), 1)
        );
        let select = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(text)).bind(line);
        found.extend(piece.iter().fold(select, |q, serial| q.bind(serial.clone())).fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

pub async fn insert_authority(conn: &mut Conn, row: &AuthorityRow) -> Result<()> {
    sqlx::query(
        "insert into certificate_authority (id, line, role, parent_id, stage, since, der, subject_key, sealed_key, \
         not_before, not_after, generation) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(row.id.clone())
    .bind(row.line.clone())
    .bind(row.role.clone())
    .bind(row.parent_id.clone())
    .bind(row.stage.clone())
    .bind(row.since)
    .bind(row.der.clone())
    .bind(row.subject_key.clone())
    .bind(row.sealed_key.clone())
    .bind(row.not_before)
    .bind(row.not_after)
    .bind(row.generation)
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves an authority on. False: it was not at `from` any more.
pub async fn save_stage(conn: &mut Conn, id: &str, from: &str, to: &str, now: i64) -> Result<bool> {
    let moved = sqlx::query("update certificate_authority set stage = $1, since = $2 where id = $3 and stage = $4")
        .bind(to)
        .bind(now)
        .bind(id)
        .bind(from)
        .execute(conn)
        .await?;
    Ok(moved.rows_affected() == 1)
}

pub async fn insert_leaf(conn: &mut Conn, row: &LeafRow, der: &[u8]) -> Result<()> {
    sqlx::query(
        "insert into certificate_leaf (serial, authority_id, subject, key_hash, not_before, not_after, issued_at, der) \
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(row.serial.clone())
    .bind(row.authority_id.clone())
    .bind(row.subject.clone())
    .bind(row.key_hash.clone())
    .bind(row.not_before)
    .bind(row.not_after)
    .bind(row.issued_at)
    .bind(der.to_vec())
    .execute(conn)
    .await?;
    Ok(())
}

const LEAF: &str = "serial, authority_id, subject, key_hash, not_before, not_after, issued_at, used_at, superseded_at, \
                    revoked_at";

/// Leaves of a subject, newest first.
pub async fn leaves(conn: &mut Conn, subject: &str, limit: i64) -> Result<Vec<LeafRow>> {
    let text =
        format!("select {LEAF} from certificate_leaf where subject = $1 order by issued_at desc, serial limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(subject).bind(limit).fetch_all(conn).await?)
}

/// The leaf that a key has already under a subject, DER, if it is in good standing and lives until after `now`.
pub async fn leaf_of_key(
    conn: &mut Conn,
    subject: &str,
    key_hash: &str,
    now: i64,
) -> Result<Option<(String, Vec<u8>)>> {
    let text = "select authority_id, der from certificate_leaf where subject = $1 and key_hash = $2 and not_after > $3 \
                and revoked_at is null order by issued_at desc limit 1";
    Ok(sqlx::query_as(text).bind(subject).bind(key_hash).bind(now).fetch_optional(conn).await?)
}

/// Leaves in the order of their serial numbers, after one; of a subject, or of those below it, unless that is empty.
pub async fn leaf_page(conn: &mut Conn, subject: &str, after: &str, limit: i64) -> Result<Vec<LeafRow>> {
    let text = format!(
        "select {LEAF} from certificate_leaf where ($1 = '' or subject = $1 or subject like $1 || '/%') and serial > $2 order by serial limit $3"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(subject).bind(after).bind(limit).fetch_all(conn).await?)
}

/// The earliest end of what is in use, milliseconds since the Unix epoch: (kind, end).
pub async fn ends(conn: &mut Conn, now: i64) -> Result<Vec<(String, i64)>> {
    let text = "select role, min(not_after) from certificate_authority where stage = 'active' group by role union all \
                select 'agent', min(not_after) from certificate_leaf where subject like 'agent/%' and not_after > $1 \
                and superseded_at is null and revoked_at is null having count(*) > 0 union all \
                select 'listener', max(not_after) from certificate_leaf where subject like 'listener/%' having count(*) > 0";
    Ok(sqlx::query_as(text).bind(now).fetch_all(conn).await?)
}

/// Marks leaves as used for the first time, and those issued before them to the same subjects as superseded.
pub async fn save_used(conn: &mut Conn, serials: &[String], now: i64) -> Result<()> {
    let mark = format!(
        "update certificate_leaf set used_at = $1 where used_at is null and serial in ({})",
        list(serials.len(), 1)
    );
    let supersede = format!(
        "update certificate_leaf set superseded_at = $1 where superseded_at is null and exists (select 1 from \
         certificate_leaf newer where newer.serial in ({}) and newer.subject = certificate_leaf.subject \
         and newer.issued_at > certificate_leaf.issued_at)",
        list(serials.len(), 1)
    );
    for text in [mark, supersede] {
        let mut update = query(text).bind(now);
        for serial in serials {
            update = update.bind(serial.clone());
        }
        update.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Revokes every leaf of a subject.
pub async fn save_revoked(conn: &mut Conn, subject: &str, now: i64) -> Result<()> {
    sqlx::query("update certificate_leaf set revoked_at = $1 where subject = $2 and revoked_at is null")
        .bind(now)
        .bind(subject)
        .execute(conn)
        .await?;
    Ok(())
}

/// Serial numbers revoked and not yet over, with when.
pub async fn revoked(conn: &mut Conn, now: i64) -> Result<Vec<(String, i64)>> {
    let text = "select serial, revoked_at from certificate_leaf where revoked_at is not null and not_after > $1 order by serial";
    Ok(sqlx::query_as(text).bind(now).fetch_all(conn).await?)
}

/// Forgets leaves that ended before `before`.
pub async fn delete_ended(conn: &mut Conn, before: i64) -> Result<u64> {
    let gone = sqlx::query("delete from certificate_leaf where not_after < $1").bind(before).execute(conn).await?;
    Ok(gone.rows_affected())
}

/// Sealed ticket keys, newest first.
pub async fn ticket_keys(conn: &mut Conn) -> Result<Vec<(Vec<u8>, i64)>> {
    let text = "select sealed, at from certificate_ticket_key order by at desc, id desc limit 2";
    Ok(sqlx::query_as(text).fetch_all(conn).await?)
}

/// Adds a ticket key and forgets all but the newest two.
pub async fn insert_ticket_key(conn: &mut Conn, id: &str, sealed: &[u8], now: i64) -> Result<()> {
    sqlx::query("insert into certificate_ticket_key (id, sealed, at) values ($1, $2, $3)")
        .bind(id)
        .bind(sealed.to_vec())
        .bind(now)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "delete from certificate_ticket_key where id not in (select id from certificate_ticket_key order by at desc, id desc limit 2)",
    )
    .execute(conn)
    .await?;
    Ok(())
}
